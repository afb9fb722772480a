//! The program `etlrs`, as a library so that its tests can be built with it.

mod alert;
mod allocator;
mod args;
mod describe;
mod jobs;
mod journal;
mod kept_command;
mod page;
mod progress;
mod recorder;
mod report;
mod run;
mod runs;
mod verify;

use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use clap::error::{ContextKind, ContextValue};
use clap::{CommandFactory, Parser};
use etlrs::{CancelToken, Error, ErrorKind, Pipeline, Result, RunId, Uri};

use crate::args::{Args, Command, Output};

const FAILED: u8 = 1;
const WRONG_USAGE: u8 = 2;
const REJECTED: u8 = 3;
const INTERRUPTED: u8 = 130;

/// Reads the command line, does what it says, and gives the exit code: 0 done and verified, 1 failed with the target
/// unchanged, 2 wrong usage, 3 done with records in quarantine, 130 interrupted.
pub fn main() -> ExitCode {
    allocator::keep_freed_memory();
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) => return usage(&error),
    };
    let result = tokio::runtime::Builder::new_multi_thread()
        // Its threads wait for the network; the work is done by the engine's own.
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|error| Error::new(ErrorKind::Io, format!("cannot start the runtime: {error}")))
        .and_then(|runtime| runtime.block_on(traced(dispatch(args.command))));
    match result {
        Ok(Done { rejected: false, .. }) => ExitCode::SUCCESS,
        Ok(Done { rejected: true, .. }) => ExitCode::from(REJECTED),
        Err(error) => {
            let error = match error.kind() {
                ErrorKind::Cancelled => {
                    let rest = error.hint_text().map(|hint| format!("; {hint}")).unwrap_or_default();
                    error.hint(format!("the target is as it was{rest}"))
                }
                _ => error,
            };
            let _ = writeln!(std::io::stderr(), "error: {error}");
            ExitCode::from(match error.kind() {
                ErrorKind::InvalidConfig => WRONG_USAGE,
                ErrorKind::Cancelled => INTERRUPTED,
                _ => FAILED,
            })
        }
    }
}

/// Writes a line to standard error, if somebody reads it. `eprintln` would end a run that nobody listens to any more.
pub(crate) fn tell(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// What `work` gives; its spans go to a collector if the environment names one.
async fn traced<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    #[cfg(feature = "opentelemetry")]
    if etlrs_metrics::Traces::are_wanted() {
        let traces = etlrs_metrics::Traces::start()?;
        traces.install()?;
        let done = work.await;
        // What was done is done, whoever heard of it.
        if let Err(error) = traces.finish().await {
            tell(&format!("warning: {error}"));
        }
        return done;
    }
    work.await
}

/// Help and version as clap shows them; what is wrong with a command line in one sentence, like all other errors.
fn usage(error: &clap::Error) -> ExitCode {
    use clap::error::ErrorKind::{DisplayHelp, DisplayHelpOnMissingArgumentOrSubcommand, DisplayVersion};

    if matches!(error.kind(), DisplayHelp | DisplayVersion | DisplayHelpOnMissingArgumentOrSubcommand) {
        let _ = error.print();
        return if error.exit_code() == 0 { ExitCode::SUCCESS } else { ExitCode::from(WRONG_USAGE) };
    }
    let mut sentence = String::new();
    let rendered = error.render().to_string();
    for line in rendered.lines().map(str::trim) {
        if line.is_empty() || line.starts_with("Usage:") || line.starts_with("For more information") {
            continue;
        }
        let line = line.strip_prefix("tip: ").unwrap_or(line);
        match sentence.chars().last() {
            None => {}
            Some(':') => sentence.push(' '),
            Some(_) => sentence.push_str("; "),
        }
        sentence.push_str(line);
    }
    // What was to be KEY=VALUE and is not may be a password all the same.
    let is_pair = error.get(ContextKind::InvalidArg).is_some_and(|flag| flag.to_string().contains("KEY=VALUE"));
    if let (true, Some(ContextValue::String(value))) = (is_pair, error.get(ContextKind::InvalidValue)) {
        sentence = sentence.replace(value, "…");
    }
    let sentence = without_secrets(sentence, std::env::args_os().filter_map(|arg| arg.into_string().ok()));
    let _ = writeln!(std::io::stderr(), "{sentence}; --help tells more");
    ExitCode::from(WRONG_USAGE)
}

/// `sentence`, which may quote `args`, without the passwords in them.
fn without_secrets(mut sentence: String, args: impl IntoIterator<Item = String>) -> String {
    for arg in args {
        // The value of a flag may follow after an equals sign.
        for part in [arg.as_str()].into_iter().chain(arg.split_once('=').map(|(_, value)| value)) {
            let shown = Uri::from(part).to_string();
            if shown != part && !part.is_empty() {
                sentence = sentence.replace(part, &shown);
            }
        }
    }
    sentence
}

/// What went well.
#[derive(Default)]
struct Done {
    /// Some records were not loaded, but kept.
    rejected: bool,
    /// What was published, and is not yet told.
    published: Vec<(Pipeline, RunId)>,
}

async fn dispatch(command: Command) -> Result<Done> {
    let done = match command {
        Command::Copy(copy) => return run::copy(copy, stop_signal()?, None).await,
        Command::Run(file) => return run::run(file, stop_signal()?, None).await,
        Command::Replay(args) => return run::replay(args, stop_signal()?, None).await,
        Command::Resume(resume) => return runs::resume(resume, stop_signal()?).await,
        Command::Forget(forget) => runs::forget(forget, stop_signal()?).await,
        Command::Runs(args) => runs::runs(&args),
        Command::Verify(args) => verify::verify(args, stop_signal()?).await,
        Command::Plan(plan) => run::plan(plan).await,
        Command::Inspect(inspect) => describe::inspect(inspect).await,
        Command::Connectors { name, output } => describe::connectors(name.as_deref(), output),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Args::command(), "etlrs", &mut script);
            print(&String::from_utf8_lossy(&script));
            Ok(())
        }
    };
    done.map(|()| Done::default())
}

/// How long a run may take to stop. What it waits for may never answer: a pipe that nobody writes to, a network.
const TO_STOP: Duration = Duration::from_secs(8);

/// Cancelled by the first SIGINT or SIGTERM; the second ends the program at once, and so does time.
fn stop_signal() -> Result<CancelToken> {
    use tokio::signal::unix::{SignalKind, signal};

    let failed = |error| Error::new(ErrorKind::Io, format!("cannot listen for signals: {error}"));
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let token = CancelToken::new();
    let cancel = token.clone();
    tokio::spawn(async move {
        let mut signal = async || {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
        };
        signal().await;
        cancel.cancel();
        tell("stopping (once more to stop at once)");
        if tokio::time::timeout(TO_STOP, signal()).await.is_err() {
            // As after a kill: nothing is lost by it.
            tell(
                "error: interrupted, while something did not answer; what is left of the run is found by the next one",
            );
        }
        std::process::exit(INTERRUPTED.into());
    });
    Ok(token)
}

/// To standard output; a reader that went away is no error, a full disk is.
fn print(text: &str) {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            let _ = writeln!(std::io::stderr(), "error: the work is done, but its result cannot be written: {error}");
            std::process::exit(FAILED.into());
        }
        _ => {}
    }
}

fn print_json(value: &serde_json::Value) {
    print(&format!("{value:#}\n"));
}

impl Output {
    fn is_json(self) -> bool {
        self == Output::Json
    }
}
