//! What is staged in a database, and what is left of runs: tables beside the target, each of one run.
//!
//! The ledger has a row for each partition that is staged, and the table of the run one that says what the run is. It is made when
//! all others are there, for each statement that defines something is a transaction of its own.
//!
//! Whether the rows are published is told by a row of the ledger, the mark. A transaction that moves rows leaves it there. A rename
//! cannot, for it is a transaction of its own: the mark is there before it, and the rows are published if the table that it renames
//! has its name no more. That alone would prove nothing, for whoever cleans up takes tables away too; so nobody drops that one
//! before the ledger, and only who holds the lock of the target drops any.

use std::collections::{BTreeMap, BTreeSet};

use etlrs_core::{Checksum, Interrupted, PartitionId, Receipt, Result, RunId, Tally};

use super::catalog::Relation;
use super::name::{literal, quote};
use super::target::{self, Publishing};
use super::wire::{Answer, Connection, Failure, code};
use crate::hash::hash;
use crate::table::TableName;

/// What the ledger has in place of a partition when the rows were moved, or are about to be by a rename.
pub(super) const MOVED: i64 = -1;

/// The number of the error for a table that is not there.
const NO_SUCH_TABLE: u16 = 1146;

/// Names of what a run stages. They have 58 characters at the most, of the 64 that MySQL keeps.
pub(super) struct Names {
    pub(super) staging: String,
    pub(super) staging_name: TableName,
    pub(super) ledger: String,
    pub(super) run: String,
    /// The target, while another table takes its place.
    pub(super) old: String,
    /// A target that is not there yet.
    pub(super) new: String,
    /// What all of them end with: a run may load into several tables.
    ending: String,
}

impl Names {
    pub(super) fn new(name: &TableName, hash: u64, run: RunId) -> Result<Self> {
        let schema = quote(name.schema.as_deref().unwrap_or_default())?;
        let ending = format!("{hash:016x}_{run}");
        let named = |what: &str| format!("{schema}.`_etlrs_{what}_{ending}`");
        let staging_name = TableName { schema: name.schema.clone(), name: format!("_etlrs_staging_{ending}") };
        Ok(Self {
            staging: named("staging"),
            staging_name,
            ledger: named("ledger"),
            run: named("run"),
            old: named("old"),
            new: named("new"),
            ending,
        })
    }

    /// The statement that removes all of it, but for the old table, which may be needed where it could not be put back: first what says
    /// that there is anything to go on with.
    pub(super) fn drop_all(&self) -> String {
        let tables = [&self.run, &self.ledger, &self.staging, &self.new].map(String::as_str);
        format!("DROP TABLE IF EXISTS {}", tables.join(", "))
    }

    /// Whether the old table of the target `name` has that definition, and nothing hangs on it.
    async fn old_is(&self, connection: &mut Connection, name: &TableName, definition: &str) -> Answer<bool> {
        let old = TableName { schema: name.schema.clone(), name: self.staging_name.name.replacen("staging", "old", 1) };
        let hanging = match Relation::find(connection, &old).await? {
            Some(old) => target::what_hangs_on(connection, &old).await?,
            None => Vec::new(),
        };
        Ok(digest(&target::definition_of(connection, &self.old).await?) == definition
            && hanging.iter().all(|what| what.starts_with("triggers, if")))
    }

    /// The statement that removes what was staged for rows that are published, but for what says so.
    pub(super) fn drop_staged(&self) -> String {
        format!("DROP TABLE IF EXISTS {}, {}, {}", self.staging, self.old, self.new)
    }

    pub(super) fn create_ledger(&self) -> String {
        format!(
            "CREATE TABLE {} (partition_id bigint NOT NULL PRIMARY KEY, row_count bigint unsigned NOT NULL,
             bytes bigint unsigned NOT NULL, checksum char(32), rows_read bigint unsigned) ENGINE=InnoDB",
            self.ledger
        )
    }

    /// The statements that write down what the run is, and how its rows are staged and published.
    pub(super) fn create_run(&self, record: &str, form: &str, publishing: Publishing, definition: &str) -> [String; 2] {
        let create = format!(
            "CREATE TABLE {} (id tinyint NOT NULL PRIMARY KEY, record longtext NOT NULL, form char(16) NOT NULL,
             publishing varchar(16) NOT NULL, definition char(16) NOT NULL) ENGINE=InnoDB DEFAULT CHARACTER SET utf8mb4",
            self.run
        );
        let insert = format!(
            "INSERT INTO {} VALUES (1, {}, '{form}', '{publishing:?}', '{}')",
            self.run,
            literal(record),
            digest(definition)
        );
        [create, insert]
    }
}

fn digest(text: &str) -> String {
    format!("{:016x}", hash(text))
}

/// What is left of a run.
pub(super) struct Left {
    run: RunId,
    pub(super) record: String,
    pub(super) form: String,
    definition: String,
    pub(super) published: bool,
    /// The ledger has the [mark](MOVED).
    pub(super) is_marked: bool,
    /// The old table is where it was moved to give its place away.
    is_swapped: bool,
    has_target: bool,
    /// The staging table and the ledger are there.
    pub(super) is_whole: bool,
    pub(super) receipts: Vec<Receipt>,
}

impl Left {
    /// Of `run`, which was to load into `name`.
    pub(super) async fn find(
        connection: &mut Connection,
        name: &TableName,
        names: &Names,
        run: RunId,
    ) -> Answer<Option<Self>> {
        let there = tables(connection, name, &format!("(staging|ledger|run|old|new)_{}", names.ending)).await?;
        let is_there = |what: &str| there.iter().any(|table| table.starts_with(&format!("_etlrs_{what}_")));
        if !is_there("run") {
            return Ok(None);
        }
        let sql = format!("SELECT record, form, publishing, definition FROM {}", names.run);
        let found = match connection.rows(&sql).await {
            // Another run has removed it since.
            Err(error) if code(&error) == Some(NO_SUCH_TABLE) => return Ok(None),
            found => found?,
        };
        let Some(row) = found.first() else { return Ok(None) };
        let (record, form): (String, String) = (row.get(0)?, row.get(1)?);
        let (publishing, definition): (String, String) = (row.get(2)?, row.get(3)?);
        let (mut receipts, mut is_marked) = (Vec::new(), false);
        if is_there("ledger") {
            let sql = format!(
                "SELECT partition_id, row_count, bytes, checksum, coalesce(rows_read, row_count) FROM {} ORDER BY 1",
                names.ledger
            );
            let found = match connection.rows(&sql).await {
                Err(error) if code(&error) == Some(NO_SUCH_TABLE) => return Ok(None),
                found => found?,
            };
            for row in found {
                let (partition, rows, bytes): (i64, u64, u64) = (row.get(0)?, row.get(1)?, row.get(2)?);
                is_marked |= partition == MOVED;
                let checksum: Option<String> = row.get(3)?;
                let checksum = checksum.and_then(|text| Checksum::restore(rows, &text));
                // One without a checksum is staged again.
                if let (Some(checksum), Ok(partition)) = (checksum, u32::try_from(partition)) {
                    let tally = Tally { checksum, rows_read: row.get(4)? };
                    receipts.push(Receipt::new(PartitionId(partition), rows, bytes).kept(tally));
                }
            }
        }
        // Whoever removed the table since wants the rows loaded again.
        let has_target = Relation::find(connection, name).await?.is_some();
        let published = has_target
            && match publishing.as_str() {
                "Rename" => is_marked && !is_there("staging"),
                // While the old table is there, that may be taken back.
                "Swap" => is_marked && !is_there("staging") && !is_there("old"),
                "FillNew" => is_marked && !is_there("new"),
                _ => is_marked,
            };
        let is_swapped = publishing == "Swap" && is_there("old");
        let is_whole = is_there("staging") && is_there("ledger");
        Ok(Some(Self {
            run,
            record,
            form,
            definition,
            published,
            is_marked,
            is_whole,
            is_swapped,
            has_target,
            receipts,
        }))
    }

    /// Ends what was begun with the place of the target, whose lock is held: the old table goes back to its place, unless it is as it
    /// was planned for and another one has it. Then look again.
    pub(super) async fn settle(&self, connection: &mut Connection, name: &TableName, names: &Names) -> Answer<bool> {
        let Ok(target) = name.backquoted() else { return Ok(false) };
        if !self.is_swapped {
            return Ok(false);
        }
        if !self.has_target {
            connection.execute(&format!("RENAME TABLE {} TO {target}", names.old)).await?;
            return Ok(true);
        }
        if self.is_whole {
            return Ok(false);
        }
        let sql = match names.old_is(connection, name, &self.definition).await? {
            true => format!("DROP TABLE {}", names.old),
            false => format!("RENAME TABLE {target} TO {}, {} TO {target}", names.staging, names.old),
        };
        connection.execute(&sql).await?;
        Ok(true)
    }

    /// Of the newest run that is left for the target `name` with this `hash`.
    pub(super) async fn newest(
        connection: &mut Connection,
        name: &TableName,
        hash: u64,
    ) -> Result<Answer<Option<Self>>> {
        let runs = match tables(connection, name, &format!("run_{hash:016x}_[0-9a-z]{{26}}")).await {
            Ok(runs) => runs,
            Err(error) => return Ok(Err(error)),
        };
        let run = runs.iter().filter_map(|table| table.get(table.len() - RunId::LENGTH..)?.parse::<RunId>().ok()).max();
        let Some(run) = run else { return Ok(Ok(None)) };
        Ok(Self::find(connection, name, &Names::new(name, hash, run)?, run).await)
    }

    pub(super) fn interrupted(self) -> Interrupted {
        Interrupted::new(self.run, self.record, self.receipts).published(self.published)
    }
}

/// What is left of `run`, when what was begun with the place of the target is [ended](Left::settle). Its lock is held.
pub(super) async fn settled(
    connection: &mut Connection,
    name: &TableName,
    names: &Names,
    run: RunId,
) -> Answer<Option<Left>> {
    let found = Left::find(connection, name, names, run).await?;
    match &found {
        Some(left) if left.settle(connection, name, names).await? => Left::find(connection, name, names, run).await,
        _ => Ok(found),
    }
}

/// Names of tables beside `name` that begin with `_etlrs_` and go on as `pattern` says.
async fn tables(connection: &mut Connection, name: &TableName, pattern: &str) -> Answer<Vec<String>> {
    let sql = format!(
        "SELECT TABLE_NAME FROM information_schema.TABLES WHERE TABLE_SCHEMA = {} AND TABLE_NAME REGEXP '^_etlrs_{pattern}$'",
        literal(name.schema.as_deref().unwrap_or_default())
    );
    connection.rows(&sql).await?.iter().map(|row| row.get(0)).collect()
}

/// Drops what other runs left for the target: the lock is held, so nobody else is at work on it.
pub(super) async fn remove_stale(connection: &mut Connection, name: &TableName, hash: u64, run: RunId) -> Answer<()> {
    let found = tables(connection, name, &format!("(staging|ledger|old|new|run)_{hash:016x}_[0-9a-z]{{26}}")).await?;
    let mut stale: BTreeMap<RunId, BTreeSet<&str>> = BTreeMap::new();
    for table in &found {
        let of = table.get(table.len() - RunId::LENGTH..).and_then(|of| of.parse().ok()).filter(|of| *of != run);
        let what = table.strip_prefix("_etlrs_").and_then(|rest| rest.split('_').next());
        if let (Some(of), Some(what)) = (of, what) {
            stale.entry(of).or_default().insert(what);
        }
    }
    for (run, tables) in stale {
        let Ok(names) = Names::new(name, hash, run) else { continue };
        remove_one(connection, name, &names, run, &tables).await?;
    }
    Ok(())
}

/// Drops `tables` of a dead `run`: what says that something was staged before what was, so that what is missing is never taken for
/// published. An old table whose run is not written down is left alone: it could not be put back, and has what was altered.
async fn remove_one(
    connection: &mut Connection,
    name: &TableName,
    names: &Names,
    run: RunId,
    tables: &BTreeSet<&str>,
) -> Answer<()> {
    settled(connection, name, names, run).await?;
    if tables.contains("old")
        && Relation::find(connection, name).await?.is_none()
        && let Ok(target) = name.backquoted()
    {
        // Before MariaDB 10.6 a crash may come between the two renames of one statement.
        connection.execute(&format!("RENAME TABLE {} TO {target}", names.old)).await?;
    }
    for table in [&names.run, &names.ledger, &names.staging, &names.new] {
        match connection.execute(&format!("DROP TABLE IF EXISTS {table}")).await {
            Ok(_) => {}
            // Whoever has a key or a lock on it may keep it, for nobody takes it for data.
            Err(Failure::Server(_)) => break,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
