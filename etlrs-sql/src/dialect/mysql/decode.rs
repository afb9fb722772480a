//! Rows of the binary form into Arrow columns.
//!
//! A row is a packet: a 0, a bit for each column that is null, counted from 2, and the values of the others: numbers of their
//! width, the least significant byte first, text behind its length, dates and times behind the number of their bytes
//! (<https://dev.mysql.com/doc/dev/mysql-server/latest/page_protocol_binary_resultset.html>).

use std::sync::Arc;

use arrow_array::RecordBatch;
use arrow_buffer::{NullBufferBuilder, i256};
use arrow_schema::{Field, SchemaRef};
use etlrs_core::{Error, ErrorKind, Result};

use super::types::{Reading, Wire};
use super::wire::LONGEST;
use crate::gather::{self, Fixed, Gather, Misfit, Put, Span, Text, Values, decimal_of, each, variable};
use crate::network::Decode;

pub(super) const DAY_MICROSECONDS: i64 = 86_400_000_000;

/// Where the end of a value is told.
#[derive(Clone, Copy)]
enum Width {
    Fixed(usize),
    /// In front of it, in one byte or more.
    Length,
    /// In front of it, in one byte.
    Short,
    /// The same, and of none there is no byte: a date that is all zeros is null.
    Date,
}

/// Rows on their way into batches.
pub(super) struct Decoder {
    schema: SchemaRef,
    columns: Vec<ColumnDecoder>,
    widths: Vec<Width>,
    spans: Vec<Span>,
    rows: usize,
    bytes: usize,
    widest: usize,
    /// Bytes of a row of nulls in the arrays.
    row_bytes: usize,
    max_rows: usize,
    max_bytes: usize,
}

impl Decoder {
    /// Of columns that are read so, into batches of at most so many rows and, as far as one row allows, bytes.
    pub(super) fn new(schema: SchemaRef, readings: &[Reading], max_rows: usize, max_bytes: usize) -> Self {
        let columns = readings.iter().map(|reading| ColumnDecoder {
            wire: reading.wire,
            gather: Gather::new(reading.field.data_type(), max_rows),
        });
        // An offset counts as four bytes.
        let width = |field: &Arc<Field>| field.data_type().primitive_width().unwrap_or(4);
        Self {
            row_bytes: schema.fields().iter().map(width).sum(),
            columns: columns.collect(),
            widths: readings.iter().map(Reading::width).collect(),
            schema,
            spans: Vec::new(),
            rows: 0,
            bytes: 0,
            widest: 0,
            max_rows: max_rows.max(1),
            // Offsets of text are 32 bits wide, and a single value may have 1 GB.
            max_bytes: max_bytes.clamp(1, 1 << 30),
        }
    }

    /// Notes where the fields of the row at `at` are; gives its end.
    #[inline]
    fn find_fields(&mut self, bytes: &[u8], at: usize) -> Option<usize> {
        let [a, b, c, _] = *bytes.get(at..at + 4)?.first_chunk::<4>()?;
        let (mut at, length) = match u32::from_le_bytes([a, b, c, 0]) as usize {
            // More than a packet, which `Connection::read_rows` put together.
            LONGEST => (at + 8, u32::from_le_bytes(*bytes.get(at + 4..at + 8)?.first_chunk::<4>()?) as usize),
            length => (at + 4, length),
        };
        let end = at + length;
        let row = bytes.get(..end)?;
        if self.widths.is_empty() {
            // Rows of something else, to be counted.
            return Some(end);
        }
        let nulls = at + 1;
        at += 1 + (self.widths.len() + 9) / 8;
        if at > end {
            return None;
        }
        for (index, width) in self.widths.iter().enumerate() {
            let bit = index + 2;
            if row[nulls + bit / 8] & 1 << (bit % 8) != 0 {
                self.spans.push(Span::NULL);
                continue;
            }
            let length = match *width {
                Width::Fixed(width) => width,
                Width::Date if *row.get(at)? == 0 => {
                    at += 1;
                    self.spans.push(Span::NULL);
                    continue;
                }
                Width::Short | Width::Date => {
                    at += 1;
                    usize::from(*row.get(at - 1)?)
                }
                Width::Length => {
                    let (head, length) = length_at(row, at)?;
                    at += head;
                    length
                }
            };
            // A block is far from 4 GB, and a value from 2 GB.
            self.spans.push(Span { start: u32::try_from(at).ok()?, length: i32::try_from(length).ok()? });
            at = at.checked_add(length).filter(|at| *at <= end)?;
        }
        (at == end).then_some(end)
    }
}

impl Decode for Decoder {
    fn is_full(&self) -> bool {
        // A row that is larger than a batch may be is a batch of its own.
        self.rows > 0 && (self.rows >= self.max_rows || self.bytes + self.widest > self.max_bytes)
    }

    fn take(&mut self, bytes: &[u8]) -> Result<usize> {
        let (mut at, mut rows) = (0, 0);
        self.spans.clear();
        while at < bytes.len() && !self.is_full() {
            let end = self.find_fields(bytes, at).ok_or_else(malformed)?;
            let width = (end - at).max(self.row_bytes);
            at = end;
            rows += 1;
            self.rows += 1;
            self.bytes += width;
            self.widest = self.widest.max(width);
        }
        let width = self.columns.len().max(1);
        for (index, column) in self.columns.iter_mut().enumerate() {
            let fields = self.spans.iter().skip(index).step_by(width).take(rows).copied();
            column.append(bytes, fields).map_err(|misfit| misfit.at(&self.schema, index))?;
        }
        Ok(at)
    }

    fn batch(&mut self) -> Result<Option<RecordBatch>> {
        if self.rows == 0 {
            return Ok(None);
        }
        let rows = self.rows;
        let columns = self.columns.iter_mut().map(|column| &mut column.gather);
        let batch = gather::batch(&self.schema, columns, rows)?;
        (self.rows, self.bytes, self.widest) = (0, 0, 0);
        Ok(Some(batch))
    }
}

fn malformed() -> Error {
    Error::new(ErrorKind::InvalidData, "the server sent a row that is not as it should be")
}

/// A length and the bytes that it takes.
#[inline]
fn length_at(bytes: &[u8], at: usize) -> Option<(usize, usize)> {
    let first = *bytes.get(at)?;
    let width = match first {
        0..=0xfa => return Some((1, usize::from(first))),
        0xfc => 2,
        0xfd => 3,
        0xfe => 8,
        _ => return None,
    };
    let mut length = [0; 8];
    length[..width].copy_from_slice(bytes.get(at + 1..at + 1 + width)?);
    Some((1 + width, usize::try_from(u64::from_le_bytes(length)).ok()?))
}

impl Reading {
    fn width(&self) -> Width {
        if self.zero_is_null { Width::Date } else { self.wire.width() }
    }
}

impl Wire {
    fn width(self) -> Width {
        match self {
            Self::Int8 | Self::UInt8 => Width::Fixed(1),
            Self::Int16 | Self::UInt16 => Width::Fixed(2),
            Self::Int32 | Self::UInt32 | Self::Float => Width::Fixed(4),
            Self::Int64 | Self::UInt64 | Self::Double => Width::Fixed(8),
            Self::Decimal | Self::Text | Self::Bytes | Self::Bit => Width::Length,
            Self::Date | Self::DateTime | Self::Time => Width::Short,
        }
    }
}

/// Gathers the values of one column.
struct ColumnDecoder {
    wire: Wire,
    gather: Gather,
}

impl ColumnDecoder {
    #[inline]
    fn append(&mut self, bytes: &[u8], fields: impl Iterator<Item = Span>) -> Result<(), Misfit> {
        let Gather { data_type, nulls, values } = &mut self.gather;
        macro_rules! numbers {
            ($values:expr, $type:ty) => {
                each(bytes, fields, nulls, $values, |field| Ok(<$type>::from_le_bytes(field).into()))
            };
        }
        match (self.wire, values) {
            (Wire::Int8, Values::Int8(values)) => numbers!(values, i8),
            (Wire::UInt8, Values::UInt8(values)) => numbers!(values, u8),
            (Wire::Int16, Values::Int16(values)) => numbers!(values, i16),
            (Wire::UInt16, Values::UInt16(values)) => numbers!(values, u16),
            (Wire::Int32, Values::Int32(values)) => numbers!(values, i32),
            (Wire::UInt32, Values::UInt32(values)) => numbers!(values, u32),
            (Wire::Int64, Values::Int64(values)) => numbers!(values, i64),
            (Wire::UInt64, Values::UInt64(values)) => numbers!(values, u64),
            (Wire::Int8, Values::Int64(values)) => numbers!(values, i8),
            (Wire::UInt8, Values::Int64(values)) => numbers!(values, u8),
            (Wire::Int16, Values::Int64(values)) => numbers!(values, i16),
            (Wire::UInt16, Values::Int64(values)) => numbers!(values, u16),
            (Wire::Int32, Values::Int64(values)) => numbers!(values, i32),
            (Wire::UInt32, Values::Int64(values)) => numbers!(values, u32),
            (Wire::UInt8, Values::UInt64(values)) => numbers!(values, u8),
            (Wire::UInt16, Values::UInt64(values)) => numbers!(values, u16),
            (Wire::UInt32, Values::UInt64(values)) => numbers!(values, u32),
            (Wire::Int8, Values::Float64(values)) => numbers!(values, i8),
            (Wire::UInt8, Values::Float64(values)) => numbers!(values, u8),
            (Wire::Int16, Values::Float64(values)) => numbers!(values, i16),
            (Wire::UInt16, Values::Float64(values)) => numbers!(values, u16),
            (Wire::Int32, Values::Float64(values)) => numbers!(values, i32),
            (Wire::UInt32, Values::Float64(values)) => numbers!(values, u32),
            (Wire::Float, Values::Float64(values)) => numbers!(values, f32),
            (Wire::Float, Values::Float32(values)) => numbers!(values, f32),
            (Wire::Double, Values::Float64(values)) => numbers!(values, f64),
            (Wire::Int8 | Wire::UInt8 | Wire::Bit, Values::Bits(values)) => {
                each(bytes, fields, nulls, values, |field: [u8; 1]| match field[0] {
                    0 => Ok(false),
                    1 => Ok(true),
                    _ => Err(Misfit::Value("a number that is not 0 or 1")),
                })
            }
            (Wire::Bit, Values::UInt8(values)) => bits(bytes, fields, nulls, values),
            (Wire::Bit, Values::UInt16(values)) => bits(bytes, fields, nulls, values),
            (Wire::Bit, Values::UInt32(values)) => bits(bytes, fields, nulls, values),
            (Wire::Bit, Values::UInt64(values)) => bits(bytes, fields, nulls, values),
            (Wire::Date, Values::Int32(values)) => variable(bytes, fields, nulls, values, |values, field| {
                values.put(i32::try_from(day(field)?).map_err(|_| Misfit::Malformed)?);
                Ok(())
            }),
            (Wire::DateTime, Values::Int64(values)) => variable(bytes, fields, nulls, values, |values, field| {
                values.put(day(field)? * DAY_MICROSECONDS + time(field.get(4..).unwrap_or_default())?);
                Ok(())
            }),
            (Wire::Time, Values::Int64(values)) => variable(bytes, fields, nulls, values, |values, field| {
                // A sign and days come first.
                let (head, rest) = field.split_at(field.len().min(5));
                if head.iter().any(|byte| *byte != 0) {
                    return Err(Misfit::Value("a time outside of a day"));
                }
                values.put(time(rest)?);
                Ok(())
            }),
            (Wire::Decimal, Values::Decimal128(values)) => {
                let (precision, scale) = decimal_of(data_type);
                variable(bytes, fields, nulls, values, |values, field| {
                    values.put(decimal128(field, precision, scale)?);
                    Ok(())
                })
            }
            (Wire::Decimal, Values::Decimal256(values)) => {
                let (precision, scale) = decimal_of(data_type);
                variable(bytes, fields, nulls, values, |values, field| {
                    let digits = scaled(field, precision, scale)?;
                    let digits = std::str::from_utf8(&digits).ok().and_then(i256::from_string);
                    values.put(digits.ok_or(Misfit::Malformed)?);
                    Ok(())
                })
            }
            (Wire::Bytes, Values::Fixed(values)) => variable(bytes, fields, nulls, values, Fixed::put),
            (Wire::Text | Wire::Bytes | Wire::Decimal, Values::Bytes(ends, data)) => {
                variable(bytes, fields, nulls, &mut Text(ends, data), |text, field| {
                    text.1.extend_from_slice(field);
                    text.end()
                })
            }
            _ => Err(Misfit::Malformed),
        }
    }
}

/// Numbers of up to eight bytes, the most significant first.
fn bits<T: TryFrom<u64>>(
    bytes: &[u8],
    fields: impl Iterator<Item = Span>,
    nulls: &mut NullBufferBuilder,
    values: &mut Vec<T>,
) -> Result<(), Misfit>
where
    Vec<T>: Put<T>,
{
    variable(bytes, fields, nulls, values, |values, field| {
        if field.len() > 8 {
            return Err(Misfit::Malformed);
        }
        let number = field.iter().fold(0, |bits, byte| bits << 8 | u64::from(*byte));
        values.put(T::try_from(number).map_err(|_| Misfit::Malformed)?);
        Ok(())
    })
}

/// Days since 1970-01-01 of a date, which is a year in two bytes, a month and a day.
fn day(field: &[u8]) -> Result<i64, Misfit> {
    let Some(&[a, b, month, day]) = field.first_chunk::<4>() else {
        return Err(if field.is_empty() { Misfit::Value("the date 0000-00-00") } else { Misfit::Malformed });
    };
    let year = i64::from(u16::from_le_bytes([a, b]));
    if year == 0 && month == 0 && day == 0 {
        let has_time = field.len() > 4;
        return Err(Misfit::Value(if has_time { "a time of day without a date" } else { "the date 0000-00-00" }));
    }
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let longest = match month {
        4 | 6 | 9 | 11 => 30,
        2 if leap => 29,
        2 => 28,
        1..=12 => 31,
        _ => 0,
    };
    if day == 0 || day > longest {
        return Err(Misfit::Value("a date that is no day of a month"));
    }
    Ok(days_from_civil(year, month.into(), day.into()))
}

/// Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms", `days_from_civil`.
pub(super) fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year - era * 400;
    let day_of_year = (153 * (month + if month > 2 { -3 } else { 9 }) + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

/// Microseconds of a time: hour, minute, second, and, if it has them, microseconds in four bytes.
fn time(field: &[u8]) -> Result<i64, Misfit> {
    let (hour, minute, second, fraction) = match *field {
        [] => return Ok(0),
        [hour, minute, second] => (hour, minute, second, 0),
        [hour, minute, second, a, b, c, d] => (hour, minute, second, u32::from_le_bytes([a, b, c, d])),
        _ => return Err(Misfit::Malformed),
    };
    if hour > 23 || minute > 59 || second > 59 || fraction > 999_999 {
        return Err(Misfit::Value("a time outside of a day"));
    }
    let seconds = (i64::from(hour) * 60 + i64::from(minute)) * 60 + i64::from(second);
    Ok(seconds * 1_000_000 + i64::from(fraction))
}

/// A decimal of text as a count of `10^-scale`.
#[inline]
fn decimal128(field: &[u8], precision: u8, scale: u8) -> Result<i128, Misfit> {
    // Nearly all have the declared digits behind the point, and fit into 64 bits.
    let (negative, digits) = match field.strip_prefix(b"-") {
        Some(digits) => (true, digits),
        None => (false, field),
    };
    let point = digits.len().checked_sub(usize::from(scale) + 1);
    if digits.len() <= 18 && (scale == 0 || point.is_some_and(|point| digits[point] == b'.')) {
        let (mut value, mut wrong) = (0_u64, false);
        for (index, byte) in digits.iter().enumerate() {
            if scale > 0 && Some(index) == point {
                continue;
            }
            let digit = byte.wrapping_sub(b'0');
            wrong |= digit > 9;
            // What is no digit may go beyond 64 bits, and is not used.
            value = value.wrapping_mul(10).wrapping_add(u64::from(digit));
        }
        let count = digits.len() - usize::from(scale > 0);
        if !wrong && count > 0 && (count <= usize::from(precision) || value < 10_u64.pow(precision.min(19).into())) {
            return Ok(if negative { -i128::from(value) } else { value.into() });
        }
    }
    let digits = scaled(field, precision, scale)?;
    std::str::from_utf8(&digits).ok().and_then(|digits| digits.parse().ok()).ok_or(Misfit::Malformed)
}

/// A decimal of text without its point, with so many digits behind where it was.
fn scaled(field: &[u8], precision: u8, scale: u8) -> Result<Vec<u8>, Misfit> {
    let (sign, digits) = match field.strip_prefix(b"-") {
        Some(digits) => (&b"-"[..], digits),
        None => (&b""[..], field),
    };
    let point = digits.iter().position(|byte| *byte == b'.').unwrap_or(digits.len());
    let (whole, fraction) = (&digits[..point], digits.get(point + 1..).unwrap_or_default());
    let is_digits = |digits: &[u8]| digits.iter().all(u8::is_ascii_digit);
    if whole.is_empty() && fraction.is_empty() || !is_digits(whole) || !is_digits(fraction) {
        return Err(Misfit::Malformed);
    }
    let whole = &whole[whole.iter().position(|digit| *digit != b'0').unwrap_or(whole.len())..];
    let scale = usize::from(scale);
    let (kept, lost) = fraction.split_at(fraction.len().min(scale));
    if lost.iter().any(|digit| *digit != b'0') || whole.len() + scale > usize::from(precision).max(scale) {
        return Err(Misfit::Value("a number of more digits"));
    }
    let zeros = vec![b'0'; scale - kept.len()];
    // At least one digit.
    Ok([sign, b"0", whole, kept, &zeros].concat())
}

#[cfg(test)]
mod tests {
    use arrow_schema::DataType;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn dates_and_times() {
        for (field, expected) in [
            (&[0xb2, 7, 1, 1][..], Ok(0)),
            (&[0, 0, 1, 1], Ok(-719_528)),
            (&[0x0f, 0x27, 12, 31], Ok(2_932_896)),
            (&[0xd0, 7, 2, 29], Ok(11_016)),
            (&[], Err(Misfit::Value("the date 0000-00-00"))),
            (&[0xe8, 7, 0, 5], Err(Misfit::Value("a date that is no day of a month"))),
            (&[0xd1, 7, 2, 29], Err(Misfit::Value("a date that is no day of a month"))),
            (&[1], Err(Misfit::Malformed)),
        ] {
            assert_eq!(day(field), expected, "{field:?}");
        }
        assert_eq!(time(&[23, 59, 59, 0x3f, 0x42, 0x0f, 0]), Ok(86_399_999_999));
        assert_eq!(time(&[]), Ok(0));
        assert!(time(&[24, 0, 0]).is_err() && time(&[1]).is_err());
    }

    proptest! {
        /// The quick way and the plain one are the same, whatever the digits are.
        #[test]
        fn decimals_are_exact(value in -10_i128.pow(20)..10_i128.pow(20), scale in 0_u8..12, precision in 1_u8..38) {
            let precision = precision.max(scale);
            let digits = format!("{:0width$}", value.unsigned_abs(), width = usize::from(scale) + 1);
            let (whole, fraction) = digits.split_at(digits.len() - usize::from(scale));
            let point = if scale > 0 { "." } else { "" };
            let text = format!("{}{whole}{point}{fraction}", if value < 0 { "-" } else { "" });
            let fits = value.unsigned_abs() < 10_u128.pow(precision.into());
            let expected = if fits { Ok(value) } else { Err(Misfit::Value("a number of more digits")) };
            prop_assert_eq!(decimal128(text.as_bytes(), precision, scale), expected);
        }

        #[test]
        fn any_bytes_are_no_panic(bytes: Vec<u8>, precision in 1_u8..38, scale in 0_u8..38) {
            _ = decimal128(&bytes, precision, scale);
            _ = (day(&bytes), time(&bytes));
            let fields = vec![Field::new("a", DataType::Int32, true), Field::new("b", DataType::Utf8, true)];
            let wires = [Wire::Int32, Wire::Text];
            let readings = fields.iter().zip(wires).map(|(field, wire)| Reading {
                field: Arc::new(field.clone()), wire, cast: None,
                zero_is_null: false,
            });
            let readings: Vec<_> = readings.collect();
            let schema = Arc::new(arrow_schema::Schema::new(fields));
            let mut decoder = Decoder::new(schema, &readings, 10, 1000);
            _ = decoder.take(&bytes).and_then(|_| decoder.batch());
        }
    }
}
