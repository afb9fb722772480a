//! Of rows with equal keys one.
//!
//! All partitions share a table of the keys that were seen, each with the attempt at a partition that saw it first. A key is
//! kept as a hash of 128 bits ([SipHash-1-3](https://doi.org/10.1007/978-3-642-34931-7_28), under a secret of the run), so
//! that its length does not matter: that two keys among a billion have one hash has a chance of 10^-21.
//!
//! A partition that is tried again takes over the keys that its earlier attempt saw, so a row that others dropped for its sake
//! comes again. The first row of a key in the order of the source is only known once all partitions before were read to
//! their end, so a partition waits for them. It waits for earlier ones alone, and the oldest in flight for nobody.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::{Arc, Mutex, PoisonError};

use arrow_array::{ArrayRef, BooleanArray, RecordBatch};
use arrow_row::{RowConverter, SortField};
use arrow_schema::{DataType, SchemaRef};
use arrow_select::filter::filter_record_batch;
use etlrs_core::{
    BatchStream, BoundTransformer, Error, ErrorKind, PartitionId, Result, RunContext, Transformer, column_index,
    format_bytes, next_batch,
};
use futures_util::stream;
use siphasher::sip128::{Hasher128, SipHasher13};

use super::exact::decoded;
use super::lookup::key_column;
use crate::partitions::Flight;

/// Keeps one row of those that have the same values in the key columns; nulls are equal to one another.
///
/// Which one, is a matter of [`Keep`]. The keys of all rows that are kept are in memory: about 40 bytes for each, up to a
/// [limit](Self::max_memory) that comes off the budget of the run.
///
/// ```
/// use etlrs_engine::{Deduplicate, Keep};
///
/// let orders = Deduplicate::by(["order_id"]);
/// let distinct = Deduplicate::rows();
/// # let _ = (orders, distinct);
/// ```
#[derive(Clone, Debug)]
pub struct Deduplicate {
    /// `None`: all columns.
    keys: Option<Vec<String>>,
    keep: Keep,
    max_memory: usize,
}

/// Which of several rows with one key is kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Keep {
    /// The first in the order of the source, whatever the number of threads. Partitions are read side by side only as far as
    /// batches may wait for those before.
    #[default]
    First,
    /// Any, which may be another one in each run. Faster.
    Any,
}

impl Deduplicate {
    /// By these columns.
    pub fn by<S: Into<String>>(keys: impl IntoIterator<Item = S>) -> Self {
        let keys = keys.into_iter().map(Into::into).collect();
        Self { keys: Some(keys), keep: Keep::First, max_memory: 64 << 20 }
    }

    /// By all columns. Of rows that are equal it does not matter which one is kept.
    pub fn rows() -> Self {
        Self { keys: None, keep: Keep::Any, max_memory: 64 << 20 }
    }

    /// With another choice than the first.
    #[must_use]
    pub fn keep(mut self, keep: Keep) -> Self {
        self.keep = keep;
        self
    }

    /// Bytes that the keys may take. Default: 64 MB, which is enough for 1.4 million rows at the least.
    #[must_use]
    pub fn max_memory(mut self, bytes: usize) -> Self {
        self.max_memory = bytes;
        self
    }
}

impl Transformer for Deduplicate {
    fn name(&self) -> &str {
        "deduplicate"
    }

    fn bind(&self, input: &SchemaRef) -> Result<Arc<dyn BoundTransformer>> {
        let positions = match &self.keys {
            Some(keys) if keys.is_empty() => {
                return Err(Error::new(ErrorKind::InvalidConfig, "rows are equal by at least one key column"));
            }
            Some(keys) => keys.iter().map(|name| column_index(input, name)).collect::<Result<Vec<_>>>()?,
            None => (0..input.fields().len()).collect(),
        };
        let mut keys = Vec::new();
        for position in positions {
            let field = input.field(position);
            let to = decoded(field.data_type()).clone();
            if !RowConverter::supports_fields(&[SortField::new(to.clone())]) {
                let message = format!("values of type {} cannot be compared", etlrs_core::type_name(&to));
                return Err(Error::new(ErrorKind::SchemaMismatch, message).at_column(field.name()));
            }
            keys.push((position, to));
        }
        Ok(Arc::new(Bound {
            schema: input.clone(),
            shared: Arc::new(Shared {
                keys,
                keep: self.keep,
                max_memory: self.max_memory,
                secret: rand(),
                flight: Flight::new(),
                seen: Mutex::default(),
            }),
        }))
    }
}

/// From the operating system, by way of the standard library.
fn rand() -> (u64, u64) {
    use std::hash::{BuildHasher, RandomState};
    (RandomState::new().hash_one(1), RandomState::new().hash_one(2))
}

struct Bound {
    schema: SchemaRef,
    shared: Arc<Shared>,
}

struct Shared {
    /// Places of the key columns, and the types in which they are compared.
    keys: Vec<(usize, DataType)>,
    keep: Keep,
    max_memory: usize,
    secret: (u64, u64),
    /// Which partitions were read to their end.
    flight: Flight,
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    /// The attempt that has a key.
    owners: HashMap<[u8; 16], u32, BuildHasherDefault<First>>,
    /// The partition of each attempt.
    attempts: Vec<Option<PartitionId>>,
}

/// Takes the start of what is a hash already.
#[derive(Default)]
struct First(u64);

impl Hasher for First {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        if let Some(start) = bytes.first_chunk() {
            self.0 = u64::from_le_bytes(*start);
        }
    }

    // The length of an array is one more thing that is hashed.
    fn write_usize(&mut self, _: usize) {}
}

/// Bytes that so many keys take: a key and its owner with a byte of the table for each place, of which seven of eight are
/// used at the most, and while the table grows half as much again.
fn memory(capacity: usize) -> usize {
    let places = (capacity.saturating_mul(8) / 7).next_power_of_two();
    places.saturating_mul(size_of::<([u8; 16], u32)>() + 1)
}

impl Seen {
    /// Whether the row of a key is one to keep.
    fn is_new(&mut self, key: [u8; 16], attempt: u32, most_bytes: usize) -> Result<bool> {
        if let Some(owner) = self.owners.get_mut(&key) {
            let of = |attempt: u32| self.attempts.get(attempt as usize).copied().flatten();
            // What an earlier attempt kept went away with it.
            let is_again = *owner != attempt && of(attempt).is_some() && of(*owner) == of(attempt);
            if is_again {
                *owner = attempt;
            }
            return Ok(is_again);
        }
        if self.owners.len() == self.owners.capacity() {
            let grown = (self.owners.capacity() * 2).max(1 << 10);
            // The old table is there until all is moved.
            let needed = memory(grown) + memory(self.owners.capacity());
            if needed > most_bytes {
                let message = format!(
                    "the keys of {} rows do not fit into the {} that deduplication may hold",
                    self.owners.len(),
                    format_bytes(most_bytes)
                );
                return Err(Error::new(ErrorKind::MemoryExceeded, message)
                    .hint(format!("max_memory={} would do for twice as many rows", format_bytes(needed))));
            }
            self.owners.reserve(grown - self.owners.len());
        }
        self.owners.insert(key, attempt);
        Ok(true)
    }
}

impl BoundTransformer for Bound {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    fn spans_partitions(&self) -> bool {
        true
    }

    fn held_memory(&self) -> usize {
        self.shared.max_memory
    }

    fn apply(&self, cx: &RunContext, input: BatchStream) -> BatchStream {
        let fields = self.shared.keys.iter().map(|(_, to)| SortField::new(to.clone())).collect();
        let converter = match RowConverter::new(fields) {
            Ok(converter) => converter,
            Err(error) => return etlrs_core::batches_from_iter([Err(error.into())]),
        };
        let partition = cx.partition().map(|partition| partition.id);
        let mut seen = self.shared.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let attempt = u32::try_from(seen.attempts.len()).unwrap_or(u32::MAX);
        seen.attempts.push(partition);
        drop(seen);
        let rows = Rows { shared: self.shared.clone(), converter, partition, attempt, is_turn: false };
        Box::pin(stream::unfold(Some((rows, input)), |state| async move {
            let (mut rows, mut input) = state?;
            loop {
                let batch = match next_batch(&mut input).await {
                    Some(Ok(batch)) => batch,
                    Some(Err(error)) => return Some((Err(error), None)),
                    None => {
                        rows.finish();
                        return None;
                    }
                };
                match rows.kept(batch).await {
                    Ok(batch) if batch.num_rows() == 0 => {}
                    Ok(batch) => return Some((Ok(batch), Some((rows, input)))),
                    Err(error) => return Some((Err(error), None)),
                }
            }
        }))
    }
}

/// An attempt at a partition.
struct Rows {
    shared: Arc<Shared>,
    converter: RowConverter,
    partition: Option<PartitionId>,
    attempt: u32,
    /// All partitions before were read to their end.
    is_turn: bool,
}

impl Rows {
    async fn kept(&mut self, batch: RecordBatch) -> Result<RecordBatch> {
        let shared = &self.shared;
        let mut keys: Vec<ArrayRef> = Vec::new();
        for (position, to) in &shared.keys {
            keys.push(key_column(batch.column(*position), to)?);
        }
        let mut hashes = Vec::with_capacity(batch.num_rows());
        if keys.is_empty() {
            hashes.resize(batch.num_rows(), [0; 16]);
        } else {
            let encoded = self.converter.convert_columns(&keys)?;
            hashes.extend(encoded.iter().map(|row| {
                let mut hasher = SipHasher13::new_with_keys(shared.secret.0, shared.secret.1);
                hasher.write(row.data());
                hasher.finish128().as_bytes()
            }));
        }
        if let (Some(partition), Keep::First, false) = (self.partition, shared.keep, self.is_turn) {
            shared.flight.wait_within(partition, 1).await;
            self.is_turn = true;
        }
        let mut seen = shared.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = hashes.into_iter().map(|hash| seen.is_new(hash, self.attempt, shared.max_memory));
        let kept: BooleanArray = kept.collect::<Result<Vec<_>>>()?.into();
        drop(seen);
        if kept.true_count() == kept.len() { Ok(batch) } else { Ok(filter_record_batch(&batch, &kept)?) }
    }

    fn finish(&self) {
        if let Some(partition) = self.partition {
            self.shared.flight.done(partition);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use arrow_array::cast::AsArray;
    use arrow_array::types::Int64Type;
    use arrow_array::{Float64Array, StringArray};
    use etlrs_core::{Partition, PerformanceConfig, batches_from_iter, record_batch};
    use proptest::prelude::*;

    use super::*;
    use crate::transform::testing::{refused, run};

    type Row = (Option<i64>, i64);

    fn batch(rows: &[Row]) -> RecordBatch {
        record_batch([
            ("k", rows.iter().map(|(k, _)| *k).collect()),
            ("v", rows.iter().map(|(_, v)| Some(*v)).collect()),
        ])
    }

    fn rows(batch: &RecordBatch) -> Vec<Row> {
        let ints = |column: usize| batch.column(column).as_primitive::<Int64Type>();
        (ints(0).iter().zip(ints(1).values()).map(|(k, v)| (k, *v))).collect()
    }

    /// Partitions, each a thread and each tried twice, of which the first attempt stops in the middle.
    fn in_partitions(deduplicate: &Deduplicate, parts: &[Vec<Row>], again: bool) -> Vec<Row> {
        let bound = deduplicate.bind(&batch(&[]).schema()).unwrap();
        let cx = RunContext::new(PerformanceConfig::default());
        let read = |index: usize, part: &[Row]| {
            let cx = cx.for_partition(&Partition::new(index, ""));
            let batches: Vec<_> = part.chunks(3).map(|rows| Ok(batch(rows))).collect();
            let mut stream = bound.apply(&cx, batches_from_iter(batches));
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            runtime.block_on(async {
                if again {
                    let _ = next_batch(&mut stream).await;
                    let batches: Vec<_> = part.chunks(2).map(|rows| Ok(batch(rows))).collect();
                    stream = bound.apply(&cx, batches_from_iter(batches));
                }
                let mut found = Vec::new();
                while let Some(batch) = next_batch(&mut stream).await {
                    found.extend(rows(&batch.unwrap()));
                }
                found
            })
        };
        std::thread::scope(|scope| {
            let threads: Vec<_> =
                parts.iter().enumerate().map(|(index, part)| scope.spawn(move || read(index, part))).collect();
            threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn one_row_of_each_key_is_left_and_the_first_where_that_is_asked_for(
            parts in prop::collection::vec(prop::collection::vec((prop::option::of(0i64..12), any::<i64>()), 0..20), 1..4),
            again: bool,
        ) {
            let all: Vec<_> = parts.iter().flatten().copied().collect();
            let mut seen = HashSet::new();
            let first: Vec<_> = all.iter().copied().filter(|(k, _)| seen.insert(*k)).collect();
            prop_assert_eq!(in_partitions(&Deduplicate::by(["k"]), &parts, again), first.clone());
            let any = in_partitions(&Deduplicate::by(["k"]).keep(Keep::Any), &parts, again);
            let keys = |rows: &[Row]| {
                let mut keys: Vec<_> = rows.iter().map(|(k, _)| *k).collect();
                keys.sort_unstable();
                keys
            };
            prop_assert_eq!(keys(&any), keys(&first));
            prop_assert!(any.iter().all(|row| all.contains(row)));
            let distinct: HashSet<_> = all.iter().copied().collect();
            let found = in_partitions(&Deduplicate::rows(), &parts, again);
            prop_assert_eq!(found.len(), distinct.len());
            prop_assert_eq!(found.into_iter().collect::<HashSet<_>>(), distinct);
        }
    }

    #[test]
    fn values_are_compared_by_what_they_mean() {
        let columns = |floats: Vec<f64>, texts: Vec<Option<&str>>| {
            RecordBatch::try_from_iter_with_nullable([
                ("f", Arc::new(Float64Array::from(floats)) as ArrayRef, true),
                ("t", Arc::new(StringArray::from(texts)) as ArrayRef, true),
            ])
            .unwrap()
        };
        let batch = columns(
            vec![0.0, -0.0, f64::NAN, -f64::NAN, 1.0, 1.0],
            vec![Some("a"), Some("a"), None, None, Some(""), None],
        );
        let kept = run(&Deduplicate::rows(), vec![batch]).unwrap();
        assert_eq!(kept[0].num_rows(), 4);
    }

    #[test]
    fn what_does_not_fit_is_told_with_what_would_do() {
        let batch = record_batch([("k", (0..10_000).map(Some).collect())]);
        let fits = Deduplicate::by(["k"]).max_memory(1 << 20);
        assert_eq!(run(&fits, vec![batch.clone()]).unwrap()[0].num_rows(), 10_000);
        let error = run(&Deduplicate::by(["k"]).max_memory(64 << 10), vec![batch]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::MemoryExceeded);
        assert!(error.to_string().contains("64KB") && error.to_string().contains("max_memory="), "{error}");
    }

    #[test]
    fn the_table_takes_what_is_said() {
        let mut seen = Seen::default();
        for key in 0..100_000u128 {
            let key = key.wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835).to_le_bytes();
            assert!(seen.is_new(key, 0, 8 << 20).unwrap());
            assert!(memory(seen.owners.capacity()) <= 8 << 20);
        }
        assert!(memory(seen.owners.capacity()) >= seen.owners.capacity() * 21);
    }

    #[test]
    fn keys_that_are_not_there_are_refused() {
        let batch = batch(&[]);
        assert!(refused(&Deduplicate::by(["z"]), &batch).to_string().contains("there is no column \"z\""));
        assert!(refused(&Deduplicate::by::<&str>([]), &batch).to_string().contains("at least one key"));
    }
}
