//! Records that are set aside instead of ending the run.
//!
//! Beside the load of a partition runs a second one, of what is rejected, into the quarantine: a session of its own with the
//! same partitions, and one more for what the target [sifts out](SiftedOut) of all. A [`Gate`] in front of the source lets it go on
//! only when what was rejected before is written, so no more is held than one poll of a source, and the batches that wait for a
//! writer, may have rejected. Both loads are branches of one task of the worker: while the one waits for
//! its writer, the other goes on.
//!
//! An attempt that fails drops its writer of the quarantine as it does that of the target, so what it rejected is gone with
//! it. A writer of the quarantine waits only for partitions before its own, as that of the target does: the oldest partition
//! in flight waits for no other.

use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll, Waker, ready};

use etlrs_core::{
    BatchStream, Checksum, Counters, Error, ErrorKind, LoadSession, Partition, PartitionId, PartitionWriter, Receipt,
    RecordBatch, Refusals, Rejected, RejectedBy, Rejects, Result, RunContext, Scan, Tally, async_trait,
};

use crate::max_errors::MaxErrors;
use crate::partitions::Flight;
use crate::read_as::ReadAs;
use crate::transform::rejected_row;

/// What all partitions rejected so far.
pub(crate) struct Totals {
    partitions: Vec<Total>,
    /// More end the run.
    most: Option<MaxErrors>,
}

#[derive(Default)]
struct Total {
    records: AtomicU64,
    first: OnceLock<String>,
}

impl Totals {
    /// `before` are receipts of the quarantine, for partitions that an earlier attempt at the run had made durable.
    pub(crate) fn new(partitions: usize, most: Option<MaxErrors>, before: &[Receipt]) -> Self {
        let totals = Self { partitions: std::iter::repeat_with(Total::default).take(partitions).collect(), most };
        for receipt in before {
            if let Some(total) = totals.partitions.get(receipt.partition.index()) {
                total.records.store(rejected_records(receipt), Ordering::Relaxed);
            }
        }
        totals
    }

    /// An attempt at `partition` begins, so those before it do not count.
    fn reset(&self, partition: PartitionId) {
        if let Some(total) = self.partitions.get(partition.index()) {
            total.records.store(0, Ordering::Relaxed);
        }
    }

    /// # Errors
    /// When this partition and those before it have more than are allowed. Those behind it do not count here: if the source
    /// was cut at a wrong place, what they reject is of no meaning, and an earlier partition says so.
    fn add(&self, partition: PartitionId, rejected: &[Rejected], counters: &Counters) -> Result<()> {
        let whole = || rejected.iter().filter(|record| record.part == 0);
        let records = whole().count() as u64;
        let of_source = whole().filter(|record| record.stage == Rejected::SOURCE).count() as u64;
        if let (Some(total), Some(first)) = (self.partitions.get(partition.index()), rejected.first()) {
            total.records.fetch_add(records, Ordering::Relaxed);
            total.first.get_or_init(|| first.to_string());
        }
        counters.rows_rejected.add(records);
        // Nobody else has seen them.
        counters.rows_read.add(of_source);
        self.check(partition.index() + 1, None)
    }

    /// Whether the first `count` partitions have no more than are allowed; a part of the rows `read`, if all are.
    fn check(&self, count: usize, read: Option<u64>) -> Result<()> {
        let partitions = self.partitions.get(..count).unwrap_or(&self.partitions);
        let records: u64 = partitions.iter().map(|total| total.records.load(Ordering::Relaxed)).sum();
        let Some(message) = self.most.and_then(|most| most.exceeded(records, read)) else { return Ok(()) };
        let first = partitions.iter().find_map(|total| total.first.get());
        let first = first.map_or("the target is as it was".to_owned(), |first| format!("the first is {first}"));
        Err(Error::new(ErrorKind::InvalidData, message).hint(first))
    }

    /// Of a source out of which so many rows were `read`, those that were rejected among them.
    ///
    /// # Errors
    /// When there are more than are allowed.
    pub(crate) fn check_all(&self, read: u64) -> Result<()> {
        self.check(self.partitions.len(), Some(read))
    }

    pub(crate) fn records(&self) -> u64 {
        self.partitions.iter().map(|total| total.records.load(Ordering::Relaxed)).sum()
    }

    /// The first record in the source, with its place and what was wrong.
    pub(crate) fn first(&self) -> Option<String> {
        let found = self.partitions.iter().find(|total| total.records.load(Ordering::Relaxed) > 0);
        found.and_then(|total| total.first.get()).cloned()
    }
}

pub(crate) fn of_quarantine(error: Error) -> Error {
    error.within("the quarantine")
}

/// Records that a receipt of the quarantine stands for.
pub(crate) fn rejected_records(receipt: &Receipt) -> u64 {
    receipt.rows_read.unwrap_or(receipt.rows)
}

/// Rows that the target refuses, each with its error, which have been through all `transforms`.
pub(crate) fn refused_by_target(rows: &RecordBatch, errors: &[Error], transforms: u32) -> Vec<Rejected> {
    let rejected = |(row, error)| {
        let mut rejected = rejected_row(Rejected::TARGET, error, rows, row);
        // Of the target; what is told is where the record is from.
        rejected.position.source = None;
        rejected.transforms = Some(transforms);
        rejected
    };
    errors.iter().enumerate().map(rejected).collect()
}

/// Keeps what the target sifts out of all that is staged, as a partition of its own behind the others.
pub(crate) struct SiftedOut<'a> {
    session: Option<&'a dyn LoadSession>,
    cx: &'a RunContext,
    totals: &'a Totals,
    origin: &'a Origin,
    partition: &'a Partition,
    writer: Option<Box<dyn PartitionWriter>>,
    /// Of the rows at the target.
    checksum: Checksum,
}

impl<'a> SiftedOut<'a> {
    /// `cx` has the share of the quarantine. Without a session they are only counted.
    pub(crate) fn new(
        session: Option<&'a dyn LoadSession>,
        cx: &'a RunContext,
        totals: &'a Totals,
        origin: &'a Origin,
        partition: &'a Partition,
    ) -> Self {
        totals.reset(partition.id);
        Self { session, cx, totals, origin, partition, writer: None, checksum: Checksum::default() }
    }

    async fn writer(&mut self) -> Result<Option<&mut Box<dyn PartitionWriter>>> {
        let Some(session) = self.session else { return Ok(None) };
        let writer = match self.writer.take() {
            Some(writer) => writer,
            None => session.writer(self.cx, self.partition, 1).await?,
        };
        Ok(Some(self.writer.insert(writer)))
    }

    /// What all rows were, and the receipt for them, if there is a session.
    pub(crate) async fn finish(mut self) -> Result<(Checksum, Option<Receipt>)> {
        self.writer().await?;
        let checksum = self.checksum;
        let Some(mut writer) = self.writer else { return Ok((checksum, None)) };
        writer.seal(Tally { checksum, rows_read: checksum.rows() });
        let receipt = writer.finish().await?;
        if receipt.rows != checksum.rows() {
            let message = format!("the quarantine staged {} rows of {}", receipt.rows, checksum.rows());
            return Err(Error::new(ErrorKind::VerifyFailed, message));
        }
        Ok((checksum, Some(receipt)))
    }
}

#[async_trait]
impl Refusals for SiftedOut<'_> {
    async fn put(&mut self, rows: &RecordBatch, errors: Vec<Error>) -> Result<()> {
        if rows.num_rows() != errors.len() {
            let message = format!("{} rows are refused with {} errors", rows.num_rows(), errors.len());
            return Err(Error::new(ErrorKind::Internal, message));
        }
        let rejected = refused_by_target(rows, &errors, self.origin.transforms);
        self.totals.add(self.partition.id, &rejected, self.cx.counters())?;
        self.checksum.merge(&Checksum::of_batch(rows)?);
        let batch = Rejected::batch(&self.origin.by(self.cx), self.partition.id, &rejected)?;
        match self.writer().await.map_err(of_quarantine)? {
            Some(writer) => writer.write(batch).await.map_err(of_quarantine),
            None => Ok(()),
        }
    }
}

/// Where rejected records are from, and were to go.
#[derive(Clone, Debug, Default)]
pub(crate) struct Origin {
    pub(crate) target: Option<Arc<str>>,
    pub(crate) replay: Option<Arc<str>>,
    /// All that a row has been through when it comes to the target.
    pub(crate) transforms: u32,
}

impl Origin {
    fn by(&self, cx: &RunContext) -> RejectedBy<'_> {
        RejectedBy {
            run: cx.run_id(),
            target: self.target.as_deref(),
            replay: self.replay.as_deref(),
            transforms: self.transforms,
        }
    }
}

/// What the workers share for the quarantine.
pub(crate) struct Quarantine<'a> {
    pub(crate) scan: &'a dyn Scan,
    pub(crate) origin: &'a Origin,
    pub(crate) session: &'a dyn LoadSession,
    pub(crate) max_writers: usize,
    pub(crate) flight: &'a Flight,
    pub(crate) totals: &'a Totals,
}

impl<'a> Quarantine<'a> {
    /// The two ends of what one attempt rejects; `cx` has the share of the quarantine.
    pub(crate) fn attempt(&'a self, cx: &'a RunContext, partition: &'a Partition, attempt: u32) -> (Gate, Drain<'a>) {
        self.totals.reset(partition.id);
        let gate = Gate { rejects: Rejects::new(cx.batch_memory()), signal: Arc::default() };
        let (rows, tally) = (0, Tally::default());
        let drain = Drain { quarantine: self, cx, partition, attempt, gate: gate.clone(), writer: None, rows, tally };
        (gate, drain)
    }
}

/// Holds a source up while what it rejected is being written.
#[derive(Clone)]
pub(crate) struct Gate {
    pub(crate) rejects: Rejects,
    signal: Arc<Mutex<Signal>>,
}

#[derive(Default)]
struct Signal {
    /// Whoever waits to go on reading.
    reader: Option<Waker>,
    /// Whoever waits for something to write.
    drain: Option<Waker>,
    writing: bool,
    closed: bool,
}

impl Gate {
    /// `source` behind the gate. Batches without rows end here: a source gives them only to be held up.
    pub(crate) fn before(&self, source: BatchStream) -> BatchStream {
        Box::pin(Gated { source, gate: self.clone() })
    }

    /// Nothing more will be rejected.
    pub(crate) fn close(&self) {
        let mut signal = self.signal();
        signal.closed = true;
        wake(&mut signal.drain);
    }

    fn signal(&self) -> MutexGuard<'_, Signal> {
        self.signal.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ready when the source may go on.
    fn poll_open(&self, cx: &Context<'_>) -> Poll<()> {
        let mut signal = self.signal();
        if !signal.writing && self.rejects.is_empty() {
            return Poll::Ready(());
        }
        signal.reader = Some(cx.waker().clone());
        wake(&mut signal.drain);
        Poll::Pending
    }

    /// What was rejected, when there is something; nothing when there will be no more.
    async fn take(&self) -> Vec<Rejected> {
        std::future::poll_fn(|cx| {
            let mut signal = self.signal();
            if self.rejects.is_empty() && !signal.closed {
                signal.drain = Some(cx.waker().clone());
                return Poll::Pending;
            }
            signal.writing = true;
            Poll::Ready(self.rejects.take())
        })
        .await
    }

    fn written(&self) {
        let mut signal = self.signal();
        signal.writing = false;
        wake(&mut signal.reader);
    }
}

fn wake(waker: &mut Option<Waker>) {
    if let Some(waker) = waker.take() {
        waker.wake();
    }
}

struct Gated {
    source: BatchStream,
    gate: Gate,
}

impl futures_core::Stream for Gated {
    type Item = Result<RecordBatch>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        loop {
            ready!(this.gate.poll_open(cx));
            let item = ready!(this.source.as_mut().poll_next(cx));
            if !this.gate.rejects.is_empty() {
                wake(&mut this.gate.signal().drain);
            }
            match item {
                Some(Ok(batch)) if batch.num_rows() == 0 => {}
                item => return Poll::Ready(item),
            }
        }
    }
}

/// Writes what one attempt at a partition rejects.
pub(crate) struct Drain<'a> {
    quarantine: &'a Quarantine<'a>,
    cx: &'a RunContext,
    partition: &'a Partition,
    attempt: u32,
    gate: Gate,
    writer: Option<Box<dyn PartitionWriter>>,
    rows: u64,
    /// In which every record is a row that was read, though it may come in parts.
    tally: Tally,
}

impl Drain<'_> {
    /// Until the gate is closed.
    pub(crate) async fn run(mut self) -> Result<Receipt> {
        let (cx, totals, origin) = (self.cx, self.quarantine.totals, self.quarantine.origin);
        let mut format = None;
        loop {
            let mut rejected = self.gate.take().await;
            if rejected.is_empty() {
                break;
            }
            for record in &mut rejected {
                // A transformer does not know it.
                record.position.source =
                    record.position.source.take().or_else(|| self.partition.source.as_ref().map(ToString::to_string));
                if record.transforms.is_none() {
                    let format = format.get_or_insert_with(|| self.source_format());
                    (record.transforms, record.read_as) = (Some(0), record.read_as.take().or_else(|| format.clone()));
                }
            }
            totals.add(self.partition.id, &rejected, cx.counters())?;
            let batch = Rejected::batch(&origin.by(cx), self.partition.id, &rejected)?;
            self.tally.rows_read += rejected.iter().filter(|record| record.part == 0).count() as u64;
            drop(rejected);
            self.rows += batch.num_rows() as u64;
            self.tally.checksum.merge(&Checksum::of_batch(&batch)?);
            self.open().await?.write(batch).await?;
            self.gate.written();
        }
        self.open().await?;
        let mut writer = self.writer.ok_or_else(|| Error::new(ErrorKind::Internal, "the quarantine has no writer"))?;
        writer.seal(self.tally);
        let receipt = writer.finish().await?;
        if receipt.rows != self.rows {
            return Err(Error::new(
                ErrorKind::VerifyFailed,
                format!("the quarantine staged {} rows of the {} it was given", receipt.rows, self.rows),
            ));
        }
        Ok(receipt)
    }

    /// How records of the source are read by themselves.
    fn source_format(&self) -> Option<Arc<str>> {
        self.quarantine.scan.record_format(self.partition).map(|format| ReadAs::of_source(format).to_text())
    }

    async fn open(&mut self) -> Result<&mut Box<dyn PartitionWriter>> {
        let Quarantine { session, max_writers, flight, .. } = *self.quarantine;
        let writer = match self.writer.take() {
            Some(writer) => writer,
            None => {
                flight.wait_within(self.partition.id, max_writers).await;
                session.writer(self.cx, self.partition, self.attempt).await?
            }
        };
        Ok(self.writer.insert(writer))
    }
}
