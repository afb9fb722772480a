//! A scan of rows that a server sends: one statement for each partition, all of one snapshot.

use std::sync::Arc;

use arrow_array::RecordBatch;
use arrow_schema::SchemaRef;
use etlrs_core::{
    BatchStream, Error, ErrorKind, Fingerprint, Partition, Pushdown, Result, RunContext, Scan, async_trait,
};

use super::{Incoming, Keep, ReadRows};
use crate::options::rows_at_a_time;

/// One state of a database, and the connections that see it.
pub(crate) trait Snapshot: Send + Sync + 'static {
    type Connection: ReadRows;

    /// What tells it from others.
    fn id(&self) -> String;

    /// # Errors
    /// `Connection` when it is gone.
    fn check(&self) -> impl Future<Output = Result<()>> + Send;

    /// A connection that sees it, for one statement.
    fn connection(&self) -> impl Future<Output = Result<Self::Connection>> + Send;
}

/// Rows on their way from the bytes of a server into batches.
pub(crate) trait Decode: Send + 'static {
    /// Takes whole rows from the front of `bytes`, until a batch is full; gives the number of bytes that they were.
    fn take(&mut self, bytes: &[u8]) -> Result<usize>;

    /// Whether a batch should be taken before more rows are.
    fn is_full(&self) -> bool;

    /// The rows that were taken; `None` if there are none.
    fn batch(&mut self) -> Result<Option<RecordBatch>>;

    /// # Errors
    /// If there should have been more when no more came.
    fn end(&self) -> Result<()> {
        Ok(())
    }
}

/// Makes a decoder for batches of at most so many rows and, as far as one row allows, bytes.
pub(crate) type MakeDecoder<D> = Box<dyn Fn(usize, usize) -> D + Send + Sync>;

pub(crate) struct ServerScan<S, D> {
    pub(crate) schema: SchemaRef,
    pub(crate) decoder: MakeDecoder<D>,
    /// One for each partition.
    pub(crate) statements: Vec<String>,
    pub(crate) partitions: Vec<Partition>,
    pub(crate) notes: Vec<String>,
    pub(crate) source: String,
    /// What is read, and how.
    pub(crate) subject: String,
    pub(crate) cursor: Option<String>,
    /// That of the table, whatever of it is read.
    pub(crate) primary_key: Vec<String>,
    pub(crate) readers: usize,
    pub(crate) fetch_size: u32,
    pub(crate) snapshot: Arc<S>,
}

#[async_trait]
impl<S: Snapshot, D: Decode> Scan for ServerScan<S, D>
where
    Arc<S>: Keep<S::Connection>,
{
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    fn partitions(&self) -> &[Partition] {
        &self.partitions
    }

    fn pushdown(&self) -> Pushdown {
        Pushdown::columns()
    }

    fn notes(&self) -> &[String] {
        &self.notes
    }

    fn cursor(&self) -> Option<&str> {
        self.cursor.as_deref()
    }

    fn subject(&self) -> Option<String> {
        Some(self.subject.clone())
    }

    fn primary_key(&self) -> &[String] {
        let is_read = |name: &String| self.schema.field_with_name(name).is_ok_and(|field| !field.is_nullable());
        if self.primary_key.iter().all(is_read) { &self.primary_key } else { &[] }
    }

    fn min_memory(&self) -> usize {
        4 * LEAST_BLOCK
    }

    fn max_readers(&self) -> usize {
        self.readers
    }

    /// What is read is fixed by the snapshot, as long as that is there.
    async fn fingerprint(&self) -> Result<Fingerprint> {
        self.snapshot.check().await.map_err(|error| error.in_source(&self.source))?;
        Ok(Fingerprint::new(self.snapshot.id()))
    }

    fn read(&self, cx: &RunContext, partition: &Partition) -> Result<BatchStream> {
        let statement = self.statements.get(partition.id.index()).ok_or_else(|| {
            Error::new(ErrorKind::Internal, format!("{:?} is no partition of this scan", partition.descriptor))
        })?;
        let max_rows = rows_at_a_time(cx.config().batch_size, self.fetch_size);
        let reader = Reader {
            cx: cx.clone(),
            snapshot: self.snapshot.clone(),
            statement: statement.clone(),
            source: self.source.clone(),
            decoder: (self.decoder)(max_rows, cx.batch_memory()),
            // Two blocks wait, one is filled and one is decoded.
            block_size: (cx.reader_memory() / 4).clamp(LEAST_BLOCK, MOST_BLOCK),
            rows: None,
            block: Vec::new(),
            at: 0,
            ended: false,
        };
        let batches = futures_util::stream::try_unfold(reader, async |mut reader| {
            let batch = reader.next().await.map_err(|error| error.in_source(&reader.source))?;
            Ok(batch.map(|batch| (batch, reader)))
        });
        Ok(Box::pin(batches))
    }
}

const LEAST_BLOCK: usize = 32 << 10;
const MOST_BLOCK: usize = 256 << 10;

/// One statement whose rows are being read.
struct Reader<S, D> {
    cx: RunContext,
    snapshot: Arc<S>,
    statement: String,
    source: String,
    decoder: D,
    block_size: usize,
    rows: Option<Incoming>,
    block: Vec<u8>,
    /// How much of the block is decoded.
    at: usize,
    ended: bool,
}

impl<S: Snapshot, D: Decode> Reader<S, D>
where
    Arc<S>: Keep<S::Connection>,
{
    async fn next(&mut self) -> Result<Option<RecordBatch>> {
        loop {
            self.at += self.decoder.take(&self.block[self.at..])?;
            if self.decoder.is_full() || self.ended {
                return self.decoder.batch();
            }
            self.fill().await?;
        }
    }

    /// Gets more bytes behind those of a row that is not whole yet.
    async fn fill(&mut self) -> Result<()> {
        let rows = match &mut self.rows {
            Some(rows) => rows,
            none => {
                let connection = self.snapshot.connection().await?;
                let (statement, home) = (std::mem::take(&mut self.statement), self.snapshot.clone());
                none.insert(Incoming::start(connection, statement, self.block_size, self.source.clone(), home))
            }
        };
        match rows.next().await {
            Some(block) => {
                self.cx.counters().bytes_read.add(block.len() as u64);
                let rest = self.block.split_off(self.at);
                self.block = if rest.is_empty() { block } else { [rest, block].concat() };
                self.at = 0;
            }
            None => {
                if let Some(rows) = self.rows.take() {
                    rows.finish().await?;
                }
                self.decoder.end()?;
                self.ended = true;
            }
        }
        Ok(())
    }
}
