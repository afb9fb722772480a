use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arrow_array::RecordBatch;
use arrow_schema::{DataType, Schema, SchemaRef};
use etlrs_core::{
    BatchStream, BoundTransformer, CancelToken, Checksum, Effect, Error, ErrorKind, Fingerprint, LoadMode, LoadPlan,
    LoadResult, LoadSession, Loader, Partition, PartitionId, PartitionWriter, Receipt, Rejected, Rejects, Result,
    RunContext, Scan, Transformer, batch_bytes, batches_from_iter, format_bytes, map_stream, next_batch, type_name,
};

use crate::alert::Watch;
use crate::memory::{Shares, fits, require_lane};
use crate::partitions::{Flight, for_each};
use crate::pipeline::{Pipeline, Started, Verify};
use crate::pushdown;
use crate::quarantine::{Gate, Quarantine, Totals};
use crate::report::{PartitionReport, Plan, RunReport};
use crate::stages::{Clock, SOURCE, Stages};
use crate::transform::Select;

/// A pipeline whose source has been looked at.
pub(crate) struct Run<'a> {
    pipeline: &'a Pipeline,
    cx: RunContext,
    scan: Arc<dyn Scan>,
    fingerprint: Fingerprint,
    transformers: Vec<Arc<dyn BoundTransformer>>,
    /// What they are called.
    names: Vec<String>,
    schema: SchemaRef,
    keys: Vec<String>,
    started: Instant,
}

impl<'a> Run<'a> {
    pub(crate) async fn plan(pipeline: &'a Pipeline, cancel: CancelToken) -> Result<Plan> {
        let run = Run::new(pipeline, cancel, true).await?;
        let plan = run.load_plan();
        let target = unless_cancelled(&run.cx, pipeline.loader.check(&run.cx, &plan)).await?;
        let quarantine = match &pipeline.quarantine {
            Some(loader) => {
                let plan = run.quarantine_plan();
                Some(unless_cancelled(&run.cx, loader.check(&run.cx, &plan)).await.map_err(of_quarantine)?)
            }
            None => None,
        };
        let shares = run.shares(0, 0, quarantine.as_ref().map(|_| 0))?;
        Ok(Plan {
            source_schema: run.scan.schema(),
            schema: run.schema.clone(),
            transformers: run.names.clone(),
            partitions: run.scan.partitions().to_vec(),
            workers: shares.workers,
            memory: run.cx.memory().limit(),
            mode: pipeline.settings.mode,
            atomic: pipeline.loader.capabilities().atomic,
            target,
            quarantine,
            notes: run.scan.notes().to_vec(),
        })
    }

    pub(crate) async fn execute(pipeline: &'a Pipeline, cancel: CancelToken) -> Result<RunReport> {
        match Self::execute_once(pipeline, cancel.clone(), true).await {
            // Nothing was published, so the run may begin again.
            Err(error) if error.kind() == ErrorKind::SplitRefuted => Self::execute_once(pipeline, cancel, false).await,
            done => done,
        }
    }

    async fn execute_once(pipeline: &'a Pipeline, cancel: CancelToken, guess: bool) -> Result<RunReport> {
        let run = Run::new(pipeline, cancel, guess).await?;
        let mut sessions = Sessions::default();
        let report = async {
            let begun = pipeline.loader.begin(&run.cx, run.load_plan());
            sessions.target = Some(unless_cancelled(&run.cx, begun).await?);
            if let Some(loader) = &pipeline.quarantine {
                let begun = loader.begin(&run.cx, run.quarantine_plan());
                sessions.quarantine = Some(unless_cancelled(&run.cx, begun).await.map_err(of_quarantine)?);
            }
            run.load(&mut sessions).await
        };
        let report = report.await;
        if report.is_err() {
            sessions.abort().await;
        }
        report
    }

    async fn new(pipeline: &'a Pipeline, cancel: CancelToken, guess: bool) -> Result<Self> {
        let started = Instant::now();
        let settings = &pipeline.settings;
        let cx = RunContext::with_cancel(settings.config.clone(), cancel);
        cx.cancel().check()?;
        let tests = pushdown::source_tests(&pipeline.transformers);
        let target = match settings.mode {
            LoadMode::Create => None,
            _ => unless_cancelled(&cx, pipeline.loader.target_schema(&cx)).await?,
        };
        let target = target.and_then(|target| pushdown::source_columns(&pipeline.transformers, &target));
        let request = settings.request.clone().guess(guess).filter(tests).target(target);
        let scan = match &pipeline.quarantine {
            Some(_) => {
                let cx = cx.with_rejects(Rejects::default());
                unless_cancelled(&cx, pipeline.extractor.scan(&cx, &request)).await?
            }
            None => unless_cancelled(&cx, pipeline.extractor.scan(&cx, &request)).await?,
        };
        let fingerprint = scan.fingerprint().await?;

        let mut schema = scan.schema();
        let mut primary_key = scan.primary_key().to_vec();
        let (mut transformers, mut names) = (Vec::new(), Vec::new());
        let mut bind = |transformer: &dyn Transformer| -> Result<()> {
            let bound = transformer.bind(&schema)?;
            schema = bound.schema();
            primary_key = key_after(&transformer.effect(), std::mem::take(&mut primary_key), &schema);
            transformers.push(bound);
            names.push(transformer.name().to_owned());
            Ok(())
        };
        if let (Some(columns), false) = (&settings.request.columns, scan.pushdown().columns) {
            bind(&Select::new(columns.clone()))?;
        }
        for transformer in &pipeline.transformers {
            bind(transformer.as_ref())?;
        }
        let keys = if settings.mode == LoadMode::Merge { settings.keys.clone() } else { primary_key };
        for key in &keys {
            etlrs_core::column_index(&schema, key)?;
        }
        Ok(Self { pipeline, cx, scan, fingerprint, transformers, names, schema, keys, started })
    }

    fn load_plan(&self) -> LoadPlan {
        let settings = &self.pipeline.settings;
        let mut plan = LoadPlan::new(self.schema.clone(), settings.mode, self.scan.partitions().to_vec());
        plan.keys = self.keys.clone();
        plan
    }

    fn quarantine_plan(&self) -> LoadPlan {
        LoadPlan::new(Rejected::schema(), LoadMode::Append, self.scan.partitions().to_vec())
    }

    /// For writers that need `writer` bytes, sessions that hold `sessions`, and those of a quarantine, if there is one.
    fn shares(&self, writer: usize, sessions: usize, quarantine: Option<usize>) -> Result<Shares> {
        let tables: usize = self.transformers.iter().map(|transformer| transformer.held_memory()).sum();
        let held = tables.saturating_add(sessions);
        Shares::new(self.cx.memory().limit(), held, self.possible_workers(), self.scan.min_memory(), writer, quarantine)
    }

    /// Workers that would find something to do.
    fn possible_workers(&self) -> usize {
        self.cx.config().workers().min(self.scan.partitions().len()).min(self.scan.max_readers().max(1)).max(1)
    }

    /// Everything from the first read to the commits, which take the sessions.
    async fn load(self, sessions: &mut Sessions) -> Result<RunReport> {
        let session = sessions.target.as_deref().ok_or_else(gone)?;
        let set_aside = sessions.quarantine.as_deref();
        let held = session.held_memory() + set_aside.map_or(0, LoadSession::held_memory);
        let shares = self.shares(session.min_memory(), held, set_aside.map(LoadSession::min_memory))?;
        // What the workers and the lane may hold, until the run is over.
        let _reserved =
            self.cx.memory().try_reserve(shares.workers * (shares.worker + shares.quarantine) + shares.lane);
        let cx = self.cx.for_worker(shares.worker);
        let possible_workers = self.possible_workers();
        let stages = Stages::new(self.names.iter().cloned(), shares.workers);
        if let Some(on_start) = &self.pipeline.settings.on_start {
            let (partitions, notes) = (self.scan.partitions().to_vec(), self.scan.notes().to_vec());
            on_start(&Started { cx: cx.clone(), partitions, notes, stages: stages.clone() });
        }

        let settings = &self.pipeline.settings;
        let watch = settings.alert.as_ref().map(|alert| Watch::start(alert, settings.on_alert.as_ref(), &cx, &stages));
        let flight = Flight::new();
        // What was read for the target and not for the quarantine has to be read again.
        let both = |receipt: &&Receipt| {
            let is_set_aside = |set_aside: &dyn LoadSession| {
                set_aside.completed().iter().any(|other| other.partition == receipt.partition)
            };
            set_aside.is_none_or(is_set_aside)
        };
        let completed: Vec<_> = session.completed().iter().filter(both).cloned().collect();
        completed.iter().for_each(|receipt| flight.done(receipt.partition));
        let partitions: Vec<_> = self.scan.partitions().iter().map(|partition| partition.id).collect();
        let open: Vec<_> =
            partitions.into_iter().filter(|id| !completed.iter().any(|receipt| receipt.partition == *id)).collect();
        let totals = Totals::new(self.scan.partitions().len(), self.pipeline.settings.max_errors);
        let quarantine_cx = self.cx.for_worker(shares.quarantine);
        let quarantine = match (set_aside, &self.pipeline.quarantine) {
            (Some(session), Some(loader)) => {
                let (cx, max_writers) = (&quarantine_cx, max_writers(&**loader, session));
                Some(Quarantine { session, cx, max_writers, flight: &flight, totals: &totals })
            }
            _ => None,
        };
        let load = PartitionLoad {
            run: &self,
            cx: &cx,
            session,
            flight: &flight,
            shares,
            max_writers: max_writers(&*self.pipeline.loader, session),
            quarantine: quarantine.as_ref(),
            rows_read: AtomicU64::new(0),
            stages: &stages,
        };
        let loaded = for_each(&cx, &flight, shares.workers, &open, |id| load.partition(id))?;
        let loading = stages.elapsed();
        let alerts = watch.map(Watch::finish).unwrap_or_default();
        totals.check_all()?;
        let rows_read = load.rows_read.into_inner() + totals.of_source();
        let (mut receipts, mut of_quarantine, mut reports) = (Vec::new(), Vec::new(), Vec::new());
        for (receipt, set_aside, report) in loaded {
            receipts.push(receipt);
            of_quarantine.push(set_aside);
            reports.push(report);
        }
        receipts.extend(completed);
        receipts.sort_by_key(|receipt| receipt.partition);
        let source_checksum: Checksum = receipts.iter().filter_map(|receipt| receipt.checksum).collect();

        let bytes_read = cx.counters().bytes_read.get();
        let target_checksum = match self.pipeline.settings.verify {
            Verify::Full => {
                let session = sessions.target.as_deref_mut().ok_or_else(gone)?;
                Some(self.read_back(&cx, session, &receipts, shares.workers, source_checksum).await?)
            }
            Verify::Receipts => None,
        };
        if self.scan.fingerprint().await? != self.fingerprint {
            return Err(Error::new(
                ErrorKind::SourceChanged,
                "the source changed while it was read, so nothing was published",
            )
            .hint("run again when nobody writes to it"));
        }
        self.cx.cancel().check()?;
        let Self { pipeline, cx: run_cx, scan, started, .. } = self;
        let (partitions, cursor, notes) =
            (scan.partitions().len(), scan.cursor().map(str::to_owned), scan.notes().to_vec());
        // A commit may need what the source holds: the target may be a table that a query of the source reads.
        drop(scan);
        if let Some(session) = sessions.quarantine.take() {
            of_quarantine.extend(session.completed().iter().cloned().map(Some));
            let mut receipts: Vec<_> = of_quarantine.into_iter().flatten().collect();
            receipts.sort_by_key(|receipt| receipt.partition);
            // Before the target: if nothing comes after it, records are in the quarantine too often, and never nowhere.
            publish_quarantine(session, receipts).await?;
        }
        if let (LoadMode::Replace, Some(first)) = (pipeline.settings.mode, totals.first())
            && source_checksum.rows() == 0
        {
            // Nobody knows whether those would have been left.
            let all = if rows_read == totals.records() { "all" } else { "no row is left, and" };
            let records = match totals.records() {
                1 => "1 record was".to_owned(),
                records => format!("{records} records were"),
            };
            let message = format!("{all} {records} rejected and set aside, so the target stays as it is");
            return Err(Error::new(ErrorKind::InvalidData, message).hint(format!("the first: {first}")));
        }
        let published = sessions.target.take().ok_or_else(gone)?.commit(receipts).await?;
        let load = LoadResult::published(&published, source_checksum);
        if load.records_loaded != source_checksum.rows() {
            return Err(Error::new(
                ErrorKind::VerifyFailed,
                format!("the target says that it published {} rows of {}", load.records_loaded, source_checksum.rows()),
            ));
        }
        Ok(RunReport {
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
            workers: shares.workers,
            possible_workers,
            memory: run_cx.memory().limit(),
            stages: stages.report(),
            alerts,
            loading,
            retries: run_cx.counters().retries.get(),
            elapsed: started.elapsed(),
            cursor,
            notes,
            load,
        })
    }

    async fn read_back(
        &self,
        cx: &RunContext,
        session: &mut dyn LoadSession,
        receipts: &[Receipt],
        workers: usize,
        source: Checksum,
    ) -> Result<Checksum> {
        let scan = session.read_back(cx, receipts).await?.ok_or_else(|| {
            Error::new(ErrorKind::Unsupported, "this target cannot be read back before it is published")
                .hint("verify by receipts instead")
        })?;
        same_meaning(&self.schema, &scan.schema())?;
        let partitions: Vec<_> = scan.partitions().iter().map(|partition| partition.id).collect();
        let workers = workers.min(scan.max_readers().max(1));
        let checksums = for_each(cx, &Flight::new(), workers, &partitions, async |id| {
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

/// What a run holds until it publishes it.
#[derive(Default)]
struct Sessions {
    target: Option<Box<dyn LoadSession>>,
    quarantine: Option<Box<dyn LoadSession>>,
}

impl Sessions {
    /// The first error is the one to tell; what could not be removed is removed by the next run.
    async fn abort(self) {
        for session in [self.quarantine, self.target].into_iter().flatten() {
            let _ = session.abort().await;
        }
    }
}

/// The key that rows still have behind a transformer, under the names that its columns then have; none if that is not certain.
fn key_after(effect: &Effect, key: Vec<String>, schema: &Schema) -> Vec<String> {
    let key: Vec<_> = match effect {
        Effect::Keeps { .. } | Effect::Selects(_) | Effect::Drops(_) => key,
        Effect::Renames(names) => {
            let renamed = |column: String| {
                names.iter().find(|(before, _)| *before == column).map_or(column, |(_, after)| after.clone())
            };
            key.into_iter().map(renamed).collect()
        }
        _ => Vec::new(),
    };
    let is_whole = |column: &String| schema.field_with_name(column).is_ok_and(|field| !field.is_nullable());
    if key.iter().all(is_whole) { key } else { Vec::new() }
}

/// What `future` gives, unless the run is cancelled and it then takes longer than a moment: it may wait for a lock of others.
async fn unless_cancelled<T>(cx: &RunContext, future: impl Future<Output = Result<T>>) -> Result<T> {
    /// In which it may end by itself, and leave nothing behind.
    const MOMENT: Duration = Duration::from_secs(3);
    let cancelled = async {
        cx.cancel().cancelled().await;
        tokio::time::sleep(MOMENT).await;
    };
    tokio::select! {
        biased;
        done = future => done,
        () = cancelled => Err(Error::cancelled()),
    }
}

fn gone() -> Error {
    Error::new(ErrorKind::Internal, "the load session is gone")
}

fn max_writers(loader: &dyn Loader, session: &dyn LoadSession) -> usize {
    loader.capabilities().max_writers.min(session.max_writers()).max(1)
}

fn of_quarantine(error: Error) -> Error {
    error.within("the quarantine")
}

/// Without rows there is nothing to publish, and a quarantine that did not exist does not come into being.
async fn publish_quarantine(session: Box<dyn LoadSession>, receipts: Vec<Receipt>) -> Result<()> {
    let rows: u64 = receipts.iter().map(|receipt| receipt.rows).sum();
    if rows == 0 {
        return session.abort().await.map_err(of_quarantine);
    }
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

/// What the workers share while they load partitions.
struct PartitionLoad<'a> {
    run: &'a Run<'a>,
    cx: &'a RunContext,
    session: &'a dyn LoadSession,
    flight: &'a Flight,
    shares: Shares,
    max_writers: usize,
    quarantine: Option<&'a Quarantine<'a>>,
    rows_read: AtomicU64,
    stages: &'a Stages,
}

impl PartitionLoad<'_> {
    /// Loads one partition; repeats it while its errors are transient. The second receipt is that of the
    /// quarantine.
    async fn partition(&self, id: PartitionId) -> Result<(Receipt, Option<Receipt>, PartitionReport)> {
        let began = self.stages.elapsed();
        let partition = &self.run.scan.partitions()[id.index()];
        let most = self.cx.config().max_attempts;
        let mut attempt = 1;
        let mut before = None;
        loop {
            match self.attempt(partition, attempt).await {
                Ok((receipt, rows_read, set_aside)) => {
                    self.rows_read.fetch_add(rows_read, Ordering::Relaxed);
                    self.cx.counters().partitions_done.add(1);
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
                    self.cx.counters().retries.add(1);
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

    async fn attempt(&self, partition: &Partition, attempt: u32) -> Result<(Receipt, u64, Option<Receipt>)> {
        let cx = self.cx.for_partition(partition);
        let Some(quarantine) = self.quarantine else {
            let (receipt, rows_read) = self.rows(partition, attempt, &cx, None).await?;
            return Ok((receipt, rows_read, None));
        };
        let (gate, drain) = quarantine.attempt(partition, attempt);
        let cx = cx.with_rejects(gate.rejects.clone());
        let rows = async {
            let done = self.rows(partition, attempt, &cx, Some(&gate)).await;
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
        let mut stream = self.counted(source, rows_read.clone());
        if !cx.config().enable_streaming {
            stream = self.read_whole(stream).await?;
        }
        for (index, transformer) in self.run.transformers.iter().enumerate() {
            stream = clock.stream(Stages::transform(index), transformer.apply(cx, stream));
        }
        let (waiting, waiting_bytes) = (VecDeque::new(), 0);
        let mut sink =
            Sink { load: self, partition, attempt, writer: None, waiting, waiting_bytes, clock: clock.clone() };
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
        let mut receipt = sink.finish().await?;
        if receipt.rows != checksum.rows() || receipt.checksum.is_some_and(|staged| staged != checksum) {
            return Err(Error::new(
                ErrorKind::VerifyFailed,
                format!("the target staged {} rows of the {} it was given", receipt.rows, checksum.rows()),
            ));
        }
        receipt.checksum = Some(checksum);
        Ok((receipt, rows_read.load(Ordering::Relaxed)))
    }

    /// All batches of a partition, read before the first goes on.
    async fn read_whole(&self, mut stream: BatchStream) -> Result<BatchStream> {
        // What the writer would use is free until there is one.
        let most = self.cx.writer_memory();
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

    fn counted(&self, stream: BatchStream, rows: Arc<AtomicU64>) -> BatchStream {
        let cx = self.cx.clone();
        map_stream(stream, move |batch| {
            rows.fetch_add(batch.num_rows() as u64, Ordering::Relaxed);
            cx.counters().rows_read.add(batch.num_rows() as u64);
            Ok(batch)
        })
    }
}

/// The target end of one attempt: batches wait here until the partition may have a writer.
struct Sink<'a> {
    load: &'a PartitionLoad<'a>,
    partition: &'a Partition,
    attempt: u32,
    writer: Option<Box<dyn PartitionWriter>>,
    waiting: VecDeque<RecordBatch>,
    waiting_bytes: usize,
    clock: Clock,
}

impl Sink<'_> {
    async fn write(&mut self, batch: RecordBatch) -> Result<()> {
        let PartitionLoad { cx, flight, shares, max_writers, .. } = *self.load;
        let id = self.partition.id;
        let bytes = batch_bytes(&batch);
        if !fits(cx, bytes) {
            self.clock.drive(self.load.stages.turn(), flight.wait_within(id, 1)).await;
            require_lane(cx, shares, batch.num_rows(), bytes)?;
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

    async fn finish(mut self) -> Result<Receipt> {
        let turn = self.load.flight.wait_within(self.partition.id, self.load.max_writers);
        self.clock.drive(self.load.stages.turn(), turn).await;
        self.open().await?;
        match self.writer {
            Some(writer) => self.clock.drive(self.load.stages.target(), writer.finish()).await,
            None => Err(Error::new(ErrorKind::Internal, "a partition has no writer")),
        }
    }

    /// Sees to it that there is a writer, and writes what waited for it. The partition is within the window.
    async fn open(&mut self) -> Result<()> {
        if self.writer.is_some() {
            return Ok(());
        }
        let PartitionLoad { session, cx, stages, .. } = *self.load;
        let opened = session.writer(cx, self.partition, self.attempt);
        self.writer = Some(self.clock.drive(stages.target(), opened).await?);
        while let Some(batch) = self.waiting.pop_front() {
            self.write_now(batch).await?;
        }
        self.waiting_bytes = 0;
        Ok(())
    }

    async fn write_now(&mut self, batch: RecordBatch) -> Result<()> {
        let PartitionLoad { cx, stages, .. } = *self.load;
        let rows = batch.num_rows();
        let no_writer = || Error::new(ErrorKind::Internal, "a partition has no writer");
        let writer = self.writer.as_mut().ok_or_else(no_writer)?;
        self.clock.drive(stages.target(), writer.write(batch)).await?;
        stages.count(stages.target(), rows);
        cx.counters().rows_written.add(rows as u64);
        Ok(())
    }
}

/// 100 ms, doubled with each attempt up to 10 s, less up to half of it so that many do not come back at once.
fn back_off(attempt: u32) -> Duration {
    let full = 100u64.saturating_mul(1 << (attempt - 1).min(10)).min(10_000);
    let random = std::hash::BuildHasher::hash_one(&std::collections::hash_map::RandomState::new(), attempt);
    Duration::from_millis(full - random % (full / 2))
}

#[cfg(test)]
mod tests {
    use arrow_schema::{Field, TimeUnit};

    use super::*;

    #[test]
    fn a_key_is_followed_as_far_as_it_is_certain() {
        let key = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let schema = |names: &[&str]| {
            Schema::new(names.iter().map(|name| Field::new(*name, DataType::Int64, false)).collect::<Vec<_>>())
        };
        let keeps = Effect::Keeps { tests: Vec::new(), by_type: Vec::new(), reads: Vec::new(), may_fail: true };
        let renames = |names: &[(&str, &str)]| {
            Effect::Renames(names.iter().map(|(from, to)| ((*from).to_owned(), (*to).to_owned())).collect())
        };
        let after = |effect: &Effect, left: &[&str]| key_after(effect, key(&["a", "b"]), &schema(left));
        assert_eq!(after(&keeps, &["a", "b", "c"]), ["a", "b"]);
        assert_eq!(after(&renames(&[("a", "b"), ("b", "a")]), &["a", "b"]), ["b", "a"]);
        assert_eq!(after(&renames(&[("a", "x")]), &["x", "b"]), ["x", "b"]);
        assert!(after(&renames(&[]), &["a", "c"]).is_empty());
        assert!(after(&Effect::Unknown, &["a", "b"]).is_empty());
    }

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
