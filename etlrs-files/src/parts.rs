use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use etlrs_core::{Error, ErrorKind, PartitionId, Result, RunId};

use crate::source::is_data_name;
use crate::{Manifest, ManifestFile, Staging, source_files};

/// The files of a directory target: one for each partition of a load, beside those that were there before.
///
/// They are in the staging directory, and get a manifest when the load is complete.
#[derive(Debug)]
pub struct Parts {
    target: PathBuf,
    staged: PathBuf,
    run: RunId,
    extension: &'static str,
    /// Files that were there before, already in the staging directory.
    old: Vec<ManifestFile>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    parts: BTreeMap<PartitionId, ManifestFile>,
    closed: bool,
}

impl Parts {
    /// Takes the files named in `old` over from the target: hard links, so that it costs no space. New ones have names
    /// that end in `extension`.
    ///
    /// # Errors
    /// An I/O error.
    pub fn new(staging: &Staging, run: RunId, extension: &'static str, old: Vec<ManifestFile>) -> Result<Self> {
        let (target, staged) = (staging.target().to_owned(), staging.path().to_owned());
        for file in &old {
            let (from, to) = (target.join(&file.name), staged.join(&file.name));
            fs::hard_link(&from, &to)
                .or_else(|_| fs::copy(&from, &to).map(drop))
                .map_err(|error| Error::io("take over", from, error))?;
        }
        Ok(Self { target, staged, run, extension, old, state: Mutex::default() })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn name(&self, partition: PartitionId) -> String {
        // Run ids sort by time, so readers that know no manifest see the rows in the order of their loads.
        format!("part-{}-{:05}.{}", self.run, partition.0, self.extension)
    }

    /// Where the directory will be; errors name it.
    pub fn target(&self) -> &Path {
        &self.target
    }

    /// Where the file of `partition` is written. What an attempt before this one left is gone.
    ///
    /// # Errors
    /// An I/O error.
    pub fn begin(&self, partition: PartitionId) -> Result<PathBuf> {
        self.lock().parts.remove(&partition);
        let staged = self.staged.join(self.name(partition));
        // The attempt before may have finished, and only its receipt was lost.
        match fs::remove_file(&staged) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Error::io("write", &self.target, error)),
            _ => Ok(staged),
        }
    }

    /// Notes that the file of `partition` is complete.
    pub fn finish(&self, partition: PartitionId, rows: u64, bytes: u64) {
        let part = ManifestFile { name: self.name(partition), rows, bytes };
        self.lock().parts.insert(partition, part);
    }

    /// Writes the manifest, once, and gives the files of this load. A directory has one file at the least, for the schema
    /// would be lost without one: `empty` writes it at the path that it gets, and tells its size.
    ///
    /// # Errors
    /// Those of `empty`, and an I/O error.
    pub fn close(&self, empty: impl FnOnce(&Path) -> Result<u64>) -> Result<Vec<ManifestFile>> {
        let mut state = self.lock();
        if !state.closed {
            if state.parts.is_empty() && self.old.is_empty() {
                let name = self.name(PartitionId(0));
                let bytes = empty(&self.staged.join(&name))?;
                state.parts.insert(PartitionId(0), ManifestFile { name, rows: 0, bytes });
            }
            let files = self.old.iter().chain(state.parts.values()).cloned().collect();
            Manifest::new(self.run, files).write(&self.staged)?;
            state.closed = true;
        }
        Ok(state.parts.values().cloned().collect())
    }
}

/// The entry of a manifest for `path`, a file of a directory that was there before.
///
/// # Errors
/// `Unsupported` for a name that a manifest cannot hold, and an I/O error.
pub fn listed(path: &Path, rows: u64) -> Result<ManifestFile> {
    let name = path.file_name().and_then(|name| name.to_str()).ok_or_else(|| {
        Error::new(ErrorKind::Unsupported, "the name of a file is no Unicode, which a manifest needs")
            .in_source(path.display())
    })?;
    let bytes = fs::metadata(path).map_err(|error| Error::io("read", path, error))?.len();
    Ok(ManifestFile { name: name.to_owned(), rows, bytes })
}

/// The data files of `directory`, in order, for a load that keeps or replaces them; data has one of `extensions`.
///
/// A load exchanges the whole directory, so one that holds anything but these files, the manifest, and the marks that
/// other writers leave is refused: it would be lost.
///
/// # Errors
/// `InvalidConfig` for a directory that holds something else, and an I/O error.
pub fn data_files(directory: &Path, extensions: &[&str]) -> Result<Vec<PathBuf>> {
    let failed = |error| Error::io("read", directory, error);
    let entries = fs::read_dir(directory).map_err(failed)?.map(|entry| Ok(entry.map_err(failed)?.path()));
    let entries = entries.collect::<Result<Vec<_>>>()?;
    let is_mark = |path: &Path| {
        let name = path.file_name().unwrap_or_default().as_encoded_bytes();
        let known = [Manifest::NAME, "_SUCCESS", "_metadata", "_common_metadata"].map(str::as_bytes);
        path.is_file() && (known.contains(&name) || (name.starts_with(b".") && name.ends_with(b".crc")))
    };
    let is_data = |path: &PathBuf| {
        path.file_name().and_then(|name| name.to_str()).is_some_and(|name| is_data_name(name, extensions))
    };
    let files = if entries.iter().any(is_data) || Manifest::read(directory)?.is_some() {
        source_files(directory, extensions)?
    } else {
        Vec::new()
    };
    match entries.iter().find(|path| !files.contains(path) && !is_mark(path)) {
        None => Ok(files),
        Some(path) => Err(Error::new(
            ErrorKind::InvalidConfig,
            format!(
                "the directory holds {:?}, which is not part of its data and would be lost",
                path.file_name().unwrap_or_default()
            ),
        )
        .hint("move it away, or use another directory")
        .in_source(directory.display())),
    }
}
