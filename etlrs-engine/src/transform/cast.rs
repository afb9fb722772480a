use std::ops::Range;
use std::sync::Arc;

use arrow_array::{ArrayRef, BooleanArray};
use arrow_schema::{DataType, SchemaRef};
use arrow_select::nullif::nullif;
use etlrs_core::{
    BoundTransformer, Error, ErrorKind, Result, Transformer, column_index, is_json_text, type_name, without_json_mark,
};

use super::exact::{cast_exact, check_cast, first_failing_row};
use super::{batch_of, row_wise, schema_of};

/// Changes the types of columns. What becomes of a value that would be lost, see the rules of `cast` at
/// [`Expr`](crate::Expr), is a matter of [policy](CastPolicy).
///
/// ```
/// use etlrs_core::parse_type;
/// use etlrs_engine::{Cast, CastPolicy};
///
/// let cast = Cast::new([("price", parse_type("decimal(12,2)")?), ("day", parse_type("date")?)]);
/// let tolerant = cast.policy(CastPolicy::Null);
/// # let _ = tolerant;
/// # Ok::<(), etlrs_core::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Cast {
    columns: Vec<(String, DataType)>,
    policy: CastPolicy,
}

/// What a [`Cast`] does with a value that the new type does not have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum CastPolicy {
    /// It ends the run; or its row is set aside, if that is what the run does.
    #[default]
    Fail,
    /// It becomes null.
    Null,
}

impl Cast {
    /// Of columns and the types that they shall have.
    pub fn new<S: Into<String>>(columns: impl IntoIterator<Item = (S, DataType)>) -> Self {
        Self {
            columns: columns.into_iter().map(|(name, data_type)| (name.into(), data_type)).collect(),
            policy: CastPolicy::Fail,
        }
    }

    /// With another policy than to fail.
    #[must_use]
    pub fn policy(mut self, policy: CastPolicy) -> Self {
        self.policy = policy;
        self
    }
}

impl Transformer for Cast {
    fn name(&self) -> &str {
        "cast"
    }

    fn bind(&self, input: &SchemaRef) -> Result<Arc<dyn BoundTransformer>> {
        let mut fields = input.fields().to_vec();
        let mut casts: Vec<(usize, DataType)> = Vec::new();
        for (name, to) in &self.columns {
            let position = column_index(input, name)?;
            if casts.iter().any(|(earlier, _)| *earlier == position) {
                return Err(Error::new(ErrorKind::InvalidConfig, format!("column {name:?} is cast twice")));
            }
            let field = input.field(position);
            check_cast(field.data_type(), to).map_err(|error| error.at_column(name))?;
            let mut metadata = match is_json_text(field) {
                // Whoever casts JSON to text wants just that.
                true => without_json_mark(field).metadata().clone(),
                false => field.metadata().clone(),
            };
            // An extension type is one of a certain storage type.
            metadata.retain(|key, _| !key.starts_with("ARROW:extension:") || field.data_type() == to);
            let nullable = field.is_nullable() || self.policy == CastPolicy::Null;
            let cast = field.clone().with_data_type(to.clone()).with_nullable(nullable);
            fields[position] = Arc::new(cast.with_metadata(metadata));
            casts.push((position, to.clone()));
        }
        let (schema, policy) = (schema_of(input, fields)?, self.policy);
        Ok(row_wise("cast", schema.clone(), move |batch| {
            let mut columns = batch.columns().to_vec();
            for (position, to) in &casts {
                let column = &columns[*position];
                columns[*position] = match (cast_exact(column, to), policy) {
                    (Ok(cast), _) => cast,
                    (Err(_), CastPolicy::Fail) => {
                        return Err(misfit(column, to).at_column(schema.field(*position).name()));
                    }
                    (Err(_), CastPolicy::Null) => cast_or_null(column, to)?,
                };
            }
            batch_of(&schema, columns, batch.num_rows())
        }))
    }
}

/// `column` as `to`, with nulls for values that the type does not have.
pub(crate) fn cast_or_null(column: &ArrayRef, to: &DataType) -> Result<ArrayRef> {
    if let Ok(cast) = cast_exact(column, to) {
        return Ok(cast);
    }
    let fits = |rows: Range<usize>| cast_exact(&column.slice(rows.start, rows.len()), to).is_ok();
    Ok(cast_exact(&nullif(column, &failing_rows(column.len(), fits))?, to)?)
}

fn misfit(column: &ArrayRef, to: &DataType) -> Error {
    let row = first_failing_row(column.len(), |rows| cast_exact(&column.slice(0, rows), to).is_err());
    Error::new(ErrorKind::InvalidData, format!("the value does not fit into {}", type_name(to))).at_row(row as u64 + 1)
}

/// The rows, of so many, that do not fit by themselves.
fn failing_rows(rows: usize, fits: impl Fn(Range<usize>) -> bool) -> BooleanArray {
    let mut failing = vec![false; rows];
    let mut open = Vec::from_iter(std::iter::once(0..rows));
    while let Some(part) = open.pop() {
        if part.is_empty() || fits(part.clone()) {
            continue;
        }
        if part.len() == 1 {
            failing[part.start] = true;
        } else {
            let middle = part.start + part.len() / 2;
            open.extend([part.start..middle, middle..part.end]);
        }
    }
    failing.into()
}

#[cfg(test)]
mod tests {
    use arrow_array::Array;
    use arrow_array::cast::AsArray;
    use arrow_array::types::Int8Type;
    use etlrs_core::record_batch;

    use super::*;
    use crate::transform::testing::{refused, run_one};

    #[test]
    fn columns_change_their_type() {
        let batch = record_batch([("x", vec![Some(1), None]), ("y", vec![Some(1), None])]);
        let output = run_one(&Cast::new([("x", DataType::Int8)]), batch).unwrap();
        assert_eq!(output.column(0).as_primitive::<Int8Type>().iter().collect::<Vec<_>>(), [Some(1), None]);
        assert_eq!(output.schema().field(1).data_type(), &DataType::Int64);
    }

    #[test]
    fn a_value_that_does_not_fit_is_told_by_column_and_row_but_not_shown() {
        let batch = record_batch([("x", vec![Some(1), None, Some(4711), Some(4712)])]);
        let error = run_one(&Cast::new([("x", DataType::Int8)]), batch).unwrap_err();
        assert_eq!(error.to_string(), "row 3, column \"x\": the value does not fit into int8");
        assert!(!format!("{error:?}").contains("471"));
    }

    #[test]
    fn floats_become_decimals_of_the_digits_that_name_them() {
        use arrow_array::types::Decimal128Type;
        use arrow_array::{ArrayRef, Float32Array, Float64Array, RecordBatch};
        let cast = |column: ArrayRef, precision, scale| {
            let batch = RecordBatch::try_from_iter([("x", column)]).unwrap();
            let cast = Cast::new([("x", DataType::Decimal128(precision, scale))]).policy(CastPolicy::Null);
            run_one(&cast, batch).unwrap().column(0).as_primitive::<Decimal128Type>().iter().collect::<Vec<_>>()
        };
        let floats = Arc::new(Float64Array::from(vec![884_900.57, -1.1, 1e15, 0.0, 1e-7, f64::NAN, f64::INFINITY]));
        let ten = 10_i128.pow(10);
        let expected =
            [Some(88_490_057 * 10_i128.pow(8)), Some(-11 * 10_i128.pow(9)), Some(10_i128.pow(15) * ten), Some(0)];
        assert_eq!(cast(floats.clone(), 26, 10)[..4], expected);
        assert_eq!(cast(floats.clone(), 26, 10)[4..], [Some(1000), None, None]);
        assert_eq!(cast(floats, 20, 10)[1..4], [expected[1], None, expected[3]]);
        assert_eq!(
            cast(Arc::new(Float64Array::from(vec![123_456.789, 16_777_217.0, 1.005])), 38, 15),
            [Some(123_456_789 * 10_i128.pow(12)), Some(16_777_217 * 10_i128.pow(15)), Some(1005 * 10_i128.pow(12)),]
        );
        assert_eq!(cast(Arc::new(Float64Array::from(vec![0.125, 0.5])), 5, 2), [None, Some(50)]);
        assert_eq!(cast(Arc::new(Float32Array::from(vec![0.1])), 10, 4), [Some(1000)]);
    }

    #[test]
    fn lists_become_text_that_is_json() {
        use arrow_array::types::Int64Type;
        use arrow_array::{ListArray, RecordBatch};
        let lists = ListArray::from_iter_primitive::<Int64Type, _, _>([Some(vec![Some(1), None]), None, Some(vec![])]);
        let batch = RecordBatch::try_from_iter([("x", Arc::new(lists) as ArrayRef)]).unwrap();
        let output = run_one(&Cast::new([("x", DataType::Utf8)]), batch.slice(0, 3)).unwrap();
        let texts: Vec<_> = output.column(0).as_string::<i32>().iter().collect();
        assert_eq!(texts, [Some("[1,null]"), None, Some("[]")]);
    }

    #[test]
    fn bytes_that_are_no_text_are_those_of_their_row() {
        use arrow_array::{ArrayRef, BinaryArray, RecordBatch};
        let bytes: BinaryArray = (0..100).map(|row| Some(if row == 70 { &b"\xff"[..] } else { b"ok" })).collect();
        let batch = RecordBatch::try_from_iter([("x", Arc::new(bytes) as ArrayRef)]).unwrap();
        let cast = Cast::new([("x", DataType::Utf8)]);
        let error = run_one(&cast, batch.clone()).unwrap_err().to_string();
        assert!(error.contains("row 71,"), "{error}");
        let nulls = run_one(&cast.policy(CastPolicy::Null), batch).unwrap();
        assert_eq!(nulls.column(0).null_count(), 1);
        assert!(nulls.column(0).is_null(70));
    }

    #[test]
    fn what_does_not_fit_can_become_null() {
        let rows: Vec<Option<i64>> = (0..1000).map(|row| (row % 3 > 0).then_some(row)).collect();
        let cast = Cast::new([("x", DataType::Int8)]).policy(CastPolicy::Null);
        let output = run_one(&cast, record_batch([("x", rows.clone())])).unwrap();
        let expected: Vec<_> = rows.iter().map(|row| row.and_then(|row| i8::try_from(row).ok())).collect();
        assert_eq!(output.column(0).as_primitive::<Int8Type>().iter().collect::<Vec<_>>(), expected);
        assert!(output.schema().field(0).is_nullable());
    }

    #[test]
    fn what_cannot_be_is_refused_when_planned() {
        let batch = record_batch([("x", vec![])]);
        assert_eq!(refused(&Cast::new([("x", DataType::Date32)]), &batch).kind(), ErrorKind::SchemaMismatch);
        assert_eq!(refused(&Cast::new([("z", DataType::Int8)]), &batch).kind(), ErrorKind::InvalidConfig);
        let twice = Cast::new([("x", DataType::Int8), ("x", DataType::Int8)]);
        assert_eq!(refused(&twice, &batch).kind(), ErrorKind::InvalidConfig);
    }
}
