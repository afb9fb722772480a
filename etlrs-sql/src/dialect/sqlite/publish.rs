//! The one transaction in which staged rows become the target's.

use std::ops::Range;

use etlrs_core::{
    Error, ErrorKind, LoadMode, Published, Receipt, Refusals, Result, RunContext, async_trait, failpoint,
};
use rusqlite::Connection;

use super::catalog::{self, Table};
use super::error::is_of_row;
use super::quote;
use super::saved_cursor;
use super::session::{Shared, SqliteSession, in_transaction};
use super::target::{already_exists, check_target, create_table, fits, is_like, name_list};
use crate::SqliteExtractor;
use crate::key::{null_key, one_key};
use crate::sift::{self, Chosen, Moved, Moving, Sifting, in_order};

/// The rows of the staging table go into this table; if not, it is the staging table itself.
struct Fill {
    target: String,
    /// The columns, as SQL lists them.
    columns: String,
    /// What decides which rows are one, and what becomes of two: behind the statement that inserts.
    conflict: Option<String>,
}

impl SqliteSession {
    pub(super) fn publish(&self, receipts: &[Receipt]) -> Result<Published> {
        let shared = &self.shared;
        let failed = |error| shared.failed(error);
        let bytes = receipts.iter().map(|receipt| receipt.bytes).sum();
        let connection = shared.connection();
        if let Some(rows) = self.moved {
            connection.execute_batch("COMMIT").map_err(failed)?;
            return Ok(Published::new(rows, bytes));
        }
        let rows = in_transaction(&connection, failed, || {
            let (rows, fill) = self.prepare(&connection, receipts)?;
            if let Some(fill) = &fill {
                let inserted = shared.put(&connection, fill, &Chosen::All)?;
                shared.check_count(fill, inserted, rows)?;
            }
            self.complete(&connection, fill.as_ref())?;
            Ok(rows)
        })?;
        Ok(Published::new(rows, bytes))
    }

    /// Moves what is staged, but for rows that are refused, in a transaction that stays open; gives the number of rows that will
    /// become visible. `None`: rows cannot be told apart, or none can be refused that was staged.
    pub(super) async fn sift(
        &self,
        cx: &RunContext,
        receipts: &[Receipt],
        refusals: &mut dyn Refusals,
    ) -> Result<Option<u64>> {
        let Some(rowid) = self.shared.rowid else { return Ok(None) };
        let mut filling = Filling { session: self, rowid, fill: None, inserted: 0, refused: Vec::new() };
        let done = filling.fill(cx, receipts, refusals).await;
        if done.is_err() {
            let connection = self.shared.connection();
            if !connection.is_autocommit() {
                // The first error is the one that counts.
                _ = connection.execute_batch("ROLLBACK");
            }
        }
        done.map(Some)
    }

    /// All that comes before rows are moved, of a transaction that is begun. Gives the number of rows.
    fn prepare(&self, connection: &Connection, receipts: &[Receipt]) -> Result<(u64, Option<Fill>)> {
        let shared = &self.shared;
        let failed = |error| shared.failed(error);
        let staged = shared.staged(connection).map_err(failed)?;
        let rows = receipts.iter().map(|receipt| receipt.rows).sum();
        let planned = shared.plan.partitions.iter().all(|p| receipts.iter().any(|receipt| receipt.partition == p.id));
        if !planned || staged != (receipts.len() as u64, rows) {
            return Err(Error::new(ErrorKind::Internal, "the receipts are not those of what is staged")
                .in_source(&shared.source));
        }
        let count = format!("SELECT count(*) FROM {}", quote(&shared.staging)?);
        let counted: i64 = connection.query_row(&count, [], |row| row.get(0)).map_err(failed)?;
        if u64::try_from(counted) != Ok(rows) {
            let message = format!("{counted} rows are staged where {rows} were written");
            return Err(Error::new(ErrorKind::VerifyFailed, message).in_source(&shared.source));
        }
        failpoint("sqlite-publishing");
        let old = Table::find(connection, &shared.target).map_err(failed)?;
        if old.is_none() {
            // Of one that was there once.
            saved_cursor::forget(connection, &shared.target).map_err(failed)?;
        }
        let fill = match old {
            None if shared.plan.mode == LoadMode::Merge => {
                let plan = &shared.plan;
                let create = create_table(&shared.target, &plan.schema, &plan.keys, shared.strict)?;
                connection.execute_batch(&create).map_err(failed)?;
                Some(shared.merge(connection, &shared.target, &plan.keys)?)
            }
            None => {
                shared.rename(connection, &shared.target)?;
                None
            }
            Some(_) if shared.plan.mode == LoadMode::Create => {
                return Err(already_exists("the target appeared while the run was going on").in_source(&shared.source));
            }
            Some(old) => {
                // It may have changed since the load was planned.
                check_target(&old, &shared.plan, shared.strict).map_err(|error| error.in_source(&shared.source))?;
                if fits(Some(&old), &shared.plan, shared.strict) != shared.fits {
                    let message = "the table was altered while rows were staged for it";
                    return Err(Error::new(ErrorKind::SchemaMismatch, message)
                        .hint("run again")
                        .in_source(&shared.source));
                }
                match shared.plan.mode {
                    LoadMode::Append => Some(shared.append(&old)?),
                    LoadMode::Merge => Some(shared.merge(connection, &old.name, &shared.plan.keys)?),
                    _ => shared.replace(connection, &old)?,
                }
            }
        };
        Ok((rows, fill))
    }

    /// All that comes between that and the COMMIT.
    fn complete(&self, connection: &Connection, fill: Option<&Fill>) -> Result<()> {
        let shared = &self.shared;
        let failed = |error| shared.failed(error);
        if fill.is_some() {
            connection.execute_batch(&format!("DROP TABLE {}", quote(&shared.staging)?)).map_err(failed)?;
        }
        failpoint("sqlite-moved");
        saved_cursor::save(connection, &shared.target, &shared.plan, &shared.run.to_string()).map_err(failed)?;
        if !shared.plan.is_repair {
            self.post_sql(connection)?;
        }
        shared.close_run(connection).map_err(failed)?;
        failpoint("sqlite-committing");
        Ok(())
    }
}

/// Rows on their way into the target, and what it refuses of them.
struct Filling<'a> {
    session: &'a SqliteSession,
    /// What the rowid is called in the staging table.
    rowid: &'static str,
    fill: Option<Fill>,
    inserted: u64,
    refused: Vec<(u64, Error)>,
}

impl Filling<'_> {
    async fn fill(&mut self, cx: &RunContext, receipts: &[Receipt], refusals: &mut dyn Refusals) -> Result<u64> {
        let session = self.session;
        let shared = &session.shared;
        let failed = |error| shared.failed(error);
        let begin = || {
            let connection = shared.connection();
            connection.execute_batch("BEGIN IMMEDIATE").map_err(failed)?;
            session.prepare(&connection, receipts)
        };
        let rows;
        (rows, self.fill) = begin()?;
        if self.fill.is_some() {
            sift::sift(self, cx.cancel()).await?;
        }
        let refused = std::mem::take(&mut self.refused);
        if refused.is_empty() {
            let connection = shared.connection();
            if let Some(fill) = &self.fill {
                shared.check_count(fill, self.inserted, rows)?;
            }
            session.complete(&connection, self.fill.as_ref())?;
            return Ok(rows);
        }
        // What is refused is read through another connection, which a transaction might keep out; so all is done once more without it.
        shared.connection().execute_batch("ROLLBACK").map_err(failed)?;
        let (numbers, errors) = in_order(refused);
        let (staging, mut errors) = (quote(&shared.staging)?, errors.into_iter());
        let chunks =
            || numbers.chunks(sift::CHUNK).map(|numbers| Chosen::These(numbers.to_vec()).condition(self.rowid));
        let mut sifting = Sifting::new(cx, refusals);
        for which in chunks() {
            let query = format!("SELECT * FROM {staging} WHERE {which} ORDER BY {}", self.rowid);
            let scan = session.read_staged(cx, SqliteExtractor::query(&shared.path, query)).await?;
            let of_chunk = errors.by_ref().take(sift::CHUNK).collect();
            sifting.take(&*scan, of_chunk).await?;
        }
        let (rows, fill) = begin()?;
        let connection = shared.connection();
        let left = rows.saturating_sub(numbers.len() as u64);
        for which in chunks() {
            connection.execute_batch(&format!("DELETE FROM {staging} WHERE {which}")).map_err(failed)?;
        }
        if let Some(fill) = &fill {
            let inserted = shared.put(&connection, fill, &Chosen::All)?;
            shared.check_count(fill, inserted, left)?;
        }
        session.complete(&connection, fill.as_ref())?;
        Ok(left)
    }
}

#[async_trait]
impl Moving for Filling<'_> {
    async fn try_move(&mut self, rows: &Chosen) -> Result<Moved> {
        let shared = &self.session.shared;
        let failed = |error| shared.failed(error);
        let Some(fill) = &self.fill else { return Ok(Moved::All) };
        let connection = shared.connection();
        connection.execute_batch("SAVEPOINT etlrs_sift").map_err(failed)?;
        match shared.put(&connection, fill, rows) {
            Ok(inserted) => {
                connection.execute_batch("RELEASE etlrs_sift").map_err(failed)?;
                self.inserted += inserted;
                Ok(Moved::All)
            }
            Err(error) if is_of_row(&error) => {
                connection.execute_batch("ROLLBACK TO etlrs_sift; RELEASE etlrs_sift").map_err(failed)?;
                Ok(Moved::Refused { error, may_wait: false })
            }
            Err(error) => Err(error),
        }
    }

    async fn pieces(&mut self) -> Result<Vec<Range<u64>>> {
        let shared = &self.session.shared;
        let sql = format!("SELECT min({0}), max({0}) + 1 FROM {1}", self.rowid, quote(&shared.staging)?);
        let connection = shared.connection();
        let range = connection.query_row(&sql, [], |row| Ok(row.get::<_, i64>(0)?..row.get::<_, i64>(1)?));
        let range = range.map_err(|error| shared.failed(error))?;
        // They are counted from 1.
        Ok(std::iter::once(range.start.unsigned_abs()..range.end.unsigned_abs()).collect())
    }

    async fn refuse(&mut self, rows: Vec<(u64, Error)>) -> Result<()> {
        self.refused.extend(rows);
        Ok(())
    }
}

impl Shared {
    /// Of rows with one key the last one counts, for each is a row of its own to an upsert.
    fn merge(&self, connection: &Connection, target: &str, keys: &[String]) -> Result<Fill> {
        let failed = |error| self.failed(error);
        let names: Vec<_> = self.plan.schema.fields().iter().map(|field| field.name().clone()).collect();
        let (columns, key_list) = (name_list(&names)?, name_list(keys)?);
        let collations = catalog::key_collations(connection, target, keys).map_err(failed)?;
        let (target, staging) = (quote(target)?, quote(&self.staging)?);
        // Two texts may be one key. The row becomes that of the source, with its spelling.
        let folds = |collation: &Option<String>| collation.as_deref().is_some_and(|name| name != "BINARY");
        if collations.iter().any(folds) {
            let (mut groups, mut differ) = (Vec::new(), Vec::new());
            for (key, collation) in keys.iter().zip(&collations) {
                let (key, collation) = (quote(key)?, quote(collation.as_deref().unwrap_or("BINARY"))?);
                groups.push(format!("{key} COLLATE {collation}"));
                differ.push(format!("min({key} COLLATE BINARY) IS NOT max({key} COLLATE BINARY)"));
            }
            let (groups, differ) = (groups.join(", "), differ.join(" OR "));
            let sql = format!("SELECT EXISTS (SELECT 1 FROM {staging} GROUP BY {groups} HAVING {differ})");
            if connection.query_row(&sql, [], |row| row.get(0)).map_err(failed)? {
                return Err(one_key(keys).in_source(&self.source));
            }
        }
        let spelled = |name: &String| keys.iter().zip(&collations).any(|(key, found)| key == name && folds(found));
        let others = names.iter().filter(|name| !keys.contains(name) || spelled(name));
        let sets = others.map(|name| Ok(format!("{0} = excluded.{0}", quote(name)?))).collect::<Result<Vec<_>>>()?;
        let action = if sets.is_empty() { "NOTHING".to_owned() } else { format!("UPDATE SET {}", sets.join(", ")) };
        Ok(Fill { target, columns, conflict: Some(format!("ON CONFLICT ({key_list}) DO {action}")) })
    }

    fn append(&self, target: &Table) -> Result<Fill> {
        let names: Vec<_> = self.plan.schema.fields().iter().map(|field| field.name().clone()).collect();
        Ok(Fill { target: quote(&target.name)?, columns: name_list(&names)?, conflict: None })
    }

    /// Moves rows; gives how many SQLite says that it inserted or updated.
    fn put(&self, connection: &Connection, fill: &Fill, rows: &Chosen) -> Result<u64> {
        let failed = |error| self.failed(error);
        let staging = quote(&self.staging)?;
        // Rows are chosen where their rowid has a name. Without one it still is the order in which SQLite reads a table without an
        // index.
        let which = rows.condition(self.rowid.unwrap_or("rowid"));
        let order = self.rowid.map_or_else(String::new, |rowid| format!(" ORDER BY {rowid}"));
        if fill.conflict.is_some() {
            for key in &self.plan.keys {
                let sql = format!("SELECT EXISTS (SELECT 1 FROM {staging} WHERE {which} AND {} IS NULL)", quote(key)?);
                if connection.query_row(&sql, [], |row| row.get(0)).map_err(failed)? {
                    return Err(null_key(key).in_source(&self.source));
                }
            }
        }
        let Fill { target, columns, conflict } = fill;
        let conflict = conflict.as_deref().unwrap_or_default();
        // OR ABORT wins over conflict clauses of the table, which may leave out rows or replace old ones. A trigger may
        // still leave out rows, so they are counted. WHERE, for without it ON would be taken for the condition of a join.
        let sql = format!(
            "INSERT OR ABORT INTO {target} ({columns}) SELECT {columns} FROM {staging} WHERE {which}{order} {conflict}"
        );
        connection.execute(&sql, []).map(|rows| rows as u64).map_err(failed)
    }

    fn check_count(&self, fill: &Fill, inserted: u64, rows: u64) -> Result<()> {
        if inserted == rows || fill.conflict.is_some() {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::VerifyFailed,
            format!("the table took {inserted} of {rows} rows; a trigger may have refused the others"),
        )
        .in_source(&self.source))
    }

    /// Makes the staging table the target.
    fn rename(&self, connection: &Connection, target: &str) -> Result<()> {
        let sql = format!("ALTER TABLE {} RENAME TO {}", quote(&self.staging)?, quote(target)?);
        connection.execute_batch(&sql).map_err(|error| self.failed(error))
    }

    fn replace(&self, connection: &Connection, old: &Table) -> Result<Option<Fill>> {
        let failed = |error| self.failed(error);
        let target = quote(&old.name)?;
        if is_like(connection, old, &self.plan, self.strict)? {
            let indexes = catalog::index_statements(connection, &old.name).map_err(failed)?;
            connection.execute_batch(&format!("DROP TABLE {target}")).map_err(failed)?;
            self.rename(connection, &old.name)?;
            indexes.iter().try_for_each(|sql| connection.execute_batch(sql).map_err(failed))?;
            return Ok(None);
        }
        connection.execute_batch(&format!("DELETE FROM {target}")).map_err(failed)?;
        let left = format!("SELECT EXISTS (SELECT 1 FROM {target})");
        if connection.query_row(&left, [], |row| row.get(0)).map_err(failed)? {
            let message = "the table keeps old rows although they were deleted; a trigger may do so";
            return Err(Error::new(ErrorKind::VerifyFailed, message).in_source(&self.source));
        }
        self.append(old).map(Some)
    }
}
