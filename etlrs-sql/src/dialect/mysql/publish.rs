//! From the staging table into the target: one rename, or one transaction.

use std::ops::Range;
use std::time::{Duration, Instant};

use etlrs_core::{Error, ErrorKind, LoadMode, Receipt, Refusals, Result, RunContext, async_trait, failpoint};

use super::error::{code_of, of_data};
use super::extract::MysqlExtractor;
use super::ledger::{MOVED, Names};
use super::name::{literal, quote};
use super::saved_cursor;
use super::session::MysqlSession;
use super::staging::{ORDINAL, create_table};
use super::target::{self, Publishing, Target};
use super::wire::{Connection, Failure, code};
use super::writing::Dialect;
use crate::key::{null_key, one_key};
use crate::network::{Connect, Row};
use crate::patience::{Patience, STEP};
use crate::sift::{self, Chosen, Moved, Moving, PARTITION_BITS, Sifting, in_order};

/// Publishes what is staged; gives the number of rows that became visible.
pub(super) async fn publish(session: &MysqlSession, connection: &mut Connection, receipts: &[Receipt]) -> Result<u64> {
    let patience = Patience::new(session.lock_timeout, &session.cancel);
    loop {
        let moved = match session.moved {
            Some(rows) => Ok(rows),
            None => begin(session, connection, receipts, None).await,
        };
        let done = match moved {
            Ok(rows) => finish(session, connection, rows).await,
            Err(error) => Err(error),
        };
        match done {
            Ok(rows) => return Ok(rows),
            // With it goes what was moved, but for a table that only waits for its name.
            Err(error) if session.moved.is_some() && session.target.publishing != Publishing::FillNew => {
                return Err(error);
            }
            // Nothing is published yet.
            Err(error) => patience.over(error).await?,
        }
        // What a deadlock left.
        connection.execute("ROLLBACK").await.map_err(|error| session.shared.failed(error))?;
    }
}

/// Moves what is staged, but for rows that are refused; only the last step is left then. Gives the number of rows that will become
/// visible. `None`: nothing can be refused that was staged.
pub(super) async fn sift(
    session: &MysqlSession,
    connection: &mut Connection,
    cx: &RunContext,
    receipts: &[Receipt],
    refusals: &mut dyn Refusals,
) -> Result<Option<u64>> {
    if matches!(session.target.publishing, Publishing::Rename | Publishing::Swap) {
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
        connection.execute("ROLLBACK").await.map_err(|error| session.shared.failed(error))?;
    }
}

/// Does all that comes before the last step; gives the number of rows that it will show.
async fn begin(
    session: &MysqlSession,
    connection: &mut Connection,
    receipts: &[Receipt],
    sifting: Option<&mut Sifting<'_>>,
) -> Result<u64> {
    let shared = &session.shared;
    let failed = |error| shared.failed(error);
    let limit = session.lock_timeout.as_secs().clamp(1, 31_536_000);
    let sql = format!(
        "SET SESSION lock_wait_timeout = {}, innodb_lock_wait_timeout = {}",
        STEP.as_secs().min(limit),
        limit.min(1_073_741_824)
    );
    connection.execute(&sql).await.map_err(failed)?;
    check_lock(session, connection).await?;
    let rows = check_ledger(session, connection, receipts).await?;
    failpoint("mysql-publishing");
    let names = &shared.names;
    let target = session.name.backquoted()?;
    match session.target.publishing {
        Publishing::Rename => {
            recheck(session, connection).await?;
            connection.execute(&moved(names)).await.map_err(failed)?;
            Ok(rows)
        }
        Publishing::Swap => {
            recheck(session, connection).await?;
            keep_counter(session, connection).await?;
            connection.execute(&moved(names)).await.map_err(failed)?;
            Ok(rows)
        }
        Publishing::FillNew => {
            // A table of an earlier attempt may have rows. Its mark goes first, for without the table it would say that it is published.
            let mark = format!("FROM {} WHERE partition_id = {MOVED}", names.ledger);
            if !connection.rows(&format!("SELECT 1 {mark}")).await.map_err(failed)?.is_empty() {
                connection.execute(&format!("DELETE {mark}")).await.map_err(failed)?;
            }
            connection.execute(&format!("DROP TABLE IF EXISTS {}", names.new)).await.map_err(failed)?;
            let sql = create_table(&names.new, &session.plan, &session.target.writings, session.server)?;
            connection.execute(&sql).await.map_err(failed)?;
            failpoint("mysql-new-table");
            connection.execute("START TRANSACTION").await.map_err(failed)?;
            let filled = fill(session, connection, &names.new, rows, sifting).await;
            // The first error is the one that counts.
            let rows = match filled {
                Ok(rows) => rows,
                Err(error) => {
                    _ = connection.execute("ROLLBACK").await;
                    return Err(error);
                }
            };
            connection.execute("COMMIT").await.map_err(failed)?;
            failpoint("mysql-new-filled");
            connection.execute(&moved(names)).await.map_err(failed)?;
            Ok(rows)
        }
        Publishing::Refill | Publishing::Insert | Publishing::Upsert => {
            let moved = async {
                let rows = move_rows(session, connection, &target, rows, sifting).await?;
                let saved =
                    saved_cursor::save(connection, &session.name, session.server, &session.plan, session.run).await?;
                saved.map_err(failed)?;
                Ok(rows)
            };
            match moved.await {
                Ok(rows) => Ok(rows),
                Err(error) => {
                    // The first error is the one that counts.
                    _ = connection.execute("ROLLBACK").await;
                    Err(error)
                }
            }
        }
    }
}

/// The last step, which shows the rows.
async fn finish(session: &MysqlSession, connection: &mut Connection, rows: u64) -> Result<u64> {
    let shared = &session.shared;
    let failed = |error| shared.failed(error);
    let (names, target) = (&shared.names, session.name.backquoted()?);
    let last = match session.target.publishing {
        Publishing::Rename => format!("RENAME TABLE {} TO {target}", names.staging),
        Publishing::Swap => format!("RENAME TABLE {target} TO {}, {} TO {target}", names.old, names.staging),
        Publishing::FillNew => format!("RENAME TABLE {} TO {target}", names.new),
        Publishing::Refill | Publishing::Insert | Publishing::Upsert => "COMMIT".to_owned(),
    };
    if matches!(session.target.publishing, Publishing::Rename | Publishing::FillNew) {
        let announced =
            saved_cursor::announce(connection, &session.name, session.server, &session.plan, session.run).await?;
        announced.map_err(failed)?;
    }
    failpoint("mysql-committing");
    let error = match connection.execute(&last).await {
        Ok(_) if session.target.publishing == Publishing::Swap => {
            failpoint("mysql-swapped");
            check_swap(session, connection, &target).await?;
            return Ok(rows);
        }
        Ok(_) => return Ok(rows),
        Err(error) if is_answer(&error) => return Err(failed(error)),
        Err(error) => error,
    };
    // The answer is lost, which says nothing of the commit itself.
    match outcome(session, connection.id).await {
        Some((true, mut holder)) => {
            if session.target.publishing == Publishing::Swap {
                check_swap(session, &mut holder, &target).await?;
            }
            holder.close().await;
            Ok(rows)
        }
        Some((false, _)) => Err(failed(error)),
        None => {
            Err(failed(error)
                .hint("it is not known whether the commit took place: look at the table before running again"))
        }
    }
}

/// Whether the server itself says that it did not do it. That a connection ends may also be said by a proxy between, or by a
/// server that is stopped.
fn is_answer(error: &Failure) -> bool {
    code(error).is_some_and(|code| !matches!(code, 1053 | 1077 | 1152..=1161 | 1927 | 2006 | 2013 | 4031 | 9000..))
}

/// A table that was altered, or that something was hung on, while the rename waited for it, is put back: nothing of that may be
/// lost. For a moment readers have seen the new rows.
async fn check_swap(session: &MysqlSession, connection: &mut Connection, target: &str) -> Result<()> {
    let shared = &session.shared;
    let failed = |error| shared.failed(error);
    let (old, staging) = (&shared.names.old, &shared.names.staging);
    let mut same = target::definition_of(connection, old).await.map_err(failed)? == session.target.definition;
    let mut why = "the target was changed while its place was taken, so it was put back";
    if let Some(relation) = &session.target.relation
        && same
    {
        let mut replaced = relation.clone();
        replaced.name = session.old_name();
        let hanging = target::what_hangs_on(connection, &replaced).await.map_err(failed)?;
        // Whether all triggers are seen was asked for the name that the privileges are for.
        same = hanging.iter().all(|what| what.starts_with("triggers, if"));
    }
    if same {
        match connection.execute(&format!("DROP TABLE {old}")).await {
            Ok(_) => return Ok(()),
            // A foreign key of a table that this user may not see.
            Err(error) if matches!(code(&error), Some(1451 | 3730)) => {
                why = "a table that this user may not see refers to the target by a foreign key, so it was put back";
            }
            // It is removed later.
            Err(_) => return Ok(()),
        }
    }
    // This has to succeed, so it may wait as long as a commit may.
    let limit = session.lock_timeout.as_secs().clamp(1, 31_536_000);
    connection.execute(&format!("SET SESSION lock_wait_timeout = {limit}")).await.map_err(failed)?;
    let back = format!("RENAME TABLE {target} TO {staging}, {old} TO {target}");
    if let Err(error) = connection.execute(&back).await {
        let message = format!(
            "the target was changed while its place was taken, and cannot be put back: it has the new rows, and {old} the old ones"
        );
        return Err(Error::new(ErrorKind::SourceChanged, message).caused_by(failed(error)).in_source(&shared.source));
    }
    Err(Error::new(ErrorKind::SourceChanged, why).hint("run again, or use mode merge").in_source(&shared.source))
}

/// Whether what was committed last is there, as another connection tells within half a minute, which then has the lock of the target.
/// `None` if that cannot be told: the server is not there, or another run got the lock, and may have removed what tells it.
async fn outcome(session: &MysqlSession, lost: u64) -> Option<(bool, Connection)> {
    let asked = async {
        loop {
            if let Ok(mut connection) = session.shared.pool.connect().await
                && let Ok(done) = ask(session, &mut connection, lost).await
            {
                return done.map(|done| (done, connection));
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), asked).await.ok().flatten()
}

async fn ask(session: &MysqlSession, connection: &mut Connection, lost: u64) -> Result<Option<bool>> {
    let failed = |error| session.shared.failed(error);
    // The server may still be at it, which the lock of the run tells: its number alone may be another's by now.
    let sql = format!("SELECT coalesce(is_used_lock({}) = {lost}, 0)", session.lock);
    let end = Instant::now() + Duration::from_secs(30);
    loop {
        let found = connection.rows(&sql).await.map_err(failed)?;
        if found.first().map(|row| row.get::<bool, _>(0)).transpose().map_err(failed)? != Some(true) {
            break;
        }
        if Instant::now() > end {
            let message = "the server still works at what was lost";
            return Err(Error::new(ErrorKind::Connection, message).in_source(&session.shared.source));
        }
        _ = connection.execute(&format!("KILL {lost}")).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let is_true = |found: Vec<Row>| {
        let value = found.first().map(|row| row.get::<bool, _>(0)).transpose();
        value.map(|value| value == Some(true)).map_err(failed)
    };
    let lock = format!("SELECT coalesce(get_lock({}, 0), 0)", session.lock);
    if !is_true(connection.rows(&lock).await.map_err(failed)?)? {
        return Ok(None);
    }
    let names = &session.shared.names;
    let is_there = |table: &str| {
        let name = table.rsplit_once('.').map_or(table, |(_, name)| name).trim_matches('`').to_owned();
        let schema = session.name.schema.as_deref().unwrap_or_default();
        format!(
            "SELECT count(*) > 0 FROM information_schema.TABLES WHERE TABLE_SCHEMA = {} AND TABLE_NAME = {}",
            literal(schema),
            literal(&name)
        )
    };
    // Another run had the lock in between, and removed what tells it.
    if !is_true(connection.rows(&is_there(&names.ledger)).await.map_err(failed)?)? {
        return Ok(None);
    }
    let mark = format!("SELECT count(*) > 0 FROM {} WHERE partition_id = {MOVED}", names.ledger);
    let is_marked = is_true(connection.rows(&mark).await.map_err(failed)?)?;
    let renamed = match session.target.publishing {
        Publishing::Rename | Publishing::Swap => Some(&names.staging),
        Publishing::FillNew => Some(&names.new),
        Publishing::Refill | Publishing::Insert | Publishing::Upsert => None,
    };
    let is_left = match renamed {
        // It has its old name no more.
        Some(table) => is_true(connection.rows(&is_there(table)).await.map_err(failed)?)?,
        None => false,
    };
    Ok(Some(is_marked && !is_left))
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
    Err(Error::new(ErrorKind::Connection, "the lock on the target was lost, so nothing was published")
        .hint("run again")
        .in_source(&shared.source))
}

/// The ledger has each partition once, with the rows of its receipt.
async fn check_ledger(session: &MysqlSession, connection: &mut Connection, receipts: &[Receipt]) -> Result<u64> {
    let shared = &session.shared;
    let sql =
        format!("SELECT count(*), coalesce(sum(row_count), 0) FROM {} WHERE partition_id >= 0", shared.names.ledger);
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
    let mut now = now.map_err(|error| error.in_source(&shared.source))?;
    let planned = &session.target;
    if planned.publishing == Publishing::Refill && now.publishing == Publishing::Swap {
        // That a copy of the table would not be like it was found when there was one.
        now = now.refill(&session.plan, Dialect::of(connection.is_mariadb()))?;
    }
    let same = now.relation.is_some() == planned.relation.is_some()
        && now.definition == planned.definition
        && now.publishing == planned.publishing
        && now.writings == planned.writings;
    if same { Ok(()) } else { Err(changed(session)) }
}

fn changed(session: &MysqlSession) -> Error {
    let message = "the target was changed while rows were staged for it, so nothing was published";
    Error::new(ErrorKind::SourceChanged, message).hint("run again").in_source(&session.shared.source)
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

/// Gives the number of rows that are moved.
async fn move_rows(
    session: &MysqlSession,
    connection: &mut Connection,
    target: &str,
    rows: u64,
    sifting: Option<&mut Sifting<'_>>,
) -> Result<u64> {
    let shared = &session.shared;
    let failed = |error| shared.failed(error);
    connection.execute("START TRANSACTION").await.map_err(failed)?;
    // From now on nobody alters it, until the commit.
    match connection.rows(&format!("SELECT 1 FROM {target} LIMIT 0")).await {
        Err(error) if code(&error) == Some(1146) => return Err(changed(session)),
        found => found.map_err(failed)?,
    };
    recheck(session, connection).await?;
    if session.target.publishing == Publishing::Refill {
        // Rows of a table that this user may not see are not deleted along.
        connection.execute("SET SESSION foreign_key_checks = 0").await.map_err(failed)?;
        connection.execute(&format!("DELETE FROM {target}")).await.map_err(failed)?;
        connection.execute("SET SESSION foreign_key_checks = 1").await.map_err(failed)?;
    }
    let rows = fill(session, connection, target, rows, sifting).await?;
    failpoint("mysql-moved");
    connection.execute(&moved(&shared.names)).await.map_err(failed)?;
    Ok(rows)
}

/// Moves rows into the table; gives their number. With `sifting`, those that the table refuses are set aside.
async fn fill(
    session: &MysqlSession,
    connection: &mut Connection,
    target: &str,
    rows: u64,
    sifting: Option<&mut Sifting<'_>>,
) -> Result<u64> {
    let merges = session.plan.mode == LoadMode::Merge;
    if merges {
        refuse_folded_keys(session, connection).await?;
        require_numbers(session, connection, target).await?;
    }
    let (inserted, rows) = match sifting {
        None => (put(session, connection, target, &Chosen::All).await?, rows),
        Some(sifting) => {
            let before = sifting.refused;
            let mut filling = Filling { session, connection, target, sifting, inserted: 0, refers_to_itself: None };
            sift::sift(&mut filling, &session.cancel).await?;
            (filling.inserted, rows.saturating_sub(filling.sifting.refused - before))
        }
    };
    if inserted != rows && !merges {
        let message = format!("the table took {inserted} of {rows} rows");
        return Err(Error::new(ErrorKind::VerifyFailed, message).in_source(&session.shared.source));
    }
    Ok(rows)
}

/// Gives the number of rows that the server counts.
async fn put(session: &MysqlSession, connection: &mut Connection, target: &str, rows: &Chosen) -> Result<u64> {
    match session.plan.mode {
        LoadMode::Merge => upsert(session, connection, target, rows).await,
        _ => insert(session, connection, target, rows).await,
    }
}

struct Filling<'a, 'b> {
    session: &'a MysqlSession,
    connection: &'a mut Connection,
    target: &'a str,
    sifting: &'a mut Sifting<'b>,
    inserted: u64,
    /// Whether the table refers to itself, so that rows may need others; when it is known.
    refers_to_itself: Option<bool>,
}

impl Filling<'_, '_> {
    async fn execute(&mut self, sql: &str) -> Result<()> {
        self.connection.execute(sql).await.map_err(|error| self.session.shared.failed(error)).map(drop)
    }

    async fn refers_to_itself(&mut self) -> Result<bool> {
        if let (None, Some(relation)) = (self.refers_to_itself, &self.session.target.relation) {
            let found = target::refers_to_itself(self.connection, relation).await;
            self.refers_to_itself = Some(found.map_err(|error| self.session.shared.failed(error))?);
        }
        Ok(self.refers_to_itself == Some(true))
    }

    async fn check_and_put(&mut self, rows: &Chosen) -> Result<u64> {
        let Self { session, connection, .. } = self;
        if session.plan.mode == LoadMode::Merge {
            for key in &session.plan.keys {
                let (staging, which) = (&session.shared.names.staging, rows.condition(ORDINAL));
                let sql = format!("SELECT 1 FROM {staging} WHERE {which} AND {} IS NULL LIMIT 1", quote(key)?);
                let found = connection.rows(&sql).await.map_err(|error| session.shared.failed(error))?;
                if !found.is_empty() {
                    return Err(null_key(key).in_source(&session.shared.source));
                }
            }
        }
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
        let may_wait = self.session.plan.mode != LoadMode::Merge
            && matches!(code_of(&error), Some(1452 | 1216))
            && self.refers_to_itself().await?;
        Ok(Moved::Refused { error, may_wait })
    }

    async fn pieces(&mut self) -> Result<Vec<Range<u64>>> {
        let sql = format!(
            "SELECT min({ORDINAL}), max({ORDINAL}) + 1 FROM {} GROUP BY {ORDINAL} >> {PARTITION_BITS} ORDER BY 1",
            self.session.shared.names.staging
        );
        let failed = |error| self.session.shared.failed(error);
        let found = self.connection.rows(&sql).await.map_err(failed)?;
        found.iter().map(|row| Ok(row.get(0).map_err(failed)?..row.get(1).map_err(failed)?)).collect()
    }

    async fn refuse(&mut self, refused: Vec<(u64, Error)>) -> Result<()> {
        let (numbers, errors) = in_order(refused);
        let session = self.session;
        let columns = Target::column_list(&session.plan.schema)?;
        let which = Chosen::These(numbers).condition(ORDINAL);
        let staging = &session.shared.names.staging;
        let query = format!("SELECT {columns} FROM {staging} WHERE {which} ORDER BY {ORDINAL}");
        // What is staged is committed, so that another connection sees it.
        let query = MysqlExtractor::query(session.shared.pool.clone(), query);
        let scan = session.read_staged(self.sifting.cx, query).await?;
        self.sifting.take(&*scan, errors).await
    }
}

/// Whether an error is the fault of a row: one of ours, or one of which it is known.
fn is_of_row(error: &Error) -> bool {
    error.kind() == ErrorKind::InvalidData && code_of(error).is_none_or(|code| of_data(code).is_some())
}

/// The statement that marks the rows as moved. An attempt before may have done so.
fn moved(names: &Names) -> String {
    format!("INSERT IGNORE INTO {} (partition_id, row_count, bytes) VALUES ({MOVED}, 0, 0)", names.ledger)
}

async fn insert(session: &MysqlSession, connection: &mut Connection, target: &str, rows: &Chosen) -> Result<u64> {
    let shared = &session.shared;
    let columns = Target::column_list(&session.plan.schema)?;
    let (staging, which) = (&shared.names.staging, rows.condition(ORDINAL));
    let sql =
        format!("INSERT INTO {target} ({columns}) SELECT {columns} FROM {staging} WHERE {which} ORDER BY {ORDINAL}");
    let done = connection.execute(&sql).await.map_err(|error| shared.failed(error))?;
    connection.refuse_warnings(done).await.map_err(|error| shared.failed(error))?;
    Ok(done.rows)
}

/// Rows go in the order of the source, so of two with one key the later one is what stays.
async fn upsert(session: &MysqlSession, connection: &mut Connection, target: &str, rows: &Chosen) -> Result<u64> {
    let shared = &session.shared;
    let plan = &session.plan;
    let columns = Target::column_list(&plan.schema)?;
    let is_key = |name: &String| plan.keys.iter().any(|key| key.to_lowercase() == name.to_lowercase());
    let mut sets = Vec::new();
    for field in plan.schema.fields() {
        // Two texts may be one key. The row becomes that of the source, with its spelling.
        let column = session.target.relation.as_ref().and_then(|relation| relation.column(field.name()));
        if is_key(field.name()) && column.is_none_or(|column| column.collation.is_none()) {
            continue;
        }
        let name = quote(field.name())?;
        sets.push(format!("{name} = {}.{name}", shared.names.staging));
    }
    if sets.is_empty() {
        // Something that changes nothing.
        let key = quote(plan.schema.field(etlrs_core::column_index(&plan.schema, &plan.keys[0])?).name())?;
        sets.push(format!("{key} = {}.{key}", shared.names.staging));
    }
    let sql = format!(
        "INSERT INTO {target} ({columns}) SELECT {columns} FROM {} WHERE {} ORDER BY {ORDINAL} ON DUPLICATE KEY UPDATE {}",
        shared.names.staging,
        rows.condition(ORDINAL),
        sets.join(", ")
    );
    let done = connection.execute(&sql).await.map_err(|error| shared.failed(error))?;
    connection.refuse_warnings(done).await.map_err(|error| shared.failed(error))?;
    Ok(done.rows)
}

/// Refuses to merge past a primary key that the server numbers when a number may be that of a row that is there: for the upsert
/// that row would be the one to update.
async fn require_numbers(session: &MysqlSession, connection: &mut Connection, target: &str) -> Result<()> {
    let shared = &session.shared;
    let Some(relation) = &session.target.relation else { return Ok(()) };
    let is_given = |name: &str| {
        session.plan.schema.fields().iter().any(|field| field.name().to_lowercase() == name.to_lowercase())
    };
    let Some(column) = relation.columns.iter().find(|column| column.auto_increment && !is_given(&column.name)) else {
        return Ok(());
    };
    let bits = match column.data_type.as_str() {
        "tinyint" => 8,
        "smallint" => 16,
        "mediumint" => 24,
        "int" => 32,
        _ => 64,
    };
    let most = (u64::MAX >> (64 - bits)) >> u32::from(!column.is_unsigned());
    // MySQL remembers it for a day otherwise. MariaDB knows no such variable.
    match connection.execute("SET SESSION information_schema_stats_expiry = 0").await {
        Ok(_) | Err(Failure::Server(_)) => {}
        Err(error) => return Err(shared.failed(error)),
    }
    let sql = format!(
        "SELECT AUTO_INCREMENT > (SELECT coalesce(max({name}), 0) FROM {target})
             AND AUTO_INCREMENT + @@auto_increment_increment * (SELECT count(*) FROM {staging}) <= {most}
         FROM information_schema.TABLES WHERE {at}",
        name = quote(&column.name)?,
        staging = shared.names.staging,
        at = target::at(relation, "TABLE_SCHEMA", "TABLE_NAME"),
    );
    let found = connection.rows(&sql).await.map_err(|error| shared.failed(error))?;
    let enough = found.first().map(|row| row.get::<Option<bool>, _>(0)).transpose();
    if enough.map_err(|error| shared.failed(error))?.flatten() == Some(true) {
        return Ok(());
    }
    Err(Error::new(ErrorKind::InvalidConfig, "the server has not enough numbers for new rows")
        .hint("set AUTO_INCREMENT of the table above the greatest number that there is, or widen the column")
        .at_column(&column.name)
        .in_source(&shared.source))
}

/// Refuses keys that are two in the source and one for the collation of the target.
async fn refuse_folded_keys(session: &MysqlSession, connection: &mut Connection) -> Result<()> {
    let shared = &session.shared;
    let (mut theirs, mut ours) = (Vec::new(), Vec::new());
    for key in &session.plan.keys {
        let name = quote(key)?;
        let column = session.target.relation.as_ref().and_then(|relation| relation.column(key));
        let collation = column.and_then(|column| Some((column.charset.as_ref()?, column.collation.as_ref()?)));
        theirs.push(match collation {
            // Names of the server's own, which are plain.
            Some((charset, collation)) => format!("CONVERT({name} USING {charset}) COLLATE {collation}"),
            None => name.clone(),
        });
        ours.push(if collation.is_some() { format!("BINARY {name}") } else { name });
    }
    if theirs == ours {
        return Ok(());
    }
    let sql = format!(
        "SELECT count(DISTINCT {}) = count(DISTINCT {}) FROM {}",
        theirs.join(", "),
        ours.join(", "),
        shared.names.staging
    );
    let found = connection.rows(&sql).await.map_err(|error| shared.failed(error))?;
    let same = found.first().map(|row| row.get::<bool, _>(0)).transpose().map_err(|error| shared.failed(error))?;
    if same == Some(true) {
        return Ok(());
    }
    Err(one_key(&session.plan.keys).in_source(&shared.source))
}
