use std::sync::Arc;

use arrow_array::RecordBatch;
use arrow_schema::{DataType, SchemaRef};
use etlrs_core::{Error, ErrorKind, PartitionId, PartitionWriter, Receipt, Result, Tally, async_trait, failpoint};
use rusqlite::Connection;

use super::encode::{Column, Refused};
use super::error::is_of_row;
use super::ledger::LEDGER;
use super::quote;
use super::session::Shared;
use super::types::Check;

pub(super) struct SqliteWriter {
    shared: Arc<Shared>,
    partition: PartitionId,
    /// Without those that were refused.
    rows: u64,
    /// With them.
    seen: u64,
    refused: Vec<(usize, Error)>,
    first_rowid: i64,
    pages: i64,
    open: bool,
    tally: Option<Tally>,
}

impl SqliteWriter {
    pub(super) fn open(shared: Arc<Shared>, partition: PartitionId) -> Result<Self> {
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
                let (rows, seen, refused) = (0, 0, Vec::new());
                Ok(Self { shared, partition, rows, seen, refused, first_rowid, pages, open: true, tally: None })
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
        let columns = batch.columns().iter().zip(&shared.fits);
        let columns: Option<Vec<_>> = columns.map(|(column, fit)| Column::new(column.as_ref(), *fit)).collect();
        let planned = batch.schema_ref() == &shared.plan.schema || types(&batch.schema()) == types(&shared.plan.schema);
        let Some(columns) = columns.filter(|_| planned) else {
            return Err(Error::new(ErrorKind::Internal, "a batch has another schema than was planned")
                .in_source(&shared.source));
        };
        let connection = shared.connection();
        let failed = |error| shared.failed(error);
        let mut statement = connection.prepare_cached(&shared.insert).map_err(failed)?;
        let mut scratch = String::with_capacity(96);
        let (before, partition) = (self.seen, self.partition);
        let mut insert_row = |row: usize| -> Result<()> {
            for (index, column) in columns.iter().enumerate() {
                column.bind(&mut statement, index + 1, row, &mut scratch).map_err(|refused| {
                    let row = before + row as u64 + 1;
                    let (reason, hint) = match refused {
                        Refused::NaN => {
                            ("NaN, of which SQLite would make a null", "replace it, or filter such rows out")
                        }
                        Refused::Timestamp => {
                            ("a timestamp beyond what 64 bits of microseconds count", "replace it, or cast it to text")
                        }
                        Refused::Time => ("a time that is not within a day", "replace it, or cast it to int64"),
                        Refused::Changed(Check::NoNumber) => (
                            "a text that is a number, which a column of this type would make one of",
                            "declare the column TEXT",
                        ),
                        Refused::Changed(Check::Float) => {
                            ("an integer that the column's float cannot hold exactly", "declare the column INTEGER")
                        }
                        Refused::Changed(Check::Range(..)) => (
                            "an integer beyond the range of the column's type",
                            "give the column a wider type, or filter such rows out",
                        ),
                        Refused::Changed(Check::Digits { .. }) => (
                            "a decimal of more digits than the column keeps: those that are declared, and of a number with a fraction 15",
                            "declare the column DECIMAL_TEXT(P,S) with P digits in all, or filter such rows out",
                        ),
                        Refused::Type => ("a value of another type than was planned", "please report this"),
                        Refused::Sqlite(error) => return failed(error),
                    };
                    let is_ours = hint == "please report this";
                    Error::new(
                        if is_ours { ErrorKind::Internal } else { ErrorKind::InvalidData },
                        format!("row {row} of partition {partition} holds {reason}"),
                    )
                    .hint(hint)
                    .in_source(&shared.source)
                    .at_column(shared.plan.schema.field(index).name())
                })?;
            }
            statement.raw_execute().map_err(|error| shared.refused(error)).map(drop)
        };
        self.refused.clear();
        for row in 0..batch.num_rows() {
            let done = insert_row(row);
            match done {
                Ok(()) => {}
                Err(error) if shared.plan.sifts && is_of_row(&error) => self.refused.push((row, error)),
                Err(error) => return Err(error),
            }
        }
        self.seen += batch.num_rows() as u64;
        self.rows += (batch.num_rows() - self.refused.len()) as u64;
        Ok(())
    }

    fn close(&mut self) -> Result<Receipt> {
        let shared = &self.shared;
        let connection = shared.connection();
        let failed = |error| shared.failed(error);
        let rows = i64::try_from(self.rows).unwrap_or(i64::MAX);
        let page_size: i64 = connection.query_row("PRAGMA page_size", [], |row| row.get(0)).map_err(failed)?;
        let bytes = (pages(&connection).map_err(failed)? - self.pages).saturating_mul(page_size).max(0);
        connection
            .execute(
                &format!(
                    "INSERT INTO {LEDGER} VALUES
                     (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, strftime('%Y-%m-%d %H:%M:%f', 'now'))"
                ),
                (
                    shared.run.to_string(),
                    &shared.target,
                    self.partition.0,
                    rows,
                    bytes,
                    self.tally.map(|tally| tally.checksum.to_string()),
                    self.tally.map_or(rows, |tally| i64::try_from(tally.rows_read).unwrap_or(i64::MAX)),
                    self.first_rowid,
                    self.first_rowid.saturating_add(rows) - 1,
                ),
            )
            .map_err(failed)?;
        failpoint("sqlite-part-written");
        connection.execute_batch("COMMIT").map_err(failed)?;
        failpoint("sqlite-part-committed");
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

    fn refused(&mut self) -> Vec<(usize, Error)> {
        std::mem::take(&mut self.refused)
    }

    fn seal(&mut self, tally: Tally) {
        self.tally = Some(tally);
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
