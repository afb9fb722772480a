//! What happened in the course of a run, for its report.

use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use etlrs::{StageReport, Started};
use etlrs_metrics::ResourceUsage;

/// A moment of a run: sums since it began to read.
#[derive(Clone, Debug)]
pub(crate) struct Moment {
    pub(crate) at: Duration,
    pub(crate) rows_read: u64,
    pub(crate) rows_written: u64,
    pub(crate) bytes_read: u64,
    pub(crate) stages: Vec<StageReport>,
    pub(crate) usage: ResourceUsage,
}

/// Looks at a run now and then, from a thread of its own.
pub(crate) struct Recorder {
    stop: Sender<()>,
    /// None if there was no room for one.
    thread: Option<JoinHandle<Vec<Moment>>>,
}

/// So many points are as many as can be seen.
const MOST: usize = 600;

impl Recorder {
    pub(crate) fn start(started: &Started) -> Self {
        let (stop, stopped) = channel();
        let (cx, stages) = (started.cx.clone(), started.stages.clone());
        let look = move || {
            let moment = || {
                let counters = cx.counters();
                Moment {
                    at: stages.elapsed(),
                    rows_read: counters.rows_read.get(),
                    rows_written: counters.rows_written.get(),
                    bytes_read: counters.bytes_read.get(),
                    stages: stages.report(),
                    usage: ResourceUsage::now(),
                }
            };
            let mut interval = Duration::from_millis(20);
            let mut moments = vec![moment()];
            while let Err(RecvTimeoutError::Timeout) = stopped.recv_timeout(interval) {
                moments.push(moment());
                if moments.len() > MOST {
                    // Every other one is enough then, and so it is from now on.
                    let mut keep = false;
                    moments.retain(|_| {
                        keep = !keep;
                        keep
                    });
                    interval *= 2;
                }
            }
            moments.push(moment());
            moments
        };
        Self { stop, thread: Builder::new().spawn(look).ok() }
    }

    pub(crate) fn stop(self) -> Vec<Moment> {
        let _ = self.stop.send(());
        // A panic has been told already.
        self.thread.and_then(|thread| thread.join().ok()).unwrap_or_default()
    }
}
