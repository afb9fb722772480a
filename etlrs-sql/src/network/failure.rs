use std::borrow::Cow;
use std::io;

use etlrs_core::{Error, ErrorKind};

/// What failed between us and a server; `R` is an error of the server's own.
pub(crate) enum Failure<R> {
    /// The server answers with an error.
    Server(Box<R>),
    /// The connection cannot be made, or is lost.
    Io(io::Error),
    /// TLS cannot be agreed on, in words.
    Tls(String),
    /// The server does what it should not.
    Protocol(&'static str),
}

pub(crate) type Answer<T, R> = Result<T, Failure<R>>;

impl<R> From<io::Error> for Failure<R> {
    fn from(error: io::Error) -> Self {
        // Libraries that take messages apart have no errors of their own.
        match error.kind() {
            io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData => Self::Protocol("it is malformed"),
            _ => Self::Io(error),
        }
    }
}

/// A failure that is no error of the server; `tls_hint` says what to do about TLS.
pub(crate) fn connection_error<R>(failure: &Failure<R>, tls_hint: &'static str) -> Error {
    match failure {
        Failure::Tls(words) => Error::new(ErrorKind::Connection, format!("TLS failed: {words}")).hint(tls_hint),
        Failure::Io(error) => of_io(error),
        Failure::Protocol(words) => {
            Error::new(ErrorKind::Connection, format!("the answer of the server is not understood: {words}"))
        }
        Failure::Server(_) => Error::new(ErrorKind::Internal, "an error of the server is none of the connection"),
    }
}

/// The error of a target that another run holds, over a connection with an id and a place, if they are known; `end` is the statement
/// that ends it.
pub(crate) fn held_by(holder: Option<(String, String)>, end: impl Fn(&str) -> String) -> Error {
    let message = "another run is writing to this table";
    match holder {
        Some((id, place)) => Error::new(ErrorKind::Locked, format!("{message}, over connection {id} from {place}"))
            .hint(format!("wait until it is done; one that was killed is known to the server as dead after some seconds, or by: {}", end(&id))),
        None => Error::new(ErrorKind::Locked, message).hint("wait until it is done"),
    }
}

fn of_io(error: &io::Error) -> Error {
    use io::ErrorKind as Io;
    let (message, hint): (Cow<'static, str>, _) = match error.kind() {
        // In its own words.
        Io::TimedOut if error.get_ref().is_some() => {
            (error.to_string().into(), Some("see the server and the way to it; network_timeout sets how long to wait"))
        }
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
