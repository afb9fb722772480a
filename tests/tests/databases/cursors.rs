//! A source that grows is loaded into a server again and again, and killed at every failpoint: each row must get there once.

use std::path::Path;
use std::time::{Duration, Instant};

use etlrs_tests::failpoints::{failpoints_of, kill_and_repeat};
use etlrs_tests::{KILL_AT, Ran, etlrs};

use super::faults::Server;
use super::*;

const PROGRAM: &str = env!("CARGO_BIN_EXE_etlrs-under-test");

struct Growing<S> {
    server: S,
    folder: tempfile::TempDir,
    merges: bool,
}

impl<S: Server> Growing<S> {
    fn new(merges: bool) -> Self {
        Self { server: S::start(), folder: tempfile::tempdir().unwrap(), merges }
    }

    fn source(&self) -> rusqlite::Connection {
        rusqlite::Connection::open(self.folder.path().join("a.db")).unwrap()
    }

    fn reset(&self) {
        let left = self.server.left_over();
        for table in left.lines().chain(["t"]) {
            self.server.sql(&format!("DROP TABLE IF EXISTS {table}"));
        }
        let sql = "DROP TABLE IF EXISTS t; CREATE TABLE t (id INTEGER PRIMARY KEY, at INTEGER)";
        self.source().execute_batch(sql).unwrap();
    }

    /// Several rows have one value of the cursor's column, and the next ones have it too.
    fn grow(&self) {
        let sql = "INSERT INTO t (at) WITH RECURSIVE n(value) AS (SELECT 1 UNION ALL SELECT value + 1 FROM n WHERE value < 50)
                   SELECT coalesce((SELECT max(at) FROM t), 0) + value / 20 FROM n";
        self.source().execute_batch(sql).unwrap();
    }

    fn run(&self, kill_at: Option<&str>) -> Ran {
        self.grow();
        let (source, target) =
            (format!("sqlite:{}#t", self.folder.path().join("a.db").display()), self.server.uri("t"));
        let how: &[&str] = match self.merges {
            true => &["cursor=at", "--mode", "merge", "--key", "id"],
            false => &["cursor=id", "--mode", "append"],
        };
        let arguments = ["copy", &source, &target, "--no-progress", "--partitions", "2", "--source-option"];
        let arguments = [&arguments[..], how].concat();
        // The server may notice only after a while that a client is gone.
        let end = Instant::now() + Duration::from_secs(30);
        loop {
            let mut command = etlrs(PROGRAM, Path::new("."), &arguments);
            command.envs(kill_at.map(|point| (KILL_AT, point)));
            let ran = Ran::of(&command.output().unwrap());
            if !ran.stderr.contains("another run is writing") || Instant::now() > end {
                return ran;
            }
        }
    }

    fn assert_done(&self, what: &str) {
        let rows: i64 = self.source().query_row("SELECT max(id) FROM t", [], |row| row.get(0)).unwrap();
        let found = self.server.sql("SELECT count(*), count(DISTINCT id), min(id), max(id) FROM t");
        assert_eq!(found, format!("{rows}|{rows}|1|{rows}"), "{what}");
        assert_eq!(self.server.left_over(), "_etlrs_cursors", "{what}");
        assert_eq!(self.server.sql("SELECT count(*), count(value) FROM _etlrs_cursors"), "1|1", "{what}");
    }
}

fn kill<S: Server>() {
    let is_long = std::env::var_os("ETLRS_FAULTS").is_some();
    let mut kills = 0;
    for (merges, is_there) in [(false, false), (false, true), (true, false), (true, true)] {
        let growing = Growing::<S>::new(merges);
        growing.reset();
        let mut points = failpoints_of(S::PREFIX);
        // Of tables that others take the place of; of one that is not there yet; and of one that is.
        points.retain(|name| match name.as_str() {
            "mysql-swapped" => false,
            "mysql-new-table" | "mysql-new-filled" => merges && !is_there,
            "mysql-moved" => merges || is_there,
            _ => true,
        });
        let reset = || {
            growing.reset();
            if is_there {
                assert_eq!(growing.run(None).code, 0);
            }
        };
        let run = |kill_at: Option<&str>| growing.run(kill_at);
        kills += kill_and_repeat(&points, is_long, &reset, &run, &|what| growing.assert_done(what)).kills;
    }
    eprintln!("cursors: {kills} kills");
}

#[test]
fn whatever_is_killed_a_growing_source_is_loaded_once_into_postgres() {
    kill::<Postgres>();
}

#[test]
fn whatever_is_killed_a_growing_source_is_loaded_once_into_mysql() {
    kill::<MariaDb>();
}

/// From a server to itself, with a replace between: what is kept goes with the rows that it tells of.
fn goes_on<S: Server>() {
    let server = S::start();
    let run = |how: &str| {
        let (source, target) = (server.uri("s"), server.uri("t"));
        let mut arguments = vec!["copy", &source, &target, "--no-progress", "--source-option", "cursor=id"];
        arguments.extend(how.split_whitespace());
        let ran = Ran::of(&etlrs(PROGRAM, Path::new("."), &arguments).output().unwrap());
        assert_eq!(ran.code, 0, "{ran:?}");
        ran.stdout.lines().find_map(|line| line.trim().strip_prefix("cursor ")).map(|line| line.trim().to_owned())
    };
    let read = |from: &str, to: u32| Some(format!("read {from}up to {to}, where the next run goes on"));
    server.sql("CREATE TABLE s (id bigint PRIMARY KEY, v int)");
    server.sql("INSERT INTO s VALUES (1, 1), (2, 2)");
    assert_eq!(run("--mode create"), read("", 2));
    server.sql("INSERT INTO s VALUES (3, 3)");
    assert_eq!(run("--mode append"), read("from 2 ", 3));
    // Nothing is new.
    assert_eq!(run("--mode append"), read("from 3 ", 3));
    server.sql("UPDATE s SET v = 7 WHERE id = 3");
    assert_eq!(run("--mode merge --key id"), read("from 3 ", 3));
    assert_eq!(server.sql("SELECT * FROM t ORDER BY id"), "1|1\n2|2\n3|7");
    server.sql("INSERT INTO s VALUES (4, 4)");
    assert_eq!(run("--mode replace"), read("", 4));
    server.sql("INSERT INTO s VALUES (5, 5)");
    assert_eq!(run("--mode append"), read("from 4 ", 5));
    server.sql("DROP TABLE t");
    assert_eq!(run("--mode append"), read("", 5));
    assert_eq!(server.sql("SELECT count(*), sum(id) FROM t"), "5|15");
    assert_eq!(server.sql("SELECT count(*) FROM _etlrs_cursors"), "1");
}

#[test]
fn a_position_goes_with_the_rows_in_postgres() {
    goes_on::<Postgres>();
}

#[test]
fn a_position_goes_with_the_rows_in_mysql() {
    goes_on::<MariaDb>();
}
