//! What the page headers of a column chunk claim, checked before a page is read.
//!
//! Design note. The parquet crate allocates what a page header says that the page takes, and takes the numbers of values and
//! rows for granted. All come from the file. So each header is taken apart here first, when the crate begins to read it
//! (`chunks.rs`), and the chunk is refused if its page cannot be true or cannot fit into the reader's share of memory.
//! Whoever thinks of trusting the offset index instead has to keep in mind that the crate believes the headers.
//!
//! Two encodings of texts have numbers within their pages by which the crate allocates. Such a page is unpacked once more
//! to look at them ([`Pages::check_values`]).
//!
//! What a reader holds is, for each column, its dictionary and the page that it is at, both unpacked, until it comes to the
//! next row group ([`Room`]). The share of a reader bounds a single page, and the four times as much that its worker has
//! bound them all. For writers end dictionaries and pages at 1 MiB each and may go beyond it, and `min_memory` reckons with
//! 1.25 MiB a column; a reader that is bound by its share alone would refuse ordinary files of many columns.

use std::io::Cursor;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use etlrs_core::{Error, ErrorKind, Result, format_bytes};
use parquet::basic::{Compression, Encoding, Type as PhysicalType};
use parquet::column::page::{Page, PageReader};
use parquet::file::metadata::ColumnChunkMetaData;
use parquet::file::reader::{ChunkReader, Length};
use parquet::file::serialized_reader::SerializedPageReader;
use parquet::schema::types::ColumnDescPtr;

use crate::error::reading;
use crate::file::{SourceFile, cut_short, has_encrypted_columns};
use crate::thrift::{Broken, Compact};

/// What a header is read with at first. Without statistics it takes some 30 bytes.
const FIRST_READ: usize = 128;
/// The longest header that is looked for, as in Parquet C++. Statistics in it may hold long texts.
const LONGEST_HEADER: usize = 16 << 20;
/// The same where nothing depends on it.
const LONGEST_LOOK: u64 = 64 << 10;

/// What is read of a page header. The sizes are as they were written, so they may be negative.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct PageHeader {
    unpacked: i32,
    packed: i32,
    kind: PageKind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PageKind {
    Data {
        /// That the page adds to its column, nulls among them.
        values: i32,
        /// Only headers of the second version tell it.
        rows: Option<i32>,
        /// As the format numbers them.
        encoding: i32,
    },
    Dictionary {
        values: u32,
    },
    /// Without values.
    Index,
}

/// As the format numbers them.
const DELTA_LENGTH_BYTE_ARRAY: i32 = 6;
const DELTA_BYTE_ARRAY: i32 = 7;

impl PageHeader {
    /// The header at the start of `bytes`, and its length.
    fn parse(bytes: &[u8]) -> std::result::Result<(Self, usize), Broken> {
        let mut input = Compact::new(bytes);
        let (mut kind, mut unpacked, mut packed, mut told) = (None, None, None, None);
        input.fields(|input, id, field| {
            match id {
                1 => kind = Some(input.int32(field)?),
                2 => unpacked = Some(input.int32(field)?),
                3 => packed = Some(input.int32(field)?),
                5 | 7 | 8 => {
                    let (mut values, mut rows, mut encoding) = (None, None, None);
                    input.structure(field, |input, inner, field| {
                        let told = match (id, inner) {
                            (_, 1) => &mut values,
                            (8, 3) => &mut rows,
                            (5, 2) | (8, 4) => &mut encoding,
                            _ => return input.skip(field),
                        };
                        *told = Some(input.int32(field)?);
                        Ok(())
                    })?;
                    told = Some((id, values, rows, encoding));
                }
                _ => input.skip(field)?,
            }
            Ok(())
        })?;
        let required = |value: Option<i32>| value.ok_or(Broken::Wrong);
        // Data pages of both versions have a header of their own in fields 5 and 8, dictionaries in 7. Other kinds than
        // these and index pages (1) nobody knows.
        let kind = match (required(kind)?, told) {
            (0, Some((5, Some(values), _, Some(encoding)))) => PageKind::Data { values, rows: None, encoding },
            (3, Some((8, Some(values), rows @ Some(_), Some(encoding)))) => PageKind::Data { values, rows, encoding },
            (2, Some((7, Some(values), ..))) => {
                PageKind::Dictionary { values: u32::try_from(values).map_err(|_| Broken::Wrong)? }
            }
            (1, _) => PageKind::Index,
            _ => return Err(Broken::Wrong),
        };
        let header = Self { unpacked: required(unpacked)?, packed: required(packed)?, kind };
        Ok((header, bytes.len() - input.left()))
    }
}

/// What the pages of a reader may take, and take.
#[derive(Debug)]
pub(crate) struct Room {
    /// Bytes that a reader may hold.
    share: usize,
    /// Those of the whole run, for hints.
    budget: usize,
    /// Bytes of the dictionaries and pages that are held, one of each column.
    held: AtomicU64,
}

impl Room {
    /// Of a reader that may hold `share` bytes of the `budget` of the run.
    pub(crate) fn new(share: usize, budget: usize) -> Arc<Self> {
        Arc::new(Self { share, budget, held: AtomicU64::new(0) })
    }

    /// Bytes of the pages of all columns, at the most.
    fn most(&self) -> usize {
        // See RunContext: a reader has a quarter of what its worker has.
        self.share.saturating_mul(4)
    }
}

/// The pages of a column chunk, as far as their headers have been seen.
#[derive(Debug)]
pub(crate) struct Pages {
    /// The row group, for errors.
    group: usize,
    column: String,
    descriptor: ColumnDescPtr,
    codec: Compression,
    /// Values that the footer claims.
    expected: u64,
    /// Those of the pages so far.
    values: u64,
    /// Where the header of the next page is.
    next: u64,
    end: u64,
    room: Arc<Room>,
    /// Bytes that are held of the dictionary and of the page that is being read.
    dictionary: u64,
    page: u64,
    /// The page whose values have numbers in them by which the crate allocates, until it is read.
    lists: Option<Lists>,
}

/// A page that begins with lists of lengths.
#[derive(Debug)]
struct Lists {
    /// Where it begins, behind its header.
    at: u64,
    header: Bytes,
    number: u32,
    /// Lengths that a list may have.
    values: u64,
}

impl Pages {
    /// Of `chunk`, which belongs to row group `group`.
    ///
    /// # Errors
    /// `InvalidData` if it cannot be where the footer says.
    pub(crate) fn new(group: usize, chunk: &ColumnChunkMetaData, room: Arc<Room>) -> Result<Self> {
        let column = chunk.column_path().string();
        let whole = |number: i64| {
            u64::try_from(number)
                .map_err(|_| damaged(group, "the footer claims a negative size".into()).at_column(column.as_str()))
        };
        let start = whole(chunk.dictionary_page_offset().unwrap_or_else(|| chunk.data_page_offset()))?;
        let (expected, length) = (whole(chunk.num_values())?, whole(chunk.compressed_size())?);
        Ok(Self {
            group,
            descriptor: chunk.column_descr_ptr(),
            codec: chunk.compression(),
            expected,
            values: 0,
            next: start,
            end: start.saturating_add(length),
            room,
            dictionary: 0,
            page: 0,
            lists: None,
            column,
        })
    }

    /// Where the chunk is in its file.
    pub(crate) fn range(&self) -> Range<u64> {
        self.next..self.end
    }

    /// Checks the header at `at`, unless it has been, and gives its bytes and perhaps some that follow; `read` reads as
    /// many bytes from there. Each page is begun once, in the order of the file, or skipped by its header.
    ///
    /// # Errors
    /// `InvalidData` for a header that cannot be true, `MemoryExceeded` for a page that does not fit, both naming row group
    /// and column; those of `read`.
    pub(crate) fn header(
        &mut self,
        file: &SourceFile,
        at: u64,
        read: impl FnMut(usize) -> Result<Vec<u8>>,
    ) -> Result<Vec<u8>> {
        let rest = self.end.saturating_sub(at);
        let Header { parsed, bytes } = read_header(rest, read)?;
        if at < self.next {
            return Ok(bytes);
        }
        let checked = match parsed {
            Some((header, length)) => self.check(header, bytes.get(..length).unwrap_or_default(), at, rest),
            // Bytes that follow the last page are nobody's.
            None if self.values == self.expected => Ok(()),
            None if has_encrypted_columns(file) => {
                Err(Error::new(ErrorKind::Unsupported, "the column is encrypted, which is not supported"))
            }
            None => Err(damaged(self.group, "there is no page header where one should be".into())),
        };
        checked.map_err(|error| error.at_column(&self.column))?;
        Ok(bytes)
    }

    fn check(&mut self, header: PageHeader, head: &[u8], at: u64, rest: u64) -> Result<()> {
        let (group, expected) = (self.group, self.expected);
        let damaged = |what: String| damaged(group, what);
        let size = |bytes: i32| u64::try_from(bytes).map_err(|_| damaged("a page claims a negative size".into()));
        let (packed, unpacked) = (size(header.packed)?, size(header.unpacked)?);
        let left = rest.saturating_sub(head.len() as u64);
        if packed > left {
            return Err(damaged(format!("a page claims {packed} bytes, and its column has {left} more")));
        }
        let (plain, unpacking) = match self.codec {
            // Used as it was read.
            Compression::UNCOMPRESSED => (packed, 0),
            _ => (unpacked, packed),
        };
        let lists = match header.kind {
            PageKind::Data { encoding: DELTA_LENGTH_BYTE_ARRAY, .. } => 1,
            PageKind::Data { encoding: DELTA_BYTE_ARRAY, .. } => 2,
            _ => 0,
        };
        let more = match header.kind {
            PageKind::Data { values, .. } => u64::try_from(values).ok(),
            PageKind::Dictionary { .. } | PageKind::Index => Some(0),
        };
        // A length takes four bytes, however short its list is in the page.
        let held = plain.saturating_add(more.unwrap_or(0).saturating_mul(4 * u64::from(lists)));
        if held.saturating_add(unpacking) > self.room.share as u64 {
            let what = format!("a page of row group {group} takes");
            return Err(too_large(&what, held.saturating_add(unpacking), self.room.share, &self.room));
        }
        self.values = more
            .and_then(|more| self.values.checked_add(more))
            .filter(|values| *values <= expected)
            .ok_or_else(|| damaged(format!("the pages claim more values than the {expected} of the footer")))?;
        match header.kind {
            PageKind::Dictionary { values } if self.least_plain(values) > plain => {
                return Err(damaged(format!("a dictionary claims {values} values in {plain} bytes")));
            }
            PageKind::Data { values, rows: Some(rows), .. } if !self.may_have(rows, values) => {
                return Err(damaged(format!("a page claims {rows} rows with {values} values")));
            }
            _ => {}
        }
        self.next = at.saturating_add(head.len() as u64).saturating_add(packed);
        if packed == left && self.values != expected {
            return Err(damaged(format!("the pages have {} values, and the footer claims {expected}", self.values)));
        }
        self.lists = (lists > 0).then(|| Lists {
            at: at.saturating_add(head.len() as u64),
            header: Bytes::copy_from_slice(head),
            number: lists,
            values: more.unwrap_or(0),
        });
        self.hold(header.kind, held, unpacking)
    }

    /// Bytes that so many values take in a dictionary at the least.
    fn least_plain(&self, values: u32) -> u64 {
        let values = u64::from(values);
        match self.descriptor.physical_type() {
            PhysicalType::BOOLEAN => values.div_ceil(8),
            // Texts have their length before them.
            PhysicalType::INT32 | PhysicalType::FLOAT | PhysicalType::BYTE_ARRAY => values * 4,
            PhysicalType::INT64 | PhysicalType::DOUBLE => values * 8,
            PhysicalType::INT96 => values * 12,
            PhysicalType::FIXED_LEN_BYTE_ARRAY => values * u64::try_from(self.descriptor.type_length()).unwrap_or(0),
        }
    }

    /// Whether a page with `values` values may have `rows` rows, which the crate believes where it skips the page.
    fn may_have(&self, rows: i32, values: i32) -> bool {
        if self.descriptor.max_rep_level() == 0 { rows == values } else { (0..=values).contains(&rows) }
    }

    /// Reckons with a page, which takes the place of the one before; dictionaries stay. Unpacking takes some bytes more.
    fn hold(&mut self, kind: PageKind, bytes: u64, unpacking: u64) -> Result<()> {
        match kind {
            PageKind::Data { .. } => {
                self.room.held.fetch_sub(self.page, Ordering::Relaxed);
                self.page = bytes;
            }
            PageKind::Dictionary { .. } => self.dictionary += bytes,
            PageKind::Index => return Ok(()),
        }
        let before = self.room.held.fetch_add(bytes, Ordering::Relaxed);
        let (all, most) = (before.saturating_add(bytes).saturating_add(unpacking), self.room.most());
        if all > most as u64 {
            let what = format!("the pages that are read at once, one of each column of row group {}, take", self.group);
            return Err(too_large(&what, all, most, &self.room));
        }
        Ok(())
    }

    /// Tells that nothing of the chunk is held any more.
    pub(crate) fn release(&mut self) {
        let bytes = std::mem::take(&mut self.page) + std::mem::take(&mut self.dictionary);
        self.room.held.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Checks what `body`, which was read at `at`, says itself of the number of its values, where the crate allocates by it.
    ///
    /// # Errors
    /// `InvalidData` for more than its header claims, naming row group and column.
    pub(crate) fn check_values(&mut self, at: u64, body: &Bytes) -> Result<()> {
        let Some(lists) = self.lists.take_if(|lists| lists.at == at) else { return Ok(()) };
        // What cannot be unpacked is told by the crate, which comes to it next.
        let Ok(values) = self.unpacked_values(lists.header, body.clone()) else { return Ok(()) };
        let mut rest = values.as_ref();
        for _ in 0..lists.number {
            rest = behind_lengths(rest, lists.values).map_err(|_| {
                let what = format!("the lengths in a page are not those of the {} values it claims", lists.values);
                damaged(self.group, what).at_column(&self.column)
            })?;
        }
        Ok(())
    }

    /// The values of a data page, without the levels before them.
    fn unpacked_values(&self, header: Bytes, body: Bytes) -> parquet::errors::Result<Bytes> {
        let length = i64::try_from(header.len().saturating_add(body.len()))?;
        let chunk = ColumnChunkMetaData::builder(self.descriptor.clone())
            .set_compression(self.codec)
            .set_data_page_offset(0)
            .set_total_compressed_size(length)
            .build()?;
        let mut pages = SerializedPageReader::new(Arc::new(OnePage { header, body }), &chunk, 0, None)?;
        let (rest, levels) = match pages.get_next_page()? {
            Some(Page::DataPage { buf, num_values, def_level_encoding, rep_level_encoding, .. }) => {
                let repeated = level_bytes(&buf, rep_level_encoding, self.descriptor.max_rep_level(), num_values);
                let rest = buf.slice(repeated.min(buf.len())..);
                let defined = level_bytes(&rest, def_level_encoding, self.descriptor.max_def_level(), num_values);
                (rest, defined)
            }
            Some(Page::DataPageV2 { buf, def_levels_byte_len, rep_levels_byte_len, .. }) => {
                (buf, (def_levels_byte_len as usize).saturating_add(rep_levels_byte_len as usize))
            }
            _ => (Bytes::new(), 0),
        };
        Ok(rest.slice(levels.min(rest.len())..))
    }
}

/// Bytes of the levels of `values` values up to `most`, at the start of a page of the first version.
fn level_bytes(page: &[u8], encoding: Encoding, most: i16, values: u32) -> usize {
    match (most, encoding) {
        (0, _) => 0,
        (_, Encoding::RLE) => {
            let length = page.first_chunk().map_or(0, |length| u32::from_le_bytes(*length));
            (length as usize).saturating_add(4)
        }
        _ => {
            let width = (i16::BITS - most.leading_zeros()) as usize;
            (values as usize).saturating_mul(width).div_ceil(8)
        }
    }
}

/// What is behind the integers in DELTA_BINARY_PACKED that `bytes` begin with, of which there are `most` or fewer. See
/// `Encodings.md` in apache/parquet-format.
fn behind_lengths(bytes: &[u8], most: u64) -> std::result::Result<&[u8], Broken> {
    let mut input = Compact::new(bytes);
    let (block, pieces, count, _) = (input.varint()?, input.length()?, input.varint()?, input.varint()?);
    let piece = block.checked_div(pieces as u64).filter(|_| count <= most).ok_or(Broken::Wrong)?;
    // The first is in the header.
    let mut rest = count.saturating_sub(1);
    while rest > 0 {
        input.varint()?;
        let widths = input.take(pieces)?;
        let mut bits = 0_u64;
        for &width in widths {
            // That of a piece without integers means nothing.
            if rest > 0 {
                bits = bits.saturating_add(u64::from(width).saturating_mul(piece));
            }
            rest = rest.saturating_sub(piece);
        }
        input.take(usize::try_from(bits / 8).map_err(|_| Broken::Wrong)?)?;
    }
    Ok(input.rest())
}

/// A page by itself, to be unpacked by the parquet crate.
struct OnePage {
    header: Bytes,
    body: Bytes,
}

impl Length for OnePage {
    fn len(&self) -> u64 {
        (self.header.len() + self.body.len()) as u64
    }
}

impl ChunkReader for OnePage {
    type T = Cursor<Bytes>;

    fn get_read(&self, start: u64) -> parquet::errors::Result<Self::T> {
        let mut header = Cursor::new(self.header.clone());
        header.set_position(start);
        Ok(header)
    }

    fn get_bytes(&self, _: u64, length: usize) -> parquet::errors::Result<Bytes> {
        // The header is read through `get_read`.
        Ok(self.body.slice(..length.min(self.body.len())))
    }
}

fn damaged(group: usize, what: String) -> Error {
    Error::new(ErrorKind::InvalidData, format!("the file is damaged: in row group {group}, {what}"))
}

fn too_large(what: &str, memory: u64, most: usize, room: &Room) -> Error {
    // Workers keep their number, so a share grows as the budget does.
    let needed = u128::from(memory) * room.budget as u128 / most.max(1) as u128;
    let needed = usize::try_from(needed).unwrap_or(usize::MAX).saturating_add(1).checked_next_multiple_of(1 << 20);
    let memory = format_bytes(usize::try_from(memory).unwrap_or(usize::MAX));
    let message = format!("{what} {memory}, and a reader may hold {}", format_bytes(most));
    Error::new(ErrorKind::MemoryExceeded, message)
        .hint(format!("a memory budget of {} would do, or fewer threads", format_bytes(needed.unwrap_or(usize::MAX))))
}

/// Bytes of the first data page of `chunk` as its header claims: unpacked, and while it is being unpacked.
pub(crate) fn first_page(file: &SourceFile, chunk: &ColumnChunkMetaData) -> Option<(u64, u64)> {
    let at = u64::try_from(chunk.data_page_offset()).ok()?;
    let header = read_header(file.len().checked_sub(at)?.min(LONGEST_LOOK), |length| {
        file.require(at, length).map_err(|error| reading(file.shown(), error))?;
        let mut bytes = vec![0; length];
        file.input().read_exact_at(&mut bytes, at).map_err(|error| reading(file.shown(), cut_short(error)))?;
        Ok(bytes)
    });
    let (header, _) = header.ok()?.parsed?;
    let (packed, unpacked) = (u64::try_from(header.packed).ok()?, u64::try_from(header.unpacked).ok()?);
    Some(match chunk.compression() {
        Compression::UNCOMPRESSED => (packed, packed),
        _ => (unpacked, packed.saturating_add(unpacked)),
    })
}

/// What is where a page header should be.
struct Header {
    /// It and its length, if it is one.
    parsed: Option<(PageHeader, usize)>,
    /// What was read for it.
    bytes: Vec<u8>,
}

/// A page header of at most `rest` bytes.
fn read_header(rest: u64, mut read: impl FnMut(usize) -> Result<Vec<u8>>) -> Result<Header> {
    let longest = usize::try_from(rest).unwrap_or(LONGEST_HEADER).min(LONGEST_HEADER);
    let mut length = FIRST_READ.min(longest);
    loop {
        let bytes = read(length)?;
        match PageHeader::parse(&bytes) {
            Ok(found) => return Ok(Header { parsed: Some(found), bytes }),
            Err(Broken::Short) if length < longest => length = length.saturating_mul(8).min(longest),
            Err(_) => return Ok(Header { parsed: None, bytes }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A data page with two values in 5 bytes, of 9 unpacked.
    const PAGE: [u8; 18] = [0x15, 0, 0x15, 18, 0x15, 10, 0x2c, 0x15, 4, 0x15, 0, 0x15, 6, 0x15, 6, 0, 0, 0xff];

    #[test]
    fn a_header_ends_where_it_ends() {
        let kind = PageKind::Data { values: 2, rows: None, encoding: 0 };
        let header = PageHeader { unpacked: 9, packed: 5, kind };
        assert_eq!(PageHeader::parse(&PAGE), Ok((header, 17)));
        for end in 0..17 {
            assert_eq!(PageHeader::parse(&PAGE[..end]), Err(Broken::Short), "{end}");
        }
    }

    #[test]
    fn what_is_no_header_is_told() {
        // No fields; no type; a data page without its header; a kind of page that nobody knows.
        for bytes in
            [&[0][..], &[0x25, 18, 0x15, 10, 0], &[0x15, 0, 0x15, 18, 0x15, 10, 0], &[0x15, 9, 0x15, 18, 0x15, 10, 0]]
        {
            assert_eq!(PageHeader::parse(bytes), Err(Broken::Wrong), "{bytes:?}");
        }
    }
}
