//! JSON files as a source: layouts, types, and what is wrong with them.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

use std::path::Path;

use arrow_array::cast::AsArray;
use arrow_array::types::{Decimal128Type, Float64Type, Int64Type, UInt64Type};
use arrow_array::{Array, RecordBatch};
use arrow_schema::{DataType, Field, Schema};
use etlrs_core::{
    DatasetSnapshot, Error, ErrorKind, Extractor, PerformanceConfig, Rejects, Result, RunContext, ScanRequest,
    next_batch, type_name,
};
use etlrs_json::{JsonExtractor, JsonLayout, JsonOptions, UnknownKeys};
use proptest::prelude::*;

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}

fn read(text: impl AsRef<[u8]>, name: &str, options: JsonOptions) -> Result<DatasetSnapshot> {
    read_as(text, name, options, ScanRequest::all())
}

fn read_as(text: impl AsRef<[u8]>, name: &str, options: JsonOptions, request: ScanRequest) -> Result<DatasetSnapshot> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    std::fs::write(&path, text).unwrap();
    block_on(async {
        let cx = RunContext::new(PerformanceConfig::default());
        let scan = JsonExtractor::new(&path).with_options(options).scan(&cx, &request).await?;
        DatasetSnapshot::collect(&cx, &*scan).await
    })
}

fn lines(text: &str) -> Result<DatasetSnapshot> {
    read(text, "a.ndjson", JsonOptions::default())
}

/// The only batch.
fn batch(found: &DatasetSnapshot) -> RecordBatch {
    assert_eq!(found.batches().len(), 1);
    found.batches()[0].clone()
}

fn types(found: &DatasetSnapshot) -> String {
    let fields = found.schema().fields().iter();
    fields.map(|field| format!("{}:{}", field.name(), type_name(field.data_type()))).collect::<Vec<_>>().join(" ")
}

fn shown(error: Error, folder_of: &str) -> String {
    let text = error.to_string();
    let start = text.find(folder_of).unwrap_or_else(|| panic!("{text}"));
    text[start..].to_owned()
}

#[test]
fn types_are_the_narrowest_that_keep_every_value() {
    for (values, expected) in [
        ("1 2 -9223372036854775808", "int64"),
        ("1 18446744073709551615", "uint64"),
        ("-1 18446744073709551615", "decimal(38,0)"),
        ("18446744073709551616 1", "decimal(38,0)"),
        ("1 0.5 1e300", "float64"),
        ("9007199254740993 0.5", "decimal(38,1)"),
        ("0.12345678901234567890", "decimal(38,20)"),
        ("1e400 1", "text"),
        ("0.1234567890123456789012345678901234567890", "text"),
        ("-0 1", "float64"),
        ("true false null", "bool"),
        ("null null", "text"),
        ("\"2024-01-31\" null", "date"),
        ("\"2024-01-31T10:00:00\"", "timestamp"),
        ("\"2024-01-31\" \"2024-01-31T10:00:00\"", "text"),
        ("\"2024-01-31T10:00:00Z\"", "timestamptz"),
        ("\"2024-01-31\" \"2024-01-32\"", "text"),
        ("\"a\" 1", "text"),
        ("true 1", "text"),
        ("\"a\" [1]", "text"),
        ("{\"b\":1} [1]", "text"),
        ("{} {}", "text"),
    ] {
        let text: String = values.split(' ').map(|value| format!("{{\"a\":{value}}}\n")).collect();
        assert_eq!(types(&lines(&text).unwrap()), format!("a:{expected}"), "{values}");
    }
}

#[test]
fn numbers_keep_every_digit() {
    let found =
        lines("{\"a\":9007199254740993,\"b\":18446744073709551615,\"c\":123456789012345678901234567890.5,\"d\":0.1}\n");
    let batch = batch(&found.unwrap());
    assert_eq!(batch.column(0).as_primitive::<Int64Type>().value(0), 9_007_199_254_740_993);
    assert_eq!(batch.column(1).as_primitive::<UInt64Type>().value(0), u64::MAX);
    assert_eq!(batch.column(2).as_primitive::<Decimal128Type>().value(0), 1_234_567_890_123_456_789_012_345_678_905);
    assert_eq!(batch.column(3).as_primitive::<Float64Type>().value(0), 0.1);
    // What is no float without losing something is text that has it all.
    let found = lines("{\"a\":1e400}\n{\"a\":\"x\"}\n").unwrap();
    let found = self::batch(&found);
    assert_eq!(found.column(0).as_string::<i32>().iter().collect::<Vec<_>>(), [Some("1e400"), Some("x")]);
}

#[test]
fn objects_are_structs_and_lists_are_lists() {
    let text = r#"{"id":1,"at":{"x":1,"y":null},"tags":["a","b"]}
{"id":2,"tags":[]}
{"at":{"y":2.5,"x":3},"tags":null,"id":null}
{"id":4,"at":null,"rows":[[1],[2,3]]}
"#;
    let batch = batch(&lines(text).unwrap());
    let at = batch.column(1).as_struct();
    assert_eq!((at.is_null(0), at.is_null(1), at.is_null(3)), (false, true, true));
    assert_eq!(at.column(0).as_primitive::<Int64Type>().iter().collect::<Vec<_>>(), [Some(1), None, Some(3), None]);
    assert_eq!(at.column(1).as_primitive::<Float64Type>().iter().collect::<Vec<_>>(), [None, None, Some(2.5), None]);
    let tags = batch.column(2).as_list::<i32>();
    assert_eq!(tags.value(0).as_string::<i32>().iter().collect::<Vec<_>>(), [Some("a"), Some("b")]);
    assert_eq!((tags.is_null(1), tags.value_length(1), tags.is_null(2)), (false, 0, true));
    let rows = batch.column(3).as_list::<i32>().value(3);
    assert_eq!(rows.as_list::<i32>().value(1).as_primitive::<Int64Type>().values(), &[2, 3]);
}

#[test]
fn values_of_several_kinds_are_text() {
    let found = lines("{\"a\":\"x\",\"b\":\"x\"}\n{\"a\":1.50,\"b\":[1, 2]}\n{\"a\":true}\n").unwrap();
    let batch = batch(&found);
    assert_eq!(batch.column(0).as_string::<i32>().iter().collect::<Vec<_>>(), [Some("x"), Some("1.50"), Some("true")]);
    assert_eq!(batch.column(1).as_string::<i32>().iter().collect::<Vec<_>>(), [Some("\"x\""), Some("[1, 2]"), None]);
    let extension =
        |name: &str| found.schema().field_with_name(name).unwrap().metadata().get("ARROW:extension:name").cloned();
    assert_eq!((extension("a"), extension("b").as_deref()), (None, Some("arrow.json")));
}

#[test]
fn layouts_are_found() {
    let rows = |text: &str, name: &str| read(text, name, JsonOptions::default()).unwrap().total_count();
    for (text, name, expected) in [
        ("{\"a\":1}\n{\"a\":2}\n", "a.json", 2),
        ("[{\"a\":1},\n{\"a\":2}]", "a.json", 2),
        (" [ ] ", "b.json", 0),
        ("{\n \"a\":1\n}\n{\n\"a\":2}", "a.json", 2),
        ("{\"a\":1}{\"a\":2} {\"a\":3}", "a.json", 3),
        ("\u{feff}{\"a\":1}\r\n\r\n{\"a\":2}", "a.ndjson", 2),
        ("\u{feff}[{\"a\":1}]", "a.json", 1),
        ("{\"a\":1}", "a.jsonl", 1),
        ("42", "a.json", 1),
        ("[1,null,3]", "a.json", 3),
        ("[[1],[2]]", "a.json", 2),
    ] {
        if expected == 0 {
            let error = read(text, name, JsonOptions::default()).unwrap_err();
            assert!(error.to_string().contains("no record has a key"), "{error}");
            let options = JsonOptions::default().with_types([("a", DataType::Int64)]);
            assert_eq!(read(text, name, options).unwrap().total_count(), 0);
        } else {
            assert_eq!(rows(text, name), expected, "{text}");
        }
    }
    assert_eq!(types(&read("[1,null,3]", "a.json", JsonOptions::default()).unwrap()), "value:int64");
}

#[test]
fn what_is_wrong_is_told_with_its_place() {
    let long = "{\"a\":1}\n".repeat(20_000);
    for (text, name, words) in [
        ("{\"a\":1}\n\n{\"a\":1,}\n", "a.ndjson", &["line 3", "byte 16", "a key in quotes"][..]),
        ("{\"a\":1}\n{\"a\":1} {\"a\":2}\n", "a.ndjson", &["line 2", "something behind", "layout=values"]),
        ("{\"a\":1}\n{\"a\":\n1}\n", "a.ndjson", &["line 2", "ends too early", "layout=values"]),
        ("{\"a\":1,\"a\":2}\n", "a.ndjson", &["line 1", "column \"a\"", "the key \"a\" twice"]),
        ("{\"a\":1}\n5\n", "a.ndjson", &["objects and others are not"]),
        ("[{\"a\":1},\n{\"a\":2}\n", "a.json", &["record 3", "line 3", "ends too early"]),
        ("[{\"a\":1}\n{\"a\":2}]", "a.json", &["record 2", "line 2", "a comma or ]"]),
        ("[{\"a\":1}] x", "a.json", &["line 1", "the list ended before"]),
        (
            &format!("{long}{{\"b\":1}}\n"),
            "a.ndjson",
            &["line 20001", "the key \"b\" is in none of the first 10000 records", "sample=full"],
        ),
        (&format!("{long}{{\"a\":\"x\"}}\n"), "a.ndjson", &["line 20001", "column a", "no int64", "types=a:text"]),
        (&format!("{long}{{\"a\":1.5}}\n"), "a.ndjson", &["line 20001", "no int64"]),
        (&format!("{long}7\n"), "a.ndjson", &["line 20001", "no object"]),
        ("", "a.ndjson", &["empty"]),
        (&format!("{{\"a\":{}1{}}}", "[".repeat(200), "]".repeat(200)), "a.ndjson", &["deeper than 128"]),
    ] {
        let error = shown(read(text, name, JsonOptions::default()).unwrap_err(), "a.");
        assert!(words.iter().all(|word| error.contains(word)), "{error}");
        assert!(error.len() < 400, "{error}");
    }
    let error = shown(read(b"{\"a\":1}\n{\"a\":\"\xff\"}\n", "a.ndjson", JsonOptions::default()).unwrap_err(), "a.");
    assert!(error.contains("line 2") && error.contains("byte 14") && error.contains("not UTF-8"), "{error}");
}

#[test]
fn later_keys_can_be_ignored_or_named() {
    let text = format!("{}{{\"a\":1,\"b\":{{\"c\":5}}}}\n", "{\"a\":1}\n".repeat(10_000));
    let ignoring = JsonOptions::default().with_unknown_keys(UnknownKeys::Ignore);
    assert_eq!(types(&read(&text, "a.ndjson", ignoring).unwrap()), "a:int64");
    let named = JsonOptions::default().with_types([("b", DataType::Utf8)]);
    assert_eq!(types(&read(&text, "a.ndjson", named).unwrap()), "a:int64 b:text");
    let wrong = JsonOptions::default().with_types([("b", DataType::Int64)]);
    let error = read(&text, "a.ndjson", wrong).unwrap_err();
    assert!(error.to_string().contains("no int64"), "{error}");
    let full = JsonOptions::default().with_sample(etlrs_json::Sample::Full);
    assert!(types(&read(&text, "a.ndjson", full).unwrap()).starts_with("a:int64 b:"));
}

#[test]
fn records_that_are_no_objects_are_set_aside_where_most_are() {
    let mixed = format!("5\n{}[1]\n\"x\"\n", "{\"a\":1}\n".repeat(20));
    let error = lines(&mixed).unwrap_err().to_string();
    assert!(error.contains("line 1") && error.contains("no object"), "{error}");
    let (found, rejected) = quarantined(&mixed, 1);
    assert_eq!((found.total_count(), rejected), (20, vec![Some(1), Some(22), Some(23)]));
    // Nulls are no kind of their own, however many there are.
    let (found, rejected) = quarantined("null\n{\"a\":1}\nnull\nnull\n", 1);
    assert_eq!((found.total_count(), rejected), (1, vec![Some(1), Some(3), Some(4)]));
}

/// Text and rejects, read in so many partitions.
fn quarantined(text: &str, partitions: usize) -> (DatasetSnapshot, Vec<Option<u64>>) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.ndjson");
    std::fs::write(&path, text).unwrap();
    block_on(async {
        let rejects = Rejects::new(100);
        let cx = RunContext::new(PerformanceConfig::default()).with_rejects(rejects.clone());
        let scan = JsonExtractor::new(&path).scan(&cx, &ScanRequest::all().partitions(partitions)).await.unwrap();
        let found = DatasetSnapshot::collect(&cx, &*scan).await.unwrap();
        (found, rejects.take().iter().map(|rejected| rejected.position.line).collect())
    })
}

#[test]
fn a_long_record_is_read_once_and_by_one_partition() {
    let long = format!("{{\"a\":\"{}\"}}\n", "x".repeat(3 << 20));
    let text = format!("{{\"a\":\"y\"}}\n{long}broken\n{{\"a\":\"z\"}}\n");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.ndjson");
    std::fs::write(&path, &text).unwrap();
    for partitions in [1, 7, 50] {
        let (found, rejected) = quarantined(&text, partitions);
        assert_eq!((found.total_count(), rejected), (3, vec![Some(3)]));
    }
    block_on(async {
        let cx = RunContext::new(PerformanceConfig::default()).with_rejects(Rejects::new(100));
        let scan = JsonExtractor::new(&path).scan(&cx, &ScanRequest::all().partitions(50)).await.unwrap();
        DatasetSnapshot::collect(&cx, &*scan).await.unwrap();
        let read = cx.counters().bytes_read.get();
        assert!((text.len() as u64..2 * text.len() as u64 + (1 << 20)).contains(&read), "{read} of {}", text.len());
    });
}

#[test]
fn text_that_is_asked_for_takes_what_there_is() {
    let text = "{\"a\":\"x\"}\n{\"a\":1.50}\n{\"a\":{\"b\": [1]}}\n{\"a\":true}\n";
    let options = JsonOptions::default().with_types([("a", DataType::Utf8)]).with_sample(1);
    let found = batch(&read(text, "a.ndjson", options).unwrap());
    let values: Vec<_> = found.column(0).as_string::<i32>().iter().flatten().collect();
    assert_eq!(values, ["x", "1.50", "{\"b\": [1]}", "true"]);
}

#[test]
fn objects_with_very_many_keys_are_json_and_no_columns() {
    let keys = |count: usize| (0..count).map(|key| format!("\"k{key}\":1")).collect::<Vec<_>>().join(",");
    assert_eq!(types(&lines(&format!("{{\"a\":{{{}}}}}\n", keys(1001))).unwrap()), "a:text");
    assert!(
        types(&lines(&format!("{{\"a\":{{{}}}}}\n", keys(1000))).unwrap()).starts_with("a:struct<k0 int64, k1 int64")
    );
    let error = lines(&format!("{{{}}}\n", keys(10_001))).unwrap_err().to_string();
    assert!(error.contains("more than 10000 different keys") && error.contains("unknown_keys=ignore"), "{error}");
    let options = JsonOptions::default().with_types([("k7", DataType::Int64)]).with_unknown_keys(UnknownKeys::Ignore);
    assert_eq!(types(&read(format!("{{{}}}\n", keys(10_001)), "a.ndjson", options).unwrap()), "k7:int64");
}

#[test]
fn values_that_are_nested_deep_are_json_from_a_level_on() {
    let nested = |levels: usize| ["{\"a\":".repeat(levels), "1".to_owned(), "}".repeat(levels)].concat();
    let depth = |data_type: &DataType| {
        let (mut levels, mut inner) = (0, data_type.clone());
        while let DataType::Struct(fields) = inner {
            (levels, inner) = (levels + 1, fields[0].data_type().clone());
        }
        (levels, inner)
    };
    let found = lines(&nested(100)).unwrap();
    assert_eq!(depth(found.schema().field(0).data_type()), (31, DataType::Utf8));
    let found = lines(&nested(32)).unwrap();
    assert_eq!(depth(found.schema().field(0).data_type()), (31, DataType::Int64));
}

/// Of two decimal numbers that are as near and as short, the one that is written again is that of the float.
#[test]
fn the_digits_of_floats_halfway_between_two_numbers_stay() {
    assert_eq!(types(&lines("{\"a\":9153313879.351562}\n").unwrap()), "a:float64");
    assert_ne!(types(&lines("{\"a\":9153313879.351563}\n").unwrap()), "a:float64");
}

#[test]
fn keys_with_special_characters_are_known_in_any_spelling() {
    let text = "{\"a\\\"b\":1,\"\\u0000\":2}\n{\"a\\u0022b\":3,\"\\u0000\":4}\n";
    let found = batch(&lines(text).unwrap());
    assert_eq!(found.column(0).as_primitive::<Int64Type>().values(), &[1, 3]);
    assert_eq!(found.column(1).as_primitive::<Int64Type>().values(), &[2, 4]);
    assert!(lines(&format!("{text}{{\0:4}}\n")).is_err());
}

#[test]
fn what_a_column_of_text_is_text_for_is_told() {
    let note = |text: &str| {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.ndjson");
        std::fs::write(&path, text).unwrap();
        let cx = RunContext::new(PerformanceConfig::default());
        let scan = block_on(JsonExtractor::new(&path).scan(&cx, &ScanRequest::all())).unwrap();
        scan.notes().join("; ")
    };
    assert!(note("{\"a\":0.1}\n{\"a\":1e300}\n{\"a\":123456789.123456789}\n").contains("have more digits"));
    assert!(note("{\"a\":0.1}\n{\"a\":\"x\"}\n").contains("of several kinds"));
}

#[test]
fn what_is_no_number_in_quotes_is_none() {
    for (data_type, values) in [
        (DataType::Float64, &["-", "--", "-.", "-0-0", ""][..]),
        (DataType::Decimal128(20, 2), &["0x1e5", "7a3e2", "--5e1", "1,5e3", "1.2.3e1", "x0e1", "1e", "-"]),
        (DataType::Int64, &["0x1e5", "1 5e2", "-"]),
    ] {
        for value in values {
            let options = JsonOptions::default().with_types([("a", data_type.clone())]);
            let found = read(format!("{{\"a\":\"{value}\"}}\n"), "a.ndjson", options);
            assert!(found.is_err(), "{value:?} {data_type}: {found:?}");
        }
    }
}

#[test]
fn numbers_in_a_list_may_be_cut_by_reading() {
    let text = format!("[{}]", (0..200_000).map(|n| n.to_string()).collect::<Vec<_>>().join(","));
    let found = read(&text, "a.json", JsonOptions::default()).unwrap();
    let sum: i64 = found.records().map(|record| record.i64("value").unwrap().unwrap()).sum();
    assert_eq!((found.total_count(), sum), (200_000, 199_999 * 100_000));
}

#[test]
fn columns_are_read_alone() {
    let text = "{\"a\":1,\"b\":{\"c\":[1,2]},\"d\":\"x\"}\n{\"d\":\"y\",\"e\":1}\n";
    let found = read_as(text, "a.ndjson", JsonOptions::default(), ScanRequest::all().columns(["d", "a"])).unwrap();
    assert_eq!(types(&found), "d:text a:int64");
    assert_eq!(batch(&found).column(0).as_string::<i32>().value(1), "y");
}

#[test]
fn the_target_guides_what_is_guessed() {
    let target = Schema::new(vec![
        Field::new("a", DataType::Utf8, true),
        Field::new("b", DataType::Decimal128(10, 2), true),
        Field::new("C", DataType::Int32, true),
        Field::new("d", DataType::Boolean, true),
        Field::new("e", DataType::Date32, true),
    ]);
    let text =
        "{\"a\":1.50,\"b\":\"2.50\",\"c\":5.0,\"d\":1,\"e\":\"2024-01-31T00:00:00\"}\n{\"a\":{\"x\":1},\"b\":3}\n";
    let request = ScanRequest::all().target(Some(std::sync::Arc::new(target)));
    let error = read_as(text, "a.ndjson", JsonOptions::default(), request.clone());
    // 5.0 is a float, which does not go into an integer by itself.
    let found = error.unwrap();
    assert_eq!(types(&found), "a:text b:decimal(10,2) c:float64 d:int64 e:date");
    let batch = batch(&found);
    assert_eq!(batch.column(0).as_string::<i32>().value(1), "{\"x\":1}");
    assert_eq!(batch.column(1).as_primitive::<Decimal128Type>().values(), &[250, 300]);
}

#[test]
fn every_file_of_the_suite_is_read_or_refused() {
    let suites = std::env::var_os("ETLRS_SUITES")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/suites"), Into::into);
    let Ok(entries) = std::fs::read_dir(suites.join("jsontestsuite/test_parsing")) else {
        eprintln!("SKIPPED: the JSON test suite is not at {}; set ETLRS_SUITES", suites.display());
        return;
    };
    let (mut read_well, mut refused) = (0, 0);
    for entry in entries {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        let bytes = std::fs::read(&path).unwrap();
        for layout in [JsonLayout::Auto, JsonLayout::Array, JsonLayout::Values, JsonLayout::Lines] {
            let found = read(&bytes, &name, JsonOptions::default().with_layout(layout));
            match (&name[..2], found, layout) {
                ("n_", Ok(found), JsonLayout::Auto | JsonLayout::Array) => panic!("{name}: {found:?}"),
                (_, Ok(_), _) => read_well += 1,
                (_, Err(_), _) => refused += 1,
            }
        }
    }
    assert!(read_well > 200 && refused > 500, "{read_well} {refused}");
}

#[test]
fn bad_records_are_set_aside() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.ndjson");
    std::fs::write(&path, "{\"a\":1}\n{\"a\":1}\n{\"a\":\"x\"}\n{\"a\":\n{\"a\":4,\"b\":2}\n\n{\"a\":5}\n{\"a\":6")
        .unwrap();
    block_on(async {
        for partitions in [1, 3, 7] {
            let rejects = Rejects::new(1 << 20);
            let cx = RunContext::new(PerformanceConfig::default()).with_rejects(rejects.clone());
            let options = JsonOptions::default().with_sample(2);
            let request = ScanRequest::all().partitions(partitions);
            let scan = JsonExtractor::new(&path).with_options(options).scan(&cx, &request).await.unwrap();
            assert_eq!(scan.partitions().len(), partitions);
            let found = DatasetSnapshot::collect(&cx, &*scan).await.unwrap();
            assert_eq!(found.records().map(|record| record.i64("a").unwrap().unwrap()).collect::<Vec<_>>(), [1, 1, 5]);
            let mut told: Vec<_> =
                rejects.take().iter().map(|rejected| (rejected.position.line, rejected.raw.clone())).collect();
            told.sort();
            let raw = |text: &str| Some(text.as_bytes().to_vec());
            assert_eq!(
                told,
                [
                    (Some(3), raw("{\"a\":\"x\"}")),
                    (Some(4), raw("{\"a\":")),
                    (Some(5), raw("{\"a\":4,\"b\":2}")),
                    (Some(8), raw("{\"a\":6"))
                ]
            );
        }
    });
}

#[test]
fn a_file_that_becomes_shorter_while_it_is_read_is_an_error() {
    for (name, mapped) in [("a.ndjson", false), ("a.ndjson", true), ("a.json", true)] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        let records: Vec<String> = (0..300_000).map(|n| format!("{{\"n\":{n},\"text\":\"some\"}}")).collect();
        let text = if mapped && name == "a.json" { format!("[{}]", records.join(",\n")) } else { records.join("\n") };
        std::fs::write(&path, text).unwrap();
        let cx = RunContext::new(PerformanceConfig::default().with_batch_size(1000usize));
        let error = block_on(async {
            let extractor = JsonExtractor::new(&path).with_memory_mapping(mapped).with_buffer_size(64 << 10);
            let scan = extractor.scan(&cx, &ScanRequest::all().partitions(1)).await.unwrap();
            let mut stream = scan.read(&cx, &scan.partitions()[0]).unwrap();
            assert_eq!(next_batch(&mut stream).await.unwrap().unwrap().num_rows(), 1000);
            std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(1 << 20).unwrap();
            loop {
                if let Err(error) = next_batch(&mut stream).await.unwrap() {
                    return error;
                }
            }
        });
        assert_eq!(error.kind(), ErrorKind::SourceChanged, "{name}, mapped {mapped}: {error}");
        assert!(error.to_string().contains(&format!("{name}: the file became shorter while it was read")), "{error}");
    }
}

/// The setting of the run holds where the extractor has none of its own.
#[cfg(target_os = "linux")]
#[test]
fn files_are_mapped_if_the_run_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.ndjson");
    std::fs::write(&path, "{\"a\":1}\n".repeat(100_000)).unwrap();
    let is_mapped = |config: PerformanceConfig, extractor: JsonExtractor| {
        let cx = RunContext::new(config.with_batch_size(10usize));
        block_on(async {
            let scan = extractor.scan(&cx, &ScanRequest::all().partitions(1)).await.unwrap();
            let mut stream = scan.read(&cx, &scan.partitions()[0]).unwrap();
            next_batch(&mut stream).await.unwrap().unwrap();
            let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
            maps.contains(path.to_str().unwrap())
        })
    };
    let [off, on] = [false, true].map(|on| PerformanceConfig::default().with_enable_memory_mapping(on));
    let extractor = || JsonExtractor::new(&path);
    assert!(!is_mapped(off.clone(), extractor()));
    assert!(is_mapped(on.clone(), extractor()));
    assert!(is_mapped(off, extractor().with_memory_mapping(true)));
    assert!(!is_mapped(on, extractor().with_memory_mapping(false)));
}

/// Records of some keys, each of which has values of one kind.
fn records() -> impl Strategy<Value = Vec<serde_json::Value>> {
    let record = (
        any::<Option<i64>>(),
        any::<Option<bool>>(),
        any::<Option<String>>(),
        prop::collection::vec(any::<i32>(), 0..3),
    );
    let value = |(a, b, c, d): (Option<i64>, Option<bool>, Option<String>, Vec<i32>)| {
        let mut record = serde_json::json!({ "a \"k\"": a, "b": { "x": b, "y": [{ "z": c }] }, "d": d });
        if d.len() == 2 {
            record.as_object_mut().unwrap().remove("b");
        }
        record
    };
    prop::collection::vec(record.prop_map(value), 1..40)
}

proptest! {
    /// However a file is cut and read, and in whatever layout it is, the rows are the same.
    #[test]
    fn layouts_and_pieces_do_not_change_the_rows(
        records in records(), partitions in 1usize..12, read_size in 512usize..2000, mapped: bool,
    ) {
        let lines: String = records.iter().map(|record| format!("{record}\n")).collect();
        let array = format!("[{}]", records.iter().map(|record| format!("{record:#}")).collect::<Vec<_>>().join(", "));
        let options = || {
            let options = JsonOptions::default().with_times(false).with_memory_mapping(Some(mapped));
            options.with_buffer_size(Some(read_size))
        };
        let whole = read(&lines, "a.ndjson", JsonOptions::default().with_times(false)).unwrap();
        let cut = read_as(&lines, "a.ndjson", options(), ScanRequest::all().partitions(partitions)).unwrap();
        let array = read(&array, "a.json", options()).unwrap();
        prop_assert_eq!(whole.total_count(), records.len() as u64);
        prop_assert_eq!((whole.checksum(), cut.total_count()), (cut.checksum(), whole.total_count()));
        prop_assert_eq!(whole.checksum(), array.checksum());
        let values = whole.batches().iter().flat_map(|batch| batch.column(0).as_primitive::<Int64Type>().iter());
        let expected = records.iter().map(|record| record["a \"k\""].as_i64());
        if whole.schema().field(0).data_type() == &DataType::Int64 {
            prop_assert!(values.eq(expected));
        }
    }
}
