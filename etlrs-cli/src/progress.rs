use std::io::{IsTerminal, Write};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use etlrs::{Limit, Measured, RunContext, StageKind, StageReport, Stages, Started};
use indicatif::{HumanBytes, HumanCount, HumanDuration, ProgressBar, ProgressStyle};

/// Shows on standard error how far a run is: a bar on a terminal, else a line now and then.
pub(crate) struct Progress {
    lines: Sender<String>,
    /// None if there was no room for one.
    thread: Option<JoinHandle<()>>,
}

impl Progress {
    pub(crate) fn start(label: &str, started: &Started) -> Self {
        let (lines, said) = channel::<String>();
        let (cx, mut now) = (started.cx.clone(), Now::new(&started.stages));
        // Those that are not read again are done.
        let is_open = |partition: &&etlrs::Partition| !started.completed.contains(&partition.id);
        let open: Vec<_> = started.partitions.iter().filter(is_open).collect();
        let sum = |size: fn(&etlrs::Partition) -> Option<u64>| {
            open.iter().map(|partition| size(partition)).sum::<Option<u64>>()
        };
        let total = match (sum(|partition| partition.bytes), sum(|partition| partition.rows)) {
            (Some(bytes), _) if bytes > 0 => Total::Bytes(bytes),
            (_, Some(rows)) => Total::Rows(rows),
            _ => Total::Partitions(open.len() as u64),
        };
        let label = label.to_owned();
        let terminal = std::io::stderr().is_terminal();
        let show = move || {
            let mut view: Box<dyn View> =
                if terminal { Box::new(Bar::new(total)) } else { Box::new(Lines::new(label, total)) };
            let mut next = Instant::now() + view.interval();
            loop {
                match said.recv_timeout(next.saturating_duration_since(Instant::now())) {
                    Ok(line) => view.say(&line),
                    Err(RecvTimeoutError::Timeout) => {
                        view.show(&cx, &mut now);
                        next = Instant::now() + view.interval();
                    }
                    Err(RecvTimeoutError::Disconnected) => break,
                }
            }
            view.finish();
        };
        Self { lines, thread: Builder::new().spawn(show).ok() }
    }

    /// A line that stays.
    pub(crate) fn say(&self, line: String) {
        // Without a thread, for which there may have been no room.
        if let Err(unsaid) = self.lines.send(line) {
            crate::tell(&unsaid.0);
        }
    }

    pub(crate) fn stop(self) {
        drop(self.lines);
        // A panic has been told already.
        let _ = self.thread.map(JoinHandle::join);
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
    fn say(&mut self, line: &str);
    fn finish(&mut self);
}

/// What limits a run now: in the last few seconds, and not since it began.
struct Now {
    stages: Stages,
    before: Vec<StageReport>,
    since: Instant,
    limit: Option<&'static str>,
    /// The rate of each stage, and its part of the threads' time.
    line: String,
}

impl Now {
    /// A word that changes more often than this is not read.
    const WINDOW: Duration = Duration::from_secs(2);

    fn new(stages: &Stages) -> Self {
        Self {
            stages: stages.clone(),
            before: stages.report(),
            since: Instant::now(),
            limit: None,
            line: String::new(),
        }
    }

    /// Looks again, if it is time.
    fn update(&mut self) {
        let elapsed = self.since.elapsed();
        if elapsed < Self::WINDOW {
            return;
        }
        let (report, workers) = (self.stages.report(), self.stages.workers());
        let measured = Measured::between(&self.before, &report, workers, elapsed);
        (self.before, self.since) = (report, Instant::now());
        self.limit = match measured.diagnose().limit {
            Limit::Nothing => None,
            limit => Some(limit.as_str()),
        };
        let all = elapsed.as_secs_f64() * workers.max(1) as f64;
        let stage = |stage: &StageReport| {
            let share = 100.0 * stage.total().as_secs_f64() / all;
            let rate = stage.rows as f64 / elapsed.as_secs_f64();
            match stage.kind {
                StageKind::Turn if share < 1.0 => None,
                StageKind::Turn => Some(format!("turn {share:.0}%")),
                _ => Some(format!("{} {}/s {share:.0}%", stage.name, short(rate))),
            }
        };
        self.line = measured.stages.iter().filter_map(stage).collect::<Vec<_>>().join(" → ");
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
        let template = "{wide_bar:.cyan/dim} {percent:>3}% {prefix}\n{wide_msg:.dim}";
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
            format!("{:#} left", HumanDuration(self.bar.eta()))
        } else {
            "finishing".to_owned()
        };
        now.update();
        let limit = now.limit.map(|limit| format!(" · {limit}")).unwrap_or_default();
        self.bar.set_prefix(format!("{}, {left}{limit}", rows_and_bytes(cx, self.started)));
        self.bar.set_message(now.line.clone());
    }

    fn say(&mut self, line: &str) {
        self.bar.suspend(|| crate::tell(line));
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
        now.update();
        let limit = now.limit.map(|limit| format!(", limited by {limit}")).unwrap_or_default();
        let percent = self.total.done(cx) * 100 / self.total.all().max(1);
        let _ = writeln!(
            std::io::stderr(),
            "{}: {percent} %, {} after {} s{limit}",
            self.label,
            rows_and_bytes(cx, self.started),
            self.started.elapsed().as_secs()
        );
    }

    fn say(&mut self, line: &str) {
        crate::tell(line);
    }

    fn finish(&mut self) {}
}

fn rows_and_bytes(cx: &RunContext, started: Instant) -> String {
    let rows = cx.counters().rows_read.get();
    let rate = rows as f64 / started.elapsed().as_secs_f64().max(0.001);
    let bytes = cx.counters().bytes_read.get();
    let bytes = if bytes > 0 { format!(", {}", HumanBytes(bytes)) } else { String::new() };
    let rejected = cx.counters().rows_rejected.get();
    let rejected = if rejected > 0 { format!(", {} rejected", HumanCount(rejected)) } else { String::new() };
    format!("{} rows{bytes}, {}/s{rejected}", HumanCount(rows), short(rate))
}

/// 1234567 as 1.2M.
fn short(number: f64) -> String {
    let (number, unit) = match number {
        1e9.. => (number / 1e9, "G"),
        1e6.. => (number / 1e6, "M"),
        1e3.. => (number / 1e3, "k"),
        _ => return format!("{number:.0}"),
    };
    if number < 10.0 { format!("{number:.1}{unit}") } else { format!("{number:.0}{unit}") }
}
