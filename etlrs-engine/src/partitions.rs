//! Partitions on worker threads.
//!
//! Each worker is a thread of its own that takes the next partition when it is free and drives it to its end with
//! `block_on`. Decoding and encoding therefore never run on the threads of the async runtime, which are left to the
//! network; blocking on a local file holds up one worker and nobody else.

use std::collections::{BTreeSet, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use etlrs_core::{Error, ErrorKind, PartitionId, Result, RunContext};
use tokio::runtime::Handle;
use tokio::sync::watch;

/// Which partitions are through, and from which one on the work is pointless.
pub(crate) struct Flight {
    /// The first partition that is not through.
    oldest: watch::Sender<u32>,
    /// Partitions behind it that are.
    ahead: Mutex<BTreeSet<u32>>,
    /// The first partition that failed for good; those behind it stop.
    failed: watch::Sender<u32>,
}

impl Flight {
    pub(crate) fn new() -> Self {
        Self { oldest: watch::Sender::new(0), ahead: Mutex::default(), failed: watch::Sender::new(u32::MAX) }
    }

    /// Whether at most `window - 1` partitions before `partition` are not through.
    pub(crate) fn is_within(&self, partition: PartitionId, window: usize) -> bool {
        within(*self.oldest.borrow(), partition, window)
    }

    pub(crate) async fn wait_within(&self, partition: PartitionId, window: usize) {
        // The sender lives as long as `self`, so the channel does not close.
        let _ = self.oldest.subscribe().wait_for(|&oldest| within(oldest, partition, window)).await;
    }

    pub(crate) fn done(&self, partition: PartitionId) {
        let mut ahead = self.ahead.lock().unwrap_or_else(PoisonError::into_inner);
        ahead.insert(partition.0);
        self.oldest.send_if_modified(|oldest| {
            let before = *oldest;
            while ahead.remove(oldest) {
                *oldest += 1;
            }
            *oldest != before
        });
    }

    /// Partitions behind `partition` stop; those before it go on, for the first error in the source is the one to tell.
    fn fail(&self, partition: PartitionId) {
        self.failed.send_if_modified(|failed| {
            let earlier = partition.0 < *failed;
            *failed = partition.0.min(*failed);
            earlier
        });
    }

    fn is_pointless(&self, partition: u32) -> bool {
        partition > *self.failed.borrow()
    }

    async fn wait_pointless(&self, partition: u32) {
        let _ = self.failed.subscribe().wait_for(|&failed| partition > failed).await;
    }
}

fn within(oldest: u32, partition: PartitionId, window: usize) -> bool {
    (partition.0 as usize) < (oldest as usize).saturating_add(window)
}

/// Who works on partitions: how many at a time, and each with what means. Both may be changed while the work goes on, for the
/// partitions that are begun from then on.
///
/// A partition takes its share of the memory when it begins and gives it back when it is through, so whoever waits for a share
/// holds nothing. Partitions are begun in their order: one may wait for those before it, which have their shares then.
pub(crate) struct Crew<M> {
    roster: Mutex<Roster<M>>,
    /// A partition may be begun that could not be before, or there is none left.
    changed: Condvar,
}

struct Roster<M> {
    left: VecDeque<PartitionId>,
    workers: usize,
    means: M,
    /// Bytes that a partition takes when it begins, and those that are left.
    share: usize,
    free: usize,
    active: usize,
    /// Those of them that began after the last change.
    recent: usize,
    changes: usize,
}

/// A partition that has been begun.
struct Begun<M> {
    partition: PartitionId,
    means: M,
    share: usize,
    changes: usize,
}

impl<M: Clone> Crew<M> {
    /// `workers` that take `share` bytes of `pool` each while they are at work.
    pub(crate) fn new(partitions: Vec<PartitionId>, workers: usize, means: M, share: usize, pool: usize) -> Self {
        let roster =
            Roster { left: partitions.into(), workers, means, share, free: pool, active: 0, recent: 0, changes: 0 };
        Self { roster: Mutex::new(roster), changed: Condvar::new() }
    }

    /// For partitions that are begun from now on.
    pub(crate) fn change(&self, workers: usize, means: M, share: usize) {
        let mut roster = self.roster();
        (roster.workers, roster.means, roster.share) = (workers, means, share);
        (roster.recent, roster.changes) = (0, roster.changes + 1);
        self.changed.notify_all();
    }

    /// Whether as many are at work as should be, and all of them with the means of now.
    pub(crate) fn is_settled(&self) -> bool {
        let roster = self.roster();
        roster.recent == roster.active && roster.active == roster.workers
    }

    fn roster(&self) -> MutexGuard<'_, Roster<M>> {
        self.roster.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for the turn of the next partition; `None` if there is no other.
    fn begin(&self) -> Option<Begun<M>> {
        let mut roster = self.roster();
        loop {
            let partition = *roster.left.front()?;
            // One may always begin, whatever the shares are.
            if roster.active == 0 || roster.active < roster.workers && roster.share <= roster.free {
                roster.left.pop_front();
                roster.active += 1;
                roster.recent += 1;
                let share = roster.share.min(roster.free);
                roster.free -= share;
                if roster.left.is_empty() {
                    self.changed.notify_all();
                }
                return Some(Begun { partition, means: roster.means.clone(), share, changes: roster.changes });
            }
            roster = self.changed.wait(roster).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn end(&self, share: usize, changes: usize) {
        let mut roster = self.roster();
        roster.active -= 1;
        roster.free += share;
        if changes == roster.changes {
            roster.recent -= 1;
        }
        self.changed.notify_all();
    }

    /// No other partition is begun.
    fn call_off(&self) {
        self.roster().left.clear();
        self.changed.notify_all();
    }

    /// Workers that could find something to do.
    fn wanted(&self) -> usize {
        let roster = self.roster();
        roster.workers.min(roster.active + roster.left.len())
    }

    /// Waits so long, or until there is no partition left, and tells whether it is so.
    fn wait(&self, time: Duration) -> bool {
        let roster = self.roster();
        let waited = self.changed.wait_timeout_while(roster, time, |roster| !roster.left.is_empty());
        waited.unwrap_or_else(PoisonError::into_inner).0.left.is_empty()
    }
}

/// How often the work is looked at by who may change it.
pub(crate) const TICK: Duration = Duration::from_millis(50);

/// Works on all partitions of `crew`, and gives the results in their order, or the error of the first that failed. Returns only
/// when all threads are done. `look`, if there is one, is called now and then, as long as a change of the crew can matter.
///
/// `work` is dropped where it waits when the run is cancelled or when a partition before it failed.
pub(crate) fn for_each<T, M, F>(
    cx: &RunContext,
    flight: &Flight,
    crew: &Crew<M>,
    look: Option<&mut dyn FnMut()>,
    work: impl Fn(PartitionId, M) -> F + Sync,
) -> Result<Vec<T>>
where
    T: Send,
    M: Clone + Send,
    F: Future<Output = Result<T>>,
{
    let results = Mutex::new(Vec::new());
    let runtime = Handle::current();
    let worker = || {
        while let Some(Begun { partition, means, share, changes }) = crew.begin() {
            if cx.cancel().is_cancelled() || flight.is_pointless(partition.0) {
                crew.call_off();
                break;
            }
            let guarded = async {
                tokio::select! {
                    biased;
                    () = cx.cancel().cancelled() => Err(Error::cancelled()),
                    () = flight.wait_pointless(partition.0) => Err(Error::cancelled()),
                    result = work(partition, means) => result,
                }
            };
            let result = catch_unwind(AssertUnwindSafe(|| runtime.block_on(guarded)))
                .unwrap_or_else(|panic| Err(panicked(&*panic)))
                .map_err(|error| error.in_partition(partition.0));
            match &result {
                Ok(_) => flight.done(partition),
                Err(_) => flight.fail(partition),
            }
            results.lock().unwrap_or_else(PoisonError::into_inner).push((partition, result));
            crew.end(share, changes);
        }
    };
    std::thread::scope(|scope| -> Result<()> {
        let mut threads = 0;
        let mut hire = || -> std::io::Result<()> {
            while threads < crew.wanted() {
                std::thread::Builder::new()
                    .name(format!("etlrs-worker-{threads}"))
                    .stack_size(cx.config().thread_stack_size)
                    .spawn_scoped(scope, worker)?;
                threads += 1;
            }
            Ok(())
        };
        hire().map_err(|error| {
            // Those that run already find nothing more to do.
            crew.call_off();
            Error::new(ErrorKind::Io, format!("cannot start a worker thread: {error}")).caused_by(error)
        })?;
        let Some(look) = look else { return Ok(()) };
        let mut may_hire = true;
        while !crew.wait(TICK) {
            catch_unwind(AssertUnwindSafe(&mut *look)).map_err(|panic| {
                crew.call_off();
                panicked(&*panic)
            })?;
            // A run that went well goes on with the threads that it has.
            may_hire = may_hire && hire().is_ok();
        }
        Ok(())
    })?;
    let mut results = results.into_inner().unwrap_or_else(PoisonError::into_inner);
    results.sort_by_key(|(partition, _)| *partition);
    cx.cancel().check()?;
    results.into_iter().map(|(_, result)| result).collect()
}

/// What a panic said, as an error: a defect must not take the target's old data with it.
pub(crate) fn panicked(panic: &(dyn std::any::Any + Send)) -> Error {
    let said = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let said = said.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default();
    Error::new(ErrorKind::Internal, format!("a stage panicked: {said}"))
        .hint("if that is no function of your own, it is a defect; please report it")
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use etlrs_core::PerformanceConfig;

    use super::*;

    fn run<T: Send, F: Future<Output = Result<T>>>(
        workers: usize,
        count: u32,
        work: impl Fn(PartitionId) -> F + Sync,
    ) -> Result<Vec<T>> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_time().build().unwrap();
        let _entered = runtime.enter();
        let crew = Crew::new((0..count).map(PartitionId).collect(), workers, (), 0, 0);
        let cx = RunContext::new(PerformanceConfig::default());
        for_each(&cx, &Flight::new(), &crew, None, |partition, ()| work(partition))
    }

    /// More workers, and then fewer, while the work goes on: never more at a time than there may be, nor more bytes.
    #[test]
    fn a_crew_can_be_changed_while_it_works() {
        const BYTES: usize = 1200;
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_time().build().unwrap();
        let _entered = runtime.enter();
        let cx = RunContext::new(PerformanceConfig::default());
        let crew = Crew::new((0..200).map(PartitionId).collect(), 2, BYTES / 2, BYTES / 2, BYTES);
        let (active, most, held) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(0));
        let seen = Mutex::new(Vec::new());
        let mut looks = 0;
        let mut look = || {
            seen.lock().unwrap().push(most.swap(0, Ordering::SeqCst));
            looks += 1;
            let workers = [2, 6, 1, 3][looks % 4];
            crew.change(workers, BYTES / workers, BYTES / workers);
        };
        let results = for_each(&cx, &Flight::new(), &crew, Some(&mut look), async |partition, share| {
            let bytes = held.fetch_add(share, Ordering::SeqCst) + share;
            assert!(bytes <= BYTES, "{bytes}");
            most.fetch_max(active.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            tokio::time::sleep(Duration::from_millis(5)).await;
            active.fetch_sub(1, Ordering::SeqCst);
            held.fetch_sub(share, Ordering::SeqCst);
            Ok(partition.0)
        });
        assert_eq!(results.unwrap(), (0..200).collect::<Vec<_>>());
        let seen = seen.into_inner().unwrap();
        assert!(seen.len() >= 4 && seen[0] == 2 && seen[1] == 6 && seen[3] <= 3, "{seen:?}");
    }

    #[test]
    fn a_panic_of_who_looks_is_an_error() {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_time().build().unwrap();
        let _entered = runtime.enter();
        let cx = RunContext::new(PerformanceConfig::default());
        let crew = Crew::new((0..1000).map(PartitionId).collect(), 2, (), 0, 0);
        let begun = AtomicUsize::new(0);
        let error = for_each(&cx, &Flight::new(), &crew, Some(&mut || panic!("oops")), async |_, ()| {
            begun.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(Duration::from_millis(10)).await;
            Ok(())
        });
        let error = error.unwrap_err();
        assert!(error.kind() == ErrorKind::Internal && error.to_string().contains("oops"), "{error}");
        assert!(begun.into_inner() < 100);
    }

    #[test]
    fn results_come_in_the_order_of_the_partitions() {
        let results = run(4, 20, async |partition| {
            tokio::time::sleep(Duration::from_millis(u64::from(20 - partition.0))).await;
            Ok(partition.0)
        });
        assert_eq!(results.unwrap(), (0..20).collect::<Vec<_>>());
    }

    #[test]
    fn the_first_error_in_the_source_is_told_whenever_it_comes() {
        let results = run(4, 20, async |partition| match partition.0 {
            2 => {
                tokio::time::sleep(Duration::from_millis(50)).await;
                Err(Error::new(ErrorKind::InvalidData, "two"))
            }
            3 => Err::<(), _>(Error::new(ErrorKind::InvalidData, "three")),
            // Would never end by itself.
            9.. => std::future::pending().await,
            _ => Ok(()),
        });
        let error = results.unwrap_err();
        assert_eq!((error.message(), error.position().partition), ("two", Some(2)));
    }

    #[test]
    fn a_panic_is_an_error() {
        let results = run(2, 3, async |partition| if partition.0 == 1 { panic!("oops") } else { Ok(()) });
        let error = results.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Internal);
        assert!(error.to_string().contains("oops"));
    }

    #[test]
    fn the_window_moves_when_the_oldest_is_through() {
        let flight = Flight::new();
        let at = |id| flight.is_within(PartitionId(id), 2);
        assert!(at(0) && at(1) && !at(2));
        flight.done(PartitionId(1));
        assert!(!at(2));
        flight.done(PartitionId(0));
        assert!(at(3) && !at(4));
        assert!(flight.is_within(PartitionId(900), usize::MAX));
    }
}
