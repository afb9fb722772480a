use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use etlrs_core::{CancelToken, Error, ErrorKind, Result};

use crate::Mapping;
#[cfg(feature = "object-store")]
use crate::objects::{Address, Object, ObjectReader};

/// A file of the local file system, or an object in a store, that is read at any place. Clones share it.
///
/// It stays the file that was opened: an object that is replaced meanwhile is an error.
#[derive(Clone, Debug)]
pub struct InputFile {
    from: From,
    length: u64,
}

#[derive(Clone, Debug)]
enum From {
    Local(Arc<File>),
    #[cfg(feature = "object-store")]
    Object(Object),
}

impl InputFile {
    /// Opens the regular file, or the object, at `path`. `cancel` ends waiting for the network.
    ///
    /// # Errors
    /// `NotFound`, `PermissionDenied` and other I/O errors; `InvalidConfig` for what is no regular file.
    pub fn open(path: &Path, cancel: &CancelToken) -> Result<Self> {
        #[cfg(feature = "object-store")]
        if let Some(address) = Address::of(path)? {
            let object = address.open(cancel)?;
            return Ok(Self { length: object.length(), from: From::Object(object) });
        }
        let _ = cancel;
        crate::require_local(path)?;
        let require_file = |found: io::Result<Metadata>| match found {
            Ok(found) if found.is_file() => Ok(found),
            Ok(_) => {
                let message = "it is read at any place, so it must be a regular file";
                Err(Error::new(ErrorKind::InvalidConfig, message).in_source(path.display()))
            }
            Err(error) => Err(Error::io("open", path, error)),
        };
        // Before it is opened, for opening a pipe waits for somebody to write into it.
        require_file(std::fs::metadata(path))?;
        let file = File::open(path).map_err(|error| Error::io("open", path, error))?;
        let found = require_file(file.metadata())?;
        Ok(Self { length: found.len(), from: From::Local(Arc::new(file)) })
    }

    /// Its size when it was opened.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Whether each read is a request over a network, so that few large ones are better than many.
    pub fn is_remote(&self) -> bool {
        match &self.from {
            From::Local(_) => false,
            #[cfg(feature = "object-store")]
            From::Object(_) => true,
        }
    }

    /// Reads some bytes from `offset` on; none at its end.
    ///
    /// # Errors
    /// An I/O error, which may wrap one of ours: see [`reading`](crate::reading).
    pub fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        match &self.from {
            From::Local(file) => file.read_at(buffer, offset),
            #[cfg(feature = "object-store")]
            From::Object(object) => object.read_at(buffer, offset),
        }
    }

    /// Fills `buffer` from `offset` on.
    ///
    /// # Errors
    /// As [`read_at`](Self::read_at); `UnexpectedEof` if there are not as many bytes.
    pub fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        match &self.from {
            From::Local(file) => file.read_exact_at(buffer, offset),
            #[cfg(feature = "object-store")]
            From::Object(_) => fill(buffer, offset, |buffer, offset| self.read_at(buffer, offset)),
        }
    }

    /// A reader for `range`, which it goes through front to back. Of an object it holds two blocks of `block` bytes, one
    /// that is read and one that is under way; a local file is left to the read-ahead of the operating system.
    pub fn reader(&self, range: Range<u64>, block: usize) -> InputReader {
        let _ = (&range, block);
        match &self.from {
            From::Local(file) => InputReader(Reading::Local(file.clone())),
            #[cfg(feature = "object-store")]
            From::Object(object) => InputReader(Reading::Object(object.reader(range, block))),
        }
    }

    /// `range` in memory, if it is a local file that can be mapped.
    pub fn map(&self, range: Range<u64>) -> Option<Mapping> {
        match &self.from {
            From::Local(file) => Mapping::new(file, range),
            #[cfg(feature = "object-store")]
            From::Object(_) => None,
        }
    }

    /// All of it as a stream.
    pub fn stream(&self, block: usize) -> impl Read + Send + use<> {
        FromStart { reader: self.reader(0..self.length, block), at: 0 }
    }
}

fn fill(
    mut buffer: &mut [u8],
    mut offset: u64,
    mut read_at: impl FnMut(&mut [u8], u64) -> io::Result<usize>,
) -> io::Result<()> {
    while !buffer.is_empty() {
        match read_at(buffer, offset) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(read) => {
                buffer = buffer.get_mut(read..).unwrap_or_default();
                offset += read as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Reads a range of an [`InputFile`] front to back.
#[derive(Debug)]
pub struct InputReader(Reading);

#[derive(Debug)]
enum Reading {
    Local(Arc<File>),
    #[cfg(feature = "object-store")]
    Object(ObjectReader),
}

impl InputReader {
    /// Begins to read at `offset` without waiting for it.
    ///
    /// # Errors
    /// `Io` if nothing can be started.
    pub fn prefetch(&mut self, offset: u64) -> Result<()> {
        let _ = offset;
        match &mut self.0 {
            Reading::Local(_) => Ok(()),
            #[cfg(feature = "object-store")]
            Reading::Object(reader) => reader.prefetch(offset),
        }
    }

    /// Gives up what it holds, until something is read again.
    pub fn close(&mut self) {
        match &mut self.0 {
            Reading::Local(_) => {}
            #[cfg(feature = "object-store")]
            Reading::Object(reader) => reader.close(),
        }
    }

    /// Reads some bytes from `offset` on, which is best where the last read ended; none at the end.
    ///
    /// # Errors
    /// An I/O error, which may wrap one of ours: see [`reading`](crate::reading).
    pub fn read_at(&mut self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        match &mut self.0 {
            Reading::Local(file) => file.read_at(buffer, offset),
            #[cfg(feature = "object-store")]
            Reading::Object(reader) => reader.read_at(buffer, offset),
        }
    }

    /// Fills `buffer` from `offset` on.
    ///
    /// # Errors
    /// As [`read_at`](Self::read_at); `UnexpectedEof` if there are not as many bytes.
    pub fn read_exact_at(&mut self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        fill(buffer, offset, |buffer, offset| self.read_at(buffer, offset))
    }
}

struct FromStart {
    reader: InputReader,
    at: u64,
}

impl Read for FromStart {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.reader.read_at(buffer, self.at)?;
        self.at += read as u64;
        Ok(read)
    }
}
