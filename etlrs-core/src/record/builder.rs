use std::borrow::Borrow;
use std::sync::Arc;

use arrow_array::builder::*;
use arrow_array::cast::AsArray;
use arrow_array::types::*;
use arrow_array::{Array, ArrayRef, RecordBatch};
use arrow_schema::{DataType, FieldRef, SchemaRef, TimeUnit};

use super::{OwnedRecord, Value, value_at};
use crate::{Error, ErrorKind, Result};

/// Makes batches from records: the way back from rows to columns.
///
/// Columns that no row of a batch changed are those of the batch: rows that came by [`Record::all_shared`](crate::Record) and
/// are added in their order cost nothing there.
pub struct RecordBatchBuilder {
    schema: SchemaRef,
    columns: Vec<Column>,
    rows: usize,
    /// The batch of which all rows so far are the first ones.
    origin: Option<Arc<RecordBatch>>,
}

struct Column {
    builder: Box<dyn ArrayBuilder>,
    /// The values so far are in the builder, and not those of the batch that the rows are of.
    is_built: bool,
}

impl RecordBatchBuilder {
    /// A builder of batches of `schema`.
    ///
    /// # Errors
    /// `Unsupported` for a type that rows cannot carry (nested types, units of time other than microseconds).
    pub fn new(schema: SchemaRef) -> Result<Self> {
        for field in schema.fields() {
            let supported = match field.data_type() {
                DataType::Timestamp(unit, _) => *unit == TimeUnit::Microsecond,
                DataType::Time64(_) | DataType::Decimal128(..) | DataType::FixedSizeBinary(_) => true,
                other => {
                    !other.is_nested()
                        && (other.is_integer()
                            || matches!(
                                other,
                                DataType::Boolean | DataType::Float32 | DataType::Float64 | DataType::Date32
                            )
                            || matches!(other, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View)
                            || matches!(other, DataType::Binary | DataType::LargeBinary | DataType::BinaryView))
                }
            };
            if !supported {
                return Err(Error::new(
                    ErrorKind::Unsupported,
                    format!("rows cannot carry values of type {}", field.data_type()),
                )
                .hint("change the column with a transformer of batches, or cast it before")
                .at_column(field.name()));
            }
        }
        let column = |data_type| Column { builder: make_builder(data_type, 0), is_built: false };
        let columns = schema.fields().iter().map(|field| column(field.data_type())).collect();
        Ok(Self { schema, columns, rows: 0, origin: None })
    }

    /// Rows so far.
    pub fn len(&self) -> usize {
        self.rows
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.rows == 0
    }

    /// Adds a row, be it given or only lent.
    ///
    /// # Errors
    /// `SchemaMismatch` for a value that its column cannot hold exactly, or a record of another number of columns.
    /// The builder is only good for dropping then.
    pub fn push(&mut self, record: impl Borrow<OwnedRecord>) -> Result<()> {
        let record = record.borrow();
        let width = record.schema().fields().len();
        if width != self.columns.len() {
            return Err(Error::new(
                ErrorKind::SchemaMismatch,
                format!("a record has {width} columns where {} are expected", self.columns.len()),
            ));
        }
        let origin = record.origin();
        let goes_on = match (&self.origin, origin) {
            (None, Some((_, 0))) if self.rows == 0 => true,
            (Some(known), Some((batch, row))) => Arc::ptr_eq(known, batch) && row == self.rows,
            _ => false,
        };
        if self.rows == 0 && goes_on {
            self.origin = origin.map(|(batch, _)| batch.clone());
            for (index, column) in self.columns.iter_mut().enumerate() {
                let data_type = origin.map(|(batch, _)| batch.column(index).data_type());
                column.is_built = data_type != Some(self.schema.field(index).data_type());
            }
        } else if !goes_on {
            self.build_all()?;
        }
        for (index, field) in self.schema.fields().iter().enumerate() {
            let value = match (record.change(index), origin) {
                (Some(change), _) => change.borrowed(),
                (None, _) if !self.columns[index].is_built => continue,
                (None, Some((batch, row))) => value_at(batch.column(index), row),
                (None, None) => Value::Null,
            };
            let column = &mut self.columns[index];
            if !column.is_built {
                column.is_built = true;
                if let Some(origin) = &self.origin {
                    append_rows(column, field, origin.column(index), self.rows)?;
                }
            }
            append(column.builder.as_mut(), field.data_type(), &value).ok_or_else(|| misfit(&value, field))?;
        }
        self.rows += 1;
        Ok(())
    }

    /// The rows are no longer those of one batch in their order.
    fn build_all(&mut self) -> Result<()> {
        let origin = self.origin.take();
        for (index, field) in self.schema.fields().iter().enumerate() {
            let column = &mut self.columns[index];
            if !column.is_built {
                column.is_built = true;
                if let Some(origin) = &origin {
                    append_rows(column, field, origin.column(index), self.rows)?;
                }
            }
        }
        Ok(())
    }

    /// The rows so far as a batch; the builder is empty again.
    ///
    /// # Errors
    /// `SchemaMismatch` for a null in a column that has none.
    pub fn finish(&mut self) -> Result<RecordBatch> {
        let (origin, rows) = (self.origin.take(), self.rows);
        let columns = self.columns.iter_mut().zip(self.schema.fields()).enumerate();
        let columns = columns.map(|(index, (column, field))| match &origin {
            Some(origin) if !std::mem::take(&mut column.is_built) => origin.column(index).slice(0, rows),
            _ => retype(column.builder.finish(), field.data_type()),
        });
        let columns = columns.collect();
        let options = arrow_array::RecordBatchOptions::new().with_row_count(Some(std::mem::take(&mut self.rows)));
        RecordBatch::try_new_with_options(self.schema.clone(), columns, &options)
            .map_err(|error| Error::new(ErrorKind::SchemaMismatch, error.to_string()).caused_by(error))
    }
}

fn misfit(value: &Value<'_>, field: &FieldRef) -> Error {
    let message = format!("a {} does not fit into type {}", value.kind(), field.data_type());
    Error::new(ErrorKind::SchemaMismatch, message).at_column(field.name())
}

/// The first `rows` values of an array.
fn append_rows(column: &mut Column, field: &FieldRef, array: &ArrayRef, rows: usize) -> Result<()> {
    for row in 0..rows {
        let value = value_at(array, row);
        append(column.builder.as_mut(), field.data_type(), &value).ok_or_else(|| misfit(&value, field))?;
    }
    Ok(())
}

/// Zones, precisions and scales are no part of a builder's type.
fn retype(array: ArrayRef, data_type: &DataType) -> ArrayRef {
    match data_type {
        DataType::Timestamp(TimeUnit::Microsecond, Some(zone)) => {
            Arc::new(array.as_primitive::<TimestampMicrosecondType>().clone().with_timezone(zone.clone()))
        }
        _ => array,
    }
}

/// `None` if `value` does not fit exactly.
fn append(builder: &mut dyn ArrayBuilder, data_type: &DataType, value: &Value<'_>) -> Option<()> {
    macro_rules! push {
        ($builder:ty, $($pattern:pat => $make:expr),+) => {{
            let builder = builder.as_any_mut().downcast_mut::<$builder>()?;
            match *value {
                Value::Null => builder.append_null(),
                $( $pattern => builder.append_value($make), )+
                _ => return None,
            }
        }};
    }
    macro_rules! integer {
        ($builder:ty) => {
            push!($builder, Value::Int(value) => value.try_into().ok()?, Value::UInt(value) => value.try_into().ok()?)
        };
    }
    match data_type {
        DataType::Boolean => push!(BooleanBuilder, Value::Boolean(value) => value),
        DataType::Int8 => integer!(Int8Builder),
        DataType::Int16 => integer!(Int16Builder),
        DataType::Int32 => integer!(Int32Builder),
        DataType::Int64 => integer!(Int64Builder),
        DataType::UInt8 => integer!(UInt8Builder),
        DataType::UInt16 => integer!(UInt16Builder),
        DataType::UInt32 => integer!(UInt32Builder),
        DataType::UInt64 => integer!(UInt64Builder),
        DataType::Float32 => push!(Float32Builder, Value::Float(value) => {
            let narrow = value as f32;
            if f64::from(narrow) != value && !value.is_nan() { return None; }
            narrow
        }),
        DataType::Float64 => push!(Float64Builder, Value::Float(value) => value),
        DataType::Decimal128(precision, scale) => push!(Decimal128Builder, Value::Decimal { value, scale: given } => {
            if given != *scale || !Decimal128Type::is_valid_decimal_precision(value, *precision) { return None; }
            value
        }),
        DataType::Utf8 => push!(StringBuilder, Value::Text(ref text) => text),
        DataType::LargeUtf8 => push!(LargeStringBuilder, Value::Text(ref text) => text),
        DataType::Utf8View => push!(StringViewBuilder, Value::Text(ref text) => text),
        DataType::Binary => push!(BinaryBuilder, Value::Binary(ref bytes) => bytes),
        DataType::LargeBinary => push!(LargeBinaryBuilder, Value::Binary(ref bytes) => bytes),
        DataType::BinaryView => push!(BinaryViewBuilder, Value::Binary(ref bytes) => bytes),
        DataType::FixedSizeBinary(_) => {
            let builder = builder.as_any_mut().downcast_mut::<FixedSizeBinaryBuilder>()?;
            match value {
                Value::Null => builder.append_null(),
                Value::Binary(bytes) => builder.append_value(bytes).ok()?,
                _ => return None,
            }
        }
        DataType::Date32 => push!(Date32Builder, Value::Date(days) => days),
        DataType::Time64(TimeUnit::Microsecond) => push!(Time64MicrosecondBuilder, Value::Time(nanoseconds) => {
            if nanoseconds % 1000 != 0 { return None; }
            nanoseconds / 1000
        }),
        DataType::Time64(_) => push!(Time64NanosecondBuilder, Value::Time(nanoseconds) => nanoseconds),
        DataType::Timestamp(..) => push!(TimestampMicrosecondBuilder, Value::Timestamp(microseconds) => microseconds),
        _ => return None,
    }
    Some(())
}
