//! Spans of runs for a collector of [OpenTelemetry](https://opentelemetry.io).

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use etlrs_core::{Error, ErrorKind, Result};
use opentelemetry::trace::TracerProvider;
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tokio::runtime::Handle;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;

/// Sends spans to a collector: of each run, of its scan, its partitions and its commit.
///
/// Which collector that is, and how it is asked, say the variables of the environment that OpenTelemetry has for OTLP over HTTP
/// (`OTEL_EXPORTER_OTLP_ENDPOINT`, `OTEL_EXPORTER_OTLP_HEADERS`, `OTEL_SERVICE_NAME` and others).
///
/// ```no_run
/// use etlrs_metrics::Traces;
///
/// # tokio::runtime::Runtime::new().unwrap().block_on(async {
/// let traces = Traces::start()?;
/// traces.install()?;
/// // Pipelines run here.
/// traces.finish().await?;
/// # Ok::<(), etlrs_core::Error>(()) }).unwrap();
/// ```
#[derive(Debug)]
pub struct Traces {
    provider: SdkTracerProvider,
    problem: Problem,
}

/// The first thing that went wrong.
type Problem = Arc<Mutex<Option<String>>>;

impl Traces {
    /// Whether the environment names a collector.
    pub fn are_wanted() -> bool {
        let names = ["OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"];
        names.iter().any(|name| std::env::var_os(name).is_some_and(|value| !value.is_empty()))
    }

    /// Begins to send, from the tokio runtime that this is called in.
    ///
    /// # Errors
    /// `InvalidConfig` if the environment says what cannot be.
    pub fn start() -> Result<Self> {
        let problem = Problem::default();
        let wrong = |error: &dyn std::fmt::Display| {
            Error::new(ErrorKind::InvalidConfig, format!("traces cannot be sent: {error}"))
                .hint("look at the variables that begin with OTEL_EXPORTER_OTLP_")
        };
        let client = reqwest::Client::builder().timeout(timeout()).build().map_err(|error| wrong(&error))?;
        let client = Client { client, runtime: Handle::current(), problem: problem.clone() };
        let exporter = SpanExporter::builder().with_http().with_http_client(client).with_protocol(Protocol::HttpBinary);
        let exporter = exporter.build().map_err(|error| wrong(&error))?;
        let mut resource = Resource::builder();
        if std::env::var_os("OTEL_SERVICE_NAME").is_none() {
            resource = resource.with_service_name("etlrs");
        }
        let provider =
            SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource.build()).build();
        Ok(Self { provider, problem })
    }

    /// Makes a subscriber that only sends these spans the one of the whole process. Programs that have a subscriber give it the
    /// [`layer`](Self::layer) instead.
    ///
    /// # Errors
    /// `InvalidConfig` if the process has a subscriber.
    pub fn install(&self) -> Result<()> {
        let subscriber = tracing_subscriber::registry().with(self.layer());
        tracing::subscriber::set_global_default(subscriber)
            .map_err(|_| Error::new(ErrorKind::InvalidConfig, "the process has a subscriber for traces already"))
    }

    /// What a subscriber of `tracing` hands the spans of ETLRS to, and no others.
    pub fn layer<S: tracing::Subscriber + for<'a> LookupSpan<'a>>(&self) -> impl Layer<S> {
        let tracer = self.provider.tracer("etlrs");
        tracing_opentelemetry::layer()
            .with_tracer(tracer)
            .with_filter(filter_fn(|metadata| metadata.target().starts_with("etlrs")))
    }

    /// Sends what has not been sent.
    ///
    /// # Errors
    /// `Io` if the collector could not be reached, or did not take all.
    pub async fn finish(self) -> Result<()> {
        let provider = self.provider;
        // It waits for the thread that sends, which waits for this runtime.
        let done = tokio::task::spawn_blocking(move || provider.shutdown()).await;
        let problem = self.problem.lock().unwrap_or_else(PoisonError::into_inner).take();
        let problem = problem.or_else(|| match done {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(error.to_string()),
            Err(error) => Some(error.to_string()),
        });
        match problem {
            None => Ok(()),
            Some(problem) => Err(Error::new(ErrorKind::Io, format!("traces were not sent: {problem}"))),
        }
    }
}

/// In which a collector has to answer, as the environment has it.
fn timeout() -> Duration {
    let names = ["OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "OTEL_EXPORTER_OTLP_TIMEOUT"];
    let given = names.iter().find_map(|name| std::env::var(name).ok()?.parse().ok());
    Duration::from_millis(given.unwrap_or(10_000))
}

/// Sends from the runtime, whoever asks: the thread that gathers spans is none of it.
#[derive(Debug)]
struct Client {
    client: reqwest::Client,
    runtime: Handle,
    problem: Problem,
}

#[async_trait]
impl HttpClient for Client {
    async fn send_bytes(&self, request: Request<Bytes>) -> std::result::Result<Response<Bytes>, HttpError> {
        let client = self.client.clone();
        let sent = self.runtime.spawn(async move {
            let answer = client.execute(request.try_into()?).await?;
            let mut response = Response::new(Bytes::new());
            (*response.status_mut(), *response.headers_mut()) = (answer.status(), answer.headers().clone());
            *response.body_mut() = answer.bytes().await?;
            Ok::<_, reqwest::Error>(response)
        });
        // The URL may hold what is secret.
        let answer = sent.await?.map_err(reqwest::Error::without_url);
        let problem = match &answer {
            Ok(answer) if answer.status().is_success() => None,
            Ok(answer) => Some(format!("the collector answered {}", answer.status())),
            Err(error) => Some(format!("the collector cannot be reached: {}", innermost(error))),
        };
        if let Some(problem) = problem {
            self.problem.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(problem);
        }
        Ok(answer?)
    }
}

/// The error that says why.
fn innermost(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}
