//! `inspect` and `connectors`.

use std::fmt::Write;

use arrow_cast::display::{ArrayFormatter, FormatOptions};
use etlrs::{Connector, OptionSpec, PerformanceConfig, Result, ScanRequest, Uri, registry, type_name, unknown_name};
use serde_json::json;

use crate::args::{Inspect, Output};
use crate::report::number;

pub(crate) async fn inspect(args: Inspect) -> Result<()> {
    let uri = Uri::from(args.source.as_str());
    let mut options = crate::run::option_map(&args.source_option)?;
    if let Some(query) = &args.query {
        options.insert("query".into(), query.clone());
    }
    let registry = registry();
    let connector = registry.find(&uri)?;
    if args.columns.is_none()
        && !options.contains_key("query")
        && let Some(tables) = etlrs::list_tables(&registry, &uri, &options).await?
    {
        list(&uri, connector.name(), &tables, args.output);
        return Ok(());
    }
    let extractor = connector.extractor(&uri, &options)?;
    let mut request = ScanRequest::all();
    request.columns = args.columns;
    let seen = etlrs::inspect(extractor, request, PerformanceConfig::default(), args.rows).await?;
    let format = FormatOptions::default().with_null(if args.output.is_json() { "" } else { "∅" });
    let mut rows: Vec<Vec<Option<String>>> = Vec::new();
    for batch in seen.rows.batches() {
        let columns = batch.columns().iter().map(|column| Ok((column, ArrayFormatter::try_new(column, &format)?)));
        let columns = columns.collect::<Result<Vec<_>>>()?;
        for row in 0..batch.num_rows() {
            let cells = columns.iter().map(|(column, cells)| {
                if column.is_null(row) {
                    return Ok(None);
                }
                let cell = cells.value(row).try_to_string()?;
                Ok(Some(cell))
            });
            rows.push(cells.collect::<Result<_>>()?);
        }
    }
    let fields = seen.rows.schema().fields();
    let bytes: Option<u64> = seen.partitions.iter().map(|partition| partition.bytes).sum();
    let total: Option<u64> = seen.partitions.iter().map(|partition| partition.rows).sum();
    if args.output.is_json() {
        let names = || fields.iter().map(|field| field.name().clone());
        let rows = rows
            .into_iter()
            .map(|row| serde_json::Value::Object(names().zip(row.into_iter().map(|cell| json!(cell))).collect()));
        crate::print_json(&json!({
            "source": uri.to_string(),
            "connector": connector.name(),
            "rows": total,
            "bytes": bytes,
            "partitions": seen.partitions.iter().map(|partition| &partition.descriptor).collect::<Vec<_>>(),
            "columns": fields.iter().map(|field| json!({
                "name": field.name(), "type": type_name(field.data_type()), "nullable": field.is_nullable(),
            })).collect::<Vec<_>>(),
            "first_rows": rows.collect::<Vec<_>>(),
            "found": seen.details.iter().map(|detail| json!({
                "item": detail.item, "value": detail.value, "reason": detail.reason,
            })).collect::<Vec<_>>(),
            "notes": seen.notes,
        }));
        return Ok(());
    }
    let mut text = format!("{uri} ({})\n  {}", connector.name(), number(fields.len() as u64, "column"));
    for (n, what) in [(total, "row"), (bytes, "byte"), (Some(seen.partitions.len() as u64), "piece")] {
        if let Some(n) = n {
            let _ = write!(text, ", {}", number(n, what));
        }
    }
    text.push('\n');
    for detail in &seen.details {
        let _ = write!(text, "\n  {} {} ({})", detail.item, detail.value, detail.reason);
    }
    text.push_str(if seen.details.is_empty() { "\n" } else { "\n\n" });
    let mut columns = vec![["column".to_owned(), "type".into(), "first value".into()]];
    for (index, field) in fields.iter().enumerate() {
        let first = rows.iter().find_map(|row| row[index].clone()).unwrap_or_else(|| "∅".into());
        let null = if field.is_nullable() { "" } else { " not null" };
        columns.push([short(field.name(), NAME), format!("{}{null}", type_name(field.data_type())), short(&first, 40)]);
    }
    text.push_str(&align(&columns));
    if !rows.is_empty() {
        text.push('\n');
        let mut table = vec![fields.iter().map(|field| short(field.name(), NAME)).collect::<Vec<_>>()];
        table.extend(rows.iter().map(|row| {
            row.iter().map(|cell| cell.as_deref().map_or("∅".to_owned(), |cell| short(cell, 24))).collect()
        }));
        text.push_str(&align(&table));
    }
    for note in &seen.notes {
        let _ = write!(text, "\n  note: {note}");
    }
    if !seen.notes.is_empty() {
        text.push('\n');
    }
    crate::print(&text);
    Ok(())
}

/// What there is to inspect.
fn list(uri: &Uri, connector: &str, tables: &[Uri], output: Output) {
    if output.is_json() {
        let tables: Vec<_> = tables.iter().map(ToString::to_string).collect();
        crate::print_json(&json!({ "source": uri.to_string(), "connector": connector, "tables": tables }));
        return;
    }
    let mut text = format!("{uri} ({connector})\n  {}\n", number(tables.len() as u64, "table"));
    for table in tables {
        let _ = write!(text, "\n  {table}");
    }
    text.push('\n');
    crate::print(&text);
}

/// Characters of a name at the most.
pub(crate) const NAME: usize = 60;

/// One line, and no longer than `most` characters.
pub(crate) fn short(text: &str, most: usize) -> String {
    let escaped: String = text.chars().map(|c| if c.is_control() { '␤' } else { c }).collect();
    if escaped.chars().count() <= most {
        return escaped;
    }
    escaped.chars().take(most - 1).chain(['…']).collect()
}

/// Rows of cells in columns as wide as their widest cell; the first row is a heading.
pub(crate) fn align<R: AsRef<[String]>>(rows: &[R]) -> String {
    let columns = rows.first().map_or(0, |row| row.as_ref().len());
    let widths: Vec<_> = (0..columns)
        .map(|column| rows.iter().map(|row| row.as_ref()[column].chars().count()).max().unwrap_or(0))
        .collect();
    let mut text = String::new();
    for (index, row) in rows.iter().enumerate() {
        let cells: Vec<_> = row.as_ref().iter().zip(&widths).map(|(cell, width)| pad(cell, *width)).collect();
        let _ = writeln!(text, "  {}", cells.join("  ").trim_end());
        if index == 0 {
            let rules: Vec<_> = widths.iter().map(|width| "─".repeat(*width)).collect();
            let _ = writeln!(text, "  {}", rules.join("  "));
        }
    }
    text
}

/// `cell` and blanks up to `width`, which may be more than what formatting takes.
fn pad(cell: &str, width: usize) -> String {
    format!("{cell}{}", " ".repeat(width.saturating_sub(cell.chars().count())))
}

pub(crate) fn connectors(name: Option<&str>, output: Output) -> Result<()> {
    let registry = registry();
    let Some(name) = name else {
        if output.is_json() {
            let all: Vec<_> = registry.connectors().iter().map(|connector| connector_json(&**connector)).collect();
            crate::print_json(&json!(all));
            return Ok(());
        }
        let mut table =
            vec![["connector".to_owned(), "reads".into(), "writes".into(), "example".into(), "what".into()]];
        for connector in registry.connectors() {
            let yes = |there: bool| if there { "yes" } else { "no" }.to_owned();
            table.push([
                connector.name().to_owned(),
                yes(connector.source_options().is_some()),
                yes(connector.target_options().is_some()),
                connector.example().to_owned(),
                connector.summary().to_owned(),
            ]);
        }
        crate::print(&format!("{}\n`etlrs connectors NAME` lists the options of one.\n", align(&table)));
        return Ok(());
    };
    let connector = registry.connectors().iter().find(|connector| connector.name() == name).ok_or_else(|| {
        let names: Vec<_> = registry.connectors().iter().map(|connector| connector.name()).collect();
        unknown_name("connector", name, &names)
    })?;
    if output.is_json() {
        crate::print_json(&connector_json(&**connector));
        return Ok(());
    }
    let mut text = format!("{}: {}, such as {}\n", connector.name(), connector.summary(), connector.example());
    let ends = [
        ("source", "--source-option", connector.source_options()),
        ("target", "--target-option", connector.target_options()),
    ];
    for (end, flag, specs) in ends {
        match specs {
            None => {
                let _ = write!(text, "\nNot a {end}.\n");
            }
            Some(specs) if specs.is_empty() => {
                let _ = write!(text, "\nAs a {end} it has no options.\n");
            }
            Some(specs) => {
                let _ = write!(text, "\nAs a {end} ({flag} KEY=VALUE, or options in a pipeline file):\n");
                for OptionSpec { key, kind, default, doc, .. } in specs {
                    let default = if default.is_empty() { "none".to_owned() } else { default };
                    let _ = write!(text, "\n  {key}  ({kind}; default {default})\n      {doc}\n");
                }
            }
        }
    }
    crate::print(&text);
    Ok(())
}

fn connector_json(connector: &dyn Connector) -> serde_json::Value {
    let specs = |specs: Option<Vec<OptionSpec>>| {
        specs.map(|specs| {
            let specs = specs.into_iter().map(|spec| {
                json!({ "key": spec.key, "kind": spec.kind, "default": spec.default, "doc": spec.doc, "secret": spec.secret })
            });
            specs.collect::<Vec<_>>()
        })
    };
    json!({
        "name": connector.name(),
        "summary": connector.summary(),
        "example": connector.example(),
        "schemes": connector.schemes(),
        "extensions": connector.extensions(),
        "source_options": specs(connector.source_options()),
        "target_options": specs(connector.target_options()),
    })
}
