//! Comparing what a pipeline would load with what is at its target.
//!
//! Design note. Rows of both sides are spread over buckets by a hash, of their key if there is one and of all of them otherwise, and
//! each bucket has the order-free checksum of its rows: neither order nor partitions need be the same on both sides, and memory does
//! not grow with the rows. Only where buckets differ are both sides read once more, and the rows of those buckets compared one by
//! one. The alternative, to sort both sides by key, needs a key and room for a copy of the data.
//!
//! Rows count as equal if their hashes of 64 bits are.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arrow_array::{BooleanArray, RecordBatch};
use arrow_schema::{DataType, Field, Schema};
use arrow_select::filter::filter_record_batch;
use etlrs_core::{
    BoundTransformer, Checksum, Error, ErrorKind, Extractor, Fingerprint, LoadMode, Partition, PartitionId, Rejects,
    Result, RunContext, Scan, ScanRequest, Transformer, batch_bytes, next_batch, row_hashes, type_name,
};

use crate::memory::Shares;
use crate::partitions::{Crew, Flight, for_each};
use crate::pipeline::{Pipeline, off_the_runtime, projected};
use crate::report::RunReport;
use crate::run::Run;
use crate::transform::{Cast, FilterTransformer, check_cast};

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
    /// Hashes of the keys of rows that are missing or changed.
    to_load: Arc<HashSet<u64>>,
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
        off_the_runtime(&self.settings.cancel, |cancel| async move {
            let mut guess = true;
            loop {
                let run = Run::new(&pipeline, cancel.clone(), guess, None).await?;
                match compare(&run, &*target, &options).await {
                    Err(error) if error.kind() == ErrorKind::SplitRefuted && guess => guess = false,
                    done => return done,
                }
            }
        })
        .await
    }

    /// Loads those rows once more that `comparison` found missing or changed at the target, by its key, in the mode merge.
    ///
    /// # Errors
    /// `Unsupported` if there was no key, or more differ than could be looked at; those of a run.
    pub async fn repair(&self, comparison: &Verification) -> Result<RunReport> {
        let refused = |why: &str| {
            Error::new(ErrorKind::Unsupported, format!("{why}, so single rows cannot be loaded again"))
                .hint("load all of them, in the mode replace")
        };
        if !self.loader.capabilities().modes.contains(&LoadMode::Merge) {
            return Err(refused("this target has no mode merge"));
        }
        if comparison.keys.is_empty() {
            return Err(refused("there is no key that tells which rows are the same"));
        }
        if !comparison.is_whole {
            return Err(refused("more rows differ than could be looked at"));
        }
        let mut pipeline = self.clone();
        pipeline.settings.mode = LoadMode::Merge;
        pipeline.settings.keys.clone_from(&comparison.keys);
        let (keys, to_load) = (comparison.keys.clone(), comparison.to_load.clone());
        let only_those = FilterTransformer::over_batches(move |batch| {
            let hashes = row_hashes(&key_columns(batch, &keys)?)?;
            Ok(hashes.iter().map(|hash| Some(to_load.contains(hash))).collect::<BooleanArray>())
        });
        pipeline.transformers.push(Arc::new(only_those));
        // What is left over of it is worth less than to know what is to be repaired now.
        pipeline.settings.identity = None;
        pipeline.execute().await
    }
}

fn key_columns(batch: &RecordBatch, keys: &[String]) -> Result<RecordBatch> {
    let at = keys.iter().map(|key| etlrs_core::column_index(batch.schema_ref(), key)).collect::<Result<Vec<_>>>()?;
    Ok(batch.project(&at)?)
}

/// A side as it is read.
struct Input<'a> {
    scan: Arc<dyn Scan>,
    transformers: Vec<Arc<dyn BoundTransformer>>,
    fingerprint: Fingerprint,
    rejects: bool,
    keys: &'a [String],
    rejected: AtomicU64,
}

/// What one reading gave.
struct Sums {
    buckets: Vec<Checksum>,
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

async fn compare(run: &Run<'_>, target: &dyn Extractor, options: &CompareOptions) -> Result<Verification> {
    let started = Instant::now();
    let cx = run.context();
    let all = ScanRequest::all().target(Some(run.schema.clone()));
    let mut scan = target.scan(cx, &all).await.map_err(of_target)?;
    let mut notes = Vec::new();
    let names = matched(&run.schema, &scan.schema(), &mut notes)?;
    if scan.schema().fields().iter().map(|field| field.name()).ne(&names) {
        scan = projected(target, cx, &all.columns(&names)).await.map_err(of_target)?;
    }
    let (casts, cast_target) = casts(&run.schema, &scan.schema())?;
    let mut of_source = run.transformers.clone();
    let mut schema = run.schema.clone();
    if !casts.is_empty() {
        let bound = Cast::new(casts).bind(&schema)?;
        schema = bound.schema();
        of_source.push(bound);
    }
    let mut of_target_side = Vec::new();
    if !cast_target.is_empty() {
        let bound = Cast::new(cast_target).bind(&scan.schema()).map_err(of_target)?;
        of_target_side.push(bound);
    }
    let keys = match options.keys.as_slice() {
        [] => {
            let of_both = [run.merged_by(), run.primary_key(), scan.primary_key()];
            let known =
                |keys: &&[String]| !keys.is_empty() && keys.iter().all(|key| schema.field_with_name(key).is_ok());
            of_both.into_iter().find(known).unwrap_or_default().to_vec()
        }
        keys => {
            keys.iter().try_for_each(|key| etlrs_core::column_index(&schema, key).map(|_| ()))?;
            keys.to_vec()
        }
    };
    // By the names that they have there.
    let at_target = |key: &String| {
        let at = schema.fields().iter().position(|field| field.name() == key);
        at.and_then(|at| names.get(at)).unwrap_or(key).clone()
    };
    let keys_at_target: Vec<_> = keys.iter().map(at_target).collect();
    let fingerprint = scan.fingerprint().await.map_err(of_target)?;
    let source = Input {
        scan: run.scan.clone(),
        transformers: of_source,
        fingerprint: run.fingerprint().clone(),
        rejects: run.rejects(),
        keys: &keys,
        rejected: AtomicU64::new(0),
    };
    let target = Input {
        scan,
        transformers: of_target_side,
        fingerprint,
        rejects: false,
        keys: &keys_at_target,
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
        keys: keys.clone(),
        missing: 0,
        unexpected: 0,
        changed: 0,
        is_whole: true,
        examples: Vec::new(),
        rejected,
        notes,
        elapsed: started.elapsed(),
        to_load: Arc::default(),
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

/// The names that the columns of `wanted` have in `there`.
fn matched(wanted: &Schema, there: &Schema, notes: &mut Vec<String>) -> Result<Vec<String>> {
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
    let others: Vec<_> = there.fields().iter().map(|field| field.name()).filter(|name| !names.contains(name)).collect();
    if !others.is_empty() {
        let others = others.iter().map(|name| name.as_str()).collect::<Vec<_>>().join(", ");
        notes.push(format!("the target has columns that are not compared: {others}"));
    }
    Ok(names)
}

type Casts = Vec<(String, DataType)>;

/// What has to be cast on both sides so that equal values have equal hashes.
fn casts(source: &Schema, target: &Schema) -> Result<(Casts, Casts)> {
    let (mut of_source, mut of_target) = (Vec::new(), Vec::new());
    for (source, target) in source.fields().iter().zip(target.fields()) {
        let (from, to) = (source.data_type(), target.data_type());
        if kind_of(from) == kind_of(to) {
            continue;
        }
        let widened = match (kind_of(from), kind_of(to)) {
            // Digits are compared at the finer scale, which takes away none.
            (Kind::Exact(one), Kind::Exact(other)) => Some(if one < other { to } else { from }),
            _ => None,
        };
        let can = |from: &DataType, to: &DataType| check_cast(from, to).is_ok();
        let to_text = |data_type: &DataType| matches!(kind_of(data_type), Kind::Text);
        match widened {
            Some(finer) if finer == to => of_source.push((source.name().clone(), to.clone())),
            Some(_) => of_target.push((target.name().clone(), from.clone())),
            // The type that says more.
            None if !to_text(from) && can(to, from) => of_target.push((target.name().clone(), from.clone())),
            None if can(from, to) => of_source.push((source.name().clone(), to.clone())),
            None => {
                let message = format!(
                    "a column of {} cannot be compared with one of {} at the target",
                    type_name(from),
                    type_name(to)
                );
                return Err(Error::new(ErrorKind::SchemaMismatch, message)
                    .hint("give the source or the target other types by their option types")
                    .at_column(source.name()));
            }
        }
    }
    Ok((of_source, of_target))
}

/// Values of types of one kind have equal hashes if they are equal.
#[derive(Clone, Debug, PartialEq)]
enum Kind {
    Boolean,
    /// Integers and decimals, with digits behind the point.
    Exact(i8),
    Float,
    Text,
    Bytes,
    Date,
    Time,
    Timestamp(bool),
    Other(DataType),
}

fn kind_of(data_type: &DataType) -> Kind {
    use DataType::*;
    match data_type {
        Boolean => Kind::Boolean,
        Int8 | Int16 | Int32 | Int64 | UInt8 | UInt16 | UInt32 | UInt64 => Kind::Exact(0),
        Decimal32(_, scale) | Decimal64(_, scale) | Decimal128(_, scale) | Decimal256(_, scale) => Kind::Exact(*scale),
        Float16 | Float32 | Float64 => Kind::Float,
        Utf8 | LargeUtf8 | Utf8View => Kind::Text,
        Binary | LargeBinary | BinaryView | FixedSizeBinary(_) => Kind::Bytes,
        Date32 => Kind::Date,
        Time32(_) | Time64(_) => Kind::Time,
        Timestamp(_, zone) => Kind::Timestamp(zone.is_some()),
        Dictionary(_, values) => kind_of(values),
        other => Kind::Other(other.clone()),
    }
}

/// As many of the buckets that differ as can be looked at within half the budget.
fn affordable<'a>(cx: &RunContext, differing: &'a [usize], sums: &[Sums; 2]) -> &'a [usize] {
    let rows: u64 = sums.iter().flat_map(|side| &side.buckets).map(Checksum::rows).sum();
    let bytes: u64 = sums.iter().map(|side| side.bytes).sum();
    // With what is kept beside each row.
    let of_row = bytes / rows.max(1) + 2 * size_of::<(u64, Found)>() as u64;
    let most = (cx.memory().limit() / 2) as u64 / of_row;
    let mut sum = 0;
    let fits = differing.iter().take_while(|&&bucket| {
        sum += sums.iter().map(|side| side.buckets[bucket].rows()).sum::<u64>();
        sum <= most
    });
    let count = fits.count().max(1);
    differing.get(..count).unwrap_or(differing)
}

impl Input<'_> {
    /// Gives each batch of each partition to `take`, with the hashes of its keys and of its rows; the results are those of the
    /// partitions, in order.
    async fn read<T: Send>(
        &self,
        cx: &RunContext,
        begin: impl Fn() -> T + Sync,
        take: impl Fn(&mut T, PartitionId, &RecordBatch, &[u64], &[u64]) -> Result<()> + Sync,
    ) -> Result<Vec<T>> {
        let partitions = self.scan.partitions();
        let workers = cx.config().workers().min(partitions.len()).min(self.scan.max_readers()).max(1);
        let held = self.transformers.iter().map(|transformer| transformer.held_memory()).sum();
        // The other half is for what is kept.
        let shares = Shares::new(cx.memory().limit() / 2, held, workers, self.scan.min_memory(), 0, None)?;
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
            for transformer in &self.transformers {
                stream = transformer.apply(&cx, stream);
            }
            let mut kept = begin();
            while let Some(batch) = next_batch(&mut stream).await {
                let batch = batch?;
                let rows = row_hashes(&batch)?;
                let keys = match self.keys {
                    [] => rows.clone(),
                    keys => row_hashes(&key_columns(&batch, keys)?)?,
                };
                take(&mut kept, id, &batch, &keys, &rows)?;
                self.rejected.fetch_add(rejects.take().len() as u64, Ordering::Relaxed);
            }
            self.rejected.fetch_add(rejects.take().len() as u64, Ordering::Relaxed);
            Ok(kept)
        })
    }

    async fn sums(&self, cx: &RunContext) -> Result<Sums> {
        self.rejected.store(0, Ordering::Relaxed);
        let bytes = AtomicUsize::new(0);
        let all = Mutex::new(vec![Checksum::default(); BUCKETS]);
        let parts = self.read(
            cx,
            || vec![Checksum::default(); BUCKETS],
            |sums, _, batch, keys, rows| {
                keys.iter().zip(rows).for_each(|(key, row)| sums[bucket(*key)].add(*row));
                bytes.fetch_add(batch_bytes(batch), Ordering::Relaxed);
                Ok(())
            },
        );
        for sums in parts.await? {
            let mut all = all.lock().unwrap_or_else(PoisonError::into_inner);
            all.iter_mut().zip(&sums).for_each(|(all, part)| all.merge(part));
        }
        let buckets = all.into_inner().unwrap_or_else(PoisonError::into_inner);
        Ok(Sums { buckets, bytes: bytes.into_inner() as u64 })
    }

    /// The rows whose buckets are `looked_at`.
    async fn rows(&self, cx: &RunContext, looked_at: &HashSet<usize>) -> Result<Rows> {
        self.rejected.store(0, Ordering::Relaxed);
        let parts = self.read(cx, Rows::default, |kept, id, batch, keys, rows| {
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
        });
        let mut all = Rows::default();
        for part in parts.await? {
            all.batches.extend(part.batches);
            all.found.extend(part.found);
        }
        Ok(all)
    }

    async fn require_unchanged(&self) -> Result<()> {
        if self.scan.fingerprint().await? == self.fingerprint { Ok(()) } else { Err(changed().hint("compare again")) }
    }

    fn partition(&self, index: u32) -> Partition {
        self.scan.partitions()[PartitionId(index).index()].clone()
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
            // Those that are there on both sides as they are.
            source.retain(|row| {
                let same = target.iter().position(|other| other.hash == row.hash);
                same.map(|at| target.swap_remove(at)).is_none()
            });
            if !source.is_empty() {
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
        self.to_load = Arc::new(to_load);
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
