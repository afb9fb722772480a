//! How the bounds of a column and a constant become comparable.

use std::cmp::Ordering;

use arrow_schema::{DataType, TimeUnit};
use etlrs_core::Value;
use parquet::basic::{ConvertedType, LogicalType, TimeUnit as ParquetUnit, Type as PhysicalType};
use parquet::schema::types::ColumnDescriptor;

/// The order of the values of a column, for types whose bounds mean the same to all writers and whose values are compared
/// by the engine as they are stored. Float16, INT96, intervals, decimals of more than 16 bytes and bytes without a meaning
/// are not among them, nor is a column that Arrow reads as something else than its Parquet type says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    Boolean,
    Integer { signed: bool },
    Decimal { scale: u32 },
    Float,
    Text,
    Date,
    Timestamp { nanoseconds: i128, zoned: bool },
}

/// A value that can be compared with others of its column: points in time in nanoseconds, decimals in units of the column.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Key<'a> {
    Number(i128),
    Float(f64),
    Text(&'a [u8]),
}

impl Key<'_> {
    pub(super) fn compare(&self, other: &Key<'_>) -> Option<Ordering> {
        match (self, other) {
            (Key::Number(left), Key::Number(right)) => Some(left.cmp(right)),
            (Key::Float(left), Key::Float(right)) => left.partial_cmp(right),
            (Key::Text(left), Key::Text(right)) => Some(left.cmp(right)),
            _ => None,
        }
    }
}

/// Integers up to here are exact as float64, so it does not matter in which type they are compared.
const EXACT_FLOAT: u64 = 1 << 53;

impl Order {
    /// The order of the column `leaf`, which is read as `data_type`.
    pub(super) fn of(leaf: &ColumnDescriptor, data_type: &DataType) -> Option<Self> {
        use PhysicalType as P;
        let data_type = match data_type {
            DataType::Dictionary(_, values) => values,
            other => other,
        };
        let (logical, converted) = (leaf.logical_type_ref(), leaf.converted_type());
        let plain = logical.is_none() && converted == ConvertedType::NONE;
        match (leaf.physical_type(), data_type) {
            (P::BOOLEAN, DataType::Boolean) if plain => Some(Self::Boolean),
            (P::FLOAT, DataType::Float32) | (P::DOUBLE, DataType::Float64) if plain => Some(Self::Float),
            (P::INT32, DataType::Date32) => {
                is(logical, converted, &LogicalType::Date, ConvertedType::DATE).then_some(Self::Date)
            }
            (P::BYTE_ARRAY, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View) => {
                is(logical, converted, &LogicalType::String, ConvertedType::UTF8).then_some(Self::Text)
            }
            (P::INT32 | P::INT64, integer) if integer.is_integer() => {
                let signed = match (logical, converted) {
                    (Some(LogicalType::Integer(integer)), _) => integer.is_signed,
                    (None, ConvertedType::NONE | ConvertedType::INT_8 | ConvertedType::INT_16) => true,
                    (None, ConvertedType::INT_32 | ConvertedType::INT_64) => true,
                    (None, ConvertedType::UINT_8 | ConvertedType::UINT_16) => false,
                    (None, ConvertedType::UINT_32 | ConvertedType::UINT_64) => false,
                    _ => return None,
                };
                (signed == integer.is_signed_integer()).then_some(Self::Integer { signed })
            }
            (P::INT64, DataType::Timestamp(unit, zone)) => {
                let stored = match (logical, converted) {
                    (Some(LogicalType::Timestamp(timestamp)), _) => timestamp.unit,
                    (None, ConvertedType::TIMESTAMP_MILLIS) => ParquetUnit::MILLIS,
                    (None, ConvertedType::TIMESTAMP_MICROS) => ParquetUnit::MICROS,
                    _ => return None,
                };
                let nanoseconds = match (stored, unit) {
                    (ParquetUnit::MILLIS, TimeUnit::Millisecond) => 1_000_000,
                    (ParquetUnit::MICROS, TimeUnit::Microsecond) => 1_000,
                    (ParquetUnit::NANOS, TimeUnit::Nanosecond) => 1,
                    _ => return None,
                };
                Some(Self::Timestamp { nanoseconds, zoned: zone.is_some() })
            }
            (
                P::INT32 | P::INT64 | P::BYTE_ARRAY | P::FIXED_LEN_BYTE_ARRAY,
                DataType::Decimal32(_, scale) | DataType::Decimal64(_, scale) | DataType::Decimal128(_, scale),
            ) => {
                let stored = match (logical, converted) {
                    (Some(LogicalType::Decimal(decimal)), _) => decimal.scale,
                    (None, ConvertedType::DECIMAL) => leaf.type_scale(),
                    _ => return None,
                };
                let scale = u32::try_from(stored).ok().filter(|stored| u32::try_from(*scale) == Ok(*stored))?;
                Some(Self::Decimal { scale })
            }
            _ => None,
        }
    }

    /// A bound as it is stored in statistics and indexes; `None` if it says nothing.
    pub(super) fn bound<'a>(&self, physical: PhysicalType, bytes: &'a [u8]) -> Option<Key<'a>> {
        let int = |signed: bool| match (physical, signed) {
            (PhysicalType::INT32, true) => Some(i32::from_le_bytes(bytes.try_into().ok()?).into()),
            (PhysicalType::INT32, false) => Some(u32::from_le_bytes(bytes.try_into().ok()?).into()),
            (PhysicalType::INT64, true) => Some(i64::from_le_bytes(bytes.try_into().ok()?).into()),
            (PhysicalType::INT64, false) => Some(u64::from_le_bytes(bytes.try_into().ok()?).into()),
            _ => None,
        };
        let number: Option<i128> = match self {
            Self::Boolean => match bytes {
                [bit @ (0 | 1)] => Some((*bit).into()),
                _ => None,
            },
            Self::Integer { signed } => int(*signed),
            Self::Date => int(true),
            Self::Decimal { .. } => int(true).or_else(|| big_endian(bytes)),
            Self::Timestamp { nanoseconds, .. } => {
                // The engine compares in microseconds at the least, and fails on a value that does not fit there.
                int(true).map(|value: i128| value * nanoseconds).filter(|value| i64::try_from(*value / 1000).is_ok())
            }
            Self::Float => {
                let value = match physical {
                    PhysicalType::FLOAT => f32::from_le_bytes(bytes.try_into().ok()?).into(),
                    _ => f64::from_le_bytes(bytes.try_into().ok()?),
                };
                // NaN as a bound comes from writers that did not know better.
                return (!f64::is_nan(value)).then_some(Key::Float(value));
            }
            Self::Text => return Some(Key::Text(bytes)),
        };
        number.map(Key::Number)
    }

    /// The constant of a test, if comparing it so is what the engine does.
    pub(super) fn constant<'a>(&self, value: &'a Value<'_>) -> Option<Key<'a>> {
        let number = match (self, value) {
            (Self::Boolean, Value::Boolean(value)) => (*value).into(),
            (Self::Integer { .. }, Value::Int(value)) => (*value).into(),
            (Self::Integer { .. }, Value::UInt(value)) => (*value).into(),
            (Self::Integer { .. }, Value::Decimal { value, scale: 0 }) => *value,
            (Self::Decimal { scale }, Value::Int(value)) => scaled((*value).into(), 0, *scale)?,
            (Self::Decimal { scale }, Value::UInt(value)) => scaled((*value).into(), 0, *scale)?,
            (Self::Decimal { scale: to }, Value::Decimal { value, scale }) => {
                scaled(*value, u32::try_from(*scale).ok()?, *to)?
            }
            (Self::Float, Value::Float(value)) => return (!value.is_nan()).then_some(Key::Float(*value)),
            (Self::Float, Value::Int(value)) => {
                return (value.unsigned_abs() <= EXACT_FLOAT).then_some(Key::Float(*value as f64));
            }
            (Self::Float, Value::Decimal { value, scale }) => {
                // As the literal was read: the float that is nearest to its digits.
                return format!("{value}e-{scale}").parse().ok().map(Key::Float);
            }
            (Self::Text, Value::Text(text)) => return Some(Key::Text(text.as_bytes())),
            (Self::Date, Value::Date(days)) => (*days).into(),
            (Self::Timestamp { nanoseconds, .. }, Value::Timestamp(microseconds)) => {
                let value = i128::from(*microseconds) * 1000;
                // Compared in the finer unit, in which the constant may not fit.
                i64::try_from(value / (*nanoseconds).min(1000)).ok()?;
                value
            }
            (Self::Timestamp { nanoseconds, zoned: false }, Value::Date(days)) => {
                let value = i128::from(*days) * 86_400_000_000_000;
                i64::try_from(value / *nanoseconds).ok()?;
                value
            }
            _ => return None,
        };
        Some(Key::Number(number))
    }

    /// The bytes of a constant as a page would hold them, which is what Bloom filters hash. Not for floats, of which equal
    /// ones have several.
    pub(super) fn stored(&self, physical: PhysicalType, key: &Key<'_>) -> Option<Vec<u8>> {
        let number = match (self, key) {
            (Self::Text, Key::Text(bytes)) => return Some(bytes.to_vec()),
            (Self::Timestamp { nanoseconds, .. }, Key::Number(value)) if value % nanoseconds == 0 => {
                value / nanoseconds
            }
            (Self::Integer { .. } | Self::Date | Self::Decimal { .. }, Key::Number(value)) => *value,
            _ => return None,
        };
        let signed = !matches!(self, Self::Integer { signed: false });
        match (physical, signed) {
            (PhysicalType::INT32, true) => Some(i32::try_from(number).ok()?.to_le_bytes().to_vec()),
            (PhysicalType::INT32, false) => Some(u32::try_from(number).ok()?.to_le_bytes().to_vec()),
            (PhysicalType::INT64, true) => Some(i64::try_from(number).ok()?.to_le_bytes().to_vec()),
            (PhysicalType::INT64, false) => Some(u64::try_from(number).ok()?.to_le_bytes().to_vec()),
            _ => None,
        }
    }
}

fn is(logical: Option<&LogicalType>, converted: ConvertedType, wanted: &LogicalType, old: ConvertedType) -> bool {
    logical.map_or(converted == old, |logical| logical == wanted)
}

/// Two's complement, the most significant byte first.
fn big_endian(bytes: &[u8]) -> Option<i128> {
    let first = *bytes.first()?;
    if bytes.len() > 16 {
        return None;
    }
    let start = if first & 0x80 == 0 { 0 } else { -1 };
    Some(bytes.iter().fold(start, |value: i128, byte| value << 8 | i128::from(*byte)))
}

/// `value / 10^from` in units of `10^-to`, if that is exact.
fn scaled(mut value: i128, mut from: u32, to: u32) -> Option<i128> {
    while from > to {
        if value % 10 != 0 {
            return None;
        }
        (value, from) = (value / 10, from - 1);
    }
    value.checked_mul(10_i128.checked_pow(to - from)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decimals_are_brought_to_one_scale() {
        assert_eq!(scaled(15, 1, 2), Some(150));
        assert_eq!(scaled(-1500, 3, 1), Some(-15));
        assert_eq!(scaled(155, 2, 1), None);
        assert_eq!(scaled(1, 0, 39), None);
        assert_eq!(big_endian(&[0xff, 0x01]), Some(-255));
        assert_eq!(big_endian(&[0x00, 0xff]), Some(255));
        assert_eq!(big_endian(&[]), None);
        assert_eq!(big_endian(&[0; 17]), None);
    }

    #[test]
    fn constants_that_the_engine_would_compare_otherwise_are_left_out() {
        let timestamp = |nanoseconds, zoned| Order::Timestamp { nanoseconds, zoned };
        for (order, value) in [
            (Order::Integer { signed: true }, Value::Decimal { value: 15, scale: 1 }),
            (Order::Integer { signed: true }, Value::Float(1.0)),
            (Order::Decimal { scale: 1 }, Value::Float(0.5)),
            (Order::Decimal { scale: 1 }, Value::Decimal { value: 155, scale: 2 }),
            (Order::Float, Value::Int((1 << 53) + 1)),
            (Order::Float, Value::Float(f64::NAN)),
            (Order::Text, Value::Int(1)),
            (Order::Date, Value::Timestamp(0)),
            (timestamp(1, false), Value::Timestamp(i64::MAX)),
            (timestamp(1000, true), Value::Date(1)),
        ] {
            assert_eq!(order.constant(&value), None, "{order:?} {value:?}");
        }
        assert_eq!(Order::Float.constant(&Value::Decimal { value: 1, scale: 1 }), Some(Key::Float(0.1)));
        assert_eq!(timestamp(1, false).constant(&Value::Date(1)), Some(Key::Number(86_400_000_000_000)));
    }
}
