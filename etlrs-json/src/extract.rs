use std::collections::HashSet;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow_schema::{DataType, Field, FieldRef, Fields, Schema, SchemaRef};
use async_trait::async_trait;
use etlrs_core::{
    Detail, Error, ErrorKind, Extractor, Result, RunContext, Scan, ScanRequest, as_json_text, is_json_text, type_name,
};
use etlrs_files::text::{Once, Origin};

use crate::EXTENSIONS;
use crate::decode::{Members, Reading, TextOf, TypeBy};
use crate::infer::{Inference, Rules};
use crate::layout::Layout;
use crate::options::{JsonOptions, UnknownKeys};
use crate::planned::PlannedColumns;
use crate::scan::{JsonScan, Part, pieces};
use crate::survey::{Sampled, Survey};

/// Notes about single columns.
const COLUMN_NOTES: usize = 10;
/// What the only column is called of records that are no objects.
const VALUE: &str = "value";

/// Reads JSON files as one table.
///
/// A record is an object, and its keys are columns; nested objects are structs, and lists are lists. Records that are no
/// objects are a table of one column, `value`. They may stand on a line each (NDJSON, JSON Lines), in one list, or one behind
/// the other; which it is, is found from the start of each file. Files with a record on each line are cut and read by several
/// readers. A list is read front to back, a record at a time, and so is what is compressed or no regular file.
///
/// Columns and types are found from the first records of each file, as `JsonOptions::sample` says. Numbers keep all their
/// digits. Several files have the columns of all of them, in the order in which they first appear.
///
/// Where a run [sets records aside](RunContext::rejects), those are set aside that do not fit the columns, and lines that are
/// no JSON. In a list, what is no JSON ends the run, for nobody knows where the next record begins.
///
/// The syntax is that of [RFC 8259](https://www.rfc-editor.org/rfc/rfc8259), strictly; values are nested no deeper than 128
/// levels. A key that an object has twice is an error.
#[derive(Clone, Debug)]
pub struct JsonExtractor {
    origin: Origin,
    options: JsonOptions,
    /// The columns, where they need not be found.
    planned: Option<Fields>,
}

impl JsonExtractor {
    /// Of the file at `path`, which may be the URL of an object (`s3://bucket/sales.ndjson`); of the files in it if it is a
    /// directory, and of those that match if it is a pattern such as `data/2024-*.ndjson.gz`, in the order of their names.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self::files([path])
    }

    /// Of several files, directories and patterns, in this order.
    pub fn files(paths: impl IntoIterator<Item = impl Into<PathBuf>>) -> Self {
        Self::of(Origin::files(paths, EXTENSIONS))
    }

    /// Of standard input. It may be looked at again, but it can be read only once, and by one extractor of the process.
    pub fn stdin() -> Self {
        Self::of(Origin::once(Once::stdin()))
    }

    /// Of what `reader` gives, which errors call `name`. It may be looked at again, but it can be read only once.
    pub fn from_reader(name: impl AsRef<Path>, reader: impl Read + Send + 'static) -> Self {
        let once = Once::new(name, || Ok(Box::new(reader)));
        Self::of(Origin::once(once))
    }

    fn of(origin: Origin) -> Self {
        Self { origin, options: JsonOptions::default(), planned: None }
    }

    /// With these columns, whatever the records are.
    pub(crate) fn planned(mut self, fields: Fields) -> Self {
        self.planned = Some(fields);
        self
    }

    /// Reads at most `n` partitions at once, whatever the number of threads of the run.
    #[must_use]
    pub fn with_parallel_readers(mut self, n: usize) -> Self {
        self.options.parallel_readers = Some(n);
        self
    }

    /// Asks files for `bytes` at a time, over the `io_buffer_size` of the run.
    #[must_use]
    pub fn with_buffer_size(mut self, bytes: usize) -> Self {
        self.options.buffer_size = Some(bytes);
        self
    }

    /// Maps local files into memory instead of reading them, over the `enable_memory_mapping` of the run. A file that becomes
    /// shorter while it is mapped is an error all the same; for that, the process gets a handler of `SIGBUS`.
    #[must_use]
    pub fn with_memory_mapping(mut self, mapped: bool) -> Self {
        self.options.memory_mapping = Some(mapped);
        self
    }

    /// With these options.
    #[must_use]
    pub fn with_options(mut self, options: JsonOptions) -> Self {
        self.options = options;
        self
    }
}

#[async_trait]
impl Extractor for JsonExtractor {
    async fn scan(&self, cx: &RunContext, request: &ScanRequest) -> Result<Arc<dyn Scan>> {
        let (origin, options) = (&self.origin, &self.options);
        let fingerprint = origin.fingerprint(cx.cancel());
        let mut table = Table::new(options);
        let found = origin.places(cx.cancel())?;
        for place in &found {
            cx.cancel().check()?;
            let is_planned = self.planned.is_some() || options.planned.0.is_some();
            match Survey::of(place, options, is_planned, cx)? {
                Some(survey) => table.add(survey),
                None => table.empty.push(place.path().to_owned()),
            }
        }
        let shown = origin.shown(&found);
        let columns = match (&self.planned, &options.planned.0) {
            (Some(fields), _) => planned(fields),
            (None, Some(before)) => as_before(before, options),
            (None, None) => table.columns(request.target.as_deref()).map_err(|error| error.in_source(&shown))?,
        };
        let fields: Vec<FieldRef> = columns.iter().map(|(field, _)| field.clone()).collect();
        let whole = Schema::new(fields);
        let wanted = request.projection(&whole)?;
        let schema: SchemaRef = Arc::new(whole.project(&wanted)?);
        let kept: HashSet<usize> = wanted.iter().copied().collect();
        let unwanted = (0..columns.len()).filter(|index| !kept.contains(index)).map(|index| whole.field(index).name());
        let ignore_unknown = options.unknown_keys == UnknownKeys::Ignore;
        let before = options.planned.0.iter().flat_map(|before| &before.unwanted);
        let unwanted: Arc<[String]> = unwanted.chain(before).cloned().collect();
        let readings: Arc<[Reading]> =
            wanted.iter().filter_map(|&index| columns.get(index)).map(|(_, reading)| reading.clone()).collect();
        // Types that cannot be read are refused now.
        Members::new(schema.fields(), &readings, ignore_unknown).map_err(|error| error.in_source(&shown))?;
        let (notes, details) = (table.notes(&whole, request.target.is_some()), table.details());
        let memory = table.surveys.iter().map(|survey| survey.source.input.memory()).max().unwrap_or(0);
        let is_value = table.is_value;
        let can_sample_more =
            options.sample.records().is_some() && !table.surveys.iter().any(|survey| survey.source.input.is_once());
        let parts: Vec<Part> = table.surveys.into_iter().map(Part::of).collect();
        let (pieces, partitions) = pieces(&parts, cx, request)?;
        Ok(Arc::new(JsonScan {
            origin: origin.clone(),
            lines: parts.iter().map(|_| Default::default()).collect::<Vec<_>>().into(),
            parts,
            pieces,
            partitions,
            schema,
            readings,
            unwanted,
            is_value,
            ignore_unknown,
            can_sample_more,
            notes,
            details,
            min_memory: (256 << 10) + memory,
            fingerprint: fingerprint?,
            identity: Origin::is_lasting(&found).then(|| format!("{options:?}")),
            options: options.clone(),
            cancel: cx.cancel().clone(),
            max_readers: options.parallel_readers.unwrap_or(usize::MAX).max(1),
            read_size: options.buffer_size.unwrap_or(cx.config().io_buffer_size),
            mapped: options.memory_mapping.unwrap_or(cx.config().enable_memory_mapping),
        }))
    }
}

/// The files of a table, and what all of them hold.
struct Table<'a> {
    options: &'a JsonOptions,
    surveys: Vec<Survey>,
    empty: Vec<PathBuf>,
    sample: Sampled,
    /// Records are no objects, and the column is what they are.
    is_value: bool,
}

type Found = (FieldRef, Reading);

impl<'a> Table<'a> {
    fn new(options: &'a JsonOptions) -> Self {
        let sample = Sampled::none(Rules::of(options));
        Self { options, surveys: Vec::new(), empty: Vec::new(), sample, is_value: false }
    }

    fn add(&mut self, mut survey: Survey) {
        self.sample.merge(&mut survey.sample);
        self.surveys.push(survey);
    }

    /// The columns, how each is read, and who says so.
    fn columns(&mut self, target: Option<&Schema>) -> Result<Vec<Found>> {
        if self.surveys.is_empty() && self.options.types.0.is_empty() {
            let error = Error::new(ErrorKind::InvalidData, "all files are empty");
            return Err(error.hint("name columns by the option types=COLUMN:TYPE"));
        }
        let types = &self.options.types;
        let ignore_unknown = self.options.unknown_keys == UnknownKeys::Ignore;
        let mut columns = Vec::new();
        let Sampled { objects, object_count, values, value_count, .. } = &self.sample;
        self.is_value = *object_count == 0 && values.has_values();
        // A few others are told, or set aside, as records that are broken.
        if *object_count > 0 && value_count >= object_count {
            let message = "some records are objects and others are not, so there are no columns";
            return Err(Error::new(ErrorKind::InvalidData, message));
        }
        if objects.members.are_more && !ignore_unknown {
            let message = format!("the records have more than {} different keys", objects.members.found.len());
            return Err(Error::new(ErrorKind::InvalidData, message).hint(
                "if keys are data, they are no columns; name those that are by types=COLUMN:TYPE and set unknown_keys=ignore",
            ));
        }
        let found: Vec<(&str, &Inference)> = match self.is_value {
            true => vec![(VALUE, values)],
            // Too many are no columns.
            false if objects.members.are_more => Vec::new(),
            false => objects.members.found.iter().map(|(name, found)| (&**name, found)).collect(),
        };
        for &(name, inference) in &found {
            let guess = inference.field(name);
            let of_target = || target.and_then(|target| namesake(target, name, &found));
            let (field, by) = match types.get(name) {
                Some(data_type) => {
                    let field = Field::new(name, data_type.clone(), true);
                    let is_json = inference.text() == TextOf::Json && *data_type == DataType::Utf8;
                    (if is_json { as_json_text(field) } else { field }, TypeBy::User)
                }
                None => match of_target().filter(|wanted| inference.is_rather(wanted)) {
                    Some(wanted) => {
                        let field = Field::new(name, wanted.data_type().clone(), true);
                        let is_nested = inference.text() == TextOf::Json && *wanted.data_type() == DataType::Utf8;
                        (if is_json_text(wanted) || is_nested { as_json_text(field) } else { field }, TypeBy::Target)
                    }
                    None => (guess.as_ref().clone(), TypeBy::Sample),
                },
            };
            let reading = Inference::reading(Some(inference), &field, by, ignore_unknown);
            columns.push((Arc::new(field), reading));
        }
        for (name, data_type) in &types.0 {
            if self.is_value && name != VALUE {
                return Err(etlrs_core::unknown_name("column", name, &[VALUE.to_owned()]));
            }
            // A key that no record of the sample has, but one may have that comes later.
            if !found.iter().any(|(found, _)| found == name) {
                let field = Field::new(name, data_type.clone(), true);
                let reading = Inference::reading(None, &field, TypeBy::User, ignore_unknown);
                columns.push((Arc::new(field), reading));
            }
        }
        if columns.is_empty() {
            if let Some(fault) = self.sample.fault.take() {
                return Err(fault);
            }
            let message = "no record has a key, so there are no columns";
            return Err(
                Error::new(ErrorKind::InvalidData, message).hint("name columns by the option types=COLUMN:TYPE")
            );
        }
        Ok(columns)
    }

    fn details(&self) -> Vec<Detail> {
        let Some(first) = self.surveys.first() else { return Vec::new() };
        let layout = match first.source.layout {
            Layout::Lines => "lines",
            Layout::Array => "array",
            Layout::Values => "values",
        };
        vec![Detail::new("layout", layout, first.reason)]
    }

    fn notes(&self, schema: &Schema, guided: bool) -> Vec<String> {
        let mut notes = Vec::new();
        let members = self.sample.objects.members.found.iter().map(|(name, found)| (&**name, found));
        let value = self.is_value.then_some((VALUE, &self.sample.values));
        for (name, inference) in members.filter(|_| !self.is_value).chain(value) {
            let field = schema.field_with_name(name).ok();
            let is_guess = field.is_some_and(|field| field.data_type() == &inference.data_type().0);
            if self.options.types.get(name).is_none()
                && (is_guess || !guided)
                && let Some(what) = inference.mixture()
            {
                notes.push(format!("column {name:?} is read as {what}"));
            }
        }
        let is_alone = self.surveys.len() == 1 && self.sample.records == 1 && self.sample.object_count == 1;
        let is_table = |field: &&FieldRef| match field.data_type() {
            DataType::List(item) => matches!(item.data_type(), DataType::Struct(_)),
            _ => false,
        };
        if let Some(list) = schema.fields().iter().find(is_table).filter(|_| is_alone) {
            notes.push(format!(
                "the file is one record; in a pipeline file the transform unnest makes rows of the items of {:?}",
                list.name()
            ));
        }
        if notes.len() > COLUMN_NOTES {
            let more = notes.len() - COLUMN_NOTES;
            notes.truncate(COLUMN_NOTES);
            notes.push(format!("there are {more} more notes about single columns"));
        }
        for (name, data_type) in &self.options.types.0 {
            if !self.is_value && !self.sample.objects.members.has(name) {
                notes.push(format!("column {name:?} ({}) is in no record of the sample", type_name(data_type)));
            }
        }
        for path in self.empty.iter().take(1) {
            let others = match self.empty.len() {
                1 => String::new(),
                count => format!(" and {} others", count - 1),
            };
            notes.push(format!("{}{others} is empty, and so has no rows", path.display()));
        }
        notes
    }
}

/// Columns as they were read before, and as the user wants them now.
fn as_before(before: &PlannedColumns, options: &JsonOptions) -> Vec<Found> {
    let ignore_unknown = options.unknown_keys == UnknownKeys::Ignore;
    let of_user = |name: &str, data_type: &DataType| {
        let field = Field::new(name, data_type.clone(), true);
        let reading = Inference::reading(None, &field, TypeBy::User, ignore_unknown);
        (Arc::new(field), reading)
    };
    let known = before.columns.iter().map(|(field, reading)| match options.types.get(field.name()) {
        Some(data_type) => of_user(field.name(), data_type),
        None => (field.clone(), reading.clone().with_unknown(ignore_unknown)),
    });
    let is_new = |(name, _): &&(String, DataType)| !before.columns.iter().any(|(field, _)| field.name() == name);
    let new = options.types.0.iter().filter(is_new).map(|(name, data_type)| of_user(name, data_type));
    known.chain(new).collect()
}

/// Columns that are known, of text that is strings.
fn planned(fields: &Fields) -> Vec<Found> {
    fn reading(field: &FieldRef) -> Reading {
        let parts = match field.data_type() {
            DataType::Struct(fields) => fields.iter().map(reading).collect(),
            DataType::List(item) => vec![reading(item)],
            _ => Vec::new(),
        };
        Reading { by: TypeBy::User, text: TextOf::Strings, ignore_unknown: false, parts }
    }
    fields.iter().map(|field| (field.clone(), reading(field))).collect()
}

/// The column of the target that one of the source goes to. Some targets do not mind the case, which counts where there is the
/// very name too.
fn namesake<'a>(target: &'a Schema, name: &str, found: &[(&str, &Inference)]) -> Option<&'a Field> {
    let fields = || target.fields().iter().map(AsRef::as_ref);
    let is_other = |field: &Field| !found.iter().any(|(known, _)| *known == field.name());
    let field = fields().find(|field| field.name() == name);
    field.or_else(|| fields().find(|field| field.name().eq_ignore_ascii_case(name) && is_other(field)))
}
