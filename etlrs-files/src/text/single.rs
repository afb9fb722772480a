//! One file for all partitions, in their order: each writer encodes and compresses blocks in memory, and appends them when
//! its partition is in turn ([`OrderedFile`]).

use std::collections::BTreeMap;
use std::io::Write;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use arrow_array::RecordBatch;
use async_trait::async_trait;
use etlrs_core::{Error, Partition, PartitionId, PartitionWriter, Receipt, Result, RunContext, Tally};

use super::Encode;
use super::block::{Block, Packer, Spares};
use crate::{Compression, OrderedFile, OutputFile, Staging};

/// The one file that the writers of a load share.
pub struct SharedFile {
    format: Arc<dyn Encode>,
    staging: Arc<Staging>,
    /// What is put between the rows of the file that is there and those that are appended to it.
    continues: Option<Box<[u8]>>,
    file: OrderedFile<Appended>,
    spares: Arc<Spares>,
    fine: AtomicBool,
    closed: Mutex<Option<Closed>>,
}

struct Appended {
    file: OutputFile,
    /// Bytes of the file that was there.
    old: u64,
    rows: u64,
    /// What each partition has of the file.
    ranges: BTreeMap<PartitionId, Range<u64>>,
}

/// What a file has when all partitions are in it.
#[derive(Clone, Debug)]
pub struct Closed {
    /// Rows of the load.
    pub rows: u64,
    /// Bytes that the load added.
    pub bytes: u64,
    /// Where in the file the rows of the load are, in the order of partitions.
    pub ranges: Vec<Range<u64>>,
    /// A time was finer than microseconds.
    pub fine: bool,
}

impl SharedFile {
    /// To a new file; with `continues` to the one that is there, behind these bytes.
    pub fn new(format: Arc<dyn Encode>, staging: Arc<Staging>, continues: Option<&[u8]>) -> Self {
        let completed = staging.completed();
        let fine = AtomicBool::new(completed.iter().any(|part| part.fine));
        let (file, spares, closed) = (OrderedFile::behind(completed.len()), Arc::default(), Mutex::default());
        Self { format, staging, continues: continues.map(Box::from), file, spares, fine, closed }
    }

    /// A writer of the rows of `partition`.
    ///
    /// # Errors
    /// `Unsupported` for another attempt at a partition of which something is in the file.
    pub fn writer(self: &Arc<Self>, cx: &RunContext, partition: &Partition) -> Result<Box<dyn PartitionWriter>> {
        self.file.admit(partition.id).map_err(|error| error.in_source(self.staging.target().display()))?;
        let memory = cx.writer_memory().saturating_sub(self.format.compression().memory());
        Ok(Box::new(SharedFileWriter {
            file: self.clone(),
            packer: Packer::new(&self.format, &self.spares, partition.id, memory)?,
            parked: Vec::new(),
            memory,
            receipt: Receipt::new(partition.id, 0, 0),
            tally: None,
        }))
    }

    fn failed(&self, error: std::io::Error) -> Error {
        writing(&self.staging, error)
    }

    fn open(&self) -> Result<Appended> {
        if let Some(file) = self.staging.continue_staged()? {
            let parts = self.staging.completed();
            let ranges = parts.iter().filter(|part| part.rows > 0);
            let ranges = ranges.map(|part| (PartitionId(part.partition), part.range())).collect();
            let old = self.continues.as_ref().map_or(0, |_| self.staging.old_length());
            return Ok(Appended { file, old, rows: parts.iter().map(|part| part.rows).sum(), ranges });
        }
        let (file, old) = match &self.continues {
            None => (start_file(self.staging.create(None)?, &*self.format).map_err(|error| self.failed(error))?, 0),
            Some(between) => {
                let mut file = self.staging.continue_old()?;
                let old = file.written();
                file.write_all(&member(&*self.format, between)?).map_err(|error| self.failed(error))?;
                (file, old)
            }
        };
        Ok(Appended { file, old, rows: 0, ranges: BTreeMap::new() })
    }

    /// Writes `blocks` to the file when the partition is in turn, and adds to `receipt` what it took.
    async fn append(&self, blocks: &mut Vec<Block>, receipt: &mut Receipt) -> Result<()> {
        if blocks.is_empty() {
            return Ok(());
        }
        let between = member(&*self.format, self.format.between())?;
        let write = |appended: &mut Appended| {
            for block in blocks.drain(..) {
                if appended.rows > 0 {
                    appended.file.write_all(&between).map_err(|error| self.failed(error))?;
                }
                let (start, bytes) = (appended.file.written(), block.bytes().len() as u64);
                appended.file.write_all(block.bytes()).map_err(|error| self.failed(error))?;
                appended.rows += block.rows;
                appended.ranges.entry(receipt.partition).or_insert(start..start).end = start + bytes;
                receipt.rows += block.rows;
                receipt.bytes += bytes;
                if self.format.compression() == Compression::None {
                    self.spares.put(block);
                }
            }
            Ok(())
        };
        self.file.append(receipt.partition, || self.open(), write).await
    }

    /// Keeps in mind that the rows of a partition, which is in turn, are in the file.
    async fn keep(&self, receipt: &Receipt, tally: Option<Tally>, fine: bool) -> Result<()> {
        let keep = |appended: &mut Appended| {
            let from = appended.ranges.get(&receipt.partition).map_or(appended.file.written(), |range| range.start);
            self.staging.keep_rows(receipt, tally, &mut appended.file, from, fine, || None)
        };
        self.file.append(receipt.partition, || self.open(), keep).await
    }

    /// Makes sure that the file is all there, once, and tells the rows of the load, without those that were there before.
    pub fn close(&self) -> Result<Closed> {
        let mut state = self.closed.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(closed) = &*state {
            return Ok(closed.clone());
        }
        let Appended { file, old, rows, ranges } = self.file.take(|| self.open())?;
        let file = end_file(file, &*self.format).map_err(|error| self.failed(error))?;
        let bytes = self.staging.finish(None, file)?.saturating_sub(old);
        let (ranges, fine) = (ranges.into_values().collect(), self.fine.load(Ordering::Relaxed));
        Ok(state.insert(Closed { rows, bytes, ranges, fine }).clone())
    }
}

/// The error of writing what is staged; it names the target.
pub(super) fn writing(staging: &Staging, error: std::io::Error) -> Error {
    match error.downcast::<Error>() {
        Ok(error) => error.in_source(staging.target().display()),
        Err(error) => Error::io("write", staging.target(), error),
    }
}

/// Writes what files begin with into `file`, which is empty.
pub(super) fn start_file(mut file: OutputFile, format: &dyn Encode) -> std::io::Result<OutputFile> {
    file.write_all(&member(format, format.start()).map_err(std::io::Error::other)?)?;
    Ok(file)
}

/// Writes what files end with.
pub(super) fn end_file(mut file: OutputFile, format: &dyn Encode) -> std::io::Result<OutputFile> {
    file.write_all(&member(format, format.end()).map_err(std::io::Error::other)?)?;
    Ok(file)
}

/// `text` as the format compresses it; nothing stays nothing.
pub(super) fn member(format: &dyn Encode, text: &[u8]) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    if !text.is_empty() {
        format.compression().compressor()?.append_member(text, &mut bytes)?;
    }
    Ok(bytes)
}

struct SharedFileWriter {
    file: Arc<SharedFile>,
    packer: Packer,
    parked: Vec<Block>,
    memory: usize,
    receipt: Receipt,
    tally: Option<Tally>,
}

impl SharedFileWriter {
    fn held(&self) -> usize {
        self.parked.iter().map(Block::memory).fold(self.packer.memory(), usize::saturating_add)
    }
}

#[async_trait]
impl PartitionWriter for SharedFileWriter {
    async fn write(&mut self, batch: RecordBatch) -> Result<()> {
        let mut offset = 0;
        while offset < batch.num_rows() {
            let written = self.packer.write(&batch, offset);
            let (rows, full) = written.map_err(|error| error.in_source(self.file.staging.target().display()))?;
            offset += rows;
            self.parked.extend(full);
            if self.held() > self.memory && !self.parked.is_empty() {
                self.file.append(&mut self.parked, &mut self.receipt).await?;
            }
        }
        Ok(())
    }

    fn seal(&mut self, tally: Tally) {
        self.tally = Some(tally);
    }

    async fn finish(mut self: Box<Self>) -> Result<Receipt> {
        self.parked.extend(self.packer.take()?);
        self.file.append(&mut self.parked, &mut self.receipt).await?;
        self.file.fine.fetch_or(self.packer.is_fine(), Ordering::Relaxed);
        if self.tally.is_some() {
            self.file.keep(&self.receipt, self.tally, self.packer.is_fine()).await?;
        }
        self.file.file.pass(self.receipt.partition).await;
        Ok(self.receipt)
    }
}
