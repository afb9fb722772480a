use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow_schema::{Field, Schema, SchemaRef};
use etlrs_core::{
    Error, ErrorKind, Interrupted, LoadCapabilities, LoadMode, LoadPlan, LoadPreview, LoadSession, Loader, Result,
    RunContext, RunId, async_trait, failpoint,
};
use etlrs_files::TargetLock;
use rusqlite::OpenFlags;

use super::catalog::{Column, Table};
use super::error::sqlite_error;
use super::ledger::{self, Left};
use super::saved_cursor;
use super::session::{SqliteSession, in_transaction, lock_part, remove_if_empty};
use super::target::{check_name, check_target, column_types, create_table, is_like, is_unique};
use super::types::arrow_type;
use super::{open, open_to_read};
use crate::SqliteTargetOptions;
use crate::key::with_key;

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
/// Modes: `create`; `append`, which matches columns by name; `merge`, by a unique index of the keys; `replace`, which keeps
/// the definition of the table: its rows are deleted and the new ones inserted, which triggers see, or a table of the very
/// same definition takes its place. Readers see the old rows or the new ones; while a partition is written into a database
/// without a write-ahead log, they may have to wait. Foreign keys are not enforced. The database keeps its `journal_mode`
/// and its `synchronous`.
#[derive(Clone, Debug)]
pub struct SqliteLoader {
    pub(super) path: PathBuf,
    pub(super) table: String,
    pub(super) options: SqliteTargetOptions,
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

    pub(super) fn source(&self) -> String {
        format!("{}#{}", self.path.display(), self.table)
    }

    /// The lock is beside the database itself, whichever link leads to it.
    fn place(&self) -> PathBuf {
        std::fs::canonicalize(&self.path).unwrap_or_else(|_| self.path.components().collect())
    }

    /// What is left of `run`, or of the newest run, in the database.
    fn left(&self, run: Option<RunId>) -> Result<Option<Left>> {
        if !self.path.exists() {
            return Ok(None);
        }
        let connection = open_to_read(&self.path, self.options.busy_timeout)?;
        // In one state of the database, for another run may be about to remove what this one is to find.
        let found = connection.unchecked_transaction().and_then(|state| Left::find(&state, &self.table, run));
        found.map_err(|error| sqlite_error(&self.path, error))
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
        let ddl = create_table(&self.table, &plan.schema, &plan.keys, strict)?;
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
        match &table {
            Some(table) => {
                for field in plan.schema.fields() {
                    let declared = table.column(field.name()).map(|column| column.declared.clone());
                    preview.column_types.push(declared.unwrap_or_default());
                }
            }
            None => {
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
            let same = is_like(&connection, &table, plan, self.options.strict)?;
            preview.notes.push(match same {
                true => format!("the table {} is replaced by one of the same definition", table.name),
                false => format!("the rows of {} are replaced within the table, which stays", table.name),
            });
        }
        Ok(Some(table))
    }
}

#[async_trait]
impl Loader for SqliteLoader {
    fn capabilities(&self) -> LoadCapabilities {
        LoadCapabilities::one_writer().modes(&LoadMode::ALL).resumable(true).keeps_cursors(true)
    }

    async fn target_schema(&self, _: &RunContext) -> Result<Option<SchemaRef>> {
        // A strict table says less of its columns than what is written into them.
        if self.options.strict || std::fs::metadata(&self.path).is_err() {
            return Ok(None);
        }
        let connection = open_to_read(&self.path, self.options.busy_timeout)?;
        let found = Table::find(&connection, &self.table).map_err(|error| sqlite_error(&self.path, error))?;
        let field = |column: &Column| Some(Field::new(&column.name, arrow_type(&column.declared)?, !column.not_null));
        Ok(found.map(|table| Arc::new(Schema::new(table.columns.iter().filter_map(field).collect::<Vec<_>>()))))
    }

    async fn check(&self, _: &RunContext, plan: &LoadPlan) -> Result<LoadPreview> {
        self.check_plan(&with_key(plan.clone(), self.options.primary_key))
    }

    fn identity(&self) -> String {
        format!("{:?}", self.options)
    }

    async fn cursor(&self, _: &RunContext, source: &str) -> Result<Option<String>> {
        if !self.path.exists() {
            return Ok(None);
        }
        let connection = open_to_read(&self.path, self.options.busy_timeout)?;
        let found = connection.unchecked_transaction();
        let found = found.and_then(|state| saved_cursor::saved(&state, &self.table, source));
        found.map_err(|error| sqlite_error(&self.path, error))
    }

    async fn interrupted(&self, _: &RunContext) -> Result<Option<Interrupted>> {
        Ok(self.left(None)?.map(Left::interrupted))
    }

    async fn forget(&self, cx: &RunContext, run: RunId) -> Result<Option<Interrupted>> {
        let path = self.place();
        if !path.exists() {
            return Ok(None);
        }
        let _lock = TargetLock::acquire(&path, &lock_part(&self.table), cx.run_id())?;
        let Some(left) = self.left(Some(run))? else { return Ok(None) };
        let connection = open(&path, OpenFlags::SQLITE_OPEN_READ_WRITE, self.options.busy_timeout)?;
        let failed = |error| sqlite_error(&path, error);
        failpoint("sqlite-forgetting");
        in_transaction(&connection, failed, || ledger::remove_left(&connection, &self.table, None, &failed))?;
        failpoint("sqlite-forgotten");
        if left.made_file {
            remove_if_empty(&path, &connection, cx.run_id())?;
        }
        Ok(Some(left.interrupted()))
    }

    async fn begin(&self, cx: &RunContext, plan: LoadPlan) -> Result<Box<dyn LoadSession>> {
        let plan = with_key(plan, self.options.primary_key);
        self.check_plan(&plan)?;
        let path = self.place();
        let lock = TargetLock::acquire(&path, &lock_part(&self.table), cx.run_id())?;
        failpoint("sqlite-locked");
        // It is a part of the run, so that it runs once.
        if !self.options.pre_sql.is_empty() && !plan.is_repair && self.left(Some(cx.run_id()))?.is_none() {
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
