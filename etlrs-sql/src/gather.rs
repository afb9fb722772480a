//! Fields of rows, as a server sends them, into Arrow columns.
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
use arrow_schema::{DataType, SchemaRef, TimeUnit};
use etlrs_core::{Error, ErrorKind, type_name};

/// Where a field is among the bytes; a null has no length.
#[derive(Clone, Copy)]
pub(crate) struct Span {
    pub(crate) start: u32,
    pub(crate) length: i32,
}

#[cfg(feature = "mysql")]
impl Span {
    pub(crate) const NULL: Self = Self { start: 0, length: -1 };
}

/// What was found in place of a value of the column's type; never the value itself.
#[derive(Debug, PartialEq)]
pub(crate) enum Misfit {
    Value(&'static str),
    Malformed,
}

impl Misfit {
    pub(crate) fn at(&self, schema: &SchemaRef, index: usize) -> Error {
        let field = schema.field(index);
        self.of(field.name(), field.data_type())
    }

    pub(crate) fn of(&self, column: &str, data_type: &DataType) -> Error {
        match self {
            Self::Value(found) => {
                let message = format!("there is {found}, which {} cannot hold", type_name(data_type));
                let other = if found.contains("UTF-8") { "binary" } else { "text" };
                let zero = if found.contains("0000") { ", and zero_dates=null makes it null" } else { "" };
                Error::new(ErrorKind::InvalidData, message)
                    .hint(format!("the source option types={column}:{other} takes it as it is{zero}"))
            }
            Self::Malformed => {
                Error::new(ErrorKind::InvalidData, "the server sent a value that is not as it should be")
            }
        }
        .at_column(column)
    }
}

/// Gathers the values of one column.
pub(crate) struct Gather {
    pub(crate) data_type: DataType,
    pub(crate) nulls: NullBufferBuilder,
    pub(crate) values: Values,
}

pub(crate) enum Values {
    Bits(BooleanBufferBuilder),
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
    Decimal128(Vec<i128>),
    Decimal256(Vec<i256>),
    /// All of one length.
    Fixed(Fixed),
    /// Ends of the values, and their bytes.
    Bytes(Vec<i32>, Vec<u8>),
}

impl Gather {
    pub(crate) fn new(data_type: &DataType, rows: usize) -> Self {
        let values = Values::new(data_type);
        Self { data_type: data_type.clone(), nulls: NullBufferBuilder::new(rows), values }
    }

    /// The array of so many values.
    pub(crate) fn finish(&mut self, rows: usize) -> Result<ArrayRef, Misfit> {
        let nulls = self.nulls.finish();
        let fresh = Values::new(&self.data_type);
        let array: ArrayRef = match std::mem::replace(&mut self.values, fresh) {
            Values::Bits(mut values) => Arc::new(BooleanArray::new(values.finish(), nulls)),
            Values::Int8(values) => Arc::new(PrimitiveArray::<Int8Type>::new(values.into(), nulls)),
            Values::UInt8(values) => Arc::new(PrimitiveArray::<UInt8Type>::new(values.into(), nulls)),
            Values::UInt16(values) => Arc::new(PrimitiveArray::<UInt16Type>::new(values.into(), nulls)),
            Values::UInt32(values) => Arc::new(PrimitiveArray::<UInt32Type>::new(values.into(), nulls)),
            Values::UInt64(values) => Arc::new(PrimitiveArray::<UInt64Type>::new(values.into(), nulls)),
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
            Values::Fixed(fixed) => Arc::new(FixedSizeBinaryArray::new(fixed.width, fixed.bytes.into(), nulls)),
            Values::Bytes(ends, data) => {
                debug_assert_eq!(ends.len(), rows + 1);
                let offsets = OffsetBuffer::new(ScalarBuffer::from(ends));
                match self.data_type {
                    DataType::Utf8 => {
                        // Servers check what they store, but for PostgreSQL with the encoding SQL_ASCII.
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

/// A batch of so many rows, of what was gathered for its columns.
pub(crate) fn batch<'a>(
    schema: &SchemaRef,
    columns: impl Iterator<Item = &'a mut Gather>,
    rows: usize,
) -> Result<RecordBatch, Error> {
    let mut arrays = Vec::with_capacity(schema.fields().len());
    for (column, field) in columns.zip(schema.fields()) {
        let array = column.finish(rows).map_err(|misfit| misfit.of(field.name(), field.data_type()))?;
        if !field.is_nullable() && array.null_count() > 0 {
            let message = "there is a null although the column is declared NOT NULL";
            return Err(Error::new(ErrorKind::InvalidData, message).at_column(field.name()));
        }
        arrays.push(array);
    }
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    Ok(RecordBatch::try_new_with_options(schema.clone(), arrays, &options)?)
}

/// Precision and scale.
pub(crate) fn decimal_of(data_type: &DataType) -> (u8, u8) {
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
            DataType::Int8 => Self::Int8(Vec::new()),
            DataType::UInt8 => Self::UInt8(Vec::new()),
            DataType::UInt16 => Self::UInt16(Vec::new()),
            DataType::UInt32 => Self::UInt32(Vec::new()),
            DataType::UInt64 => Self::UInt64(Vec::new()),
            DataType::Int16 => Self::Int16(Vec::new()),
            DataType::Int32 | DataType::Date32 => Self::Int32(Vec::new()),
            DataType::Int64 | DataType::Time64(_) | DataType::Timestamp(..) => Self::Int64(Vec::new()),
            DataType::Float32 => Self::Float32(Vec::new()),
            DataType::Float64 => Self::Float64(Vec::new()),
            DataType::Decimal128(..) => Self::Decimal128(Vec::new()),
            DataType::Decimal256(..) => Self::Decimal256(Vec::new()),
            DataType::FixedSizeBinary(width) => Self::Fixed(Fixed { width: *width, bytes: Vec::new() }),
            _ => Self::Bytes(vec![0], Vec::new()),
        }
    }
}

/// What takes something in place of a null.
pub(crate) trait Empty {
    fn empty(&mut self);
}

/// What takes values.
pub(crate) trait Put<T>: Empty {
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

/// Values of so many bytes each.
pub(crate) struct Fixed {
    width: i32,
    bytes: Vec<u8>,
}

impl Empty for Fixed {
    fn empty(&mut self) {
        let width = usize::try_from(self.width).unwrap_or_default();
        self.bytes.resize(self.bytes.len() + width, 0);
    }
}

impl Fixed {
    /// # Errors
    /// `Malformed` for bytes of another length.
    pub(crate) fn put(&mut self, value: &[u8]) -> Result<(), Misfit> {
        if usize::try_from(self.width) != Ok(value.len()) {
            return Err(Misfit::Malformed);
        }
        self.bytes.extend_from_slice(value);
        Ok(())
    }
}

/// The ends of texts, and their bytes.
pub(crate) struct Text<'a>(pub(crate) &'a mut Vec<i32>, pub(crate) &'a mut Vec<u8>);

impl Text<'_> {
    #[inline]
    pub(crate) fn end(&mut self) -> Result<(), Misfit> {
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
pub(crate) fn each<T, V: Put<T>, const WIDTH: usize>(
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

/// Values of any width.
#[inline]
pub(crate) fn variable<V: Empty>(
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
