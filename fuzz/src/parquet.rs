//! What must hold for Parquet files.

use etlrs_core::{ColumnTest, Comparison, ErrorKind, PerformanceConfig, RunContext, ScanRequest, Test, Value};
use etlrs_parquet::ParquetExtractor;

use super::table::{assert_same, file, read};

/// Any bytes are rows or an error that says what is wrong with them. The number of partitions and the sizes of batches do
/// not matter, nor the order of the columns; a filter leaves no more rows than there are.
pub fn parquet_open(input: &[u8]) {
    let extractor = ParquetExtractor::new(file("t.parquet", input));
    let cx = context(1000);
    let whole = read(&extractor, &cx, &ScanRequest::all().partitions(1));
    let table = match &whole {
        Ok(table) => table,
        Err(error) => {
            assert!(
                matches!(error.kind(), ErrorKind::InvalidData | ErrorKind::Unsupported | ErrorKind::MemoryExceeded),
                "{error:?}"
            );
            assert!(error.to_string().contains("t.parquet"), "{error}");
            return;
        }
    };
    assert_same(&whole, &read(&extractor, &context(7), &ScanRequest::all().partitions(8)), "cut");

    let names: Vec<_> = table.schema.fields().iter().map(|field| field.name().clone()).rev().collect();
    let mut distinct = names.clone();
    distinct.sort();
    distinct.dedup();
    // Columns are asked for by name, so of two with one name only the first can be had.
    if distinct.len() == names.len() {
        let turned = read(&extractor, &cx, &ScanRequest::all().columns(names.clone())).unwrap();
        assert_eq!(turned.rows, table.rows);
    }
    let values = [Value::Int(1), Value::Float(0.5), Value::Text("b".into()), Value::Boolean(true)];
    for (name, value) in names.iter().zip(values.into_iter().cycle()) {
        let tests = [Comparison::GtEq, Comparison::Lt].map(|comparison| {
            let request =
                ScanRequest::all().filter([ColumnTest::new(name.clone(), Test::Compare(comparison, value.clone()))]);
            read(&extractor, &cx, &request)
        });
        for filtered in tests.into_iter().flatten() {
            assert!(filtered.rows <= table.rows, "{name}: {} of {} rows", filtered.rows, table.rows);
        }
    }
}

/// With a small budget, so that a claim of much memory is refused before it is believed.
fn context(batch_size: usize) -> RunContext {
    RunContext::new(PerformanceConfig {
        batch_size,
        max_threads: 2,
        max_memory_usage: 16 << 20,
        ..PerformanceConfig::default()
    })
}
