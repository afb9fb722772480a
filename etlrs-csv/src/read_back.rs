//! Staged records as a scan, for a check before they are published.

use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use arrow_schema::{Schema, SchemaRef};
use async_trait::async_trait;
use etlrs_core::{
    BatchStream, ColumnTypes, Error, ErrorKind, Extractor, Fingerprint, MemoryExtractor, Partition, Result, RunContext,
    Scan, ScanRequest,
};
use etlrs_files::Compression;

use crate::layout::Layout;
use crate::{CsvExtractor, CsvOptions, CsvWriteOptions, Encoding, Escape};

/// Where records of the load are.
pub(crate) struct Piece {
    pub(crate) path: PathBuf,
    pub(crate) ranges: Vec<Range<u64>>,
}

/// What was written, read as the types that it was written from; `None` where that cannot be.
pub(crate) async fn staged_scan(
    cx: &RunContext,
    layout: &Layout,
    options: &CsvWriteOptions,
    pieces: Vec<Piece>,
) -> Result<Option<Arc<dyn Scan>>> {
    let names = layout.schema.fields().iter().map(|field| field.name());
    let unique = names.clone().collect::<std::collections::BTreeSet<_>>().len() == names.len();
    // Types are given by name, and other names than these would be changed by reading them.
    if options.header && !(unique && names.clone().all(|name| !name.is_empty())) {
        return Ok(None);
    }
    // The extractor reads at places in the file.
    let Some(types) = layout.read_as.as_ref().filter(|_| layout.compression == Compression::None) else {
        return Ok(None);
    };
    let names = names.enumerate().map(|(index, name)| match options.header {
        true => name.clone(),
        false => format!("column_{}", index + 1),
    });
    let read = CsvOptions::default()
        .with_header(options.header)
        .with_delimiter(options.delimiter)
        .with_quote(options.quote)
        .with_escape(Escape(None))
        .with_skip_lines(0)
        .with_encoding(Encoding::Utf8)
        .with_null_values(match options.null_value.as_str() {
            "" => Vec::new(),
            null => vec![null.to_owned()],
        })
        .with_infer(false)
        .with_types(ColumnTypes(names.zip(types.iter().cloned()).collect()));
    let mut scans = Vec::new();
    let mut partitions = Vec::new();
    for Piece { path, ranges } in pieces {
        if ranges.is_empty() {
            continue;
        }
        let describe = |(index, range): (usize, &Range<u64>)| {
            Partition::new(index, format!("bytes {}..{}", range.start, range.end)).with_bytes(range.end - range.start)
        };
        let mut request = ScanRequest::all();
        let recorded: Vec<_> = ranges.iter().enumerate().map(describe).collect();
        request.recorded = Some(recorded.clone());
        let scan = CsvExtractor::new(path).with_options(read.clone()).scan(cx, &request).await?;
        for partition in recorded {
            let index = partitions.len();
            partitions.push((scans.len(), partition.id, Partition::new(index, partition.descriptor)));
        }
        scans.push(scan);
    }
    let Some(first) = scans.first() else {
        let fields = layout.schema.fields().iter().zip(types);
        let fields = fields.map(|(field, data_type)| field.as_ref().clone().with_data_type(data_type.clone()));
        let schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
        return Ok(Some(MemoryExtractor::new(schema, []).scan(cx, &ScanRequest::all()).await?));
    };
    let schema = first.schema();
    let (inner, partitions) = partitions.into_iter().map(|(scan, id, partition)| ((scan, id), partition)).unzip();
    Ok(Some(Arc::new(StagedScan { schema, scans, inner, partitions })))
}

/// The scans of several files as one.
struct StagedScan {
    schema: SchemaRef,
    scans: Vec<Arc<dyn Scan>>,
    /// Of which scan each partition is which.
    inner: Vec<(usize, etlrs_core::PartitionId)>,
    partitions: Vec<Partition>,
}

#[async_trait]
impl Scan for StagedScan {
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
