use std::sync::Arc;

use async_trait::async_trait;

use crate::{
    LoadCapabilities, LoadPlan, LoadPreview, LoadSession, Loader, Partition, PartitionWriter, Published, Receipt,
    Result, RunContext, Scan,
};

/// A target with one writer at a time and nothing to resume: the short way to a [`Loader`], by [`one_writer`].
#[async_trait]
pub trait SimpleLoader: Send + Sync + 'static {
    /// What a run has staged. Dropping it removes it, and leaves the target as it was.
    type Staged: Send + Sync;

    /// Checks the plan, its mode above all, and opens an empty staging area.
    async fn begin(&self, cx: &RunContext, plan: &LoadPlan) -> Result<Self::Staged>;

    /// Opens the writer of a partition, in the order of the partitions, after the one before it has finished. If it is
    /// dropped instead of finished, the partition comes again, and what that writer staged must be gone.
    async fn writer(&self, staged: &Self::Staged, partition: &Partition) -> Result<Box<dyn PartitionWriter>>;

    /// Publishes what was staged, all at once.
    async fn commit(&self, staged: Self::Staged, receipts: &[Receipt]) -> Result<Published>;
}

/// The [`Loader`] that a [`SimpleLoader`] is.
pub fn one_writer<S: SimpleLoader>(loader: S) -> impl Loader {
    OneWriter(Arc::new(loader))
}

/// Why staged rows cannot be read back.
const NOT_SHOWN: &str = "the target shows nothing before it is published";

struct OneWriter<S>(Arc<S>);

#[async_trait]
impl<S: SimpleLoader> Loader for OneWriter<S> {
    fn capabilities(&self) -> LoadCapabilities {
        LoadCapabilities::one_writer()
    }

    async fn check(&self, _: &RunContext, plan: &LoadPlan) -> Result<LoadPreview> {
        plan.refuse_read_back(NOT_SHOWN)?;
        Ok(LoadPreview::default())
    }

    async fn begin(&self, cx: &RunContext, plan: LoadPlan) -> Result<Box<dyn LoadSession>> {
        plan.refuse_read_back(NOT_SHOWN)?;
        let staged = self.0.begin(cx, &plan).await?;
        Ok(Box::new(Session { loader: self.0.clone(), staged }))
    }
}

struct Session<S: SimpleLoader> {
    loader: Arc<S>,
    staged: S::Staged,
}

#[async_trait]
impl<S: SimpleLoader> LoadSession for Session<S> {
    async fn writer(&self, _: &RunContext, partition: &Partition, _: u32) -> Result<Box<dyn PartitionWriter>> {
        self.loader.writer(&self.staged, partition).await
    }

    async fn read_back(&mut self, _: &RunContext, _: &[Receipt]) -> Result<Option<Arc<dyn Scan>>> {
        Ok(None)
    }

    async fn commit(self: Box<Self>, receipts: Vec<Receipt>) -> Result<Published> {
        self.loader.commit(self.staged, &receipts).await
    }

    async fn abort(self: Box<Self>) -> Result<()> {
        Ok(())
    }
}
