//! Functions of batches in which each row is changed by itself.

use std::fmt::Write;
use std::ops::Range;
use std::sync::Arc;

use crate::read_as::ReadAs;
use arrow_array::cast::AsArray;
use arrow_array::{Array, ArrayRef, LargeStringArray, RecordBatch};
use arrow_cast::display::{ArrayFormatter, FormatOptions};
use arrow_schema::{DataType, SchemaRef};
use arrow_select::concat::concat_batches;
use etlrs_core::{BatchStream, BoundTransformer, Error, ErrorKind, Rejected, Rejects, Result, RunContext, map_stream};

/// A transformer that applies `change` to each batch. What comes of a row may depend on no other row: where a run sets records
/// aside, a batch that fails is cut until those rows stand alone that do.
pub(super) fn row_wise<F>(stage: &'static str, schema: SchemaRef, change: F) -> Arc<dyn BoundTransformer>
where
    F: Fn(&RecordBatch) -> Result<RecordBatch> + Send + Sync + 'static,
{
    row_wise_holding(0, stage, schema, change)
}

/// The same for a function that holds a table of `held_memory` bytes.
pub(super) fn row_wise_holding<F>(
    held_memory: usize,
    stage: &'static str,
    schema: SchemaRef,
    change: F,
) -> Arc<dyn BoundTransformer>
where
    F: Fn(&RecordBatch) -> Result<RecordBatch> + Send + Sync + 'static,
{
    Arc::new(RowWise { stage, schema, change: Arc::new(change), held_memory })
}

struct RowWise<F> {
    /// What it is called in the quarantine.
    stage: &'static str,
    schema: SchemaRef,
    change: Arc<F>,
    held_memory: usize,
}

impl<F> BoundTransformer for RowWise<F>
where
    F: Fn(&RecordBatch) -> Result<RecordBatch> + Send + Sync + 'static,
{
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    fn held_memory(&self) -> usize {
        self.held_memory
    }

    fn is_row_wise(&self) -> bool {
        true
    }

    fn apply(&self, cx: &RunContext, input: BatchStream) -> BatchStream {
        let (change, schema, stage) = (self.change.clone(), self.schema.clone(), self.stage);
        let rejects = cx.rejects().cloned();
        let mut before = 0;
        map_stream(input, move |batch| {
            let changed = match (change(&batch), &rejects) {
                (Err(error), Some(rejects)) if is_of_row(&error) => {
                    let parts = without_failing_rows(&*change, &batch, before, stage, rejects)?;
                    Ok(concat_batches(&schema, &parts)?)
                }
                (done, _) => done.map_err(|error| behind(before, error)),
            };
            before += batch.num_rows() as u64;
            changed
        })
    }
}

/// Whether an error is the fault of a record, and not of what is done with all of them.
pub(super) fn is_of_row(error: &Error) -> bool {
    error.kind() == ErrorKind::InvalidData
}

/// The error of some rows, with its row counted from the first of all, of which `before` came earlier.
pub(super) fn behind(before: u64, error: Error) -> Error {
    match error.position().row {
        Some(row) => error.at_row(before + row),
        None => error,
    }
}

/// What `change` makes of the rows that it takes, in their order; `before` came in earlier batches. Costs about `log2(rows)` calls for each of the others.
fn without_failing_rows(
    change: &dyn Fn(&RecordBatch) -> Result<RecordBatch>,
    batch: &RecordBatch,
    before: u64,
    stage: &'static str,
    rejects: &Rejects,
) -> Result<Vec<RecordBatch>> {
    let mut done = Vec::new();
    // Those behind come first.
    let mut open: Vec<Range<usize>> = std::iter::once(0..batch.num_rows()).collect();
    while let Some(rows) = open.pop() {
        let part = batch.slice(rows.start, rows.len());
        match change(&part) {
            Ok(changed) => done.push(changed),
            Err(error) if !is_of_row(&error) => return Err(error),
            Err(error) if rows.len() == 1 => {
                let error = behind(before + rows.start as u64, error);
                rejects.push(rejected_row(stage, &error, batch, rows.start));
            }
            Err(_) => {
                let middle = rows.start + rows.len() / 2;
                open.push(middle..rows.end);
                open.push(rows.start..middle);
            }
        }
    }
    Ok(done)
}

/// A row that a stage cannot take, as JSON.
pub(crate) fn rejected_row(stage: &'static str, error: &Error, batch: &RecordBatch, row: usize) -> Rejected {
    let rejected = Rejected::by_stage(stage, error).with_raw(as_json(batch, row));
    match ReadAs::of_rows(batch.schema_ref()) {
        Some(format) => rejected.read_as(format.to_text()),
        None => rejected,
    }
}

/// A row as a JSON object: numbers and truth values as they are, structs as objects, lists and the entries of maps as lists,
/// everything else as text.
pub(crate) fn as_json(batch: &RecordBatch, row: usize) -> Vec<u8> {
    let mut text = "{".to_owned();
    for (field, column) in batch.schema_ref().fields().iter().zip(batch.columns()) {
        if text.len() > 1 {
            text.push(',');
        }
        quoted(&mut text, field.name());
        text.push(':');
        value(&mut text, column, row);
    }
    text.push('}');
    text.into_bytes()
}

/// Each value as JSON text; nulls stay null.
pub(super) fn json_texts(column: &ArrayRef) -> LargeStringArray {
    let text = |row: usize| {
        let mut text = String::new();
        value(&mut text, column, row);
        text
    };
    (0..column.len()).map(|row| column.is_valid(row).then(|| text(row))).collect()
}

fn value(text: &mut String, column: &ArrayRef, row: usize) {
    if column.is_null(row) {
        return text.push_str("null");
    }
    let items = |text: &mut String, items: ArrayRef| {
        for item in 0..items.len() {
            if item > 0 {
                text.push(',');
            }
            value(text, &items, item);
        }
    };
    match column.data_type() {
        DataType::Struct(fields) => {
            let parent = column.as_struct();
            for (index, (field, member)) in fields.iter().zip(parent.columns()).enumerate() {
                text.push(if index == 0 { '{' } else { ',' });
                quoted(text, field.name());
                text.push(':');
                value(text, member, row);
            }
            return text.push_str(if fields.is_empty() { "{}" } else { "}" });
        }
        DataType::List(_) | DataType::LargeList(_) | DataType::FixedSizeList(..) | DataType::Map(..) => {
            // The entries of a map are structs of key and value.
            text.push('[');
            match column.data_type() {
                DataType::List(_) => items(text, column.as_list::<i32>().value(row)),
                DataType::LargeList(_) => items(text, column.as_list::<i64>().value(row)),
                DataType::FixedSizeList(..) => items(text, column.as_fixed_size_list().value(row)),
                _ => items(text, Arc::new(column.as_map().value(row))),
            }
            return text.push(']');
        }
        _ => {}
    }
    let shown = ArrayFormatter::try_new(column, &FormatOptions::default()).map(|values| values.value(row).to_string());
    let shown = shown.unwrap_or_default();
    let data_type = column.data_type();
    let bare = data_type.is_integer() || data_type.is_decimal() || *data_type == DataType::Boolean;
    match bare || data_type.is_floating() && shown.parse().is_ok_and(f64::is_finite) {
        true => text.push_str(&shown),
        false => quoted(text, &shown),
    }
}

fn quoted(text: &mut String, value: &str) {
    text.push('"');
    for c in value.chars() {
        match c {
            '"' | '\\' => text.extend(['\\', c]),
            '\0'..' ' => _ = write!(text, "\\u{:04x}", u32::from(c)),
            c => text.push(c),
        }
    }
    text.push('"');
}

#[cfg(test)]
mod tests {
    use arrow_array::Int64Array;
    use arrow_array::types::Int64Type;
    use etlrs_core::{PerformanceConfig, batches_from_iter, next_batch, record_batch};
    use proptest::prelude::*;

    use super::*;

    /// Fails for multiples of 7.
    fn tripled(batch: &RecordBatch) -> Result<RecordBatch> {
        let values = batch.column(0).as_primitive::<Int64Type>();
        if values.iter().flatten().any(|value| value % 7 == 0) {
            return Err(Error::new(ErrorKind::InvalidData, "a seven").at_column("x"));
        }
        let values: Int64Array = values.iter().map(|value| value.map(|value| value * 3)).collect();
        Ok(RecordBatch::try_new(batch.schema(), vec![Arc::new(values)])?)
    }

    fn run(batch: RecordBatch, rejects: Option<Rejects>) -> Result<Vec<Option<i64>>> {
        let bound = row_wise("sevens", batch.schema(), tripled);
        let mut cx = RunContext::new(PerformanceConfig::default());
        if let Some(rejects) = rejects {
            cx = cx.with_rejects(rejects);
        }
        let mut stream = bound.apply(&cx, batches_from_iter([Ok(batch)]));
        let mut values = Vec::new();
        while let Some(batch) = futures_util::FutureExt::now_or_never(next_batch(&mut stream)).unwrap() {
            values.extend(batch?.column(0).as_primitive::<Int64Type>());
        }
        Ok(values)
    }

    proptest! {
        #[test]
        fn rows_that_fail_are_set_aside_and_the_others_stay_in_order(
            rows in prop::collection::vec(prop::option::of(1i64..40), 0..60),
        ) {
            let is_seven = |row: &Option<i64>| row.is_some_and(|value| value % 7 == 0);
            let rejects = Rejects::new(1 << 20);
            let batch = record_batch([("x", rows.clone())]);
            let found = run(batch.clone(), Some(rejects.clone())).unwrap();
            let expected: Vec<_> =
                rows.iter().filter(|row| !is_seven(row)).map(|row| row.map(|value| value * 3)).collect();
            prop_assert_eq!(found, expected);
            let raw: Vec<_> = rejects.take().into_iter().map(|rejected| {
                assert_eq!((&*rejected.stage, rejected.position.column.as_deref()), ("sevens", Some("x")));
                String::from_utf8(rejected.raw.unwrap()).unwrap()
            }).collect();
            let sevens = rows.iter().filter(|row| is_seven(row));
            prop_assert_eq!(&raw, &sevens.map(|row| format!("{{\"x\":{}}}", row.unwrap())).collect::<Vec<_>>());
            prop_assert_eq!(run(batch, None).is_err(), !raw.is_empty());
        }
    }

    #[test]
    fn rows_are_shown_as_json() {
        use arrow_array::builder::{Int64Builder, ListBuilder, MapBuilder, StringBuilder};
        use arrow_array::*;
        use arrow_schema::Field;
        let column = |array: ArrayRef| array;
        let batch = RecordBatch::try_from_iter_with_nullable([
            ("a \"b\"", column(Arc::new(StringArray::from(vec!["x\n\"\\"]))), true),
            ("f", column(Arc::new(Float64Array::from(vec![f64::NAN]))), true),
            ("g", column(Arc::new(Float64Array::from(vec![1.5]))), true),
            ("d", column(Arc::new(Date32Array::from(vec![0]))), true),
            ("n", column(Arc::new(Int64Array::from(vec![None]))), true),
            ("b", column(Arc::new(BooleanArray::from(vec![true]))), true),
        ])
        .unwrap();
        let mut map = MapBuilder::new(None, StringBuilder::new(), Int64Builder::new());
        map.keys().append_value("k,");
        map.values().append_value(1);
        map.append(true).unwrap();
        let mut list = ListBuilder::new(StringBuilder::new());
        list.append_value([Some("a, b"), None, Some("")]);
        let list: ArrayRef = Arc::new(list.finish());
        let part = StructArray::from(vec![(Arc::new(Field::new("l", list.data_type().clone(), true)), list)]);
        let nested = RecordBatch::try_from_iter_with_nullable([
            ("m", column(Arc::new(map.finish())), true),
            ("s", column(Arc::new(part)), true),
        ])
        .unwrap();
        let text = String::from_utf8(as_json(&nested, 0)).unwrap();
        assert_eq!(text, r#"{"m":[{"keys":"k,","values":1}],"s":{"l":["a, b",null,""]}}"#);
        let text = String::from_utf8(as_json(&batch, 0)).unwrap();
        let expected = r#"{"a \"b\"":"x\u000a\"\\","f":"NaN","g":1.5,"d":"1970-01-01","n":null,"b":true}"#;
        assert_eq!(text, expected);
    }
}
