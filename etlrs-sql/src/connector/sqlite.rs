use std::path::PathBuf;
use std::sync::Arc;

use etlrs_core::{
    Connector, Error, ErrorKind, Extractor, Loader, OptionMap, OptionSet, OptionSpec, Result, TableEntry, Uri,
    async_trait,
};

use super::{no_table, pairs};
use crate::dialect::sqlite;
use crate::{SqliteExtractor, SqliteLoader, SqliteSourceOptions, SqliteTargetOptions};

/// Serves `sqlite:path.db#table`; `sqlite://path.db#table` means the same.
#[derive(Clone, Copy, Debug, Default)]
pub struct SqliteConnector;

#[async_trait]
impl Connector for SqliteConnector {
    fn name(&self) -> &'static str {
        "sqlite"
    }

    fn summary(&self) -> &'static str {
        "tables, views and queries of SQLite databases"
    }

    fn example(&self) -> &'static str {
        "sqlite:shop.db#orders"
    }

    fn schemes(&self) -> &'static [&'static str] {
        &["sqlite"]
    }

    /// A database file without its scheme is understood, and told to name a table.
    fn extensions(&self) -> &'static [&'static str] {
        &["db", "sqlite", "sqlite3"]
    }

    fn source_options(&self) -> Option<Vec<OptionSpec>> {
        Some(SqliteSourceOptions::specs())
    }

    fn target_options(&self) -> Option<Vec<OptionSpec>> {
        Some(SqliteTargetOptions::specs())
    }

    async fn tables(&self, uri: &Uri, options: &OptionMap) -> Result<Option<Vec<TableEntry>>> {
        let options = SqliteSourceOptions::from_pairs(pairs(options))?;
        let pattern = table(uri).unwrap_or_else(|| "*".into());
        let names = sqlite::matching_tables(&path(uri)?, options.busy_timeout, &pattern)?;
        Ok(Some(names.into_iter().map(|name| TableEntry::new(name.clone(), fragment(&name))).collect()))
    }

    fn table_fragment(&self, pattern: &str, name: &str) -> Result<String> {
        Ok(match super::decoded(pattern).as_str() {
            "*" => fragment(name),
            pattern => super::fragment(&pattern.replacen('*', name, 1)),
        })
    }

    fn extractor(&self, uri: &Uri, options: &OptionMap) -> Result<Arc<dyn Extractor>> {
        let options = SqliteSourceOptions::from_pairs(pairs(options))?;
        let path = path(uri)?;
        if !options.query.is_empty() {
            if table(uri).is_some() {
                return Err(Error::new(ErrorKind::InvalidConfig, "there are both a table and a query")
                    .hint("leave out what follows #, or the query")
                    .in_source(uri));
            }
            let query = options.query.clone();
            return Ok(Arc::new(SqliteExtractor::query(path, query).with_options(options)));
        }
        let Some(table) = table(uri) else {
            // A URI that is wrong anyway: what the database holds says best how to put it right.
            let tables = sqlite::table_names(&path, options.busy_timeout).unwrap_or_default();
            let hint = if tables.is_empty() {
                format!("write it after the path, as in {}", self.example())
            } else {
                format!(
                    "write it after the path: sqlite:{}#{}; there is {}",
                    path.display(),
                    tables[0],
                    tables.join(", ")
                )
            };
            return Err(no_table(uri).hint(hint));
        };
        Ok(Arc::new(SqliteExtractor::new(path, table).with_options(options)))
    }

    fn loader(&self, uri: &Uri, options: &OptionMap) -> Result<Arc<dyn Loader>> {
        let options = SqliteTargetOptions::from_pairs(pairs(options))?;
        let path = path(uri)?;
        let table = table(uri)
            .ok_or_else(|| no_table(uri).hint(format!("write it after the path: sqlite:{}#TABLE", path.display())))?;
        Ok(Arc::new(SqliteLoader::new(path, table).with_options(options)))
    }
}

/// The table of a URI, in quotes or as it is.
fn table(uri: &Uri) -> Option<String> {
    super::table(uri).map(|name| unquoted(&name).unwrap_or(name))
}

/// The name in double quotes that `text` is.
fn unquoted(text: &str) -> Option<String> {
    let inner = text.strip_prefix('"')?.strip_suffix('"')?;
    let plain = inner.replace("\"\"", "");
    (!plain.contains('"')).then(|| inner.replace("\"\"", "\""))
}

/// A table as a URI has it.
fn fragment(name: &str) -> String {
    match unquoted(name) {
        Some(_) => super::fragment(&format!("\"{}\"", name.replace('"', "\"\""))),
        None => super::fragment(name),
    }
}

pub(crate) fn path(uri: &Uri) -> Result<PathBuf> {
    let body = uri.body();
    // After // other schemes have a host, so a relative path there would be a guess.
    let path = match body.strip_prefix("//") {
        Some(path) if !path.starts_with('/') => {
            // It may be the URL of another database, with a password.
            return Err(Error::new(ErrorKind::InvalidConfig, "the URI has a host where SQLite has none")
                .hint("write sqlite:PATH#TABLE, or sqlite:///PATH for a path from the root")
                .in_source(uri));
        }
        Some(path) => path,
        None => body,
    };
    if path.is_empty() {
        return Err(Error::new(ErrorKind::InvalidConfig, "the URI names no database file")
            .hint("write sqlite:path.db#table")
            .in_source(uri));
    }
    Ok(PathBuf::from(path))
}
