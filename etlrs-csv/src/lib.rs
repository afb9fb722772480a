//! CSV as a source of ETLRS.
//!
//! ```
//! use etlrs_core::{DatasetSnapshot, Extractor, PerformanceConfig, RunContext, ScanRequest};
//! use etlrs_csv::CsvExtractor;
//!
//! # let folder = tempfile::tempdir().unwrap();
//! # let path = folder.path().join("flights.csv");
//! std::fs::write(&path, "carrier,delay\nUA,2\nAA,\n").unwrap();
//! # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
//! let cx = RunContext::new(PerformanceConfig::default());
//! let scan = CsvExtractor::new(&path).scan(&cx, &ScanRequest::all()).await?;
//! let flights = DatasetSnapshot::collect(&cx, &*scan).await?;
//! let delays: Vec<_> = flights.records().map(|record| record.i64("delay")).collect::<Result<_, _>>()?;
//! assert_eq!(delays, [Some(2), None]);
//! # Ok::<(), etlrs_core::Error>(()) }).unwrap();
//! ```

mod connector;
mod decode;
mod extract;
mod guess;
mod infer;
mod options;
mod quick;
mod reader;
mod records;
mod split;
mod value;

pub use connector::CsvConnector;
pub use extract::CsvExtractor;
pub use options::{CsvOptions, Delimiter, Quote};
