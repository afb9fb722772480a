//! Design note. `LocalArea` owns one temporary file or directory beside the target, on the same file system, so that
//! publishing is one rename: `rename` over an old file, `renameat2` with `EXCHANGE` for an old directory (the old one
//! then has the temporary name and is removed), with `NOREPLACE` in mode create. Whatever is found under a temporary
//! name while the target's lock is held belongs to a run that died, and is removed.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use etlrs_core::{Error, ErrorKind, LoadMode, Result, RunId};
use rustix::fs::{CWD, RenameFlags, renameat_with};

use crate::lock::hidden_beside;
use crate::{ManifestFile, OutputFile, TargetLock};

/// The suffix of what a publishing without renameat2 has moved away.
const OLD: &str = "old";

/// A file or directory that is written beside its place and put there at once. Dropping it removes what was not published.
#[derive(Debug)]
pub(super) struct LocalArea {
    target: PathBuf,
    temporary: PathBuf,
    mode: LoadMode,
    directory: bool,
    published: AtomicBool,
    _lock: TargetLock,
}

impl LocalArea {
    pub(super) fn check(target: &Path, mode: LoadMode, directory: bool) -> Result<bool> {
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

    pub(super) fn begin(target: &Path, mode: LoadMode, run: RunId, directory: bool) -> Result<Self> {
        let exists = Self::check(target, mode, directory)?;
        // A link stays a link: what it points to is replaced.
        let target = if exists {
            fs::canonicalize(target).map_err(|error| Error::io("look at", target, error))?
        } else {
            // `out/` and `out` are the same directory, but only one of them can be renamed.
            target.components().collect()
        };
        let lock = TargetLock::acquire(&target, "", run)?;
        recover(&target)?;
        // Another run may have published between the check and the lock.
        let exists = Self::check(&target, mode, directory)?;
        remove_stale(&target)?;
        let temporary = hidden_beside(&target, &format!("{run}.tmp"))?;
        // What is staged is as private as what it will replace.
        let permissions = if exists { fs::metadata(&target).ok().map(|found| found.permissions()) } else { None };
        let created = if directory {
            fs::create_dir(&temporary)
        } else if permissions.is_some() {
            OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary).map(drop)
        } else {
            Ok(())
        };
        created
            .and_then(|()| permissions.map_or(Ok(()), |permissions| fs::set_permissions(&temporary, permissions)))
            .map_err(|error| Error::io("write beside", &target, error))?;
        Ok(Self { target, temporary, mode, directory, published: AtomicBool::new(false), _lock: lock })
    }

    /// Where to write: a file that is empty or yet to be created, or an empty directory.
    pub(super) fn path(&self) -> &Path {
        &self.temporary
    }

    /// Where it will be.
    pub(super) fn target(&self) -> &Path {
        &self.target
    }

    pub(super) fn create(&self, name: Option<&str>) -> Result<OutputFile> {
        let path = name.map_or(self.temporary.clone(), |name| self.temporary.join(name));
        let file = File::create(path).map_err(|error| Error::io("write", &self.target, error))?;
        Ok(OutputFile::local(file, 0))
    }

    pub(super) fn continue_old(&self) -> Result<OutputFile> {
        let copied = fs::copy(&self.target, &self.temporary)
            .and_then(|length| Ok((OpenOptions::new().append(true).open(&self.temporary)?, length)));
        let (file, length) = copied.map_err(|error| Error::io("write", &self.target, error))?;
        Ok(OutputFile::local(file, length))
    }

    pub(super) fn remove_file(&self, name: &str) -> Result<()> {
        match fs::remove_file(self.temporary.join(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::io("write", &self.target, error)),
            _ => Ok(()),
        }
    }

    /// Hard links, so that it costs no space; copies where the file system has none.
    pub(super) fn take_over(&self, files: &[ManifestFile]) -> Result<()> {
        for file in files {
            let (from, to) = (self.target.join(&file.name), self.temporary.join(&file.name));
            fs::hard_link(&from, &to)
                .or_else(|error| match error.kind() {
                    io::ErrorKind::AlreadyExists => Err(error),
                    _ => copy(&from, &to),
                })
                .map_err(|error| Error::io("take over", from, error))?;
        }
        Ok(())
    }

    /// Synced, then renamed, then the directory synced.
    pub(super) fn publish(&self) -> Result<()> {
        let failed = |error: io::Error| Error::io("write", &self.target, error);
        if self.directory {
            for entry in fs::read_dir(&self.temporary).map_err(failed)? {
                sync(&entry.map_err(failed)?.path()).map_err(failed)?;
            }
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
        self.published.store(!flags.contains(RenameFlags::EXCHANGE), Ordering::Relaxed);
        sync(parent(&self.target))
            .map_err(|error| Error::io("make durable (though it is in place)", &self.target, error))
    }

    /// Without renameat2, a directory is missing for a moment. A run that dies in that moment leaves the old one under a
    /// name from which the next run takes it back (`recover`).
    fn publish_plainly(&self, exists: bool) -> Result<()> {
        let failed = |error: io::Error| Error::io("write", &self.target, error);
        if self.mode == LoadMode::Create {
            if self.directory {
                // Refuses a directory that is not empty, and a file.
                return fs::rename(&self.temporary, &self.target).map_err(failed);
            }
            fs::hard_link(&self.temporary, &self.target).map_err(failed)?;
            return fs::remove_file(&self.temporary).map_err(failed);
        }
        if !(self.directory && exists) {
            return fs::rename(&self.temporary, &self.target).map_err(failed);
        }
        let old = hidden_beside(&self.target, OLD)?;
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

impl Drop for LocalArea {
    fn drop(&mut self) {
        if !self.published.load(Ordering::Relaxed) {
            let _ = remove(&self.temporary);
        }
    }
}

fn parent(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Copies to a file that does not exist: one that does may be a link to the file that is copied, which opening would empty.
fn copy(from: &Path, to: &Path) -> io::Result<()> {
    let mut source = File::open(from)?;
    let mut copy = OpenOptions::new().write(true).create_new(true).mode(0o600).open(to)?;
    io::copy(&mut source, &mut copy)?;
    copy.set_permissions(source.metadata()?.permissions())
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

/// Puts back what `publish_plainly` of a run that died had moved away, or removes it if the new data is in place. The
/// lock of the target is held.
fn recover(target: &Path) -> Result<()> {
    let old = hidden_beside(target, OLD)?;
    if !old.exists() {
        return Ok(());
    }
    let done = if target.exists() { remove(&old) } else { fs::rename(&old, target) };
    done.map_err(|error| Error::io("recover", target, error))
}

fn remove_stale(target: &Path) -> Result<()> {
    let prefix = hidden_beside(target, "")?;
    let prefix = prefix.file_name().unwrap_or_default().as_encoded_bytes();
    let failed = |error| Error::io("look for old staging beside", target, error);
    for entry in fs::read_dir(parent(target)).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name();
        let name = name.as_encoded_bytes();
        let run = name.strip_prefix(prefix).and_then(|rest| rest.strip_suffix(b".tmp"));
        // Of this target, and not of another whose name goes on after a part that looks like this one's.
        if run.is_some_and(|run| run.len() == RunId::LENGTH && run.iter().all(u8::is_ascii_alphanumeric)) {
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

    fn stage(target: &Path, mode: LoadMode, directory: bool, text: &str) -> Result<LocalArea> {
        let staging = LocalArea::begin(target, mode, RunId::generate(), directory)?;
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
        drop(staging);
        assert_eq!(stage(&target, LoadMode::Create, false, "").unwrap_err().kind(), ErrorKind::AlreadyExists);
        assert_eq!(fs::read_to_string(&target).unwrap(), "theirs");
        assert_eq!(names(folder.path()), ["out"]);
    }

    #[test]
    fn what_dead_runs_left_is_removed_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("out");
        let run = RunId::generate();
        let others = [format!(".out.etlrs-x.etlrs-{run}.tmp"), ".out.tmp".into(), format!(".out2.etlrs-{run}.tmp")];
        for name in [&format!(".out.etlrs-{run}.tmp")].into_iter().chain(&others) {
            fs::write(folder.path().join(name), "").unwrap();
        }
        fs::create_dir(folder.path().join(format!(".out.etlrs-{}.tmp", RunId::generate()))).unwrap();
        drop(stage(&target, LoadMode::Create, false, "").unwrap());
        assert_eq!(names(folder.path()), others);
    }

    #[test]
    fn without_renameat2_nothing_is_lost_either() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("out");
        let read = || fs::read_to_string(target.join("part")).unwrap();
        let staging = stage(&target, LoadMode::Create, true, "old").unwrap();
        staging.publish_plainly(false).unwrap();
        drop(staging);
        let staging = stage(&target, LoadMode::Replace, true, "new").unwrap();
        staging.publish_plainly(true).unwrap();
        drop(staging);
        assert_eq!((read().as_str(), names(folder.path())), ("new", vec!["out".to_owned()]));
        // A run that died between its two renames.
        fs::rename(&target, hidden_beside(&target, OLD).unwrap()).unwrap();
        drop(stage(&target, LoadMode::Append, true, "x").unwrap());
        assert_eq!((read().as_str(), names(folder.path())), ("new", vec!["out".to_owned()]));
    }

    #[test]
    fn taking_a_file_over_never_writes_to_it() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("out");
        stage(&target, LoadMode::Create, true, "old").unwrap().publish().unwrap();
        let staging = LocalArea::begin(&target, LoadMode::Append, RunId::generate(), true).unwrap();
        let part = ManifestFile { name: "part".into(), rows: 1, bytes: 3 };
        let error = staging.take_over(&[part.clone(), part]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AlreadyExists, "{error}");
        assert_eq!(
            copy(&target.join("part"), &staging.path().join("part")).unwrap_err().kind(),
            io::ErrorKind::AlreadyExists
        );
        assert_eq!(fs::read_to_string(target.join("part")).unwrap(), "old");
        copy(&target.join("part"), &staging.path().join("copy")).unwrap();
        assert_eq!(fs::read_to_string(staging.path().join("copy")).unwrap(), "old");
    }

    #[test]
    fn targets_that_cannot_be_replaced_at_once_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        assert!(LocalArea::check(Path::new("/dev/null"), LoadMode::Replace, false).is_err());
        assert!(LocalArea::check(folder.path(), LoadMode::Replace, false).is_err());
        let file = folder.path().join("file");
        fs::write(&file, "").unwrap();
        assert!(LocalArea::check(&file, LoadMode::Replace, true).is_err());
        let error = LocalArea::check(&folder.path().join("no/such"), LoadMode::Create, false).unwrap_err();
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
