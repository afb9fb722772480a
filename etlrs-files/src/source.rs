use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use etlrs_core::{Error, ErrorKind, Fingerprint, Result};

use crate::Manifest;

/// The files that a source path stands for: itself, or, for a directory, the files of its manifest, or else those with
/// one of `extensions`, in the order of their names. Hidden files and those that begin with `_` are not data.
///
/// A path that does not exist and has `*`, `?`, `[…]` or `**` in it is a pattern: it stands for the files that match, in
/// the order of their paths. A wildcard matches no leading dot.
///
/// # Errors
/// `NotFound` and other I/O errors, also for a pattern that matches nothing; `InvalidConfig` for one that is none;
/// `InvalidData` for a directory without such files.
pub fn source_files(path: &Path, extensions: &[&str]) -> Result<Vec<PathBuf>> {
    let failed = |error| Error::io("read", path, error);
    if let Some(pattern) = path.to_str().filter(|text| text.contains(['*', '?', '[']))
        && !path.exists()
    {
        return matching(path, pattern);
    }
    if !fs::metadata(path).map_err(|error| Error::io("open", path, error))?.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    if let Some(manifest) = Manifest::read(path)? {
        return Ok(manifest.files.iter().map(|file| path.join(&file.name)).collect());
    }
    let mut files = Vec::new();
    for entry in fs::read_dir(path).map_err(failed)? {
        let file = entry.map_err(failed)?.path();
        let name = file.file_name().and_then(|name| name.to_str()).unwrap_or("_");
        if is_data_name(name, extensions) && file.is_file() {
            files.push(file);
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

fn matching(path: &Path, pattern: &str) -> Result<Vec<PathBuf>> {
    let options = glob::MatchOptions { require_literal_leading_dot: true, ..Default::default() };
    let found = glob::glob_with(pattern, options).map_err(|error| {
        Error::new(ErrorKind::InvalidConfig, format!("the pattern is wrong: {}", error.msg))
            .in_source(path.display())
            .caused_by(error)
    })?;
    let mut files = Vec::new();
    for file in found {
        let file = file.map_err(|error| {
            let place = error.path().to_owned();
            Error::io("read", place, error.into())
        })?;
        let name = file.file_name().and_then(|name| name.to_str()).unwrap_or("_");
        if !name.starts_with('_') && !file.is_dir() {
            files.push(file);
        }
    }
    if files.is_empty() {
        return Err(Error::new(ErrorKind::NotFound, "no file matches the pattern")
            .hint("quote it for the shell, and check the folder")
            .in_source(path.display()));
    }
    files.sort();
    Ok(files)
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
/// its permissions or its links changed.
///
/// # Errors
/// `SourceChanged` if one is gone, other I/O errors.
pub fn fingerprint<P: AsRef<Path>>(files: &[P]) -> Result<Fingerprint> {
    let mut text = String::new();
    for file in files {
        let file = file.as_ref();
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
