//! Criterion's estimates as one table.

use std::path::{Path, PathBuf};

/// Where criterion keeps what it measured.
pub fn criterion_folder() -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../target"), PathBuf::from);
    target.join("criterion")
}

/// Prints the rates of `etlrs` and of `other` in each of `groups`, their ratios, and the geometric mean of these. A group that
/// was not measured, for it was not asked for, is left out.
pub fn print_table(groups: &[String], other: &str) {
    let mut logarithms = Vec::new();
    println!("\n{:<32} {:>12} {other:>12}   ratio", "MB/s", "etlrs");
    for group in groups {
        let rate = |function: &str| rate(&criterion_folder().join(group).join(function).join("new"));
        let (Some(ours), Some(theirs)) = (rate("etlrs"), rate(other)) else { continue };
        let name = group.replace('_', " ");
        println!("{name:<32} {ours:>12.0} {theirs:>12.0} {:>7.2}", ours / theirs);
        logarithms.push((ours / theirs).ln());
    }
    if !logarithms.is_empty() {
        let mean = (logarithms.iter().sum::<f64>() / logarithms.len() as f64).exp();
        println!("{:<32} {:>12} {:>12} {mean:>7.2}\n", "geometric mean", "", "");
    }
}

/// Megabytes in a second, by the median of the samples.
fn rate(folder: &Path) -> Option<f64> {
    let read = |name: &str| -> Option<serde_json::Value> {
        serde_json::from_slice(&std::fs::read(folder.join(name)).ok()?).ok()
    };
    let nanoseconds = read("estimates.json")?.get("median")?.get("point_estimate")?.as_f64()?;
    let bytes = read("benchmark.json")?.get("throughput")?.get("Bytes")?.as_f64()?;
    Some(bytes * 1e3 / nanoseconds)
}
