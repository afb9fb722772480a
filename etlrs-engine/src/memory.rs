//! How the budget is shared out.
//!
//! A run gives each worker an equal share before it starts, and keeps a lane beside them. A worker's reader, batches and
//! writer stay within its share, so no worker ever waits for memory that another holds, and there is nothing to deadlock
//! on. What does not fit, one row that is larger than a batch may be, waits until its partition is the oldest in flight
//! and then uses the lane: the oldest partition waits for nobody, so the wait ends. The row is in memory by then, for only
//! the reader could have asked before: each worker may hold one such batch beyond its share.
//!
//! With a quarantine, a part of each share is for what is rejected and its writer. A record that is longer than that is in
//! memory before it can be asked for, once in each worker.
//!
//! Advice: keep it so. A pool that workers take from while they hold something would need an order of who may wait.

use etlrs_core::{Error, ErrorKind, Result, RunContext, format_bytes};

/// A worker is not worth starting with less.
const SMALLEST_SHARE: usize = 256 << 10;
const SMALLEST_QUARANTINE: usize = 64 << 10;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shares {
    pub(crate) workers: usize,
    /// Bytes for each worker.
    pub(crate) worker: usize,
    /// Bytes for what each worker rejects, beside them.
    pub(crate) quarantine: usize,
    /// Bytes beside them, for the oldest partition in flight.
    pub(crate) lane: usize,
    /// Bytes that were in use before.
    pub(crate) held: usize,
    /// Bytes for all workers together.
    pool: usize,
}

impl Shares {
    /// Bytes that one worker takes.
    pub(crate) fn of_worker(self) -> usize {
        self.worker + self.quarantine
    }

    /// Bytes that all of them take together, however many they are.
    pub(crate) fn of_workers(self) -> usize {
        self.pool
    }

    /// For at most `workers`, of which each reader needs `reader` bytes and each writer `writer`, and each writer of the
    /// quarantine `quarantine`, if there is one; `held` bytes of the budget are in use already.
    ///
    /// # Errors
    /// `MemoryExceeded`, naming the smallest budget that would do for one worker.
    pub(crate) fn new(
        budget: usize,
        held: usize,
        workers: usize,
        reader: usize,
        writer: usize,
        quarantine: Option<usize>,
    ) -> Result<Self> {
        // See RunContext: a reader has a quarter of the share, a writer half.
        let least_worker = SMALLEST_SHARE.max(reader.saturating_mul(4)).max(writer.saturating_mul(2));
        let least_quarantine = quarantine.map_or(0, |writer| SMALLEST_QUARANTINE.max(writer.saturating_mul(2)));
        let least = least_worker.saturating_add(least_quarantine);
        let free = budget.saturating_sub(held);
        let lane = free / 8;
        let fitting = (free - lane) / least;
        if fitting == 0 {
            let needed = in_megabytes(held.saturating_add(least).saturating_add(least / 4));
            return Err(Error::new(
                ErrorKind::MemoryExceeded,
                format!("the memory budget of {} is too small for this run", format_bytes(budget)),
            )
            .hint(format!("{} would do", format_bytes(needed))));
        }
        let workers = workers.clamp(1, fitting);
        let share = (free - lane) / workers;
        // What is rejected is little; an eighth lets it be written in batches of some size.
        let quarantine = quarantine.map_or(0, |_| least_quarantine.max(share / 8).min(share - least_worker));
        Ok(Self { workers, worker: share - quarantine, quarantine, lane, held, pool: free - lane })
    }
}

/// Whether a batch of `bytes` fits into what its worker may hold.
pub(crate) fn fits(cx: &RunContext, bytes: usize) -> bool {
    // Builders grow by doubling, so a batch of the right size may take twice its size.
    bytes <= 2 * cx.batch_memory()
}

/// # Errors
/// `MemoryExceeded` if a batch fits not even into the lane, naming a budget that would do.
pub(crate) fn require_lane(cx: &RunContext, shares: Shares, rows: usize, bytes: usize) -> Result<()> {
    if bytes <= shares.lane + 2 * cx.batch_memory() {
        return Ok(());
    }
    let needed = in_megabytes(shares.held.saturating_add(bytes.saturating_mul(8)));
    let (what, fewer) = if rows == 1 { ("one row", "fewer threads") } else { ("one batch", "fewer rows in a batch") };
    Err(Error::new(
        ErrorKind::MemoryExceeded,
        format!(
            "{what} takes {}, too much for the memory budget of {}",
            format_bytes(bytes),
            format_bytes(cx.memory().limit())
        ),
    )
    .hint(format!("a budget of {} would do, or {fewer}", format_bytes(needed))))
}

/// `bytes`, rounded up.
fn in_megabytes(bytes: usize) -> usize {
    bytes.checked_next_multiple_of(1 << 20).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MB: usize = 1 << 20;

    #[test]
    fn fewer_workers_are_started_than_fit() {
        let shares = |budget, workers| Shares::new(budget, 0, workers, MB, MB, None).unwrap();
        let expected = Shares { workers: 8, worker: 7 * MB, quarantine: 0, lane: 8 * MB, held: 0, pool: 56 * MB };
        assert_eq!(shares(64 * MB, 8), expected);
        assert_eq!(shares(16 * MB, 8).workers, 3);
        for budget in 5..200 {
            let shares = shares(budget * MB, 8);
            assert!(shares.workers * shares.worker + shares.lane <= budget * MB);
            assert!(shares.worker >= 4 * MB);
        }
    }

    #[test]
    fn a_quarantine_gets_what_its_writer_needs_and_takes_it_from_the_shares() {
        for budget in 8..200 {
            for writer in [0, MB / 2, MB] {
                let shares = Shares::new(budget * MB, 0, 8, MB, MB, Some(writer)).unwrap();
                assert!(shares.workers * (shares.worker + shares.quarantine) + shares.lane <= budget * MB);
                assert!(shares.worker >= 4 * MB && shares.quarantine >= (2 * writer).max(64 << 10), "{shares:?}");
            }
        }
        assert_eq!(Shares::new(64 * MB, 0, 4, 0, 0, Some(0)).unwrap().quarantine, 14 * MB / 8);
        let error = Shares::new(6 * MB, 0, 2, MB, MB, Some(MB)).unwrap_err();
        assert!(error.to_string().ends_with("8MB would do"), "{error}");
    }

    #[test]
    fn a_budget_that_is_too_small_is_told_which_would_do() {
        let error = Shares::new(4 * MB, 0, 2, MB, MB, None).unwrap_err();
        assert_eq!(error.to_string(), "the memory budget of 4MB is too small for this run; 5MB would do");
        assert!(Shares::new(5 * MB, 0, 2, MB, MB, None).is_ok());
        assert!(Shares::new(5 * MB, MB, 2, MB, MB, None).is_err());
        // Whatever a connector claims.
        assert!(Shares::new(5 * MB, MB, 2, usize::MAX / 3, usize::MAX, None).is_err());
    }
}
