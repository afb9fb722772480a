//! A link to a server that is cut just when something is committed.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

/// When the connection on which a commit is asked for is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// Before the server hears of it.
    Before,
    /// As soon as it was passed on.
    AtOnce,
    /// When the server has answered; the answer is lost.
    AfterReply,
}

impl Moment {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Before, Self::AtOnce, Self::AfterReply];
}

/// Passes connections on to a server, and cuts one of them.
pub struct CutLink {
    port: u16,
    shared: Arc<Shared>,
}

struct Shared {
    /// What asks for a commit, in the bytes of the protocol.
    words: &'static [&'static str],
    /// Commits until the one that is cut; negative when that is over.
    left: AtomicI64,
    moment: Mutex<Moment>,
    cuts: AtomicUsize,
    /// Commits that passed or were cut.
    commits: AtomicUsize,
    stop: AtomicBool,
}

impl CutLink {
    /// To `server`, a port of this machine, where statements that begin with one of `words` commit.
    pub fn to(server: u16, words: &'static [&'static str]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = Arc::new(Shared {
            words,
            left: AtomicI64::new(-1),
            moment: Mutex::new(Moment::Before),
            cuts: AtomicUsize::new(0),
            commits: AtomicUsize::new(0),
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
                let copies = (client.try_clone().unwrap(), server.try_clone().unwrap());
                let swallows = Arc::new(AtomicBool::new(false));
                let (up, swallowed) = (shared.clone(), swallows.clone());
                std::thread::spawn(move || up.pass_up(client, copies.1, &swallows));
                std::thread::spawn(move || pass_down(server, copies.0, &swallowed));
            }
        });
        link
    }

    /// Cuts the connection of commit `n` from now on, counted from 1, at that moment.
    pub fn arm(&self, n: u32, moment: Moment) {
        *self.shared.moment.lock().unwrap() = moment;
        self.shared.commits.store(0, Ordering::SeqCst);
        self.shared.left.store(n.into(), Ordering::SeqCst);
    }

    /// Cuts nothing more.
    pub fn disarm(&self) {
        self.shared.left.store(-1, Ordering::SeqCst);
    }

    /// Cuts that there were.
    pub fn cuts(&self) -> usize {
        self.shared.cuts.load(Ordering::SeqCst)
    }

    /// Commits that were asked for since it was armed.
    pub fn commits(&self) -> usize {
        self.shared.commits.load(Ordering::SeqCst)
    }

    /// The port on 127.0.0.1 that stands for that of the server.
    pub fn port(&self) -> u16 {
        self.port
    }
}

impl Drop for CutLink {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        // Wakes the thread, which ends then.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

impl Shared {
    fn pass_up(&self, mut client: TcpStream, mut server: TcpStream, swallows: &AtomicBool) {
        let mut block = [0; 64 << 10];
        while let Ok(read @ 1..) = client.read(&mut block) {
            // A statement that commits is one small message, which comes in one piece.
            let sent = &block[..read];
            let is_commit = |word: &&str| sent.windows(word.len()).any(|bytes| bytes == word.as_bytes());
            let is_last = self.words.iter().any(is_commit) && {
                self.commits.fetch_add(1, Ordering::SeqCst);
                self.left.fetch_sub(1, Ordering::SeqCst) == 1
            };
            if !is_last {
                if server.write_all(sent).is_err() {
                    break;
                }
                continue;
            }
            self.cuts.fetch_add(1, Ordering::SeqCst);
            let moment = *self.moment.lock().unwrap();
            match moment {
                Moment::Before => {}
                Moment::AtOnce => _ = server.write_all(sent),
                Moment::AfterReply => {
                    swallows.store(true, Ordering::SeqCst);
                    if server.write_all(sent).is_ok() {
                        // The other direction ends both when the answer is there.
                        continue;
                    }
                }
            }
            _ = client.shutdown(Shutdown::Both);
            _ = server.shutdown(Shutdown::Both);
            return;
        }
        _ = server.shutdown(Shutdown::Write);
    }
}

fn pass_down(mut server: TcpStream, mut client: TcpStream, swallows: &AtomicBool) {
    let mut block = [0; 64 << 10];
    while let Ok(read @ 1..) = server.read(&mut block) {
        if swallows.load(Ordering::SeqCst) {
            _ = client.shutdown(Shutdown::Both);
            _ = server.shutdown(Shutdown::Both);
            return;
        }
        if client.write_all(&block[..read]).is_err() {
            break;
        }
    }
    _ = client.shutdown(Shutdown::Write);
}
