//! A file that rows are appended to.

use std::io::Read;
use std::path::{Path, PathBuf};

use etlrs_core::{Error, ErrorKind, Result, RunContext};
use etlrs_files::{Compression, reading, text};

use crate::layout::Layout;

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
