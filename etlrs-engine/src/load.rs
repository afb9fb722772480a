//! One partition from the source to the target.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use arrow_array::{RecordBatch, UInt64Array};
use arrow_select::take::take_record_batch;
use etlrs_core::{
    BatchStream, Checksum, Error, ErrorKind, LoadSession, Partition, PartitionId, PartitionWriter, Receipt, Rejects,
    Result, RunContext, Tally, batch_bytes, batches_from_iter, failpoint, format_bytes, map_stream, next_batch,
};

use crate::memory::{Shares, fits, require_lane};
use crate::partitions::Flight;
use crate::place::placed;
use crate::quarantine::{Gate, Origin, Quarantine, refused_by_target};
use crate::report::PartitionReport;
use crate::run::Run;
use crate::stages::{Clock, SOURCE, Stages};

/// With what a partition is worked on.
#[derive(Clone)]
pub(crate) struct Means {
    /// With the share of a worker.
    pub(crate) cx: RunContext,
    /// With that of what it rejects.
    pub(crate) quarantine: RunContext,
    pub(crate) shares: Shares,
    pub(crate) max_writers: usize,
}

/// What the workers share while they load partitions.
pub(crate) struct PartitionLoad<'a> {
    pub(crate) run: &'a Run<'a>,
    pub(crate) session: &'a dyn LoadSession,
    pub(crate) flight: &'a Flight,
    pub(crate) quarantine: Option<&'a Quarantine<'a>>,
    pub(crate) origin: &'a Origin,
    pub(crate) rows_read: AtomicU64,
    pub(crate) largest_batch: AtomicUsize,
    pub(crate) stages: &'a Stages,
}

impl PartitionLoad<'_> {
    /// Loads one partition; repeats it while its errors are transient. The second receipt is that of the
    /// quarantine.
    pub(crate) async fn partition(
        &self,
        id: PartitionId,
        means: &Means,
    ) -> Result<(Receipt, Option<Receipt>, PartitionReport)> {
        let began = self.stages.elapsed();
        let partition = &self.run.scan.partitions()[id.index()];
        let (most, counters) = (means.cx.config().max_attempts, means.cx.counters());
        let mut attempt = 1;
        let mut before = None;
        loop {
            match self.attempt(partition, means, attempt).await {
                Ok((receipt, rows_read, set_aside)) => {
                    self.rows_read.fetch_add(rows_read, Ordering::Relaxed);
                    counters.partitions_done.add(1);
                    let report = PartitionReport {
                        descriptor: partition.descriptor.clone(),
                        source: partition.source.clone(),
                        began,
                        elapsed: self.stages.elapsed().saturating_sub(began),
                        attempts: attempt,
                        rows_read,
                        rows: receipt.rows,
                    };
                    return Ok((receipt, set_aside, report));
                }
                Err(error) if error.is_transient() && attempt < most => {
                    counters.retries.add(1);
                    tokio::time::sleep(back_off(attempt)).await;
                    attempt += 1;
                    before = Some(error);
                }
                Err(error) => {
                    return Err(match before {
                        // A target that keeps what it has only says that there can be no other attempt.
                        Some(before) if error.kind() == ErrorKind::Unsupported => before.hint(error.to_string()),
                        _ => error,
                    });
                }
            }
        }
    }

    async fn attempt(
        &self,
        partition: &Partition,
        means: &Means,
        attempt: u32,
    ) -> Result<(Receipt, u64, Option<Receipt>)> {
        let cx = means.cx.for_partition(partition);
        let Some(quarantine) = self.quarantine else {
            let (receipt, rows_read) = self.rows(partition, means, attempt, &cx, None).await?;
            return Ok((receipt, rows_read, None));
        };
        let (gate, drain) = quarantine.attempt(&means.quarantine, partition, attempt);
        let cx = cx.with_rejects(gate.rejects.clone());
        let rows = async {
            let done = self.rows(partition, means, attempt, &cx, Some(&gate)).await;
            gate.close();
            done
        };
        let ((receipt, rows_read), set_aside) = tokio::try_join!(rows, drain.run())?;
        Ok((receipt, rows_read, Some(set_aside)))
    }

    /// Moves the rows of a partition from the source to the target.
    async fn rows(
        &self,
        partition: &Partition,
        means: &Means,
        attempt: u32,
        cx: &RunContext,
        gate: Option<&Gate>,
    ) -> Result<(Receipt, u64)> {
        let rows_read = Arc::new(AtomicU64::new(0));
        let (stages, clock) = (self.stages, Clock::new(self.stages));
        let source = clock.call(SOURCE, || self.run.scan.read(cx, partition))?;
        let source = clock.stream(SOURCE, source);
        let source = match gate {
            Some(gate) => gate.before(source),
            None => source,
        };
        let largest = Arc::new(AtomicUsize::new(0));
        let mut stream = counted(cx, source, rows_read.clone(), largest.clone());
        if !cx.config().enable_streaming {
            stream = read_whole(cx, stream).await?;
        }
        for (index, transformer) in self.run.transformers.iter().enumerate() {
            let name = self.run.names.get(index).map_or("transform", String::as_str);
            let cx = &self.run.before_transform(cx, index);
            stream = placed(name, partition, self.run.scan.partitions().len(), stream, |stream| {
                clock.stream(Stages::transform(index), transformer.apply(cx, stream))
            });
        }
        let (waiting, waiting_bytes) = (VecDeque::new(), 0);
        let clock_of_sink = clock.clone();
        let (refused, rejects) = (Checksum::default(), cx.rejects());
        let mut sink = Sink {
            load: self,
            means,
            partition,
            attempt,
            writer: None,
            waiting,
            waiting_bytes,
            rejects,
            refused,
            clock: clock_of_sink,
        };
        let mut checksum = Checksum::default();
        while let Some(batch) = next_batch(&mut stream).await {
            let batch = batch?;
            if batch.schema_ref().fields() != self.run.schema.fields() {
                return Err(Error::new(ErrorKind::Internal, "a stage gave a batch of another schema than it had said"));
            }
            checksum.merge(&clock.call(stages.checksum(), || Checksum::of_batch(&batch))?);
            stages.count(stages.checksum(), batch.num_rows());
            sink.write(batch).await?;
        }
        sink.open_in_turn().await?;
        checksum.remove(&sink.refused);
        // Whatever the source rejected it has rejected by now, though it may not be written yet.
        let rows_read = rows_read.load(Ordering::Relaxed) + gate.map_or(0, |gate| gate.rejects.of_source());
        let mut receipt = sink.finish(Tally { checksum, rows_read }).await?;
        if receipt.rows != checksum.rows() || receipt.checksum.is_some_and(|staged| staged != checksum) {
            return Err(Error::new(
                ErrorKind::VerifyFailed,
                format!("the target staged {} rows of the {} it was given", receipt.rows, checksum.rows()),
            ));
        }
        receipt.checksum = Some(checksum);
        self.largest_batch.fetch_max(largest.load(Ordering::Relaxed), Ordering::Relaxed);
        Ok((receipt, rows_read))
    }
}

/// All batches of a partition, read before the first goes on.
async fn read_whole(cx: &RunContext, mut stream: BatchStream) -> Result<BatchStream> {
    // What the writer would use is free until there is one.
    let most = cx.writer_memory();
    let (mut batches, mut bytes) = (Vec::new(), 0);
    while let Some(batch) = next_batch(&mut stream).await {
        let batch = batch?;
        bytes += batch_bytes(&batch);
        if bytes > most {
            let message = format!(
                "without streaming a partition has to fit into the {} that its worker may hold",
                format_bytes(most)
            );
            return Err(Error::new(ErrorKind::MemoryExceeded, message)
                .hint("give more memory, use more partitions, or set enable_streaming=true"));
        }
        batches.push(Ok(batch));
    }
    Ok(batches_from_iter(batches))
}

fn counted(cx: &RunContext, stream: BatchStream, rows: Arc<AtomicU64>, largest: Arc<AtomicUsize>) -> BatchStream {
    let cx = cx.clone();
    map_stream(stream, move |batch| {
        rows.fetch_add(batch.num_rows() as u64, Ordering::Relaxed);
        largest.fetch_max(batch_bytes(&batch), Ordering::Relaxed);
        cx.counters().rows_read.add(batch.num_rows() as u64);
        Ok(batch)
    })
}

/// The target end of one attempt: batches wait here until the partition may have a writer.
struct Sink<'a> {
    load: &'a PartitionLoad<'a>,
    means: &'a Means,
    partition: &'a Partition,
    attempt: u32,
    writer: Option<Box<dyn PartitionWriter>>,
    waiting: VecDeque<RecordBatch>,
    waiting_bytes: usize,
    /// Where rows go that the target refuses.
    rejects: Option<&'a Rejects>,
    /// Of those rows.
    refused: Checksum,
    clock: Clock,
}

impl Sink<'_> {
    async fn write(&mut self, batch: RecordBatch) -> Result<()> {
        let (Means { cx, shares, max_writers, .. }, flight) = (self.means, self.load.flight);
        let max_writers = *max_writers;
        let id = self.partition.id;
        let bytes = batch_bytes(&batch);
        if !fits(cx, bytes) {
            self.clock.drive(self.load.stages.turn(), flight.wait_within(id, 1)).await;
            require_lane(cx, *shares, batch.num_rows(), bytes)?;
        }
        if self.writer.is_none() && !flight.is_within(id, max_writers) {
            // As long as there is no writer, its share is free for batches.
            if self.waiting_bytes + bytes <= cx.writer_memory() {
                self.waiting_bytes += bytes;
                self.waiting.push_back(batch);
                return Ok(());
            }
            self.clock.drive(self.load.stages.turn(), flight.wait_within(id, max_writers)).await;
        }
        self.open().await?;
        self.write_now(batch).await
    }

    /// When it is the turn of the partition: sees to it that all is written.
    async fn open_in_turn(&mut self) -> Result<()> {
        let turn = self.load.flight.wait_within(self.partition.id, self.means.max_writers);
        self.clock.drive(self.load.stages.turn(), turn).await;
        self.open().await
    }

    /// When all is written.
    async fn finish(self, tally: Tally) -> Result<Receipt> {
        match self.writer {
            Some(mut writer) => {
                writer.seal(tally);
                failpoint("partition-written");
                let receipt = self.clock.drive(self.load.stages.target(), writer.finish()).await;
                failpoint("partition-staged");
                receipt
            }
            None => Err(Error::new(ErrorKind::Internal, "a partition has no writer")),
        }
    }

    /// Sees to it that there is a writer, and writes what waited for it. The partition is within the window.
    async fn open(&mut self) -> Result<()> {
        if self.writer.is_some() {
            return Ok(());
        }
        let PartitionLoad { session, stages, .. } = *self.load;
        let opened = session.writer(&self.means.cx, self.partition, self.attempt);
        self.writer = Some(self.clock.drive(stages.target(), opened).await?);
        while let Some(batch) = self.waiting.pop_front() {
            self.write_now(batch).await?;
        }
        self.waiting_bytes = 0;
        Ok(())
    }

    async fn write_now(&mut self, batch: RecordBatch) -> Result<()> {
        let stages = self.load.stages;
        let rows = batch.num_rows();
        let no_writer = || Error::new(ErrorKind::Internal, "a partition has no writer");
        let writer = self.writer.as_mut().ok_or_else(no_writer)?;
        // Batches are shared, so this costs nothing.
        let written = self.rejects.map(|_| batch.clone());
        self.clock.drive(stages.target(), writer.write(batch)).await?;
        let mut taken = rows;
        if let (Some(rejects), Some(batch)) = (self.rejects, written) {
            let (refused, errors): (Vec<_>, Vec<_>) = writer.refused().into_iter().unzip();
            if !refused.is_empty() {
                taken = rows.saturating_sub(refused.len());
                let indices = UInt64Array::from_iter_values(refused.into_iter().map(|row| row as u64));
                let rows = take_record_batch(&batch, &indices)?;
                self.refused.merge(&Checksum::of_batch(&rows)?);
                // They came out of the source, where they are counted.
                let transforms = self.load.origin.transforms;
                let rejects = rejects.after_transforms(transforms);
                refused_by_target(&rows, &errors, transforms).into_iter().for_each(|record| rejects.push(record));
            }
        }
        stages.count(stages.target(), taken);
        self.means.cx.counters().rows_written.add(taken as u64);
        Ok(())
    }
}

/// 100 ms, doubled with each attempt up to 10 s, less up to half of it so that many do not come back at once.
pub(crate) fn back_off(attempt: u32) -> Duration {
    let full = 100u64.saturating_mul(1 << (attempt - 1).min(10)).min(10_000);
    let random = std::hash::BuildHasher::hash_one(&std::collections::hash_map::RandomState::new(), attempt);
    Duration::from_millis(full - random % (full / 2))
}
