//! One file for all partitions, in their order: each writer encodes and compresses blocks in memory, and appends them when
//! its partition is in turn ([`OrderedFile`]).

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arrow_array::RecordBatch;
use async_trait::async_trait;
use etlrs_core::{Error, ErrorKind, Partition, PartitionId, PartitionWriter, Receipt, Result, RunContext};
use etlrs_files::OrderedFile;

use crate::block::{Block, Packer, Spares};
use crate::layout::Layout;
use crate::old::OldFile;

/// The one file that the writers of a load share.
pub(crate) struct SharedFile {
    layout: Arc<Layout>,
    target: PathBuf,
    /// Where the file is until it is published.
    staged: PathBuf,
    /// The file whose rows come first, in mode append.
    old: Option<OldFile>,
    file: OrderedFile<Appended>,
    spares: Arc<Spares>,
    fine: AtomicBool,
}

struct Appended {
    file: File,
    length: u64,
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
    pub(crate) fn new(layout: Arc<Layout>, target: &Path, staged: &Path, old: Option<OldFile>) -> Self {
        Self {
            layout,
            target: target.to_owned(),
            staged: staged.to_owned(),
            old,
            file: OrderedFile::new(),
            spares: Arc::default(),
            fine: AtomicBool::new(false),
        }
    }

    pub(crate) fn writer(self: &Arc<Self>, cx: &RunContext, partition: &Partition) -> Result<Box<dyn PartitionWriter>> {
        self.file.admit(partition.id).map_err(|error| error.in_source(self.target.display()))?;
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
        Error::io("write", &self.target, error)
    }

    fn open(&self) -> Result<Appended> {
        let old = self.old.as_ref().filter(|old| !old.is_empty);
        let (file, length) = match old {
            None => start_file(&self.staged, &self.layout).map_err(|error| self.failed(error))?,
            Some(old) => {
                std::fs::copy(&old.path, &self.staged).map_err(|error| self.failed(error))?;
                let mut file =
                    OpenOptions::new().append(true).open(&self.staged).map_err(|error| self.failed(error))?;
                let mut end = Vec::new();
                if !old.ends_with_line_end()? {
                    self.layout.compression.compressor()?.append_member(self.layout.line_end, &mut end)?;
                }
                file.write_all(&end).map_err(|error| self.failed(error))?;
                (file, old.length + end.len() as u64)
            }
        };
        Ok(Appended { file, length, rows: 0, ranges: BTreeMap::new() })
    }

    /// Writes `blocks` to the file when the partition is in turn, and adds to `receipt` what it took.
    async fn append(&self, blocks: &mut Vec<Block>, receipt: &mut Receipt) -> Result<()> {
        if blocks.is_empty() {
            return Ok(());
        }
        let write = |appended: &mut Appended| {
            for block in blocks.drain(..) {
                appended.file.write_all(block.bytes()).map_err(|error| self.failed(error))?;
                let (start, bytes) = (appended.length, block.bytes().len() as u64);
                appended.length += bytes;
                appended.rows += block.rows;
                appended.ranges.entry(receipt.partition).or_insert(start..start).end = appended.length;
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

    /// Makes sure that the file is all there, and tells the rows of the load, without those that were there before.
    pub(crate) fn close(&self) -> Result<Closed> {
        self.file.close(
            || self.open(),
            |appended| {
                let bytes = appended.file.metadata().map_err(|error| self.failed(error))?.len();
                if bytes != appended.length {
                    let message = format!("{} bytes were written, and the file has {bytes}", appended.length);
                    return Err(Error::new(ErrorKind::VerifyFailed, message).in_source(self.target.display()));
                }
                let ranges = appended.ranges.values().cloned().collect();
                Ok(Closed { rows: appended.rows, bytes, ranges, fine: self.fine.load(Ordering::Relaxed) })
            },
        )
    }
}

/// Creates the file `staged` with the header; gives its length too.
pub(crate) fn start_file(staged: &Path, layout: &Layout) -> std::io::Result<(File, u64)> {
    let mut file = File::create(staged)?;
    let mut start = Vec::new();
    if !layout.header.is_empty() {
        let packed =
            layout.compression.compressor().and_then(|mut packer| packer.append_member(&layout.header, &mut start));
        packed.map_err(std::io::Error::other)?;
    }
    file.write_all(&start)?;
    Ok((file, start.len() as u64))
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
            let (rows, full) = written.map_err(|error| error.in_source(self.file.target.display()))?;
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
