mod disk;
mod ledger;
mod left_over;
mod local;
mod seen;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use etlrs_core::{
    CancelToken, Error, ErrorKind, Interrupted, LoadMode, LoadPlan, Receipt, Result, RunContext, RunId, Tally,
};

use self::ledger::Kept;
pub use self::ledger::StagedPart;
use self::local::LocalArea;
#[cfg(feature = "object-store")]
use crate::objects::{Address, ObjectArea};
use crate::{Manifest, ManifestFile, OutputFile};

/// A file or directory that is written where nobody sees it, and put in its place at once.
///
/// A local one is written beside its place under a temporary name. In an object store it is uploaded without being
/// completed; there a file cannot be appended to, only a directory can.
///
/// Dropping it without [`publish`](Staging::publish) removes what was staged, but for partitions that are [kept](Staging::kept) for the
/// run to go on with.
#[derive(Debug)]
pub struct Staging {
    area: Area,
    /// Of the sources whose rows will be in the directory.
    cursors: BTreeMap<String, String>,
}

#[derive(Debug)]
enum Area {
    Local(LocalArea),
    #[cfg(feature = "object-store")]
    Object(ObjectArea),
}

impl Staging {
    /// Takes hold of the target of `plan`, one file or a `directory`. What the run had staged before, under the same
    /// [record](LoadPlan::record), is there then ([`completed`](Staging::completed)).
    ///
    /// # Errors
    /// As [`file`](Staging::file); `Locked` if another process went on with the run.
    pub fn of_plan(target: &Path, directory: bool, plan: &LoadPlan, cx: &RunContext) -> Result<Self> {
        let mut staging = Self::begin(target, plan.mode, directory, Kept::of(plan).as_ref(), cx)?;
        if Self::keeps_cursors(target, directory) {
            if plan.mode == LoadMode::Append
                && let Some(manifest) = Manifest::read(staging.target(), cx.cancel())?
            {
                if !plan.replaces.is_empty() && !manifest.cursors.is_empty() {
                    let message =
                        "the directory keeps how far its sources were read, which other files would not be true to";
                    return Err(Error::new(ErrorKind::Unsupported, message)
                        .hint("run its pipeline in the mode replace, which loads all of it")
                        .in_source(staging.target().display()));
                }
                staging.cursors = manifest.cursors;
            }
            staging.cursors.extend(plan.cursor.clone().map(|cursor| (cursor.source, cursor.value)));
        }
        Ok(staging)
    }

    /// Whether `target` keeps how far its sources were read: a directory does, in its manifest, which gets its place together with the
    /// files.
    pub fn keeps_cursors(target: &Path, directory: bool) -> bool {
        directory && Self::is_resumable(target)
    }

    /// How far `source` was read whose rows are in the directory `target`.
    ///
    /// # Errors
    /// `InvalidData` for a manifest that cannot be understood; an I/O error.
    pub fn cursor(target: &Path, directory: bool, cx: &RunContext, source: &str) -> Result<Option<String>> {
        if !Self::keeps_cursors(target, directory) {
            return Ok(None);
        }
        let manifest = Manifest::read(target, cx.cancel())?;
        Ok(manifest.and_then(|mut manifest| manifest.cursors.remove(source)))
    }

    /// Takes hold of a target that is one file, without anything to go on with. Nothing is created yet but the lock.
    ///
    /// # Errors
    /// `AlreadyExists` in mode create, `Locked`, an I/O error, or `InvalidConfig` for a target that is no regular file.
    pub fn file(target: &Path, mode: LoadMode, cx: &RunContext) -> Result<Self> {
        Self::begin(target, mode, false, None, cx)
    }

    /// Takes hold of a target that is a directory, without anything to go on with, and makes the empty staging directory.
    ///
    /// # Errors
    /// As [`file`](Staging::file).
    pub fn directory(target: &Path, mode: LoadMode, cx: &RunContext) -> Result<Self> {
        Self::begin(target, mode, true, None, cx)
    }

    fn begin(target: &Path, mode: LoadMode, directory: bool, kept: Option<&Kept>, cx: &RunContext) -> Result<Self> {
        #[cfg(feature = "object-store")]
        if let Some(address) = Address::of(target)? {
            let area = Area::Object(ObjectArea::begin(address, mode, directory, cx)?);
            return Ok(Self { area, cursors: BTreeMap::new() });
        }
        crate::require_local(target)?;
        let area = Area::Local(LocalArea::begin(target, mode, directory, kept, cx)?);
        Ok(Self { area, cursors: BTreeMap::new() })
    }

    /// Whether [`file`](Staging::file) or [`directory`](Staging::directory) would accept the target as it is now.
    /// Returns whether it exists. Changes nothing.
    ///
    /// # Errors
    /// As [`file`](Staging::file), but for `Locked`.
    pub fn check(target: &Path, mode: LoadMode, directory: bool, cancel: &CancelToken) -> Result<bool> {
        #[cfg(feature = "object-store")]
        if let Some(address) = Address::of(target)? {
            return ObjectArea::check(&address, mode, directory, cancel);
        }
        let _ = cancel;
        crate::require_local(target)?;
        LocalArea::check(target, mode, directory)
    }

    /// Refuses to read back what is not there before it is published.
    ///
    /// # Errors
    /// `Unsupported` for an object store, if the `plan` is to read back.
    pub fn check_read_back(target: &Path, plan: &LoadPlan) -> Result<()> {
        match crate::store_scheme(target) {
            Some(_) => {
                let refused = plan.refuse_read_back("objects are not there before they are published");
                refused.map_err(|error| error.in_source(target.display()))
            }
            None => Ok(()),
        }
    }

    /// Whether a run can go on with what it had staged for `target`.
    pub fn is_resumable(target: &Path) -> bool {
        crate::store_scheme(target).is_none()
    }

    /// What is left of a run at `target`; see [`Loader::interrupted`](etlrs_core::Loader::interrupted).
    ///
    /// # Errors
    /// An I/O error.
    pub fn interrupted(target: &Path, cx: &RunContext) -> Result<Option<Interrupted>> {
        match Self::is_resumable(target) {
            true => LocalArea::interrupted(target, cx.cancel()),
            false => Ok(None),
        }
    }

    /// Removes what is left of `run` at `target`; see [`Loader::forget`](etlrs_core::Loader::forget).
    ///
    /// # Errors
    /// `Locked`, an I/O error.
    pub fn forget(target: &Path, cx: &RunContext, run: RunId) -> Result<Option<Interrupted>> {
        match Self::is_resumable(target) {
            true => LocalArea::forget(target, cx, run),
            false => Ok(None),
        }
    }

    /// Partitions that the run had staged when it was stopped.
    pub fn completed(&self) -> &[StagedPart] {
        match &self.area {
            Area::Local(area) => area.ledger().map_or(&[], |ledger| ledger.completed()),
            #[cfg(feature = "object-store")]
            Area::Object(_) => &[],
        }
    }

    /// The receipts of [`completed`](Staging::completed).
    pub fn receipts(&self) -> &[Receipt] {
        match &self.area {
            Area::Local(area) => area.ledger().map_or(&[], |ledger| ledger.receipts()),
            #[cfg(feature = "object-store")]
            Area::Object(_) => &[],
        }
    }

    /// Keeps in mind what is staged.
    pub(crate) fn keep(&self, part: StagedPart) -> Result<()> {
        let ledger = match &self.area {
            Area::Local(area) => area.ledger(),
            #[cfg(feature = "object-store")]
            Area::Object(_) => None,
        };
        ledger.map_or(Ok(()), |ledger| ledger.add(&part))
    }

    /// Keeps in mind that the rows of a partition are in the one file, where `file` is now: they begin at `from`. With the engine's
    /// [account](Tally) of them, and what the format has to know when a run goes on behind them.
    ///
    /// # Errors
    /// An I/O error.
    pub fn keep_rows(
        &self,
        receipt: &Receipt,
        tally: Option<Tally>,
        file: &mut OutputFile,
        from: u64,
        fine: bool,
        extra: impl FnOnce() -> Option<String>,
    ) -> Result<()> {
        let (Some(tally), true) = (tally.filter(|tally| tally.checksum.rows() == receipt.rows), self.keeps()) else {
            return Ok(());
        };
        let ((crc, start), end) = (file.take_crc(), file.written());
        let part = StagedPart::new(receipt.partition, tally).with_fine(fine);
        self.keep(part.in_one_file([start, from.max(start), end], receipt.bytes, crc, extra()))
    }

    /// Bytes of the file at the target.
    pub(crate) fn old_length(&self) -> u64 {
        match &self.area {
            Area::Local(area) => std::fs::metadata(area.target()).map_or(0, |found| found.len()),
            #[cfg(feature = "object-store")]
            Area::Object(_) => 0,
        }
    }

    /// Whether anything is kept in mind.
    fn keeps(&self) -> bool {
        match &self.area {
            Area::Local(area) => area.ledger().is_some(),
            #[cfg(feature = "object-store")]
            Area::Object(_) => false,
        }
    }

    /// The one file behind the rows of the partitions that are [completed](Self::completed); `None` if there are none.
    ///
    /// # Errors
    /// An I/O error.
    pub fn continue_staged(&self) -> Result<Option<OutputFile>> {
        match &self.area {
            Area::Local(area) => area.continue_staged(),
            #[cfg(feature = "object-store")]
            Area::Object(_) => Ok(None),
        }
    }

    /// Partitions that are kept for the run to go on with, if this is dropped now.
    pub fn kept(&self) -> usize {
        match &self.area {
            Area::Local(area) => area.ledger().map_or(0, ledger::Ledger::parts),
            #[cfg(feature = "object-store")]
            Area::Object(_) => 0,
        }
    }

    /// Says that nobody will go on with what is staged: it is removed when this is dropped.
    pub fn discard(&self) {
        match &self.area {
            Area::Local(area) => area.discard(),
            #[cfg(feature = "object-store")]
            Area::Object(_) => {}
        }
    }

    /// Modes that a target at `target` has.
    pub fn modes(target: &Path, directory: bool) -> &'static [LoadMode] {
        match crate::store_scheme(target).is_some() && !directory {
            true => &[LoadMode::Create, LoadMode::Replace],
            false => &[LoadMode::Create, LoadMode::Append, LoadMode::Replace],
        }
    }

    /// Where it will be.
    pub fn target(&self) -> &Path {
        match &self.area {
            Area::Local(area) => area.target(),
            #[cfg(feature = "object-store")]
            Area::Object(area) => area.target(),
        }
    }

    /// Whether something is there already.
    pub fn target_exists(&self) -> bool {
        match &self.area {
            Area::Local(area) => area.target().exists(),
            #[cfg(feature = "object-store")]
            Area::Object(area) => area.existed(),
        }
    }

    /// Bytes that each file that is being written holds.
    pub fn file_memory(&self) -> usize {
        match &self.area {
            Area::Local(_) => 0,
            #[cfg(feature = "object-store")]
            Area::Object(area) => area.file_memory(),
        }
    }

    /// Begins the file, or the file called `name` in the directory.
    ///
    /// # Errors
    /// An I/O error.
    pub fn create(&self, name: Option<&str>) -> Result<OutputFile> {
        match &self.area {
            Area::Local(area) => area.create(name),
            #[cfg(feature = "object-store")]
            Area::Object(area) => Ok(OutputFile::upload(area.create(name.unwrap_or_default()))),
        }
    }

    /// Begins the file as a copy of the one at the target, to be written on behind it.
    ///
    /// # Errors
    /// An I/O error; `Unsupported` where a file cannot be appended to.
    pub fn continue_old(&self) -> Result<OutputFile> {
        match &self.area {
            Area::Local(area) => area.continue_old(),
            #[cfg(feature = "object-store")]
            Area::Object(_) => {
                Err(etlrs_core::Error::new(etlrs_core::ErrorKind::Unsupported, "an object cannot be appended to"))
            }
        }
    }

    /// Ends `file`, which [`create`](Self::create) gave for `name`; gives its size.
    ///
    /// # Errors
    /// An I/O error, `VerifyFailed` if not all of it is there.
    pub fn finish(&self, name: Option<&str>, mut file: OutputFile) -> Result<u64> {
        let bytes = file.finish().map_err(|error| error.in_source(self.target().display()))?;
        match &self.area {
            Area::Local(_) => {}
            #[cfg(feature = "object-store")]
            Area::Object(area) => {
                if let Some(upload) = file.into_upload() {
                    area.keep(name.unwrap_or_default(), upload);
                }
            }
        }
        let _ = name;
        Ok(bytes)
    }

    /// Removes what was staged as `name`, finished or not.
    ///
    /// # Errors
    /// An I/O error.
    pub fn remove(&self, name: &str) -> Result<()> {
        match &self.area {
            Area::Local(area) => area.remove_file(name),
            #[cfg(feature = "object-store")]
            Area::Object(area) => {
                area.remove(name);
                Ok(())
            }
        }
    }

    /// Where a file that is finished can be read before it is published, if it can.
    pub fn staged(&self, name: Option<&str>) -> Option<PathBuf> {
        match &self.area {
            Area::Local(area) => Some(name.map_or(area.path().to_owned(), |name| area.path().join(name))),
            #[cfg(feature = "object-store")]
            Area::Object(_) => None,
        }
    }

    /// Makes files of the target directory part of what will be published. Until then they are not touched.
    ///
    /// # Errors
    /// An I/O error of a file that is not there.
    pub fn take_over(&self, files: &[ManifestFile]) -> Result<()> {
        match &self.area {
            Area::Local(area) => area.take_over(files),
            // They stay where they are.
            #[cfg(feature = "object-store")]
            Area::Object(_) => Ok(()),
        }
    }

    /// Says what the directory will consist of.
    ///
    /// # Errors
    /// An I/O error.
    pub fn set_manifest(&self, mut manifest: Manifest) -> Result<()> {
        manifest.cursors.clone_from(&self.cursors);
        match &self.area {
            Area::Local(area) => manifest.write(area.path()),
            #[cfg(feature = "object-store")]
            Area::Object(area) => {
                area.set_manifest(manifest);
                Ok(())
            }
        }
    }

    /// Puts what was staged in its place, at once and for good. To be called once, when all files are finished.
    ///
    /// # Errors
    /// `Locked` if another program wrote to the target meanwhile, `AlreadyExists` if one created it in mode create; an
    /// I/O error. After all of them the target is as it was, unless the error says that the data is in place and only
    /// its durability is in doubt.
    pub fn publish(&self) -> Result<()> {
        match &self.area {
            Area::Local(area) => area.publish().inspect_err(|error| {
                if !error.may_pass() {
                    area.discard();
                }
            }),
            #[cfg(feature = "object-store")]
            Area::Object(area) => area.publish(),
        }
    }
}
