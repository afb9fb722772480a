//! URIs and options into extractors and loaders.

use etlrs_core::{Error, ErrorKind, OptionMap, Uri};

#[cfg(feature = "mysql")]
mod mysql;
#[cfg(feature = "postgres")]
mod postgres;
#[cfg(feature = "sqlite")]
mod sqlite;

#[cfg(feature = "mysql")]
pub use mysql::MysqlConnector;
#[cfg(feature = "postgres")]
pub use postgres::PostgresConnector;
#[cfg(feature = "sqlite")]
pub use sqlite::SqliteConnector;
#[cfg(feature = "sqlite")]
pub(crate) use sqlite::path;

fn pairs(options: &OptionMap) -> impl Iterator<Item = (&str, &str)> {
    options.iter().map(|(key, value)| (key.as_str(), value.as_str()))
}

/// The names that match `pattern`, or the one that is just that.
pub(crate) fn matching(names: Vec<String>, pattern: &str) -> Vec<String> {
    if names.iter().any(|name| name == pattern) {
        return vec![pattern.to_owned()];
    }
    names.into_iter().filter(|name| etlrs_core::matches_pattern(name, pattern)).collect()
}

/// The table of a URI.
fn table(uri: &Uri) -> Option<String> {
    uri.fragment().filter(|table| !table.is_empty()).map(decoded)
}

/// The name of a table in a URI, in which `#` is written %23, and `%` may be written %25.
fn decoded(fragment: &str) -> String {
    fragment.replace("%23", "#").replace("%25", "%")
}

/// A table as a URI has it.
fn fragment(name: &str) -> String {
    name.replace('%', "%25").replace('#', "%23")
}

fn no_table(uri: &Uri) -> Error {
    Error::new(ErrorKind::InvalidConfig, "the URI names no table").in_source(uri)
}
