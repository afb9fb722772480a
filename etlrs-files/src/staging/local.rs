//! Design note. `LocalArea` owns one temporary file or directory beside the target, on the same file system, so that
//! publishing is one rename: `rename` over an old file, `renameat2` with `EXCHANGE` for an old directory (the old one
//! then has the temporary name and is removed), with `NOREPLACE` where nothing was. Whatever is found under a temporary
//! name while the target's lock is held belongs to a run that died or was stopped: its own is gone on with, that of others removed.
//!
//! The lock keeps other runs away, and not other programs. So what is at the target is remembered when the run begins
//! and compared just before the rename: what came or changed in between would be lost, and is refused. Of an old
//! directory only what is remembered is removed; what came in the moment between the comparison and the exchange goes
//! to the new one. A single file has no such way: what is written to it in that moment is lost.
//!
//! Files of the old directory that stay are linked only when the run publishes, for a link changes what `fingerprint`
//! sees of a file, and the run may be reading it.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use etlrs_core::{
    CancelToken, Error, ErrorKind, Interrupted, LoadMode, Result, RunContext, RunId, failpoint, gone_on_elsewhere,
};
use rustix::fs::{CWD, RenameFlags, renameat_with};

use super::disk::{copy, has_no_flags, is_mount_point, keep_owner, parent, remove, rename_new, sync};
use super::ledger::{Found, Kept, Ledger};
use super::left_over::{LEDGER, OLD, cut_off, is_ledger, leave_only, left_over, recover, remove_stale, what_is_left};
use super::seen::{Seen, look};
use crate::lock::hidden_beside;
use crate::{ManifestFile, OutputFile, TargetLock};

/// A file or directory that is written beside its place and put there at once. Dropping it removes what was not published.
#[derive(Debug)]
pub(super) struct LocalArea {
    target: PathBuf,
    temporary: PathBuf,
    mode: LoadMode,
    directory: bool,
    /// What was at the target when the run began.
    before: Seen,
    /// Names of files of the target that stay.
    kept: Mutex<Vec<String>>,
    published: AtomicBool,
    /// What is staged, if a run may go on with it.
    ledger: Option<Ledger>,
    discarded: AtomicBool,
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
            _ if is_mount_point(target) => {
                let message = "something is mounted on the target, so it cannot be replaced at once";
                let hint = if directory { "write to a directory within it" } else { "write to another name" };
                return Err(Error::new(ErrorKind::InvalidConfig, message).hint(hint).in_source(target.display()));
            }
            _ => return Ok(true),
        };
        Err(Error::new(ErrorKind::InvalidConfig, wrong).in_source(target.display()))
    }

    pub(super) fn begin(
        target: &Path,
        mode: LoadMode,
        directory: bool,
        kept: Option<&Kept>,
        cx: &RunContext,
    ) -> Result<Self> {
        let (run, goes_on) = (cx.run_id(), kept.is_some_and(|kept| kept.goes_on));
        Self::check(target, mode, directory)?;
        let target = resolved(target)?;
        let lock = TargetLock::acquire(&target, "", run)?;
        recover(&target)?;
        failpoint("files-locked");
        // Another run may have published between the check and the lock.
        let exists = Self::check(&target, mode, directory)?;
        remove_stale(&target, kept.map(|_| run))?;
        failpoint("files-cleaned");
        let temporary = hidden_beside(&target, &format!("{run}.tmp"))?;
        let before = match mode {
            LoadMode::Create => Seen::new(),
            _ => look(&target).map_err(|error| Error::io("look at", &target, error))?,
        };
        let ledger = match kept {
            Some(kept) => {
                let path = hidden_beside(&target, &format!("{run}.{LEDGER}"))?;
                // The one file begins with what was at the target.
                let kept = match mode {
                    LoadMode::Append if !directory => kept.clone().behind(&before),
                    _ => kept.clone(),
                };
                let old = (!directory).then_some(&*target);
                let left = Found::read(&path)?.filter(|found| found.is_of(&kept));
                let is_published = |found: &Found| what_is_left(&target, run, found, cx.cancel());
                let left = left.as_ref().map(is_published).transpose()?;
                if left.as_ref().map_or(goes_on, |left| left.published) {
                    return Err(gone_on_elsewhere(run).in_source(target.display()));
                }
                let ledger = Ledger::open(path, run, &kept, &temporary, old, cx.cancel())?;
                let cleared = match directory {
                    true => leave_only(&temporary, ledger.completed()),
                    false => cut_off(&temporary, ledger.completed()),
                };
                cleared.map_err(|error| Error::io("go on with", &temporary, error))?;
                failpoint("files-taken-over");
                Some(ledger)
            }
            None => None,
        };
        // What is staged is as private as what it will replace.
        let old = if exists { fs::metadata(&target).ok() } else { None };
        let created = if temporary.exists() {
            Ok(())
        } else if directory {
            fs::create_dir(&temporary)
        } else if old.is_some() {
            OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary).map(drop)
        } else {
            Ok(())
        };
        created
            .and_then(|()| old.map_or(Ok(()), |old| keep_owner(&temporary, &old)))
            .map_err(|error| Error::io("write beside", &target, error))?;
        let (kept, published, discarded) = (Mutex::default(), AtomicBool::new(false), AtomicBool::new(false));
        Ok(Self { target, temporary, mode, directory, before, kept, published, ledger, discarded, _lock: lock })
    }

    /// What is left of the newest run that was stopped.
    pub(super) fn interrupted(target: &Path, cancel: &CancelToken) -> Result<Option<Interrupted>> {
        let target = resolved(target)?;
        let mut newest: Option<Interrupted> = None;
        for (run, path) in left_over(&target)?.into_iter().filter(|(_, path)| is_ledger(path)) {
            let found = Found::read(&path)?.filter(|found| found.run() == Some(run));
            if let Some(found) = found.filter(|_| newest.as_ref().is_none_or(|newest| newest.run < run)) {
                newest = Some(what_is_left(&target, run, &found, cancel)?);
            }
        }
        Ok(newest)
    }

    /// Removes what is left of `run`; tells what that was.
    pub(super) fn forget(target: &Path, cx: &RunContext, run: RunId) -> Result<Option<Interrupted>> {
        let target = resolved(target)?;
        let _lock = TargetLock::acquire(&target, "", cx.run_id())?;
        recover(&target)?;
        let ledger = hidden_beside(&target, &format!("{run}.{LEDGER}"))?;
        let found = Found::read(&ledger)?;
        let left = found.map(|found| what_is_left(&target, run, &found, cx.cancel())).transpose()?;
        let mut paths = [ledger, hidden_beside(&target, &format!("{run}.tmp"))?];
        if left.as_ref().is_some_and(|left| left.published) {
            // Then it is the mark, which is there until all else is done.
            paths.reverse();
        }
        for path in paths {
            failpoint("files-forgetting");
            remove(&path)
                .and_then(|()| sync(parent(&path)))
                .map_err(|error| Error::io("remove old staging", path, error))?;
        }
        Ok(left)
    }

    pub(super) fn ledger(&self) -> Option<&Ledger> {
        self.ledger.as_ref()
    }

    /// Nobody will go on with it.
    pub(super) fn discard(&self) {
        self.discarded.store(true, Ordering::Relaxed);
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

    /// The one file behind what is completed; `None` if nothing is.
    pub(super) fn continue_staged(&self) -> Result<Option<OutputFile>> {
        let Some(last) = self.ledger.as_ref().and_then(|ledger| ledger.completed().last()) else { return Ok(None) };
        let file = OpenOptions::new().append(true).open(&self.temporary);
        let file = file.map_err(|error| Error::io("write", &self.target, error))?;
        Ok(Some(OutputFile::local(file, last.range().end)))
    }

    pub(super) fn continue_old(&self) -> Result<OutputFile> {
        // Not by `fs::copy`, which would set permissions that a file with another group must not have.
        let copied = || {
            let mut file = OpenOptions::new().write(true).create(true).truncate(true).open(&self.temporary)?;
            let length = io::copy(&mut File::open(&self.target)?, &mut file)?;
            Ok((file, length))
        };
        let (file, length) = copied().map_err(|error| Error::io("write", &self.target, error))?;
        Ok(OutputFile::local(file, length))
    }

    pub(super) fn remove_file(&self, name: &str) -> Result<()> {
        match fs::remove_file(self.temporary.join(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::io("write", &self.target, error)),
            _ => Ok(()),
        }
    }

    /// They are linked when it is published; one that is missing is told before the work begins.
    pub(super) fn take_over(&self, files: &[ManifestFile]) -> Result<()> {
        for file in files {
            let path = self.target.join(&file.name);
            fs::symlink_metadata(&path).map_err(|error| Error::io("take over", path, error))?;
        }
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.extend(files.iter().map(|file| file.name.clone()));
        Ok(())
    }

    /// Hard links, so that it costs no space; copies where the file system has none.
    fn link_kept(&self) -> Result<()> {
        for name in self.kept.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            let (from, to) = (self.target.join(name), self.temporary.join(name));
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
            // For an error that tells more than that a file cannot be linked.
            self.require_unchanged()?;
            self.link_kept()?;
            failpoint("files-linked");
            for entry in fs::read_dir(&self.temporary).map_err(failed)? {
                sync(&entry.map_err(failed)?.path()).map_err(failed)?;
            }
        }
        sync(&self.temporary).map_err(failed)?;
        failpoint("files-synced");

        let exists = self.require_unchanged()?;
        if let Some(ledger) = &self.ledger {
            ledger.begin_publishing()?;
            failpoint("files-publishing");
        }
        let old = match (exists, self.directory) {
            (false, _) => rename_new(&self.temporary, &self.target).map(|()| None),
            (true, false) => fs::rename(&self.temporary, &self.target).map(|()| None),
            (true, true) => self.exchange().map(Some),
        };
        let old = old.map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists | io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::NotADirectory => {
                self.appeared()
            }
            _ => failed(error),
        })?;
        self.published.store(true, Ordering::Relaxed);
        failpoint("files-renamed");
        sync(parent(&self.target))
            .map_err(|error| Error::io("make durable (though it is in place)", &self.target, error))?;
        if let Some(old) = old {
            failpoint("files-exchanged");
            self.remove_old(&old);
        }
        Ok(())
    }

    /// Refuses to replace what came to the target, or changed there, since the run began; in mode append, also to go on
    /// without what went. Returns whether something is there.
    fn require_unchanged(&self) -> Result<bool> {
        let now = look(&self.target).map_err(|error| Error::io("look again at", &self.target, error))?;
        if self.before.is_empty() && !now.is_empty() {
            return Err(self.appeared());
        }
        let differs = |one: &Seen, other: &Seen| {
            one.iter().find(|(name, identity)| other.get(*name) != Some(identity)).map(|(name, _)| name.clone())
        };
        let lost = differs(&now, &self.before);
        let Some(name) = lost.or_else(|| differs(&self.before, &now).filter(|_| self.mode == LoadMode::Append)) else {
            return Ok(!now.is_empty());
        };
        let what = if name.is_empty() { "the target".to_owned() } else { format!("{name:?} in the target") };
        let message = format!("another program changed {what} while the run was going on, so nothing was published");
        Err(Error::new(ErrorKind::Locked, message)
            .hint("run again when nothing else writes there")
            .in_source(self.target.display()))
    }

    fn appeared(&self) -> Error {
        let (kind, hint) = match self.mode {
            LoadMode::Create => (ErrorKind::AlreadyExists, "use mode replace or append, or another name"),
            _ => (ErrorKind::Locked, "run again when nothing else writes there"),
        };
        Error::new(kind, "the target appeared while the run was going on").hint(hint).in_source(self.target.display())
    }

    /// Puts the new directory in the place of the old one. Returns where the old one is.
    fn exchange(&self) -> io::Result<PathBuf> {
        match renameat_with(CWD, &self.temporary, CWD, &self.target, RenameFlags::EXCHANGE) {
            Ok(()) => Ok(self.temporary.clone()),
            Err(error) if has_no_flags(error) => self.exchange_plainly(),
            Err(error) => Err(error.into()),
        }
    }

    /// Without renameat2, a directory is missing for a moment. A run that dies in that moment leaves the old one under
    /// a name from which the next run takes it back (`recover`).
    fn exchange_plainly(&self) -> io::Result<PathBuf> {
        let old = hidden_beside(&self.target, OLD).map_err(io::Error::other)?;
        fs::rename(&self.target, &old)?;
        if let Err(error) = fs::rename(&self.temporary, &self.target) {
            fs::rename(&old, &self.target)?;
            return Err(error);
        }
        Ok(old)
    }

    /// Removes the old directory, or what can be: the new data is in place, and the next run removes the rest.
    fn remove_old(&self, old: &Path) {
        for (name, identity) in look(old).unwrap_or_default().into_iter().filter(|(name, _)| !name.is_empty()) {
            let path = old.join(&name);
            let _ = match self.before.get(&name) {
                Some(known) if *known == identity => remove(&path),
                _ => rename_new(&path, &self.target.join(&name)),
            };
        }
        let _ = fs::remove_dir(old);
    }
}

impl Drop for LocalArea {
    fn drop(&mut self) {
        if self.published.load(Ordering::Relaxed) {
            return;
        }
        match &self.ledger {
            // For the run to go on with.
            Some(ledger) if !self.discarded.load(Ordering::Relaxed) && ledger.parts() > 0 => {}
            ledger => {
                // What is left is removed by the next run.
                let is_gone = |ledger: &Ledger| ledger.remove().and_then(|()| sync(parent(&self.temporary))).is_ok();
                if ledger.as_ref().is_none_or(is_gone) {
                    let _ = remove(&self.temporary);
                }
            }
        }
    }
}

/// A link stays a link: what it points to is the target, there or not.
fn resolved(target: &Path) -> Result<PathBuf> {
    // As many as the system follows.
    const LINKS: usize = 40;
    let mut path = target.to_owned();
    for _ in 0..LINKS {
        match fs::canonicalize(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            found => return found.map_err(|error| Error::io("look at", target, error)),
        }
        // `out/` and `out` are the same directory, but only one of them can be renamed.
        path = path.components().collect();
        match fs::read_link(&path) {
            Ok(goal) => path = parent(&path).join(goal),
            Err(_) => return Ok(path),
        }
    }
    Err(Error::new(ErrorKind::InvalidConfig, "its links lead to each other").in_source(target.display()))
}

#[cfg(test)]
mod tests {
    use rustix::io::Errno;

    use super::super::disk::rename_new_plainly;
    use super::*;

    fn cx() -> RunContext {
        RunContext::new(etlrs_core::PerformanceConfig::default())
    }

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn stage(target: &Path, mode: LoadMode, directory: bool, text: &str) -> Result<LocalArea> {
        let staging = LocalArea::begin(target, mode, directory, None, &cx())?;
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
        let link = |from: &Path, to: &Path| fs::hard_link(from, to);
        let staging = stage(&target, LoadMode::Create, true, "old").unwrap();
        rename_new_plainly(staging.path(), &target, link).unwrap();
        drop(staging);
        let staging = stage(&target, LoadMode::Replace, true, "new").unwrap();
        fs::write(target.join("theirs"), "").unwrap();
        let old = staging.exchange_plainly().unwrap();
        staging.remove_old(&old);
        drop(staging);
        assert_eq!((read().as_str(), names(folder.path())), ("new", vec!["out".to_owned()]));
        assert_eq!(names(&target), ["part", "theirs"]);
        let staging = stage(&folder.path().join("other"), LoadMode::Create, true, "").unwrap();
        assert!(rename_new_plainly(staging.path(), &target, link).is_err());
        drop(staging);
        // A run that died between its two renames.
        fs::rename(&target, hidden_beside(&target, OLD).unwrap()).unwrap();
        drop(stage(&target, LoadMode::Append, true, "x").unwrap());
        assert_eq!((read().as_str(), names(folder.path())), ("new", vec!["out".to_owned()]));
    }

    #[test]
    fn without_hard_links_a_new_file_is_renamed_and_an_old_one_stays() {
        for answer in [None, Some(Errno::PERM), Some(Errno::NOSYS), Some(Errno::OPNOTSUPP)] {
            let folder = tempfile::tempdir().unwrap();
            let target = folder.path().join("out");
            let link = |from: &Path, to: &Path| match answer {
                None => fs::hard_link(from, to),
                Some(answer) => Err(answer.into()),
            };
            let staging = stage(&target, LoadMode::Create, false, "new").unwrap();
            rename_new_plainly(staging.path(), &target, link).unwrap();
            drop(staging);
            assert_eq!(fs::read_to_string(&target).unwrap(), "new");
            assert_eq!(names(folder.path()), ["out"]);
            let staging = stage(&folder.path().join("other"), LoadMode::Create, false, "other").unwrap();
            let error = rename_new_plainly(staging.path(), &target, link).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
            assert_eq!(fs::read_to_string(&target).unwrap(), "new");
        }
    }

    #[test]
    fn what_another_program_writes_meanwhile_stays_and_nothing_is_published() {
        let append = |path: &Path| {
            io::Write::write_all(&mut OpenOptions::new().append(true).open(path).unwrap(), b" and theirs").unwrap();
        };
        let replace = |path: &Path| {
            let found = fs::metadata(path).unwrap();
            fs::write(path.with_extension("new"), "OLD").unwrap();
            File::open(path.with_extension("new")).unwrap().set_modified(found.modified().unwrap()).unwrap();
            fs::rename(path.with_extension("new"), path).unwrap();
        };
        let write = |path: &Path| fs::write(path, "theirs").unwrap();
        let remove = |path: &Path| fs::remove_file(path).unwrap();
        type Change<'a> = &'a dyn Fn(&Path);
        for (directory, name, change) in [
            (false, "", &append as Change<'_>),
            (false, "", &replace),
            (true, "part", &append),
            (true, "part", &replace),
            (true, "part", &write),
            (true, "new", &write),
            (true, "part", &remove),
        ] {
            for mode in [LoadMode::Append, LoadMode::Replace] {
                let folder = tempfile::tempdir().unwrap();
                let target = folder.path().join("out");
                stage(&target, LoadMode::Create, directory, "old").unwrap().publish().unwrap();
                let staging = LocalArea::begin(&target, mode, directory, None, &cx()).unwrap();
                let changed = if name.is_empty() { target.clone() } else { target.join(name) };
                change(&changed);
                let theirs = fs::read(&changed).ok();
                let published = staging.publish();
                if theirs.is_none() && mode == LoadMode::Replace {
                    // Nothing is lost.
                    published.unwrap();
                    continue;
                }
                let error = published.unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Locked, "{error}");
                assert!(error.to_string().contains(name), "{error}");
                assert_eq!(fs::read(&changed).ok(), theirs);
                drop(staging);
                assert_eq!(names(folder.path()), ["out"]);
            }
        }
    }

    #[test]
    fn a_target_that_appears_is_never_replaced() {
        for directory in [false, true] {
            for mode in [LoadMode::Create, LoadMode::Append, LoadMode::Replace] {
                let folder = tempfile::tempdir().unwrap();
                let target = folder.path().join("out");
                let staging = stage(&target, mode, directory, "mine").unwrap();
                fs::write(&target, "theirs").unwrap();
                let error = staging.publish().unwrap_err();
                let expected = if mode == LoadMode::Create { ErrorKind::AlreadyExists } else { ErrorKind::Locked };
                assert_eq!(error.kind(), expected, "{error}");
                // As if it had come just before the rename.
                assert!(rename_new(staging.path(), &target).is_err());
                drop(staging);
                assert_eq!(fs::read_to_string(&target).unwrap(), "theirs");
                assert_eq!(names(folder.path()), ["out"]);
            }
        }
    }

    #[test]
    fn what_comes_just_before_the_exchange_goes_to_the_new_directory() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("out");
        stage(&target, LoadMode::Create, true, "old").unwrap().publish().unwrap();
        let staging = stage(&target, LoadMode::Replace, true, "new").unwrap();
        fs::write(target.join("theirs"), "theirs").unwrap();
        let old = staging.exchange().unwrap();
        staging.remove_old(&old);
        drop(staging);
        assert_eq!(fs::read_to_string(target.join("part")).unwrap(), "new");
        assert_eq!(fs::read_to_string(target.join("theirs")).unwrap(), "theirs");
        assert_eq!(names(folder.path()), ["out"]);
    }

    #[test]
    fn files_that_stay_are_not_touched_before_the_run_publishes() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("out");
        stage(&target, LoadMode::Create, true, "old").unwrap().publish().unwrap();
        let state = || crate::fingerprint(&[target.join("part")], &etlrs_core::CancelToken::new()).unwrap();
        let before = state();
        let staging = LocalArea::begin(&target, LoadMode::Append, true, None, &cx()).unwrap();
        staging.take_over(&[ManifestFile { name: "part".into(), rows: 1, bytes: 3 }]).unwrap();
        let missing = [ManifestFile { name: "none".into(), rows: 1, bytes: 3 }];
        assert_eq!(staging.take_over(&missing).unwrap_err().kind(), ErrorKind::NotFound);
        fs::write(staging.path().join("more"), "new").unwrap();
        assert_eq!(state(), before);
        staging.publish().unwrap();
        drop(staging);
        assert_eq!(names(&target), ["more", "part"]);
        assert_eq!(fs::read_to_string(target.join("part")).unwrap(), "old");
        assert_eq!(names(folder.path()), ["out"]);
    }

    #[test]
    fn taking_a_file_over_never_writes_to_it() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("out");
        stage(&target, LoadMode::Create, true, "old").unwrap().publish().unwrap();
        let staging = LocalArea::begin(&target, LoadMode::Append, true, None, &cx()).unwrap();
        let part = ManifestFile { name: "part".into(), rows: 1, bytes: 3 };
        staging.take_over(&[part.clone(), part]).unwrap();
        let error = staging.publish().unwrap_err();
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
        let error = LocalArea::check(Path::new("/proc"), LoadMode::Replace, true).unwrap_err();
        assert!(error.to_string().contains("something is mounted on the target"), "{error}");
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
        // One that leads to nothing, over another.
        fs::remove_file(&real).unwrap();
        fs::remove_file(&link).unwrap();
        std::os::unix::fs::symlink("real", folder.path().join("other")).unwrap();
        std::os::unix::fs::symlink("other", &link).unwrap();
        stage(&link, LoadMode::Create, false, "new").unwrap().publish().unwrap();
        assert_eq!(fs::read_to_string(&real).unwrap(), "new");
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        // A circle.
        fs::remove_file(&real).unwrap();
        std::os::unix::fs::symlink("link", &real).unwrap();
        assert!(stage(&link, LoadMode::Create, false, "new").is_err());
    }

    #[test]
    fn one_whose_name_is_as_long_as_it_may_be_is_written() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["x".repeat(255), "é".repeat(127), "x".repeat(200), "x".repeat(201)] {
            let target = folder.path().join(name);
            let staging = stage(&target, LoadMode::Create, false, "new").unwrap();
            assert_eq!(stage(&target, LoadMode::Create, false, "new").unwrap_err().kind(), ErrorKind::Locked);
            staging.publish().unwrap();
        }
        assert_eq!(names(folder.path()).len(), 4);
    }
}
