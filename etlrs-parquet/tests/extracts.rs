//! How sources are cut, and what becomes of damaged ones.

// A test fails by panicking.
#![allow(clippy::unwrap_used)]

mod common;

use std::path::{Path, PathBuf};

use common::*;
use etlrs_core::*;
use etlrs_parquet::*;

/// A file of `groups` row groups with ten rows each.
fn ten_each(path: &Path, groups: usize) {
    let loader = ParquetLoader::new(path).with_options(ParquetWriteOptions::default().with_row_group_size(10_usize));
    let batch = count(0..10 * groups as i64);
    block_on(load(&context(), &loader, &batch.schema(), LoadMode::Replace, &[vec![batch.clone()]])).unwrap();
}

#[test]
fn a_directory_is_one_table_and_a_stranger_in_it_is_named() {
    let folder = tempfile::tempdir().unwrap();
    ten_each(&folder.path().join("b.parquet"), 2);
    ten_each(&folder.path().join("a.PQ"), 1);
    let (scan, batches) = block_on(extract(folder.path(), &ScanRequest::all().partitions(1))).unwrap();
    assert_eq!(numbers(&batches), (0..10).chain(0..20).collect::<Vec<_>>());
    let descriptors: Vec<_> = scan.partitions().iter().map(|p| p.descriptor.as_str()).collect();
    assert_eq!(descriptors, ["file 0, row groups 0..1", "file 1, row groups 0..2"]);

    let other = record_batch([("m", vec![Some(1)])]);
    let loader = ParquetLoader::new(folder.path().join("c.parquet"));
    block_on(load(&context(), &loader, &other.schema(), LoadMode::Create, &[vec![other.clone()]])).unwrap();
    let error = block_on(extract(folder.path(), &ScanRequest::all())).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::SchemaMismatch);
    assert!(error.to_string().contains("c.parquet"), "{error}");
}

#[test]
fn a_recorded_plan_is_followed_or_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("t.parquet");
    ten_each(&path, 7);
    let (planned, _) = block_on(extract(&path, &ScanRequest::all().partitions(3))).unwrap();
    let mut request = ScanRequest::all().partitions(7);
    request.recorded = Some(planned.partitions().to_vec());
    let (resumed, batches) = block_on(extract(&path, &request)).unwrap();
    assert_eq!(resumed.partitions(), planned.partitions());
    assert_eq!(block_on(resumed.fingerprint()).unwrap(), block_on(planned.fingerprint()).unwrap());
    assert_eq!(numbers(&batches), (0..70).collect::<Vec<_>>());
    ten_each(&path, 6);
    assert_eq!(block_on(extract(&path, &request)).err().unwrap().kind(), ErrorKind::SourceChanged);
    assert_eq!(block_on(resumed.fingerprint()).unwrap_err().kind(), ErrorKind::SourceChanged);
}

#[test]
fn a_cancelled_run_stops_reading() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("t.parquet");
    ten_each(&path, 2);
    block_on(async {
        let cx = context();
        let scan = ParquetExtractor::new(&path).scan(&cx, &ScanRequest::all()).await.unwrap();
        let mut stream = scan.read(&cx, &scan.partitions()[0]).unwrap();
        cx.cancel().cancel();
        assert_eq!(next_batch(&mut stream).await.unwrap().unwrap_err().kind(), ErrorKind::Cancelled);
        assert!(next_batch(&mut stream).await.is_none());
    });
}

#[test]
fn wide_rows_make_small_batches() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("t.parquet");
    let text = "x".repeat(10_000);
    let column = arrow_array::StringArray::from_iter_values((0..500).map(|_| &text));
    let batch = RecordBatch::try_from_iter([("t", std::sync::Arc::new(column) as _)]).unwrap();
    block_on(load(&context(), &ParquetLoader::new(&path), &batch.schema(), LoadMode::Create, &[vec![batch.clone()]]))
        .unwrap();
    block_on(async {
        let cx = context().for_worker(1 << 20);
        let scan = ParquetExtractor::new(&path).scan(&cx, &ScanRequest::all()).await.unwrap();
        let batches = drain(&cx, &*scan).await.unwrap();
        // The dictionary holds the text once, and still each row takes its room.
        let largest = batches.iter().map(RecordBatch::num_rows).max().unwrap();
        assert!((5..=(1 << 17) / 10_000).contains(&largest), "{largest} rows");
        assert_eq!(checksum(&batches), checksum(&[batch]));
    });
}

fn try_read(path: &Path) -> Result<u64> {
    let (_, batches) = block_on(extract(path, &ScanRequest::all()))?;
    Ok(batches.iter().map(|batch| batch.num_rows() as u64).sum())
}

#[test]
fn a_truncated_or_altered_file_is_an_error_that_names_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("t.parquet");
    ten_each(&path, 20);
    let bytes = std::fs::read(&path).unwrap();
    for length in (0..bytes.len()).step_by(64) {
        std::fs::write(&path, &bytes[..length]).unwrap();
        let error = try_read(&path).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidData, "{length}: {error}");
        assert!(error.to_string().contains("t.parquet"), "{error}");
    }
    let mut refused = 0;
    for place in (0..bytes.len()).step_by(7) {
        let mut altered = bytes.clone();
        altered[place] ^= [0xff, 0x01, 0x80][place / 7 % 3];
        std::fs::write(&path, &altered).unwrap();
        // Other values are as good as the right ones to a reader without checksums; a panic or another kind is not.
        match try_read(&path) {
            Ok(rows) => assert_eq!(rows, 200),
            Err(error) => {
                refused += 1;
                let kind = error.kind();
                assert!(
                    matches!(kind, ErrorKind::InvalidData | ErrorKind::Unsupported | ErrorKind::MemoryExceeded),
                    "{place}: {error:?}"
                );
                assert!(error.to_string().contains("t.parquet"), "{error}");
            }
        }
    }
    assert!(refused > 100, "{refused}");
}

#[test]
fn a_source_that_is_not_there_or_no_parquet_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let kind = |name: &str| try_read(&folder.path().join(name)).unwrap_err().kind();
    assert_eq!(kind("none.parquet"), ErrorKind::NotFound);
    std::fs::write(folder.path().join("text.parquet"), "a,b\n1,2\n").unwrap();
    assert_eq!(kind("text.parquet"), ErrorKind::InvalidData);
    std::fs::write(folder.path().join("empty.parquet"), "").unwrap();
    assert_eq!(kind("empty.parquet"), ErrorKind::InvalidData);
    std::fs::create_dir(folder.path().join("dir")).unwrap();
    assert_eq!(kind("dir"), ErrorKind::InvalidData);
}

fn suite() -> Option<PathBuf> {
    let root = std::env::var_os("ETLRS_SUITES")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/suites"), PathBuf::from);
    let suite = root.join("parquet-testing");
    if suite.is_dir() {
        return Some(suite);
    }
    eprintln!("SKIPPED: the Parquet test files: suites not found at {}", root.display());
    None
}

fn suite_files(suite: &Path) -> Vec<String> {
    let mut files = Vec::new();
    for folder in ["data", "data/geospatial", "data/aes256", "bad_data"] {
        for name in names(&suite.join(folder)) {
            if name.ends_with(".parquet") || name.ends_with(".encrypted") {
                files.push(format!("{folder}/{name}"));
            }
        }
    }
    files
}

/// What becomes of each file of the suite: its rows, as pyarrow 26 counts them too, or the kind of the error.
const OUTCOMES: &str = include_str!("suite_outcomes.txt");

#[test]
fn the_files_of_other_writers_are_read_or_refused() {
    let Some(suite) = suite() else { return };
    let mut outcomes = String::new();
    for file in suite_files(&suite) {
        let outcome = match try_read(&suite.join(&file)) {
            Ok(rows) => rows.to_string(),
            Err(error) => {
                assert!(error.to_string().contains(&file), "{error}");
                eprintln!("{error}");
                format!("{:?}", error.kind())
            }
        };
        outcomes.push_str(&format!("{file} {outcome}\n"));
    }
    let differing: Vec<_> = outcomes.lines().zip(OUTCOMES.lines()).filter(|(found, known)| found != known).collect();
    assert!(differing.is_empty() && outcomes == OUTCOMES, "{differing:#?}\n{outcomes}");
}

#[test]
fn values_are_those_that_another_reader_has_written_down() {
    let Some(suite) = suite() else { return };
    for name in
        ["delta_binary_packed", "delta_byte_array", "delta_encoding_optional_column", "delta_encoding_required_column"]
    {
        let (_, batches) = block_on(extract(&suite.join(format!("data/{name}.parquet")), &ScanRequest::all())).unwrap();
        let expected = std::fs::read_to_string(suite.join(format!("data/{name}_expect.csv"))).unwrap();
        let mut rows = 0;
        let records = batches.iter().flat_map(|batch| (0..batch.num_rows()).map(move |row| (batch, row)));
        for ((batch, row), line) in records.zip(expected.lines().skip(1)) {
            rows += 1;
            let expected = quoted_fields(line);
            for (column, expected) in batch.columns().iter().zip(expected) {
                assert_eq!(text(column, row), expected, "{name} row {row}");
            }
        }
        assert_eq!(
            (rows, expected.lines().count()),
            (batches.iter().map(RecordBatch::num_rows).sum(), rows + 1),
            "{name}"
        );
    }
}

fn quoted_fields(line: &str) -> Vec<&str> {
    let (mut fields, mut start, mut quoted) = (Vec::new(), 0, false);
    for (place, byte) in line.bytes().enumerate() {
        quoted ^= byte == b'"';
        if byte == b',' && !quoted {
            fields.push(line[start..place].trim_matches('"'));
            start = place + 1;
        }
    }
    fields.push(line[start..].trim_matches('"'));
    fields
}

fn text(column: &arrow_array::ArrayRef, row: usize) -> String {
    use arrow_array::cast::AsArray;
    use arrow_array::types::*;
    if column.is_null(row) {
        return String::new();
    }
    match column.data_type() {
        DataType::Int64 => column.as_primitive::<Int64Type>().value(row).to_string(),
        DataType::Int32 => column.as_primitive::<Int32Type>().value(row).to_string(),
        _ => column.as_string::<i32>().value(row).to_owned(),
    }
}

#[test]
fn int96_reaches_the_years_that_spark_writes() {
    use arrow_array::cast::AsArray;
    use arrow_array::types::*;
    let Some(suite) = suite() else { return };
    // As int96_from_spark.md tells: the last but one is 9999-12-31 03:00:00 in UTC.
    let path = suite.join("data/int96_from_spark.parquet");
    let (scan, batches) = block_on(extract(&path, &ScanRequest::all())).unwrap();
    let values = batches[0].column(0).as_primitive::<TimestampMicrosecondType>();
    assert_eq!(
        values.iter().collect::<Vec<_>>(),
        [
            Some(1_704_141_296_123_456),
            Some(1_704_070_800_000_000),
            Some(253_402_225_200_000_000),
            Some(1_735_599_600_000_000),
            None,
            Some(9_089_380_393_200_000_000),
        ]
    );
    assert!(scan.notes()[0].contains("int96=ns"));
}
