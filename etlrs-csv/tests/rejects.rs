//! Records that are set aside instead of ending the read: which, with what place and text, and that it does not depend on how
//! a file is cut.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

use std::path::{Path, PathBuf};

use etlrs_core::{
    DataType, DatasetSnapshot, Error, ErrorKind, Extractor, PerformanceConfig, Rejected, Rejects, Result, RunContext,
    ScanRequest, Value, next_batch,
};
use etlrs_csv::{Compression, CsvExtractor, CsvOptions, Escape, Ragged};
use proptest::prelude::*;

/// The smallest budget makes 4 KiB the longest record.
const SMALL: usize = 512 << 10;
const LARGE: usize = 1 << 30;

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

fn cx(batch_size: usize, io_buffer_size: usize, max_memory_usage: usize) -> RunContext {
    RunContext::new(PerformanceConfig { batch_size, io_buffer_size, max_memory_usage, ..PerformanceConfig::default() })
}

/// Rows that were taken and records that were not, in the order of the source.
#[derive(Debug, PartialEq)]
struct Outcome {
    rows: Vec<Vec<Value<'static>>>,
    rejected: Vec<Rejected>,
}

fn read_with(extractor: &CsvExtractor, request: &ScanRequest, cx: &RunContext) -> Result<Outcome> {
    let scan = block_on(extractor.scan(&cx.with_rejects(Rejects::default()), request))?;
    let (mut rows, mut rejected) = (Vec::new(), Vec::new());
    for partition in scan.partitions() {
        // So small that a batch ends with each record that is set aside.
        let rejects = Rejects::new(1);
        let mut stream = scan.read(&cx.with_rejects(rejects.clone()), partition)?;
        while let Some(batch) = block_on(next_batch(&mut stream)) {
            let snapshot = DatasetSnapshot::new(scan.schema(), vec![batch?])?;
            rows.extend(snapshot.records().map(|record| record.to_owned().into_values()));
            rejected.extend(rejects.take());
        }
        rejected.extend(rejects.take());
    }
    Ok(Outcome { rows, rejected })
}

fn read(path: &Path, options: CsvOptions, request: &ScanRequest, cx: &RunContext) -> Result<Outcome> {
    read_with(&CsvExtractor::new(path).with_options(options), request, cx)
}

/// The first column holds integers, all else is text.
fn typed() -> CsvOptions {
    CsvOptions::default()
        .with_delimiter(b',')
        .with_quote(b'"')
        .with_skip_lines(0_usize)
        .with_header(true)
        .with_infer(false)
        .with_types([("a", DataType::Int64)])
}

/// What was set aside of `text`: record, line, byte, column, the start of the reason, and the raw text.
type Seen<'a> = (u64, u64, u64, Option<&'a str>, &'a str, &'a [u8]);

#[test]
fn what_cannot_be_taken_is_set_aside_with_its_place_and_its_text() {
    let cases: &[(&[u8], &[i64], &[Seen<'_>])] = &[
        (b"a,b\n1,x\n2,y\n", &[1, 2], &[]),
        (b"a,b\n1,x\n2\n3,z\n", &[1, 3], &[(2, 3, 8, None, "1 field where the header has 2; ", b"2")]),
        (b"a,b\n1,x,y\r\n3,z\n", &[3], &[(1, 2, 4, None, "3 fields where", b"1,x,y")]),
        (
            b"a,b\noops,\"1\n2\"\n7,x\n0x,\"y\"\n",
            &[7],
            &[
                (1, 2, 4, Some("a"), "the value is no int64; ", b"oops,\"1\n2\""),
                (3, 5, 19, Some("a"), "the value is no int64; ", b"0x,\"y\""),
            ],
        ),
        (b"a,b\n1,caf\xe9\n2,x", &[2], &[(1, 2, 9, Some("b"), "the text is not UTF-8", b"1,caf\xe9")]),
        // The record ends with the line on which the fault stands, whatever quotes come behind it.
        (b"a,b\n1,\"x\ny\"z,\"\n2,x\n", &[2], &[(1, 3, 11, None, "the closing quote", b"1,\"x\ny\"z,\"")]),
        (b"a,b\n1,x\n2,\"y\n3,z\n", &[1], &[(2, 3, 10, None, "a quoted field is not closed", b"2,\"y\n3,z")]),
        (b"a,b\n1,\"x\"y", &[], &[(1, 2, 9, None, "the closing quote", b"1,\"x\"y")]),
        // Blank lines are no records, but lines.
        (
            b"a,b\n\n\nx,1\n\n2,y\n\nz\n",
            &[2],
            &[(1, 4, 6, Some("a"), "the value", b"x,1"), (3, 8, 16, None, "1 field", b"z")],
        ),
        // The first column at fault is told of.
        (b"a,b\nx,\xff\n", &[], &[(1, 2, 4, Some("a"), "the value", b"x,\xff")]),
    ];
    for &(text, taken, expected) in cases {
        let file = file(text);
        let outcome = read(&file.path, typed(), &ScanRequest::all(), &cx(10, 64 << 10, LARGE)).unwrap();
        let ints: Vec<_> = outcome.rows.iter().map(|row| row[0].clone()).collect();
        let taken: Vec<_> = taken.iter().map(|&n| Value::Int(n)).collect();
        let shown = String::from_utf8_lossy(text);
        assert_eq!(ints, taken, "{shown:?}");
        assert_eq!(outcome.rejected.len(), expected.len(), "{shown:?}: {:?}", outcome.rejected);
        for (rejected, &(record, line, byte, column, reason, raw)) in outcome.rejected.iter().zip(expected) {
            let position = &rejected.position;
            let place = (position.record, position.line, position.byte, position.column.as_deref());
            assert_eq!(place, (Some(record), Some(line), Some(byte), column), "{shown:?}: {rejected}");
            assert!(rejected.reason.starts_with(reason), "{shown:?}: {rejected}");
            assert_eq!(rejected.raw.as_deref(), Some(raw), "{shown:?}");
            assert_eq!(position.source.as_deref(), file.path.to_str());
            assert_eq!((rejected.part, rejected.stage.as_ref()), (0, Rejected::SOURCE));
        }
    }
}

#[test]
fn types_are_found_from_the_records_that_can_be_read() {
    let file = file("a,b\n1\n2,\"x\"y\n3,4\nx,5\n");
    let options = CsvOptions::default().with_sample(3);
    let outcome = read(&file.path, options, &ScanRequest::all(), &cx(10, 64 << 10, LARGE)).unwrap();
    assert_eq!(outcome.rows, [[Value::Int(3), Value::Int(4)]]);
    assert_eq!(outcome.rejected.len(), 3);
}

#[test]
fn a_record_longer_than_the_longest_is_set_aside_in_parts() {
    let long = "é\n".repeat(3000);
    for (middle, parts) in [
        (format!("2,\"{long}\"\n"), 3),
        // Ends with its line where something stands behind the quote.
        (format!("2,\"{long}\"x\"\n"), 3),
        (format!("2,{}\n", "y".repeat(4094)), 2),
        // The longest that is taken, and one that is not.
        (format!("2,{}\n", "y".repeat(4093)), 0),
    ] {
        let text = format!("a,b\n1,x\n{middle}3,z\nbad,\n");
        let file = file(&text);
        let outcome = read(&file.path, typed(), &ScanRequest::all(), &cx(10, 600, SMALL)).unwrap();
        let taken = if parts == 0 { vec![1, 2, 3] } else { vec![1, 3] };
        let ints: Vec<_> = outcome.rows.iter().map(|row| row[0].clone()).collect();
        assert_eq!(ints, taken.into_iter().map(Value::Int).collect::<Vec<_>>());
        let (last, long) = outcome.rejected.split_last().unwrap();
        assert_eq!(long.len(), parts);
        assert!(long.iter().enumerate().all(|(at, part)| part.part as usize == at && part.position.record == Some(2)));
        let raw: Vec<u8> = long.iter().flat_map(|part| part.raw.clone().unwrap()).collect();
        if parts > 0 {
            assert_eq!(String::from_utf8(raw).unwrap(), middle.trim_end_matches('\n'));
            assert!(long[0].reason.starts_with("the record is longer than 4KB"), "{}", long[0]);
            assert_eq!(long[1].position.byte, Some(8 + 4096));
        }
        let line = text.lines().count() as u64;
        assert_eq!((last.position.record, last.position.line), (Some(4), Some(line)));
    }
}

#[test]
fn a_quote_that_is_never_closed_takes_the_rest_of_the_file_in_any_split() {
    let mut text = String::from("a,b\n");
    let good = |text: &mut String| (0..2000).for_each(|n| text.push_str(&format!("{n},x\n")));
    good(&mut text);
    let start = text.len();
    text.push_str("9,\"y\n");
    good(&mut text);
    let file = file(&text);
    for partitions in [1, 2, 7] {
        for guess in [false, true] {
            let request = ScanRequest::all().partitions(partitions).guess(guess);
            let outcome = match read(&file.path, typed(), &request, &cx(100, 1024, SMALL)) {
                // The last piece may begin before the quote, and then the guess was right.
                Err(error) if guess && partitions > 1 => {
                    assert_eq!(error.kind(), ErrorKind::SplitRefuted);
                    continue;
                }
                outcome => outcome.unwrap(),
            };
            assert_eq!(outcome.rows.len(), 2000);
            let raw: Vec<u8> = outcome.rejected.iter().flat_map(|part| part.raw.clone().unwrap()).collect();
            assert_eq!(raw, text[start..].trim_end().as_bytes());
            let position = &outcome.rejected[0].position;
            assert_eq!((position.record, position.line, position.byte), (Some(2001), Some(2002), Some(start as u64)));
        }
    }
}

#[test]
fn a_long_comment_is_passed_over() {
    let file = file(format!("a,b\n1,x\n#{}\n2,y\nz\n", "\"c".repeat(5000)));
    let options = typed().with_comment(b'#');
    let outcome = read(&file.path, options, &ScanRequest::all().partitions(3), &cx(10, 600, SMALL)).unwrap();
    assert_eq!(outcome.rows.len(), 2);
    let place = &outcome.rejected[0].position;
    assert_eq!((outcome.rejected.len(), place.record, place.line), (1, Some(3), Some(5)));
}

#[test]
fn what_is_no_fault_of_a_record_still_fails() {
    let extractor = CsvExtractor::new("/no/such.csv");
    let error = read_with(&extractor, &ScanRequest::all(), &cx(10, 1024, LARGE)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    // A header that is no record names no columns.
    let file = file("a,\"b\"c\n1,2\n");
    assert!(read(&file.path, typed(), &ScanRequest::all(), &cx(10, 1024, LARGE)).is_err());
}

/// A file read front to back tells the same as one that is read at places.
#[test]
fn streams_set_the_same_aside() {
    let mut text = String::from("a,b\n");
    for n in 0..3000 {
        text.push_str(match n % 7 {
            0 => "1,\"two\nlines\"\n\n",
            1 => "x,y\n",
            2 => "1\n",
            3 => "1,\"x\ny\"z\n",
            _ => "1,x\n",
        });
    }
    let file = file(&text);
    let plain = read(&file.path, typed(), &ScanRequest::all().partitions(1), &cx(100, 1024, LARGE)).unwrap();
    assert_eq!((plain.rows.len(), plain.rejected.len()), (3000 - 3 * 429, 3 * 429));
    let mut packed = Vec::new();
    Compression::Gzip(1).compressor().unwrap().append_member(text.as_bytes(), &mut packed).unwrap();
    let piped = CsvExtractor::from_reader("pipe", std::io::Cursor::new(packed)).with_options(typed());
    let mut piped = read_with(&piped, &ScanRequest::all(), &cx(100, 1024, LARGE)).unwrap();
    for rejected in &mut piped.rejected {
        assert_eq!(rejected.position.source.replace(file.path.display().to_string()).as_deref(), Some("pipe"));
    }
    assert!(piped == plain);
}

/// The error that ends a read where nothing is set aside.
fn failure(path: &Path, options: CsvOptions, request: &ScanRequest, cx: &RunContext) -> Option<Error> {
    block_on(async {
        let scan = CsvExtractor::new(path).with_options(options).scan(cx, request).await?;
        DatasetSnapshot::collect(cx, &*scan).await
    })
    .err()
}

/// Lines that may hold anything: good, malformed in every way, over-long, with quotes that go on for lines.
fn line() -> impl Strategy<Value = Vec<u8>> {
    let end = prop_oneof![4 => Just("\n"), 1 => Just("\r\n")];
    let line = prop_oneof![
        6 => "[0-9]{1,3},[a-c]{0,5}",
        3 => "[0-9]{1,3},\"([a-c,\n]|\"\"){0,8}\"",
        1 => "[a-c]{1,3},[a-c]{0,3}",
        1 => "[0-9]{1,3}(,[a-c\"]{0,2}){0,3}",
        1 => "\"?[0-9]{0,2}\"?,?\"[a-c\n]{0,3}\"[a-c\"]{0,3}",
        1 => Just(String::new()),
        1 => (4080usize..4110).prop_map(|length| format!("1,\"{}\"", "x\n".repeat(length / 2))),
        1 => (4080usize..9000).prop_map(|length| format!("1,{}", "x".repeat(length))),
    ];
    let bytes = (line, end).prop_map(|(line, end)| (line + end).into_bytes());
    let broken = (bytes, prop::option::weighted(0.05, any::<prop::sample::Index>()));
    broken.prop_map(|(mut bytes, at)| {
        if let Some(at) = at {
            let at = at.index(bytes.len());
            bytes[at] = 0xff;
        }
        bytes
    })
}

fn options_of(kind: u8) -> CsvOptions {
    match kind {
        0 | 1 => typed(),
        2 => typed().with_escape(Escape(Some(b'c'))),
        3 => typed().with_comment(b'b'),
        _ => typed().with_ragged(Ragged::Pad),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn any_split_takes_and_sets_aside_the_same(
        lines in prop::collection::vec(line(), 0..60), partitions in 2usize..40, batch in 1usize..50,
        buffer in 512usize..5000, unclosed in prop::bool::weighted(0.1), kind in 0u8..5,
    ) {
        let mut text = b"a,b\n".to_vec();
        text.extend(lines.concat());
        if unclosed {
            text.extend(b"1,\"a\n2,c\n");
        }
        let file = file(&text);
        let whole = ScanRequest::all().partitions(1);
        let (one, cx) = (cx(10_000, 64 << 10, SMALL), cx(batch, buffer, SMALL));
        let expected = read(&file.path, options_of(kind), &whole, &one).unwrap();
        let request = ScanRequest::all().partitions(partitions);
        let split = read(&file.path, options_of(kind), &request, &cx).unwrap();
        prop_assert!(split == expected, "{:?}\n{split:?}\n{expected:?}", String::from_utf8_lossy(&text));
        match read(&file.path, options_of(kind), &request.guess(true), &cx) {
            Ok(guessed) => prop_assert!(guessed == expected),
            Err(error) => prop_assert_eq!(error.kind(), ErrorKind::SplitRefuted),
        }

        // Places are those of the file, and every record has one.
        let records: Vec<_> = expected.rejected.iter().filter(|rejected| rejected.part == 0).collect();
        let all = (expected.rows.len() + records.len()) as u64;
        let mut before = 0;
        for rejected in &expected.rejected {
            let position = &rejected.position;
            let (record, byte) = (position.record.unwrap(), usize::try_from(position.byte.unwrap()).unwrap());
            let line = 1 + text[..byte].iter().filter(|&&byte| byte == b'\n').count();
            prop_assert_eq!(position.line, Some(line as u64));
            prop_assert!(record <= all && record >= before && (record > before || rejected.part > 0));
            before = record;
            let raw = rejected.raw.as_deref().unwrap();
            let around = &text[byte.saturating_sub(raw.len())..(byte + raw.len()).min(text.len())];
            prop_assert!(raw.is_empty() || around.windows(raw.len()).any(|window| window == raw));
        }

        // The first of them is what ends a read that sets nothing aside, but for what only there is too long.
        let error = failure(&file.path, options_of(kind), &whole, &one);
        match (error, records.first()) {
            (error, Some(first)) if first.reason.contains("longer than") => drop(error),
            (Some(error), Some(first)) => prop_assert_eq!(error.to_string(), first.to_string()),
            (error, first) => prop_assert!(error.is_none() && first.is_none(), "{error:?} {first:?}"),
        }
    }

    #[test]
    fn no_bytes_panic_and_none_get_lost(
        bytes in prop::collection::vec(prop::sample::select(b"a1,,\"\"\n\n\r\xff".to_vec()), 0..300),
        partitions in 1usize..6,
    ) {
        let text = [b"a,b\n", bytes.as_slice()].concat();
        let file = file(&text);
        let request = ScanRequest::all().partitions(partitions);
        let outcome = read(&file.path, typed(), &request, &cx(7, 512, SMALL)).unwrap();
        let whole = read(&file.path, typed(), &ScanRequest::all().partitions(1), &cx(1000, 1 << 16, SMALL)).unwrap();
        prop_assert!(outcome == whole);
        // What is neither in a row nor set aside is line ends and what structures fields.
        let kept: usize = outcome.rejected.iter().map(|rejected| rejected.raw.as_ref().unwrap().len()).sum();
        let structure = bytes.iter().filter(|byte| b",\"\n\r".contains(byte)).count();
        let in_rows: usize = outcome.rows.iter().map(|row| {
            let length = |value: &Value<'_>| match value {
                Value::Int(n) => n.to_string().len(),
                Value::Text(text) => text.len(),
                _ => 0,
            };
            row.iter().map(length).sum::<usize>()
        }).sum();
        prop_assert!(kept + in_rows + structure >= bytes.len(), "{outcome:?}");
    }
}
