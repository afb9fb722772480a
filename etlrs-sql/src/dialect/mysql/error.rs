//! What a connection and the server say, as errors of ETLRS.
//!
//! Messages of the server may quote values of rows ("Incorrect integer value: 'x' for column …", "Duplicate entry '5' for key
//! …"), so of errors about data its words are not used, only the number and the name of the column.

use std::borrow::Cow;

use etlrs_core::{Error, ErrorKind};

use super::wire::{Failure, Refusal};
use crate::network::connection_error;

/// `failure` as an error that names `source`, a database or a table in it.
///
/// Transient are the errors that a new connection or another order of transactions may not meet again.
pub(super) fn mysql_error(source: &str, failure: Failure) -> Error {
    let error = match &failure {
        Failure::Server(refusal) => of_server(refusal).caused_by(Code(refusal.code)),
        other => {
            connection_error(other, "ssl-ca=FILE names a certificate to trust; ssl-mode=disabled does without TLS")
        }
    };
    error.in_source(source)
}

/// What is kept of an error of the server for `Debug`: its words may quote rows.
#[derive(Debug)]
struct Code(u16);

impl std::fmt::Display for Code {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "error {} of the server", self.0)
    }
}

impl std::error::Error for Code {}

/// The number of an error of the server.
pub(super) fn code_of(error: &Error) -> Option<u16> {
    std::error::Error::source(error)?.downcast_ref::<Code>().map(|code| code.0)
}

/// The numbers are those of <https://dev.mysql.com/doc/mysql-errors/8.4/en/server-error-reference.html> and
/// <https://mariadb.com/docs/server/reference/error-codes/mariadb-error-code-reference>.
fn of_server(refusal: &Refusal) -> Error {
    let said = || refusal.message.clone();
    match refusal.code {
        // Access denied: by user and password, to a database, to a table or column.
        1045 | 1698 => Error::new(ErrorKind::PermissionDenied, said())
            .hint("the password comes from the URL, from MYSQL_PWD or from ~/.my.cnf"),
        1044 | 1142 | 1143 | 1227 | 1370 | 1410 => Error::new(ErrorKind::PermissionDenied, said()),
        1792 => Error::new(ErrorKind::PermissionDenied, "a source is only read"),
        1290 | 1836 => Error::new(ErrorKind::PermissionDenied, "the server is read-only").hint("name the primary"),
        1049 | 1051 | 1054 | 1109 | 1146 => Error::new(ErrorKind::NotFound, said()),
        1007 | 1050 => Error::new(ErrorKind::AlreadyExists, said()),
        1205 => Error::new(ErrorKind::Locked, "another transaction holds a lock that is needed")
            .hint("wait until it is done, or longer, with the option lock_timeout; SHOW PROCESSLIST tells whose it is"),
        1213 => Error::new(ErrorKind::Locked, said()).transient(),
        1020 => Error::new(ErrorKind::Locked, "another transaction changed a row meanwhile").transient(),
        1412 => Error::new(ErrorKind::SourceChanged, "the table was altered while it was read").hint("run again"),
        1021 | 1114 => Error::new(ErrorKind::Io, "there is no space left on the disk of the server"),
        1038 => Error::new(ErrorKind::MemoryExceeded, "the server has too little memory to sort")
            .hint("raise sort_buffer_size of the server"),
        1037 | 1041 => Error::new(ErrorKind::MemoryExceeded, "the server is out of memory"),
        1040 | 1053 | 1077 | 1152 | 1158..=1161 | 1203 | 1927 | 3169 | 4031 => {
            Error::new(ErrorKind::Connection, said()).transient()
        }
        1317 | 1907 | 1969 | 3024 => {
            Error::new(ErrorKind::Connection, "the statement was ended at the server").hint("run again")
        }
        1226 | 1047 => Error::new(ErrorKind::Connection, said()).transient(),
        1173 | 3750 => Error::new(ErrorKind::Unsupported, "this server wants a primary key in every table")
            .hint("create the table first, or use mode merge with --key"),
        1153 => Error::new(ErrorKind::InvalidData, "a row is larger than the server takes")
            .hint("raise max_allowed_packet of the server"),
        1025 if refusal.message.contains("name too long") => {
            Error::new(ErrorKind::InvalidConfig, "the name is too long for a file of the server")
                .hint("choose a shorter name")
        }
        1118 => Error::new(ErrorKind::SchemaMismatch, "a row of these columns is too long for MySQL")
            .hint("leave columns out, or create the table with shorter types"),
        1070 | 1071 => {
            Error::new(ErrorKind::SchemaMismatch, "the key columns are too many or too long for an index of MySQL")
                .hint("leave out the primary key with primary_key=false, or create the table with shorter types")
        }
        1064 | 1055 | 1060 | 1061 | 1103 | 1166 | 1305 | 1582 => Error::new(ErrorKind::InvalidConfig, said()),
        code => match of_data(code) {
            Some(message) => {
                let made = Error::new(ErrorKind::InvalidData, message);
                match column_of(&refusal.message) {
                    Some(column) => made.at_column(column),
                    None => made,
                }
            }
            None => Error::new(ErrorKind::InvalidData, format!("the server refuses a statement (error {code})"))
                .hint("the log of the server may have its words, which may quote values"),
        },
    }
}

/// What an error or a warning about values means.
pub(super) fn of_data(code: u16) -> Option<Cow<'static, str>> {
    Some(match code {
        1048 | 1263 | 1364 => "there is a null in a column that is NOT NULL".into(),
        1062 | 1586 => "two rows have the same key".into(),
        1260 => "a text that was put together was cut off; raise group_concat_max_len".into(),
        1301 => "a value was larger than max_allowed_packet, and became null".into(),
        1264 | 1690 | 1916 => "a number is outside the range of the column's type".into(),
        1406 => "a value is longer than the column's type allows".into(),
        1265 | 1292 | 1366 | 1411 => "a text is no value of the column's type".into(),
        3140 | 3141 | 4035..=4040 => "a text is no JSON".into(),
        3819 | 4025 => "a row breaks a check".into(),
        1451 | 1452 | 1216 | 1217 => "a row breaks a foreign key".into(),
        1261 | 1262 => "a row has another number of fields".into(),
        1644 => "a trigger of the database refuses a row".into(),
        1526 => "a row belongs to no partition of the table".into(),
        _ => return None,
    })
}

/// The column in "… for column `db`.`t`.`c` at row 3" or "Column 'c' cannot be null", if it is that beyond doubt.
pub(super) fn column_of(message: &str) -> Option<String> {
    if let Some(rest) = message.strip_prefix("Column '") {
        return Some(rest.split_once("' ")?.0.to_owned());
    }
    // "Duplicate entry 'VALUE' for key 'NAME'" names no column.
    if message.contains(" for key ") {
        return None;
    }
    // Behind the value, which may have anything in it.
    let (_, rest) = message.rsplit_once(" column ")?;
    let rest = rest.rsplit_once(" at row ").map_or(rest, |(name, _)| name);
    let name = match rest.strip_prefix('`') {
        Some(path) => path.strip_suffix('`')?.rsplit("`.`").next()?,
        None => rest.strip_prefix('\'')?.strip_suffix('\'')?,
    };
    Some(name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_column_is_found() {
        for (message, expected) in [
            ("Data too long for column 'c' at row 1", Some("c")),
            ("Incorrect integer value: 'x column y' for column `d`.`t`.`c` at row 7", Some("c")),
            ("Column 'c' cannot be null", Some("c")),
            ("Duplicate entry '5' for key 'PRIMARY'", None),
            ("Duplicate entry 'x column 'y' for key 'PRIMARY'", None),
        ] {
            assert_eq!(column_of(message).as_deref(), expected, "{message}");
        }
    }
}
