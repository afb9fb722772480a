//! Arrow columns as JSON values, without an allocation per value.

use std::collections::HashSet;
use std::ops::Range;

use arrow_array::cast::AsArray;
use arrow_array::types::*;
use arrow_array::{Array, BooleanArray, MapArray, PrimitiveArray, StringViewArray};
use arrow_buffer::{ArrowNativeType, NullBuffer, OffsetBuffer, ScalarBuffer, i256};
use arrow_schema::{DataType, Field, TimeUnit};
use etlrs_files::text::Output;
use etlrs_files::text::number::{self, Ticks};

use super::{Rules, Unfit};
use crate::options::NonFinite;
use crate::syntax::{self, Fault};
use etlrs_core::is_json_text;

/// The name of a column with what goes around it, and those of its parts.
#[derive(Debug)]
pub(super) struct Key {
    /// `"name":`, with room behind it, so that it is copied in one move.
    padded: Vec<u8>,
    length: usize,
    parts: Vec<Key>,
    json: bool,
    /// Objects and lists around the values.
    depth: usize,
}

/// A name as it is written.
pub(crate) fn quoted(name: &str) -> Vec<u8> {
    let mut out = Output::default();
    string(&mut out, name.as_bytes());
    out.as_bytes().to_vec()
}

impl Key {
    pub(super) fn new(field: &Field, depth: usize) -> Self {
        let mut padded = quoted(field.name());
        padded.push(b':');
        let length = padded.len();
        padded.resize(length + 64, 0);
        let parts = match field.data_type() {
            DataType::Struct(fields) => fields.iter().map(|field| Self::new(field, depth + 1)).collect(),
            DataType::List(item) | DataType::LargeList(item) | DataType::FixedSizeList(item, _) => {
                vec![Self::new(item, depth + 1)]
            }
            DataType::Map(entries, _) => match entries.data_type() {
                DataType::Struct(fields) => fields.iter().map(|field| Self::new(field, depth + 1)).collect(),
                _ => Vec::new(),
            },
            _ => Vec::new(),
        };
        Self { padded, length, parts, json: is_json_text(field), depth }
    }
}

/// Appends `close` in the place of the comma behind the last of several values, or if there is none behind `open`.
#[inline(always)]
pub(super) fn close(out: &mut Output, open: u8, close: u8) {
    match out.as_bytes().last() {
        Some(&last) if last != open => out.replace_last(close),
        _ => out.push(close),
    }
}

/// The values of a column of a batch.
pub(super) struct Column<'a> {
    key: &'a Key,
    rules: &'a Rules,
    nulls: Option<&'a NullBuffer>,
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
    TextView(&'a StringViewArray),
    /// Text that is JSON.
    Json(&'a dyn Array, fn(&dyn Array, usize) -> &[u8]),
    Binary(&'a dyn Array, fn(&dyn Array, usize) -> &[u8]),
    Dictionary(Vec<usize>, Box<Column<'a>>),
    Struct(Vec<Column<'a>>),
    List(Bounds<'a>, Box<Column<'a>>),
    Map(&'a MapArray, Box<Column<'a>>, Box<Column<'a>>),
}

/// Where in the items the lists of a column are.
enum Bounds<'a> {
    Offsets(&'a OffsetBuffer<i32>),
    LargeOffsets(&'a OffsetBuffer<i64>),
    Fixed(usize),
}

impl Bounds<'_> {
    fn of(&self, row: usize) -> Range<usize> {
        match self {
            Self::Offsets(offsets) => offsets[row].as_usize()..offsets[row + 1].as_usize(),
            Self::LargeOffsets(offsets) => offsets[row].as_usize()..offsets[row + 1].as_usize(),
            Self::Fixed(length) => row * length..(row + 1) * length,
        }
    }

    /// Of several rows.
    fn all(&self, rows: Option<Range<usize>>) -> Option<Range<usize>> {
        rows.map(|rows| match rows.is_empty() {
            true => 0..0,
            false => self.of(rows.start).start..self.of(rows.end - 1).end,
        })
    }
}

/// Whether a key of a map is there twice.
fn has_twice(keys: &dyn Array, entries: Range<usize>) -> bool {
    let key = |entry: usize| match keys.data_type() {
        DataType::LargeUtf8 => keys.as_string::<i64>().value(entry),
        DataType::Utf8View => keys.as_string_view().value(entry),
        _ => keys.as_string::<i32>().value(entry),
    };
    const FEW: usize = 8;
    if entries.len() > FEW {
        let mut seen = HashSet::with_capacity(entries.len());
        return entries.into_iter().any(|entry| !seen.insert(key(entry)));
    }
    entries.clone().any(|entry| (entries.start..entry).any(|before| key(before) == key(entry)))
}

/// Text whose values are one after another in a buffer, so that what has to be escaped can be looked for in all at once.
struct Text<'a, O: arrow_array::OffsetSizeTrait> {
    offsets: &'a OffsetBuffer<O>,
    values: &'a [u8],
    plain: bool,
}

impl<'a, O: arrow_array::OffsetSizeTrait> Text<'a, O> {
    fn new(offsets: &'a OffsetBuffer<O>, values: &'a [u8], rows: Option<Range<usize>>) -> Self {
        let place = |row: usize| offsets.get(row).map_or(0, |offset| offset.as_usize());
        let text = rows.and_then(|rows| values.get(place(rows.start)..place(rows.end)));
        let plain = text.is_some_and(|text| !text.chunks(1 << 10).any(has_special));
        Self { offsets, values, plain }
    }

    #[inline(always)]
    fn append(&self, out: &mut Output, row: usize) {
        let (start, end) = (self.offsets[row].as_usize(), self.offsets[row + 1].as_usize());
        if self.plain || !has_special(&self.values[start..end]) {
            out.push(b'"');
            out.extend_from(self.values, start, end);
            out.push(b'"');
        } else {
            escaped(out, &self.values[start..end]);
        }
    }
}

/// Whether something in `text` has to be escaped. Without an early end this is done in vectors.
#[inline]
fn has_special(text: &[u8]) -> bool {
    text.iter().fold(false, |found, &byte| found | (byte < 0x20) | (byte == b'"') | (byte == b'\\'))
}

fn string(out: &mut Output, text: &[u8]) {
    if has_special(text) {
        return escaped(out, text);
    }
    out.push(b'"');
    out.extend(text);
    out.push(b'"');
}

#[inline(never)]
fn escaped(out: &mut Output, text: &[u8]) {
    out.push(b'"');
    let mut start = 0;
    for (at, &byte) in text.iter().enumerate() {
        let letter = match byte {
            b'"' | b'\\' => byte,
            b'\n' => b'n',
            b'\r' => b'r',
            b'\t' => b't',
            8 => b'b',
            12 => b'f',
            0..0x20 => b'u',
            _ => continue,
        };
        out.extend(&text[start..at]);
        out.push(b'\\');
        out.push(letter);
        if letter == b'u' {
            const DIGITS: &[u8; 16] = b"0123456789abcdef";
            out.extend(&[b'0', b'0', DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]);
        }
        start = at + 1;
    }
    out.extend(&text[start..]);
    out.push(b'"');
}

impl<'a> Column<'a> {
    /// Of `rows`, which are those that will be asked for; `None`: any, and too few for a look at all of them to pay.
    /// `None` for a type that was refused when the load was planned.
    pub(super) fn new(
        array: &'a dyn Array,
        rows: Option<Range<usize>>,
        key: &'a Key,
        rules: &'a Rules,
    ) -> Option<Self> {
        let part = |array: &'a dyn Array, rows: Option<Range<usize>>, index: usize| {
            Self::new(array, rows, key.parts.get(index)?, rules)
        };
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
                let values = match unit {
                    TimeUnit::Second => array.as_primitive::<Time32SecondType>().values(),
                    _ => array.as_primitive::<Time32MillisecondType>().values(),
                };
                Values::Time32(values, Ticks::of(unit))
            }
            &DataType::Time64(unit) => {
                let values = match unit {
                    TimeUnit::Nanosecond => array.as_primitive::<Time64NanosecondType>().values(),
                    _ => array.as_primitive::<Time64MicrosecondType>().values(),
                };
                Values::Time64(values, Ticks::of(unit))
            }
            DataType::Timestamp(unit, zone) => {
                let values = match unit {
                    TimeUnit::Second => array.as_primitive::<TimestampSecondType>().values(),
                    TimeUnit::Millisecond => array.as_primitive::<TimestampMillisecondType>().values(),
                    TimeUnit::Microsecond => array.as_primitive::<TimestampMicrosecondType>().values(),
                    TimeUnit::Nanosecond => array.as_primitive::<TimestampNanosecondType>().values(),
                };
                Values::Timestamp { values, ticks: Ticks::of(*unit), instant: zone.is_some() }
            }
            DataType::Utf8 if key.json => {
                Values::Json(array, |array, row| array.as_string::<i32>().value(row).as_bytes())
            }
            DataType::LargeUtf8 if key.json => {
                Values::Json(array, |array, row| array.as_string::<i64>().value(row).as_bytes())
            }
            DataType::Utf8View if key.json => {
                Values::Json(array, |array, row| array.as_string_view().value(row).as_bytes())
            }
            DataType::Utf8 => {
                let array = array.as_string::<i32>();
                Values::Text(Text::new(array.offsets(), array.values(), rows))
            }
            DataType::LargeUtf8 => {
                let array = array.as_string::<i64>();
                Values::LargeText(Text::new(array.offsets(), array.values(), rows))
            }
            DataType::Utf8View => Values::TextView(array.as_string_view()),
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
                let values = dictionary.values().as_ref();
                let all = (values.len() <= keys.len()).then_some(0..values.len());
                Values::Dictionary(keys, Box::new(Self::new(values, all, key, rules)?))
            }
            DataType::Struct(_) => {
                let columns = array.as_struct().columns().iter().enumerate();
                let columns = columns.map(|(index, column)| part(column.as_ref(), rows.clone(), index));
                Values::Struct(columns.collect::<Option<_>>()?)
            }
            DataType::List(_) => {
                let list = array.as_list::<i32>();
                let bounds = Bounds::Offsets(list.offsets());
                let items = part(list.values().as_ref(), bounds.all(rows), 0)?;
                Values::List(bounds, Box::new(items))
            }
            DataType::LargeList(_) => {
                let list = array.as_list::<i64>();
                let bounds = Bounds::LargeOffsets(list.offsets());
                let items = part(list.values().as_ref(), bounds.all(rows), 0)?;
                Values::List(bounds, Box::new(items))
            }
            DataType::FixedSizeList(..) => {
                let list = array.as_fixed_size_list();
                let length = usize::try_from(list.value_length()).ok()?;
                let bounds = Bounds::Fixed(length);
                let items = part(list.values().as_ref(), bounds.all(rows), 0)?;
                Values::List(bounds, Box::new(items))
            }
            DataType::Map(..) => {
                let map = array.as_map();
                let entries = Bounds::Offsets(map.offsets()).all(rows);
                let keys = part(map.keys().as_ref(), entries.clone(), 0)?;
                let values = part(map.values().as_ref(), entries, 1)?;
                Values::Map(map, Box::new(keys), Box::new(values))
            }
            _ => return None,
        };
        let nulls = array.nulls().filter(|nulls| nulls.null_count() > 0);
        Some(Self { key, rules, nulls, values })
    }

    #[inline(always)]
    fn is_null(&self, row: usize) -> bool {
        self.nulls.is_some_and(|nulls| nulls.is_null(row))
    }

    /// Appends the member of `row`, and a comma. `fine` is set where reading cannot give the value back, for it has digits
    /// beyond the microsecond.
    #[inline(always)]
    pub(super) fn append_member(&self, out: &mut Output, row: usize, fine: &mut bool) -> Result<(), Unfit> {
        if self.rules.omit_nulls && (self.is_null(row) || self.is_null_key(row)) {
            return Ok(());
        }
        out.extend_from(&self.key.padded, 0, self.key.length);
        self.append(out, row, fine)?;
        out.push(b',');
        Ok(())
    }

    /// Whether the value is null though it is not marked as null.
    fn is_null_key(&self, row: usize) -> bool {
        match &self.values {
            Values::Nulls => true,
            Values::Dictionary(keys, values) => keys.get(row).is_none_or(|&key| values.is_null(key)),
            _ => false,
        }
    }

    /// Appends the value of `row`.
    #[inline(always)]
    fn append(&self, out: &mut Output, row: usize, fine: &mut bool) -> Result<(), Unfit> {
        if self.is_null(row) {
            out.extend(b"null");
            return Ok(());
        }
        match &self.values {
            Values::Text(text) => text.append(out, row),
            Values::Int64(values) => out.slot(|slot| number::integer(slot, values[row])),
            Values::Int32(values) => out.slot(|slot| number::integer(slot, values[row].into())),
            Values::Float64(values) if values[row].is_finite() => number::float(out, values[row]),
            Values::Date(values) => in_quotes(out, Unfit::Year, |slot| number::date(slot, values[row].into()))?,
            _ => return self.append_other(out, row, fine),
        }
        Ok(())
    }

    #[inline(never)]
    fn append_other(&self, out: &mut Output, row: usize, fine: &mut bool) -> Result<(), Unfit> {
        match &self.values {
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
            Values::Float64(values) => self.float(out, values[row].into())?,
            Values::Float32(values) => self.float(out, values[row].into())?,
            Values::Float16(values) => self.float(out, f32::from(values.value(row)).into())?,
            Values::Timestamp { values, ticks, instant } => {
                *fine |= ticks.is_beyond_micros(values[row]);
                in_quotes(out, Unfit::Year, |slot| {
                    let length = number::timestamp(slot, values[row], *ticks, *instant)?;
                    // Where others have a space.
                    slot[10] = b'T';
                    Some(length)
                })?;
            }
            Values::Time32(values, ticks) => {
                in_quotes(out, Unfit::Time, |slot| number::time(slot, 0, values[row].into(), *ticks))?;
            }
            Values::Time64(values, ticks) => {
                *fine |= ticks.is_beyond_micros(values[row]);
                in_quotes(out, Unfit::Time, |slot| number::time(slot, 0, values[row], *ticks))?;
            }
            Values::Boolean(values) => out.extend(if values.value(row) { b"true" } else { b"false" }),
            Values::TextView(values) => string(out, values.value(row).as_bytes()),
            Values::LargeText(text) => text.append(out, row),
            Values::Json(array, value) => json(out, value(*array, row), self.key.depth)?,
            Values::Binary(array, value) => {
                out.push(b'"');
                for byte in value(*array, row) {
                    const DIGITS: &[u8; 16] = b"0123456789abcdef";
                    out.push(DIGITS[usize::from(byte >> 4)]);
                    out.push(DIGITS[usize::from(byte & 15)]);
                }
                out.push(b'"');
            }
            Values::Nulls => out.extend(b"null"),
            Values::Dictionary(keys, values) => match keys.get(row) {
                Some(&key) => return values.append_behind(out, key, fine),
                None => out.extend(b"null"),
            },
            Values::Struct(columns) => {
                out.push(b'{');
                for column in columns {
                    column.append_part(out, row, fine)?;
                }
                close(out, b'{', b'}');
            }
            Values::List(bounds, items) => {
                out.push(b'[');
                for item in bounds.of(row) {
                    items.append_behind(out, item, fine)?;
                    out.push(b',');
                }
                close(out, b'[', b']');
            }
            Values::Map(map, keys, values) => {
                out.push(b'{');
                let entries = Bounds::Offsets(map.offsets()).of(row);
                if has_twice(map.keys().as_ref(), entries.clone()) {
                    return Err(Unfit::KeyTwice);
                }
                for entry in entries {
                    if keys.is_null(entry) {
                        return Err(Unfit::NullKey);
                    }
                    keys.append_behind(out, entry, fine)?;
                    out.push(b':');
                    values.append_behind(out, entry, fine)?;
                    out.push(b',');
                }
                close(out, b'{', b'}');
            }
            Values::Text(_) | Values::Int64(_) | Values::Int32(_) | Values::Date(_) => {}
        }
        Ok(())
    }

    // Not inlined into themselves.
    #[inline(never)]
    fn append_behind(&self, out: &mut Output, row: usize, fine: &mut bool) -> Result<(), Unfit> {
        self.append(out, row, fine)
    }

    #[inline(never)]
    fn append_part(&self, out: &mut Output, row: usize, fine: &mut bool) -> Result<(), Unfit> {
        self.append_member(out, row, fine)
    }

    fn float(&self, out: &mut Output, value: Float) -> Result<(), Unfit> {
        match (value, self.rules.non_finite) {
            (Float::Double(value), _) if value.is_finite() => number::float(out, value),
            (Float::Single(value), _) if value.is_finite() => number::long_float(out, value),
            (_, NonFinite::Fail) => return Err(Unfit::NonFinite),
            (_, NonFinite::Null) => out.extend(b"null"),
            (value, NonFinite::Text) => {
                out.push(b'"');
                match value {
                    Float::Double(value) => number::float(out, value),
                    Float::Single(value) => number::long_float(out, value),
                }
                out.push(b'"');
            }
        }
        Ok(())
    }
}

#[derive(Clone, Copy)]
enum Float {
    Single(f32),
    Double(f64),
}

impl From<f32> for Float {
    fn from(value: f32) -> Self {
        Self::Single(value)
    }
}

impl From<f64> for Float {
    fn from(value: f64) -> Self {
        Self::Double(value)
    }
}

/// Appends between quotes what `write` puts into a slot; it gives the length, or nothing if the value is unfit.
#[inline(always)]
fn in_quotes(
    out: &mut Output,
    unfit: Unfit,
    write: impl FnOnce(&mut [u8; etlrs_files::text::SLOT]) -> Option<usize>,
) -> Result<(), Unfit> {
    out.push(b'"');
    let mut written = true;
    out.slot(|slot| {
        write(slot).unwrap_or_else(|| {
            written = false;
            0
        })
    });
    out.push(b'"');
    if written { Ok(()) } else { Err(unfit) }
}

/// Appends text that is JSON, without the white space between its parts, for a record may have to be a line.
fn json(out: &mut Output, text: &[u8], depth: usize) -> Result<(), Unfit> {
    let start = syntax::space(text, 0);
    match syntax::value(text, start, depth) {
        Ok(end) if syntax::space(text, end) == text.len() => {}
        Err(Fault::Wrong(_, syntax::DEEP)) => return Err(Unfit::DeepJson),
        _ => return Err(Unfit::Json),
    }
    let mut at = start;
    while let Some(&byte) = text.get(at) {
        match byte {
            b'"' => {
                let (_, end) = syntax::string(text, at).map_err(|_| Unfit::Json)?;
                out.extend(&text[at..end]);
                at = end;
            }
            b' ' | b'\t' | b'\n' | b'\r' => at += 1,
            _ => {
                out.push(byte);
                at += 1;
            }
        }
    }
    Ok(())
}
