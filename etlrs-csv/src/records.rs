//! From bytes to records and fields.
//!
//! The format is that of RFC 4180, with line feeds alone allowed as line ends. A field that begins with a quote ends with
//! one, and quotes within it are doubled; in a field that begins with something else, a quote is a character like any
//! other. `quick.rs` takes the same records apart many bytes at a time, and `split.rs` cuts between them: whoever changes
//! the rules here has to change them there too.

use memchr::{memchr, memchr2};

/// The bytes that give a file its structure.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Dialect {
    pub(crate) delimiter: u8,
    pub(crate) quote: Option<u8>,
}

/// Where a field is in the buffer, without its quotes. Eight bytes, for there is one for each value of a chunk.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Field {
    /// With the flag `quoted` in the highest bit.
    start: u32,
    /// With the flag `escaped` in the highest bit.
    end: u32,
}

/// Buffers are bounded far below the 2 GiB that this leaves (`reader.rs`).
const FLAG: u32 = 1 << 31;

impl Field {
    #[inline]
    pub(crate) fn plain(start: u32, end: u32) -> Self {
        Self { start, end }
    }

    #[inline]
    pub(crate) fn quoted(start: u32, end: u32, escaped: bool) -> Self {
        Self { start: start | FLAG, end: if escaped { end | FLAG } else { end } }
    }

    /// A field without doubled quotes, whose quotes are at `start` and before `end` if it has some. No branch: whether a
    /// field is quoted can often not be foretold.
    #[inline]
    pub(crate) fn of(start: u32, end: u32, quoted: bool) -> Self {
        let quote = u32::from(quoted);
        Self { start: (start + quote) | quote << 31, end: end - quote }
    }

    #[inline]
    pub(crate) fn start(self) -> usize {
        (self.start & !FLAG) as usize
    }

    #[inline]
    pub(crate) fn end(self) -> usize {
        (self.end & !FLAG) as usize
    }

    #[inline]
    pub(crate) fn range(self) -> std::ops::Range<usize> {
        self.start()..self.end()
    }

    #[inline]
    pub(crate) fn is_empty(self) -> bool {
        self.start() == self.end()
    }

    #[inline]
    pub(crate) fn is_quoted(self) -> bool {
        self.start & FLAG != 0
    }

    /// Whether it holds doubled quotes.
    #[inline]
    pub(crate) fn is_escaped(self) -> bool {
        self.end & FLAG != 0
    }
}

/// Why bytes are no record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Malformed {
    /// Something other than a delimiter or line end after a closing quote.
    AfterQuote,
    /// The end of the data within quotes.
    Unclosed,
}

impl Malformed {
    pub(crate) fn message(self) -> &'static str {
        match self {
            Self::AfterQuote => {
                "the closing quote of a field is followed by something else than a delimiter or line end"
            }
            Self::Unclosed => "a quoted field is not closed before the end of the file",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// A record; the next one starts here.
    Record(usize),
    /// The buffer ends within a record.
    Incomplete,
}

impl Dialect {
    /// Reads the record that starts at `start`, and appends its fields to `fields`. `last`: the data ends with the
    /// buffer. An incomplete record may leave some fields behind. The buffer is shorter than 2 GiB.
    ///
    /// An error comes with the offset at which it shows.
    pub(crate) fn record(
        self,
        buffer: &[u8],
        start: usize,
        last: bool,
        fields: &mut Vec<Field>,
    ) -> Result<Step, (usize, Malformed)> {
        let mut at = start;
        loop {
            let field_end = match (buffer.get(at), self.quote) {
                (Some(&byte), Some(quote)) if byte == quote => match self.quoted(buffer, at, quote, last, fields)? {
                    Some(end) => end,
                    None => return Ok(Step::Incomplete),
                },
                _ => match self.unquoted(buffer, at, last, fields) {
                    Some(end) => end,
                    None => return Ok(Step::Incomplete),
                },
            };
            match buffer.get(field_end) {
                Some(&byte) if byte == self.delimiter => at = field_end + 1,
                Some(b'\r') => return Ok(Step::Record(field_end + 2)),
                Some(_) => return Ok(Step::Record(field_end + 1)),
                None => return Ok(Step::Record(field_end)),
            }
        }
    }

    /// The end of the field that starts at `at`: at a delimiter, a line end or the end of the data.
    fn unquoted(self, buffer: &[u8], at: usize, last: bool, fields: &mut Vec<Field>) -> Option<usize> {
        let rest = buffer.get(at..).unwrap_or_default();
        let mut end = match memchr2(self.delimiter, b'\n', rest) {
            Some(offset) => at + offset,
            None if last => buffer.len(),
            None => return None,
        };
        if buffer.get(end) == Some(&b'\n') && end > at && buffer[end - 1] == b'\r' {
            end -= 1;
        }
        fields.push(Field::plain(narrow(at), narrow(end)));
        Some(end)
    }

    fn quoted(
        self,
        buffer: &[u8],
        at: usize,
        quote: u8,
        last: bool,
        fields: &mut Vec<Field>,
    ) -> Result<Option<usize>, (usize, Malformed)> {
        let start = at + 1;
        let mut from = start;
        let mut escaped = false;
        loop {
            let Some(offset) = memchr(quote, &buffer[from..]) else {
                return if last { Err((at, Malformed::Unclosed)) } else { Ok(None) };
            };
            let close = from + offset;
            match (buffer.get(close + 1), buffer.get(close + 2)) {
                (Some(&next), _) if next == quote => {
                    escaped = true;
                    from = close + 2;
                    continue;
                }
                (Some(&next), _) if next == self.delimiter || next == b'\n' => {}
                (Some(b'\r'), Some(b'\n')) => {}
                (Some(b'\r'), None) | (None, _) if !last => return Ok(None),
                (None, _) => {}
                _ => return Err((close + 1, Malformed::AfterQuote)),
            }
            fields.push(Field::quoted(narrow(start), narrow(close), escaped));
            return Ok(Some(close + 1));
        }
    }
}

pub(crate) fn narrow(offset: usize) -> u32 {
    u32::try_from(offset).unwrap_or(FLAG - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMMA: Dialect = Dialect { delimiter: b',', quote: Some(b'"') };

    fn all(text: &str) -> Result<Vec<Vec<String>>, (usize, Malformed)> {
        let mut records = Vec::new();
        let mut at = 0;
        while at < text.len() {
            let mut fields = Vec::new();
            let Step::Record(next) = COMMA.record(text.as_bytes(), at, true, &mut fields)? else { unreachable!() };
            let unescape = |field: &Field| {
                let text = &text[field.range()];
                if field.is_escaped() { text.replace("\"\"", "\"") } else { text.to_owned() }
            };
            records.push(fields.iter().map(unescape).collect());
            at = next;
        }
        Ok(records)
    }

    #[test]
    fn records_and_fields() {
        for (text, expected) in [
            ("a,b\nc,d\n", vec![vec!["a", "b"], vec!["c", "d"]]),
            ("a,b\r\nc,d", vec![vec!["a", "b"], vec!["c", "d"]]),
            ("a,\n,b\n", vec![vec!["a", ""], vec!["", "b"]]),
            ("a,", vec![vec!["a", ""]]),
            ("\"a,\nb\",c\n", vec![vec!["a,\nb", "c"]]),
            ("\"a\"\"b\"\r\n\"\"\r\n", vec![vec!["a\"b"], vec![""]]),
            ("\"a\"\"\"", vec![vec!["a\""]]),
            ("a\rb,c\n", vec![vec!["a\rb", "c"]]),
            ("a\"b,c\"\n", vec![vec!["a\"b", "c\""]]),
            ("\n", vec![vec![""]]),
        ] {
            assert_eq!(all(text).unwrap(), expected, "{text:?}");
        }
    }

    #[test]
    fn what_is_no_csv_is_refused_where_it_stands() {
        for (text, at, why) in [
            ("\"a\"b,c\n", 3, Malformed::AfterQuote),
            ("a,\"b\nc", 2, Malformed::Unclosed),
            ("\"a\"\rb\n", 3, Malformed::AfterQuote),
        ] {
            assert_eq!(all(text).unwrap_err(), (at, why), "{text:?}");
        }
    }

    /// A buffer that ends anywhere gives the same record once there is more, or says that it is incomplete.
    #[test]
    fn a_buffer_may_end_anywhere() {
        for text in ["a,\"b\"\"\r\n\",c\r\nx", "\"a\"\r\nx", "a\r\nx"] {
            let mut whole = Vec::new();
            let step = COMMA.record(text.as_bytes(), 0, false, &mut whole).unwrap();
            assert_eq!(step, Step::Record(text.len() - 1), "{text:?}");
            for end in 0..text.len() {
                let mut fields = Vec::new();
                let step = COMMA.record(&text.as_bytes()[..end], 0, false, &mut fields).unwrap();
                assert_eq!(step, if end == text.len() - 1 { step } else { Step::Incomplete }, "{text:?} cut at {end}");
            }
        }
    }
}
