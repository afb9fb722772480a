use std::collections::BTreeSet;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow_schema::{DataType, Field as ArrowField, Schema, SchemaRef};
use async_trait::async_trait;
use etlrs_core::{Detail, Error, Extractor, Result, RunContext, Scan, ScanRequest, type_name};

use crate::EXTENSIONS;
use crate::decode::{Column, TypeBy};
use crate::infer::{Inference, Obstacle};
use crate::options::CsvOptions;
use crate::planned::PlannedColumn;
use crate::scan::{CsvScan, Part, pieces, places};
use crate::survey::Survey;
use etlrs_files::text::{Once, Origin};

/// Notes about single files of a table.
const FILE_NOTES: usize = 10;

/// Reads CSV files as one table.
///
/// Dialect and types are found from the start of each file, as far as [`CsvOptions`] do not give them. Files that are
/// compressed (gzip, zstd, bzip2, xz; by their name or their first bytes) or not in UTF-8, and what is no regular file, are
/// read front to back in one partition; the others are cut.
///
/// Several files have the columns of all of them, by name, in the order in which they first appear; a column that a file
/// lacks is null there, and one whose types differ gets the type that all its values have.
///
/// Where a run [sets records aside](RunContext::rejects), those are set aside that have another number of fields than the
/// header, a value that does not fit its type, text that is not UTF-8, or something behind a closing quote; those with a
/// quote that is never closed; and those longer than 1/128 of the memory budget. A malformed record ends with the line on
/// which the fault shows, which for an open quote is the last of the file.
#[derive(Clone, Debug)]
pub struct CsvExtractor {
    origin: Origin,
    options: CsvOptions,
}

impl CsvExtractor {
    /// Of the file at `path`, which may be the URL of an object (`s3://bucket/sales.csv`); of the files in it if it is a directory, and of those that match if it is a pattern such as
    /// `data/2024-*.csv.gz`, in the order of their names.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self::files([path])
    }

    /// Of several files, directories and patterns, in this order.
    pub fn files(paths: impl IntoIterator<Item = impl Into<PathBuf>>) -> Self {
        Self { origin: Origin::files(paths, EXTENSIONS), options: CsvOptions::default() }
    }

    /// Of standard input. It may be looked at again, but it can be read only once, and by one extractor of the process.
    pub fn stdin() -> Self {
        Self::once(Once::stdin())
    }

    /// Of what `reader` gives, which errors call `name`. It may be looked at again, but it can be read only once.
    pub fn from_reader(name: impl AsRef<Path>, reader: impl Read + Send + 'static) -> Self {
        Self::once(Once::new(name, || Ok(Box::new(reader))))
    }

    fn once(once: Arc<Once>) -> Self {
        Self { origin: Origin::once(once), options: CsvOptions::default() }
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
    pub fn with_options(mut self, options: CsvOptions) -> Self {
        self.options = options;
        self
    }
}

#[async_trait]
impl Extractor for CsvExtractor {
    async fn scan(&self, cx: &RunContext, request: &ScanRequest) -> Result<Arc<dyn Scan>> {
        let (origin, options) = (&self.origin, &self.options);
        let fingerprint = origin.fingerprint(cx.cancel());
        let mut table = Table::default();
        let found = origin.places(cx.cancel())?;
        for place in &found {
            cx.cancel().check()?;
            let before = (found.len() > 1).then(|| table.names.clone());
            table.add(Survey::of(place, options, before.as_deref(), cx)?, place.path().to_owned());
        }
        let shown = origin.shown(&found);
        let (whole, guided) =
            table.schema(options, request.target.as_deref()).map_err(|error| error.in_source(&shown))?;
        let projection = request.projection(&whole)?;
        let spelled = projection.iter().map(|&index| {
            let field = whole.field(index);
            let by = match options.types.get(field.name()) {
                Some(_) => TypeBy::User,
                None if guided.contains(&index) => TypeBy::Target,
                None => options.planned.get(field.name()).map_or(TypeBy::Sample, |planned| planned.by),
            };
            let is_given = options.types.get(field.name()).is_some();
            let planned = options.planned.get(field.name()).filter(|_| !is_given).and_then(PlannedColumn::format);
            let found = table.columns.get(index).and_then(|column| column.format(field.data_type())).cloned();
            // Formats that are given now are looked for now.
            (by, found.or(planned))
        });
        let spelled = spelled.collect();
        let schema: SchemaRef = Arc::new(whole.project(&projection)?);
        for field in schema.fields() {
            Column::new(0, field.data_type(), TypeBy::User)
                .map_err(|error| error.in_source(&shown).at_column(field.name()))?;
        }
        let notes = table.notes(options, &whole, &guided);
        let (details, min_memory) = (table.details(), table.min_memory(cx));
        let parts: Vec<Part> = table.surveys.into_iter().map(|(_, survey)| part(survey, &schema)).collect();
        let (pieces, partitions) = pieces(&parts, cx, request)?;
        Ok(Arc::new(CsvScan {
            origin: origin.clone(),
            places: Arc::new(places(&parts, &pieces)),
            parts,
            pieces,
            partitions,
            schema,
            spelled,
            notes,
            details,
            min_memory,
            fingerprint: fingerprint?,
            identity: Origin::is_lasting(&found).then(|| format!("{options:?}")),
            options: options.clone(),
            cancel: cx.cancel().clone(),
            null: options.null_values.clone().into(),
            max_readers: options.parallel_readers.unwrap_or(usize::MAX).max(1),
            read_size: options.buffer_size.unwrap_or(cx.config().io_buffer_size),
            mapped: options.memory_mapping.unwrap_or(cx.config().enable_memory_mapping),
        }))
    }
}

fn part(survey: Survey, schema: &Schema) -> Part {
    let place = |field: &Arc<ArrowField>| survey.names.iter().position(|name| name == field.name());
    Part {
        columns: schema.fields().iter().map(place).collect(),
        names: survey.names,
        source: Arc::new(survey.source),
        stored: survey.stored,
        sampled: survey.sampled,
    }
}

/// The files of a table, and the columns of all of them.
#[derive(Default)]
struct Table {
    surveys: Vec<(PathBuf, Survey)>,
    names: Vec<String>,
    columns: Vec<Inference>,
    empty: Vec<PathBuf>,
}

impl Table {
    fn add(&mut self, survey: Option<Survey>, path: PathBuf) {
        let Some(survey) = survey else {
            self.empty.push(path);
            return;
        };
        for (name, found) in survey.names.iter().zip(&survey.columns) {
            let known = self.names.iter().zip(&mut self.columns).find(|(known, _)| *known == name);
            match known {
                Some((_, column)) => column.merge(found),
                None => {
                    self.names.push(name.clone());
                    self.columns.push(found.clone());
                }
            }
        }
        self.surveys.push((path, survey));
    }

    /// The columns, and the places of those whose types are those of the target instead of a guess.
    fn schema(&self, options: &CsvOptions, target: Option<&Schema>) -> Result<(Schema, BTreeSet<usize>)> {
        if self.surveys.is_empty() {
            return Err(Error::new(etlrs_core::ErrorKind::InvalidData, "all files are empty"));
        }
        for (column, _) in &options.types.0 {
            if !self.names.contains(column) {
                return Err(etlrs_core::unknown_name("column", column, &self.names));
            }
        }
        let mut guided = BTreeSet::new();
        let fields = self.names.iter().zip(&self.columns).enumerate().map(|(index, (name, column))| {
            let data_type = match options.types.get(name) {
                Some(data_type) => data_type.clone(),
                None if !options.planned.is_empty() => {
                    options.planned.get(name).map_or(DataType::Utf8, |planned| planned.data_type.clone())
                }
                None if !options.infer => DataType::Utf8,
                None => {
                    let of_target = target.and_then(|target| namesake(target, name, &self.names));
                    match of_target.map(ArrowField::data_type).filter(|wanted| column.is_rather(wanted)) {
                        Some(wanted) => {
                            guided.insert(index);
                            wanted.clone()
                        }
                        None => column.data_type(),
                    }
                }
            };
            ArrowField::new(name, data_type, true)
        });
        let mut fields: Vec<_> = fields.collect();
        // They were null in the file, whose header does not have them.
        let missing = options.planned.0.iter().filter(|column| !self.names.contains(&column.name));
        fields.extend(missing.map(|column| ArrowField::new(&column.name, column.data_type.clone(), true)));
        Ok((Schema::new(fields), guided))
    }

    /// What the first file was found to be; notes tell where others differ.
    fn details(&self) -> Vec<Detail> {
        let findings = self.surveys.iter().take(1).flat_map(|(_, survey)| &survey.findings);
        findings.map(|finding| Detail::new(finding.item, finding.value.as_str(), finding.why.as_str())).collect()
    }

    fn min_memory(&self, cx: &RunContext) -> usize {
        // The buffer, its fields, and builders for a few records.
        let inputs = self.surveys.iter().map(|(_, survey)| survey.source.input.memory());
        let kept = self.surveys.iter().map(|(_, survey)| survey.source.longest).filter(|_| cx.rejects().is_some());
        (256 << 10) + inputs.max().unwrap_or(0) + kept.max().unwrap_or(0)
    }

    fn notes(&self, options: &CsvOptions, schema: &Schema, guided: &BTreeSet<usize>) -> Vec<String> {
        let mut notes = Vec::new();
        let several = self.surveys.len() + self.empty.len() > 1;
        let first = self.surveys.first().map(|(_, survey)| survey.findings.as_slice()).unwrap_or_default();
        for (index, (path, survey)) in self.surveys.iter().enumerate() {
            let name = if several { format!("{}: ", path.display()) } else { String::new() };
            for finding in &survey.findings {
                let like_first = first.iter().any(|other| (other.item, &other.value) == (finding.item, &finding.value));
                if if index == 0 { finding.notable } else { !like_first } {
                    notes.push(format!("{name}{} is {} ({})", finding.item, finding.value, finding.why));
                }
            }
            notes.extend(survey.notes.iter().map(|note| format!("{name}{note}")));
        }
        if notes.len() > FILE_NOTES && several {
            let more = notes.len() - FILE_NOTES;
            notes.truncate(FILE_NOTES);
            notes.push(format!("there are {more} more notes about single files"));
        }
        if let Some(path) = self.empty.first() {
            notes.push(format!("{} is empty, and so has no rows", and_others(path, self.empty.len())));
        }
        if several {
            notes.extend(self.reconciled(options, schema, guided));
        }
        if options.infer {
            let guessed = |index: &usize, name: &String| !guided.contains(index) && options.types.get(name).is_none();
            let found = self.names.iter().zip(&self.columns).enumerate();
            let found = found.filter(|(index, (name, _))| guessed(index, name)).map(|(_, found)| found);
            notes.extend(text_hints(found));
        }
        notes
    }

    /// What became of columns that are not the same in all files.
    fn reconciled(&self, options: &CsvOptions, schema: &Schema, guided: &BTreeSet<usize>) -> Vec<String> {
        let mut notes = Vec::new();
        for (index, field) in schema.fields().iter().enumerate() {
            let name = field.name();
            let mut missing = Vec::new();
            let mut types: Vec<(String, &Path)> = Vec::new();
            for (path, survey) in &self.surveys {
                match survey.names.iter().position(|known| known == name).and_then(|at| survey.columns.get(at)) {
                    None => missing.push(path),
                    Some(column) if column.has_values() => {
                        let found = type_name(&column.data_type());
                        if !types.iter().any(|(known, _)| *known == found) {
                            types.push((found, path));
                        }
                    }
                    Some(_) => {}
                }
            }
            if let Some(path) = missing.first() {
                notes.push(format!("{} has no column {name:?}, which is null there", and_others(path, missing.len())));
            }
            let guessed = options.infer && !guided.contains(&index) && options.types.get(name).is_none();
            if types.len() > 1 && guessed {
                let types: Vec<_> =
                    types.iter().map(|(found, path)| format!("{found} in {}", path.display())).collect();
                let read_as = type_name(field.data_type());
                notes.push(format!("column {name:?} is read as {read_as}, for it is {}", types.join(" and ")));
            }
        }
        notes
    }
}

/// The column of the target that one of the source goes to. Some targets do not mind the case, which counts where `names` have
/// the very name too.
fn namesake<'a>(target: &'a Schema, name: &str, names: &[String]) -> Option<&'a ArrowField> {
    let fields = || target.fields().iter().map(AsRef::as_ref);
    let field = fields().find(|field| field.name() == name);
    field.or_else(|| fields().find(|field| field.name().eq_ignore_ascii_case(name) && !names.contains(field.name())))
}

fn and_others(path: &Path, count: usize) -> String {
    match count {
        0 | 1 => path.display().to_string(),
        2 => format!("{} and 1 more file", path.display()),
        _ => format!("{} and {} more files", path.display(), count - 1),
    }
}

/// One sentence for each obstacle that keeps columns from having a type.
fn text_hints<'a>(columns: impl Iterator<Item = (&'a String, &'a Inference)>) -> Vec<String> {
    let mut found: Vec<(Obstacle, Vec<String>)> = Vec::new();
    for (name, inference) in columns {
        let Some((obstacle, data_type)) = inference.kept_text_by() else { continue };
        let column = format!("{name} ({})", etlrs_core::type_name(&data_type));
        match found.iter_mut().find(|(known, _)| *known == obstacle) {
            Some((_, columns)) => columns.push(column),
            None => found.push((obstacle, vec![column])),
        }
    }
    let hint = |(obstacle, columns): (Obstacle, Vec<String>)| {
        let (what, hint) = obstacle.words();
        format!("text because of {what}: {}; {hint}", columns.join(", "))
    };
    found.into_iter().map(hint).collect()
}
