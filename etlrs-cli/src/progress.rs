use std::io::{IsTerminal, Write};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use etlrs::{Limit, Measured, RunContext, StageReport, Stages, Started};
use indicatif::{HumanBytes, HumanCount, HumanDuration, ProgressBar, ProgressStyle};

/// Shows on standard error how far a run is: a bar on a terminal, else a line now and then.
pub(crate) struct Progress {
    stop: Sender<()>,
    thread: JoinHandle<()>,
}

impl Progress {
    pub(crate) fn start(label: &str, started: &Started) -> Self {
        let (stop, stopped) = channel();
        let (cx, mut now) = (started.cx.clone(), Now::new(&started.stages));
        let sum = |size: fn(&etlrs::Partition) -> Option<u64>| started.partitions.iter().map(size).sum::<Option<u64>>();
        let total = match (sum(|partition| partition.bytes), sum(|partition| partition.rows)) {
            (Some(bytes), _) if bytes > 0 => Total::Bytes(bytes),
            (_, Some(rows)) => Total::Rows(rows),
            _ => Total::Partitions(started.partitions.len() as u64),
        };
        let label = label.to_owned();
        let terminal = std::io::stderr().is_terminal();
        let thread = std::thread::spawn(move || {
            let mut view: Box<dyn View> =
                if terminal { Box::new(Bar::new(total)) } else { Box::new(Lines::new(label, total)) };
            while let Err(RecvTimeoutError::Timeout) = stopped.recv_timeout(view.interval()) {
                view.show(&cx, &mut now);
            }
            view.finish();
        });
        Self { stop, thread }
    }

    pub(crate) fn stop(self) {
        // It may have ended by itself only by a panic, which then has been told already.
        let _ = self.stop.send(());
        let _ = self.thread.join();
    }
}

#[derive(Clone, Copy)]
enum Total {
    Bytes(u64),
    Rows(u64),
    Partitions(u64),
}

impl Total {
    fn all(self) -> u64 {
        match self {
            Self::Bytes(total) | Self::Rows(total) | Self::Partitions(total) => total,
        }
    }

    fn done(self, cx: &RunContext) -> u64 {
        let counters = cx.counters();
        let done = match self {
            Self::Bytes(_) => counters.bytes_read.get(),
            Self::Rows(_) => counters.rows_read.get(),
            Self::Partitions(_) => counters.partitions_done.get(),
        };
        done.min(self.all())
    }
}

trait View {
    fn interval(&self) -> Duration;
    fn show(&mut self, cx: &RunContext, now: &mut Now);
    fn finish(&mut self);
}

/// What limits a run now: in the last few seconds, and not since it began.
struct Now {
    stages: Stages,
    before: Vec<StageReport>,
    since: Instant,
    limit: Option<&'static str>,
}

impl Now {
    /// A word that changes more often than this is not read.
    const WINDOW: Duration = Duration::from_secs(2);

    fn new(stages: &Stages) -> Self {
        Self { stages: stages.clone(), before: stages.report(), since: Instant::now(), limit: None }
    }

    fn limit(&mut self) -> Option<&'static str> {
        let elapsed = self.since.elapsed();
        if elapsed < Self::WINDOW {
            return self.limit;
        }
        let (report, workers) = (self.stages.report(), self.stages.workers());
        let measured = Measured::between(&self.before, &report, workers, elapsed);
        (self.before, self.since) = (report, Instant::now());
        self.limit = match measured.diagnose().limit {
            Limit::Nothing => None,
            limit => Some(limit.as_str()),
        };
        self.limit
    }
}

struct Bar {
    bar: ProgressBar,
    total: Total,
    started: Instant,
}

impl Bar {
    fn new(total: Total) -> Self {
        let bar = ProgressBar::new(total.all());
        // Without the names of source and target, so that it fits into 80 columns.
        let template = "{wide_bar:.cyan/dim} {percent:>3}% {msg}";
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style.progress_chars("━╸─"));
        }
        Self { bar, total, started: Instant::now() }
    }
}

impl View for Bar {
    fn interval(&self) -> Duration {
        Duration::from_millis(100)
    }

    fn show(&mut self, cx: &RunContext, now: &mut Now) {
        self.bar.set_position(self.total.done(cx));
        let left = if self.total.done(cx) < self.total.all() {
            format!("{} left", HumanDuration(self.bar.eta()))
        } else {
            "finishing".to_owned()
        };
        let limit = now.limit().map(|limit| format!(" · {limit}")).unwrap_or_default();
        self.bar.set_message(format!("{}, {left}{limit}", rows_and_bytes(cx, self.started)));
    }

    fn finish(&mut self) {
        self.bar.finish_and_clear();
    }
}

struct Lines {
    label: String,
    total: Total,
    started: Instant,
}

impl Lines {
    fn new(label: String, total: Total) -> Self {
        Self { label, total, started: Instant::now() }
    }
}

impl View for Lines {
    /// Logs are kept, so a long run gets few lines and a short one none.
    fn interval(&self) -> Duration {
        Duration::from_secs(if self.started.elapsed() < Duration::from_secs(60) { 10 } else { 60 })
    }

    fn show(&mut self, cx: &RunContext, now: &mut Now) {
        let limit = now.limit().map(|limit| format!(", limited by {limit}")).unwrap_or_default();
        let percent = self.total.done(cx) * 100 / self.total.all().max(1);
        let _ = writeln!(
            std::io::stderr(),
            "{}: {percent} %, {} after {} s{limit}",
            self.label,
            rows_and_bytes(cx, self.started),
            self.started.elapsed().as_secs()
        );
    }

    fn finish(&mut self) {}
}

fn rows_and_bytes(cx: &RunContext, started: Instant) -> String {
    let rows = cx.counters().rows_read.get();
    let rate = (rows as f64 / started.elapsed().as_secs_f64().max(0.001)) as u64;
    let bytes = cx.counters().bytes_read.get();
    let bytes = if bytes > 0 { format!(", {}", HumanBytes(bytes)) } else { String::new() };
    let rejected = cx.counters().rows_rejected.get();
    let rejected = if rejected > 0 { format!(", {} rejected", HumanCount(rejected)) } else { String::new() };
    format!("{} rows{bytes}, {} rows/s{rejected}", HumanCount(rows), HumanCount(rate))
}
