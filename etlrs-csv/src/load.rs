use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use etlrs_core::{
    Interrupted, LoadCapabilities, LoadMode, LoadPlan, LoadPreview, LoadSession, Loader, Result, RunContext, RunId,
};
use etlrs_files::Staging;
use etlrs_files::text::{Old, TextSession, check_read_back};

use crate::layout::Layout;
use crate::old::{OldFile, require_closed_quotes};
use crate::{CsvWriteOptions, EXTENSIONS};

/// Writes a CSV file (RFC 4180; UTF-8), or a directory with one file per partition; compressed if the name says so.
///
/// Partitions are encoded by as many writers as there are. In one file their rows keep the order of the source. The
/// files of a directory have the names `part-RUN-00000.csv` and are listed in its manifest.
///
/// | Arrow | written |
/// |---|---|
/// | Boolean | `true`, `false` |
/// | integers, decimals | all digits; a decimal has those of its scale |
/// | floats | the shortest text that reads back as the same bits: `1.0`, `0.1`, `1e+300`, `NaN`, `inf`, `-inf` |
/// | Date32 | `2013-01-31` |
/// | times | `05:00:00`, with as many digits of the second as are not zero |
/// | timestamps | `2013-01-31 05:00:00.5`; with a zone in UTC and with a `Z`. Years outside 0000 to 9999 are refused |
/// | text, dictionaries | as it is, quoted where it has to be |
/// | binary | hexadecimal digits, which are read as text |
/// | anything else | refused |
#[derive(Clone, Debug)]
pub struct CsvLoader {
    path: PathBuf,
    directory: bool,
    options: CsvWriteOptions,
}

impl CsvLoader {
    /// To the one file `path`, which may be the URL of an object (`s3://bucket/sales.csv`).
    ///
    /// Appending looks at the header of the file that exists, and relies on the options for the rest of its form. The file is
    /// read once as a whole, to see that it does not end within quotes; one that is compressed twice.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), directory: false, options: CsvWriteOptions::default() }
    }

    /// To the directory `path`.
    pub fn directory(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), directory: true, options: CsvWriteOptions::default() }
    }

    /// With these options.
    #[must_use]
    pub fn with_options(mut self, options: CsvWriteOptions) -> Self {
        self.options = options;
        self
    }

    /// Works out what would be written where, and refuses what cannot be; `target` is read and not changed.
    fn prepare(&self, plan: &LoadPlan, target: &Path, exists: bool, cx: &RunContext) -> Result<Prepared> {
        let mut layout = Layout::new(plan, &self.options, target)?;
        let open = |path: &Path| OldFile::open(path, &layout, self.options.compression, cx);
        let old = match (exists, self.directory) {
            (false, _) => Old::None,
            (true, false) if plan.mode == LoadMode::Append => {
                let OldFile { file, is_empty, .. } = open(target)?;
                Old::File { file, is_empty }
            }
            (true, false) => Old::None,
            // A file may be compressed in its own way.
            (true, true) => {
                Old::parts(target, EXTENSIONS, plan, cx, |file| OldFile::open(file, &layout, None, cx).map(drop))?
            }
        };
        if let Old::File { file, .. } = &old {
            layout.compression = file.compression;
        }
        check_read_back(plan, layout.compression, target)?;
        Ok(Prepared { layout: Arc::new(layout), old })
    }
}

struct Prepared {
    layout: Arc<Layout>,
    old: Old,
}

#[async_trait]
impl Loader for CsvLoader {
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
        let exists = Staging::check(&self.path, plan.mode, self.directory, cx.cancel())?;
        let Prepared { layout, old } = self.prepare(plan, &self.path, exists, cx)?;
        let mut preview = LoadPreview::default();
        preview.column_types = layout.described.clone();
        preview.notes = layout.notes.clone();
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
        self.capabilities().require(plan.mode, self.path.display())?;
        let staging = Arc::new(Staging::of_plan(&self.path, self.directory, &plan, cx)?);
        let exists = staging.target_exists();
        let Prepared { layout, old } = self.prepare(&plan, staging.target(), exists, cx)?;
        if let Old::File { file, is_empty: false } = &old {
            require_closed_quotes(file, &self.path, &layout)?;
        }
        Ok(Box::new(match self.directory {
            true => TextSession::directory(layout, staging, old, cx)?,
            false => TextSession::file(layout, staging, &old)?,
        }))
    }
}
