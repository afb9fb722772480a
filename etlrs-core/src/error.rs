use std::borrow::Cow;
use std::fmt;
use std::path::Path;

/// What every fallible call in ETLRS returns.
pub type Result<T, E = Error> = std::result::Result<T, E>;

type Cause = Box<dyn std::error::Error + Send + Sync + 'static>;

/// What went wrong, where, and what to do about it.
///
/// One word wide and opaque. Ask it [`kind`](Error::kind), [`is_transient`](Error::is_transient) and
/// [`position`](Error::position). `Display` is one sentence that a user can act on; `Debug` adds the chain of causes.
///
/// ```
/// use etlrs_core::{Error, ErrorKind};
///
/// let error = Error::new(ErrorKind::InvalidData, "\"abc\" is not an int64")
///     .in_source("flights.csv")
///     .at_record(12)
///     .at_column("dep_time");
/// assert_eq!(error.to_string(), r#"flights.csv, record 12, column "dep_time": "abc" is not an int64"#);
/// ```
pub struct Error(Box<Inner>);

struct Inner {
    kind: ErrorKind,
    transient: bool,
    message: Cow<'static, str>,
    hint: Option<Cow<'static, str>>,
    position: Position,
    /// The message names the source, so that Display need not.
    names_source: bool,
    cause: Option<Cause>,
}

/// The class of an [`Error`], for code that reacts to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// A file, table or column that is named does not exist.
    NotFound,
    /// The target exists and the mode is `create`.
    AlreadyExists,
    /// The operating system or the database refuses access.
    PermissionDenied,
    /// An option, a URI, a pipeline file or an expression is wrong.
    InvalidConfig,
    /// The data cannot be read as what it claims to be.
    InvalidData,
    /// The schemas of two stages do not fit.
    SchemaMismatch,
    /// A request that this connector cannot serve.
    Unsupported,
    /// Reading or writing failed in the operating system.
    Io,
    /// The network or a server failed.
    Connection,
    /// Another run or program holds what is needed.
    Locked,
    /// The memory budget cannot hold what has to be held at once.
    MemoryExceeded,
    /// The source is no longer what was planned for.
    SourceChanged,
    /// What is staged is not what was read.
    VerifyFailed,
    /// Partitions that were guessed are not right; a scan without guesses gives those that are.
    SplitRefuted,
    /// The run was cancelled.
    Cancelled,
    /// A defect in ETLRS or in a connector.
    Internal,
}

/// Where in the source an error is. Counts start at 1, except `byte`, which is an offset from 0.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Position {
    /// File, table or other name of the source.
    pub source: Option<String>,
    /// Index of the partition.
    pub partition: Option<u32>,
    /// Record, the header not counted.
    pub record: Option<u64>,
    /// Row of a batch, or of the partition, as they came to a transformer.
    pub row: Option<u64>,
    /// Line of the file, the header counted.
    pub line: Option<u64>,
    /// Offset in bytes from the start of the file.
    pub byte: Option<u64>,
    /// Name of the column.
    pub column: Option<String>,
}

impl Error {
    /// A permanent error; `message` is a lower-case clause without a full stop.
    pub fn new(kind: ErrorKind, message: impl Into<Cow<'static, str>>) -> Self {
        Self(Box::new(Inner {
            kind,
            transient: false,
            message: message.into(),
            hint: None,
            position: Position::default(),
            names_source: false,
            cause: None,
        }))
    }

    /// An error of the operating system while doing `operation` ("read", "rename") to `path`.
    pub fn io(operation: &str, path: impl AsRef<Path>, cause: std::io::Error) -> Self {
        use std::io::ErrorKind as Io;
        let kind = match cause.kind() {
            Io::NotFound => ErrorKind::NotFound,
            Io::PermissionDenied | Io::ReadOnlyFilesystem => ErrorKind::PermissionDenied,
            Io::AlreadyExists => ErrorKind::AlreadyExists,
            _ => ErrorKind::Io,
        };
        let reason = match cause.kind() {
            Io::NotFound => "no such file or directory".into(),
            Io::NotADirectory => "a part of the path is a file, not a directory".into(),
            Io::PermissionDenied => "permission denied".into(),
            Io::StorageFull => "no space left on the device".into(),
            _ => cause.to_string(),
        };
        let transient = matches!(cause.kind(), Io::Interrupted | Io::TimedOut | Io::WouldBlock);
        let path = path.as_ref().display();
        let mut error = Self::new(kind, format!("cannot {operation} {path}: {reason}")).naming(path);
        error.0.transient = transient;
        error.caused_by(cause)
    }

    /// The answer of an operation that found its run cancelled.
    pub fn cancelled() -> Self {
        Self::new(ErrorKind::Cancelled, "the run was cancelled")
    }

    /// Marks the error as one that may pass when the operation is tried again.
    #[must_use]
    pub fn transient(mut self) -> Self {
        self.0.transient = true;
        self
    }

    /// Says what the user can do; shown after the message and a semicolon.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<Cow<'static, str>>) -> Self {
        self.0.hint = Some(hint.into());
        self
    }

    /// Keeps `cause` for `source()` and `Debug`.
    #[must_use]
    pub fn caused_by(mut self, cause: impl Into<Cause>) -> Self {
        self.0.cause = Some(cause.into());
        self
    }

    /// Names the file or table, unless a stage nearer to the data already did.
    #[must_use]
    pub fn in_source(mut self, source: impl fmt::Display) -> Self {
        self.0.position.source.get_or_insert_with(|| source.to_string());
        self
    }

    /// Says that the message names the source, `source`, so that it is not named again.
    #[must_use]
    pub fn naming(mut self, source: impl fmt::Display) -> Self {
        self.0.names_source = true;
        self.in_source(source)
    }

    /// Says in what larger thing the source, or the whole error, is: a file around a section, a section around a key.
    #[must_use]
    pub fn within(mut self, outer: impl fmt::Display) -> Self {
        let inner = self.0.position.source.take().filter(|_| !self.0.names_source);
        let inner = inner.map_or(String::new(), |inner| format!(", {inner}"));
        self.0.names_source = false;
        self.0.position.source = Some(format!("{outer}{inner}"));
        self
    }

    /// Names the partition, unless it is known.
    #[must_use]
    pub fn in_partition(mut self, partition: u32) -> Self {
        self.0.position.partition.get_or_insert(partition);
        self
    }

    /// Sets the record, counted from 1 and without the header.
    #[must_use]
    pub fn at_record(mut self, record: u64) -> Self {
        self.0.position.record = Some(record);
        self
    }

    /// Sets the row that a transformer got, counted from 1.
    #[must_use]
    pub fn at_row(mut self, row: u64) -> Self {
        self.0.position.row = Some(row);
        self
    }

    /// Sets the line, counted from 1 and with the header.
    #[must_use]
    pub fn at_line(mut self, line: u64) -> Self {
        self.0.position.line = Some(line);
        self
    }

    /// Sets the offset in bytes from the start of the file.
    #[must_use]
    pub fn at_byte(mut self, byte: u64) -> Self {
        self.0.position.byte = Some(byte);
        self
    }

    /// Names the column.
    #[must_use]
    pub fn at_column(mut self, column: impl fmt::Display) -> Self {
        self.0.position.column = Some(column.to_string());
        self
    }

    /// With this place, whole.
    pub(crate) fn at(mut self, position: Position) -> Self {
        self.0.position = position;
        self
    }

    /// The class of the error.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// Whether the same work on the same data may succeed another time, when there is room, a connection, or nobody in the way.
    pub fn may_pass(&self) -> bool {
        use ErrorKind::*;
        self.is_transient()
            || matches!(
                self.kind(),
                Cancelled | Io | Connection | Locked | MemoryExceeded | Internal | PermissionDenied
            )
    }

    /// Whether the same operation may succeed when it is tried again.
    pub fn is_transient(&self) -> bool {
        self.0.transient
    }

    /// Where in the source the error is.
    pub fn position(&self) -> &Position {
        &self.0.position
    }

    /// The message without the place.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// What the user can do, if that is known.
    pub fn hint_text(&self) -> Option<&str> {
        self.0.hint.as_deref()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Position { source, partition: _, record, row, line, byte, column } = &self.0.position;
        let mut separator = "";
        if let Some(source) = source.as_ref().filter(|_| !self.0.names_source) {
            write!(f, "{source}")?;
            separator = ", ";
        }
        for (name, number) in [("record", record), ("row", row), ("line", line), ("byte", byte)] {
            if let Some(number) = number {
                write!(f, "{separator}{name} {number}")?;
                separator = ", ";
            }
        }
        if let Some(column) = column {
            write!(f, "{separator}column {column:?}")?;
            separator = ", ";
        }
        if !separator.is_empty() {
            f.write_str(": ")?;
        }
        f.write_str(&self.0.message)?;
        match &self.0.hint {
            Some(hint) => write!(f, "; {hint}"),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}{}: {self}", self.0.kind, if self.0.transient { " (transient)" } else { "" })?;
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            write!(f, "\n  caused by: {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.0.cause {
            Some(cause) => Some(&**cause),
            None => None,
        }
    }
}

impl From<arrow_schema::ArrowError> for Error {
    fn from(error: arrow_schema::ArrowError) -> Self {
        use arrow_schema::ArrowError as Arrow;
        // An operation of our own comes back through Arrow when a batch reader wraps it.
        match error {
            Arrow::ExternalError(cause) => match cause.downcast::<Error>() {
                Ok(error) => *error,
                Err(cause) => Error::new(ErrorKind::InvalidData, cause.to_string()).caused_by(cause),
            },
            Arrow::SchemaError(message) => Error::new(ErrorKind::SchemaMismatch, message),
            Arrow::NotYetImplemented(message) => Error::new(ErrorKind::Unsupported, message),
            Arrow::DivideByZero => Error::new(ErrorKind::InvalidData, "division by zero"),
            Arrow::CastError(message)
            | Arrow::ParseError(message)
            | Arrow::ComputeError(message)
            | Arrow::InvalidArgumentError(message)
            | Arrow::ArithmeticOverflow(message) => Error::new(ErrorKind::InvalidData, message),
            error => Error::new(ErrorKind::InvalidData, error.to_string()).caused_by(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn display_is_one_sentence_with_the_place_first() {
        let error = Error::new(ErrorKind::InvalidData, "3 fields where the header has 4")
            .in_source("a.csv")
            .at_record(2)
            .at_line(3)
            .at_byte(17)
            .hint("quote the comma");
        assert_eq!(
            error.to_string(),
            "a.csv, record 2, line 3, byte 17: 3 fields where the header has 4; quote the comma"
        );
    }

    #[test]
    fn the_name_nearest_to_the_data_is_kept() {
        let error = Error::new(ErrorKind::Io, "x").in_source("inner").in_source("outer");
        assert_eq!(error.position().source.as_deref(), Some("inner"));
        assert_eq!(error.within("file").to_string(), "file, inner: x");
        let error = || Error::io("open", "x.csv", std::io::Error::from(std::io::ErrorKind::NotFound)).in_source("y");
        assert_eq!(error().to_string(), "cannot open x.csv: no such file or directory");
        assert_eq!(error().within("p.toml").to_string(), "p.toml: cannot open x.csv: no such file or directory");
    }

    #[test]
    fn debug_shows_the_chain_of_causes() {
        let error = Error::io("open", "x.csv", std::io::Error::from(std::io::ErrorKind::NotFound));
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert!(format!("{error:?}").contains("caused by"));
    }

    #[test]
    fn is_one_word_wide() {
        assert_eq!(size_of::<Error>(), size_of::<usize>());
    }
}
