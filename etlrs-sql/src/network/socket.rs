//! Sockets.

use std::future::poll_fn;
use std::io;
use std::path::Path;
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::Duration;

use bytes::BytesMut;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::net::TcpStream;
#[cfg(unix)]
use tokio::net::UnixStream;

/// What a connection runs over.
pub(crate) trait Socket: AsyncRead + AsyncWrite + Send + Sync + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Sync + Unpin> Socket for T {}

/// A socket on which small messages wait for nothing, and a server that vanished is noticed after some minutes.
pub(crate) async fn connect(host: &str, port: u16) -> io::Result<TcpStream> {
    let socket = TcpStream::connect((host, port)).await?;
    socket.set_nodelay(true)?;
    let keepalive = TcpKeepalive::new().with_time(Duration::from_secs(60)).with_interval(Duration::from_secs(10));
    _ = SockRef::from(&socket).set_tcp_keepalive(&keepalive);
    Ok(socket)
}

/// A socket in the file system.
#[cfg(unix)]
pub(crate) async fn connect_file(path: &Path) -> io::Result<Box<dyn Socket>> {
    Ok(Box::new(UnixStream::connect(path).await?))
}

#[cfg(not(unix))]
pub(crate) async fn connect_file(_: &Path) -> io::Result<Box<dyn Socket>> {
    Err(io::Error::new(io::ErrorKind::Unsupported, "there are no sockets in files on this system"))
}

/// Sends `bytes`, those that TLS keeps back too, and appends to `input` what the server says meanwhile.
///
/// # Errors
/// Also when the server has hung up: one that shuts a connection down before it closes it, as MariaDB does when it is killed,
/// takes no more bytes and does not refuse them either, so that only reading tells.
pub(crate) async fn send(socket: &mut dyn Socket, mut bytes: &[u8], input: &mut BytesMut) -> io::Result<()> {
    /// More is left where it is: the server waits for an answer first.
    const MOST_INPUT: usize = 1 << 20;

    poll_fn(|cx| {
        loop {
            let mut socket_now = Pin::new(&mut *socket);
            let sent = match bytes {
                [] => socket_now.as_mut().poll_flush(cx)?.map(|()| None),
                bytes => socket_now.as_mut().poll_write(cx, bytes)?.map(Some),
            };
            match sent {
                Poll::Ready(None) => return Poll::Ready(Ok(())),
                Poll::Ready(Some(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Some(sent)) => bytes = bytes.get(sent..).unwrap_or_default(),
                Poll::Pending => break,
            }
        }
        while input.len() < MOST_INPUT {
            match pin!(socket.read_buf(&mut *input)).poll(cx)? {
                Poll::Ready(0) => return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
                Poll::Ready(_) => {}
                Poll::Pending => break,
            }
        }
        Poll::Pending
    })
    .await
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;

    use super::*;

    #[tokio::test]
    async fn all_is_sent_and_what_comes_meanwhile_is_kept() {
        let (mut ours, mut theirs) = tokio::io::duplex(8);
        let sent: Vec<u8> = (0..100).collect();
        let server = tokio::spawn(async move {
            let mut taken = vec![0; 100];
            theirs.write_all(b"an answer").await.unwrap();
            theirs.read_exact(&mut taken).await.unwrap();
            taken
        });
        let mut input = BytesMut::from(&b"before: "[..]);
        send(&mut ours, &sent, &mut input).await.unwrap();
        assert_eq!(server.await.unwrap(), sent);
        while input.len() < 17 {
            ours.read_buf(&mut input).await.unwrap();
        }
        assert_eq!(input, "before: an answer");
    }

    #[tokio::test]
    async fn a_server_that_hangs_up_and_takes_no_more_is_noticed() {
        // As it is, and behind something that takes all and keeps it back until it is flushed, as TLS does.
        for keeps_back in [false, true] {
            let (ours, mut theirs) = tokio::io::duplex(8);
            theirs.write_all(b"bye").await.unwrap();
            // It stays open, so that what is sent is not refused.
            theirs.shutdown().await.unwrap();
            let mut ours: Box<dyn Socket> = match keeps_back {
                true => Box::new(tokio::io::BufWriter::new(ours)),
                false => Box::new(ours),
            };
            let mut input = BytesMut::new();
            let sent = tokio::time::timeout(Duration::from_secs(10), send(&mut *ours, &[0; 100], &mut input)).await;
            assert_eq!(sent.unwrap().unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
            assert_eq!(input, "bye");
        }
    }
}
