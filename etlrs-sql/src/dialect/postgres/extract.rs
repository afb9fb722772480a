//! Design note. A scan begins a transaction that reads one snapshot, exports the snapshot, and keeps it open as long as the
//! scan lives; every reader takes part in it. So all partitions are of one moment, whatever is written meanwhile, and a
//! partition that is read again gives the same rows.

use std::sync::{Arc, Mutex, PoisonError};

use arrow_schema::Schema;
use etlrs_core::{
    Error, ErrorKind, Extractor, Result, RunContext, RunId, Scan, ScanRequest, async_trait, unknown_name,
};

use super::catalog::{self, Kind, Relation, Server};
use super::condition::condition;
use super::decode::Decoder;
use super::error::postgres_error;
use super::name::{literal, quote};
use super::server::{PostgresPool, execute, rows, text};
use super::split::{self, Piece};
use super::types::{Reading, Wire};
use super::wire::{Answer, Connection, Failure, code};
use crate::PostgresSourceOptions;
use crate::cursor::{Bounds, Cursor, kept_as, without_user};
use crate::hash::hash;
use crate::network::{self, Keep, ServerScan, close_all};
use crate::options::readers_at_a_time;
use crate::pieces::partitions;
use crate::table::TableName;

/// A table, a view or a query of a PostgreSQL database.
///
/// All partitions are read from one snapshot, so what is written meanwhile changes nothing. A table is split into ranges of
/// its pages; a view and a query are read by one reader, or split by columns. `docs/type-mapping.md` tells how types map: numbers, text,
/// binaries, dates and times as such, `numeric(P,S)` as a decimal, and everything else as the text that PostgreSQL writes.
///
/// ```no_run
/// // Needs a server.
/// use etlrs_core::*;
/// use etlrs_sql::{PostgresExtractor, PostgresPool};
///
/// # async fn example() -> Result<()> {
/// let pool = PostgresPool::connect_lazy("postgres://me@localhost/shop")?;
/// let cx = RunContext::new(PerformanceConfig::default());
/// let scan = PostgresExtractor::table(pool, "public.orders")?.scan(&cx, &ScanRequest::all()).await?;
/// let orders = DatasetSnapshot::collect(&cx, &*scan).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct PostgresExtractor {
    pool: PostgresPool,
    subject: Subject,
    options: PostgresSourceOptions,
}

#[derive(Clone, Debug)]
enum Subject {
    Table(TableName),
    Query(String),
}

impl PostgresExtractor {
    /// Of a table or view: `orders`, `sales.orders`, `"a name with dots.".t`. The case of letters counts.
    ///
    /// # Errors
    /// `InvalidConfig` for what is no name.
    pub fn table(pool: PostgresPool, name: &str) -> Result<Self> {
        let name = TableName::parse(name)?;
        name.quoted()?;
        Ok(Self::of(pool, Subject::Table(name)))
    }

    /// Of what a query gives: one SELECT, which cannot change anything.
    pub fn query(pool: PostgresPool, sql: impl Into<String>) -> Self {
        let sql: String = sql.into();
        Self::of(pool, Subject::Query(sql.trim().trim_end_matches(';').to_owned()))
    }

    fn of(pool: PostgresPool, subject: Subject) -> Self {
        Self { pool, subject, options: PostgresSourceOptions::default() }
    }

    /// With options other than the defaults.
    #[must_use]
    pub fn with_options(mut self, options: PostgresSourceOptions) -> Self {
        self.options = options;
        self
    }

    async fn look(&self, cx: &RunContext, request: &ScanRequest) -> Result<ServerScan<Snapshot, Decoder>> {
        let source = match &self.subject {
            Subject::Table(name) => format!("{}#{name}", self.pool.shown()),
            Subject::Query(_) => format!("{}, the query", self.pool.shown()),
        };
        let failed = |error| postgres_error(&source, error);
        let mut notes = Vec::new();
        let mut leader = self.pool.take().await?;
        let begin = self.begin(None);
        let (id, columns, from, relation, lock) = match &self.subject {
            Subject::Table(name) => {
                let found = self.find(&mut leader, name).await?;
                if found.row_security && !self.options.row_security {
                    let message = "the table hides rows from this user by row security";
                    return Err(Error::new(ErrorKind::PermissionDenied, message).hint(ROW_SECURITY).in_source(&source));
                }
                let (id, lock) = begin_locked(&mut leader, &begin, &found, &mut notes).await.map_err(failed)?;
                // As the snapshot sees it: somebody may have put another one in its place meanwhile.
                let relation = self.find(&mut leader, name).await?;
                if relation.oid != found.oid {
                    return Err(Error::new(ErrorKind::SourceChanged, "the table was replaced while it was looked at")
                        .hint("run again")
                        .in_source(&source));
                }
                let mark = format!("SELECT pg_try_advisory_xact_lock_shared({})", read_mark(cx.run_id(), relation.oid));
                execute(&mut leader, &mark).await.map_err(failed)?;
                (id, relation.columns.clone(), relation.name.quoted()?, Some(relation), lock)
            }
            Subject::Query(sql) => {
                let columns = self.describe(sql).await.map_err(|error| error.in_source(&source))?;
                execute(&mut leader, &begin).await.map_err(failed)?;
                let id = export_snapshot(&mut leader).await.map_err(failed)?;
                // A comment at the end of the query must not take the parenthesis in.
                (id, columns, format!("({sql}\n) AS query"), None, None)
            }
        };
        let server = Server::ask(&mut leader).await.map_err(failed)?;
        let bounds =
            self.bounds(&mut leader, &from, &columns, request).await.map_err(|error| error.in_source(&source))?;
        let may_be_null = |column: &catalog::Column| column.name == self.options.cursor && !column.not_null;
        if bounds.is_some() && columns.iter().any(may_be_null) {
            notes.push(format!("rows whose {} is null are not read", self.options.cursor));
        }
        let keys = self.keys(&columns).map_err(|error| error.in_source(&source))?;
        let pieces = match &relation {
            _ if !keys.is_empty() => {
                if relation.is_none() {
                    notes.push(
                        "the query runs once for each piece, so it must give the same rows each time: without LIMIT, random() \
                         and now()"
                            .into(),
                    );
                }
                let wished = request.partitions.unwrap_or(cx.config().workers() * 4);
                split::by_key(&mut leader, &from, &keys, wished).await
            }
            Some(relation) => split::by_pages(&mut leader, relation, server.version, request.partitions).await,
            None => Ok(vec![Piece::whole(from.clone())]),
        };
        let pieces = pieces.map_err(failed)?;
        if pieces.len() == 1 && relation.as_ref().is_none_or(|relation| relation.kind == Kind::View) {
            let what = if relation.is_some() { "a view" } else { "a query" };
            notes.push(format!("{what} is read by one reader; the source option split_by=COLUMN lets several read it"));
        }
        let readings = self.readings(&columns).map_err(|error| error.in_source(&source))?;
        let all = Schema::new(readings.iter().map(|reading| reading.field.clone()).collect::<Vec<_>>());
        let conditions = request.filter.iter().filter_map(|test| condition(test, &readings, server.is_utf8));
        let conditions: Vec<_> = conditions.chain(bounds.iter().map(|bounds| bounds.condition.clone())).collect();
        let projection = request.projection(&all).map_err(|error| error.in_source(&source))?;
        let readings: Vec<_> = projection.iter().map(|&position| readings[position].clone()).collect();
        notes.extend(readings.iter().filter_map(|reading| reading.note.clone()));
        let primary_key = match &relation {
            Some(relation) => catalog::primary_key(&mut leader, relation).await.map_err(failed)?,
            None => Vec::new(),
        };
        let words = pieces.iter().map(|piece| piece.words.as_str());
        let partitions = partitions(words, request.recorded.as_deref()).map_err(|error| error.in_source(&source))?;
        let list = readings.iter().map(select_item).collect::<Result<Vec<_>>>()?.join(", ");
        if lock.is_none() {
            // Who plans a statement locks what it reads. Whoever truncated a table before its COPY would leave nothing for it to
            // see.
            let list = if list.is_empty() { "1" } else { &list };
            execute(&mut leader, &format!("EXPLAIN SELECT {list} FROM {from}")).await.map_err(failed)?;
        }
        let statement =
            |piece: &Piece| format!("COPY ({}) TO STDOUT (FORMAT binary)", piece.select(&list, &conditions));
        let statements = pieces.iter().map(statement).collect();
        let snapshot = Snapshot {
            pool: self.pool.clone(),
            // The lock at the start, of a table with all its parts: if others waited for theirs first, a reader would wait for
            // them at the next part, and they for the scan.
            begin: [Some(self.begin(Some(&id))), lock].into_iter().flatten().collect::<Vec<_>>().join("; "),
            id,
            leader: Mutex::new(Some(leader)),
            idle: Mutex::default(),
        };
        let schema = Arc::new(all.project(&projection)?);
        let (columns, read) = (schema.clone(), readings);
        Ok(ServerScan {
            schema,
            decoder: Box::new(move |max_rows, max_bytes| Decoder::new(columns.clone(), &read, max_rows, max_bytes)),
            statements,
            partitions,
            notes,
            subject: format!("{source} {:?} {:?}", self.subject, self.options),
            source,
            cursor: bounds.and_then(|bounds| bounds.reached),
            primary_key,
            // One connection holds the snapshot.
            readers: readers_at_a_time(
                cx.config().connections().saturating_sub(1).max(1),
                self.options.parallel_queries,
            ),
            fetch_size: self.options.fetch_size,
            snapshot: Arc::new(snapshot),
        })
    }

    /// Begins a transaction that changes nothing, waits for no lock for ever, and sees all rows or fails.
    fn begin(&self, snapshot: Option<&str>) -> String {
        let limit = self.options.lock_timeout.milliseconds();
        let row_security = if self.options.row_security { "on" } else { "off" };
        let snapshot = snapshot.map_or(String::new(), |id| format!("SET TRANSACTION SNAPSHOT {}; ", literal(id)));
        format!(
            "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; {snapshot}SET LOCAL lock_timeout = {limit}; \
             SET LOCAL row_security = {row_security}"
        )
    }

    async fn find(&self, connection: &mut Connection, name: &TableName) -> Result<Relation> {
        let failed = |error| self.pool.failed(error);
        if let Some(relation) = Relation::find(connection, name).await.map_err(failed)? {
            return Ok(relation);
        }
        let names = catalog::names(connection).await.map_err(failed)?;
        Err(unknown_name("table", &name.to_string(), &names).in_source(self.pool.shown()))
    }

    /// The columns that the user wants the rows split by.
    fn keys<'c>(&self, columns: &'c [catalog::Column]) -> Result<Vec<&'c catalog::Column>> {
        let names: Vec<_> = columns.iter().map(|column| column.name.as_str()).collect();
        let wanted = self.options.split_by.split(',').map(str::trim).filter(|name| !name.is_empty());
        let found = |name| columns.iter().find(|column| column.name == name);
        wanted.map(|name| found(name).ok_or_else(|| unknown_name("column", name, &names))).collect()
    }

    /// The rows that are new by the cursor that the user wants, as of the snapshot.
    async fn bounds(
        &self,
        leader: &mut Connection,
        from: &str,
        columns: &[catalog::Column],
        request: &ScanRequest,
    ) -> Result<Option<Bounds>> {
        let options = &self.options;
        let Some(cursor) = Cursor::new(&options.cursor, &options.cursor_after, options.cursor_lag, request)? else {
            return Ok(None);
        };
        let names: Vec<_> = columns.iter().map(|column| column.name.as_str()).collect();
        let column = columns.iter().find(|column| column.name == cursor.column);
        let column = column.ok_or_else(|| unknown_name("column", cursor.column, &names))?;
        let (name, type_name) = (quote(&column.name)?, &column.type_name);
        // A type with a modifier would round it.
        let after = cursor.after.map(|after| format!("{}::{}", literal(after), column.bare_type));
        let wire = Reading::new(column, None)?.wire;
        let after = match (after, &wire) {
            (Some(after), _) if cursor.lag == 0 => Some(after),
            (Some(after), Wire::Int2 | Wire::Int4 | Wire::Int8 | Wire::Numeric) => {
                Some(format!("({after}::numeric - {})", cursor.lag))
            }
            (Some(after), Wire::Date | Wire::Timestamp) => {
                Some(format!("({after} - interval '{} seconds')", cursor.lag))
            }
            (Some(_), _) => return Err(cursor.unusable(type_name)),
            (None, _) => None,
        };
        let newer = cursor.newer(&name, after.as_deref());
        let sql = format!("SELECT max({name})::text FROM {from} WHERE {newer}");
        let greatest = text(leader, &sql, &[]).await.map_err(|error| match code(&error) {
            // There is no max() of such a type.
            Some("42883") => cursor.unusable(type_name),
            Some(code) if code.starts_with("22") => {
                let message = format!("cursor_after is no value of type {type_name}");
                Error::new(ErrorKind::InvalidConfig, message).at_column(&column.name)
            }
            _ => self.pool.failed(error),
        })?;
        let ends = matches!(greatest.as_deref(), Some("infinity" | "Infinity" | "NaN"));
        if ends && !matches!(wire, Wire::Text | Wire::Jsonb) {
            let message = format!("the greatest value of the cursor is {}", greatest.unwrap_or_default());
            return Err(Error::new(
                ErrorKind::InvalidData,
                format!("{message}, behind which nothing would be read again"),
            )
            .hint("leave such rows out, by a view")
            .at_column(&column.name));
        }
        let greatest = greatest.map(|text| (format!("{}::{type_name}", literal(&text)), text));
        Ok(Some(cursor.bounds(newer, &name, greatest)))
    }

    /// The columns of a query. A view of it has them in the catalogue, with the digits of their types.
    async fn describe(&self, sql: &str) -> Result<Vec<catalog::Column>> {
        let limit = self.options.lock_timeout.milliseconds();
        let mut connection = self.pool.take().await?;
        if text(&mut connection, "SELECT pg_is_in_recovery()::text", &[])
            .await
            .map_err(|error| self.pool.failed(error))?
            == Some("true".into())
        {
            return Err(Error::new(ErrorKind::Unsupported, "a standby takes no queries here")
                .hint("read a table or a view of it, or ask the primary"));
        }
        let described = async {
            execute(&mut connection, &format!("BEGIN READ WRITE; SET LOCAL lock_timeout = {limit}")).await?;
            // By the extended protocol, which takes one statement and no more.
            rows(&mut connection, &format!("CREATE TEMPORARY VIEW _etlrs_query AS {sql}\n"), &[]).await?;
            let oid = text(&mut connection, "SELECT 'pg_temp._etlrs_query'::regclass::oid::text", &[]).await?;
            let oid = oid.and_then(|oid| oid.parse().ok()).unwrap_or_default();
            let columns = catalog::columns(&mut connection, oid).await?;
            execute(&mut connection, "ROLLBACK").await?;
            Ok(columns)
        };
        let columns = described.await.map_err(|error: Failure| {
            let is_syntax = code(&error) == Some("42601");
            let error = self.pool.failed(error);
            if is_syntax { error.hint("a query is one SELECT") } else { error }
        })?;
        self.pool.give_back(connection);
        Ok(columns)
    }

    fn readings(&self, columns: &[catalog::Column]) -> Result<Vec<Reading>> {
        let names: Vec<_> = columns.iter().map(|column| column.name.as_str()).collect();
        if let Some((name, _)) = self.options.types.0.iter().find(|(name, _)| !names.contains(&name.as_str())) {
            return Err(unknown_name("column", name, &names));
        }
        columns.iter().map(|column| Reading::new(column, self.options.types.get(&column.name))).collect()
    }
}

fn select_item(reading: &Reading) -> Result<String> {
    let name = quote(reading.field.name())?;
    Ok(match reading.cast {
        Some(cast) => format!("{name}::{cast}"),
        None => name,
    })
}

#[async_trait]
impl Extractor for PostgresExtractor {
    async fn scan(&self, cx: &RunContext, request: &ScanRequest) -> Result<Arc<dyn Scan>> {
        Ok(Arc::new(self.look(cx, request).await?))
    }

    fn cursor(&self) -> Option<String> {
        let subject = match &self.subject {
            Subject::Table(name) => name.to_string(),
            Subject::Query(sql) => sql.clone(),
        };
        // A name without a schema may be of a schema of the user.
        let place = match &self.subject {
            Subject::Table(TableName { schema: Some(_), .. }) => without_user(self.pool.shown()),
            _ => self.pool.shown().to_owned(),
        };
        kept_as(&place, &subject, &self.options.cursor, &self.options.cursor_after)
    }

    fn rereads(&self) -> bool {
        self.options.cursor_lag > 0
    }
}

/// What to do about rows that are hidden.
pub(super) const ROW_SECURITY: &str =
    "read as the owner of the table or as a user with BYPASSRLS, or take what this user sees with row_security=true";

/// The number of the advisory lock that tells a load into a table that its rows are read by the same run, by whatever name.
pub(super) fn read_mark(run: RunId, table: u32) -> i64 {
    i64::from_ne_bytes(hash(&format!("{run} reads {table}")).to_ne_bytes())
}

/// One state of the database, and the connections that see it.
struct Snapshot {
    pool: PostgresPool,
    /// As the server calls it.
    id: String,
    /// What a reader begins with.
    begin: String,
    /// The transaction that keeps it.
    leader: Mutex<Option<Connection>>,
    /// In transactions of this snapshot, and free.
    idle: Mutex<Vec<Connection>>,
}

async fn export_snapshot(leader: &mut Connection) -> Answer<String> {
    text(leader, "SELECT pg_export_snapshot()", &[]).await?.ok_or(Failure::Protocol("it gives no snapshot"))
}

/// Begins a transaction that keeps others from dropping, rewriting or truncating the table, and gives its snapshot, and the
/// statement that locked it, if that could be done.
///
/// The lock comes first: whoever truncates a table while the snapshot is taken would leave nothing for it to see.
async fn begin_locked(
    leader: &mut Connection,
    begin: &str,
    table: &Relation,
    notes: &mut Vec<String>,
) -> Answer<(String, Option<String>)> {
    // A refreshed materialized view and a table of another server cannot be locked.
    if matches!(table.kind, Kind::Table | Kind::Partitioned | Kind::View) {
        let lock = format!("LOCK TABLE {} IN ACCESS SHARE MODE", table.name.quoted().unwrap_or_default());
        match execute(leader, &format!("{begin}; {lock}")).await {
            Ok(_) => return Ok((export_snapshot(leader).await?, Some(lock))),
            // Who may read only some columns may not lock.
            Err(error) if code(&error) == Some("42501") => {
                notes.push(
                    "without the privilege to read all columns the table is locked against TRUNCATE a moment late"
                        .into(),
                );
                execute(leader, "ROLLBACK").await?;
            }
            Err(error) => return Err(error),
        }
    }
    execute(leader, begin).await?;
    Ok((export_snapshot(leader).await?, None))
}

impl Snapshot {
    fn gone(&self) -> Error {
        Error::new(ErrorKind::Connection, "the connection that keeps the snapshot was lost")
            .hint("run again")
            .in_source(self.pool.shown())
    }
}

impl network::Snapshot for Snapshot {
    type Connection = Connection;

    fn id(&self) -> String {
        format!("snapshot {}", self.id)
    }

    async fn connection(&self) -> Result<Connection> {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        if let Some(connection) = idle {
            return Ok(connection);
        }
        let mut connection = self.pool.take().await?;
        execute(&mut connection, &self.begin).await.map_err(|error| {
            // The latter since version 17.
            let is_gone = matches!(code(&error), Some("22023" | "42704"));
            let error = self.pool.failed(error);
            if is_gone { self.gone() } else { error }
        })?;
        Ok(connection)
    }

    /// The transaction also keeps the lock on the table.
    async fn check(&self) -> Result<()> {
        let leader = self.leader.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(mut leader) = leader
            && execute(&mut leader, "SELECT 1").await.is_ok()
        {
            *self.leader.lock().unwrap_or_else(PoisonError::into_inner) = Some(leader);
            return Ok(());
        }
        Err(self.gone())
    }
}

impl Keep<Connection> for Arc<Snapshot> {
    fn give_back(self, connection: Connection) {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
    }

    /// The server sees that it is closed, and ends the COPY; another one takes its place in the snapshot.
    async fn abandon(self, _: Connection) {}

    fn lost(self) {}
}

impl Drop for Snapshot {
    fn drop(&mut self) {
        let mut all = std::mem::take(self.idle.get_mut().unwrap_or_else(PoisonError::into_inner));
        all.extend(self.leader.get_mut().unwrap_or_else(PoisonError::into_inner).take());
        close_all(all);
    }
}
