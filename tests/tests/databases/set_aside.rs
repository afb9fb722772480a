//! The program is killed at every failpoint of a load whose source has bad records and whose table refuses some of the others, all of
//! which go into a table of the same server: what the server counts then must be each record once, here or there.

use std::path::Path;
use std::time::{Duration, Instant};

use etlrs_tests::failpoints::{Load, failpoints_of, kill_at_each};
use etlrs_tests::{KILL_AT, Ran, etlrs};

use super::faults::Server;
use super::*;

const PROGRAM: &str = env!("CARGO_BIN_EXE_etlrs-under-test");

/// Of each fifty records one cannot be read and one is refused.
const ROWS: u64 = 3000;

struct SetAside<S> {
    server: S,
    folder: tempfile::TempDir,
    merges: bool,
}

impl<S: Server> SetAside<S> {
    fn new(merges: bool) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut text = "id,note\n".to_owned();
        for id in 0..ROWS {
            text += &if id % 50 == 7 { format!("no {id},x\n") } else { format!("{id},note {id}\n") };
        }
        std::fs::write(folder.path().join("a.csv"), text).unwrap();
        Self { server: S::start(), folder, merges }
    }
}

impl<S: Server> Load for SetAside<S> {
    fn what(&self) -> String {
        format!("{}, merges: {}", self.server.uri("t"), self.merges)
    }

    fn reset(&self) {
        // Some are killed when all is told, and leave a mark of that.
        let left = self.server.left_over();
        for table in left.lines().chain(["t", "q"]) {
            self.server.sql(&format!("DROP TABLE IF EXISTS {table}"));
        }
        self.server.sql("CREATE TABLE t (id int PRIMARY KEY CHECK (id % 50 <> 9), note varchar(20))");
    }

    fn run(&self, kill_at: Option<&str>) -> Ran {
        let (target, quarantine) = (self.server.uri("t"), self.server.uri("q"));
        let mode: &[&str] = if self.merges { &["merge", "--key", "id"] } else { &["append"] };
        let source = self.folder.path().join("a.csv");
        let arguments = ["copy", source.to_str().unwrap(), &target, "--quarantine", &quarantine, "--partitions", "4"];
        let more = ["--threads", "2", "--no-progress", "--source-option", "types=id:int64", "--mode"];
        let arguments = [&arguments[..], &more, mode].concat();
        // The server may notice only after a while that a client is gone.
        let end = Instant::now() + Duration::from_secs(30);
        loop {
            let mut command = etlrs(PROGRAM, Path::new("."), &arguments);
            command.envs(kill_at.map(|point| (KILL_AT, point)));
            let mut ran = Ran::of(&command.output().unwrap());
            // All that a run may end with, but for a kill.
            if ran.code == 3 {
                ran.code = 0;
            }
            if !ran.stderr.contains("another run is writing") || Instant::now() > end {
                return ran;
            }
        }
    }

    fn is_loaded(&self, what: &str) -> bool {
        let wrong = "sum(CASE WHEN id % 50 IN (7, 9) THEN 1 ELSE 0 END)";
        let found = self.server.sql(&format!("SELECT count(*), count(DISTINCT id), min(id), max(id), {wrong} FROM t"));
        let good = ROWS - 2 * ROWS / 50;
        if found.starts_with("0|") {
            return false;
        }
        assert_eq!(found, format!("{good}|{good}|0|{}|0", ROWS - 1), "{what}");
        true
    }

    fn assert_done(&self, what: &str) {
        assert!(self.is_loaded(what), "{what}: nothing is loaded");
        let each = ROWS / 50;
        let found = self.server.sql("SELECT stage, count(*), count(DISTINCT raw) FROM q GROUP BY stage ORDER BY stage");
        assert_eq!(found, format!("source|{each}|{each}\ntarget|{each}|{each}"), "{what}");
        assert_eq!(self.server.left_over(), "", "{what}");
    }
}

fn kill<S: Server>() {
    let loads = [false, true].map(SetAside::<S>::new);
    let mut points = failpoints_of("quarantine-");
    points.append(&mut failpoints_of(S::PREFIX));
    // Of tables that another one becomes.
    points.retain(|name| !["mysql-swapped", "mysql-new-table", "mysql-new-filled"].contains(&&**name));
    let loads: Vec<_> = loads.iter().map(|load| load as &dyn Load).collect();
    let done = kill_at_each(&loads, &points, std::env::var_os("ETLRS_FAULTS").is_some());
    eprintln!("{} failpoints, {} kills, {} loads went on", points.len(), done.kills, done.went_on);
}

#[test]
fn whatever_is_killed_no_record_is_lost_or_doubled_in_postgres() {
    kill::<Postgres>();
}

#[test]
fn whatever_is_killed_no_record_is_lost_or_doubled_in_mysql() {
    kill::<MariaDb>();
}
