use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow_array::{RecordBatch, RecordBatchOptions};
use arrow_schema::{FieldRef, Schema, SchemaRef};
use async_trait::async_trait;
use etlrs_core::{
    BatchStream, CancelToken, Error, ErrorKind, Extractor, Fingerprint, Partition, Pushdown, Result, RunContext, Scan,
    ScanRequest, batches_from_fn, format_bytes, is_json_text, without_json_mark,
};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder, RowSelection};
use parquet::basic::Type as PhysicalType;
use parquet::file::metadata::{ColumnChunkMetaData, RowGroupMetaData};

use crate::chunks::{ChunkFile, Chunks, SMALLEST_BLOCK, wanted};
use crate::error::{arrow, guarded, reading};
use crate::file::ParquetFile;
use crate::pages::first_page;
use crate::prune::wanted_rows;
use crate::split::{self, FileGroups, Piece};
use crate::types::first_difference;
use crate::{EXTENSIONS, ParquetReadOptions};

/// Bytes at which writers end a page or a dictionary.
const PAGE: u64 = 1 << 20;

/// Reads a Parquet file, or the files of a directory as one table; of the local file system or of an object store
/// (`s3://bucket/sales.parquet`).
///
/// Partitions are whole row groups. Of those, what the statistics, Bloom filters and page indexes of the file say to fail
/// [`ScanRequest::filter`] is not read; a note tells how much that was. Of a directory all files must have the same columns; its manifest tells the files,
/// and without one they are all that end in `.parquet`, `.parq` or `.pq`, in the order of their names.
#[derive(Clone, Debug)]
pub struct ParquetExtractor {
    path: PathBuf,
    options: ParquetReadOptions,
}

impl ParquetExtractor {
    /// Of the file or directory at `path`.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), options: ParquetReadOptions::default() }
    }

    /// With these options.
    #[must_use]
    pub fn with_options(mut self, options: ParquetReadOptions) -> Self {
        self.options = options;
        self
    }
}

#[async_trait]
impl Extractor for ParquetExtractor {
    async fn scan(&self, cx: &RunContext, request: &ScanRequest) -> Result<Arc<dyn Scan>> {
        let cancel = cx.cancel();
        let paths = etlrs_files::source_files(&self.path, EXTENSIONS, cancel)?;
        // Before the footers are read, so that a change from then on is seen.
        let fingerprint = etlrs_files::fingerprint(&paths, cancel)?;
        let files = paths.iter().map(|path| ParquetFile::open(path, path, &self.options, cancel));
        let files = files.map(|file| file.map(|file| (file, 0))).collect::<Result<_>>()?;
        Ok(Arc::new(ParquetScan::new(files, fingerprint, request, &self.options, None, cancel)?))
    }
}

/// A look at files whose footers are kept.
pub(crate) struct ParquetScan {
    schema: SchemaRef,
    files: Vec<Source>,
    fingerprint: Fingerprint,
    pieces: Vec<Piece>,
    partitions: Vec<Partition>,
    notes: Vec<String>,
    min_memory: usize,
    identity: String,
    cancel: CancelToken,
}

struct Source {
    file: Arc<ParquetFile>,
    mask: ProjectionMask,
    /// The reader gives columns in the order of the file; these are their places in the wanted order.
    order: Vec<usize>,
    /// The rows of each row group that are read, as ranges in ascending order.
    rows: Vec<Vec<Range<u64>>>,
}

/// A row group of which some rows are read.
struct Group<'a> {
    source: &'a Source,
    index: usize,
    metadata: &'a RowGroupMetaData,
    wanted: &'a [Range<u64>],
}

impl Group<'_> {
    fn rows(&self) -> u64 {
        sum(self.wanted.iter().map(|rows| rows.end - rows.start))
    }

    /// Bytes that reading it takes at the least, with pages of `page` bytes.
    fn memory(&self, page: u64) -> usize {
        let mask = &self.source.mask;
        let blocks = match etlrs_files::store_scheme(&self.source.file.path) {
            Some(_) => wanted(self.metadata, mask).count().saturating_mul(2 * SMALLEST_BLOCK),
            None => 0,
        };
        page_memory(self.metadata, mask, page).saturating_add(blocks)
    }

    /// Compressed bytes of the wanted columns; of the pages that are read, by their part of the rows.
    fn bytes(&self) -> u64 {
        let bytes = u128::from(wanted_bytes(self.metadata, &self.source.mask)) * u128::from(self.rows());
        u64::try_from(bytes / u128::from(non_negative(self.metadata.num_rows()).max(1))).unwrap_or(u64::MAX)
    }
}

impl Source {
    fn group(&self, index: usize) -> Option<Group<'_>> {
        let (metadata, wanted) = (self.file.footer().row_groups().get(index)?, self.rows.get(index)?);
        Some(Group { source: self, index, metadata, wanted })
    }
}

impl ParquetScan {
    /// Of the row groups of each file from the given one on. `schema` is needed where there may be no file.
    pub(crate) fn new(
        files: Vec<(ParquetFile, usize)>,
        fingerprint: Fingerprint,
        request: &ScanRequest,
        options: &ParquetReadOptions,
        schema: Option<SchemaRef>,
        cancel: &CancelToken,
    ) -> Result<Self> {
        let first = files.first().map(|(file, _)| (file.metadata.schema().clone(), file.shown.clone()));
        let whole =
            first.as_ref().map(|(schema, _)| schema.clone()).or(schema).unwrap_or_else(|| Arc::new(Schema::empty()));
        if let Some((_, shown)) = &first {
            for (file, _) in &files {
                check_same_columns(&whole, shown, file)?;
            }
        }
        let whole = with_common_marks(&whole, &files);
        let projection = request.projection(&whole)?;
        let schema = Arc::new(whole.project(&projection)?);
        let mut order: Vec<usize> = (0..projection.len()).collect();
        order.sort_by_key(|&wanted| projection.get(wanted));
        // `order` tells which wanted column comes at each place of the reader's batches; the inverse is what is needed.
        let mut inverse = vec![0; order.len()];
        for (place, wanted) in order.into_iter().enumerate() {
            if let Some(slot) = inverse.get_mut(wanted) {
                *slot = place;
            }
        }

        let mut notes = Vec::new();
        if files.iter().any(|(file, _)| file.has_int96) {
            notes.push("INT96 timestamps are read with microseconds; the option int96=ns keeps nanoseconds".to_owned());
        }
        let mut groups = Vec::with_capacity(files.len());
        let mut sources = Vec::with_capacity(files.len());
        for (file, first) in files {
            let mask = ProjectionMask::roots(file.metadata.parquet_schema(), projection.iter().copied());
            let rows = wanted_rows(&file, &request.filter)?;
            let source = Source { file: Arc::new(file), mask, order: inverse.clone(), rows };
            let all = first..source.file.footer().num_row_groups();
            let bytes = all.map(|group| source.group(group).map_or(0, |group| group.bytes())).collect();
            groups.push(FileGroups { first, bytes });
            sources.push(source);
        }
        notes.extend(skipped(&sources));
        let pieces = match &request.recorded {
            Some(partitions) => split::recorded(&groups, partitions)?,
            None => split::cut(&groups, request.partitions, options.partition_size as u64),
        };
        let (partitions, cancel, identity) = (Vec::new(), cancel.clone(), format!("{options:?}"));
        let mut scan =
            Self { schema, files: sources, fingerprint, pieces, partitions, notes, min_memory: 0, identity, cancel };
        scan.partitions = scan.pieces.iter().enumerate().map(|(index, piece)| scan.partition(index, piece)).collect();
        let (page, unpacking) = scan.page_bytes();
        scan.min_memory = scan.all_groups().map(|group| group.memory(page)).max().unwrap_or(0).max(unpacking);
        Ok(scan)
    }

    /// Bytes of a page of many values: unpacked, and while it is being unpacked. Writers have a limit of their own, which the
    /// largest column chunk shows; some write a page for each.
    fn page_bytes(&self) -> (u64, usize) {
        let chunks = self.all_groups().flat_map(|Group { source, metadata, .. }| {
            wanted(metadata, &source.mask).map(move |chunk| (source, chunk))
        });
        let largest = chunks.max_by_key(|(_, chunk)| chunk.uncompressed_size());
        let largest = largest.filter(|(_, chunk)| non_negative(chunk.uncompressed_size()) > PAGE);
        let found = largest.and_then(|(source, chunk)| first_page(&source.file.source().ok()?, chunk));
        found.map_or((PAGE, 0), |(page, unpacking)| (page, usize::try_from(unpacking).unwrap_or(usize::MAX)))
    }

    /// The row groups of all pieces, without those that are skipped.
    fn all_groups(&self) -> impl Iterator<Item = Group<'_>> {
        self.pieces.iter().flat_map(|piece| self.groups(piece))
    }

    fn partition(&self, index: usize, piece: &Piece) -> Partition {
        let rows = sum(self.groups(piece).map(|group| group.rows()));
        let bytes = sum(self.groups(piece).map(|group| group.bytes()));
        let partition = Partition::new(index, piece.descriptor()).with_rows(rows).with_bytes(bytes);
        match self.files.get(piece.file) {
            Some(source) => partition.with_source(source.file.shown.to_string_lossy()),
            None => partition,
        }
    }

    /// The row groups of a piece, without those that are skipped.
    fn groups<'a>(&'a self, piece: &Piece) -> impl Iterator<Item = Group<'a>> {
        let range = piece.groups.clone();
        let source = self.files.get(piece.file).into_iter();
        let groups = source.flat_map(move |source| range.clone().filter_map(|index| source.group(index)));
        groups.filter(|group| !group.wanted.is_empty())
    }
}

/// What a user should know of the rows that are not read.
fn skipped(sources: &[Source]) -> Option<String> {
    let groups = || sources.iter().flat_map(|source| (0..source.rows.len()).filter_map(|index| source.group(index)));
    let with_rows = |group: &Group<'_>| group.metadata.num_rows() > 0;
    let gone = groups().filter(|group| with_rows(group) && group.wanted.is_empty()).count();
    let rows = groups().filter(|group| !group.wanted.is_empty());
    let rows = sum(rows.map(|group| non_negative(group.metadata.num_rows()).saturating_sub(group.rows())));
    let all = groups().filter(with_rows).count();
    match (gone, rows) {
        (0, 0) => None,
        (_, 0) => Some(format!("{gone} of {all} row groups skipped by their statistics")),
        _ => Some(format!("{gone} of {all} row groups, and {rows} rows of the others, skipped by their statistics")),
    }
}

/// The rows that are read of `groups`, if they are not all rows of them, counted from the first of the first.
fn selection(groups: &[Group<'_>]) -> Option<RowSelection> {
    let rows = |group: &Group<'_>| non_negative(group.metadata.num_rows());
    if groups.iter().all(|group| group.rows() == rows(group)) {
        return None;
    }
    let (mut ranges, mut before) = (Vec::new(), 0_u64);
    for group in groups {
        let place = |row: u64| usize::try_from(before.saturating_add(row)).unwrap_or(usize::MAX);
        ranges.extend(group.wanted.iter().map(|rows| place(rows.start)..place(rows.end)));
        before = before.saturating_add(rows(group));
    }
    Some(RowSelection::from_consecutive_ranges(ranges.into_iter(), usize::try_from(before).unwrap_or(usize::MAX)))
}

/// The columns, which are of one type in all files, as JSON only where all of them say so.
fn with_common_marks(whole: &SchemaRef, files: &[(ParquetFile, usize)]) -> SchemaRef {
    let is_json = |index: usize| {
        files
            .iter()
            .all(|(file, _)| file.metadata.schema().fields().get(index).is_some_and(|field| is_json_text(field)))
    };
    let common = |(index, field): (usize, &FieldRef)| match is_json_text(field) && !files.is_empty() && !is_json(index)
    {
        true => Arc::new(without_json_mark(field)),
        false => field.clone(),
    };
    let fields: Vec<_> = whole.fields().iter().enumerate().map(common).collect();
    Arc::new(Schema::new_with_metadata(fields, whole.metadata().clone()))
}

fn check_same_columns(whole: &Schema, first: &Path, file: &ParquetFile) -> Result<()> {
    match first_difference(whole.fields(), file.metadata.schema().fields()) {
        None => Ok(()),
        Some((column, difference)) => Err(Error::new(
            ErrorKind::SchemaMismatch,
            format!("{difference} in {}; files of one directory must have the same columns", first.display()),
        )
        .in_source(file.shown.display())
        .at_column(column)),
    }
}

#[async_trait]
impl Scan for ParquetScan {
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
        self.min_memory
    }

    fn identity(&self) -> Option<String> {
        Some(self.identity.clone())
    }

    async fn fingerprint(&self) -> Result<Fingerprint> {
        let paths: Vec<_> = self.files.iter().map(|source| &source.file.path).collect();
        etlrs_files::unchanged(&self.fingerprint, etlrs_files::fingerprint(&paths, &self.cancel)?)
    }

    fn read(&self, cx: &RunContext, partition: &Partition) -> Result<BatchStream> {
        let unknown = || Error::new(ErrorKind::Internal, format!("there is no partition {}", partition.id));
        let piece = self.pieces.get(partition.id.index()).ok_or_else(unknown)?;
        let Source { file, mask, order, .. } = self.files.get(piece.file).ok_or_else(unknown)?;
        let groups: Vec<_> = self.groups(piece).collect();

        let row_bytes = groups.iter().map(|group| row_bytes(group.metadata, mask)).max().unwrap_or(1);
        let budget = cx.memory().limit() as u64;
        if row_bytes > budget {
            let needed = usize::try_from(row_bytes.saturating_mul(4)).unwrap_or(usize::MAX);
            return Err(Error::new(
                ErrorKind::MemoryExceeded,
                format!("a row takes {row_bytes} bytes on the average, and the memory budget has {budget}"),
            )
            .hint(format!("a budget of {} would do", format_bytes(needed)))
            .in_source(file.shown.display()));
        }
        let fitting = usize::try_from(cx.batch_memory() as u64 / row_bytes.max(1)).unwrap_or(usize::MAX);
        let batch_rows = cx.config().batch_size.min(fitting).max(1);
        let mut progress = Progress {
            rows: 0,
            expected: sum(groups.iter().map(Group::rows)),
            bytes: sum(groups.iter().map(Group::bytes)),
            counted: 0,
        };

        let mut selection = selection(&groups);
        let groups: Vec<_> = groups.iter().map(|group| group.index).collect();
        let (opened, shown) = (file.clone(), file.shown.clone());
        let (metadata, mask) = (file.metadata.clone(), mask.clone());
        let (schema, order, cx) = (self.schema.clone(), order.clone(), cx.clone());
        let mut reader: Option<(ParquetRecordBatchReader, Arc<Chunks>)> = None;
        Ok(batches_from_fn(move || {
            cx.cancel().check()?;
            let batch = guarded(&shown, || {
                let (reader, chunks) = match &mut reader {
                    Some(reading) => reading,
                    None => {
                        let source = opened.source()?;
                        let (share, budget) = (cx.reader_memory(), cx.memory().limit());
                        let chunks = Chunks::new(source, metadata.metadata(), &mask, &groups, share, budget)?;
                        let file = ChunkFile(chunks.clone());
                        let mut builder = ParquetRecordBatchReaderBuilder::new_with_metadata(file, metadata.clone())
                            .with_projection(mask.clone())
                            .with_row_groups(groups.clone())
                            .with_batch_size(batch_rows);
                        if let Some(selection) = selection.take() {
                            builder = builder.with_row_selection(selection);
                        }
                        let built = builder.build();
                        let built =
                            built.map_err(|error| chunks.refused().unwrap_or_else(|| reading(&shown, error)))?;
                        reader.insert((built, chunks))
                    }
                };
                let Some(batch) = reader.next() else { return Ok(None) };
                let batch = batch.map_err(|error| chunks.refused().unwrap_or_else(|| arrow("read", &shown, error)))?;
                let columns = order.iter().map(|&place| batch.column(place).clone()).collect();
                // The files of a directory may differ in metadata; the schema of the scan is that of all batches.
                let rows =
                    RecordBatchOptions::new().with_row_count(Some(batch.num_rows())).with_match_field_names(false);
                RecordBatch::try_new_with_options(schema.clone(), columns, &rows)
                    .map(Some)
                    .map_err(|error| arrow("read", &shown, error))
            })?;
            let rows = batch.as_ref().map_or(0, RecordBatch::num_rows) as u64;
            let bytes = progress.advance(rows, batch.is_none()).map_err(|error| error.in_source(shown.display()))?;
            cx.counters().bytes_read.add(bytes);
            Ok(batch)
        }))
    }
}

/// Spreads the bytes of a partition over its rows, and sees to it that all rows come.
struct Progress {
    rows: u64,
    expected: u64,
    bytes: u64,
    counted: u64,
}

impl Progress {
    /// Bytes that count as read with the next `rows`.
    fn advance(&mut self, rows: u64, done: bool) -> Result<u64> {
        self.rows += rows;
        if self.rows > self.expected || (done && self.rows < self.expected) {
            return Err(Error::new(
                ErrorKind::InvalidData,
                format!("the file is damaged: its footer promises {} rows, and {} came", self.expected, self.rows),
            ));
        }
        let share = u128::from(self.bytes) * u128::from(self.rows) / u128::from(self.expected.max(1));
        let share = if done { self.bytes } else { u64::try_from(share).unwrap_or(self.bytes) };
        let more = share.saturating_sub(self.counted);
        self.counted = share;
        Ok(more)
    }
}

fn non_negative(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

/// That of numbers which footers claim.
fn sum(numbers: impl Iterator<Item = u64>) -> u64 {
    numbers.fold(0, u64::saturating_add)
}

fn wanted_bytes(group: &RowGroupMetaData, mask: &ProjectionMask) -> u64 {
    sum(wanted(group, mask).map(|column| non_negative(column.compressed_size())))
}

/// What a reader holds of a row group: a page of each column, packed and unpacked, and its dictionary. Writers aim at
/// pages and dictionaries of 1 MiB. Of those that write larger ones, of `page` bytes, it is a quarter, for such pages may
/// take all that a worker has (`pages.rs`).
fn page_memory(group: &RowGroupMetaData, mask: &ProjectionMask, page: u64) -> usize {
    let pages = |page: u64| {
        sum(wanted(group, mask).map(|column| {
            let (packed, unpacked) = (non_negative(column.compressed_size()), non_negative(column.uncompressed_size()));
            unpacked.min(page).saturating_add(packed.min(page / 4))
        }))
    };
    usize::try_from(pages(PAGE).max(pages(page) / 4)).unwrap_or(usize::MAX)
}

/// Size of a row in memory, on the average of the row group.
fn row_bytes(group: &RowGroupMetaData, mask: &ProjectionMask) -> u64 {
    let sizes = wanted(group, mask).map(|column| {
        let values = non_negative(column.num_values());
        match column.column_type() {
            PhysicalType::BYTE_ARRAY => byte_array_bytes(column, values).saturating_add(values.saturating_mul(4)),
            PhysicalType::FIXED_LEN_BYTE_ARRAY => {
                values.saturating_mul(non_negative(column.column_descr().type_length().into()))
            }
            PhysicalType::BOOLEAN => values,
            PhysicalType::INT32 | PhysicalType::FLOAT => values.saturating_mul(4),
            PhysicalType::INT64 | PhysicalType::DOUBLE | PhysicalType::INT96 => values.saturating_mul(8),
        }
    });
    sum(sizes) / non_negative(group.num_rows()).max(1)
}

/// Bytes of the values of a column. The size in pages counts a repeated value once where there is a dictionary, so
/// without the writer's own count the longer of the bounds in the statistics stands for all.
fn byte_array_bytes(column: &ColumnChunkMetaData, values: u64) -> u64 {
    if let Some(bytes) = column.unencoded_byte_array_data_bytes() {
        return non_negative(bytes);
    }
    let bound = |bound: Option<&[u8]>| bound.map_or(0, <[u8]>::len) as u64;
    let longest = column.statistics().map_or(0, |found| bound(found.min_bytes_opt()).max(bound(found.max_bytes_opt())));
    let repeated = if column.dictionary_page_offset().is_some() { values.saturating_mul(longest) } else { 0 };
    non_negative(column.uncompressed_size()).max(repeated)
}
