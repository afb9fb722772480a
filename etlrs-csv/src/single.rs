//! One file for all partitions, in their order: each writer encodes and compresses blocks in memory, and appends them when
//! its partition is in turn ([`OrderedFile`]).

use std::collections::BTreeMap;
use std::io::Write;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use arrow_array::RecordBatch;
use async_trait::async_trait;
use etlrs_core::{Error, Partition, PartitionId, PartitionWriter, Receipt, Result, RunContext};
use etlrs_files::{OrderedFile, OutputFile, Staging};

use crate::block::{Block, Packer, Spares};
use crate::layout::Layout;
use crate::old::OldFile;

/// The one file that the writers of a load share.
pub(crate) struct SharedFile {
    layout: Arc<Layout>,
    staging: Arc<Staging>,
    /// The file whose rows come first, in mode append.
    old: Option<OldFile>,
    file: OrderedFile<Appended>,
    spares: Arc<Spares>,
    fine: AtomicBool,
    closed: Mutex<Option<Closed>>,
}

struct Appended {
    file: OutputFile,
    rows: u64,
    /// What each partition has of the file.
    ranges: BTreeMap<PartitionId, Range<u64>>,
}

/// What a file has when all partitions are in it.
#[derive(Clone, Debug)]
pub(crate) struct Closed {
    pub(crate) rows: u64,
    pub(crate) bytes: u64,
    pub(crate) ranges: Vec<Range<u64>>,
    /// A time was finer than microseconds.
    pub(crate) fine: bool,
}

impl SharedFile {
    pub(crate) fn new(layout: Arc<Layout>, staging: Arc<Staging>, old: Option<OldFile>) -> Self {
        let (file, spares, fine, closed) =
            (OrderedFile::new(), Arc::default(), AtomicBool::default(), Mutex::default());
        Self { layout, staging, old, file, spares, fine, closed }
    }

    pub(crate) fn writer(self: &Arc<Self>, cx: &RunContext, partition: &Partition) -> Result<Box<dyn PartitionWriter>> {
        self.file.admit(partition.id).map_err(|error| error.in_source(self.staging.target().display()))?;
        let memory = cx.writer_memory().saturating_sub(self.layout.compression.memory());
        Ok(Box::new(SharedFileWriter {
            file: self.clone(),
            packer: Packer::new(&self.layout, &self.spares, partition.id, memory)?,
            parked: Vec::new(),
            memory,
            receipt: Receipt::new(partition.id, 0, 0),
        }))
    }

    fn failed(&self, error: std::io::Error) -> Error {
        writing(&self.staging, error)
    }

    fn open(&self) -> Result<Appended> {
        let old = self.old.as_ref().filter(|old| !old.is_empty);
        let file = match old {
            None => start_file(self.staging.create(None)?, &self.layout).map_err(|error| self.failed(error))?,
            Some(old) => {
                let mut file = self.staging.continue_old()?;
                let mut end = Vec::new();
                if !old.ends_with_line_end()? {
                    self.layout.compression.compressor()?.append_member(self.layout.line_end, &mut end)?;
                }
                file.write_all(&end).map_err(|error| self.failed(error))?;
                file
            }
        };
        Ok(Appended { file, rows: 0, ranges: BTreeMap::new() })
    }

    /// Writes `blocks` to the file when the partition is in turn, and adds to `receipt` what it took.
    async fn append(&self, blocks: &mut Vec<Block>, receipt: &mut Receipt) -> Result<()> {
        if blocks.is_empty() {
            return Ok(());
        }
        let write = |appended: &mut Appended| {
            for block in blocks.drain(..) {
                let (start, bytes) = (appended.file.written(), block.bytes().len() as u64);
                appended.file.write_all(block.bytes()).map_err(|error| self.failed(error))?;
                appended.rows += block.rows;
                appended.ranges.entry(receipt.partition).or_insert(start..start).end = start + bytes;
                receipt.rows += block.rows;
                receipt.bytes += bytes;
                if self.layout.compression == etlrs_files::Compression::None {
                    self.spares.put(block);
                }
            }
            Ok(())
        };
        self.file.append(receipt.partition, || self.open(), write).await
    }

    /// Makes sure that the file is all there, once, and tells the rows of the load, without those that were there before.
    pub(crate) fn close(&self) -> Result<Closed> {
        let mut state = self.closed.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(closed) = &*state {
            return Ok(closed.clone());
        }
        let Appended { file, rows, ranges } = self.file.take(|| self.open())?;
        let bytes = self.staging.finish(None, file)?;
        let (ranges, fine) = (ranges.into_values().collect(), self.fine.load(Ordering::Relaxed));
        Ok(state.insert(Closed { rows, bytes, ranges, fine }).clone())
    }
}

/// The error of writing what is staged; it names the target.
pub(crate) fn writing(staging: &Staging, error: std::io::Error) -> Error {
    match error.downcast::<Error>() {
        Ok(error) => error.in_source(staging.target().display()),
        Err(error) => Error::io("write", staging.target(), error),
    }
}

/// Writes the header into `file`, which is empty.
pub(crate) fn start_file(mut file: OutputFile, layout: &Layout) -> std::io::Result<OutputFile> {
    let mut start = Vec::new();
    if !layout.header.is_empty() {
        let packed =
            layout.compression.compressor().and_then(|mut packer| packer.append_member(&layout.header, &mut start));
        packed.map_err(std::io::Error::other)?;
    }
    file.write_all(&start)?;
    Ok(file)
}

struct SharedFileWriter {
    file: Arc<SharedFile>,
    packer: Packer,
    parked: Vec<Block>,
    memory: usize,
    receipt: Receipt,
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

    async fn finish(mut self: Box<Self>) -> Result<Receipt> {
        self.parked.extend(self.packer.take()?);
        self.file.append(&mut self.parked, &mut self.receipt).await?;
        self.file.fine.fetch_or(self.packer.is_fine(), Ordering::Relaxed);
        self.file.file.pass(self.receipt.partition).await;
        Ok(self.receipt)
    }
}
