use std::convert::Infallible;
use std::net::SocketAddr;

use etlrs_core::{Error, ErrorKind, Result};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, ToSocketAddrs};
use tokio::task::AbortHandle;

use crate::PerformanceMetrics;

/// Serves metrics at `/metrics`, until it is dropped.
///
/// There is no encryption and nobody is asked for a password, so it belongs on loopback or in a network that is trusted. Metrics
/// hold names of pipelines and stages, and no data.
#[derive(Debug)]
pub struct MetricsServer {
    address: SocketAddr,
    task: AbortHandle,
}

impl MetricsServer {
    /// On `address` (`127.0.0.1:9090`; with port 0 on one that is free), by a task of the tokio runtime that this is called in.
    ///
    /// # Errors
    /// `Io` if the address cannot be listened on, naming it.
    pub async fn start(address: impl ToSocketAddrs + std::fmt::Display, metrics: PerformanceMetrics) -> Result<Self> {
        let failed = |error: std::io::Error| {
            Error::new(ErrorKind::Io, format!("metrics cannot be served at {address}: {error}"))
                .hint("give an address of this machine with a free port, such as 127.0.0.1:9090")
                .caused_by(error)
        };
        let listener = TcpListener::bind(&address).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let task = tokio::spawn(serve(listener, metrics)).abort_handle();
        Ok(Self { address, task })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for MetricsServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Who asks nothing for so long is hung up on.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(10);
/// Connections at a time: a run needs files to be opened too.
const MOST_CONNECTIONS: usize = 64;

async fn serve(listener: TcpListener, metrics: PerformanceMetrics) {
    // Ends its connections with itself.
    let mut connections = tokio::task::JoinSet::new();
    loop {
        let Ok((connection, _)) = listener.accept().await else {
            // Too many open files, for one: others are closed meanwhile.
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            continue;
        };
        while connections.try_join_next().is_some() {}
        if connections.len() >= MOST_CONNECTIONS {
            continue;
        }
        let metrics = metrics.clone();
        let service = service_fn(move |request| std::future::ready(Ok::<_, Infallible>(answer(&request, &metrics))));
        connections.spawn(async move {
            // Whoever hangs up gets no answer.
            let mut server = hyper::server::conn::http1::Builder::new();
            server.timer(TokioTimer::new()).header_read_timeout(PATIENCE);
            let _ = server.serve_connection(TokioIo::new(connection), service).await;
        });
    }
}

fn answer(request: &Request<Incoming>, metrics: &PerformanceMetrics) -> Response<Full<Bytes>> {
    let page = |status, content_type, text: String| {
        let mut response = Response::new(Full::new(Bytes::from(text)));
        *response.status_mut() = status;
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        response
    };
    const PLAIN: &str = "text/plain; charset=utf-8";
    match (request.method(), request.uri().path()) {
        (&Method::GET | &Method::HEAD, "/metrics") => match metrics.text() {
            Ok(text) => page(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", text),
            Err(error) => page(StatusCode::INTERNAL_SERVER_ERROR, PLAIN, error.to_string()),
        },
        (&Method::GET | &Method::HEAD, _) => page(StatusCode::NOT_FOUND, PLAIN, "metrics are at /metrics\n".into()),
        _ => page(StatusCode::METHOD_NOT_ALLOWED, PLAIN, "only GET is served\n".into()),
    }
}
