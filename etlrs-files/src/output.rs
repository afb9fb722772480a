use std::fs::File;
use std::io::{self, Write};

use etlrs_core::{Error, ErrorKind, Result};

#[cfg(feature = "object-store")]
use crate::objects::Upload;

/// A file that is being written to a staging area ([`Staging::create`](crate::Staging::create)). Nobody sees it before the
/// staging is published.
#[derive(Debug)]
pub struct OutputFile {
    to: To,
    written: u64,
    /// Of what was written since it was last asked for.
    crc: crc32fast::Hasher,
    /// Where that begins.
    crc_from: u64,
    /// Bytes that are there already, and that are written once more.
    skip: u64,
}

#[derive(Debug)]
enum To {
    Local(File),
    #[cfg(feature = "object-store")]
    Upload(Box<Upload>),
}

impl OutputFile {
    /// Goes on behind the `length` bytes that `file` has.
    pub(crate) fn local(file: File, length: u64) -> Self {
        Self { to: To::Local(file), written: length, crc: crc32fast::Hasher::new(), crc_from: length, skip: 0 }
    }

    #[cfg(feature = "object-store")]
    pub(crate) fn upload(upload: Upload) -> Self {
        Self { to: To::Upload(Box::new(upload)), written: 0, crc: crc32fast::Hasher::new(), crc_from: 0, skip: 0 }
    }

    #[cfg(feature = "object-store")]
    pub(crate) fn into_upload(self) -> Option<Upload> {
        match self.to {
            To::Upload(upload) => Some(*upload),
            To::Local(_) => None,
        }
    }

    /// Bytes of the file so far.
    pub fn written(&self) -> u64 {
        self.written
    }

    /// CRC-32 of what was written since this was last called, and where that begins; without what the file had before.
    pub(crate) fn take_crc(&mut self) -> (u32, u64) {
        let from = std::mem::replace(&mut self.crc_from, self.written);
        (std::mem::take(&mut self.crc).finalize(), from)
    }

    /// The same file for who counts from its beginning, and writes what is there once more: that is left out.
    #[must_use]
    pub fn from_start(mut self) -> Self {
        self.skip = std::mem::take(&mut self.written);
        self
    }

    /// Makes sure that all of it is there; gives its size.
    ///
    /// # Errors
    /// `VerifyFailed` if it is not; an I/O error.
    pub fn finish(&mut self) -> Result<u64> {
        let found = match &mut self.to {
            To::Local(file) => {
                file.metadata().map_err(|error| Error::new(ErrorKind::Io, error.to_string()).caused_by(error))?.len()
            }
            #[cfg(feature = "object-store")]
            To::Upload(upload) => upload.finish()?,
        };
        if found != self.written {
            let message = format!("{} bytes were written, and the file has {found}", self.written);
            return Err(Error::new(ErrorKind::VerifyFailed, message));
        }
        Ok(found)
    }
}

impl Write for OutputFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.skip > 0 {
            let skipped = bytes.len().min(usize::try_from(self.skip).unwrap_or(usize::MAX));
            self.skip -= skipped as u64;
            self.written += skipped as u64;
            return Ok(skipped);
        }
        let written = match &mut self.to {
            To::Local(file) => file.write(bytes),
            #[cfg(feature = "object-store")]
            To::Upload(upload) => upload.write(bytes),
        }?;
        self.written += written as u64;
        self.crc.update(bytes.get(..written).unwrap_or_default());
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        match &mut self.to {
            To::Local(file) => file.flush(),
            #[cfg(feature = "object-store")]
            To::Upload(upload) => upload.flush(),
        }
    }
}
