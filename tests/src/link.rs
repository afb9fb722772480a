//! A slow link to a server, on loopback.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Passes connections on to a server, at so many bytes a second in each direction.
pub struct Link {
    port: u16,
    stop: Arc<AtomicBool>,
    open: Arc<Open>,
}

/// Connections that there are now, and the most that there were at a time.
#[derive(Default)]
struct Open {
    now: AtomicUsize,
    most: AtomicUsize,
}

/// Bytes that are passed on at once.
const BLOCK: usize = 4 << 10;

impl Link {
    /// To `server`, a port of this machine; all connections together have `bytes_a_second`.
    pub fn to(server: u16, bytes_a_second: u64) -> Self {
        let paces = [Arc::new(Pace::new(bytes_a_second)), Arc::new(Pace::new(bytes_a_second))];
        Self::with_paces(server, move || paces.clone())
    }

    /// The same, but each connection has `bytes_a_second` of its own, as over a long way.
    pub fn each(server: u16, bytes_a_second: u64) -> Self {
        Self::with_paces(server, move || [Arc::new(Pace::new(bytes_a_second)), Arc::new(Pace::new(bytes_a_second))])
    }

    fn with_paces(server: u16, paces: impl Fn() -> [Arc<Pace>; 2] + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let stop = Arc::new(AtomicBool::new(false));
        let is_stopped = stop.clone();
        let open = Arc::new(Open::default());
        let counted = open.clone();
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                if is_stopped.load(Ordering::Relaxed) {
                    break;
                }
                let Ok(server) = TcpStream::connect(("127.0.0.1", server)) else { continue };
                let copies = (client.try_clone().unwrap(), server.try_clone().unwrap());
                let [up, down] = paces();
                let now = counted.now.fetch_add(1, Ordering::SeqCst) + 1;
                counted.most.fetch_max(now, Ordering::SeqCst);
                let counted = counted.clone();
                std::thread::spawn(move || {
                    pass(client, copies.1, &up);
                    // The client has gone; its server may take a moment more.
                    counted.now.fetch_sub(1, Ordering::SeqCst);
                });
                std::thread::spawn(move || pass(server, copies.0, &down));
            }
        });
        Self { port, stop, open }
    }

    /// The most connections that there were at a time since this was asked last.
    pub fn most_connections(&self) -> usize {
        self.open.most.swap(0, Ordering::SeqCst)
    }

    /// The port on 127.0.0.1 that stands for that of the server.
    pub fn port(&self) -> u16 {
        self.port
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // Wakes the thread, which ends then.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

fn pass(mut from: TcpStream, mut to: TcpStream, pace: &Pace) {
    let mut block = [0; BLOCK];
    while let Ok(read @ 1..) = from.read(&mut block) {
        pace.wait(read as u64);
        if to.write_all(&block[..read]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
}

/// When the next bytes may pass.
struct Pace {
    bytes_a_second: u64,
    next: std::sync::Mutex<Instant>,
}

impl Pace {
    fn new(bytes_a_second: u64) -> Self {
        Self { bytes_a_second, next: std::sync::Mutex::new(Instant::now()) }
    }

    fn wait(&self, bytes: u64) {
        let time = Duration::from_nanos(bytes * 1_000_000_000 / self.bytes_a_second);
        let until = {
            let mut next = self.next.lock().unwrap();
            *next = (*next).max(Instant::now()) + time;
            *next
        };
        std::thread::sleep(until.saturating_duration_since(Instant::now()));
    }
}
