use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize};
use std::time::{Duration, Instant};

use arrow_schema::{DataType, Schema, SchemaRef};
use etlrs_core::{
    After, BoundTransformer, CancelToken, Checksum, Effect, Error, ErrorKind, Fingerprint, Interrupted, LoadMode,
    LoadPlan, LoadPreview, LoadResult, LoadSession, Loader, Partition, PerformanceConfig, Published, Receipt, Rejected,
    Rejects, Result, RunContext, RunId, SavedCursor, Scan, Transformer, failpoint, next_batch, not_read_back,
    type_name,
};

use tracing::field::Empty;
use tracing::{Instrument, Span, info_span};

use crate::alert::Watch;
use crate::load::{Means, PartitionLoad};
use crate::memory::Shares;
use crate::memory_use::{BatchSizes, MemoryUse, TABLE};
use crate::partitions::{Crew, Flight, for_each};
use crate::pipeline::{Pipeline, Settings, Started, Verify, forget_once};
use crate::pushdown;
use crate::quarantine::{Origin, Quarantine, SiftedOut, Totals, of_quarantine, rejected_records};
use crate::report::{Plan, RunReport};
use crate::resume::{Left, Record, Resume, Resumed, acknowledge, may_go_on, refused};
use crate::stages::Stages;
use crate::transform::{AddMetadata, Select};
use crate::tune::{Bounds, Sample, Tuned, Tuner};

/// A pipeline whose source has been looked at.
pub(crate) struct Run<'a> {
    pipeline: &'a Pipeline,
    cx: RunContext,
    pub(crate) scan: Arc<dyn Scan>,
    fingerprint: Fingerprint,
    pub(crate) transformers: Vec<Arc<dyn BoundTransformer>>,
    /// What they are called.
    pub(crate) names: Vec<String>,
    pub(crate) schema: SchemaRef,
    keys: Vec<String>,
    /// Where the source is gone on with.
    after: Option<After>,
    /// What is saved with the rows.
    cursor: Option<SavedCursor>,
    started: Instant,
    instead_of: Option<RunId>,
    /// What is written down of it at the target, if that can be gone on with.
    record: Option<Arc<str>>,
    /// The run was stopped before, and left something at its target.
    is_resumed: bool,
    /// Partitions that it had staged then.
    staged_before: usize,
    notes: Vec<String>,
}

impl<'a> Run<'a> {
    pub(crate) async fn plan(pipeline: &'a Pipeline, cancel: CancelToken) -> Result<Plan> {
        let cx = RunContext::with_cancel(pipeline.settings.config.clone(), cancel.clone());
        let left = unless_cancelled(&cx, Left::find(pipeline, &cx)).await?;
        let (mut run, published) = Run::begin(pipeline, cancel, true, left).await?;
        if let Some(SavedCursor { value, .. }) = &run.cursor {
            let from = run.after.as_ref().map_or_else(String::new, |after| format!("from {} ", after.value));
            run.notes.push(format!("it would be read {from}up to {value}, which the target would keep"));
        }
        let target = match published {
            Some(left) => {
                run.notes.push(format!("the run {} has published the rows, so nothing would be done", left.found.run));
                LoadPreview::default()
            }
            None => {
                if run.staged_before > 0 {
                    let (staged, run_id) = (run.staged_before, run.cx.run_id());
                    run.notes.push(format!("it would go on with the run {run_id}, which has staged {staged} pieces"));
                }
                unless_cancelled(&run.cx, pipeline.loader.check(&run.cx, &run.load_plan())).await?
            }
        };
        let quarantine = match &pipeline.quarantine {
            Some(loader) => {
                let plan = run.quarantine_plan();
                Some(unless_cancelled(&run.cx, loader.check(&run.cx, &plan)).await.map_err(of_quarantine)?)
            }
            None => None,
        };
        let shares = run.shares(run.possible_workers(), 0, 0, quarantine.as_ref().map(|_| 0))?;
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
            notes: run.notes,
        })
    }

    pub(crate) async fn execute(pipeline: &'a Pipeline, cancel: CancelToken) -> Result<RunReport> {
        let mut id = None;
        let cx = RunContext::with_cancel(pipeline.settings.config.clone(), cancel.clone());
        let left = unless_cancelled(&cx, Left::find(pipeline, &cx)).await?;
        let goes_on = left.is_some();
        let mut done = Self::execute_once(pipeline, cancel.clone(), true, left, &mut id).await;
        if goes_on && done.as_ref().is_err_and(|error| error.kind() == ErrorKind::Locked) {
            // It may have been published between the look at it and the lock.
            let left = unless_cancelled(&cx, Left::find(pipeline, &cx)).await?;
            if let Some(left) = left.filter(|left| left.found.published) {
                done = Self::execute_once(pipeline, cancel.clone(), true, Some(left), &mut id).await;
            }
        }
        match done {
            // Nothing was published, so the run may begin again.
            Err(error) if error.kind() == ErrorKind::SplitRefuted => match pipeline.settings.resume {
                Resume::Run(run) => Err(refused(run, "its pieces do not begin with records")),
                _ => Self::execute_once(pipeline, cancel, false, None, &mut id).await,
            },
            done => done,
        }
    }

    /// `id` is that of the run that this one begins again, and then its own.
    async fn execute_once(
        pipeline: &'a Pipeline,
        cancel: CancelToken,
        guess: bool,
        left: Option<Left>,
        id: &mut Option<RunId>,
    ) -> Result<RunReport> {
        let span =
            info_span!("run", id = Empty, partitions = Empty, rows = Empty, error = Empty, otel.status_code = Empty);
        let scanned = Run::begin(pipeline, cancel, guess, left).instrument(info_span!(parent: &span, "scan")).await;
        let (mut run, published) = scanned.inspect_err(|error| record_error(&span, error))?;
        if let Some(left) = published {
            let rejected = unless_cancelled(&run.cx, run.set_aside_before()).await?;
            let rejected = rejected.filter(|found| found.published).map(|found| found.receipts);
            if pipeline.quarantine.is_some() && rejected.is_none() {
                let note =
                    "how many records it had set aside is not known any more: something else was put there since";
                run.notes.push(note.to_owned());
            }
            let rejected = rejected.unwrap_or_default();
            if !pipeline.settings.keep_mark {
                unless_cancelled(&run.cx, forget_once(pipeline, &run.cx, left.found.run)).await?;
            }
            return Ok(run.was_published(&left.found, &rejected));
        }
        run.instead_of = id.replace(run.cx.run_id());
        span.record("id", run.cx.run_id().to_string()).record("partitions", run.scan.partitions().len());
        let (is_kept, partitions) = (run.record.is_some(), run.scan.partitions().len());
        let cx = run.cx.clone();
        let mut sessions = Sessions::default();
        let report = async {
            let (staged, whole) = (run.staged_before, run.take_hold(&mut sessions).await?);
            failpoint("run-begun");
            run.require_position().await?;
            if let Some(target) = pipeline.settings.repairing.as_ref().and_then(|repairing| repairing.target.as_ref()) {
                unless_cancelled(&run.cx, target.require_unchanged(&run.cx)).await?;
            }
            if whole < staged {
                let reason = format!("of {staged} pieces that were staged, {whole} are as they were");
                if pipeline.settings.resume == Resume::Run(run.cx.run_id()) && whole == 0 {
                    return Err(refused(run.cx.run_id(), &reason));
                }
                run.notes.push(reason);
            }
            run.load(&mut sessions).await
        };
        let report = report.instrument(span.clone()).await;
        match &report {
            Ok(report) => {
                span.record("rows", report.load.records_loaded);
            }
            Err(error) => {
                record_error(&span, error);
                let keep = is_kept && error.may_pass();
                let is_staged = sessions.is_staged;
                let ended = unless_cancelled(&cx, async {
                    Ok(sessions.end(keep).instrument(info_span!(parent: &span, "abort")).await)
                });
                // A server that does not answer does not hold up who wants to stop.
                let kept = ended.await.unwrap_or(0);
                if let (Some(loader), true, false) = (&pipeline.quarantine, is_kept, keep) {
                    // It may say that it was published, which nobody will ask.
                    _ = unless_cancelled(&cx, loader.forget(&cx, cx.run_id())).await;
                }
                // A commit that failed for now leaves all that is staged.
                let kept = if keep && is_staged { partitions } else { kept };
                if kept > 0 {
                    return report.map_err(|error| with_hint_of_rest(error, kept, partitions));
                }
            }
        }
        report
    }

    /// Looks at the source; as it was planned by the run that is left, if this one can go on with that. Also tells what is left, if
    /// it was published already.
    async fn begin(
        pipeline: &'a Pipeline,
        cancel: CancelToken,
        guess: bool,
        left: Option<Left>,
    ) -> Result<(Self, Option<Left>)> {
        let mut note = None;
        if let Some(left) = left {
            let difference = match Self::new(pipeline, cancel.clone(), left.record.guess(), Some(&left)).await {
                Ok(run) => match run.written_down(left.record.guess()).difference(&left.record) {
                    None if left.found.published => return Ok((run, Some(left))),
                    None => return Ok((run, None)),
                    Some(difference) => difference.to_owned(),
                },
                Err(error) if cancel.is_cancelled() => return Err(error),
                // What is staged is not to be given up for a server that is away for a moment.
                Err(error)
                    if error.is_transient() || matches!(error.kind(), ErrorKind::Connection | ErrorKind::Locked) =>
                {
                    return Err(error);
                }
                // If it is not because of the recorded pieces, it comes again.
                Err(error) => error.to_string(),
            };
            let run = left.found.run;
            if pipeline.settings.resume == Resume::Run(run) {
                return Err(refused(run, &difference));
            }
            note = Some(match left.found.published {
                true => format!(
                    "the run {run} was published and died before it could say so; this is another load: {difference}"
                ),
                false => format!("what the run {run} had staged is not gone on with: {difference}"),
            });
        }
        let mut run = Self::new(pipeline, cancel, guess, None).await?;
        run.notes.extend(note);
        Ok((run, None))
    }

    pub(crate) async fn new(
        pipeline: &'a Pipeline,
        cancel: CancelToken,
        guess: bool,
        left: Option<&Left>,
    ) -> Result<Self> {
        let started = Instant::now();
        let settings = &pipeline.settings;
        let id = left.map_or_else(RunId::generate, |left| left.found.run);
        let cx = RunContext::of_run(id, for_planning(&settings.config), cancel);
        cx.cancel().check()?;
        let tests = pushdown::source_tests(&pipeline.transformers);
        let target = match settings.mode {
            LoadMode::Create => None,
            _ => unless_cancelled(&cx, pipeline.loader.target_schema(&cx)).await?,
        };
        let target = target.and_then(|target| pushdown::source_columns(&pipeline.transformers, &target));
        let mut request = settings.request.clone().guess(guess).filter(tests).target(target);
        request.recorded = left.map(|left| left.record.partitions());
        let source = pipeline.saved_cursor()?;
        if let (Some(source), LoadMode::Append | LoadMode::Merge) = (&source, settings.mode) {
            let value = unless_cancelled(&cx, pipeline.loader.cursor(&cx, source)).await?;
            request.after = value.map(|value| After { value, inclusive: settings.mode == LoadMode::Merge });
        }
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
        let (instead_of, record, mut notes) = (None, None, scan.notes().to_vec());
        let is_told = source.is_none() && pipeline.extractor.cursor().is_some() && !settings.is_compared;
        let cursor = source.zip(scan.cursor().map(str::to_owned));
        let cursor = cursor.map(|(source, value)| SavedCursor { source, value });
        if is_told && settings.repairing.is_none() {
            notes.push("the target keeps no cursor: give it to the next run as cursor_after".to_owned());
        }
        let mut run = Self {
            pipeline,
            cx,
            scan,
            fingerprint,
            transformers,
            names,
            schema,
            keys,
            after: request.after,
            cursor,
            started,
            instead_of,
            record,
            is_resumed: left.is_some(),
            staged_before: left.map_or(0, |left| left.found.receipts.len()),
            notes,
        };
        if may_go_on(pipeline) && run.is_one().is_none() {
            run.record = Some(run.written_down(guess).to_text()?);
        }
        Ok(run)
    }

    /// Binds the transformers once more, as they are at the beginning.
    pub(crate) fn bind(&self) -> Result<Vec<Arc<dyn BoundTransformer>>> {
        let mut schema = self.scan.schema();
        let mut bound = Vec::new();
        let mut bind = |transformer: &dyn Transformer| -> Result<()> {
            let next = transformer.bind(&schema)?;
            schema = next.schema();
            bound.push(next);
            Ok(())
        };
        if let (Some(columns), false) = (&self.pipeline.settings.request.columns, self.scan.pushdown().columns) {
            bind(&Select::new(columns.clone()))?;
        }
        self.pipeline.transformers.iter().try_for_each(|transformer| bind(transformer.as_ref()))?;
        Ok(bound)
    }

    /// The columns that are the same each time the pipeline runs, and the names of those that tell of the run itself.
    pub(crate) fn compared(&self) -> Result<(SchemaRef, Vec<String>)> {
        let mut of_run: Vec<String> = Vec::new();
        let mut before = self.scan.schema();
        for (name, bound) in self.names.iter().zip(&self.transformers) {
            let after = bound.schema();
            if name == AddMetadata::NAME {
                let is_new = |name: &&String| before.field_with_name(name).is_err();
                of_run.extend(after.fields().iter().map(|field| field.name()).filter(is_new).cloned());
            }
            before = after;
        }
        of_run.retain(|name| self.schema.field_with_name(name).is_ok());
        let fields = self.schema.fields().iter().filter(|field| !of_run.contains(field.name()));
        Ok((Arc::new(Schema::new(fields.cloned().collect::<Vec<_>>())), of_run))
    }

    /// Why the source is one piece to whoever wants to read some of it, if it is.
    pub(crate) fn is_one(&self) -> Option<&'static str> {
        if self.transformers.iter().any(|transformer| transformer.spans_partitions()) {
            Some("a transform looks at several pieces")
        } else if self.scan.identity().is_none() {
            Some("the source cannot tell that it is still the same")
        } else {
            None
        }
    }

    pub(crate) fn context(&self) -> &RunContext {
        &self.cx
    }

    pub(crate) fn fingerprint(&self) -> &Fingerprint {
        &self.fingerprint
    }

    /// The key that rows have when they come to the target, if the source has one.
    pub(crate) fn primary_key(&self) -> &[String] {
        &self.keys
    }

    /// The key of the mode merge, if it was that of the pipeline.
    pub(crate) fn merged_by(&self) -> &[String] {
        &self.pipeline.settings.keys
    }

    /// Records that cannot be read are set aside.
    pub(crate) fn rejects(&self) -> bool {
        self.pipeline.quarantine.is_some()
    }

    fn written_down(&self, guess: bool) -> Record {
        Record::new(self.pipeline, &*self.scan, &self.fingerprint, self.after.as_ref(), guess, &self.schema)
    }

    /// Now that nobody else can load into it, the target must still have the position behind which the source is read: else rows
    /// would be read that another run has loaded.
    async fn require_position(&self) -> Result<()> {
        let (Some(cursor), LoadMode::Append | LoadMode::Merge) = (&self.cursor, self.pipeline.settings.mode) else {
            return Ok(());
        };
        let now = unless_cancelled(&self.cx, self.pipeline.loader.cursor(&self.cx, &cursor.source)).await?;
        if now.as_deref() == self.after.as_ref().map(|after| after.value.as_str()) {
            return Ok(());
        }
        let message = "another run has loaded from this source meanwhile, so nothing was done";
        Err(Error::new(ErrorKind::SourceChanged, message).hint("run again, to go on behind what that has loaded"))
    }

    /// Takes hold of the target and of the quarantine. Tells how many partitions both had staged before.
    async fn take_hold(&self, sessions: &mut Sessions) -> Result<usize> {
        let mut plan = self.load_plan();
        let Some(loader) = &self.pipeline.quarantine else {
            let begun = self.pipeline.loader.begin(&self.cx, plan).instrument(info_span!("begin"));
            return Ok(sessions.target.insert(unless_cancelled(&self.cx, begun).await?).completed().len());
        };
        let before = unless_cancelled(&self.cx, self.set_aside_before()).await?;
        let (mut is_published, before) =
            before.map_or((false, Vec::new()), |before| (before.published, before.receipts));
        if !is_published {
            plan.take_over = Some(before.iter().map(|receipt| receipt.partition).collect());
        }
        loop {
            let begun = self.pipeline.loader.begin(&self.cx, plan.clone()).instrument(info_span!("begin"));
            let session = sessions.target.insert(unless_cancelled(&self.cx, begun).await?);
            let staged: Vec<_> = session.completed().iter().map(|receipt| receipt.partition).collect();
            let all = self.scan.partitions().len();
            if is_published && staged.len() == all && before.len() == all + 1 {
                sessions.set_aside_before = before;
                return Ok(all);
            }
            if is_published {
                // What is read again is rejected again, and is in the quarantine once too often.
                unless_cancelled(&self.cx, loader.forget(&self.cx, self.cx.run_id())).await.map_err(of_quarantine)?;
                is_published = false;
            }
            let mut set_aside = self.quarantine_plan();
            set_aside.take_over = Some(staged.clone());
            let begun = loader.begin(&self.cx, set_aside);
            let begun = unless_cancelled(&self.cx, begun).await.map_err(of_quarantine)?;
            let both: Vec<_> = begun.completed().iter().map(|receipt| receipt.partition).collect();
            sessions.quarantine = Some(begun);
            if both.len() == staged.len() {
                return Ok(both.len());
            }
            // What was read for one and not for the other has to be read again.
            let ended = async { Ok(std::mem::take(sessions).end(true).await) };
            unless_cancelled(&self.cx, ended).await?;
            plan.take_over = Some(both);
        }
    }

    fn load_plan(&self) -> LoadPlan {
        let settings = &self.pipeline.settings;
        let mut plan = LoadPlan::new(self.schema.clone(), settings.mode, self.scan.partitions().to_vec());
        plan.keys = self.keys.clone();
        plan.read_back = settings.verify == Verify::Full;
        plan.record = self.record.clone();
        plan.goes_on = self.staged_before > 0;
        plan.cursor = self.cursor.clone();
        plan.replaces = settings.repairing.iter().flat_map(|repairing| repairing.replaces.clone()).collect();
        plan.is_repair = settings.repairing.is_some() || settings.replay.is_some();
        plan.sifts = self.pipeline.quarantine.is_some();
        plan
    }

    fn quarantine_plan(&self) -> LoadPlan {
        let partitions = self.scan.partitions().iter().cloned().chain([self.of_target()]).collect();
        let mut plan = LoadPlan::new(Rejected::schema(), LoadMode::Append, partitions);
        plan.record = self.record.clone();
        plan
    }

    /// What the records have in common that are set aside.
    fn origin(&self) -> Origin {
        let Settings { target, replay, .. } = &self.pipeline.settings;
        let transforms = self.transforms_before(self.transformers.len());
        Origin { target: target.clone(), replay: replay.as_ref().map(|replay| replay.id.clone()), transforms }
    }

    /// Transformers of the user's that a row has been through which comes to the one with this index.
    fn transforms_before(&self, index: usize) -> u32 {
        // The engine's own is the first one.
        let own = self.transformers.len() - self.pipeline.transformers.len();
        let before = self.pipeline.settings.replay.as_ref().map_or(0, |replay| replay.transforms);
        before + u32::try_from(index.saturating_sub(own)).unwrap_or(u32::MAX)
    }

    /// `cx` as the transformer with this index sees it.
    pub(crate) fn before_transform(&self, cx: &RunContext, index: usize) -> RunContext {
        match cx.rejects() {
            Some(rejects) => cx.with_rejects(rejects.after_transforms(self.transforms_before(index))),
            None => cx.clone(),
        }
    }

    /// The partition of the quarantine for what the target sifts out at the end.
    fn of_target(&self) -> Partition {
        Partition::new(self.scan.partitions().len(), "what the target refuses")
    }

    /// What an earlier attempt at the run has left at the quarantine.
    async fn set_aside_before(&self) -> Result<Option<Interrupted>> {
        let (Some(loader), true) = (&self.pipeline.quarantine, self.is_resumed) else { return Ok(None) };
        let found = loader.interrupted(&self.cx).await.map_err(of_quarantine)?;
        let is_it =
            |found: &Interrupted| found.run == self.cx.run_id() && Some(&*found.record) == self.record.as_deref();
        Ok(found.filter(is_it))
    }

    /// For at most `workers`, writers that need `writer` bytes, sessions that hold `sessions`, and those of a quarantine, if there
    /// is one.
    fn shares(&self, workers: usize, writer: usize, sessions: usize, quarantine: Option<usize>) -> Result<Shares> {
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

    /// Workers that would find something to do.
    fn possible_workers(&self) -> usize {
        self.employable(self.pipeline.settings.config.workers())
    }

    /// As many of `workers` as would find something to do.
    fn employable(&self, workers: usize) -> usize {
        workers.min(self.scan.partitions().len()).min(self.scan.max_readers()).max(1)
    }

    /// Everything from the first read to the commits, which take the sessions.
    async fn load(self, sessions: &mut Sessions) -> Result<RunReport> {
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
        if let Some(on_start) = &self.pipeline.settings.on_start {
            let (partitions, notes) = (self.scan.partitions().to_vec(), self.notes.clone());
            let instead_of = self.instead_of;
            let completed = completed.iter().map(|receipt| receipt.partition).collect();
            let is_kept = self.record.is_some();
            let (cx, stages) = (cx.clone(), stages.clone());
            on_start(&Started { cx, instead_of, partitions, completed, is_kept, notes, stages });
        }
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
        let changed = || {
            let message = "the source changed while it was read, so nothing was published";
            Error::new(ErrorKind::SourceChanged, message).hint("run again when nobody writes to it")
        };
        match self.scan.fingerprint().await {
            Ok(now) if now == self.fingerprint => {}
            Ok(_) => return Err(changed()),
            Err(error) if error.kind() == ErrorKind::SourceChanged => return Err(changed().caused_by(error)),
            Err(error) => return Err(error),
        }
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

    /// The report of a run that had been published, and died before it could say so.
    fn was_published(&self, left: &Interrupted, rejected: &[Receipt]) -> RunReport {
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

/// What a run holds until it publishes it.
#[derive(Default)]
struct Sessions {
    target: Option<Box<dyn LoadSession>>,
    /// All of it is staged, and the target's session gone into the commit.
    is_staged: bool,
    quarantine: Option<Box<dyn LoadSession>>,
    /// What the quarantine already has, in place of a session.
    set_aside_before: Vec<Receipt>,
}

impl Sessions {
    /// Lets go of what is held, and keeps what is staged or removes it. The first error is the one to tell; what could not be
    /// removed is removed by the next run. Tells how many partitions are kept.
    async fn end(self, keep: bool) -> usize {
        let mut kept = 0;
        let Self { quarantine, target, .. } = self;
        for session in [quarantine, target].into_iter().flatten() {
            let ended = if keep { session.suspend().await } else { session.abort().await.map(|()| 0) };
            kept = ended.unwrap_or(0);
        }
        kept
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

/// Tells what is kept of a run that failed.
fn with_hint_of_rest(error: Error, staged: usize, partitions: usize) -> Error {
    let rest = format!("{staged} of {partitions} pieces are kept; run the same again to go on from there");
    match error.hint_text() {
        Some(hint) => {
            let hint = format!("{hint}; {rest}");
            error.hint(hint)
        }
        None => error.hint(rest),
    }
}

fn gone() -> Error {
    Error::new(ErrorKind::Internal, "the load session is gone")
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

fn record_error(span: &Span, error: &Error) {
    // As tracing-opentelemetry wants it.
    span.record("error", error.to_string()).record("otel.status_code", "ERROR");
}

/// What a source is looked at with, and a target is taken hold of: with all workers that there may come to be.
fn for_planning(config: &PerformanceConfig) -> PerformanceConfig {
    let mut config = config.clone();
    if config.auto_tune && config.enable_parallel_processing {
        config.max_threads = config.max_threads.max((4 * cores()).min(64));
    }
    config
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
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
