//! What must hold for any bytes that ETLRS is given to read.
//!
//! Each function here takes the bytes of a fuzzer and panics if something does not hold. The fuzzer (`fuzz_targets`,
//! `scripts/fuzz`) looks for bytes that make one panic; those that once did are kept in `regressions`, and the tests of the
//! workspace run all of them, with this file as a module (`tests/tests/fuzzing.rs`).
#![allow(
    clippy::unwrap_used,
    missing_docs,
    unreachable_pub,
    reason = "a check fails by panicking, and each is described where it is"
)]

mod csv;
mod json;
mod parquet;
mod table;

pub use csv::{csv_dialect, csv_gz, csv_reader, csv_zst};
pub use json::{json_reader, json_writer};
pub use parquet::parquet_open;

/// A check by the name of its target.
pub type Check = fn(&[u8]);

pub const CHECKS: [(&str, Check); 7] = [
    ("csv_reader", csv_reader),
    ("csv_dialect", csv_dialect),
    ("csv_gz", csv_gz),
    ("csv_zst", csv_zst),
    ("json_reader", json_reader),
    ("json_writer", json_writer),
    ("parquet_open", parquet_open),
];

/// Bytes at the start of what the checks of text take that choose options; all of them zero choose what is the default. The
/// rest is the file.
pub const CHOICES: usize = 16;

/// Takes one byte for each choice.
struct Choices<'a>(&'a [u8]);

impl<'a> Choices<'a> {
    /// The choices, and the file.
    fn split(input: &'a [u8]) -> (Self, &'a [u8]) {
        let (choices, file) = input.split_at(input.len().min(CHOICES));
        (Self(choices), file)
    }

    fn byte(&mut self) -> u8 {
        let Some((&byte, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        byte
    }

    fn of<T: Copy, const N: usize>(&mut self, from: [T; N]) -> T {
        from[usize::from(self.byte()) % N]
    }
}
