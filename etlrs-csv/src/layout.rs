//! What all files of a load have in common.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

use arrow_array::RecordBatch;
use arrow_schema::{DataType, SchemaRef};
use async_trait::async_trait;
use etlrs_core::{Error, ErrorKind, LoadPlan, Result, RunContext, Scan, type_name};
use etlrs_files::Compression;
use etlrs_files::text::{Encode, Encoded, Output, Preceding, StagedText};

use crate::encode::{Dialect, Encoder, HEXADECIMAL, form};
use crate::read_back::staged_scan;
use crate::{CsvWriteOptions, Quoting};

#[derive(Debug)]
pub(crate) struct Layout {
    pub(crate) schema: SchemaRef,
    pub(crate) dialect: Dialect,
    pub(crate) line_end: &'static [u8],
    /// The record with the names of the columns, if files have one.
    pub(crate) header: Vec<u8>,
    pub(crate) compression: Compression,
    /// How each column is written, in words.
    pub(crate) described: Vec<String>,
    /// As what types the columns are read back with nothing lost; `None` if that cannot be.
    pub(crate) read_as: Option<Vec<DataType>>,
    pub(crate) notes: Vec<String>,
    options: CsvWriteOptions,
}

impl Layout {
    /// # Errors
    /// `SchemaMismatch` for columns that CSV cannot hold, `InvalidConfig` for options that contradict each other.
    pub(crate) fn new(plan: &LoadPlan, options: &CsvWriteOptions, target: &Path) -> Result<Self> {
        Self::of(plan, options, target).map_err(|error| error.in_source(target.display()))
    }

    fn of(plan: &LoadPlan, options: &CsvWriteOptions, target: &Path) -> Result<Self> {
        let dialect = dialect(options)?;
        let compression = options.compression.unwrap_or_else(|| Compression::of_path(target));
        compression.check()?;
        if plan.schema.fields().is_empty() {
            return Err(Error::new(ErrorKind::SchemaMismatch, "a CSV file has at least one column"));
        }
        let (mut described, mut notes, mut read_as) = (Vec::new(), Vec::new(), Some(Vec::new()));
        for field in plan.schema.fields() {
            let form = form(field.data_type()).map_err(|refusal| {
                let reason = format!("{} {}", type_name(field.data_type()), refusal.reason);
                Error::new(ErrorKind::SchemaMismatch, reason).hint(refusal.hint).at_column(field.name())
            })?;
            let null = &options.null_value;
            if !null.is_empty() && (form.may_be)(null) {
                let message = format!("null cannot be spelled {null:?}, which may be a value of the column");
                return Err(Error::new(ErrorKind::InvalidConfig, message).at_column(field.name()));
            }
            if form.described == HEXADECIMAL {
                notes.push(format!(
                    "column {:?} of type {} is written as hexadecimal digits, which are read as text",
                    field.name(),
                    type_name(field.data_type())
                ));
            }
            if form.read_as.is_none() {
                let what = format!("{} is not read back as what it was", type_name(field.data_type()));
                plan.refuse_read_back(what).map_err(|error| error.at_column(field.name()))?;
            }
            read_as = read_as.zip(form.read_as).map(|(mut types, data_type)| {
                types.push(data_type);
                types
            });
            described.push(form.described.to_owned());
        }
        if options.formula_guard {
            notes.push("text that a spreadsheet would take for a formula gets an apostrophe in front".to_owned());
            plan.refuse_read_back("the option formula_guard changes text")?;
            read_as = None;
        }
        let mut names = HashSet::new();
        if options.header
            && !plan.schema.fields().iter().all(|field| !field.name().is_empty() && names.insert(field.name()))
        {
            plan.refuse_read_back("reading gives columns other names that have none, or one that another has")?;
            // Types are given by name.
            read_as = None;
        }
        let (schema, line_end) = (plan.schema.clone(), options.line_end.bytes());
        let mut layout = Self {
            schema,
            dialect,
            line_end,
            header: Vec::new(),
            compression,
            described,
            read_as,
            notes,
            options: options.clone(),
        };
        if options.header {
            layout.header = layout.encoder().header()?.as_bytes().to_owned();
        }
        Ok(layout)
    }

    pub(crate) fn encoder(&self) -> Encoder<'_> {
        Encoder {
            schema: &self.schema,
            dialect: &self.dialect,
            line_end: self.line_end,
            may_be_first: self.header.is_empty(),
        }
    }
}

#[async_trait]
impl Encode for Layout {
    fn compression(&self) -> Compression {
        self.compression
    }

    fn extension(&self) -> &'static str {
        let tabs = self.dialect.delimiter == b'\t';
        match self.compression {
            Compression::Gzip(_) if tabs => "tsv.gz",
            Compression::Zstd(_) if tabs => "tsv.zst",
            Compression::Bzip2(_) if tabs => "tsv.bz2",
            Compression::Xz(_) if tabs => "tsv.xz",
            _ if tabs => "tsv",
            Compression::Gzip(_) => "csv.gz",
            Compression::Zstd(_) => "csv.zst",
            Compression::Bzip2(_) => "csv.bz2",
            Compression::Xz(_) => "csv.xz",
            _ => "csv",
        }
    }

    fn start(&self) -> &[u8] {
        &self.header
    }

    fn rows(
        &self,
        batch: &RecordBatch,
        from: usize,
        out: &mut Output,
        enough: usize,
        preceding: Preceding,
    ) -> Result<Encoded> {
        self.encoder().rows(batch, from, out, enough, preceding)
    }

    fn line_end(&self) -> &[u8] {
        self.line_end
    }

    async fn read_back(&self, cx: &RunContext, staged: Vec<StagedText>) -> Result<Option<Arc<dyn Scan>>> {
        staged_scan(cx, self, &self.options, staged).await
    }
}

/// The same rules as for reading, and beyond them what keeps values apart from the structure.
fn dialect(options: &CsvWriteOptions) -> Result<Dialect> {
    let (delimiter, quote) = (options.delimiter.0, options.quote.0);
    let wrong = |message| Err(Error::new(ErrorKind::InvalidConfig, message));
    // No number, date or truth value is written with one of the others.
    let usable = |byte: u8| byte.is_ascii() && !byte.is_ascii_alphanumeric() && !b"\n\r+-.".contains(&byte);
    if !usable(delimiter) || !quote.is_none_or(usable) || quote == Some(delimiter) {
        return wrong(
            "delimiter and quote must be two different ASCII characters other than letters, digits, line ends, +, - and .",
        );
    }
    if quote.is_none() && matches!(options.quoting, Quoting::All | Quoting::Text) {
        return wrong("values cannot be quoted without a quote; set the option quote, or quoting=none");
    }
    if matches!(quote, Some(b' ' | b':')) {
        return wrong("the quote must be no character that times are written with");
    }
    let null = options.null_value.as_bytes();
    if null.iter().any(|&byte| byte == delimiter || Some(byte) == quote || byte == b'\n' || byte == b'\r') {
        return wrong("null_value must have no delimiter, quote or line end in it");
    }
    if (quote.is_none() || options.quoting == Quoting::None) && matches!(delimiter, b' ' | b':') {
        return wrong(
            "with this delimiter, times have to be quoted; set the options quote and quoting, or another delimiter",
        );
    }
    let null = null.to_owned();
    Ok(Dialect { delimiter, quote, null, quoting: options.quoting, formula_guard: options.formula_guard })
}
