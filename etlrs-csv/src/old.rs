//! A file that rows are appended to.

use std::io::Read;
use std::path::{Path, PathBuf};

use etlrs_core::{Error, ErrorKind, Result, RunContext};
use etlrs_files::{Compression, reading, text};
use memchr::{memchr, memchr_iter, memrchr};

use crate::layout::Layout;
use crate::records::Dialect;
use crate::skip::Skip;

/// A header ends within so many bytes.
const LONGEST_HEADER: usize = 1 << 20;

#[derive(Debug)]
pub(crate) struct OldFile {
    pub(crate) file: text::OldFile,
    /// It holds nothing, not even a header.
    pub(crate) is_empty: bool,
    /// Where it may be shown: errors name it.
    shown: PathBuf,
}

impl OldFile {
    /// Looks at the start of the file at `path`.
    ///
    /// # Errors
    /// `SchemaMismatch` for a file whose columns are not those of `layout`; `InvalidConfig` for one that is compressed in
    /// another way than asked for.
    pub(crate) fn open(path: &Path, layout: &Layout, asked: Option<Compression>, cx: &RunContext) -> Result<Self> {
        Self::of(path, layout, asked, cx).map_err(|error| error.in_source(path.display()))
    }

    fn of(path: &Path, layout: &Layout, asked: Option<Compression>, cx: &RunContext) -> Result<Self> {
        let file = text::OldFile::open(path, layout.compression, asked, cx)?;
        let mut old = Self { is_empty: file.has_no_bytes(), file, shown: path.to_owned() };
        if !old.is_empty {
            let (record, is_empty) = old.first_record(layout)?;
            old.is_empty = is_empty;
            if !is_empty {
                compare(&record, layout)?;
            }
        }
        Ok(old)
    }

    /// The fields of the first record, and whether there is nothing at all.
    fn first_record(&self, layout: &Layout) -> Result<(Vec<String>, bool)> {
        let mut input = self.file.read()?;
        let mut text = Vec::new();
        let mut wanted = 64 << 10;
        loop {
            let room = wanted as u64 - text.len() as u64;
            input.by_ref().take(room).read_to_end(&mut text).map_err(|error| reading(&self.shown, error))?;
            let is_whole = text.len() < wanted;
            let without_mark = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&text);
            if let Some(record) = first_record(without_mark, is_whole, layout) {
                return Ok((record, without_mark.is_empty()));
            }
            if is_whole || wanted >= LONGEST_HEADER {
                return Err(Error::new(ErrorKind::InvalidData, "the first record of the file does not end"));
            }
            wanted *= 4;
        }
    }
}

/// Refuses a file that ends within quotes: rows behind it would be part of the value that they open. Reads all of it.
///
/// # Errors
/// `InvalidData` with the line on which that record begins; an I/O error.
pub(crate) fn require_closed_quotes(file: &text::OldFile, shown: &Path, layout: &Layout) -> Result<()> {
    let (delimiter, quote) = (layout.dialect.delimiter, layout.dialect.quote);
    let mut open = OpenRecord::new(Dialect { delimiter, quote, escape: None, comment: None });
    let mut is_start = true;
    file.blocks(|block| {
        let mark = std::mem::take(&mut is_start).then(|| block.strip_prefix(b"\xef\xbb\xbf"));
        open.go_over(mark.flatten().unwrap_or(block));
    })?;
    if !open.skip.is_within_quotes() {
        return Ok(());
    }
    let message = "rows cannot be appended: the file ends within quotes, so they would become part of that value";
    Err(Error::new(ErrorKind::InvalidData, message)
        .hint("close the quotes, or use mode replace")
        .in_source(shown.display())
        .at_line(open.begun))
}

/// The record at the end of what was gone over.
struct OpenRecord {
    dialect: Dialect,
    skip: Skip,
    /// The line on which it begins.
    begun: u64,
    /// The line at the end.
    line: u64,
}

impl OpenRecord {
    fn new(dialect: Dialect) -> Self {
        Self { dialect, skip: Skip::default(), begun: 1, line: 1 }
    }

    fn go_over(&mut self, mut block: &[u8]) {
        // Where nothing is quoted or escaped a record is a line, so only the last one matters.
        let Dialect { quote, escape, .. } = self.dialect;
        let is_plain = escape.is_none() && !self.skip.is_within_quotes();
        if let (true, Some(last)) = (is_plain, memrchr(b'\n', block))
            && quote.is_none_or(|quote| memchr(quote, block).is_none())
        {
            let (lines, rest) = block.split_at(last + 1);
            self.begin_behind(lines);
            block = rest;
        }
        while !block.is_empty() {
            match self.skip.advance(self.dialect, block) {
                Some(end) => {
                    let (record, rest) = block.split_at(end);
                    self.begin_behind(record);
                    block = rest;
                }
                None => {
                    self.line += memchr_iter(b'\n', block).count() as u64;
                    return;
                }
            }
        }
    }

    fn begin_behind(&mut self, bytes: &[u8]) {
        self.line += memchr_iter(b'\n', bytes).count() as u64;
        (self.skip, self.begun) = (Skip::default(), self.line);
    }
}

/// The fields of the first record of `text`, if it has an end there or nothing comes behind (`is_whole`).
fn first_record(text: &[u8], is_whole: bool, layout: &Layout) -> Option<Vec<String>> {
    let (delimiter, quote) = (layout.dialect.delimiter, layout.dialect.quote);
    let (mut fields, mut field) = (Vec::new(), Vec::new());
    let mut bytes = text.iter().copied().peekable();
    let (mut quoted, mut is_start) = (false, true);
    let finish = |field: &mut Vec<u8>| String::from_utf8_lossy(&std::mem::take(field)).into_owned();
    loop {
        match bytes.next() {
            None if quoted || !is_whole => return None,
            None => {
                fields.push(finish(&mut field));
                return Some(fields);
            }
            Some(byte) if quoted => match Some(byte) == quote {
                true if bytes.peek().copied() == quote => field.extend(bytes.next()),
                true => quoted = false,
                false => field.push(byte),
            },
            Some(byte) if is_start && Some(byte) == quote => (quoted, is_start) = (true, false),
            Some(byte) if byte == delimiter => {
                fields.push(finish(&mut field));
                is_start = true;
            }
            Some(b'\n') => {
                field.pop_if(|last| *last == b'\r');
                fields.push(finish(&mut field));
                return Some(fields);
            }
            Some(byte) => {
                field.push(byte);
                is_start = false;
            }
        }
    }
}

/// Compares the first record of a file that exists with the columns of the plan.
fn compare(found: &[String], layout: &Layout) -> Result<()> {
    let fields = layout.schema.fields();
    let Some(names) = first_record(&layout.header, false, layout) else {
        if found.len() == fields.len() {
            return Ok(());
        }
        let column = fields.get(found.len()).or(fields.last()).map_or("", |field| field.name());
        let (planned, found) = (fields.len(), found.len());
        let message =
            format!("rows cannot be appended: there are {planned} columns, and {found} in the file that exists");
        return Err(Error::new(ErrorKind::SchemaMismatch, message)
            .hint("use mode replace, or change the columns")
            .at_column(column));
    };
    if names == found {
        return Ok(());
    }
    // What was found is not shown, for it may be a row.
    let same = names.iter().zip(found).take_while(|(name, found)| name == found).count();
    let message = format!(
        "rows cannot be appended: the first record of the file that exists is not the planned header, from column {} on",
        same + 1
    );
    let error = Error::new(ErrorKind::SchemaMismatch, message)
        .hint("use mode replace, or change the columns; if the file has no header, set the option header=false");
    Err(match names.get(same) {
        Some(name) => error.at_column(name),
        None => error,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn blocks_tell_what_bytes_tell(
            text in "[a,\"\n\r\\\\]{0,40}",
            cuts in prop::collection::vec(0usize..40, 0..4),
            quote in prop::option::of(Just(b'"')),
            escape in prop::option::of(Just(b'\\')),
        ) {
            let dialect = Dialect { delimiter: b',', quote, escape, comment: None };
            let (mut by_bytes, mut by_blocks) = (OpenRecord::new(dialect), OpenRecord::new(dialect));
            text.as_bytes().chunks(1).for_each(|byte| by_bytes.go_over(byte));
            let mut cuts: Vec<_> = cuts.into_iter().map(|cut| cut.min(text.len())).chain([0, text.len()]).collect();
            cuts.sort_unstable();
            cuts.windows(2).for_each(|cut| by_blocks.go_over(&text.as_bytes()[cut[0]..cut[1]]));
            let seen = |open: &OpenRecord| (open.skip, open.begun, open.line);
            prop_assert_eq!(seen(&by_blocks), seen(&by_bytes));
        }
    }

    #[test]
    fn quotes_at_the_end_are_open_or_closed() {
        let dialect = Dialect { delimiter: b',', quote: Some(b'"'), escape: None, comment: None };
        for (text, open) in [
            ("a\n1\n", None),
            ("a\n\"1\n", Some(2)),
            ("a\n\"1\n\"\n", None),
            ("a\n\"x\ny\",\"\n\n", Some(2)),
            ("a\n1\"\n", None),
            ("a\n1\n\"", Some(3)),
        ] {
            let mut record = OpenRecord::new(dialect);
            record.go_over(text.as_bytes());
            assert_eq!(record.skip.is_within_quotes().then_some(record.begun), open, "{text:?}");
        }
    }
}
