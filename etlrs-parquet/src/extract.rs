use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow_array::{RecordBatch, RecordBatchOptions};
use arrow_schema::{Schema, SchemaRef};
use async_trait::async_trait;
use etlrs_core::{
    BatchStream, Error, ErrorKind, Extractor, Fingerprint, Partition, Pushdown, Result, RunContext, Scan, ScanRequest,
    batches_from_fn, format_bytes,
};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder};
use parquet::basic::Type as PhysicalType;
use parquet::file::metadata::{ColumnChunkMetaData, RowGroupMetaData};

use crate::error::{arrow, guarded, reading};
use crate::file::{ParquetFile, SourceFile};
use crate::split::{self, FileGroups, Piece};
use crate::types::first_difference;
use crate::{EXTENSIONS, ParquetReadOptions};

/// Reads a Parquet file, or the files of a directory as one table.
///
/// Partitions are whole row groups. Of a directory all files must have the same columns; its manifest tells the files,
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
    async fn scan(&self, _: &RunContext, request: &ScanRequest) -> Result<Arc<dyn Scan>> {
        let paths = etlrs_files::source_files(&self.path, EXTENSIONS)?;
        let files: Result<Vec<_>> = paths.iter().map(|path| ParquetFile::open(path, path, &self.options)).collect();
        let files = files?.into_iter().map(|file| (file, 0)).collect();
        Ok(Arc::new(ParquetScan::new(files, request, &self.options, None)?))
    }
}

/// A look at files whose footers are kept.
pub(crate) struct ParquetScan {
    schema: SchemaRef,
    files: Vec<Source>,
    pieces: Vec<Piece>,
    partitions: Vec<Partition>,
    notes: Vec<String>,
    min_memory: usize,
}

struct Source {
    file: ParquetFile,
    mask: ProjectionMask,
    /// The reader gives columns in the order of the file; these are their places in the wanted order.
    order: Vec<usize>,
}

impl ParquetScan {
    /// Of the row groups of each file from the given one on. `schema` is needed where there may be no file.
    pub(crate) fn new(
        files: Vec<(ParquetFile, usize)>,
        request: &ScanRequest,
        options: &ParquetReadOptions,
        schema: Option<SchemaRef>,
    ) -> Result<Self> {
        let first = files.first().map(|(file, _)| (file.metadata.schema().clone(), file.shown.clone()));
        let whole =
            first.as_ref().map(|(schema, _)| schema.clone()).or(schema).unwrap_or_else(|| Arc::new(Schema::empty()));
        if let Some((_, shown)) = &first {
            for (file, _) in &files {
                check_same_columns(&whole, shown, file)?;
            }
        }
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
            let bytes = file.footer().row_groups().iter().skip(first).map(|group| wanted_bytes(group, &mask)).collect();
            groups.push(FileGroups { first, bytes });
            sources.push(Source { file, mask, order: inverse.clone() });
        }
        let pieces = match &request.recorded {
            Some(partitions) => split::recorded(&groups, partitions)?,
            None => split::cut(&groups, request.partitions, options.partition_size as u64),
        };
        let mut scan = Self { schema, files: sources, pieces, partitions: Vec::new(), notes, min_memory: 0 };
        scan.partitions = scan.pieces.iter().enumerate().map(|(index, piece)| scan.partition(index, piece)).collect();
        let groups = scan.pieces.iter().flat_map(|piece| scan.groups(piece));
        scan.min_memory = groups.map(|(source, group)| page_memory(group, &source.mask)).max().unwrap_or(0);
        Ok(scan)
    }

    fn partition(&self, index: usize, piece: &Piece) -> Partition {
        let rows = self.groups(piece).map(|(_, group)| non_negative(group.num_rows())).sum();
        let bytes = self.groups(piece).map(|(source, group)| wanted_bytes(group, &source.mask)).sum();
        Partition::new(index, piece.descriptor()).with_rows(rows).with_bytes(bytes)
    }

    fn groups<'a>(&'a self, piece: &Piece) -> impl Iterator<Item = (&'a Source, &'a RowGroupMetaData)> {
        let wanted = piece.groups.clone();
        self.files.get(piece.file).into_iter().flat_map(move |source| {
            let groups = source.file.footer().row_groups();
            wanted.clone().filter_map(move |group| Some((source, groups.get(group)?)))
        })
    }
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

    async fn fingerprint(&self) -> Result<Fingerprint> {
        let paths: Vec<_> = self.files.iter().map(|source| &source.file.path).collect();
        etlrs_files::fingerprint(&paths)
    }

    fn read(&self, cx: &RunContext, partition: &Partition) -> Result<BatchStream> {
        let unknown = || Error::new(ErrorKind::Internal, format!("there is no partition {}", partition.id));
        let piece = self.pieces.get(partition.id.index()).ok_or_else(unknown)?;
        let Source { file, mask, order } = self.files.get(piece.file).ok_or_else(unknown)?;

        let row_bytes = self.groups(piece).map(|(_, group)| row_bytes(group, mask)).max().unwrap_or(1);
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
        let expected: u64 = self.groups(piece).map(|(_, group)| non_negative(group.num_rows())).sum();
        let mut progress = Progress {
            rows: 0,
            expected,
            bytes: self.groups(piece).map(|(_, group)| wanted_bytes(group, mask)).sum(),
            counted: 0,
        };

        let (path, shown) = (file.path.clone(), file.shown.clone());
        let (metadata, mask, groups) = (file.metadata.clone(), mask.clone(), piece.groups.clone().collect::<Vec<_>>());
        let (schema, order, cx) = (self.schema.clone(), order.clone(), cx.clone());
        let mut reader: Option<ParquetRecordBatchReader> = None;
        Ok(batches_from_fn(move || {
            cx.cancel().check()?;
            let batch = guarded(&shown, || {
                let reader = match &mut reader {
                    Some(reader) => reader,
                    None => {
                        let file = SourceFile::open(&path, &shown)?;
                        let builder = ParquetRecordBatchReaderBuilder::new_with_metadata(file, metadata.clone())
                            .with_projection(mask.clone())
                            .with_row_groups(groups.clone())
                            .with_batch_size(batch_rows);
                        reader.insert(builder.build().map_err(|error| reading(&shown, error))?)
                    }
                };
                let Some(batch) = reader.next() else { return Ok(None) };
                let batch = batch.map_err(|error| arrow("read", &shown, error))?;
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

fn wanted<'a>(group: &'a RowGroupMetaData, mask: &'a ProjectionMask) -> impl Iterator<Item = &'a ColumnChunkMetaData> {
    group.columns().iter().enumerate().filter(|(leaf, _)| mask.leaf_included(*leaf)).map(|(_, column)| column)
}

fn wanted_bytes(group: &RowGroupMetaData, mask: &ProjectionMask) -> u64 {
    wanted(group, mask).fold(0, |sum, column| sum.saturating_add(non_negative(column.compressed_size())))
}

/// What a reader holds of a row group: a page of each column, packed and unpacked, and its dictionary. Writers aim at
/// pages and dictionaries of 1 MiB.
fn page_memory(group: &RowGroupMetaData, mask: &ProjectionMask) -> usize {
    const PAGE: u64 = 1 << 20;
    let bytes = wanted(group, mask).fold(0_u64, |sum, column| {
        let size = non_negative(column.uncompressed_size());
        sum.saturating_add(size.min(PAGE)).saturating_add(non_negative(column.compressed_size()).min(PAGE / 4))
    });
    usize::try_from(bytes).unwrap_or(usize::MAX)
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
    sizes.fold(0_u64, u64::saturating_add) / non_negative(group.num_rows()).max(1)
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
