//! The page index of a column chunk, read by itself: the parquet crate reads those of all columns or none.
//!
//! Formats: `ColumnIndex` and `OffsetIndex` in `parquet.thrift` of apache/parquet-format, and its `PageIndex.md`.

use std::ops::Range;

use bytes::Bytes;
use parquet::file::metadata::ColumnChunkMetaData;
use parquet::file::reader::ChunkReader;

use super::LARGEST;
use crate::file::SourceFile;
use crate::thrift::{Broken, Compact};

/// What is known of the pages of a column chunk.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct PageIndex {
    pub(super) pages: Vec<IndexedPage>,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct IndexedPage {
    pub(super) rows: Range<u64>,
    pub(super) nulls: Option<u64>,
    /// `None` for a page of nulls, which has no bounds.
    pub(super) bounds: Option<(Bytes, Bytes)>,
}

/// The index of `chunk`, which has `rows` rows and one value in each; `None` if there is none or it cannot be right, for
/// then all pages are read.
pub(super) fn read(file: &SourceFile, chunk: &ColumnChunkMetaData, rows: u64) -> Option<PageIndex> {
    let load = |offset: Option<i64>, length: Option<i32>| {
        let length = usize::try_from(length?).ok().filter(|length| *length <= LARGEST)?;
        file.get_bytes(u64::try_from(offset?).ok()?, length).ok()
    };
    let columns = load(chunk.column_index_offset(), chunk.column_index_length())?;
    let offsets = load(chunk.offset_index_offset(), chunk.offset_index_length())?;
    parse(&columns, &offsets, rows).ok()
}

/// Pages of a column chunk at the most, of which an index is looked at: they take some ten times its bytes.
const MOST_PAGES: usize = 1 << 16;

fn push<T>(list: &mut Vec<T>, value: T) -> Result<(), Broken> {
    if list.len() == MOST_PAGES {
        return Err(Broken::Wrong);
    }
    list.push(value);
    Ok(())
}

fn parse(columns: &Bytes, offsets: &[u8], rows: u64) -> Result<PageIndex, Broken> {
    let (mut null_pages, mut least, mut greatest, mut nulls) = (Vec::new(), Vec::new(), Vec::new(), None);
    Compact::new(columns).fields(|input, id, kind| match id {
        1 => input.list(kind, |input, kind| push(&mut null_pages, input.boolean_element(kind)?)),
        2 => input.list(kind, |input, kind| push(&mut least, columns.slice_ref(input.binary(kind)?))),
        3 => input.list(kind, |input, kind| push(&mut greatest, columns.slice_ref(input.binary(kind)?))),
        5 => {
            let mut counts = Vec::new();
            input.list(kind, |input, kind| push(&mut counts, input.int(kind)?))?;
            nulls = Some(counts);
            Ok(())
        }
        _ => input.skip(kind),
    })?;
    let mut first_rows = Vec::new();
    Compact::new(offsets).fields(|input, id, kind| match id {
        1 => input.list(kind, |input, kind| {
            let mut first = None;
            input.structure(kind, |input, id, kind| match id {
                3 => input.int(kind).map(|row| first = u64::try_from(row).ok()),
                _ => input.skip(kind),
            })?;
            push(&mut first_rows, first.ok_or(Broken::Wrong)?)
        }),
        _ => input.skip(kind),
    })?;

    let pages = first_rows.len();
    let counts = [null_pages.len(), least.len(), greatest.len(), nulls.as_ref().map_or(pages, Vec::len)];
    let ends: Vec<u64> = first_rows.iter().skip(1).copied().chain([rows]).collect();
    if counts != [pages; 4]
        || first_rows.first() != Some(&0)
        || first_rows.iter().zip(&ends).any(|(row, end)| row > end)
    {
        return Err(Broken::Wrong);
    }
    let mut nulls = nulls.into_iter().flatten().map(Some).chain(std::iter::repeat(None));
    let bounds = null_pages.into_iter().zip(least.into_iter().zip(greatest));
    let pages = first_rows.into_iter().zip(ends).zip(bounds).map(|((start, end), (null, bounds))| {
        let nulls = nulls.next().flatten().map(u64::try_from).transpose().map_err(|_| Broken::Wrong)?;
        let nulls = if null { Some(end - start) } else { nulls };
        if nulls.is_some_and(|nulls| nulls > end - start) {
            return Err(Broken::Wrong);
        }
        Ok(IndexedPage { rows: start..end, nulls, bounds: (!null).then_some(bounds) })
    });
    Ok(PageIndex { pages: pages.collect::<Result<_, _>>()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two pages: bounds `a` to `b` with one null, then nulls only.
    const COLUMNS: [u8; 22] =
        [0x19, 0x21, 2, 1, 0x19, 0x28, 1, b'a', 0, 0x19, 0x28, 1, b'b', 0, 0x15, 0, 0x19, 0x26, 2, 4, 0, 0xff];
    /// They start at rows 0 and 3.
    const OFFSETS: [u8; 18] = [0x19, 0x2c, 0x16, 8, 0x15, 10, 0x16, 0, 0, 0x16, 18, 0x15, 10, 0x16, 6, 0, 0, 0xff];

    #[test]
    fn pages_are_told_with_their_rows() {
        let columns = Bytes::from_static(&COLUMNS);
        let index = parse(&columns, &OFFSETS, 5).unwrap();
        let bounds = Some((Bytes::from_static(b"a"), Bytes::from_static(b"b")));
        assert_eq!(
            index.pages,
            [
                IndexedPage { rows: 0..3, nulls: Some(1), bounds },
                IndexedPage { rows: 3..5, nulls: Some(2), bounds: None },
            ]
        );
        // Fewer rows than the second page starts at, or than it has nulls in the first.
        assert_eq!(parse(&columns, &OFFSETS, 2), Err(Broken::Wrong));
        for end in 0..21 {
            assert!(parse(&columns.slice(..end), &OFFSETS, 5).is_err(), "{end}");
        }
        for end in 0..17 {
            assert!(parse(&columns, &OFFSETS[..end], 5).is_err(), "{end}");
        }
    }
}
