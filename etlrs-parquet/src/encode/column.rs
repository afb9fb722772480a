//! Which encoder a column gets.

use arrow_array::cast::AsArray;
use arrow_array::types::*;
use arrow_array::{Array, ArrayRef, UInt64Array};
use arrow_schema::{DataType, TimeUnit};
use parquet::arrow::arrow_writer::{ArrowColumnChunk, ArrowColumnWriter, ArrowLeafColumn};
use parquet::basic::Type as PhysicalType;
use parquet::errors::{ParquetError, Result};
use parquet::schema::types::ColumnDescPtr;

use super::ColumnLayout;
use super::bytes::BytesColumn;
use super::chunk::EncodedChunk;
use super::codec::Compressor;
use super::filter::{self, complete};
use super::fixed::NumberColumn;

/// One leaf column of a row group in the making.
pub(crate) enum Column {
    Int32(NumberColumn<i32>),
    Int64(NumberColumn<i64>),
    Float32(NumberColumn<f32>),
    Float64(NumberColumn<f64>),
    Bytes(BytesColumn),
    /// By the parquet crate.
    Crate(Box<ArrowColumnWriter>),
}

/// The end of it.
pub(crate) enum EncodedColumn {
    Quick(EncodedChunk),
    Crate(ArrowColumnChunk),
}

impl EncodedColumn {
    pub(crate) fn bytes(&self) -> usize {
        let close = match self {
            Self::Quick(chunk) => &chunk.close,
            Self::Crate(chunk) => chunk.close(),
        };
        let filter = close.bloom_filter.as_ref().map_or(0, filter::bytes);
        usize::try_from(close.bytes_written).unwrap_or(usize::MAX).saturating_add(filter)
    }
}

impl Column {
    /// For a column of `data_type` that is stored as `column` and no part of another, if it is one that is encoded here.
    pub(crate) fn quick(data_type: &DataType, column: &ColumnDescPtr, layout: ColumnLayout) -> Option<Self> {
        if column.max_rep_level() > 0 || column.max_def_level() > 1 {
            return None;
        }
        let column = column.clone();
        let micro_or_nano = |unit: &TimeUnit| matches!(unit, TimeUnit::Microsecond | TimeUnit::Nanosecond);
        match (data_type, column.physical_type()) {
            (DataType::Int32 | DataType::Date32 | DataType::Time32(TimeUnit::Millisecond), PhysicalType::INT32) => {
                Some(Self::Int32(NumberColumn::new(column, layout)))
            }
            (DataType::Int64, PhysicalType::INT64) => Some(Self::Int64(NumberColumn::new(column, layout))),
            (DataType::Time64(unit), PhysicalType::INT64) if micro_or_nano(unit) => {
                Some(Self::Int64(NumberColumn::new(column, layout)))
            }
            (DataType::Timestamp(unit, _), PhysicalType::INT64) if *unit != TimeUnit::Second => {
                Some(Self::Int64(NumberColumn::new(column, layout)))
            }
            (DataType::Float32, PhysicalType::FLOAT) => Some(Self::Float32(NumberColumn::new(column, layout))),
            (DataType::Float64, PhysicalType::DOUBLE) => Some(Self::Float64(NumberColumn::new(column, layout))),
            (DataType::Utf8 | DataType::LargeUtf8, PhysicalType::BYTE_ARRAY) => {
                Some(Self::Bytes(BytesColumn::new(column, true, layout)))
            }
            (DataType::Binary | DataType::LargeBinary, PhysicalType::BYTE_ARRAY) => {
                Some(Self::Bytes(BytesColumn::new(column, false, layout)))
            }
            _ => None,
        }
    }

    pub(crate) fn memory(&self) -> usize {
        match self {
            Self::Int32(column) => column.memory(),
            Self::Int64(column) => column.memory(),
            Self::Float32(column) => column.memory(),
            Self::Float64(column) => column.memory(),
            Self::Bytes(column) => column.memory(),
            Self::Crate(column) => column.memory_size(),
        }
    }

    /// Adds the rows of `array`, if it is encoded here.
    pub(crate) fn write(&mut self, compressor: &mut Compressor, array: &ArrayRef) -> Result<bool> {
        // Rows that are appended to a file may be laid out in another way than its columns say.
        let unpacked = match (&self, array.data_type()) {
            (Self::Crate(_), _) => return Ok(false),
            (Self::Bytes(_), _) => None,
            (_, DataType::Dictionary(..)) => Some(unpack(array)?),
            _ => None,
        };
        let array = unpacked.as_ref().unwrap_or(array);
        macro_rules! numbers {
            ($column:expr, $($pattern:pat => $type:ty),+) => {
                match array.data_type() {
                    $($pattern => {
                        let array = array.as_primitive::<$type>();
                        $column.write(compressor, array.values(), array.nulls())?;
                    })+
                    _ => return Err(other_type(array)),
                }
            };
        }
        use TimeUnit::{Microsecond, Millisecond, Nanosecond};
        match self {
            Self::Int32(column) => numbers!(column,
                DataType::Int32 => Int32Type,
                DataType::Date32 => Date32Type,
                DataType::Time32(Millisecond) => Time32MillisecondType),
            Self::Int64(column) => numbers!(column,
                DataType::Int64 => Int64Type,
                DataType::Time64(Microsecond) => Time64MicrosecondType,
                DataType::Time64(Nanosecond) => Time64NanosecondType,
                DataType::Timestamp(Millisecond, _) => TimestampMillisecondType,
                DataType::Timestamp(Microsecond, _) => TimestampMicrosecondType,
                DataType::Timestamp(Nanosecond, _) => TimestampNanosecondType),
            Self::Float32(column) => numbers!(column, DataType::Float32 => Float32Type),
            Self::Float64(column) => numbers!(column, DataType::Float64 => Float64Type),
            Self::Bytes(column) => texts(column, compressor, array)?,
            Self::Crate(_) => return Ok(false),
        }
        Ok(true)
    }

    /// Adds rows to a column that the crate encodes.
    pub(crate) fn write_leaf(&mut self, values: &ArrowLeafColumn) -> Result<()> {
        match self {
            Self::Crate(column) => column.write(values),
            _ => Err(ParquetError::General("a batch has other columns than the plan".to_owned())),
        }
    }

    pub(crate) fn finish(self, compressor: Option<&mut Compressor>) -> Result<EncodedColumn> {
        let column = match self {
            Self::Crate(column) => {
                let mut chunk = column.close()?;
                let close = chunk.close_mut();
                close.bloom_filter =
                    close.bloom_filter.take().and_then(|filter| complete(filter, close.metadata.column_descr()));
                return Ok(EncodedColumn::Crate(chunk));
            }
            column => column,
        };
        let lost = || ParquetError::General("a column has lost its compressor".to_owned());
        let compressor = compressor.ok_or_else(lost)?;
        Ok(EncodedColumn::Quick(match column {
            Self::Int32(column) => column.finish(compressor)?,
            Self::Int64(column) => column.finish(compressor)?,
            Self::Float32(column) => column.finish(compressor)?,
            Self::Float64(column) => column.finish(compressor)?,
            Self::Bytes(column) => column.finish(compressor)?,
            Self::Crate(_) => return Err(lost()),
        }))
    }
}

fn other_type(array: &ArrayRef) -> ParquetError {
    ParquetError::General(format!("a batch has a column of {} that is planned otherwise", array.data_type()))
}

fn texts(column: &mut BytesColumn, compressor: &mut Compressor, array: &ArrayRef) -> Result<()> {
    let nulls = array.logical_nulls();
    let nulls = nulls.as_ref();
    let rows = array.len();
    macro_rules! texts {
        ($array:expr) => {{
            let array = $array;
            column.write(compressor, rows, nulls, |row| array.value(row).as_ref())
        }};
    }
    match array.data_type() {
        DataType::Utf8 => texts!(array.as_string::<i32>()),
        DataType::LargeUtf8 => texts!(array.as_string::<i64>()),
        DataType::Utf8View => texts!(array.as_string_view()),
        DataType::Binary => texts!(array.as_binary::<i32>()),
        DataType::LargeBinary => texts!(array.as_binary::<i64>()),
        DataType::BinaryView => texts!(array.as_binary_view()),
        DataType::Dictionary(..) => {
            let dictionary = array.as_any_dictionary();
            let keys = if rows == dictionary.keys().null_count() { Vec::new() } else { dictionary.normalized_keys() };
            macro_rules! values {
                ($values:expr) => {{
                    let values = $values;
                    column.write(compressor, rows, nulls, |row| values.value(keys[row]).as_ref())
                }};
            }
            match dictionary.values().data_type() {
                DataType::Utf8 => values!(dictionary.values().as_string::<i32>()),
                DataType::LargeUtf8 => values!(dictionary.values().as_string::<i64>()),
                DataType::Utf8View => values!(dictionary.values().as_string_view()),
                DataType::Binary => values!(dictionary.values().as_binary::<i32>()),
                DataType::LargeBinary => values!(dictionary.values().as_binary::<i64>()),
                DataType::BinaryView => values!(dictionary.values().as_binary_view()),
                _ => Err(other_type(array)),
            }
        }
        _ => Err(other_type(array)),
    }
}

/// The values of a dictionary array of numbers, one for each row.
pub(super) fn unpack(array: &ArrayRef) -> Result<ArrayRef> {
    arrow_select::take::take(array.as_any_dictionary().values(), &keys(array)?, None).map_err(ParquetError::from)
}

/// The keys of a dictionary array as one type.
fn keys(array: &ArrayRef) -> Result<UInt64Array> {
    let dictionary = array.as_any_dictionary();
    if dictionary.values().is_empty() {
        return Ok(UInt64Array::new_null(array.len()));
    }
    let keys = dictionary.normalized_keys().into_iter().map(|key| key as u64);
    Ok(UInt64Array::new(keys.collect(), dictionary.keys().nulls().cloned()))
}
