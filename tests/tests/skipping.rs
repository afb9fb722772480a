//! What a filter lets a source skip is never what it lets pass.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

use std::path::Path;
use std::sync::Arc;

use etlrs::arrow_array::types::*;
use etlrs::arrow_array::*;
use etlrs::{
    Expr, Extractor, Filter, LoadMode, MemoryLoader, ParquetExtractor, ParquetLoader, PipelineBuilder, Rename, Result,
    RunContext, RunReport, Scan, ScanRequest, async_trait,
};
use parquet::arrow::ArrowWriter;
use parquet::file::properties::{WriterProperties, WriterVersion};
use proptest::prelude::*;

/// The same source without being told of any filter.
struct Whole(ParquetExtractor);

#[async_trait]
impl Extractor for Whole {
    async fn scan(&self, cx: &RunContext, request: &ScanRequest) -> Result<Arc<dyn Scan>> {
        let mut request = request.clone();
        assert!(!request.filter.is_empty() || request.columns.is_none());
        request.filter.clear();
        self.0.scan(cx, &request).await
    }
}

/// A column: its name, its values by number, in the order of the numbers, and the number as a literal.
type Column = (&'static str, fn(&[Option<i32>]) -> ArrayRef, fn(i32) -> String);

const LONG: &str = "a prefix that is longer than what statistics keep of a text ";

fn floats(codes: &[Option<i32>]) -> impl Iterator<Item = Option<f64>> {
    codes.iter().map(|code| {
        code.map(|code| match code {
            0 => -0.0,
            1 => 0.0,
            code if code % 9 == 0 => f64::NAN,
            code if code % 11 == 0 => f64::INFINITY,
            code => f64::from(code) / 4.0,
        })
    })
}

fn texts(codes: &[Option<i32>]) -> impl Iterator<Item = Option<String>> {
    codes.iter().map(|code| code.map(text))
}

fn text(code: i32) -> String {
    match code.rem_euclid(4) {
        0 => String::new(),
        1 => format!("{LONG}{:03}", code + 100),
        2 => format!("{}\u{10ffff}\u{10ffff}", (b'a' + (code + 50).rem_euclid(26) as u8) as char),
        _ => format!("{:03}'é", code + 100).replace('\'', "’"),
    }
}

macro_rules! primitive {
    ($type:ty, $value:expr) => {
        |codes| Arc::new(codes.iter().map(|code| code.map($value)).collect::<PrimitiveArray<$type>>())
    };
}

fn clock(code: i32) -> String {
    format!("2020-01-01T00:{:02}:{:02}.5", (code + 60) / 60, (code + 60) % 60)
}

/// Of [`clock`], in milliseconds since 1970.
fn milliseconds(code: i32) -> i64 {
    1_577_836_800_500 + i64::from(code + 60) * 1000
}

fn date(code: i32) -> String {
    format!("date '1970-{:02}-{:02}'", 3 + code.rem_euclid(80) / 28, 1 + code.rem_euclid(80) % 28)
}

const COLUMNS: [Column; 20] = [
    ("i8", primitive!(Int8Type, |code| code as i8), |code| code.to_string()),
    ("i32", primitive!(Int32Type, |code| code * 10_000_000), |code| (i64::from(code) * 10_000_000).to_string()),
    ("i64", primitive!(Int64Type, |code| i64::from(code) * 1_000_000_000), |code| format!("{code}000000000")),
    ("u8", primitive!(UInt8Type, |code| (code as u8) ^ 0x80), |code| i32::from((code as u8) ^ 0x80).to_string()),
    ("u32", primitive!(UInt32Type, |code| (code as u32) ^ 0x8000_0000), |code| {
        ((code as u32) ^ 0x8000_0000).to_string()
    }),
    ("u64", primitive!(UInt64Type, |code| (i64::from(code) as u64) ^ (1 << 63)), |code| {
        ((i64::from(code) as u64) ^ (1 << 63)).to_string()
    }),
    (
        "f32",
        |codes| Arc::new(floats(codes).map(|x| x.map(|x| x as f32)).collect::<Float32Array>()),
        |code| (f64::from(code) / 4.0).to_string(),
    ),
    ("f64", |codes| Arc::new(floats(codes).collect::<Float64Array>()), |code| format!("{:.2}", f64::from(code) / 4.0)),
    (
        "flag",
        |codes| Arc::new(codes.iter().map(|code| code.map(|code| code > 0)).collect::<BooleanArray>()),
        |code| (code > 0).to_string(),
    ),
    ("text", |codes| Arc::new(texts(codes).collect::<StringArray>()), |code| format!("'{}'", text(code))),
    ("large", |codes| Arc::new(texts(codes).collect::<LargeStringArray>()), |code| format!("'{}'", text(code))),
    (
        "words",
        |codes| {
            let words: Vec<_> = texts(codes).collect();
            Arc::new(words.iter().map(Option::as_deref).collect::<DictionaryArray<Int32Type>>())
        },
        |code| format!("'{}'", text(code)),
    ),
    (
        "day",
        primitive!(Date32Type, |code: i32| {
            let day = code.rem_euclid(80);
            [59, 90, 120][(day / 28) as usize] + day % 28
        }),
        date,
    ),
    ("ms", primitive!(TimestampMillisecondType, milliseconds), |code| format!("timestamp '{}'", clock(code))),
    (
        "us",
        |codes| {
            let values = codes.iter().map(|code| code.map(|code| milliseconds(code) * 1000));
            Arc::new(values.collect::<TimestampMicrosecondArray>().with_timezone("Europe/Berlin"))
        },
        |code| format!("timestamp '{}Z'", clock(code)),
    ),
    ("ns", primitive!(TimestampNanosecondType, |code| milliseconds(code) * 1_000_000), |code| {
        if code % 2 == 0 { "date '2020-01-01'".to_owned() } else { format!("timestamp '{}'", clock(code)) }
    }),
    ("d9", |codes| decimals(codes, 9, 2), |code| format!("{:.1}", f64::from(code) / 2.0)),
    ("d18", |codes| decimals(codes, 18, 3), |code| code.to_string()),
    ("d30", |codes| decimals(codes, 30, 4), |code| format!("{:.6}", f64::from(code) / 4.0)),
    // Compared with halves, which makes floats of both sides.
    ("i16", primitive!(Int16Type, |code| code as i16), |code| format!("{:.1}", f64::from(code) / 2.0)),
];

fn decimals(codes: &[Option<i32>], precision: u8, scale: i8) -> ArrayRef {
    let unit = 10_i128.pow(scale as u32) / 10;
    let values = codes.iter().map(|code| code.map(|code| i128::from(code) * unit));
    Arc::new(values.collect::<Decimal128Array>().with_precision_and_scale(precision, scale).unwrap())
}

#[derive(Clone, Debug)]
struct File {
    codes: Vec<Option<i32>>,
    groups: usize,
    pages: usize,
    dictionary: bool,
    bloom: bool,
    second_version: bool,
    truncate: Option<usize>,
}

fn file() -> impl Strategy<Value = File> {
    // Runs of like values, so that there is something to skip, and runs of nulls.
    let run = (-40..40_i32, 1..6_i32, 0..5_u8, 1..60_usize).prop_flat_map(|(base, spread, nulls, length)| {
        let code = (0..spread, 0..4_u8).prop_map(move |(code, null)| (null >= nulls).then_some(base + code));
        prop::collection::vec(code, length)
    });
    let codes = prop::collection::vec(run, 1..8).prop_map(|runs| runs.concat());
    let truncate = prop::sample::select(vec![None, Some(1), Some(5)]);
    (codes, 5..80_usize, 3..20_usize, any::<(bool, bool, bool)>(), truncate).prop_map(
        |(codes, groups, pages, (dictionary, bloom, second_version), truncate)| File {
            codes,
            groups,
            pages,
            dictionary,
            bloom,
            second_version,
            truncate,
        },
    )
}

impl File {
    fn batch(&self) -> RecordBatch {
        let columns = COLUMNS.iter().map(|(name, values, _)| (*name, values(&self.codes), true));
        RecordBatch::try_from_iter_with_nullable(columns).unwrap()
    }

    fn write(&self, path: &Path) {
        let properties = WriterProperties::builder()
            .set_writer_version(if self.second_version {
                WriterVersion::PARQUET_2_0
            } else {
                WriterVersion::PARQUET_1_0
            })
            .set_max_row_group_row_count(Some(self.groups))
            .set_data_page_row_count_limit(self.pages)
            .set_write_batch_size(self.pages)
            .set_dictionary_enabled(self.dictionary)
            .set_bloom_filter_enabled(self.bloom)
            .set_statistics_truncate_length(self.truncate)
            .set_column_index_truncate_length(self.truncate)
            .build();
        let batch = self.batch();
        let file = std::fs::File::create(path).unwrap();
        let mut writer = ArrowWriter::try_new(file, batch.schema(), Some(properties)).unwrap();
        writer.write(&batch).unwrap();
        writer.close().unwrap();
    }
}

fn term() -> impl Strategy<Value = String> {
    let comparison = prop::sample::select(vec!["=", "<>", "<", "<=", ">", ">="]);
    (0..COLUMNS.len(), 0..10_u8, comparison, -45..45_i32, -45..45_i32).prop_map(
        |(column, form, comparison, one, two)| {
            let (name, _, literal) = COLUMNS[column];
            let (one, two) = (literal(one), literal(two));
            match form {
                0 => format!("{name} is null"),
                1 => format!("{name} is not null"),
                2 => format!("{name} in ({one}, {two})"),
                3 => format!("{name} between {one} and {two}"),
                4 => format!("{one} {comparison} {name}"),
                _ => format!("{name} {comparison} {one}"),
            }
        },
    )
}

fn run(extractor: impl Extractor + 'static, expression: &str) -> RunReport {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let filter = Filter::new(Expr::parse(expression).unwrap());
    let pipeline =
        PipelineBuilder::new().extract(extractor).transform(filter).load(MemoryLoader::new()).build().unwrap();
    runtime.block_on(pipeline.execute()).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if std::env::var_os("ETLRS_FAULTS").is_some() { 4000 } else { 150 }))]

    #[test]
    fn the_same_rows_pass_with_skipping_and_without(
        file in file(),
        terms in prop::collection::vec(prop::collection::vec(term(), 1..4), 8),
    ) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("t.parquet");
        file.write(&path);
        for terms in terms {
            let expression = terms.join(" and ");
            let skipping = run(ParquetExtractor::new(&path), &expression);
            let whole = run(Whole(ParquetExtractor::new(&path)), &expression);
            prop_assert_eq!(whole.rows_read, file.codes.len() as u64);
            prop_assert_eq!(skipping.source_checksum, whole.source_checksum, "{}: {:?}", expression, skipping.notes);
            prop_assert!(skipping.rows_read <= whole.rows_read && skipping.bytes_read <= whole.bytes_read);
            prop_assert_eq!(skipping.rows_read < whole.rows_read, !skipping.notes.is_empty());
        }
    }
}

/// 48 row groups of 500 rows, of which each column grows; pages of 50 rows.
fn ascending(path: &Path) -> RecordBatch {
    let codes: Vec<_> = (0..24_000).map(|row| Some(row / 600 - 20)).collect();
    let file = File {
        codes,
        groups: 500,
        pages: 50,
        dictionary: false,
        bloom: true,
        second_version: false,
        truncate: Some(8),
    };
    file.write(path);
    file.batch()
}

#[test]
fn what_cannot_match_is_not_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("t.parquet");
    ascending(&path);
    let whole = run(ParquetExtractor::new(&path), "i32 is not null");
    assert_eq!((whole.rows_read, whole.notes.len()), (24_000, 0));
    for (expression, rows, least_bytes) in [
        ("i32 = 30000000", 600, 20),
        ("i8 < -18", 1200, 10),
        ("u64 >= 9223372036854775826", 1200, 10),
        // One row group has only NaN, for which there are no bounds.
        ("f64 between 3.0 and 3.25", 1700, 10),
        ("d9 = 1.5", 600, 20),
        ("d30 = 1.5", 600, 20),
        ("ms < timestamp '2020-01-01T00:00:41.5'", 600, 20),
        ("ns < timestamp '2020-01-01T00:00:41.5'", 600, 20),
        ("us < timestamp '2020-01-01T00:00:41.5Z'", 600, 20),
        ("flag = false", 12_600, 1),
        ("i32 is null", 0, 1000),
        // Within the bounds of its page, but not in the Bloom filter.
        ("i64 = 3000000001", 0, 1000),
        ("i8 = 3 and i32 = 30000000", 600, 20),
        ("i8 = 3 and i32 = 40000000", 0, 1000),
    ] {
        let skipping = run(ParquetExtractor::new(&path), expression);
        let note = skipping.notes.join(";");
        assert_eq!(skipping.rows_read, rows, "{expression}: {note}");
        assert!(skipping.bytes_read <= whole.bytes_read / least_bytes, "{expression}: {} bytes", skipping.bytes_read);
        assert!(note.ends_with("skipped by their statistics"), "{note}");
    }
    let report = run(ParquetExtractor::new(&path), "i32 < -190000000");
    assert_eq!(report.notes, ["46 of 48 row groups, and 400 rows of the others, skipped by their statistics"]);
}

#[test]
fn a_renamed_column_is_skipped_by_too() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("t.parquet");
    ascending(&path);
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let pipeline = PipelineBuilder::new()
        .extract(ParquetExtractor::new(&path))
        .transform(Rename::new([("i8", "n"), ("f64", "i8")]))
        .transform(Filter::new(Expr::parse("n = 3").unwrap()))
        .load(MemoryLoader::new())
        .build()
        .unwrap();
    let report = runtime.block_on(pipeline.execute()).unwrap();
    assert_eq!((report.rows_read, report.load.records_loaded), (600, 600));
}

#[test]
fn files_that_etlrs_wrote_are_skipped_by_row_groups() {
    let folder = tempfile::tempdir().unwrap();
    let (source, target) = (folder.path().join("s.parquet"), folder.path().join("t.parquet"));
    let batch = ascending(&source);
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let pipeline = PipelineBuilder::new()
        .extract(ParquetExtractor::new(&source))
        .load(ParquetLoader::new(&target))
        .mode(LoadMode::Create)
        .build()
        .unwrap();
    runtime.block_on(pipeline.execute()).unwrap();
    let report = run(ParquetExtractor::new(&target), "i32 > 2000000000");
    assert_eq!((report.rows_read, report.load.records_loaded), (0, 0), "{:?}", report.notes);
    assert_eq!(run(ParquetExtractor::new(&target), "text >= ''").load.records_loaded, batch.num_rows() as u64);
}
