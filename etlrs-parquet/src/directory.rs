//! A directory of one file per partition.

use std::sync::Arc;

use arrow_array::RecordBatch;
use async_trait::async_trait;
use etlrs_core::{Partition, PartitionWriter, Receipt, Result, RunContext, RunId};
use etlrs_files::{ManifestFile, OutputFile, Parts, Staging};
use parquet::errors::ParquetError;
use parquet::file::writer::SerializedFileWriter;

use crate::encode::{Encoder, Layout};
use crate::error::writing;
use crate::single::{append_row_group, finish, start};

/// The staging directory that the writers of a load fill.
pub(crate) struct SharedDirectory {
    layout: Arc<Layout>,
    parts: Parts,
}

impl SharedDirectory {
    /// Takes the files named in `old` over.
    pub(crate) fn new(layout: Arc<Layout>, staging: Arc<Staging>, run: RunId, old: Vec<ManifestFile>) -> Result<Self> {
        Ok(Self { layout, parts: Parts::new(staging, run, "parquet", old)? })
    }

    pub(crate) fn writer(self: &Arc<Self>, cx: &RunContext, partition: &Partition) -> Result<Box<dyn PartitionWriter>> {
        self.parts.begin(partition.id)?;
        Ok(Box::new(PartWriter {
            directory: self.clone(),
            encoder: Encoder::new(self.layout.clone()),
            memory: cx.writer_memory().saturating_sub(self.parts.file_memory()),
            file: None,
            finished: false,
            receipt: Receipt::new(partition.id, 0, 0),
        }))
    }

    /// Writes the manifest, once, and gives the files of this load.
    pub(crate) fn close(&self) -> Result<Vec<ManifestFile>> {
        let target = self.parts.target();
        self.parts.close(|file| Ok(finish(start(file, target, &self.layout)?, target)?.0))
    }
}

struct PartWriter {
    directory: Arc<SharedDirectory>,
    encoder: Encoder,
    memory: usize,
    file: Option<SerializedFileWriter<OutputFile>>,
    finished: bool,
    receipt: Receipt,
}

impl PartWriter {
    fn encoded<T>(&self, result: Result<T, ParquetError>) -> Result<T> {
        result.map_err(|error| writing(self.directory.parts.target(), error))
    }

    fn flush(&mut self) -> Result<()> {
        let closed = self.encoder.take();
        let Some(group) = self.encoded(closed)? else { return Ok(()) };
        let file = match &mut self.file {
            Some(file) => file,
            empty => {
                let SharedDirectory { layout, parts } = &*self.directory;
                empty.insert(start(parts.create(self.receipt.partition)?, parts.target(), layout)?)
            }
        };
        let written = append_row_group(file, group);
        self.receipt.rows += self.encoded(written)?.rows;
        Ok(())
    }
}

#[async_trait]
impl PartitionWriter for PartWriter {
    async fn write(&mut self, batch: RecordBatch) -> Result<()> {
        let mut offset = 0;
        while offset < batch.num_rows() {
            let taken = self.encoder.write(&batch, offset);
            offset += self.encoded(taken)?;
            if self.encoder.is_full() || self.encoder.memory() >= self.memory / 2 {
                self.flush()?;
            }
        }
        Ok(())
    }

    async fn finish(mut self: Box<Self>) -> Result<Receipt> {
        self.flush()?;
        if let Some(file) = self.file.take() {
            let (file, rows) = finish(file, self.directory.parts.target())?;
            self.receipt.bytes = self.directory.parts.finish(self.receipt.partition, file, rows)?;
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
