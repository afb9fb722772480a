//! Rows of one partition on their way into the staging table.

use std::sync::Arc;

use arrow_array::RecordBatch;
use etlrs_core::{Error, ErrorKind, PartitionId, PartitionWriter, Receipt, Result, Tally, async_trait, failpoint};

use super::encode::{Rows, Style};
use super::name::literal;
use super::server;
use super::session::Shared;
use crate::key::with_hint_of_key;
use crate::network::Outgoing;
use crate::sift::PARTITION_BITS;

/// Bytes that are sent at a time.
pub(super) const LEAST_BLOCK: usize = 32 << 10;
pub(super) const MOST_BLOCK: usize = 256 << 10;

pub(super) struct MysqlWriter {
    pub(super) shared: Arc<Shared>,
    pub(super) partition: PartitionId,
    pub(super) out: Outgoing<server::Rows>,
    pub(super) style: Style,
    pub(super) block: Vec<u8>,
    pub(super) block_size: usize,
    /// Without those that were refused.
    pub(super) rows: u64,
    /// With them.
    pub(super) seen: u64,
    pub(super) refused: Vec<(usize, Error)>,
    pub(super) bytes: u64,
    pub(super) tally: Option<Tally>,
}

impl MysqlWriter {
    pub(super) fn begin_block(&mut self) {
        self.block = Vec::with_capacity(self.block_size + self.block_size / 8);
        if self.style == Style::Insert {
            self.block.extend_from_slice(&self.shared.head);
        }
    }

    async fn send(&mut self) -> Result<()> {
        let block = std::mem::take(&mut self.block);
        let is_empty = self.style == Style::Insert && block.len() == self.shared.head.len();
        if !is_empty {
            self.bytes += block.len() as u64;
            self.out.send(block).await.map_err(|error| with_hint_of_key(error, &self.shared.plan))?;
        }
        self.begin_block();
        Ok(())
    }
}

#[async_trait]
impl PartitionWriter for MysqlWriter {
    async fn write(&mut self, batch: RecordBatch) -> Result<()> {
        let shared = self.shared.clone();
        let source = &shared.source;
        let ordinal = shared.moved.then_some((u64::from(self.partition.0) << PARTITION_BITS) + self.seen);
        let mut rows = Rows::new(&batch, &shared.writings, ordinal, self.style).ok_or_else(|| {
            Error::new(ErrorKind::Internal, "a batch has another schema than was planned").in_source(source)
        })?;
        let (before, partition) = (self.seen, self.partition);
        let place = |row: usize| format!("row {} of partition {partition}", before + row as u64 + 1);
        let wrong = |error: Error| with_hint_of_key(error.in_source(source), &shared.plan);
        self.refused.clear();
        loop {
            match rows.write(&mut self.block, self.block_size, place) {
                Ok(false) => break,
                Ok(true) => self.send().await?,
                Err(error) if shared.plan.sifts && error.kind() == ErrorKind::InvalidData => {
                    self.refused.push((rows.leave_out(), wrong(error)));
                }
                Err(error) => return Err(wrong(error)),
            }
        }
        self.seen += batch.num_rows() as u64;
        self.rows += (batch.num_rows() - self.refused.len()) as u64;
        Ok(())
    }

    fn refused(&mut self) -> Vec<(usize, Error)> {
        std::mem::take(&mut self.refused)
    }

    fn seal(&mut self, tally: Tally) {
        self.tally = Some(tally);
    }

    async fn finish(mut self: Box<Self>) -> Result<Receipt> {
        self.send().await?;
        let Self { shared, partition, out, rows, bytes, tally, .. } = *self;
        let finished = out.finish().await;
        let (mut connection, taken) = finished.map_err(|error| with_hint_of_key(error, &shared.plan))?;
        if taken != rows {
            let message = format!("the server took {taken} of {rows} rows of partition {partition}");
            return Err(Error::new(ErrorKind::VerifyFailed, message).in_source(&shared.source));
        }
        let checksum = tally.map_or("NULL".to_owned(), |tally| literal(&tally.checksum.to_string()));
        let rows_read = tally.map_or(rows, |tally| tally.rows_read);
        let ledger = &shared.names.ledger;
        let sql = format!("INSERT INTO {ledger} VALUES ({partition}, {rows}, {bytes}, {checksum}, {rows_read})");
        connection.execute(&sql).await.map_err(|error| shared.failed(error))?;
        failpoint("mysql-part-written");
        // If the answer is lost, the next attempt finds out.
        connection.execute("COMMIT").await.map_err(|error| shared.failed(error).transient())?;
        failpoint("mysql-part-committed");
        shared.pool.give_back(connection);
        Ok(Receipt::new(partition, rows, bytes))
    }
}

/// Of a partition that is staged already.
pub(super) struct StagedWriter {
    pub(super) shared: Arc<Shared>,
    pub(super) partition: PartitionId,
    pub(super) staged: u64,
    /// Of the rows that are staged.
    pub(super) checksum: Option<String>,
    /// Without those that were refused.
    pub(super) rows: u64,
    /// With them.
    pub(super) seen: u64,
    pub(super) refused: Vec<(usize, Error)>,
    pub(super) tally: Option<Tally>,
}

#[async_trait]
impl PartitionWriter for StagedWriter {
    async fn write(&mut self, batch: RecordBatch) -> Result<()> {
        self.refused.clear();
        if self.shared.plan.sifts {
            // The same rows are refused as when it was staged.
            let (mut block, before, partition) = (Vec::new(), self.seen, self.partition);
            let place = |row: usize| format!("row {} of partition {partition}", before + row as u64 + 1);
            let rows = Rows::new(&batch, &self.shared.writings, None, Style::Load);
            let mut rows =
                rows.ok_or_else(|| Error::new(ErrorKind::Internal, "a batch has another schema than was planned"))?;
            loop {
                match rows.write(&mut block, LEAST_BLOCK, place) {
                    Ok(false) => break,
                    Ok(true) => block.clear(),
                    Err(error) if error.kind() != ErrorKind::InvalidData => return Err(error),
                    Err(error) => {
                        let error = with_hint_of_key(error.in_source(&self.shared.source), &self.shared.plan);
                        self.refused.push((rows.leave_out(), error));
                    }
                }
            }
        }
        self.seen += batch.num_rows() as u64;
        self.rows += (batch.num_rows() - self.refused.len()) as u64;
        Ok(())
    }

    fn refused(&mut self) -> Vec<(usize, Error)> {
        std::mem::take(&mut self.refused)
    }

    fn seal(&mut self, tally: Tally) {
        self.tally = Some(tally);
    }

    async fn finish(self: Box<Self>) -> Result<Receipt> {
        let checksum = self.tally.map(|tally| tally.checksum.to_string());
        // Of a version that kept none, the number of rows has to do.
        let differs = self.checksum.is_some() && checksum.is_some() && self.checksum != checksum;
        if self.rows != self.staged || differs {
            let message = match self.rows == self.staged {
                true => format!("partition {} has other rows when it is read again than were staged", self.partition),
                false => format!(
                    "partition {} was staged with {} rows and has {} when it is read again",
                    self.partition, self.staged, self.rows
                ),
            };
            return Err(Error::new(ErrorKind::VerifyFailed, message).in_source(&self.shared.source));
        }
        Ok(Receipt::new(self.partition, self.staged, 0))
    }
}
