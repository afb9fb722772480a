//! The transformers, and the expressions that some of them take.

mod cast;
mod columns;
mod deduplicate;
mod derive;
mod exact;
mod expr;
mod filter;
mod lookup;
mod mask;
mod metadata;
mod nested;
mod parallel;
mod row_wise;
mod rows;
mod streaming;

use std::collections::HashSet;
use std::sync::Arc;

use arrow_array::{ArrayRef, RecordBatch, RecordBatchOptions};
use arrow_schema::{FieldRef, Schema, SchemaRef};
use etlrs_core::{Error, ErrorKind, Result};

pub(crate) use cast::cast_or_null;
pub use cast::{Cast, CastPolicy};
pub use columns::{DropColumns, Rename, Select};
pub use deduplicate::{Deduplicate, Keep};
pub use derive::Derive;
pub(crate) use exact::check_cast;
pub use expr::{BoundExpr, Expr};
pub use filter::Filter;
pub use lookup::{LookupJoin, SharedDataTransformer};
pub use mask::{Mask, Masking};
pub use metadata::AddMetadata;
pub use nested::{Flatten, Unnest};
pub use parallel::ParallelTransformer;
#[cfg(test)]
pub(crate) use row_wise::as_json as row_as_json;
pub(crate) use row_wise::rejected_row;
use row_wise::{row_wise, row_wise_holding};
pub use rows::{FilterTransformer, MapTransformer};
pub use streaming::StreamingTransformer;

/// A batch of `rows` rows, which may have no column.
fn batch_of(schema: &SchemaRef, columns: Vec<ArrayRef>, rows: usize) -> Result<RecordBatch> {
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    RecordBatch::try_new_with_options(schema.clone(), columns, &options)
        .map_err(|error| Error::new(ErrorKind::SchemaMismatch, error.to_string()).caused_by(error))
}

/// A schema of other fields with the metadata of `input`.
///
/// # Errors
/// `InvalidConfig` if two fields have one name.
fn schema_of(input: &Schema, fields: Vec<FieldRef>) -> Result<SchemaRef> {
    let mut seen = HashSet::new();
    if let Some(twice) = fields.iter().find(|field| !seen.insert(field.name())) {
        return Err(Error::new(ErrorKind::InvalidConfig, format!("there would be two columns {:?}", twice.name())));
    }
    Ok(Arc::new(Schema::new_with_metadata(fields, input.metadata().clone())))
}

#[cfg(test)]
mod testing {
    use etlrs_core::{PerformanceConfig, RunContext, Transformer, batches_from_iter, next_batch};

    use super::*;

    /// The batches that `transformer` makes of `batches`, whose schema must be the promised one.
    pub(super) fn run(transformer: &dyn Transformer, batches: Vec<RecordBatch>) -> Result<Vec<RecordBatch>> {
        let bound = transformer.bind(batches[0].schema_ref())?;
        let cx = RunContext::new(PerformanceConfig::default());
        let mut stream = bound.apply(&cx, batches_from_iter(batches.into_iter().map(Ok)));
        futures_util::FutureExt::now_or_never(async {
            let mut output = Vec::new();
            while let Some(batch) = next_batch(&mut stream).await {
                let batch = batch?;
                assert_eq!(batch.schema(), bound.schema());
                output.push(batch);
            }
            Ok(output)
        })
        .unwrap()
    }

    pub(super) fn run_one(transformer: &dyn Transformer, batch: RecordBatch) -> Result<RecordBatch> {
        let mut output = run(transformer, vec![batch])?;
        assert_eq!(output.len(), 1);
        Ok(output.remove(0))
    }

    pub(super) fn refused(transformer: &dyn Transformer, batch: &RecordBatch) -> Error {
        transformer.bind(batch.schema_ref()).err().unwrap()
    }
}
