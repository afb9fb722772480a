//! Arrow columns as fields, without an allocation per value.

use arrow_array::cast::AsArray;
use arrow_array::types::*;
use arrow_array::{Array, BooleanArray, OffsetSizeTrait, PrimitiveArray, StringViewArray};
use arrow_buffer::{NullBuffer, OffsetBuffer, ScalarBuffer, i256};
use arrow_schema::{DataType, TimeUnit};
use memchr::memchr;

use super::Unfit;
use super::quote::Dialect;
use etlrs_files::text::Output;
use etlrs_files::text::number::{self, Ticks};

/// The values of a column of a batch.
pub(super) struct Column<'a> {
    nulls: Option<&'a NullBuffer>,
    /// What goes around each value; text has quotes of its own.
    around: Option<u8>,
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
    Decimal32(&'a [i32], i8),
    Decimal64(&'a [i64], i8),
    Decimal128(&'a [i128], i8),
    Decimal256(&'a ScalarBuffer<i256>, i8),
    Date(&'a [i32]),
    Time32(&'a [i32], Ticks),
    Time64(&'a [i64], Ticks),
    Timestamp {
        values: &'a [i64],
        ticks: Ticks,
        instant: bool,
    },
    Text(Text<'a, i32>),
    LargeText(Text<'a, i64>),
    /// Text whose values are looked at one by one.
    TextView(&'a StringViewArray, bool),
    Binary(&'a dyn Array, fn(&dyn Array, usize) -> &[u8]),
    Dictionary(Vec<usize>, Box<Column<'a>>),
}

/// Text whose values are one after another in a buffer, so that what needs quotes can be looked for in all at once.
struct Text<'a, O: OffsetSizeTrait> {
    offsets: &'a OffsetBuffer<O>,
    values: &'a [u8],
    /// Place of the first special byte at or after the value before which one was looked for last.
    special: usize,
    /// Each value is looked at by itself: all are quoted, or the rules are more than special bytes.
    one_by_one: bool,
    first: bool,
}

impl<'a, O: OffsetSizeTrait> Text<'a, O> {
    fn new(offsets: &'a OffsetBuffer<O>, values: &'a [u8], dialect: &Dialect, first: bool, in_order: bool) -> Self {
        let start = offsets.first().map_or(0, |offset| offset.as_usize());
        let end = offsets.last().map_or(0, |offset| offset.as_usize());
        let used = values.get(start..end).unwrap_or_default();
        let one_by_one = !in_order
            || first
            || dialect.formula_guard
            || dialect.around_text().is_some()
            || memchr(b'\r', used).is_some();
        let mut text = Self { offsets, values, special: usize::MAX, one_by_one, first };
        if !one_by_one {
            text.look_on(start, dialect);
        }
        text
    }

    #[inline(always)]
    fn append(&mut self, out: &mut Output, row: usize, dialect: &Dialect) -> Result<(), Unfit> {
        let (start, end) = (self.offsets[row].as_usize(), self.offsets[row + 1].as_usize());
        if self.one_by_one {
            return dialect.append_text(out, &self.values[start..end], self.first);
        }
        // Values come in the order of the buffer, so the bytes up to `special` have been looked at.
        if self.special < start {
            self.look_on(start, dialect);
        }
        let text = &self.values[start..end];
        if self.special < end || dialect.is_null(text) {
            return dialect.append_quoted(out, text);
        }
        out.extend_from(self.values, start, end);
        Ok(())
    }

    fn look_on(&mut self, start: usize, dialect: &Dialect) {
        let rest = self.values.get(start..).unwrap_or_default();
        self.special = dialect.find_special(rest).map_or(usize::MAX, |at| start + at);
    }
}

impl<'a> Column<'a> {
    /// `first`: its first value may be the first field of a file. `None` for a type that was refused when the load was
    /// planned.
    pub(super) fn new(array: &'a dyn Array, dialect: &Dialect, first: bool) -> Option<Self> {
        Self::of(array, dialect, first, true)
    }

    fn of(array: &'a dyn Array, dialect: &Dialect, first: bool, in_order: bool) -> Option<Self> {
        let mut temporal = false;
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
            &DataType::Decimal32(_, scale) => Values::Decimal32(array.as_primitive::<Decimal32Type>().values(), scale),
            &DataType::Decimal64(_, scale) => Values::Decimal64(array.as_primitive::<Decimal64Type>().values(), scale),
            &DataType::Decimal128(_, scale) => {
                Values::Decimal128(array.as_primitive::<Decimal128Type>().values(), scale)
            }
            &DataType::Decimal256(_, scale) => {
                Values::Decimal256(array.as_primitive::<Decimal256Type>().values(), scale)
            }
            DataType::Date32 => Values::Date(array.as_primitive::<Date32Type>().values()),
            &DataType::Time32(unit) => {
                temporal = true;
                let values = match unit {
                    TimeUnit::Second => array.as_primitive::<Time32SecondType>().values(),
                    _ => array.as_primitive::<Time32MillisecondType>().values(),
                };
                Values::Time32(values, Ticks::of(unit))
            }
            &DataType::Time64(unit) => {
                temporal = true;
                let values = match unit {
                    TimeUnit::Nanosecond => array.as_primitive::<Time64NanosecondType>().values(),
                    _ => array.as_primitive::<Time64MicrosecondType>().values(),
                };
                Values::Time64(values, Ticks::of(unit))
            }
            DataType::Timestamp(unit, zone) => {
                temporal = true;
                let values = match unit {
                    TimeUnit::Second => array.as_primitive::<TimestampSecondType>().values(),
                    TimeUnit::Millisecond => array.as_primitive::<TimestampMillisecondType>().values(),
                    TimeUnit::Microsecond => array.as_primitive::<TimestampMicrosecondType>().values(),
                    TimeUnit::Nanosecond => array.as_primitive::<TimestampNanosecondType>().values(),
                };
                Values::Timestamp { values, ticks: Ticks::of(*unit), instant: zone.is_some() }
            }
            DataType::Utf8 => {
                let array = array.as_string::<i32>();
                Values::Text(Text::new(array.offsets(), array.values(), dialect, first, in_order))
            }
            DataType::LargeUtf8 => {
                let array = array.as_string::<i64>();
                Values::LargeText(Text::new(array.offsets(), array.values(), dialect, first, in_order))
            }
            DataType::Utf8View => Values::TextView(array.as_string_view(), first),
            DataType::Binary => Values::Binary(array, |array, row| array.as_binary::<i32>().value(row)),
            DataType::LargeBinary => Values::Binary(array, |array, row| array.as_binary::<i64>().value(row)),
            DataType::BinaryView => Values::Binary(array, |array, row| array.as_binary_view().value(row)),
            DataType::FixedSizeBinary(_) => Values::Binary(array, |array, row| array.as_fixed_size_binary().value(row)),
            DataType::Dictionary(..) => {
                let dictionary = array.as_any_dictionary();
                // Without values all keys are null, and Arrow has nothing to normalise them to.
                let keys = match dictionary.values().is_empty() {
                    true => Vec::new(),
                    false => dictionary.normalized_keys(),
                };
                let values = Self::of(dictionary.values().as_ref(), dialect, first, false)?;
                return Some(Self {
                    nulls: array.nulls(),
                    around: None,
                    values: Values::Dictionary(keys, Box::new(values)),
                });
            }
            _ => return None,
        };
        let around = match values {
            Values::Nulls | Values::Text(_) | Values::LargeText(_) | Values::TextView(..) => None,
            _ => dialect.around_others(temporal),
        };
        let nulls = array.nulls().filter(|nulls| nulls.null_count() > 0);
        Some(Self { nulls, around, values })
    }

    /// Appends the value of `row`; rows come in their order. `fine` is set where reading cannot give the value back, for
    /// it has digits beyond the microsecond.
    #[inline(always)]
    pub(super) fn append(
        &mut self,
        out: &mut Output,
        row: usize,
        dialect: &Dialect,
        fine: &mut bool,
    ) -> Result<(), Unfit> {
        if self.nulls.is_some_and(|nulls| nulls.is_null(row)) {
            out.extend(&dialect.null);
            return Ok(());
        }
        if let Some(quote) = self.around {
            return self.append_within(out, row, dialect, fine, quote);
        }
        self.append_value(out, row, dialect, fine)
    }

    #[inline(never)]
    fn append_within(
        &mut self,
        out: &mut Output,
        row: usize,
        dialect: &Dialect,
        fine: &mut bool,
        quote: u8,
    ) -> Result<(), Unfit> {
        if let Values::Binary(array, value) = &self.values
            && value(*array, row).is_empty()
        {
            return dialect.append_quoted(out, b"");
        }
        out.push(quote);
        self.append_value(out, row, dialect, fine)?;
        out.push(quote);
        Ok(())
    }

    #[inline(always)]
    fn append_value(&mut self, out: &mut Output, row: usize, dialect: &Dialect, fine: &mut bool) -> Result<(), Unfit> {
        let mut unfit = None;
        let mut checked = |length: Option<usize>, reason| {
            length.unwrap_or_else(|| {
                unfit = Some(reason);
                0
            })
        };
        match &mut self.values {
            Values::Text(text) => return text.append(out, row, dialect),
            Values::Int64(values) => out.slot(|slot| number::integer(slot, values[row])),
            Values::Int32(values) => out.slot(|slot| number::integer(slot, values[row].into())),
            Values::Int16(values) => out.slot(|slot| number::integer(slot, values[row].into())),
            Values::Int8(values) => out.slot(|slot| number::integer(slot, values[row].into())),
            Values::UInt8(values) => out.slot(|slot| number::unsigned(slot, values[row].into())),
            Values::UInt16(values) => out.slot(|slot| number::unsigned(slot, values[row].into())),
            Values::UInt32(values) => out.slot(|slot| number::unsigned(slot, values[row].into())),
            Values::UInt64(values) => out.slot(|slot| number::unsigned(slot, values[row])),
            Values::Decimal128(values, scale) => number::decimal(out, values[row], *scale),
            Values::Decimal64(values, scale) => number::decimal(out, values[row].into(), *scale),
            Values::Decimal32(values, scale) => number::decimal(out, values[row].into(), *scale),
            Values::Decimal256(values, scale) => number::wide_decimal(out, values[row], *scale),
            Values::Float64(values) => number::float(out, values[row]),
            Values::Float32(values) => number::long_float(out, values[row]),
            Values::Float16(values) => number::long_float(out, f32::from(values.value(row))),
            Values::Date(values) => {
                out.slot(|slot| checked(number::date(slot, values[row].into()), Unfit::Year));
            }
            Values::Timestamp { values, ticks, instant } => {
                *fine |= ticks.is_beyond_micros(values[row]);
                out.slot(|slot| checked(number::timestamp(slot, values[row], *ticks, *instant), Unfit::Year));
            }
            Values::Time32(values, ticks) => {
                out.slot(|slot| checked(number::time(slot, 0, values[row].into(), *ticks), Unfit::Time));
            }
            Values::Time64(values, ticks) => {
                *fine |= ticks.is_beyond_micros(values[row]);
                out.slot(|slot| checked(number::time(slot, 0, values[row], *ticks), Unfit::Time));
            }
            Values::Boolean(values) => out.extend(if values.value(row) { b"true" } else { b"false" }),
            Values::TextView(values, first) => return dialect.append_text(out, values.value(row).as_bytes(), *first),
            Values::LargeText(text) => return text.append(out, row, dialect),
            Values::Binary(array, value) => {
                let value = value(*array, row);
                if value.is_empty() {
                    return dialect.append_quoted(out, b"");
                }
                for byte in value {
                    const DIGITS: &[u8; 16] = b"0123456789abcdef";
                    out.push(DIGITS[usize::from(byte >> 4)]);
                    out.push(DIGITS[usize::from(byte & 15)]);
                }
            }
            Values::Nulls => out.extend(&dialect.null),
            Values::Dictionary(keys, values) => {
                // Boxed, and so not inlined into itself.
                let key = keys.get(row).copied().unwrap_or(0);
                return values.append_behind_key(out, key, dialect, fine);
            }
        }
        unfit.map_or(Ok(()), Err)
    }

    #[inline(never)]
    fn append_behind_key(
        &mut self,
        out: &mut Output,
        row: usize,
        dialect: &Dialect,
        fine: &mut bool,
    ) -> Result<(), Unfit> {
        self.append(out, row, dialect, fine)
    }
}
