//! Metrics of pipelines for [Prometheus](https://prometheus.io), and an endpoint that serves them.
//!
//! ```
//! use etlrs_core::{MemoryExtractor, MemoryLoader, record_batch};
//! use etlrs_engine::PipelineBuilder;
//! use etlrs_metrics::{MetricsServer, PerformanceMetrics};
//!
//! # tokio::runtime::Runtime::new().unwrap().block_on(async {
//! let metrics = PerformanceMetrics::new()?;
//! let server = MetricsServer::start("127.0.0.1:0", metrics.clone()).await?;
//! println!("http://{}/metrics", server.address());
//!
//! let flights = record_batch([("delay", vec![Some(2), Some(40)])]);
//! let live = metrics.clone();
//! let report = PipelineBuilder::new()
//!     .extract(MemoryExtractor::new(flights.schema(), [flights]))
//!     .load(MemoryLoader::new())
//!     .on_start(move |started| live.watch("flights", started))
//!     .build()?
//!     .execute()
//!     .await?;
//! metrics.record_pipeline_execution("flights", &report);
//! assert!(metrics.text()?.contains("etlrs_records_loaded_total{pipeline=\"flights\"} 2"));
//! # Ok::<(), etlrs_core::Error>(()) }).unwrap();
//! ```

mod metrics;
mod resources;
mod server;
#[cfg(feature = "opentelemetry")]
mod traces;

pub use etlrs_engine::{Alert, AlertThresholds, PerformanceAlert, PerformanceSnapshot};
pub use metrics::PerformanceMetrics;
pub use prometheus;
pub use resources::ResourceUsage;
pub use server::MetricsServer;
#[cfg(feature = "opentelemetry")]
pub use traces::Traces;
