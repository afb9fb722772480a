use std::sync::Arc;

use arrow_schema::{DataType, SchemaRef};
use etlrs_core::{BoundTransformer, Error, ErrorKind, Result, Transformer, column_index, type_name};

use super::exact::{cast_exact, check_cast, first_failing_row};
use super::{batch_of, each_batch, schema_of};

/// Changes the types of columns, and fails where a value would be lost: see the rules of `cast` at
/// [`Expr`](crate::Expr).
///
/// ```
/// use etlrs_core::parse_type;
/// use etlrs_engine::Cast;
///
/// let cast = Cast::new([("price", parse_type("decimal(12,2)")?), ("day", parse_type("date")?)]);
/// # let _ = cast;
/// # Ok::<(), etlrs_core::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Cast {
    columns: Vec<(String, DataType)>,
}

impl Cast {
    /// Of columns and the types that they shall have.
    pub fn new<S: Into<String>>(columns: impl IntoIterator<Item = (S, DataType)>) -> Self {
        Self { columns: columns.into_iter().map(|(name, data_type)| (name.into(), data_type)).collect() }
    }
}

impl Transformer for Cast {
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
            let mut metadata = field.metadata().clone();
            // An extension type is one of a certain storage type.
            metadata.retain(|key, _| !key.starts_with("ARROW:extension:") || field.data_type() == to);
            fields[position] = Arc::new(field.clone().with_data_type(to.clone()).with_metadata(metadata));
            casts.push((position, to.clone()));
        }
        let schema = schema_of(input, fields)?;
        Ok(each_batch(schema.clone(), move |batch| {
            let mut columns = batch.columns().to_vec();
            for (position, to) in &casts {
                let column = &columns[*position];
                columns[*position] = cast_exact(column, to).map_err(|_| {
                    let row = first_failing_row(column.len(), |rows| cast_exact(&column.slice(0, rows), to).is_err());
                    let message =
                        format!("the value at row {} of the batch does not fit into {}", row + 1, type_name(to));
                    Error::new(ErrorKind::InvalidData, message).at_column(schema.field(*position).name())
                })?;
            }
            batch_of(&schema, columns, batch.num_rows())
        }))
    }
}

#[cfg(test)]
mod tests {
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
        assert_eq!(error.to_string(), "column \"x\": the value at row 3 of the batch does not fit into int8");
        assert!(!format!("{error:?}").contains("471"));
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
