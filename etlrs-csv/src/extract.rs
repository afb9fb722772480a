use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow_array::{RecordBatch, RecordBatchOptions};
use arrow_schema::{DataType, Field as ArrowField, Schema, SchemaRef};
use async_trait::async_trait;
use etlrs_core::{
    BatchStream, Error, ErrorKind, Extractor, Fingerprint, Partition, Pushdown, Result, RunContext, Scan, ScanRequest,
    batches_from_fn,
};

use crate::decode::{Chunk, Column};
use crate::infer::Inference;
use crate::options::CsvOptions;
use crate::reader::{Reader, Source};
use crate::records::{Dialect, Field, Step};
use crate::split::split;

/// A partition is at least so large, unless more are asked for.
const SMALLEST_PARTITION: u64 = 1 << 20;
const LARGEST_PARTITION: u64 = 16 << 20;
/// A sample ends here even if it has fewer records than asked for.
const LARGEST_SAMPLE: usize = 64 << 20;

/// Fields that are decoded together: they and their text stay in the nearest cache.
const CACHED_FIELDS: usize = 2048;

/// Offsets of texts are 31 bits wide, and a batch may exceed this by a chunk.
const LARGEST_BATCH: usize = 1 << 30;

/// Reads a CSV file (RFC 4180; UTF-8).
#[derive(Clone, Debug)]
pub struct CsvExtractor {
    path: PathBuf,
    options: CsvOptions,
}

impl CsvExtractor {
    /// Of the file at `path`.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), options: CsvOptions::default() }
    }

    /// With these options.
    #[must_use]
    pub fn with_options(mut self, options: CsvOptions) -> Self {
        self.options = options;
        self
    }
}

#[async_trait]
impl Extractor for CsvExtractor {
    async fn scan(&self, cx: &RunContext, request: &ScanRequest) -> Result<Arc<dyn Scan>> {
        let fingerprint = etlrs_files::fingerprint(&[&self.path]);
        let layout = Layout::read(&self.path, &self.options, cx)?;
        let projection = request.projection(&layout.schema)?;
        let exact = |index: &usize| self.options.types.get(layout.schema.field(*index).name()).is_none();
        let columns = projection.iter().map(|index| (*index, exact(index))).collect();
        let schema: SchemaRef = Arc::new(layout.schema.project(&projection)?);
        for (field, column) in schema.fields().iter().zip(&projection) {
            Column::new(*column, field.data_type(), true)
                .map_err(|error| error.in_source(self.path.display()).at_column(field.name()))?;
        }
        let source = Arc::new(layout.source);
        let partitions = match &request.recorded {
            Some(recorded) => recorded.clone(),
            None => partitions(&source, cx, request)?,
        };
        Ok(Arc::new(CsvScan {
            ranges: partitions.iter().map(parse_range).collect::<Result<_>>()?,
            partitions,
            columns,
            schema,
            notes: layout.notes,
            sampled: layout.sampled,
            fingerprint: fingerprint?,
            null: self.options.null_values.clone().into(),
            source,
        }))
    }
}

/// What the start of the file tells.
struct Layout {
    source: Source,
    schema: Schema,
    notes: Vec<String>,
    /// Records looked at.
    sampled: usize,
}

impl Layout {
    fn read(path: &Path, options: &CsvOptions, cx: &RunContext) -> Result<Self> {
        let file = File::open(path).map_err(|error| Error::io("open", path, error))?;
        let found = file.metadata().map_err(|error| Error::io("look at", path, error))?;
        if !found.is_file() {
            return Err(Error::new(ErrorKind::InvalidConfig, "the source is no regular file").in_source(path.display()));
        }
        let dialect = Dialect { delimiter: options.delimiter.0, quote: options.quote.0 };
        let usable = |byte: u8| byte.is_ascii() && byte != b'\n' && byte != b'\r';
        if !usable(dialect.delimiter) || !dialect.quote.is_none_or(usable) || dialect.quote == Some(dialect.delimiter) {
            let message = "delimiter and quote must be two different ASCII characters other than line ends";
            return Err(Error::new(ErrorKind::InvalidConfig, message).in_source(path.display()));
        }
        let (length, longest) = (found.len(), cx.reader_memory());
        let source = Source { path: path.into(), file, dialect, data_start: 0, length, width: 0, longest };
        Self::of(source, options, cx).map_err(|error| error.in_source(path.display()))
    }

    fn of(mut source: Source, options: &CsvOptions, cx: &RunContext) -> Result<Self> {
        let mut start = [0; 4];
        let known = usize::try_from(source.length).unwrap_or(4).min(4);
        source.file.read_exact_at(&mut start[..known], 0).map_err(|error| Error::io("read", &source.path, error))?;
        refuse_other_formats(&start[..known])?;
        let bom = if start.starts_with(b"\xef\xbb\xbf") { 3 } else { 0 };
        if source.length <= bom {
            let error = Error::new(ErrorKind::InvalidData, "the file is empty");
            return Err(if options.header { error.hint("a CSV file has at least a header") } else { error });
        }

        let (first, next) = first_record(&source, bom, cx.reader_memory())?;
        source.width = first.len();
        let mut notes = Vec::new();
        let names = if options.header {
            source.data_start = next;
            unique_names(first, &mut notes)
        } else {
            source.data_start = bom;
            (1..=source.width).map(|column| format!("column_{column}")).collect()
        };
        for (column, _) in &options.types.0 {
            if !names.contains(column) {
                return Err(etlrs_core::unknown_name("column", column, &names));
            }
        }

        let source = Arc::new(source);
        let mut inferences = vec![Inference::new(); source.width];
        let sampled = if options.infer { sample(&source, options, cx, &mut inferences)? } else { 0 };
        let fields = names.iter().zip(&inferences).map(|(name, inference)| {
            let data_type = match options.types.get(name) {
                Some(data_type) => data_type.clone(),
                None if !options.infer => DataType::Utf8,
                None => inference.data_type(),
            };
            ArrowField::new(name, data_type, true)
        });
        let schema = Schema::new(fields.collect::<Vec<_>>());
        if options.infer {
            let found = names.iter().zip(&inferences).filter(|(name, _)| options.types.get(name).is_none());
            notes.extend(null_hints(found));
        }
        let source = Arc::into_inner(source)
            .ok_or_else(|| Error::new(ErrorKind::Internal, "the sample of the file is still being read"))?;
        Ok(Self { source, schema, notes, sampled })
    }
}

fn refuse_other_formats(start: &[u8]) -> Result<()> {
    let (what, hint) = match start {
        [0x1f, 0x8b, ..] => ("compressed with gzip", "decompress it first"),
        [0x28, 0xb5, 0x2f, 0xfd] => ("compressed with zstd", "decompress it first"),
        [b'B', b'Z', b'h', ..] => ("compressed with bzip2", "decompress it first"),
        [0xfd, b'7', b'z', b'X'] => ("compressed with xz", "decompress it first"),
        [b'P', b'K', 3, 4] => ("a zip archive", "unpack it first"),
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => ("in UTF-16", "convert it to UTF-8 first"),
        b"PAR1" => ("a Parquet file", "give it a name that ends in .parquet"),
        _ => return Ok(()),
    };
    Err(Error::new(ErrorKind::Unsupported, format!("the file is {what}, not CSV in UTF-8")).hint(hint))
}

/// The fields of the record at `start`, and where the next one starts.
fn first_record(source: &Source, start: u64, limit: usize) -> Result<(Vec<String>, u64)> {
    let left = usize::try_from(source.length - start).unwrap_or(usize::MAX);
    let mut size = left.min(64 << 10);
    loop {
        let mut buffer = vec![0; size];
        source.file.read_exact_at(&mut buffer, start).map_err(|error| Error::io("read", &source.path, error))?;
        let mut fields = Vec::new();
        let whole = size == left;
        let step = source.dialect.record(&buffer, 0, whole, &mut fields).map_err(|(at, reason)| {
            Error::new(ErrorKind::InvalidData, reason.message()).at_line(1).at_byte(start + at as u64)
        })?;
        match step {
            Step::Record(next) => {
                let next = next.min(size);
                let text = std::str::from_utf8(&buffer[..next]).map_err(|error| {
                    Error::new(ErrorKind::InvalidData, "the file is not UTF-8")
                        .hint("convert it first")
                        .at_byte(start + error.valid_up_to() as u64)
                })?;
                let names = fields.iter().map(|field| {
                    let text = &text[field.range()];
                    match source.dialect.quote.filter(|_| field.is_escaped()) {
                        Some(quote) => {
                            let quote = char::from(quote).to_string();
                            text.replace(&quote.repeat(2), &quote)
                        }
                        None => text.to_owned(),
                    }
                });
                let names: Vec<_> = names.collect();
                // Within a field a carriage return means nothing, unless there is no other line end.
                let alone = |field: &Field| !field.is_quoted() && text[field.range()].contains('\r');
                if fields.iter().any(alone) && !buffer.contains(&b'\n') {
                    return Err(Error::new(
                        ErrorKind::Unsupported,
                        "the lines of the file end with a carriage return alone",
                    )
                    .hint("convert the line ends to line feeds first"));
                }
                return Ok((names, start + next as u64));
            }
            Step::Incomplete if size >= limit => {
                return Err(Error::new(ErrorKind::InvalidData, "the first record does not end")
                    .at_line(1)
                    .at_byte(start));
            }
            Step::Incomplete => size = left.min(size * 4),
        }
    }
}

/// Names from a header: empty ones are called by their position, repeated ones get a number.
fn unique_names(header: Vec<String>, notes: &mut Vec<String>) -> Vec<String> {
    let mut names: Vec<String> = Vec::with_capacity(header.len());
    for (index, name) in header.into_iter().enumerate() {
        let base = if name.is_empty() { format!("column_{}", index + 1) } else { name.clone() };
        let mut unique = base.clone();
        let mut number = 2;
        while names.contains(&unique) {
            unique = format!("{base}_{number}");
            number += 1;
        }
        if name.is_empty() {
            notes.push(format!("column {} has no name in the header and is called {unique:?}", index + 1));
        } else if unique != name {
            notes.push(format!("column {} is called {name:?} as one before it, and is renamed {unique:?}", index + 1));
        }
        names.push(unique);
    }
    names
}

/// One sentence for each spelling of null that keeps columns from having a type.
fn null_hints<'a>(columns: impl Iterator<Item = (&'a String, &'a Inference)>) -> Vec<String> {
    let mut found: Vec<(&'static str, Vec<String>)> = Vec::new();
    for (name, inference) in columns {
        let Some((null, data_type)) = inference.kept_text_by() else { continue };
        let column = format!("{name} ({})", etlrs_core::type_name(&data_type));
        match found.iter_mut().find(|(known, _)| *known == null) {
            Some((_, columns)) => columns.push(column),
            None => found.push((null, vec![column])),
        }
    }
    let hint = |(null, columns): (&str, Vec<String>)| {
        format!(
            "text because of {null:?}: {}; set the option null_values={null} to give them their types",
            columns.join(", ")
        )
    };
    found.into_iter().map(hint).collect()
}

/// Looks at the first records; gives their number.
fn sample(source: &Arc<Source>, options: &CsvOptions, cx: &RunContext, columns: &mut [Inference]) -> Result<usize> {
    let limit = cx.reader_memory().min(LARGEST_SAMPLE);
    let mut reader = Reader::new(source.clone(), source.data_start, source.length, cx.config().io_buffer_size, limit);
    let mut fields = Vec::new();
    let mut sampled = 0;
    while sampled < options.sample && reader.position() - source.data_start < LARGEST_SAMPLE as u64 {
        let records = match reader.next(options.sample - sampled, &mut fields) {
            Ok(Some(records)) => records,
            Ok(None) => break,
            Err(error) => return Err(source.locate(error)),
        };
        let bytes = reader.bytes(records);
        for record in fields.chunks(source.width) {
            for (column, field) in columns.iter_mut().zip(record) {
                let value = &bytes[field.range()];
                if !value.is_empty() && !options.null_values.iter().any(|null| null.as_bytes() == value) {
                    column.add(value);
                }
            }
        }
        sampled += records.count;
    }
    Ok(sampled)
}

fn partitions(source: &Arc<Source>, cx: &RunContext, request: &ScanRequest) -> Result<Vec<Partition>> {
    let size = source.length - source.data_start;
    let pieces = match request.partitions {
        Some(wanted) => wanted as u64,
        None => {
            let for_balance = size / (4 * cx.config().workers() as u64).max(1);
            size.div_ceil(for_balance.clamp(SMALLEST_PARTITION, LARGEST_PARTITION))
        }
    };
    let cuts = split(source, pieces, request.guess, cx.cancel())?;
    let mut start = source.data_start;
    let partitions = cuts.into_iter().enumerate().map(|(index, end)| {
        let partition = Partition::new(index, format!("bytes {start}..{end}")).with_bytes(end - start);
        start = end;
        partition
    });
    Ok(partitions.collect())
}

fn parse_range(partition: &Partition) -> Result<(u64, u64)> {
    let range = partition.descriptor.strip_prefix("bytes ").and_then(|range| range.split_once(".."));
    range.and_then(|(from, to)| Some((from.parse().ok()?, to.parse().ok()?))).ok_or_else(|| {
        Error::new(ErrorKind::Internal, format!("{:?} describes no piece of a CSV file", partition.descriptor))
    })
}

struct CsvScan {
    source: Arc<Source>,
    schema: SchemaRef,
    partitions: Vec<Partition>,
    ranges: Vec<(u64, u64)>,
    /// Position of each column within a record, and whether it takes only plain spellings.
    columns: Vec<(usize, bool)>,
    notes: Vec<String>,
    sampled: usize,
    /// When the layout was read.
    fingerprint: Fingerprint,
    null: Arc<[String]>,
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

    fn min_memory(&self) -> usize {
        // The buffer, its fields, and builders for a few records.
        256 << 10
    }

    async fn fingerprint(&self) -> Result<Fingerprint> {
        let now = etlrs_files::fingerprint(&[&self.source.path])?;
        // A change between the look at the layout and the first question would be missed by the caller.
        if now != self.fingerprint {
            return Ok(Fingerprint::new(format!("{} (changed since it was planned)", now.as_str())));
        }
        Ok(now)
    }

    fn read(&self, cx: &RunContext, partition: &Partition) -> Result<BatchStream> {
        let (start, end) = *self
            .ranges
            .get(partition.id.index())
            .ok_or_else(|| Error::new(ErrorKind::Internal, format!("there is no partition {}", partition.id)))?;
        let columns = self.schema.fields().iter().zip(&self.columns);
        let columns = columns.map(|(field, &(index, exact))| Column::new(index, field.data_type(), exact));
        let mut reading = Reading {
            columns: columns.collect::<Result<_>>()?,
            reader: Reader::new(self.source.clone(), start, end, cx.config().io_buffer_size, cx.reader_memory()),
            fields: Vec::new(),
            source: self.source.clone(),
            schema: self.schema.clone(),
            null: self.null.clone(),
            sampled: self.sampled,
            cx: cx.clone(),
        };
        Ok(batches_from_fn(move || reading.next()))
    }
}

/// A partition being read.
struct Reading {
    reader: Reader,
    columns: Vec<Column>,
    fields: Vec<Field>,
    source: Arc<Source>,
    schema: SchemaRef,
    null: Arc<[String]>,
    sampled: usize,
    cx: RunContext,
}

impl Reading {
    fn next(&mut self) -> Result<Option<RecordBatch>> {
        self.cx.cancel().check()?;
        let before = self.reader.position();
        let batch = self.batch().map_err(|error| self.source.locate(error))?;
        self.cx.counters().bytes_read.add(self.reader.position() - before);
        Ok(batch)
    }

    fn batch(&mut self) -> Result<Option<RecordBatch>> {
        let most = self.cx.config().batch_size.max(1);
        let most_bytes = self.cx.batch_memory().min(LARGEST_BATCH);
        let (mut rows, mut bytes) = (0, 0);
        while rows < most && bytes < most_bytes {
            // No column takes more than its text and 16 bytes a value.
            let value_bytes = 16 * self.columns.len();
            let fitting = ((most_bytes - bytes) / (value_bytes + 1)).min(CACHED_FIELDS / self.source.width);
            let Some(records) = self.reader.next((most - rows).min(fitting.max(1)), &mut self.fields)? else { break };
            let raw = self.reader.bytes(records);
            let Source { width, dialect, .. } = *self.source;
            let chunk = Chunk { bytes: raw, fields: &self.fields, width, null: &self.null, quote: dialect.quote };
            let mut first: Option<(usize, usize)> = None;
            for (column, values) in self.columns.iter_mut().enumerate() {
                if let Err(record) = values.append(&chunk) {
                    first = first.filter(|&(earlier, _)| earlier <= record).or(Some((record, column)));
                }
            }
            if let Some((record, column)) = first {
                let field = self.fields[record * width + self.columns[column].field()];
                let start = records.offset + field.start() as u64;
                return Err(match std::str::from_utf8(&raw[field.range()]) {
                    Ok(value) => self.mismatch(column, value).at_byte(start),
                    Err(error) => Error::new(ErrorKind::InvalidData, "the text is not UTF-8")
                        .hint("convert the file first")
                        .at_column(self.schema.field(column).name())
                        .at_byte(start + error.valid_up_to() as u64),
                });
            }
            rows += records.count;
            bytes += records.length + records.count * value_bytes;
        }
        if rows == 0 {
            return Ok(None);
        }
        let columns = self.columns.iter_mut().map(Column::finish).collect::<Result<_>>()?;
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        Ok(Some(RecordBatch::try_new_with_options(self.schema.clone(), columns, &options)?))
    }

    /// Values are private, so the message shows at most a spelling of null.
    fn mismatch(&self, column: usize, value: &str) -> Error {
        let field = self.schema.field(column);
        let (name, type_name) = (field.name(), etlrs_core::type_name(field.data_type()));
        let found = if self.columns[column].exact() {
            format!(", the type of the first {} records", self.sampled)
        } else {
            String::new()
        };
        let null = crate::infer::common_null(value.as_bytes());
        let what = null.map_or("the value".to_owned(), |null| format!("{null:?}"));
        let hint = match null {
            Some(null) => format!("set the option null_values={null}, or types={name}:text to keep the column as text"),
            None => format!("set the option types={name}:text to keep the column as text"),
        };
        Error::new(ErrorKind::InvalidData, format!("{what} is no {type_name}{found}")).hint(hint).at_column(name)
    }
}
