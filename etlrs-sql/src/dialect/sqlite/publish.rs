//! The one transaction in which staged rows become the target's.

use etlrs_core::{Error, ErrorKind, LoadMode, Published, Receipt, Result, failpoint};
use rusqlite::Connection;

use super::catalog::{self, Table};
use super::quote;
use super::session::{Shared, SqliteSession, in_transaction};
use super::target::{already_exists, check_target, create_table, fits, is_like, name_list};
use crate::key::one_key;

impl SqliteSession {
    pub(super) fn publish(&self, receipts: &[Receipt]) -> Result<Published> {
        let shared = &self.shared;
        let failed = |error| shared.failed(error);
        let connection = shared.connection();
        let staged = shared.staged(&connection).map_err(failed)?;
        let rows = receipts.iter().map(|receipt| receipt.rows).sum();
        let planned = shared.plan.partitions.iter().all(|p| receipts.iter().any(|receipt| receipt.partition == p.id));
        if !planned || staged != (receipts.len() as u64, rows) {
            return Err(Error::new(ErrorKind::Internal, "the receipts are not those of what is staged")
                .in_source(&shared.source));
        }
        in_transaction(&connection, failed, || {
            let count = format!("SELECT count(*) FROM {}", quote(&shared.staging)?);
            let counted: i64 = connection.query_row(&count, [], |row| row.get(0)).map_err(failed)?;
            if u64::try_from(counted) != Ok(rows) {
                let message = format!("{counted} rows are staged where {rows} were written");
                return Err(Error::new(ErrorKind::VerifyFailed, message).in_source(&shared.source));
            }
            failpoint("sqlite-publishing");
            let old = Table::find(&connection, &shared.target).map_err(failed)?;
            match old {
                None if shared.plan.mode == LoadMode::Merge => {
                    let plan = &shared.plan;
                    let create = create_table(&shared.target, &plan.schema, &plan.keys, shared.strict)?;
                    connection.execute_batch(&create).map_err(failed)?;
                    shared.merge(&connection, &shared.target, &plan.keys)?;
                }
                None => shared.rename(&connection, &shared.target)?,
                Some(_) if shared.plan.mode == LoadMode::Create => {
                    return Err(
                        already_exists("the target appeared while the run was going on").in_source(&shared.source)
                    );
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
                        LoadMode::Append => shared.append(&connection, &old, rows)?,
                        LoadMode::Merge => shared.merge(&connection, &old.name, &shared.plan.keys)?,
                        _ => shared.replace(&connection, &old, rows)?,
                    }
                }
            }
            failpoint("sqlite-moved");
            if !shared.plan.is_repair {
                self.post_sql(&connection)?;
            }
            shared.close_run(&connection).map_err(failed)?;
            failpoint("sqlite-committing");
            Ok(())
        })?;
        Ok(Published::new(rows, receipts.iter().map(|receipt| receipt.bytes).sum()))
    }
}

impl Shared {
    /// Of rows with one key the last one counts, for each is a row of its own to an upsert.
    fn merge(&self, connection: &Connection, target: &str, keys: &[String]) -> Result<()> {
        let failed = |error| self.failed(error);
        let names: Vec<_> = self.plan.schema.fields().iter().map(|field| field.name().clone()).collect();
        let (columns, key_list) = (name_list(&names)?, name_list(keys)?);
        let collations = catalog::key_collations(connection, target, keys).map_err(failed)?;
        let (target, staging) = (quote(target)?, quote(&self.staging)?);
        for key in keys {
            let sql = format!("SELECT EXISTS (SELECT 1 FROM {staging} WHERE {} IS NULL)", quote(key)?);
            if connection.query_row(&sql, [], |row| row.get(0)).map_err(failed)? {
                return Err(Error::new(ErrorKind::InvalidData, "there is a null in a column of the key")
                    .hint("filter such rows out")
                    .at_column(key)
                    .in_source(&self.source));
            }
        }
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
        let order = self.rowid.map_or_else(String::new, |rowid| format!(" ORDER BY {rowid}"));
        // WHERE, for without it ON would be taken for the condition of a join.
        let sql = format!(
            "INSERT OR ABORT INTO {target} ({columns}) SELECT {columns} FROM {staging} WHERE true{order}
             ON CONFLICT ({key_list}) DO {action}; DROP TABLE {staging}"
        );
        connection.execute_batch(&sql).map_err(failed)
    }

    fn append(&self, connection: &Connection, target: &Table, rows: u64) -> Result<()> {
        let names: Vec<_> = self.plan.schema.fields().iter().map(|field| field.name().clone()).collect();
        let columns = name_list(&names)?;
        // Without a name for it the rowid still is the order in which SQLite reads a table without an index.
        let order = self.rowid.map_or_else(String::new, |rowid| format!(" ORDER BY {rowid}"));
        let (target, staging) = (quote(&target.name)?, quote(&self.staging)?);
        // OR ABORT wins over conflict clauses of the table, which may leave out rows or replace old ones. A trigger may
        // still leave out rows, so they are counted.
        let sql = format!("INSERT OR ABORT INTO {target} ({columns}) SELECT {columns} FROM {staging}{order}");
        let inserted = connection.execute(&sql, []).map_err(|error| self.failed(error))?;
        if u64::try_from(inserted) != Ok(rows) {
            return Err(Error::new(
                ErrorKind::VerifyFailed,
                format!("the table took {inserted} of {rows} rows; a trigger may have refused the others"),
            )
            .in_source(&self.source));
        }
        connection.execute_batch(&format!("DROP TABLE {staging}")).map_err(|error| self.failed(error))
    }

    /// Makes the staging table the target.
    fn rename(&self, connection: &Connection, target: &str) -> Result<()> {
        let sql = format!("ALTER TABLE {} RENAME TO {}", quote(&self.staging)?, quote(target)?);
        connection.execute_batch(&sql).map_err(|error| self.failed(error))
    }

    fn replace(&self, connection: &Connection, old: &Table, rows: u64) -> Result<()> {
        let failed = |error| self.failed(error);
        let target = quote(&old.name)?;
        if is_like(connection, old, &self.plan, self.strict)? {
            let indexes = catalog::index_statements(connection, &old.name).map_err(failed)?;
            connection.execute_batch(&format!("DROP TABLE {target}")).map_err(failed)?;
            self.rename(connection, &old.name)?;
            return indexes.iter().try_for_each(|sql| connection.execute_batch(sql).map_err(failed));
        }
        connection.execute_batch(&format!("DELETE FROM {target}")).map_err(failed)?;
        let left = format!("SELECT EXISTS (SELECT 1 FROM {target})");
        if connection.query_row(&left, [], |row| row.get(0)).map_err(failed)? {
            let message = "the table keeps old rows although they were deleted; a trigger may do so";
            return Err(Error::new(ErrorKind::VerifyFailed, message).in_source(&self.source));
        }
        self.append(connection, old, rows)
    }
}
