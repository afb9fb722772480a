//! How far sources were read whose rows a table has: in a table of the same database, `_etlrs_cursors`.
//!
//! Where rows are published by a transaction, the position is saved in it; so it is where a table is replaced of which positions are
//! kept. A rename, by which a table comes into being, is none: before it the position is written down with its run, and taken over after
//! it. Whoever finds one that was not looks whether the run is published, before what tells that is removed.

use etlrs_core::{LoadMode, LoadPlan, Result, RunId};

use super::catalog::Relation;
use super::ledger::{Left, Names, settled};
use super::load::Server;
use super::name::{literal, quote};
use super::wire::{Answer, Connection};
use crate::cursor::SAVED;
use crate::table::TableName;

fn place(name: &TableName) -> Result<String> {
    Ok(format!("{}.`{SAVED}`", quote(name.schema.as_deref().unwrap_or_default())?))
}

async fn exists(connection: &mut Connection, name: &TableName) -> Answer<bool> {
    let table = TableName { schema: name.schema.clone(), name: SAVED.to_owned() };
    Ok(Relation::find(connection, &table).await?.is_some())
}

/// The position of `source`, if the table `name` is there.
pub(super) async fn saved(
    connection: &mut Connection,
    name: &TableName,
    server: Server,
    source: &str,
) -> Result<Answer<Option<String>>> {
    let place = place(name)?;
    let found = async {
        if Relation::find(connection, name).await?.is_none() || !exists(connection, name).await? {
            return Ok(None);
        }
        let sql = format!(
            "SELECT value, next_value, next_run FROM {place} WHERE target = {} AND source = {}",
            literal(&server.folded(&name.name)),
            literal(source)
        );
        let rows = connection.rows(&sql).await?;
        let Some(row) = rows.first() else { return Ok(None) };
        Ok(Some((row.get::<Option<String>, _>(0)?, row.get::<Option<String>, _>(1)?, row.get::<Option<String>, _>(2)?)))
    };
    let (value, next, run) = match found.await {
        Ok(Some(found)) => found,
        Ok(None) => return Ok(Ok(None)),
        Err(error) => return Ok(Err(error)),
    };
    let Some(run) = run.and_then(|run| run.parse::<RunId>().ok()) else { return Ok(Ok(value)) };
    let hash = server.hash(name);
    let left = Left::find(connection, name, &Names::new(name, hash, run)?, run).await;
    Ok(left.map(|left| if left.is_some_and(|left| left.published) { next } else { value }))
}

/// Makes the table that keeps positions, if the plan needs it: by itself, for that ends a transaction.
pub(super) async fn prepare(connection: &mut Connection, name: &TableName, plan: &LoadPlan) -> Result<Answer<()>> {
    let place = place(name)?;
    let made = async {
        if plan.cursor.is_none() || exists(connection, name).await? {
            return Ok(());
        }
        let sql = format!(
            "CREATE TABLE IF NOT EXISTS {place} (target varchar(64) NOT NULL, source varchar(512) NOT NULL, value text,
             run char(26) NOT NULL, next_value text, next_run char(26),
             saved_at timestamp NOT NULL DEFAULT CURRENT_TIMESTAMP ON UPDATE CURRENT_TIMESTAMP, PRIMARY KEY (target, source))
             ENGINE=InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin"
        );
        connection.execute(&sql).await.map(|_| ())
    };
    Ok(made.await)
}

/// Saves the position of the plan in the transaction that publishes the rows.
pub(super) async fn save(
    connection: &mut Connection,
    name: &TableName,
    server: Server,
    plan: &LoadPlan,
    run: RunId,
) -> Result<Answer<()>> {
    let (place, target) = (place(name)?, literal(&server.folded(&name.name)));
    let saved = async {
        let is_alone = matches!(plan.mode, LoadMode::Create | LoadMode::Replace);
        if is_alone && exists(connection, name).await? {
            // What they tell of is gone with this transaction.
            connection.execute(&format!("DELETE FROM {place} WHERE target = {target}")).await?;
        }
        let Some(cursor) = &plan.cursor else { return Ok(()) };
        let (source, value) = (literal(&cursor.source), literal(&cursor.value));
        let sql = format!(
            "INSERT INTO {place} (target, source, value, run) VALUES ({target}, {source}, {value}, '{run}')
             ON DUPLICATE KEY UPDATE value = {value}, run = '{run}', next_value = NULL, next_run = NULL"
        );
        connection.execute(&sql).await.map(|_| ())
    };
    Ok(saved.await)
}

/// Writes the position down before a rename makes the target come into being.
pub(super) async fn announce(
    connection: &mut Connection,
    name: &TableName,
    server: Server,
    plan: &LoadPlan,
    run: RunId,
) -> Result<Answer<()>> {
    let (place, target) = (place(name)?, literal(&server.folded(&name.name)));
    let announced = async {
        if exists(connection, name).await? {
            // Of one that was there once.
            connection.execute(&format!("DELETE FROM {place} WHERE target = {target}")).await?;
        }
        let Some(cursor) = &plan.cursor else { return Ok(()) };
        let (source, value) = (literal(&cursor.source), literal(&cursor.value));
        let sql = format!(
            "INSERT INTO {place} (target, source, run, next_value, next_run)
             VALUES ({target}, {source}, '{run}', {value}, '{run}')"
        );
        connection.execute(&sql).await.map(|_| ())
    };
    Ok(announced.await)
}

/// Takes over what a run has announced that is published, or forgets it.
pub(super) async fn confirm(
    connection: &mut Connection,
    name: &TableName,
    server: Server,
    run: RunId,
    is_published: bool,
) -> Result<Answer<()>> {
    let (place, target) = (place(name)?, literal(&server.folded(&name.name)));
    let confirmed = async {
        if !exists(connection, name).await? {
            return Ok(());
        }
        let mine = format!("target = {target} AND next_run = '{run}'");
        let sql = match is_published {
            true => format!("UPDATE {place} SET value = next_value, next_value = NULL, next_run = NULL WHERE {mine}"),
            false => format!("DELETE FROM {place} WHERE {mine}"),
        };
        connection.execute(&sql).await.map(|_| ())
    };
    Ok(confirmed.await)
}

/// Whether positions are kept of the target.
pub(super) async fn has_some(connection: &mut Connection, name: &TableName, server: Server) -> Result<Answer<bool>> {
    let (place, target) = (place(name)?, literal(&server.folded(&name.name)));
    let found = async {
        if !exists(connection, name).await? {
            return Ok(false);
        }
        let sql = format!("SELECT 1 FROM {place} WHERE target = {target} LIMIT 1");
        Ok(!connection.rows(&sql).await?.is_empty())
    };
    Ok(found.await)
}

/// Settles what runs have announced that died then. The lock of the target is held.
pub(super) async fn settle(connection: &mut Connection, name: &TableName, server: Server) -> Result<Answer<()>> {
    let (place, hash) = (place(name)?, server.hash(name));
    let announced = async {
        if !exists(connection, name).await? {
            return Ok(Vec::new());
        }
        let sql = format!(
            "SELECT DISTINCT next_run FROM {place} WHERE target = {} AND next_run IS NOT NULL",
            literal(&server.folded(&name.name))
        );
        connection.rows(&sql).await?.iter().map(|row| row.get::<String, _>(0)).collect::<Answer<Vec<_>>>()
    };
    let runs = match announced.await {
        Ok(runs) => runs,
        Err(error) => return Ok(Err(error)),
    };
    for run in runs.iter().filter_map(|run| run.parse::<RunId>().ok()) {
        let left = match settled(connection, name, &Names::new(name, hash, run)?, run).await {
            Ok(left) => left,
            Err(error) => return Ok(Err(error)),
        };
        let is_published = left.is_some_and(|left| left.published);
        if let Err(error) = confirm(connection, name, server, run, is_published).await? {
            return Ok(Err(error));
        }
    }
    Ok(Ok(()))
}
