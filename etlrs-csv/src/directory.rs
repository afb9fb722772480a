//! A directory of one file per partition.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arrow_array::RecordBatch;
use async_trait::async_trait;
use etlrs_core::{Partition, PartitionWriter, Receipt, Result, RunContext, RunId};
use etlrs_files::{Compression, ManifestFile, OutputFile, Parts, Staging};

use crate::block::{Block, Packer, Spares};
use crate::layout::Layout;
use crate::single::{start_file, writing};

/// The staging directory that the writers of a load fill.
pub(crate) struct SharedDirectory {
    layout: Arc<Layout>,
    staging: Arc<Staging>,
    parts: Parts,
    spares: Arc<Spares>,
    fine: AtomicBool,
}

impl SharedDirectory {
    /// Takes the files named in `old` over.
    pub(crate) fn new(layout: Arc<Layout>, staging: Arc<Staging>, run: RunId, old: Vec<ManifestFile>) -> Result<Self> {
        let parts = Parts::new(staging.clone(), run, extension(&layout), old)?;
        Ok(Self { layout, staging, parts, spares: Arc::default(), fine: AtomicBool::new(false) })
    }

    pub(crate) fn writer(self: &Arc<Self>, cx: &RunContext, partition: &Partition) -> Result<Box<dyn PartitionWriter>> {
        let held = self.layout.compression.memory() + self.parts.file_memory();
        let memory = cx.writer_memory().saturating_sub(held);
        self.parts.begin(partition.id)?;
        Ok(Box::new(PartWriter {
            directory: self.clone(),
            packer: Packer::new(&self.layout, &self.spares, partition.id, memory)?,
            file: None,
            finished: false,
            receipt: Receipt::new(partition.id, 0, 0),
        }))
    }

    /// Writes the manifest, once, and gives the files of this load.
    pub(crate) fn close(&self) -> Result<Vec<ManifestFile>> {
        self.parts.close(|file| start_file(file, &self.layout).map_err(|error| writing(&self.staging, error)))
    }

    /// Whether a time was finer than microseconds.
    pub(crate) fn is_fine(&self) -> bool {
        self.fine.load(Ordering::Relaxed)
    }
}

fn extension(layout: &Layout) -> &'static str {
    let tabs = layout.dialect.delimiter == b'\t';
    match layout.compression {
        Compression::Gzip(_) if tabs => "tsv.gz",
        Compression::Zstd(_) if tabs => "tsv.zst",
        Compression::Bzip2(_) if tabs => "tsv.bz2",
        Compression::Xz(_) if tabs => "tsv.xz",
        _ if tabs => "tsv",
        Compression::Gzip(_) => "csv.gz",
        Compression::Zstd(_) => "csv.zst",
        Compression::Bzip2(_) => "csv.bz2",
        Compression::Xz(_) => "csv.xz",
        _ => "csv",
    }
}

struct PartWriter {
    directory: Arc<SharedDirectory>,
    packer: Packer,
    file: Option<OutputFile>,
    finished: bool,
    receipt: Receipt,
}

impl PartWriter {
    fn append(&mut self, block: Option<Block>) -> Result<()> {
        let Some(block) = block else { return Ok(()) };
        let SharedDirectory { layout, staging, parts, .. } = &*self.directory;
        let failed = |error| writing(staging, error);
        let file = match &mut self.file {
            Some(file) => file,
            empty => {
                let created = parts.create(self.receipt.partition)?;
                empty.insert(start_file(created, layout).map_err(failed)?)
            }
        };
        file.write_all(block.bytes()).map_err(failed)?;
        self.receipt.rows += block.rows;
        if self.directory.layout.compression == Compression::None {
            self.directory.spares.put(block);
        }
        Ok(())
    }
}

#[async_trait]
impl PartitionWriter for PartWriter {
    async fn write(&mut self, batch: RecordBatch) -> Result<()> {
        let mut offset = 0;
        while offset < batch.num_rows() {
            let written = self.packer.write(&batch, offset);
            let (rows, full) = written.map_err(|error| error.in_source(self.directory.parts.target().display()))?;
            offset += rows;
            self.append(full)?;
        }
        Ok(())
    }

    async fn finish(mut self: Box<Self>) -> Result<Receipt> {
        let last = self.packer.take()?;
        self.append(last)?;
        if let Some(file) = self.file.take() {
            self.receipt.bytes = self.directory.parts.finish(self.receipt.partition, file, self.receipt.rows)?;
            self.directory.fine.fetch_or(self.packer.is_fine(), Ordering::Relaxed);
            self.finished = true;
        }
        Ok(self.receipt.clone())
    }
}

impl Drop for PartWriter {
    fn drop(&mut self) {
        if !self.finished && self.file.take().is_some() {
            self.directory.parts.discard(self.receipt.partition);
        }
    }
}
