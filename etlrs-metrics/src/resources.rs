//! What the process takes of the machine, as Linux tells it in `/proc`.

use std::time::Duration;

use etlrs_engine::ProcessMemory;

/// What the process took so far. What the system does not tell is 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ResourceUsage {
    /// Bytes of memory that are in RAM now.
    pub resident_bytes: u64,
    /// The most that there were at one time.
    pub peak_resident_bytes: u64,
    /// Time of all threads in the program itself.
    pub user_time: Duration,
    /// Time of all threads in the kernel.
    pub system_time: Duration,
    /// Bytes that were read from disks: not what the kernel had in memory.
    pub disk_read_bytes: u64,
    /// Bytes that were, or will be, written to disks.
    pub disk_written_bytes: u64,
    /// Bytes that came in by the interfaces of the process's network namespace, of all its processes, without loopback.
    pub network_received_bytes: u64,
    /// Bytes that went out.
    pub network_sent_bytes: u64,
    /// Threads.
    pub threads: u64,
    /// Open files and connections.
    pub open_files: u64,
}

impl ResourceUsage {
    /// What it is now. Takes some tens of microseconds.
    pub fn now() -> Self {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let status = read("/proc/self/status");
        let io = read("/proc/self/io");
        let (user_time, system_time) = processor(&read("/proc/self/stat"));
        let (network_received_bytes, network_sent_bytes) = network(&read("/proc/self/net/dev"));
        let memory = ProcessMemory::now();
        Self {
            resident_bytes: memory.resident as u64,
            peak_resident_bytes: memory.resident_peak as u64,
            user_time,
            system_time,
            disk_read_bytes: field(&io, "read_bytes:"),
            disk_written_bytes: field(&io, "write_bytes:"),
            network_received_bytes,
            network_sent_bytes,
            threads: field(&status, "Threads:"),
            open_files: std::fs::read_dir("/proc/self/fd").map_or(0, |files| files.count() as u64),
        }
    }
}

/// The number behind a name at the start of a line.
fn field(text: &str, name: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

/// Fields 14 and 15 of `proc_pid_stat(5)`, in ticks, of which Linux has 100 a second wherever programs can see them.
fn processor(stat: &str) -> (Duration, Duration) {
    // The name of the program, in parentheses, may hold anything.
    let mut fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace().skip(11);
    let mut ticks = || fields.next().and_then(|field| field.parse().ok()).unwrap_or(0);
    (Duration::from_millis(10 * ticks()), Duration::from_millis(10 * ticks()))
}

/// The first and the ninth column of `/proc/net/dev`, of all interfaces but loopback.
fn network(dev: &str) -> (u64, u64) {
    let interfaces = dev.lines().filter_map(|line| line.split_once(':')).filter(|(name, _)| name.trim() != "lo");
    interfaces.fold((0, 0), |(received, sent), (_, fields)| {
        let number =
            |index: usize| fields.split_whitespace().nth(index).and_then(|field| field.parse().ok()).unwrap_or(0);
        (received + number(0), sent + number(8))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_process_is_measured() {
        let before = ResourceUsage::now();
        let start = std::time::Instant::now();
        while start.elapsed() < Duration::from_millis(60) {
            std::hint::spin_loop();
        }
        let held = vec![1u8; 32 << 20];
        let file = std::fs::File::open("/proc/self/status").unwrap();
        let after = ResourceUsage::now();
        assert!(after.resident_bytes >= before.resident_bytes + (30 << 20), "{before:?} {after:?}");
        assert!(after.peak_resident_bytes >= after.resident_bytes - (1 << 20), "{after:?}");
        assert!(after.user_time >= before.user_time + Duration::from_millis(30), "{before:?} {after:?}");
        assert!(after.threads >= 1 && after.open_files >= 1);
        drop((held, file));
    }

    #[test]
    fn fields_are_found_whatever_the_name_of_the_program() {
        let stat = "1 (a) b) S 1 1 1 0 -1 4194560 1 0 0 0 250 50 0 0 20 0 2 0";
        assert_eq!(processor(stat), (Duration::from_millis(2500), Duration::from_millis(500)));
        let dev =
            "Inter-| Receive\n face |bytes\n    lo: 7 1 0 0 0 0 0 0 7 1\n  eth0: 100 1 0 0 0 0 0 0 30 2 0 0 0 0 0 0\n";
        assert_eq!(network(dev), (100, 30));
    }
}
