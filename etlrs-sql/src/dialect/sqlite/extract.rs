//! Design note. A table with rowids is read in ranges of them, and each batch is a query of its own that goes on after
//! the last rowid seen: seeking costs a few microseconds a batch, no statement has to live as long as the stream, and
//! no lock is held between batches. What has no rowid (a view, a `WITHOUT ROWID` table) is read by one statement, on
//! a thread of its own that hands batches over through a channel, for a statement borrows its connection.
//!
//! Partitions and batches do not share a transaction. That they saw the same data is what the fingerprint is for: it
//! covers the file and its write-ahead log, so any commit during the run changes it.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::ffi::OsString;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::Duration;

use arrow_array::{Array, RecordBatch, RecordBatchOptions};
use arrow_schema::{DataType, Field, Schema, SchemaRef};
use etlrs_core::{
    BatchStream, CancelToken, Error, ErrorKind, Extractor, Fingerprint, Partition, Pushdown, Result, RunContext, Scan,
    ScanRequest, async_trait, batches_from_fn, type_name, unknown_name,
};
use rusqlite::types::ValueRef;
use rusqlite::{Connection, InterruptHandle, Rows};

use super::catalog::{self, Column, Table};
use super::cursor::add_functions;
use super::decode::{Decode, decoder};
use super::error::{sqlite_error, words};
use super::types::{StorageClasses, arrow_type};
use super::{open_to_read, quote, set_cache};
use crate::SqliteSourceOptions;
use crate::cursor::{Bounds, Cursor, kept_as};
use crate::options::{readers_at_a_time, rows_at_a_time};

/// A table or view of a SQLite database. The database is opened read-only and never created. Of one with a write-ahead
/// log SQLite keeps an empty `-wal` and a `-shm` file beside it, which the next writer removes.
///
/// | declared type | read as |
/// |---|---|
/// | `TINYINT`, `SMALLINT`; `MEDIUMINT`, `INT4`; `INTEGER`, `INT`, `BIGINT` | int16; int32; int64 |
/// | `REAL`, `DOUBLE`, `FLOAT`; `BOOLEAN`; `BLOB` | float64; boolean; binary |
/// | `TEXT`, `VARCHAR(n)`, `CHAR(n)` | text |
/// | `NUMERIC(p,s)`, `DECIMAL(p,s)` | decimal, if every float is what its digits at that scale stand for |
/// | `DATE`, `TIME`, `DATETIME`, `TIMESTAMP`, `TIMESTAMPTZ` | date, time, timestamp in µs, from ISO 8601 text |
/// | none, or any other | what all values have in common; text if they have nothing |
///
/// SQLite lets a column hold values of any type, so each value is checked; one that does not fit ends the read with
/// an error that names its rowid. The option `types` overrides the type of a column: `text` takes any value.
///
/// A table is split into ranges of its rowids; a view, a `WITHOUT ROWID` table and one whose columns have taken the
/// names `rowid`, `oid` and `_rowid_` is one partition.
#[derive(Clone, Debug)]
pub struct SqliteExtractor {
    path: PathBuf,
    subject: Subject,
    options: SqliteSourceOptions,
}

#[derive(Clone, Debug)]
enum Subject {
    Table(String),
    Query(String),
}

impl SqliteExtractor {
    /// Of the table or view `table`, whose name is not case-sensitive.
    pub fn new(path: impl Into<PathBuf>, table: impl Into<String>) -> Self {
        Self { path: path.into(), subject: Subject::Table(table.into()), options: SqliteSourceOptions::default() }
    }

    /// Of what a query gives: one SELECT, which cannot change anything.
    pub fn query(path: impl Into<PathBuf>, sql: impl Into<String>) -> Self {
        let sql: String = sql.into();
        let sql = sql.trim().trim_end_matches(';').to_owned();
        Self { path: path.into(), subject: Subject::Query(sql), options: SqliteSourceOptions::default() }
    }

    /// With options other than the defaults.
    #[must_use]
    pub fn with_options(mut self, options: SqliteSourceOptions) -> Self {
        self.options = options;
        self
    }

    fn look(&self, cx: &RunContext, request: &ScanRequest) -> Result<TableScan> {
        let connection = open_to_read(&self.path, self.options.busy_timeout)?;
        let failed = |error| sqlite_error(&self.path, error);
        let (table, source) = match &self.subject {
            Subject::Table(name) => {
                let Some(table) = Table::find(&connection, name).map_err(failed)? else {
                    let tables = catalog::names(&connection).map_err(failed)?;
                    return Err(unknown_name("table", name, &tables).in_source(self.path.display()));
                };
                let source = format!("{}#{}", self.path.display(), table.name);
                (table, source)
            }
            Subject::Query(sql) => {
                let source = format!("{}, the query", self.path.display());
                let table = Table::of_query(&connection, sql)
                    .map_err(|error| Error::new(ErrorKind::InvalidConfig, words(&error)).in_source(&source))?;
                (table, source)
            }
        };
        let mut notes = Vec::new();
        let columns =
            self.typed_columns(&connection, &table, request, &mut notes).map_err(|error| error.in_source(&source))?;
        let fields: Vec<_> = columns.iter().map(|column| column.field.clone()).collect();
        let all = Schema::new(fields);
        let bounds = self.bounds(&connection, &table, &columns, request).map_err(|error| error.in_source(&source))?;
        let may_be_null =
            |column: &TypedColumn| *column.field.name() == self.options.cursor && column.field.is_nullable();
        if bounds.is_some() && columns.iter().any(may_be_null) {
            notes.push(format!("rows whose {} is null are not read", self.options.cursor));
        }
        let projection = request.projection(&all).map_err(|error| error.in_source(&source))?;
        let columns: Vec<_> = projection.iter().map(|&position| columns[position].clone()).collect();
        let partitions = match &request.recorded {
            Some(recorded) => check_recorded(recorded, &table).map_err(|error| error.in_source(&source))?,
            None => split(cx, request, &connection, &table).map_err(|error| error.in_source(&source))?,
        };
        let key = table.primary_key();
        // Two values of other types may be one when they are read: the same moment as text of two forms.
        let is_exact = |column: &TypedColumn| {
            let data_type = column.field.data_type();
            let exact =
                data_type.is_integer() || matches!(data_type, DataType::Float64 | DataType::Utf8 | DataType::Binary);
            exact && !column.lenient && !column.field.is_nullable()
        };
        let is_read = |name: &&str| columns.iter().any(|column| column.field.name() == name && is_exact(column));
        let primary_key = key.iter().filter(|_| key.iter().all(is_read)).map(|name| (*name).to_owned()).collect();
        Ok(TableScan {
            schema: Arc::new(all.project(&projection)?),
            primary_key,
            query: Query {
                path: self.path.clone(),
                source,
                sql: select(&table, &columns, bounds.as_ref().map(|bounds| bounds.condition.as_str()))?,
                keyed: table.rowid.is_some(),
                columns: columns.into(),
                options: self.options.clone(),
            },
            partitions,
            notes,
            cursor: bounds.and_then(|bounds| bounds.reached),
        })
    }

    /// The rows that are new by the cursor that the user wants.
    fn bounds(
        &self,
        connection: &Connection,
        table: &Table,
        columns: &[TypedColumn],
        request: &ScanRequest,
    ) -> Result<Option<Bounds>> {
        let options = &self.options;
        let Some(cursor) = Cursor::new(&options.cursor, &options.cursor_after, options.cursor_lag, request)? else {
            return Ok(None);
        };
        let names: Vec<_> = columns.iter().map(|column| column.field.name().as_str()).collect();
        let position = names.iter().position(|name| *name == cursor.column);
        let position = position.ok_or_else(|| unknown_name("column", cursor.column, &names))?;
        add_functions(connection).map_err(|error| sqlite_error(&self.path, error))?;
        let (data_type, declared) = (columns[position].field.data_type(), &table.columns[position].declared);
        super::cursor::bounds(connection, table, &cursor, data_type, declared).map(Some)
    }

    /// All columns with their types: what the user says, else what is declared, else what the values are.
    fn typed_columns(
        &self,
        connection: &Connection,
        table: &Table,
        request: &ScanRequest,
        notes: &mut Vec<String>,
    ) -> Result<Vec<TypedColumn>> {
        let names: Vec<_> = table.columns.iter().map(|column| column.name.as_str()).collect();
        for (name, data_type) in &self.options.types.0 {
            if !names.contains(&name.as_str()) {
                return Err(unknown_name("column", name, &names));
            }
            if decoder(data_type, true, 0).is_none() {
                let message = format!("a column cannot be read as {}", type_name(data_type));
                return Err(Error::new(ErrorKind::InvalidConfig, message).at_column(name));
            }
        }
        let wanted = |name: &String| {
            *name == self.options.cursor || request.columns.as_ref().is_none_or(|columns| columns.contains(name))
        };
        let undeclared: Vec<_> = table
            .columns
            .iter()
            .filter(|column| {
                wanted(&column.name)
                    && self.options.types.get(&column.name).is_none()
                    && arrow_type(&column.declared).is_none()
            })
            .collect();
        let mut found =
            storage_classes(connection, table, &undeclared).map_err(|error| error.or_sqlite(&self.path))?.into_iter();
        let mut columns = Vec::with_capacity(table.columns.len());
        for column in &table.columns {
            let given = self.options.types.get(&column.name).cloned();
            let mut lenient = given.is_some();
            let data_type = match given.or_else(|| arrow_type(&column.declared)) {
                Some(data_type) => data_type,
                // Left out by the projection, so it does not matter.
                None if !wanted(&column.name) => DataType::Utf8,
                None => {
                    lenient = true;
                    let data_type = found.next().unwrap_or_default().arrow_type();
                    let declared = if column.declared.is_empty() { "no declared type" } else { &column.declared };
                    let read = type_name(&data_type);
                    notes.push(format!("column {:?} has {declared}: read as {read}, by its values", column.name));
                    data_type
                }
            };
            let field = Arc::new(Field::new(&column.name, data_type, !column.not_null));
            columns.push(TypedColumn { field, lenient });
        }
        Ok(columns)
    }
}

#[async_trait]
impl Extractor for SqliteExtractor {
    async fn scan(&self, cx: &RunContext, request: &ScanRequest) -> Result<Arc<dyn Scan>> {
        Ok(Arc::new(self.look(cx, request)?))
    }

    fn cursor(&self) -> Option<String> {
        let subject = match &self.subject {
            Subject::Table(name) => name,
            Subject::Query(sql) => sql,
        };
        let path = std::fs::canonicalize(&self.path).unwrap_or_else(|_| self.path.clone());
        let place = path.to_string_lossy();
        kept_as(&place, subject, &self.options.cursor, &self.options.cursor_after)
    }

    fn rereads(&self) -> bool {
        self.options.cursor_lag > 0
    }
}

/// Either kind of failure on the way to a statement.
enum Failure {
    Sqlite(rusqlite::Error),
    Other(Error),
}

impl Failure {
    fn or_sqlite(self, path: &Path) -> Error {
        match self {
            Self::Sqlite(error) => sqlite_error(path, error),
            Self::Other(error) => error,
        }
    }
}

impl From<rusqlite::Error> for Failure {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Other(error)
    }
}

/// Reads all of the table, but only for columns whose declared type says nothing.
fn storage_classes(
    connection: &Connection,
    table: &Table,
    columns: &[&Column],
) -> std::result::Result<Vec<StorageClasses>, Failure> {
    let mut all = Vec::with_capacity(columns.len());
    // A result has at most 2000 columns.
    for columns in columns.chunks(100) {
        let mut sql = String::from("SELECT ");
        for column in columns {
            let name = quote(&column.name)?;
            for class in ["integer", "real", "text", "blob"] {
                sql.push_str(&format!("ifnull(max(typeof({name}) = '{class}'), 0), "));
            }
            sql.push_str(&format!(
                "ifnull(max(typeof({name}) = 'integer' AND {name} NOT BETWEEN -9007199254740992 AND 9007199254740992), 0), "
            ));
        }
        sql.push_str(&format!("0 FROM {}", table.from));
        connection.query_row(&sql, [], |row| {
            for index in 0..columns.len() {
                let at = |offset: usize| row.get::<_, bool>(index * 5 + offset);
                let (integer, real, text, blob, small) = (at(0)?, at(1)?, at(2)?, at(3)?, !at(4)?);
                all.push(StorageClasses { integer, real, text, blob, small });
            }
            Ok(())
        })?;
    }
    Ok(all)
}

#[derive(Clone, Debug)]
struct TypedColumn {
    field: Arc<Field>,
    lenient: bool,
}

fn select(table: &Table, columns: &[TypedColumn], condition: Option<&str>) -> Result<String> {
    let mut list = Vec::with_capacity(columns.len() + 1);
    // Also what makes a statement of no columns valid.
    list.push(table.rowid.unwrap_or("NULL").to_owned());
    for column in columns {
        list.push(quote(column.field.name())?);
    }
    let (list, name) = (list.join(", "), &table.from);
    let condition = condition.unwrap_or("true");
    Ok(match table.rowid {
        Some(rowid) => format!(
            "SELECT {list} FROM {name} WHERE {rowid} BETWEEN ?1 AND ?2 AND ({condition}) ORDER BY {rowid} LIMIT ?3"
        ),
        None => format!("SELECT {list} FROM {name} WHERE {condition}"),
    })
}

/// What a partition covers; `None`: everything.
fn parse_descriptor(descriptor: &str) -> Option<Option<RangeInclusive<i64>>> {
    if descriptor == "all rows" {
        return Some(None);
    }
    let (from, to) = descriptor.strip_prefix("rowid ")?.split_once("..=")?;
    Some(Some(from.parse().ok()?..=to.parse().ok()?))
}

/// Ranges of rowids. The first is open below and the last above, so that every rowid is in just one of them.
///
/// They are found by halving the widest range, which is then drawn in to the rowids at its ends: two seeks each time, and gaps
/// of any width take no piece.
fn split(cx: &RunContext, request: &ScanRequest, connection: &Connection, table: &Table) -> Result<Vec<Partition>> {
    /// Fewer rows than this are not worth another reader.
    const LEAST_ROWS: i128 = 50_000;

    let Some(rowid) = table.rowid else { return Ok(vec![Partition::new(0, "all rows")]) };
    let name = &table.from;
    let failed = |error| sqlite_error(connection.path().unwrap_or_default().as_ref(), error);
    let seek = |what: &str, from: i64, to: i64| -> Result<Option<i64>> {
        let sql = format!("SELECT {what}({rowid}) FROM {name} WHERE {rowid} BETWEEN ?1 AND ?2");
        let mut statement = connection.prepare_cached(&sql).map_err(failed)?;
        statement.query_row((from, to), |row| row.get(0)).map_err(failed)
    };
    let ends = (seek("min", i64::MIN, i64::MAX)?, seek("max", i64::MIN, i64::MAX)?);
    let (least, most) = (ends.0.unwrap_or(0), ends.1.unwrap_or(0));
    let span = i128::from(most) - i128::from(least) + 1;
    let wanted = |n: usize| i128::try_from(n).unwrap_or(i128::MAX);
    let count = match request.partitions {
        Some(n) => wanted(n).min(span),
        None => wanted(cx.config().workers().saturating_mul(4)).min(span / LEAST_ROWS),
    };
    // Partitions are numbered in 32 bits.
    let count = usize::try_from(count.clamp(1, i128::from(u16::MAX))).unwrap_or(1);
    // The widest first, and of those the first.
    let width = |from: i64, to: i64| i128::from(to) - i128::from(from);
    let mut widest = BinaryHeap::from([(width(least, most), Reverse(least), most)]);
    let mut starts = vec![least];
    while starts.len() < count {
        let Some((wide, Reverse(from), to)) = widest.pop().filter(|(wide, ..)| *wide > 0) else { break };
        let middle = i64::try_from(i128::from(from) + wide / 2).unwrap_or(from);
        // Both ends are rowids, so each half has one.
        let (Some(before), Some(behind)) = (seek("max", from, middle)?, seek("min", middle + 1, to)?) else { break };
        widest.push((width(from, before), Reverse(from), before));
        widest.push((width(behind, to), Reverse(behind), to));
        starts.push(behind);
    }
    starts.sort_unstable();
    let ranges = starts.iter().enumerate().map(|(index, start)| {
        let from = if index == 0 { i64::MIN } else { *start };
        // Beyond the first, a start is greater than the least rowid, so one less is in range.
        let to = starts.get(index + 1).map_or(i64::MAX, |next| next - 1);
        Partition::new(index, format!("rowid {from}..={to}"))
    });
    Ok(ranges.collect())
}

/// The partitions of an earlier scan, if they are such as this table has.
fn check_recorded(recorded: &[Partition], table: &Table) -> Result<Vec<Partition>> {
    for (index, partition) in recorded.iter().enumerate() {
        let range = parse_descriptor(&partition.descriptor);
        let fits = range.is_some_and(|range| range.is_some() == table.rowid.is_some());
        if !fits || partition.id.index() != index {
            return Err(Error::new(
                ErrorKind::SourceChanged,
                format!("the recorded partition {:?} is none of this table", partition.descriptor),
            ));
        }
    }
    Ok(recorded.to_vec())
}

struct TableScan {
    schema: SchemaRef,
    query: Query,
    partitions: Vec<Partition>,
    notes: Vec<String>,
    primary_key: Vec<String>,
    cursor: Option<String>,
}

#[derive(Clone)]
struct Query {
    path: PathBuf,
    /// The database and the table, for errors.
    source: String,
    sql: String,
    keyed: bool,
    columns: Arc<[TypedColumn]>,
    options: SqliteSourceOptions,
}

#[async_trait]
impl Scan for TableScan {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    fn partitions(&self) -> &[Partition] {
        &self.partitions
    }

    fn pushdown(&self) -> Pushdown {
        Pushdown::columns()
    }

    fn notes(&self) -> &[String] {
        &self.notes
    }

    fn cursor(&self) -> Option<&str> {
        self.cursor.as_deref()
    }

    fn max_readers(&self) -> usize {
        readers_at_a_time(usize::MAX, self.query.options.parallel_queries)
    }

    fn primary_key(&self) -> &[String] {
        &self.primary_key
    }

    fn min_memory(&self) -> usize {
        256 << 10
    }

    fn identity(&self) -> Option<String> {
        // A cursor is part of the statement.
        Some(format!("{} {:?}", self.query.sql, self.query.options))
    }

    async fn fingerprint(&self) -> Result<Fingerprint> {
        let path = &self.query.path;
        let mut log = OsString::from(path);
        log.push("-wal");
        let mut files = vec![path.clone()];
        // An empty log holds no commits; it comes and goes with mere readers.
        if std::fs::metadata(&log).is_ok_and(|found| found.len() > 0) {
            files.push(log.into());
        }
        // A database is a local file, for which nobody waits.
        etlrs_files::fingerprint(&files, &CancelToken::new())
    }

    fn read(&self, cx: &RunContext, partition: &Partition) -> Result<BatchStream> {
        let range = parse_descriptor(&partition.descriptor).filter(|range| range.is_some() == self.query.keyed);
        let range = range.ok_or_else(|| {
            Error::new(ErrorKind::Internal, format!("{:?} is no partition of this scan", partition.descriptor))
        })?;
        let gather = Gather::new(cx, &self.query, self.schema.clone())?;
        Ok(match range {
            Some(range) => read_range(cx.clone(), self.query.clone(), gather, range),
            None => read_all(cx.clone(), self.query.clone(), gather),
        })
    }
}

fn connect(cx: &RunContext, query: &Query) -> Result<Connection> {
    let connection = open_to_read(&query.path, query.options.busy_timeout)?;
    let failed = |error| sqlite_error(&query.path, error);
    set_cache(&connection, cx.reader_memory() / 4).map_err(failed)?;
    if !query.options.cursor.is_empty() {
        add_functions(&connection).map_err(failed)?;
    }
    Ok(connection)
}

fn read_range(cx: RunContext, query: Query, mut gather: Gather, range: RangeInclusive<i64>) -> BatchStream {
    let (mut next, last) = (Some(*range.start()), *range.end());
    let mut opened = None;
    batches_from_fn(move || {
        cx.cancel().check()?;
        let Some(from) = next else { return Ok(None) };
        let connection = match &mut opened {
            Some(connection) => connection,
            none => none.insert(connect(&cx, &query)?),
        };
        let failed = |error| sqlite_error(&query.path, error).in_source(&query.source);
        if !query.options.prepared_statements {
            connection.flush_prepared_statement_cache();
        }
        let mut statement = connection.prepare_cached(&query.sql).map_err(failed)?;
        let limit = i64::try_from(gather.max_rows).unwrap_or(i64::MAX);
        let mut rows = statement.query((from, last, limit)).map_err(failed)?;
        let batch = gather.batch(&mut rows)?;
        next = gather.last_rowid.filter(|seen| *seen < last && batch.is_some()).map(|seen| seen + 1);
        cx.counters().bytes_read.add(gather.bytes as u64);
        Ok(batch)
    })
}

fn read_all(cx: RunContext, query: Query, gather: Gather) -> BatchStream {
    let mut parts = Some((query, gather));
    let mut producer: Option<Producer> = None;
    batches_from_fn(move || {
        cx.cancel().check()?;
        if let Some((query, gather)) = parts.take() {
            producer = Some(Producer::start(&cx, query, gather)?);
        }
        let Some(producer) = &producer else { return Ok(None) };
        loop {
            match producer.batches.recv_timeout(Duration::from_millis(100)) {
                Ok(item) => return item,
                Err(RecvTimeoutError::Timeout) => cx.cancel().check()?,
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(Error::new(ErrorKind::Internal, "the thread that reads the table ended early"));
                }
            }
        }
    })
}

type Produced = Result<Option<RecordBatch>>;

/// A thread that steps through one statement. Dropping it ends the thread soon, even within a long step.
struct Producer {
    batches: Receiver<Produced>,
    interrupt: InterruptHandle,
}

impl Producer {
    fn start(cx: &RunContext, query: Query, mut gather: Gather) -> Result<Self> {
        let connection = connect(cx, &query)?;
        let interrupt = connection.get_interrupt_handle();
        // With the batch in the channel and the one that is being made, two are held besides the consumer's.
        let (sender, batches) = sync_channel(1);
        let cx = cx.clone();
        let body = move || {
            if let Err(error) = produce(&cx, &connection, &query, &mut gather, &sender) {
                // Nobody to tell is nobody who wants to know.
                _ = sender.send(Err(error));
            }
        };
        std::thread::Builder::new()
            .name("etlrs-sqlite".into())
            .spawn(body)
            .map_err(|error| Error::new(ErrorKind::Io, "cannot start a thread to read the table").caused_by(error))?;
        Ok(Self { batches, interrupt })
    }
}

impl Drop for Producer {
    fn drop(&mut self) {
        self.interrupt.interrupt();
    }
}

fn produce(
    cx: &RunContext,
    connection: &Connection,
    query: &Query,
    gather: &mut Gather,
    sender: &SyncSender<Produced>,
) -> Result<()> {
    let failed = |error| sqlite_error(&query.path, error).in_source(&query.source);
    let mut statement = connection.prepare(&query.sql).map_err(failed)?;
    let mut rows = statement.query(()).map_err(failed)?;
    loop {
        let batch = gather.batch(&mut rows)?;
        cx.counters().bytes_read.add(gather.bytes as u64);
        let ended = batch.is_none();
        // The end is sent too: a channel that merely closes is a thread that died.
        if sender.send(Ok(batch)).is_err() || ended {
            return Ok(());
        }
    }
}

/// Makes batches of rows.
struct Gather {
    source: String,
    path: PathBuf,
    schema: SchemaRef,
    decoders: Vec<Box<dyn Decode>>,
    keyed: bool,
    cancel: CancelToken,
    max_rows: usize,
    max_bytes: usize,
    /// Bytes of a row without those of its text and blobs.
    row_bytes: usize,
    /// Bytes of the last batch.
    bytes: usize,
    last_rowid: Option<i64>,
    rows_before: u64,
}

impl Gather {
    fn new(cx: &RunContext, query: &Query, schema: SchemaRef) -> Result<Self> {
        // Offsets of text and blobs are 32 bits wide, and a single value may have 1 GB.
        let max_bytes = cx.batch_memory().clamp(1, 1 << 30);
        let max_rows = rows_at_a_time(cx.config().batch_size, query.options.fetch_size).max(1);
        // An offset or a bit counts as four bytes and one.
        let width = |field: &Arc<Field>| field.data_type().primitive_width().unwrap_or(4) + 1;
        let row_bytes = schema.fields().iter().map(width).sum();
        let expected = max_rows.min(max_bytes / (row_bytes + 1));
        let decoders = query.columns.iter().map(|column| {
            decoder(column.field.data_type(), column.lenient, expected).ok_or_else(|| {
                let message = format!("there is no way to read {}", column.field.data_type());
                Error::new(ErrorKind::Internal, message).at_column(column.field.name())
            })
        });
        Ok(Self {
            source: query.source.clone(),
            path: query.path.clone(),
            decoders: decoders.collect::<Result<_>>()?,
            schema,
            keyed: query.keyed,
            cancel: cx.cancel().clone(),
            max_rows,
            max_bytes,
            row_bytes,
            bytes: 0,
            last_rowid: None,
            rows_before: 0,
        })
    }

    /// The next rows, as many as a batch takes; `None` after the last.
    fn batch(&mut self, rows: &mut Rows<'_>) -> Result<Option<RecordBatch>> {
        let failed = |error| sqlite_error(&self.path, error).in_source(&self.source);
        self.cancel.check()?;
        let (mut count, mut bytes, mut widest) = (0, 0, 0);
        while count < self.max_rows && bytes + widest <= self.max_bytes {
            let Some(row) = rows.next().map_err(failed)? else { break };
            let before = bytes;
            bytes += self.row_bytes;
            for (index, decoder) in self.decoders.iter_mut().enumerate() {
                let value = row.get_ref(index + 1).map_err(failed)?;
                if let ValueRef::Text(data) | ValueRef::Blob(data) = value {
                    bytes += data.len();
                }
                if let Err(misfit) = decoder.push(value) {
                    let place = match row.get_ref(0) {
                        Ok(ValueRef::Integer(rowid)) if self.keyed => format!("rowid {rowid}"),
                        _ => format!("row {}", self.rows_before + count as u64 + 1),
                    };
                    return Err(self.misfit(index, &place, misfit.0));
                }
            }
            if self.keyed {
                self.last_rowid = row.get(0).map_err(failed).map(Some)?;
            }
            widest = widest.max(bytes - before);
            count += 1;
        }
        self.bytes = bytes;
        self.rows_before += count as u64;
        if count == 0 {
            return Ok(None);
        }
        let columns: Vec<_> = self.decoders.iter_mut().map(|decoder| decoder.finish()).collect();
        for (column, field) in columns.iter().zip(self.schema.fields()) {
            if !field.is_nullable() && column.null_count() > 0 {
                let message = "there is a null although the column is declared NOT NULL";
                return Err(Error::new(ErrorKind::InvalidData, message)
                    .in_source(&self.source)
                    .at_column(field.name()));
            }
        }
        let options = RecordBatchOptions::new().with_row_count(Some(count));
        Ok(Some(RecordBatch::try_new_with_options(self.schema.clone(), columns, &options)?))
    }

    fn misfit(&self, index: usize, place: &str, found: &str) -> Error {
        let field = self.schema.field(index);
        let wanted = type_name(field.data_type());
        // Text takes everything but bytes that are no text.
        let other = if found.contains("UTF-8") { "binary" } else { "text" };
        Error::new(ErrorKind::InvalidData, format!("{place} holds {found}, where {wanted} is expected"))
            .in_source(&self.source)
            .at_column(field.name())
            .hint(format!("the option types={}:{other} takes it as it is", field.name()))
    }
}
