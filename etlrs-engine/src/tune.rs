//! Tuning a run while it goes on: one change at a time, kept if rows come faster and taken back if not.
//!
//! What to try follows from what limits the run at the moment ([`Measured::diagnose`]). Where workers wait, for a server or for a
//! file, more of them wait at the same time; where they compute, as many as there are cores are right, and batches that are so
//! small that the calls around them take the time are made larger; where writers wait for a target that does not bear so many,
//! fewer may do better. A change is measured when it has come into effect: when all partitions that are worked on began after
//! it. What did no good is not tried again for [`AGAIN`].

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::{Limit, Measured, StageKind, StageReport, ThroughputAnalysis};

/// What a run may change while it goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Setting {
    /// Partitions worked on at a time.
    Workers,
    /// Partitions written at a time.
    Writers,
    /// Rows in a batch at the most.
    BatchSize,
}

/// A change that a run tried, and what came of it.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Adjustment {
    /// When, since the first partition could begin.
    pub at: Duration,
    /// What was changed.
    pub setting: Setting,
    /// What it was.
    pub from: usize,
    /// What it became.
    pub to: usize,
    /// What limited the run then.
    pub reason: String,
    /// Rows a second before.
    pub before: f64,
    /// Rows a second with it; `None`: the run was over before that could be measured.
    pub after: Option<f64>,
    /// Whether it was kept. What could not be measured was.
    pub kept: bool,
}

impl Setting {
    /// The word used in results.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Workers => "threads",
            Self::Writers => "writers",
            Self::BatchSize => "batch_size",
        }
    }
}

impl Adjustment {
    /// What was changed, in words.
    pub fn what(&self) -> String {
        let (from, to) = (self.from, self.to);
        match self.setting {
            Setting::Workers => format!("{from} → {to} threads"),
            Setting::Writers => format!("{from} → {to} writers"),
            Setting::BatchSize => format!("batches of {from} → {to} rows"),
        }
    }
}

impl fmt::Display for Adjustment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what())?;
        match self.after {
            Some(after) => {
                let change = 100.0 * (after / self.before.max(f64::MIN_POSITIVE) - 1.0);
                let outcome = if self.kept { "kept" } else { "taken back" };
                write!(f, ": {} → {} rows/s ({change:+.0} %), {outcome}", rate(self.before), rate(after))
            }
            None => f.write_str(": too late to tell what it gained"),
        }
    }
}

/// 1234567 as 1.2M.
fn rate(number: f64) -> String {
    match number {
        1e6.. => format!("{:.1}M", number / 1e6),
        1e3.. => format!("{:.0}k", number / 1e3),
        _ => format!("{number:.0}"),
    }
}

/// The settings of partitions that are begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tuned {
    pub(crate) workers: usize,
    pub(crate) writers: usize,
    pub(crate) batch_size: usize,
}

/// How far they may go.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    pub(crate) cores: usize,
    pub(crate) workers: usize,
    pub(crate) writers: usize,
}

/// What the stages did up to a moment.
#[derive(Clone, Debug)]
pub(crate) struct Sample {
    pub(crate) at: Duration,
    pub(crate) stages: Vec<StageReport>,
}

impl Sample {
    fn batches(&self) -> u64 {
        self.stages.first().map_or(0, |source| source.batches)
    }
}

pub(crate) struct Tuner {
    bounds: Bounds,
    now: Tuned,
    phase: Phase,
    /// Batches at the look before this one.
    batches: u64,
    /// What did no good, and when.
    in_vain: Vec<(Setting, bool, Duration)>,
    adjustments: Vec<Adjustment>,
    on_adjustment: Option<OnAdjustment>,
}

pub(crate) type OnAdjustment = Arc<dyn Fn(&Adjustment) + Send + Sync>;

enum Phase {
    /// Nothing has come yet.
    Waiting,
    /// What happens is measured from this moment on.
    Watching(Sample),
    /// A change is not yet in effect, or has only just begun to be.
    Settling { before: Tuned, since: Option<Sample> },
    /// It is measured from this moment on.
    Trying { before: Tuned, from: Sample },
}

/// Time in which a rate is measured, at the least.
const WINDOW: Duration = Duration::from_millis(300);
/// Batches of each worker in that time, at the least.
const BATCHES: u64 = 2;
/// A change that gains less is taken back: it is not worth what it costs elsewhere, and may be noise.
const GAIN: f64 = 1.1;
/// After such a time the run may have become another.
const AGAIN: Duration = Duration::from_secs(120);
/// A batch that takes less of a worker's time is small.
const SMALL: Duration = Duration::from_millis(1);
const LARGEST_BATCH: usize = 1 << 17;

impl Tuner {
    /// `on_adjustment` is called with each change, and again with what came of it.
    pub(crate) fn new(bounds: Bounds, start: Tuned, on_adjustment: Option<OnAdjustment>) -> Self {
        let (phase, in_vain, adjustments) = (Phase::Waiting, Vec::new(), Vec::new());
        Self { bounds, now: start, phase, batches: 0, in_vain, adjustments, on_adjustment }
    }

    /// Looks at a run that goes on. `settled`: what was changed last is in effect. Gives the settings for partitions that begin
    /// from now on, if they are to be changed.
    pub(crate) fn look(&mut self, sample: Sample, settled: bool) -> Option<Tuned> {
        // Measured from batch to batch: where they are few, it matters much how near to one of them a look is.
        if sample.batches() == std::mem::replace(&mut self.batches, sample.batches()) {
            return None;
        }
        match std::mem::replace(&mut self.phase, Phase::Waiting) {
            Phase::Waiting => {
                self.phase = Phase::Watching(sample);
                None
            }
            Phase::Watching(from) => {
                let Some(measured) = self.measure(&from, &sample) else {
                    self.phase = Phase::Watching(from);
                    return None;
                };
                let before = self.now;
                let Some((setting, found)) = self.step(&measured, sample.at) else {
                    self.phase = Phase::Watching(sample);
                    return None;
                };
                let (from, to) = (value(setting, &before), value(setting, &self.now));
                let (reason, before_rate) = (found.verdict, rows_a_second(&measured));
                let adjustment = Adjustment {
                    at: sample.at,
                    setting,
                    from,
                    to,
                    reason,
                    before: before_rate,
                    after: None,
                    kept: true,
                };
                self.tell(&adjustment);
                self.adjustments.push(adjustment);
                self.phase = Phase::Settling { before, since: None };
                Some(self.now)
            }
            Phase::Settling { before, since: None } => {
                self.phase = Phase::Settling { before, since: settled.then_some(sample) };
                None
            }
            // New workers begin all at once, and each has to read a batch before it is like the others.
            Phase::Settling { before, since: Some(since) } => {
                let is_on = sample.batches() >= since.batches() + self.now.workers as u64;
                self.phase = match is_on {
                    true => Phase::Trying { before, from: sample },
                    false => Phase::Settling { before, since: Some(since) },
                };
                None
            }
            Phase::Trying { before, from } => {
                let Some(measured) = self.measure(&from, &sample) else {
                    self.phase = Phase::Trying { before, from };
                    return None;
                };
                let after = rows_a_second(&measured);
                self.phase = Phase::Watching(sample.clone());
                let mut adjustment = self.adjustments.pop()?;
                adjustment.after = Some(after);
                adjustment.kept = after >= GAIN * adjustment.before;
                self.tell(&adjustment);
                let (kept, what) = (adjustment.kept, (adjustment.setting, adjustment.to > adjustment.from, sample.at));
                self.adjustments.push(adjustment);
                if kept {
                    return None;
                }
                self.in_vain.push(what);
                self.now = before;
                Some(before)
            }
        }
    }

    /// All that was tried.
    pub(crate) fn finish(self) -> Vec<Adjustment> {
        self.adjustments
    }

    fn tell(&self, adjustment: &Adjustment) {
        if let Some(on_adjustment) = &self.on_adjustment {
            on_adjustment(adjustment);
        }
    }

    fn measure(&self, from: &Sample, to: &Sample) -> Option<Measured> {
        let elapsed = to.at.saturating_sub(from.at);
        let batches = to.batches().saturating_sub(from.batches());
        (elapsed >= WINDOW && batches >= BATCHES * self.now.workers as u64)
            .then(|| Measured::between(&from.stages, &to.stages, self.now.workers, elapsed))
    }

    /// Changes one of the settings, if anything promises to help.
    fn step(&mut self, measured: &Measured, at: Duration) -> Option<(Setting, ThroughputAnalysis)> {
        let found = measured.diagnose();
        let Tuned { workers, writers, batch_size } = self.now;
        let Bounds { cores, workers: most, writers: most_writers } = self.bounds;
        let writing = writers.min(workers);
        let waits_for_its_turn = measured.stages.iter().any(|stage| {
            stage.kind == StageKind::Turn && stage.total().as_secs_f64() > 0.1 * measured.worker_time.as_secs_f64()
        });
        let doubled = (2 * workers).min(most);
        let candidates: &[(Setting, usize)] = match found.limit {
            Limit::Source | Limit::Transform => &[(Setting::Workers, doubled)],
            // Whoever waits for a turn would wait with others.
            Limit::Target if waits_for_its_turn => &[(Setting::Writers, writing / 2)],
            // More workers than writers would only wait, and fewer are no remedy for a slow target.
            Limit::Target => {
                &[(Setting::Workers, doubled.min(most_writers).max(workers)), (Setting::Writers, writing / 2)]
            }
            Limit::Processor => &[
                (Setting::Workers, cores.min(most)),
                (Setting::BatchSize, if has_small_batches(measured, batch_size) { 4 * batch_size } else { 0 }),
            ],
            Limit::Memory | Limit::Nothing => &[],
        };
        let &(setting, to) = candidates.iter().find(|(setting, to)| self.is_worth_a_try(*setting, *to, at))?;
        match setting {
            Setting::Workers => self.now.workers = to,
            Setting::Writers => self.now.writers = to,
            Setting::BatchSize => self.now.batch_size = to,
        }
        Some((setting, found))
    }

    fn is_worth_a_try(&self, setting: Setting, to: usize, at: Duration) -> bool {
        let (from, least, most) = match setting {
            Setting::Workers => (self.now.workers, 1, self.bounds.workers),
            Setting::Writers => (self.now.writers.min(self.now.workers), 1, self.bounds.writers),
            Setting::BatchSize => (self.now.batch_size, 1, LARGEST_BATCH),
        };
        let was_in_vain = |&(other, up, when): &(Setting, bool, Duration)| {
            other == setting && up == (to > from) && at.saturating_sub(when) < AGAIN
        };
        to != from && (least..=most).contains(&to) && !self.in_vain.iter().any(was_in_vain)
    }
}

fn value(setting: Setting, tuned: &Tuned) -> usize {
    match setting {
        Setting::Workers => tuned.workers,
        Setting::Writers => tuned.writers.min(tuned.workers),
        Setting::BatchSize => tuned.batch_size,
    }
}

fn rows_a_second(measured: &Measured) -> f64 {
    let rows = measured.stages.first().map_or(0, |source| source.rows);
    rows as f64 / measured.elapsed.as_secs_f64().max(1e-9)
}

/// Whether the number of rows, and not memory, ends batches that take next to no time.
fn has_small_batches(measured: &Measured, batch_size: usize) -> bool {
    let Some(source) = measured.stages.first().filter(|source| source.batches > 0) else { return false };
    let busy: Duration = measured.stages.iter().map(|stage| stage.busy).sum();
    let batches = u32::try_from(source.batches).unwrap_or(u32::MAX);
    busy / batches < SMALL && source.rows >= source.batches * (batch_size as u64 * 4 / 5)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of each stage what is busy, blocked and waiting of a worker's time.
    type Times = [(StageKind, [f64; 3]); 3];

    /// A run as it would go: rows a second, and where a worker's time goes, of the source, the turn and the target.
    struct Model {
        rate: fn(&Tuned) -> f64,
        times: fn(&Tuned) -> Times,
        batch_size: fn(&Tuned) -> f64,
    }

    impl Model {
        /// Runs for `seconds` and gives what was tried, and what it ended with.
        fn run(&self, bounds: Bounds, start: Tuned, seconds: u64) -> (Vec<Adjustment>, Tuned) {
            let (mut tuner, mut now) = (Tuner::new(bounds, start, None), start);
            let mut stages = [[0.0; 3]; 3];
            let (mut rows, mut batches) = (0.0, 0.0);
            let tick = Duration::from_millis(50);
            let mut at = Duration::ZERO;
            while at < Duration::from_secs(seconds) {
                at += tick;
                let passed = tick.as_secs_f64() * now.workers as f64;
                for (sums, (_, parts)) in stages.iter_mut().zip((self.times)(&now)) {
                    sums.iter_mut().zip(parts).for_each(|(sum, part)| *sum += part * passed);
                }
                rows += (self.rate)(&now) * tick.as_secs_f64();
                batches += (self.rate)(&now) * tick.as_secs_f64() / (self.batch_size)(&now);
                let report = stages.iter().zip((self.times)(&now)).map(|(sums, (kind, _))| {
                    let [busy, blocked, waiting] = (*sums).map(Duration::from_secs_f64);
                    let (rows, batches) = (rows as u64, batches as u64);
                    StageReport { name: kind.as_str().into(), kind, busy, blocked, waiting, rows, batches }
                });
                let sample = Sample { at, stages: report.collect() };
                if let Some(changed) = tuner.look(sample, true) {
                    now = changed;
                }
            }
            (tuner.finish(), now)
        }
    }

    const BOUNDS: Bounds = Bounds { cores: 2, workers: 8, writers: 8 };
    const START: Tuned = Tuned { workers: 2, writers: 8, batch_size: 10_000 };

    fn computes(_: &Tuned) -> Times {
        [(StageKind::Source, [0.6, 0.0, 0.0]), (StageKind::Turn, [0.0; 3]), (StageKind::Target, [0.4, 0.0, 0.0])]
    }

    fn waits_for_source(_: &Tuned) -> Times {
        [(StageKind::Source, [0.1, 0.0, 0.8]), (StageKind::Turn, [0.0; 3]), (StageKind::Target, [0.1, 0.0, 0.0])]
    }

    fn waits_for_target(_: &Tuned) -> Times {
        [(StageKind::Source, [0.1, 0.0, 0.0]), (StageKind::Turn, [0.0; 3]), (StageKind::Target, [0.1, 0.0, 0.8])]
    }

    fn full(tuned: &Tuned) -> f64 {
        tuned.batch_size as f64
    }

    #[test]
    fn a_source_that_bears_more_readers_gets_them_as_long_as_that_helps() {
        // Up to four connections, each as fast as the first.
        let model =
            Model { rate: |tuned| 1e6 * tuned.workers.min(4) as f64, times: waits_for_source, batch_size: full };
        let (tried, now) = model.run(BOUNDS, START, 20);
        let outcomes: Vec<_> = tried.iter().map(|one| (one.from, one.to, one.kept)).collect();
        assert_eq!((outcomes, now.workers), (vec![(2, 4, true), (4, 8, false)], 4));
        assert_eq!(tried[0].to_string(), "2 → 4 threads: 2.0M → 4.0M rows/s (+100 %), kept");
        assert_eq!(tried[1].to_string(), "4 → 8 threads: 4.0M → 4.0M rows/s (+0 %), taken back");
    }

    #[test]
    fn what_did_no_good_is_tried_again_only_after_a_while() {
        let model = Model { rate: |_| 1e6, times: waits_for_source, batch_size: full };
        let (tried, now) = model.run(BOUNDS, START, 240);
        assert_eq!((tried.len(), now), (2, START));
        assert!(tried[1].at >= tried[0].at + AGAIN);
    }

    #[test]
    fn a_target_that_bears_fewer_writers_gets_fewer() {
        let model = Model {
            rate: |tuned| 1e6 / tuned.writers.min(tuned.workers) as f64,
            times: waits_for_target,
            batch_size: full,
        };
        let (tried, now) = model.run(BOUNDS, Tuned { workers: 4, ..START }, 20);
        let outcomes: Vec<_> = tried.iter().map(|one| (one.setting, one.from, one.to, one.kept)).collect();
        let expected =
            [(Setting::Workers, 4, 8, false), (Setting::Writers, 4, 2, true), (Setting::Writers, 2, 1, true)];
        assert_eq!((outcomes, now.workers, now.writers), (expected.to_vec(), 4, 1));
    }

    #[test]
    fn workers_that_compute_are_as_many_as_the_cores() {
        let model = Model { rate: |tuned| 1e6 * tuned.workers.min(2) as f64, times: computes, batch_size: full };
        let (tried, now) = model.run(BOUNDS, Tuned { workers: 1, ..START }, 10);
        assert_eq!((tried.len(), now.workers), (1, 2));
        // Fewer than there were are better where they are in one another's way.
        let model = Model { rate: |tuned| 1e6 / tuned.workers as f64, times: computes, batch_size: full };
        let (_, now) = model.run(BOUNDS, Tuned { workers: 8, ..START }, 10);
        assert_eq!(now.workers, 2);
        // And what is right is left alone.
        let model = Model { rate: |_| 2e6, times: computes, batch_size: full };
        assert_eq!(model.run(BOUNDS, START, 10).0, []);
    }

    #[test]
    fn batches_grow_where_the_calls_around_them_take_the_time() {
        let model = Model {
            rate: |tuned| 2e6 * tuned.batch_size as f64 / (tuned.batch_size as f64 + 100.0),
            times: computes,
            batch_size: full,
        };
        let (tried, now) = model.run(BOUNDS, Tuned { batch_size: 100, ..START }, 10);
        let outcomes: Vec<_> = tried.iter().map(|one| (one.from, one.to, one.kept)).collect();
        assert_eq!((outcomes, now.batch_size), (vec![(100, 400, true), (400, 1600, true)], 1600));
        // It is memory that makes them small.
        let model = Model { batch_size: |_| 50.0, ..model };
        assert_eq!(model.run(BOUNDS, Tuned { batch_size: 1000, ..START }, 10).0, []);
    }

    #[test]
    fn the_bounds_are_kept() {
        let model = Model { rate: |tuned| 1e6 * tuned.workers as f64, times: waits_for_target, batch_size: full };
        let (_, now) = model.run(Bounds { writers: 3, ..BOUNDS }, START, 20);
        assert_eq!(now.workers, 3);
        // One writer, and a second worker that reads ahead.
        let (tried, _) = model.run(Bounds { writers: 1, ..BOUNDS }, Tuned { writers: 1, ..START }, 20);
        assert_eq!(tried, []);
        let model = Model { times: waits_for_source, ..model };
        let (_, now) = model.run(Bounds { workers: 5, ..BOUNDS }, START, 20);
        assert_eq!(now.workers, 5);
    }
}
