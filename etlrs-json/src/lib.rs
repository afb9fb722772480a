//! JSON as a source and a target of ETLRS: a record on each line (NDJSON, JSON Lines), and lists of records.
//!
//! ```
//! use etlrs_core::{DatasetSnapshot, Extractor, PerformanceConfig, RunContext, ScanRequest};
//! use etlrs_json::JsonExtractor;
//!
//! # let folder = tempfile::tempdir().unwrap();
//! # let path = folder.path().join("flights.ndjson");
//! std::fs::write(&path, "{\"carrier\":\"UA\",\"delay\":2}\n{\"carrier\":\"AA\",\"delay\":null}\n").unwrap();
//! # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
//! let cx = RunContext::new(PerformanceConfig::default());
//! let scan = JsonExtractor::new(&path).scan(&cx, &ScanRequest::all()).await?;
//! let flights = DatasetSnapshot::collect(&cx, &*scan).await?;
//! let delays: Vec<_> = flights.records().map(|record| record.i64("delay")).collect::<Result<_, _>>()?;
//! assert_eq!(delays, [Some(2), None]);
//! # Ok::<(), etlrs_core::Error>(()) }).unwrap();
//! ```

mod connector;
mod decode;
mod encode;
mod extract;
mod infer;
mod layout;
mod load;
mod options;
mod planned;
mod reader;
mod scan;
mod survey;
mod syntax;

pub use connector::JsonConnector;
pub use etlrs_files::Compression;
pub use etlrs_files::text::{Encoding, Sample};
pub use extract::JsonExtractor;
pub use load::JsonLoader;
pub use options::{JsonLayout, JsonOptions, JsonWriteLayout, JsonWriteOptions, NonFinite, UnknownKeys};
pub use planned::Planned;
pub use syntax::document;

/// What the names of JSON files end in.
const EXTENSIONS: &[&str] = &[
    "ndjson",
    "jsonl",
    "json",
    "ndjson.gz",
    "jsonl.gz",
    "json.gz",
    "ndjson.zst",
    "jsonl.zst",
    "json.zst",
    "ndjson.bz2",
    "jsonl.bz2",
    "json.bz2",
    "ndjson.xz",
    "jsonl.xz",
    "json.xz",
];
