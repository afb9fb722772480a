//! Partitions on worker threads.
//!
//! Each worker is a thread of its own that takes the next partition when it is free and drives it to its end with
//! `block_on`. Decoding and encoding therefore never run on the threads of the async runtime, which are left to the
//! network; blocking on a local file holds up one worker and nobody else.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

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

/// Works on `partitions` with `workers` threads, and gives the results in the order of the partitions, or the error of
/// the first partition that failed. Returns only when all threads are done.
///
/// `work` is dropped where it waits when the run is cancelled or when a partition before it failed.
pub(crate) fn for_each<T, F>(
    cx: &RunContext,
    flight: &Flight,
    workers: usize,
    partitions: &[PartitionId],
    work: impl Fn(PartitionId) -> F + Sync,
) -> Result<Vec<T>>
where
    T: Send,
    F: Future<Output = Result<T>>,
{
    let next = AtomicUsize::new(0);
    let results = Mutex::new(Vec::with_capacity(partitions.len()));
    let runtime = Handle::current();
    let worker = || {
        while let Some(&partition) = partitions.get(next.fetch_add(1, Ordering::Relaxed)) {
            if cx.cancel().is_cancelled() || flight.is_pointless(partition.0) {
                break;
            }
            let guarded = async {
                tokio::select! {
                    biased;
                    () = cx.cancel().cancelled() => Err(Error::cancelled()),
                    () = flight.wait_pointless(partition.0) => Err(Error::cancelled()),
                    result = work(partition) => result,
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
        }
    };
    std::thread::scope(|scope| -> Result<()> {
        for index in 0..workers.min(partitions.len()) {
            std::thread::Builder::new()
                .name(format!("etlrs-worker-{index}"))
                .stack_size(cx.config().thread_stack_size)
                .spawn_scoped(scope, worker)
                .map_err(|error| {
                    // Those that run already find nothing more to do.
                    next.store(partitions.len(), Ordering::Relaxed);
                    Error::new(ErrorKind::Io, format!("cannot start worker thread {index}: {error}")).caused_by(error)
                })?;
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
    Error::new(ErrorKind::Internal, format!("a stage panicked: {said}")).hint("this is a defect; please report it")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use etlrs_core::PerformanceConfig;

    use super::*;

    fn run<T: Send, F: Future<Output = Result<T>>>(
        workers: usize,
        count: u32,
        work: impl Fn(PartitionId) -> F + Sync,
    ) -> Result<Vec<T>> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_time().build().unwrap();
        let _entered = runtime.enter();
        let partitions: Vec<_> = (0..count).map(PartitionId).collect();
        let cx = RunContext::new(PerformanceConfig::default());
        for_each(&cx, &Flight::new(), workers, &partitions, work)
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
