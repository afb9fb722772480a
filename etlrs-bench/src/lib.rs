//! How fast ETLRS is, and others on the same work in the same run.
//!
//! `cargo bench -p etlrs-bench` runs the suites in `benches`. Each makes its data by itself, the same each time, sees to it
//! that all contenders give the same result, and ends with a table of rates and their ratios. Ratios are what counts: both
//! sides of one come from the same minute on the same machine.

mod data;
mod table;

pub use data::{Kind, csv, csv_of_rows, schema};
pub use table::{criterion_folder, print_table};

use std::path::PathBuf;
use std::time::Duration;

use arrow_array::RecordBatch;
use etlrs_core::{BatchStream, PerformanceConfig, Result, RunContext, next_batch};

/// Rows in a batch, on all sides.
pub const BATCH_ROWS: usize = 8192;
/// Bytes asked of a file at a time, on all sides.
pub const READ_SIZE: usize = 64 << 10;

/// A run on one thread.
pub fn context() -> RunContext {
    let config =
        PerformanceConfig { max_threads: 1, batch_size: BATCH_ROWS, io_buffer_size: READ_SIZE, ..Default::default() };
    RunContext::new(config)
}

/// Waits for `future` on this thread.
///
/// # Panics
/// If the operating system refuses what a runtime needs.
#[expect(clippy::unwrap_used, reason = "a benchmark that cannot start ends")]
pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}

/// Gives each batch of `stream` to `take`.
///
/// # Errors
/// That of the stream.
pub async fn for_each(mut stream: BatchStream, mut take: impl FnMut(RecordBatch)) -> Result<()> {
    while let Some(batch) = next_batch(&mut stream).await {
        take(batch?);
    }
    Ok(())
}

/// Whether two lists of batches hold the same rows, however they are cut.
pub fn same_rows(one: &[RecordBatch], other: &[RecordBatch]) -> bool {
    let (mut ours, mut theirs) = (one.iter().cloned(), other.iter().cloned());
    let (mut our, mut their) = (ours.next(), theirs.next());
    while let (Some(one), Some(two)) = (&our, &their) {
        let rows = one.num_rows().min(two.num_rows());
        if one.slice(0, rows).columns() != two.slice(0, rows).columns() {
            return false;
        }
        let rest = |batch: &RecordBatch| (batch.num_rows() > rows).then(|| batch.slice(rows, batch.num_rows() - rows));
        (our, their) = (rest(one).or_else(|| ours.next()), rest(two).or_else(|| theirs.next()));
    }
    our.is_none() && their.is_none()
}

/// Rows of the tables that suites move.
pub const SIZES: [usize; 3] = [100, 10_000, 1_000_000];

/// Criterion as the suites use it; the arguments of the command line win.
pub fn criterion() -> criterion::Criterion {
    criterion::Criterion::default()
        .output_directory(&criterion_folder())
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
        .sample_size(10)
        .configure_from_args()
}

/// Where files are put: in memory if the system offers that, so that no disk is measured.
pub fn folder() -> std::io::Result<tempfile::TempDir> {
    let memory = PathBuf::from("/dev/shm");
    if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }
}
