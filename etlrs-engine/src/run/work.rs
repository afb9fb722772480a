//! The work of a run: all partitions side by side, what is looked at when they are staged, and the commit.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize};
use std::time::Duration;

use arrow_schema::{DataType, Schema};
use etlrs_core::{
    Checksum, Error, ErrorKind, Interrupted, LoadMode, LoadResult, LoadSession, Loader, Published, Receipt, Result,
    RunContext, failpoint, next_batch, not_read_back, type_name,
};
use tracing::field::Empty;
use tracing::{Instrument, info_span};

use super::attempt::Sessions;
use super::{Run, cores, gone, record_error};
use crate::alert::Watch;
use crate::load::{Means, PartitionLoad};
use crate::memory::Shares;
use crate::memory_use::{BatchSizes, MemoryUse, TABLE};
use crate::partitions::{Crew, Flight, for_each};
use crate::pipeline::{Started, Verify};
use crate::quarantine::{Quarantine, SiftedOut, Totals, of_quarantine, rejected_records};
use crate::report::RunReport;
use crate::resume::{Resumed, acknowledge};
use crate::stages::Stages;
use crate::tune::{Bounds, Sample, Tuned, Tuner};

impl Run<'_> {
    /// For at most `workers`, writers that need `writer` bytes, sessions that hold `sessions`, and those of a quarantine, if there
    /// is one.
    pub(super) fn shares(
        &self,
        workers: usize,
        writer: usize,
        sessions: usize,
        quarantine: Option<usize>,
    ) -> Result<Shares> {
        let tables: usize = self.transformers.iter().map(|transformer| transformer.held_memory()).sum();
        let held = tables.saturating_add(sessions);
        Shares::new(self.cx.memory().limit(), held, workers, self.scan.min_memory(), writer, quarantine)
    }

    /// How the budget is shared out, with sessions that hold `sessions` bytes.
    fn memory_use(&self, shares: Shares, sessions: usize) -> Vec<MemoryUse> {
        let worker = self.cx.for_worker(shares.worker);
        let of_all = |name: &str, bytes: usize| MemoryUse::new(name, bytes * shares.workers);
        let tables = self.names.iter().zip(&self.transformers);
        let tables = tables.map(|(name, bound)| MemoryUse::new(format!("{TABLE}{name}"), bound.held_memory()));
        let parts = [
            of_all("source", worker.reader_memory()),
            of_all("batches", shares.worker - worker.reader_memory() - worker.writer_memory()),
            of_all("target", worker.writer_memory()),
            of_all("quarantine", shares.quarantine),
            MemoryUse::new("sessions", sessions),
            MemoryUse::new("large rows", shares.lane),
        ];
        parts.into_iter().chain(tables).filter(|part| part.bytes > 0).collect()
    }

    /// As many of `workers` as would find something to do.
    pub(super) fn employable(&self, workers: usize) -> usize {
        workers.min(self.scan.partitions().len()).min(self.scan.max_readers()).max(1)
    }

    /// Everything from the first read to the commits, which take the sessions.
    pub(super) async fn load(self, sessions: &mut Sessions) -> Result<RunReport> {
        let session = sessions.target.as_deref().ok_or_else(gone)?;
        let set_aside = sessions.quarantine.as_deref();
        let held = session.held_memory() + set_aside.map_or(0, LoadSession::held_memory);
        let least_quarantine = set_aside.map(LoadSession::min_memory);
        let possible_workers = self.possible_workers();
        let shares = self.shares(possible_workers, session.min_memory(), held, least_quarantine)?;
        // What the workers and the lane may hold, until the run is over.
        let _reserved = self.cx.memory().try_reserve(shares.of_workers() + shares.lane);
        let cx = self.cx.for_worker(shares.worker);
        let memory_use = self.memory_use(shares, held);
        let stages = Stages::new(self.names.iter().cloned(), shares.workers);
        let settings = &self.pipeline.settings;
        let flight = Flight::new();
        let set_aside_before = match set_aside {
            Some(session) => session.completed(),
            None => &sessions.set_aside_before,
        };
        let set_aside_before = set_aside_before.to_vec();
        let completed = session.completed().to_vec();
        self.tell_start(&cx, &stages, &completed);
        let watch = settings.alert.as_ref().map(|alert| Watch::start(alert, settings.on_alert.as_ref(), &cx, &stages));
        completed.iter().for_each(|receipt| flight.done(receipt.partition));
        let partitions: Vec<_> = self.scan.partitions().iter().map(|partition| partition.id).collect();
        let open: Vec<_> =
            partitions.into_iter().filter(|id| !completed.iter().any(|receipt| receipt.partition == *id)).collect();
        let totals = Totals::new(self.scan.partitions().len() + 1, settings.max_errors, &set_aside_before);
        let origin = self.origin();
        let quarantine = match (set_aside, &self.pipeline.quarantine) {
            (Some(session), Some(loader)) => {
                let max_writers = max_writers(&**loader, session);
                let scan = &*self.scan;
                Some(Quarantine { scan, origin: &origin, session, max_writers, flight: &flight, totals: &totals })
            }
            _ => None,
        };
        let most_writers = max_writers(&*self.pipeline.loader, session);
        let load = PartitionLoad {
            run: &self,
            session,
            flight: &flight,
            quarantine: quarantine.as_ref(),
            origin: &origin,
            rows_read: AtomicU64::new(0),
            largest_batch: AtomicUsize::new(0),
            stages: &stages,
        };
        let start = Tuned { workers: shares.workers, writers: most_writers, batch_size: settings.config.batch_size };
        let crew = Crew::new(open, shares.workers, self.means(shares, start), shares.of_worker(), shares.of_workers());
        let share_out = |workers| self.shares(workers, session.min_memory(), held, least_quarantine);
        let mut tuner = match settings.config.auto_tune {
            true => {
                let workers = share_out(self.employable(self.cx.config().workers()))?.workers;
                let bounds = Bounds { cores: cores(), workers, writers: most_writers };
                Some(Tuner::new(bounds, start, settings.on_adjustment.clone()))
            }
            false => None,
        };
        let mut look = tuner.as_mut().map(|tuner| {
            || {
                let sample = Sample { at: stages.elapsed(), stages: stages.report() };
                // There is memory for what is within the bounds.
                if let Some(tuned) = tuner.look(sample, crew.is_settled())
                    && let Ok(shares) = share_out(tuned.workers)
                {
                    crew.change(shares.workers, self.means(shares, tuned), shares.of_worker());
                    stages.set_workers(shares.workers);
                }
            }
        });
        let look = look.as_mut().map(|look| look as &mut dyn FnMut());
        let load_span = info_span!("load", workers = shares.workers);
        let loaded = for_each(&cx, &flight, &crew, look, async |id, means| {
            let span = info_span!(
                parent: &load_span,
                "partition",
                %id,
                attempts = Empty,
                rows = Empty,
                error = Empty,
                otel.status_code = Empty
            );
            let done = load.partition(id, &means).instrument(span.clone()).await;
            match &done {
                Ok((_, _, report)) => {
                    span.record("rows", report.rows).record("attempts", report.attempts);
                }
                Err(error) => record_error(&span, error),
            }
            done
        })?;
        drop(load_span);
        let (loading, worker_time) = (stages.elapsed(), stages.worker_time());
        let adjustments = tuner.map(Tuner::finish).unwrap_or_default();
        let alerts = watch.map(Watch::finish).unwrap_or_default();
        let largest_batch = load.largest_batch.into_inner();
        let read_before: u64 = completed.iter().filter_map(|receipt| receipt.rows_read).sum();
        let rows_read = load.rows_read.into_inner() + read_before;
        totals.check_all(rows_read)?;
        let resumed = (!completed.is_empty()).then(|| Resumed::of(&completed, false));
        let (mut receipts, mut set_aside_now, mut reports) = (Vec::new(), Vec::new(), Vec::new());
        for (receipt, set_aside, report) in loaded {
            receipts.push(receipt);
            set_aside_now.extend(set_aside);
            reports.push(report);
        }
        receipts.extend(completed);
        receipts.sort_by_key(|receipt| receipt.partition);
        let mut source_checksum: Checksum = receipts.iter().filter_map(|receipt| receipt.checksum).collect();

        let bytes_read = cx.counters().bytes_read.get();
        let mut target_checksum = match self.pipeline.settings.verify {
            Verify::Full => {
                let session = sessions.target.as_deref_mut().ok_or_else(gone)?;
                let workers = possible_workers.min(shares.workers);
                let checked = self.read_back(&cx, session, &receipts, workers, source_checksum);
                Some(checked.instrument(info_span!("verify")).await?)
            }
            Verify::Receipts => None,
        };
        self.require_unchanged().await?;
        self.cx.cancel().check()?;
        let (of_target, sift_cx) = (self.of_target(), self.cx.for_worker(shares.quarantine));
        let cursor_after = self.after.as_ref().map(|after| after.value.clone());
        let cursor_saved = self.cursor.is_some();
        let Self { pipeline, cx: run_cx, scan, started, mut notes, record, .. } = self;
        let (partitions, cursor) = (scan.partitions().len(), scan.cursor().map(str::to_owned));
        // A commit may need what the source holds: the target may be a table that a query of the source reads.
        drop(scan);
        if let (Some(target), true) = (sessions.target.as_deref_mut(), pipeline.quarantine.is_some()) {
            let mut sifted = SiftedOut::new(sessions.quarantine.as_deref(), &sift_cx, &totals, &origin, &of_target);
            target.sift(&sift_cx, &receipts, &mut sifted).instrument(info_span!("sift")).await?;
            failpoint("quarantine-sifted");
            let (refused, receipt) = sifted.finish().await.map_err(of_quarantine)?;
            source_checksum.remove(&refused);
            target_checksum.iter_mut().for_each(|checksum| checksum.remove(&refused));
            let before = set_aside_before.iter().find(|receipt| receipt.partition == of_target.id);
            if let Some(before) = before.filter(|before| before.checksum != Some(refused)) {
                let message = format!(
                    "the target refuses other rows than those {} that the quarantine has of this run",
                    before.rows
                );
                return Err(Error::new(ErrorKind::SourceChanged, message).hint("run again to begin anew"));
            }
            set_aside_now.extend(receipt);
            totals.check_all(rows_read)?;
        }
        // Without rows there is nothing to publish, and a quarantine that did not exist does not come into being.
        if let Some(session) = sessions.quarantine.take_if(|_| totals.records() > 0) {
            let mut receipts: Vec<_> = set_aside_now.into_iter().chain(set_aside_before).collect();
            receipts.sort_by_key(|receipt| receipt.partition);
            failpoint("quarantine-staged");
            // Before the target: if nothing comes after it, records are in the quarantine too often, and never nowhere.
            publish_quarantine(session, receipts).instrument(info_span!("publish quarantine")).await?;
            failpoint("quarantine-published");
        }
        if pipeline.settings.mode == LoadMode::Replace && source_checksum.rows() == 0 {
            refuse_only_rejected(&totals, rows_read)?;
        }
        sessions.is_staged = true;
        failpoint("run-staged");
        let commit = sessions.target.take().ok_or_else(gone)?.commit(receipts);
        let published = commit.instrument(info_span!("commit")).await?;
        failpoint("run-published");
        if let Some(empty) = sessions.quarantine.take() {
            // Only now, for what tells that nothing was rejected is needed by a run that goes on.
            notes.extend(empty.abort().await.map_err(of_quarantine).err().map(|error| error.to_string()));
        }
        let load = LoadResult::published(&published, source_checksum);
        if load.records_loaded != source_checksum.rows() {
            return Err(Error::new(
                ErrorKind::VerifyFailed,
                format!("the target says that it published {} rows of {}", load.records_loaded, source_checksum.rows()),
            ));
        }
        let has_mark = record.is_some();
        // Whoever dropped the future does not know what came of it.
        if has_mark && !pipeline.settings.keep_mark && !run_cx.cancel().is_cancelled() {
            notes.extend(acknowledge(pipeline, &run_cx).await);
        }
        Ok(RunReport {
            resumed,
            has_mark,
            run: run_cx.run_id(),
            rows_read,
            rows_rejected: totals.records(),
            first_rejected: totals.first(),
            rows_dropped: rows_read.saturating_sub(load.records_loaded + totals.records()),
            bytes_read,
            verify: pipeline.settings.verify,
            source_checksum,
            target_checksum,
            loaded: reports,
            partitions,
            workers: stages.most_workers(),
            possible_workers,
            memory: run_cx.memory().limit(),
            memory_use,
            batches: BatchSizes { largest: largest_batch, most: cx.batch_memory() },
            stages: stages.report(),
            alerts,
            adjustments,
            loading,
            worker_time,
            retries: run_cx.counters().retries.get(),
            elapsed: started.elapsed(),
            cursor,
            cursor_after,
            cursor_saved,
            notes,
            load,
        })
    }

    /// Tells whoever wants to know that the work begins.
    fn tell_start(&self, cx: &RunContext, stages: &Stages, completed: &[Receipt]) {
        let Some(on_start) = &self.pipeline.settings.on_start else { return };
        on_start(&Started {
            cx: cx.clone(),
            instead_of: self.instead_of,
            partitions: self.scan.partitions().to_vec(),
            completed: completed.iter().map(|receipt| receipt.partition).collect(),
            is_kept: self.record.is_some() && self.keeps_pieces(),
            notes: self.notes.clone(),
            stages: stages.clone(),
        });
    }

    /// Refuses to publish rows of a source that was not the same all the time.
    async fn require_unchanged(&self) -> Result<()> {
        let changed = || {
            let message = "the source changed while it was read, so nothing was published";
            Error::new(ErrorKind::SourceChanged, message).hint("run again when nobody writes to it")
        };
        match self.scan.fingerprint().await {
            Ok(now) if now == self.fingerprint => Ok(()),
            Ok(_) => Err(changed()),
            Err(error) if error.kind() == ErrorKind::SourceChanged => Err(changed().caused_by(error)),
            Err(error) => Err(error),
        }
    }

    /// The report of a run that had been published, and died before it could say so.
    pub(super) fn was_published(&self, left: &Interrupted, rejected: &[Receipt]) -> RunReport {
        let rows_rejected = rejected.iter().map(rejected_records).sum();
        let receipts = &left.receipts;
        let mut source_checksum: Checksum = receipts.iter().filter_map(|receipt| receipt.checksum).collect();
        let sifted = rejected.iter().find(|receipt| receipt.partition == self.of_target().id);
        sifted.and_then(|receipt| receipt.checksum).iter().for_each(|refused| source_checksum.remove(refused));
        let bytes = receipts.iter().map(|receipt| receipt.bytes).sum();
        let load = LoadResult::published(&Published::new(source_checksum.rows(), bytes), source_checksum);
        let rows_read = receipts.iter().filter_map(|receipt| receipt.rows_read).sum();
        RunReport {
            run: left.run,
            resumed: Some(Resumed::of(receipts, true)),
            has_mark: true,
            rows_read,
            rows_rejected,
            first_rejected: None,
            rows_dropped: u64::saturating_sub(rows_read, load.records_loaded + rows_rejected),
            bytes_read: 0,
            verify: Verify::Receipts,
            source_checksum,
            target_checksum: None,
            loaded: Vec::new(),
            partitions: self.scan.partitions().len(),
            workers: 0,
            possible_workers: self.possible_workers(),
            memory: self.cx.memory().limit(),
            memory_use: Vec::new(),
            batches: BatchSizes::default(),
            stages: Vec::new(),
            alerts: Vec::new(),
            adjustments: Vec::new(),
            loading: Duration::ZERO,
            worker_time: Duration::ZERO,
            retries: 0,
            elapsed: self.started.elapsed(),
            cursor: self.scan.cursor().map(str::to_owned),
            cursor_after: self.after.as_ref().map(|after| after.value.clone()),
            cursor_saved: self.cursor.is_some(),
            notes: self.notes.clone(),
            load,
        }
    }

    fn means(&self, shares: Shares, tuned: Tuned) -> Means {
        let mut config = self.pipeline.settings.config.clone();
        config.batch_size = tuned.batch_size;
        let cx = self.cx.with_config(Arc::new(config));
        Means {
            quarantine: cx.for_worker(shares.quarantine),
            cx: cx.for_worker(shares.worker),
            shares,
            max_writers: tuned.writers,
        }
    }

    async fn read_back(
        &self,
        cx: &RunContext,
        session: &mut dyn LoadSession,
        receipts: &[Receipt],
        workers: usize,
        source: Checksum,
    ) -> Result<Checksum> {
        let scan = session
            .read_back(cx, receipts)
            .await?
            .ok_or_else(|| not_read_back("the target cannot show what is staged"))?;
        same_meaning(&self.schema, &scan.schema())?;
        let partitions: Vec<_> = scan.partitions().iter().map(|partition| partition.id).collect();
        let crew = Crew::new(partitions, workers.min(scan.max_readers()).max(1), (), 0, 0);
        let checksums = for_each(cx, &Flight::new(), &crew, None, async |id, ()| {
            let mut stream = scan.read(cx, &scan.partitions()[id.index()])?;
            let mut checksum = Checksum::default();
            while let Some(batch) = next_batch(&mut stream).await {
                checksum.merge(&Checksum::of_batch(&batch?)?);
            }
            Ok(checksum)
        })?;
        let target: Checksum = checksums.into_iter().collect();
        if target != source {
            return Err(Error::new(
                ErrorKind::VerifyFailed,
                format!(
                    "what was staged is not what was read: {} rows with checksum {target} instead of {} with {source}",
                    target.rows(),
                    source.rows()
                ),
            )
            .hint("nothing was published; please report this"));
        }
        Ok(target)
    }
}

/// Nobody knows whether no row would have been left, if none was rejected.
fn refuse_only_rejected(totals: &Totals, rows_read: u64) -> Result<()> {
    let Some(first) = totals.first() else { return Ok(()) };
    let all = if rows_read == totals.records() { "all" } else { "no row is left, and" };
    let records = match totals.records() {
        1 => "1 record was".to_owned(),
        records => format!("{records} records were"),
    };
    let message = format!("{all} {records} rejected and set aside, so the target stays as it is");
    Err(Error::new(ErrorKind::InvalidData, message).hint(format!("the first: {first}")))
}

fn max_writers(loader: &dyn Loader, session: &dyn LoadSession) -> usize {
    loader.capabilities().max_writers.min(session.max_writers()).max(1)
}

async fn publish_quarantine(session: Box<dyn LoadSession>, receipts: Vec<Receipt>) -> Result<()> {
    let rows: u64 = receipts.iter().map(|receipt| receipt.rows).sum();
    let published = session.commit(receipts).await.map_err(of_quarantine)?.rows;
    if published != rows {
        let message = format!("the quarantine says that it published {published} rows of {rows}");
        return Err(Error::new(ErrorKind::VerifyFailed, message));
    }
    Ok(())
}

/// Refuses staged columns whose values would mean something else although they have the same checksum: decimals are
/// hashed by their digits, and instants whether or not they have a zone.
fn same_meaning(written: &Schema, staged: &Schema) -> Result<()> {
    let wrong =
        |message| Error::new(ErrorKind::VerifyFailed, message).hint("nothing was published; please report this");
    if written.fields().len() != staged.fields().len() {
        return Err(wrong(format!(
            "{} columns are staged instead of {}",
            staged.fields().len(),
            written.fields().len()
        )));
    }
    for (written, staged) in written.fields().iter().zip(staged.fields()) {
        let meaning = |data_type: &DataType| match data_type {
            DataType::Dictionary(_, values) => meaning_of(values),
            other => meaning_of(other),
        };
        if meaning(written.data_type()) != meaning(staged.data_type()) {
            let (from, to) = (type_name(written.data_type()), type_name(staged.data_type()));
            return Err(wrong(format!("{from} is staged as {to}")).at_column(written.name()));
        }
    }
    Ok(())
}

/// What the hash of a value does not tell: whether it has a zone, its scale, and if it is a date.
fn meaning_of(data_type: &DataType) -> (bool, i8, bool) {
    match data_type {
        DataType::Timestamp(_, zone) => (zone.is_some(), 0, false),
        DataType::Decimal32(_, scale)
        | DataType::Decimal64(_, scale)
        | DataType::Decimal128(_, scale)
        | DataType::Decimal256(_, scale) => (false, *scale, false),
        DataType::Date32 => (false, 0, true),
        _ => (false, 0, false),
    }
}

#[cfg(test)]
mod tests {
    use arrow_schema::{Field, TimeUnit};

    use super::*;

    #[test]
    fn columns_that_mean_something_else_are_told_apart() {
        let schema = |data_type: DataType| Schema::new(vec![Field::new("x", data_type, true)]);
        let instant = |unit, zone: Option<&str>| DataType::Timestamp(unit, zone.map(Into::into));
        let (micro, milli) = (TimeUnit::Microsecond, TimeUnit::Millisecond);
        let text = DataType::Dictionary(Box::new(DataType::Int8), Box::new(DataType::Utf8));
        for (written, staged, same) in [
            (DataType::Int16, DataType::Int64, true),
            (text, DataType::Utf8View, true),
            (instant(milli, None), instant(micro, None), true),
            (instant(micro, Some("UTC")), instant(micro, None), false),
            (DataType::Decimal128(10, 2), DataType::Decimal256(40, 2), true),
            (DataType::Decimal128(10, 2), DataType::Decimal128(10, 0), false),
            (DataType::Decimal128(10, 2), DataType::Int64, false),
            (DataType::Date32, DataType::Int32, false),
        ] {
            let result = same_meaning(&schema(written.clone()), &schema(staged.clone()));
            assert_eq!(result.is_ok(), same, "{written} as {staged}");
        }
    }
}
