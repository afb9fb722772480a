//! Many records at once, 64 bytes at a time.
//!
//! Design note. Three bit masks tell where a block of 64 bytes has delimiters, line feeds and quotes. The parity of the
//! quotes so far (a prefix sum of bits) tells which of them are within quotes; the delimiters and line feeds that are not
//! end fields. This is the method of Langdale and Lemire, "Parsing Gigabytes of JSON per Second" (2019).
//!
//! Parity is right as long as quotes stand only where a field begins, where it ends, and doubled within it. The first two
//! are checked: a quote that opens (makes the count odd) has a delimiter, a line feed or a quote before it, and a field
//! that begins with a quote ends with one. Then what lies between them can only be pairs, for a quote that opens again
//! within the field has one directly before it. A record for which this does not hold, and one that has another number of
//! fields than the others, is left to [`Dialect::record`], which knows all rules and all errors. So this is a shortcut
//! and never the judge; a property test compares the two.
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
        let mut records = 0;
        let mut record_start = start;
        let mut field_start = narrow(start);
        let mut found = 0;
        let mut state = Quotes { inside: 0, may_open: 1, after_quote: 0, doubled: false, in_record: false };
        let mut at = start;
        'blocks: while records < most && at < buffer.len() {
            let block_start = narrow(at);
            let marks = match buffer.get(at..at + 64).and_then(|block| block.try_into().ok()) {
                Some(block) => Marks::of(block, self),
                None => Marks::of_last(&buffer[at..], self),
            };
            at += 64;
            if marks.quote == 0 && state.inside == 0 && !state.in_record {
                state.passed(&marks);
                let mut ends = marks.delimiter | marks.line;
                fields.reserve(64);
                while ends != 0 {
                    let bit = ends.trailing_zeros();
                    ends &= ends - 1;
                    let end = block_start + bit;
                    found += 1;
                    if marks.line >> bit & 1 == 0 {
                        fields.push(Field::plain(field_start, end));
                        field_start = end + 1;
                        continue;
                    }
                    fields.push(Field::plain(field_start, without_return(buffer, field_start, end)));
                    field_start = end + 1;
                    if found != width {
                        break 'blocks;
                    }
                    found = 0;
                    records += 1;
                    record_start = field_start as usize;
                    if records == most {
                        break 'blocks;
                    }
                }
                continue;
            }
            let Some(quote) = self.quote else { break };
            let (mut ends, stray) = state.advance(&marks);
            let mut ended = false;
            while ends != 0 {
                let bit = ends.trailing_zeros();
                ends &= ends - 1;
                let next = block_start + bit + 1;
                let is_line = marks.line >> bit & 1 != 0;
                let end = if is_line { without_return(buffer, field_start, next - 1) } else { next - 1 };
                let text = &buffer[field_start as usize..end as usize];
                fields.push(match text {
                    [first, content @ .., last] if *first == quote && *last == quote => {
                        let escaped = state.doubled && memchr::memchr(quote, content).is_some();
                        Field::quoted(field_start + 1, end - 1, escaped)
                    }
                    [first, ..] if *first == quote => break 'blocks,
                    _ => Field::plain(field_start, end),
                });
                field_start = next;
                found += 1;
                if is_line {
                    if found != width {
                        break 'blocks;
                    }
                    found = 0;
                    records += 1;
                    record_start = field_start as usize;
                    ended = true;
                    if records == most {
                        break 'blocks;
                    }
                }
            }
            if stray {
                break;
            }
            if ended {
                // Whether the record that goes on has one of the block's quotes is not worth finding out.
                state.in_record = marks.quote != 0;
                state.doubled &= marks.quote != 0;
            } else {
                state.in_record |= marks.quote != 0;
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
    /// There were doubled quotes, maybe in the record that goes on.
    doubled: bool,
    /// There were quotes, maybe in the record that goes on.
    in_record: bool,
}

impl Quotes {
    /// Goes over a block without quotes.
    #[inline]
    fn passed(&mut self, marks: &Marks) {
        self.may_open = (marks.delimiter | marks.line) >> 63;
        self.after_quote = 0;
    }

    /// The ends of fields in the block, and whether they are only those before a quote that stands where none may.
    #[inline]
    fn advance(&mut self, marks: &Marks) -> (u64, bool) {
        let &Marks { delimiter, line, quote } = marks;
        let parity = prefix_xor(quote) ^ self.inside;
        let opens = quote & parity;
        let strays = opens & !((delimiter | line | quote) << 1 | self.may_open);
        self.doubled |= opens & (quote << 1 | self.after_quote) != 0;
        self.inside = 0u64.wrapping_sub(parity >> 63);
        self.may_open = (delimiter | line | quote) >> 63;
        self.after_quote = quote >> 63;
        let before_stray = if strays == 0 { u64::MAX } else { (1 << strays.trailing_zeros()) - 1 };
        ((delimiter | line) & !parity & before_stray, strays != 0)
    }
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

    const COMMA: Dialect = Dialect { delimiter: b',', quote: Some(b'"') };

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
            check(Dialect { delimiter: b'a', quote: None }, &text, most, width)?;
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
