//! Loading what was set aside, once more.
//!
//! Design note. A quarantine keeps of each record how it is read by itself ([`ReadAs`]) and how many transformers it had been
//! through, so a replay needs nothing but the quarantine and a pipeline. Records that are read in one way and go on at one place
//! are a *group*, and a load of their own: their texts are written into files for the connector of their format, whose rows go
//! through the transformers that they had not been through, into the target, in mode append or merge. What fails again is set
//! aside by that load as by any other, into the same quarantine, where such rows are marked as those of a replay: they do not
//! count yet. When the load is published, the quarantine is replaced by itself without the records that were loaded, and with
//! those that failed again no longer marked.
//!
//! A replay that is killed is as exact as a load is. What it had staged is gone on with, for its source is known by what the
//! records hold. If it was published and the quarantine is as before, its mark at the target has the runs whose records it took;
//! only what is left of it is done then. The alternative, to write down in the quarantine which records are being loaded, leaves
//! those of a replay whose target was lost in doubt for ever.
//!
//! The quarantine is read into a file first: it may be in a database that cannot be read and written at once. Whoever adds to it
//! between that and its replacement is noticed, by the runs that it has while it is locked.

mod rest;
mod rows;
mod source;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{BufWriter, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow_array::Array;
use etlrs_core::{
    Checksum, ColumnTypes, Error, ErrorKind, Extractor, Fingerprint, Interrupted, LoadMode, OptionMap, OptionValue,
    Registry, Result, RunContext, RunId, ScanRequest, Uri, failpoint, next_batch,
};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::max_errors::MaxErrors;
use crate::pipeline::{PipelineBuilder, Replayed, forget_once, off_the_runtime, projected};
use crate::quarantine::of_quarantine;
use crate::read_as::ReadAs;
use crate::report::RunReport;
use crate::resume::{Left, Resume};
use rest::Rest;
use rows::{Chosen, Group, Long, Rows};
use source::{Folder, Source, is_alone};

/// Loads the records of a quarantine once more, and keeps those that fail again.
pub struct Replay {
    builder: PipelineBuilder,
    quarantine: Arc<dyn Extractor>,
    registry: Registry,
    options: OptionMap,
    run: Option<RunId>,
    is_target: Arc<dyn Fn(&str) -> bool + Send + Sync>,
    /// Held by whoever replays this quarantine on this machine.
    _lock: Option<File>,
    /// Groups of which no record can be replayed.
    empty: HashSet<Group>,
    /// Runs that were done: what they have set aside failed again.
    done: HashSet<String>,
    notes: Vec<String>,
}

/// A part of a [`Replay`]: a load of its own.
pub struct ReplayStep {
    /// The pipeline that loads the records. It [acknowledges later](PipelineBuilder::acknowledge_later).
    pub builder: PipelineBuilder,
    /// Records that it loads.
    pub records: u64,
    chosen: Chosen,
    id: Arc<str>,
}

/// What the fingerprint of the source says, by which a replay that was stopped is known.
#[derive(Serialize, Deserialize)]
struct Mark {
    /// Digest of the group.
    replay: String,
    /// Of the records.
    checksum: String,
    runs: BTreeSet<String>,
}

impl Replay {
    /// With the target, the transformers and the [quarantine](PipelineBuilder::quarantine_into) of `builder`; its source is not
    /// looked at. `quarantine` reads that quarantine; what it gives may be text where it keeps only text.
    pub fn new(mut builder: PipelineBuilder, quarantine: Arc<dyn Extractor>, registry: Registry) -> Self {
        // That was of all records, and these are bad ones.
        builder.settings.max_errors = None;
        Self {
            builder,
            quarantine,
            registry,
            options: OptionMap::new(),
            run: None,
            is_target: Arc::new(|_| true),
            _lock: None,
            empty: HashSet::new(),
            done: HashSet::new(),
            notes: Vec::new(),
        }
    }

    /// Alone on this machine, where the quarantine has this name: two replays at once could load a record twice.
    ///
    /// # Errors
    /// `Locked` if another replay is at work.
    pub fn alone(mut self, name: &str) -> Result<Self> {
        let path = std::env::temp_dir().join(format!("etlrs-replay-{}.lock", &digest(name)[..16]));
        // Of another user's, there is nothing that could be known.
        let Ok(file) = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(path) else {
            return Ok(self);
        };
        if let Err(TryLockError::WouldBlock) = file.try_lock() {
            return Err(Error::new(ErrorKind::Locked, "another replay of this quarantine is at work")
                .hint("wait until it is done"));
        }
        self._lock = Some(file);
        Ok(self)
    }

    /// Reads the records of a source with these options, over those with which they were read before. `types` are over those of
    /// the same columns only.
    #[must_use]
    pub fn options(mut self, options: OptionMap) -> Self {
        self.options = options;
        self
    }

    /// Ends a load of which more records fail again.
    #[must_use]
    pub fn max_errors(mut self, most: impl Into<MaxErrors>) -> Self {
        self.builder.settings.max_errors = Some(most.into());
        self
    }

    /// Only what that run had set aside.
    #[must_use]
    pub fn run(mut self, run: RunId) -> Self {
        self.run = Some(run);
        self
    }

    /// Only what was to go to a target that has such a [name](PipelineBuilder::target_name), and what has none.
    #[must_use]
    pub fn targets(mut self, is_target: impl Fn(&str) -> bool + Send + Sync + 'static) -> Self {
        self.is_target = Arc::new(is_target);
        self
    }

    /// All of it.
    ///
    /// # Errors
    /// Those of the loads. What was loaded before is no longer in the quarantine.
    pub async fn execute(mut self) -> Result<Vec<RunReport>> {
        let mut reports = Vec::new();
        while let Some(step) = self.next().await? {
            let pipeline = step.builder.clone().build()?;
            let report = pipeline.execute().await?;
            self.complete(step, report.run).await?;
            pipeline.acknowledge(report.run).await?;
            reports.push(report);
        }
        Ok(reports)
    }

    /// What there is to know so far: records that cannot be replayed, or were already.
    pub fn take_notes(&mut self) -> Vec<String> {
        std::mem::take(&mut self.notes)
    }

    /// What is loaded next. `None`: all that can be replayed was.
    ///
    /// # Errors
    /// For what is no quarantine; those of reading it, and of looking at the target.
    pub async fn next(&mut self) -> Result<Option<ReplayStep>> {
        loop {
            let folder = Arc::new(Folder(new_folder()?));
            let snapshot = self.snapshot(&folder.0).await.map_err(of_quarantine)?;
            let found = self.look(snapshot.clone()).await.map_err(of_quarantine)?;
            let left = self.left().await?;
            let mark = left.as_ref().and_then(|left| left.record.mark::<Mark>());
            let chosen = match mark.and_then(|mark| found.marked(&mark)) {
                Some(chosen) => {
                    if let Some(left) = left.filter(|left| left.found.published) {
                        let run = left.found.run;
                        self.notes.push(format!("the run {run} had loaded its records before it was stopped"));
                        self.end(&chosen, None, run).await?;
                        self.forget_mark(run).await?;
                        self.done.insert(run.to_string());
                        continue;
                    }
                    Some(chosen)
                }
                None => found.first(&self.empty),
            };
            let Some(chosen) = chosen else {
                self.notes.extend(found.notes());
                return Ok(None);
            };
            let group = chosen.group.clone();
            if let Some(step) = self.step(snapshot, folder, chosen).await? {
                return Ok(Some(step));
            }
            self.empty.insert(group);
        }
    }

    /// Takes the records of `step`, which `run` has loaded, out of the quarantine, but for those that failed again. The run is
    /// [acknowledged](Pipeline::acknowledge) after that.
    ///
    /// # Errors
    /// Those of reading and writing the quarantine. The records are loaded all the same; the next replay does what is left.
    pub async fn complete(&mut self, step: ReplayStep, run: RunId) -> Result<()> {
        failpoint("replay-loaded");
        self.end(&step.chosen, Some(step.id), run).await?;
        self.done.insert(run.to_string());
        failpoint("replay-completed");
        Ok(())
    }

    async fn end(&self, chosen: &Chosen, id: Option<Arc<str>>, run: RunId) -> Result<()> {
        let told = |error: Error| {
            let hint = "the records are loaded, and still in the quarantine; the same command takes them out, and loads none twice";
            match error.hint_text() {
                Some(before) => {
                    let hint = format!("{before}; {hint}");
                    of_quarantine(error.hint(hint))
                }
                None => of_quarantine(error.hint(hint)),
            }
        };
        // Somebody who adds to the quarantine at the same time is seen, and then it is read again.
        const ATTEMPTS: usize = 5;
        for attempt in 1.. {
            match self.end_once(chosen, id.clone(), run).await {
                Err(error) if error.kind() == ErrorKind::SourceChanged && attempt < ATTEMPTS => {}
                done => return done.map_err(told),
            }
        }
        Ok(())
    }

    async fn end_once(&self, chosen: &Chosen, id: Option<Arc<str>>, run: RunId) -> Result<()> {
        let folder = Folder(new_folder()?);
        let snapshot = self.snapshot(&folder.0).await?;
        let rest = Rest::new(snapshot, self.quarantine.clone(), chosen.clone(), id, run);
        let loader = self.quarantine_loader()?;
        let settings = &self.builder.settings;
        let builder = PipelineBuilder::new().extract(rest).load_into(loader).mode(LoadMode::Replace);
        let builder = builder.config(settings.config.clone()).cancel(settings.cancel.clone()).resume(Resume::Never);
        builder.build()?.execute().await.map(|_| ())
    }

    fn quarantine_loader(&self) -> Result<Arc<dyn etlrs_core::Loader>> {
        let missing = || Error::new(ErrorKind::InvalidConfig, "a replay needs the quarantine as a target too");
        self.builder.quarantine.clone().ok_or_else(missing)
    }

    /// The quarantine as it is now, in a file.
    async fn snapshot(&self, folder: &Path) -> Result<Arc<dyn Extractor>> {
        let uri = Uri::new(format!("parquet:{}", folder.join("quarantine.parquet").display()));
        let connector = self.registry.find(&uri)?;
        let settings = &self.builder.settings;
        let builder = PipelineBuilder::new()
            .extract_from(self.quarantine.clone())
            .load_into(connector.loader(&uri, &OptionMap::new())?)
            .config(settings.config.clone())
            .cancel(settings.cancel.clone());
        builder.build()?.execute().await?;
        connector.extractor(&uri, &OptionMap::new())
    }

    /// What is in it.
    async fn look(&self, snapshot: Arc<dyn Extractor>) -> Result<Found> {
        let (run, is_target) = (self.run.map(|run| run.to_string()), self.is_target.clone());
        let transforms = self.builder.transformers.len() as i64;
        let done = self.done.clone();
        let look = move |found: &mut Found, rows: Rows| {
            let is_wanted = |of: &str| !done.contains(of) && run.as_ref().is_none_or(|run| run == of);
            found.add(&rows, &is_wanted, &*is_target, transforms);
            Ok(())
        };
        self.each(snapshot, Found::default(), look).await
    }

    /// All rows of the quarantine, one batch after another.
    async fn each<T: Send + 'static>(
        &self,
        snapshot: Arc<dyn Extractor>,
        mut state: T,
        mut look: impl FnMut(&mut T, Rows) -> Result<()> + Send + 'static,
    ) -> Result<T> {
        let config = self.builder.settings.config.clone();
        off_the_runtime(&self.builder.settings.cancel, |cancel| async move {
            let cx = RunContext::with_cancel(config, cancel);
            let scan = snapshot.scan(&cx, &ScanRequest::all().partitions(1)).await?;
            for partition in scan.partitions() {
                let mut stream = scan.read(&cx, partition)?;
                while let Some(batch) = next_batch(&mut stream).await {
                    cx.cancel().check()?;
                    look(&mut state, Rows::of(&batch?)?)?;
                }
            }
            Ok(state)
        })
        .await
    }

    /// The load of these records. `None` if there are none.
    async fn step(
        &self,
        snapshot: Arc<dyn Extractor>,
        folder: Arc<Folder>,
        chosen: Chosen,
    ) -> Result<Option<ReplayStep>> {
        let wrong = || {
            let message = "some records were set aside by another version, and cannot be read by this one";
            of_quarantine(Error::new(ErrorKind::InvalidData, message))
        };
        let format = ReadAs::parse(&chosen.group.read_as).ok_or_else(wrong)?;
        let files = folder.0.join("records");
        std::fs::create_dir(&files).map_err(|error| Error::io("create", &files, error))?;
        let connector = self.registry.connectors().iter().find(|connector| connector.name() == format.connector);
        let connector = connector.ok_or_else(|| {
            let message = format!("records are read by the connector {}, which is not there", format.connector);
            Error::new(ErrorKind::Unsupported, message).hint(format!("build with the feature {}", format.connector))
        })?;
        let extension = connector.extensions().first().copied().unwrap_or("txt");
        let options = match chosen.group.transforms {
            0 if chosen.group.stage == etlrs_core::Rejected::SOURCE => over(&self.options, &format.options)?,
            _ => format.options.clone(),
        };
        let writing = Texts::new(&files, extension, &format);
        let (of, among) = (format.clone(), chosen.clone());
        let write = move |texts: &mut Texts, rows: Rows| texts.add(&rows, &among, &of);
        let texts = self.each(snapshot.clone(), writing, write).await?;
        let (joined, alone, checksum, from) = texts.finish()?;
        if joined + alone == 0 {
            return Ok(None);
        }
        let mark = Mark {
            replay: chosen.group.digest(),
            checksum: checksum.to_string(),
            runs: chosen.runs.iter().cloned().collect(),
        };
        let mark = serde_json::to_string(&mark).map_err(|error| Error::new(ErrorKind::Internal, error.to_string()))?;
        let id: Arc<str> = digest(&mark)[..16].into();
        let uri = Uri::new(format!("{}:{}/", format.connector, files.display()));
        let mut format = format;
        // A column that is named now is wanted.
        for (name, _) in given_types(&options)?.0 {
            if !format.columns.contains(&name) {
                format.columns.push(name);
            }
        }
        let source = Source {
            files: connector.extractor(&uri, &options)?,
            format,
            joined,
            snapshot,
            chosen: chosen.clone(),
            from,
            fingerprint: Fingerprint::new(mark),
            _folder: folder,
        };
        let mut builder = self.builder.clone().extract(source).mode(self.mode()).acknowledge_later();
        let transforms = usize::try_from(chosen.group.transforms).unwrap_or(usize::MAX);
        builder.transformers = builder.transformers.split_off(transforms.min(builder.transformers.len()));
        let columns = builder.settings.request.columns.take().filter(|_| transforms == 0);
        builder.settings.request = ScanRequest::all();
        builder.settings.request.columns = columns;
        builder.settings.replay = Some(Replayed { id: id.clone(), transforms: chosen.group.transforms });
        Ok(Some(ReplayStep { builder, records: joined + alone, chosen, id }))
    }

    /// What is left of a run at the target.
    async fn left(&self) -> Result<Option<Left>> {
        let cancel = self.builder.settings.cancel.clone();
        let pipeline = self.builder.clone().extract_from(self.quarantine.clone());
        let pipeline = pipeline.mode(self.mode()).resume(Resume::Auto).build()?;
        off_the_runtime(&cancel, |cancel| async move {
            let cx = RunContext::with_cancel(pipeline.settings.config.clone(), cancel);
            Left::find(&pipeline, &cx).await
        })
        .await
    }

    /// Removes what is left at the target of a replay that was stopped, and tells what that was. If it had loaded its records, they
    /// are taken out of the quarantine first.
    ///
    /// # Errors
    /// As [`Pipeline::forget`](crate::Pipeline::forget), and as [`complete`](Self::complete).
    pub async fn forget(&self, run: RunId) -> Result<Option<Interrupted>> {
        let left = self.left().await?.filter(|left| left.found.run == run && left.found.published);
        if let Some(mark) = left.and_then(|left| left.record.mark::<Mark>()) {
            let folder = Folder(new_folder()?);
            let snapshot = self.snapshot(&folder.0).await.map_err(of_quarantine)?;
            if let Some(chosen) = self.look(snapshot).await.map_err(of_quarantine)?.marked(&mark) {
                self.end(&chosen, None, run).await?;
            }
        }
        self.forget_mark(run).await
    }

    async fn forget_mark(&self, run: RunId) -> Result<Option<Interrupted>> {
        let cancel = self.builder.settings.cancel.clone();
        let pipeline = self.builder.clone().extract_from(self.quarantine.clone()).mode(self.mode()).build()?;
        off_the_runtime(&cancel, move |cancel| async move {
            let cx = RunContext::with_cancel(pipeline.settings.config.clone(), cancel);
            forget_once(&pipeline, &cx, run).await
        })
        .await
    }

    /// A replay adds to what is there.
    fn mode(&self) -> LoadMode {
        if self.builder.settings.mode == LoadMode::Merge { LoadMode::Merge } else { LoadMode::Append }
    }
}

/// What a quarantine holds that can be replayed, and what it holds that cannot.
#[derive(Default)]
struct Found {
    groups: Vec<(Group, HashSet<String>)>,
    long: HashSet<Long>,
    targets: HashSet<String>,
    /// Records that were to go to other targets.
    elsewhere: HashMap<String, u64>,
    /// Without anything to read, or to read it by.
    unreadable: u64,
    /// By stage, those that have to go through transformers that the pipeline has not.
    behind: HashMap<String, u64>,
}

impl Found {
    fn add(&mut self, rows: &Rows, is_run: &dyn Fn(&str) -> bool, is_target: &dyn Fn(&str) -> bool, transforms: i64) {
        for row in 0..rows.len() {
            if rows.replay.is_valid(row) || !is_run(rows.run.value(row)) {
                continue;
            }
            if rows.part.value(row) > 0 {
                self.long.insert(rows.long(row));
                continue;
            }
            if rows.target.is_valid(row) {
                let target = rows.target.value(row);
                if !self.targets.contains(target) {
                    if !is_target(target) {
                        *self.elsewhere.entry(target.to_owned()).or_default() += 1;
                        continue;
                    }
                    self.targets.insert(target.to_owned());
                }
            }
            let group = Group::of(rows, row).filter(|_| rows.text(row).is_some());
            let Some(group) = group else {
                self.unreadable += 1;
                continue;
            };
            let left = if rows.transforms_left.is_valid(row) { rows.transforms_left.value(row) } else { 0 };
            // Of a pipeline that was changed meanwhile, the user knows.
            if left > 0 && i64::from(group.transforms) >= transforms {
                *self.behind.entry(group.stage).or_default() += 1;
                continue;
            }
            let run = rows.run.value(row);
            match self.groups.iter_mut().find(|(known, _)| *known == group) {
                Some((_, runs)) if runs.contains(run) => {}
                Some((_, runs)) => _ = runs.insert(run.to_owned()),
                None => self.groups.push((group, HashSet::from([run.to_owned()]))),
            }
        }
    }

    /// The first one that was not done.
    fn first(&self, empty: &HashSet<Group>) -> Option<Chosen> {
        let mut groups = self.groups.iter().filter(|(group, _)| !empty.contains(group));
        groups.next().map(|(group, runs)| self.chosen(group, runs.clone()))
    }

    /// The one that a replay took which was stopped, if its records are here.
    fn marked(&self, mark: &Mark) -> Option<Chosen> {
        let (group, runs) = self.groups.iter().find(|(group, _)| group.digest() == mark.replay)?;
        let is_there = mark.runs.iter().all(|run| runs.contains(run));
        is_there.then(|| self.chosen(group, mark.runs.iter().cloned().collect()))
    }

    fn chosen(&self, group: &Group, runs: HashSet<String>) -> Chosen {
        let (long, targets) = (Arc::new(self.long.clone()), Arc::new(self.targets.clone()));
        Chosen { group: group.clone(), runs, long, targets }
    }

    /// What is told of the records that stay.
    fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        for (target, records) in &self.elsewhere {
            notes.push(format!("{records} records that were to go to {target} stay"));
        }
        for (stage, records) in &self.behind {
            notes.push(format!(
                "{records} records of the stage {stage} stay, for they have to go through transformers that are not here; replay them \
                 with the pipeline file, or with the same --where"
            ));
        }
        if self.unreadable > 0 {
            notes.push(format!("{} records stay, of which there is no text that could be read", self.unreadable));
        }
        if !self.long.is_empty() {
            notes.push(format!("{} records stay, which are too long to be held whole", self.long.len()));
        }
        notes
    }
}

/// Files of texts, as they are written.
struct Texts {
    files: PathBuf,
    extension: &'static str,
    header: Vec<u8>,
    first: Option<BufWriter<File>>,
    joined: u64,
    alone: u64,
    checksum: Checksum,
    /// Where all of them are from: nobody knows, or several are.
    from: Option<Option<Arc<str>>>,
}

impl Texts {
    fn new(files: &Path, extension: &'static str, format: &ReadAs) -> Self {
        let header = format.header.as_ref().map(|header| format!("{header}\n").into_bytes()).unwrap_or_default();
        let (files, first) = (files.to_owned(), None);
        Self { files, extension, header, first, joined: 0, alone: 0, checksum: Checksum::default(), from: None }
    }

    fn add(&mut self, rows: &Rows, among: &Chosen, format: &ReadAs) -> Result<()> {
        let chosen: Vec<usize> = (0..rows.len()).filter(|&row| among.has(rows, row)).collect();
        for &row in &chosen {
            let text = rows.text(row).unwrap_or_default();
            let from = rows.source.is_valid(row).then(|| rows.source.value(row));
            match &self.from {
                Some(known) if known.as_deref() == from => {}
                Some(_) => self.from = Some(None),
                None => self.from = Some(from.map(Arc::from)),
            }
            let failed = |error| Error::io("write", &self.files, error);
            if is_alone(text, format) {
                self.alone += 1;
                let parts = [&self.header, text, b"\n"].concat();
                let name = self.files.join(format!("{:012}.{}", self.alone, self.extension));
                std::fs::write(&name, parts).map_err(failed)?;
                continue;
            }
            let file = match &mut self.first {
                Some(file) => file,
                first => {
                    let name = self.files.join(format!("{:012}.{}", 0, self.extension));
                    let mut file = BufWriter::new(File::create(name).map_err(failed)?);
                    file.write_all(&self.header).map_err(failed)?;
                    first.insert(file)
                }
            };
            self.joined += 1;
            let is_space = |byte: &u8| if matches!(byte, b'\n' | b'\r') { b' ' } else { *byte };
            let text: Vec<u8> = text.iter().map(is_space).chain([b'\n']).collect();
            file.write_all(&text).map_err(failed)?;
        }
        self.checksum.merge(&Chosen::checksum(rows, &chosen)?);
        Ok(())
    }

    fn finish(mut self) -> Result<(u64, u64, Checksum, Option<Arc<str>>)> {
        if let Some(file) = &mut self.first {
            file.flush().map_err(|error| Error::io("write", &self.files, error))?;
        }
        Ok((self.joined, self.alone, self.checksum, self.from.flatten()))
    }
}

impl Group {
    fn digest(&self) -> String {
        digest(&format!("{:?}", (&self.stage, self.transforms, &self.read_as)))
    }
}

fn digest(text: &str) -> String {
    Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Options over others.
fn over(given: &OptionMap, others: &OptionMap) -> Result<OptionMap> {
    let mut options = others.clone();
    options.extend(given.clone());
    let mut types = given_types(given)?;
    for (name, data_type) in given_types(others)?.0 {
        if types.get(&name).is_none() {
            types.0.push((name, data_type));
        }
    }
    if !types.0.is_empty() {
        options.insert("types".to_owned(), types.show());
    }
    Ok(options)
}

fn given_types(options: &OptionMap) -> Result<ColumnTypes> {
    let Some(text) = options.get("types") else { return Ok(ColumnTypes::default()) };
    ColumnTypes::parse(text)
        .map_err(|reason| Error::new(ErrorKind::InvalidConfig, format!("option types cannot be {text:?}: {reason}")))
}

/// A folder that nobody else can look into: records may be private.
fn new_folder() -> Result<PathBuf> {
    let folder = std::env::temp_dir().join(format!("etlrs-replay-{}", RunId::generate()));
    std::fs::DirBuilder::new().mode(0o700).create(&folder).map_err(|error| Error::io("create", &folder, error))?;
    Ok(folder)
}
