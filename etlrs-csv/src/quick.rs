//! Many records at once, 64 bytes at a time.
//!
//! Design note. Three bit masks tell where a block of 64 bytes has delimiters, line feeds and quotes. The parity of the
//! quotes so far (a prefix sum of bits) tells which of them are within quotes; the delimiters and line feeds that are not
//! end fields. This is the method of Langdale and Lemire, "Parsing Gigabytes of JSON per Second" (2019).
//!
//! Fields are put down without asking which of them end lines, for that could not be foretold. Where a record is due to
//! end then has to be a line feed, and no other end may be one: two masks that have to be the same.
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
        let mut found = Whole { records: 0, next: start };
        let mut field_start = narrow(start);
        let mut state = Quotes { inside: 0, may_open: 1, after_quote: 0, after_close: 0, doubled: false };
        let mut at = start;
        // Room for all fields and those of one block more, so that none has to ask for it.
        let most = most.min(buffer.len() / width + 1);
        fields.resize(kept + most * width + 64, Field::default());
        // Fields that were found, and how many there are when the next record is whole.
        let (mut written, mut due) = (kept, kept + width);
        while found.records < most && at < buffer.len() {
            let block_start = narrow(at);
            let marks = match buffer.get(at..at + 64).and_then(|block| block.try_into().ok()) {
                Some(block) => Marks::of(block, self),
                None => Marks::of_last(&buffer[at..], self),
            };
            let Ends { ends, closed, reopens, carried, broken } = state.advance(&marks, &buffer[at..]);
            at += 64;
            // Always, for less than a record is unfinished.
            let Some(room) = fields.get_mut(written..).and_then(|room| room.first_chunk_mut::<64>()) else { break };
            let block = written;
            written += put(room, ends, closed, block_start, field_start);
            if ends != 0 {
                field_start = block_start + ends.ilog2() + 1;
            }

            // Lines have to end where records do: an end that is due may be a delimiter, which is wrong.
            let before = found;
            let mut due_ends = 0;
            while due <= written && found.records < most {
                let last = &mut fields[due - 1];
                let line_feed = last.end() + usize::from(last.is_quoted());
                if line_feed > last.start() && buffer[line_feed - 1] == b'\r' {
                    *last = self.without_return(buffer, *last);
                }
                due_ends |= 1 << (line_feed - block_start as usize);
                found = Whole { records: found.records + 1, next: line_feed + 1 };
                due += width;
            }
            let mut wrong = due_ends ^ (ends & marks.line);
            if found.records == most {
                wrong &= up_to_highest(due_ends);
            }
            if wrong != 0 {
                let whole = due_ends & ((1 << wrong.trailing_zeros()) - 1);
                let next = whole.checked_ilog2().map_or(before.next, |bit| (block_start + bit + 1) as usize);
                found = Whole { records: before.records + whole.count_ones() as usize, next };
            }
            if carried || reopens != 0 {
                mark_doubled(&mut fields[block..written], reopens, carried, block_start as usize);
            }
            if broken || wrong != 0 {
                break;
            }
        }
        fields.truncate(kept + found.records * width);
        (found.records, found.next)
    }

    /// A last field that has the carriage return of its line end, without it.
    #[inline]
    fn without_return(self, buffer: &[u8], field: Field) -> Field {
        let (start, end) = (field.start(), field.end() - 1);
        Field::of(narrow(start), narrow(end), end > start && Some(buffer[end - 1]) == self.quote)
    }
}

/// Whole records, and where the next one starts.
#[derive(Clone, Copy)]
struct Whole {
    records: usize,
    next: usize,
}

/// Puts the fields that end at `ends` into `room` and gives their number.
#[inline]
fn put(room: &mut [Field; 64], ends: u64, closed: u64, block_start: u32, field_start: u32) -> usize {
    // Most blocks have no quotes, and need not ask for each field.
    if closed & ends == 0 {
        put_with(room, ends, block_start, field_start, |start, end, _| Field::plain(start, end))
    } else {
        put_with(room, ends, block_start, field_start, |start, end, bit| Field::of(start, end, closed >> bit & 1 != 0))
    }
}

#[inline(always)]
fn put_with(
    room: &mut [Field; 64],
    mut ends: u64,
    block_start: u32,
    mut field_start: u32,
    field: impl Fn(u32, u32, u32) -> Field,
) -> usize {
    let mut count = 0;
    while ends != 0 {
        let bit = ends.trailing_zeros();
        ends &= ends - 1;
        let end = block_start + bit;
        room[count & 63] = field(field_start, end, bit);
        count += 1;
        field_start = end + 1;
    }
    count
}

/// All bits from the lowest to the highest that is set.
fn up_to_highest(bits: u64) -> u64 {
    u64::MAX.checked_shr(bits.leading_zeros()).unwrap_or(0)
}

/// Marks the fields of a block that have doubled quotes, the second of which are at `reopens`; the first field also has one
/// if it was `carried` over.
fn mark_doubled(fields: &mut [Field], mut reopens: u64, mut carried: bool, block_start: usize) {
    for field in fields {
        // Those of later fields are behind its end.
        let end = u32::try_from(field.end().saturating_sub(block_start)).unwrap_or(64);
        let within = reopens & !u64::MAX.unbounded_shl(end);
        reopens ^= within;
        if std::mem::take(&mut carried) || within != 0 {
            *field = Field::quoted(narrow(field.start()), narrow(field.end()), true);
        }
    }
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
    /// Quotes that are the second of two, within a field.
    reopens: u64,
    /// The field that began before the block has doubled quotes there.
    carried: bool,
    /// These are only those before a quote that stands where none may.
    broken: bool,
}

impl Quotes {
    #[inline]
    fn advance(&mut self, marks: &Marks, block: &[u8]) -> Ends {
        let &Marks { delimiter, line, quote } = marks;
        let marked = delimiter | line | quote;
        // Nothing is within quotes, nor behind one; after a closing one comes `after_quote` too. A field whose carriage return
        // ended the block may still have to be marked as doubled.
        if quote | self.inside | self.after_quote == 0 && !self.doubled {
            self.may_open = marked >> 63;
            return Ends { ends: marked, closed: 0, reopens: 0, carried: false, broken: false };
        }
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
        let carried = self.doubled;
        // Compared as numbers: whether the last of the one is behind the last of the other.
        self.doubled = if ends == 0 { carried || reopens != 0 } else { reopens > ends };
        self.inside = 0u64.wrapping_sub(parity >> 63);
        self.may_open = marked >> 63;
        self.after_quote = quote >> 63;
        self.after_close = closes >> 63;
        Ends { ends, closed, reopens, carried, broken: broken != 0 }
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

    /// The records of `width` fields from `start` on, the plain way, up to the first that is different or has no line end.
    fn plainly(dialect: Dialect, text: &[u8], start: usize, most: usize, width: usize) -> (Vec<Field>, usize) {
        let (mut all, mut at) = (Vec::new(), start);
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

    /// Of a buffer that has `before` in front of `text`, with `kept` fields that are there already.
    fn check(
        dialect: Dialect,
        (before, kept): (&[u8], usize),
        text: &[u8],
        most: usize,
        width: usize,
    ) -> Result<usize, TestCaseError> {
        let buffer = [before, text].concat();
        let earlier = vec![Field::quoted(7, 8, true); kept];
        let mut fields = earlier.clone();
        let (records, next) = dialect.quick_records(&buffer, before.len(), most, width, &mut fields);
        let (found, end) = plainly(dialect, &buffer, before.len(), records, width);
        let expected = [earlier, found].concat();
        prop_assert_eq!(fields.len(), kept + records * width);
        prop_assert!(records <= most);
        prop_assert!(fields == expected, "{:?}", String::from_utf8_lossy(&buffer));
        prop_assert_eq!(next, end);
        Ok(records)
    }

    /// What comes before the records in their buffer, and the number of fields that are there already.
    fn before() -> impl Strategy<Value = (Vec<u8>, usize)> {
        (prop::collection::vec(prop::sample::select(b"a,\n\"\r".to_vec()), 0..150), 0usize..150)
    }

    proptest! {
        /// What it finds is what the plain way finds, whatever the bytes.
        #[test]
        fn it_agrees_with_the_plain_way(
            text in prop::collection::vec(prop::sample::select(b"ab,,\n\n\"\"\r".to_vec()), 0..400),
            most in 1usize..60, width in 1usize..4, (before, kept) in before(),
        ) {
            check(COMMA, (&before, kept), &text, most, width)?;
            check(Dialect::new(b'a', None), (&before, kept), &text, most, width)?;
        }

        /// It finds all records of a well-formed file.
        #[test]
        fn it_finds_all_that_is_well_formed(
            records in prop::collection::vec(
                prop::collection::vec(
                    prop_oneof!["[ab]{0,9}", "\"([ab,\n\r]|\"\"){0,9}\"", "\"\"\"[ab]{50,140}\""], 3), 0..60),
            carriage in any::<bool>(), most in 1usize..80, (before, kept) in before(),
        ) {
            let line = if carriage { "\r\n" } else { "\n" };
            let text: String = records.iter().map(|record| record.join(",") + line).collect();
            prop_assert_eq!(check(COMMA, (&before, kept), text.as_bytes(), most, 3)?, records.len().min(most));
        }
    }
}
