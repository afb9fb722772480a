//! A directory of one file per partition.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arrow_array::RecordBatch;
use async_trait::async_trait;
use etlrs_core::{Partition, PartitionWriter, Receipt, Result, RunContext, RunId, Tally};

use super::Encode;
use super::block::{Block, Packer, Spares};
use super::single::{end_file, member, start_file, writing};
use crate::{Compression, ManifestFile, OutputFile, Parts, Staging};

/// The staging directory that the writers of a load fill.
pub struct SharedDirectory {
    format: Arc<dyn Encode>,
    staging: Arc<Staging>,
    parts: Parts,
    spares: Arc<Spares>,
    fine: AtomicBool,
}

impl SharedDirectory {
    /// Takes the files named in `old` over, as [`Parts::new`] does.
    ///
    /// # Errors
    /// An I/O error.
    pub fn new(
        format: Arc<dyn Encode>,
        staging: Arc<Staging>,
        run: RunId,
        old: Vec<Option<ManifestFile>>,
    ) -> Result<Self> {
        let parts = Parts::new(staging.clone(), run, format.extension(), old)?;
        let fine = AtomicBool::new(staging.completed().iter().any(|part| part.fine));
        Ok(Self { format, staging, parts, spares: Arc::default(), fine })
    }

    /// A writer of the file of `partition`.
    ///
    /// # Errors
    /// An I/O error.
    pub fn writer(self: &Arc<Self>, cx: &RunContext, partition: &Partition) -> Result<Box<dyn PartitionWriter>> {
        let held = self.format.compression().memory() + self.parts.file_memory();
        let memory = cx.writer_memory().saturating_sub(held);
        self.parts.begin(partition.id)?;
        Ok(Box::new(PartWriter {
            directory: self.clone(),
            packer: Packer::new(&self.format, &self.spares, partition.id, memory)?,
            file: None,
            finished: false,
            receipt: Receipt::new(partition.id, 0, 0),
            tally: None,
        }))
    }

    /// Writes the manifest, once, and gives the files of this load.
    ///
    /// # Errors
    /// An I/O error.
    pub fn close(&self) -> Result<Vec<ManifestFile>> {
        let empty = |file| end_file(start_file(file, &*self.format)?, &*self.format);
        self.parts.close(|file| empty(file).map_err(|error| writing(&self.staging, error)))
    }

    /// Whether a time was finer than microseconds.
    pub fn is_fine(&self) -> bool {
        self.fine.load(Ordering::Relaxed)
    }
}

struct PartWriter {
    directory: Arc<SharedDirectory>,
    packer: Packer,
    file: Option<OutputFile>,
    finished: bool,
    receipt: Receipt,
    tally: Option<Tally>,
}

impl PartWriter {
    fn append(&mut self, block: Option<Block>) -> Result<()> {
        let Some(block) = block else { return Ok(()) };
        let SharedDirectory { format, staging, parts, .. } = &*self.directory;
        let failed = |error| writing(staging, error);
        let file = match &mut self.file {
            Some(file) => file,
            empty => {
                let created = parts.create(self.receipt.partition)?;
                empty.insert(start_file(created, &**format).map_err(failed)?)
            }
        };
        if self.receipt.rows > 0 {
            file.write_all(&member(&**format, format.between())?).map_err(failed)?;
        }
        file.write_all(block.bytes()).map_err(failed)?;
        self.receipt.rows += block.rows;
        if format.compression() == Compression::None {
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

    fn seal(&mut self, tally: Tally) {
        self.tally = Some(tally);
    }

    async fn finish(mut self: Box<Self>) -> Result<Receipt> {
        let last = self.packer.take()?;
        self.append(last)?;
        let SharedDirectory { format, staging, parts, fine, .. } = &*self.directory;
        let ended = self.file.take().map(|file| end_file(file, &**format).map_err(|error| writing(staging, error)));
        let Receipt { partition, rows, .. } = self.receipt;
        self.receipt.bytes = parts.end(partition, ended.transpose()?, rows, self.tally, self.packer.is_fine())?;
        fine.fetch_or(self.packer.is_fine(), Ordering::Relaxed);
        self.finished = true;
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
