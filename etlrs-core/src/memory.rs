//! The memory budget of a run.
//!
//! Permits of a fair semaphore stand for KiB, so waiting is first come, first served, and a reservation frees itself
//! when it is dropped. Whoever waits must hold nothing that only it can free; the engine sees to that by giving each
//! worker all that it needs before it starts (see `etlrs-engine`).

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use arrow_array::{Array, ArrayRef, RecordBatch};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::{Error, ErrorKind, Result};

const UNIT: usize = 1024;

/// A limit in bytes that everything which holds data shares. Clones are the same budget.
#[derive(Clone, Debug)]
pub struct MemoryBudget(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    semaphore: Arc<Semaphore>,
    limit: usize,
    used: AtomicUsize,
    peak: AtomicUsize,
}

impl MemoryBudget {
    /// A budget of `limit` bytes, counted in whole KiB.
    pub fn new(limit: usize) -> Self {
        let units = (limit / UNIT).clamp(1, Semaphore::MAX_PERMITS.min(u32::MAX as usize));
        Self(Arc::new(Shared {
            semaphore: Arc::new(Semaphore::new(units)),
            limit: units * UNIT,
            used: AtomicUsize::new(0),
            peak: AtomicUsize::new(0),
        }))
    }

    /// The limit in bytes.
    pub fn limit(&self) -> usize {
        self.0.limit
    }

    /// Bytes reserved now.
    pub fn used(&self) -> usize {
        self.0.used.load(Ordering::Relaxed)
    }

    /// The most that was reserved at one time.
    pub fn peak(&self) -> usize {
        self.0.peak.load(Ordering::Relaxed)
    }

    /// Reserves `bytes` if they are free now.
    pub fn try_reserve(&self, bytes: usize) -> Option<Reservation> {
        let permit = self.0.semaphore.clone().try_acquire_many_owned(units(bytes)?).ok()?;
        Some(Reservation::new(self, permit))
    }

    /// Waits until `bytes` are free and reserves them.
    ///
    /// # Errors
    /// `MemoryExceeded` when the budget can never hold them.
    pub async fn reserve(&self, bytes: usize) -> Result<Reservation> {
        let exceeded = || {
            Error::new(
                ErrorKind::MemoryExceeded,
                format!("{bytes} bytes are needed at once and the memory budget has {}", self.limit()),
            )
            .hint(format!("a budget of {} would do", format_bytes(bytes)))
        };
        let units = units(bytes).filter(|&units| units as usize * UNIT <= self.limit()).ok_or_else(exceeded)?;
        let permit = self.0.semaphore.clone().acquire_many_owned(units).await.map_err(|_| exceeded())?;
        Ok(Reservation::new(self, permit))
    }
}

fn units(bytes: usize) -> Option<u32> {
    u32::try_from(bytes.div_ceil(UNIT)).ok()
}

/// Bytes of a budget, given back on drop.
#[derive(Debug)]
pub struct Reservation {
    budget: MemoryBudget,
    permit: OwnedSemaphorePermit,
}

impl Reservation {
    fn new(budget: &MemoryBudget, permit: OwnedSemaphorePermit) -> Self {
        let shared = &budget.0;
        let bytes = permit.num_permits() * UNIT;
        let used = shared.used.fetch_add(bytes, Ordering::Relaxed) + bytes;
        shared.peak.fetch_max(used, Ordering::Relaxed);
        Self { budget: budget.clone(), permit }
    }

    /// Bytes held, in whole KiB.
    pub fn bytes(&self) -> usize {
        self.permit.num_permits() * UNIT
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.budget.0.used.fetch_sub(self.bytes(), Ordering::Relaxed);
    }
}

/// Bytes that the rows of `batch` take, without those of a larger batch that it may be a slice of.
pub fn batch_bytes(batch: &RecordBatch) -> usize {
    // A type whose slices cannot be measured counts whole.
    let column = |column: &ArrayRef| column.to_data().get_slice_memory_size().unwrap_or(column.get_array_memory_size());
    batch.columns().iter().map(column).sum()
}

/// Bytes as a user writes them: `64MB`, `1.5GB`. Units are powers of 1024.
pub fn format_bytes(bytes: usize) -> String {
    const NAMES: [&str; 5] = ["B", "KB", "MB", "GB", "TB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < NAMES.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 || value >= 100.0 || value.fract() == 0.0 {
        format!("{value:.0}{}", NAMES[unit])
    } else {
        format!("{value:.1}{}", NAMES[unit])
    }
}

/// Reads `64MB`, `1.5GiB`, `65536`. Units are powers of 1024, with or without the `i` and the `B`.
///
/// # Errors
/// `InvalidConfig` with an example.
pub fn parse_bytes(text: &str) -> Result<usize> {
    let wrong = || {
        Error::new(ErrorKind::InvalidConfig, format!("{text:?} is no size"))
            .hint("write a number of bytes with or without a unit, such as 256MB or 1.5GB")
    };
    let trimmed = text.trim();
    let split = trimmed.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(trimmed.len());
    let (number, unit) = trimmed.split_at(split);
    let scale = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1u64,
        "k" | "kb" | "kib" => 1 << 10,
        "m" | "mb" | "mib" => 1 << 20,
        "g" | "gb" | "gib" => 1 << 30,
        "t" | "tb" | "tib" => 1 << 40,
        _ => return Err(wrong()),
    };
    let bytes = if number.contains('.') {
        let value: f64 = number.parse().map_err(|_| wrong())?;
        let bytes = value * scale as f64;
        if bytes >= u64::MAX as f64 {
            return Err(wrong());
        }
        bytes as u64
    } else {
        number.parse::<u64>().ok().and_then(|value| value.checked_mul(scale)).ok_or_else(wrong)?
    };
    usize::try_from(bytes).map_err(|_| wrong())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_budget_gives_nothing_until_something_is_freed() {
        let budget = MemoryBudget::new(10 * UNIT);
        let held = budget.try_reserve(8 * UNIT).unwrap();
        assert!(budget.try_reserve(3 * UNIT).is_none());
        drop(held);
        assert_eq!(budget.used(), 0);
        assert_eq!(budget.try_reserve(10 * UNIT).unwrap().bytes(), 10 * UNIT);
        assert_eq!(budget.peak(), 10 * UNIT);
    }

    #[test]
    fn sizes_are_read_and_written_alike() {
        for (text, bytes) in [("64MB", 64 << 20), ("1.5GB", 3 << 29), ("10", 10), ("4KB", 4096)] {
            assert_eq!(parse_bytes(text).unwrap(), bytes);
        }
        assert_eq!(format_bytes(64 << 20), "64MB");
        for text in ["", "MB", "-1", "12XB", "1e3", "99999999999999TB"] {
            assert_eq!(parse_bytes(text).unwrap_err().kind(), ErrorKind::InvalidConfig, "{text}");
        }
    }
}
