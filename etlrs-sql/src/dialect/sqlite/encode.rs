//! Arrow columns as parameters of an INSERT, without an allocation per value.

use arrow_array::Array;
use arrow_schema::DataType;
use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{Result, Statement};

use super::text;
use super::types::{Check, Fit};
use crate::value::{Column as Values, Scalar};

/// Why a value cannot be stored.
pub(super) enum Refused {
    /// SQLite would make a null of it.
    NaN,
    /// A timestamp outside what microseconds in 64 bits can count.
    Timestamp,
    /// A time that is not within a day.
    Time,
    /// A value that the column of the target would change.
    Changed(Check),
    /// A value of a type that was refused when the load was planned.
    Type,
    Sqlite(rusqlite::Error),
}

impl From<rusqlite::Error> for Refused {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

/// The values of a column of a batch.
pub(super) struct Column<'a> {
    values: Values<'a>,
    /// Timestamps are points in time, and written with a zone.
    instant: bool,
    fit: Fit,
}

impl<'a> Column<'a> {
    /// `None` for a type that was refused when the load was planned.
    pub(super) fn new(array: &'a dyn Array, fit: Fit) -> Option<Self> {
        let data_type = match array.data_type() {
            DataType::Dictionary(_, values) => values,
            other => other,
        };
        let instant = matches!(data_type, DataType::Timestamp(_, Some(_)));
        Some(Self { values: Values::new(array)?, instant, fit })
    }

    /// Binds the value of `row` to the parameter `index`. `scratch` is for what has to be written as text.
    #[inline]
    pub(super) fn bind(
        &self,
        statement: &mut Statement<'_>,
        index: usize,
        row: usize,
        scratch: &mut String,
    ) -> Result<(), Refused> {
        let value = self.value(row, scratch)?;
        Ok(statement.raw_bind_parameter(index, ToSqlOutput::Borrowed(value))?)
    }

    #[inline]
    fn value<'s>(&'s self, row: usize, scratch: &'s mut String) -> Result<ValueRef<'s>, Refused> {
        let real = |value: f64| if value.is_nan() { Err(Refused::NaN) } else { Ok(ValueRef::Real(value)) };
        // Scales were checked when the load was planned.
        let digits = |scale: i8| u8::try_from(scale).map_err(|_| Refused::Type);
        scratch.clear();
        let value = self.values.value(row);
        if let Some(check) = self.fit.check.filter(|check| !check.holds(&value)) {
            return Err(Refused::Changed(check));
        }
        match value {
            Scalar::Null => return Ok(ValueRef::Null),
            Scalar::Bool(value) => return Ok(ValueRef::Integer(value.into())),
            Scalar::Int(value) => return Ok(ValueRef::Integer(value)),
            Scalar::Float32(value) => return real(value.into()),
            Scalar::Float64(value) => return real(value),
            Scalar::Text(text) => return Ok(ValueRef::Text(text.as_bytes())),
            Scalar::Bytes(bytes) => return Ok(ValueRef::Blob(bytes)),
            Scalar::Date(days) => text::write_date(scratch, days.into()),
            Scalar::Time(time) => text::write_time(scratch, time).ok_or(Refused::Time)?,
            Scalar::Timestamp(time) => text::write_timestamp(scratch, time, self.instant),
            Scalar::Decimal(value, scale) => text::write_decimal(scratch, value, digits(scale)?, self.fit.fraction),
            Scalar::Wide(value, scale) => text::write_decimal(scratch, value, digits(scale)?, self.fit.fraction),
            Scalar::TooFar => return Err(Refused::Timestamp),
            Scalar::UInt(_) | Scalar::TooFine => return Err(Refused::Type),
        }
        Ok(ValueRef::Text(scratch.as_bytes()))
    }
}
