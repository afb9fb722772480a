//! Which rows of a source the filters at the front of the transformers let pass.

use std::sync::Arc;

use arrow_schema::{DataType, FieldRef, Schema, SchemaRef};
use etlrs_core::{ColumnTest, Effect, Transformer};

/// Tests, by the names that columns have at the source, which each row passes that comes through `transformers`.
pub(crate) fn source_tests(transformers: &[Arc<dyn Transformer>]) -> Vec<ColumnTest> {
    let mut tests = Vec::new();
    // Renamings seen so far, the last first: a name is followed back to the source through all of them.
    let mut renamings: Vec<Vec<(String, String)>> = Vec::new();
    for transformer in transformers {
        match transformer.effect() {
            Effect::Keeps { tests: more, may_fail, .. } => {
                tests.extend(more.into_iter().filter_map(|test| {
                    let column = renamings.iter().rev().try_fold(test.column, |name, names| before(&name, names))?;
                    Some(ColumnTest::new(column, test.test))
                }));
                if may_fail {
                    break;
                }
            }
            Effect::Renames(names) => renamings.push(names),
            Effect::Selects(_) | Effect::Drops(_) => {}
            _ => break,
        }
    }
    tests
}

/// The columns of `target` by the names that they have at the source, as far as those come through; `None` where their types may
/// not be those of the source.
pub(crate) fn source_columns(transformers: &[Arc<dyn Transformer>], target: &SchemaRef) -> Option<SchemaRef> {
    let mut fields = target.fields().to_vec();
    for transformer in transformers.iter().rev() {
        match transformer.effect() {
            Effect::Keeps { by_type, reads, .. } => {
                // A filter keeps the same rows whatever the target is. Some targets and sources take A for a.
                let is_one_of = |columns: &[String], field: &FieldRef| {
                    columns.iter().any(|column| column.to_lowercase() == field.name().to_lowercase())
                };
                // 0.1 in 32 bits is more than 0.1.
                let is_short = |field: &FieldRef| matches!(field.data_type(), DataType::Float16 | DataType::Float32);
                fields.retain(|field| !(is_one_of(&by_type, field) || is_short(field) && is_one_of(&reads, field)));
                fields = fields.iter().map(widened).collect();
            }
            Effect::Renames(names) => {
                let renamed = |field: &FieldRef| {
                    let name = before(field.name(), &names)?;
                    Some(Arc::new(field.as_ref().clone().with_name(name)))
                };
                fields = fields.iter().filter_map(renamed).collect();
            }
            Effect::Selects(columns) => fields.retain(|field| columns.contains(field.name())),
            Effect::Drops(columns) => fields.retain(|field| !columns.contains(field.name())),
            _ => return None,
        }
    }
    Some(Arc::new(Schema::new(fields)))
}

/// With a type that also holds numbers which the target cannot, for a filter may drop those.
fn widened(field: &FieldRef) -> FieldRef {
    let wide = match field.data_type() {
        DataType::UInt64 => return field.clone(),
        data_type if data_type.is_integer() => DataType::Int64,
        DataType::Decimal128(_, scale) => DataType::Decimal128(38, *scale),
        _ => return field.clone(),
    };
    Arc::new(field.as_ref().clone().with_data_type(wide))
}

/// The name that a column had before `renaming`; `None` if no column can have it behind.
fn before(name: &str, renaming: &[(String, String)]) -> Option<String> {
    match renaming.iter().find(|(_, to)| to == name) {
        Some((from, _)) => Some(from.clone()),
        None if renaming.iter().any(|(from, _)| from == name) => None,
        None => Some(name.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Derive, DropColumns, Expr, Filter, Rename, Select};

    fn filter(expr: &str) -> Arc<dyn Transformer> {
        Arc::new(Filter::new(Expr::parse(expr).unwrap()))
    }

    fn columns(transformers: &[Arc<dyn Transformer>]) -> Vec<String> {
        source_tests(transformers).into_iter().map(|test| test.column).collect()
    }

    #[test]
    fn columns_of_the_target_are_followed_back_to_the_source() {
        let field = |name: &str| arrow_schema::Field::new(name, arrow_schema::DataType::Int16, true);
        let target = Arc::new(Schema::new(vec![field("a"), field("b")]));
        let names = |transformers: &[Arc<dyn Transformer>]| -> Option<Vec<String>> {
            let columns = source_columns(transformers, &target)?;
            Some(columns.fields().iter().map(|field| field.name().clone()).collect())
        };
        let found = |names: &[&str]| Some(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>());
        let rename = |names: &[(&str, &str)]| -> Arc<dyn Transformer> { Arc::new(Rename::new(names.iter().copied())) };
        assert_eq!(names(&[filter("a = 1")]), found(&["a", "b"]));
        assert_eq!(names(&[rename(&[("x", "y")]), rename(&[("y", "a")])]), found(&["x", "b"]));
        assert_eq!(names(&[rename(&[("a", "b"), ("b", "a")])]), found(&["b", "a"]));
        // Nothing comes through as `b`.
        assert_eq!(names(&[rename(&[("b", "z")])]), found(&["a"]));
        let derive: Arc<dyn Transformer> = Arc::new(Derive::new("a", Expr::parse("1").unwrap()));
        assert_eq!(names(&[filter("a = 1"), derive]), None);
        // What is dropped goes nowhere.
        assert_eq!(names(&[Arc::new(Select::new(["b", "c"]))]), found(&["b"]));
        assert_eq!(names(&[Arc::new(DropColumns::new(["a"]))]), found(&["b"]));
        // What a filter keeps is not to depend on the target.
        assert_eq!(names(&[rename(&[("x", "a")]), filter("A < c")]), found(&["b"]));
        assert_eq!(names(&[rename(&[("x", "a")]), filter("a + b < 5")]), found(&[]));
        let float = Arc::new(Schema::new(vec![arrow_schema::Field::new("f", DataType::Float32, true)]));
        for (expr, expected) in [("F > 0.1", 0), ("a > 0.1", 1)] {
            assert_eq!(source_columns(&[filter(expr)], &float).unwrap().fields().len(), expected, "{expr}");
        }
        // A filter may drop what would not fit.
        let types = |transformers: &[Arc<dyn Transformer>]| {
            let columns = source_columns(transformers, &target).unwrap();
            columns.fields().iter().map(|field| field.data_type().clone()).collect::<Vec<_>>()
        };
        assert_eq!(types(&[rename(&[("x", "a")])]), [DataType::Int16, DataType::Int16]);
        assert_eq!(types(&[filter("b = 1"), rename(&[("x", "a")])]), [DataType::Int64, DataType::Int64]);
        assert_eq!(
            widened(&Arc::new(arrow_schema::Field::new("u", DataType::UInt64, true))).data_type(),
            &DataType::UInt64
        );
    }

    #[test]
    fn filters_are_followed_back_to_the_source() {
        let rename = |names: &[(&str, &str)]| -> Arc<dyn Transformer> { Arc::new(Rename::new(names.iter().copied())) };
        let derive: Arc<dyn Transformer> = Arc::new(Derive::new("x", Expr::parse("1").unwrap()));
        assert_eq!(columns(&[filter("a = 1"), filter("b = 2")]), ["a", "b"]);
        assert_eq!(
            columns(&[Arc::new(Select::new(["a", "b"])), Arc::new(DropColumns::new(["c"])), filter("a = 1")]),
            ["a"]
        );
        assert_eq!(
            columns(&[rename(&[("a", "b"), ("b", "a")]), rename(&[("a", "c")]), filter("c = 1 and b = 2")]),
            ["b", "a"]
        );
        assert_eq!(columns(&[rename(&[("a", "b")]), filter("a = 1 and c = 1")]), ["c"]);
        assert_eq!(columns(&[filter("a = 1"), derive, filter("b = 2")]), ["a"]);
        assert_eq!(columns(&[filter("a = 1 and 1 / b > 1"), filter("c = 2")]), ["a"]);
    }
}
