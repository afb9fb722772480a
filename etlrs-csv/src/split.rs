//! Where a file may be cut.
//!
//! A line feed ends a record unless it stands within quotes. As long as quotes stand only where a field begins, where it
//! ends, and doubled within it, a place is within quotes if the number of quotes before it is odd; so one pass that counts
//! quotes finds the cuts, without taking records apart. A quote anywhere else is a character of an unquoted field. It
//! shows: the count before it is even, and the byte before it is no delimiter, no line feed and no quote. The first such
//! quote ends the counting, and the file is gone through record by record instead, which is right for every file.
//!
//! Why the counting is right up to the first such quote: with an even count the next quote, if it follows a delimiter or
//! a line feed, begins a field; if it follows a quote, that one had made the count even, so both are a doubled quote
//! within a field. With an odd count the next quote ends the field or is the first of two.
//!
//! With an escape character or comments, quotes mean nothing in some places, so such files are gone through record by
//! record too.
//!
//! Without a quote character nothing is read but the bytes after each cut. `guess.rs` has a cheaper way for those who can
//! begin again.
//!
//! Where malformed records are set aside (`skip.rs`), the parity of quotes means nothing behind one. Guessing finds out when
//! it was wrong, as ever; where it may not be, the file is gone through record by record.

use std::sync::Arc;

use etlrs_core::{CancelToken, Error, Result};
use etlrs_files::InputFile;

use crate::reader::{Found, Reader, Source};

const BLOCK: usize = 1 << 20;

/// Offsets at which pieces end: about `pieces` of equal size, each at the end of a record. The last is the end of the
/// file. Pieces that would be empty are left out.
///
/// With `guess` a cut may be wrong; then reading the piece before it says so.
pub(crate) fn split(source: &Arc<Source>, pieces: u64, guess: bool, cancel: &CancelToken) -> Result<Vec<u64>> {
    let (start, end) = (source.data_start, source.length);
    let size = end.saturating_sub(start).div_ceil(pieces.max(1)).max(1);
    if size >= end.saturating_sub(start) {
        return Ok(vec![end]);
    }
    if !source.dialect.is_plain() {
        return by_records(source, size, cancel);
    }
    if guess && let Some(cuts) = crate::guess::cuts(source, size, cancel)? {
        return Ok(cuts);
    }
    if source.keeps_bad {
        // Counting does not know where a malformed record ends.
        return by_records(source, size, cancel);
    }
    match Counting::new(source, cancel)?.cuts(size)? {
        Some(cuts) => Ok(cuts),
        None => by_records(source, size, cancel),
    }
}

/// The plain way. A record that cannot be read ends the cutting: whoever reads the last piece says what is wrong with it.
/// Where such records are set aside, there are cuts behind them too.
fn by_records(source: &Arc<Source>, size: u64, cancel: &CancelToken) -> Result<Vec<u64>> {
    /// Many at once cost less, and do not miss a cut by much.
    const AT_ONCE: usize = 1000;
    let (start, end) = (source.data_start, source.length);
    let mut reader = Reader::new(source.clone(), start, end, 256 << 10, source.longest).keeping_bad(source.keeps_bad);
    let mut fields = Vec::new();
    let mut cuts = Vec::new();
    let mut target = start + size;
    loop {
        let most = if reader.position() + BLOCK as u64 <= target { AT_ONCE } else { 1 };
        match reader.next(most, &mut fields) {
            Ok(Found::Records(_) | Found::Bad(_)) => {}
            Ok(Found::End) | Err(_) => break,
        }
        cancel.check()?;
        if reader.position() > target && reader.position() < end && !reader.is_within_record() {
            cuts.push(reader.position());
            target = (target + size).max(reader.position() + 1);
        }
    }
    cuts.push(end);
    Ok(cuts)
}

/// A place in the file, and whether it is within quotes.
struct Counting<'a> {
    source: &'a Source,
    file: InputFile,
    cancel: &'a CancelToken,
    at: u64,
    odd: bool,
    previous: u8,
    /// A quote stands within an unquoted field.
    stray: bool,
    block: Vec<u8>,
}

impl<'a> Counting<'a> {
    fn new(source: &'a Source, cancel: &'a CancelToken) -> Result<Self> {
        let (at, block) = (source.data_start, Vec::new());
        Ok(Self { source, file: source.file()?, cancel, at, odd: false, previous: b'\n', stray: false, block })
    }

    /// `None`: a stray quote was found.
    fn cuts(mut self, size: u64) -> Result<Option<Vec<u64>>> {
        let end = self.source.length;
        let mut cuts = Vec::new();
        let mut target = self.at + size;
        while target < end {
            self.skip_to(target)?;
            let cut = self.skip_record()?;
            if self.stray {
                return Ok(None);
            }
            if cut >= end {
                break;
            }
            cuts.push(cut);
            target = (target + size).max(cut + 1);
        }
        cuts.push(end);
        Ok(Some(cuts))
    }

    fn skip_to(&mut self, target: u64) -> Result<()> {
        let Some(quote) = self.source.dialect.quote else {
            self.at = target;
            return Ok(());
        };
        while self.at < target && !self.stray {
            let wanted = usize::try_from(target - self.at).unwrap_or(BLOCK).min(BLOCK);
            self.fill(wanted)?;
            let block = std::mem::take(&mut self.block);
            for offset in memchr::memchr_iter(quote, &block) {
                self.quote_at(offset.checked_sub(1).map_or(self.previous, |before| block[before]));
            }
            self.previous = *block.last().unwrap_or(&self.previous);
            self.at += block.len() as u64;
            self.block = block;
        }
        Ok(())
    }

    /// Goes behind the next line feed that is not within quotes, or to the end.
    fn skip_record(&mut self) -> Result<u64> {
        let end = self.source.length;
        while self.at < end && !self.stray {
            let wanted = usize::try_from(end - self.at).unwrap_or(BLOCK).min(64 << 10);
            self.fill(wanted)?;
            let block = std::mem::take(&mut self.block);
            for (offset, &byte) in block.iter().enumerate() {
                if Some(byte) == self.source.dialect.quote {
                    self.quote_at(self.previous);
                }
                self.previous = byte;
                if byte == b'\n' && !self.odd {
                    self.at += offset as u64 + 1;
                    return Ok(self.at);
                }
            }
            self.at += block.len() as u64;
            self.block = block;
        }
        Ok(end)
    }

    fn quote_at(&mut self, previous: u8) {
        let dialect = self.source.dialect;
        let begins_or_doubles = previous == dialect.delimiter || previous == b'\n' || Some(previous) == dialect.quote;
        self.stray |= !self.odd && !begins_or_doubles;
        self.odd = !self.odd;
    }

    fn fill(&mut self, wanted: usize) -> Result<()> {
        self.cancel.check()?;
        self.block.resize(wanted, 0);
        let read = self.file.read_exact_at(&mut self.block, self.at);
        read.map_err(|error| Error::io("read", &self.source.path, error))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::path::Path;

    use proptest::prelude::*;

    use super::*;
    use crate::options::Ragged;
    use crate::records::Dialect;
    use etlrs_files::text::{Handle, Input};

    fn source(text: &[u8], width: usize) -> Arc<Source> {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(text).unwrap();
        let cancel = CancelToken::new();
        let file = InputFile::open(file.path(), &cancel).unwrap();
        let dialect = Dialect::new(b',', Some(b'"'));
        let (path, length) = (Path::new("x"), text.len() as u64);
        let input = Input::Plain(Handle { path: path.into(), held: Some(file), cancel });
        let (ragged, longest) = (Ragged::Fail, 1 << 20);
        let (path, data_start, keeps_bad) = (path.into(), 0, false);
        Arc::new(Source { path, input, dialect, data_start, length, width, ragged, longest, keeps_bad })
    }

    fn cuts(text: &[u8], width: usize, pieces: u64) -> Vec<u64> {
        split(&source(text, width), pieces, false, &CancelToken::new()).unwrap()
    }

    #[test]
    fn cuts_are_at_the_ends_of_records() {
        assert_eq!(cuts(b"a,b\nc,d\ne,f\n", 2, 3), [8, 12]);
        assert_eq!(cuts(b"a\nb\nc\nd\n", 1, 100), [2, 4, 6, 8]);
        assert_eq!(cuts(b"", 1, 4), [0]);
        assert_eq!(cuts(b"no line end", 1, 4), [11]);
    }

    #[test]
    fn line_ends_within_quotes_are_no_cuts() {
        let text = b"a,\"1\n2\n3\n4\n5\n6\n\"\nb,\"x\"\"\ny\"\n";
        for pieces in 1..40 {
            for cut in cuts(text, 2, pieces) {
                assert!([17, 27].contains(&cut), "{pieces} pieces: {cut}");
            }
        }
    }

    #[test]
    fn a_stray_quote_makes_no_wrong_cut() {
        let text = b"5\" pipe\n\"x\ny\"\n6\" pipe\n7\n";
        for pieces in 1..40 {
            for cut in cuts(text, 1, pieces) {
                assert!([8, 14, 22, 24].contains(&cut), "{pieces} pieces: {cut}");
            }
        }
    }

    proptest! {
        /// The short cut against the plain way.
        #[test]
        fn counting_cuts_where_records_end(
            records in prop::collection::vec(
                prop_oneof!["[a-c]{0,4}", "\"[a\n,]{0,4}(\"\")?[b\n]{0,2}\"", "[ab]\"[ab\"]{0,3}"], 0..30),
            size in 1u64..60,
        ) {
            let text: String = records.iter().flat_map(|record| [record.as_str(), "\n"]).collect();
            let source = source(text.as_bytes(), 1);
            prop_assume!(source.length > size);
            let cancel = CancelToken::new();
            let plain = by_records(&source, size, &cancel).unwrap();
            if let Some(cuts) = Counting::new(&source, &cancel).unwrap().cuts(size).unwrap() {
                prop_assert_eq!(cuts, plain);
            } else {
                prop_assert!(records.iter().any(|record| !record.starts_with('"') && record.contains('"')));
            }
        }
    }
}
