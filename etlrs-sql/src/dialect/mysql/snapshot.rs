//! Design note. MySQL has no snapshot that connections could share. So the table is locked against writing for the moment in
//! which all readers begin a transaction with a snapshot of their own: nothing can be committed to it in between, and they
//! all see the same rows. mydumper does it in the same way. Who may not lock reads with one connection.
//!
//! A distributed transaction (XA) that was prepared by a connection which is gone is committed past such a lock.
//!
//! A reader that is lost cannot be replaced, for a new one would see another moment. So the scan ends with it.

use std::sync::{Arc, Mutex, PoisonError};

use etlrs_core::{Error, ErrorKind, Result};
use tokio::sync::Semaphore;

use super::catalog::Relation;
use super::server::MysqlPool;
use super::wire::{Connection, Failure, code};
use crate::network::{self, Keep, close_all};

/// Seconds to wait for those who are writing to the table. Whoever wants to write waits behind us.
const PATIENCE: u64 = 5;

const BEGIN: &str = "START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY";

/// Connections that see one state of a table.
pub(super) struct Snapshot {
    pool: MysqlPool,
    idle: Mutex<Vec<Connection>>,
    /// One permit for each that is idle.
    free: Semaphore,
    readers: usize,
    /// Keeps writers away from a table whose engine has no snapshots.
    lock: Mutex<Option<Connection>>,
    locked: bool,
    /// What tells this snapshot from others.
    id: String,
    /// How the values of its statements are written, which must be so when one is run.
    pub(super) expected: Vec<(u8, u16, u16)>,
}

impl Snapshot {
    /// Of one reader.
    pub(super) async fn single(pool: &MysqlPool, mut reader: Connection) -> Result<Self> {
        reader.execute(BEGIN).await.map_err(|error| pool.failed(error))?;
        Ok(Self::of(pool, vec![reader], None))
    }

    /// Of as many readers as are `wished`, if the table can be locked; `notes` says if not. They wait `lock_wait` seconds for
    /// whoever alters the table, as the leader does.
    pub(super) async fn shared(
        pool: &MysqlPool,
        mut leader: Connection,
        table: &Relation,
        wished: usize,
        lock_wait: u64,
        notes: &mut Vec<String>,
    ) -> Result<Self> {
        // What a view is made of is taken to have snapshots.
        let has_snapshots = table.has_snapshots || table.is_view;
        if wished < 2 && has_snapshots {
            return Self::single(pool, leader).await;
        }
        let failed = |error| pool.failed(error);
        let name = table.name.backquoted()?;
        leader
            .execute(&format!("SET SESSION lock_wait_timeout = {}", PATIENCE.min(lock_wait)))
            .await
            .map_err(failed)?;
        let locked = match leader.execute(&format!("LOCK TABLES {name} READ")).await {
            Ok(_) => Ok(()),
            Err(error @ Failure::Server(_)) => Err(why_not(&error)),
            Err(error) => return Err(failed(error)),
        };
        let readers = match (has_snapshots, &locked) {
            (true, Ok(())) => begin_all(pool, &name, wished, lock_wait).await,
            (true, Err(why)) => Ok(Err(*why)),
            (false, _) => {
                let mut readers = Vec::with_capacity(wished);
                for _ in 0..wished.max(1) {
                    let mut reader = pool.take().await?;
                    reader.execute(&format!("SET SESSION lock_wait_timeout = {lock_wait}")).await.map_err(failed)?;
                    readers.push(reader);
                }
                Ok(Ok(readers))
            }
        };
        leader.execute(&format!("SET SESSION lock_wait_timeout = {lock_wait}")).await.map_err(failed)?;
        if !has_snapshots {
            notes.push(match locked {
                Ok(()) => format!(
                    "the engine {} has no snapshots: whoever writes to the table waits until it is read",
                    table.engine
                ),
                Err(why) => format!(
                    "the engine {} has no snapshots, and {why}: rows that are written meanwhile may come or not",
                    table.engine
                ),
            });
            let readers = readers?.unwrap_or_default();
            if locked.is_err() {
                pool.give_back(leader);
                return Ok(Self::of(pool, readers, None));
            }
            return Ok(Self::of(pool, readers, Some(leader)));
        }
        if locked.is_ok() {
            leader.execute("UNLOCK TABLES").await.map_err(failed)?;
        }
        match readers? {
            Ok(readers) => {
                pool.give_back(leader);
                Ok(Self::of(pool, readers, None))
            }
            Err(why) => {
                notes.push(format!(
                    "read by one reader, for {why}, and several share a moment only if the table is locked for it"
                ));
                Self::single(pool, leader).await
            }
        }
    }

    fn of(pool: &MysqlPool, readers: Vec<Connection>, lock: Option<Connection>) -> Self {
        let id = readers.iter().map(|reader| reader.id.to_string()).collect::<Vec<_>>().join(", ");
        Self {
            pool: pool.clone(),
            free: Semaphore::new(readers.len()),
            readers: readers.len(),
            idle: Mutex::new(readers),
            locked: lock.is_some(),
            lock: Mutex::new(lock),
            id: format!("connections {id}"),
            expected: Vec::new(),
        }
    }

    /// Connections that there were at first.
    pub(super) fn readers(&self) -> usize {
        self.readers
    }

    /// A connection that nobody reads with, waiting for one if need be.
    pub(super) async fn reader(&self) -> Result<Connection> {
        match self.free.acquire().await {
            Ok(permit) => permit.forget(),
            Err(_) => return Err(self.gone()),
        }
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop().ok_or_else(|| self.gone())
    }

    pub(super) fn put_back(&self, connection: Connection) {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
        self.free.add_permits(1);
    }

    /// A reader is lost. Nobody is to wait for one that will not come: the oldest partition might, while those that have the
    /// others wait for it.
    fn forget(&self) {
        self.free.close();
    }

    fn gone(&self) -> Error {
        Error::new(ErrorKind::Connection, "the connection that keeps the snapshot was lost")
            .hint("run again")
            .in_source(self.pool.shown())
    }
}

/// Why the table cannot be locked, or looked at while it is.
fn why_not(error: &Failure) -> &'static str {
    match code(error) {
        Some(1205) => "others are writing to the table or altering it",
        Some(1044 | 1142 | 1227 | 1356) => "the user lacks the privilege LOCK TABLES",
        _ => "the server does not lock the table",
    }
}

/// Readers that begin while the table is locked, or why they cannot: somebody who alters the table may have come between.
async fn begin_all(
    pool: &MysqlPool,
    table: &str,
    wished: usize,
    lock_wait: u64,
) -> Result<std::result::Result<Vec<Connection>, &'static str>> {
    let mut readers = Vec::with_capacity(wished);
    for _ in 0..wished {
        let mut reader = pool.take().await?;
        let begun = async {
            // Not for long: who alters the table waits for the lock, and we would wait for him.
            reader.execute(&format!("SET SESSION lock_wait_timeout = {}", PATIENCE.min(lock_wait))).await?;
            reader.execute(BEGIN).await?;
            // Whoever alters the table waits from now on.
            reader.rows(&format!("SELECT 1 FROM {table} LIMIT 0")).await?;
            reader.execute(&format!("SET SESSION lock_wait_timeout = {lock_wait}")).await
        };
        match begun.await {
            Ok(_) => readers.push(reader),
            Err(error) if code(&error) == Some(1205) => return Ok(Err(why_not(&error))),
            Err(error) => return Err(pool.failed(error)),
        }
    }
    Ok(Ok(readers))
}

impl network::Snapshot for Snapshot {
    type Connection = Connection;

    fn id(&self) -> String {
        self.id.clone()
    }

    /// The lock must be there too, if there was one.
    async fn check(&self) -> Result<()> {
        let lock = self.lock.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(mut lock) = lock {
            if lock.ping().await.is_err() {
                return Err(self.gone());
            }
            *self.lock.lock().unwrap_or_else(PoisonError::into_inner) = Some(lock);
        } else if self.locked {
            return Err(self.gone());
        }
        let mut reader = self.reader().await?;
        match reader.ping().await {
            Ok(()) => {
                self.put_back(reader);
                Ok(())
            }
            Err(_) => {
                self.forget();
                Err(self.gone())
            }
        }
    }

    async fn connection(&self) -> Result<Connection> {
        let mut connection = self.reader().await?;
        connection.expect(self.expected.clone());
        Ok(connection)
    }
}

impl Keep<Connection> for Arc<Snapshot> {
    fn give_back(self, connection: Connection) {
        self.put_back(connection);
    }

    /// Has the server end the statement, for the connection itself cannot be replaced.
    async fn abandon(self, mut connection: Connection) {
        let killed = async {
            let mut other = self.pool.take().await?;
            let sql = format!("KILL QUERY {}", connection.id);
            other.execute(&sql).await.map_err(|error| self.pool.failed(error))?;
            self.pool.give_back(other);
            connection.drain().await.map_err(|error| self.pool.failed(error))
        };
        match killed.await {
            Ok(()) => self.put_back(connection),
            Err(_) => self.forget(),
        }
    }

    fn lost(self) {
        self.forget();
    }
}

impl Drop for Snapshot {
    fn drop(&mut self) {
        let mut all = std::mem::take(self.idle.get_mut().unwrap_or_else(PoisonError::into_inner));
        all.extend(self.lock.get_mut().unwrap_or_else(PoisonError::into_inner).take());
        close_all(all);
    }
}
