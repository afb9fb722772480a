//! What goes through several formats arrives as it left: the same rows, the same checksum, in bounded memory.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

use std::fs;
use std::io::{Read, Seek, Write};
use std::path::Path;

use etlrs_tests::{flights, peak_memory, run, write_csv};
use serde_json::Value;
use tempfile::TempDir;

const PROGRAM: &str = env!("CARGO_BIN_EXE_etlrs-under-test");

/// Copies, and gives the result.
fn copy(folder: &Path, source: &str, target: &str, flags: &[&str]) -> Value {
    let mut arguments = vec!["copy", source, target, "--output", "json"];
    arguments.extend(flags);
    let result = run(PROGRAM, folder, &arguments).json();
    assert_eq!(result["success"], true);
    assert_eq!(result["rows_read"].as_u64(), result["rows_written"].as_u64().map(|rows| rows + dropped(&result)));
    if flags.contains(&"full") {
        assert_eq!(result["target_checksum"], result["source_checksum"], "{source} → {target}");
    }
    result
}

fn dropped(result: &Value) -> u64 {
    result["rows_dropped"].as_u64().unwrap()
}

fn checksum(result: &Value) -> String {
    result["source_checksum"].as_str().unwrap().to_owned()
}

/// The rows of `source` and their checksum, by a copy that reads them all.
fn content(folder: &Path, source: &str) -> (u64, String) {
    let read = copy(folder, source, "content.parquet", &["--mode", "replace"]);
    (read["rows_read"].as_u64().unwrap(), checksum(&read))
}

/// `a.csv` and `b.csv`: 20 000 records each of every type, those of `b` with another version.
fn samples() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    write_csv(&folder.path().join("a.csv"), 20_000, 1);
    write_csv(&folder.path().join("b.csv"), 20_000, 2);
    folder
}

/// A chain through every kind of target, each link read back in full.
fn goes_around(folder: &Path, source: &str, options: &[&str], rows: u64, flags: &[&str]) {
    let chain = [
        "1.parquet",
        "sqlite:2.db#t",
        "3.parquet/",
        "4.csv",
        "4.ndjson",
        "sqlite:4.db#t",
        "5.json",
        "5.tsv",
        "5.parquet",
        "6.parquet/",
        "7.parquet",
        "sqlite:4.db#u",
    ];
    let mut first = None;
    let mut at = source;
    for target in chain {
        let mut all = flags.to_vec();
        if at == source {
            all.extend(options);
        }
        all.extend(["--verify", "full"]);
        let result = copy(folder, at, target, &all);
        assert_eq!(result["rows_written"], rows, "{at} → {target}");
        assert_eq!(*first.get_or_insert_with(|| checksum(&result)), checksum(&result), "{at} → {target}");
        at = target;
    }
    let last = content(folder, at);
    assert_eq!(Some((rows, last.1)), first.map(|first| (rows, first)));
    assert_eq!(last.0, rows);
}

#[test]
fn every_type_goes_around_unchanged() {
    let folder = samples();
    goes_around(folder.path(), "a.csv", &[], 20_000, &[]);
}

#[test]
fn every_type_goes_around_unchanged_on_one_thread() {
    let folder = samples();
    goes_around(folder.path(), "a.csv", &[], 20_000, &["--threads", "1"]);
}

#[test]
fn every_type_goes_around_unchanged_in_many_pieces() {
    let folder = samples();
    goes_around(folder.path(), "a.csv", &[], 20_000, &["--threads", "8", "--partitions", "32"]);
}

#[test]
fn every_type_goes_around_unchanged_in_little_memory() {
    let folder = samples();
    goes_around(folder.path(), "a.csv", &[], 20_000, &["--memory", "32MB"]);
}

#[test]
fn flights_go_around_unchanged() {
    let folder = tempfile::tempdir().unwrap();
    fs::copy(flights(), folder.path().join("flights.csv")).unwrap();
    let null = ["--source-option", "null_values=NA"];
    goes_around(folder.path(), "flights.csv", &null, 27_004, &[]);
}

/// The checksum is of rows, not of their order or their pieces; and it is of these rows only.
#[test]
fn pieces_and_threads_do_not_change_the_checksum_and_data_do() {
    let folder = samples();
    let folder = folder.path();
    let whole = checksum(&copy(folder, "a.csv", "o.parquet", &["--threads", "1", "--partitions", "1"]));
    for (threads, partitions) in [("1", "32"), ("2", "3"), ("8", "32"), ("8", "100")] {
        for target in ["o.parquet", "dir.parquet/", "sqlite:o.db#t", "o.csv", "o.ndjson", "dir.json/"] {
            let flags = ["--mode", "replace", "--threads", threads, "--partitions", partitions, "--verify", "full"];
            let result = copy(folder, "a.csv", target, &flags);
            assert_eq!(checksum(&result), whole, "{threads} threads, {partitions} pieces, {target}");
            assert!(partitions != "32" || result["partitions"].as_u64().unwrap() > 8, "{result}");
        }
    }
    assert_ne!(content(folder, "b.csv").1, whole);
}

#[test]
fn appending_adds_exactly_the_rows() {
    let folder = samples();
    let folder = folder.path();
    let (a, b) = (fs::read_to_string(folder.join("a.csv")).unwrap(), fs::read_to_string(folder.join("b.csv")).unwrap());
    let rows_of_b = b.split_once('\n').unwrap().1;
    fs::write(folder.join("both.csv"), format!("{a}{rows_of_b}")).unwrap();
    fs::write(folder.join("more.csv"), format!("{a}{rows_of_b}{rows_of_b}")).unwrap();
    let [one, both, more] = ["a.csv", "both.csv", "more.csv"].map(|name| content(folder, name));
    assert_eq!([one.0, both.0, more.0], [20_000, 40_000, 60_000]);
    for target in ["o.parquet", "dir.parquet/", "sqlite:o.db#t", "o.csv", "o.ndjson", "dir.json/"] {
        let append = ["--mode", "append", "--verify", "full"];
        copy(folder, "a.csv", target, &append);
        assert_eq!(content(folder, target), one, "{target}, which append made");
        copy(folder, "b.csv", target, &append);
        assert_eq!(content(folder, target), both, "{target}");
        copy(folder, "b.csv", target, &append);
        assert_eq!(content(folder, target), more, "{target}: equal rows count each time");
    }
}

#[test]
fn replacing_leaves_only_the_new_rows() {
    let folder = samples();
    let folder = folder.path();
    let [a, b] = ["a.csv", "b.csv"].map(|name| content(folder, name));
    for target in ["o.parquet", "dir.parquet/", "sqlite:o.db#t", "o.csv", "o.ndjson", "dir.json/"] {
        copy(folder, "a.csv", target, &["--threads", "8", "--partitions", "32"]);
        assert_eq!(content(folder, target), a, "{target}");
        copy(folder, "b.csv", target, &["--mode", "replace", "--verify", "full"]);
        assert_eq!(content(folder, target), b, "{target}");
        // Fewer columns are a new schema, which files take; a table keeps the others, and has nulls there.
        copy(folder, "a.csv", target, &["--mode", "replace", "--columns", "note,id"]);
        let narrow = copy(folder, "a.csv", "narrow.parquet", &["--columns", "note,id", "--mode", "replace"]);
        let written = copy(folder, target, "again.parquet", &["--columns", "note,id", "--mode", "replace"]);
        assert_eq!(checksum(&written), checksum(&narrow), "{target}");
        let whole = content(folder, target) == (20_000, checksum(&narrow));
        assert_eq!(whole, !target.starts_with("sqlite:"), "{target}");
    }
    let files = fs::read_dir(folder.join("dir.parquet")).unwrap().count();
    assert!(files <= 4, "old pieces are gone, but there are {files} files");
}

#[test]
fn columns_and_filters_are_the_same_for_every_source() {
    let folder = samples();
    let folder = folder.path();
    for target in ["a.parquet", "dir.parquet/", "sqlite:a.db#t", "a.ndjson", "a.json"] {
        copy(folder, "a.csv", target, &["--partitions", "4"]);
    }
    let cases: [(&[&str], Option<u64>); 8] = [
        (&["--columns", "id"], Some(20_000)),
        (&["--columns", "note,at,id"], Some(20_000)),
        (&["--where", "id < 100"], Some(100)),
        (&["--where", "id < 0"], Some(0)),
        (&["--where", "amount is null", "--columns", "id,name"], Some(20_000_u64.div_ceil(11))),
        (
            &["--where", "note = 'naïve 名'", "--columns", "flag"],
            Some((0..20_000).filter(|id| id % 7 == 1).count() as u64),
        ),
        (&["--where", "flag and amount > 500 or name in ('name1', 'name2')"], None),
        (&["--where", "day >= date '2050-01-01' and note is not null", "--columns", "day,amount"], None),
    ];
    for (flags, rows) in cases {
        let mut first: Option<(u64, String)> = None;
        for source in ["a.csv", "a.parquet", "dir.parquet/", "sqlite:a.db#t", "a.ndjson", "a.json"] {
            let mut all = flags.to_vec();
            all.extend(["--mode", "replace", "--verify", "full"]);
            let result = copy(folder, source, "o.parquet", &all);
            let here = (result["rows_written"].as_u64().unwrap(), checksum(&result));
            assert_eq!(here.0, rows.unwrap_or(here.0), "{source} {flags:?}");
            assert!(rows.is_some() || (1..20_000).contains(&here.0), "{source} {flags:?}: a filter that filters");
            assert_eq!(*first.get_or_insert_with(|| here.clone()), here, "{source} {flags:?}");
        }
    }
}

const MB: u64 = 1 << 20;

/// Appends to the CSV file at `path` its own records, `times` over.
fn repeat_records(path: &Path, times: usize) {
    let mut records = Vec::new();
    let mut file = fs::OpenOptions::new().read(true).append(true).open(path).unwrap();
    file.rewind().unwrap();
    file.read_to_end(&mut records).unwrap();
    let header = records.iter().position(|&byte| byte == b'\n').unwrap() + 1;
    for _ in 0..times {
        file.write_all(&records[header..]).unwrap();
    }
}

/// 60 MB and 120 MB of CSV: enough that anything held for each row, or each piece, shows. How the threads come to run moves
/// a peak by some 10 MB either way, so medians of three runs are compared.
#[test]
fn memory_stays_within_the_budget_whatever_the_size() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let csv = folder.join("data.csv");
    write_csv(&csv, 200_000, 1);
    let size = fs::metadata(&csv).unwrap().len();
    repeat_records(&csv, usize::try_from(60 * MB / size).unwrap());
    assert!(fs::metadata(&csv).unwrap().len() > 60 * MB);
    let chain: [&[&str]; 6] = [
        &["copy", "data.csv", "data.parquet"],
        &["copy", "data.parquet", "dir.parquet/"],
        &["copy", "dir.parquet/", "sqlite:data.db#t"],
        &["copy", "sqlite:data.db#t", "last.parquet"],
        &["copy", "data.parquet", "last.csv"],
        &["copy", "data.parquet", "last.csv.zst"],
    ];
    // Pieces of the same size both times, for a larger piece may use more of the budget.
    let measure = |pieces| {
        chain.map(|copy| {
            let flags = ["--mode", "replace", "--memory", "32MB", "--threads", "2", "--partitions", pieces];
            let mut peaks = [0; 3].map(|_| peak_memory(PROGRAM, folder, &[copy, &flags].concat()));
            peaks.sort_unstable();
            (copy, peaks[1])
        })
    };
    let once = measure("16");
    repeat_records(&csv, 1);
    let twice = measure("32");
    for ((copy, once), (_, twice)) in once.into_iter().zip(twice) {
        println!("{copy:?}: {} MB, with twice the rows {} MB", once / MB, twice / MB);
    }
    for ((copy, once), (_, twice)) in once.into_iter().zip(twice) {
        let (once, twice) = (once / MB, twice / MB);
        assert!(once <= 32 + 64, "{copy:?} took {once} MB");
        assert!(twice <= once + 10, "{copy:?} took {once} MB, and {twice} MB for twice the rows");
    }
}

/// A quoted field so long that each look at a cut sees nothing but what could be records.
#[test]
fn a_file_that_misleads_the_cutting_is_read_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let looks_like_records = "looks,like\na,record\n".repeat(40_000);
    fs::write(folder.join("s.csv"), format!("a,b\n1,x\n2,\"{looks_like_records}\"\n3,y\n")).unwrap();
    let whole = copy(folder, "s.csv", "whole.parquet", &["--partitions", "1"]);
    let split = copy(folder, "s.csv", "split.parquet", &["--partitions", "8", "--verify", "full"]);
    assert_eq!(whole["rows_written"], 3);
    assert_eq!((split["rows_written"].clone(), checksum(&split)), (whole["rows_written"].clone(), checksum(&whole)));
}
