//! How far sources were read whose rows a table has: in `_etlrs_cursors` of the same database.

use etlrs_core::{LoadMode, LoadPlan};
use rusqlite::{Connection, OptionalExtension, params};

use super::catalog::Table;
use crate::cursor::SAVED;

/// The position of `source`, if the table is there. Its name is not case-sensitive.
pub(super) fn saved(connection: &Connection, table: &str, source: &str) -> rusqlite::Result<Option<String>> {
    if Table::find(connection, table)?.is_none() || Table::find(connection, SAVED)?.is_none() {
        return Ok(None);
    }
    let sql = format!("SELECT value FROM {SAVED} WHERE target = ? COLLATE NOCASE AND source = ?");
    connection.query_row(&sql, params![table, source], |row| row.get(0)).optional()
}

/// Forgets the positions of a table.
pub(super) fn forget(connection: &Connection, table: &str) -> rusqlite::Result<()> {
    if Table::find(connection, SAVED)?.is_some() {
        connection.execute(&format!("DELETE FROM {SAVED} WHERE target = ? COLLATE NOCASE"), [table])?;
    }
    Ok(())
}

/// Saves the position of the plan in the transaction that publishes the rows, and forgets those that mean nothing any more.
pub(super) fn save(connection: &Connection, table: &str, plan: &LoadPlan, run: &str) -> rusqlite::Result<()> {
    if matches!(plan.mode, LoadMode::Create | LoadMode::Replace) {
        forget(connection, table)?;
    }
    let Some(cursor) = &plan.cursor else { return Ok(()) };
    connection.execute_batch(&format!(
        "CREATE TABLE IF NOT EXISTS {SAVED} (target TEXT NOT NULL COLLATE NOCASE, source TEXT NOT NULL, value TEXT NOT NULL,
         run TEXT NOT NULL, saved_at TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP, PRIMARY KEY (target, source))"
    ))?;
    let sql = format!(
        "INSERT INTO {SAVED} (target, source, value, run) VALUES (?, ?, ?, ?) ON CONFLICT (target, source)
         DO UPDATE SET value = excluded.value, run = excluded.run, saved_at = excluded.saved_at"
    );
    connection.execute(&sql, params![table, cursor.source, cursor.value, run]).map(|_| ())
}
