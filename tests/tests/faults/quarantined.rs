//! The program is killed at every failpoint of a run that sets records aside: none of them may be lost, and none may be
//! loaded. What is read back is read by the `parquet` crate and by SQLite.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use etlrs_tests::failpoints::{Load, failpoints_of, kill_at_each};
use etlrs_tests::{KILL_AT, Ran, etlrs};
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::{Row, RowAccessor};

use super::{PROGRAM, copy_all, faults, names};

const ROWS: u64 = 4_000;

/// One record of fifty has no number, and belongs into the quarantine.
fn is_bad(id: u64) -> bool {
    id % 50 == 7
}

/// One of fifty is refused by the table.
fn is_refused(id: u64) -> bool {
    id % 50 == 9
}

const TABLE: &str = "CREATE TABLE t (id int CHECK (id % 50 <> 9), note text)";

#[derive(Clone, Copy, Debug, PartialEq)]
enum Place {
    File,
    Database,
}

impl Place {
    fn target(self) -> &'static str {
        match self {
            Self::File => "out.parquet",
            Self::Database => "sqlite:t.db#t",
        }
    }

    fn quarantine(self) -> &'static str {
        match self {
            Self::File => "q.parquet",
            Self::Database => "sqlite:q.db#q",
        }
    }
}

struct Quarantined {
    folder: tempfile::TempDir,
    target: Place,
    quarantine: Place,
    /// The quarantine has records of an earlier run.
    has_earlier: bool,
}

impl Quarantined {
    fn new(target: Place, quarantine: Place, has_earlier: bool) -> Self {
        let load = Self { folder: tempfile::tempdir().unwrap(), target, quarantine, has_earlier };
        if target == Place::Database {
            rusqlite::Connection::open(load.folder.path().join("empty.db")).unwrap().execute_batch(TABLE).unwrap();
        }
        let mut text = "id,note\n".to_owned();
        for id in 0..ROWS {
            text += &if is_bad(id) { format!("no {id},x\n") } else { format!("{id},note {id}\n") };
        }
        fs::write(load.folder.path().join("a.csv"), text).unwrap();
        fs::write(load.folder.path().join("b.csv"), "id,note\nno 1000000,x\n1,y\n").unwrap();
        fs::create_dir(load.place()).unwrap();
        if has_earlier {
            let saved = load.folder.path().join("saved");
            let ran = Ran::of(&load.command("../b.csv", "sqlite:../other.db#t").output().unwrap());
            assert_eq!(ran.code, 3, "{ran:?}");
            copy_all(&load.place(), &saved);
        }
        load
    }

    /// Ids of records that are set aside, with their raw text.
    fn expected_aside(&self) -> Vec<(u64, String)> {
        let refuses = self.target == Place::Database;
        let raw = |id| match id {
            _ if is_bad(id) => Some((id, format!("no {id},x"))),
            _ if refuses && is_refused(id) => Some((id, format!("{{\"id\":{id},\"note\":\"note {id}\"}}"))),
            _ => None,
        };
        (0..ROWS).filter_map(raw).collect()
    }

    fn place(&self) -> PathBuf {
        self.folder.path().join("place")
    }

    fn command(&self, source: &str, target: &str) -> std::process::Command {
        let line = format!(
            "copy {source} {target} --quarantine {} --mode append --partitions 4 --threads 2 --no-progress \
             --source-option types=id:int64",
            self.quarantine.quarantine()
        );
        etlrs(PROGRAM, &self.place(), &line.split_whitespace().collect::<Vec<_>>())
    }

    /// How often each record is in the quarantine, by its raw text.
    fn set_aside(&self) -> BTreeMap<String, usize> {
        let copy = tempfile::tempdir().unwrap();
        copy_all(&self.place(), copy.path());
        let raw: Vec<Vec<u8>> = match self.quarantine {
            Place::File if !copy.path().join("q.parquet").exists() => Vec::new(),
            Place::File => {
                let file = fs::File::open(copy.path().join("q.parquet")).unwrap();
                let reader = SerializedFileReader::new(file).unwrap();
                let rows = reader.get_row_iter(None).unwrap().map(Result::unwrap);
                rows.map(|row| raw_of(&row)).collect()
            }
            Place::Database => column(&copy.path().join("q.db"), "q", "raw"),
        };
        let mut found = BTreeMap::new();
        for raw in raw {
            *found.entry(String::from_utf8(raw).unwrap()).or_default() += 1;
        }
        found
    }

    /// The ids at the target, in order.
    fn loaded(&self) -> Vec<i64> {
        let copy = tempfile::tempdir().unwrap();
        copy_all(&self.place(), copy.path());
        let mut ids: Vec<i64> = match self.target {
            Place::File if !copy.path().join("out.parquet").exists() => Vec::new(),
            Place::File => {
                let file = fs::File::open(copy.path().join("out.parquet")).unwrap();
                let reader = SerializedFileReader::new(file).unwrap();
                reader.get_row_iter(None).unwrap().map(|row| row.unwrap().get_long(0).unwrap()).collect()
            }
            Place::Database => column(&copy.path().join("t.db"), "t", "id"),
        };
        ids.sort_unstable();
        ids
    }
}

/// What a row of a quarantine says of the record.
pub(super) fn raw_of(row: &Row) -> Vec<u8> {
    let at = row.get_column_iter().position(|(name, _)| name == "raw").unwrap();
    row.get_bytes(at).unwrap().data().to_vec()
}

pub(super) fn column<T: rusqlite::types::FromSql>(path: &std::path::Path, table: &str, column: &str) -> Vec<T> {
    let database = rusqlite::Connection::open(path).unwrap();
    let there = database.query_row("select count(*) from sqlite_master where name = ?", [table], |row| row.get(0));
    if there.unwrap_or(0) == 0 {
        return Vec::new();
    }
    let mut query = database.prepare(&format!("select {column} from {table}")).unwrap();
    let rows = query.query_map([], |row| row.get(0)).unwrap();
    rows.map(Result::unwrap).collect()
}

impl Load for Quarantined {
    fn what(&self) -> String {
        format!("{:?} with {:?}", self.target, self.quarantine)
    }

    fn reset(&self) {
        fs::remove_dir_all(self.place()).unwrap();
        fs::create_dir(self.place()).unwrap();
        if self.has_earlier {
            copy_all(&self.folder.path().join("saved"), &self.place());
        }
        if self.target == Place::Database {
            fs::copy(self.folder.path().join("empty.db"), self.place().join("t.db")).unwrap();
        }
    }

    fn run(&self, kill_at: Option<&str>) -> Ran {
        let mut command = self.command("../a.csv", self.target.target());
        command.envs(kill_at.map(|point| (KILL_AT, point)));
        let mut ran = Ran::of(&command.output().unwrap());
        // All that a run may end with, but for a kill.
        if ran.code == 3 {
            ran.code = 0;
        }
        ran
    }

    fn is_loaded(&self, what: &str) -> bool {
        let ids = self.loaded();
        let set_aside = self.set_aside();
        if ids.is_empty() {
            return false;
        }
        let aside = self.expected_aside();
        let is_aside = |id: &u64| aside.iter().any(|(other, _)| other == id);
        let expected = (0..ROWS).filter(|id| !is_aside(id)).map(|id| i64::try_from(id).unwrap());
        assert!(ids.iter().copied().eq(expected), "{what}: {} rows, or others", ids.len());
        let missing: Vec<_> = aside.iter().filter(|(_, raw)| !set_aside.contains_key(raw)).collect();
        assert!(missing.is_empty(), "{what}: not in the quarantine: {missing:?}");
        true
    }

    fn assert_done(&self, what: &str) {
        assert!(self.is_loaded(what), "{what}: nothing is loaded");
        let mut set_aside = self.set_aside();
        if self.has_earlier {
            assert_eq!(set_aside.remove("no 1000000,x"), Some(1), "{what}: what an earlier run had set aside");
        }
        let expected: BTreeMap<_, _> = self.expected_aside().into_iter().map(|(_, raw)| (raw, 1)).collect();
        assert_eq!(set_aside, expected, "{what}");
        let left: Vec<_> = names(&self.place()).into_iter().filter(|name| name.starts_with('.')).collect();
        assert!(left.is_empty(), "{what}: left behind {left:?}");
    }
}

#[test]
fn whatever_is_killed_no_record_is_lost_or_doubled() {
    use Place::{Database, File};
    let loads = [
        Quarantined::new(File, File, false),
        Quarantined::new(Database, File, true),
        Quarantined::new(File, Database, true),
        Quarantined::new(Database, Database, false),
    ];
    let mut points = failpoints_of("quarantine-");
    points.append(&mut failpoints_of("files-"));
    points.append(&mut failpoints_of("sqlite-"));
    // Of directories.
    points.retain(|name| !["files-exchanged", "files-linked"].contains(&&**name));
    let loads: Vec<_> = loads.iter().map(|load| load as &dyn Load).collect();
    let done = kill_at_each(&loads, &points, faults(0) > 0);
    eprintln!("quarantine: {} failpoints, {} kills, {} loads went on", points.len(), done.kills, done.went_on);
}
