//! Connections to one database.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use etlrs_core::{Error, Result, Uri};

use super::address::Address;
use super::catalog;
use super::error::mysql_error;
use super::extract::no_database;
use super::name::literal;
use super::wire::{Answer, Connection, Failure, Refusal};
use crate::network::{Ask, Connect, Pool, ReadRows, Timeouts, Watched, WriteRows};
use crate::table::TableName;

/// Settings on which the meaning of values depends, and limits that a long copy would run into. Zero is a key like any other,
/// and what a column cannot hold is an error.
const SESSION: &str = "SET SESSION sql_mode = 'STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION,NO_AUTO_VALUE_ON_ZERO', \
    time_zone = '+00:00', autocommit = 1, sql_auto_is_null = 0, sql_safe_updates = 0, sql_select_limit = DEFAULT, \
    foreign_key_checks = 1, unique_checks = 1, net_read_timeout = 3600, net_write_timeout = 3600, wait_timeout = 86400";

/// Seconds to wait for whoever is altering a table, unless it is said.
pub(super) const LOCK_WAIT: u64 = 60;

/// Connections to one database of MySQL or MariaDB, opened as they are needed and kept for the next use. Clones are the same
/// pool. Connections belong to the async runtime in which they were opened, so a pool serves one runtime.
///
/// ```
/// use etlrs_sql::MysqlPool;
///
/// let pool = MysqlPool::connect_lazy("mysql://me:secret@db.example.com/shop")?;
/// assert_eq!(format!("{pool:?}"), "MysqlPool(mysql://me@db.example.com/shop)");
/// # Ok::<(), etlrs_core::Error>(())
/// ```
///
/// The password comes from the URL, else from `MYSQL_PWD`, else from the group `client` of `~/.my.cnf`; what else a URL leaves
/// out comes from `MYSQL_HOST` and `MYSQL_TCP_PORT`. `localhost` without a port, or no host, is the socket of this machine.
///
/// | `ssl-mode` | meaning |
/// |---|---|
/// | none given | `preferred` on this machine, `verify_identity` on any other |
/// | `disabled` | no TLS |
/// | `preferred` | TLS where the server has it, its certificate not checked; only on this machine |
/// | `required`, `verify_ca` | TLS, and a certificate of a known authority; on this machine `required` checks none |
/// | `verify_identity` | that, and it is for the name of the host |
/// | `no-verify` | TLS with whatever certificate |
///
/// Authorities are those of the system, or the one in the file that `ssl-ca` names. The words of PostgreSQL (`sslmode`,
/// `verify-full`) are understood too.
#[derive(Clone)]
pub struct MysqlPool(Arc<Pool<Connection>>);

impl MysqlPool {
    /// The database at `url`: `mysql://USER:PASSWORD@HOST:PORT/DATABASE?ssl-mode=…`. Nothing is connected yet.
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

    /// The database in the URL.
    pub(super) fn database(&self) -> Option<&str> {
        self.0.address().database.as_deref()
    }

    pub(super) fn failed(&self, error: Failure) -> Error {
        self.0.failed(error)
    }

    /// The tables that match, in the database that is named or in that of the URL.
    pub(crate) async fn tables(&self, pattern: &TableName) -> Result<Vec<String>> {
        if pattern.schema.is_none() && self.0.address().database.is_none() {
            return Err(no_database());
        }
        let mut connection = self.take().await?;
        let names =
            catalog::tables(&mut connection, pattern.schema.as_deref()).await.map_err(|error| self.failed(error))?;
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

impl fmt::Debug for MysqlPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MysqlPool({})", self.shown())
    }
}

impl Connection {
    pub(super) fn is_mariadb(&self) -> bool {
        self.version.contains("MariaDB")
    }
}

/// The expression that tells the session of the connection `id` from others: another server may have one of the same number.
fn session_of(id: &str) -> String {
    format!("concat({id}, '@', @@hostname, ':', @@port)")
}

impl Connect for Connection {
    type Address = Address;
    type Refusal = Refusal;

    async fn open(address: &Address) -> Answer<Self> {
        let mut connection = Self::connect(address).await?;
        connection.execute("SET NAMES utf8mb4").await?;
        connection.execute(SESSION).await?;
        connection.execute("SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ").await?;
        connection.execute(&format!("SET SESSION lock_wait_timeout = {LOCK_WAIT}")).await?;
        let limit = if connection.is_mariadb() { "max_statement_time" } else { "max_execution_time" };
        connection.execute(&format!("SET SESSION {limit} = 0")).await?;
        // What is between may call it otherwise.
        let sql = format!("SELECT connection_id(), {}", session_of("connection_id()"));
        if let Some(row) = connection.rows(&sql).await?.first() {
            (connection.id, connection.session) = (row.get(0)?, row.get(1)?);
        }
        Ok(connection)
    }

    fn session(&self) -> &str {
        &self.session
    }

    async fn works_for(&mut self, session: &str) -> Answer<bool> {
        // One that waits for its client waits for ever, if the client waits for it.
        let sql = format!(
            "SELECT count(*) FROM information_schema.PROCESSLIST WHERE {} = {} AND COMMAND <> 'Sleep'
             AND coalesce(STATE, '') NOT LIKE '%net' AND coalesce(STATE, '') NOT LIKE '%client'",
            session_of("ID"),
            literal(session)
        );
        let found = self.rows(&sql).await?;
        let count: u64 = found.first().map_or(Ok(0), |row| row.get(0))?;
        Ok(count > 0)
    }

    async fn end_other(&mut self, session: &str) -> Answer<()> {
        let sql =
            format!("SELECT ID FROM information_schema.PROCESSLIST WHERE {} = {}", session_of("ID"), literal(session));
        for row in self.rows(&sql).await? {
            let id: u64 = row.get(0)?;
            self.execute(&format!("KILL {id}")).await?;
        }
        Ok(())
    }

    fn watch(&mut self, silence: Duration, ask: Ask) {
        let socket = std::mem::replace(&mut self.socket, Box::new(tokio::io::empty()));
        self.socket = Box::new(Watched::new(socket, silence, ask));
    }

    async fn is_alive(&mut self) -> bool {
        self.ping().await.is_ok()
    }

    async fn close(self) {
        self.quit().await;
    }

    fn error(source: &str, failure: Failure) -> Error {
        mysql_error(source, failure)
    }
}

/// The rows of a query, in the binary form.
impl ReadRows for Connection {
    async fn begin(&mut self, sql: &str) -> Answer<()> {
        self.begin_rows(sql).await
    }

    async fn read(&mut self, block: &mut Vec<u8>, limit: usize) -> Answer<bool> {
        self.read_rows(block, limit).await
    }
}

/// How rows get into a staging table; each block is some bytes of LOAD DATA, or rows that end an INSERT.
pub(super) struct Rows {
    pub(super) connection: Connection,
    pub(super) statement: Statement,
    /// Rows that the server took.
    pub(super) taken: u64,
}

#[derive(Clone)]
pub(super) enum Statement {
    /// `LOAD DATA LOCAL …`
    Load(String),
    /// `INSERT INTO …`, which each block has at its front.
    Insert,
}

impl WriteRows for Rows {
    type Connection = Connection;

    async fn begin(&mut self) -> Answer<()> {
        self.connection.execute("START TRANSACTION").await?;
        match &self.statement {
            Statement::Load(sql) => self.connection.load(sql).await,
            Statement::Insert => Ok(()),
        }
    }

    async fn write(&mut self, block: Vec<u8>) -> Answer<()> {
        match &self.statement {
            Statement::Load(_) => self.connection.load_rows(&block).await,
            Statement::Insert => {
                let done = self.connection.execute_bytes(&block).await?;
                self.taken += done.rows;
                self.connection.refuse_warnings(done).await
            }
        }
    }

    async fn finish(mut self) -> Answer<(Connection, u64)> {
        if matches!(self.statement, Statement::Load(_)) {
            let done = self.connection.load_finish().await?;
            self.taken = done.rows;
            // LOCAL makes warnings of what would be errors: it leaves rows out and changes values.
            self.connection.refuse_warnings(done).await?;
        }
        Ok((self.connection, self.taken))
    }
}

/// Warnings that are about statements: deprecated syntax, and what is unsafe to replicate as text.
const OF_STATEMENTS: &[u16] = &[1287, 1592, 1681];

impl Connection {
    /// Makes an error of the first warning about values.
    pub(super) async fn refuse_warnings(&mut self, done: super::wire::Done) -> Answer<()> {
        if done.warnings == 0 {
            return Ok(());
        }
        let warnings = self.warnings().await?;
        if warnings.is_empty() {
            return Err(Failure::Protocol("it warns of a value and does not say why"));
        }
        let mut of_values = warnings.into_iter().filter(|warning| !OF_STATEMENTS.contains(&warning.code));
        // Of a check that fails, some servers first tell what a function in it has found.
        let first = of_values.next();
        let check = of_values.find(|warning| matches!(warning.code, 3819 | 4025));
        let found = check.filter(|_| first.as_ref().is_some_and(|first| (4035..=4040).contains(&first.code))).or(first);
        found.map_or(Ok(()), |warning| Err(Failure::Server(Box::new(warning))))
    }
}
