//! Parquet on one thread: batches to a file and back, by ETLRS and by the crate parquet alone.
#![allow(clippy::unwrap_used, missing_docs, reason = "a benchmark that fails ends; criterion's macros have no docs")]

use std::fs::File;
use std::hint::black_box;
use std::path::Path;
use std::time::Duration;

use arrow_array::RecordBatch;
use arrow_schema::SchemaRef;
use criterion::{Criterion, Throughput};
use etlrs_bench::{
    BATCH_ROWS, Kind, block_on, context, criterion_folder, csv, folder, for_each, print_table, same_rows, schema,
};
use etlrs_core::{Extractor, LoadMode, LoadPlan, Loader, Partition, ScanRequest};
use etlrs_parquet::{ParquetExtractor, ParquetLoader};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::basic::Compression;
use parquet::file::properties::WriterProperties;

/// Of the CSV text that the rows are made of.
const BYTES: usize = 16 << 20;
const KINDS: [Kind; 6] =
    [Kind::SmallInt, Kind::LargeInt, Kind::LongFloat, Kind::ShortText, Kind::Category, Kind::Lineitem];

fn write_ours(path: &Path, schema: &SchemaRef, batches: &[RecordBatch]) {
    let cx = context();
    block_on(async {
        let partition = Partition::new(0, "all");
        let plan = LoadPlan::new(schema.clone(), LoadMode::Replace, vec![partition.clone()]);
        let session = ParquetLoader::new(path).begin(&cx, plan).await.unwrap();
        let mut writer = session.writer(&cx, &partition, 1).await.unwrap();
        for batch in batches {
            writer.write(batch.clone()).await.unwrap();
        }
        let receipt = writer.finish().await.unwrap();
        session.commit(vec![receipt]).await.unwrap();
    });
}

fn write_theirs(path: &Path, schema: &SchemaRef, batches: &[RecordBatch]) {
    let properties = WriterProperties::builder().set_compression(Compression::SNAPPY).build();
    let mut writer = ArrowWriter::try_new(File::create(path).unwrap(), schema.clone(), Some(properties)).unwrap();
    for batch in batches {
        writer.write(batch).unwrap();
    }
    writer.close().unwrap();
}

fn read_ours(path: &Path, mut take: impl FnMut(RecordBatch)) {
    let cx = context();
    block_on(async {
        let scan = ParquetExtractor::new(path).scan(&cx, &ScanRequest::all()).await.unwrap();
        for partition in scan.partitions() {
            for_each(scan.read(&cx, partition).unwrap(), &mut take).await.unwrap();
        }
    });
}

fn read_theirs(path: &Path, mut take: impl FnMut(RecordBatch)) {
    let builder = ParquetRecordBatchReaderBuilder::try_new(File::open(path).unwrap()).unwrap();
    for batch in builder.with_batch_size(BATCH_ROWS).build().unwrap() {
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
    for kind in KINDS {
        let schema = schema(kind);
        let text = csv(kind, BYTES);
        let reader = arrow_csv::ReaderBuilder::new(schema.clone()).with_header(true).with_batch_size(BATCH_ROWS);
        let batches: Vec<_> = reader.build_buffered(text.as_bytes()).unwrap().map(Result::unwrap).collect();
        let bytes = batches.iter().map(etlrs_core::batch_bytes).sum::<usize>() as u64;
        let [our, their] = ["ours.parquet", "theirs.parquet"].map(|name| folder.path().join(name));
        write_ours(&our, &schema, &batches);
        write_theirs(&their, &schema, &batches);
        for path in [&our, &their] {
            let (mut by_us, mut by_them) = (Vec::new(), Vec::new());
            read_ours(path, |batch| by_us.push(batch));
            read_theirs(path, |batch| by_them.push(batch));
            assert!(
                same_rows(&batches, &by_us) && same_rows(&batches, &by_them),
                "{} comes back otherwise",
                kind.name()
            );
        }

        let name = format!("parquet_write_{}", kind.name());
        let mut group = criterion.benchmark_group(&name);
        group.throughput(Throughput::Bytes(bytes));
        group.bench_function("etlrs", |bencher| bencher.iter(|| write_ours(&our, &schema, &batches)));
        group.bench_function("parquet", |bencher| bencher.iter(|| write_theirs(&their, &schema, &batches)));
        group.finish();
        groups.push(name);

        // Both read the same file, that of the crate.
        let name = format!("parquet_read_{}", kind.name());
        let mut group = criterion.benchmark_group(&name);
        group.throughput(Throughput::Bytes(bytes));
        group.bench_function("etlrs", |bencher| bencher.iter(|| read_ours(&their, |batch| drop(black_box(batch)))));
        group.bench_function("parquet", |bencher| bencher.iter(|| read_theirs(&their, |batch| drop(black_box(batch)))));
        group.finish();
        groups.push(name);
    }
    criterion.final_summary();
    print_table(&groups, "parquet");
}
