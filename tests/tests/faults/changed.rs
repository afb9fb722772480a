//! Sources that become others while they are read: what is loaded is never of both.

use std::fs;
use std::io::Write;
use std::path::Path;

use etlrs_tests::paused::Paused;
use etlrs_tests::{etlrs, run, write_hashed_csv};

use super::{Bed, PROGRAM, Target};

/// What happens to a source file.
#[derive(Clone, Copy, Debug)]
enum Change {
    Grows,
    Shrinks,
    /// By another of the same size, under its name.
    IsReplaced,
    /// With as many bytes as it had.
    IsRewritten,
    Goes,
}

impl Change {
    const ALL: [Self; 5] = [Self::Grows, Self::Shrinks, Self::IsReplaced, Self::IsRewritten, Self::Goes];

    fn make(self, path: &Path) {
        let bytes = fs::read(path).unwrap();
        match self {
            Self::Grows => {
                let mut file = fs::File::options().append(true).open(path).unwrap();
                file.write_all(&bytes[bytes.len() / 2..]).unwrap();
            }
            Self::Shrinks => {
                fs::File::options().write(true).open(path).unwrap().set_len(bytes.len() as u64 / 2).unwrap();
            }
            Self::IsReplaced => {
                let other = path.with_extension("other");
                fs::write(&other, &bytes).unwrap();
                fs::rename(other, path).unwrap();
            }
            Self::IsRewritten => {
                // Not within the tick of the clock in which it was looked at.
                std::thread::sleep(std::time::Duration::from_millis(20));
                fs::write(path, &bytes).unwrap();
            }
            Self::Goes => fs::remove_file(path).unwrap(),
        }
    }
}

/// The source of version 2 in a format, for loads of which the target has version 1.
fn refuse(extension: &str) {
    let bed = Bed::with_rows(Target::Text, [6000, 9000, 100]).load("create");
    let csv = bed.source(2);
    let source = csv.with_extension(extension);
    if extension != "csv" {
        let copy = ["copy", csv.to_str().unwrap(), source.to_str().unwrap()];
        // Which are the pieces of a Parquet file.
        let groups: &[&str] = if extension == "parquet" { &["--target-option", "row_group_size=1000"] } else { &[] };
        let ran = run(PROGRAM, bed.folder.path(), &[&copy, groups].concat());
        assert_eq!(ran.code, 0, "{ran:?}");
    }
    let whole = fs::read(&source).unwrap();
    for change in Change::ALL {
        for moment in ["run-begun:1", "partition-staged:2"] {
            let what = format!("a .{extension} file that {change:?} at {moment}");
            let arguments = [
                "copy",
                source.to_str().unwrap(),
                bed.target.uri(),
                "--mode",
                "replace",
                "--partitions",
                "6",
                "--threads",
                "1",
            ];
            let paused = Paused::at(&mut etlrs(PROGRAM, &bed.place(), &arguments), moment);
            change.make(&source);
            let ran = paused.go_on();
            assert_eq!(ran.code, 1, "{what}: {ran:?}");
            assert_eq!(bed.versions(&what), [1], "{what}: {ran:?}");
            let lines: Vec<_> = ran.stderr.lines().filter(|line| line.starts_with("error: ")).collect();
            assert!(lines.len() == 1 && !ran.stderr.contains("panicked"), "{what}: {ran:?}");
            fs::write(&source, &whole).unwrap();
            let ran = run(PROGRAM, &bed.place(), &arguments);
            assert_eq!(ran.code, 0, "{what}: then {ran:?}");
            bed.assert_clean(&[2], &what);
            bed.reset();
        }
    }
}

#[test]
fn a_csv_file_that_changes_while_it_is_read_is_refused() {
    refuse("csv");
}

#[test]
fn a_parquet_file_that_changes_while_it_is_read_is_refused() {
    refuse("parquet");
}

#[test]
fn an_ndjson_file_that_changes_while_it_is_read_is_refused() {
    refuse("ndjson");
}

#[test]
fn a_table_of_sqlite_that_changes_while_it_is_read_is_one_or_the_other() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    write_hashed_csv(&at("s.csv"), 9000, 1);
    for changes in
        ["UPDATE t SET version = 9", "DELETE FROM t WHERE id % 2 = 0", "ALTER TABLE t ADD COLUMN more", "DROP TABLE t"]
    {
        for journal in ["delete", "wal"] {
            _ = fs::remove_file(at("s.db"));
            let ran = run(PROGRAM, folder.path(), &["copy", "s.csv", "sqlite:s.db#t"]);
            assert_eq!(ran.code, 0, "{ran:?}");
            let source = rusqlite::Connection::open(at("s.db")).unwrap();
            source.busy_timeout(std::time::Duration::from_millis(200)).unwrap();
            source.pragma_update(None, "journal_mode", journal).unwrap();
            let arguments =
                ["copy", "sqlite:s.db#t", "out.csv", "--mode", "replace", "--partitions", "6", "--threads", "2"];
            let paused = Paused::at(&mut etlrs(PROGRAM, folder.path(), &arguments), "partition-staged:2");
            let changed = source.execute_batch(changes);
            let ran = paused.go_on();
            let what = format!("{changes}, {journal}, {changed:?}: {ran:?}");
            match ran.code {
                0 => {
                    let text = fs::read_to_string(at("out.csv")).unwrap();
                    assert!(text.starts_with("id,version,amount,day,at,flag,name,note,hash\n"), "{what}");
                    let read = run(PROGRAM, folder.path(), &["verify", "s.csv", "out.csv", "--key", "id"]);
                    assert_eq!(read.code, 0, "{what}: {read:?}");
                }
                1 => assert!(ran.stderr.contains("error: ") && !at("out.csv").exists(), "{what}"),
                _ => panic!("{what}"),
            }
            _ = fs::remove_file(at("out.csv"));
        }
    }
}
