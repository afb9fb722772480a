use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow_schema::{FieldRef, SchemaRef};
use async_trait::async_trait;
use etlrs_core::{
    CancelToken, Error, ErrorKind, Interrupted, LoadCapabilities, LoadMode, LoadPlan, LoadPreview, LoadSession, Loader,
    Partition, PartitionWriter, Published, Receipt, Result, RunContext, RunId, Scan, ScanRequest, is_json_text,
};
use etlrs_files::{ManifestFile, Staging, data_files, without_replaced};
use parquet::schema::types::{ColumnDescriptor, SchemaDescriptor, TypePtr};

use crate::directory::SharedDirectory;
use crate::encode::Layout;
use crate::error::reading;
use crate::extract::ParquetScan;
use crate::file::ParquetFile;
use crate::single::SharedFile;
use crate::types::{StoredSchema, first_misfit, stored_schema};
use crate::{EXTENSIONS, ParquetReadOptions, ParquetWriteOptions};

/// Writes a Parquet file, or a directory with one file per partition.
///
/// Partitions are encoded by as many writers as there are. In one file their rows keep the order of the source. The
/// files of a directory have the names `part-RUN-00000.parquet` and are listed in its manifest.
///
/// With `sort_by` the rows of each row group are sorted, not those of the file: a writer collects rows until they fill a
/// row group or half of its memory, with their keys. So row groups are smaller than without in the same memory, and
/// sorting takes time where the rows do not come in order. The footer tells the order of a row group as far as all readers
/// agree on it: not by or beyond a column of floats that has NaN in it, and not beyond one that has `-0.0`.
#[derive(Clone, Debug)]
pub struct ParquetLoader {
    path: PathBuf,
    directory: bool,
    options: ParquetWriteOptions,
}

impl ParquetLoader {
    /// To the one file `path`, which may be the URL of an object (`s3://bucket/sales.parquet`).
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), directory: false, options: ParquetWriteOptions::default() }
    }

    /// To the directory `path`.
    pub fn directory(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), directory: true, options: ParquetWriteOptions::default() }
    }

    /// With these options.
    #[must_use]
    pub fn with_options(mut self, options: ParquetWriteOptions) -> Self {
        self.options = options;
        self
    }

    /// Works out what would be written where, and refuses what cannot be; `target` is read and not changed.
    fn prepare(&self, plan: &LoadPlan, target: &Path, exists: bool, cancel: &CancelToken) -> Result<Prepared> {
        let stored = stored_schema(&plan.schema, target)?;
        let old = match (exists, self.directory) {
            (false, _) => Vec::new(),
            // Mode replace looks as well, for it must not remove what is no data.
            (true, true) => data_files(target, EXTENSIONS, cancel)?,
            (true, false) => vec![target.to_owned()],
        };
        let old: Vec<_> = match plan.mode {
            LoadMode::Append => old,
            _ => Vec::new(),
        };
        let old = without_replaced(plan, old, |path| path).map_err(|error| error.in_source(target.display()))?;
        let open = |path: PathBuf| ParquetFile::open(&path, &path, &ParquetReadOptions::default(), cancel);
        let old: Vec<_> = old.into_iter().map(|path| path.map(open).transpose()).collect::<Result<_>>()?;
        let (schema, root) = match old.iter().flatten().next() {
            None => (plan.schema.clone(), stored.root.clone()),
            Some(first) => continued(first, plan, target)?,
        };
        for file in old.iter().flatten() {
            continued(file, plan, &file.shown)?;
        }
        let layout = Layout::new(schema, root, &self.options, target)?;
        Ok(Prepared { stored, layout: Arc::new(layout), old })
    }
}

struct Prepared {
    stored: StoredSchema,
    layout: Arc<Layout>,
    /// What stays; `None` where a file is that goes.
    old: Vec<Option<ParquetFile>>,
}

/// The schema with which rows of `plan` go on in `old`: its own, as it was written by whatever program.
fn continued(old: &ParquetFile, plan: &LoadPlan, target: &Path) -> Result<(SchemaRef, TypePtr)> {
    let misfit = |column: &str, message: String| {
        Error::new(ErrorKind::SchemaMismatch, message)
            .hint("use mode replace, or change the columns")
            .in_source(target.display())
            .at_column(column)
    };
    let schema = old.metadata.schema();
    if let Some((column, difference)) = first_misfit(schema.fields(), plan.schema.fields()) {
        return Err(misfit(&column, format!("rows cannot be appended: {difference} in the file that exists")));
    }
    let says_json = |(old, new): &(&FieldRef, &FieldRef)| is_json_text(old) && !is_json_text(new);
    if let Some((column, _)) = schema.fields().iter().zip(plan.schema.fields()).find(says_json) {
        let message = "rows cannot be appended: the type is text, and is JSON in the file that exists".to_owned();
        return Err(misfit(column.name(), message));
    }
    let descriptor = old.metadata.parquet_schema();
    // The same columns can be stored in ways that are read and no longer written: INT96, lists of two levels.
    let written: SchemaDescriptor =
        parquet::arrow::ArrowSchemaConverter::new().convert(schema).map_err(|error| reading(&old.shown, error))?;
    let shape = |leaf: &ColumnDescriptor| {
        (leaf.physical_type(), leaf.max_def_level(), leaf.max_rep_level(), leaf.type_length())
    };
    for (index, found) in descriptor.columns().iter().enumerate() {
        if written.columns().get(index).map(|leaf| shape(leaf)) != Some(shape(found)) {
            let column = found.path().string();
            return Err(misfit(
                &column,
                format!(
                    "rows cannot be appended: the file has it as {}, in a way that is not written any more",
                    found.physical_type()
                ),
            ));
        }
    }
    Ok((schema.clone(), descriptor.root_schema_ptr()))
}

#[async_trait]
impl Loader for ParquetLoader {
    fn capabilities(&self) -> LoadCapabilities {
        LoadCapabilities::one_writer()
            .modes(Staging::modes(&self.path, self.directory))
            .max_writers(usize::MAX)
            .resumable(Staging::is_resumable(&self.path))
            .keeps_cursors(Staging::keeps_cursors(&self.path, self.directory))
            .replaces_files(self.directory)
    }

    async fn check(&self, cx: &RunContext, plan: &LoadPlan) -> Result<LoadPreview> {
        self.capabilities().require(plan.mode, self.path.display())?;
        Staging::check_read_back(&self.path, plan)?;
        let exists = Staging::check(&self.path, plan.mode, self.directory, cx.cancel())?;
        let prepared = self.prepare(plan, &self.path, exists, cx.cancel())?;
        let mut preview = LoadPreview::default();
        preview.column_types = prepared.stored.columns;
        preview.notes = prepared.stored.notes;
        match plan.mode {
            LoadMode::Replace if exists => preview.notes.push(format!("{} is replaced", self.path.display())),
            LoadMode::Append if exists => {
                let rows = prepared.old.iter().flatten().map(|file| file.footer().file_metadata().num_rows());
                let rows = rows.fold(0, i64::saturating_add);
                preview.notes.push(format!("{} has {rows} rows, which stay", self.path.display()));
            }
            _ => {}
        }
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
        self.capabilities().require(plan.mode, self.path.display())?;
        Staging::check_read_back(&self.path, &plan)?;
        let staging = Arc::new(Staging::of_plan(&self.path, self.directory, &plan, cx)?);
        let exists = staging.target_exists();
        let Prepared { layout, old, .. } = self.prepare(&plan, staging.target(), exists, cx.cancel())?;
        let output = if self.directory {
            let stays = |file: &ParquetFile| listed(file, cx.cancel());
            let old = old.iter().map(|file| file.as_ref().map(stays).transpose()).collect::<Result<_>>()?;
            let directory = SharedDirectory::new(layout.clone(), staging.clone(), cx.run_id(), old)?;
            Output::Directory(Arc::new(directory))
        } else {
            Output::File(Arc::new(SharedFile::new(layout.clone(), staging.clone(), old.into_iter().flatten().next())))
        };
        Ok(Box::new(ParquetSession { output, layout, staging }))
    }
}

fn listed(file: &ParquetFile, cancel: &CancelToken) -> Result<ManifestFile> {
    let rows = file.footer().row_groups().iter().map(|group| u64::try_from(group.num_rows()).unwrap_or(0)).sum();
    etlrs_files::listed(&file.path, rows, cancel)
}

struct ParquetSession {
    // Before `staging`, so that what it removes is no longer held open.
    output: Output,
    layout: Arc<Layout>,
    staging: Arc<Staging>,
}

enum Output {
    File(Arc<SharedFile>),
    Directory(Arc<SharedDirectory>),
}

#[async_trait]
impl LoadSession for ParquetSession {
    fn completed(&self) -> &[Receipt] {
        self.staging.receipts()
    }

    fn min_memory(&self) -> usize {
        // Less would make row groups of single batches.
        const COLUMN: usize = 64 << 10;
        let file = match &self.output {
            Output::File(_) => 0,
            Output::Directory(_) => self.staging.file_memory(),
        };
        self.layout.leaves().saturating_mul(COLUMN).saturating_add(file)
    }

    fn held_memory(&self) -> usize {
        match &self.output {
            Output::File(file) => self.staging.file_memory().saturating_add(file.held_memory()),
            Output::Directory(_) => 0,
        }
    }

    async fn writer(&self, cx: &RunContext, partition: &Partition, _: u32) -> Result<Box<dyn PartitionWriter>> {
        match &self.output {
            Output::File(file) => file.writer(cx, partition),
            Output::Directory(directory) => directory.writer(cx, partition),
        }
    }

    async fn read_back(&mut self, cx: &RunContext, _: &[Receipt]) -> Result<Option<Arc<dyn Scan>>> {
        let options = ParquetReadOptions::default();
        let Some(staged) = self.staging.staged(None) else { return Ok(None) };
        let target = self.staging.target();
        // Where they are, what they are called, and the row groups that they had before.
        let places = match &self.output {
            Output::File(file) => {
                file.close()?;
                vec![(staged, target.to_owned(), file.old_row_groups())]
            }
            Output::Directory(directory) => {
                let parts = directory.close()?.into_iter();
                parts.map(|part| (staged.join(&part.name), target.join(&part.name), 0)).collect()
            }
        };
        let paths: Vec<_> = places.iter().map(|(path, ..)| path).collect();
        let fingerprint = etlrs_files::fingerprint(&paths, cx.cancel())?;
        let opened = places
            .iter()
            .map(|(path, shown, old)| ParquetFile::open(path, shown, &options, cx.cancel()).map(|file| (file, *old)));
        let files = opened.collect::<Result<_>>()?;
        let schema = Some(self.layout.schema.clone());
        let scan = ParquetScan::new(files, fingerprint, &ScanRequest::all(), &options, schema, cx.cancel())?;
        Ok(Some(Arc::new(scan)))
    }

    async fn commit(self: Box<Self>, receipts: Vec<Receipt>) -> Result<Published> {
        let published = match &self.output {
            Output::File(file) => {
                let closed = file.close()?;
                Published::new(closed.rows, closed.bytes)
            }
            Output::Directory(directory) => {
                let parts = directory.close()?;
                Published::new(parts.iter().map(|part| part.rows).sum(), parts.iter().map(|part| part.bytes).sum())
            }
        };
        let promised: u64 = receipts.iter().map(|receipt| receipt.rows).sum();
        if published.rows != promised {
            return Err(Error::new(
                ErrorKind::VerifyFailed,
                format!("{promised} rows were staged, and the footers tell of {}", published.rows),
            )
            .in_source(self.staging.target().display()));
        }
        self.staging.publish()?;
        Ok(published)
    }

    async fn abort(self: Box<Self>) -> Result<()> {
        // Dropping the staging removes it then.
        self.staging.discard();
        Ok(())
    }

    async fn suspend(self: Box<Self>) -> Result<usize> {
        Ok(self.staging.kept())
    }
}
