//! Cursors by which what is new is read.
//!
//! SQLite has no type of times and compares them as text, which puts `2024-01-01T10:00` behind `2024-01-01 23:00`. So they are
//! compared as the moments that they are read as, by a function that each connection gets. No index helps with that.

use arrow_schema::{DataType, TimeUnit};
use etlrs_core::{Error, ErrorKind, Result, type_name};
use rusqlite::Connection;
use rusqlite::functions::FunctionFlags;
use rusqlite::types::ValueRef;

use super::catalog::Table;
use super::error::sqlite_error;
use super::quote;
use super::text::{parse_date, parse_timestamp, write_date, write_timestamp};
use super::types::Affinity;
use crate::cursor::{Bounds, Cursor};

const DAY: i64 = 86_400_000_000;

/// What the values of a cursor's column are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Values {
    Numbers,
    Text,
    Dates,
    /// Those that are marked with an offset, or those on a clock.
    Timestamps {
        instant: bool,
    },
}

impl Values {
    /// Of a column that is read as `data_type`; `None`: they cannot be told apart by their order.
    fn of(data_type: &DataType, affinity: Affinity) -> Option<Self> {
        match data_type {
            // Text that the user wants read as numbers has the order of text.
            data_type if data_type.is_integer() => (affinity != Affinity::Text).then_some(Self::Numbers),
            DataType::Utf8 => Some(Self::Text),
            DataType::Date32 => Some(Self::Dates),
            DataType::Timestamp(TimeUnit::Microsecond, zone) => Some(Self::Timestamps { instant: zone.is_some() }),
            _ => None,
        }
    }

    fn is_time(self) -> bool {
        matches!(self, Self::Dates | Self::Timestamps { .. })
    }

    /// How SQL compares the column `quoted`.
    fn expression(self, quoted: &str, affinity: Affinity) -> String {
        match self {
            Self::Numbers => quoted.to_owned(),
            Self::Text if affinity == Affinity::Text => quoted.to_owned(),
            Self::Text => format!("CAST({quoted} AS TEXT)"),
            Self::Dates => format!("_etlrs_moment({quoted}, 'date')"),
            Self::Timestamps { instant: false } => format!("_etlrs_moment({quoted}, 'timestamp')"),
            Self::Timestamps { instant: true } => format!("_etlrs_moment({quoted}, 'timestamptz')"),
        }
    }

    /// `cursor_after` as a constant of SQL that [`Self::expression`] compares with, `lag` taken off; `None`: it is no such value.
    fn constant(self, text: &str, lag: u32) -> Option<String> {
        let minus = |from: i64, lag: i64| from.saturating_sub(lag).to_string();
        match self {
            Self::Numbers => Some(minus(text.parse().ok()?, lag.into())),
            Self::Text => (!text.contains('\0')).then(|| format!("'{}'", text.replace('\'', "''"))),
            Self::Dates | Self::Timestamps { .. } => {
                let instant = matches!(self, Self::Timestamps { instant: true });
                Some(minus(parse_timestamp(text.as_bytes(), instant)?, i64::from(lag) * 1_000_000))
            }
        }
    }

    /// The text of a value that [`Self::expression`] gave, which [`Self::constant`] takes.
    fn text(self, value: ValueRef<'_>) -> Option<String> {
        let mut out = String::new();
        match (self, value) {
            (Self::Numbers, ValueRef::Integer(number)) => return Some(number.to_string()),
            (Self::Text, ValueRef::Text(text)) => return String::from_utf8(text.to_vec()).ok(),
            (Self::Dates, ValueRef::Integer(moment)) => write_date(&mut out, moment.div_euclid(DAY)),
            (Self::Timestamps { instant }, ValueRef::Integer(moment)) => write_timestamp(&mut out, moment, instant),
            _ => return None,
        }
        Some(out)
    }
}

/// The rows that are new by `cursor`, whose column is declared as `declared` and read as `data_type`.
pub(super) fn bounds(
    connection: &Connection,
    table: &Table,
    cursor: &Cursor<'_>,
    data_type: &DataType,
    declared: &str,
) -> Result<Bounds> {
    let failed = |error| sqlite_error(connection.path().unwrap_or_default().as_ref(), error);
    let unusable = || cursor.unusable(&type_name(data_type)).hint("choose one of integers, text, dates or timestamps");
    let affinity = Affinity::of(declared);
    let values = Values::of(data_type, affinity).filter(|values| *values != Values::Text || cursor.lag == 0);
    let values = values.ok_or_else(unusable)?;
    let after = cursor.after.map(|after| {
        values.constant(after, cursor.lag).ok_or_else(|| {
            let message = format!("cursor_after is no value of type {}", type_name(data_type));
            let error = Error::new(ErrorKind::InvalidConfig, message).at_column(cursor.column);
            if values.is_time() { error.hint("write it as in 2024-01-31 or 2024-01-31 23:59:59.5") } else { error }
        })
    });
    let expression = values.expression(&quote(cursor.column)?, affinity);
    let newer = cursor.newer(&expression, after.transpose()?.as_deref());
    let sql = format!("SELECT max({expression}) FROM {} WHERE {newer}", table.from);
    let greatest = connection
        .query_row(&sql, [], |row| {
            let value = row.get_ref(0)?;
            Ok((value != ValueRef::Null).then(|| values.text(value)))
        })
        .map_err(|error| {
            match &error {
                // What the function says.
                rusqlite::Error::SqliteFailure(code, Some(said))
                    if values.is_time() && code.extended_code == rusqlite::ffi::SQLITE_ERROR =>
                {
                    Error::new(ErrorKind::InvalidData, said.clone())
                        .at_column(cursor.column)
                        .hint("correct it, or leave such rows out with --query")
                }
                _ => failed(error),
            }
        })?;
    let with_constant = |text: Option<String>| {
        let text = text.ok_or_else(unusable)?;
        let constant = values.constant(&text, 0).ok_or_else(unusable)?;
        Ok::<_, Error>((constant, text))
    };
    Ok(cursor.bounds(newer, &expression, greatest.map(with_constant).transpose()?))
}

/// Lets `connection` compare times: `_etlrs_moment(value, type)` is microseconds since 1970, and null of null.
pub(super) fn add_functions(connection: &Connection) -> rusqlite::Result<()> {
    let flags = FunctionFlags::SQLITE_UTF8 | FunctionFlags::SQLITE_DETERMINISTIC;
    connection.create_scalar_function("_etlrs_moment", 2, flags, |call| {
        let data_type = call.get_raw(1).as_str()?;
        // Values are private, so the message shows none.
        let no_moment = |what| rusqlite::Error::UserFunctionError(format!("{what} is no {data_type}").into());
        match call.get_raw(0) {
            ValueRef::Null => Ok(None),
            ValueRef::Text(text) => {
                let moment = match data_type {
                    "date" => parse_date(text).map(|day| i64::from(day).saturating_mul(DAY)),
                    data_type => parse_timestamp(text, data_type == "timestamptz"),
                };
                moment.map(Some).ok_or_else(|| no_moment("a text"))
            }
            _ => Err(no_moment("a number or a blob")),
        }
    })
}
