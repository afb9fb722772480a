//! How files are laid out: the order of rows, Bloom filters, statistics, pages, and what an append keeps of them.

// A test fails by panicking.
#![allow(clippy::unwrap_used)]

mod common;

use std::cmp::Ordering;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use arrow_array::types::*;
use arrow_array::*;
use arrow_ord::ord::make_comparator;
use arrow_schema::{DataType, Field, Schema, SortOptions};
use common::*;
use etlrs_core::*;
use etlrs_parquet::*;
use parquet::basic::BoundaryOrder;
use parquet::bloom_filter::Sbbf;
use parquet::column::reader::ColumnReader;
use parquet::data_type::AsBytes;
use parquet::file::metadata::{
    ColumnChunkMetaData, PageIndexPolicy, ParquetMetaData, ParquetMetaDataReader, RowGroupMetaData, SortingColumn,
};
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::file::reader::{FileReader, SerializedFileReader};
use proptest::prelude::*;

fn footer(path: &Path) -> ParquetMetaData {
    let reader = ParquetMetaDataReader::new().with_page_index_policy(PageIndexPolicy::Optional);
    reader.parse_and_finish(&File::open(path).unwrap()).unwrap()
}

fn options() -> ParquetWriteOptions {
    ParquetWriteOptions::default()
}

/// Loads `batches` as one partition by a writer that may hold `memory` bytes.
fn write(path: &Path, options: ParquetWriteOptions, mode: LoadMode, batches: &[RecordBatch], memory: usize) {
    let loader = ParquetLoader::new(path).with_options(options);
    block_on(load(&context().for_worker(memory), &loader, &batches[0].schema(), mode, &[batches.to_vec()])).unwrap();
}

fn read(path: &Path) -> Vec<RecordBatch> {
    block_on(extract(path, &ScanRequest::all().partitions(1))).unwrap().1
}

/// The rows of each row group.
fn row_groups(path: &Path) -> Vec<RecordBatch> {
    let metadata = footer(path);
    let batches = read(path);
    let all = arrow_select::concat::concat_batches(&batches[0].schema(), &batches).unwrap();
    let mut at = 0;
    let groups = metadata.row_groups().iter().map(|group| {
        let rows = group.num_rows() as usize;
        at += rows;
        all.slice(at - rows, rows)
    });
    groups.collect()
}

/// That each row is not below the one before it, by the columns of `order`, which are numbers of columns here.
fn assert_sorted(batch: &RecordBatch, order: &[SortingColumn]) {
    let comparators: Vec<_> = order
        .iter()
        .map(|key| {
            let column = batch.column(key.column_idx as usize);
            let options = SortOptions { descending: key.descending, nulls_first: key.nulls_first };
            make_comparator(column, column, options).unwrap()
        })
        .collect();
    for row in 1..batch.num_rows() {
        let orders = comparators.iter().map(|compare| compare(row - 1, row));
        assert_ne!(orders.fold(Ordering::Equal, Ordering::then), Ordering::Greater, "rows {} and {row}", row - 1);
    }
}

const NAMES: [&str; 8] = ["i", "f", "t", "d", "m", "b", "x", "l"];

fn any_batches() -> impl Strategy<Value = Vec<RecordBatch>> {
    let float = prop_oneof![
        8 => (-3..3).prop_map(f64::from),
        1 => Just(-0.0),
        1 => prop::sample::select(vec![f64::NAN, -f64::NAN, f64::INFINITY]),
    ];
    let row = (
        prop::option::weighted(0.8, -4..4_i64),
        prop::option::weighted(0.9, float),
        prop::option::of("[ab\u{e9}]{0,3}"),
        prop::option::of("[ab]{0,2}"),
        any::<Option<i16>>(),
        any::<Option<bool>>(),
    );
    let batch = prop::collection::vec(row, 1..60).prop_map(|rows| {
        let list =
            ListArray::from_iter_primitive::<Int64Type, _, _>(rows.iter().map(|row| row.0.map(|n| vec![Some(n); 2])));
        let decimals: Decimal128Array = rows.iter().map(|row| row.4.map(i128::from)).collect();
        let columns: [ArrayRef; 8] = [
            Arc::new(rows.iter().map(|row| row.0).collect::<Int64Array>()),
            Arc::new(rows.iter().map(|row| row.1).collect::<Float64Array>()),
            Arc::new(rows.iter().map(|row| row.2.clone()).collect::<StringViewArray>()),
            Arc::new(rows.iter().map(|row| row.3.as_deref()).collect::<DictionaryArray<Int8Type>>()),
            Arc::new(decimals.with_precision_and_scale(9, 2).unwrap()),
            Arc::new(rows.iter().map(|row| row.5).collect::<BooleanArray>()),
            Arc::new(rows.iter().map(|row| row.2.as_ref().map(String::as_bytes)).collect::<BinaryArray>()),
            Arc::new(list),
        ];
        RecordBatch::try_from_iter_with_nullable(NAMES.into_iter().zip(columns).map(|(n, c)| (n, c, true))).unwrap()
    });
    prop::collection::vec(batch, 1..6)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn sorting_keeps_all_rows_and_what_the_footer_tells_of_their_order_is_true(
        batches in any_batches(),
        order in prop::sample::subsequence((0..7_usize).collect::<Vec<_>>(), 1..4).prop_shuffle(),
        directions in any::<[(bool, bool); 7]>(),
        row_group in prop_oneof![Just(1_000_usize), 1..80_usize],
        memory in prop::sample::select(vec![1_usize << 10, 64 << 10, 64 << 20]),
        compression in prop::sample::select(vec![Compression::Snappy, Compression::Gzip(1)]),
        append in any::<bool>(),
    ) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("t.parquet");
        let sort_by = SortOrder::new(order.iter().map(|&column| {
            let (descending, nulls_first) = directions[column];
            let column = if descending { SortColumn::desc(NAMES[column]) } else { SortColumn::asc(NAMES[column]) };
            if nulls_first { column.nulls_first() } else { column }
        }));
        let told: Vec<_> = order.iter().map(|&column| SortingColumn {
            column_idx: column as i32, descending: directions[column].0, nulls_first: directions[column].1,
        }).collect();
        let options = options().with_compression(compression).with_row_group_size(row_group);
        // Rows that are there before, in no order.
        let before = if append {
            write(&path, options.clone(), LoadMode::Create, &batches[..1], 64 << 20);
            footer(&path).num_row_groups()
        } else {
            0
        };
        write(&path, options.with_sort_by(sort_by), LoadMode::Append, &batches, memory);
        let source = checksum(&batches);
        let expected = if append { [source, checksum(&batches[..1])].into_iter().collect() } else { source };
        prop_assert_eq!(checksum(&read(&path)), expected);
        let metadata = footer(&path);
        for (index, (group, rows)) in metadata.row_groups().iter().zip(row_groups(&path)).enumerate() {
            if index < before {
                prop_assert_eq!(group.sorting_columns(), None);
                continue;
            }
            assert_sorted(&rows, &told);
            use arrow_array::cast::AsArray;
            let floats = || rows.column(1).as_primitive::<Float64Type>().iter().flatten();
            let nan = floats().any(f64::is_nan);
            let zero = floats().any(|value| value == 0.0 && value.is_sign_negative());
            let certain = match order.iter().position(|&column| column == 1) {
                Some(place) if nan => place,
                Some(place) if zero => place + 1,
                _ => told.len(),
            };
            let certain = Some(told[..certain].to_vec()).filter(|told| !told.is_empty());
            prop_assert_eq!(group.sorting_columns(), certain.as_ref());
            prop_assert!(group.num_rows() as usize <= row_group);
        }
    }
}

#[test]
fn all_types_are_sorted_along_with_their_row() {
    let columns = all_types();
    let fields = columns.iter().enumerate().map(|(i, c)| Field::new(format!("c{i}"), c.data_type().clone(), true));
    let fields = [vec![Field::new("n", DataType::Int32, false)], fields.collect::<Vec<_>>()].concat();
    let schema = Arc::new(Schema::new(fields));
    let batch = |numbers: [i32; 3]| {
        let numbers: ArrayRef = Arc::new(Int32Array::from(numbers.to_vec()));
        RecordBatch::try_new(schema.clone(), [vec![numbers], columns.clone()].concat()).unwrap()
    };
    let batches = [batch([5, 0, 3]), batch([1, 4, 2])];
    for compression in [Compression::Snappy, Compression::Gzip(1)] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("t.parquet");
        let options = options().with_compression(compression).with_sort_by([SortColumn::asc("n")]);
        write(&path, options, LoadMode::Create, &batches, 64 << 20);
        let found = read(&path);
        for (place, (from, row)) in [(0, 1), (1, 0), (1, 2), (0, 2), (1, 1), (0, 0)].into_iter().enumerate() {
            assert_eq!(found[0].slice(place, 1), batches[from].slice(row, 1), "row {place}");
        }
    }
}

#[test]
fn rows_that_are_equal_in_order_stay_as_they_came_and_row_groups_fill_the_memory() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("t.parquet");
    let batch = |from: i64| {
        record_batch([
            ("k", (from..from + 1_000).map(|n| Some(n * 7 % 3)).collect()),
            ("n", (from..from + 1_000).map(Some).collect()),
        ])
    };
    let batches: Vec<_> = (0..100).map(|index| batch(index * 1_000)).collect();
    write(&path, options().with_sort_by([SortColumn::desc("k")]), LoadMode::Create, &batches, 64 << 20);
    let groups = row_groups(&path);
    assert_eq!(groups.len(), 1);
    let order = |column_idx, descending| SortingColumn { column_idx, descending, nulls_first: false };
    assert_sorted(&groups[0], &[order(0, true), order(1, false)]);
    // A writer has half of the memory, and half of that for rows: 16 bytes each, 18 for the key, 16 for the permutation.
    write(&path, options().with_sort_by([SortColumn::desc("k")]), LoadMode::Replace, &batches, 4 << 20);
    assert!((3..8).contains(&row_groups(&path).len()), "{} row groups", row_groups(&path).len());
}

#[test]
fn columns_that_are_not_there_or_have_no_order_are_refused() {
    let columns = all_types();
    let named = columns.into_iter().map(|column| (column.data_type().to_string(), column, true));
    let batch = RecordBatch::try_from_iter_with_nullable(named.chain([(
        "n".to_owned(),
        Arc::new(Int64Array::from(vec![1, 2, 3])) as ArrayRef,
        true,
    )]))
    .unwrap();
    let list = DataType::new_list(DataType::Int32, true).to_string();
    let check = |options: ParquetWriteOptions| {
        let loader = ParquetLoader::new("t.parquet").with_options(options);
        block_on(loader.check(&context(), &plan(&batch.schema(), LoadMode::Create, 1))).map(|_| ())
    };
    for (options, words) in [
        (options().with_sort_by([SortColumn::asc("m")]), "there is no column \"m\""),
        (options().with_sort_by([SortColumn::asc(list.as_str())]), "cannot be sorted by the type"),
        (options().with_sort_by([SortColumn::asc("Null")]), "cannot be sorted by the type"),
        (options().with_sort_by([SortColumn::asc("Interval(DayTime)")]), "cannot be sorted by the type"),
        (options().with_bloom_filters(["n", "m"]), "there is no column \"m\""),
        (options().with_bloom_filters(["Boolean"]), "gets no Bloom filter"),
        (options().with_bloom_fpp(0.0), "bloom_fpp"),
        (options().with_bloom_fpp(1.0), "bloom_fpp"),
        (options().with_data_page_size(1_usize << 30), "data_page_size"),
    ] {
        let error = check(options).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{error}");
        assert!(error.to_string().contains(words), "{error}");
    }
    check(options().with_sort_by([SortColumn::asc("n")]).with_bloom_filters([list.as_str()])).unwrap();
}

/// The values of a column chunk as the format stores them, without lengths.
fn stored(reader: &SerializedFileReader<File>, group: usize, leaf: usize) -> Vec<Vec<u8>> {
    let rows = reader.metadata().row_group(group).column(leaf).num_values() as usize;
    let group = reader.get_row_group(group).unwrap();
    macro_rules! values {
        ($reader:expr) => {{
            let (mut definitions, mut repetitions, mut values) = (Vec::new(), Vec::new(), Vec::new());
            $reader.read_records(rows, Some(&mut definitions), Some(&mut repetitions), &mut values).unwrap();
            values.iter().map(|value| value.as_bytes().to_vec()).collect()
        }};
    }
    match group.get_column_reader(leaf).unwrap() {
        ColumnReader::BoolColumnReader(_) => Vec::new(),
        ColumnReader::Int32ColumnReader(mut reader) => values!(reader),
        ColumnReader::Int64ColumnReader(mut reader) => values!(reader),
        ColumnReader::Int96ColumnReader(mut reader) => values!(reader),
        ColumnReader::FloatColumnReader(mut reader) => values!(reader),
        ColumnReader::DoubleColumnReader(mut reader) => values!(reader),
        ColumnReader::ByteArrayColumnReader(mut reader) => values!(reader),
        ColumnReader::FixedLenByteArrayColumnReader(mut reader) => values!(reader),
    }
}

/// That each filter has all values of its column, and gives the number of filters and of values.
fn filters_are_true(path: &Path) -> (usize, usize) {
    let file = File::open(path).unwrap();
    let reader = SerializedFileReader::new(file.try_clone().unwrap()).unwrap();
    let (mut filters, mut checked) = (0, 0);
    for (index, group) in reader.metadata().row_groups().iter().enumerate() {
        for (leaf, chunk) in group.columns().iter().enumerate() {
            let Some(filter) = Sbbf::read_from_column_chunk(chunk, &file).unwrap() else { continue };
            filters += 1;
            for value in stored(&reader, index, leaf) {
                assert!(filter.check(value.as_slice()), "{} lost {value:?}", chunk.column_path());
                checked += 1;
            }
        }
    }
    (filters, checked)
}

/// That a scan for each value of each column finds the row.
fn values_are_found(path: &Path, batches: &[RecordBatch]) {
    for batch in batches {
        // Others are checked by `filters_are_true`.
        for row in 0..batch.num_rows().min(4) {
            for (index, field) in batch.schema().fields().iter().enumerate() {
                let record = Record::new(batch, row).unwrap();
                let Ok(value) = record.get(index) else { continue };
                let value = value.into_owned();
                if matches!(value, Value::Null) || matches!(value, Value::Float(value) if value.is_nan()) {
                    continue;
                }
                let test = ColumnTest::new(field.name(), Test::Compare(Comparison::Eq, value.clone()));
                let request = ScanRequest::all().columns([field.name().as_str()]).filter([test]);
                let found = block_on(extract(path, &request)).unwrap().1;
                let found = found.iter().flat_map(Record::all).any(|record| record.get(0).unwrap() == value);
                assert!(found, "{} = {value:?} was skipped", field.name());
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn no_bloom_filter_denies_a_value_that_is_there(
        batches in any_batches(),
        fpp in prop::sample::select(vec![0.001, 0.01, 0.3, 0.9]),
        row_group in prop_oneof![Just(1_000_usize), 5..80_usize],
        memory in prop::sample::select(vec![1_usize << 10, 64 << 10, 64 << 20]),
        compression in prop::sample::select(vec![Compression::Snappy, Compression::Gzip(1)]),
        dictionary in any::<bool>(),
        sorted in any::<bool>(),
    ) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("t.parquet");
        let mut options = options()
            .with_statistics(Statistics::None)
            .with_compression(compression)
            .with_dictionary(dictionary)
            .with_row_group_size(row_group)
            .with_bloom_filters(BloomFilters::All)
            .with_bloom_fpp(fpp);
        if sorted {
            options = options.with_sort_by([SortColumn::asc("t")]);
        }
        write(&path, options, LoadMode::Create, &batches, memory);
        filters_are_true(&path);
        values_are_found(&path, &batches);
    }
}

#[test]
fn all_types_but_booleans_get_bloom_filters() {
    let columns = all_types();
    let named = columns.into_iter().enumerate().map(|(index, column)| (format!("c{index}"), column, true));
    let batch = RecordBatch::try_from_iter_with_nullable(named).unwrap();
    for compression in [Compression::Zstd(1), Compression::Brotli(0)] {
        for dictionary in [true, false] {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("t.parquet");
            let options = options().with_compression(compression).with_dictionary(dictionary);
            write(&path, options.clone(), LoadMode::Create, std::slice::from_ref(&batch), 64 << 20);
            assert_eq!(filters_are_true(&path), (0, 0));
            let options = options.with_statistics(Statistics::None).with_bloom_filters(BloomFilters::All);
            write(&path, options, LoadMode::Replace, std::slice::from_ref(&batch), 64 << 20);
            let leaves = footer(&path).file_metadata().schema_descr().num_columns();
            let (filters, checked) = filters_are_true(&path);
            // One column of booleans, one of nothing.
            assert_eq!(filters, leaves - 2);
            assert!(checked > filters);
            values_are_found(&path, std::slice::from_ref(&batch));
        }
    }
}

#[test]
fn a_filter_is_as_large_as_the_distinct_values_and_the_memory_ask_for() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("t.parquet");
    let rows = 100_000_i64;
    let repeated =
        |modulus: i64| (0..rows).map(|n| Some(n.wrapping_mul(0x9e37_79b9_7f4a_7c15_u64 as i64) % modulus)).collect();
    let batch = record_batch([("few", repeated(100)), ("many", repeated(i64::MAX)), ("none", repeated(i64::MAX))]);
    let sizes = |memory: usize| -> Vec<Option<i32>> {
        let options = options().with_bloom_filters(["few", "many"]);
        write(
            &path,
            options,
            LoadMode::Replace,
            &(0..20).map(|at| batch.slice(at * 5_000, 5_000)).collect::<Vec<_>>(),
            memory,
        );
        filters_are_true(&path);
        footer(&path).row_group(0).columns().iter().map(ColumnChunkMetaData::bloom_filter_length).collect()
    };
    // 100 000 values take 9.7 bits each, which is 118 KiB, and a filter has a power of two of bytes.
    let [few, many, none] = sizes(64 << 20)[..] else { panic!() };
    assert!((32..300).contains(&few.unwrap()) && (131_072..131_200).contains(&many.unwrap()) && none.is_none());
    // A sixteenth of the memory for each of two.
    let [_, many, _] = sizes(1 << 20)[..] else { panic!() };
    assert!(many.unwrap() <= (64 << 10) + 100, "{many:?}");
}

#[test]
fn a_search_for_a_single_value_skips_row_groups_by_their_filters() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("t.parquet");
    let batch = record_batch([("n", (0..10_000).map(|n| Some(n * 7919 % 10_000)).collect())]);
    let options =
        options().with_row_group_size(1_000_usize).with_statistics(Statistics::None).with_bloom_filters(["n"]);
    write(&path, options, LoadMode::Create, &[batch], 64 << 20);
    let test = ColumnTest::new("n", Test::Compare(Comparison::Eq, Value::Int(4_711)));
    let (_, found) = block_on(extract(&path, &ScanRequest::all().filter([test]))).unwrap();
    let rows: usize = found.iter().map(RecordBatch::num_rows).sum();
    assert!((1_000..4_000).contains(&rows), "{rows} rows were read");
    assert!(numbers(&found).contains(&4_711));
}

#[test]
fn statistics_and_pages_are_as_wanted_whoever_encodes_a_column() {
    let rows = 10_000_i64;
    let texts = || (0..rows).map(|n| format!("text {n}"));
    let columns: [ArrayRef; 6] = [
        Arc::new((0..rows).collect::<Int64Array>()),
        Arc::new((0..rows).map(|n| n as f64 / 3.0).collect::<Float64Array>()),
        Arc::new(texts().map(Some).collect::<StringArray>()),
        Arc::new((0..rows).map(|n| n % 3).map(Some).collect::<Int64Array>()),
        // These two by the parquet crate.
        Arc::new((0..rows).map(|n| n as u32).collect::<UInt32Array>()),
        Arc::new(ListArray::from_iter_primitive::<Int64Type, _, _>((0..rows).map(|n| Some([Some(n)])))),
    ];
    let named = columns.into_iter().enumerate().map(|(index, column)| (format!("c{index}"), column, true));
    let batch = RecordBatch::try_from_iter_with_nullable(named).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("t.parquet");
    for statistics in [Statistics::None, Statistics::Chunk, Statistics::Page] {
        for (page_rows, page_bytes) in [(20_000_usize, 1_usize << 20), (300, 1 << 20), (20_000, 4_096), (1, 1 << 20)] {
            let options =
                options().with_statistics(statistics).with_data_page_rows(page_rows).with_data_page_size(page_bytes);
            write(&path, options, LoadMode::Replace, std::slice::from_ref(&batch), 64 << 20);
            assert_eq!(checksum(&read(&path)), checksum(std::slice::from_ref(&batch)));
            let footer = footer(&path);
            for (leaf, chunk) in footer.row_group(0).columns().iter().enumerate() {
                assert_eq!(chunk.statistics().is_some(), statistics != Statistics::None, "column {leaf}");
                assert_eq!(chunk.column_index_offset().is_some(), statistics == Statistics::Page, "column {leaf}");
                let pages = footer.offset_index().unwrap()[0][leaf].page_locations();
                let starts = pages.iter().map(|page| page.first_row_index).chain([rows]).collect::<Vec<_>>();
                let longest = starts.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap();
                let most = page_rows.min(page_bytes / 4) as i64;
                assert!(longest <= most, "column {leaf}: a page of {longest} rows of {page_rows}, {page_bytes} bytes");
            }
        }
    }
}

#[test]
fn an_append_keeps_orders_filters_and_indexes_of_what_was_there() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("t.parquet");
    let batch = |from: i64| record_batch([("n", (from..from + 5_000).rev().map(Some).collect())]);
    let first = options().with_sort_by([SortColumn::asc("n")]).with_bloom_filters(BloomFilters::All);
    write(&path, first, LoadMode::Create, &[batch(0)], 64 << 20);
    write(&path, options(), LoadMode::Append, &[batch(5_000)], 64 << 20);
    write(&path, options().with_sort_by([SortColumn::desc("n")]), LoadMode::Append, &[batch(10_000)], 64 << 20);
    let footer = footer(&path);
    let order = |descending| vec![SortingColumn { column_idx: 0, descending, nulls_first: false }];
    let orders: Vec<_> = footer.row_groups().iter().map(|group| group.sorting_columns().cloned()).collect();
    assert_eq!(orders, [Some(order(false)), None, Some(order(true))]);
    let filters: Vec<_> =
        footer.row_groups().iter().map(|group| group.column(0).bloom_filter_offset().is_some()).collect();
    assert_eq!(filters, [true, false, false]);
    assert_eq!(filters_are_true(&path), (1, 5_000));
    assert_eq!(footer.column_index().unwrap().len(), 3);
    let rows = row_groups(&path);
    assert_sorted(&rows[0], &order(false));
    assert_sorted(&rows[2], &order(true));
    let test = ColumnTest::new("n", Test::Compare(Comparison::Eq, Value::Int(12_345)));
    let (_, found) = block_on(extract(&path, &ScanRequest::all().filter([test]))).unwrap();
    assert!(numbers(&found).contains(&12_345) && !numbers(&found).contains(&5));
}

#[test]
fn a_file_without_page_indexes_is_appended_to() {
    for offset_indexes in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("t.parquet");
        let properties = WriterProperties::builder()
            .set_offset_index_disabled(!offset_indexes)
            .set_statistics_enabled(EnabledStatistics::Chunk)
            .build();
        let file = File::create(&path).unwrap();
        let mut writer = parquet::arrow::ArrowWriter::try_new(file, count(0..0).schema(), Some(properties)).unwrap();
        writer.write(&count(0..10)).unwrap();
        writer.close().unwrap();
        for options in [options(), options().with_sort_by([SortColumn::asc("n")])] {
            write(&path, options, LoadMode::Append, &[count(10..20)], 64 << 20);
        }
        assert_eq!(numbers(&read(&path)), (0..20).chain(10..20).collect::<Vec<_>>());
        let index = |group: usize| footer(&path).row_group(group).column(0).offset_index_offset().is_some();
        assert_eq!([index(0), index(1)], [offset_indexes; 2]);
    }
}

#[test]
fn a_row_group_takes_no_more_than_half_of_what_its_writer_may_hold() {
    let rows = 1_000;
    let noise = |seed: u64| {
        let words =
            std::iter::successors(Some(seed), |x| Some(x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(99)));
        let words: Vec<u64> = words.take(rows).collect();
        let columns: [(&str, ArrayRef); 4] = [
            ("i", Arc::new(words.iter().map(|&word| word as i64).collect::<Int64Array>())),
            ("t", Arc::new(words.iter().map(|word| Some(format!("{word:x}"))).collect::<StringArray>())),
            ("u", Arc::new(words.iter().copied().collect::<UInt64Array>())),
            (
                "l",
                Arc::new(ListArray::from_iter_primitive::<Int64Type, _, _>(
                    words.iter().map(|&word| Some([Some(word as i64)])),
                )),
            ),
        ];
        RecordBatch::try_from_iter(columns).unwrap()
    };
    let batches: Vec<_> = (0..200).map(noise).collect();
    let folder = tempfile::tempdir().unwrap();
    for (name, options) in [
        ("plain.parquet", options()),
        ("sorted.parquet", options().with_sort_by([SortColumn::asc("t")])),
        ("filtered.parquet", options().with_bloom_filters(BloomFilters::All)),
        ("crate.parquet", options().with_compression(Compression::Gzip(1)).with_bloom_filters(BloomFilters::All)),
        ("pages.parquet", options().with_data_page_rows(1_000_000_usize).with_data_page_size(64_usize << 20)),
    ] {
        for memory in [1_usize << 20, 4 << 20] {
            let path = folder.path().join(name);
            write(&path, options.clone(), LoadMode::Replace, &batches, memory);
            let footer = footer(&path);
            let sizes: Vec<_> = footer.row_groups().iter().map(|group| group.compressed_size() as usize).collect();
            // A writer has half of the memory.
            let batch = batches[0].get_array_memory_size();
            assert!(sizes.iter().all(|size| *size <= memory / 4 + 2 * batch), "{name}: {sizes:?} of {memory}");
            assert!(sizes.len() > 2, "{name}: {sizes:?}");
            // Small memory makes no crumbs either.
            assert!(sizes.len() < 60 * (4 << 20) / memory, "{name}: {} row groups of {memory}", sizes.len());
            assert_eq!(checksum(&read(&path)), checksum(&batches));
        }
    }
}

#[test]
fn a_large_value_makes_no_crumbs_of_what_follows_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("t.parquet");
    let texts = |rows: usize, length: usize| {
        let texts: StringArray = (0..rows).map(|row| Some(format!("{row}{}", "x".repeat(length)))).collect();
        RecordBatch::try_from_iter([("t", Arc::new(texts) as ArrayRef)]).unwrap()
    };
    let batches: Vec<_> = std::iter::once(texts(1, 6 << 20)).chain((0..50).map(|_| texts(1_000, 20))).collect();
    for compression in [Compression::Snappy, Compression::Zstd(1)] {
        write(&path, options().with_compression(compression), LoadMode::Replace, &batches, 16 << 20);
        let rows: Vec<_> = footer(&path).row_groups().iter().map(RowGroupMetaData::num_rows).collect();
        assert!(rows.len() < 4, "{rows:?}");
        assert_eq!(checksum(&read(&path)), checksum(&batches));
    }
}

#[test]
fn a_dictionary_of_long_texts_ends_where_readers_expect_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("t.parquet");
    // The sample promises one value; within the first page long ones come, all different.
    let texts =
        (0..18_000).map(|row| if row < 6_000 { "n/a".to_owned() } else { format!("{row}{}", "x".repeat(5_000)) });
    let batch =
        RecordBatch::try_from_iter([("t", Arc::new(StringArray::from_iter_values(texts)) as ArrayRef)]).unwrap();
    for statistics in [Statistics::Page, Statistics::None] {
        let options = options().with_compression(Compression::None).with_statistics(statistics);
        write(&path, options, LoadMode::Replace, std::slice::from_ref(&batch), 512 << 20);
        let footer = footer(&path);
        let chunk = footer.row_group(0).column(0);
        let dictionary = chunk.data_page_offset() - chunk.dictionary_page_offset().unwrap();
        assert!((1 << 20..(1 << 20) + 6_000).contains(&dictionary), "{dictionary}");
        assert_eq!(checksum(&read(&path)), checksum(std::slice::from_ref(&batch)));
    }
}

/// They are shortened in the index, and then the order has to be that of what is left.
#[test]
fn the_order_of_pages_is_that_of_the_bounds_that_are_told() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("t.parquet");
    let long = |end: &str| format!("{}{end}", "p".repeat(62));
    for (texts, order) in [
        ([long("zzzz"), long("€€€")], BoundaryOrder::UNORDERED),
        ([long("aaaa"), long("aaab")], BoundaryOrder::ASCENDING),
        (["b".to_owned(), "a".to_owned()], BoundaryOrder::DESCENDING),
    ] {
        let texts = Arc::new(StringArray::from_iter_values(&texts)) as ArrayRef;
        let batch = RecordBatch::try_from_iter([("t", texts)]).unwrap();
        let options = options().with_data_page_rows(1_usize);
        write(&path, options, LoadMode::Replace, std::slice::from_ref(&batch), 1 << 20);
        let footer = footer(&path);
        let index = &footer.column_index().unwrap()[0][0];
        assert_eq!(index.get_boundary_order(), Some(order), "{texts:?}", texts = batch.column(0));
    }
}

#[test]
fn uuid_and_json_stay_what_they_are() {
    let extension = |name: &str, data_type: DataType| {
        let metadata = [("ARROW:extension:name", format!("arrow.{name}")), ("ARROW:extension:metadata", String::new())];
        let metadata = metadata.into_iter().map(|(key, value)| (key.to_owned(), value));
        Field::new(name, data_type, true).with_metadata(metadata.collect())
    };
    let mut uuids = arrow_array::builder::FixedSizeBinaryBuilder::new(16);
    uuids.append_value([7; 16]).unwrap();
    uuids.append_null();
    let uuid = extension("uuid", DataType::FixedSizeBinary(16));
    let json = extension("json", DataType::Utf8);
    let within = Field::new_list("uuids", uuid.clone().with_name("item"), true);
    let uuids: ArrayRef = Arc::new(uuids.finish());
    let lists = ListArray::new(
        Arc::new(uuid.clone().with_name("item")),
        arrow_buffer::OffsetBuffer::from_lengths([1, 1]),
        uuids.clone(),
        None,
    );
    let columns: Vec<ArrayRef> =
        vec![uuids, Arc::new(StringArray::from(vec![Some("{\"a\":1}"), None])), Arc::new(lists)];
    let schema = Arc::new(Schema::new(vec![uuid, json, within]));
    let batch = RecordBatch::try_new(schema.clone(), columns).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let paths = [folder.path().join("1.parquet"), folder.path().join("2.parquet")];
    write(&paths[0], options(), LoadMode::Create, std::slice::from_ref(&batch), 64 << 20);
    // A second time, from what the Parquet schema alone tells.
    let mut from_parquet = ScanRequest::all();
    from_parquet.partitions = Some(1);
    let cx = context();
    let extractor =
        ParquetExtractor::new(&paths[0]).with_options(ParquetReadOptions::default().with_arrow_schema(false));
    let read_bare = block_on(async {
        let scan = extractor.scan(&cx, &from_parquet).await.unwrap();
        drain(&cx, &*scan).await.unwrap()
    });
    write(&paths[1], options(), LoadMode::Create, &read_bare, 64 << 20);
    for path in &paths {
        let footer = footer(path);
        let logical: Vec<_> = footer
            .file_metadata()
            .schema_descr()
            .columns()
            .iter()
            .map(|leaf| format!("{:?}", leaf.logical_type_ref()))
            .collect();
        assert_eq!(logical, ["Some(Uuid)", "Some(Json)", "Some(Uuid)"]);
        let found = read(path);
        assert_eq!(checksum(&found), checksum(std::slice::from_ref(&batch)));
        for (found, written) in found[0].schema().fields().iter().zip(schema.fields()) {
            assert_eq!(found.metadata().get("ARROW:extension:name"), written.metadata().get("ARROW:extension:name"));
        }
    }
}
