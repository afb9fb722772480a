//! One file for all partitions, in their order: each writer encodes row groups in memory, and appends them when its
//! partition is in turn ([`OrderedFile`]).

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use arrow_array::RecordBatch;
use async_trait::async_trait;
use etlrs_core::{Partition, PartitionId, PartitionWriter, Receipt, Result, RunContext, Tally};
use etlrs_files::{OrderedFile, OutputFile, Staging};
use parquet::column::writer::ColumnCloseResult;
use parquet::errors::ParquetError;
use parquet::file::metadata::{ColumnChunkMetaData, PageIndexPolicy, ParquetMetaData, RowGroupMetaData};

use crate::encode::{Layout, Progress, RowGroup, RowGroups};
use crate::error::{guarded, writing};
use crate::file::{ParquetFile, read_footer};
use crate::output::FileWriter;
use crate::prune::bloom;

/// Bytes of a Bloom filter at the most that is copied with its column. Those of a row group are in memory together.
const LARGEST_FILTER: usize = 8 << 20;

/// The one file that the writers of a load share.
pub(crate) struct SharedFile {
    layout: Arc<Layout>,
    staging: Arc<Staging>,
    /// The file whose rows come first, in mode append.
    old: Option<ParquetFile>,
    // A thread that panicked while it wrote leaves a row group open, and the parquet crate refuses to go on after that.
    file: OrderedFile<FileWriter<OutputFile>>,
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
        let file = OrderedFile::behind(staging.completed().len());
        Self { layout, staging, old, file, closed: Mutex::default() }
    }

    fn target(&self) -> &Path {
        self.staging.target()
    }

    /// Row groups of the file that were there before the load.
    pub(crate) fn old_row_groups(&self) -> usize {
        self.old.as_ref().map_or(0, |old| old.footer().num_row_groups())
    }

    /// Bytes that copying the file that was there before takes, and what is kept of it.
    pub(crate) fn held_memory(&self) -> usize {
        // Decoded, a page index takes some ten times its bytes.
        const DECODED: usize = 10;
        let Some(old) = &self.old else { return 0 };
        let length = |length: Option<i32>| length.and_then(|length| usize::try_from(length).ok()).unwrap_or(0);
        let sum = |lengths: &mut dyn Iterator<Item = usize>| lengths.fold(0, usize::saturating_add);
        let groups = || old.footer().row_groups().iter().map(RowGroupMetaData::columns);
        let indexes = sum(&mut groups()
            .flatten()
            .map(|column| length(column.column_index_length()).saturating_add(length(column.offset_index_length()))));
        let filters = |columns: &[ColumnChunkMetaData]| {
            let lengths = columns.iter().map(|column| length(column.bloom_filter_length()));
            sum(&mut lengths.filter(|length| *length <= LARGEST_FILTER))
        };
        indexes.saturating_mul(DECODED).saturating_add(groups().map(filters).max().unwrap_or(0))
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
            groups: RowGroups::new(self.layout.clone(), cx.writer_memory()),
            parked: Vec::new(),
            memory: cx.writer_memory(),
            receipt: Receipt::new(partition.id, 0, 0),
            tally: None,
        }))
    }

    /// Writes `groups` to the file when the partition is in turn, and adds to `receipt` what the file says it took.
    async fn append(&self, groups: &mut Vec<RowGroup>, receipt: &mut Receipt) -> Result<()> {
        if groups.is_empty() {
            return Ok(());
        }
        let write = |file: &mut FileWriter<OutputFile>| {
            for group in groups.drain(..) {
                let written = append_row_group(file, group).map_err(|error| writing(self.target(), error))?;
                receipt.rows += written.rows;
                receipt.bytes += written.bytes;
            }
            Ok(())
        };
        self.file.append(receipt.partition, || self.open(), write).await
    }

    /// Keeps in mind that the row groups of a partition, which is in turn, are in the file.
    async fn keep(&self, receipt: &Receipt, tally: Option<Tally>) -> Result<()> {
        let keep = |file: &mut FileWriter<OutputFile>| {
            let (file, groups) = file.flushed().map_err(|error| writing(self.target(), error))?;
            self.staging.keep_rows(receipt, tally, file, 0, false, || Some(groups))
        };
        self.file.append(receipt.partition, || self.open(), keep).await
    }

    fn open(&self) -> Result<FileWriter<OutputFile>> {
        if let Some(file) = self.staging.continue_staged()? {
            let (length, parts) = (file.written(), self.staging.completed());
            let groups = parts.iter().filter_map(|part| part.extra.as_deref());
            let continued = FileWriter::continued(file.from_start(), &self.layout, length, groups);
            return continued.map_err(|error| writing(self.target(), error));
        }
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
        let old = self.old.as_ref().map_or(Ok(0), |old| old.source().map(|file| file.input().length()))?;
        let bytes = self.staging.finish(None, file)?.saturating_sub(old);
        let closed = Closed { rows: rows.saturating_sub(self.old_rows()), bytes };
        *state = Some(closed);
        Ok(closed)
    }
}

/// Starts `file`, which is empty; errors name `target`.
pub(crate) fn start(file: OutputFile, target: &Path, layout: &Layout) -> Result<FileWriter<OutputFile>> {
    FileWriter::new(file, layout).map_err(|error| writing(target, error))
}

/// Writes the footer of `file`; gives its rows.
pub(crate) fn finish(file: FileWriter<OutputFile>, target: &Path) -> Result<(OutputFile, u64)> {
    file.finish().map_err(|error| writing(target, error))
}

/// Appends an encoded row group.
pub(crate) fn append_row_group(file: &mut FileWriter<OutputFile>, group: RowGroup) -> Result<Closed, ParquetError> {
    let written = file.append(group)?;
    let number = |number| u64::try_from(number).unwrap_or(0);
    Ok(Closed { rows: number(written.num_rows()), bytes: number(written.compressed_size()) })
}

/// Copies the row groups of `old` as they are, with their page indexes, Bloom filters and orders.
fn copy_row_groups(old: &ParquetFile, file: &mut FileWriter<OutputFile>, target: &Path) -> Result<()> {
    let source = old.source()?;
    guarded(&old.shown, || {
        let metadata = read_footer(&source, &old.shown, PageIndexPolicy::Optional)?;
        let (column_indexes, offset_indexes) = (metadata.column_index(), metadata.offset_index());
        if offset_indexes.is_none() && metadata.num_row_groups() > 0 {
            file.without_indexes();
        }
        for (index, group) in metadata.row_groups().iter().enumerate() {
            let rows = u64::try_from(group.num_rows()).unwrap_or(0);
            let columns = group.columns().iter().enumerate().map(|(leaf, column)| ColumnCloseResult {
                bytes_written: u64::try_from(column.compressed_size()).unwrap_or(0),
                rows_written: rows,
                metadata: column.clone(),
                bloom_filter: bloom::read(&source, column, LARGEST_FILTER),
                column_index: column_indexes.and_then(|groups| groups.get(index)?.get(leaf).cloned()),
                offset_index: offset_indexes.and_then(|groups| groups.get(index)?.get(leaf).cloned()),
            });
            file.copy(&source, group, columns).map_err(|error| writing(target, error))?;
        }
        Ok(())
    })
}

struct SharedFileWriter {
    file: Arc<SharedFile>,
    partition: PartitionId,
    groups: RowGroups,
    parked: Vec<RowGroup>,
    memory: usize,
    receipt: Receipt,
    tally: Option<Tally>,
}

impl SharedFileWriter {
    fn encoded<T>(&self, result: Result<T, ParquetError>) -> Result<T> {
        result.map_err(|error| writing(self.file.target(), error))
    }

    /// Encodes what there is, and appends what is complete when memory wants it.
    async fn go_on(&mut self) -> Result<()> {
        loop {
            let progress = self.groups.next();
            let progress = self.encoded(progress)?;
            let idle = matches!(progress, Progress::Idle);
            if let Progress::Complete(group) = progress {
                self.parked.push(group);
            }
            if self.held() > self.memory && !self.parked.is_empty() {
                self.file.append(&mut self.parked, &mut self.receipt).await?;
            }
            if idle {
                return Ok(());
            }
        }
    }

    fn held(&self) -> usize {
        self.parked.iter().map(|group| group.bytes).fold(self.groups.memory(), usize::saturating_add)
    }
}

#[async_trait]
impl PartitionWriter for SharedFileWriter {
    async fn write(&mut self, batch: RecordBatch) -> Result<()> {
        self.groups.push(batch);
        self.go_on().await
    }

    fn seal(&mut self, tally: Tally) {
        self.tally = Some(tally);
    }

    async fn finish(mut self: Box<Self>) -> Result<Receipt> {
        self.groups.end();
        self.go_on().await?;
        self.file.append(&mut self.parked, &mut self.receipt).await?;
        if self.tally.is_some() {
            self.file.keep(&self.receipt, self.tally).await?;
        }
        self.file.file.pass(self.partition).await;
        Ok(self.receipt)
    }
}
