//! The program is killed, stopped, starved of disk space and raced, and its target is looked at with other eyes: SQLite
//! itself, the `parquet` crate over whatever files a directory holds, and for CSV a parser of a few lines. The target must
//! always hold whole versions of the source and nothing else; the next run must succeed and leave nothing behind but the
//! target.
//!
//! `ETLRS_FAULTS=1` makes 50 faults of each kind instead of a few, and `ETLRS_FAULTS_SEED=N` repeats the moments of an
//! earlier run (as near as the scheduler lets it). Every failure names the seed, the number of the fault and the delay.
//!
//! What stands in the target is always read from a copy: SQLite rolls a dead run's journal back when it opens a
//! database, and that work must be left to the program.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

/// Defines a module of one test for each target; `$check` takes the target.
macro_rules! each_target {
    ($name:ident, $check:expr) => {
        mod $name {
            use super::*;

            #[test]
            fn file() {
                $check(Target::File);
            }

            #[test]
            fn database() {
                $check(Target::Database);
            }

            #[test]
            fn directory() {
                $check(Target::Directory);
            }

            #[test]
            fn text() {
                $check(Target::Text);
            }
        }
    };
}

mod changed;
mod clocks;
mod cursors;
mod failpoints;
mod limits;
mod quarantined;
mod replayed;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use etlrs_tests::random::Random;
use etlrs_tests::{Ran, etlrs, row_hash, run, write_hashed_csv};
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::Field;
use rustix::process::{Pid, Signal, kill_process};

const PROGRAM: &str = env!("CARGO_BIN_EXE_etlrs-under-test");

/// Records of each version of the source, counted from version 1.
const ROWS: [u64; 3] = [60_000, 75_000, 1_000];

#[derive(Clone, Copy, Debug)]
enum Target {
    File,
    Database,
    Directory,
    Text,
}

impl Target {
    /// As the command line has it.
    fn uri(self) -> &'static str {
        match self {
            Self::File => "out.parquet",
            Self::Database => "sqlite:t.db#t",
            Self::Directory => "dir.parquet/",
            Self::Text => "out.csv",
        }
    }

    /// Its one entry in the place.
    fn name(self) -> &'static str {
        match self {
            Self::File => "out.parquet",
            Self::Database => "t.db",
            Self::Directory => "dir.parquet",
            Self::Text => "out.csv",
        }
    }

    fn lock(self) -> &'static str {
        match self {
            Self::File => ".out.parquet.etlrs-lock",
            Self::Database => ".t.db.etlrs-t.lock",
            Self::Directory => ".dir.parquet.etlrs-lock",
            Self::Text => ".out.csv.etlrs-lock",
        }
    }

    /// Whether a dead run may leave `name` beside the target.
    fn may_be_left(self, name: &str) -> bool {
        let journal = matches!(self, Self::Database) && ["t.db-journal", "t.db-wal", "t.db-shm"].contains(&name);
        name == self.name() || journal || name.starts_with(&format!(".{}.etlrs-", self.name()))
    }

    /// The versions that the target in `place` holds, each with all its records once, of which there are `rows_of`; none if
    /// there is no target.
    /// Anything else is an error that says what.
    fn versions(self, place: &Path, rows_of: &[u64]) -> Result<Vec<u64>, String> {
        let copy = tempfile::tempdir().unwrap();
        copy_all(place, copy.path());
        let path = copy.path().join(self.name());
        if !path.exists() {
            return Ok(Vec::new());
        }
        let mut found = BTreeMap::new();
        match self {
            Self::File => read_parquet(&path, &mut found)?,
            Self::Database => read_sqlite(&path, &mut found)?,
            Self::Directory => read_directory(&path, &mut found)?,
            Self::Text => read_csv(&path, &mut found)?,
        }
        for (version, ids) in &mut found {
            let rows = usize::try_from(*version - 1).ok().and_then(|index| rows_of.get(index));
            let rows = *rows.ok_or_else(|| format!("records of a version {version}"))?;
            ids.sort_unstable();
            if !ids.iter().copied().eq(0..i64::try_from(rows).unwrap()) {
                return Err(format!("{} records of version {version}, which has {rows}, or other ids", ids.len()));
            }
        }
        Ok(found.into_keys().map(i64::unsigned_abs).collect())
    }

    /// Tables and indexes of the database but for the target, of which a finished run leaves none.
    fn leftover_tables(self, place: &Path) -> Vec<String> {
        if !matches!(self, Self::Database) || !place.join(self.name()).exists() {
            return Vec::new();
        }
        let copy = tempfile::tempdir().unwrap();
        copy_all(place, copy.path());
        let database = rusqlite::Connection::open(copy.path().join(self.name())).unwrap();
        let mut names = database.prepare("select name from sqlite_master where name != 't'").unwrap();
        names.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
    }
}

/// The ids of each version.
type Found = BTreeMap<i64, Vec<i64>>;

/// Adds a row: its id, version, day, name, note and hash, which must be theirs.
fn add(found: &mut Found, [id, version, day, name, note, hash]: [String; 6]) -> Result<(), String> {
    let number = |text: &str| text.parse::<u64>().map_err(|_| format!("a row has a number {text}"));
    let (number_of_row, number_of_version) = (number(&id)?, number(&version)?);
    if row_hash(number_of_row, number_of_version, &day, &name, &note) != hash {
        return Err(format!("a row is mixed of several: {id} {version} {day} {name} {note:?} {hash}"));
    }
    let signed = |number: u64| i64::try_from(number).map_err(|error| error.to_string());
    found.entry(signed(number_of_version)?).or_default().push(signed(number_of_row)?);
    Ok(())
}

/// Decodes every column, so that a torn page is seen in whichever it is.
fn read_parquet(path: &Path, found: &mut Found) -> Result<(), String> {
    let failed = |error| format!("{}: {error}", path.display());
    let reader = SerializedFileReader::new(File::open(path).unwrap()).map_err(failed)?;
    for row in reader.get_row_iter(None).map_err(failed)? {
        let row = row.map_err(failed)?;
        let text = |index: usize| match row.get_column_iter().nth(index) {
            Some((_, Field::Str(text))) => text.clone(),
            Some((_, Field::Null)) | None => String::new(),
            Some((_, field)) => field.to_string(),
        };
        add(found, [text(0), text(1), text(3), text(6), text(7), text(8)])?;
    }
    Ok(())
}

/// A record ends where a line does and no quote is open; each has the fields that the header has.
fn read_csv(path: &Path, found: &mut Found) -> Result<(), String> {
    let text = fs::read_to_string(path).map_err(|error| error.to_string())?;
    let (mut in_quotes, mut fields, mut start, mut records) = (false, vec![0], 0, 0);
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'"' => in_quotes = !in_quotes,
            b',' if !in_quotes => fields.push(at + 1),
            b'\n' if !in_quotes => {
                let field = |index: usize| {
                    let end = fields.get(index + 1).map_or(at, |next| next - 1);
                    let field = &text[fields[index]..end];
                    let quoted = field.strip_prefix('"').and_then(|field| field.strip_suffix('"'));
                    quoted.map_or(field.to_owned(), |quoted| quoted.replace("\"\"", "\""))
                };
                if fields.len() != 9 {
                    return Err(format!("a record has {} fields: {}", fields.len(), &text[start..at]));
                }
                if records > 0 {
                    add(found, [field(0), field(1), field(3), field(6), field(7), field(8)])?;
                }
                records += 1;
                start = at + 1;
                fields = vec![start];
            }
            _ => {}
        }
    }
    if start == text.len() { Ok(()) } else { Err(format!("the last record has no end: {}", &text[start..])) }
}

/// Reads what a program that knows no manifest would: each file that ends in `.parquet`. The manifest must list the same.
fn read_directory(path: &Path, found: &mut Found) -> Result<(), String> {
    let manifest =
        fs::read_to_string(path.join("_etlrs_manifest.json")).map_err(|error| format!("manifest: {error}"))?;
    let manifest: serde_json::Value = serde_json::from_str(&manifest).map_err(|error| format!("manifest: {error}"))?;
    let mut listed: Vec<_> =
        manifest["files"].as_array().unwrap().iter().map(|file| file["name"].as_str().unwrap().to_owned()).collect();
    listed.push("_etlrs_manifest.json".into());
    listed.sort();
    let there = names(path);
    if there != listed {
        return Err(format!("the manifest lists {listed:?}, the directory holds {there:?}"));
    }
    there.iter().filter(|name| name.ends_with(".parquet")).try_for_each(|name| read_parquet(&path.join(name), found))
}

fn read_sqlite(path: &Path, found: &mut Found) -> Result<(), String> {
    let failed = |error: rusqlite::Error| error.to_string();
    let database = rusqlite::Connection::open(path).map_err(failed)?;
    let sound: String = database.query_row("pragma integrity_check", [], |row| row.get(0)).map_err(failed)?;
    if sound != "ok" {
        return Err(format!("integrity_check: {sound}"));
    }
    let mut things = database.prepare("select name from sqlite_master order by name").map_err(failed)?;
    let things: Vec<String> = things.query_map([], |row| row.get(0)).and_then(Iterator::collect).map_err(failed)?;
    if let Some(thing) = things.iter().find(|name| *name != "t" && !name.starts_with("_etlrs_")) {
        return Err(format!("the database holds {thing:?}"));
    }
    if !things.iter().any(|name| name == "t") {
        return Ok(());
    }
    let sql = "select cast(id as text), cast(version as text), day, name, coalesce(note, ''), hash from t";
    let mut rows = database.prepare(sql).map_err(failed)?;
    let mut rows = rows.query([]).map_err(failed)?;
    while let Some(row) = rows.next().map_err(failed)? {
        let mut values: [String; 6] = Default::default();
        for (index, value) in values.iter_mut().enumerate() {
            *value = row.get(index).map_err(failed)?;
        }
        add(found, values)?;
    }
    Ok(())
}

/// A place with the target alone in it, and the sources and the saved target beside it.
struct Bed {
    folder: tempfile::TempDir,
    target: Target,
    rows: [u64; 3],
}

impl Bed {
    fn new(target: Target) -> Self {
        Self::with_rows(target, ROWS)
    }

    fn with_rows(target: Target, rows: [u64; 3]) -> Self {
        let bed = Self { folder: tempfile::tempdir().unwrap(), target, rows };
        for (version, rows) in (1..).zip(rows) {
            write_hashed_csv(&bed.source(version), rows, version);
        }
        fs::create_dir(bed.place()).unwrap();
        bed
    }

    /// With version 1 loaded and saved.
    fn loaded(target: Target) -> Self {
        Self::new(target).load("create")
    }

    /// Loads version 1, and saves it.
    fn load(self, mode: &str) -> Self {
        let ran = self.run(mode, 1);
        assert_eq!(ran.code, 0, "{ran:?}");
        self.assert_clean(&[1], "the first load");
        copy_all(&self.place(), &self.folder.path().join("saved"));
        self
    }

    fn place(&self) -> PathBuf {
        self.folder.path().join("place")
    }

    fn source(&self, version: u64) -> PathBuf {
        self.folder.path().join(format!("{version}.csv"))
    }

    /// Back to what [`loaded`](Self::loaded) made, or to nothing.
    fn reset(&self) {
        fs::remove_dir_all(self.place()).unwrap();
        fs::create_dir(self.place()).unwrap();
        let saved = self.folder.path().join("saved");
        if saved.exists() {
            copy_all(&saved, &self.place());
        }
    }

    fn arguments(&self, mode: &str, version: u64) -> Vec<String> {
        let source = self.source(version).into_os_string().into_string().unwrap();
        let key: &[&str] = if mode == "merge" { &["--key", "id"] } else { &[] };
        let rest = ["--mode", mode, "--partitions", "16", "--threads", "2", "--no-progress"];
        let all = ["copy", &source, self.target.uri()].into_iter().chain(rest).chain(key.iter().copied());
        all.map(str::to_owned).collect()
    }

    fn run(&self, mode: &str, version: u64) -> Ran {
        let arguments = self.arguments(mode, version);
        run(PROGRAM, &self.place(), &arguments.iter().map(String::as_str).collect::<Vec<_>>())
    }

    fn start(&self, mode: &str, version: u64) -> Running {
        let arguments = self.arguments(mode, version);
        let mut command = etlrs(PROGRAM, &self.place(), &arguments.iter().map(String::as_str).collect::<Vec<_>>());
        Running::start(&mut command)
    }

    /// How long such a run takes when nobody disturbs it: the median of three.
    fn duration(&self, mode: &str, version: u64) -> Duration {
        let mut times = [(); 3].map(|()| {
            self.reset();
            let started = Instant::now();
            let ran = self.run(mode, version);
            assert_eq!(ran.code, 0, "{ran:?}");
            started.elapsed()
        });
        self.reset();
        times.sort();
        times[1]
    }

    /// The whole versions in the target, of which nothing but them is taken for data.
    fn versions(&self, what: &str) -> Vec<u64> {
        let left: Vec<_> = names(&self.place()).into_iter().filter(|name| !self.target.may_be_left(name)).collect();
        assert!(left.is_empty(), "{what}: left behind {left:?}");
        self.target.versions(&self.place(), &self.rows).unwrap_or_else(|wrong| panic!("{what}: {wrong}"))
    }

    /// The place holds the target with just these versions, and nothing else; with none, nothing at all.
    fn assert_clean(&self, versions: &[u64], what: &str) {
        self.assert_clean_at(&self.place(), versions, what);
    }

    fn assert_clean_at(&self, place: &Path, versions: &[u64], what: &str) {
        assert_eq!(self.target.versions(place, &self.rows), Ok(versions.to_vec()), "{what}");
        let expected = if versions.is_empty() { &[][..] } else { &[self.target.name()] };
        assert_eq!(names(place), expected, "{what}: files are left behind");
        assert_eq!(self.target.leftover_tables(place), [""; 0], "{what}: tables are left behind");
    }

    /// The target is as it was. Beside it is nothing, or what the run says that it kept to go on with.
    fn assert_stopped(&self, place: &Path, versions: &[u64], ran: &Ran, what: &str) {
        if !ran.stderr.contains("pieces are kept; run the same again") {
            return self.assert_clean_at(place, versions, &format!("{what}: {ran:?}"));
        }
        assert_eq!(self.target.versions(place, &self.rows), Ok(versions.to_vec()), "{what}: {ran:?}");
        if matches!(self.target, Target::Database) {
            assert!(!self.target.leftover_tables(place).is_empty(), "{what}: {ran:?}: nothing is kept");
            return assert_eq!(names(place), [self.target.name()], "{what}: {ran:?}");
        }
        let kept: Vec<_> = names(place).into_iter().filter(|name| name != self.target.name()).collect();
        let is_kept = |name: &String| name.starts_with(&format!(".{}.etlrs-", self.target.name()));
        let kinds: Vec<_> = kept.iter().filter_map(|name| Path::new(name).extension()?.to_str()).collect();
        assert!(kept.iter().all(is_kept) && kinds == ["ledger", "tmp"], "{what}: {ran:?}: {kept:?}");
    }
}

/// A run that ends with the test, if not before.
struct Running(Option<Child>);

impl Running {
    fn start(command: &mut Command) -> Self {
        Self(Some(command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()))
    }

    fn pid(&self) -> Pid {
        Pid::from_child(self.0.as_ref().unwrap())
    }

    /// Safe at any time: the process is not waited for before [`end`](Self::end), so its id is not given to another.
    fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).unwrap();
    }

    /// What it leaves, which takes no longer than 10 seconds.
    fn end(mut self, what: &str) -> Ran {
        let pid = self.pid();
        let child = self.0.take().unwrap();
        let (sender, receiver) = mpsc::channel();
        std::thread::spawn(move || sender.send(child.wait_with_output().unwrap()));
        let Ok(output) = receiver.recv_timeout(Duration::from_secs(10)) else {
            let _ = kill_process(pid, Signal::KILL);
            panic!("{what}: not done after 10 seconds");
        };
        Ran::of(&output)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Names in `folder`, sorted.
fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// What is in `from`, into the directory `to`.
fn copy_all(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for name in names(from) {
        let (from, to) = (from.join(&name), to.join(&name));
        if from.is_dir() {
            copy_all(&from, &to);
        } else {
            fs::copy(from, to).unwrap();
        }
    }
}

/// How many faults of a kind.
fn faults(smoke: u32) -> u32 {
    if std::env::var_os("ETLRS_FAULTS").is_some_and(|value| value == "1") { 50 } else { smoke }
}

/// The moment of fault `index` of `count`: three in four are spread evenly over the whole `duration` and a little more, the fourth
/// over its end, where the commit is.
fn moment(random: &mut Random, index: u32, count: u32, duration: Duration) -> Duration {
    let place = (f64::from(index) + random.unit()) / f64::from(count);
    duration.mul_f64(if index % 4 == 3 { 0.75 + 0.3 * place } else { 1.05 * place })
}

/// What came of the faults, printed for who asks (`--no-capture`).
#[derive(Debug, Default)]
struct Tally {
    /// Ended by the fault.
    hit: u32,
    /// Of them, by a signal that came before the program listened for it.
    unheard: u32,
    /// Done before the fault came.
    done: u32,
    old_kept: u32,
    new_seen: u32,
}

impl Tally {
    fn count(&mut self, done: bool, new: bool) {
        *(if done { &mut self.done } else { &mut self.hit }) += 1;
        *(if new { &mut self.new_seen } else { &mut self.old_kept }) += 1;
    }

    fn tell(&self, what: &str, seed: u64, duration: Duration) {
        eprintln!("{what}: seed {seed}, a run takes {duration:?}, {self:?}");
        let count = self.hit + self.done;
        assert!(self.hit * 5 > count, "{what}: seed {seed}: nearly all runs were done before the fault: {self:?}");
    }
}

each_target!(a_killed_replace_leaves_the_old_rows_or_the_new, |target| kill(target, "replace"));
each_target!(a_killed_append_leaves_the_old_rows_with_all_of_the_new_or_none, |target| kill(target, "append"));
each_target!(a_killed_create_leaves_no_target_or_a_whole_one, |target| kill(target, "create"));
each_target!(a_signal_stops_a_replace_and_leaves_the_old_rows, stop);
each_target!(a_full_disk_fails_a_replace_and_leaves_the_old_rows, fill);
each_target!(the_second_run_is_told_who_holds_the_target, race);

fn kill(target: Target, mode: &str) {
    let bed = if mode == "create" { Bed::new(target) } else { Bed::loaded(target) };
    // What the target holds before the run, after it, and after another one; each of them as sets of versions.
    let (old, new): (&[u64], &[u64]) = match mode {
        "create" => (&[], &[2]),
        "append" => (&[1], &[1, 2]),
        _ => (&[1], &[2]),
    };
    let (mut random, mut tally) = (Random::new(), Tally::default());
    let duration = bed.duration(mode, 2);
    let count = faults(12);
    for index in 0..count {
        let delay = moment(&mut random, index, count, duration);
        let what = format!("{mode} {target:?}, kill {index} of {count} after {delay:?}, seed {}", random.seed);
        let running = bed.start(mode, 2);
        std::thread::sleep(delay);
        running.signal(Signal::KILL);
        let ran = running.end(&what);
        assert!([0, -Signal::KILL.as_raw()].contains(&ran.code), "{what}: {ran:?}");

        let versions = bed.versions(&what);
        assert!(versions == new || (versions == old && ran.code != 0), "{what}: versions {versions:?} after {ran:?}");
        tally.count(ran.code == 0, versions == new);

        let (next, then) = match mode {
            // Another version, for the one that was killed may be there.
            "append" => (3, [&versions[..], &[3]].concat()),
            _ => (2, new.to_vec()),
        };
        let ran = bed.run(mode, next);
        if mode == "create" && versions == new {
            let exists = ran.code == 1 && ran.stderr.contains("the target exists");
            // It was killed before it could say that it is done.
            let is_told = ran.code == 0 && ran.stdout.contains("had published 75,000 rows, and nothing was left to do");
            assert!(exists || is_told, "{what}: {ran:?}");
        } else {
            assert_eq!(ran.code, 0, "{what}: the next run: {ran:?}");
            bed.assert_clean(&then, &format!("{what}: after the next run"));
        }
        bed.reset();
    }
    tally.tell(&format!("{mode} {target:?} killed"), random.seed, duration);
}

mod a_run_that_is_killed_again_and_again_goes_on {
    use super::*;

    #[test]
    fn directory() {
        for mode in ["create", "append", "replace"] {
            go_on(Target::Directory, mode);
        }
    }

    #[test]
    fn database() {
        for mode in ["create", "append", "replace", "merge"] {
            go_on(Target::Database, mode);
        }
    }

    #[test]
    fn file() {
        for mode in ["create", "append", "replace"] {
            go_on(Target::File, mode);
        }
    }

    #[test]
    fn text() {
        for mode in ["create", "append", "replace"] {
            go_on(Target::Text, mode);
        }
    }
}

/// Kills a run, and whatever goes on with it, until one gets through: the rows are then there, each once.
fn go_on(target: Target, mode: &str) {
    let bed = match mode {
        "create" => Bed::new(target),
        // By the same mode, which makes the key.
        "merge" => Bed::new(target).load(mode),
        _ => Bed::loaded(target),
    };
    let (old, new): (&[u64], &[u64]) = match mode {
        "create" => (&[], &[2]),
        "append" => (&[1], &[1, 2]),
        _ => (&[1], &[2]),
    };
    let mut random = Random::new();
    let (duration, count) = (bed.duration(mode, 2), faults(8));
    let (mut killed, mut went_on, mut skipped) = (0, 0, 0);
    // Where chance had it that none had staged anything when it was killed, more have to tell.
    for index in 0..3 * count {
        if index >= count && went_on > 0 {
            break;
        }
        let what = format!("{mode} {target:?}, {index} of {count}, seed {}", random.seed);
        let ran = loop {
            // The whole of a first run takes so long, so later ones get the further the more are killed.
            let delay = moment(&mut random, index % count, count, duration);
            let running = bed.start(mode, 2);
            std::thread::sleep(delay);
            running.signal(Signal::KILL);
            let ran = running.end(&what);
            let versions = bed.versions(&what);
            // Or killed when it had said that it is done.
            if ran.code == 0 || ran.stdout.contains("  written ") {
                break ran;
            }
            assert_eq!(ran.code, -Signal::KILL.as_raw(), "{what}: {ran:?}");
            assert!(versions == new || versions == old, "{what}: versions {versions:?}");
            killed += 1;
            if index % 2 == 0 || killed % 3 == 0 {
                break bed.run(mode, 2);
            }
        };
        if ran.code == 0 {
            bed.assert_clean(new, &format!("{what}: {ran:?}"));
        } else {
            assert_eq!(bed.versions(&what), new, "{what}: {ran:?}");
        }
        went_on += u32::from(ran.stdout.contains("  resumed "));
        skipped += u32::from(ran.stdout.contains(" had published "));
        bed.reset();
    }
    eprintln!(
        "{mode} {target:?}: seed {}, {killed} kills, {went_on} of {count} loads went on, {skipped} of them were published",
        random.seed
    );
    assert!(went_on > 0, "{mode} {target:?}: seed {}: no load went on", random.seed);
}

fn stop(target: Target) {
    let bed = Bed::loaded(target);
    let (mut random, mut tally) = (Random::new(), Tally::default());
    let duration = bed.duration("replace", 2);
    let count = faults(6);
    for index in 0..count {
        let delay = moment(&mut random, index, count, duration);
        let signal = if index % 2 == 0 { Signal::INT } else { Signal::TERM };
        let what = format!("{target:?}, {signal:?} {index} of {count} after {delay:?}, seed {}", random.seed);
        let running = bed.start("replace", 2);
        std::thread::sleep(delay);
        running.signal(signal);
        let ran = running.end(&what);
        match ran.code {
            0 => bed.assert_clean(&[2], &what),
            130 => {
                bed.assert_stopped(&bed.place(), &[1], &ran, &what);
                assert!(ran.stderr.starts_with("stopping (once more"), "{what}: {ran:?}");
            }
            // So early that nobody listened yet, so nothing can have been touched.
            code if code == -signal.as_raw() => {
                bed.assert_clean(&[1], &what);
                tally.unheard += 1;
            }
            _ => panic!("{what}: {ran:?}"),
        }
        tally.count(ran.code == 0, ran.code == 0);
        let ran = bed.run("replace", 2);
        assert_eq!(ran.code, 0, "{what}: the next run: {ran:?}");
        bed.assert_clean(&[2], &format!("{what}: after the next run"));
        bed.reset();
    }
    tally.tell(&format!("{target:?} stopped"), random.seed, duration);
}

/// A small file system that only its own processes see. It goes with the process that holds it, which ends when the
/// test does, however that ends.
struct SmallDisk {
    holder: Child,
    folder: PathBuf,
}

impl SmallDisk {
    /// Says on standard error why there is none.
    fn mount(folder: &Path, size: u64) -> Option<Self> {
        let script = "mount -t tmpfs -o size=\"$1\" tmpfs \"$2\" && echo mounted && exec cat";
        let mut command = Command::new("unshare");
        command.arg(if rustix::process::geteuid().is_root() { "-m" } else { "-rm" });
        command.args(["sh", "-c", script, "sh", &size.to_string()]).arg(folder);
        let started = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let Ok(mut holder) = started else {
            eprintln!("SKIPPED: there is no program unshare to mount a small disk with");
            return None;
        };
        let mut line = String::new();
        std::io::BufRead::read_line(&mut std::io::BufReader::new(holder.stdout.as_mut().unwrap()), &mut line).unwrap();
        let disk = Self { holder, folder: folder.to_owned() };
        if line != "mounted\n" {
            eprintln!("SKIPPED: a small disk cannot be mounted here");
            return None;
        }
        Some(disk)
    }

    /// A program with the disk at its folder.
    fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        if !rustix::process::geteuid().is_root() {
            command.args(["-U", "--preserve-credentials"]);
        }
        command.args(["-t", &self.holder.id().to_string(), "-m"]);
        command.arg(format!("--wd={}", self.folder.display())).arg(program);
        command.env("XDG_STATE_HOME", etlrs_tests::state_home());
        command
    }

    fn resize(&self, size: u64) {
        let resized = self.command("mount").args(["-o", &format!("remount,size={size}")]).arg(&self.folder).status();
        assert!(resized.unwrap().success());
    }

    /// The folder as it is seen from outside.
    fn seen(&self) -> PathBuf {
        let folder = self.folder.strip_prefix("/").unwrap();
        Path::new("/proc").join(self.holder.id().to_string()).join("root").join(folder)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        drop(self.holder.stdin.take());
        let _ = self.holder.wait();
    }
}

/// Bytes on disk of what is in `folder`, in pages.
fn disk_usage(folder: &Path) -> u64 {
    let pages = |path: &Path| fs::metadata(path).unwrap().len().next_multiple_of(4096);
    names(folder)
        .iter()
        .map(|name| folder.join(name))
        .map(|path| if path.is_dir() { disk_usage(&path) } else { pages(&path) })
        .sum()
}

fn fill(target: Target) {
    let bed = Bed::loaded(target);
    let old = disk_usage(&bed.place());
    assert_eq!(bed.run("replace", 2).code, 0);
    let new = disk_usage(&bed.place());
    bed.reset();
    // A database keeps the room of the old table, so that its size after the run is the least that the run takes; the
    // others need room for both.
    let enough = if matches!(target, Target::Database) { new } else { old + new };
    let mut random = Random::new();
    let mut sentences = std::collections::BTreeSet::new();
    let count = faults(4);
    for index in 0..count {
        let share = (f64::from(index) + random.unit()) / f64::from(count);
        // Pages above the old target; the last hundredth is left out, for encoders may need a little less than last time.
        let room = (enough - old) / 4096 * 99 / 100;
        let size = old + (room as f64 * share) as u64 * 4096;
        let what = format!("{target:?} on {size} bytes ({old} are taken, {enough} needed), seed {}", random.seed);
        let Some(disk) = SmallDisk::mount(&bed.place(), size) else { return };
        copy_all(&bed.folder.path().join("saved"), &disk.seen());
        bed.assert_clean_at(&disk.seen(), &[1], &what);

        let run = || Ran::of(&disk.command(PROGRAM).args(bed.arguments("replace", 2)).output().unwrap());
        let ran = run();
        assert_eq!(ran.code, 1, "{what}: {ran:?}");
        // Dropping a table takes room in the journal too, of which there may be none. What is left then is hidden, and the
        // next run has to remove it.
        if matches!(target, Target::Database) {
            assert_eq!(target.versions(&disk.seen(), &bed.rows), Ok(vec![1]), "{what}: {ran:?}");
            assert_eq!(names(&disk.seen()), [target.name()], "{what}: {ran:?}: files are left behind");
        } else {
            bed.assert_stopped(&disk.seen(), &[1], &ran, &what);
        }
        let sentence = ran.stderr.strip_prefix("error: ").and_then(|rest| rest.strip_suffix('\n')).unwrap_or_default();
        assert!(!sentence.is_empty() && !sentence.contains('\n'), "{what}: {ran:?}");
        let space = sentence.contains("no space left");
        assert!(space && sentence.contains(target.name()), "{what}: {ran:?}");
        sentences.insert(sentence.to_owned());

        disk.resize(4 * enough);
        let ran = run();
        assert_eq!(ran.code, 0, "{what}: with room: {ran:?}");
        bed.assert_clean_at(&disk.seen(), &[2], &format!("{what}: with room"));
    }
    eprintln!(
        "{target:?} on a full disk: seed {}, {count} runs, from {old} to {enough} bytes: {sentences:?}",
        random.seed
    );
}

fn race(target: Target) {
    let bed = Bed::loaded(target);
    let lock = bed.place().join(target.lock());
    // The first is stopped while it holds the target; if it was done by then, all begins again.
    for _ in 0..20 {
        let first = bed.start("replace", 2);
        let pid = first.pid().as_raw_nonzero();
        let said = format!("process {pid}");
        let began = Instant::now();
        let mut held = false;
        while !held && began.elapsed() < Duration::from_secs(5) {
            first.signal(Signal::STOP);
            held = fs::read_to_string(&lock).is_ok_and(|owner| owner.ends_with(&said)) && readable(&bed);
            if !held {
                first.signal(Signal::CONT);
                std::thread::yield_now();
            }
        }
        if held {
            let second = bed.run("replace", 3);
            assert_eq!(second.code, 1, "{second:?}");
            assert!(second.stderr.contains("the target is being written by run "), "{second:?}");
            assert!(second.stderr.contains(&said) && second.stderr.contains(target.name()), "{second:?}");
            first.signal(Signal::CONT);
            let first = first.end("the first run");
            assert_eq!(first.code, 0, "{first:?}");
            bed.assert_clean(&[2], "after both runs");
            return;
        }
        first.end("the first run");
        bed.reset();
    }
    panic!("the first run was never caught at work");
}

/// Nobody can look into a database whose writer is stopped in the middle of a commit.
fn readable(bed: &Bed) -> bool {
    if !matches!(bed.target, Target::Database) {
        return true;
    }
    let database = rusqlite::Connection::open(bed.place().join(bed.target.name())).unwrap();
    database.busy_timeout(Duration::ZERO).unwrap();
    database.query_row("select count(*) from sqlite_master", [], |row| row.get::<_, i64>(0)).is_ok()
}
