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

fn zigzag(value: impl Into<i64>) -> Vec<u8> {
    let value = value.into();
    let mut rest = (value << 1 ^ value >> 63).cast_unsigned();
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

/// A page header of the format: `fields` has integers of the header for its kind, which is its field `id`.
fn header(kind: i32, unpacked: usize, packed: usize, id: u8, fields: &[(u8, i32)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for number in [kind, unpacked as i32, packed as i32] {
        bytes.push(0x15);
        bytes.extend(zigzag(number));
    }
    bytes.push((id - 3) << 4 | 0xc);
    let mut before = 0;
    for &(field, value) in fields {
        bytes.push((field - before) << 4 | 5);
        bytes.extend(zigzag(value));
        before = field;
    }
    bytes.extend([0, 0]);
    bytes
}

fn packed(codec: Compression, plain: &[u8]) -> Vec<u8> {
    match codec {
        Compression::UNCOMPRESSED => plain.to_vec(),
        _ => snap::raw::Encoder::new().compress_vec(plain).unwrap(),
    }
}

/// A dictionary with the values `plain`.
fn dictionary_page(codec: Compression, plain: &[u8], values: i32) -> Vec<u8> {
    let body = packed(codec, plain);
    [header(2, plain.len(), body.len(), 7, &[(1, values), (2, 0)]), body].concat()
}

/// A page of the first version. `plain` has its levels too.
fn data_page(codec: Compression, plain: &[u8], values: i32, encoding: i32) -> Vec<u8> {
    let body = packed(codec, plain);
    [header(0, plain.len(), body.len(), 5, &[(1, values), (2, encoding), (3, 3), (4, 3)]), body].concat()
}

/// A page of the second version, without nulls.
fn second_page(codec: Compression, levels: [&[u8]; 2], plain: &[u8], counts: [i32; 2], encoding: i32) -> Vec<u8> {
    let [repeated, defined] = levels;
    let [values, rows] = counts;
    let body = [repeated, defined, &packed(codec, plain)].concat();
    let lengths = [(5, defined.len() as i32), (6, repeated.len() as i32)];
    let fields = [&[(1, values), (2, 0), (3, rows), (4, encoding)][..], &lengths].concat();
    [header(3, repeated.len() + defined.len() + plain.len(), body.len(), 8, &fields), body].concat()
}

/// A file with the schema of `batch`, of one column, and as many rows in one chunk of these pages.
fn with_pages(path: &Path, batch: &RecordBatch, codec: Compression, dictionary: &[u8], pages: &[u8]) {
    let properties = WriterProperties::builder()
        .set_dictionary_enabled(false)
        .set_compression(codec)
        .set_statistics_enabled(EnabledStatistics::None)
        .set_offset_index_disabled(true)
        .build();
    write(path, batch, properties);
    let file = bytes::Bytes::from(fs::read(path).unwrap());
    let metadata =
        ParquetMetaDataReader::new().with_page_index_policy(PageIndexPolicy::Skip).parse_and_finish(&file).unwrap();
    let start = 4;
    let data = start + dictionary.len() as i64;
    let chunk = metadata.row_group(0).column(0).clone().into_builder();
    let chunk = chunk
        .set_dictionary_page_offset((!dictionary.is_empty()).then_some(start))
        .set_data_page_offset(data)
        .set_total_compressed_size((dictionary.len() + pages.len()) as i64);
    let group = metadata.row_group(0).clone().into_builder();
    let group = group.set_column_metadata(vec![chunk.build().unwrap()]).build().unwrap();
    let metadata = metadata.into_builder().set_row_groups(vec![group]).build();
    let mut bytes = [&file[..start as usize], dictionary, pages].concat();
    ParquetMetaDataWriter::new(&mut bytes, &metadata).finish().unwrap();
    fs::write(path, bytes).unwrap();
}

fn column(values: ArrayRef) -> RecordBatch {
    RecordBatch::try_from_iter([("c", values)]).unwrap()
}

/// That the file is read, or refused as damaged with these words.
fn is_read_or_refused(path: &Path, refused: Option<&str>, what: &str) {
    let read = block_on(extract(path, &ScanRequest::all()));
    match (read, refused) {
        (Ok((_, batches)), None) => assert_eq!(batches.iter().map(RecordBatch::num_rows).sum::<usize>(), 3, "{what}"),
        (Err(error), Some(words)) => {
            let message = error.to_string();
            assert_eq!(error.kind(), ErrorKind::InvalidData, "{what}: {message}");
            assert!(message.contains(words) && message.contains("column \"c"), "{what}: {message}");
        }
        (Err(error), None) => panic!("{what}: {error}"),
        (Ok(_), Some(_)) => panic!("{what}: it was read"),
    }
}

#[test]
fn a_dictionary_that_claims_more_values_than_its_bytes_can_have_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("t.parquet");
    let texts = [2, 0, 0, 0, b'a', b'b', 0, 0, 0, 0];
    let columns: [(ArrayRef, &[u8], i32); 7] = [
        (Arc::new(Int32Array::from(vec![0; 3])), &[0; 8], 2),
        (Arc::new(Float32Array::from(vec![0.0; 3])), &[0; 8], 2),
        (Arc::new(Int64Array::from(vec![0; 3])), &[0; 16], 2),
        (Arc::new(Float64Array::from(vec![0.0; 3])), &[0; 16], 2),
        (Arc::new(StringArray::from(vec![""; 3])), &texts, 2),
        (Arc::new(LargeBinaryArray::from(vec![&b""[..]; 3])), &texts, 2),
        (Arc::new(FixedSizeBinaryArray::try_from_iter([[0_u8; 5]; 3].into_iter()).unwrap()), &[0; 10], 2),
    ];
    for (values, plain, count) in columns {
        let batch = column(values);
        for codec in [Compression::SNAPPY, Compression::UNCOMPRESSED] {
            // Three times the first value.
            let page = data_page(codec, &[1, 6, 0], 3, 8);
            for (count, refused) in [(count, false), (count + 1, true), (i32::MAX, true)] {
                with_pages(&path, &batch, codec, &dictionary_page(codec, plain, count), &page);
                let words = format!("in row group 0, a dictionary claims {count} values in {} bytes", plain.len());
                let what = format!("{:?} {codec:?} {count}", batch.schema().field(0).data_type());
                is_read_or_refused(&path, refused.then_some(words.as_str()), &what);
            }
        }
    }
}

#[test]
fn numbers_within_a_page_by_which_memory_is_taken_are_refused_beyond_its_values() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("t.parquet");
    // Blocks of 128 in four pieces; all are 0, so a block takes five bytes.
    let list = |count: u64| {
        let mut bytes = vec![0x80, 1, 4];
        let mut rest = count;
        while rest > 0x7f {
            bytes.push((rest & 0x7f) as u8 | 0x80);
            rest >>= 7;
        }
        bytes.extend([rest as u8, 0]);
        bytes.extend(vec![0; (count.saturating_sub(1).div_ceil(128) * 5).min(100) as usize]);
        bytes
    };
    let defined: &[u8] = &[2, 0, 0, 0, 6, 1];
    let (huge, words) = (1 << 45, "the lengths in a page are not those of the 3 values it claims");
    let pages = [
        (6, list(3), None),
        (6, list(4), Some(words)),
        (6, list(huge), Some(words)),
        (7, [list(3), list(3)].concat(), None),
        (7, [list(huge), list(3)].concat(), Some(words)),
        (7, [list(3), list(huge)].concat(), Some(words)),
        (7, list(3), Some(words)),
    ];
    let texts = || StringArray::from(vec![""; 3]);
    let lists = || ListArray::from_iter_primitive::<Int32Type, _, _>((0..3).map(|_| Some(vec![Some(0)]))).slice(0, 3);
    let nullable = RecordBatch::try_from_iter_with_nullable([("c", Arc::new(texts()) as ArrayRef, true)]).unwrap();
    let repeated = {
        let (field, offsets, ..) = lists().into_parts();
        let field = Arc::new(field.as_ref().clone().with_data_type(DataType::Utf8));
        column(Arc::new(ListArray::new(field, offsets, Arc::new(texts()), None)))
    };
    for (encoding, plain, refused) in pages {
        for codec in [Compression::SNAPPY, Compression::UNCOMPRESSED] {
            let what = format!("encoding {encoding} {codec:?} {plain:?}");
            with_pages(&path, &column(Arc::new(texts())), codec, &[], &data_page(codec, &plain, 3, encoding));
            is_read_or_refused(&path, refused, &what);
            let with_levels = [defined, &plain].concat();
            with_pages(&path, &nullable, codec, &[], &data_page(codec, &with_levels, 3, encoding));
            is_read_or_refused(&path, refused, &format!("with levels, {what}"));
            // The list has one value in each row, so levels of 0, then of 2.
            let page = second_page(codec, [&[6, 0], &[6, 2]], &plain, [3, 3], encoding);
            with_pages(&path, &repeated, codec, &[], &page);
            is_read_or_refused(&path, refused, &format!("in a list, {what}"));
        }
    }
    // The list itself is short, and what is allocated for it would not be.
    let many = i32::MAX;
    let bytes = data_page(Compression::UNCOMPRESSED, &list(3), many, 6);
    with_pages(&path, &column(Arc::new(texts())), Compression::UNCOMPRESSED, &[], &bytes);
    let error = block_on(extract(&path, &ScanRequest::all())).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::MemoryExceeded, "{error}");
}

#[test]
fn a_page_that_has_other_rows_than_values_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("t.parquet");
    let codec = Compression::SNAPPY;
    let flat = column(Arc::new(Int64Array::from(vec![7; 3])));
    let lists = ListArray::from_iter_primitive::<Int64Type, _, _>((0..3).map(|_| Some(vec![Some(7)])));
    let nested = column(Arc::new(lists));
    let plain = [7_i64.to_le_bytes(); 3].concat();
    for (rows, refused) in [(3, false), (2, true), (4, true), (0, true), (-1, true)] {
        let words = format!("in row group 0, a page claims {rows} rows with 3 values");
        let words = refused.then_some(words.as_str());
        with_pages(&path, &flat, codec, &[], &second_page(codec, [&[], &[]], &plain, [3, rows], 0));
        is_read_or_refused(&path, words, &format!("{rows} rows"));
        // Lists may have more values than rows. That fewer are claimed than there are is found where they are read.
        with_pages(&path, &nested, codec, &[], &second_page(codec, [&[6, 0], &[6, 2]], &plain, [3, rows], 0));
        let words = words.filter(|_| !(0..=3).contains(&rows));
        is_read_or_refused(&path, words, &format!("{rows} rows of lists"));
    }
}

/// A file of `columns` columns with a page of `rows` numbers in each row group, which packs well or not at all.
fn with_large_pages(path: &Path, columns: usize, rows: i64, groups: usize, packs: bool, dictionary: bool) {
    let value = |row: i64| if packs { row / 1000 } else { (row + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15_u64 as i64) };
    let numbers: ArrayRef = Arc::new((0..rows * groups as i64).map(value).collect::<Int64Array>());
    let batch = RecordBatch::try_from_iter((0..columns).map(|index| (format!("c{index}"), numbers.clone()))).unwrap();
    let properties = WriterProperties::builder()
        .set_compression(Compression::SNAPPY)
        .set_dictionary_enabled(dictionary)
        .set_data_page_size_limit(1 << 30)
        .set_data_page_row_count_limit(1 << 30)
        .set_dictionary_page_size_limit(1 << 30)
        .set_max_row_group_row_count(Some(rows as usize))
        .build();
    write(path, &batch, properties);
}

fn read_by_a_worker(path: &Path, memory: impl FnOnce(&dyn Scan) -> usize) -> Result<Vec<RecordBatch>> {
    block_on(async {
        let cx = RunContext::new(PerformanceConfig { max_memory_usage: 1 << 30, ..PerformanceConfig::default() });
        let scan = ParquetExtractor::new(path).scan(&cx, &ScanRequest::all().partitions(1)).await?;
        drain(&cx.for_worker(memory(&*scan)), &*scan).await
    })
}

#[test]
fn pages_that_are_read_side_by_side_take_no_more_than_a_worker_has() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("t.parquet");
    const MB: usize = 1 << 20;
    // Forty pages of 781 KB in each of three row groups.
    for (dictionary, packs) in [(false, true), (true, false)] {
        with_large_pages(&path, 40, 100_000, 3, packs, dictionary);
        let error = read_by_a_worker(&path, |_| 16 * MB).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::MemoryExceeded, "{error}");
        let words = "the pages that are read at once, one of each column of row group 0, take";
        assert!(error.to_string().contains(words) && error.to_string().contains("may hold 16MB"), "{error}");
        // Those of the row groups before are not held any more.
        let batches = read_by_a_worker(&path, |_| 48 * MB).unwrap();
        assert_eq!(batches.iter().map(RecordBatch::num_rows).sum::<usize>(), 300_000);
    }
}

#[test]
fn pages_of_any_size_are_read_with_the_memory_that_the_scan_asks_for() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("t.parquet");
    for (columns, rows, packs) in
        [(1, 1_000_000, false), (6, 1_000_000, true), (6, 1_000_000, false), (60, 10_000, false)]
    {
        with_large_pages(&path, columns, rows, 1, packs, false);
        let batches = read_by_a_worker(&path, |scan| 4 * scan.min_memory());
        let batches = batches.unwrap_or_else(|error| panic!("{columns} columns of {rows} rows: {error}"));
        assert_eq!(batches.iter().map(RecordBatch::num_rows).sum::<usize>(), rows as usize);
    }
}

#[test]
fn a_footer_whose_rows_do_not_add_up_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("t.parquet");
    let numbers: Int64Array = (0..4).collect();
    let batch = RecordBatch::try_from_iter([("n", Arc::new(numbers) as ArrayRef)]).unwrap();
    write(&path, &batch, WriterProperties::builder().set_max_row_group_row_count(Some(1)).build());
    let file = bytes::Bytes::from(fs::read(&path).unwrap());
    let metadata = ParquetMetaDataReader::new().parse_and_finish(&file).unwrap();
    // The parquet crate writes no numbers that do not add up, so others of as many bytes take their place.
    let (some, too_many) = (1_i64 << 60, (1_i64 << 62) - 1);
    let groups =
        metadata.row_groups().iter().map(|group| group.clone().into_builder().set_num_rows(some).build().unwrap());
    let altered = metadata.clone().into_builder().set_row_groups(groups.collect()).build();
    let mut bytes = file.to_vec();
    ParquetMetaDataWriter::new(&mut bytes, &altered).finish().unwrap();
    let (some, too_many) = (zigzag(some), zigzag(too_many));
    for at in 0..bytes.len() - some.len() {
        if bytes[at..].starts_with(&some) {
            bytes[at..at + some.len()].copy_from_slice(&too_many);
        }
    }
    fs::write(&path, &bytes).unwrap();
    let error = block_on(extract(&path, &ScanRequest::all())).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::InvalidData);
    assert!(error.to_string().contains("t.parquet: the file is damaged: it claims more rows than"), "{error}");
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
