//! What is staged in a database, and what is left of runs: tables beside the target, each of one run.
//!
//! The ledger has a row for each partition that is staged, and a comment that says what the run is and whether it was published. Its
//! rows are as durable as those of the staging table, so that a crash of the server takes both or neither; the comment, which is in
//! the catalogue, survives, for that the rows are published must be known after a crash too. It is replicated to nobody.

use etlrs_core::{Checksum, Interrupted, PartitionId, Receipt, RunId, Tally};

use super::name::literal;
use super::server::{execute, rows, text};
use super::wire::{Answer, Connection, code};
use crate::table::TableName;

/// How what is written down of a run begins.
const HEAD: &str = "etlrs run 1";

/// Names of what a run stages. They have 58 bytes at the most, of the 63 that PostgreSQL keeps.
pub(super) struct Names {
    pub(super) staging: String,
    pub(super) ledger: String,
}

impl Names {
    pub(super) fn new(schema: &str, hash: u64, run: RunId) -> Self {
        let schema = schema.replace('"', "\"\"");
        let name = |kind: &str| format!("\"{schema}\"._etlrs_{kind}_{hash:016x}_{run}");
        Self { staging: name("staging"), ledger: name("ledger") }
    }

    /// The statement that makes the ledger, in a table of the `kind`.
    pub(super) fn create_ledger(&self, kind: &str) -> String {
        format!(
            "CREATE {kind} {} (partition int8 PRIMARY KEY, rows int8 NOT NULL, bytes int8 NOT NULL, checksum text,
             rows_read int8, xid text NOT NULL, finished_at timestamptz NOT NULL DEFAULT now())",
            self.ledger
        )
    }

    /// The statement that writes down what the run is, how its rows are staged, and how many are published.
    pub(super) fn write_down(&self, record: &str, form: &str, published: Option<u64>) -> String {
        let published = published.map_or("-".to_owned(), |rows| rows.to_string());
        let about = format!("{HEAD} {form} {published}\n{record}");
        format!("COMMENT ON TABLE {} IS {}", self.ledger, literal(&about))
    }

    pub(super) fn drop_all(&self) -> String {
        format!("DROP TABLE IF EXISTS {}, {}", self.staging, self.ledger)
    }
}

/// What is left of a run.
pub(super) struct Left {
    run: RunId,
    pub(super) record: String,
    pub(super) form: String,
    /// Rows that were published.
    pub(super) published: Option<u64>,
    pub(super) receipts: Vec<Receipt>,
}

impl Left {
    /// Of `run`, whose tables are called `names`, and which was to load into `target`.
    pub(super) async fn find(
        connection: &mut Connection,
        target: &TableName,
        names: &Names,
        run: RunId,
    ) -> Answer<Option<Self>> {
        let about = text(connection, "SELECT obj_description(to_regclass($1), 'pg_class')", &[&names.ledger]).await?;
        let Some(mut left) = about.and_then(|about| Self::parse(run, &about)) else { return Ok(None) };
        // Whoever removed the table since wants the rows loaded again.
        if let (Some(_), Ok(target)) = (left.published, target.quoted())
            && !is_there(connection, &target).await?
        {
            left.published = None;
        }
        let sql = format!(
            "SELECT partition::text, rows::text, bytes::text, checksum, rows_read::text FROM {} ORDER BY partition",
            names.ledger
        );
        let found = match rows(connection, &sql, &[]).await {
            // Another run has removed it since.
            Err(error) if code(&error) == Some("42P01") => return Ok(None),
            found => found?,
        };
        for row in found {
            let count = |index| row.get::<Option<String>, _>(index).map(number);
            let (Some(partition), Some(rows), Some(bytes)) = (count(0)?, count(1)?, count(2)?) else { continue };
            let checksum: Option<String> = row.get(3)?;
            let checksum = checksum.and_then(|text| Checksum::restore(rows, &text));
            // One without a checksum is staged again.
            if let (Some(checksum), Ok(partition)) = (checksum, u32::try_from(partition)) {
                let tally = Tally { checksum, rows_read: count(4)?.unwrap_or(rows) };
                left.receipts.push(Receipt::new(PartitionId(partition), rows, bytes).kept(tally));
            }
        }
        Ok(Some(left))
    }

    /// What [`Names::write_down`] wrote.
    fn parse(run: RunId, about: &str) -> Option<Self> {
        let (first, record) = about.split_once('\n')?;
        let (form, published) = first.strip_prefix(HEAD)?.strip_prefix(' ')?.split_once(' ')?;
        let (record, form) = (record.to_owned(), form.to_owned());
        Some(Self { run, record, form, published: published.parse().ok(), receipts: Vec::new() })
    }

    /// Of the newest run that is left for the target with this `hash`.
    pub(super) async fn newest(connection: &mut Connection, target: &TableName, hash: u64) -> Answer<Option<Self>> {
        let schema = target.schema.as_deref().unwrap_or_default();
        let sql = "SELECT right(c.relname, 26) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
            WHERE n.nspname = $1 AND c.relkind = 'r' AND c.relname ~ ('^_etlrs_ledger_' || $2 || '_[0-9a-z]{26}$')
            ORDER BY c.relname DESC LIMIT 1";
        let found = text(connection, sql, &[schema, &format!("{hash:016x}")]).await?;
        match found.and_then(|run| run.parse().ok()) {
            Some(run) => Self::find(connection, target, &Names::new(schema, hash, run), run).await,
            None => Ok(None),
        }
    }

    pub(super) fn interrupted(self) -> Interrupted {
        Interrupted::new(self.run, self.record, self.receipts).published(self.published.is_some())
    }
}

fn number(text: Option<String>) -> Option<u64> {
    text.and_then(|text| text.parse().ok())
}

pub(super) async fn is_there(connection: &mut Connection, table: &str) -> Answer<bool> {
    Ok(text(connection, "SELECT to_regclass($1)::text", &[table]).await?.is_some())
}

/// Drops what other runs left for the target: the lock is held, so nobody else is at work on it.
pub(super) async fn remove_stale(connection: &mut Connection, schema: &str, hash: u64, run: RunId) -> Answer<()> {
    let sql =
        "SELECT format('%I.%I', n.nspname, c.relname) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE n.nspname = $1 AND c.relkind = 'r' AND c.relname ~ ('^_etlrs_(staging|ledger)_' || $2 || '_[0-9a-z]{26}$')
            AND NOT c.relname LIKE '%' || $3";
    for row in rows(connection, sql, &[schema, &format!("{hash:016x}"), &run.to_string()]).await? {
        let table: String = row.get(0)?;
        drop_patiently(connection, &format!("DROP TABLE IF EXISTS {table}")).await?;
    }
    Ok(())
}

/// Drops tables, for which a backend that has not noticed that its client died may have to be waited for.
pub(super) async fn drop_patiently(connection: &mut Connection, sql: &str) -> Answer<()> {
    execute(connection, &format!("BEGIN; SET LOCAL lock_timeout = '10s'; {sql}; COMMIT")).await.map(|_| ())
}

/// Removes what a finished attempt at `partition` left, and its row in the ledger.
pub(super) async fn forget(connection: &mut Connection, names: &Names, partition: PartitionId) -> Answer<()> {
    let sql = format!("DELETE FROM {} WHERE partition = $1::int8 RETURNING xid", names.ledger);
    for row in rows(connection, &sql, &[&partition.to_string()]).await? {
        let xid: String = row.get(0)?;
        let sql = format!("DELETE FROM {} WHERE xmin = {}::xid", names.staging, literal(&xid));
        execute(connection, &sql).await?;
    }
    Ok(())
}
