//! What a command loads, one load after another.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions, TryLockError};
use std::hash::{Hash, Hasher};
use std::os::unix::fs::OpenOptionsExt;

use etlrs::{
    AlertActions, Error, ErrorKind, OptionMap, Pipeline, PipelineBuilder, Replay, ReplayStep, Result, RunReport, Uri,
};

use crate::kept_command::KeptCommand;
use crate::report::number;

/// A pipeline, and the names of its ends.
#[derive(Clone)]
pub(crate) struct Job {
    pub(crate) source: Uri,
    pub(crate) target: Uri,
    pub(crate) target_options: OptionMap,
    pub(crate) quarantine: Option<Uri>,
    pub(crate) builder: PipelineBuilder,
    /// Taken for each alert.
    pub(crate) alert_actions: AlertActions,
}

/// Those that are known beforehand, or those that are found in a quarantine as it gets empty.
pub(crate) struct Jobs {
    known: VecDeque<Job>,
    /// Each with the job of its target.
    replays: VecDeque<Replay>,
    is_replay: bool,
    step: Option<ReplayStep>,
    /// Records of the replays that were loaded, and that failed again.
    loaded: u64,
    failed: u64,
    notes: Vec<String>,
    /// By which replays were begun that are gone on with.
    pub(crate) command: Option<KeptCommand>,
    /// Held by whoever replays the quarantine on this machine.
    _lock: Option<File>,
}

/// Two replays at once could load a record twice.
///
/// # Errors
/// `Locked` if another one of the quarantine at `place` is at work on this machine.
pub(crate) fn lock(place: &Uri) -> Result<Option<File>> {
    // A file has several names.
    let name = place.file().canonicalize().map_or_else(|_| place.to_string(), |path| path.display().to_string());
    let mut hasher = std::hash::DefaultHasher::new();
    name.hash(&mut hasher);
    let path = std::env::temp_dir().join(format!("etlrs-replay-{:016x}.lock", hasher.finish()));
    // Of another user's, there is nothing that could be known.
    let Ok(file) = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(path) else {
        return Ok(None);
    };
    match file.try_lock() {
        Err(TryLockError::WouldBlock) => {
            let message = "another replay of this quarantine is at work";
            Err(Error::new(ErrorKind::Locked, message).hint("wait until it is done").in_source(place))
        }
        _ => Ok(Some(file)),
    }
}

impl Jobs {
    pub(crate) fn of(jobs: Vec<Job>) -> Self {
        Self {
            known: jobs.into(),
            replays: VecDeque::new(),
            is_replay: false,
            step: None,
            loaded: 0,
            failed: 0,
            notes: Vec::new(),
            command: None,
            _lock: None,
        }
    }

    pub(crate) fn replays(replays: Vec<(Job, Replay)>, lock: Option<File>) -> Self {
        let (jobs, replays): (Vec<_>, Vec<_>) = replays.into_iter().unzip();
        Self { replays: replays.into(), is_replay: true, _lock: lock, ..Self::of(jobs) }
    }

    /// Those that are left, of replays one for each target.
    pub(crate) fn known(&self) -> impl Iterator<Item = &Job> {
        self.known.iter()
    }

    /// Those that can be planned before the first one is loaded.
    pub(crate) fn planned(&self) -> Vec<&Job> {
        if self.is_replay { Vec::new() } else { self.known.iter().collect() }
    }

    /// Keeps those, and tells how many others there were.
    pub(crate) fn retain(&mut self, is_wanted: impl Fn(&Job) -> bool) -> usize {
        let before = self.known.len();
        self.known.retain(is_wanted);
        before - self.known.len()
    }

    /// Loads that there will be at the most.
    pub(crate) fn most(&self) -> usize {
        if self.is_replay { usize::MAX } else { self.known.len() }
    }

    pub(crate) async fn next(&mut self) -> Result<Option<Job>> {
        if !self.is_replay {
            return Ok(self.known.pop_front());
        }
        while let (Some(replay), Some(job)) = (self.replays.front_mut(), self.known.front()) {
            let next = replay.next().await;
            self.failed += replay.take_failed();
            // What goes to another target of the pipeline is replayed into that.
            let goes_on =
                |note: &str| self.known.iter().any(|job| note.contains(&format!(" to go to {} ", job.target)));
            for note in replay.take_notes().into_iter().filter(|note| !goes_on(note)) {
                if !self.notes.contains(&note) {
                    self.notes.push(note);
                }
            }
            if let Some(step) = next? {
                let job = Job { builder: step.builder.clone(), ..job.clone() };
                self.step = Some(step);
                return Ok(Some(job));
            }
            self.replays.pop_front();
            self.known.pop_front();
        }
        Ok(None)
    }

    /// What is done when a job was loaded. Gives its pipeline if somebody has to acknowledge that yet.
    pub(crate) async fn finished(&mut self, pipeline: Pipeline, report: &RunReport) -> Result<Option<Pipeline>> {
        let (Some(step), Some(replay)) = (self.step.take(), self.replays.front_mut()) else {
            return Ok(report.has_mark.then_some(pipeline));
        };
        self.loaded += report.load.records_loaded;
        self.failed += report.rows_rejected;
        replay.complete(step, report).await?;
        if report.has_mark {
            pipeline.acknowledge(report.run).await?;
        }
        Ok(None)
    }

    /// Whether records of replays failed again.
    pub(crate) fn has_failed(&self) -> bool {
        self.failed > 0
    }

    /// What there is to know of records that stay.
    pub(crate) fn notes(&self) -> &[String] {
        &self.notes
    }

    /// What is told at the end.
    pub(crate) fn told(&self) -> String {
        if !self.is_replay {
            return String::new();
        }
        match (self.loaded, self.failed) {
            (0, 0) => "nothing was replayed\n".to_owned(),
            (loaded, 0) => format!("{} replayed, none failed again\n", number(loaded, "row")),
            (loaded, failed) => {
                format!("{} replayed, {} failed again\n", number(loaded, "row"), number(failed, "record"))
            }
        }
    }
}
