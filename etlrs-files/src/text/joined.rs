use std::sync::Arc;

use arrow_schema::SchemaRef;
use async_trait::async_trait;
use etlrs_core::{BatchStream, Error, ErrorKind, Fingerprint, Partition, PartitionId, Result, RunContext, Scan};

/// The scans of several files, which have one schema, as one.
pub struct JoinedScan {
    schema: SchemaRef,
    scans: Vec<Arc<dyn Scan>>,
    /// Of which scan each partition is which.
    inner: Vec<(usize, PartitionId)>,
    partitions: Vec<Partition>,
}

impl JoinedScan {
    /// All partitions of `scans`, one scan after another; the schema is that of the first.
    pub fn new(schema: SchemaRef, scans: Vec<Arc<dyn Scan>>) -> Self {
        let (mut inner, mut partitions) = (Vec::new(), Vec::new());
        for (index, scan) in scans.iter().enumerate() {
            for partition in scan.partitions() {
                inner.push((index, partition.id));
                partitions.push(Partition::new(partitions.len(), partition.descriptor.clone()));
            }
        }
        Self { schema, scans, inner, partitions }
    }
}

#[async_trait]
impl Scan for JoinedScan {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    fn partitions(&self) -> &[Partition] {
        &self.partitions
    }

    async fn fingerprint(&self) -> Result<Fingerprint> {
        let mut text = String::new();
        for scan in &self.scans {
            text.push_str(scan.fingerprint().await?.as_str());
        }
        Ok(Fingerprint::new(text))
    }

    fn read(&self, cx: &RunContext, partition: &Partition) -> Result<BatchStream> {
        let found = self.inner.get(partition.id.index()).and_then(|&(scan, id)| {
            let scan = self.scans.get(scan)?;
            scan.partitions().get(id.index()).map(|partition| scan.read(cx, partition))
        });
        found.ok_or_else(|| Error::new(ErrorKind::Internal, format!("there is no partition {}", partition.id)))?
    }
}
