//! Records of a range of a file, a chunk at a time.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use etlrs_core::{Error, ErrorKind, Result, format_bytes};

use crate::records::{Dialect, Field, Malformed, Step};

/// An open file and what is known of its layout.
#[derive(Debug)]
pub(crate) struct Source {
    pub(crate) path: Box<Path>,
    pub(crate) file: File,
    pub(crate) dialect: Dialect,
    /// Offset of the first record after the header.
    pub(crate) data_start: u64,
    pub(crate) length: u64,
    /// Fields of every record.
    pub(crate) width: usize,
    /// The longest record that is taken.
    pub(crate) longest: usize,
}

/// Reads whole records from `at` to `end`, two offsets between which there are only whole records.
pub(crate) struct Reader {
    source: Arc<Source>,
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
        Self { source, buffer: Vec::new(), filled: 0, at, end, used: 0, read_size: read_size.clamp(512, limit), limit }
    }

    /// Up to `most` records whose fields are put into `fields`, offsets counted from the first byte of the records.
    /// `None` at the end of the range.
    ///
    /// # Errors
    /// What is no CSV, at its byte; its record and line are not known here.
    pub(crate) fn next(&mut self, most: usize, fields: &mut Vec<Field>) -> Result<Option<Records>> {
        loop {
            let last = self.at + self.filled as u64 >= self.end;
            let records = self.buffered(most, last, fields)?;
            if records.length > 0 {
                self.used += records.length;
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

    /// The text of records that `next` gave last.
    pub(crate) fn bytes(&self, records: Records) -> &[u8] {
        &self.buffer[records.buffer_start..records.buffer_start + records.length]
    }

    /// Offset in the file behind the last record.
    pub(crate) fn position(&self) -> u64 {
        self.at + self.used as u64
    }

    fn buffered(&self, most: usize, last: bool, fields: &mut Vec<Field>) -> Result<Records> {
        let Source { dialect, width, .. } = *self.source;
        fields.clear();
        let offset = self.position();
        let rest = &self.buffer[self.used..self.filled];
        let mut count = 0;
        let mut at = 0;
        while count < most && at < rest.len() {
            let (quick, next) = dialect.quick_records(rest, at, most - count, width, fields);
            count += quick;
            at = next;
            if count == most || at == rest.len() {
                break;
            }
            let before = fields.len();
            match dialect.record(rest, at, last, fields) {
                Ok(Step::Record(next)) => {
                    let found = fields.len() - before;
                    let blank = found == 1 && !fields[before].is_quoted() && fields[before].range().is_empty();
                    if found == width {
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
                Err((_, Malformed::Unclosed)) if self.end < self.source.length => {
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
        while self.filled < until {
            match self.source.file.read_at(&mut self.buffer[self.filled..until], self.at + self.filled as u64) {
                Ok(0) => {
                    return Err(Error::new(ErrorKind::SourceChanged, "the file became shorter while it was read")
                        .hint("run again when nobody writes to it"));
                }
                Ok(bytes) => self.filled += bytes,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Error::io("read", &self.source.path, error)),
            }
        }
        Ok(())
    }
}

impl Source {
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
        let mut block = vec![0; 256 << 10];
        let (mut at, mut line) = (0, 1);
        while at < byte {
            let wanted = usize::try_from(byte - at).unwrap_or(block.len()).min(block.len());
            self.file.read_exact_at(&mut block[..wanted], at)?;
            line += memchr::memchr_iter(b'\n', &block[..wanted]).count() as u64;
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
    Error::new(ErrorKind::InvalidData, format!("{} where the header has {width}", fields(found)))
}

fn malformed(reason: Malformed) -> Error {
    Error::new(ErrorKind::InvalidData, reason.message())
        .hint("if quotes mean nothing in this file, set the option quote=none")
}
