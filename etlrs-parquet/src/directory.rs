//! A directory of one file per partition.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arrow_array::RecordBatch;
use async_trait::async_trait;
use etlrs_core::{Error, ErrorKind, Partition, PartitionId, PartitionWriter, Receipt, Result, RunContext, RunId};
use etlrs_files::{Manifest, ManifestFile};
use parquet::errors::ParquetError;
use parquet::file::writer::SerializedFileWriter;

use crate::EXTENSIONS;
use crate::encode::{Encoder, Layout};
use crate::error::writing;
use crate::single::{append_row_group, create, finish};

/// The staging directory that the writers of a load fill.
pub(crate) struct SharedDirectory {
    layout: Arc<Layout>,
    target: PathBuf,
    staged: PathBuf,
    run: RunId,
    /// Files that were there before, already in the staging directory.
    old: Vec<ManifestFile>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    parts: BTreeMap<PartitionId, ManifestFile>,
    closed: bool,
}

impl SharedDirectory {
    /// Takes the files named in `old` over from `target`: hard links, so that it costs no space.
    pub(crate) fn new(
        layout: Arc<Layout>,
        target: &Path,
        staged: &Path,
        run: RunId,
        old: Vec<ManifestFile>,
    ) -> Result<Self> {
        for file in &old {
            let (from, to) = (target.join(&file.name), staged.join(&file.name));
            fs::hard_link(&from, &to)
                .or_else(|_| fs::copy(&from, &to).map(drop))
                .map_err(|error| Error::io("take over", from, error))?;
        }
        let (target, staged) = (target.to_owned(), staged.to_owned());
        Ok(Self { layout, target, staged, run, old, state: Mutex::default() })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn part_name(&self, partition: PartitionId) -> String {
        // Run ids sort by time, so readers that know no manifest see the rows in the order of their loads.
        format!("part-{}-{:05}.parquet", self.run, partition.0)
    }

    pub(crate) fn writer(self: &Arc<Self>, cx: &RunContext, partition: &Partition) -> Result<Box<dyn PartitionWriter>> {
        self.lock().parts.remove(&partition.id);
        let staged = self.staged.join(self.part_name(partition.id));
        // An attempt before this one may have finished, and only its receipt was lost.
        match fs::remove_file(&staged) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(Error::io("write", &self.target, error));
            }
            _ => {}
        }
        Ok(Box::new(PartWriter {
            directory: self.clone(),
            encoder: Encoder::new(self.layout.clone()),
            memory: cx.writer_memory(),
            staged,
            file: None,
            finished: false,
            receipt: Receipt::new(partition.id, 0, 0),
        }))
    }

    /// Writes the manifest, once, and gives the files of this load. A directory has one file at the least, for the
    /// schema would be lost without one.
    pub(crate) fn close(&self) -> Result<Vec<ManifestFile>> {
        let mut state = self.lock();
        if !state.closed {
            if state.parts.is_empty() && self.old.is_empty() {
                let name = self.part_name(PartitionId(0));
                let staged = self.staged.join(&name);
                let closed = finish(&mut create(&staged, &self.target, &self.layout)?, &staged, &self.target)?;
                state.parts.insert(PartitionId(0), ManifestFile { name, rows: closed.rows, bytes: closed.bytes });
            }
            let files = self.old.iter().chain(state.parts.values()).cloned().collect();
            Manifest::new(self.run, files).write(&self.staged)?;
            state.closed = true;
        }
        Ok(state.parts.values().cloned().collect())
    }
}

/// The data files of `directory`, in order, for a load that keeps or replaces them.
///
/// A load exchanges the whole directory, so one that holds anything but these files, the manifest, and the marks that
/// other writers of Parquet leave is refused: it would be lost.
pub(crate) fn data_files(directory: &Path) -> Result<Vec<PathBuf>> {
    let failed = |error| Error::io("read", directory, error);
    let entries = fs::read_dir(directory).map_err(failed)?.map(|entry| Ok(entry.map_err(failed)?.path()));
    let entries = entries.collect::<Result<Vec<_>>>()?;
    let is_mark = |path: &Path| {
        let name = path.file_name().unwrap_or_default().as_encoded_bytes();
        let known = [Manifest::NAME, "_SUCCESS", "_metadata", "_common_metadata"].map(str::as_bytes);
        path.is_file() && (known.contains(&name) || (name.starts_with(b".") && name.ends_with(b".crc")))
    };
    let is_data = |path: &PathBuf| {
        let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
        let hidden = path
            .file_name()
            .is_some_and(|name| name.as_encoded_bytes().starts_with(b".") || name.as_encoded_bytes().starts_with(b"_"));
        !hidden && EXTENSIONS.iter().any(|known| known.eq_ignore_ascii_case(extension))
    };
    let files = if entries.iter().any(is_data) || Manifest::read(directory)?.is_some() {
        etlrs_files::source_files(directory, EXTENSIONS)?
    } else {
        Vec::new()
    };
    match entries.iter().find(|path| !files.contains(path) && !is_mark(path)) {
        None => Ok(files),
        Some(path) => Err(Error::new(
            ErrorKind::InvalidConfig,
            format!(
                "the directory holds {:?}, which is not part of its data and would be lost",
                path.file_name().unwrap_or_default()
            ),
        )
        .hint("move it away, or use another directory")
        .in_source(directory.display())),
    }
}

struct PartWriter {
    directory: Arc<SharedDirectory>,
    encoder: Encoder,
    memory: usize,
    staged: PathBuf,
    file: Option<SerializedFileWriter<File>>,
    finished: bool,
    receipt: Receipt,
}

impl PartWriter {
    fn encoded<T>(&self, result: Result<T, ParquetError>) -> Result<T> {
        result.map_err(|error| writing(&self.directory.target, error))
    }

    fn flush(&mut self) -> Result<()> {
        let closed = self.encoder.take();
        let Some(group) = self.encoded(closed)? else { return Ok(()) };
        let file = match &mut self.file {
            Some(file) => file,
            empty => empty.insert(create(&self.staged, &self.directory.target, &self.directory.layout)?),
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
        if let Some(mut file) = self.file.take() {
            let closed = finish(&mut file, &self.staged, &self.directory.target)?;
            self.receipt.bytes = closed.bytes;
            let name = self.directory.part_name(self.receipt.partition);
            let part = ManifestFile { name, rows: closed.rows, bytes: closed.bytes };
            self.directory.lock().parts.insert(self.receipt.partition, part);
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
