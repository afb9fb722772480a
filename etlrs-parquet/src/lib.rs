//! Parquet files and directories of them, as a source and a target.
//!
//! A source is read by whole row groups, as many at a time as there are readers. A target file is encoded by as many
//! writers as there are, and holds the rows in the order of the source; a target directory has a file per partition.
//! Readers of the target see the old data or the new.
//!
//! ```
//! use etlrs_core::*;
//! use etlrs_parquet::{ParquetExtractor, ParquetLoader};
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<()> {
//! # let folder = tempfile::tempdir().unwrap();
//! # let path = folder.path().join("numbers.parquet");
//! let cx = RunContext::new(PerformanceConfig::default());
//! let batch = record_batch([("n", vec![Some(1), None, Some(3)])]);
//!
//! let plan = LoadPlan::new(batch.schema(), LoadMode::Create, vec![Partition::new(0, "all")]);
//! let session = ParquetLoader::new(&path).begin(&cx, plan.clone()).await?;
//! let mut writer = session.writer(&cx, &plan.partitions[0], 1).await?;
//! writer.write(batch.clone()).await?;
//! let receipt = writer.finish().await?;
//! session.commit(vec![receipt]).await?;
//!
//! let scan = ParquetExtractor::new(&path).scan(&cx, &ScanRequest::all()).await?;
//! let mut rows = scan.read(&cx, &scan.partitions()[0])?;
//! assert_eq!(next_batch(&mut rows).await.transpose()?, Some(batch));
//! # Ok(()) }
//! ```

mod chunks;
mod columns;
mod connector;
mod directory;
mod encode;
mod error;
mod extract;
mod file;
mod footer;
mod load;
mod options;
mod output;
mod pages;
mod prune;
mod single;
mod split;
mod thrift;
mod types;

pub use columns::{BloomFilters, SortColumn, SortOrder};
pub use connector::ParquetConnector;
pub use extract::ParquetExtractor;
pub use load::ParquetLoader;
pub use options::{Compression, Int96Unit, ParquetReadOptions, ParquetWriteOptions, Statistics};

/// What the names of Parquet files end in.
const EXTENSIONS: &[&str] = &["parquet", "parq", "pq"];
