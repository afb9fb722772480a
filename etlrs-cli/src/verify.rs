//! `verify`.

use std::fmt::Write;

use arrow_cast::cast;
use arrow_cast::display::{ArrayFormatter, FormatOptions};
use etlrs::{
    CancelToken, CompareOptions, DataType, Difference, Error, ErrorKind, Partition, Pipeline, RecordBatch, Repair,
    Result, RunReport, Side, Unexpected, Uri, Verification,
};
use serde_json::{Value, json};

use crate::args::VerifyArgs;
use crate::describe::{NAME, short};
use crate::report::{count, failed_json, number, print_all, run_json, run_text};
use crate::run::{self, Verified};

/// Pieces that are named of each side.
const PIECES: usize = 10;

pub(crate) async fn verify(args: VerifyArgs, cancel: CancelToken) -> Result<()> {
    let jobs = run::verified_jobs(&args, &cancel).await?;
    let (mut results, count, mut failed) = (Vec::new(), jobs.len(), None);
    for job in jobs {
        // All are compared, whatever comes of one.
        if let Err(error) = verify_one(&job, &args, &mut results).await {
            if count > 1 && !args.output.is_json() {
                crate::tell(&format!("error: {error}"));
            }
            failed.get_or_insert(error);
        }
        if let Err(cancelled) = cancel.check() {
            failed.get_or_insert(cancelled);
            break;
        }
    }
    if args.output.is_json() {
        let is_one = count == 1 && results.len() == 1;
        print_all(results, if is_one { 1 } else { 2 });
    }
    match failed {
        Some(error) if error.kind() == ErrorKind::Cancelled => Err(error),
        Some(_) if count > 1 && !args.output.is_json() => {
            Err(Error::new(ErrorKind::VerifyFailed, "not all targets are as they should be"))
        }
        Some(error) => Err(error),
        None => Ok(()),
    }
}

async fn verify_one(job: &Verified, args: &VerifyArgs, results: &mut Vec<Value>) -> Result<()> {
    let mut told = Told { job, is_json: args.output.is_json(), results };
    let compared = match compare_and_repair(job, args, &mut told).await {
        Ok(comparison) if comparison.is_equal() => Ok(()),
        Ok(comparison) => return Err(differs(&job.target, &job.pipeline, &comparison, args)),
        Err(error) => Err(error),
    };
    compared.inspect_err(|error| {
        if told.is_json {
            told.results.push(failed_json(Some(&(job.source.clone(), job.target.clone())), error));
        }
    })
}

/// How it is at the end.
async fn compare_and_repair(job: &Verified, args: &VerifyArgs, told: &mut Told<'_>) -> Result<Verification> {
    let Verified { target, pipeline, extractor, .. } = job;
    let mut options = CompareOptions::default();
    options.keys.clone_from(&args.key);
    options.examples = args.show;
    let unexpected = if args.remove_unexpected { Unexpected::Remove } else { Unexpected::Keep };
    let mut may_repeat = true;
    loop {
        let comparison = pipeline.compare(extractor.clone(), &options).await.map_err(|error| match error.kind() {
            ErrorKind::NotFound | ErrorKind::InvalidData
                if args.repair && error.to_string().starts_with("the target") =>
            {
                error.hint("what cannot be read is not repaired: load all of it, in the mode replace")
            }
            _ => error,
        })?;
        told.comparison(&comparison);
        if comparison.is_equal() || !args.repair {
            return Ok(comparison);
        }
        let report = match pipeline.repair(&comparison, unexpected).await {
            // Removing what an earlier repair left, which was killed, touches the files that stay.
            Err(error) if error.kind() == ErrorKind::SourceChanged && may_repeat => {
                may_repeat = false;
                continue;
            }
            done => done.map_err(|error| error.in_source(target))?,
        };
        told.repair(&report);
        let repaired = pipeline.compare(extractor.clone(), &options).await;
        // Of another kind, for the target is not as it was.
        let not_compared = |error: Error| {
            let message = "it was repaired, and was not compared again";
            Error::new(ErrorKind::VerifyFailed, message).caused_by(error).in_source(target)
        };
        let repaired = repaired.map_err(not_compared)?;
        told.comparison(&repaired);
        return Ok(repaired);
    }
}

/// Tells what was done, as it is done; for programs, at the end.
struct Told<'a> {
    job: &'a Verified,
    is_json: bool,
    results: &'a mut Vec<Value>,
}

impl Told<'_> {
    fn comparison(&mut self, comparison: &Verification) {
        let Verified { source, target, .. } = self.job;
        match self.is_json {
            true => self.results.push(verification_json(source, target, comparison)),
            false => crate::print(&verification_text(source, target, comparison)),
        }
    }

    fn repair(&mut self, report: &RunReport) {
        let Verified { source, target, .. } = self.job;
        match self.is_json {
            true => self.results.push(run_json(source, target, None, report)),
            false => crate::print(&format!("\n{}\n", run_text(source, target, None, report))),
        }
    }
}

fn differs(target: &Uri, pipeline: &Pipeline, comparison: &Verification, args: &VerifyArgs) -> Error {
    let error = Error::new(ErrorKind::VerifyFailed, format!("the target differs: {}", sentence(comparison)));
    let Verification { missing, changed, unexpected, keys, .. } = comparison;
    let mut hints = Vec::new();
    let repair = pipeline.repair_plan(comparison);
    let by_files = matches!(repair, Ok(Repair::ReplaceFiles { .. }));
    match (args.repair, missing + changed > 0 || by_files) {
        (true, true) => hints.push("what is written becomes other values, or somebody else writes there".to_owned()),
        (false, true) => {
            if keys.is_empty() {
                hints.push("with --key COL the rows that changed are told as such".to_owned());
            }
            hints.extend(repair.ok().map(|repair| what_repairs(&repair, comparison)));
        }
        _ => {}
    }
    if *unexpected > 0 && !by_files {
        let hint = "rows that only the target has are to be removed there, or all are loaded in the mode replace";
        hints.push(hint.to_owned());
    }
    if args.show == 0 {
        hints.push("--show 20 lists rows with their values".to_owned());
    }
    match hints.as_slice() {
        [] => error.in_source(target),
        hints => error.hint(hints.join("; ")).in_source(target),
    }
}

fn what_repairs(repair: &Repair, comparison: &Verification) -> String {
    match repair {
        Repair::ReplaceFiles { pieces, files, kept } => {
            let (pieces, of) = (number(pieces.len() as u64, "piece"), kept + files.len());
            // Which is so where the source was cut in another way.
            let fewer = if *kept == 0 && of > 1 { " (less with the --partitions of its load)" } else { "" };
            let of = number(of as u64, "file");
            let of = format!("loads {pieces} again, in place of {} of {of}{fewer}", files.len());
            match comparison.unexpected {
                _ if files.is_empty() => format!("--repair loads {pieces}"),
                0 if comparison.is_whole => format!("--repair {of}"),
                0 => format!("--repair --remove-unexpected {of}, and rows that only the target has go with them"),
                rows => {
                    let least = if comparison.is_whole { "" } else { "at least " };
                    let rows = number(rows, "row");
                    format!(
                        "--repair --remove-unexpected {of}, and {least}{rows} that only the target has go with them"
                    )
                }
            }
        }
        _ => "--repair loads those again that are missing or changed".to_owned(),
    }
}

/// What differs.
fn sentence(comparison: &Verification) -> String {
    let Verification { missing, unexpected, changed, .. } = *comparison;
    let parts = [(missing, "missing"), (changed, "changed"), (unexpected, "unexpected")];
    let parts: Vec<_> = parts
        .into_iter()
        .filter(|(rows, _)| *rows > 0)
        .map(|(rows, what)| format!("{} {}", number(rows, "row"), what))
        .collect();
    let least = if comparison.is_whole { "" } else { "at least " };
    match parts.as_slice() {
        // They differ in rows that were not looked at.
        [] => "in more rows than could be looked at".to_owned(),
        parts => format!("{least}{}", parts.join(", ")),
    }
}

fn verification_text(source: &Uri, target: &Uri, comparison: &Verification) -> String {
    let Verification { source: there, target: here, keys, rejected, notes, elapsed, .. } = comparison;
    let sign = if comparison.is_equal() { '=' } else { '≠' };
    let mut text = format!("{source} {sign} {target}\n");
    let mut line = |name: &str, value: &str| {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "  {name:<9} {value}");
    };
    let rows = [there.checksum.rows(), here.checksum.rows()];
    match comparison.is_equal() {
        true => {
            line("rows", &count(rows[0]));
            line("checksum", &format!("{} on both sides", there.checksum));
        }
        false => {
            line("rows", &format!("{} of the source, {} at the target", count(rows[0]), count(rows[1])));
            line("checksum", &format!("{} of the source, {} at the target", there.checksum, here.checksum));
            line("differ", &sentence(comparison));
        }
    }
    if !keys.is_empty() {
        line("key", &keys.join(", "));
    }
    for (name, Side { differing, .. }) in [("source", there), ("target", here)] {
        for (partition, rows) in differing.iter().take(PIECES) {
            line(name, &format!("{}: {}", piece(partition), number(*rows, "row")));
        }
        if differing.len() > PIECES {
            line(name, &format!("and {}", number((differing.len() - PIECES) as u64, "more piece")));
        }
    }
    if *rejected > 0 {
        line("rejected", &format!("{} of the source, which are not compared", number(*rejected, "record")));
    }
    for note in notes {
        line("note", note);
    }
    for difference in &comparison.examples {
        let (what, row) = row_text(difference, keys);
        line(what, &row);
    }
    let seconds = elapsed.as_secs_f64();
    line("time", &format!("{seconds:.2} s, {} rows/s", count(((rows[0] + rows[1]) as f64 / seconds.max(1e-6)) as u64)));
    text
}

fn piece(partition: &Partition) -> String {
    match &partition.source {
        Some(source) if !partition.descriptor.contains(&**source) => format!("{source}, {}", partition.descriptor),
        _ => partition.descriptor.clone(),
    }
}

/// What is wrong with a row, and its values.
fn row_text(difference: &Difference, keys: &[String]) -> (&'static str, String) {
    let values = |row: &RecordBatch, only: &dyn Fn(&str) -> bool| {
        let shown = cells(row).into_iter().filter(|(name, _)| only(name));
        shown.map(|(name, value)| format!("{name} {}", show(value.as_deref()))).collect::<Vec<_>>().join(", ")
    };
    let is_key = |name: &str| keys.iter().any(|key| key == name);
    match (&difference.source, &difference.target) {
        (Some((source, _)), Some((target, _))) => {
            // Columns are in one order on both sides, and may differ in the case of their names. What is the same in another type
            // may look different.
            let alike = cells(&alike(target, source));
            let pairs = cells(source).into_iter().zip(cells(target)).zip(alike);
            let other = pairs.filter(|(((_, one), (_, other)), (_, alike))| one != other && one != alike);
            let other = other.map(|(((name, one), (_, other)), _)| {
                format!("{name} {} became {}", show(one.as_deref()), show(other.as_deref()))
            });
            let other = other.collect::<Vec<_>>().join(", ");
            // Types may differ in what they show, and hide what differs.
            let other = if other.is_empty() { "values that look the same differ".to_owned() } else { other };
            ("changed", format!("{}: {other}", values(source, &is_key)))
        }
        (Some((row, place)), None) => ("missing", format!("{} ({place})", values(row, &|_| true))),
        (None, Some((row, place))) => ("unexpected", format!("{} ({place})", values(row, &|_| true))),
        (None, None) => ("", String::new()),
    }
}

fn show(value: Option<&str>) -> String {
    match value {
        None => "∅".to_owned(),
        // So that it is seen, and not taken for a null.
        Some(value) if value.trim() != value || ["", "∅"].contains(&value) => format!("{:?}", short(value, NAME)),
        Some(value) => short(value, NAME),
    }
}

/// The times of `row` in the types of `like`: with a zone or without, as far as they have them.
fn alike(row: &RecordBatch, like: &RecordBatch) -> RecordBatch {
    let columns = row.columns().iter().zip(like.columns());
    let columns = columns.map(|(column, like)| match (column.data_type(), like.data_type()) {
        (DataType::Timestamp(..), like @ DataType::Timestamp(..)) => {
            cast(column, like).unwrap_or_else(|_| column.clone())
        }
        _ => column.clone(),
    });
    let named = row.schema_ref().fields().iter().map(|field| field.name()).zip(columns);
    RecordBatch::try_from_iter(named).unwrap_or_else(|_| row.clone())
}

/// The names and values of the one row of `row`.
fn cells(row: &RecordBatch) -> Vec<(String, Option<String>)> {
    let format = FormatOptions::default();
    let cell = |at: usize| {
        let column = row.column(at);
        let text = (!column.is_null(0)).then(|| ArrayFormatter::try_new(column, &format).ok());
        text.map(|formatter| formatter.map_or_else(|| "?".to_owned(), |formatter| formatter.value(0).to_string()))
    };
    row.schema_ref().fields().iter().enumerate().map(|(at, field)| (field.name().clone(), cell(at))).collect()
}

fn verification_json(source: &Uri, target: &Uri, comparison: &Verification) -> Value {
    let side = |uri: &Uri, side: &Side| {
        let pieces = side.differing.iter().map(|(partition, rows)| {
            json!({ "descriptor": partition.descriptor, "source": partition.source.as_deref(), "rows": rows })
        });
        json!({
            "uri": uri.to_string(),
            "rows": side.checksum.rows(),
            "checksum": side.checksum.to_string(),
            "pieces": side.partitions,
            "differing": pieces.collect::<Vec<_>>(),
        })
    };
    let row = |row: &Option<(RecordBatch, String)>| {
        row.as_ref().map(|(row, place)| {
            let values: serde_json::Map<_, _> =
                cells(row).into_iter().map(|(name, value)| (name, value.map_or(Value::Null, Value::from))).collect();
            json!({ "values": values, "piece": place })
        })
    };
    json!({
        "equal": comparison.is_equal(),
        "source": side(source, &comparison.source),
        "target": side(target, &comparison.target),
        "key": comparison.keys,
        "missing": comparison.missing,
        "changed": comparison.changed,
        "unexpected": comparison.unexpected,
        "whole": comparison.is_whole,
        "rejected": comparison.rejected,
        "examples": comparison.examples.iter().map(|difference| {
            json!({ "source": row(&difference.source), "target": row(&difference.target) })
        }).collect::<Vec<_>>(),
        "seconds": comparison.elapsed.as_secs_f64(),
        "notes": comparison.notes,
    })
}
