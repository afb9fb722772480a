use clap::builder::styling::{AnsiColor, Styles};
use clap::{Parser, Subcommand, ValueEnum};
use etlrs::{
    Error, ErrorKind, ErrorPolicy, LoadMode, MaxErrors, OnError, OptionSet, PerformanceConfig, RunId, Uri, Verify,
    parse_bytes,
};

const STYLES: Styles = Styles::styled()
    .header(AnsiColor::Green.on_default().bold())
    .usage(AnsiColor::Green.on_default().bold())
    .literal(AnsiColor::Cyan.on_default().bold())
    .placeholder(AnsiColor::Cyan.on_default());

const EXAMPLES: &str = "\
Examples:
  etlrs copy sales.csv sales.parquet
  etlrs copy sales.csv sqlite:shop.db#sales --mode append --columns id,day,total
  etlrs copy postgres://me@localhost/shop#orders orders.parquet
  etlrs copy sales.parquet late.parquet --where \"shipped > due or shipped is null\"
  etlrs run pipeline.toml
  etlrs inspect sales.csv

Sources and targets are paths, whose extension tells the format (out.parquet/ is a directory of files), or
sqlite:FILE#TABLE, postgres://USER@HOST/DATABASE#SCHEMA.TABLE, mysql://USER@HOST/DATABASE#TABLE. A source may be a pattern (`data/*.csv`) or standard input (-, as CSV; json:- as JSON); csv:PATH names the format. `etlrs connectors` lists them all, `etlrs connectors csv` the options of one.

Exit codes: 0 done and verified, 1 failed, and the target is as it was unless the message says
otherwise, 2 wrong usage, 3 done and verified but for records that were set aside (--on-error quarantine), 130 interrupted.";

/// Move and transform tabular data between files and databases: all or nothing, in a memory budget.
#[derive(Debug, Parser)]
#[command(name = "etlrs", version, styles = STYLES, after_help = EXAMPLES, max_term_width = 110)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Copy a source into a target
    Copy(Copy),
    /// Run a pipeline from a TOML or YAML file
    Run(RunFile),
    /// Show what a copy or a pipeline would do, and touch nothing
    Plan(PlanArgs),
    /// Show the columns, the pieces and the first rows of a source
    Inspect(Inspect),
    /// Compare a source with a target, row by row; --repair loads those again that differ
    Verify(VerifyArgs),
    /// List the runs of this machine that began to load: state, progress, and why they failed
    Runs(RunsArgs),
    /// Go on with a run that was killed, stopped, or failed
    Resume(ResumeArgs),
    /// Load what a quarantine holds once more, when the cause is mended; what fails again stays there
    Replay(ReplayArgs),
    /// Remove what a run keeps that did not get through
    Forget(ForgetArgs),
    /// List the connectors, or the options of one
    Connectors {
        /// A connector, such as csv
        name: Option<String>,
        /// How the list is written
        #[arg(long, value_enum, default_value_t)]
        output: Output,
    },
    /// Print the script that completes commands in a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// For people
    #[default]
    Text,
    /// For programs: one JSON object
    Json,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Copy {
    /// Where the data comes from: a file, or a table: sqlite:FILE#TABLE, postgres://USER@HOST/DB#TABLE, mysql:…; #* is all
    /// tables of a database, and the target has a * for their names
    pub(crate) source: String,
    /// Where the data goes: a file, a directory (out.parquet/), or a table: sqlite:FILE#TABLE, postgres://USER@HOST/DB#TABLE, mysql:…
    pub(crate) target: String,
    #[command(flatten)]
    pub(crate) copy: CopyOptions,
    #[command(flatten)]
    pub(crate) run: RunOptions,
}

/// What `copy` and `plan SOURCE TARGET` share.
#[derive(Debug, Default, clap::Args)]
pub(crate) struct CopyOptions {
    /// What happens to a target that exists: create (the default: it must not exist), append, replace, merge (rows with
    /// a known key are updated, others inserted; databases have it)
    #[arg(long, value_name = "MODE", value_parser = parse_mode)]
    pub(crate) mode: Option<LoadMode>,
    /// Key columns of the mode merge
    #[arg(long, value_name = "COL,…", value_delimiter = ',')]
    pub(crate) key: Vec<String>,
    /// One SELECT to read in place of a table, of a database named without #TABLE; short for --source-option query=…
    #[arg(long, value_name = "SQL")]
    pub(crate) query: Option<String>,
    /// Only these columns, in this order
    #[arg(long, value_name = "COL,…", value_delimiter = ',')]
    pub(crate) columns: Option<Vec<String>>,
    /// Only rows for which this is true, such as "delay > 15 and carrier in ('UA', 'AA')"
    #[arg(long = "where", value_name = "EXPRESSION", allow_hyphen_values = true)]
    pub(crate) filter: Option<String>,
    /// Number of pieces in which the source is read
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) partitions: Option<u32>,
    /// An option of the source; `etlrs connectors NAME` lists them (may be repeated)
    #[arg(long, value_name = "KEY=VALUE", value_parser = parse_pair)]
    pub(crate) source_option: Vec<(String, String)>,
    /// An option of the target (may be repeated)
    #[arg(long, value_name = "KEY=VALUE", value_parser = parse_pair)]
    pub(crate) target_option: Vec<(String, String)>,
    /// Compression of the target: snappy, zstd, gzip, none; short for --target-option compression=…
    #[arg(long, value_name = "NAME")]
    pub(crate) compression: Option<String>,
    /// Nothing is copied, so both ends may be in one place.
    #[arg(skip)]
    pub(crate) is_compared: bool,
}

impl CopyOptions {
    /// The flags that were given.
    pub(crate) fn given(&self) -> impl Iterator<Item = &'static str> {
        let flags = [
            ("--mode", self.mode.is_some()),
            ("--key", !self.key.is_empty()),
            ("--query", self.query.is_some()),
            ("--columns", self.columns.is_some()),
            ("--where", self.filter.is_some()),
            ("--partitions", self.partitions.is_some()),
            ("--source-option", !self.source_option.is_empty()),
            ("--target-option", !self.target_option.is_empty()),
            ("--compression", self.compression.is_some()),
        ];
        flags.into_iter().filter(|(_, given)| *given).map(|(flag, _)| flag)
    }
}

/// What all runs share. Flags win over a pipeline file.
#[derive(Debug, Default, clap::Args)]
pub(crate) struct RunOptions {
    #[command(flatten)]
    pub(crate) means: Means,
    /// How far the target is checked before it is published: receipts (row counts of the target), full (all staged rows
    /// are read back, and their checksum compared)
    #[arg(long, value_name = "HOW", value_parser = parse_verify)]
    pub(crate) verify: Option<Verify>,
    /// Begin anew, instead of going on behind the pieces that a run of the same work had staged when it was stopped
    #[arg(long)]
    pub(crate) restart: bool,
    /// What happens to a record that cannot be read: fail (the run ends and the target is as it was), quarantine (it is
    /// kept, with its place and the reason, and all others are loaded). By default fail, or quarantine if one of the next two
    /// is given
    #[arg(long, value_name = "WHAT", value_parser = parse_on_error)]
    pub(crate) on_error: Option<OnError>,
    /// Where such records are kept: a file, or a table of a database; many runs may add to it. By default a Parquet file
    /// beside a target that is a file: TARGET.rejected.parquet
    #[arg(long, value_name = "PATH")]
    pub(crate) quarantine: Option<String>,
    /// More such records than this end the run: a number, or a part of all records such as 0.5%, which is judged at the end
    #[arg(long, value_name = "N|N%", value_parser = parse_max_errors)]
    pub(crate) max_errors: Option<MaxErrors>,
}

/// How much of the machine a command takes.
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct Machine {
    /// Memory for all data at one time, such as 256MB; by default a quarter of the machine's, at most 1GB
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub(crate) memory: Option<usize>,
    /// Pieces worked on at the same time; by default as many as there are cores
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=4096))]
    pub(crate) threads: Option<u16>,
    /// A setting as in [performance] of a pipeline file, such as batch_size=50000 (may be repeated)
    #[arg(long, value_name = "KEY=VALUE", value_parser = parse_pair)]
    pub(crate) performance: Vec<(String, String)>,
}

/// With what a run does its work, and how it tells of it: what may be another thing when it goes on.
#[derive(Debug, Default, clap::Args)]
pub(crate) struct Means {
    #[command(flatten)]
    pub(crate) machine: Machine,
    /// Lets the run change its threads, its writers and the size of its batches as it goes, beginning with what is set; it keeps
    /// what makes it faster, tells what that gained, and stays within --memory
    #[arg(long)]
    pub(crate) auto_tune: bool,
    /// Where a page for a browser is written that shows how the run went: time lines of its stages, memory, pieces
    #[arg(long, value_name = "FILE.html")]
    pub(crate) report: Option<std::path::PathBuf>,
    /// Serves metrics to Prometheus while it runs, at http://ADDRESS/metrics; nobody is asked for a password there
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) metrics: Option<String>,
    /// How the result is written to standard output
    #[arg(long, value_enum, default_value_t)]
    pub(crate) output: Output,
    /// Show no progress on standard error
    #[arg(long)]
    pub(crate) no_progress: bool,
}

impl Means {
    /// These, and where they say nothing those of `before`; how the result is written is theirs in any case.
    pub(crate) fn over(self, before: Self) -> Self {
        let performance = [before.machine.performance, self.machine.performance];
        Self {
            machine: Machine {
                memory: self.machine.memory.or(before.machine.memory),
                threads: self.machine.threads.or(before.machine.threads),
                performance: performance.into_iter().rfind(|pairs| !pairs.is_empty()).unwrap_or_default(),
            },
            auto_tune: self.auto_tune || before.auto_tune,
            report: self.report.or(before.report),
            metrics: self.metrics.or(before.metrics),
            output: self.output,
            no_progress: self.no_progress,
        }
    }
}

impl RunOptions {
    /// `config` with what the flags say.
    pub(crate) fn apply(&self, config: PerformanceConfig) -> etlrs::Result<PerformanceConfig> {
        let Means { machine, auto_tune, .. } = &self.means;
        let pairs = machine.performance.iter().map(|(key, value)| (key.as_str(), value.as_str()));
        let mut config = config.with_pairs(pairs).map_err(|error| error.within("--performance"))?;
        config.auto_tune |= auto_tune;
        if let Some(memory) = machine.memory {
            config.max_memory_usage = memory;
        }
        if let Some(threads) = machine.threads {
            config.max_threads = threads.into();
        }
        Ok(config)
    }

    /// `policy` with what the flags say.
    pub(crate) fn policy(&self, mut policy: ErrorPolicy) -> etlrs::Result<ErrorPolicy> {
        let given = self.quarantine.is_some() || self.max_errors.is_some();
        match self.on_error {
            Some(OnError::Fail) if given => {
                let message = "--on-error fail keeps no records, so --quarantine and --max-errors mean nothing";
                return Err(Error::new(ErrorKind::InvalidConfig, message).hint("say --on-error quarantine"));
            }
            None if !given => {}
            on_error => policy.on_error = Some(on_error.unwrap_or(OnError::Quarantine)),
        }
        if let Some(place) = &self.quarantine {
            policy.quarantine = Some(Uri::from(place.as_str()));
        }
        policy.max_errors = self.max_errors.or(policy.max_errors);
        Ok(policy)
    }
}

#[derive(Debug, clap::Args)]
pub(crate) struct RunFile {
    /// The pipeline: a file that ends in .toml, .yaml or .yml
    pub(crate) pipeline: String,
    /// A variable (${NAME} in the file), or a place in the file such as target.mode (may be repeated)
    #[arg(long, value_name = "KEY=VALUE", value_parser = parse_pair)]
    pub(crate) set: Vec<(String, String)>,
    #[command(flatten)]
    pub(crate) run: RunOptions,
}

#[derive(Debug, clap::Args)]
pub(crate) struct PlanArgs {
    /// A pipeline file, or a source
    #[arg(value_name = "PIPELINE|SOURCE")]
    pub(crate) first: String,
    /// The target, if the first is a source
    pub(crate) target: Option<String>,
    /// With a pipeline file: a variable, or a place in the file (may be repeated)
    #[arg(long, value_name = "KEY=VALUE", value_parser = parse_pair)]
    pub(crate) set: Vec<(String, String)>,
    #[command(flatten)]
    pub(crate) copy: CopyOptions,
    #[command(flatten)]
    pub(crate) run: RunOptions,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Inspect {
    /// A file, or a table: sqlite:FILE#TABLE, postgres://USER@HOST/DB#TABLE, mysql:…
    pub(crate) source: String,
    /// Rows to show
    #[arg(long, value_name = "N", default_value_t = 10)]
    pub(crate) rows: usize,
    /// One SELECT to read in place of a table, of a database named without #TABLE; short for --source-option query=…
    #[arg(long, value_name = "SQL")]
    pub(crate) query: Option<String>,
    /// Only these columns, in this order
    #[arg(long, value_name = "COL,…", value_delimiter = ',')]
    pub(crate) columns: Option<Vec<String>>,
    /// An option of the source (may be repeated)
    #[arg(long, value_name = "KEY=VALUE", value_parser = parse_pair)]
    pub(crate) source_option: Vec<(String, String)>,
    /// How the result is written
    #[arg(long, value_enum, default_value_t)]
    pub(crate) output: Output,
}

#[derive(Debug, clap::Args)]
pub(crate) struct VerifyArgs {
    /// A source, or the pipeline file by which the target was loaded
    #[arg(value_name = "SOURCE|PIPELINE")]
    pub(crate) first: String,
    /// The target, if the first is a source
    pub(crate) target: Option<String>,
    /// Columns that tell which rows are to be the same; by default the primary key of either side
    #[arg(long, value_name = "COL,…", value_delimiter = ',')]
    pub(crate) key: Vec<String>,
    /// Show so many of the rows that differ, with their values
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) show: usize,
    /// Load those rows once more that are missing or changed at the target, by their key; of a directory, those pieces that
    /// are in none of its files, in place of files that are no piece
    #[arg(long)]
    pub(crate) repair: bool,
    /// With --repair of a directory: rows that only the target has may go with the files that are replaced
    #[arg(long, requires = "repair")]
    pub(crate) remove_unexpected: bool,
    /// Number of pieces in which the source is read, as it was copied
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) partitions: Option<u32>,
    /// One SELECT to read in place of a table, as it was copied
    #[arg(long, value_name = "SQL")]
    pub(crate) query: Option<String>,
    /// Only these columns
    #[arg(long, value_name = "COL,…", value_delimiter = ',')]
    pub(crate) columns: Option<Vec<String>>,
    /// Only rows of the source for which this is true, as they were copied
    #[arg(long = "where", value_name = "EXPRESSION", allow_hyphen_values = true)]
    pub(crate) filter: Option<String>,
    /// An option of the source (may be repeated)
    #[arg(long, value_name = "KEY=VALUE", value_parser = parse_pair)]
    pub(crate) source_option: Vec<(String, String)>,
    /// An option with which the target is read, or, by --repair, written (may be repeated)
    #[arg(long, value_name = "KEY=VALUE", value_parser = parse_pair)]
    pub(crate) target_option: Vec<(String, String)>,
    /// What happens to a record of the source that cannot be read: fail, or quarantine, with which it is not compared
    #[arg(long, value_name = "WHAT", value_parser = parse_on_error)]
    pub(crate) on_error: Option<OnError>,
    /// With a pipeline file: a variable, or a place in the file (may be repeated)
    #[arg(long, value_name = "KEY=VALUE", value_parser = parse_pair)]
    pub(crate) set: Vec<(String, String)>,
    #[command(flatten)]
    pub(crate) machine: Machine,
    /// How the result is written to standard output
    #[arg(long, value_enum, default_value_t)]
    pub(crate) output: Output,
}

impl VerifyArgs {
    /// What they say of the copy that is compared.
    pub(crate) fn copy(&self) -> CopyOptions {
        CopyOptions {
            query: self.query.clone(),
            columns: self.columns.clone(),
            filter: self.filter.clone(),
            partitions: self.partitions,
            source_option: self.source_option.clone(),
            target_option: self.target_option.clone(),
            is_compared: !self.repair,
            ..CopyOptions::default()
        }
    }
}

#[derive(Debug, clap::Args)]
pub(crate) struct ReplayArgs {
    /// Where the records are kept: a file, or a table of a database. To correct one, write all of it into the column fixed
    pub(crate) quarantine: String,
    /// The target that they were to go to, or the pipeline file by which they were set aside
    #[arg(value_name = "TARGET|PIPELINE")]
    pub(crate) target: String,
    /// Only what this run had set aside
    #[arg(long, value_name = "RUN", value_parser = parse_run)]
    pub(crate) only_run: Option<RunId>,
    /// What was to go to this target; by default that which is loaded into now
    #[arg(long, value_name = "TARGET")]
    pub(crate) of_target: Option<String>,
    /// How rows come to the target: append (the default), merge (rows with a known key are updated, others inserted)
    #[arg(long, value_name = "MODE", value_parser = parse_mode)]
    pub(crate) mode: Option<LoadMode>,
    /// Key columns of the mode merge
    #[arg(long, value_name = "COL,…", value_delimiter = ',')]
    pub(crate) key: Vec<String>,
    /// Only these columns, in this order, as they were copied
    #[arg(long, value_name = "COL,…", value_delimiter = ',')]
    pub(crate) columns: Option<Vec<String>>,
    /// Only rows for which this is true, as they were copied
    #[arg(long = "where", value_name = "EXPRESSION", allow_hyphen_values = true)]
    pub(crate) filter: Option<String>,
    /// An option with which records of the source are read now, over those of the run that set them aside, such as
    /// types=price:text (may be repeated)
    #[arg(long, value_name = "KEY=VALUE", value_parser = parse_pair)]
    pub(crate) source_option: Vec<(String, String)>,
    /// An option of the target (may be repeated)
    #[arg(long, value_name = "KEY=VALUE", value_parser = parse_pair)]
    pub(crate) target_option: Vec<(String, String)>,
    /// With a pipeline file: a variable, or a place in the file (may be repeated)
    #[arg(long, value_name = "KEY=VALUE", value_parser = parse_pair)]
    pub(crate) set: Vec<(String, String)>,
    /// More records than this that fail again end a load, whose records all stay: a number, or a part such as 10%
    #[arg(long, value_name = "N|N%", value_parser = parse_max_errors)]
    pub(crate) max_errors: Option<MaxErrors>,
    /// How far the target is checked before it is published: receipts, full
    #[arg(long, value_name = "HOW", value_parser = parse_verify)]
    pub(crate) verify: Option<Verify>,
    #[command(flatten)]
    pub(crate) means: Means,
}

impl ReplayArgs {
    /// What they say of a copy.
    pub(crate) fn copy(&self) -> CopyOptions {
        CopyOptions {
            mode: self.mode,
            key: self.key.clone(),
            columns: self.columns.clone(),
            filter: self.filter.clone(),
            target_option: self.target_option.clone(),
            is_compared: true,
            ..CopyOptions::default()
        }
    }
}

#[derive(Debug, clap::Args)]
pub(crate) struct RunsArgs {
    /// One run, of which more is told; the end of its id is enough
    pub(crate) run: Option<String>,
    /// So many of the newest
    #[arg(long, value_name = "N", default_value_t = 20)]
    pub(crate) last: usize,
    /// All that are known
    #[arg(long, conflicts_with = "last")]
    pub(crate) all: bool,
    /// How the list is written
    #[arg(long, value_enum, default_value_t)]
    pub(crate) output: Output,
}

#[derive(Debug, clap::Args)]
pub(crate) struct ResumeArgs {
    /// The run, as `etlrs runs` lists it; the end of its id is enough
    pub(crate) run: String,
    /// A variable that the command set, whose value is not kept (may be repeated)
    #[arg(long, value_name = "KEY=VALUE", value_parser = parse_pair)]
    pub(crate) set: Vec<(String, String)>,
    #[command(flatten)]
    pub(crate) means: Means,
}

#[derive(Debug, clap::Args)]
pub(crate) struct ForgetArgs {
    /// The run, as `etlrs runs` lists it; the end of its id is enough
    pub(crate) run: String,
    /// A variable that the command set, whose value is not kept (may be repeated)
    #[arg(long, value_name = "KEY=VALUE", value_parser = parse_pair)]
    pub(crate) set: Vec<(String, String)>,
}

fn parse_pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        // As `etlrs runs` shows a command.
        Some((key, "***")) => Err(format!("*** stands for a value that is not shown: give that of {key}")),
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("it must be of the form KEY=VALUE".into()),
    }
}

fn parse_size(text: &str) -> Result<usize, String> {
    match parse_bytes(text) {
        Ok(size) if size < 1 << 20 => Err("it must be at least 1MB".into()),
        parsed => parsed.map_err(|error| error.to_string()),
    }
}

fn parse_run(text: &str) -> Result<RunId, String> {
    text.parse().map_err(|error: etlrs::Error| error.to_string())
}

fn parse_mode(text: &str) -> Result<LoadMode, String> {
    text.parse().map_err(|error: etlrs::Error| error.to_string())
}

fn parse_verify(text: &str) -> Result<Verify, String> {
    text.parse().map_err(|error: etlrs::Error| error.to_string())
}

fn parse_on_error(text: &str) -> Result<OnError, String> {
    text.parse().map_err(|error: etlrs::Error| error.to_string())
}

fn parse_max_errors(text: &str) -> Result<MaxErrors, String> {
    text.parse().map_err(|error: etlrs::Error| error.to_string())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_sound() {
        super::Args::command().debug_assert();
    }
}
