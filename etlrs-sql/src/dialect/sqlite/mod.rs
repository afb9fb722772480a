//! SQLite, through rusqlite.
//!
//! Never open the database file other than through SQLite: closing any descriptor of a file gives up all POSIX locks
//! that the process has on it, those of other connections too (<https://www.sqlite.org/howtocorrupt.html>, 2.2).
//! `fs::metadata` is harmless.

mod catalog;
mod cursor;
mod decode;
mod encode;
mod error;
mod extract;
mod ledger;
mod load;
mod publish;
mod saved_cursor;
mod session;
mod target;
mod text;
mod types;
mod writer;

use std::path::{Path, PathBuf};

use etlrs_core::{Error, ErrorKind, Result};
use rusqlite::{Connection, OpenFlags};

pub use extract::SqliteExtractor;
pub use load::SqliteLoader;

use self::error::{needs_rollback, sqlite_error};
use crate::options::Seconds;

/// `name` as an identifier of SQL.
fn quote(name: &str) -> Result<String> {
    if name.contains('\0') {
        return Err(Error::new(ErrorKind::InvalidConfig, format!("the name {name:?} has a NUL character in it")));
    }
    Ok(quoted(name))
}

/// The same of a name that the database has.
fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Opens a database that exists, to read.
///
/// The journal of a program that died while it wrote is rolled back, as any program that may write does.
fn open_to_read(path: &Path, busy_timeout: Seconds) -> Result<Connection> {
    // SQLite says of a missing file only that it cannot be opened.
    let found = std::fs::metadata(path).map_err(|error| Error::io("open", path, error))?;
    if !found.is_file() {
        return Err(Error::new(ErrorKind::InvalidConfig, "this is no database file").in_source(path.display()));
    }
    let failed = |error| sqlite_error(path, error);
    let look = |connection: &Connection| connection.query_row("PRAGMA schema_version", [], |_| Ok(()));
    let connection = open(path, OpenFlags::SQLITE_OPEN_READ_ONLY, busy_timeout)?;
    match look(&connection) {
        Err(error) if needs_rollback(&error) => {
            drop(connection);
            look(&open(path, OpenFlags::SQLITE_OPEN_READ_WRITE, busy_timeout)?).map_err(failed)?;
            open(path, OpenFlags::SQLITE_OPEN_READ_ONLY, busy_timeout)
        }
        looked => looked.map(|()| connection).map_err(failed),
    }
}

fn open(path: &Path, flags: OpenFlags, busy_timeout: Seconds) -> Result<Connection> {
    let failed = |error| sqlite_error(path, error);
    // SQLite is compiled to take `file:…` for a URI; a path that begins so is not meant as one.
    let plain: PathBuf = if path.is_relative() { Path::new(".").join(path) } else { path.to_owned() };
    // Each connection is used by one thread at a time, so SQLite need not lock within it.
    let connection = Connection::open_with_flags(plain, flags | OpenFlags::SQLITE_OPEN_NO_MUTEX).map_err(failed)?;
    connection.busy_timeout(busy_timeout.duration()).map_err(failed)?;
    Ok(connection)
}

/// Bounds the page cache of a connection, in bytes.
fn set_cache(connection: &Connection, bytes: usize) -> rusqlite::Result<()> {
    const SMALLEST: usize = 128 << 10;
    const LARGEST: usize = 64 << 20;
    let kib = bytes.clamp(SMALLEST, LARGEST) >> 10;
    connection.execute_batch(&format!("PRAGMA cache_size = -{kib}"))
}

/// The tables of a database whose names match, or the one that is called just so.
pub(crate) fn matching_tables(path: &Path, busy_timeout: Seconds, pattern: &str) -> Result<Vec<String>> {
    let connection = open_to_read(path, busy_timeout)?;
    let names = catalog::tables(&connection).map_err(|error| sqlite_error(path, error))?;
    Ok(crate::connector::matching(names, pattern))
}

/// The tables and views of a database, for error messages.
pub(crate) fn table_names(path: &Path, busy_timeout: Seconds) -> Result<Vec<String>> {
    let connection = open_to_read(path, busy_timeout)?;
    catalog::names(&connection).map_err(|error| sqlite_error(path, error))
}
