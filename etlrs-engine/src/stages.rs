//! Where the time of a run goes, measured where it goes.
//!
//! A partition is one task on one worker, in which the stages call one another: the writer's turn comes when the loop asks the
//! last transformer for a batch, which asks the one before it, and so on to the source. A [`Clock`] goes with the task. Each
//! call into a stage, and each return, charges what passed since the last of them to the stage that was on: what the thread
//! computed, and what it stood still within the call, which is a file being read or another program on its core. When the task
//! gives up the thread because a stage waits, that time is charged to this stage when the task goes on.
//!
//! Both clocks are read about ten times for each batch, which takes two microseconds where a batch takes milliseconds.

use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use etlrs_core::{BatchStream, Result};
use futures_core::Stream;
use rustix::time::{ClockId, clock_gettime};

/// What a stage of a run does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StageKind {
    /// Reads and decodes.
    Source,
    /// A transformer.
    Transform,
    /// Computes the checksum of what is loaded.
    Checksum,
    /// A partition waits for those before it, because the target takes only so many writers.
    Turn,
    /// Encodes and writes.
    Target,
}

impl StageKind {
    /// In a word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Source => "source",
            Self::Transform => "transform",
            Self::Checksum => "checksum",
            Self::Turn => "turn",
            Self::Target => "target",
        }
    }
}

/// The stages of a run, and what they did so far: of all partitions and attempts together. Clones are the same stages.
#[derive(Clone, Debug)]
pub struct Stages {
    stages: Arc<[Stage]>,
    crew: Arc<Mutex<Headcount>>,
    started: Instant,
}

/// How many workers there were, and for how long.
#[derive(Debug)]
struct Headcount {
    workers: usize,
    most: usize,
    /// Since the start.
    since: Duration,
    /// Of all workers before.
    time: Duration,
}

#[derive(Debug)]
struct Stage {
    name: String,
    kind: StageKind,
    busy: Nanoseconds,
    blocked: Nanoseconds,
    waiting: Nanoseconds,
    rows: AtomicU64,
    batches: AtomicU64,
}

#[derive(Debug, Default)]
struct Nanoseconds(AtomicU64);

impl Nanoseconds {
    fn add(&self, duration: Duration) {
        self.0.fetch_add(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    fn get(&self) -> Duration {
        Duration::from_nanos(self.0.load(Ordering::Relaxed))
    }
}

/// What a stage did.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct StageReport {
    /// What it is called: `source`, `filter`, `transform 2 (cast)`.
    pub name: String,
    /// What it does.
    pub kind: StageKind,
    /// Time in which the workers computed for it.
    pub busy: Duration,
    /// Time in which a worker stood still within it: for a file, or because other programs had its core.
    pub blocked: Duration,
    /// Time in which a partition waited for it, and its worker had nothing to do: for a network, a lock or a turn.
    pub waiting: Duration,
    /// Rows that came out of it; of the target those that went in.
    pub rows: u64,
    /// The same in batches.
    pub batches: u64,
}

impl StageReport {
    /// All time of workers that went into it.
    pub fn total(&self) -> Duration {
        self.busy + self.blocked + self.waiting
    }
}

pub(crate) const SOURCE: usize = 0;

impl Stages {
    /// The source, `transformers` and the target, on so many workers.
    pub(crate) fn new(transformers: impl IntoIterator<Item = String>, workers: usize) -> Self {
        let stage = |(name, kind): (String, StageKind)| Stage {
            name,
            kind,
            busy: Nanoseconds::default(),
            blocked: Nanoseconds::default(),
            waiting: Nanoseconds::default(),
            rows: AtomicU64::new(0),
            batches: AtomicU64::new(0),
        };
        let fixed = |kind: StageKind| (kind.as_str().to_owned(), kind);
        let stages = std::iter::once(fixed(StageKind::Source))
            .chain(transformers.into_iter().map(|name| (name, StageKind::Transform)))
            .chain([StageKind::Checksum, StageKind::Turn, StageKind::Target].map(fixed));
        let crew = Headcount { workers, most: workers, since: Duration::ZERO, time: Duration::ZERO };
        Self { stages: stages.map(stage).collect(), crew: Arc::new(Mutex::new(crew)), started: Instant::now() }
    }

    pub(crate) fn transform(index: usize) -> usize {
        SOURCE + 1 + index
    }

    pub(crate) fn checksum(&self) -> usize {
        self.stages.len() - 3
    }

    pub(crate) fn turn(&self) -> usize {
        self.stages.len() - 2
    }

    pub(crate) fn target(&self) -> usize {
        self.stages.len() - 1
    }

    /// What each did so far, in the order in which rows pass them.
    pub fn report(&self) -> Vec<StageReport> {
        let report = |stage: &Stage| StageReport {
            name: stage.name.clone(),
            kind: stage.kind,
            busy: stage.busy.get(),
            blocked: stage.blocked.get(),
            waiting: stage.waiting.get(),
            rows: stage.rows.load(Ordering::Relaxed),
            batches: stage.batches.load(Ordering::Relaxed),
        };
        self.stages.iter().map(report).collect()
    }

    /// Workers that they share now.
    pub fn workers(&self) -> usize {
        self.crew().workers
    }

    /// The most that there were at a time.
    pub fn most_workers(&self) -> usize {
        self.crew().most
    }

    /// The time that all workers had so far, be it used or not.
    pub fn worker_time(&self) -> Duration {
        let elapsed = self.elapsed();
        let crew = self.crew();
        crew.time + elapsed.saturating_sub(crew.since) * u32::try_from(crew.workers).unwrap_or(u32::MAX)
    }

    pub(crate) fn set_workers(&self, workers: usize) {
        let (elapsed, time) = (self.elapsed(), self.worker_time());
        let mut crew = self.crew();
        *crew = Headcount { workers, most: crew.most.max(workers), since: elapsed, time };
    }

    fn crew(&self) -> MutexGuard<'_, Headcount> {
        self.crew.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Time since the first of them could begin.
    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    pub(crate) fn count(&self, stage: usize, rows: usize) {
        if let Some(stage) = self.stages.get(stage) {
            stage.rows.fetch_add(rows as u64, Ordering::Relaxed);
            stage.batches.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Charges the time of one task to its stages. Clones are the same clock.
#[derive(Clone)]
pub(crate) struct Clock(Arc<Shared>);

struct Shared {
    stages: Stages,
    state: Mutex<State>,
}

struct State {
    /// The stages that are on, each within the one before it.
    within: Vec<usize>,
    /// When somebody was last charged.
    wall: Instant,
    processor: Duration,
    /// The stage that made the task wait, from then on.
    waits: Option<usize>,
}

impl Clock {
    pub(crate) fn new(stages: &Stages) -> Self {
        let state = State { within: Vec::new(), wall: Instant::now(), processor: processor_time(), waits: None };
        Self(Arc::new(Shared { stages: stages.clone(), state: Mutex::new(state) }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enter(&self, stage: usize) {
        let mut state = self.state();
        self.charge(&mut state);
        state.waits = None;
        state.within.push(stage);
    }

    /// Leaves the stage that was entered last; `waits`: because it has to wait.
    fn leave(&self, waits: bool) {
        let mut state = self.state();
        self.charge(&mut state);
        let left = state.within.pop();
        // The innermost knows first.
        state.waits = if waits { state.waits.or(left) } else { None };
    }

    fn charge(&self, state: &mut State) {
        let (wall, processor) = (Instant::now(), processor_time());
        let passed = wall.duration_since(state.wall);
        let busy = processor.saturating_sub(state.processor).min(passed);
        (state.wall, state.processor) = (wall, processor);
        match (state.within.last(), state.waits) {
            (Some(stage), _) => {
                if let Some(stage) = self.0.stages.stages.get(*stage) {
                    stage.busy.add(busy);
                    stage.blocked.add(passed - busy);
                }
            }
            (None, Some(waits)) => {
                if let Some(stage) = self.0.stages.stages.get(waits) {
                    stage.waiting.add(passed);
                }
            }
            // Between the stages: the engine itself.
            (None, None) => {}
        }
    }

    /// A call into a stage.
    pub(crate) fn call<T>(&self, stage: usize, call: impl FnOnce() -> T) -> T {
        self.enter(stage);
        let done = call();
        self.leave(false);
        done
    }

    /// A stream that is asked for batches within a stage, which it counts.
    pub(crate) fn stream(&self, stage: usize, input: BatchStream) -> BatchStream {
        Box::pin(Timed { clock: self.clone(), stage, input })
    }

    /// What a future gives that is driven within a stage.
    pub(crate) async fn drive<T>(&self, stage: usize, future: impl Future<Output = T>) -> T {
        let mut future = std::pin::pin!(future);
        std::future::poll_fn(|cx| {
            self.enter(stage);
            let polled = future.as_mut().poll(cx);
            self.leave(polled.is_pending());
            polled
        })
        .await
    }
}

struct Timed {
    clock: Clock,
    stage: usize,
    input: BatchStream,
}

impl Stream for Timed {
    type Item = Result<arrow_array::RecordBatch>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        this.clock.enter(this.stage);
        let polled = this.input.as_mut().poll_next(cx);
        this.clock.leave(polled.is_pending());
        if let Poll::Ready(Some(Ok(batch))) = &polled {
            this.clock.0.stages.count(this.stage, batch.num_rows());
        }
        polled
    }
}

/// What this thread computed so far.
fn processor_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use arrow_array::RecordBatch;
    use etlrs_core::{batches_from_fn, map_stream, next_batch, record_batch};

    use super::*;

    const STEP: Duration = Duration::from_millis(20);

    fn compute() {
        let start = processor_time();
        while processor_time() - start < STEP {
            std::hint::spin_loop();
        }
    }

    fn batch() -> RecordBatch {
        record_batch([("x", vec![Some(1), Some(2)])])
    }

    /// Sources that stand still, transformers that compute and targets that wait are told apart.
    #[test]
    fn time_is_charged_to_the_stage_that_takes_it() {
        let stages = Stages::new(["map".to_owned()], 1);
        let clock = Clock::new(&stages);
        let mut left = 3;
        let source = batches_from_fn(move || {
            std::thread::sleep(STEP);
            left -= 1;
            Ok((left >= 0).then(batch))
        });
        let stream = clock.stream(SOURCE, source);
        let mapped = map_stream(stream, |batch| {
            compute();
            Ok(batch)
        });
        let mut stream = clock.stream(Stages::transform(0), mapped);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            while let Some(batch) = next_batch(&mut stream).await {
                clock.call(stages.checksum(), || drop(batch));
                clock.drive(stages.target(), tokio::time::sleep(2 * STEP)).await;
            }
        });
        let report = stages.report();
        let names: Vec<_> = report.iter().map(|stage| stage.name.as_str()).collect();
        assert_eq!(names, ["source", "map", "checksum", "turn", "target"]);
        let [source, map, checksum, turn, target] = &report[..] else { panic!() };
        assert!(source.blocked >= 4 * STEP && source.busy < STEP && source.waiting.is_zero(), "{source:?}");
        assert!(map.busy >= 3 * STEP && map.waiting.is_zero(), "{map:?}");
        assert!(target.waiting >= 6 * STEP && target.busy < STEP, "{target:?}");
        assert!(checksum.total() < STEP && turn.total().is_zero(), "{checksum:?} {turn:?}");
        assert_eq!((source.rows, source.batches, map.rows), (6, 3, 6));
        let total: Duration = report.iter().map(StageReport::total).sum();
        assert!(total <= stages.elapsed() && total + STEP > stages.elapsed(), "{total:?} of {:?}", stages.elapsed());
    }

    /// What a source waits for is the source's, however many stages are around it.
    #[test]
    fn the_innermost_stage_that_waits_is_charged() {
        let stages = Stages::new(["map".to_owned()], 1);
        let clock = Clock::new(&stages);
        let source = Box::pin(futures_util::stream::once(async {
            tokio::time::sleep(3 * STEP).await;
            Ok(batch())
        }));
        let mut stream = clock.stream(Stages::transform(0), clock.stream(SOURCE, source));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async { while next_batch(&mut stream).await.is_some() {} });
        let report = stages.report();
        assert!(report[0].waiting >= 3 * STEP, "{report:?}");
        assert!(report[1..].iter().all(|stage| stage.waiting.is_zero()), "{report:?}");
    }
}
