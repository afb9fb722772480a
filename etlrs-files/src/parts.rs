use std::collections::{BTreeMap, HashSet};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use etlrs_core::{CancelToken, Error, ErrorKind, LoadPlan, PartitionId, Result, RunId, Tally};

use crate::source::{Entry, entries, is_data_name};
use crate::{InputFile, Manifest, ManifestFile, OutputFile, StagedPart, Staging, source_files};

/// The files of a directory target: one for each partition of a load, beside those that were there before.
///
/// They are staged, and get a manifest when the load is complete.
#[derive(Debug)]
pub struct Parts {
    staging: Arc<Staging>,
    run: RunId,
    extension: &'static str,
    /// Files that were there before, and stay; `None` where one was that goes.
    old: Vec<Option<ManifestFile>>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    parts: BTreeMap<PartitionId, ManifestFile>,
    closed: bool,
}

impl Parts {
    /// Takes the files named in `old` over from the target, and those that the run had staged before. New ones have names that end in
    /// `extension`, and come behind the old ones; the first of them come where those were that [go](without_replaced), `None` in `old`.
    ///
    /// # Errors
    /// An I/O error.
    pub fn new(
        staging: Arc<Staging>,
        run: RunId,
        extension: &'static str,
        old: Vec<Option<ManifestFile>>,
    ) -> Result<Self> {
        staging.take_over(&old.iter().flatten().cloned().collect::<Vec<_>>())?;
        let completed = staging.completed().iter().filter_map(|part| {
            let file = ManifestFile { name: part.name.clone()?, rows: part.rows, bytes: part.bytes };
            Some((PartitionId(part.partition), file))
        });
        let state = State { parts: completed.collect(), closed: false };
        Ok(Self { staging, run, extension, old, state: Mutex::new(state) })
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
        self.staging.target()
    }

    /// Bytes that each file that is being written holds.
    pub fn file_memory(&self) -> usize {
        self.staging.file_memory()
    }

    /// Makes room for the file of `partition`: what an attempt before this one left is gone.
    ///
    /// # Errors
    /// An I/O error.
    pub fn begin(&self, partition: PartitionId) -> Result<()> {
        // The attempt before may have finished, and only its receipt was lost.
        self.lock().parts.remove(&partition);
        self.staging.remove(&self.name(partition))
    }

    /// Creates the file of `partition`.
    ///
    /// # Errors
    /// An I/O error.
    pub fn create(&self, partition: PartitionId) -> Result<OutputFile> {
        self.staging.create(Some(&self.name(partition)))
    }

    /// Ends the file of `partition`; gives its size.
    ///
    /// # Errors
    /// An I/O error, `VerifyFailed` if not all of it is there.
    pub fn finish(&self, partition: PartitionId, file: OutputFile, rows: u64) -> Result<u64> {
        self.end(partition, Some(file), rows, None, false)
    }

    /// Ends `partition`, with its file if it has rows, and keeps in mind that it is staged, as the engine [told](Tally); gives the
    /// size of the file.
    ///
    /// # Errors
    /// As [`finish`](Self::finish).
    pub fn end(
        &self,
        partition: PartitionId,
        file: Option<OutputFile>,
        rows: u64,
        tally: Option<Tally>,
        fine: bool,
    ) -> Result<u64> {
        let tally = tally.filter(|tally| tally.checksum.rows() == rows);
        let Some(mut file) = file else {
            tally.map_or(Ok(()), |tally| self.staging.keep(StagedPart::new(partition, tally).with_fine(fine)))?;
            return Ok(0);
        };
        let (name, (crc, _)) = (self.name(partition), file.take_crc());
        let bytes = self.staging.finish(Some(&name), file)?;
        if let Some(tally) = tally {
            let part = StagedPart::new(partition, tally).with_fine(fine);
            self.staging.keep(part.in_file(name.clone(), bytes, crc))?;
        }
        self.lock().parts.insert(partition, ManifestFile { name, rows, bytes });
        Ok(bytes)
    }

    /// Removes the file of `partition`, which was not finished.
    pub fn discard(&self, partition: PartitionId) {
        // What cannot be removed goes with the staging directory, or is overwritten by the next attempt.
        let _ = self.staging.remove(&self.name(partition));
    }

    /// Writes the manifest, once, and gives the files of this load. A directory has one file at the least, for the schema
    /// would be lost without one: `empty` writes it.
    ///
    /// # Errors
    /// Those of `empty`, and an I/O error.
    pub fn close(&self, empty: impl FnOnce(OutputFile) -> Result<OutputFile>) -> Result<Vec<ManifestFile>> {
        let is_empty = {
            let state = self.lock();
            !state.closed && state.parts.is_empty() && self.old.iter().all(Option::is_none)
        };
        if is_empty {
            let only = PartitionId(0);
            self.finish(only, empty(self.create(only)?)?, 0)?;
        }
        let mut state = self.lock();
        if !state.closed {
            let mut new = state.parts.values().cloned();
            let mut files: Vec<_> = self.old.iter().filter_map(|old| old.clone().or_else(|| new.next())).collect();
            files.extend(new);
            self.staging.set_manifest(Manifest::new(self.run, files))?;
            state.closed = true;
        }
        Ok(state.parts.values().cloned().collect())
    }
}

/// Whether it has the name of a file that a load wrote.
pub(crate) fn is_part(name: &str) -> bool {
    let rest = name.strip_prefix("part-").and_then(|rest| rest.split_at_checked(RunId::LENGTH));
    rest.is_some_and(|(run, rest)| run.bytes().all(|byte| byte.is_ascii_alphanumeric()) && rest.starts_with('-'))
}

/// Whether it has the name of a file that another writer leaves beside its data, and that says nothing without it.
pub(crate) fn is_mark(name: &str) -> bool {
    ["_SUCCESS", "_metadata", "_common_metadata"].contains(&name) || (name.starts_with('.') && name.ends_with(".crc"))
}

/// The entry of a manifest for `path`, a file of a directory that was there before.
///
/// # Errors
/// `Unsupported` for a name that a manifest cannot hold, and an I/O error.
pub fn listed(path: &Path, rows: u64, cancel: &CancelToken) -> Result<ManifestFile> {
    let name = path.file_name().and_then(|name| name.to_str()).ok_or_else(|| {
        Error::new(ErrorKind::Unsupported, "the name of a file is no Unicode, which a manifest needs")
            .in_source(path.display())
    })?;
    let bytes = InputFile::open(path, cancel)?.length();
    Ok(ManifestFile { name: name.to_owned(), rows, bytes })
}

/// `files` of the target directory, with `None` in place of those that go as the rows of `plan` come.
///
/// # Errors
/// `SourceChanged` if one that is to go is not there.
pub fn without_replaced<T>(plan: &LoadPlan, files: Vec<T>, path: impl Fn(&T) -> &Path) -> Result<Vec<Option<T>>> {
    // The names are of one directory, which may be spelled in two ways.
    let name = |file: &Arc<str>| Path::new(&**file).file_name().map(OsStr::to_owned);
    let mut goes: HashSet<_> = plan.replaces.iter().filter_map(name).collect();
    let is_known = goes.len() == plan.replaces.len();
    let stays = |file: T| match path(&file).file_name().is_some_and(|name| goes.remove(name)) {
        true => None,
        false => Some(file),
    };
    let stays = files.into_iter().map(stays).collect();
    match goes.is_empty() && is_known {
        true => Ok(stays),
        false => Err(Error::new(ErrorKind::SourceChanged, "a file that is to be replaced is not there")),
    }
}

/// The data files of `directory`, in order, for a load that keeps or replaces them; data has one of `extensions`.
///
/// A load exchanges the whole directory, so one that holds anything but these files, the manifest, and the marks that
/// other writers leave is refused: it would be lost.
///
/// # Errors
/// `InvalidConfig` for a directory that holds something else, and an I/O error.
pub fn data_files(directory: &Path, extensions: &[&str], cancel: &CancelToken) -> Result<Vec<PathBuf>> {
    let entries = entries(directory, cancel)?;
    let name = |entry: &Entry| entry.path.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
    let manifest = Manifest::read_any(directory, cancel)?;
    // In an object store, a run that is publishing, or died then, has files there that no manifest names.
    let is_unnamed = |entry: &Entry| {
        let hides = |manifest: &Manifest| manifest.hides(&name(entry));
        crate::store_scheme(directory).is_some() && manifest.as_ref().is_some_and(hides)
    };
    let is_data = |entry: &Entry| is_data_name(&name(entry), extensions) && !is_unnamed(entry);
    let is_published = manifest.as_ref().is_some_and(|manifest| !manifest.standing);
    let files = if is_published || entries.iter().any(is_data) {
        source_files(directory, extensions, cancel)?
    } else {
        Vec::new()
    };
    let is_mark = |entry: &Entry| entry.is_file && (is_mark(&name(entry)) || name(entry) == Manifest::NAME);
    let known: HashSet<_> = files.iter().collect();
    match entries.iter().find(|entry| !known.contains(&entry.path) && !is_mark(entry) && !is_unnamed(entry)) {
        None => Ok(files),
        Some(entry) => Err(Error::new(
            ErrorKind::InvalidConfig,
            format!(
                "the directory holds {:?}, which is not part of its data and would be lost",
                entry.path.file_name().unwrap_or_default()
            ),
        )
        .hint("move it away, or use another directory")
        .in_source(directory.display())),
    }
}
