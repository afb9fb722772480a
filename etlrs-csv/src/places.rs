//! Records and lines before the pieces of files, for what is set aside and has to be told with its place.
//!
//! Finding a place by reading a file from its start would make many bad records cost the square of their number. Here a
//! reader counts within its piece, and what the pieces before it have is counted once, by whoever needs it first.

use std::sync::{Arc, Mutex, PoisonError};

use etlrs_core::{CancelToken, Result};

use crate::reader::{Reader, Source};

/// For each piece, its records and lines once they are known.
pub(crate) struct Places(Vec<Piece>);

struct Piece {
    source: Arc<Source>,
    /// `None`: all of a stream, whose reader counts from the start.
    range: Option<(u64, u64)>,
    /// Held while it is counted. Whoever counts waits for nobody, so whoever waits here waits for no partition.
    counted: Mutex<Option<(u64, u64)>>,
}

impl Places {
    /// Of pieces in the order of the table, those of a file one after another.
    pub(crate) fn new(pieces: impl IntoIterator<Item = (Arc<Source>, Option<(u64, u64)>)>) -> Self {
        let pieces = pieces.into_iter();
        Self(pieces.map(|(source, range)| Piece { source, range, counted: Mutex::default() }).collect())
    }

    /// Records and lines of the file before the piece at `index`.
    pub(crate) fn before(&self, index: usize, cancel: &CancelToken) -> Result<(u64, u64)> {
        let Some(Piece { source, range: Some(_), .. }) = self.0.get(index) else { return Ok((0, 0)) };
        let failed = |error| etlrs_files::reading(&source.path, error);
        let (mut records, mut lines) = (0, source.lines_in(0, source.data_start).map_err(failed)?);
        let before = self.0[..index].iter().rev().take_while(|piece| Arc::ptr_eq(&piece.source, source));
        for piece in before {
            let counts = piece.count(cancel)?;
            records += counts.0;
            lines += counts.1;
        }
        Ok((records, lines))
    }
}

impl Piece {
    fn count(&self, cancel: &CancelToken) -> Result<(u64, u64)> {
        let mut counted = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(counts) = *counted {
            return Ok(counts);
        }
        let (start, end) = self.range.unwrap_or_default();
        let reader = Reader::new(self.source.clone(), start, end, 256 << 10, self.source.longest).keeping_bad(true);
        Ok(*counted.insert(reader.count(cancel)?))
    }
}
