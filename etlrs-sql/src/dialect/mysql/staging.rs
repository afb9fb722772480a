//! The statements by which rows are staged.

use etlrs_core::{LoadPlan, Result};

use super::load::Server;
use super::name::quote;
use super::server::Statement;
use super::target::Target;
use super::wire::Connection;
use super::writing::{Taken, Writing};

pub(super) fn exact_collation(connection: &Connection) -> &'static str {
    let number = |part: &str| part.chars().take_while(char::is_ascii_digit).collect::<String>().parse().unwrap_or(0);
    let version: Vec<u32> = connection.version.split('.').map(number).collect();
    match version.as_slice() {
        _ if connection.is_mariadb() => "utf8mb4_nopad_bin",
        [8, 0, patch, ..] if *patch < 17 => "utf8mb4_bin",
        [8..=u32::MAX, ..] => "utf8mb4_0900_bin",
        _ => "utf8mb4_bin",
    }
}

/// The statement that makes the target of a plan.
pub(super) fn create_table(name: &str, plan: &LoadPlan, writings: &[Writing], server: Server) -> Result<String> {
    let declared = writings.iter().map(|writing| writing.declared.as_str());
    let key = if plan.keys.is_empty() { None } else { Some(format!("PRIMARY KEY ({})", key_list(plan)?)) };
    create(name, plan, declared, server, true, key)
}

/// The statement that makes a table from which the rows are moved to the target.
pub(super) fn create_staging(name: &str, plan: &LoadPlan, writings: &[Writing], server: Server) -> Result<String> {
    let staged = writings.iter().map(|writing| writing.staged.as_str());
    // A key that is null is found when it is moved, where it can be set aside.
    create(name, plan, staged, server, !plan.sifts, Some(format!("{ORDINAL} bigint unsigned NOT NULL PRIMARY KEY")))
}

fn create<'a>(
    name: &str,
    plan: &LoadPlan,
    types: impl Iterator<Item = &'a str>,
    server: Server,
    keys_are_whole: bool,
    last: Option<String>,
) -> Result<String> {
    let mut columns = Vec::with_capacity(plan.schema.fields().len() + 1);
    for (field, declared) in plan.schema.fields().iter().zip(types) {
        let is_key = plan.keys.contains(field.name());
        let takes_null = field.is_nullable() && !(is_key && keys_are_whole);
        let is_text = declared.starts_with("varchar") || declared.starts_with("char");
        let collate = if is_key && is_text { format!(" COLLATE {}", server.collation) } else { String::new() };
        let is_timestamp = declared.starts_with("timestamp");
        let null = match (takes_null, is_timestamp) {
            (true, true) => " NULL DEFAULT NULL",
            (true, false) => "",
            (false, true) if server.sets_timestamps => " NOT NULL DEFAULT '1970-01-01 00:00:01'",
            (false, _) => " NOT NULL",
        };
        columns.push(format!("{} {declared}{collate}{null}", quote(field.name())?));
    }
    columns.extend(last);
    Ok(format!("CREATE TABLE {name} ({}) ENGINE=InnoDB DEFAULT CHARACTER SET utf8mb4", columns.join(", ")))
}

/// The keys, as SQL lists them.
pub(super) fn key_list(plan: &LoadPlan) -> Result<String> {
    Ok(plan.keys.iter().map(|key| quote(key)).collect::<Result<Vec<_>>>()?.join(", "))
}

pub(super) fn load_or_insert(
    staging: &str,
    plan: &LoadPlan,
    writings: &[Writing],
    moved: bool,
    server: Server,
) -> Result<Statement> {
    if server.loads {
        load_statement(staging, plan, writings, moved).map(Statement::Load)
    } else {
        Ok(Statement::Insert)
    }
}

/// `LOAD DATA` of bytes, so that nothing of them is taken for a character of the set of some column.
fn load_statement(staging: &str, plan: &LoadPlan, writings: &[Writing], moved: bool) -> Result<String> {
    let (mut columns, mut sets) = (Vec::new(), Vec::new());
    for (index, (field, writing)) in plan.schema.fields().iter().zip(writings).enumerate() {
        let name = quote(field.name())?;
        let value = match writing.taken {
            Taken::Plain => {
                columns.push(name);
                continue;
            }
            Taken::Converted => format!("CONVERT(@etlrs_{index} USING utf8mb4)"),
            Taken::Number => format!("CAST(@etlrs_{index} AS UNSIGNED)"),
        };
        columns.push(format!("@etlrs_{index}"));
        sets.push(format!("{name} = {value}"));
    }
    if moved {
        columns.push(ORDINAL.to_owned());
    }
    let sets = if sets.is_empty() { String::new() } else { format!(" SET {}", sets.join(", ")) };
    Ok(format!(
        "LOAD DATA LOCAL INFILE 'rows of etlrs' INTO TABLE {staging} CHARACTER SET binary \
         FIELDS TERMINATED BY X'09' ESCAPED BY X'5C' LINES TERMINATED BY X'0A' ({}){sets}",
        columns.join(", ")
    ))
}

/// In a staging table from which rows are moved: the place of a row in the source. Of two with one key the later one wins.
pub(super) const ORDINAL: &str = "`_etlrs_ordinal`";

pub(super) fn staged_columns(plan: &LoadPlan, moved: bool) -> Result<String> {
    let columns = Target::column_list(&plan.schema)?;
    Ok(if moved { format!("{columns}, {ORDINAL}") } else { columns })
}
