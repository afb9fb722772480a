use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use etlrs_core::{CancelToken, Error, ErrorKind, Fingerprint, Result};

use crate::Manifest;
#[cfg(feature = "object-store")]
use crate::objects::{Address, versions};
use crate::pattern::{PathPattern, absolute};

/// The files that a source path stands for: itself, or, for a directory, the files of its manifest, or else those with
/// one of `extensions`, in the order of their names. Hidden files and those that begin with `_` are not data.
///
/// A path that does not exist and has `*`, `?`, `[…]` or `**` in it is a pattern: it stands for the files that match,
/// in the order of their paths. A wildcard matches no name that begins with `.` or `_`, of a directory neither, and
/// `**` goes into no linked directory.
///
/// # Errors
/// `NotFound` and other I/O errors, also for a pattern that matches nothing; `InvalidConfig` for one that is none;
/// `InvalidData` for a directory without such files, or whose manifest names none.
pub fn source_files(path: &Path, extensions: &[&str], cancel: &CancelToken) -> Result<Vec<PathBuf>> {
    let place = Place::of(path, cancel)?;
    if let Some(pattern) = path.to_str().filter(|text| text.contains(['*', '?', '[']))
        && place == Place::Nothing
    {
        return matching(path, pattern, cancel);
    }
    match place {
        Place::File => return Ok(vec![path.to_owned()]),
        Place::Nothing => return Err(Error::io("open", path, std::io::ErrorKind::NotFound.into())),
        Place::Directory => {}
    }
    let manifest = Manifest::read_any(path, cancel)?;
    if let Some(manifest) = manifest.as_ref().filter(|manifest| !manifest.standing) {
        // A load of no rows writes a file all the same.
        if manifest.files.is_empty() {
            return Err(Error::new(ErrorKind::InvalidData, "the manifest of the directory names no file")
                .hint(format!("write it again, or remove {} from it", Manifest::NAME))
                .in_source(path.display()));
        }
        return Ok(manifest.files.iter().map(|file| path.join(&file.name)).collect());
    }
    let is_hidden = |name: &str| manifest.as_ref().is_some_and(|standing| standing.hides(name));
    let mut files = Vec::new();
    for entry in entries(path, cancel)? {
        let name = entry.path.file_name().unwrap_or_default().to_string_lossy();
        if is_data_name(&name, extensions) && entry.is_file && !is_hidden(&name) {
            files.push(entry.path);
        }
    }
    if files.is_empty() {
        // Those of compressed files are known from these.
        let simple: Vec<_> = extensions.iter().copied().filter(|extension| !extension.contains('.')).collect();
        return Err(Error::new(
            ErrorKind::InvalidData,
            format!("the directory has no file that ends in .{}", simple.join(" or .")),
        )
        .in_source(path.display()));
    }
    files.sort();
    Ok(files)
}

/// Whether `source`, a directory or a pattern, takes in the file `path`, there or not: whether [`source_files`] of a later
/// run may give it. No object store is asked.
pub fn takes_in(source: &Path, extensions: &[&str], path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let pattern = source.to_str().filter(|text| text.contains(['*', '?', '[']));
    match (crate::store_scheme(source), crate::store_scheme(path)) {
        (None, None) => match pattern.filter(|_| !source.exists()) {
            Some(pattern) => PathPattern::parse(pattern).is_ok_and(|pattern| pattern.takes_in(path)),
            None => {
                // What a manifest does not name is not read.
                source.is_dir()
                    && !source.join(Manifest::NAME).exists()
                    && is_data_name(&name, extensions)
                    && absolute(source)
                        .is_some_and(|source| absolute(path).is_some_and(|path| path.parent() == Some(&source)))
            }
        },
        (Some(_), Some(_)) => match pattern {
            Some(pattern) => PathPattern::parse(pattern).is_ok_and(|pattern| pattern.matches(path)),
            None => path.parent() == Some(source) && is_data_name(&name, extensions),
        },
        _ => false,
    }
}

/// What a name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Nothing,
    File,
    Directory,
}

impl Place {
    fn of(path: &Path, cancel: &CancelToken) -> Result<Self> {
        #[cfg(feature = "object-store")]
        if let Some(address) = Address::of(path)? {
            let is_named_so = path.as_os_str().as_encoded_bytes().ends_with(b"/");
            return Ok(match address.is_directory(cancel)? {
                true => Self::Directory,
                false if !is_named_so && address.find(cancel)?.is_some() => Self::File,
                false => Self::Nothing,
            });
        }
        let _ = cancel;
        crate::require_local(path)?;
        match fs::metadata(path) {
            Ok(found) if found.is_dir() => Ok(Self::Directory),
            Ok(_) => Ok(Self::File),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Self::Nothing),
            Err(error) => Err(Error::io("open", path, error)),
        }
    }
}

/// Something in a directory.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) path: PathBuf,
    pub(crate) is_file: bool,
}

/// What is in `directory`.
pub(crate) fn entries(directory: &Path, cancel: &CancelToken) -> Result<Vec<Entry>> {
    #[cfg(feature = "object-store")]
    if let Some(address) = Address::of(directory)? {
        let found = address.list(cancel)?.into_iter();
        return Ok(found.map(|found| Entry { path: found.path, is_file: !found.is_directory }).collect());
    }
    let _ = cancel;
    let failed = |error| Error::io("read", directory, error);
    let found = fs::read_dir(directory).map_err(failed)?;
    let found = found.map(|found| {
        let path = found.map_err(failed)?.path();
        let is_file = match fs::metadata(&path) {
            Ok(found) => found.is_file(),
            Err(_) => match fs::symlink_metadata(&path) {
                // A link to nothing, or to what may not be seen. Whoever reads it is told.
                Ok(_) => true,
                // It went meanwhile.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
                Err(error) => return Err(Error::io("look at", path, error)),
            },
        };
        Ok(Some(Entry { path, is_file }))
    });
    found.filter_map(Result::transpose).collect()
}

/// All of a file that is known to be small, if there is one.
pub(crate) fn small_file(path: &Path, cancel: &CancelToken) -> Result<Option<Vec<u8>>> {
    #[cfg(feature = "object-store")]
    if let Some(address) = Address::of(path)? {
        return Ok(address.read(cancel)?.map(|(text, _)| text));
    }
    let _ = cancel;
    match fs::read(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::io("read", path, error)),
    }
}

fn matching(path: &Path, pattern: &str, cancel: &CancelToken) -> Result<Vec<PathBuf>> {
    let wrong = |error: glob::PatternError| {
        Error::new(ErrorKind::InvalidConfig, format!("the pattern is wrong: {}", error.msg))
            .in_source(path.display())
            .caused_by(error)
    };
    let files = files_matching(path, pattern, cancel, wrong)?;
    if files.is_empty() {
        return Err(Error::new(ErrorKind::NotFound, "no file matches the pattern")
            .hint("quote it for the shell, and check the folder")
            .in_source(path.display()));
    }
    Ok(files)
}

fn files_matching(
    path: &Path,
    text: &str,
    cancel: &CancelToken,
    wrong: impl Fn(glob::PatternError) -> Error,
) -> Result<Vec<PathBuf>> {
    let pattern = PathPattern::parse(text).map_err(wrong)?;
    #[cfg(feature = "object-store")]
    if let Some(address) = Address::of(path)? {
        return address.matching(&pattern, cancel);
    }
    let _ = path;
    pattern.files(cancel)
}

/// Whether a file called `name` is data: it has one of `extensions` (`csv`, `csv.gz`), and is not hidden.
pub(crate) fn is_data_name(name: &str, extensions: &[&str]) -> bool {
    let has = |extension: &&str| {
        let start = name.len().checked_sub(extension.len() + 1);
        let end = start.filter(|&start| start > 0).and_then(|start| name.get(start..));
        end.and_then(|end| end.strip_prefix('.')).is_some_and(|end| end.eq_ignore_ascii_case(extension))
    };
    !name.starts_with(['.', '_']) && extensions.iter().any(has)
}

/// Sizes, times of change and identities of `files`: differs when one was written to, replaced or removed, and also when
/// the permissions or the links of a local one changed.
///
/// # Errors
/// `SourceChanged` if one is gone, other I/O errors.
pub fn fingerprint<P: AsRef<Path>>(files: &[P], cancel: &CancelToken) -> Result<Fingerprint> {
    let mut text = String::new();
    #[cfg(feature = "object-store")]
    {
        let objects: Vec<_> = files.iter().filter_map(|file| Address::of(file.as_ref()).transpose()).collect();
        let objects: Vec<_> = objects.into_iter().collect::<Result<_>>()?;
        if !objects.is_empty() {
            text = versions(objects, cancel)?.join(";");
        }
    }
    let _ = cancel;
    for file in files.iter().map(AsRef::as_ref).filter(|file| crate::store_scheme(file).is_none()) {
        let found = fs::metadata(file).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => {
                Error::new(ErrorKind::SourceChanged, "the file is no longer there").in_source(file.display())
            }
            _ => Error::io("look again at", file, error),
        })?;
        // The time of change of the inode cannot be set back, as that of the content can.
        text.push_str(&format!(
            "{} {}.{:09} {}.{:09} {}:{};",
            found.len(),
            found.mtime(),
            found.mtime_nsec(),
            found.ctime(),
            found.ctime_nsec(),
            found.dev(),
            found.ino()
        ));
    }
    Ok(Fingerprint::new(text))
}

/// `now`, if it is that of files that were `planned`. A scan gives no other one, for the one that it gives first is what the run
/// holds all later ones against, and a change between the plan and that question would be missed.
///
/// # Errors
/// `SourceChanged` if it is another.
pub fn unchanged(planned: &Fingerprint, now: Fingerprint) -> Result<Fingerprint> {
    if now == *planned {
        return Ok(now);
    }
    Err(Error::new(ErrorKind::SourceChanged, "the files changed since they were looked at")
        .hint("run again when nobody writes to them"))
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;

    use super::*;

    #[test]
    fn no_data_file_is_left_out_without_a_word() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &OsStr| folder.path().join(name);
        let strange = at(OsStr::from_bytes(b"\xff.csv"));
        fs::write(at(OsStr::new("a.csv")), "a\n").unwrap();
        fs::write(&strange, "a\n").unwrap();
        fs::create_dir(at(OsStr::new("d.csv"))).unwrap();
        // To nothing: whoever reads it is told.
        std::os::unix::fs::symlink("gone.csv", at(OsStr::new("b.csv"))).unwrap();
        std::os::unix::fs::symlink("a.csv", at(OsStr::new("c.csv"))).unwrap();
        let found = source_files(folder.path(), &["csv"], &CancelToken::new()).unwrap();
        let expected: Vec<_> = ["a.csv", "b.csv", "c.csv"].iter().map(|name| at(OsStr::new(name))).collect();
        assert_eq!(found, [expected, vec![strange]].concat());
        // A circle, which is an error if it is data.
        std::os::unix::fs::symlink("e.txt", at(OsStr::new("e.txt"))).unwrap();
        assert_eq!(source_files(folder.path(), &["csv"], &CancelToken::new()).unwrap(), found);
        std::os::unix::fs::symlink("e.csv", at(OsStr::new("e.csv"))).unwrap();
        let found = source_files(folder.path(), &["csv"], &CancelToken::new()).unwrap();
        assert!(fingerprint(&found, &CancelToken::new()).is_err());
    }

    #[test]
    fn what_changed_since_it_was_planned_has_no_fingerprint() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.csv");
        fs::write(&path, "a\n").unwrap();
        let state = || fingerprint(&[&path], &CancelToken::new()).unwrap();
        let planned = state();
        assert_eq!(unchanged(&planned, state()).unwrap(), planned);
        fs::write(&path, "a\n1\n").unwrap();
        assert_eq!(unchanged(&planned, state()).unwrap_err().kind(), ErrorKind::SourceChanged);
    }
}
