//! What the endpoint serves while a run goes on and when it is over.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

use std::collections::BTreeMap;
use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use etlrs_core::*;
use etlrs_csv::{CsvExtractor, CsvLoader};
use etlrs_engine::{Expr, Filter, PipelineBuilder};
use etlrs_metrics::{MetricsServer, PerformanceMetrics};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

async fn get(address: SocketAddr, request: &str) -> (String, String) {
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    stream.write_all(format!("{request} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.to_owned(), body.to_owned())
}

/// The values by name and labels. Each has to be announced with help and a type before.
fn values(text: &str) -> BTreeMap<String, f64> {
    let (mut values, mut known) = (BTreeMap::new(), String::new());
    for line in text.lines() {
        if let Some(comment) = line.strip_prefix("# ") {
            let mut words = comment.splitn(3, ' ');
            assert!(matches!(words.next(), Some("HELP" | "TYPE")), "{line}");
            known = words.next().unwrap().to_owned();
            assert!(!words.next().unwrap().is_empty(), "{line}");
            continue;
        }
        let (name, value) = line.rsplit_once(' ').unwrap();
        assert!(name.starts_with(&known), "{line} comes behind {known}");
        assert!(values.insert(name.to_owned(), value.parse().unwrap()).is_none(), "{line} comes twice");
    }
    values
}

/// A file of the numbers below 5000.
fn numbers(folder: &Path) -> CsvExtractor {
    let path = folder.join("numbers.csv");
    let text: String =
        std::iter::once("n".to_owned()).chain((0..5000).map(|n| n.to_string())).map(|line| line + "\n").collect();
    std::fs::write(&path, text).unwrap();
    CsvExtractor::new(path)
}

/// Takes 2 ms for each batch.
fn pause() -> impl Transformer {
    map_batches(|schema: &SchemaRef| {
        Ok((schema.clone(), |batch: RecordBatch| {
            std::thread::sleep(Duration::from_millis(2));
            Ok(batch)
        }))
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_served_is_what_was_delivered() {
    let metrics = PerformanceMetrics::new().unwrap();
    let server = MetricsServer::start("127.0.0.1:0", metrics.clone()).await.unwrap();
    let address = server.address();
    let folder = tempfile::tempdir().unwrap();
    let (live, target) = (metrics.clone(), folder.path().join("out.csv"));
    let pipeline = PipelineBuilder::new()
        .extract(numbers(folder.path()))
        .transform(pause())
        .transform(Filter::new(Expr::parse("n >= 1000").unwrap()))
        .load(CsvLoader::new(&target))
        .request(ScanRequest::all().partitions(4))
        .config(PerformanceConfig { max_threads: 2, batch_size: 50, ..PerformanceConfig::default() })
        .on_start(move |started| live.watch("numbers \"1\"", started))
        .build()
        .unwrap();
    let running = tokio::spawn(async move { pipeline.execute().await.unwrap() });
    let (mut seen, mut snapshot) = (0.0, None);
    while !running.is_finished() {
        let (head, text) = get(address, "GET /metrics").await;
        assert!(head.starts_with("HTTP/1.1 200") && head.contains("text/plain; version=0.0.4"), "{head}");
        let now = values(&text);
        let rows = now.get("etlrs_records_processed_total{pipeline=\"numbers \\\"1\\\"\",stage=\"source\"}");
        let rows = rows.copied().unwrap_or(0.0);
        assert!(rows >= seen, "{rows} after {seen}");
        seen = rows;
        snapshot = metrics.snapshot("numbers \"1\"").or(snapshot);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(snapshot.is_some_and(|snapshot| snapshot.records > 0 && snapshot.records <= 5000), "{snapshot:?}");
    assert!(seen > 0.0, "nothing was seen while it ran");
    let report = running.await.unwrap();
    metrics.record_pipeline_execution("numbers \"1\"", &report);
    let (_, text) = get(address, "GET /metrics").await;
    let found = values(&text);
    // Labels come in the order of their names.
    let value = |name: &str, labels: &str| {
        let mut labels: Vec<_> = labels.split(',').filter(|label| !label.is_empty()).collect();
        labels.push("pipeline=\"numbers \\\"1\\\"\"");
        labels.sort_unstable();
        let name = format!("{name}{{{}}}", labels.join(","));
        *found.get(&name).unwrap_or_else(|| panic!("{name} is not in\n{text}"))
    };
    assert_eq!(value("etlrs_records_loaded_total", ""), 4000.0);
    assert_eq!(report.load.records_loaded, 4000);
    let size = |name: &str| std::fs::metadata(folder.path().join(name)).unwrap().len();
    assert_eq!(value("etlrs_bytes_total", "direction=\"written\""), size("out.csv") as f64);
    // Without the header, which was read before.
    assert_eq!(value("etlrs_bytes_total", "direction=\"read\""), (size("numbers.csv") - 2) as f64);
    assert_eq!(report.bytes_read, size("numbers.csv") - 2);
    for (stage, rows) in [("source", 5000.0), ("transform", 5000.0), ("filter", 4000.0), ("target", 4000.0)] {
        assert_eq!(value("etlrs_records_processed_total", &format!("stage=\"{stage}\"")), rows, "{stage}");
    }
    let paused = value("etlrs_stage_duration_seconds_total", "stage=\"transform\",state=\"blocked\"");
    assert!((0.2..2.0).contains(&paused), "{paused}");
    assert_eq!(value("etlrs_runs_total", "result=\"success\""), 1.0);
    assert_eq!(value("etlrs_runs_active", ""), 0.0);
    assert_eq!(value("etlrs_processing_duration_seconds_count", ""), 1.0);
    assert!(found["etlrs_memory_usage_bytes{kind=\"resident\"}"] > 1e6);

    // A run that nobody watched is recorded whole.
    let pipeline = PipelineBuilder::new().extract(numbers(folder.path())).load(MemoryLoader::new()).build().unwrap();
    let report = pipeline.execute().await.unwrap();
    metrics.record_pipeline_execution("other", &report);
    metrics.record_pipeline_failure("other", None);
    let (_, text) = get(address, "GET /metrics").await;
    let found = values(&text);
    assert_eq!(found["etlrs_records_processed_total{pipeline=\"other\",stage=\"source\"}"], 5000.0);
    assert_eq!(found["etlrs_runs_total{pipeline=\"other\",result=\"failure\"}"], 1.0);
    promtool(&text);
}

/// Two runs of one name are two runs.
#[tokio::test(flavor = "multi_thread")]
async fn a_failure_is_that_of_its_run() {
    let metrics = PerformanceMetrics::new().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let mut reports = Vec::new();
    for _ in 0..2 {
        let live = metrics.clone();
        let builder = PipelineBuilder::new().extract(numbers(folder.path())).load(MemoryLoader::new());
        let pipeline = builder.on_start(move |started| live.watch("twin", started)).build().unwrap();
        reports.push(pipeline.execute().await.unwrap());
    }
    metrics.record_pipeline_failure("twin", Some(reports[1].run));
    metrics.record_pipeline_execution("twin", &reports[0]);
    let found = values(&metrics.text().unwrap());
    assert_eq!(found["etlrs_runs_active{pipeline=\"twin\"}"], 0.0);
    assert_eq!(found["etlrs_records_processed_total{pipeline=\"twin\",stage=\"source\"}"], 10_000.0);
}

/// Prometheus's own check, where it is installed.
fn promtool(text: &str) {
    let child = std::process::Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn();
    let Ok(mut child) = child else {
        eprintln!("SKIPPED: promtool is not installed, so its check of the metrics was left out");
        return;
    };
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.is_empty(), "{said}\n{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_metrics_are_served() {
    let server = MetricsServer::start("127.0.0.1:0", PerformanceMetrics::new().unwrap()).await.unwrap();
    assert!(get(server.address(), "GET /").await.0.starts_with("HTTP/1.1 404"));
    assert!(get(server.address(), "POST /metrics").await.0.starts_with("HTTP/1.1 405"));
    let taken = server.address().to_string();
    let error = MetricsServer::start(taken.as_str(), PerformanceMetrics::new().unwrap()).await.unwrap_err();
    assert!(error.to_string().contains(&taken), "{error}");
    drop(server);
    // The address is free again.
    for _ in 0..100 {
        if MetricsServer::start(taken.as_str(), PerformanceMetrics::new().unwrap()).await.is_ok() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{taken} is still listened on");
}
