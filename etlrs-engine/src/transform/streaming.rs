//! Functions that wait: for a service, a database, a file.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;

use arrow_array::RecordBatch;
use arrow_schema::SchemaRef;
use etlrs_core::{
    BatchStream, BoundTransformer, Error, ErrorKind, OwnedRecord, Record, RecordBatchBuilder, Result, RunContext,
    Transformer, batch_bytes, next_batch,
};
use futures_util::stream::{self, FuturesOrdered, FuturesUnordered, StreamExt};
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

use super::row_wise::{is_of_row, rejected_row};
use super::rows::check_names;
use crate::partitions::panicked;

type BatchCall = Pin<Box<dyn Future<Output = Result<RecordBatch>> + Send>>;
type RecordCall = Pin<Box<dyn Future<Output = Result<OwnedRecord>> + Send>>;

/// Calls an asynchronous function for each record, or for each chunk of records, with a bounded number of calls in flight.
///
/// Rows keep their order unless [`unordered`](Self::unordered) says otherwise. Calls with records are driven by the worker of their
/// partition, so what computes in them is done by one core; what waits, waits side by side. Calls with chunks are tasks of the
/// tokio runtime, which go on while the target takes what came before. Errors of the function end the
/// run, or the partition is tried again if they are [transient](Error::is_transient).
///
/// ```
/// use etlrs_core::OwnedRecord;
/// use etlrs_engine::StreamingTransformer;
///
/// async fn seats(plane: i64) -> etlrs_core::Result<i64> {
///     Ok(plane % 300)
/// }
///
/// let with_seats = StreamingTransformer::records(|mut record: OwnedRecord| async move {
///     if let etlrs_core::Value::Int(plane) = *record.get("plane")? {
///         record.set("seats", seats(plane).await?)?;
///     }
///     Ok(record)
/// })
/// .in_flight(32);
/// # let _ = with_seats;
/// ```
#[derive(Clone)]
pub struct StreamingTransformer {
    function: Function,
    schema: Option<SchemaRef>,
    chunk_size: Option<usize>,
    in_flight: usize,
    unordered: bool,
}

#[derive(Clone)]
enum Function {
    Batches(Arc<dyn Fn(RecordBatch) -> BatchCall + Send + Sync>),
    Records(Arc<dyn Fn(OwnedRecord) -> RecordCall + Send + Sync>),
}

impl StreamingTransformer {
    /// Of a function that is called with chunks of records. It may give other rows, as many as it likes.
    pub fn new<F>(function: impl Fn(RecordBatch) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Result<RecordBatch>> + Send + 'static,
    {
        Self::of(Function::Batches(Arc::new(move |batch| Box::pin(function(batch)))))
    }

    /// Of a function that is called with each record. Where the run sets records aside, one for which it fails with
    /// `InvalidData` is.
    pub fn records<F>(function: impl Fn(OwnedRecord) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Result<OwnedRecord>> + Send + 'static,
    {
        Self::of(Function::Records(Arc::new(move |record| Box::pin(function(record)))))
    }

    fn of(function: Function) -> Self {
        Self { function, schema: None, chunk_size: None, in_flight: 16, unordered: false }
    }

    /// What comes out has `schema`. Default: that of what comes in.
    #[must_use]
    pub fn with_schema(mut self, schema: SchemaRef) -> Self {
        self.schema = Some(schema);
        self
    }

    /// Rows in a chunk at the most, for a function of batches. Default: [`chunk_size`](etlrs_core::PerformanceConfig::chunk_size)
    /// of the run.
    #[must_use]
    pub fn chunk_size(mut self, rows: usize) -> Self {
        self.chunk_size = Some(rows);
        self
    }

    /// Calls that wait at the same time for one partition at the most. Default: 16. Fewer chunks than that are in flight if
    /// they are large, for they have to fit into the memory of the run.
    #[must_use]
    pub fn in_flight(mut self, calls: usize) -> Self {
        self.in_flight = calls;
        self
    }

    /// Rows come as the calls are done.
    #[must_use]
    pub fn unordered(mut self) -> Self {
        self.unordered = true;
        self
    }

    /// The function over a stream of batches: what [`apply`](BoundTransformer::apply) does to a partition.
    ///
    /// `schema` is that of what comes out.
    pub fn transform_stream(&self, cx: &RunContext, schema: &SchemaRef, input: BatchStream) -> BatchStream {
        match &self.function {
            Function::Batches(function) => {
                let calls = if self.unordered {
                    Calls::Any(FuturesUnordered::new())
                } else {
                    Calls::Ordered(FuturesOrdered::new())
                };
                let state = Chunks {
                    function: function.clone(),
                    schema: schema.clone(),
                    chunk_size: self.chunk_size.unwrap_or(cx.config().chunk_size).max(1),
                    in_flight: self.in_flight,
                    input: Some(input),
                    chunks: VecDeque::new(),
                    calls,
                    bytes: 0,
                    most_bytes: cx.batch_memory(),
                };
                Box::pin(stream::unfold(Some(state), |state| async move {
                    let mut state = state?;
                    match state.next().await {
                        Ok(Some(batch)) => Some((Ok(batch), Some(state))),
                        Ok(None) => None,
                        Err(error) => Some((Err(error), None)),
                    }
                }))
            }
            Function::Records(function) => {
                let records = Records {
                    function: function.clone(),
                    schema: schema.clone(),
                    in_flight: self.in_flight,
                    unordered: self.unordered,
                    cx: cx.clone(),
                };
                Box::pin(stream::unfold(Some((records, input)), |state| async move {
                    let (records, mut input) = state?;
                    loop {
                        let done = match next_batch(&mut input).await? {
                            Ok(batch) => records.of(&batch).await,
                            Err(error) => Err(error),
                        };
                        match done {
                            Ok(batch) if batch.num_rows() == 0 => {}
                            Ok(batch) => return Some((Ok(batch), Some((records, input)))),
                            Err(error) => return Some((Err(error), None)),
                        }
                    }
                }))
            }
        }
    }
}

impl Transformer for StreamingTransformer {
    fn name(&self) -> &str {
        "streaming"
    }

    fn bind(&self, input: &SchemaRef) -> Result<Arc<dyn BoundTransformer>> {
        if self.chunk_size == Some(0) || self.in_flight == 0 {
            let message = "a chunk has at least one row, and at least one call is in flight";
            return Err(Error::new(ErrorKind::InvalidConfig, message));
        }
        let schema = self.schema.clone().unwrap_or_else(|| input.clone());
        if matches!(self.function, Function::Records(_)) {
            // Refuses types that rows cannot carry before anything is read.
            RecordBatchBuilder::new(schema.clone())?;
        }
        Ok(Arc::new(Bound { transformer: self.clone(), schema }))
    }
}

struct Bound {
    transformer: StreamingTransformer,
    schema: SchemaRef,
}

impl BoundTransformer for Bound {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    fn apply(&self, cx: &RunContext, input: BatchStream) -> BatchStream {
        self.transformer.transform_stream(cx, &self.schema, input)
    }
}

/// A partition whose chunks are given to a function.
struct Chunks {
    function: Arc<dyn Fn(RecordBatch) -> BatchCall + Send + Sync>,
    schema: SchemaRef,
    chunk_size: usize,
    in_flight: usize,
    input: Option<BatchStream>,
    chunks: VecDeque<RecordBatch>,
    calls: Calls,
    /// What the calls in flight were given.
    bytes: usize,
    most_bytes: usize,
}

type Done = (usize, Result<RecordBatch>);
type Running = Pin<Box<dyn Future<Output = Done> + Send>>;

enum Calls {
    Ordered(FuturesOrdered<Running>),
    Any(FuturesUnordered<Running>),
}

impl Calls {
    fn push(&mut self, call: Running) {
        match self {
            Self::Ordered(calls) => calls.push_back(call),
            Self::Any(calls) => calls.push(call),
        }
    }

    fn len(&self) -> usize {
        match self {
            Self::Ordered(calls) => calls.len(),
            Self::Any(calls) => calls.len(),
        }
    }

    async fn next(&mut self) -> Option<Done> {
        match self {
            Self::Ordered(calls) => calls.next().await,
            Self::Any(calls) => calls.next().await,
        }
    }
}

impl Chunks {
    async fn next(&mut self) -> Result<Option<RecordBatch>> {
        loop {
            let has_room = |this: &Self| {
                this.calls.len() < this.in_flight && (this.calls.len() == 0 || this.bytes < this.most_bytes)
            };
            while has_room(self)
                && let Some(chunk) = self.chunks.pop_front()
            {
                let bytes = batch_bytes(&chunk);
                self.bytes += bytes;
                let call = driven((self.function)(chunk));
                self.calls.push(Box::pin(async move { (bytes, call.await) }));
            }
            let wants_more = has_room(self) && self.chunks.is_empty() && self.input.is_some();
            if self.calls.len() == 0 && !wants_more {
                return Ok(None);
            }
            let more = async {
                match &mut self.input {
                    Some(input) if wants_more => next_batch(input).await,
                    _ => std::future::pending().await,
                }
            };
            let is_running = self.calls.len() > 0;
            tokio::select! {
                biased;
                done = self.calls.next(), if is_running => {
                    let Some((bytes, done)) = done else { continue };
                    self.bytes -= bytes;
                    let batch = done?;
                    if batch.schema_ref().fields() != self.schema.fields() {
                        let message = "the function gave a batch of another schema than it was said to";
                        return Err(Error::new(ErrorKind::SchemaMismatch, message));
                    }
                    if batch.num_rows() > 0 {
                        return Ok(Some(batch));
                    }
                }
                more = more => match more {
                    Some(batch) => {
                        let batch = batch?;
                        let rows = batch.num_rows();
                        let chunk = |from| batch.slice(from, self.chunk_size.min(rows - from));
                        self.chunks.extend((0..rows).step_by(self.chunk_size).map(chunk));
                    }
                    None => self.input = None,
                },
            }
        }
    }
}

/// A call that goes on while nobody asks for batches: what comes behind may wait for a partition whose call waits for this one,
/// for what both look up in a cache or for a connection that both need.
fn driven(call: BatchCall) -> BatchCall {
    struct AbortOnDrop(JoinHandle<Result<RecordBatch>>);

    impl Drop for AbortOnDrop {
        fn drop(&mut self) {
            self.0.abort();
        }
    }

    let Ok(runtime) = Handle::try_current() else { return call };
    let mut task = AbortOnDrop(runtime.spawn(call));
    Box::pin(async move {
        (&mut task.0).await.unwrap_or_else(|error| match error.try_into_panic() {
            Ok(panic) => Err(panicked(&*panic)),
            Err(_) => Err(Error::cancelled()),
        })
    })
}

/// What gives records to a function.
struct Records {
    function: Arc<dyn Fn(OwnedRecord) -> RecordCall + Send + Sync>,
    schema: SchemaRef,
    in_flight: usize,
    unordered: bool,
    cx: RunContext,
}

impl Records {
    async fn of(&self, batch: &RecordBatch) -> Result<RecordBatch> {
        let calls = stream::iter(Record::all(batch).enumerate()).map(|(row, record)| {
            let call = (self.function)(record.to_owned());
            async move { (row, call.await) }
        });
        let mut done: Pin<Box<dyn stream::Stream<Item = (usize, Result<OwnedRecord>)> + Send>> = match self.unordered {
            true => Box::pin(calls.buffer_unordered(self.in_flight)),
            false => Box::pin(calls.buffered(self.in_flight)),
        };
        let mut builder = RecordBatchBuilder::new(self.schema.clone())?;
        let mut known: Option<SchemaRef> = None;
        while let Some((row, done)) = done.next().await {
            match (done, self.cx.rejects()) {
                (Ok(record), _) => {
                    if !known.as_ref().is_some_and(|known| Arc::ptr_eq(known, record.schema())) {
                        check_names(record.schema(), &self.schema)?;
                        known = Some(record.schema().clone());
                    }
                    builder.push(record)?;
                }
                (Err(error), Some(rejects)) if is_of_row(&error) => {
                    rejects.push(rejected_row("streaming", &error, batch, row));
                }
                (Err(error), _) => return Err(error),
            }
        }
        builder.finish()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use arrow_array::cast::AsArray;
    use arrow_array::types::Int64Type;
    use etlrs_core::{PerformanceConfig, Rejects, Value, batches_from_iter, record_batch};

    use super::*;

    fn block_on<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(future)
    }

    /// The values of batches of 0..count behind a transformer.
    fn values(transformer: &StreamingTransformer, cx: &RunContext, count: i64) -> Result<Vec<i64>> {
        let batches: Vec<_> = (0..count)
            .step_by(100)
            .map(|from| Ok(record_batch([("x", (from..(from + 100).min(count)).map(Some).collect())])))
            .collect();
        let schema = record_batch([("x", vec![])]).schema();
        let bound = transformer.bind(&schema)?;
        let mut stream = bound.apply(cx, batches_from_iter(batches));
        block_on(async {
            let mut values = Vec::new();
            while let Some(batch) = next_batch(&mut stream).await {
                values.extend_from_slice(batch?.column(0).as_primitive::<Int64Type>().values());
            }
            Ok(values)
        })
    }

    fn cx() -> RunContext {
        RunContext::new(PerformanceConfig::default())
    }

    type Waited = Pin<Box<dyn Future<Output = ()> + Send>>;

    /// Later ones are done earlier; counts those that wait at once.
    fn waiting() -> (Arc<AtomicUsize>, Arc<AtomicUsize>, impl Fn(i64) -> Waited) {
        let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let counters = (now.clone(), most.clone());
        let wait = move |x: i64| -> Waited {
            let (now, most) = counters.clone();
            Box::pin(async move {
                most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                tokio::time::sleep(Duration::from_micros(2000 - 200 * u64::try_from(x % 10).unwrap())).await;
                now.fetch_sub(1, Ordering::SeqCst);
            })
        };
        (now, most, wait)
    }

    /// What comes behind may wait for another partition, and that for a call of this one.
    #[test]
    fn calls_go_on_while_nobody_asks_for_batches() {
        let done = Arc::new(AtomicUsize::new(0));
        let counted = done.clone();
        let transformer = StreamingTransformer::new(move |batch: RecordBatch| {
            let counted = counted.clone();
            async move {
                let x = batch.column(0).as_primitive::<Int64Type>().value(0);
                tokio::time::sleep(Duration::from_millis(if x == 0 { 1 } else { 20 })).await;
                counted.fetch_add(1, Ordering::SeqCst);
                Ok(batch)
            }
        });
        let transformer = transformer.chunk_size(1).in_flight(2);
        let batch = record_batch([("x", vec![Some(0), Some(1)])]);
        let bound = transformer.bind(batch.schema_ref()).unwrap();
        let mut stream = bound.apply(&cx(), batches_from_iter([Ok(batch)]));
        block_on(async {
            next_batch(&mut stream).await.unwrap().unwrap();
            let waited = async {
                while done.load(Ordering::SeqCst) < 2 {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            };
            tokio::time::timeout(Duration::from_secs(10), waited).await.unwrap();
            assert_eq!(next_batch(&mut stream).await.unwrap().unwrap().num_rows(), 1);
        });
    }

    #[test]
    fn records_keep_their_order_and_a_bounded_number_waits() {
        for unordered in [false, true] {
            let (now, most, wait) = waiting();
            let mut transformer = StreamingTransformer::records(move |mut record: OwnedRecord| {
                let Value::Int(x) = *record.get("x").unwrap() else { panic!() };
                let waited = wait(x);
                async move {
                    waited.await;
                    record.set("x", x * 2)?;
                    Ok(record)
                }
            })
            .in_flight(7);
            if unordered {
                transformer = transformer.unordered();
            }
            let mut found = values(&transformer, &cx(), 250).unwrap();
            let expected: Vec<_> = (0..250).map(|x| x * 2).collect();
            assert_eq!(found == expected, !unordered);
            found.sort_unstable();
            assert_eq!(found, expected);
            assert_eq!((now.load(Ordering::SeqCst), most.load(Ordering::SeqCst)), (0, 7));
        }
    }

    #[test]
    fn chunks_keep_their_order_and_a_bounded_number_waits() {
        for unordered in [false, true] {
            let (now, most, wait) = waiting();
            let mut transformer = StreamingTransformer::new(move |batch: RecordBatch| {
                assert!(batch.num_rows() <= 30);
                let waited = wait(batch.column(0).as_primitive::<Int64Type>().value(0) / 10);
                async move {
                    waited.await;
                    Ok(batch)
                }
            })
            .chunk_size(30)
            .in_flight(5);
            if unordered {
                transformer = transformer.unordered();
            }
            let mut found = values(&transformer, &cx(), 1000).unwrap();
            assert_eq!(found.is_sorted(), !unordered);
            found.sort_unstable();
            assert_eq!(found, (0..1000).collect::<Vec<_>>());
            assert_eq!((now.load(Ordering::SeqCst), most.load(Ordering::SeqCst)), (0, 5));
        }
    }

    #[test]
    fn chunks_are_as_large_as_the_run_says() {
        let largest = Arc::new(AtomicUsize::new(0));
        let seen = largest.clone();
        let transformer = StreamingTransformer::new(move |batch: RecordBatch| {
            seen.fetch_max(batch.num_rows(), Ordering::SeqCst);
            async { Ok(batch) }
        });
        let small = RunContext::new(PerformanceConfig { chunk_size: 7, ..PerformanceConfig::default() });
        assert_eq!(values(&transformer, &small, 250).unwrap(), (0..250).collect::<Vec<_>>());
        assert_eq!(largest.load(Ordering::SeqCst), 7);
    }

    #[test]
    fn large_chunks_wait_for_memory() {
        let (_, most, wait) = waiting();
        let transformer = StreamingTransformer::new(move |batch: RecordBatch| {
            let waited = wait(1);
            async move {
                waited.await;
                Ok(batch)
            }
        })
        .chunk_size(100);
        // A batch may have an eighth of it, which is less than two chunks of 800 bytes.
        assert_eq!(values(&transformer, &cx().for_worker(8 * 1000), 1000).unwrap().len(), 1000);
        assert_eq!(most.load(Ordering::SeqCst), 2);
    }

    #[test]
    fn records_that_fail_are_set_aside_and_other_errors_end_it() {
        let failing = |kind: ErrorKind| {
            StreamingTransformer::records(move |record: OwnedRecord| async move {
                match record.get("x")? {
                    Value::Int(x) if x % 100 == 7 => Err(Error::new(kind, "a seven")),
                    _ => Ok(record),
                }
            })
        };
        let rejects = Rejects::new(1 << 20);
        let setting_aside = cx().with_rejects(rejects.clone());
        assert_eq!(values(&failing(ErrorKind::InvalidData), &setting_aside, 300).unwrap().len(), 297);
        let raw: Vec<_> = rejects.take().into_iter().filter_map(|one| one.raw).collect();
        assert_eq!(raw, [&b"{\"x\":7}"[..], b"{\"x\":107}", b"{\"x\":207}"]);
        assert!(values(&failing(ErrorKind::Io), &setting_aside, 300).is_err());
        assert!(values(&failing(ErrorKind::InvalidData), &cx(), 300).is_err());
    }

    #[test]
    fn a_batch_of_another_schema_is_refused() {
        let other = StreamingTransformer::new(|_| async { Ok(record_batch([("y", vec![Some(1)])])) });
        assert_eq!(values(&other, &cx(), 10).unwrap_err().kind(), ErrorKind::SchemaMismatch);
        let said = other.with_schema(record_batch([("y", vec![])]).schema());
        assert_eq!(values(&said, &cx(), 10).unwrap(), [1]);
        assert!(values(&said.in_flight(0), &cx(), 10).is_err());
    }
}
