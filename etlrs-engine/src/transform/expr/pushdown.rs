//! What an expression that filters says of single columns, before it knows their types.
//!
//! Only the terms of the topmost `and` count, and of them those that compare a column with a literal. A term behind one
//! that may fail on some row is not used: a source that leaves the row out would hide the failure. The other way round it
//! is the rule of `and` itself, which does not evaluate what a term before has decided.

use arrow_array::cast::AsArray;
use arrow_array::types::{Date32Type, TimestampMicrosecondType};
use arrow_schema::{DataType, Schema};
use etlrs_core::{ColumnTest, Comparison, Test, Value};

use super::Expr;
use super::bind::Binder;
use super::node::NodeKind;
use super::parse::{Ast, AstKind, BinaryOp, Literal};

impl Expr {
    /// Tests that the rows pass for which the expression is true, and whether some row may make it fail.
    pub(in crate::transform) fn column_tests(&self) -> (Vec<ColumnTest>, bool) {
        let mut tests = Vec::new();
        let mut open = vec![&*self.ast];
        while let Some(ast) = open.pop() {
            if let AstKind::And(terms) = &ast.kind {
                open.extend(terms.iter().rev());
                continue;
            }
            if may_fail(ast) {
                return (tests, true);
            }
            tests.extend(self.tests_of(ast).unwrap_or_default());
        }
        (tests, false)
    }

    /// The columns of which another type with the same words might make it true of other rows: all but those that are compared
    /// with literals, for these have a type of their own. Quotes with nothing between them are null as a number and not as text.
    pub(in crate::transform) fn columns_by_type(&self) -> Vec<&str> {
        let mut columns = Vec::new();
        // With whether it is part of something that depends on types.
        let mut open = vec![(&*self.ast, false)];
        while let Some((ast, depends)) = open.pop() {
            let children = ast.kind.children();
            let depends = depends
                || match &ast.kind {
                    AstKind::And(_) | AstKind::Or(_) | AstKind::Not(_) | AstKind::Column(_) | AstKind::Literal(_) => {
                        false
                    }
                    AstKind::Binary(op, ..) if comparison(*op).is_none() => true,
                    AstKind::Binary(..) | AstKind::Between { .. } | AstKind::In { .. } | AstKind::Like { .. } => {
                        let is_literal = |ast: &&Ast| matches!(ast.kind, AstKind::Literal(_));
                        let others = children.iter().filter(|child| !is_literal(child)).collect::<Vec<_>>();
                        others.len() > 1 || others.iter().any(|other| column(other).is_none())
                    }
                    _ => true,
                };
            columns.extend(column(ast).filter(|_| depends));
            open.extend(children.into_iter().map(|child| (child, depends)));
        }
        columns
    }

    fn tests_of(&self, ast: &Ast) -> Option<Vec<ColumnTest>> {
        let test = |column: &str, test| ColumnTest::new(column, test);
        Some(match &ast.kind {
            AstKind::Binary(op, left, right) => {
                let comparison = comparison(*op)?;
                let (column, comparison, value) = match (column(left), column(right)) {
                    (Some(column), None) => (column, comparison, self.constant(right)?),
                    (None, Some(column)) => (column, comparison.flipped(), self.constant(left)?),
                    _ => return None,
                };
                vec![test(column, Test::Compare(comparison, value))]
            }
            AstKind::Between { negated: false, value, low, high } => {
                let column = column(value)?;
                let bounds = [(Comparison::GtEq, low), (Comparison::LtEq, high)];
                let bound = |(comparison, bound): (_, &Ast)| {
                    Some(test(column, Test::Compare(comparison, self.constant(bound)?)))
                };
                bounds.into_iter().filter_map(|(comparison, ast)| bound((comparison, ast))).collect()
            }
            AstKind::In { negated: false, value, list } => {
                // A null in the list equals nothing.
                let items = list.iter().filter(|item| !matches!(item.kind, AstKind::Literal(Literal::Null)));
                let items = items.map(|item| self.constant(item)).collect::<Option<_>>()?;
                vec![test(column(value)?, Test::In(items))]
            }
            AstKind::IsNull { negated, value } => {
                vec![test(column(value)?, if *negated { Test::IsNotNull } else { Test::IsNull })]
            }
            _ => return None,
        })
    }

    /// A literal as a value; not the word null, which no comparison is true of.
    fn constant(&self, ast: &Ast) -> Option<Value<'static>> {
        let AstKind::Literal(literal) = &ast.kind else { return None };
        Some(match literal {
            Literal::Null => return None,
            Literal::Boolean(value) => Value::Boolean(*value),
            Literal::Integer(value) => integer(*value),
            Literal::Number { decimal: Some((value, scale)), .. } => Value::Decimal { value: *value, scale: *scale },
            Literal::Number { value, decimal: None } => Value::Float(*value),
            Literal::Text(text) => Value::Text(text.clone().into()),
            Literal::Date(_) | Literal::Timestamp(_) => {
                let schema = Schema::empty();
                let binder = Binder { source: &self.source, schema: &schema, used: Vec::new() };
                let NodeKind::Literal { value, .. } = binder.literal(literal, ast.span.clone()).ok()?.kind else {
                    return None;
                };
                match value.data_type() {
                    DataType::Date32 => Value::Date(value.as_primitive_opt::<Date32Type>()?.iter().next()??),
                    _ => Value::Timestamp(value.as_primitive_opt::<TimestampMicrosecondType>()?.iter().next()??),
                }
            }
        })
    }
}

fn integer(value: i128) -> Value<'static> {
    match (i64::try_from(value), u64::try_from(value)) {
        (Ok(value), _) => Value::Int(value),
        (_, Ok(value)) => Value::UInt(value),
        _ => Value::Decimal { value, scale: 0 },
    }
}

fn column(ast: &Ast) -> Option<&str> {
    match &ast.kind {
        AstKind::Column(name) => Some(name),
        _ => None,
    }
}

fn comparison(op: BinaryOp) -> Option<Comparison> {
    Some(match op {
        BinaryOp::Eq => Comparison::Eq,
        BinaryOp::NotEq => Comparison::NotEq,
        BinaryOp::Lt => Comparison::Lt,
        BinaryOp::LtEq => Comparison::LtEq,
        BinaryOp::Gt => Comparison::Gt,
        BinaryOp::GtEq => Comparison::GtEq,
        _ => return None,
    })
}

/// Whether the words alone leave open that a value of a row makes it fail. Binding knows it better, but needs types.
fn may_fail(ast: &Ast) -> bool {
    const SAFE: [&str; 5] = ["coalesce", "length", "lower", "trim", "upper"];
    let itself = match &ast.kind {
        AstKind::Negate(_) | AstKind::Cast(..) => true,
        AstKind::Binary(op, ..) => comparison(*op).is_none(),
        AstKind::Call(name, _) => !SAFE.contains(&name.as_str()),
        _ => false,
    };
    itself || ast.kind.children().into_iter().any(may_fail)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(source: &str) -> String {
        let (tests, may_fail) = Expr::parse(source).unwrap().column_tests();
        let tests: Vec<_> = tests.iter().map(|test| format!("{} {:?}", test.column, test.test)).collect();
        format!("{}{}", tests.join("; "), if may_fail { "; …" } else { "" })
    }

    #[test]
    fn columns_whose_types_decide_are_found() {
        for (source, expected) in [
            ("a = 1 and (b < 'x' or not c = 'y') and 2 > d and e and f in (1, 2) and g like 'x%'", ""),
            ("a < b", "a b"),
            ("a = 1 and not (b is null or c is not null)", "b c"),
            ("not (a between 1 and b) or c = 1", "a b"),
            ("a in (1, b)", "a b"),
            ("a + 1 > 2 and b = 1", "a"),
            ("length(a) = 1", "a"),
            ("(a = 1) = (b = 2)", "a b"),
            ("case when a = 1 then b else c end", "a b c"),
            ("-a < 1 and b > 0.5", "a"),
        ] {
            let expr = Expr::parse(source).unwrap();
            let mut found = expr.columns_by_type();
            found.sort_unstable();
            assert_eq!(found.join(" "), expected, "{source}");
        }
    }

    #[test]
    fn comparisons_with_literals_are_found() {
        for (source, expected) in [
            ("a = 1", "a Compare(Eq, Int(1))"),
            ("-1.50 < a", "a Compare(Gt, Decimal { value: -150, scale: 2 })"),
            ("a >= 1e300", "a Compare(GtEq, Float(1e300))"),
            ("a <> 18446744073709551615", "a Compare(NotEq, UInt(18446744073709551615))"),
            ("\"A b\" <= 'x'", "A b Compare(LtEq, Text(\"x\"))"),
            ("a between 1 and 2", "a Compare(GtEq, Int(1)); a Compare(LtEq, Int(2))"),
            ("a between b and 2", "a Compare(LtEq, Int(2))"),
            ("a in (1, null, 'x')", "a In([Int(1), Text(\"x\")])"),
            ("a is null and b is not null", "a IsNull; b IsNotNull"),
            ("a = date '1970-01-03'", "a Compare(Eq, Date(2))"),
            ("a < timestamp '1970-01-01T00:00:01Z'", "a Compare(Lt, Timestamp(1000000))"),
            (
                "(a = true and b = 2) and c = 3",
                "a Compare(Eq, Boolean(true)); b Compare(Eq, Int(2)); c Compare(Eq, Int(3))",
            ),
        ] {
            assert_eq!(shown(source), expected, "{source}");
        }
    }

    #[test]
    fn what_is_not_certain_is_left_out() {
        for (source, expected) in [
            ("a = 1 or b = 2", ""),
            ("not a = 1", ""),
            ("a not in (1, 2)", ""),
            ("a not between 1 and 2", ""),
            ("a = null", ""),
            ("a = b", ""),
            ("1 = 2", ""),
            ("a", ""),
            ("a like 'x%' and lower(b) = 'x' and c = 1", "c Compare(Eq, Int(1))"),
            ("a = 1 and 10 / b > 2 and c = 1", "a Compare(Eq, Int(1)); …"),
            ("cast(a as int64) = 1 and b = 1", "; …"),
            ("case when a = 1 then b / 2 else 0 end = 1 and b = 1", "; …"),
        ] {
            assert_eq!(shown(source), expected, "{source}");
        }
    }
}
