use std::sync::Arc;

use arrow_schema::SchemaRef;

use crate::{BatchStream, Result, RunContext};

/// A change to the data on its way: rows dropped, columns added, values altered.
///
/// Constructing one does no I/O.
pub trait Transformer: Send + Sync {
    /// Fixes the transformer to the schema that it will get. Called once a run, before anything is read.
    ///
    /// # Errors
    /// Everything that can be known from the schema is refused here, by name: a missing column
    /// (`InvalidConfig`), a type that does not fit (`SchemaMismatch`).
    fn bind(&self, input: &SchemaRef) -> Result<Arc<dyn BoundTransformer>>;
}

/// A [`Transformer`] that knows its input.
pub trait BoundTransformer: Send + Sync {
    /// Schema of every batch that comes out.
    fn schema(&self) -> SchemaRef;

    /// Bytes that the transformer holds for as long as the run lasts: a lookup table. They come off the budget.
    fn held_memory(&self) -> usize {
        0
    }

    /// Rows of one partition through the transformer.
    ///
    /// Called once for each attempt at each partition, at the same time from several threads; a bound transformer
    /// keeps no state between partitions that would make the result depend on their order. The output is polled
    /// on a worker thread, where it may compute. Errors of `input` are passed on as they are.
    fn apply(&self, cx: &RunContext, input: BatchStream) -> BatchStream;
}
