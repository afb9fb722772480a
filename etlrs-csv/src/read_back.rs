//! Staged records as a scan, for a check before they are published.

use std::ops::Range;
use std::sync::Arc;

use arrow_schema::Schema;
use etlrs_core::{ColumnTypes, Extractor, MemoryExtractor, Partition, Result, RunContext, Scan, ScanRequest};
use etlrs_files::Compression;
use etlrs_files::text::{JoinedScan, StagedText};

use crate::layout::Layout;
use crate::{CsvExtractor, CsvOptions, CsvWriteOptions, Encoding, Escape};

/// What was written, read as the types that it was written from; `None` where that cannot be.
pub(crate) async fn staged_scan(
    cx: &RunContext,
    layout: &Layout,
    options: &CsvWriteOptions,
    staged: Vec<StagedText>,
) -> Result<Option<Arc<dyn Scan>>> {
    let names = layout.schema.fields().iter().map(|field| field.name());
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
    for StagedText { path, ranges } in staged {
        if ranges.is_empty() {
            continue;
        }
        let describe = |(index, range): (usize, &Range<u64>)| {
            Partition::new(index, format!("bytes {}..{}", range.start, range.end)).with_bytes(range.end - range.start)
        };
        let mut request = ScanRequest::all();
        request.recorded = Some(ranges.iter().enumerate().map(describe).collect());
        scans.push(CsvExtractor::new(path).with_options(read.clone()).scan(cx, &request).await?);
    }
    let Some(first) = scans.first() else {
        let fields = layout.schema.fields().iter().zip(types);
        let fields = fields.map(|(field, data_type)| field.as_ref().clone().with_data_type(data_type.clone()));
        let schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
        return Ok(Some(MemoryExtractor::new(schema, []).scan(cx, &ScanRequest::all()).await?));
    };
    Ok(Some(Arc::new(JoinedScan::new(first.schema(), scans))))
}
