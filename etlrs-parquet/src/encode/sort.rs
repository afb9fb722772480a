//! Sorting of the rows of a row group.
//!
//! Design note. Rows are collected as they come, with their sort keys in the row format of Arrow, whose bytes compare as
//! the values do. A permutation is sorted, not the rows: each entry has eight bytes of its key beside it, from where the
//! keys begin to differ, which settle nearly all comparisons without looking elsewhere. Rows that come in order already,
//! which is usual for whoever wants it told, are handed out as they came.
//!
//! What is told of the order is what readers may rely on. They disagree on where NaN belongs, so a row group that has one
//! in a column says nothing of the order by that column and those behind it; and on whether `-0.0` is before `0.0`, so one
//! that has it says nothing of the columns behind.

use std::collections::HashSet;

use arrow_array::cast::AsArray;
use arrow_array::types::{Float16Type, Float32Type, Float64Type};
use arrow_array::{Array, ArrayRef, RecordBatch};
use arrow_buffer::NullBuffer;
use arrow_row::{RowConverter, Rows, SortField};
use arrow_schema::{DataType, Schema, SchemaRef, SortOptions};
use arrow_select::interleave::interleave;
use parquet::errors::{ParquetError, Result};
use parquet::file::metadata::SortingColumn;

use super::column::unpack;

/// Rows that are taken in, or handed out, at once.
const PIECE: usize = 8192;
/// Bytes that are handed out at once, at about the most.
const PIECE_BYTES: usize = 4 << 20;

/// A column that decides on the order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SortKey {
    /// Number of the column in the schema.
    pub(crate) column: usize,
    /// Number of the column in the file.
    pub(crate) leaf: i32,
    pub(crate) options: SortOptions,
}

impl SortKey {
    fn told(&self) -> SortingColumn {
        SortingColumn {
            column_idx: self.leaf,
            descending: self.options.descending,
            nulls_first: self.options.nulls_first,
        }
    }
}

/// Rows that are being collected.
pub(crate) struct Sorter {
    order: Vec<SortKey>,
    /// Rows that are sorted together at the most.
    most_rows: usize,
    converter: Option<RowConverter>,
    keys: Option<Rows>,
    batches: Vec<RecordBatch>,
    rows: usize,
    /// Buffers that the batches hold, which may share them.
    buffers: HashSet<usize>,
    bytes: usize,
    /// Bytes of what dictionaries stand for, beyond what they take.
    unpacked: usize,
    /// How many columns of the order may be told.
    told: usize,
}

impl Sorter {
    pub(crate) fn new(order: &[SortKey], most_rows: usize) -> Self {
        Self {
            order: order.to_vec(),
            // The permutation has numbers of 32 bits.
            most_rows: most_rows.min(u32::MAX as usize),
            converter: None,
            keys: None,
            batches: Vec::new(),
            rows: 0,
            buffers: HashSet::new(),
            bytes: 0,
            unpacked: 0,
            told: order.len(),
        }
    }

    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    pub(crate) fn has_room(&self) -> bool {
        self.rows < self.most_rows
    }

    /// Bytes held, those that sorting will take included.
    pub(crate) fn memory(&self) -> usize {
        let keys = self.keys.as_ref().map_or(0, Rows::size);
        self.bytes + keys + self.rows * size_of::<(u64, u32)>()
    }

    /// Bytes that the rows take once more when they are encoded, at about the most.
    pub(crate) fn encoded(&self) -> usize {
        self.bytes + self.unpacked
    }

    /// Takes some rows of `batch`, from `offset` on, and gives their number.
    pub(crate) fn push(&mut self, batch: &RecordBatch, offset: usize) -> Result<usize> {
        let room = self.most_rows.saturating_sub(self.rows).min(PIECE);
        let part = batch.slice(offset, room.min(batch.num_rows().saturating_sub(offset)));
        let mut columns = Vec::with_capacity(self.order.len());
        for key in &self.order {
            let column = part.columns().get(key.column);
            columns.push(column.cloned().ok_or_else(|| failed(&"a batch has other columns than the plan"))?);
        }
        if self.converter.is_none() {
            let field = |(key, column): (&SortKey, &ArrayRef)| {
                SortField::new_with_options(column.data_type().clone(), key.options)
            };
            let fields = self.order.iter().zip(&columns).map(field).collect();
            self.converter = Some(RowConverter::new(fields).map_err(|error| failed(&error))?);
        }
        let Some(converter) = &self.converter else { return Err(failed(&"there is no order")) };
        let keys = self.keys.get_or_insert_with(|| converter.empty_rows(0, 0));
        converter.append(keys, &columns).map_err(|error| failed(&error))?;
        // Readers take both zeros for the same, so of rows that differ in nothing else before, the next key goes down.
        let end = |(index, column)| match () {
            () if has(column, f64::is_nan) => Some(index),
            () if has(column, |value| value == 0.0 && value.is_sign_negative()) => Some(index + 1),
            () => None,
        };
        self.told = columns.iter().take(self.told).enumerate().find_map(end).unwrap_or(self.told);
        for column in part.columns() {
            self.bytes += new_bytes(&column.to_data(), &mut self.buffers);
            if let DataType::Dictionary(..) = column.data_type() {
                let values = column.as_any_dictionary().values();
                self.unpacked += column.len() * (values.get_buffer_memory_size() / values.len().max(1));
            }
        }
        self.rows += part.num_rows();
        let taken = part.num_rows();
        self.batches.push(part);
        Ok(taken)
    }

    /// Sorts what has been collected, and is empty then.
    pub(crate) fn sort(&mut self) -> Run {
        let empty = Self { converter: self.converter.take(), ..Self::new(&self.order, self.most_rows) };
        let full = std::mem::replace(self, empty);
        let mut ends = Vec::with_capacity(full.batches.len());
        full.batches.iter().fold(0, |end, batch| {
            ends.push(end + batch.num_rows());
            end + batch.num_rows()
        });
        let permutation = full.keys.and_then(|keys| permutation(&keys));
        let sort = permutation.as_ref().map_or(0, |rows| rows.capacity() * size_of::<(u64, u32)>());
        Run {
            memory: full.bytes + sort,
            encoded: full.bytes + full.unpacked,
            piece: PIECE.min(full.rows.saturating_mul(PIECE_BYTES) / (full.bytes + full.unpacked).max(1)).max(1),
            schema: None,
            batches: full.batches,
            ends,
            permutation,
            at: 0,
            order: full.order.iter().take(full.told).map(SortKey::told).collect(),
        }
    }
}

fn failed(error: &dyn std::fmt::Display) -> ParquetError {
    ParquetError::General(format!("rows cannot be sorted: {error}"))
}

/// Whether `column` is one of floats with such a value.
fn has(column: &ArrayRef, is_such: impl Fn(f64) -> bool) -> bool {
    match column.data_type() {
        DataType::Float16 => column.as_primitive::<Float16Type>().iter().flatten().any(|value| is_such(value.to_f64())),
        DataType::Float32 => column.as_primitive::<Float32Type>().iter().flatten().any(|value| is_such(value.into())),
        DataType::Float64 => column.as_primitive::<Float64Type>().iter().flatten().any(is_such),
        // Not worth looking into, for nobody writes it.
        DataType::Dictionary(_, values) => values.is_floating(),
        _ => false,
    }
}

/// Bytes of the buffers of `data` that are not among `seen`.
fn new_bytes(data: &arrow_data::ArrayData, seen: &mut HashSet<usize>) -> usize {
    let buffers = data.buffers().iter().chain(data.nulls().map(NullBuffer::buffer));
    let mut bytes = 0;
    for buffer in buffers {
        if seen.insert(buffer.data_ptr().as_ptr() as usize) {
            bytes += buffer.capacity();
        }
    }
    data.child_data().iter().fold(bytes, |bytes, child| bytes + new_bytes(child, seen))
}

/// The numbers of the rows in the order of their `keys`; `None` if they are in it already.
fn permutation(keys: &Rows) -> Option<Vec<(u64, u32)>> {
    let rows = keys.num_rows();
    if (1..rows).all(|row| keys.row(row - 1) <= keys.row(row)) {
        return None;
    }
    let first = keys.row(0);
    let first: &[u8] = first.as_ref();
    let mut common = first.len();
    for row in 1..rows {
        let row = keys.row(row);
        common = first.iter().zip(row.as_ref()).take(common).take_while(|(left, right)| left == right).count();
    }
    let start = |row: usize| {
        let row = keys.row(row);
        let differing = row.as_ref().get(common..).unwrap_or_default();
        let mut start = [0; 8];
        let length = differing.len().min(8);
        start[..length].copy_from_slice(&differing[..length]);
        u64::from_be_bytes(start)
    };
    // There are no more than fit: see `Sorter::new`.
    let mut order: Vec<(u64, u32)> = (0..rows).map(|row| (start(row), row as u32)).collect();
    order.sort_unstable_by(|left, right| {
        let keys = || keys.row(left.1 as usize).cmp(&keys.row(right.1 as usize));
        left.0.cmp(&right.0).then_with(keys).then(left.1.cmp(&right.1))
    });
    Some(order)
}

/// Rows in their order, to be handed out.
pub(crate) struct Run {
    memory: usize,
    encoded: usize,
    /// Rows that are handed out at once.
    piece: usize,
    /// That of what is handed out.
    schema: Option<SchemaRef>,
    batches: Vec<RecordBatch>,
    /// Number of the row at which each batch ends.
    ends: Vec<usize>,
    permutation: Option<Vec<(u64, u32)>>,
    /// Batches or rows that were handed out.
    at: usize,
    /// What is true of the order.
    pub(crate) order: Vec<SortingColumn>,
}

impl Run {
    pub(crate) fn memory(&self) -> usize {
        self.memory
    }

    /// Bytes that the rows take once more when they are encoded, at about the most.
    pub(crate) fn encoded(&self) -> usize {
        self.encoded
    }

    /// The next rows.
    pub(crate) fn next(&mut self) -> Result<Option<RecordBatch>> {
        let Some(permutation) = &self.permutation else {
            let batch = self.batches.get(self.at).cloned();
            self.at += 1;
            return Ok(batch);
        };
        let end = permutation.len().min(self.at + self.piece);
        let rows = &permutation[self.at..end];
        if rows.is_empty() {
            return Ok(None);
        }
        self.at = end;
        let place = |&(_, row): &(u64, u32)| {
            let batch = self.ends.partition_point(|&end| end <= row as usize);
            let start = batch.checked_sub(1).map_or(0, |before| self.ends[before]);
            (batch, row as usize - start)
        };
        let places: Vec<_> = rows.iter().map(place).collect();
        let Some(first) = self.batches.first() else { return Ok(None) };
        let mut columns = Vec::with_capacity(first.num_columns());
        for index in 0..first.num_columns() {
            let arrays: Vec<&dyn Array> = self.batches.iter().map(|batch| batch.column(index).as_ref()).collect();
            columns.push(gather(&arrays, &places).map_err(|error| failed(&error))?);
        }
        let schema = self.schema.get_or_insert_with(|| {
            let fields = first.schema_ref().fields().iter().zip(&columns);
            let fields =
                fields.map(|(field, column)| field.as_ref().clone().with_data_type(column.data_type().clone()));
            Schema::new(fields.collect::<Vec<_>>()).into()
        });
        RecordBatch::try_new(schema.clone(), columns).map(Some).map_err(|error| failed(&error))
    }
}

/// The rows at `places`, which are numbers of arrays and of rows in them. Of dictionaries, their values: those of
/// several arrays can be more than one dictionary may have.
fn gather(arrays: &[&dyn Array], places: &[(usize, usize)]) -> Result<ArrayRef, arrow_schema::ArrowError> {
    if !matches!(arrays.first().map(|array| array.data_type()), Some(DataType::Dictionary(..))) {
        return interleave(arrays, places);
    }
    let mut rows: Vec<Vec<u32>> = vec![Vec::new(); arrays.len()];
    let moved: Vec<_> = places
        .iter()
        .map(|&(array, row)| {
            // A batch here has no more rows than `PIECE`.
            rows[array].push(row as u32);
            (array, rows[array].len() - 1)
        })
        .collect();
    let unpacked = arrays.iter().zip(rows).map(|(array, rows)| {
        let taken = arrow_select::take::take(*array, &arrow_array::UInt32Array::from(rows), None)?;
        unpack(&taken).map_err(|error| arrow_schema::ArrowError::from_external_error(Box::new(error)))
    });
    let unpacked = unpacked.collect::<Result<Vec<_>, _>>()?;
    interleave(&unpacked.iter().map(AsRef::as_ref).collect::<Vec<_>>(), &moved)
}
