//! Compression of pages.

use bytes::Bytes;
use parquet::basic::Compression as Codec;
use parquet::errors::{ParquetError, Result};

/// One codec with its state, which is used again for each page.
pub(crate) struct Compressor {
    codec: Codec,
    state: State,
    scratch: Vec<u8>,
    /// For whoever puts a page together.
    pub(crate) plain: Vec<u8>,
}

enum State {
    None,
    Snappy(Box<snap::raw::Encoder>),
    Zstd(zstd::bulk::Compressor<'static>),
    Lz4,
}

impl Compressor {
    /// `None` for codecs that are so slow that nothing is won by encoding faster.
    pub(crate) fn new(codec: Codec) -> Result<Option<Self>> {
        let state = match codec {
            Codec::UNCOMPRESSED => State::None,
            Codec::SNAPPY => State::Snappy(Box::new(snap::raw::Encoder::new())),
            Codec::ZSTD(level) => State::Zstd(zstd::bulk::Compressor::new(level.compression_level())?),
            Codec::LZ4_RAW => State::Lz4,
            _ => return Ok(None),
        };
        Ok(Some(Self { codec, state, scratch: Vec::new(), plain: Vec::new() }))
    }

    pub(crate) fn memory(&self) -> usize {
        self.scratch.capacity() + self.plain.capacity()
    }

    /// Gives back what pages of more than `most` bytes took.
    pub(crate) fn shrink(&mut self, most: usize) {
        self.scratch.truncate(most);
        self.scratch.shrink_to(most);
        self.plain.clear();
        self.plain.shrink_to(most);
    }

    pub(crate) fn codec(&self) -> Codec {
        self.codec
    }

    pub(crate) fn compress(&mut self, plain: &[u8]) -> Result<Bytes> {
        let failed =
            |error: &dyn std::fmt::Display| ParquetError::General(format!("a page cannot be compressed: {error}"));
        let most = match self.state {
            State::None => return Ok(Bytes::copy_from_slice(plain)),
            State::Snappy(_) => snap::raw::max_compress_len(plain.len()),
            State::Zstd(_) => zstd::zstd_safe::compress_bound(plain.len()),
            State::Lz4 => lz4_flex::block::get_maximum_output_size(plain.len()),
        };
        if self.scratch.len() < most {
            self.scratch.resize(most, 0);
        }
        let out = self.scratch.as_mut_slice();
        let length = match &mut self.state {
            State::None => 0,
            State::Snappy(encoder) => encoder.compress(plain, out).map_err(|error| failed(&error))?,
            State::Zstd(encoder) => encoder.compress_to_buffer(plain, out)?,
            State::Lz4 => lz4_flex::block::compress_into(plain, out).map_err(|error| failed(&error))?,
        };
        Ok(Bytes::copy_from_slice(&self.scratch[..length]))
    }
}
