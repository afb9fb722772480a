//! How far sources were read whose rows a table has: in a table of the same schema, `_etlrs_cursors`.

use etlrs_core::{LoadMode, LoadPlan, RunId};

use super::server::{execute, text};
use super::wire::{Answer, Connection};
use crate::cursor::SAVED;
use crate::table::TableName;

fn place(name: &TableName) -> String {
    format!("\"{}\".{SAVED}", name.schema.as_deref().unwrap_or_default().replace('"', "\"\""))
}

async fn exists(connection: &mut Connection, name: &str) -> Answer<bool> {
    Ok(text(connection, "SELECT to_regclass($1)::text", &[name]).await?.is_some())
}

/// The position of `source`, if the table `name` is there; `quoted` is its whole name.
pub(super) async fn saved(
    connection: &mut Connection,
    name: &TableName,
    quoted: &str,
    source: &str,
) -> Answer<Option<String>> {
    let place = place(name);
    if !exists(connection, quoted).await? || !exists(connection, &place).await? {
        return Ok(None);
    }
    let sql = format!("SELECT value FROM {place} WHERE target = $1 AND source = $2");
    text(connection, &sql, &[&name.name, source]).await
}

/// Makes the table that keeps positions, if the plan needs it.
pub(super) async fn prepare(connection: &mut Connection, name: &TableName, plan: &LoadPlan) -> Answer<()> {
    let place = place(name);
    if plan.cursor.is_none() || exists(connection, &place).await? {
        return Ok(());
    }
    let sql = format!(
        "CREATE TABLE IF NOT EXISTS {place} (target text NOT NULL, source text NOT NULL, value text NOT NULL,
         run text NOT NULL, saved_at timestamptz NOT NULL DEFAULT now(), PRIMARY KEY (target, source))"
    );
    match execute(connection, &sql).await {
        Ok(_) => Ok(()),
        // Two may make it at once.
        Err(error) => match exists(connection, &place).await {
            Ok(true) => Ok(()),
            _ => Err(error),
        },
    }
}

/// Whether there are positions of the table `name`; `None` if the user may not see them.
async fn has_some(connection: &mut Connection, place: &str, name: &TableName) -> Answer<Option<bool>> {
    let sees = "SELECT 'yes' WHERE has_table_privilege(to_regclass($1), 'SELECT')";
    if text(connection, sees, &[place]).await?.is_none() {
        return Ok(None);
    }
    let some = format!("SELECT 'some' FROM {place} WHERE target = $1 LIMIT 1");
    Ok(Some(text(connection, &some, &[&name.name]).await?.is_some()))
}

/// The privilege that the user lacks to forget positions of the table `name`, as a load has to that makes it anew. Whoever may not must
/// not load either: the next load by a cursor of somebody else would go on behind rows that are gone.
pub(super) async fn missing_privilege(connection: &mut Connection, name: &TableName) -> Answer<Option<String>> {
    let place = place(name);
    if !exists(connection, &place).await? {
        return Ok(None);
    }
    let deletes = "SELECT 'yes' WHERE has_table_privilege(to_regclass($1), 'DELETE')";
    let missing = match has_some(connection, &place, name).await? {
        Some(false) => None,
        Some(true) if text(connection, deletes, &[&place]).await?.is_some() => None,
        _ => Some(format!("SELECT, DELETE ON {place}")),
    };
    Ok(missing)
}

/// Saves the position of the plan in the transaction that publishes the rows, and forgets those that mean nothing any more.
/// `is_new`: the table was made by the load.
pub(super) async fn save(
    connection: &mut Connection,
    name: &TableName,
    plan: &LoadPlan,
    run: RunId,
    is_new: bool,
) -> Answer<()> {
    let (place, run) = (place(name), &*run.to_string());
    let is_alone = is_new || matches!(plan.mode, LoadMode::Create | LoadMode::Replace);
    if is_alone && exists(connection, &place).await? && has_some(connection, &place, name).await? != Some(false) {
        let sql = format!("DELETE FROM {place} WHERE target = $1 RETURNING target");
        text(connection, &sql, &[&name.name]).await?;
    }
    let Some(cursor) = &plan.cursor else { return Ok(()) };
    let sql = format!(
        "INSERT INTO {place} AS old (target, source, value, run) VALUES ($1, $2, $3, $4) ON CONFLICT (target, source)
         DO UPDATE SET value = excluded.value, run = excluded.run, saved_at = excluded.saved_at RETURNING target"
    );
    text(connection, &sql, &[&name.name, &cursor.source, &cursor.value, run]).await.map(|_| ())
}
