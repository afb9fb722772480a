//! Arrow columns into `COPY … FROM STDIN (FORMAT binary)`; see `decode.rs` for the format.

use arrow_array::RecordBatch;
use etlrs_core::{Error, ErrorKind, Result};

use super::decode::{DAY_MICROSECONDS, EPOCH_DAYS, EPOCH_MICROSECONDS};
use super::numeric;
use super::types::{Wire, Writing};
use crate::value::{Column, Scalar};

/// What begins a COPY: signature, flags, length of an extension.
pub(super) const HEADER: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";
/// What ends it.
pub(super) const TRAILER: &[u8] = &[0xff, 0xff];

/// Days since 2000-01-01 that a date may have, from 4713 BC to 5874897 AD (`src/include/datatype/timestamp.h`).
const DATES: std::ops::Range<i64> = -2_451_545..2_145_031_949;
/// Microseconds since then that a timestamp may have, from 4713 BC to 294276 AD.
const TIMESTAMPS: std::ops::Range<i64> = -211_813_488_000_000_000..9_223_371_331_200_000_000;

/// Why a value cannot be stored, and what would help.
type Refused = (&'static str, &'static str);

/// Of a value whose type is no other's fault than ours.
const UNPLANNED: Refused = ("a value of another type than was planned", "please report this");

/// The rows of a batch on their way out.
pub(super) struct Rows<'a> {
    columns: Vec<(Column<'a>, &'a Writing)>,
    batch: &'a RecordBatch,
    next: usize,
    /// A column more: a number that counts up from this.
    ordinal: Option<u64>,
}

impl<'a> Rows<'a> {
    /// `None` for a batch of other columns than were planned.
    pub(super) fn new(batch: &'a RecordBatch, writings: &'a [Writing], ordinal: Option<u64>) -> Option<Self> {
        if batch.num_columns() != writings.len() {
            return None;
        }
        let columns = batch.columns().iter().zip(writings);
        let columns = columns.map(|(column, writing)| Some((Column::new(column.as_ref())?, writing)));
        Some(Self { columns: columns.collect::<Option<_>>()?, batch, next: 0, ordinal })
    }

    /// Appends rows until there are `enough` bytes or no more rows; whether there are more.
    ///
    /// # Errors
    /// `InvalidData` for a value that PostgreSQL cannot hold, with its column; `row` makes the number of a row of the batch
    /// into words. Nothing of the row is appended, and it would be the next: it can be [left out](Self::leave_out).
    pub(super) fn write(&mut self, out: &mut Vec<u8>, enough: usize, row: impl Fn(usize) -> String) -> Result<bool> {
        while self.next < self.batch.num_rows() {
            if out.len() >= enough {
                return Ok(true);
            }
            let before = out.len();
            if let Err((index, (reason, hint))) = self.put_row(out) {
                out.truncate(before);
                let is_ours = (reason, hint) == UNPLANNED;
                let kind = if is_ours { ErrorKind::Internal } else { ErrorKind::InvalidData };
                return Err(Error::new(kind, format!("{} holds {reason}", row(self.next)))
                    .hint(hint)
                    .at_column(self.batch.schema_ref().field(index).name()));
            }
            self.next += 1;
        }
        Ok(false)
    }

    /// Does without the next row; gives its number in the batch.
    pub(super) fn leave_out(&mut self) -> usize {
        self.next += 1;
        self.next - 1
    }

    #[inline]
    fn put_row(&self, out: &mut Vec<u8>) -> Result<(), (usize, Refused)> {
        // A table has at most 1600 columns.
        let count = (self.columns.len() as u16 + u16::from(self.ordinal.is_some())).to_be_bytes();
        out.extend(count);
        for (index, (column, writing)) in self.columns.iter().enumerate() {
            put(out, writing, column.value(self.next)).map_err(|refused| (index, refused))?;
        }
        if let Some(ordinal) = self.ordinal {
            eight(out, (ordinal + self.next as u64).to_be_bytes());
        }
        Ok(())
    }
}

/// Appends a field: its length, and the value in the binary form of its type.
#[inline]
fn put(out: &mut Vec<u8>, writing: &Writing, value: Scalar<'_>) -> Result<(), Refused> {
    match (writing.wire, value) {
        (_, Scalar::Null) => out.extend([0xff; 4]),
        (_, Scalar::Int(value)) if writing.most.is_some_and(|most| value.unsigned_abs() > most) => {
            return Err(("an integer that the column's float cannot hold exactly", "cast the column to float64"));
        }
        (Wire::Int8, Scalar::Int(value)) => eight(out, value.to_be_bytes()),
        (Wire::Int4, Scalar::Int(value)) => four(out, within(i32::try_from(value))?.to_be_bytes()),
        (Wire::Int2, Scalar::Int(value)) => {
            out.extend(2_u32.to_be_bytes());
            out.extend(within(i16::try_from(value))?.to_be_bytes());
        }
        (Wire::Text, Scalar::Text(text)) => {
            if memchr::memchr(0, text.as_bytes()).is_some() {
                return Err((
                    "text with a NUL character in it, which PostgreSQL cannot store",
                    "remove it from the source",
                ));
            }
            if writing.longest.is_some_and(|longest| text.len() > longest && text.chars().count() > longest) {
                return Err(("text that is longer than the column's type allows", "widen the column, or cut the text"));
            }
            bytes(out, text.as_bytes())?;
        }
        (Wire::Bytea, Scalar::Bytes(value)) => bytes(out, value)?,
        (Wire::Bool, Scalar::Bool(value)) => out.extend([0, 0, 0, 1, value.into()]),
        (Wire::Float8, Scalar::Float64(value)) => eight(out, value.to_be_bytes()),
        (Wire::Float8, Scalar::Float32(value)) => eight(out, f64::from(value).to_be_bytes()),
        (Wire::Float4, Scalar::Float32(value)) => four(out, value.to_be_bytes()),
        (Wire::Date, Scalar::Date(days)) => {
            let days = i64::from(days) - i64::from(EPOCH_DAYS);
            if !DATES.contains(&days) {
                return Err(("a date outside 4713 BC to 5874897 AD", "replace it, or store the column as text"));
            }
            four(out, within(i32::try_from(days))?.to_be_bytes());
        }
        (Wire::Time, Scalar::Time(time)) | (Wire::Timestamp, Scalar::Timestamp(time)) if time % writing.step != 0 => {
            return Err(("a time of more digits than the column keeps", "cast the column, which cuts off the rest"));
        }
        (Wire::Time, Scalar::Time(time)) => {
            if !(0..=DAY_MICROSECONDS).contains(&time) {
                return Err(("a time that is not within a day", "replace it, or cast the column to int64"));
            }
            eight(out, time.to_be_bytes());
        }
        (Wire::Timestamp, Scalar::Timestamp(time)) => {
            let time = time.checked_sub(EPOCH_MICROSECONDS).filter(|time| TIMESTAMPS.contains(time));
            let far = ("a timestamp outside 4713 BC to 294276 AD", "replace it, or store the column as text");
            eight(out, time.ok_or(far)?.to_be_bytes());
        }
        (Wire::Numeric, Scalar::Int(value)) => numeric::write_u64(out, value < 0, value.unsigned_abs(), 0),
        (Wire::Numeric, Scalar::UInt(value)) => numeric::write_u64(out, false, value, 0),
        (Wire::Numeric, Scalar::Decimal(value, scale)) => {
            match (u64::try_from(value.unsigned_abs()), u8::try_from(scale)) {
                (Ok(magnitude), Ok(scale)) => numeric::write_u64(out, value < 0, magnitude, scale),
                _ => decimal(out, &value.to_string(), scale),
            }
        }
        (Wire::Numeric, Scalar::Wide(value, scale)) => decimal(out, &value.to_string(), scale),
        (Wire::Numeric, Scalar::Text(text)) => {
            let no_number = ("text that is no number", "store the column as text");
            numeric::write_parsed(out, text).ok_or(no_number)?;
        }
        (Wire::Jsonb, Scalar::Text(text)) => {
            length(out, text.len() + 1)?;
            // The version of the format.
            out.push(1);
            out.extend_from_slice(text.as_bytes());
        }
        (Wire::Uuid, Scalar::Text(text)) => {
            let uuid = parse_uuid(text).ok_or(("text that is no UUID", "store the column as text"))?;
            out.extend(16_u32.to_be_bytes());
            out.extend(uuid);
        }
        (Wire::Uuid, Scalar::Bytes(uuid)) if uuid.len() == 16 => bytes(out, uuid)?,
        (_, Scalar::TooFine) => {
            return Err(("a time that is finer than microseconds", "cast the column, which cuts off the rest"));
        }
        (_, Scalar::TooFar) => {
            return Err(("a timestamp that microseconds in 64 bits cannot count", "replace it"));
        }
        // Other pairs are refused when the load is planned.
        _ => return Err(UNPLANNED),
    }
    Ok(())
}

#[inline]
fn four(out: &mut Vec<u8>, value: [u8; 4]) {
    let mut field = [0, 0, 0, 4, 0, 0, 0, 0];
    field[4..].copy_from_slice(&value);
    out.extend_from_slice(&field);
}

#[inline]
fn eight(out: &mut Vec<u8>, value: [u8; 8]) {
    let mut field = [0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0];
    field[4..].copy_from_slice(&value);
    out.extend_from_slice(&field);
}

#[inline]
fn length(out: &mut Vec<u8>, length: usize) -> Result<(), Refused> {
    let length = i32::try_from(length).map_err(|_| ("a value of more than 2 GB", "leave the column out"))?;
    out.extend(length.to_be_bytes());
    Ok(())
}

#[inline]
fn bytes(out: &mut Vec<u8>, value: &[u8]) -> Result<(), Refused> {
    length(out, value.len())?;
    out.extend_from_slice(value);
    Ok(())
}

fn within<T, E>(value: Result<T, E>) -> Result<T, Refused> {
    value.map_err(|_| ("a number that the column's type cannot hold", "widen the column, or leave such rows out"))
}

/// A decimal of any size and scale; a negative scale stands for zeros at the end.
fn decimal(out: &mut Vec<u8>, value: &str, scale: i8) {
    let digits = value.trim_start_matches('-');
    let negative = digits.len() < value.len();
    match u16::try_from(scale) {
        Ok(scale) => numeric::write_digits(out, negative, digits.as_bytes(), scale),
        Err(_) => {
            let digits = format!("{digits}{}", "0".repeat(scale.unsigned_abs().into()));
            numeric::write_digits(out, negative, digits.as_bytes(), 0);
        }
    }
}

/// 32 hexadecimal digits, with hyphens anywhere between bytes or none.
fn parse_uuid(text: &str) -> Option<[u8; 16]> {
    let mut uuid = [0; 16];
    let mut digits = text.bytes().filter(|byte| *byte != b'-').map(|byte| char::from(byte).to_digit(16));
    for byte in &mut uuid {
        // Two digits below 16.
        *byte = (digits.next()?? << 4 | digits.next()??) as u8;
    }
    (digits.next().is_none() && text.len() <= 36).then_some(uuid)
}
