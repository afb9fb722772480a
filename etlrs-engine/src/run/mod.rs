//! A run, from the scan to the commit.

mod attempt;
mod work;

use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow_schema::{Schema, SchemaRef};
use etlrs_core::{
    After, BoundTransformer, CancelToken, Effect, Error, ErrorKind, Fingerprint, LoadMode, LoadPreview, Partition,
    PerformanceConfig, Rejects, Result, RunContext, RunId, SavedCursor, Scan, Transformer,
};
use tracing::Span;

use crate::pipeline::{Pipeline, Settings};
use crate::pushdown;
use crate::quarantine::{Origin, of_quarantine};
use crate::report::Plan;
use crate::resume::{Left, Record, may_go_on};
use crate::transform::{AddMetadata, Select};

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
        request.recorded = left.filter(|left| !left.record.is_mark_only()).map(|left| left.record.partitions());
        let source = pipeline.saved_cursor()?;
        if settings.mode == LoadMode::Append && pipeline.extractor.rereads() && !settings.is_compared {
            let message = "a cursor with a lag reads rows again that were loaded before, and in the mode append they would be there twice";
            return Err(Error::new(ErrorKind::InvalidConfig, message)
                .hint("use the mode merge, or leave the option cursor_lag out"));
        }
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
        if may_go_on(pipeline) && (run.keeps_pieces() || run.is_known_by_mark()) {
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

    /// What is staged of it can be gone on with, if anything is written down.
    fn keeps_pieces(&self) -> bool {
        self.is_one().is_none()
    }

    /// It would be known that it was published, though its pieces are not kept.
    fn is_known_by_mark(&self) -> bool {
        let repeats = matches!(self.pipeline.settings.mode, LoadMode::Append | LoadMode::Create);
        self.scan.identity().is_some() || repeats && self.scan.subject().is_some()
    }

    fn written_down(&self, guess: bool) -> Record {
        let after = self.after.as_ref();
        let mark_only = !self.keeps_pieces();
        Record::new(self.pipeline, &*self.scan, &self.fingerprint, after, guess, &self.schema, mark_only)
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

    /// Workers that would find something to do.
    fn possible_workers(&self) -> usize {
        self.employable(self.pipeline.settings.config.workers())
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
    use arrow_schema::{DataType, Field};

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
}
