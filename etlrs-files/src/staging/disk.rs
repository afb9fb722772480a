//! Steps on a local file system that the standard library has not, or not for all file systems.

use std::fs::{self, File, Metadata, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, chown};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, RenameFlags, StatxAttributes, StatxFlags, renameat_with, statx};
use rustix::io::Errno;

pub(super) fn parent(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Whether something is mounted on `path`, which then cannot be renamed.
pub(super) fn is_mount_point(path: &Path) -> bool {
    // Where it cannot be told, the rename tells it.
    statx(CWD, path, AtFlags::empty(), StatxFlags::empty())
        .is_ok_and(|found| found.stx_attributes.contains(StatxAttributes::MOUNT_ROOT))
}

/// Gives `path`, which this process created, the owner, the group and the permissions of `old`, as far as it may. A group that is
/// not the same gets none.
pub(super) fn keep_owner(path: &Path, old: &Metadata) -> io::Result<()> {
    let new = fs::symlink_metadata(path)?;
    let mut mode = old.mode() & 0o7777;
    if new.uid() != old.uid() {
        // Only the administrator may.
        let _ = chown(path, Some(old.uid()), None);
    }
    if new.gid() != old.gid() && chown(path, None, Some(old.gid())).is_err() {
        mode &= !0o2070;
    }
    fs::set_permissions(path, Permissions::from_mode(mode))
}

/// Copies to a file that does not exist: one that does may be a link to the file that is copied, which opening would
/// empty.
pub(super) fn copy(from: &Path, to: &Path) -> io::Result<()> {
    let mut source = File::open(from)?;
    let mut copy = OpenOptions::new().write(true).create_new(true).mode(0o600).open(to)?;
    io::copy(&mut source, &mut copy)?;
    keep_owner(to, &source.metadata()?)
}

/// Renames to a name that nothing has.
pub(super) fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        Err(error) if has_no_flags(error) => rename_new_plainly(from, to, |from, to| fs::hard_link(from, to)),
        done => done.map_err(io::Error::from),
    }
}

/// Without renameat2. Where there are no hard links either (some file systems in user space), a file that another
/// program creates between the look and the rename is lost; other runs are kept away by the lock.
pub(super) fn rename_new_plainly(
    from: &Path,
    to: &Path,
    hard_link: impl FnOnce(&Path, &Path) -> io::Result<()>,
) -> io::Result<()> {
    if from.is_dir() {
        // Refuses a directory that is not empty, and a file.
        return fs::rename(from, to);
    }
    match hard_link(from, to) {
        Ok(()) => {
            // In place under its name; the next run removes the other.
            let _ = fs::remove_file(from);
            Ok(())
        }
        Err(error) if has_no_links(&error) => match fs::symlink_metadata(to) {
            Ok(_) => Err(io::ErrorKind::AlreadyExists.into()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => fs::rename(from, to),
            Err(error) => Err(error),
        },
        Err(error) => Err(error),
    }
}

/// Whether a file system answers so to a renameat2 with flags that it does not know.
pub(super) fn has_no_flags(error: Errno) -> bool {
    matches!(error, Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP)
}

/// Whether a file system without hard links answers so to a request for one.
pub(super) fn has_no_links(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::PERM | Errno::NOSYS | Errno::OPNOTSUPP))
}

pub(super) fn sync(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

pub(super) fn remove(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}
