//! What the memory of a run went to.

use etlrs_core::format_bytes;

use crate::RunReport;

/// A part of the memory budget, and who may use it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct MemoryUse {
    /// Who: `source`, `batches`, `target`, `table of lookup`, `quarantine`, `large rows`.
    pub name: String,
    /// Bytes that it may use, of all workers together.
    pub bytes: usize,
}

impl MemoryUse {
    pub(crate) fn new(name: impl Into<String>, bytes: usize) -> Self {
        Self { name: name.into(), bytes }
    }
}

/// The memory of the process, as the system tells it in `/proc/self/status`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ProcessMemory {
    /// Bytes that are in RAM now; 0 where the system does not tell.
    pub resident: usize,
    /// The most that there were since the process began.
    pub resident_peak: usize,
}

impl ProcessMemory {
    /// What it is now.
    pub fn now() -> Self {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let bytes = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.and_then(|line| line.split_whitespace().next()?.parse::<usize>().ok()).unwrap_or(0) * 1024
        };
        Self { resident: bytes("VmRSS:"), resident_peak: bytes("VmHWM:") }
    }
}

/// What an allocator has given out, if it counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AllocatorUsage {
    /// Bytes that are in use now.
    pub live: usize,
    /// The most that there were at a time since the process began.
    pub peak: usize,
}

/// Where the memory of a run went, from what was measured.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct MemoryAnalysis {
    /// The memory budget in bytes.
    pub budget: usize,
    /// How it was shared out.
    pub uses: Vec<MemoryUse>,
    /// Bytes of the largest batch that came out of the source.
    pub largest_batch: usize,
    /// Bytes that a batch could have.
    pub most_of_batch: usize,
    /// The process.
    pub process: ProcessMemory,
    /// The allocator, if it counts.
    pub allocator: Option<AllocatorUsage>,
    /// Bytes that caches hold, beyond the budget.
    pub caches: usize,
    /// What takes the memory, in one sentence.
    pub verdict: String,
    /// What would make it less, if there is anything.
    pub advice: String,
}

/// Where the memory of a run went: what the budget was for, and what the process and its allocator have. `allocator` is what an
/// allocator that counts has given out, if the program has one, and `caches` the [bytes](crate::LookupCache::bytes) that caches
/// hold.
///
/// The figures of the process are of all that it does, other runs included.
pub fn diagnose_memory_usage(report: &RunReport, allocator: Option<AllocatorUsage>, caches: usize) -> MemoryAnalysis {
    analyse(report.memory, &report.memory_use, report.batches, ProcessMemory::now(), allocator, caches)
}

/// Bytes of batches: the largest that there was, and the most that one could have had.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct BatchSizes {
    /// The largest that came out of the source.
    pub largest: usize,
    /// What the share of a worker lets a batch have.
    pub most: usize,
}

fn analyse(
    budget: usize,
    uses: &[MemoryUse],
    batches: BatchSizes,
    process: ProcessMemory,
    allocator: Option<AllocatorUsage>,
    caches: usize,
) -> MemoryAnalysis {
    let size = format_bytes;
    let tables: usize = uses.iter().filter(|part| part.name.starts_with(TABLE)).map(|part| part.bytes).sum();
    let peak = allocator.map_or(process.resident_peak, |allocator| allocator.peak);
    // What is allocated need not be in RAM.
    let of_it = if peak <= process.resident_peak { " of it" } else { "" };
    let allocated = allocator.map_or(String::new(), |allocator| format!(", {}{of_it} allocated", size(allocator.peak)));
    let resident = size(process.resident_peak);
    let verdict = format!("the process had {resident} in RAM at the most{allocated}; the budget is {}", size(budget));
    let beyond = |verdict: &str, what: &str| format!("{verdict}, and {what}");
    let (verdict, advice) = if caches > peak / 2 && caches > 0 {
        (
            beyond(&verdict, &format!("caches hold {}", size(caches))),
            "a smaller cache_size_mb would make it less".into(),
        )
    } else if tables > budget / 2 {
        (
            beyond(&verdict, &format!("tables of transforms take {} of it", size(tables))),
            "fewer columns in the table of a lookup, or fewer keys to deduplicate by, would make it less".into(),
        )
    } else if batches.largest > batches.most / 2 {
        (
            beyond(&verdict, &format!("a batch of {} fills its part of a worker's share", size(batches.largest))),
            "more memory makes batches larger; fewer threads do so too".into(),
        )
    } else if peak < budget / 4 && peak > 0 {
        (verdict, "a smaller budget would have done".into())
    } else {
        (verdict, String::new())
    };
    MemoryAnalysis {
        budget,
        uses: uses.to_vec(),
        largest_batch: batches.largest,
        most_of_batch: batches.most,
        process,
        allocator,
        caches,
        verdict,
        advice,
    }
}

/// How the names of tables that transformers hold begin.
pub(crate) const TABLE: &str = "table of ";

#[cfg(test)]
mod tests {
    use super::*;

    const MB: usize = 1 << 20;

    #[test]
    fn what_takes_the_memory_is_named() {
        let uses = [MemoryUse::new("source", 20 * MB), MemoryUse::new("table of lookup", 60 * MB)];
        let process = ProcessMemory { resident: 40 * MB, resident_peak: 90 * MB };
        let small = BatchSizes { largest: MB, most: 8 * MB };
        let allocator = Some(AllocatorUsage { live: MB, peak: 80 * MB });
        let found = analyse(100 * MB, &uses, small, process, allocator, 0);
        let expected = "the process had 90MB in RAM at the most, 80MB of it allocated; the budget is 100MB, and tables of transforms take 60MB of it";
        assert_eq!(found.verdict, expected);
        let found = analyse(100 * MB, &uses[..1], small, process, allocator, 50 * MB);
        assert!(found.verdict.ends_with("and caches hold 50MB"), "{found:?}");
        let found = analyse(100 * MB, &uses[..1], BatchSizes { largest: 5 * MB, ..small }, process, None, 0);
        assert!(
            found.verdict.starts_with("the process had 90MB in RAM at the most; the")
                && found.verdict.contains("batch of 5MB")
        );
        let found = analyse(1000 * MB, &uses[..1], small, process, None, 0);
        assert_eq!(found.advice, "a smaller budget would have done");
    }

    #[test]
    fn the_process_is_measured() {
        let before = ProcessMemory::now();
        let held = vec![1u8; 32 * MB];
        let now = ProcessMemory::now();
        assert!(now.resident >= before.resident + 30 * MB && now.resident_peak >= now.resident, "{before:?} {now:?}");
        drop(held);
    }
}
