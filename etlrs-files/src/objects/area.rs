//! Staging in an object store.
//!
//! Design note. An upload in parts is invisible until it is completed, which makes it a staging area: everything is uploaded
//! while the run goes on, and publishing only completes it. One object is then replaced at once. A directory is published
//! by its manifest: the objects are completed, then one conditional request puts the manifest, which fails if somebody
//! else put one since the run began, so of two runs one wins; then the objects that the manifest no longer names are
//! removed. A directory without a manifest first gets a standing one, which leaves its readers what is there and hides the
//! objects that are completed then. If that is all that comes of the run, it stays and does no harm. When the answer to the
//! request is lost, the manifest is read: only one that is known not to be put lets the objects be removed. Who reads the directory without its manifest sees the objects come one after another.
//!
//! A store has no lock that dies with its owner, so runs are not kept apart before they publish. What a killed run leaves
//! are parts of uploads, which nobody sees and a rule of the bucket can remove, and, if it was killed while it published a
//! directory, objects that no manifest names. Those are removed by a run that finds them a day later.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use etlrs_core::{CancelToken, Error, ErrorKind, LoadMode, Result, RunContext};
use futures_util::{StreamExt, TryStreamExt};
use object_store::{ObjectStoreExt, PutMode, PutOptions, PutPayload, UpdateVersion};

use super::request::{request, requests};
use super::upload::{LARGEST_PART, SMALLEST_PART, give_up};
use super::{AT_ONCE, Address, Found, Upload, failed};
use crate::parts::{is_mark, is_part};
use crate::{Manifest, ManifestFile};

/// Parts of one upload that are under way while the next is filled.
const PARTS_AT_ONCE: usize = 2;
/// After so long, an object that no manifest names was left by a run that died.
const ORPHANED_SECONDS: u64 = 24 * 60 * 60;

/// A place in an object store that is written to, and published at once.
#[derive(Debug)]
pub(crate) struct ObjectArea {
    address: Address,
    target: PathBuf,
    mode: LoadMode,
    directory: bool,
    /// Something is there already.
    existed: bool,
    /// The manifest that was there when the run began, and what identifies it.
    before: Option<(Manifest, UpdateVersion)>,
    /// What was in the directory when the run began.
    present: Vec<Present>,
    cancel: CancelToken,
    part: usize,
    staged: Mutex<Staged>,
}

#[derive(Debug)]
struct Present {
    name: String,
    bytes: u64,
    /// When, by the clock of the store.
    written: SystemTime,
}

/// A manifest that was not put.
enum Unpublished {
    /// The directory is as it was.
    Known(Error),
    /// It may be put, now or later.
    Unknown(Error),
}

impl Unpublished {
    fn error(self) -> Error {
        match self {
            Self::Known(error) | Self::Unknown(error) => error,
        }
    }
}

#[derive(Debug, Default)]
struct Staged {
    /// Uploads that wait to be completed, by their names in the directory; the one object has the name "".
    uploads: BTreeMap<String, Upload>,
    manifest: Option<Manifest>,
}

impl Drop for Staged {
    /// All at once: each of them may take a while.
    fn drop(&mut self) {
        let uploads = std::mem::take(&mut self.uploads);
        give_up(uploads.into_values().filter_map(Upload::into_parts).collect());
    }
}

impl ObjectArea {
    /// Whether the target could be written in this mode, and exists.
    pub(crate) fn check(address: &Address, mode: LoadMode, directory: bool, cancel: &CancelToken) -> Result<bool> {
        let shown = address.shown().display();
        let is_directory = address.is_directory(cancel)?;
        let is_object = !is_directory && address.find(cancel)?.is_some();
        if !is_object && (!is_directory || directory && holds_nothing(address, cancel)?) {
            return Ok(false);
        }
        if mode == LoadMode::Create {
            return Err(Error::new(ErrorKind::AlreadyExists, "the target exists")
                .hint("use mode replace or append, or another name")
                .in_source(shown));
        }
        let wrong = match directory {
            true if is_object => "the target is an object, not a directory",
            false if is_directory => "the target is a directory, which is written with / at its end",
            _ => return Ok(true),
        };
        Err(Error::new(ErrorKind::InvalidConfig, wrong).in_source(shown))
    }

    pub(crate) fn begin(address: Address, mode: LoadMode, directory: bool, cx: &RunContext) -> Result<Self> {
        let cancel = cx.cancel().clone();
        let existed = Self::check(&address, mode, directory, &cancel)?;
        let manifest = address.child(Manifest::NAME);
        let (before, present) = match directory {
            true => {
                let before = match manifest.read(&cancel)? {
                    Some((text, version)) => Some((Manifest::parse(&text, manifest.shown())?, version)),
                    None => None,
                };
                (before, present(&address, &cancel)?)
            }
            false => (None, Vec::new()),
        };
        let target = address.shown().to_owned();
        // A small part of the budget, for each of several writers may fill one and have others under way.
        let part = (cx.memory().limit() / 64).clamp(SMALLEST_PART, LARGEST_PART);
        let staged = Mutex::default();
        Ok(Self { address, target, mode, directory, existed, before, present, cancel, part, staged })
    }

    fn lock(&self) -> MutexGuard<'_, Staged> {
        self.staged.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn target(&self) -> &Path {
        &self.target
    }

    pub(crate) fn existed(&self) -> bool {
        self.existed
    }

    /// Bytes that one file that is being written takes.
    pub(crate) fn file_memory(&self) -> usize {
        self.part * (PARTS_AT_ONCE + 1)
    }

    /// Begins the object, or the one called `name` in the directory.
    pub(crate) fn create(&self, name: &str) -> Upload {
        let address = if name.is_empty() { self.address.clone() } else { self.address.child(name) };
        Upload::new(address, self.part, PARTS_AT_ONCE, !self.directory, &self.cancel)
    }

    /// Takes an upload that is finished.
    pub(crate) fn keep(&self, name: &str, upload: Upload) {
        self.lock().uploads.insert(name.to_owned(), upload);
    }

    /// Gives up what an earlier attempt uploaded.
    pub(crate) fn remove(&self, name: &str) {
        let upload = self.lock().uploads.remove(name);
        drop(upload);
    }

    pub(crate) fn set_manifest(&self, manifest: Manifest) {
        self.lock().manifest = Some(manifest);
    }

    /// Nothing stops it once it has begun, for what was sent may be done.
    pub(crate) fn publish(&self) -> Result<()> {
        self.cancel.check()?;
        let mut staged = std::mem::take(&mut *self.lock());
        let internal = |message| Error::new(ErrorKind::Internal, message);
        if !self.directory {
            let (_, upload) =
                staged.uploads.pop_first().ok_or_else(|| internal("an object is published that was not kept"))?;
            return upload.complete(self.mode);
        }
        let manifest =
            staged.manifest.take().ok_or_else(|| internal("a directory is published without its manifest"))?;
        let names: Vec<_> = staged.uploads.keys().cloned().collect();
        // Where there is no manifest, whatever is there is data; so what is there has one before more comes.
        let before = match &self.before {
            Some((_, version)) => version.clone(),
            None => {
                let standing = self.standing(&manifest);
                self.put_manifest(&standing, PutMode::Create, &[]).map_err(Unpublished::error)?
            }
        };
        let completed = self.complete_all(std::mem::take(&mut staged.uploads)).map_err(Unpublished::Known);
        let done = completed.and_then(|()| self.put_manifest(&manifest, PutMode::Update(before), &names));
        match done {
            Ok(_) => {
                // The new data is in place: what cannot be removed now is removed by a later run.
                let _ = self.remove_old(&manifest);
                Ok(())
            }
            Err(Unpublished::Known(error)) => {
                let _ = self.delete(names.iter().map(|name| self.address.child(name)).collect());
                Err(error)
            }
            Err(Unpublished::Unknown(error)) => Err(error),
        }
    }

    /// The directory as it was when the run began, for whoever reads it until `manifest` is there.
    fn standing(&self, manifest: &Manifest) -> Manifest {
        let files = self.present.iter().filter(|present| self.was_data(&present.name));
        let files = files.map(|file| ManifestFile { name: file.name.clone(), rows: 0, bytes: file.bytes }).collect();
        Manifest { standing: true, ..Manifest::new(&manifest.run, files) }
    }

    /// Whether the object called `name`, which was there when the run began, was part of the directory then. Where no run
    /// had published it, loaders have refused it if it holds anything but data and marks.
    fn was_data(&self, name: &str) -> bool {
        match &self.before {
            Some((manifest, _)) if !manifest.standing => manifest.names(name),
            standing => {
                let is_hidden = standing.as_ref().is_some_and(|(manifest, _)| manifest.hides(name));
                self.existed && !name.starts_with(['_', '.']) && !is_hidden
            }
        }
    }

    fn complete_all(&self, uploads: BTreeMap<String, Upload>) -> Result<()> {
        let uploads: Vec<_> = uploads.into_values().filter_map(Upload::into_parts).collect();
        let shown = self.target.clone();
        let (failed_ones, done) = requests(&CancelToken::new(), async move {
            let completions = uploads.into_iter().map(|mut upload| async move {
                let done = upload.complete().await;
                (upload, done)
            });
            let completions: Vec<_> = completions.collect();
            let answers: Vec<_> = futures_util::stream::iter(completions).buffer_unordered(AT_ONCE).collect().await;
            let mut failed_ones = Vec::new();
            let mut done = Ok(());
            for (upload, answer) in answers {
                if let Err(error) = answer {
                    failed_ones.push(upload);
                    done = Err(failed("write", &shown, &error));
                }
            }
            Ok((failed_ones, done))
        })?;
        give_up(failed_ones);
        done
    }

    /// Puts the manifest, and gives what identifies the one that is there then. `new` are the files of this run in it.
    fn put_manifest(
        &self,
        manifest: &Manifest,
        mode: PutMode,
        new: &[String],
    ) -> std::result::Result<UpdateVersion, Unpublished> {
        let address = self.address.child(Manifest::NAME);
        let payload = PutPayload::from(manifest.to_json().map_err(Unpublished::Known)?);
        let (store, key) = (address.store(), address.key.clone());
        let cancel = CancelToken::new();
        let put = request(&cancel, address.failed("write"), async move {
            let put = store.put_opts(&key, payload, PutOptions::from(mode)).await?;
            Ok(UpdateVersion { e_tag: put.e_tag, version: put.version })
        });
        let error = match put.map_err(Unpublished::Known)?.wait() {
            Ok(version) => return Ok(version),
            Err(error) => error,
        };
        // The store may have done it all the same: its answer was lost, and a second try found the first one's work. Another
        // run may even have gone on from there: its manifest names our files only if ours was there to be read.
        let is_ours = |text: &[u8]| {
            Manifest::parse(text, address.shown())
                .is_ok_and(|found| found == *manifest || new.iter().any(|name| found.names(name)))
        };
        let refused = matches!(error.kind(), ErrorKind::AlreadyExists | ErrorKind::SourceChanged);
        match address.read(&cancel) {
            Ok(Some((text, version))) if is_ours(&text) => Ok(version),
            Ok(_) if refused => Err(Unpublished::Known(
                Error::new(ErrorKind::Locked, "another run wrote to the directory meanwhile, so nothing was published")
                    .hint("run again")
                    .in_source(self.target.display()),
            )),
            // It may still come to be done, so what it names stays.
            _ => Err(Unpublished::Unknown(error.hint("whether it was published is not known: look at the directory"))),
        }
    }

    /// What was there when the run began and is no longer part of the directory.
    fn remove_old(&self, manifest: &Manifest) -> Result<()> {
        let goes = |present: &&Present| {
            let name = present.name.as_str();
            // Whoever has yet to publish other parts is too late once a directory is replaced.
            let goes = is_part(name) || self.was_data(name) || self.mode == LoadMode::Replace && is_mark(name);
            goes && !manifest.names(name)
        };
        // What was data has been replaced; other parts may be of a run that is at work.
        let is_sure = |present: &&Present| self.mode == LoadMode::Replace || self.was_data(&present.name);
        let (old, mut others): (Vec<_>, Vec<_>) = self.present.iter().filter(goes).partition(is_sure);
        let delete = |old: Vec<&Present>| {
            self.delete(old.into_iter().map(|present| self.address.child(&present.name)).collect())
        };
        delete(old)?;
        if others.is_empty() {
            return Ok(());
        }
        let now = self.now()?;
        let is_orphan = |written| now.duration_since(written).is_ok_and(|age| age.as_secs() > ORPHANED_SECONDS);
        others.retain(|present| is_orphan(present.written));
        delete(others)
    }

    /// The time by the clock of the store, when the manifest was put: ours may be wrong by days, and parts of a run that is at work
    /// seem to be old then.
    fn now(&self) -> Result<SystemTime> {
        let manifest = self.address.child(Manifest::NAME);
        let (failed, store, key) = (manifest.failed("look at"), manifest.store(), manifest.key.clone());
        let head = request(&CancelToken::new(), failed, async move { store.head(&key).await })?;
        Ok(head.wait()?.last_modified.into())
    }

    fn delete(&self, objects: Vec<Address>) -> Result<()> {
        let deletions = objects.into_iter().map(|address| async move {
            address.store().delete(&address.key).await.map_err(|error| failed("remove", address.shown(), &error))
        });
        let deletions: Vec<_> = deletions.collect();
        requests(&CancelToken::new(), async move {
            futures_util::stream::iter(deletions).buffer_unordered(AT_ONCE).try_collect::<()>().await
        })
    }
}

/// Whether nothing is in the directory but what runs left that failed when they published it for the first time.
fn holds_nothing(directory: &Address, cancel: &CancelToken) -> Result<bool> {
    match Manifest::read_any(directory.shown(), cancel)? {
        Some(manifest) if manifest.standing || manifest.files.is_empty() => {
            let is_left = |name: &str| name == Manifest::NAME || manifest.hides(name);
            let name = |found: &Found| found.path.file_name().and_then(|name| name.to_str()).is_some_and(is_left);
            Ok(directory.list(cancel)?.iter().all(|found| !found.is_directory && name(found)))
        }
        _ => Ok(false),
    }
}

fn present(directory: &Address, cancel: &CancelToken) -> Result<Vec<Present>> {
    let (store, key) = (directory.store(), directory.key.clone());
    let listed = request(cancel, directory.failed("list"), async move { store.list_with_delimiter(Some(&key)).await });
    let objects = listed?.wait()?.objects.into_iter().filter(|found| !directory.is_marker(found));
    let present = objects.filter_map(|found| {
        let written = found.last_modified.into();
        found.location.filename().map(|name| Present { name: name.to_owned(), bytes: found.size, written })
    });
    Ok(present.collect())
}
