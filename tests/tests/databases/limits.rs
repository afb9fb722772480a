//! What limits a run is told: runs that are built to be limited by each thing there is.

use etlrs_tests::link::Link;

use super::*;

/// What the program says of a copy with these arguments.
fn limit(folder: &std::path::Path, arguments: &[&str]) -> serde_json::Value {
    let arguments = [&["copy"], arguments, &["--output", "json", "--no-progress"]].concat();
    let ran = etlrs_tests::run(env!("CARGO_BIN_EXE_etlrs-under-test"), folder, &arguments).json();
    let total: f64 = ran["stages"]
        .as_array()
        .unwrap()
        .iter()
        .map(|stage| {
            ["busy_seconds", "blocked_seconds", "waiting_seconds"]
                .iter()
                .map(|key| stage[key].as_f64().unwrap())
                .sum::<f64>()
        })
        .sum();
    // Nothing is charged twice.
    assert!(total <= ran["seconds"].as_f64().unwrap() * ran["threads"].as_f64().unwrap() * 1.01, "{ran:#}");
    ran["limit"].clone()
}

#[test]
fn each_limit_is_named_by_the_run_that_has_it() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    etlrs_tests::write_csv(&folder.join("a.csv"), 100_000, 1);
    let postgres = Postgres::start();
    let url = |port: u16, table: &str| format!("postgres://postgres@127.0.0.1:{port}/test#{table}");
    let slow = Link::to(postgres.port(), 4 << 20);

    // Decoding on one core, and compressing as hard as it goes.
    let processor = limit(folder, &["a.csv", "a.parquet", "--threads", "1", "--compression", "gzip"]);
    assert_eq!((&processor["what"], &processor["cpu_bound"]), (&"processor".into(), &true.into()), "{processor:#}");

    let target = limit(folder, &["a.csv", &url(slow.port(), "t"), "--threads", "2"]);
    assert_eq!((&target["what"], &target["network_bound"]), (&"target".into(), &true.into()), "{target:#}");

    let source = limit(folder, &[&url(slow.port(), "t"), "b.parquet", "--threads", "2"]);
    assert_eq!((&source["what"], &source["network_bound"]), (&"source".into(), &true.into()), "{source:#}");

    let memory = limit(folder, &["a.csv", "c.parquet", "--threads", "8", "--partitions", "8", "--memory", "4MB"]);
    assert_eq!((&memory["what"], &memory["memory_bound"]), (&"memory".into(), &true.into()), "{memory:#}");

    for verdict in [&processor, &target, &source, &memory] {
        eprintln!("{}", verdict["verdict"].as_str().unwrap());
        assert!(!verdict["advice"].as_str().unwrap().is_empty(), "{verdict:#}");
    }
}

/// Runs that are limited by each thing there is, with and without tuning: where more at a time helps, they become faster, and
/// nowhere slower.
#[test]
fn tuning_makes_faster_what_can_be_and_harms_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    etlrs_tests::write_csv(&folder.join("a.csv"), 300_000, 1);
    etlrs_tests::write_csv(&folder.join("large.csv"), 1_000_000, 1);
    let postgres = Postgres::start();
    let url = |port: u16, table: &str| format!("postgres://postgres@127.0.0.1:{port}/test#{table}");
    let far = Link::each(postgres.port(), 1 << 20);
    let run = |arguments: &[&str], tuned: bool| {
        let mut arguments = [&["copy"], arguments, &["--mode", "replace", "--output", "json"]].concat();
        arguments.extend(tuned.then_some("--auto-tune"));
        etlrs_tests::run(env!("CARGO_BIN_EXE_etlrs-under-test"), folder, &arguments).json()
    };
    run(&["a.csv", &url(postgres.port(), "t")], false);

    let target = url(far.port(), "u");
    let source = url(far.port(), "t");
    // How often each is run, of which the best counts: what waits for a link of a fixed rate takes as long each time.
    let cases: [(&str, &[&str], usize, f64); 4] = [
        ("target", &["a.csv", &target, "--threads", "2", "--partitions", "32"], 1, 0.75),
        ("source", &[&source, "b.parquet", "--threads", "2", "--partitions", "32"], 1, 0.75),
        ("processor", &["large.csv", "c.parquet", "--threads", "1", "--compression", "gzip"], 3, 1.2),
        ("memory", &["large.csv", "d.parquet", "--threads", "8", "--partitions", "32", "--memory", "4MB"], 3, 1.2),
    ];
    let seconds = |ran: &serde_json::Value| ran["seconds"].as_f64().unwrap();
    for (limit, arguments, times, most) in cases {
        let runs: Vec<_> = (0..times).map(|_| [run(arguments, false), run(arguments, true)]).collect();
        let best = |tuned: usize| {
            let runs = runs.iter().map(|pair| pair[tuned].clone());
            runs.min_by(|one, other| seconds(one).total_cmp(&seconds(other))).unwrap()
        };
        let [plain, tuned] = [best(0), best(1)];
        let ratio = seconds(&tuned) / seconds(&plain);
        eprintln!("{limit}: {:.1} s, tuned {:.1} s ({ratio:.2})", seconds(&plain), seconds(&tuned));
        let adjustments = tuned["adjustments"].as_array().unwrap();
        for adjustment in adjustments {
            eprintln!("  {}", adjustment["text"].as_str().unwrap());
        }
        assert_eq!(
            (&plain["limit"]["what"], &plain["adjustments"]),
            (&limit.into(), &serde_json::json!([])),
            "{plain:#}"
        );
        assert_eq!(plain["source_checksum"], tuned["source_checksum"]);
        assert!(ratio <= most, "{tuned:#}");
    }
}

#[test]
fn connections_are_no_more_than_the_settings_say() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    etlrs_tests::write_csv(&folder.join("a.csv"), 100_000, 1);
    let postgres = Postgres::start();
    let counted = Link::to(postgres.port(), 64 << 20);
    let url = |table: &str| format!("postgres://postgres@127.0.0.1:{}/test#{table}", counted.port());
    let most = |source: &str, target: &str, setting: &str| {
        let mut arguments = vec!["copy", source, target, "--threads", "8", "--partitions", "16", "--mode", "replace"];
        arguments.extend(["--output", "json", "--no-progress"]);
        if !setting.is_empty() {
            arguments.extend(["--performance", setting]);
        }
        etlrs_tests::run(env!("CARGO_BIN_EXE_etlrs-under-test"), folder, &arguments).json();
        counted.most_connections()
    };
    let table = url("t");
    for (source, target) in [("a.csv", table.as_str()), (table.as_str(), "b.parquet")] {
        let all = most(source, target, "");
        assert!(all > 4, "{source}: {all}");
        for (setting, limit) in [("connection_pool_size=3", 3), ("max_concurrent_connections=2", 2)] {
            let found = most(source, target, setting);
            assert!((1..=limit).contains(&found), "{source} with {setting}: {found}");
        }
    }
}
