//! Transformers over batches in memory, on one thread and on two: bytes and rows in a second.
#![allow(clippy::unwrap_used, missing_docs, reason = "a benchmark that fails ends; criterion's macros have no docs")]

use std::hint::black_box;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::{Float64Type, Int64Type};
use arrow_array::{ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray};
use criterion::Throughput;
use etlrs_bench::{BATCH_ROWS, SIZES, block_on, criterion, for_each};
use etlrs_core::{
    PerformanceConfig, Record, RunContext, Secret, Transformer, batch_bytes, batches_from_iter, parse_type,
};
use etlrs_engine::{
    Cast, Deduplicate, Derive, Expr, Filter, FilterTransformer, Keep, MapTransformer, Mask, Masking,
    ParallelTransformer,
};

/// Rows of a flight each: a key, a delay with nulls, a distance and an airport.
fn batches(rows: usize) -> Vec<RecordBatch> {
    let batch = |from: usize| {
        let rows = from..(from + BATCH_ROWS).min(rows);
        let ids: Int64Array = rows.clone().map(|row| row as i64).collect();
        let delays: Int64Array =
            rows.clone().map(|row| (row % 11 > 0).then_some((row * 7919 % 200) as i64 - 20)).collect();
        let distances: Float64Array = rows.clone().map(|row| Some((row * 31 % 5000) as f64 / 2.0)).collect();
        let airports: StringArray = rows.map(|row| Some(["JFK", "LGA", "EWR", "SFO", "LAX"][row % 5])).collect();
        RecordBatch::try_from_iter_with_nullable([
            ("id", Arc::new(ids) as ArrayRef, true),
            ("delay", Arc::new(delays), true),
            ("distance", Arc::new(distances), true),
            ("airport", Arc::new(airports), true),
        ])
        .unwrap()
    };
    (0..rows).step_by(BATCH_ROWS).map(batch).collect()
}

fn run(transformer: &dyn Transformer, threads: usize, batches: &[RecordBatch]) -> usize {
    let bound = transformer.bind(batches[0].schema_ref()).unwrap();
    let cx = RunContext::new(PerformanceConfig { max_threads: threads, ..PerformanceConfig::default() });
    let owned = batches.to_vec();
    let stream = bound.apply(&cx, batches_from_iter(owned.into_iter().map(Ok)));
    let mut rows = 0;
    block_on(for_each(stream, |batch| rows += black_box(batch).num_rows())).unwrap();
    rows
}

fn double(record: Record<'_>) -> etlrs_core::Result<etlrs_core::OwnedRecord> {
    let mut row = record.to_owned();
    row.set("delay", record.i64("delay")?.map(|delay| delay * 2))?;
    Ok(row)
}

/// Heavy enough that the threads have something to do.
fn heavy(record: Record<'_>) -> etlrs_core::Result<bool> {
    let mut x = record.f64("distance")?.unwrap_or(1.0);
    for _ in 0..200 {
        x = (x * 1.000_1).sqrt() + 1.0;
    }
    Ok(x > 0.0)
}

fn main() {
    let mut criterion = criterion();
    let expr = |text: &str| Expr::parse(text).unwrap();
    for rows in SIZES {
        let batches = batches(rows);
        let bytes: usize = batches.iter().map(batch_bytes).sum();
        let late: usize = batches
            .iter()
            .map(|batch| {
                batch.column(1).as_primitive::<Int64Type>().iter().flatten().filter(|delay| *delay > 15).count()
            })
            .sum();
        let map_batches = MapTransformer::over_batches(|batch: &RecordBatch| {
            let mut columns = batch.columns().to_vec();
            columns[2] = Arc::new(columns[2].as_primitive::<Float64Type>().unary::<_, Float64Type>(|x| x * 1.609));
            Ok(RecordBatch::try_new(batch.schema(), columns)?)
        });
        let filter_records =
            FilterTransformer::new(|record: Record<'_>| Ok(record.i64("delay")?.is_some_and(|delay| delay > 15)));
        let parallel = || ParallelTransformer::new(FilterTransformer::new(heavy)).chunk_size(1000);
        let salt = Secret::new("pepper");
        let suites: Vec<(&str, Box<dyn Transformer>, usize, usize)> = vec![
            ("map_batches", Box::new(map_batches), 1, rows),
            ("filter_expr", Box::new(Filter::new(expr("delay > 15"))), 1, late),
            ("derive_expr", Box::new(Derive::new("speed", expr("distance / (delay + 100)"))), 1, rows),
            ("map_records", Box::new(MapTransformer::new(double)), 1, rows),
            ("filter_records", Box::new(filter_records), 1, late),
            ("cast", Box::new(Cast::new([("delay", parse_type("int16").unwrap())])), 1, rows),
            ("deduplicate", Box::new(Deduplicate::by(["id"]).keep(Keep::Any)), 1, rows),
            ("mask_sha256", Box::new(Mask::new([("airport", Masking::Sha256 { salt })])), 1, rows),
            ("heavy_1_thread", Box::new(parallel()), 1, rows),
            ("heavy_2_threads", Box::new(parallel()), 2, rows),
        ];
        for (name, transformer, threads, expected) in suites {
            assert_eq!(run(&*transformer, threads, &batches), expected, "{name}");
            let mut group = criterion.benchmark_group(format!("transform_{name}"));
            group.throughput(Throughput::ElementsAndBytes { elements: rows as u64, bytes: bytes as u64 });
            group.bench_function(rows.to_string(), |bencher| bencher.iter(|| run(&*transformer, threads, &batches)));
            group.finish();
        }
    }
    criterion.final_summary();
}
