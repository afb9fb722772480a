//! Writing, on one thread: batches in memory to files and tables.
#![allow(clippy::unwrap_used, missing_docs, reason = "a benchmark that fails ends; criterion's macros have no docs")]

use std::sync::Arc;

use criterion::Throughput;
use etlrs::{
    CancelToken, LoadMode, MemoryExtractor, OptionMap, PerformanceConfig, PipelineBuilder, ScanRequest, Uri, Verify,
};
use etlrs_bench::{BATCH_ROWS, Kind, SIZES, criterion, csv_of_rows, folder};

fn main() {
    let mut criterion = criterion();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let folder = folder().unwrap();
    let at = |name: &str| folder.path().join(name).display().to_string();
    let config = PerformanceConfig { max_threads: 1, batch_size: BATCH_ROWS, ..PerformanceConfig::default() };
    let none = OptionMap::new();
    for size in SIZES {
        std::fs::write(at("in.csv"), csv_of_rows(Kind::Lineitem, size)).unwrap();
        let source = Uri::from(at("in.csv").as_str());
        let extractor = etlrs::registry().find(&source).unwrap().extractor(&source, &none).unwrap();
        let cancel = CancelToken::new();
        let collected = etlrs::collect(extractor, ScanRequest::all(), config.clone(), &cancel);
        let snapshot = runtime.block_on(collected).unwrap();
        let memory = Arc::new(MemoryExtractor::new(snapshot.schema().clone(), snapshot.batches().to_vec()));
        for (name, uri) in [
            ("csv", at("out.csv")),
            ("ndjson", at("out.ndjson")),
            ("json", at("out.json")),
            ("parquet", at("out.parquet")),
            ("sqlite", format!("sqlite:{}#t", at("out.db"))),
        ] {
            let uri = Uri::from(uri.as_str());
            let run = |verify: Verify| {
                let loader = etlrs::registry().find(&uri).unwrap().loader(&uri, &none).unwrap();
                let builder = PipelineBuilder::new().extract_from(memory.clone()).load_into(loader);
                let builder = builder.mode(LoadMode::Replace).config(config.clone()).verify(verify);
                runtime.block_on(builder.build().unwrap().execute()).unwrap()
            };
            // Once with all that was staged read back and compared.
            assert_eq!(run(Verify::Full).load.records_loaded, size as u64, "{name}");
            let mut group = criterion.benchmark_group(format!("load_{name}"));
            group.throughput(Throughput::Elements(size as u64));
            group.bench_function(size.to_string(), |bencher| bencher.iter(|| run(Verify::Receipts)));
            group.finish();
        }
    }
    criterion.final_summary();
}
