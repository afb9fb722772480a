//! From Arrow columns to the records of a JSON file.
//!
//! Rows are written one after another, each value behind the last into one buffer: numbers, dates and times by
//! `etlrs_files::text::number`, text by copying it where nothing in it has to be escaped, which is looked for in all of a
//! column's text at once.

mod column;
mod form;

use arrow_array::RecordBatch;
use arrow_schema::SchemaRef;
use etlrs_core::{Error, ErrorKind, Result};
use etlrs_files::text::{Encoded, Output, Preceding};

pub(crate) use column::quoted;
use column::{Column, Key};
pub(crate) use form::{HEXADECIMAL, JSON, form};

use crate::options::NonFinite;

/// Why a value cannot be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unfit {
    /// NaN or an infinite number.
    NonFinite,
    /// A year outside 0000 to 9999.
    Year,
    /// A time that is not within a day.
    Time,
    /// Text that is said to be JSON, and is not.
    Json,
    /// The same, nested too deep for whoever reads it.
    DeepJson,
    /// A map with a key that is null.
    NullKey,
    /// A map with a key that it has twice.
    KeyTwice,
}

/// Rows that are looked at together: enough that setting up the columns costs nothing, and few enough that it may be
/// done again where a block ends.
const STRIDE: usize = 4096;

/// What records are written like.
#[derive(Clone, Debug)]
pub(crate) struct Rules {
    pub(crate) omit_nulls: bool,
    pub(crate) non_finite: NonFinite,
}

/// Makes records of the rows of one partition.
#[derive(Debug)]
pub(crate) struct Encoder {
    schema: SchemaRef,
    keys: Vec<Key>,
    rules: Rules,
    /// What stands between two records.
    between: &'static [u8],
    /// What stands behind each record.
    behind: &'static [u8],
}

impl Encoder {
    /// `between` and `behind` are what stands there; `depth` is that of the values of a record in the document.
    pub(crate) fn new(
        schema: &SchemaRef,
        rules: Rules,
        depth: usize,
        (between, behind): (&'static [u8], &'static [u8]),
    ) -> Self {
        let keys = schema.fields().iter().map(|field| Key::new(field, depth)).collect();
        Self { schema: schema.clone(), keys, rules, between, behind }
    }

    /// As [`Encode::rows`](etlrs_files::text::Encode::rows).
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
        if part.num_columns() != self.keys.len() {
            return Err(internal("a batch has other columns than the plan"));
        }
        let columns = part.columns().iter().zip(&self.keys);
        let columns = columns.map(|(array, key)| Column::new(array, Some(0..rows), key, &self.rules));
        let columns = columns
            .collect::<Option<Vec<_>>>()
            .ok_or_else(|| internal("a batch has a column of a type that was not planned"))?;
        let mut encoded = Encoded::default();
        while encoded.rows < rows && (out.len() < enough || encoded.rows == 0) {
            if preceding.in_block || encoded.rows > 0 {
                out.extend(self.between);
            }
            out.push(b'{');
            for (index, column) in columns.iter().enumerate() {
                if let Err(unfit) = column.append_member(out, encoded.rows, &mut encoded.fine) {
                    let row = preceding.rows + (from + encoded.rows) as u64 + 1;
                    return Err(self.refusal(unfit, index, row, preceding));
                }
            }
            column::close(out, b'{', b'}');
            out.extend(self.behind);
            encoded.rows += 1;
        }
        Ok(encoded)
    }

    fn refusal(&self, unfit: Unfit, column: usize, row: u64, preceding: Preceding) -> Error {
        let cast = "cast the column to text, or filter such rows out";
        let (reason, hint) = match unfit {
            Unfit::NonFinite => {
                ("NaN or an infinite number, which JSON has not", "set the option non_finite=null or text")
            }
            Unfit::Year => ("a year outside 0000 to 9999", cast),
            Unfit::Time => ("a time that is not within a day", cast),
            Unfit::Json => ("text that is said to be JSON and is not", "cast the column to text"),
            Unfit::DeepJson => ("JSON that is nested deeper than 128 levels", "cast the column to text"),
            Unfit::KeyTwice => ("a map that has a key twice", "leave the column out"),
            Unfit::NullKey => ("a map with a key that is null", "leave the column out"),
        };
        let partition = preceding.partition;
        Error::new(ErrorKind::InvalidData, format!("row {row} of partition {partition} holds {reason}"))
            .hint(hint)
            .at_column(self.schema.field(column).name())
    }
}
