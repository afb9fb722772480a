//! Where a server is and who asks: from a URL, from the environment, and from the file of passwords, as libpq does it
//! (<https://www.postgresql.org/docs/current/libpq-connect.html>).

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use etlrs_core::{Error, ErrorKind, Result, Secret, Uri, unknown_name};

/// Parameters that a URL may have after `?`, as libpq calls them.
const PARAMETERS: &[&str] = &[
    "sslmode",
    "sslrootcert",
    "sslcert",
    "sslkey",
    "host",
    "hostaddr",
    "port",
    "dbname",
    "user",
    "password",
    "application_name",
    "options",
];

#[derive(Clone)]
pub(super) struct Address {
    pub(super) host: Host,
    pub(super) port: u16,
    pub(super) user: String,
    pub(super) password: Option<Secret>,
    pub(super) database: String,
    pub(super) application_name: String,
    /// Settings of the session, as a command line of the server has them.
    pub(super) options: Option<String>,
    pub(super) ssl_mode: SslMode,
    pub(super) ssl_root_cert: Option<PathBuf>,
    pub(super) ssl_cert: Option<PathBuf>,
    pub(super) ssl_key: Option<PathBuf>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Host {
    /// A name or an address.
    Name(String),
    /// The folder of a socket.
    Socket(PathBuf),
}

/// How far a connection is protected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SslMode {
    Disable,
    Prefer,
    NoVerify,
    VerifyCa,
    VerifyFull,
}

/// What an environment has, for tests to have another.
type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

impl Address {
    /// # Errors
    /// `InvalidConfig` for a URL that cannot be understood. No part of a password is in an error.
    pub(super) fn new(uri: &Uri) -> Result<Self> {
        Self::with_environment(uri, &|name| std::env::var(name).ok().filter(|value| !value.is_empty()))
    }

    fn with_environment(uri: &Uri, environment: Environment<'_>) -> Result<Self> {
        let wrong = |message: &'static str| Error::new(ErrorKind::InvalidConfig, message);
        let malformed = || {
            wrong("this is no URL of a database").hint(
                "write postgres://USER:PASSWORD@HOST:PORT/DATABASE#TABLE; in a password, write %40 for @ and %2F for /",
            )
        };
        let Some(body) = uri.body().strip_prefix("//") else {
            return Err(wrong("the URL has no // after its scheme").hint("write postgres://USER@HOST/DATABASE#TABLE"));
        };
        let (place, query) = body.split_once('?').unwrap_or((body, ""));
        if place.contains('#') {
            return Err(
                wrong("there is more than one # in the URL").hint("in a user name or a password it is written %23")
            );
        }
        let (authority, path) = place.split_once('/').unwrap_or((place, ""));
        let (credentials, host) = authority.rsplit_once('@').map_or(("", authority), |(user, host)| (user, host));
        let (user, password) = match credentials.split_once(':') {
            Some((user, password)) => (user, Some(password)),
            None => (credentials, None),
        };
        let (host, port) = split_port(host).ok_or_else(malformed)?;
        let decode = |text: &str| decode(text).ok_or_else(malformed);
        let given = |text: &str| if text.is_empty() { Ok(None) } else { decode(text).map(Some) };
        let (mut user, mut host, mut port) = (given(user)?, given(host)?, given(port)?);
        let (mut password, mut database) = (password.map(decode).transpose()?, given(path)?);
        let mut others = std::collections::HashMap::new();
        for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
            let (key, value) = parameter.split_once('=').unwrap_or((parameter, ""));
            if !PARAMETERS.contains(&key) {
                // What looks like one may be the rest of a password with a question mark in it.
                let plain = key.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_') && !query.contains('@');
                return Err(unknown_name("URL parameter", if plain { key } else { "***" }, PARAMETERS));
            }
            let value = decode(value)?;
            match key {
                "host" | "hostaddr" => host = Some(value),
                "port" => port = Some(value),
                "user" => user = Some(value),
                "password" => password = Some(value),
                "dbname" => database = Some(value),
                _ => _ = others.insert(key, value),
            }
        }
        let or_environment = |value: Option<String>, name: &str| value.or_else(|| environment(name));
        let other = |key: &str, name: &str| others.get(key).cloned().or_else(|| environment(name));
        let port = or_environment(port, "PGPORT").map_or(Ok(5432), |port| port.parse().map_err(|_| malformed()))?;
        let host = or_environment(host, "PGHOST").map_or_else(|| default_host(port), Host::of);
        let user = or_environment(user, "PGUSER").or_else(|| environment("USER")).or_else(|| environment("LOGNAME"));
        let user =
            user.ok_or_else(|| wrong("there is no user name").hint("write postgres://USER@HOST/DATABASE#TABLE"))?;
        let database = or_environment(database, "PGDATABASE").unwrap_or_else(|| user.clone());
        let ssl_mode = SslMode::parse(other("sslmode", "PGSSLMODE").as_deref(), host.is_local())?;
        let path = |key, name| other(key, name).map(PathBuf::from);
        let mut address = Self {
            port,
            password: or_environment(password, "PGPASSWORD").map(Secret::new),
            application_name: other("application_name", "PGAPPNAME").unwrap_or_else(|| "etlrs".to_owned()),
            options: other("options", "PGOPTIONS"),
            ssl_mode,
            ssl_root_cert: path("sslrootcert", "PGSSLROOTCERT"),
            ssl_cert: path("sslcert", "PGSSLCERT"),
            ssl_key: path("sslkey", "PGSSLKEY"),
            host,
            user,
            database,
        };
        if address.password.is_none() {
            let file = environment("PGPASSFILE").map(PathBuf::from);
            let file = file.or_else(|| Some(Path::new(&environment("HOME")?).join(".pgpass")));
            address.password = file.and_then(|file| address.password_of(&file));
        }
        Ok(address)
    }

    /// The password in a file of lines `host:port:database:user:password`, which nobody else may read.
    fn password_of(&self, file: &Path) -> Option<Secret> {
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            if std::fs::metadata(file).ok()?.permissions().mode() & 0o077 != 0 {
                return None;
            }
        }
        let text = std::fs::read_to_string(file).ok()?;
        let host = match &self.host {
            Host::Name(name) => name.as_str(),
            Host::Socket(_) => "localhost",
        };
        let wanted = [host, &self.port.to_string(), &self.database, &self.user];
        let matching = |line: &str| {
            let fields = fields(line);
            let (fields, password) = fields.split_first_chunk::<4>()?;
            let matches = fields.iter().zip(wanted).all(|(field, wanted)| field == "*" || field == wanted);
            Some(Secret::new(password.first()?.clone())).filter(|_| matches)
        };
        text.lines().filter(|line| !line.starts_with('#')).find_map(matching)
    }

    /// Without the password, for messages.
    pub(super) fn shown(&self) -> String {
        let host = match &self.host {
            Host::Name(name) if name.contains(':') => format!("[{name}]"),
            Host::Name(name) => name.clone(),
            Host::Socket(folder) => folder.display().to_string(),
        };
        let port = if self.port == 5432 { String::new() } else { format!(":{}", self.port) };
        format!("postgres://{}@{host}{port}/{}", self.user, self.database)
    }
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

/// The parts between colons, of which one behind a backslash is none.
fn fields(line: &str) -> Vec<String> {
    let mut fields = vec![String::new()];
    let mut characters = line.chars();
    while let Some(character) = characters.next() {
        let last = fields.len() - 1;
        match character {
            '\\' => fields[last].extend(characters.next()),
            ':' => fields.push(String::new()),
            other => fields[last].push(other),
        }
    }
    fields
}

impl Host {
    fn of(text: String) -> Self {
        if text.starts_with('/') { Self::Socket(text.into()) } else { Self::Name(text) }
    }

    fn is_local(&self) -> bool {
        match self {
            Self::Socket(_) => true,
            Self::Name(name) => {
                name.eq_ignore_ascii_case("localhost")
                    || name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
            }
        }
    }
}

/// Where a server on this machine has its socket, or else its port.
fn default_host(port: u16) -> Host {
    let folders = ["/var/run/postgresql", "/run/postgresql", "/tmp"].map(Path::new);
    let found = folders.into_iter().find(|folder| folder.join(format!(".s.PGSQL.{port}")).exists());
    found.map_or_else(|| Host::Name("localhost".into()), |folder| Host::Socket(folder.to_owned()))
}

impl SslMode {
    fn parse(wished: Option<&str>, local: bool) -> Result<Self> {
        Ok(match (wished, local) {
            (Some("disable"), _) => Self::Disable,
            (Some("no-verify"), _) | (Some("require"), true) => Self::NoVerify,
            (Some("prefer" | "allow") | None, true) => Self::Prefer,
            (Some("require" | "verify-ca"), _) => Self::VerifyCa,
            (Some("verify-full") | None, _) => Self::VerifyFull,
            (Some("prefer" | "allow"), false) => {
                let message = "this sslmode would take any server for the one that is meant";
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

#[cfg(test)]
mod tests {
    use super::*;

    fn address(url: &str, environment: &[(&str, &str)]) -> Result<Address> {
        let found = |name: &str| environment.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
        Address::with_environment(&Uri::new(url), &|name| found(name))
    }

    #[test]
    fn urls_and_the_environment() {
        let parts = |url: &str, environment: &[(&str, &str)]| {
            let address = address(url, environment).unwrap();
            let password = address.password.as_ref().map(|password| password.expose().to_owned());
            (address.shown(), password)
        };
        for (url, shown, password) in [
            ("postgres://me:secret@host:1234/db#t", "postgres://me@host:1234/db", Some("secret")),
            ("postgresql://me@host/db", "postgres://me@host/db", None),
            ("postgres://me:a%40b%2Fc%3A@host/db", "postgres://me@host/db", Some("a@b/c:")),
            ("postgres://me:a:b@c@host/db", "postgres://me@host/db", Some("a:b@c")),
            ("postgres://me@[::1]:99/db", "postgres://me@[::1]:99/db", None),
            ("postgres://me@host", "postgres://me@host/me", None),
            ("postgres://me@%2Ftmp/db?port=7", "postgres://me@/tmp:7/db", None),
            ("postgres:///db?host=h&user=u&password=p", "postgres://u@h/db", Some("p")),
        ] {
            assert_eq!(parts(url, &[]), (shown.to_owned(), password.map(str::to_owned)), "{url}");
        }
        let environment = [("PGHOST", "h"), ("PGPORT", "9"), ("PGUSER", "u"), ("PGPASSWORD", "p"), ("PGDATABASE", "d")];
        assert_eq!(parts("postgres://", &environment), ("postgres://u@h:9/d".into(), Some("p".into())));
        assert_eq!(
            parts("postgres://me:x@host/db", &environment),
            ("postgres://me@host:9/db".into(), Some("x".into()))
        );
    }

    #[test]
    fn certificates_are_checked_unless_the_host_is_local() {
        for (url, mode) in [
            ("postgres://me@localhost/db#t", SslMode::Prefer),
            ("postgres://me@127.0.0.1/db", SslMode::Prefer),
            ("postgres://me@[::1]/db", SslMode::Prefer),
            ("postgres://me@db.example.com/db", SslMode::VerifyFull),
            ("postgres://me@db.example.com/db?sslmode=require", SslMode::VerifyCa),
            ("postgres://me@localhost/db?sslmode=require", SslMode::NoVerify),
            ("postgres://me@db.example.com/db?sslmode=no-verify", SslMode::NoVerify),
            ("postgres://me@db.example.com/db?sslmode=disable", SslMode::Disable),
        ] {
            assert_eq!(address(url, &[]).unwrap().ssl_mode, mode, "{url}");
        }
        for mode in ["prefer", "nonsense"] {
            assert!(address(&format!("postgres://me@db.example.com/db?sslmode={mode}"), &[]).is_err());
        }
    }

    #[test]
    fn wrong_urls_are_refused_without_showing_the_password() {
        for url in [
            "postgres:me:hunter2@host/db",
            "postgres://me:hunter#2@host/db#t",
            "postgres://me:hunter2@host:port/db",
            "postgres://me:hunter2@host/db?sslmod=disable",
            "postgres://me:hunter2@[host/db",
            "postgres://me:hunter%2@host/db",
            "postgres://me:a?hunter2&hunter@host/db",
            "postgres://hunter2@a:b:c/db",
        ] {
            let Err(error) = address(url, &[]) else { panic!("{url}") };
            let error = error.in_source(Uri::new(url.replace("hunter2@a", "me@a")));
            assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{url}");
            assert!(!format!("{error} {error:?}").contains("hunter"), "{error:?}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn passwords_come_from_a_file_that_nobody_else_may_read() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("pgpass");
        std::fs::write(&file, "# c\nbroken\nother:*:*:me:no\nhost:5432:d\\:b:me:a\\:\\\\b\n*:*:*:me:any\n").unwrap();
        let password = |url: &str| {
            let address = address(url, &[("PGPASSFILE", file.to_str().unwrap())]).unwrap();
            address.password.map(|password| password.expose().to_owned())
        };
        assert_eq!(password("postgres://me@host/d:b"), None);
        std::fs::set_permissions(&file, PermissionsExt::from_mode(0o600)).unwrap();
        assert_eq!(password("postgres://me@host/d:b").as_deref(), Some("a:\\b"));
        assert_eq!(password("postgres://me@host/db").as_deref(), Some("any"));
        assert_eq!(password("postgres://you@host/db"), None);
    }
}
