//! Arrow columns into rows of `LOAD DATA` or of INSERT.
//!
//! Both take values as text, and exactly: numbers with all their digits, text and bytes as they are, but for the few that
//! stand behind a backslash.

use std::io::Write;

use arrow_array::RecordBatch;
use etlrs_core::{Error, ErrorKind, Result};

use super::decode::DAY_MICROSECONDS;
use super::writing::{Put, Taken, Writing};
use crate::value::{Column, Scalar};

/// Why a value cannot be stored, and what would help.
type Refused = (&'static str, &'static str);

/// Of a value whose type is no other's fault than ours.
const UNPLANNED: Refused = ("a value of another type than was planned", "please report this");

/// What rows are written for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Style {
    /// Fields between tabs, rows on lines.
    Load,
    /// Rows in parentheses, with commas between them.
    Insert,
}

/// The rows of a batch on their way out.
pub(super) struct Rows<'a> {
    columns: Vec<(Column<'a>, &'a Writing)>,
    batch: &'a RecordBatch,
    next: usize,
    /// A column more: a number that counts up from this.
    ordinal: Option<u64>,
    style: Style,
}

impl<'a> Rows<'a> {
    /// `None` for a batch of other columns than were planned.
    pub(super) fn new(
        batch: &'a RecordBatch,
        writings: &'a [Writing],
        ordinal: Option<u64>,
        style: Style,
    ) -> Option<Self> {
        if batch.num_columns() != writings.len() {
            return None;
        }
        let columns = batch.columns().iter().zip(writings);
        let columns = columns.map(|(column, writing)| Some((Column::new(column.as_ref())?, writing)));
        Some(Self { columns: columns.collect::<Option<_>>()?, batch, next: 0, ordinal, style })
    }

    /// Appends rows until there are `enough` bytes or no more rows; whether there are more.
    ///
    /// # Errors
    /// `InvalidData` for a value that MySQL cannot hold, with its column; `row` makes the number of a row of the batch into
    /// words. Nothing of the row is appended, and it would be the next: it can be [left out](Self::leave_out).
    pub(super) fn write(&mut self, out: &mut Vec<u8>, enough: usize, row: impl Fn(usize) -> String) -> Result<bool> {
        while self.next < self.batch.num_rows() {
            if out.len() >= enough {
                return Ok(true);
            }
            let before = out.len();
            if let Err((index, (reason, hint))) = self.put_row(out) {
                out.truncate(before);
                let is_ours = (reason, hint) == UNPLANNED;
                let kind = if is_ours { ErrorKind::Internal } else { ErrorKind::InvalidData };
                return Err(Error::new(kind, format!("{} holds {reason}", row(self.next)))
                    .hint(hint)
                    .at_column(self.batch.schema_ref().field(index).name()));
            }
            self.next += 1;
        }
        Ok(false)
    }

    /// Does without the next row; gives its number in the batch.
    pub(super) fn leave_out(&mut self) -> usize {
        self.next += 1;
        self.next - 1
    }

    #[inline]
    fn put_row(&self, out: &mut Vec<u8>) -> Result<(), (usize, Refused)> {
        let (between, end) = match self.style {
            Style::Load => (b'\t', b'\n'),
            Style::Insert => (b',', b')'),
        };
        if self.style == Style::Insert {
            // Behind VALUES, or behind another row.
            if out.last() == Some(&b')') {
                out.push(b',');
            }
            out.push(b'(');
        }
        for (index, (column, writing)) in self.columns.iter().enumerate() {
            if index > 0 {
                out.push(between);
            }
            put(out, writing, column.value(self.next), self.style).map_err(|refused| (index, refused))?;
        }
        if let Some(ordinal) = self.ordinal {
            out.push(between);
            out.extend_from_slice(itoa::Buffer::new().format(ordinal + self.next as u64).as_bytes());
        }
        out.push(end);
        Ok(())
    }
}

const NUMBER: Refused = ("a number that the column's type cannot hold", "widen the column, or leave such rows out");

#[inline]
fn put(out: &mut Vec<u8>, writing: &Writing, value: Scalar<'_>, style: Style) -> Result<(), Refused> {
    match (&writing.put, value) {
        (_, Scalar::Null) if writing.not_null => {
            return Err(("a null where the column is NOT NULL", "leave such rows out, or replace the nulls"));
        }
        (_, Scalar::Null) => out.extend_from_slice(if style == Style::Load { br"\N" } else { b"NULL" }),
        (Put::Integer { least, most }, Scalar::Int(value)) => {
            if value < *least || u64::try_from(value).is_ok_and(|value| value > *most) {
                return Err(NUMBER);
            }
            out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
        }
        (Put::Integer { most, .. }, Scalar::UInt(value)) => {
            if value > *most {
                return Err(NUMBER);
            }
            out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
        }
        (Put::Integer { least, most }, Scalar::Decimal(value, 0)) => {
            if value < i128::from(*least) || value > i128::from(*most) {
                return Err(NUMBER);
            }
            out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
        }
        (Put::Integer { .. }, Scalar::Wide(value, 0)) => {
            let value = value.to_i128().ok_or(NUMBER)?;
            put(out, writing, Scalar::Decimal(value, 0), style)?;
        }
        (Put::Integer { .. }, Scalar::Bool(value)) => out.push(b'0' + u8::from(value)),
        (Put::Year, value) => {
            let year = match value {
                Scalar::Int(year) => Some(i128::from(year)),
                Scalar::UInt(year) => Some(i128::from(year)),
                Scalar::Decimal(year, 0) => Some(year),
                Scalar::Wide(year, 0) => year.to_i128(),
                _ => None,
            };
            match year {
                Some(year @ (0 | 1901..=2155)) => _ = write!(out, "{year:04}"),
                _ => return Err(("a year that is not from 1901 to 2155", "widen the column to smallint")),
            }
        }
        (Put::Float { .. }, Scalar::Float32(value)) => float(out, value.into())?,
        (Put::Float { single: false }, Scalar::Float64(value)) => float(out, value)?,
        (Put::Decimal, Scalar::Bool(value)) => out.push(b'0' + u8::from(value)),
        (Put::Decimal, Scalar::Int(value)) => out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes()),
        (Put::Decimal, Scalar::UInt(value)) => out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes()),
        (Put::Decimal, Scalar::Decimal(value, scale)) => decimal(out, itoa::Buffer::new().format(value), scale),
        (Put::Decimal, Scalar::Wide(value, scale)) => decimal(out, &value.to_string(), scale),
        (Put::Text { characters, octets, trimmed }, Scalar::Text(text)) => {
            let bytes = text.len() as u64;
            // A character has a byte at the least.
            if bytes > *octets || bytes > *characters && text.chars().count() as u64 > *characters {
                return Err(("a text that is longer than the column's type allows", "widen the column"));
            }
            if *trimmed && text.ends_with(' ') {
                return Err(("a text that ends with a blank, which char forgets", "make the column varchar"));
            }
            // Bits are numbers.
            debug_assert_ne!(writing.taken, Taken::Number);
            quoted(out, text.as_bytes(), "", style);
        }
        (Put::Form(form), Scalar::Text(text)) => {
            if !form.holds(text) {
                return Err((
                    "a text that is no value of the column's type, or not as it is written",
                    "change the text",
                ));
            }
            quoted(out, text.as_bytes(), "", style);
        }
        (Put::Bytes { least, most }, Scalar::Bytes(bytes)) => {
            let length = bytes.len() as u64;
            if length > *most {
                return Err(("bytes that are longer than the column's type allows", "widen the column"));
            }
            if length < *least {
                return Err((
                    "bytes that are shorter than the column, which fills them up",
                    "make the column varbinary",
                ));
            }
            quoted(out, bytes, "_binary", style);
        }
        (Put::Date, Scalar::Date(days)) => {
            let days = i64::from(days);
            if !DATES.contains(&days) {
                return Err(("a date outside the years 0 to 9999", "leave such rows out, or store the column as text"));
            }
            within_quotes(out, style, |out| write_date(out, days));
        }
        (Put::Time { step }, Scalar::Time(time)) => {
            if !(0..DAY_MICROSECONDS).contains(&time) {
                return Err(("a time outside of a day", "replace it"));
            }
            fine(time, *step)?;
            within_quotes(out, style, |out| write_time(out, time));
        }
        (Put::DateTime { step, range }, Scalar::Timestamp(time)) => {
            if !range.contains(&time) {
                return Err((
                    "a time that the column's type cannot hold",
                    "make the column datetime, of the years 0 to 9999",
                ));
            }
            fine(time, *step)?;
            within_quotes(out, style, |out| {
                write_date(out, time.div_euclid(DAY_MICROSECONDS));
                out.push(b' ');
                write_time(out, time.rem_euclid(DAY_MICROSECONDS));
            });
        }
        (_, Scalar::TooFine) => {
            return Err(("a time that is finer than microseconds", "cast the column, which cuts off the rest"));
        }
        (_, Scalar::TooFar) => {
            return Err(("a timestamp that microseconds in 64 bits cannot count", "replace it"));
        }
        // Other pairs are refused when the load is planned.
        _ => return Err(UNPLANNED),
    }
    Ok(())
}

/// Days since 1970 of the years 0 to 9999.
const DATES: std::ops::RangeInclusive<i64> = -719_528..=2_932_896;

fn fine(time: i64, step: i64) -> Result<(), Refused> {
    if time % step == 0 {
        return Ok(());
    }
    Err(("a time that is finer than the column keeps", "widen the column, or cast the time"))
}

/// All digits that it takes to tell it from its neighbours. A float of 32 bits is written as one of 64, which the server reads
/// without rounding twice.
fn float(out: &mut Vec<u8>, value: f64) -> Result<(), Refused> {
    if !value.is_finite() {
        return Err(("NaN or an infinity, which MySQL has not", "make them null first"));
    }
    _ = write!(out, "{value:e}");
    Ok(())
}

/// A decimal of any size and scale; a negative scale stands for zeros at the end.
fn decimal(out: &mut Vec<u8>, value: &str, scale: i8) {
    let Ok(scale) = usize::try_from(scale) else {
        out.extend_from_slice(value.as_bytes());
        if value != "0" {
            out.resize(out.len() + usize::from(scale.unsigned_abs()), b'0');
        }
        return;
    };
    let digits = match value.strip_prefix('-') {
        Some(digits) => {
            out.push(b'-');
            digits.as_bytes()
        }
        None => value.as_bytes(),
    };
    let whole = digits.len().saturating_sub(scale);
    if whole == 0 {
        out.push(b'0');
    }
    out.extend_from_slice(&digits[..whole]);
    if scale > 0 {
        out.push(b'.');
        out.resize(out.len() + scale - (digits.len() - whole), b'0');
        out.extend_from_slice(&digits[whole..]);
    }
}

fn within_quotes(out: &mut Vec<u8>, style: Style, write: impl FnOnce(&mut Vec<u8>)) {
    let quote = (style == Style::Insert).then_some(b'\'');
    out.extend(quote);
    write(out);
    out.extend(quote);
}

/// Bytes with a backslash before those that would end them.
fn quoted(out: &mut Vec<u8>, mut bytes: &[u8], introducer: &str, style: Style) {
    match style {
        Style::Load => {
            while let Some(at) = memchr::memchr3(b'\\', b'\t', b'\n', bytes) {
                out.extend_from_slice(&bytes[..at]);
                out.push(b'\\');
                out.push(match bytes[at] {
                    b'\t' => b't',
                    b'\n' => b'n',
                    other => other,
                });
                bytes = &bytes[at + 1..];
            }
            out.extend_from_slice(bytes);
        }
        Style::Insert => {
            out.extend_from_slice(introducer.as_bytes());
            out.push(b'\'');
            while let Some(at) = memchr::memchr3(b'\\', b'\'', 0, bytes) {
                out.extend_from_slice(&bytes[..at]);
                out.push(b'\\');
                out.push(if bytes[at] == 0 { b'0' } else { bytes[at] });
                bytes = &bytes[at + 1..];
            }
            out.extend_from_slice(bytes);
            out.push(b'\'');
        }
    }
}

/// `2024-02-29`. Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms", `civil_from_days`.
pub(super) fn write_date(out: &mut Vec<u8>, days: i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days - era * 146_097;
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    // Of a year from 0 to 9999.
    two(out, year / 100);
    two(out, year % 100);
    out.push(b'-');
    two(out, month);
    out.push(b'-');
    two(out, day);
}

/// `23:59:59`, with six digits more if there are microseconds.
fn write_time(out: &mut Vec<u8>, microseconds: i64) {
    let (seconds, fraction) = (microseconds / 1_000_000, microseconds % 1_000_000);
    two(out, seconds / 3600);
    out.push(b':');
    two(out, seconds / 60 % 60);
    out.push(b':');
    two(out, seconds % 60);
    if fraction > 0 {
        out.push(b'.');
        two(out, fraction / 10_000);
        two(out, fraction / 100 % 100);
        two(out, fraction % 100);
    }
}

/// Two digits of a number from 0 to 99.
#[inline]
fn two(out: &mut Vec<u8>, number: i64) {
    let digit = |number: i64| b'0' + (number % 10) as u8;
    out.extend_from_slice(&[digit(number / 10), digit(number)]);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::decode::days_from_civil;
    use super::*;

    #[test]
    fn decimals_have_all_their_digits() {
        for (value, scale, expected) in [
            ("12345", 2, "123.45"),
            ("-5", 2, "-0.05"),
            ("5", 1, "0.5"),
            ("0", 3, "0.000"),
            ("-12", 0, "-12"),
            ("12", -2, "1200"),
        ] {
            let mut out = Vec::new();
            decimal(&mut out, value, scale);
            assert_eq!(String::from_utf8(out).unwrap(), expected);
        }
    }

    #[test]
    fn nothing_ends_a_value_early() {
        let escaped = |style| {
            let mut out = Vec::new();
            quoted(&mut out, b"a\\b\tc\nd'e\0f", "_binary", style);
            out
        };
        assert_eq!(escaped(Style::Load), b"a\\\\b\\tc\\nd'e\0f");
        assert_eq!(escaped(Style::Insert), b"_binary'a\\\\b\tc\nd\\'e\\0f'");
    }

    proptest! {
        #[test]
        fn dates_are_those_that_are_read(days in DATES) {
            let mut out = Vec::new();
            write_date(&mut out, days);
            let text = String::from_utf8(out).unwrap();
            let parts: Vec<i64> = text.split('-').map(|part| part.parse().unwrap()).collect();
            prop_assert_eq!(days_from_civil(parts[0], parts[1], parts[2]), days);
        }

        #[test]
        fn floats_read_back(value: f32) {
            prop_assume!(value.is_finite());
            let mut out = Vec::new();
            float(&mut out, value.into()).unwrap();
            let read: f64 = String::from_utf8(out).unwrap().parse().unwrap();
            prop_assert_eq!((read as f32).to_bits(), value.to_bits());
        }
    }
}
