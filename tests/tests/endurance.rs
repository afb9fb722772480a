//! Many pipelines in one process: at once, and one after another.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

use std::path::Path;
use std::time::{Duration, Instant};

use etlrs::*;
use etlrs_metrics::ResourceUsage;
use etlrs_tests::postgres::Postgres;

fn config() -> PerformanceConfig {
    PerformanceConfig { max_threads: 2, max_memory_usage: 16 << 20, ..PerformanceConfig::default() }
}

/// From one URI to another, in mode replace; `keep` is what rows have to pass.
async fn copy(source: &str, target: &str, keep: &str) -> Result<RunReport> {
    let registry = registry();
    let none = OptionMap::new();
    etlrs::pipeline(&registry, (&Uri::from(source), &none), (&Uri::from(target), &none))?
        .transform(Filter::new(Expr::parse(keep)?))
        .mode(LoadMode::Replace)
        .config(config())
        .build()?
        .execute()
        .await
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

fn path(folder: &Path, name: &str) -> String {
    folder.join(name).display().to_string()
}

#[test]
fn a_hundred_pipelines_at_once_are_all_right() {
    const ROWS: u64 = 2_000;
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let postgres = Postgres::start();
    for version in 0..10 {
        etlrs_tests::write_csv(&folder.join(format!("in-{version}.csv")), ROWS, version);
    }
    let target = |index: u64| match index % 5 {
        0 => path(folder, &format!("out-{index}.parquet")),
        1 => path(folder, &format!("out-{index}.ndjson")),
        2 => path(folder, &format!("out-{index}.csv")),
        3 => format!("sqlite:{}#t", path(folder, &format!("out-{index}.db"))),
        _ => format!("postgres://postgres@127.0.0.1:{}/test#t{index}", postgres.port()),
    };
    let started = Instant::now();
    let reports = runtime().block_on(async {
        let runs = (0..100).map(|index| {
            let (source, target) = (path(folder, &format!("in-{}.csv", index % 10)), target(index));
            tokio::spawn(async move { copy(&source, &target, "id % 2 = 0").await })
        });
        let mut reports = Vec::new();
        for run in runs.collect::<Vec<_>>() {
            reports.push(run.await.unwrap().unwrap());
        }
        reports
    });
    eprintln!("100 pipelines at once took {:.1} s", started.elapsed().as_secs_f64());
    // Runs of one source loaded the same rows, whatever the target; those of another loaded others.
    let of = |index: usize| reports[index].source_checksum;
    for (index, report) in reports.iter().enumerate() {
        assert_eq!((report.rows_read, report.load.records_loaded), (ROWS, ROWS / 2), "{index}");
        assert_eq!(of(index), of(index % 10));
    }
    assert_ne!(of(0), of(1));
    // And what is there is what they say.
    runtime().block_on(async {
        let registry = registry();
        for index in (0..100).step_by(7) {
            let uri = Uri::from(target(index).as_str());
            let extractor = registry.find(&uri).unwrap().extractor(&uri, &OptionMap::new()).unwrap();
            let rows = collect(extractor, ScanRequest::all(), config(), &CancelToken::new()).await.unwrap();
            assert_eq!(rows.total_count(), ROWS / 2, "{uri}");
        }
    });
}

/// Nothing grows with the number of runs: no memory, thread, open file, connection or file that nobody needs.
#[test]
fn a_thousand_pipelines_leave_nothing_behind() {
    const RUNS: u32 = 1_000;
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let postgres = Postgres::start();
    etlrs_tests::write_csv(&folder.join("in.csv"), 500, 1);
    let targets = [
        path(folder, "out.parquet"),
        path(folder, "out.ndjson"),
        path(folder, "out.csv"),
        format!("sqlite:{}#t", path(folder, "out.db")),
        format!("postgres://postgres@127.0.0.1:{}/test#t", postgres.port()),
    ];
    let source = path(folder, "in.csv");
    let runtime = runtime();
    let run = |index: u32| {
        let target = &targets[index as usize % targets.len()];
        // Every tenth fails in the middle.
        let keep = if index % 10 == 9 { "10 % (id - 250) > -100" } else { "id > 10" };
        let report = runtime.block_on(copy(&source, target, keep));
        assert_eq!(report.is_err(), index % 10 == 9, "{report:?}");
    };
    // Pools, caches and what the allocator keeps come into being first.
    (0..200).for_each(run);
    let files = || {
        let mut names: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    };
    let settled = || {
        // Threads and connections of the last run end on their own.
        std::thread::sleep(Duration::from_millis(300));
        (
            ResourceUsage::now(),
            files(),
            postgres.sql("SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'"),
        )
    };
    let (before, files_before, connections_before) = settled();
    let started = Instant::now();
    (0..RUNS).for_each(run);
    let seconds = started.elapsed().as_secs_f64();
    let (after, files_after, connections_after) = settled();
    let grown = after.resident_bytes.saturating_sub(before.resident_bytes);
    eprintln!(
        "{RUNS} pipelines one after another took {seconds:.1} s; memory grew by {} KB to {} MB, threads {} to {}, files {} to {}",
        grown >> 10,
        after.resident_bytes >> 20,
        before.threads,
        after.threads,
        before.open_files,
        after.open_files,
    );
    assert!(grown < 10 << 20, "memory grew by {grown} bytes");
    assert!(after.threads <= before.threads + 1, "{before:?} {after:?}");
    assert!(after.open_files <= before.open_files + 1, "{before:?} {after:?}");
    assert_eq!((files_after, connections_after), (files_before, connections_before));
}
