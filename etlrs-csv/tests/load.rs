//! What a CSV target holds, and what it shows to its readers, whatever happens to the load.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use etlrs_core::arrow_array::types::*;
use etlrs_core::arrow_array::*;
use etlrs_core::arrow_schema::{DataType, Field, Schema};
use etlrs_core::*;
use etlrs_csv::*;
use futures_util::future::try_join_all;
use proptest::prelude::*;

fn context() -> RunContext {
    RunContext::new(PerformanceConfig { max_memory_usage: 64 << 20, ..PerformanceConfig::default() })
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}

fn plan(schema: &SchemaRef, mode: LoadMode, partitions: usize) -> LoadPlan {
    let partitions = (0..partitions).map(|index| Partition::new(index, format!("part {index}"))).collect();
    LoadPlan::new(schema.clone(), mode, partitions)
}

/// Writes each partition with a writer of its own, the last one first.
async fn stage(
    cx: &RunContext,
    session: &dyn LoadSession,
    plan: &LoadPlan,
    parts: &[Vec<RecordBatch>],
) -> Result<Vec<Receipt>> {
    let writers = plan.partitions.iter().zip(parts).rev().map(|(partition, batches)| async move {
        let mut writer = session.writer(cx, partition, 1).await?;
        for batch in batches {
            writer.write(batch.clone()).await?;
        }
        writer.finish().await
    });
    let mut receipts = try_join_all(writers).await?;
    receipts.sort_by_key(|receipt| receipt.partition);
    Ok(receipts)
}

async fn load_in(
    cx: &RunContext,
    loader: &dyn Loader,
    mode: LoadMode,
    parts: &[Vec<RecordBatch>],
) -> Result<Published> {
    let schema = parts.iter().flatten().next().map_or_else(|| count(0..0).schema(), RecordBatch::schema);
    let plan = plan(&schema, mode, parts.len());
    loader.check(cx, &plan).await?;
    let session = loader.begin(cx, plan.clone()).await?;
    let receipts = stage(cx, &*session, &plan, parts).await?;
    session.commit(receipts).await
}

fn load(loader: &dyn Loader, mode: LoadMode, parts: &[Vec<RecordBatch>]) -> Result<Published> {
    block_on(load_in(&context(), loader, mode, parts))
}

/// The text that `options` make of `batch`.
fn written(options: &CsvWriteOptions, batch: &RecordBatch) -> Result<String> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out.csv");
    load(&CsvLoader::new(&path).with_options(options.clone()), LoadMode::Create, &[vec![batch.clone()]])?;
    Ok(std::fs::read_to_string(path).unwrap())
}

fn options() -> CsvWriteOptions {
    CsvWriteOptions::default()
}

fn count(range: std::ops::Range<i64>) -> RecordBatch {
    record_batch([("n", range.map(Some).collect())])
}

fn numbers(text: &str) -> Vec<i64> {
    let mut lines = text.lines();
    assert_eq!(lines.next(), Some("n"));
    lines.map(|line| line.parse().unwrap()).collect()
}

fn loader(path: &Path, directory: bool) -> CsvLoader {
    if directory { CsvLoader::directory(path) } else { CsvLoader::new(path) }
}

/// The numbers of a file, or of all files of a directory.
fn read_numbers(path: &Path) -> Vec<i64> {
    let files = etlrs_files::source_files(path, &["csv"], &CancelToken::new()).unwrap();
    files.iter().flat_map(|file| numbers(&std::fs::read_to_string(file).unwrap())).collect()
}

fn load_numbers(path: &Path, directory: bool, mode: LoadMode, range: std::ops::Range<i64>) -> Result<Published> {
    let middle = i64::midpoint(range.start, range.end);
    let parts = [vec![count(range.start..middle)], vec![], vec![count(middle..range.end)]];
    load(&loader(path, directory), mode, &parts)
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn array(array: impl Array + 'static) -> ArrayRef {
    Arc::new(array)
}

fn batch<'a>(columns: impl IntoIterator<Item = (&'a str, ArrayRef)>) -> RecordBatch {
    RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, column)| (name, column, true))).unwrap()
}

fn texts(values: &[Option<&str>]) -> RecordBatch {
    batch([("t", array(StringArray::from(values.to_vec())))])
}

#[test]
fn modes_do_what_they_say() {
    for directory in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out.csv");
        assert_eq!(load_numbers(&path, directory, LoadMode::Append, 0..10).unwrap().rows, 10);
        let error = load_numbers(&path, directory, LoadMode::Create, 0..1).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AlreadyExists);
        assert_eq!(read_numbers(&path), (0..10).collect::<Vec<_>>());
        assert_eq!(load_numbers(&path, directory, LoadMode::Append, 10..15).unwrap().rows, 5);
        assert_eq!(load_numbers(&path, directory, LoadMode::Append, 15..15).unwrap().rows, 0);
        assert_eq!(load_numbers(&path, directory, LoadMode::Append, 15..16).unwrap().rows, 1);
        assert_eq!(read_numbers(&path), (0..16).collect::<Vec<_>>());
        load_numbers(&path, directory, LoadMode::Replace, 3..5).unwrap();
        assert_eq!(read_numbers(&path), [3, 4]);
        assert_eq!(load_numbers(&path, directory, LoadMode::Merge, 0..1).unwrap_err().kind(), ErrorKind::Unsupported);
        assert_eq!(names(folder.path()), ["out.csv"]);
    }
}

#[test]
fn a_table_without_rows_keeps_its_header() {
    for directory in [false, true] {
        for partitions in [0, 1, 3] {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("out.csv");
            let published = load(&loader(&path, directory), LoadMode::Create, &vec![vec![]; partitions]).unwrap();
            assert_eq!(published.rows, 0);
            assert_eq!(read_numbers(&path), [0; 0]);
        }
    }
}

#[test]
fn the_old_data_stays_until_the_commit_and_read_back_shows_the_new_rows_only() {
    for directory in [false, true] {
        for mode in [LoadMode::Append, LoadMode::Replace] {
            for commit in [true, false] {
                let folder = tempfile::tempdir().unwrap();
                let path = folder.path().join("out.csv");
                load_numbers(&path, directory, LoadMode::Create, 0..10).unwrap();
                block_on(async {
                    let cx = context();
                    let plan = plan(&count(0..0).schema(), mode, 3);
                    let mut session = loader(&path, directory).begin(&cx, plan.clone()).await.unwrap();
                    let parts = [vec![count(10..12)], vec![], vec![count(12..14)]];
                    let receipts = stage(&cx, &*session, &plan, &parts).await.unwrap();
                    let scan = session.read_back(&cx, &receipts).await.unwrap().unwrap();
                    let staged = DatasetSnapshot::collect(&cx, &*scan).await.unwrap();
                    let staged: Vec<_> = staged.records().map(|record| record.i64("n").unwrap().unwrap()).collect();
                    assert_eq!(staged, [10, 11, 12, 13]);
                    assert_eq!(read_numbers(&path), (0..10).collect::<Vec<_>>());
                    if commit {
                        assert_eq!(session.commit(receipts).await.unwrap().rows, 4);
                    } else {
                        session.abort().await.unwrap();
                    }
                });
                let expected: Vec<i64> = match (commit, mode) {
                    (false, _) => (0..10).collect(),
                    (true, LoadMode::Append) => (0..14).collect(),
                    (true, _) => (10..14).collect(),
                };
                assert_eq!(read_numbers(&path), expected);
                assert_eq!(names(folder.path()), ["out.csv"]);
            }
        }
    }
}

#[test]
fn read_back_without_rows_is_empty() {
    for directory in [false, true] {
        for header in [false, true] {
            let folder = tempfile::tempdir().unwrap();
            let loader = loader(&folder.path().join("out.csv"), directory).with_options(options().with_header(header));
            block_on(async {
                let cx = context();
                let plan = plan(&count(0..0).schema(), LoadMode::Create, 1);
                let mut session = loader.begin(&cx, plan.clone()).await.unwrap();
                let receipts = stage(&cx, &*session, &plan, &[vec![]]).await.unwrap();
                let scan = session.read_back(&cx, &receipts).await.unwrap().unwrap();
                assert_eq!(DatasetSnapshot::collect(&cx, &*scan).await.unwrap().total_count(), 0);
                assert_eq!(scan.schema(), count(0..0).schema());
                session.commit(receipts).await.unwrap();
            });
        }
    }
}

#[test]
fn a_second_attempt_writes_its_rows_once() {
    for directory in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out.csv");
        block_on(async {
            let cx = context();
            let plan = plan(&count(0..0).schema(), LoadMode::Create, 2);
            let session = loader(&path, directory).begin(&cx, plan.clone()).await.unwrap();
            let mut first = session.writer(&cx, &plan.partitions[0], 1).await.unwrap();
            first.write(count(0..5)).await.unwrap();
            drop(first);
            let receipts = stage(&cx, &*session, &plan, &[vec![count(0..7)], vec![count(7..9)]]).await.unwrap();
            session.commit(receipts).await.unwrap();
        });
        assert_eq!(read_numbers(&path), (0..9).collect::<Vec<_>>());
    }
}

#[test]
fn what_is_in_the_file_cannot_be_tried_again_and_a_directory_takes_it_back() {
    for directory in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out.csv");
        block_on(async {
            let cx = context();
            let plan = plan(&count(0..0).schema(), LoadMode::Create, 1);
            let session = loader(&path, directory).begin(&cx, plan.clone()).await.unwrap();
            let mut first = session.writer(&cx.for_worker(64 << 10), &plan.partitions[0], 1).await.unwrap();
            for _ in 0..30 {
                first.write(count(1_000_000..1_001_000)).await.unwrap();
            }
            drop(first);
            if directory {
                let receipts = stage(&cx, &*session, &plan, &[vec![count(0..3)]]).await.unwrap();
                session.commit(receipts).await.unwrap();
                assert_eq!(read_numbers(&path), [0, 1, 2]);
                assert_eq!(names(&path).len(), 2, "the file and the manifest");
            } else {
                let error = session.writer(&cx, &plan.partitions[0], 2).await.err().unwrap();
                assert!(!error.is_transient());
                assert!(error.to_string().contains("cannot be tried again"), "{error}");
                drop(session);
                assert_eq!(names(folder.path()), [""; 0]);
            }
        });
    }
}

#[test]
fn a_writer_holds_what_it_may_and_waits_for_its_turn_beyond() {
    for compression in [Compression::None, Compression::Gzip(0)] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out.csv");
        block_on(async {
            let cx = context();
            let plan = plan(&count(0..0).schema(), LoadMode::Create, 2);
            let loader = CsvLoader::new(&path).with_options(options().with_compression(compression));
            let session = loader.begin(&cx, plan.clone()).await.unwrap();
            let small = cx.for_worker((256 << 10) + 2 * compression.memory());
            let mut first = session.writer(&small, &plan.partitions[0], 1).await.unwrap();
            let mut second = session.writer(&small, &plan.partitions[1], 1).await.unwrap();
            let mut write_second = Box::pin(async {
                for part in 0..50 {
                    second.write(count(part * 1000..(part + 1) * 1000)).await.unwrap();
                }
                second.finish().await.unwrap()
            });
            assert!(futures_util::FutureExt::now_or_never(&mut write_second).is_none());
            first.write(count(0..50_000)).await.unwrap();
            let first = first.finish().await.unwrap();
            let second = write_second.await;
            session.commit(vec![first, second]).await.unwrap();
        });
        let file = std::io::BufReader::new(std::fs::File::open(&path).unwrap());
        let mut text = String::new();
        compression.decompress(file, 16 << 20).unwrap().read_to_string(&mut text).unwrap();
        assert_eq!(numbers(&text), (0..50_000).chain(0..50_000).collect::<Vec<_>>());
    }
}

#[test]
fn a_session_that_is_dropped_leaves_nothing() {
    for directory in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out.csv");
        block_on(async {
            let cx = context();
            let plan = plan(&count(0..0).schema(), LoadMode::Create, 1);
            let session = loader(&path, directory).begin(&cx, plan.clone()).await.unwrap();
            let locked = loader(&path, directory).begin(&context(), plan.clone()).await.err().unwrap();
            assert_eq!(locked.kind(), ErrorKind::Locked);
            stage(&cx, &*session, &plan, &[vec![count(0..3)]]).await.unwrap();
            drop(session);
        });
        assert_eq!(names(folder.path()), [""; 0]);
    }
}

#[test]
fn a_target_with_other_columns_is_not_appended_to() {
    for directory in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out.csv");
        load_numbers(&path, directory, LoadMode::Create, 0..3).unwrap();
        for (columns, column) in [(&["m"][..], "m"), (&["n", "more"], "more"), (&["N"], "N")] {
            let batch = record_batch(columns.iter().map(|&name| (name, vec![Some(1)])));
            let plan = plan(&batch.schema(), LoadMode::Append, 1);
            let checked = block_on(loader(&path, directory).check(&context(), &plan)).unwrap_err();
            let begun = block_on(loader(&path, directory).begin(&context(), plan)).err().unwrap();
            for error in [checked, begun] {
                assert_eq!(error.kind(), ErrorKind::SchemaMismatch);
                assert_eq!(error.position().column.as_deref(), Some(column), "{error}");
            }
        }
        assert_eq!(read_numbers(&path), [0, 1, 2]);
    }
}

#[test]
fn a_row_in_place_of_the_header_is_not_shown_when_it_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("people.csv");
    let batch = record_batch([("id", vec![Some(1)]), ("number", vec![Some(2)])]);
    let plan = plan(&batch.schema(), LoadMode::Append, 1);
    for (row, column, from) in [
        ("4711,alice@example.com\n", Some("id"), "from column 1 on"),
        ("id,alice@example.com\n", Some("number"), "from column 2 on"),
        ("id\n", Some("number"), "from column 2 on"),
        ("id,number,alice@example.com\n", None, "from column 3 on"),
    ] {
        std::fs::write(&path, row).unwrap();
        let error = block_on(loader(&path, false).check(&context(), &plan)).unwrap_err();
        assert_eq!((error.kind(), error.position().column.as_deref()), (ErrorKind::SchemaMismatch, column), "{error}");
        let message = error.to_string();
        assert!(message.contains(from) && message.contains("header=false"), "{message}");
        assert!(!message.contains("4711") && !message.contains("alice"), "{message}");
    }
}

#[test]
fn files_of_other_programs_are_appended_to() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out.csv");
    let load = |options: &CsvWriteOptions| {
        let loader = CsvLoader::new(&path).with_options(options.clone());
        load(&loader, LoadMode::Append, &[vec![count(1..2)]]).map(|_| std::fs::read_to_string(&path).unwrap())
    };
    let plain = options();
    for (before, after) in [
        ("n\n0", "n\n0\n1\n"),
        ("n\n0\n", "n\n0\n1\n"),
        ("n", "n\n1\n"),
        ("\u{feff}\"n\"\r\n0\r\n", "\u{feff}\"n\"\r\n0\r\n1\n"),
        ("", "n\n1\n"),
    ] {
        std::fs::write(&path, before).unwrap();
        assert_eq!(load(&plain).unwrap(), after, "{before:?}");
    }
    std::fs::write(&path, "7").unwrap();
    assert_eq!(load(&options().with_header(false).with_line_end(LineEnd::Crlf)).unwrap(), "7\r\n1\r\n");
    std::fs::write(&path, "7,8\n").unwrap();
    assert_eq!(load(&options().with_header(false)).unwrap_err().kind(), ErrorKind::SchemaMismatch);
    std::fs::write(&path, "\"n").unwrap();
    assert!(load(&plain).unwrap_err().to_string().contains("does not end"));
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "\"n");
    // Rows behind an open quote would be part of it.
    for (text, line) in [("n\n1\n\"2\n", 3), ("n\n\"1\n2\"\n\"", 4)] {
        std::fs::write(&path, text).unwrap();
        let error = load(&plain).unwrap_err();
        assert!(error.to_string().contains("the file ends within quotes"), "{error}");
        assert_eq!(error.position().line, Some(line));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
    }
}

#[test]
fn reading_a_file_that_is_appended_to_is_counted() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out.csv.zst");
    // A frame of one raw block, whose window is 64 MiB.
    std::fs::write(&path, [&[0x28, 0xb5, 0x2f, 0xfd, 0, 16 << 3, 1 | 4 << 3, 0, 0][..], b"n\n7\n"].concat()).unwrap();
    let plan = plan(&count(0..0).schema(), LoadMode::Append, 1);
    let begin = |memory| {
        let config = PerformanceConfig { max_memory_usage: memory, ..PerformanceConfig::default() };
        block_on(CsvLoader::new(&path).begin(&RunContext::new(config), plan.clone()))
    };
    let session = begin(1 << 30).unwrap();
    assert!(session.held_memory() > 64 << 20);
    drop(session);
    let error = begin(32 << 20).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::MemoryExceeded, "{error}");
}

#[test]
fn a_compressed_file_is_appended_to_as_it_is_compressed() {
    let read = |path: &Path, compression: Compression| {
        let file = std::io::BufReader::new(std::fs::File::open(path).unwrap());
        let mut text = String::new();
        compression.decompress(file, 16 << 20).unwrap().read_to_string(&mut text).unwrap();
        text
    };
    for (extension, compression) in [
        ("gz", Compression::Gzip(6)),
        ("zst", Compression::Zstd(3)),
        ("bz2", Compression::Bzip2(9)),
        ("xz", Compression::Xz(6)),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(format!("out.csv.{extension}"));
        let mut before = Vec::new();
        compression.compressor().unwrap().append_member(b"n\n0", &mut before).unwrap();
        std::fs::write(&path, before).unwrap();
        load_numbers(&path, false, LoadMode::Append, 1..5000).unwrap();
        assert_eq!(numbers(&read(&path, compression)), (0..5000).collect::<Vec<_>>());
        assert!(std::fs::metadata(&path).unwrap().len() < 15_000);
        // The name says nothing, and the file tells.
        let other = folder.path().join("out.csv");
        std::fs::rename(&path, &other).unwrap();
        load_numbers(&other, false, LoadMode::Append, 5000..5003).unwrap();
        assert_eq!(numbers(&read(&other, compression)), (0..5003).collect::<Vec<_>>());
        let contrary = loader(&other, false).with_options(options().with_compression(Compression::None));
        let error = load(&contrary, LoadMode::Append, &[vec![count(0..1)]]).unwrap_err();
        assert!(error.to_string().contains(compression.name()), "{error}");
        // A file that is cut off is not made longer.
        let whole = std::fs::read(&other).unwrap();
        std::fs::write(&other, &whole[..whole.len() - 3]).unwrap();
        let error = load_numbers(&other, false, LoadMode::Append, 0..3).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidData, "{error}");
        assert_eq!(names(folder.path()), ["out.csv"]);
    }
}

#[test]
fn a_compressed_directory_has_compressed_parts() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out.csv.zst");
    load_numbers(&path, true, LoadMode::Create, 0..3).unwrap();
    load_numbers(&path, true, LoadMode::Append, 3..5).unwrap();
    let parts: Vec<_> = names(&path).into_iter().filter(|name| name.ends_with(".csv.zst")).collect();
    assert_eq!(parts.len(), 4);
    assert_eq!(names(&path).len(), 5, "the parts and the manifest");
    load_numbers(&path, true, LoadMode::Replace, 0..1).unwrap();
    assert_eq!(names(&path).len(), 2);
}

#[test]
fn a_directory_with_other_things_in_it_is_left_alone() {
    for mode in [LoadMode::Append, LoadMode::Replace] {
        for other in ["notes.txt", "archive.tar.gz", "extra.csv", "_backup.csv", ".notes"] {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("out.csv");
            load_numbers(&path, true, LoadMode::Create, 0..3).unwrap();
            std::fs::write(path.join(other), "x").unwrap();
            let error = load_numbers(&path, true, mode, 0..1).unwrap_err();
            assert!(error.to_string().contains(other), "{error}");
            assert!(path.join(other).exists());
        }
    }
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("a.csv"), "n\n1\n").unwrap();
    let error = load_numbers(folder.path(), true, LoadMode::Append, 0..1).unwrap_err();
    assert!(error.to_string().contains("no manifest"), "{error}");
}

#[test]
fn the_preview_tells_forms_and_what_becomes_of_the_target() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out.csv");
    let check = |mode| block_on(CsvLoader::new(&path).check(&context(), &plan(&count(0..0).schema(), mode, 1)));
    assert_eq!(check(LoadMode::Create).unwrap().column_types, ["integer"]);
    load_numbers(&path, false, LoadMode::Create, 0..3).unwrap();
    assert!(check(LoadMode::Append).unwrap().notes[0].contains("stay"));
    assert!(check(LoadMode::Replace).unwrap().notes[0].contains("is replaced"));
    assert_eq!(check(LoadMode::Create).unwrap_err().kind(), ErrorKind::AlreadyExists);
    let binary = batch([("b", array(BinaryArray::from(vec![&b"\xca\xfe"[..]])))]);
    let preview = block_on(CsvLoader::new("x.csv").check(&context(), &plan(&binary.schema(), LoadMode::Create, 1)));
    assert!(preview.unwrap().notes[0].contains("hexadecimal"));
    assert_eq!(written(&options(), &binary).unwrap(), "b\ncafe\n");
}

#[test]
fn null_and_empty_text_and_the_spelling_of_null_are_told_apart() {
    let values = texts(&[None, Some(""), Some("NA"), Some("N"), Some(" ")]);
    assert_eq!(written(&options(), &values).unwrap(), "t\n\n\"\"\nNA\nN\n \n");
    let na = options().with_null_value("NA");
    assert_eq!(written(&na, &values).unwrap(), "t\nNA\n\"\"\n\"NA\"\nN\n \n");
    let number = record_batch([("n", vec![None, Some(1)])]);
    assert_eq!(written(&na, &number).unwrap(), "n\nNA\n1\n");
    for null in ["1", "-0", "1e3"] {
        let error = written(&options().with_null_value(null), &number).unwrap_err();
        assert_eq!(
            (error.kind(), error.position().column.as_deref()),
            (ErrorKind::InvalidConfig, Some("n")),
            "{error}"
        );
        assert!(written(&options().with_null_value(null), &values).is_ok());
    }
    assert!(written(&options().with_null_value("-"), &number).is_ok());
}

#[test]
fn options_change_the_text() {
    let tricky = batch([
        (
            "a,b",
            array(StringArray::from(vec![Some("x,y"), Some("say \"hi\""), Some("two\nlines"), Some("cr\r"), None])),
        ),
        ("n", array(Int32Array::from(vec![Some(1), None, Some(-3), Some(4), Some(5)]))),
    ]);
    let text = |options: CsvWriteOptions| written(&options, &tricky).unwrap();
    let records = "\"x,y\",1\n\"say \"\"hi\"\"\",\n\"two\nlines\",-3\n\"cr\r\",4\n,5\n";
    assert_eq!(text(options()), format!("\"a,b\",n\n{records}"));
    assert_eq!(text(options().with_header(false)), records);
    assert_eq!(
        text(options().with_delimiter(b';').with_quote(b'\'')),
        "a,b;n\nx,y;1\nsay \"hi\";\n'two\nlines';-3\n'cr\r';4\n;5\n"
    );
    assert_eq!(
        text(options().with_quoting(Quoting::All).with_line_end(LineEnd::Crlf)),
        "\"a,b\",\"n\"\r\n\"x,y\",\"1\"\r\n\"say \"\"hi\"\"\",\r\n\"two\nlines\",\"-3\"\r\n\"cr\r\",\"4\"\r\n,\"5\"\r\n"
    );
    assert!(text(options().with_quoting(Quoting::Text)).starts_with("\"a,b\",\"n\"\n\"x,y\",1\n"));
    let plain = texts(&[Some("x"), Some("a\"b")]);
    assert_eq!(written(&options().with_quote(Quote(None)), &plain).unwrap(), "t\nx\na\"b\n");
}

#[test]
fn quotes_that_are_needed_and_forbidden_are_an_error_with_the_place() {
    for without in [options().with_quoting(Quoting::None), options().with_quote(Quote(None))] {
        for value in ["", "x,y", "x\ny", "x\r"] {
            let values = texts(&[Some("fine"), None, Some(value)]);
            let error = written(&without, &values).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidData);
            assert!(error.to_string().contains("column \"t\": row 3 of partition 0 holds"), "{error}");
            assert!(!error.to_string().contains("x,y"), "{error}");
        }
        let named = record_batch([("a,b", vec![Some(1)])]);
        assert_eq!(written(&without, &named).unwrap_err().kind(), ErrorKind::InvalidConfig);
    }
}

#[test]
fn formulas_are_guarded_and_numbers_left() {
    let guard = options().with_formula_guard(true);
    let columns = |text: &'static str| {
        batch([("t", array(StringArray::from(vec![text]))), ("n", array(Int64Array::from(vec![-1])))])
    };
    for (value, expected) in [
        ("=1+1", "'=1+1"),
        ("+1", "'+1"),
        ("-1", "'-1"),
        ("@x", "'@x"),
        ("\tx", "'\tx"),
        ("\rx", "\"'\rx\""),
        ("=\"a\",1", "\"'=\"\"a\"\",1\""),
        ("a=1", "a=1"),
        ("", "\"\""),
    ] {
        assert_eq!(written(&guard, &columns(value)).unwrap(), format!("t,n\n{expected},-1\n"));
    }
    assert_eq!(written(&options(), &columns("=1+1")).unwrap(), "t,n\n=1+1,-1\n");
}

#[test]
fn what_csv_cannot_hold_is_refused_when_planned() {
    let list = ListArray::from_iter_primitive::<Int32Type, _, _>([Some(vec![Some(1)])]);
    for column in [
        array(list),
        array(IntervalYearMonthArray::from(vec![1])),
        array(DurationSecondArray::from(vec![1])),
        array(Date64Array::from(vec![0])),
    ] {
        let columns = batch([("good", array(Int32Array::from(vec![1]))), ("bad", column)]);
        let error = written(&options(), &columns).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::SchemaMismatch);
        assert!(error.to_string().contains("column \"bad\"") && error.to_string().contains("cast it to"), "{error}");
    }
    let none = plan(&Arc::new(Schema::empty()), LoadMode::Create, 1);
    let error = block_on(CsvLoader::new("x.csv").check(&context(), &none)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::SchemaMismatch);
    for wrong in [
        options().with_delimiter(b'"'),
        options().with_delimiter(b'1'),
        options().with_delimiter(b'\n'),
        options().with_quote(b'-'),
        options().with_quote(Quote(None)).with_quoting(Quoting::All),
        options().with_null_value("a,b"),
        options().with_compression(Compression::Gzip(11)),
    ] {
        assert_eq!(written(&wrong, &count(0..1)).unwrap_err().kind(), ErrorKind::InvalidConfig, "{wrong:?}");
    }
}

#[test]
fn values_beyond_the_forms_are_an_error_with_the_place() {
    for column in [
        array(Date32Array::from(vec![0, i32::MAX])),
        array(TimestampSecondArray::from(vec![0, i64::MAX])),
        array(Time64MicrosecondArray::from(vec![0, -1])),
    ] {
        let error = written(&options(), &batch([("when", column)])).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidData);
        assert!(error.to_string().contains("column \"when\": row 2 of partition 0 holds a"), "{error}");
    }
}

#[test]
fn a_first_field_is_not_taken_for_another_format() {
    for start in ["\u{feff}x", "PAR1", "BZh9", "PK\u{3}\u{4}"] {
        let named = record_batch([(start, vec![Some(1)])]);
        assert_eq!(written(&options(), &named).unwrap(), format!("\"{start}\"\n1\n"));
        let value = texts(&[Some(start)]);
        assert_eq!(written(&options().with_header(false), &value).unwrap(), format!("\"{start}\"\n"));
        assert_eq!(written(&options(), &value).unwrap(), format!("t\n{start}\n"));
    }
}

#[test]
fn the_connector_tells_files_from_directories_and_tabs_from_commas() {
    let folder = tempfile::tempdir().unwrap();
    let existing = folder.path().join("dir.csv");
    std::fs::create_dir(&existing).unwrap();
    let two = record_batch([("a", vec![Some(1)]), ("b", vec![Some(2)])]);
    for (name, directory, text) in [
        ("a.csv", false, Some("a,b\n1,2\n")),
        ("b.csv/", true, None),
        ("dir.csv", true, None),
        ("c.TSV", false, Some("a\tb\n1\t2\n")),
        ("c.tsv.gz", false, None),
        ("c.csv.xz", false, None),
    ] {
        let path = folder.path().join(name);
        let uri = Uri::new(path.to_str().unwrap());
        let loader = Registry::new().with(CsvConnector).find(&uri).unwrap().loader(&uri, &OptionMap::new()).unwrap();
        load(&*loader, LoadMode::Append, &[vec![two.clone()]]).unwrap();
        assert_eq!(path.is_dir(), directory, "{name}");
        if let Some(text) = text {
            assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
        }
        let options = OptionMap::from([("quotin".to_owned(), "all".to_owned())]);
        let error = CsvConnector.loader(&uri, &options).err().unwrap();
        assert!(error.to_string().contains("did you mean quoting?"), "{error}");
    }
    for name in ["a.gz", "csv.gz", ".csv", "a.csv.zip"] {
        assert!(Registry::new().with(CsvConnector).find(&Uri::new(name)).is_err(), "{name}");
    }
}

const TRICKY: [&str; 14] =
    ["", "NA", "x", ",", "\"", "a\"b", "two\nlines", "\r", "cr\r\n", " 名 ", "\"quoted\"", ";", "\t", "naïve"];

prop_compose! {
    fn rows()(
        rows in prop::collection::vec(
            (
                prop::option::of(prop_oneof![prop::sample::select(TRICKY.to_vec()).prop_map(str::to_owned), ".{0,40}"]),
                prop::option::of(any::<i64>()),
                prop::option::of(any::<f64>()),
                prop::option::of(-62_135_596_800_000_000i64..253_402_300_800_000_000),
                any::<bool>(),
            ),
            0..50,
        ),
    ) -> RecordBatch {
        let text: Vec<_> = rows.iter().map(|row| row.0.clone()).collect();
        let int: Vec<_> = rows.iter().map(|row| row.1).collect();
        let micros: Vec<_> = rows.iter().map(|row| row.3).collect();
        let narrow = |by: i64| int.iter().map(move |value| value.map(|value| value >> by));
        let decimal = |scale| {
            let values: Decimal128Array = int.iter().map(|value| value.map(|value| i128::from(value) * 977)).collect();
            values.with_precision_and_scale(38, scale).unwrap()
        };
        let day = 86_400_000_000;
        batch([
            ("utf8", array(text.iter().cloned().collect::<StringArray>())),
            ("large", array(text.iter().rev().cloned().collect::<LargeStringArray>())),
            ("view", array(text.iter().cloned().collect::<StringViewArray>())),
            ("dictionary", array(text.iter().map(Option::as_deref).collect::<DictionaryArray<Int8Type>>())),
            ("i64", array(Int64Array::from(int.clone()))),
            ("i8", array(narrow(56).map(|v| v.map(|v| v as i8)).collect::<Int8Array>())),
            ("u64", array(int.iter().map(|v| v.map(|v| v as u64)).collect::<UInt64Array>())),
            ("u16", array(narrow(48).map(|v| v.map(|v| v as u16)).collect::<UInt16Array>())),
            ("f64", array(rows.iter().map(|row| row.2).collect::<Float64Array>())),
            ("f32", array(rows.iter().map(|row| row.2.map(|value| value as f32)).collect::<Float32Array>())),
            ("d0", array(decimal(0))),
            ("d20", array(decimal(20))),
            ("date", array(micros.iter().map(|v| v.map(|v| v.div_euclid(day) as i32)).collect::<Date32Array>())),
            ("time", array(micros.iter().map(|v| v.map(|v| v.rem_euclid(day))).collect::<Time64MicrosecondArray>())),
            ("seconds", array(micros.iter().map(|v| v.map(|v| (v.rem_euclid(day) / 1_000_000) as i32))
                .collect::<Time32SecondArray>())),
            ("local", array(TimestampMicrosecondArray::from(micros.clone()))),
            ("milli", array(micros.iter().map(|v| v.map(|v| v.div_euclid(1000))).collect::<TimestampMillisecondArray>())),
            ("utc", array(TimestampMicrosecondArray::from(micros).with_timezone("Europe/Paris"))),
            ("bool", array(rows.iter().map(|row| Some(row.4)).collect::<BooleanArray>())),
            ("null", array(NullArray::new(rows.len()))),
        ])
    }
}

/// Loads `batch` in pieces of `size` rows and gives the checksum of what is read back, and how many blocks there may be.
fn read_back(loader: &CsvLoader, batch: &RecordBatch, size: usize) -> Option<Checksum> {
    block_on(async {
        let cx = context();
        let pieces: Vec<_> =
            (0..batch.num_rows()).step_by(size).map(|at| batch.slice(at, size.min(batch.num_rows() - at))).collect();
        let parts: Vec<_> = pieces.chunks(3).map(<[RecordBatch]>::to_vec).collect();
        let plan = plan(&batch.schema(), LoadMode::Replace, parts.len());
        let mut session = loader.begin(&cx, plan.clone()).await.unwrap();
        let receipts = stage(&cx.for_worker(64 << 10), &*session, &plan, &parts).await.unwrap();
        let scan = session.read_back(&cx, &receipts).await.unwrap()?;
        let snapshot = DatasetSnapshot::collect(&cx, &*scan).await.unwrap();
        session.commit(receipts).await.unwrap();
        Some(snapshot.checksum())
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn what_is_written_is_read(
        batch in rows(), size in 1usize..20, directory in any::<bool>(), header in any::<bool>(), crlf in any::<bool>(),
        null in prop::sample::select(vec!["", "NA", "\\N"]), delimiter in prop::sample::select(b",;\t: ".to_vec()),
        quoting in prop::sample::select(vec![Quoting::Needed, Quoting::All, Quoting::Text]),
    ) {
        let folder = tempfile::tempdir().unwrap();
        let options = options()
            .with_header(header)
            .with_line_end(if crlf { LineEnd::Crlf } else { LineEnd::Lf })
            .with_null_value(null)
            .with_delimiter(delimiter)
            .with_quoting(quoting);
        let loader = loader(&folder.path().join("out.csv"), directory).with_options(options);
        prop_assert_eq!(read_back(&loader, &batch, size), Some(Checksum::of_batch(&batch).unwrap()));
    }

    /// One column of nulls is a file of empty lines.
    #[test]
    fn a_single_column_is_read_as_it_was(values in prop::collection::vec(prop::option::of(prop::sample::select(TRICKY.to_vec())), 0..30)) {
        let folder = tempfile::tempdir().unwrap();
        let batch = texts(&values);
        for header in [true, false] {
            let loader = CsvLoader::new(folder.path().join("out.csv")).with_options(options().with_header(header));
            prop_assert_eq!(read_back(&loader, &batch, 7), Some(Checksum::of_batch(&batch).unwrap()));
        }
    }

    /// The search over all text and the look at each value quote the same.
    #[test]
    fn layouts_of_text_are_written_alike(values in prop::collection::vec(prop::option::of("[a,\"\n\r]{0,3}|[a-z,]{0,50}"), 0..80), from in 0usize..20) {
        let layouts = [
            array(values.iter().cloned().collect::<StringArray>()),
            array(values.iter().cloned().collect::<LargeStringArray>()),
            array(values.iter().cloned().collect::<StringViewArray>()),
            array(values.iter().map(Option::as_deref).collect::<DictionaryArray<Int32Type>>()),
        ];
        let from = from.min(values.len());
        let texts = layouts.map(|column| {
            written(&options(), &batch([("t", column)]).slice(from, values.len() - from)).unwrap()
        });
        let expected: String = values[from..].iter().map(|value| match value {
            None => "\n".to_owned(),
            Some(value) if value.is_empty() || value.contains([',', '"', '\n', '\r']) => {
                format!("\"{}\"\n", value.replace('"', "\"\""))
            }
            Some(value) => format!("{value}\n"),
        }).collect();
        for text in texts {
            prop_assert_eq!(text, format!("t\n{expected}"));
        }
    }
}

#[test]
fn what_cannot_be_read_as_it_was_is_not_read_back() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out.csv");
    let whole = batch([("t", array(TimestampNanosecondArray::from(vec![1000, 2_000_000])))]);
    let fine = batch([("t", array(TimestampNanosecondArray::from(vec![1, 2])))]);
    let plain = CsvLoader::new(&path);
    assert_eq!(read_back(&plain, &whole, 1), Some(Checksum::of_batch(&whole).unwrap()));
    let guarded = plain.clone().with_options(options().with_formula_guard(true));
    let packed = plain.clone().with_options(options().with_compression(Compression::Zstd(1)));
    let schema = Arc::new(Schema::new(vec![Field::new("n", DataType::Int64, true); 2]));
    let column = array(Int64Array::from(vec![1]));
    let twice = RecordBatch::try_new(schema, vec![column.clone(), column]).unwrap();
    let bytes = batch([("b", array(BinaryArray::from(vec![&b"a"[..]])))]);
    for (loader, batch, why) in [
        (&guarded, &count(0..1), "the option formula_guard changes text"),
        (&packed, &count(0..1), "the file is compressed"),
        (&plain, &twice, "other names that have none, or one that another has"),
        (&plain, &bytes, "column \"b\": binary is not read back as what it was"),
    ] {
        block_on(async {
            let cx = context();
            let mut plan = plan(&batch.schema(), LoadMode::Replace, 1);
            drop(loader.begin(&cx, plan.clone()).await.unwrap());
            plan.read_back = true;
            for error in [loader.check(&cx, &plan).await.unwrap_err(), loader.begin(&cx, plan).await.err().unwrap()] {
                assert_eq!(error.kind(), ErrorKind::Unsupported);
                assert!(error.to_string().contains(why), "{error}");
            }
        });
    }
    // Which times there are is known only when they have been written.
    block_on(async {
        let cx = context();
        let plan = plan(&fine.schema(), LoadMode::Replace, 1);
        let mut session = plain.begin(&cx, plan.clone()).await.unwrap();
        let receipts = stage(&cx, &*session, &plan, &[vec![fine.clone()]]).await.unwrap();
        let error = session.read_back(&cx, &receipts).await.err().unwrap();
        assert!(error.to_string().contains("a time has digits beyond the microsecond"), "{error}");
    });
}
