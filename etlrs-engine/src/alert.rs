//! Thresholds of a run, and what is beyond them.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use etlrs_core::{Error, ErrorKind, Result, RunContext, format_bytes};
use tokio::task::AbortHandle;

use crate::{ProcessMemory, Stages};

/// Raises alerts where a run goes beyond thresholds.
///
/// ```
/// use std::time::Duration;
/// use etlrs_engine::{AlertThresholds, PerformanceAlert, PerformanceSnapshot};
///
/// let alert = PerformanceAlert::new(AlertThresholds { min_records_per_second: Some(1000.0), ..AlertThresholds::default() });
/// let slow = PerformanceSnapshot::new(Duration::from_secs(10), 500, 0, 64 << 20);
/// assert_eq!(alert.check_thresholds(&slow)[0].to_string(), "throughput: 50 records/s, less than 1000");
/// ```
#[derive(Clone, Debug, Default)]
pub struct PerformanceAlert {
    thresholds: AlertThresholds,
}

etlrs_core::options! {
    /// Beyond what there are alerts. Without a threshold there is none.
    pub struct AlertThresholds {
        /// The fewest records that are read in a second, since the run began; not looked at in its first five seconds.
        min_records_per_second, with_min_records_per_second: Option<f64> = None;
        /// Seconds that a run may take.
        max_seconds, with_max_seconds: Option<f64> = None;
        /// Bytes of memory that the process may have.
        max_memory, with_max_memory: Option<usize> = None;
        /// The part of the records, from 0 to 1, that may be set aside.
        max_error_rate, with_max_error_rate: Option<f64> = None;
    }
}

/// What a run did at some time.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct PerformanceSnapshot {
    /// Time since it began to read.
    pub elapsed: Duration,
    /// Records that were read.
    pub records: u64,
    /// Records of them that were set aside.
    pub rejected: u64,
    /// Bytes of memory in the process.
    pub memory: usize,
}

impl PerformanceSnapshot {
    /// Of a run that read so many records, and set so many aside.
    pub fn new(elapsed: Duration, records: u64, rejected: u64, memory: usize) -> Self {
        Self { elapsed, records, rejected, memory }
    }
}

/// A threshold, and what is beyond it.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Alert {
    /// Too few records a second.
    Throughput {
        /// How many there are.
        found: f64,
        /// How many there should be.
        least: f64,
    },
    /// The run takes too long.
    Latency {
        /// How long it took so far.
        found: Duration,
        /// How long it may take.
        most: Duration,
    },
    /// Too much memory.
    Memory {
        /// Bytes that there are.
        found: usize,
        /// Bytes that there may be.
        most: usize,
    },
    /// Too many records are set aside.
    ErrorRate {
        /// Their part of all.
        found: f64,
        /// The part that may be.
        most: f64,
    },
}

impl Alert {
    /// Its name, as metrics have it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Throughput { .. } => "throughput",
            Self::Latency { .. } => "latency",
            Self::Memory { .. } => "memory",
            Self::ErrorRate { .. } => "error_rate",
        }
    }
}

impl fmt::Display for Alert {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Throughput { found, least } => {
                write!(f, "throughput: {:.0} records/s, less than {least}", found.floor())
            }
            Self::Latency { found, most } => {
                write!(
                    f,
                    "latency: {:.2} s, more than {} s",
                    above(found.as_secs_f64(), most.as_secs_f64()),
                    most.as_secs_f64()
                )
            }
            Self::Memory { found, most } => {
                write!(f, "memory: {}, more than {}", format_bytes(*found), format_bytes(*most))
            }
            Self::ErrorRate { found, most } => {
                let most = (most * 1e8).round() / 1e6;
                write!(f, "error rate: {:.2} % of the records, more than {most} %", above(100.0 * found, most))
            }
        }
    }
}

/// `found` in hundredths, rounded so that it is still more than `most`.
fn above(found: f64, most: f64) -> f64 {
    let rounded = (100.0 * found).round() / 100.0;
    if rounded > most { rounded } else { (100.0 * found).ceil() / 100.0 }
}

impl AlertThresholds {
    /// Refuses thresholds that mean nothing.
    ///
    /// # Errors
    /// `InvalidConfig`.
    pub fn check(&self) -> Result<()> {
        let is_some = |value: f64| value.is_finite() && value > 0.0;
        let wrong =
            |name: &str, what: &str| Err(Error::new(ErrorKind::InvalidConfig, format!("{name} must be {what}")));
        match self {
            Self { min_records_per_second: Some(least), .. } if !is_some(*least) => {
                wrong("min_records_per_second", "a number of records above 0")
            }
            Self { max_seconds: Some(most), .. } if !is_some(*most) => {
                wrong("max_seconds", "a number of seconds above 0")
            }
            Self { max_error_rate: Some(most), .. } if !(0.0..=1.0).contains(most) => {
                wrong("max_error_rate", "from 0 to 1; 0.05 is 5 % of the records")
            }
            _ => Ok(()),
        }
    }
}

impl PerformanceAlert {
    /// No run is too slow before so long.
    pub const GRACE: Duration = Duration::from_secs(5);

    pub(crate) fn check(&self) -> Result<()> {
        self.thresholds.check()
    }

    /// With these thresholds.
    pub fn new(thresholds: AlertThresholds) -> Self {
        Self { thresholds }
    }

    /// The alerts that a run gives cause for.
    pub fn check_thresholds(&self, snapshot: &PerformanceSnapshot) -> Vec<Alert> {
        let AlertThresholds { min_records_per_second, max_seconds, max_memory, max_error_rate } = &self.thresholds;
        let mut alerts = Vec::new();
        let rate = snapshot.records as f64 / snapshot.elapsed.as_secs_f64().max(1e-9);
        if let Some(least) = min_records_per_second.filter(|least| snapshot.elapsed >= Self::GRACE && rate < *least) {
            alerts.push(Alert::Throughput { found: rate, least });
        }
        if let Some(most) = max_seconds.filter(|most| snapshot.elapsed.as_secs_f64() > *most) {
            let most = Duration::try_from_secs_f64(most).unwrap_or_default();
            alerts.push(Alert::Latency { found: snapshot.elapsed, most });
        }
        if let Some(most) = max_memory.filter(|most| snapshot.memory > *most) {
            alerts.push(Alert::Memory { found: snapshot.memory, most });
        }
        let errors = if snapshot.rejected > 0 {
            snapshot.rejected as f64 / snapshot.records.max(snapshot.rejected) as f64
        } else {
            0.0
        };
        if let Some(most) = max_error_rate.filter(|most| errors > *most) {
            alerts.push(Alert::ErrorRate { found: errors, most });
        }
        alerts
    }
}

pub(crate) type OnAlert = Arc<dyn Fn(&Alert) + Send + Sync>;

/// Looks at a run once a second, until it is dropped.
pub(crate) struct Watch {
    shared: Arc<Shared>,
    task: AbortHandle,
}

struct Shared {
    alert: PerformanceAlert,
    on_alert: Option<OnAlert>,
    cx: RunContext,
    stages: Stages,
    raised: Mutex<Vec<Alert>>,
}

impl Watch {
    pub(crate) fn start(
        alert: &PerformanceAlert,
        on_alert: Option<&OnAlert>,
        cx: &RunContext,
        stages: &Stages,
    ) -> Self {
        let shared = Arc::new(Shared {
            alert: alert.clone(),
            on_alert: on_alert.cloned(),
            cx: cx.clone(),
            stages: stages.clone(),
            raised: Mutex::default(),
        });
        let watched = shared.clone();
        let task = tokio::spawn(async move {
            loop {
                tokio::time::sleep(Duration::from_secs(1)).await;
                watched.look();
            }
        });
        Self { shared, task: task.abort_handle() }
    }

    /// Looks once more, and gives all alerts, each once.
    pub(crate) fn finish(self) -> Vec<Alert> {
        self.shared.look();
        std::mem::take(&mut *self.shared.raised.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Shared {
    fn look(&self) {
        let counters = self.cx.counters();
        let (records, rejected) = (counters.rows_read.get(), counters.rows_rejected.get());
        let snapshot =
            PerformanceSnapshot::new(self.stages.elapsed(), records, rejected, ProcessMemory::now().resident);
        for alert in self.alert.check_thresholds(&snapshot) {
            let mut raised = self.raised.lock().unwrap_or_else(PoisonError::into_inner);
            if raised.iter().all(|earlier| earlier.name() != alert.name()) {
                raised.push(alert.clone());
                drop(raised);
                if let Some(on_alert) = &self.on_alert {
                    on_alert(&alert);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_beyond_a_threshold_raises_an_alert() {
        let seconds = Duration::from_secs;
        let all = PerformanceAlert::new(AlertThresholds {
            min_records_per_second: Some(100.0),
            max_seconds: Some(60.0),
            max_memory: Some(1 << 20),
            max_error_rate: Some(0.01),
        });
        let names = |snapshot| all.check_thresholds(&snapshot).iter().map(Alert::name).collect::<Vec<_>>();
        assert!(names(PerformanceSnapshot::new(seconds(10), 1000, 10, 1 << 20)).is_empty());
        assert_eq!(names(PerformanceSnapshot::new(seconds(10), 999, 0, 0)), ["throughput"]);
        // It has hardly begun.
        assert!(names(PerformanceSnapshot::new(seconds(4), 0, 0, 0)).is_empty());
        let bad = names(PerformanceSnapshot::new(seconds(61), 100, 2, 2 << 20));
        assert_eq!(bad, ["throughput", "latency", "memory", "error_rate"]);
        // All that was read was set aside.
        let rejected = all.check_thresholds(&PerformanceSnapshot::new(seconds(1), 50, 50, 0));
        assert_eq!(rejected, [Alert::ErrorRate { found: 1.0, most: 0.01 }]);
        assert!(
            PerformanceAlert::default()
                .check_thresholds(&PerformanceSnapshot::new(seconds(1 << 20), 0, 9, usize::MAX))
                .is_empty()
        );
    }

    #[test]
    fn what_is_told_is_beyond_what_it_is_told_of() {
        let latency = |found| Alert::Latency { found: Duration::from_millis(found), most: Duration::from_secs(1) };
        for (alert, expected) in [
            (latency(1004), "latency: 1.01 s, more than 1 s"),
            (latency(1234), "latency: 1.23 s, more than 1 s"),
            (
                Alert::ErrorRate { found: 0.2, most: 0.199_999 },
                "error rate: 20.00 % of the records, more than 19.9999 %",
            ),
            (Alert::ErrorRate { found: 1.0 / 3.0, most: 0.05 }, "error rate: 33.33 % of the records, more than 5 %"),
            (Alert::Throughput { found: 49.9, least: 50.0 }, "throughput: 49 records/s, less than 50"),
        ] {
            assert_eq!(alert.to_string(), expected);
        }
    }

    #[test]
    fn thresholds_that_mean_nothing_are_refused() {
        let none = AlertThresholds::default;
        for (thresholds, expected) in [
            (none().with_max_error_rate(Some(2.0)), "max_error_rate must be from 0 to 1; 0.05 is 5 % of the records"),
            (none().with_max_error_rate(Some(-1.0)), "max_error_rate must be from 0 to 1; 0.05 is 5 % of the records"),
            (none().with_max_seconds(Some(0.0)), "max_seconds must be a number of seconds above 0"),
            (none().with_max_seconds(Some(f64::NAN)), "max_seconds must be a number of seconds above 0"),
            (
                none().with_min_records_per_second(Some(-5.0)),
                "min_records_per_second must be a number of records above 0",
            ),
        ] {
            assert_eq!(thresholds.check().unwrap_err().message(), expected);
        }
        none().with_max_error_rate(Some(1.0)).with_max_seconds(Some(0.5)).check().unwrap();
    }
}
