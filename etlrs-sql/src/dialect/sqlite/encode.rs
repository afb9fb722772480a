//! Arrow columns as parameters of an INSERT, without an allocation per value.

use arrow_array::cast::AsArray;
use arrow_array::types::*;
use arrow_array::{
    Array, BinaryArray, BinaryViewArray, BooleanArray, FixedSizeBinaryArray, LargeBinaryArray, LargeStringArray,
    PrimitiveArray, StringArray, StringViewArray,
};
use arrow_buffer::ScalarBuffer;
use arrow_schema::{DataType, TimeUnit};
use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{Result, Statement};

use super::text;

/// Why a value cannot be stored.
pub(super) enum Refused {
    /// SQLite would make a null of it.
    NaN,
    /// A timestamp outside what microseconds in 64 bits can count.
    Timestamp,
    /// A time that is not within a day.
    Time,
    Sqlite(rusqlite::Error),
}

impl From<rusqlite::Error> for Refused {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

/// The values of a column of a batch.
pub(super) struct Column<'a> {
    array: &'a dyn Array,
    /// Whether there is a null to look out for.
    nulls: bool,
    values: Values<'a>,
}

enum Values<'a> {
    Nulls,
    Boolean(&'a BooleanArray),
    Int8(&'a [i8]),
    Int16(&'a [i16]),
    Int32(&'a [i32]),
    Int64(&'a [i64]),
    UInt8(&'a [u8]),
    UInt16(&'a [u16]),
    UInt32(&'a [u32]),
    Float16(&'a PrimitiveArray<Float16Type>),
    Float32(&'a [f32]),
    Float64(&'a [f64]),
    Utf8(&'a StringArray),
    LargeUtf8(&'a LargeStringArray),
    Utf8View(&'a StringViewArray),
    Binary(&'a BinaryArray),
    LargeBinary(&'a LargeBinaryArray),
    BinaryView(&'a BinaryViewArray),
    FixedSizeBinary(&'a FixedSizeBinaryArray),
    Date(&'a [i32]),
    /// Counts of a unit of so many microseconds.
    Time32(&'a [i32], i64),
    Time64(&'a [i64]),
    Timestamp {
        values: &'a [i64],
        microseconds: i64,
        instant: bool,
    },
    Decimal32(&'a [i32], u8),
    Decimal64(&'a [i64], u8),
    Decimal128(&'a [i128], u8),
    Decimal256(&'a ScalarBuffer<arrow_buffer::i256>, u8),
    Dictionary(Vec<usize>, Box<Column<'a>>),
}

impl<'a> Column<'a> {
    /// `None` for a type that was refused when the load was planned.
    pub(super) fn new(array: &'a dyn Array) -> Option<Self> {
        let scale = |scale: &i8| u8::try_from(*scale).ok();
        let values = match array.data_type() {
            DataType::Null => Values::Nulls,
            DataType::Boolean => Values::Boolean(array.as_boolean()),
            DataType::Int8 => Values::Int8(array.as_primitive::<Int8Type>().values()),
            DataType::Int16 => Values::Int16(array.as_primitive::<Int16Type>().values()),
            DataType::Int32 => Values::Int32(array.as_primitive::<Int32Type>().values()),
            DataType::Int64 => Values::Int64(array.as_primitive::<Int64Type>().values()),
            DataType::UInt8 => Values::UInt8(array.as_primitive::<UInt8Type>().values()),
            DataType::UInt16 => Values::UInt16(array.as_primitive::<UInt16Type>().values()),
            DataType::UInt32 => Values::UInt32(array.as_primitive::<UInt32Type>().values()),
            DataType::Float16 => Values::Float16(array.as_primitive()),
            DataType::Float32 => Values::Float32(array.as_primitive::<Float32Type>().values()),
            DataType::Float64 => Values::Float64(array.as_primitive::<Float64Type>().values()),
            DataType::Utf8 => Values::Utf8(array.as_string()),
            DataType::LargeUtf8 => Values::LargeUtf8(array.as_string()),
            DataType::Utf8View => Values::Utf8View(array.as_string_view()),
            DataType::Binary => Values::Binary(array.as_binary()),
            DataType::LargeBinary => Values::LargeBinary(array.as_binary()),
            DataType::BinaryView => Values::BinaryView(array.as_binary_view()),
            DataType::FixedSizeBinary(_) => Values::FixedSizeBinary(array.as_fixed_size_binary()),
            DataType::Date32 => Values::Date(array.as_primitive::<Date32Type>().values()),
            DataType::Time32(TimeUnit::Second) => {
                Values::Time32(array.as_primitive::<Time32SecondType>().values(), 1_000_000)
            }
            DataType::Time32(TimeUnit::Millisecond) => {
                Values::Time32(array.as_primitive::<Time32MillisecondType>().values(), 1000)
            }
            DataType::Time64(TimeUnit::Microsecond) => {
                Values::Time64(array.as_primitive::<Time64MicrosecondType>().values())
            }
            DataType::Timestamp(unit, zone) => {
                let (values, microseconds): (&[i64], _) = match unit {
                    TimeUnit::Second => (array.as_primitive::<TimestampSecondType>().values(), 1_000_000),
                    TimeUnit::Millisecond => (array.as_primitive::<TimestampMillisecondType>().values(), 1000),
                    TimeUnit::Microsecond => (array.as_primitive::<TimestampMicrosecondType>().values(), 1),
                    TimeUnit::Nanosecond => return None,
                };
                Values::Timestamp { values, microseconds, instant: zone.is_some() }
            }
            DataType::Decimal32(_, s) => Values::Decimal32(array.as_primitive::<Decimal32Type>().values(), scale(s)?),
            DataType::Decimal64(_, s) => Values::Decimal64(array.as_primitive::<Decimal64Type>().values(), scale(s)?),
            DataType::Decimal128(_, s) => {
                Values::Decimal128(array.as_primitive::<Decimal128Type>().values(), scale(s)?)
            }
            DataType::Decimal256(_, s) => {
                Values::Decimal256(array.as_primitive::<Decimal256Type>().values(), scale(s)?)
            }
            DataType::Dictionary(..) => {
                let dictionary = array.as_any_dictionary();
                let values = Self::new(dictionary.values().as_ref())?;
                // An empty dictionary has only null keys, and those are not looked up.
                let keys = if dictionary.values().is_empty() { Vec::new() } else { dictionary.normalized_keys() };
                Values::Dictionary(keys, Box::new(values))
            }
            _ => return None,
        };
        Some(Self { array, nulls: array.null_count() > 0, values })
    }

    /// Binds the value of `row` to the parameter `index`. `scratch` is for what has to be written as text.
    #[inline]
    pub(super) fn bind(
        &self,
        statement: &mut Statement<'_>,
        index: usize,
        row: usize,
        scratch: &mut String,
    ) -> Result<(), Refused> {
        let value = if self.nulls && self.array.is_null(row) { ValueRef::Null } else { self.value(row, scratch)? };
        Ok(statement.raw_bind_parameter(index, ToSqlOutput::Borrowed(value))?)
    }

    #[inline]
    fn value<'s>(&'s self, row: usize, scratch: &'s mut String) -> Result<ValueRef<'s>, Refused> {
        let integer = |value: i64| Ok(ValueRef::Integer(value));
        let real = |value: f64| if value.is_nan() { Err(Refused::NaN) } else { Ok(ValueRef::Real(value)) };
        scratch.clear();
        match &self.values {
            Values::Nulls => return Ok(ValueRef::Null),
            Values::Boolean(array) => return integer(array.value(row).into()),
            Values::Int8(values) => return integer(values[row].into()),
            Values::Int16(values) => return integer(values[row].into()),
            Values::Int32(values) => return integer(values[row].into()),
            Values::Int64(values) => return integer(values[row]),
            Values::UInt8(values) => return integer(values[row].into()),
            Values::UInt16(values) => return integer(values[row].into()),
            Values::UInt32(values) => return integer(values[row].into()),
            Values::Float16(array) => return real(array.value(row).into()),
            Values::Float32(values) => return real(values[row].into()),
            Values::Float64(values) => return real(values[row]),
            Values::Utf8(array) => return Ok(ValueRef::Text(array.value(row).as_bytes())),
            Values::LargeUtf8(array) => return Ok(ValueRef::Text(array.value(row).as_bytes())),
            Values::Utf8View(array) => return Ok(ValueRef::Text(array.value(row).as_bytes())),
            Values::Binary(array) => return Ok(ValueRef::Blob(array.value(row))),
            Values::LargeBinary(array) => return Ok(ValueRef::Blob(array.value(row))),
            Values::BinaryView(array) => return Ok(ValueRef::Blob(array.value(row))),
            Values::FixedSizeBinary(array) => return Ok(ValueRef::Blob(array.value(row))),
            Values::Dictionary(keys, values) => {
                let key = keys[row];
                // A key may be valid and the value behind it null.
                let null = values.nulls && values.array.is_null(key);
                return if null { Ok(ValueRef::Null) } else { values.value(key, scratch) };
            }
            Values::Date(values) => text::write_date(scratch, values[row].into()),
            Values::Time32(values, unit) => {
                text::write_time(scratch, i64::from(values[row]) * unit).ok_or(Refused::Time)?;
            }
            Values::Time64(values) => text::write_time(scratch, values[row]).ok_or(Refused::Time)?,
            Values::Timestamp { values, microseconds, instant } => {
                let value = values[row].checked_mul(*microseconds).ok_or(Refused::Timestamp)?;
                text::write_timestamp(scratch, value, *instant);
            }
            Values::Decimal32(values, scale) => text::write_decimal(scratch, values[row], *scale),
            Values::Decimal64(values, scale) => text::write_decimal(scratch, values[row], *scale),
            Values::Decimal128(values, scale) => text::write_decimal(scratch, values[row], *scale),
            Values::Decimal256(values, scale) => text::write_decimal(scratch, values[row], *scale),
        }
        Ok(ValueRef::Text(scratch.as_bytes()))
    }
}
