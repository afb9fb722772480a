//! CSV files through the extractor: values, splits and everything that is wrong with files.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

use std::path::{Path, PathBuf};

use etlrs_core::{
    DataType, DatasetSnapshot, Error, ErrorKind, Extractor, OptionSet, Partition, PerformanceConfig, Result,
    RunContext, ScanRequest, Value, next_batch, parse_type, type_name,
};
use etlrs_csv::{Compression, CsvExtractor, CsvOptions, Encoding, Escape, Ragged};
use proptest::prelude::*;

/// Removed with its folder when it is dropped.
struct File {
    _folder: tempfile::TempDir,
    path: PathBuf,
}

fn file(text: impl AsRef<[u8]>) -> File {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("data.csv");
    std::fs::write(&path, text).unwrap();
    File { _folder: folder, path }
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}

fn cx(batch_size: usize, io_buffer_size: usize) -> RunContext {
    RunContext::new(PerformanceConfig { batch_size, io_buffer_size, ..PerformanceConfig::default() })
}

fn read(path: &Path, options: CsvOptions, request: &ScanRequest, cx: &RunContext) -> Result<DatasetSnapshot> {
    block_on(async {
        let scan = CsvExtractor::new(path).with_options(options).scan(cx, request).await?;
        DatasetSnapshot::collect(cx, &*scan).await
    })
}

fn read_text(text: impl AsRef<[u8]>, options: CsvOptions) -> Result<DatasetSnapshot> {
    let file = file(text);
    read(&file.path, options, &ScanRequest::all(), &cx(10_000, 64 << 10))
}

/// Types and rows as text: `id:int64,name:text` and `1,x`, nulls as `∅`.
fn shown(snapshot: &DatasetSnapshot) -> (String, Vec<String>) {
    let fields = snapshot.schema().fields().iter();
    let types: Vec<_> = fields.map(|field| format!("{}:{}", field.name(), type_name(field.data_type()))).collect();
    let value = |value: &Value<'static>| match value {
        Value::Null => "∅".to_owned(),
        Value::Text(text) => text.to_string(),
        Value::Int(value) => value.to_string(),
        Value::Float(value) => value.to_string(),
        Value::Boolean(value) => value.to_string(),
        other => format!("{other:?}"),
    };
    let rows = snapshot.records().map(|record| {
        let values: Vec<_> = record.to_owned().into_values().iter().map(value).collect();
        values.join(",")
    });
    (types.join(","), rows.collect())
}

fn refused(text: impl AsRef<[u8]>, options: CsvOptions) -> Error {
    read_text(text, options).unwrap_err()
}

#[test]
fn values_and_types() {
    let options = CsvOptions::default;
    for (text, options, types, rows) in [
        ("a,b\n1,x\n2,\n", options(), "a:int64,b:text", vec!["1,x", "2,∅"]),
        ("\u{feff}a;b\r\n1;\"x;y\"\r\n", options().with_delimiter(b';'), "a:int64,b:text", vec!["1,x;y"]),
        ("a,b\n\"1\",\"\"\n", options(), "a:int64,b:text", vec!["1,"]),
        ("a,b\n\"\",\"say \"\"hi\"\"\"\n", options(), "a:text,b:text", vec![",say \"hi\""]),
        ("1,2\n3,4", options().with_header(false), "column_1:int64,column_2:int64", vec!["1,2", "3,4"]),
        ("a,b\n1,NA\n2,3\n", options().with_null_values(["NA"]), "a:int64,b:int64", vec!["1,∅", "2,3"]),
        ("a\n-1\n5\n", options().with_null_values(["-1"]), "a:int64", vec!["∅", "5"]),
        ("a\n01\n", options(), "a:text", vec!["01"]),
        ("a\n01\n", options().with_types([("a", DataType::Int8)]), "a:int8", vec!["1"]),
        ("a,b\n1,2.5\n", options().with_infer(false), "a:text,b:text", vec!["1,2.5"]),
        ("a,a,\n1,2,3\n", options(), "a:int64,a_2:int64,column_3:int64", vec!["1,2,3"]),
        ("a,b\n\n1,2\n\r\n\n3,4\n\n", options(), "a:int64,b:int64", vec!["1,2", "3,4"]),
        ("a\n\n1\n", options(), "a:int64", vec!["∅", "1"]),
        ("a,b\n", options(), "a:text,b:text", vec![]),
        ("a", options(), "a:text", vec![]),
        ("a\nx\"y\n", options().with_quote(etlrs_csv::Quote(None)), "a:text", vec!["x\"y"]),
        ("a\n'it''s'\n", options().with_quote(b'\''), "a:text", vec!["it's"]),
        ("\"a\r\nb\",c\rd\n1,2\n", options(), "a\r\nb:int64,c\rd:int64", vec!["1,2"]),
        ("größe,名\n1,値\n", options(), "größe:int64,名:text", vec!["1,値"]),
    ] {
        let snapshot = read_text(text, options).unwrap_or_else(|error| panic!("{text:?}: {error}"));
        let (found_types, found_rows) = shown(&snapshot);
        assert_eq!(
            (found_types.as_str(), found_rows),
            (types, rows.iter().map(|&row| row.to_owned()).collect()),
            "{text:?}"
        );
    }
}

#[test]
fn columns_are_projected_in_the_order_asked_for() {
    let file = file("a,b,c\n1,2,3\n");
    let request = ScanRequest::all().columns(["c", "a"]);
    let snapshot = read(&file.path, CsvOptions::default(), &request, &cx(10, 64 << 10)).unwrap();
    assert_eq!(shown(&snapshot), ("c:int64,a:int64".to_owned(), vec!["3,1".to_owned()]));
    let request = ScanRequest::all().columns(["bb"]);
    let error = read(&file.path, CsvOptions::default(), &request, &cx(10, 64 << 10)).unwrap_err();
    assert!(error.to_string().contains("did you mean b?"), "{error}");
}

/// Each wrong file, and what has to be in the sentence that refuses it.
#[test]
fn what_is_wrong_is_said_with_its_place() {
    let sampled = || CsvOptions::default().with_sample(2);
    for (text, needles) in [
        (&b""[..], &["data.csv: the file is empty"][..]),
        (b"\xef\xbb\xbf", &["the file is empty"]),
        (b"a,b\n1,2\n3\n", &["record 2, line 3, byte 8: 1 field where the header has 2"]),
        (b"a,b\n1,2\n3,4,5\n", &["record 2, line 3, byte 8: 3 fields where the header has 2"]),
        (
            b"a\n1\n2\n3\nx\n",
            &["record 4, line 5, byte 8, column \"a\"", "no int64, the type of the first 2 records", "types=a:text"],
        ),
        (
            b"a,b\n1,\"x\ny\"\n2,z\nNA,z\n",
            &["record 3, line 5, byte 16, column \"a\": \"NA\" is no int64", "null_values=NA"],
        ),
        (b"a\n1\n2\n007\n", &["record 3, line 4, byte 6, column \"a\""]),
        (b"a\nx\ny\nz\xff\n", &["record 3, line 4, byte 7, column \"a\": the text is not UTF-8"]),
        (b"a,b\nx,\"y\"z\n", &["record 1, line 2, byte 9: the closing quote", "quote=none"]),
        (b"a,b\n1,2\nx,\"y\n\n\n", &["record 2, line 3, byte 10: a quoted field is not closed"]),
        (b"a\rb\rc", &["carriage return"]),
        (b"\x1f\x8b\x08\x00", &["the gzip data ends in the middle"]),
        (b"PK\x03\x04....", &["a zip archive"]),
        (b"a\x00,\x00b\x00\n\x00", &["seems to be in UTF-16", "encoding=utf-16le"]),
        (b"a,b\n1,2\n3\n", &["ragged=pad"]),
        (b"PAR1....", &["a Parquet file"]),
        (b"a\xff,b\n", &["byte 1: the file is not UTF-8"]),
    ] {
        let error = refused(text, sampled()).to_string();
        for needle in needles {
            assert!(error.contains(needle), "{:?}: {error}", String::from_utf8_lossy(text));
        }
        let value = error.rsplit("data.csv").next().unwrap_or_default().contains("007");
        assert!(!value, "a value is shown: {error}");
    }
    let error = read(Path::new("/no/such.csv"), sampled(), &ScanRequest::all(), &cx(1, 1)).unwrap_err();
    assert_eq!(error.to_string(), "cannot open /no/such.csv: no such file or directory");
    for (delimiter, quote) in [(0xc3, b'"'), (b'\'', b'\''), (b',', b'\n')] {
        let error = refused("a\n1\n", CsvOptions::default().with_delimiter(delimiter).with_quote(quote));
        assert!(error.to_string().contains("must be different ASCII characters"), "{error}");
    }
    let error = refused("a\n1\n", CsvOptions::default().with_types([("b", DataType::Utf8)]));
    assert!(error.to_string().contains("there is no column \"b\""), "{error}");
}

#[test]
fn the_place_is_right_in_any_partition() {
    let mut text = String::from("id,note\n");
    for id in 0..5000 {
        text.push_str(&format!("{id},\"two\nlines\"\n"));
    }
    text.push_str("oops,x\n");
    let file = file(&text);
    for partitions in [1, 7] {
        let request = ScanRequest::all().partitions(partitions);
        let error = read(&file.path, CsvOptions::default().with_sample(100), &request, &cx(64, 1024)).unwrap_err();
        let position = error.position();
        assert_eq!((position.record, position.line), (Some(5001), Some(10_002)), "{error}");
    }
}

#[test]
fn a_file_that_changes_is_noticed() {
    let file = file("a\n1\n2\n");
    block_on(async {
        let cx = cx(10, 64 << 10);
        let scan = CsvExtractor::new(&file.path).scan(&cx, &ScanRequest::all()).await.unwrap();
        let before = scan.fingerprint().await.unwrap();
        assert_eq!(scan.fingerprint().await.unwrap(), before);
        std::fs::write(&file.path, "a\n1\n").unwrap();
        let error = scan.fingerprint().await.unwrap_err();
        assert_eq!(error.kind(), etlrs_core::ErrorKind::SourceChanged);
        let error = DatasetSnapshot::collect(&cx, &*scan).await.unwrap_err();
        assert_eq!(error.kind(), etlrs_core::ErrorKind::SourceChanged);
    });
}

#[test]
fn a_file_that_changes_before_the_first_question_is_noticed() {
    let file = file("a\n1\n2\n");
    block_on(async {
        let cx = cx(10, 64 << 10);
        let scan = CsvExtractor::new(&file.path).scan(&cx, &ScanRequest::all()).await.unwrap();
        std::fs::write(&file.path, "a\n1\n2\n3\n").unwrap();
        let error = scan.fingerprint().await.unwrap_err();
        assert_eq!(error.kind(), etlrs_core::ErrorKind::SourceChanged);
    });
}

#[test]
fn a_record_longer_than_the_budget_is_refused() {
    let file = file(format!("a\n\"{}\"\n", "x".repeat(3 << 20)));
    let config = PerformanceConfig { max_memory_usage: 1 << 20, ..PerformanceConfig::default() };
    let error = read(&file.path, CsvOptions::default(), &ScanRequest::all(), &RunContext::new(config)).unwrap_err();
    assert_eq!(error.kind(), etlrs_core::ErrorKind::MemoryExceeded, "{error}");
}

#[test]
fn the_window_of_a_compressed_file_is_taken_from_the_budget() {
    let text = b"n\n7\n";
    // A frame of one raw block, whose window is 256 MiB.
    let mut frame = vec![0x28, 0xb5, 0x2f, 0xfd, 0, 18 << 3, 1 | 4 << 3, 0, 0];
    frame.extend_from_slice(text);
    let large = file(&frame);
    let cx = |budget| RunContext::new(PerformanceConfig { max_memory_usage: budget, ..PerformanceConfig::default() });
    let scan = |budget| block_on(CsvExtractor::new(&large.path).scan(&cx(budget), &ScanRequest::all()));
    let needed = scan(1 << 30).unwrap().min_memory();
    assert!((256 << 20..260 << 20).contains(&needed), "{needed}");
    let error = scan(64 << 20).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::MemoryExceeded);
    assert!(error.to_string().contains("memory budget of 64MB; a budget of 1.3GB would do"), "{error}");
    let rows = read(&large.path, CsvOptions::default(), &ScanRequest::all(), &cx(1 << 30)).unwrap();
    assert_eq!(shown(&rows).1, ["7"]);

    // What comes behind a small window is not counted, so it is refused.
    let small = packed(text, Compression::Zstd(3));
    let error = refused([small, frame].concat(), CsvOptions::default());
    assert_eq!(error.kind(), ErrorKind::MemoryExceeded, "{error}");
}

/// Fields that need quotes, have none, or are of several bytes a character.
fn field() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-z0-9]{0,6}",
        "[a-z][a\"]{0,4}",
        "[a,\"\n\r é名]{0,8}".prop_map(|text| format!("\"{}\"", text.replace('"', "\"\""))),
        Just("\"\"".to_owned()),
    ]
}

fn table() -> impl Strategy<Value = String> {
    let table = (1usize..4).prop_flat_map(|width| prop::collection::vec(prop::collection::vec(field(), width), 1..40));
    (table, prop::bool::ANY, prop::bool::ANY).prop_map(|(rows, crlf, end)| {
        let end_of_line = if crlf { "\r\n" } else { "\n" };
        let header: Vec<_> = (0..rows[0].len()).map(|column| format!("c{column}")).collect();
        let lines: Vec<_> = std::iter::once(header).chain(rows).map(|row| row.join(",")).collect();
        lines.join(end_of_line) + if end { end_of_line } else { "" }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn any_split_equals_the_whole(
        text in table(), partitions in 1usize..40, batch in 1usize..50, buffer in 1usize..700,
    ) {
        let file = file(&text);
        let text_only = || CsvOptions::default().with_infer(false);
        let whole = read(&file.path, text_only(), &ScanRequest::all().partitions(1), &cx(10_000, 1 << 20)).unwrap();
        let request = ScanRequest::all().partitions(partitions);
        let split = read(&file.path, text_only(), &request, &cx(batch, buffer)).unwrap();
        prop_assert_eq!(shown(&split), shown(&whole));
        prop_assert_eq!(split.checksum(), whole.checksum());
        let mapped = read(&file.path, text_only().with_memory_mapping(Some(true)), &request, &cx(batch, buffer)).unwrap();
        prop_assert_eq!(shown(&mapped), shown(&whole));

        // Guessed cuts are right, or the first reader to meet a wrong one says so.
        match read(&file.path, text_only(), &request.clone().guess(true), &cx(batch, buffer)) {
            Ok(guessed) => prop_assert_eq!(shown(&guessed), shown(&whole)),
            Err(error) => prop_assert_eq!(error.kind(), ErrorKind::SplitRefuted),
        }

        // The pieces recorded for a resume are the same pieces.
        let scan: Result<_> = block_on(async {
            let cx = cx(batch, buffer);
            let scan = CsvExtractor::new(&file.path).with_options(text_only()).scan(&cx, &request).await?;
            let mut recorded = ScanRequest::all();
            recorded.recorded = Some(scan.partitions().to_vec());
            let again = CsvExtractor::new(&file.path).with_options(text_only()).scan(&cx, &recorded).await?;
            Ok((scan.partitions().to_vec(), DatasetSnapshot::collect(&cx, &*again).await?))
        });
        let (pieces, again) = scan.unwrap();
        prop_assert_eq!(again.checksum(), whole.checksum());
        prop_assert!(pieces.iter().enumerate().all(|(index, piece): (usize, &Partition)| piece.id.index() == index));
    }

    #[test]
    fn no_bytes_panic(
        bytes in prop::collection::vec(prop::sample::select(b"a1,\"\n\r\xff\xc3\xa9.-".to_vec()), 0..200),
        partitions in 1usize..5,
    ) {
        let file = file(&bytes);
        let _ = read(&file.path, CsvOptions::default(), &ScanRequest::all().partitions(partitions), &cx(7, 16));
    }
}

fn utf16(text: &str) -> Vec<u8> {
    "\u{feff}".encode_utf16().chain(text.encode_utf16()).flat_map(u16::to_le_bytes).collect()
}

fn packed(text: &[u8], compression: Compression) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut compressor = compression.compressor().unwrap();
    // Two members, as joined files have them.
    let (start, rest) = text.split_at(text.len() / 2);
    compressor.append_member(start, &mut bytes).unwrap();
    compressor.append_member(rest, &mut bytes).unwrap();
    bytes
}

const COMPRESSIONS: [Compression; 4] =
    [Compression::Gzip(6), Compression::Zstd(3), Compression::Bzip2(9), Compression::Xz(1)];

#[test]
fn what_is_compressed_or_in_another_encoding_is_read_as_its_text() {
    let text = "größe;名\n1;é\n2;値\n";
    let expected = ("größe:int64,名:text".to_owned(), vec!["1,é".to_owned(), "2,値".to_owned()]);
    for compression in COMPRESSIONS {
        for bytes in [packed(text.as_bytes(), compression), packed(&utf16(text), compression)] {
            let read = read_text(bytes, CsvOptions::default()).unwrap();
            assert_eq!(shown(&read), expected, "{compression:?}");
        }
    }
    assert_eq!(shown(&read_text(utf16(text), CsvOptions::default()).unwrap()), expected);
    let western = CsvOptions::default().with_encoding(Encoding::Windows1252);
    let read = read_text(b"gr\xf6\xdfe,b\n1,\x80\n", western).unwrap();
    assert_eq!(shown(&read), ("größe:int64,b:text".to_owned(), vec!["1,€".to_owned()]));
}

/// The same place whether a file is read at places or front to back.
#[test]
fn places_are_right_in_streams_too() {
    let mut text = String::from("id,note\n");
    for id in 0..3000 {
        text.push_str(&format!("{id},\"two\nlines\"\n\n"));
    }
    for wrong in ["oops,x\n", "1\n", "1,\"x\"y\n", "1,\"x"] {
        let text = format!("{text}{wrong}");
        let options = || CsvOptions::default().with_sample(100);
        let plain = refused(&text, options());
        assert_eq!((plain.position().record, plain.position().line), (Some(3001), Some(9002)), "{plain}");
        let reader = std::io::Cursor::new(text.clone().into_bytes());
        let piped = CsvExtractor::from_reader("pipe", reader).with_options(options());
        let piped = block_on(async {
            let cx = cx(64, 1024);
            let scan = piped.scan(&cx, &ScanRequest::all()).await?;
            DatasetSnapshot::collect(&cx, &*scan).await
        });
        for error in [refused(packed(text.as_bytes(), Compression::Gzip(1)), options()), piped.unwrap_err()] {
            let (mut found, mut expected) = (error.position().clone(), plain.position().clone());
            (found.source, expected.source) = (None, None);
            assert_eq!(found, expected, "{error} instead of {plain}");
            assert_eq!(error.message(), plain.message());
        }
    }
}

#[test]
fn damage_is_found_behind_the_rows_before_it() {
    let text: String = std::iter::once("a,b\n".to_owned()).chain((0..50_000).map(|n| format!("{n},x\n"))).collect();
    for compression in COMPRESSIONS {
        let mut bytes = packed(text.as_bytes(), compression);
        bytes.truncate(bytes.len() - 20);
        let error = refused(bytes, CsvOptions::default());
        assert_eq!(error.kind(), ErrorKind::InvalidData, "{error}");
        assert!(error.position().line.is_some_and(|line| line > 20_000), "{error}");
    }
    let mut bytes = utf16("a,b\n1,x\n2,y\n");
    bytes.extend([0, 0xdc, b'z', 0]);
    let error = refused(bytes, CsvOptions::default());
    assert_eq!((error.position().record, error.position().line), (Some(3), Some(4)), "{error}");
}

#[test]
fn what_can_be_read_once_is_looked_at_as_often_as_need_be() {
    let extractor = CsvExtractor::from_reader("pipe", &b"a;b\n1;2\n3;4\n"[..]);
    block_on(async {
        let cx = cx(10, 64 << 10);
        let scan = extractor.scan(&cx, &ScanRequest::all()).await.unwrap();
        let again = extractor.scan(&cx, &ScanRequest::all()).await.unwrap();
        assert_eq!(scan.fingerprint().await.unwrap(), again.fingerprint().await.unwrap());
        let rows = DatasetSnapshot::collect(&cx, &*again).await.unwrap();
        assert_eq!(shown(&rows).1, ["1,2", "3,4"]);
        let error = DatasetSnapshot::collect(&cx, &*scan).await.unwrap_err();
        assert!(error.to_string().contains("pipe can be read only once"), "{error}");
    });
}

#[test]
fn what_is_kept_of_what_can_be_read_once_is_a_small_part_of_the_budget() {
    let budget = 64 << 20;
    let config = PerformanceConfig { max_memory_usage: budget, ..PerformanceConfig::default() };
    let cx = RunContext::new(config);
    let line = "x".repeat(1000);
    let text: String =
        std::iter::once("n,text\n".to_owned()).chain((0..20_000).map(|n| format!("{n},{line}\n"))).collect();
    let whole = read(&file(&text).path, CsvOptions::default(), &ScanRequest::all(), &cx).unwrap();
    let once = CsvExtractor::from_reader("pipe", std::io::Cursor::new(text.into_bytes()));
    block_on(async {
        let scan = once.scan(&cx, &ScanRequest::all()).await.unwrap();
        let least = scan.min_memory();
        assert!((budget / 32..budget / 32 + (512 << 10)).contains(&least), "{least}");
        let rows = DatasetSnapshot::collect(&cx, &*scan).await.unwrap();
        assert_eq!((rows.schema(), rows.checksum()), (whole.schema(), whole.checksum()));
    });
    // A record that is longer than what may be kept is looked at all the same.
    let text = format!("text,n\n{},5\n", line.repeat(300));
    let config = PerformanceConfig { max_memory_usage: 4 << 20, ..PerformanceConfig::default() };
    let once = CsvExtractor::from_reader("pipe", std::io::Cursor::new(text.into_bytes()));
    let scan = block_on(once.scan(&RunContext::new(config), &ScanRequest::all())).unwrap();
    assert_eq!(type_name(scan.schema().field(1).data_type()), "int64");
}

#[test]
fn a_line_with_a_hash_that_is_a_record_is_not_lost() {
    for (text, header, rows) in [
        ("#1,a\n#2,b\n3,c\n", false, 3),
        ("#tag,n\n#go,1\nrust,2\nc,3\n", false, 4),
        ("#id\n1\n2\n3\n", false, 4),
        ("# made by me\n1\n2\n3\n", false, 3),
        ("#id,pos\n1,2\n3,4\n", true, 2),
    ] {
        let cx = RunContext::new(PerformanceConfig::default());
        let options = CsvOptions::default().with_header(header);
        let found = read(&file(text).path, options, &ScanRequest::all(), &cx).unwrap();
        assert_eq!(found.records().count(), rows, "{text}");
    }
    // A remark behind the header is no record, and is told rather than the record behind it being taken for the header.
    let cx = RunContext::new(PerformanceConfig::default());
    assert!(read(&file("#id,name\n#c\n1,a\n").path, CsvOptions::default(), &ScanRequest::all(), &cx).is_err());
}

#[test]
fn a_named_pipe_is_read_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("pipe.csv");
    assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
    let writer = std::thread::spawn({
        let path = path.clone();
        move || std::fs::write(path, "a,b\n1,2\n").unwrap()
    });
    let rows = read(&path, CsvOptions::default(), &ScanRequest::all(), &cx(10, 64 << 10)).unwrap();
    writer.join().unwrap();
    assert_eq!(shown(&rows).1, ["1,2"]);
}

#[test]
fn ragged_records_are_padded_only_if_nothing_is_lost() {
    let pad = || CsvOptions::default().with_ragged(Ragged::Pad).with_delimiter(b',').with_header(true);
    let read = read_text("a,b,c\n1\n2,x,y,,\n3,\"\"\n", pad()).unwrap();
    assert_eq!(shown(&read).1, ["1,∅,∅", "2,x,y", "3,,∅"]);
    let error = refused("a,b\n1\n2,x,y\n", pad());
    assert!(error.to_string().contains("record 2, line 3, byte 6: 3 fields where the header has 2"), "{error}");
}

#[test]
fn escapes_comments_and_lines_before_the_header() {
    let given = CsvOptions::default().with_escape(b'\\').with_comment(b'#').with_skip_lines(1);
    let read = read_text("title, \"x\n# one\na,b\n1,\"x\\\"y\"\n# \"two\n2,x\\,y\n", given).unwrap();
    assert_eq!(shown(&read).1, ["1,x\"y", "2,x,y"]);
    let found = read_text("Sales 2024\n\na;b;c\n1;\"x\\\"y\";2\n2;\"\\\";\";3\n", CsvOptions::default()).unwrap();
    assert_eq!(shown(&found), ("a:int64,b:text,c:int64".to_owned(), vec!["1,x\"y,2".into(), "2,\";,3".into()]));
    let error = refused("a,b\n", CsvOptions::default().with_skip_lines(3));
    assert!(error.to_string().contains("nothing behind the first 3 lines"), "{error}");
    let error = refused("x\ny\na,b\n1,2\n3\n", CsvOptions::default().with_skip_lines(2));
    assert_eq!((error.position().record, error.position().line), (Some(2), Some(5)), "{error}");
}

/// With all kinds of what may stand before it, and line numbers that count it.
#[test]
fn a_blank_line_before_the_header_is_passed_over() {
    let options = CsvOptions::default;
    let two = ("a:int64,b:int64", &["1,2"][..]);
    for (text, options, (types, rows)) in [
        ("# x\n\na,b\n1,2\n", options().with_comment(b'#'), two),
        ("\n# x\n\r\na,b\n1,2\n", options().with_comment(b'#'), two),
        ("Title\n\na,b\n1,2\n", options().with_skip_lines(1), two),
        ("\na,b\n1,2\n", options().with_skip_lines(0), two),
        ("\nid\n1\n2\n", options(), ("id:int64", &["1", "2"])),
        ("\n\nid\n1\n", options().with_header(true), ("id:int64", &["1"])),
        ("# x\n\n1,2\n", options().with_comment(b'#').with_header(false), ("column_1:int64,column_2:int64", &["1,2"])),
        // A null of the only column.
        ("\n1\n2\n", options(), ("column_1:int64", &["∅", "1", "2"])),
        ("\n1\n2\n", options().with_header(false), ("column_1:int64", &["∅", "1", "2"])),
        // A name that is quoted is one, though it is empty.
        ("\"\"\n1\n2\n", options().with_header(true), ("column_1:int64", &["1", "2"])),
        ("\"\"\nid\n1\n", options(), ("column_1:text", &["id", "1"])),
    ] {
        let read = read_text(text, options).unwrap_or_else(|error| panic!("{text:?}: {error}"));
        let rows = rows.iter().map(|&row| row.to_owned()).collect();
        assert_eq!(shown(&read), (types.to_owned(), rows), "{text:?}");
    }
    for (text, options) in [
        ("# x\n\n\na\n1\nx\n", options().with_comment(b'#').with_sample(1)),
        ("Title\n\n\na\n1\nx\n", options().with_skip_lines(1).with_sample(1)),
    ] {
        for bytes in [text.as_bytes().to_vec(), packed(text.as_bytes(), Compression::Gzip(1))] {
            let error = refused(bytes, options.clone());
            let position = error.position();
            let byte = text.len() as u64 - 2;
            assert_eq!((position.record, position.line, position.byte), (Some(2), Some(6), Some(byte)), "{error}");
        }
    }
    for text in ["\n", "\n\r\n", "# x\n\n"] {
        let error = refused(text, options().with_comment(b'#'));
        assert!(error.to_string().contains("nothing but comments and blank lines"), "{error}");
    }
}

/// Each option by itself, and all of them.
#[test]
fn what_is_found_is_the_same_if_it_is_given() {
    for text in [
        "\na,b\n1,2\n",
        "\nid\n1\n2\n",
        "\n1\n2\n",
        "Title\n\na,b\n1,2\n3,4\n",
        "#id,pos\n1,2\n3,4\n",
        "# made, by me\n1,2\n3,4\n",
        "# ann,1\nbob,2\neve,3\n",
        "#name\nann\nbob\n",
        "# x\n\na;b\n1;2\n",
        "\"\"\n1\n2\n",
        // Taken apart at semicolons there are more types, and a line too many.
        &format!("a,b\n{}", "x,1;2;3\n".repeat(60)),
    ] {
        let file = file(text);
        let look = |options: CsvOptions| {
            let found = read(&file.path, options.clone(), &ScanRequest::all(), &cx(10, 64 << 10));
            let found = found.unwrap_or_else(|error| panic!("{text:?}: {error}"));
            let extractor = CsvExtractor::new(&file.path).with_options(options);
            let scan = block_on(extractor.scan(&cx(10, 64 << 10), &ScanRequest::all())).unwrap();
            let details: Vec<_> =
                scan.details().iter().map(|found| (found.item.clone(), found.value.clone())).collect();
            (shown(&found), details)
        };
        let found = look(CsvOptions::default());
        let pairs: Vec<_> = found.1.iter().map(|(item, value)| (item.as_str(), value.as_str())).collect();
        for given in pairs.chunks(1).chain([pairs.as_slice()]) {
            let options = CsvOptions::from_pairs(given.iter().copied()).unwrap();
            assert_eq!(look(options), found, "{text:?} with {given:?}");
        }
    }
}

fn notes(extractor: &CsvExtractor) -> Vec<String> {
    let scan = block_on(extractor.scan(&cx(10, 64 << 10), &ScanRequest::all())).unwrap();
    scan.notes().to_vec()
}

#[test]
fn several_files_are_one_table() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    std::fs::write(path("2024-01.csv"), "id,total,day\n1,2,2024-01-01\n").unwrap();
    std::fs::write(path("2024-02.csv"), packed(b"total;id;note\n2.5;3;x\n", Compression::Zstd(3))).unwrap();
    std::fs::write(path("2024-03.csv"), "").unwrap();
    std::fs::write(path("other.csv"), "day,id\n2024-01-01T10:00:00,4\n").unwrap();
    std::fs::write(path("_x.csv"), "nothing").unwrap();
    let columns = "id:int64,total:float64,day:date,note:text";
    let read = |path: &Path| read(path, CsvOptions::default(), &ScanRequest::all(), &cx(10, 64 << 10));
    let rows = read(&path("2024-*.csv")).unwrap();
    let day = "Date32(19723)";
    let (types, shown_rows) = shown(&rows);
    assert_eq!(types, columns);
    assert_eq!(shown_rows.len(), 2);
    assert!(shown_rows[0].starts_with("1,2,") && shown_rows[0].ends_with(",∅"), "{shown_rows:?} {day}");
    assert_eq!(shown_rows[1], "3,2.5,∅,x");
    let (types, rows) = shown(&read(folder.path()).unwrap());
    assert_eq!(types, "id:int64,total:float64,day:text,note:text");
    assert_eq!(rows, ["1,2,2024-01-01,∅", "3,2.5,∅,x", "4,∅,2024-01-01T10:00:00,∅"]);
    let notes = notes(&CsvExtractor::new(folder.path())).join("\n");
    for needle in [
        "2024-02.csv: delimiter is ;",
        "2024-03.csv is empty",
        "2024-02.csv has no column \"day\"",
        "column \"day\" is read as text, for it is date in",
        "column \"total\" is read as float64, for it is int64 in",
    ] {
        assert!(notes.contains(needle), "{needle}: {notes}");
    }
    let error = read(&path("2023-*.csv")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.to_string().contains("no file matches"), "{error}");

    let extractor = CsvExtractor::files([path("other.csv"), path("2024-01.csv")]);
    block_on(async {
        let cx = cx(10, 64 << 10);
        let scan = extractor.scan(&cx, &ScanRequest::all().columns(["total", "id"])).await.unwrap();
        assert_eq!(shown(&DatasetSnapshot::collect(&cx, &*scan).await.unwrap()).1, ["∅,4", "2,1"]);
        let mut request = ScanRequest::all();
        request.recorded = Some(scan.partitions().to_vec());
        let again = extractor.scan(&cx, &request).await.unwrap();
        assert_eq!(DatasetSnapshot::collect(&cx, &*again).await.unwrap().records().count(), 2);
    });
    let pattern = CsvExtractor::new(path("2024-*.csv"));
    block_on(async {
        let scan = pattern.scan(&cx(10, 64 << 10), &ScanRequest::all()).await.unwrap();
        scan.fingerprint().await.unwrap();
        std::fs::write(path("2024-04.csv"), "id\n5\n").unwrap();
        assert_eq!(scan.fingerprint().await.unwrap_err().kind(), ErrorKind::SourceChanged);
    });
}

#[test]
fn decimals_full_samples_and_readers() {
    use etlrs_csv::Sample;
    let late: String = std::iter::once("a\n".to_owned()).chain((0..30).map(|n| format!("{n}\n"))).collect();
    let late = late + "x\n";
    assert!(refused(&late, CsvOptions::default().with_sample(5)).to_string().contains("the first 5 records"));
    let read = read_text(&late, CsvOptions::default().with_sample(Sample::Full)).unwrap();
    assert_eq!(shown(&read).0, "a:text");
    let read = read_text("a\n1.50\n20\n", CsvOptions::default().with_decimals(true)).unwrap();
    assert_eq!(shown(&read).0, "a:decimal(18,2)");
    let sampled = CsvOptions::default().with_decimals(true).with_sample(1);
    for wrong in ["a\n1.50\n007.5\n", "a\n1.50\n1.555\n"] {
        assert!(refused(wrong, sampled.clone()).to_string().contains("is no decimal(18,2)"));
    }
    let file = file("a\n1\n2\n3\n4\n5\n6\n");
    let extractor = CsvExtractor::new(&file.path).with_parallel_readers(1).with_buffer_size(512);
    let scan = block_on(extractor.scan(&cx(10, 64 << 10), &ScanRequest::all().partitions(2))).unwrap();
    assert_eq!((scan.max_readers(), scan.partitions().len()), (1, 2));
    let once =
        CsvExtractor::from_reader("pipe", &b"a\n1\n"[..]).with_options(CsvOptions::default().with_sample(Sample::Full));
    let error = block_on(once.scan(&cx(10, 64 << 10), &ScanRequest::all())).err().unwrap();
    assert!(error.to_string().contains("can be read only once"), "{error}");
    let file = self::file("a;b\n1,5;x\n2;y\n");
    let notes = notes(&CsvExtractor::new(&file.path)).join("\n");
    assert!(notes.contains("text because of commas in place of decimal points: a (float64)"), "{notes}");
}

#[test]
fn dates_may_be_spelled_otherwise() {
    let options = CsvOptions::default()
        .with_delimiter(b',')
        .with_date_formats(["%d.%m.%Y", "%m/%d/%Y"])
        .with_timestamp_formats(["%m/%d/%Y %H:%M"]);
    let text =
        "a,b,c,d,e\n31.12.2024,12/31/2024,1/2/2024 3:04,2024-12-31,31.12.2024\n1.1.2025,,,2025-01-01,2025-01-01\n";
    let read = read_text(text, options.clone()).unwrap();
    let (types, rows) = shown(&read);
    assert_eq!(types, "a:date,b:date,c:timestamp,d:date,e:text");
    let iso =
        "a,b,c,d,e\n2024-12-31,2024-12-31,2024-01-02 03:04,2024-12-31,31.12.2024\n2025-01-01,,,2025-01-01,2025-01-01\n";
    assert_eq!(rows, shown(&read_text(iso, CsvOptions::default()).unwrap()).1);
    let late = refused("a\n31.12.2024\n12/31/2024\n", options.with_sample(1));
    assert!(late.to_string().contains("record 2, line 3") && late.to_string().contains("is no date"), "{late}");
}

/// Whatever else is found out about the column: the format is that of the type which it is given.
#[test]
fn a_date_in_a_given_format_is_one_in_a_column_of_dates() {
    let options = CsvOptions::default;
    let date = || options().with_types([("day", DataType::Date32)]);
    let timestamp = || options().with_types([("day", parse_type("timestamp").unwrap())]);
    let rows_of = |text: &str| shown(&read_text(text, options()).unwrap()).1;
    let (day, midnight) = (rows_of("day\n2024-01-31\n"), rows_of("day\n2024-01-31 00:00\n"));
    let null = |rows: &Vec<String>| [vec!["∅".to_owned()], rows.clone()].concat();
    for (text, options, expected) in [
        ("day\n20240131\n", options().with_date_formats(["%Y%m%d"]), day.clone()),
        ("day\n20240131\n", date().with_date_formats(["%Y%m%d"]), day.clone()),
        ("day\n31.01.2024\n", date().with_date_formats(["%d.%m.%Y"]).with_infer(false), day.clone()),
        ("day\n2024-01-31\n", date().with_date_formats(["%d.%m.%Y"]).with_infer(false), day.clone()),
        ("day\n01/31/2024\n", date().with_date_formats(["%d.%m.%Y", "%m/%d/%Y"]).with_infer(false), day.clone()),
        ("day,\n,\n31.01.2024,\n", date().with_date_formats(["%d.%m.%Y"]).with_sample(1), null(&day)),
        ("day\n31.01.2024\n", date().with_timestamp_formats(["%d.%m.%Y %H:%M", "%d.%m.%Y"]), day.clone()),
        ("day\n31.01.2024\n", timestamp().with_date_formats(["%d.%m.%Y"]), midnight.clone()),
        ("day\n31.01.2024 0:00\n", timestamp().with_timestamp_formats(["%d.%m.%Y %H:%M"]), midnight.clone()),
    ] {
        let read = read_text(text, options.with_header(true).with_delimiter(b',')).unwrap();
        let rows: Vec<_> = shown(&read).1.iter().map(|row| row.trim_end_matches(",∅").to_owned()).collect();
        assert_eq!(rows, expected, "{text:?}");
    }
    for value in ["31.12.2024 23:59", "31.12.2024 99:99"] {
        let error = refused(format!("day\n{value}\n"), date().with_timestamp_formats(["%d.%m.%Y %H:%M"])).to_string();
        assert!(error.contains("column \"day\": the value is no date"), "{error}");
    }
    let error = refused("day\n31.12.2024\n", options().with_date_formats(["%d.%m.%Y %H:%M"]));
    assert_eq!(error.kind(), ErrorKind::InvalidConfig);
    assert!(error.to_string().contains("\"%d.%m.%Y %H:%M\" is no format of dates, for it has a time"), "{error}");
}

fn wild_field() -> impl Strategy<Value = String> {
    prop_oneof!["[a-z0-9]{0,6}", "[a-z](\\\\[,\"\n\\\\]|\\\\N|[ab]){0,4}", "\"([a, \n]|\"\"|\\\\[\"\\\\]|é){0,6}\"",]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// With escapes, comments and line ends of both kinds; and the same in UTF-16, which is one partition.
    #[test]
    fn any_split_of_a_wild_file_equals_the_whole(
        rows in prop::collection::vec((wild_field(), wild_field(), "(#[a\",]{0,5}\n)?"), 1..30),
        partitions in 1usize..30, batch in 1usize..50, buffer in 1usize..700, crlf in any::<bool>(),
    ) {
        let end = if crlf { "\r\n" } else { "\n" };
        let rows = rows.iter().map(|(a, b, comment)| format!("{a},{b}{end}{comment}"));
        let text: String = std::iter::once(format!("c0,c1{end}")).chain(rows).collect();
        let options = || {
            CsvOptions::default()
                .with_infer(false)
                .with_delimiter(b',')
                .with_quote(b'"')
                .with_header(true)
                .with_escape(Escape(Some(b'\\')))
                .with_comment(b'#')
        };
        let file = file(&text);
        let whole = read(&file.path, options(), &ScanRequest::all().partitions(1), &cx(10_000, 1 << 20)).unwrap();
        let request = ScanRequest::all().partitions(partitions).guess(true);
        let split = read(&file.path, options(), &request, &cx(batch, buffer)).unwrap();
        prop_assert_eq!(shown(&split), shown(&whole));
        std::fs::write(&file.path, utf16(&text)).unwrap();
        let wide = read(&file.path, options(), &request, &cx(batch, buffer)).unwrap();
        prop_assert_eq!(shown(&wide), shown(&whole));
    }
}

#[test]
fn a_file_that_becomes_shorter_while_it_is_read_is_an_error() {
    for mapped in [false, true] {
        let lines: String = (0..300_000).map(|n| format!("{n},some text to fill the line\n")).collect();
        let file = file(format!("n,text\n{lines}"));
        let cx = cx(1000, 64 << 10);
        let error = block_on(async {
            let extractor = CsvExtractor::new(&file.path).with_memory_mapping(mapped);
            let scan = extractor.scan(&cx, &ScanRequest::all().partitions(1)).await.unwrap();
            let mut stream = scan.read(&cx, &scan.partitions()[0]).unwrap();
            assert_eq!(next_batch(&mut stream).await.unwrap().unwrap().num_rows(), 1000);
            std::fs::OpenOptions::new().write(true).open(&file.path).unwrap().set_len(1 << 20).unwrap();
            loop {
                if let Err(error) = next_batch(&mut stream).await.unwrap() {
                    return error;
                }
            }
        });
        assert_eq!(error.kind(), ErrorKind::SourceChanged, "mapped {mapped}: {error}");
        assert!(error.to_string().contains("data.csv: the file became shorter while it was read"), "{error}");
    }
}

/// <https://github.com/max-mapper/csv-spectrum>: each file with its rows as JSON.
#[test]
fn csv_spectrum() {
    let suites = std::env::var_os("ETLRS_SUITES")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/suites"), PathBuf::from);
    let folder = suites.join("csv-spectrum");
    if !folder.is_dir() {
        eprintln!("SKIPPED: csv-spectrum is not in {}", suites.display());
        return;
    }
    let mut files = 0;
    for entry in std::fs::read_dir(folder.join("csvs")).unwrap() {
        let path = entry.unwrap().path();
        let text_only = CsvOptions::default().with_infer(false);
        let snapshot = read(&path, text_only, &ScanRequest::all(), &cx(100, 100)).unwrap();
        let names: Vec<_> = snapshot.schema().fields().iter().map(|field| field.name().clone()).collect();
        let rows = snapshot.records().map(|record| {
            let fields = names.iter().map(|name| {
                let value = record.str(name.as_str()).unwrap().unwrap_or_default().to_owned();
                (name.clone(), serde_json::Value::String(value))
            });
            serde_json::Value::Object(fields.collect())
        });
        let json = folder.join("json").join(path.with_extension("json").file_name().unwrap());
        let mut expected: serde_json::Value = serde_json::from_slice(&std::fs::read(json).unwrap()).unwrap();
        // The suite's JSON of this file is no list, and has another phone number than the CSV.
        if path.ends_with("location_coordinates.csv") {
            expected["Contact Phone Number"] = "2095257564".into();
            expected = serde_json::Value::Array(vec![expected]);
        }
        assert_eq!(serde_json::Value::Array(rows.collect()), expected, "{}", path.display());
        files += 1;
    }
    assert_eq!(files, 12);
}

#[test]
fn the_types_of_the_target_guide_the_guess() {
    use arrow_schema::{Field, Schema};

    let micros = arrow_schema::TimeUnit::Microsecond;
    let wanted = |name: &str, data_type| Field::new(name, data_type, false);
    let target = std::sync::Arc::new(Schema::new(vec![
        wanted("zip", DataType::Utf8),
        wanted("amount", DataType::Decimal128(10, 2)),
        wanted("price", DataType::Decimal128(10, 2)),
        wanted("small", DataType::Int16),
        wanted("at", DataType::Time64(micros)),
        wanted("ratio", DataType::Float64),
        wanted("EMPTY", DataType::Date32),
        // What the sample speaks against, what would lose digits, and what the guess is better for.
        wanted("yes", DataType::Int8),
        wanted("local", DataType::Timestamp(micros, Some("UTC".into()))),
        wanted("day", DataType::Date32),
        wanted("comma", DataType::Decimal128(10, 2)),
        wanted("long", DataType::Float64),
        wanted("single", DataType::Float32),
        wanted("bytes", DataType::Binary),
        wanted("not here", DataType::Int64),
    ]));
    let header = "zip,amount,price,small,at,ratio,empty,yes,local,day,comma,long,single,bytes,other";
    let text = format!(
        "{header}\n10115,1.5,1,007,10:00:00,1,,true,2024-01-31 10:00:00,31/01/2024,\"1,5\",0.12345678901234567891,1.5,x,1\n\
         010,2,2,8,11:30,2,,false,2024-01-31 11:00:00,01/02/2024,\"2,5\",1,2,y,2\n"
    );
    let data = file(&text);
    let guided = |options: CsvOptions, path: &Path| {
        let request = ScanRequest::all().target(Some(target.clone()));
        read(path, options, &request, &cx(10_000, 64 << 10))
    };
    let (types, rows) = shown(&guided(CsvOptions::default(), &data.path).unwrap());
    assert_eq!(
        types,
        "zip:text,amount:decimal(10,2),price:decimal(10,2),small:int16,at:time,ratio:float64,empty:date,yes:bool,\
         local:timestamp,day:text,comma:text,long:text,single:float64,bytes:text,other:int64"
    );
    assert!(
        rows[0].starts_with("10115,Decimal { value: 150, scale: 2 },Decimal { value: 100, scale: 2 },7,"),
        "{rows:?}"
    );
    assert!(rows[1].starts_with("010,"), "{rows:?}");
    let snapshot = guided(CsvOptions::default(), &data.path).unwrap();
    assert!(snapshot.schema().fields().iter().all(|field| field.is_nullable()), "a file may always lack values");

    // What the user says counts more, and who wants no guesses gets text.
    let options = CsvOptions::from_pairs([("types", "zip:int64,amount:text")]).unwrap();
    assert!(shown(&guided(options, &data.path).unwrap()).0.starts_with("zip:int64,amount:text,price:decimal(10,2),"));
    let options = CsvOptions::from_pairs([("infer", "false")]).unwrap();
    assert!(shown(&guided(options, &data.path).unwrap()).0.starts_with("zip:text,amount:text,price:text,"));

    // The case of letters counts where the very name is there too.
    let twice = shown(&guided(CsvOptions::default(), &file("Zip,zip,SMALL\n1,2,3\n").path).unwrap());
    assert_eq!(twice.0, "Zip:int64,zip:text,SMALL:int16");

    // Behind the sample values may be spelled as in the sample.
    let numbers: String = (0..3000).map(|n| format!("{n}\n")).collect();
    let (types, rows) = shown(&guided(CsvOptions::default(), &file(format!("small\n{numbers}007\n")).path).unwrap());
    assert_eq!((types.as_str(), rows.last().map(String::as_str)), ("small:int16", Some("7")));

    for (text, words) in [
        ("amount\n1.555\n", &["record 1", "no decimal(10,2), the type that the target has", "quarantine"][..]),
        ("small\n1\n99999\n", &["record 2", "line 3", "no int16"]),
        ("amount\n1\nNA\n", &["\"NA\" is no decimal(10,2)", "null_values=NA"]),
        ("ratio\n1\n9007199254740993\n", &["record 2", "no float64"]),
    ] {
        let error = guided(CsvOptions::default(), &file(text).path).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidData);
        for word in words {
            assert!(error.to_string().contains(word), "{error}");
        }
    }
}

/// The setting of the run holds where the extractor has none of its own.
#[cfg(target_os = "linux")]
#[test]
fn files_are_mapped_if_the_run_says_so() {
    let file = file("a,b\n".to_owned() + &"1,2\n".repeat(100_000));
    let is_mapped = |config: PerformanceConfig, extractor: CsvExtractor| {
        let cx = RunContext::new(config.with_batch_size(10usize));
        block_on(async {
            let scan = extractor.scan(&cx, &ScanRequest::all().partitions(1)).await.unwrap();
            let mut stream = scan.read(&cx, &scan.partitions()[0]).unwrap();
            next_batch(&mut stream).await.unwrap().unwrap();
            let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
            maps.contains(file.path.to_str().unwrap())
        })
    };
    let [off, on] = [false, true].map(|on| PerformanceConfig::default().with_enable_memory_mapping(on));
    let extractor = || CsvExtractor::new(&file.path);
    assert!(!is_mapped(off.clone(), extractor()));
    assert!(is_mapped(on.clone(), extractor()));
    assert!(is_mapped(off, extractor().with_memory_mapping(true)));
    assert!(!is_mapped(on, extractor().with_memory_mapping(false)));
}
