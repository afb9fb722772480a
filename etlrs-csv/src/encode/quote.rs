//! Which text is quoted, and how.

use memchr::{memchr, memchr2, memchr3};

use super::Unfit;
use crate::Quoting;
use etlrs_files::text::Output;

/// The bytes that give a file its structure, and what stands for null.
#[derive(Clone, Debug)]
pub(crate) struct Dialect {
    pub(crate) delimiter: u8,
    pub(crate) quote: Option<u8>,
    pub(crate) null: Vec<u8>,
    pub(crate) quoting: Quoting,
    pub(crate) formula_guard: bool,
}

/// What a field that is first in its file must not begin with, for readers would take the file for something else: the
/// mark of UTF-8, Parquet, bzip2, zip.
const OTHER_FORMATS: [&[u8]; 4] = [b"\xef\xbb\xbf", b"PAR1", b"BZh", b"PK\x03\x04"];

impl Dialect {
    /// The quote that goes around every text, if one does.
    pub(super) fn around_text(&self) -> Option<u8> {
        self.quote.filter(|_| matches!(self.quoting, Quoting::All | Quoting::Text))
    }

    /// The quote that goes around every value that is no text; `temporal` ones may hold a colon or a space.
    pub(super) fn around_others(&self, temporal: bool) -> Option<u8> {
        self.quote.filter(|_| self.quoting == Quoting::All || (temporal && matches!(self.delimiter, b' ' | b':')))
    }

    /// The quote for a text that needs one.
    fn quote_if_needed(&self) -> Option<u8> {
        self.quote.filter(|_| self.quoting != Quoting::None)
    }

    /// The first byte of `text` that has a meaning in an unquoted field, but for a carriage return.
    #[inline]
    pub(super) fn find_special(&self, text: &[u8]) -> Option<usize> {
        match self.quote {
            Some(quote) => memchr3(self.delimiter, quote, b'\n', text),
            None => memchr2(self.delimiter, b'\n', text),
        }
    }

    /// Whether `text`, which is neither empty nor the null spelling, has a meaning in an unquoted field.
    #[inline]
    fn has_special(&self, text: &[u8]) -> bool {
        // Without an early end this is done in vectors, and for texts of usual length it beats looking for a place.
        let quote = self.quote.unwrap_or(self.delimiter);
        text.iter().fold(false, |found, &byte| {
            found | (byte == self.delimiter) | (byte == quote) | (byte == b'\n') | (byte == b'\r')
        })
    }

    /// Whether an unquoted field with this text would be read as null.
    #[inline(always)]
    pub(super) fn is_null(&self, text: &[u8]) -> bool {
        text.is_empty() || text == self.null
    }

    /// Appends a text as a field; `first` if it may be the first of its file.
    pub(super) fn append_text(&self, out: &mut Output, text: &[u8], first: bool) -> Result<(), Unfit> {
        let guarded = self.formula_guard && matches!(text, [b'=' | b'+' | b'-' | b'@' | b'\t' | b'\r', ..]);
        let needed = || {
            (self.is_null(text) && !guarded)
                || self.has_special(text)
                || (first && OTHER_FORMATS.iter().any(|start| text.starts_with(start)))
        };
        let quote = match self.around_text() {
            Some(quote) => quote,
            None if needed() => self.quote_if_needed().ok_or(Unfit::Quote)?,
            None => {
                if guarded {
                    out.push(b'\'');
                }
                out.extend(text);
                return Ok(());
            }
        };
        out.push(quote);
        if guarded {
            out.push(b'\'');
        }
        escape(out, text, quote);
        out.push(quote);
        Ok(())
    }

    /// Appends a text that is known to need quotes, as [`append_text`](Self::append_text) does.
    pub(super) fn append_quoted(&self, out: &mut Output, text: &[u8]) -> Result<(), Unfit> {
        let quote = self.quote_if_needed().ok_or(Unfit::Quote)?;
        out.push(quote);
        escape(out, text, quote);
        out.push(quote);
        Ok(())
    }
}

/// Appends `text` with its quotes doubled.
fn escape(out: &mut Output, mut text: &[u8], quote: u8) {
    while let Some(at) = memchr(quote, text) {
        let (before, rest) = text.split_at(at + 1);
        out.extend(before);
        out.push(quote);
        text = rest;
    }
    out.extend(text);
}
