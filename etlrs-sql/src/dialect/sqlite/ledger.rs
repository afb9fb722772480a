//! What is staged in a database, in tables of its own that are there only as long as something is.
//!
//! `_etlrs_ledger` has a row for each partition that is staged, and `_etlrs_runs` one for each run that can be gone on with. Both
//! change in the transactions of the rows themselves, so what they say is so. The row of a run stays when it was published, as
//! the mark of that, until it is told.

use etlrs_core::{Checksum, Error, ErrorKind, Interrupted, PartitionId, Receipt, Result, RunId, Tally};
use rusqlite::{Connection, OptionalExtension};

use super::catalog::Table;
use super::quote;
use super::session::{Shared, staging_prefix};

pub(super) const LEDGER: &str = "_etlrs_ledger";
const RUNS: &str = "_etlrs_runs";

/// What is left of a run.
pub(super) struct Left {
    pub(super) run: RunId,
    pub(super) record: String,
    /// Tells how its rows are staged.
    pub(super) form: String,
    /// The run made the file of the database.
    pub(super) made_file: bool,
    pub(super) published: bool,
    pub(super) receipts: Vec<Receipt>,
}

impl Left {
    /// What is left of `run` at `target`; of the newest one if none is named.
    pub(super) fn find(connection: &Connection, target: &str, run: Option<RunId>) -> rusqlite::Result<Option<Self>> {
        if Table::find(connection, RUNS)?.is_none() {
            return Ok(None);
        }
        let sql = format!(
            "SELECT run, record, form, made_file, published FROM {RUNS} WHERE target = ?1 AND run = ifnull(?2, run)
             ORDER BY run DESC LIMIT 1"
        );
        let text = run.map(|run| run.to_string());
        let found = connection.query_row(&sql, (target, text), |row| {
            let id: String = row.get(0)?;
            Ok((id, (row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?)))
        });
        let Some((id, (record, form, made_file, published))) = found.optional()? else { return Ok(None) };
        let Ok(run) = id.parse() else { return Ok(None) };
        let receipts = receipts(connection, run, target)?;
        // Whoever removed the table since wants the rows loaded again.
        let published = published && Table::find(connection, target)?.is_some();
        Ok(Some(Self { run, record, form, made_file, published, receipts }))
    }

    pub(super) fn interrupted(self) -> Interrupted {
        Interrupted::new(self.run, self.record, self.receipts).published(self.published)
    }
}

/// Of the partitions that `run` has staged.
fn receipts(connection: &Connection, run: RunId, target: &str) -> rusqlite::Result<Vec<Receipt>> {
    if Table::find(connection, LEDGER)?.is_none() {
        return Ok(Vec::new());
    }
    let sql = format!(
        "SELECT partition, rows, bytes, checksum, rows_read FROM {LEDGER} WHERE run = ?1 AND target = ?2 ORDER BY partition"
    );
    let mut statement = connection.prepare(&sql)?;
    let found = statement.query_map((run.to_string(), target), |row| {
        let number = |index| row.get::<_, i64>(index).map(i64::unsigned_abs);
        let (rows, text) = (number(1)?, row.get::<_, Option<String>>(3)?);
        let checksum = text.and_then(|text| Checksum::restore(rows, &text));
        let (partition, bytes, rows_read) = (row.get(0)?, number(2)?, number(4)?);
        Ok(checksum
            .map(|checksum| Receipt::new(PartitionId(partition), rows, bytes).kept(Tally { checksum, rows_read })))
    })?;
    found.filter_map(Result::transpose).collect()
}

/// Removes what is left of all runs at `target` but for `except`: staging tables, and rows of the ledger. The lock of the table
/// is held, so nobody else is at work on it.
pub(super) fn remove_left(
    connection: &Connection,
    target: &str,
    except: Option<RunId>,
    failed: &dyn Fn(rusqlite::Error) -> Error,
) -> Result<()> {
    let prefix = staging_prefix(target);
    let tables: Vec<String> = connection
        .prepare(
            "SELECT name FROM sqlite_master WHERE type = 'table' AND substr(name, 1, length(?1)) = ?1 COLLATE NOCASE",
        )
        .and_then(|mut statement| statement.query_map([&prefix], |row| row.get(0))?.collect())
        .map_err(failed)?;
    for table in tables {
        // `a` must not take the staging of `a_b` for its own: what follows is just a run's id.
        let run: Option<RunId> = table.get(prefix.len()..).and_then(|run| run.parse().ok());
        if run.is_some() && run != except {
            connection.execute_batch(&format!("DROP TABLE {}", quote(&table)?)).map_err(failed)?;
        }
    }
    close(connection, target, except).map_err(failed)
}

/// Takes the rows of `target` out of the tables, but for those of `except`, and the tables with their last row.
pub(super) fn close(connection: &Connection, target: &str, except: Option<RunId>) -> rusqlite::Result<()> {
    let except = except.map(|run| run.to_string()).unwrap_or_default();
    for table in [LEDGER, RUNS] {
        if Table::find(connection, table)?.is_none() {
            continue;
        }
        connection.execute(&format!("DELETE FROM {table} WHERE target = ?1 AND run <> ?2"), (target, &except))?;
        let rows: i64 = connection.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get(0))?;
        if rows == 0 {
            connection.execute_batch(&format!("DROP TABLE {table}"))?;
        }
    }
    Ok(())
}

impl Shared {
    pub(super) fn open_ledger(&self, connection: &Connection) -> rusqlite::Result<()> {
        connection.execute_batch(&format!(
            "CREATE TABLE IF NOT EXISTS {LEDGER} (run TEXT, target TEXT COLLATE NOCASE, partition INTEGER, rows INTEGER,
             bytes INTEGER, checksum TEXT, rows_read INTEGER, first_rowid INTEGER, last_rowid INTEGER, finished_at TEXT,
             PRIMARY KEY (run, target, partition)) WITHOUT ROWID"
        ))
    }

    /// Writes down what the run is, if it can be gone on with.
    pub(super) fn add_run(&self, connection: &Connection, form: &str, made_file: bool) -> rusqlite::Result<()> {
        let Some(record) = self.plan.record.as_deref() else { return Ok(()) };
        connection.execute_batch(&format!(
            "CREATE TABLE IF NOT EXISTS {RUNS} (run TEXT, target TEXT COLLATE NOCASE, record TEXT, form TEXT,
             made_file INTEGER, published INTEGER, PRIMARY KEY (run, target)) WITHOUT ROWID"
        ))?;
        let sql = format!("INSERT INTO {RUNS} VALUES (?1, ?2, ?3, ?4, ?5, 0)");
        connection.execute(&sql, (self.run.to_string(), &self.target, record, form, made_file)).map(|_| ())
    }

    /// Says in the transaction of the rows that they are published, or that nothing is staged any more if nobody asks.
    pub(super) fn close_run(&self, connection: &Connection) -> rusqlite::Result<()> {
        if self.plan.record.is_none() {
            return close(connection, &self.target, None);
        }
        let sql = format!("UPDATE {RUNS} SET published = 1 WHERE run = ?1 AND target = ?2");
        connection.execute(&sql, (self.run.to_string(), &self.target)).map(|_| ())
    }

    /// Partitions and rows in the ledger.
    pub(super) fn staged(&self, connection: &Connection) -> rusqlite::Result<(u64, u64)> {
        if Table::find(connection, LEDGER)?.is_none() {
            return Ok((0, 0));
        }
        let sql = format!("SELECT count(*), ifnull(sum(rows), 0) FROM {LEDGER} WHERE run = ?1 AND target = ?2");
        let count = |row: &rusqlite::Row<'_>, index| row.get::<_, i64>(index).map(i64::unsigned_abs);
        connection.query_row(&sql, (self.run.to_string(), &self.target), |row| Ok((count(row, 0)?, count(row, 1)?)))
    }

    /// Removes what a finished attempt at `partition` left, and its row in the ledger.
    pub(super) fn forget(&self, connection: &Connection, partition: PartitionId) -> Result<()> {
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
}
