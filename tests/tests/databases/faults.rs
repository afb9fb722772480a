//! The program is killed, and its connections are, at moments of chance. The table must always hold whole versions of the
//! source, and the next run must succeed and leave nothing behind but the table.
//!
//! `ETLRS_FAULTS=1` makes 50 faults of each kind instead of a few.

use std::hash::BuildHasher;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use etlrs_tests::broken_link::{BrokenLink, Shape};
use etlrs_tests::cut::{CutLink, Moment};
use etlrs_tests::failpoints::{Load, failpoints_of, kill_at_each};
use etlrs_tests::mariadb::KEEPS_COMMITS;
use etlrs_tests::paused::Paused;
use etlrs_tests::random::Random;
use etlrs_tests::{KILL_AT, Ran, etlrs, write_hashed_csv};

use super::*;

const PROGRAM: &str = env!("CARGO_BIN_EXE_etlrs-under-test");
const ROWS: u64 = 60_000;

/// How rows get into the table.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Way {
    /// Another table takes its place.
    Swap,
    /// Its rows are replaced, for it has an index and a view.
    Refill,
    Append,
    Merge,
    /// The table is not there.
    Create,
    /// The same, in mode merge.
    MergeNew,
}

/// Those into a table that is there.
const WAYS: [Way; 4] = [Way::Swap, Way::Refill, Way::Append, Way::Merge];

/// A server of either kind.
pub(super) trait Server: Sync {
    /// A server of one's own.
    fn start() -> Self;
    /// Stops it as a crash would, and starts it again.
    fn restart(&self);
    /// Of a table.
    fn uri(&self, table: &str) -> String;
    /// Rows on lines, with `|` between columns.
    fn sql(&self, sql: &str) -> String;
    /// The same, which may fail; whether it did not.
    fn try_sql(&self, sql: &str) -> bool;
    /// What runs have left.
    fn left_over(&self) -> String;
    /// What keeps another table from taking the place of this one.
    const HANGING: &str;
    /// The hash that a row should have.
    const ROW_HASH: &str;
    /// What failpoints of loads into it begin with.
    const PREFIX: &str;
    /// What statements begin with that commit, or have within.
    const COMMITS: &[&str];
    /// Where it listens.
    fn port(&self) -> u16;
    /// Ends one of the connections of a run.
    fn end_a_connection(&self);
}

impl Server for Postgres {
    fn start() -> Self {
        Postgres::start()
    }

    fn restart(&self) {
        Postgres::restart(self);
    }

    fn uri(&self, table: &str) -> String {
        Postgres::uri(self, table)
    }

    fn sql(&self, sql: &str) -> String {
        Postgres::sql(self, sql)
    }

    fn try_sql(&self, sql: &str) -> bool {
        Postgres::try_sql(self, sql).status.success()
    }

    fn left_over(&self) -> String {
        Postgres::left_over(self)
    }

    const HANGING: &str = "CREATE INDEX ON t (id); CREATE VIEW v AS SELECT * FROM t";
    const ROW_HASH: &str = etlrs_tests::postgres::ROW_HASH;
    const PREFIX: &str = "postgres-";
    const COMMITS: &[&str] = &["COMMIT\0"];

    fn port(&self) -> u16 {
        Postgres::port(self)
    }

    fn end_a_connection(&self) {
        self.sql(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
            WHERE application_name = 'etlrs' ORDER BY random() LIMIT 1",
        );
    }
}

impl Server for MariaDb {
    fn start() -> Self {
        MariaDb::start_with(&[KEEPS_COMMITS])
    }

    fn restart(&self) {
        MariaDb::restart(self);
    }

    fn uri(&self, table: &str) -> String {
        MariaDb::uri(self, table)
    }

    fn sql(&self, sql: &str) -> String {
        MariaDb::sql(self, sql).replace('\t', "|")
    }

    fn try_sql(&self, sql: &str) -> bool {
        MariaDb::try_sql(self, sql).status.success()
    }

    fn left_over(&self) -> String {
        MariaDb::left_over(self)
    }

    const HANGING: &str = "CREATE TRIGGER noting AFTER INSERT ON t FOR EACH ROW SET @noted = 1";
    const ROW_HASH: &str = etlrs_tests::mariadb::ROW_HASH;
    const PREFIX: &str = "mysql-";
    const COMMITS: &[&str] = &["\u{3}COMMIT", "\u{3}RENAME TABLE"];

    fn port(&self) -> u16 {
        MariaDb::port(self)
    }

    fn end_a_connection(&self) {
        let sql = "SELECT ID FROM information_schema.PROCESSLIST WHERE USER = 'root' AND ID <> connection_id()
            ORDER BY rand() LIMIT 1";
        let id = self.sql(sql);
        // It may be gone by now.
        _ = MariaDb::try_sql(self, &format!("KILL {id}"));
    }
}

struct Bed<S> {
    server: S,
    folder: tempfile::TempDir,
    way: Way,
    rows: u64,
}

impl<S: Server> Bed<S> {
    /// With version 0 in the table.
    fn new(way: Way) -> Self {
        Self::with_rows(way, ROWS)
    }

    fn with_rows(way: Way, rows: u64) -> Self {
        let bed = Self { server: S::start(), folder: tempfile::tempdir().unwrap(), way, rows };
        bed.source(0);
        let first = match way {
            Way::Swap | Way::Merge => way,
            _ => Way::Create,
        };
        assert_eq!(Self::end(bed.start(first, 0)).code, 0);
        if way == Way::Refill {
            bed.server.sql(S::HANGING);
        }
        bed
    }

    fn source(&self, version: u64) -> PathBuf {
        let path = self.folder.path().join(format!("{version}.csv"));
        if !path.exists() {
            write_hashed_csv(&path, self.rows, version);
        }
        path
    }

    fn start(&self, way: Way, version: u64) -> Child {
        self.command(way, version).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    fn command(&self, way: Way, version: u64) -> Command {
        self.command_to(&self.server.uri("t"), way, version)
    }

    fn command_to(&self, target: &str, way: Way, version: u64) -> Command {
        let source = self.source(version);
        let mode: &[&str] = match way {
            // Booleans and instants are staged as what they are, and MySQL keeps them as something else.
            Way::Swap => &["--mode", "replace", "--columns", "id,version,amount,day,name,note,hash"],
            Way::Refill => &["--mode", "replace"],
            Way::Append => &["--mode", "append"],
            Way::Merge | Way::MergeNew => &["--mode", "merge", "--key", "id"],
            Way::Create => &["--mode", "create"],
        };
        let arguments =
            [&["copy", source.to_str().unwrap(), target, "--partitions", "7", "--no-progress"], mode].concat();
        etlrs(PROGRAM, Path::new("."), &arguments)
    }

    fn end(child: Child) -> Ran {
        Ran::of(&child.wait_with_output().unwrap())
    }

    /// The versions in the table, each of which must be there with all its rows once.
    fn versions(&self) -> Vec<u64> {
        let found = self.server.sql(&format!(
            "SELECT version, count(*), count(DISTINCT id), min(id), max(id), sum(CASE WHEN hash = {} THEN 1 ELSE 0 END)
             FROM t GROUP BY 1 ORDER BY 1",
            S::ROW_HASH
        ));
        let rows = self.rows;
        let whole = format!("|{rows}|{rows}|0|{}|{rows}", rows - 1);
        let version = |line: &str| {
            line.strip_suffix(&whole).unwrap_or_else(|| panic!("{:?}: {found}", self.way)).parse().unwrap()
        };
        found.lines().map(version).collect()
    }

    /// Runs that are disturbed by `fault`, each followed by one that is not.
    fn disturb(&self, fault: impl Fn(&Self, &Child)) {
        self.disturb_times(if std::env::var_os("ETLRS_FAULTS").is_some() { 50 } else { 5 }, fault);
    }

    fn disturb_times(&self, rounds: u64, fault: impl Fn(&Self, &Child)) {
        let started = Instant::now();
        assert_eq!(Self::end(self.start(self.way, 1)).code, 0);
        let whole = started.elapsed();
        let mut versions = self.versions();
        let random = std::collections::hash_map::RandomState::new();
        let (mut done, mut ended) = (0, 0);
        for round in 0..rounds {
            let version = round + 2;
            self.source(version);
            let child = self.start(self.way, version);
            let part = (random.hash_one(round) % 1000) as f64 / 1000.0;
            std::thread::sleep(whole.mul_f64((f64::from(u32::try_from(round).unwrap()) + part) / rounds as f64));
            fault(self, &child);
            let ran = Self::end(child);
            let found = self.versions();
            let expected = self.after(&versions, version);
            match ran.code {
                0 => assert_eq!(found, expected, "{:?} round {round}: {ran:?}", self.way),
                // Killed after the commit, or before it.
                -9 => assert!(found == versions || found == expected, "{:?} round {round}: {found:?}", self.way),
                _ => assert_eq!(found, versions, "{:?} round {round}: {ran:?}", self.way),
            }
            versions = found;
            if ran.code == 0 {
                done += 1;
            } else {
                ended += 1;
            }
        }
        eprintln!("{:?}: {done} runs got through, {ended} did not", self.way);
        // The server may notice only now that a client is gone.
        let end = Instant::now() + Duration::from_secs(30);
        let last = loop {
            let last = Self::end(self.start(self.way, 1000));
            if last.code == 0 || !last.stderr.contains("another run is writing") || Instant::now() > end {
                break last;
            }
            std::thread::sleep(Duration::from_millis(100));
        };
        assert_eq!(last.code, 0, "{last:?}");
        assert_eq!(self.versions(), self.after(&versions, 1000));
        assert_eq!(self.server.left_over(), "");
    }

    /// Runs that are killed, and whatever goes on with them too, until one gets through: its rows are then there, each once.
    fn go_on(&self) {
        let rounds = if std::env::var_os("ETLRS_FAULTS").is_some() { 50 } else { 4 };
        // The first is slower, for a server that has just begun.
        let times = [(); 2].map(|()| {
            let started = Instant::now();
            assert_eq!(Self::end(self.start(self.way, 1)).code, 0);
            started.elapsed()
        });
        let whole = times[0].min(times[1]);
        if self.way == Way::Append {
            self.server.sql("DELETE FROM t");
            assert_eq!(Self::end(self.start(self.way, 1)).code, 0);
        }
        let mut versions = self.versions();
        let random = std::collections::hash_map::RandomState::new();
        let (mut killed, mut went_on, mut published) = (0_u64, 0, 0);
        // Where chance had it that none had staged anything when it was killed, more have to tell.
        for round in 0..3 * rounds {
            if round >= rounds && went_on > 0 {
                break;
            }
            let version = round + 2;
            let expected = self.after(&versions, version);
            // Of three kills, the first come anywhere, and one in the last part, where the commit is.
            let mut kills = 1 + round % 3;
            let ran = loop {
                let child = self.start(self.way, version);
                if kills > 0 {
                    kills -= 1;
                    let part = (random.hash_one((round, kills)) % 1000) as f64 / 1000.0;
                    let part = if killed % 3 == 2 { 0.7 + 0.4 * part } else { part };
                    std::thread::sleep(whole.mul_f64(part));
                    _ = rustix::process::kill_process(
                        rustix::process::Pid::from_child(&child),
                        rustix::process::Signal::KILL,
                    );
                }
                let ran = Self::end(child);
                let found = self.versions();
                let what = format!("{:?} round {round}: {found:?} after {ran:?}", self.way);
                match ran.code {
                    0 => {
                        assert_eq!(found, expected, "{what}");
                        break ran;
                    }
                    // It had said that it is done.
                    -9 if ran.stdout.contains("  written ") => {
                        assert_eq!(found, expected, "{what}");
                        break ran;
                    }
                    -9 => {
                        killed += 1;
                        assert!(found == versions || found == expected, "{what}");
                    }
                    // The server may notice only now that a client is gone.
                    _ => assert!(ran.stderr.contains("another run is writing"), "{what}"),
                }
            };
            went_on += u32::from(ran.stdout.contains("  resumed "));
            published += u32::from(ran.stdout.contains(" had published "));
            if ran.code == 0 {
                assert_eq!(self.server.left_over(), "", "{:?} round {round}: {ran:?}", self.way);
            }
            versions = expected;
        }
        eprintln!("{:?}: {killed} kills, {went_on} of {rounds} loads went on, {published} were published", self.way);
        assert!(went_on > 0, "{:?}: no load went on", self.way);
    }

    fn after(&self, versions: &[u64], version: u64) -> Vec<u64> {
        match self.way {
            Way::Append => versions.iter().copied().chain([version]).collect(),
            _ => vec![version],
        }
    }
}

/// A load at the failpoints of which it is killed.
struct ServerLoad<S>(Bed<S>);

impl<S: Server> ServerLoad<S> {
    fn new(way: Way) -> Self {
        // What is reached is the same with few rows.
        let bed = Bed::<S>::with_rows(way, ROWS / 10);
        bed.server.sql("CREATE TABLE saved AS SELECT * FROM t");
        Self(bed)
    }

    /// The versions in the table; none if there is no table.
    fn versions(&self) -> Vec<u64> {
        let table = "SELECT count(*) FROM information_schema.tables
            WHERE table_name = 't' AND table_schema IN ('public', 'test')";
        if self.0.server.sql(table) == "0" { Vec::new() } else { self.0.versions() }
    }

    fn before(&self) -> &'static [u64] {
        if matches!(self.0.way, Way::Create | Way::MergeNew) { &[] } else { &[0] }
    }
}

impl<S: Server> Load for ServerLoad<S> {
    fn what(&self) -> String {
        format!("{:?}", self.0.way)
    }

    fn reset(&self) {
        self.0.server.sql(match self.before() {
            [] => "DROP TABLE IF EXISTS t",
            _ => "DELETE FROM t; INSERT INTO t SELECT * FROM saved",
        });
    }

    fn run(&self, kill_at: Option<&str>) -> Ran {
        // The server may notice only after a while that a client is gone.
        let end = Instant::now() + Duration::from_secs(30);
        loop {
            let mut command = self.0.command(self.0.way, 1);
            let ran = Ran::of(&command.envs(kill_at.map(|point| (KILL_AT, point))).output().unwrap());
            if !ran.stderr.contains("another run is writing") || Instant::now() > end {
                return ran;
            }
        }
    }

    fn is_loaded(&self, what: &str) -> bool {
        let versions = self.versions();
        let is_loaded = versions == self.0.after(self.before(), 1);
        assert!(is_loaded || versions == self.before(), "{what}: versions {versions:?}");
        is_loaded
    }

    fn assert_done(&self, what: &str) {
        assert_eq!(self.versions(), self.0.after(self.before(), 1), "{what}");
        assert_eq!(self.0.server.left_over(), "", "{what}");
    }
}

fn kill_at_failpoints<S: Server>() {
    let mut loads: Vec<_> = WAYS.into_iter().map(ServerLoad::<S>::new).collect();
    loads.extend([Way::Create, Way::MergeNew].map(ServerLoad::new));
    let loads: Vec<_> = loads.iter().map(|load| load as &dyn Load).collect();
    let points = failpoints_of(S::PREFIX);
    let done = kill_at_each(&loads, &points, std::env::var_os("ETLRS_FAULTS").is_some());
    eprintln!("{} failpoints, {} kills, {} loads went on", points.len(), done.kills, done.went_on);
}

#[test]
fn a_run_that_is_killed_at_each_failpoint_goes_on_in_postgres() {
    kill_at_failpoints::<Postgres>();
}

#[test]
fn a_run_that_is_killed_at_each_failpoint_goes_on_in_mysql() {
    kill_at_failpoints::<MariaDb>();
}

/// Loads whose connection is cut while a commit is under way: that of a partition, or of the whole.
fn cut_commits<S: Server>() {
    let is_long = std::env::var_os("ETLRS_FAULTS").is_some();
    let (mut cuts, mut through, mut again, mut published) = (0, 0, 0, 0);
    for way in WAYS.into_iter().chain([Way::Create, Way::MergeNew]) {
        let load = ServerLoad::<S>::new(way);
        let link = CutLink::to(load.0.server.port(), S::COMMITS);
        let direct = format!(":{}/", load.0.server.port());
        let uri = load.0.server.uri("t").replace(&direct, &format!(":{}/", link.port()));
        let run = || Ran::of(&load.0.command_to(&uri, way, 1).output().unwrap());
        load.reset();
        link.arm(u32::MAX, Moment::Before);
        assert_eq!(run().code, 0);
        let commits = u32::try_from(link.commits()).unwrap();
        // Seven partitions, and the whole.
        assert!(commits >= 8, "{way:?}: {commits} commits");
        for moment in Moment::ALL {
            let all = (1..=commits).filter(|n| is_long || *n == 2 || *n > 7);
            for n in all {
                let what = format!("{way:?}: commit {n} of {commits} cut {moment:?}");
                load.reset();
                link.arm(n, moment);
                let ran = run();
                link.disarm();
                cuts += 1;
                let is_loaded = load.is_loaded(&what);
                if ran.code == 0 {
                    load.assert_done(&format!("{what}: {ran:?}"));
                    through += 1;
                    continue;
                }
                // What is not settled is not told as if it were, and the next run finds out.
                assert_eq!(ran.code, 1, "{what}: {ran:?}");
                let next = run();
                assert_eq!(next.code, 0, "{what}: {ran:?}, and then {next:?}");
                assert_eq!(is_loaded, next.stdout.contains(" had published "), "{what}: {ran:?}, and then {next:?}");
                load.assert_done(&format!("{what}: {ran:?}, and then {next:?}"));
                again += 1;
                published += u32::from(is_loaded);
            }
        }
        assert!(link.cuts() >= 6, "{way:?}: {} cuts", link.cuts());
    }
    eprintln!(
        "{cuts} cuts: {through} loads got through, {again} did in the next run, of which {published} were published"
    );
}

#[test]
fn a_lost_reply_to_a_commit_is_settled_by_asking_in_postgres() {
    cut_commits::<Postgres>();
}

#[test]
fn a_lost_reply_to_a_commit_is_settled_by_asking_in_mysql() {
    cut_commits::<MariaDb>();
}

/// Seconds within which a run over a broken link has to end: silence, the question to the server, and once more for what is asked
/// of it last; half a minute for the outcome of a commit.
const PATIENCE: Duration = Duration::from_secs(45);

/// Loads over links that are slow, and over those that break after any number of bytes.
fn use_broken_links<S: Server>() {
    let is_long = std::env::var_os("ETLRS_FAULTS").is_some();
    let rounds = if is_long { 25 } else { 1 };
    let mut random = Random::new();
    let (mut through, mut again, mut longest) = (0, 0, Duration::ZERO);
    // What is silent is noticed by waiting.
    for way in if is_long { &WAYS[..] } else { &[Way::Append] }.iter().copied() {
        let load = ServerLoad::<S>::new(way);
        let run = |link: &BrokenLink| {
            let direct = format!(":{}/", load.0.server.port());
            let uri = load.0.server.uri("t").replace(&direct, &format!(":{}/", link.port()));
            let mut command = load.0.command_to(&uri, way, 1);
            for option in ["network_timeout=1", "connect_timeout=2"] {
                command.args(["--target-option", option]);
            }
            let started = Instant::now();
            let ran = Ran::of(&command.output().unwrap());
            (ran, started.elapsed())
        };
        // What is slow gets through.
        let slow = [Shape::Latency(Duration::from_millis(20)), Shape::Bandwidth(500_000), Shape::Slices(100)];
        let mut bytes = 0;
        for shape in slow {
            load.reset();
            let link = BrokenLink::to(load.0.server.port(), shape);
            let (ran, _) = run(&link);
            assert_eq!(ran.code, 0, "{way:?} over {shape:?}: {ran:?}");
            load.assert_done(&format!("{way:?} over {shape:?}"));
            bytes = link.passed();
        }
        for round in 0..rounds {
            let at = (bytes as f64 * (round as f64 + random.unit()) / rounds as f64) as u64;
            for shape in [Shape::Reset(at), Shape::Stall(at), Shape::HalfOpen(at), Shape::StallAll(at)] {
                // One of each that is slow to be noticed is enough in each round.
                if !matches!(shape, Shape::Reset(_)) && round >= 5 {
                    continue;
                }
                let what = format!("{way:?} over {shape:?} of {bytes}, seed {}", random.seed);
                load.reset();
                let link = BrokenLink::to(load.0.server.port(), shape);
                let (ran, took) = run(&link);
                assert!(took < PATIENCE, "{what}: {took:?}: {ran:?}");
                longest = longest.max(took);
                link.mend();
                if ran.code == 0 {
                    through += 1;
                    assert!(load.is_loaded(&what), "{what}: {ran:?}");
                    // But for a mark that could not be taken away, of which it told.
                    if ran.stderr.is_empty() {
                        load.assert_done(&format!("{what}: {ran:?}"));
                    }
                    continue;
                }
                assert_eq!(ran.code, 1, "{what}: {ran:?}");
                assert!(link.is_broken() && ran.stderr.starts_with("error: "), "{what}: {ran:?}");
                let is_loaded = load.is_loaded(&what);
                // The server may notice only after a while that a client is gone.
                let end = Instant::now() + Duration::from_secs(60);
                let next = loop {
                    let (next, _) = run(&link);
                    if !next.stderr.contains("another run is writing") || Instant::now() > end {
                        break next;
                    }
                };
                assert_eq!(next.code, 0, "{what}: {ran:?}, and then {next:?}");
                assert_eq!(is_loaded, next.stdout.contains(" had published "), "{what}: {ran:?}, and then {next:?}");
                load.assert_done(&format!("{what}: {ran:?}, and then {next:?}"));
                again += 1;
            }
        }
    }
    eprintln!("{through} loads got through, {again} did in the next run; the longest took {longest:?}");
}

#[test]
fn a_link_that_is_slow_or_breaks_costs_time_and_no_rows_in_postgres() {
    use_broken_links::<Postgres>();
}

#[test]
fn a_link_that_is_slow_or_breaks_costs_time_and_no_rows_in_mysql() {
    use_broken_links::<MariaDb>();
}

/// Nothing is heard of a long statement either, and the server is asked whether it still works at it.
fn wait_for_long_statements<S: Server>(sleep: &str) {
    let bed = Bed::<S>::with_rows(Way::Append, 600);
    let mut command = bed.command(Way::Append, 1);
    command.args(["--target-option", "network_timeout=1", "--target-option", &format!("post_sql={sleep}")]);
    let started = Instant::now();
    let ran = Ran::of(&command.output().unwrap());
    assert!(ran.code == 0 && started.elapsed() > Duration::from_secs(4), "{:?}: {ran:?}", started.elapsed());
    assert_eq!(bed.versions(), [0, 1]);
}

#[test]
fn a_long_statement_is_waited_for_in_postgres() {
    wait_for_long_statements::<Postgres>("SELECT pg_sleep(4)");
}

#[test]
fn a_long_statement_is_waited_for_in_mysql() {
    wait_for_long_statements::<MariaDb>("DO sleep(4)");
}

/// The second of two runs into one table is told who holds it, and how to end that if it is dead.
fn tell_who_holds<S: Server>() {
    let bed = Bed::<S>::with_rows(Way::Append, 600);
    let paused = Paused::at(&mut bed.command(Way::Append, 1), "run-begun:1");
    let second = Ran::of(&bed.command(Way::Append, 2).output().unwrap());
    assert_eq!(second.code, 1, "{second:?}");
    assert!(second.stderr.contains("another run is writing to this table, over connection "), "{second:?}");
    let (_, end) = second.stderr.split_once("or by: ").unwrap();
    bed.server.sql(end);
    let third = Ran::of(&bed.command(Way::Append, 2).output().unwrap());
    assert_eq!(third.code, 0, "{third:?}");
    let first = paused.go_on();
    assert_eq!(first.code, 1, "{first:?}");
    assert_eq!(bed.versions(), [0, 2]);
}

#[test]
fn the_second_run_is_told_who_holds_the_table_in_postgres() {
    tell_who_holds::<Postgres>();
}

#[test]
fn the_second_run_is_told_who_holds_the_table_in_mysql() {
    tell_who_holds::<MariaDb>();
}

/// A table that is changed while it is read comes as it was, or not at all.
fn change_sources<S: Server>(patience: &str) {
    let bed = Bed::<S>::with_rows(Way::Create, 6000);
    bed.server.sql("CREATE TABLE saved AS SELECT * FROM t");
    let out = bed.folder.path().join("out.csv");
    let source = bed.source(0);
    for change in [
        "UPDATE t SET version = 9",
        "DELETE FROM t WHERE id % 2 = 0",
        "INSERT INTO t (id, version) VALUES (99999, 9)",
        "ALTER TABLE t ADD COLUMN more int",
        "ALTER TABLE t DROP COLUMN note",
        "TRUNCATE TABLE t",
        "DROP TABLE t",
    ] {
        bed.server
            .sql("DROP TABLE IF EXISTS t; CREATE TABLE t AS SELECT * FROM saved; ALTER TABLE t ADD PRIMARY KEY (id)");
        let uri = bed.server.uri("t");
        let arguments =
            ["copy", &uri, out.to_str().unwrap(), "--mode", "replace", "--partitions", "6", "--threads", "2"];
        let mut command = etlrs(PROGRAM, Path::new("."), &arguments);
        let paused = Paused::at(&mut command, "partition-staged:2");
        // It may have to wait for the reader, which waits for it here.
        let changed = bed.server.try_sql(&format!("{patience}; {change}"));
        let ran = paused.go_on();
        let what = format!("{change} {changed}: {ran:?}");
        match ran.code {
            0 => {
                let both = ["verify", source.to_str().unwrap(), out.to_str().unwrap()];
                let read = Ran::of(&etlrs(PROGRAM, Path::new("."), &both).output().unwrap());
                assert_eq!(read.code, 0, "{what}: {read:?}");
            }
            1 => assert!(ran.stderr.contains("error: ") && !out.exists(), "{what}"),
            _ => panic!("{what}"),
        }
        _ = std::fs::remove_file(&out);
    }
}

#[test]
fn a_table_that_changes_while_it_is_read_is_one_or_the_other_in_postgres() {
    change_sources::<Postgres>("SET lock_timeout = 300");
}

#[test]
fn a_table_that_changes_while_it_is_read_is_one_or_the_other_in_mysql() {
    change_sources::<MariaDb>("SET lock_wait_timeout = 1, innodb_lock_wait_timeout = 1");
}

fn kill_runs<S: Server>() {
    for way in WAYS {
        Bed::<S>::new(way).disturb(|_, child| {
            let pid = rustix::process::Pid::from_child(child);
            _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        });
    }
}

/// The server crashes while rows are on their way.
fn restart_servers<S: Server>() {
    for way in WAYS {
        let rounds = if std::env::var_os("ETLRS_FAULTS").is_some() { 13 } else { 2 };
        Bed::<S>::new(way).disturb_times(rounds, |bed, _| bed.server.restart());
    }
}

#[test]
fn a_run_whose_server_crashes_goes_on_or_leaves_the_old_rows_in_postgres() {
    restart_servers::<Postgres>();
}

#[test]
fn a_run_whose_server_crashes_goes_on_or_leaves_the_old_rows_in_mysql() {
    restart_servers::<MariaDb>();
}

fn end_connections<S: Server>() {
    for way in WAYS {
        Bed::<S>::new(way).disturb(|bed, _| bed.server.end_a_connection());
    }
}

#[test]
fn a_killed_run_leaves_whole_versions_in_postgres() {
    kill_runs::<Postgres>();
}

#[test]
fn a_run_that_is_killed_again_and_again_goes_on_in_postgres() {
    WAYS.iter().for_each(|way| Bed::<Postgres>::new(*way).go_on());
}

#[test]
fn a_killed_run_leaves_whole_versions_in_mysql() {
    kill_runs::<MariaDb>();
}

#[test]
fn a_run_that_is_killed_again_and_again_goes_on_in_mysql() {
    WAYS.iter().for_each(|way| Bed::<MariaDb>::new(*way).go_on());
}

#[test]
fn a_run_that_loses_connections_of_postgres_goes_on_or_leaves_the_old_rows() {
    end_connections::<Postgres>();
}

#[test]
fn a_run_that_loses_connections_of_mysql_goes_on_or_leaves_the_old_rows() {
    end_connections::<MariaDb>();
}
