//! Columns that tell where rows come from.

use std::sync::Arc;
use std::time::UNIX_EPOCH;

use arrow_array::{ArrayRef, StringArray, TimestampMicrosecondArray};
use arrow_schema::{DataType, Field, SchemaRef, TimeUnit};
use etlrs_core::{BatchStream, BoundTransformer, Result, RunContext, Transformer, map_stream};

use super::{batch_of, schema_of};

/// Adds columns that tell of each row the run that loaded it. For constants see [`Derive`](crate::Derive).
///
/// ```
/// use etlrs_engine::AddMetadata;
///
/// let metadata = AddMetadata::new().run_id("loaded_by").load_time("loaded_at").source_file("file");
/// # let _ = metadata;
/// ```
#[derive(Clone, Debug, Default)]
pub struct AddMetadata {
    columns: Vec<(String, What)>,
}

#[derive(Clone, Copy, Debug)]
enum What {
    RunId,
    LoadTime,
    SourceFile,
}

impl What {
    fn data_type(self) -> DataType {
        match self {
            Self::RunId | Self::SourceFile => DataType::Utf8,
            Self::LoadTime => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
        }
    }
}

impl AddMetadata {
    pub(crate) const NAME: &str = "metadata";

    /// Without columns.
    pub fn new() -> Self {
        Self::default()
    }

    /// A column with the id of the run.
    #[must_use]
    pub fn run_id(self, column: impl Into<String>) -> Self {
        self.with(column, What::RunId)
    }

    /// A column with the time at which the run began, in UTC: one for all rows, also of partitions that were tried again.
    #[must_use]
    pub fn load_time(self, column: impl Into<String>) -> Self {
        self.with(column, What::LoadTime)
    }

    /// A column with the file that the row was read from, by the name that the source has; null where it is no file.
    #[must_use]
    pub fn source_file(self, column: impl Into<String>) -> Self {
        self.with(column, What::SourceFile)
    }

    fn with(mut self, column: impl Into<String>, what: What) -> Self {
        self.columns.push((column.into(), what));
        self
    }
}

impl Transformer for AddMetadata {
    fn name(&self) -> &str {
        Self::NAME
    }

    fn bind(&self, input: &SchemaRef) -> Result<Arc<dyn BoundTransformer>> {
        let mut fields = input.fields().to_vec();
        for (name, what) in &self.columns {
            fields.push(Arc::new(Field::new(name, what.data_type(), matches!(what, What::SourceFile))));
        }
        let columns = self.columns.iter().map(|(_, what)| *what).collect();
        Ok(Arc::new(Bound { schema: schema_of(input, fields)?, columns }))
    }
}

struct Bound {
    schema: SchemaRef,
    columns: Vec<What>,
}

impl BoundTransformer for Bound {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    fn apply(&self, cx: &RunContext, input: BatchStream) -> BatchStream {
        let (schema, whats) = (self.schema.clone(), self.columns.clone());
        let run = cx.run_id();
        let began = run.time().duration_since(UNIX_EPOCH).unwrap_or_default().as_micros();
        let began = i64::try_from(began).unwrap_or(i64::MAX);
        let file = cx.partition().and_then(|partition| partition.source.clone());
        map_stream(input, move |batch| {
            let rows = batch.num_rows();
            let texts =
                |text: Option<&str>| -> ArrayRef { Arc::new(std::iter::repeat_n(text, rows).collect::<StringArray>()) };
            let mut columns = batch.columns().to_vec();
            columns.extend(whats.iter().map(|what| match what {
                What::RunId => texts(Some(&run.to_string())),
                What::SourceFile => texts(file.as_deref()),
                What::LoadTime => Arc::new(TimestampMicrosecondArray::from_value(began, rows).with_timezone("UTC")),
            }));
            batch_of(&schema, columns, rows)
        })
    }
}

#[cfg(test)]
mod tests {
    use arrow_array::Array;
    use arrow_array::cast::AsArray;
    use arrow_array::types::TimestampMicrosecondType;
    use etlrs_core::{Partition, PerformanceConfig, batches_from_iter, next_batch, record_batch};

    use super::*;

    #[test]
    fn rows_tell_their_run_and_their_file() {
        let batch = record_batch([("x", vec![Some(1), None])]);
        let metadata = AddMetadata::new().run_id("run").load_time("at").source_file("file");
        let bound = metadata.bind(&batch.schema()).unwrap();
        let cx = RunContext::new(PerformanceConfig::default());
        for partition in [Some(Partition::new(0, "all").with_source("a.csv")), None] {
            let cx = partition.as_ref().map_or_else(|| cx.clone(), |partition| cx.for_partition(partition));
            let mut stream = bound.apply(&cx, batches_from_iter([Ok(batch.clone())]));
            let next = futures_util::FutureExt::now_or_never(next_batch(&mut stream));
            let found = next.unwrap().unwrap().unwrap();
            assert_eq!(found.schema(), bound.schema());
            assert_eq!(found.column(1).as_string::<i32>().value(1), cx.run_id().to_string());
            let at = found.column(2).as_primitive::<TimestampMicrosecondType>().value(0);
            let began = cx.run_id().time().duration_since(UNIX_EPOCH).unwrap();
            assert_eq!(u128::try_from(at).unwrap(), began.as_micros());
            let file = found.column(3).as_string::<i32>();
            assert_eq!(file.is_valid(0).then(|| file.value(0)), partition.map(|_| "a.csv"));
        }
        let twice = AddMetadata::new().run_id("x").bind(&batch.schema());
        assert!(twice.err().unwrap().to_string().contains("two columns \"x\""));
    }
}
