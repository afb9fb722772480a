use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use etlrs_core::{Error, ErrorKind, Result, RunContext};

use super::unpacking_memory;
use crate::{Compression, InputFile, reading};

/// Bytes that are asked of an object store at a time.
const BLOCK: usize = 256 << 10;

/// A file that rows are appended to.
#[derive(Debug)]
pub struct OldFile {
    file: InputFile,
    /// How it is compressed.
    pub compression: Compression,
    /// Bytes that decompressing it takes.
    pub unpacking: usize,
    length: u64,
    /// Where it may be shown: errors name it.
    shown: PathBuf,
}

impl OldFile {
    /// Looks at the start of the file at `path`. One that is empty counts as compressed as `usual` says.
    ///
    /// # Errors
    /// `InvalidConfig` for one that is compressed in another way than `asked` for; an I/O error.
    pub fn open(path: &Path, usual: Compression, asked: Option<Compression>, cx: &RunContext) -> Result<Self> {
        let file = InputFile::open(path, cx.cancel())?;
        let mut start = Vec::new();
        file.stream(BLOCK).take(8).read_to_end(&mut start).map_err(|error| reading(path, error))?;
        let length = file.length();
        let mut compression = Compression::of_start(&start);
        if length == 0 {
            compression = usual;
        } else if let Some(asked) = asked {
            if asked.name() != compression.name() {
                let is = match compression {
                    Compression::None => "not compressed".to_owned(),
                    compression => format!("compressed with {}", compression.name()),
                };
                let message = format!("the file is {is}, and the option compression is {}", asked.name());
                return Err(Error::new(ErrorKind::InvalidConfig, message).hint("leave the option out"));
            }
            compression = asked;
        }
        let mut unpacking = 0;
        if length > 0 {
            let packed = BufReader::new(file.stream(BLOCK));
            unpacking = unpacking_memory(compression, packed, cx).map_err(|error| reading(path, error))?;
        }
        Ok(Self { file, compression, unpacking, length, shown: path.to_owned() })
    }

    /// Whether it has no bytes.
    pub fn has_no_bytes(&self) -> bool {
        self.length == 0
    }

    /// Its text.
    ///
    /// # Errors
    /// `InvalidData` for a compressed file that is damaged.
    pub fn read(&self) -> Result<impl Read> {
        let file = BufReader::new(self.file.stream(BLOCK));
        self.compression.decompress(file, self.unpacking).map_err(|error| reading(&self.shown, error))
    }

    /// The last line, if it has no end and is no longer than `most` bytes. A file that is compressed is read as a whole for that.
    ///
    /// # Errors
    /// An I/O error, and `InvalidData` for a compressed file that is damaged.
    pub fn unended_line(&self, most: usize) -> Result<Option<Vec<u8>>> {
        if self.length == 0 {
            return Ok(None);
        }
        if self.compression != Compression::None {
            let mut line = Some(Vec::new());
            self.blocks(|block| {
                let rest = match memchr::memrchr(b'\n', block) {
                    Some(at) => {
                        line = Some(Vec::new());
                        &block[at + 1..]
                    }
                    None => block,
                };
                match &mut line {
                    Some(held) if held.len() + rest.len() <= most => held.extend_from_slice(rest),
                    _ => line = None,
                }
            })?;
            return Ok(line.filter(|line| !line.is_empty()));
        }
        let taken = usize::try_from(self.length).unwrap_or(usize::MAX).min(most);
        let mut end = vec![0; taken];
        let from = self.length - taken as u64;
        self.file.read_exact_at(&mut end, from).map_err(|error| reading(&self.shown, error))?;
        Ok(match end.iter().rposition(|&byte| byte == b'\n') {
            Some(at) if at + 1 == end.len() => None,
            Some(at) => Some(end.split_off(at + 1)),
            None => (from == 0).then_some(end),
        })
    }

    /// Whether the last line has an end. A file that is compressed is read as a whole for that.
    ///
    /// # Errors
    /// An I/O error, and `InvalidData` for a compressed file that is damaged.
    pub fn ends_with_line_end(&self) -> Result<bool> {
        let failed = |error| reading(&self.shown, error);
        let mut last = [b'\n'];
        if self.compression == Compression::None {
            self.file.read_exact_at(&mut last, self.length.saturating_sub(1)).map_err(failed)?;
            return Ok(last == *b"\n");
        }
        self.blocks(|block| last = block.last().copied().map_or(last, |byte| [byte]))?;
        Ok(last == *b"\n")
    }

    /// Gives all of its text, a block at a time.
    ///
    /// # Errors
    /// An I/O error, and `InvalidData` for a compressed file that is damaged.
    pub fn blocks(&self, mut take: impl FnMut(&[u8])) -> Result<()> {
        let (mut input, mut buffer) = (self.read()?, vec![0; 64 << 10]);
        loop {
            match input.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(read) => take(&buffer[..read]),
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(reading(&self.shown, error)),
            }
        }
    }
}
