//! From the staging table into the target, in one transaction.

use std::ops::Range;
use std::time::Duration;

use etlrs_core::{Error, ErrorKind, Receipt, Refusals, Result, RunContext, async_trait, failpoint};

use super::extract::PostgresExtractor;
use super::load::{BEGIN, ORDINAL, create_table, key_list};
use super::name::quote;
use super::saved_cursor;
use super::server::{execute, rows, text};
use super::session::PostgresSession;
use super::target::{self, Publishing, Target};
use super::wire::{Connection, Failure, code};
use crate::key::{null_key, one_key, with_hint_of_key};
use crate::network::Row;
use crate::patience::{Patience, STEP};
use crate::sift::{self, Chosen, Moved, Moving, PARTITION_BITS, Sifting, in_order};

/// Publishes what is staged; gives the number of rows that became visible.
pub(super) async fn publish(
    session: &PostgresSession,
    connection: &mut Connection,
    receipts: &[Receipt],
) -> Result<u64> {
    if let Some(rows) = session.moved {
        return commit(session, connection, rows).await;
    }
    let patience = Patience::new(session.lock_timeout, &session.cancel);
    loop {
        let moved = begin(session, connection, receipts, None).await;
        let done = match moved {
            Ok(rows) => commit(session, connection, rows).await,
            Err(error) => Err(error),
        };
        match done {
            Ok(rows) => return Ok(rows),
            // Nothing is published yet.
            Err(error) => patience.over(error).await?,
        }
    }
}

/// Moves what is staged, but for rows that are refused, in a transaction that stays open; gives the number of rows that will become
/// visible. `None`: nothing can be refused that was staged.
pub(super) async fn sift(
    session: &PostgresSession,
    connection: &mut Connection,
    cx: &RunContext,
    receipts: &[Receipt],
    refusals: &mut dyn Refusals,
) -> Result<Option<u64>> {
    if session.target.publishing.keeps_staging() {
        return Ok(None);
    }
    let patience = Patience::new(session.lock_timeout, &session.cancel);
    let mut sifting = Sifting::new(cx, refusals);
    loop {
        match begin(session, connection, receipts, Some(&mut sifting)).await {
            Ok(rows) => return Ok(Some(rows)),
            // They would be set aside once more.
            Err(error) if sifting.refused > 0 => return Err(error),
            Err(error) => patience.over(error).await?,
        }
    }
}

/// Begins the transaction and does all in it.
async fn begin(
    session: &PostgresSession,
    connection: &mut Connection,
    receipts: &[Receipt],
    sifting: Option<&mut Sifting<'_>>,
) -> Result<u64> {
    let shared = &session.shared;
    let failed = |error| shared.failed(error);
    // Rows that somebody holds are waited for within a statement, which would be lost if it gave way.
    let limit = session.lock_timeout.as_millis().max(1);
    let begun = format!("{BEGIN}; SET LOCAL lock_timeout = {limit}");
    execute(connection, &begun).await.map_err(failed)?;
    let moved = async {
        let rows = check_ledger(session, connection, receipts).await?;
        failpoint("postgres-publishing");
        let rows = move_rows(session, connection, rows, sifting).await?;
        failpoint("postgres-moved");
        let is_new = session.target.relation.is_none();
        let saved = saved_cursor::save(connection, &session.name, &session.plan, session.run, is_new).await;
        saved.map_err(failed)?;
        post_sql(session, connection).await?;
        Ok(rows)
    };
    match moved.await {
        Ok(rows) => Ok(rows),
        Err(error) => {
            // The first error is the one that counts.
            _ = execute(connection, "ROLLBACK").await;
            Err(with_column(session, connection, error, &Chosen::All).await)
        }
    }
}

async fn commit(session: &PostgresSession, connection: &mut Connection, rows: u64) -> Result<u64> {
    let failed = |error| session.shared.failed(error);
    let xid = text(connection, "SELECT txid_current()::text", &[]).await.map_err(failed)?.unwrap_or_default();
    failpoint("postgres-committing");
    match execute(connection, "COMMIT").await {
        Ok(_) => Ok(rows),
        Err(error) if is_answer(&error) => Err(failed(error)),
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

/// Names the column of an error about a value, which the server tells for a COPY and not for what comes after it: the first one
/// whose staged texts cannot be cast, if there is one. In a transaction this fails it.
async fn with_column(session: &PostgresSession, connection: &mut Connection, error: Error, rows: &Chosen) -> Error {
    // A class of errors that casts have.
    if !sqlstate(&error).starts_with("22") || error.position().column.is_some() {
        return error;
    }
    for (field, writing) in session.plan.schema.fields().iter().zip(&session.target.writings) {
        if session.cancel.check().is_err() {
            break;
        }
        let (Some(_), Ok(name)) = (&writing.cast, quote(field.name())) else { continue };
        let sql = format!(
            "SELECT count({}::{}) FROM {}{}",
            writing.moved(&name),
            writing.declared,
            session.shared.names.staging,
            chosen(rows)
        );
        if let Err(other) = execute(connection, &sql).await
            && session.shared.failed(other).message() == error.message()
        {
            return error.at_column(field.name());
        }
    }
    error
}

/// Runs what the user wants run together with the rows.
async fn post_sql(session: &PostgresSession, connection: &mut Connection) -> Result<()> {
    if session.post_sql.is_empty() || session.plan.is_repair {
        return Ok(());
    }
    let failed = |error| session.shared.failed(error).hint("that is the option post_sql");
    let before = text(connection, "SELECT txid_current()::text", &[]).await.map_err(failed)?;
    execute(connection, &session.post_sql).await.map_err(failed)?;
    if text(connection, "SELECT txid_current()::text", &[]).await.map_err(failed)? == before {
        return Ok(());
    }
    let message = "the option post_sql ended the transaction, so the rows may be published or not";
    Err(Error::new(ErrorKind::InvalidConfig, message)
        .hint("leave out COMMIT and ROLLBACK, and look at the table")
        .in_source(&session.shared.source))
}

/// Whether the server itself says that it did not commit. That a connection ends may also be said by a pooler between, or by
/// a server that is stopped.
fn is_answer(error: &Failure) -> bool {
    matches!(error, Failure::Server(refusal) if !refusal.is_fatal())
}

/// Whether a transaction was committed, as another connection tells within half a minute.
async fn outcome(session: &PostgresSession, xid: &str) -> Option<bool> {
    let asked = async {
        loop {
            if let Ok(mut connection) = session.shared.pool.connect().await {
                let sql = "SELECT txid_status($1::int8)";
                match text(&mut connection, sql, &[xid]).await.ok().flatten().as_deref() {
                    Some("committed") => return true,
                    Some("aborted") => return false,
                    _ => {}
                }
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), asked).await.ok()
}

/// The ledger has each partition once, with the rows of its receipt.
async fn check_ledger(session: &PostgresSession, connection: &mut Connection, receipts: &[Receipt]) -> Result<u64> {
    let shared = &session.shared;
    let sql = format!("SELECT count(*) || ' ' || coalesce(sum(rows), 0) FROM {}", shared.names.ledger);
    let found = text(connection, &sql, &[]).await.map_err(|error| shared.failed(error))?.unwrap_or_default();
    let rows: u64 = receipts.iter().map(|receipt| receipt.rows).sum();
    if found != format!("{} {rows}", receipts.len()) {
        let (partitions, found) = found.split_once(' ').unwrap_or((&found, "?"));
        let promised = receipts.len();
        return Err(Error::new(
            ErrorKind::VerifyFailed,
            format!("the ledger has {partitions} partitions with {found} rows, and {promised} with {rows} were staged"),
        )
        .in_source(&shared.source));
    }
    Ok(rows)
}

/// Gives the number of rows that are moved.
async fn move_rows(
    session: &PostgresSession,
    connection: &mut Connection,
    mut rows: u64,
    sifting: Option<&mut Sifting<'_>>,
) -> Result<u64> {
    let shared = &session.shared;
    let failed = |error| shared.failed(error);
    let staging = &shared.names.staging;
    let target = session.name.quoted()?;
    if sifting.is_none() {
        check_casts(session, connection, &Chosen::All).await?;
    }
    let rename =
        format!("ALTER TABLE {staging} RENAME TO {}; COMMENT ON TABLE {target} IS NULL", quote(&session.name.name)?);
    if session.target.relation.is_none() && !session.target.publishing.keeps_staging() {
        let sql = create_table(&target, "TABLE", &session.plan, &session.target.writings, false)?;
        execute(connection, &sql).await.map_err(failed)?;
    }
    match session.target.publishing {
        Publishing::Rename => {
            let sql = format!("{}{rename}", casts(session)?);
            execute(connection, &sql).await.map_err(failed)?;
            if !session.plan.keys.is_empty() {
                // Now, for an index of all rows is made faster than one that grows.
                let sql = format!("ALTER TABLE {target} ADD PRIMARY KEY ({})", key_list(&session.plan)?);
                let made = execute(connection, &sql).await;
                made.map_err(|error| with_hint_of_key(failed(error), &session.plan))?;
            }
        }
        Publishing::Swap => {
            lock(session, connection, &target, "ACCESS EXCLUSIVE").await?;
            execute(connection, &format!("DROP TABLE {target}; {rename}")).await.map_err(failed)?;
        }
        Publishing::Refill => {
            // Readers go on; writers wait, for their rows would be lost.
            lock(session, connection, &target, "SHARE ROW EXCLUSIVE").await?;
            execute(connection, &format!("DELETE FROM {target}")).await.map_err(failed)?;
            let left = text(connection, &format!("SELECT 'some' FROM {target} LIMIT 1"), &[]).await.map_err(failed)?;
            if left.is_some() {
                let message = "the table keeps old rows although they were deleted; a trigger or a rule may do so";
                return Err(Error::new(ErrorKind::VerifyFailed, message).in_source(&shared.source));
            }
            rows = fill(session, connection, &target, rows, sifting).await?;
        }
        Publishing::Insert => {
            // Keeps nobody away but those who would change the table.
            lock(session, connection, &target, "ROW EXCLUSIVE").await?;
            rows = fill(session, connection, &target, rows, sifting).await?;
        }
        Publishing::Upsert => {
            lock(session, connection, &target, "SHARE ROW EXCLUSIVE").await?;
            if sifting.is_none() {
                refuse_folded_keys(session, connection, &[]).await?;
            }
            rows = fill(session, connection, &target, rows, sifting).await?;
        }
    }
    // Whoever finds what is left of the staging area must not take it for work that is still to be published.
    let sql = match &session.plan.record {
        Some(record) => shared.names.write_down(record, &shared.form, Some(rows)),
        None => format!("DELETE FROM {}", shared.names.ledger),
    };
    execute(connection, &sql).await.map_err(failed)?;
    Ok(rows)
}

/// Locks the target, without keeping others waiting for long, and sees that it is still as it was planned for.
async fn lock(session: &PostgresSession, connection: &mut Connection, target: &str, mode: &str) -> Result<()> {
    if session.target.relation.is_none() {
        return Ok(());
    }
    let failed = |error| session.shared.failed(error);
    let limit = session.lock_timeout.as_millis().max(1);
    let step = STEP.as_millis().min(limit);
    let sql = format!("SET LOCAL lock_timeout = {step}; LOCK TABLE {target} IN {mode} MODE");
    execute(connection, &sql).await.map_err(failed)?;
    // That may wait for other locks, which is not to be done for long with this one in hand.
    recheck(session, connection).await?;
    execute(connection, &format!("SET LOCAL lock_timeout = {limit}")).await.map_err(failed)?;
    Ok(())
}

/// Refuses texts that the server would cut off or round on their way into a column.
async fn check_casts(session: &PostgresSession, connection: &mut Connection, rows: &Chosen) -> Result<()> {
    let shared = &session.shared;
    for (field, writing) in session.plan.schema.fields().iter().zip(&session.target.writings) {
        let Some(cast) = writing.cast.as_ref().filter(|_| writing.may_change()) else { continue };
        let name = quote(field.name())?;
        let changed = if writing.declared == *cast {
            format!("{name} IS DISTINCT FROM {name}::{cast}::text")
        } else {
            format!("{name}::{cast} IS DISTINCT FROM {name}::{cast}::{}", writing.declared)
        };
        let (staging, which) = (&shared.names.staging, rows.condition(ORDINAL));
        let sql = format!("SELECT 'one' FROM {staging} WHERE {which} AND {changed} LIMIT 1");
        if text(connection, &sql, &[]).await.map_err(|error| shared.failed(error))?.is_some() {
            let message = format!("a text is longer or finer than {} keeps", writing.declared);
            return Err(Error::new(ErrorKind::InvalidData, message)
                .hint("widen the column of the target, or change the text")
                .at_column(field.name())
                .in_source(&shared.source));
        }
    }
    Ok(())
}

/// Now that nobody else can change it, the target must still be as it was planned for.
async fn recheck(session: &PostgresSession, connection: &mut Connection) -> Result<()> {
    let shared = &session.shared;
    let failed = |error| shared.failed(error);
    let name = &session.name;
    let look = Target::look(connection, name, &session.plan, &failed).await;
    let mut now = look.map_err(|error| error.in_source(&shared.source))?;
    if session.target.publishing == Publishing::Refill && now.publishing == Publishing::Swap {
        // That a copy of the table would not be like it was found when there was one.
        now = now.refill();
    }
    let oid = |target: &Target| target.relation.as_ref().map(|relation| relation.oid);
    let same = oid(&now) == oid(&session.target)
        && now.writings == session.target.writings
        // A table whose place another one takes must be like that one.
        && (session.target.publishing != Publishing::Swap
            || now.publishing == Publishing::Swap && now.definition == session.target.definition);
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
            changes.push(format!("ALTER COLUMN {name} TYPE {0} USING {name}::{cast}::{0}", writing.declared));
        }
    }
    if changes.is_empty() {
        return Ok(String::new());
    }
    Ok(format!("ALTER TABLE {} {}; ", session.shared.names.staging, changes.join(", ")))
}

/// The staged columns, cast to what they are in the target.
fn select_list(session: &PostgresSession, named: bool) -> Result<String> {
    let mut columns = Vec::new();
    for (field, writing) in session.plan.schema.fields().iter().zip(&session.target.writings) {
        let name = quote(field.name())?;
        let moved = writing.moved(&name);
        columns.push(if named && moved != name { format!("{moved} AS {name}") } else { moved });
    }
    Ok(columns.join(", "))
}

/// Moves rows into the table; gives their number. With `sifting`, those that the table refuses are set aside.
async fn fill(
    session: &PostgresSession,
    connection: &mut Connection,
    target: &str,
    rows: u64,
    sifting: Option<&mut Sifting<'_>>,
) -> Result<u64> {
    let (inserted, rows) = match sifting {
        None => (put(session, connection, target, &Chosen::All).await?, rows),
        Some(sifting) => {
            // What is looked at in the commit is no row's any more.
            let immediate = execute(connection, "SET CONSTRAINTS ALL IMMEDIATE").await;
            immediate.map_err(|error| session.shared.failed(error))?;
            let before = sifting.refused;
            let (refused, refers_to_itself) = (Vec::new(), None);
            let mut filling = Filling { session, connection, target, sifting, refused, inserted: 0, refers_to_itself };
            sift::sift(&mut filling, &session.cancel).await?;
            let Filling { connection, sifting, refused, inserted, .. } = filling;
            if session.target.publishing == Publishing::Upsert {
                // Of those that are refused some may be no keys at all.
                refuse_folded_keys(session, connection, &refused).await?;
            }
            (inserted, rows.saturating_sub(sifting.refused - before))
        }
    };
    if inserted != rows && session.target.publishing != Publishing::Upsert {
        return Err(Error::new(
            ErrorKind::VerifyFailed,
            format!("the table took {inserted} of {rows} rows; a trigger or a rule may have refused the others"),
        )
        .in_source(&session.shared.source));
    }
    Ok(rows)
}

async fn put(session: &PostgresSession, connection: &mut Connection, target: &str, rows: &Chosen) -> Result<u64> {
    match session.target.publishing {
        Publishing::Upsert => upsert(session, connection, target, rows).await,
        _ => insert(session, connection, target, rows).await,
    }
}

struct Filling<'a, 'b> {
    session: &'a PostgresSession,
    connection: &'a mut Connection,
    target: &'a str,
    sifting: &'a mut Sifting<'b>,
    /// Numbers of rows.
    refused: Vec<u64>,
    inserted: u64,
    /// Whether the table refers to itself, so that rows may need others; when it is known.
    refers_to_itself: Option<bool>,
}

impl Filling<'_, '_> {
    async fn execute(&mut self, sql: &str) -> Result<u64> {
        execute(self.connection, sql).await.map_err(|error| self.session.shared.failed(error))
    }

    async fn refers_to_itself(&mut self) -> Result<bool> {
        if let (None, Some(relation)) = (self.refers_to_itself, &self.session.target.relation) {
            let found = target::refers_to_itself(self.connection, relation).await;
            self.refers_to_itself = Some(found.map_err(|error| self.session.shared.failed(error))?);
        }
        Ok(self.refers_to_itself == Some(true))
    }

    async fn check_and_put(&mut self, rows: &Chosen) -> Result<u64> {
        let session = self.session;
        if session.target.publishing == Publishing::Upsert {
            refuse_null_keys(session, self.connection, rows).await?;
        }
        check_casts(session, self.connection, rows).await?;
        put(session, self.connection, self.target, rows).await
    }
}

#[async_trait]
impl Moving for Filling<'_, '_> {
    async fn try_move(&mut self, rows: &Chosen) -> Result<Moved> {
        self.execute("SAVEPOINT etlrs_sift").await?;
        let error = match self.check_and_put(rows).await {
            Ok(inserted) => {
                self.inserted += inserted;
                self.execute("RELEASE SAVEPOINT etlrs_sift").await?;
                return Ok(Moved::All);
            }
            Err(error) if is_of_row(&error) => error,
            Err(error) => return Err(error),
        };
        self.execute("ROLLBACK TO SAVEPOINT etlrs_sift").await?;
        let is_one = matches!(rows, Chosen::Within(rows) if rows.end - rows.start == 1);
        let error = match is_one {
            true => {
                let error = with_column(self.session, self.connection, error, rows).await;
                self.execute("ROLLBACK TO SAVEPOINT etlrs_sift").await?;
                error
            }
            false => error,
        };
        self.execute("RELEASE SAVEPOINT etlrs_sift").await?;
        let may_wait = self.session.target.publishing != Publishing::Upsert
            && sqlstate(&error) == "23503"
            && self.refers_to_itself().await?;
        Ok(Moved::Refused { error, may_wait })
    }

    async fn pieces(&mut self) -> Result<Vec<Range<u64>>> {
        let staging = &self.session.shared.names.staging;
        self.execute(&format!("CREATE INDEX ON {staging} ({ORDINAL}); ANALYZE {staging}")).await?;
        let sql = format!(
            "SELECT min({ORDINAL}), max({ORDINAL}) + 1 FROM {staging} GROUP BY {ORDINAL} >> {PARTITION_BITS} ORDER BY 1"
        );
        let failed = |error| self.session.shared.failed(error);
        let found = rows(self.connection, &sql, &[]).await.map_err(failed)?;
        let bound = |row: &Row, index| row.get::<i64, _>(index).map(i64::unsigned_abs).map_err(failed);
        found.iter().map(|row| Ok(bound(row, 0)?..bound(row, 1)?)).collect()
    }

    async fn refuse(&mut self, refused: Vec<(u64, Error)>) -> Result<()> {
        let (numbers, errors) = in_order(refused);
        let session = self.session;
        let columns = Target::column_list(&session.plan.schema)?;
        self.refused.extend(&numbers);
        let which = Chosen::These(numbers).condition(ORDINAL);
        let staging = &session.shared.names.staging;
        let query = format!("SELECT {columns} FROM {staging} WHERE {which} ORDER BY {ORDINAL}");
        // What is staged is committed, so that another connection sees it.
        let query = PostgresExtractor::query(session.shared.pool.clone(), query);
        let scan = session.read_staged(self.sifting.cx, query).await?;
        self.sifting.take(&*scan, errors).await
    }
}

/// Whether an error is the fault of a row: one of ours, or of the classes that tell of data, of limits that values go beyond, and of
/// what triggers raise.
fn is_of_row(error: &Error) -> bool {
    let code = sqlstate(error);
    // That a sequence has no more numbers is of its class, and no row's fault.
    error.kind() == ErrorKind::InvalidData
        && code != "2200H"
        && (code.is_empty()
            || ["22", "23", "54", "P0"].iter().any(|class| code.starts_with(class))
            || is_of_user(&code))
}

/// Whether a trigger has raised it with a code of the user's own: PostgreSQL has none in these classes.
fn is_of_user(code: &str) -> bool {
    const OF_POSTGRES: [&str; 8] = ["53", "54", "55", "57", "58", "72", "P0", "XX"];
    let is_free = |first: char| matches!(first, '5'..='9' | 'I'..='Z');
    code.starts_with("45") || code.starts_with(is_free) && !OF_POSTGRES.iter().any(|class| code.starts_with(class))
}

/// Of an error of the server, or nothing.
fn sqlstate(error: &Error) -> String {
    let code = std::error::Error::source(error).map(ToString::to_string).unwrap_or_default();
    code.strip_prefix("SQLSTATE ").unwrap_or_default().to_owned()
}

/// WHERE, for rows of the staging table.
fn chosen(rows: &Chosen) -> String {
    match rows {
        Chosen::All => String::new(),
        some => format!(" WHERE {}", some.condition(ORDINAL)),
    }
}

async fn refuse_null_keys(session: &PostgresSession, connection: &mut Connection, rows: &Chosen) -> Result<()> {
    let shared = &session.shared;
    for key in &session.plan.keys {
        let (staging, which) = (&shared.names.staging, rows.condition(ORDINAL));
        let sql = format!("SELECT 'one' FROM {staging} WHERE {which} AND {} IS NULL LIMIT 1", quote(key)?);
        if text(connection, &sql, &[]).await.map_err(|error| shared.failed(error))?.is_some() {
            return Err(null_key(key).in_source(&shared.source));
        }
    }
    Ok(())
}

async fn insert(session: &PostgresSession, connection: &mut Connection, target: &str, rows: &Chosen) -> Result<u64> {
    let shared = &session.shared;
    let (columns, select) = (Target::column_list(&session.plan.schema)?, select_list(session, false)?);
    let sql = format!(
        "INSERT INTO {target} ({columns}) OVERRIDING SYSTEM VALUE SELECT {select} FROM {}{}",
        shared.names.staging,
        chosen(rows)
    );
    execute(connection, &sql).await.map_err(|error| shared.failed(error))
}

/// Refuses keys that are two in the source and one for the target, of rows but for those with the numbers `without`.
async fn refuse_folded_keys(session: &PostgresSession, connection: &mut Connection, without: &[u64]) -> Result<()> {
    let shared = &session.shared;
    let keys = &session.plan.keys;
    let (mut groups, mut differ) = (Vec::new(), Vec::new());
    for (field, writing) in session.plan.schema.fields().iter().zip(&session.target.writings) {
        if !keys.contains(field.name()) {
            continue;
        }
        let name = quote(field.name())?;
        // Staged as text of which the target's type may take two for one, as char(n) does with blanks at the end.
        let mut folds = writing.cast.is_some();
        if let Some(collate) = session.target.folds(field.name()) {
            folds = true;
            groups.push(format!("{name}::{}{collate}", writing.declared));
        } else {
            groups.push(writing.moved(&name));
        }
        if folds {
            differ.push(format!("count(DISTINCT {name}::text COLLATE \"C\") > 1"));
        }
    }
    if differ.is_empty() {
        return Ok(());
    }
    let sql = format!(
        "SELECT 'some' FROM {}{} GROUP BY {} HAVING {} LIMIT 1",
        shared.names.staging,
        match without {
            [] => String::new(),
            // By a query, in which numbers are looked up by their hash.
            some => {
                let numbers = some.iter().map(u64::to_string).collect::<Vec<_>>().join(",");
                format!(" WHERE {ORDINAL} NOT IN (SELECT unnest('{{{numbers}}}'::bigint[]))")
            }
        },
        groups.join(", "),
        differ.join(" OR ")
    );
    match text(connection, &sql, &[]).await.map_err(|error| shared.failed(error))? {
        Some(_) => Err(one_key(keys).in_source(&shared.source)),
        None => Ok(()),
    }
}

/// Of staged rows with one key the last one counts, by their order in the source.
async fn upsert(session: &PostgresSession, connection: &mut Connection, target: &str, rows: &Chosen) -> Result<u64> {
    let shared = &session.shared;
    let plan = &session.plan;
    let staging = &shared.names.staging;
    let keys = key_list(plan)?;
    let (columns, select) = (Target::column_list(&plan.schema)?, select_list(session, true)?);
    let mut sets = Vec::new();
    for field in plan.schema.fields() {
        // Two texts may be one key. The row becomes that of the source, with its spelling.
        if plan.keys.contains(field.name()) && session.target.folds(field.name()).is_none() {
            continue;
        }
        let name = quote(field.name())?;
        sets.push(format!("{name} = excluded.{name}"));
    }
    let action = if sets.is_empty() { "NOTHING".to_owned() } else { format!("UPDATE SET {}", sets.join(", ")) };
    let sql = format!(
        "INSERT INTO {target} ({columns}) OVERRIDING SYSTEM VALUE
         SELECT DISTINCT ON ({keys}) {columns} FROM (SELECT {select}, {ORDINAL} FROM {staging}{}) AS staged
         ORDER BY {keys}, {ORDINAL} DESC
         ON CONFLICT ({keys}) DO {action}",
        chosen(rows)
    );
    execute(connection, &sql).await.map_err(|error| match code(&error) {
        // One row would be updated twice.
        Some("21000") => one_key(&plan.keys).in_source(&shared.source),
        _ => shared.failed(error),
    })
}
