//! Types of columns of the source and of the target.

use arrow_schema::{DataType, Field};
use etlrs_core::{Error, ErrorKind, type_name};
#[cfg(any(feature = "mysql", feature = "postgres"))]
use etlrs_core::{as_json_text, is_json_text, without_json_mark};

/// A column of a target, for a source that guesses: not where it came from, but that it is JSON, for a text means another value then.
#[cfg(any(feature = "mysql", feature = "postgres"))]
pub(crate) fn guide(field: &Field) -> Field {
    let bare = Field::new(field.name(), field.data_type().clone(), field.is_nullable());
    if is_json_text(field) { as_json_text(bare) } else { bare }
}

/// A column whose type a user names, and that has this type anyway: JSON is then just text.
#[cfg(any(feature = "mysql", feature = "postgres"))]
pub(crate) fn as_wished(field: &Field) -> Field {
    if is_json_text(field) { without_json_mark(field) } else { field.clone() }
}

/// The error for a column of the source that is not among those `columns` that the target takes; `computed`: it has one of its name.
pub(crate) fn no_column<'a>(field: &Field, columns: impl Iterator<Item = &'a str>, computed: bool) -> Error {
    let (message, hint) = if computed {
        ("the target computes this column itself", "leave it out: name the others with --columns".to_owned())
    } else {
        let names = columns.collect::<Vec<_>>().join(", ");
        ("the target has no such column", format!("it has {names}; leave the column out, or add it to the table"))
    };
    Error::new(ErrorKind::SchemaMismatch, message).at_column(field.name()).hint(hint)
}

/// The error for a column of the source that one of the target, which is read as `read`, cannot hold.
pub(crate) fn cannot_hold(field: &Field, declared: &str, read: Option<&DataType>) -> Error {
    let from = type_name(field.data_type());
    let message = format!("{from} cannot be stored unchanged in a column of type {declared}");
    let name = field.name();
    // Bytes are nothing that a text file has.
    let read = read.filter(|read| **read != DataType::Binary).map(type_name);
    let hint = match read.filter(|read| *read != from) {
        Some(read) => format!("read it as {read}, as with the source option types={name}:{read}, or cast it"),
        None => "cast it to the type of the target's column".into(),
    };
    Error::new(ErrorKind::SchemaMismatch, message).at_column(name).hint(hint)
}
