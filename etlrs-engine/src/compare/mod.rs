//! Comparing what a pipeline would load with what is at its target.
//!
//! Design note. Rows of both sides are spread over buckets by a hash, of their key if there is one and of all of them otherwise, and
//! each bucket has the order-free checksum of its rows: neither order nor partitions need be the same on both sides, and memory does
//! not grow with the rows. Only where buckets differ are both sides read once more, and the rows of those buckets compared one by
//! one. The alternative, to sort both sides by key, needs a key and room for a copy of the data.
//!
//! Rows count as equal if their hashes of 64 bits are. Where both sides have other types for a column, the values of one are cast to
//! those of the other ([`align`]), towards the type that keeps more; a value that cannot be cast is hashed as itself, so that it
//! differs from every other.

mod align;
mod repair;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arrow_array::{BooleanArray, RecordBatch};
use arrow_schema::{Field, Schema};
use arrow_select::filter::filter_record_batch;
use etlrs_core::{
    BoundTransformer, Checksum, Error, ErrorKind, Extractor, Fingerprint, LoadMode, Partition, PartitionId, Rejects,
    Result, RunContext, Scan, ScanRequest, Transformer, batch_bytes, column_index, format_bytes, next_batch,
    row_hashes,
};

use self::align::{Casts, align, aligned, key_of, lent};
pub(crate) use self::repair::Repairing;
use self::repair::{Compared, Pieces, TargetAsItWas, These};
pub use self::repair::{Repair, Unexpected};
use crate::memory::Shares;
use crate::partitions::{Crew, Flight, for_each};
use crate::pipeline::{Pipeline, off_the_runtime, projected};
use crate::run::Run;
use crate::transform::Select;

/// How a [`Pipeline`] is [compared](Pipeline::compare) with its target.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct CompareOptions {
    /// Columns that tell which rows are to be the same. Without, the primary key of either side; if there is none, rows are only
    /// there or not.
    pub keys: Vec<String>,
    /// So many of the rows that differ are [kept](Verification::examples).
    pub examples: usize,
}

impl Default for CompareOptions {
    fn default() -> Self {
        Self { keys: Vec::new(), examples: 10 }
    }
}

/// What came of comparing both sides.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Verification {
    /// What a run would load.
    pub source: Side,
    /// What is at the target.
    pub target: Side,
    /// The columns that tell which rows are to be the same.
    pub keys: Vec<String>,
    /// Rows of which the target has none, or too few.
    pub missing: u64,
    /// Rows of which the target has too many.
    pub unexpected: u64,
    /// Rows that the target has with other values; only known by a key.
    pub changed: u64,
    /// The three numbers before are all that there are. Otherwise more rows differ than could be looked at within the memory.
    pub is_whole: bool,
    /// Some of the rows that differ, in the order of the source.
    pub examples: Vec<Difference>,
    /// Records that the source rejected.
    pub rejected: u64,
    /// What there is to know of how they were compared.
    pub notes: Vec<String>,
    /// How long it took.
    pub elapsed: Duration,
    compared: Compared,
}

/// One side of a [`Verification`].
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Side {
    /// Of its rows.
    pub checksum: Checksum,
    /// Pieces in which it was read.
    pub partitions: usize,
    /// Pieces with rows that the other side has not, and how many.
    pub differing: Vec<(Partition, u64)>,
}

/// A row that differs: what the source has, and what the target has.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Difference {
    /// The row as a run would load it, and the descriptor of its piece.
    pub source: Option<(RecordBatch, String)>,
    /// The row at the target, and the descriptor of its piece.
    pub target: Option<(RecordBatch, String)>,
}

impl Verification {
    /// Whether both sides have the same rows, each as often.
    pub fn is_equal(&self) -> bool {
        self.source.checksum == self.target.checksum && self.missing + self.unexpected + self.changed == 0
    }
}

/// Buckets, whose checksums take 400 KB for each side and each worker.
const BUCKETS: usize = 1 << 14;

fn bucket(hash: u64) -> usize {
    // The upper bits, for hashes of small numbers differ less in the lower.
    (hash >> 50) as usize
}

impl Pipeline {
    /// Compares the rows that a run would load now with those that `target` has, which is where it loads them to. Changes nothing.
    /// Both sides are read once if they are equal, and twice if not.
    ///
    /// # Errors
    /// Those of reading both; `SchemaMismatch` for a column that the target has not, or whose types cannot be compared;
    /// `SourceChanged` if one of them changed meanwhile.
    pub async fn compare(&self, target: Arc<dyn Extractor>, options: &CompareOptions) -> Result<Verification> {
        let (mut pipeline, options) = (self.clone(), options.clone());
        // In which a source that can only guess types is guided by those of the target.
        pipeline.settings.mode = LoadMode::Append;
        pipeline.settings.is_compared = true;
        off_the_runtime(&self.settings.cancel, |cancel| async move {
            let mut guess = true;
            loop {
                let run = Run::new(&pipeline, cancel.clone(), guess, None).await?;
                match compare(&run, &target, &options).await {
                    Err(error) if error.kind() == ErrorKind::SplitRefuted && guess => guess = false,
                    done => return done,
                }
            }
        })
        .await
    }
}

type Bind<'a> = dyn Fn() -> Result<Vec<Arc<dyn BoundTransformer>>> + Send + Sync + 'a;

/// A side as it is read.
struct Input<'a> {
    scan: Arc<dyn Scan>,
    /// Binds the transformers, for each reading anew: they may remember rows.
    bind: Box<Bind<'a>>,
    fingerprint: Fingerprint,
    rejects: bool,
    /// Where the columns of the key are.
    keys: &'a [usize],
    /// How its columns are cast, and those of the other side.
    casts: &'a Casts,
    others: &'a Casts,
    rejected: AtomicU64,
}

/// What one reading gave.
struct Sums {
    buckets: Vec<Checksum>,
    /// Of each partition.
    pieces: Vec<Checksum>,
    bytes: u64,
}

/// A row that was kept to be looked at.
#[derive(Clone, Copy)]
struct Found {
    partition: u32,
    /// Which of the batches that were kept of the partition, and the row in it.
    batch: u32,
    row: u32,
    hash: u64,
}

/// Rows of one side in buckets that differ.
#[derive(Default)]
struct Rows {
    batches: BTreeMap<u32, Vec<RecordBatch>>,
    /// By the hash of their keys.
    found: Vec<(u64, Found)>,
}

async fn compare(run: &Run<'_>, extractor: &Arc<dyn Extractor>, options: &CompareOptions) -> Result<Verification> {
    let started = Instant::now();
    let cx = run.context();
    let mut notes = Vec::new();
    // What says of a row when it was loaded, and by whom, is another thing each time.
    let (schema, of_load) = run.compared()?;
    if !of_load.is_empty() {
        notes.push(format!("columns that tell of the load are not compared: {}", of_load.join(", ")));
    }
    let columns: Vec<_> = schema.fields().iter().map(|field| field.name().clone()).collect();
    let all = ScanRequest::all().target(Some(Arc::new(lent(&schema))));
    let mut scan = extractor.scan(cx, &all).await.map_err(of_target)?;
    let (names, not_compared) = matched(&schema, &scan.schema(), &of_load)?;
    if !not_compared.is_empty() {
        notes.push(format!("the target has columns that are not compared: {}", not_compared.join(", ")));
    }
    if scan.schema().fields().iter().map(|field| field.name()).ne(&names) {
        scan = projected(&**extractor, cx, &all.columns(&names)).await.map_err(of_target)?;
    }
    let [casts, casts_of_target] = align(&schema, &scan.schema(), &mut notes)?;
    // By the names that they have at the source, and at the target.
    let at = |names: &[String], keys: &[String]| -> Option<Vec<usize>> {
        let at = keys.iter().map(|key| names.iter().position(|name| name == key));
        at.collect::<Option<Vec<_>>>().filter(|at| !at.is_empty())
    };
    let keys = match options.keys.as_slice() {
        [] => at(&columns, run.merged_by())
            .or_else(|| at(&columns, run.primary_key()))
            .or_else(|| at(&names, scan.primary_key()))
            .unwrap_or_default(),
        keys => keys.iter().map(|key| column_index(&schema, key)).collect::<Result<Vec<_>>>()?,
    };
    let fingerprint = scan.fingerprint().await.map_err(of_target)?;
    let of_source = || {
        let mut bound = run.bind()?;
        if !of_load.is_empty() {
            bound.push(Select::new(columns.clone()).bind(&run.schema)?);
        }
        Ok(bound)
    };
    let source = Input {
        scan: run.scan.clone(),
        bind: Box::new(of_source),
        fingerprint: run.fingerprint().clone(),
        rejects: run.rejects(),
        keys: &keys,
        casts: &casts,
        others: &casts_of_target,
        rejected: AtomicU64::new(0),
    };
    let target = Input {
        scan,
        bind: Box::new(|| Ok(Vec::new())),
        fingerprint,
        rejects: false,
        keys: &keys,
        casts: &casts_of_target,
        others: &casts,
        rejected: AtomicU64::new(0),
    };
    let sums = [source.sums(cx).await?, target.sums(cx).await.map_err(of_target)?];
    let rejected = source.rejected.load(Ordering::Relaxed);
    let side = |input: &Input<'_>, sums: &Sums| Side {
        checksum: sums.buckets.iter().copied().collect(),
        partitions: input.scan.partitions().len(),
        differing: Vec::new(),
    };
    let mut comparison = Verification {
        source: side(&source, &sums[0]),
        target: side(&target, &sums[1]),
        keys: keys.iter().filter_map(|at| columns.get(*at).cloned()).collect(),
        missing: 0,
        unexpected: 0,
        changed: 0,
        is_whole: true,
        examples: Vec::new(),
        rejected,
        notes,
        elapsed: started.elapsed(),
        compared: Compared {
            rows: These {
                schema: schema.clone(),
                keys: keys.clone(),
                casts: casts.clone(),
                hashes: Arc::default(),
                are_unique: true,
            },
            source: source.pieces(&sums[0]),
            is_one: run.is_one(),
            target: target.pieces(&sums[1]),
            not_compared,
            of_target: TargetAsItWas { extractor: extractor.clone(), fingerprint: target.fingerprint.clone() },
        },
    };
    let differing: Vec<usize> =
        (0..BUCKETS).filter(|&bucket| sums[0].buckets[bucket] != sums[1].buckets[bucket]).collect();
    if !differing.is_empty() {
        let looked_at = affordable(cx, &differing, &sums);
        comparison.is_whole = looked_at.len() == differing.len();
        let looked_at: HashSet<usize> = looked_at.iter().copied().collect();
        let rows = [source.rows(cx, &looked_at).await?, target.rows(cx, &looked_at).await.map_err(of_target)?];
        comparison.tell([&source, &target], &rows, options.examples)?;
        if comparison.missing + comparison.unexpected + comparison.changed == 0 && comparison.is_whole {
            return Err(changed().hint("it was not read twice as the same; compare again when nobody writes to it"));
        }
        comparison.elapsed = started.elapsed();
    }
    source.require_unchanged().await?;
    target.require_unchanged().await.map_err(of_target)?;
    Ok(comparison)
}

fn changed() -> Error {
    Error::new(ErrorKind::SourceChanged, "what is compared changed meanwhile")
}

fn of_target(error: Error) -> Error {
    error.within("the target")
}

/// The names that the columns of `wanted` have in `there`, and which ones are there beside those and `others`.
fn matched(wanted: &Schema, there: &Schema, others: &[String]) -> Result<(Vec<String>, Vec<String>)> {
    let mut names = Vec::with_capacity(wanted.fields().len());
    for field in wanted.fields() {
        let name = field.name();
        let is_like = |other: &&Arc<Field>| other.name().to_lowercase() == name.to_lowercase();
        let exact = there.fields().iter().find(|other| other.name() == name);
        let found = exact.or_else(|| {
            let mut like = there.fields().iter().filter(is_like);
            like.next().filter(|_| like.next().is_none())
        });
        let found = found.ok_or_else(|| {
            let all: Vec<_> = there.fields().iter().map(|field| field.name().as_str()).collect();
            Error::new(ErrorKind::SchemaMismatch, "the target has no such column")
                .hint(format!("it has {}", all.join(", ")))
                .at_column(name)
        })?;
        names.push(found.name().clone());
    }
    let is_known = |name: &&String| names.contains(name) || others.contains(name);
    let more = there.fields().iter().map(|field| field.name()).filter(|name| !is_known(name)).cloned().collect();
    Ok((names, more))
}

/// As many of the buckets that differ as can be looked at within half the budget.
fn affordable<'a>(cx: &RunContext, differing: &'a [usize], sums: &[Sums; 2]) -> &'a [usize] {
    let rows: u64 = sums.iter().flat_map(|side| &side.buckets).map(Checksum::rows).sum();
    let bytes: u64 = sums.iter().map(|side| side.bytes).sum();
    /// What is kept beside each row, in a group of its key and in a list of those that differ.
    const BESIDE: u64 = 256;
    let of_row = bytes / rows.max(1) + BESIDE;
    let most = (cx.memory().limit() / 2) as u64 / of_row;
    let mut sum = 0;
    let fits = differing.iter().take_while(|&&bucket| {
        sum += sums.iter().map(|side| side.buckets[bucket].rows()).sum::<u64>();
        sum <= most
    });
    let count = fits.count();
    differing.get(..count).unwrap_or(differing)
}

impl Input<'_> {
    /// Gives each batch of each partition to `take`, with the hashes of its keys and of its rows, and what that made to `end`.
    async fn read<T: Send>(
        &self,
        cx: &RunContext,
        begin: impl Fn(PartitionId) -> T + Sync,
        take: impl Fn(&mut T, PartitionId, &RecordBatch, &[u64], &[u64]) -> Result<()> + Sync,
        end: impl Fn(T) + Sync,
    ) -> Result<()> {
        self.rejected.store(0, Ordering::Relaxed);
        let transformers = (self.bind)()?;
        let partitions = self.scan.partitions();
        let workers = cx.config().workers().min(partitions.len()).min(self.scan.max_readers()).max(1);
        let held = transformers.iter().map(|transformer| transformer.held_memory()).sum();
        // The other half is for what is kept.
        let limit = cx.memory().limit();
        let shares = Shares::new(limit / 2, held, workers, self.scan.min_memory(), 0, None).map_err(|_| {
            let message = format!("the memory budget of {} is too small to compare this", format_bytes(limit));
            Error::new(ErrorKind::MemoryExceeded, message).hint("double it until it does")
        })?;
        let cx = cx.for_worker(shares.worker);
        let ids = partitions.iter().map(|partition| partition.id).collect();
        let crew = Crew::new(ids, shares.workers, (), 0, 0);
        for_each(&cx, &Flight::new(), &crew, None, async |id, ()| {
            let partition = &partitions[id.index()];
            let mut cx = cx.for_partition(partition);
            let rejects = Rejects::default();
            if self.rejects {
                cx = cx.with_rejects(rejects.clone());
            }
            let mut stream = self.scan.read(&cx, partition)?;
            for transformer in &transformers {
                stream = transformer.apply(&cx, stream);
            }
            let mut kept = begin(id);
            while let Some(batch) = next_batch(&mut stream).await {
                let batch = batch?;
                let rows = row_hashes(&aligned(&batch, self.casts, self.others)?)?;
                let keys = match self.keys {
                    [] => rows.clone(),
                    keys => row_hashes(&key_of(&batch, keys, self.casts)?)?,
                };
                take(&mut kept, id, &batch, &keys, &rows)?;
                self.rejected.fetch_add(rejects.take().len() as u64, Ordering::Relaxed);
            }
            self.rejected.fetch_add(rejects.take().len() as u64, Ordering::Relaxed);
            end(kept);
            Ok(())
        })
        .map(|_| ())
    }

    fn pieces(&self, sums: &Sums) -> Pieces {
        let sums = self.scan.partitions().iter().cloned().zip(sums.pieces.iter().copied());
        Pieces { fingerprint: self.fingerprint.clone(), sums: sums.collect() }
    }

    async fn sums(&self, cx: &RunContext) -> Result<Sums> {
        let bytes = AtomicUsize::new(0);
        let pieces = vec![Checksum::default(); self.scan.partitions().len()];
        let all = Mutex::new((vec![Checksum::default(); BUCKETS], pieces));
        let read = self.read(
            cx,
            |id| (id, vec![Checksum::default(); BUCKETS]),
            |(_, sums), _, batch, keys, rows| {
                keys.iter().zip(rows).for_each(|(key, row)| sums[bucket(*key)].add(*row));
                bytes.fetch_add(batch_bytes(batch), Ordering::Relaxed);
                Ok(())
            },
            |(id, sums)| {
                let mut all = all.lock().unwrap_or_else(PoisonError::into_inner);
                let (buckets, pieces) = &mut *all;
                buckets.iter_mut().zip(&sums).for_each(|(all, part)| all.merge(part));
                pieces[id.index()] = sums.into_iter().collect();
            },
        );
        read.await?;
        let (buckets, pieces) = all.into_inner().unwrap_or_else(PoisonError::into_inner);
        Ok(Sums { buckets, pieces, bytes: bytes.into_inner() as u64 })
    }

    /// The rows whose buckets are `looked_at`.
    async fn rows(&self, cx: &RunContext, looked_at: &HashSet<usize>) -> Result<Rows> {
        let all = Mutex::new(Rows::default());
        let read = self.read(
            cx,
            |_| Rows::default(),
            |kept, id, batch, keys, rows| {
                let wanted: Vec<bool> = keys.iter().map(|key| looked_at.contains(&bucket(*key))).collect();
                if !wanted.contains(&true) {
                    return Ok(());
                }
                let batches = kept.batches.entry(id.0).or_default();
                let at = u32::try_from(batches.len()).unwrap_or(u32::MAX);
                let of_wanted = keys.iter().zip(rows).zip(&wanted).filter(|(_, wanted)| **wanted);
                for (row, ((key, hash), _)) in (0..).zip(of_wanted) {
                    kept.found.push((*key, Found { partition: id.0, batch: at, row, hash: *hash }));
                }
                batches.push(filter_record_batch(batch, &BooleanArray::from(wanted))?);
                Ok(())
            },
            |part| {
                let mut all = all.lock().unwrap_or_else(PoisonError::into_inner);
                all.batches.extend(part.batches);
                all.found.extend(part.found);
            },
        );
        read.await?;
        Ok(all.into_inner().unwrap_or_else(PoisonError::into_inner))
    }

    async fn require_unchanged(&self) -> Result<()> {
        if self.scan.fingerprint().await? == self.fingerprint { Ok(()) } else { Err(changed().hint("compare again")) }
    }

    fn partition(&self, index: u32) -> Partition {
        self.scan.partitions()[PartitionId(index).index()].clone()
    }
}

/// Takes those out that are there on both sides as they are.
fn leave_different(source: &mut Vec<Found>, target: &mut Vec<Found>) {
    // Of equal ones the last stay, whatever the order in which the pieces were read.
    let order = |row: &Found| (row.hash, row.partition, row.batch, row.row);
    source.sort_unstable_by_key(order);
    target.sort_unstable_by_key(order);
    let (mut of_source, mut of_target) = (vec![false; source.len()], vec![false; target.len()]);
    let (mut one, mut other) = (0, 0);
    while let (Some(here), Some(there)) = (source.get(one), target.get(other)) {
        if here.hash == there.hash {
            (of_source[one], of_target[other]) = (true, true);
        }
        (one, other) = (one + usize::from(here.hash <= there.hash), other + usize::from(there.hash <= here.hash));
    }
    for (rows, same) in [(source, of_source), (target, of_target)] {
        let mut same = same.into_iter();
        rows.retain(|_| same.next() != Some(true));
        rows.sort_unstable_by_key(|row| (row.partition, row.batch, row.row));
    }
}

impl Rows {
    fn row(&self, found: Found) -> Option<RecordBatch> {
        let batch = self.batches.get(&found.partition)?.get(found.batch as usize)?;
        Some(batch.slice(found.row as usize, 1))
    }
}

impl Verification {
    /// Compares rows one by one.
    fn tell(&mut self, inputs: [&Input<'_>; 2], rows: &[Rows; 2], examples: usize) -> Result<()> {
        let mut groups: HashMap<u64, [Vec<Found>; 2]> = HashMap::new();
        for (side, rows) in rows.iter().enumerate() {
            for (key, found) in &rows.found {
                groups.entry(*key).or_default()[side].push(*found);
            }
        }
        let mut differing = [BTreeMap::new(), BTreeMap::new()];
        let (mut pairs, mut to_load) = (Vec::new(), HashSet::new());
        for (key, [mut source, mut target]) in groups {
            let comes_twice = source.len() > 1;
            leave_different(&mut source, &mut target);
            if !source.is_empty() {
                self.compared.rows.are_unique &= !comes_twice;
                to_load.insert(key);
            }
            for (side, rows) in [&source, &target].into_iter().enumerate() {
                rows.iter().for_each(|row| *differing[side].entry(row.partition).or_insert(0) += 1);
            }
            let both = if self.keys.is_empty() { 0 } else { source.len().min(target.len()) };
            self.changed += both as u64;
            self.missing += (source.len() - both) as u64;
            self.unexpected += (target.len() - both) as u64;
            let most = source.len().max(target.len() + source.len() * usize::from(both == 0));
            for at in 0..most {
                pairs.push(match both {
                    0 if at < source.len() => (source.get(at).copied(), None),
                    0 => (None, target.get(at - source.len()).copied()),
                    _ => (source.get(at).copied(), target.get(at).copied()),
                });
            }
        }
        self.compared.rows.hashes = Arc::new(to_load);
        for ((side, input), pieces) in [&mut self.source, &mut self.target].into_iter().zip(inputs).zip(differing) {
            side.differing = pieces.into_iter().map(|(index, rows)| (input.partition(index), rows)).collect();
        }
        let place = |found: &Option<Found>| found.map(|found| (found.partition, found.batch, found.row));
        // Those of the source in their order, and then those that only the target has.
        pairs.sort_by_key(|(source, target)| (source.is_none(), place(source), place(target)));
        let row = |side: usize, found: Option<Found>| {
            let found = found?;
            Some((rows[side].row(found)?, inputs[side].partition(found.partition).descriptor))
        };
        self.examples = pairs
            .into_iter()
            .take(examples)
            .map(|(source, target)| Difference { source: row(0, source), target: row(1, target) })
            .collect();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use etlrs_core::{MemoryExtractor, MemoryLoader, record_batch};
    use proptest::prelude::*;

    use super::*;
    use crate::PipelineBuilder;

    type Rows = Vec<(Option<i64>, Option<i64>)>;

    fn extractor(rows: &Rows) -> MemoryExtractor {
        let batch = |rows: &[(Option<i64>, Option<i64>)]| {
            record_batch([
                ("k", rows.iter().map(|(k, _)| *k).collect::<Vec<_>>()),
                ("v", rows.iter().map(|(_, v)| *v).collect()),
            ])
        };
        MemoryExtractor::new(batch(&[]).schema(), rows.chunks(3).map(batch).collect::<Vec<_>>())
    }

    /// Rows that are missing, changed and unexpected, found the plain way.
    fn plainly(source: &Rows, target: &Rows, keyed: bool) -> [u64; 3] {
        let mut counts = [0; 3];
        let keys: BTreeSet<_> = source.iter().chain(target).map(|(k, v)| (*k, (!keyed).then_some(*v))).collect();
        for (key, value) in keys {
            let of = |rows: &Rows| -> Vec<_> {
                rows.iter()
                    .filter(|(k, v)| *k == key && value.is_none_or(|value| value == *v))
                    .map(|(_, v)| *v)
                    .collect()
            };
            let (mut source, mut target) = (of(source), of(target));
            source.retain(|value| {
                let at = target.iter().position(|other| other == value);
                at.map(|at| target.remove(at)).is_none()
            });
            let changed = if keyed { source.len().min(target.len()) } else { 0 };
            counts[0] += (source.len() - changed) as u64;
            counts[1] += changed as u64;
            counts[2] += (target.len() - changed) as u64;
        }
        counts
    }

    fn number(most: i64) -> impl Strategy<Value = Option<i64>> {
        proptest::option::of(0..most)
    }

    fn rows() -> impl Strategy<Value = Rows> {
        proptest::collection::vec((number(12), number(3)), 0..24)
    }

    proptest! {
        #[test]
        fn buckets_find_what_a_look_at_all_rows_finds(source in rows(), target in rows(), keyed: bool, alike: bool) {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_time().build().unwrap();
            // Often only a few of them differ.
            let target = if alike { [&source[..], &target[..target.len() / 8]].concat() } else { target };
            let pipeline =
                PipelineBuilder::new().extract(extractor(&source)).load(MemoryLoader::new()).build().unwrap();
            let mut options = CompareOptions::default();
            if keyed {
                options.keys = vec!["k".into()];
            }
            let found = runtime.block_on(pipeline.compare(Arc::new(extractor(&target)), &options)).unwrap();
            let expected = plainly(&source, &target, keyed);
            prop_assert_eq!([found.missing, found.changed, found.unexpected], expected);
            prop_assert_eq!(found.is_equal(), expected == [0; 3]);
            prop_assert!(found.is_whole);
            let sum = |side: &Side| side.differing.iter().map(|(_, rows)| rows).sum::<u64>();
            prop_assert_eq!(sum(&found.source), expected[0] + expected[1]);
            prop_assert_eq!(sum(&found.target), expected[2] + expected[1]);
            prop_assert_eq!(found.examples.len() as u64, expected.iter().sum::<u64>().min(10));
        }
    }
}
