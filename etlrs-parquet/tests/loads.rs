//! What a target shows to its readers, whatever happens to the load.

// A test fails by panicking.
#![allow(clippy::unwrap_used)]

mod common;

use std::path::Path;
use std::sync::Arc;

use arrow_array::*;
use common::*;
use etlrs_core::*;
use etlrs_parquet::*;

fn loader(path: &Path, directory: bool) -> ParquetLoader {
    if directory { ParquetLoader::directory(path) } else { ParquetLoader::new(path) }
}

fn read_numbers(path: &Path) -> Vec<i64> {
    numbers(&block_on(extract(path, &ScanRequest::all())).unwrap().1)
}

fn load_numbers(path: &Path, directory: bool, mode: LoadMode, range: std::ops::Range<i64>) -> Result<Published> {
    let middle = i64::midpoint(range.start, range.end);
    let parts = [vec![count(range.start..middle)], vec![], vec![count(middle..range.end)]];
    block_on(load(&context(), &loader(path, directory), &parts[0][0].schema(), mode, &parts))
}

#[test]
fn modes_do_what_they_say() {
    for directory in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out.parquet");
        let published = load_numbers(&path, directory, LoadMode::Append, 0..10).unwrap();
        assert_eq!(published.rows, 10);
        let before = read_numbers(&path);
        assert_eq!(
            load_numbers(&path, directory, LoadMode::Create, 0..1).unwrap_err().kind(),
            ErrorKind::AlreadyExists
        );
        assert_eq!(read_numbers(&path), before);
        assert_eq!(load_numbers(&path, directory, LoadMode::Append, 10..15).unwrap().rows, 5);
        assert_eq!(load_numbers(&path, directory, LoadMode::Append, 15..15).unwrap().rows, 0);
        assert_eq!(load_numbers(&path, directory, LoadMode::Append, 15..16).unwrap().rows, 1);
        assert_eq!(read_numbers(&path), (0..16).collect::<Vec<_>>());
        load_numbers(&path, directory, LoadMode::Replace, 3..5).unwrap();
        assert_eq!(read_numbers(&path), [3, 4]);
        assert_eq!(load_numbers(&path, directory, LoadMode::Merge, 0..1).unwrap_err().kind(), ErrorKind::Unsupported);
        assert_eq!(names(folder.path()), ["out.parquet"]);
    }
}

#[test]
fn a_table_without_rows_keeps_its_schema() {
    for directory in [false, true] {
        for partitions in [0, 1, 3] {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("out.parquet");
            let schema = count(0..0).schema();
            let parts = vec![vec![]; partitions];
            let published =
                block_on(load(&context(), &loader(&path, directory), &schema, LoadMode::Create, &parts)).unwrap();
            assert_eq!(published.rows, 0);
            let (scan, batches) = block_on(extract(&path, &ScanRequest::all())).unwrap();
            assert_eq!((scan.schema(), batches.len(), scan.partitions().len()), (schema, 0, 1));
        }
    }
}

#[test]
fn the_old_data_stays_until_the_commit_and_read_back_shows_the_new_rows_only() {
    for directory in [false, true] {
        for mode in [LoadMode::Append, LoadMode::Replace] {
            for commit in [true, false] {
                let folder = tempfile::tempdir().unwrap();
                let path = folder.path().join("out.parquet");
                load_numbers(&path, directory, LoadMode::Create, 0..10).unwrap();
                block_on(async {
                    let cx = context();
                    let plan = plan(&count(0..0).schema(), mode, 2);
                    let mut session = loader(&path, directory).begin(&cx, plan.clone()).await.unwrap();
                    let parts = [vec![count(10..12)], vec![count(12..14)]];
                    let receipts = stage(&cx, &*session, &plan, &parts, &[1, 0]).await.unwrap();
                    let scan = session.read_back(&cx, &receipts).await.unwrap().unwrap();
                    let staged = drain(&cx, &*scan).await.unwrap();
                    assert_eq!(numbers(&staged), [10, 11, 12, 13]);
                    assert_eq!(
                        numbers(&extract(&path, &ScanRequest::all()).await.unwrap().1),
                        (0..10).collect::<Vec<_>>()
                    );
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
                assert_eq!(names(folder.path()), ["out.parquet"]);
            }
        }
    }
}

#[test]
fn read_back_of_an_append_without_rows_is_empty() {
    for directory in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out.parquet");
        load_numbers(&path, directory, LoadMode::Create, 0..3).unwrap();
        block_on(async {
            let cx = context();
            let plan = plan(&count(0..0).schema(), LoadMode::Append, 1);
            let mut session = loader(&path, directory).begin(&cx, plan.clone()).await.unwrap();
            let receipts = stage(&cx, &*session, &plan, &[vec![]], &[0]).await.unwrap();
            let scan = session.read_back(&cx, &receipts).await.unwrap().unwrap();
            assert_eq!(drain(&cx, &*scan).await.unwrap(), []);
            assert_eq!(scan.schema(), count(0..0).schema());
            session.commit(receipts).await.unwrap();
        });
        assert_eq!(read_numbers(&path), [0, 1, 2]);
    }
}

#[test]
fn a_second_attempt_writes_its_rows_once() {
    for directory in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out.parquet");
        block_on(async {
            let cx = context();
            let plan = plan(&count(0..0).schema(), LoadMode::Create, 2);
            let session = loader(&path, directory).begin(&cx, plan.clone()).await.unwrap();
            let mut first = session.writer(&cx, &plan.partitions[0], 1).await.unwrap();
            first.write(count(0..5)).await.unwrap();
            drop(first);
            let receipts =
                stage(&cx, &*session, &plan, &[vec![count(0..7)], vec![count(7..9)]], &[1, 0]).await.unwrap();
            session.commit(receipts).await.unwrap();
        });
        assert_eq!(read_numbers(&path), (0..9).collect::<Vec<_>>());
    }
}

/// Numbers that neither a dictionary nor a codec makes small.
fn noise(seed: i64, rows: usize) -> RecordBatch {
    let values =
        std::iter::successors(Some(seed), |x| Some(x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(99)));
    record_batch([("n", values.take(rows).map(Some).collect())])
}

#[test]
fn a_partition_that_is_in_the_file_cannot_be_tried_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out.parquet");
    block_on(async {
        let cx = context();
        let plan = plan(&count(0..0).schema(), LoadMode::Create, 1);
        let session = ParquetLoader::new(&path).begin(&cx, plan.clone()).await.unwrap();
        let mut first = session.writer(&cx.for_worker(64 << 10), &plan.partitions[0], 1).await.unwrap();
        for seed in 0..30 {
            first.write(noise(seed, 1000)).await.unwrap();
        }
        drop(first);
        let error = session.writer(&cx, &plan.partitions[0], 2).await.err().unwrap();
        assert!(!error.is_transient());
        assert!(error.to_string().contains("cannot be tried again"), "{error}");
    });
    assert_eq!(names(folder.path()), [""; 0]);
}

#[test]
fn a_directory_takes_back_what_a_failed_attempt_wrote() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out.parquet");
    block_on(async {
        let cx = context();
        let plan = plan(&count(0..0).schema(), LoadMode::Create, 1);
        let session = ParquetLoader::directory(&path).begin(&cx, plan.clone()).await.unwrap();
        for attempt in 1..3 {
            let mut writer = session.writer(&cx.for_worker(64 << 10), &plan.partitions[0], attempt).await.unwrap();
            for seed in 0..30 {
                writer.write(noise(seed, 1000)).await.unwrap();
            }
            match attempt {
                1 => drop(writer),
                // The receipt is lost: a third attempt comes.
                _ => drop(writer.finish().await.unwrap()),
            }
        }
        let receipts = stage(&cx, &*session, &plan, &[vec![count(0..3)]], &[0]).await.unwrap();
        session.commit(receipts).await.unwrap();
    });
    assert_eq!(read_numbers(&path), [0, 1, 2]);
    assert_eq!(names(&path).len(), 2, "the file and the manifest");
}

#[test]
fn a_writer_holds_what_it_may_and_waits_for_its_turn_beyond() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out.parquet");
    block_on(async {
        let cx = context();
        let plan = plan(&count(0..0).schema(), LoadMode::Create, 2);
        let session = ParquetLoader::new(&path).begin(&cx, plan.clone()).await.unwrap();
        let small = cx.for_worker(256 << 10);
        let mut first = session.writer(&small, &plan.partitions[0], 1).await.unwrap();
        let mut second = session.writer(&small, &plan.partitions[1], 1).await.unwrap();
        let mut seed = 0;
        let mut write_second = Box::pin(async {
            while seed < 100 {
                second.write(noise(seed, 1000)).await.unwrap();
                seed += 1;
            }
            second.finish().await.unwrap()
        });
        assert!(futures_util::FutureExt::now_or_never(&mut write_second).is_none());
        assert!(std::fs::metadata(&path).is_err());
        for batch in 0..100 {
            first.write(noise(1000 + batch, 1000)).await.unwrap();
        }
        let first = first.finish().await.unwrap();
        let second = write_second.await;
        session.commit(vec![first, second]).await.unwrap();
    });
    let (scan, batches) = block_on(extract(&path, &ScanRequest::all().partitions(1000))).unwrap();
    let expected: Vec<_> = (1000..1100).chain(0..100).map(|seed| noise(seed, 1000)).collect();
    assert_eq!(numbers(&batches), numbers(&expected));
    assert!(scan.partitions().len() > 10, "{} row groups", scan.partitions().len());
}

#[test]
fn a_session_that_is_dropped_leaves_nothing() {
    for directory in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out.parquet");
        block_on(async {
            let cx = context();
            let plan = plan(&count(0..0).schema(), LoadMode::Create, 1);
            let session = loader(&path, directory).begin(&cx, plan.clone()).await.unwrap();
            let locked = loader(&path, directory).begin(&context(), plan.clone()).await.err().unwrap();
            assert_eq!(locked.kind(), ErrorKind::Locked);
            stage(&cx, &*session, &plan, &[vec![count(0..3)]], &[0]).await.unwrap();
            drop(session);
        });
        assert_eq!(names(folder.path()), [""; 0]);
    }
}

#[test]
fn a_target_with_other_columns_is_not_appended_to() {
    for directory in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out.parquet");
        load_numbers(&path, directory, LoadMode::Create, 0..3).unwrap();
        let text: ArrayRef = Arc::new(StringArray::from(vec!["x"]));
        let number: ArrayRef = Arc::new(Int64Array::from(vec![1]));
        for (columns, column) in [
            (vec![("n", text.clone())], "n"),
            (vec![("m", number.clone())], "m"),
            (vec![("n", number.clone()), ("more", number.clone())], "more"),
        ] {
            let batch =
                RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, c)| (name, c, true))).unwrap();
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
fn text_is_appended_to_text_however_it_is_laid_out() {
    for directory in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out.parquet");
        let layouts: [(ArrayRef, bool); 4] = [
            (Arc::new(LargeStringArray::from(vec![Some("a"), None])), true),
            (Arc::new(StringArray::from(vec!["b"])), false),
            (Arc::new(StringViewArray::from(vec![Some("c"), None])), true),
            (Arc::new(["d", "d"].into_iter().collect::<DictionaryArray<types::Int32Type>>()), true),
        ];
        let mut sources = Vec::new();
        for (column, nullable) in layouts {
            let batch = RecordBatch::try_from_iter_with_nullable([("t", column, nullable)]).unwrap();
            let parts = [vec![batch.clone()]];
            block_on(load(&context(), &loader(&path, directory), &batch.schema(), LoadMode::Append, &parts)).unwrap();
            sources.push(batch);
        }
        let (scan, batches) = block_on(extract(&path, &ScanRequest::all())).unwrap();
        assert_eq!(scan.schema().field(0).data_type(), &DataType::LargeUtf8);
        assert_eq!(checksum(&batches), checksum(&sources));
    }
}

/// A file that says JSON must not hold other text, for its readers take it at its word.
#[test]
fn text_is_not_appended_to_json_and_json_is_appended_to_text() {
    let field = Field::new("j", DataType::Utf8, true);
    let batch = |field: Field, text: &str| {
        let column: ArrayRef = Arc::new(StringArray::from(vec![text]));
        RecordBatch::try_new(Arc::new(Schema::new(vec![field])), vec![column]).unwrap()
    };
    let (json, text) = (batch(as_json_text(field.clone()), "[1]"), batch(field, "plain"));
    let append = |path: &Path, batch: &RecordBatch| {
        let parts = [vec![batch.clone()]];
        block_on(load(&context(), &loader(path, false), &batch.schema(), LoadMode::Append, &parts))
    };
    let folder = tempfile::tempdir().unwrap();
    let (of_json, of_text) = (folder.path().join("1.parquet"), folder.path().join("2.parquet"));
    append(&of_json, &json).unwrap();
    let error = append(&of_json, &text).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::SchemaMismatch);
    assert!(error.to_string().contains("the type is text, and is JSON in the file that exists"), "{error}");
    append(&of_json, &json).unwrap();
    append(&of_text, &text).unwrap();
    append(&of_text, &json).unwrap();
    let is_json = |path: &Path| {
        let (scan, _) = block_on(extract(path, &ScanRequest::all())).unwrap();
        is_json_text(scan.schema().field(0))
    };
    assert_eq!((is_json(&of_json), is_json(&of_text)), (true, false));
    // Of several files, only what all of them say, whichever comes first.
    assert!(!is_json(folder.path()));
}

#[test]
fn a_directory_with_other_things_in_it_is_left_alone() {
    for mode in [LoadMode::Append, LoadMode::Replace] {
        for other in ["notes.txt", "year=2024", "extra.parquet", "_backup.parquet", ".notes", "_README.md"] {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("out.parquet");
            load_numbers(&path, true, LoadMode::Create, 0..3).unwrap();
            if other.contains('.') {
                std::fs::write(path.join(other), "x").unwrap();
            } else {
                std::fs::create_dir(path.join(other)).unwrap();
            }
            let error = load_numbers(&path, true, mode, 0..1).unwrap_err();
            assert!(error.to_string().contains(other), "{error}");
            assert!(path.join(other).exists());
        }
    }
}

#[test]
fn a_directory_without_a_manifest_is_appended_to() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out.parquet");
    std::fs::create_dir(&path).unwrap();
    load_numbers(&path.join("b.parquet"), false, LoadMode::Create, 5..9).unwrap();
    load_numbers(&path.join("a.parquet"), false, LoadMode::Create, 0..5).unwrap();
    std::fs::write(path.join("_SUCCESS"), "").unwrap();
    load_numbers(&path, true, LoadMode::Append, 9..11).unwrap();
    assert_eq!(read_numbers(&path), (0..11).collect::<Vec<_>>());
    let empty = folder.path().join("empty.parquet");
    std::fs::create_dir(&empty).unwrap();
    load_numbers(&empty, true, LoadMode::Append, 0..2).unwrap();
    assert_eq!(read_numbers(&empty), [0, 1]);
}

#[test]
fn the_preview_tells_types_and_what_becomes_of_the_target() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out.parquet");
    let check = |mode| block_on(ParquetLoader::new(&path).check(&context(), &plan(&count(0..0).schema(), mode, 1)));
    assert_eq!(check(LoadMode::Create).unwrap().column_types, ["INT64"]);
    load_numbers(&path, false, LoadMode::Create, 0..3).unwrap();
    assert!(check(LoadMode::Append).unwrap().notes[0].contains("3 rows, which stay"));
    assert!(check(LoadMode::Replace).unwrap().notes[0].contains("is replaced"));
    assert_eq!(check(LoadMode::Create).unwrap_err().kind(), ErrorKind::AlreadyExists);
}

#[test]
fn options_change_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out.parquet");
    let size = |options: ParquetWriteOptions| {
        let batch = count(0..100_000);
        let parts = [vec![batch.clone()]];
        let loader = ParquetLoader::new(&path).with_options(options);
        let published = block_on(load(&context(), &loader, &batch.schema(), LoadMode::Replace, &parts)).unwrap();
        assert_eq!(read_numbers(&path), numbers(&[batch]));
        published.bytes
    };
    let options = ParquetWriteOptions::default;
    let texts = |compression: Compression, dictionary: bool| {
        let column = arrow_array::StringArray::from_iter_values((0..20_000).map(|n| format!("text {}", n % 100)));
        let batch = RecordBatch::try_from_iter([("t", Arc::new(column) as ArrayRef)]).unwrap();
        let loader =
            ParquetLoader::new(&path).with_options(options().with_compression(compression).with_dictionary(dictionary));
        let parts = [vec![batch.clone()]];
        let published = block_on(load(&context(), &loader, &batch.schema(), LoadMode::Replace, &parts)).unwrap();
        assert_eq!(checksum(&block_on(extract(&path, &ScanRequest::all())).unwrap().1), checksum(&[batch]));
        published.bytes
    };
    let plain = texts(Compression::None, false);
    for codec in
        [Compression::Snappy, Compression::Zstd(3), Compression::Gzip(6), Compression::Lz4Raw, Compression::Brotli(1)]
    {
        assert!(texts(codec, false) < plain, "{codec:?}");
        texts(codec, true);
    }
    assert!(texts(Compression::None, true) < plain);
    size(options().with_row_group_size(30_000_usize));
    let (scan, _) = block_on(extract(&path, &ScanRequest::all().partitions(100))).unwrap();
    assert_eq!(scan.partitions().iter().filter_map(|p| p.rows).collect::<Vec<_>>(), [30_000, 30_000, 30_000, 10_000]);
    let level = ParquetLoader::new(&path).with_options(options().with_compression(Compression::Zstd(99)));
    let error = block_on(level.check(&context(), &plan(&count(0..0).schema(), LoadMode::Replace, 1))).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidConfig);
}

#[test]
fn the_connector_tells_files_from_directories() {
    let folder = tempfile::tempdir().unwrap();
    let existing = folder.path().join("dir.parquet");
    std::fs::create_dir(&existing).unwrap();
    for (name, directory) in [("a.parquet", false), ("b.parquet/", true), ("dir.parquet", true)] {
        let path = folder.path().join(name);
        let uri = Uri::new(path.to_str().unwrap());
        let loader =
            Registry::new().with(ParquetConnector).find(&uri).unwrap().loader(&uri, &OptionMap::new()).unwrap();
        let parts = [vec![count(0..2)]];
        block_on(load(&context(), &*loader, &parts[0][0].schema(), LoadMode::Append, &parts)).unwrap();
        assert_eq!(path.is_dir(), directory, "{name}");
        assert_eq!(read_numbers(&path), [0, 1]);
    }
}
