//! Patterns of paths, as `data/2024-*/**/*.csv`.
//!
//! Design note. A pattern is held against a path component by component, and only directories that may lead to a match
//! are read. The `glob` crate tells whether one name matches. Its own walk is not used: it panics at names that are no
//! Unicode, and goes through linked directories under `**` again and again.

use std::ffi::OsString;
use std::fs::{self, FileType};
use std::io;
use std::path::{Path, PathBuf};

use etlrs_core::{CancelToken, Error, Result};
use glob::{MatchOptions, PatternError};

/// A path with wildcards in it: `*`, `?`, `[…]` within a component, and `**` for any number of directories.
///
/// A wildcard matches no name that begins with `.` or `_`, unless the pattern has that character there itself.
#[derive(Debug)]
pub(crate) struct PathPattern {
    start: PathBuf,
    parts: Vec<Part>,
    /// It ends in `/`, so no file matches.
    is_of_directories: bool,
}

#[derive(Debug)]
enum Part {
    Literal(String),
    Wild(glob::Pattern),
    /// `**`
    Deep,
}

impl PathPattern {
    pub(crate) fn parse(text: &str) -> std::result::Result<Self, PatternError> {
        // Of the whole, for what is wrong across components.
        glob::Pattern::new(text)?;
        let mut parts = Vec::new();
        for name in names_of(text) {
            match name {
                "**" if matches!(parts.last(), Some(Part::Deep)) => {}
                "**" => parts.push(Part::Deep),
                _ if name.contains(['*', '?', '[']) => parts.push(Part::Wild(glob::Pattern::new(name)?)),
                _ => parts.push(Part::Literal(name.to_owned())),
            }
        }
        let start = if text.starts_with('/') { PathBuf::from("/") } else { PathBuf::new() };
        Ok(Self { start, parts, is_of_directories: text.ends_with('/') })
    }

    /// Whether `path` matches, as it is written.
    pub(crate) fn matches(&self, path: &Path) -> bool {
        let names: Vec<_> = path.to_str().into_iter().flat_map(names_of).collect();
        matches(&self.parts, &names)
    }

    /// Whether the local file `path`, however it is written, would match if it were there.
    pub(crate) fn takes_in(&self, path: &Path) -> bool {
        let literals = self.parts.iter().map_while(|part| match part {
            Part::Literal(name) => Some(name),
            _ => None,
        });
        let folder = absolute(&literals.clone().fold(self.start.clone(), |folder, name| folder.join(name)));
        let path = absolute(path);
        let names = folder.zip(path.as_ref()).and_then(|(folder, path)| path.strip_prefix(folder).ok()?.to_str());
        names.is_some_and(|path| {
            let names: Vec<_> = names_of(path).collect();
            matches(&self.parts[literals.count()..], &names)
        })
    }

    /// The local files that match, each once, in the order of their paths. `**` goes into no linked directory; another
    /// component that matches one does.
    ///
    /// # Errors
    /// An I/O error of a directory that may lead to a match, and `Cancelled`.
    pub(crate) fn files(&self, cancel: &CancelToken) -> Result<Vec<PathBuf>> {
        let mut files = Vec::new();
        if !self.is_of_directories {
            walk(&self.start, &self.parts, cancel, &mut files)?;
        }
        files.sort();
        // Several `**` may reach a file in more than one way.
        files.dedup();
        Ok(files)
    }
}

/// `path` without links, as far as it is there.
pub(crate) fn absolute(path: &Path) -> Option<PathBuf> {
    let here =
        |path: &Path| if path.as_os_str().is_empty() { Path::new(".").canonicalize() } else { path.canonicalize() };
    here(path).ok().or_else(|| Some(absolute(path.parent()?)?.join(path.file_name()?)))
}

fn names_of(path: &str) -> impl Iterator<Item = &str> {
    path.split('/').filter(|name| !matches!(*name, "" | "."))
}

impl Part {
    fn takes(&self, name: &str) -> bool {
        let options = MatchOptions { require_literal_leading_dot: true, ..Default::default() };
        match self {
            Self::Literal(literal) => literal == name,
            Self::Wild(pattern) => {
                let is_asked_for = !name.starts_with('_') || pattern.as_str().starts_with('_');
                is_asked_for && pattern.matches_with(name, options)
            }
            Self::Deep => !name.starts_with(['.', '_']),
        }
    }
}

fn matches(parts: &[Part], names: &[&str]) -> bool {
    let Some((part, rest)) = parts.split_first() else { return names.is_empty() };
    let taken = names.split_first().filter(|(name, _)| part.takes(name)).map(|(_, names)| names);
    match part {
        Part::Deep => matches(rest, names) || taken.is_some_and(|names| matches(parts, names)),
        _ => taken.is_some_and(|names| matches(rest, names)),
    }
}

fn walk(directory: &Path, parts: &[Part], cancel: &CancelToken, files: &mut Vec<PathBuf>) -> Result<()> {
    cancel.check()?;
    let Some((part, rest)) = parts.split_first() else { return Ok(()) };
    match part {
        Part::Literal(name) => {
            let path = directory.join(name);
            if !rest.is_empty() {
                return walk(&path, rest, cancel, files);
            }
            // A link that leads nowhere is told when it is opened.
            if !path.is_dir() && fs::symlink_metadata(&path).is_ok() {
                files.push(path);
            }
        }
        Part::Wild(_) => {
            for entry in entries(directory, part)? {
                match (rest.is_empty(), entry.is_directory(true)) {
                    (true, false) => files.push(entry.path),
                    (false, true) => walk(&entry.path, rest, cancel, files)?,
                    _ => {}
                }
            }
        }
        Part::Deep => {
            walk(directory, rest, cancel, files)?;
            for entry in entries(directory, part)?.iter().filter(|entry| entry.is_directory(false)) {
                walk(&entry.path, parts, cancel, files)?;
            }
        }
    }
    Ok(())
}

struct Entry {
    path: PathBuf,
    kind: FileType,
}

impl Entry {
    fn is_directory(&self, or_link_to_one: bool) -> bool {
        self.kind.is_dir() || or_link_to_one && self.kind.is_symlink() && self.path.is_dir()
    }
}

/// What is in `directory` and has a name that `part` takes. Where there is no directory, nothing is.
fn entries(directory: &Path, part: &Part) -> Result<Vec<Entry>> {
    let failed = |error| Error::io("read", directory, error);
    let found = match fs::read_dir(if directory.as_os_str().is_empty() { Path::new(".") } else { directory }) {
        Ok(found) => found,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(Vec::new());
        }
        Err(error) => return Err(failed(error)),
    };
    let mut entries = Vec::new();
    for entry in found {
        let entry = entry.map_err(failed)?;
        let name: OsString = entry.file_name();
        // What is no Unicode stands for characters that only a wildcard matches.
        if part.takes(&name.to_string_lossy()) {
            let path = directory.join(name);
            match entry.file_type() {
                Ok(kind) => entries.push(Entry { path, kind }),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(Error::io("look at", path, error)),
            }
        }
    }
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn files(folder: &Path, pattern: &str) -> Result<Vec<String>> {
        let pattern = PathPattern::parse(&format!("{}/{pattern}", folder.display())).unwrap();
        let found = pattern.files(&CancelToken::new())?;
        Ok(found.iter().map(|file| file.strip_prefix(folder).unwrap().to_string_lossy().into_owned()).collect())
    }

    fn folder(files: &[&str]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for file in files {
            let path = folder.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
        folder
    }

    #[test]
    fn a_pattern_stands_for_files_in_the_order_of_their_paths() {
        let folder = folder(&[
            "b.csv",
            "a.csv",
            "a.txt",
            ".a.csv",
            "_a.csv",
            "a/1.csv",
            "a/c/2.csv",
            "_temporary/3.csv",
            "_temporary/4/3.csv",
            ".hidden/5.csv",
            "d.csv/6.csv",
            "{x,y}.csv",
        ]);
        for (pattern, expected) in [
            ("*.csv", &["a.csv", "b.csv", "{x,y}.csv"][..]),
            ("?.csv", &["a.csv", "b.csv"]),
            ("[b-z].csv", &["b.csv"]),
            ("{x,y}.*", &["{x,y}.csv"]),
            (".*.csv", &[".a.csv"]),
            ("_*.csv", &["_a.csv"]),
            ("*/*.csv", &["a/1.csv", "d.csv/6.csv"]),
            ("**/*.csv", &["a/1.csv", "a/c/2.csv", "a.csv", "b.csv", "d.csv/6.csv", "{x,y}.csv"]),
            ("**/**/c/**/*.csv", &["a/c/2.csv"]),
            ("**/*/**/2.csv", &["a/c/2.csv"]),
            ("_temporary/*.csv", &["_temporary/3.csv"]),
            ("_temp*/**/3.csv", &["_temporary/3.csv", "_temporary/4/3.csv"]),
            ("a/../*.txt", &["a/../a.txt"]),
            ("./a//*.csv", &["a/1.csv"]),
            ("*/1.csv", &["a/1.csv"]),
            ("a/*/", &[]),
            ("a/**", &[]),
            ("a.csv/*", &[]),
            ("none/*.csv", &[]),
        ] {
            assert_eq!(files(folder.path(), pattern).unwrap(), expected, "{pattern}");
        }
    }

    #[test]
    fn names_that_are_no_unicode_are_names_like_others() {
        let folder = folder(&["a.csv"]);
        let name = |bytes: &[u8]| folder.path().join(std::ffi::OsStr::from_bytes(bytes));
        fs::write(name(b"\xff.txt"), "").unwrap();
        fs::create_dir(name(b"z\xff")).unwrap();
        assert_eq!(files(folder.path(), "**/*.csv").unwrap(), ["a.csv"]);
        fs::write(name(b"z\xff/caf\xe9.csv"), "").unwrap();
        let pattern = PathPattern::parse(&format!("{}/**/*.csv", folder.path().display())).unwrap();
        let found = pattern.files(&CancelToken::new()).unwrap();
        assert_eq!(found, [name(b"a.csv"), name(b"z\xff/caf\xe9.csv")]);
    }

    #[test]
    fn linked_directories_are_entered_where_the_pattern_names_them_and_only_there() {
        let folder = folder(&["a/1.csv"]);
        symlink(folder.path(), folder.path().join("a/up")).unwrap();
        symlink("a", folder.path().join("link")).unwrap();
        symlink("loop", folder.path().join("loop")).unwrap();
        symlink("1.csv", folder.path().join("a/2.csv")).unwrap();
        for (pattern, expected) in [
            ("**/*.csv", &["a/1.csv", "a/2.csv"][..]),
            ("*/1.csv", &["a/1.csv", "link/1.csv"]),
            ("link/*.csv", &["link/1.csv", "link/2.csv"]),
            ("link/**/*.csv", &["link/1.csv", "link/2.csv"]),
        ] {
            assert_eq!(files(folder.path(), pattern).unwrap(), expected, "{pattern}");
        }
    }

    #[test]
    fn a_directory_that_cannot_be_read_is_told() {
        let folder = folder(&["a/1.csv", "b/2.csv"]);
        let closed = folder.path().join("b");
        fs::set_permissions(&closed, fs::Permissions::from_mode(0o0)).unwrap();
        // The administrator may read all.
        if fs::read_dir(&closed).is_err() {
            for pattern in ["*/*.csv", "**/*.csv"] {
                let error = files(folder.path(), pattern).unwrap_err();
                assert!(error.to_string().contains(&format!("cannot read {}", closed.display())), "{error}");
            }
        }
        fs::set_permissions(&closed, fs::Permissions::from_mode(0o700)).unwrap();
    }

    #[test]
    fn a_pattern_takes_in_what_would_match_however_it_is_written() {
        let folder = folder(&["data/a.csv", "other/b.csv"]);
        symlink("data", folder.path().join("link")).unwrap();
        for (pattern, path, expected) in [
            ("data/*.csv", "data/new.csv", true),
            ("data/*.csv", "link/new.csv", true),
            ("link/*.csv", "other/../data/new.csv", true),
            ("data/../other/*.csv", "other/new.csv", true),
            ("data/*.csv", "data/new.parquet", false),
            ("data/*.csv", "data/_new.csv", false),
            ("data/*.csv", "other/new.csv", false),
            ("data/*.csv", "data/new/part.csv", false),
            ("data/**/*.csv", "data/new/part.csv", true),
            ("**/*.csv", "data/new/part.csv", true),
            ("none/*.csv", "none/new.csv", true),
        ] {
            let parsed = PathPattern::parse(&format!("{}/{pattern}", folder.path().display())).unwrap();
            assert_eq!(parsed.takes_in(&folder.path().join(path)), expected, "{pattern} {path}");
        }
        assert!(PathPattern::parse("*.csv").unwrap().takes_in(Path::new("new.csv")));
        assert!(PathPattern::parse("./*.csv").unwrap().takes_in(&std::env::current_dir().unwrap().join("new.csv")));
        assert!(!PathPattern::parse("*.csv").unwrap().takes_in(Path::new("src/new.csv")));
    }

    #[test]
    fn paths_match_as_files_do() {
        for (pattern, path, expected) in [
            ("s3://b/d/*.csv", "s3://b/d/a.csv", true),
            ("s3://b/d/*.csv", "s3://b/d/_a.csv", false),
            ("s3://b/d/**/*.csv", "s3://b/d/a.csv", true),
            ("s3://b/d/**/*.csv", "s3://b/d/e/f/a.csv", true),
            ("s3://b/d/**/*.csv", "s3://b/d/_temporary/0/a.csv", false),
            ("s3://b/d/*/a.csv", "s3://b/d/_e/a.csv", false),
            ("s3://b/_d/*.csv", "s3://b/_d/a.csv", true),
            ("s3://b/**/x/**/*.csv", "s3://b/x/x/y/a.csv", true),
            ("s3://b/d/**", "s3://b/d/e/a.csv", true),
            ("s3://b/d/*.csv", "s3://b/d/e/a.csv", false),
        ] {
            let parsed = PathPattern::parse(pattern).unwrap();
            assert_eq!(parsed.matches(path.as_ref()), expected, "{pattern} {path}");
        }
    }
}
