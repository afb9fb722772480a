use std::path::Path;

use etlrs_core::{Error, ErrorKind};
use rusqlite::ErrorCode;
use rusqlite::ffi;

/// `cause` as an error that names the database file.
///
/// Only a lock is transient: it is the one failure that passes without anybody's doing.
pub(crate) fn sqlite_error(path: &Path, cause: rusqlite::Error) -> Error {
    let (kind, message, hint) = match cause.sqlite_error_code() {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked | ErrorCode::FileLockingProtocolFailed) => {
            let error = Error::new(ErrorKind::Locked, "another connection has locked the database")
                .hint("wait until it is done, or give a longer busy_timeout")
                .in_source(path.display())
                .caused_by(cause);
            return error.transient();
        }
        Some(ErrorCode::DiskFull) => (ErrorKind::Io, "there is no space left for the database".into(), None),
        Some(ErrorCode::ReadOnly) if needs_rollback(&cause) => (
            ErrorKind::PermissionDenied,
            "a program died while it wrote to the database, and its journal cannot be rolled back without write access"
                .into(),
            None,
        ),
        Some(ErrorCode::ReadOnly) => (ErrorKind::PermissionDenied, "the database cannot be written to".into(), None),
        Some(ErrorCode::PermissionDenied | ErrorCode::AuthorizationForStatementDenied) => {
            (ErrorKind::PermissionDenied, "access to the database is denied".into(), None)
        }
        Some(ErrorCode::CannotOpen) => {
            (ErrorKind::Io, "the database cannot be opened".into(), Some("see that it is a file, and its permissions"))
        }
        Some(ErrorCode::NotADatabase) => (ErrorKind::InvalidData, "the file is not a SQLite database".into(), None),
        Some(ErrorCode::DatabaseCorrupt) => (
            ErrorKind::InvalidData,
            "the database is damaged".into(),
            Some("PRAGMA integrity_check in the sqlite3 program tells more"),
        ),
        Some(ErrorCode::ConstraintViolation) => (ErrorKind::InvalidData, words(&cause), None),
        Some(ErrorCode::TooBig) => {
            (ErrorKind::InvalidData, "a value is larger than SQLite can hold (1 GB)".into(), None)
        }
        Some(ErrorCode::OutOfMemory) => (ErrorKind::MemoryExceeded, "SQLite got no memory".into(), None),
        Some(ErrorCode::OperationInterrupted) => (ErrorKind::Cancelled, "the query was interrupted".into(), None),
        Some(ErrorCode::SystemIoFailure) => (ErrorKind::Io, format!("SQLite failed: {}", words(&cause)), None),
        _ => (ErrorKind::InvalidData, format!("SQLite failed: {}", words(&cause)), None),
    };
    let mut error = Error::new(kind, message).in_source(path.display()).caused_by(cause);
    if let Some(hint) = hint {
        error = error.hint(hint);
    }
    error
}

/// Whether an error is the fault of a row: one of ours, or of a constraint.
pub(super) fn is_of_row(error: &Error) -> bool {
    let cause = std::error::Error::source(error).and_then(|cause| cause.downcast_ref::<rusqlite::Error>());
    let is_known = |cause: &rusqlite::Error| {
        use ErrorCode::{ConstraintViolation, TooBig, TypeMismatch};
        matches!(cause.sqlite_error_code(), Some(ConstraintViolation | TooBig | TypeMismatch))
    };
    error.kind() == ErrorKind::InvalidData && cause.is_none_or(is_known)
}

/// Whether a read-only connection found the journal of a program that died.
pub(crate) fn needs_rollback(error: &rusqlite::Error) -> bool {
    error.sqlite_error().is_some_and(|error| error.extended_code == ffi::SQLITE_READONLY_ROLLBACK)
}

/// SQLite's own words, without the statement that rusqlite adds to them.
pub(crate) fn words(error: &rusqlite::Error) -> String {
    match error {
        rusqlite::Error::SqliteFailure(_, Some(message)) => message.clone(),
        rusqlite::Error::SqlInputError { msg, .. } => msg.clone(),
        error => error.to_string(),
    }
}
