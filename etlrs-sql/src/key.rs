//! Keys of tables that are written: those that a merge goes by, and the primary key that a table gets.

use etlrs_core::{Error, ErrorKind, LoadMode, LoadPlan};

/// The plan, without the primary key of the source if the user wants none.
pub(crate) fn with_key(mut plan: LoadPlan, primary_key: bool) -> LoadPlan {
    if !primary_key && plan.mode != LoadMode::Merge {
        plan.keys.clear();
    }
    plan
}

/// The plan, without the primary key of the source if there is a target, to which that says nothing.
pub(crate) fn of_target(plan: LoadPlan, exists: bool) -> LoadPlan {
    with_key(plan, !exists)
}

/// Says of an error about a key that the key is the source's, and need not be made.
pub(crate) fn with_hint_of_key(error: Error, plan: &LoadPlan) -> Error {
    let of_key = error.position().column.as_ref().is_none_or(|column| plan.keys.contains(column));
    if plan.keys.is_empty() || error.kind() != ErrorKind::InvalidData || !of_key {
        return error;
    }
    if plan.mode == LoadMode::Merge {
        if error.hint_text().is_some() {
            return error;
        }
        return error.hint("a key of the mode merge is told by its columns, of which none may be null");
    }
    error.hint("the primary key is that of the source; primary_key=false makes the table without it")
}

/// The error for a key that is null.
pub(crate) fn null_key(key: &str) -> Error {
    Error::new(ErrorKind::InvalidData, "there is a null in a column of the key")
        .hint("filter such rows out")
        .at_column(key)
}

/// The error for keys that are two in the source and one for the collation of the target.
pub(crate) fn one_key(keys: &[String]) -> Error {
    let message = "two keys of the source are one for the type or the collation of the target, so a row would be lost";
    Error::new(ErrorKind::InvalidData, message)
        .hint(
            "give the key columns a type and a collation that tell all texts apart, or make the keys alike in a query",
        )
        .at_column(keys.join(", "))
}
