//! Connections to one database.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use etlrs_core::{Error, Result, Uri};

use super::address::Address;
use super::error::postgres_error;
use super::wire::{Answer, Connection, Failure, Row};
use crate::options::Seconds;

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
    address: Address,
    shown: String,
    connect_timeout: Duration,
    /// With the time since which each is.
    idle: Mutex<Vec<(Connection, Instant)>>,
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
        let address = Address::new(uri).map_err(|error| error.in_source(uri))?;
        let (shown, connect_timeout) = (address.shown(), connect_timeout.duration());
        Ok(Self(Arc::new(Inner { address, shown, connect_timeout, idle: Mutex::default() })))
    }

    /// The database without its password, for messages.
    pub(super) fn shown(&self) -> &str {
        &self.0.shown
    }

    pub(super) fn failed(&self, error: Failure) -> Error {
        postgres_error(&self.0.shown, error)
    }

    /// A connection outside any transaction.
    pub(super) async fn take(&self) -> Result<Connection> {
        let idle = self.0.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        if let Some((mut connection, since)) = idle {
            // The server, or somebody between, may have closed it.
            if since.elapsed() < FRESH || connection.execute("").await.is_ok() {
                return Ok(connection);
            }
        }
        self.connect().await
    }

    /// Keeps a connection that is outside any transaction, with nothing on its way.
    pub(super) fn give_back(&self, connection: Connection) {
        self.0.idle.lock().unwrap_or_else(PoisonError::into_inner).push((connection, Instant::now()));
    }

    pub(super) async fn connect(&self) -> Result<Connection> {
        let connect = async {
            let mut connection = Connection::open(&self.0.address).await?;
            connection.execute(SESSION).await?;
            Ok(connection)
        };
        let late = || Failure::Io(std::io::ErrorKind::TimedOut.into());
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
pub(super) fn close_all(connections: Vec<Connection>) {
    if connections.is_empty() {
        return;
    }
    // Outside a runtime they are just dropped.
    if let Ok(runtime) = tokio::runtime::Handle::try_current() {
        runtime.spawn(async move {
            for connection in connections {
                connection.close().await;
            }
        });
    }
}

/// Statements without parameters. None of their text may come from data unquoted.
pub(super) async fn execute(connection: &mut Connection, sql: &str) -> Answer<u64> {
    connection.execute(sql).await
}

/// The rows of a query with text parameters, which it casts itself.
pub(super) async fn rows(connection: &mut Connection, sql: &str, parameters: &[&str]) -> Answer<Vec<Row>> {
    connection.rows(sql, parameters).await
}

/// The text in the first column of the first row of a query that has one.
pub(super) async fn text(connection: &mut Connection, sql: &str, parameters: &[&str]) -> Answer<Option<String>> {
    let rows = connection.rows(sql, parameters).await?;
    rows.first().map_or(Ok(None), |row| row.get(0))
}
