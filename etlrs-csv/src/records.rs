//! From bytes to records and fields.
//!
//! The format is that of RFC 4180, with line feeds alone allowed as line ends. A field that begins with a quote ends with
//! one, and quotes within it are doubled; in a field that begins with something else, a quote is a character like any
//! other. `quick.rs` takes the same records apart many bytes at a time, and `split.rs` cuts between them: whoever changes
//! the rules here has to change them there too.
//!
//! Beyond RFC 4180 a dialect may have an escape character, which makes a delimiter, a quote, a line end or itself ordinary
//! when it stands before one, within quotes and without, and is ordinary before all else; and a character that makes a
//! line a comment when it begins one. Files with either take the plain way only.

use memchr::{memchr, memchr2, memchr3};

/// The bytes that give a file its structure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Dialect {
    pub(crate) delimiter: u8,
    pub(crate) quote: Option<u8>,
    pub(crate) escape: Option<u8>,
    pub(crate) comment: Option<u8>,
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

    /// A field without quotes that has escape characters in it.
    pub(crate) fn plain_escaped(start: u32, end: u32) -> Self {
        Self { start, end: end | FLAG }
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

    /// Whether it holds doubled quotes or escaped characters.
    #[inline]
    pub(crate) fn is_escaped(self) -> bool {
        self.end & FLAG != 0
    }
}

/// Whether a record with these fields is a blank line.
pub(crate) fn is_blank(fields: &[Field]) -> bool {
    matches!(fields, [field] if field.is_empty() && !field.is_quoted())
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
    /// A comment; what comes next starts here.
    Comment(usize),
    /// The buffer ends within a record.
    Incomplete,
}

impl Dialect {
    /// With nothing but delimiter and quote.
    pub(crate) fn new(delimiter: u8, quote: Option<u8>) -> Self {
        Self { delimiter, quote, escape: None, comment: None }
    }

    /// Whether it is of RFC 4180, so that the shortcuts know all of its rules.
    #[inline]
    pub(crate) fn is_plain(self) -> bool {
        self.escape.is_none() && self.comment.is_none()
    }

    /// Bytes from `at`, where an escape character stands, to behind what it makes ordinary; `Some(1)` if that is nothing.
    /// `None`: the buffer ends too early to tell.
    fn escaped(self, buffer: &[u8], at: usize, last: bool) -> Option<usize> {
        match (buffer.get(at + 1), buffer.get(at + 2)) {
            (None, _) if !last => None,
            (Some(b'\r'), None) if !last => None,
            (Some(b'\r'), Some(b'\n')) => Some(3),
            (Some(&byte), _) if self.is_special(byte) => Some(2),
            _ => Some(1),
        }
    }

    /// Whether an escape character changes what `byte` means.
    pub(crate) fn is_special(self, byte: u8) -> bool {
        byte == self.delimiter || byte == b'\n' || Some(byte) == self.quote || Some(byte) == self.escape
    }

    /// Copies the text of a field that is escaped, as it was meant, and gives its length. `into` is at least as long.
    pub(crate) fn unescape(self, text: &[u8], quoted: bool, into: &mut [u8]) -> usize {
        let (mut rest, mut filled) = (text, 0);
        let mut copy = |part: &[u8]| {
            into[filled..filled + part.len()].copy_from_slice(part);
            filled += part.len();
        };
        let quote = self.quote.filter(|_| quoted);
        let Some(escape) = self.escape else {
            // The reader has seen that quotes come only in pairs here.
            while let Some(at) = quote.and_then(|quote| memchr(quote, rest)) {
                copy(&rest[..=at]);
                rest = rest.get(at + 2..).unwrap_or_default();
            }
            copy(rest);
            return filled;
        };
        while let Some(at) = memchr2(escape, quote.unwrap_or(escape), rest) {
            let taken = if rest[at] == escape { self.escaped(rest, at, true).unwrap_or(1) } else { 2 };
            copy(&rest[..at]);
            let meant = if taken == 1 { at..at + 1 } else { at + 1..at + taken };
            copy(rest.get(meant).unwrap_or_default());
            rest = rest.get(at + taken..).unwrap_or_default();
        }
        copy(rest);
        filled
    }

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
        if self.comment.is_some() && self.comment == buffer.get(start).copied() {
            return Ok(match memchr(b'\n', &buffer[start..]) {
                Some(offset) => Step::Comment(start + offset + 1),
                None if last => Step::Comment(buffer.len()),
                None => Step::Incomplete,
            });
        }
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
        if let Some(escape) = self.escape {
            return self.unquoted_with_escapes(buffer, at, escape, last, fields);
        }
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

    fn unquoted_with_escapes(
        self,
        buffer: &[u8],
        at: usize,
        escape: u8,
        last: bool,
        fields: &mut Vec<Field>,
    ) -> Option<usize> {
        let mut from = at;
        let mut escaped = false;
        let mut end = loop {
            let rest = buffer.get(from..).unwrap_or_default();
            let found = match memchr3(self.delimiter, b'\n', escape, rest) {
                Some(offset) => from + offset,
                None if last => break buffer.len(),
                None => return None,
            };
            if buffer[found] != escape {
                break found;
            }
            let taken = self.escaped(buffer, found, last)?;
            escaped |= taken > 1;
            from = found + taken;
        };
        if buffer.get(end) == Some(&b'\n') && end > from && buffer[end - 1] == b'\r' {
            end -= 1;
        }
        let (start, narrow_end) = (narrow(at), narrow(end));
        fields.push(if escaped { Field::plain_escaped(start, narrow_end) } else { Field::plain(start, narrow_end) });
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
            let rest = buffer.get(from..).unwrap_or_default();
            let found = match self.escape {
                Some(escape) => memchr2(quote, escape, rest),
                None => memchr(quote, rest),
            };
            let Some(offset) = found else {
                return if last { Err((at, Malformed::Unclosed)) } else { Ok(None) };
            };
            let close = from + offset;
            if Some(buffer[close]) == self.escape {
                let Some(taken) = self.escaped(buffer, close, last) else { return Ok(None) };
                escaped |= taken > 1;
                from = close + taken;
                continue;
            }
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

    const COMMA: Dialect = Dialect { delimiter: b',', quote: Some(b'"'), escape: None, comment: None };
    const WILD: Dialect = Dialect { escape: Some(b'\\'), comment: Some(b'#'), ..COMMA };

    fn all(text: &str) -> Result<Vec<Vec<String>>, (usize, Malformed)> {
        all_in(COMMA, text)
    }

    fn all_in(dialect: Dialect, text: &str) -> Result<Vec<Vec<String>>, (usize, Malformed)> {
        let mut records = Vec::new();
        let mut at = 0;
        while at < text.len() {
            let mut fields = Vec::new();
            at = match dialect.record(text.as_bytes(), at, true, &mut fields)? {
                Step::Record(next) => next,
                Step::Comment(next) => {
                    at = next;
                    continue;
                }
                Step::Incomplete => unreachable!(),
            };
            let unescape = |field: &Field| {
                let mut into = text.as_bytes()[field.range()].to_vec();
                if field.is_escaped() {
                    let length = dialect.unescape(&into.clone(), field.is_quoted(), &mut into);
                    into.truncate(length);
                }
                String::from_utf8(into).unwrap()
            };
            records.push(fields.iter().map(unescape).collect());
        }
        Ok(records)
    }

    #[test]
    fn escapes_and_comments() {
        for (text, expected) in [
            ("#a,\"b\nc,d\n#", vec![vec!["c", "d"]]),
            ("a,#b\n", vec![vec!["a", "#b"]]),
            (r#""a\"b","c\\",d"#, vec![vec!["a\"b", "c\\", "d"]]),
            (r#""a\"#, vec![]),
            (r"a\,b,\N,\\,c\d", vec![vec!["a,b", r"\N", r"\", r"c\d"]]),
            ("a\\\nb,c\\\r\nd\r\n", vec![vec!["a\nb", "c\r\nd"]]),
            ("\"a\"\"b\",c\\", vec![vec!["a\"b", "c\\"]]),
        ] {
            match all_in(WILD, text) {
                Ok(records) => assert_eq!(records, expected, "{text:?}"),
                Err(why) => assert_eq!(why, (0, Malformed::Unclosed), "{text:?}"),
            }
        }
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
        for (dialect, text) in [
            (COMMA, "a,\"b\"\"\r\n\",c\r\nx"),
            (COMMA, "\"a\"\r\nx"),
            (COMMA, "a\r\nx"),
            (WILD, "a\\\r\nb,\"c\\\"\\\r\n\",d\\N\r\nx"),
        ] {
            let mut whole = Vec::new();
            let step = dialect.record(text.as_bytes(), 0, false, &mut whole).unwrap();
            assert_eq!(step, Step::Record(text.len() - 1), "{text:?}");
            for end in 0..text.len() {
                let mut fields = Vec::new();
                let step = dialect.record(&text.as_bytes()[..end], 0, false, &mut fields).unwrap();
                assert_eq!(step, if end == text.len() - 1 { step } else { Step::Incomplete }, "{text:?} cut at {end}");
            }
        }
    }
}
