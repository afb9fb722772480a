//! The program under test.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

use std::sync::atomic::{AtomicU32, Ordering};

fn main() -> std::process::ExitCode {
    if let Ok(moment) = std::env::var(etlrs_tests::KILL_AT) {
        die_at(&moment);
    }
    etlrs_cli::main()
}

/// Sees to it that the program is killed the `n`th time that it reaches a failpoint, of `moment`, which is `failpoint:n`.
fn die_at(moment: &str) {
    let (name, n) = moment.split_once(':').unwrap();
    let left = AtomicU32::new(n.parse().unwrap());
    let kill = move || {
        if left.fetch_sub(1, Ordering::SeqCst) == 1 {
            rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL).unwrap();
        }
    };
    fail::cfg_callback(name, kill).unwrap();
}
