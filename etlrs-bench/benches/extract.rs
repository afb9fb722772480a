//! Reading, on one thread: files and tables to batches.
#![allow(clippy::unwrap_used, missing_docs, reason = "a benchmark that fails ends; criterion's macros have no docs")]

use std::hint::black_box;

use criterion::Throughput;
use etlrs::{LoadMode, OptionMap, RunContext, ScanRequest, Uri};
use etlrs_bench::{Kind, SIZES, context, criterion, csv_of_rows, folder, for_each};

/// The rows of `uri`, all of its partitions one after another.
async fn rows(cx: &RunContext, uri: &Uri) -> usize {
    let extractor = etlrs::registry().find(uri).unwrap().extractor(uri, &OptionMap::new()).unwrap();
    let scan = extractor.scan(cx, &ScanRequest::all().guess(true)).await.unwrap();
    let mut rows = 0;
    for partition in scan.partitions() {
        for_each(scan.read(cx, partition).unwrap(), |batch| rows += black_box(batch).num_rows()).await.unwrap();
    }
    rows
}

fn main() {
    let mut criterion = criterion();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let folder = folder().unwrap();
    let at = |name: &str| folder.path().join(name).display().to_string();
    for size in SIZES {
        let text = csv_of_rows(Kind::Lineitem, size);
        std::fs::write(at("in.csv"), &text).unwrap();
        let source = Uri::from(at("in.csv").as_str());
        for (name, uri) in [
            ("csv", at("in.csv")),
            ("ndjson", at("out.ndjson")),
            ("json", at("out.json")),
            ("parquet", at("out.parquet")),
            ("sqlite", format!("sqlite:{}#t", at("out.db"))),
        ] {
            let (uri, none) = (Uri::from(uri.as_str()), OptionMap::new());
            if name != "csv" {
                let made = etlrs::pipeline(&etlrs::registry(), (&source, &none), (&uri, &none)).unwrap();
                runtime.block_on(made.mode(LoadMode::Replace).build().unwrap().execute()).unwrap();
            }
            assert_eq!(runtime.block_on(rows(&context(), &uri)), size, "{name}");
            let mut group = criterion.benchmark_group(format!("extract_{name}"));
            group.throughput(Throughput::Elements(size as u64));
            group.bench_function(size.to_string(), |bencher| bencher.iter(|| runtime.block_on(rows(&context(), &uri))));
            group.finish();
        }
    }
    criterion.final_summary();
}
