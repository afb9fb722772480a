use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use etlrs_core::{
    Error, ErrorKind, LoadCapabilities, LoadMode, LoadPlan, LoadPreview, LoadSession, Loader, Partition,
    PartitionWriter, Published, Receipt, Result, RunContext, Scan,
};
use etlrs_files::text::{SharedDirectory, SharedFile};
use etlrs_files::{Manifest, ManifestFile, Staging, data_files};

use crate::layout::Layout;
use crate::old::OldFile;
use crate::read_back::{Piece, staged_scan};
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
    /// Appending looks at the header of the file that exists, and relies on the options for the rest of its form. A file
    /// that is compressed is read once as a whole for that.
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
        let cancel = cx.cancel();
        let mut layout = Layout::new(plan, &self.options, target)?;
        let open = |path: &Path| OldFile::open(path, &layout, self.options.compression, cx);
        let old = match (exists, self.directory) {
            (false, _) => Old::None,
            (true, false) if plan.mode == LoadMode::Append => Old::File(open(target)?),
            (true, false) => Old::None,
            // Mode replace looks as well, for it must not remove what is no data.
            (true, true) => {
                let files = data_files(target, EXTENSIONS, cancel)?;
                if plan.mode == LoadMode::Append && !files.is_empty() {
                    for file in &files {
                        // A file may be compressed in its own way.
                        OldFile::open(file, &layout, None, cx)?;
                    }
                    let manifest = Manifest::read(target, cancel)?.ok_or_else(|| {
                        let message = "the directory has no manifest, which would tell how many rows are there";
                        let error = Error::new(ErrorKind::InvalidConfig, message).in_source(target.display());
                        error.hint("use mode replace, or another directory")
                    })?;
                    Old::Parts(manifest.files)
                } else {
                    Old::None
                }
            }
        };
        if let Old::File(old) = &old {
            layout.compression = old.file.compression;
        }
        Ok(Prepared { layout: Arc::new(layout), old })
    }
}

struct Prepared {
    layout: Arc<Layout>,
    old: Old,
}

/// What is there, and stays, in mode append.
enum Old {
    None,
    File(OldFile),
    Parts(Vec<ManifestFile>),
}

#[async_trait]
impl Loader for CsvLoader {
    fn capabilities(&self) -> LoadCapabilities {
        LoadCapabilities::one_writer().modes(Staging::modes(&self.path, self.directory)).max_writers(usize::MAX)
    }

    async fn check(&self, cx: &RunContext, plan: &LoadPlan) -> Result<LoadPreview> {
        self.capabilities().require(plan.mode, self.path.display())?;
        let exists = Staging::check(&self.path, plan.mode, self.directory, cx.cancel())?;
        let Prepared { layout, old } = self.prepare(plan, &self.path, exists, cx)?;
        let mut preview = LoadPreview::default();
        preview.column_types = layout.described.clone();
        preview.notes = layout.notes.clone();
        let shown = self.path.display();
        match old {
            Old::None if exists => preview.notes.push(format!("{shown} is replaced")),
            Old::None => {}
            Old::File(_) => preview.notes.push(format!("the records of {shown} stay")),
            Old::Parts(files) => {
                let rows: u64 = files.iter().map(|file| file.rows).sum();
                preview.notes.push(format!("{shown} has {rows} rows, which stay"));
            }
        }
        Ok(preview)
    }

    async fn begin(&self, cx: &RunContext, plan: LoadPlan) -> Result<Box<dyn LoadSession>> {
        self.capabilities().require(plan.mode, self.path.display())?;
        let staging = match self.directory {
            true => Staging::directory(&self.path, plan.mode, cx)?,
            false => Staging::file(&self.path, plan.mode, cx)?,
        };
        let staging = Arc::new(staging);
        let exists = staging.target_exists();
        let Prepared { layout, old } = self.prepare(&plan, staging.target(), exists, cx)?;
        let unpacking = if let Old::File(old) = &old { old.file.unpacking } else { 0 };
        let output = if self.directory {
            let old = if let Old::Parts(files) = old { files } else { Vec::new() };
            Output::Directory(Arc::new(SharedDirectory::new(layout.clone(), staging.clone(), cx.run_id(), old)?))
        } else {
            let continues: Option<&[u8]> = match &old {
                Old::File(old) if !old.is_empty => {
                    Some(if old.file.ends_with_line_end()? { b"" } else { layout.line_end })
                }
                _ => None,
            };
            Output::File(Arc::new(SharedFile::new(layout.clone(), staging.clone(), continues)))
        };
        Ok(Box::new(CsvSession { output, layout, options: self.options.clone(), unpacking, staging }))
    }
}

struct CsvSession {
    // Before `staging`, so that what it removes is no longer held open.
    output: Output,
    layout: Arc<Layout>,
    options: CsvWriteOptions,
    /// Bytes that reading the old file takes, to see how it ends.
    unpacking: usize,
    staging: Arc<Staging>,
}

enum Output {
    File(Arc<SharedFile>),
    Directory(Arc<SharedDirectory>),
}

#[async_trait]
impl LoadSession for CsvSession {
    fn min_memory(&self) -> usize {
        // Less would make blocks of single records.
        const BLOCKS: usize = 64 << 10;
        let file = match &self.output {
            Output::File(_) => 0,
            Output::Directory(_) => self.staging.file_memory(),
        };
        BLOCKS + self.layout.compression.memory() + file
    }

    fn held_memory(&self) -> usize {
        match &self.output {
            Output::File(_) => self.staging.file_memory() + self.unpacking,
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
        let Some(staged) = self.staging.staged(None) else { return Ok(None) };
        let (pieces, fine) = match &self.output {
            Output::File(file) => {
                let closed = file.close()?;
                (vec![Piece { path: staged, ranges: closed.ranges }], closed.fine)
            }
            Output::Directory(directory) => {
                let parts = directory.close()?;
                let piece = |part: ManifestFile| {
                    let header = self.layout.header.len() as u64;
                    let range = header..part.bytes;
                    let ranges = if part.rows == 0 { Vec::new() } else { vec![range] };
                    Piece { path: staged.join(part.name), ranges }
                };
                (parts.into_iter().map(piece).collect(), directory.is_fine())
            }
        };
        if fine {
            return Ok(None);
        }
        staged_scan(cx, &self.layout, &self.options, pieces).await
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
            let message = format!("{promised} rows were promised, and {} are staged", published.rows);
            return Err(Error::new(ErrorKind::VerifyFailed, message).in_source(self.staging.target().display()));
        }
        self.staging.publish()?;
        Ok(published)
    }

    async fn abort(self: Box<Self>) -> Result<()> {
        // Dropping the staging removes it.
        Ok(())
    }
}
