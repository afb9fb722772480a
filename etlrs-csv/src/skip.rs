//! Where a record ends that is not taken apart, because it is malformed or too long.
//!
//! The rule. A record ends where `records.rs` says so, however long it is. One with something behind a closing quote ends
//! with the line on which that stands, whatever quotes come later in the line. A quote that is not closed shows at the end
//! of the data, so its record has all of the rest.
//!
//! So a record never begins within what may be quotes, and what follows a fault is never taken for rows that it is not; what
//! is set aside may be more than was meant, but is there to be read again. The rule also keeps cutting possible: behind a
//! line feed one is either between records or within quotes, which is what the proof in `guess.rs` rests on.

use memchr::{memchr, memchr2};

use crate::records::Dialect;

/// Goes through a record piece by piece, knowing only what the bytes to come may mean.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Skip {
    #[default]
    FieldStart,
    Unquoted,
    Quoted,
    /// Behind a quote within quotes, which closes them or is the first of two.
    Quote,
    /// Behind such a quote and a carriage return.
    Return,
    /// Behind an escape character.
    Escape {
        quoted: bool,
    },
    /// Behind an escape character and a carriage return.
    EscapedReturn {
        quoted: bool,
    },
    /// Nothing but a line feed means anything.
    ToLineEnd,
}

impl Skip {
    /// Goes on over `bytes`. `Some`: the record ends with them before this index.
    pub(crate) fn advance(&mut self, dialect: Dialect, bytes: &[u8]) -> Option<usize> {
        let mut at = 0;
        while let Some(&byte) = bytes.get(at) {
            match *self {
                Self::ToLineEnd => {
                    let offset = memchr(b'\n', &bytes[at..])?;
                    return Some(at + offset + 1);
                }
                Self::Quoted => {
                    let quote = dialect.quote.unwrap_or(b'\n');
                    at += memchr2(quote, dialect.escape.unwrap_or(quote), &bytes[at..])?;
                    *self = if bytes[at] == quote { Self::Quote } else { Self::Escape { quoted: true } };
                    at += 1;
                    continue;
                }
                // An escape character that makes nothing ordinary is ordinary, and what follows means what it does.
                Self::Escape { quoted } => {
                    if byte == b'\r' {
                        *self = Self::EscapedReturn { quoted };
                        at += 1;
                        continue;
                    }
                    *self = Self::text(quoted);
                    at += usize::from(dialect.is_special(byte));
                    continue;
                }
                Self::EscapedReturn { quoted } => {
                    *self = Self::text(quoted);
                    at += usize::from(byte == b'\n');
                    continue;
                }
                Self::Quote if Some(byte) == dialect.quote => *self = Self::Quoted,
                Self::Quote if byte == b'\r' => *self = Self::Return,
                Self::Quote if byte != dialect.delimiter && byte != b'\n' => *self = Self::ToLineEnd,
                Self::Return if byte != b'\n' => *self = Self::ToLineEnd,
                Self::FieldStart if Some(byte) == dialect.quote => *self = Self::Quoted,
                _ if byte == b'\n' => return Some(at + 1),
                _ if byte == dialect.delimiter => *self = Self::FieldStart,
                _ if Some(byte) == dialect.escape => *self = Self::Escape { quoted: false },
                _ => *self = Self::Unquoted,
            }
            at += 1;
        }
        None
    }

    fn text(quoted: bool) -> Self {
        if quoted { Self::Quoted } else { Self::Unquoted }
    }

    /// Whether the quotes are still open if the data ends here.
    pub(crate) fn is_within_quotes(self) -> bool {
        matches!(self, Self::Quoted | Self::Escape { quoted: true } | Self::EscapedReturn { quoted: true })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::records::{Malformed, Step};

    const COMMA: Dialect = Dialect { delimiter: b',', quote: Some(b'"'), escape: None, comment: None };
    const WILD: Dialect = Dialect { escape: Some(b'\\'), ..COMMA };

    #[test]
    fn a_malformed_record_ends_with_the_line_of_its_fault() {
        for (text, end) in [
            ("\"a\"b,c\nd\n", Some(7)),
            // Quotes behind the fault open nothing.
            ("\"a\"b,\"c\nd\"\n", Some(8)),
            ("\"a\nb\"c\nd\n", Some(7)),
            ("\"a\"\rb\nd\n", Some(6)),
            ("\"a\"b", None),
            ("a,\"b\nc,d\n", None),
        ] {
            assert_eq!(Skip::default().advance(COMMA, text.as_bytes()), end, "{text:?}");
        }
    }

    proptest! {
        /// The end is that which taking the record apart finds, wherever the bytes are cut.
        #[test]
        fn a_record_ends_where_it_ends_when_it_is_taken_apart(
            text in prop::collection::vec(prop::sample::select(b"ab,,\n\n\"\"\"\r\\\\".to_vec()), 1..60),
            cuts in prop::collection::vec(0usize..60, 0..4),
        ) {
            for dialect in [COMMA, WILD, Dialect::new(b',', None)] {
                // Without a line end, the end of the data is that of the record.
                let expected = match dialect.record(&text, 0, true, &mut Vec::new()) {
                    Ok(Step::Record(next) | Step::Comment(next)) => Some(next.min(text.len())),
                    Ok(Step::Incomplete) | Err((_, Malformed::Unclosed)) => None,
                    Err((fault, Malformed::AfterQuote)) => {
                        Some(memchr(b'\n', &text[fault..]).map_or(text.len(), |at| fault + at + 1))
                    }
                };
                let mut cuts: Vec<_> = cuts.iter().map(|&cut| cut.min(text.len())).chain([text.len()]).collect();
                cuts.sort_unstable();
                let (mut skip, mut from, mut found) = (Skip::default(), 0, None);
                for cut in cuts {
                    if let Some(end) = skip.advance(dialect, &text[from..cut]) {
                        found = Some(from + end);
                        break;
                    }
                    from = cut;
                }
                let is_open = found.is_none() && skip.is_within_quotes();
                let found = if is_open { None } else { found.or(Some(text.len())) };
                prop_assert_eq!(found, expected, "{:?}", String::from_utf8_lossy(&text));
            }
        }
    }
}
