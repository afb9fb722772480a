//! A load that has begun.

use std::sync::{Arc, Mutex, PoisonError};

use arrow_schema::{DataType, TimeUnit};
use etlrs_core::{
    CancelToken, ColumnTypes, Error, ErrorKind, Extractor, LoadPlan, LoadSession, Partition, PartitionId,
    PartitionWriter, Published, Receipt, Refusals, Result, RunContext, RunId, Scan, ScanRequest, async_trait,
    failpoint,
};

use super::encode::Style;
use super::error::mysql_error;
use super::extract::MysqlExtractor;
use super::ledger::Names;
use super::load::{Server, run_script};
use super::publish;
use super::saved_cursor;
use super::server::{self, MysqlPool, Statement};
use super::target::Target;
use super::wire::{Answer, Connection, Failure};
use super::writer::{LEAST_BLOCK, MOST_BLOCK, MysqlWriter, StagedWriter};
use super::writing::{Put, Writing};
use crate::MysqlSourceOptions;
use crate::network::{Connect, Outgoing, close_all};
use crate::table::TableName;

/// What the session and its writers share.
pub(super) struct Shared {
    pub(super) pool: MysqlPool,
    /// The database and the table, for errors.
    pub(super) source: String,
    pub(super) names: Names,
    pub(super) statement: Statement,
    /// What an INSERT begins with.
    pub(super) head: Vec<u8>,
    pub(super) writings: Vec<Writing>,
    pub(super) moved: bool,
    /// An earlier attempt at the run may have staged partitions, or be about to.
    pub(super) goes_on: bool,
    pub(super) plan: LoadPlan,
}

impl Shared {
    pub(super) fn failed(&self, error: Failure) -> Error {
        mysql_error(&self.source, error)
    }
}

pub(super) struct MysqlSession {
    pub(super) shared: Arc<Shared>,
    /// The connection that holds the lock of the target.
    pub(super) control: Mutex<Option<Connection>>,
    pub(super) lock: String,
    pub(super) name: TableName,
    pub(super) run: RunId,
    pub(super) plan: LoadPlan,
    pub(super) target: Target,
    pub(super) lock_timeout: std::time::Duration,
    pub(super) cancel: CancelToken,
    pub(super) post_sql: String,
    pub(super) server: Server,
    pub(super) connections: usize,
    /// Whether the staging table has a primary key.
    pub(super) keyed: bool,
    pub(super) completed: Vec<Receipt>,
    /// Rows that are moved, of which only the last step is left.
    pub(super) moved: Option<u64>,
}

impl MysqlSession {
    fn control(&self) -> std::sync::MutexGuard<'_, Option<Connection>> {
        self.control.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The target, while another table takes its place.
    pub(super) fn old_name(&self) -> TableName {
        let name = self.shared.names.staging_name.name.replacen("_staging_", "_old_", 1);
        TableName { schema: self.name.schema.clone(), name }
    }

    /// Partitions that the run can go on behind; `None` if the connection is lost, which says nothing of them.
    async fn kept(&self) -> Option<usize> {
        let mut control = self.control().take()?;
        _ = control.execute("ROLLBACK").await;
        let sql = format!("SELECT count(*) FROM {} WHERE partition_id >= 0", self.shared.names.ledger);
        let count = match control.rows(&sql).await {
            Ok(found) => {
                let count: Answer<u64> = found.first().map_or(Ok(0), |row| row.get(0));
                count.ok()
            }
            Err(_) => None,
        };
        *self.control() = Some(control);
        count.map(|count| usize::try_from(count).unwrap_or(usize::MAX))
    }

    /// What is staged, or a query of that, with the types in which it is compared.
    pub(super) async fn read_staged(&self, cx: &RunContext, staged: MysqlExtractor) -> Result<Arc<dyn Scan>> {
        let fields = self.plan.schema.fields();
        let types = fields.iter().zip(&self.target.writings).filter_map(|(field, writing)| {
            let read = match (field.data_type(), &writing.put) {
                (DataType::Boolean, Put::Integer { .. }) if writing.staged.starts_with("tinyint") => DataType::Boolean,
                (DataType::Timestamp(_, Some(_)), _) if writing.staged.starts_with("datetime") => {
                    DataType::Timestamp(TimeUnit::Microsecond, Some(Arc::from("UTC")))
                }
                _ => return None,
            };
            Some((field.name().clone(), read))
        });
        let options = MysqlSourceOptions { types: ColumnTypes(types.collect()), ..MysqlSourceOptions::default() };
        let request = ScanRequest::all().columns(fields.iter().map(|field| field.name()));
        staged.with_options(options).scan(cx, &request).await
    }

    async fn clean(&mut self, keep_mark: bool) -> Result<()> {
        let Some(mut control) = self.control().take() else { return Ok(()) };
        // What says that the rows are published stays until that is told.
        let names = &self.shared.names;
        let drop = if keep_mark { names.drop_staged() } else { names.drop_all() };
        let release = format!("DO release_lock({})", self.lock);
        let mut done = Ok(());
        for sql in ["ROLLBACK", "SET SESSION lock_wait_timeout = 10", &drop, &release] {
            if let Err(error) = control.execute(sql).await {
                done = Err(self.shared.failed(error));
            }
        }
        // What was set for the commit goes with the connection.
        control.close().await;
        done
    }
}

#[async_trait]
impl LoadSession for MysqlSession {
    fn completed(&self) -> &[Receipt] {
        &self.completed
    }

    fn min_memory(&self) -> usize {
        4 * LEAST_BLOCK
    }

    fn max_writers(&self) -> usize {
        if !self.keyed {
            // The server numbers rows without a key itself, one after another: two writers take longer than one.
            return 1;
        }
        // One connection holds the lock.
        self.connections.saturating_sub(1).max(1)
    }

    async fn writer(&self, cx: &RunContext, partition: &Partition, attempt: u32) -> Result<Box<dyn PartitionWriter>> {
        let shared = self.shared.clone();
        if (attempt > 1 || shared.goes_on)
            && let Some((staged, checksum)) = staged_rows(&shared, partition.id).await?
        {
            let partition = partition.id;
            let (rows, seen, refused, tally) = (0, 0, Vec::new(), None);
            let writer = StagedWriter { shared, partition, staged, checksum, rows, seen, refused, tally };
            return Ok(Box::new(writer));
        }
        let connection = shared.pool.take().await?;
        let rows = server::Rows { connection, statement: shared.statement.clone(), taken: 0 };
        let style = if matches!(shared.statement, Statement::Load(_)) { Style::Load } else { Style::Insert };
        let rows = Outgoing::start(rows, shared.source.clone());
        // Two blocks wait, one is filled and one is sent.
        let block_size = (cx.writer_memory() / 4).clamp(LEAST_BLOCK, MOST_BLOCK);
        let mut writer = MysqlWriter {
            shared,
            partition: partition.id,
            out: rows,
            style,
            block: Vec::new(),
            block_size,
            rows: 0,
            seen: 0,
            refused: Vec::new(),
            bytes: 0,
            tally: None,
        };
        writer.begin_block();
        Ok(Box::new(writer))
    }

    async fn read_back(&mut self, cx: &RunContext, _: &[Receipt]) -> Result<Option<Arc<dyn Scan>>> {
        let staged = MysqlExtractor::of_table(self.shared.pool.clone(), self.shared.names.staging_name.clone());
        self.read_staged(cx, staged).await.map(Some)
    }

    async fn sift(&mut self, cx: &RunContext, receipts: &[Receipt], refused: &mut dyn Refusals) -> Result<()> {
        let lost = || Error::new(ErrorKind::Internal, "the connection of the session is gone");
        let mut control = self.control().take().ok_or_else(lost)?;
        let moved = publish::sift(self, &mut control, cx, receipts, refused).await;
        *self.control() = Some(control);
        self.moved = moved?;
        Ok(())
    }

    async fn commit(mut self: Box<Self>, receipts: Vec<Receipt>) -> Result<Published> {
        let lost = || Error::new(ErrorKind::Internal, "the connection of the session is gone");
        let mut control = self.control().take().ok_or_else(lost)?;
        let mut published = publish::publish(&self, &mut control, &receipts).await;
        failpoint("mysql-committed");
        let keep_mark = self.plan.record.is_some() && published.is_ok();
        let is_confirmed = published.is_err() || {
            let done = saved_cursor::confirm(&mut control, &self.name, self.server, self.run, true).await;
            matches!(done, Ok(Ok(())))
        };
        if published.is_ok() && !self.post_sql.is_empty() && !self.plan.is_repair {
            // Statements that define something end a transaction in MySQL, so it could not be part of one.
            let done = run_script(&self.shared.pool, &self.post_sql).await;
            if let Err(error) = done.and_then(|done| done.map_err(|error| self.shared.failed(error))) {
                published = Err(error.hint("that is the option post_sql; the rows are published"));
            }
        }
        let is_kept = self.plan.record.is_some() && published.as_ref().is_err_and(Error::may_pass);
        // What may be there is not to be removed before that is known. Otherwise what is left of the staging area is removed; if
        // that fails now, by the next run on this table.
        // The rows may be there, and the position not: what is left of the run tells whoever loads next to take that over.
        if is_confirmed && (keep_mark || !is_kept) {
            *self.control() = Some(control);
            _ = self.clean(keep_mark).await;
            failpoint("mysql-cleaned");
        }
        Ok(Published::new(published?, receipts.iter().map(|receipt| receipt.bytes).sum()))
    }

    async fn abort(mut self: Box<Self>) -> Result<()> {
        self.clean(false).await
    }

    async fn suspend(mut self: Box<Self>) -> Result<usize> {
        let kept = match self.plan.record {
            Some(_) => self.kept().await,
            None => Some(0),
        };
        if kept == Some(0) {
            self.clean(false).await?;
        } else {
            // The lock goes with the connection.
            let control = self.control().take();
            if let Some(control) = control {
                control.close().await;
            }
        }
        Ok(kept.unwrap_or(0))
    }
}

impl Drop for MysqlSession {
    fn drop(&mut self) {
        // What is staged is removed by the next run on this table.
        let control = self.control().take();
        close_all(control.into_iter().collect());
    }
}

/// The rows of a partition, if a transaction that staged it was committed. Waits for one that is still on its way.
async fn staged_rows(shared: &Shared, partition: PartitionId) -> Result<Option<(u64, Option<String>)>> {
    let failed = |error| shared.failed(error);
    let mut connection = shared.pool.take().await?;
    let ledger = &shared.names.ledger;
    let sql = format!("SELECT row_count, checksum FROM {ledger} WHERE partition_id = {partition} FOR UPDATE");
    let found = connection.rows(&sql).await.map_err(failed)?;
    let staged = match found.first() {
        Some(row) => Some((row.get(0).map_err(failed)?, row.get(1).map_err(failed)?)),
        None => None,
    };
    shared.pool.give_back(connection);
    Ok(staged)
}
