//! `COPY … TO STDOUT (FORMAT binary)` into Arrow columns.
//!
//! The stream is a header and then tuples: a count of fields in 16 bits, and for each a length in 32 bits, -1 for a null,
//! with the value in the binary form of its type behind it. A count of -1 ends it
//! (<https://www.postgresql.org/docs/current/sql-copy.html>, "Binary Format").
//!
//! Finding the fields of some rows and decoding them is done in two passes: the first is one tight loop over lengths, and
//! the second one for each column, without a decision per value.

use std::sync::Arc;

use arrow_array::types::*;
use arrow_array::{
    ArrayRef, BinaryArray, BooleanArray, FixedSizeBinaryArray, PrimitiveArray, RecordBatch, RecordBatchOptions,
    StringArray,
};
use arrow_buffer::{ArrowNativeType, BooleanBufferBuilder, NullBufferBuilder, OffsetBuffer, ScalarBuffer, i256};
use arrow_schema::{DataType, Field, SchemaRef, TimeUnit};
use etlrs_core::{Error, ErrorKind, Result, type_name};

use super::numeric::{self, Misfit as NumericMisfit};
use super::types::{Reading, Wire};

const SIGNATURE: &[u8] = b"PGCOPY\n\xff\r\n\0";

/// Days and microseconds from 1970-01-01 to 2000-01-01, from which PostgreSQL counts.
pub(super) const EPOCH_DAYS: i32 = 10_957;
pub(super) const EPOCH_MICROSECONDS: i64 = 946_684_800_000_000;
pub(super) const DAY_MICROSECONDS: i64 = 86_400_000_000;

/// Where a field is among the bytes; a null has no length.
#[derive(Clone, Copy)]
struct Span {
    start: u32,
    length: i32,
}

/// Rows of one COPY on their way into batches.
pub(super) struct Decoder {
    schema: SchemaRef,
    columns: Vec<ColumnDecoder>,
    spans: Vec<Span>,
    rows: usize,
    bytes: usize,
    widest: usize,
    /// Bytes of a row of nulls in the arrays.
    row_bytes: usize,
    max_rows: usize,
    max_bytes: usize,
    started: bool,
    ended: bool,
}

impl Decoder {
    /// Of columns that are read so, into batches of at most so many rows and, as far as one row allows, bytes.
    pub(super) fn new(schema: SchemaRef, readings: &[Reading], max_rows: usize, max_bytes: usize) -> Self {
        let columns = readings.iter().map(|reading| ColumnDecoder::new(reading, max_rows)).collect();
        // An offset counts as four bytes.
        let width = |field: &Arc<Field>| field.data_type().primitive_width().unwrap_or(4);
        let row_bytes = schema.fields().iter().map(width).sum();
        Self {
            row_bytes,
            schema,
            columns,
            spans: Vec::new(),
            rows: 0,
            bytes: 0,
            widest: 0,
            max_rows: max_rows.max(1),
            // Offsets of text are 32 bits wide, and a single value may have 1 GB.
            max_bytes: max_bytes.clamp(1, 1 << 30),
            started: false,
            ended: false,
        }
    }

    /// Whether a batch should be taken before more rows are.
    pub(super) fn is_full(&self) -> bool {
        // A row that is larger than a batch may be is a batch of its own.
        self.rows > 0 && (self.rows >= self.max_rows || self.bytes + self.widest > self.max_bytes)
    }

    /// Whether the end mark has come.
    pub(super) fn has_ended(&self) -> bool {
        self.ended
    }

    /// Takes whole rows from the front of `bytes`, until a batch is full; gives the number of bytes that they were.
    pub(super) fn take(&mut self, bytes: &[u8]) -> Result<usize> {
        let mut at = 0;
        if !self.started {
            // Flags of 32 bits, of which none is in use, and the length of an extension of the header.
            let Some(head) = bytes.get(..SIGNATURE.len() + 8) else { return Ok(0) };
            let (signature, rest) = head.split_at(SIGNATURE.len());
            if signature != SIGNATURE || rest != [0; 8] {
                return Err(malformed("header"));
            }
            at = head.len();
            self.started = true;
        }
        self.spans.clear();
        let mut rows = 0;
        while !self.ended && !self.is_full() {
            let Some(end) = self.find_fields(bytes, at)? else { break };
            let width = (end - at).max(self.row_bytes);
            at = end;
            if self.ended {
                break;
            }
            rows += 1;
            self.rows += 1;
            self.bytes += width;
            self.widest = self.widest.max(width);
        }
        for (index, column) in self.columns.iter_mut().enumerate() {
            let width = self.schema.fields().len();
            let fields = self.spans.iter().skip(index).step_by(width.max(1)).take(rows).copied();
            column.append(bytes, fields).map_err(|misfit| misfit.at(&self.schema, index))?;
        }
        Ok(at)
    }

    /// Notes where the fields of the row at `at` are; gives its end, `None` if it is not whole.
    #[inline]
    fn find_fields(&mut self, bytes: &[u8], mut at: usize) -> Result<Option<usize>> {
        let first = self.spans.len();
        let Some(count) = bytes.get(at..at + 2) else { return Ok(None) };
        let count = i16::from_be_bytes([count[0], count[1]]);
        at += 2;
        if count == -1 {
            self.ended = true;
            return Ok(Some(at));
        }
        if usize::try_from(count) != Ok(self.columns.len()) {
            return Err(malformed("number of fields"));
        }
        for _ in 0..count {
            let Some(&[a, b, c, d]) = bytes.get(at..at + 4) else {
                self.spans.truncate(first);
                return Ok(None);
            };
            let length = i32::from_be_bytes([a, b, c, d]);
            at += 4;
            // A block is far from 4 GB: see `CopyOut`.
            self.spans.push(Span { start: at as u32, length });
            at += usize::try_from(length).unwrap_or(0);
            if at > bytes.len() {
                self.spans.truncate(first);
                return Ok(None);
            }
        }
        Ok(Some(at))
    }

    /// The rows that were taken; `None` if there are none.
    pub(super) fn batch(&mut self) -> Result<Option<RecordBatch>> {
        if self.rows == 0 {
            return Ok(None);
        }
        let rows = self.rows;
        let mut arrays = Vec::with_capacity(self.columns.len());
        for (column, field) in self.columns.iter_mut().zip(self.schema.fields()) {
            let array = column.finish(rows).map_err(|misfit| misfit.of(field.name(), field.data_type()))?;
            if !field.is_nullable() && array.null_count() > 0 {
                let message = "there is a null although the column is declared NOT NULL";
                return Err(Error::new(ErrorKind::InvalidData, message).at_column(field.name()));
            }
            arrays.push(array);
        }
        (self.rows, self.bytes, self.widest) = (0, 0, 0);
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        Ok(Some(RecordBatch::try_new_with_options(self.schema.clone(), arrays, &options)?))
    }
}

fn malformed(what: &str) -> Error {
    Error::new(ErrorKind::InvalidData, format!("the server sent a COPY whose {what} is not as it should be"))
}

/// What was found in place of a value of the column's type; never the value itself.
#[derive(Debug, PartialEq)]
enum Misfit {
    Value(&'static str),
    Malformed,
}

impl Misfit {
    fn at(&self, schema: &SchemaRef, index: usize) -> Error {
        let field = schema.field(index);
        self.of(field.name(), field.data_type())
    }

    fn of(&self, column: &str, data_type: &DataType) -> Error {
        match self {
            Self::Value(found) => {
                let message = format!("there is {found}, which {} cannot hold", type_name(data_type));
                let other = if found.contains("UTF-8") { "binary" } else { "text" };
                Error::new(ErrorKind::InvalidData, message)
                    .hint(format!("the source option types={column}:{other} takes it as it is"))
            }
            Self::Malformed => malformed("value"),
        }
        .at_column(column)
    }
}

impl From<NumericMisfit> for Misfit {
    fn from(misfit: NumericMisfit) -> Self {
        match misfit {
            NumericMisfit::NaN => Self::Value("NaN"),
            NumericMisfit::Infinity => Self::Value("infinity"),
            NumericMisfit::Digits => Self::Value("a number of more digits"),
            NumericMisfit::Malformed => Self::Malformed,
        }
    }
}

/// Gathers the values of one column.
struct ColumnDecoder {
    wire: Wire,
    data_type: DataType,
    nulls: NullBufferBuilder,
    values: Values,
}

enum Values {
    Bits(BooleanBufferBuilder),
    Int16(Vec<i16>),
    Int32(Vec<i32>),
    Int64(Vec<i64>),
    Float32(Vec<f32>),
    Float64(Vec<f64>),
    Decimal128(Vec<i128>),
    Decimal256(Vec<i256>),
    /// Sixteen bytes each.
    Uuid(Uuids),
    /// Ends of the values, and their bytes.
    Bytes(Vec<i32>, Vec<u8>),
}

impl ColumnDecoder {
    fn new(reading: &Reading, rows: usize) -> Self {
        let data_type = reading.field.data_type().clone();
        let values = Values::new(&data_type);
        Self { wire: reading.wire, data_type, nulls: NullBufferBuilder::new(rows), values }
    }

    #[inline]
    fn append(&mut self, bytes: &[u8], fields: impl Iterator<Item = Span>) -> Result<(), Misfit> {
        let Self { wire, data_type, nulls, values } = self;
        match (wire, values) {
            (Wire::Bool, Values::Bits(values)) => {
                each(bytes, fields, nulls, values, |field: [u8; 1]| Ok(field[0] != 0))
            }
            (Wire::Int2, Values::Int16(values)) => {
                each(bytes, fields, nulls, values, |field| Ok(i16::from_be_bytes(field)))
            }
            (Wire::Int4, Values::Int32(values)) => {
                each(bytes, fields, nulls, values, |field| Ok(i32::from_be_bytes(field)))
            }
            (Wire::Int8, Values::Int64(values)) => {
                each(bytes, fields, nulls, values, |field| Ok(i64::from_be_bytes(field)))
            }
            (Wire::Float4, Values::Float32(values)) => {
                each(bytes, fields, nulls, values, |field| Ok(f32::from_be_bytes(field)))
            }
            (Wire::Float8, Values::Float64(values)) => {
                each(bytes, fields, nulls, values, |field| Ok(f64::from_be_bytes(field)))
            }
            (Wire::Date, Values::Int32(values)) => each(bytes, fields, nulls, values, |field| {
                let days = i32::from_be_bytes(field);
                if matches!(days, i32::MAX | i32::MIN) {
                    return Err(Misfit::Value("infinity"));
                }
                days.checked_add(EPOCH_DAYS).ok_or(Misfit::Malformed)
            }),
            (Wire::Time, Values::Int64(values)) => each(bytes, fields, nulls, values, |field| {
                let time = i64::from_be_bytes(field);
                if (0..DAY_MICROSECONDS).contains(&time) { Ok(time) } else { Err(Misfit::Value("24:00:00")) }
            }),
            (Wire::Timestamp, Values::Int64(values)) => each(bytes, fields, nulls, values, |field| {
                let time = i64::from_be_bytes(field);
                if matches!(time, i64::MAX | i64::MIN) {
                    return Err(Misfit::Value("infinity"));
                }
                time.checked_add(EPOCH_MICROSECONDS).ok_or(Misfit::Value("a timestamp after the year 294246"))
            }),
            (Wire::Uuid, Values::Uuid(values)) => each(bytes, fields, nulls, values, |field: [u8; 16]| Ok(field)),
            (Wire::Numeric, Values::Decimal128(values)) => {
                let (precision, scale) = decimal_of(data_type);
                variable(bytes, fields, nulls, values, |values, field| {
                    values.put(numeric::to_decimal128(field, precision, scale)?);
                    Ok(())
                })
            }
            (Wire::Numeric, Values::Decimal256(values)) => {
                let (precision, scale) = decimal_of(data_type);
                variable(bytes, fields, nulls, values, |values, field| {
                    values.put(numeric::to_decimal256(field, precision, scale)?);
                    Ok(())
                })
            }
            (Wire::Numeric, Values::Bytes(ends, data)) => {
                variable(bytes, fields, nulls, &mut Text(ends, data), |text, field| {
                    numeric::write_text(field, text.1)?;
                    text.end()
                })
            }
            (Wire::Uuid, Values::Bytes(ends, data)) => {
                variable(bytes, fields, nulls, &mut Text(ends, data), |text, field| {
                    write_uuid(text.1, field.try_into().map_err(|_| Misfit::Malformed)?);
                    text.end()
                })
            }
            (Wire::Jsonb, Values::Bytes(ends, data)) => {
                variable(bytes, fields, nulls, &mut Text(ends, data), |text, field| {
                    // The version of the format, which is text behind it.
                    let json = field.strip_prefix(&[1]).ok_or(Misfit::Malformed)?;
                    text.1.extend_from_slice(json);
                    text.end()
                })
            }
            (Wire::Text | Wire::Bytea, Values::Bytes(ends, data)) => {
                variable(bytes, fields, nulls, &mut Text(ends, data), |text, field| {
                    text.1.extend_from_slice(field);
                    text.end()
                })
            }
            _ => Err(Misfit::Malformed),
        }
    }

    fn finish(&mut self, rows: usize) -> Result<ArrayRef, Misfit> {
        let nulls = self.nulls.finish();
        let fresh = Values::new(&self.data_type);
        let array: ArrayRef = match std::mem::replace(&mut self.values, fresh) {
            Values::Bits(mut values) => Arc::new(BooleanArray::new(values.finish(), nulls)),
            Values::Int16(values) => Arc::new(PrimitiveArray::<Int16Type>::new(values.into(), nulls)),
            Values::Int32(values) => match self.data_type {
                DataType::Date32 => Arc::new(PrimitiveArray::<Date32Type>::new(values.into(), nulls)),
                _ => Arc::new(PrimitiveArray::<Int32Type>::new(values.into(), nulls)),
            },
            Values::Int64(values) => match &self.data_type {
                DataType::Time64(_) => Arc::new(PrimitiveArray::<Time64MicrosecondType>::new(values.into(), nulls)),
                DataType::Timestamp(TimeUnit::Microsecond, zone) => Arc::new(
                    PrimitiveArray::<TimestampMicrosecondType>::new(values.into(), nulls)
                        .with_timezone_opt(zone.clone()),
                ),
                _ => Arc::new(PrimitiveArray::<Int64Type>::new(values.into(), nulls)),
            },
            Values::Float32(values) => Arc::new(PrimitiveArray::<Float32Type>::new(values.into(), nulls)),
            Values::Float64(values) => Arc::new(PrimitiveArray::<Float64Type>::new(values.into(), nulls)),
            Values::Decimal128(values) => Arc::new(
                PrimitiveArray::<Decimal128Type>::new(values.into(), nulls).with_data_type(self.data_type.clone()),
            ),
            Values::Decimal256(values) => Arc::new(
                PrimitiveArray::<Decimal256Type>::new(values.into(), nulls).with_data_type(self.data_type.clone()),
            ),
            Values::Uuid(uuids) => Arc::new(FixedSizeBinaryArray::new(16, uuids.0.into(), nulls)),
            Values::Bytes(ends, data) => {
                debug_assert_eq!(ends.len(), rows + 1);
                let offsets = OffsetBuffer::new(ScalarBuffer::from(ends));
                match self.data_type {
                    DataType::Utf8 => {
                        // The server checks what it stores, but for databases with the encoding SQL_ASCII.
                        let array = StringArray::try_new(offsets, data.into(), nulls);
                        Arc::new(array.map_err(|_| Misfit::Value("text that is not UTF-8"))?)
                    }
                    _ => Arc::new(BinaryArray::new(offsets, data.into(), nulls)),
                }
            }
        };
        Ok(array)
    }
}

fn decimal_of(data_type: &DataType) -> (u8, u8) {
    match data_type {
        // Scales here are never negative.
        DataType::Decimal128(precision, scale) | DataType::Decimal256(precision, scale) => {
            (*precision, scale.unsigned_abs())
        }
        _ => (0, 0),
    }
}

impl Values {
    fn new(data_type: &DataType) -> Self {
        match data_type {
            DataType::Boolean => Self::Bits(BooleanBufferBuilder::new(0)),
            DataType::Int16 => Self::Int16(Vec::new()),
            DataType::Int32 | DataType::Date32 => Self::Int32(Vec::new()),
            DataType::Int64 | DataType::Time64(_) | DataType::Timestamp(..) => Self::Int64(Vec::new()),
            DataType::Float32 => Self::Float32(Vec::new()),
            DataType::Float64 => Self::Float64(Vec::new()),
            DataType::Decimal128(..) => Self::Decimal128(Vec::new()),
            DataType::Decimal256(..) => Self::Decimal256(Vec::new()),
            DataType::FixedSizeBinary(16) => Self::Uuid(Uuids(Vec::new())),
            _ => Self::Bytes(vec![0], Vec::new()),
        }
    }
}

/// What takes something in place of a null.
trait Empty {
    fn empty(&mut self);
}

/// What takes values.
trait Put<T>: Empty {
    fn put(&mut self, value: T);
}

impl<T: ArrowNativeType> Empty for Vec<T> {
    #[inline]
    fn empty(&mut self) {
        self.push(T::default());
    }
}

impl<T: ArrowNativeType> Put<T> for Vec<T> {
    #[inline]
    fn put(&mut self, value: T) {
        self.push(value);
    }
}

impl Empty for BooleanBufferBuilder {
    #[inline]
    fn empty(&mut self) {
        self.append(false);
    }
}

impl Put<bool> for BooleanBufferBuilder {
    #[inline]
    fn put(&mut self, value: bool) {
        self.append(value);
    }
}

struct Uuids(Vec<u8>);

impl Empty for Uuids {
    fn empty(&mut self) {
        self.0.extend([0; 16]);
    }
}

impl Put<[u8; 16]> for Uuids {
    fn put(&mut self, value: [u8; 16]) {
        self.0.extend(value);
    }
}

struct Text<'a>(&'a mut Vec<i32>, &'a mut Vec<u8>);

impl Text<'_> {
    #[inline]
    fn end(&mut self) -> Result<(), Misfit> {
        // A batch has at most 1 GB and one more row, of which a field has at most 1 GB.
        self.0.push(i32::try_from(self.1.len()).map_err(|_| Misfit::Value("more than 2 GB of text in one batch"))?);
        Ok(())
    }
}

impl Empty for Text<'_> {
    fn empty(&mut self) {
        self.0.push(self.0.last().copied().unwrap_or_default());
    }
}

/// Values of one width.
#[inline]
fn each<T, V: Put<T>, const WIDTH: usize>(
    bytes: &[u8],
    fields: impl Iterator<Item = Span>,
    nulls: &mut NullBufferBuilder,
    values: &mut V,
    convert: impl Fn([u8; WIDTH]) -> Result<T, Misfit>,
) -> Result<(), Misfit> {
    variable(bytes, fields, nulls, values, |values, field| {
        values.put(convert(field.try_into().map_err(|_| Misfit::Malformed)?)?);
        Ok(())
    })
}

#[inline]
fn variable<V: Empty>(
    bytes: &[u8],
    fields: impl Iterator<Item = Span>,
    nulls: &mut NullBufferBuilder,
    values: &mut V,
    push: impl Fn(&mut V, &[u8]) -> Result<(), Misfit>,
) -> Result<(), Misfit> {
    for Span { start, length } in fields {
        match usize::try_from(length) {
            Ok(length) => {
                let start = start as usize;
                push(values, bytes.get(start..start + length).ok_or(Misfit::Malformed)?)?;
                nulls.append_non_null();
            }
            Err(_) => {
                values.empty();
                nulls.append_null();
            }
        }
    }
    Ok(())
}

/// As PostgreSQL writes it: 8-4-4-4-12 hexadecimal digits in lower case.
fn write_uuid(out: &mut Vec<u8>, uuid: &[u8; 16]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for (index, byte) in uuid.iter().enumerate() {
        if matches!(index, 4 | 6 | 8 | 10) {
            out.push(b'-');
        }
        out.extend([DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]);
    }
}
