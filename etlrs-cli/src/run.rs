//! `copy`, `run`, `replay` and `plan`.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use etlrs::{
    AlertActions, CancelToken, Discard, Error, ErrorKind, ErrorPolicy, Expr, Extractor, Filter, Interrupted, LoadMode,
    OnError, OptionMap, PerformanceConfig, Pipeline, PipelineBuilder, PipelineFile, Registry, Replay, Result, Resume,
    RunId, ScanRequest, Select, Started, Uri, is_same_place, named, registry,
};

use etlrs_metrics::{MetricsServer, PerformanceMetrics};
use serde_json::Value;

use crate::Done;
use crate::alert::Actions;
use crate::args::{Copy, CopyOptions, Means, PlanArgs, ReplayArgs, RunFile, RunOptions, VerifyArgs};
use crate::jobs::{self, Job, Jobs};
use crate::journal::{Begun, Entry, Journal, millis};
use crate::kept_command::KeptCommand;
use crate::page::Page;
use crate::progress::Progress;
use crate::recorder::Recorder;
use crate::report;

/// The run that is to be gone on with, and its ends.
pub(crate) struct GoesOn {
    pub(crate) run: RunId,
    /// By which it was begun.
    pub(crate) command: KeptCommand,
    pub(crate) source: String,
    pub(crate) target: String,
}

impl GoesOn {
    fn is_of(&self, job: &Job) -> bool {
        // A password is not written down, and need not be in the URL again.
        let bare = |uri: &str| uri.replace(":***@", "@");
        let is_same = |uri: &Uri, known: &str| bare(&uri.to_string()) == bare(known);
        is_same(&job.source, &self.source) && is_same(&job.target, &self.target)
    }

    /// # Errors
    /// `InvalidConfig` if none of the jobs is that of the run.
    fn require<'a>(&self, mut jobs: impl Iterator<Item = &'a Job>) -> Result<()> {
        if jobs.any(|job| self.is_of(job)) {
            return Ok(());
        }
        let message = format!("the command no longer loads {} into {}", self.source, self.target);
        Err(Error::new(ErrorKind::InvalidConfig, message).hint("run it again to do what it does now"))
    }
}

pub(crate) async fn copy(args: Copy, cancel: CancelToken, goes_on: Option<GoesOn>) -> Result<Done> {
    let jobs = copy_jobs(&args.source, &args.target, &args.copy, &args.run).await;
    execute_all(jobs.map(Jobs::of), &args.run, cancel, goes_on).await
}

pub(crate) async fn run(args: RunFile, cancel: CancelToken, goes_on: Option<GoesOn>) -> Result<Done> {
    let jobs = file_jobs(&args.pipeline, &args.set, &args.run, &cancel).await;
    execute_all(jobs.map(Jobs::of), &args.run, cancel, goes_on).await
}

/// Loads what a quarantine holds.
pub(crate) async fn replay(args: ReplayArgs, cancel: CancelToken, goes_on: Option<GoesOn>) -> Result<Done> {
    let run = RunOptions { verify: args.verify, ..RunOptions::default() };
    let jobs = async {
        let lock = jobs::lock(&Uri::from(args.quarantine.as_str()))?;
        let mut replays = replays(&args, &run, &cancel).await?;
        if let Some(goes_on) = &goes_on {
            goes_on.require(replays.iter().map(|(job, _)| job))?;
            replays.retain(|(job, _)| goes_on.is_of(job));
            replays = replays.into_iter().map(|(job, replay)| (job, replay.resume(goes_on.run))).collect();
        }
        let mut jobs = Jobs::replays(replays, lock);
        jobs.command = goes_on.map(|goes_on| goes_on.command);
        Ok(jobs)
    };
    let jobs = jobs.await;
    let run = RunOptions { means: args.means, ..run };
    execute_all(jobs, &run, cancel, None).await
}

/// One for each target.
async fn replays(args: &ReplayArgs, run: &RunOptions, cancel: &CancelToken) -> Result<Vec<(Job, Replay)>> {
    let registry = registry();
    let place = Uri::from(args.quarantine.as_str());
    let run = RunOptions {
        means: Means { machine: args.means.machine.clone(), auto_tune: args.means.auto_tune, ..Means::default() },
        verify: run.verify,
        ..RunOptions::default()
    };
    let refused = |message: &str| Error::new(ErrorKind::InvalidConfig, message.to_owned());
    if let Some(mode @ (LoadMode::Create | LoadMode::Replace)) = args.mode {
        return Err(refused(&format!("a replay adds to what is there, so its mode cannot be {mode}"))
            .hint("leave it out, or say --mode append or --mode merge"));
    }
    let copy = args.copy();
    let jobs = match is_pipeline(&args.target) {
        true if copy.given().next().is_some() => {
            let flags = copy.given().collect::<Vec<_>>().join(", ");
            return Err(refused(&format!("{flags}: only for a target, not for a pipeline file")));
        }
        true => file_jobs(&args.target, &args.set, &run, cancel).await?,
        false if !args.set.is_empty() => return Err(refused("--set is for a pipeline file, not for a target")),
        false => vec![copy_job(&registry, place.clone(), Uri::from(args.target.as_str()), &copy, &run)?],
    };
    let options = option_map(&args.source_option)?;
    let replays = jobs.into_iter().map(|job| {
        if is_same_place(&place, &job.target) {
            return Err(refused("the quarantine is in the same place as the target").in_source(&job.target));
        }
        let meant = args.of_target.as_deref().map_or_else(|| job.target.clone(), Uri::from);
        let builder = job.builder.clone().cancel(cancel.clone());
        let mut replay = etlrs::replay(&registry, &place, builder, &meant)?.options(options.clone());
        if let Some(run) = args.only_run {
            replay = replay.run(run);
        }
        if let Some(most) = args.max_errors {
            replay = replay.max_errors(most);
        }
        Ok((Job { source: place.clone(), quarantine: Some(place.clone()), ..job }, replay))
    });
    replays.collect()
}

/// Removes what is left of a run of `replay`.
pub(crate) async fn forget_replay(
    args: &ReplayArgs,
    cancel: &CancelToken,
    run: &GoesOn,
) -> Result<Option<Interrupted>> {
    let _lock = jobs::lock(&Uri::from(args.quarantine.as_str()))?;
    let replays = replays(args, &RunOptions::default(), cancel).await?;
    match replays.into_iter().find(|(job, _)| run.is_of(job)) {
        Some((_, replay)) => replay.forget(run.run).await,
        None => Ok(None),
    }
}

/// Removes what is left of a run of `copy`.
pub(crate) async fn forget_copy(copy: &Copy, run: &GoesOn) -> Result<Option<Interrupted>> {
    forget(copy_jobs(&copy.source, &copy.target, &copy.copy, &copy.run).await?, run).await
}

/// Removes what is left of a run of a pipeline file.
pub(crate) async fn forget_file(file: &RunFile, cancel: &CancelToken, run: &GoesOn) -> Result<Option<Interrupted>> {
    forget(file_jobs(&file.pipeline, &file.set, &file.run, cancel).await?, run).await
}

async fn forget(jobs: Vec<Job>, run: &GoesOn) -> Result<Option<Interrupted>> {
    run.require(jobs.iter())?;
    match jobs.into_iter().find(|job| run.is_of(job)) {
        Some(job) => job.builder.build()?.forget(run.run).await,
        None => Ok(None),
    }
}

pub(crate) async fn plan(args: PlanArgs) -> Result<()> {
    let PlanArgs { first, target, set, copy, run } = &args;
    let jobs = jobs_of(first, target.as_deref(), set, copy, run, &CancelToken::new()).await?;
    let (mut plans, count) = (Vec::new(), jobs.len());
    for job in jobs {
        let plan = job.builder.build()?.plan().await?;
        if args.run.means.output.is_json() {
            plans.push(report::plan_json(&job.source, &job.target, job.quarantine.as_ref(), &plan));
        } else {
            crate::print(&report::plan_text(&job.source, &job.target, job.quarantine.as_ref(), &plan));
        }
    }
    report::print_all(plans, count);
    Ok(())
}

/// Those of a pipeline file, or of a source and a target.
async fn jobs_of(
    first: &str,
    target: Option<&str>,
    set: &[(String, String)],
    copy: &CopyOptions,
    run: &RunOptions,
    cancel: &CancelToken,
) -> Result<Vec<Job>> {
    match target {
        Some(_) if !set.is_empty() => {
            Err(Error::new(ErrorKind::InvalidConfig, "--set is for a pipeline file, not for a source and a target"))
        }
        Some(target) => copy_jobs(first, target, copy, run).await,
        None if is_pipeline(first) && copy.given().next().is_some() => {
            let flags = copy.given().collect::<Vec<_>>().join(", ");
            let message = format!("{flags}: only for a source and a target, not for a pipeline file");
            Err(Error::new(ErrorKind::InvalidConfig, message).hint("change the file, or a value in it with --set"))
        }
        None => file_jobs(first, set, run, cancel).await,
    }
}

/// A pipeline, and how its target is read.
pub(crate) struct Verified {
    pub(crate) source: Uri,
    pub(crate) target: Uri,
    pub(crate) pipeline: Pipeline,
    pub(crate) extractor: Arc<dyn Extractor>,
}

pub(crate) async fn verified_jobs(args: &VerifyArgs, cancel: &CancelToken) -> Result<Vec<Verified>> {
    let means = Means { machine: args.machine.clone(), ..Means::default() };
    let run = RunOptions { means, ..RunOptions::default() };
    let registry = registry();
    let mut copy = args.copy();
    // Options to write it, of which there may be some, and options to read it.
    let given = std::mem::take(&mut copy.target_option);
    if let Some(target) = &args.target {
        let writes = registry.find(&Uri::from(target.as_str()))?.target_options().unwrap_or_default();
        let is_known = |(key, _): &&(String, String)| writes.iter().any(|spec| spec.key == key);
        copy.target_option = given.iter().filter(is_known).cloned().collect();
    }
    let jobs = jobs_of(&args.first, args.target.as_deref(), &args.set, &copy, &run, cancel).await?;
    let verified = jobs.into_iter().map(|job| {
        let connector = registry.find(&job.target)?;
        let writes = connector.target_options().unwrap_or_default();
        let reads = connector.source_options().unwrap_or_default();
        let reads_too = |key: &str| reads.iter().any(|spec| spec.key == key);
        // Those of a pipeline file are for writing; what reading knows too is the same for it.
        let mut options: OptionMap =
            job.target_options.iter().filter(|(key, _)| reads_too(key)).map(|(k, v)| (k.clone(), v.clone())).collect();
        let only_writes = |key: &str| writes.iter().any(|spec| spec.key == key) && !reads_too(key);
        options.extend(option_map(&given)?.into_iter().filter(|(key, _)| !only_writes(key)));
        let of_target = |error: Error| error.in_source(format!("target {}", job.target));
        let extractor = connector.extractor(&job.target, &options).map_err(of_target)?;
        let mut builder = job.builder.cancel(cancel.clone());
        if args.on_error == Some(OnError::Quarantine) {
            // Records that the source rejects are not loaded, so they are not compared.
            builder = builder.quarantine(Discard);
        }
        let pipeline = builder.build()?;
        Ok(Verified { source: job.source, target: job.target, pipeline, extractor })
    });
    verified.collect()
}

/// One job, or one for each table that the source stands for.
async fn copy_jobs(source: &str, target: &str, copy: &CopyOptions, run: &RunOptions) -> Result<Vec<Job>> {
    let registry = registry();
    let (source, target) = (Uri::from(source), Uri::from(target));
    let options = option_map(&copy.source_option)?;
    let pairs = etlrs::tables(&registry, &source, &options, &target).await?;
    pairs.into_iter().map(|(source, target)| copy_job(&registry, source, target, copy, run)).collect()
}

fn copy_job(registry: &Registry, source: Uri, target: Uri, copy: &CopyOptions, run: &RunOptions) -> Result<Job> {
    let mut source_options = option_map(&copy.source_option)?;
    if let Some(query) = &copy.query {
        source_options.insert("query".into(), query.clone());
    }
    let mut target_options = option_map(&copy.target_option)?;
    if let Some(compression) = &copy.compression {
        target_options.insert("compression".into(), compression.clone());
    }
    let mut request = ScanRequest::all();
    request.columns = copy.columns.clone();
    request.partitions = copy.partitions.map(|n| n as usize);
    let is_itself = is_same_place(&source, &target) && source.fragment() == target.fragment();
    if copy.mode == Some(LoadMode::Append) && is_itself && copy.query.is_none() && !copy.is_compared {
        let message = "the source is the target, so its rows would be there twice";
        return Err(Error::new(ErrorKind::InvalidConfig, message).hint("use another target").in_source(&target));
    }
    let pipeline = if copy.is_compared { etlrs::compared } else { etlrs::pipeline };
    let mut builder = pipeline(registry, (&source, &source_options), (&target, &target_options))?
        .mode(copy.mode.unwrap_or_default())
        .keys(copy.key.clone())
        .config(run.apply(PerformanceConfig::from_env()?)?);
    if let Some(filter) = &copy.filter {
        let expr = Expr::parse(filter).map_err(|error| error.in_source("--where"))?;
        // A filter may use columns that are not asked for, so the projection comes after it.
        let select = request.columns.as_mut().map(|columns| {
            let select = Select::new(columns.clone());
            for column in expr.columns() {
                if !columns.iter().any(|other| other == column) {
                    columns.push(column.to_owned());
                }
            }
            select
        });
        builder = builder.identity(format!("{filter} {:?}", copy.columns)).cursor_identity(filter);
        builder = builder.transform(named("--where", Arc::new(Filter::new(expr))));
        if let Some(select) = select {
            builder = builder.transform(named("--columns", Arc::new(select)));
        }
    }
    if let Some(verify) = run.verify {
        builder = builder.verify(verify);
    }
    let policy = run.policy(ErrorPolicy::default())?;
    let quarantine = policy.place(registry, &target)?;
    let builder = policy.apply(registry, &source, &target, builder.request(request))?;
    Ok(Job { source, target, target_options, quarantine, builder, alert_actions: AlertActions::default() })
}

/// # Errors
/// `InvalidConfig` for a key that comes twice: the one value would silently win over the other.
pub(crate) fn option_map(pairs: &[(String, String)]) -> Result<OptionMap> {
    let mut options = OptionMap::new();
    for (key, value) in pairs {
        if options.insert(key.clone(), value.clone()).is_some() {
            return Err(Error::new(ErrorKind::InvalidConfig, format!("the option {key} is given twice"))
                .hint("write several values in one list, separated by commas, if it takes a list"));
        }
    }
    Ok(options)
}

fn is_pipeline(path: &str) -> bool {
    [".toml", ".yaml", ".yml"].iter().any(|ending| path.ends_with(ending))
}

async fn file_jobs(path: &str, set: &[(String, String)], run: &RunOptions, cancel: &CancelToken) -> Result<Vec<Job>> {
    if !is_pipeline(path) {
        let path = Uri::from(path);
        return Err(Error::new(ErrorKind::InvalidConfig, format!("{path} is no pipeline file"))
            .hint("its name must end in .toml, .yaml or .yml; to copy a file, name a target too"));
    }
    if path.contains("://") {
        return Err(Error::new(ErrorKind::InvalidConfig, format!("{} is no file", Uri::from(path)))
            .hint("a pipeline is a local file; to copy, name a source and a target"));
    }
    let mut file = PipelineFile::read(path, set)?;
    file.config = run.apply(file.config)?;
    file.errors = run.policy(file.errors)?;
    let registry = registry();
    let pipelines = file.pipelines(&registry, cancel).await?;
    let jobs = pipelines.into_iter().map(|(target, builder)| {
        let builder = builder.verify(run.verify.unwrap_or(target.verify));
        let quarantine = file.errors.place(&registry, &target.uri)?;
        let (source, alert_actions) = (file.source.clone(), file.alert_actions.clone());
        Ok(Job { source, target: target.uri, target_options: target.options, quarantine, builder, alert_actions })
    });
    jobs.collect()
}

/// Executes all jobs, and tells as JSON what came of them if that is wanted: what was loaded before one failed is there.
async fn execute_all(
    jobs: Result<Jobs>,
    options: &RunOptions,
    cancel: CancelToken,
    goes_on: Option<GoesOn>,
) -> Result<Done> {
    let mut others = 0;
    let jobs = jobs.and_then(|mut jobs| {
        if let Some(run) = &goes_on {
            run.require(jobs.known())?;
            // What others of the command have done, or have still to do, is nothing that this run tells.
            others = jobs.retain(|job| run.is_of(job));
        }
        Ok(jobs)
    });
    let count = jobs.as_ref().map_or(1, Jobs::most);
    let (mut results, mut current) = (Vec::new(), None);
    let done = match jobs {
        Ok(jobs) => execute(jobs, options, cancel, goes_on, &mut results, &mut current).await,
        Err(error) => Err(error),
    };
    if options.means.output.is_json() {
        if let Err(error) = &done {
            results.push(report::failed_json(current.as_ref(), error));
        }
        report::print_all(results, count);
    }
    if others > 0 && done.is_ok() {
        let loads = others + 1;
        crate::tell(&format!(
            "this was one of {loads} loads of its command; given once more, that does what is left of the others"
        ));
    }
    // Now that all is done and told, for what is not is not to be done once more when the rest is.
    if let (Ok(done), 0) = (&done, others) {
        for (pipeline, run) in &done.published {
            if let Err(error) = pipeline.acknowledge(*run).await {
                crate::tell(&format!("warning: the next run will find this one as just published: {error}"));
            }
        }
    }
    done
}

/// Adds to `results`; `current` is the source and the target of the job at work.
async fn execute(
    mut jobs: Jobs,
    options: &RunOptions,
    cancel: CancelToken,
    goes_on: Option<GoesOn>,
    results: &mut Vec<Value>,
    current: &mut Option<(Uri, Uri)>,
) -> Result<Done> {
    // What can be known to be wrong with a later target is found before the first one is loaded.
    if jobs.planned().len() > 1 {
        for job in jobs.planned() {
            *current = Some((job.source.clone(), job.target.clone()));
            job.builder.clone().cancel(cancel.clone()).build()?.plan().await?;
        }
        *current = None;
    }
    let metrics = match &options.means.metrics {
        Some(address) => Some(serve(address).await?),
        None => None,
    };
    let metrics = metrics.as_ref().map(|(metrics, _)| metrics);
    let mut page = Page::default();
    if let Some(path) = &options.means.report {
        require_page_apart(path, jobs.known())?;
        // A run is not to be in vain for a page that cannot be written.
        page.write(path).map_err(|error| error.within("--report"))?;
    }
    let mut done = Done::default();
    let journal = Journal::find();
    let command = goes_on.as_ref().map(|goes_on| goes_on.command.clone()).or(jobs.command.take());
    let command = command.unwrap_or_else(KeptCommand::of_process);
    while let Some(job) = jobs.next().await? {
        let resume = match &goes_on {
            Some(goes_on) => Some(Resume::Run(goes_on.run)),
            None => options.restart.then_some(Resume::Never),
        };
        *current = Some((job.source.clone(), job.target.clone()));
        let progress: Arc<Mutex<Option<Progress>>> = Arc::default();
        let (slot, shown) = (progress.clone(), !options.means.no_progress);
        let (beside_alerts, beside_tuning) = (progress.clone(), progress.clone());
        let tuned = label_of(&job.source, &job.target);
        let label = label_of(&job.source, &job.target);
        let (watched, name) = (metrics.cloned(), label.clone());
        let run: Arc<Mutex<Option<RunId>>> = Arc::default();
        let begun = run.clone();
        let (counting, alerted) = (metrics.cloned(), label.clone());
        let beside_actions = progress.clone();
        let actions = Arc::new(Actions::new(job.alert_actions, Arc::new(move |line| say(&beside_actions, line))));
        let (acting, runtime) = (actions.clone(), tokio::runtime::Handle::current());
        let recorder: Arc<Mutex<Option<Recorder>>> = Arc::default();
        let entry: Arc<Mutex<Option<Entry>>> = Arc::default();
        let (listed, listing, ends) =
            (entry.clone(), journal.clone(), (job.source.to_string(), job.target.to_string()));
        let command = command.clone();
        let beside_journal = progress.clone();
        let (recording, is_recorded) = (recorder.clone(), options.means.report.is_some());
        let pipeline = job
            .builder
            .cancel(cancel.clone())
            .on_alert(move |alert| {
                say(&beside_alerts, format!("alert: {alerted}: {alert}"));
                if let Some(metrics) = &counting {
                    metrics.record_alert(&alerted, alert);
                }
                acting.run(&runtime, &alerted, alert);
            })
            .on_adjustment(move |adjustment| {
                // What it was for is told before, and what came of it after.
                if shown && adjustment.after.is_none() {
                    let (what, reason) = (adjustment.what(), &adjustment.reason);
                    say(&beside_tuning, format!("tuning: {tuned}: {what} (limited by {reason})"));
                } else if shown {
                    say(&beside_tuning, format!("tuning: {tuned}: {adjustment}"));
                }
            })
            .on_start(move |started| {
                *begun.lock().unwrap_or_else(PoisonError::into_inner) = Some(started.cx.run_id());
                if let Some(journal) = &listing {
                    match journal.begin(started, begun_of(started, &command, &ends)) {
                        Ok(entry) => *listed.lock().unwrap_or_else(PoisonError::into_inner) = Some(entry),
                        Err(error) => {
                            let line = format!("warning: `etlrs runs` will not list this run: {error}");
                            say(&beside_journal, line);
                        }
                    }
                }
                if let Some(metrics) = &watched {
                    metrics.watch(&label, started);
                }
                if is_recorded {
                    *recording.lock().unwrap_or_else(PoisonError::into_inner) = Some(Recorder::start(started));
                }
                if shown {
                    let progress = Progress::start(&label, started);
                    *slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(progress);
                }
            })
            .acknowledge_later();
        let pipeline = resume.into_iter().fold(pipeline, PipelineBuilder::resume).build()?;
        let result = pipeline.execute().await;
        actions.finish().await;
        if let Some(progress) = progress.lock().unwrap_or_else(PoisonError::into_inner).take() {
            progress.stop();
        }
        let entry = entry.lock().unwrap_or_else(PoisonError::into_inner).take();
        let recorder = recorder.lock().unwrap_or_else(PoisonError::into_inner).take();
        let moments = recorder.map(Recorder::stop).unwrap_or_default();
        let report = match result {
            Ok(report) => report,
            Err(error) => {
                if let Some(entry) = entry {
                    entry.failed(&error);
                }
                if let Some(metrics) = metrics {
                    let run = *run.lock().unwrap_or_else(PoisonError::into_inner);
                    metrics.record_pipeline_failure(&name, run);
                }
                if let Some(path) = &options.means.report {
                    page.add_failed(&job.source, &job.target, &error);
                    // The error of the run is the one to tell.
                    let _ = page.write(path);
                }
                return Err(error);
            }
        };
        if let Some(metrics) = metrics {
            metrics.record_pipeline_execution(&name, &report);
        }
        if let Some(path) = &options.means.report {
            page.add(&job.source, &job.target, job.quarantine.as_ref(), &report, &moments);
            // What was loaded is there, and is told.
            if let Err(error) = page.write(path) {
                crate::tell(&format!("warning: {}", error.within("--report")));
            }
        }
        done.rejected |= report.rows_rejected > 0;
        if options.means.output.is_json() {
            results.push(report::run_json(&job.source, &job.target, job.quarantine.as_ref(), &report));
        } else {
            crate::print(&report::run_text(&job.source, &job.target, job.quarantine.as_ref(), &report));
        }
        // A replay is done when its records are no longer in the quarantine.
        let finished = jobs.finished(pipeline, &report).await;
        match (entry, &finished, &journal) {
            (Some(entry), Ok(_), _) => entry.done(report.load.records_loaded),
            (Some(entry), Err(error), _) => entry.failed(error),
            // It had been published, so that it did not begin.
            (None, Ok(_), Some(journal)) => journal.found_done(report.run, report.load.records_loaded),
            _ => {}
        }
        if let Some(pipeline) = finished? {
            done.published.push((pipeline, report.run));
        }
    }
    done.rejected |= jobs.has_failed();
    if !options.means.output.is_json() {
        crate::print(&jobs.told());
    }
    for note in jobs.notes() {
        crate::tell(note);
    }
    Ok(done)
}

/// Refuses a page in the place of what is read or written.
fn require_page_apart<'a>(path: &Path, jobs: impl Iterator<Item = &'a Job>) -> Result<()> {
    let page = Uri::new(path.to_string_lossy());
    let refused = |message: String| Err(Error::new(ErrorKind::InvalidConfig, message).in_source("--report"));
    if page.to_string() == "-" {
        return refused("the page is a file, such as run.html; it is not written to standard output".to_owned());
    }
    let ends = jobs.flat_map(|job| [Some(&job.source), Some(&job.target), job.quarantine.as_ref()]);
    match ends.flatten().find(|end| is_same_place(end, &page)) {
        Some(end) => refused(format!("the page cannot be {end}, which is read or written by the run")),
        None => Ok(()),
    }
}

/// What is written down of a run when it has begun.
fn begun_of(started: &Started, command: &KeptCommand, (source, target): &(String, String)) -> Begun {
    Begun {
        at: millis(),
        process: std::process::id(),
        command: command.clone(),
        source: source.clone(),
        target: target.clone(),
        pieces: started.partitions.len() as u64,
        staged_before: started.completed.len() as u64,
        is_kept: started.is_kept,
    }
}

fn label_of(source: &Uri, target: &Uri) -> String {
    format!("{source} → {target}")
}

/// Writes a line beside the progress, if that is shown.
fn say(progress: &Mutex<Option<Progress>>, line: String) {
    match progress.lock().unwrap_or_else(PoisonError::into_inner).as_ref() {
        Some(progress) => progress.say(line),
        None => crate::tell(&line),
    }
}

/// Metrics of all runs, served until the server is dropped.
async fn serve(address: &str) -> Result<(PerformanceMetrics, MetricsServer)> {
    let metrics = PerformanceMetrics::new()?;
    let server = MetricsServer::start(address, metrics.clone()).await.map_err(|error| error.within("--metrics"))?;
    // Whoever asks for any free port wants to know which one it is.
    crate::tell(&format!("metrics at http://{}/metrics", server.address()));
    Ok((metrics, server))
}
