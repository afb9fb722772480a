//! What was at a target when a run began, to be compared when it ends.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// What is at a place, by its names: the place itself has the name "". Nothing is there if it is empty.
pub(super) type Seen = BTreeMap<OsString, Identity>;

/// Tells whether something is the same as before. Not by the time of change of its inode, which a link to it changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    inode: (u64, u64),
    length: u64,
    modified: (i64, i64),
}

impl Identity {
    fn of(found: &Metadata) -> Self {
        let inode = (found.dev(), found.ino());
        // Of a directory, what is in it tells more.
        match found.is_dir() {
            true => Self { inode, length: 0, modified: (0, 0) },
            false => Self { inode, length: found.len(), modified: (found.mtime(), found.mtime_nsec()) },
        }
    }
}

pub(super) fn look(path: &Path) -> io::Result<Seen> {
    let mut seen = Seen::new();
    let mut add = |name, found: io::Result<Metadata>| match found {
        Ok(found) => {
            seen.insert(name, Identity::of(&found));
            Ok(found.is_dir())
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    };
    if add(OsString::new(), fs::symlink_metadata(path))? {
        for entry in fs::read_dir(path)? {
            let entry = entry?;
            add(entry.file_name(), entry.metadata())?;
        }
    }
    Ok(seen)
}
