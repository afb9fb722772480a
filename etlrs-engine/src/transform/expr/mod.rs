//! The expression language of pipeline files and `--where`.
//!
//! Binding checks types once, evaluation runs Arrow kernels over whole columns.

mod bind;
mod coerce;
mod eval;
mod functions;
mod lex;
mod node;
mod parse;
mod pushdown;
#[cfg(test)]
mod tests;

use std::fmt;
use std::ops::Range;
use std::str::FromStr;
use std::sync::Arc;

use arrow_array::{Array, ArrayRef, RecordBatch};
use arrow_schema::{DataType, SchemaRef};
use etlrs_core::{Error, ErrorKind, Result};

use self::bind::Binder;
use self::node::Node;
use self::parse::{Ast, AstKind};

pub(super) use self::coerce::{class, common};

/// An expression over the columns of a row, as in the `where` of SQL.
///
/// ```
/// use etlrs_core::record_batch;
/// use etlrs_engine::Expr;
///
/// let batch = record_batch([("delay", vec![Some(7), None, Some(90)])]);
/// let late = Expr::parse("delay > 15 and delay is not null")?.bind(&batch.schema())?;
/// let late = late.evaluate(&batch)?;
/// assert_eq!(format!("{late:?}").matches("true").count(), 1);
/// # Ok::<(), etlrs_core::Error>(())
/// ```
///
/// # The language
/// Loosest first; keywords and names of functions in any case:
///
/// | | |
/// |---|---|
/// | `or`, `and`, `not` | of three values: `null or true` is true; they skip what cannot change the result |
/// | `= == <> != < <= > >=` | |
/// | `is [not] null`, `[not] in (…)`, `[not] between a and b`, `[not] like 'a%'` | `in` takes literals |
/// | <code>\|\|</code> | joins texts; null if one is null |
/// | `+ -`, then `* / %`, then unary `-` | |
/// | `cast(x as type)` | types as of [`parse_type`](etlrs_core::parse_type); never loses anything silently |
/// | `case when c then x … else y end`, `case v when x then y … end` | only the branch that is chosen is evaluated |
/// | `abs coalesce length lower round trim upper` | `length` counts characters; `round` goes half away from zero |
///
/// A column is named bare or, if its name is no plain word or is a keyword, in double quotes. Literals: `12`, `1.5`,
/// `'text'` with `''` for a quote, `true`, `false`, `null`, `date '2013-01-31'`, `timestamp '2013-01-31T12:00:00'`
/// (a clock without zone) and `timestamp '2013-01-31T12:00:00Z'` (an instant).
///
/// # Types
/// - Integers give int64, and an overflow is an error. `/` of any two numbers gives float64; `%` of integers an integer,
///   and by zero an error. Floats follow IEEE 754, but `nan = nan` is true and NaN is above all numbers, as in PostgreSQL.
/// - An integer with a float is taken as float64, so integers beyond ±2^53 are compared with floats approximately.
/// - Decimals calculate exactly, with integers and with literals such as `0.1` too; a result with too many digits
///   is an error. A decimal with a float column is taken as float64.
/// - A date minus a date is a number of days; a date plus or minus an integer is a date.
/// - Text is compared only with text, and a timestamp without zone not with one that has a zone.
/// - `cast` refuses a value that would not be the same if cast back: 1.5 to an integer, 2^53+1 to a float. Decimals
///   round to the nearest float, float64 to float32, and a timestamp gives its date.
#[derive(Clone)]
pub struct Expr {
    source: Arc<str>,
    ast: Arc<Ast>,
}

/// An [`Expr`] that knows its columns; see [`Expr::bind`].
#[derive(Clone)]
pub struct BoundExpr {
    source: Arc<str>,
    schema: SchemaRef,
    node: Arc<Node>,
    used: Vec<usize>,
}

impl Expr {
    /// Reads an expression.
    ///
    /// # Errors
    /// `InvalidConfig`, with the character, counted from 1, and what was expected there.
    pub fn parse(source: &str) -> Result<Self> {
        Ok(Self { source: source.into(), ast: Arc::new(parse::parse(source)?) })
    }

    /// Fixes the expression to a schema.
    ///
    /// # Errors
    /// `InvalidConfig` for a column or function that there is not, and for types that do not go together.
    pub fn bind(&self, schema: &SchemaRef) -> Result<BoundExpr> {
        let mut binder = Binder { source: &self.source, schema, used: Vec::new() };
        let node = Arc::new(binder.root(&self.ast)?);
        Ok(BoundExpr { source: self.source.clone(), schema: schema.clone(), node, used: binder.used })
    }

    /// Names of the columns that it uses, each once, in the order of their first use.
    pub fn columns(&self) -> Vec<&str> {
        let mut names = Vec::new();
        let mut open = vec![&*self.ast];
        while let Some(ast) = open.pop() {
            if let AstKind::Column(name) = &ast.kind {
                names.push((ast.span.start, name.as_str()));
            }
            open.extend(ast.kind.children());
        }
        names.sort_unstable();
        let mut seen = std::collections::HashSet::new();
        names.into_iter().map(|(_, name)| name).filter(|name| seen.insert(*name)).collect()
    }
}

impl BoundExpr {
    /// Type of the result.
    pub fn data_type(&self) -> &DataType {
        &self.node.data_type
    }

    /// Whether the result can be null.
    pub fn nullable(&self) -> bool {
        self.node.nullable
    }

    /// Positions in the schema of the columns that it uses.
    pub fn columns(&self) -> &[usize] {
        &self.used
    }

    /// The value for each row of `batch`.
    ///
    /// # Errors
    /// `InvalidData` for an overflow, a division by zero or a cast that does not fit, with the row of the batch but
    /// without the value, which may be private. `SchemaMismatch` if the batch is of another schema.
    pub fn evaluate(&self, batch: &RecordBatch) -> Result<ArrayRef> {
        let columns = self.used.iter().map(|position| {
            let field = self.schema.field(*position);
            batch.columns().get(*position).filter(|column| column.data_type() == field.data_type()).cloned().ok_or_else(
                || {
                    let message = format!("the batch has no column of type {} at its place", field.data_type());
                    Error::new(ErrorKind::SchemaMismatch, message).at_column(field.name())
                },
            )
        });
        let columns = columns.collect::<Result<Vec<_>>>()?;
        let rows = batch.num_rows();
        let value = eval::evaluate(&self.node, &columns, rows).map_err(|fault| {
            let message = format!("in {}: {}", snippet(&self.source, &fault.span), fault.failure.message);
            let error = Error::new(ErrorKind::InvalidData, message);
            let error = fault.row.map(|row| row as u64 + 1).into_iter().fold(error, Error::at_row);
            match fault.failure.hint {
                Some(hint) => error.hint(hint),
                None => error,
            }
        })?;
        value.into_array(rows).map_err(Error::from)
    }
}

/// The part of an expression that an error is about.
fn snippet<'a>(source: &'a str, span: &Range<usize>) -> std::borrow::Cow<'a, str> {
    const LONGEST: usize = 60;
    let text = source.get(span.clone()).unwrap_or(source);
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &text[..end]).into(),
        None => text.into(),
    }
}

impl FromStr for Expr {
    type Err = Error;

    fn from_str(source: &str) -> Result<Self> {
        Self::parse(source)
    }
}

impl fmt::Display for Expr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.source)
    }
}

impl fmt::Debug for Expr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Expr({:?})", &*self.source)
    }
}

impl fmt::Debug for BoundExpr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BoundExpr({:?}: {})", &*self.source, self.node.data_type)
    }
}
