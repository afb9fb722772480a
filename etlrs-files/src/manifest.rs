use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use etlrs_core::{CancelToken, Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};

use crate::parts::is_part;

/// The list of the files that make up a directory target, in order. What a directory holds besides is not data.
///
/// Kept as JSON in `_etlrs_manifest.json`; readers that do not know it see the same files, for it lists all of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Version of this format.
    pub version: u32,
    /// The run that published the directory last.
    pub run: String,
    /// The files.
    pub files: Vec<ManifestFile>,
    /// No run has published the directory yet: one has begun to, where there was no manifest, and keeps its own files out of
    /// sight by this. The directory consists of whatever is there, as without a manifest, but for files with names of
    /// parts that are not in `files`; the rows told there are not counted.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub standing: bool,
    /// How far sources were read whose rows are in the files: the [position](etlrs_core::LoadPlan::cursor) of each.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub cursors: BTreeMap<String, String>,
}

/// One file of a [`Manifest`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManifestFile {
    /// Name within the directory.
    pub name: String,
    /// Rows in it.
    pub rows: u64,
    /// Its size.
    pub bytes: u64,
}

impl Manifest {
    /// Name of the file.
    pub const NAME: &'static str = "_etlrs_manifest.json";
    const VERSION: u32 = 1;

    /// Of `files`, published by `run`.
    pub fn new(run: impl ToString, files: Vec<ManifestFile>) -> Self {
        Self { version: Self::VERSION, run: run.to_string(), files, standing: false, cursors: BTreeMap::new() }
    }

    /// The manifest of `directory`, if it has one that was published: not one that is [`standing`](Self::standing).
    ///
    /// # Errors
    /// `InvalidData` for one that cannot be understood, or that names itself, a file outside the directory, or a file
    /// twice.
    pub fn read(directory: &Path, cancel: &CancelToken) -> Result<Option<Self>> {
        Ok(Self::read_any(directory, cancel)?.filter(|manifest| !manifest.standing))
    }

    /// As [`read`](Self::read), whether it was published or is standing.
    pub(crate) fn read_any(directory: &Path, cancel: &CancelToken) -> Result<Option<Self>> {
        let path = directory.join(Self::NAME);
        match crate::source::small_file(&path, cancel)? {
            Some(text) => Self::parse(&text, &path).map(Some),
            None => Ok(None),
        }
    }

    /// Whether the file called `name` is one of its files.
    pub(crate) fn names(&self, name: &str) -> bool {
        self.files.iter().any(|file| file.name == name)
    }

    /// Whether the file called `name` was written by a run that did not publish it, or not yet.
    pub(crate) fn hides(&self, name: &str) -> bool {
        is_part(name) && !self.names(name)
    }

    pub(crate) fn parse(text: &[u8], path: &Path) -> Result<Self> {
        let wrong = |reason: String| {
            Error::new(ErrorKind::InvalidData, format!("the manifest cannot be understood: {reason}"))
                .in_source(path.display())
        };
        let manifest: Self = serde_json::from_slice(text).map_err(|error| wrong(error.to_string()))?;
        if manifest.version != Self::VERSION {
            return Err(wrong(format!("it has version {}, not {}", manifest.version, Self::VERSION)));
        }
        let mut names = BTreeSet::new();
        for ManifestFile { name, .. } in &manifest.files {
            if Path::new(name).file_name() != Some(name.as_ref()) {
                return Err(wrong(format!("{name:?} is no plain file name")));
            }
            if name == Self::NAME {
                return Err(wrong("it names itself as data".to_owned()));
            }
            if !names.insert(name) {
                return Err(wrong(format!("it names {name:?} twice")));
            }
        }
        Ok(manifest)
    }

    /// Writes the manifest into `directory`, which is a staging directory: it is published with it.
    pub(crate) fn write(&self, directory: &Path) -> Result<()> {
        let path = directory.join(Self::NAME);
        fs::write(&path, self.to_json()?).map_err(|error| Error::io("write", path, error))
    }

    pub(crate) fn to_json(&self) -> Result<Vec<u8>> {
        serde_json::to_vec_pretty(self)
            .map_err(|error| Error::new(ErrorKind::Internal, format!("the manifest cannot be written: {error}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(Manifest::read(folder.path(), &CancelToken::new()).unwrap(), None);
        let manifest = Manifest::new("r", vec![ManifestFile { name: "a.parquet".into(), rows: 3, bytes: 9 }]);
        manifest.write(folder.path()).unwrap();
        assert_eq!(Manifest::read(folder.path(), &CancelToken::new()).unwrap(), Some(manifest));
    }

    #[test]
    fn a_standing_manifest_is_none_to_its_readers() {
        let folder = tempfile::tempdir().unwrap();
        let mut manifest = Manifest::new("r", Vec::new());
        assert!(!String::from_utf8(manifest.to_json().unwrap()).unwrap().contains("standing"));
        manifest.standing = true;
        manifest.write(folder.path()).unwrap();
        assert_eq!(Manifest::read(folder.path(), &CancelToken::new()).unwrap(), None);
        assert_eq!(Manifest::read_any(folder.path(), &CancelToken::new()).unwrap(), Some(manifest));
    }

    #[test]
    fn a_manifest_names_plain_files_beside_it_and_each_once() {
        let folder = tempfile::tempdir().unwrap();
        let plain = "no plain file name";
        for (names, reason) in [
            (&["../x"][..], plain),
            (&["/etc/passwd"], plain),
            (&[".."], plain),
            (&["a/b"], plain),
            (&["a/"], plain),
            (&[""], plain),
            (&["a", Manifest::NAME], "names itself as data"),
            (&["a", "b", "a"], "names \"a\" twice"),
        ] {
            let files = names.iter().map(|name| ManifestFile { name: (*name).into(), rows: 0, bytes: 0 });
            Manifest::new("r", files.collect()).write(folder.path()).unwrap();
            let error = Manifest::read(folder.path(), &CancelToken::new()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidData, "{names:?}");
            assert!(error.to_string().contains(reason), "{error}");
        }
    }
}
