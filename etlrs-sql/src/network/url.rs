//! Where a server is and who asks, from a URL; see the dialects for what the environment adds.

use std::collections::HashMap;
use std::net::IpAddr;
use std::path::PathBuf;

use etlrs_core::{Error, ErrorKind, Result, Uri, unknown_name};

/// What an environment has, for tests to have another.
pub(crate) type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

/// `scheme://USER:PASSWORD@HOST:PORT/DATABASE?PARAMETER=…`, taken apart, with `%40` and the like replaced.
#[derive(Default)]
pub(crate) struct Parts {
    pub(crate) user: Option<String>,
    pub(crate) password: Option<String>,
    pub(crate) host: Option<String>,
    pub(crate) port: Option<String>,
    pub(crate) database: Option<String>,
    pub(crate) parameters: HashMap<&'static str, String>,
}

impl Parts {
    /// Takes only `parameters` after the question mark; `scheme` is what the hints call it.
    ///
    /// # Errors
    /// `InvalidConfig` for a URL that cannot be understood. No part of a password is in an error.
    pub(crate) fn new(uri: &Uri, scheme: &str, parameters: &'static [&'static str]) -> Result<Self> {
        let wrong = |message: &'static str| Error::new(ErrorKind::InvalidConfig, message);
        let malformed = || malformed(scheme);
        let Some(body) = uri.body().strip_prefix("//") else {
            return Err(
                wrong("the URL has no // after its scheme").hint(format!("write {scheme}://USER@HOST/DATABASE#TABLE"))
            );
        };
        let (place, query) = body.split_once('?').unwrap_or((body, ""));
        if place.contains('#') {
            return Err(wrong("there is more than one # in the URL")
                .hint("in a user name, a password or the name of a table it is written %23"));
        }
        let (authority, path) = place.split_once('/').unwrap_or((place, ""));
        // A database whose name has these is written with %2F and %40; without, they are of a password.
        if path.contains(['/', '@']) {
            return Err(malformed());
        }
        let (credentials, host) = authority.rsplit_once('@').map_or(("", authority), |(user, host)| (user, host));
        let (user, password) = match credentials.split_once(':') {
            Some((user, password)) => (user, Some(password)),
            None => (credentials, None),
        };
        let (host, port) = split_port(host).ok_or_else(malformed)?;
        let decode = |text: &str| decode(text).ok_or_else(malformed);
        let given = |text: &str| if text.is_empty() { Ok(None) } else { decode(text).map(Some) };
        let mut parts = Self {
            user: given(user)?,
            password: password.map(decode).transpose()?,
            host: given(host)?,
            port: given(port)?,
            database: given(path)?,
            parameters: HashMap::new(),
        };
        for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
            let (key, value) = parameter.split_once('=').unwrap_or((parameter, ""));
            let Some(known) = parameters.iter().find(|known| **known == key) else {
                // What looks like one may be the rest of a password with a question mark in it.
                let plain = key.bytes().all(|byte| byte.is_ascii_lowercase() || matches!(byte, b'_' | b'-'));
                let shown = if plain && !query.contains('@') { key } else { "***" };
                return Err(unknown_name("URL parameter", shown, parameters));
            };
            parts.parameters.insert(known, decode(value)?);
        }
        Ok(parts)
    }
}

/// The error for what is no URL of a database.
pub(crate) fn malformed(scheme: &str) -> Error {
    Error::new(ErrorKind::InvalidConfig, "this is no URL of a database").hint(format!(
        "write {scheme}://USER:PASSWORD@HOST:PORT/DATABASE#TABLE; in a password, write %40 for @ and %2F for /"
    ))
}

/// `HOST:PORT`, either of which may be missing; the host of version 6 is in brackets.
fn split_port(text: &str) -> Option<(&str, &str)> {
    if let Some(rest) = text.strip_prefix('[') {
        let (host, port) = rest.split_once(']')?;
        host.parse::<std::net::Ipv6Addr>().ok()?;
        return if port.is_empty() { Some((host, "")) } else { Some((host, port.strip_prefix(':')?)) };
    }
    let (host, port) = text.rsplit_once(':').unwrap_or((text, ""));
    (!host.contains(':')).then_some((host, port))
}

/// With `%2F` and the like replaced.
fn decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, more)) = rest.split_first() {
        rest = more;
        if first != b'%' {
            bytes.push(first);
            continue;
        }
        let (digits, more) = rest.split_first_chunk::<2>()?;
        bytes.push(u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?);
        rest = more;
    }
    String::from_utf8(bytes).ok().filter(|text| !text.contains('\0'))
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Host {
    /// A name or an address.
    Name(String),
    /// A socket in the file system; what its path is of differs from database to database.
    Socket(PathBuf),
}

impl Host {
    pub(crate) fn of(text: String) -> Self {
        if text.starts_with('/') { Self::Socket(text.into()) } else { Self::Name(text) }
    }

    pub(crate) fn is_local(&self) -> bool {
        match self {
            Self::Socket(_) => true,
            Self::Name(name) => {
                name.eq_ignore_ascii_case("localhost")
                    || name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
            }
        }
    }

    /// As a URL has it.
    pub(crate) fn shown(&self) -> String {
        match self {
            Self::Name(name) if name.contains(':') => format!("[{name}]"),
            Self::Name(name) => name.clone(),
            Self::Socket(path) => path.display().to_string(),
        }
    }
}

/// How far a connection is protected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protection {
    Disable,
    Prefer,
    NoVerify,
    VerifyCa,
    VerifyFull,
}

impl Protection {
    /// Of the word in a URL; `local`: the server is on this machine.
    pub(crate) fn parse(wished: Option<&str>, local: bool) -> Result<Self> {
        Ok(match (wished, local) {
            (Some("disable"), _) => Self::Disable,
            (Some("no-verify"), _) | (Some("require"), true) => Self::NoVerify,
            (Some("prefer" | "allow") | None, true) => Self::Prefer,
            (Some("require" | "verify-ca"), _) => Self::VerifyCa,
            (Some("verify-full") | None, _) => Self::VerifyFull,
            (Some("prefer" | "allow"), false) => {
                let message = "this mode of TLS would take any server for the one that is meant";
                return Err(Error::new(ErrorKind::InvalidConfig, message)
                    .hint("use verify-full, which is the default, or disable for a network that is safe"));
            }
            (Some(other), _) => {
                let known = ["disable", "prefer", "require", "verify-ca", "verify-full", "no-verify"];
                return Err(unknown_name("sslmode", other, &known));
            }
        })
    }
}

/// TLS, as it is wanted.
#[derive(Clone, Debug)]
pub(crate) struct Tls {
    pub(crate) protection: Protection,
    /// Files in PEM: authorities to trust in place of the system's, and what shows who we are.
    pub(crate) root_cert: Option<PathBuf>,
    pub(crate) cert: Option<PathBuf>,
    pub(crate) key: Option<PathBuf>,
}
