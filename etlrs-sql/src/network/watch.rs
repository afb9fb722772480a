use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::task::JoinHandle;
use tokio::time::Sleep;

use super::Socket;

/// Tells whether the server still works for a connection, as another one hears.
pub(crate) type Ask = Arc<dyn Fn() -> JoinHandle<bool> + Send + Sync>;

/// A socket that does not wait for ever. When nothing came or went for some time, the server is asked whether it still works for the
/// connection: it may be at a long statement, of which nothing is heard until it is done. If it is not, or does not answer, the
/// connection is given up.
pub(crate) struct Watched {
    socket: Box<dyn Socket>,
    silence: Duration,
    ask: Ask,
    waiting: Option<Waiting>,
}

enum Waiting {
    Silent(Pin<Box<Sleep>>),
    Asking(JoinHandle<bool>),
}

impl Watched {
    pub(crate) fn new(socket: Box<dyn Socket>, silence: Duration, ask: Ask) -> Self {
        Self { socket, silence, ask, waiting: None }
    }

    /// What the socket gives; an error if it gives nothing for too long.
    fn watched<T>(&mut self, cx: &mut Context<'_>, moved: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if moved.is_ready() {
            self.stop_waiting();
            return moved;
        }
        loop {
            match &mut self.waiting {
                None => self.waiting = Some(Waiting::Silent(Box::pin(tokio::time::sleep(self.silence)))),
                Some(Waiting::Silent(sleep)) => {
                    ready!(sleep.as_mut().poll(cx));
                    self.waiting = Some(Waiting::Asking((self.ask)()));
                }
                Some(Waiting::Asking(asking)) => {
                    let is_at_work = ready!(Pin::new(asking).poll(cx)).unwrap_or(false);
                    self.waiting = None;
                    if !is_at_work {
                        return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, Silent(self.silence))));
                    }
                }
            }
        }
    }

    fn stop_waiting(&mut self) {
        if let Some(Waiting::Asking(asking)) = self.waiting.take() {
            asking.abort();
        }
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.stop_waiting();
    }
}

/// Nothing came or went for so long.
#[derive(Debug)]
pub(crate) struct Silent(Duration);

impl std::fmt::Display for Silent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the connection went silent for {} s, and the server no longer works for it", self.0.as_secs())
    }
}

impl std::error::Error for Silent {}

impl AsyncRead for Watched {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.socket).poll_read(cx, out);
        self.watched(cx, read)
    }
}

impl AsyncWrite for Watched {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.socket).poll_write(cx, bytes);
        self.watched(cx, written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.socket).poll_flush(cx);
        self.watched(cx, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shut = Pin::new(&mut self.socket).poll_shutdown(cx);
        self.watched(cx, shut)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    /// The server is at work the first `times` that it is asked.
    fn watched(socket: impl Socket + 'static, times: usize) -> (Watched, Arc<AtomicUsize>) {
        let asked = Arc::new(AtomicUsize::new(0));
        let counted = asked.clone();
        let ask = move || {
            let is_at_work = counted.fetch_add(1, Ordering::SeqCst) < times;
            tokio::spawn(async move { is_at_work })
        };
        (Watched::new(Box::new(socket), Duration::from_secs(60), Arc::new(ask)), asked)
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_server_is_asked_until_it_works_no_more() {
        let (ours, mut theirs) = tokio::io::duplex(8);
        let (mut socket, asked) = watched(ours, 3);
        let begun = tokio::time::Instant::now();
        let error = socket.read_u8().await.unwrap_err();
        assert_eq!((error.kind(), asked.load(Ordering::SeqCst)), (io::ErrorKind::TimedOut, 4));
        assert_eq!(error.to_string(), "the connection went silent for 60 s, and the server no longer works for it");
        assert_eq!(begun.elapsed().as_secs(), 240);
        // Nor does it take what is sent.
        let error = socket.write_all(&[0; 100]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        theirs.read_exact(&mut [0; 8]).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn whatever_comes_ends_the_silence() {
        let (ours, mut theirs) = tokio::io::duplex(8);
        let (mut socket, asked) = watched(ours, 0);
        let server = tokio::spawn(async move {
            for _ in 0..10 {
                tokio::time::sleep(Duration::from_secs(59)).await;
                theirs.write_all(&[7]).await.unwrap();
            }
            // While nobody waits, nothing is asked.
            theirs
        });
        for _ in 0..10 {
            assert_eq!(socket.read_u8().await.unwrap(), 7);
        }
        let _theirs = server.await.unwrap();
        tokio::time::sleep(Duration::from_secs(1000)).await;
        assert_eq!(asked.load(Ordering::SeqCst), 0);
    }
}
