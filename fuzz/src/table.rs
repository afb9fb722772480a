//! Tables that were read, and whether they are the same.

use std::cell::RefCell;
use std::path::PathBuf;

use etlrs_core::arrow_array::RecordBatch;
use etlrs_core::{ErrorKind, Extractor, Result, RunContext, ScanRequest, SchemaRef, next_batch};

/// All rows of a source.
#[derive(Debug)]
pub(crate) struct Table {
    pub(crate) schema: SchemaRef,
    pub(crate) batches: Vec<RecordBatch>,
    pub(crate) rows: usize,
}

pub(crate) fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}

/// Reads all partitions in order, up to the first error, as the engine does: a guess that was wrong is not made again.
pub(crate) fn read(extractor: &dyn Extractor, cx: &RunContext, request: &ScanRequest) -> Result<Table> {
    match read_once(extractor, cx, request) {
        Err(error) if error.kind() == ErrorKind::SplitRefuted => {
            assert!(request.guess, "nothing was guessed and refuted all the same: {error}");
            read_once(extractor, cx, &request.clone().guess(false))
        }
        read => read,
    }
}

fn read_once(extractor: &dyn Extractor, cx: &RunContext, request: &ScanRequest) -> Result<Table> {
    block_on(async {
        let scan = extractor.scan(cx, request).await?;
        let schema = scan.schema();
        let (mut batches, mut rows) = (Vec::new(), 0);
        for (index, partition) in scan.partitions().iter().enumerate() {
            assert_eq!(partition.id.index(), index);
            let mut stream = scan.read(cx, partition)?;
            let before = rows;
            while let Some(batch) = next_batch(&mut stream).await {
                let batch = batch?;
                assert_eq!(batch.schema(), schema);
                assert!(batch.num_rows() <= cx.config().batch_size, "{} rows", batch.num_rows());
                rows += batch.num_rows();
                batches.push(batch);
            }
            if let Some(promised) = partition.rows {
                assert_eq!(promised, (rows - before) as u64, "{}", partition.descriptor);
            }
        }
        Ok(Table { schema, batches, rows })
    })
}

/// Panics unless both are the same rows, however they are cut into batches, or the same error in the same place.
pub(crate) fn assert_same(one: &Result<Table>, other: &Result<Table>, what: &str) {
    match (one, other) {
        (Ok(one), Ok(other)) => one.assert_same_rows(other, what),
        (Err(one), Err(other)) => {
            assert_eq!(one.to_string(), other.to_string(), "{what}");
            assert_eq!(one.kind(), other.kind(), "{what}");
        }
        (Ok(table), Err(error)) => panic!("{what}: {} rows, and then {error}", table.rows),
        (Err(error), Ok(table)) => panic!("{what}: {error}, and then {} rows", table.rows),
    }
}

impl Table {
    pub(crate) fn assert_same_rows(&self, other: &Self, what: &str) {
        assert_eq!(self.schema, other.schema, "{what}");
        assert_eq!(self.rows, other.rows, "{what}");
        let (mut ours, mut theirs) = (self.pieces(), other.pieces());
        let (mut our, mut their) = (ours.next(), theirs.next());
        while let (Some(one), Some(two)) = (&our, &their) {
            let rows = one.num_rows().min(two.num_rows());
            assert_eq!(one.slice(0, rows), two.slice(0, rows), "{what}");
            let rest =
                |batch: &RecordBatch| (batch.num_rows() > rows).then(|| batch.slice(rows, batch.num_rows() - rows));
            (our, their) = (rest(one).or_else(|| ours.next()), rest(two).or_else(|| theirs.next()));
        }
    }

    fn pieces(&self) -> impl Iterator<Item = RecordBatch> {
        self.batches.iter().filter(|batch| batch.num_rows() > 0).cloned()
    }
}

/// `bytes` as a file of this name, until the thread makes the next one of it.
pub(crate) fn file(name: &str, bytes: &[u8]) -> PathBuf {
    thread_local! {
        static FOLDER: RefCell<Option<tempfile::TempDir>> = const { RefCell::new(None) };
    }
    FOLDER.with_borrow_mut(|folder| {
        let path = folder.get_or_insert_with(|| tempfile::tempdir().unwrap()).path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    })
}
