//! Rows: what closures of users see, at the cost of a dispatch per value.

mod builder;
mod owned;

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::*;
use arrow_array::{Array, ArrayRef, RecordBatch};
use arrow_schema::{DataType, Schema, SchemaRef, TimeUnit};

pub use builder::RecordBatchBuilder;
pub use owned::OwnedRecord;

use crate::{Error, ErrorKind, Result};

/// The position of column `name` in `schema`.
///
/// # Errors
/// `InvalidConfig`, with the columns that there are and the one that was probably meant.
pub fn column_index(schema: &Schema, name: &str) -> Result<usize> {
    schema.fields().iter().position(|field| field.name() == name).ok_or_else(|| {
        let names: Vec<_> = schema.fields().iter().map(|field| field.name().as_str()).collect();
        crate::unknown_name("column", name, &names)
    })
}

/// A value of a row, borrowed from its batch or owned.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Value<'a> {
    /// No value.
    Null,
    /// True or false.
    Boolean(bool),
    /// An integer of any signed width, or an unsigned one that fits.
    Int(i64),
    /// An unsigned integer above `i64::MAX`.
    UInt(u64),
    /// A floating point number of any width.
    Float(f64),
    /// `value / 10^scale`.
    Decimal {
        /// The digits.
        value: i128,
        /// Digits after the point.
        scale: i8,
    },
    /// Text.
    Text(Cow<'a, str>),
    /// Bytes.
    Binary(Cow<'a, [u8]>),
    /// Days since 1970-01-01.
    Date(i32),
    /// Nanoseconds since midnight.
    Time(i64),
    /// Microseconds since 1970-01-01 00:00: in UTC if the column has a zone, else on a clock of unknown zone.
    Timestamp(i64),
    /// A list, struct or other nested or rare value, as an array of one element.
    Other(ArrayRef),
}

impl Value<'_> {
    /// A copy that owns its text.
    pub fn into_owned(self) -> Value<'static> {
        match self {
            Value::Text(text) => Value::Text(Cow::Owned(text.into_owned())),
            Value::Binary(bytes) => Value::Binary(Cow::Owned(bytes.into_owned())),
            Value::Null => Value::Null,
            Value::Boolean(value) => Value::Boolean(value),
            Value::Int(value) => Value::Int(value),
            Value::UInt(value) => Value::UInt(value),
            Value::Float(value) => Value::Float(value),
            Value::Decimal { value, scale } => Value::Decimal { value, scale },
            Value::Date(days) => Value::Date(days),
            Value::Time(nanoseconds) => Value::Time(nanoseconds),
            Value::Timestamp(microseconds) => Value::Timestamp(microseconds),
            Value::Other(array) => Value::Other(array),
        }
    }

    /// The same value without a copy.
    fn borrowed(&self) -> Value<'_> {
        match self {
            Value::Text(text) => Value::Text(Cow::Borrowed(text)),
            Value::Binary(bytes) => Value::Binary(Cow::Borrowed(bytes)),
            Value::Other(array) => Value::Other(array.clone()),
            Value::Null => Value::Null,
            Value::Boolean(value) => Value::Boolean(*value),
            Value::Int(value) => Value::Int(*value),
            Value::UInt(value) => Value::UInt(*value),
            Value::Float(value) => Value::Float(*value),
            Value::Decimal { value, scale } => Value::Decimal { value: *value, scale: *scale },
            Value::Date(days) => Value::Date(*days),
            Value::Time(nanoseconds) => Value::Time(*nanoseconds),
            Value::Timestamp(microseconds) => Value::Timestamp(*microseconds),
        }
    }

    fn kind(&self) -> &'static str {
        match self {
            Value::Null => "null",
            Value::Boolean(_) => "boolean",
            Value::Int(_) | Value::UInt(_) => "integer",
            Value::Float(_) => "float",
            Value::Decimal { .. } => "decimal",
            Value::Text(_) => "text",
            Value::Binary(_) => "binary",
            Value::Date(_) => "date",
            Value::Time(_) => "time",
            Value::Timestamp(_) => "timestamp",
            Value::Other(_) => "nested value",
        }
    }
}

macro_rules! value_from {
    ($($from:ty => |$value:ident| $make:expr;)*) => { $(
        impl From<$from> for Value<'static> {
            fn from($value: $from) -> Self {
                $make
            }
        }
    )* };
}

value_from! {
    bool => |value| Value::Boolean(value);
    i32 => |value| Value::Int(value.into());
    i64 => |value| Value::Int(value);
    f64 => |value| Value::Float(value);
    String => |value| Value::Text(value.into());
}

impl<'a> From<&'a str> for Value<'a> {
    fn from(value: &'a str) -> Self {
        Value::Text(value.into())
    }
}

impl<'a, T: Into<Value<'a>>> From<Option<T>> for Value<'a> {
    fn from(value: Option<T>) -> Self {
        value.map_or(Value::Null, Into::into)
    }
}

/// A column, named by text or by position.
pub trait ColumnRef {
    /// Its position in `schema`.
    ///
    /// # Errors
    /// `InvalidConfig` if there is no such column.
    fn position(&self, schema: &Schema) -> Result<usize>;
}

impl ColumnRef for &str {
    fn position(&self, schema: &Schema) -> Result<usize> {
        column_index(schema, self)
    }
}

impl ColumnRef for usize {
    fn position(&self, schema: &Schema) -> Result<usize> {
        if *self < schema.fields().len() {
            return Ok(*self);
        }
        Err(Error::new(
            ErrorKind::InvalidConfig,
            format!("there is no column at position {self}; the schema has {}", schema.fields().len()),
        ))
    }
}

/// One row of a batch, borrowed. Each look at a value costs a dispatch on its type: for row-wise code, not for loops
/// over whole columns.
///
/// ```
/// use etlrs_core::{Record, record_batch};
///
/// let batch = record_batch([("delay", vec![Some(7), None])]);
/// let delays: Vec<_> = Record::all(&batch).map(|record| record.i64("delay")).collect::<Result<_, _>>()?;
/// assert_eq!(delays, [Some(7), None]);
/// # Ok::<(), etlrs_core::Error>(())
/// ```
#[derive(Clone, Copy)]
pub struct Record<'a> {
    batch: Batch<'a>,
    row: usize,
}

#[derive(Clone, Copy)]
enum Batch<'a> {
    Borrowed(&'a RecordBatch),
    /// A copy of its row can share it.
    Shared(&'a Arc<RecordBatch>),
}

impl<'a> Record<'a> {
    /// Row `row` of `batch`, if there is one.
    pub fn new(batch: &'a RecordBatch, row: usize) -> Option<Self> {
        (row < batch.num_rows()).then_some(Self { batch: Batch::Borrowed(batch), row })
    }

    /// All rows of `batch`.
    pub fn all(batch: &'a RecordBatch) -> impl Iterator<Item = Record<'a>> {
        (0..batch.num_rows()).map(move |row| Self { batch: Batch::Borrowed(batch), row })
    }

    /// All rows of `batch`, of which [`to_owned`](Self::to_owned) copies no values: the batch lives as long as one of them.
    pub fn all_shared(batch: &'a Arc<RecordBatch>) -> impl Iterator<Item = Record<'a>> {
        (0..batch.num_rows()).map(move |row| Self { batch: Batch::Shared(batch), row })
    }

    fn batch(&self) -> &'a RecordBatch {
        match self.batch {
            Batch::Borrowed(batch) => batch,
            Batch::Shared(batch) => batch,
        }
    }

    /// The schema of the batch.
    pub fn schema(&self) -> &'a SchemaRef {
        self.batch().schema_ref()
    }

    /// The value of a column, whatever its type.
    ///
    /// # Errors
    /// `InvalidConfig` if there is no such column.
    pub fn get(&self, column: impl ColumnRef) -> Result<Value<'a>> {
        Ok(value_at(self.batch().column(column.position(self.schema())?), self.row))
    }

    /// An integer.
    ///
    /// # Errors
    /// `InvalidConfig` if there is no such column, `SchemaMismatch` if it is of another type.
    pub fn i64(&self, column: impl ColumnRef) -> Result<Option<i64>> {
        self.typed(column, "integer", |value| match value {
            Value::Int(value) => Some(value),
            _ => None,
        })
    }

    /// A floating point number; integers are not taken for one.
    ///
    /// # Errors
    /// As [`i64`](Record::i64).
    pub fn f64(&self, column: impl ColumnRef) -> Result<Option<f64>> {
        self.typed(column, "float", |value| match value {
            Value::Float(value) => Some(value),
            _ => None,
        })
    }

    /// True or false.
    ///
    /// # Errors
    /// As [`i64`](Record::i64).
    pub fn bool(&self, column: impl ColumnRef) -> Result<Option<bool>> {
        self.typed(column, "boolean", |value| match value {
            Value::Boolean(value) => Some(value),
            _ => None,
        })
    }

    /// Text.
    ///
    /// # Errors
    /// As [`i64`](Record::i64).
    pub fn str(&self, column: impl ColumnRef) -> Result<Option<&'a str>> {
        self.typed(column, "text", |value| match value {
            Value::Text(Cow::Borrowed(text)) => Some(text),
            _ => None,
        })
    }

    /// A copy that can be changed and outlives the batch.
    pub fn to_owned(&self) -> OwnedRecord {
        match self.batch {
            Batch::Borrowed(batch) => OwnedRecord::of_row(batch, self.row),
            Batch::Shared(batch) => OwnedRecord::of_shared_row(batch.clone(), self.row),
        }
    }

    fn typed<T>(
        &self,
        column: impl ColumnRef,
        wanted: &str,
        pick: impl Fn(Value<'a>) -> Option<T>,
    ) -> Result<Option<T>> {
        let position = column.position(self.schema())?;
        let value = value_at(self.batch().column(position), self.row);
        if value == Value::Null {
            return Ok(None);
        }
        pick(value).map(Some).ok_or_else(|| {
            let field = self.schema().field(position);
            Error::new(ErrorKind::SchemaMismatch, format!("{} is asked for as {wanted}", field.data_type()))
                .at_column(field.name())
        })
    }
}

impl fmt::Debug for Record<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let columns = self.schema().fields().iter().zip(self.batch().columns());
        f.debug_map().entries(columns.map(|(field, column)| (field.name(), value_at(column, self.row)))).finish()
    }
}

fn value_at<'a>(array: &'a ArrayRef, row: usize) -> Value<'a> {
    if array.is_null(row) {
        return Value::Null;
    }
    macro_rules! at {
        ($type:ty) => {
            array.as_primitive::<$type>().value(row)
        };
    }
    match array.data_type() {
        DataType::Null => Value::Null,
        DataType::Boolean => Value::Boolean(array.as_boolean().value(row)),
        DataType::Int8 => Value::Int(at!(Int8Type).into()),
        DataType::Int16 => Value::Int(at!(Int16Type).into()),
        DataType::Int32 => Value::Int(at!(Int32Type).into()),
        DataType::Int64 => Value::Int(at!(Int64Type)),
        DataType::UInt8 => Value::Int(at!(UInt8Type).into()),
        DataType::UInt16 => Value::Int(at!(UInt16Type).into()),
        DataType::UInt32 => Value::Int(at!(UInt32Type).into()),
        DataType::UInt64 => {
            let value = at!(UInt64Type);
            i64::try_from(value).map_or(Value::UInt(value), Value::Int)
        }
        DataType::Float16 => Value::Float(at!(Float16Type).into()),
        DataType::Float32 => Value::Float(at!(Float32Type).into()),
        DataType::Float64 => Value::Float(at!(Float64Type)),
        DataType::Decimal128(_, scale) => Value::Decimal { value: at!(Decimal128Type), scale: *scale },
        DataType::Utf8 => Value::Text(array.as_string::<i32>().value(row).into()),
        DataType::LargeUtf8 => Value::Text(array.as_string::<i64>().value(row).into()),
        DataType::Utf8View => Value::Text(array.as_string_view().value(row).into()),
        DataType::Binary => Value::Binary(array.as_binary::<i32>().value(row).into()),
        DataType::LargeBinary => Value::Binary(array.as_binary::<i64>().value(row).into()),
        DataType::BinaryView => Value::Binary(array.as_binary_view().value(row).into()),
        DataType::FixedSizeBinary(_) => Value::Binary(array.as_fixed_size_binary().value(row).into()),
        DataType::Date32 => Value::Date(at!(Date32Type)),
        DataType::Time64(TimeUnit::Microsecond) => Value::Time(at!(Time64MicrosecondType) * 1000),
        DataType::Time64(TimeUnit::Nanosecond) => Value::Time(at!(Time64NanosecondType)),
        DataType::Timestamp(TimeUnit::Microsecond, _) => Value::Timestamp(at!(TimestampMicrosecondType)),
        _ => Value::Other(array.slice(row, 1)),
    }
}

#[cfg(test)]
mod tests {
    use arrow_array::*;

    use super::*;

    fn batch() -> RecordBatch {
        let zoned = TimestampMicrosecondArray::from(vec![Some(1), None]).with_timezone("UTC");
        let decimal = Decimal128Array::from(vec![Some(125), None]).with_precision_and_scale(5, 2).unwrap();
        RecordBatch::try_from_iter([
            ("int", Arc::new(Int16Array::from(vec![Some(-3), None])) as ArrayRef),
            ("big", Arc::new(UInt64Array::from(vec![Some(u64::MAX), None])) as ArrayRef),
            ("text", Arc::new(StringViewArray::from(vec![Some("x"), None])) as ArrayRef),
            ("at", Arc::new(zoned) as ArrayRef),
            ("sum", Arc::new(decimal) as ArrayRef),
            ("flag", Arc::new(BooleanArray::from(vec![Some(true), None])) as ArrayRef),
            ("day", Arc::new(Date32Array::from(vec![Some(9), None])) as ArrayRef),
            ("half", Arc::new(Float32Array::from(vec![Some(0.5), None])) as ArrayRef),
            ("raw", Arc::new(BinaryArray::from(vec![Some(&b"\xff"[..]), None])) as ArrayRef),
        ])
        .unwrap()
    }

    #[test]
    fn rows_become_the_batch_that_they_came_from() {
        let batch = batch();
        let mut builder = RecordBatchBuilder::new(batch.schema()).unwrap();
        for record in Record::all(&batch) {
            builder.push(record.to_owned()).unwrap();
        }
        assert_eq!(builder.finish().unwrap(), batch);
        assert!(builder.is_empty());
    }

    #[test]
    fn getters_refuse_another_type_by_name() {
        let batch = batch();
        let record = Record::new(&batch, 0).unwrap();
        assert_eq!(record.i64("int").unwrap(), Some(-3));
        assert_eq!(record.str("text").unwrap(), Some("x"));
        let error = record.i64("text").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::SchemaMismatch);
        assert_eq!(error.position().column.as_deref(), Some("text"));
        assert!(record.get("txt").unwrap_err().to_string().contains("did you mean text?"));
        assert!(Record::new(&batch, 2).is_none());
    }

    #[test]
    fn a_value_that_does_not_fit_exactly_is_refused() {
        for (column, value) in [("int", Value::Int(40_000)), ("half", Value::Float(0.1)), ("day", Value::Int(1))] {
            let mut record = OwnedRecord::new(batch().schema());
            record.set(column, value).unwrap();
            let error = RecordBatchBuilder::new(batch().schema()).unwrap().push(record).unwrap_err();
            assert_eq!(error.position().column.as_deref(), Some(column));
        }
    }
}
