//! What limits a run, by what its time went into.

use std::time::Duration;

use etlrs_core::{PerformanceConfig, format_bytes};

use crate::{RunReport, Setting, StageKind, StageReport};

/// What a run could not do without taking less time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Limit {
    /// The workers computed.
    Processor,
    /// They waited for what is read.
    Source,
    /// They waited for what is written, or for their turn to write.
    Target,
    /// They waited in a transformer.
    Transform,
    /// The budget let fewer workers start than there could have been.
    Memory,
    /// It was over before there was anything to measure.
    Nothing,
}

impl Limit {
    /// In a word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Processor => "processor",
            Self::Source => "source",
            Self::Target => "target",
            Self::Transform => "transform",
            Self::Memory => "memory",
            Self::Nothing => "nothing",
        }
    }
}

/// What limits a run, and how that shows.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct ThroughputAnalysis {
    /// What the limit is.
    pub limit: Limit,
    /// The processor is it, be it that of the one writer that a target takes.
    pub cpu_bound: bool,
    /// Files are it: workers stood still for them.
    pub io_bound: bool,
    /// A network, or a server behind it, is it: workers waited for it.
    pub network_bound: bool,
    /// The memory budget is it.
    pub memory_bound: bool,
    /// The stage in which most of that time was spent.
    pub stage: Option<String>,
    /// The part of the workers' time, from 0 to 1, that is the evidence.
    pub share: f64,
    /// The limit and its evidence in one sentence.
    pub verdict: String,
    /// What would help.
    pub advice: String,
}

/// What is known of a run that is over, or not yet.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Measured {
    /// What the stages did.
    pub stages: Vec<StageReport>,
    /// Workers that shared them.
    pub workers: usize,
    /// Workers that there could have been with memory for all.
    pub possible_workers: usize,
    /// Partitions that they shared; `usize::MAX` if that is not known.
    pub pieces: usize,
    /// Whether more workers were tried, and did no good.
    pub tried_more: bool,
    /// Wall time in which they did it.
    pub elapsed: Duration,
    /// The time that all workers had in it.
    pub worker_time: Duration,
    /// The memory budget in bytes.
    pub memory: usize,
}

/// How a source comes in more of them.
const PIECES: &str = "several files, or one that can be cut (--partitions)";

/// Time in which a stage computed. A transformer that stands still computes on other threads.
fn computing(stage: &StageReport) -> Duration {
    stage.busy + if stage.kind == StageKind::Transform { stage.blocked } else { Duration::ZERO }
}

/// What limited a run, by the time that its stages took.
pub fn diagnose_throughput(report: &RunReport) -> ThroughputAnalysis {
    let mut of_workers = report.adjustments.iter().filter(|adjustment| adjustment.setting == Setting::Workers);
    // Those that were tried for a moment do not count.
    let tuned = of_workers.clone().next_back().map(|last| if last.kept { last.to } else { last.from });
    Measured {
        stages: report.stages.clone(),
        workers: tuned.unwrap_or(report.workers),
        possible_workers: report.possible_workers,
        pieces: report.partitions,
        tried_more: of_workers.rfind(|adjustment| adjustment.to > adjustment.from).is_some_and(|last| !last.kept),
        elapsed: report.loading,
        worker_time: report.worker_time,
        memory: report.memory,
    }
    .diagnose()
}

impl Measured {
    /// What stages did between two reports, `elapsed` apart.
    pub fn between(before: &[StageReport], after: &[StageReport], workers: usize, elapsed: Duration) -> Self {
        let stages = after.iter().enumerate().map(|(index, after)| {
            let mut stage = after.clone();
            if let Some(before) = before.get(index) {
                stage.busy = after.busy.saturating_sub(before.busy);
                stage.blocked = after.blocked.saturating_sub(before.blocked);
                stage.waiting = after.waiting.saturating_sub(before.waiting);
                stage.rows = after.rows.saturating_sub(before.rows);
                stage.batches = after.batches.saturating_sub(before.batches);
            }
            stage
        });
        let worker_time = elapsed * u32::try_from(workers).unwrap_or(u32::MAX);
        Self {
            stages: stages.collect(),
            workers,
            possible_workers: workers,
            pieces: usize::MAX,
            tried_more: false,
            elapsed,
            worker_time,
            memory: 0,
        }
    }

    /// What limits it.
    pub fn diagnose(&self) -> ThroughputAnalysis {
        let all = self.worker_time.as_secs_f64();
        let share = |time: f64| if all > 0.0 { (time / all).clamp(0.0, 1.0) } else { 0.0 };
        let sum =
            |pick: &dyn Fn(&StageReport) -> Duration| self.stages.iter().map(pick).sum::<Duration>().as_secs_f64();
        let of = |kind: StageKind, stage: &StageReport, time: Duration| {
            if stage.kind == kind { time } else { Duration::ZERO }
        };
        let standing = |kind| move |stage: &StageReport| of(kind, stage, stage.waiting + stage.blocked);
        let waiting = |stage: &StageReport| of(StageKind::Transform, stage, stage.waiting);
        let processor = sum(&computing);
        let source = sum(&standing(StageKind::Source));
        let target = sum(&standing(StageKind::Target));
        let transform = sum(&waiting);
        let turn = sum(&|stage| of(StageKind::Turn, stage, stage.total()));
        let writing = sum(&|stage| of(StageKind::Target, stage, stage.total()));
        if processor + source + target + transform + turn < 0.005 {
            return self.verdict(Limit::Nothing, 0.0, None);
        }
        // One writer that is never idle, and others that wait for it.
        let is_turn = turn > 0.2 * all && writing > 0.7 * self.elapsed.as_secs_f64();
        let waits = [(Limit::Source, source), (Limit::Target, target), (Limit::Transform, transform)];
        let (limit, time) = match is_turn {
            true => (Limit::Target, writing),
            false => waits
                .into_iter()
                .fold((Limit::Processor, processor), |most, one| if one.1 > most.1 { one } else { most }),
        };
        // What computes could be done by more workers, if there is memory; and so can what waits.
        if self.workers < self.possible_workers && !is_turn {
            return self.verdict(Limit::Memory, self.workers as f64 / self.possible_workers as f64, None);
        }
        let most = |pick: &dyn Fn(&StageReport) -> Duration| {
            self.stages.iter().max_by_key(|stage| pick(stage)).filter(|stage| !pick(stage).is_zero())
        };
        let stage = match limit {
            Limit::Processor => most(&computing),
            Limit::Source => most(&standing(StageKind::Source)),
            Limit::Transform => most(&waiting),
            _ => most(&|stage| of(StageKind::Target, stage, stage.total())),
        };
        let share = if is_turn { (time / self.elapsed.as_secs_f64()).min(1.0) } else { share(time) };
        let found = self.verdict(limit, share, stage);
        if !is_turn {
            return found;
        }
        ThroughputAnalysis {
            verdict: format!(
                "the target: it takes one writer at a time, which worked {:.0} % of the time",
                100.0 * share
            ),
            advice: "a target that takes several writers would help, such as a directory of files".to_owned(),
            ..found
        }
    }

    fn verdict(&self, limit: Limit, share: f64, stage: Option<&StageReport>) -> ThroughputAnalysis {
        let percent = |share: f64| format!("{:.0} %", 100.0 * share);
        let threads = |count: usize| if count == 1 { "1 thread".to_owned() } else { format!("{count} threads") };
        let waits = stage.is_some_and(|stage| stage.waiting > stage.blocked);
        let computes = stage.is_some_and(|stage| stage.busy > stage.waiting.max(stage.blocked));
        let is_end = matches!(limit, Limit::Source | Limit::Target);
        let few_pieces = self.pieces <= self.workers;
        let name = stage.map(|stage| stage.name.clone());
        let (verdict, advice) = match limit {
            Limit::Nothing => ("nothing: the run was over in a moment".to_owned(), String::new()),
            Limit::Memory => (
                format!(
                    "memory: the budget of {} let {} of {} start",
                    format_bytes(self.memory),
                    self.workers,
                    threads(self.possible_workers)
                ),
                "give more with --memory, or make batches smaller (batch_size)".to_owned(),
            ),
            Limit::Processor => {
                let busy = stage.map_or(0.0, |stage| computing(stage).as_secs_f64());
                let all = self.worker_time.as_secs_f64();
                let in_stage = name.as_ref().map(|name| format!(", {} in {name}", percent((busy / all).min(1.0))));
                let less = match stage.map(|stage| stage.kind) {
                    Some(StageKind::Target) => "a lighter compression",
                    Some(StageKind::Transform) => "a cheaper transform",
                    _ => "fewer columns",
                };
                let advice = if self.tried_more {
                    format!("{less} would help; more threads did not")
                } else if few_pieces {
                    format!("{less} would help, or more pieces, with a thread and a core for each: {PIECES}")
                } else {
                    format!("more threads on more cores would help, or {less}")
                };
                let verb = if self.workers == 1 { "computed" } else { "computed for" };
                (
                    format!(
                        "the processor: {} {verb} {} of the time{}",
                        threads(self.workers),
                        percent(share),
                        in_stage.unwrap_or_default()
                    ),
                    advice,
                )
            }
            Limit::Source | Limit::Target => {
                let what = limit.as_str();
                let whom = if self.workers == 1 { "the thread" } else { "the threads" };
                let how = match waits {
                    true => format!("{whom} waited for it {} of the time", percent(share)),
                    false => format!("{whom} stood still for its files {} of the time", percent(share)),
                };
                let advice = match (limit, waits) {
                    (_, true) if self.tried_more => "a faster server would help; more threads did not",
                    (Limit::Source, true) if few_pieces => {
                        "more pieces at once (--partitions) would help if the server bears them"
                    }
                    (_, true) if few_pieces => {
                        "a faster server would help, or more pieces (--partitions) if the target takes several at once"
                    }
                    (Limit::Source, true) => {
                        "more pieces at once (--threads, --partitions) would help if the server bears them"
                    }
                    (Limit::Source, false) => "a faster disk would help, or a compressed source",
                    (_, true) => {
                        "more writers at once (--threads) would help if the target takes them, or a faster server"
                    }
                    (_, false) => "a faster disk would help, or a stronger compression",
                };
                (format!("the {what}: {how}"), advice.to_owned())
            }
            Limit::Transform => (
                format!(
                    "{}: the threads waited in it {} of the time",
                    name.as_deref().unwrap_or("a transform"),
                    percent(share)
                ),
                "more calls in flight would help, or an order that does not matter (keep = \"any\")".to_owned(),
            ),
        };
        ThroughputAnalysis {
            limit,
            cpu_bound: limit == Limit::Processor || is_end && computes,
            io_bound: is_end && !waits && !computes,
            network_bound: is_end && waits && !computes,
            memory_bound: limit == Limit::Memory,
            stage: name,
            share,
            verdict,
            advice,
        }
    }
}

/// The configuration with which the next run takes less time, by what limited this one; the same if nothing of it would help.
#[must_use]
pub fn optimize_throughput(config: &PerformanceConfig, analysis: &ThroughputAnalysis) -> PerformanceConfig {
    let mut better = config.clone();
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    match analysis.limit {
        Limit::Processor => {
            better.enable_parallel_processing = true;
            better.max_threads = config.max_threads.max(cores);
        }
        // Those that wait need no core.
        Limit::Source | Limit::Target if analysis.network_bound => {
            better.enable_parallel_processing = true;
            better.max_threads = (2 * config.workers()).min(config.connections()).max(config.max_threads);
        }
        Limit::Source if analysis.io_bound => better.io_buffer_size = config.io_buffer_size.max(1 << 20),
        Limit::Memory => return optimize_memory_usage(config),
        _ => {}
    }
    better
}

/// A configuration with which each worker holds less, so that more of them fit into the same budget.
#[must_use]
pub fn optimize_memory_usage(config: &PerformanceConfig) -> PerformanceConfig {
    let mut better = config.clone();
    better.batch_size = (config.batch_size / 2).max(1000).min(config.batch_size);
    better.io_buffer_size = config.io_buffer_size.min(64 << 10);
    better
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Milliseconds that were busy, blocked and waiting, of each stage.
    fn measured(workers: usize, elapsed: u64, times: [(StageKind, [u64; 3]); 4]) -> Measured {
        let stage = |(kind, times): (StageKind, [u64; 3])| {
            let [busy, blocked, waiting] = times.map(Duration::from_millis);
            StageReport { name: kind.as_str().to_owned(), kind, busy, blocked, waiting, rows: 0, batches: 0 }
        };
        Measured {
            stages: times.map(stage).to_vec(),
            workers,
            possible_workers: workers,
            pieces: usize::MAX,
            tried_more: false,
            elapsed: Duration::from_millis(elapsed),
            worker_time: Duration::from_millis(elapsed * workers as u64),
            memory: 64 << 20,
        }
    }

    #[test]
    fn the_verdict_names_what_took_the_time() {
        use StageKind::*;
        let cases = [
            (
                [(Source, [300, 10, 0]), (Transform, [200, 0, 0]), (Turn, [0, 0, 0]), (Target, [1400, 50, 0])],
                Limit::Processor,
                "target",
            ),
            (
                [(Source, [100, 0, 1700]), (Transform, [50, 0, 0]), (Turn, [0, 0, 0]), (Target, [100, 0, 0])],
                Limit::Source,
                "waited for it 85 %",
            ),
            (
                [(Source, [100, 1600, 0]), (Transform, [50, 0, 0]), (Turn, [0, 0, 0]), (Target, [100, 0, 0])],
                Limit::Source,
                "stood still for its files 80 %",
            ),
            (
                [(Source, [100, 0, 50]), (Transform, [50, 0, 0]), (Turn, [0, 0, 0]), (Target, [100, 0, 1500])],
                Limit::Target,
                "waited for it 75 %",
            ),
            // One writer that computes, and another worker that waits for its turn.
            (
                [(Source, [100, 0, 0]), (Transform, [50, 0, 0]), (Turn, [0, 0, 850]), (Target, [950, 0, 0])],
                Limit::Target,
                "worked 95 %",
            ),
            (
                [(Source, [100, 0, 0]), (Transform, [50, 0, 1600]), (Turn, [0, 0, 0]), (Target, [100, 0, 0])],
                Limit::Transform,
                "transform: the threads waited",
            ),
            (
                [(Source, [0, 0, 0]), (Transform, [0, 0, 0]), (Turn, [0, 0, 0]), (Target, [1, 0, 0])],
                Limit::Nothing,
                "nothing",
            ),
        ];
        for (times, limit, words) in cases {
            let found = measured(2, 1000, times).diagnose();
            assert_eq!(found.limit, limit, "{found:?}");
            assert!(found.verdict.contains(words) || found.stage.as_deref() == Some(words), "{found:?}");
            let flags = [found.cpu_bound, found.io_bound, found.network_bound, found.memory_bound];
            let count = flags.into_iter().filter(|flag| *flag).count();
            assert_eq!(count, usize::from(!matches!(limit, Limit::Nothing | Limit::Transform)), "{found:?}");
        }
    }

    #[test]
    fn more_threads_are_advised_only_where_they_have_something_to_do() {
        use StageKind::*;
        let computing = [(Source, [300, 10, 0]), (Transform, [200, 0, 0]), (Turn, [0; 3]), (Target, [800, 400, 0])];
        let waiting = [(Source, [100, 0, 1700]), (Transform, [0; 3]), (Turn, [0; 3]), (Target, [100, 0, 0])];
        for (times, pieces, tried_more, advice) in [
            (computing, 10, false, "more threads on more cores would help, or a lighter compression"),
            (
                computing,
                2,
                false,
                "a lighter compression would help, or more pieces, with a thread and a core for each",
            ),
            (computing, 10, true, "a lighter compression would help; more threads did not"),
            (waiting, 10, false, "more pieces at once (--threads, --partitions) would help"),
            (waiting, 2, false, "more pieces at once (--partitions) would help"),
            (waiting, 10, true, "a faster server would help; more threads did not"),
        ] {
            let found = Measured { pieces, tried_more, ..measured(2, 1000, times) }.diagnose();
            assert!(found.advice.starts_with(advice), "{found:?}");
        }
        // A part of the time that they computed, not of the time that they had.
        let verdict = measured(2, 1000, computing).diagnose().verdict;
        assert_eq!(verdict, "the processor: 2 threads computed for 65 % of the time, 40 % in target");
    }

    #[test]
    fn workers_that_could_not_start_are_told() {
        use StageKind::*;
        let mut few = measured(
            1,
            1000,
            [(Source, [300, 0, 0]), (Transform, [100, 0, 0]), (Turn, [0, 0, 0]), (Target, [600, 0, 0])],
        );
        few.possible_workers = 4;
        let found = few.diagnose();
        assert!(found.memory_bound && found.verdict.contains("64MB let 1 of 4 threads start"), "{found:?}");
    }

    #[test]
    fn a_config_is_changed_by_what_limits_and_stays_valid() {
        use StageKind::*;
        let config = PerformanceConfig { max_threads: 2, ..PerformanceConfig::default() };
        let waiting =
            measured(2, 1000, [(Source, [100, 0, 1700]), (Transform, [0; 3]), (Turn, [0; 3]), (Target, [100, 0, 0])]);
        let better = optimize_throughput(&config, &waiting.diagnose());
        assert_eq!(better.max_threads, 4);
        better.validate().unwrap();
        let nothing = measured(2, 0, [(Source, [0; 3]), (Transform, [0; 3]), (Turn, [0; 3]), (Target, [0; 3])]);
        assert_eq!(format!("{:?}", optimize_throughput(&config, &nothing.diagnose())), format!("{config:?}"));
        let small = optimize_memory_usage(&PerformanceConfig { batch_size: 500, ..config });
        assert_eq!(small.batch_size, 500);
    }
}
