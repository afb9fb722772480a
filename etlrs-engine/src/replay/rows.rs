//! The rows of a quarantine, whatever keeps it.

use std::collections::HashSet;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::Int64Type;
use arrow_array::{Array, ArrayRef, BinaryArray, Int64Array, RecordBatch, StringArray};
use arrow_schema::DataType;
use etlrs_core::{Checksum, Error, ErrorKind, Position, Rejected, Result};

/// Some rows of a quarantine, with the types that [`Rejected::schema`] has: a file of text has others.
pub(super) struct Rows {
    pub(super) run: StringArray,
    pub(super) source: StringArray,
    partition: Int64Array,
    pub(super) record: Int64Array,
    line: Int64Array,
    byte: Int64Array,
    pub(super) stage: StringArray,
    pub(super) part: Int64Array,
    raw: BinaryArray,
    fixed: StringArray,
    pub(super) target: StringArray,
    pub(super) transforms: Int64Array,
    pub(super) transforms_left: Int64Array,
    pub(super) read_as: StringArray,
    pub(super) replay: StringArray,
}

/// What tells a record from others that are too long to be held whole: its run, its partition, its number.
pub(super) type Long = (String, i64, Option<i64>);

impl Rows {
    /// # Errors
    /// `SchemaMismatch` for what is no quarantine.
    pub(super) fn of(batch: &RecordBatch) -> Result<Self> {
        let column = |name: &str, to: DataType| -> Result<ArrayRef> {
            let missing = || {
                let message = format!("it has no column {name}, so it is no quarantine that this version has written");
                Error::new(ErrorKind::SchemaMismatch, message)
            };
            let column = batch.column_by_name(name).ok_or_else(missing)?;
            let cast = arrow_cast::cast(column, &to);
            cast.map_err(|error| Error::new(ErrorKind::SchemaMismatch, error.to_string()).at_column(name))
        };
        let text = |name: &str| Ok::<_, Error>(column(name, DataType::Utf8)?.as_string::<i32>().clone());
        let number = |name: &str| Ok::<_, Error>(column(name, DataType::Int64)?.as_primitive::<Int64Type>().clone());
        let is_text = |column: &ArrayRef| {
            matches!(column.data_type(), DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View | DataType::Null)
        };
        let raw = match batch.column_by_name("raw") {
            // CSV and JSON have no bytes.
            Some(column) if is_text(column) => bytes_of_digits(&text("raw")?)?,
            _ => column("raw", DataType::Binary)?.as_binary::<i32>().clone(),
        };
        Ok(Self {
            run: text("run")?,
            source: text("source")?,
            partition: number("partition")?,
            record: number("record")?,
            line: number("line")?,
            byte: number("byte")?,
            stage: text("stage")?,
            part: number("part")?,
            raw,
            fixed: text("fixed")?,
            target: text("target")?,
            transforms: number("transforms")?,
            transforms_left: number("transforms_left")?,
            read_as: text("read_as")?,
            replay: text("replay")?,
        })
    }

    pub(super) fn len(&self) -> usize {
        self.run.len()
    }

    /// Of all that somebody may change, whatever the order.
    pub(super) fn checksum(&self) -> Result<Checksum> {
        Chosen::checksum(self, &(0..self.len()).collect::<Vec<_>>())
    }

    pub(super) fn long(&self, row: usize) -> Long {
        let record = self.record.is_valid(row).then(|| self.record.value(row));
        (self.run.value(row).to_owned(), self.partition.value(row), record)
    }

    fn raw(&self, row: usize) -> Option<&[u8]> {
        self.raw.is_valid(row).then(|| self.raw.value(row))
    }

    /// What is replayed of a row, if there is something.
    pub(super) fn text(&self, row: usize) -> Option<&[u8]> {
        // Who saves a file of text anew may write an empty text for a null.
        match self.fixed.is_valid(row) && !self.fixed.value(row).trim().is_empty() {
            true => Some(self.fixed.value(row).as_bytes()),
            false => self.raw(row),
        }
    }

    /// The record once more, rejected now by `error`, or by what `again` says.
    pub(super) fn rejected(&self, row: usize, again: &Rejected) -> Rejected {
        let number = |column: &Int64Array| column.is_valid(row).then(|| column.value(row).unsigned_abs());
        let text = |column: &StringArray| column.is_valid(row).then(|| column.value(row).to_owned());
        let mut rejected = again.clone();
        let mut position = Position::default();
        position.source = text(&self.source);
        position.record = number(&self.record);
        position.line = number(&self.line);
        position.byte = number(&self.byte);
        position.column = again.position.column.clone();
        rejected.position = position;
        rejected.stage = self.stage.value(row).to_owned().into();
        rejected.raw = self.raw.is_valid(row).then(|| self.raw.value(row).to_vec());
        rejected.fixed = text(&self.fixed);
        rejected.transforms = number(&self.transforms).and_then(|count| u32::try_from(count).ok());
        rejected.read_as = text(&self.read_as).map(Arc::from);
        rejected
    }
}

/// Which rows of a quarantine are replayed together: those that are read in one way, and go on at one place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Chosen {
    pub(super) group: Group,
    pub(super) runs: HashSet<String>,
    /// In parts, of which the first one tells nothing.
    pub(super) long: Arc<HashSet<Long>>,
    /// Those that were to go elsewhere are not among them.
    pub(super) targets: Arc<HashSet<String>>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Group {
    pub(super) stage: String,
    pub(super) transforms: u32,
    pub(super) read_as: String,
    /// Its texts can be in any encoding if not.
    pub(super) is_utf8: bool,
}

impl Group {
    /// Of a row that can be replayed.
    pub(super) fn of(rows: &Rows, row: usize) -> Option<Self> {
        let transforms = rows.transforms.is_valid(row).then(|| rows.transforms.value(row))?;
        let read_as = rows.read_as.is_valid(row).then(|| rows.read_as.value(row).to_owned())?;
        let (stage, transforms) = (rows.stage.value(row).to_owned(), u32::try_from(transforms).ok()?);
        // What a user writes in its place does not make it another one.
        let is_utf8 = std::str::from_utf8(rows.raw(row)?).is_ok();
        Some(Self { stage, transforms, read_as, is_utf8 })
    }
}

impl Chosen {
    /// Whether that row is among them.
    pub(super) fn has(&self, rows: &Rows, row: usize) -> bool {
        rows.replay.is_null(row)
            && self.runs.contains(rows.run.value(row))
            && rows.part.value(row) == 0
            && self.goes_here(rows, row)
            && Group::of(rows, row).as_ref() == Some(&self.group)
            && !self.long.contains(&rows.long(row))
    }

    /// Whether that row was to go to the target, as far as is known.
    pub(super) fn goes_here(&self, rows: &Rows, row: usize) -> bool {
        rows.target.is_null(row) || self.targets.contains(rows.target.value(row))
    }

    /// Of what they hold, whatever their order.
    pub(super) fn checksum(rows: &Rows, chosen: &[usize]) -> Result<Checksum> {
        let indices = arrow_array::UInt64Array::from_iter_values(chosen.iter().map(|&row| row as u64));
        let columns: [(&str, &dyn Array); 7] = [
            ("run", &rows.run),
            ("part", &rows.part),
            ("replay", &rows.replay),
            ("record", &rows.record),
            ("byte", &rows.byte),
            ("raw", &rows.raw),
            ("fixed", &rows.fixed),
        ];
        let taken = columns.map(|(name, column)| Ok((name, arrow_select::take::take(column, &indices, None)?)));
        let taken = taken.into_iter().collect::<Result<Vec<_>>>()?;
        Checksum::of_batch(&RecordBatch::try_from_iter_with_nullable(
            taken.into_iter().map(|(name, column)| (name, column, true)),
        )?)
    }
}

/// # Errors
/// `InvalidData` for what is no hexadecimal digits.
pub(super) fn bytes_of_digits(column: &StringArray) -> Result<BinaryArray> {
    let bytes = column.iter().map(|text| match text {
        Some(text) => bytes_of(text).map(Some),
        None => Some(None),
    });
    let bytes = bytes.collect::<Option<Vec<Option<Vec<u8>>>>>();
    let wrong = || {
        let message = "the value is no sequence of bytes in hexadecimal digits";
        Error::new(ErrorKind::InvalidData, message)
            .hint("to replay something else, write it into the column fixed, as text")
            .at_column("raw")
    };
    match bytes {
        Some(bytes) => Ok(bytes.iter().map(Option::as_deref).collect()),
        None => Err(wrong()),
    }
}

pub(super) fn bytes_of(digits: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let pairs = digits.as_bytes().chunks(2);
    pairs.map(|pair| Some(digit(pair[0])? << 4 | digit(*pair.get(1)?)?)).collect()
}
