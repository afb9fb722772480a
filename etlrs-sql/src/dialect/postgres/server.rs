//! Connections to one database.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use etlrs_core::{Error, Result, Uri};

use super::address::Address;
use super::error::postgres_error;
use super::wire::{Answer, Connection, Failure, Refusal};
use crate::network::{Ask, Connect, Pool, ReadRows, Row, Timeouts, Watched, WriteRows};
use crate::table::TableName;

/// Settings on which the text of values depends, and limits that a long copy would run into.
const SESSION: &str = "SET intervalstyle = 'postgres'; SET datestyle = 'ISO, YMD'; SET bytea_output = 'hex'; \
    SET extra_float_digits = 3; SET lc_monetary = 'C'; SET timezone = 'UTC'; SET client_min_messages = 'error'; \
    SET statement_timeout = 0; SET lock_timeout = 0; SET idle_in_transaction_session_timeout = 0; \
    SET default_transaction_read_only = off; SET tcp_keepalives_idle = 60";

/// Limits that not every version has; and what tells the session from others: another server may have one of the same number.
const LIMITS: &str = "SELECT (SELECT pid || ' ' || backend_start FROM pg_stat_activity WHERE pid = pg_backend_pid()),
        count(set_config(name, '0', false))
    FROM pg_settings WHERE name IN ('idle_session_timeout', 'transaction_timeout')";

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
pub struct PostgresPool(Arc<Pool<Connection>>);

impl PostgresPool {
    /// The database at `url`: `postgres://USER:PASSWORD@HOST:PORT/DATABASE?sslmode=…`. Nothing is connected yet.
    ///
    /// # Errors
    /// `InvalidConfig` for a URL that cannot be understood.
    pub fn connect_lazy(url: &str) -> Result<Self> {
        Self::from_uri(&Uri::new(url), Timeouts::default())
    }

    pub(crate) fn from_uri(uri: &Uri, timeouts: Timeouts) -> Result<Self> {
        let address = Address::new(uri).map_err(|error| error.in_source(uri))?;
        let shown = address.shown();
        Ok(Self(Arc::new(Pool::new(address, shown, timeouts))))
    }

    /// The database without its password, for messages.
    pub(super) fn shown(&self) -> &str {
        self.0.shown()
    }

    pub(super) fn failed(&self, error: Failure) -> Error {
        self.0.failed(error)
    }

    /// The tables that match, in the schema that is named or wherever the search path finds them.
    pub(crate) async fn tables(&self, pattern: &TableName) -> Result<Vec<String>> {
        let sql = "SELECT c.relname::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
            WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition AND c.relname !~ '^_etlrs_'
                AND CASE WHEN $1 = '' THEN pg_table_is_visible(c.oid) AND n.nspname !~ '^pg_'
                    AND n.nspname <> 'information_schema' ELSE n.nspname = $1 END
            ORDER BY c.relname COLLATE \"C\"";
        let mut connection = self.take().await?;
        let found = rows(&mut connection, sql, &[pattern.schema.as_deref().unwrap_or_default()]).await;
        let names = found.and_then(|rows| rows.iter().map(|row| row.get(0)).collect::<Answer<Vec<String>>>());
        let names = names.map_err(|error| self.failed(error))?;
        self.give_back(connection);
        Ok(crate::connector::matching(names, &pattern.name))
    }

    /// A connection outside any transaction.
    pub(super) async fn take(&self) -> Result<Connection> {
        self.0.take().await
    }

    /// Keeps a connection that is outside any transaction, with nothing on its way.
    pub(super) fn give_back(&self, connection: Connection) {
        self.0.give_back(connection);
    }

    pub(super) async fn connect(&self) -> Result<Connection> {
        self.0.connect().await
    }
}

impl fmt::Debug for PostgresPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PostgresPool({})", self.shown())
    }
}

impl Connect for Connection {
    type Address = Address;
    type Refusal = Refusal;

    async fn open(address: &Address) -> Answer<Self> {
        let mut connection = Self::connect(address).await?;
        connection.execute(SESSION).await?;
        connection.session = text(&mut connection, LIMITS, &[]).await?.unwrap_or_default();
        Ok(connection)
    }

    fn session(&self) -> &str {
        &self.session
    }

    async fn works_for(&mut self, session: &str) -> Answer<bool> {
        // One that waits for its client waits for ever, if the client waits for it.
        let sql = "SELECT 'yes' FROM pg_stat_activity WHERE pid || ' ' || backend_start = $1
            AND state NOT LIKE 'idle%' AND wait_event_type IS DISTINCT FROM 'Client'";
        Ok(text(self, sql, &[session]).await?.is_some())
    }

    async fn end_other(&mut self, session: &str) -> Answer<()> {
        let sql = "SELECT pg_terminate_backend(pid)::text FROM pg_stat_activity WHERE pid || ' ' || backend_start = $1";
        text(self, sql, &[session]).await.map(|_| ())
    }

    fn watch(&mut self, silence: Duration, ask: Ask) {
        let socket = std::mem::replace(&mut self.socket, Box::new(tokio::io::empty()));
        self.socket = Box::new(Watched::new(socket, silence, ask));
    }

    async fn is_alive(&mut self) -> bool {
        self.execute("").await.is_ok()
    }

    async fn close(self) {
        self.terminate().await;
    }

    fn error(source: &str, failure: Failure) -> Error {
        postgres_error(source, failure)
    }
}

/// The rows of a `COPY … TO STDOUT`.
impl ReadRows for Connection {
    async fn begin(&mut self, sql: &str) -> Answer<()> {
        self.copy_out(sql).await
    }

    async fn read(&mut self, block: &mut Vec<u8>, limit: usize) -> Answer<bool> {
        self.copy_read(block, limit).await
    }
}

/// A `COPY … FROM STDIN`. Blocks begin with room for the head of their message.
pub(super) struct CopyIn {
    pub(super) connection: Connection,
    pub(super) sql: String,
}

impl WriteRows for CopyIn {
    type Connection = Connection;

    async fn begin(&mut self) -> Answer<()> {
        self.connection.copy_in(&self.sql).await
    }

    async fn write(&mut self, mut block: Vec<u8>) -> Answer<()> {
        self.connection.copy_write(&mut block).await
    }

    async fn finish(mut self) -> Answer<(Connection, u64)> {
        let rows = self.connection.copy_finish().await?;
        Ok((self.connection, rows))
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
