//! A connector of somebody else, written against `etlrs-core` alone, in a pipeline. Everything between the two lines is
//! what they had to write.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

mod connector {
    // ---
    use std::sync::{Arc, Mutex};

    use etlrs_core::*;

    /// Squares of the numbers below `0`, in partitions of 1000.
    pub(crate) struct Squares(pub(crate) i64);

    struct SquaresScan(Vec<Partition>, i64);

    #[async_trait]
    impl Extractor for Squares {
        async fn scan(&self, _: &RunContext, _: &ScanRequest) -> Result<Arc<dyn Scan>> {
            let starts = (0..self.0).step_by(1000);
            let partitions = starts.enumerate().map(|(index, start)| Partition::new(index, format!("from {start}")));
            Ok(Arc::new(SquaresScan(partitions.collect(), self.0)))
        }
    }

    #[async_trait]
    impl Scan for SquaresScan {
        fn schema(&self) -> SchemaRef {
            record_batch([("n", vec![]), ("square", vec![])]).schema()
        }
        fn partitions(&self) -> &[Partition] {
            &self.0
        }
        async fn fingerprint(&self) -> Result<Fingerprint> {
            Ok(Fingerprint::new(self.1.to_string()))
        }
        fn read(&self, cx: &RunContext, partition: &Partition) -> Result<BatchStream> {
            let start = i64::from(partition.id.0) * 1000;
            let (end, rows) = ((start + 1000).min(self.1), cx.config().batch_size);
            Ok(batches_from_iter((start..end).step_by(rows).map(move |first| {
                let numbers = first..end.min(first + rows as i64);
                let squares = numbers.clone().map(|n| Some(n * n)).collect();
                Ok(record_batch([("n", numbers.map(Some).collect()), ("square", squares)]))
            })))
        }
    }

    /// Keeps the sum of all numbers of each load.
    #[derive(Clone, Default)]
    pub(crate) struct Sums(pub(crate) Arc<Mutex<Vec<i64>>>);

    struct SumWriter(PartitionId, Arc<Mutex<i64>>, i64, u64);

    #[async_trait]
    impl SimpleLoader for Sums {
        type Staged = Arc<Mutex<i64>>;

        async fn begin(&self, _: &RunContext, _: &LoadPlan) -> Result<Self::Staged> {
            Ok(Arc::default())
        }
        async fn writer(&self, staged: &Self::Staged, partition: &Partition) -> Result<Box<dyn PartitionWriter>> {
            Ok(Box::new(SumWriter(partition.id, staged.clone(), 0, 0)))
        }
        async fn commit(&self, staged: Self::Staged, receipts: &[Receipt]) -> Result<Published> {
            self.0.lock().unwrap().push(*staged.lock().unwrap());
            Ok(Published::new(receipts.iter().map(|receipt| receipt.rows).sum(), 0))
        }
    }

    #[async_trait]
    impl PartitionWriter for SumWriter {
        async fn write(&mut self, batch: RecordBatch) -> Result<()> {
            self.3 += batch.num_rows() as u64;
            for record in Record::all(&batch) {
                self.2 += record.i64("square")?.unwrap_or(0);
            }
            Ok(())
        }
        async fn finish(self: Box<Self>) -> Result<Receipt> {
            *self.1.lock().unwrap() += self.2;
            Ok(Receipt::new(self.0, self.3, 0))
        }
    }
    // ---
}

use connector::{Squares, Sums};
use etlrs::{LoadMode, PerformanceConfig, PipelineBuilder, SqliteLoader, Verify, one_writer};

#[test]
fn a_third_partys_connector_is_a_source_and_a_target() {
    let folder = tempfile::tempdir().unwrap();
    let database = folder.path().join("squares.db");
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let config = PerformanceConfig { batch_size: 300, max_threads: 4, ..PerformanceConfig::default() };
    let builder = || PipelineBuilder::new().extract(Squares(4500)).mode(LoadMode::Replace).config(config.clone());

    let loaded = builder().load(SqliteLoader::new(&database, "squares")).verify(Verify::Full).build().unwrap();
    let report = runtime.block_on(loaded.execute()).unwrap();
    assert_eq!((report.rows_read, report.load.records_loaded, report.partitions), (4500, 4500, 5));
    let stored: i64 = rusqlite::Connection::open(&database)
        .and_then(|database| database.query_row("select sum(square) from squares", [], |row| row.get(0)))
        .unwrap();

    let sums = Sums::default();
    let summed = builder().load(one_writer(sums.clone())).build().unwrap();
    let again = runtime.block_on(summed.execute()).unwrap();
    assert_eq!(again.source_checksum, report.source_checksum);
    let expected: i64 = (0..4500).map(|n| n * n).sum();
    assert_eq!((stored, sums.0.lock().unwrap().as_slice()), (expected, &[expected][..]));
}

#[test]
fn it_is_short() {
    let source = include_str!("third_party.rs");
    let connector = source.split("    // ---\n").nth(1).unwrap();
    let lines = connector.lines().filter(|line| !line.trim().is_empty()).count();
    assert!(lines < 80, "{lines} lines");
}
