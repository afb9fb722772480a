//! Connections to one database.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use etlrs_core::{Error, ErrorKind, Result, Uri, unknown_name};
use sqlx::postgres::{PgConnectOptions, PgRow, PgSslMode};
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection, Row};

use super::error::postgres_error;
use crate::options::Seconds;

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

/// Settings on which the text of values depends, and limits that a long copy would run into.
const SESSION: &str = "SET intervalstyle = 'postgres'; SET datestyle = 'ISO, YMD'; SET bytea_output = 'hex'; \
    SET extra_float_digits = 3; SET lc_monetary = 'C'; SET timezone = 'UTC'; SET client_min_messages = 'error'; \
    SET statement_timeout = 0; SET lock_timeout = 0; SET idle_in_transaction_session_timeout = 0; \
    SET tcp_keepalives_idle = 60; SELECT set_config(name, '0', false) FROM pg_settings \
    WHERE name IN ('idle_session_timeout', 'transaction_timeout')";

/// How long an idle connection is taken to be alive without asking.
const FRESH: Duration = Duration::from_secs(5);

/// Connections to one PostgreSQL database, opened as they are needed and kept for the next use. Clones are the same pool.
/// Connections belong to the async runtime in which they were opened, so a pool serves one runtime.
///
/// ```
/// use etlrs_sql::PostgresPool;
///
/// let pool = PostgresPool::connect_lazy("postgres://me:secret@db.example.com/shop")?;
/// assert_eq!(format!("{pool:?}"), "PostgresPool(postgres://me@db.example.com/shop)");
/// # Ok::<(), etlrs_core::Error>(())
/// ```
///
/// The password comes from the URL, else from `PGPASSWORD`, else from the file `~/.pgpass` or that which `PGPASSFILE` names;
/// what else a URL leaves out comes from `PGHOST`, `PGPORT`, `PGUSER` and `PGDATABASE`.
///
/// | `sslmode` | meaning |
/// |---|---|
/// | none given | `prefer` on this machine, `verify-full` on any other |
/// | `disable` | no TLS |
/// | `prefer` | TLS where the server has it, its certificate not checked; only on this machine |
/// | `require`, `verify-ca` | TLS, and a certificate of a known authority; on this machine `require` checks none |
/// | `verify-full` | that, and it is for the name of the host |
/// | `no-verify` | TLS with whatever certificate |
///
/// Authorities are those of the system, or the one in the file that `sslrootcert` names.
#[derive(Clone)]
pub struct PostgresPool(Arc<Inner>);

struct Inner {
    options: PgConnectOptions,
    shown: String,
    connect_timeout: Duration,
    /// With the time since which each is.
    idle: Mutex<Vec<(PgConnection, Instant)>>,
}

impl PostgresPool {
    /// The database at `url`: `postgres://USER:PASSWORD@HOST:PORT/DATABASE?sslmode=…`. Nothing is connected yet.
    ///
    /// # Errors
    /// `InvalidConfig` for a URL that cannot be understood.
    pub fn connect_lazy(url: &str) -> Result<Self> {
        Self::from_uri(&Uri::new(url), Seconds(30))
    }

    pub(crate) fn from_uri(uri: &Uri, connect_timeout: Seconds) -> Result<Self> {
        let options = connect_options(uri).map_err(|error| error.in_source(uri))?;
        let host = match options.get_socket() {
            Some(socket) => socket.display().to_string(),
            None => options.get_host().to_owned(),
        };
        let port = if options.get_port() == 5432 { String::new() } else { format!(":{}", options.get_port()) };
        let database = options.get_database().unwrap_or(options.get_username());
        let shown = format!("postgres://{}@{host}{port}/{database}", options.get_username());
        let connect_timeout = connect_timeout.duration();
        Ok(Self(Arc::new(Inner { options, shown, connect_timeout, idle: Mutex::default() })))
    }

    /// The database without its password, for messages.
    pub(super) fn shown(&self) -> &str {
        &self.0.shown
    }

    pub(super) fn failed(&self, error: sqlx::Error) -> Error {
        postgres_error(&self.0.shown, error)
    }

    /// A connection outside any transaction.
    pub(super) async fn take(&self) -> Result<PgConnection> {
        let idle = self.0.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        if let Some((mut connection, since)) = idle {
            // The server, or somebody between, may have closed it.
            if since.elapsed() < FRESH || connection.ping().await.is_ok() {
                return Ok(connection);
            }
        }
        self.connect().await
    }

    /// Keeps a connection that is outside any transaction, with nothing on its way.
    pub(super) fn give_back(&self, connection: PgConnection) {
        self.0.idle.lock().unwrap_or_else(PoisonError::into_inner).push((connection, Instant::now()));
    }

    pub(super) async fn connect(&self) -> Result<PgConnection> {
        let connect = async {
            let mut connection = PgConnection::connect_with(&self.0.options).await?;
            execute(&mut connection, SESSION).await?;
            Ok(connection)
        };
        let late = || sqlx::Error::Io(std::io::ErrorKind::TimedOut.into());
        let connected = tokio::time::timeout(self.0.connect_timeout, connect).await;
        connected.unwrap_or_else(|_| Err(late())).map_err(|error| self.failed(error))
    }
}

impl fmt::Debug for PostgresPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PostgresPool({})", self.0.shown)
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let idle = std::mem::take(self.idle.get_mut().unwrap_or_else(PoisonError::into_inner));
        close_all(idle.into_iter().map(|(connection, _)| connection).collect());
    }
}

/// Says good-bye to the server, which otherwise writes to its log that clients vanish.
pub(super) fn close_all(connections: Vec<PgConnection>) {
    if connections.is_empty() {
        return;
    }
    // Outside a runtime they are just dropped.
    if let Ok(runtime) = tokio::runtime::Handle::try_current() {
        runtime.spawn(async move {
            for connection in connections {
                _ = connection.close().await;
            }
        });
    }
}

/// Statements without parameters, by the simple protocol. None of their text may come from data unquoted.
pub(super) async fn execute(connection: &mut PgConnection, sql: &str) -> sqlx::Result<u64> {
    let done = connection.execute(sqlx::raw_sql(AssertSqlSafe(sql))).await?;
    Ok(done.rows_affected())
}

/// The rows of a query with text parameters, which it casts itself.
pub(super) async fn rows(connection: &mut PgConnection, sql: &str, parameters: &[&str]) -> sqlx::Result<Vec<PgRow>> {
    let mut query = sqlx::query(AssertSqlSafe(sql)).persistent(false);
    for parameter in parameters {
        query = query.bind(*parameter);
    }
    query.fetch_all(connection).await
}

/// The text in the first column of the first row of a query that has one.
pub(super) async fn text(
    connection: &mut PgConnection,
    sql: &str,
    parameters: &[&str],
) -> sqlx::Result<Option<String>> {
    let rows = rows(connection, sql, parameters).await?;
    // JSON, which EXPLAIN gives, is text on its way too.
    rows.first().map_or(Ok(None), |row| row.try_get_unchecked(0))
}

fn connect_options(uri: &Uri) -> Result<PgConnectOptions> {
    let wrong = |message: String| Error::new(ErrorKind::InvalidConfig, message);
    let body = uri.body();
    if !body.starts_with("//") {
        return Err(
            wrong("the URL has no // after its scheme".into()).hint("write postgres://USER@HOST/DATABASE#TABLE")
        );
    }
    let (address, parameters) = body.split_once('?').unwrap_or((body, ""));
    if address.contains('#') {
        return Err(
            wrong("there is more than one # in the URL".into()).hint("in a user name or a password it is written %23")
        );
    }
    let mut mode = None;
    let mut kept = Vec::new();
    for parameter in parameters.split('&').filter(|parameter| !parameter.is_empty()) {
        let (key, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        if !PARAMETERS.contains(&key) {
            // What looks like one may be the rest of a password with a question mark in it.
            let plain = key.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_') && !parameters.contains('@');
            let shown = if plain { key } else { "***" };
            return Err(unknown_name("URL parameter", shown, PARAMETERS));
        }
        match key {
            "sslmode" => mode = Some(value.to_owned()),
            _ => kept.push(parameter),
        }
    }
    let url = format!("postgres:{address}?{}", kept.join("&"));
    // What the parser says may hold parts of the URL.
    let options = PgConnectOptions::from_str(&url).map_err(|_| {
        wrong("this is no URL of a database".into()).hint(
            "write postgres://USER:PASSWORD@HOST:PORT/DATABASE#TABLE; in a password, write %40 for @ and %2F for /",
        )
    })?;
    let mode = mode.or_else(|| std::env::var("PGSSLMODE").ok().filter(|mode| !mode.is_empty()));
    let mode = ssl_mode(mode.as_deref(), is_local(&options))?;
    // Statements are sent once or twice, so a cache of them would only cost round trips.
    // A pooler between may refuse a parameter that the session sets anyway.
    let options = options.extra_float_digits(None);
    Ok(options.ssl_mode(mode).application_name("etlrs").statement_cache_capacity(0))
}

fn ssl_mode(wished: Option<&str>, local: bool) -> Result<PgSslMode> {
    Ok(match (wished, local) {
        (Some("disable"), _) => PgSslMode::Disable,
        (Some("no-verify"), _) | (Some("require"), true) => PgSslMode::Require,
        (Some("prefer" | "allow") | None, true) => PgSslMode::Prefer,
        (Some("require" | "verify-ca"), _) => PgSslMode::VerifyCa,
        (Some("verify-full") | None, _) => PgSslMode::VerifyFull,
        (Some("prefer" | "allow"), false) => {
            return Err(Error::new(
                ErrorKind::InvalidConfig,
                "this sslmode would take any server for the one that is meant",
            )
            .hint("use verify-full, which is the default, or disable for a network that is safe"));
        }
        (Some(other), _) => {
            let known = ["disable", "prefer", "require", "verify-ca", "verify-full", "no-verify"];
            return Err(unknown_name("sslmode", other, &known));
        }
    })
}

fn is_local(options: &PgConnectOptions) -> bool {
    let host = options.get_host();
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    options.get_socket().is_some()
        || host.starts_with('/')
        || host.eq_ignore_ascii_case("localhost")
        || address.is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(url: &str) -> Result<PgConnectOptions> {
        connect_options(&Uri::new(url))
    }

    #[test]
    fn certificates_are_checked_unless_the_host_is_local() {
        for (url, mode) in [
            ("postgres://me@localhost/db#t", "Prefer"),
            ("postgres://me@127.0.0.1/db", "Prefer"),
            ("postgres://me@[::1]/db", "Prefer"),
            ("postgres://me@db.example.com/db", "VerifyFull"),
            ("postgres://me@db.example.com/db?sslmode=require", "VerifyCa"),
            ("postgres://me@localhost/db?sslmode=require", "Require"),
            ("postgres://me@db.example.com/db?sslmode=no-verify", "Require"),
            ("postgres://me@db.example.com/db?sslmode=disable", "Disable"),
        ] {
            assert_eq!(format!("{:?}", options(url).unwrap().get_ssl_mode()), mode, "{url}");
        }
        for mode in ["prefer", "nonsense"] {
            assert!(options(&format!("postgres://me@db.example.com/db?sslmode={mode}")).is_err());
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
            "postgres://me:a?hunter2&hunter@host/db",
        ] {
            let error = options(url).map_err(|error| error.in_source(Uri::new(url))).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{url}");
            assert!(!format!("{error} {error:?}").contains("hunter"), "{error:?}");
        }
    }
}
