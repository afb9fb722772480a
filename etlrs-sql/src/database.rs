//! A database of whichever kind, for who does not want to tell them apart.

use std::fmt;
use std::sync::Arc;

use arrow_array::RecordBatch;
use arrow_schema::SchemaRef;
use etlrs_core::{
    Error, ErrorKind, Extractor, Interrupted, LoadCapabilities, LoadPlan, LoadPreview, LoadSession, Loader, Partition,
    PartitionWriter, Published, Receipt, Refusals, Result, RunContext, RunId, Scan, ScanRequest, Tally, Uri,
    async_trait, unknown_name,
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Connections to one database, which are opened as they are needed.
///
/// ```
/// use etlrs_sql::DatabasePool;
///
/// let pool = DatabasePool::connect_lazy("sqlite:shop.db")?;
/// assert_eq!(format!("{pool:?}"), "DatabasePool(sqlite:shop.db)");
/// # Ok::<(), etlrs_core::Error>(())
/// ```
#[derive(Clone)]
pub struct DatabasePool(Kind);

#[derive(Clone)]
enum Kind {
    #[cfg(feature = "mysql")]
    Mysql(crate::MysqlPool),
    #[cfg(feature = "postgres")]
    Postgres(crate::PostgresPool),
    #[cfg(feature = "sqlite")]
    Sqlite(std::path::PathBuf),
}

impl DatabasePool {
    /// The database at `url`: `postgres://…`, `mysql://…`, `sqlite:PATH`. Nothing is opened yet.
    ///
    /// # Errors
    /// `InvalidConfig` for a URL that cannot be understood, or of a kind whose feature is off.
    pub fn connect_lazy(url: &str) -> Result<Self> {
        let uri = Uri::new(url);
        let scheme = uri.scheme().unwrap_or_default();
        Ok(Self(match scheme {
            #[cfg(feature = "mysql")]
            "mysql" | "mariadb" => Kind::Mysql(crate::MysqlPool::connect_lazy(url)?),
            #[cfg(feature = "postgres")]
            "postgres" | "postgresql" => Kind::Postgres(crate::PostgresPool::connect_lazy(url)?),
            #[cfg(feature = "sqlite")]
            "sqlite" => Kind::Sqlite(crate::connector::path(&uri)?),
            other => return Err(unknown_name("kind of database", other, SCHEMES)),
        }))
    }
}

const SCHEMES: &[&str] = &[
    #[cfg(feature = "mysql")]
    "mysql",
    #[cfg(feature = "postgres")]
    "postgres",
    #[cfg(feature = "sqlite")]
    "sqlite",
];

impl fmt::Debug for DatabasePool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            #[cfg(feature = "mysql")]
            Kind::Mysql(pool) => write!(f, "DatabasePool({pool:?})"),
            #[cfg(feature = "postgres")]
            Kind::Postgres(pool) => write!(f, "DatabasePool({pool:?})"),
            #[cfg(feature = "sqlite")]
            Kind::Sqlite(path) => write!(f, "DatabasePool(sqlite:{})", path.display()),
        }
    }
}

#[cfg(feature = "mysql")]
impl From<crate::MysqlPool> for DatabasePool {
    fn from(pool: crate::MysqlPool) -> Self {
        Self(Kind::Mysql(pool))
    }
}

#[cfg(feature = "postgres")]
impl From<crate::PostgresPool> for DatabasePool {
    fn from(pool: crate::PostgresPool) -> Self {
        Self(Kind::Postgres(pool))
    }
}

/// A table or a query of a database of any kind.
///
/// ```no_run
/// // Needs a server.
/// use etlrs_sql::{DatabaseExtractor, DatabasePool};
///
/// # fn example() -> etlrs_core::Result<()> {
/// let pool = DatabasePool::connect_lazy("postgres://me@localhost/shop")?;
/// let orders = DatabaseExtractor::new(pool)
///     .table("orders")
///     .with_fetch_size(50_000)
///     .with_parallel_queries(8)
///     .with_prepared_statements(true);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct DatabaseExtractor {
    pool: DatabasePool,
    table: String,
    query: String,
    fetch_size: u32,
    parallel_queries: u32,
    prepared_statements: bool,
}

impl DatabaseExtractor {
    /// Of the database; say which [`table`](Self::table) or [`query`](Self::query).
    pub fn new(pool: impl Into<DatabasePool>) -> Self {
        Self {
            pool: pool.into(),
            table: String::new(),
            query: String::new(),
            fetch_size: 0,
            parallel_queries: 0,
            prepared_statements: true,
        }
    }

    /// Reads this table or view.
    #[must_use]
    pub fn table(mut self, name: impl Into<String>) -> Self {
        self.table = name.into();
        self
    }

    /// Reads what this query gives, a SELECT.
    #[must_use]
    pub fn query(mut self, sql: impl Into<String>) -> Self {
        self.query = sql.into();
        self
    }

    /// Hands on so many rows at a time, as far as `batch_size` of the run allows.
    #[must_use]
    pub fn with_fetch_size(mut self, rows: u32) -> Self {
        self.fetch_size = rows;
        self
    }

    /// Runs so many queries at the same time at the most.
    #[must_use]
    pub fn with_parallel_queries(mut self, queries: u32) -> Self {
        self.parallel_queries = queries;
        self
    }

    /// Whether statements are prepared. SQLite then compiles one for all the batches of a piece, and not anew for each; for
    /// MySQL it cannot be off, for only rows of prepared statements are exact; rows of PostgreSQL come by COPY, which is
    /// never prepared.
    #[must_use]
    pub fn with_prepared_statements(mut self, prepared: bool) -> Self {
        self.prepared_statements = prepared;
        self
    }

    fn extractor(&self) -> Result<Arc<dyn Extractor>> {
        let wrong = |message| Err(Error::new(ErrorKind::InvalidConfig, message));
        match (self.table.is_empty(), self.query.is_empty()) {
            (true, true) => return wrong("there is neither a table nor a query to read"),
            (false, false) => return wrong("there are both a table and a query"),
            _ => {}
        }
        Ok(match &self.pool.0 {
            #[cfg(feature = "mysql")]
            Kind::Mysql(pool) => {
                if !self.prepared_statements {
                    return wrong("MySQL is read by prepared statements, for other rows are not exact");
                }
                let options = crate::MysqlSourceOptions::default()
                    .with_fetch_size(self.fetch_size)
                    .with_parallel_queries(self.parallel_queries);
                let extractor = match self.query.as_str() {
                    "" => crate::MysqlExtractor::table(pool.clone(), &self.table)?,
                    sql => crate::MysqlExtractor::query(pool.clone(), sql),
                };
                Arc::new(extractor.with_options(options))
            }
            #[cfg(feature = "postgres")]
            Kind::Postgres(pool) => {
                let options = crate::PostgresSourceOptions::default()
                    .with_fetch_size(self.fetch_size)
                    .with_parallel_queries(self.parallel_queries);
                let extractor = match self.query.as_str() {
                    "" => crate::PostgresExtractor::table(pool.clone(), &self.table)?,
                    sql => crate::PostgresExtractor::query(pool.clone(), sql),
                };
                Arc::new(extractor.with_options(options))
            }
            #[cfg(feature = "sqlite")]
            Kind::Sqlite(path) => {
                let options = crate::SqliteSourceOptions::default()
                    .with_fetch_size(self.fetch_size)
                    .with_parallel_queries(self.parallel_queries)
                    .with_prepared_statements(self.prepared_statements);
                let extractor = match self.query.as_str() {
                    "" => crate::SqliteExtractor::new(path, &self.table),
                    sql => crate::SqliteExtractor::query(path, sql),
                };
                Arc::new(extractor.with_options(options))
            }
        })
    }
}

#[async_trait]
impl Extractor for DatabaseExtractor {
    async fn scan(&self, cx: &RunContext, request: &ScanRequest) -> Result<Arc<dyn Scan>> {
        self.extractor()?.scan(cx, request).await
    }
}

/// A table of a database of any kind, written in batches of a size, by so many writers at the most.
///
/// Clones share the bound: runs that write through them at the same time have so many writers together, and each has one at
/// the least, for which it waits.
///
/// ```no_run
/// // Needs a server.
/// use etlrs_sql::{BatchLoader, DatabasePool};
///
/// # fn example() -> etlrs_core::Result<()> {
/// let pool = DatabasePool::connect_lazy("mysql://me@localhost/shop")?;
/// let orders = BatchLoader::new(pool, "orders").with_batch_size(5_000).with_max_connections(4);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct BatchLoader {
    pool: DatabasePool,
    table: String,
    batch_size: usize,
    connections: usize,
    writers: Arc<Semaphore>,
}

impl BatchLoader {
    const CONNECTIONS: usize = 10;

    /// Into this table of the database.
    pub fn new(pool: impl Into<DatabasePool>, table: impl Into<String>) -> Self {
        Self {
            pool: pool.into(),
            table: table.into(),
            batch_size: usize::MAX,
            connections: Self::CONNECTIONS,
            writers: Arc::new(Semaphore::new(Self::CONNECTIONS)),
        }
    }

    /// Hands the database so many rows at a time at the most; 1 at the least.
    #[must_use]
    pub fn with_batch_size(mut self, rows: usize) -> Self {
        self.batch_size = rows.max(1);
        self
    }

    /// Writes over so many connections at the same time at the most; 10 unless it is said, and 1 at the least.
    #[must_use]
    pub fn with_max_connections(mut self, connections: usize) -> Self {
        self.connections = connections.clamp(1, Semaphore::MAX_PERMITS);
        self.writers = Arc::new(Semaphore::new(self.connections));
        self
    }

    fn loader(&self) -> Result<Arc<dyn Loader>> {
        Ok(match &self.pool.0 {
            #[cfg(feature = "mysql")]
            Kind::Mysql(pool) => Arc::new(crate::MysqlLoader::new(pool.clone(), &self.table)?),
            #[cfg(feature = "postgres")]
            Kind::Postgres(pool) => Arc::new(crate::PostgresLoader::new(pool.clone(), &self.table)?),
            #[cfg(feature = "sqlite")]
            Kind::Sqlite(path) => Arc::new(crate::SqliteLoader::new(path, &self.table)),
        })
    }
}

#[async_trait]
impl Loader for BatchLoader {
    fn capabilities(&self) -> LoadCapabilities {
        let writers = match &self.pool.0 {
            #[cfg(feature = "mysql")]
            Kind::Mysql(_) => self.connections,
            #[cfg(feature = "postgres")]
            Kind::Postgres(_) => self.connections,
            #[cfg(feature = "sqlite")]
            Kind::Sqlite(_) => 1,
        };
        LoadCapabilities::one_writer().max_writers(writers).modes(&etlrs_core::LoadMode::ALL)
    }

    async fn target_schema(&self, cx: &RunContext) -> Result<Option<SchemaRef>> {
        self.loader()?.target_schema(cx).await
    }

    async fn check(&self, cx: &RunContext, plan: &LoadPlan) -> Result<LoadPreview> {
        self.loader()?.check(cx, plan).await
    }

    fn identity(&self) -> String {
        self.loader().map_or(String::new(), |loader| loader.identity())
    }

    async fn interrupted(&self, cx: &RunContext) -> Result<Option<Interrupted>> {
        self.loader()?.interrupted(cx).await
    }

    async fn forget(&self, cx: &RunContext, run: RunId) -> Result<Option<Interrupted>> {
        self.loader()?.forget(cx, run).await
    }

    async fn begin(&self, cx: &RunContext, plan: LoadPlan) -> Result<Box<dyn LoadSession>> {
        let loader = self.loader()?;
        let closed = |_| Error::new(ErrorKind::Internal, "the bound on connections is gone");
        // All that the run will need, before it holds anything: runs that waited for each other's could wait for ever.
        let mut permits = self.writers.clone().acquire_owned().await.map_err(closed)?;
        let more = self.writers.available_permits().min(cx.config().workers().saturating_sub(1));
        if let Ok(more) = self.writers.clone().try_acquire_many_owned(u32::try_from(more).unwrap_or(0)) {
            permits.merge(more);
        }
        let session = loader.begin(cx, plan).await?;
        Ok(Box::new(BatchSession { session, permits, batch_size: self.batch_size }))
    }
}

/// A session that writes in batches, and holds its share of the connections.
struct BatchSession {
    session: Box<dyn LoadSession>,
    permits: OwnedSemaphorePermit,
    batch_size: usize,
}

#[async_trait]
impl LoadSession for BatchSession {
    fn completed(&self) -> &[Receipt] {
        self.session.completed()
    }

    fn min_memory(&self) -> usize {
        self.session.min_memory()
    }

    fn max_writers(&self) -> usize {
        self.session.max_writers().min(self.permits.num_permits())
    }

    fn held_memory(&self) -> usize {
        self.session.held_memory()
    }

    async fn writer(&self, cx: &RunContext, partition: &Partition, attempt: u32) -> Result<Box<dyn PartitionWriter>> {
        let writer = self.session.writer(cx, partition, attempt).await?;
        Ok(Box::new(BatchWriter { writer, batch_size: self.batch_size, refused: Vec::new() }))
    }

    async fn read_back(&mut self, cx: &RunContext, receipts: &[Receipt]) -> Result<Option<Arc<dyn Scan>>> {
        self.session.read_back(cx, receipts).await
    }

    async fn sift(&mut self, cx: &RunContext, receipts: &[Receipt], refused: &mut dyn Refusals) -> Result<()> {
        self.session.sift(cx, receipts, refused).await
    }

    async fn commit(self: Box<Self>, receipts: Vec<Receipt>) -> Result<Published> {
        self.session.commit(receipts).await
    }

    async fn abort(self: Box<Self>) -> Result<()> {
        self.session.abort().await
    }

    async fn suspend(self: Box<Self>) -> Result<usize> {
        self.session.suspend().await
    }
}

struct BatchWriter {
    writer: Box<dyn PartitionWriter>,
    batch_size: usize,
    refused: Vec<(usize, Error)>,
}

#[async_trait]
impl PartitionWriter for BatchWriter {
    async fn write(&mut self, batch: RecordBatch) -> Result<()> {
        let mut at = 0;
        self.refused.clear();
        while at < batch.num_rows() {
            let rows = self.batch_size.min(batch.num_rows() - at);
            self.writer.write(batch.slice(at, rows)).await?;
            self.refused.extend(self.writer.refused().into_iter().map(|(row, error)| (at + row, error)));
            at += rows;
        }
        Ok(())
    }

    fn refused(&mut self) -> Vec<(usize, Error)> {
        std::mem::take(&mut self.refused)
    }

    fn seal(&mut self, tally: Tally) {
        self.writer.seal(tally);
    }

    async fn finish(self: Box<Self>) -> Result<Receipt> {
        self.writer.finish().await
    }
}
