//! A directory of one file per partition.

use std::sync::Arc;

use arrow_array::RecordBatch;
use async_trait::async_trait;
use etlrs_core::{Partition, PartitionWriter, Receipt, Result, RunContext, RunId, Tally};
use etlrs_files::{ManifestFile, OutputFile, Parts, Staging};
use parquet::errors::ParquetError;

use crate::encode::{Layout, Progress, RowGroup, RowGroups};
use crate::error::writing;
use crate::output::FileWriter;
use crate::single::{append_row_group, finish, start};

/// The staging directory that the writers of a load fill.
pub(crate) struct SharedDirectory {
    layout: Arc<Layout>,
    parts: Parts,
}

impl SharedDirectory {
    /// Takes the files named in `old` over.
    pub(crate) fn new(
        layout: Arc<Layout>,
        staging: Arc<Staging>,
        run: RunId,
        old: Vec<Option<ManifestFile>>,
    ) -> Result<Self> {
        Ok(Self { layout, parts: Parts::new(staging, run, "parquet", old)? })
    }

    pub(crate) fn writer(self: &Arc<Self>, cx: &RunContext, partition: &Partition) -> Result<Box<dyn PartitionWriter>> {
        self.parts.begin(partition.id)?;
        let memory = cx.writer_memory().saturating_sub(self.parts.file_memory());
        Ok(Box::new(PartWriter {
            directory: self.clone(),
            groups: RowGroups::new(self.layout.clone(), memory),
            file: None,
            finished: false,
            receipt: Receipt::new(partition.id, 0, 0),
            tally: None,
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
    groups: RowGroups,
    file: Option<FileWriter<OutputFile>>,
    finished: bool,
    receipt: Receipt,
    tally: Option<Tally>,
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
        self.groups.push(batch);
        self.go_on()
    }

    fn seal(&mut self, tally: Tally) {
        self.tally = Some(tally);
    }

    async fn finish(mut self: Box<Self>) -> Result<Receipt> {
        self.groups.end();
        self.go_on()?;
        let parts = &self.directory.parts;
        let ended = self.file.take().map(|file| finish(file, parts.target())).transpose()?;
        let (file, rows) = ended.map_or((None, 0), |(file, rows)| (Some(file), rows));
        self.receipt.bytes = parts.end(self.receipt.partition, file, rows, self.tally, false)?;
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
