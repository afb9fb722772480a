//! A run from the look at what is left of it to its end, and its hold on the target and the quarantine.

use etlrs_core::{
    CancelToken, Error, ErrorKind, Interrupted, LoadMode, LoadPlan, LoadSession, Receipt, Rejected, Result, RunContext,
    RunId, failpoint,
};
use tracing::field::Empty;
use tracing::{Instrument, info_span};

use super::{Run, record_error, unless_cancelled};
use crate::pipeline::{Pipeline, Verify, forget_once};
use crate::quarantine::of_quarantine;
use crate::report::RunReport;
use crate::resume::{Left, Resume, refused};

impl<'a> Run<'a> {
    pub(crate) async fn execute(pipeline: &'a Pipeline, cancel: CancelToken) -> Result<RunReport> {
        let mut id = None;
        let cx = RunContext::with_cancel(pipeline.settings.config.clone(), cancel.clone());
        let left = unless_cancelled(&cx, Left::find(pipeline, &cx)).await?;
        let goes_on = left.is_some();
        let mut done = Self::execute_once(pipeline, cancel.clone(), true, left, &mut id).await;
        if goes_on && done.as_ref().is_err_and(|error| error.kind() == ErrorKind::Locked) {
            // It may have been published between the look at it and the lock.
            let left = unless_cancelled(&cx, Left::find(pipeline, &cx)).await?;
            if let Some(left) = left.filter(|left| left.found.published) {
                done = Self::execute_once(pipeline, cancel.clone(), true, Some(left), &mut id).await;
            }
        }
        match done {
            // Nothing was published, so the run may begin again.
            Err(error) if error.kind() == ErrorKind::SplitRefuted => match pipeline.settings.resume {
                Resume::Run(run) => Err(refused(run, "its pieces do not begin with records")),
                _ => Self::execute_once(pipeline, cancel, false, None, &mut id).await,
            },
            done => done,
        }
    }

    /// `id` is that of the run that this one begins again, and then its own.
    async fn execute_once(
        pipeline: &'a Pipeline,
        cancel: CancelToken,
        guess: bool,
        left: Option<Left>,
        id: &mut Option<RunId>,
    ) -> Result<RunReport> {
        let span =
            info_span!("run", id = Empty, partitions = Empty, rows = Empty, error = Empty, otel.status_code = Empty);
        let scanned = Run::begin(pipeline, cancel, guess, left).instrument(info_span!(parent: &span, "scan")).await;
        let (mut run, published) = scanned.inspect_err(|error| record_error(&span, error))?;
        if let Some(left) = published {
            let rejected = unless_cancelled(&run.cx, run.set_aside_before()).await?;
            let rejected = rejected.filter(|found| found.published).map(|found| found.receipts);
            if pipeline.quarantine.is_some() && rejected.is_none() {
                let note =
                    "records that it had set aside, if there were any, are in the quarantine and not counted here";
                run.notes.push(note.to_owned());
            }
            if run.scan.identity().is_none() {
                let note =
                    "whether the source changed since is not known; given once more, the same loads it as it is then";
                run.notes.push(note.to_owned());
            }
            let rejected = rejected.unwrap_or_default();
            if !pipeline.settings.keep_mark {
                unless_cancelled(&run.cx, forget_once(pipeline, &run.cx, left.found.run)).await?;
            }
            return Ok(run.was_published(&left.found, &rejected));
        }
        run.instead_of = id.replace(run.cx.run_id());
        span.record("id", run.cx.run_id().to_string()).record("partitions", run.scan.partitions().len());
        let (has_record, partitions) = (run.record.is_some(), run.scan.partitions().len());
        let is_kept = has_record && run.keeps_pieces();
        let cx = run.cx.clone();
        let mut sessions = Sessions::default();
        let report = async {
            let (staged, whole) = (run.staged_before, run.take_hold(&mut sessions).await?);
            failpoint("run-begun");
            run.require_position().await?;
            if let Some(target) = pipeline.settings.repairing.as_ref().and_then(|repairing| repairing.target.as_ref()) {
                unless_cancelled(&run.cx, target.require_unchanged(&run.cx)).await?;
            }
            if whole < staged {
                let reason = format!("of {staged} pieces that were staged, {whole} are as they were");
                if pipeline.settings.resume == Resume::Run(run.cx.run_id()) && whole == 0 {
                    return Err(refused(run.cx.run_id(), &reason));
                }
                run.notes.push(reason);
            }
            run.load(&mut sessions).await
        };
        let report = report.instrument(span.clone()).await;
        match &report {
            Ok(report) => {
                span.record("rows", report.load.records_loaded);
            }
            Err(error) => {
                record_error(&span, error);
                let keep = is_kept && error.may_pass();
                let is_staged = sessions.is_staged;
                let ended = unless_cancelled(&cx, async {
                    Ok(sessions.end(keep).instrument(info_span!(parent: &span, "abort")).await)
                });
                // A server that does not answer does not hold up who wants to stop.
                let kept = ended.await.unwrap_or(0);
                if let (Some(loader), true, false) = (&pipeline.quarantine, has_record, keep) {
                    // It may say that it was published, which nobody will ask.
                    _ = unless_cancelled(&cx, loader.forget(&cx, cx.run_id())).await;
                }
                // A commit that failed for now leaves all that is staged.
                let kept = if keep && is_staged { partitions } else { kept };
                if kept > 0 {
                    return report.map_err(|error| with_hint_of_rest(error, kept, partitions));
                }
            }
        }
        report
    }

    /// Looks at the source; as it was planned by the run that is left, if this one can go on with that. Also tells what is left, if
    /// it was published already.
    pub(super) async fn begin(
        pipeline: &'a Pipeline,
        cancel: CancelToken,
        guess: bool,
        left: Option<Left>,
    ) -> Result<(Self, Option<Left>)> {
        let mut note = None;
        if let Some(left) = left {
            let difference = match Self::new(pipeline, cancel.clone(), left.record.guess(), Some(&left)).await {
                Ok(run) => match run.written_down(left.record.guess()).difference(&left.record) {
                    None if left.found.published => return Ok((run, Some(left))),
                    None => return Ok((run, None)),
                    Some(difference) => difference.to_owned(),
                },
                Err(error) if cancel.is_cancelled() => return Err(error),
                // What is staged is not to be given up for a server that is away for a moment.
                Err(error)
                    if error.is_transient() || matches!(error.kind(), ErrorKind::Connection | ErrorKind::Locked) =>
                {
                    return Err(error);
                }
                // If it is not because of the recorded pieces, it comes again.
                Err(error) => error.to_string(),
            };
            let run = left.found.run;
            if pipeline.settings.resume == Resume::Run(run) {
                return Err(refused(run, &difference));
            }
            note = Some(match left.found.published {
                true => format!(
                    "the run {run} was published and died before it could say so; this is another load: {difference}"
                ),
                false => format!("what the run {run} had staged is not gone on with: {difference}"),
            });
        }
        let mut run = Self::new(pipeline, cancel, guess, None).await?;
        run.notes.extend(note);
        Ok((run, None))
    }

    /// Now that nobody else can load into it, the target must still have the position behind which the source is read: else rows
    /// would be read that another run has loaded.
    async fn require_position(&self) -> Result<()> {
        let (Some(cursor), LoadMode::Append | LoadMode::Merge) = (&self.cursor, self.pipeline.settings.mode) else {
            return Ok(());
        };
        let now = unless_cancelled(&self.cx, self.pipeline.loader.cursor(&self.cx, &cursor.source)).await?;
        if now.as_deref() == self.after.as_ref().map(|after| after.value.as_str()) {
            return Ok(());
        }
        let message = "another run has loaded from this source meanwhile, so nothing was done";
        Err(Error::new(ErrorKind::SourceChanged, message).hint("run again, to go on behind what that has loaded"))
    }

    /// Takes hold of the target and of the quarantine. Tells how many partitions both had staged before.
    async fn take_hold(&self, sessions: &mut Sessions) -> Result<usize> {
        let mut plan = self.load_plan();
        let Some(loader) = &self.pipeline.quarantine else {
            let begun = self.pipeline.loader.begin(&self.cx, plan).instrument(info_span!("begin"));
            return Ok(sessions.target.insert(unless_cancelled(&self.cx, begun).await?).completed().len());
        };
        let before = unless_cancelled(&self.cx, self.set_aside_before()).await?;
        let (mut is_published, before) =
            before.map_or((false, Vec::new()), |before| (before.published, before.receipts));
        if !is_published {
            plan.take_over = Some(before.iter().map(|receipt| receipt.partition).collect());
        }
        loop {
            let begun = self.pipeline.loader.begin(&self.cx, plan.clone()).instrument(info_span!("begin"));
            let session = sessions.target.insert(unless_cancelled(&self.cx, begun).await?);
            let staged: Vec<_> = session.completed().iter().map(|receipt| receipt.partition).collect();
            let all = self.scan.partitions().len();
            if is_published && staged.len() == all && before.len() == all + 1 {
                sessions.set_aside_before = before;
                return Ok(all);
            }
            if is_published {
                // What is read again is rejected again, and is in the quarantine once too often.
                unless_cancelled(&self.cx, loader.forget(&self.cx, self.cx.run_id())).await.map_err(of_quarantine)?;
                is_published = false;
            }
            let mut set_aside = self.quarantine_plan();
            set_aside.take_over = Some(staged.clone());
            let begun = loader.begin(&self.cx, set_aside);
            let begun = unless_cancelled(&self.cx, begun).await.map_err(of_quarantine)?;
            let both: Vec<_> = begun.completed().iter().map(|receipt| receipt.partition).collect();
            sessions.quarantine = Some(begun);
            if both.len() == staged.len() {
                return Ok(both.len());
            }
            // What was read for one and not for the other has to be read again.
            let ended = async { Ok(std::mem::take(sessions).end(true).await) };
            unless_cancelled(&self.cx, ended).await?;
            plan.take_over = Some(both);
        }
    }

    pub(super) fn load_plan(&self) -> LoadPlan {
        let settings = &self.pipeline.settings;
        let mut plan = LoadPlan::new(self.schema.clone(), settings.mode, self.scan.partitions().to_vec());
        plan.keys = self.keys.clone();
        plan.read_back = settings.verify == Verify::Full;
        plan.record = self.record.clone();
        plan.goes_on = self.staged_before > 0;
        plan.cursor = self.cursor.clone();
        plan.replaces = settings.repairing.iter().flat_map(|repairing| repairing.replaces.clone()).collect();
        plan.is_repair = settings.repairing.is_some() || settings.replay.is_some();
        plan.sifts = self.pipeline.quarantine.is_some();
        plan
    }

    pub(super) fn quarantine_plan(&self) -> LoadPlan {
        let partitions = self.scan.partitions().iter().cloned().chain([self.of_target()]).collect();
        let mut plan = LoadPlan::new(Rejected::schema(), LoadMode::Append, partitions);
        plan.record = self.record.clone();
        plan
    }

    /// What an earlier attempt at the run has left at the quarantine.
    async fn set_aside_before(&self) -> Result<Option<Interrupted>> {
        let (Some(loader), true) = (&self.pipeline.quarantine, self.is_resumed) else { return Ok(None) };
        let found = loader.interrupted(&self.cx).await.map_err(of_quarantine)?;
        let is_it =
            |found: &Interrupted| found.run == self.cx.run_id() && Some(&*found.record) == self.record.as_deref();
        Ok(found.filter(is_it))
    }
}

/// What a run holds until it publishes it.
#[derive(Default)]
pub(super) struct Sessions {
    pub(super) target: Option<Box<dyn LoadSession>>,
    /// All of it is staged, and the target's session gone into the commit.
    pub(super) is_staged: bool,
    pub(super) quarantine: Option<Box<dyn LoadSession>>,
    /// What the quarantine already has, in place of a session.
    pub(super) set_aside_before: Vec<Receipt>,
}

impl Sessions {
    /// Lets go of what is held, and keeps what is staged or removes it. The first error is the one to tell; what could not be
    /// removed is removed by the next run. Tells how many partitions are kept.
    async fn end(self, keep: bool) -> usize {
        let mut kept = 0;
        let Self { quarantine, target, .. } = self;
        for session in [quarantine, target].into_iter().flatten() {
            let ended = if keep { session.suspend().await } else { session.abort().await.map(|()| 0) };
            kept = ended.unwrap_or(0);
        }
        kept
    }
}

/// Tells what is kept of a run that failed.
fn with_hint_of_rest(error: Error, staged: usize, partitions: usize) -> Error {
    let rest = format!("{staged} of {partitions} pieces are kept; run the same again to go on from there");
    match error.hint_text() {
        Some(hint) => {
            let hint = format!("{hint}; {rest}");
            error.hint(hint)
        }
        None => error.hint(rest),
    }
}
