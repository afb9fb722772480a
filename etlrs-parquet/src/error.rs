use std::panic::AssertUnwindSafe;
use std::path::Path;

use etlrs_core::{Error, ErrorKind, Result};
use parquet::errors::ParquetError;

/// The error of reading `path`: what the operating system refused stays that, the rest is the fault of the file.
pub(crate) fn reading(path: &Path, error: ParquetError) -> Error {
    convert("read", path, error).in_source(path.display())
}

/// The error of writing `target`; the message names it, whatever temporary file was written.
pub(crate) fn writing(target: &Path, error: ParquetError) -> Error {
    let error = match error {
        // Not the fault of a file: batches that are not those of the plan, or more row groups than the format counts.
        ParquetError::General(message) | ParquetError::ArrowError(message) => {
            Error::new(ErrorKind::Internal, format!("the rows cannot be written: {message}"))
        }
        error => convert("write", target, error),
    };
    error.in_source(target.display())
}

fn convert(operation: &str, path: &Path, error: ParquetError) -> Error {
    match error {
        ParquetError::External(cause) => external(operation, path, cause),
        ParquetError::NYI(message) => Error::new(ErrorKind::Unsupported, unsupported(&message)),
        ParquetError::General(message) | ParquetError::ArrowError(message) if is_unsupported(&message) => {
            Error::new(ErrorKind::Unsupported, unsupported(&message))
        }
        ParquetError::General(message) | ParquetError::EOF(message) | ParquetError::ArrowError(message) => {
            let message = message.strip_prefix("Parquet error: ").unwrap_or(&message);
            damaged(message)
        }
        error => damaged(&error.to_string()).caused_by(error),
    }
}

fn damaged(message: &str) -> Error {
    // A footer in plain text does not tell that columns are encrypted; their page headers are then no page headers.
    let encrypted =
        if message.contains("Required field type_ is missing") { ", or its columns are encrypted" } else { "" };
    Error::new(ErrorKind::InvalidData, format!("the file is damaged{encrypted}: {message}"))
}

/// An error that went through the parquet crate wrapped: one of ours comes back out.
fn external(operation: &str, path: &Path, cause: Box<dyn std::error::Error + Send + Sync>) -> Error {
    let cause = match cause.downcast::<Error>() {
        Ok(error) => return *error,
        Err(cause) => cause,
    };
    let cause = match cause.downcast::<ParquetError>() {
        Ok(error) => return convert(operation, path, *error),
        Err(cause) => cause,
    };
    let cause = match cause.downcast::<arrow_schema::ArrowError>() {
        Ok(error) => return arrow(operation, path, *error),
        Err(cause) => cause,
    };
    match cause.downcast::<std::io::Error>() {
        // Codecs report damage as an I/O error of these kinds; one of the system has a number.
        Ok(error) if error.raw_os_error().is_some() || wraps_ours(&error) => unwrap_io(operation, path, *error),
        Ok(error) => Error::new(ErrorKind::InvalidData, format!("the file is damaged: {error}")).caused_by(error),
        Err(cause) => Error::new(ErrorKind::InvalidData, format!("the file is damaged: {cause}")).caused_by(cause),
    }
}

fn wraps_ours(error: &std::io::Error) -> bool {
    error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()).is_some()
}

fn unwrap_io(operation: &str, path: &Path, error: std::io::Error) -> Error {
    match error.downcast::<Error>() {
        Ok(error) => error,
        Err(error) => Error::io(operation, path, error),
    }
}

/// What a batch reader or the level computation reports; the parquet crate wraps its own errors in Arrow's.
pub(crate) fn arrow(operation: &str, path: &Path, error: arrow_schema::ArrowError) -> Error {
    use arrow_schema::ArrowError;
    match error {
        ArrowError::ExternalError(cause) => external(operation, path, cause),
        ArrowError::NotYetImplemented(message) => Error::new(ErrorKind::Unsupported, unsupported(&message)),
        ArrowError::ParquetError(message) if is_unsupported(&message) => {
            Error::new(ErrorKind::Unsupported, unsupported(&message))
        }
        ArrowError::ParquetError(message) => {
            let message = message.strip_prefix("Parquet argument error: ").unwrap_or(&message);
            let message = message.strip_prefix("Parquet error: ").unwrap_or(message);
            damaged(message)
        }
        error => Error::new(ErrorKind::InvalidData, format!("the file is damaged: {error}")).caused_by(error),
    }
    .in_source(path.display())
}

/// The crate has no kind of error for what it leaves out, so its words decide.
fn is_unsupported(message: &str) -> bool {
    ["encrypted", "not supported", "unsupported", "not yet implemented", "not implemented", "Disabled feature", "NYI"]
        .iter()
        .any(|word| message.contains(word))
}

fn unsupported(message: &str) -> String {
    let message = message.strip_prefix("Parquet argument error: ").unwrap_or(message);
    let message = message.strip_prefix("Parquet error: ").unwrap_or(message);
    let message = message.strip_prefix("NYI: ").unwrap_or(message);
    if message.contains("encrypted") {
        return "the file is encrypted, which is not supported".to_owned();
    }
    format!("the file needs what is not supported: {message}")
}

/// Runs `f`, which takes apart bytes that anybody may have written. The parquet crate asserts in places what a damaged
/// file breaks; such a panic becomes an error that names the file. What `f` was working on must not be used again.
pub(crate) fn guarded<T>(path: &Path, f: impl FnOnce() -> Result<T>) -> Result<T> {
    std::panic::catch_unwind(AssertUnwindSafe(f)).unwrap_or_else(|panic| {
        let message = panic
            .downcast_ref::<String>()
            .map(String::as_str)
            .or_else(|| panic.downcast_ref::<&str>().copied())
            .unwrap_or("the reader gave up");
        Err(Error::new(ErrorKind::InvalidData, format!("the file is damaged: {message}")).in_source(path.display()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_of_ours_comes_back_out() {
        let inner = || Error::new(ErrorKind::Connection, "gone").transient();
        let io = std::io::Error::other(inner());
        for wrapped in [
            ParquetError::External(Box::new(inner())),
            ParquetError::External(Box::new(io)),
            ParquetError::External(Box::new(ParquetError::External(Box::new(inner())))),
            ParquetError::External(Box::new(arrow_schema::ArrowError::ExternalError(Box::new(inner())))),
        ] {
            let error = reading(Path::new("f"), wrapped);
            assert_eq!((error.kind(), error.is_transient()), (ErrorKind::Connection, true), "{error}");
        }
    }

    #[test]
    fn each_error_has_its_kind_and_names_the_file() {
        let full = std::io::Error::from_raw_os_error(28);
        for (error, kind, words) in [
            (ParquetError::EOF("short".into()), ErrorKind::InvalidData, "short"),
            (ParquetError::NYI("codec LZO".into()), ErrorKind::Unsupported, "codec LZO"),
            (ParquetError::from(full), ErrorKind::Io, "no space left on the device"),
            (ParquetError::from(std::io::Error::other("bad zstd frame")), ErrorKind::InvalidData, "bad zstd frame"),
        ] {
            let error = writing(Path::new("out.parquet"), error);
            assert_eq!(error.kind(), kind);
            assert!(error.to_string().contains(words) && error.to_string().contains("out.parquet"), "{error}");
        }
    }

    #[test]
    fn a_panic_is_a_damaged_file() {
        let error = guarded::<()>(Path::new("f.parquet"), || panic!("index out of bounds")).unwrap_err();
        assert_eq!(error.to_string(), "f.parquet: the file is damaged: index out of bounds");
    }
}
