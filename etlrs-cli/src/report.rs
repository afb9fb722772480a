//! Plans and results as text and as JSON.

use std::fmt::Write;

use etlrs::{
    Adjustment, Error, Limit, MemoryAnalysis, Plan, Resumed, RunReport, Uri, diagnose_memory_usage,
    diagnose_throughput, format_bytes, type_name,
};
use serde_json::{Value, json};

use crate::allocator::allocated;
use crate::describe::{NAME, align, short};

/// Seconds of a run of which nobody wants to know what limited it.
const SHORT: f64 = 1.0;

pub(crate) fn run_text(source: &Uri, target: &Uri, quarantine: Option<&Uri>, report: &RunReport) -> String {
    let seconds = report.elapsed.as_secs_f64();
    let rows = [report.rows_read, report.rows_rejected, report.rows_dropped, report.load.records_loaded].map(count);
    let width = rows.iter().map(String::len).max().unwrap_or(0);
    let [read, rejected, dropped, written] = rows;
    let mut text = String::new();
    let mut line = |name: &str, value: String| {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "  {name:<9} {value}");
    };
    let bytes = |bytes: u64| if bytes > 0 { format!("  {:>8}", size(bytes)) } else { String::new() };
    line("read", format!("{read:>width$} rows{}", bytes(report.bytes_read)));
    if let Some(place) = quarantine {
        let place = if report.rows_rejected > 0 { format!(" → {place}") } else { String::new() };
        line("rejected", format!("{rejected:>width$} rows{place}"));
    }
    line("dropped", format!("{dropped:>width$} rows"));
    line("written", format!("{written:>width$} rows{}", bytes(report.load.bytes_written)));
    if let Some(Resumed { partitions, rows, published, .. }) = report.resumed {
        let (pieces, rows) = (number(partitions as u64, "piece"), number(rows, "row"));
        line(
            "resumed",
            match published {
                true => format!("the run {} had published {rows}, and nothing was left to do", report.run),
                false => format!("the run {}, which had staged {pieces} with {rows}", report.run),
            },
        );
    }
    // Of what this process read.
    let rows: u64 = report.loaded.iter().map(|partition| partition.rows_read).sum();
    let rate = count((rows as f64 / seconds.max(1e-6)) as u64);
    line("time", format!("{seconds:.2} s, {rate} rows/s, {}", workers(report)));
    let memory = diagnose_memory_usage(report, Some(allocated()), 0);
    line("memory", memory.verdict);
    let checked = match report.target_checksum {
        Some(_) => "source = target, read back before it was published",
        None => "of the source; the target confirmed the row count of each piece",
    };
    line("checksum", format!("{} {checked}", report.source_checksum));
    let analysis = diagnose_throughput(report);
    // Nobody asks of a run that was over in a moment.
    if analysis.limit != Limit::Nothing && seconds >= SHORT {
        line("limit", analysis.verdict);
        line("", analysis.advice);
    }
    if report.retries > 0 {
        line("retries", count(report.retries));
    }
    for adjustment in &report.adjustments {
        line("tuned", adjustment.to_string());
    }
    for alert in &report.alerts {
        line("alert", alert.to_string());
    }
    if let Some(first) = &report.first_rejected {
        line("first", format!("rejected: {first}"));
    }
    if let Some(cursor) = &report.cursor {
        let from = report.cursor_after.as_ref().map_or_else(String::new, |after| format!("from {after} "));
        let saved = if report.cursor_saved { ", where the next run goes on" } else { "" };
        line("cursor", format!("read {from}up to {cursor}{saved}"));
    }
    for note in &report.notes {
        line("note", note.clone());
    }
    format!("{source} → {target}\n{text}")
}

fn workers(report: &RunReport) -> String {
    format!("{} on {}", number(report.partitions as u64, "piece"), number(report.workers as u64, "thread"))
}

pub(crate) fn run_json(source: &Uri, target: &Uri, quarantine: Option<&Uri>, report: &RunReport) -> Value {
    let analysis = diagnose_throughput(report);
    let stages = report.stages.iter().map(|stage| {
        json!({
            "name": stage.name,
            "kind": stage.kind.as_str(),
            "busy_seconds": stage.busy.as_secs_f64(),
            "blocked_seconds": stage.blocked.as_secs_f64(),
            "waiting_seconds": stage.waiting.as_secs_f64(),
            "rows": stage.rows,
            "batches": stage.batches,
        })
    });
    json!({
        "run": report.run.to_string(),
        "source": source.to_string(),
        "target": target.to_string(),
        "success": report.load.success,
        "rows_read": report.rows_read,
        "rows_rejected": report.rows_rejected,
        "rows_dropped": report.rows_dropped,
        "rows_written": report.load.records_loaded,
        "quarantine": quarantine.filter(|_| report.rows_rejected > 0).map(ToString::to_string),
        "first_rejected": report.first_rejected,
        "bytes_read": report.bytes_read,
        "bytes_written": report.load.bytes_written,
        "seconds": report.elapsed.as_secs_f64(),
        "verify": report.verify.as_str(),
        "source_checksum": report.source_checksum.to_string(),
        "target_checksum": report.target_checksum.map(|checksum| checksum.to_string()),
        "partitions": report.partitions,
        "resumed": report.resumed.map(|resumed| {
            json!({ "partitions": resumed.partitions, "rows": resumed.rows, "published": resumed.published })
        }),
        "threads": report.workers,
        "retries": report.retries,
        "limit": {
            "what": analysis.limit.as_str(),
            "cpu_bound": analysis.cpu_bound,
            "io_bound": analysis.io_bound,
            "network_bound": analysis.network_bound,
            "memory_bound": analysis.memory_bound,
            "stage": analysis.stage,
            "share": analysis.share,
            "verdict": analysis.verdict,
            "advice": analysis.advice,
        },
        "memory": memory(&diagnose_memory_usage(report, Some(allocated()), 0)),
        "stages": stages.collect::<Vec<_>>(),
        "adjustments": report.adjustments.iter().map(adjustment).collect::<Vec<_>>(),
        "alerts": report.alerts.iter().map(|alert| json!({ "name": alert.name(), "message": alert.to_string() })).collect::<Vec<_>>(),
        "cursor": report.cursor,
        "cursor_after": report.cursor_after,
        "cursor_saved": report.cursor_saved,
        "notes": report.notes,
    })
}

/// What is told of a run that failed, or could not begin.
pub(crate) fn failed_json(ends: Option<&(Uri, Uri)>, error: &Error) -> Value {
    let position = error.position();
    json!({
        "source": ends.map(|(source, _)| source.to_string()),
        "target": ends.map(|(_, target)| target.to_string()),
        "success": false,
        "error": {
            "kind": format!("{:?}", error.kind()),
            "message": error.to_string(),
            "place": position.source,
            "record": position.record,
            "row": position.row,
            "line": position.line,
            "byte": position.byte,
            "column": position.column,
        },
    })
}

fn memory(analysis: &MemoryAnalysis) -> Value {
    let uses = analysis.uses.iter().map(|part| json!({ "name": part.name, "bytes": part.bytes }));
    json!({
        "budget": analysis.budget,
        "allocated": analysis.allocator.map(|allocator| allocator.live),
        "allocated_peak": analysis.allocator.map(|allocator| allocator.peak),
        "resident": analysis.process.resident,
        "resident_peak": analysis.process.resident_peak,
        "largest_batch": analysis.largest_batch,
        "uses": uses.collect::<Vec<_>>(),
        "verdict": analysis.verdict,
        "advice": analysis.advice,
    })
}

fn adjustment(adjustment: &Adjustment) -> Value {
    json!({
        "at_seconds": adjustment.at.as_secs_f64(),
        "setting": adjustment.setting.as_str(),
        "from": adjustment.from,
        "to": adjustment.to,
        "reason": adjustment.reason,
        "rows_per_second_before": adjustment.before,
        "rows_per_second_after": adjustment.after,
        "kept": adjustment.kept,
        "text": adjustment.to_string(),
    })
}

pub(crate) fn plan_text(source: &Uri, target: &Uri, quarantine: Option<&Uri>, plan: &Plan) -> String {
    let mut text = format!("{source} → {target} ({}", plan.mode);
    text.push_str(if plan.atomic { ", all rows visible at once)\n" } else { ", not atomic)\n" });
    let bytes: Option<u64> = plan.partitions.iter().map(|partition| partition.bytes).sum();
    let rows: Option<u64> = plan.partitions.iter().map(|partition| partition.rows).sum();
    let size = [rows.map(|rows| number(rows, "row")), bytes.map(size)];
    let size: Vec<_> = size.into_iter().flatten().collect();
    if !plan.transformers.is_empty() {
        // One that adds several columns is several in a row.
        let mut through = plan.transformers.clone();
        through.dedup();
        let _ = writeln!(text, "  through {}", through.join(" → "));
    }
    let _ = writeln!(
        text,
        "  {} in {} on {}, at most {} of memory\n",
        if size.is_empty() { "rows of unknown number".to_owned() } else { size.join(", ") },
        number(plan.partitions.len() as u64, "piece"),
        number(plan.workers as u64, "thread"),
        format_bytes(plan.memory)
    );
    let mut table = vec![["column".to_owned(), "source".into(), "type".into(), "target".into()]];
    for (index, field) in plan.schema.fields().iter().enumerate() {
        let source_type = plan.source_schema.field_with_name(field.name()).map(|field| type_name(field.data_type()));
        let null = if field.is_nullable() { "" } else { " not null" };
        table.push([
            short(field.name(), NAME),
            source_type.unwrap_or_else(|_| "–".into()),
            format!("{}{null}", type_name(field.data_type())),
            plan.target.column_types.get(index).cloned().unwrap_or_default(),
        ]);
    }
    text.push_str(&align(&table));
    for ddl in &plan.target.ddl {
        let _ = writeln!(text, "\n{ddl}");
    }
    let kept = quarantine.map(|place| format!("records that cannot be read are kept in {place}"));
    let notes: Vec<_> = kept.iter().chain(&plan.notes).chain(&plan.target.notes).collect();
    if !notes.is_empty() {
        text.push('\n');
    }
    for note in notes {
        let _ = writeln!(text, "  note: {note}");
    }
    text
}

pub(crate) fn plan_json(source: &Uri, target: &Uri, quarantine: Option<&Uri>, plan: &Plan) -> Value {
    let columns = plan.schema.fields().iter().enumerate().map(|(index, field)| {
        json!({
            "name": field.name(),
            "type": type_name(field.data_type()),
            "nullable": field.is_nullable(),
            "target_type": plan.target.column_types.get(index),
        })
    });
    let partitions = plan.partitions.iter().map(
        |partition| json!({ "descriptor": partition.descriptor, "rows": partition.rows, "bytes": partition.bytes }),
    );
    json!({
        "source": source.to_string(),
        "target": target.to_string(),
        "quarantine": quarantine.map(ToString::to_string),
        "mode": plan.mode.as_str(),
        "atomic": plan.atomic,
        "threads": plan.workers,
        "memory": plan.memory,
        "transforms": plan.transformers,
        "columns": columns.collect::<Vec<_>>(),
        "partitions": partitions.collect::<Vec<_>>(),
        "ddl": plan.target.ddl,
        "notes": plan.notes.iter().chain(&plan.target.notes).collect::<Vec<_>>(),
    })
}

/// What there is of the results of `jobs`: a list if there are several jobs, else the object.
pub(crate) fn print_all(mut values: Vec<Value>, jobs: usize) {
    match values.len() {
        0 if jobs < 2 => {}
        1 if jobs == 1 => crate::print_json(&values.remove(0)),
        _ => crate::print_json(&Value::Array(values)),
    }
}

/// 1 piece, 2 pieces.
pub(crate) fn number(number: u64, what: &str) -> String {
    format!("{} {what}{}", count(number), if number == 1 { "" } else { "s" })
}

/// 1234567 as 1,234,567.
pub(crate) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut grouped = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

fn size(bytes: u64) -> String {
    format_bytes(usize::try_from(bytes).unwrap_or(usize::MAX))
}

#[cfg(test)]
mod tests {
    use super::count;

    #[test]
    fn counts_are_grouped() {
        for (number, text) in
            [(0, "0"), (999, "999"), (1000, "1,000"), (336_776, "336,776"), (12_345_678, "12,345,678")]
        {
            assert_eq!(count(number), text);
        }
    }
}
