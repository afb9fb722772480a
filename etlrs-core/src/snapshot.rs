use std::time::SystemTime;

use arrow_array::RecordBatch;
use arrow_schema::SchemaRef;

use crate::{Checksum, Error, ErrorKind, Record, Result, RunContext, Scan, SchemaHash};

/// A data set held in memory: small tables for lookups, results of tests.
#[derive(Clone, Debug)]
pub struct DatasetSnapshot {
    schema: SchemaRef,
    batches: Vec<RecordBatch>,
    checksum: Checksum,
    timestamp: SystemTime,
}

impl DatasetSnapshot {
    /// Of batches that all have `schema`.
    ///
    /// # Errors
    /// `SchemaMismatch` if one has another; `Unsupported` if no checksum is defined for a type.
    pub fn new(schema: SchemaRef, batches: Vec<RecordBatch>) -> Result<Self> {
        for batch in &batches {
            if batch.schema_ref().fields() != schema.fields() {
                return Err(Error::new(ErrorKind::SchemaMismatch, "the batches of a snapshot have several schemas"));
            }
        }
        let checksum = batches.iter().map(Checksum::of_batch).collect::<Result<_>>()?;
        Ok(Self { schema, batches, checksum, timestamp: SystemTime::now() })
    }

    /// Reads all of `scan`, one partition after another, in order.
    ///
    /// # Errors
    /// Those of the scan, and `MemoryExceeded` when the data is larger than the memory budget.
    pub async fn collect(cx: &RunContext, scan: &dyn Scan) -> Result<Self> {
        let mut batches = Vec::new();
        let mut held = 0;
        for partition in scan.partitions() {
            let mut stream = scan.read(cx, partition)?;
            while let Some(batch) = crate::next_batch(&mut stream).await {
                let batch = batch?;
                held += crate::batch_bytes(&batch);
                if held > cx.memory().limit() {
                    return Err(Error::new(
                        ErrorKind::MemoryExceeded,
                        "the data set is larger than the memory budget, so it cannot be held whole",
                    )
                    .hint("give a larger budget, or fewer columns"));
                }
                batches.push(batch);
            }
        }
        Self::new(scan.schema(), batches)
    }

    /// Schema of every batch.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// The batches, in order.
    pub fn batches(&self) -> &[RecordBatch] {
        &self.batches
    }

    /// Number of rows.
    pub fn total_count(&self) -> u64 {
        self.checksum.rows()
    }

    /// Order-free checksum of the rows.
    pub fn checksum(&self) -> Checksum {
        self.checksum
    }

    /// Hash of names and types.
    pub fn schema_hash(&self) -> SchemaHash {
        SchemaHash::of(&self.schema)
    }

    /// When the snapshot was taken.
    pub fn timestamp(&self) -> SystemTime {
        self.timestamp
    }

    /// All rows, in order.
    pub fn records(&self) -> impl Iterator<Item = Record<'_>> {
        self.batches.iter().flat_map(Record::all)
    }

    /// The rows in slices of at most `rows`, which threads can work on side by side. Nothing is copied.
    pub fn chunks(&self, rows: usize) -> impl Iterator<Item = RecordBatch> + Send + '_ {
        let rows = rows.max(1);
        self.batches.iter().flat_map(move |batch| {
            (0..batch.num_rows()).step_by(rows).map(move |start| batch.slice(start, rows.min(batch.num_rows() - start)))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record_batch;

    #[test]
    fn chunks_are_the_rows_in_order() {
        let batches =
            vec![record_batch([("x", vec![Some(1), Some(2), Some(3)])]), record_batch([("x", vec![Some(4)])])];
        let snapshot = DatasetSnapshot::new(batches[0].schema(), batches).unwrap();
        assert_eq!(snapshot.total_count(), 4);
        assert_eq!(snapshot.chunks(2).map(|chunk| chunk.num_rows()).collect::<Vec<_>>(), [2, 1, 1]);
        let values: Vec<_> = snapshot.records().map(|record| record.i64(0).unwrap().unwrap()).collect();
        assert_eq!(values, [1, 2, 3, 4]);
    }
}
