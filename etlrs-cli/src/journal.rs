//! What this machine knows of its runs, for `etlrs runs`, `resume` and `forget`.
//!
//! Design note. Each run has a file, `RUN.jsonl` in `$XDG_STATE_HOME/etlrs/runs` (`~/.local/state/etlrs/runs`), of which the first
//! line says what was begun, others how far it is, and the last how it ended. The process at work holds a lock on it, which goes with
//! the process: a file that nobody holds and that has no last line is of a run that was killed. Whether a run can go on is never
//! decided by it, for that is written at the target; a file that cannot be written costs the run its place in the list, no more.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::PathBuf;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use etlrs::{Error, ErrorKind, Result, RunContext, RunId, Started};
use serde::{Deserialize, Serialize};

use crate::kept_command::KeptCommand;

/// Where the files are.
#[derive(Clone, Debug)]
pub(crate) struct Journal {
    folder: PathBuf,
}

/// Characters of an id, from its end, that name a run at the least.
const LEAST: usize = 4;

/// Files that are kept; the oldest go first.
const MOST: usize = 200;

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Line {
    Begun(Begun),
    Progress(Progress),
    Ended(Ended),
}

/// What was begun. A run that goes on begins again.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Begun {
    /// In milliseconds since 1970.
    pub(crate) at: u64,
    pub(crate) process: u32,
    pub(crate) command: KeptCommand,
    pub(crate) source: String,
    pub(crate) target: String,
    /// Pieces of the source.
    pub(crate) pieces: u64,
    /// Of them those that an earlier attempt had staged.
    pub(crate) staged_before: u64,
    /// What it stages is kept if it is stopped.
    pub(crate) is_kept: bool,
}

/// How far it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Progress {
    at: u64,
    /// Pieces that are staged.
    pub(crate) pieces: u64,
    /// Rows that this attempt read.
    pub(crate) rows: u64,
}

/// How it ended.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Ended {
    pub(crate) at: u64,
    pub(crate) state: State,
    /// Rows that were published.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) rows: Option<u64>,
    /// Why, if it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) cause: Option<String>,
    /// It may have kept what it had staged.
    #[serde(default)]
    pub(crate) may_go_on: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum State {
    Running,
    /// It ended without a word: killed, or its machine was.
    Killed,
    Done,
    Failed,
    /// By a signal that asked it to.
    Stopped,
}

impl State {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Killed => "killed",
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Stopped => "stopped",
        }
    }
}

/// A run of the list.
#[derive(Clone, Debug)]
pub(crate) struct Listed {
    pub(crate) run: RunId,
    pub(crate) state: State,
    pub(crate) begun: Begun,
    pub(crate) progress: Progress,
    pub(crate) ended: Option<Ended>,
}

impl Journal {
    /// `None` if the environment names no place.
    pub(crate) fn find() -> Option<Self> {
        let absolute = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let state = absolute("XDG_STATE_HOME").or_else(|| Some(absolute("HOME")?.join(".local/state")))?;
        Some(Self { folder: state.join("etlrs/runs") })
    }

    fn path(&self, run: RunId) -> PathBuf {
        self.folder.join(format!("{run}.jsonl"))
    }

    /// Writes down that a run has begun, and from then on how far it is.
    pub(crate) fn begin(&self, started: &Started, begun: Begun) -> io::Result<Entry> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.folder)?;
        self.remove_oldest();
        let path = self.path(started.cx.run_id());
        let mut file = OpenOptions::new().create(true).append(true).mode(0o600).open(&path)?;
        // Whoever reads it holds it for a moment.
        file.lock()?;
        write(&mut file, &Line::Begun(begun.clone()))?;
        if let Some(before) = started.instead_of {
            let _ = fs::remove_file(self.path(before));
        }
        let (end, ends) = channel();
        let cx = started.cx.clone();
        let mut last = Progress { at: begun.at, pieces: begun.staged_before, rows: 0 };
        let write_on = move || {
            let mut interval = Duration::from_millis(20);
            loop {
                let ended = ends.recv_timeout(interval);
                interval = (interval * 2).min(INTERVAL);
                let now = Progress { at: last.at, ..progress(&cx, begun.staged_before) };
                if now != last || ended.is_ok() {
                    last = Progress { at: millis(), ..now };
                    // A full disk loses what is written here, and nothing else.
                    let _ = write(&mut file, &Line::Progress(last));
                }
                match ended {
                    Ok(ended) => return write(&mut file, &Line::Ended(ended)).unwrap_or_default(),
                    Err(RecvTimeoutError::Timeout) => {}
                    Err(RecvTimeoutError::Disconnected) => return,
                }
            }
        };
        let thread = Builder::new().spawn(write_on).inspect_err(|_| {
            // Nobody would write down how it ends.
            let _ = fs::remove_file(&path);
        })?;
        Ok(Entry { end, thread })
    }

    /// All runs, the newest first.
    ///
    /// # Errors
    /// An I/O error of the folder.
    pub(crate) fn runs(&self) -> Result<Vec<Listed>> {
        let failed = |error| Error::io("list the runs in", &self.folder, error);
        let mut runs = self.ids().map_err(failed)?;
        runs.sort();
        Ok(runs.into_iter().rev().filter_map(|run| self.read(run).ok().flatten()).collect())
    }

    /// The run whose id is `text`, or ends with it, as no other does.
    ///
    /// # Errors
    /// `NotFound`; an I/O error.
    pub(crate) fn run(&self, text: &str) -> Result<Listed> {
        let ids = self.ids().map_err(|error| Error::io("list the runs in", &self.folder, error))?;
        if text.len() < LEAST {
            let message = format!("{text:?} is too short for the end of a run's id");
            return Err(
                Error::new(ErrorKind::InvalidConfig, message).hint(format!("give {LEAST} characters of it or more"))
            );
        }
        let mut found = ids.into_iter().filter(|run| run.to_string().ends_with(text));
        let listed = match (found.next(), found.next()) {
            (Some(run), None) => {
                self.read(run).map_err(|error| Error::io("read what is known of the run", self.path(run), error))?
            }
            (Some(_), Some(_)) => {
                let message = format!("{text:?} is the end of several runs");
                return Err(Error::new(ErrorKind::InvalidConfig, message).hint("give more of it"));
            }
            (None, _) => None,
        };
        listed.ok_or_else(|| {
            Error::new(ErrorKind::NotFound, format!("this machine knows of no run {text:?}"))
                .hint("`etlrs runs` lists those it knows; the same command, given where it was begun, goes on as well")
        })
    }

    /// Writes down that `run`, which began earlier, is found to be done.
    pub(crate) fn found_done(&self, run: RunId, rows: u64) {
        // It need not be known here.
        if let Ok(mut file) = OpenOptions::new().append(true).open(self.path(run)) {
            let ended = Ended { at: millis(), state: State::Done, rows: Some(rows), cause: None, may_go_on: false };
            let _ = write(&mut file, &Line::Ended(ended));
        }
    }

    /// Writes down that `run` cannot be gone on with.
    pub(crate) fn found_lost(&self, run: RunId, cause: &Error) {
        if let Ok(mut file) = OpenOptions::new().append(true).open(self.path(run)) {
            let cause = Some(cause.to_string());
            let ended = Ended { at: millis(), state: State::Failed, rows: None, cause, may_go_on: false };
            let _ = write(&mut file, &Line::Ended(ended));
        }
    }

    pub(crate) fn remove(&self, run: RunId) -> Result<()> {
        let path = self.path(run);
        fs::remove_file(&path).map_err(|error| Error::io("remove", path, error))
    }

    fn ids(&self) -> io::Result<Vec<RunId>> {
        let entries = match fs::read_dir(&self.folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        let id = |entry: io::Result<fs::DirEntry>| -> Option<RunId> {
            entry.ok()?.file_name().to_str()?.strip_suffix(".jsonl")?.parse().ok()
        };
        Ok(entries.filter_map(id).collect())
    }

    fn remove_oldest(&self) {
        let Ok(mut runs) = self.ids() else { return };
        runs.sort();
        let surplus = (runs.len() + 1).saturating_sub(MOST);
        for run in runs.into_iter().take(surplus) {
            let is_at_work = File::open(self.path(run)).is_ok_and(|file| is_held(&file));
            if !is_at_work {
                let _ = fs::remove_file(self.path(run));
            }
        }
    }

    /// `None` if it says nothing that can be understood.
    fn read(&self, run: RunId) -> io::Result<Option<Listed>> {
        let mut file = File::open(self.path(run))?;
        let is_running = is_held(&file);
        let mut text = String::new();
        file.read_to_string(&mut text)?;
        let (mut begun, mut progress, mut ended) = (None, Progress::default(), None);
        // The last line may be torn.
        for line in text.lines().filter_map(|line| serde_json::from_str(line).ok()) {
            match line {
                Line::Begun(line) => {
                    progress = Progress { at: line.at, pieces: line.staged_before, rows: 0 };
                    (begun, ended) = (Some(line), None);
                }
                Line::Progress(line) => progress = line,
                Line::Ended(line) => ended = Some(line),
            }
        }
        let state = match &ended {
            Some(ended) => ended.state,
            None if is_running => State::Running,
            None => State::Killed,
        };
        Ok(begun.map(|begun| Listed { run, state, begun, progress, ended }))
    }
}

/// It is written down so often how far a run is, and more often when it has just begun.
const INTERVAL: Duration = Duration::from_secs(1);

/// A run at work that is written down.
pub(crate) struct Entry {
    end: Sender<Ended>,
    thread: JoinHandle<()>,
}

impl Entry {
    pub(crate) fn done(self, rows: u64) {
        self.end(Ended { at: millis(), state: State::Done, rows: Some(rows), cause: None, may_go_on: false });
    }

    pub(crate) fn failed(self, error: &Error) {
        let at = millis();
        self.end(match error.kind() {
            ErrorKind::Cancelled => {
                let cause = error.hint_text().map(str::to_owned);
                Ended { at, state: State::Stopped, rows: None, cause, may_go_on: true }
            }
            _ => {
                let (cause, may_go_on) = (Some(error.to_string()), error.may_pass());
                Ended { at, state: State::Failed, rows: None, cause, may_go_on }
            }
        });
    }

    fn end(self, ended: Ended) {
        let _ = self.end.send(ended);
        // A panic has been told already.
        let _ = self.thread.join();
    }
}

fn progress(cx: &RunContext, staged_before: u64) -> Progress {
    let counters = cx.counters();
    Progress { at: 0, pieces: staged_before + counters.partitions_done.get(), rows: counters.rows_read.get() }
}

/// Whether a process holds it.
fn is_held(file: &File) -> bool {
    matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock))
}

fn write(file: &mut File, line: &Line) -> io::Result<()> {
    let mut text = serde_json::to_vec(line)?;
    text.push(b'\n');
    file.write_all(&text)
}

/// Now, in milliseconds since 1970.
pub(crate) fn millis() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
