//! Links to a server that are slow or broken, on loopback.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// What is wrong with a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Whatever passes takes so long.
    Latency(Duration),
    /// So many bytes a second on each connection.
    Bandwidth(u64),
    /// So many bytes at a time.
    Slices(usize),
    /// The connection on which the byte of that number goes to the server is reset.
    Reset(u64),
    /// Nothing passes any more on that connection, though it stays open.
    Stall(u64),
    /// Nothing passes any more on any connection from then on.
    StallAll(u64),
    /// The server loses that connection, and the client does not hear of it.
    HalfOpen(u64),
}

impl Shape {
    /// When it breaks, if it does.
    fn breaks_at(self) -> Option<u64> {
        match self {
            Self::Reset(at) | Self::Stall(at) | Self::StallAll(at) | Self::HalfOpen(at) => Some(at),
            _ => None,
        }
    }
}

/// Passes connections on to a server.
pub struct BrokenLink {
    port: u16,
    shared: Arc<Shared>,
}

struct Shared {
    shape: Shape,
    /// Bytes that went to the server.
    passed: AtomicU64,
    broken: AtomicBool,
    /// Nothing is wrong any more.
    mended: AtomicBool,
    stop: AtomicBool,
}

impl BrokenLink {
    /// To `server`, a port of this machine.
    pub fn to(server: u16, shape: Shape) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = Arc::new(Shared {
            shape,
            passed: AtomicU64::new(0),
            broken: AtomicBool::new(false),
            mended: AtomicBool::new(false),
            stop: AtomicBool::new(false),
        });
        let link = Self { port, shared: shared.clone() };
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                if shared.stop.load(Ordering::SeqCst) {
                    break;
                }
                let Ok(server) = TcpStream::connect(("127.0.0.1", server)) else { continue };
                for socket in [&client, &server] {
                    socket.set_nodelay(true).unwrap();
                }
                let stalls = Arc::new(AtomicBool::new(false));
                let up = Direction {
                    shared: shared.clone(),
                    from: client.try_clone().unwrap(),
                    to: server.try_clone().unwrap(),
                    is_up: true,
                    stalls: stalls.clone(),
                };
                let down = Direction { shared: shared.clone(), from: server, to: client, is_up: false, stalls };
                std::thread::spawn(move || up.pass());
                std::thread::spawn(move || down.pass());
            }
        });
        link
    }

    /// Whether it is broken by now.
    pub fn is_broken(&self) -> bool {
        self.shared.broken.load(Ordering::SeqCst)
    }

    /// Bytes that went to the server.
    pub fn passed(&self) -> u64 {
        self.shared.passed.load(Ordering::SeqCst)
    }

    /// From now on connections are as they should be.
    pub fn mend(&self) {
        self.shared.mended.store(true, Ordering::SeqCst);
    }

    /// The port on 127.0.0.1 that stands for that of the server.
    pub fn port(&self) -> u16 {
        self.port
    }
}

impl Drop for BrokenLink {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        // Wakes the thread, which ends then.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

struct Direction {
    shared: Arc<Shared>,
    from: TcpStream,
    to: TcpStream,
    is_up: bool,
    /// Nothing passes on this connection.
    stalls: Arc<AtomicBool>,
}

impl Direction {
    fn pass(mut self) {
        let mut block = [0; 16 << 10];
        while let Ok(read @ 1..) = self.from.read(&mut block) {
            let bytes = &block[..read];
            if self.is_up {
                self.count(read as u64);
            }
            if self.is_stalled() {
                // As long as both ends stay.
                while !self.shared.stop.load(Ordering::SeqCst) && !self.shared.mended.load(Ordering::SeqCst) {
                    std::thread::sleep(Duration::from_millis(20));
                }
                break;
            }
            if self.send(bytes).is_err() {
                break;
            }
        }
        let half_open = matches!(self.shared.shape, Shape::HalfOpen(_)) && self.stalls.load(Ordering::SeqCst);
        if !half_open || self.is_up {
            let _ = self.to.shutdown(Shutdown::Write);
        }
    }

    fn is_stalled(&self) -> bool {
        let all = matches!(self.shared.shape, Shape::StallAll(_)) && self.shared.broken.load(Ordering::SeqCst);
        (all || self.stalls.load(Ordering::SeqCst)) && !self.shared.mended.load(Ordering::SeqCst)
    }

    /// Breaks the connection, if it is time.
    fn count(&self, bytes: u64) {
        let passed = self.shared.passed.fetch_add(bytes, Ordering::SeqCst) + bytes;
        let Some(at) = self.shared.shape.breaks_at() else { return };
        if passed < at || self.shared.mended.load(Ordering::SeqCst) || self.shared.broken.swap(true, Ordering::SeqCst) {
            return;
        }
        self.stalls.store(true, Ordering::SeqCst);
        match self.shared.shape {
            Shape::Reset(_) => {
                for socket in [&self.from, &self.to] {
                    // A close with this is a reset.
                    rustix::net::sockopt::set_socket_linger(socket, Some(Duration::ZERO)).unwrap();
                    let _ = socket.shutdown(Shutdown::Both);
                }
            }
            Shape::HalfOpen(_) => _ = self.to.shutdown(Shutdown::Both),
            _ => {}
        }
    }

    fn send(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        match self.shared.shape {
            _ if self.shared.mended.load(Ordering::SeqCst) => self.to.write_all(bytes),
            Shape::Latency(time) => {
                std::thread::sleep(time);
                self.to.write_all(bytes)
            }
            Shape::Bandwidth(rate) => {
                std::thread::sleep(Duration::from_nanos(bytes.len() as u64 * 1_000_000_000 / rate));
                self.to.write_all(bytes)
            }
            Shape::Slices(size) => bytes.chunks(size).try_for_each(|slice| self.to.write_all(slice)),
            _ => self.to.write_all(bytes),
        }
    }
}
