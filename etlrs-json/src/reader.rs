//! The records of a part of a file, one after another.
//!
//! Where each line is a record, a part has the lines that begin in it, so it can be cut anywhere without a look at the file.
//! Everything else is read as one stream.

use std::io::Read;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use etlrs_core::{CancelToken, Error, ErrorKind, Result, format_bytes};
use etlrs_files::text::{Input, Purpose};
use etlrs_files::{InputReader, Mapping, reading, shortened};
use memchr::{memchr, memchr_iter};

use crate::layout::Layout;
use crate::syntax::{self, Fault};

/// Bytes that are asked of an object store at a time, at the most.
const LARGEST_BLOCK: usize = 8 << 20;
/// Bytes in which lines are counted at a time.
const COUNTED: usize = 1 << 20;

/// A file and what is known of it. Offsets count bytes of its text, which is in UTF-8.
#[derive(Debug)]
pub(crate) struct Source {
    pub(crate) path: Box<Path>,
    pub(crate) input: Input,
    pub(crate) layout: Layout,
    /// Bytes of the mark that it begins with.
    pub(crate) start: u64,
    /// The largest number for a stream, of which nobody knows it before its end.
    pub(crate) length: u64,
}

impl Source {
    /// Whether it is read front to back, in one partition.
    pub(crate) fn is_stream(&self) -> bool {
        self.layout != Layout::Lines || !matches!(self.input, Input::Plain(_))
    }

    pub(crate) fn is_remote(&self) -> bool {
        matches!(&self.input, Input::Plain(handle) if handle.is_remote())
    }

    /// Lines that end between two places of a file that is read at places.
    pub(crate) fn lines_in(&self, start: u64, end: u64, cancel: &CancelToken) -> Result<u64> {
        let Input::Plain(handle) = &self.input else { return Ok(0) };
        let file = handle.open()?;
        let mut block = vec![0; usize::try_from(end.saturating_sub(start)).unwrap_or(COUNTED).min(COUNTED)];
        let (mut at, mut found) = (start, 0);
        while at < end {
            cancel.check()?;
            let wanted = usize::try_from(end - at).unwrap_or(block.len()).min(block.len());
            file.read_exact_at(&mut block[..wanted], at).map_err(|error| reading(&self.path, error))?;
            found += lines(&block[..wanted]);
            at += wanted as u64;
        }
        Ok(found)
    }
}

fn lines(text: &[u8]) -> u64 {
    memchr_iter(b'\n', text).count() as u64
}

/// A record: where its text is.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    /// In what the reader holds.
    pub(crate) range: Range<usize>,
    /// In the text of the file.
    pub(crate) offset: u64,
}

pub(crate) struct Reader {
    source: Arc<Source>,
    bytes: Bytes,
    purpose: Purpose,
    /// The file is mapped, if it can be.
    is_mapped: bool,
    /// What is behind `filled` means nothing.
    buffer: Vec<u8>,
    /// Bytes that are held: of the buffer, or of the mapped file from `at` on.
    filled: usize,
    /// Bytes of them that were given out.
    used: usize,
    /// Offset of the first of them.
    at: u64,
    /// Records that begin here or later are others'.
    end: u64,
    ended: bool,
    read_size: usize,
    limit: usize,
    state: State,
    cancel: CancelToken,
    /// Lines that ended before the record that was given last, and records before it.
    lines: u64,
    records: u64,
    last: Option<Range<usize>>,
}

enum Bytes {
    Unopened,
    Place(InputReader),
    /// A file in memory, from an offset on.
    Mapped(Mapping, u64),
    Stream {
        text: Box<dyn Read + Send>,
        /// Stored bytes that were read.
        taken: Arc<AtomicU64>,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// The line before the place belongs to somebody else.
    WithinLine,
    Start,
    Within,
    /// The list is closed.
    Behind,
}

impl Reader {
    /// Of the records that begin between two places; of a stream all.
    pub(crate) fn new(
        source: Arc<Source>,
        part: Option<(u64, u64)>,
        read_size: usize,
        limit: usize,
        cancel: &CancelToken,
    ) -> Self {
        let limit = limit.clamp(4 << 10, 1 << 30);
        let (mut at, end) = part.unwrap_or((source.start, u64::MAX));
        let mut state = State::Start;
        if part.is_some() && at > source.start {
            // With the byte before, which may end a line.
            (at, state) = (at - 1, State::WithinLine);
        }
        Self {
            source,
            bytes: Bytes::Unopened,
            purpose: Purpose::Read,
            is_mapped: false,
            buffer: Vec::new(),
            filled: 0,
            used: 0,
            at,
            end,
            ended: false,
            read_size: read_size.clamp(512, limit),
            limit,
            state,
            cancel: cancel.clone(),
            lines: 0,
            records: 0,
            last: None,
        }
    }

    /// Looks at the start, which will be read again.
    pub(crate) fn looking(mut self) -> Self {
        self.purpose = Purpose::Look;
        self
    }

    /// Maps the file into memory, if it can be.
    pub(crate) fn mapped(mut self, mapped: bool) -> Self {
        self.is_mapped = mapped;
        self
    }

    /// What was read and not yet let go.
    fn held(&self) -> &[u8] {
        match &self.bytes {
            Bytes::Mapped(mapping, start) => {
                let window = usize::try_from(self.at - start).unwrap_or(usize::MAX);
                &mapping.bytes()[window..window + self.filled]
            }
            _ => &self.buffer[..self.filled],
        }
    }

    /// Refuses what was read of a file that became shorter while it was mapped.
    pub(crate) fn check_whole(&self) -> Result<()> {
        if let Bytes::Mapped(mapping, _) = &self.bytes { mapping.check_whole() } else { Ok(()) }
    }

    /// The bytes of a record that was given last.
    pub(crate) fn text(&self, record: &Record) -> &[u8] {
        &self.held()[record.range.clone()]
    }

    /// Lines that ended before a place in the record that was given last, since the reader began.
    pub(crate) fn lines_before(&self, byte: u64) -> u64 {
        let Some(last) = &self.last else { return self.lines };
        let end = usize::try_from(byte.saturating_sub(self.at)).unwrap_or(usize::MAX).min(last.end);
        self.lines + lines(&self.held()[last.start.min(end)..end])
    }

    /// Records up to the one that was given last, and with it.
    pub(crate) fn records(&self) -> u64 {
        self.records
    }

    fn position(&self) -> u64 {
        self.at + self.used as u64
    }

    /// Stored bytes that were read, as far as it is known; to be compared with an earlier answer.
    pub(crate) fn progress(&self) -> u64 {
        match &self.bytes {
            Bytes::Stream { taken, .. } => taken.load(Ordering::Relaxed),
            Bytes::Unopened => self.at,
            Bytes::Place(_) | Bytes::Mapped(..) => self.position(),
        }
    }

    /// The next record.
    pub(crate) fn next(&mut self) -> Result<Option<Record>> {
        if let Some(last) = self.last.take() {
            self.lines += lines(&self.held()[last]);
        }
        match self.source.layout {
            Layout::Lines => self.next_line(),
            Layout::Array | Layout::Values => self.next_value(),
        }
    }

    fn next_line(&mut self) -> Result<Option<Record>> {
        if self.state == State::WithinLine {
            self.skip_line()?;
            self.state = State::Within;
        }
        while self.position() < self.end {
            let Some(line) = self.line()? else { return Ok(None) };
            let offset = self.at + line.start as u64;
            self.used = line.end;
            let is_blank = self.held()[line.clone()].iter().all(u8::is_ascii_whitespace);
            if !is_blank {
                self.records += 1;
                self.last = Some(line.clone());
                return Ok(Some(Record { range: line, offset }));
            }
            self.lines += lines(&self.held()[line]);
        }
        Ok(None)
    }

    /// Goes behind the end of the line that somebody else reads, or to the end of the part, in which no record begins then.
    fn skip_line(&mut self) -> Result<()> {
        while self.position() < self.end {
            let mine = usize::try_from(self.end - self.position()).unwrap_or(usize::MAX);
            let held = &self.held()[self.used..];
            let held = &held[..held.len().min(mine)];
            match memchr(b'\n', held) {
                Some(found) => {
                    self.used += found + 1;
                    return Ok(());
                }
                None => self.used += held.len(),
            }
            if self.position() < self.end && !self.fill()? {
                return Ok(());
            }
        }
        Ok(())
    }

    /// The line that is next, with its end; `None` at the end of the text.
    fn line(&mut self) -> Result<Option<Range<usize>>> {
        let mut searched = self.used;
        loop {
            if let Some(found) = memchr(b'\n', &self.held()[searched..]) {
                return Ok(Some(self.used..searched + found + 1));
            }
            let seen = self.filled - self.used;
            if !self.fill()? {
                return Ok((self.filled > self.used).then_some(self.used..self.filled));
            }
            searched = self.used + seen;
        }
    }

    fn next_value(&mut self) -> Result<Option<Record>> {
        loop {
            let held = &self.held()[self.used..];
            match step(held, self.source.layout, self.state, self.ended) {
                Ok(Step::Record(range)) => {
                    let range = self.used + range.start..self.used + range.end;
                    // What comes before it counts with it.
                    self.lines += lines(&self.held()[self.used..range.start]);
                    let offset = self.at + range.start as u64;
                    self.used = range.end;
                    self.state = State::Within;
                    self.records += 1;
                    self.last = Some(range.clone());
                    return Ok(Some(Record { range, offset }));
                }
                Ok(Step::Closed(at)) => {
                    self.lines += lines(&self.held()[self.used..self.used + at]);
                    self.used += at;
                    self.state = State::Behind;
                }
                Ok(Step::End) | Err(Fault::End) if !self.ended => {
                    self.fill()?;
                }
                Ok(Step::End) => return Ok(None),
                Err(fault) => {
                    let at = fault.at().unwrap_or(held.len());
                    let byte = self.position() + at as u64;
                    self.records += 1;
                    self.last = Some(self.used..self.filled);
                    let mut error = Error::new(ErrorKind::InvalidData, fault.message()).at_byte(byte);
                    if self.source.layout == Layout::Array && self.state == State::Behind {
                        error = error.hint("if each line is a record, set the option layout=lines");
                    }
                    return Err(error);
                }
            }
        }
    }

    /// Reads on. False: there is no more.
    fn fill(&mut self) -> Result<bool> {
        if self.ended {
            return Ok(false);
        }
        if let Bytes::Unopened = self.bytes {
            self.bytes = self.open()?;
        }
        let is_mapped = matches!(self.bytes, Bytes::Mapped(..));
        if !is_mapped {
            self.buffer.copy_within(self.used..self.filled, 0);
        }
        self.at += self.used as u64;
        self.filled -= std::mem::take(&mut self.used);
        if self.filled >= self.limit {
            let held = format_bytes(self.limit);
            let message = format!("a record is longer than the {held} that a reader may hold");
            let error = Error::new(ErrorKind::MemoryExceeded, message).at_byte(self.at);
            return Err(error.hint("give more memory, of which a record may take an eighth"));
        }
        // A long record is read in growing steps, for each step looks at it from its start.
        let wanted = self.read_size.max(self.filled).min(self.limit - self.filled);
        let until = self.filled + wanted;
        if self.buffer.len() < until && !is_mapped {
            self.buffer.resize(until, 0);
        }
        // All of it, for a pipe gives little at a time.
        let before = self.filled;
        while self.filled < until && !self.ended {
            self.cancel.check()?;
            let read = self.read(until)?;
            self.filled += read;
            self.ended = read == 0;
        }
        Ok(self.filled > before)
    }

    fn open(&self) -> Result<Bytes> {
        let path = &self.source.path;
        if let Input::Plain(handle) = &self.source.input {
            let file = handle.open()?;
            // The last line may go on behind the end.
            let range = self.at..self.source.length;
            if self.is_mapped
                && let Some(mapping) = file.map(range.clone())
            {
                return Ok(Bytes::Mapped(mapping, self.at));
            }
            if !self.source.is_stream() {
                let block = (self.limit / 4).clamp(64 << 10, LARGEST_BLOCK);
                return Ok(Bytes::Place(file.reader(range, block)));
            }
        }
        let (mut text, taken) = self.source.input.open(path, self.purpose)?;
        // Without the mark.
        let mut mark = vec![0; usize::try_from(self.source.start).unwrap_or(0)];
        text.read_exact(&mut mark).map_err(|error| reading(path, error))?;
        Ok(Bytes::Stream { text, taken })
    }

    /// Adds to what is held, which may come to be `until` bytes. 0: there are no more.
    fn read(&mut self, until: usize) -> Result<usize> {
        let offset = self.at + self.filled as u64;
        loop {
            let read = match &mut self.bytes {
                // They are there already.
                Bytes::Mapped(..) => {
                    let left = self.source.length.saturating_sub(offset);
                    return Ok((until - self.filled).min(usize::try_from(left).unwrap_or(usize::MAX)));
                }
                Bytes::Place(reader) => match reader.read_at(&mut self.buffer[self.filled..until], offset) {
                    Ok(0) if offset < self.source.length => return Err(shortened()),
                    read => read,
                },
                Bytes::Stream { text, .. } => text.read(&mut self.buffer[self.filled..until]),
                Bytes::Unopened => Ok(0),
            };
            match read {
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                read => return read.map_err(|error| reading(&self.source.path, error)),
            }
        }
    }
}

enum Step {
    Record(Range<usize>),
    /// The list ends before the place.
    Closed(usize),
    End,
}

/// What is next in `text`, which has all that is there if `ended`.
fn step(text: &[u8], layout: Layout, state: State, ended: bool) -> Result<Step, Fault> {
    let mut at = syntax::space(text, 0);
    if layout == Layout::Array {
        match state {
            State::Behind => {
                return if at == text.len() { Ok(Step::End) } else { Err(Fault::Wrong(at, "the list ended before")) };
            }
            State::Start | State::WithinLine => {
                if at == text.len() && ended {
                    return Ok(Step::End);
                }
                at = syntax::space(text, syntax::token(text, at, b'[', "a list")?);
                if syntax::byte(text, at)? == b']' {
                    return Ok(Step::Closed(at + 1));
                }
            }
            State::Within => match syntax::byte(text, at)? {
                b',' => at = syntax::space(text, at + 1),
                b']' => return Ok(Step::Closed(at + 1)),
                _ => return Err(Fault::Expected(at, "a comma or ]")),
            },
        }
    } else if at == text.len() {
        return Ok(Step::End);
    }
    let end = syntax::value(text, at, usize::from(layout == Layout::Array))?;
    // A number may go on.
    if end == text.len() && !ended && matches!(text.get(at), Some(b'-' | b'0'..=b'9')) {
        return Err(Fault::End);
    }
    // Behind one another, what is no list or object needs something behind it.
    if layout == Layout::Values && !matches!(text.get(at), Some(b'{' | b'[')) {
        match text.get(end) {
            None if !ended => return Err(Fault::End),
            Some(byte) if !byte.is_ascii_whitespace() => return Err(Fault::Expected(end, "white space")),
            _ => {}
        }
    }
    Ok(Step::Record(at..end))
}
