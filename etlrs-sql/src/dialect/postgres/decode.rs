//! `COPY … TO STDOUT (FORMAT binary)` into Arrow columns.
//!
//! The stream is a header and then tuples: a count of fields in 16 bits, and for each a length in 32 bits, -1 for a null,
//! with the value in the binary form of its type behind it. A count of -1 ends it
//! (<https://www.postgresql.org/docs/current/sql-copy.html>, "Binary Format").

use std::sync::Arc;

use arrow_array::RecordBatch;
use arrow_schema::{Field, SchemaRef};
use etlrs_core::{Error, ErrorKind, Result};

use super::numeric::{self, Misfit as NumericMisfit};
use super::types::{Reading, Wire};
use crate::gather::{self, Fixed, Gather, Misfit, Put, Span, Text, Values, decimal_of, each, variable};
use crate::network::Decode;

const SIGNATURE: &[u8] = b"PGCOPY\n\xff\r\n\0";

/// Days and microseconds from 1970-01-01 to 2000-01-01, from which PostgreSQL counts.
pub(super) const EPOCH_DAYS: i32 = 10_957;
pub(super) const EPOCH_MICROSECONDS: i64 = 946_684_800_000_000;
pub(super) const DAY_MICROSECONDS: i64 = 86_400_000_000;

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
            // A block is far from 4 GB, and a value has 1 GB at the most.
            self.spans.push(Span { start: at as u32, length });
            at += usize::try_from(length).unwrap_or(0);
            if at > bytes.len() {
                self.spans.truncate(first);
                return Ok(None);
            }
        }
        Ok(Some(at))
    }
}

impl Decode for Decoder {
    fn is_full(&self) -> bool {
        // A row that is larger than a batch may be is a batch of its own.
        self.rows > 0 && (self.rows >= self.max_rows || self.bytes + self.widest > self.max_bytes)
    }

    fn take(&mut self, bytes: &[u8]) -> Result<usize> {
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

    fn batch(&mut self) -> Result<Option<RecordBatch>> {
        if self.rows == 0 {
            return Ok(None);
        }
        let rows = self.rows;
        let columns = self.columns.iter_mut().map(|column| &mut column.gather);
        let batch = gather::batch(&self.schema, columns, rows)?;
        (self.rows, self.bytes, self.widest) = (0, 0, 0);
        Ok(Some(batch))
    }

    fn end(&self) -> Result<()> {
        if self.ended {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Connection, "the server ended a COPY before its end mark").transient())
    }
}

fn malformed(what: &str) -> Error {
    Error::new(ErrorKind::InvalidData, format!("the server sent a COPY whose {what} is not as it should be"))
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
    gather: Gather,
}

impl ColumnDecoder {
    fn new(reading: &Reading, rows: usize) -> Self {
        Self { wire: reading.wire, gather: Gather::new(reading.field.data_type(), rows) }
    }

    #[inline]
    fn append(&mut self, bytes: &[u8], fields: impl Iterator<Item = Span>) -> Result<(), Misfit> {
        let Gather { data_type, nulls, values } = &mut self.gather;
        match (self.wire, values) {
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
            (Wire::Uuid, Values::Fixed(values)) => variable(bytes, fields, nulls, values, Fixed::put),
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
