//! CSV as a source and a target of ETLRS.
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

mod auto;
mod connector;
mod decode;
mod detect;
mod encode;
mod extract;
mod format;
mod guess;
mod infer;
mod layout;
mod load;
mod old;
mod options;
mod places;
mod planned;
mod quick;
mod read_back;
mod reader;
mod records;
mod scan;
mod skip;
mod split;
mod survey;

pub use auto::{Auto, Detectable};
pub use connector::CsvConnector;
pub use etlrs_files::Compression;
pub use etlrs_files::text::{Encoding, Sample};
pub use extract::CsvExtractor;
pub use format::{Format, Formats};
pub use load::CsvLoader;
pub use options::{Comment, CsvOptions, CsvWriteOptions, Delimiter, Escape, LineEnd, Quote, Quoting, Ragged};
pub use planned::Planned;

/// What the names of CSV files end in.
const EXTENSIONS: &[&str] =
    &["csv", "tsv", "csv.gz", "csv.zst", "csv.bz2", "csv.xz", "tsv.gz", "tsv.zst", "tsv.bz2", "tsv.xz"];

/// Those of files that are separated by tabs.
const TAB_EXTENSIONS: &[&str] = &["tsv", "tsv.gz", "tsv.zst", "tsv.bz2", "tsv.xz"];
