//! The program under test.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

use std::sync::atomic::{AtomicU32, Ordering};

fn main() -> std::process::ExitCode {
    if let Ok(moment) = std::env::var(etlrs_tests::KILL_AT) {
        die_at(&moment);
    }
    if let Ok(moment) = std::env::var(etlrs_tests::PAUSE_AT) {
        wait_at(&moment);
    }
    etlrs_cli::main()
}

/// Calls `f` the `n`th time that the program reaches the failpoint `name`.
fn at(name: &str, n: &str, f: impl Fn() + Send + Sync + 'static) {
    let left = AtomicU32::new(n.parse().unwrap());
    let count = move || {
        if left.fetch_sub(1, Ordering::SeqCst) == 1 {
            f();
        }
    };
    fail::cfg_callback(name, count).unwrap();
}

/// Waits there until a file goes, which it makes, of `moment`, which is `failpoint:n:path`.
fn wait_at(moment: &str) {
    let mut parts = moment.splitn(3, ':').map(str::to_owned);
    let (name, n, path) = (parts.next().unwrap(), parts.next().unwrap(), parts.next().unwrap());
    at(&name, &n, move || {
        std::fs::write(&path, "").unwrap();
        while std::fs::exists(&path).unwrap() {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    });
}

/// Sees to it that the program is killed the `n`th time that it reaches a failpoint, of `moment`, which is `failpoint:n`.
fn die_at(moment: &str) {
    let (name, n) = moment.split_once(':').unwrap();
    at(name, n, || {
        rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL).unwrap();
    });
}
