//! What a quarantine is replaced by when some of its records were loaded.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arrow_array::{Array, ArrayRef, BooleanArray, RecordBatch};
use arrow_schema::SchemaRef;
use arrow_select::filter::filter_record_batch;
use arrow_select::zip::zip;
use etlrs_core::{
    BatchStream, Checksum, Extractor, Fingerprint, Partition, Pushdown, Result, RunContext, RunId, Scan, ScanRequest,
    async_trait, map_stream, next_batch,
};

use super::rows::{Chosen, Rows};

/// The rows that stay.
#[derive(Clone)]
pub(super) struct Rest {
    snapshot: Arc<dyn Extractor>,
    /// The quarantine itself.
    live: Arc<dyn Extractor>,
    chosen: Chosen,
    run: RunId,
    /// Records that the run has set aside again.
    kept: Arc<AtomicU64>,
}

impl Rest {
    /// Of `snapshot`, taken of `live`, without those of `chosen`; those that `run` has set aside stay for good, and are counted in `kept`.
    pub(super) fn new(
        snapshot: Arc<dyn Extractor>,
        live: Arc<dyn Extractor>,
        chosen: Chosen,
        run: RunId,
        kept: Arc<AtomicU64>,
    ) -> Self {
        Self { snapshot, live, chosen, run, kept }
    }

    fn of(&self, batch: &RecordBatch) -> Result<RecordBatch> {
        let rows = Rows::of(batch)?;
        let run = self.run.to_string();
        let is_new = |row: usize| rows.replay.is_valid(row) && rows.run.value(row) == run;
        // Those of attempts that came to nothing: only one replay is at work on this target, and it is this one.
        let is_vain = |row: usize| rows.replay.is_valid(row) && self.chosen.goes_here(&rows, row);
        let stays = |row: usize| is_new(row) || !is_vain(row) && !self.chosen.has(&rows, row);
        let new: BooleanArray = (0..rows.len()).map(|row| Some(is_new(row))).collect();
        self.kept.fetch_add(new.true_count() as u64, Ordering::Relaxed);
        let columns = batch.schema_ref().fields().iter().zip(batch.columns()).map(|(field, column)| {
            if field.name() != "replay" || new.true_count() == 0 {
                return Ok(column.clone());
            }
            let nulls = arrow_array::new_null_array(column.data_type(), column.len());
            Ok(zip(&new, &nulls, column)?)
        });
        let columns = columns.collect::<Result<Vec<ArrayRef>>>()?;
        let kept: BooleanArray = (0..rows.len()).map(|row| Some(stays(row))).collect();
        Ok(filter_record_batch(&RecordBatch::try_new(batch.schema(), columns)?, &kept)?)
    }
}

#[async_trait]
impl Extractor for Rest {
    async fn scan(&self, cx: &RunContext, request: &ScanRequest) -> Result<Arc<dyn Scan>> {
        let mut of_snapshot = ScanRequest::all();
        of_snapshot.partitions = request.partitions;
        let snapshot = self.snapshot.scan(cx, &of_snapshot).await?;
        let held = held_by(&*snapshot, cx).await?;
        Ok(Arc::new(RestScan { rest: self.clone(), held, snapshot, cx: cx.clone() }))
    }
}

struct RestScan {
    rest: Rest,
    snapshot: Arc<dyn Scan>,
    /// What was in the quarantine when the snapshot was taken.
    held: Fingerprint,
    cx: RunContext,
}

#[async_trait]
impl Scan for RestScan {
    fn schema(&self) -> SchemaRef {
        self.snapshot.schema()
    }

    fn partitions(&self) -> &[Partition] {
        self.snapshot.partitions()
    }

    fn pushdown(&self) -> Pushdown {
        self.snapshot.pushdown()
    }

    fn min_memory(&self) -> usize {
        self.snapshot.min_memory()
    }

    /// Of the quarantine itself, which no run writes to when this is asked for the last time.
    async fn fingerprint(&self) -> Result<Fingerprint> {
        let live = self.rest.live.scan(&self.cx, &ScanRequest::all()).await?;
        let now = held_by(&*live, &self.cx).await?;
        Ok(if now == self.held { now } else { Fingerprint::new(format!("{} (changed)", now.as_str())) })
    }

    fn read(&self, cx: &RunContext, partition: &Partition) -> Result<BatchStream> {
        let rest = self.rest.clone();
        Ok(map_stream(self.snapshot.read(cx, partition)?, move |batch| rest.of(&batch)))
    }
}

/// What a quarantine holds, whatever the order.
async fn held_by(scan: &dyn Scan, cx: &RunContext) -> Result<Fingerprint> {
    let mut held = Checksum::default();
    for partition in scan.partitions() {
        let mut stream = scan.read(cx, partition)?;
        while let Some(batch) = next_batch(&mut stream).await {
            held.merge(&Rows::of(&batch?)?.checksum()?);
        }
    }
    Ok(Fingerprint::new(format!("{} {held}", held.rows())))
}
