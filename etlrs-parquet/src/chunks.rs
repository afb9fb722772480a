//! The column chunks of a partition, read front to back side by side.
//!
//! The parquet crate asks for a stream where it wants a page header, and for bytes where it wants a page. Each chunk has a
//! reader of its own, so that one of an object store has its next block under way; and before the crate sees a header, it
//! is checked ([`Pages`]). A column is done with a chunk when it comes to the next: its last pages may be skipped, and are
//! not read then.

use std::io::Read;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use etlrs_core::{Error, ErrorKind, Result};
use etlrs_files::InputReader;
use parquet::arrow::ProjectionMask;
use parquet::errors::ParquetError;
use parquet::file::metadata::{ColumnChunkMetaData, ParquetMetaData, RowGroupMetaData};
use parquet::file::reader::{ChunkReader, Length};

use crate::error::reading;
use crate::file::{SourceFile, cut_short};
use crate::pages::{Pages, Room};

/// Bytes that are asked of an object store at a time, for one column: at the least, at the most.
pub(crate) const SMALLEST_BLOCK: usize = 64 << 10;
const LARGEST_BLOCK: usize = 4 << 20;

/// The chunks of a partition.
pub(crate) struct Chunks {
    file: SourceFile,
    /// In the order of their places.
    chunks: Vec<Chunk>,
    /// For each column, which chunk it is at.
    current: Vec<AtomicUsize>,
    /// Why a header was refused, or a page could not be read. The parquet crate makes words of it on the way.
    refused: Mutex<Option<Error>>,
}

struct Chunk {
    /// Among those that are wanted.
    column: usize,
    start: u64,
    end: u64,
    state: Mutex<(Pages, InputReader)>,
}

impl Chunks {
    /// Of what `mask` wants of some row groups. A reader may hold `share` bytes, and the run `budget`.
    ///
    /// # Errors
    /// `InvalidData` for chunks that cannot be, and those of beginning to read.
    pub(crate) fn new(
        file: SourceFile,
        footer: &ParquetMetaData,
        mask: &ProjectionMask,
        groups: &[usize],
        share: usize,
        budget: usize,
    ) -> Result<Arc<Self>> {
        let found = groups.iter().filter_map(|&index| Some((index, footer.row_groups().get(index)?)));
        let columns = found.clone().map(|(_, group)| wanted(group, mask).count()).max().unwrap_or(1);
        let block = (share / 4 / columns.max(1)).clamp(SMALLEST_BLOCK, LARGEST_BLOCK);
        let room = Room::new(share, budget);
        let mut chunks = Vec::new();
        for (position, (index, group)) in found.enumerate() {
            for (column, chunk) in wanted(group, mask).enumerate() {
                let pages =
                    Pages::new(index, chunk, room.clone()).map_err(|error| error.in_source(file.shown().display()))?;
                let range = pages.range();
                let mut reader = file.input().reader(range.clone(), block);
                if position == 0 {
                    reader.prefetch(range.start)?;
                }
                chunks.push(Chunk { column, start: range.start, end: range.end, state: Mutex::new((pages, reader)) });
            }
        }
        chunks.sort_by_key(|chunk| chunk.start);
        // Else a page would be judged by the claims for another column.
        if chunks.windows(2).any(|pair| matches!(pair, [one, next] if one.end > next.start)) {
            let error = Error::new(ErrorKind::InvalidData, "the file is damaged: column chunks overlap");
            return Err(error.in_source(file.shown().display()));
        }
        let current = (0..columns).map(|_| AtomicUsize::new(usize::MAX)).collect();
        Ok(Arc::new(Self { file, chunks, current, refused: Mutex::default() }))
    }

    /// The error behind one of the parquet crate, if it began here.
    pub(crate) fn refused(&self) -> Option<Error> {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Keeps `error`, of which the parquet crate is told the words.
    fn refuse(&self, error: Error) -> ParquetError {
        let words = error.to_string();
        *self.refused.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
        ParquetError::General(words)
    }

    /// The chunk at `offset`, and which it is.
    fn at(&self, offset: u64) -> parquet::errors::Result<(usize, &Chunk)> {
        let before = self.chunks.partition_point(|chunk| chunk.start <= offset);
        let found = before.checked_sub(1).and_then(|index| Some((index, self.chunks.get(index)?)));
        found.filter(|(_, chunk)| offset < chunk.end).ok_or_else(|| {
            ParquetError::External(Box::new(Error::new(
                ErrorKind::Internal,
                format!("offset {offset} is in no column chunk that is read"),
            )))
        })
    }

    /// The chunk at `offset`, at which its column is from now on: what it held of the one before is given up.
    fn enter(&self, offset: u64) -> parquet::errors::Result<&Chunk> {
        let (index, chunk) = self.at(offset)?;
        let before = self.current.get(chunk.column).map(|current| current.swap(index, Ordering::Relaxed));
        if let Some(before) = before.filter(|before| *before != index).and_then(|before| self.chunks.get(before)) {
            let (pages, reader) = &mut *before.lock();
            pages.release();
            reader.close();
        }
        Ok(chunk)
    }
}

impl Chunk {
    fn lock(&self) -> MutexGuard<'_, (Pages, InputReader)> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The chunks of the columns that `mask` wants.
pub(crate) fn wanted<'a>(
    group: &'a RowGroupMetaData,
    mask: &'a ProjectionMask,
) -> impl Iterator<Item = &'a ColumnChunkMetaData> {
    group.columns().iter().enumerate().filter(|(leaf, _)| mask.leaf_included(*leaf)).map(|(_, column)| column)
}

/// The chunks as the parquet crate reads them.
pub(crate) struct ChunkFile(pub(crate) Arc<Chunks>);

impl Length for ChunkFile {
    fn len(&self) -> u64 {
        self.0.file.len()
    }
}

impl ChunkReader for ChunkFile {
    type T = HeaderReader;

    fn get_read(&self, start: u64) -> parquet::errors::Result<Self::T> {
        Ok(HeaderReader { chunks: self.0.clone(), start, header: None, read: 0 })
    }

    fn get_bytes(&self, start: u64, length: usize) -> parquet::errors::Result<Bytes> {
        self.0.file.require(start, length)?;
        if length == 0 {
            return Ok(Bytes::new());
        }
        let (_, chunk) = self.0.at(start)?;
        let (pages, reader) = &mut *chunk.lock();
        let mut buffer = vec![0; length];
        if let Err(error) = reader.read_exact_at(&mut buffer, start) {
            let error = cut_short(error);
            return match error {
                ParquetError::External(_) => Err(self.0.refuse(reading(self.0.file.shown(), error))),
                error => Err(error),
            };
        }
        if start + length as u64 >= chunk.end {
            reader.close();
        }
        let buffer = buffer.into();
        let checked = pages.check_values(start, &buffer);
        checked.map_err(|error| self.0.refuse(error.in_source(self.0.file.shown().display())))?;
        Ok(buffer)
    }
}

/// A page header. It is read when it is asked for, for the crate makes such readers where it may not need them.
pub(crate) struct HeaderReader {
    chunks: Arc<Chunks>,
    start: u64,
    header: Option<Vec<u8>>,
    read: usize,
}

impl HeaderReader {
    fn checked(&self) -> Result<Vec<u8>> {
        let Chunks { file, .. } = &*self.chunks;
        let failed = |error| reading(file.shown(), error);
        let chunk = self.chunks.enter(self.start).map_err(failed)?;
        let (pages, reader) = &mut *chunk.lock();
        let header = pages.header(file, self.start, |length| {
            file.require(self.start, length).map_err(failed)?;
            let mut bytes = vec![0; length];
            reader.read_exact_at(&mut bytes, self.start).map_err(|error| failed(cut_short(error)))?;
            Ok(bytes)
        });
        header.map_err(|error| error.in_source(file.shown().display()))
    }
}

impl Read for HeaderReader {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let header = match &mut self.header {
            Some(header) => header,
            None => {
                let checked = self.checked().map_err(|error| std::io::Error::other(self.chunks.refuse(error)))?;
                self.header.insert(checked)
            }
        };
        // The header was parsed, so it ends within these bytes.
        let rest = header.get(self.read..).unwrap_or_default();
        let length = rest.len().min(buffer.len());
        buffer[..length].copy_from_slice(&rest[..length]);
        self.read += length;
        Ok(length)
    }
}
