//! From the fields of a chunk to Arrow columns.

use std::sync::Arc;

use arrow_array::builder::*;
use arrow_array::types::{Decimal128Type, DecimalType};
use arrow_array::{ArrayRef, BooleanArray};
use arrow_schema::{DataType, TimeUnit};
use etlrs_core::{Error, ErrorKind, Result};

use crate::records::Field;
use crate::value;

/// One column in the making.
pub(crate) struct Column {
    /// Position of its fields within a record.
    field: usize,
    /// Only the spellings that inference takes.
    exact: bool,
    values: Values,
}

enum Values {
    Boolean(BooleanBuilder),
    Int8(Int8Builder),
    Int16(Int16Builder),
    Int32(Int32Builder),
    Int64(Int64Builder),
    UInt8(UInt8Builder),
    UInt16(UInt16Builder),
    UInt32(UInt32Builder),
    UInt64(UInt64Builder),
    Float32(Float32Builder),
    Float64(Float64Builder),
    Decimal(Decimal128Builder, u8, i8),
    Date(Date32Builder),
    Time(Time64MicrosecondBuilder),
    Timestamp(TimestampMicrosecondBuilder),
    Timestamptz(TimestampMicrosecondBuilder),
    Text(StringBuilder, String),
}

/// The records of a chunk: its text, the fields of all records one after another, and how many a record has.
pub(crate) struct Chunk<'a> {
    pub(crate) text: &'a str,
    pub(crate) fields: &'a [Field],
    pub(crate) width: usize,
    pub(crate) null: &'a [String],
    pub(crate) quote: Option<u8>,
}

impl Column {
    /// # Errors
    /// `Unsupported` for a type that CSV fields are not read as.
    pub(crate) fn new(field: usize, data_type: &DataType, exact: bool) -> Result<Self> {
        let values = match data_type {
            DataType::Boolean => Values::Boolean(BooleanBuilder::new()),
            DataType::Int8 => Values::Int8(Int8Builder::new()),
            DataType::Int16 => Values::Int16(Int16Builder::new()),
            DataType::Int32 => Values::Int32(Int32Builder::new()),
            DataType::Int64 => Values::Int64(Int64Builder::new()),
            DataType::UInt8 => Values::UInt8(UInt8Builder::new()),
            DataType::UInt16 => Values::UInt16(UInt16Builder::new()),
            DataType::UInt32 => Values::UInt32(UInt32Builder::new()),
            DataType::UInt64 => Values::UInt64(UInt64Builder::new()),
            DataType::Float32 => Values::Float32(Float32Builder::new()),
            DataType::Float64 => Values::Float64(Float64Builder::new()),
            &DataType::Decimal128(precision, scale) if scale >= 0 => {
                let builder = Decimal128Builder::new().with_data_type(data_type.clone());
                Values::Decimal(builder, precision, scale)
            }
            DataType::Date32 => Values::Date(Date32Builder::new()),
            DataType::Time64(TimeUnit::Microsecond) => Values::Time(Time64MicrosecondBuilder::new()),
            DataType::Timestamp(TimeUnit::Microsecond, None) => Values::Timestamp(TimestampMicrosecondBuilder::new()),
            DataType::Timestamp(TimeUnit::Microsecond, Some(_)) => {
                Values::Timestamptz(TimestampMicrosecondBuilder::new().with_data_type(data_type.clone()))
            }
            DataType::Utf8 => Values::Text(StringBuilder::new(), String::new()),
            other => {
                return Err(Error::new(
                    ErrorKind::Unsupported,
                    format!("CSV fields cannot be read as {}", etlrs_core::type_name(other)),
                )
                .hint("read the column as text"));
            }
        };
        Ok(Self { field, exact, values })
    }

    /// Position of the column's fields within a record.
    pub(crate) fn field(&self) -> usize {
        self.field
    }

    /// Whether it takes only the spellings that inference takes.
    pub(crate) fn exact(&self) -> bool {
        self.exact
    }

    /// Adds the column's field of each record of `chunk`.
    ///
    /// The error is the index of the first record whose field is no value of the type; the column is of no more use then.
    pub(crate) fn append(&mut self, chunk: &Chunk<'_>) -> Result<(), usize> {
        let exact = self.exact;
        let bytes = chunk.text.as_bytes();
        let fields = chunk.fields.iter().skip(self.field).step_by(chunk.width);

        macro_rules! typed {
            ($builder:expr, $parse:expr) => {{
                let builder = $builder;
                let parse = $parse;
                for (record, field) in fields.enumerate() {
                    let bytes = &bytes[field.range()];
                    // First, for a spelling of null may be a value of the type (-1, 0).
                    if bytes.is_empty() || is_null(bytes, chunk.null) {
                        builder.append_null();
                        continue;
                    }
                    match parse(bytes) {
                        Some(value) => builder.append_value(value),
                        None => return Err(record),
                    }
                }
            }};
        }
        macro_rules! integer {
            ($builder:expr, $type:ty) => {
                typed!($builder, |bytes: &[u8]| <$type>::try_from(value::integer(bytes, exact)?).ok())
            };
        }
        match &mut self.values {
            Values::Boolean(builder) => typed!(builder, value::boolean),
            Values::Int8(builder) => integer!(builder, i8),
            Values::Int16(builder) => integer!(builder, i16),
            Values::Int32(builder) => integer!(builder, i32),
            Values::Int64(builder) => typed!(builder, |bytes: &[u8]| value::integer(bytes, exact)),
            Values::UInt8(builder) => integer!(builder, u8),
            Values::UInt16(builder) => integer!(builder, u16),
            Values::UInt32(builder) => integer!(builder, u32),
            Values::UInt64(builder) => {
                typed!(builder, |bytes: &[u8]| value::decimal(bytes, 0).and_then(|value| u64::try_from(value).ok()));
            }
            // Read as what it is, then rounded once: through 64 bits it would be rounded twice.
            Values::Float32(builder) => typed!(builder, |bytes: &[u8]| fast_float2::parse::<f32, _>(bytes).ok()),
            Values::Float64(builder) => typed!(builder, |bytes: &[u8]| value::float(bytes, exact)),
            Values::Decimal(builder, precision, scale) => {
                let (precision, scale) = (*precision, u32::from(scale.unsigned_abs()));
                typed!(builder, |bytes: &[u8]| value::decimal(bytes, scale)
                    .filter(|&value| Decimal128Type::is_valid_decimal_precision(value, precision)));
            }
            Values::Date(builder) => typed!(builder, value::date),
            Values::Time(builder) => typed!(builder, value::time),
            Values::Timestamp(builder) => typed!(builder, |bytes: &[u8]| match value::timestamp(bytes)? {
                (micros, false) => Some(micros),
                (_, true) => None,
            }),
            Values::Timestamptz(builder) => typed!(builder, |bytes: &[u8]| match value::timestamp(bytes)? {
                (micros, true) => Some(micros),
                (_, false) => None,
            }),
            Values::Text(builder, scratch) => {
                for field in fields {
                    let text = &chunk.text[field.range()];
                    if !field.quoted && (text.is_empty() || is_null(text.as_bytes(), chunk.null)) {
                        builder.append_null();
                    } else if field.escaped {
                        unescape(text, chunk.quote, scratch);
                        builder.append_value(&*scratch);
                    } else {
                        builder.append_value(text);
                    }
                }
            }
        }
        Ok(())
    }

    /// The column so far; it is empty again.
    pub(crate) fn finish(&mut self) -> ArrayRef {
        match &mut self.values {
            Values::Boolean(builder) => Arc::new(builder.finish()) as Arc<BooleanArray> as ArrayRef,
            Values::Int8(builder) => Arc::new(builder.finish()),
            Values::Int16(builder) => Arc::new(builder.finish()),
            Values::Int32(builder) => Arc::new(builder.finish()),
            Values::Int64(builder) => Arc::new(builder.finish()),
            Values::UInt8(builder) => Arc::new(builder.finish()),
            Values::UInt16(builder) => Arc::new(builder.finish()),
            Values::UInt32(builder) => Arc::new(builder.finish()),
            Values::UInt64(builder) => Arc::new(builder.finish()),
            Values::Float32(builder) => Arc::new(builder.finish()),
            Values::Float64(builder) => Arc::new(builder.finish()),
            Values::Decimal(builder, ..) => Arc::new(builder.finish()),
            Values::Date(builder) => Arc::new(builder.finish()),
            Values::Time(builder) => Arc::new(builder.finish()),
            Values::Timestamp(builder) | Values::Timestamptz(builder) => Arc::new(builder.finish()),
            Values::Text(builder, _) => Arc::new(builder.finish()),
        }
    }
}

fn is_null(bytes: &[u8], spellings: &[String]) -> bool {
    spellings.iter().any(|spelling| spelling.as_bytes() == bytes)
}

/// Doubled quotes become single ones. The reader has seen that quotes come only in pairs here.
pub(crate) fn unescape(text: &str, quote: Option<u8>, into: &mut String) {
    into.clear();
    let mut rest = text;
    while let Some(at) = quote.and_then(|quote| memchr::memchr(quote, rest.as_bytes())) {
        into.push_str(&rest[..=at]);
        rest = rest.get(at + 2..).unwrap_or_default();
    }
    into.push_str(rest);
}
