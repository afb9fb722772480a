//! A load of text into one file or a directory, from the look at its target to the commit.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use etlrs_core::{
    Error, ErrorKind, LoadMode, LoadPlan, LoadSession, Partition, PartitionWriter, Published, Receipt, Result,
    RunContext, Scan, not_read_back,
};

use super::{Encode, OldFile, SharedDirectory, SharedFile};
use crate::{Compression, Manifest, ManifestFile, Staging, data_files, without_replaced};

/// What is at a target, and stays in mode append.
#[derive(Debug)]
pub enum Old {
    /// Nothing.
    None,
    /// A file, behind which the rows come.
    File {
        /// What is known of it.
        file: OldFile,
        /// Whether it says nothing, so that it is begun anew.
        is_empty: bool,
    },
    /// The files of a directory; `None` where one is that goes.
    Parts(Vec<Option<ManifestFile>>),
}

impl Old {
    /// Looks at the directory `target`, which exists, for `plan`. Whoever appends looks at each file that stays with `check`.
    ///
    /// # Errors
    /// Those of `check`; `InvalidConfig` for files that no manifest lists, and, in mode replace too, for what is no data.
    pub fn parts(
        target: &Path,
        extensions: &'static [&'static str],
        plan: &LoadPlan,
        cx: &RunContext,
        mut check: impl FnMut(&Path) -> Result<()>,
    ) -> Result<Self> {
        // Mode replace looks as well, for it must not remove what is no data.
        let files = data_files(target, extensions, cx.cancel())?;
        if plan.mode != LoadMode::Append {
            return Ok(Self::None);
        }
        let in_target = |error: Error| error.in_source(target.display());
        let files = without_replaced(plan, files, |file| file).map_err(in_target)?;
        if files.is_empty() {
            return Ok(Self::None);
        }
        for file in files.iter().flatten() {
            check(file)?;
        }
        let manifest = Manifest::read(target, cx.cancel())?.ok_or_else(|| {
            let message = "the directory has no manifest, which would tell how many rows are there";
            let error = Error::new(ErrorKind::InvalidConfig, message).in_source(target.display());
            error.hint("use mode replace, or another directory")
        })?;
        without_replaced(plan, manifest.files, |file| Path::new(&file.name)).map(Self::Parts).map_err(in_target)
    }

    /// What is to be told of the target `path` beforehand, which is there if it `exists`.
    pub fn note(&self, path: &Path, exists: bool) -> Option<String> {
        let shown = path.display();
        match self {
            Self::None => exists.then(|| format!("{shown} is replaced")),
            Self::File { .. } => Some(format!("the records of {shown} stay")),
            Self::Parts(files) => {
                let rows: u64 = files.iter().flatten().map(|file| file.rows).sum();
                Some(format!("{shown} has {rows} rows, which stay"))
            }
        }
    }
}

/// Refuses to read back what cannot be read at places before it is published.
///
/// # Errors
/// `Unsupported` for files that are compressed, and for those in an object store, if the `plan` is to read back.
pub fn check_read_back(plan: &LoadPlan, compression: Compression, target: &Path) -> Result<()> {
    if compression != Compression::None {
        plan.refuse_read_back("the file is compressed").map_err(|error| error.in_source(target.display()))?;
    }
    Staging::check_read_back(target, plan)
}

/// Rows of a load within a file, before it is published.
#[derive(Clone, Debug)]
pub struct StagedText {
    /// Where the file is.
    pub path: PathBuf,
    /// Where the rows are, in their order.
    pub ranges: Vec<Range<u64>>,
}

/// A load of text that has begun.
pub struct TextSession {
    // Before `staging`, so that what it removes is no longer held open.
    output: Output,
    format: Arc<dyn Encode>,
    /// Bytes that reading the old file takes, to see how it ends.
    unpacking: usize,
    staging: Arc<Staging>,
}

enum Output {
    File(Arc<SharedFile>),
    Directory(Arc<SharedDirectory>),
}

impl TextSession {
    /// To the one file of `staging`.
    ///
    /// # Errors
    /// An I/O error; `InvalidData` for an old file that is damaged.
    pub fn file(format: Arc<dyn Encode>, staging: Arc<Staging>, old: &Old) -> Result<Self> {
        let (mut continues, mut unpacking) = (None, 0);
        if let Old::File { file, is_empty } = old {
            unpacking = file.unpacking;
            if !is_empty {
                continues = Some(if file.ends_with_line_end()? { b"" } else { format.line_end() });
            }
        }
        let output = Output::File(Arc::new(SharedFile::new(format.clone(), staging.clone(), continues)));
        Ok(Self { output, format, unpacking, staging })
    }

    /// To the directory of `staging`.
    ///
    /// # Errors
    /// An I/O error.
    pub fn directory(format: Arc<dyn Encode>, staging: Arc<Staging>, old: Old, cx: &RunContext) -> Result<Self> {
        let old = if let Old::Parts(files) = old { files } else { Vec::new() };
        let directory = SharedDirectory::new(format.clone(), staging.clone(), cx.run_id(), old)?;
        Ok(Self { output: Output::Directory(Arc::new(directory)), format, unpacking: 0, staging })
    }
}

#[async_trait]
impl LoadSession for TextSession {
    fn completed(&self) -> &[Receipt] {
        self.staging.receipts()
    }

    fn min_memory(&self) -> usize {
        // Less would make blocks of single records.
        const BLOCKS: usize = 64 << 10;
        let file = match &self.output {
            Output::File(_) => 0,
            Output::Directory(_) => self.staging.file_memory(),
        };
        BLOCKS + self.format.compression().memory() + file
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
        let (texts, fine) = match &self.output {
            Output::File(file) => {
                let closed = file.close()?;
                (vec![StagedText { path: staged, ranges: closed.ranges }], closed.fine)
            }
            Output::Directory(directory) => {
                let start = self.format.start().len() as u64;
                let text = |part: ManifestFile| {
                    let ranges = (part.rows > 0).then_some(start..part.bytes).into_iter().collect();
                    StagedText { path: staged.join(part.name), ranges }
                };
                (directory.close()?.into_iter().map(text).collect(), directory.is_fine())
            }
        };
        if fine {
            return Err(not_read_back("a time has digits beyond the microsecond, which reading leaves out"));
        }
        self.format.read_back(cx, texts).await
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
        // Dropping the staging removes it then.
        self.staging.discard();
        Ok(())
    }

    async fn suspend(self: Box<Self>) -> Result<usize> {
        Ok(self.staging.kept())
    }
}
