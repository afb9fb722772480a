use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use etlrs_core::{Error, ErrorKind, Result, RunContext, RunId};
use etlrs_engine::{Alert, CacheStats, PerformanceSnapshot, RunReport, StageReport, Stages, Started};
use prometheus::core::Collector;
use prometheus::{
    Counter, CounterVec, GaugeVec, HistogramOpts, HistogramVec, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    TextEncoder,
};

use crate::resources::ResourceUsage;

/// Metrics of the pipelines of a process. Clones are the same metrics.
///
/// | name | labels | |
/// |---|---|---|
/// | `etlrs_runs_total` | pipeline, result | runs that ended: `success`, `rejected` (some records were set aside), `failure` |
/// | `etlrs_runs_active` | pipeline | runs that read or write now |
/// | `etlrs_records_processed_total` | pipeline, stage | rows that came out of a stage as it happens, those of attempts that failed too |
/// | `etlrs_records_loaded_total` | pipeline | rows that were published |
/// | `etlrs_records_rejected_total` | pipeline | records that were set aside by runs that ended well |
/// | `etlrs_bytes_total` | pipeline, direction | bytes `read` at the source as it happens, and `written` to the target when they are published |
/// | `etlrs_records_per_second` | pipeline | rows that came out of the source since the last look, for each second; of a run that ended well its mean, until the next begins |
/// | `etlrs_retries_total` | pipeline | attempts at partitions after a first one |
/// | `etlrs_processing_duration_seconds` | pipeline | a histogram of how long runs took that ended well |
/// | `etlrs_stage_duration_seconds_total` | pipeline, stage, state | time of workers: `busy`, `blocked` or `waiting` ([`StageReport`]) |
/// | `etlrs_alerts_total` | pipeline, alert | alerts that were raised |
/// | `etlrs_cache_requests_total` | cache, result | what caches were asked for: `hit`, `miss` |
/// | `etlrs_memory_usage_bytes` | kind | `resident` and `peak` of the process, `budget` and `reserved` of the runs that are active |
/// | `etlrs_cpu_usage_seconds_total` | mode | `user` and `system` |
/// | `etlrs_disk_io_bytes_total`, `etlrs_network_io_bytes_total` | direction | of the process, and of the interfaces of its network |
/// | `etlrs_threads`, `etlrs_open_files` | | of the process |
///
/// A run costs nothing for being watched: what it counts anyway is looked at when somebody asks.
#[derive(Clone, Debug)]
pub struct PerformanceMetrics(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    registry: Registry,
    runs: IntCounterVec,
    active: IntGaugeVec,
    records: IntCounterVec,
    loaded: IntCounterVec,
    rejected: IntCounterVec,
    bytes: IntCounterVec,
    rate: GaugeVec,
    retries: IntCounterVec,
    duration: HistogramVec,
    stage_duration: CounterVec,
    alerts: IntCounterVec,
    caches: IntCounterVec,
    memory: IntGaugeVec,
    cpu: [Counter; 2],
    disk: IntCounterVec,
    network: IntCounterVec,
    threads: IntGauge,
    open_files: IntGauge,
    live: Mutex<Live>,
}

#[derive(Debug, Default)]
struct Live {
    runs: Vec<Run>,
    /// With the hits and misses that the metrics have already.
    caches: Vec<(String, CacheStats, [u64; 2])>,
    usage: ResourceUsage,
}

/// A run that is watched, and what of it the metrics have already.
#[derive(Debug)]
struct Run {
    pipeline: String,
    cx: RunContext,
    stages: Stages,
    seen: Seen,
}

#[derive(Debug)]
struct Seen {
    stages: Vec<StageReport>,
    bytes_read: u64,
    retries: u64,
    rows_read: u64,
    at: Instant,
}

impl PerformanceMetrics {
    /// In a registry of their own.
    ///
    /// # Errors
    /// None that is known.
    pub fn new() -> Result<Self> {
        Self::in_registry(Registry::new())
    }

    /// In a registry that has others too.
    ///
    /// # Errors
    /// `InvalidConfig` if it has metrics of these names.
    pub fn in_registry(registry: Registry) -> Result<Self> {
        let counters = |name: &str, help: &str, labels: &[&str]| {
            registered(&registry, IntCounterVec::new(Opts::new(name, help), labels))
        };
        let gauges = |name: &str, help: &str, labels: &[&str]| {
            registered(&registry, IntGaugeVec::new(Opts::new(name, help), labels))
        };
        let cpu_name = "etlrs_cpu_usage_seconds_total";
        let cpu =
            registered(&registry, CounterVec::new(Opts::new(cpu_name, "Processor time of the process"), &["mode"]))?;
        let duration = HistogramOpts::new("etlrs_processing_duration_seconds", "How long runs took that ended well")
            .buckets(vec![0.01, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0, 300.0, 600.0, 1800.0, 3600.0, 14_400.0]);
        let rate = Opts::new("etlrs_records_per_second", "Rows that came out of the source, for each second");
        let stage_duration =
            Opts::new("etlrs_stage_duration_seconds_total", "Time of workers in a stage, by what they did");
        let shared = Shared {
            runs: counters("etlrs_runs_total", "Runs that ended", &["pipeline", "result"])?,
            active: gauges("etlrs_runs_active", "Runs that read or write", &["pipeline"])?,
            records: counters(
                "etlrs_records_processed_total",
                "Rows that came out of a stage",
                &["pipeline", "stage"],
            )?,
            loaded: counters("etlrs_records_loaded_total", "Rows that were published", &["pipeline"])?,
            rejected: counters("etlrs_records_rejected_total", "Records that were set aside", &["pipeline"])?,
            bytes: counters("etlrs_bytes_total", "Bytes at the source and at the target", &["pipeline", "direction"])?,
            rate: registered(&registry, GaugeVec::new(rate, &["pipeline"]))?,
            retries: counters("etlrs_retries_total", "Attempts at partitions after a first one", &["pipeline"])?,
            duration: registered(&registry, HistogramVec::new(duration, &["pipeline"]))?,
            stage_duration: registered(&registry, CounterVec::new(stage_duration, &["pipeline", "stage", "state"]))?,
            alerts: counters("etlrs_alerts_total", "Alerts that were raised", &["pipeline", "alert"])?,
            caches: counters("etlrs_cache_requests_total", "What caches were asked for", &["cache", "result"])?,
            memory: gauges("etlrs_memory_usage_bytes", "Memory of the process and budgets of its runs", &["kind"])?,
            cpu: ["user", "system"].map(|mode| cpu.with_label_values(&[mode])),
            disk: counters("etlrs_disk_io_bytes_total", "Bytes of disks", &["direction"])?,
            network: counters("etlrs_network_io_bytes_total", "Bytes of network interfaces", &["direction"])?,
            threads: registered(&registry, IntGauge::new("etlrs_threads", "Threads of the process"))?,
            open_files: registered(&registry, IntGauge::new("etlrs_open_files", "Open files and connections"))?,
            live: Mutex::default(),
            registry,
        };
        Ok(Self(Arc::new(shared)))
    }

    /// Where they are registered, for metrics of one's own beside them.
    pub fn registry(&self) -> &Registry {
        &self.0.registry
    }

    /// Watches a run under the name of its pipeline, until [`record_pipeline_execution`](Self::record_pipeline_execution) or
    /// [`record_pipeline_failure`](Self::record_pipeline_failure): for [`on_start`](etlrs_engine::PipelineBuilder::on_start).
    pub fn watch(&self, pipeline: &str, started: &Started) {
        let mut live = self.live();
        let before = live.runs.iter().position(|run| Some(run.cx.run_id()) == started.instead_of);
        if let Some(before) = before {
            self.ended(live.runs.remove(before));
        }
        let seen = Seen { stages: Vec::new(), bytes_read: 0, retries: 0, rows_read: 0, at: Instant::now() };
        let (cx, stages) = (started.cx.clone(), started.stages.clone());
        live.runs.push(Run { pipeline: pipeline.to_owned(), cx, stages, seen });
        self.0.active.with_label_values(&[pipeline]).inc();
    }

    /// Records a run that ended well.
    pub fn record_pipeline_execution(&self, pipeline: &str, report: &RunReport) {
        let mut live = self.live();
        let place = live.runs.iter().position(|run| run.pipeline == pipeline && run.cx.run_id() == report.run);
        match place {
            Some(place) => self.ended(live.runs.remove(place)),
            // Nobody watched it.
            None => {
                self.add_stages(pipeline, &[], &report.stages);
                self.0.bytes.with_label_values(&[pipeline, "read"]).inc_by(report.bytes_read);
                self.0.retries.with_label_values(&[pipeline]).inc_by(report.retries);
            }
        }
        let result = if report.rows_rejected > 0 { "rejected" } else { "success" };
        self.0.runs.with_label_values(&[pipeline, result]).inc();
        self.0.loaded.with_label_values(&[pipeline]).inc_by(report.load.records_loaded);
        self.0.rejected.with_label_values(&[pipeline]).inc_by(report.rows_rejected);
        self.0.bytes.with_label_values(&[pipeline, "written"]).inc_by(report.load.bytes_written);
        self.0.duration.with_label_values(&[pipeline]).observe(report.elapsed.as_secs_f64());
        let rate = report.rows_read as f64 / report.elapsed.as_secs_f64().max(1e-9);
        self.0.rate.with_label_values(&[pipeline]).set(rate);
    }

    /// Records that a run of a pipeline failed; `run`: which one, if it is watched.
    pub fn record_pipeline_failure(&self, pipeline: &str, run: Option<RunId>) {
        let mut live = self.live();
        if let Some(place) =
            live.runs.iter().position(|live| live.pipeline == pipeline && Some(live.cx.run_id()) == run)
        {
            self.ended(live.runs.remove(place));
        }
        self.0.runs.with_label_values(&[pipeline, "failure"]).inc();
    }

    /// Watches a cache under a name.
    pub fn watch_cache(&self, name: &str, stats: &CacheStats) {
        self.live().caches.push((name.to_owned(), stats.clone(), [0; 2]));
    }

    /// Counts an alert: for [`on_alert`](etlrs_engine::PipelineBuilder::on_alert).
    pub fn record_alert(&self, pipeline: &str, alert: &Alert) {
        self.0.alerts.with_label_values(&[pipeline, alert.name()]).inc();
    }

    /// Looks at what the process takes of the machine, and at the runs that are watched. [`text`](Self::text) does it too.
    pub fn update_resource_usage(&self) {
        let mut live = self.live();
        for run in &mut live.runs {
            self.catch_up(run);
        }
        for (name, stats, seen) in &mut live.caches {
            let now = [stats.hits(), stats.misses()];
            for (result, now, seen) in [("hit", now[0], seen[0]), ("miss", now[1], seen[1])] {
                self.0.caches.with_label_values(&[name.as_str(), result]).inc_by(now.saturating_sub(seen));
            }
            *seen = now;
        }
        let (now, before) = (ResourceUsage::now(), live.usage);
        let level = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        let budgets = live.runs.iter().map(|run| run.cx.memory());
        let (budget, reserved) =
            budgets.fold((0, 0), |sum, one| (sum.0 + one.limit() as u64, sum.1 + one.used() as u64));
        let kinds = [
            ("resident", now.resident_bytes),
            ("peak", now.peak_resident_bytes),
            ("budget", budget),
            ("reserved", reserved),
        ];
        for (kind, bytes) in kinds {
            self.0.memory.with_label_values(&[kind]).set(level(bytes));
        }
        let [user, system] = &self.0.cpu;
        user.inc_by(now.user_time.saturating_sub(before.user_time).as_secs_f64());
        system.inc_by(now.system_time.saturating_sub(before.system_time).as_secs_f64());
        for (counters, direction, now, before) in [
            (&self.0.disk, "read", now.disk_read_bytes, before.disk_read_bytes),
            (&self.0.disk, "written", now.disk_written_bytes, before.disk_written_bytes),
            (&self.0.network, "received", now.network_received_bytes, before.network_received_bytes),
            (&self.0.network, "sent", now.network_sent_bytes, before.network_sent_bytes),
        ] {
            counters.with_label_values(&[direction]).inc_by(now.saturating_sub(before));
        }
        self.0.threads.set(level(now.threads));
        self.0.open_files.set(level(now.open_files));
        live.usage = now;
    }

    /// All of them now, in the [text format](https://prometheus.io/docs/instrumenting/exposition_formats/) of Prometheus.
    ///
    /// # Errors
    /// `Internal` if a metric of somebody else in the registry has no text.
    pub fn text(&self) -> Result<String> {
        self.update_resource_usage();
        let text = TextEncoder::new().encode_to_string(&self.0.registry.gather());
        text.map_err(|error| {
            Error::new(ErrorKind::Internal, format!("metrics cannot be shown: {error}")).caused_by(error)
        })
    }

    /// What the watched run of a pipeline does now, for [alerts](etlrs_engine::PerformanceAlert); `None`: there is none.
    pub fn snapshot(&self, pipeline: &str) -> Option<PerformanceSnapshot> {
        let live = self.live();
        let run = live.runs.iter().find(|run| run.pipeline == pipeline)?;
        let counters = run.cx.counters();
        let (rows, rejected) = (counters.rows_read.get(), counters.rows_rejected.get());
        let memory = usize::try_from(ResourceUsage::now().resident_bytes).unwrap_or(usize::MAX);
        Some(PerformanceSnapshot::new(run.stages.elapsed(), rows, rejected, memory))
    }

    fn live(&self) -> MutexGuard<'_, Live> {
        self.0.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ended(&self, mut run: Run) {
        self.catch_up(&mut run);
        self.0.active.with_label_values(&[&run.pipeline]).dec();
    }

    /// Adds what a run did since the last time.
    fn catch_up(&self, run: &mut Run) {
        let (counters, seen, pipeline) = (run.cx.counters(), &mut run.seen, run.pipeline.as_str());
        let stages = run.stages.report();
        self.add_stages(pipeline, &seen.stages, &stages);
        let (bytes, retries, rows) = (counters.bytes_read.get(), counters.retries.get(), counters.rows_read.get());
        self.0.bytes.with_label_values(&[pipeline, "read"]).inc_by(bytes.saturating_sub(seen.bytes_read));
        self.0.retries.with_label_values(&[pipeline]).inc_by(retries.saturating_sub(seen.retries));
        let seconds = seen.at.elapsed().as_secs_f64();
        if seconds > 0.0 {
            self.0.rate.with_label_values(&[pipeline]).set(rows.saturating_sub(seen.rows_read) as f64 / seconds);
        }
        *seen = Seen { stages, bytes_read: bytes, retries, rows_read: rows, at: Instant::now() };
    }

    fn add_stages(&self, pipeline: &str, before: &[StageReport], now: &[StageReport]) {
        for (index, stage) in now.iter().enumerate() {
            let before = before.get(index);
            let rows = stage.rows.saturating_sub(before.map_or(0, |before| before.rows));
            self.0.records.with_label_values(&[pipeline, &stage.name]).inc_by(rows);
            let states = [
                ("busy", stage.busy, before.map(|before| before.busy)),
                ("blocked", stage.blocked, before.map(|before| before.blocked)),
                ("waiting", stage.waiting, before.map(|before| before.waiting)),
            ];
            for (state, now, before) in states {
                let time = now.saturating_sub(before.unwrap_or_default()).as_secs_f64();
                self.0.stage_duration.with_label_values(&[pipeline, &stage.name, state]).inc_by(time);
            }
        }
    }
}

fn registered<T: Collector + Clone + 'static>(registry: &Registry, metric: prometheus::Result<T>) -> Result<T> {
    let failed = |error: prometheus::Error| {
        Error::new(ErrorKind::InvalidConfig, format!("a metric cannot be registered: {error}")).caused_by(error)
    };
    let metric = metric.map_err(failed)?;
    registry.register(Box::new(metric.clone())).map_err(failed)?;
    Ok(metric)
}
