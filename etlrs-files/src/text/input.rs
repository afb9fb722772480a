//! Where the text of a file comes from: a place in a file, or a stream that is read front to back.
//!
//! A regular file in UTF-8 is read at any place, so it can be cut into partitions. All else is one stream of UTF-8 and one
//! partition: what is compressed or in another encoding, and what is no regular file (standard input, a pipe). Of the
//! latter, which can be read only once, the bytes that the look at the start took are kept, and come first when it is read.

use std::collections::VecDeque;
use std::fmt;
use std::io::{self, BufReader, Read};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use etlrs_core::{CancelToken, Error, ErrorKind, Result, RunContext, format_bytes};

use super::encoding::{Encoding, Transcoder};
use crate::{Compression, InputFile, reading};

/// Bytes of compressed data that are read at a time.
const BLOCK: usize = 64 << 10;
/// Bytes that are asked of an object store at a time, for a stream.
const REMOTE_BLOCK: usize = 1 << 20;
/// The same for a look at its start.
const REMOTE_LOOK: usize = 128 << 10;

/// Bytes as they are stored.
#[derive(Clone, Debug)]
pub enum Raw {
    /// A file.
    File(Handle),
    /// What is read front to back, once: standard input, a pipe.
    Once(Arc<Once>),
}

/// A file that is read at any place; open, unless there are so many that they are opened when they are read.
#[derive(Clone, Debug)]
pub struct Handle {
    /// Its path, or the URL of an object.
    pub path: Box<Path>,
    /// The file, if it is held open.
    pub held: Option<InputFile>,
    /// Ends waits for an object store.
    pub cancel: CancelToken,
}

impl Handle {
    /// The file, opened if it is not held.
    ///
    /// # Errors
    /// An I/O error.
    pub fn open(&self) -> Result<InputFile> {
        match &self.held {
            Some(file) => Ok(file.clone()),
            None => InputFile::open(&self.path, &self.cancel),
        }
    }

    /// Whether it is in an object store.
    pub fn is_remote(&self) -> bool {
        crate::store_scheme(&self.path).is_some()
    }
}

/// The text of a file.
#[derive(Debug)]
pub enum Input {
    /// Bytes that are the text.
    Plain(Handle),
    /// Bytes that become text on the way.
    Stream {
        /// Where they are.
        raw: Raw,
        /// How they are compressed.
        compression: Compression,
        /// Bytes that decompressing takes.
        unpacking: usize,
        /// How characters are spelled.
        encoding: Encoding,
    },
}

/// Whether a stream is looked at or read. Only what can be read once makes a difference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// At its start, which can be read again.
    Look,
    /// As a whole.
    Read,
}

impl Input {
    /// Finds out how `raw`, which is called `path`, is stored.
    pub fn of(raw: Raw, path: &Path, encoding: Option<Encoding>, cx: &RunContext) -> Result<Self> {
        let mut start = Vec::new();
        let look = raw.open(Purpose::Look, None)?;
        look.take(6).read_to_end(&mut start).map_err(|error| reading(path, error))?;
        let compression = match Compression::of_start(&start) {
            Compression::None => Compression::of_path(path),
            found => found,
        };
        let mut unpacking = 0;
        if compression != Compression::None {
            start.clear();
            let packed = || Ok::<_, Error>(BufReader::with_capacity(BLOCK, raw.open(Purpose::Look, None)?));
            unpacking = unpacking_memory(compression, packed()?, cx).map_err(|error| reading(path, error))?;
            let text = compression.decompress(packed()?, unpacking).map_err(|error| reading(path, error))?;
            text.take(6).read_to_end(&mut start).map_err(|error| reading(path, error))?;
        }
        let encoding = match encoding {
            Some(encoding) => encoding,
            None => {
                let mark = Encoding::of_mark(&start);
                if mark.is_none()
                    && start.len() >= 4
                    && start.as_chunks::<2>().0.iter().all(|[a, b]| (*a == 0) != (*b == 0))
                {
                    let name = if start.starts_with(&[0]) { "utf-16be" } else { "utf-16le" };
                    return Err(Error::new(ErrorKind::InvalidData, "the file seems to be in UTF-16")
                        .hint(format!("set the option encoding={name}")));
                }
                mark.unwrap_or_default()
            }
        };
        Ok(match raw {
            Raw::File(handle) if compression == Compression::None && encoding == Encoding::Utf8 => Self::Plain(handle),
            raw => Self::Stream { raw, compression, unpacking, encoding },
        })
    }

    /// Whether it can be read only once.
    pub fn is_once(&self) -> bool {
        matches!(self, Self::Stream { raw: Raw::Once(_), .. })
    }

    /// Bytes that reading it takes beyond the reader's buffer.
    pub fn memory(&self) -> usize {
        let Self::Stream { raw, compression, unpacking, encoding } = self else { return 0 };
        let kept = match raw {
            Raw::Once(once) => once.kept(),
            Raw::File(handle) if handle.is_remote() => 2 * REMOTE_BLOCK,
            Raw::File(_) => 0,
        };
        let packed = if *compression == Compression::None { 0 } else { BLOCK };
        kept + packed + unpacking + if *encoding == Encoding::Utf8 { 0 } else { 128 << 10 }
    }

    /// The text from its start, and a count of the stored bytes that it came from.
    pub fn open(&self, path: &Path, purpose: Purpose) -> Result<(Box<dyn Read + Send>, Arc<AtomicU64>)> {
        let taken = Arc::new(AtomicU64::new(0));
        let text: Box<dyn Read + Send> = match self {
            Self::Plain(handle) => Raw::File(handle.clone()).open(purpose, Some(&taken))?,
            Self::Stream { raw, compression, unpacking, encoding } => {
                let raw = raw.open(purpose, Some(&taken))?;
                let text: Box<dyn Read + Send> = match compression {
                    Compression::None => raw,
                    compression => Box::new(
                        compression
                            .decompress(BufReader::with_capacity(BLOCK, raw), *unpacking)
                            .map_err(|error| reading(path, error))?,
                    ),
                };
                match encoding {
                    Encoding::Utf8 => text,
                    &encoding => Box::new(Transcoder::new(text, encoding)),
                }
            }
        };
        Ok((text, taken))
    }
}

/// Bytes that decompressing takes of what begins as `start` does.
///
/// # Errors
/// `MemoryExceeded` for more than the whole budget, which even a look may not take; those of reading `start`.
pub fn unpacking_memory(compression: Compression, start: impl Read, cx: &RunContext) -> io::Result<usize> {
    let (unpacking, usual) = (compression.unpacking_memory(start)?, compression.unpacking_memory(io::empty())?);
    let budget = cx.memory().limit();
    if unpacking <= budget.max(usual) {
        return Ok(unpacking);
    }
    // A reader has less than a fifth of it: see `RunContext`.
    let needed = unpacking.div_ceil(1 << 20).saturating_mul(5).saturating_add(5).saturating_mul(1 << 20);
    let (takes, budget) = (format_bytes(unpacking), format_bytes(budget));
    let message = format!("decompressing the file takes {takes}, too much for the memory budget of {budget}");
    let hint = format!("a budget of {} would do", format_bytes(needed));
    Err(io::Error::other(Error::new(ErrorKind::MemoryExceeded, message).hint(hint)))
}

impl Raw {
    fn open(&self, purpose: Purpose, taken: Option<&Arc<AtomicU64>>) -> Result<Box<dyn Read + Send>> {
        let bytes: Box<dyn Read + Send> = match (self, purpose) {
            (Self::File(handle), Purpose::Look) => Box::new(handle.open()?.stream(REMOTE_LOOK)),
            (Self::File(handle), Purpose::Read) => Box::new(handle.open()?.stream(REMOTE_BLOCK)),
            (Self::Once(once), Purpose::Look) => Box::new(once.look()?),
            (Self::Once(once), Purpose::Read) => once.take()?,
        };
        Ok(match taken {
            Some(taken) => Box::new(Counted { bytes, taken: taken.clone() }),
            None => bytes,
        })
    }
}

struct Counted {
    bytes: Box<dyn Read + Send>,
    taken: Arc<AtomicU64>,
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.bytes.read(buffer)?;
        self.taken.fetch_add(read as u64, Ordering::Relaxed);
        Ok(read)
    }
}

/// What can be read only once. It may be looked at until it is read.
pub struct Once {
    /// What errors call it.
    pub name: Box<Path>,
    state: Mutex<State>,
}

enum State {
    Closed(Opener),
    Open { kept: Kept, rest: Box<dyn Read + Send> },
    Taken,
}

type Opener = Box<dyn FnOnce() -> Result<Box<dyn Read + Send>> + Send>;

impl fmt::Debug for Once {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Once({})", self.name.display())
    }
}

impl Once {
    /// Of what `open` gives, when it is first needed; errors call it `name`.
    pub fn new(
        name: impl AsRef<Path>,
        open: impl FnOnce() -> Result<Box<dyn Read + Send>> + Send + 'static,
    ) -> Arc<Self> {
        Arc::new(Self { name: name.as_ref().into(), state: Mutex::new(State::Closed(Box::new(open))) })
    }

    /// Standard input, of which the process has one.
    pub fn stdin() -> Arc<Self> {
        static TAKEN: AtomicBool = AtomicBool::new(false);
        Self::new("standard input", || {
            if TAKEN.swap(true, Ordering::Relaxed) {
                return Err(Error::new(ErrorKind::InvalidConfig, "standard input is the source of something else too")
                    .hint("it can be read only once; write it to a file first"));
            }
            Ok(Box::new(io::stdin()))
        })
    }

    fn locked(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes that are kept until it is read.
    fn kept(&self) -> usize {
        match &*self.locked() {
            State::Open { kept, .. } => kept.memory(),
            _ => 0,
        }
    }

    fn opened<'a>(&self, state: &'a mut State) -> Result<(&'a mut Kept, &'a mut Box<dyn Read + Send>)> {
        if let State::Closed(_) = state
            && let State::Closed(open) = std::mem::replace(state, State::Taken)
        {
            *state = State::Open { kept: Kept::default(), rest: open()? };
        }
        match state {
            State::Open { kept, rest } => Ok((kept, rest)),
            _ => Err(Error::new(
                ErrorKind::Unsupported,
                format!("{} can be read only once, and has been read", self.name.display()),
            )
            .hint("write it to a file first")),
        }
    }

    fn look(self: &Arc<Self>) -> Result<Look> {
        self.opened(&mut self.locked())?;
        Ok(Look { once: self.clone(), at: 0 })
    }

    fn take(&self) -> Result<Box<dyn Read + Send>> {
        let mut state = self.locked();
        self.opened(&mut state)?;
        match std::mem::replace(&mut *state, State::Taken) {
            State::Open { kept, rest } => Ok(Box::new(kept.chain(rest))),
            _ => Err(Error::new(ErrorKind::Internal, "what was open is not")),
        }
    }
}

struct Look {
    once: Arc<Once>,
    at: usize,
}

impl Read for Look {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut state = self.once.locked();
        let (kept, rest) = self.once.opened(&mut state).map_err(io::Error::other)?;
        let mut known = kept.from(self.at);
        let length = if known.is_empty() {
            let read = rest.read(buffer)?;
            kept.push(&buffer[..read]);
            read
        } else {
            known.read(buffer)?
        };
        self.at += length;
        Ok(length)
    }
}

/// Bytes that were looked at. In blocks, so that they take no more room than they have to, and give it back as they are read.
#[derive(Default)]
struct Kept {
    /// All but the last are full.
    blocks: VecDeque<Vec<u8>>,
    /// Bytes of the first block that have been read.
    read: usize,
}

impl Kept {
    const BLOCK: usize = 64 << 10;

    fn push(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let mut block = self.blocks.pop_back().unwrap_or_default();
            if block.len() == Self::BLOCK {
                self.blocks.push_back(std::mem::take(&mut block));
            }
            block.reserve_exact(Self::BLOCK - block.len());
            let (fitting, rest) = bytes.split_at(bytes.len().min(Self::BLOCK - block.len()));
            block.extend_from_slice(fitting);
            self.blocks.push_back(block);
            bytes = rest;
        }
    }

    /// Some of what was pushed from `at` on, if there is any.
    fn from(&self, at: usize) -> &[u8] {
        self.blocks.get(at / Self::BLOCK).and_then(|block| block.get(at % Self::BLOCK..)).unwrap_or_default()
    }

    fn memory(&self) -> usize {
        self.blocks.len() * Self::BLOCK
    }
}

impl Read for Kept {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.from(self.read).read(buffer)?;
        self.read += length;
        if self.blocks.front().is_some_and(|block| block.len() == self.read) {
            self.blocks.pop_front();
            self.read = 0;
        }
        Ok(length)
    }
}
