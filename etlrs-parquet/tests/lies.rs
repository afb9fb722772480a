//! Files that claim what is not so.

// A test fails by panicking.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::path::Path;
use std::sync::Arc;

use common::*;
use etlrs_core::arrow_array::types::*;
use etlrs_core::arrow_array::*;
use etlrs_core::*;
use etlrs_parquet::ParquetExtractor;
use parquet::arrow::ArrowWriter;
use parquet::basic::Compression;
use parquet::file::metadata::{PageIndexPolicy, ParquetMetaDataReader, ParquetMetaDataWriter};
use parquet::file::properties::{EnabledStatistics, WriterProperties};

/// All faults instead of a sample of them.
fn every() -> bool {
    std::env::var_os("ETLRS_FAULTS").is_some()
}

fn write(path: &Path, batch: &RecordBatch, properties: WriterProperties) {
    let mut writer = ArrowWriter::try_new(fs::File::create(path).unwrap(), batch.schema(), Some(properties)).unwrap();
    writer.write(batch).unwrap();
    writer.close().unwrap();
}

fn zigzag(value: i32) -> Vec<u8> {
    let mut rest = (value << 1 ^ value >> 31).cast_unsigned();
    let mut bytes = Vec::new();
    while rest > 0x7f {
        bytes.push((rest & 0x7f) as u8 | 0x80);
        rest >>= 7;
    }
    bytes.push(rest as u8);
    bytes
}

/// A file of one page with ten numbers, whose header claims these sizes and this number of values.
fn with_page(path: &Path, codec: Compression, unpacked: Option<i32>, packed: Option<i32>, values: i32) {
    let properties = WriterProperties::builder()
        .set_dictionary_enabled(false)
        .set_compression(codec)
        .set_statistics_enabled(EnabledStatistics::None)
        .set_offset_index_disabled(true)
        .build();
    let numbers: Int64Array = (0..10).map(|n| n * 1_000_003).collect();
    write(path, &RecordBatch::try_from_iter([("n", Arc::new(numbers) as ArrayRef)]).unwrap(), properties);
    let file = fs::read(path).unwrap();
    let metadata = ParquetMetaDataReader::new()
        .with_page_index_policy(PageIndexPolicy::Skip)
        .parse_and_finish(&bytes::Bytes::from(file.clone()))
        .unwrap();
    let chunk = metadata.row_group(0).column(0);
    let (start, length) = (chunk.data_page_offset() as usize, chunk.compressed_size() as usize);
    // The page is what the true header leaves: its sizes are those of the chunk without the header.
    let header_length = (chunk.uncompressed_size() - 80) as usize;
    let page = &file[start + header_length..start + length];
    let mut bytes = file[..start].to_vec();
    bytes.extend([0x15, 0, 0x15]);
    bytes.extend(zigzag(unpacked.unwrap_or(80)));
    bytes.push(0x15);
    bytes.extend(zigzag(packed.unwrap_or(page.len() as i32)));
    bytes.extend([0x2c, 0x15]);
    bytes.extend(zigzag(values));
    bytes.extend([0x15, 0, 0x15, 6, 0x15, 6, 0, 0]);
    bytes.extend(page);
    let chunk = chunk.clone().into_builder().set_total_compressed_size((bytes.len() - start) as i64).build().unwrap();
    let group = metadata.row_group(0).clone().into_builder().set_column_metadata(vec![chunk]).build().unwrap();
    let metadata = metadata.into_builder().set_row_groups(vec![group]).build();
    ParquetMetaDataWriter::new(&mut bytes, &metadata).finish().unwrap();
    fs::write(path, bytes).unwrap();
}

#[test]
fn a_page_that_claims_too_much_is_refused_before_it_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("t.parquet");
    for codec in [Compression::SNAPPY, Compression::UNCOMPRESSED] {
        with_page(&path, codec, None, None, 10);
        let (_, batches) = block_on(extract(&path, &ScanRequest::all())).unwrap();
        assert_eq!(numbers(&batches), (0..10).map(|n| n * 1_000_003).collect::<Vec<_>>());
    }
    type Case<'a> = (Option<i32>, Option<i32>, i32, ErrorKind, &'a str);
    let cases: [Case<'_>; 7] = [
        (
            Some(i32::MAX),
            None,
            10,
            ErrorKind::MemoryExceeded,
            "a page of row group 0 takes 2.0GB, and a reader may hold",
        ),
        (Some(-1), None, 10, ErrorKind::InvalidData, "in row group 0, a page claims a negative size"),
        (None, Some(-1), 10, ErrorKind::InvalidData, "in row group 0, a page claims a negative size"),
        (None, Some(i32::MAX), 10, ErrorKind::InvalidData, "a page claims 2147483647 bytes, and its column has"),
        (None, None, 9, ErrorKind::InvalidData, "the pages have 9 values, and the footer claims 10"),
        (None, None, 11, ErrorKind::InvalidData, "the pages claim more values than the 10 of the footer"),
        (None, None, -1, ErrorKind::InvalidData, "the pages claim more values than the 10 of the footer"),
    ];
    for (unpacked, packed, values, kind, words) in cases {
        with_page(&path, Compression::SNAPPY, unpacked, packed, values);
        let error = block_on(extract(&path, &ScanRequest::all())).err().unwrap();
        let message = error.to_string();
        assert_eq!(error.kind(), kind, "{message}");
        assert!(
            message.starts_with(&format!("{}, column \"n\": ", path.display())) && message.contains(words),
            "{message}"
        );
    }
    with_page(&path, Compression::SNAPPY, Some(i32::MAX), None, 10);
    let message = block_on(extract(&path, &ScanRequest::all())).err().unwrap().to_string();
    assert!(message.ends_with("a memory budget of 16.0GB would do, or fewer threads"), "{message}");
}

/// A few KB with columns of several types, nulls, dictionaries, row groups and pages.
fn mixed() -> RecordBatch {
    let rows = 0..120_i64;
    let some = |n: i64| (n % 7 != 3).then_some(n);
    let numbers: Int64Array = rows.clone().map(|n| some(n * n * 31)).collect();
    let floats: Float64Array = rows.clone().map(|n| some(n).map(|n| n as f64 / 3.0)).collect();
    let flags: BooleanArray = rows.clone().map(|n| some(n).map(|n| n % 2 == 0)).collect();
    let texts: StringArray = rows.clone().map(|n| some(n).map(|n| format!("text {n}"))).collect();
    let words: StringArray = rows.clone().map(|n| Some(["a", "b", "c"][n as usize % 3])).collect();
    let amounts: Decimal128Array = rows.clone().map(|n| some(n).map(i128::from)).collect();
    let lists = ListArray::from_iter_primitive::<Int32Type, _, _>(
        rows.map(|n| some(n).map(|n| (0..n as i32 % 3).map(Some).collect::<Vec<_>>())),
    );
    RecordBatch::try_from_iter_with_nullable([
        ("n", Arc::new(numbers) as ArrayRef, true),
        ("x", Arc::new(floats), true),
        ("flag", Arc::new(flags), true),
        ("text", Arc::new(texts), true),
        ("word", Arc::new(words), false),
        ("amount", Arc::new(amounts.with_precision_and_scale(20, 2).unwrap()), true),
        ("list", Arc::new(lists), true),
    ])
    .unwrap()
}

fn write_mixed(path: &Path) -> Vec<u8> {
    let properties = WriterProperties::builder()
        .set_compression(Compression::SNAPPY)
        .set_max_row_group_row_count(Some(60))
        .set_data_page_row_count_limit(25)
        .set_write_batch_size(25)
        .build();
    write(path, &mixed(), properties);
    fs::read(path).unwrap()
}

/// Reads whatever is at `path`, with a filter or without: the rows, or the kind of an error that names the file.
fn outcome(path: &Path, request: &ScanRequest) -> std::result::Result<Vec<RecordBatch>, ErrorKind> {
    let cx = context();
    let started = std::time::Instant::now();
    let read = block_on(async {
        let scan = ParquetExtractor::new(path).scan(&cx, request).await?;
        drain(&cx, &*scan).await
    });
    assert!(started.elapsed().as_secs() < 10, "a few KB take {:?}", started.elapsed());
    read.map_err(|error| {
        assert!(error.to_string().contains("t.parquet"), "{error}");
        error.kind()
    })
}

fn filter() -> ScanRequest {
    let test = |column, value| ColumnTest::new(column, Test::Compare(Comparison::GtEq, value));
    ScanRequest::all().filter([test("n", Value::Int(31 * 2500)), test("text", Value::Text("text 5".into()))])
}

#[test]
fn every_truncation_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("t.parquet");
    let bytes = write_mixed(&path);
    let step = if every() { 1 } else { 997 };
    for length in (0..bytes.len()).step_by(step).chain(bytes.len() - 100..bytes.len()) {
        fs::write(&path, &bytes[..length]).unwrap();
        assert_eq!(outcome(&path, &ScanRequest::all()).err(), Some(ErrorKind::InvalidData), "{length} bytes");
    }
}

#[test]
fn a_flipped_byte_is_an_error_or_other_values_of_as_many_rows() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("t.parquet");
    let bytes = write_mixed(&path);
    let mut refused = 0;
    for place in (0..bytes.len()).step_by(if every() { 1 } else { 5 }) {
        let mut altered = bytes.clone();
        altered[place] ^= [0xff, 0x01, 0x10, 0x80, 0x02][place % 7 % 5];
        fs::write(&path, &altered).unwrap();
        // The writer makes no checksums, so other values are as good as the right ones.
        match outcome(&path, &ScanRequest::all()) {
            Ok(batches) => assert_eq!(batches.iter().map(RecordBatch::num_rows).sum::<usize>(), 120, "{place}"),
            Err(kind) => {
                refused += 1;
                let known = [ErrorKind::InvalidData, ErrorKind::Unsupported, ErrorKind::MemoryExceeded];
                assert!(known.contains(&kind), "{place}: {kind:?}");
            }
        }
        // Indexes and statistics are of no more use than they claim, and break nothing.
        if let Ok(batches) = outcome(&path, &filter()) {
            assert!(batches.iter().map(RecordBatch::num_rows).sum::<usize>() <= 120, "{place}");
        }
    }
    assert!(refused > 50, "{refused}");
}

#[test]
fn page_checksums_tell_wrong_values() {
    let root = std::env::var_os("ETLRS_SUITES")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/suites"), Into::into);
    let source = root.join("parquet-testing/data/rle-dict-snappy-checksum.parquet");
    let Ok(bytes) = fs::read(&source) else {
        eprintln!("SKIPPED: the Parquet test files: suites not found at {}", root.display());
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("t.parquet");
    let whole = checksum(&outcome(&source, &ScanRequest::all()).unwrap());
    let metadata = ParquetMetaDataReader::new().parse_and_finish(&bytes::Bytes::from(bytes.clone())).unwrap();
    let mut refused = 0;
    for chunk in metadata.row_groups().iter().flat_map(parquet::file::metadata::RowGroupMetaData::columns) {
        let (start, length) = chunk.byte_range();
        for place in start..start + length {
            let mut altered = bytes.clone();
            altered[place as usize] ^= 0x04;
            fs::write(&path, &altered).unwrap();
            match outcome(&path, &ScanRequest::all()) {
                // In a page header, which no checksum covers, a byte may be without a meaning for the values.
                Ok(batches) => assert_eq!(checksum(&batches), whole, "{place}"),
                Err(_) => refused += 1,
            }
        }
    }
    assert!(refused > 20, "{refused}");
}

#[test]
fn a_plan_with_a_filter_is_followed_on_resume() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("t.parquet");
    let numbers: Int64Array = (0..1000).collect();
    let batch = RecordBatch::try_from_iter([("n", Arc::new(numbers) as ArrayRef)]).unwrap();
    write(&path, &batch, WriterProperties::builder().set_max_row_group_row_count(Some(50)).build());
    let below = |limit| ColumnTest::new("n", Test::Compare(Comparison::Lt, Value::Int(limit)));
    let request = ScanRequest::all().filter([below(420)]).partitions(4);
    let (planned, rows) = block_on(extract(&path, &request)).unwrap();
    assert_eq!(common::numbers(&rows), (0..450).collect::<Vec<_>>());
    let mut again = request.clone().partitions(9);
    again.recorded = Some(planned.partitions().to_vec());
    let (resumed, rows) = block_on(extract(&path, &again)).unwrap();
    assert_eq!(resumed.partitions(), planned.partitions());
    assert_eq!(common::numbers(&rows), (0..450).collect::<Vec<_>>());
    // All row groups are in the plan, so one that a filter skips is not taken for one that is gone.
    assert!(planned.partitions().last().unwrap().descriptor.ends_with("..20"));
}
