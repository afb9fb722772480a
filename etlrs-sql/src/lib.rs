//! Databases as sources and targets of ETLRS. Each is a feature, `postgres` and `sqlite`; SQLite is the default one.
//!
//! A table is read in pieces, side by side: ranges of rowids in SQLite, ranges of pages in PostgreSQL, where all of them are
//! of one snapshot. It is written into a staging table that becomes the target in one transaction, so that readers see the
//! old table or the new one. `docs/type-mapping.md` tells how types map.
//!
//! ```
//! use etlrs_core::*;
//! use etlrs_sql::{SqliteExtractor, SqliteLoader};
//!
//! # async fn example() -> Result<()> {
//! # let folder = tempfile::tempdir().unwrap();
//! # let path = folder.path().join("shop.db");
//! let cx = RunContext::new(PerformanceConfig::default());
//! let batch = record_batch([("id", vec![Some(1), Some(2)])]);
//! let partition = Partition::new(0, "all");
//!
//! // The engine does this for a pipeline.
//! let loader = SqliteLoader::new(&path, "orders");
//! let plan = LoadPlan::new(batch.schema(), LoadMode::Create, vec![partition.clone()]);
//! let session = loader.begin(&cx, plan).await?;
//! let mut writer = session.writer(&cx, &partition, 1).await?;
//! writer.write(batch).await?;
//! let receipt = writer.finish().await?;
//! session.commit(vec![receipt]).await?;
//!
//! let scan = SqliteExtractor::new(&path, "orders").scan(&cx, &ScanRequest::all()).await?;
//! let orders = DatasetSnapshot::collect(&cx, &*scan).await?;
//! assert_eq!(orders.total_count(), 2);
//! # Ok(())
//! # }
//! # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(example()).unwrap();
//! ```

#[cfg(any(feature = "mysql", feature = "postgres", feature = "sqlite"))]
mod connector;
#[cfg(any(feature = "mysql", feature = "postgres", feature = "sqlite"))]
mod cursor;
#[cfg(any(feature = "mysql", feature = "postgres", feature = "sqlite"))]
mod database;
mod dialect;
#[cfg(any(feature = "mysql", feature = "postgres"))]
mod gather;
#[cfg(any(feature = "mysql", feature = "postgres", feature = "sqlite"))]
mod hash;
#[cfg(any(feature = "mysql", feature = "postgres", feature = "sqlite"))]
mod key;
#[cfg(any(feature = "mysql", feature = "postgres"))]
mod network;
#[cfg(any(feature = "mysql", feature = "postgres", feature = "sqlite"))]
mod options;
#[cfg(any(feature = "mysql", feature = "postgres"))]
mod patience;
#[cfg(any(feature = "mysql", feature = "postgres"))]
mod pieces;
#[cfg(any(feature = "mysql", feature = "postgres", feature = "sqlite"))]
mod sift;
#[cfg(any(feature = "mysql", feature = "postgres"))]
mod table;
#[cfg(any(feature = "mysql", feature = "postgres", feature = "sqlite"))]
mod types;
#[cfg(any(feature = "mysql", feature = "postgres", feature = "sqlite"))]
mod value;

#[cfg(feature = "mysql")]
pub use connector::MysqlConnector;
#[cfg(feature = "postgres")]
pub use connector::PostgresConnector;
#[cfg(feature = "sqlite")]
pub use connector::SqliteConnector;
#[cfg(any(feature = "mysql", feature = "postgres", feature = "sqlite"))]
pub use database::{BatchLoader, DatabaseExtractor, DatabasePool};
#[cfg(feature = "mysql")]
pub use dialect::mysql::{MysqlExtractor, MysqlLoader, MysqlPool};
#[cfg(feature = "postgres")]
pub use dialect::postgres::{PostgresExtractor, PostgresLoader, PostgresPool};
#[cfg(feature = "sqlite")]
pub use dialect::sqlite::{SqliteExtractor, SqliteLoader};
#[cfg(any(feature = "mysql", feature = "postgres", feature = "sqlite"))]
pub use options::Seconds;
#[cfg(feature = "mysql")]
pub use options::ZeroDates;
#[cfg(feature = "mysql")]
pub use options::{MysqlSourceOptions, MysqlTargetOptions};
#[cfg(feature = "postgres")]
pub use options::{PostgresSourceOptions, PostgresTargetOptions};
#[cfg(feature = "sqlite")]
pub use options::{SqliteSourceOptions, SqliteTargetOptions};
