use std::sync::Arc;

use arrow_schema::SchemaRef;

use crate::{BatchStream, ColumnTest, Result, RunContext};

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

    /// What it is called in reports, if there is nothing better: `filter`.
    fn name(&self) -> &str {
        "transform"
    }

    /// What is known of the transformer without a schema. The engine asks before it looks at the source, to tell the source
    /// which rows the filters at the front will drop; see [`ScanRequest::filter`](crate::ScanRequest::filter). It also asks
    /// whether the rows still have the [primary key](crate::Scan::primary_key) of the source. To know nothing is never wrong.
    fn effect(&self) -> Effect {
        Effect::Unknown
    }
}

/// What a [`Transformer`] does to rows, as far as it is known before there is a schema.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Effect {
    /// Anything, so what stands behind says nothing about the source.
    Unknown,
    /// Drops rows and changes nothing.
    Keeps {
        /// Tests that each row passes which is kept. Others may go too.
        tests: Vec<ColumnTest>,
        /// Columns of which another type with the same words might keep other rows, such as two that are compared with one
        /// another: 9 is less than 10, and as text greater.
        by_type: Vec<String>,
        /// All columns that decide, those of `by_type` among them.
        reads: Vec<String>,
        /// Whether some row may make it fail. A source may leave out rows for the sake of `tests` all the same, but not for
        /// that of transformers behind this one, which might hide the failure.
        may_fail: bool,
    },
    /// Changes neither rows nor values. Columns have other names, as pairs of the name before and the name after.
    Renames(Vec<(String, String)>),
    /// Changes nothing but that only these columns are left.
    Selects(Vec<String>),
    /// Changes nothing but that these columns are gone.
    Drops(Vec<String>),
}

/// A [`Transformer`] that knows its input.
pub trait BoundTransformer: Send + Sync {
    /// Schema of every batch that comes out.
    fn schema(&self) -> SchemaRef;

    /// Bytes that the transformer holds for as long as the run lasts: a lookup table. They come off the budget.
    fn held_memory(&self) -> usize {
        0
    }

    /// Whether what comes of a row depends on no other row, so that the rows of a partition may be given in pieces, each in a
    /// call of its own.
    fn is_row_wise(&self) -> bool {
        false
    }

    /// Whether what comes of a partition depends on what came of others. A run that was stopped then begins anew, instead of
    /// going on behind the partitions that it had staged.
    fn spans_partitions(&self) -> bool {
        false
    }

    /// Rows of one partition through the transformer.
    ///
    /// Called once for each attempt at each partition, at the same time from several threads; a bound transformer
    /// keeps no state between partitions that would make the result depend on their order. The output is polled
    /// on a worker thread, where it may compute. Errors of `input` are passed on as they are.
    fn apply(&self, cx: &RunContext, input: BatchStream) -> BatchStream;
}
