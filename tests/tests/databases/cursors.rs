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
    /// The source is a table of the server, loads of which are never gone on with.
    is_remote: bool,
}

impl<S: Server> Growing<S> {
    fn new(merges: bool, is_remote: bool) -> Self {
        Self { server: S::start(), folder: tempfile::tempdir().unwrap(), merges, is_remote }
    }

    fn source(&self) -> rusqlite::Connection {
        rusqlite::Connection::open(self.folder.path().join("a.db")).unwrap()
    }

    /// In the source.
    fn sql(&self, sql: &str) {
        match self.is_remote {
            true => _ = self.server.sql(sql),
            false => self.source().execute_batch(sql).unwrap(),
        }
    }

    /// The greatest id of the source, or 0, and the greatest value of the other column.
    fn greatest(&self) -> (i64, i64) {
        let sql = "SELECT coalesce(max(id), 0), coalesce(max(at), 0) FROM s";
        if !self.is_remote {
            return self.source().query_row(sql, [], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
        }
        let found = self.server.sql(sql);
        let (id, at) = found.split_once('|').unwrap();
        (id.parse().unwrap(), at.parse().unwrap())
    }

    fn reset(&self) {
        let left = self.server.left_over();
        for table in left.lines().chain(["t"]) {
            self.server.sql(&format!("DROP TABLE IF EXISTS {table}"));
        }
        self.sql("DROP TABLE IF EXISTS s");
        self.sql("CREATE TABLE s (id bigint PRIMARY KEY, at bigint)");
    }

    /// Several rows have one value of the cursor's column, and the next ones have it too.
    fn grow(&self) {
        let (id, at) = self.greatest();
        let rows: Vec<_> = (1..=50).map(|row| format!("({}, {})", id + row, at + row / 20)).collect();
        self.sql(&format!("INSERT INTO s VALUES {}", rows.join(", ")));
    }

    fn run(&self, kill_at: Option<&str>) -> Ran {
        self.grow();
        let (local, target) = (self.folder.path().join("a.db"), self.server.uri("t"));
        let source = if self.is_remote { self.server.uri("s") } else { format!("sqlite:{}#s", local.display()) };
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
        let (rows, _) = self.greatest();
        let found = self.server.sql("SELECT count(*), count(DISTINCT id), min(id), max(id) FROM t");
        assert_eq!(found, format!("{rows}|{rows}|1|{rows}"), "{what}");
        assert_eq!(self.server.left_over(), "_etlrs_cursors", "{what}");
        assert_eq!(self.server.sql("SELECT count(*), count(value) FROM _etlrs_cursors"), "1|1", "{what}");
    }
}

fn kill<S: Server>() {
    let is_long = std::env::var_os("ETLRS_FAULTS").is_some();
    let mut kills = 0;
    for (merges, is_there, is_remote) in
        [(false, false, false), (false, true, false), (true, false, false), (true, true, false), (false, false, true)]
    {
        let growing = Growing::<S>::new(merges, is_remote);
        growing.reset();
        let mut points = failpoints_of(S::PREFIX);
        // Of tables that others take the place of; of one that is not there yet; and of one that is.
        points.retain(|name| match name.as_str() {
            "mysql-swapped" => false,
            "mysql-new-table" | "mysql-new-filled" => merges && !is_there,
            "mysql-moved" => is_there,
            // Nothing is told when it is over.
            "run-told" | "run-acknowledged" => !is_remote,
            name if is_remote && (name.ends_with("-forgetting") || name.ends_with("-forgotten")) => false,
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
    // Another source has a position of its own, and loses it with the rows.
    let other = |how: &str| {
        let (source, target) = (server.uri("o"), server.uri("t"));
        let mut arguments = vec!["copy", &source, &target, "--no-progress", "--source-option", "cursor=id"];
        arguments.extend(how.split_whitespace());
        assert_eq!(Ran::of(&etlrs(PROGRAM, Path::new("."), &arguments).output().unwrap()).code, 0);
    };
    server.sql("CREATE TABLE o (id bigint PRIMARY KEY, v int)");
    server.sql("INSERT INTO o VALUES (11, 1), (12, 2)");
    other("--mode append");
    assert_eq!(server.sql("SELECT count(*) FROM _etlrs_cursors"), "2");
    server.sql("DROP TABLE t");
    assert_eq!(run("--mode append"), read("", 5));
    other("--mode append");
    assert_eq!(server.sql("SELECT count(*), sum(id) FROM t"), "7|38");
    // Another filter lets other rows through.
    other("--mode merge --key id --where v>1");
    assert_eq!(server.sql("SELECT count(*) FROM _etlrs_cursors"), "3");
    // Without a cursor the rows are replaced, and what is known of them goes.
    assert_eq!(run("--mode replace --source-option cursor_after=4"), Some("read up to 5".to_owned()));
    assert_eq!(server.sql("SELECT count(*) FROM _etlrs_cursors"), "0");
    assert_eq!(server.sql("SELECT count(*), sum(id) FROM t"), "1|5");
}

#[test]
fn a_position_goes_with_the_rows_in_postgres() {
    goes_on::<Postgres>();
}

#[test]
fn a_position_goes_with_the_rows_in_mysql() {
    goes_on::<MariaDb>();
}

/// A table comes into being by a rename, which is no part of a transaction: killed behind it, the position is taken over by the next load.
#[test]
fn a_position_that_was_written_down_is_taken_over_in_mysql() {
    let server = MariaDb::start();
    let (source, target) = (server.uri("s"), server.uri("t"));
    let arguments = ["copy", &source, &target, "--no-progress", "--source-option", "cursor=id", "--mode", "append"];
    Server::sql(&server, "CREATE TABLE s (id bigint, v int)");
    Server::sql(&server, "INSERT INTO s VALUES (1, 1), (2, 2)");
    let mut command = etlrs(PROGRAM, Path::new("."), &arguments);
    let killed = Ran::of(&command.env(KILL_AT, "mysql-committed:1").output().unwrap());
    assert_eq!(killed.code, -9, "{killed:?}");
    let kept = "SELECT coalesce(value, '-'), coalesce(next_value, '-') FROM _etlrs_cursors";
    assert_eq!(Server::sql(&server, kept), "-|2");
    Server::sql(&server, "INSERT INTO s VALUES (3, 3)");
    let end = Instant::now() + Duration::from_secs(30);
    let ran = loop {
        let ran = Ran::of(&etlrs(PROGRAM, Path::new("."), &arguments).output().unwrap());
        if !ran.stderr.contains("another run is writing") || Instant::now() > end {
            break ran;
        }
    };
    assert!(ran.stdout.contains("read from 2 up to 3, where the next run goes on"), "{ran:?}");
    assert_eq!(Server::sql(&server, kept), "3|-");
    assert_eq!(Server::sql(&server, "SELECT count(*), sum(id) FROM t"), "3|6");
}

/// Nothing can be gone on with there, for the snapshot is gone; but what was published is known.
fn published<S: Server>() {
    let server = S::start();
    server.sql("CREATE TABLE s (id bigint)");
    server.sql("INSERT INTO s VALUES (1), (2), (3)");
    let folder = tempfile::tempdir().unwrap();
    let run = |target: &str, mode: &str, kill_at: Option<&str>| {
        let mut command = etlrs(PROGRAM, folder.path(), &["copy", &server.uri("s"), target, "--mode", mode]);
        command.envs(kill_at.map(|point| (KILL_AT, point)));
        Ran::of(&command.output().unwrap())
    };
    let rows = |target: &str| match target {
        "sqlite:t.db#t" => {
            let connection = rusqlite::Connection::open(folder.path().join("t.db")).unwrap();
            connection.query_row("SELECT count(*) FROM t", [], |row| row.get::<_, i64>(0)).unwrap().unsigned_abs()
                as usize
        }
        file => std::fs::read_to_string(folder.path().join(file)).unwrap().lines().count(),
    };
    for target in ["t.ndjson", "sqlite:t.db#t"] {
        assert_eq!(run(target, "create", Some("run-published:1")).code, -9, "{target}");
        let ran = run(target, "create", None);
        assert!(ran.code == 0 && ran.stdout.contains("had published"), "{target}: {ran:?}");
        assert!(ran.stdout.contains("whether the source changed since is not known"), "{target}: {ran:?}");
        // Killed before it was, it is loaded.
        assert_eq!(run(target, "append", Some("run-staged:1")).code, -9, "{target}");
        assert_eq!(run(target, "append", Some("run-published:1")).code, -9, "{target}");
        assert_eq!(rows(target), 6, "{target}");
        let ran = run(target, "append", None);
        assert!(ran.code == 0 && rows(target) == 6, "{target}: {ran:?}");
        // That was told, so the next one is another.
        let ran = run(target, "append", None);
        assert!(ran.code == 0 && rows(target) == 9, "{target}: {ran:?}");
        // A repetition does no harm, and brings what is there now.
        assert_eq!(run(target, "replace", Some("run-published:1")).code, -9, "{target}");
        let ran = run(target, "replace", None);
        assert!(ran.code == 0 && !ran.stdout.contains("had published") && rows(target) == 3, "{target}: {ran:?}");
    }
}

#[test]
fn what_was_published_of_a_table_of_postgres_is_not_loaded_again() {
    published::<Postgres>();
}

#[test]
fn what_was_published_of_a_table_of_mysql_is_not_loaded_again() {
    published::<MariaDb>();
}
