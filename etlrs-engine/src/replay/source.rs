//! The records of a group as a source.
//!
//! Rows that were written as JSON are read here. The texts of records of a source are written into files, which the connector of
//! their format reads with the columns and types that it had found before: many texts of a line each into one file, in their order, and
//! each that might run on into the next one into a file of its own.

use std::path::PathBuf;
use std::sync::Arc;

use arrow_array::RecordBatch;
use arrow_schema::SchemaRef;
use arrow_select::concat::concat_batches;
use etlrs_core::{
    BatchStream, Checksum, Error, ErrorKind, Extractor, Fingerprint, Partition, Pushdown, Rejected, Rejects, Result,
    RunContext, Scan, ScanRequest, async_trait, next_batch,
};
use futures_util::stream::try_unfold;

use super::Mark;
use super::row_text::rows_of;
use super::rows::{Chosen, Rows};
use crate::read_as::SourceFormat;

#[derive(Clone)]
pub(super) struct Source {
    pub(super) records: Records,
    /// The quarantine as it was when the step began.
    pub(super) snapshot: Arc<dyn Extractor>,
    /// The quarantine itself.
    pub(super) live: Arc<dyn Extractor>,
    pub(super) chosen: Chosen,
    /// The one file or table that all records are from.
    pub(super) from: Option<Arc<str>>,
    pub(super) mark: Mark,
    /// What it is all in, until nobody needs it any more.
    pub(super) _folder: Arc<Folder>,
}

#[derive(Clone)]
pub(super) enum Records {
    Rows(SchemaRef),
    Files {
        /// Reads them.
        files: Arc<dyn Extractor>,
        format: SourceFormat,
        texts: Arc<[Texts]>,
    },
}

/// Some texts, one behind the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Texts {
    /// So many in a file.
    File(u64),
    /// One that says nothing.
    Blank,
}

impl Texts {
    fn count(self) -> u64 {
        match self {
            Self::File(texts) => texts,
            Self::Blank => 1,
        }
    }
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
pub(super) fn is_alone(text: &[u8], format: &SourceFormat) -> bool {
    let is_delicate = |byte: &u8| {
        !format.line_ends_are_spaces && matches!(byte, b'\n' | b'\r') || format.delicate.as_bytes().contains(byte)
    };
    text.iter().any(is_delicate)
}

#[async_trait]
impl Extractor for Source {
    async fn scan(&self, cx: &RunContext, request: &ScanRequest) -> Result<Arc<dyn Scan>> {
        let snapshot = self.snapshot.scan(cx, &ScanRequest::all().partitions(1)).await?;
        let files = match &self.records {
            Records::Rows(_) => None,
            Records::Files { files, format, texts } => {
                let mut of_files = ScanRequest::all().partitions(1);
                of_files.columns = request.columns.clone().or_else(|| Some(format.columns.clone()));
                let found = super::projected(&**files, cx, &of_files).await?;
                let wanted = texts.iter().filter(|texts| **texts != Texts::Blank).count();
                if found.partitions().len() != wanted {
                    let message = format!("{wanted} files of a replay are read as {}", found.partitions().len());
                    return Err(Error::new(ErrorKind::Internal, message));
                }
                Some(found)
            }
        };
        let mut partition = Partition::new(0, "records of a quarantine");
        partition.source = self.from.clone();
        let cx = cx.clone();
        Ok(Arc::new(SourceScan { source: self.clone(), files, snapshot, partitions: vec![partition], cx }))
    }
}

struct SourceScan {
    source: Source,
    files: Option<Arc<dyn Scan>>,
    snapshot: Arc<dyn Scan>,
    partitions: Vec<Partition>,
    cx: RunContext,
}

#[async_trait]
impl Scan for SourceScan {
    fn schema(&self) -> SchemaRef {
        match (&self.source.records, &self.files) {
            (Records::Rows(schema), _) => schema.clone(),
            (Records::Files { .. }, Some(files)) => files.schema(),
            (Records::Files { .. }, None) => Arc::new(arrow_schema::Schema::empty()),
        }
    }

    fn partitions(&self) -> &[Partition] {
        &self.partitions
    }

    fn pushdown(&self) -> Pushdown {
        Pushdown::columns()
    }

    fn min_memory(&self) -> usize {
        self.files.as_ref().map_or(0, |files| files.min_memory()) + self.snapshot.min_memory()
    }

    fn identity(&self) -> Option<String> {
        let Source { records, chosen, .. } = &self.source;
        let format = match records {
            Records::Rows(_) => String::new(),
            Records::Files { format, .. } => format!("{format:?}"),
        };
        Some(format!("replay {:?} {format}", chosen.group))
    }

    /// Of the quarantine itself, which nobody else writes to when this is asked for the last time: what was loaded and taken out by
    /// another replay meanwhile is not loaded once more.
    async fn fingerprint(&self) -> Result<Fingerprint> {
        let live = self.source.live.scan(&self.cx, &ScanRequest::all()).await?;
        let mut checksum = Checksum::default();
        for partition in live.partitions() {
            let mut stream = live.read(&self.cx, partition)?;
            while let Some(batch) = next_batch(&mut stream).await {
                let rows = Rows::of(&batch?)?;
                let chosen: Vec<usize> = (0..rows.len()).filter(|&row| self.source.chosen.has(&rows, row)).collect();
                checksum.merge(&Chosen::checksum(&rows, &chosen)?);
            }
        }
        let mark = Mark { checksum: checksum.to_string(), ..self.source.mark.clone() };
        Ok(Fingerprint::new(mark.to_text()))
    }

    fn read(&self, cx: &RunContext, _partition: &Partition) -> Result<BatchStream> {
        let Some(outer) = cx.rejects().cloned() else {
            return Err(Error::new(ErrorKind::Internal, "a quarantine is replayed without one"));
        };
        let originals = Originals::new(cx, self.snapshot.clone(), self.source.chosen.clone());
        match (&self.source.records, &self.files) {
            (Records::Files { format, texts, .. }, Some(files)) => {
                let inner = Rejects::new(cx.batch_memory() / 2);
                let header = format.header.as_ref().map_or(0, |header| header.matches('\n').count() as u64 + 1);
                let reading = Files {
                    inner_cx: cx.with_rejects(inner.clone()),
                    cx: cx.clone(),
                    files: files.clone(),
                    texts: texts.clone(),
                    header,
                    next: 0,
                    next_file: 0,
                    stream: None,
                    before: 0,
                    originals,
                    inner,
                    outer,
                    rows: 0,
                    rejected: 0,
                };
                Ok(Box::pin(try_unfold(reading, |mut reading| async move {
                    Ok(reading.batch().await?.map(|batch| (batch, reading)))
                })))
            }
            (Records::Rows(schema), _) => {
                let reading = (originals, schema.clone(), outer);
                Ok(Box::pin(try_unfold(reading, |(mut originals, schema, outer)| async move {
                    let Some((rows, chosen)) = originals.next().await? else { return Ok(None) };
                    let batch = of_rows(&schema, rows, chosen, &outer)?;
                    Ok(Some((batch, (originals, schema, outer))))
                })))
            }
            (Records::Files { .. }, None) => Err(Error::new(ErrorKind::Internal, "a replay has no files")),
        }
    }
}

/// Rows as they were written; those that are none are set aside once more.
fn of_rows(schema: &SchemaRef, rows: &Rows, chosen: &[usize], outer: &Rejects) -> Result<RecordBatch> {
    let texts: Vec<&[u8]> = chosen.iter().map(|&row| rows.text(row).unwrap_or_default()).collect();
    if let Ok(batch) = rows_of(schema, &texts) {
        return Ok(batch);
    }
    let mut parts = Vec::new();
    for (&row, text) in chosen.iter().zip(texts) {
        match rows_of(schema, &[text]) {
            Ok(part) => parts.push(part),
            Err(error) => outer.push(rows.rejected(row, &Rejected::by_source(&error))),
        }
    }
    Ok(concat_batches(schema, &parts)?)
}

struct Files {
    cx: RunContext,
    /// With a place of its own for what is rejected.
    inner_cx: RunContext,
    files: Arc<dyn Scan>,
    texts: Arc<[Texts]>,
    /// Lines before the first text of a file.
    header: u64,
    /// The texts that come next, and the file.
    next: usize,
    next_file: usize,
    /// Of the file that has many texts.
    stream: Option<BatchStream>,
    /// Texts before that file.
    before: u64,
    originals: Originals,
    inner: Rejects,
    outer: Rejects,
    /// Of the file at work.
    rows: u64,
    rejected: u64,
}

impl Files {
    async fn batch(&mut self) -> Result<Option<RecordBatch>> {
        let most = self.cx.config().batch_size.max(1);
        let mut batches: Vec<RecordBatch> = Vec::new();
        let (mut rows, mut bytes) = (0, 0);
        while rows < most && bytes < self.cx.batch_memory() && !self.outer.is_full() {
            let batch = match (&self.stream, self.texts.get(self.next)) {
                (Some(_), _) => self.of_many().await?,
                (None, None) => break,
                (None, Some(Texts::File(1))) => self.of_one().await?,
                (None, Some(Texts::File(_))) => {
                    self.open()?;
                    None
                }
                (None, Some(Texts::Blank)) => {
                    let error = Error::new(ErrorKind::InvalidData, "the text is empty");
                    self.reject(&Rejected::by_source(&error), self.before).await?;
                    self.done(Texts::Blank);
                    None
                }
            };
            if let Some(batch) = batch {
                rows += batch.num_rows();
                bytes += batch.get_array_memory_size();
                batches.push(batch);
            }
        }
        let is_end = self.stream.is_none() && self.next >= self.texts.len();
        if batches.is_empty() && is_end && self.outer.is_empty() {
            return Ok(None);
        }
        // One without rows lets what was rejected be written.
        Ok(Some(concat_batches(&self.files.schema(), &batches)?))
    }

    fn open(&mut self) -> Result<()> {
        (self.rows, self.rejected) = (0, 0);
        let partition = self.files.partitions().get(self.next_file);
        let partition = partition.ok_or_else(|| Error::new(ErrorKind::Internal, "a file of the replay is missing"))?;
        self.next_file += 1;
        self.stream = Some(self.files.read(&self.inner_cx, partition)?);
        Ok(())
    }

    fn done(&mut self, texts: Texts) {
        self.stream = None;
        self.next += 1;
        self.before += texts.count();
    }

    /// The next batch of a file with many texts.
    async fn of_many(&mut self) -> Result<Option<RecordBatch>> {
        let Some(stream) = &mut self.stream else { return Ok(None) };
        let batch = next_batch(stream).await.transpose()?;
        for rejected in self.inner.take().into_iter().filter(|rejected| rejected.part == 0) {
            let line = rejected.position.line.unwrap_or(0);
            let lost = || Error::new(ErrorKind::Internal, "nobody knows which record of the quarantine was rejected");
            let text = line.checked_sub(self.header + 1).ok_or_else(lost)?;
            self.rejected += 1;
            self.reject(&rejected, self.before + text).await?;
        }
        if let Some(batch) = batch {
            self.rows += batch.num_rows() as u64;
            return Ok(Some(batch));
        }
        let texts = self.texts.get(self.next).copied().unwrap_or(Texts::Blank);
        if self.rows + self.rejected != texts.count() {
            let message =
                format!("{} records of the quarantine were read as {}", texts.count(), self.rows + self.rejected);
            return Err(Error::new(ErrorKind::Internal, message));
        }
        self.done(texts);
        Ok(None)
    }

    /// What a file with one text gives, which is one row or none.
    async fn of_one(&mut self) -> Result<Option<RecordBatch>> {
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
        let rejected: Vec<_> = self.inner.take().into_iter().filter(|rejected| rejected.part == 0).collect();
        let taken = self.rows == 1 && rejected.is_empty();
        if !taken {
            // All of it stays if some of it does.
            let why = match (self.rows, rejected.as_slice()) {
                (0, [only]) => only.clone(),
                (rows, _) => {
                    let what = if rows == 0 { "the text is no record" } else { "the text is more than one record" };
                    let error = Error::new(ErrorKind::InvalidData, what);
                    Rejected::by_source(&error.hint("each row of a quarantine is one record"))
                }
            };
            self.reject(&why, self.before).await?;
        }
        self.done(Texts::File(1));
        Ok(found.filter(|_| taken))
    }

    /// Sets the record with that text aside once more.
    async fn reject(&mut self, rejected: &Rejected, text: u64) -> Result<()> {
        let lost = || Error::new(ErrorKind::Internal, "nobody knows which record of the quarantine was rejected");
        let (rows, row) = self.originals.get(text).await?.ok_or_else(lost)?;
        self.outer.push(rows.rejected(row, rejected));
        Ok(())
    }
}

/// The chosen rows of the quarantine, front to back.
struct Originals {
    snapshot: Arc<dyn Scan>,
    chosen: Chosen,
    cx: RunContext,
    partition: usize,
    stream: Option<BatchStream>,
    /// Rows that were passed.
    passed: u64,
    rows: Option<(Rows, Vec<usize>)>,
}

impl Originals {
    fn new(cx: &RunContext, snapshot: Arc<dyn Scan>, chosen: Chosen) -> Self {
        Self { snapshot, chosen, cx: cx.clone(), partition: 0, stream: None, passed: 0, rows: None }
    }

    /// The one whose text is that one; later ones only may be asked for then.
    async fn get(&mut self, text: u64) -> Result<Option<(&Rows, usize)>> {
        loop {
            let count = self.rows.as_ref().map_or(0, |(_, chosen)| chosen.len() as u64);
            if (self.passed..self.passed + count).contains(&text) {
                break;
            }
            self.passed += count;
            if self.next().await?.is_none() {
                return Ok(None);
            }
        }
        let within = usize::try_from(text - self.passed).unwrap_or(usize::MAX);
        Ok(self.rows.as_ref().and_then(|(rows, chosen)| Some((rows, *chosen.get(within)?))))
    }

    /// The next batch of the quarantine, with those that are chosen, which may be none.
    async fn next(&mut self) -> Result<Option<(&Rows, &[usize])>> {
        loop {
            if self.stream.is_none() {
                let Some(partition) = self.snapshot.partitions().get(self.partition) else { return Ok(None) };
                self.stream = Some(self.snapshot.read(&self.cx, partition)?);
                self.partition += 1;
            }
            let Some(stream) = &mut self.stream else { return Ok(None) };
            match next_batch(stream).await {
                Some(batch) => {
                    let rows = Rows::of(&batch?)?;
                    let chosen = (0..rows.len()).filter(|&row| self.chosen.has(&rows, row)).collect();
                    let (rows, chosen) = self.rows.insert((rows, chosen));
                    return Ok(Some((rows, chosen)));
                }
                None => self.stream = None,
            }
        }
    }
}
