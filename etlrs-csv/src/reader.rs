//! Records of a range of a file, a chunk at a time.

use std::io::Read;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use etlrs_core::{Error, ErrorKind, Result, format_bytes};
use etlrs_files::{InputFile, InputReader};

use crate::input::{Input, Purpose};
use crate::options::Ragged;
use crate::records::{Dialect, Field, Malformed, Step, narrow};

/// Bytes that are asked of an object store at a time, at the most.
const LARGEST_BLOCK: usize = 8 << 20;

/// Text and what is known of its layout. Offsets count bytes of the text, which is in UTF-8.
#[derive(Debug)]
pub(crate) struct Source {
    pub(crate) path: Box<Path>,
    pub(crate) input: Input,
    pub(crate) dialect: Dialect,
    /// Offset of the first record after the header.
    pub(crate) data_start: u64,
    /// The largest number for a stream, of which nobody knows it before its end.
    pub(crate) length: u64,
    /// Fields of every record.
    pub(crate) width: usize,
    pub(crate) ragged: Ragged,
    /// The longest record that is taken.
    pub(crate) longest: usize,
}

/// Reads whole records from `at` to `end`, two offsets between which there are only whole records.
pub(crate) struct Reader {
    source: Arc<Source>,
    bytes: Bytes,
    purpose: Purpose,
    /// Its first `filled` bytes are those of the file from `at` on.
    buffer: Vec<u8>,
    filled: usize,
    at: u64,
    end: u64,
    /// Bytes of the buffer that have been handed out.
    used: usize,
    read_size: usize,
    /// The longest record that is taken.
    limit: usize,
    /// It ends before the file does.
    is_piece: bool,
    /// Why a stream has no more bytes than those in the buffer; told when the records before are handed out.
    failed: Option<Error>,
    tally: Tally,
}

/// What the next bytes come from.
enum Bytes {
    /// Nothing has been read yet.
    Unopened,
    /// A place in a file.
    Place(InputReader),
    Stream {
        text: Box<dyn Read + Send>,
        /// Stored bytes that were read.
        taken: Arc<AtomicU64>,
    },
}

/// What a stream had before the records that were handed out last, for it cannot be read again to find a place in it.
#[derive(Default)]
struct Tally {
    lines: u64,
    records: u64,
    last: Option<Records>,
}

/// Where in the file the records of a chunk are; their bytes are `Reader::bytes`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Records {
    pub(crate) count: usize,
    /// Offset in the file of the first byte.
    pub(crate) offset: u64,
    pub(crate) length: usize,
    buffer_start: usize,
}

impl Reader {
    pub(crate) fn new(source: Arc<Source>, at: u64, end: u64, read_size: usize, limit: usize) -> Self {
        // Offsets of fields are 31 bits wide.
        let limit = limit.clamp(4 << 10, 1 << 30);
        let (read_size, is_piece) = (read_size.clamp(512, limit), end < source.length);
        let (bytes, purpose, buffer, tally) = (Bytes::Unopened, Purpose::Read, Vec::new(), Tally::default());
        Self {
            source,
            bytes,
            purpose,
            buffer,
            filled: 0,
            at,
            end,
            used: 0,
            read_size,
            limit,
            is_piece,
            failed: None,
            tally,
        }
    }

    /// All records, for a look: what can be read only once can be read after it.
    pub(crate) fn looking(source: Arc<Source>, read_size: usize, limit: usize) -> Self {
        let (start, end) = (source.data_start, source.length);
        Self { purpose: Purpose::Look, ..Self::new(source, start, end, read_size, limit) }
    }

    /// Up to `most` records whose fields are put into `fields`, offsets counted from the first byte of the records.
    /// `None` at the end of the range.
    ///
    /// # Errors
    /// What is no CSV, at its byte; its record and line are not known here.
    pub(crate) fn next(&mut self, most: usize, fields: &mut Vec<Field>) -> Result<Option<Records>> {
        loop {
            self.count_last();
            let last = self.at + self.filled as u64 >= self.end;
            let records = self.buffered(most, last, fields)?;
            if records.length > 0 {
                self.used += records.length;
                if matches!(self.bytes, Bytes::Stream { .. }) {
                    self.tally.last = Some(records);
                }
                if records.count > 0 {
                    return Ok(Some(records));
                }
                continue;
            }
            if last {
                return Ok(None);
            }
            self.fill()?;
        }
    }

    fn count_last(&mut self) {
        if let Some(records) = self.tally.last.take() {
            self.tally.lines += lines(self.bytes(records));
            self.tally.records += records.count as u64;
        }
    }

    /// The text of records that `next` gave last.
    pub(crate) fn bytes(&self, records: Records) -> &[u8] {
        &self.buffer[records.buffer_start..records.buffer_start + records.length]
    }

    /// Offset in the text behind the last record.
    pub(crate) fn position(&self) -> u64 {
        self.at + self.used as u64
    }

    /// Bytes of the file that were read, as far as it is known; to be compared with an earlier answer.
    pub(crate) fn progress(&self) -> u64 {
        match &self.bytes {
            Bytes::Stream { taken, .. } => taken.load(Ordering::Relaxed),
            _ if self.source.is_stream() => 0,
            _ => self.position(),
        }
    }

    /// Names the file, the record and the line of an error that knows its byte and came from the last records, those of
    /// `fields`, or from an attempt to read more. Reads a file up to there; a stream was counted.
    pub(crate) fn locate(&self, error: Error, fields: &[Field]) -> Error {
        if matches!(self.bytes, Bytes::Place(_)) {
            return self.source.locate(error);
        }
        let error = error.in_source(self.source.path.display());
        let Some(byte) = error.position().byte else { return error };
        let Tally { lines: lines_before, records: records_before, last } = &self.tally;
        // Bytes from the last records, or from what was to be read next, up to the place.
        let (start, at, record) = match last {
            Some(records) => {
                let starts = fields.chunks(self.source.width).filter_map(|fields| Some(fields.first()?.start() as u64));
                // A quoted field starts behind its quote.
                let not_after = starts.take_while(|&start| records.offset + start <= byte + 1).count() as u64;
                (records.buffer_start, records.offset, not_after.max(1))
            }
            None => (self.used, self.position(), 1),
        };
        let before = usize::try_from(byte.saturating_sub(at)).unwrap_or(usize::MAX).min(self.filled - start);
        let line = lines_before + lines(&self.buffer[start..start + before]) + 1;
        error.at_line(line).at_record(records_before + record)
    }

    fn buffered(&self, most: usize, last: bool, fields: &mut Vec<Field>) -> Result<Records> {
        let Source { dialect, width, .. } = *self.source;
        fields.clear();
        let offset = self.position();
        let rest = &self.buffer[self.used..self.filled];
        let mut count = 0;
        let mut at = 0;
        while count < most && at < rest.len() {
            if dialect.is_plain() {
                let (quick, next) = dialect.quick_records(rest, at, most - count, width, fields);
                count += quick;
                at = next;
                if count == most || at == rest.len() {
                    break;
                }
            }
            let before = fields.len();
            match dialect.record(rest, at, last, fields) {
                Ok(Step::Comment(next)) => at = next,
                Ok(Step::Record(next)) => {
                    let found = fields.len() - before;
                    let blank = found == 1 && !fields[before].is_quoted() && fields[before].range().is_empty();
                    if found == width || (!blank && self.mend(fields, before, next.min(rest.len()))) {
                        count += 1;
                    } else if blank {
                        fields.truncate(before);
                    } else if count > 0 {
                        // What comes before it is handed out first; the next call stops here.
                        fields.truncate(before);
                        break;
                    } else {
                        return Err(ragged(found, width).at_byte(offset + at as u64));
                    }
                    at = next;
                }
                Ok(Step::Incomplete) => {
                    fields.truncate(before);
                    break;
                }
                Err(_) if count > 0 => {
                    fields.truncate(before);
                    break;
                }
                // A whole file may end within quotes, a piece of it only if it was cut at the wrong place.
                Err((_, Malformed::Unclosed)) if self.is_piece => {
                    return Err(Error::new(
                        ErrorKind::SplitRefuted,
                        "a quoted field goes on behind the place where the file was cut",
                    ));
                }
                Err((bad, reason)) => return Err(malformed(reason).at_byte(offset + bad as u64)),
            }
        }
        Ok(Records { count, offset, length: at, buffer_start: self.used })
    }

    /// The one place where a record with another number of fields than the header is dealt with: whether it was given as
    /// many. Its fields are those from `before` on, and it ends at `end`.
    fn mend(&self, fields: &mut Vec<Field>, before: usize, end: usize) -> bool {
        let wanted = before + self.source.width;
        let beyond = fields.get(wanted..).unwrap_or_default();
        if self.source.ragged == Ragged::Fail || beyond.iter().any(|field| !field.is_empty() || field.is_quoted()) {
            return false;
        }
        fields.resize(wanted, Field::plain(narrow(end), narrow(end)));
        true
    }

    fn fill(&mut self) -> Result<()> {
        self.buffer.copy_within(self.used..self.filled, 0);
        self.at += self.used as u64;
        self.filled -= std::mem::take(&mut self.used);
        if self.filled >= self.limit {
            return Err(Error::new(
                ErrorKind::MemoryExceeded,
                format!("a record is longer than the {} that a reader may hold", format_bytes(self.limit)),
            )
            .hint("give more memory, or check the quotes")
            .at_byte(self.at));
        }
        let left = usize::try_from(self.end - self.at).unwrap_or(usize::MAX) - self.filled;
        // A long record is read in growing steps, for each step looks at it from its start.
        let wanted = self.read_size.max(self.filled).min(left).min(self.limit - self.filled);
        let until = self.filled + wanted;
        if self.buffer.len() < until {
            self.buffer.resize(until, 0);
        }
        match &mut self.bytes {
            Bytes::Unopened => self.open()?,
            Bytes::Stream { text, .. } => {
                if let Some(error) = self.failed.take() {
                    return Err(error);
                }
                let before = self.filled;
                while self.filled < until {
                    match read_some(text, &mut self.buffer[self.filled..until]) {
                        Ok(0) => {
                            self.end = self.at + self.filled as u64;
                            break;
                        }
                        Ok(bytes) => self.filled += bytes,
                        Err(error) => {
                            let error = etlrs_files::reading(&self.source.path, error);
                            let error = error.at_byte(self.at + self.filled as u64);
                            if self.filled == before {
                                return Err(error);
                            }
                            self.failed = Some(error);
                            break;
                        }
                    }
                }
            }
            Bytes::Place(file) => {
                while self.filled < until {
                    match file.read_at(&mut self.buffer[self.filled..until], self.at + self.filled as u64) {
                        Ok(0) => {
                            let message = "the file became shorter while it was read";
                            return Err(Error::new(ErrorKind::SourceChanged, message)
                                .hint("run again when nobody writes to it"));
                        }
                        Ok(bytes) => self.filled += bytes,
                        Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                        Err(error) => return Err(etlrs_files::reading(&self.source.path, error)),
                    }
                }
            }
        }
        Ok(())
    }

    /// A stream is read up to the first record.
    fn open(&mut self) -> Result<()> {
        if let Input::Plain(handle) = &self.source.input {
            // Of what a reader may hold, its buffer is the other half.
            let block = (self.limit / 4).clamp(self.read_size, LARGEST_BLOCK.max(self.read_size));
            self.bytes = Bytes::Place(handle.open()?.reader(self.at..self.end, block));
            return Ok(());
        }
        let (mut text, taken) = self.source.input.open(&self.source.path, self.purpose)?;
        let mut block = vec![0; 16 << 10];
        let mut left = self.at;
        while left > 0 {
            let wanted = usize::try_from(left).unwrap_or(block.len()).min(block.len());
            let read = read_some(&mut text, &mut block[..wanted])
                .map_err(|error| etlrs_files::reading(&self.source.path, error))?;
            if read == 0 {
                return Err(Error::new(ErrorKind::SourceChanged, "the file became shorter while it was read"));
            }
            self.tally.lines += lines(&block[..read]);
            left -= read as u64;
        }
        self.bytes = Bytes::Stream { text, taken };
        Ok(())
    }
}

fn read_some(text: &mut Box<dyn Read + Send>, buffer: &mut [u8]) -> std::io::Result<usize> {
    loop {
        match text.read(buffer) {
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            read => return read,
        }
    }
}

fn lines(bytes: &[u8]) -> u64 {
    memchr::memchr_iter(b'\n', bytes).count() as u64
}

impl Source {
    /// To be read at places.
    pub(crate) fn file(&self) -> Result<InputFile> {
        match &self.input {
            Input::Plain(handle) => handle.open(),
            Input::Stream { .. } => Err(Error::new(ErrorKind::Internal, "a stream is read at a place")),
        }
    }

    /// Whether each read is a request over a network.
    pub(crate) fn is_remote(&self) -> bool {
        matches!(&self.input, Input::Plain(handle) if handle.is_remote())
    }

    /// Whether it can only be read front to back.
    pub(crate) fn is_stream(&self) -> bool {
        matches!(self.input, Input::Stream { .. })
    }

    /// Up to `size` bytes from `start` on, for a look, and whether the text ends with them.
    pub(crate) fn window(&self, start: u64, size: usize) -> Result<(Vec<u8>, bool)> {
        let mut window = vec![0; size];
        let mut filled = 0;
        let failed = |error| etlrs_files::reading(&self.path, error);
        if let Input::Plain(handle) = &self.input {
            let file = handle.open()?;
            window.truncate(usize::try_from(self.length.saturating_sub(start)).unwrap_or(size).min(size));
            file.read_exact_at(&mut window, start).map_err(failed)?;
            let whole = start + window.len() as u64 >= self.length;
            return Ok((window, whole));
        }
        let (mut text, _) = self.input.open(&self.path, Purpose::Look)?;
        std::io::copy(&mut (&mut text).take(start), &mut std::io::sink()).map_err(failed)?;
        while filled < size {
            match read_some(&mut text, &mut window[filled..]) {
                Ok(0) => {
                    window.truncate(filled);
                    return Ok((window, true));
                }
                Ok(bytes) => filled += bytes,
                // What comes before it is shown to whoever looks; reading tells of it with its place.
                Err(_) if filled > 0 => {
                    window.truncate(filled);
                    return Ok((window, false));
                }
                Err(error) => return Err(failed(error)),
            }
        }
        Ok((window, false))
    }
    /// Names the file, the record and the line of an error that knows its byte. Reads the file up to there.
    pub(crate) fn locate(self: &Arc<Self>, error: Error) -> Error {
        let error = error.in_source(self.path.display());
        let Some(byte) = error.position().byte else { return error };
        let error = match self.line_of(byte) {
            Ok(line) => error.at_line(line),
            Err(_) => return error,
        };
        match self.record_of(byte) {
            Some(record) => error.at_record(record),
            None => error,
        }
    }

    fn line_of(&self, byte: u64) -> std::io::Result<u64> {
        let file = self.file().map_err(std::io::Error::other)?;
        let mut block = vec![0; 256 << 10];
        let (mut at, mut line) = (0, 1);
        while at < byte {
            let wanted = usize::try_from(byte - at).unwrap_or(block.len()).min(block.len());
            file.read_exact_at(&mut block[..wanted], at)?;
            line += lines(&block[..wanted]);
            at += wanted as u64;
        }
        Ok(line)
    }

    fn record_of(self: &Arc<Self>, byte: u64) -> Option<u64> {
        if byte < self.data_start {
            return None;
        }
        let mut reader = Reader::new(self.clone(), self.data_start, self.length, 256 << 10, self.longest);
        let mut fields = Vec::new();
        let mut before = 0;
        loop {
            // A record that cannot be read is the next one.
            match reader.next(4096, &mut fields) {
                Ok(Some(records)) => {
                    if reader.position() <= byte {
                        before += records.count as u64;
                        continue;
                    }
                    let starts = fields.chunks(self.width).map(|fields| records.offset + fields[0].start() as u64);
                    // A quoted field starts behind its quote.
                    let not_after = starts.take_while(|&start| start <= byte + 1).count() as u64;
                    return Some(before + not_after.max(1));
                }
                Ok(None) | Err(_) => return Some(before + 1),
            }
        }
    }
}

fn ragged(found: usize, width: usize) -> Error {
    let fields = |n: usize| if n == 1 { "1 field".to_owned() } else { format!("{n} fields") };
    let error = Error::new(ErrorKind::InvalidData, format!("{} where the header has {width}", fields(found)));
    if found < width { error.hint("the option ragged=pad takes what is missing for null") } else { error }
}

fn malformed(reason: Malformed) -> Error {
    Error::new(ErrorKind::InvalidData, reason.message())
        .hint("if quotes mean nothing in this file, set the option quote=none")
}
