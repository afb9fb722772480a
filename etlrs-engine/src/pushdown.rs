//! Which rows of a source the filters at the front of the transformers let pass.

use std::sync::Arc;

use etlrs_core::{ColumnTest, Effect, Transformer};

/// Tests, by the names that columns have at the source, which each row passes that comes through `transformers`.
pub(crate) fn source_tests(transformers: &[Arc<dyn Transformer>]) -> Vec<ColumnTest> {
    let mut tests = Vec::new();
    // Renamings seen so far, the last first: a name is followed back to the source through all of them.
    let mut renamings: Vec<Vec<(String, String)>> = Vec::new();
    for transformer in transformers {
        match transformer.effect() {
            Effect::Keeps { tests: more, may_fail } => {
                tests.extend(more.into_iter().filter_map(|test| {
                    let column = renamings.iter().rev().try_fold(test.column, |name, names| before(&name, names))?;
                    Some(ColumnTest::new(column, test.test))
                }));
                if may_fail {
                    break;
                }
            }
            Effect::Renames(names) => renamings.push(names),
            _ => break,
        }
    }
    tests
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
