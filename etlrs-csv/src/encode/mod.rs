//! From Arrow columns to the records of a CSV file.
//!
//! Rows are written one after another, each value behind the last into one buffer: numbers and dates by
//! tables (`etlrs_files::text::number`), text by copying it (`column.rs`). What text needs quotes is found by one search for special
//! bytes over all of a column's text, rather than value by value (`quote.rs`).

mod column;
mod form;
mod quote;

use arrow_array::RecordBatch;
use arrow_schema::SchemaRef;
use etlrs_core::{Error, ErrorKind, PartitionId, Result};

use column::Column;
use etlrs_files::text::{Encoded, Output, Preceding};
pub(crate) use form::{HEXADECIMAL, form};
pub(crate) use quote::Dialect;

/// Why a value cannot be a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unfit {
    /// It would be read as something else without quotes, and there are none.
    Quote,
    /// A year outside 0000 to 9999.
    Year,
    /// A time that is not within a day.
    Time,
}

/// Rows that are looked at together: enough that setting up the columns costs nothing, and few enough that it may be
/// done again where a block ends.
const STRIDE: usize = 4096;

/// Makes records of the rows of one partition.
pub(crate) struct Encoder<'a> {
    pub(crate) schema: &'a SchemaRef,
    pub(crate) dialect: &'a Dialect,
    pub(crate) line_end: &'static [u8],
    /// Whether the first record may be the first of a file.
    pub(crate) may_be_first: bool,
}

impl Encoder<'_> {
    /// The record with the names of the columns.
    ///
    /// # Errors
    /// `InvalidConfig` for a name that would need quotes where there are none.
    pub(crate) fn header(&self) -> Result<Output> {
        let mut out = Output::default();
        for (index, field) in self.schema.fields().iter().enumerate() {
            self.dialect.append_text(&mut out, field.name().as_bytes(), index == 0).map_err(|_| {
                Error::new(ErrorKind::InvalidConfig, "the name of the column would need quotes, and there are none")
                    .hint("set the option quoting=needed, or rename the column")
                    .at_column(field.name())
            })?;
            out.push(self.dialect.delimiter);
        }
        self.end_record(&mut out);
        Ok(out)
    }

    #[inline(always)]
    fn end_record(&self, out: &mut Output) {
        // In the place of the last delimiter.
        let (&first, rest) = self.line_end.split_first().unwrap_or((&b'\n', &[]));
        out.replace_last(first);
        rest.iter().for_each(|&byte| out.push(byte));
    }

    /// Appends rows of `batch` from `from` on to `out`, one at the least, until it holds `enough` bytes or some thousand
    /// rows are done.
    ///
    /// # Errors
    /// `InvalidData` for a value that CSV cannot hold as the options say; `Internal` for a batch of another schema.
    pub(crate) fn rows(
        &self,
        batch: &RecordBatch,
        from: usize,
        out: &mut Output,
        enough: usize,
        preceding: Preceding,
    ) -> Result<Encoded> {
        let rows = batch.num_rows().saturating_sub(from).min(STRIDE);
        let part = batch.slice(from, rows);
        let internal = |message| Error::new(ErrorKind::Internal, message);
        if part.num_columns() != self.schema.fields().len() {
            return Err(internal("a batch has other columns than the plan"));
        }
        let columns = part.columns().iter().enumerate();
        let columns = columns.map(|(index, array)| Column::new(array, self.dialect, self.may_be_first && index == 0));
        let mut columns = columns
            .collect::<Option<Vec<_>>>()
            .ok_or_else(|| internal("a batch has a column of a type that was not planned"))?;
        let delimiter = self.dialect.delimiter;
        let mut encoded = Encoded::default();
        while encoded.rows < rows && (out.len() < enough || encoded.rows == 0) {
            for (index, column) in columns.iter_mut().enumerate() {
                if let Err(unfit) = column.append(out, encoded.rows, self.dialect, &mut encoded.fine) {
                    let row = preceding.rows + (from + encoded.rows) as u64 + 1;
                    return Err(self.refusal(unfit, index, row, preceding.partition));
                }
                out.push(delimiter);
            }
            self.end_record(out);
            encoded.rows += 1;
        }
        Ok(encoded)
    }

    fn refusal(&self, unfit: Unfit, column: usize, row: u64, partition: PartitionId) -> Error {
        let (reason, hint) = match unfit {
            Unfit::Quote => ("a value that would need quotes, and there are none", "set the option quoting=needed"),
            Unfit::Year => ("a year outside 0000 to 9999", "cast the column to text, or filter such rows out"),
            Unfit::Time => ("a time that is not within a day", "cast the column to text, or filter such rows out"),
        };
        Error::new(ErrorKind::InvalidData, format!("row {row} of partition {partition} holds {reason}"))
            .hint(hint)
            .at_column(self.schema.field(column).name())
    }
}
