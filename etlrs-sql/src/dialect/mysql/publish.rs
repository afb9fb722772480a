//! From the staging table into the target: one rename, or one transaction.

use std::time::{Duration, Instant};

use etlrs_core::{Error, ErrorKind, Receipt, Result};

use super::load::{MysqlSession, ORDINAL, create_table};
use super::name::{literal, quote};
use super::target::{Publishing, Target};
use super::wire::{Connection, Failure};

/// Seconds to wait for a lock at a time. Readers queue behind a rename that waits, so it gives way now and then.
const PATIENCE: u64 = 2;

/// What the ledger has in place of a partition when the rows were moved.
const MOVED: i64 = -1;

/// Publishes what is staged; gives the number of rows that became visible.
pub(super) async fn publish(session: &MysqlSession, connection: &mut Connection, receipts: &[Receipt]) -> Result<u64> {
    let end = Instant::now() + session.lock_timeout;
    loop {
        match attempt(session, connection, receipts).await {
            Err(error) if error.kind() == ErrorKind::Locked && Instant::now() < end => {
                // Also what a deadlock left.
                connection.execute("ROLLBACK").await.map_err(|error| session.shared.failed(error))?;
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
            done => return done,
        }
    }
}

async fn attempt(session: &MysqlSession, connection: &mut Connection, receipts: &[Receipt]) -> Result<u64> {
    let shared = &session.shared;
    let failed = |error| shared.failed(error);
    let limit = session.lock_timeout.as_secs().clamp(1, 31_536_000);
    let sql = format!(
        "SET SESSION lock_wait_timeout = {}, innodb_lock_wait_timeout = {}",
        PATIENCE.min(limit),
        limit.min(1_073_741_824)
    );
    connection.execute(&sql).await.map_err(failed)?;
    check_lock(session, connection).await?;
    let rows = check_ledger(session, connection, receipts).await?;
    recheck(session, connection).await?;
    let names = &shared.names;
    let target = session.name.backquoted()?;
    let last = match session.target.publishing {
        Publishing::Rename => format!("RENAME TABLE {} TO {target}", names.staging),
        Publishing::Swap => {
            keep_counter(session, connection).await?;
            format!("RENAME TABLE {target} TO {}, {} TO {target}", names.old, names.staging)
        }
        Publishing::UpsertNew => {
            // A table of an earlier attempt may have rows.
            connection.execute(&format!("DROP TABLE IF EXISTS {}", names.new)).await.map_err(failed)?;
            let sql = create_table(&names.new, &session.plan, &session.target.writings, false, session.collation)?;
            connection.execute(&sql).await.map_err(failed)?;
            upsert(session, connection, &names.new).await?;
            format!("RENAME TABLE {} TO {target}", names.new)
        }
        Publishing::Refill | Publishing::Insert | Publishing::Upsert => {
            if let Err(error) = move_rows(session, connection, &target, rows).await {
                // The first error is the one that counts.
                _ = connection.execute("ROLLBACK").await;
                return Err(error);
            }
            "COMMIT".to_owned()
        }
    };
    let error = match connection.execute(&last).await {
        Ok(_) => return Ok(rows),
        Err(error @ Failure::Server(_)) => return Err(failed(error)),
        Err(error) => error,
    };
    // The answer is lost, which says nothing of the commit itself.
    match outcome(session, connection.id).await {
        Some(true) => Ok(rows),
        Some(false) => Err(failed(error)),
        None => Err(failed(error).hint(
            "it is not known whether the commit took place: look at the table when the server is back, before running again",
        )),
    }
}

/// Whether what was committed last is there, as another connection tells.
async fn outcome(session: &MysqlSession, lost: u32) -> Option<bool> {
    for _ in 0..60 {
        if let Ok(mut connection) = session.shared.pool.connect().await
            && let Ok(done) = ask(session, &mut connection, lost).await
        {
            return Some(done);
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    None
}

async fn ask(session: &MysqlSession, connection: &mut Connection, lost: u32) -> Result<bool> {
    let failed = |error| session.shared.failed(error);
    // The server may still be at it.
    _ = connection.execute(&format!("KILL {lost}")).await;
    let sql = format!("SELECT count(*) FROM information_schema.PROCESSLIST WHERE ID = {lost}");
    loop {
        let found = connection.rows(&sql).await.map_err(failed)?;
        if found.first().map(|row| row.get::<u64, _>(0)).transpose().map_err(failed)? == Some(0) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let names = &session.shared.names;
    let is_there = |table: &str| {
        let name = table.rsplit_once('.').map_or(table, |(_, name)| name).trim_matches('`').to_owned();
        let schema = session.name.schema.as_deref().unwrap_or_default();
        format!(
            "SELECT count(*) FROM information_schema.TABLES WHERE TABLE_SCHEMA = {} AND TABLE_NAME = {}",
            literal(schema),
            literal(&name)
        )
    };
    let (sql, expected) = match session.target.publishing {
        // A renamed table has its old name no more.
        Publishing::Rename | Publishing::Swap => (is_there(&names.staging), 0),
        Publishing::UpsertNew => (is_there(&names.new), 0),
        _ => (format!("SELECT count(*) FROM {} WHERE partition_id = {MOVED}", names.ledger), 1),
    };
    let found = connection.rows(&sql).await.map_err(failed)?;
    let count: Option<u64> = found.first().map(|row| row.get(0)).transpose().map_err(failed)?;
    Ok(count == Some(expected))
}

/// Two runs exclude each other by a lock of the connection, which may have been lost and made anew by somebody between.
async fn check_lock(session: &MysqlSession, connection: &mut Connection) -> Result<()> {
    let shared = &session.shared;
    let sql = format!("SELECT coalesce(is_used_lock({}) = connection_id(), 0)", session.lock);
    let found = connection.rows(&sql).await.map_err(|error| shared.failed(error))?;
    let ours = found.first().map(|row| row.get::<bool, _>(0)).transpose().map_err(|error| shared.failed(error))?;
    if ours == Some(true) {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Locked, "the lock on the target was lost, so nothing was published")
        .hint("run again")
        .in_source(&shared.source))
}

/// The ledger has each partition once, with the rows of its receipt.
async fn check_ledger(session: &MysqlSession, connection: &mut Connection, receipts: &[Receipt]) -> Result<u64> {
    let shared = &session.shared;
    let sql = format!("SELECT count(*), coalesce(sum(row_count), 0) FROM {}", shared.names.ledger);
    let found = connection.rows(&sql).await.map_err(|error| shared.failed(error))?;
    let at = |index| found.first().map(|row| row.get::<u64, _>(index)).transpose();
    let found = (at(0).map_err(|error| shared.failed(error))?, at(1).map_err(|error| shared.failed(error))?);
    let rows: u64 = receipts.iter().map(|receipt| receipt.rows).sum();
    if found != (Some(receipts.len() as u64), Some(rows)) {
        let (partitions, found) = (found.0.unwrap_or(0), found.1.unwrap_or(0));
        return Err(Error::new(
            ErrorKind::VerifyFailed,
            format!(
                "the ledger has {partitions} partitions with {found} rows, and {} with {rows} were staged",
                receipts.len()
            ),
        )
        .in_source(&shared.source));
    }
    Ok(rows)
}

/// The target must still be as it was planned for.
async fn recheck(session: &MysqlSession, connection: &mut Connection) -> Result<()> {
    let shared = &session.shared;
    let now = Target::look(connection, &session.name, &session.plan, &shared.source).await;
    let now = now.map_err(|error| error.in_source(&shared.source))?;
    let planned = &session.target;
    let same = now.relation.is_some() == planned.relation.is_some()
        && now.definition == planned.definition
        && now.publishing == planned.publishing
        && now.writings == planned.writings;
    if same {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::SourceChanged,
        "the target was changed while rows were staged for it, so nothing was published",
    )
    .hint("run again")
    .in_source(&shared.source))
}

/// The next number of a key that the server counts goes on from where it was.
async fn keep_counter(session: &MysqlSession, connection: &mut Connection) -> Result<()> {
    let failed = |error| session.shared.failed(error);
    let sql = format!("SHOW CREATE TABLE {}", session.name.backquoted()?);
    let found = connection.rows(&sql).await.map_err(failed)?;
    let definition: String = found.first().map(|row| row.get(1)).transpose().map_err(failed)?.unwrap_or_default();
    // Only the last line has options of the table.
    let options = definition.rsplit_once('\n').map_or("", |(_, last)| last);
    if let Some((_, rest)) = options.split_once(" AUTO_INCREMENT=") {
        let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
        let sql = format!("ALTER TABLE {} AUTO_INCREMENT = {digits}", session.shared.names.staging);
        connection.execute(&sql).await.map_err(failed)?;
    }
    Ok(())
}

async fn move_rows(session: &MysqlSession, connection: &mut Connection, target: &str, rows: u64) -> Result<()> {
    let shared = &session.shared;
    let failed = |error| shared.failed(error);
    connection.execute("START TRANSACTION").await.map_err(failed)?;
    match session.target.publishing {
        Publishing::Refill => {
            connection.execute(&format!("DELETE FROM {target}")).await.map_err(failed)?;
            insert(session, connection, target, rows).await?;
        }
        Publishing::Upsert => upsert(session, connection, target).await?,
        _ => insert(session, connection, target, rows).await?,
    }
    let sql = format!("INSERT INTO {} VALUES ({MOVED}, 0)", shared.names.ledger);
    connection.execute(&sql).await.map_err(failed)?;
    Ok(())
}

async fn insert(session: &MysqlSession, connection: &mut Connection, target: &str, rows: u64) -> Result<()> {
    let shared = &session.shared;
    let columns = Target::column_list(&session.plan.schema)?;
    let sql = format!("INSERT INTO {target} ({columns}) SELECT {columns} FROM {}", shared.names.staging);
    let inserted = connection.execute(&sql).await.map_err(|error| shared.failed(error))?.rows;
    if inserted != rows {
        let message = format!("the table took {inserted} of {rows} rows");
        return Err(Error::new(ErrorKind::VerifyFailed, message).in_source(&shared.source));
    }
    Ok(())
}

/// Rows go in the order of the source, so of two with one key the later one is what stays.
async fn upsert(session: &MysqlSession, connection: &mut Connection, target: &str) -> Result<()> {
    let shared = &session.shared;
    let plan = &session.plan;
    let columns = Target::column_list(&plan.schema)?;
    let is_key = |name: &String| plan.keys.iter().any(|key| key.to_lowercase() == name.to_lowercase());
    let mut sets = Vec::new();
    for field in plan.schema.fields().iter().filter(|field| !is_key(field.name())) {
        let name = quote(field.name())?;
        sets.push(format!("{name} = VALUES({name})"));
    }
    if sets.is_empty() {
        // Something that changes nothing.
        let key = quote(plan.schema.field(etlrs_core::column_index(&plan.schema, &plan.keys[0])?).name())?;
        sets.push(format!("{key} = VALUES({key})"));
    }
    let sql = format!(
        "INSERT INTO {target} ({columns}) SELECT {columns} FROM {} ORDER BY {ORDINAL} ON DUPLICATE KEY UPDATE {}",
        shared.names.staging,
        sets.join(", ")
    );
    connection.execute(&sql).await.map_err(|error| shared.failed(error))?;
    Ok(())
}
