//! Bloom filters of column chunks. See `BloomFilter.md` in apache/parquet-format.

use parquet::bloom_filter::Sbbf;
use parquet::file::metadata::ColumnChunkMetaData;
use parquet::file::reader::{ChunkReader, Length};

use crate::file::SourceFile;
use crate::thrift::{Broken, Compact};

/// More than a header takes.
const HEADER: usize = 64;
const BLOCK: usize = 32;
/// Bytes of a filter at the most, in the format as others write it.
const LARGEST: usize = 128 << 20;

/// The Bloom filter of `chunk`; `None` if there is none, none of at most `largest` bytes, or none that can be understood.
///
/// The parquet crate has a reader too, which believes the length in the footer; a filter that is taken for a longer one
/// denies values that are there.
pub(crate) fn read(file: &SourceFile, chunk: &ColumnChunkMetaData, largest: usize) -> Option<Sbbf> {
    let at = u64::try_from(chunk.bloom_filter_offset()?).ok()?;
    let head = usize::try_from(file.len().checked_sub(at)?).map_or(HEADER, |left| left.min(HEADER));
    let (size, length) = header(&file.get_bytes(at, head).ok()?).ok()?;
    if size > largest {
        return None;
    }
    let bits = file.get_bytes(at.checked_add(length as u64)?, size).ok()?;
    Some(Sbbf::new(&bits))
}

/// Bytes of the filter that `bytes` is the header of, and those of the header.
fn header(bytes: &[u8]) -> Result<(usize, usize), Broken> {
    let mut input = Compact::new(bytes);
    let (mut size, mut known) = (None, 0);
    input.fields(|input, id, kind| match id {
        1 => input.int32(kind).map(|bytes| size = usize::try_from(bytes).ok()),
        // Algorithm, hash and compression, of each of which there is one: split blocks, xxHash and none.
        2..=4 => input.structure(kind, |input, choice, kind| {
            known += usize::from(choice == 1);
            input.skip(kind)
        }),
        _ => input.skip(kind),
    })?;
    let size = size.filter(|size| (BLOCK..=LARGEST).contains(size) && size.is_multiple_of(BLOCK));
    match (size, known) {
        (Some(size), 3) => Ok((size, bytes.len() - input.left())),
        _ => Err(Broken::Wrong),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_of_another_kind_is_not_understood() {
        let known = [0x15, 128, 1, 0x1c, 0x1c, 0, 0, 0x1c, 0x1c, 0, 0, 0x1c, 0x1c, 0, 0, 0, 0xff];
        assert_eq!(header(&known), Ok((64, 16)));
        for (place, byte) in [(8, 0x2c), (1, 130), (1, 0)] {
            let mut other = known;
            other[place] = byte;
            assert_eq!(header(&other), Err(Broken::Wrong), "{place}");
        }
    }
}
