//! The program is killed at every failpoint of a replay: each record must be loaded once, or be in the quarantine once. What is read
//! back is read by the `parquet` crate and by SQLite.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use etlrs_tests::failpoints::{failpoints_of, kill_and_repeat};
use etlrs_tests::{KILL_AT, Ran, etlrs};
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::RowAccessor;

use super::quarantined::{column, raw_of};
use super::{PROGRAM, copy_all, faults};

const ROWS: u64 = 2_000;

/// What comes of a record of the first load, and of the replay.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fate {
    Good,
    /// It has a number that is spelled in a way of which the replay is told.
    Mended,
    /// It has none, ever.
    Bad,
    /// The table refuses it, and does so no longer.
    Allowed,
    /// It refuses it ever.
    Refused,
}

impl Fate {
    fn of(id: u64, refuses: bool) -> Self {
        match id % 50 {
            7 | 17 => Self::Mended,
            8 => Self::Bad,
            9 if !refuses => Self::Good,
            9 if id % 100 == 9 => Self::Refused,
            9 => Self::Allowed,
            _ => Self::Good,
        }
    }
}

struct Replayed {
    folder: tempfile::TempDir,
    target: &'static str,
    quarantine: &'static str,
}

impl Replayed {
    fn new(target: &'static str, quarantine: &'static str) -> Self {
        let replayed = Self { folder: tempfile::tempdir().unwrap(), target, quarantine };
        let mut text = "id,n,note\n".to_owned();
        for id in 0..ROWS {
            text += &match Fate::of(id, replayed.refuses()) {
                Fate::Bad => format!("{id},\"x\"y\"\n"),
                Fate::Mended if id % 50 == 17 => format!("{id},none,\"note \"\"{id}\"\"\"\n"),
                Fate::Mended => format!("{id},none,note {id}\n"),
                _ => format!("{id},{id},note {id}\n"),
            };
        }
        fs::write(replayed.folder.path().join("a.csv"), text).unwrap();
        fs::create_dir(replayed.place()).unwrap();
        replayed.table("id % 50 <> 9");
        let line = format!(
            "copy ../a.csv {target} --quarantine {quarantine} --mode append --partitions 3 --no-progress \
             --source-option types=id:int64,n:int64,note:text"
        );
        let ran =
            Ran::of(&etlrs(PROGRAM, &replayed.place(), &line.split_whitespace().collect::<Vec<_>>()).output().unwrap());
        assert_eq!(ran.code, 3, "{ran:?}");
        replayed.table("id % 100 <> 9");
        copy_all(&replayed.place(), &replayed.folder.path().join("saved"));
        replayed
    }

    fn refuses(&self) -> bool {
        self.target.starts_with("sqlite:")
    }

    /// Lets the table have another constraint.
    fn table(&self, check: &str) {
        if !self.refuses() {
            return;
        }
        let database = rusqlite::Connection::open(self.place().join("t.db")).unwrap();
        let sql = format!(
            "CREATE TABLE IF NOT EXISTS t (id int, n int, note text); CREATE TABLE u (id int CHECK ({check}), n int, note text);
             INSERT INTO u SELECT * FROM t; DROP TABLE t; ALTER TABLE u RENAME TO t;"
        );
        database.execute_batch(&sql).unwrap();
    }

    fn place(&self) -> PathBuf {
        self.folder.path().join("place")
    }

    fn reset(&self) {
        fs::remove_dir_all(self.place()).unwrap();
        copy_all(&self.folder.path().join("saved"), &self.place());
    }

    fn run(&self, kill_at: Option<&str>) -> Ran {
        let line = format!("replay {} {} --no-progress --source-option null_values=none", self.quarantine, self.target);
        let mut command = etlrs(PROGRAM, &self.place(), &line.split_whitespace().collect::<Vec<_>>());
        command.envs(kill_at.map(|point| (KILL_AT, point)));
        let mut ran = Ran::of(&command.output().unwrap());
        // Some fail again.
        if ran.code == 3 {
            ran.code = 0;
        }
        ran
    }

    fn assert_done(&self, what: &str) {
        let copy = tempfile::tempdir().unwrap();
        copy_all(&self.place(), copy.path());
        let rows = |name: &str| {
            let file = fs::File::open(copy.path().join(name)).unwrap();
            SerializedFileReader::new(file).unwrap().get_row_iter(None).unwrap().map(Result::unwrap).collect::<Vec<_>>()
        };
        let mut ids: Vec<i64> = match self.refuses() {
            true => column(&copy.path().join("t.db"), "t", "id"),
            false => rows("out.parquet").iter().map(|row| row.get_long(0).unwrap()).collect(),
        };
        ids.sort_unstable();
        let stays = |id: &u64| matches!(Fate::of(*id, self.refuses()), Fate::Bad | Fate::Refused);
        let expected = (0..ROWS).filter(|id| !stays(id)).map(|id| i64::try_from(id).unwrap());
        assert!(ids.iter().copied().eq(expected), "{what}: {} rows, or others", ids.len());
        let raw: Vec<Vec<u8>> = match self.quarantine.starts_with("sqlite:") {
            true => column(&copy.path().join("q.db"), "q", "raw"),
            false => rows("q.parquet").iter().map(raw_of).collect(),
        };
        let mut found: BTreeMap<u64, usize> = BTreeMap::new();
        for raw in raw {
            let text = String::from_utf8(raw).unwrap();
            let digits: String =
                text.chars().skip_while(|c| !c.is_ascii_digit()).take_while(char::is_ascii_digit).collect();
            *found.entry(digits.parse().unwrap()).or_default() += 1;
        }
        let expected: BTreeMap<u64, usize> = (0..ROWS).filter(stays).map(|id| (id, 1)).collect();
        assert_eq!(found, expected, "{what}: in the quarantine");
        let marked: Vec<Option<String>> = match self.quarantine.starts_with("sqlite:") {
            true => column(&copy.path().join("q.db"), "q", "replay"),
            false => rows("q.parquet").iter().map(|row| row.get_string(row.len() - 1).ok().cloned()).collect(),
        };
        assert!(marked.iter().all(Option::is_none), "{what}: {marked:?}");
    }
}

#[test]
fn whatever_is_killed_of_a_replay_each_record_is_in_one_place() {
    let mut kills = 0;
    for (target, quarantine, prefix) in [
        ("sqlite:t.db#t", "q.parquet", "sqlite-"),
        ("out.parquet", "sqlite:q.db#q", "files-"),
        ("sqlite:t.db#t", "sqlite:q.db#q", "sqlite-"),
    ] {
        let replayed = Replayed::new(target, quarantine);
        let mut points = failpoints_of("replay-");
        points.append(&mut failpoints_of("quarantine-"));
        points.append(&mut failpoints_of(prefix));
        // Of directories; and of a file that does not exist yet.
        points.retain(|name| !["files-exchanged", "files-linked"].contains(&&**name));
        let (run, reset) = (|kill_at: Option<&str>| replayed.run(kill_at), || replayed.reset());
        kills += kill_and_repeat(&points, faults(0) > 0, &reset, &run, &|what| replayed.assert_done(what)).kills;
    }
    eprintln!("replay: {kills} kills");
}
