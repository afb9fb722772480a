/// How a run uses the machine. Sizes are bytes.
///
/// ```
/// use etlrs_core::PerformanceConfig;
///
/// let config = PerformanceConfig { max_threads: 4, ..PerformanceConfig::default() };
/// assert_eq!(config.batch_size, 10_000);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PerformanceConfig {
    /// Partitions worked on at the same time. Default: the number of cores.
    pub max_threads: usize,
    /// Stack of each worker thread. Default: 2 MiB.
    pub thread_stack_size: usize,
    /// The budget for all data that the run holds. Default: a quarter of the machine's memory, at most 1 GiB.
    pub max_memory_usage: usize,
    /// Rows in a batch at the most. Default: 10 000.
    pub batch_size: usize,
    /// Bytes asked of a file at a time. Default: 64 KiB.
    pub io_buffer_size: usize,
    /// Whether more than one partition is worked on at a time. Default: yes.
    pub enable_parallel_processing: bool,
    /// Attempts at a partition whose errors are transient. Default: 4.
    pub max_attempts: u32,
}

impl Default for PerformanceConfig {
    fn default() -> Self {
        Self {
            max_threads: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            thread_stack_size: 2 << 20,
            max_memory_usage: default_memory(),
            batch_size: 10_000,
            io_buffer_size: 64 << 10,
            enable_parallel_processing: true,
            max_attempts: 4,
        }
    }
}

impl PerformanceConfig {
    /// Partitions worked on at a time: `max_threads`, or 1 without parallel processing.
    pub fn workers(&self) -> usize {
        if self.enable_parallel_processing { self.max_threads.max(1) } else { 1 }
    }
}

const GIB: usize = 1 << 30;

fn default_memory() -> usize {
    machine_memory().map_or(GIB, |bytes| (bytes / 4).clamp(64 << 20, GIB))
}

/// The machine's memory, or the container's if that has less (cgroup v2, `memory.max`).
fn machine_memory() -> Option<usize> {
    let meminfo = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = meminfo.lines().find(|line| line.starts_with("MemTotal:"))?;
    let kib: usize = line.split_whitespace().nth(1)?.parse().ok()?;
    let total = kib.saturating_mul(1024);
    let cgroup = std::fs::read_to_string("/sys/fs/cgroup/memory.max").ok().and_then(|text| text.trim().parse().ok());
    Some(cgroup.map_or(total, |limit: usize| limit.min(total)))
}
