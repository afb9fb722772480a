//! From the staging table into the target, in one transaction.

use std::time::{Duration, Instant};

use etlrs_core::{Error, ErrorKind, LoadMode, Receipt, Result};
use sqlx::PgConnection;

use super::load::{ORDINAL, PostgresSession, key_list};
use super::name::quote;
use super::server::{execute, text};
use super::target::{Publishing, Target};

/// How long a lock is waited for at a time. Readers queue behind a lock that waits, so it gives way now and then.
const PATIENCE: Duration = Duration::from_secs(2);

/// Publishes what is staged; gives the number of rows that became visible.
pub(super) async fn publish(
    session: &PostgresSession,
    connection: &mut PgConnection,
    receipts: &[Receipt],
) -> Result<u64> {
    let end = Instant::now() + session.lock_timeout;
    loop {
        match attempt(session, connection, receipts).await {
            Err(error) if error.kind() == ErrorKind::Locked && Instant::now() < end => {
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
            done => return done,
        }
    }
}

async fn attempt(session: &PostgresSession, connection: &mut PgConnection, receipts: &[Receipt]) -> Result<u64> {
    let shared = &session.shared;
    let failed = |error| shared.failed(error);
    let begun = format!("BEGIN; SET LOCAL lock_timeout = {}; SET LOCAL row_security = off", PATIENCE.as_millis());
    execute(connection, &begun).await.map_err(failed)?;
    let moved = match check_ledger(session, connection, receipts).await {
        Ok(rows) => move_rows(session, connection, rows).await,
        Err(error) => Err(error),
    };
    let rows = match moved {
        Ok(rows) => rows,
        Err(error) => {
            // The first error is the one that counts.
            _ = execute(connection, "ROLLBACK").await;
            return Err(error);
        }
    };
    let xid = text(connection, "SELECT txid_current()::text", &[]).await.map_err(failed)?.unwrap_or_default();
    match execute(connection, "COMMIT").await {
        Ok(_) => Ok(rows),
        Err(sqlx::Error::Database(error)) => Err(failed(sqlx::Error::Database(error))),
        // The answer is lost, which says nothing of the commit itself.
        Err(error) => match outcome(session, &xid).await {
            Some(true) => Ok(rows),
            Some(false) => Err(failed(error)),
            None => Err(failed(error).hint(format!(
                "it is not known whether the commit took place; SELECT txid_status({xid}) tells when the server is back"
            ))),
        },
    }
}

/// Whether a transaction was committed, as another connection tells.
async fn outcome(session: &PostgresSession, xid: &str) -> Option<bool> {
    for _ in 0..60 {
        if let Ok(mut connection) = session.shared.pool.connect().await {
            let sql = "SELECT txid_status($1::int8)";
            match text(&mut connection, sql, &[xid]).await.ok().flatten().as_deref() {
                Some("committed") => return Some(true),
                Some("aborted") => return Some(false),
                _ => {}
            }
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    None
}

/// The ledger has each partition once, with the rows of its receipt.
async fn check_ledger(session: &PostgresSession, connection: &mut PgConnection, receipts: &[Receipt]) -> Result<u64> {
    let shared = &session.shared;
    let sql = format!("SELECT count(*) || ' ' || coalesce(sum(rows), 0) FROM {}", shared.names.ledger);
    let found = text(connection, &sql, &[]).await.map_err(|error| shared.failed(error))?.unwrap_or_default();
    let rows: u64 = receipts.iter().map(|receipt| receipt.rows).sum();
    if found != format!("{} {rows}", receipts.len()) {
        return Err(Error::new(
            ErrorKind::VerifyFailed,
            format!("the ledger has {found} partitions and rows, and {} {rows} were staged", receipts.len()),
        )
        .in_source(&shared.source));
    }
    Ok(rows)
}

async fn move_rows(session: &PostgresSession, connection: &mut PgConnection, rows: u64) -> Result<u64> {
    let shared = &session.shared;
    let failed = |error| shared.failed(error);
    let staging = &shared.names.staging;
    let target = session.name.quoted()?;
    let drop = format!("DROP TABLE {}", shared.names.ledger);
    let rename = format!("ALTER TABLE {staging} RENAME TO {}", quote(&session.name.name)?);
    let merge = session.plan.mode == LoadMode::Merge;
    let lock = |mode| format!("LOCK TABLE {target} IN {mode} MODE");
    match session.target.publishing {
        Publishing::Rename => {
            if merge {
                // The rows are not yet free of duplicates.
                let columns = definitions(session)?;
                let keys = key_list(&session.plan)?;
                let sql = format!("CREATE TABLE {target} ({columns}, PRIMARY KEY ({keys}))");
                execute(connection, &sql).await.map_err(failed)?;
                upsert(session, connection, &target).await?;
                execute(connection, &format!("DROP TABLE {staging}; {drop}")).await.map_err(failed)?;
                return Ok(rows);
            }
            let casts = casts(session)?;
            execute(connection, &format!("{casts}{rename}; COMMENT ON TABLE {target} IS NULL; {drop}"))
                .await
                .map_err(failed)?;
        }
        Publishing::Swap => {
            execute(connection, &lock("ACCESS EXCLUSIVE")).await.map_err(failed)?;
            recheck(session, connection).await?;
            let sql = format!("DROP TABLE {target}; {rename}; COMMENT ON TABLE {target} IS NULL; {drop}");
            execute(connection, &sql).await.map_err(failed)?;
        }
        Publishing::Refill => {
            // Readers go on; writers wait, for their rows would be lost.
            execute(connection, &lock("SHARE ROW EXCLUSIVE")).await.map_err(failed)?;
            recheck(session, connection).await?;
            execute(connection, &format!("DELETE FROM {target}")).await.map_err(failed)?;
            insert(session, connection, &target, rows).await?;
            execute(connection, &format!("DROP TABLE {staging}; {drop}")).await.map_err(failed)?;
        }
        Publishing::Insert => {
            insert(session, connection, &target, rows).await?;
            execute(connection, &format!("DROP TABLE {staging}; {drop}")).await.map_err(failed)?;
        }
        Publishing::Upsert => {
            execute(connection, &lock("SHARE ROW EXCLUSIVE")).await.map_err(failed)?;
            upsert(session, connection, &target).await?;
            execute(connection, &format!("DROP TABLE {staging}; {drop}")).await.map_err(failed)?;
        }
    }
    Ok(rows)
}

/// Now that nobody else can change it, the target must still be as it was planned for.
async fn recheck(session: &PostgresSession, connection: &mut PgConnection) -> Result<()> {
    let shared = &session.shared;
    let failed = |error| shared.failed(error);
    let name = &session.name;
    let now = Target::look(connection, name, &session.plan, &failed).await.map_err(|e| e.in_source(&shared.source))?;
    let oid = |target: &Target| target.relation.as_ref().map(|relation| relation.oid);
    let same = oid(&now) == oid(&session.target)
        && now.publishing == session.target.publishing
        && now.writings == session.target.writings;
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

/// Casts of columns that are staged as text, in place.
fn casts(session: &PostgresSession) -> Result<String> {
    let mut changes = Vec::new();
    for (field, writing) in session.plan.schema.fields().iter().zip(&session.target.writings) {
        if let Some(cast) = &writing.cast {
            let name = quote(field.name())?;
            changes.push(format!("ALTER COLUMN {name} TYPE {} USING {name}::{cast}", writing.declared));
        }
    }
    if changes.is_empty() {
        return Ok(String::new());
    }
    Ok(format!("ALTER TABLE {} {}; ", session.shared.names.staging, changes.join(", ")))
}

fn definitions(session: &PostgresSession) -> Result<String> {
    let mut columns = Vec::new();
    for (field, writing) in session.plan.schema.fields().iter().zip(&session.target.writings) {
        let not_null = if field.is_nullable() { "" } else { " NOT NULL" };
        columns.push(format!("{} {}{not_null}", quote(field.name())?, writing.declared));
    }
    Ok(columns.join(", "))
}

/// The staged columns, cast to what they are in the target.
fn select_list(session: &PostgresSession) -> Result<String> {
    let mut columns = Vec::new();
    for (field, writing) in session.plan.schema.fields().iter().zip(&session.target.writings) {
        let name = quote(field.name())?;
        columns.push(match &writing.cast {
            Some(cast) => format!("{name}::{cast}"),
            None => name,
        });
    }
    Ok(columns.join(", "))
}

async fn insert(session: &PostgresSession, connection: &mut PgConnection, target: &str, rows: u64) -> Result<()> {
    let shared = &session.shared;
    let (columns, select) = (Target::column_list(&session.plan.schema)?, select_list(session)?);
    let sql = format!(
        "INSERT INTO {target} ({columns}) OVERRIDING SYSTEM VALUE SELECT {select} FROM {}",
        shared.names.staging
    );
    let inserted = execute(connection, &sql).await.map_err(|error| shared.failed(error))?;
    if inserted != rows {
        return Err(Error::new(
            ErrorKind::VerifyFailed,
            format!("the table took {inserted} of {rows} rows; a trigger or a rule may have refused the others"),
        )
        .in_source(&shared.source));
    }
    Ok(())
}

/// Of staged rows with one key the last one counts, by their order in the source.
async fn upsert(session: &PostgresSession, connection: &mut PgConnection, target: &str) -> Result<()> {
    let shared = &session.shared;
    let plan = &session.plan;
    let staging = &shared.names.staging;
    let keys = key_list(plan)?;
    let (columns, select) = (Target::column_list(&plan.schema)?, select_list(session)?);
    let mut sets = Vec::new();
    for field in plan.schema.fields().iter().filter(|field| !plan.keys.contains(field.name())) {
        let name = quote(field.name())?;
        sets.push(format!("{name} = excluded.{name}"));
    }
    let action = if sets.is_empty() { "NOTHING".to_owned() } else { format!("UPDATE SET {}", sets.join(", ")) };
    let sql = format!(
        "INSERT INTO {target} ({columns}) OVERRIDING SYSTEM VALUE
         SELECT {select} FROM (SELECT DISTINCT ON ({keys}) * FROM {staging} ORDER BY {keys}, {ORDINAL} DESC) AS latest
         ON CONFLICT ({keys}) DO {action}"
    );
    execute(connection, &sql).await.map_err(|error| shared.failed(error))?;
    Ok(())
}
