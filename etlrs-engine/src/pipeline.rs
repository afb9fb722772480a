use std::sync::Arc;

use arrow_array::RecordBatch;
use async_trait::async_trait;
use etlrs_core::{
    BatchStream, BoundTransformer, CancelToken, DatasetSnapshot, Detail, Effect, Error, ErrorKind, Extractor,
    Fingerprint, Interrupted, LoadMode, Loader, Partition, PartitionId, PerformanceConfig, Result, RunContext, RunId,
    Scan, ScanRequest, SchemaRef, Transformer, failpoint, next_batch, unknown_name,
};
use sha2::{Digest, Sha256};
use tokio::runtime::Handle;

use crate::alert::{Alert, OnAlert, PerformanceAlert};
use crate::compare::Repairing;
use crate::load::back_off;
use crate::max_errors::MaxErrors;
use crate::partitions::panicked;
use crate::quarantine::of_quarantine;
use crate::report::{Plan, RunReport};
use crate::resume::Resume;
use crate::run::Run;
use crate::stages::Stages;
use crate::transform::Select;
use crate::tune::{Adjustment, OnAdjustment};

/// How far the target is checked before it is published.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Verify {
    /// Each partition's rows as counted by the target against those handed to it. Costs nothing.
    #[default]
    Receipts,
    /// Everything that was staged is read back, and its rows and checksum compared with those of the source. Costs a
    /// scan of the target.
    Full,
}

impl Verify {
    const ALL: [(&str, Verify); 2] = [("receipts", Self::Receipts), ("full", Self::Full)];

    /// The word used on the command line and in pipeline files.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Receipts => "receipts",
            Self::Full => "full",
        }
    }
}

impl std::str::FromStr for Verify {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let names = Self::ALL.map(|(name, _)| name);
        let found = Self::ALL.into_iter().find(|(name, _)| *name == text);
        found.map(|(_, verify)| verify).ok_or_else(|| unknown_name("kind of verification", text, &names))
    }
}

/// What is known once a run is about to read.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Started {
    /// The run, with its counters.
    pub cx: RunContext,
    /// The run that this one begins again, because a guess of the source was wrong.
    pub instead_of: Option<RunId>,
    /// The pieces in which the source is read.
    pub partitions: Vec<Partition>,
    /// Those of them that an earlier attempt at the run had staged, and that are not read again.
    pub completed: Vec<PartitionId>,
    /// What is staged is kept if the run is stopped, so that it can be gone on with.
    pub is_kept: bool,
    /// What there is to know about the source.
    pub notes: Vec<String>,
    /// What the stages do, as it happens.
    pub stages: Stages,
}

pub(crate) type OnStart = Arc<dyn Fn(&Started) + Send + Sync>;

/// Puts a [`Pipeline`] together.
#[derive(Clone, Default)]
pub struct PipelineBuilder {
    pub(crate) extractor: Option<Arc<dyn Extractor>>,
    pub(crate) transformers: Vec<Arc<dyn Transformer>>,
    pub(crate) loader: Option<Arc<dyn Loader>>,
    pub(crate) quarantine: Option<Arc<dyn Loader>>,
    pub(crate) settings: Settings,
}

#[derive(Clone, Default)]
pub(crate) struct Settings {
    pub(crate) config: PerformanceConfig,
    pub(crate) request: ScanRequest,
    pub(crate) mode: LoadMode,
    pub(crate) keys: Vec<String>,
    pub(crate) verify: Verify,
    pub(crate) max_errors: Option<MaxErrors>,
    pub(crate) cancel: CancelToken,
    pub(crate) on_start: Option<OnStart>,
    pub(crate) alert: Option<PerformanceAlert>,
    pub(crate) on_alert: Option<OnAlert>,
    pub(crate) on_adjustment: Option<OnAdjustment>,
    pub(crate) resume: Resume,
    pub(crate) identity: Option<String>,
    pub(crate) cursor_identity: Option<String>,
    pub(crate) keep_mark: bool,
    /// Only what differs is loaded.
    pub(crate) repairing: Option<Repairing>,
    /// All is read, whatever position the target keeps.
    pub(crate) is_compared: bool,
    /// What the target is called in the quarantine.
    pub(crate) target: Option<Arc<str>>,
    /// It loads again what was set aside.
    pub(crate) replay: Option<Replayed>,
}

/// What a pipeline replays.
#[derive(Clone, Debug)]
pub(crate) struct Replayed {
    /// Tells it apart.
    pub(crate) id: Arc<str>,
    /// Transformers that its records have been through.
    pub(crate) transforms: u32,
}

impl PipelineBuilder {
    /// Without stages.
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads from `extractor`.
    #[must_use]
    pub fn extract(self, extractor: impl Extractor + 'static) -> Self {
        self.extract_from(Arc::new(extractor))
    }

    /// Reads from an extractor that is shared.
    #[must_use]
    pub fn extract_from(mut self, extractor: Arc<dyn Extractor>) -> Self {
        self.extractor = Some(extractor);
        self
    }

    /// Adds a transformer behind those before it.
    #[must_use]
    pub fn transform(self, transformer: impl Transformer + 'static) -> Self {
        self.transform_with(Arc::new(transformer))
    }

    /// Adds a transformer that is shared.
    #[must_use]
    pub fn transform_with(mut self, transformer: Arc<dyn Transformer>) -> Self {
        self.transformers.push(transformer);
        self
    }

    /// Writes to `loader`.
    #[must_use]
    pub fn load(self, loader: impl Loader + 'static) -> Self {
        self.load_into(Arc::new(loader))
    }

    /// Writes to a loader that is shared.
    #[must_use]
    pub fn load_into(mut self, loader: Arc<dyn Loader>) -> Self {
        self.loader = Some(loader);
        self
    }

    /// Sets records that cannot be taken aside into `loader`, instead of failing by the first of them. Its columns are
    /// those of [`Rejected::schema`](etlrs_core::Rejected::schema), and its mode is append: many runs may add to it, and each
    /// row has its run. If there is nothing to set aside it is left alone.
    ///
    /// It has a place of its own: no table of the SQLite file that is the target.
    ///
    /// It is published just before the target, so that no crash can lose a record. If the target cannot be published after
    /// that, the run fails and what it rejected is there all the same.
    #[must_use]
    pub fn quarantine(self, loader: impl Loader + 'static) -> Self {
        self.quarantine_into(Arc::new(loader))
    }

    /// Sets records aside into a loader that is shared; see [`quarantine`](Self::quarantine).
    #[must_use]
    pub fn quarantine_into(mut self, loader: Arc<dyn Loader>) -> Self {
        self.quarantine = Some(loader);
        self
    }

    /// What the target is called in the quarantine, so that its records can be told from those of others. Without secrets.
    #[must_use]
    pub fn target_name(mut self, name: impl Into<Arc<str>>) -> Self {
        self.settings.target = Some(name.into());
        self
    }

    /// Fails if more records are set aside. Needs a [quarantine](Self::quarantine). Default: any number.
    #[must_use]
    pub fn max_errors(mut self, most: impl Into<MaxErrors>) -> Self {
        self.settings.max_errors = Some(most.into());
        self
    }

    /// What happens to a target that exists. Default: it must not.
    #[must_use]
    pub fn mode(mut self, mode: LoadMode) -> Self {
        self.settings.mode = mode;
        self
    }

    /// Key columns, for the mode `merge`.
    #[must_use]
    pub fn keys(mut self, keys: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.settings.keys = keys.into_iter().map(Into::into).collect();
        self
    }

    /// What is asked of the source: columns, number of partitions.
    #[must_use]
    pub fn request(mut self, request: ScanRequest) -> Self {
        self.settings.request = request;
        self
    }

    /// How the run uses the machine.
    #[must_use]
    pub fn config(mut self, config: PerformanceConfig) -> Self {
        self.settings.config = config;
        self
    }

    /// How far the target is checked before it is published.
    #[must_use]
    pub fn verify(mut self, verify: Verify) -> Self {
        self.settings.verify = verify;
        self
    }

    /// What is done about a run that was stopped. Default: it is gone on with, if it was the same work on the same source.
    #[must_use]
    pub fn resume(mut self, resume: Resume) -> Self {
        self.settings.resume = resume;
        self
    }

    /// Says what the transformers do, in words that are others when they do something else: a version will do. Without, a pipeline
    /// that has any begins anew when it was stopped, for nobody else can tell that they would still do the same.
    #[must_use]
    pub fn identity(mut self, identity: impl Into<String>) -> Self {
        self.settings.identity = Some(identity.into());
        self
    }

    /// Says which rows the transformers let through, in words that are others when they let others through: where the target keeps how
    /// far the source was read, that is one position for each such words. Empty if all get through, which need not be said of
    /// transformers that only rename, select or drop columns. Default: the [identity](Self::identity), which may be another in each
    /// run, for the contents of a table that is looked up.
    #[must_use]
    pub fn cursor_identity(mut self, identity: impl Into<String>) -> Self {
        self.settings.cursor_identity = Some(identity.into());
        self
    }

    /// Leaves it to [`Pipeline::acknowledge`] to end a run that was published. Until then, the same pipeline on the same source
    /// finds it done instead of loading it again: for who has to tell somebody of it before it is over.
    #[must_use]
    pub fn acknowledge_later(mut self) -> Self {
        self.settings.keep_mark = true;
        self
    }

    /// What stops the run from outside.
    #[must_use]
    pub fn cancel(mut self, cancel: CancelToken) -> Self {
        self.settings.cancel = cancel;
        self
    }

    /// Called when the source has been looked at and the target is held, before the first read; once more if the run begins
    /// again because a guess of the source was wrong.
    #[must_use]
    pub fn on_start(mut self, f: impl Fn(&Started) + Send + Sync + 'static) -> Self {
        self.settings.on_start = Some(Arc::new(f));
        self
    }

    /// Raises alerts where the run goes beyond thresholds. It is looked at once a second while partitions are loaded, and when they
    /// all are; [`RunReport::alerts`] has what was raised.
    #[must_use]
    pub fn alert(mut self, alert: PerformanceAlert) -> Self {
        self.settings.alert = Some(alert);
        self
    }

    /// Called with each alert when it is raised, once for each threshold.
    #[must_use]
    pub fn on_alert(mut self, f: impl Fn(&Alert) + Send + Sync + 'static) -> Self {
        self.settings.on_alert = Some(Arc::new(f));
        self
    }

    /// Called when a run that [tunes itself](PerformanceConfig::auto_tune) changes something, and again when it knows what came of
    /// it. [`RunReport::adjustments`] has all of them.
    #[must_use]
    pub fn on_adjustment(mut self, f: impl Fn(&Adjustment) + Send + Sync + 'static) -> Self {
        self.settings.on_adjustment = Some(Arc::new(f));
        self
    }

    /// # Errors
    /// `InvalidConfig` if the source or the target is missing, or the configuration cannot work.
    pub fn build(self) -> Result<Pipeline> {
        let missing = |what| Error::new(ErrorKind::InvalidConfig, format!("the pipeline has no {what}"));
        self.settings.config.validate()?;
        self.settings.alert.as_ref().map_or(Ok(()), PerformanceAlert::check)?;
        if self.settings.request.partitions == Some(0) {
            return Err(Error::new(ErrorKind::InvalidConfig, "a source cannot be read in 0 partitions"));
        }
        let merge = self.settings.mode == LoadMode::Merge;
        if merge == self.settings.keys.is_empty() {
            let message = if merge { "mode merge needs key columns" } else { "key columns are for the mode merge" };
            let hint = if merge { "name them with --key" } else { "leave them out, or use mode merge" };
            return Err(Error::new(ErrorKind::InvalidConfig, message).hint(hint));
        }
        if self.settings.max_errors.is_some() && self.quarantine.is_none() {
            let message = "max_errors counts records that are set aside, and there is no quarantine for them";
            return Err(Error::new(ErrorKind::InvalidConfig, message));
        }
        Ok(Pipeline {
            quarantine: self.quarantine,
            extractor: self.extractor.ok_or_else(|| missing("source"))?,
            transformers: self.transformers,
            loader: self.loader.ok_or_else(|| missing("target"))?,
            settings: self.settings,
        })
    }
}

/// A source, transformers and a target, ready to run. Can be run more than once.
#[derive(Clone)]
pub struct Pipeline {
    pub(crate) extractor: Arc<dyn Extractor>,
    pub(crate) transformers: Vec<Arc<dyn Transformer>>,
    pub(crate) loader: Arc<dyn Loader>,
    pub(crate) quarantine: Option<Arc<dyn Loader>>,
    pub(crate) settings: Settings,
}

impl Pipeline {
    /// Looks at source and target and says what a run would do. Changes nothing.
    ///
    /// # Errors
    /// All that can be known before data moves: missing files and columns, types that the target cannot hold.
    pub async fn plan(&self) -> Result<Plan> {
        let pipeline = self.clone();
        off_the_runtime(&self.settings.cancel, |cancel| async move { Run::plan(&pipeline, cancel).await }).await
    }

    /// Runs the pipeline. Needs a tokio runtime, whose threads it leaves to the network.
    ///
    /// On an error, and when the future is dropped or the run cancelled, the target is as it was. Where the target is
    /// [resumable](etlrs_core::LoadCapabilities::resumable), partitions that were staged by then are kept beside it, and the next
    /// execution goes on with them ([`PipelineBuilder::resume`]). A future that is dropped during the commit may leave it
    /// published; the next execution finds that out.
    ///
    /// # Errors
    /// Those of the stages; `VerifyFailed`, `SourceChanged` and `Cancelled` of its own.
    pub async fn execute(&self) -> Result<RunReport> {
        let pipeline = self.clone();
        off_the_runtime(&self.settings.cancel, |cancel| async move { Run::execute(&pipeline, cancel).await }).await
    }
}

impl Pipeline {
    /// Ends `run`, which was published: its mark is removed from the target.
    ///
    /// # Errors
    /// Those of the target. The next run of the pipeline finds the mark then, and that the work is done.
    pub async fn acknowledge(&self, run: RunId) -> Result<()> {
        failpoint("run-told");
        self.forget(run).await?;
        failpoint("run-acknowledged");
        Ok(())
    }

    /// Removes what is left of `run` at the target and at the quarantine, and tells what that was at the target: what it had
    /// staged, or the mark of one that was published.
    ///
    /// # Errors
    /// `Locked` if a run is at work on the target; those of the target and of the quarantine.
    pub async fn forget(&self, run: RunId) -> Result<Option<Interrupted>> {
        let pipeline = self.clone();
        if !pipeline.loader.capabilities().resumable {
            return Ok(None);
        }
        off_the_runtime(&CancelToken::new(), move |cancel| async move {
            let cx = RunContext::with_cancel(pipeline.settings.config.clone(), cancel);
            // For a connection that is lost now; to do it twice does no harm.
            let is_lost = |error: &Error| error.is_transient() || error.kind() == ErrorKind::Connection;
            let mut attempt = 1;
            loop {
                match forget_once(&pipeline, &cx, run).await {
                    Err(error) if is_lost(&error) && attempt < pipeline.settings.config.max_attempts => {
                        tokio::time::sleep(back_off(attempt)).await;
                        attempt += 1;
                    }
                    done => return done,
                }
            }
        })
        .await
    }
}

impl Pipeline {
    /// What the source is called where the target keeps how far it was read, if that is done.
    ///
    /// # Errors
    /// `InvalidConfig` if nothing tells which rows get through the transformers.
    pub(crate) fn saved_cursor(&self) -> Result<Option<String>> {
        let is_read_anew = self.settings.is_compared || self.settings.repairing.is_some();
        let is_kept = self.loader.capabilities().keeps_cursors && !is_read_anew;
        let Some(source) = self.extractor.cursor().filter(|_| is_kept) else { return Ok(None) };
        let lets_all_through = |transformer: &Arc<dyn Transformer>| {
            matches!(transformer.effect(), Effect::Renames(_) | Effect::Selects(_) | Effect::Drops(_))
        };
        // Other transformers let other rows through, of which those before the position have not been loaded.
        match self.settings.cursor_identity.as_ref().or(self.settings.identity.as_ref()) {
            _ if self.transformers.iter().all(lets_all_through) => Ok(Some(source)),
            Some(identity) if identity.is_empty() => Ok(Some(source)),
            Some(identity) => {
                let digest = Sha256::digest(identity);
                let digits: String = digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
                Ok(Some(format!("{source} through {digits}")))
            }
            None => {
                let message = "nothing says which rows the transformers let through, so how far the source was read means nothing";
                Err(Error::new(ErrorKind::InvalidConfig, message)
                    .hint("give the pipeline a cursor_identity; or keep the position yourself, with cursor_after"))
            }
        }
    }
}

/// The quarantine first: what is left at the target is what tells of the run.
pub(crate) async fn forget_once(pipeline: &Pipeline, cx: &RunContext, run: RunId) -> Result<Option<Interrupted>> {
    if let Some(quarantine) = &pipeline.quarantine {
        match quarantine.forget(cx, run).await {
            // Another run adds to it, and has removed what was left there.
            Err(error) if error.kind() == ErrorKind::Locked => {}
            done => _ = done.map_err(of_quarantine)?,
        }
        failpoint("quarantine-let-go");
    }
    pipeline.loader.forget(cx, run).await
}

/// Reads a whole source into memory, unless `cancel` stops it: for small tables.
///
/// # Errors
/// Those of the source; `MemoryExceeded` if it is larger than the memory budget.
pub async fn collect(
    extractor: Arc<dyn Extractor>,
    request: ScanRequest,
    config: PerformanceConfig,
    cancel: &CancelToken,
) -> Result<DatasetSnapshot> {
    off_the_runtime(cancel, |cancel| async move {
        let cx = RunContext::with_cancel(config, cancel);
        let scan = projected(&*extractor, &cx, &request).await?;
        DatasetSnapshot::collect(&cx, &*scan).await
    })
    .await
}

/// A scan that gives the wanted columns, whether or not the source itself can.
pub(crate) async fn projected(
    extractor: &dyn Extractor,
    cx: &RunContext,
    request: &ScanRequest,
) -> Result<Arc<dyn Scan>> {
    let scan = extractor.scan(cx, request).await?;
    match &request.columns {
        Some(columns) if !scan.pushdown().columns => {
            let select = Select::new(columns.clone()).bind(&scan.schema())?;
            Ok(Arc::new(Transformed { scan, transformer: select }))
        }
        _ => Ok(scan),
    }
}

/// A scan behind a transformer.
struct Transformed {
    scan: Arc<dyn Scan>,
    transformer: Arc<dyn BoundTransformer>,
}

#[async_trait]
impl Scan for Transformed {
    fn schema(&self) -> SchemaRef {
        self.transformer.schema()
    }

    fn partitions(&self) -> &[Partition] {
        self.scan.partitions()
    }

    fn notes(&self) -> &[String] {
        self.scan.notes()
    }

    fn details(&self) -> &[Detail] {
        self.scan.details()
    }

    fn min_memory(&self) -> usize {
        self.scan.min_memory()
    }

    fn max_readers(&self) -> usize {
        self.scan.max_readers()
    }

    async fn fingerprint(&self) -> Result<Fingerprint> {
        self.scan.fingerprint().await
    }

    fn read(&self, cx: &RunContext, partition: &Partition) -> Result<BatchStream> {
        let cx = cx.for_partition(partition);
        Ok(self.transformer.apply(&cx, self.scan.read(&cx, partition)?))
    }
}

/// Looks at a source, and reads its first `rows` rows.
///
/// # Errors
/// Those of the source.
pub async fn inspect(
    extractor: Arc<dyn Extractor>,
    request: ScanRequest,
    config: PerformanceConfig,
    rows: usize,
) -> Result<Inspection> {
    off_the_runtime(&CancelToken::new(), move |cancel| async move {
        let cx = RunContext::with_cancel(config.with_batch_size(rows.clamp(1, 10_000)), cancel);
        let scan = projected(&*extractor, &cx, &request).await?;
        let mut batches: Vec<RecordBatch> = Vec::new();
        let mut left = rows;
        'partitions: for partition in scan.partitions() {
            let mut stream = scan.read(&cx, partition)?;
            while left > 0 {
                let Some(batch) = next_batch(&mut stream).await else { continue 'partitions };
                let batch = batch?;
                let batch = batch.slice(0, batch.num_rows().min(left));
                left -= batch.num_rows();
                batches.push(batch);
            }
            break;
        }
        let (partitions, notes, details) = (scan.partitions().to_vec(), scan.notes().to_vec(), scan.details().to_vec());
        Ok(Inspection { rows: DatasetSnapshot::new(scan.schema(), batches)?, partitions, notes, details })
    })
    .await
}

/// What [`inspect`] saw.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Inspection {
    /// The schema, and the first rows.
    pub rows: DatasetSnapshot,
    /// The pieces in which the source would be read.
    pub partitions: Vec<Partition>,
    /// What there is to know about the source.
    pub notes: Vec<String>,
    /// What was found out about how the source is written.
    pub details: Vec<Detail>,
}

/// Drives `work` on a thread that may block; a dropped future cancels it.
pub(crate) async fn off_the_runtime<T: Send + 'static, F: Future<Output = Result<T>> + 'static>(
    cancel: &CancelToken,
    work: impl FnOnce(CancelToken) -> F + Send + 'static,
) -> Result<T> {
    struct CancelOnDrop(Option<CancelToken>);

    impl Drop for CancelOnDrop {
        fn drop(&mut self) {
            if let Some(cancel) = &self.0 {
                cancel.cancel();
            }
        }
    }

    let cancel = cancel.child();
    let mut guard = CancelOnDrop(Some(cancel.clone()));
    let runtime = Handle::current();
    let result = tokio::task::spawn_blocking(move || runtime.block_on(work(cancel))).await;
    guard.0 = None;
    result.unwrap_or_else(|error| match error.try_into_panic() {
        Ok(panic) => Err(panicked(&*panic)),
        Err(_) => Err(Error::cancelled()),
    })
}
