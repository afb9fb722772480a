//! Where a server is and who asks: from a URL, from the environment, and from the file of passwords, as libpq does it
//! (<https://www.postgresql.org/docs/current/libpq-connect.html>).

use std::path::{Path, PathBuf};

use etlrs_core::{Error, ErrorKind, Result, Secret, Uri};

use crate::network::{Environment, Host, Parts, Protection, Tls, malformed};

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
pub(crate) struct Address {
    /// A socket is in the folder of that path.
    pub(super) host: Host,
    pub(super) port: u16,
    pub(super) user: String,
    pub(super) password: Option<Secret>,
    pub(super) database: String,
    pub(super) application_name: String,
    /// Settings of the session, as a command line of the server has them.
    pub(super) options: Option<String>,
    pub(super) tls: Tls,
}

impl Address {
    /// # Errors
    /// `InvalidConfig` for a URL that cannot be understood. No part of a password is in an error.
    pub(super) fn new(uri: &Uri) -> Result<Self> {
        Self::with_environment(uri, &|name| std::env::var(name).ok().filter(|value| !value.is_empty()))
    }

    fn with_environment(uri: &Uri, environment: Environment<'_>) -> Result<Self> {
        let Parts { user, password, host, port, database, mut parameters } = Parts::new(uri, "postgres", PARAMETERS)?;
        // A parameter wins over what stands before it.
        let mut given = |key| parameters.remove(key);
        let host = given("host").or(given("hostaddr")).or(host);
        let (port, database) = (given("port").or(port), given("dbname").or(database));
        let (user, password) = (given("user").or(user), given("password").or(password));
        let or_environment = |value: Option<String>, name: &str| value.or_else(|| environment(name));
        let mut other = |key, name| parameters.remove(key).or_else(|| environment(name));
        let port = or_environment(port, "PGPORT");
        let port = port.map_or(Ok(5432), |port| port.parse().map_err(|_| malformed("postgres")))?;
        let host = or_environment(host, "PGHOST").map_or_else(|| default_host(port), Host::of);
        let user = or_environment(user, "PGUSER").or_else(|| environment("USER")).or_else(|| environment("LOGNAME"));
        let user = user.ok_or_else(|| {
            Error::new(ErrorKind::InvalidConfig, "there is no user name")
                .hint("write postgres://USER@HOST/DATABASE#TABLE")
        })?;
        let database = or_environment(database, "PGDATABASE").unwrap_or_else(|| user.clone());
        let protection = Protection::parse(other("sslmode", "PGSSLMODE").as_deref(), host.is_local())?;
        let mut path = |key, name| other(key, name).map(PathBuf::from);
        let tls = Tls {
            protection,
            root_cert: path("sslrootcert", "PGSSLROOTCERT"),
            cert: path("sslcert", "PGSSLCERT"),
            key: path("sslkey", "PGSSLKEY"),
        };
        let mut address = Self {
            port,
            password: or_environment(password, "PGPASSWORD").map(Secret::new),
            application_name: other("application_name", "PGAPPNAME").unwrap_or_else(|| "etlrs".to_owned()),
            options: other("options", "PGOPTIONS"),
            tls,
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
        let host = self.host.shown();
        let port = if self.port == 5432 { String::new() } else { format!(":{}", self.port) };
        format!("postgres://{}@{host}{port}/{}", self.user, self.database)
    }
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

/// Where a server on this machine has its socket, or else its port.
fn default_host(port: u16) -> Host {
    let folders = ["/var/run/postgresql", "/run/postgresql", "/tmp"].map(Path::new);
    let found = folders.into_iter().find(|folder| folder.join(format!(".s.PGSQL.{port}")).exists());
    found.map_or_else(|| Host::Name("localhost".into()), |folder| Host::Socket(folder.to_owned()))
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
            ("postgres://me@localhost/db#t", Protection::Prefer),
            ("postgres://me@127.0.0.1/db", Protection::Prefer),
            ("postgres://me@[::1]/db", Protection::Prefer),
            ("postgres://me@db.example.com/db", Protection::VerifyFull),
            ("postgres://me@db.example.com/db?sslmode=require", Protection::VerifyCa),
            ("postgres://me@localhost/db?sslmode=require", Protection::NoVerify),
            ("postgres://me@db.example.com/db?sslmode=no-verify", Protection::NoVerify),
            ("postgres://me@db.example.com/db?sslmode=disable", Protection::Disable),
        ] {
            assert_eq!(address(url, &[]).unwrap().tls.protection, mode, "{url}");
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
            "postgres://u:12/hunter2@127.0.0.1/db",
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
