use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use etlrs_core::{CancelToken, Error, Fingerprint, Result};

use super::{Handle, Once, Raw};
use crate::InputFile;

/// Files that are kept open from the look at them until they are read; of more, each is opened when it is read.
const HELD_FILES: usize = 128;

/// Where the text of a table comes from: files, directories and patterns, or what can be read only once.
#[derive(Clone, Debug)]
pub struct Origin {
    paths: Vec<PathBuf>,
    extensions: &'static [&'static str],
    once: Option<Arc<Once>>,
    /// What is no regular file, with what was read of it; clones share it.
    pipes: Arc<Mutex<BTreeMap<PathBuf, Arc<Once>>>>,
}

/// One text of an [`Origin`].
#[derive(Clone, Debug)]
pub enum Place {
    /// A file, which is kept open if `hold`.
    File {
        /// Its path, or the URL of an object.
        path: PathBuf,
        /// Whether it is kept open until it is read.
        hold: bool,
    },
    /// What can be read only once.
    Once(Arc<Once>),
}

impl Origin {
    /// Whether another process can read the same: what `places` are is no pipe.
    pub fn is_lasting(places: &[Place]) -> bool {
        places.iter().all(|place| matches!(place, Place::File { .. }))
    }

    /// Of files, directories and patterns; of a directory the files whose names end in one of `extensions`.
    pub fn files(paths: impl IntoIterator<Item = impl Into<PathBuf>>, extensions: &'static [&'static str]) -> Self {
        let paths = paths.into_iter().map(Into::into).collect();
        Self { paths, extensions, once: None, pipes: Arc::default() }
    }

    /// Of what can be read only once.
    pub fn once(once: Arc<Once>) -> Self {
        Self { paths: Vec::new(), extensions: &[], once: Some(once), pipes: Arc::default() }
    }

    fn list(&self, cancel: &CancelToken) -> Result<Vec<PathBuf>> {
        let mut files = Vec::new();
        for path in &self.paths {
            files.extend(crate::source_files(path, self.extensions, cancel)?);
        }
        Ok(files)
    }

    /// The texts that there are now, one at the least.
    ///
    /// # Errors
    /// `NotFound` if there are none, and an I/O error.
    pub fn places(&self, cancel: &CancelToken) -> Result<Vec<Place>> {
        let files = self.list(cancel)?;
        let hold = files.len() <= HELD_FILES;
        let once = self.once.iter().map(|once| Place::Once(once.clone()));
        Ok(once.chain(files.into_iter().map(|path| self.place(path, hold))).collect())
    }

    fn place(&self, path: PathBuf, hold: bool) -> Place {
        if !is_pipe(&path) {
            return Place::File { path, hold };
        }
        let mut pipes = self.pipes.lock().unwrap_or_else(PoisonError::into_inner);
        let opened = path.clone();
        let open = move || match File::open(&opened) {
            Ok(file) => Ok(Box::new(file) as Box<dyn Read + Send>),
            Err(error) => Err(Error::io("open", &opened, error)),
        };
        Place::Once(pipes.entry(path.clone()).or_insert_with(|| Once::new(path, open)).clone())
    }

    /// What errors call all of `places` together.
    pub fn shown(&self, places: &[Place]) -> String {
        match places {
            [place] => place.path().display().to_string(),
            _ => self.paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", "),
        }
    }

    /// Of the files that there are now. What can be read only once cannot be seen to change.
    ///
    /// # Errors
    /// As [`places`](Self::places).
    pub fn fingerprint(&self, cancel: &CancelToken) -> Result<Fingerprint> {
        let files = self.list(cancel)?;
        let regular: Vec<_> = files.iter().filter(|path| !is_pipe(path)).collect();
        let found = crate::fingerprint(&regular, cancel)?;
        if files.len() < 2 {
            return Ok(found);
        }
        let names: Vec<_> = files.iter().map(|path| path.to_string_lossy()).collect();
        Ok(Fingerprint::new(format!("{} {}", found.as_str(), names.join("\0"))))
    }
}

fn is_pipe(path: &Path) -> bool {
    path.metadata().is_ok_and(|found| !found.is_file() && !found.is_dir())
}

impl Place {
    /// What errors call it.
    pub fn path(&self) -> &Path {
        match self {
            Self::File { path, .. } => path,
            Self::Once(once) => &once.name,
        }
    }

    /// Its bytes, and how many there are, where that is known.
    ///
    /// # Errors
    /// An I/O error.
    pub fn open(&self, cancel: &CancelToken) -> Result<(Raw, Option<u64>)> {
        match self {
            Self::Once(once) => Ok((Raw::Once(once.clone()), None)),
            Self::File { path, hold } => {
                let file = InputFile::open(path, cancel)?;
                let length = file.length();
                let held = hold.then_some(file);
                Ok((Raw::File(Handle { path: path.as_path().into(), held, cancel: cancel.clone() }), Some(length)))
            }
        }
    }
}
