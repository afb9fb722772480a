//! A file that rows are appended to.

use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use etlrs_core::{Error, ErrorKind, Result, RunContext};
use etlrs_files::{Compression, InputFile, reading};

use crate::layout::Layout;
use etlrs_files::text::unpacking_memory;

/// A header ends within so many bytes.
const LONGEST_HEADER: usize = 1 << 20;
/// Bytes that are asked of an object store at a time.
const BLOCK: usize = 256 << 10;

#[derive(Debug)]
pub(crate) struct OldFile {
    file: InputFile,
    pub(crate) compression: Compression,
    /// Bytes that decompressing it takes.
    pub(crate) unpacking: usize,
    pub(crate) length: u64,
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
        let file = InputFile::open(path, cx.cancel())?;
        let mut start = Vec::new();
        file.stream(BLOCK).take(8).read_to_end(&mut start).map_err(|error| reading(path, error))?;
        let length = file.length();
        let mut old = Self {
            file,
            compression: Compression::of_start(&start),
            unpacking: 0,
            length,
            is_empty: length == 0,
            shown: path.to_owned(),
        };
        if old.is_empty {
            old.compression = layout.compression;
            return Ok(old);
        }
        match asked {
            Some(asked) if asked.name() == old.compression.name() => old.compression = asked,
            Some(asked) => {
                let is = match old.compression {
                    Compression::None => "not compressed".to_owned(),
                    compression => format!("compressed with {}", compression.name()),
                };
                let message = format!("the file is {is}, and the option compression is {}", asked.name());
                return Err(Error::new(ErrorKind::InvalidConfig, message).hint("leave the option out"));
            }
            None => {}
        }
        let packed = BufReader::new(old.file.stream(BLOCK));
        old.unpacking = unpacking_memory(old.compression, packed, cx).map_err(|error| reading(path, error))?;
        let (record, is_empty) = old.first_record(layout)?;
        old.is_empty = is_empty;
        if !is_empty {
            compare(&record, layout)?;
        }
        Ok(old)
    }

    fn read(&self) -> Result<impl Read> {
        let failed = |error| reading(&self.shown, error);
        let file = BufReader::new(self.file.stream(BLOCK));
        self.compression.decompress(file, self.unpacking).map_err(failed)
    }

    /// The fields of the first record, and whether there is nothing at all.
    fn first_record(&self, layout: &Layout) -> Result<(Vec<String>, bool)> {
        let mut input = self.read()?;
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

    /// Whether the last line has an end. A file that is compressed is read as a whole for that.
    ///
    /// # Errors
    /// An I/O error, and `InvalidData` for a compressed file that is damaged.
    pub(crate) fn ends_with_line_end(&self) -> Result<bool> {
        let failed = |error| reading(&self.shown, error);
        let mut last = [b'\n'];
        if self.compression == Compression::None {
            self.file.read_exact_at(&mut last, self.length.saturating_sub(1)).map_err(failed)?;
            return Ok(last == *b"\n");
        }
        let (mut input, mut buffer) = (self.read()?, vec![0; 64 << 10]);
        loop {
            match input.read(&mut buffer) {
                Ok(0) => return Ok(last == *b"\n"),
                Ok(read) => last = [buffer.get(read - 1).copied().unwrap_or(b'\n')],
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(failed(error)),
            }
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
