//! Arrow columns value by value, for the encoders of all databases, without an allocation per value.

use arrow_array::cast::AsArray;
use arrow_array::types::*;
use arrow_array::{
    Array, BinaryArray, BinaryViewArray, BooleanArray, FixedSizeBinaryArray, LargeBinaryArray, LargeStringArray,
    PrimitiveArray, StringArray, StringViewArray,
};
use arrow_buffer::i256;
use arrow_schema::{DataType, TimeUnit};

/// A value in one of the few forms that databases tell apart.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Scalar<'a> {
    Null,
    Bool(bool),
    Int(i64),
    UInt(u64),
    Float32(f32),
    Float64(f64),
    Text(&'a str),
    Bytes(&'a [u8]),
    /// Days since 1970-01-01.
    Date(i32),
    /// Microseconds since midnight.
    Time(i64),
    /// Microseconds since 1970-01-01 00:00:00, in UTC if it is an instant.
    Timestamp(i64),
    /// A count of `10^-scale`.
    Decimal(i128, i8),
    /// A count of `10^-scale`.
    Wide(&'a i256, i8),
    /// A time or a timestamp that is no whole number of microseconds.
    TooFine,
    /// A timestamp outside what microseconds in 64 bits can count.
    TooFar,
}

/// The values of a column of a batch.
pub(crate) struct Column<'a> {
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
    UInt64(&'a [u64]),
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
    Time32(&'a [i32], TimeUnit),
    Time64(&'a [i64], TimeUnit),
    Timestamp(&'a [i64], TimeUnit),
    Decimal32(&'a [i32], i8),
    Decimal64(&'a [i64], i8),
    Decimal128(&'a [i128], i8),
    Decimal256(&'a [i256], i8),
    Dictionary(Vec<usize>, Box<Column<'a>>),
}

impl<'a> Column<'a> {
    /// `None` for a type that no database takes.
    pub(crate) fn new(array: &'a dyn Array) -> Option<Self> {
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
            DataType::UInt64 => Values::UInt64(array.as_primitive::<UInt64Type>().values()),
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
            DataType::Time32(unit) => {
                let values: &[i32] = match unit {
                    TimeUnit::Second => array.as_primitive::<Time32SecondType>().values(),
                    TimeUnit::Millisecond => array.as_primitive::<Time32MillisecondType>().values(),
                    _ => return None,
                };
                Values::Time32(values, *unit)
            }
            DataType::Time64(unit) => {
                let values: &[i64] = match unit {
                    TimeUnit::Microsecond => array.as_primitive::<Time64MicrosecondType>().values(),
                    TimeUnit::Nanosecond => array.as_primitive::<Time64NanosecondType>().values(),
                    _ => return None,
                };
                Values::Time64(values, *unit)
            }
            DataType::Timestamp(unit, _) => {
                let values: &[i64] = match unit {
                    TimeUnit::Second => array.as_primitive::<TimestampSecondType>().values(),
                    TimeUnit::Millisecond => array.as_primitive::<TimestampMillisecondType>().values(),
                    TimeUnit::Microsecond => array.as_primitive::<TimestampMicrosecondType>().values(),
                    TimeUnit::Nanosecond => array.as_primitive::<TimestampNanosecondType>().values(),
                };
                Values::Timestamp(values, *unit)
            }
            DataType::Decimal32(_, s) => Values::Decimal32(array.as_primitive::<Decimal32Type>().values(), *s),
            DataType::Decimal64(_, s) => Values::Decimal64(array.as_primitive::<Decimal64Type>().values(), *s),
            DataType::Decimal128(_, s) => Values::Decimal128(array.as_primitive::<Decimal128Type>().values(), *s),
            DataType::Decimal256(_, s) => Values::Decimal256(array.as_primitive::<Decimal256Type>().values(), *s),
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

    /// The value of `row`.
    #[inline]
    pub(crate) fn value(&self, row: usize) -> Scalar<'_> {
        if self.nulls && self.array.is_null(row) {
            return Scalar::Null;
        }
        match &self.values {
            Values::Nulls => Scalar::Null,
            Values::Boolean(array) => Scalar::Bool(array.value(row)),
            Values::Int8(values) => Scalar::Int(values[row].into()),
            Values::Int16(values) => Scalar::Int(values[row].into()),
            Values::Int32(values) => Scalar::Int(values[row].into()),
            Values::Int64(values) => Scalar::Int(values[row]),
            Values::UInt8(values) => Scalar::Int(values[row].into()),
            Values::UInt16(values) => Scalar::Int(values[row].into()),
            Values::UInt32(values) => Scalar::Int(values[row].into()),
            Values::UInt64(values) => Scalar::UInt(values[row]),
            Values::Float16(array) => Scalar::Float32(array.value(row).into()),
            Values::Float32(values) => Scalar::Float32(values[row]),
            Values::Float64(values) => Scalar::Float64(values[row]),
            Values::Utf8(array) => Scalar::Text(array.value(row)),
            Values::LargeUtf8(array) => Scalar::Text(array.value(row)),
            Values::Utf8View(array) => Scalar::Text(array.value(row)),
            Values::Binary(array) => Scalar::Bytes(array.value(row)),
            Values::LargeBinary(array) => Scalar::Bytes(array.value(row)),
            Values::BinaryView(array) => Scalar::Bytes(array.value(row)),
            Values::FixedSizeBinary(array) => Scalar::Bytes(array.value(row)),
            Values::Date(values) => Scalar::Date(values[row]),
            Values::Time32(values, unit) => microseconds(values[row].into(), *unit, Scalar::Time),
            Values::Time64(values, unit) => microseconds(values[row], *unit, Scalar::Time),
            Values::Timestamp(values, unit) => microseconds(values[row], *unit, Scalar::Timestamp),
            Values::Decimal32(values, scale) => Scalar::Decimal(values[row].into(), *scale),
            Values::Decimal64(values, scale) => Scalar::Decimal(values[row].into(), *scale),
            Values::Decimal128(values, scale) => Scalar::Decimal(values[row], *scale),
            Values::Decimal256(values, scale) => Scalar::Wide(&values[row], *scale),
            // A key may be valid and the value behind it null.
            Values::Dictionary(keys, values) => values.value(keys[row]),
        }
    }
}

#[inline]
fn microseconds(value: i64, unit: TimeUnit, scalar: impl Fn(i64) -> Scalar<'static>) -> Scalar<'static> {
    let exact = match unit {
        TimeUnit::Second => value.checked_mul(1_000_000),
        TimeUnit::Millisecond => value.checked_mul(1000),
        TimeUnit::Microsecond => Some(value),
        TimeUnit::Nanosecond if value % 1000 != 0 => return Scalar::TooFine,
        TimeUnit::Nanosecond => Some(value / 1000),
    };
    exact.map_or(Scalar::TooFar, scalar)
}

#[cfg(test)]
mod tests {
    use arrow_array::{Int32Array, TimestampNanosecondArray, TimestampSecondArray};

    use super::*;

    #[test]
    fn units_become_microseconds_exactly_or_not_at_all() {
        let nanoseconds = TimestampNanosecondArray::from(vec![Some(1000), Some(1001), None, Some(-1000)]);
        let column = Column::new(&nanoseconds).unwrap();
        let values: Vec<_> = (0..4).map(|row| column.value(row)).collect();
        assert_eq!(values, [Scalar::Timestamp(1), Scalar::TooFine, Scalar::Null, Scalar::Timestamp(-1)]);
        let seconds = TimestampSecondArray::from(vec![1, i64::MAX]);
        let column = Column::new(&seconds).unwrap();
        assert_eq!((column.value(0), column.value(1)), (Scalar::Timestamp(1_000_000), Scalar::TooFar));
    }

    #[test]
    fn dictionaries_are_looked_up() {
        let values = StringArray::from(vec![Some("a"), None]);
        let keys = Int32Array::from(vec![Some(1), None, Some(0)]);
        let array = arrow_array::DictionaryArray::new(keys, std::sync::Arc::new(values));
        let column = Column::new(&array).unwrap();
        let values: Vec<_> = (0..3).map(|row| column.value(row)).collect();
        assert_eq!(values, [Scalar::Null, Scalar::Null, Scalar::Text("a")]);
    }
}
