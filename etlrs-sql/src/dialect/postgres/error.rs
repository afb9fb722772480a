//! What sqlx and the server say, as errors of ETLRS.
//!
//! Messages of the server may quote values of rows ("invalid input syntax for type uuid: …", "Key (id)=(5) already
//! exists"), so of errors about data its words are not used, only the code and the names that come with it.

use std::borrow::Cow;

use etlrs_core::{Error, ErrorKind};
use sqlx::postgres::{PgDatabaseError, PgSeverity};

/// `cause` as an error that names `source`, a database or a table in it.
///
/// Transient are the errors that a new connection or another order of transactions may not meet again.
pub(super) fn postgres_error(source: &str, cause: sqlx::Error) -> Error {
    let error = match &cause {
        sqlx::Error::Database(database) => match database.try_downcast_ref::<PgDatabaseError>() {
            Some(database) => of_server(database),
            None => Error::new(ErrorKind::Connection, "the server answered with an error"),
        },
        sqlx::Error::Io(io) => of_connection(io),
        sqlx::Error::Tls(tls) => Error::new(ErrorKind::Connection, format!("TLS failed: {}", chain(&**tls)))
            .hint("sslrootcert=FILE names a certificate to trust; sslmode=disable does without TLS"),
        sqlx::Error::Protocol(words) => {
            Error::new(ErrorKind::Connection, format!("the answer of the server is not understood: {words}"))
        }
        sqlx::Error::Configuration(words) => Error::new(ErrorKind::InvalidConfig, words.to_string()),
        _ => Error::new(ErrorKind::Connection, "the connection failed"),
    };
    error.in_source(source).caused_by(Quiet(cause))
}

/// Keeps what a server said out of `Debug`, which shows the chain of causes: it may quote rows.
struct Quiet(sqlx::Error);

impl std::fmt::Debug for Quiet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{self}")
    }
}

impl std::fmt::Display for Quiet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.0 {
            sqlx::Error::Database(error) => write!(f, "SQLSTATE {}", error.code().unwrap_or_default()),
            sqlx::Error::Io(error) => error.fmt(f),
            _ => f.write_str("sqlx"),
        }
    }
}

impl std::error::Error for Quiet {}

fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut words = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !words.contains(&more) {
            words = format!("{words}: {more}");
        }
        cause = error.source();
    }
    words
}

fn of_connection(error: &std::io::Error) -> Error {
    use std::io::ErrorKind as Io;
    let (message, hint): (Cow<'static, str>, _) = match error.kind() {
        Io::ConnectionRefused => ("no server answers there".into(), Some("see that it runs, and check host and port")),
        Io::NotFound => ("there is no such socket".into(), Some("see that the server runs, and check the host")),
        Io::TimedOut => ("the server does not answer in time".into(), Some("check host, port and firewall")),
        Io::UnexpectedEof | Io::ConnectionReset | Io::ConnectionAborted | Io::BrokenPipe => {
            ("the connection was lost".into(), None)
        }
        _ => (format!("the connection failed: {error}").into(), None),
    };
    let error = Error::new(ErrorKind::Connection, message).transient();
    match hint {
        Some(hint) => error.hint(hint),
        None => error,
    }
}

fn of_server(error: &PgDatabaseError) -> Error {
    let code = error.code();
    let said = || error.message().to_owned();
    match code {
        "28P01" | "28000" => Error::new(ErrorKind::PermissionDenied, said())
            .hint("the password comes from the URL, from PGPASSWORD or from ~/.pgpass"),
        "42501" => Error::new(ErrorKind::PermissionDenied, said()),
        "25006" => {
            Error::new(ErrorKind::PermissionDenied, said()).hint("a source is only read; a target must be no standby")
        }
        "3D000" => Error::new(ErrorKind::NotFound, said()),
        "42P01" | "42703" | "3F000" => Error::new(ErrorKind::NotFound, said()),
        "42P07" => Error::new(ErrorKind::AlreadyExists, said()),
        "55P03" => Error::new(ErrorKind::Locked, "another transaction holds a lock on the table"),
        "40001" | "40P01" => Error::new(ErrorKind::Locked, said()).transient(),
        "53100" => Error::new(ErrorKind::Io, "there is no space left on the disk of the server"),
        "53200" => Error::new(ErrorKind::MemoryExceeded, "the server is out of memory"),
        "53300" | "57P01" | "57P02" | "57P03" => Error::new(ErrorKind::Connection, said()).transient(),
        "57014" => Error::new(ErrorKind::Cancelled, said()),
        _ => match &code[..2.min(code.len())] {
            "08" => Error::new(ErrorKind::Connection, said()).transient(),
            "22" | "23" => of_data(error),
            "42" => Error::new(ErrorKind::InvalidConfig, said()),
            "53" | "54" | "55" | "58" => Error::new(ErrorKind::Io, said()),
            "0A" => Error::new(ErrorKind::Unsupported, said()),
            _ => {
                let what = match error.severity() {
                    PgSeverity::Fatal | PgSeverity::Panic => "the server ended the connection",
                    _ if code.starts_with("P0") => "a trigger or a function of the database raised an exception",
                    _ => "the server refuses a statement",
                };
                Error::new(ErrorKind::InvalidData, format!("{what} (SQLSTATE {code})"))
                    .hint("the log of the server has its words, which may quote values")
            }
        },
    }
}

/// An error about values, in words of our own.
fn of_data(error: &PgDatabaseError) -> Error {
    let constraint = error.constraint().unwrap_or_default();
    let message: Cow<'static, str> = match error.code() {
        "22001" => "a text is longer than the column's type allows".into(),
        "22003" => "a number is outside the range of the column's type".into(),
        "22007" | "22008" | "22009" => "a text is no date or time of the column's type".into(),
        "22P02" | "22023" | "22P03" => "a text is no value of the column's type".into(),
        "22021" => "a text holds a character that the server cannot store".into(),
        "23502" => "there is a null in a column that is NOT NULL".into(),
        "23505" => format!("two rows would be the same to the unique constraint {constraint:?}").into(),
        "23503" => format!("a row breaks the foreign key {constraint:?}").into(),
        "23514" => format!("a row breaks the check {constraint:?}").into(),
        "23P01" => format!("two rows conflict by the exclusion constraint {constraint:?}").into(),
        code => format!("a value is refused (SQLSTATE {code})").into(),
    };
    let copied = error.r#where().and_then(copy_column);
    let named = error.column().map(str::to_owned);
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
