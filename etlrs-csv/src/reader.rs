//! Records of a range of a file, a chunk at a time.

use std::io::Read;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use etlrs_core::{CancelToken, Error, ErrorKind, Result, format_bytes};
use etlrs_files::{InputFile, InputReader, Mapping, shortened};

use crate::options::Ragged;
use crate::records::{Dialect, Field, Malformed, Step, is_blank, narrow};
use crate::skip::Skip;
use etlrs_files::text::{Input, Purpose};

/// A record that is too long comes in parts of so many bytes.
const PART: usize = 64 << 10;

/// Bytes that are asked of an object store at a time, at the most.
const LARGEST_BLOCK: usize = 8 << 20;
/// Bytes in which lines are counted at a time, and the same of an object store.
const COUNTED: usize = 256 << 10;
const COUNTED_REMOTE: usize = 1 << 20;

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
    /// Records that are malformed or too long will be set aside, so it is cut between what they are.
    pub(crate) keeps_bad: bool,
}

/// Reads whole records from `at` to `end`, two offsets between which there are only whole records.
pub(crate) struct Reader {
    source: Arc<Source>,
    start: u64,
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
    /// Whoever reads is given what is malformed, and goes on behind it.
    keeps_bad: bool,
    /// The file is mapped, if it can be.
    is_mapped: bool,
    /// The record that is being given in parts.
    long: Option<Long>,
    /// Records to be looked for at once. Few behind a bad one and then more and more, for making room for many costs
    /// something, which would be lost if the next one is bad too.
    at_once: usize,
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
    /// A file in memory, from the start of what is read on. The buffer is a window of it that moves.
    Mapped(Mapping),
    Stream {
        text: Box<dyn Read + Send>,
        /// Stored bytes that were read.
        taken: Arc<AtomicU64>,
    },
}

/// What there was before the records that were handed out last.
#[derive(Default)]
struct Tally {
    /// Lines are counted from the start for a stream, which cannot be read again to find a place in it, and from when they
    /// are first asked for in a file.
    counts_lines: bool,
    lines: u64,
    records: u64,
    last: Option<Records>,
}

/// What is next.
pub(crate) enum Found {
    Records(Records),
    /// Only for a reader that keeps what is bad.
    Bad(Bad),
    End,
}

/// A record that is malformed or too long, or a part of it.
pub(crate) struct Bad {
    /// What is wrong, at its byte; of later parts, that they go on.
    pub(crate) error: Error,
    /// From 0.
    pub(crate) part: u32,
    /// Its number, counted from 1 in what this reader reads.
    pub(crate) record: u64,
    pub(crate) bytes: Records,
}

/// The rest of a record that is given in parts.
struct Long {
    skip: Skip,
    part: u32,
    /// What is wrong with it, for its first part.
    error: Option<Error>,
    /// It is a comment, which nobody wants.
    comment: bool,
}

/// Why there are no records.
enum Stop {
    Failed(Error),
    /// The next record is none. It ends here, if that is known.
    Bad(Error, Option<usize>),
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
        let (bytes, purpose, buffer) = (Bytes::Unopened, Purpose::Read, Vec::new());
        let tally = Tally { counts_lines: source.is_stream(), ..Tally::default() };
        Self {
            source,
            start: at,
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
            keeps_bad: false,
            is_mapped: false,
            long: None,
            at_once: usize::MAX,
            failed: None,
            tally,
        }
    }

    /// Gives what is malformed or too long, instead of failing by it.
    pub(crate) fn keeping_bad(mut self, keeps: bool) -> Self {
        self.keeps_bad = keeps;
        self
    }

    /// Maps the file into memory, if it can be.
    pub(crate) fn mapped(mut self, mapped: bool) -> Self {
        self.is_mapped = mapped;
        self
    }

    /// What is in the buffer.
    fn held(&self) -> &[u8] {
        match &self.bytes {
            Bytes::Mapped(mapping) => {
                let window = usize::try_from(self.at - self.start).unwrap_or(usize::MAX);
                &mapping.bytes()[window..window + self.filled]
            }
            _ => &self.buffer[..self.filled],
        }
    }

    /// Refuses what was read of a file that became shorter while it was mapped.
    pub(crate) fn check_whole(&self) -> Result<()> {
        match &self.bytes {
            Bytes::Mapped(mapping) => {
                mapping.check_whole().map_err(|error| error.in_source(self.source.path.display()))
            }
            _ => Ok(()),
        }
    }

    /// All records, for a look: what can be read only once can be read after it.
    pub(crate) fn looking(source: Arc<Source>, read_size: usize, limit: usize) -> Self {
        let (start, end) = (source.data_start, source.length);
        Self { purpose: Purpose::Look, ..Self::new(source, start, end, read_size, limit) }
    }

    /// Up to `most` records whose fields are put into `fields`, offsets counted from the first byte of the records.
    ///
    /// # Errors
    /// What is no CSV, at its byte; its record and line are not known here.
    pub(crate) fn next(&mut self, most: usize, fields: &mut Vec<Field>) -> Result<Found> {
        loop {
            self.count_last();
            if let Some(long) = self.long.take() {
                match self.next_part(long)? {
                    Some(bad) => return Ok(Found::Bad(bad)),
                    None => continue,
                }
            }
            let last = self.is_last();
            match self.buffered(most.min(self.at_once), last, fields) {
                Ok(records) if records.length > 0 => {
                    self.hand_out(records);
                    if records.count > 0 {
                        self.at_once = self.at_once.saturating_mul(2);
                        return Ok(Found::Records(records));
                    }
                }
                Ok(_) if last => return Ok(Found::End),
                Ok(_) if self.keeps_bad && self.is_full() => self.long = Some(self.too_long()),
                Ok(_) => self.fill()?,
                Err(Stop::Failed(error)) => return Err(error),
                Err(Stop::Bad(error, _)) if !self.keeps_bad => return Err(error),
                Err(Stop::Bad(error, end)) => {
                    let rest = &self.held()[self.used..];
                    let end = end.or_else(|| Skip::default().advance(self.source.dialect, rest));
                    match end.map(|end| end.min(rest.len())).or(last.then_some(rest.len())) {
                        Some(length) => return Ok(Found::Bad(self.bad(error, 0, length))),
                        None if self.is_full() => {
                            let (skip, error) = (Skip::default(), Some(error));
                            self.long = Some(Long { skip, part: 0, error, comment: false });
                        }
                        None => self.fill()?,
                    }
                }
            }
        }
    }

    /// All bytes are in the buffer.
    fn is_last(&self) -> bool {
        self.at + self.filled as u64 >= self.end
    }

    /// The buffer cannot take more of the next record.
    fn is_full(&self) -> bool {
        self.filled - self.used >= self.limit
    }

    fn hand_out(&mut self, records: Records) {
        self.used += records.length;
        self.tally.last = Some(records);
    }

    /// Hands out the next `length` bytes as what is wrong.
    fn bad(&mut self, error: Error, part: u32, length: usize) -> Bad {
        self.at_once = 1;
        let first = usize::from(part == 0);
        let bytes = Records { count: first, offset: self.position(), length, buffer_start: self.used };
        self.hand_out(bytes);
        Bad { error, part, record: self.tally.records + first as u64, bytes }
    }

    fn too_long(&self) -> Long {
        let comment = self.source.dialect.comment.is_some_and(|comment| self.held().get(self.used) == Some(&comment));
        let skip = if comment { Skip::ToLineEnd } else { Skip::default() };
        let message = format!("the record is longer than {}, the most that is taken", format_bytes(self.limit));
        let error = Error::new(ErrorKind::InvalidData, message).hint("give more memory, or check the quotes");
        Long { skip, part: 0, error: Some(error.at_byte(self.position())), comment }
    }

    /// The next part of a record that is not held whole. `None`: there is nothing to tell of.
    fn next_part(&mut self, mut long: Long) -> Result<Option<Bad>> {
        let size = PART.min(self.limit);
        while self.filled - self.used < size && !self.is_last() {
            self.fill()?;
        }
        let last = self.is_last() && self.filled - self.used <= size;
        let part = &self.held()[self.used..self.filled.min(self.used + size)];
        let (end, whole) = (long.skip.advance(self.source.dialect, part), part.len());
        if end.is_none() && last && self.is_piece && long.skip.is_within_quotes() {
            return Err(refuted());
        }
        let (length, comment, number) = (end.unwrap_or(whole), long.comment, long.part);
        let error = long.error.take().unwrap_or_else(|| {
            Error::new(ErrorKind::InvalidData, "more of the record before").at_byte(self.position())
        });
        if end.is_none() && !last {
            self.long = Some(Long { part: number + 1, ..long });
        }
        if comment || length == 0 {
            let skipped = Records { count: 0, offset: self.position(), length, buffer_start: self.used };
            self.hand_out(skipped);
            return Ok(None);
        }
        Ok(Some(self.bad(error, number, length)))
    }

    /// Whether a record goes on behind what was given last.
    pub(crate) fn is_within_record(&self) -> bool {
        self.long.is_some()
    }

    fn count_last(&mut self) {
        if let Some(records) = self.tally.last.take() {
            if self.tally.counts_lines {
                self.tally.lines += lines(self.bytes(records));
            }
            self.tally.records += records.count as u64;
        }
    }

    /// Records before those that were given last, in what this reader reads.
    pub(crate) fn records_before(&self) -> u64 {
        self.tally.records
    }

    /// Lines before `byte`, a place in what was given last, in what this reader reads. The first call reads a file once
    /// more up to there.
    pub(crate) fn lines_before(&mut self, byte: u64) -> Result<u64> {
        let (offset, start) = match self.tally.last {
            Some(last) => (last.offset, last.buffer_start),
            None => (self.position(), self.used),
        };
        if !self.tally.counts_lines {
            let failed = |error| etlrs_files::reading(&self.source.path, error);
            self.tally.lines = self.source.lines_in(self.start, offset).map_err(failed)?;
            self.tally.counts_lines = true;
        }
        let before = usize::try_from(byte.saturating_sub(offset)).unwrap_or(usize::MAX).min(self.filled - start);
        Ok(self.tally.lines + lines(&self.held()[start..start + before]))
    }

    /// Records and lines in what this reader reads, from where it is to the end.
    pub(crate) fn count(mut self, cancel: &CancelToken) -> Result<(u64, u64)> {
        self.tally.counts_lines = true;
        let mut fields = Vec::new();
        while !matches!(self.next(4096, &mut fields)?, Found::End) {
            cancel.check()?;
        }
        Ok((self.tally.records, self.tally.lines))
    }

    /// The text of records that `next` gave last.
    pub(crate) fn bytes(&self, records: Records) -> &[u8] {
        &self.held()[records.buffer_start..records.buffer_start + records.length]
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
        if matches!(self.bytes, Bytes::Place(_) | Bytes::Mapped(_)) {
            return self.source.locate(error);
        }
        let error = error.in_source(self.source.path.display());
        let Some(byte) = error.position().byte else { return error };
        let Tally { lines: lines_before, records: records_before, last, .. } = &self.tally;
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
        let line = lines_before + lines(&self.held()[start..start + before]) + 1;
        error.at_line(line).at_record(records_before + record)
    }

    fn buffered(&self, most: usize, last: bool, fields: &mut Vec<Field>) -> Result<Records, Stop> {
        let Source { dialect, width, .. } = *self.source;
        fields.clear();
        let offset = self.position();
        let rest = &self.held()[self.used..];
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
                    let blank = is_blank(&fields[before..]);
                    if found == width || (!blank && self.mend(fields, before, next.min(rest.len()))) {
                        count += 1;
                    } else if blank {
                        fields.truncate(before);
                    } else if at > 0 {
                        // What comes before it is handed out first; the next call stops here.
                        fields.truncate(before);
                        break;
                    } else {
                        return Err(Stop::Bad(ragged(found, width).at_byte(offset), Some(next)));
                    }
                    at = next;
                }
                Ok(Step::Incomplete) => {
                    fields.truncate(before);
                    break;
                }
                Err(_) if at > 0 => {
                    fields.truncate(before);
                    break;
                }
                // A whole file may end within quotes, a piece of it only if it was cut at the wrong place.
                Err((_, Malformed::Unclosed)) if self.is_piece => return Err(Stop::Failed(refuted())),
                Err((bad, reason)) => return Err(Stop::Bad(malformed(reason).at_byte(offset + bad as u64), None)),
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
        if !matches!(self.bytes, Bytes::Mapped(_)) {
            self.buffer.copy_within(self.used..self.filled, 0);
        }
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
        if self.buffer.len() < until && !matches!(self.bytes, Bytes::Mapped(_)) {
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
            // It is there already.
            Bytes::Mapped(_) => self.filled = until,
            Bytes::Place(file) => {
                while self.filled < until {
                    match file.read_at(&mut self.buffer[self.filled..until], self.at + self.filled as u64) {
                        Ok(0) => return Err(shortened()),
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
            let file = handle.open()?;
            let mapping = self.is_mapped.then(|| file.map(self.start..self.end)).flatten();
            self.bytes = match mapping {
                Some(mapping) => Bytes::Mapped(mapping),
                None => Bytes::Place(file.reader(self.at..self.end, block)),
            };
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
                return Err(shortened());
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
        Ok(self.lines_in(0, byte)? + 1)
    }

    /// Lines that end between two places of a file.
    pub(crate) fn lines_in(&self, start: u64, end: u64) -> std::io::Result<u64> {
        let file = self.file().map_err(std::io::Error::other)?;
        let most = if self.is_remote() { COUNTED_REMOTE } else { COUNTED };
        let mut block = vec![0; usize::try_from(end.saturating_sub(start)).unwrap_or(most).min(most)];
        let (mut at, mut found) = (start, 0);
        while at < end {
            let wanted = usize::try_from(end - at).unwrap_or(block.len()).min(block.len());
            file.read_exact_at(&mut block[..wanted], at)?;
            found += lines(&block[..wanted]);
            at += wanted as u64;
        }
        Ok(found)
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
                Ok(Found::Records(records)) => {
                    if reader.position() <= byte {
                        before += records.count as u64;
                        continue;
                    }
                    let starts = fields.chunks(self.width).map(|fields| records.offset + fields[0].start() as u64);
                    // A quoted field starts behind its quote.
                    let not_after = starts.take_while(|&start| start <= byte + 1).count() as u64;
                    return Some(before + not_after.max(1));
                }
                Ok(Found::Bad(_) | Found::End) | Err(_) => return Some(before + 1),
            }
        }
    }
}

fn refuted() -> Error {
    let message = "a quoted field goes on behind the place where the file was cut";
    Error::new(ErrorKind::SplitRefuted, message)
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
