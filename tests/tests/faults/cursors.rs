//! A source that grows is loaded again and again, and killed at every failpoint: each row must get to the target once, for the
//! position in the source is saved together with the rows.

use std::fs;
use std::path::PathBuf;

use etlrs_tests::failpoints::{failpoints_of, kill_and_repeat};
use etlrs_tests::{KILL_AT, Ran, etlrs};
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::RowAccessor;

use super::quarantined::column;
use super::{PROGRAM, copy_all, faults};

struct Growing {
    folder: tempfile::TempDir,
    target: &'static str,
    mode: &'static [&'static str],
}

impl Growing {
    fn new(target: &'static str, mode: &'static [&'static str]) -> Self {
        let growing = Self { folder: tempfile::tempdir().unwrap(), target, mode };
        growing.reset();
        growing
    }

    fn place(&self) -> PathBuf {
        self.folder.path().join("place")
    }

    fn source(&self) -> rusqlite::Connection {
        rusqlite::Connection::open(self.folder.path().join("a.db")).unwrap()
    }

    fn reset(&self) {
        _ = fs::remove_dir_all(self.place());
        fs::create_dir(self.place()).unwrap();
        self.source()
            .execute_batch("DROP TABLE IF EXISTS t; CREATE TABLE t (id INTEGER PRIMARY KEY, at INTEGER)")
            .unwrap();
    }

    /// Several rows have one value of the cursor's column, and the next ones have it too.
    fn grow(&self) {
        let sql =
            "INSERT INTO t (at) SELECT coalesce((SELECT max(at) FROM t), 0) + value / 20 FROM generate_series(1, 50)";
        // Not every SQLite has that function.
        let sql = sql.replace(
            "generate_series(1, 50)",
            "(WITH RECURSIVE n(value) AS (SELECT 1 UNION ALL SELECT value + 1 FROM n WHERE value < 50) SELECT value FROM n)",
        );
        self.source().execute_batch(&sql).unwrap();
    }

    fn command(&self) -> std::process::Command {
        let column = if self.mode.contains(&"merge") { "cursor=at" } else { "cursor=id" };
        let line =
            ["copy", "sqlite:../a.db#t", self.target, "--source-option", column, "--no-progress", "--partitions", "2"];
        etlrs(PROGRAM, &self.place(), &[&line[..], self.mode].concat())
    }

    fn run(&self, kill_at: Option<&str>) -> Ran {
        self.grow();
        let mut command = self.command();
        command.envs(kill_at.map(|point| (KILL_AT, point)));
        Ran::of(&command.output().unwrap())
    }

    fn ids(&self) -> Vec<i64> {
        let copy = tempfile::tempdir().unwrap();
        copy_all(&self.place(), copy.path());
        if self.target.starts_with("sqlite:") {
            return column(&copy.path().join("t.db"), "t", "id");
        }
        let manifest = fs::read_to_string(copy.path().join("out/_etlrs_manifest.json")).unwrap();
        let manifest: serde_json::Value = serde_json::from_str(&manifest).unwrap();
        let files = manifest["files"].as_array().unwrap().iter().map(|file| file["name"].as_str().unwrap().to_owned());
        let ids = files.flat_map(|name| {
            let path = copy.path().join("out").join(&name);
            if name.ends_with(".parquet") {
                let reader = SerializedFileReader::new(fs::File::open(path).unwrap()).unwrap();
                let rows = reader.get_row_iter(None).unwrap();
                return rows.map(|row| row.unwrap().get_long(0).unwrap()).collect::<Vec<_>>();
            }
            let text = fs::read_to_string(path).unwrap();
            text.lines().skip(1).map(|line| line.split(',').next().unwrap().parse().unwrap()).collect()
        });
        ids.collect()
    }

    fn assert_done(&self, what: &str) {
        let mut found = self.ids();
        found.sort_unstable();
        let rows: i64 = self.source().query_row("SELECT max(id) FROM t", [], |row| row.get(0)).unwrap();
        assert!(found.iter().copied().eq(1..=rows), "{what}: {} rows of {rows}, or others", found.len());
    }
}

const APPEND: &[&str] = &["--mode", "append"];
const MERGE: &[&str] = &["--mode", "merge", "--key", "id"];

#[test]
fn whatever_is_killed_a_growing_source_is_loaded_once() {
    let mut kills = 0;
    for (target, mode, prefix) in [
        ("sqlite:t.db#t", APPEND, "sqlite-"),
        ("sqlite:t.db#t", MERGE, "sqlite-"),
        ("parquet:out/", APPEND, "files-"),
        ("csv:out/", APPEND, "files-"),
    ] {
        let growing = Growing::new(target, mode);
        let mut points = failpoints_of(prefix);
        // Another directory takes the place of one only when it is there.
        points.retain(|name| !["files-exchanged", "files-linked"].contains(&&**name));
        let reset = || growing.reset();
        let done = kill_and_repeat(&points, faults(0) > 0, &reset, &|kill_at| growing.run(kill_at), &|what| {
            growing.assert_done(what);
        });
        kills += done.kills;
    }
    eprintln!("cursors: {kills} kills");
}

/// The one that comes later has looked at the position before the other one saved its own.
#[test]
fn two_at_once_load_no_row_twice() {
    for (target, mode) in [("sqlite:t.db#t", APPEND), ("parquet:out/", APPEND)] {
        let growing = Growing::new(target, mode);
        assert_eq!(growing.run(None).code, 0);
        for round in 0..if faults(0) > 0 { 50 } else { 8 } {
            growing.grow();
            let children: Vec<_> = (0..3)
                .map(|_| {
                    let mut command = growing.command();
                    command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn().unwrap()
                })
                .collect();
            let ran: Vec<_> = children.into_iter().map(|child| Ran::of(&child.wait_with_output().unwrap())).collect();
            for ran in &ran {
                let is_refused = ["is writing", "is being written", "meanwhile", "went on", "changed while"]
                    .iter()
                    .any(|told| ran.stderr.contains(told));
                assert!(ran.code == 0 || ran.code == 1 && is_refused, "round {round}: {ran:?}");
            }
            assert_eq!(growing.run(None).code, 0);
            growing.assert_done(&format!("{target}, round {round}: {ran:?}"));
        }
    }
}

#[test]
fn a_replaced_target_and_one_that_is_gone_are_read_from_the_start() {
    let growing = Growing::new("sqlite:t.db#t", APPEND);
    assert_eq!(growing.run(None).code, 0);
    let target = || rusqlite::Connection::open(growing.place().join("t.db")).unwrap();
    target().execute_batch("DROP TABLE t").unwrap();
    assert_eq!(growing.run(None).code, 0);
    growing.assert_done("when the table was gone");
    // With a position of the user's own nothing is taken from what is kept, and nothing is put there.
    let line = "copy sqlite:../a.db#t sqlite:t.db#u --source-option cursor=id --source-option cursor_after=90 --mode append \
                --target-option primary_key=false";
    let arguments: Vec<_> = line.split_whitespace().collect();
    for rows in [10, 20] {
        let ran = Ran::of(&etlrs(PROGRAM, &growing.place(), &arguments).output().unwrap());
        assert_eq!(ran.code, 0, "{ran:?}");
        let found: i64 = target().query_row("SELECT count(*) FROM u", [], |row| row.get(0)).unwrap();
        assert_eq!(found, rows);
    }
    // Another source has a position of its own.
    fs::copy(growing.folder.path().join("a.db"), growing.folder.path().join("b.db")).unwrap();
    let other = "copy sqlite:../b.db#t sqlite:t.db#t --source-option cursor=id --mode merge --key id";
    let other: Vec<_> = other.split_whitespace().collect();
    let ran = Ran::of(&etlrs(PROGRAM, &growing.place(), &other).output().unwrap());
    assert!(ran.stdout.contains("cursor    read up to 100, where the next run goes on"), "{ran:?}");
    let rows: i64 = target().query_row("SELECT count(*) FROM t", [], |row| row.get(0)).unwrap();
    assert_eq!(rows, 100);
    // A load without a cursor replaces the rows, so that nobody knows any more what of the source is there.
    let replaced = ["copy", "sqlite:../a.db#t", "sqlite:t.db#t", "--mode", "replace", "--where", "id <= 0"];
    assert_eq!(Ran::of(&etlrs(PROGRAM, &growing.place(), &replaced).output().unwrap()).code, 0);
    assert_eq!(growing.run(None).code, 0);
    growing.assert_done("when it was replaced");
}
