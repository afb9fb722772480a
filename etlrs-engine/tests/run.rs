//! What a run promises, with sources and targets that fail in every way.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use etlrs_core::*;
use etlrs_engine::{FilterTransformer, MapTransformer, PipelineBuilder, Verify};
use proptest::prelude::*;

/// `rows` numbers from 0, in `batches` batches.
fn numbers(rows: i64, batches: i64) -> MemoryExtractor {
    let per_batch = (rows / batches).max(1);
    let batches: Vec<_> = (0..batches)
        .map(|batch| {
            let end = if batch + 1 == batches { rows } else { (batch + 1) * per_batch };
            record_batch([("n", (batch * per_batch..end).map(Some).collect())])
        })
        .collect();
    MemoryExtractor::new(batches[0].schema(), batches)
}

fn values(target: &MemoryLoader) -> Vec<i64> {
    target.snapshot().unwrap().records().map(|record| record.i64("n").unwrap().unwrap()).collect()
}

fn config() -> PerformanceConfig {
    PerformanceConfig { max_threads: 4, ..PerformanceConfig::default() }
}

fn many() -> ScanRequest {
    ScanRequest::all().partitions(16)
}

/// What a wrapped source or target does wrong, and when.
#[derive(Clone, Default)]
struct Fault {
    /// Reads of partition 3 that fail after their first batch.
    failing_reads: Arc<AtomicU32>,
    transient: bool,
    /// The source gives another fingerprint when asked again.
    changing: bool,
    /// Reads never end.
    stalled: bool,
    panicking: bool,
    asked: Arc<AtomicU32>,
}

struct Faulty<T>(T, Fault);

#[async_trait]
impl Extractor for Faulty<MemoryExtractor> {
    async fn scan(&self, cx: &RunContext, request: &ScanRequest) -> Result<Arc<dyn Scan>> {
        Ok(Arc::new(Faulty(self.0.scan(cx, request).await?, self.1.clone())))
    }
}

#[async_trait]
impl Scan for Faulty<Arc<dyn Scan>> {
    fn schema(&self) -> SchemaRef {
        self.0.schema()
    }

    fn partitions(&self) -> &[Partition] {
        self.0.partitions()
    }

    async fn fingerprint(&self) -> Result<Fingerprint> {
        let asked = self.1.asked.fetch_add(1, Ordering::SeqCst);
        Ok(Fingerprint::new(if self.1.changing { asked.to_string() } else { String::new() }))
    }

    fn read(&self, cx: &RunContext, partition: &Partition) -> Result<BatchStream> {
        let fault = self.1.clone();
        let stream = self.0.read(cx, partition)?;
        if fault.stalled {
            return Ok(Box::pin(futures_util::stream::pending()));
        }
        if partition.id.0 != 3 {
            return Ok(stream);
        }
        let fails = fault.failing_reads.load(Ordering::SeqCst) > 0;
        let mut batches = 0;
        Ok(map_stream(stream, move |batch| {
            assert!(!fault.panicking, "a defect");
            batches += 1;
            if fails && batches == 2 {
                fault.failing_reads.fetch_sub(1, Ordering::SeqCst);
                let error = Error::new(ErrorKind::Connection, "the connection was lost");
                return Err(if fault.transient { error.transient() } else { error });
            }
            Ok(batch)
        }))
    }
}

fn run(source: Faulty<MemoryExtractor>, target: &MemoryLoader) -> Result<etlrs_engine::RunReport> {
    let pipeline = PipelineBuilder::new()
        .extract(source)
        .load(target.clone())
        .mode(LoadMode::Replace)
        .request(many())
        .config(PerformanceConfig { batch_size: 10, ..config() })
        .build()?;
    tokio::runtime::Runtime::new().unwrap().block_on(pipeline.execute())
}

fn loaded_before() -> MemoryLoader {
    let target = MemoryLoader::new();
    run(Faulty(numbers(3, 1), Fault::default()), &target).unwrap();
    target
}

/// How many rows were read when each batch came.
struct Watching(Arc<Mutex<Vec<u64>>>);

impl Transformer for Watching {
    fn bind(&self, input: &SchemaRef) -> Result<Arc<dyn BoundTransformer>> {
        struct Bound(SchemaRef, Arc<Mutex<Vec<u64>>>);

        impl BoundTransformer for Bound {
            fn schema(&self) -> SchemaRef {
                self.0.clone()
            }

            fn apply(&self, cx: &RunContext, input: BatchStream) -> BatchStream {
                let (cx, seen) = (cx.clone(), self.1.clone());
                map_stream(input, move |batch| {
                    seen.lock().unwrap().push(cx.counters().rows_read.get());
                    Ok(batch)
                })
            }
        }

        Ok(Arc::new(Bound(input.clone(), self.0.clone())))
    }
}

#[test]
fn without_streaming_a_partition_is_read_before_it_goes_on() {
    let run = |config: PerformanceConfig| {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let target = MemoryLoader::new();
        let pipeline = PipelineBuilder::new()
            .extract(numbers(1000, 10))
            .transform(Watching(seen.clone()))
            .load(target.clone())
            .config(config)
            .build()?;
        tokio::runtime::Runtime::new().unwrap().block_on(pipeline.execute())?;
        assert_eq!(values(&target), (0..1000).collect::<Vec<_>>());
        let seen = seen.lock().unwrap().clone();
        Ok::<_, Error>(seen)
    };
    let one = PerformanceConfig { max_threads: 1, ..config() };
    assert_eq!(run(one.clone()).unwrap(), (1..=10).map(|batch| batch * 100).collect::<Vec<_>>());
    let whole = PerformanceConfig { enable_streaming: false, ..one };
    assert_eq!(run(whole.clone()).unwrap(), [1000; 10]);
    let large = PipelineBuilder::new()
        .extract(numbers(500_000, 50))
        .load(MemoryLoader::new())
        .config(PerformanceConfig { max_memory_usage: 4 << 20, ..whole })
        .build()
        .unwrap();
    let error = tokio::runtime::Runtime::new().unwrap().block_on(large.execute()).unwrap_err();
    assert!(error.to_string().contains("enable_streaming=true"), "{error}");
}

#[test]
fn a_transient_error_is_retried_and_no_row_comes_twice() {
    let target = MemoryLoader::new();
    let fault = Fault { failing_reads: Arc::new(AtomicU32::new(2)), transient: true, ..Fault::default() };
    let report = run(Faulty(numbers(1600, 16), fault), &target).unwrap();
    assert_eq!((report.rows_read, report.load.records_loaded, report.retries), (1600, 1600, 2));
    assert_eq!(values(&target), (0..1600).collect::<Vec<_>>());
}

#[test]
fn an_error_that_stays_leaves_the_target_as_it_was() {
    for (transient, attempts) in [(true, 4), (false, 1)] {
        let target = loaded_before();
        let failing_reads = Arc::new(AtomicU32::new(100));
        let fault = Fault { failing_reads: failing_reads.clone(), transient, ..Fault::default() };
        let error = run(Faulty(numbers(1600, 16), fault), &target).unwrap_err();
        assert_eq!((error.kind(), error.position().partition), (ErrorKind::Connection, Some(3)));
        assert_eq!(100 - failing_reads.load(Ordering::SeqCst), attempts);
        assert_eq!(values(&target), [0, 1, 2]);
    }
}

#[test]
fn why_the_first_attempt_failed_is_told_if_there_can_be_no_other() {
    let mut target = Strict::new(4);
    target.keeps_rows = true;
    let fault = Fault { failing_reads: Arc::new(AtomicU32::new(1)), transient: true, ..Fault::default() };
    let pipeline = PipelineBuilder::new()
        .extract(Faulty(numbers(1600, 16), fault))
        .load(target.clone())
        .request(many())
        .config(PerformanceConfig { max_threads: 1, batch_size: 10, ..config() })
        .build()
        .unwrap();
    let error = tokio::runtime::Runtime::new().unwrap().block_on(pipeline.execute()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Connection);
    let words = error.to_string();
    assert!(words.contains("the connection was lost") && words.contains("some of its rows are in the file"), "{words}");
}

#[test]
fn a_source_that_changes_and_a_stage_that_panics_publish_nothing() {
    for (fault, kind) in [
        (Fault { changing: true, ..Fault::default() }, ErrorKind::SourceChanged),
        (Fault { panicking: true, ..Fault::default() }, ErrorKind::Internal),
    ] {
        let target = loaded_before();
        let error = run(Faulty(numbers(1600, 16), fault), &target).unwrap_err();
        assert_eq!(error.kind(), kind);
        assert_eq!(values(&target), [0, 1, 2]);
    }
}

#[test]
fn cancelling_ends_a_run_that_waits() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let target = loaded_before();
    let fault = || Fault { stalled: true, ..Fault::default() };
    let builder = || {
        PipelineBuilder::new().extract(Faulty(numbers(100, 10), fault())).load(target.clone()).mode(LoadMode::Replace)
    };
    let token = CancelToken::new();
    let pipeline = builder().cancel(token.clone()).build().unwrap();
    let error = runtime.block_on(async {
        let running = tokio::spawn(async move { pipeline.execute().await });
        tokio::time::sleep(Duration::from_millis(50)).await;
        token.cancel();
        tokio::time::timeout(Duration::from_secs(10), running).await.unwrap().unwrap().unwrap_err()
    });
    assert_eq!(error.kind(), ErrorKind::Cancelled);

    // A dropped future is a cancelled run, of this pipeline only this once.
    let stopped = Arc::new(Mutex::new(None));
    let seen = stopped.clone();
    let pipeline = builder().on_start(move |started| *seen.lock().unwrap() = Some(started.cx.clone())).build().unwrap();
    runtime.block_on(async {
        let _ = tokio::time::timeout(Duration::from_millis(50), pipeline.execute()).await.unwrap_err();
    });
    let cx: RunContext = stopped.lock().unwrap().take().unwrap();
    assert!(cx.cancel().is_cancelled());
    assert!(runtime.block_on(pipeline.plan()).is_ok());
    assert_eq!(values(&target), [0, 1, 2]);
}

/// A target with few writers that notes how it is used, and can lose or change a row.
#[derive(Clone)]
struct Strict {
    inner: MemoryLoader,
    writers: usize,
    open: Arc<Mutex<Vec<u32>>>,
    opened: Arc<Mutex<Vec<u32>>>,
    corrupt: Option<fn(RecordBatch) -> RecordBatch>,
    lies_about_rows: bool,
    /// Rows that it has cannot be taken back.
    keeps_rows: bool,
    aborted: Arc<AtomicBool>,
}

impl Strict {
    fn new(writers: usize) -> Self {
        Self {
            inner: MemoryLoader::new(),
            writers,
            open: Arc::default(),
            opened: Arc::default(),
            corrupt: None,
            lies_about_rows: false,
            keeps_rows: false,
            aborted: Arc::default(),
        }
    }
}

#[async_trait]
impl Loader for Strict {
    fn capabilities(&self) -> LoadCapabilities {
        self.inner.capabilities().max_writers(self.writers)
    }

    async fn check(&self, cx: &RunContext, plan: &LoadPlan) -> Result<LoadPreview> {
        self.inner.check(cx, plan).await
    }

    async fn begin(&self, cx: &RunContext, plan: LoadPlan) -> Result<Box<dyn LoadSession>> {
        Ok(Box::new(StrictSession(self.inner.begin(cx, plan).await?, self.clone())))
    }
}

struct StrictSession(Box<dyn LoadSession>, Strict);

#[async_trait]
impl LoadSession for StrictSession {
    async fn writer(&self, cx: &RunContext, partition: &Partition, attempt: u32) -> Result<Box<dyn PartitionWriter>> {
        {
            let mut open = self.1.open.lock().unwrap();
            open.push(partition.id.0);
            assert!(open.len() <= self.1.writers, "{open:?} are open");
        }
        if self.1.keeps_rows && attempt > 1 {
            return Err(Error::new(ErrorKind::Unsupported, "some of its rows are in the file"));
        }
        self.1.opened.lock().unwrap().push(partition.id.0);
        // Gives others a chance to come too early.
        tokio::time::sleep(Duration::from_millis(u64::from(partition.id.0 % 3))).await;
        Ok(Box::new(StrictWriter(self.0.writer(cx, partition, attempt).await?, self.1.clone(), partition.id)))
    }

    async fn read_back(&mut self, cx: &RunContext, receipts: &[Receipt]) -> Result<Option<Arc<dyn Scan>>> {
        self.0.read_back(cx, receipts).await
    }

    async fn commit(self: Box<Self>, receipts: Vec<Receipt>) -> Result<Published> {
        self.0.commit(receipts).await
    }

    async fn abort(self: Box<Self>) -> Result<()> {
        self.1.aborted.store(true, Ordering::SeqCst);
        self.0.abort().await
    }
}

struct StrictWriter(Box<dyn PartitionWriter>, Strict, PartitionId);

#[async_trait]
impl PartitionWriter for StrictWriter {
    async fn write(&mut self, batch: RecordBatch) -> Result<()> {
        let batch = match self.1.corrupt {
            Some(corrupt) if self.2.0 == 2 => corrupt(batch),
            _ => batch,
        };
        self.0.write(batch).await
    }

    async fn finish(self: Box<Self>) -> Result<Receipt> {
        self.1.open.lock().unwrap().retain(|open| *open != self.2.0);
        let mut receipt = self.0.finish().await?;
        if self.1.lies_about_rows {
            receipt.rows += 1;
        }
        Ok(receipt)
    }
}

fn load_strict(target: &Strict, threads: usize, verify: Verify) -> Result<etlrs_engine::RunReport> {
    let pipeline = PipelineBuilder::new()
        .extract(numbers(1600, 16))
        .load(target.clone())
        .request(many())
        .verify(verify)
        .config(PerformanceConfig { max_threads: threads, batch_size: 7, ..config() })
        .build()?;
    tokio::runtime::Runtime::new().unwrap().block_on(pipeline.execute())
}

#[test]
fn no_more_writers_are_open_than_the_target_takes() {
    for writers in [1, 2, 3] {
        let target = Strict::new(writers);
        load_strict(&target, 6, Verify::Receipts).unwrap();
        assert_eq!(values(&target.inner), (0..1600).collect::<Vec<_>>());
        let opened = target.opened.lock().unwrap().clone();
        if writers == 1 {
            assert_eq!(opened, (0..16).collect::<Vec<_>>());
        }
        assert_eq!(opened.len(), 16);
    }
}

#[test]
fn what_the_target_changes_is_found_before_it_is_published() {
    let null = |batch: RecordBatch| record_batch([("n", vec![None; batch.num_rows()])]);
    for (corrupt, verify) in [
        (Some(null as fn(RecordBatch) -> RecordBatch), Verify::Full),
        (Some(|batch: RecordBatch| batch.slice(0, batch.num_rows() - 1)), Verify::Receipts),
        (None, Verify::Receipts),
    ] {
        let mut target = Strict::new(2);
        target.corrupt = corrupt;
        target.lies_about_rows = corrupt.is_none();
        let error = load_strict(&target, 2, verify).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::VerifyFailed, "{error}");
        assert!(target.aborted.load(Ordering::SeqCst));
        assert_eq!(target.inner.snapshot().unwrap_err().kind(), ErrorKind::NotFound);
    }
    let report = load_strict(&Strict::new(2), 2, Verify::Full).unwrap();
    assert_eq!(report.target_checksum, Some(report.source_checksum));
}

#[test]
fn a_batch_larger_than_the_budget_is_refused_and_a_large_one_waits_for_its_turn() {
    let wide = |rows: i64| record_batch([("n", (0..rows).map(Some).collect())]);
    let load = |batches: Vec<RecordBatch>| {
        let target = MemoryLoader::new();
        let pipeline = PipelineBuilder::new()
            .extract(MemoryExtractor::new(batches[0].schema(), batches))
            .load(target.clone())
            .request(ScanRequest::all().partitions(8))
            .config(PerformanceConfig { batch_size: 1 << 20, max_memory_usage: 8 << 20, ..config() })
            .build()?;
        let report = tokio::runtime::Runtime::new().unwrap().block_on(pipeline.execute())?;
        Ok::<_, Error>((report, target))
    };
    // 1 MB each: more than a worker's batch may have, less than the lane.
    let (report, _) = load((0..8).map(|_| wide(100_000)).collect()).unwrap();
    assert_eq!(report.load.records_loaded, 800_000);
    let error = load(vec![wide(10), wide(1 << 20)]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::MemoryExceeded);
    assert!(error.to_string().contains("a budget of 64MB would do"), "{error}");
}

#[test]
fn a_pipeline_without_ends_or_with_an_impossible_setting_is_refused() {
    let builder = || PipelineBuilder::new().extract(numbers(1, 1)).load(MemoryLoader::new());
    for (pipeline, needle) in [
        (PipelineBuilder::new().load(MemoryLoader::new()).build(), "no source"),
        (PipelineBuilder::new().extract(numbers(1, 1)).build(), "no target"),
        (builder().config(PerformanceConfig { batch_size: 0, ..config() }).build(), "batch_size cannot be 0"),
        (builder().request(ScanRequest::all().partitions(0)).build(), "0 partitions"),
        (builder().mode(LoadMode::Merge).build(), "needs key columns"),
        (builder().keys(["n"]).build(), "for the mode merge"),
    ] {
        let error = pipeline.err().unwrap();
        assert_eq!(error.kind(), ErrorKind::InvalidConfig);
        assert!(error.to_string().contains(needle), "{error}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    /// However a run is cut and spread, the rows, their order and their checksum are the same.
    #[test]
    fn partitions_threads_and_batches_do_not_change_the_result(
        rows in 1i64..3000, batches in 1i64..40, partitions in 1usize..40, threads in 1usize..9,
        batch_size in 1usize..500, writers in prop_oneof![1usize..4, Just(usize::MAX)],
    ) {
        let mut target = Strict::new(writers);
        target.opened = Arc::default();
        let pipeline = PipelineBuilder::new()
            .extract(numbers(rows, batches.min(rows)))
            .transform(FilterTransformer::new(|record| Ok(record.i64("n")?.is_some_and(|n| n % 3 != 0))))
            .load(target.clone())
            .request(ScanRequest::all().partitions(partitions))
            .verify(Verify::Full)
            .config(PerformanceConfig { max_threads: threads, batch_size, ..config() })
            .build()
            .unwrap();
        let report = tokio::runtime::Runtime::new().unwrap().block_on(pipeline.execute()).unwrap();
        let expected: Vec<_> = (0..rows).filter(|n| n % 3 != 0).collect();
        prop_assert_eq!(values(&target.inner), expected.clone());
        prop_assert_eq!(report.rows_read, rows as u64);
        prop_assert_eq!(report.rows_dropped, (rows as usize - expected.len()) as u64);
        let plain = Checksum::of_batch(&record_batch([("n", expected.into_iter().map(Some).collect())])).unwrap();
        prop_assert_eq!(report.source_checksum, plain);
    }
}

/// Bytes of the mapping that `address` is in.
fn mapping_around(address: usize) -> usize {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let ranges = maps.lines().map(|line| {
        let (from, to) = line.split_whitespace().next().unwrap().split_once('-').unwrap();
        usize::from_str_radix(from, 16).unwrap()..usize::from_str_radix(to, 16).unwrap()
    });
    ranges.into_iter().find(|range| range.contains(&address)).unwrap().len()
}

#[test]
fn settings_of_workers_and_attempts_are_obeyed() {
    let run = |config: PerformanceConfig, stack: Arc<AtomicU32>| {
        let measure = MapTransformer::over_batches(move |batch| {
            let here = 0u8;
            let bytes = mapping_around(std::ptr::from_ref(&here).addr());
            stack.fetch_max(u32::try_from(bytes).unwrap(), Ordering::SeqCst);
            Ok(batch.clone())
        });
        let builder = PipelineBuilder::new().extract(numbers(1000, 16)).transform(measure).load(MemoryLoader::new());
        let pipeline = builder.request(many()).config(config).build().unwrap();
        tokio::runtime::Runtime::new().unwrap().block_on(pipeline.execute()).unwrap()
    };
    for bytes in [1 << 20, 8 << 20] {
        let stack = Arc::new(AtomicU32::new(0));
        let report = run(config().with_thread_stack_size(bytes as usize), stack.clone());
        assert_eq!(report.workers, 4);
        let found = stack.load(Ordering::SeqCst);
        assert!(found >= bytes - (64 << 10) && found < bytes + (1 << 20), "{found} of {bytes}");
    }
    assert_eq!(run(config().with_enable_parallel_processing(false), Arc::default()).workers, 1);

    for most in [1, 3] {
        let fault = Fault { failing_reads: Arc::new(AtomicU32::new(100)), transient: true, ..Fault::default() };
        let failing = fault.failing_reads.clone();
        let pipeline = PipelineBuilder::new()
            .extract(Faulty(numbers(1000, 16), fault))
            .load(MemoryLoader::new())
            .request(many())
            .config(PerformanceConfig { batch_size: 10, max_attempts: most, ..config() })
            .build()
            .unwrap();
        tokio::runtime::Runtime::new().unwrap().block_on(pipeline.execute()).unwrap_err();
        assert_eq!(100 - failing.load(Ordering::SeqCst), most);
    }
}
