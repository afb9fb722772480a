//! The pipeline of ETLRS: it reads partitions of a source side by side, transforms them, stages them at the target
//! within a memory budget, compares what was staged with what was read, and publishes it at once.
//!
//! ```
//! use etlrs_core::{MemoryExtractor, MemoryLoader, record_batch};
//! use etlrs_engine::{Expr, Filter, PipelineBuilder};
//!
//! # tokio::runtime::Runtime::new().unwrap().block_on(async {
//! let flights = record_batch([("delay", vec![Some(2), None, Some(40)])]);
//! let target = MemoryLoader::new();
//! let report = PipelineBuilder::new()
//!     .extract(MemoryExtractor::new(flights.schema(), [flights]))
//!     .transform(Filter::new(Expr::parse("delay > 15")?))
//!     .load(target.clone())
//!     .build()?
//!     .execute()
//!     .await?;
//! assert_eq!((report.rows_read, report.load.records_loaded), (3, 1));
//! # Ok::<(), etlrs_core::Error>(()) }).unwrap();
//! ```

mod alert;
mod cache;
mod compare;
mod diagnosis;
mod discard;
mod load;
mod max_errors;
mod memory;
mod memory_use;
mod partitions;
mod pipeline;
mod place;
mod pool;
mod pushdown;
mod quarantine;
mod read_as;
mod replay;
mod report;
mod resume;
mod run;
mod stages;
mod transform;
mod tune;

pub use alert::{Alert, AlertThresholds, PerformanceAlert, PerformanceSnapshot};
pub use cache::{CacheStats, LookupCache};
pub use compare::{CompareOptions, Difference, Repair, Side, Unexpected, Verification};
pub use diagnosis::{
    Limit, Measured, ThroughputAnalysis, diagnose_throughput, optimize_memory_usage, optimize_throughput,
};
pub use discard::Discard;
pub use max_errors::MaxErrors;
pub use memory_use::{AllocatorUsage, BatchSizes, MemoryAnalysis, MemoryUse, ProcessMemory, diagnose_memory_usage};
pub use pipeline::{Inspection, Pipeline, PipelineBuilder, Started, Verify, collect, inspect};
pub use pool::{PooledRecord, RecordPool};
pub use replay::{Replay, ReplayStep};
pub use report::{PartitionReport, Plan, RunReport};
pub use resume::{Resume, Resumed};
pub use stages::{StageKind, StageReport, Stages};
pub use transform::*;
pub use tune::{Adjustment, Setting};
