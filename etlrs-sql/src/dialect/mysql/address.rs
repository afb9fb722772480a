//! Where a server is and who asks: from a URL, from the environment, and from the user's option file, as the clients of MySQL
//! do it (<https://dev.mysql.com/doc/refman/8.4/en/connecting-using-uri-or-key-value-pairs.html>).

use std::path::{Path, PathBuf};

use etlrs_core::{Error, ErrorKind, Result, Secret, Uri};

use crate::network::{Environment, Host, Parts, Protection, Tls, malformed};

/// Parameters that a URL may have after `?`, as MySQL and as PostgreSQL call them.
const PARAMETERS: &[&str] = &[
    "sslmode",
    "ssl-mode",
    "sslrootcert",
    "ssl-ca",
    "sslcert",
    "ssl-cert",
    "sslkey",
    "ssl-key",
    "socket",
    "host",
    "port",
    "user",
    "password",
];

/// Where servers of this machine have their sockets.
const SOCKETS: &[&str] = &["/run/mysqld/mysqld.sock", "/var/lib/mysql/mysql.sock", "/tmp/mysql.sock"];

#[derive(Clone)]
pub(crate) struct Address {
    /// A socket is at that path.
    pub(super) host: Host,
    pub(super) port: u16,
    pub(super) user: String,
    pub(super) password: Option<Secret>,
    pub(super) database: Option<String>,
    pub(super) tls: Tls,
}

impl Address {
    /// # Errors
    /// `InvalidConfig` for a URL that cannot be understood. No part of a password is in an error.
    pub(super) fn new(uri: &Uri) -> Result<Self> {
        Self::with_environment(uri, &|name| std::env::var(name).ok().filter(|value| !value.is_empty()))
    }

    fn with_environment(uri: &Uri, environment: Environment<'_>) -> Result<Self> {
        let Parts { user, password, host, port, database, mut parameters } = Parts::new(uri, "mysql", PARAMETERS)?;
        // A parameter wins over what stands before it.
        let mut given = |names: &[&'static str]| names.iter().find_map(|name| parameters.remove(name));
        let host = given(&["socket"]).or(given(&["host"])).or(host).or_else(|| environment("MYSQL_HOST"));
        let port = given(&["port"]).or(port).or_else(|| environment("MYSQL_TCP_PORT"));
        let file = environment("HOME").map(|home| Path::new(&home).join(".my.cnf"));
        let file = file.as_deref().map(OptionFile::read).unwrap_or_default();
        let user = given(&["user"]).or(user).or(file.user);
        let user = user.or_else(|| environment("USER")).or_else(|| environment("LOGNAME")).ok_or_else(|| {
            Error::new(ErrorKind::InvalidConfig, "there is no user name").hint("write mysql://USER@HOST/DATABASE#TABLE")
        })?;
        let password = given(&["password"]).or(password).or_else(|| environment("MYSQL_PWD")).map(Secret::new);
        // For all clients of MySQL localhost is the socket, unless there is a port.
        let host = match host {
            Some(host) if port.is_some() || host != "localhost" => Host::of(host),
            _ => default_host(),
        };
        let mode = given(&["sslmode", "ssl-mode"]).map(|mode| match mode.to_ascii_lowercase().as_str() {
            "disabled" => "disable".to_owned(),
            "preferred" => "prefer".to_owned(),
            "required" => "require".to_owned(),
            "verify_ca" => "verify-ca".to_owned(),
            "verify_identity" => "verify-full".to_owned(),
            other => other.to_owned(),
        });
        let tls = Tls {
            protection: Protection::parse(mode.as_deref(), host.is_local())?,
            root_cert: given(&["sslrootcert", "ssl-ca"]).map(PathBuf::from),
            cert: given(&["sslcert", "ssl-cert"]).map(PathBuf::from),
            key: given(&["sslkey", "ssl-key"]).map(PathBuf::from),
        };
        let port = port.map_or(Ok(3306), |port| port.parse().map_err(|_| malformed("mysql")))?;
        Ok(Self { host, port, user, password: password.or(file.password), database, tls })
    }

    /// Without the password, for messages.
    pub(super) fn shown(&self) -> String {
        let port = match &self.host {
            Host::Name(_) if self.port != 3306 => format!(":{}", self.port),
            _ => String::new(),
        };
        let database = self.database.as_deref().unwrap_or_default();
        format!("mysql://{}@{}{port}/{database}", self.user, self.host.shown())
    }
}

fn default_host() -> Host {
    let found = SOCKETS.iter().map(Path::new).find(|path| path.exists());
    found.map_or_else(|| Host::Name("localhost".into()), |path| Host::Socket(path.to_owned()))
}

/// What the group `client` of `~/.my.cnf` says, if nobody else may read it.
#[derive(Default)]
struct OptionFile {
    user: Option<String>,
    password: Option<Secret>,
}

impl OptionFile {
    fn read(path: &Path) -> Self {
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            if std::fs::metadata(path).is_ok_and(|metadata| metadata.permissions().mode() & 0o077 != 0) {
                return Self::default();
            }
        }
        std::fs::read_to_string(path).map(|text| Self::parse(&text)).unwrap_or_default()
    }

    fn parse(text: &str) -> Self {
        let (mut found, mut ours) = (Self::default(), false);
        for line in text.lines().map(str::trim) {
            if let Some(group) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
                ours = matches!(group, "client" | "client-mariadb" | "client-server");
            } else if let Some((key, value)) = line.split_once('=').filter(|_| ours) {
                let value = value.trim();
                let quoted = |quote| value.strip_prefix(quote).and_then(|value| value.strip_suffix(quote));
                let value = quoted('"').or(quoted('\'')).unwrap_or(value).to_owned();
                match key.trim() {
                    "user" => found.user = Some(value),
                    "password" => found.password = Some(Secret::new(value)),
                    _ => {}
                }
            }
        }
        found
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
        for (url, environment, shown, password) in [
            ("mysql://me:secret@host:1234/db#t", &[][..], "mysql://me@host:1234/db", Some("secret")),
            ("mysql://me:a%40b@host/db", &[], "mysql://me@host/db", Some("a@b")),
            ("mysql://me@host", &[], "mysql://me@host/", None),
            ("mysql://me@host/db?socket=/run/x.sock", &[], "mysql://me@/run/x.sock/db", None),
            ("mysql://host/db", &[("USER", "u"), ("MYSQL_PWD", "p")], "mysql://u@host/db", Some("p")),
            ("mysql://me@localhost:3307/db", &[], "mysql://me@localhost:3307/db", None),
        ] {
            let address = address(url, environment).unwrap();
            let found = address.password.as_ref().map(Secret::expose);
            assert_eq!((address.shown().as_str(), found), (shown, password), "{url}");
        }
    }

    #[test]
    fn certificates_are_checked_unless_the_host_is_local() {
        for (url, protection) in [
            ("mysql://me@127.0.0.1/db", Protection::Prefer),
            ("mysql://me@db.example.com/db", Protection::VerifyFull),
            ("mysql://me@db.example.com/db?ssl-mode=VERIFY_CA", Protection::VerifyCa),
            ("mysql://me@db.example.com/db?ssl-mode=REQUIRED", Protection::VerifyCa),
            ("mysql://me@db.example.com/db?ssl-mode=disabled", Protection::Disable),
            ("mysql://me@db.example.com/db?sslmode=no-verify", Protection::NoVerify),
        ] {
            assert_eq!(address(url, &[]).unwrap().tls.protection, protection, "{url}");
        }
        assert!(address("mysql://me@db.example.com/db?ssl-mode=PREFERRED", &[]).is_err());
    }

    #[test]
    fn the_option_file_of_the_clients_is_read() {
        let text = "[mysqld]\npassword=no\n[client]\n# c\nuser = me\npassword=\"a b\"\n[mysqldump]\npassword=no\n";
        let file = OptionFile::parse(text);
        assert_eq!((file.user.as_deref(), file.password.as_ref().map(Secret::expose)), (Some("me"), Some("a b")));
    }
}
