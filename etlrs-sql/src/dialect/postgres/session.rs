//! A load that has begun.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arrow_schema::Field;
use etlrs_core::{
    CancelToken, ColumnTypes, Error, ErrorKind, Extractor, LoadPlan, LoadSession, Partition, PartitionWriter,
    Published, Receipt, Refusals, Result, RunContext, RunId, Scan, ScanRequest, async_trait, failpoint,
};

use super::encode::HEADER;
use super::error::postgres_error;
use super::extract::PostgresExtractor;
use super::ledger::{Names, forget};
use super::load::BEGIN;
use super::publish;
use super::server::{CopyIn, PostgresPool, execute, text};
use super::target::Target;
use super::types::Writing;
use super::wire::{Connection, Failure, HEAD};
use super::writer::{LEAST_BLOCK, MOST_BLOCK, PostgresWriter};
use crate::PostgresSourceOptions;
use crate::network::{Connect, Outgoing, close_all};
use crate::table::TableName;

/// What the session and its writers share.
pub(super) struct Shared {
    pub(super) pool: PostgresPool,
    /// The database and the table, for errors.
    pub(super) source: String,
    pub(super) names: Names,
    pub(super) copy: String,
    pub(super) writings: Vec<Writing>,
    pub(super) is_numbered: bool,
    pub(super) sifts: bool,
    /// An earlier attempt at the run may have staged partitions, or be about to.
    pub(super) goes_on: bool,
    /// What tells how rows are staged.
    pub(super) form: String,
}

impl Shared {
    pub(super) fn failed(&self, error: Failure) -> Error {
        postgres_error(&self.source, error)
    }
}

pub(super) struct PostgresSession {
    /// What the run had staged before it was stopped.
    pub(super) completed: Vec<Receipt>,
    pub(super) shared: Arc<Shared>,
    /// The connection that holds the lock of the target.
    pub(super) control: Mutex<Option<Connection>>,
    pub(super) lock: i64,
    pub(super) name: TableName,
    pub(super) run: RunId,
    pub(super) plan: LoadPlan,
    pub(super) target: Target,
    pub(super) lock_timeout: Duration,
    pub(super) cancel: CancelToken,
    pub(super) post_sql: String,
    /// The connection is as it was: no SQL of the user's may have set something for it.
    pub(super) keeps_settings: bool,
    pub(super) connections: usize,
    /// Rows that are moved in a transaction which is open.
    pub(super) moved: Option<u64>,
}

impl PostgresSession {
    fn take_control(&self) -> Option<Connection> {
        self.control.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Partitions that the run can go on behind; `None` if the connection is lost, which says nothing of them.
    async fn kept(&self) -> Option<usize> {
        let mut control = self.take_control()?;
        let sql = format!("SELECT count(*)::text FROM {}", self.shared.names.ledger);
        _ = execute(&mut control, "ROLLBACK").await;
        let kept = match text(&mut control, &sql, &[]).await {
            Ok(count) => Some(count.and_then(|count| count.parse().ok()).unwrap_or(0)),
            Err(_) => None,
        };
        *self.control.lock().unwrap_or_else(PoisonError::into_inner) = Some(control);
        kept
    }

    /// What is staged, or a query of that, with the types in which it is compared.
    pub(super) async fn read_staged(&self, cx: &RunContext, staged: PostgresExtractor) -> Result<Arc<dyn Scan>> {
        let fields = self.plan.schema.fields();
        let is_uuid = |field: &&Arc<Field>| field.extension_type_name() == Some("arrow.uuid");
        let uuids = fields.iter().filter(is_uuid).map(|field| (field.name().clone(), field.data_type().clone()));
        let options = PostgresSourceOptions { types: ColumnTypes(uuids.collect()), ..PostgresSourceOptions::default() };
        let request = ScanRequest::all().columns(fields.iter().map(|field| field.name()));
        staged.with_options(options).scan(cx, &request).await
    }

    async fn clean(&mut self, keep_mark: bool) -> Result<()> {
        let Some(mut control) = self.take_control() else { return Ok(()) };
        let names = &self.shared.names;
        // What says that the rows are published stays until that is told.
        let dropped = match keep_mark {
            true => format!("DROP TABLE IF EXISTS {}", names.staging),
            false => names.drop_all(),
        };
        let sql = format!(
            "ROLLBACK; SET lock_timeout = '10s'; {dropped}; SET lock_timeout = 0; SELECT pg_advisory_unlock({})",
            self.lock
        );
        execute(&mut control, &sql).await.map_err(|error| self.shared.failed(error))?;
        if self.keeps_settings {
            self.shared.pool.give_back(control);
        } else {
            control.close().await;
        }
        Ok(())
    }
}

#[async_trait]
impl LoadSession for PostgresSession {
    fn completed(&self) -> &[Receipt] {
        &self.completed
    }

    fn min_memory(&self) -> usize {
        4 * LEAST_BLOCK
    }

    fn max_writers(&self) -> usize {
        // One connection holds the lock.
        self.connections.saturating_sub(1).max(1)
    }

    async fn writer(&self, cx: &RunContext, partition: &Partition, attempt: u32) -> Result<Box<dyn PartitionWriter>> {
        let shared = self.shared.clone();
        let mut connection = shared.pool.take().await?;
        let failed = |error| shared.failed(error);
        if attempt > 1 || shared.goes_on {
            // The answer to the commit of the attempt before may have been lost, or the backend of a dead process have come to it.
            execute(&mut connection, BEGIN).await.map_err(failed)?;
            forget(&mut connection, &shared.names, partition.id).await.map_err(failed)?;
            execute(&mut connection, "COMMIT").await.map_err(failed)?;
        }
        // What a crash of the server may take is taken together with its row in the ledger. The commit of the whole is as
        // durable as the server is told to make it, and what was committed before it is too.
        let sql = format!("{BEGIN}; SET LOCAL synchronous_commit = off; {}", shared.copy);
        let copy = Outgoing::start(CopyIn { connection, sql }, shared.source.clone());
        // Two blocks wait, one is filled and one is sent.
        let block_size = (cx.writer_memory() / 4).clamp(LEAST_BLOCK, MOST_BLOCK);
        let block = [&[0; HEAD], HEADER].concat();
        Ok(Box::new(PostgresWriter {
            shared,
            partition: partition.id,
            copy,
            block,
            block_size,
            rows: 0,
            seen: 0,
            refused: Vec::new(),
            bytes: 0,
            tally: None,
        }))
    }

    async fn read_back(&mut self, cx: &RunContext, _: &[Receipt]) -> Result<Option<Arc<dyn Scan>>> {
        let staged = PostgresExtractor::table(self.shared.pool.clone(), &self.shared.names.staging)?;
        self.read_staged(cx, staged).await.map(Some)
    }

    async fn sift(&mut self, cx: &RunContext, receipts: &[Receipt], refused: &mut dyn Refusals) -> Result<()> {
        let lost = || Error::new(ErrorKind::Internal, "the connection of the session is gone");
        let mut control = self.take_control().ok_or_else(lost)?;
        let moved = publish::sift(self, &mut control, cx, receipts, refused).await;
        *self.control.lock().unwrap_or_else(PoisonError::into_inner) = Some(control);
        self.moved = moved?;
        Ok(())
    }

    async fn commit(mut self: Box<Self>, receipts: Vec<Receipt>) -> Result<Published> {
        let lost = || Error::new(ErrorKind::Internal, "the connection of the session is gone");
        let mut control = self.take_control().ok_or_else(lost)?;
        let rows = publish::publish(&self, &mut control, &receipts).await;
        failpoint("postgres-committed");
        match rows {
            Ok(rows) => {
                // What is left of the staging area is removed; if that fails now, by the next run on this table.
                *self.control.lock().unwrap_or_else(PoisonError::into_inner) = Some(control);
                _ = self.clean(self.plan.record.is_some()).await;
                failpoint("postgres-cleaned");
                Ok(Published::new(rows, receipts.iter().map(|receipt| receipt.bytes).sum()))
            }
            Err(error) => {
                // What may be there is not to be removed before that is known.
                if self.plan.record.is_none() || !error.may_pass() {
                    *self.control.lock().unwrap_or_else(PoisonError::into_inner) = Some(control);
                    _ = self.clean(false).await;
                }
                Err(error)
            }
        }
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
        } else if let Some(control) = self.take_control() {
            // The lock goes with the connection.
            control.close().await;
        }
        Ok(kept.unwrap_or(0))
    }
}

impl Drop for PostgresSession {
    fn drop(&mut self) {
        // What is staged is removed by the next run on this table.
        close_all(self.take_control().into_iter().collect());
    }
}
