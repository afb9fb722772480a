//! Where a file may be cut, from a look at the places alone.
//!
//! Design note. Whether a place is within quotes depends on all quotes before it. Here it is judged by what follows: a few
//! records are read from the place on, once as if it were outside of quotes and once as if it were within. The wrong
//! assumption soon shows, by a record with another number of fields, by text behind a closing quote, or by quotes in the
//! midst of a field. This follows Ge, Li, Eilebrecht, Chandramouli and Kossmann, "Speculative Distributed CSV Data Parsing
//! for Big Data Analytics" (SIGMOD 2019).
//!
//! A cut can be wrong all the same, and reading finds out: a wrong cut stands within quotes, behind a line feed. The
//! partition before it, if it begins at the start of a record, then ends within a quoted field, which its reader refuses
//! (`SplitRefuted`). By induction from the first partition, the earliest wrong cut is always refused, by a partition that
//! read nothing but whole records until then. What partitions behind it made of their bytes is never published.
//!
//! This rests on line feeds within fields being within quotes, so it is not for dialects with an escape character.

use etlrs_core::{CancelToken, Result};

use crate::reader::Source;
use crate::records::{Dialect, Field, Step};

/// Bytes that are looked at behind each place.
const WINDOW: usize = 64 << 10;
/// Places that are tried, each a little behind the one before, before guessing is given up.
const ATTEMPTS: u64 = 4;
/// Records that are read from a place; more would hardly tell more.
const RECORDS: usize = 100;

/// Offsets at which pieces of about `size` bytes end, each behind a line feed. `None`: it cannot be guessed.
pub(crate) fn cuts(source: &Source, size: u64, cancel: &CancelToken) -> Result<Option<Vec<u64>>> {
    let end = source.length;
    // Every line is a record of one field, so nothing tells where a quoted one ends.
    if source.width < 2 && source.dialect.quote.is_some() {
        return Ok(None);
    }
    let file = source.file()?;
    let mut window = Vec::with_capacity(WINDOW);
    let mut cuts = Vec::new();
    let mut target = source.data_start + size;
    'pieces: while target < end {
        cancel.check()?;
        for attempt in 0..ATTEMPTS {
            let from = target + attempt * 509;
            let Some(left) = end.checked_sub(from) else { break 'pieces };
            window.resize(usize::try_from(left).unwrap_or(WINDOW).min(WINDOW), 0);
            file.read_exact_at(&mut window, from).map_err(|error| etlrs_files::reading(&source.path, error))?;
            let Some(offset) = cut(source.dialect, &window, source.width) else { continue };
            let cut = from + offset as u64;
            if cut >= end {
                break 'pieces;
            }
            cuts.push(cut);
            target = (target + size).max(cut + 1);
            continue 'pieces;
        }
        return Ok(None);
    }
    cuts.push(end);
    Ok(Some(cuts))
}

/// Where in `window` the first record begins, if that is plain to see.
fn cut(dialect: Dialect, window: &[u8], width: usize) -> Option<usize> {
    let outside = Reading::of(dialect, window, width);
    let Some(quote) = dialect.quote else { return outside.map(|reading| reading.start) };
    let mut quoted = Vec::with_capacity(window.len() + 1);
    quoted.push(quote);
    quoted.extend_from_slice(window);
    let within = Reading::of(dialect, &quoted, width).map(|reading| Reading { start: reading.start - 1, ..reading });
    match (outside, within) {
        (Some(outside), Some(within)) if outside.start == within.start => Some(outside.start),
        // Quotes in the midst of fields are rare where they mean nothing, and many where the assumption is wrong.
        (Some(outside), Some(within)) if outside.strays != within.strays => {
            Some(if outside.strays { within.start } else { outside.start })
        }
        (Some(_), Some(_)) => None,
        (Some(reading), None) | (None, Some(reading)) => (!reading.strays).then_some(reading.start),
        (None, None) => None,
    }
}

/// What a window is under an assumption that does not contradict it.
struct Reading {
    /// Where its first record begins.
    start: usize,
    /// There are quotes in the midst of fields.
    strays: bool,
}

impl Reading {
    /// `None` also if there are not two whole records to judge by.
    fn of(dialect: Dialect, window: &[u8], width: usize) -> Option<Self> {
        let mut fields: Vec<Field> = Vec::new();
        let (mut start, mut at, mut records) = (None, 0, 0);
        while records < RECORDS && at < window.len() {
            let before = fields.len();
            match dialect.record(window, at, false, &mut fields).ok()? {
                Step::Incomplete => {
                    fields.truncate(before);
                    break;
                }
                Step::Comment(next) => at = next,
                Step::Record(next) => {
                    let blank = fields.len() == before + 1 && fields[before].range().is_empty();
                    if start.is_none() {
                        // The end of a record that began before the window.
                        start = Some(next);
                    } else if fields.len() - before == width {
                        records += 1;
                    } else if !blank {
                        return None;
                    }
                    at = next;
                }
            }
        }
        if records < 2 {
            return None;
        }
        let has_quote =
            |field: &Field| dialect.quote.is_some_and(|quote| memchr::memchr(quote, &window[field.range()]).is_some());
        let strays = fields.iter().any(|field| !field.is_quoted() && has_quote(field));
        Some(Self { start: start?, strays })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMMA: Dialect = Dialect { delimiter: b',', quote: Some(b'"'), escape: None, comment: None };

    #[test]
    fn what_follows_tells_whether_a_place_is_within_quotes() {
        for (window, expected) in [
            // No quotes: records of the right width.
            ("b,c\nd,e\nf,g\nh,", Some("b,c\n".len())),
            // A field of many lines would have as many delimiters in each only by chance.
            ("b c\nd e f\ng h\ni", None),
            // Within: as if outside, text would follow a closing quote.
            ("x\ny\",1\nb,\"c\nd\"\ne,\"f\"\n", Some("x\ny\",1\n".len())),
            ("x, y\",1\n\"c\",2\n\"d\",\"e\"\n", Some("x, y\",1\n".len())),
            // Outside, with quoted line ends behind.
            ("b,\"c\nd\"\ne,\"f\"\ng,\"h\"\n", Some("b,\"c\nd\"\n".len())),
            // Both ways the same.
            ("b\",\"c\"\n\"d\",\"e\"\n\"f\",\"g\"\n", Some("b\",\"c\"\n".len())),
            // Too little to judge by.
            ("b,c\nd,e\nf", None),
            ("", None),
        ] {
            assert_eq!(cut(COMMA, window.as_bytes(), 2), expected, "{window:?}");
        }
    }
}
