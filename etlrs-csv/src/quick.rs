//! Many records at once, 64 bytes at a time.
//!
//! Design note. Three bit masks tell where a block of 64 bytes has delimiters, line feeds and quotes. The parity of the
//! quotes so far (a prefix sum of bits) tells which of them are within quotes; the delimiters and line feeds that are not
//! end fields. This is the method of Langdale and Lemire, "Parsing Gigabytes of JSON per Second" (2019).
//!
//! Parity is right as long as quotes stand only where a field begins, where it ends, and doubled within it. That is
//! checked: a quote that opens (makes the count odd) has a delimiter, a line feed or a quote before it, and one that
//! closes has a delimiter, a line end or a quote behind it. So the first quote of a field is its first byte, the last
//! one its last, and those between them can only be pairs. A record for which this does not hold, and one that has
//! another number of fields than the others, is left to [`Dialect::record`], which knows all rules and all errors. So
//! this is a shortcut and never the judge; a property test compares the two. It knows nothing of escape characters and
//! comments, so a dialect that has them may not come here ([`Dialect::is_plain`]).
//!
//! Registers of 16 bytes are part of every x86-64 and AArch64 processor. Wider ones would have to be asked for at run time,
//! which needs `unsafe`; finding the masks takes a small part of the time of decoding, so it would hardly show.

use wide::u8x16;

use crate::records::{Dialect, Field, narrow};

impl Dialect {
    /// Appends the fields of up to `most` records with `width` fields each, from the record that starts at `start` on, and
    /// gives their number and where the next record starts. Stops early at what needs a closer look, and at the last
    /// record of the buffer if it has no line end.
    pub(crate) fn quick_records(
        self,
        buffer: &[u8],
        start: usize,
        most: usize,
        width: usize,
        fields: &mut Vec<Field>,
    ) -> (usize, usize) {
        let kept = fields.len();
        let quote = self.quote.unwrap_or(b'\n');
        let mut records = 0;
        let mut record_start = start;
        let mut field_start = narrow(start);
        let mut found = 0;
        let mut state = Quotes { inside: 0, may_open: 1, after_quote: 0, after_close: 0, doubled: false };
        let mut at = start;
        // Room for all fields and those of one block more, so that none has to ask for it.
        let most = most.min(buffer.len() / width + 1);
        fields.resize(kept + most * width + 64, Field::default());
        let mut written = kept;
        while records < most && at < buffer.len() {
            let block_start = narrow(at);
            let marks = match buffer.get(at..at + 64).and_then(|block| block.try_into().ok()) {
                Some(block) => Marks::of(block, self),
                None => Marks::of_last(&buffer[at..], self),
            };
            let Ends { mut ends, closed, doubled, mut broken } = state.advance(&marks, &buffer[at..]);
            at += 64;
            // A record with more fields than the others.
            let Some(room) = fields.get_mut(written..).and_then(|room| room.first_chunk_mut::<64>()) else { break };
            let mut filled = 0;
            loop {
                let line = ends & marks.line;
                // The delimiters before the next line end.
                let mut delimiters = ends & line.wrapping_sub(1) & !line;
                ends ^= delimiters;
                found += delimiters.count_ones() as usize;
                while delimiters != 0 {
                    let bit = delimiters.trailing_zeros();
                    delimiters &= delimiters - 1;
                    let end = block_start + bit;
                    room[filled] = Field::of(field_start, end, closed >> bit & 1 != 0);
                    filled += 1;
                    field_start = end + 1;
                }
                if line == 0 {
                    break;
                }
                let bit = line.trailing_zeros();
                ends &= ends - 1;
                let end = without_return(buffer, field_start, block_start + bit);
                room[filled] = Field::of(field_start, end, end > field_start && buffer[end as usize - 1] == quote);
                filled += 1;
                field_start = block_start + bit + 1;
                found += 1;
                if found != width {
                    broken = true;
                    break;
                }
                found = 0;
                records += 1;
                record_start = field_start as usize;
                if records == most {
                    break;
                }
            }
            if doubled {
                for field in &mut room[..filled] {
                    if field.is_quoted() && memchr::memchr(quote, &buffer[field.range()]).is_some() {
                        *field = Field::quoted(narrow(field.start()), narrow(field.end()), true);
                    }
                }
            }
            written += filled;
            if broken {
                break;
            }
        }
        fields.truncate(kept + records * width);
        (records, record_start)
    }
}

/// The end of a field at a line feed, without a carriage return before it.
#[inline]
fn without_return(buffer: &[u8], start: u32, end: u32) -> u32 {
    if end > start && buffer[end as usize - 1] == b'\r' { end - 1 } else { end }
}

/// What a block says about the next one.
struct Quotes {
    /// All bits set: it begins within quotes.
    inside: u64,
    /// Lowest bit: a quote may open where it begins.
    may_open: u64,
    /// Lowest bit: the byte before it is a quote.
    after_quote: u64,
    /// Lowest bit: the byte before it is a quote that closes.
    after_close: u64,
    /// There are doubled quotes in the field that goes on.
    doubled: bool,
}

/// Where fields of a block end.
struct Ends {
    ends: u64,
    /// Lowest bit for the first byte: a quote stands before it.
    closed: u64,
    /// Some of the fields may have doubled quotes.
    doubled: bool,
    /// These are only those before a quote that stands where none may.
    broken: bool,
}

impl Quotes {
    #[inline]
    fn advance(&mut self, marks: &Marks, block: &[u8]) -> Ends {
        let &Marks { delimiter, line, quote } = marks;
        let marked = delimiter | line | quote;
        let parity = prefix_xor(quote) ^ self.inside;
        let opens = quote & parity;
        let closes = quote & !parity;
        let strays = opens & !(marked << 1 | self.may_open);
        let behind = closes << 1 | self.after_close;
        let mut broken = strays | behind & !marked;
        if broken != 0 {
            // A closing quote may have the two bytes of a line end behind it.
            let first = broken.trailing_zeros() as usize;
            if let Some(b"\r\n") = block.get(first..first + 2)
                && strays == 0
            {
                broken = without_line_ends(broken, block);
            }
        }
        let before = if broken == 0 { u64::MAX } else { (1 << broken.trailing_zeros()) - 1 };
        let closed = quote << 1 | self.after_quote;
        let reopens = opens & closed;
        let ends = (delimiter | line) & !parity & before;
        let doubled = self.doubled || reopens != 0;
        // Compared as numbers: whether the last of the one is behind the last of the other.
        self.doubled = if ends == 0 { doubled } else { reopens > ends };
        self.inside = 0u64.wrapping_sub(parity >> 63);
        self.may_open = marked >> 63;
        self.after_quote = quote >> 63;
        self.after_close = closes >> 63;
        Ends { ends, closed, doubled, broken: broken != 0 }
    }
}

/// The bits at which `block` has no carriage return with a line feed behind it.
fn without_line_ends(mut bits: u64, block: &[u8]) -> u64 {
    let mut others = 0;
    while bits != 0 {
        let at = bits.trailing_zeros() as usize;
        if block.get(at..at + 2) != Some(b"\r\n") {
            others |= 1 << at;
        }
        bits &= bits - 1;
    }
    others
}

/// Each bit: whether the number of bits set up to and with it is odd.
#[inline]
fn prefix_xor(bits: u64) -> u64 {
    [1, 2, 4, 8, 16, 32].into_iter().fold(bits, |bits, by| bits ^ bits << by)
}

/// Where a block has the bytes that structure it.
struct Marks {
    delimiter: u64,
    line: u64,
    quote: u64,
}

impl Marks {
    #[inline]
    fn of(block: &[u8; 64], dialect: Dialect) -> Self {
        let [delimiter, line, quote] = equal(block, [dialect.delimiter, b'\n', dialect.quote.unwrap_or(b'\n')]);
        Self { delimiter, line, quote: if dialect.quote.is_some() { quote } else { 0 } }
    }

    /// Of the end of a buffer, up to 63 bytes.
    #[cold]
    fn of_last(rest: &[u8], dialect: Dialect) -> Self {
        let mut block = [0; 64];
        block[..rest.len()].copy_from_slice(rest);
        let inside = (1 << rest.len()) - 1;
        let Self { delimiter, line, quote } = Self::of(&block, dialect);
        Self { delimiter: delimiter & inside, line: line & inside, quote: quote & inside }
    }
}

/// For each of three bytes, where the block has it: the lowest bit is the first byte.
#[inline]
fn equal(block: &[u8; 64], bytes: [u8; 3]) -> [u64; 3] {
    let needles = bytes.map(u8x16::splat);
    let mut masks = [0; 3];
    for (index, part) in block.as_chunks::<16>().0.iter().enumerate() {
        let part = u8x16::new(*part);
        for (mask, needle) in masks.iter_mut().zip(needles) {
            *mask |= u64::from(part.simd_eq(needle).to_bitmask()) << (16 * index);
        }
    }
    masks
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::records::Step;

    const COMMA: Dialect = Dialect { delimiter: b',', quote: Some(b'"'), escape: None, comment: None };

    /// The records of `width` fields from the start, the plain way, up to the first that is different or has no line end.
    fn plainly(dialect: Dialect, text: &[u8], most: usize, width: usize) -> (Vec<Field>, usize) {
        let (mut all, mut at) = (Vec::new(), 0);
        while all.len() / width < most {
            let mut fields = Vec::new();
            let Ok(Step::Record(next)) = dialect.record(text, at, false, &mut fields) else { break };
            if fields.len() != width {
                break;
            }
            all.append(&mut fields);
            at = next;
        }
        (all, at)
    }

    fn check(dialect: Dialect, text: &[u8], most: usize, width: usize) -> Result<usize, TestCaseError> {
        let mut fields = Vec::new();
        let (records, next) = dialect.quick_records(text, 0, most, width, &mut fields);
        let (expected, end) = plainly(dialect, text, records, width);
        prop_assert_eq!(fields.len(), records * width);
        prop_assert!(records <= most);
        prop_assert!(fields == expected, "{:?}", String::from_utf8_lossy(text));
        prop_assert_eq!(next, end);
        Ok(records)
    }

    proptest! {
        /// What it finds is what the plain way finds, whatever the bytes.
        #[test]
        fn it_agrees_with_the_plain_way(
            text in prop::collection::vec(prop::sample::select(b"ab,,\n\n\"\"\r".to_vec()), 0..400),
            most in 1usize..60, width in 1usize..4,
        ) {
            check(COMMA, &text, most, width)?;
            check(Dialect::new(b'a', None), &text, most, width)?;
        }

        /// It finds all records of a well-formed file.
        #[test]
        fn it_finds_all_that_is_well_formed(
            records in prop::collection::vec(
                prop::collection::vec(prop_oneof!["[ab]{0,9}", "\"([ab,\n\r]|\"\"){0,9}\""], 3), 0..60),
            carriage in any::<bool>(),
        ) {
            let line = if carriage { "\r\n" } else { "\n" };
            let text: String = records.iter().map(|record| record.join(",") + line).collect();
            prop_assert_eq!(check(COMMA, text.as_bytes(), usize::MAX, 3)?, records.len());
        }
    }
}
