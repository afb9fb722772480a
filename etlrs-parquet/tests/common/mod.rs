//! What the tests share. Each test file uses a part of it.
#![allow(dead_code)]

use std::path::Path;
use std::sync::Arc;

use etlrs_core::*;
use etlrs_parquet::ParquetExtractor;
use futures_util::future::try_join_all;

pub(crate) fn context() -> RunContext {
    RunContext::new(PerformanceConfig { max_memory_usage: 64 << 20, ..PerformanceConfig::default() })
}

pub(crate) fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}

pub(crate) fn plan(schema: &SchemaRef, mode: LoadMode, partitions: usize) -> LoadPlan {
    let partitions = (0..partitions).map(|index| Partition::new(index, format!("part {index}"))).collect();
    LoadPlan::new(schema.clone(), mode, partitions)
}

/// Writes each partition with a writer of its own; `order` is that in which the writers come to finish.
pub(crate) async fn stage(
    cx: &RunContext,
    session: &dyn LoadSession,
    plan: &LoadPlan,
    parts: &[Vec<RecordBatch>],
    order: &[usize],
) -> Result<Vec<Receipt>> {
    let writers = order.iter().map(|&index| async move {
        let mut writer = session.writer(cx, &plan.partitions[index], 1).await?;
        for batch in &parts[index] {
            writer.write(batch.clone()).await?;
        }
        writer.finish().await
    });
    let mut receipts = try_join_all(writers).await?;
    receipts.sort_by_key(|receipt| receipt.partition);
    Ok(receipts)
}

pub(crate) async fn load(
    cx: &RunContext,
    loader: &dyn Loader,
    schema: &SchemaRef,
    mode: LoadMode,
    parts: &[Vec<RecordBatch>],
) -> Result<Published> {
    let plan = plan(schema, mode, parts.len());
    let session = loader.begin(cx, plan.clone()).await?;
    let order: Vec<_> = (0..parts.len()).rev().collect();
    let receipts = stage(cx, &*session, &plan, parts, &order).await?;
    session.commit(receipts).await
}

pub(crate) async fn drain(cx: &RunContext, scan: &dyn Scan) -> Result<Vec<RecordBatch>> {
    let mut batches = Vec::new();
    for partition in scan.partitions() {
        let mut stream = scan.read(cx, partition)?;
        let mut rows = 0;
        while let Some(batch) = next_batch(&mut stream).await {
            let batch = batch?;
            assert_eq!(batch.schema(), scan.schema());
            rows += batch.num_rows() as u64;
            batches.push(batch);
        }
        assert_eq!(partition.rows, Some(rows));
    }
    Ok(batches)
}

pub(crate) async fn extract(path: &Path, request: &ScanRequest) -> Result<(Arc<dyn Scan>, Vec<RecordBatch>)> {
    let cx = context();
    let scan = ParquetExtractor::new(path).scan(&cx, request).await?;
    let batches = drain(&cx, &*scan).await?;
    Ok((scan, batches))
}

pub(crate) fn checksum(batches: &[RecordBatch]) -> Checksum {
    batches.iter().map(|batch| Checksum::of_batch(batch).unwrap()).collect()
}

/// The values of the first column, which are 64-bit integers.
pub(crate) fn numbers(batches: &[RecordBatch]) -> Vec<i64> {
    use arrow_array::cast::AsArray;
    use arrow_array::types::Int64Type;
    batches.iter().flat_map(|batch| batch.column(0).as_primitive::<Int64Type>().values().to_vec()).collect()
}

pub(crate) fn count(range: std::ops::Range<i64>) -> RecordBatch {
    record_batch([("n", range.map(Some).collect())])
}

pub(crate) fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}
