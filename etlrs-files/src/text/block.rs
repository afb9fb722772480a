//! Records in blocks, each of which can be put into a file by itself.

use std::sync::{Arc, Mutex, PoisonError};

use arrow_array::RecordBatch;
use etlrs_core::{PartitionId, Result};

use super::{Encode, Output, Preceding};
use crate::{Compression, Compressor};

/// Large enough that a file is written in few calls and compresses well, and small enough to stay in the cache.
const BLOCK: usize = 1 << 20;
/// What is compressed by itself should not be smaller, however little memory there is.
const SMALLEST: usize = 16 << 10;

/// Whole records, compressed if the file is.
#[derive(Debug)]
pub(crate) struct Block {
    buffer: Vec<u8>,
    length: usize,
    pub(crate) rows: u64,
}

impl Block {
    pub(crate) fn bytes(&self) -> &[u8] {
        self.buffer.get(..self.length).unwrap_or_default()
    }

    pub(crate) fn memory(&self) -> usize {
        self.buffer.capacity()
    }
}

/// Buffers of blocks that were written, for those to come: memory that was touched once costs nothing the second time.
#[derive(Debug, Default)]
pub(crate) struct Spares(Mutex<Vec<Vec<u8>>>);

impl Spares {
    pub(crate) fn put(&self, block: Block) {
        // One that a long record made large would be kept for nothing.
        if block.buffer.capacity() <= 2 * BLOCK {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).push(block.buffer);
        }
    }

    fn take(&self) -> Option<Vec<u8>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).pop()
    }
}

/// Makes blocks of the rows of a partition.
pub(crate) struct Packer {
    format: Arc<dyn Encode>,
    spares: Arc<Spares>,
    partition: PartitionId,
    compressor: Option<Compressor>,
    block: usize,
    text: Output,
    /// Rows in `text`.
    rows: u64,
    /// Rows in blocks that were taken.
    rows_before: u64,
    fine: bool,
}

impl Packer {
    /// Of a writer that may hold `memory` bytes.
    pub(crate) fn new(
        format: &Arc<dyn Encode>,
        spares: &Arc<Spares>,
        partition: PartitionId,
        memory: usize,
    ) -> Result<Self> {
        let compressor = match format.compression() {
            Compression::None => None,
            compression => Some(compression.compressor()?),
        };
        Ok(Self {
            format: format.clone(),
            spares: spares.clone(),
            partition,
            compressor,
            block: (memory / 4).clamp(SMALLEST, BLOCK),
            text: Output::default(),
            rows: 0,
            rows_before: 0,
            fine: false,
        })
    }

    /// Bytes held.
    pub(crate) fn memory(&self) -> usize {
        self.text.memory()
    }

    /// Whether a time was finer than microseconds.
    pub(crate) fn is_fine(&self) -> bool {
        self.fine
    }

    /// Encodes rows of `batch` from `offset` on and gives their number, and the block that they made full.
    pub(crate) fn write(&mut self, batch: &RecordBatch, offset: usize) -> Result<(usize, Option<Block>)> {
        if self.text.memory() == 0 {
            let spare = self.spares.take();
            // What a block goes beyond its size by, with a record of usual length.
            self.text = Output::reusing(spare.unwrap_or_else(|| vec![0; self.block + (self.block >> 6)]));
        }
        let before = self.rows_before + self.rows;
        let preceding = Preceding { partition: self.partition, rows: before, in_block: self.rows > 0 };
        let encoded = self.format.rows(batch, offset, &mut self.text, self.block, preceding)?;
        self.rows += encoded.rows as u64;
        self.fine |= encoded.fine;
        let full = if self.text.len() >= self.block { self.take()? } else { None };
        Ok((encoded.rows, full))
    }

    /// The block so far, if it has rows.
    pub(crate) fn take(&mut self) -> Result<Option<Block>> {
        let rows = std::mem::take(&mut self.rows);
        self.rows_before += rows;
        if rows == 0 {
            return Ok(None);
        }
        let Some(compressor) = &mut self.compressor else {
            let text = std::mem::take(&mut self.text);
            return Ok(Some(Block { length: text.len(), buffer: text.into_buffer(), rows }));
        };
        let mut buffer = Vec::new();
        compressor.append_member(self.text.as_bytes(), &mut buffer)?;
        buffer.shrink_to_fit();
        self.text.truncate(0);
        Ok(Some(Block { length: buffer.len(), buffer, rows }))
    }
}
