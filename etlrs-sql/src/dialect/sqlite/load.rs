//! Design note. Rows go into a staging table, `_etlrs_staging_TABLE_RUN`, one transaction for each partition, together
//! with a row in `_etlrs_ledger` that says which of its rowids are whose. The commit is one more transaction that makes
//! the staging table the target or copies it there, and takes the ledger's rows away.
//!
//! Two locks keep runs apart. The one of the table is held by the session: staging tables of that table which are not
//! its own are those of dead runs. The one of the whole file is held only while a file is created and given its first
//! table, or is found to be empty and removed, so that no run removes what another has just opened.
//!
//! Between partitions no transaction is open, so that the staging table can be read back through another connection.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use arrow_array::RecordBatch;
use arrow_schema::{DataType, SchemaRef};
use etlrs_core::{
    ColumnTypes, Error, ErrorKind, Extractor, LoadCapabilities, LoadMode, LoadPlan, LoadPreview, LoadSession, Loader,
    Partition, PartitionId, PartitionWriter, Published, Receipt, Result, RunContext, RunId, Scan, ScanRequest,
    async_trait, type_name,
};
use etlrs_files::TargetLock;
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};

use super::catalog::{self, Kind, Table};
use super::encode::{Column, Refused};
use super::error::{sqlite_error, words};
use super::types::{can_append, declared_type, read_type, strict_type};
use super::{open, open_to_read, quote, set_cache};
use crate::hash::hash;
use crate::key::{of_target, one_key, with_hint_of_key, with_key};
use crate::options::Seconds;
use crate::{SqliteExtractor, SqliteSourceOptions, SqliteTargetOptions};

const LEDGER: &str = "_etlrs_ledger";

/// A table of a SQLite database, which is created if need be.
///
/// | type | column |
/// |---|---|
/// | int8, int16, int32, int64 | `SINT8`, `SMALLINT`, `INT4`, `INTEGER` |
/// | uint8, uint16, uint32 | `UINT8`, `UINT16`, `UINT32`; uint64 is refused |
/// | float32, float64 | `FLOAT4`, `REAL`; NaN is refused, `-0.0` becomes `0.0` |
/// | boolean, text, binary | `BOOLEAN`, `TEXT`, `BLOB` |
/// | date, time, timestamp, timestamptz | `DATE`, `TIME`, `TIMESTAMP`, `TIMESTAMPTZ`: text that SQLite's functions read |
/// | decimal | `DECIMAL_TEXT(p,s)`: text, for SQLite has no exact decimals |
///
/// Seconds and milliseconds are widened to microseconds, and zones become UTC. Nanoseconds, durations, intervals and
/// nested types are refused before anything is written.
///
/// Modes: `create`; `append`, which matches columns by name; `merge`, by a unique index of the keys; `replace`, which keeps the indexes and triggers of the old
/// table and the views on it, but not its constraints. Readers see the old table or the new one; while a partition is
/// written into a database without a write-ahead log, they may have to wait. Foreign keys are not enforced. The
/// database keeps its `journal_mode` and its `synchronous`.
#[derive(Clone, Debug)]
pub struct SqliteLoader {
    path: PathBuf,
    table: String,
    options: SqliteTargetOptions,
}

impl SqliteLoader {
    /// Into the table `table`, whose name is not case-sensitive.
    pub fn new(path: impl Into<PathBuf>, table: impl Into<String>) -> Self {
        Self { path: path.into(), table: table.into(), options: SqliteTargetOptions::default() }
    }

    /// With options other than the defaults.
    #[must_use]
    pub fn with_options(mut self, options: SqliteTargetOptions) -> Self {
        self.options = options;
        self
    }

    fn source(&self) -> String {
        format!("{}#{}", self.path.display(), self.table)
    }

    fn check_plan(&self, plan: &LoadPlan) -> Result<LoadPreview> {
        self.capabilities().require(plan.mode, self.source())?;
        check_name(&self.table)?;
        let strict = self.options.strict;
        let types = column_types(&plan.schema, strict).map_err(|error| error.in_source(self.source()))?;
        if plan.mode == LoadMode::Merge && plan.keys.is_empty() {
            return Err(Error::new(ErrorKind::InvalidConfig, "mode merge needs the columns that are the key")
                .hint("name them with --key")
                .in_source(self.source()));
        }
        let ddl = create_table(&self.table, &plan.schema, &types, &plan.keys, strict)?;
        let mut preview = LoadPreview::default();
        let exists = match std::fs::metadata(&self.path) {
            Ok(_) => true,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => false,
            Err(error) => return Err(Error::io("look at", &self.path, error)),
        };
        let table = if exists {
            self.look(plan, &mut preview)?
        } else {
            let folder = self.path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
            std::fs::metadata(folder).map_err(|error| Error::io("write to directory", folder, error))?;
            preview.notes.push(format!("the database {} is created", self.path.display()));
            None
        };
        match (&table, plan.mode) {
            (Some(table), LoadMode::Append | LoadMode::Merge) => {
                for field in plan.schema.fields() {
                    let declared = table.column(field.name()).map(|column| column.declared.clone());
                    preview.column_types.push(declared.unwrap_or_default());
                }
            }
            _ => {
                preview.column_types = types;
                preview.ddl.push(ddl);
            }
        }
        Ok(preview)
    }

    /// The checks against a database that is there.
    fn look(&self, plan: &LoadPlan, preview: &mut LoadPreview) -> Result<Option<Table>> {
        let failed = |error| sqlite_error(&self.path, error);
        let connection = open_to_read(&self.path, self.options.busy_timeout)?;
        let table = Table::find(&connection, &self.table).map_err(failed)?;
        // Opened for writing but never read from, so that its closing does not move a write-ahead log.
        let writable = open(&self.path, OpenFlags::SQLITE_OPEN_READ_WRITE, self.options.busy_timeout)?;
        if writable.is_readonly(rusqlite::MAIN_DB).map_err(failed)? {
            let error = Error::new(ErrorKind::PermissionDenied, "the database cannot be written to");
            return Err(error.in_source(self.path.display()));
        }
        let Some(table) = table else {
            if plan.mode != LoadMode::Create {
                preview.notes.push(format!("the table {} does not exist and is created", self.table));
            }
            return Ok(None);
        };
        check_target(&table, plan, self.options.strict).map_err(|error| error.in_source(self.source()))?;
        if plan.mode == LoadMode::Merge && !is_unique(&connection, &table, &plan.keys)? {
            let keys = plan.keys.join(", ");
            return Err(Error::new(ErrorKind::InvalidConfig, "the target has no unique index of the keys")
                .hint(format!("create one on ({keys}), so that each key is there once"))
                .in_source(self.source()));
        }
        if plan.mode == LoadMode::Replace {
            let kept = kept_statements(&connection, &table.name).map_err(failed)?;
            let kept: Vec<_> = kept.iter().map(|kept| format!("{} {}", kept.kind, kept.name)).collect();
            let kept = if kept.is_empty() { String::new() } else { format!(", and keeps {}", kept.join(", ")) };
            preview.notes.push(format!("the table {} is replaced{kept}", table.name));
        }
        Ok(Some(table))
    }
}

#[async_trait]
impl Loader for SqliteLoader {
    fn capabilities(&self) -> LoadCapabilities {
        LoadCapabilities::one_writer().modes(&LoadMode::ALL)
    }

    async fn check(&self, _: &RunContext, plan: &LoadPlan) -> Result<LoadPreview> {
        self.check_plan(&with_key(plan.clone(), self.options.primary_key))
    }

    async fn begin(&self, cx: &RunContext, plan: LoadPlan) -> Result<Box<dyn LoadSession>> {
        let plan = with_key(plan, self.options.primary_key);
        self.check_plan(&plan)?;
        // The lock is beside the database itself, whichever link leads to it.
        let path = std::fs::canonicalize(&self.path).unwrap_or_else(|_| self.path.components().collect());
        let lock = TargetLock::acquire(&path, &lock_part(&self.table), cx.run_id())?;
        if !self.options.pre_sql.is_empty() {
            let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE;
            let connection = open(&path, flags, self.options.busy_timeout)?;
            let failed = |error| sqlite_error(&path, error).hint("that is the option pre_sql");
            in_transaction(&connection, failed, || connection.execute_batch(&self.options.pre_sql).map_err(failed))?;
        }
        // Another run may have published between the check and the lock.
        self.check_plan(&plan)?;
        Ok(Box::new(SqliteSession::open(cx, path, self, plan, lock)?))
    }
}

/// The target exists: may this plan write to it?
fn check_target(table: &Table, plan: &LoadPlan, strict: bool) -> Result<()> {
    let mismatch = |message: String| Error::new(ErrorKind::SchemaMismatch, message);
    match table.kind {
        Kind::Table => {}
        Kind::View => return Err(Error::new(ErrorKind::InvalidConfig, "the target is a view").hint("name a table")),
        Kind::Virtual => {
            return Err(Error::new(ErrorKind::InvalidConfig, "the target is a virtual table").hint("name another"));
        }
    }
    match plan.mode {
        LoadMode::Create => return Err(already_exists("the target exists")),
        LoadMode::Append | LoadMode::Merge => {}
        _ => return Ok(()),
    }
    for field in plan.schema.fields() {
        let Some(column) = table.column(field.name()).filter(|column| !column.generated) else {
            let names: Vec<_> = table.columns.iter().filter(|c| !c.generated).map(|c| c.name.as_str()).collect();
            return Err(mismatch("the target has no such column".into())
                .at_column(field.name())
                .hint(format!("it has {}", names.join(", "))));
        };
        // A strict table says less of its columns than what is written into them by such a load.
        let like_ours = strict && column.declared.eq_ignore_ascii_case(strict_type(field.data_type()));
        if !like_ours && !can_append(field.data_type(), &column.declared) {
            let (from, to) = (type_name(field.data_type()), &column.declared);
            return Err(mismatch(format!("{from} cannot be stored unchanged in a column declared {to}"))
                .at_column(field.name())
                .hint("cast the column to the type of the target's"));
        }
    }
    for column in &table.columns {
        let given = plan.schema.fields().iter().any(|field| field.name().eq_ignore_ascii_case(&column.name));
        // An INTEGER PRIMARY KEY is filled in by SQLite; others of a NOT NULL kind are not.
        let rowid = column.primary_key > 0 && column.declared.eq_ignore_ascii_case("INTEGER");
        let filled = column.has_default || column.generated || !column.not_null || rowid;
        if !given && !filled {
            return Err(mismatch(
                "the target's column is NOT NULL, has no default, and is not among the source's".into(),
            )
            .at_column(&column.name));
        }
    }
    Ok(())
}

fn already_exists(message: &'static str) -> Error {
    Error::new(ErrorKind::AlreadyExists, message).hint("use mode append or replace, or another name")
}

fn check_name(table: &str) -> Result<()> {
    let reserved = |prefix: &str| table.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix));
    let wrong = if table.is_empty() {
        "the name of the table is empty"
    } else if reserved("sqlite_") || reserved("_etlrs_") {
        "names that begin with sqlite_ or _etlrs_ are reserved"
    } else {
        return quote(table).map(drop);
    };
    Err(Error::new(ErrorKind::InvalidConfig, wrong).hint("give the table another name"))
}

/// The types of a table that is made, which may be a strict one.
fn column_types(schema: &SchemaRef, strict: bool) -> Result<Vec<String>> {
    const MOST: usize = 2000;
    let mismatch = |message: String| Error::new(ErrorKind::SchemaMismatch, message);
    let fields = schema.fields();
    if fields.is_empty() || fields.len() > MOST {
        return Err(mismatch(format!("a table has from 1 to {MOST} columns, not {}", fields.len())));
    }
    let mut types = Vec::with_capacity(fields.len());
    for (index, field) in fields.iter().enumerate() {
        if fields[..index].iter().any(|other| other.name().eq_ignore_ascii_case(field.name())) {
            return Err(mismatch("two columns have this name, whose case does not count".into())
                .at_column(field.name())
                .hint("rename one"));
        }
        let declared = declared_type(field.data_type())
            .map_err(|refusal| mismatch(refusal.reason).at_column(field.name()).hint(refusal.hint))?;
        types.push(if strict { strict_type(field.data_type()).to_owned() } else { declared });
    }
    Ok(types)
}

/// The statement that makes a table whose primary key are `keys`, if there are any.
fn create_table(name: &str, schema: &SchemaRef, types: &[String], keys: &[String], strict: bool) -> Result<String> {
    let mut columns = Vec::with_capacity(types.len() + 1);
    for (field, declared) in schema.fields().iter().zip(types) {
        let not_null = if field.is_nullable() && !keys.contains(field.name()) { "" } else { " NOT NULL" };
        columns.push(format!("{} {declared}{not_null}", quote(field.name())?));
    }
    if !keys.is_empty() {
        columns.push(format!("PRIMARY KEY ({})", name_list(keys)?));
    }
    let strict = if strict { " STRICT" } else { "" };
    Ok(format!("CREATE TABLE {} ({}){strict}", quote(name)?, columns.join(", ")))
}

/// Whether the database sees to it that `keys` are there once, which it tells when an upsert by them is compiled.
fn is_unique(connection: &Connection, table: &Table, keys: &[String]) -> Result<bool> {
    let (name, list) = (quote(&table.name)?, name_list(keys)?);
    let nulls = vec!["NULL"; keys.len()].join(", ");
    let upsert = format!("INSERT INTO {name} ({list}) SELECT {nulls} WHERE false ON CONFLICT ({list}) DO NOTHING");
    Ok(connection.prepare(&upsert).is_ok())
}

fn name_list(names: &[String]) -> Result<String> {
    Ok(names.iter().map(|name| quote(name)).collect::<Result<Vec<_>>>()?.join(", "))
}

/// The table in the name of its lock file: safe, short, and the same for all spellings of one name.
fn lock_part(table: &str) -> String {
    let mut part = String::new();
    let table = table.to_ascii_lowercase();
    for byte in table.bytes() {
        match byte {
            b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-' => part.push(char::from(byte)),
            byte => part.push_str(&format!("%{byte:02x}")),
        }
    }
    if part.len() > 80 {
        part.truncate(80);
        part.push_str(&format!("%%{:016x}", hash(&table)));
    }
    part.push('.');
    part
}

/// An index or a trigger, with the statement that makes it.
struct Kept {
    kind: String,
    name: String,
    sql: String,
}

/// Indexes and triggers of `table`, but for the indexes that constraints bring along.
fn kept_statements(connection: &Connection, table: &str) -> rusqlite::Result<Vec<Kept>> {
    let mut statement = connection.prepare(
        "SELECT type, name, sql FROM sqlite_master
         WHERE type IN ('index', 'trigger') AND tbl_name = ?1 COLLATE NOCASE AND sql IS NOT NULL ORDER BY rowid",
    )?;
    statement.query_map([table], |row| Ok(Kept { kind: row.get(0)?, name: row.get(1)?, sql: row.get(2)? }))?.collect()
}

/// What the session and its writers share.
struct Shared {
    connection: Mutex<Connection>,
    path: PathBuf,
    /// The database and the table, for errors.
    source: String,
    target: String,
    staging: String,
    run: RunId,
    plan: LoadPlan,
    rowid: Option<&'static str>,
    insert: String,
}

impl Shared {
    fn connection(&self) -> MutexGuard<'_, Connection> {
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn failed(&self, error: rusqlite::Error) -> Error {
        sqlite_error(&self.path, error).in_source(&self.source)
    }

    /// The error of a row that is staged, for a table whose name the user does not know.
    fn refused(&self, error: rusqlite::Error) -> Error {
        let said = words(&error).replace(&self.staging, &self.target);
        match error.sqlite_error_code() {
            Some(rusqlite::ErrorCode::ConstraintViolation) => {
                with_hint_of_key(Error::new(ErrorKind::InvalidData, said).in_source(&self.source), &self.plan)
            }
            _ => self.failed(error),
        }
    }
}

/// `body` in a transaction that is rolled back when it fails.
fn in_transaction<T>(
    connection: &Connection,
    failed: impl Fn(rusqlite::Error) -> Error,
    body: impl FnOnce() -> Result<T>,
) -> Result<T> {
    connection.execute_batch("BEGIN IMMEDIATE").map_err(&failed)?;
    let result = body().and_then(|value| connection.execute_batch("COMMIT").map(|()| value).map_err(&failed));
    if result.is_err() && !connection.is_autocommit() {
        // The first error is the one that counts; a rollback that fails happens when the connection is closed.
        _ = connection.execute_batch("ROLLBACK");
    }
    result
}

struct SqliteSession {
    shared: Arc<Shared>,
    /// The file was not there before.
    created: bool,
    options: SqliteTargetOptions,
    cleaned: bool,
    /// Freed last, when nothing of this session is left.
    _lock: TargetLock,
}

impl SqliteSession {
    fn open(cx: &RunContext, path: PathBuf, loader: &SqliteLoader, plan: LoadPlan, lock: TargetLock) -> Result<Self> {
        let run = cx.run_id();
        let strict = loader.options.strict;
        let types = column_types(&plan.schema, strict)?;
        let staging = format!("{}{run}", staging_prefix(&loader.table));
        let mut columns = Vec::with_capacity(types.len());
        for field in plan.schema.fields() {
            columns.push(quote(field.name())?);
        }
        let parameters: Vec<_> = (1..=columns.len()).map(|index| format!("?{index}")).collect();
        let insert =
            format!("INSERT INTO {} ({}) VALUES ({})", quote(&staging)?, columns.join(", "), parameters.join(", "));
        let busy_timeout = loader.options.busy_timeout;
        let file_lock = wait_for_file(&path, run, busy_timeout)?;
        let created = !path.exists();
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE;
        let connection = open(&path, flags, busy_timeout)?;
        let exists = Table::find(&connection, &loader.table).map_err(|error| sqlite_error(&path, error))?.is_some();
        // Rows that are moved into another table go in the order of the source.
        let is_moved = plan.mode == LoadMode::Append && exists;
        let plan = of_target(plan, is_moved);
        let keys = if plan.mode == LoadMode::Merge { &[][..] } else { &plan.keys };
        let create = create_table(&staging, &plan.schema, &types, keys, strict)?;
        // A key that is one column of whole numbers is the rowid, which then does not tell partitions apart.
        let numbered = match keys {
            [key] => etlrs_core::column_index(&plan.schema, key).is_ok_and(|at| types[at] == "INTEGER"),
            _ => false,
        };
        let rowid = catalog::rowid_name(plan.schema.fields().iter().map(|field| field.name().as_str()));
        let session = Self {
            shared: Arc::new(Shared {
                connection: Mutex::new(connection),
                source: loader.source(),
                target: loader.table.clone(),
                staging,
                run,
                rowid: rowid.filter(|_| !numbered),
                plan,
                insert,
                path,
            }),
            created,
            options: loader.options.clone(),
            cleaned: false,
            _lock: lock,
        };
        let shared = &session.shared;
        let failed = |error| shared.failed(error);
        {
            let connection = shared.connection();
            // Renaming must leave views and other tables' foreign keys alone; dropping must not delete by them. A name
            // in quotes that is no column must not be taken for a string when an index is made again.
            connection
                .execute_batch("PRAGMA foreign_keys = OFF; PRAGMA legacy_alter_table = ON")
                .and_then(|()| connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DQS_DDL, false))
                .and_then(|_| set_cache(&connection, cx.writer_memory() / 2))
                .map_err(failed)?;
            let begun = in_transaction(&connection, failed, || {
                shared.remove_stale(&connection)?;
                connection.execute_batch(&create).map_err(failed)
            });
            // Before a failed session is dropped, which takes this lock to clean up.
            drop(file_lock);
            begun?;
        }
        Ok(session)
    }

    /// Removes what was staged, and the file if the session made it and nothing else is in it.
    fn clean(&mut self, busy_timeout: Seconds) -> Result<()> {
        self.cleaned = true;
        let shared = &self.shared;
        let failed = |error| shared.failed(error);
        let connection = shared.connection();
        connection.busy_timeout(busy_timeout.duration()).map_err(failed)?;
        if !connection.is_autocommit() {
            // A writer that was not finished.
            connection.execute_batch("ROLLBACK").map_err(failed)?;
        }
        in_transaction(&connection, failed, || {
            let staging = quote(&shared.staging)?;
            connection.execute_batch(&format!("DROP TABLE IF EXISTS {staging}")).map_err(failed)?;
            shared.close_ledger(&connection).map_err(failed)
        })?;
        if self.created {
            let file_lock = TargetLock::acquire(&shared.path, "", shared.run);
            let things: i64 =
                connection.query_row("SELECT count(*) FROM sqlite_master", [], |row| row.get(0)).map_err(failed)?;
            if things == 0 && file_lock.is_ok() {
                for suffix in ["", "-journal", "-wal", "-shm"] {
                    let mut name = shared.path.clone().into_os_string();
                    name.push(suffix);
                    match std::fs::remove_file(&name) {
                        Ok(()) => {}
                        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                        Err(error) => return Err(Error::io("remove", name, error)),
                    }
                }
            }
        }
        Ok(())
    }

    /// Runs what the user wants run together with the rows.
    fn post_sql(&self, connection: &Connection) -> Result<()> {
        let done = connection.execute_batch(&self.options.post_sql);
        done.map_err(|error| self.shared.failed(error).hint("that is the option post_sql"))?;
        if connection.is_autocommit() {
            let message = "the option post_sql ended the transaction, so the rows may be published or not";
            return Err(Error::new(ErrorKind::InvalidConfig, message)
                .hint("leave out COMMIT and ROLLBACK, and look at the table")
                .in_source(&self.shared.source));
        }
        Ok(())
    }

    fn publish(&self, receipts: &[Receipt]) -> Result<Published> {
        let shared = &self.shared;
        let failed = |error| shared.failed(error);
        let connection = shared.connection();
        let staged = shared.staged(&connection).map_err(failed)?;
        let rows = receipts.iter().map(|receipt| receipt.rows).sum();
        let planned = shared.plan.partitions.iter().all(|p| receipts.iter().any(|receipt| receipt.partition == p.id));
        if !planned || staged != (receipts.len() as u64, rows) {
            return Err(Error::new(ErrorKind::Internal, "the receipts are not those of what is staged")
                .in_source(&shared.source));
        }
        in_transaction(&connection, failed, || {
            let count = format!("SELECT count(*) FROM {}", quote(&shared.staging)?);
            let counted: i64 = connection.query_row(&count, [], |row| row.get(0)).map_err(failed)?;
            if u64::try_from(counted) != Ok(rows) {
                let message = format!("{counted} rows are staged where {rows} were written");
                return Err(Error::new(ErrorKind::VerifyFailed, message).in_source(&shared.source));
            }
            let old = Table::find(&connection, &shared.target).map_err(failed)?;
            let rename = format!("ALTER TABLE {} RENAME TO {}", quote(&shared.staging)?, quote(&shared.target)?);
            match old {
                None if shared.plan.mode == LoadMode::Merge => {
                    let types = column_types(&shared.plan.schema, self.options.strict)?;
                    let create = create_table(
                        &shared.target,
                        &shared.plan.schema,
                        &types,
                        &shared.plan.keys,
                        self.options.strict,
                    )?;
                    connection.execute_batch(&create).map_err(failed)?;
                    shared.merge(&connection, &shared.target, &shared.plan.keys)?;
                }
                None => connection.execute_batch(&rename).map_err(failed)?,
                Some(_) if shared.plan.mode == LoadMode::Create => {
                    return Err(
                        already_exists("the target appeared while the run was going on").in_source(&shared.source)
                    );
                }
                Some(old) => {
                    // It may have changed since the load was planned.
                    check_target(&old, &shared.plan, self.options.strict)
                        .map_err(|error| error.in_source(&shared.source))?;
                    match shared.plan.mode {
                        LoadMode::Append => shared.append(&connection, &old, rows)?,
                        LoadMode::Merge => shared.merge(&connection, &old.name, &shared.plan.keys)?,
                        _ => shared.replace(&connection, &old, &rename)?,
                    }
                }
            }
            self.post_sql(&connection)?;
            shared.close_ledger(&connection).map_err(failed)
        })?;
        Ok(Published::new(rows, receipts.iter().map(|receipt| receipt.bytes).sum()))
    }
}

/// The lock of the whole file. It is held by others for moments only.
fn wait_for_file(path: &Path, run: RunId, busy_timeout: Seconds) -> Result<TargetLock> {
    let end = Instant::now() + busy_timeout.duration();
    loop {
        match TargetLock::acquire(path, "", run) {
            Err(error) if error.kind() == ErrorKind::Locked && Instant::now() < end => {
                std::thread::sleep(Duration::from_millis(10));
            }
            result => return result,
        }
    }
}

fn staging_prefix(table: &str) -> String {
    format!("_etlrs_staging_{table}_")
}

impl Shared {
    /// Drops the staging tables of dead runs: the table's lock is held, so nobody else is at work on it.
    fn remove_stale(&self, connection: &Connection) -> Result<()> {
        let failed = |error| self.failed(error);
        let prefix = staging_prefix(&self.target);
        let tables: Vec<String> = connection
            .prepare("SELECT name FROM sqlite_master WHERE type = 'table' AND substr(name, 1, length(?1)) = ?1 COLLATE NOCASE")
            .and_then(|mut statement| statement.query_map([&prefix], |row| row.get(0))?.collect())
            .map_err(failed)?;
        for table in tables {
            // `a` must not take the staging of `a_b` for its own: what follows is just a run's id.
            let run = table.get(prefix.len()..).unwrap_or_default();
            if run.len() == 26 && run.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit()) {
                connection.execute_batch(&format!("DROP TABLE {}", quote(&table)?)).map_err(failed)?;
            }
        }
        self.close_ledger(connection).map_err(failed)
    }

    fn open_ledger(&self, connection: &Connection) -> rusqlite::Result<()> {
        connection.execute_batch(&format!(
            "CREATE TABLE IF NOT EXISTS {LEDGER} (run TEXT, target TEXT COLLATE NOCASE, partition INTEGER, rows INTEGER,
             checksum TEXT, first_rowid INTEGER, last_rowid INTEGER, finished_at TEXT,
             PRIMARY KEY (run, target, partition)) WITHOUT ROWID"
        ))
    }

    /// Takes the target's rows out of the ledger, and the ledger with its last row.
    fn close_ledger(&self, connection: &Connection) -> rusqlite::Result<()> {
        if Table::find(connection, LEDGER)?.is_none() {
            return Ok(());
        }
        connection.execute(&format!("DELETE FROM {LEDGER} WHERE target = ?1"), [&self.target])?;
        let rows: i64 = connection.query_row(&format!("SELECT count(*) FROM {LEDGER}"), [], |row| row.get(0))?;
        if rows == 0 {
            connection.execute_batch(&format!("DROP TABLE {LEDGER}"))?;
        }
        Ok(())
    }

    /// Partitions and rows in the ledger.
    fn staged(&self, connection: &Connection) -> rusqlite::Result<(u64, u64)> {
        if Table::find(connection, LEDGER)?.is_none() {
            return Ok((0, 0));
        }
        let sql = format!("SELECT count(*), ifnull(sum(rows), 0) FROM {LEDGER} WHERE run = ?1 AND target = ?2");
        let count = |row: &rusqlite::Row<'_>, index| row.get::<_, i64>(index).map(i64::unsigned_abs);
        connection.query_row(&sql, (self.run.to_string(), &self.target), |row| Ok((count(row, 0)?, count(row, 1)?)))
    }

    /// Removes what a finished attempt at `partition` left, and its row in the ledger.
    fn forget(&self, connection: &Connection, partition: PartitionId) -> Result<()> {
        let failed = |error| self.failed(error);
        let key = (self.run.to_string(), &self.target, partition.0);
        let removed: Vec<(i64, i64)> = connection
            .prepare(&format!(
                "DELETE FROM {LEDGER} WHERE run = ?1 AND target = ?2 AND partition = ?3 RETURNING first_rowid, last_rowid"
            ))
            .and_then(|mut statement| statement.query_map(key, |row| Ok((row.get(0)?, row.get(1)?)))?.collect())
            .map_err(failed)?;
        for (first, last) in removed {
            let Some(rowid) = self.rowid else {
                return Err(Error::new(ErrorKind::Unsupported, "a finished partition cannot be staged again")
                    .hint("run again")
                    .in_source(&self.source));
            };
            let sql = format!("DELETE FROM {} WHERE {rowid} BETWEEN ?1 AND ?2", quote(&self.staging)?);
            connection.execute(&sql, (first, last)).map_err(failed)?;
        }
        Ok(())
    }

    /// Of rows with one key the last one counts, for each is a row of its own to an upsert.
    fn merge(&self, connection: &Connection, target: &str, keys: &[String]) -> Result<()> {
        let failed = |error| self.failed(error);
        let names: Vec<_> = self.plan.schema.fields().iter().map(|field| field.name().clone()).collect();
        let (columns, key_list) = (name_list(&names)?, name_list(keys)?);
        let collations = catalog::key_collations(connection, target, keys).map_err(failed)?;
        let (target, staging) = (quote(target)?, quote(&self.staging)?);
        for key in keys {
            let sql = format!("SELECT EXISTS (SELECT 1 FROM {staging} WHERE {} IS NULL)", quote(key)?);
            if connection.query_row(&sql, [], |row| row.get(0)).map_err(failed)? {
                return Err(Error::new(ErrorKind::InvalidData, "there is a null in a column of the key")
                    .hint("filter such rows out")
                    .at_column(key)
                    .in_source(&self.source));
            }
        }
        // Two texts may be one key. The row becomes that of the source, with its spelling.
        let folds = |collation: &Option<String>| collation.as_deref().is_some_and(|name| name != "BINARY");
        if collations.iter().any(folds) {
            let (mut groups, mut differ) = (Vec::new(), Vec::new());
            for (key, collation) in keys.iter().zip(&collations) {
                let (key, collation) = (quote(key)?, quote(collation.as_deref().unwrap_or("BINARY"))?);
                groups.push(format!("{key} COLLATE {collation}"));
                differ.push(format!("min({key} COLLATE BINARY) IS NOT max({key} COLLATE BINARY)"));
            }
            let (groups, differ) = (groups.join(", "), differ.join(" OR "));
            let sql = format!("SELECT EXISTS (SELECT 1 FROM {staging} GROUP BY {groups} HAVING {differ})");
            if connection.query_row(&sql, [], |row| row.get(0)).map_err(failed)? {
                return Err(one_key(keys).in_source(&self.source));
            }
        }
        let spelled = |name: &String| keys.iter().zip(&collations).any(|(key, found)| key == name && folds(found));
        let others = names.iter().filter(|name| !keys.contains(name) || spelled(name));
        let sets = others.map(|name| Ok(format!("{0} = excluded.{0}", quote(name)?))).collect::<Result<Vec<_>>>()?;
        let action = if sets.is_empty() { "NOTHING".to_owned() } else { format!("UPDATE SET {}", sets.join(", ")) };
        let order = self.rowid.map_or_else(String::new, |rowid| format!(" ORDER BY {rowid}"));
        // WHERE, for without it ON would be taken for the condition of a join.
        let sql = format!(
            "INSERT OR ABORT INTO {target} ({columns}) SELECT {columns} FROM {staging} WHERE true{order}
             ON CONFLICT ({key_list}) DO {action}; DROP TABLE {staging}"
        );
        connection.execute_batch(&sql).map_err(failed)
    }

    fn append(&self, connection: &Connection, target: &Table, rows: u64) -> Result<()> {
        let names: Vec<_> = self.plan.schema.fields().iter().map(|field| field.name().clone()).collect();
        let columns = name_list(&names)?;
        // Without a name for it the rowid still is the order in which SQLite reads a table without an index.
        let order = self.rowid.map_or_else(String::new, |rowid| format!(" ORDER BY {rowid}"));
        let (target, staging) = (quote(&target.name)?, quote(&self.staging)?);
        // OR ABORT wins over conflict clauses of the table, which may leave out rows or replace old ones. A trigger may
        // still leave out rows, so they are counted.
        let sql = format!("INSERT OR ABORT INTO {target} ({columns}) SELECT {columns} FROM {staging}{order}");
        let inserted = connection.execute(&sql, []).map_err(|error| self.failed(error))?;
        if u64::try_from(inserted) != Ok(rows) {
            return Err(Error::new(
                ErrorKind::VerifyFailed,
                format!("the table took {inserted} of {rows} rows; a trigger may have refused the others"),
            )
            .in_source(&self.source));
        }
        connection.execute_batch(&format!("DROP TABLE {staging}")).map_err(|error| self.failed(error))
    }

    fn replace(&self, connection: &Connection, old: &Table, rename: &str) -> Result<()> {
        let failed = |error| self.failed(error);
        let kept = kept_statements(connection, &old.name).map_err(failed)?;
        // A trigger that never worked is no reason to fail.
        let worked = prepares(connection, old).is_ok();
        connection.execute_batch(&format!("DROP TABLE {}; {rename}", quote(&old.name)?)).map_err(failed)?;
        for Kept { kind, name, sql } in kept {
            let made = connection.execute_batch(&sql).and_then(|()| {
                // A trigger's body is looked at only when a statement that fires it is compiled.
                match Table::find(connection, &self.target)? {
                    Some(new) if worked && kind == "trigger" => prepares(connection, &new),
                    _ => Ok(()),
                }
            });
            if let Err(error) = made {
                let message = format!("the {kind} {name:?} of the old table cannot be made again: {}", words(&error));
                return Err(Error::new(ErrorKind::SchemaMismatch, message)
                    .hint(format!("drop the {kind} first, or keep the columns that it names"))
                    .in_source(&self.source)
                    .caused_by(error));
            }
        }
        Ok(())
    }
}

/// Whether statements that change `table` can be compiled, the triggers that they fire included.
fn prepares(connection: &Connection, table: &Table) -> rusqlite::Result<()> {
    let quoted = |name: &str| quote(name).unwrap_or_default();
    let name = quoted(&table.name);
    let columns = table.columns.iter().filter(|column| !column.generated);
    let set: Vec<_> = columns.map(|column| format!("{0} = {0}", quoted(&column.name))).collect();
    connection.prepare(&format!("INSERT INTO {name} DEFAULT VALUES"))?;
    connection.prepare(&format!("DELETE FROM {name}"))?;
    connection.prepare(&format!("UPDATE {name} SET {}", set.join(", ")))?;
    Ok(())
}

#[async_trait]
impl LoadSession for SqliteSession {
    fn min_memory(&self) -> usize {
        512 << 10
    }

    async fn writer(&self, _: &RunContext, partition: &Partition, _: u32) -> Result<Box<dyn PartitionWriter>> {
        Ok(Box::new(SqliteWriter::open(self.shared.clone(), partition.id)?))
    }

    async fn read_back(&mut self, cx: &RunContext, _: &[Receipt]) -> Result<Option<Arc<dyn Scan>>> {
        // A strict table has fewer types than there are in Arrow.
        let fields = self.shared.plan.schema.fields().iter().filter(|_| self.options.strict);
        let types = fields.filter_map(|field| Some((field.name().clone(), read_type(field.data_type())?)));
        let options = SqliteSourceOptions::default()
            .with_busy_timeout(self.options.busy_timeout)
            .with_types(ColumnTypes(types.collect()));
        let staged = SqliteExtractor::new(&self.shared.path, &self.shared.staging).with_options(options);
        staged.scan(cx, &ScanRequest::all()).await.map(Some)
    }

    async fn commit(mut self: Box<Self>, receipts: Vec<Receipt>) -> Result<Published> {
        let published = self.publish(&receipts)?;
        self.cleaned = true;
        Ok(published)
    }

    async fn abort(mut self: Box<Self>) -> Result<()> {
        let busy_timeout = self.options.busy_timeout;
        self.clean(busy_timeout)
    }
}

impl Drop for SqliteSession {
    fn drop(&mut self) {
        if !self.cleaned {
            // As far as it can be done without waiting; the next run on this table removes the rest.
            _ = self.clean(Seconds(0));
        }
    }
}

struct SqliteWriter {
    shared: Arc<Shared>,
    partition: PartitionId,
    rows: u64,
    first_rowid: i64,
    pages: i64,
    open: bool,
}

impl SqliteWriter {
    fn open(shared: Arc<Shared>, partition: PartitionId) -> Result<Self> {
        let connection = shared.connection();
        let failed = |error| shared.failed(error);
        if !connection.is_autocommit() {
            return Err(Error::new(ErrorKind::Internal, "a writer is opened before the one before it is done")
                .in_source(&shared.source));
        }
        connection.execute_batch("BEGIN IMMEDIATE").map_err(failed)?;
        let begun = (|| {
            shared.open_ledger(&connection).map_err(failed)?;
            shared.forget(&connection, partition)?;
            let rowid = shared.rowid.unwrap_or("0");
            let sql = format!("SELECT ifnull(max({rowid}), 0) + 1 FROM {}", quote(&shared.staging)?);
            let first_rowid = connection.query_row(&sql, [], |row| row.get(0)).map_err(failed)?;
            Ok((first_rowid, pages(&connection).map_err(failed)?))
        })();
        match begun {
            Ok((first_rowid, pages)) => {
                drop(connection);
                Ok(Self { shared, partition, rows: 0, first_rowid, pages, open: true })
            }
            Err(error) => {
                _ = connection.execute_batch("ROLLBACK");
                Err(error)
            }
        }
    }

    fn insert(&mut self, batch: &RecordBatch) -> Result<()> {
        let shared = &self.shared;
        let types =
            |schema: &SchemaRef| schema.fields().iter().map(|f| f.data_type().clone()).collect::<Vec<DataType>>();
        let columns: Option<Vec<_>> = batch.columns().iter().map(|column| Column::new(column.as_ref())).collect();
        let planned = batch.schema_ref() == &shared.plan.schema || types(&batch.schema()) == types(&shared.plan.schema);
        let Some(columns) = columns.filter(|_| planned) else {
            return Err(Error::new(ErrorKind::Internal, "a batch has another schema than was planned")
                .in_source(&shared.source));
        };
        let connection = shared.connection();
        let failed = |error| shared.failed(error);
        let mut statement = connection.prepare_cached(&shared.insert).map_err(failed)?;
        let mut scratch = String::with_capacity(96);
        for row in 0..batch.num_rows() {
            for (index, column) in columns.iter().enumerate() {
                column.bind(&mut statement, index + 1, row, &mut scratch).map_err(|refused| {
                    let row = self.rows + row as u64 + 1;
                    let (reason, hint) = match refused {
                        Refused::NaN => {
                            ("NaN, of which SQLite would make a null", "replace it, or filter such rows out")
                        }
                        Refused::Timestamp => {
                            ("a timestamp beyond what 64 bits of microseconds count", "replace it, or cast it to text")
                        }
                        Refused::Time => ("a time that is not within a day", "replace it, or cast it to int64"),
                        Refused::Type => ("a value of another type than was planned", "please report this"),
                        Refused::Sqlite(error) => return failed(error),
                    };
                    Error::new(
                        ErrorKind::InvalidData,
                        format!("row {row} of partition {} holds {reason}", self.partition),
                    )
                    .hint(hint)
                    .in_source(&shared.source)
                    .at_column(shared.plan.schema.field(index).name())
                })?;
            }
            statement.raw_execute().map_err(|error| shared.refused(error))?;
        }
        self.rows += batch.num_rows() as u64;
        Ok(())
    }

    fn close(&mut self) -> Result<Receipt> {
        let shared = &self.shared;
        let connection = shared.connection();
        let failed = |error| shared.failed(error);
        let rows = i64::try_from(self.rows).unwrap_or(i64::MAX);
        connection
            .execute(
                &format!(
                    "INSERT INTO {LEDGER} VALUES (?1, ?2, ?3, ?4, NULL, ?5, ?6, strftime('%Y-%m-%d %H:%M:%f', 'now'))"
                ),
                (
                    shared.run.to_string(),
                    &shared.target,
                    self.partition.0,
                    rows,
                    self.first_rowid,
                    self.first_rowid.saturating_add(rows) - 1,
                ),
            )
            .map_err(failed)?;
        let page_size: i64 = connection.query_row("PRAGMA page_size", [], |row| row.get(0)).map_err(failed)?;
        let bytes = (pages(&connection).map_err(failed)? - self.pages).saturating_mul(page_size);
        connection.execute_batch("COMMIT").map_err(failed)?;
        self.open = false;
        Ok(Receipt::new(self.partition, self.rows, u64::try_from(bytes).unwrap_or(0)))
    }
}

/// Pages in use, those of the transaction included.
fn pages(connection: &Connection) -> rusqlite::Result<i64> {
    let count = |pragma| connection.query_row(pragma, [], |row| row.get::<_, i64>(0));
    Ok(count("PRAGMA page_count")? - count("PRAGMA freelist_count")?)
}

#[async_trait]
impl PartitionWriter for SqliteWriter {
    async fn write(&mut self, batch: RecordBatch) -> Result<()> {
        self.insert(&batch)
    }

    async fn finish(mut self: Box<Self>) -> Result<Receipt> {
        self.close()
    }
}

impl Drop for SqliteWriter {
    fn drop(&mut self) {
        let connection = self.shared.connection();
        if self.open && !connection.is_autocommit() {
            // What cannot be rolled back now is rolled back when the connection is closed.
            _ = connection.execute_batch("ROLLBACK");
        }
    }
}
