use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use etlrs_core::Result;

use super::{Answer, Failure};

/// How long an idle connection is taken to be alive without asking.
const FRESH: Duration = Duration::from_secs(5);

/// A connection that a [`Pool`] keeps.
pub(crate) trait Connect: Sized + Send + 'static {
    type Address: Send + Sync;
    type Refusal: Send;

    /// Connects, authenticates, and sets what all uses of a connection have in common.
    fn open(address: &Self::Address) -> impl Future<Output = Answer<Self, Self::Refusal>> + Send;

    /// Whether the server still answers.
    fn is_alive(&mut self) -> impl Future<Output = bool> + Send;

    /// Says good-bye, so that the server does not note in its log that a client vanished.
    fn close(self) -> impl Future<Output = ()> + Send;

    /// A failure as an error that names `source`, a database or a table in it.
    fn error(source: &str, failure: Failure<Self::Refusal>) -> etlrs_core::Error;
}

/// Connections to one database, opened as they are needed and kept for the next use.
pub(crate) struct Pool<C: Connect> {
    address: C::Address,
    /// The database without its password, for messages.
    shown: String,
    connect_timeout: Duration,
    /// With the time since which each is.
    idle: Mutex<Vec<(C, Instant)>>,
}

impl<C: Connect> Pool<C> {
    pub(crate) fn new(address: C::Address, shown: String, connect_timeout: Duration) -> Self {
        Self { address, shown, connect_timeout, idle: Mutex::default() }
    }

    pub(crate) fn shown(&self) -> &str {
        &self.shown
    }

    #[cfg(feature = "mysql")]
    pub(crate) fn address(&self) -> &C::Address {
        &self.address
    }

    pub(crate) fn failed(&self, failure: Failure<C::Refusal>) -> etlrs_core::Error {
        C::error(&self.shown, failure)
    }

    /// A connection outside any transaction.
    pub(crate) async fn take(&self) -> Result<C> {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        if let Some((mut connection, since)) = idle {
            // The server, or somebody between, may have closed it.
            let mut usable = since.elapsed() < FRESH;
            if !usable {
                let is_alive = tokio::time::timeout(self.connect_timeout, connection.is_alive());
                usable = is_alive.await.unwrap_or(false);
            }
            if usable {
                return Ok(connection);
            }
        }
        self.connect().await
    }

    /// Keeps a connection that is outside any transaction, with nothing on its way.
    pub(crate) fn give_back(&self, connection: C) {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push((connection, Instant::now()));
    }

    pub(crate) async fn connect(&self) -> Result<C> {
        let late = || Failure::Io(std::io::ErrorKind::TimedOut.into());
        let connected = tokio::time::timeout(self.connect_timeout, C::open(&self.address)).await;
        connected.unwrap_or_else(|_| Err(late())).map_err(|error| self.failed(error))
    }
}

impl<C: Connect> Drop for Pool<C> {
    fn drop(&mut self) {
        let idle = std::mem::take(self.idle.get_mut().unwrap_or_else(PoisonError::into_inner));
        close_all(idle.into_iter().map(|(connection, _)| connection).collect());
    }
}

/// Says good-bye to the server, which otherwise writes to its log that clients vanish.
pub(crate) fn close_all<C: Connect>(connections: Vec<C>) {
    if connections.is_empty() {
        return;
    }
    // Outside a runtime they are just dropped.
    if let Ok(runtime) = tokio::runtime::Handle::try_current() {
        runtime.spawn(async move {
            for connection in connections {
                connection.close().await;
            }
        });
    }
}
