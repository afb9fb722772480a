//! A real S3 server on loopback, for tests: s3s with a directory behind it.

use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use s3s::auth::SimpleAuth;
use s3s::service::{S3Service, S3ServiceBuilder};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

/// The key that the server wants.
pub const ACCESS_KEY: &str = "etlrs-tests";
/// Its secret: to be seen nowhere.
pub const SECRET_KEY: &str = "canary-of-the-secret-key";
/// The bucket that there is.
pub const BUCKET: &str = "bucket";

/// A server that stops when it is dropped, and with it its data.
pub struct S3Server {
    root: tempfile::TempDir,
    port: u16,
    shared: Arc<Shared>,
    // Dropped last: its threads serve.
    _runtime: Runtime,
}

#[derive(Default)]
struct Shared {
    requests: Mutex<Vec<Request>>,
    /// Requests that are answered with 503 instead, the next ones first.
    failures: AtomicUsize,
}

/// A request that the server got.
#[derive(Clone, Debug)]
pub struct Request {
    /// `GET`, `PUT`.
    pub method: String,
    /// With its parameters.
    pub path: String,
    /// Length of the range that was asked for.
    pub range: Option<u64>,
}

impl S3Server {
    /// Starts one with an empty bucket.
    pub fn start() -> Self {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join(BUCKET)).unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let mut service = S3ServiceBuilder::new(s3s_fs::FileSystem::new(root.path()).unwrap());
        service.set_auth(SimpleAuth::from_single(ACCESS_KEY, SECRET_KEY));
        let service = service.build();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = Arc::<Shared>::default();
        runtime.spawn(serve(listener, service, shared.clone()));
        Self { root, port, shared, _runtime: runtime }
    }

    /// The URL of an object.
    pub fn url(&self, key: &str) -> String {
        format!("s3://{BUCKET}/{key}")
    }

    /// The file in which the server keeps an object.
    pub fn file(&self, key: &str) -> PathBuf {
        self.root.path().join(BUCKET).join(key)
    }

    /// The names of the objects in a directory, in order.
    pub fn names(&self, directory: &str) -> Vec<String> {
        let entries = std::fs::read_dir(self.file(directory)).into_iter().flatten();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// Puts a copy of a local file into the bucket.
    pub fn put(&self, file: &Path, key: &str) {
        std::fs::create_dir_all(self.file(key).parent().unwrap()).unwrap();
        std::fs::copy(file, self.file(key)).unwrap();
    }

    /// Lets `command` find the server, with `secret` for the secret key.
    pub fn environment<'a>(&self, command: &'a mut Command, secret: &str) -> &'a mut Command {
        command
            .env("AWS_ENDPOINT_URL", format!("http://127.0.0.1:{}", self.port))
            .env("AWS_ACCESS_KEY_ID", ACCESS_KEY)
            .env("AWS_SECRET_ACCESS_KEY", secret)
            .env("AWS_REGION", "us-east-1")
    }

    /// The requests since this was asked last.
    pub fn requests(&self) -> Vec<Request> {
        std::mem::take(&mut *self.shared.requests.lock().unwrap())
    }

    /// How many requests there were since `requests` was asked last.
    pub fn request_count(&self) -> usize {
        self.shared.requests.lock().unwrap().len()
    }

    /// Answers the next `n` requests with an error of the kind that passes.
    pub fn fail(&self, n: usize) {
        self.shared.failures.store(n, Ordering::SeqCst);
    }
}

async fn serve(listener: TcpListener, service: S3Service, shared: Arc<Shared>) {
    loop {
        let (socket, _) = listener.accept().await.unwrap();
        let (service, shared) = (service.clone(), shared.clone());
        let answer = move |request: hyper::Request<hyper::body::Incoming>| {
            let (service, shared) = (service.clone(), shared.clone());
            async move {
                shared.requests.lock().unwrap().push(Request {
                    method: request.method().to_string(),
                    path: request.uri().to_string(),
                    range: request.headers().get("range").and_then(|range| length(range.to_str().ok()?)),
                });
                let fails =
                    shared.failures.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
                if fails.is_ok() {
                    return Ok(hyper::Response::builder().status(503).body(s3s::Body::empty()).unwrap());
                }
                let answered = service.call(request.map(s3s::Body::from)).await;
                Ok::<_, Infallible>(answered.unwrap())
            }
        };
        tokio::spawn(async move {
            let service = hyper::service::service_fn(answer);
            // A client that goes away is no matter.
            let _ = Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(socket), service).await;
        });
    }
}

/// Of `bytes=3-9`: 7.
fn length(range: &str) -> Option<u64> {
    let (start, end) = range.strip_prefix("bytes=")?.split_once('-')?;
    Some(end.parse::<u64>().ok()? - start.parse::<u64>().ok()? + 1)
}
