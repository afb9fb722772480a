//! Values of SQLite into Arrow columns, each checked against the type of its column.

use std::sync::Arc;

use arrow_array::builder::{ArrayBuilder, BinaryBuilder, BooleanBuilder, PrimitiveBuilder, StringBuilder};
use arrow_array::types::*;
use arrow_array::{Array, ArrayRef, ArrowPrimitiveType};
use arrow_schema::{DataType, TimeUnit};
use rusqlite::types::ValueRef;

use super::text;
use super::types::is_float;

/// The integers that floats hold exactly are those up to this.
const EXACT_IN_F64: u64 = 1 << 53;

/// Gathers the values of one column.
pub(super) trait Decode: Send {
    /// Takes a value, or says what it is that does not fit.
    fn push(&mut self, value: ValueRef<'_>) -> Result<(), Misfit>;

    fn finish(&mut self) -> ArrayRef;
}

/// What was found in place of a value of the column's type; never the value itself.
#[derive(Debug, PartialEq)]
pub(super) struct Misfit(pub(super) &'static str);

type Converted<T> = Result<T, Misfit>;

/// The decoder for a type; `lenient`: numbers and blobs become text, text becomes bytes. `None` for a type that
/// nothing in SQLite is read as. Room is made for so many `rows`.
pub(super) fn decoder(data_type: &DataType, lenient: bool, rows: usize) -> Option<Box<dyn Decode>> {
    Some(match data_type {
        DataType::Boolean => Box::new(Booleans(BooleanBuilder::with_capacity(rows))),
        DataType::Int8 => integers::<Int8Type>(rows),
        DataType::Int16 => integers::<Int16Type>(rows),
        DataType::Int32 => integers::<Int32Type>(rows),
        DataType::Int64 => integers::<Int64Type>(rows),
        DataType::UInt8 => integers::<UInt8Type>(rows),
        DataType::UInt16 => integers::<UInt16Type>(rows),
        DataType::UInt32 => integers::<UInt32Type>(rows),
        DataType::UInt64 => integers::<UInt64Type>(rows),
        DataType::Float32 => primitives::<Float32Type>(data_type, rows, float32),
        DataType::Float64 => primitives::<Float64Type>(data_type, rows, float64),
        DataType::Utf8 => Box::new(Strings { builder: StringBuilder::with_capacity(rows, 0), lenient }),
        DataType::Binary => Box::new(Bytes { builder: BinaryBuilder::with_capacity(rows, 0), lenient }),
        DataType::Date32 => primitives::<Date32Type>(data_type, rows, |value| parsed(value, text::parse_date)),
        DataType::Time64(TimeUnit::Microsecond) => {
            primitives::<Time64MicrosecondType>(data_type, rows, |value| parsed(value, text::parse_time))
        }
        DataType::Timestamp(TimeUnit::Microsecond, zone) => {
            let instant = zone.is_some();
            primitives::<TimestampMicrosecondType>(data_type, rows, move |value| {
                parsed(value, |text| text::parse_timestamp(text, instant))
            })
        }
        &DataType::Decimal128(precision, scale) => {
            let (scale, mut scratch) = (u8::try_from(scale).ok()?, Vec::new());
            primitives::<Decimal128Type>(data_type, rows, move |value| {
                decimal(value, |text| text::parse_decimal128(text, precision, scale, &mut scratch))
            })
        }
        &DataType::Decimal256(precision, scale) => {
            let (scale, mut scratch) = (u8::try_from(scale).ok()?, Vec::new());
            primitives::<Decimal256Type>(data_type, rows, move |value| {
                decimal(value, |text| text::parse_decimal256(text, precision, scale, &mut scratch))
            })
        }
        _ => return None,
    })
}

/// The storage class of a value that has no business where it is.
fn class(value: ValueRef<'_>) -> Misfit {
    Misfit(match value {
        ValueRef::Null => "null",
        ValueRef::Integer(_) => "an integer",
        ValueRef::Real(_) => "a real number",
        ValueRef::Text(_) => "text",
        ValueRef::Blob(_) => "a blob",
    })
}

struct Primitives<T: ArrowPrimitiveType, F> {
    builder: PrimitiveBuilder<T>,
    convert: F,
}

fn primitives<T: ArrowPrimitiveType>(
    data_type: &DataType,
    rows: usize,
    convert: impl FnMut(ValueRef<'_>) -> Converted<T::Native> + Send + 'static,
) -> Box<dyn Decode> {
    let builder = PrimitiveBuilder::<T>::with_capacity(rows).with_data_type(data_type.clone());
    Box::new(Primitives { builder, convert })
}

impl<T: ArrowPrimitiveType, F> Decode for Primitives<T, F>
where
    F: FnMut(ValueRef<'_>) -> Converted<T::Native> + Send,
{
    fn push(&mut self, value: ValueRef<'_>) -> Result<(), Misfit> {
        match value {
            ValueRef::Null => self.builder.append_null(),
            value => self.builder.append_value((self.convert)(value)?),
        }
        Ok(())
    }

    fn finish(&mut self) -> ArrayRef {
        let (rows, room) = (self.builder.len(), self.builder.capacity());
        let mut array = self.builder.finish();
        if rows < room / 4 * 3 {
            array.shrink_to_fit();
        }
        self.builder = PrimitiveBuilder::with_capacity(rows).with_data_type(array.data_type().clone());
        Arc::new(array)
    }
}

struct Booleans(BooleanBuilder);

impl Decode for Booleans {
    fn push(&mut self, value: ValueRef<'_>) -> Result<(), Misfit> {
        match value {
            ValueRef::Null => self.0.append_null(),
            ValueRef::Integer(0) => self.0.append_value(false),
            ValueRef::Integer(1) => self.0.append_value(true),
            ValueRef::Integer(_) => return Err(Misfit("an integer other than 0 and 1")),
            value => return Err(class(value)),
        }
        Ok(())
    }

    fn finish(&mut self) -> ArrayRef {
        Arc::new(self.0.finish())
    }
}

struct Strings {
    builder: StringBuilder,
    lenient: bool,
}

impl Decode for Strings {
    fn push(&mut self, value: ValueRef<'_>) -> Result<(), Misfit> {
        match (value, self.lenient) {
            (ValueRef::Null, _) => self.builder.append_null(),
            (ValueRef::Text(text), _) => {
                let text = std::str::from_utf8(text).map_err(|_| Misfit("text that is not valid UTF-8"))?;
                self.builder.append_value(text);
            }
            (ValueRef::Integer(value), true) => self.builder.append_value(value.to_string()),
            // The shortest digits that stand for just this float.
            (ValueRef::Real(value), true) => self.builder.append_value(format!("{value:?}")),
            (ValueRef::Blob(bytes), true) => {
                let text = std::str::from_utf8(bytes).map_err(|_| Misfit("a blob that is not valid UTF-8"))?;
                self.builder.append_value(text);
            }
            (value, _) => return Err(class(value)),
        }
        Ok(())
    }

    fn finish(&mut self) -> ArrayRef {
        let rows = self.builder.offsets_slice().len();
        let bytes = self.builder.values_slice().len();
        let mut array = self.builder.finish();
        // What growing took beyond the need would count against the memory of the batch for as long as it lives.
        array.shrink_to_fit();
        self.builder = StringBuilder::with_capacity(rows, bytes);
        Arc::new(array)
    }
}

struct Bytes {
    builder: BinaryBuilder,
    lenient: bool,
}

impl Decode for Bytes {
    fn push(&mut self, value: ValueRef<'_>) -> Result<(), Misfit> {
        match (value, self.lenient) {
            (ValueRef::Null, _) => self.builder.append_null(),
            (ValueRef::Blob(bytes), _) | (ValueRef::Text(bytes), true) => self.builder.append_value(bytes),
            (value, _) => return Err(class(value)),
        }
        Ok(())
    }

    fn finish(&mut self) -> ArrayRef {
        let rows = self.builder.offsets_slice().len();
        let bytes = self.builder.values_slice().len();
        let mut array = self.builder.finish();
        array.shrink_to_fit();
        self.builder = BinaryBuilder::with_capacity(rows, bytes);
        Arc::new(array)
    }
}

fn integers<T>(rows: usize) -> Box<dyn Decode>
where
    T: ArrowPrimitiveType,
    T::Native: TryFrom<i64> + std::str::FromStr,
{
    primitives::<T>(&T::DATA_TYPE, rows, |value| {
        let out_of_range = || Misfit("an integer that is out of range");
        match value {
            ValueRef::Integer(value) => T::Native::try_from(value).map_err(|_| out_of_range()),
            // Integer affinity leaves neither of these behind, so they are met only where a user asks for them.
            ValueRef::Real(real) if real.fract() == 0.0 && real.abs() <= EXACT_IN_F64 as f64 => {
                T::Native::try_from(real as i64).map_err(|_| out_of_range())
            }
            ValueRef::Real(_) => Err(Misfit("a real number that is no integer")),
            ValueRef::Text(text) => {
                let text = std::str::from_utf8(text).ok();
                text.and_then(|text| text.parse().ok()).ok_or(Misfit("text that is no such integer"))
            }
            value => Err(class(value)),
        }
    })
}

fn float64(value: ValueRef<'_>) -> Converted<f64> {
    match value {
        ValueRef::Real(value) => Ok(value),
        // SQLite itself makes an integer of a whole float, whose value this gives back.
        ValueRef::Integer(value) if is_float(value) => Ok(value as f64),
        ValueRef::Integer(_) => Err(Misfit("an integer beyond 2^53 that no float has exactly")),
        value => Err(class(value)),
    }
}

fn float32(value: ValueRef<'_>) -> Converted<f32> {
    let wide = float64(value)?;
    // Rounds, and the comparison tells whether it did.
    let narrow = wide as f32;
    if f64::from(narrow) == wide { Ok(narrow) } else { Err(Misfit("a real number that takes more than 32 bits")) }
}

fn parsed<T>(value: ValueRef<'_>, parse: impl FnOnce(&[u8]) -> Option<T>) -> Converted<T> {
    match value {
        ValueRef::Text(text) => parse(text).ok_or(Misfit("text of another form")),
        value => Err(class(value)),
    }
}

fn decimal<T>(value: ValueRef<'_>, mut parse: impl FnMut(&[u8]) -> Option<T>) -> Converted<T> {
    match value {
        ValueRef::Text(text) => parse(text).ok_or(Misfit("text that is no such decimal")),
        ValueRef::Integer(value) => {
            parse(value.to_string().as_bytes()).ok_or(Misfit("an integer with too many digits"))
        }
        ValueRef::Real(value) => {
            // The shortest digits that stand for it are those which somebody wrote, if there were at most 15. Of more, only what
            // it is exactly is certain.
            let mut digits = value.to_string();
            if digits.len() > 15 {
                let significant: String = digits.chars().filter(char::is_ascii_digit).collect();
                if significant.trim_matches('0').len() > 15 {
                    digits = format!("{value:.1074}");
                }
            }
            parse(digits.as_bytes()).ok_or(Misfit("a real number that the digits of the decimal do not hold"))
        }
        value => Err(class(value)),
    }
}
