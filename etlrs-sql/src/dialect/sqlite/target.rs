//! The table that is written: whether a plan suits it, and how one is made.

use std::sync::Arc;

use arrow_schema::{Field, SchemaRef};
use etlrs_core::{Error, ErrorKind, LoadMode, LoadPlan, Result};
use rusqlite::Connection;

use super::catalog::{self, Kind, Table};
use super::error::sqlite_error;
use super::quote;
use super::types::{Check, Fit, arrow_type, can_append, declared_type, strict_type};
use crate::types::{cannot_hold, no_column};

/// The target exists: may this plan write to it?
pub(super) fn check_target(table: &Table, plan: &LoadPlan, strict: bool) -> Result<()> {
    let mismatch = |message: String| Error::new(ErrorKind::SchemaMismatch, message);
    match table.kind {
        Kind::Table => {}
        Kind::View => return Err(Error::new(ErrorKind::InvalidConfig, "the target is a view").hint("name a table")),
        Kind::Virtual => {
            return Err(Error::new(ErrorKind::InvalidConfig, "the target is a virtual table").hint("name another"));
        }
    }
    if plan.mode == LoadMode::Create {
        return Err(already_exists("the target exists"));
    }
    let or_drop = if plan.mode == LoadMode::Replace { ", or drop the table first" } else { "" };
    for field in plan.schema.fields() {
        let Some(column) = table.column(field.name()).filter(|column| !column.generated) else {
            let names = table.columns.iter().filter(|c| !c.generated).map(|c| c.name.as_str());
            let error = no_column(field, names, table.column(field.name()).is_some());
            let hint = format!("{}{or_drop}", error.hint_text().unwrap_or_default());
            return Err(error.hint(hint));
        };
        // A strict table says less of its columns than what is written into them by such a load.
        let like_ours = strict && column.declared.eq_ignore_ascii_case(strict_type(field.data_type()));
        if !like_ours
            && !can_append(field.data_type(), &column.declared)
            && Check::of(field.data_type(), &column.declared).is_none()
        {
            let error = cannot_hold(field, &column.declared, arrow_type(&column.declared).as_ref());
            let hint = format!("{}{or_drop}", error.hint_text().unwrap_or_default());
            return Err(error.hint(hint));
        }
    }
    for column in &table.columns {
        let given = plan.schema.fields().iter().any(|field| field.name().eq_ignore_ascii_case(&column.name));
        // An INTEGER PRIMARY KEY is filled in by SQLite; others of a NOT NULL kind are not.
        let rowid = column.primary_key > 0 && column.declared.eq_ignore_ascii_case("INTEGER");
        let filled = column.has_default || column.generated || !column.not_null || rowid;
        if !given && !filled {
            return Err(mismatch(
                "the target's column is NOT NULL, has no default, and is not among the source's".into(),
            )
            .at_column(&column.name));
        }
    }
    Ok(())
}

/// How the values of each column of a plan are written for `table`.
pub(super) fn fits(table: Option<&Table>, plan: &LoadPlan, strict: bool) -> Vec<Fit> {
    let fit = |field: &Arc<Field>| {
        let declared = &table?.column(field.name())?.declared;
        let like_ours = strict && declared.eq_ignore_ascii_case(strict_type(field.data_type()));
        (!like_ours).then(|| Fit::of(field.data_type(), declared))
    };
    plan.schema.fields().iter().map(|field| fit(field).unwrap_or_default()).collect()
}

pub(super) fn already_exists(message: &'static str) -> Error {
    Error::new(ErrorKind::AlreadyExists, message).hint("use mode append or replace, or another name")
}

pub(super) fn check_name(table: &str) -> Result<()> {
    let reserved = |prefix: &str| table.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix));
    let wrong = if table.is_empty() {
        "the name of the table is empty"
    } else if reserved("sqlite_") || reserved("_etlrs_") {
        "names that begin with sqlite_ or _etlrs_ are reserved"
    } else {
        return quote(table).map(drop);
    };
    Err(Error::new(ErrorKind::InvalidConfig, wrong).hint("give the table another name"))
}

/// The types of a table that is made, which may be a strict one.
pub(super) fn column_types(schema: &SchemaRef, strict: bool) -> Result<Vec<String>> {
    const MOST: usize = 2000;
    let mismatch = |message: String| Error::new(ErrorKind::SchemaMismatch, message);
    let fields = schema.fields();
    if fields.is_empty() || fields.len() > MOST {
        return Err(mismatch(format!("a table has from 1 to {MOST} columns, not {}", fields.len())));
    }
    let mut types = Vec::with_capacity(fields.len());
    for (index, field) in fields.iter().enumerate() {
        if fields[..index].iter().any(|other| other.name().eq_ignore_ascii_case(field.name())) {
            return Err(mismatch("two columns have this name, whose case does not count".into())
                .at_column(field.name())
                .hint("rename one"));
        }
        let declared = declared_type(field.data_type())
            .map_err(|refusal| mismatch(refusal.reason).at_column(field.name()).hint(refusal.hint))?;
        types.push(if strict { strict_type(field.data_type()).to_owned() } else { declared });
    }
    Ok(types)
}

/// The statement that makes a table whose primary key are `keys`, if there are any.
pub(super) fn create_table(name: &str, schema: &SchemaRef, keys: &[String], strict: bool) -> Result<String> {
    let types = column_types(schema, strict)?;
    let mut columns = Vec::with_capacity(types.len() + 1);
    for (field, declared) in schema.fields().iter().zip(types) {
        let not_null = if field.is_nullable() && !keys.contains(field.name()) { "" } else { " NOT NULL" };
        columns.push(format!("{} {declared}{not_null}", quote(field.name())?));
    }
    if !keys.is_empty() {
        columns.push(format!("PRIMARY KEY ({})", name_list(keys)?));
    }
    let strict = if strict { " STRICT" } else { "" };
    Ok(format!("CREATE TABLE {} ({}){strict}", quote(name)?, columns.join(", ")))
}

/// Whether the database sees to it that `keys` are there once, which it tells when an upsert by them is compiled.
pub(super) fn is_unique(connection: &Connection, table: &Table, keys: &[String]) -> Result<bool> {
    let (name, list) = (quote(&table.name)?, name_list(keys)?);
    let nulls = vec!["NULL"; keys.len()].join(", ");
    let upsert = format!("INSERT INTO {name} ({list}) SELECT {nulls} WHERE false ON CONFLICT ({list}) DO NOTHING");
    Ok(connection.prepare(&upsert).is_ok())
}

pub(super) fn name_list(names: &[String]) -> Result<String> {
    Ok(names.iter().map(|name| quote(name)).collect::<Result<Vec<_>>>()?.join(", "))
}

/// Whether nothing is lost when a table that a load makes takes the place of `table`: the definition is to the letter the
/// same, and no trigger is to see what becomes of the rows.
pub(super) fn is_like(connection: &Connection, table: &Table, plan: &LoadPlan, strict: bool) -> Result<bool> {
    let made = create_table(&table.name, &plan.schema, &plan.keys, strict)?;
    let failed = |error| sqlite_error(connection.path().unwrap_or_default().as_ref(), error);
    // An index is made of all rows or not at all.
    if plan.sifts && !catalog::index_statements(connection, &table.name).map_err(failed)?.is_empty() {
        return Ok(false);
    }
    Ok(catalog::definition(connection, &table.name).map_err(failed)? == Some(made))
}
