use std::io::{BufReader, Read};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow_array::RecordBatch;
use arrow_schema::{DataType, Field, Fields, Schema};
use async_trait::async_trait;
use etlrs_core::{
    Error, ErrorKind, Extractor, Interrupted, LoadCapabilities, LoadMode, LoadPlan, LoadPreview, LoadSession, Loader,
    MemoryExtractor, Partition, Result, RunContext, RunId, Scan, ScanRequest, type_name,
};
use etlrs_files::text::{
    Encode, Encoded, Encoding, JoinedScan, Old, OldFile, Output, Preceding, StagedText, TextSession, check_read_back,
};
use etlrs_files::{Compression, Staging, reading};

use crate::encode::{Encoder, HEXADECIMAL, JSON, Rules, form};
use crate::layout::{Layout, extension};
use crate::options::{JsonLayout, JsonOptions, JsonWriteLayout, JsonWriteOptions, NonFinite};
use crate::syntax::{self, Fault};
use crate::{EXTENSIONS, JsonExtractor};

/// Writes a JSON file, or a directory with one file per partition; compressed if the name says so.
///
/// Each record is an object on a line of its own, with the members in the order of the columns: in a list if the name ends in
/// `.json`, and else without anything between (NDJSON, JSON Lines). Partitions are encoded by as many writers as there are. In
/// one file their rows keep the order of the source. The files of a directory have the names `part-RUN-00000.ndjson` and are
/// listed in its manifest.
///
/// | Arrow | written |
/// |---|---|
/// | Boolean | `true`, `false` |
/// | integers, decimals | a number with all digits; a decimal has those of its scale |
/// | floats | the shortest number that reads back as the same bits; NaN and infinite ones as `non_finite` says |
/// | Date32, times | `"2013-01-31"`, `"05:00:00"`, with as many digits of the second as are not zero |
/// | timestamps | `"2013-01-31T05:00:00.5"`; with a zone in UTC and with a `Z`. Years outside 0000 to 9999 are refused |
/// | text, dictionaries | a string; text that is marked as JSON (`arrow.json`) as it is, without white space |
/// | structs, maps with keys of text | an object |
/// | lists | a list |
/// | binary | a string of hexadecimal digits, which is read as text |
/// | anything else | refused |
#[derive(Clone, Debug)]
pub struct JsonLoader {
    path: PathBuf,
    directory: bool,
    options: JsonWriteOptions,
}

impl JsonLoader {
    /// To the one file `path`, which may be the URL of an object (`s3://bucket/sales.ndjson`).
    ///
    /// Rows can be appended to a file with a record on each line, and not to a list.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), directory: false, options: JsonWriteOptions::default() }
    }

    /// To the directory `path`.
    pub fn directory(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), directory: true, options: JsonWriteOptions::default() }
    }

    /// With these options.
    #[must_use]
    pub fn with_options(mut self, options: JsonWriteOptions) -> Self {
        self.options = options;
        self
    }

    fn layout(&self) -> JsonWriteLayout {
        self.options.layout.unwrap_or_else(|| match extension(&self.path) == "json" {
            true => JsonWriteLayout::Array,
            false => JsonWriteLayout::Lines,
        })
    }

    fn check_mode(&self, mode: LoadMode) -> Result<()> {
        self.capabilities().require(mode, self.path.display())?;
        if mode == LoadMode::Append && !self.directory && self.layout() == JsonWriteLayout::Array {
            let message = "rows cannot be appended to a list in one file";
            return Err(Error::new(ErrorKind::Unsupported, message)
                .hint("write records on lines (.ndjson), or to a directory, or use mode replace")
                .in_source(self.path.display()));
        }
        Ok(())
    }

    /// Works out what would be written where, and refuses what cannot be; `target` is read and not changed.
    fn prepare(&self, plan: &LoadPlan, target: &Path, exists: bool, cx: &RunContext) -> Result<Prepared> {
        let mut format = Format::new(plan, self.layout(), &self.options, target)?;
        let old = match (exists, self.directory) {
            (false, _) => Old::None,
            (true, false) if plan.mode == LoadMode::Append => {
                let old = OldFile::open(target, format.compression, self.options.compression, cx)
                    .map_err(|error| error.in_source(target.display()))?;
                format.compression = old.compression;
                require_lines(&old, target)?;
                Old::File { is_empty: old.has_no_bytes(), file: old }
            }
            (true, false) => Old::None,
            (true, true) => Old::parts(target, EXTENSIONS, plan, cx, |_| Ok(()))?,
        };
        check_read_back(plan, format.compression, target)?;
        Ok(Prepared { format: Arc::new(format), old })
    }
}

/// Whether there are floats in values of the type.
fn has_floats(data_type: &DataType) -> bool {
    match data_type {
        DataType::Struct(fields) => fields.iter().any(|field| has_floats(field.data_type())),
        DataType::List(item)
        | DataType::LargeList(item)
        | DataType::FixedSizeList(item, _)
        | DataType::Map(item, _) => has_floats(item.data_type()),
        DataType::Dictionary(_, values) => has_floats(values),
        data_type => data_type.is_floating(),
    }
}

/// Refuses a file behind which records on lines cannot stand.
fn require_lines(old: &OldFile, target: &Path) -> Result<()> {
    const WINDOW: usize = 64 << 10;
    if old.has_no_bytes() {
        return Ok(());
    }
    let failed = |error| reading(target, error);
    let mut input = BufReader::new(old.read()?);
    let (mut start, mut whole) = (Vec::new(), false);
    // White space, of which there may be much, says nothing.
    while start.trim_ascii().is_empty() {
        start.clear();
        if input.by_ref().take(WINDOW as u64).read_to_end(&mut start).map_err(failed)? == 0 {
            return Ok(());
        }
        whole = start.len() < WINDOW;
        if let Some(encoding) = Encoding::of_mark(&start) {
            start.drain(..if encoding == Encoding::Utf8 { 3 } else { 0 });
        }
    }
    let is_text = match std::str::from_utf8(&start) {
        Ok(_) => true,
        // A character that is cut.
        Err(error) => error.error_len().is_none(),
    };
    let what = match Layout::of(&start, whole, target).0 {
        _ if !is_text || start.contains(&0) => "is not in UTF-8",
        Layout::Array => "is a list",
        Layout::Lines if ends_within_a_value(old)? => "ends in the middle of a record",
        _ => return Ok(()),
    };
    let message = format!("rows cannot be appended, for the file that exists {what}");
    Err(Error::new(ErrorKind::SchemaMismatch, message).hint("use mode replace").in_source(target.display()))
}

/// Whether somebody stopped writing in the middle of the last line.
fn ends_within_a_value(old: &OldFile) -> Result<bool> {
    const LONGEST: usize = 1 << 20;
    let line = old.unended_line(LONGEST)?.unwrap_or_default();
    let text = line.trim_ascii();
    Ok(syntax::value(text, 0, 0) == Err(Fault::End) && !text.is_empty())
}

struct Prepared {
    format: Arc<Format>,
    old: Old,
}

/// What all files of a load have in common.
#[derive(Debug)]
struct Format {
    layout: JsonWriteLayout,
    compression: Compression,
    encoder: Encoder,
    names: Vec<String>,
    described: Vec<String>,
    /// As what types the columns are read back with nothing lost; `None` if that cannot be.
    read_as: Option<Vec<DataType>>,
    notes: Vec<String>,
}

impl Format {
    /// # Errors
    /// `SchemaMismatch` for columns that JSON cannot hold.
    fn new(plan: &LoadPlan, layout: JsonWriteLayout, options: &JsonWriteOptions, target: &Path) -> Result<Self> {
        Self::of(plan, layout, options, target).map_err(|error| error.in_source(target.display()))
    }

    fn of(plan: &LoadPlan, layout: JsonWriteLayout, options: &JsonWriteOptions, target: &Path) -> Result<Self> {
        let compression = options.compression.unwrap_or_else(|| Compression::of_path(target));
        compression.check()?;
        let (mut described, mut notes, mut names) = (Vec::new(), Vec::new(), Vec::<String>::new());
        let mut read_as = (!plan.schema.fields().is_empty()).then(Vec::new);
        for field in plan.schema.fields() {
            let (name, type_name) = (field.name(), type_name(field.data_type()));
            let form = form(field).map_err(|refusal| {
                let reason = format!("{type_name} {}", refusal.reason);
                Error::new(ErrorKind::SchemaMismatch, reason).hint(refusal.hint).at_column(name)
            })?;
            if names.contains(name) {
                let message = "an object has each key once, and two columns have this name";
                return Err(Error::new(ErrorKind::SchemaMismatch, message).hint("rename one").at_column(name));
            }
            if form.described == HEXADECIMAL {
                notes.push(format!(
                    "column {name:?} of type {type_name} is written as hexadecimal digits, which are read as text"
                ));
            }
            // What becomes null or text is not what it was.
            let is_exact = options.non_finite == NonFinite::Fail || !has_floats(field.data_type());
            let read = form.read_as.filter(|_| is_exact);
            if read.is_none() {
                let what = match is_exact {
                    true if form.described == JSON => "the white space of JSON is not kept".to_owned(),
                    true => format!("{type_name} is not read back as what it was"),
                    false => "the option non_finite changes numbers".to_owned(),
                };
                plan.refuse_read_back(what).map_err(|error| error.at_column(name))?;
            }
            read_as = read_as.zip(read).map(|(mut types, data_type)| {
                types.push(data_type);
                types
            });
            names.push(name.clone());
            described.push(form.described.to_owned());
        }
        let (depth, around): (_, (&[u8], &[u8])) = match layout {
            JsonWriteLayout::Lines => (1, (b"", b"\n")),
            JsonWriteLayout::Array => (2, (b",\n", b"")),
        };
        let rules = Rules { omit_nulls: options.omit_nulls, non_finite: options.non_finite };
        let encoder = Encoder::new(&plan.schema, rules, depth, around);
        Ok(Self { layout, compression, encoder, names, described, read_as, notes })
    }
}

#[async_trait]
impl Encode for Format {
    fn compression(&self) -> Compression {
        self.compression
    }

    fn extension(&self) -> &'static str {
        let lines = self.layout == JsonWriteLayout::Lines;
        match self.compression {
            Compression::Gzip(_) if lines => "ndjson.gz",
            Compression::Zstd(_) if lines => "ndjson.zst",
            Compression::Bzip2(_) if lines => "ndjson.bz2",
            Compression::Xz(_) if lines => "ndjson.xz",
            _ if lines => "ndjson",
            Compression::Gzip(_) => "json.gz",
            Compression::Zstd(_) => "json.zst",
            Compression::Bzip2(_) => "json.bz2",
            Compression::Xz(_) => "json.xz",
            _ => "json",
        }
    }

    fn start(&self) -> &[u8] {
        if self.layout == JsonWriteLayout::Array { b"[\n" } else { b"" }
    }

    fn between(&self) -> &[u8] {
        if self.layout == JsonWriteLayout::Array { b",\n" } else { b"" }
    }

    fn end(&self) -> &[u8] {
        if self.layout == JsonWriteLayout::Array { b"\n]\n" } else { b"" }
    }

    fn rows(
        &self,
        batch: &RecordBatch,
        from: usize,
        out: &mut Output,
        enough: usize,
        preceding: Preceding,
    ) -> Result<Encoded> {
        self.encoder.rows(batch, from, out, enough, preceding)
    }

    async fn read_back(&self, cx: &RunContext, staged: Vec<StagedText>) -> Result<Option<Arc<dyn Scan>>> {
        // The extractor reads at places in the file.
        let Some(types) = self.read_as.as_ref().filter(|_| self.compression == Compression::None) else {
            return Ok(None);
        };
        let field = |(name, data_type): (&String, &DataType)| Field::new(name, data_type.clone(), true);
        let fields: Fields = self.names.iter().zip(types).map(field).collect();
        let layout = match self.layout {
            JsonWriteLayout::Lines => JsonLayout::Lines,
            JsonWriteLayout::Array => JsonLayout::Array,
        };
        let read = JsonOptions::default().with_layout(layout);
        let mut scans = Vec::new();
        for StagedText { path, ranges } in staged {
            if ranges.is_empty() {
                continue;
            }
            let mut request = ScanRequest::all();
            if layout == JsonLayout::Lines {
                let describe = |(index, range): (usize, &Range<u64>)| {
                    Partition::new(index, format!("bytes {}..{}", range.start, range.end))
                };
                request.recorded = Some(ranges.iter().enumerate().map(describe).collect());
            }
            let extractor = JsonExtractor::new(path).with_options(read.clone()).planned(fields.clone());
            scans.push(extractor.scan(cx, &request).await?);
        }
        let Some(first) = scans.first() else {
            let schema = Arc::new(Schema::new(fields));
            return Ok(Some(MemoryExtractor::new(schema, []).scan(cx, &ScanRequest::all()).await?));
        };
        Ok(Some(Arc::new(JoinedScan::new(first.schema(), scans))))
    }
}

#[async_trait]
impl Loader for JsonLoader {
    fn capabilities(&self) -> LoadCapabilities {
        LoadCapabilities::one_writer()
            .modes(Staging::modes(&self.path, self.directory))
            .max_writers(usize::MAX)
            .resumable(Staging::is_resumable(&self.path))
            .keeps_cursors(Staging::keeps_cursors(&self.path, self.directory))
            .replaces_files(self.directory)
    }

    async fn check(&self, cx: &RunContext, plan: &LoadPlan) -> Result<LoadPreview> {
        self.check_mode(plan.mode)?;
        let exists = Staging::check(&self.path, plan.mode, self.directory, cx.cancel())?;
        let Prepared { format, old } = self.prepare(plan, &self.path, exists, cx)?;
        let mut preview = LoadPreview::default();
        preview.column_types = format.described.clone();
        preview.notes = format.notes.clone();
        preview.notes.extend(old.note(&self.path, exists));
        Ok(preview)
    }

    fn identity(&self) -> String {
        format!("{:?}", self.options)
    }

    async fn cursor(&self, cx: &RunContext, source: &str) -> Result<Option<String>> {
        Staging::cursor(&self.path, self.directory, cx, source)
    }

    async fn interrupted(&self, cx: &RunContext) -> Result<Option<Interrupted>> {
        Staging::interrupted(&self.path, cx)
    }

    async fn forget(&self, cx: &RunContext, run: RunId) -> Result<Option<Interrupted>> {
        Staging::forget(&self.path, cx, run)
    }

    async fn begin(&self, cx: &RunContext, plan: LoadPlan) -> Result<Box<dyn LoadSession>> {
        self.check_mode(plan.mode)?;
        let staging = Arc::new(Staging::of_plan(&self.path, self.directory, &plan, cx)?);
        let exists = staging.target_exists();
        let Prepared { format, old } = self.prepare(&plan, staging.target(), exists, cx)?;
        Ok(Box::new(match self.directory {
            true => TextSession::directory(format, staging, old, cx)?,
            false => TextSession::file(format, staging, &old)?,
        }))
    }
}
