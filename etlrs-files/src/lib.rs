//! What every file format of ETLRS shares.
//!
//! A target is written beside its place under a temporary name, synced and renamed ([`Staging`]), so that readers see
//! the old data or the new, whatever happens in between. A [`TargetLock`] that dies with its process tells work in
//! progress from what dead runs left behind. Writers of many partitions append to one file in order ([`OrderedFile`]), or
//! fill a directory with a file each ([`Parts`]), which is described by its [`Manifest`]. Files can be
//! compressed as a whole ([`Compression`]). What CSV and JSON have in common is in [`text`].
//!
//! With the feature `object-store`, all of that is also for the URLs of object stores (`s3://`, `gs://`, `az://`): a path
//! may be one. [`InputFile`] reads either, [`OutputFile`] writes either.
//!
//! ```
//! use std::io::Write;
//! use etlrs_core::{LoadMode, PerformanceConfig, RunContext};
//! use etlrs_files::Staging;
//! # let folder = tempfile::tempdir().unwrap();
//! # let target = folder.path().join("out.txt");
//!
//! let cx = RunContext::new(PerformanceConfig::default());
//! let staging = Staging::file(&target, LoadMode::Create, &cx)?;
//! let mut file = staging.create(None)?;
//! file.write_all(b"rows").unwrap();
//! staging.finish(None, file)?;
//! assert!(!target.exists());
//! staging.publish()?;
//! assert_eq!(std::fs::read_to_string(&target).unwrap(), "rows");
//! # Ok::<(), etlrs_core::Error>(())
//! ```

mod compression;
mod input;
mod lock;
mod manifest;
mod mapping;
#[cfg(feature = "object-store")]
mod objects;
mod ordered;
mod output;
mod parts;
mod pattern;
mod place;
mod source;
mod staging;
pub mod text;

pub use compression::{Compression, Compressor, Decompressor, reading, shortened};
pub use input::{InputFile, InputReader};
pub use lock::TargetLock;
pub use manifest::{Manifest, ManifestFile};
pub use mapping::Mapping;
pub use ordered::OrderedFile;
pub use output::OutputFile;
pub use parts::{Parts, data_files, listed, without_replaced};
pub(crate) use place::require_local;
pub use place::{STORE_SCHEMES, file_of, is_directory_target, store_scheme};
pub use source::{fingerprint, source_files, takes_in, unchanged};
pub use staging::{StagedPart, Staging};
