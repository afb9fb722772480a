//! How columns of MySQL and MariaDB are read. `docs/type-mapping.md` has the tables.

use std::collections::HashMap;
use std::sync::Arc;

use arrow_schema::{DataType, Field, TimeUnit};
use etlrs_core::{Error, ErrorKind, Result, as_json_text, type_name};

use super::catalog::Column;
use super::wire::{ColumnDefinition, UNSIGNED};
use crate::types::as_wished;

/// In the metadata of a field: the type that its column has, for a table that is made of it again.
pub(super) const TYPE_KEY: &str = "mysql.type";

/// How a value is written in the binary form of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wire {
    Int8,
    UInt8,
    Int16,
    UInt16,
    Int32,
    UInt32,
    Int64,
    UInt64,
    Float,
    Double,
    /// Digits.
    Decimal,
    Text,
    Bytes,
    /// The most significant byte first.
    Bit,
    Date,
    DateTime,
    Time,
}

/// The number that a column of bytes has for a character set.
const BINARY: u16 = 63;

/// The type of JSON, but for MariaDB.
const JSON: u8 = 245;

/// The flag of a column that is never null.
const NOT_NULL: u16 = 1;

/// How a column is read.
#[derive(Clone, Debug)]
pub(super) struct Reading {
    pub(super) field: Arc<Field>,
    pub(super) wire: Wire,
    /// What is selected in place of the column, with `{}` for it.
    pub(super) cast: Option<String>,
    /// The date 0000-00-00 is null.
    pub(super) zero_is_null: bool,
}

impl Reading {
    /// Of a column of a result; `column` is what the catalogue has on it, and `wished` the type that the user names.
    pub(super) fn new(
        definition: &ColumnDefinition,
        column: Option<&Column>,
        wished: Option<&DataType>,
    ) -> Result<Self> {
        let (data_type, wire) = declared(definition, column);
        let nullable = definition.flags & NOT_NULL == 0;
        let mut field = Field::new(&definition.name, data_type, nullable);
        if let Some(wished) = wished.filter(|wished| *wished != field.data_type()) {
            let cast = cast(definition, wire, wished)?;
            let wire = match wished {
                DataType::Utf8 => Wire::Text,
                DataType::Decimal128(..) | DataType::Decimal256(..) => Wire::Decimal,
                _ => wire,
            };
            let field = Field::new(&definition.name, wished.clone(), nullable);
            return Ok(Self { field: Arc::new(field), wire, cast, zero_is_null: false });
        }
        // A type is shorter in another character set, and its labels may be alike in another collation.
        let is_plain = |column: &&Column| column.charset.as_deref().is_none_or(|charset| charset == "utf8mb4");
        let column = column.filter(is_plain).filter(|column| remade(&column.column_type).is_some());
        if let Some(column) = column {
            field = field.with_metadata(HashMap::from([(TYPE_KEY.to_owned(), column.column_type.clone())]));
        }
        // MariaDB has it as text with a check.
        if definition.kind == JSON || column.is_some_and(|column| column.column_type == "json") {
            field = as_json_text(field);
        }
        if wished.is_some() {
            field = as_wished(&field);
        }
        Ok(Self { field: Arc::new(field), wire, cast: None, zero_is_null: false })
    }

    /// The same, with a null in place of the date 0000-00-00.
    pub(super) fn without_zero_dates(self) -> Self {
        if !matches!(self.wire, Wire::Date | Wire::DateTime) {
            return self;
        }
        let field = self.field.as_ref().clone().with_nullable(true);
        Self { field: Arc::new(field), zero_is_null: true, ..self }
    }
}

/// The Arrow type for a column of a result. The numbers of the types are those of `enum_field_types`
/// (`include/field_types.h`).
fn declared(definition: &ColumnDefinition, column: Option<&Column>) -> (DataType, Wire) {
    let unsigned = definition.flags & UNSIGNED != 0;
    let either = |signed, not| if unsigned { not } else { signed };
    match definition.kind {
        1 => either((DataType::Int8, Wire::Int8), (DataType::UInt8, Wire::UInt8)),
        2 => either((DataType::Int16, Wire::Int16), (DataType::UInt16, Wire::UInt16)),
        // YEAR has no sign and two bytes.
        13 => (DataType::Int16, Wire::Int16),
        3 | 9 => either((DataType::Int32, Wire::Int32), (DataType::UInt32, Wire::UInt32)),
        8 => either((DataType::Int64, Wire::Int64), (DataType::UInt64, Wire::UInt64)),
        4 => (DataType::Float32, Wire::Float),
        5 => (DataType::Float64, Wire::Double),
        0 | 246 => {
            // A point and a sign count.
            let scale = definition.decimals;
            let signs = u32::from(scale > 0) + u32::from(!unsigned);
            let precision = definition.length.saturating_sub(signs).clamp(1, 65) as u8;
            (decimal(precision.max(scale), scale), Wire::Decimal)
        }
        7 => (DataType::Timestamp(TimeUnit::Microsecond, Some(Arc::from("UTC"))), Wire::DateTime),
        12 => (DataType::Timestamp(TimeUnit::Microsecond, None), Wire::DateTime),
        10 | 14 => (DataType::Date32, Wire::Date),
        11 => (DataType::Time64(TimeUnit::Microsecond), Wire::Time),
        16 => {
            let data_type = match definition.length {
                0..=1 => DataType::Boolean,
                2..=8 => DataType::UInt8,
                9..=16 => DataType::UInt16,
                17..=32 => DataType::UInt32,
                _ => DataType::UInt64,
            };
            (data_type, Wire::Bit)
        }
        // JSON is of bytes for the protocol.
        JSON => (DataType::Utf8, Wire::Text),
        // Only the catalogue tells that all values are of one length.
        254 if column.is_some_and(|column| column.data_type == "binary") && definition.length > 0 => {
            // At most 255.
            (DataType::FixedSizeBinary(definition.length.min(255) as i32), Wire::Bytes)
        }
        // Text, blobs, vectors and shapes.
        15 | 242 | 249..=255 if definition.charset == BINARY => (DataType::Binary, Wire::Bytes),
        _ => (DataType::Utf8, Wire::Text),
    }
}

fn decimal(precision: u8, scale: u8) -> DataType {
    // A scale is at most 38.
    let scale = scale as i8;
    if precision <= 38 { DataType::Decimal128(precision, scale) } else { DataType::Decimal256(precision, scale) }
}

/// What has the server give another type, if that can be done exactly.
fn cast(definition: &ColumnDefinition, wire: Wire, wished: &DataType) -> Result<Option<String>> {
    let (own, _) = declared(definition, None);
    let integer = own.is_integer() && wire != Wire::Bit;
    let text = match wire {
        // A float as text has six digits.
        Wire::Float => "CAST({} + 0e0 AS CHAR)",
        Wire::Bit => "CAST({} + 0 AS CHAR)",
        _ => "CAST({} AS CHAR)",
    };
    let sql = match wished {
        DataType::Utf8 if wire != Wire::Bytes => text,
        DataType::Boolean if matches!(wire, Wire::Int8 | Wire::UInt8) => return Ok(None),
        // A time of UTC, if the user says so.
        DataType::Timestamp(TimeUnit::Microsecond, Some(zone)) if wire == Wire::DateTime && &**zone == "UTC" => {
            return Ok(None);
        }
        // Widened as they are read.
        DataType::Int64 if integer && wire != Wire::UInt64 => return Ok(None),
        DataType::UInt64 if matches!(wire, Wire::UInt8 | Wire::UInt16 | Wire::UInt32) => return Ok(None),
        DataType::Float64 if wire == Wire::Float || integer && digits(&own).is_some_and(|(whole, _)| whole <= 10) => {
            return Ok(None);
        }
        DataType::Decimal128(precision, scale) | DataType::Decimal256(precision, scale)
            if (integer || wire == Wire::Decimal) && *scale >= 0 && *precision <= 65 && *scale <= 30 =>
        {
            let (whole, fraction) = digits(&own).unwrap_or_default();
            if whole <= i32::from(*precision) - i32::from(*scale) && fraction <= i32::from(*scale) {
                return Ok(Some(format!("CAST({{}} AS DECIMAL({precision},{scale}))")));
            }
            ""
        }
        _ => "",
    };
    if sql.is_empty() {
        let message = format!("{} cannot be read as {} exactly", type_name(&own), type_name(wished));
        return Err(Error::new(ErrorKind::InvalidConfig, message)
            .at_column(&definition.name)
            .hint("read it as text, or cast it in a query"));
    }
    Ok(Some(sql.to_owned()))
}

/// A type that a column may be given by the metadata of a field, taken apart and put together again. What is in a file is not
/// to be trusted, so nothing but what this makes reaches SQL.
pub(super) fn remade(name: &str) -> Option<String> {
    /// Types that are not those a type of Arrow has by itself, by the number of their arguments.
    const PLAIN: &[&str] = &[
        "tinytext",
        "text",
        "mediumtext",
        "tinyblob",
        "blob",
        "mediumblob",
        "json",
        "uuid",
        "inet4",
        "inet6",
        "geometry",
        "point",
        "linestring",
        "polygon",
        "multipoint",
        "multilinestring",
        "multipolygon",
        "geometrycollection",
        "datetime",
        "timestamp",
        "time",
        "mediumint",
        "mediumint unsigned",
        "year",
    ];
    const OF_LENGTH: &[&str] = &["char", "varchar", "varbinary", "bit", "datetime", "timestamp", "time", "vector"];
    let name = name.trim_end_matches(" zerofill");
    if PLAIN.contains(&name) {
        return Some(name.to_owned());
    }
    let (base, rest) = name.split_once('(')?;
    if matches!(base, "enum" | "set") {
        let values = values_of_list(rest.strip_suffix(')')?)?;
        let mut alike: Vec<_> = values.iter().map(|value| value.to_lowercase()).collect();
        alike.sort();
        alike.dedup();
        if alike.len() < values.len() {
            return None;
        }
        let quoted = values.iter().map(|value| format!("'{}'", value.replace('\\', "\\\\").replace('\'', "''")));
        return Some(format!("{base}({})", quoted.collect::<Vec<_>>().join(",")));
    }
    let (arguments, after) = rest.split_once(')')?;
    // Widths for display, which say nothing of the values.
    match (base, after) {
        ("mediumint", "" | " unsigned") if arguments.parse::<u8>().is_ok() => return Some(format!("mediumint{after}")),
        ("year", "") if arguments == "4" => return Some("year".into()),
        ("tinyint", "") if arguments == "1" => return Some("tinyint(1)".into()),
        _ => {}
    }
    let length: u16 = arguments.parse().ok()?;
    (after.is_empty() && OF_LENGTH.contains(&base)).then(|| format!("{base}({length})"))
}

/// The texts of `'a','it''s'`, with what stands behind a backslash as MySQL writes it.
pub(super) fn values_of_list(list: &str) -> Option<Vec<String>> {
    let (mut values, mut rest) = (Vec::new(), list);
    loop {
        let (mut value, mut characters) = (String::new(), rest.strip_prefix('\'')?.chars());
        loop {
            match characters.next()? {
                '\'' if characters.as_str().starts_with('\'') => {
                    characters.next();
                    value.push('\'');
                }
                '\'' => break,
                '\\' => value.push(match characters.next()? {
                    'n' => '\n',
                    'r' => '\r',
                    '0' => '\0',
                    other => other,
                }),
                other => value.push(other),
            }
        }
        values.push(value);
        rest = characters.as_str();
        match rest.strip_prefix(',') {
            Some(more) => rest = more,
            None if rest.is_empty() => return Some(values),
            None => return None,
        }
    }
}

/// Digits before and after the point that values of a number type may have.
pub(super) fn digits(data_type: &DataType) -> Option<(i32, i32)> {
    use DataType::*;
    Some(match data_type {
        Boolean => (1, 0),
        Int8 | UInt8 => (3, 0),
        Int16 | UInt16 => (5, 0),
        Int32 | UInt32 => (10, 0),
        Int64 => (19, 0),
        UInt64 => (20, 0),
        Decimal32(p, s) | Decimal64(p, s) | Decimal128(p, s) | Decimal256(p, s) => {
            let (precision, scale) = (i32::from(*p), i32::from(*s));
            ((precision - scale).max(0), scale.max(0))
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_but_known_types_is_taken_from_metadata() {
        for (name, expected) in [
            ("varchar(20)", Some("varchar(20)")),
            ("enum('a','it''s','b\\\\c')", Some("enum('a','it''s','b\\\\c')")),
            ("mediumint(8) unsigned", Some("mediumint unsigned")),
            ("tinyint(1)", Some("tinyint(1)")),
            ("bit(3)", Some("bit(3)")),
            ("datetime(3)", Some("datetime(3)")),
            ("varchar(20); DROP TABLE t", None),
            ("varchar(x)", None),
            ("enum('a') x", None),
            ("enum('a', SLEEP(1))", None),
            ("enum('a\\')", None),
            ("enum('a','A')", None),
            ("int(11)", None),
            ("", None),
        ] {
            assert_eq!(remade(name).as_deref(), expected, "{name}");
        }
    }

    #[test]
    fn decimals_have_the_digits_that_are_declared() {
        for (length, decimals, flags, expected) in [
            (12, 2, 0, DataType::Decimal128(10, 2)),
            (11, 2, 32, DataType::Decimal128(10, 2)),
            (11, 0, 0, DataType::Decimal128(10, 0)),
            (67, 30, 0, DataType::Decimal256(65, 30)),
            (4, 2, 0, DataType::Decimal128(2, 2)),
        ] {
            let definition = ColumnDefinition { name: "c".into(), charset: 63, length, kind: 246, flags, decimals };
            assert_eq!(declared(&definition, None).0, expected, "{length} {decimals}");
        }
    }
}
