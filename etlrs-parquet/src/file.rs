use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow_schema::{DataType, Field, Schema, TimeUnit};
use bytes::Bytes;
use etlrs_core::{CancelToken, Error, ErrorKind, Result};
use etlrs_files::InputFile;
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions};
use parquet::basic::{Compression, LogicalType, Type as PhysicalType};
use parquet::errors::ParquetError;
use parquet::file::metadata::{
    ColumnChunkMetaData, FileMetaData, PageIndexPolicy, ParquetMetaData, ParquetMetaDataBuilder, ParquetMetaDataReader,
};
use parquet::file::reader::{ChunkReader, Length};

use crate::error::{guarded, reading};
use crate::thrift::Compact;
use crate::{Int96Unit, ParquetReadOptions};

/// What is read at a time where it is not known how much is needed.
const READ_BUFFER: usize = 4 << 10;

/// An open file, read by position, so that several readers share it without a seek getting between them. Column chunks are
/// read through [`Chunks`](crate::chunks::Chunks).
#[derive(Clone, Debug)]
pub(crate) struct SourceFile {
    file: InputFile,
    shown: Arc<Path>,
}

impl SourceFile {
    /// Opens `path`; errors name `shown`.
    pub(crate) fn open(path: &Path, shown: &Path, cancel: &CancelToken) -> Result<Self> {
        Ok(Self { file: InputFile::open(path, cancel)?, shown: shown.into() })
    }

    pub(crate) fn input(&self) -> &InputFile {
        &self.file
    }

    /// The name that errors show.
    pub(crate) fn shown(&self) -> &Path {
        &self.shown
    }

    /// Refuses a range that is not in the file, before anything is allocated for it: it comes from the file.
    pub(crate) fn require(&self, start: u64, length: usize) -> parquet::errors::Result<()> {
        let wanted = u64::try_from(length).ok().and_then(|length| start.checked_add(length));
        if wanted.is_some_and(|end| end <= self.file.length()) {
            return Ok(());
        }
        Err(ParquetError::EOF(format!(
            "{length} bytes at offset {start} are asked for, and the file has {}",
            self.file.length()
        )))
    }
}

/// The error of a read that `require` had allowed.
pub(crate) fn cut_short(error: std::io::Error) -> ParquetError {
    match error.kind() {
        std::io::ErrorKind::UnexpectedEof => ParquetError::EOF("it became shorter while it was read".into()),
        _ => error.into(),
    }
}

impl Length for SourceFile {
    fn len(&self) -> u64 {
        self.file.length()
    }
}

impl ChunkReader for SourceFile {
    type T = BufReader<ReadFrom>;

    fn get_read(&self, start: u64) -> parquet::errors::Result<Self::T> {
        Ok(BufReader::with_capacity(READ_BUFFER, ReadFrom { file: self.file.clone(), position: start }))
    }

    fn get_bytes(&self, start: u64, length: usize) -> parquet::errors::Result<Bytes> {
        self.require(start, length)?;
        counting::count(start, length);
        let mut buffer = vec![0; length];
        self.file.read_exact_at(&mut buffer, start).map_err(cut_short)?;
        Ok(buffer.into())
    }
}

/// Reads on from a position of its own.
pub(crate) struct ReadFrom {
    file: InputFile,
    position: u64,
}

impl Read for ReadFrom {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.file.read_at(buffer, self.position)?;
        self.position += count as u64;
        Ok(count)
    }
}

/// A file whose footer has been read and found plausible.
#[derive(Debug)]
pub(crate) struct ParquetFile {
    pub(crate) path: PathBuf,
    /// The name that errors show: that of the target for a file that is staged.
    pub(crate) shown: PathBuf,
    pub(crate) metadata: ArrowReaderMetadata,
    pub(crate) has_int96: bool,
    /// Kept open if it is an object, for which another look would be another request.
    held: Option<SourceFile>,
    cancel: CancelToken,
}

impl ParquetFile {
    /// Reads the footer of `path`.
    pub(crate) fn open(path: &Path, shown: &Path, options: &ParquetReadOptions, cancel: &CancelToken) -> Result<Self> {
        let file = SourceFile::open(path, shown, cancel)?;
        if file.len() == 0 {
            return Err(Error::new(
                ErrorKind::InvalidData,
                "the file is empty, and even a table without rows takes bytes",
            )
            .in_source(shown.display()));
        }
        guarded(shown, || {
            let reader_options = ArrowReaderOptions::new().with_skip_arrow_metadata(!options.arrow_schema);
            let footer = read_footer(&file, shown, PageIndexPolicy::Skip)?;
            let metadata = ArrowReaderMetadata::try_new(Arc::new(footer), reader_options.clone())
                .map_err(|error| reading(shown, error))?;
            let (metadata, has_int96) = match options.int96 {
                Int96Unit::Microsecond => with_int96_as_microseconds(metadata, reader_options),
                Int96Unit::Nanosecond => (metadata, false),
            };
            let held = file.input().is_remote().then(|| file.clone());
            Ok(Self {
                path: path.to_owned(),
                shown: shown.to_owned(),
                metadata,
                has_int96,
                held,
                cancel: cancel.clone(),
            })
        })
    }

    /// The file, to be read.
    pub(crate) fn source(&self) -> Result<SourceFile> {
        match &self.held {
            Some(file) => Ok(file.clone()),
            None => SourceFile::open(&self.path, &self.shown, &self.cancel),
        }
    }

    pub(crate) fn footer(&self) -> &ParquetMetaData {
        self.metadata.metadata()
    }
}

/// Reads the footer of `file`; errors name `shown`.
pub(crate) fn read_footer(file: &SourceFile, shown: &Path, indexes: PageIndexPolicy) -> Result<ParquetMetaData> {
    let read = ParquetMetaDataReader::new().with_page_index_policy(indexes).parse_and_finish(file);
    let footer = repaired(read.map_err(|error| reading(shown, error))?);
    check_claims(&footer, file.len()).map_err(|error| error.in_source(shown.display()))?;
    Ok(footer)
}

/// Whether the footer, though in plain text, says that the file has encrypted columns: for errors, for it is read anew.
pub(crate) fn has_encrypted_columns(file: &SourceFile) -> bool {
    const ENCRYPTION_ALGORITHM: i64 = 8;
    let footer = || {
        let tail = file.get_bytes(file.len().checked_sub(8)?, 8).ok()?;
        let length = u32::from_le_bytes(tail.get(..4)?.try_into().ok()?);
        file.get_bytes(file.len().checked_sub(8 + u64::from(length))?, usize::try_from(length).ok()?).ok()
    };
    let mut found = false;
    if let Some(footer) = footer() {
        let _ = Compact::new(&footer).fields(|input, id, kind| {
            found |= id == ENCRYPTION_ALGORITHM;
            input.skip(kind)
        });
    }
    found
}

/// Puts right a number of rows for the file that is not that of its row groups: parquet-rs 0.3 wrote 0, other readers
/// see through it, and the reader of the parquet crate would take no row.
fn repaired(footer: ParquetMetaData) -> ParquetMetaData {
    let rows = footer.row_groups().iter().fold(0_i64, |sum, group| sum.saturating_add(group.num_rows()));
    let found = footer.file_metadata();
    if found.num_rows() == rows {
        return footer;
    }
    let file = FileMetaData::new(
        found.version(),
        rows,
        found.created_by().map(str::to_owned),
        found.key_value_metadata().cloned(),
        found.schema_descr_ptr(),
        found.column_orders().cloned(),
    );
    ParquetMetaDataBuilder::new(file)
        .set_row_groups(footer.row_groups().to_vec())
        .set_column_index(footer.column_index().cloned())
        .set_offset_index(footer.offset_index().cloned())
        .build()
}

/// Refuses a footer whose numbers cannot be true, before anything is sized by them.
fn check_claims(metadata: &ParquetMetaData, length: u64) -> Result<()> {
    let damaged = |what: &str, column: &ColumnChunkMetaData| {
        Error::new(ErrorKind::InvalidData, format!("the file is damaged: {what}"))
            .at_column(column.column_path().string())
    };
    let unsupported = |what: String| Error::new(ErrorKind::Unsupported, what);
    let version = metadata.file_metadata().version();
    if !(0..=2).contains(&version) {
        return Err(unsupported(format!("version {version} of Parquet is not known, only 1 and 2 are")));
    }
    for leaf in metadata.file_metadata().schema_descr().columns() {
        if let Some(LogicalType::_Unknown { field_id }) = leaf.logical_type_ref() {
            let message = format!("logical type {field_id} is not known, so what its values mean is not either");
            return Err(unsupported(message).at_column(leaf.path().string()));
        }
    }
    let mut rows = 0_i64;
    for group in metadata.row_groups() {
        let wrong = |what: &str| Error::new(ErrorKind::InvalidData, format!("the file is damaged: it claims {what}"));
        if group.num_rows() < 0 {
            return Err(wrong("a negative number of rows"));
        }
        rows = rows.checked_add(group.num_rows()).ok_or_else(|| wrong("more rows than can be counted"))?;
        for column in group.columns() {
            if column.file_path().is_some() {
                return Err(Error::new(
                    ErrorKind::Unsupported,
                    "the data of a column in another file is not supported",
                )
                .at_column(column.column_path().string()));
            }
            if column.compression() == Compression::LZO {
                return Err(
                    unsupported("the codec LZO is not supported".into()).at_column(column.column_path().string())
                );
            }
            let start = column.dictionary_page_offset().unwrap_or_else(|| column.data_page_offset());
            let end = u64::try_from(start)
                .ok()
                .zip(u64::try_from(column.compressed_size()).ok())
                .and_then(|(start, size)| start.checked_add(size));
            if column.num_values() < 0 || column.uncompressed_size() < 0 || column.data_page_offset() < 0 {
                return Err(damaged("it claims a negative size", column));
            }
            if end.is_none_or(|end| end > length) {
                return Err(damaged("the footer points beyond its end", column));
            }
        }
    }
    Ok(())
}

/// Lets plain INT96 columns be read as microseconds. Nested ones stay with nanoseconds.
fn with_int96_as_microseconds(
    metadata: ArrowReaderMetadata,
    options: ArrowReaderOptions,
) -> (ArrowReaderMetadata, bool) {
    let mut fields: Vec<Arc<Field>> = metadata.schema().fields().iter().cloned().collect();
    let mut changed = false;
    for leaf in metadata.parquet_schema().columns() {
        let (PhysicalType::INT96, [name]) = (leaf.physical_type(), leaf.path().parts()) else { continue };
        if let Some(field) = fields.iter_mut().find(|field| field.name() == name)
            && let DataType::Timestamp(TimeUnit::Nanosecond, zone) = field.data_type()
        {
            let data_type = DataType::Timestamp(TimeUnit::Microsecond, zone.clone());
            *field = Arc::new(field.as_ref().clone().with_data_type(data_type));
            changed = true;
        }
    }
    if !changed {
        return (metadata, false);
    }
    let schema = Arc::new(Schema::new_with_metadata(fields, metadata.schema().metadata().clone()));
    match ArrowReaderMetadata::try_new(metadata.metadata().clone(), options.with_schema(schema)) {
        Ok(changed) => (changed, true),
        Err(_) => (metadata, false),
    }
}

/// Tests count what is read of a file apart from page headers; nothing else does.
mod counting {
    #[cfg(test)]
    use std::{cell::RefCell, ops::Range};

    #[cfg(test)]
    thread_local! {
        pub(super) static READS: RefCell<Vec<Range<u64>>> = const { RefCell::new(Vec::new()) };
    }

    #[cfg(test)]
    pub(super) fn count(start: u64, length: usize) {
        READS.with_borrow_mut(|reads| reads.push(start..start + length as u64));
    }

    #[cfg(not(test))]
    #[inline(always)]
    pub(super) fn count(_: u64, _: usize) {}
}

#[cfg(test)]
mod tests {
    use etlrs_core::{
        ColumnTest, Comparison, Extractor, LoadMode, LoadPlan, Loader, Partition, PerformanceConfig, RunContext,
        ScanRequest, Test, Value, next_batch, record_batch,
    };

    use super::*;
    use crate::{ParquetExtractor, ParquetLoader, ParquetWriteOptions};

    /// Scans and reads `path` to its end: how often a byte of each part of the file is read.
    async fn reads(path: &Path, request: &ScanRequest, parts: &[u64]) -> (Vec<usize>, u64) {
        counting::READS.take();
        let cx = RunContext::new(PerformanceConfig::default());
        let scan = ParquetExtractor::new(path).scan(&cx, request).await.unwrap();
        for partition in scan.partitions() {
            let mut stream = scan.read(&cx, partition).unwrap();
            while next_batch(&mut stream).await.transpose().unwrap().is_some() {}
        }
        let reads = counting::READS.take();
        let counts = parts.iter().map(|at| reads.iter().filter(|range| range.contains(at)).count()).collect();
        (counts, scan.partitions().len() as u64)
    }

    #[tokio::test]
    async fn a_footer_is_read_once_and_indexes_only_for_a_filter() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("t.parquet");
        let cx = RunContext::new(PerformanceConfig::default());
        let batch = record_batch([("n", (0..100).map(Some).collect()), ("m", (0..100).map(Some).collect())]);
        let loader =
            ParquetLoader::new(&path).with_options(ParquetWriteOptions::default().with_row_group_size(10_usize));
        let plan = LoadPlan::new(batch.schema(), LoadMode::Create, vec![Partition::new(0, "all")]);
        let session = loader.begin(&cx, plan.clone()).await.unwrap();
        let mut writer = session.writer(&cx, &plan.partitions[0], 1).await.unwrap();
        writer.write(batch).await.unwrap();
        let receipt = writer.finish().await.unwrap();
        session.commit(vec![receipt]).await.unwrap();

        let file = SourceFile::open(&path, &path, cx.cancel()).unwrap();
        let footer = read_footer(&file, &path, PageIndexPolicy::Skip).unwrap();
        let chunk = |group: usize| footer.row_group(group).column(0).clone();
        let index = |group| u64::try_from(chunk(group).column_index_offset().unwrap()).unwrap();
        let parts = [file.len() - 20, index(3), index(4)];
        let request = ScanRequest::all().partitions(5);
        assert_eq!(reads(&path, &request, &parts).await, (vec![1, 0, 0], 5));

        let test = ColumnTest::new("n", Test::Compare(Comparison::Eq, Value::Int(35)));
        let request = request.filter([test]);
        assert_eq!(reads(&path, &request, &parts).await.0, [1, 1, 0]);
    }
}
