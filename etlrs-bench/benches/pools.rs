//! What pools save: records and buffers that are used again, beside new ones.
#![allow(clippy::unwrap_used, missing_docs, reason = "a benchmark that fails ends; criterion's macros have no docs")]

use std::hint::black_box;

use arrow_array::RecordBatch;
use criterion::Throughput;
use etlrs_bench::{Kind, SIZES, criterion, schema};
use etlrs_core::{OwnedRecord, RecordBatchBuilder, SchemaRef};
use etlrs_engine::RecordPool;
use object_pool::Pool;

fn fill(record: &mut OwnedRecord, row: usize) {
    for column in 0..4 {
        record.set(column, (row + column) as i64).unwrap();
    }
}

/// `rows` records that `lend` gives to the builder, as a batch.
fn build(schema: &SchemaRef, rows: usize, mut lend: impl FnMut(usize, &mut RecordBatchBuilder)) -> RecordBatch {
    let mut builder = RecordBatchBuilder::new(schema.clone()).unwrap();
    (0..rows).for_each(|row| lend(row, &mut builder));
    builder.finish().unwrap()
}

fn new_records(schema: &SchemaRef, rows: usize) -> RecordBatch {
    build(schema, rows, |row, builder| {
        let mut record = OwnedRecord::new(schema.clone());
        fill(&mut record, row);
        builder.push(record).unwrap();
    })
}

fn pooled_records(schema: &SchemaRef, rows: usize) -> RecordBatch {
    let pool = RecordPool::new(schema.clone(), 1);
    build(schema, rows, |row, builder| {
        let mut record = pool.record();
        fill(&mut record, row);
        builder.push(record).unwrap();
    })
}

fn one_record(schema: &SchemaRef, rows: usize) -> RecordBatch {
    let mut record = OwnedRecord::new(schema.clone());
    build(schema, rows, |row, builder| {
        record.clear();
        fill(&mut record, row);
        builder.push(&record).unwrap();
    })
}

fn main() {
    let mut criterion = criterion();
    let schema = schema(Kind::SmallInt);
    for rows in SIZES {
        let expected = new_records(&schema, rows);
        assert_eq!(pooled_records(&schema, rows), expected);
        assert_eq!(one_record(&schema, rows), expected);
        let mut group = criterion.benchmark_group("pools_records");
        group.throughput(Throughput::Elements(rows as u64));
        group.bench_function(format!("new/{rows}"), |bencher| bencher.iter(|| new_records(&schema, rows)));
        group.bench_function(format!("pooled/{rows}"), |bencher| bencher.iter(|| pooled_records(&schema, rows)));
        group.bench_function(format!("one/{rows}"), |bencher| bencher.iter(|| one_record(&schema, rows)));
        group.finish();
    }
    // A buffer is taken, each of its pages is written to, and it is let go.
    let touch = |buffer: &mut Vec<u8>| buffer.iter_mut().step_by(4096).for_each(|byte| *byte = black_box(1));
    for bytes in [64 << 10, 1 << 20, 16 << 20] {
        let pool: Pool<Vec<u8>> = Pool::new(1, || vec![0; bytes]);
        let mut group = criterion.benchmark_group("pools_buffers");
        group.throughput(Throughput::Bytes(bytes as u64));
        group.bench_function(format!("new/{bytes}"), |bencher| {
            bencher.iter(|| {
                let mut buffer = vec![0; bytes];
                touch(&mut buffer);
            });
        });
        group.bench_function(format!("pooled/{bytes}"), |bencher| {
            bencher.iter(|| {
                let mut buffer = pool.pull(|| vec![0; bytes]);
                // As a reader needs it: cleared.
                buffer.clear();
                buffer.resize(bytes, 0);
                touch(&mut buffer);
            });
        });
        group.finish();
    }
    criterion.final_summary();
}
