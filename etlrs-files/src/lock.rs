use std::ffi::{OsStr, OsString};
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use etlrs_core::{Error, ErrorKind, Result, RunId};
use rustix::fs::OFlags;

/// The right of one run to write to one target.
///
/// An advisory lock (`flock`) on a hidden file beside the target. The operating system frees it when the process ends,
/// however it ends, so a lock never has to be broken by hand. On a network file system that has no such locks the
/// error says so.
#[derive(Debug)]
pub struct TargetLock {
    // Held for its lock, which goes with the last handle.
    file: File,
    path: PathBuf,
}

impl TargetLock {
    /// Takes the lock of `target`, a file or directory that need not exist; `part` tells targets within one file apart
    /// (a table).
    ///
    /// # Errors
    /// `Locked` if another run has it, naming its process; an I/O error if the directory cannot be written.
    pub fn acquire(target: &Path, part: &str, run: RunId) -> Result<Self> {
        let path = hidden_beside(target, &format!("{part}lock"))?;
        // Times that it may be there and gone.
        let mut left = 10;
        loop {
            // Not through a link, which another user may have put there to have another file overwritten.
            let flags = i32::try_from(OFlags::NOFOLLOW.bits()).unwrap_or(0);
            let mut options = OpenOptions::new();
            options.read(true).write(true).create(true).truncate(false).custom_flags(flags);
            let failed = |error| Error::io("write beside", target, error);
            let (mut file, is_mine) = match options.open(&path) {
                // Another user's.
                Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
                    options.write(false).create(false);
                    match options.open(&path) {
                        // It has just removed it.
                        Err(gone) if gone.kind() == std::io::ErrorKind::NotFound => {
                            left -= 1;
                            match left {
                                0 => return Err(failed(error)),
                                _ => continue,
                            }
                        }
                        file => (file.map_err(|_| failed(error))?, false),
                    }
                }
                file => (file.map_err(failed)?, true),
            };
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Err(held(target, &mut file)),
                Err(TryLockError::Error(error)) => return Err(Error::io("lock", target, error)),
            }
            // The holder before removed the file after this one opened it: the lock of a removed file is worth nothing.
            let same = match (file.metadata(), std::fs::metadata(&path)) {
                (Ok(held), Ok(named)) => (held.dev(), held.ino()) == (named.dev(), named.ino()),
                _ => false,
            };
            if same && !is_mine {
                // Left by a process that was killed.
                std::fs::remove_file(&path).map_err(failed)?;
            } else if same {
                // From here on it is removed if something fails.
                let mut lock = Self { file, path };
                let owner = format!("run {run}, process {}", std::process::id());
                lock.file.set_len(0).and_then(|()| lock.file.write_all(owner.as_bytes())).map_err(failed)?;
                return Ok(lock);
            }
        }
    }
}

impl Drop for TargetLock {
    fn drop(&mut self) {
        // Removed while it is still held, so that nobody locks a file that is about to go.
        let _ = std::fs::remove_file(&self.path);
    }
}

fn held(target: &Path, file: &mut File) -> Error {
    let mut owner = String::new();
    let _ = file.take(200).read_to_string(&mut owner);
    let owner = if owner.is_empty() { "another run".to_owned() } else { owner };
    Error::new(ErrorKind::Locked, format!("the target is being written by {owner}"))
        .hint("wait until it is done, or stop it")
        .in_source(target.display())
}

/// `.NAME.etlrs-SUFFIX` in the directory of `target`. Of a long name only the start is taken, and a hash of all of it, for a name has
/// at most 255 bytes.
pub(crate) fn hidden_beside(target: &Path, suffix: &str) -> Result<PathBuf> {
    let name = target.file_name().ok_or_else(|| {
        Error::new(ErrorKind::InvalidConfig, format!("{} is no name for a file or directory", target.display()))
    })?;
    const LONGEST: usize = 200;
    let mut hidden = OsString::from(".");
    match name.as_encoded_bytes() {
        bytes if bytes.len() > LONGEST => {
            hidden.push(OsStr::from_bytes(&bytes[..LONGEST / 2]));
            // FNV-1a, which stays what it is from one version to the next.
            let fold = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
            hidden.push(format!("~{:016x}", bytes.iter().fold(0xcbf2_9ce4_8422_2325, fold)));
        }
        _ => hidden.push(name),
    }
    hidden.push(format!(".etlrs-{suffix}"));
    Ok(target.with_file_name(hidden))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_run_is_told_who_holds_the_target() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("out.parquet");
        let run = RunId::generate();
        let lock = TargetLock::acquire(&target, "", run).unwrap();
        let error = TargetLock::acquire(&target, "", RunId::generate()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Locked);
        assert!(error.to_string().contains(&format!("run {run}, process {}", std::process::id())), "{error}");
        assert!(TargetLock::acquire(&target, "other-table.", run).is_ok());
        drop(lock);
        drop(TargetLock::acquire(&target, "", RunId::generate()).unwrap());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
