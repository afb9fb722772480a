//! One check under the fuzzer.

use std::panic::{AssertUnwindSafe, catch_unwind, set_hook};
use std::sync::{Mutex, PoisonError};

static LAST: Mutex<String> = Mutex::new(String::new());

/// The fuzzer's own hook ends the process at each panic, also at those that the code under test catches, for damaged Parquet
/// files are known by them. Instead each is remembered, and one that leaves the check ends the process.
pub(crate) fn quietly() {
    set_hook(Box::new(|panic| *LAST.lock().unwrap_or_else(PoisonError::into_inner) = panic.to_string()));
}

pub(crate) fn check(check: etlrs_fuzz::Check, input: &[u8]) {
    if catch_unwind(AssertUnwindSafe(|| check(input))).is_err() {
        eprintln!("{}", LAST.lock().unwrap_or_else(PoisonError::into_inner));
        std::process::abort();
    }
}
