use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use etlrs_core::Result;

use crate::options::Seconds;

use super::{Answer, Ask, Failure};

/// How long an idle connection is taken to be alive without asking.
const FRESH: Duration = Duration::from_secs(5);

/// A connection that a [`Pool`] keeps.
pub(crate) trait Connect: Sized + Send + 'static {
    type Address: Send + Sync + 'static;
    type Refusal: Send;

    /// Connects, authenticates, and sets what all uses of a connection have in common.
    fn open(address: &Self::Address) -> impl Future<Output = Answer<Self, Self::Refusal>> + Send;

    /// What tells the session from all others, those of another server too: an address may lead to several.
    fn session(&self) -> &str;

    /// Whether the server works for that session, and does not wait for it.
    fn works_for(&mut self, session: &str) -> impl Future<Output = Answer<bool, Self::Refusal>> + Send;

    /// Ends that session, if it is there. It may hold locks as long as the server does not know that it is lost.
    fn end_other(&mut self, session: &str) -> impl Future<Output = Answer<(), Self::Refusal>> + Send;

    /// Gives it up when it is silent for so long and `ask` says no.
    fn watch(&mut self, silence: Duration, ask: Ask);

    /// Whether the server still answers.
    fn is_alive(&mut self) -> impl Future<Output = bool> + Send;

    /// Says good-bye, so that the server does not note in its log that a client vanished.
    fn close(self) -> impl Future<Output = ()> + Send;

    /// A failure as an error that names `source`, a database or a table in it.
    fn error(source: &str, failure: Failure<Self::Refusal>) -> etlrs_core::Error;
}

/// How long is waited for a server.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Timeouts {
    /// When it is connected to.
    pub(crate) connect: Duration,
    /// When nothing comes or goes, until it is asked whether it still works; zero is for ever.
    pub(crate) silence: Duration,
}

impl Timeouts {
    pub(crate) fn new(connect: Seconds, silence: Seconds) -> Self {
        Self { connect: connect.duration(), silence: silence.duration() }
    }
}

impl Default for Timeouts {
    fn default() -> Self {
        Self::new(Seconds(30), Seconds(300))
    }
}

/// Connections to one database, opened as they are needed and kept for the next use.
pub(crate) struct Pool<C: Connect> {
    address: Arc<C::Address>,
    /// The database without its password, for messages.
    shown: String,
    timeouts: Timeouts,
    /// With the time since which each is.
    idle: Mutex<Vec<(C, Instant)>>,
}

impl<C: Connect> Pool<C> {
    pub(crate) fn new(address: C::Address, shown: String, timeouts: Timeouts) -> Self {
        Self { address: Arc::new(address), shown, timeouts, idle: Mutex::default() }
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
                let is_alive = tokio::time::timeout(self.timeouts.connect, connection.is_alive());
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
        let connected = tokio::time::timeout(self.timeouts.connect, C::open(&self.address)).await;
        let mut connection = connected.unwrap_or_else(|_| Err(late())).map_err(|error| self.failed(error))?;
        if !self.timeouts.silence.is_zero() {
            let (address, limit) = (self.address.clone(), self.timeouts.connect);
            let session: Arc<str> = Arc::from(connection.session());
            let ask = move || tokio::spawn(is_at_work::<C>(address.clone(), limit, session.clone()));
            connection.watch(self.timeouts.silence, Arc::new(ask));
        }
        Ok(connection)
    }
}

/// Whether the server works for a session, as far as can be found out within `limit`.
async fn is_at_work<C: Connect>(address: Arc<C::Address>, limit: Duration, session: Arc<str>) -> bool {
    let asked = async {
        let mut other = C::open(&address).await?;
        let works = other.works_for(&session).await;
        if matches!(works, Ok(false)) {
            // It may be gone already.
            _ = other.end_other(&session).await;
        }
        other.close().await;
        works
    };
    match tokio::time::timeout(limit, asked).await {
        Ok(Ok(works)) => works,
        // It lives, and does not tell: it may have too many connections.
        Ok(Err(Failure::Server(_))) => true,
        Ok(Err(_)) | Err(_) => false,
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
