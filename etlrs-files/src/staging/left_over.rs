//! What runs that died, or were stopped, left beside a target.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use etlrs_core::{CancelToken, Error, Interrupted, Result, RunId};

use super::disk::{parent, remove, sync};
use super::ledger::{Found, StagedPart};
use crate::Manifest;
use crate::lock::hidden_beside;

/// The suffix of what a publishing without renameat2 has moved away.
pub(super) const OLD: &str = "old";
/// The suffix of the ledger of a run.
pub(super) const LEDGER: &str = "ledger";

/// Whether the run was published: the manifest of a directory, which comes to its place by the same rename as the rows, says whose
/// they are; the one file has lost its temporary name by that. One that was removed since does not count.
pub(super) fn what_is_left(target: &Path, run: RunId, found: &Found, cancel: &CancelToken) -> Result<Interrupted> {
    let is_published = match fs::metadata(target) {
        Ok(place) if place.is_dir() => {
            Manifest::read(target, cancel)?.is_some_and(|manifest| manifest.run == run.to_string())
        }
        Ok(place) if found.is_publishing => {
            let staged = hidden_beside(target, &format!("{run}.tmp"))?;
            match fs::symlink_metadata(&staged) {
                // Without renameat2 it has both names for a moment.
                Ok(staged) => (staged.dev(), staged.ino()) == (place.dev(), place.ino()),
                Err(error) if error.kind() == io::ErrorKind::NotFound => true,
                Err(error) => return Err(Error::io("look at", staged, error)),
            }
        }
        _ => false,
    };
    Ok(Interrupted::new(run, found.record(), found.receipts()).published(is_published))
}

/// Cuts the one file off behind `parts`; without any it goes.
pub(super) fn cut_off(file: &Path, parts: &[StagedPart]) -> io::Result<()> {
    match parts.last() {
        Some(last) => OpenOptions::new().write(true).open(file)?.set_len(last.range().end),
        None => remove(file),
    }
}

/// Removes from `directory`, if it is there, all that is not one of `parts`.
pub(super) fn leave_only(directory: &Path, parts: &[StagedPart]) -> io::Result<()> {
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        let is_part = |part: &StagedPart| part.name.as_deref().is_some_and(|name| entry.file_name() == name);
        if !parts.iter().any(is_part) {
            remove(&entry.path())?;
        }
    }
    Ok(())
}

/// Puts back what `exchange_plainly` of a run that died had moved away, or removes it if the new data is in place. The
/// lock of the target is held.
pub(super) fn recover(target: &Path) -> Result<()> {
    let old = hidden_beside(target, OLD)?;
    if !old.exists() {
        return Ok(());
    }
    let done = if target.exists() { remove(&old) } else { fs::rename(&old, target) };
    done.map_err(|error| Error::io("recover", target, error))
}

/// Removes what runs left, but for that of the run `except`.
pub(super) fn remove_stale(target: &Path, except: Option<RunId>) -> Result<()> {
    let stale = left_over(target)?.into_iter().filter(|(run, _)| Some(*run) != except);
    let (ledgers, others): (Vec<_>, Vec<_>) = stale.map(|(_, path)| path).partition(|path| is_ledger(path));
    // A ledger before what it tells of.
    for paths in [ledgers, others] {
        for path in &paths {
            remove(path).map_err(|error| Error::io("remove old staging", path, error))?;
        }
        if !paths.is_empty() {
            sync(parent(target)).map_err(|error| Error::io("remove old staging beside", target, error))?;
        }
    }
    Ok(())
}

/// What runs left beside the target.
pub(super) fn left_over(target: &Path) -> Result<Vec<(RunId, PathBuf)>> {
    let prefix = hidden_beside(target, "")?;
    let prefix = prefix.file_name().unwrap_or_default().as_encoded_bytes();
    let failed = |error| Error::io("look for old staging beside", target, error);
    let mut found = Vec::new();
    let entries = match fs::read_dir(parent(target)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(found),
        entries => entries.map_err(failed)?,
    };
    for entry in entries {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name();
        let rest = name.as_encoded_bytes().strip_prefix(prefix).and_then(|rest| std::str::from_utf8(rest).ok());
        // Of this target, and not of another whose name goes on after a part that looks like this one's.
        let run = rest.and_then(|rest| rest.split_once('.'));
        let run =
            run.filter(|(_, kind)| ["tmp", LEDGER, "ledger~"].contains(kind)).and_then(|(run, _)| run.parse().ok());
        found.extend(run.map(|run| (run, entry.path())));
    }
    Ok(found)
}

pub(super) fn is_ledger(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == LEDGER)
}
