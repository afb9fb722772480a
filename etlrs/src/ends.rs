//! What the ends of a pipeline must not have in common.

use etlrs_core::{Connector, Error, ErrorKind, Registry, Result, Uri};

/// Whether `uri` is a table of a database.
fn is_database(registry: &Registry, uri: &Uri) -> bool {
    uri.scheme().is_some_and(|scheme| registry.find(uri).is_ok_and(|found| found.schemes().contains(&scheme)))
}

/// Refuses a database file that would be read and written at once: staging in it changes it, which would look as if somebody
/// else had changed the source. What is one table of a server, the load finds out there.
pub(crate) fn require_databases_apart(registry: &Registry, source: &Uri, target: &Uri) -> Result<()> {
    let file = |uri: &Uri| is_database(registry, uri).then(|| uri.path().canonicalize().ok()).flatten();
    if file(source).is_some_and(|source| Some(source) == file(target)) {
        return Err(Error::new(ErrorKind::InvalidConfig, "source and target are in the same database file")
            .hint("copy to another file, or use SQL within the database")
            .in_source(target));
    }
    Ok(())
}

/// Refuses a pattern as a target: a file of that name would be written, and be all that the pattern then stands for.
pub(crate) fn require_one_place(registry: &Registry, place: &Uri) -> Result<()> {
    let path = place.file().to_string_lossy();
    if is_database(registry, place) || !path.contains(['*', '?', '[']) || place.file().exists() {
        return Ok(());
    }
    Err(Error::new(ErrorKind::InvalidConfig, "a pattern can be read and not written")
        .hint("name a file, or a directory with / at its end"))
}

/// Refuses `place`, which is written, if `source` is a directory or a pattern that takes it in: the next run would read it
/// as well.
pub(crate) fn require_apart(registry: &Registry, source: &Uri, place: &Uri) -> Result<()> {
    if is_database(registry, source) || is_database(registry, place) || is_same_place(source, place) {
        return Ok(());
    }
    let (Ok(reader), Ok(writer)) = (registry.find(source), registry.find(place)) else { return Ok(()) };
    if takes_in(source, &**reader, place, &**writer) {
        return Err(Error::new(
            ErrorKind::InvalidConfig,
            "it is among the files of the source, so the next run would read it",
        )
        .hint("write it to another folder, or let the source name its files more closely"));
    }
    Ok(())
}

#[cfg(any(feature = "csv", feature = "json", feature = "parquet"))]
fn takes_in(source: &Uri, reader: &dyn Connector, place: &Uri, writer: &dyn Connector) -> bool {
    let path = place.file();
    let is_directory = path.as_os_str().as_encoded_bytes().ends_with(b"/") || path.is_dir();
    // A directory gets files of its format.
    let part = || path.join(format!("part.{}", writer.extensions().first().unwrap_or(&"")));
    let path = if is_directory { part() } else { path.to_owned() };
    etlrs_files::takes_in(source.file(), reader.extensions(), &path)
}

#[cfg(not(any(feature = "csv", feature = "json", feature = "parquet")))]
fn takes_in(_: &Uri, _: &dyn Connector, _: &Uri, _: &dyn Connector) -> bool {
    false
}

/// Whether both are in one file or directory. A database is one file, whatever the table.
pub fn is_same_place(one: &Uri, other: &Uri) -> bool {
    let place = |uri: &Uri| {
        let path = uri.file();
        // A URL is what it is, but for a slash at its end.
        if let Some(url) = path.to_str().filter(|text| text.contains("://")) {
            return Some(std::path::PathBuf::from(url.trim_end_matches('/')));
        }
        let whole = path.canonicalize().ok();
        let folder = || {
            let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
            let parent = parent.unwrap_or(std::path::Path::new(".")).canonicalize().ok()?;
            Some(parent.join(path.file_name()?))
        };
        whole.or_else(folder)
    };
    place(one).is_some_and(|one| Some(one) == place(other))
}

#[cfg(all(test, feature = "csv", feature = "parquet", feature = "sqlite"))]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_is_no_target() {
        for (place, refused) in
            [("d/*.csv", true), ("s3://b/a?.csv", true), ("d/a.csv", false), ("sqlite:a.db#t[1]", false)]
        {
            assert_eq!(require_one_place(&crate::registry(), &Uri::new(place)).is_err(), refused, "{place}");
        }
    }

    #[test]
    fn what_is_written_is_not_among_the_files_that_are_read() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("data")).unwrap();
        let at = |name: &str| Uri::new(name).in_folder(folder.path());
        for (source, place, refused) in [
            ("data/*.csv", "data/all.csv", true),
            ("parquet:data/*", "data/all.parquet", true),
            ("csv:data/", "data/all.csv", true),
            ("csv:data", "csv:data/all.tsv", true),
            ("data/**/*.csv", "csv:data/all/", true),
            ("**/*.parquet", "data/all.csv.rejected.parquet", true),
            ("s3://b/d/*.csv", "s3://b/d/all.csv", true),
            ("s3://b/d/", "s3://b/d/all.csv", false),
            ("csv:s3://b/d/", "s3://b/d/all.csv", true),
            ("data/*.csv", "data/all.parquet", false),
            ("data/**/*.csv", "parquet:data/all/", false),
            ("csv:data/", "all.csv", false),
            ("csv:data/", "csv:data/", false),
            ("csv:data/", "csv:data/all/", false),
            ("data/*.csv", "sqlite:data/all.csv#t", false),
            ("data/a.csv", "data/b.csv", false),
            ("s3://b/d/*.csv", "data/all.csv", false),
            ("-", "data/all.csv", false),
        ] {
            let found = require_apart(&crate::registry(), &at(source), &at(place));
            assert_eq!(found.is_err(), refused, "{source} {place}");
        }
    }
}
