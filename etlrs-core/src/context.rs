use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{SystemTime, UNIX_EPOCH};

use tokio::sync::Notify;

use crate::{Error, ErrorKind, MemoryBudget, Partition, PerformanceConfig, Rejects, Result};

/// What a stage needs to know of the run that it serves: passed to each call, never kept beyond it.
///
/// Cloning is cheap. The engine hands each partition a context whose memory shares are those of its worker.
#[derive(Clone, Debug)]
pub struct RunContext {
    run: Arc<Run>,
    config: Arc<PerformanceConfig>,
    worker_memory: usize,
    rejects: Option<Rejects>,
    partition: Option<Arc<Partition>>,
}

#[derive(Debug)]
struct Run {
    id: RunId,
    memory: MemoryBudget,
    cancel: CancelToken,
    counters: Counters,
}

impl RunContext {
    /// A context for a new run.
    pub fn new(config: PerformanceConfig) -> Self {
        Self::with_cancel(config, CancelToken::new())
    }

    /// A context for a new run that `cancel` stops.
    pub fn with_cancel(config: PerformanceConfig, cancel: CancelToken) -> Self {
        Self::of_run(RunId::generate(), config, cancel)
    }

    /// A context for the run `id`, which goes on.
    pub fn of_run(id: RunId, config: PerformanceConfig, cancel: CancelToken) -> Self {
        let memory = MemoryBudget::new(config.max_memory_usage);
        let worker_memory = memory.limit() / 2;
        let run = Run { id, memory, cancel, counters: Counters::default() };
        Self { run: Arc::new(run), config: Arc::new(config), worker_memory, rejects: None, partition: None }
    }

    /// The same run, seen by a worker that may hold `bytes` in all.
    #[must_use]
    pub fn for_worker(&self, bytes: usize) -> Self {
        Self { worker_memory: bytes, ..self.clone() }
    }

    /// The same run for stages that shall use the machine in another way. The memory budget stays what it is.
    #[must_use]
    pub fn with_config(&self, config: Arc<PerformanceConfig>) -> Self {
        Self { config, ..self.clone() }
    }

    /// The same run, seen by stages that may set records aside in `rejects`.
    #[must_use]
    pub fn with_rejects(&self, rejects: Rejects) -> Self {
        Self { rejects: Some(rejects), ..self.clone() }
    }

    /// The same run, seen by stages through which the rows of `partition` go.
    #[must_use]
    pub fn for_partition(&self, partition: &Partition) -> Self {
        Self { partition: Some(Arc::new(partition.clone())), ..self.clone() }
    }

    /// The partition whose rows are read or transformed, if it is those of one.
    pub fn partition(&self) -> Option<&Partition> {
        self.partition.as_deref()
    }

    /// Identifies the run; staged work carries it.
    pub fn run_id(&self) -> RunId {
        self.run.id
    }

    /// How the run uses the machine.
    pub fn config(&self) -> &PerformanceConfig {
        &self.config
    }

    /// The budget of the whole run. Readers, batches and writers are already covered by their shares; a connector
    /// reserves only what it holds beyond them.
    pub fn memory(&self) -> &MemoryBudget {
        &self.run.memory
    }

    /// Bytes that one reader may hold in its buffers.
    pub fn reader_memory(&self) -> usize {
        self.worker_memory / 4
    }

    /// Bytes that a batch should not exceed.
    pub fn batch_memory(&self) -> usize {
        self.worker_memory / 8
    }

    /// Bytes that one writer may hold in its buffers.
    pub fn writer_memory(&self) -> usize {
        self.worker_memory / 2
    }

    /// Where to put records that cannot be taken. `None`, which is the default: such a record ends the run.
    ///
    /// A stage that cannot take a record and finds a place here puts it there, with all that is known of it, and goes on
    /// behind it. It still fails for all that is no fault of one record: a file that cannot be read, a lost connection.
    /// Which records are rejected may not depend on how the source is cut into partitions.
    ///
    /// The engine hands each attempt at a partition a place of its own, so that an attempt that failed leaves nothing
    /// behind. [`Extractor::scan`](crate::Extractor::scan) finds one here if the reads of its scan will; it should not fail
    /// for what they would reject, and nobody looks at what it puts there.
    pub fn rejects(&self) -> Option<&Rejects> {
        self.rejects.as_ref()
    }

    /// Asks the run to stop, and tells whether it was asked.
    pub fn cancel(&self) -> &CancelToken {
        &self.run.cancel
    }

    /// What has been done so far.
    pub fn counters(&self) -> &Counters {
        &self.run.counters
    }
}

/// Counts of a run that stages add to as they go; progress is shown from them.
#[derive(Debug, Default)]
pub struct Counters {
    /// Bytes read at the source. Connectors add to it.
    pub bytes_read: Counter,
    /// Rows that came out of the source, and records that it rejected. The engine adds to it.
    pub rows_read: Counter,
    /// Records that were set aside. The engine adds to it.
    pub rows_rejected: Counter,
    /// Rows handed to the target. The engine adds to it.
    pub rows_written: Counter,
    /// Partitions staged. The engine adds to it.
    pub partitions_done: Counter,
    /// Attempts at partitions after a first one failed. The engine adds to it.
    pub retries: Counter,
}

/// A number that threads add to.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `n`.
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    /// The sum so far.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Identifies a run: the time of its start and random bits, as 26 characters that sort by time.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RunId(u128);

impl RunId {
    /// Characters of its text.
    pub const LENGTH: usize = 26;

    /// A new one.
    pub fn generate() -> Self {
        use std::hash::{BuildHasher, Hasher};
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        // RandomState draws its keys from the operating system; the process id keeps forks apart.
        let mut hasher = std::collections::hash_map::RandomState::new().build_hasher();
        hasher.write_u128(now.as_nanos());
        hasher.write_u32(std::process::id());
        Self(now.as_millis() << 64 | u128::from(hasher.finish()))
    }

    /// When it began, in milliseconds.
    pub fn time(self) -> SystemTime {
        let millis = u64::try_from(self.0 >> 64).unwrap_or(u64::MAX);
        UNIX_EPOCH.checked_add(std::time::Duration::from_millis(millis)).unwrap_or(UNIX_EPOCH)
    }
}

/// Of Crockford's base 32, in lower case: safe in file and table names.
const DIGITS: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

impl fmt::Display for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for place in (0..Self::LENGTH).rev() {
            let digit = (self.0 >> (place * 5)) & 31;
            write!(f, "{}", DIGITS[digit as usize] as char)?;
        }
        Ok(())
    }
}

impl std::str::FromStr for RunId {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let value = |byte: u8| DIGITS.iter().position(|digit| *digit == byte).map(|value| value as u128);
        let add = |sum: u128, byte: u8| sum.checked_mul(32)?.checked_add(value(byte)?);
        let id = if text.len() == Self::LENGTH { text.bytes().try_fold(0, add) } else { None };
        id.map(Self).ok_or_else(|| {
            let message = format!("{text:?} is no id of a run, which has {} letters and digits", Self::LENGTH);
            Error::new(ErrorKind::InvalidConfig, message)
        })
    }
}

impl fmt::Debug for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RunId({self})")
    }
}

/// A wish to stop that any thread can make and any stage can see. Clones are the same wish.
#[derive(Clone, Default)]
pub struct CancelToken(Arc<Cancel>);

#[derive(Default)]
struct Cancel {
    wished: AtomicBool,
    notify: Notify,
    children: Mutex<Vec<Weak<Cancel>>>,
}

impl Cancel {
    fn cancel(&self) {
        self.wished.store(true, Ordering::SeqCst);
        self.notify.notify_waiters();
        let children = std::mem::take(&mut *self.children.lock().unwrap_or_else(PoisonError::into_inner));
        children.iter().filter_map(Weak::upgrade).for_each(|child| child.cancel());
    }
}

impl CancelToken {
    /// One that nobody has cancelled.
    pub fn new() -> Self {
        Self::default()
    }

    /// A wish of its own that is also made when this one is.
    pub fn child(&self) -> Self {
        let child = Self::new();
        let mut children = self.0.children.lock().unwrap_or_else(PoisonError::into_inner);
        children.retain(|child| child.strong_count() > 0);
        children.push(Arc::downgrade(&child.0));
        drop(children);
        // The wish may have been made while the child was not yet in the list.
        if self.is_cancelled() {
            child.cancel();
        }
        child
    }

    /// Asks for a stop.
    pub fn cancel(&self) {
        self.0.cancel();
    }

    /// Whether a stop was asked for.
    pub fn is_cancelled(&self) -> bool {
        self.0.wished.load(Ordering::SeqCst)
    }

    /// # Errors
    /// `Cancelled` once a stop was asked for.
    pub fn check(&self) -> Result<()> {
        if self.is_cancelled() { Err(Error::cancelled()) } else { Ok(()) }
    }

    /// Waits until a stop is asked for.
    pub async fn cancelled(&self) {
        loop {
            let notified = self.0.notify.notified();
            if self.is_cancelled() {
                return;
            }
            notified.await;
        }
    }
}

impl fmt::Debug for CancelToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CancelToken({})", self.is_cancelled())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn run_ids_differ_and_sort_by_time() {
        let first = RunId::generate();
        std::thread::sleep(std::time::Duration::from_millis(2));
        let second = RunId::generate();
        assert!(first < second);
        assert!(first.to_string() < second.to_string());
        assert_eq!(first.to_string().len(), 26);
        assert_eq!(first.to_string().parse::<RunId>().unwrap(), first);
        for wrong in ["", "x", "zzzzzzzzzzzzzzzzzzzzzzzzzz", "u1111111111111111111111111"] {
            assert!(wrong.parse::<RunId>().is_err(), "{wrong}");
        }
        let age = SystemTime::now().duration_since(first.time()).unwrap();
        assert!(age < std::time::Duration::from_secs(60), "{age:?}");
    }

    #[test]
    fn a_cancelled_token_stays_cancelled() {
        let token = CancelToken::new();
        assert!(token.check().is_ok());
        let (before, other) = (token.child(), CancelToken::new().child());
        before.child().cancel();
        assert!(before.check().is_ok());
        token.clone().cancel();
        assert!(token.check().is_err());
        assert!(before.check().is_err() && token.child().check().is_err() && other.check().is_ok());
    }
}
