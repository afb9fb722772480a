//! Transformers of rows: functions of the caller, at the cost of a dispatch per value.

use std::sync::Arc;

use arrow_array::{BooleanArray, RecordBatch};
use arrow_schema::{Schema, SchemaRef};
use arrow_select::filter::filter_record_batch;
use etlrs_core::{BoundTransformer, Error, ErrorKind, OwnedRecord, Record, RecordBatchBuilder, Result, Transformer};

use super::{batch_of, row_wise};

type MapRecord = dyn Fn(Record<'_>) -> Result<OwnedRecord> + Send + Sync;
type MapBatch = dyn Fn(&RecordBatch) -> Result<RecordBatch> + Send + Sync;
type KeepRecord = dyn Fn(Record<'_>) -> Result<bool> + Send + Sync;
type KeepBatch = dyn Fn(&RecordBatch) -> Result<BooleanArray> + Send + Sync;

/// Makes of each row another one.
///
/// ```
/// use etlrs_core::{Record, Transformer, record_batch};
/// use etlrs_engine::MapTransformer;
///
/// let doubled = MapTransformer::new(|record: Record<'_>| {
///     let mut row = record.to_owned();
///     row.set("x", record.i64("x")?.map(|x| x * 2))?;
///     Ok(row)
/// });
/// assert!(doubled.bind(&record_batch([("x", vec![Some(1)])]).schema()).is_ok());
/// # Ok::<(), etlrs_core::Error>(())
/// ```
#[derive(Clone)]
pub struct MapTransformer {
    map: Map,
    schema: Option<SchemaRef>,
}

#[derive(Clone)]
enum Map {
    Records(Arc<MapRecord>),
    Batches(Arc<MapBatch>),
}

impl MapTransformer {
    /// Rows keep their schema, unless [`with_schema`](Self::with_schema) gives another. Errors of `map` end the run; where it
    /// sets records aside, those for which `map` fails with `InvalidData` are, and it may be asked for others again then.
    pub fn new(map: impl Fn(Record<'_>) -> Result<OwnedRecord> + Send + Sync + 'static) -> Self {
        Self { map: Map::Records(Arc::new(map)), schema: None }
    }

    /// Of a function of whole batches, at the speed of Arrow's kernels. What it makes of a row may depend on no other row, for
    /// batches are of any size, and may be cut and given again to find a row that fails.
    ///
    /// ```
    /// use std::sync::Arc;
    /// use arrow_array::{Int64Array, RecordBatch, cast::AsArray, types::Int64Type};
    /// use etlrs_engine::MapTransformer;
    ///
    /// let doubled = MapTransformer::over_batches(|batch: &RecordBatch| {
    ///     let doubled: Int64Array = batch.column(0).as_primitive::<Int64Type>().unary(|x| x.wrapping_mul(2));
    ///     Ok(RecordBatch::try_new(batch.schema(), vec![Arc::new(doubled)])?)
    /// });
    /// # let _ = doubled;
    /// ```
    pub fn over_batches(map: impl Fn(&RecordBatch) -> Result<RecordBatch> + Send + Sync + 'static) -> Self {
        Self { map: Map::Batches(Arc::new(map)), schema: None }
    }

    /// The rows that come out have `schema`: make them with `OwnedRecord::new(schema)`.
    #[must_use]
    pub fn with_schema(mut self, schema: SchemaRef) -> Self {
        self.schema = Some(schema);
        self
    }
}

impl Transformer for MapTransformer {
    fn name(&self) -> &str {
        "map"
    }

    fn bind(&self, input: &SchemaRef) -> Result<Arc<dyn BoundTransformer>> {
        let schema = self.schema.clone().unwrap_or_else(|| input.clone());
        let output = schema.clone();
        let map = match &self.map {
            Map::Records(map) => map.clone(),
            Map::Batches(map) => {
                let map = map.clone();
                return Ok(row_wise("map", schema, move |batch| {
                    let mapped = map(batch)?;
                    if mapped.schema_ref().fields() == output.fields() {
                        return batch_of(&output, mapped.columns().to_vec(), mapped.num_rows());
                    }
                    let message = "the function gave a batch of another schema than it was said to";
                    Err(Error::new(ErrorKind::SchemaMismatch, message).hint("say which by with_schema"))
                }));
            }
        };
        // Refuses types that rows cannot carry before anything is read.
        RecordBatchBuilder::new(schema.clone())?;
        Ok(row_wise("map", schema, move |batch| {
            let mut builder = RecordBatchBuilder::new(output.clone())?;
            let mut known: Option<SchemaRef> = None;
            let batch = Arc::new(batch.clone());
            for record in Record::all_shared(&batch) {
                let row = map(record)?;
                if !known.as_ref().is_some_and(|known| Arc::ptr_eq(known, row.schema())) {
                    check_names(row.schema(), &output)?;
                    known = Some(row.schema().clone());
                }
                builder.push(row)?;
            }
            builder.finish()
        }))
    }
}

/// Values are matched by position, which would mix them up if the names were others.
pub(super) fn check_names(given: &Schema, expected: &Schema) -> Result<()> {
    let names = |schema: &Schema| schema.fields().iter().map(|field| field.name().clone()).collect::<Vec<_>>();
    if names(given) == names(expected) {
        return Ok(());
    }
    let message =
        format!("a row has the columns {} where {} are expected", names(given).join(", "), names(expected).join(", "));
    Err(Error::new(ErrorKind::SchemaMismatch, message)
        .hint("make it with OwnedRecord::new of the schema that comes out"))
}

/// Keeps the rows for which a function is true.
///
/// [`Filter`](crate::Filter) is faster where an expression will do.
///
/// ```
/// use etlrs_core::Record;
/// use etlrs_engine::FilterTransformer;
///
/// let late = FilterTransformer::new(|record: Record<'_>| Ok(record.i64("delay")?.is_some_and(|delay| delay > 15)));
/// # let _ = late;
/// ```
#[derive(Clone)]
pub struct FilterTransformer {
    keep: Keep,
}

#[derive(Clone)]
enum Keep {
    Records(Arc<KeepRecord>),
    Batches(Arc<KeepBatch>),
}

impl FilterTransformer {
    /// Of a function that is asked for each row. Its errors are those of [`MapTransformer::new`].
    pub fn new(keep: impl Fn(Record<'_>) -> Result<bool> + Send + Sync + 'static) -> Self {
        Self { keep: Keep::Records(Arc::new(keep)) }
    }

    /// Of a function of whole batches, which says for each row whether it is kept; null is not. As with
    /// [`MapTransformer::over_batches`] rows may not depend on one another.
    pub fn over_batches(keep: impl Fn(&RecordBatch) -> Result<BooleanArray> + Send + Sync + 'static) -> Self {
        Self { keep: Keep::Batches(Arc::new(keep)) }
    }
}

impl Transformer for FilterTransformer {
    fn name(&self) -> &str {
        "filter"
    }

    fn bind(&self, input: &SchemaRef) -> Result<Arc<dyn BoundTransformer>> {
        let (keep, schema) = (self.keep.clone(), input.clone());
        Ok(row_wise("filter", input.clone(), move |batch| {
            let mask = match &keep {
                Keep::Records(keep) => {
                    Record::all(batch).map(|record| keep(record)).collect::<Result<Vec<_>>>()?.into()
                }
                Keep::Batches(keep) => keep(batch)?,
            };
            if mask.len() != batch.num_rows() {
                let message =
                    format!("a filter was asked for {} rows, and said something of {}", batch.num_rows(), mask.len());
                return Err(Error::new(ErrorKind::SchemaMismatch, message));
            }
            let kept = filter_record_batch(batch, &mask)?;
            batch_of(&schema, kept.columns().to_vec(), kept.num_rows())
        }))
    }
}

#[cfg(test)]
mod tests {
    use etlrs_core::{DataType, Field, Value, record_batch};

    use super::*;
    use crate::transform::testing::{refused, run, run_one};

    #[test]
    fn rows_are_mapped_in_order() {
        let batch = record_batch([("x", vec![Some(0), Some(1), None, Some(3)])]);
        let map = MapTransformer::new(|record| {
            let mut row = record.to_owned();
            row.set("x", record.i64("x")?.map(|x| x * 2))?;
            Ok(row)
        });
        let output = run(&map, vec![batch.slice(1, 3), batch.slice(0, 0)]).unwrap();
        assert_eq!(output, [record_batch([("x", vec![Some(2), None, Some(6)])])]);
    }

    #[test]
    fn rows_may_have_another_schema() {
        let schema = Arc::new(Schema::new(vec![Field::new("name", DataType::Utf8, false)]));
        let made = schema.clone();
        let map = MapTransformer::new(move |record| {
            let mut row = OwnedRecord::new(made.clone());
            row.set("name", record.i64("x")?.map(|x| format!("number {x}")))?;
            Ok(row)
        })
        .with_schema(schema.clone());
        let output = run_one(&map, record_batch([("x", vec![Some(1)])])).unwrap();
        assert_eq!(Record::new(&output, 0).unwrap().get("name").unwrap(), Value::from("number 1"));
        let null = run_one(&map, record_batch([("x", vec![None])])).unwrap_err();
        assert_eq!(null.kind(), ErrorKind::SchemaMismatch);

        let unchanged = MapTransformer::new(|record| Ok(record.to_owned())).with_schema(schema);
        let error = run_one(&unchanged, record_batch([("x", vec![Some(1)])])).unwrap_err();
        assert!(error.to_string().starts_with("a row has the columns x where name are expected"), "{error}");
    }

    #[test]
    fn types_that_rows_cannot_carry_are_refused_when_planned() {
        let schema = Arc::new(Schema::new(vec![Field::new("l", DataType::new_list(DataType::Int64, true), true)]));
        let batch = arrow_array::RecordBatch::new_empty(schema);
        let map = MapTransformer::new(|record| Ok(record.to_owned()));
        assert_eq!(refused(&map, &batch).kind(), ErrorKind::Unsupported);
    }

    #[test]
    fn functions_of_batches_are_checked() {
        use arrow_array::cast::AsArray;
        use arrow_array::types::Int64Type;
        let batch = record_batch([("x", vec![Some(1), None, Some(3)])]);
        let filter = FilterTransformer::over_batches(|batch| {
            Ok(batch.column(0).as_primitive::<Int64Type>().iter().map(|x| x.map(|x| x > 1)).collect())
        });
        assert_eq!(run_one(&filter, batch.clone()).unwrap(), batch.slice(2, 1));
        let short = FilterTransformer::over_batches(|_| Ok(vec![true].into()));
        assert!(run_one(&short, batch.clone()).unwrap_err().to_string().contains("3 rows, and said something of 1"));
        let halved = MapTransformer::over_batches(|batch| Ok(batch.slice(0, batch.num_rows() / 2)));
        assert_eq!(run_one(&halved, batch.clone()).unwrap(), batch.slice(0, 1));
        let other = MapTransformer::over_batches(|_| Ok(record_batch([("y", vec![])])));
        assert_eq!(run_one(&other, batch).unwrap_err().kind(), ErrorKind::SchemaMismatch);
    }

    #[test]
    fn rows_are_filtered_and_errors_passed_on() {
        let batch = record_batch([("x", vec![Some(1), None, Some(3)])]);
        let odd = FilterTransformer::new(|record| Ok(record.i64("x")?.is_some_and(|x| x > 1)));
        assert_eq!(run_one(&odd, batch.clone()).unwrap(), batch.slice(2, 1));
        let wrong = FilterTransformer::new(|record| Ok(record.bool("x")?.is_some()));
        assert_eq!(run_one(&wrong, batch).unwrap_err().kind(), ErrorKind::SchemaMismatch);
    }
}
