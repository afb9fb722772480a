use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use arrow_array::RecordBatch;
use arrow_schema::SchemaRef;
use async_trait::async_trait;

use crate::{Checksum, Error, ErrorKind, Partition, PartitionId, Result, RunContext, RunId, Scan, unknown_name};

/// A target of tabular data. Constructing one does no I/O.
///
/// All calls of a loader, its session and its writers are made on threads that may compute and may wait for local files;
/// waiting for a network must be asynchronous.
#[async_trait]
pub trait Loader: Send + Sync {
    /// What this target can do; known without I/O.
    fn capabilities(&self) -> LoadCapabilities;

    /// Columns of a target that is there, with types from which values can be written to them unchanged; those that take several
    /// types alike may be left out. They guide a source that can only guess types
    /// ([`ScanRequest::target`](crate::ScanRequest::target)). `None`: it is not there, or does not say.
    ///
    /// # Errors
    /// When the target cannot be looked at.
    async fn target_schema(&self, _cx: &RunContext) -> Result<Option<SchemaRef>> {
        Ok(None)
    }

    /// Checks `plan` against the target without changing anything: mode, existing target, types.
    ///
    /// # Errors
    /// `AlreadyExists` for an existing target in mode `create`; `SchemaMismatch` for a type that the target cannot
    /// hold exactly, naming the column and the cast that would help; `Unsupported` for a mode it does not have.
    async fn check(&self, cx: &RunContext, plan: &LoadPlan) -> Result<LoadPreview>;

    /// Takes hold of the target and opens the staging area. Nothing becomes visible to readers of the target.
    ///
    /// Staged work of other runs that died is recognised and removed here. Two sessions on one target exclude each
    /// other: the later one fails with `Locked`. Fails as [`check`](Loader::check) does.
    ///
    /// Dropping the future or the session is like [`abort`](LoadSession::abort), as far as it can be done without
    /// waiting; the next `begin` removes the rest.
    ///
    /// If the plan has a [record](LoadPlan::record), and what the run [`RunContext::run_id`] had staged under the same record is
    /// there, the session goes on with it; [`LoadSession::completed`] says what that is. If the run was published meanwhile, or
    /// nothing is left of one that [goes on](LoadPlan::goes_on), this fails by [`gone_on_elsewhere`].
    async fn begin(&self, cx: &RunContext, plan: LoadPlan) -> Result<Box<dyn LoadSession>>;

    /// What decides, beside the plan, which bytes or rows come to be at the target: options. A run that was stopped goes on only if
    /// it is the same. It is written down as a digest only.
    fn identity(&self) -> String {
        String::new()
    }

    /// The position up to which `source` was read by the load of it that was published last, as that had
    /// [saved](LoadPlan::cursor) it. `None`: there is none, or no target.
    ///
    /// # Errors
    /// When the target cannot be looked at.
    async fn cursor(&self, _cx: &RunContext, _source: &str) -> Result<Option<String>> {
        Ok(None)
    }

    /// What a run that died, or was stopped, left at this target: the newest, if there are several. The run may also be at work
    /// still, which only [`begin`](Loader::begin) and [`forget`](Loader::forget) find out, for they take the lock. Changes nothing.
    ///
    /// # Errors
    /// When the target cannot be looked at.
    async fn interrupted(&self, _cx: &RunContext) -> Result<Option<Interrupted>> {
        Ok(None)
    }

    /// Removes what is left of `run`, and tells what that was. Of a run that was published, that is the mark which says so.
    ///
    /// # Errors
    /// `Locked` if a run is at work on the target; an error of removing it.
    async fn forget(&self, _cx: &RunContext, _run: RunId) -> Result<Option<Interrupted>> {
        Ok(None)
    }
}

/// What is left of a run at its target.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Interrupted {
    /// The run.
    pub run: RunId,
    /// What was [recorded](LoadPlan::record) with it.
    pub record: String,
    /// Of the partitions that it had staged.
    pub receipts: Vec<Receipt>,
    /// Whether it published them: it died between the commit and the moment in which it would have said so.
    pub published: bool,
}

impl Interrupted {
    /// Of a run that has staged these partitions.
    pub fn new(run: RunId, record: impl Into<String>, receipts: Vec<Receipt>) -> Self {
        Self { run, record: record.into(), receipts, published: false }
    }

    /// Published or not.
    #[must_use]
    pub fn published(mut self, published: bool) -> Self {
        self.published = published;
        self
    }
}

/// One run's hold on a target: everything is staged, and then published at once or not at all.
///
/// The engine calls `writer` for each partition, then `read_back` if the user wants it and `sift` where rows are set aside, then
/// `commit` or `abort`.
#[async_trait]
pub trait LoadSession: Send + Sync {
    /// On resume: receipts of partitions that an earlier attempt at this run made durable, with what was
    /// [kept](PartitionWriter::seal) with them; of those that the plan [takes over](LoadPlan::take_over). They are not read again.
    fn completed(&self) -> &[Receipt] {
        &[]
    }

    /// Bytes that one writer holds at the least; see [`RunContext::writer_memory`] for what it may use.
    fn min_memory(&self) -> usize {
        0
    }

    /// Writers that may be open at a time at the most, where that is known only now: for want of connections, say. It
    /// narrows [`LoadCapabilities::max_writers`].
    fn max_writers(&self) -> usize {
        usize::MAX
    }

    /// Bytes that the session holds beside its writers.
    fn held_memory(&self) -> usize {
        0
    }

    /// Opens a writer for one partition.
    ///
    /// Up to [`LoadCapabilities::max_writers`], and no more than [`max_writers`](Self::max_writers), are open at a time, always including that of the first partition which is
    /// not finished; with one writer, partitions are therefore opened in their order. A partition is opened again
    /// (`attempt` > 1) only after the writer of the attempt before was dropped, and what that one staged is gone when
    /// this returns. A target that cannot take back what it has says so with `Unsupported`, and the user is told why the
    /// attempt before failed.
    async fn writer(&self, cx: &RunContext, partition: &Partition, attempt: u32) -> Result<Box<dyn PartitionWriter>>;

    /// The staged rows as a scan, still invisible to readers of the target, for a check before they are published.
    /// Called at most once, after the last writer finished, and only where it was [planned](LoadPlan::read_back). `None`: this
    /// target cannot.
    async fn read_back(&mut self, cx: &RunContext, receipts: &[Receipt]) -> Result<Option<Arc<dyn Scan>>>;

    /// Finds the staged rows that the target will not take, for a constraint or because a value does not fit, and hands them to
    /// `refused`, so that [`commit`](Self::commit) publishes the others. Called after the last writer finished, and only where it
    /// was [planned](LoadPlan::sifts); what is refused is durable before `commit` is called. Nothing becomes visible.
    ///
    /// A target that publishes in a transaction will find most of what it refuses only there. It may begin it here and leave it
    /// open, for `commit` follows soon, or else `abort` or `suspend`.
    ///
    /// # Errors
    /// What is no row's fault; those of `refused`, which end it.
    async fn sift(&mut self, _cx: &RunContext, _receipts: &[Receipt], _refused: &mut dyn Refusals) -> Result<()> {
        Ok(())
    }

    /// Publishes what the receipts stand for, in the order of the partitions, and ends the session. Rows that were
    /// [sifted out](Self::sift) are not among those that it tells to have published.
    ///
    /// Atomic where [`LoadCapabilities::atomic`] says so: readers see the old data until this returns, and the new
    /// data after. `receipts` holds one for every partition. On an error nothing was published.
    async fn commit(self: Box<Self>, receipts: Vec<Receipt>) -> Result<Published>;

    /// Removes what was staged and leaves the target as it was.
    async fn abort(self: Box<Self>) -> Result<()>;

    /// Lets go of the target, and keeps the partitions that are finished for the run to go on with, where the plan has a
    /// [record](LoadPlan::record) and the target is [resumable](LoadCapabilities::resumable); tells how many they are.
    async fn suspend(self: Box<Self>) -> Result<usize> {
        self.abort().await.map(|()| 0)
    }
}

/// Where a target puts rows that it [sifts out](LoadSession::sift).
#[async_trait]
pub trait Refusals: Send {
    /// Takes rows of the planned schema, with an error for each, of kind `InvalidData`, that names the column if one is at fault.
    ///
    /// # Errors
    /// When there are more than the user allows, or they cannot be kept.
    async fn put(&mut self, rows: &RecordBatch, errors: Vec<Error>) -> Result<()>;
}

/// Writes one partition into the staging area. Dropping it without `finish` discards what it wrote.
#[async_trait]
pub trait PartitionWriter: Send {
    /// Takes a batch of the planned schema. Waiting here is the back-pressure. Runs on a worker thread, where it
    /// may compute and wait for local files. After an error the writer is only good for dropping.
    async fn write(&mut self, batch: RecordBatch) -> Result<()>;

    /// Rows of the batch that was [written](Self::write) last which it left out for what they hold, by their index, and why. Only
    /// where it was [planned](LoadPlan::sifts); elsewhere the first of them is an error of `write`.
    fn refused(&mut self) -> Vec<(usize, Error)> {
        Vec::new()
    }

    /// Called before [`finish`](Self::finish): what the engine knows of the partition. A target that is resumable keeps it
    /// with the receipt, and gives it back in [`LoadSession::completed`].
    fn seal(&mut self, _tally: Tally) {}

    /// Ends the partition. When it returns, the rows are staged: durably where
    /// [`LoadCapabilities::resumable`] says so, and invisible to readers of the target in any case.
    ///
    /// The receipt is the target's own account of what it took: its `rows` are counted at the target.
    async fn finish(self: Box<Self>) -> Result<Receipt>;
}

/// What came of one partition until it reached the target.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Of the rows that were handed to the target, without those that it [refused](PartitionWriter::refused).
    pub checksum: Checksum,
    /// Rows that came out of the source.
    pub rows_read: u64,
}

/// What a load is to do.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct LoadPlan {
    /// Schema of every batch.
    pub schema: SchemaRef,
    /// What happens to a target that exists.
    pub mode: LoadMode,
    /// The columns that are the key: those that the user names, in mode `merge`; in others the primary key of the source, which
    /// a table that is made gets, and which says nothing to one that exists.
    pub keys: Vec<String>,
    /// The partitions that will be written.
    pub partitions: Vec<Partition>,
    /// Whether the staged rows will be [read back](LoadSession::read_back). Whoever knows beforehand that they cannot be refuses
    /// the plan, by [`refuse_read_back`](Self::refuse_read_back).
    pub read_back: bool,
    /// What is to be kept with the staged rows, so that a run which goes on can tell whether they are what it would stage: words
    /// of the engine's. `None`: nothing is kept when the run ends.
    pub record: Option<Arc<str>>,
    /// The position that the source will have been read up to: it becomes durable together with the rows, where the target
    /// [keeps](LoadCapabilities::keeps_cursors) such. Those of other sources stay, but in the modes create and replace, which make
    /// all of them go, with this one or without.
    pub cursor: Option<SavedCursor>,
    /// In the mode append: files of the target, as [`Partition::source`] of a scan of it tells them, that go with the commit by
    /// which the new rows come. The first of the new files come in their places, in the order of the partitions, and others behind
    /// all. One that the target has not is an error. There are some only for a loader that
    /// [can](LoadCapabilities::replaces_files) replace files.
    pub replaces: Vec<Arc<str>>,
    /// Only some rows are put right, of a load that took place before: SQL of the user's that belongs to a load is not run.
    pub is_repair: bool,
    /// Rows that the target will not take for what they hold are set aside, instead of ending the run: writers may
    /// [refuse](PartitionWriter::refused) them, and [`LoadSession::sift`] is called.
    pub sifts: bool,
    /// The run was seen to be stopped, with something that it had staged. If nothing of it is left, another process went on
    /// with it meanwhile, and the load must not begin anew: see [`gone_on_elsewhere`].
    pub goes_on: bool,
    /// Of the partitions that the run had staged, only these are [completed](LoadSession::completed); the others will be written
    /// once more, as if they had never been. `None`: all of them.
    pub take_over: Option<Vec<PartitionId>>,
}

/// How far a source was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SavedCursor {
    /// What was read, as [`Extractor::cursor`](crate::Extractor::cursor) tells it.
    pub source: String,
    /// Up to where.
    pub value: String,
}

/// The error of a run that another process went on with, or published, since it was looked at.
pub fn gone_on_elsewhere(run: RunId) -> Error {
    Error::new(ErrorKind::Locked, format!("another process went on with the run {run}, so nothing was done"))
        .hint("look at the target; run again to load once more")
}

impl LoadPlan {
    /// A plan without keys, whose rows are not read back.
    pub fn new(schema: SchemaRef, mode: LoadMode, partitions: Vec<Partition>) -> Self {
        let (read_back, is_repair, sifts, goes_on) = (false, false, false, false);
        let (keys, record, take_over, cursor, replaces) = (Vec::new(), None, None, None, Vec::new());
        Self {
            schema,
            mode,
            keys,
            partitions,
            read_back,
            record,
            cursor,
            replaces,
            is_repair,
            sifts,
            goes_on,
            take_over,
        }
    }

    /// Whether what the run had staged of `partition` may be [completed](LoadSession::completed).
    pub fn takes_over(&self, partition: PartitionId) -> bool {
        self.take_over.as_ref().is_none_or(|partitions| partitions.contains(&partition))
    }

    /// For a target that cannot give staged rows back, and `why`: "the file is compressed".
    ///
    /// # Errors
    /// `Unsupported` if that is what is planned.
    pub fn refuse_read_back(&self, why: impl fmt::Display) -> Result<()> {
        if self.read_back { Err(not_read_back(why)) } else { Ok(()) }
    }
}

/// The error of a target that cannot give staged rows back, and `why`.
pub fn not_read_back(why: impl fmt::Display) -> Error {
    let message = format!("{why}, so staged rows cannot be read back to be compared");
    Error::new(ErrorKind::Unsupported, message).hint("verify by receipts instead, which counts rows")
}

/// What a load does with a target that exists.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum LoadMode {
    /// The target must not exist.
    #[default]
    Create,
    /// All new rows become visible, or none.
    Append,
    /// The old data until the commit, the new data after it.
    Replace,
    /// Rows with a known key are updated, others inserted.
    Merge,
}

impl LoadMode {
    /// All modes, in the order of the documentation.
    pub const ALL: [LoadMode; 4] = [Self::Create, Self::Append, Self::Replace, Self::Merge];

    /// The word used on the command line and in pipeline files.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Append => "append",
            Self::Replace => "replace",
            Self::Merge => "merge",
        }
    }
}

impl fmt::Display for LoadMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl std::str::FromStr for LoadMode {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let found = Self::ALL.into_iter().find(|mode| mode.as_str() == text);
        found.ok_or_else(|| unknown_name("mode", text, &Self::ALL.map(Self::as_str)))
    }
}

/// What a target can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LoadCapabilities {
    /// Writers that may be open at a time. With 1, partitions are written one after another in their order.
    pub max_writers: usize,
    /// The commit shows readers all rows at once.
    pub atomic: bool,
    /// A receipt is durable, so that a run can go on where it was killed.
    pub resumable: bool,
    /// The position of a source is saved [together with its rows](LoadPlan::cursor).
    pub keeps_cursors: bool,
    /// Rows can come [in place of some files](LoadPlan::replaces), while others stay.
    pub replaces_files: bool,
    /// Modes that the target has.
    pub modes: &'static [LoadMode],
}

impl LoadCapabilities {
    /// An atomic target with one writer and the modes create and replace.
    pub const fn one_writer() -> Self {
        Self {
            max_writers: 1,
            atomic: true,
            resumable: false,
            keeps_cursors: false,
            replaces_files: false,
            modes: &[LoadMode::Create, LoadMode::Replace],
        }
    }

    /// With these modes.
    #[must_use]
    pub const fn modes(mut self, modes: &'static [LoadMode]) -> Self {
        self.modes = modes;
        self
    }

    /// Whether a run can go on where it was stopped.
    #[must_use]
    pub const fn resumable(mut self, resumable: bool) -> Self {
        self.resumable = resumable;
        self
    }

    /// Whether positions of sources are saved with the rows.
    #[must_use]
    pub const fn keeps_cursors(mut self, keeps: bool) -> Self {
        self.keeps_cursors = keeps;
        self
    }

    /// Whether rows can come in place of some files.
    #[must_use]
    pub const fn replaces_files(mut self, replaces: bool) -> Self {
        self.replaces_files = replaces;
        self
    }

    /// With so many writers at a time.
    #[must_use]
    pub const fn max_writers(mut self, n: usize) -> Self {
        self.max_writers = n;
        self
    }

    /// # Errors
    /// `Unsupported`, naming the modes that there are.
    pub fn require(&self, mode: LoadMode, target: impl fmt::Display) -> Result<()> {
        if self.modes.contains(&mode) {
            return Ok(());
        }
        let modes: Vec<_> = self.modes.iter().map(|mode| mode.as_str()).collect();
        Err(Error::new(ErrorKind::Unsupported, format!("this target has no mode {mode}"))
            .hint(format!("it has {}", modes.join(", ")))
            .in_source(target))
    }
}

/// What a load would do, for the plan that a user reads.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct LoadPreview {
    /// Type at the target of each column, in order ("BIGINT", "INT64").
    pub column_types: Vec<String>,
    /// Statements that define the target, where it has any.
    pub ddl: Vec<String>,
    /// What a user should know: what is replaced, what is created.
    pub notes: Vec<String>,
}

/// A target's account of one staged partition.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Receipt {
    /// Which partition.
    pub partition: PartitionId,
    /// Rows staged, as counted at the target.
    pub rows: u64,
    /// Bytes written, where the target can tell.
    pub bytes: u64,
    /// Checksum of the rows; the engine fills it in with what it handed over when the target has none of its own.
    pub checksum: Option<Checksum>,
    /// Rows that came out of the source, of a partition that an earlier attempt at the run made durable.
    pub rows_read: Option<u64>,
}

impl Receipt {
    /// A receipt without a checksum of the target's own.
    pub fn new(partition: PartitionId, rows: u64, bytes: u64) -> Self {
        Self { partition, rows, bytes, checksum: None, rows_read: None }
    }

    /// With what was [kept](PartitionWriter::seal) with it.
    #[must_use]
    pub fn kept(mut self, tally: Tally) -> Self {
        (self.checksum, self.rows_read) = (Some(tally.checksum), Some(tally.rows_read));
        self
    }
}

/// What [`LoadSession::commit`] made visible.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Published {
    /// Rows that became visible with this commit.
    pub rows: u64,
    /// Bytes that the target has more of, or in place of what was replaced, where it can tell.
    pub bytes: u64,
}

impl Published {
    /// What became visible.
    pub fn new(rows: u64, bytes: u64) -> Self {
        Self { rows, bytes }
    }
}

/// The result of a whole load.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LoadResult {
    /// Rows that became visible.
    pub records_loaded: u64,
    /// Bytes that the target has more of, or in place of what was replaced, where it can tell.
    pub bytes_written: u64,
    /// Whether the load was published.
    pub success: bool,
    /// Checksum of the rows.
    pub checksum: Checksum,
    /// When it was published.
    pub timestamp: SystemTime,
}

impl LoadResult {
    /// The result of a published load.
    pub fn published(published: &Published, checksum: Checksum) -> Self {
        Self {
            records_loaded: published.rows,
            bytes_written: published.bytes,
            success: true,
            checksum,
            timestamp: SystemTime::now(),
        }
    }
}
