//! From the text of JSON values to Arrow columns, without a tree in between: each value is put into the column of its key as it
//! is found.

use std::collections::HashMap;
use std::sync::Arc;

use arrow_array::builder::{BooleanBufferBuilder, NullBufferBuilder};
use arrow_array::types::*;
use arrow_array::{
    ArrayRef, ArrowPrimitiveType, BooleanArray, ListArray, NullArray, PrimitiveArray, StringArray, StructArray,
};
use arrow_buffer::{Buffer, NullBuffer, OffsetBuffer, ScalarBuffer};
use arrow_schema::{ArrowError, DataType, FieldRef, Fields, TimeUnit};
use etlrs_core::{Error, ErrorKind, Result};
use etlrs_files::text::value;

use crate::infer::is_negative_zero;
use crate::syntax::{self, DEEPEST, Fault, Text};
use serde::{Deserialize, Serialize};

/// Who gives a column its type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum TypeBy {
    /// In the options.
    User,
    /// The first records. Only values of the kinds that were there are taken then.
    Sample,
    /// The column that it goes to.
    Target,
}

/// What text is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum TextOf {
    /// Strings alone.
    Strings,
    /// Strings, and numbers and truth values as they are written.
    Scalars,
    /// Strings, and everything else as it is written.
    Anything,
    /// JSON, with quotes around strings.
    Json,
}

/// Why a value does not go into its column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bad {
    Fault(Fault),
    /// The value at the place is none of the type of the column.
    Misfit(usize),
    /// The record at the place is no object.
    NoObject(usize),
    /// The key at the place belongs to no column.
    UnknownKey(usize),
    /// The key at the place was there before.
    Twice(usize),
}

impl From<Fault> for Bad {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

impl Bad {
    pub(crate) fn at(self) -> Option<usize> {
        match self {
            Self::Fault(fault) => fault.at(),
            Self::Misfit(at) | Self::NoObject(at) | Self::UnknownKey(at) | Self::Twice(at) => Some(at),
        }
    }
}

/// How a column is read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Reading {
    pub(crate) by: TypeBy,
    /// Of a column of text.
    pub(crate) text: TextOf,
    /// Keys that no column has are left out instead of refused.
    pub(crate) ignore_unknown: bool,
    /// How the members of a struct are read, or the items of a list.
    pub(crate) parts: Vec<Reading>,
}

impl Reading {
    /// The same for another choice about keys that are in no column.
    pub(crate) fn with_unknown(mut self, ignore_unknown: bool) -> Self {
        self.ignore_unknown = ignore_unknown;
        self.parts = self.parts.into_iter().map(|part| part.with_unknown(ignore_unknown)).collect();
        self
    }
}

/// A column in the making.
pub(crate) struct Column {
    by: TypeBy,
    text: TextOf,
    values: Values,
    nulls: NullBufferBuilder,
}

enum Values {
    Null,
    Boolean(BooleanBufferBuilder),
    Int8(Vec<i8>),
    Int16(Vec<i16>),
    Int32(Vec<i32>),
    Int64(Vec<i64>),
    UInt8(Vec<u8>),
    UInt16(Vec<u16>),
    UInt32(Vec<u32>),
    UInt64(Vec<u64>),
    Float32(Vec<f32>),
    Float64(Vec<f64>),
    Decimal(Vec<i128>, u8, i8),
    Date(Vec<i32>),
    Time(Vec<i64>),
    /// With its zone.
    Timestamp(Vec<i64>, Option<Arc<str>>),
    Text {
        ends: Vec<i32>,
        bytes: Vec<u8>,
    },
    Struct(Box<Members>, Fields),
    List {
        ends: Vec<i32>,
        item: Box<Column>,
        field: FieldRef,
    },
}

impl Column {
    /// # Errors
    /// `Unsupported` for a type that JSON is not read as.
    pub(crate) fn new(data_type: &DataType, reading: &Reading) -> Result<Self> {
        let values = match data_type {
            DataType::Null => Values::Null,
            DataType::Boolean => Values::Boolean(BooleanBufferBuilder::new(0)),
            DataType::Int8 => Values::Int8(Vec::new()),
            DataType::Int16 => Values::Int16(Vec::new()),
            DataType::Int32 => Values::Int32(Vec::new()),
            DataType::Int64 => Values::Int64(Vec::new()),
            DataType::UInt8 => Values::UInt8(Vec::new()),
            DataType::UInt16 => Values::UInt16(Vec::new()),
            DataType::UInt32 => Values::UInt32(Vec::new()),
            DataType::UInt64 => Values::UInt64(Vec::new()),
            DataType::Float32 => Values::Float32(Vec::new()),
            DataType::Float64 => Values::Float64(Vec::new()),
            &DataType::Decimal128(precision, scale) if scale >= 0 => Values::Decimal(Vec::new(), precision, scale),
            DataType::Date32 => Values::Date(Vec::new()),
            DataType::Time64(TimeUnit::Microsecond) => Values::Time(Vec::new()),
            DataType::Timestamp(TimeUnit::Microsecond, zone) => Values::Timestamp(Vec::new(), zone.clone()),
            DataType::Utf8 => Values::Text { ends: Vec::new(), bytes: Vec::new() },
            DataType::Struct(fields) => {
                let members = Members::new(fields, &reading.parts, reading.ignore_unknown)?;
                Values::Struct(Box::new(members), fields.clone())
            }
            DataType::List(field) => {
                let item = reading.parts.first().ok_or_else(unplanned)?;
                let item = Box::new(Self::new(field.data_type(), item)?);
                Values::List { ends: Vec::new(), item, field: field.clone() }
            }
            other => {
                let message = format!("JSON cannot be read as {}", etlrs_core::type_name(other));
                return Err(Error::new(ErrorKind::Unsupported, message).hint("read the column as text"));
            }
        };
        Ok(Self { by: reading.by, text: reading.text, values, nulls: NullBufferBuilder::new(0) })
    }

    fn len(&self) -> usize {
        self.nulls.len()
    }

    /// Adds the value that begins at `at` and gives the place behind it. After an error it has to be
    /// [truncated](Self::truncate).
    fn append(&mut self, bytes: &[u8], at: usize, depth: usize) -> Result<usize, Bad> {
        let first = syntax::byte(bytes, at)?;
        if first == b'n' {
            let end = syntax::word(bytes, at, "null")?;
            self.append_null();
            return Ok(end);
        }
        let (by, text_of) = (self.by, self.text);
        let lenient = by != TypeBy::Sample;
        macro_rules! integers {
            ($values:expr, $type:ty) => {{
                let (value, end) = integer(bytes, at, first, lenient)?;
                $values.push(<$type>::try_from(value).map_err(|_| Bad::Misfit(at))?);
                end
            }};
        }
        let end = match &mut self.values {
            Values::Int64(values) => match quick_integer(bytes, at, first) {
                Some((value, end)) => {
                    values.push(value);
                    end
                }
                None => integers!(values, i64),
            },
            Values::Float64(values) => {
                let (number, end) = number(bytes, at, first, lenient)?;
                let parsed = match &number {
                    Number::Here => value::float_in(bytes, at..end, by != TypeBy::User),
                    Number::Quoted(text) => value::float(text, by != TypeBy::User),
                };
                let zero = || is_negative_zero(number.text(bytes, at, end)).then_some(-0.0);
                values.push(parsed.or_else(zero).filter(|value| value.is_finite()).ok_or(Bad::Misfit(at))?);
                end
            }
            Values::Text { ends, bytes: out } => {
                let end = match (first, text_of) {
                    (b'"', TextOf::Strings | TextOf::Scalars | TextOf::Anything) => {
                        let (text, end) = syntax::string(bytes, at)?;
                        text.append(out);
                        end
                    }
                    (_, TextOf::Strings) => return Err(misfit(bytes, at, depth)),
                    (b'{' | b'[', TextOf::Scalars) => return Err(misfit(bytes, at, depth)),
                    _ => {
                        let end = syntax::value(bytes, at, depth)?;
                        out.extend_from_slice(&bytes[at..end]);
                        end
                    }
                };
                // A batch has fewer bytes.
                ends.push(i32::try_from(out.len()).map_err(|_| Bad::Misfit(at))?);
                end
            }
            Values::Boolean(values) => {
                let (value, end) = match first {
                    b't' => (true, syntax::word(bytes, at, "true")?),
                    b'f' => (false, syntax::word(bytes, at, "false")?),
                    b'"' if lenient => {
                        let (text, end) = unquoted(bytes, at)?;
                        (value::boolean_word(&text).ok_or(Bad::Misfit(at))?, end)
                    }
                    _ if by == TypeBy::Target => {
                        let (number, end) = integer(bytes, at, first, true)?;
                        (u8::try_from(number).ok().filter(|bit| *bit < 2).ok_or(Bad::Misfit(at))? == 1, end)
                    }
                    _ => return Err(misfit(bytes, at, depth)),
                };
                values.append(value);
                end
            }
            Values::Int32(values) => integers!(values, i32),
            Values::Int16(values) => integers!(values, i16),
            Values::Int8(values) => integers!(values, i8),
            Values::UInt8(values) => integers!(values, u8),
            Values::UInt16(values) => integers!(values, u16),
            Values::UInt32(values) => integers!(values, u32),
            Values::UInt64(values) => integers!(values, u64),
            Values::Float32(values) => {
                let (number, end) = number(bytes, at, first, lenient)?;
                let text = number.text(bytes, at, end);
                let parsed = value::float32(text, by != TypeBy::User).filter(|value| value.is_finite());
                let zero = || is_negative_zero(text).then_some(-0.0);
                values.push(parsed.or_else(zero).ok_or(Bad::Misfit(at))?);
                end
            }
            Values::Decimal(values, precision, scale) => {
                let (number, end) = number(bytes, at, first, lenient)?;
                let parsed = decimal(number.text(bytes, at, end), u32::from(scale.unsigned_abs()));
                let fits = |value: &i128| Decimal128Type::is_valid_decimal_precision(*value, *precision);
                values.push(parsed.filter(fits).ok_or(Bad::Misfit(at))?);
                end
            }
            Values::Date(values) => {
                let (text, end) = string_here(bytes, at, first, depth)?;
                let parsed = if lenient { value::day(&text) } else { value::date(&text) };
                values.push(parsed.ok_or(Bad::Misfit(at))?);
                end
            }
            Values::Time(values) => {
                let (text, end) = string_here(bytes, at, first, depth)?;
                values.push(value::time(&text).ok_or(Bad::Misfit(at))?);
                end
            }
            Values::Timestamp(values, zone) => {
                let (text, end) = string_here(bytes, at, first, depth)?;
                let parsed = match (value::timestamp(&text), zone.is_some()) {
                    // Without an offset it is that of UTC only for who says so.
                    (Some((micros, zoned)), true) if zoned || by == TypeBy::User => Some(micros),
                    (Some((micros, false)), false) => Some(micros),
                    (None, false) if lenient => value::clock(&text),
                    _ => None,
                };
                values.push(parsed.ok_or(Bad::Misfit(at))?);
                end
            }
            Values::Struct(members, _) => {
                if first != b'{' {
                    return Err(misfit(bytes, at, depth));
                }
                members.append(bytes, at, depth)?
            }
            Values::List { ends, item, .. } => {
                if first != b'[' {
                    return Err(misfit(bytes, at, depth));
                }
                if depth >= DEEPEST {
                    return Err(Bad::Fault(Fault::Wrong(at, syntax::DEEP)));
                }
                let mut at = syntax::space(bytes, at + 1);
                if syntax::byte(bytes, at)? == b']' {
                    at += 1;
                } else {
                    loop {
                        at = syntax::space(bytes, item.append(bytes, at, depth + 1)?);
                        match syntax::byte(bytes, at)? {
                            b',' => at = syntax::space(bytes, at + 1),
                            b']' => break at += 1,
                            _ => return Err(Fault::Expected(at, "a comma or ]").into()),
                        }
                    }
                }
                ends.push(i32::try_from(item.len()).map_err(|_| Bad::Misfit(at))?);
                at
            }
            Values::Null => return Err(misfit(bytes, at, depth)),
        };
        self.nulls.append_non_null();
        Ok(end)
    }

    fn append_null(&mut self) {
        match &mut self.values {
            Values::Null => {}
            Values::Boolean(values) => values.append(false),
            Values::Int8(values) => values.push(0),
            Values::Int16(values) => values.push(0),
            Values::Int32(values) | Values::Date(values) => values.push(0),
            Values::Int64(values) | Values::Time(values) | Values::Timestamp(values, _) => values.push(0),
            Values::UInt8(values) => values.push(0),
            Values::UInt16(values) => values.push(0),
            Values::UInt32(values) => values.push(0),
            Values::UInt64(values) => values.push(0),
            Values::Float32(values) => values.push(0.0),
            Values::Float64(values) => values.push(0.0),
            Values::Decimal(values, ..) => values.push(0),
            Values::Text { ends, .. } | Values::List { ends, .. } => ends.push(ends.last().copied().unwrap_or(0)),
            Values::Struct(members, _) => {
                members.rows += 1;
                members.columns.iter_mut().for_each(Self::append_null);
            }
        }
        self.nulls.append_null();
    }

    /// Forgets what came behind the first `rows` values.
    fn truncate(&mut self, rows: usize) {
        match &mut self.values {
            Values::Null => {}
            Values::Boolean(values) => values.truncate(rows),
            Values::Int8(values) => values.truncate(rows),
            Values::Int16(values) => values.truncate(rows),
            Values::Int32(values) | Values::Date(values) => values.truncate(rows),
            Values::Int64(values) | Values::Time(values) | Values::Timestamp(values, _) => values.truncate(rows),
            Values::UInt8(values) => values.truncate(rows),
            Values::UInt16(values) => values.truncate(rows),
            Values::UInt32(values) => values.truncate(rows),
            Values::UInt64(values) => values.truncate(rows),
            Values::Float32(values) => values.truncate(rows),
            Values::Float64(values) => values.truncate(rows),
            Values::Decimal(values, ..) => values.truncate(rows),
            Values::Text { ends, bytes } => {
                ends.truncate(rows);
                bytes.truncate(end_of(ends));
            }
            Values::List { ends, item, .. } => {
                ends.truncate(rows);
                item.truncate(end_of(ends));
            }
            Values::Struct(members, _) => members.truncate(rows),
        }
        self.nulls.truncate(rows.min(self.nulls.len()));
    }

    /// The values so far as an array; it is empty then.
    fn finish(&mut self) -> Result<ArrayRef, ArrowError> {
        let rows = self.len();
        let nulls = self.nulls.finish();
        fn primitive<T: ArrowPrimitiveType>(
            values: &mut Vec<T::Native>,
            nulls: Option<NullBuffer>,
        ) -> PrimitiveArray<T> {
            PrimitiveArray::new(ScalarBuffer::from(std::mem::take(values)), nulls)
        }
        Ok(match &mut self.values {
            Values::Null => Arc::new(NullArray::new(rows)),
            Values::Boolean(values) => Arc::new(BooleanArray::new(values.finish(), nulls)),
            Values::Int8(values) => Arc::new(primitive::<Int8Type>(values, nulls)),
            Values::Int16(values) => Arc::new(primitive::<Int16Type>(values, nulls)),
            Values::Int32(values) => Arc::new(primitive::<Int32Type>(values, nulls)),
            Values::Int64(values) => Arc::new(primitive::<Int64Type>(values, nulls)),
            Values::UInt8(values) => Arc::new(primitive::<UInt8Type>(values, nulls)),
            Values::UInt16(values) => Arc::new(primitive::<UInt16Type>(values, nulls)),
            Values::UInt32(values) => Arc::new(primitive::<UInt32Type>(values, nulls)),
            Values::UInt64(values) => Arc::new(primitive::<UInt64Type>(values, nulls)),
            Values::Float32(values) => Arc::new(primitive::<Float32Type>(values, nulls)),
            Values::Float64(values) => Arc::new(primitive::<Float64Type>(values, nulls)),
            Values::Decimal(values, precision, scale) => {
                Arc::new(primitive::<Decimal128Type>(values, nulls).with_precision_and_scale(*precision, *scale)?)
            }
            Values::Date(values) => Arc::new(primitive::<Date32Type>(values, nulls)),
            Values::Time(values) => Arc::new(primitive::<Time64MicrosecondType>(values, nulls)),
            Values::Timestamp(values, zone) => {
                Arc::new(primitive::<TimestampMicrosecondType>(values, nulls).with_timezone_opt(zone.clone()))
            }
            Values::Text { ends, bytes } => {
                let values = Buffer::from_vec(std::mem::take(bytes));
                Arc::new(StringArray::try_new(offsets(ends), values, nulls)?)
            }
            Values::List { ends, item, field } => {
                Arc::new(ListArray::try_new(field.clone(), offsets(ends), item.finish()?, nulls)?)
            }
            Values::Struct(members, fields) => {
                Arc::new(StructArray::try_new_with_length(fields.clone(), members.finish()?, nulls, rows)?)
            }
        })
    }
}

fn unplanned() -> Error {
    Error::new(ErrorKind::Internal, "a column has a part that was not planned")
}

fn end_of(ends: &[i32]) -> usize {
    ends.last().map_or(0, |&end| usize::try_from(end).unwrap_or(0))
}

fn offsets(ends: &mut Vec<i32>) -> OffsetBuffer<i32> {
    ends.insert(0, 0);
    OffsetBuffer::new(ScalarBuffer::from(std::mem::take(ends)))
}

/// That the value is of another kind, if it is a value.
#[cold]
fn misfit(bytes: &[u8], at: usize, depth: usize) -> Bad {
    syntax::value(bytes, at, depth).map_or_else(Bad::Fault, |_| Bad::Misfit(at))
}

/// An integer of up to 18 digits that is written as one.
#[inline(always)]
fn quick_integer(bytes: &[u8], at: usize, first: u8) -> Option<(i64, usize)> {
    let negative = first == b'-';
    let start = at + usize::from(negative);
    let (mut value, mut end) = (0i64, start);
    while let Some(&byte @ b'0'..=b'9') = bytes.get(end) {
        value = value.wrapping_mul(10).wrapping_add(i64::from(byte - b'0'));
        end += 1;
    }
    let digits = end - start;
    let plain = (1..=18).contains(&digits) && (bytes.get(start) != Some(&b'0') || (digits == 1 && !negative));
    let more = matches!(bytes.get(end), Some(b'.' | b'e' | b'E') | None);
    (plain && !more).then(|| (if negative { -value } else { value }, end))
}

/// An integer, also one that is written with a point or an exponent, `5.0`; for the lenient in quotes too.
fn integer(bytes: &[u8], at: usize, first: u8, lenient: bool) -> Result<(i128, usize), Bad> {
    if let Some((value, end)) = quick_integer(bytes, at, first) {
        return Ok((value.into(), end));
    }
    let (number, end) = number(bytes, at, first, lenient)?;
    decimal(number.text(bytes, at, end), 0).map(|value| (value, end)).ok_or(Bad::Misfit(at))
}

/// Where a number is.
enum Number {
    Here,
    Quoted(Vec<u8>),
}

impl Number {
    fn text<'a>(&'a self, bytes: &'a [u8], at: usize, end: usize) -> &'a [u8] {
        match self {
            Self::Here => &bytes[at..end],
            Self::Quoted(text) => text,
        }
    }
}

#[inline(always)]
fn number(bytes: &[u8], at: usize, first: u8, lenient: bool) -> Result<(Number, usize), Bad> {
    match first {
        b'-' | b'0'..=b'9' => Ok((Number::Here, syntax::number(bytes, at)?)),
        b'"' if lenient => {
            let (text, end) = unquoted(bytes, at)?;
            Ok((Number::Quoted(text), end))
        }
        _ => Err(misfit(bytes, at, 0)),
    }
}

fn unquoted(bytes: &[u8], at: usize) -> Result<(Vec<u8>, usize), Bad> {
    let (text, end) = syntax::string(bytes, at)?;
    let mut out = Vec::new();
    text.append(&mut out);
    Ok((out, end))
}

/// The characters of a string that should be at `at`.
#[inline]
fn string_here(bytes: &[u8], at: usize, first: u8, depth: usize) -> Result<(std::borrow::Cow<'_, [u8]>, usize), Bad> {
    if first != b'"' {
        return Err(misfit(bytes, at, depth));
    }
    let (text, end) = syntax::string(bytes, at)?;
    let Text { raw, escaped } = text;
    Ok((if escaped { unquoted(bytes, at)?.0.into() } else { raw.into() }, end))
}

/// `number × 10^scale`, if it has no digits beyond; of a number with an exponent too.
fn decimal(number: &[u8], scale: u32) -> Option<i128> {
    let Some(e) = number.iter().position(|byte| matches!(byte, b'e' | b'E')) else {
        return value::decimal(number, scale);
    };
    let (mantissa, exponent) = (&number[..e], &number[e + 1..]);
    let exponent: i32 = std::str::from_utf8(exponent).ok()?.parse().ok()?;
    let (negative, mantissa) = match mantissa {
        [b'-', rest @ ..] => (true, rest),
        rest => (false, rest),
    };
    let point = mantissa.iter().position(|&byte| byte == b'.').unwrap_or(mantissa.len());
    // What stood in quotes was not looked at before.
    if !mantissa.iter().enumerate().all(|(at, byte)| byte.is_ascii_digit() || (at == point && *byte == b'.')) {
        return None;
    }
    let digits: Vec<u8> = mantissa.iter().copied().filter(u8::is_ascii_digit).collect();
    if digits.iter().all(|&digit| digit == b'0') {
        return (!digits.is_empty()).then_some(0);
    }
    // Beyond these nothing fits, and the zeros would be many.
    let point = i32::try_from(point).ok()?.checked_add(exponent).filter(|point| (-80..=80).contains(point))?;
    let before = usize::try_from(point).unwrap_or(0);
    let zeros = usize::try_from(-point).unwrap_or(0);
    let mut plain = vec![b'0'; zeros];
    plain.extend_from_slice(&digits);
    plain.resize(plain.len().max(before), b'0');
    plain.insert(before, b'.');
    let value = value::decimal(&plain, scale)?;
    Some(if negative { -value } else { value })
}

/// The members of objects, a column for each key.
pub(crate) struct Members {
    columns: Vec<Column>,
    keys: Vec<Key>,
    by_name: HashMap<Box<[u8]>, usize>,
    ignore_unknown: bool,
    rows: usize,
    /// The column that got a value last.
    last: Option<usize>,
}

struct Key {
    /// With its quotes, as it is most likely to be written.
    quoted: Box<[u8]>,
    /// The column; `None`: nobody wants it.
    column: Option<usize>,
}

impl Members {
    /// # Errors
    /// `Unsupported` for a type that JSON is not read as.
    pub(crate) fn new(fields: &Fields, readings: &[Reading], ignore_unknown: bool) -> Result<Self> {
        let columns = fields.iter().enumerate().map(|(index, field)| {
            let reading = readings.get(index).ok_or_else(unplanned)?;
            Column::new(field.data_type(), reading).map_err(|error| error.at_column(field.name()))
        });
        let columns = columns.collect::<Result<Vec<_>>>()?;
        let (keys, by_name) = (Vec::new(), HashMap::new());
        let mut members = Self { columns, keys, by_name, ignore_unknown, rows: 0, last: None };
        for (index, field) in fields.iter().enumerate() {
            members.add_key(field.name(), Some(index));
        }
        Ok(members)
    }

    /// With keys that may be there and that nobody wants.
    pub(crate) fn with_unwanted<'a>(mut self, keys: impl Iterator<Item = &'a str>) -> Self {
        for key in keys {
            if !self.by_name.contains_key(key.as_bytes()) {
                self.add_key(key, None);
            }
        }
        self
    }

    fn add_key(&mut self, name: &str, column: Option<usize>) {
        self.by_name.insert(name.as_bytes().into(), self.keys.len());
        self.keys.push(Key { quoted: crate::encode::quoted(name).into(), column });
    }

    /// Adds the object that begins at `at` as a row, and gives the place behind it.
    pub(crate) fn append(&mut self, bytes: &[u8], at: usize, depth: usize) -> Result<usize, Bad> {
        if depth >= DEEPEST {
            return Err(Bad::Fault(Fault::Wrong(at, syntax::DEEP)));
        }
        let (mut found, mut expected) = (0, 0);
        let mut at = syntax::space(bytes, at + 1);
        if syntax::byte(bytes, at)? == b'}' {
            at += 1;
        } else {
            loop {
                let key_at = at;
                let (key, end) = self.key(bytes, at, expected)?;
                at = syntax::space(bytes, syntax::token(bytes, end, b':', "a colon")?);
                expected = key.map_or(expected, |key| key + 1);
                match key.map(|key| self.keys[key].column) {
                    Some(Some(column)) => {
                        self.last = Some(column);
                        let column = &mut self.columns[column];
                        if column.len() > self.rows {
                            return Err(Bad::Twice(key_at));
                        }
                        at = column.append(bytes, at, depth + 1)?;
                        found += 1;
                    }
                    None if !self.ignore_unknown => {
                        self.last = None;
                        return Err(Bad::UnknownKey(key_at));
                    }
                    _ => at = syntax::value(bytes, at, depth + 1)?,
                }
                at = syntax::space(bytes, at);
                match syntax::byte(bytes, at)? {
                    b',' => at = syntax::space(bytes, at + 1),
                    b'}' => break at += 1,
                    _ => return Err(Fault::Expected(at, "a comma or }").into()),
                }
            }
        }
        self.rows += 1;
        if found < self.columns.len() {
            for column in self.columns.iter_mut().filter(|column| column.len() < self.rows) {
                column.append_null();
            }
        }
        Ok(at)
    }

    /// Which key is at `at`, and the place behind it. It is looked for where it is `expected`, for records mostly have their keys
    /// in one order.
    #[inline]
    fn key(&self, bytes: &[u8], at: usize, expected: usize) -> Result<(Option<usize>, usize), Bad> {
        if let Some(Key { quoted, .. }) = self.keys.get(expected)
            && bytes.get(at..at + quoted.len()) == Some(&**quoted)
        {
            return Ok((Some(expected), at + quoted.len()));
        }
        if syntax::byte(bytes, at)? != b'"' {
            return Err(Fault::Expected(at, "a key in quotes").into());
        }
        let (text, end) = syntax::string(bytes, at)?;
        let key = match text.escaped {
            false => self.by_name.get(text.raw),
            true => self.by_name.get(&*unquoted(bytes, at)?.0),
        };
        Ok((key.copied(), end))
    }

    /// Adds the value that begins at `at` to the only column.
    pub(crate) fn append_value(&mut self, bytes: &[u8], at: usize) -> Result<usize, Bad> {
        self.last = Some(0);
        let end = match self.columns.first_mut() {
            Some(column) => column.append(bytes, at, 0)?,
            None => syntax::value(bytes, at, 0)?,
        };
        self.rows += 1;
        Ok(end)
    }

    /// Rows so far.
    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    /// The column that got a value last, which an error is about.
    pub(crate) fn last(&self) -> Option<usize> {
        self.last
    }

    /// Forgets what came behind the first `rows` rows.
    pub(crate) fn truncate(&mut self, rows: usize) {
        self.rows = rows;
        self.columns.iter_mut().for_each(|column| column.truncate(rows));
    }

    pub(crate) fn finish(&mut self) -> Result<Vec<ArrayRef>, ArrowError> {
        self.rows = 0;
        self.columns.iter_mut().map(Column::finish).collect()
    }
}
