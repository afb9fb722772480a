//! Whole pipelines, as the program runs them: from files to files and tables, on all cores.
#![allow(clippy::unwrap_used, missing_docs, reason = "a benchmark that fails ends; criterion's macros have no docs")]

use criterion::Throughput;
use etlrs::{Expr, Filter, LoadMode, OptionMap, PipelineBuilder, Uri, Verify};
use etlrs_bench::{Kind, SIZES, criterion, csv_of_rows, folder};

fn main() {
    let mut criterion = criterion();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let folder = folder().unwrap();
    let at = |name: &str| folder.path().join(name).display().to_string();
    let pipeline = |from: &str, to: &str| -> PipelineBuilder {
        let none = OptionMap::new();
        let (from, to) = (Uri::from(from), Uri::from(to));
        etlrs::pipeline(&etlrs::registry(), (&from, &none), (&to, &none)).unwrap().mode(LoadMode::Replace)
    };
    let run = |builder: PipelineBuilder| {
        let pipeline = builder.build().unwrap();
        runtime.block_on(pipeline.execute()).unwrap()
    };
    for rows in SIZES {
        let text = csv_of_rows(Kind::Lineitem, rows);
        std::fs::write(at("in.csv"), &text).unwrap();
        for format in ["in.ndjson", "in.parquet"] {
            run(pipeline(&at("in.csv"), &at(format)));
        }
        let sqlite = format!("sqlite:{}#t", at("out.db"));
        let late = || Filter::new(Expr::parse("l_linenumber > 2").unwrap());
        for (name, from, to, filtered) in [
            ("csv_to_json", "in.csv", at("out.json"), false),
            ("csv_to_parquet", "in.csv", at("out.parquet"), false),
            ("csv_to_parquet_filtered", "in.csv", at("out.parquet"), true),
            ("json_to_parquet", "in.ndjson", at("out.parquet"), false),
            ("parquet_to_csv", "in.parquet", at("out.csv"), false),
            ("parquet_to_sqlite", "in.parquet", sqlite.clone(), false),
        ] {
            let builder = || match filtered {
                true => pipeline(&at(from), &to).transform(late()),
                false => pipeline(&at(from), &to),
            };
            // Once with all that was staged read back and compared.
            let report = run(builder().verify(Verify::Full));
            assert_eq!(report.load.records_loaded, if filtered { rows as u64 / 2 } else { rows as u64 }, "{name}");
            let mut group = criterion.benchmark_group(format!("pipeline_{name}"));
            group.throughput(Throughput::ElementsAndBytes { elements: rows as u64, bytes: report.bytes_read });
            group.bench_function(rows.to_string(), |bencher| bencher.iter(|| run(builder())));
            group.finish();
        }
    }
    criterion.final_summary();
}
