//! Rows as blocks of bytes.
//!
//! A task on the async runtime owns the connection and does nothing but move bytes, so that the socket is served while a
//! worker computes, and a worker is woken once for many rows. Dropping either end ends the task, and a connection with rows
//! on their way is closed, which makes the server give up the transaction.

use std::pin::pin;

use etlrs_core::{Error, ErrorKind, Result};
use futures_util::future::{self, Either};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::{Answer, Connect, Failure};

/// Blocks on their way between a worker and its task. More would only take memory.
const IN_FLIGHT: usize = 2;

/// A connection over which a server sends rows.
pub(crate) trait ReadRows: Connect {
    /// Has the server begin with the rows of `sql`.
    fn begin(&mut self, sql: &str) -> impl Future<Output = Answer<(), Self::Refusal>> + Send;

    /// Appends rows to `block`, whole ones as far as they fit into `limit`, and one at the least. `false`: that was the end,
    /// and the connection is ready again.
    fn read(&mut self, block: &mut Vec<u8>, limit: usize) -> impl Future<Output = Answer<bool, Self::Refusal>> + Send;
}

/// A connection on which a statement takes rows.
pub(crate) trait WriteRows: Send + 'static {
    type Connection: Connect;

    /// Has the server wait for rows.
    fn begin(&mut self) -> impl Future<Output = Answer<(), RefusalOf<Self>>> + Send;

    /// Sends a block.
    fn write(&mut self, block: Vec<u8>) -> impl Future<Output = Answer<(), RefusalOf<Self>>> + Send;

    /// Ends the statement; gives the connection and the number of rows that the server counted.
    fn finish(self) -> impl Future<Output = Answer<(Self::Connection, u64), RefusalOf<Self>>> + Send;
}

/// The connection, and the rows that the server counted.
type Taken<W> = Answer<(<W as WriteRows>::Connection, u64), RefusalOf<W>>;

type RefusalOf<W> = <<W as WriteRows>::Connection as Connect>::Refusal;

/// Ends the task when nobody waits for it any more.
struct Task<T>(JoinHandle<T>);

impl<T> Drop for Task<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl<T> Task<T> {
    async fn join(mut self) -> Result<T> {
        (&mut self.0).await.map_err(ended_early)
    }
}

/// Where a connection comes from and goes to.
pub(crate) trait Keep<C>: Send + 'static {
    /// Takes a connection whose rows have all come.
    fn give_back(self, connection: C);

    /// Takes a connection whose rows nobody wants any more, while the server still sends them.
    fn abandon(self, connection: C) -> impl Future<Output = ()> + Send;

    /// Hears that the connection is no longer of use.
    fn lost(self);
}

/// What a server sends.
pub(crate) struct Incoming {
    blocks: mpsc::Receiver<Vec<u8>>,
    task: JoinHandle<Result<()>>,
}

impl Incoming {
    /// Starts `sql`. Blocks have about `block` bytes, and end between rows.
    pub(crate) fn start<C: ReadRows>(
        mut connection: C,
        sql: String,
        block: usize,
        source: String,
        home: impl Keep<C>,
    ) -> Self {
        let (sender, blocks) = mpsc::channel(IN_FLIGHT);
        let task = tokio::spawn(async move {
            let ended = {
                let rows = pin!(send_rows(&mut connection, &sql, block, &sender));
                match future::select(rows, pin!(sender.closed())).await {
                    Either::Left((ended, _)) => ended,
                    // Dropped by whoever wanted the rows.
                    Either::Right(_) => Ok(false),
                }
            };
            match ended {
                Ok(true) => home.give_back(connection),
                Ok(false) => home.abandon(connection).await,
                Err(failure) => {
                    home.lost();
                    return Err(C::error(&source, failure));
                }
            }
            Ok(())
        });
        Self { blocks, task }
    }

    /// The next bytes; `None` after the last.
    pub(crate) async fn next(&mut self) -> Option<Vec<u8>> {
        // The channel closes when the task is done, for better or worse.
        self.blocks.recv().await
    }

    /// Once `next` has given `None`: the reason why there was no more, if it is not that all came.
    pub(crate) async fn finish(self) -> Result<()> {
        self.task.await.map_err(ended_early)?
    }
}

/// `true`: all rows came.
async fn send_rows<C: ReadRows>(
    connection: &mut C,
    sql: &str,
    block: usize,
    sender: &mpsc::Sender<Vec<u8>>,
) -> Answer<bool, C::Refusal> {
    connection.begin(sql).await?;
    loop {
        let mut bytes = Vec::with_capacity(block);
        let more = connection.read(&mut bytes, block).await?;
        if sender.send(bytes).await.is_err() || !more {
            return Ok(!more);
        }
    }
}

/// What a server is sent.
pub(crate) struct Outgoing<W: WriteRows> {
    blocks: Option<mpsc::Sender<Option<Vec<u8>>>>,
    task: Task<Taken<W>>,
    source: String,
}

impl<W: WriteRows> Outgoing<W> {
    /// Starts the statement.
    pub(crate) fn start(mut writer: W, source: String) -> Self {
        let (blocks, mut receiver) = mpsc::channel::<Option<Vec<u8>>>(IN_FLIGHT);
        let task = tokio::spawn(async move {
            writer.begin().await?;
            loop {
                match receiver.recv().await {
                    Some(Some(block)) => writer.write(block).await?,
                    Some(None) => break,
                    // Given up: with the connection the server loses the transaction too.
                    None => return Err(Failure::Protocol("the rows were given up")),
                }
            }
            writer.finish().await
        });
        Self { blocks: Some(blocks), task: Task(task), source }
    }

    /// Hands over a block.
    pub(crate) async fn send(&mut self, block: Vec<u8>) -> Result<()> {
        let Some(blocks) = &self.blocks else { return Err(closed()) };
        if blocks.send(Some(block)).await.is_ok() {
            return Ok(());
        }
        // The task ended, and knows why.
        self.blocks = None;
        match (&mut self.task.0).await {
            Ok(Err(error)) => Err(W::Connection::error(&self.source, error)),
            _ => Err(closed()),
        }
    }

    /// Ends the statement; gives the connection and the number of rows that the server counted.
    pub(crate) async fn finish(mut self) -> Result<(W::Connection, u64)> {
        if let Some(blocks) = self.blocks.take() {
            // If this fails the task has ended, and says why.
            _ = blocks.send(None).await;
        }
        self.task.join().await?.map_err(|error| W::Connection::error(&self.source, error))
    }
}

fn ended_early(error: tokio::task::JoinError) -> Error {
    Error::new(ErrorKind::Internal, "the task of a connection ended early").caused_by(error)
}

fn closed() -> Error {
    Error::new(ErrorKind::Internal, "the task of a connection ended early")
}
