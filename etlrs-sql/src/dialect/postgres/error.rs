//! What a connection and the server say, as errors of ETLRS.
//!
//! Messages of the server may quote values of rows ("invalid input syntax for type uuid: …", "Key (id)=(5) already
//! exists"), so of errors about data its words are not used, only the code and the names that come with it.

use std::borrow::Cow;

use etlrs_core::{Error, ErrorKind};

use super::extract::ROW_SECURITY;
use super::wire::{Failure, Refusal};
use crate::network::connection_error;

/// `failure` as an error that names `source`, a database or a table in it.
///
/// Transient are the errors that a new connection or another order of transactions may not meet again.
pub(super) fn postgres_error(source: &str, failure: Failure) -> Error {
    let error = match &failure {
        Failure::Server(refusal) => of_server(refusal).caused_by(Code(refusal.code.clone())),
        other => {
            connection_error(other, "sslrootcert=FILE names a certificate to trust; sslmode=disable does without TLS")
        }
    };
    error.in_source(source)
}

/// What is kept of an error of the server for `Debug`: its words may quote rows.
#[derive(Debug)]
struct Code(String);

impl std::fmt::Display for Code {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SQLSTATE {}", self.0)
    }
}

impl std::error::Error for Code {}

fn of_server(error: &Refusal) -> Error {
    let code = error.code.as_str();
    let said = || error.message.clone();
    match code {
        "28P01" | "28000" => Error::new(ErrorKind::PermissionDenied, said())
            .hint("the password comes from the URL, from PGPASSWORD or from ~/.pgpass"),
        "42501" if error.message.contains("row-level security") => {
            Error::new(ErrorKind::PermissionDenied, said()).hint(ROW_SECURITY)
        }
        "42501" => Error::new(ErrorKind::PermissionDenied, said()),
        "25006" => {
            Error::new(ErrorKind::PermissionDenied, said()).hint("a source is only read; a target must be no standby")
        }
        "3D000" => Error::new(ErrorKind::NotFound, said()),
        "42P01" | "42703" | "3F000" => Error::new(ErrorKind::NotFound, said()),
        "42P07" => Error::new(ErrorKind::AlreadyExists, said()),
        "55P03" => Error::new(ErrorKind::Locked, "another transaction holds a lock that is needed")
            .hint("wait until it is done, or longer, with the option lock_timeout; pg_locks tells whose it is"),
        "40001" | "40P01" => Error::new(ErrorKind::Locked, said()).transient(),
        "53100" => Error::new(ErrorKind::Io, "there is no space left on the disk of the server"),
        "53200" => Error::new(ErrorKind::MemoryExceeded, "the server is out of memory"),
        "53300" | "57P01" | "57P02" | "57P03" => Error::new(ErrorKind::Connection, said()).transient(),
        "57014" => Error::new(ErrorKind::Cancelled, said()),
        _ => match code.get(..2).unwrap_or_default() {
            "08" => Error::new(ErrorKind::Connection, said()).transient(),
            "22" | "23" => of_data(error),
            "42" => Error::new(ErrorKind::InvalidConfig, said()),
            "53" | "55" | "58" => Error::new(ErrorKind::Io, said()),
            // A limit that values go beyond, such as the size of a key in an index.
            "54" => Error::new(ErrorKind::InvalidData, said()),
            "0A" => Error::new(ErrorKind::Unsupported, said()),
            _ => {
                let what = match code.get(..2) {
                    _ if error.is_fatal() => "the server ended the connection",
                    Some("P0") => "a trigger or a function of the database raised an exception",
                    _ => "the server refuses a statement",
                };
                Error::new(ErrorKind::InvalidData, format!("{what} (SQLSTATE {code})"))
                    .hint("the log of the server has its words, which may quote values")
            }
        },
    }
}

/// An error about values, in words of our own.
fn of_data(error: &Refusal) -> Error {
    let constraint = error.constraint.as_deref().unwrap_or_default();
    let message: Cow<'static, str> = match error.code.as_str() {
        "22001" => "a text is longer than the column's type allows".into(),
        "22003" => "a number is outside the range of the column's type".into(),
        "22007" | "22008" | "22009" => "a text is no date or time of the column's type".into(),
        "22012" => "a division by zero".into(),
        "22P02" | "22023" | "22P03" => "a text is no value of the column's type".into(),
        "22021" => "a text holds a character that the server cannot store".into(),
        "23502" => "there is a null in a column that is NOT NULL".into(),
        "23505" => format!("two rows would be the same to the unique constraint {constraint:?}").into(),
        "23503" => format!("a row breaks the foreign key {constraint:?}").into(),
        // The row finds no partition, which is no constraint of the user's.
        "23514" if constraint.is_empty() => "a row belongs to no partition of the table".into(),
        "23514" => format!("a row breaks the check {constraint:?}").into(),
        "23P01" => format!("two rows conflict by the exclusion constraint {constraint:?}").into(),
        code => format!("a value is refused (SQLSTATE {code})").into(),
    };
    let copied = error.place.as_deref().and_then(copy_column);
    let named = error.column.clone();
    let made = Error::new(ErrorKind::InvalidData, message);
    match named.or(copied) {
        Some(column) => made.at_column(column),
        None => made,
    }
}

/// The column that `COPY t, line 3, column c` names.
fn copy_column(place: &str) -> Option<String> {
    let (_, column) = place.strip_prefix("COPY ")?.split_once(", column ")?;
    // A value may follow: `column c: "x"`.
    Some(column.split(": \"").next().unwrap_or(column).lines().next()?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_column_of_a_copy_is_found() {
        assert_eq!(copy_column("COPY t, line 3, column c").as_deref(), Some("c"));
        assert_eq!(copy_column("COPY t, line 3, column c: \"x\"").as_deref(), Some("c"));
        assert_eq!(copy_column("PL/pgSQL function f() line 1"), None);
    }
}
