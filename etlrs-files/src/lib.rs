//! What every file format of ETLRS shares.
//!
//! A target is written beside its place under a temporary name, synced and renamed ([`Staging`]), so that readers see
//! the old data or the new, whatever happens in between. A [`TargetLock`] that dies with its process tells work in
//! progress from what dead runs left behind. Writers of many partitions append to one file in order ([`OrderedFile`]), or
//! fill a directory with a file each ([`Parts`]), which is described by its [`Manifest`]. Files can be
//! compressed as a whole ([`Compression`]).
//!
//! ```
//! use etlrs_core::{LoadMode, RunId};
//! use etlrs_files::Staging;
//! # let folder = tempfile::tempdir().unwrap();
//! # let target = folder.path().join("out.txt");
//!
//! let staging = Staging::file(&target, LoadMode::Create, RunId::generate())?;
//! std::fs::write(staging.path(), "rows").unwrap();
//! assert!(!target.exists());
//! staging.publish()?;
//! assert_eq!(std::fs::read_to_string(&target).unwrap(), "rows");
//! # Ok::<(), etlrs_core::Error>(())
//! ```

mod compression;
mod lock;
mod manifest;
mod ordered;
mod parts;
mod source;
mod staging;

pub use compression::{Compression, Compressor, Decompressor, reading};
pub use lock::TargetLock;
pub use manifest::{Manifest, ManifestFile};
pub use ordered::OrderedFile;
pub use parts::{Parts, data_files, listed};
pub use source::{fingerprint, source_files};
pub use staging::Staging;
