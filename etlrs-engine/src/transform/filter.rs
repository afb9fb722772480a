use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_schema::{DataType, SchemaRef};
use arrow_select::filter::filter_record_batch;
use etlrs_core::{BoundTransformer, Effect, Error, ErrorKind, Result, Transformer, type_name};

use super::{Expr, batch_of, row_wise};

/// Keeps the rows for which an expression is true; null is not.
///
/// ```
/// use etlrs_engine::{Expr, Filter};
///
/// let late = Filter::new(Expr::parse("delay > 15")?);
/// # let _ = late;
/// # Ok::<(), etlrs_core::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Filter {
    expr: Expr,
}

impl Filter {
    /// Of a boolean expression; whether it is one is checked when a run is planned.
    pub fn new(expr: Expr) -> Self {
        Self { expr }
    }
}

impl Transformer for Filter {
    fn name(&self) -> &str {
        "filter"
    }

    fn bind(&self, input: &SchemaRef) -> Result<Arc<dyn BoundTransformer>> {
        let expr = self.expr.bind(input)?;
        if *expr.data_type() != DataType::Boolean {
            let found = type_name(expr.data_type());
            let message = format!("a filter takes boolean, but {} is {found}", self.expr);
            return Err(Error::new(ErrorKind::InvalidConfig, message).hint("compare it with something"));
        }
        let schema = input.clone();
        Ok(row_wise("filter", input.clone(), move |batch| {
            let keep = expr.evaluate(batch)?;
            let kept = filter_record_batch(batch, keep.as_boolean())?;
            batch_of(&schema, kept.columns().to_vec(), kept.num_rows())
        }))
    }

    fn effect(&self) -> Effect {
        let (tests, may_fail) = self.expr.column_tests();
        let owned = |columns: Vec<&str>| columns.into_iter().map(str::to_owned).collect();
        let (by_type, reads) = (owned(self.expr.columns_by_type()), owned(self.expr.columns()));
        Effect::Keeps { tests, by_type, reads, may_fail }
    }
}

#[cfg(test)]
mod tests {
    use arrow_array::RecordBatch;
    use etlrs_core::{Schema, record_batch};

    use super::*;
    use crate::transform::testing::{refused, run, run_one};

    fn filter(expr: &str) -> Filter {
        Filter::new(Expr::parse(expr).unwrap())
    }

    #[test]
    fn rows_that_are_not_true_go() {
        let batch = record_batch([("x", vec![Some(1), None, Some(3), Some(4)])]);
        let kept = run_one(&filter("x > 2"), batch.clone()).unwrap();
        assert_eq!(kept, record_batch([("x", vec![Some(3), Some(4)])]));
        assert!(run(&filter("not x > 2"), vec![batch.slice(1, 2)]).unwrap().is_empty());
        assert_eq!(run_one(&filter("true"), batch.slice(1, 2)).unwrap(), batch.slice(1, 2));
    }

    #[test]
    fn rows_without_columns_are_counted() {
        let empty = Arc::new(Schema::empty());
        let batch: RecordBatch = batch_of(&empty, vec![], 3).unwrap();
        assert_eq!(run_one(&filter("1 = 1"), batch.clone()).unwrap().num_rows(), 3);
        assert!(run(&filter("1 = 2"), vec![batch]).unwrap().is_empty());
    }

    #[test]
    fn what_is_not_boolean_is_refused() {
        let batch = record_batch([("x", vec![])]);
        let error = refused(&filter("x + 1"), &batch);
        assert_eq!(error.to_string(), "a filter takes boolean, but x + 1 is int64; compare it with something");
        assert_eq!(refused(&filter("y = 1"), &batch).kind(), ErrorKind::InvalidConfig);
    }
}
