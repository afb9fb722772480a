//! Tests of columns as conditions of SQL, where both mean the same; see [`ColumnTest`] for what they mean.
//!
//! Text is never compared: for most collations of MySQL `'a' = 'A '`.

use arrow_schema::DataType;
use etlrs_core::{ColumnTest, Comparison, Test, Value};

use super::name::quote;
use super::types::{Reading, Wire};

/// A condition that every row which passes `test` meets; `None`: leave it to the engine.
pub(super) fn condition(test: &ColumnTest, readings: &[Reading]) -> Option<String> {
    let reading = readings.iter().find(|reading| reading.field.name() == &test.column)?;
    let column = quote(&test.column).ok()?;
    match &test.test {
        _ if reading.cast.is_some() => None,
        // A null that is made of the date 0000-00-00 is none for the server.
        Test::IsNull if reading.zero_is_null => None,
        // 0000-00-00 in a column that is NOT NULL `IS NULL`.
        Test::IsNull => Some(format!("{column} <=> NULL")),
        Test::IsNotNull => Some(format!("NOT {column} <=> NULL")),
        Test::Compare(comparison, value) => compare(&column, reading, *comparison, value),
        Test::In(values) => {
            let equal = |value| compare(&column, reading, Comparison::Eq, value);
            let all: Vec<_> = values.iter().map(equal).collect::<Option<_>>()?;
            (!all.is_empty()).then(|| format!("({})", all.join(" OR ")))
        }
        _ => None,
    }
}

fn compare(column: &str, reading: &Reading, comparison: Comparison, value: &Value<'_>) -> Option<String> {
    let operator = match comparison {
        Comparison::Eq => "=",
        Comparison::NotEq => "<>",
        Comparison::Lt => "<",
        Comparison::LtEq => "<=",
        Comparison::Gt => ">",
        Comparison::GtEq => ">=",
    };
    let with = |constant: String| Some(format!("{column} {operator} {constant}"));
    let is_decimal = matches!(reading.field.data_type(), DataType::Decimal128(..) | DataType::Decimal256(..));
    match (reading.wire, value) {
        (
            Wire::Int8
            | Wire::UInt8
            | Wire::Int16
            | Wire::UInt16
            | Wire::Int32
            | Wire::UInt32
            | Wire::Int64
            | Wire::UInt64,
            Value::Int(value),
        ) if reading.field.data_type().is_integer() => with(value.to_string()),
        (Wire::Decimal, Value::Int(value)) if is_decimal => with(value.to_string()),
        (Wire::Decimal, Value::Decimal { value, scale }) if is_decimal && (0..=30).contains(scale) => {
            let digits = format!("{:0width$}", value.unsigned_abs(), width = *scale as usize + 1);
            let (whole, fraction) = digits.split_at(digits.len() - *scale as usize);
            let sign = if value.is_negative() { "-" } else { "" };
            if digits.len() > 65 {
                return None;
            }
            with(if fraction.is_empty() { format!("{sign}{whole}") } else { format!("{sign}{whole}.{fraction}") })
        }
        (Wire::Date, Value::Date(days)) => with(format!("DATE'{}'", date(i64::from(*days))?)),
        (Wire::DateTime, Value::Date(days)) => match reading.field.data_type() {
            DataType::Timestamp(_, None) => with(format!("TIMESTAMP'{} 00:00:00'", date(i64::from(*days))?)),
            _ => None,
        },
        (Wire::DateTime, Value::Timestamp(microseconds)) => {
            const DAY: i64 = 86_400_000_000;
            let (days, time) = (microseconds.div_euclid(DAY), microseconds.rem_euclid(DAY));
            let (seconds, fraction) = (time / 1_000_000, time % 1_000_000);
            let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
            // The session is in UTC.
            with(format!("TIMESTAMP'{} {hour:02}:{minute:02}:{second:02}.{fraction:06}'", date(days)?))
        }
        _ => None,
    }
}

/// A date of the years that every version understands.
fn date(days: i64) -> Option<String> {
    // 1000-01-01 to 9999-12-31
    (-354_285..=2_932_896).contains(&days).then(|| {
        let mut text = Vec::new();
        super::encode::write_date(&mut text, days);
        String::from_utf8_lossy(&text).into_owned()
    })
}
