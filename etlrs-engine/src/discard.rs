use std::sync::Arc;

use etlrs_core::{
    LoadCapabilities, LoadMode, LoadPlan, LoadPreview, LoadSession, Loader, Partition, PartitionId, PartitionWriter,
    Published, Receipt, RecordBatch, Result, RunContext, Scan, async_trait,
};

/// A target that keeps nothing: for what is to be left out, such as the records that a source rejects when it is
/// [compared](crate::Pipeline::compare).
#[derive(Clone, Copy, Debug)]
pub struct Discard;

#[async_trait]
impl Loader for Discard {
    fn capabilities(&self) -> LoadCapabilities {
        LoadCapabilities::one_writer().max_writers(usize::MAX).modes(&LoadMode::ALL)
    }

    async fn check(&self, _: &RunContext, _: &LoadPlan) -> Result<LoadPreview> {
        Ok(LoadPreview::default())
    }

    async fn begin(&self, _: &RunContext, _: LoadPlan) -> Result<Box<dyn LoadSession>> {
        Ok(Box::new(Discard))
    }
}

#[async_trait]
impl LoadSession for Discard {
    async fn writer(&self, _: &RunContext, partition: &Partition, _: u32) -> Result<Box<dyn PartitionWriter>> {
        Ok(Box::new(Counted { partition: partition.id, rows: 0 }))
    }

    async fn read_back(&mut self, _: &RunContext, _: &[Receipt]) -> Result<Option<Arc<dyn Scan>>> {
        Ok(None)
    }

    async fn commit(self: Box<Self>, receipts: Vec<Receipt>) -> Result<Published> {
        Ok(Published::new(receipts.iter().map(|receipt| receipt.rows).sum(), 0))
    }

    async fn abort(self: Box<Self>) -> Result<()> {
        Ok(())
    }
}

struct Counted {
    partition: PartitionId,
    rows: u64,
}

#[async_trait]
impl PartitionWriter for Counted {
    async fn write(&mut self, batch: RecordBatch) -> Result<()> {
        self.rows += batch.num_rows() as u64;
        Ok(())
    }

    async fn finish(self: Box<Self>) -> Result<Receipt> {
        Ok(Receipt::new(self.partition, self.rows, 0))
    }
}
