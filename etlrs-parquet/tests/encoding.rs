//! Columns of many pages: what is read back is what was written, and statistics and page indexes tell the truth.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

mod common;

use std::path::Path;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::*;
use arrow_array::*;
use common::*;
use etlrs_core::{DataType, LoadMode};
use etlrs_parquet::*;
use parquet::arrow::arrow_reader::statistics::StatisticsConverter;
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions};
use parquet::basic::Encoding;
use parquet::file::metadata::{PageIndexPolicy, ParquetMetaData};
use proptest::prelude::*;

/// Numbers that look random and are always the same.
fn scrambled(n: u64) -> u64 {
    let n = (n ^ 0x9e37_79b9_7f4a_7c15).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    (n ^ n >> 29).wrapping_mul(0x94d0_49bb_1331_11eb) >> 7
}

/// How the values of a column are spread over its rows.
#[derive(Clone, Copy, Debug)]
enum Shape {
    /// As many different ones, in no order.
    Distinct(u64),
    /// A few, then all different, so that a dictionary that was begun stops to pay.
    Turning,
    /// Each not below the one before.
    Sorted,
    /// Runs of equal values.
    Runs,
}

impl Shape {
    fn at(self, row: u64) -> u64 {
        match self {
            Self::Distinct(all) => scrambled(row) % all.max(1),
            Self::Turning if row < 25_000 => scrambled(row) % 50,
            Self::Turning => scrambled(row),
            Self::Sorted => row / 3,
            Self::Runs => scrambled(row / 40) % 7,
        }
    }
}

/// Which rows are null.
#[derive(Clone, Copy, Debug)]
enum Nulls {
    None,
    Some,
    /// All of the first pages, then none.
    First,
    All,
}

impl Nulls {
    fn at(self, row: u64) -> bool {
        match self {
            Self::None => false,
            Self::Some => scrambled(row + 7).is_multiple_of(5),
            Self::First => row < 43_000,
            Self::All => true,
        }
    }
}

fn column(kind: usize, shape: Shape, nulls: Nulls, rows: u64) -> ArrayRef {
    let rows = (0..rows).map(|row| (!nulls.at(row)).then(|| shape.at(row)));
    // Special ones among the small, so that they are no more frequent than others.
    let float = |value: u64| match if value < 9_999 { value % 11 } else { 0 } {
        3 => f64::NAN,
        4 => -0.0,
        5 => 0.0,
        6 => f64::NEG_INFINITY,
        _ => (value as f64 - 20.0) / 8.0,
    };
    let text = |value: u64| match if value < 9_999 { value % 9 } else { 8 } {
        0 => String::new(),
        1 => format!("{}é", "ö".repeat(40)),
        2 => format!("{}{value}", "long ".repeat(20)),
        3 => format!("{}\u{10ffff}", "\u{10ffff}".repeat(20)),
        _ => value.to_string(),
    };
    match kind {
        0 => Arc::new(rows.map(|value| value.map(|value| value as i32 - 25)).collect::<Int32Array>()),
        1 => Arc::new(rows.map(|value| value.map(|value| value as i64 - 25)).collect::<Int64Array>()),
        2 => Arc::new(rows.map(|value| value.map(|value| float(value) as f32)).collect::<Float32Array>()),
        3 => Arc::new(rows.map(|value| value.map(float)).collect::<Float64Array>()),
        4 => Arc::new(rows.map(|value| value.map(text)).collect::<StringArray>()),
        5 => Arc::new(rows.map(|value| value.map(|value| text(value).into_bytes())).collect::<LargeBinaryArray>()),
        6 => Arc::new(rows.map(|value| value.map(|value| value as i32 % 90_000)).collect::<Date32Array>()),
        _ => Arc::new(rows.map(|value| value.map(|value| value as i64)).collect::<TimestampMillisecondArray>()),
    }
}

fn metadata(path: &Path) -> (ArrowReaderMetadata, Arc<ParquetMetaData>) {
    let options =
        ArrowReaderOptions::new().with_page_index_policy(PageIndexPolicy::Required).with_encoding_stats_as_mask(false);
    let file = std::fs::File::open(path).unwrap();
    let metadata = ArrowReaderMetadata::load(&file, options).unwrap();
    let footer = metadata.metadata().clone();
    (metadata, footer)
}

/// The order that the format gives to values: none for what is no number, `-0.0` equal to `0.0`, texts by their bytes.
fn is_above(left: &ArrayRef, left_row: usize, right: &ArrayRef, right_row: usize) -> bool {
    macro_rules! values {
        ($type:ty) => {{ left.as_primitive::<$type>().value(left_row) > right.as_primitive::<$type>().value(right_row) }};
    }
    match left.data_type() {
        DataType::Int32 => values!(Int32Type),
        DataType::Int64 => values!(Int64Type),
        DataType::Float32 => values!(Float32Type),
        DataType::Float64 => values!(Float64Type),
        DataType::Utf8 => left.as_string::<i32>().value(left_row) > right.as_string::<i32>().value(right_row),
        DataType::LargeBinary => left.as_binary::<i64>().value(left_row) > right.as_binary::<i64>().value(right_row),
        DataType::Date32 => values!(Date32Type),
        DataType::Timestamp(..) => values!(TimestampMillisecondType),
        other => panic!("{other}"),
    }
}

/// That `least` and `greatest` bound `rows` of `values`, and that there are `nulls` nulls among them.
fn bounded(
    values: &ArrayRef,
    rows: std::ops::Range<usize>,
    least: &ArrayRef,
    greatest: &ArrayRef,
    at: usize,
    nulls: u64,
) {
    assert_eq!(values.slice(rows.start, rows.len()).null_count() as u64, nulls);
    for row in rows.filter(|&row| values.is_valid(row)) {
        if least.is_valid(at) {
            assert!(!is_above(least, at, values, row), "row {row} is below the least of {at}");
            assert!(!is_above(values, row, greatest, at), "row {row} is above the greatest of {at}");
        }
    }
}

fn statistics_are_true(path: &Path, written: &RecordBatch) {
    let (arrow, footer) = metadata(path);
    let schema = footer.file_metadata().schema_descr();
    for (index, field) in written.schema().fields().iter().enumerate() {
        let values = written.column(index);
        let converter = StatisticsConverter::try_new(field.name(), arrow.schema(), schema).unwrap();
        let (least, greatest) = (
            converter.row_group_mins(footer.row_groups()).unwrap(),
            converter.row_group_maxes(footer.row_groups()).unwrap(),
        );
        let nulls = converter.row_group_null_counts(footer.row_groups()).unwrap();
        let mut start = 0;
        for (group, described) in footer.row_groups().iter().enumerate() {
            let rows = start..start + described.num_rows() as usize;
            bounded(values, rows.clone(), &least, &greatest, group, nulls.value(group));
            let (Some(columns), Some(offsets)) = (footer.column_index(), footer.offset_index()) else {
                panic!("no index")
            };
            let pages = &offsets[group][index].page_locations;
            assert_eq!(pages[0].first_row_index, 0);
            let ends = pages.iter().skip(1).map(|page| page.first_row_index as usize).chain([rows.len()]);
            let page_least = converter.data_page_mins(columns, offsets, [&group]).unwrap();
            let page_greatest = converter.data_page_maxes(columns, offsets, [&group]).unwrap();
            let page_nulls = converter.data_page_null_counts(columns, offsets, [&group]).unwrap();
            for (page, (described, end)) in pages.iter().zip(ends).enumerate() {
                let rows = start + described.first_row_index as usize..start + end;
                if page_nulls.is_valid(page) {
                    bounded(values, rows, &page_least, &page_greatest, page, page_nulls.value(page));
                }
            }
            start = rows.end;
        }
    }
}

/// Writes `batch` in pieces, as row groups of at most `group` rows, and reads it back.
fn round_trip(batch: &RecordBatch, piece: usize, group: usize, options: ParquetWriteOptions) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("t.parquet");
    let pieces = (0..batch.num_rows()).step_by(piece);
    let parts = [pieces.map(|from| batch.slice(from, piece.min(batch.num_rows() - from))).collect()];
    let loader = ParquetLoader::new(&path).with_options(options.with_row_group_size(group));
    block_on(load(&context(), &loader, &batch.schema(), LoadMode::Create, &parts)).unwrap();
    let (_, batches) = block_on(extract(&path, &etlrs_core::ScanRequest::all())).unwrap();
    assert_eq!(checksum(&batches), checksum(std::slice::from_ref(batch)));
    statistics_are_true(&path, batch);
    folder
}

fn table(columns: impl IntoIterator<Item = ArrayRef>) -> RecordBatch {
    let named = columns.into_iter().enumerate().map(|(index, column)| (format!("c{index}"), column, true));
    RecordBatch::try_from_iter_with_nullable(named).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn columns_of_any_shape_come_back_with_true_statistics(
        kinds in prop::collection::vec((
            0usize..8,
            prop_oneof![
                (1u64..100_000).prop_map(Shape::Distinct), Just(Shape::Distinct(1)), Just(Shape::Turning),
                Just(Shape::Sorted), Just(Shape::Runs),
            ],
            prop_oneof![Just(Nulls::None), Just(Nulls::Some), Just(Nulls::First), Just(Nulls::All)],
        ), 1..4),
        rows in prop_oneof![1u64..300, 19_990u64..20_010, 60_000u64..70_000],
        piece in prop_oneof![Just(10_000usize), 37usize..5_000],
        group in prop_oneof![Just(1_000_000usize), 500usize..60_000],
        compression in prop_oneof![
            Just(Compression::Snappy), Just(Compression::Zstd(1)), Just(Compression::Lz4Raw), Just(Compression::None),
        ],
        dictionary in prop::bool::weighted(0.8),
    ) {
        let batch = table(kinds.into_iter().map(|(kind, shape, nulls)| column(kind, shape, nulls, rows)));
        let options = ParquetWriteOptions::default().with_compression(compression).with_dictionary(dictionary);
        round_trip(&batch, piece.max(group / 20), group, options);
    }
}

/// Encodings of the data pages of each column of the first row group.
fn encodings(folder: &tempfile::TempDir) -> Vec<Vec<Encoding>> {
    let (_, footer) = metadata(&folder.path().join("t.parquet"));
    let of_data = |encoding: &Encoding| *encoding != Encoding::RLE;
    footer.row_group(0).columns().iter().map(|column| column.encodings().filter(of_data).collect()).collect()
}

#[test]
fn a_column_is_encoded_as_its_values_ask_for() {
    use Encoding::{DELTA_BINARY_PACKED, PLAIN, RLE_DICTIONARY};
    let columns = [
        (1, Shape::Distinct(50), vec![PLAIN, RLE_DICTIONARY]),
        (1, Shape::Sorted, vec![DELTA_BINARY_PACKED]),
        (1, Shape::Distinct(u64::MAX), vec![DELTA_BINARY_PACKED]),
        (3, Shape::Distinct(50), vec![PLAIN, RLE_DICTIONARY]),
        (3, Shape::Distinct(u64::MAX), vec![PLAIN]),
        (4, Shape::Distinct(1_000), vec![PLAIN, RLE_DICTIONARY]),
        (4, Shape::Distinct(u64::MAX), vec![PLAIN]),
    ];
    let batch = table(columns.iter().map(|&(kind, shape, _)| column(kind, shape, Nulls::None, 50_000)));
    let folder = round_trip(&batch, 10_000, 1 << 20, ParquetWriteOptions::default());
    let found = encodings(&folder);
    for ((kind, shape, expected), found) in columns.iter().zip(&found) {
        let mut found = found.clone();
        found.sort_by_key(ToString::to_string);
        let mut expected = expected.clone();
        expected.sort_by_key(ToString::to_string);
        assert_eq!(found, expected, "{kind} {shape:?}");
    }
}

#[test]
fn a_dictionary_that_stops_to_pay_is_left_for_the_rest() {
    let batch =
        table([column(4, Shape::Turning, Nulls::None, 200_000), column(3, Shape::Turning, Nulls::None, 200_000)]);
    let folder = round_trip(&batch, 10_000, 1 << 20, ParquetWriteOptions::default());
    let (_, footer) = metadata(&folder.path().join("t.parquet"));
    for column in footer.row_group(0).columns() {
        let stats = column.page_encoding_stats().unwrap();
        let count =
            |encoding| stats.iter().filter(|stat| stat.encoding == encoding).map(|stat| stat.count).sum::<i32>();
        assert!(count(Encoding::RLE_DICTIONARY) > 0, "{stats:?}");
        // One is the dictionary itself.
        assert!(count(Encoding::PLAIN) > 2, "{stats:?}");
    }
}
