//! Evaluation over columns.
//!
//! `and`, `or`, `case` and `coalesce` evaluate a part that may fail only on the rows for which its value matters, so
//! that `n <> 0 and 100 % n = 1` guards its own division.

use std::ops::Range;

use arrow_arith::boolean::{and_kleene, is_not_null, or_kleene};
use arrow_array::cast::AsArray;
use arrow_array::{Array, ArrayRef, BooleanArray, new_empty_array};
use arrow_schema::ArrowError;
use arrow_select::filter::{filter, prep_null_mask_filter};
use arrow_select::interleave::interleave;

use super::node::{Failure, Kernel, Node, NodeKind, Value};
use crate::transform::exact::first_failing_row;

/// An operation that failed on a value.
#[derive(Debug)]
pub(super) struct Fault {
    /// Row of the batch from 0, unless the operation depends on no row.
    pub(super) row: Option<usize>,
    pub(super) failure: Failure,
    pub(super) span: Range<usize>,
}

/// The value of `node` for each of `rows` rows of `columns`.
pub(super) fn evaluate(node: &Node, columns: &[ArrayRef], rows: usize) -> Result<Value, Fault> {
    if rows == 0 {
        return Ok(Value::Array(new_empty_array(&node.data_type)));
    }
    match &node.kind {
        NodeKind::Column(at) => Ok(Value::Array(columns[*at].clone())),
        NodeKind::Literal { value, .. } => Ok(Value::Scalar(value.clone())),
        NodeKind::Call { kernel, failure, args } => {
            let args = args.iter().map(|arg| evaluate(arg, columns, rows)).collect::<Result<Vec<_>, _>>()?;
            call(node, kernel, failure, &args, rows)
        }
        NodeKind::Logic { or, terms } => logic(node, *or, terms, columns, rows),
        NodeKind::Choose { branches, otherwise } => choose(node, branches, otherwise, columns, rows),
        NodeKind::Coalesce(args) => coalesce(node, args, columns, rows),
    }
}

fn call(node: &Node, kernel: &Kernel, failure: &Failure, args: &[Value], rows: usize) -> Result<Value, Fault> {
    let constant = args.iter().all(Value::is_scalar);
    match kernel(args) {
        Ok(array) if constant => Ok(Value::Scalar(array)),
        Ok(array) => Ok(Value::Array(array)),
        Err(error) => {
            let head = |rows| args.iter().map(|arg| arg.head(rows)).collect::<Vec<_>>();
            let row = (!constant).then(|| first_failing_row(rows, |rows| kernel(&head(rows)).is_err()));
            // The first failure counts: there may be an overflow in one row and a zero in another.
            let first = row.and_then(|row| kernel(&head(row + 1)).err()).unwrap_or(error);
            let failure = match first {
                ArrowError::DivideByZero => Failure { message: "division by zero".into(), hint: None },
                _ => failure.clone(),
            };
            Err(Fault { row, failure, span: node.span.clone() })
        }
    }
}

fn logic(node: &Node, or: bool, terms: &[Node], columns: &[ArrayRef], rows: usize) -> Result<Value, Fault> {
    let combine = if or { or_kleene } else { and_kleene };
    let mut result: Option<BooleanArray> = None;
    for term in terms {
        let Some(so_far) = &result else {
            result = Some(booleans(term, columns, rows)?);
            continue;
        };
        // The rows that this term can still change.
        let open: BooleanArray = so_far.iter().map(|value| Some(value != Some(or))).collect();
        let value = match open.true_count() {
            0 => break,
            count if !term.fallible || count == rows => booleans(term, columns, rows)?,
            count => {
                let subset = Subset::new(columns, &open).map_err(|error| internal(node, &error))?;
                let values = subset.evaluate(term, count).and_then(|value| to_booleans(term, value, count))?;
                let mut values = values.iter();
                open.values().iter().map(|open| if open { values.next().flatten() } else { Some(or) }).collect()
            }
        };
        result = Some(combine(so_far, &value).map_err(|error| internal(node, &error))?);
    }
    result.map(|result| Value::Array(std::sync::Arc::new(result))).ok_or_else(|| internal(node, &"no terms"))
}

fn choose(
    node: &Node,
    branches: &[(Node, Node)],
    otherwise: &Node,
    columns: &[ArrayRef],
    rows: usize,
) -> Result<Value, Fault> {
    let mut parts = Parts::new(columns, rows);
    for (condition, value) in branches {
        let condition =
            parts.open.evaluate(condition, parts.len()).and_then(|value| to_booleans(condition, value, parts.len()))?;
        // Arrow's function is only for masks that have nulls.
        let taken = if condition.null_count() == 0 { condition } else { prep_null_mask_filter(&condition) };
        parts.give(node, &taken, |open, count| open.evaluate(value, count))?;
    }
    parts.finish(node, otherwise)
}

fn coalesce(node: &Node, args: &[Node], columns: &[ArrayRef], rows: usize) -> Result<Value, Fault> {
    let Some((last, args)) = args.split_last() else { return Err(internal(node, &"no arguments")) };
    let mut parts = Parts::new(columns, rows);
    for arg in args {
        let count = parts.len();
        let values = parts.open.evaluate(arg, count)?.into_array(count).map_err(|error| internal(node, &error))?;
        if values.logical_null_count() == 0 && count == rows {
            return Ok(Value::Array(values));
        }
        let taken = is_not_null(&values).map_err(|error| internal(node, &error))?;
        parts.give(node, &taken, |_, _| {
            filter(&values, &taken).map(Value::Array).map_err(|error| internal(node, &error))
        })?;
    }
    parts.finish(node, last)
}

/// Some rows of the columns, which know where they were.
struct Subset {
    columns: Vec<ArrayRef>,
    rows: Vec<usize>,
}

impl Subset {
    fn new(columns: &[ArrayRef], mask: &BooleanArray) -> Result<Self, ArrowError> {
        let columns = columns.iter().map(|column| filter(column, mask)).collect::<Result<_, _>>()?;
        Ok(Self { columns, rows: mask.values().set_indices().collect() })
    }

    fn evaluate(&self, node: &Node, rows: usize) -> Result<Value, Fault> {
        evaluate(node, &self.columns, rows).map_err(|fault| self.locate(fault))
    }

    fn locate(&self, mut fault: Fault) -> Fault {
        fault.row = fault.row.and_then(|row| self.rows.get(row)).copied();
        fault
    }

    fn select(&self, mask: &BooleanArray) -> Result<Self, ArrowError> {
        let mut subset = Self::new(&self.columns, mask)?;
        for row in &mut subset.rows {
            *row = self.rows[*row];
        }
        Ok(subset)
    }
}

/// Values that come part by part, and the rows that have none yet.
struct Parts {
    open: Subset,
    values: Vec<ArrayRef>,
    /// For each row its part and its position therein.
    places: Vec<(usize, usize)>,
}

impl Parts {
    fn new(columns: &[ArrayRef], rows: usize) -> Self {
        let open = Subset { columns: columns.to_vec(), rows: (0..rows).collect() };
        Self { open, values: Vec::new(), places: vec![(0, 0); rows] }
    }

    fn len(&self) -> usize {
        self.open.rows.len()
    }

    /// Gives the open rows in `mask`, which has no nulls, the values that `make` has for them.
    fn give(
        &mut self,
        node: &Node,
        mask: &BooleanArray,
        make: impl FnOnce(&Subset, usize) -> Result<Value, Fault>,
    ) -> Result<(), Fault> {
        let taken = self.open.select(mask).map_err(|error| internal(node, &error))?;
        let value = make(&taken, taken.rows.len())?;
        self.place(&taken.rows, value);
        let rest = BooleanArray::from(!mask.values());
        self.open = self.open.select(&rest).map_err(|error| internal(node, &error))?;
        Ok(())
    }

    fn place(&mut self, rows: &[usize], value: Value) {
        let part = self.values.len();
        for (at, row) in rows.iter().enumerate() {
            self.places[*row] = (part, if value.is_scalar() { 0 } else { at });
        }
        self.values.push(value.array().clone());
    }

    fn finish(mut self, node: &Node, otherwise: &Node) -> Result<Value, Fault> {
        let value = self.open.evaluate(otherwise, self.len())?;
        let open = std::mem::take(&mut self.open.rows);
        self.place(&open, value);
        let values: Vec<&dyn Array> = self.values.iter().map(|values| &**values).collect();
        interleave(&values, &self.places).map(Value::Array).map_err(|error| internal(node, &error))
    }
}

fn booleans(node: &Node, columns: &[ArrayRef], rows: usize) -> Result<BooleanArray, Fault> {
    evaluate(node, columns, rows).and_then(|value| to_booleans(node, value, rows))
}

fn to_booleans(node: &Node, value: Value, rows: usize) -> Result<BooleanArray, Fault> {
    Ok(value.into_array(rows).map_err(|error| internal(node, &error))?.as_boolean().clone())
}

/// Arrow refusing what binding allowed.
fn internal(node: &Node, error: &dyn std::fmt::Display) -> Fault {
    Fault {
        row: None,
        failure: Failure { message: format!("the operation failed: {error}"), hint: None },
        span: node.span.clone(),
    }
}
