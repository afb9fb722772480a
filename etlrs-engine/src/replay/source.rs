//! The records of a group as a source: their texts are written into files, which the connector of their format reads.

use std::path::PathBuf;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::{ArrayRef, RecordBatch, RecordBatchOptions};
use arrow_schema::{DataType, Field, Schema, SchemaRef};
use arrow_select::concat::concat_batches;
use etlrs_core::{
    BatchStream, Error, ErrorKind, Extractor, Fingerprint, Partition, Pushdown, Rejected, Rejects, Result, RunContext,
    Scan, ScanRequest, async_trait, next_batch,
};
use futures_util::stream::try_unfold;

use super::rows::{Chosen, Rows, bytes_of};
use crate::read_as::ReadAs;

/// The files of a group: the first has all texts of a line each, and each of the others a text of its own that might run on
/// into the next one.
#[derive(Clone)]
pub(super) struct Source {
    /// Reads them.
    pub(super) files: Arc<dyn Extractor>,
    pub(super) format: ReadAs,
    /// Texts in the first file, which is not there if they are none.
    pub(super) joined: u64,
    /// The quarantine as it was when the files were written.
    pub(super) snapshot: Arc<dyn Extractor>,
    pub(super) chosen: Chosen,
    /// The one file or table that all records are from.
    pub(super) from: Option<Arc<str>>,
    pub(super) fingerprint: Fingerprint,
    /// What it is all in, until nobody needs it any more.
    pub(super) _folder: Arc<Folder>,
}

/// A folder that is removed with all that is in it.
pub(super) struct Folder(pub(super) PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        // What cannot be removed is in the folder for temporary files.
        _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Whether a text needs a file of its own.
pub(super) fn is_alone(text: &[u8], format: &ReadAs) -> bool {
    let is_delicate = |byte: &u8| {
        !format.line_ends_are_spaces && matches!(byte, b'\n' | b'\r') || format.delicate.as_bytes().contains(byte)
    };
    text.trim_ascii().is_empty() || text.iter().any(is_delicate)
}

#[async_trait]
impl Extractor for Source {
    async fn scan(&self, cx: &RunContext, request: &ScanRequest) -> Result<Arc<dyn Scan>> {
        let mut of_files = ScanRequest::all().partitions(1).target(request.target.clone());
        of_files.columns = request.columns.clone().or_else(|| Some(self.format.columns.clone()));
        let files = super::projected(&*self.files, cx, &of_files).await?;
        let snapshot = self.snapshot.scan(cx, &ScanRequest::all().partitions(1)).await?;
        let binary = |field: &Arc<Field>| match self.format.binary.contains(field.name()) {
            true => Arc::new(field.as_ref().clone().with_data_type(DataType::Binary)),
            false => field.clone(),
        };
        let schema: SchemaRef = Arc::new(Schema::new(files.schema().fields().iter().map(binary).collect::<Vec<_>>()));
        let mut partition = Partition::new(0, "records of a quarantine");
        partition.source = self.from.clone();
        Ok(Arc::new(SourceScan { source: self.clone(), schema, files, snapshot, partitions: vec![partition] }))
    }
}

struct SourceScan {
    source: Source,
    schema: SchemaRef,
    files: Arc<dyn Scan>,
    snapshot: Arc<dyn Scan>,
    partitions: Vec<Partition>,
}

#[async_trait]
impl Scan for SourceScan {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    fn partitions(&self) -> &[Partition] {
        &self.partitions
    }

    fn pushdown(&self) -> Pushdown {
        Pushdown::columns()
    }

    fn min_memory(&self) -> usize {
        self.files.min_memory() + self.snapshot.min_memory()
    }

    fn identity(&self) -> Option<String> {
        Some(format!("replay {:?} {}", self.source.format, self.source.chosen.group.transforms))
    }

    async fn fingerprint(&self) -> Result<Fingerprint> {
        Ok(self.source.fingerprint.clone())
    }

    fn read(&self, cx: &RunContext, _partition: &Partition) -> Result<BatchStream> {
        let Some(outer) = cx.rejects().cloned() else {
            return Err(Error::new(ErrorKind::Internal, "a quarantine is replayed without one"));
        };
        let inner = Rejects::new(cx.batch_memory() / 2);
        let source = self.source.clone();
        let snapshot = self.snapshot.clone();
        let originals = Originals::new(cx, snapshot.clone(), source.clone(), false)?;
        let (inner_cx, is_joined) = (cx.with_rejects(inner.clone()), source.joined > 0);
        let reading = Reading {
            cx: cx.clone(),
            inner_cx,
            files: self.files.clone(),
            snapshot,
            schema: self.schema.clone(),
            next: 0,
            is_joined,
            stream: None,
            originals,
            inner,
            outer,
            rows: 0,
            rejected: 0,
            source,
        };
        Ok(Box::pin(try_unfold(reading, |mut reading| async move {
            Ok(reading.batch().await?.map(|batch| (batch, reading)))
        })))
    }
}

struct Reading {
    source: Source,
    cx: RunContext,
    /// With a place of its own for what is rejected.
    inner_cx: RunContext,
    files: Arc<dyn Scan>,
    snapshot: Arc<dyn Scan>,
    schema: SchemaRef,
    /// The partition that comes next.
    next: usize,
    /// The one at work is the file that has many texts.
    is_joined: bool,
    stream: Option<BatchStream>,
    originals: Originals,
    inner: Rejects,
    outer: Rejects,
    /// Of the file at work.
    rows: u64,
    rejected: u64,
}

impl Reading {
    async fn batch(&mut self) -> Result<Option<RecordBatch>> {
        let most = self.cx.config().batch_size.max(1);
        let mut batches: Vec<RecordBatch> = Vec::new();
        let (mut rows, mut bytes) = (0, 0);
        loop {
            if self.is_joined || self.stream.is_some() {
                match self.of_joined().await? {
                    Some(batch) => batches.push(batch),
                    None => continue,
                }
            } else {
                if self.next >= self.files.partitions().len() {
                    break;
                }
                batches.extend(self.of_alone().await?);
            }
            if let Some(batch) = batches.last() {
                rows += batch.num_rows();
                bytes += batch.get_array_memory_size();
            }
            if rows >= most || bytes >= self.cx.batch_memory() || self.outer.is_full() {
                break;
            }
        }
        // One without rows lets what was rejected be written.
        let is_end = self.next >= self.files.partitions().len() && self.stream.is_none();
        if batches.is_empty() && is_end && self.outer.is_empty() {
            return Ok(None);
        }
        let batches = batches.iter().map(|batch| self.typed(batch)).collect::<Result<Vec<_>>>()?;
        Ok(Some(concat_batches(&self.schema, &batches)?))
    }

    /// The next batch of the file with many texts. `None` at its end.
    async fn of_joined(&mut self) -> Result<Option<RecordBatch>> {
        if self.stream.is_none() {
            self.open()?;
        }
        let Some(stream) = &mut self.stream else { return Ok(None) };
        let batch = next_batch(stream).await.transpose()?;
        let header = self.source.format.header.as_ref().map_or(0, |header| header.matches('\n').count() as u64 + 1);
        for rejected in self.inner.take() {
            let line = rejected.position.line.unwrap_or(0);
            self.reject(&rejected, line.checked_sub(header + 1)).await?;
        }
        if let Some(batch) = batch {
            self.rows += batch.num_rows() as u64;
            return Ok(Some(batch));
        }
        if self.rows + self.rejected != self.source.joined {
            let (rows, texts) = (self.rows + self.rejected, self.source.joined);
            let message = format!("{texts} records of the quarantine were read as {rows}");
            return Err(Error::new(ErrorKind::Internal, message));
        }
        self.alone()?;
        Ok(None)
    }

    /// From now on the files have a text each.
    fn alone(&mut self) -> Result<()> {
        (self.is_joined, self.stream) = (false, None);
        self.originals = Originals::new(&self.cx, self.snapshot.clone(), self.source.clone(), true)?;
        Ok(())
    }

    fn open(&mut self) -> Result<()> {
        (self.rows, self.rejected) = (0, 0);
        let partition = self.files.partitions().get(self.next);
        let partition = partition.ok_or_else(|| Error::new(ErrorKind::Internal, "a file of the replay is missing"))?;
        self.next += 1;
        self.stream = Some(self.files.read(&self.inner_cx, partition)?);
        Ok(())
    }

    /// What a file with one text gives, which is one row or none.
    async fn of_alone(&mut self) -> Result<Option<RecordBatch>> {
        if self.next == 0 && self.source.joined == 0 {
            self.alone()?;
        }
        let text = (self.next as u64).checked_sub(u64::from(self.source.joined > 0));
        self.open()?;
        let mut found: Option<RecordBatch> = None;
        while let Some(stream) = &mut self.stream {
            let Some(batch) = next_batch(stream).await else { break };
            let batch = batch?;
            self.rows += batch.num_rows() as u64;
            if batch.num_rows() > 0 && found.is_none() {
                found = Some(batch);
            }
        }
        self.stream = None;
        let rejected: Vec<_> = self.inner.take().into_iter().filter(|rejected| rejected.part == 0).collect();
        if self.rows == 1 && rejected.is_empty() {
            return Ok(found);
        }
        // All of it stays if some of it does.
        let several = || {
            let what = if self.rows == 0 { "the text is no record" } else { "the text is more than one record" };
            let error = Error::new(ErrorKind::InvalidData, what).hint("each row of a quarantine is one record");
            Rejected::by_source(&error)
        };
        let why = match (self.rows, rejected.as_slice()) {
            (0, [only]) => only.clone(),
            _ => several(),
        };
        self.reject(&why, text).await?;
        Ok(None)
    }

    /// Sets the record with that text aside once more.
    async fn reject(&mut self, rejected: &Rejected, text: Option<u64>) -> Result<()> {
        if rejected.part > 0 {
            return Ok(());
        }
        self.rejected += 1;
        let lost = || Error::new(ErrorKind::Internal, "nobody knows which record of the quarantine was rejected");
        let (rows, row) = self.originals.get(text.ok_or_else(lost)?).await?.ok_or_else(lost)?;
        self.outer.push(rows.rejected(row, rejected));
        Ok(())
    }

    /// With bytes where their digits were read.
    fn typed(&self, batch: &RecordBatch) -> Result<RecordBatch> {
        let columns = self.schema.fields().iter().zip(batch.columns()).map(|(field, column)| {
            if field.data_type() == column.data_type() {
                return Ok(column.clone());
            }
            let texts = arrow_cast::cast(column, &DataType::Utf8)?;
            let bytes = texts
                .as_string::<i32>()
                .iter()
                .map(|text| text.map(bytes_of).map_or(Ok(None), |bytes| bytes.map(Some).ok_or(())));
            let bytes = bytes.collect::<Result<Vec<_>, ()>>().map_err(|()| {
                Error::new(ErrorKind::InvalidData, "the value is no sequence of bytes in hexadecimal digits")
                    .at_column(field.name())
            })?;
            Ok(Arc::new(bytes.iter().map(Option::as_deref).collect::<arrow_array::BinaryArray>()) as ArrayRef)
        });
        let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
        let columns = columns.collect::<Result<Vec<_>>>()?;
        Ok(RecordBatch::try_new_with_options(self.schema.clone(), columns, &options)?)
    }
}

/// The rows of the quarantine whose texts are in the files, front to back.
struct Originals {
    source: Source,
    snapshot: Arc<dyn Scan>,
    cx: RunContext,
    is_alone: bool,
    partition: usize,
    stream: Option<BatchStream>,
    /// Rows that were passed.
    passed: u64,
    rows: Option<(Rows, Vec<usize>)>,
}

impl Originals {
    fn new(cx: &RunContext, snapshot: Arc<dyn Scan>, source: Source, is_alone: bool) -> Result<Self> {
        let (cx, stream, rows) = (cx.clone(), None, None);
        Ok(Self { source, snapshot, cx, is_alone, partition: 0, stream, passed: 0, rows })
    }

    /// The one whose text is that one; later ones only may be asked for then.
    async fn get(&mut self, text: u64) -> Result<Option<(&Rows, usize)>> {
        loop {
            let within = text.checked_sub(self.passed).and_then(|within| usize::try_from(within).ok());
            let count = self.rows.as_ref().map_or(0, |(_, chosen)| chosen.len());
            if within.is_some_and(|within| within < count) {
                break;
            }
            self.passed += count as u64;
            if !self.advance().await? {
                return Ok(None);
            }
        }
        let within = usize::try_from(text - self.passed).unwrap_or(usize::MAX);
        Ok(self.rows.as_ref().and_then(|(rows, chosen)| Some((rows, *chosen.get(within)?))))
    }

    /// To the next batch of the quarantine, if there is one.
    async fn advance(&mut self) -> Result<bool> {
        loop {
            if self.stream.is_none() {
                let Some(partition) = self.snapshot.partitions().get(self.partition) else { return Ok(false) };
                self.stream = Some(self.snapshot.read(&self.cx, partition)?);
                self.partition += 1;
            }
            let Some(stream) = &mut self.stream else { return Ok(false) };
            match next_batch(stream).await {
                Some(batch) => {
                    let rows = Rows::of(&batch?)?;
                    let is_wanted = |row: &usize| {
                        let text = rows.text(*row).unwrap_or_default();
                        self.source.chosen.has(&rows, *row) && is_alone(text, &self.source.format) == self.is_alone
                    };
                    let chosen = (0..rows.len()).filter(is_wanted).collect();
                    self.rows = Some((rows, chosen));
                    return Ok(true);
                }
                None => self.stream = None,
            }
        }
    }
}
