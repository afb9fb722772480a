//! Tests of columns as conditions of SQL, where both mean the same; see [`ColumnTest`] for what they mean.

use arrow_schema::DataType;
use etlrs_core::{ColumnTest, Comparison, Test, Value};

use super::name::{literal, quote};
use super::types::{Reading, Wire};

/// A condition that every row which passes `test` meets; `None`: leave it to the engine. Text is only compared by a server
/// that keeps it in UTF-8.
pub(super) fn condition(test: &ColumnTest, readings: &[Reading], is_utf8: bool) -> Option<String> {
    let reading = readings.iter().find(|reading| reading.field.name() == &test.column)?;
    let column = quote(&test.column).ok()?;
    match &test.test {
        // IS NULL looks into composite values.
        Test::IsNull => Some(format!("{column} IS NOT DISTINCT FROM NULL")),
        Test::IsNotNull => Some(format!("{column} IS DISTINCT FROM NULL")),
        Test::Compare(_, Value::Text(_)) if !is_utf8 => None,
        Test::Compare(comparison, value) => compare(&column, reading, *comparison, value),
        Test::In(values) if !is_utf8 && values.iter().any(|value| matches!(value, Value::Text(_))) => None,
        Test::In(values) => {
            let equal = |value| compare(&column, reading, Comparison::Eq, value);
            let all: Vec<_> = values.iter().map(equal).collect::<Option<_>>()?;
            (!all.is_empty()).then(|| format!("({})", all.join(" OR ")))
        }
        _ => None,
    }
}

fn compare(column: &str, reading: &Reading, comparison: Comparison, value: &Value<'_>) -> Option<String> {
    // Integers up to here are exact as floats.
    const EXACT: u64 = 1 << 53;
    // What the server casts on the way is not what it would compare.
    if reading.cast.is_some() {
        return None;
    }
    let operator = match comparison {
        Comparison::Eq => "=",
        Comparison::NotEq => "<>",
        Comparison::Lt => "<",
        Comparison::LtEq => "<=",
        Comparison::Gt => ">",
        Comparison::GtEq => ">=",
    };
    let with = |constant: String| Some(format!("{column} {operator} {constant}"));
    match (reading.wire, value) {
        (Wire::Int2 | Wire::Int4 | Wire::Int8, Value::Int(value)) => with(format!("'{value}'::int8")),
        (Wire::Float4 | Wire::Float8, Value::Float(value)) => with(format!("'{value:?}'::float8")),
        (Wire::Float4 | Wire::Float8, Value::Int(value)) if value.unsigned_abs() <= EXACT => {
            with(format!("'{value}'::float8"))
        }
        (Wire::Numeric, Value::Int(value)) if is_decimal(reading) => with(format!("'{value}'::numeric")),
        (Wire::Numeric, Value::Decimal { value, scale }) if is_decimal(reading) => {
            with(format!("'{value}e{}'::numeric", -i16::from(*scale)))
        }
        (Wire::Bool, Value::Boolean(value)) if matches!(comparison, Comparison::Eq | Comparison::NotEq) => {
            with(value.to_string())
        }
        // The bytes of UTF-8 sort as its characters do, which is the order "C".
        (Wire::Text, Value::Text(text)) if reading.plain_text && !text.contains('\0') => {
            Some(format!("{column} COLLATE \"C\" {operator} {}", literal(text)))
        }
        (Wire::Date, Value::Date(days)) => with(date(i64::from(*days))?),
        (Wire::Timestamp, Value::Date(days)) => match reading.field.data_type() {
            DataType::Timestamp(_, None) => with(timestamp(i64::from(*days), 0)?),
            _ => None,
        },
        (Wire::Timestamp, Value::Timestamp(microseconds)) => {
            const DAY: i64 = 86_400_000_000;
            let constant = timestamp(microseconds.div_euclid(DAY), microseconds.rem_euclid(DAY))?;
            match reading.field.data_type() {
                DataType::Timestamp(_, None) => with(constant),
                _ => with(format!("({constant} AT TIME ZONE 'UTC')")),
            }
        }
        _ => None,
    }
}

fn is_decimal(reading: &Reading) -> bool {
    matches!(reading.field.data_type(), DataType::Decimal128(..) | DataType::Decimal256(..))
}

/// So many days after 1970-01-01, if that is a date for PostgreSQL beyond doubt.
fn date(days: i64) -> Option<String> {
    (days.abs() <= 700_000).then(|| format!("('1970-01-01'::date + '{days}'::int4)"))
}

fn timestamp(days: i64, microseconds: i64) -> Option<String> {
    let (seconds, fraction) = (microseconds / 1_000_000, microseconds % 1_000_000);
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    Some(format!("({} + '{hour:02}:{minute:02}:{second:02}.{fraction:06}'::time)", date(days)?))
}
