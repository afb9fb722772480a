//! What the page headers of a column chunk claim, checked before a page is read.
//!
//! Design note. The parquet crate allocates what a page header says that the page takes, and takes the number of values for
//! granted. Both come from the file. So each header is taken apart here first, when the crate begins to read it
//! (`chunks.rs`), and the chunk is refused if its page cannot be true or cannot fit into the reader's share of memory.
//! Whoever thinks of trusting the offset index instead has to keep in mind that the crate believes the headers.

use std::ops::Range;

use etlrs_core::{Error, ErrorKind, Result, format_bytes};
use parquet::basic::Compression;
use parquet::file::metadata::ColumnChunkMetaData;

use crate::file::{SourceFile, has_encrypted_columns};
use crate::thrift::{Broken, Compact};

/// What a header is read with at first. Without statistics it takes some 30 bytes.
const FIRST_READ: usize = 128;
/// The longest header that is looked for, as in Parquet C++. Statistics in it may hold long texts.
const LONGEST_HEADER: usize = 16 << 20;

/// What is read of a page header. The sizes are as they were written, so they may be negative.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct PageHeader {
    unpacked: i32,
    packed: i32,
    /// Values, nulls among them, that the page adds to its column; 0 for a dictionary.
    values: i32,
}

impl PageHeader {
    /// The header at the start of `bytes`, and its length.
    fn parse(bytes: &[u8]) -> std::result::Result<(Self, usize), Broken> {
        let mut input = Compact::new(bytes);
        let (mut kind, mut unpacked, mut packed, mut values) = (None, None, None, None);
        input.fields(|input, id, field| {
            match id {
                1 => kind = Some(input.int32(field)?),
                2 => unpacked = Some(input.int32(field)?),
                3 => packed = Some(input.int32(field)?),
                5 | 7 | 8 => input.structure(field, |input, inner, field| match inner {
                    1 => input.int32(field).map(|count| values = Some((id, count))),
                    _ => input.skip(field),
                })?,
                _ => input.skip(field)?,
            }
            Ok(())
        })?;
        let required = |value: Option<i32>| value.ok_or(Broken::Wrong);
        // Data pages of both versions have a header of their own in fields 5 and 8. Index pages (1) have no values, a
        // dictionary's (2) are not those of the column, and of other kinds nobody knows.
        let values = match (required(kind)?, values) {
            (0, Some((5, count))) | (3, Some((8, count))) => count,
            (2, Some((7, count))) if count >= 0 => 0,
            (1, _) => 0,
            _ => return Err(Broken::Wrong),
        };
        let header = Self { unpacked: required(unpacked)?, packed: required(packed)?, values };
        Ok((header, bytes.len() - input.left()))
    }
}

/// The pages of a column chunk, as far as their headers have been seen.
#[derive(Debug)]
pub(crate) struct Pages {
    /// The row group, for errors.
    group: usize,
    column: String,
    codec: Compression,
    /// Values that the footer claims.
    expected: u64,
    /// Those of the pages so far.
    values: u64,
    /// Where the header of the next page is.
    next: u64,
    end: u64,
    /// The bytes that a page may take, packed and unpacked together.
    share: usize,
    /// Those of the whole run, for hints.
    budget: usize,
}

impl Pages {
    /// Of `chunk`, which belongs to row group `group`.
    ///
    /// # Errors
    /// `InvalidData` if it cannot be where the footer says.
    pub(crate) fn new(group: usize, chunk: &ColumnChunkMetaData, share: usize, budget: usize) -> Result<Self> {
        let column = chunk.column_path().string();
        let whole = |number: i64| {
            u64::try_from(number)
                .map_err(|_| damaged(group, "the footer claims a negative size".into()).at_column(column.as_str()))
        };
        let start = whole(chunk.dictionary_page_offset().unwrap_or_else(|| chunk.data_page_offset()))?;
        let (expected, length) = (whole(chunk.num_values())?, whole(chunk.compressed_size())?);
        let end = start.saturating_add(length);
        Ok(Self { group, codec: chunk.compression(), expected, values: 0, next: start, end, share, budget, column })
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
            Some((header, length)) => self.check(header, length, at, rest),
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

    fn check(&mut self, header: PageHeader, length: usize, at: u64, rest: u64) -> Result<()> {
        let damaged = |what: String| damaged(self.group, what);
        let size = |bytes: i32| u64::try_from(bytes).map_err(|_| damaged("a page claims a negative size".into()));
        let (packed, unpacked) = (size(header.packed)?, size(header.unpacked)?);
        let left = rest.saturating_sub(length as u64);
        if packed > left {
            return Err(damaged(format!("a page claims {packed} bytes, and its column has {left} more")));
        }
        let memory = match self.codec {
            // Used as it was read.
            Compression::UNCOMPRESSED => packed,
            _ => packed.saturating_add(unpacked),
        };
        if memory > self.share as u64 {
            return Err(too_large(self.group, memory, self.share, self.budget));
        }
        let expected = self.expected;
        self.values = u64::try_from(header.values)
            .ok()
            .and_then(|more| self.values.checked_add(more))
            .filter(|values| *values <= expected)
            .ok_or_else(|| damaged(format!("the pages claim more values than the {expected} of the footer")))?;
        self.next = at.saturating_add(length as u64).saturating_add(packed);
        if packed == left && self.values != expected {
            return Err(damaged(format!("the pages have {} values, and the footer claims {expected}", self.values)));
        }
        Ok(())
    }
}

fn damaged(group: usize, what: String) -> Error {
    Error::new(ErrorKind::InvalidData, format!("the file is damaged: in row group {group}, {what}"))
}

fn too_large(group: usize, memory: u64, share: usize, budget: usize) -> Error {
    // Workers keep their number, so a share grows as the budget does.
    let needed = u128::from(memory) * budget as u128 / share.max(1) as u128;
    let needed = usize::try_from(needed).unwrap_or(usize::MAX).saturating_add(1).checked_next_multiple_of(1 << 20);
    let (memory, share) = (format_bytes(usize::try_from(memory).unwrap_or(usize::MAX)), format_bytes(share));
    let message = format!("a page of row group {group} takes {memory}, and a reader may hold {share}");
    Error::new(ErrorKind::MemoryExceeded, message)
        .hint(format!("a memory budget of {} would do, or fewer threads", format_bytes(needed.unwrap_or(usize::MAX))))
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
        let header = PageHeader { unpacked: 9, packed: 5, values: 2 };
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
