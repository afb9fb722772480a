//! Records that are set aside, with the program as a whole: what is kept where, what is said, how it ends.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

mod replayed;

use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::Stdio;

use etlrs_tests::{KILL_AT, Ran, etlrs, run};
use rusqlite::Connection;
use serde_json::Value;

const PROGRAM: &str = env!("CARGO_BIN_EXE_etlrs-under-test");

fn run_line(folder: &Path, line: &str) -> Ran {
    run(PROGRAM, folder, &line.split_whitespace().collect::<Vec<_>>())
}

/// Runs a line that ends with `code` and prints JSON.
fn json(folder: &Path, line: &str, code: i32) -> Value {
    let ran = run_line(folder, &format!("{line} --output json"));
    assert_eq!((ran.code, ran.stderr.as_str()), (code, ""), "{line}: {ran:?}");
    serde_json::from_str(&ran.stdout).unwrap()
}

fn refused(folder: &Path, line: &str, code: i32) -> String {
    let ran = run_line(folder, line);
    assert_eq!((ran.code, ran.stdout.as_str()), (code, ""), "{line}: {ran:?}");
    ran.stderr
}

fn names(folder: &Path) -> Vec<String> {
    let names = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = names.collect();
    names.sort();
    names
}

/// Of the quarantine `place`: record, line, byte, column, reason and raw text of each row, in order.
type Kept = (i64, i64, i64, Option<String>, String, Vec<u8>);

fn kept(folder: &Path, place: &str) -> Vec<Kept> {
    let copy = tempfile::tempdir().unwrap();
    let database = copy.path().join("q.db");
    let ran = run(PROGRAM, folder, &["copy", place, &format!("sqlite:{}#q", database.display())]);
    assert_eq!(ran.code, 0, "{ran:?}");
    let connection = Connection::open(database).unwrap();
    let mut query = connection
        .prepare("select record, line, byte, \"column\", reason, raw from q order by byte, part, rowid")
        .unwrap();
    let rows =
        query.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?, row.get(5)?)));
    rows.unwrap().map(Result::unwrap).collect()
}

/// Fifty thousand records, and among them some that are wrong in every way; gives the number of those.
fn write_mixed(path: &Path) -> (u64, u64) {
    let (mut text, mut bad) = (String::from("id,day,note\n").into_bytes(), 0);
    for id in 0..50_000u64 {
        let line = match id {
            _ if id % 1999 == 7 => format!("{id},2024-01-01\n"),
            _ if id % 2003 == 9 => format!("{id},never,secret\n"),
            _ if id % 2011 == 11 => format!("{id},2024-01-01,\"two\nlines\"x, \"\n"),
            _ if id % 2017 == 13 => format!("{id},2024-01-01,\"two\nlines\",\"more\n\"\n"),
            _ if id % 5 == 0 => {
                text.extend(format!("{id},2024-01-{:02},\"two\nlines \"\"{id}\"\"\"\n", 1 + id % 28).into_bytes());
                continue;
            }
            _ => {
                text.extend(format!("{id},2024-01-{:02},note {id}\n", 1 + id % 28).into_bytes());
                continue;
            }
        };
        bad += 1;
        text.extend(line.into_bytes());
    }
    fs::write(path, text).unwrap();
    (50_000, bad)
}

const SMALL: &[u8] = b"id,day,note\n1,2024-01-01,x\n2,someday,classified\n3,2024-01-03\n4,\"2024\"-01-04,y\r\n5,2024-01-05,\xe9\n6,2024-01-06,z\n";
const TYPES: &str = "--source-option types=id:int64,day:date";

#[test]
fn bad_records_are_kept_beside_the_target_and_the_exit_code_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    fs::write(folder.join("a.csv"), SMALL).unwrap();

    let error = refused(folder, &format!("copy a.csv a.parquet {TYPES}"), 1);
    assert!(error.contains("a.csv, record 3, line 4"), "{error}");
    assert_eq!(names(folder), ["a.csv"]);

    let ran = run_line(folder, &format!("copy a.csv a.parquet {TYPES} --on-error quarantine --verify full"));
    assert_eq!((ran.code, ran.stderr.as_str()), (3, ""), "{ran:?}");
    for line in [
        "read      6 rows",
        "rejected  4 rows → a.parquet.rejected.parquet\n",
        "dropped   0 rows",
        "written   2 rows",
        "source = target, read back",
        "first     rejected: a.csv, record 2, line 3, byte 29, column \"day\": the value is no date",
    ] {
        assert!(ran.stdout.contains(line), "{line:?} is not in\n{}", ran.stdout);
    }
    assert!(!ran.stdout.contains("classified") && !ran.stdout.contains("someday"), "{}", ran.stdout);
    assert_eq!(names(folder), ["a.csv", "a.parquet", "a.parquet.rejected.parquet"]);
    let seen = json(folder, "inspect a.parquet", 0);
    assert_eq!(seen["first_rows"].as_array().unwrap().len(), 2);

    let found = kept(folder, "a.parquet.rejected.parquet");
    let places: Vec<_> = found.iter().map(|(record, line, byte, ..)| (*record, *line, *byte)).collect();
    assert_eq!(places, [(2, 3, 29), (3, 4, 48), (4, 5, 69), (5, 6, 92)]);
    let raw: Vec<_> = found.iter().map(|row| row.5.as_slice()).collect();
    let expected: [&[u8]; 4] = [b"2,someday,classified", b"3,2024-01-03", b"4,\"2024\"-01-04,y", b"5,2024-01-05,\xe9"];
    assert_eq!(raw, expected);
    assert_eq!(found[0].3.as_deref(), Some("day"));
    assert_eq!(found[3].3.as_deref(), Some("note"));
    assert!(found[1].4.starts_with("2 fields where the header has 3"), "{}", found[1].4);

    // Another run adds to it, whatever the mode of the target.
    let again = json(folder, &format!("copy a.csv a.parquet {TYPES} --on-error quarantine --mode replace"), 3);
    assert_eq!(
        (&again["rows_read"], &again["rows_rejected"], &again["rows_written"]),
        (&6.into(), &4.into(), &2.into())
    );
    assert_eq!(again["quarantine"], "a.parquet.rejected.parquet");
    assert!(again["first_rejected"].as_str().unwrap().starts_with("a.csv, record 2, line 3"));
    assert_eq!(kept(folder, "a.parquet.rejected.parquet").len(), 8);
}

#[test]
fn nothing_is_left_where_nothing_was_rejected() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    fs::write(folder.join("a.csv"), "a,b\n1,2\n").unwrap();
    for (index, place) in
        ["", "--quarantine q.csv", "--quarantine q.parquet/", "--quarantine sqlite:q.db#q"].into_iter().enumerate()
    {
        let result = json(folder, &format!("copy a.csv {index}.parquet --on-error quarantine {place}"), 0);
        assert_eq!((&result["rows_rejected"], &result["quarantine"]), (&0.into(), &Value::Null));
    }
    assert_eq!(names(folder), ["0.parquet", "1.parquet", "2.parquet", "3.parquet", "a.csv"]);
    let planned = run_line(folder, "plan a.csv o.parquet --on-error quarantine");
    assert!(planned.stdout.contains("note: records that cannot be read are kept in o.parquet.rejected.parquet"));
    assert_eq!(json(folder, "plan a.csv o.parquet --quarantine q.csv", 0)["quarantine"], "q.csv");
}

#[test]
fn too_many_bad_records_leave_everything_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    fs::write(folder.join("a.csv"), SMALL).unwrap();
    fs::write(folder.join("o.csv"), "old\n").unwrap();
    let line = format!("copy a.csv o.csv --mode replace {TYPES} --max-errors");
    let error = refused(folder, &format!("{line} 3"), 1);
    assert!(
        error.starts_with(
            "error: more than the 3 records that max_errors allows were rejected; the first is a.csv, record 2"
        ),
        "{error}"
    );
    assert!(!error.contains("classified"), "{error}");
    assert_eq!(names(folder), ["a.csv", "o.csv"]);
    assert_eq!(fs::read_to_string(folder.join("o.csv")).unwrap(), "old\n");
    assert_eq!(json(folder, &format!("{line} 4"), 3)["rows_rejected"], 4);
}

#[test]
fn a_policy_that_cannot_be_is_wrong_usage() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    fs::write(folder.join("a.csv"), SMALL).unwrap();
    fs::write(folder.join("p.toml"), "[source]\nuri='a.csv'\n[target]\nuri='o.csv'\n[errors]\nmax_errors=-1\n")
        .unwrap();
    for (line, needle) in [
        ("copy a.csv o.csv --on-error skip", "there is no on_error \"skip\"; there is fail, quarantine"),
        ("copy a.csv o.csv --on-error fail --max-errors 1", "--on-error quarantine"),
        ("copy a.csv sqlite:o.db#t --on-error quarantine", "name one with --quarantine"),
        ("copy a.csv o.csv --quarantine o.csv", "in the same place as the target"),
        ("copy a.csv o.csv --quarantine a.csv", "in the same place as the source"),
        ("copy a.csv sqlite:o.db#t --quarantine sqlite:o.db#q", "in the same place as the target"),
        ("copy a.csv o.csv --quarantine q.xyz", "no connector serves files that end in .xyz"),
        ("run p.toml", "max_errors in [errors] must be a number of at least 0"),
    ] {
        let error = refused(folder, line, 2);
        assert!(error.starts_with("error: ") && error.contains(needle), "{line}: {error}");
    }
    assert_eq!(names(folder), ["a.csv", "p.toml"]);
}

#[test]
fn a_pipeline_file_has_a_policy_and_flags_win() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    fs::write(folder.join("a.csv"), SMALL).unwrap();
    fs::create_dir(folder.join("sub")).unwrap();
    let file = "\
[source]
uri = '../a.csv'
options = { types = { id = 'int64', day = 'date' } }
[[transform]]
type = 'filter'
where = 'id > 1'
[target]
uri = 'o.parquet'
mode = 'replace'
verify = 'full'
[errors]
quarantine = 'bad.csv'
max_errors = 10
";
    fs::write(folder.join("sub/p.toml"), file).unwrap();
    let result = json(folder, "run sub/p.toml", 3);
    let rows = ["rows_read", "rows_rejected", "rows_dropped", "rows_written"].map(|key| result[key].as_u64().unwrap());
    assert_eq!(rows, [6, 4, 1, 1]);
    assert_eq!(result["quarantine"], "sub/bad.csv");
    assert_eq!(names(&folder.join("sub")), ["bad.csv", "o.parquet", "p.toml"]);
    let bad = fs::read_to_string(folder.join("sub/bad.csv")).unwrap();
    // Binary is written in hexadecimal digits.
    assert_eq!((bad.lines().count(), bad.contains(",332c323032342d30312d3033,")), (5, true), "{bad}");

    assert!(refused(folder, "run sub/p.toml --max-errors 2", 1).contains("more than the 2 records"));
    assert!(refused(folder, "run sub/p.toml --on-error fail", 1).contains("record 3, line 4"));
    assert_eq!(json(folder, "run sub/p.toml --quarantine here.parquet", 3)["quarantine"], "here.parquet");
    assert_eq!(
        json(folder, "run sub/p.toml --set errors.quarantine=there.parquet", 3)["quarantine"],
        "sub/there.parquet"
    );
    assert_eq!(kept(folder, "here.parquet"), kept(folder, "sub/there.parquet"));
    assert!(json(folder, "plan sub/p.toml", 0)["quarantine"].is_string());
}

#[test]
fn however_a_file_is_cut_the_same_is_kept_and_loaded() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let (records, bad) = write_mixed(&folder.join("a.csv"));
    let mut first: Option<(Value, Vec<Kept>)> = None;
    for (index, how) in [
        "--partitions 1",
        "--partitions 7 --threads 3",
        "--partitions 40 --threads 2 --memory 16MB",
        "--partitions 3 --threads 2 --source-option comment=#",
    ]
    .into_iter()
    .enumerate()
    {
        let place = format!("q{index}.parquet");
        let line = format!("copy a.csv o{index}.parquet --quarantine {place} {how} {TYPES} --verify full");
        let result = json(folder, &line, 3);
        assert_eq!((&result["rows_read"], &result["rows_rejected"]), (&records.into(), &bad.into()), "{how}");
        assert_eq!(result["source_checksum"], result["target_checksum"], "{how}");
        let (checksum, found) = (result["source_checksum"].clone(), kept(folder, &place));
        assert_eq!(found.len() as u64, bad);
        assert!(found.windows(2).all(|pair| pair[0].0 < pair[1].0), "in the order of the source");
        match &first {
            None => first = Some((checksum, found)),
            Some(expected) => assert!(*expected == (checksum, found), "{how}"),
        }
    }
    // What is kept has the place and the text that the file has.
    let text = fs::read(folder.join("a.csv")).unwrap();
    for (_, line, byte, _, _, raw) in first.unwrap().1 {
        let byte = usize::try_from(byte).unwrap();
        assert_eq!(line as usize, 1 + text[..byte].iter().filter(|&&byte| byte == b'\n').count());
        let from = byte.saturating_sub(raw.len());
        let around = &text[from..(byte + raw.len()).min(text.len())];
        assert!(around.windows(raw.len()).any(|window| window == raw));
    }
}

/// The guess at where to cut may be wrong where a quote is never closed; the run then begins again, and says the same.
#[test]
fn a_quote_that_is_never_closed_keeps_the_rest_of_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let mut text = String::from("a,b\n");
    let good = |text: &mut String| (0..20_000).for_each(|n| writeln!(text, "{n},some note").unwrap());
    good(&mut text);
    text.push_str("9,\"open\n");
    let rest = text.len() - "9,\"open\n".len();
    good(&mut text);
    fs::write(folder.join("a.csv"), &text).unwrap();
    for partitions in [1, 5] {
        let place = format!("q{partitions}.parquet");
        let line =
            format!("copy a.csv o{partitions}.parquet --quarantine {place} --partitions {partitions} --memory 8MB");
        let result = json(folder, &line, 3);
        assert_eq!((&result["rows_written"], &result["rows_rejected"]), (&20_000.into(), &1.into()));
        let found = kept(folder, &place);
        assert!(found.len() > 1, "it comes in parts");
        assert_eq!((found[0].0, found[0].1), (20_001, 20_002));
        let raw: Vec<u8> = found.into_iter().flat_map(|row| row.5).collect();
        assert_eq!(raw, text[rest..].trim_end().as_bytes());
    }
}

#[test]
fn standard_input_and_compressed_files_have_bad_records_too() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let arguments = ["copy", "-", "o.csv", "--on-error", "quarantine", "--source-option", "types=id:int64,day:date"];
    let mut child = etlrs(PROGRAM, folder, &arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(SMALL).unwrap();
    let ran = Ran::of(&child.wait_with_output().unwrap());
    assert_eq!((ran.code, ran.stderr.as_str()), (3, ""), "{ran:?}");
    let piped = kept(folder, "o.csv.rejected.parquet");
    fs::write(folder.join("a.csv"), SMALL).unwrap();
    let packed = std::process::Command::new("gzip").arg("-k").arg(folder.join("a.csv")).status().unwrap();
    assert!(packed.success());
    for source in ["a.csv", "a.csv.gz"] {
        json(folder, &format!("copy {source} p.csv --mode replace --quarantine {source}.parquet {TYPES}"), 3);
        assert_eq!(kept(folder, &format!("{source}.parquet")), piped, "{source}");
    }
}

#[test]
fn a_run_that_is_killed_leaves_the_old_data_and_no_quarantine() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    fs::write(folder.join("o.csv"), "old\n").unwrap();
    let arguments =
        ["copy", "-", "o.csv", "--mode", "replace", "--on-error", "quarantine", "--source-option", "types=id:int64"];
    let mut child = etlrs(PROGRAM, folder, &arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    let mut text = String::from("id,note\n");
    (0..200_000).for_each(|n| writeln!(text, "{}{n},x", if n % 3 == 0 { "bad" } else { "" }).unwrap());
    input.write_all(text.as_bytes()).unwrap();
    input.flush().unwrap();
    // All but what is in the pipe has been read, and some of it staged, when the program is killed.
    child.kill().unwrap();
    child.wait().unwrap();
    drop(input);
    assert_eq!(fs::read_to_string(folder.join("o.csv")).unwrap(), "old\n");
    let visible = || names(folder).into_iter().filter(|name| !name.starts_with('.')).collect::<Vec<_>>();
    assert_eq!(visible(), ["o.csv"]);
    // The next run clears up after it.
    fs::write(folder.join("a.csv"), &text).unwrap();
    let next = "copy a.csv o.csv --mode replace --on-error quarantine --source-option types=id:int64";
    assert_eq!(json(folder, next, 3)["rows_rejected"], 66_667);
    assert_eq!(names(folder), ["a.csv", "o.csv", "o.csv.rejected.parquet"]);
}

#[test]
fn what_a_table_refuses_is_kept_with_the_source_of_the_piece() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    fs::write(
        folder.join("a.csv"),
        "id,day,n\n1,2024-01-01,5\nx,2024-01-02,7\n2,never,8\n3,2024-01-03,500\n1,2024-01-04,9\n",
    )
    .unwrap();
    let database = Connection::open(folder.join("t.db")).unwrap();
    database.execute_batch("CREATE TABLE t (id INTEGER PRIMARY KEY, day DATE, n INTEGER CHECK (n < 100))").unwrap();
    let error = refused(folder, "copy a.csv sqlite:t.db#t --mode append", 1);
    assert!(error.contains("text cannot be stored unchanged"), "{error}");
    let result = json(
        folder,
        "copy a.csv sqlite:t.db#t --mode append --quarantine q.parquet --source-option types=id:int64,day:date",
        3,
    );
    let rows = ["rows_read", "rows_rejected", "rows_dropped", "rows_written"].map(|key| result[key].as_u64().unwrap());
    assert_eq!(rows, [5, 4, 0, 1]);
    let ran = run(PROGRAM, folder, &["copy", "q.parquet", "sqlite:q.db#q"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    let kept = Connection::open(folder.join("q.db")).unwrap();
    let mut query = kept.prepare("SELECT stage, \"column\", source, CAST(raw AS text) FROM q ORDER BY rowid").unwrap();
    let rows = query.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?))).unwrap();
    let rows: Vec<(String, Option<String>, Option<String>, String)> = rows.map(Result::unwrap).collect();
    let expected = [
        ("source", Some("id"), Some("a.csv"), "x,2024-01-02,7"),
        ("source", Some("day"), Some("a.csv"), "2,never,8"),
        ("target", None, None, r#"{"id":3,"day":"2024-01-03","n":500}"#),
        ("target", None, None, r#"{"id":1,"day":"2024-01-04","n":9}"#),
    ];
    let owned = |text: Option<&str>| text.map(str::to_owned);
    assert_eq!(rows, expected.map(|(a, b, c, d)| (a.to_owned(), owned(b), owned(c), d.to_owned())));
}

/// Its key is the rowid of what is staged, which then tells no pieces apart.
#[test]
fn a_table_with_a_number_for_a_key_is_gone_on_with() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let source = Connection::open(folder.join("a.db")).unwrap();
    source
        .execute_batch(
            "CREATE TABLE t (id INTEGER PRIMARY KEY, note TEXT); WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1
             FROM n WHERE i < 3000) INSERT INTO t SELECT i, 'note ' || i FROM n",
        )
        .unwrap();
    drop(source);
    let line = "copy sqlite:a.db#t sqlite:b.db#t --quarantine q.parquet --partitions 4 --threads 1 --no-progress";
    let arguments: Vec<_> = line.split_whitespace().collect();
    let killed = etlrs(PROGRAM, folder, &arguments).env(KILL_AT, "sqlite-part-committed:2").output().unwrap();
    assert_eq!(Ran::of(&killed).code, -9);
    let ran = run(PROGRAM, folder, &arguments);
    assert_eq!(ran.code, 0, "{ran:?}");
    let target = Connection::open(folder.join("b.db")).unwrap();
    let sums = "SELECT count(*), count(DISTINCT id), sum(id) FROM t WHERE note = 'note ' || id";
    let found = target.query_row(sums, [], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?))).unwrap();
    assert_eq!(found, (3000, 3000, 3000 * 3001 / 2));
    assert_eq!(names(folder), ["a.db", "b.db"]);
}
