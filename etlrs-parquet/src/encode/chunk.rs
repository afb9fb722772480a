//! A column chunk in the making: pages, and what its metadata will say about them.

use std::io::{Chain, Cursor, Read};

use arrow_array::builder::BooleanBufferBuilder;
use arrow_buffer::NullBuffer;
use bytes::Bytes;
use parquet::basic::{BoundaryOrder, Encoding, PageType};
use parquet::column::page::{CompressedPage, Page, PageWriter};
use parquet::column::writer::ColumnCloseResult;
use parquet::errors::{ParquetError, Result};
use parquet::file::metadata::{ColumnChunkMetaData, ColumnIndexBuilder, OffsetIndexBuilder, PageEncodingStats};
use parquet::file::page_index::column_index::ColumnIndexMetaData;
use parquet::file::page_index::offset_index::OffsetIndexMetaData;
use parquet::file::reader::{ChunkReader, Length};
use parquet::file::statistics::Statistics;
use parquet::file::writer::{SerializedPageWriter, TrackedWrite};
use parquet::schema::types::ColumnDescPtr;

use super::ColumnLayout;
use super::bits;
use super::codec::Compressor;
use super::filter::Filter;
use crate::Statistics as Told;

/// The least and the greatest of some values, as the statistics of the format hold them.
pub(crate) trait Bounds: Clone {
    /// Whether the column index of pages with these bounds goes up, or at least not down.
    fn is_not_above(&self, next: &Self) -> bool;
    /// As a column index has them, maybe shortened.
    fn for_index(&self) -> Self;
    fn index_bytes(&self) -> (Vec<u8>, Vec<u8>);
    /// Bytes that they hold beside themselves.
    fn memory(&self) -> usize;
    fn extend(&mut self, other: &Self);
    /// Those of a whole chunk.
    fn statistics(bounds: Option<&Self>, nulls: u64) -> Statistics;
}

/// Which rows of a page are null, for columns that may have nulls.
pub(crate) struct Levels {
    nullable: bool,
    valid: BooleanBufferBuilder,
    rows: usize,
    nulls: usize,
}

impl Levels {
    pub(crate) fn new(nullable: bool) -> Self {
        Self { nullable, valid: BooleanBufferBuilder::new(0), rows: 0, nulls: 0 }
    }

    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    /// Adds `rows` rows, of which `nulls` tells those that are null.
    pub(crate) fn append(&mut self, rows: usize, nulls: Option<&NullBuffer>) -> Result<()> {
        match nulls.filter(|nulls| nulls.null_count() > 0) {
            Some(_) if !self.nullable => {
                return Err(ParquetError::General("a column that has no nulls has a null".to_owned()));
            }
            Some(nulls) => {
                // The rows before them had none.
                let before = self.rows - self.valid.len();
                self.valid.append_n(before, true);
                self.valid.append_buffer(nulls.inner());
                self.nulls += nulls.null_count();
            }
            None if self.nulls > 0 => self.valid.append_n(rows, true),
            None => {}
        }
        self.rows += rows;
        Ok(())
    }

    /// Writes the definition levels of the page, and gives its rows and nulls.
    fn take(&mut self, out: &mut Vec<u8>) -> (usize, usize) {
        let (rows, nulls) = (std::mem::take(&mut self.rows), std::mem::take(&mut self.nulls));
        let valid = self.valid.finish();
        if self.nullable {
            let start = out.len();
            out.extend_from_slice(&[0; 4]);
            if nulls == 0 || nulls == rows {
                bits::varint((rows as u64) << 1, out);
                out.push(u8::from(nulls == 0));
            } else {
                // A level takes a bit, the first the lowest: just what Arrow's bitmap is.
                bits::varint((rows.div_ceil(8) as u64) << 1 | 1, out);
                out.extend_from_slice(&valid.inner().as_slice()[..rows.div_ceil(8)]);
            }
            let length = u32::try_from(out.len() - start - 4).unwrap_or(u32::MAX);
            out[start..start + 4].copy_from_slice(&length.to_le_bytes());
        }
        (rows, nulls)
    }
}

/// Pages of one column of one row group.
pub(crate) struct Chunk<B> {
    descriptor: ColumnDescPtr,
    told: Told,
    /// The Bloom filter, if the column gets one.
    pub(crate) filter: Option<Filter>,
    /// The data pages with their headers; the dictionary page will come before them.
    pages: TrackedWrite<Vec<u8>>,
    encoding_stats: Vec<PageEncodingStats>,
    offsets: Vec<(u64, i32, i64)>,
    /// Bounds, as the column index has them, and nulls of each page.
    page_bounds: Vec<(Option<B>, usize)>,
    /// Bytes that these bounds hold.
    bounds_memory: usize,
    /// A page has values and no bounds, so there can be no column index.
    unbounded: bool,
    bounds: Option<B>,
    rows: u64,
    nulls: u64,
    uncompressed: u64,
    /// Bytes of the values of each page, of columns whose values have a length.
    value_bytes: Vec<u64>,
}

/// The bytes of an encoded column chunk and what the footer will say of it.
pub(crate) struct EncodedChunk {
    pub(crate) bytes: ChunkBytes,
    pub(crate) close: ColumnCloseResult,
}

impl<B: Bounds> Chunk<B> {
    pub(crate) fn new(descriptor: ColumnDescPtr, layout: &ColumnLayout) -> Self {
        Self {
            descriptor,
            told: layout.statistics,
            filter: layout.filter.map(Filter::new),
            pages: TrackedWrite::new(Vec::new()),
            encoding_stats: Vec::new(),
            offsets: Vec::new(),
            page_bounds: Vec::new(),
            bounds_memory: 0,
            unbounded: false,
            bounds: None,
            rows: 0,
            nulls: 0,
            uncompressed: 0,
            value_bytes: Vec::new(),
        }
    }

    pub(crate) fn memory(&self) -> usize {
        let told = self.offsets.capacity() * size_of::<(u64, i32, i64)>()
            + self.page_bounds.capacity() * size_of::<(Option<B>, usize)>()
            + self.value_bytes.capacity() * size_of::<u64>()
            + self.bounds.as_ref().map_or(0, B::memory)
            + self.bounds_memory;
        self.pages.inner().capacity() + self.filter.as_ref().map_or(0, Filter::memory) + told
    }

    /// Whether bounds of pages are of use.
    pub(crate) fn tells_bounds(&self) -> bool {
        self.told != Told::None
    }

    /// Tells the bytes of the values of the page that ends next. Readers learn from their sum what the values take, which
    /// a dictionary hides.
    pub(crate) fn count_bytes(&mut self, bytes: u64) {
        self.value_bytes.push(bytes);
    }

    pub(crate) fn counted_bytes(&self) -> u64 {
        self.value_bytes.iter().sum()
    }

    /// Ends a page, whose values `write` appends to a buffer.
    pub(crate) fn page(
        &mut self,
        compressor: &mut Compressor,
        levels: &mut Levels,
        encoding: Encoding,
        bounds: Option<B>,
        write: impl FnOnce(&mut Vec<u8>),
    ) -> Result<()> {
        let mut plain = std::mem::take(&mut compressor.plain);
        plain.clear();
        let (rows, nulls) = levels.take(&mut plain);
        write(&mut plain);
        let buf = compressor.compress(&plain)?;
        let page = Page::DataPage {
            buf,
            num_values: u32::try_from(rows)?,
            encoding,
            def_level_encoding: Encoding::RLE,
            rep_level_encoding: Encoding::RLE,
            statistics: None,
        };
        let spec = SerializedPageWriter::new(&mut self.pages).write_page(CompressedPage::new(page, plain.len()))?;
        compressor.plain = plain;
        self.uncompressed += spec.uncompressed_size as u64;
        self.offsets.push((spec.offset, i32::try_from(spec.compressed_size)?, i64::try_from(self.rows)?));
        match self.encoding_stats.last_mut() {
            Some(stats) if stats.encoding == encoding => stats.count += 1,
            _ => self.encoding_stats.push(PageEncodingStats { page_type: PageType::DATA_PAGE, encoding, count: 1 }),
        }
        match (&mut self.bounds, &bounds) {
            (Some(all), Some(bounds)) => all.extend(bounds),
            (all @ None, Some(bounds)) => *all = Some(bounds.clone()),
            (_, None) => self.unbounded |= nulls < rows,
        }
        let bounds = bounds.as_ref().map(B::for_index);
        self.bounds_memory += bounds.as_ref().map_or(0, B::memory);
        self.page_bounds.push((bounds, nulls));
        self.rows += rows as u64;
        self.nulls += nulls as u64;
        Ok(())
    }

    /// Ends the chunk. `dictionary`: its plain values and their number.
    pub(crate) fn finish(
        mut self,
        compressor: &mut Compressor,
        dictionary: Option<(&[u8], usize)>,
    ) -> Result<EncodedChunk> {
        let mut dictionary_page = TrackedWrite::new(Vec::new());
        let mut encodings: Vec<_> = self.encoding_stats.iter().map(|stats| stats.encoding).collect();
        encodings.push(Encoding::RLE);
        if let Some((plain, values)) = dictionary {
            let page = Page::DictionaryPage {
                buf: compressor.compress(plain)?,
                num_values: u32::try_from(values)?,
                encoding: Encoding::PLAIN,
                is_sorted: false,
            };
            let page = CompressedPage::new(page, plain.len());
            let spec = SerializedPageWriter::new(&mut dictionary_page).write_page(page)?;
            self.uncompressed += spec.uncompressed_size as u64;
            encodings.push(Encoding::PLAIN);
            let stats = PageEncodingStats { page_type: PageType::DICTIONARY_PAGE, encoding: Encoding::PLAIN, count: 1 };
            self.encoding_stats.insert(0, stats);
        }
        let shift = dictionary_page.bytes_written() as u64;
        let (column_index, offset_index) = self.indexes(shift)?;
        let value_bytes = match self.value_bytes.is_empty() {
            true => None,
            false => Some(i64::try_from(self.counted_bytes())?),
        };
        let bytes =
            ChunkBytes { dictionary: dictionary_page.into_inner()?.into(), pages: self.pages.into_inner()?.into() };
        let filter = self.filter.take().and_then(|filter| filter.finish(&self.descriptor));
        let statistics = (self.told != Told::None).then(|| B::statistics(self.bounds.as_ref(), self.nulls));
        let mut metadata = ColumnChunkMetaData::builder(self.descriptor)
            .set_unencoded_byte_array_data_bytes(value_bytes)
            .set_compression(compressor.codec())
            .set_encodings(encodings)
            .set_page_encoding_stats(self.encoding_stats)
            .set_total_compressed_size(i64::try_from(bytes.len())?)
            .set_total_uncompressed_size(i64::try_from(self.uncompressed)?)
            .set_num_values(i64::try_from(self.rows)?)
            .set_data_page_offset(i64::try_from(shift)?)
            .set_dictionary_page_offset(dictionary.map(|_| 0));
        if let Some(statistics) = statistics {
            metadata = metadata.set_statistics(statistics);
        }
        let close = ColumnCloseResult {
            bytes_written: bytes.len(),
            rows_written: self.rows,
            metadata: metadata.build()?,
            bloom_filter: filter,
            column_index,
            offset_index: Some(offset_index),
        };
        Ok(EncodedChunk { bytes, close })
    }

    fn indexes(&mut self, shift: u64) -> Result<(Option<ColumnIndexMetaData>, OffsetIndexMetaData)> {
        let mut offset_index = OffsetIndexBuilder::new();
        let rows: Vec<_> = self.offsets.iter().map(|&(_, _, row)| row).chain([i64::try_from(self.rows)?]).collect();
        for (&(offset, size, _), rows) in self.offsets.iter().zip(rows.windows(2)) {
            offset_index.append_row_count(rows[1] - rows[0]);
            offset_index.append_offset_and_size(i64::try_from(offset + shift)?, size);
        }
        for &bytes in &self.value_bytes {
            offset_index.append_unencoded_byte_array_data_bytes(Some(i64::try_from(bytes)?));
        }
        if self.unbounded || self.told != Told::Page {
            return Ok((None, offset_index.build()));
        }
        let mut index = ColumnIndexBuilder::new(self.descriptor.physical_type());
        for (bounds, nulls) in &self.page_bounds {
            let (least, greatest) = bounds.as_ref().map(B::index_bytes).unwrap_or_default();
            index.append(bounds.is_none(), least, greatest, i64::try_from(*nulls)?);
        }
        let bounded: Vec<&B> = self.page_bounds.iter().filter_map(|(bounds, _)| bounds.as_ref()).collect();
        if bounded.windows(2).all(|pair| pair[0].is_not_above(pair[1])) {
            index.set_boundary_order(BoundaryOrder::ASCENDING);
        } else if bounded.windows(2).all(|pair| pair[1].is_not_above(pair[0])) {
            index.set_boundary_order(BoundaryOrder::DESCENDING);
        }
        Ok((Some(index.build()?), offset_index.build()))
    }
}

/// The bytes of a chunk, in two pieces so that they need not be joined.
pub(crate) struct ChunkBytes {
    dictionary: Bytes,
    pages: Bytes,
}

impl Length for ChunkBytes {
    fn len(&self) -> u64 {
        (self.dictionary.len() + self.pages.len()) as u64
    }
}

impl ChunkReader for ChunkBytes {
    type T = Chain<Cursor<Bytes>, Cursor<Bytes>>;

    fn get_read(&self, start: u64) -> Result<Self::T> {
        let mut dictionary = Cursor::new(self.dictionary.clone());
        let mut pages = Cursor::new(self.pages.clone());
        dictionary.set_position(start);
        pages.set_position(start.saturating_sub(self.dictionary.len() as u64));
        Ok(dictionary.chain(pages))
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes> {
        let mut bytes = Vec::with_capacity(length);
        self.get_read(start)?.take(length as u64).read_to_end(&mut bytes)?;
        Ok(bytes.into())
    }
}
