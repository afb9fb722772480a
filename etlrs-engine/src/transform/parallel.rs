//! One partition on several cores.

use std::sync::{Arc, OnceLock};

use arrow_array::RecordBatch;
use arrow_schema::SchemaRef;
use arrow_select::concat::concat_batches;
use etlrs_core::{
    BatchStream, BoundTransformer, Error, ErrorKind, Rejected, Rejects, Result, RunContext, Transformer, batch_bytes,
    batches_from_iter, flat_map_stream, next_batch,
};
use futures_util::future::FutureExt;
use rayon::prelude::*;
use rayon::{ThreadPool, ThreadPoolBuilder};

use super::row_wise::behind;

/// Cuts each batch in chunks and gives them to a transformer on all cores; rows keep their order.
///
/// Partitions are worked on side by side anyway. This is for a source that has only one, such as a compressed file, and a
/// transformer that costs more than reading it. All rows that come of one batch are held at a time. The threads are as many as the run's
/// ([`workers`](etlrs_core::PerformanceConfig::workers)), in a pool of their own.
///
/// ```
/// use etlrs_core::Record;
/// use etlrs_engine::{FilterTransformer, ParallelTransformer};
///
/// let slow = FilterTransformer::new(|record: Record<'_>| Ok(record.i64("delay")?.is_some_and(|delay| delay > 15)));
/// let parallel = ParallelTransformer::new(slow).chunk_size(500);
/// # let _ = parallel;
/// ```
#[derive(Clone)]
pub struct ParallelTransformer {
    inner: Arc<dyn Transformer>,
    chunk_size: Option<usize>,
}

impl ParallelTransformer {
    /// Around `inner`, which has to change [each row by itself](BoundTransformer::is_row_wise).
    pub fn new(inner: impl Transformer + 'static) -> Self {
        Self::of(Arc::new(inner))
    }

    /// Around a transformer that is shared.
    pub fn of(inner: Arc<dyn Transformer>) -> Self {
        Self { inner, chunk_size: None }
    }

    /// Rows in a chunk. Default: [`chunk_size`](etlrs_core::PerformanceConfig::chunk_size) of the run.
    #[must_use]
    pub fn chunk_size(mut self, rows: usize) -> Self {
        self.chunk_size = Some(rows);
        self
    }
}

impl Transformer for ParallelTransformer {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn bind(&self, input: &SchemaRef) -> Result<Arc<dyn BoundTransformer>> {
        if self.chunk_size == Some(0) {
            return Err(Error::new(ErrorKind::InvalidConfig, "a chunk has at least one row"));
        }
        let inner = self.inner.bind(input)?;
        if !inner.is_row_wise() {
            let message = "what looks at several rows cannot work on chunks of them side by side";
            return Err(Error::new(ErrorKind::InvalidConfig, message).hint("use the transformer by itself"));
        }
        Ok(Arc::new(Bound { inner, chunk_size: self.chunk_size, pool: OnceLock::new() }))
    }

    fn effect(&self) -> etlrs_core::Effect {
        self.inner.effect()
    }
}

struct Bound {
    inner: Arc<dyn BoundTransformer>,
    chunk_size: Option<usize>,
    /// Started by the first partition; the threads end with the run.
    pool: OnceLock<Arc<ThreadPool>>,
}

impl Bound {
    fn pool(&self, cx: &RunContext) -> Result<Arc<ThreadPool>> {
        if let Some(pool) = self.pool.get() {
            return Ok(pool.clone());
        }
        let pool = ThreadPoolBuilder::new()
            .num_threads(cx.config().workers())
            .stack_size(cx.config().thread_stack_size)
            .thread_name(|index| format!("etlrs-parallel-{index}"))
            .build()
            .map_err(|error| Error::new(ErrorKind::Io, format!("cannot start threads: {error}")).caused_by(error))?;
        Ok(self.pool.get_or_init(|| Arc::new(pool)).clone())
    }
}

impl BoundTransformer for Bound {
    fn schema(&self) -> SchemaRef {
        self.inner.schema()
    }

    fn held_memory(&self) -> usize {
        self.inner.held_memory()
    }

    fn spans_partitions(&self) -> bool {
        self.inner.spans_partitions()
    }

    fn is_row_wise(&self) -> bool {
        true
    }

    fn apply(&self, cx: &RunContext, input: BatchStream) -> BatchStream {
        if cx.config().workers() == 1 {
            return self.inner.apply(cx, input);
        }
        let pool = match self.pool(cx) {
            Ok(pool) => pool,
            Err(error) => return batches_from_iter([Err(error)]),
        };
        let chunk_size = self.chunk_size.unwrap_or(cx.config().chunk_size).max(1);
        let (inner, cx) = (self.inner.clone(), cx.clone());
        let mut before = 0;
        flat_map_stream(input, move |batch| {
            let rows = batch.num_rows();
            // Rows before each chunk, and the chunk.
            let starts = (0..rows.max(1)).step_by(chunk_size);
            let chunks: Vec<_> =
                starts.map(|from| (before + from as u64, batch.slice(from, chunk_size.min(rows - from)))).collect();
            before += rows as u64;
            // Each has a place of its own for what it rejects, so that these come in the order of the rows.
            let done: Vec<_> = pool.install(|| {
                let one = |(before, part)| {
                    let rejects = cx.rejects().map(|_| Rejects::default());
                    let cx = rejects.iter().fold(cx.clone(), |cx, rejects| cx.with_rejects(rejects.clone()));
                    let done = chunk(&*inner, &cx, part).map_err(|error| behind(before, error));
                    let mut rejected = rejects.map(|rejects| rejects.take()).unwrap_or_default();
                    for Rejected { position, .. } in &mut rejected {
                        position.row = position.row.map(|row| before + row);
                    }
                    (done, rejected)
                };
                chunks.into_par_iter().map(one).collect()
            });
            let mut parts = Vec::new();
            for (part, rejected) in done {
                parts.extend(part?);
                if let Some(rejects) = cx.rejects() {
                    rejected.into_iter().for_each(|one| rejects.push(one));
                }
            }
            joined(&*inner, &cx, parts)
        })
    }
}

/// What comes of one chunk.
fn chunk(inner: &dyn BoundTransformer, cx: &RunContext, part: RecordBatch) -> Result<Vec<RecordBatch>> {
    let mut stream = inner.apply(cx, batches_from_iter([Ok(part)]));
    let mut done = Vec::new();
    // What waits for something else has no thread to be woken on.
    let waits = || Error::new(ErrorKind::Unsupported, "a transformer that waits cannot work on chunks side by side");
    while let Some(batch) = next_batch(&mut stream).now_or_never().ok_or_else(waits)? {
        done.push(batch?);
    }
    Ok(done)
}

/// `parts` in batches of the usual size: a transformer may make many rows of one.
fn joined(
    inner: &dyn BoundTransformer,
    cx: &RunContext,
    parts: Vec<RecordBatch>,
) -> Result<std::vec::IntoIter<Result<RecordBatch>>> {
    let schema = inner.schema();
    let (mut batches, mut group): (Vec<Result<RecordBatch>>, Vec<RecordBatch>) = (Vec::new(), Vec::new());
    let (mut rows, mut bytes) = (0, 0);
    for part in parts.into_iter().filter(|part| part.num_rows() > 0) {
        let (more_rows, more_bytes) = (part.num_rows(), batch_bytes(&part));
        if !group.is_empty() && (rows + more_rows > cx.config().batch_size || bytes + more_bytes > cx.batch_memory()) {
            batches.push(Ok(concat_batches(&schema, &std::mem::take(&mut group))?));
            (rows, bytes) = (0, 0);
        }
        (rows, bytes) = (rows + more_rows, bytes + more_bytes);
        group.push(part);
    }
    match group.len() {
        0 => {}
        1 => batches.extend(group.pop().map(Ok)),
        _ => batches.push(Ok(concat_batches(&schema, &group)?)),
    }
    Ok(batches.into_iter())
}

#[cfg(test)]
mod tests {
    use etlrs_core::{Effect, Record, record_batch};
    use proptest::prelude::*;

    use super::*;
    use crate::transform::testing::{refused, run};
    use crate::{Expr, Filter, MapTransformer, Unnest};

    fn doubled() -> MapTransformer {
        MapTransformer::new(|record: Record<'_>| {
            let mut row = record.to_owned();
            row.set("x", record.i64("x")?.map(|x| x.wrapping_mul(2)))?;
            Ok(row)
        })
    }

    proptest! {
        #[test]
        fn it_is_the_transformer_itself(
            rows in prop::collection::vec(any::<Option<i64>>(), 0..200),
            chunk_size in 1usize..70,
        ) {
            let batch = record_batch([("x", rows)]);
            let filter = || Filter::new(Expr::parse("x > 0 or x is null").unwrap());
            for (plain, parallel) in [
                (run(&doubled(), vec![batch.clone()]), ParallelTransformer::new(doubled())),
                (run(&filter(), vec![batch.clone()]), ParallelTransformer::new(filter())),
            ] {
                let parallel = run(&parallel.chunk_size(chunk_size), vec![batch.clone()]).unwrap();
                prop_assert_eq!(parallel, plain.unwrap());
            }
        }
    }

    #[test]
    fn rows_that_are_rejected_keep_their_order() {
        let batch = record_batch([("x", (0..1000).map(Some).collect())]);
        let map = MapTransformer::new(|record: Record<'_>| match record.i64("x")? {
            Some(x) if x % 10 == 0 => Err(Error::new(ErrorKind::InvalidData, "a ten")),
            _ => Ok(record.to_owned()),
        });
        let bound = ParallelTransformer::new(map).chunk_size(64).bind(&batch.schema()).unwrap();
        let rejects = Rejects::new(1 << 20);
        let cx = RunContext::new(etlrs_core::PerformanceConfig::default().with_max_threads(4));
        let mut stream = bound.apply(&cx.with_rejects(rejects.clone()), batches_from_iter([Ok(batch)]));
        assert_eq!(next_batch(&mut stream).now_or_never().unwrap().unwrap().unwrap().num_rows(), 900);
        let raw: Vec<_> = rejects.take().into_iter().map(|one| String::from_utf8(one.raw.unwrap()).unwrap()).collect();
        assert_eq!(raw, (0..100).map(|ten| format!("{{\"x\":{}}}", ten * 10)).collect::<Vec<_>>());
    }

    #[test]
    fn what_is_not_by_rows_is_refused() {
        struct Whole;

        impl Transformer for Whole {
            fn bind(&self, input: &SchemaRef) -> Result<Arc<dyn BoundTransformer>> {
                struct Bound(SchemaRef);

                impl BoundTransformer for Bound {
                    fn schema(&self) -> SchemaRef {
                        self.0.clone()
                    }

                    fn apply(&self, _: &RunContext, input: BatchStream) -> BatchStream {
                        input
                    }
                }

                Ok(Arc::new(Bound(input.clone())))
            }
        }

        let batch = record_batch([("x", vec![])]);
        assert!(refused(&ParallelTransformer::new(Whole), &batch).to_string().contains("several rows"));
        assert!(refused(&ParallelTransformer::new(doubled()).chunk_size(0), &batch).to_string().contains("one row"));
        assert!(refused(&ParallelTransformer::new(Unnest::new("x")), &batch).to_string().contains("only a list"));
        let filter = Filter::new(Expr::parse("x > 0").unwrap());
        assert!(matches!(ParallelTransformer::new(filter).effect(), Effect::Keeps { .. }));
    }
}
