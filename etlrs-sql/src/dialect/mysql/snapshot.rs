//! Design note. MySQL has no snapshot that connections could share. So the table is locked against writing for the moment in
//! which all readers begin a transaction with a snapshot of their own: nothing can be committed to it in between, and they
//! all see the same rows. mydumper does it in the same way. Who may not lock reads with one connection.
//!
//! A reader that is lost cannot be replaced, for a new one would see another moment.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use etlrs_core::{Error, ErrorKind, Result};
use tokio::sync::Semaphore;

use super::catalog::Relation;
use super::server::MysqlPool;
use super::wire::{Answer, Connection, code};
use crate::network::{Keep, close_all};

/// Seconds to wait for those who are writing to the table. Whoever wants to write waits behind us.
const PATIENCE: u32 = 5;

const BEGIN: &str = "START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY";

/// Connections that see one state of a table.
pub(super) struct Snapshot {
    pool: MysqlPool,
    idle: Mutex<Vec<Connection>>,
    /// One permit for each that is idle.
    free: Semaphore,
    alive: AtomicUsize,
    /// Keeps writers away from a table whose engine has no snapshots.
    lock: Mutex<Option<Connection>>,
    locked: bool,
    /// What tells this snapshot from others.
    pub(super) id: String,
}

impl Snapshot {
    /// Of one reader.
    pub(super) async fn single(pool: &MysqlPool, mut reader: Connection) -> Result<Self> {
        reader.execute(BEGIN).await.map_err(|error| pool.failed(error))?;
        Ok(Self::of(pool, vec![reader], None))
    }

    /// Of as many readers as are `wished`, if the table can be locked; `notes` says if not.
    pub(super) async fn shared(
        pool: &MysqlPool,
        mut leader: Connection,
        table: &Relation,
        wished: usize,
        notes: &mut Vec<String>,
    ) -> Result<Self> {
        if wished < 2 && table.transactional {
            return Self::single(pool, leader).await;
        }
        let failed = |error| pool.failed(error);
        let name = table.name.backquoted()?;
        let lock = format!("LOCK TABLES {name} READ");
        leader.execute(&format!("SET SESSION lock_wait_timeout = {PATIENCE}")).await.map_err(failed)?;
        let locked = match leader.execute(&lock).await {
            Ok(_) => true,
            Err(error) => {
                let why = match code(&error) {
                    Some(1044 | 1142 | 1227) => "the user lacks the privilege LOCK TABLES",
                    Some(1205) => "others are writing to the table",
                    _ => return Err(failed(error)),
                };
                notes.push(if table.transactional {
                    format!("read by one reader, for {why}, and several readers share a moment only if the table is locked for it")
                } else {
                    format!("the engine {} has no snapshots, and {why}: rows that are written meanwhile may come or not", table.engine)
                });
                false
            }
        };
        leader.execute("SET SESSION lock_wait_timeout = DEFAULT").await.map_err(failed)?;
        match (table.transactional, locked) {
            (true, false) => Self::single(pool, leader).await,
            (true, true) => {
                let readers = begin_all(pool, &name, wished).await?;
                leader.execute("UNLOCK TABLES").await.map_err(failed)?;
                pool.give_back(leader);
                Ok(Self::of(pool, readers, None))
            }
            (false, locked) => {
                if locked {
                    notes.push(format!(
                        "the engine {} has no snapshots: whoever writes to the table waits until it is read",
                        table.engine
                    ));
                }
                let mut readers = Vec::with_capacity(wished);
                for _ in 0..wished.max(1) {
                    readers.push(pool.take().await?);
                }
                Ok(Self::of(pool, readers, Some(leader).filter(|_| locked)))
            }
        }
    }

    fn of(pool: &MysqlPool, readers: Vec<Connection>, lock: Option<Connection>) -> Self {
        let id = readers.iter().map(|reader| reader.id.to_string()).collect::<Vec<_>>().join(", ");
        Self {
            pool: pool.clone(),
            free: Semaphore::new(readers.len()),
            alive: AtomicUsize::new(readers.len()),
            idle: Mutex::new(readers),
            locked: lock.is_some(),
            lock: Mutex::new(lock),
            id: format!("connections {id}"),
        }
    }

    /// Connections that there were at first.
    pub(super) fn readers(&self) -> usize {
        self.alive.load(Ordering::Relaxed)
    }

    /// A connection that nobody reads with, waiting for one if need be.
    pub(super) async fn reader(&self) -> Result<Connection> {
        match self.free.acquire().await {
            Ok(permit) => permit.forget(),
            Err(_) => return Err(self.gone()),
        }
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop().ok_or_else(|| self.gone())
    }

    /// # Errors
    /// `Connection` when all connections of the snapshot are gone, or the lock is.
    pub(super) async fn check(&self) -> Result<()> {
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

    pub(super) fn put_back(&self, connection: Connection) {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
        self.free.add_permits(1);
    }

    fn forget(&self) {
        if self.alive.fetch_sub(1, Ordering::Relaxed) == 1 {
            // Nobody is to wait for what will not come.
            self.free.close();
        }
    }

    fn gone(&self) -> Error {
        Error::new(ErrorKind::Connection, "the connection that keeps the snapshot was lost")
            .hint("run again")
            .in_source(self.pool.shown())
    }
}

async fn begin_all(pool: &MysqlPool, table: &str, wished: usize) -> Result<Vec<Connection>> {
    let mut readers = Vec::with_capacity(wished);
    for _ in 0..wished {
        let mut reader = pool.take().await?;
        let begun = async {
            reader.execute(BEGIN).await?;
            // Whoever alters the table waits from now on.
            reader.rows(&format!("SELECT 1 FROM {table} LIMIT 0")).await
        };
        let begun: Answer<_> = begun.await;
        begun.map_err(|error| pool.failed(error))?;
        readers.push(reader);
    }
    Ok(readers)
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
