//! From the fields of a chunk to Arrow columns.
//!
//! A chunk is small enough to stay in the processor's cache, so it is decoded column after column: the branches of a
//! parser then see the same kind of text again and again.

use std::sync::Arc;

use arrow_array::builder::NullBufferBuilder;
use arrow_array::types::*;
use arrow_array::{ArrayRef, ArrowPrimitiveType, BooleanArray, PrimitiveArray, StringArray};
use arrow_buffer::{BooleanBuffer, Buffer, NullBuffer, OffsetBuffer, ScalarBuffer};
use arrow_schema::{DataType, TimeUnit};
use etlrs_core::{Error, ErrorKind, Result};

use crate::format::Format;
use crate::records::{Dialect, Field};
use etlrs_files::text::value;
use serde::{Deserialize, Serialize};

/// Who gives a column its type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum TypeBy {
    /// In the options.
    User,
    /// The first records. Only the spellings that inference takes are values then.
    Sample,
    /// The column that it goes to.
    Target,
}

/// One column in the making.
pub(crate) struct Column {
    /// Position of its fields within a record.
    field: usize,
    by: TypeBy,
    data_type: DataType,
    /// How dates and timestamps are spelled, if not in ISO 8601.
    format: Option<Format>,
    values: Values,
    nulls: NullBufferBuilder,
}

enum Values {
    Boolean(Vec<bool>),
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
    /// Whether values have a zone.
    Timestamp(Vec<i64>, bool),
    Text(Text),
}

/// The records of a chunk: its bytes, the fields of all records one after another, and how many a record has.
pub(crate) struct Chunk<'a> {
    pub(crate) bytes: &'a [u8],
    pub(crate) fields: &'a [Field],
    pub(crate) width: usize,
    pub(crate) null: &'a [String],
    pub(crate) dialect: Dialect,
}

impl Chunk<'_> {
    fn is_null(&self, bytes: &[u8]) -> bool {
        self.null.iter().any(|spelling| spelling.as_bytes() == bytes)
    }
}

impl Column {
    /// # Errors
    /// `Unsupported` for a type that CSV fields are not read as.
    pub(crate) fn new(field: usize, data_type: &DataType, by: TypeBy) -> Result<Self> {
        let values = match data_type {
            DataType::Boolean => Values::Boolean(Vec::new()),
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
            DataType::Timestamp(TimeUnit::Microsecond, zone) => Values::Timestamp(Vec::new(), zone.is_some()),
            DataType::Utf8 => Values::Text(Text::new()),
            other => {
                return Err(Error::new(
                    ErrorKind::Unsupported,
                    format!("CSV fields cannot be read as {}", etlrs_core::type_name(other)),
                )
                .hint("read the column as text"));
            }
        };
        let nulls = NullBufferBuilder::new(0);
        Ok(Self { field, by, data_type: data_type.clone(), format: None, values, nulls })
    }

    /// With dates or timestamps in another spelling than that of ISO 8601.
    pub(crate) fn with_format(mut self, format: Option<Format>) -> Self {
        self.format = format;
        self
    }

    /// Position of the column's fields within a record.
    pub(crate) fn field(&self) -> usize {
        self.field
    }

    /// Who gave it its type.
    pub(crate) fn by(&self) -> TypeBy {
        self.by
    }

    /// Adds the column's field of each record of `chunk`.
    ///
    /// The error is the index of the first record whose field is no value of the type; the column is of no more use then
    /// until it is [truncated](Self::truncate).
    pub(crate) fn append(&mut self, chunk: &Chunk<'_>) -> Result<(), usize> {
        let exact = self.by == TypeBy::Sample;
        // Only who asks for floats has digits taken off.
        let exact_float = self.by != TypeBy::User;
        let bytes = chunk.bytes;
        let fields = Fields { chunk, column: self.field };
        let nulls = &mut self.nulls;
        macro_rules! integers {
            ($values:expr, $type:ty) => {
                fields.parse($values, nulls, |field| {
                    <$type>::try_from(value::integer_in(bytes, field.range(), exact)?).ok()
                })
            };
        }
        if let Some(format) = &self.format {
            match &mut self.values {
                Values::Date(values) => return fields.parse(values, nulls, |field| format.date(&bytes[field.range()])),
                Values::Timestamp(values, false) => {
                    return fields.parse(values, nulls, |field| format.timestamp(&bytes[field.range()]));
                }
                _ => {}
            }
        }
        match &mut self.values {
            Values::Boolean(values) if !exact => {
                fields.parse(values, nulls, |field| value::boolean_word(&bytes[field.range()]))
            }
            Values::Boolean(values) => fields.parse(values, nulls, |field| value::boolean(&bytes[field.range()])),
            Values::Int8(values) => integers!(values, i8),
            Values::Int16(values) => integers!(values, i16),
            Values::Int32(values) => integers!(values, i32),
            Values::Int64(values) => {
                fields.parse(values, nulls, |field| value::integer_in(bytes, field.range(), exact))
            }
            Values::UInt8(values) => integers!(values, u8),
            Values::UInt16(values) => integers!(values, u16),
            Values::UInt32(values) => integers!(values, u32),
            Values::UInt64(values) => fields.parse(values, nulls, |field| {
                value::decimal(&bytes[field.range()], 0).and_then(|value| u64::try_from(value).ok())
            }),
            Values::Float32(values) => {
                fields.parse(values, nulls, |field| value::float32(&bytes[field.range()], exact_float))
            }
            Values::Float64(values) => {
                fields.parse(values, nulls, |field| value::float_in(bytes, field.range(), exact_float))
            }
            Values::Decimal(values, precision, scale) => {
                let (precision, scale) = (*precision, u32::from(scale.unsigned_abs()));
                fields.parse(values, nulls, |field| {
                    value::decimal_in(bytes, field.range(), scale, exact)
                        .filter(|&value| Decimal128Type::is_valid_decimal_precision(value, precision))
                })
            }
            Values::Date(values) if !exact => fields.parse(values, nulls, |field| value::day(&bytes[field.range()])),
            Values::Date(values) => fields.parse(values, nulls, |field| value::date(&bytes[field.range()])),
            Values::Time(values) => fields.parse(values, nulls, |field| value::time(&bytes[field.range()])),
            Values::Timestamp(values, false) if !exact => {
                fields.parse(values, nulls, |field| value::clock(&bytes[field.range()]))
            }
            // Who says that they are instants means those of UTC where no offset is told.
            Values::Timestamp(values, true) if self.by == TypeBy::User => fields.parse(values, nulls, |field| {
                let bytes = &bytes[field.range()];
                value::timestamp(bytes).map(|(micros, _)| micros).or_else(|| value::clock(bytes))
            }),
            Values::Timestamp(values, zoned) => fields.parse(values, nulls, |field| {
                value::timestamp(&bytes[field.range()]).filter(|(_, found)| found == zoned).map(|(micros, _)| micros)
            }),
            Values::Text(text) => fields.texts(text, nulls),
        }
    }

    /// The records of `chunk` for which [`append`](Self::append) fails, in order.
    pub(crate) fn misfits(&self, chunk: &Chunk<'_>) -> Result<Vec<usize>> {
        if let Values::Text(_) = self.values {
            let fields = Fields { chunk, column: self.field };
            let misfits = fields.iter().enumerate();
            let misfits = misfits.filter(|(_, field)| std::str::from_utf8(&chunk.bytes[field.range()]).is_err());
            return Ok(misfits.map(|(record, _)| record).collect());
        }
        let mut misfits = Vec::new();
        let mut from = 0;
        loop {
            let fields = chunk.fields.get(from * chunk.width..).unwrap_or_default();
            let mut scratch = Self::new(self.field, &self.data_type, self.by)?.with_format(self.format.clone());
            match scratch.append(&Chunk { fields, ..*chunk }) {
                Ok(()) => return Ok(misfits),
                Err(record) => {
                    misfits.push(from + record);
                    from += record + 1;
                }
            }
        }
    }

    /// Takes back all but the first `records`, also after a failure.
    pub(crate) fn truncate(&mut self, records: usize) {
        self.nulls.truncate(records);
        match &mut self.values {
            Values::Boolean(values) => values.truncate(records),
            Values::Int8(values) => values.truncate(records),
            Values::Int16(values) => values.truncate(records),
            Values::Int32(values) | Values::Date(values) => values.truncate(records),
            Values::Int64(values) | Values::Time(values) | Values::Timestamp(values, _) => values.truncate(records),
            Values::UInt8(values) => values.truncate(records),
            Values::UInt16(values) => values.truncate(records),
            Values::UInt32(values) => values.truncate(records),
            Values::UInt64(values) => values.truncate(records),
            Values::Float32(values) => values.truncate(records),
            Values::Float64(values) => values.truncate(records),
            Values::Decimal(values, ..) => values.truncate(records),
            Values::Text(text) => {
                text.offsets.truncate(records + 1);
                let end = text.offsets.last().and_then(|&end| usize::try_from(end).ok()).unwrap_or(0);
                text.filled = end;
            }
        }
    }

    /// The column so far; it is empty again.
    ///
    /// # Errors
    /// None that a file could cause: `append` has seen that texts are UTF-8.
    pub(crate) fn finish(&mut self) -> Result<ArrayRef> {
        let nulls = self.nulls.finish();
        macro_rules! primitive {
            ($type:ty, $values:expr) => {
                primitive::<$type>($values, nulls, &self.data_type)
            };
        }
        Ok(match &mut self.values {
            Values::Boolean(values) => {
                let bits = BooleanBuffer::collect_bool(values.len(), |row| values[row]);
                values.clear();
                Arc::new(BooleanArray::new(bits, nulls))
            }
            Values::Int8(values) => primitive!(Int8Type, values),
            Values::Int16(values) => primitive!(Int16Type, values),
            Values::Int32(values) => primitive!(Int32Type, values),
            Values::Int64(values) => primitive!(Int64Type, values),
            Values::UInt8(values) => primitive!(UInt8Type, values),
            Values::UInt16(values) => primitive!(UInt16Type, values),
            Values::UInt32(values) => primitive!(UInt32Type, values),
            Values::UInt64(values) => primitive!(UInt64Type, values),
            Values::Float32(values) => primitive!(Float32Type, values),
            Values::Float64(values) => primitive!(Float64Type, values),
            Values::Decimal(values, ..) => primitive!(Decimal128Type, values),
            Values::Date(values) => primitive!(Date32Type, values),
            Values::Time(values) => primitive!(Time64MicrosecondType, values),
            Values::Timestamp(values, _) => primitive!(TimestampMicrosecondType, values),
            Values::Text(text) => Arc::new(text.finish(nulls)?),
        })
    }
}

fn primitive<T: ArrowPrimitiveType>(
    values: &mut Vec<T::Native>,
    nulls: Option<NullBuffer>,
    data_type: &DataType,
) -> ArrayRef {
    // The next batch will be about as large.
    let next = Vec::with_capacity(values.len());
    let values = ScalarBuffer::from(std::mem::replace(values, next));
    Arc::new(PrimitiveArray::<T>::new(values, nulls).with_data_type(data_type.clone()))
}

/// Texts one after another, and where each ends.
struct Text {
    /// With room behind the last text that is kept between chunks, so that it is filled with zeros only once.
    bytes: Vec<u8>,
    /// Bytes of texts.
    filled: usize,
    offsets: Vec<i32>,
}

impl Text {
    fn new() -> Self {
        Self { bytes: Vec::new(), filled: 0, offsets: vec![0] }
    }

    fn finish(&mut self, nulls: Option<NullBuffer>) -> Result<StringArray> {
        let mut offsets = Vec::with_capacity(self.offsets.len());
        offsets.push(0);
        let offsets = ScalarBuffer::from(std::mem::replace(&mut self.offsets, offsets));
        // The next batch will be about as large.
        let next = Vec::with_capacity(self.bytes.len() + self.bytes.len() / 32);
        let mut bytes = std::mem::replace(&mut self.bytes, next);
        bytes.truncate(std::mem::take(&mut self.filled));
        let bytes = Buffer::from_vec(bytes);
        Ok(StringArray::try_new(OffsetBuffer::new(offsets), bytes, nulls)?)
    }
}

/// The fields of one column of a chunk.
struct Fields<'a> {
    chunk: &'a Chunk<'a>,
    column: usize,
}

impl Fields<'_> {
    fn iter(&self) -> impl ExactSizeIterator<Item = Field> {
        let Chunk { fields, width, .. } = *self.chunk;
        fields.get(self.column..).unwrap_or_default().iter().step_by(width).copied()
    }

    #[inline]
    fn parse<T: Copy + Default>(
        &self,
        values: &mut Vec<T>,
        nulls: &mut NullBufferBuilder,
        parse: impl Fn(Field) -> Option<T>,
    ) -> Result<(), usize> {
        let chunk = self.chunk;
        let spelled = !chunk.null.is_empty();
        let before = values.len();
        let fields = self.iter();
        values.resize(before + fields.len(), T::default());
        let mut appended = 0;
        for (record, (value, field)) in values[before..].iter_mut().zip(fields).enumerate() {
            // First, for a spelling of null may be a value of the type (-1, 0).
            if field.is_empty() || (spelled && chunk.is_null(&chunk.bytes[field.range()])) {
                nulls.append_n_non_nulls(record - appended);
                nulls.append_null();
                appended = record + 1;
                continue;
            }
            *value = parse(field).ok_or(record)?;
        }
        nulls.append_n_non_nulls(values.len() - before - appended);
        Ok(())
    }

    fn texts(&self, text: &mut Text, nulls: &mut NullBufferBuilder) -> Result<(), usize> {
        /// Copied whole where a text is shorter, for a copy of a known length costs a third of one of any length.
        const SHORT: usize = 32;
        let chunk = self.chunk;
        let spelled = !chunk.null.is_empty();
        let fields = self.iter();
        let records = fields.len();
        let Text { bytes, filled: end, offsets } = text;
        let before = *end;
        // So much that no text has to ask for room. Counted, for one long text of another column may be most of the chunk.
        let wanted = before + self.iter().map(|field| field.range().len()).sum::<usize>() + SHORT;
        if bytes.len() < wanted {
            bytes.resize(wanted, 0);
        }
        let room = &mut bytes[before..];
        let known = offsets.len();
        offsets.resize(known + records, 0);
        let offsets = offsets[known..].iter_mut();
        let (mut filled, mut appended) = (0, 0);
        for (record, (offset, field)) in offsets.zip(fields).enumerate() {
            if !field.is_quoted() && (field.is_empty() || (spelled && chunk.is_null(&chunk.bytes[field.range()]))) {
                nulls.append_n_non_nulls(record - appended);
                nulls.append_null();
                appended = record + 1;
            } else if field.is_escaped() {
                let text = &chunk.bytes[field.range()];
                filled += chunk.dialect.unescape(text, field.is_quoted(), &mut room[filled..]);
            } else {
                let bytes = &chunk.bytes[field.range()];
                let source = chunk.bytes[field.start()..].first_chunk::<SHORT>().filter(|_| bytes.len() <= SHORT);
                match (source, room[filled..].first_chunk_mut::<SHORT>()) {
                    (Some(source), Some(target)) => *target = *source,
                    _ => room[filled..filled + bytes.len()].copy_from_slice(bytes),
                }
                filled += bytes.len();
            }
            *offset = narrow(before + filled);
        }
        *end = before + filled;
        nulls.append_n_non_nulls(records - appended);
        if room[..filled].is_ascii() {
            return Ok(());
        }
        let is_text = |field: Field| std::str::from_utf8(&chunk.bytes[field.range()]).is_ok();
        self.iter().position(|field| !is_text(field)).map_or(Ok(()), Err)
    }
}

/// A batch has less than 2 GiB (`extract.rs`); an offset that went wrong would be refused when the column is finished.
#[inline]
fn narrow(offset: usize) -> i32 {
    i32::try_from(offset).unwrap_or(-1)
}
