//! One look at files of one table, and the reading of their partitions.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use arrow_array::{RecordBatch, RecordBatchOptions};
use arrow_schema::{DataType, SchemaRef};
use async_trait::async_trait;
use etlrs_core::{
    BatchStream, CancelToken, ColumnTypes, Connector, Detail, Error, ErrorKind, Fingerprint, OptionSet, Partition,
    Pushdown, RecordFormat, Rejected, Rejects, Result, RunContext, Scan, ScanRequest, batches_from_fn,
};
use etlrs_files::text::{self, Extent, Origin, Piece, Sample};

use crate::decode::{Bad, Members, Reading as ColumnReading, TypeBy};
use crate::layout::Layout;
use crate::options::{JsonLayout, JsonOptions};
use crate::planned::{Planned, PlannedColumns};
use crate::reader::{Reader, Record, Source};
use crate::survey::Survey;
use crate::syntax;

/// Offsets of texts and lists are 31 bits wide, and a batch may exceed this by a record.
const LARGEST_BATCH: usize = 1 << 29;

/// A file of the table.
pub(crate) struct Part {
    source: Arc<Source>,
    /// Bytes as they are stored, where that is known.
    stored: Option<u64>,
    sampled: usize,
}

impl Part {
    pub(crate) fn of(survey: Survey) -> Self {
        Self { source: Arc::new(survey.source), stored: survey.stored, sampled: survey.sample.records }
    }

    fn extent(&self) -> Extent<'_> {
        let source = &self.source;
        let records = (!source.is_stream()).then_some(source.start..source.length);
        Extent { path: &source.path, stored: self.stored, records, is_remote: source.is_remote() }
    }
}

/// The pieces of all files, one file after another, and the partitions that they are.
pub(crate) fn pieces(parts: &[Part], cx: &RunContext, request: &ScanRequest) -> Result<(Vec<Piece>, Vec<Partition>)> {
    let extents: Vec<Extent<'_>> = parts.iter().map(Part::extent).collect();
    text::pieces(&extents, cx, request, |file, wanted| {
        // Anywhere: a piece has the lines that begin in it.
        let Source { start, length, .. } = *parts[file].source;
        let size = length.saturating_sub(start);
        let pieces = wanted.min(size.max(1));
        let place = |index: u64| {
            let offset = u128::from(size) * u128::from(index) / u128::from(pieces);
            start + u64::try_from(offset).unwrap_or(size)
        };
        Ok((1..=pieces).map(place).collect())
    })
}

/// The number of lines before places in a file, where pieces begin that had bad records. Kept, so that many bad records do
/// not cost the square of their number.
pub(crate) type Counted = Mutex<BTreeMap<u64, u64>>;

pub(crate) struct JsonScan {
    pub(crate) origin: Origin,
    pub(crate) parts: Vec<Part>,
    /// Of each part.
    pub(crate) lines: Arc<[Counted]>,
    pub(crate) pieces: Vec<Piece>,
    pub(crate) partitions: Vec<Partition>,
    pub(crate) schema: SchemaRef,
    pub(crate) readings: Arc<[ColumnReading]>,
    /// Keys that are known and that nobody asked for.
    pub(crate) unwanted: Arc<[String]>,
    /// Records are no objects.
    pub(crate) is_value: bool,
    pub(crate) ignore_unknown: bool,
    /// A larger sample can be asked for.
    pub(crate) can_sample_more: bool,
    pub(crate) notes: Vec<String>,
    pub(crate) details: Vec<Detail>,
    pub(crate) min_memory: usize,
    /// When the files were looked at.
    pub(crate) fingerprint: Fingerprint,
    pub(crate) options: JsonOptions,
    /// The options, of files that another process can read.
    pub(crate) identity: Option<String>,
    pub(crate) cancel: CancelToken,
    pub(crate) max_readers: usize,
    /// Bytes asked of a file at a time.
    pub(crate) read_size: usize,
    /// Files are mapped into memory.
    pub(crate) mapped: bool,
}

#[async_trait]
impl Scan for JsonScan {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    fn partitions(&self) -> &[Partition] {
        &self.partitions
    }

    fn pushdown(&self) -> Pushdown {
        Pushdown::columns()
    }

    fn notes(&self) -> &[String] {
        &self.notes
    }

    fn details(&self) -> &[Detail] {
        &self.details
    }

    fn max_readers(&self) -> usize {
        self.max_readers
    }

    fn min_memory(&self) -> usize {
        self.min_memory
    }

    fn identity(&self) -> Option<String> {
        self.identity.clone()
    }

    fn record_format(&self, _partition: &Partition) -> Option<RecordFormat> {
        if self.is_value {
            return None;
        }
        let columns = self.schema.fields().iter().cloned().zip(self.readings.iter().cloned());
        let planned = PlannedColumns { columns: columns.collect(), unwanted: self.unwanted.to_vec() };
        let options = JsonOptions {
            layout: JsonLayout::Lines,
            // As which they are given out.
            encoding: None,
            sample: Sample::Records(10_000),
            types: ColumnTypes::default(),
            planned: Planned(Some(planned)),
            ..self.options.clone()
        };
        let pairs = options.pairs().into_iter().map(|(key, value)| (key.to_owned(), value));
        let mut format = RecordFormat::new(crate::JsonConnector.name());
        format.options = pairs.collect();
        format.line_ends_are_spaces = true;
        format.columns = self.schema.fields().iter().map(|field| field.name().clone()).collect();
        Some(format)
    }

    async fn fingerprint(&self) -> Result<Fingerprint> {
        etlrs_files::unchanged(&self.fingerprint, self.origin.fingerprint(&self.cancel)?)
    }

    fn read(&self, cx: &RunContext, partition: &Partition) -> Result<BatchStream> {
        let missing = || Error::new(ErrorKind::Internal, format!("there is no partition {}", partition.id));
        let piece = *self.pieces.get(partition.id.index()).ok_or_else(missing)?;
        let part = self.parts.get(piece.file).ok_or_else(missing)?;
        let members = Members::new(self.schema.fields(), &self.readings, self.ignore_unknown)?
            .with_unwanted(self.unwanted.iter().map(String::as_str));
        let mut reading = Reading {
            reader: Reader::new(part.source.clone(), piece.range, self.read_size, cx.reader_memory(), cx.cancel())
                .mapped(self.mapped),
            members,
            part: PartLines { source: part.source.clone(), lines: self.lines.clone(), file: piece.file, piece },
            sampled: part.sampled,
            schema: self.schema.clone(),
            readings: self.readings.clone(),
            is_value: self.is_value,
            can_sample_more: self.can_sample_more,
            growth: self.schema.fields().iter().map(|field| growth(field.data_type())).sum::<Growth>(),
            rejects: cx.rejects().cloned(),
            cx: cx.clone(),
        };
        Ok(batches_from_fn(move || reading.next()))
    }
}

/// How much memory values take, beyond that of their text.
#[derive(Clone, Copy, Default)]
struct Growth {
    /// Bytes that each record takes.
    of_record: usize,
    /// How often the bytes of the text itself.
    of_text: usize,
}

impl std::iter::Sum for Growth {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        all.fold(Self { of_record: 0, of_text: 1 }, |sum, one| Self {
            of_record: sum.of_record + one.of_record,
            of_text: sum.of_text.max(one.of_text),
        })
    }
}

fn growth(data_type: &DataType) -> Growth {
    match data_type {
        DataType::Struct(fields) => fields.iter().map(|field| growth(field.data_type())).sum(),
        // An item takes two bytes of text at the least.
        DataType::List(field) => {
            let item = growth(field.data_type());
            Growth { of_record: 4, of_text: 1 + item.of_record.max(2) / 2 + item.of_text }
        }
        _ => Growth { of_record: 16, of_text: 1 },
    }
}

/// The key at a place, so that it can be shown.
fn key_at(text: &[u8], at: usize) -> String {
    const MOST: usize = 60;
    let mut key = Vec::new();
    if let Ok((found, _)) = syntax::string(text, at) {
        found.append(&mut key);
    }
    let key = String::from_utf8_lossy(&key);
    match key.char_indices().nth(MOST) {
        Some((end, _)) => format!("{:?}…", &key[..end]),
        None => format!("{key:?}"),
    }
}

struct PartLines {
    source: Arc<Source>,
    lines: Arc<[Counted]>,
    file: usize,
    piece: Piece,
}

impl PartLines {
    /// Lines that end before the first record of the piece.
    fn before(&self, cancel: &CancelToken) -> Result<u64> {
        let Some((start, _)) = self.piece.range.filter(|(start, _)| *start > self.source.start) else { return Ok(0) };
        let Some(counted) = self.lines.get(self.file) else { return Ok(0) };
        let mut counted = counted.lock().unwrap_or_else(PoisonError::into_inner);
        // Up to the byte from which on the reader looks for the end of a line, which it finds.
        let place = start - 1;
        let (from, known) = counted.range(..=place).next_back().map_or((0, 0), |(from, known)| (*from, *known));
        let lines = known + self.source.lines_in(from, place, cancel)?;
        counted.insert(place, lines);
        Ok(lines + 1)
    }
}

/// A partition being read.
struct Reading {
    reader: Reader,
    members: Members,
    part: PartLines,
    sampled: usize,
    schema: SchemaRef,
    readings: Arc<[ColumnReading]>,
    is_value: bool,
    can_sample_more: bool,
    growth: Growth,
    rejects: Option<Rejects>,
    cx: RunContext,
}

impl Reading {
    fn next(&mut self) -> Result<Option<RecordBatch>> {
        self.cx.cancel().check()?;
        let before = self.reader.progress();
        let batch = self.batch();
        self.reader.check_whole().map_err(|error| error.in_source(self.part.source.path.display()))?;
        let batch = match batch {
            Ok(batch) => batch,
            Err(error) => return Err(self.located(error)?),
        };
        self.cx.counters().bytes_read.add(self.reader.progress() - before);
        Ok(batch)
    }

    fn batch(&mut self) -> Result<Option<RecordBatch>> {
        let most = self.cx.config().batch_size.max(1);
        let most_bytes = self.cx.batch_memory().min(LARGEST_BATCH);
        let (mut bytes, mut ended) = (0, false);
        while self.members.rows() < most && bytes < most_bytes {
            let Some(record) = self.reader.next().map_err(|error| self.unreadable(error))? else {
                ended = true;
                break;
            };
            bytes += record.range.len() * self.growth.of_text + self.growth.of_record;
            let rows = self.members.rows();
            if let Err(error) = self.decode(&record) {
                self.members.truncate(rows);
                self.reject(error, &record)?;
                if self.rejects.as_ref().is_some_and(Rejects::is_full) {
                    break;
                }
            }
        }
        let rows = self.members.rows();
        if rows == 0 && ended {
            return Ok(None);
        }
        let columns = self.members.finish()?;
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        Ok(Some(RecordBatch::try_new_with_options(self.schema.clone(), columns, &options)?))
    }

    /// The error behind which nothing can be read.
    fn unreadable(&self, error: Error) -> Error {
        let is_rejecting =
            self.rejects.is_some() && error.kind() == ErrorKind::InvalidData && error.hint_text().is_none();
        match is_rejecting {
            true => error.hint("nobody knows where the next record begins, so this one cannot be set aside"),
            false => error,
        }
    }

    fn decode(&mut self, record: &Record) -> Result<()> {
        let text = self.reader.text(record);
        if let Err(error) = std::str::from_utf8(text) {
            let byte = record.offset + error.valid_up_to() as u64;
            return Err(Error::new(ErrorKind::InvalidData, "the text is not UTF-8")
                .hint("set the option encoding, to windows-1252 for one")
                .at_byte(byte));
        }
        let start = syntax::space(text, 0);
        let decoded = match (self.is_value, text.get(start)) {
            (false, Some(b'{')) => self.members.append(text, start, 0),
            (true, _) => self.members.append_value(text, start),
            (false, _) => syntax::value(text, start, 0).map_err(Bad::Fault).and(Err(Bad::NoObject(start))),
        };
        let end = decoded.map_err(|bad| self.error(bad, text, record.offset))?;
        let behind = syntax::space(text, end);
        if behind < text.len() {
            return Err(Error::new(ErrorKind::InvalidData, "there is something behind the value on its line")
                .hint("if records stand one behind the other, set the option layout=values")
                .at_byte(record.offset + behind as u64));
        }
        Ok(())
    }

    /// What is told of a record. Values are private.
    fn error(&self, bad: Bad, text: &[u8], offset: u64) -> Error {
        let byte = offset + bad.at().unwrap_or(text.trim_ascii_end().len()) as u64;
        let invalid = |message: String| Error::new(ErrorKind::InvalidData, message).at_byte(byte);
        match bad {
            Bad::Fault(fault) => {
                let error = invalid(fault.message());
                match self.part.source.layout {
                    Layout::Lines if fault.at().is_none() => {
                        error.hint("if records stand on several lines, set the option layout=values")
                    }
                    _ => error,
                }
            }
            Bad::Misfit(_) => self.misfit(byte),
            Bad::NoObject(_) => invalid("the record is no object, as those of the sample are".to_owned()),
            Bad::UnknownKey(at) => {
                let is_nested = self.members.last().is_some();
                let hint = match (is_nested, self.can_sample_more) {
                    (false, true) => {
                        "set the option sample=full to look at all, types=KEY:TYPE to have its column, or unknown_keys=ignore"
                    }
                    (false, false) => "set the option types=KEY:TYPE to have its column, or unknown_keys=ignore",
                    (true, true) => {
                        "set the option sample=full to look at all, types=COLUMN:text to read the column as JSON, or \
                         unknown_keys=ignore"
                    }
                    (true, false) => {
                        "set the option types=COLUMN:text to read the column as JSON, or unknown_keys=ignore"
                    }
                };
                let key = key_at(text, at);
                let error =
                    invalid(format!("the key {key} is in none of the first {} records", self.sampled)).hint(hint);
                self.in_column(error)
            }
            Bad::Twice(at) => {
                let error = invalid(format!("the object has the key {} twice", key_at(text, at)));
                self.in_column(error)
            }
        }
    }

    fn in_column(&self, error: Error) -> Error {
        match self.members.last().and_then(|index| self.schema.fields().get(index)) {
            Some(field) => error.at_column(field.name()),
            None => error,
        }
    }

    fn misfit(&self, byte: u64) -> Error {
        let Some((field, reading)) =
            self.members.last().and_then(|index| Some((self.schema.fields().get(index)?, self.readings.get(index)?)))
        else {
            return Error::new(ErrorKind::Internal, "a value fits into no column").at_byte(byte);
        };
        let (name, type_name) = (field.name(), etlrs_core::type_name(field.data_type()));
        let of = match reading.by {
            TypeBy::User => String::new(),
            // Records of a quarantine are read as they were before.
            TypeBy::Sample if self.sampled == 0 => ", the type that was found in the source".to_owned(),
            TypeBy::Sample => format!(", the type of the first {} records", self.sampled),
            TypeBy::Target => ", the type that the target has".into(),
        };
        let hint = match reading.by {
            TypeBy::Target => format!(
                "correct it, or set such records aside with --on-error quarantine; types={name}:TYPE reads the column otherwise"
            ),
            TypeBy::Sample if self.can_sample_more => format!(
                "set the option types={name}:text to keep the column as text, or sample=full to look at all records"
            ),
            _ => format!("set the option types={name}:text to keep the column as text"),
        };
        let what = match field.data_type() {
            DataType::Struct(_) | DataType::List(_) => "a value within it does not fit, or it is itself no",
            _ => "the value is no",
        };
        Error::new(ErrorKind::InvalidData, format!("{what} {type_name}{of}")).hint(hint).at_column(name).at_byte(byte)
    }

    /// Sets a record aside, if that is what the run does.
    fn reject(&mut self, error: Error, record: &Record) -> Result<()> {
        let Some(rejects) = self.rejects.clone() else { return Err(error) };
        let error = self.located(error)?;
        let text = self.reader.text(record);
        let text = text.strip_suffix(b"\n").map_or(text, |line| line.strip_suffix(b"\r").unwrap_or(line));
        rejects.push(Rejected::by_source(&error).with_raw(text.to_vec()));
        Ok(())
    }

    /// With the file, the line and the record, of an error that knows its byte.
    fn located(&self, error: Error) -> Result<Error> {
        let error = error.in_source(self.part.source.path.display());
        let Some(byte) = error.position().byte.filter(|_| error.position().line.is_none()) else { return Ok(error) };
        let line = self.part.before(self.cx.cancel())? + self.reader.lines_before(byte) + 1;
        let error = error.at_line(line);
        Ok(if self.part.source.layout == Layout::Lines { error } else { error.at_record(self.reader.records()) })
    }
}
