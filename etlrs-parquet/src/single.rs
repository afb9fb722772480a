//! One file for all partitions, in their order: each writer encodes row groups in memory, and appends them when its
//! partition is in turn ([`OrderedFile`]).

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use arrow_array::RecordBatch;
use async_trait::async_trait;
use etlrs_core::{Partition, PartitionId, PartitionWriter, Receipt, Result, RunContext};
use etlrs_files::{OrderedFile, OutputFile, Staging};
use parquet::bloom_filter::Sbbf;
use parquet::column::writer::ColumnCloseResult;
use parquet::errors::ParquetError;
use parquet::file::metadata::{PageIndexPolicy, ParquetMetaData};
use parquet::file::writer::SerializedFileWriter;

use crate::encode::{Encoder, Layout, RowGroup};
use crate::error::{guarded, writing};
use crate::file::{ParquetFile, read_footer};

/// The one file that the writers of a load share.
pub(crate) struct SharedFile {
    layout: Arc<Layout>,
    staging: Arc<Staging>,
    /// The file whose rows come first, in mode append.
    old: Option<ParquetFile>,
    // A thread that panicked while it wrote leaves a row group open, and the parquet crate refuses to go on after that.
    file: OrderedFile<SerializedFileWriter<OutputFile>>,
    closed: Mutex<Option<Closed>>,
}

/// What a file has after its footer was written.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Closed {
    pub(crate) rows: u64,
    pub(crate) bytes: u64,
}

impl SharedFile {
    pub(crate) fn new(layout: Arc<Layout>, staging: Arc<Staging>, old: Option<ParquetFile>) -> Self {
        Self { layout, staging, old, file: OrderedFile::new(), closed: Mutex::default() }
    }

    fn target(&self) -> &Path {
        self.staging.target()
    }

    /// Row groups of the file that were there before the load.
    pub(crate) fn old_row_groups(&self) -> usize {
        self.old.as_ref().map_or(0, |old| old.footer().num_row_groups())
    }

    fn old_rows(&self) -> u64 {
        let rows = |metadata: &ParquetMetaData| {
            metadata.row_groups().iter().map(|group| u64::try_from(group.num_rows()).unwrap_or(0)).sum()
        };
        self.old.as_ref().map_or(0, |old| rows(old.footer()))
    }

    pub(crate) fn writer(self: &Arc<Self>, cx: &RunContext, partition: &Partition) -> Result<Box<dyn PartitionWriter>> {
        self.file.admit(partition.id).map_err(|error| error.in_source(self.target().display()))?;
        Ok(Box::new(SharedFileWriter {
            file: self.clone(),
            partition: partition.id,
            encoder: Encoder::new(self.layout.clone()),
            parked: Vec::new(),
            memory: cx.writer_memory(),
            receipt: Receipt::new(partition.id, 0, 0),
        }))
    }

    /// Writes `groups` to the file when the partition is in turn, and adds to `receipt` what the file says it took.
    async fn append(&self, groups: &mut Vec<RowGroup>, receipt: &mut Receipt) -> Result<()> {
        if groups.is_empty() {
            return Ok(());
        }
        let write = |file: &mut SerializedFileWriter<OutputFile>| {
            for group in groups.drain(..) {
                let written = append_row_group(file, group).map_err(|error| writing(self.target(), error))?;
                receipt.rows += written.rows;
                receipt.bytes += written.bytes;
            }
            Ok(())
        };
        self.file.append(receipt.partition, || self.open(), write).await
    }

    fn open(&self) -> Result<SerializedFileWriter<OutputFile>> {
        let mut file = start(self.staging.create(None)?, self.target(), &self.layout)?;
        if let Some(old) = &self.old {
            copy_row_groups(old, &mut file, self.target())?;
        }
        Ok(file)
    }

    /// Writes the footer, once, and tells the rows of the load, without those that were there before.
    pub(crate) fn close(&self) -> Result<Closed> {
        let mut state = self.closed.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(closed) = *state {
            return Ok(closed);
        }
        let (file, rows) = finish(self.file.take(|| self.open())?, self.target())?;
        let bytes = self.staging.finish(None, file)?;
        let closed = Closed { rows: rows.saturating_sub(self.old_rows()), bytes };
        *state = Some(closed);
        Ok(closed)
    }
}

/// Starts `file`, which is empty; errors name `target`.
pub(crate) fn start(file: OutputFile, target: &Path, layout: &Layout) -> Result<SerializedFileWriter<OutputFile>> {
    SerializedFileWriter::new(file, layout.root.clone(), layout.properties.clone())
        .map_err(|error| writing(target, error))
}

/// Writes the footer of `file`; gives its rows.
pub(crate) fn finish(mut file: SerializedFileWriter<OutputFile>, target: &Path) -> Result<(OutputFile, u64)> {
    let footer = file.finish().map_err(|error| writing(target, error))?;
    let rows = footer.row_groups().iter().map(|group| u64::try_from(group.num_rows()).unwrap_or(0)).sum();
    let file = file.into_inner().map_err(|error| writing(target, error))?;
    Ok((file, rows))
}

/// Appends an encoded row group.
pub(crate) fn append_row_group(file: &mut SerializedFileWriter<OutputFile>, group: RowGroup) -> Result<Closed, ParquetError> {
    let written = group.append_to(file)?;
    let number = |number| u64::try_from(number).unwrap_or(0);
    Ok(Closed { rows: number(written.num_rows()), bytes: number(written.compressed_size()) })
}

/// Copies the row groups of `old` as they are, with their page indexes and Bloom filters.
fn copy_row_groups(old: &ParquetFile, file: &mut SerializedFileWriter<OutputFile>, target: &Path) -> Result<()> {
    let source = old.source()?;
    guarded(&old.shown, || {
        let metadata = read_footer(&source, &old.shown, PageIndexPolicy::Optional)?;
        let (column_indexes, offset_indexes) = (metadata.column_index(), metadata.offset_index());
        for (index, group) in metadata.row_groups().iter().enumerate() {
            let mut copy = || {
                let mut row_group = file.next_row_group()?;
                for (leaf, column) in group.columns().iter().enumerate() {
                    let close = ColumnCloseResult {
                        bytes_written: u64::try_from(column.compressed_size())?,
                        rows_written: u64::try_from(group.num_rows())?,
                        metadata: column.clone(),
                        bloom_filter: Sbbf::read_from_column_chunk(column, &source).unwrap_or(None),
                        column_index: column_indexes.and_then(|groups| groups.get(index)?.get(leaf).cloned()),
                        offset_index: offset_indexes.and_then(|groups| groups.get(index)?.get(leaf).cloned()),
                    };
                    row_group.append_column(&source, close)?;
                }
                row_group.close()
            };
            copy().map_err(|error| writing(target, error))?;
        }
        Ok(())
    })
}

struct SharedFileWriter {
    file: Arc<SharedFile>,
    partition: PartitionId,
    encoder: Encoder,
    parked: Vec<RowGroup>,
    memory: usize,
    receipt: Receipt,
}

impl SharedFileWriter {
    fn encoded<T>(&self, result: Result<T, ParquetError>) -> Result<T> {
        result.map_err(|error| writing(self.file.target(), error))
    }

    fn park(&mut self) -> Result<()> {
        let closed = self.encoder.take();
        let closed = self.encoded(closed)?;
        self.parked.extend(closed);
        Ok(())
    }

    fn held(&self) -> usize {
        self.parked.iter().map(|group| group.bytes).fold(self.encoder.memory(), usize::saturating_add)
    }
}

#[async_trait]
impl PartitionWriter for SharedFileWriter {
    async fn write(&mut self, batch: RecordBatch) -> Result<()> {
        let mut offset = 0;
        while offset < batch.num_rows() {
            let taken = self.encoder.write(&batch, offset);
            offset += self.encoded(taken)?;
            if self.encoder.is_full() || self.encoder.memory() >= self.memory / 2 {
                self.park()?;
            }
            if self.held() > self.memory && !self.parked.is_empty() {
                self.file.append(&mut self.parked, &mut self.receipt).await?;
            }
        }
        Ok(())
    }

    async fn finish(mut self: Box<Self>) -> Result<Receipt> {
        self.park()?;
        self.file.append(&mut self.parked, &mut self.receipt).await?;
        self.file.file.pass(self.partition).await;
        Ok(self.receipt)
    }
}
