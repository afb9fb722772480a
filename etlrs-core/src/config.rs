use crate::{Error, ErrorKind, OptionSet, Result};

crate::options! {
    /// How a run uses the machine. Sizes are bytes.
    ///
    /// ```
    /// use etlrs_core::PerformanceConfig;
    ///
    /// let config = PerformanceConfig { max_threads: 4, ..PerformanceConfig::default() };
    /// assert_eq!(config.batch_size, 10_000);
    /// ```
    pub struct PerformanceConfig {
        /// Partitions worked on at the same time; by default as many as the machine has cores.
        max_threads, with_max_threads: usize = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        /// Stack of each worker thread.
        thread_stack_size, with_thread_stack_size: usize = 2 << 20;
        /// The budget for all data that the run holds; by default a quarter of the machine's memory, at most 1 GB.
        max_memory_usage, with_max_memory_usage: usize = default_memory();
        /// Rows in a batch at the most.
        batch_size, with_batch_size: usize = 10_000;
        /// Bytes asked of a file at a time.
        io_buffer_size, with_io_buffer_size: usize = 64 << 10;
        /// Whether CSV and JSON files are mapped into memory instead of read; what is mapped is beyond max_memory_usage.
        enable_memory_mapping, with_enable_memory_mapping: bool = false;
        /// Whether batches go on to the target as they are read. Otherwise a partition is read to its end first, which lets go of
        /// the source early and takes memory for all of its rows.
        enable_streaming, with_enable_streaming: bool = true;
        /// Rows that a transformer on several cores, or one that waits, takes at a time unless it is told otherwise.
        chunk_size, with_chunk_size: usize = 1000;
        /// Whether caches of lookups keep what they found.
        enable_cache, with_enable_cache: bool = true;
        /// Megabytes that a cache may keep; they are beyond max_memory_usage.
        cache_size_mb, with_cache_size_mb: usize = 256;
        /// Seconds for which a cache keeps what it found.
        cache_ttl_seconds, with_cache_ttl_seconds: usize = 3600;
        /// Whether more than one partition is worked on at a time.
        enable_parallel_processing, with_enable_parallel_processing: bool = true;
        /// Connections to one database at the most, those that wait for use included.
        max_concurrent_connections, with_max_concurrent_connections: usize = 100;
        /// Connections that one source or one target works with at the most.
        connection_pool_size, with_connection_pool_size: usize = 10;
        /// Attempts at a partition whose errors are transient.
        max_attempts, with_max_attempts: u32 = 4;
        /// Whether a run changes its number of workers, of writers and of rows in a batch as it goes, and keeps what makes it
        /// faster. It begins with what is set here, and may go beyond max_threads.
        auto_tune, with_auto_tune: bool = false;
    }
}

impl PerformanceConfig {
    /// The defaults with what the environment says: `ETLRS_MAX_THREADS=4` for `max_threads`, and so for each field. A pipeline
    /// file and the flags of the program win over it.
    ///
    /// # Errors
    /// `InvalidConfig` for a value that is none of its field, naming the variable, and for a variable that is almost called as one.
    pub fn from_env() -> Result<Self> {
        let text = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        };
        Self::from_variables(&std::env::vars_os().filter_map(text).collect::<Vec<_>>())
    }

    fn from_variables(variables: &[(String, String)]) -> Result<Self> {
        let mut config = Self::default();
        let specs = Self::specs();
        let name_of = |key: &str| format!("{PREFIX}{}", key.to_ascii_uppercase());
        for (name, value) in variables {
            // Others may have variables that begin so too, so one that is not a slip away from a setting is theirs.
            let Some(key) = name.strip_prefix(PREFIX).filter(|_| !value.trim().is_empty()) else { continue };
            let key = key.to_lowercase();
            let slip = specs.iter().find(|spec| strsim::damerau_levenshtein(&key, spec.key) == 1);
            if let Some(guess) = slip.map(|spec| name_of(spec.key)) {
                let message = format!("the environment variable {name} is no setting");
                return Err(Error::new(ErrorKind::InvalidConfig, message).hint(format!("did you mean {guess}?")));
            }
        }
        for spec in &specs {
            let name = name_of(spec.key);
            // One that is empty is not set, as compose files have it.
            let value = variables.iter().find(|(found, value)| *found == name && !value.trim().is_empty());
            if let Some((_, value)) = value
                && let Some(Err(problem)) = config.set(spec.key, value)
            {
                let message = format!("the environment variable {name} is {value:?}: {problem}");
                return Err(Error::new(ErrorKind::InvalidConfig, message));
            }
        }
        Ok(config)
    }

    /// # Errors
    /// `InvalidConfig` for a value that no run could work with, naming the field.
    pub fn validate(&self) -> Result<()> {
        let fields = [
            ("max_threads", self.max_threads, 1, 4096),
            ("thread_stack_size", self.thread_stack_size, 64 << 10, 1 << 30),
            ("max_memory_usage", self.max_memory_usage, 1 << 20, usize::MAX),
            ("batch_size", self.batch_size, 1, 1 << 24),
            ("chunk_size", self.chunk_size, 1, 1 << 24),
            ("cache_size_mb", self.cache_size_mb, 1, 1 << 20),
            ("cache_ttl_seconds", self.cache_ttl_seconds, 1, 1 << 30),
            ("io_buffer_size", self.io_buffer_size, 512, 1 << 30),
            ("max_concurrent_connections", self.max_concurrent_connections, 2, 1 << 16),
            ("connection_pool_size", self.connection_pool_size, 2, 1 << 16),
            ("max_attempts", self.max_attempts as usize, 1, 1000),
        ];
        for (name, value, least, most) in fields {
            if value < least || value > most {
                let range = if most == usize::MAX { format!("at least {least}") } else { format!("{least} to {most}") };
                return Err(Error::new(ErrorKind::InvalidConfig, format!("{name} cannot be {value}"))
                    .hint(format!("it can be {range}")));
            }
        }
        Ok(())
    }

    /// Connections that a source or a target may open: `connection_pool_size`, as far as `max_concurrent_connections` goes.
    pub fn connections(&self) -> usize {
        self.connection_pool_size.min(self.max_concurrent_connections)
    }

    /// Partitions worked on at a time: `max_threads`, or 1 without parallel processing.
    pub fn workers(&self) -> usize {
        if self.enable_parallel_processing { self.max_threads.max(1) } else { 1 }
    }
}

/// How the names of environment variables begin.
const PREFIX: &str = "ETLRS_";

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_sets_every_field() {
        for spec in PerformanceConfig::specs() {
            let name = format!("ETLRS_{}", spec.key.to_ascii_uppercase());
            let value = if spec.default == "true" || spec.default == "false" { "false" } else { "70000" };
            let config = PerformanceConfig::from_variables(&[(name, value.to_owned())]).unwrap();
            let shown = format!("{config:?}");
            assert!(shown.contains(&format!("{}: {value}", spec.key)), "{shown}");
        }
        let with = |name: &str, value: &str| PerformanceConfig::from_variables(&[(name.to_owned(), value.to_owned())]);
        let error = with("ETLRS_BATCH_SIZE", "many").unwrap_err().to_string();
        assert!(error.starts_with("the environment variable ETLRS_BATCH_SIZE is \"many\": it must be"), "{error}");
        let error = with("ETLRS_MAX_THREDS", "1").unwrap_err().to_string();
        assert!(error.contains("ETLRS_MAX_THREDS is no setting; did you mean ETLRS_MAX_THREADS?"), "{error}");
        for name in ["ETLRS_MAX_THREDS", "ETLRS_BATCH_SIZE"] {
            with(name, "").unwrap();
        }
        for name in ["ETLRS_SUITES", "ETLRS_PIPELINE", "ETLRS_BATCH_DATE", "ETLRS_AUTO_RUN", "ETLRS_CRON_SIZE"] {
            with(name, "1").unwrap();
        }
    }

    #[test]
    fn what_no_run_could_work_with_is_refused_by_its_field() {
        let field = |config: PerformanceConfig| config.validate().unwrap_err().to_string();
        assert!(field(PerformanceConfig::default().with_chunk_size(0usize)).starts_with("chunk_size cannot be 0"));
        assert!(
            field(PerformanceConfig::default().with_cache_size_mb(0usize)).starts_with("cache_size_mb cannot be 0")
        );
        PerformanceConfig::default().validate().unwrap();
    }
}
