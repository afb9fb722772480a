//! What is staged in a database, and what is left of runs: tables beside the target, each of one run.
//!
//! The ledger has a row for each partition that is staged, and the table of the run one that says what the run is. It is made when
//! all others are there, for each statement that defines something is a transaction of its own. Whether the rows are published
//! is told by what the statement that publishes them does: a rename takes the staging table away, and a transaction that moves
//! rows leaves a row in the ledger.

use etlrs_core::{Checksum, Interrupted, PartitionId, Receipt, Result, RunId, Tally};

use super::catalog::Relation;
use super::name::{literal, quote};
use super::target::{self, Publishing};
use super::wire::{Answer, Connection, Failure};
use crate::hash::hash;
use crate::table::TableName;

/// What the ledger has in place of a partition when the rows were moved.
pub(super) const MOVED: i64 = -1;

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

    /// The statement that removes all of it: first what says that there is anything to go on with.
    pub(super) fn drop_all(&self) -> String {
        let tables = [&self.run, &self.ledger, &self.staging, &self.old, &self.new].map(String::as_str);
        format!("DROP TABLE IF EXISTS {}", tables.join(", "))
    }

    /// The same, without what says that the rows are published.
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
        let found = connection.rows(&format!("SELECT record, form, publishing, definition FROM {}", names.run)).await?;
        let Some(row) = found.first() else { return Ok(None) };
        let (record, form): (String, String) = (row.get(0)?, row.get(1)?);
        let (publishing, definition): (String, String) = (row.get(2)?, row.get(3)?);
        let (mut receipts, mut moved) = (Vec::new(), false);
        if is_there("ledger") {
            let sql = format!(
                "SELECT partition_id, row_count, bytes, checksum, coalesce(rows_read, row_count) FROM {} ORDER BY 1",
                names.ledger
            );
            for row in connection.rows(&sql).await? {
                let (partition, rows, bytes): (i64, u64, u64) = (row.get(0)?, row.get(1)?, row.get(2)?);
                moved |= partition == MOVED;
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
                "Rename" => !is_there("staging"),
                // While the old table is there, that may be taken back.
                "Swap" => !is_there("staging") && !is_there("old"),
                "FillNew" => moved && !is_there("new"),
                _ => moved,
            };
        let is_swapped = publishing == "Swap" && is_there("old");
        let is_whole = is_there("staging") && is_there("ledger");
        Ok(Some(Self { run, record, form, definition, published, is_whole, is_swapped, has_target, receipts }))
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
        let old =
            TableName { schema: name.schema.clone(), name: names.staging_name.name.replacen("staging", "old", 1) };
        let hanging = match Relation::find(connection, &old).await? {
            Some(old) => target::what_hangs_on(connection, &old).await?,
            None => Vec::new(),
        };
        let is_same = digest(&target::definition_of(connection, &names.old).await?) == self.definition
            && hanging.iter().all(|what| what.starts_with("triggers, if"));
        let sql = match is_same {
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
    let schema = name.schema.as_deref().unwrap_or_default();
    let stale = found.into_iter().filter(|table| !table.ends_with(&run.to_string()));
    let stale: Vec<_> = stale.map(|name| TableName { schema: Some(schema.to_owned()), name }).collect();
    // Before MariaDB 10.6 a crash may come between the two renames of one statement.
    let is_old = |stale: &&TableName| stale.name.starts_with("_etlrs_old_");
    if let Some(old) = stale.iter().find(is_old)
        && Relation::find(connection, name).await?.is_none()
        && let (Ok(from), Ok(to)) = (old.backquoted(), name.backquoted())
    {
        connection.execute(&format!("RENAME TABLE {from} TO {to}")).await?;
    }
    for stale in stale {
        let Ok(stale) = stale.backquoted() else { continue };
        match connection.execute(&format!("DROP TABLE IF EXISTS {stale}")).await {
            // Whoever has a key or a lock on it may keep it, for nobody takes it for data.
            Ok(_) | Err(Failure::Server(_)) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
