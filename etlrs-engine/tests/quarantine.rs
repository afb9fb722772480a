//! Records that are set aside: none is lost or comes twice, whatever fails, and the target is published after them.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use etlrs_core::*;
use etlrs_engine::{FilterTransformer, PipelineBuilder, RunReport, Verify};
use proptest::prelude::*;

/// Numbers from 0, as many partitions as are asked for. What `is_bad` says is set aside one by one, and else an error.
#[derive(Clone)]
struct Numbers {
    count: u64,
    is_bad: fn(u64) -> bool,
    /// Reads of partition 1 that fail at their end.
    failing_reads: Arc<AtomicU32>,
    /// With guesses, the last two partitions hold nothing but bad records, and the first says that it was cut wrongly.
    guesses_wrong: bool,
}

impl Numbers {
    fn new(count: u64, is_bad: fn(u64) -> bool) -> Self {
        Self { count, is_bad, failing_reads: Arc::default(), guesses_wrong: false }
    }
}

fn bad(n: u64) -> Error {
    Error::new(ErrorKind::InvalidData, "the number is bad").in_source("numbers").at_record(n + 1)
}

#[async_trait]
impl Extractor for Numbers {
    async fn scan(&self, _: &RunContext, request: &ScanRequest) -> Result<Arc<dyn Scan>> {
        let count = request.partitions.unwrap_or(1);
        let partitions = (0..count).map(|index| Partition::new(index, index.to_string())).collect();
        let numbers = Self { guesses_wrong: self.guesses_wrong && request.guess, ..self.clone() };
        Ok(Arc::new(NumbersScan { numbers, partitions }))
    }
}

struct NumbersScan {
    numbers: Numbers,
    partitions: Vec<Partition>,
}

#[async_trait]
impl Scan for NumbersScan {
    fn schema(&self) -> SchemaRef {
        record_batch([("n", vec![])]).schema()
    }

    fn partitions(&self) -> &[Partition] {
        &self.partitions
    }

    async fn fingerprint(&self) -> Result<Fingerprint> {
        Ok(Fingerprint::new("numbers"))
    }

    fn read(&self, cx: &RunContext, partition: &Partition) -> Result<BatchStream> {
        let (numbers, cx) = (self.numbers.clone(), cx.clone());
        let (count, index) = (self.partitions.len() as u64, u64::from(partition.id.0));
        let mut next = numbers.count * index / count;
        let end = numbers.count * (index + 1) / count;
        let misread = numbers.guesses_wrong && index + 2 >= count;
        Ok(batches_from_fn(move || {
            if index == 0 && numbers.guesses_wrong {
                // Until what is behind has been read.
                std::thread::sleep(Duration::from_millis(50));
            }
            let mut rows = Vec::new();
            while next < end && rows.len() < cx.config().batch_size {
                let n = next;
                next += 1;
                if !(numbers.is_bad)(n) && !misread {
                    rows.push(Some(n as i64));
                    continue;
                }
                let Some(rejects) = cx.rejects() else { return Err(bad(n)) };
                rejects.push(Rejected::by_source(&bad(n)).with_raw(format!("{n:0>1000}")));
                if rejects.is_full() {
                    return Ok(Some(record_batch([("n", rows)])));
                }
            }
            if rows.is_empty() && index == 1 && numbers.failing_reads.load(Ordering::SeqCst) > 0 {
                numbers.failing_reads.fetch_sub(1, Ordering::SeqCst);
                return Err(Error::new(ErrorKind::Connection, "lost").transient());
            }
            if rows.is_empty() && index == 0 && numbers.guesses_wrong {
                return Err(Error::new(ErrorKind::SplitRefuted, "cut wrongly"));
            }
            Ok(if rows.is_empty() { None } else { Some(record_batch([("n", rows)])) })
        }))
    }
}

/// A target in memory that notes what happens to it, in one list with others, and has few writers.
#[derive(Clone)]
struct Noted {
    name: &'static str,
    inner: MemoryLoader,
    log: Arc<Mutex<Vec<String>>>,
    writers: usize,
    fails_to_commit: bool,
    largest_batch: Arc<Mutex<usize>>,
}

impl Noted {
    fn new(name: &'static str) -> Self {
        let (inner, log, largest_batch) = (MemoryLoader::new(), Arc::default(), Arc::default());
        Self { name, inner, log, writers: usize::MAX, fails_to_commit: false, largest_batch }
    }

    fn note(&self, what: &str) {
        self.log.lock().unwrap().push(format!("{what} {}", self.name));
    }
}

#[async_trait]
impl Loader for Noted {
    fn capabilities(&self) -> LoadCapabilities {
        self.inner.capabilities().max_writers(self.writers)
    }

    async fn check(&self, cx: &RunContext, plan: &LoadPlan) -> Result<LoadPreview> {
        self.note("check");
        self.inner.check(cx, plan).await
    }

    async fn begin(&self, cx: &RunContext, plan: LoadPlan) -> Result<Box<dyn LoadSession>> {
        Ok(Box::new(NotedSession(self.inner.begin(cx, plan).await?, self.clone(), Arc::default())))
    }
}

struct NotedSession(Box<dyn LoadSession>, Noted, Arc<Mutex<Vec<u32>>>);

#[async_trait]
impl LoadSession for NotedSession {
    async fn writer(&self, cx: &RunContext, partition: &Partition, attempt: u32) -> Result<Box<dyn PartitionWriter>> {
        self.2.lock().unwrap().push(partition.id.0);
        assert!(self.2.lock().unwrap().len() <= self.1.writers);
        let inner = self.0.writer(cx, partition, attempt).await?;
        let open = Open(self.2.clone(), partition.id.0);
        Ok(Box::new(NotedWriter(inner, self.1.clone(), open)))
    }

    async fn read_back(&mut self, cx: &RunContext, receipts: &[Receipt]) -> Result<Option<Arc<dyn Scan>>> {
        self.0.read_back(cx, receipts).await
    }

    async fn commit(self: Box<Self>, receipts: Vec<Receipt>) -> Result<Published> {
        self.1.note("commit");
        if self.1.fails_to_commit {
            return Err(Error::new(ErrorKind::Io, "no space left"));
        }
        self.0.commit(receipts).await
    }

    async fn abort(self: Box<Self>) -> Result<()> {
        self.1.note("abort");
        self.0.abort().await
    }
}

struct NotedWriter(Box<dyn PartitionWriter>, Noted, Open);

/// A writer that is open.
struct Open(Arc<Mutex<Vec<u32>>>, u32);

#[async_trait]
impl PartitionWriter for NotedWriter {
    async fn write(&mut self, batch: RecordBatch) -> Result<()> {
        {
            let mut largest = self.1.largest_batch.lock().unwrap();
            *largest = batch_bytes(&batch).max(*largest);
        }
        // Gives others a chance to come too early.
        tokio::time::sleep(Duration::from_micros(u64::from(self.2.1 % 3) * 200)).await;
        self.0.write(batch).await
    }

    async fn finish(self: Box<Self>) -> Result<Receipt> {
        self.0.finish().await
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.lock().unwrap().retain(|open| *open != self.1);
    }
}

/// A target that has the row -1, and a quarantine, with one list for both.
fn ends() -> (Noted, Noted) {
    let target = Noted::new("target");
    let quarantine = Noted { log: target.log.clone(), ..Noted::new("quarantine") };
    let before = record_batch([("n", vec![Some(-1)])]);
    let pipeline = PipelineBuilder::new()
        .extract(MemoryExtractor::new(before.schema(), [before]))
        .load(target.inner.clone())
        .build()
        .unwrap();
    block_on(pipeline.execute()).unwrap();
    (target, quarantine)
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Runtime::new().unwrap().block_on(future)
}

fn builder(source: &Numbers, target: &Noted, quarantine: &Noted) -> PipelineBuilder {
    PipelineBuilder::new()
        .extract(source.clone())
        .load(target.clone())
        .quarantine(quarantine.clone())
        .mode(LoadMode::Replace)
        .verify(Verify::Full)
        .request(ScanRequest::all().partitions(8))
        .config(PerformanceConfig { max_threads: 4, batch_size: 10, ..PerformanceConfig::default() })
}

fn run(builder: PipelineBuilder) -> Result<RunReport> {
    block_on(builder.build().unwrap().execute())
}

fn numbers(target: &Noted) -> Vec<i64> {
    target.inner.snapshot().unwrap().records().map(|record| record.i64("n").unwrap().unwrap()).collect()
}

/// Numbers of the records that are in a quarantine, in its order; each with its raw text.
fn kept(quarantine: &Noted) -> Vec<i64> {
    let snapshot = quarantine.inner.snapshot().unwrap();
    assert_eq!(snapshot.schema(), &Rejected::schema());
    let number = |record: Record<'_>| {
        let number = record.i64("record").unwrap().unwrap() - 1;
        assert_eq!(record.get("raw").unwrap(), Value::Binary(format!("{number:0>1000}").into_bytes().into()));
        number
    };
    snapshot.records().map(number).collect()
}

fn every_seventh(n: u64) -> bool {
    n % 7 == 3
}

#[test]
fn what_is_rejected_is_kept_and_all_else_is_loaded() {
    let (target, quarantine) = ends();
    let source = Numbers::new(1000, every_seventh);
    let filter = FilterTransformer::new(|record| Ok(record.i64("n")?.is_some_and(|n| n % 2 == 0)));
    let report = run(builder(&source, &target, &quarantine).transform(filter)).unwrap();
    let (rejected, good): (Vec<i64>, Vec<_>) = (0..1000).partition(|&n| every_seventh(n as u64));
    let loaded: Vec<_> = good.iter().copied().filter(|n| n % 2 == 0).collect();
    assert_eq!(numbers(&target), loaded);
    assert_eq!(kept(&quarantine), rejected);
    assert_eq!((report.rows_read, report.rows_rejected), (1000, rejected.len() as u64));
    assert_eq!(report.rows_dropped, (good.len() - loaded.len()) as u64);
    assert_eq!(report.first_rejected.as_deref(), Some("numbers, record 4: the number is bad"));
    assert_eq!(report.target_checksum, Some(report.source_checksum));
    // A later run adds to it, and its rows have its name.
    let again = run(builder(&source, &target, &quarantine)).unwrap();
    let snapshot = quarantine.inner.snapshot().unwrap();
    let runs: Vec<_> = snapshot.records().map(|record| record.str("run").unwrap().unwrap().to_owned()).collect();
    let expected = [report.run, again.run].map(|run| vec![run.to_string(); rejected.len()]).concat();
    assert_eq!(runs, expected);
}

#[test]
fn without_a_quarantine_the_first_bad_record_ends_the_run() {
    let (target, _) = ends();
    let plain = PipelineBuilder::new()
        .extract(Numbers::new(1000, every_seventh))
        .load(target.clone())
        .mode(LoadMode::Replace)
        .request(ScanRequest::all().partitions(8));
    assert_eq!(run(plain).unwrap_err().to_string(), "numbers, record 4: the number is bad");
    assert_eq!(numbers(&target), [-1]);
}

#[test]
fn a_retried_partition_does_not_double_what_it_rejected() {
    let (target, quarantine) = ends();
    let source = Numbers { failing_reads: Arc::new(AtomicU32::new(2)), ..Numbers::new(1000, every_seventh) };
    let most = (0..1000).filter(|&n| every_seventh(n)).count() as u64;
    let report = run(builder(&source, &target, &quarantine).max_errors(most)).unwrap();
    assert_eq!((report.retries, report.rows_rejected, report.rows_read), (2, most, 1000));
    assert_eq!(kept(&quarantine), (0..1000).filter(|&n| every_seventh(n as u64)).collect::<Vec<_>>());
    assert_eq!(numbers(&target).len() as u64, 1000 - most);
}

#[test]
fn a_quarantine_without_records_is_left_alone() {
    let (target, quarantine) = ends();
    let report = run(builder(&Numbers::new(1000, |_| false), &target, &quarantine)).unwrap();
    assert_eq!((report.rows_rejected, report.first_rejected), (0, None));
    // Not before: a run that goes on has to be told that nothing was rejected.
    assert_eq!(*target.log.lock().unwrap(), ["commit target", "abort quarantine"]);
    assert_eq!(quarantine.inner.snapshot().unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(numbers(&target).len(), 1000);
}

#[test]
fn the_quarantine_is_published_before_the_target() {
    let source = Numbers::new(1000, every_seventh);
    let (target, quarantine) = ends();
    run(builder(&source, &target, &quarantine)).unwrap();
    assert_eq!(*target.log.lock().unwrap(), ["commit quarantine", "commit target"]);

    // The target cannot be published after it: what was rejected is there, and the old data.
    let (target, quarantine) = ends();
    let target = Noted { fails_to_commit: true, ..target };
    assert_eq!(run(builder(&source, &target, &quarantine)).unwrap_err().kind(), ErrorKind::Io);
    assert_eq!((numbers(&target), kept(&quarantine).len()), (vec![-1], 143));

    // It cannot be published itself: nothing else is.
    let (target, quarantine) = ends();
    let quarantine = Noted { fails_to_commit: true, ..quarantine };
    let error = run(builder(&source, &target, &quarantine)).unwrap_err();
    assert_eq!(error.to_string(), "the quarantine: no space left");
    assert_eq!(*target.log.lock().unwrap(), ["commit quarantine", "abort target"]);
    assert_eq!(numbers(&target), [-1]);
}

#[test]
fn more_than_max_errors_end_the_run_with_one_error_and_publish_nothing() {
    let source = Numbers::new(1000, every_seventh);
    for (most, needle) in [
        (142, "more than the 142 records that max_errors allows were rejected"),
        (1, "more than the one record"),
        (0, "a record was rejected, and max_errors allows none"),
    ] {
        let (target, quarantine) = ends();
        let error = run(builder(&source, &target, &quarantine).max_errors(most)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidData);
        let told = error.to_string();
        assert!(told.contains(needle), "{told}");
        assert!(told.ends_with("; the first is numbers, record 4: the number is bad"), "{told}");
        assert_eq!(numbers(&target), [-1]);
        assert_eq!(*target.log.lock().unwrap(), ["abort quarantine", "abort target"]);
        assert_eq!(quarantine.inner.snapshot().unwrap_err().kind(), ErrorKind::NotFound);
    }
    let (target, quarantine) = ends();
    run(builder(&source, &target, &quarantine).max_errors(143)).unwrap();
    assert_eq!(kept(&quarantine).len(), 143);

    let pipeline = PipelineBuilder::new().extract(source).load(target).max_errors(1).build();
    assert_eq!(pipeline.err().unwrap().kind(), ErrorKind::InvalidConfig);
}

#[test]
fn what_a_wrong_guess_rejects_counts_for_nothing() {
    let (target, quarantine) = ends();
    let source = Numbers { guesses_wrong: true, ..Numbers::new(1000, |n| n == 5) };
    let report = run(builder(&source, &target, &quarantine).max_errors(1)).unwrap();
    assert_eq!((report.rows_rejected, kept(&quarantine)), (1, vec![5]));
}

#[test]
fn a_plan_looks_at_the_quarantine_too() {
    let (target, quarantine) = ends();
    let plan = || builder(&Numbers::new(10, every_seventh), &target, &quarantine).build().unwrap();
    assert!(block_on(plan().plan()).unwrap().quarantine.is_some());
    // Of another shape than a quarantine.
    let other = record_batch([("n", vec![Some(1)])]);
    let fill = PipelineBuilder::new()
        .extract(MemoryExtractor::new(other.schema(), [other]))
        .load(quarantine.inner.clone())
        .build();
    block_on(fill.unwrap().execute()).unwrap();
    for error in [block_on(plan().plan()).unwrap_err(), block_on(plan().execute()).unwrap_err()] {
        assert_eq!(error.kind(), ErrorKind::SchemaMismatch);
        assert!(error.to_string().starts_with("the quarantine: "), "{error}");
    }
    assert_eq!(numbers(&target), [-1]);
}

/// A transformer that sets rows aside, as its input does records.
#[test]
fn transformers_can_reject_rows() {
    struct NoFives;
    struct Bound(SchemaRef);

    impl Transformer for NoFives {
        fn bind(&self, input: &SchemaRef) -> Result<Arc<dyn BoundTransformer>> {
            Ok(Arc::new(Bound(input.clone())))
        }
    }

    impl BoundTransformer for Bound {
        fn schema(&self) -> SchemaRef {
            self.0.clone()
        }

        fn apply(&self, cx: &RunContext, input: BatchStream) -> BatchStream {
            let rejects = cx.rejects().unwrap().clone();
            map_stream(input, move |batch| {
                let numbers = values(&batch);
                let (fives, others): (Vec<_>, Vec<_>) = numbers.into_iter().partition(|n| n % 5 == 0);
                for n in fives {
                    let error = Error::new(ErrorKind::InvalidData, "a five").at_record(n as u64 + 1);
                    rejects.push(Rejected::by_stage("no fives", &error).with_raw(format!("{n:0>1000}")));
                }
                Ok(record_batch([("n", others.into_iter().map(Some).collect())]))
            })
        }
    }

    fn values(batch: &RecordBatch) -> Vec<i64> {
        let snapshot = DatasetSnapshot::new(batch.schema(), vec![batch.clone()]).unwrap();
        snapshot.records().map(|record| record.i64("n").unwrap().unwrap()).collect()
    }

    let (target, quarantine) = ends();
    let report = run(builder(&Numbers::new(1000, every_seventh), &target, &quarantine).transform(NoFives)).unwrap();
    let is_rejected = |n: &i64| every_seventh(*n as u64) || n % 5 == 0;
    let (rejected, good): (Vec<_>, Vec<_>) = (0..1000).partition(is_rejected);
    let mut found = kept(&quarantine);
    found.sort_unstable();
    assert_eq!((numbers(&target), found), (good, rejected.clone()));
    assert_eq!((report.rows_read, report.rows_rejected), (1000, rejected.len() as u64));
    assert_eq!(report.rows_dropped, 0);
}

#[test]
fn what_is_rejected_is_held_in_a_part_of_the_budget() {
    let (target, quarantine) = ends();
    let config = PerformanceConfig { max_threads: 2, max_memory_usage: 4 << 20, ..PerformanceConfig::default() };
    let source = Numbers::new(20_001, |n| n > 0);
    let report = run(builder(&source, &target, &quarantine).config(config)).unwrap();
    assert_eq!((report.rows_rejected, report.load.records_loaded), (20_000, 1));
    assert_eq!(kept(&quarantine), (1..=20_000).collect::<Vec<_>>());
    // 20 MB went through in pieces: an eighth of a worker's share is for it, and an eighth of that for a batch.
    let largest = *quarantine.largest_batch.lock().unwrap();
    assert!((10_000..64 << 10).contains(&largest), "{largest}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    /// However a run is cut and spread, the same is kept and loaded, in the same order, and nothing waits for ever.
    #[test]
    fn partitions_threads_and_writers_do_not_change_what_is_kept(
        count in 0u64..600, partitions in 1usize..20, threads in 1usize..7, batch_size in 1usize..50,
        writers in prop_oneof![1usize..4, Just(usize::MAX)], kept_writers in prop_oneof![1usize..4, Just(usize::MAX)],
        which in 0usize..4, memory in prop_oneof![Just(2usize << 20), Just(1 << 30)],
    ) {
        let is_bad = [|n| n % 7 == 3, |_| true, |n| n < 100, |n| n / 40 % 2 == 1][which];
        let (target, quarantine) = ends();
        let target = Noted { writers, ..target };
        let quarantine = Noted { writers: kept_writers, ..quarantine };
        let max_memory_usage = memory;
        let config =
            PerformanceConfig { max_threads: threads, batch_size, max_memory_usage, ..PerformanceConfig::default() };
        let request = ScanRequest::all().partitions(partitions);
        let pipeline = builder(&Numbers::new(count, is_bad), &target, &quarantine).config(config).request(request);
        let pipeline = pipeline.build().unwrap();
        let running = async { tokio::time::timeout(Duration::from_secs(60), pipeline.execute()).await };
        let report = block_on(running).unwrap();
        let (rejected, good): (Vec<_>, Vec<_>) = (0..count as i64).partition(|&n| is_bad(n as u64));
        if good.is_empty() && !rejected.is_empty() {
            // Nothing takes the place of what was there.
            prop_assert!(report.unwrap_err().message().contains("the target stays as it is"));
            prop_assert_eq!(kept(&quarantine), rejected);
            return Ok(());
        }
        let report = report.unwrap();
        prop_assert_eq!(numbers(&target), good);
        prop_assert_eq!(report.rows_rejected, rejected.len() as u64);
        if !rejected.is_empty() {
            prop_assert_eq!(kept(&quarantine), rejected);
        }
    }
}
