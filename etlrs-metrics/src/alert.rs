use std::fmt;
use std::time::Duration;

use etlrs_core::format_bytes;

/// Raises alerts where a run goes beyond thresholds.
///
/// ```
/// use std::time::Duration;
/// use etlrs_metrics::{AlertThresholds, PerformanceAlert, PerformanceSnapshot};
///
/// let alert = PerformanceAlert::new(AlertThresholds { min_records_per_second: Some(1000.0), ..Default::default() });
/// let slow = PerformanceSnapshot::new(Duration::from_secs(10), 500, 0, 64 << 20);
/// assert_eq!(alert.check_thresholds(&slow)[0].to_string(), "throughput: 50 records/s, less than 1000");
/// ```
#[derive(Clone, Debug, Default)]
pub struct PerformanceAlert {
    thresholds: AlertThresholds,
}

/// Beyond what there are alerts. Without a threshold there is none.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AlertThresholds {
    /// Fewer records a second than this, from the start of a run on, once it has run for [`PerformanceAlert::GRACE`].
    pub min_records_per_second: Option<f64>,
    /// A run that takes longer.
    pub max_duration: Option<Duration>,
    /// More bytes of memory in the process.
    pub max_memory: Option<u64>,
    /// A larger part of the records, from 0 to 1, that are set aside.
    pub max_error_rate: Option<f64>,
}

/// What a run did at some time.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct PerformanceSnapshot {
    /// Time since it began to read.
    pub elapsed: Duration,
    /// Records that came out of the source.
    pub records: u64,
    /// Records that were set aside; those of the source are not among the others.
    pub rejected: u64,
    /// Bytes of memory in the process.
    pub memory: u64,
}

impl PerformanceSnapshot {
    /// Of a run that read so many records, and set so many aside.
    pub fn new(elapsed: Duration, records: u64, rejected: u64, memory: u64) -> Self {
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
        found: u64,
        /// Bytes that there may be.
        most: u64,
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
        let bytes = |bytes: u64| format_bytes(usize::try_from(bytes).unwrap_or(usize::MAX));
        match self {
            Self::Throughput { found, least } => write!(f, "throughput: {found:.0} records/s, less than {least:.0}"),
            Self::Latency { found, most } => {
                write!(f, "latency: {:.1} s, more than {:.1} s", found.as_secs_f64(), most.as_secs_f64())
            }
            Self::Memory { found, most } => write!(f, "memory: {}, more than {}", bytes(*found), bytes(*most)),
            Self::ErrorRate { found, most } => {
                write!(f, "error rate: {:.2} % of the records, more than {:.2} %", 100.0 * found, 100.0 * most)
            }
        }
    }
}

impl PerformanceAlert {
    /// No run is too slow before so long.
    pub const GRACE: Duration = Duration::from_secs(5);

    /// With these thresholds.
    pub fn new(thresholds: AlertThresholds) -> Self {
        Self { thresholds }
    }

    /// The alerts that a run gives cause for.
    pub fn check_thresholds(&self, snapshot: &PerformanceSnapshot) -> Vec<Alert> {
        let AlertThresholds { min_records_per_second, max_duration, max_memory, max_error_rate } = &self.thresholds;
        let mut alerts = Vec::new();
        let rate = snapshot.records as f64 / snapshot.elapsed.as_secs_f64().max(1e-9);
        if let Some(least) = min_records_per_second.filter(|least| snapshot.elapsed >= Self::GRACE && rate < *least) {
            alerts.push(Alert::Throughput { found: rate, least });
        }
        if let Some(most) = max_duration.filter(|most| snapshot.elapsed > *most) {
            alerts.push(Alert::Latency { found: snapshot.elapsed, most });
        }
        if let Some(most) = max_memory.filter(|most| snapshot.memory > *most) {
            alerts.push(Alert::Memory { found: snapshot.memory, most });
        }
        let all = snapshot.records + snapshot.rejected;
        let errors = if all > 0 { snapshot.rejected as f64 / all as f64 } else { 0.0 };
        if let Some(most) = max_error_rate.filter(|most| errors > *most) {
            alerts.push(Alert::ErrorRate { found: errors, most });
        }
        alerts
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
            max_duration: Some(seconds(60)),
            max_memory: Some(1 << 20),
            max_error_rate: Some(0.01),
        });
        let names = |snapshot| all.check_thresholds(&snapshot).iter().map(Alert::name).collect::<Vec<_>>();
        assert!(names(PerformanceSnapshot::new(seconds(10), 1000, 10, 1 << 20)).is_empty());
        assert_eq!(names(PerformanceSnapshot::new(seconds(10), 999, 0, 0)), ["throughput"]);
        // It has hardly begun.
        assert!(names(PerformanceSnapshot::new(seconds(4), 0, 0, 0)).is_empty());
        let bad = names(PerformanceSnapshot::new(seconds(61), 98, 2, 2 << 20));
        assert_eq!(bad, ["throughput", "latency", "memory", "error_rate"]);
        assert!(
            PerformanceAlert::default()
                .check_thresholds(&PerformanceSnapshot::new(seconds(1 << 20), 0, 9, u64::MAX))
                .is_empty()
        );
    }
}
