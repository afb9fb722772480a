//! Rows of one partition on their way into the staging table.

use std::sync::Arc;

use arrow_array::RecordBatch;
use etlrs_core::{Error, ErrorKind, PartitionId, PartitionWriter, Receipt, Result, Tally, async_trait, failpoint};

use super::encode::{Rows, TRAILER};
use super::name::literal;
use super::server::{CopyIn, execute};
use super::session::Shared;
use super::wire::HEAD;
use crate::network::Outgoing;
use crate::sift::PARTITION_BITS;

/// Bytes that are sent at a time.
pub(super) const LEAST_BLOCK: usize = 32 << 10;
pub(super) const MOST_BLOCK: usize = 64 << 10;

pub(super) struct PostgresWriter {
    pub(super) shared: Arc<Shared>,
    pub(super) partition: PartitionId,
    pub(super) copy: Outgoing<CopyIn>,
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

impl PostgresWriter {
    async fn send(&mut self) -> Result<()> {
        self.bytes += self.block.len() as u64;
        let mut next = Vec::with_capacity(self.block_size + self.block_size / 8);
        next.resize(HEAD, 0);
        self.copy.send(std::mem::replace(&mut self.block, next)).await
    }
}

#[async_trait]
impl PartitionWriter for PostgresWriter {
    async fn write(&mut self, batch: RecordBatch) -> Result<()> {
        let shared = self.shared.clone();
        let source = &shared.source;
        let ordinal = shared.is_numbered.then_some((u64::from(self.partition.0) << PARTITION_BITS) + self.seen);
        let mut rows = Rows::new(&batch, &shared.writings, ordinal).ok_or_else(|| {
            Error::new(ErrorKind::Internal, "a batch has another schema than was planned").in_source(source)
        })?;
        let (before, partition) = (self.seen, self.partition);
        let place = |row: usize| format!("row {} of partition {partition}", before + row as u64 + 1);
        self.refused.clear();
        loop {
            match rows.write(&mut self.block, self.block_size, place) {
                Ok(false) => break,
                Ok(true) => self.send().await?,
                Err(error) if shared.sifts && error.kind() == ErrorKind::InvalidData => {
                    self.refused.push((rows.leave_out(), error.in_source(source)));
                }
                Err(error) => return Err(error.in_source(source)),
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
        self.block.extend(TRAILER);
        self.send().await?;
        let Self { shared, partition, copy, rows, bytes, tally, .. } = *self;
        let (mut connection, counted) = copy.finish().await?;
        if counted != rows {
            let message = format!("the server took {counted} of {rows} rows of partition {partition}");
            return Err(Error::new(ErrorKind::VerifyFailed, message).in_source(&shared.source));
        }
        // An id of a transaction in a row has 32 bits, without those that count how often they were used up.
        let checksum = tally.map_or("NULL".to_owned(), |tally| literal(&tally.checksum.to_string()));
        let rows_read = tally.map_or(rows, |tally| tally.rows_read);
        let sql = format!(
            "INSERT INTO {} (partition, rows, bytes, checksum, rows_read, xid)
             VALUES ({partition}, {rows}, {bytes}, {checksum}, {rows_read}, (txid_current() & 4294967295)::text); COMMIT",
            shared.names.ledger
        );
        failpoint("postgres-part-written");
        execute(&mut connection, &sql).await.map_err(|error| shared.failed(error).transient())?;
        failpoint("postgres-part-committed");
        shared.pool.give_back(connection);
        Ok(Receipt::new(partition, counted, bytes))
    }
}
