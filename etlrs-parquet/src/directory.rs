//! A directory of one file per partition.

use std::fs::{self, File};
use std::path::PathBuf;
use std::sync::Arc;

use arrow_array::RecordBatch;
use async_trait::async_trait;
use etlrs_core::{Partition, PartitionWriter, Receipt, Result, RunContext, RunId};
use etlrs_files::{ManifestFile, Parts, Staging};
use parquet::errors::ParquetError;

use crate::encode::{Layout, Progress, RowGroup, RowGroups};
use crate::error::writing;
use crate::output::FileWriter;
use crate::single::{append_row_group, create, finish};

/// The staging directory that the writers of a load fill.
pub(crate) struct SharedDirectory {
    layout: Arc<Layout>,
    parts: Parts,
}

impl SharedDirectory {
    /// Takes the files named in `old` over.
    pub(crate) fn new(layout: Arc<Layout>, staging: &Staging, run: RunId, old: Vec<ManifestFile>) -> Result<Self> {
        Ok(Self { layout, parts: Parts::new(staging, run, "parquet", old)? })
    }

    pub(crate) fn writer(self: &Arc<Self>, cx: &RunContext, partition: &Partition) -> Result<Box<dyn PartitionWriter>> {
        Ok(Box::new(PartWriter {
            directory: self.clone(),
            groups: RowGroups::new(self.layout.clone(), cx.writer_memory()),
            staged: self.parts.begin(partition.id)?,
            file: None,
            finished: false,
            receipt: Receipt::new(partition.id, 0, 0),
        }))
    }

    /// Writes the manifest, once, and gives the files of this load.
    pub(crate) fn close(&self) -> Result<Vec<ManifestFile>> {
        let target = self.parts.target();
        self.parts.close(|staged| Ok(finish(&mut create(staged, target, &self.layout)?, staged, target)?.bytes))
    }
}

struct PartWriter {
    directory: Arc<SharedDirectory>,
    groups: RowGroups,
    staged: PathBuf,
    file: Option<FileWriter<File>>,
    finished: bool,
    receipt: Receipt,
}

impl PartWriter {
    fn encoded<T>(&self, result: Result<T, ParquetError>) -> Result<T> {
        result.map_err(|error| writing(self.directory.parts.target(), error))
    }

    /// Encodes what there is, and appends what is complete.
    fn go_on(&mut self) -> Result<()> {
        loop {
            let progress = self.groups.next();
            match self.encoded(progress)? {
                Progress::Complete(group) => self.append(group)?,
                Progress::Due => {}
                Progress::Idle => return Ok(()),
            }
        }
    }

    fn append(&mut self, group: RowGroup) -> Result<()> {
        let file = match &mut self.file {
            Some(file) => file,
            empty => empty.insert(create(&self.staged, self.directory.parts.target(), &self.directory.layout)?),
        };
        let written = append_row_group(file, group);
        self.receipt.rows += self.encoded(written)?.rows;
        Ok(())
    }
}

#[async_trait]
impl PartitionWriter for PartWriter {
    async fn write(&mut self, batch: RecordBatch) -> Result<()> {
        self.groups.push(batch);
        self.go_on()
    }

    async fn finish(mut self: Box<Self>) -> Result<Receipt> {
        self.groups.end();
        self.go_on()?;
        if let Some(mut file) = self.file.take() {
            let closed = finish(&mut file, &self.staged, self.directory.parts.target())?;
            self.receipt.bytes = closed.bytes;
            self.directory.parts.finish(self.receipt.partition, closed.rows, closed.bytes);
            self.finished = true;
        }
        Ok(self.receipt.clone())
    }
}

impl Drop for PartWriter {
    fn drop(&mut self) {
        if !self.finished && self.file.take().is_some() {
            // What cannot be removed goes with the staging directory, or is overwritten by the next attempt.
            let _ = fs::remove_file(&self.staged);
        }
    }
}
