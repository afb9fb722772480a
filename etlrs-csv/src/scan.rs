//! One look at files of one table, and the reading of their partitions.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow_array::{ArrayRef, RecordBatch, RecordBatchOptions, new_null_array};
use arrow_schema::{DataType, SchemaRef};
use async_trait::async_trait;
use etlrs_core::{
    BatchStream, CancelToken, ColumnTypes, Connector, Detail, Error, ErrorKind, Fingerprint, OptionSet, Partition,
    Pushdown, RecordFormat, Rejected, Rejects, Result, RunContext, Scan, ScanRequest, batches_from_fn,
};
use etlrs_files::text::{self, Encoding, Extent, Origin, Piece};

use crate::auto::Auto;
use crate::decode::{Chunk, Column, TypeBy};
use crate::format::{Format, Formats};
use crate::options::{CsvOptions, Delimiter, Escape, Quote};
use crate::places::Places;
use crate::planned::{Planned, PlannedColumn};
use crate::reader::{Bad, Found, Reader, Records, Source};
use crate::records::{Dialect, Field, Step};
use crate::split::split;

/// Fields that are decoded together: they and their text stay in the nearest cache.
const CACHED_FIELDS: usize = 2048;

/// Offsets of texts are 31 bits wide, and a batch may exceed this by a chunk.
const LARGEST_BATCH: usize = 1 << 30;

/// A file of the table.
pub(crate) struct Part {
    pub(crate) source: Arc<Source>,
    /// Of all its columns.
    pub(crate) names: Vec<String>,
    /// Position of each wanted column within a record; `None`: the file does not have it.
    pub(crate) columns: Arc<[Option<usize>]>,
    /// Bytes as they are stored, where that is known.
    pub(crate) stored: Option<u64>,
    /// Records from which types were found.
    pub(crate) sampled: usize,
}

impl Part {
    fn extent(&self) -> Extent<'_> {
        let source = &self.source;
        let records = (!source.is_stream()).then_some(source.data_start..source.length);
        Extent { path: &source.path, stored: self.stored, records, is_remote: source.is_remote() }
    }
}

/// The pieces of all files, one file after another, and the partitions that they are.
pub(crate) fn pieces(parts: &[Part], cx: &RunContext, request: &ScanRequest) -> Result<(Vec<Piece>, Vec<Partition>)> {
    let extents: Vec<Extent<'_>> = parts.iter().map(Part::extent).collect();
    text::pieces(&extents, cx, request, |file, wanted| split(&parts[file].source, wanted, request.guess, cx.cancel()))
}

/// To find out where in their files the pieces are.
pub(crate) fn places(parts: &[Part], pieces: &[Piece]) -> Places {
    let of_source = |piece: &Piece| Some((parts.get(piece.file)?.source.clone(), piece.range));
    Places::new(pieces.iter().filter_map(of_source))
}

pub(crate) struct CsvScan {
    pub(crate) origin: Origin,
    pub(crate) parts: Vec<Part>,
    pub(crate) pieces: Vec<Piece>,
    pub(crate) places: Arc<Places>,
    pub(crate) partitions: Vec<Partition>,
    pub(crate) schema: SchemaRef,
    /// Who gives each column its type, and how its dates are spelled if not in ISO 8601.
    pub(crate) spelled: Vec<(TypeBy, Option<Format>)>,
    pub(crate) notes: Vec<String>,
    pub(crate) details: Vec<Detail>,
    pub(crate) min_memory: usize,
    /// When the files were looked at.
    pub(crate) fingerprint: Fingerprint,
    pub(crate) options: CsvOptions,
    /// The options, of files that another process can read.
    pub(crate) identity: Option<String>,
    pub(crate) cancel: CancelToken,
    pub(crate) null: Arc<[String]>,
    pub(crate) max_readers: usize,
    /// Bytes asked of a file at a time.
    pub(crate) read_size: usize,
    /// Files are mapped into memory.
    pub(crate) mapped: bool,
}

#[async_trait]
impl Scan for CsvScan {
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

    fn record_format(&self, partition: &Partition) -> Option<RecordFormat> {
        let part = self.parts.get(self.pieces.get(partition.id.index())?.file)?;
        let dialect = part.source.dialect;
        let planned = self.schema.fields().iter().zip(&self.spelled).map(|(field, (by, format))| {
            let format = format.as_ref().map(|format| format.text.clone());
            PlannedColumn { name: field.name().clone(), data_type: field.data_type().clone(), by: *by, format }
        });
        let options = CsvOptions {
            header: Auto::Given(true),
            delimiter: Auto::Given(Delimiter(dialect.delimiter)),
            quote: Auto::Given(Quote(dialect.quote)),
            escape: Auto::Given(Escape(dialect.escape)),
            skip_lines: Auto::Given(0),
            // As which it was found.
            encoding: Auto::Given(Encoding::Utf8),
            date_formats: Formats::default(),
            timestamp_formats: Formats::default(),
            types: ColumnTypes::default(),
            planned: Planned(planned.collect()),
            ..self.options.clone()
        };
        let pairs = options.pairs().into_iter().map(|(key, value)| (key.to_owned(), value));
        let mut format = RecordFormat::new(crate::CsvConnector.name());
        format.options = pairs.collect();
        format.header = Some(header_of(&part.names, dialect));
        format.columns = self.schema.fields().iter().map(|field| field.name().clone()).collect();
        let delicate = [dialect.quote, dialect.escape, dialect.comment];
        format.delicate = delicate.into_iter().flatten().map(char::from).collect();
        Some(format)
    }

    async fn fingerprint(&self) -> Result<Fingerprint> {
        etlrs_files::unchanged(&self.fingerprint, self.origin.fingerprint(&self.cancel)?)
    }

    fn read(&self, cx: &RunContext, partition: &Partition) -> Result<BatchStream> {
        let missing = || Error::new(ErrorKind::Internal, format!("there is no partition {}", partition.id));
        let piece = self.pieces.get(partition.id.index()).ok_or_else(missing)?;
        let part = self.parts.get(piece.file).ok_or_else(missing)?;
        let columns = self.schema.fields().iter().zip(part.columns.iter()).zip(&self.spelled);
        let columns = columns.map(|((field, &place), (by, format))| match place {
            Some(place) => {
                Column::new(place, field.data_type(), *by).map(|column| Slot::There(column.with_format(format.clone())))
            }
            None => Ok(Slot::Missing(field.data_type().clone())),
        });
        let columns = columns.collect::<Result<_>>()?;
        let (start, end) = piece.range.unwrap_or((part.source.data_start, part.source.length));
        let source = part.source.clone();
        let keeps_bad = cx.rejects().is_some() && source.keeps_bad;
        let limit = if keeps_bad { source.longest } else { cx.reader_memory() };
        let mut reading = Reading {
            columns,
            reader: Reader::new(source.clone(), start, end, self.read_size, limit)
                .keeping_bad(keeps_bad)
                .mapped(self.mapped),
            fields: Vec::new(),
            source,
            schema: self.schema.clone(),
            null: self.null.clone(),
            sampled: part.sampled,
            rejects: cx.rejects().filter(|_| keeps_bad).cloned(),
            places: self.places.clone(),
            piece: partition.id.index(),
            before: None,
            cx: cx.clone(),
        };
        Ok(batches_from_fn(move || reading.next()))
    }
}

/// A column of a file.
enum Slot {
    There(Column),
    /// The file does not have it.
    Missing(DataType),
}

impl Slot {
    fn finish(&mut self, rows: usize) -> Result<ArrayRef> {
        match self {
            Self::There(column) => column.finish(),
            Self::Missing(data_type) => Ok(new_null_array(data_type, rows)),
        }
    }
}

/// A partition being read.
struct Reading {
    reader: Reader,
    columns: Vec<Slot>,
    fields: Vec<Field>,
    source: Arc<Source>,
    schema: SchemaRef,
    null: Arc<[String]>,
    sampled: usize,
    rejects: Option<Rejects>,
    places: Arc<Places>,
    piece: usize,
    /// Records and lines of the file before the piece, once they are asked for.
    before: Option<(u64, u64)>,
    cx: RunContext,
}

impl Reading {
    fn next(&mut self) -> Result<Option<RecordBatch>> {
        self.cx.cancel().check()?;
        let before = self.reader.progress();
        let batch = self.batch();
        self.reader.check_whole()?;
        let batch = batch.map_err(|error| self.reader.locate(error, &self.fields))?;
        self.cx.counters().bytes_read.add(self.reader.progress() - before);
        Ok(batch)
    }

    fn batch(&mut self) -> Result<Option<RecordBatch>> {
        let most = self.cx.config().batch_size.max(1);
        let most_bytes = self.cx.batch_memory().min(LARGEST_BATCH);
        let (mut rows, mut bytes, mut ended) = (0, 0, false);
        while rows < most && bytes < most_bytes {
            // No column takes more than its text and 16 bytes a value.
            let value_bytes = 16 * self.columns.len();
            let fitting = ((most_bytes - bytes) / (value_bytes + 1)).min(CACHED_FIELDS / self.source.width);
            match self.reader.next((most - rows).min(fitting.max(1)), &mut self.fields)? {
                Found::Records(records) => {
                    rows += self.decode(records, rows)?;
                    bytes += records.length + records.count * value_bytes;
                }
                Found::Bad(bad) => {
                    bytes += bad.bytes.length;
                    self.reject_malformed(bad)?;
                }
                Found::End => {
                    ended = true;
                    break;
                }
            }
            if self.rejects.as_ref().is_some_and(Rejects::is_full) {
                break;
            }
        }
        if rows == 0 && ended {
            return Ok(None);
        }
        let columns = self.columns.iter_mut().map(|column| column.finish(rows)).collect::<Result<_>>()?;
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        Ok(Some(RecordBatch::try_new_with_options(self.schema.clone(), columns, &options)?))
    }

    /// Appends `records` to the columns, which have `rows` already, and gives the number of those that were taken.
    fn decode(&mut self, records: Records, rows: usize) -> Result<usize> {
        let Source { width, dialect, .. } = *self.source;
        let raw = self.reader.bytes(records);
        let chunk = Chunk { bytes: raw, fields: &self.fields, width, null: &self.null, dialect };
        let mut first: Option<(usize, usize)> = None;
        for (column, values) in self.columns.iter_mut().enumerate() {
            let Slot::There(values) = values else { continue };
            if let Err(record) = values.append(&chunk) {
                first = first.filter(|&(earlier, _)| earlier <= record).or(Some((record, column)));
            }
        }
        match first {
            None => Ok(records.count),
            Some(_) if self.rejects.is_some() => self.decode_without_misfits(records, rows),
            Some((record, column)) => Err(self.misfit(records, record, column)),
        }
    }

    /// Again, with those records rejected that have a value which does not fit.
    #[cold]
    fn decode_without_misfits(&mut self, records: Records, rows: usize) -> Result<usize> {
        let Source { width, dialect, .. } = *self.source;
        let raw = self.reader.bytes(records);
        let chunk = Chunk { bytes: raw, fields: &self.fields, width, null: &self.null, dialect };
        // Of each such record the first column.
        let mut misfits = BTreeMap::new();
        for (column, values) in self.columns.iter_mut().enumerate() {
            let Slot::There(values) = values else { continue };
            values.truncate(rows);
            for record in values.misfits(&chunk)? {
                misfits.entry(record).or_insert(column);
            }
        }
        let fits = |(record, _): &(usize, &[Field])| !misfits.contains_key(record);
        let fitting = self.fields.chunks(width).enumerate().filter(fits);
        let fitting: Vec<Field> = fitting.flat_map(|(_, fields)| fields.iter().copied()).collect();
        let chunk = Chunk { fields: &fitting, ..chunk };
        for values in &mut self.columns {
            let Slot::There(values) = values else { continue };
            let misjudged = |_| Error::new(ErrorKind::Internal, "a value fits and then does not");
            values.append(&chunk).map_err(misjudged)?;
        }
        for (&record, &column) in &misfits {
            let error = self.misfit(records, record, column);
            let text = self.text_of(records, record).to_vec();
            let number = self.reader.records_before() + record as u64 + 1;
            self.reject(error, 0, number, text)?;
        }
        Ok(records.count - misfits.len())
    }

    fn reject_malformed(&mut self, bad: Bad) -> Result<()> {
        let text = self.reader.bytes(bad.bytes);
        let text = if self.reader.is_within_record() { text } else { without_line_end(text) };
        let text = text.to_vec();
        self.reject(bad.error, bad.part, bad.record, text)
    }

    /// Sets aside the record of this number in the piece, one of those that were read last. The error knows its byte.
    fn reject(&mut self, error: Error, part: u32, record: u64, text: Vec<u8>) -> Result<()> {
        let (records_before, lines_before) = match self.before {
            Some(before) => before,
            None => *self.before.insert(self.places.before(self.piece, self.cx.cancel())?),
        };
        let line = lines_before + self.reader.lines_before(error.position().byte.unwrap_or(0))? + 1;
        let error = error.at_record(records_before + record).at_line(line).in_source(self.source.path.display());
        if let Some(rejects) = &self.rejects {
            rejects.push(Rejected::by_source(&error).with_raw(text).as_part(part));
        }
        Ok(())
    }

    /// The bytes of a record without its line end.
    fn text_of(&self, records: Records, record: usize) -> &[u8] {
        let raw = self.reader.bytes(records);
        let first = self.fields.get(record * self.source.width).copied().unwrap_or_default();
        // A quoted field starts behind its quote. Where the last one ends does not tell, for there may have been more.
        let start = first.start() - usize::from(first.is_quoted());
        let end = match self.source.dialect.record(raw, start, true, &mut Vec::new()) {
            Ok(Step::Record(next)) => next.min(raw.len()),
            _ => raw.len(),
        };
        without_line_end(&raw[start..end])
    }

    /// That the value of a record in a column is none of its type.
    fn misfit(&self, records: Records, record: usize, column: usize) -> Error {
        let Some(Slot::There(values)) = self.columns.get(column) else {
            return Error::new(ErrorKind::Internal, "a column that the file lacks has a value");
        };
        let raw = self.reader.bytes(records);
        let field = self.fields[record * self.source.width + values.field()];
        let start = records.offset + field.start() as u64;
        match std::str::from_utf8(&raw[field.range()]) {
            Ok(value) => self.mismatch(column, values.by(), value).at_byte(start),
            Err(error) => Error::new(ErrorKind::InvalidData, "the text is not UTF-8")
                .hint("set the option encoding, to windows-1252 for one")
                .at_column(self.schema.field(column).name())
                .at_byte(start + error.valid_up_to() as u64),
        }
    }

    /// Values are private, so the message shows at most a spelling of null.
    fn mismatch(&self, column: usize, by: TypeBy, value: &str) -> Error {
        let field = self.schema.field(column);
        let (name, type_name) = (field.name(), etlrs_core::type_name(field.data_type()));
        let found = match by {
            TypeBy::User => String::new(),
            // Records of a quarantine are read as they were before.
            TypeBy::Sample if self.sampled == 0 => ", the type that was found in the source".to_owned(),
            TypeBy::Sample => format!(", the type of the first {} records", self.sampled),
            TypeBy::Target => ", the type that the target has".into(),
        };
        let null = crate::infer::common_null(value.as_bytes());
        let what = null.map_or("the value".to_owned(), |null| format!("{null:?}"));
        let hint = match null {
            Some(null) if by == TypeBy::Target => format!("set the option null_values={null}"),
            None if by == TypeBy::Target => format!(
                "correct it, or set such records aside with --on-error quarantine; types={name}:TYPE reads the column otherwise"
            ),
            Some(null) => format!("set the option null_values={null}, or types={name}:text to keep the column as text"),
            None => format!("set the option types={name}:text to keep the column as text"),
        };
        Error::new(ErrorKind::InvalidData, format!("{what} is no {type_name}{found}")).hint(hint).at_column(name)
    }
}

/// A header with these names.
fn header_of(names: &[String], dialect: Dialect) -> String {
    let quote = dialect.quote.map(char::from);
    let escape = dialect.escape.map(char::from);
    let field = |name: &String| {
        let mut text = String::from_iter(quote);
        for character in name.chars() {
            match (quote, escape) {
                (_, Some(escape)) if character == escape || Some(character) == quote => text.push(escape),
                (Some(quote), None) if character == quote => text.push(quote),
                (None, Some(escape)) if character == char::from(dialect.delimiter) || character == '\n' => {
                    text.push(escape);
                }
                _ => {}
            }
            text.push(character);
        }
        text.extend(quote);
        text
    };
    names.iter().map(field).collect::<Vec<_>>().join(char::from(dialect.delimiter).encode_utf8(&mut [0; 4]))
}

fn without_line_end(text: &[u8]) -> &[u8] {
    text.strip_suffix(b"\n").map_or(text, |line| line.strip_suffix(b"\r").unwrap_or(line))
}
