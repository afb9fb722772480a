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
//! between that and its replacement is noticed, for it is read once more while it is locked.

mod files;
mod found;
mod rest;
mod row_text;
mod rows;
mod source;

use std::collections::{BTreeSet, HashSet};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use arrow_schema::Schema;
use etlrs_core::{
    ColumnTypes, Connector, Error, ErrorKind, Extractor, Interrupted, LoadMode, OptionMap, OptionValue, Registry,
    Rejected, Result, RunContext, RunId, ScanRequest, Uri, failpoint, next_batch,
};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::max_errors::MaxErrors;
use crate::pipeline::{PipelineBuilder, Replayed, forget_once, off_the_runtime, projected};
use crate::quarantine::of_quarantine;
use crate::read_as::{ReadAs, SourceFormat};
use crate::report::RunReport;
use crate::resume::{Left, Resume, refused};
use files::Files;
use found::Found;
use rest::Rest;
use rows::{Chosen, Group, Rows};
use source::{Folder, Records, Source};

/// Loads the records of a quarantine once more, and keeps those that fail again.
pub struct Replay {
    builder: PipelineBuilder,
    quarantine: Arc<dyn Extractor>,
    registry: Registry,
    options: OptionMap,
    run: Option<RunId>,
    is_target: Arc<dyn Fn(&str) -> bool + Send + Sync>,
    /// The run of an earlier replay with which this one goes on, and does nothing else.
    goes_on: Option<RunId>,
    /// It was looked for.
    was_found: bool,
    /// Groups of which no record can be replayed.
    empty: HashSet<Group>,
    /// Runs that were done: what they have set aside failed again.
    done: HashSet<String>,
    /// Records that failed again, of a run that was found to be published.
    failed: u64,
    notes: Vec<String>,
}

/// A part of a [`Replay`]: a load of its own.
pub struct ReplayStep {
    /// The pipeline that loads the records. It [acknowledges later](PipelineBuilder::acknowledge_later).
    pub builder: PipelineBuilder,
    chosen: Chosen,
}

/// What the fingerprint of the source says, by which a replay that was stopped is known.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Mark {
    /// Digest of the group.
    replay: String,
    /// Of the records.
    checksum: String,
    runs: BTreeSet<String>,
    /// Names of the targets that they were to go to.
    targets: BTreeSet<String>,
}

impl Mark {
    fn to_text(&self) -> String {
        // Text in sets can always be written.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// What tells the replay apart in the rows that it sets aside.
    fn id(&self) -> Arc<str> {
        digest(&self.to_text())[..16].into()
    }
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
            goes_on: None,
            was_found: false,
            empty: HashSet::new(),
            done: HashSet::new(),
            failed: 0,
            notes: Vec::new(),
        }
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

    /// Only goes on with this run of an earlier replay. If that cannot be, [`next`](Self::next) fails with `SourceChanged`.
    #[must_use]
    pub fn resume(mut self, run: RunId) -> Self {
        self.goes_on = Some(run);
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
            self.complete(step, &report).await?;
            if report.has_mark {
                pipeline.acknowledge(report.run).await?;
            }
            reports.push(report);
        }
        Ok(reports)
    }

    /// What there is to know so far: records that cannot be replayed, or were already.
    pub fn take_notes(&mut self) -> Vec<String> {
        std::mem::take(&mut self.notes)
    }

    /// Records that failed again, of replays that had loaded theirs and were stopped before they could say so.
    pub fn take_failed(&mut self) -> u64 {
        std::mem::take(&mut self.failed)
    }

    /// What is loaded next. `None`: all that can be replayed was.
    ///
    /// # Errors
    /// For what is no quarantine; those of reading it, and of looking at the target.
    pub async fn next(&mut self) -> Result<Option<ReplayStep>> {
        if let Some(run) = self.goes_on {
            return match std::mem::replace(&mut self.was_found, true) {
                true => Ok(None),
                false => self.go_on(run).await,
            };
        }
        loop {
            let folder = Arc::new(Folder(new_folder()?));
            let snapshot = self.snapshot(&folder.0).await.map_err(of_quarantine)?;
            let found = self.look(snapshot.clone()).await.map_err(of_quarantine)?;
            let left = self.left().await?;
            let mut chosen = None;
            if let Some(left) = &left {
                let run = left.found.run;
                match left.record.mark::<Mark>() {
                    Some(mark) if left.found.published => {
                        // Whatever is wanted now, what was loaded has to be taken out.
                        if let Some(chosen) = found.marked(&mark) {
                            self.take_out(run, &chosen).await?;
                            continue;
                        }
                    }
                    Some(mark) => {
                        let is_next = |chosen: &Chosen| found.is_wanted(chosen) && !self.empty.contains(&chosen.group);
                        chosen = found.marked(&mark).filter(is_next);
                    }
                    None if !left.found.published && found.runs.contains(&run.to_string()) => {
                        let message = format!("the run {run}, which has set records aside, is not completed");
                        return Err(Error::new(ErrorKind::Locked, message)
                            .hint("go on with it, or forget it, so that its records are not loaded twice"));
                    }
                    None => {}
                }
            }
            let chosen = chosen.or_else(|| found.first(&self.empty));
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

    /// The step that `run` had begun, or `None` if only its records were left to be taken out.
    async fn go_on(&mut self, run: RunId) -> Result<Option<ReplayStep>> {
        let folder = Arc::new(Folder(new_folder()?));
        let snapshot = self.snapshot(&folder.0).await.map_err(of_quarantine)?;
        let found = self.look(snapshot.clone()).await.map_err(of_quarantine)?;
        let left = self.left().await?.filter(|left| left.found.run == run);
        let left = left.ok_or_else(|| refused(run, "nothing is left of it: it was completed or removed"))?;
        let marked = left.record.mark::<Mark>().and_then(|mark| found.marked(&mark));
        if left.found.published {
            match marked {
                Some(chosen) => self.take_out(run, &chosen).await?,
                // That was done.
                None => _ = self.forget_mark(run).await?,
            }
            return Ok(None);
        }
        let step = match marked.filter(|chosen| found.is_wanted(chosen)) {
            Some(chosen) => self.step(snapshot, folder, chosen).await?,
            None => None,
        };
        let mut step = step.ok_or_else(|| refused(run, "its records are not in the quarantine as they were"))?;
        step.builder = step.builder.resume(Resume::Run(run));
        Ok(Some(step))
    }

    /// Takes the records out that `run` had loaded before it was stopped.
    async fn take_out(&mut self, run: RunId, chosen: &Chosen) -> Result<()> {
        let failed = self.end(chosen, run, true).await?;
        self.forget_mark(run).await?;
        self.done.insert(run.to_string());
        self.failed += failed;
        self.notes.push(format!("the run {run} had loaded its records before it was stopped"));
        Ok(())
    }

    /// Takes the records of `step`, which were loaded as `report` tells, out of the quarantine, but for those that failed again. The run is
    /// [acknowledged](crate::Pipeline::acknowledge) after that.
    ///
    /// # Errors
    /// Those of reading and writing the quarantine. The records are loaded all the same; the next replay does what is left, if the
    /// target has a [mark](RunReport::has_mark).
    pub async fn complete(&mut self, step: ReplayStep, report: &RunReport) -> Result<()> {
        failpoint("replay-loaded");
        self.end(&step.chosen, report.run, report.has_mark).await?;
        self.done.insert(report.run.to_string());
        failpoint("replay-completed");
        Ok(())
    }

    /// Gives the number of records that stay because they failed again.
    async fn end(&self, chosen: &Chosen, run: RunId, has_mark: bool) -> Result<u64> {
        let told = |error: Error| {
            let hint = match has_mark {
                true => {
                    "the records are loaded, and still in the quarantine; the same command takes them out, and loads none twice"
                }
                false => {
                    "the records are loaded, and still in the quarantine: take them out, for this target keeps no mark of that and the \
                     next replay would load them again"
                }
            };
            let hint = error.hint_text().map_or(hint.to_owned(), |before| format!("{before}; {hint}"));
            of_quarantine(error.hint(hint))
        };
        // Somebody who adds to the quarantine at the same time is seen, and then it is read again.
        const ATTEMPTS: usize = 5;
        let mut attempt = 1;
        loop {
            match self.end_once(chosen, run).await {
                Err(error) if error.kind() == ErrorKind::SourceChanged && attempt < ATTEMPTS => attempt += 1,
                done => return done.map_err(told),
            }
        }
    }

    async fn end_once(&self, chosen: &Chosen, run: RunId) -> Result<u64> {
        let folder = Folder(new_folder()?);
        let snapshot = self.snapshot(&folder.0).await?;
        let kept = Arc::default();
        let rest = Rest::new(snapshot, self.quarantine.clone(), chosen.clone(), run, Arc::clone(&kept));
        let loader = self.quarantine_loader()?;
        let settings = &self.builder.settings;
        let builder = PipelineBuilder::new().extract(rest).load_into(loader).mode(LoadMode::Replace);
        let builder = builder.config(settings.config.clone()).cancel(settings.cancel.clone()).resume(Resume::Never);
        builder.build()?.execute().await?;
        Ok(kept.load(Ordering::Relaxed))
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
            let is_run = |of: &str| !done.contains(of) && run.as_ref().is_none_or(|run| run == of);
            found.add(&rows, &is_run, &*is_target, transforms);
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
        let (records, written) = match format {
            ReadAs::Rows { rows } => {
                let among = chosen.clone();
                let count = move |texts: &mut Files, rows: Rows| texts.count(&rows, &among).map(|_| ());
                let counted =
                    self.each(snapshot.clone(), Files::new(&files, "", &SourceFormat::default()), count).await?;
                (Records::Rows(Arc::new(Schema::new(rows))), counted)
            }
            ReadAs::Source(mut format) => {
                let connector = self.connector(&format.connector)?.clone();
                format.options = self.options_of(&chosen.group, &format)?;
                let extension = connector.extensions().first().copied().unwrap_or("txt");
                let (of, among) = (format.clone(), chosen.clone());
                let write = move |texts: &mut Files, rows: Rows| texts.add(&rows, &among, &of);
                let written = self.each(snapshot.clone(), Files::new(&files, extension, &format), write).await?;
                let written = written.finish()?;
                // A column that is named now is wanted.
                for (name, _) in given_types(&format.options)?.0 {
                    if !format.columns.contains(&name) {
                        format.columns.push(name);
                    }
                }
                let uri = Uri::new(format!("{}:{}/", format.connector, files.display()));
                let files = connector.extractor(&uri, &format.options)?;
                let texts = written.texts.as_slice().into();
                (Records::Files { files, format, texts }, written)
            }
        };
        if written.count == 0 {
            return Ok(None);
        }
        let is_source = chosen.group.stage == Rejected::SOURCE && chosen.group.transforms == 0;
        let mark = Mark {
            replay: chosen.group.digest(),
            checksum: written.checksum.to_string(),
            runs: chosen.runs.iter().cloned().collect(),
            targets: chosen.targets.iter().cloned().collect(),
        };
        let id = mark.id();
        let (live, from) = (self.quarantine.clone(), written.from.flatten());
        let source = Source { records, snapshot, live, chosen: chosen.clone(), from, mark, _folder: folder };
        let mut builder = self.builder.clone().extract(source).mode(self.mode()).acknowledge_later();
        let transforms = usize::try_from(chosen.group.transforms).unwrap_or(usize::MAX);
        builder.transformers = builder.transformers.split_off(transforms.min(builder.transformers.len()));
        let columns = builder.settings.request.columns.take().filter(|_| is_source);
        builder.settings.request = ScanRequest::all();
        builder.settings.request.columns = columns;
        builder.settings.replay = Some(Replayed { id, transforms: chosen.group.transforms });
        Ok(Some(ReplayStep { builder, chosen }))
    }

    fn connector(&self, name: &str) -> Result<&Arc<dyn Connector>> {
        let found = self.registry.connectors().iter().find(|connector| connector.name() == name);
        found.ok_or_else(|| {
            let message = format!("records are read by the connector {name}, which is not there");
            Error::new(ErrorKind::Unsupported, message).hint(format!("build with the feature {name}"))
        })
    }

    /// The options with which the records of a group are read, those of the user among them.
    fn options_of(&self, group: &Group, format: &SourceFormat) -> Result<OptionMap> {
        let knows = |connector: &Arc<dyn Connector>, key: &str| {
            connector.source_options().is_some_and(|specs| specs.iter().any(|spec| spec.key == key))
        };
        let mut given = self.options.clone();
        let own = self.connector(&format.connector)?;
        // One that is known to another format only is for records of that.
        let others = self.registry.connectors();
        given.retain(|key, _| knows(own, key) || !others.iter().any(|other| knows(other, key)));
        // Text that is UTF-8 was so in the source, or was made so.
        if group.is_utf8 {
            given.remove("encoding");
        }
        const OF_FILES: [&str; 6] = ["header", "skip_lines", "layout", "sample", "infer", "planned"];
        if let Some(key) = OF_FILES.iter().find(|key| given.contains_key(**key)) {
            let message = format!("the option {key} is for files, and says nothing of single records");
            return Err(Error::new(ErrorKind::InvalidConfig, message));
        }
        over(&given, &format.options)
    }

    /// What is left of a run at the target.
    async fn left(&self) -> Result<Option<Left>> {
        let cancel = self.builder.settings.cancel.clone();
        let mut pipeline = self.builder.clone().extract_from(self.quarantine.clone());
        // A step has not all of them, and perhaps none.
        pipeline.transformers.clear();
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
                self.end(&chosen, run, true).await?;
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

impl Group {
    fn digest(&self) -> String {
        digest(&format!("{:?}", (&self.stage, self.transforms, &self.read_as, self.is_utf8)))
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
