//! Records that are used again.

use std::borrow::Borrow;
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use etlrs_core::{OwnedRecord, SchemaRef};
use object_pool::{Pool, ReusableOwned};

/// Records of one schema that are used again: for sources and functions that make a record for each row and only lend it, to a
/// [`RecordBatchBuilder`](etlrs_core::RecordBatchBuilder) for one. Clones are the same pool.
///
/// It saves an allocation for each record, and takes a lock twice, which comes to the same with the allocator of glibc (1.00 to 1.02
/// of the rate, benchmark `pools`); it is for allocators that are slower. A thread that has one record and
/// [clears](OwnedRecord::clear) it needs a quarter less time than either.
///
/// ```
/// use etlrs_core::{RecordBatchBuilder, record_batch};
/// use etlrs_engine::RecordPool;
///
/// let schema = record_batch([("x", vec![Some(1)])]).schema();
/// let pool = RecordPool::new(schema.clone(), 4);
/// let mut builder = RecordBatchBuilder::new(schema)?;
/// for x in 0..3 {
///     let mut record = pool.record();
///     record.set("x", x)?;
///     builder.push(record)?;
/// }
/// assert_eq!(builder.finish()?.num_rows(), 3);
/// # Ok::<(), etlrs_core::Error>(())
/// ```
#[derive(Clone)]
pub struct RecordPool {
    schema: SchemaRef,
    pool: Arc<Pool<OwnedRecord>>,
}

impl RecordPool {
    /// With `size` records of `schema` to begin with; it has as many as were ever used at a time.
    pub fn new(schema: SchemaRef, size: usize) -> Self {
        let pool = Pool::new(size, || OwnedRecord::new(schema.clone()));
        Self { pool: Arc::new(pool), schema }
    }

    /// A record whose values are all null. It comes back when it is dropped.
    pub fn record(&self) -> PooledRecord {
        PooledRecord(self.pool.pull_owned(|| OwnedRecord::new(self.schema.clone())))
    }

    /// Records that are not in use.
    pub fn idle(&self) -> usize {
        self.pool.len()
    }
}

impl fmt::Debug for RecordPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RecordPool").field("idle", &self.idle()).finish_non_exhaustive()
    }
}

/// A record of a [`RecordPool`], to which it goes back.
pub struct PooledRecord(ReusableOwned<OwnedRecord>);

impl Deref for PooledRecord {
    type Target = OwnedRecord;

    fn deref(&self) -> &OwnedRecord {
        &self.0
    }
}

impl DerefMut for PooledRecord {
    fn deref_mut(&mut self) -> &mut OwnedRecord {
        &mut self.0
    }
}

impl Borrow<OwnedRecord> for PooledRecord {
    fn borrow(&self) -> &OwnedRecord {
        self
    }
}

impl fmt::Debug for PooledRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

impl Drop for PooledRecord {
    /// What it held is let go now, and not when it is next used.
    fn drop(&mut self) {
        self.0.clear();
    }
}

#[cfg(test)]
mod tests {
    use etlrs_core::{Record, Value, record_batch};

    use super::*;

    #[test]
    fn a_record_comes_back_empty_and_is_used_again() {
        let batch = record_batch([("x", vec![Some(1)]), ("y", vec![None])]);
        let pool = RecordPool::new(batch.schema(), 1);
        let mut one = pool.record();
        one.set("x", 7).unwrap();
        assert_eq!(pool.idle(), 0);
        let other = pool.record();
        assert_eq!(other.get("x").unwrap(), &Value::Null);
        drop((one, other));
        assert_eq!(pool.idle(), 2);
        let again = pool.clone().record();
        assert_eq!((again.get("x").unwrap(), pool.idle()), (&Value::Null, 1));
        // One that was put in from elsewhere is cleared too.
        let mut lent = pool.record();
        *lent = Record::new(&batch, 0).unwrap().to_owned();
        drop(lent);
        assert_eq!(pool.record().get("x").unwrap(), &Value::Null);
    }
}
