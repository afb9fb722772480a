//! Waiting for locks that others hold.

use std::time::{Duration, Instant};

use etlrs_core::{CancelToken, Error, ErrorKind, Result};

/// How long a lock is waited for at a time. Others queue behind whoever waits, and he hears nothing meanwhile, so he gives way
/// now and then.
pub(crate) const STEP: Duration = Duration::from_secs(2);

/// Whether to try once more what gave up after a [`STEP`].
pub(crate) struct Patience<'a> {
    end: Instant,
    cancel: &'a CancelToken,
}

impl<'a> Patience<'a> {
    /// For so long, unless the run is cancelled.
    pub(crate) fn new(limit: Duration, cancel: &'a CancelToken) -> Self {
        Self { end: Instant::now() + limit, cancel }
    }

    /// Gives the error back if it is not that of a lock, or if it has been waited for long enough; otherwise pauses.
    pub(crate) async fn over(&self, error: Error) -> Result<()> {
        if error.kind() != ErrorKind::Locked || Instant::now() >= self.end {
            return Err(error);
        }
        self.cancel.check()?;
        tokio::time::sleep(Duration::from_millis(200)).await;
        Ok(())
    }
}
