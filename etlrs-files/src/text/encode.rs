use std::sync::Arc;

use arrow_array::RecordBatch;
use async_trait::async_trait;
use etlrs_core::{PartitionId, Result, RunContext, Scan};

use super::{Output, StagedText};
use crate::Compression;

/// How rows become the text of a file.
///
/// A file is its start, blocks of records with what stands between blocks, and its end. Of each of these it is known by
/// itself what it is, so they can be compressed by themselves, by many writers at once.
#[async_trait]
pub trait Encode: Send + Sync + 'static {
    /// How files are compressed.
    fn compression(&self) -> Compression;

    /// What the names of files end in, without a point in front.
    fn extension(&self) -> &'static str;

    /// What a file begins with; nothing, or something that records may stand behind.
    fn start(&self) -> &[u8];

    /// What stands between the records of one block and those of the next.
    fn between(&self) -> &[u8] {
        b""
    }

    /// What a file ends with.
    fn end(&self) -> &[u8] {
        b""
    }

    /// What ends the record before those that are appended to a file, if it has no end.
    fn line_end(&self) -> &[u8] {
        b"\n"
    }

    /// Appends rows of `batch` from `from` on to `out`, one at the least, until it holds `enough` bytes.
    ///
    /// # Errors
    /// `InvalidData` for a value that the format cannot hold; `Internal` for a batch of another schema.
    fn rows(
        &self,
        batch: &RecordBatch,
        from: usize,
        out: &mut Output,
        enough: usize,
        preceding: Preceding,
    ) -> Result<Encoded>;

    /// What was written, read as the types that it was written from; `None` where that cannot be.
    ///
    /// # Errors
    /// An I/O error.
    async fn read_back(&self, cx: &RunContext, staged: Vec<StagedText>) -> Result<Option<Arc<dyn Scan>>>;
}

/// What comes before rows.
#[derive(Clone, Copy, Debug)]
pub struct Preceding {
    /// Of which they are rows.
    pub partition: PartitionId,
    /// Rows of the partition in earlier batches.
    pub rows: u64,
    /// Whether there are records in the block already.
    pub in_block: bool,
}

/// What [`Encode::rows`] did.
#[derive(Clone, Copy, Debug, Default)]
pub struct Encoded {
    /// Rows that it appended.
    pub rows: usize,
    /// Whether there was a time with digits beyond the microsecond, which reading cannot give back.
    pub fine: bool,
}
