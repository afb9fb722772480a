use std::sync::Arc;

use arrow_schema::{Field, SchemaRef};
use etlrs_core::{BoundTransformer, Result, Transformer};

use super::{Expr, batch_of, row_wise, schema_of};

/// Adds a column at the end, or replaces the one of that name in its place.
///
/// ```
/// use etlrs_engine::{Derive, Expr};
///
/// let hours = Derive::new("hours", Expr::parse("air_time / 60")?);
/// # let _ = hours;
/// # Ok::<(), etlrs_core::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Derive {
    name: String,
    expr: Expr,
}

impl Derive {
    /// A column `name` with the values of `expr`, which may use the column that it replaces.
    pub fn new(name: impl Into<String>, expr: Expr) -> Self {
        Self { name: name.into(), expr }
    }
}

impl Transformer for Derive {
    fn name(&self) -> &str {
        "derive"
    }

    fn bind(&self, input: &SchemaRef) -> Result<Arc<dyn BoundTransformer>> {
        let expr = self.expr.bind(input)?;
        let field = Arc::new(Field::new(&self.name, expr.data_type().clone(), expr.nullable()));
        let mut fields = input.fields().to_vec();
        let place = fields.iter().position(|field| *field.name() == self.name);
        match place {
            Some(place) => fields[place] = field,
            None => fields.push(field),
        }
        let schema = schema_of(input, fields)?;
        Ok(row_wise("derive", schema.clone(), move |batch| {
            let derived = expr.evaluate(batch)?;
            let mut columns = batch.columns().to_vec();
            match place {
                Some(place) => columns[place] = derived,
                None => columns.push(derived),
            }
            batch_of(&schema, columns, batch.num_rows())
        }))
    }
}

#[cfg(test)]
mod tests {
    use arrow_array::cast::AsArray;
    use arrow_array::types::Int64Type;
    use etlrs_core::record_batch;

    use super::*;
    use crate::transform::testing::run_one;

    #[test]
    fn a_column_is_added_or_replaced_in_place() {
        let batch = record_batch([("x", vec![Some(1), None]), ("y", vec![Some(5), Some(6)])]);
        let derive = |name: &str, expr: &str| Derive::new(name, Expr::parse(expr).unwrap());
        let added = run_one(&derive("z", "x + y"), batch.clone()).unwrap();
        assert_eq!(added.column(2).as_primitive::<Int64Type>().iter().collect::<Vec<_>>(), [Some(6), None]);
        let replaced = run_one(&derive("x", "coalesce(x, 0) * 10"), batch.clone()).unwrap();
        assert_eq!(replaced.column(0).as_primitive::<Int64Type>().values(), &[10, 0]);
        assert_eq!(replaced.schema().field(1).name(), "y");
        let constant = run_one(&derive("one", "1"), batch).unwrap();
        assert!(!constant.schema().field(2).is_nullable());
        assert_eq!(constant.column(2).as_primitive::<Int64Type>().values(), &[1, 1]);
    }
}
