//! The stage traits and the data model of ETLRS: all that a connector needs, and nothing else.
//!
//! Data flows as Arrow record batches from an [`Extractor`] through [`Transformer`]s to a [`Loader`]. A source is
//! looked at once ([`Scan`]) and read in [`Partition`]s; a target stages what it gets in a [`LoadSession`] and
//! publishes it at once. The engine, which this crate knows nothing of, runs partitions side by side, keeps the
//! memory budget, retries, and compares a [`Checksum`] of what was read with one of what was staged.
//!
//! A connector author implements [`Extractor`] and [`Scan`], or [`Loader`], [`LoadSession`] and [`PartitionWriter`];
//! [`MemoryExtractor`] and [`MemoryLoader`] are the smallest whole ones, and [`one_writer`] is a short way to a loader. A
//! source of numbers:
//!
//! ```
//! use std::sync::Arc;
//! use etlrs_core::*;
//!
//! struct Numbers(i64);
//!
//! #[async_trait]
//! impl Extractor for Numbers {
//!     async fn scan(&self, cx: &RunContext, request: &ScanRequest) -> Result<Arc<dyn Scan>> {
//!         let batch = record_batch([("n", (0..self.0).map(Some).collect())]);
//!         MemoryExtractor::new(batch.schema(), [batch]).scan(cx, request).await
//!     }
//! }
//! # let _ = Numbers(3);
//! ```

mod adapt;
mod checksum;
mod config;
mod context;
mod error;
mod extract;
mod failpoint;
mod filter;
mod in_memory;
mod load;
mod memory;
mod options;
mod record;
mod registry;
mod reject;
mod secret;
mod simple_loader;
mod snapshot;
mod transform;
mod turnstile;
mod types;
mod uri;

pub use adapt::{batches_from_fn, batches_from_iter, flat_map_stream, map_batches, map_stream, named, next_batch};
pub use checksum::{Checksum, SchemaHash, row_hashes};
pub use config::PerformanceConfig;
pub use context::{CancelToken, Counter, Counters, RunContext, RunId};
pub use error::{Error, ErrorKind, Position, Result};
pub use extract::{
    After, BatchStream, Detail, Extractor, Fingerprint, Partition, PartitionId, Pushdown, Scan, ScanRequest,
};
pub use failpoint::failpoint;
pub use filter::{ColumnTest, Comparison, Test};
pub use in_memory::{MemoryExtractor, MemoryLoader, record_batch};
pub use load::{
    Interrupted, LoadCapabilities, LoadMode, LoadPlan, LoadPreview, LoadResult, LoadSession, Loader, PartitionWriter,
    Published, Receipt, Refusals, SavedCursor, Tally, gone_on_elsewhere, not_read_back,
};
pub use memory::{MemoryBudget, Reservation, batch_bytes, format_bytes, parse_bytes};
pub use options::{OptionArgument, OptionSet, OptionSpec, OptionValue, unknown_name};
pub use record::{ColumnRef, OwnedRecord, Record, RecordBatchBuilder, Value, column_index};
pub use registry::{Connector, OptionMap, Registry, TableEntry, matches_pattern};
pub use reject::{RecordFormat, Rejected, RejectedBy, Rejects};
pub use secret::Secret;
pub use simple_loader::{SimpleLoader, one_writer};
pub use snapshot::DatasetSnapshot;
pub use transform::{BoundTransformer, Effect, Transformer};
pub use turnstile::Turnstile;
pub use types::{ColumnTypes, as_json_text, is_json_text, parse_type, type_name, without_json_mark};
pub use uri::Uri;

// The types of others that the traits speak in, so that a connector need not match their versions by hand.
pub use arrow_array::{self, RecordBatch};
pub use arrow_schema::{self, DataType, Field, Schema, SchemaRef};
pub use async_trait::async_trait;
