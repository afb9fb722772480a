//! What a file ends with: page indexes and footer.
//!
//! Design note. A footer tells of all row groups, so what it will say of them is kept until the last is written. The
//! structs of the parquet crate take several times the bytes that are written of them, which in a file of some hundred row
//! groups is more than the writers of its columns take. So each row group is encoded when it is complete, by the crate, as if
//! it were the only one of a file, and kept as these bytes. In them the page indexes begin at 0, for where they will be
//! is known at the end only. It is put right where the bytes say it, so they are not decoded again.

use std::io::Write;
use std::ops::Range;

use parquet::errors::{ParquetError, Result};
use parquet::file::metadata::{FileMetaData, ParquetMetaDataBuilder, ParquetMetaDataWriter, RowGroupMetaData};
use parquet::file::page_index::column_index::ColumnIndexMetaData;
use parquet::file::page_index::offset_index::OffsetIndexMetaData;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::TrackedWrite;
use parquet::schema::types::SchemaDescPtr;

use crate::encode::{varint, zigzag};
use crate::thrift::{Broken, Compact};

/// What a file begins and ends with.
pub(crate) const MAGIC: &[u8; 4] = b"PAR1";
/// The length of a footer, and the magic number.
const TAIL: usize = 8;

/// Page indexes of the columns of a row group.
pub(crate) struct Indexes {
    pub(crate) column: Vec<Option<ColumnIndexMetaData>>,
    pub(crate) offset: Vec<Option<OffsetIndexMetaData>>,
}

/// The footer of a file in the making.
pub(crate) struct Footer {
    /// A file of no rows.
    file: FileMetaData,
    groups: Vec<Group>,
    rows: u64,
    /// Row groups that were handed over.
    handed_over: usize,
}

/// A row group that is written.
struct Group {
    rows: u64,
    /// What the footer says of it.
    metadata: Box<[u8]>,
    /// The column indexes, and then the offset indexes.
    indexes: Box<[u8]>,
    column_indexes: usize,
}

impl Footer {
    pub(crate) fn new(schema: SchemaDescPtr, properties: &WriterProperties) -> Self {
        let file = FileMetaData::new(
            properties.writer_version().as_num(),
            0,
            Some(properties.created_by().to_owned()),
            properties.key_value_metadata().cloned(),
            schema,
            None,
        );
        Self { file, groups: Vec::new(), rows: 0, handed_over: 0 }
    }

    /// Row groups so far.
    pub(crate) fn len(&self) -> usize {
        self.groups.len()
    }

    /// Adds a row group.
    pub(crate) fn push(&mut self, group: RowGroupMetaData, indexes: Option<Indexes>) -> Result<()> {
        let rows = u64::try_from(group.num_rows())?;
        let mut metadata = ParquetMetaDataBuilder::new(without_metadata(&self.file)).add_row_group(group);
        if let Some(Indexes { column, offset }) = indexes {
            let column = column.into_iter().map(|index| index.unwrap_or(ColumnIndexMetaData::NONE)).collect();
            let offset: Option<Vec<_>> = offset.into_iter().collect();
            metadata =
                metadata.set_column_index(Some(vec![column])).set_offset_index(offset.map(|offset| vec![offset]));
        }
        let bytes = encode(metadata)?;
        let (indexes, footer) = bytes.split_at(footer_start(&bytes)?);
        let places = Places::of(footer)?;
        let element = footer.get(places.groups.start + 1..places.groups.end).unwrap_or_default();
        let moved = index_places(element).map_err(own)?;
        let column_indexes = moved.iter().filter(|place| !place.is_column).map(|place| place.value).min();
        let column_indexes = column_indexes.map_or(Ok(indexes.len()), usize::try_from)?;
        self.groups.push(Group { rows, metadata: element.into(), indexes: indexes.into(), column_indexes });
        self.rows += rows;
        Ok(())
    }

    /// What is known of the row groups since this was last called, for [`take_over`](Self::take_over): of each the rows, where its
    /// offset indexes begin, its metadata and its indexes, in hexadecimal digits.
    pub(crate) fn hand_over(&mut self) -> String {
        let groups = self.groups.get(self.handed_over..).unwrap_or_default();
        let text = groups.iter().map(|group| {
            let Group { rows, column_indexes, metadata, indexes } = group;
            format!("{rows} {column_indexes} {} {}", hexadecimal(metadata), hexadecimal(indexes))
        });
        let text = text.collect::<Vec<_>>().join("\n");
        self.handed_over = self.groups.len();
        text
    }

    /// Adds row groups that are in the file already.
    pub(crate) fn take_over(&mut self, text: &str) -> Result<()> {
        let wrong = || ParquetError::General("what was kept of a row group cannot be understood".to_owned());
        for line in text.lines() {
            let mut words = line.split(' ');
            let mut word = || words.next().ok_or_else(wrong);
            let rows: u64 = word()?.parse().map_err(|_| wrong())?;
            let column_indexes: usize = word()?.parse().map_err(|_| wrong())?;
            let metadata = bytes(word()?).ok_or_else(wrong)?;
            let indexes = bytes(word()?).filter(|indexes| indexes.len() >= column_indexes).ok_or_else(wrong)?;
            self.groups.push(Group { rows, column_indexes, metadata, indexes });
            self.rows += rows;
        }
        self.handed_over = self.groups.len();
        Ok(())
    }

    /// Writes page indexes and footer behind what `sink` has, and gives the rows of the file.
    pub(crate) fn write<W: Write>(self, sink: &mut TrackedWrite<W>) -> Result<u64> {
        let start = sink.bytes_written();
        let column_indexes = self.groups.iter().map(|group| group.column_indexes).sum::<usize>();
        for group in &self.groups {
            sink.write_all(&group.indexes[..group.column_indexes])?;
        }
        for group in &self.groups {
            sink.write_all(&group.indexes[group.column_indexes..])?;
        }
        let frame = encode(ParquetMetaDataBuilder::new(self.file))?;
        let places = Places::of(&frame)?;
        let footer = sink.bytes_written();
        sink.write_all(&frame[..places.rows.start])?;
        let mut number = Vec::new();
        zigzag(i64::try_from(self.rows)?, &mut number);
        sink.write_all(&number)?;
        sink.write_all(&frame[places.rows.end..places.groups.start])?;
        number.clear();
        list_head(self.groups.len(), &mut number);
        sink.write_all(&number)?;
        let (mut column_start, mut offset_start) = (start, start + column_indexes);
        for Group { metadata, indexes, column_indexes, .. } in &self.groups {
            let mut written = 0;
            for place in index_places(metadata).map_err(own)? {
                // Offset indexes begin where they would if they were all there is.
                let shift = if place.is_column { column_start } else { offset_start - column_indexes };
                number.clear();
                zigzag(place.value + i64::try_from(shift)?, &mut number);
                sink.write_all(&metadata[written..place.bytes.start])?;
                sink.write_all(&number)?;
                written = place.bytes.end;
            }
            sink.write_all(&metadata[written..])?;
            column_start += column_indexes;
            offset_start += indexes.len() - column_indexes;
        }
        sink.write_all(&frame[places.groups.end..frame.len() - TAIL])?;
        let length = u32::try_from(sink.bytes_written() - footer);
        let length = length.map_err(|_| ParquetError::General("a footer takes more than 4 GB".to_owned()))?;
        sink.write_all(&length.to_le_bytes())?;
        sink.write_all(MAGIC)?;
        Ok(self.rows)
    }
}

fn hexadecimal(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |half: u8| char::from(DIGITS[usize::from(half & 15)]);
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(*byte)]).collect()
}

/// What [`hexadecimal`] made.
fn bytes(text: &str) -> Option<Box<[u8]>> {
    let half = |digit: u8| char::from(digit).to_digit(16).and_then(|half| u8::try_from(half).ok());
    let pairs = text.as_bytes().chunks(2);
    pairs.map(|pair| Some(half(*pair.first()?)? << 4 | half(*pair.get(1)?)?)).collect()
}

/// `file`, without the texts of applications.
fn without_metadata(file: &FileMetaData) -> FileMetaData {
    let created_by = file.created_by().map(str::to_owned);
    FileMetaData::new(file.version(), 0, created_by, None, file.schema_descr_ptr(), None)
}

/// Page indexes, footer, its length and the magic number, as the parquet crate writes them.
fn encode(metadata: ParquetMetaDataBuilder) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    ParquetMetaDataWriter::new(&mut bytes, &metadata.build()).finish()?;
    Ok(bytes)
}

/// Where the footer that `bytes` end in begins.
fn footer_start(bytes: &[u8]) -> Result<usize> {
    let start = || {
        let (rest, magic) = bytes.split_last_chunk::<4>()?;
        let (rest, length) = rest.split_last_chunk::<4>()?;
        let length = usize::try_from(u32::from_le_bytes(*length)).ok()?;
        if magic == MAGIC { rest.len().checked_sub(length) } else { None }
    };
    start().ok_or_else(|| own(Broken::Short))
}

/// Parts of a footer.
struct Places {
    /// The number of rows.
    rows: Range<usize>,
    /// The list of row groups.
    groups: Range<usize>,
}

impl Places {
    fn of(footer: &[u8]) -> Result<Self> {
        const ROWS: i64 = 3;
        const GROUPS: i64 = 4;
        let (mut rows, mut groups) = (None, None);
        let mut input = Compact::new(footer);
        let taken = input.fields(|input, id, kind| {
            let start = footer.len() - input.left();
            input.skip(kind)?;
            match id {
                ROWS => rows = Some(start..footer.len() - input.left()),
                GROUPS => groups = Some(start..footer.len() - input.left()),
                _ => {}
            }
            Ok(())
        });
        taken.map_err(own)?;
        rows.zip(groups).map(|(rows, groups)| Self { rows, groups }).ok_or_else(|| own(Broken::Wrong))
    }
}

/// Where it is said where a page index is.
struct IndexPlace {
    /// The number.
    bytes: Range<usize>,
    value: i64,
    /// Of a column index, not an offset index.
    is_column: bool,
}

/// What the metadata of a row group says of the places of page indexes, in the order of its bytes.
fn index_places(group: &[u8]) -> std::result::Result<Vec<IndexPlace>, Broken> {
    const COLUMNS: i64 = 1;
    const OFFSET_INDEX: i64 = 4;
    const COLUMN_INDEX: i64 = 6;
    let mut places = Vec::new();
    Compact::new(group).fields(|input, id, kind| {
        if id != COLUMNS {
            return input.skip(kind);
        }
        input.list(kind, |input, kind| {
            input.structure(kind, |input, id, kind| {
                if !matches!(id, OFFSET_INDEX | COLUMN_INDEX) {
                    return input.skip(kind);
                }
                let start = group.len() - input.left();
                let value = input.int(kind)?;
                let bytes = start..group.len() - input.left();
                places.push(IndexPlace { bytes, value, is_column: id == COLUMN_INDEX });
                Ok(())
            })
        })
    })?;
    Ok(places)
}

/// Appends what a list of `length` structs begins with.
fn list_head(length: usize, out: &mut Vec<u8>) {
    const STRUCT: u8 = 12;
    match u8::try_from(length) {
        Ok(short) if short < 15 => out.push(short << 4 | STRUCT),
        _ => {
            out.push(15 << 4 | STRUCT);
            varint(length as u64, out);
        }
    }
}

/// What the parquet crate wrote a moment ago is not what is read here.
fn own(_: Broken) -> ParquetError {
    ParquetError::General("the metadata of a row group is not what it should be".to_owned())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow_array::{ArrayRef, ListArray, RecordBatch, types::Int32Type};
    use etlrs_core::record_batch;
    use parquet::arrow::ArrowSchemaConverter;
    use parquet::file::writer::SerializedFileWriter;

    use crate::encode::{Layout, Progress, RowGroup, RowGroups};
    use crate::output::FileWriter;
    use crate::{BloomFilters, ParquetWriteOptions, Statistics};

    /// Numbers, and lists of them, which the parquet crate encodes.
    fn batch(rows: i64) -> RecordBatch {
        let lists = (0..rows).map(|row| (row % 3 > 0).then(|| (0..row % 5).map(|number| Some(number as i32))));
        let lists: ArrayRef = Arc::new(ListArray::from_iter_primitive::<Int32Type, _, _>(lists));
        let numbers = record_batch([("a", (0..rows).map(Some).collect()), ("b", vec![None; rows as usize])]);
        let columns = numbers.columns().iter().cloned().chain([lists]);
        RecordBatch::try_from_iter(["a", "b", "c"].into_iter().zip(columns)).unwrap()
    }

    /// The row groups of `batch`, of ten rows each.
    fn groups(layout: &Arc<Layout>, batch: &RecordBatch) -> Vec<RowGroup> {
        let mut groups = RowGroups::new(layout.clone(), 1 << 20);
        groups.push(batch.clone());
        groups.end();
        let mut found = Vec::new();
        loop {
            match groups.next().unwrap() {
                Progress::Complete(group) => found.push(group),
                Progress::Due => {}
                Progress::Idle => return found,
            }
        }
    }

    #[test]
    fn a_file_is_byte_for_byte_what_the_parquet_crate_writes() {
        let plain = ParquetWriteOptions::default().with_row_group_size(10_usize).with_data_page_rows(4_usize);
        let chunk = plain.clone().with_statistics(Statistics::Chunk);
        let filtered = plain.clone().with_bloom_filters(BloomFilters::All);
        for (options, rows) in [(&plain, 0), (&plain, 7), (&plain, 140), (&plain, 157), (&chunk, 30), (&filtered, 30)] {
            let batch = batch(rows);
            let root = ArrowSchemaConverter::new().convert(&batch.schema()).unwrap().root_schema_ptr();
            let layout = Arc::new(Layout::new(batch.schema(), root.clone(), options, "t".as_ref()).unwrap());
            let mut expected = SerializedFileWriter::new(Vec::new(), root, layout.properties.clone()).unwrap();
            for group in groups(&layout, &batch) {
                let mut row_group = expected.next_row_group().unwrap();
                group.append_to(&mut row_group).unwrap();
                row_group.close().unwrap();
            }
            let mut file = FileWriter::new(Vec::new(), &layout).unwrap();
            for group in groups(&layout, &batch) {
                file.append(group).unwrap();
            }
            let (bytes, written) = file.finish().unwrap();
            assert_eq!(written, rows as u64);
            assert!(bytes == expected.into_inner().unwrap(), "{rows} rows, {options:?}");
        }
    }
}
