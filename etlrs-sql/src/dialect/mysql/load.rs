//! Design note. Rows go into a staging table, `_etlrs_staging_…`, beside the target, by several connections at a time. Each
//! partition is one transaction, together with a row in a ledger, `_etlrs_ledger_…`, that says how many rows it has. The commit
//! (`publish.rs`) renames the staging table, or moves its rows in one more transaction.
//!
//! When the answer to the commit of a partition is lost, the ledger tells whether it took place. If it did, the next attempt at
//! the partition writes nothing: what it is handed are the same rows, and it counts them.
//!
//! The session's own connection holds a lock of the server's (`GET_LOCK`), which dies with it. Whoever has the lock may remove
//! what other runs staged for that target.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use arrow_schema::{Schema, SchemaRef};
use etlrs_core::{
    Error, ErrorKind, Interrupted, LoadCapabilities, LoadMode, LoadPlan, LoadPreview, LoadSession, Loader, PartitionId,
    Receipt, Result, RunContext, RunId, async_trait, failpoint, gone_on_elsewhere,
};

use super::catalog::{self, Relation};
use super::error::mysql_error;
use super::extract::{no_database, read_mark};
use super::ledger::{Left, MOVED, Names, remove_stale, settled};
use super::name::{check_file_name, literal, quote};
use super::saved_cursor;
use super::server::{LOCK_WAIT, MysqlPool, Statement};
use super::session::{MysqlSession, Shared};
use super::staging::{ORDINAL, create_staging, create_table, exact_collation, load_or_insert, staged_columns};
use super::target::{self, Publishing, Target};
use super::types::Reading;
use super::wire::{Answer, Connection, Failure, code};
use super::writing::Dialect;
use crate::MysqlTargetOptions;
use crate::hash::hash;
use crate::key::{of_target, with_key};
use crate::network::{Connect, held_by};
use crate::patience::{Patience, STEP};
use crate::sift::PARTITION_BITS;
use crate::table::{TableName, same_table};
use crate::types::guide;

/// A table of a database of MySQL or MariaDB, which is created if need be.
///
/// Modes: `create`; `append` and `replace`, which match columns by name and refuse a column that cannot hold the data;
/// `merge`, by a unique index of the keys. A table that is replaced keeps its definition: columns, defaults, indexes, checks,
/// privileges, and the views on it. Readers see the old rows until the commit and the new ones after it.
/// `docs/type-mapping.md` tells how types map.
///
/// Rows are sent by `LOAD DATA LOCAL`, from memory: no file is ever read for it, whatever the server asks for. Where the server
/// has `local_infile` off they are sent by INSERT, which takes about twice as long. `docs/databases.md` tells which privileges the
/// user needs in the database of the target, where rows are staged.
#[derive(Clone, Debug)]
pub struct MysqlLoader {
    pool: MysqlPool,
    table: TableName,
    options: MysqlTargetOptions,
}

impl MysqlLoader {
    /// Into the table `name`: `orders`, `sales.orders`.
    ///
    /// # Errors
    /// `InvalidConfig` for what is no name.
    pub fn new(pool: MysqlPool, name: &str) -> Result<Self> {
        let table = TableName::parse(name)?;
        table.backquoted()?;
        check_file_name(&table.name)?;
        if table.name.to_lowercase().starts_with("_etlrs_") {
            return Err(Error::new(ErrorKind::InvalidConfig, "names that begin with _etlrs_ are reserved")
                .hint("give the table another name"));
        }
        Ok(Self { pool, table, options: MysqlTargetOptions::default() })
    }

    /// With options other than the defaults.
    #[must_use]
    pub fn with_options(mut self, options: MysqlTargetOptions) -> Self {
        self.options = options;
        self
    }

    fn source(&self) -> String {
        format!("{}#{}", self.pool.shown(), self.table)
    }

    /// The name with its database.
    fn name(&self) -> Result<TableName> {
        let schema = self.table.schema.as_deref().or(self.pool.database());
        let schema = schema.ok_or_else(|| no_database().in_source(self.source()))?.to_owned();
        Ok(TableName { schema: Some(schema), name: self.table.name.clone() })
    }

    async fn look(&self, connection: &mut Connection, name: &TableName, plan: &LoadPlan) -> Result<Target> {
        self.capabilities().require(plan.mode, self.source())?;
        if plan.mode == LoadMode::Merge && plan.keys.is_empty() {
            return Err(Error::new(ErrorKind::InvalidConfig, "mode merge needs the columns that are the key")
                .hint("name them with --key")
                .in_source(self.source()));
        }
        let source = self.source();
        Target::look(connection, name, plan, &source).await.map_err(|error| error.in_source(&source))
    }

    /// Refuses a table whose rows are what is to be written, by whatever name.
    async fn refuse_source(&self, connection: &mut Connection, cx: &RunContext, target: &Target) -> Result<()> {
        let Some(relation) = &target.relation else { return Ok(()) };
        let failed = |error| mysql_error(&self.source(), error);
        let mark = read_mark(cx.run_id(), &relation.name);
        let end = Instant::now() + Duration::from_secs(PATIENCE.into());
        loop {
            let found = match connection.rows(&format!("SELECT is_used_lock({mark}) IS NOT NULL")).await {
                // Some clusters have no such locks.
                Err(Failure::Server(_)) => return Ok(()),
                found => found.map_err(failed)?,
            };
            let used: Option<bool> = found.first().map(|row| row.get(0)).transpose().map_err(failed)?;
            if used != Some(true) {
                return Ok(());
            }
            // A connection that has read it may be about to end, as that of a quarantine of which the rest is written back.
            if Instant::now() > end {
                return Err(same_table().in_source(self.source()));
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

/// What a server is like, as far as a load has to know.
#[derive(Clone, Copy, Debug)]
pub(super) struct Server {
    /// In which two texts are the same only if they are in all their bytes.
    pub(super) collation: &'static str,
    /// A timestamp that says nothing of it sets itself.
    pub(super) sets_timestamps: bool,
    /// Names of tables that differ by case alone are the same.
    folds_names: bool,
    /// LOAD DATA LOCAL is allowed.
    pub(super) loads: bool,
}

impl Server {
    /// What tells the target `name` from others.
    pub(super) fn hash(self, name: &TableName) -> u64 {
        hash(&self.folded(&format!("{}.{}", name.schema.as_deref().unwrap_or_default(), name.name)))
    }

    /// The one spelling of a name.
    pub(super) fn folded(self, name: &str) -> String {
        if self.folds_names { name.to_lowercase() } else { name.to_owned() }
    }

    async fn ask(connection: &mut Connection) -> Answer<Self> {
        let sql = "SELECT @@lower_case_table_names <> 0, @@explicit_defaults_for_timestamp, @@GLOBAL.local_infile";
        let found = connection.rows(sql).await?;
        let at = |index| found.first().map(|row| row.get::<bool, _>(index)).transpose();
        Ok(Self {
            collation: exact_collation(connection),
            folds_names: at(0)?.unwrap_or(false),
            sets_timestamps: !at(1)?.unwrap_or(true),
            loads: at(2)?.unwrap_or(false),
        })
    }
}

#[async_trait]
impl Loader for MysqlLoader {
    fn capabilities(&self) -> LoadCapabilities {
        LoadCapabilities::one_writer().max_writers(usize::MAX).modes(&LoadMode::ALL).resumable(true).keeps_cursors(true)
    }

    async fn target_schema(&self, _: &RunContext) -> Result<Option<SchemaRef>> {
        let name = self.name()?;
        let failed = |error| mysql_error(&self.source(), error);
        let mut connection = self.pool.take().await?;
        let Some(relation) = Relation::find(&mut connection, &name).await.map_err(failed)? else {
            self.pool.give_back(connection);
            return Ok(None);
        };
        let names: Result<Vec<_>> = relation.columns.iter().map(|column| quote(&column.name)).collect();
        let sql = format!("SELECT {} FROM {}", names?.join(", "), relation.name.backquoted()?);
        let wait = |seconds: u64| format!("SET SESSION lock_wait_timeout = {seconds}");
        let limit = self.options.lock_timeout.duration().as_secs().max(1);
        connection.execute(&wait(limit)).await.map_err(failed)?;
        let definitions = match connection.describe(&sql).await {
            // Who may not read it only guides nobody.
            Err(error) if matches!(code(&error), Some(1142 | 1143)) => None,
            described => Some(described.map_err(failed)?),
        };
        connection.execute(&wait(LOCK_WAIT)).await.map_err(failed)?;
        self.pool.give_back(connection);
        let Some(definitions) = definitions else { return Ok(None) };
        let mut fields = Vec::with_capacity(definitions.len());
        for (definition, column) in definitions.iter().zip(&relation.columns) {
            let field = Reading::new(definition, Some(column), None)?.field;
            fields.push(guide(&field));
        }
        Ok(Some(Arc::new(Schema::new(fields))))
    }

    async fn check(&self, cx: &RunContext, plan: &LoadPlan) -> Result<LoadPreview> {
        let plan = &with_key(plan.clone(), self.options.primary_key);
        let name = self.name()?;
        let mut connection = self.pool.take().await?;
        let target = self.look(&mut connection, &name, plan).await?;
        self.refuse_source(&mut connection, cx, &target).await?;
        let failed = |error| mysql_error(&self.source(), error);
        let names = Names::new(&name, 0, cx.run_id())?;
        let allowed = require_privileges(&mut connection, &names, &target, plan).await;
        allowed.map_err(|error| error.in_source(self.source()))?.map_err(failed)?;
        let server = Server::ask(&mut connection).await.map_err(failed)?;
        self.pool.give_back(connection);
        let mut preview = LoadPreview::default();
        preview.column_types = target.writings.iter().map(|writing| writing.declared.clone()).collect();
        if target.relation.is_none() {
            preview.ddl.push(create_table(&self.table.backquoted()?, plan, &target.writings, server)?);
        }
        preview.notes = target.notes;
        Ok(preview)
    }

    fn identity(&self) -> String {
        format!("{:?}", self.options)
    }

    async fn cursor(&self, _: &RunContext, source: &str) -> Result<Option<String>> {
        let name = self.name()?;
        let failed = |error| mysql_error(&self.source(), error);
        let mut connection = self.pool.take().await?;
        let server = Server::ask(&mut connection).await.map_err(failed)?;
        let found = saved_cursor::saved(&mut connection, &name, server, source).await?.map_err(failed)?;
        self.pool.give_back(connection);
        Ok(found)
    }

    async fn interrupted(&self, _: &RunContext) -> Result<Option<Interrupted>> {
        let name = self.name()?;
        let failed = |error| mysql_error(&self.source(), error);
        let mut connection = self.pool.take().await?;
        let server = Server::ask(&mut connection).await.map_err(failed)?;
        let found = Left::newest(&mut connection, &name, server.hash(&name)).await?.map_err(failed)?;
        self.pool.give_back(connection);
        Ok(found.map(Left::interrupted))
    }

    async fn forget(&self, _: &RunContext, run: RunId) -> Result<Option<Interrupted>> {
        let name = self.name()?;
        let failed = |error| mysql_error(&self.source(), error);
        let Held { mut control, server, hash, lock } = self.hold(&name).await?;
        let names = Names::new(&name, hash, run)?;
        let found = async {
            let found = settled(&mut control, &name, &names, run).await?;
            let is_published = found.as_ref().is_some_and(|found| found.published);
            // No name can be wrong that was found.
            if let Ok(done) = saved_cursor::confirm(&mut control, &name, server, run, is_published).await {
                done?;
            }
            control.execute("SET SESSION lock_wait_timeout = 10").await?;
            failpoint("mysql-forgetting");
            control.execute(&names.drop_all()).await?;
            failpoint("mysql-forgotten");
            control.execute(&format!("DO release_lock({lock})")).await?;
            Ok(found)
        };
        let found = found.await;
        control.close().await;
        found.map(|found| found.map(Left::interrupted)).map_err(failed)
    }

    async fn begin(&self, cx: &RunContext, plan: LoadPlan) -> Result<Box<dyn LoadSession>> {
        let plan = with_key(plan, self.options.primary_key);
        let name = self.name()?;
        let source = self.source();
        let failed = |error| mysql_error(&source, error);
        let Held { mut control, server, hash, lock } = self.hold(&name).await?;
        let names = Names::new(&name, hash, cx.run_id())?;
        failpoint("mysql-locked");
        let staged = async {
            saved_cursor::settle(&mut control, &name, server).await?.map_err(failed)?;
            let left = match &plan.record {
                Some(_) => settled(&mut control, &name, &names, cx.run_id()).await.map_err(failed)?,
                None => None,
            };
            let gone = |left: &Left| left.published && Some(&*left.record) == plan.record.as_deref();
            if left.as_ref().map_or(plan.goes_on, gone) {
                return Err(gone_on_elsewhere(cx.run_id()).in_source(&source));
            }
            // It is a part of the run, so that it runs once.
            if !self.options.pre_sql.is_empty() && left.is_none() && !plan.is_repair {
                let done = run_script(&self.pool, &self.options.pre_sql).await?;
                done.map_err(|error| failed(error).hint("that is the option pre_sql"))?;
            }
            let limit = self.options.lock_timeout.duration();
            let step = STEP.min(limit).as_secs().max(1);
            control.execute(&format!("SET SESSION lock_wait_timeout = {step}")).await.map_err(failed)?;
            let patience = Patience::new(limit, cx.cancel());
            loop {
                match self.stage(&mut control, cx, &plan, &names, hash, &name, server, left.as_ref()).await {
                    Ok(staged) => return Ok(staged),
                    Err(error) => {
                        // The first error is the one that counts.
                        _ = control.execute("ROLLBACK").await;
                        if left.is_none() {
                            _ = control.execute(&names.drop_all()).await;
                        }
                        patience.over(error).await?;
                    }
                }
            }
        };
        match staged.await {
            Ok(Staged { plan, target, statement, keyed, moved, completed }) => Ok(Box::new(MysqlSession {
                keyed,
                shared: Arc::new(Shared {
                    pool: self.pool.clone(),
                    source,
                    statement,
                    head: format!("INSERT INTO {} ({}) VALUES ", names.staging, staged_columns(&plan, moved)?)
                        .into_bytes(),
                    names,
                    writings: target.writings.clone(),
                    moved,
                    goes_on: completed.is_some(),
                    plan: plan.clone(),
                }),
                completed: completed.unwrap_or_default(),
                moved: None,
                server,
                control: Mutex::new(Some(control)),
                lock,
                name,
                run: cx.run_id(),
                plan,
                target,
                lock_timeout: self.options.lock_timeout.duration(),
                cancel: cx.cancel().clone(),
                post_sql: self.options.post_sql.clone(),
                connections: cx.config().connections(),
            })),
            Err(error) => {
                // The server lets go of it with the connection too, but some time after that.
                _ = control.execute(&format!("DO release_lock({lock})")).await;
                control.close().await;
                Err(error)
            }
        }
    }
}

/// The right to write to a table, and whose connection has it.
struct Held {
    control: Connection,
    server: Server,
    hash: u64,
    lock: String,
}

impl MysqlLoader {
    /// Takes the lock of the target.
    async fn hold(&self, name: &TableName) -> Result<Held> {
        let source = self.source();
        let failed = |error| mysql_error(&source, error);
        let mut control = self.pool.take().await?;
        let server = Server::ask(&mut control).await.map_err(failed)?;
        let hash = server.hash(name);
        let lock = literal(&format!("etlrs {hash:016x}"));
        let locked =
            control.rows(&format!("SELECT coalesce(get_lock({lock}, {PATIENCE}), 0)")).await.map_err(failed)?;
        if locked.first().map(|row| row.get::<bool, _>(0)).transpose().map_err(failed)? != Some(true) {
            let holder = holder(&mut control, &lock).await.unwrap_or_default();
            self.pool.give_back(control);
            return Err(held_by(holder, |id| format!("KILL {id}")).in_source(&source));
        }
        Ok(Held { control, server, hash, lock })
    }

    /// Goes on with what is `left` of the run, if its rows would be staged in the same way now.
    async fn go_on(
        &self,
        control: &mut Connection,
        plan: &LoadPlan,
        names: &Names,
        mut target: Target,
        server: Server,
        left: &Left,
    ) -> Result<Option<Staged>> {
        let failed = |error| mysql_error(&self.source(), error);
        if left.published || !left.is_whole || Some(&*left.record) != plan.record.as_deref() {
            return Ok(None);
        }
        if left.form != form(plan, names, &target, server)? && target.publishing == Publishing::Swap {
            // That a copy of the table would not be like it may have been found when there was one.
            target = target.refill(plan, Dialect::of(control.is_mariadb()))?;
        }
        if left.form != form(plan, names, &target, server)? {
            return Ok(None);
        }
        let keyed = match &target.relation {
            Some(relation) if target.publishing == Publishing::Swap => {
                let indexes = catalog::indexes(control, &relation.name).await.map_err(failed)?;
                indexes.iter().any(|index| index.unique && index.whole && !index.nullable)
            }
            _ => target.publishing != Publishing::Rename || !plan.keys.is_empty(),
        };
        let moved = !matches!(target.publishing, Publishing::Swap | Publishing::Rename);
        if left.is_marked && !moved {
            // It ended before the rename.
            let unmarked = format!("DELETE FROM {} WHERE partition_id = {MOVED}", names.ledger);
            match control.execute(&unmarked).await {
                // That the user may insert is known, and no more is needed otherwise.
                Err(Failure::Server(_)) => return Ok(None),
                done => _ = done.map_err(failed)?,
            }
        }
        let statement = load_or_insert(&names.staging, plan, &target.writings, moved, server)?;
        let (completed, others): (Vec<_>, Vec<_>) =
            left.receipts.iter().cloned().partition(|receipt| plan.takes_over(receipt.partition));
        if !others.is_empty() && !moved {
            // Its rows cannot be told from those of others.
            return Ok(None);
        }
        for PartitionId(partition) in others.into_iter().map(|receipt| receipt.partition) {
            let bound = |partition: u64| partition << PARTITION_BITS;
            let (from, end) = (bound(partition.into()), bound(u64::from(partition) + 1));
            let (staging, ledger) = (&names.staging, &names.ledger);
            control.execute("START TRANSACTION").await.map_err(failed)?;
            let rows = format!("DELETE FROM {staging} WHERE {ORDINAL} >= {from} AND {ORDINAL} < {end}");
            control.execute(&rows).await.map_err(failed)?;
            let receipt = format!("DELETE FROM {ledger} WHERE partition_id = {partition}");
            control.execute(&receipt).await.map_err(failed)?;
            control.execute("COMMIT").await.map_err(failed)?;
        }
        let completed = Some(completed);
        Ok(Some(Staged { plan: plan.clone(), target, statement, keyed, moved, completed }))
    }

    /// Looks at the target, which is locked, removes what dead runs left, and makes the staging table and its ledger; or goes on with
    /// what is `left` of the run.
    #[allow(clippy::too_many_arguments, reason = "each is something else")]
    async fn stage(
        &self,
        control: &mut Connection,
        cx: &RunContext,
        plan: &LoadPlan,
        names: &Names,
        hash: u64,
        name: &TableName,
        server: Server,
        left: Option<&Left>,
    ) -> Result<Staged> {
        let source = self.source();
        let failed = |error| mysql_error(&source, error);
        remove_stale(control, name, hash, cx.run_id()).await.map_err(failed)?;
        saved_cursor::prepare(control, name, plan).await?.map_err(failed)?;
        let mut target = self.look(control, name, plan).await?;
        self.refuse_source(control, cx, &target).await?;
        let plan = &of_target(plan.clone(), target.relation.is_some());
        if target.publishing == Publishing::Swap
            && (plan.cursor.is_some() || saved_cursor::has_some(control, name, server).await?.map_err(failed)?)
        {
            // A rename could not change the positions with the rows.
            target = target.refill(plan, Dialect::of(control.is_mariadb()))?;
        }
        if let Some(left) = left
            && let Some(staged) = self.go_on(control, plan, names, target.clone(), server, left).await?
        {
            return Ok(staged);
        }
        // Of this run too something may be left, if it died before it was written down here: it also has another target.
        match control.execute(&names.drop_all()).await {
            // That the user may not is told below, and that something is in the way when it is made.
            Err(Failure::Server(_)) if left.is_none() => {}
            dropped => _ = dropped.map_err(failed)?,
        }
        let mut keyed = true;
        if let (Some(relation), Publishing::Swap) = (&target.relation, target.publishing) {
            let sql = format!("CREATE TABLE {} LIKE {}", names.staging, relation.name.backquoted()?);
            control.execute(&sql).await.map_err(failed)?;
            let indexes = catalog::indexes(control, &relation.name).await.map_err(failed)?;
            keyed = indexes.iter().any(|index| index.unique && index.whole && !index.nullable);
            if target::definition_of(control, &names.staging).await.map_err(failed)? != target.definition {
                // The copy is not like it in all that counts, so the table itself has to stay.
                control.execute(&format!("DROP TABLE {}", names.staging)).await.map_err(failed)?;
                target = target.refill(plan, Dialect::of(control.is_mariadb()))?;
                keyed = true;
            }
        }
        let allowed = require_privileges(control, names, &target, plan).await;
        allowed.map_err(|error| error.in_source(&source))?.map_err(failed)?;
        let moved = !matches!(target.publishing, Publishing::Swap | Publishing::Rename);
        if target.publishing == Publishing::Rename {
            let sql = create_table(&names.staging, plan, &target.writings, server)?;
            control.execute(&sql).await.map_err(failed)?;
            keyed = !plan.keys.is_empty();
        } else if moved {
            let sql = create_staging(&names.staging, plan, &target.writings, server)?;
            control.execute(&sql).await.map_err(failed)?;
        }
        failpoint("mysql-table-made");
        control.execute(&names.create_ledger()).await.map_err(failed)?;
        failpoint("mysql-ledger-made");
        // Also of a run with which nobody goes on: whether the position is that of the target, and what was begun with its place.
        let is_settled_later = plan.cursor.is_some() || target.publishing == Publishing::Swap;
        let record = plan.record.as_deref().or(is_settled_later.then_some(""));
        if let Some(record) = record {
            let form = form(plan, names, &target, server)?;
            for sql in names.create_run(record, &form, target.publishing, &target.definition) {
                control.execute(&sql).await.map_err(failed)?;
                failpoint("mysql-recording");
            }
        }
        let statement = load_or_insert(&names.staging, plan, &target.writings, moved, server)?;
        Ok(Staged { plan: plan.clone(), target, statement, keyed, moved, completed: None })
    }
}

/// The connection that holds a lock, and from where it comes.
async fn holder(connection: &mut Connection, lock: &str) -> Answer<Option<(String, String)>> {
    let sql = format!("SELECT ID, HOST FROM information_schema.PROCESSLIST WHERE ID = is_used_lock({lock})");
    let found = connection.rows(&sql).await?;
    let Some(row) = found.first() else { return Ok(None) };
    Ok(Some((row.get(0)?, row.get(1)?)))
}

/// What tells whether rows that are staged are as they would be staged now.
fn form(plan: &LoadPlan, names: &Names, target: &Target, server: Server) -> Result<String> {
    let Target { publishing, writings, definition, .. } = target;
    let table = create_table(&names.staging, plan, writings, server)?;
    let text = format!("{} {table} {publishing:?} {writings:?} {definition}", env!("CARGO_PKG_VERSION"));
    Ok(format!("{:016x}", hash(&text)))
}

/// A staging area that is ready.
struct Staged {
    plan: LoadPlan,
    target: Target,
    statement: Statement,
    /// The staging table has a primary key.
    keyed: bool,
    /// Rows are moved from it to the target, in their order.
    moved: bool,
    /// What the run had staged before it was stopped, if it goes on.
    completed: Option<Vec<Receipt>>,
}

/// Runs the user's SQL on a connection of its own, for it may set what would change the meaning of ours.
pub(super) async fn run_script(pool: &MysqlPool, sql: &str) -> Result<Answer<()>> {
    let mut connection = pool.connect().await?;
    let done = connection.script(sql).await;
    connection.close().await;
    Ok(done)
}

/// Seconds to wait for the lock of a run that has just ended.
const PATIENCE: u32 = 2;

/// Refuses a user who could stage rows, and then not publish them. The server itself is asked: it looks at privileges before it
/// finds that a staging table is not there, and before it explains a statement.
async fn require_privileges(
    connection: &mut Connection,
    names: &Names,
    target: &Target,
    plan: &LoadPlan,
) -> Result<Answer<()>> {
    let (staging, old) = (&names.staging, &names.old);
    let mut tests = vec![
        ("SELECT", format!("SELECT 1 FROM {staging}")),
        ("CREATE", format!("CREATE TABLE {staging} LIKE {old}")),
        ("DROP", format!("DROP TABLE {old}")),
        ("INSERT", format!("INSERT INTO {old} VALUES (1)")),
    ];
    if matches!(target.publishing, Publishing::Rename | Publishing::Swap | Publishing::FillNew) {
        // To rename takes all of those, too.
        tests.push(("ALTER", format!("RENAME TABLE {old} TO {}", names.new)));
    }
    let staged = tests.len();
    if let Some(relation) = &target.relation {
        let table = relation.name.backquoted()?;
        if matches!(target.publishing, Publishing::Insert | Publishing::Refill | Publishing::Upsert) {
            tests.push(("INSERT", format!("EXPLAIN INSERT INTO {table} () VALUES ()")));
        }
        match target.publishing {
            Publishing::Refill => tests.push(("DELETE", format!("EXPLAIN DELETE FROM {table}"))),
            Publishing::Upsert => {
                for field in plan.schema.fields().iter().filter(|field| !plan.keys.contains(field.name())) {
                    let column = quote(field.name())?;
                    tests.push(("UPDATE", format!("EXPLAIN UPDATE {table} SET {column} = {column}")));
                }
            }
            _ => {}
        }
    }
    for (index, (privilege, sql)) in tests.into_iter().enumerate() {
        match connection.rows(&sql).await {
            Err(error) if matches!(code(&error), Some(1044 | 1142 | 1143)) => {
                let (what, hint) = if index < staged {
                    let schema = names.staging_name.schema.as_deref().unwrap_or_default();
                    let granted =
                        format!("GRANT SELECT, CREATE, DROP, INSERT, ALTER ON {}.* TO that user", quote(schema)?);
                    (format!("in the database {schema}, where rows are staged"), granted)
                } else {
                    ("on the target".into(), format!("GRANT {privilege} on it to that user"))
                };
                let message = format!("the user has no privilege to {privilege} {what}");
                return Err(Error::new(ErrorKind::PermissionDenied, message).hint(hint));
            }
            // That it is not there, or what comes up again when it is needed.
            Ok(_) | Err(Failure::Server(_)) => {}
            Err(error) => return Ok(Err(error)),
        }
    }
    Ok(Ok(()))
}
