//! Files in object stores, against a real S3 server.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Stdio;

use etlrs_tests::s3::{S3Server, SECRET_KEY};
use etlrs_tests::{Ran, etlrs, flights, write_csv};

const PROGRAM: &str = env!("CARGO_BIN_EXE_etlrs-under-test");

struct Bed {
    server: S3Server,
    folder: tempfile::TempDir,
}

impl Bed {
    fn new() -> Self {
        Self { server: S3Server::start(), folder: tempfile::tempdir().unwrap() }
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn run_with(&self, secret: &str, arguments: &[&str]) -> Ran {
        let mut command = etlrs(PROGRAM, self.path(), arguments);
        let ran = Ran::of(&self.server.environment(&mut command, secret).output().unwrap());
        // In nothing that is ever shown.
        for text in [&ran.stdout, &ran.stderr] {
            assert!(!text.contains(SECRET_KEY) && !text.contains(secret), "{text}");
        }
        ran
    }

    fn run(&self, arguments: &[&str]) -> Ran {
        self.run_with(SECRET_KEY, arguments)
    }

    /// Copies, and gives rows and checksum.
    fn copy(&self, source: &str, target: &str, more: &[&str]) -> (u64, String) {
        let result = self.run(&[&["copy", source, target, "--output", "json"], more].concat()).json();
        (result["rows_written"].as_u64().unwrap(), result["source_checksum"].as_str().unwrap().to_owned())
    }

    /// Fails with an exit code of 1, or of 2 for wrong usage, and one line with these words.
    fn fails(&self, code: i32, arguments: &[&str], words: &[&str]) {
        let ran = self.run(arguments);
        assert_eq!(ran.code, code, "{ran:?}");
        for word in words {
            assert!(ran.stderr.contains(word), "{word:?} is not in: {}", ran.stderr);
        }
        assert_eq!(ran.stderr.trim().lines().count(), 1, "{}", ran.stderr);
    }
}

#[test]
fn rows_go_through_objects_of_every_kind_unchanged() {
    let bed = Bed::new();
    write_csv(&bed.path().join("a.csv"), 30_000, 1);
    let stations = [
        "s3://bucket/a.csv",
        "s3://bucket/dir.csv/",
        "s3://bucket/deep/er/dir.parquet/",
        "s3://bucket/a.parquet",
        "s3://bucket/a.csv.zst",
        "s3://bucket/b.parquet",
        "back.parquet",
    ];
    let (rows, checksum) = bed.copy("a.csv", "first.parquet", &[]);
    assert_eq!(rows, 30_000);
    let mut source = "a.csv";
    for target in stations {
        let more: &[&str] = if target.contains("/dir") { &["--partitions", "5"] } else { &[] };
        assert_eq!(bed.copy(source, target, more), (rows, checksum.clone()), "{source} to {target}");
        source = target;
    }
    assert_eq!(bed.server.names("dir.csv").len(), 6);
    // The format before a name that does not tell it, and a pattern.
    std::fs::rename(bed.server.file("dir.csv"), bed.server.file("plain")).unwrap();
    assert_eq!(bed.copy("csv:s3://bucket/plain/", "c.parquet", &[]), (rows, checksum.clone()));
    assert_eq!(bed.copy("s3://bucket/plain/*.csv", "d.parquet", &[]), (rows, checksum));
    let inspected = bed.run(&["inspect", "s3://bucket/a.csv", "--rows", "2"]);
    assert!(inspected.code == 0 && inspected.stdout.contains("amount"), "{inspected:?}");
}

#[test]
fn large_objects_are_read_in_ranges_and_written_in_parts() {
    let bed = Bed::new();
    write_csv(&bed.path().join("a.csv"), 400_000, 1);
    let size = std::fs::metadata(bed.path().join("a.csv")).unwrap().len();
    let local = bed.copy("a.csv", "a.parquet", &["--memory", "64MB"]);
    bed.server.put(&bed.path().join("a.csv"), "a.csv");
    bed.server.requests();
    // A small budget, so that ranges and parts are small.
    assert_eq!(bed.copy("s3://bucket/a.csv", "b.parquet", &["--memory", "64MB"]), local);
    let reads = bed.server.requests().into_iter();
    let reads: Vec<_> = reads.filter(|read| read.method == "GET" && !read.path.contains("list-type")).collect();
    let bytes: u64 = reads.iter().filter_map(|read| read.range).sum();
    assert!(
        reads.len() > 5 && reads.iter().all(|read| read.range.is_some_and(|length| length <= 8 << 20)),
        "{reads:?}"
    );
    // Once, but for the looks at the start and at the cuts.
    assert!(bytes >= size && bytes < size + size / 5 + (4 << 20), "{bytes} of {size}");

    assert_eq!(bed.copy("a.csv", "s3://bucket/c.csv", &["--memory", "64MB"]), local);
    assert_eq!(std::fs::metadata(bed.server.file("c.csv")).unwrap().len(), size_of_copy(&bed));
    let parts = |request: &etlrs_tests::s3::Request| request.path.contains("partNumber=");
    let requests = bed.server.requests();
    assert!(requests.iter().filter(|request| parts(request)).count() >= 3, "{requests:?}");
    assert_eq!(bed.copy("s3://bucket/c.csv", "d.parquet", &[]), local);
}

/// What `a.csv` is as we write it.
fn size_of_copy(bed: &Bed) -> u64 {
    bed.copy("a.csv", "e.csv", &[]);
    std::fs::metadata(bed.path().join("e.csv")).unwrap().len()
}

#[test]
fn of_a_parquet_object_only_the_wanted_columns_and_row_groups_are_read() {
    let bed = Bed::new();
    write_csv(&bed.path().join("a.csv"), 300_000, 1);
    bed.copy("a.csv", "a.parquet", &["--target-option", "row_group_size=50000"]);
    let size = std::fs::metadata(bed.path().join("a.parquet")).unwrap().len();
    bed.server.put(&bed.path().join("a.parquet"), "a.parquet");
    let bytes = |arguments: &[&str]| {
        bed.server.requests();
        let rows = bed.copy("s3://bucket/a.parquet", "out.csv", &[&["--mode", "replace"], arguments].concat()).0;
        let read: u64 = bed.server.requests().iter().filter_map(|request| request.range).sum();
        (rows, read)
    };
    let (rows, all) = bytes(&[]);
    assert!(rows == 300_000 && all >= size * 9 / 10 && all < size + (1 << 20), "{all} of {size}");
    let (rows, narrow) = bytes(&["--columns", "id,flag"]);
    assert!(rows == 300_000 && narrow < all / 2, "{narrow} of {all}");
    let (rows, few) = bytes(&["--where", "id < 1000"]);
    assert!(rows == 1000 && few < all / 3, "{few} of {all}");
}

#[test]
fn modes_are_kept_to_in_a_store() {
    let bed = Bed::new();
    let rows = |rows: u64| write_csv(&bed.path().join("a.csv"), rows, rows);
    let count = |source: &str| bed.copy(source, "out.parquet", &["--mode", "replace"]).0;
    for target in ["s3://bucket/a.parquet", "s3://bucket/a.csv", "s3://bucket/parquet.parquet/", "s3://bucket/csv.csv/"]
    {
        rows(100);
        bed.copy("a.csv", target, &[]);
        bed.fails(1, &["copy", "a.csv", target], &["the target exists", "replace or append"]);
        rows(50);
        bed.copy("a.csv", target, &["--mode", "replace"]);
        assert_eq!(count(target), 50);
        if target.ends_with('/') {
            bed.copy("a.csv", target, &["--mode", "append"]);
            assert_eq!(count(target), 100);
        } else {
            bed.fails(1, &["copy", "a.csv", target, "--mode", "append"], &["no mode append", "create, replace"]);
        }
    }
    // The directory and the object are told apart.
    bed.fails(2, &["copy", "a.csv", "s3://bucket/csv.csv", "--mode", "replace"], &["is a directory"]);
    bed.fails(2, &["copy", "a.csv", "s3://bucket/a.csv/", "--mode", "replace"], &["is an object"]);
    let plan = bed.run(&["plan", "a.csv", "s3://bucket/a.csv", "--mode", "replace"]);
    assert!(plan.code == 0 && plan.stdout.contains("is replaced"), "{plan:?}");
}

#[test]
fn of_a_directory_in_a_store_only_the_objects_that_differ_are_replaced() {
    let bed = Bed::new();
    write_csv(&bed.path().join("a.csv"), 6_000, 1);
    for target in ["s3://bucket/d.csv/", "s3://bucket/d.parquet/"] {
        let name = target.trim_start_matches("s3://bucket/").trim_end_matches('/');
        let (_, checksum) = bed.copy("a.csv", target, &["--partitions", "6"]);
        let before = bed.server.names(name);
        let parts: Vec<_> = before.iter().filter(|name| name.starts_with("part-")).collect();
        let file = |part: &str| bed.server.file(&format!("{name}/{part}"));
        std::fs::copy(file(parts[4]), file(parts[2])).unwrap();
        let ran = bed.run(&["verify", "a.csv", target, "--partitions", "6", "--repair", "--remove-unexpected"]);
        assert_eq!(ran.code, 0, "{ran:?}");
        assert!(ran.stdout.contains("  note      5 of 6 files of the target stay as they are\n"), "{ran:?}");
        let after = bed.server.names(name);
        assert_eq!((after.len(), before.iter().filter(|name| after.contains(*name)).count()), (7, 6), "{after:?}");
        assert!(!after.contains(parts[2]), "{after:?}");
        let (rows, again) = bed.copy(target, "back.parquet", &["--mode", "replace"]);
        assert_eq!((rows, again), (6_000, checksum), "{target}");
    }
}

#[test]
fn a_run_that_is_killed_leaves_the_object_as_it_was() {
    let bed = Bed::new();
    write_csv(&bed.path().join("old.csv"), 20_000, 1);
    write_csv(&bed.path().join("new.csv"), 300_000, 2);
    for target in ["s3://bucket/a.csv", "s3://bucket/dir.csv/"] {
        let versions = || {
            bed.copy(target, "seen.csv", &["--mode", "replace", "--columns", "version"]);
            let seen = std::fs::read_to_string(bed.path().join("seen.csv")).unwrap();
            seen.lines().skip(1).map(str::to_owned).collect::<BTreeSet<_>>()
        };
        bed.copy("old.csv", target, &[]);
        bed.server.requests();
        let arguments = ["copy", "new.csv", target, "--mode", "replace", "--memory", "64MB", "--no-progress"];
        for after in [1, 4, 6] {
            let mut command = etlrs(PROGRAM, bed.path(), &arguments);
            let mut child = bed.server.environment(&mut command, SECRET_KEY).stdout(Stdio::null()).spawn().unwrap();
            while bed.server.request_count() < after && child.try_wait().unwrap().is_none() {
                std::thread::yield_now();
            }
            child.kill().unwrap();
            child.wait().unwrap();
            let seen = versions();
            assert_eq!(seen.len(), 1, "{target}: a mixture after {after} requests: {seen:?}");
            bed.server.requests();
        }
        bed.copy("new.csv", target, &["--mode", "replace"]);
        assert_eq!(versions(), BTreeSet::from(["2".to_owned()]));
    }
}

#[test]
fn errors_of_a_store_say_what_to_do() {
    let bed = Bed::new();
    bed.server.put(&flights(), "flights.csv");
    bed.fails(1, &["copy", "s3://bucket/none.csv", "a.csv"], &["s3://bucket/none.csv", "no such"]);
    bed.fails(1, &["copy", "s3://bucket/none-*.csv", "a.csv"], &["no file matches the pattern"]);
    bed.fails(1, &["copy", "s3://nobucket/a.csv", "a.csv"], &["s3://nobucket/a.csv", "no such"]);
    bed.fails(1, &["copy", "s3://bucket/flights.csv", "s3://nobucket/a.csv"], &["s3://nobucket/a.csv"]);
    let ran = bed.run_with("another-secret", &["copy", "s3://bucket/flights.csv", "a.csv"]);
    assert_eq!(ran.code, 1);
    assert!(ran.stderr.contains("AWS_SECRET_ACCESS_KEY") && ran.stderr.contains("denied"), "{}", ran.stderr);
    let ran = bed.run(&["copy", "s3://bucket/flights", "a.csv"]);
    assert!(ran.code == 2 && ran.stderr.contains("no extension"), "{ran:?}");
    assert!(!bed.path().join("a.csv").exists());
    // What passes is tried again.
    bed.server.fail(2);
    assert_eq!(bed.copy("s3://bucket/flights.csv", "a.parquet", &[]).0, 27_004);
    bed.server.fail(2);
    assert_eq!(bed.copy("a.parquet", "s3://bucket/b.parquet", &[]).0, 27_004);
    // A server that is not there, and one that would be asked without encryption.
    for (server, needle) in [
        (
            "http://127.0.0.1:1",
            "cannot list s3://bucket/flights.csv: cannot reach http://127.0.0.1:1: connection refused",
        ),
        ("http://store.invalid", "AWS_ALLOW_HTTP=true"),
    ] {
        let mut command = etlrs(PROGRAM, bed.path(), &["copy", "s3://bucket/flights.csv", "b.csv"]);
        bed.server.environment(&mut command, SECRET_KEY).env("AWS_ENDPOINT_URL", server);
        let ran = Ran::of(&command.output().unwrap());
        assert!(ran.stderr.contains(needle), "{ran:?}");
        assert_eq!(ran.stderr.trim().lines().count(), 1, "{}", ran.stderr);
    }
}
