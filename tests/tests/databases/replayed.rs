//! The program is killed at every failpoint of a replay from a table of a server into another one: what the server counts then must
//! be each record once, here or there.

use std::path::Path;
use std::time::{Duration, Instant};

use etlrs_tests::failpoints::{failpoints_of, kill_and_repeat};
use etlrs_tests::{KILL_AT, Ran, etlrs};

use super::faults::Server;
use super::*;

const PROGRAM: &str = env!("CARGO_BIN_EXE_etlrs-under-test");

const ROWS: u64 = 1500;

struct Replayed<S> {
    server: S,
    merges: bool,
}

impl<S: Server> Replayed<S> {
    /// Of each fifty records one is mended, one is broken for good, one is no longer refused, or is for ever.
    fn new(merges: bool) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let line = |id: u64| match id % 50 {
            7 => format!("{id},none,\"note \"\"{id}\"\"\"\n"),
            8 => format!("{id},\"x\"y,\n"),
            _ => format!("{id},{id},note {id}\n"),
        };
        let text: String = std::iter::once("id,n,note\n".to_owned()).chain((0..ROWS).map(line)).collect();
        std::fs::write(folder.path().join("a.csv"), text).unwrap();
        let replayed = Self { server: S::start(), merges };
        let (target, quarantine) = (replayed.server.uri("t"), replayed.server.uri("q"));
        replayed.table("id % 50 <> 9");
        let arguments = ["copy", "a.csv", &target, "--quarantine", &quarantine, "--mode", "append", "--no-progress"];
        let types = ["--source-option", "types=id:int64,n:int64,note:text"];
        let ran = Ran::of(&etlrs(PROGRAM, folder.path(), &[&arguments[..], &types].concat()).output().unwrap());
        assert_eq!(ran.code, 3, "{ran:?}");
        replayed.server.sql("CREATE TABLE saved_t AS SELECT * FROM t");
        replayed.server.sql("CREATE TABLE saved_q AS SELECT * FROM q");
        replayed
    }

    fn table(&self, check: &str) {
        self.server.sql(&format!("CREATE TABLE t (id bigint PRIMARY KEY CHECK ({check}), n bigint, note varchar(20))"));
    }

    fn reset(&self) {
        let left = self.server.left_over();
        for table in left.lines().chain(["t", "q"]) {
            self.server.sql(&format!("DROP TABLE IF EXISTS {table}"));
        }
        self.table("id % 100 <> 9");
        self.server.sql("INSERT INTO t SELECT * FROM saved_t");
        self.server.sql("CREATE TABLE q AS SELECT * FROM saved_q");
    }

    fn run(&self, kill_at: Option<&str>) -> Ran {
        let (target, quarantine) = (self.server.uri("t"), self.server.uri("q"));
        let mode: &[&str] = if self.merges { &["--mode", "merge", "--key", "id"] } else { &[] };
        let arguments = ["replay", &quarantine, &target, "--no-progress", "--source-option", "null_values=none"];
        let arguments = [&arguments[..], mode].concat();
        // The server may notice only after a while that a client is gone.
        let end = Instant::now() + Duration::from_secs(30);
        loop {
            let mut command = etlrs(PROGRAM, Path::new("."), &arguments);
            command.envs(kill_at.map(|point| (KILL_AT, point)));
            let mut ran = Ran::of(&command.output().unwrap());
            // Some fail again.
            if ran.code == 3 {
                ran.code = 0;
            }
            if !ran.stderr.contains("another run is writing") || Instant::now() > end {
                return ran;
            }
        }
    }

    fn assert_done(&self, what: &str) {
        let stays = "sum(CASE WHEN id % 50 = 8 OR id % 100 = 9 THEN 1 ELSE 0 END)";
        let found = self.server.sql(&format!("SELECT count(*), count(DISTINCT id), min(id), max(id), {stays} FROM t"));
        let stay = ROWS / 50 + ROWS / 100;
        assert_eq!(found, format!("{0}|{0}|0|{1}|0", ROWS - stay, ROWS - 1), "{what}");
        let sql = "SELECT stage, count(*), count(DISTINCT raw), count(replay) FROM q GROUP BY stage ORDER BY stage";
        let (broken, refused) = (ROWS / 50, ROWS / 100);
        let expected = format!("source|{broken}|{broken}|0\ntarget|{refused}|{refused}|0");
        assert_eq!(self.server.sql(sql), expected, "{what}");
        assert_eq!(self.server.left_over(), "", "{what}");
    }
}

fn kill<S: Server>() {
    let is_long = std::env::var_os("ETLRS_FAULTS").is_some();
    let mut kills = 0;
    for merges in if is_long { &[false, true][..] } else { &[false] } {
        let replayed = Replayed::<S>::new(*merges);
        let mut points = failpoints_of("replay-");
        points.append(&mut failpoints_of("quarantine-"));
        points.append(&mut failpoints_of(S::PREFIX));
        // Of tables that are not there yet.
        points.retain(|name| !["mysql-new-table", "mysql-new-filled"].contains(&&**name));
        let (run, reset) = (|kill_at: Option<&str>| replayed.run(kill_at), || replayed.reset());
        kills += kill_and_repeat(&points, is_long, &reset, &run, &|what| replayed.assert_done(what)).kills;
    }
    eprintln!("replay: {kills} kills");
}

#[test]
fn whatever_is_killed_of_a_replay_each_record_is_in_one_place_in_postgres() {
    kill::<Postgres>();
}

#[test]
fn whatever_is_killed_of_a_replay_each_record_is_in_one_place_in_mysql() {
    kill::<MariaDb>();
}
