//! CSV to Arrow batches on one thread: ETLRS and the crate arrow-csv read the same file, which the system holds in memory,
//! with the same schema, size of batches and size of reads.
#![allow(clippy::unwrap_used, missing_docs, reason = "a benchmark that fails ends; criterion's macros have no docs")]

use std::fs::File;
use std::hint::black_box;
use std::io::BufReader;
use std::path::Path;
use std::time::Duration;

use arrow_array::RecordBatch;
use arrow_schema::SchemaRef;
use criterion::{Criterion, Throughput};
use etlrs_bench::{
    BATCH_ROWS, Kind, READ_SIZE, block_on, context, criterion_folder, csv, folder, for_each, print_table, same_rows,
    schema,
};
use etlrs_core::{ColumnTypes, Extractor, ScanRequest};
use etlrs_csv::{CsvExtractor, CsvOptions};

const BYTES: usize = 8 << 20;

fn ours(path: &Path, schema: &SchemaRef, mut take: impl FnMut(RecordBatch)) {
    let types = schema.fields().iter().map(|field| (field.name().clone(), field.data_type().clone()));
    let options = CsvOptions::default().with_infer(false).with_types(ColumnTypes(types.collect()));
    let cx = context();
    block_on(async {
        // As the engine asks: the program does it no other way.
        let request = ScanRequest::all().guess(true);
        let scan = CsvExtractor::new(path).with_options(options).scan(&cx, &request).await.unwrap();
        for partition in scan.partitions() {
            for_each(scan.read(&cx, partition).unwrap(), &mut take).await.unwrap();
        }
    });
}

fn theirs(path: &Path, schema: &SchemaRef, mut take: impl FnMut(RecordBatch)) {
    let file = BufReader::with_capacity(READ_SIZE, File::open(path).unwrap());
    let reader = arrow_csv::ReaderBuilder::new(schema.clone()).with_header(true).with_batch_size(BATCH_ROWS);
    for batch in reader.build_buffered(file).unwrap() {
        take(batch.unwrap());
    }
}

fn main() {
    let folder = folder().unwrap();
    let mut criterion = Criterion::default()
        .output_directory(&criterion_folder())
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
        .sample_size(20)
        .configure_from_args();
    let mut groups = Vec::new();
    for kind in Kind::ALL {
        let (path, schema) = (folder.path().join(kind.name()).with_extension("csv"), schema(kind));
        let text = csv(kind, BYTES);
        std::fs::write(&path, &text).unwrap();
        let (mut our, mut their) = (Vec::new(), Vec::new());
        ours(&path, &schema, |batch| our.push(batch));
        theirs(&path, &schema, |batch| their.push(batch));
        assert!(same_rows(&our, &their), "{} is not read as the same rows", kind.name());
        drop((our, their));

        let name = format!("csv_read_{}", kind.name());
        let mut group = criterion.benchmark_group(&name);
        group.throughput(Throughput::Bytes(text.len() as u64));
        group.bench_function("etlrs", |bencher| bencher.iter(|| ours(&path, &schema, |batch| drop(black_box(batch)))));
        group.bench_function("arrow-csv", |bencher| {
            bencher.iter(|| theirs(&path, &schema, |batch| drop(black_box(batch))));
        });
        group.finish();
        groups.push(name);
        std::fs::remove_file(&path).unwrap();
    }
    criterion.final_summary();
    print_table(&groups, "arrow-csv");
}
