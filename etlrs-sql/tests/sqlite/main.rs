//! The SQLite connector against real database files.

// The helpers of tests are tests as well.
#![allow(clippy::unwrap_used)]

mod cursor;
mod extract;
mod load;
mod round_trip;
mod speed;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use etlrs_core::arrow_array::{ArrayRef, RecordBatch};
use etlrs_core::*;
use etlrs_sql::{SqliteExtractor, SqliteLoader, SqliteSourceOptions};
use rusqlite::Connection;

/// Runs a future that waits for nothing but local files.
fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}

fn context(batch_size: usize) -> RunContext {
    RunContext::new(PerformanceConfig { batch_size, max_threads: 2, ..PerformanceConfig::default() })
}

/// A database in a folder of its own.
struct Database {
    folder: tempfile::TempDir,
}

impl Database {
    fn new(sql: &str) -> Self {
        let database = Self { folder: tempfile::tempdir().unwrap() };
        if !sql.is_empty() {
            database.execute(sql);
        }
        database
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("test.db")
    }

    fn connect(&self) -> Connection {
        Connection::open(self.path()).unwrap()
    }

    fn execute(&self, sql: &str) {
        self.connect().execute_batch(sql).unwrap();
    }

    fn text(&self, sql: &str) -> String {
        self.connect().query_row(sql, [], |row| row.get(0)).unwrap()
    }

    /// Everything that the catalogue lists.
    fn things(&self) -> String {
        self.text("SELECT ifnull(group_concat(type || ' ' || name, ', '), '') FROM (SELECT * FROM sqlite_master ORDER BY lower(name))")
    }

    fn files(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.folder.path()).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn read(&self, table: &str) -> Result<DatasetSnapshot> {
        read(&SqliteExtractor::new(self.path(), table), &ScanRequest::all(), 7)
    }

    fn read_as(&self, table: &str, types: &str) -> Result<DatasetSnapshot> {
        let options = SqliteSourceOptions::from_pairs([("types", types)])?;
        read(&SqliteExtractor::new(self.path(), table).with_options(options), &ScanRequest::all(), 7)
    }

    fn loader(&self, table: &str) -> SqliteLoader {
        SqliteLoader::new(self.path(), table)
    }

    fn load(&self, table: &str, mode: LoadMode, batch: &RecordBatch) -> Result<Published> {
        load(&self.loader(table), mode, std::slice::from_ref(batch))
    }
}

fn read(extractor: &SqliteExtractor, request: &ScanRequest, batch_size: usize) -> Result<DatasetSnapshot> {
    let cx = context(batch_size);
    run(async {
        let scan = extractor.scan(&cx, request).await?;
        DatasetSnapshot::collect(&cx, &*scan).await
    })
}

fn plan(mode: LoadMode, batches: &[RecordBatch]) -> LoadPlan {
    let partitions = (0..batches.len()).map(|index| Partition::new(index, "p")).collect();
    LoadPlan::new(batches[0].schema(), mode, partitions)
}

/// Begins, and writes each batch as a partition of its own.
async fn stage(
    cx: &RunContext,
    loader: &SqliteLoader,
    mode: LoadMode,
    batches: &[RecordBatch],
) -> Result<(Box<dyn LoadSession>, Vec<Receipt>)> {
    let plan = plan(mode, batches);
    let session = loader.begin(cx, plan.clone()).await?;
    let mut receipts = Vec::new();
    for (partition, batch) in plan.partitions.iter().zip(batches) {
        let mut writer = session.writer(cx, partition, 1).await?;
        writer.write(batch.clone()).await?;
        receipts.push(writer.finish().await?);
    }
    Ok((session, receipts))
}

/// A whole load, whose staged rows are compared with what was written.
fn load(loader: &SqliteLoader, mode: LoadMode, batches: &[RecordBatch]) -> Result<Published> {
    let cx = context(7);
    run(async {
        let (mut session, receipts) = stage(&cx, loader, mode, batches).await?;
        let staged = session.read_back(&cx, &receipts).await?.unwrap();
        let staged = DatasetSnapshot::collect(&cx, &*staged).await?;
        let written = batches.iter().map(|batch| Checksum::of_batch(batch).unwrap()).collect();
        assert_eq!(staged.checksum(), written, "what is staged is not what was written");
        session.commit(receipts).await
    })
}

/// Merges `batches`, each as a partition of its own, by `keys`.
fn merge(loader: &SqliteLoader, keys: &[&str], batches: &[RecordBatch]) -> Result<Published> {
    let mut plan = plan(LoadMode::Merge, batches);
    plan.keys = keys.iter().map(|key| (*key).to_owned()).collect();
    let cx = context(7);
    run(async {
        loader.check(&cx, &plan).await?;
        let session = loader.begin(&cx, plan.clone()).await?;
        let mut receipts = Vec::new();
        for (partition, batch) in plan.partitions.iter().zip(batches) {
            let mut writer = session.writer(&cx, partition, 1).await?;
            writer.write(batch.clone()).await?;
            receipts.push(writer.finish().await?);
        }
        session.commit(receipts).await
    })
}

fn batch(columns: Vec<(&str, ArrayRef)>) -> RecordBatch {
    RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, column)| (name, column, true))).unwrap()
}

fn numbers(name: &str, values: impl IntoIterator<Item = i64>) -> RecordBatch {
    record_batch([(name, values.into_iter().map(Some).collect())])
}

fn ints(snapshot: &DatasetSnapshot, column: usize) -> Vec<i64> {
    snapshot.records().map(|record| record.i64(column).unwrap().unwrap()).collect()
}

fn show(path: &Path) -> String {
    path.display().to_string()
}

/// The error of a call that must fail, of that kind and with those words.
fn refused<T>(result: Result<T>, kind: ErrorKind, words: &[&str]) -> Error {
    let Err(error) = result else { panic!("this should have failed with {kind:?}: {words:?}") };
    assert_eq!(error.kind(), kind, "{error}");
    for word in words {
        assert!(error.to_string().contains(word), "{word:?} is not in: {error}");
    }
    error
}

#[test]
fn uris_and_options() {
    let database = Database::new("CREATE TABLE orders (id INTEGER); CREATE TABLE _etlrs_staging_x (id INTEGER)");
    let path = show(&database.path());
    let registry = Registry::new().with(etlrs_sql::SqliteConnector);
    let none = OptionMap::new();
    for uri in [format!("sqlite:{path}#orders"), format!("sqlite://{path}#orders")] {
        let uri = Uri::new(uri);
        let connector = registry.find(&uri).unwrap();
        let extractor = connector.extractor(&uri, &none).unwrap();
        run(extractor.scan(&context(1), &ScanRequest::all())).unwrap();
        connector.loader(&uri, &none).unwrap();
        let wrong = [("busy_timout".to_owned(), "1".to_owned())].into();
        refused(connector.extractor(&uri, &wrong), ErrorKind::InvalidConfig, &["did you mean busy_timeout"]);
        let wrong = [("busy_timeout".to_owned(), "99999999".to_owned())].into();
        refused(connector.loader(&uri, &wrong), ErrorKind::InvalidConfig, &["at most 86400"]);
    }
    for uri in [format!("sqlite:{path}"), format!("sqlite:{path}#")] {
        let uri = Uri::new(uri);
        let connector = registry.find(&uri).unwrap();
        let error = refused(connector.extractor(&uri, &none), ErrorKind::InvalidConfig, &["#orders", "no table"]);
        assert!(!error.to_string().contains("_etlrs_"), "{error}");
        refused(connector.loader(&uri, &none), ErrorKind::InvalidConfig, &["no table", "#TABLE"]);
    }
    let uri = Uri::new("sqlite:#t");
    refused(registry.find(&uri).unwrap().loader(&uri, &none), ErrorKind::InvalidConfig, &["no database file"]);
}

fn array(values: impl etlrs_core::arrow_array::Array + 'static) -> ArrayRef {
    Arc::new(values)
}
