//! What a quarantine is replaced by when some of its records were loaded.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow_array::{Array, ArrayRef, BooleanArray, RecordBatch, StringArray};
use arrow_schema::SchemaRef;
use arrow_select::filter::filter_record_batch;
use arrow_select::zip::zip;
use etlrs_core::{
    BatchStream, Extractor, Fingerprint, Partition, Pushdown, Result, RunContext, RunId, Scan, ScanRequest,
    async_trait, map_stream, next_batch,
};

use super::rows::{Chosen, Rows};
use crate::pipeline::projected;

/// The rows that stay.
#[derive(Clone)]
pub(super) struct Rest {
    snapshot: Arc<dyn Extractor>,
    /// The quarantine itself.
    live: Arc<dyn Extractor>,
    chosen: Chosen,
    /// What the rows of the replay are marked with.
    id: Option<Arc<str>>,
    run: RunId,
}

impl Rest {
    /// Of `snapshot`, taken of `live`, without those of `chosen`; those that `run` has set aside stay for good.
    pub(super) fn new(
        snapshot: Arc<dyn Extractor>,
        live: Arc<dyn Extractor>,
        chosen: Chosen,
        id: Option<Arc<str>>,
        run: RunId,
    ) -> Self {
        Self { snapshot, live, chosen, id, run }
    }

    fn of(&self, batch: &RecordBatch) -> Result<RecordBatch> {
        let rows = Rows::of(batch)?;
        let run = self.run.to_string();
        let is_new = |row: usize| rows.replay.is_valid(row) && rows.run.value(row) == run;
        // Those of an attempt at the same replay that came to nothing.
        let is_vain = |row: usize| rows.replay.is_valid(row) && Some(rows.replay.value(row)) == self.id.as_deref();
        let stays = |row: usize| is_new(row) || !is_vain(row) && !self.chosen.has(&rows, row);
        let new: BooleanArray = (0..rows.len()).map(|row| Some(is_new(row))).collect();
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
        let mut held = BTreeMap::new();
        for partition in snapshot.partitions() {
            count(&mut held, snapshot.read(cx, partition)?).await?;
        }
        Ok(Arc::new(RestScan { rest: self.clone(), held: of_counts(&held), snapshot, cx: cx.clone() }))
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

    /// Of the quarantine itself, which nobody else writes to when this is asked for the last time. Rows come and go by whole runs,
    /// so it is enough to count those.
    async fn fingerprint(&self) -> Result<Fingerprint> {
        let request = ScanRequest::all().columns(["run", "replay"]);
        let live = projected(&*self.rest.live, &self.cx, &request).await?;
        let mut held = BTreeMap::new();
        for partition in live.partitions() {
            count(&mut held, live.read(&self.cx, partition)?).await?;
        }
        let now = of_counts(&held);
        Ok(if now == self.held { now } else { Fingerprint::new(format!("{} (changed)", now.as_str())) })
    }

    fn read(&self, cx: &RunContext, partition: &Partition) -> Result<BatchStream> {
        let rest = self.rest.clone();
        Ok(map_stream(self.snapshot.read(cx, partition)?, move |batch| rest.of(&batch)))
    }
}

type Counts = BTreeMap<(String, Option<String>), u64>;

/// Counts the rows of each run, and of each replay.
async fn count(held: &mut Counts, mut stream: BatchStream) -> Result<()> {
    while let Some(batch) = next_batch(&mut stream).await {
        let batch = batch?;
        let text = |name: &str| -> Result<StringArray> {
            let column =
                batch.column_by_name(name).map(|column| arrow_cast::cast(column, &arrow_schema::DataType::Utf8));
            let empty = || arrow_array::new_null_array(&arrow_schema::DataType::Utf8, batch.num_rows());
            Ok(arrow_array::cast::AsArray::as_string::<i32>(&column.transpose()?.unwrap_or_else(empty)).clone())
        };
        let (runs, replays) = (text("run")?, text("replay")?);
        for row in 0..batch.num_rows() {
            let replay = replays.is_valid(row).then(|| replays.value(row).to_owned());
            *held.entry((runs.value(row).to_owned(), replay)).or_default() += 1;
        }
    }
    Ok(())
}

fn of_counts(held: &Counts) -> Fingerprint {
    Fingerprint::new(super::digest(&format!("{held:?}")))
}
