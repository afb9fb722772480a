//! A server that keeps what is posted to it.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// What was posted.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// Where to.
    pub path: String,
    /// The header of this name.
    pub content_type: String,
    /// The header of this name.
    pub authorization: String,
    /// What.
    pub body: Vec<u8>,
}

/// Answers each request with 200, and those whose path begins with `/refuse` with 403.
pub struct Receiver {
    port: u16,
    requests: Arc<Mutex<Vec<Request>>>,
}

impl Receiver {
    /// On a free port. It ends with the process.
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let requests = Arc::default();
        let kept = Arc::clone(&requests);
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let kept = Arc::clone(&kept);
                std::thread::spawn(move || answer(client, &kept));
            }
        });
        Self { port, requests }
    }

    /// The port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// What came since this was asked last.
    pub fn requests(&self) -> Vec<Request> {
        std::mem::take(&mut *self.requests.lock().unwrap())
    }
}

fn answer(client: TcpStream, kept: &Mutex<Vec<Request>>) {
    let mut writer = client.try_clone().unwrap();
    let mut reader = BufReader::new(client);
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).unwrap_or(0) == 0 {
            return;
        }
        let path = line.split_whitespace().nth(1).unwrap_or_default().to_owned();
        let (mut request, mut length) = (Request { path, ..Request::default() }, 0);
        loop {
            let mut header = String::new();
            reader.read_line(&mut header).unwrap();
            let Some((name, value)) = header.trim().split_once(": ") else { break };
            match name.to_ascii_lowercase().as_str() {
                "content-length" => length = value.parse().unwrap(),
                "content-type" => request.content_type = value.to_owned(),
                "authorization" => request.authorization = value.to_owned(),
                _ => {}
            }
        }
        request.body = vec![0; length];
        reader.read_exact(&mut request.body).unwrap();
        let status = if request.path.starts_with("/refuse") { "403 Forbidden" } else { "200 OK" };
        kept.lock().unwrap().push(request);
        if write!(writer, "HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n").is_err() {
            return;
        }
    }
}
