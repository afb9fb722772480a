//! A source and a target in memory: for tests, for examples, and as the smallest whole connector to read.

use std::sync::{Arc, Mutex, PoisonError};

use arrow_array::RecordBatch;
use arrow_schema::SchemaRef;
use async_trait::async_trait;

use crate::*;

/// Gives batches that are in memory already.
#[derive(Clone, Debug)]
pub struct MemoryExtractor {
    schema: SchemaRef,
    batches: Arc<[RecordBatch]>,
}

impl MemoryExtractor {
    /// Of batches that all have `schema`.
    pub fn new(schema: SchemaRef, batches: impl Into<Arc<[RecordBatch]>>) -> Self {
        Self { schema, batches: batches.into() }
    }
}

#[async_trait]
impl Extractor for MemoryExtractor {
    async fn scan(&self, _: &RunContext, request: &ScanRequest) -> Result<Arc<dyn Scan>> {
        let projection = request.projection(&self.schema)?;
        let wanted = request.partitions.unwrap_or(1).clamp(1, self.batches.len().max(1));
        let per_partition = self.batches.len().div_ceil(wanted).max(1);
        let count = self.batches.len().div_ceil(per_partition).max(1);
        let partitions = (0..count).map(|index| {
            let from = index * per_partition;
            let to = (from + per_partition).min(self.batches.len());
            let rows = self.batches[from..to].iter().map(|batch| batch.num_rows() as u64).sum();
            Partition::new(index, format!("batches {from}..{to}")).with_rows(rows)
        });
        Ok(Arc::new(MemoryScan {
            schema: Arc::new(self.schema.project(&projection)?),
            projection,
            partitions: partitions.collect(),
            batches: self.batches.clone(),
            per_partition,
        }))
    }
}

struct MemoryScan {
    schema: SchemaRef,
    projection: Vec<usize>,
    partitions: Vec<Partition>,
    batches: Arc<[RecordBatch]>,
    per_partition: usize,
}

#[async_trait]
impl Scan for MemoryScan {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    fn partitions(&self) -> &[Partition] {
        &self.partitions
    }

    fn pushdown(&self) -> Pushdown {
        Pushdown::columns()
    }

    async fn fingerprint(&self) -> Result<Fingerprint> {
        Ok(Fingerprint::new("memory"))
    }

    fn read(&self, cx: &RunContext, partition: &Partition) -> Result<BatchStream> {
        let from = partition.id.index() * self.per_partition;
        let to = (from + self.per_partition).min(self.batches.len());
        let (batches, projection) = (self.batches.clone(), self.projection.clone());
        let rows = cx.config().batch_size;
        let slices = (from..to).flat_map(move |index| {
            let batch = batches[index].project(&projection);
            let starts = (0..batches[index].num_rows()).step_by(rows);
            starts.map(move |start| match &batch {
                Ok(batch) => Ok(batch.slice(start, rows.min(batch.num_rows() - start))),
                Err(error) => Err(Error::new(ErrorKind::Internal, error.to_string())),
            })
        });
        Ok(batches_from_iter(slices))
    }
}

/// Keeps what it is given in memory. Clones are the same target.
#[derive(Clone, Debug, Default)]
pub struct MemoryLoader {
    published: Arc<Mutex<Option<Table>>>,
}

type Table = (SchemaRef, Vec<RecordBatch>);

impl MemoryLoader {
    /// An empty target.
    pub fn new() -> Self {
        Self::default()
    }

    /// What has been published.
    ///
    /// # Errors
    /// `NotFound` before the first commit.
    pub fn snapshot(&self) -> Result<DatasetSnapshot> {
        let published = self.published.lock().unwrap_or_else(PoisonError::into_inner);
        let (schema, batches) =
            published.clone().ok_or_else(|| Error::new(ErrorKind::NotFound, "nothing has been loaded yet"))?;
        DatasetSnapshot::new(schema, batches)
    }

    fn check_plan(&self, plan: &LoadPlan) -> Result<()> {
        self.capabilities().require(plan.mode, "memory")?;
        let published = self.published.lock().unwrap_or_else(PoisonError::into_inner);
        match (&*published, plan.mode) {
            (Some(_), LoadMode::Create) => {
                Err(Error::new(ErrorKind::AlreadyExists, "the target exists").hint("use mode append or replace"))
            }
            (Some((schema, _)), LoadMode::Append) if schema.fields() != plan.schema.fields() => {
                Err(Error::new(ErrorKind::SchemaMismatch, "the target has other columns"))
            }
            _ => Ok(()),
        }
    }
}

#[async_trait]
impl Loader for MemoryLoader {
    fn capabilities(&self) -> LoadCapabilities {
        LoadCapabilities::one_writer()
            .modes(&[LoadMode::Create, LoadMode::Append, LoadMode::Replace])
            .max_writers(usize::MAX)
    }

    async fn check(&self, _: &RunContext, plan: &LoadPlan) -> Result<LoadPreview> {
        self.check_plan(plan)?;
        Ok(LoadPreview::default())
    }

    async fn begin(&self, _: &RunContext, plan: LoadPlan) -> Result<Box<dyn LoadSession>> {
        self.check_plan(&plan)?;
        let staged = plan.partitions.iter().map(|_| None).collect::<Vec<_>>();
        Ok(Box::new(MemorySession { target: self.clone(), plan, staged: Arc::new(Mutex::new(staged)) }))
    }
}

type Staged = Arc<Mutex<Vec<Option<Vec<RecordBatch>>>>>;

struct MemorySession {
    target: MemoryLoader,
    plan: LoadPlan,
    staged: Staged,
}

impl MemorySession {
    fn batches(&self) -> Vec<RecordBatch> {
        let staged = self.staged.lock().unwrap_or_else(PoisonError::into_inner);
        staged.iter().flatten().flatten().cloned().collect()
    }
}

#[async_trait]
impl LoadSession for MemorySession {
    async fn writer(&self, _: &RunContext, partition: &Partition, _: u32) -> Result<Box<dyn PartitionWriter>> {
        Ok(Box::new(MemoryWriter { staged: self.staged.clone(), partition: partition.id, batches: Vec::new() }))
    }

    async fn read_back(&mut self, cx: &RunContext, _: &[Receipt]) -> Result<Option<Arc<dyn Scan>>> {
        MemoryExtractor::new(self.plan.schema.clone(), self.batches()).scan(cx, &ScanRequest::all()).await.map(Some)
    }

    async fn commit(self: Box<Self>, receipts: Vec<Receipt>) -> Result<Published> {
        let mut batches = self.batches();
        let mut published = self.target.published.lock().unwrap_or_else(PoisonError::into_inner);
        if let (LoadMode::Append, Some((_, old))) = (self.plan.mode, published.take()) {
            batches.splice(0..0, old);
        }
        *published = Some((self.plan.schema.clone(), batches));
        Ok(Published::new(receipts.iter().map(|receipt| receipt.rows).sum(), 0))
    }

    async fn abort(self: Box<Self>) -> Result<()> {
        Ok(())
    }
}

struct MemoryWriter {
    staged: Staged,
    partition: PartitionId,
    batches: Vec<RecordBatch>,
}

#[async_trait]
impl PartitionWriter for MemoryWriter {
    async fn write(&mut self, batch: RecordBatch) -> Result<()> {
        self.batches.push(batch);
        Ok(())
    }

    async fn finish(self: Box<Self>) -> Result<Receipt> {
        let rows = self.batches.iter().map(|batch| batch.num_rows() as u64).sum();
        let mut staged = self.staged.lock().unwrap_or_else(PoisonError::into_inner);
        let slot = staged.get_mut(self.partition.index()).ok_or_else(|| {
            Error::new(ErrorKind::Internal, format!("partition {} is not in the plan", self.partition))
        })?;
        *slot = Some(self.batches);
        Ok(Receipt::new(self.partition, rows, 0))
    }
}

/// A batch of nullable 64-bit integers, for examples and tests.
///
/// # Panics
/// If the columns differ in length.
pub fn record_batch<'a>(columns: impl IntoIterator<Item = (&'a str, Vec<Option<i64>>)>) -> RecordBatch {
    let columns = columns
        .into_iter()
        .map(|(name, values)| (name, Arc::new(arrow_array::Int64Array::from(values)) as arrow_array::ArrayRef, true));
    RecordBatch::try_from_iter_with_nullable(columns).expect("columns of equal length make a batch")
}
