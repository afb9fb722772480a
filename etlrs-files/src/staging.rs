//! Design note. `Staging` owns one temporary file or directory beside the target, on the same file system, so that
//! publishing is one rename: `rename` over an old file, `renameat2` with `EXCHANGE` for an old directory (the old one
//! then has the temporary name and is removed), with `NOREPLACE` in mode create. Whatever is found under a temporary
//! name while the target's lock is held belongs to a run that died, and is removed.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use etlrs_core::{Error, ErrorKind, LoadMode, Result, RunId};
use rustix::fs::{CWD, RenameFlags, renameat_with};

use crate::TargetLock;
use crate::lock::hidden_beside;

/// A file or directory that is written beside its place and put there at once.
///
/// Dropping it without [`publish`](Staging::publish) removes what was staged.
#[derive(Debug)]
pub struct Staging {
    target: PathBuf,
    temporary: PathBuf,
    mode: LoadMode,
    directory: bool,
    published: bool,
    _lock: TargetLock,
}

impl Staging {
    /// Takes hold of a target that is one file. Nothing is created yet but the lock.
    ///
    /// # Errors
    /// `AlreadyExists` in mode create, `Locked`, an I/O error, or `InvalidConfig` for a target that is no regular file.
    pub fn file(target: &Path, mode: LoadMode, run: RunId) -> Result<Self> {
        Self::begin(target, mode, run, false)
    }

    /// Takes hold of a target that is a directory, and makes the empty staging directory.
    ///
    /// # Errors
    /// As [`file`](Staging::file).
    pub fn directory(target: &Path, mode: LoadMode, run: RunId) -> Result<Self> {
        let staging = Self::begin(target, mode, run, true)?;
        fs::create_dir(&staging.temporary).map_err(|error| Error::io("create", &staging.temporary, error))?;
        Ok(staging)
    }

    /// Whether [`file`](Staging::file) or [`directory`](Staging::directory) would accept the target as it is now.
    /// Returns whether it exists. Changes nothing.
    ///
    /// # Errors
    /// As [`file`](Staging::file), but for `Locked`.
    pub fn check(target: &Path, mode: LoadMode, directory: bool) -> Result<bool> {
        let found = match fs::metadata(target) {
            Ok(found) => found,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let parent = parent(target);
                return match fs::metadata(parent) {
                    Ok(parent) if parent.is_dir() => Ok(false),
                    Ok(_) => Err(Error::new(ErrorKind::NotFound, "the place to write to is no directory")
                        .in_source(parent.display())),
                    Err(error) => Err(Error::io("write to directory", parent, error)),
                };
            }
            Err(error) => return Err(Error::io("look at", target, error)),
        };
        if mode == LoadMode::Create {
            return Err(Error::new(ErrorKind::AlreadyExists, "the target exists")
                .hint("use mode replace or append, or another name")
                .in_source(target.display()));
        }
        let wrong = match directory {
            true if !found.is_dir() => "the target is a file, not a directory",
            false if found.is_dir() => "the target is a directory, not a file",
            false if !found.is_file() => "the target is no regular file, so it cannot be replaced at once",
            _ => return Ok(true),
        };
        Err(Error::new(ErrorKind::InvalidConfig, wrong).in_source(target.display()))
    }

    fn begin(target: &Path, mode: LoadMode, run: RunId, directory: bool) -> Result<Self> {
        let exists = Self::check(target, mode, directory)?;
        // A link stays a link: what it points to is replaced.
        let target = if exists {
            fs::canonicalize(target).map_err(|error| Error::io("look at", target, error))?
        } else {
            // `out/` and `out` are the same directory, but only one of them can be renamed.
            target.components().collect()
        };
        let lock = TargetLock::acquire(&target, "", run)?;
        // Another run may have published between the check and the lock.
        Self::check(&target, mode, directory)?;
        remove_stale(&target)?;
        let temporary = hidden_beside(&target, &format!("{run}.tmp"))?;
        Ok(Self { target, temporary, mode, directory, published: false, _lock: lock })
    }

    /// Where to write: a file yet to be created, or an empty directory.
    pub fn path(&self) -> &Path {
        &self.temporary
    }

    /// Where it will be.
    pub fn target(&self) -> &Path {
        &self.target
    }

    /// Puts what was staged in its place: synced, then renamed, then the directory synced.
    ///
    /// # Errors
    /// An I/O error, after which the target is as it was.
    pub fn publish(mut self) -> Result<()> {
        let failed = |error: io::Error| Error::io("write", &self.target, error);
        if self.directory {
            for entry in fs::read_dir(&self.temporary).map_err(failed)? {
                sync(&entry.map_err(failed)?.path()).map_err(failed)?;
            }
        } else if let Ok(old) = fs::metadata(&self.target) {
            fs::set_permissions(&self.temporary, old.permissions()).map_err(failed)?;
        }
        sync(&self.temporary).map_err(failed)?;

        let exists = self.target.exists();
        let flags = match (self.mode, self.directory && exists) {
            (LoadMode::Create, _) => RenameFlags::NOREPLACE,
            (_, true) => RenameFlags::EXCHANGE,
            (_, false) => RenameFlags::empty(),
        };
        match renameat_with(CWD, &self.temporary, CWD, &self.target, flags) {
            Ok(()) => {}
            Err(rustix::io::Errno::EXIST) => {
                return Err(Error::new(ErrorKind::AlreadyExists, "the target appeared while the run was going on")
                    .hint("use mode replace or append, or another name")
                    .in_source(self.target.display()));
            }
            // File systems without renameat2: plain renames, which are as atomic for a file.
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS | rustix::io::Errno::OPNOTSUPP) => {
                self.publish_plainly(exists)?;
            }
            Err(error) => return Err(failed(error.into())),
        }
        self.published = !flags.contains(RenameFlags::EXCHANGE);
        sync(parent(&self.target)).map_err(|error| Error::io("write", &self.target, error))
    }

    /// For a directory the target is missing for a moment; it is put back if the second step fails.
    fn publish_plainly(&self, exists: bool) -> Result<()> {
        let failed = |error: io::Error| Error::io("write", &self.target, error);
        if !(self.directory && exists) {
            return fs::rename(&self.temporary, &self.target).map_err(failed);
        }
        let old = self.temporary.with_extension("old.tmp");
        fs::rename(&self.target, &old).map_err(failed)?;
        if let Err(error) = fs::rename(&self.temporary, &self.target) {
            fs::rename(&old, &self.target).map_err(failed)?;
            return Err(failed(error));
        }
        // The new data is in place: what cannot be removed now is removed by the next run.
        let _ = remove(&old);
        Ok(())
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if !self.published {
            let _ = remove(&self.temporary);
        }
    }
}

fn parent(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn sync(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

fn remove_stale(target: &Path) -> Result<()> {
    let prefix = hidden_beside(target, "")?;
    let prefix = prefix.file_name().unwrap_or_default().as_encoded_bytes();
    let failed = |error| Error::io("look for old staging beside", target, error);
    for entry in fs::read_dir(parent(target)).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name();
        let name = name.as_encoded_bytes();
        if name.starts_with(prefix) && name.ends_with(b".tmp") {
            remove(&entry.path()).map_err(|error| Error::io("remove old staging", entry.path(), error))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn stage(target: &Path, mode: LoadMode, directory: bool, text: &str) -> Result<Staging> {
        let run = RunId::generate();
        let staging = if directory { Staging::directory(target, mode, run) } else { Staging::file(target, mode, run) }?;
        let file = if directory { staging.path().join("part") } else { staging.path().to_owned() };
        fs::write(file, text).unwrap();
        Ok(staging)
    }

    #[test]
    fn replace_keeps_the_old_data_until_it_is_published() {
        for directory in [false, true] {
            let folder = tempfile::tempdir().unwrap();
            let target = folder.path().join("out");
            let read = || fs::read_to_string(if directory { target.join("part") } else { target.clone() }).unwrap();
            stage(&target, LoadMode::Create, directory, "old").unwrap().publish().unwrap();
            let staging = stage(&target, LoadMode::Replace, directory, "new").unwrap();
            assert_eq!(read(), "old");
            drop(staging);
            assert_eq!(read(), "old");
            stage(&target, LoadMode::Replace, directory, "new").unwrap().publish().unwrap();
            assert_eq!(read(), "new");
            assert_eq!(names(folder.path()), ["out"]);
        }
    }

    #[test]
    fn create_refuses_a_target_that_exists_or_appears() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("out");
        let staging = stage(&target, LoadMode::Create, false, "mine").unwrap();
        fs::write(&target, "theirs").unwrap();
        assert_eq!(staging.publish().unwrap_err().kind(), ErrorKind::AlreadyExists);
        assert_eq!(stage(&target, LoadMode::Create, false, "").unwrap_err().kind(), ErrorKind::AlreadyExists);
        assert_eq!(fs::read_to_string(&target).unwrap(), "theirs");
        assert_eq!(names(folder.path()), ["out"]);
    }

    #[test]
    fn what_dead_runs_left_is_removed_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("out");
        for name in [".out.etlrs-dead.tmp", ".out2.etlrs-dead.tmp", ".out.tmp"] {
            fs::write(folder.path().join(name), "").unwrap();
        }
        fs::create_dir(folder.path().join(".out.etlrs-dead-too.tmp")).unwrap();
        drop(stage(&target, LoadMode::Create, false, "").unwrap());
        assert_eq!(names(folder.path()), [".out.tmp", ".out2.etlrs-dead.tmp"]);
    }

    #[test]
    fn targets_that_cannot_be_replaced_at_once_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        assert!(Staging::check(Path::new("/dev/null"), LoadMode::Replace, false).is_err());
        assert!(Staging::check(folder.path(), LoadMode::Replace, false).is_err());
        let file = folder.path().join("file");
        fs::write(&file, "").unwrap();
        assert!(Staging::check(&file, LoadMode::Replace, true).is_err());
        let error = Staging::check(&folder.path().join("no/such"), LoadMode::Create, false).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
    }

    #[test]
    fn a_link_stays_a_link_and_permissions_stay() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let (real, link) = (folder.path().join("real"), folder.path().join("link"));
        fs::write(&real, "old").unwrap();
        fs::set_permissions(&real, fs::Permissions::from_mode(0o640)).unwrap();
        std::os::unix::fs::symlink(&real, &link).unwrap();
        stage(&link, LoadMode::Replace, false, "new").unwrap().publish().unwrap();
        assert_eq!(fs::read_to_string(&real).unwrap(), "new");
        assert_eq!(fs::metadata(&real).unwrap().permissions().mode() & 0o777, 0o640);
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    }
}
