//! What the tests of the whole share: the program, and data to move.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

/// The snippets of the guide.
#[cfg(doctest)]
#[doc = include_str!("../../docs/performance-guide.md")]
#[doc = include_str!("../../docs/pt-BR/performance-guide.md")]
pub struct PerformanceGuide;

pub mod broken_link;
pub mod corruption;
pub mod cut;
pub mod failpoints;
pub mod link;
pub mod mariadb;
pub mod paused;
pub mod postgres;
pub mod random;
pub mod receiver;
pub mod s3;

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use sha2::{Digest, Sha256};

/// The variable that has the program under test killed at a failpoint, when it gets there the `n`th time: `name:n`.
pub const KILL_AT: &str = "ETLRS_TEST_KILL_AT";

/// The variable that has the program under test wait at a failpoint, when it gets there the `n`th time, until a file goes that it
/// makes there: `name:n:path`.
pub const PAUSE_AT: &str = "ETLRS_TEST_PAUSE_AT";

/// The program, in the working directory `folder`. `binary` is `env!("CARGO_BIN_EXE_etlrs-under-test")`.
pub fn etlrs(binary: &str, folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(binary);
    command.current_dir(folder).args(arguments).env_remove("RUST_BACKTRACE");
    // The list of runs is not that of whoever runs the tests.
    command.env("XDG_STATE_HOME", state_home());
    command
}

/// Where the program under test lists its runs: a place of this user's.
pub fn state_home() -> PathBuf {
    std::env::temp_dir().join(format!("etlrs-tests-state-{}", rustix::process::geteuid().as_raw()))
}

/// Runs the program to its end; the most memory it held at one time, in bytes.
///
/// The system keeps the high-water mark of a process only as long as it runs, so it is read again and again until then:
/// what can be missed is a peak in the last milliseconds.
///
/// # Panics
/// When the program fails.
pub fn peak_memory(binary: &str, folder: &Path, arguments: &[&str]) -> u64 {
    let mut child = etlrs(binary, folder, arguments)
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let status = format!("/proc/{}/status", child.id());
    let mut peak = 0;
    while child.try_wait().unwrap().is_none() {
        let text = std::fs::read_to_string(&status).unwrap_or_default();
        let mark = text.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.parse().ok());
        peak = peak.max(mark.unwrap_or(0) * 1024);
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    let ran = Ran::of(&child.wait_with_output().unwrap());
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(peak > 1 << 20, "nothing was measured");
    peak
}

/// What a run of the program left: its exit code and what it wrote.
#[derive(Debug)]
pub struct Ran {
    /// The exit code, or the negative number of the signal that ended it.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

/// Runs the program to its end.
pub fn run(binary: &str, folder: &Path, arguments: &[&str]) -> Ran {
    Ran::of(&etlrs(binary, folder, arguments).output().unwrap())
}

impl Ran {
    /// Of a finished process.
    pub fn of(output: &Output) -> Self {
        use std::os::unix::process::ExitStatusExt;
        let code = output.status.code().unwrap_or_else(|| -output.status.signal().unwrap());
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Self { code, stdout: text(&output.stdout), stderr: text(&output.stderr) }
    }

    /// The result as JSON, of a run with `--output json` that went well.
    pub fn json(&self) -> serde_json::Value {
        assert_eq!(self.code, 0, "{self:?}");
        serde_json::from_str(&self.stdout).unwrap()
    }
}

/// A port of this machine on which nobody listens.
pub fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// The root of the repository.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// The flights of January 2013, 27 004 of them.
pub fn flights() -> PathBuf {
    root().join("examples/flights/flights.csv")
}

/// A CSV file of `rows` records of every type that inference knows, the same for the same arguments: with quotes, line
/// ends in fields, nulls and text of several bytes a character. `version` is in every record.
pub fn write_csv(path: &Path, rows: u64, version: u64) {
    let mut text = format!("{COLUMNS}\n");
    (0..rows).for_each(|id| writeln!(text, "{}", Made::new(id, version).record()).unwrap());
    std::fs::write(path, text).unwrap();
}

/// The same with a column `hash`, which is [`row_hash`] of its record.
pub fn write_hashed_csv(path: &Path, rows: u64, version: u64) {
    let mut text = format!("{COLUMNS},hash\n");
    for id in 0..rows {
        let made = Made::new(id, version);
        let hash = row_hash(id, version, &made.day, &made.name, &made.note);
        writeln!(text, "{},{hash}", made.record()).unwrap();
    }
    std::fs::write(path, text).unwrap();
}

/// The first 16 hexadecimal digits of the SHA-256 of the values with `|` between them, behind an `h`: every database can say the
/// same, as [`postgres::ROW_HASH`] and [`mariadb::ROW_HASH`].
pub fn row_hash(id: u64, version: u64, day: &str, name: &str, note: &str) -> String {
    let digest = Sha256::digest(format!("{id}|{version}|{day}|{name}|{note}"));
    let digits: String = digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    format!("h{digits}")
}

const COLUMNS: &str = "id,version,amount,day,at,flag,name,note";

/// A record of [`write_csv`].
struct Made {
    id: u64,
    version: u64,
    hash: u64,
    day: String,
    name: String,
    note: String,
}

impl Made {
    fn new(id: u64, version: u64) -> Self {
        let hash = id.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ version;
        let day = format!("20{:02}-{:02}-{:02}", hash % 100, 1 + hash % 12, 1 + hash % 28);
        let note = match id % 7 {
            0 => "two\nlines, and a \"quote\"".to_owned(),
            1 => "naïve 名".to_owned(),
            2 => String::new(),
            _ => format!("note {}", hash % 1000),
        };
        Self { id, version, hash, day, name: format!("name{}", hash % 500), note }
    }

    fn record(&self) -> String {
        let Self { id, version, hash, day, name, note } = self;
        let amount = if id % 11 == 0 { String::new() } else { format!("{}.{:02}", hash % 100_000, hash % 100) };
        let note = if note.contains('"') { format!("\"{}\"", note.replace('"', "\"\"")) } else { note.clone() };
        let (at, hour, flag) = (1 + hash % 28, hash % 24, hash.is_multiple_of(2));
        format!("{id},{version},{amount},{day},2024-01-{at:02}T{hour:02}:00:00Z,{flag},{name},{note}")
    }
}
