use std::sync::Arc;
use std::time::Duration;

use etlrs_core::{Checksum, LoadMode, LoadPreview, LoadResult, Partition, RunId, SchemaRef};

use crate::{Adjustment, Alert, BatchSizes, MemoryUse, Resumed, StageReport, Verify};

/// What a run would do. Nothing has been touched.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Plan {
    /// Schema of the source.
    pub source_schema: SchemaRef,
    /// Schema of what is loaded, after all transformers.
    pub schema: SchemaRef,
    /// What rows go through on their way, by name.
    pub transformers: Vec<String>,
    /// The pieces in which the source is read.
    pub partitions: Vec<Partition>,
    /// Threads that work on them.
    pub workers: usize,
    /// The memory budget in bytes.
    pub memory: usize,
    /// What happens to a target that exists.
    pub mode: LoadMode,
    /// Whether readers of the target see all rows at once.
    pub atomic: bool,
    /// Columns, statements and notes of the target.
    pub target: LoadPreview,
    /// The same of the quarantine, if there is one.
    pub quarantine: Option<LoadPreview>,
    /// What there is to know about the source.
    pub notes: Vec<String>,
}

/// What became of a partition.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct PartitionReport {
    /// What it covers, in the words of the connector.
    pub descriptor: String,
    /// The file or table that it is a piece of, if the connector tells.
    pub source: Option<Arc<str>>,
    /// When a worker took it, since the first one could.
    pub began: Duration,
    /// How long it took, with attempts that failed.
    pub elapsed: Duration,
    /// Attempts.
    pub attempts: u32,
    /// Rows that came out of the source.
    pub rows_read: u64,
    /// Rows that were staged.
    pub rows: u64,
}

/// What a run has done.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct RunReport {
    /// The run.
    pub run: RunId,
    /// What was published.
    pub load: LoadResult,
    /// Rows that came out of the source, and records that it rejected. A source that the filters let skip rows, as Parquet
    /// does by its statistics, does not count those.
    pub rows_read: u64,
    /// Records that were set aside into the quarantine, of those that were read.
    pub rows_rejected: u64,
    /// The first of them in the source: its place, and what was wrong.
    pub first_rejected: Option<String>,
    /// Rows that the transformers left out, of those that were read; without those that were rejected.
    pub rows_dropped: u64,
    /// Bytes read at the source, where it can tell.
    pub bytes_read: u64,
    /// How far the target was checked before it was published.
    pub verify: Verify,
    /// Checksum of the rows that were read, after all transformers.
    pub source_checksum: Checksum,
    /// Checksum of the staged rows as they were read back, if they were.
    pub target_checksum: Option<Checksum>,
    /// Partitions, in the order of the source. Those that were staged before, by a run that this one goes on with, are not among
    /// them.
    pub loaded: Vec<PartitionReport>,
    /// Partitions.
    pub partitions: usize,
    /// Threads that worked on them.
    pub workers: usize,
    /// Threads that would have worked with memory for all of them.
    pub possible_workers: usize,
    /// The memory budget in bytes.
    pub memory: usize,
    /// How it was shared out when the run began.
    pub memory_use: Vec<MemoryUse>,
    /// How large the batches of the source were.
    pub batches: BatchSizes,
    /// What the time of the workers went into.
    pub stages: Vec<StageReport>,
    /// Thresholds that it went beyond, each once.
    pub alerts: Vec<Alert>,
    /// What was changed while it went on, if it was to tune itself.
    pub adjustments: Vec<Adjustment>,
    /// Wall time in which the workers worked on partitions.
    pub loading: Duration,
    /// The time that all workers had in it.
    pub worker_time: Duration,
    /// Attempts after a first one failed.
    pub retries: u64,
    /// Wall time from the first look at the source to the commit.
    pub elapsed: Duration,
    /// The value up to which a column that grows was read, if the source was asked to go by one.
    pub cursor: Option<String>,
    /// The value behind which it was read, if that was the one that the target had kept.
    pub cursor_after: Option<String>,
    /// The target keeps the value, for the next run to go on from.
    pub cursor_saved: bool,
    /// What there is to know about the source.
    pub notes: Vec<String>,
    /// What was done before, if this run goes on with one that was stopped.
    pub resumed: Option<Resumed>,
    /// Whether the target was given a mark that says it is published, for [`Pipeline::acknowledge`](crate::Pipeline::acknowledge).
    pub has_mark: bool,
}
