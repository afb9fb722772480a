//! COPY as blocks of bytes.
//!
//! A task on the async runtime owns the connection and does nothing but move bytes, so that the socket is served while a
//! worker computes, and a worker is woken once for many rows. Dropping either end ends the task, and a connection with a
//! COPY on its way is closed, which makes the server give up the transaction.

use etlrs_core::{Error, ErrorKind, Result};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::error::postgres_error;
use super::wire::{Answer, Connection, Failure};

/// Blocks on their way between a worker and its task. More would only take memory.
const IN_FLIGHT: usize = 2;

/// Ends the task when nobody waits for it any more.
struct Task<T>(JoinHandle<T>);

impl<T> Drop for Task<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl<T> Task<T> {
    async fn join(mut self) -> Result<T> {
        let joined = (&mut self.0).await;
        joined.map_err(|error| Error::new(ErrorKind::Internal, "the task of a connection ended early").caused_by(error))
    }
}

/// What a server sends.
pub(super) struct CopyOut {
    blocks: mpsc::Receiver<Vec<u8>>,
    task: Option<Task<Answer<Connection>>>,
    source: String,
}

impl CopyOut {
    /// Starts `sql`, a `COPY … TO STDOUT`. Blocks have about `block` bytes, and end between messages of the server.
    pub(super) fn start(mut connection: Connection, sql: String, block: usize, source: String) -> Self {
        let (sender, blocks) = mpsc::channel(IN_FLIGHT);
        let task = tokio::spawn(async move {
            connection.copy_out(&sql).await?;
            loop {
                let mut bytes = Vec::with_capacity(block);
                let more = connection.copy_read(&mut bytes, block).await?;
                // Nobody waits for it any more: the connection goes with the task.
                if sender.send(bytes).await.is_err() || !more {
                    return Ok(connection);
                }
            }
        });
        Self { blocks, task: Some(Task(task)), source }
    }

    /// The next bytes; `None` after the last.
    pub(super) async fn next(&mut self) -> Result<Option<Vec<u8>>> {
        match self.blocks.recv().await {
            Some(block) => Ok(Some(block)),
            // The channel closes when the task is done, for better or worse.
            None => Ok(None),
        }
    }

    /// The connection, once `next` has given `None`, or the reason why there was no more.
    pub(super) async fn finish(mut self) -> Result<Connection> {
        let task = self.task.take();
        let task = task.ok_or_else(|| Error::new(ErrorKind::Internal, "a COPY is finished twice"))?;
        task.join().await?.map_err(|error| postgres_error(&self.source, error))
    }
}

/// What a server is sent.
pub(super) struct CopyIn {
    blocks: Option<mpsc::Sender<Option<Vec<u8>>>>,
    task: Task<Answer<(Connection, u64)>>,
    source: String,
}

impl CopyIn {
    /// Starts `sql`, a `COPY … FROM STDIN`.
    pub(super) fn start(mut connection: Connection, sql: String, source: String) -> Self {
        let (blocks, mut receiver) = mpsc::channel::<Option<Vec<u8>>>(IN_FLIGHT);
        let task = tokio::spawn(async move {
            connection.copy_in(&sql).await?;
            loop {
                match receiver.recv().await {
                    Some(Some(mut block)) => connection.copy_write(&mut block).await?,
                    Some(None) => break,
                    // Given up: with the connection the server loses the transaction too.
                    None => return Err(Failure::Protocol("the COPY was given up")),
                }
            }
            let rows = connection.copy_finish().await?;
            Ok((connection, rows))
        });
        Self { blocks: Some(blocks), task: Task(task), source }
    }

    /// Hands over a block, which begins with room for the head of its message.
    pub(super) async fn send(&mut self, block: Vec<u8>) -> Result<()> {
        let Some(blocks) = &self.blocks else { return Err(closed()) };
        if blocks.send(Some(block)).await.is_ok() {
            return Ok(());
        }
        // The task ended, and knows why.
        self.blocks = None;
        match (&mut self.task.0).await {
            Ok(Err(error)) => Err(postgres_error(&self.source, error)),
            _ => Err(closed()),
        }
    }

    /// Ends the COPY; gives the connection and the number of rows that the server counted.
    pub(super) async fn finish(mut self) -> Result<(Connection, u64)> {
        if let Some(blocks) = self.blocks.take() {
            // If this fails the task has ended, and says why.
            _ = blocks.send(None).await;
        }
        let source = std::mem::take(&mut self.source);
        self.task.join().await?.map_err(|error| postgres_error(&source, error))
    }
}

fn closed() -> Error {
    Error::new(ErrorKind::Internal, "the task of a COPY ended early")
}
