//! Design note. Rows go into a staging table, `_etlrs_staging_TABLE_RUN`, one transaction for each partition, together
//! with a row in `_etlrs_ledger` that says which of its rowids are whose. The commit is one more transaction that makes
//! the staging table the target or copies its rows there, and notes that (`ledger.rs`).
//!
//! Two locks keep runs apart. The one of the table is held by the session: staging tables of that table which are not
//! its own are those of dead runs. The one of the whole file is held only while a file is created and given its first
//! table, or is found to be empty and removed, so that no run removes what another has just opened.
//!
//! Between partitions no transaction is open, so that the staging table can be read back through another connection.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use etlrs_core::{
    ColumnTypes, Error, ErrorKind, Extractor, LoadMode, LoadPlan, LoadSession, Partition, PartitionWriter, Published,
    Receipt, Refusals, Result, RunContext, RunId, Scan, ScanRequest, async_trait, failpoint, gone_on_elsewhere,
};
use etlrs_files::TargetLock;
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};

use super::catalog::{self, Table};
use super::error::{sqlite_error, words};
use super::ledger::{self, Left};
use super::load::SqliteLoader;
use super::target::{column_types, create_table, fits, is_like};
use super::types::{Fit, read_type};
use super::writer::SqliteWriter;
use super::{open, quote, set_cache};
use crate::hash::hash;
use crate::key::{of_target, with_hint_of_key};
use crate::options::Seconds;
use crate::{SqliteExtractor, SqliteSourceOptions, SqliteTargetOptions};

/// What the session and its writers share.
pub(super) struct Shared {
    pub(super) connection: Mutex<Connection>,
    pub(super) path: PathBuf,
    /// The database and the table, for errors.
    pub(super) source: String,
    pub(super) target: String,
    pub(super) staging: String,
    pub(super) run: RunId,
    pub(super) plan: LoadPlan,
    pub(super) strict: bool,
    /// By column of the plan.
    pub(super) fits: Vec<Fit>,
    pub(super) rowid: Option<&'static str>,
    pub(super) insert: String,
}

impl Shared {
    pub(super) fn connection(&self) -> MutexGuard<'_, Connection> {
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn failed(&self, error: rusqlite::Error) -> Error {
        sqlite_error(&self.path, error).in_source(&self.source)
    }

    /// The error of a row that is staged, for a table whose name the user does not know.
    pub(super) fn refused(&self, error: rusqlite::Error) -> Error {
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
pub(super) fn in_transaction<T>(
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

pub(super) struct SqliteSession {
    pub(super) shared: Arc<Shared>,
    /// The file was not there before.
    created: bool,
    /// What the run had staged before it was stopped.
    completed: Vec<Receipt>,
    options: SqliteTargetOptions,
    cleaned: bool,
    /// Rows that are moved in a transaction which is open.
    pub(super) moved: Option<u64>,
    /// Freed last, when nothing of this session is left.
    _lock: TargetLock,
}

impl SqliteSession {
    pub(super) fn open(
        cx: &RunContext,
        path: PathBuf,
        loader: &SqliteLoader,
        plan: LoadPlan,
        lock: TargetLock,
    ) -> Result<Self> {
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
        let target = Table::find(&connection, &loader.table).map_err(|error| sqlite_error(&path, error))?;
        // Rows that are moved into another table go in the order of the source.
        let is_moved = match &target {
            Some(target) => plan.mode == LoadMode::Append || !is_like(&connection, target, &plan, strict)?,
            None => false,
        };
        let plan = of_target(plan, is_moved);
        let keys = if plan.mode == LoadMode::Merge { &[][..] } else { &plan.keys };
        let create = create_table(&staging, &plan.schema, keys, strict)?;
        // A key that is one column of whole numbers is the rowid, which then does not tell partitions apart.
        let numbered = match keys {
            [key] => etlrs_core::column_index(&plan.schema, key).is_ok_and(|at| types[at] == "INTEGER"),
            _ => false,
        };
        let rowid = catalog::rowid_name(plan.schema.fields().iter().map(|field| field.name().as_str()));
        let form =
            format!("{} {create} {insert} {:?}", env!("CARGO_PKG_VERSION"), fits(target.as_ref(), &plan, strict));
        let form = format!("{:016x}", hash(&form));
        let mut session = Self {
            shared: Arc::new(Shared {
                connection: Mutex::new(connection),
                source: loader.source(),
                target: loader.table.clone(),
                staging,
                run,
                strict,
                fits: fits(target.as_ref(), &plan, strict),
                rowid: rowid.filter(|_| !numbered),
                plan,
                insert,
                path,
            }),
            created,
            completed: Vec::new(),
            options: loader.options.clone(),
            cleaned: false,
            moved: None,
            _lock: lock,
        };
        let left;
        {
            let shared = &session.shared;
            let failed = |error| shared.failed(error);
            let connection = shared.connection();
            // Renaming must leave views and other tables' foreign keys alone; dropping must not delete by them. A name
            // in quotes that is no column must not be taken for a string when an index is made again.
            connection
                .execute_batch("PRAGMA foreign_keys = OFF; PRAGMA legacy_alter_table = ON")
                .and_then(|()| connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DQS_DDL, false))
                .and_then(|_| set_cache(&connection, cx.writer_memory() / 2))
                .map_err(failed)?;
            let begun = in_transaction(&connection, failed, || {
                let left = Left::find(&connection, &shared.target, Some(run)).map_err(failed)?;
                let gone = |left: &Left| left.published && Some(&*left.record) == shared.plan.record.as_deref();
                if left.as_ref().map_or(shared.plan.goes_on, gone) {
                    return Err(gone_on_elsewhere(run).in_source(&shared.source));
                }
                let is_same = |left: &Left| Some(&*left.record) == shared.plan.record.as_deref() && left.form == form;
                let is_staged = Table::find(&connection, &shared.staging).map_err(failed)?.is_some();
                // Without a name for the rowid nothing tells the rows of a partition from those of others.
                let takes_all = |left: &Left| taken_over(left, &shared.plan).count() == left.receipts.len();
                let left =
                    left.filter(|left| is_staged && is_same(left) && (shared.rowid.is_some() || takes_all(left)));
                ledger::remove_left(&connection, &shared.target, left.as_ref().map(|left| left.run), &failed)?;
                if left.is_none() {
                    connection.execute_batch(&create).map_err(failed)?;
                    shared.add_run(&connection, &form, created).map_err(failed)?;
                }
                failpoint("sqlite-beginning");
                Ok(left)
            });
            // Before a failed session is dropped, which takes this lock to clean up.
            drop(file_lock);
            left = begun?;
        }
        if let Some(left) = left {
            session.created = left.made_file;
            session.completed = taken_over(&left, &session.shared.plan).cloned().collect();
        }
        Ok(session)
    }

    /// What is staged, or a query of that, with the types in which it is compared.
    pub(super) async fn read_staged(&self, cx: &RunContext, staged: SqliteExtractor) -> Result<Arc<dyn Scan>> {
        // A strict table has fewer types than there are in Arrow.
        let fields = self.shared.plan.schema.fields().iter().filter(|_| self.options.strict);
        let types = fields.filter_map(|field| Some((field.name().clone(), read_type(field.data_type())?)));
        let options = SqliteSourceOptions::default()
            .with_busy_timeout(self.options.busy_timeout)
            .with_types(ColumnTypes(types.collect()));
        staged.with_options(options).scan(cx, &ScanRequest::all()).await
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
            ledger::close(&connection, &shared.target, None).map_err(failed)
        })?;
        if self.created { remove_if_empty(&shared.path, &connection, shared.run) } else { Ok(()) }
    }

    /// Partitions that the run can go on behind.
    fn kept(&self) -> usize {
        let connection = self.shared.connection();
        if !connection.is_autocommit() {
            // A writer that was not finished.
            _ = connection.execute_batch("ROLLBACK");
        }
        let is_known = self.shared.plan.record.is_some();
        let staged = is_known.then(|| self.shared.staged(&connection).ok()).flatten();
        staged.map_or(0, |(partitions, _)| usize::try_from(partitions).unwrap_or(0))
    }

    /// Runs what the user wants run together with the rows.
    pub(super) fn post_sql(&self, connection: &Connection) -> Result<()> {
        // As a session of the user's has it: a table that is renamed has its new name in views and triggers too.
        let usual = connection.execute_batch("PRAGMA legacy_alter_table = OFF");
        let done = usual.and_then(|()| connection.execute_batch(&self.options.post_sql));
        let done = done.and_then(|()| connection.execute_batch("PRAGMA legacy_alter_table = ON"));
        done.map_err(|error| self.shared.failed(error).hint("that is the option post_sql"))?;
        if connection.is_autocommit() {
            let message = "the option post_sql ended the transaction, so the rows may be published or not";
            return Err(Error::new(ErrorKind::InvalidConfig, message)
                .hint("leave out COMMIT and ROLLBACK, and look at the table")
                .in_source(&self.shared.source));
        }
        Ok(())
    }
}

/// Removes the file of a database that a run made, unless something is in it.
pub(super) fn remove_if_empty(path: &Path, connection: &Connection, run: RunId) -> Result<()> {
    let file_lock = TargetLock::acquire(path, "", run);
    let things = connection.query_row("SELECT count(*) FROM sqlite_master", [], |row| row.get::<_, i64>(0));
    if file_lock.is_err() || things.map_err(|error| sqlite_error(path, error))? > 0 {
        return Ok(());
    }
    for suffix in ["", "-journal", "-wal", "-shm"] {
        let mut name = path.to_owned().into_os_string();
        name.push(suffix);
        match std::fs::remove_file(&name) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(Error::io("remove", name, error)),
        }
    }
    Ok(())
}

/// What is gone on with of what is `left`: the first partitions, without a gap. What is staged again comes behind the others, and the
/// order of the rows is that of the source, of which a merge takes the last of a key.
fn taken_over<'a>(left: &'a Left, plan: &'a LoadPlan) -> impl Iterator<Item = &'a Receipt> {
    let is_next = |(index, receipt): &(usize, &Receipt)| {
        receipt.partition.index() == *index && plan.takes_over(receipt.partition)
    };
    left.receipts.iter().enumerate().take_while(is_next).map(|(_, receipt)| receipt)
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

pub(super) fn staging_prefix(table: &str) -> String {
    format!("_etlrs_staging_{table}_")
}

/// The table in the name of its lock file: safe, short, and the same for all spellings of one name.
pub(super) fn lock_part(table: &str) -> String {
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

#[async_trait]
impl LoadSession for SqliteSession {
    fn completed(&self) -> &[Receipt] {
        &self.completed
    }

    fn min_memory(&self) -> usize {
        512 << 10
    }

    async fn writer(&self, _: &RunContext, partition: &Partition, _: u32) -> Result<Box<dyn PartitionWriter>> {
        Ok(Box::new(SqliteWriter::open(self.shared.clone(), partition.id)?))
    }

    async fn read_back(&mut self, cx: &RunContext, _: &[Receipt]) -> Result<Option<Arc<dyn Scan>>> {
        let staged = SqliteExtractor::new(&self.shared.path, &self.shared.staging);
        self.read_staged(cx, staged).await.map(Some)
    }

    async fn sift(&mut self, cx: &RunContext, receipts: &[Receipt], refused: &mut dyn Refusals) -> Result<()> {
        self.moved = SqliteSession::sift(self, cx, receipts, refused).await?;
        Ok(())
    }

    async fn commit(mut self: Box<Self>, receipts: Vec<Receipt>) -> Result<Published> {
        let published = self.publish(&receipts);
        failpoint("sqlite-committed");
        match &published {
            Ok(_) => self.cleaned = true,
            // The first error is the one that counts.
            Err(error) if !error.may_pass() => _ = self.clean(self.options.busy_timeout),
            Err(_) => {}
        }
        published
    }

    async fn abort(mut self: Box<Self>) -> Result<()> {
        let busy_timeout = self.options.busy_timeout;
        self.clean(busy_timeout)
    }

    async fn suspend(mut self: Box<Self>) -> Result<usize> {
        let kept = self.kept();
        if kept == 0 {
            let busy_timeout = self.options.busy_timeout;
            self.clean(busy_timeout)?;
        }
        // What a writer had not finished is rolled back when the connection is closed.
        self.cleaned = true;
        Ok(kept)
    }
}

impl Drop for SqliteSession {
    fn drop(&mut self) {
        if !self.cleaned && self.kept() == 0 {
            // As far as it can be done without waiting; the next run on this table removes the rest.
            _ = self.clean(Seconds(0));
        }
    }
}
