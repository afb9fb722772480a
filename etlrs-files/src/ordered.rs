use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use etlrs_core::{Error, ErrorKind, PartitionId, Result, Turnstile};

/// One file that the writers of many partitions append to, in the order of the partitions.
///
/// Each writer encodes in memory, side by side with the others, and appends when its partition is in turn. It may hold as
/// much as `RunContext::writer_memory` says; one that holds more waits for its turn. The partition in turn never waits,
/// so there is always one that goes on.
///
/// What has been appended cannot be taken back, so a writer appends as late as its memory lets it: until then a retry
/// starts from nothing. After that the partition is marked, and another attempt at it is refused.
///
/// `F` is the file, opened when it is first needed.
#[derive(Debug)]
pub struct OrderedFile<F> {
    turnstile: Turnstile,
    state: Mutex<State<F>>,
}

#[derive(Debug)]
struct State<F> {
    file: Option<F>,
    /// Partitions of which something is in the file.
    begun: BTreeSet<PartitionId>,
}

impl<F> OrderedFile<F> {
    /// Without anything in it yet.
    pub fn new() -> Self {
        Self { turnstile: Turnstile::new(), state: Mutex::new(State { file: None, begun: BTreeSet::new() }) }
    }

    /// With the partitions before the `n`th in it already.
    pub fn behind(n: usize) -> Self {
        let file = Self::new();
        if let Some(last) = n.checked_sub(1) {
            file.turnstile.pass(PartitionId(u32::try_from(last).unwrap_or(u32::MAX)));
        }
        file
    }

    // What a thread that panicked left half written is never published, for its partition has no receipt.
    fn lock(&self) -> MutexGuard<'_, State<F>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a writer for `partition` may start: nothing of it is in the file.
    ///
    /// # Errors
    /// `Unsupported` for another attempt at a partition that was begun.
    pub fn admit(&self, partition: PartitionId) -> Result<()> {
        if !self.lock().begun.contains(&partition) {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::Unsupported,
            format!("partition {partition} cannot be tried again, for some of its rows are in the file already"),
        )
        .hint("start the run again, with more memory so that a partition fits, or write to a directory"))
    }

    /// Waits until all partitions before `partition` are through, then lets `append` write to the file, which `open` makes
    /// if it is the first to be let in.
    ///
    /// # Errors
    /// Those of `open` and `append`.
    pub async fn append<T>(
        &self,
        partition: PartitionId,
        open: impl FnOnce() -> Result<F>,
        append: impl FnOnce(&mut F) -> Result<T>,
    ) -> Result<T> {
        self.turnstile.wait(partition).await;
        let mut state = self.lock();
        // Before the first byte: a failure in the middle of an appending cannot be repaired either.
        state.begun.insert(partition);
        append(opened(&mut state, open)?)
    }

    /// Ends `partition`, which is in turn or waits until it is.
    pub async fn pass(&self, partition: PartitionId) {
        self.turnstile.wait(partition).await;
        self.turnstile.pass(partition);
    }

    /// Gives the file away when all partitions are through.
    ///
    /// # Errors
    /// Those of `open`.
    pub fn take(&self, open: impl FnOnce() -> Result<F>) -> Result<F> {
        match self.lock().file.take() {
            Some(file) => Ok(file),
            None => open(),
        }
    }
}

fn opened<F>(state: &mut State<F>, open: impl FnOnce() -> Result<F>) -> Result<&mut F> {
    match &mut state.file {
        Some(file) => Ok(file),
        empty => Ok(empty.insert(open()?)),
    }
}

impl<F> Default for OrderedFile<F> {
    fn default() -> Self {
        Self::new()
    }
}
