//! Design note. Rows go into a staging table, `_etlrs_staging_…`, beside the target, by several connections at a time. Each
//! partition is one transaction, together with a row in a ledger, `_etlrs_ledger_…`, that says how many rows it has and
//! which transaction wrote them: so rows of a partition can be taken out again, though all partitions share one table. The
//! commit is one more transaction (`publish.rs`) that makes the staging table the target, or moves its rows there, and
//! notes that in the ledger (`ledger.rs`), which goes when it was told.
//!
//! One table for all partitions, and not one for each, because a table of the target's name is then one rename away; and a
//! ledger for each run, because one for all would be what concurrent runs wait for.
//!
//! The session's own connection holds an advisory lock on the target, which dies with it. Whoever has the lock may remove
//! what other runs staged for that target.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use arrow_schema::{Schema, SchemaRef};
use etlrs_core::{
    Error, ErrorKind, Interrupted, LoadCapabilities, LoadMode, LoadPlan, LoadPreview, LoadSession, Loader, Receipt,
    Result, RunContext, RunId, async_trait, failpoint, gone_on_elsewhere,
};

use super::catalog::Relation;
use super::error::postgres_error;
use super::extract::read_mark;
use super::ledger::{Left, Names, drop_patiently, is_there, remove_stale};
use super::name::{literal, quote};
use super::saved_cursor;
use super::server::{PostgresPool, execute, rows, text};
use super::session::{PostgresSession, Shared};
use super::target::{self, Publishing, Target};
use super::types::{Reading, Writing};
use super::wire::{Answer, Connection};
use crate::PostgresTargetOptions;
use crate::hash::hash;
use crate::key::{of_target, with_key};
use crate::network::{Connect, held_by};
use crate::patience::{Patience, STEP};
use crate::table::{TableName, same_table};
use crate::types::guide;

/// How long to wait for the lock of a run that has just ended, and whose last statement the server has still to give up.
const PATIENCE: Duration = Duration::from_secs(2);

/// A table of a PostgreSQL database, which is created if need be.
///
/// Modes: `create`; `append` and `replace`, which match columns by name and refuse a column that cannot hold the data;
/// `merge`, by a unique index of the keys. A table that is replaced keeps its definition: columns, defaults, indexes,
/// constraints, privileges, and the views on it. Readers see the old rows until the commit and the new ones after it.
/// `docs/type-mapping.md` tells how types map.
///
/// The user needs the privilege to create tables in the schema of the target, where rows are staged.
#[derive(Clone, Debug)]
pub struct PostgresLoader {
    pool: PostgresPool,
    table: TableName,
    options: PostgresTargetOptions,
}

impl PostgresLoader {
    /// Into the table `name`: `orders`, `sales.orders`. The case of letters counts.
    ///
    /// # Errors
    /// `InvalidConfig` for what is no name.
    pub fn new(pool: PostgresPool, name: &str) -> Result<Self> {
        let table = TableName::parse(name)?;
        table.quoted()?;
        if table.name.starts_with("_etlrs_") {
            return Err(Error::new(ErrorKind::InvalidConfig, "names that begin with _etlrs_ are reserved")
                .hint("give the table another name"));
        }
        Ok(Self { pool, table, options: PostgresTargetOptions::default() })
    }

    /// With options other than the defaults.
    #[must_use]
    pub fn with_options(mut self, options: PostgresTargetOptions) -> Self {
        self.options = options;
        self
    }

    fn source(&self) -> String {
        format!("{}#{}", self.pool.shown(), self.table)
    }

    /// A connection on which to look at the target, for as long as others may lock it.
    async fn patient_connection(&self) -> Result<Connection> {
        let mut connection = self.pool.take().await?;
        let sql = format!("SET lock_timeout = {}", self.options.lock_timeout.milliseconds());
        execute(&mut connection, &sql).await.map_err(|error| postgres_error(&self.source(), error))?;
        Ok(connection)
    }

    async fn give_back(&self, mut connection: Connection) -> Result<()> {
        let reset = execute(&mut connection, "SET lock_timeout = 0").await;
        reset.map_err(|error| postgres_error(&self.source(), error))?;
        self.pool.give_back(connection);
        Ok(())
    }

    async fn look(&self, connection: &mut Connection, name: &TableName, plan: &LoadPlan) -> Result<Target> {
        self.capabilities().require(plan.mode, self.source())?;
        if plan.mode == LoadMode::Merge && plan.keys.is_empty() {
            return Err(Error::new(ErrorKind::InvalidConfig, "mode merge needs the columns that are the key")
                .hint("name them with --key")
                .in_source(self.source()));
        }
        let source = self.source();
        let failed = |error| postgres_error(&source, error);
        Target::look(connection, name, plan, &failed).await.map_err(|error| error.in_source(&source))
    }

    /// Refuses a table whose rows are what is to be written, by whatever name.
    async fn refuse_source(&self, connection: &mut Connection, cx: &RunContext, target: &Target) -> Result<()> {
        let Some(relation) = &target.relation else { return Ok(()) };
        let sql = format!("SELECT pg_try_advisory_xact_lock({})::text", read_mark(cx.run_id(), relation.oid));
        let end = Instant::now() + PATIENCE;
        loop {
            let free = text(connection, &sql, &[]).await.map_err(|error| postgres_error(&self.source(), error))?;
            if free.as_deref() == Some("true") {
                return Ok(());
            }
            // A transaction that has read it may be about to end, as that of a quarantine of which the rest is written back.
            if Instant::now() > end {
                return Err(same_table().in_source(self.source()));
            }
            tokio::time::sleep(PATIENCE / 20).await;
        }
    }

    /// The schema in which the target is or will be, and where its rows are staged.
    async fn schema(&self, connection: &mut Connection) -> Result<String> {
        let source = self.source();
        let wrong = |kind, message: String| Error::new(kind, message).in_source(&source);
        let sql = "SELECT s.name, has_schema_privilege(n.oid, 'CREATE')
            FROM (SELECT coalesce(
                (SELECT n.nspname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = to_regclass($1)),
                nullif($2, ''), current_schema())::text AS name) AS s LEFT JOIN pg_namespace n ON n.nspname = s.name";
        let named = self.table.schema.as_deref().unwrap_or_default();
        let found = rows(connection, sql, &[&self.table.quoted()?, named]).await;
        let found = found.map_err(|error| postgres_error(&source, error))?;
        let unclear = |error| postgres_error(&source, error);
        let (schema, may_create): (Option<String>, Option<bool>) = match found.first() {
            Some(row) => (row.get(0).map_err(unclear)?, row.get(1).map_err(unclear)?),
            None => (None, None),
        };
        let Some(schema) = schema else {
            return Err(
                wrong(ErrorKind::NotFound, "there is no schema in the search path".into()).hint("write SCHEMA.TABLE")
            );
        };
        match may_create {
            Some(true) => Ok(schema),
            Some(false) => {
                let message = format!("the user may not create tables in the schema {schema}, where rows are staged");
                let hint = format!("let its owner GRANT CREATE ON SCHEMA {}", quote(&schema)?);
                Err(wrong(ErrorKind::PermissionDenied, message).hint(hint))
            }
            None => Err(wrong(ErrorKind::NotFound, format!("there is no schema {schema}")).hint("create it first")),
        }
    }
}

/// The statement that makes a table for the plan.
pub(super) fn create_table(
    name: &str,
    kind: &str,
    plan: &LoadPlan,
    writings: &[Writing],
    staged: bool,
) -> Result<String> {
    let mut columns = Vec::with_capacity(writings.len() + 1);
    for (field, writing) in plan.schema.fields().iter().zip(writings) {
        // A key that is null is found when it is moved, where it can be set aside.
        let is_key = plan.keys.contains(field.name()) && !(staged && plan.sifts);
        let not_null = if field.is_nullable() && !is_key { "" } else { " NOT NULL" };
        let declared = if staged { &writing.staged } else { &writing.declared };
        columns.push(format!("{} {declared}{not_null}", quote(field.name())?));
    }
    if !staged && !plan.keys.is_empty() {
        columns.push(format!("PRIMARY KEY ({})", key_list(plan)?));
    }
    Ok(format!("CREATE {kind} {name} ({})", columns.join(", ")))
}

/// The keys, as SQL lists them.
pub(super) fn key_list(plan: &LoadPlan) -> Result<String> {
    Ok(plan.keys.iter().map(|key| quote(key)).collect::<Result<Vec<_>>>()?.join(", "))
}

#[async_trait]
impl Loader for PostgresLoader {
    fn capabilities(&self) -> LoadCapabilities {
        LoadCapabilities::one_writer().max_writers(usize::MAX).modes(&LoadMode::ALL).resumable(true).keeps_cursors(true)
    }

    async fn target_schema(&self, _: &RunContext) -> Result<Option<SchemaRef>> {
        let mut connection = self.patient_connection().await?;
        let found = Relation::find(&mut connection, &self.table).await;
        let found = found.map_err(|error| postgres_error(&self.source(), error))?;
        self.give_back(connection).await?;
        let Some(relation) = found else { return Ok(None) };
        let mut fields = Vec::with_capacity(relation.columns.len());
        // Read as text, for want of digits of its own, a numeric is written from any number.
        for column in relation.columns.iter().filter(|column| !column.is_any_number()) {
            let field = Reading::new(column, None)?.field;
            fields.push(guide(&field));
        }
        Ok(Some(Arc::new(Schema::new(fields))))
    }

    async fn check(&self, cx: &RunContext, plan: &LoadPlan) -> Result<LoadPreview> {
        let plan = &with_key(plan.clone(), self.options.primary_key);
        let mut connection = self.patient_connection().await?;
        self.schema(&mut connection).await?;
        let target = self.look(&mut connection, &self.table, plan).await?;
        self.refuse_source(&mut connection, cx, &target).await?;
        self.give_back(connection).await?;
        let mut preview = LoadPreview::default();
        preview.column_types = target.writings.iter().map(|writing| writing.declared.clone()).collect();
        if target.relation.is_none() {
            preview.ddl.push(create_table(&self.table.quoted()?, "TABLE", plan, &target.writings, false)?);
        }
        preview.notes = target.notes;
        Ok(preview)
    }

    fn identity(&self) -> String {
        format!("{:?}", self.options)
    }

    async fn cursor(&self, _: &RunContext, source: &str) -> Result<Option<String>> {
        let mut connection = self.patient_connection().await?;
        let schema = self.schema(&mut connection).await?;
        let name = TableName { schema: Some(schema), name: self.table.name.clone() };
        let found = saved_cursor::saved(&mut connection, &name, &name.quoted()?, source).await;
        let found = found.map_err(|error| postgres_error(&self.source(), error))?;
        self.give_back(connection).await?;
        Ok(found)
    }

    async fn interrupted(&self, _: &RunContext) -> Result<Option<Interrupted>> {
        let mut connection = self.patient_connection().await?;
        let schema = self.schema(&mut connection).await?;
        let hash = self.hash(&schema);
        let name = TableName { schema: Some(schema.clone()), name: self.table.name.clone() };
        let found = Left::newest(&mut connection, &name, hash).await;
        let found = found.map_err(|error| postgres_error(&self.source(), error))?;
        self.give_back(connection).await?;
        Ok(found.map(Left::interrupted))
    }

    async fn forget(&self, _: &RunContext, run: RunId) -> Result<Option<Interrupted>> {
        let Held { mut control, schema, hash, lock } = self.hold().await?;
        let names = Names::new(&schema, hash, run);
        let found = async {
            let name = TableName { schema: Some(schema.clone()), name: self.table.name.clone() };
            let found = Left::find(&mut control, &name, &names, run).await?;
            failpoint("postgres-forgetting");
            drop_patiently(&mut control, &names.drop_all()).await?;
            failpoint("postgres-forgotten");
            execute(&mut control, &format!("SELECT pg_advisory_unlock({lock})")).await?;
            Ok(found)
        };
        match found.await {
            Ok(found) => {
                self.pool.give_back(control);
                Ok(found.map(Left::interrupted))
            }
            Err(error) => {
                control.close().await;
                Err(postgres_error(&self.source(), error))
            }
        }
    }

    async fn begin(&self, cx: &RunContext, plan: LoadPlan) -> Result<Box<dyn LoadSession>> {
        let plan = with_key(plan, self.options.primary_key);
        let Held { mut control, schema, hash, lock } = self.hold().await?;
        let name = TableName { schema: Some(schema.clone()), name: self.table.name.clone() };
        let names = Names::new(&schema, hash, cx.run_id());
        failpoint("postgres-locked");
        let staged = async {
            let failed = |error| postgres_error(&self.source(), error);
            let limit = self.options.lock_timeout.duration();
            let left = match &plan.record {
                Some(_) => Left::find(&mut control, &name, &names, cx.run_id()).await.map_err(failed)?,
                None => None,
            };
            let gone = |left: &Left| left.published.is_some() && Some(&*left.record) == plan.record.as_deref();
            if left.as_ref().map_or(plan.goes_on, gone) {
                return Err(gone_on_elsewhere(cx.run_id()).in_source(self.source()));
            }
            // It is a part of the run, so that it runs once.
            if !self.options.pre_sql.is_empty() && left.is_none() && !plan.is_repair {
                let sql = format!("SET lock_timeout = {}", limit.as_millis().max(1));
                execute(&mut control, &sql).await.map_err(failed)?;
                // By itself, for several statements are one transaction, in which some cannot be run.
                let done = execute(&mut control, &self.options.pre_sql).await;
                done.map_err(|error| failed(error).hint("that is the option pre_sql"))?;
            }
            let step = STEP.min(limit).as_millis().max(1);
            execute(&mut control, &format!("SET lock_timeout = {step}")).await.map_err(failed)?;
            let patience = Patience::new(limit, cx.cancel());
            loop {
                match self.stage(&mut control, cx, &plan, &names, &name, left.as_ref()).await {
                    Ok((target, mut completed)) => {
                        completed.retain(|receipt| plan.takes_over(receipt.partition));
                        return Ok((of_target(plan, target.relation.is_some()), target, completed, left.is_some()));
                    }
                    Err(error) => {
                        // The first error is the one that counts.
                        _ = execute(&mut control, "ROLLBACK").await;
                        patience.over(error).await?;
                    }
                }
            }
        };
        match staged.await {
            Ok((plan, target, completed, goes_on)) => Ok(Box::new(PostgresSession {
                completed,
                shared: Arc::new(Shared {
                    goes_on,
                    form: form(&plan, &names.staging, &target)?,
                    pool: self.pool.clone(),
                    source: self.source(),
                    copy: format!(
                        "COPY {} ({}) FROM STDIN (FORMAT binary)",
                        names.staging,
                        staged_columns(&plan, target.publishing.numbers_rows(&plan))?
                    ),
                    names,
                    writings: target.writings.clone(),
                    is_numbered: target.publishing.numbers_rows(&plan),
                    sifts: plan.sifts,
                }),
                control: Mutex::new(Some(control)),
                lock,
                name,
                run: cx.run_id(),
                plan,
                target,
                lock_timeout: self.options.lock_timeout.duration(),
                cancel: cx.cancel().clone(),
                post_sql: self.options.post_sql.clone(),
                keeps_settings: self.options.pre_sql.is_empty() && self.options.post_sql.is_empty(),
                connections: cx.config().connections(),
                moved: None,
            })),
            Err(error) => {
                // The server lets go of it with the connection too, but some time after that.
                _ = execute(&mut control, &format!("ROLLBACK; SELECT pg_advisory_unlock({lock})")).await;
                control.close().await;
                Err(error)
            }
        }
    }
}

/// The right to write to a table, and whose connection has it.
struct Held {
    control: Connection,
    schema: String,
    hash: u64,
    lock: i64,
}

impl PostgresLoader {
    /// What tells the target, in `schema`, from others.
    fn hash(&self, schema: &str) -> u64 {
        hash(&format!("{schema}.{}", self.table.name))
    }

    /// Takes the lock of the target.
    async fn hold(&self) -> Result<Held> {
        let mut control = self.pool.take().await?;
        let schema = self.schema(&mut control).await?;
        let hash = self.hash(&schema);
        // An advisory lock is of the database, and has 64 bits for its name.
        let lock = i64::from_ne_bytes(hash.to_ne_bytes());
        let sql = format!("SELECT pg_try_advisory_lock({lock})::text");
        let end = Instant::now() + PATIENCE;
        loop {
            let locked = text(&mut control, &sql, &[]).await.map_err(|error| postgres_error(&self.source(), error))?;
            if locked.as_deref() == Some("true") {
                return Ok(Held { control, schema, hash, lock });
            }
            if Instant::now() > end {
                let holder = holder(&mut control, lock).await.unwrap_or_default();
                self.pool.give_back(control);
                return Err(held_by(holder, |id| format!("SELECT pg_terminate_backend({id})")).in_source(self.source()));
            }
            tokio::time::sleep(PATIENCE / 20).await;
        }
    }

    /// Looks at the target, which is locked, removes what dead runs left, and makes the staging table and its ledger; or goes on
    /// with what is `left` of the run, if its rows would be staged in the same way now.
    async fn stage(
        &self,
        control: &mut Connection,
        cx: &RunContext,
        plan: &LoadPlan,
        names: &Names,
        name: &TableName,
        left: Option<&Left>,
    ) -> Result<(Target, Vec<Receipt>)> {
        let source = self.source();
        let failed = |error| postgres_error(&source, error);
        let mut target = self.look(control, name, plan).await?;
        self.refuse_source(control, cx, &target).await?;
        let plan = &of_target(plan.clone(), target.relation.is_some());
        if (target.relation.is_none() || matches!(plan.mode, LoadMode::Create | LoadMode::Replace))
            && let Some(missing) = saved_cursor::missing_privilege(control, name).await.map_err(failed)?
        {
            let message = "the user may not forget how far sources were read whose rows were in the target";
            return Err(Error::new(ErrorKind::PermissionDenied, message)
                .hint(format!("GRANT {missing} to the user"))
                .in_source(source));
        }
        let schema = name.schema.as_deref().unwrap_or_default();
        remove_stale(control, schema, self.hash(schema), cx.run_id()).await.map_err(failed)?;
        saved_cursor::prepare(control, name, plan).await.map_err(failed)?;
        let same = left.filter(|left| left.published.is_none() && Some(&*left.record) == plan.record.as_deref());
        if let Some(left) = same
            && is_there(control, &names.staging).await.map_err(failed)?
            && is_there(control, &names.ledger).await.map_err(failed)?
        {
            if left.form == form(plan, &names.staging, &target)? {
                return Ok((target, left.receipts.clone()));
            }
            if target.publishing == Publishing::Swap {
                // That a copy of the table would not be like it may have been found when there was one.
                target = target.refill();
                if left.form == form(plan, &names.staging, &target)? {
                    return Ok((target, left.receipts.clone()));
                }
                target = self.look(control, name, plan).await?;
            }
        }
        if left.is_some() {
            drop_patiently(control, &names.drop_all()).await.map_err(failed)?;
        }
        loop {
            let staging = staging_table(&names.staging, plan, &target)?;
            // Both survive a crash of the server, or neither does.
            let kind = if target.publishing.keeps_staging() { "TABLE" } else { "UNLOGGED TABLE" };
            let about = format!(
                "Rows of the ETLRS run {} on their way to {name}. Drop it if no such run is at work.",
                cx.run_id()
            );
            let run = match &plan.record {
                Some(record) => format!("; {}", names.write_down(record, &form(plan, &names.staging, &target)?, None)),
                None => String::new(),
            };
            let sql = format!(
                "{BEGIN}; {}; {staging}; COMMENT ON TABLE {} IS {}{run}",
                names.create_ledger(kind),
                names.staging,
                literal(&about)
            );
            execute(control, &sql).await.map_err(failed)?;
            let swapped = target.publishing == Publishing::Swap;
            if swapped && target::definition(control, &names.staging).await.map_err(failed)? != target.definition {
                // The copy of the table is not like it in all that counts, so the table itself has to stay.
                execute(control, "ROLLBACK").await.map_err(failed)?;
                target = target.refill();
                continue;
            }
            failpoint("postgres-beginning");
            execute(control, "COMMIT").await.map_err(failed)?;
            failpoint("postgres-begun");
            return Ok((target, Vec::new()));
        }
    }
}

/// The connection that holds an advisory lock, and from where it comes.
async fn holder(connection: &mut Connection, lock: i64) -> Answer<Option<(String, String)>> {
    let sql = "SELECT a.pid::text, coalesce(a.client_addr::text, 'this machine') FROM pg_locks l JOIN pg_stat_activity a USING (pid)
        WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1 AND l.database = a.datid
            AND a.datname = current_database() AND (l.classid::int8 << 32) | l.objid::int8 = $1::int8";
    let found = rows(connection, sql, &[&lock.to_string()]).await?;
    let Some(row) = found.first() else { return Ok(None) };
    Ok(Some((row.get(0)?, row.get(1)?)))
}

/// The isolation level and the access that a role has by default may be others.
pub(super) const BEGIN: &str = "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE";

/// In a staging table that [numbers its rows](Publishing::numbers_rows): the place of a row in the source.
pub(super) const ORDINAL: &str = "\"_etlrs_ordinal\"";

/// What tells whether rows that are staged are as they would be staged now.
fn form(plan: &LoadPlan, staging: &str, target: &Target) -> Result<String> {
    let table = staging_table(staging, plan, target)?;
    let Target { publishing, writings, .. } = target;
    let text = format!("{} {table} {publishing:?} {writings:?} {:?}", env!("CARGO_PKG_VERSION"), target.definition);
    Ok(format!("{:016x}", hash(&text)))
}

/// The staging table for a target.
fn staging_table(staging: &str, plan: &LoadPlan, target: &Target) -> Result<String> {
    if let (Publishing::Swap, Some(relation)) = (target.publishing, &target.relation) {
        let old = relation.name.quoted()?;
        return Ok(format!(
            "CREATE TABLE {staging} (LIKE {old} INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING GENERATED \
             INCLUDING STORAGE INCLUDING COMMENTS)"
        ));
    }
    let kind =
        if target.publishing.keeps_staging() && plan.mode != LoadMode::Merge { "TABLE" } else { "UNLOGGED TABLE" };
    let sql = create_table(staging, kind, plan, &target.writings, true)?;
    Ok(match sql.strip_suffix(')') {
        Some(columns) if target.publishing.numbers_rows(plan) => format!("{columns}, {ORDINAL} int8 NOT NULL)"),
        _ => sql,
    })
}

fn staged_columns(plan: &LoadPlan, is_numbered: bool) -> Result<String> {
    let columns = Target::column_list(&plan.schema)?;
    Ok(if is_numbered { format!("{columns}, {ORDINAL}") } else { columns })
}
