//! `runs`, `resume` and `forget`.

use std::fmt::Write;
use std::time::Duration;

use etlrs::{CancelToken, Error, ErrorKind, Result};
use indicatif::HumanDuration;
use serde_json::{Value, json};

use crate::Done;
use crate::args::{Command, ForgetArgs, Output, ResumeArgs, RunsArgs};
use crate::describe::{align, short};
use crate::journal::{Begun, Journal, Listed, State, millis};
use crate::report::{count, number};
use crate::run::{self, GoesOn};

/// Characters of a source and its target in the list.
const NAMES: usize = 70;

pub(crate) fn runs(args: &RunsArgs) -> Result<()> {
    let journal = journal()?;
    if let Some(run) = &args.run {
        let found = journal.run(run)?;
        match args.output {
            Output::Json => crate::print_json(&run_json(&found)),
            Output::Text => crate::print(&run_text(&found)),
        }
        return Ok(());
    }
    let runs = journal.runs()?;
    let shown = if args.all { runs.len() } else { args.last };
    if args.output.is_json() {
        crate::print_json(&Value::Array(runs.iter().take(shown).map(run_json).collect()));
        return Ok(());
    }
    let mut table = vec![["run", "state", "began", "pieces", "rows", "what"].map(str::to_owned)];
    for run in runs.iter().take(shown) {
        let what = format!("{} → {}", run.begun.source, run.begun.target);
        table.push([
            run.run.to_string(),
            run.state.as_str().to_owned(),
            ago(run.begun.at),
            format!("{}/{}", count(run.progress.pieces), count(run.begun.pieces)),
            rows(run),
            short(&what, NAMES),
        ]);
    }
    let mut text = match runs.as_slice() {
        [] => "no runs yet\n".to_owned(),
        _ => align(&table),
    };
    for run in runs.iter().take(shown).filter(|run| run.state == State::Failed) {
        let cause = run.ended.as_ref().and_then(|ended| ended.cause.as_deref()).unwrap_or("unknown");
        let _ = write!(text, "\n  {} failed: {cause}\n", run.run);
    }
    if runs.len() > shown {
        let _ = write!(text, "\n  and {} before; --all lists them\n", number((runs.len() - shown) as u64, "run"));
    }
    if runs.iter().take(shown).any(may_go_on) {
        text.push_str("\n`etlrs resume RUN` goes on with one that did not get through, `etlrs forget RUN` removes what it keeps.\n");
    }
    crate::print(&text);
    Ok(())
}

pub(crate) async fn resume(args: ResumeArgs, cancel: CancelToken) -> Result<Done> {
    let journal = journal()?;
    let found = journal.run(&args.run)?;
    require_ended(&found)?;
    if found.state == State::Done {
        let message = format!("the run {} is done since {}, so there is nothing to go on with", found.run, {
            found.ended.as_ref().map_or_else(String::new, |ended| ago(ended.at))
        });
        let hint = format!("to load once more: {}", found.begun.command.shown());
        return Err(Error::new(ErrorKind::InvalidConfig, message).hint(hint));
    }
    let mut means = args.means;
    // Of where it is said now.
    means.report =
        means.report.map(std::path::absolute).transpose().map_err(|error| Error::io("find", "--report", error))?;
    let command = again(&found, &args.set)?;
    let rows = found.progress.rows;
    let goes_on = goes_on(found);
    let (run, shown) = (goes_on.run, goes_on.command.shown());
    let done = match command {
        Command::Copy(mut copy) => {
            copy.run.means = means.over(copy.run.means);
            run::copy(copy, cancel, Some(goes_on)).await
        }
        Command::Run(mut file) => {
            file.run.means = means.over(file.run.means);
            run::run(file, cancel, Some(goes_on)).await
        }
        Command::Replay(mut replay) => {
            replay.means = means.over(replay.means);
            let done = run::replay(replay, cancel, Some(goes_on)).await;
            if done.is_ok() && journal.run(&args.run).is_ok_and(|listed| listed.state != State::Done) {
                // Its records only had to be taken out of the quarantine.
                journal.found_done(run, rows);
            }
            done
        }
        _ => Err(no_load()),
    };
    done.map_err(|error| match error.kind() {
        // Said of the run itself: nothing is left, or it is another source or other work by now.
        ErrorKind::SourceChanged if error.message().starts_with(&format!("the run {run} cannot go on")) => {
            journal.found_lost(run, &error);
            error.hint(format!("to begin anew: {shown}"))
        }
        _ => error,
    })
}

pub(crate) async fn forget(args: ForgetArgs, cancel: CancelToken) -> Result<()> {
    let journal = journal()?;
    let found = journal.run(&args.run)?;
    require_ended(&found)?;
    let (run, state) = (found.run, found.state);
    let command = again(&found, &args.set)?;
    let goes_on = goes_on(found);
    let left = match command {
        Command::Copy(copy) => run::forget_copy(&copy, &goes_on).await?,
        Command::Run(file) => run::forget_file(&file, &cancel, &goes_on).await?,
        Command::Replay(replay) => run::forget_replay(&replay, &cancel, &goes_on).await?,
        _ => return Err(no_load()),
    };
    journal.remove(run)?;
    let rows: u64 = left.iter().flat_map(|left| &left.receipts).map(|receipt| receipt.rows).sum();
    crate::print(&match left {
        None if state == State::Done => format!("the run {run} was done and kept nothing; it is no longer listed\n"),
        None => format!("nothing was left of the run {run} at {}; it is no longer listed\n", goes_on.target),
        Some(left) if left.published => {
            format!(
                "the run {run} had published {} at {}, which stay; its mark is removed\n",
                number(rows, "row"),
                goes_on.target
            )
        }
        Some(left) => format!(
            "removed what the run {run} had staged for {}: {} with {}\n",
            goes_on.target,
            number(left.receipts.len() as u64, "piece"),
            number(rows, "row")
        ),
    });
    Ok(())
}

fn journal() -> Result<Journal> {
    Journal::find().ok_or_else(|| {
        Error::new(ErrorKind::InvalidConfig, "there is no place for a list of runs")
            .hint("set HOME or XDG_STATE_HOME to a folder")
    })
}

fn require_ended(found: &Listed) -> Result<()> {
    if found.state != State::Running {
        return Ok(());
    }
    let message = format!("the run {} is at work, as process {}", found.run, found.begun.process);
    Err(Error::new(ErrorKind::Locked, message).hint("wait until it is done, or stop it"))
}

/// The command of a run, in the folder in which it was given.
fn again(found: &Listed, variables: &[(String, String)]) -> Result<Command> {
    let command = &found.begun.command;
    let args = command.args(variables)?;
    let folder = command.folder();
    std::env::set_current_dir(folder).map_err(|error| Error::io("go to where the run was begun", folder, error))?;
    Ok(args.command)
}

fn goes_on(Listed { run, begun, .. }: Listed) -> GoesOn {
    let Begun { command, source, target, .. } = begun;
    GoesOn { run, command, source, target }
}

fn no_load() -> Error {
    Error::new(ErrorKind::Internal, "the command of the run is no load")
}

/// Whether it may have kept what it had staged, as far as is known here.
fn may_go_on(run: &Listed) -> bool {
    let ended = run.ended.as_ref();
    run.begun.is_kept && (run.state == State::Killed || ended.is_some_and(|ended| ended.may_go_on))
}

fn rows(run: &Listed) -> String {
    count(run.ended.as_ref().and_then(|ended| ended.rows).unwrap_or(run.progress.rows))
}

fn ago(at: u64) -> String {
    format!("{} ago", HumanDuration(Duration::from_millis(millis().saturating_sub(at))))
}

fn run_text(found: &Listed) -> String {
    let Listed { run, state, begun, progress, ended } = found;
    let mut text = format!("{} → {}\n", begun.source, begun.target);
    let mut line = |name: &str, value: &str| {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "  {name:<9} {value}");
    };
    line("run", &run.to_string());
    line("state", state.as_str());
    line("command", &begun.command.shown());
    line("in", &begun.command.folder().display().to_string());
    line("began", &ago(begun.at));
    match ended {
        Some(ended) => line("ended", &ago(ended.at)),
        None => line("process", &begun.process.to_string()),
    }
    let before = match begun.staged_before {
        0 => String::new(),
        staged => format!(", {} of them by an earlier attempt", count(staged)),
    };
    let staged = format!("{} of {} are staged{before}", count(progress.pieces), count(begun.pieces));
    line(
        "pieces",
        &match state {
            State::Killed => format!("{staged}, or more: that is written down once a second"),
            _ => staged,
        },
    );
    line("rows", &rows(found));
    if let Some(cause) = ended.as_ref().and_then(|ended| ended.cause.as_deref()) {
        line("cause", cause);
    }
    if may_go_on(found) {
        line("next", &format!("etlrs resume {run}  goes on with it; etlrs forget {run}  removes what it keeps"));
    }
    text
}

fn run_json(found: &Listed) -> Value {
    let Listed { run, state, begun, progress, ended } = found;
    json!({
        "run": run.to_string(),
        "state": state.as_str(),
        "source": begun.source,
        "target": begun.target,
        "command": begun.command.shown(),
        "folder": begun.command.folder(),
        "process": begun.process,
        "began_ms": begun.at,
        "ended_ms": ended.as_ref().map(|ended| ended.at),
        "pieces": begun.pieces,
        "pieces_staged": progress.pieces,
        "rows_read": progress.rows,
        "rows_written": ended.as_ref().and_then(|ended| ended.rows),
        "cause": ended.as_ref().and_then(|ended| ended.cause.clone()),
    })
}
