//! Requests on a runtime of their own, and callers that wait for them.

use std::sync::OnceLock;
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::Duration;

use etlrs_core::{CancelToken, Error, ErrorKind, Result};
use tokio::runtime::Runtime;
use tokio::task::AbortHandle;

/// Threads that do the work of the network: encryption and checksums of requests.
const THREADS: usize = 2;

fn runtime() -> Result<&'static Runtime> {
    static RUNTIME: OnceLock<std::io::Result<Runtime>> = OnceLock::new();
    let made = RUNTIME.get_or_init(|| {
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(THREADS)
            .thread_name("etlrs-objects")
            .enable_all()
            .build()
    });
    made.as_ref().map_err(|error| Error::new(ErrorKind::Io, format!("cannot start threads for the network: {error}")))
}

/// A request that is under way. Dropping it stops the request.
#[derive(Debug)]
pub(crate) struct Pending<T> {
    answer: Receiver<Result<T>>,
    task: AbortHandle,
}

impl<T> Pending<T> {
    /// The answer; `Cancelled` as soon as the run is.
    pub(crate) fn wait(self) -> Result<T> {
        self.answer.recv().unwrap_or_else(|_| Err(lost()))
    }

    /// As [`wait`](Self::wait), but not for longer than `limit`: `None`.
    pub(crate) fn wait_at_most(self, limit: Duration) -> Option<Result<T>> {
        match self.answer.recv_timeout(limit) {
            Ok(answer) => Some(answer),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => Some(Err(lost())),
        }
    }
}

impl<T> Drop for Pending<T> {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn lost() -> Error {
    Error::new(ErrorKind::Internal, "a request to an object store was lost")
}

/// Starts `work`; `failed` makes an error of the store into one of ours.
pub(crate) fn request<T: Send + 'static>(
    cancel: &CancelToken,
    failed: impl FnOnce(object_store::Error) -> Error + Send + 'static,
    work: impl Future<Output = object_store::Result<T>> + Send + 'static,
) -> Result<Pending<T>> {
    start(cancel, async move { work.await.map_err(failed) })
}

/// Starts `work`, and waits for it.
pub(crate) fn requests<T: Send + 'static>(
    cancel: &CancelToken,
    work: impl Future<Output = Result<T>> + Send + 'static,
) -> Result<T> {
    start(cancel, work)?.wait()
}

fn start<T: Send + 'static>(
    cancel: &CancelToken,
    work: impl Future<Output = Result<T>> + Send + 'static,
) -> Result<Pending<T>> {
    let (sender, answer) = sync_channel(1);
    let cancel = cancel.clone();
    let task = runtime()?.spawn(async move {
        let done = tokio::select! {
            biased;
            () = cancel.cancelled() => Err(Error::cancelled()),
            done = work => done,
        };
        // Nobody may be waiting any more.
        let _ = sender.send(done);
    });
    Ok(Pending { answer, task: task.abort_handle() })
}
