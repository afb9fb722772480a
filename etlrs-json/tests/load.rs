//! JSON files as a target: what is written, and that it is read back as what it was.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

use std::sync::Arc;

use arrow_array::builder::{Int32Builder, ListBuilder, MapBuilder, StringBuilder};
use arrow_array::types::Int32Type;
use arrow_array::{
    Array, ArrayRef, BinaryArray, BooleanArray, Date32Array, Decimal128Array, DictionaryArray, Float32Array,
    Float64Array, Int64Array, RecordBatch, StringArray, StructArray, Time64MicrosecondArray, TimestampMicrosecondArray,
    UInt64Array,
};
use arrow_schema::{DataType, Field, Schema};
use etlrs_core::{
    DatasetSnapshot, Extractor, LoadMode, LoadPlan, Loader, Partition, PerformanceConfig, Result, RunContext,
    ScanRequest,
};
use etlrs_json::{Compression, JsonExtractor, JsonLoader, JsonOptions, JsonWriteLayout, JsonWriteOptions, NonFinite};
use proptest::prelude::*;

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}

/// Loads each of `batches` as a partition.
async fn load(loader: &JsonLoader, batches: &[RecordBatch], mode: LoadMode) -> Result<Option<DatasetSnapshot>> {
    let cx = RunContext::new(PerformanceConfig::default());
    let partitions: Vec<_> = (0..batches.len()).map(|index| Partition::new(index, "")).collect();
    let plan = LoadPlan::new(batches[0].schema(), mode, partitions.clone());
    let mut session = loader.begin(&cx, plan).await?;
    let mut receipts = Vec::new();
    for (partition, batch) in partitions.iter().zip(batches) {
        let mut writer = session.writer(&cx, partition, 1).await?;
        writer.write(batch.clone()).await?;
        receipts.push(writer.finish().await?);
    }
    let staged = match session.read_back(&cx, &receipts).await? {
        Some(scan) => Some(DatasetSnapshot::collect(&cx, &*scan).await?),
        None => None,
    };
    session.commit(receipts).await?;
    Ok(staged)
}

fn written(name: &str, options: JsonWriteOptions, batches: &[RecordBatch]) -> Result<String> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    block_on(load(&JsonLoader::new(&path).with_options(options), batches, LoadMode::Create))?;
    Ok(std::fs::read_to_string(path).unwrap())
}

fn batch(columns: Vec<(&str, ArrayRef)>) -> RecordBatch {
    RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, array)| (name, array, true))).unwrap()
}

/// A column of each kind, with a null in the second row.
fn every_type() -> RecordBatch {
    let mut tags = ListBuilder::new(Int32Builder::new());
    tags.append_value([Some(1), None]);
    tags.append_null();
    tags.append_value([]);
    let mut map = MapBuilder::new(None, StringBuilder::new(), Int32Builder::new());
    map.keys().append_value("k\"");
    map.values().append_value(5);
    map.append(true).unwrap();
    map.append(false).unwrap();
    map.append(true).unwrap();
    let part = StringArray::from(vec![Some("x"), None, Some("y")]);
    let at = StructArray::from(vec![(Arc::new(Field::new("s", DataType::Utf8, true)), Arc::new(part) as ArrayRef)]);
    batch(vec![
        ("id", Arc::new(Int64Array::from(vec![Some(i64::MIN), None, Some(9_007_199_254_740_993)]))),
        ("u", Arc::new(UInt64Array::from(vec![Some(u64::MAX), None, Some(0)]))),
        ("b", Arc::new(BooleanArray::from(vec![Some(true), None, Some(false)]))),
        ("f", Arc::new(Float64Array::from(vec![Some(-0.0), None, Some(1e300)]))),
        ("g", Arc::new(Float32Array::from(vec![Some(0.1), None, Some(3.0)]))),
        (
            "d",
            Arc::new(Decimal128Array::from(vec![Some(-150), None, Some(7)]).with_precision_and_scale(10, 2).unwrap()),
        ),
        ("t", Arc::new(StringArray::from(vec![Some("a \"b\"\n\u{1}\\é"), None, Some("")]))),
        ("day", Arc::new(Date32Array::from(vec![Some(0), None, Some(-719_528)]))),
        ("time", Arc::new(Time64MicrosecondArray::from(vec![Some(18_000_500_000), None, Some(0)]))),
        ("ts", Arc::new(TimestampMicrosecondArray::from(vec![Some(1_500_000), None, Some(-1)]))),
        ("tz", Arc::new(TimestampMicrosecondArray::from(vec![Some(0), None, Some(1)]).with_timezone("UTC"))),
        ("bin", Arc::new(BinaryArray::from(vec![Some(&[0x0f, 0xa0][..]), None, Some(&[][..])]))),
        ("dict", Arc::new(vec![Some("p"), None, Some("q")].into_iter().collect::<DictionaryArray<Int32Type>>())),
        ("tags", Arc::new(tags.finish())),
        ("at", Arc::new(at)),
        ("map", Arc::new(map.finish())),
    ])
}

#[test]
fn every_type_is_written_as_documented() {
    let text = written("a.ndjson", JsonWriteOptions::default(), &[every_type()]).unwrap();
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(
        lines[0],
        concat!(
            r#"{"id":-9223372036854775808,"u":18446744073709551615,"b":true,"f":-0.0,"g":0.1,"d":-1.50,"#,
            r#""t":"a \"b\"\n\u0001\\é","day":"1970-01-01","time":"05:00:00.5","ts":"1970-01-01T00:00:01.5","#,
            r#""tz":"1970-01-01T00:00:00Z","bin":"0fa0","dict":"p","tags":[1,null],"at":{"s":"x"},"map":{"k\"":5}}"#
        )
    );
    assert_eq!(
        lines[1],
        concat!(
            r#"{"id":null,"u":null,"b":null,"f":null,"g":null,"d":null,"t":null,"day":null,"time":null,"ts":null,"#,
            r#""tz":null,"bin":null,"dict":null,"tags":null,"at":{"s":null},"map":null}"#
        )
    );
    assert!(lines[2].starts_with(r#"{"id":9007199254740993,"u":0,"b":false,"f":1e+300,"g":3.0,"d":0.07,"t":"","#));
    assert!(lines[2].ends_with(r#""bin":"","dict":"q","tags":[],"at":{"s":"y"},"map":{}}"#));
    let text = written("a.ndjson", JsonWriteOptions::default().with_omit_nulls(true), &[every_type()]).unwrap();
    assert_eq!(text.lines().nth(1), Some(r#"{"at":{}}"#));
}

#[test]
fn a_list_has_commas_between_its_records_and_none_elsewhere() {
    let rows = |values: &[i64]| batch(vec![("a", Arc::new(Int64Array::from(values.to_vec())) as ArrayRef)]);
    let batches = [rows(&[1, 2]), rows(&[]), rows(&[3])];
    let options = JsonWriteOptions::default;
    assert_eq!(written("a.json", options(), &batches).unwrap(), "[\n{\"a\":1},\n{\"a\":2},\n{\"a\":3}\n]\n");
    assert_eq!(written("a.json", options(), &[rows(&[])]).unwrap(), "[\n\n]\n");
    assert_eq!(written("a.ndjson", options(), &[rows(&[])]).unwrap(), "");
    let lines = options().with_layout(JsonWriteLayout::Lines);
    assert_eq!(written("a.json", lines, &batches).unwrap(), "{\"a\":1}\n{\"a\":2}\n{\"a\":3}\n");
    // Blocks are compressed by themselves.
    let folder = tempfile::tempdir().unwrap();
    for name in ["a.json.gz", "a.json.zst", "a.ndjson.xz", "a.jsonl.bz2"] {
        let path = folder.path().join(name);
        block_on(async {
            load(&JsonLoader::new(&path), &batches, LoadMode::Create).await.unwrap();
            let cx = RunContext::new(PerformanceConfig::default());
            let scan = JsonExtractor::new(&path).scan(&cx, &ScanRequest::all()).await.unwrap();
            let found = DatasetSnapshot::collect(&cx, &*scan).await.unwrap();
            let found: Vec<_> = found.records().map(|record| record.i64("a").unwrap().unwrap()).collect();
            assert_eq!(found, [1, 2, 3], "{name}");
        });
    }
}

#[test]
fn numbers_that_json_has_not_are_refused_or_replaced() {
    let values = Arc::new(Float64Array::from(vec![1.0, f64::NAN, f64::NEG_INFINITY]));
    let single = Arc::new(Float32Array::from(vec![f32::INFINITY, 1.5, f32::NAN]));
    let rows = [batch(vec![("a", values as ArrayRef), ("b", single as ArrayRef)])];
    let error = written("a.ndjson", JsonWriteOptions::default(), &rows).unwrap_err().to_string();
    assert!(error.contains("row 1 ") && error.contains("column \"b\"") && error.contains("non_finite"), "{error}");
    let with = |what| written("a.ndjson", JsonWriteOptions::default().with_non_finite(what), &rows).unwrap();
    assert_eq!(with(NonFinite::Null), "{\"a\":1.0,\"b\":null}\n{\"a\":null,\"b\":1.5}\n{\"a\":null,\"b\":null}\n");
    assert_eq!(
        with(NonFinite::Text),
        "{\"a\":1.0,\"b\":\"inf\"}\n{\"a\":\"NaN\",\"b\":1.5}\n{\"a\":\"-inf\",\"b\":\"NaN\"}\n"
    );
}

#[test]
fn text_that_is_json_is_written_as_it_is() {
    let metadata = [("ARROW:extension:name".to_owned(), "arrow.json".to_owned())].into();
    let schema = Schema::new(vec![Field::new("doc", DataType::Utf8, true).with_metadata(metadata)]);
    let rows = |text: &str| {
        RecordBatch::try_new(Arc::new(schema.clone()), vec![Arc::new(StringArray::from(vec![text]))]).unwrap()
    };
    let text = written("a.ndjson", JsonWriteOptions::default(), &[rows(" {\"a b\" : [1,\n 2] } ")]).unwrap();
    assert_eq!(text, "{\"doc\":{\"a b\":[1,2]}}\n");
    let error = written("a.ndjson", JsonWriteOptions::default(), &[rows("{")]).unwrap_err().to_string();
    assert!(error.contains("said to be JSON and is not"), "{error}");
}

#[test]
fn rows_are_appended_to_lines_and_not_to_a_list() {
    let rows = |value: i64| [batch(vec![("a", Arc::new(Int64Array::from(vec![value])) as ArrayRef)])];
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.ndjson");
    std::fs::write(&path, "{\"b\":0}").unwrap();
    let append = |path: &std::path::Path, value| block_on(load(&JsonLoader::new(path), &rows(value), LoadMode::Append));
    append(&path, 1).unwrap();
    append(&path, 2).unwrap();
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "{\"b\":0}\n{\"a\":1}\n{\"a\":2}\n");
    let list = folder.path().join("a.json");
    std::fs::write(&list, "[]").unwrap();
    assert!(append(&list, 1).unwrap_err().to_string().contains("appended to a list"));
    let other = folder.path().join("b.ndjson");
    std::fs::write(&other, " [{\"a\":1}]").unwrap();
    assert!(append(&other, 1).unwrap_err().to_string().contains("is a list"));
    assert_eq!(std::fs::read_to_string(&other).unwrap(), " [{\"a\":1}]");
    let utf16: Vec<u8> = "\u{feff}{\"a\":1}\n".encode_utf16().flat_map(u16::to_le_bytes).collect();
    let unmarked = utf16[2..].to_vec();
    for (text, what) in [
        (utf16, "not in UTF-8"),
        (unmarked, "not in UTF-8"),
        ("\u{feff}[{\"a\":1}]".into(), "is a list"),
        ("{\"a\":1}\n{\"a\":2".into(), "in the middle of a record"),
        ([&[b' '; 200_000][..], b"[\n{\"a\":1}\n]"].concat(), "is a list"),
    ] {
        std::fs::write(&other, &text).unwrap();
        let error = append(&other, 1).unwrap_err().to_string();
        assert!(error.contains(what), "{error}");
        assert!(std::fs::read(&other).unwrap() == text);
    }
    // Of a file that is compressed the end shows too.
    for (text, fits) in [("{\"a\":1}\n{\"a\":2", false), ("{\"a\":1}\n{\"a\":2}", true), ("{\"a\":1}\n", true)] {
        let packed = folder.path().join("p.ndjson.gz");
        let mut bytes = Vec::new();
        Compression::Gzip(1).compressor().unwrap().append_member(text.as_bytes(), &mut bytes).unwrap();
        std::fs::write(&packed, &bytes).unwrap();
        match append(&packed, 3) {
            Ok(_) => assert!(fits, "{text}"),
            Err(error) => assert!(!fits && error.to_string().contains("in the middle of a record"), "{error}"),
        }
    }
    // A mark is no reason, and neither are records that are lists.
    for text in ["\u{feff}{\"a\":1}\n", "[1]\n[2]\n"] {
        std::fs::write(&other, text).unwrap();
        append(&other, 2).unwrap();
        assert_eq!(std::fs::read_to_string(&other).unwrap(), format!("{text}{{\"a\":2}}\n"));
    }
    let directory = folder.path().join("d.json");
    for value in [1, 2] {
        block_on(load(&JsonLoader::directory(&directory), &rows(value), LoadMode::Append)).unwrap();
    }
    block_on(async {
        let cx = RunContext::new(PerformanceConfig::default());
        let scan = JsonExtractor::new(&directory).scan(&cx, &ScanRequest::all()).await.unwrap();
        assert_eq!(DatasetSnapshot::collect(&cx, &*scan).await.unwrap().total_count(), 2);
    });
}

#[test]
fn what_is_appended_is_read_back_whatever_stands_before_it() {
    let text = |value: &str| [batch(vec![("a", Arc::new(StringArray::from(vec![value])) as ArrayRef)])];
    for old in ["5\n", "{\"a\":{\"x\":1}}\n", "{\"a\":1}\n", "{\"b\":1}\n", "broken\n", "{\"a\":[]}"] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.ndjson");
        std::fs::write(&path, old).unwrap();
        let rows = text("\"x\" {");
        let found = block_on(load(&JsonLoader::new(&path), &rows, LoadMode::Append)).unwrap().unwrap();
        assert_eq!(found.batches(), rows, "{old}");
    }
}

#[test]
fn a_map_with_a_key_twice_is_refused() {
    for (count, is_twice) in [(2, true), (2, false), (40, true), (40, false)] {
        let mut map = MapBuilder::new(None, StringBuilder::new(), Int32Builder::new());
        for index in 0..count {
            let key = if is_twice && index == count - 1 { 0 } else { index };
            map.keys().append_value(key.to_string());
            map.values().append_value(index);
        }
        map.append(true).unwrap();
        let rows = batch(vec![("m", Arc::new(map.finish()) as ArrayRef)]);
        match written("a.ndjson", JsonWriteOptions::default(), &[rows]) {
            Ok(_) => assert!(!is_twice),
            Err(error) => assert!(is_twice && error.to_string().contains("a key twice"), "{error}"),
        }
    }
}

#[test]
fn json_within_a_record_is_not_nested_deeper_than_it_is_read() {
    let metadata = [("ARROW:extension:name".to_owned(), "arrow.json".to_owned())].into();
    let schema = Arc::new(Schema::new(vec![Field::new("doc", DataType::Utf8, true).with_metadata(metadata)]));
    for (levels, fits) in [(127, true), (128, false)] {
        let text = ["[".repeat(levels), "]".repeat(levels)].concat();
        let rows = RecordBatch::try_new(schema.clone(), vec![Arc::new(StringArray::from(vec![text]))]).unwrap();
        match written("a.ndjson", JsonWriteOptions::default(), &[rows]) {
            Ok(text) => assert!(fits && etlrs_json::document(text.as_bytes()).is_ok()),
            Err(error) => assert!(!fits && error.to_string().contains("deeper than 128"), "{error}"),
        }
    }
}

/// The items of long lists are written as those of short ones, in batches that are slices.
#[test]
fn lists_of_text_are_written_from_slices() {
    let mut tags = ListBuilder::new(StringBuilder::new());
    for row in 0..10_000 {
        let item = if row == 9_000 { "a\"b".to_owned() } else { format!("t{row}") };
        tags.append_value([Some(item), None]);
    }
    let rows = batch(vec![("tags", Arc::new(tags.finish()) as ArrayRef)]).slice(100, 9_500);
    let text = written("a.ndjson", JsonWriteOptions::default(), &[rows]).unwrap();
    assert_eq!(text.lines().count(), 9_500);
    assert!(text.lines().all(|line| etlrs_json::document(line.as_bytes()).is_ok()));
    assert_eq!(text.lines().nth(8_900), Some("{\"tags\":[\"a\\\"b\",null]}"));
}

#[test]
fn what_json_cannot_hold_is_refused_before_anything_is_written() {
    let column = |data_type| (Schema::new(vec![Field::new("a", data_type, true)]), "column \"a\"");
    let twice = Schema::new(vec![Field::new("a", DataType::Utf8, true), Field::new("a", DataType::Utf8, true)]);
    for (schema, word) in [
        column(DataType::Date64),
        column(DataType::Duration(arrow_schema::TimeUnit::Second)),
        column(DataType::List(Arc::new(Field::new("item", DataType::Date64, true)))),
        (twice, "each key once"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.ndjson");
        let error =
            block_on(load(&JsonLoader::new(&path), &[RecordBatch::new_empty(Arc::new(schema))], LoadMode::Create));
        let error = error.unwrap_err().to_string();
        assert!(error.contains(word), "{error}");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}

fn column(rows: usize) -> impl Strategy<Value = ArrayRef> {
    let values = |any: BoxedStrategy<ArrayRef>| any;
    prop_oneof![
        values(
            prop::collection::vec(any::<Option<i64>>(), rows)
                .prop_map(|v| Arc::new(Int64Array::from(v)) as ArrayRef)
                .boxed()
        ),
        values(
            prop::collection::vec(any::<Option<u64>>(), rows)
                .prop_map(|v| Arc::new(UInt64Array::from(v)) as ArrayRef)
                .boxed()
        ),
        values(
            prop::collection::vec(any::<Option<f64>>().prop_map(|v| v.filter(|v| v.is_finite())), rows)
                .prop_map(|v| Arc::new(Float64Array::from(v)) as ArrayRef)
                .boxed()
        ),
        values(
            prop::collection::vec(any::<Option<f32>>().prop_map(|v| v.filter(|v| v.is_finite())), rows)
                .prop_map(|v| Arc::new(Float32Array::from(v)) as ArrayRef)
                .boxed()
        ),
        values(
            prop::collection::vec(any::<Option<String>>(), rows)
                .prop_map(|v| Arc::new(StringArray::from(v)) as ArrayRef)
                .boxed()
        ),
        values(
            prop::collection::vec(any::<Option<bool>>(), rows)
                .prop_map(|v| Arc::new(BooleanArray::from(v)) as ArrayRef)
                .boxed()
        ),
        values(
            prop::collection::vec(prop::option::of(-719_528i32..2_932_897), rows)
                .prop_map(|v| Arc::new(Date32Array::from(v)) as ArrayRef)
                .boxed()
        ),
        values(
            prop::collection::vec(prop::option::of(-62_167_219_200_000_000i64..253_402_300_800_000_000), rows)
                .prop_map(|v| Arc::new(TimestampMicrosecondArray::from(v).with_timezone("UTC")) as ArrayRef)
                .boxed()
        ),
        values(
            prop::collection::vec(prop::option::of(-10i128.pow(38) + 1..10i128.pow(38)), rows)
                .prop_map(|v| {
                    Arc::new(Decimal128Array::from(v).with_precision_and_scale(38, 7).unwrap()) as ArrayRef
                })
                .boxed()
        ),
        values(
            prop::collection::vec(any::<Option<Vec<Option<i32>>>>(), rows)
                .prop_map(|v| {
                    let mut builder = ListBuilder::new(Int32Builder::new());
                    v.into_iter().for_each(|list| builder.append_option(list));
                    Arc::new(builder.finish()) as ArrayRef
                })
                .boxed()
        ),
    ]
}

fn rows() -> impl Strategy<Value = RecordBatch> {
    (1usize..20).prop_flat_map(|rows| prop::collection::vec(column(rows), 1..6)).prop_map(|columns| {
        let parts = columns.iter().enumerate().map(|(index, array)| {
            (Arc::new(Field::new(format!("p{index}"), array.data_type().clone(), true)), array.clone())
        });
        let all: ArrayRef = Arc::new(StructArray::from(parts.collect::<Vec<_>>()));
        let names = ["a", "b \"q\"", "c", "ö", "e"];
        let mut columns: Vec<_> = names.into_iter().zip(columns).collect();
        columns.push(("all", all));
        batch(columns)
    })
}

proptest! {
    /// What was written is what is read back before it is published, and what others read, in each layout.
    #[test]
    fn what_is_written_is_read_back(batch in rows(), array in any::<bool>(), cut in 0usize..20) {
        let cut = cut % (batch.num_rows() + 1);
        let batches = [batch.slice(0, cut), batch.slice(cut, batch.num_rows() - cut)];
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(if array { "a.json" } else { "a.ndjson" });
        let staged = block_on(load(&JsonLoader::new(&path), &batches, LoadMode::Create)).unwrap().unwrap();
        let whole = DatasetSnapshot::new(batch.schema(), vec![batch.clone()]).unwrap();
        prop_assert_eq!(staged.checksum(), whole.checksum());
        let text = std::fs::read_to_string(&path).unwrap();
        let parsed: Vec<serde_json::Value> = match array {
            true => serde_json::from_str(&text).unwrap(),
            false => text.lines().map(|line| serde_json::from_str(line).unwrap()).collect(),
        };
        prop_assert_eq!(parsed.len(), batch.num_rows());
        let types = batch.schema().fields().iter().map(|field| (field.name().clone(), field.data_type().clone())).collect();
        let options = JsonOptions::default().with_types(etlrs_core::ColumnTypes(types));
        let found = block_on(async {
            let cx = RunContext::new(PerformanceConfig::default());
            let request = ScanRequest::all().columns(batch.schema().fields().iter().map(|field| field.name()));
            let scan = JsonExtractor::new(&path).with_options(options).scan(&cx, &request).await.unwrap();
            DatasetSnapshot::collect(&cx, &*scan).await.unwrap()
        });
        prop_assert_eq!(found.checksum(), whole.checksum());
    }
}
