//! Moves and transforms tabular data between files and databases.
//!
//! A pipeline reads a source in partitions side by side, transforms them, and stages them at the target within a memory
//! budget; then it compares what was staged with what was read, and publishes it at once. Each connector is a feature.
//!
//! ```
//! use etlrs::{CsvExtractor, Expr, Filter, LoadMode, ParquetLoader, PipelineBuilder, Verify};
//!
//! # let folder = tempfile::tempdir().unwrap();
//! # let (source, target) = (folder.path().join("flights.csv"), folder.path().join("late.parquet"));
//! std::fs::write(&source, "carrier,delay\nUA,2\nAA,33\n").unwrap();
//! # tokio::runtime::Runtime::new().unwrap().block_on(async {
//! let report = PipelineBuilder::new()
//!     .extract(CsvExtractor::new(&source))
//!     .transform(Filter::new(Expr::parse("delay > 15")?))
//!     .load(ParquetLoader::new(&target))
//!     .mode(LoadMode::Replace)
//!     .verify(Verify::Full)
//!     .build()?
//!     .execute()
//!     .await?;
//! assert_eq!((report.rows_read, report.load.records_loaded), (2, 1));
//! assert_eq!(report.target_checksum, Some(report.source_checksum));
//! # Ok::<(), etlrs::Error>(()) }).unwrap();
//! ```
//!
//! [`registry`] makes URIs into extractors and loaders; [`PipelineFile`] reads a whole pipeline from TOML or YAML.

mod ends;
mod errors;
#[cfg(feature = "pipeline-file")]
mod pipeline_file;
mod replay;
#[cfg(feature = "pipeline-file")]
mod section;
mod tables;
#[cfg(feature = "pipeline-file")]
mod transforms;

pub use ends::is_same_place;
pub use errors::{ErrorPolicy, OnError};
pub use etlrs_core::*;
#[cfg(feature = "csv")]
pub use etlrs_csv::{CsvConnector, CsvExtractor, CsvLoader, CsvOptions, CsvWriteOptions};
pub use etlrs_engine::*;
#[cfg(feature = "json")]
pub use etlrs_json::{JsonConnector, JsonExtractor, JsonLoader, JsonOptions, JsonWriteOptions};
#[cfg(feature = "parquet")]
pub use etlrs_parquet::{ParquetConnector, ParquetExtractor, ParquetLoader};
#[cfg(any(feature = "mysql", feature = "postgres", feature = "sqlite"))]
pub use etlrs_sql::{BatchLoader, DatabaseExtractor, DatabasePool};
#[cfg(feature = "mysql")]
pub use etlrs_sql::{MysqlConnector, MysqlExtractor, MysqlLoader, MysqlPool};
#[cfg(feature = "postgres")]
pub use etlrs_sql::{PostgresConnector, PostgresExtractor, PostgresLoader, PostgresPool};
#[cfg(feature = "sqlite")]
pub use etlrs_sql::{SqliteConnector, SqliteExtractor, SqliteLoader};
#[cfg(feature = "pipeline-file")]
pub use pipeline_file::{AlertActions, PipelineFile, Target};
pub use replay::replay;
pub use tables::{list_tables, tables};

/// A pipeline from one URI to another, to be completed.
///
/// # Errors
/// `InvalidConfig` for a URI or an option that is wrong, for a database that would be read and written at once, and for a
/// target among the files of the source.
pub fn pipeline(
    registry: &Registry,
    source: (&Uri, &OptionMap),
    target: (&Uri, &OptionMap),
) -> Result<PipelineBuilder> {
    let of_target = |error: Error| error.in_source(format!("target {}", target.0));
    let builder = compared(registry, source, target)?;
    ends::require_databases_apart(registry, source.0, target.0)?;
    ends::require_one_place(registry, target.0).map_err(of_target)?;
    ends::require_apart(registry, source.0, target.0).map_err(of_target)?;
    Ok(builder)
}

/// The same, of which both ends are only [compared](Pipeline::compare), and may therefore be anywhere.
///
/// # Errors
/// `InvalidConfig` for a URI or an option that is wrong.
pub fn compared(
    registry: &Registry,
    source: (&Uri, &OptionMap),
    target: (&Uri, &OptionMap),
) -> Result<PipelineBuilder> {
    let of_source = |error: Error| error.in_source(format!("source {}", source.0));
    let of_target = |error: Error| error.in_source(format!("target {}", target.0));
    let extractor = registry.find(source.0)?.extractor(source.0, source.1).map_err(of_source)?;
    let loader = registry.find(target.0)?.loader(target.0, target.1).map_err(of_target)?;
    Ok(PipelineBuilder::new().extract_from(extractor).load_into(loader))
}

/// The connectors whose features are on.
pub fn registry() -> Registry {
    let registry = Registry::new();
    #[cfg(feature = "csv")]
    let registry = registry.with(CsvConnector);
    #[cfg(feature = "json")]
    let registry = registry.with(JsonConnector);
    #[cfg(feature = "parquet")]
    let registry = registry.with(ParquetConnector);
    #[cfg(feature = "mysql")]
    let registry = registry.with(MysqlConnector);
    #[cfg(feature = "postgres")]
    let registry = registry.with(PostgresConnector);
    #[cfg(feature = "sqlite")]
    let registry = registry.with(SqliteConnector);
    registry
}
