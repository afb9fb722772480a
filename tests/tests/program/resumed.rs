//! Runs that are stopped and begun again, against a source that counts what is read of it.

use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use etlrs::{
    CsvLoader, CsvWriteOptions, Deduplicate, Error, ErrorKind, Expr, Filter, FilterTransformer, JsonLoader, LoadMode,
    Loader, ParquetLoader, Pipeline, PipelineBuilder, Result, Resume, RunReport, SqliteLoader,
};
use etlrs_core::{
    BatchStream, Checksum, Extractor, Fingerprint, Interrupted, LoadCapabilities, LoadPlan, LoadPreview, LoadSession,
    Partition, PartitionId, Record, RunContext, RunId, Scan, ScanRequest, SchemaRef, Tally, async_trait,
    batches_from_iter, record_batch,
};

use etlrs_tests::{KILL_AT, Ran, etlrs};

use super::{PROGRAM, run_line, works, write};

const PIECES: u32 = 6;
const ROWS: i64 = 500;
/// A version of the source that has no longer the pieces that it had.
const GONE: u32 = 99;

/// Numbers from 0 on, in pieces, one of which may fail.
#[derive(Clone, Default)]
struct Source(Arc<State>);

#[derive(Default)]
struct State {
    /// The piece that fails, counted from 1.
    fails: AtomicU32,
    version: AtomicU32,
    read: Mutex<Vec<u32>>,
    partitions: Mutex<Vec<Partition>>,
}

impl Source {
    fn fail_at(&self, piece: u32) {
        self.0.fails.store(piece, Ordering::Relaxed);
    }

    /// The pieces that were read since this was last called.
    fn read(&self) -> Vec<u32> {
        let mut read = std::mem::take(&mut *self.0.read.lock().unwrap());
        read.sort_unstable();
        read
    }
}

#[async_trait]
impl Extractor for Source {
    async fn scan(&self, _: &RunContext, request: &ScanRequest) -> Result<Arc<dyn Scan>> {
        if request.recorded.is_some() && self.0.version.load(Ordering::Relaxed) == GONE {
            return Err(Error::new(ErrorKind::Internal, "there are no such pieces"));
        }
        let pieces = (0..PIECES as usize).map(|index| Partition::new(index, format!("piece {index}")));
        let partitions = request.recorded.clone().unwrap_or_else(|| pieces.collect());
        *self.0.partitions.lock().unwrap() = partitions.clone();
        Ok(Arc::new(Look { source: self.clone(), partitions }))
    }
}

struct Look {
    source: Source,
    partitions: Vec<Partition>,
}

#[async_trait]
impl Scan for Look {
    fn schema(&self) -> SchemaRef {
        record_batch([("n", vec![Some(0)])]).schema()
    }

    fn partitions(&self) -> &[Partition] {
        &self.partitions
    }

    async fn fingerprint(&self) -> Result<Fingerprint> {
        Ok(Fingerprint::new(self.source.0.version.load(Ordering::Relaxed).to_string()))
    }

    fn identity(&self) -> Option<String> {
        Some("numbers".to_owned())
    }

    fn read(&self, _: &RunContext, partition: &Partition) -> Result<BatchStream> {
        let State { fails, read, .. } = &*self.source.0;
        read.lock().unwrap().push(partition.id.0);
        let first = i64::from(partition.id.0) * ROWS;
        let rows = record_batch([("n", (first..first + ROWS).map(Some).collect())]);
        let fault = (fails.load(Ordering::Relaxed) == partition.id.0 + 1)
            .then(|| Err(Error::new(ErrorKind::Io, "the disk is gone")));
        Ok(batches_from_iter(std::iter::once(Ok(rows)).chain(fault)))
    }
}

/// Every kind of local target.
fn targets(folder: &Path) -> Vec<(&'static str, Arc<dyn Loader>)> {
    let at = |name: &str| folder.join(name);
    vec![
        ("CSV", Arc::new(CsvLoader::new(at("a.csv")))),
        ("compressed CSV", Arc::new(CsvLoader::new(at("b.csv.gz")))),
        ("CSV directory", Arc::new(CsvLoader::directory(at("c.csv")))),
        ("lines of JSON", Arc::new(JsonLoader::new(at("d.ndjson")))),
        ("a list of JSON", Arc::new(JsonLoader::new(at("e.json")))),
        ("JSON directory", Arc::new(JsonLoader::directory(at("f.ndjson")))),
        ("Parquet", Arc::new(ParquetLoader::new(at("g.parquet")))),
        ("Parquet directory", Arc::new(ParquetLoader::directory(at("h.parquet")))),
        ("SQLite", Arc::new(SqliteLoader::new(at("i.db"), "t"))),
    ]
}

fn pipeline(source: &Source, loader: &Arc<dyn Loader>, mode: LoadMode) -> PipelineBuilder {
    let config = etlrs::PerformanceConfig::default().with_max_threads(1_usize);
    PipelineBuilder::new().extract(source.clone()).load_into(loader.clone()).mode(mode).config(config)
}

fn execute(builder: &PipelineBuilder) -> Result<RunReport> {
    let pipeline: Pipeline = builder.clone().build().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(pipeline.execute())
}

/// Fails in the fifth piece, with four that are staged.
fn stopped(source: &Source, builder: &PipelineBuilder) {
    source.fail_at(5);
    let error = execute(builder).unwrap_err();
    assert!(error.to_string().ends_with("4 of 6 pieces are kept; run the same again to go on from there"), "{error}");
    source.fail_at(0);
    assert_eq!(source.read(), [0, 1, 2, 3, 4]);
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// What a load that nobody stops makes of the same source.
fn undisturbed(index: usize, modes: &[LoadMode]) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let (_, loader) = targets(folder.path()).swap_remove(index);
    for mode in modes {
        execute(&pipeline(&Source::default(), &loader, *mode)).unwrap();
    }
    content(folder.path())
}

/// The bytes of the one target in a folder: of a directory those of its parts, of a database its rows.
fn content(folder: &Path) -> Vec<u8> {
    let names = names(folder);
    assert_eq!(names.len(), 1, "{names:?}");
    let path = folder.join(&names[0]);
    if names[0].ends_with(".db") {
        let database = rusqlite::Connection::open(path).unwrap();
        let text = "SELECT group_concat(n) || count(*) || (SELECT group_concat(name) FROM sqlite_master) FROM t";
        return database.query_row(text, [], |row| row.get::<_, String>(0)).unwrap().into_bytes();
    }
    if !path.is_dir() {
        return std::fs::read(path).unwrap();
    }
    let mut parts: Vec<_> = self::names(&path).into_iter().filter(|name| name.starts_with("part-")).collect();
    // By their numbers: two loads of one test may have their ids in any order.
    parts.sort();
    parts.iter().flat_map(|name| std::fs::read(path.join(name)).unwrap()).collect()
}

#[test]
fn a_run_goes_on_behind_what_it_had_staged_and_makes_the_same_target() {
    let kinds = targets(Path::new("/nowhere")).len();
    for index in 0..kinds {
        for mode in [LoadMode::Create, LoadMode::Append, LoadMode::Replace] {
            let folder = tempfile::tempdir().unwrap();
            let (name, loader) = targets(folder.path()).swap_remove(index);
            if name == "a list of JSON" && mode == LoadMode::Append {
                continue;
            }
            let what = format!("{name}, {mode}");
            let source = Source::default();
            let builder = pipeline(&source, &loader, mode);
            let first = if mode == LoadMode::Create { vec![] } else { vec![LoadMode::Create] };
            for mode in &first {
                execute(&pipeline(&source, &loader, *mode)).unwrap();
                source.read();
            }
            stopped(&source, &builder);
            let report = execute(&builder).unwrap_or_else(|error| panic!("{what}: {error}"));
            assert_eq!(source.read(), [4, 5], "{what}");
            let resumed = report.resumed.unwrap_or_else(|| panic!("{what}: it began anew"));
            assert_eq!((resumed.partitions, resumed.rows, resumed.published), (4, 4 * ROWS as u64, false), "{what}");
            assert_eq!((report.rows_read, report.load.records_loaded), (3000, 3000), "{what}");
            let modes = [&first[..], &[mode]].concat();
            assert!(content(folder.path()) == undisturbed(index, &modes), "{what}: the target is another");
            // It is over, so the next one is another.
            if mode == LoadMode::Append {
                assert_eq!(execute(&builder).unwrap().resumed, None, "{what}");
            }
        }
    }
}

#[test]
fn what_is_not_the_same_begins_anew_and_says_why() {
    let changed = |source: &Source| _ = source.0.version.fetch_add(1, Ordering::Relaxed);
    let keep = || FilterTransformer::new(|record: Record<'_>| Ok(record.i64("n")? != Some(7)));
    let filter = || Filter::new(Expr::parse("n > 1").unwrap());
    let folder = || tempfile::tempdir().unwrap();
    for (index, (name, _)) in targets(Path::new("/nowhere")).into_iter().enumerate() {
        let anew = |before: &dyn Fn(PipelineBuilder) -> PipelineBuilder,
                    after: &dyn Fn(PipelineBuilder) -> PipelineBuilder,
                    between: &dyn Fn(&Source),
                    note: Option<&str>| {
            let folder = folder();
            let (_, loader) = targets(folder.path()).swap_remove(index);
            let source = Source::default();
            let builder = pipeline(&source, &loader, LoadMode::Replace);
            source.fail_at(5);
            execute(&before(builder.clone())).unwrap_err();
            source.fail_at(0);
            source.read();
            between(&source);
            let report = execute(&after(builder)).unwrap();
            assert_eq!((source.read(), report.resumed), ((0..6).collect(), None), "{name} {note:?}");
            let told = report.notes.join("; ");
            assert!(note.is_none_or(|note| told.contains(note)), "{name}: {told}");
            assert_eq!(names(folder.path()).len(), 1, "{name} {note:?}");
        };
        let same = |builder: PipelineBuilder| builder;
        anew(&same, &same, &changed, Some("the source has changed since"));
        anew(&same, &same, &|source| source.0.version.store(GONE, Ordering::Relaxed), Some("there are no such pieces"));
        anew(
            &|builder| builder.transform(filter()).identity("1"),
            &|builder| builder.transform(filter()).identity("2"),
            &|_| {},
            Some("what is done with the rows is not the same"),
        );
        anew(&same, &|builder| builder.resume(Resume::Never), &|_| {}, None);
        // Nobody can tell what a function does, and what other pieces had is gone.
        anew(&|builder| builder.transform(keep()), &|builder| builder.transform(keep()), &|_| {}, None);
        let once = |builder: PipelineBuilder| builder.transform(Deduplicate::by(["n"])).identity("1");
        anew(&once, &once, &|_| {}, None);
    }
}

#[test]
fn a_run_that_is_asked_for_goes_on_or_says_why_it_cannot() {
    for (index, (name, _)) in targets(Path::new("/nowhere")).into_iter().enumerate() {
        let folder = tempfile::tempdir().unwrap();
        let (_, loader) = targets(folder.path()).swap_remove(index);
        let source = Source::default();
        let builder = pipeline(&source, &loader, LoadMode::Replace);
        stopped(&source, &builder);
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let cx = RunContext::new(etlrs::PerformanceConfig::default());
        let left = runtime.block_on(loader.interrupted(&cx)).unwrap().unwrap();
        assert_eq!((left.receipts.len(), left.published), (4, false), "{name}");
        let this = builder.clone().resume(Resume::Run(left.run));

        source.0.version.fetch_add(1, Ordering::Relaxed);
        let error = execute(&this).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::SourceChanged, "{name}");
        assert!(error.to_string().contains("cannot go on: the source has changed since"), "{name}: {error}");
        source.0.version.store(0, Ordering::Relaxed);
        let report = execute(&this).unwrap();
        assert_eq!((report.run, report.resumed.map(|resumed| resumed.partitions)), (left.run, Some(4)), "{name}");
        let error = execute(&this).unwrap_err();
        assert!(error.to_string().contains("it was completed or removed"), "{name}: {error}");
    }
}

#[test]
fn what_was_published_and_not_told_is_not_published_again() {
    for (index, (name, _)) in targets(Path::new("/nowhere")).into_iter().enumerate() {
        let folder = tempfile::tempdir().unwrap();
        let (_, loader) = targets(folder.path()).swap_remove(index);
        let source = Source::default();
        let mode = if name == "a list of JSON" { LoadMode::Replace } else { LoadMode::Append };
        let builder = pipeline(&source, &loader, mode);
        let first = execute(&builder.clone().acknowledge_later()).unwrap();
        source.read();
        // Its process would die here.
        let again = execute(&builder).unwrap();
        assert_eq!((source.read(), again.run), (vec![], first.run), "{name}");
        assert!(again.resumed.is_some_and(|resumed| resumed.published && resumed.rows == 3000), "{name}");
        assert_eq!((again.load.records_loaded, again.source_checksum), (3000, first.source_checksum), "{name}");
        assert!(content(folder.path()) == undisturbed(index, &[mode]), "{name}");
        // Now it is told, and the next one is another.
        assert_eq!(execute(&builder).unwrap().resumed, None, "{name}");
        assert_eq!(source.read().len(), 6, "{name}");
    }
}

#[test]
fn what_was_published_and_changed_since_is_not_published_again() {
    for (index, (name, _)) in targets(Path::new("/nowhere")).into_iter().enumerate() {
        if !["CSV", "lines of JSON"].contains(&name) {
            continue;
        }
        for is_replaced in [false, true] {
            let folder = tempfile::tempdir().unwrap();
            let (_, loader) = targets(folder.path()).swap_remove(index);
            let source = Source::default();
            let builder = pipeline(&source, &loader, LoadMode::Append);
            execute(&builder.clone().acknowledge_later()).unwrap();
            let target = names(folder.path()).into_iter().find(|name| !name.starts_with('.')).unwrap();
            let target = folder.path().join(target);
            // As an editor, or a shell, writes there.
            let text = format!("{}7777\n", std::fs::read_to_string(&target).unwrap());
            if is_replaced {
                std::fs::remove_file(&target).unwrap();
            }
            std::fs::write(&target, &text).unwrap();
            source.read();
            let again = execute(&builder).unwrap();
            assert!(again.resumed.is_some_and(|resumed| resumed.published), "{name}, {is_replaced}");
            assert!(source.read().is_empty(), "{name}");
            assert_eq!(std::fs::read_to_string(&target).unwrap(), text, "{name}");
        }
    }
}

/// Whoever removes what was loaded wants it loaded again.
#[test]
fn what_was_published_and_removed_since_is_loaded_again() {
    for (index, (name, _)) in targets(Path::new("/nowhere")).into_iter().enumerate() {
        let folder = tempfile::tempdir().unwrap();
        let (_, loader) = targets(folder.path()).swap_remove(index);
        let source = Source::default();
        let builder = pipeline(&source, &loader, LoadMode::Create);
        execute(&builder.clone().acknowledge_later()).unwrap();
        let target = names(folder.path()).into_iter().find(|name| !name.starts_with('.')).unwrap();
        let target = folder.path().join(target);
        match name {
            "SQLite" => rusqlite::Connection::open(target).unwrap().execute_batch("DROP TABLE t").unwrap(),
            _ if target.is_dir() => std::fs::remove_dir_all(target).unwrap(),
            _ => std::fs::remove_file(target).unwrap(),
        }
        source.read();
        let report = execute(&builder).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(
            (report.resumed.is_some_and(|resumed| resumed.published), source.read().len()),
            (false, 6),
            "{name}"
        );
        assert!(content(folder.path()) == undisturbed(index, &[LoadMode::Create]), "{name}");
    }
}

/// What is taken over may have gaps, where the quarantine has not what the target has.
#[test]
fn a_merge_takes_the_last_row_of_a_key_though_an_earlier_piece_is_staged_again() {
    let folder = tempfile::tempdir().unwrap();
    let loader = SqliteLoader::new(folder.path().join("t.db"), "t");
    let batch = |value: u32| record_batch([("k", vec![Some(1)]), ("v", vec![Some(i64::from(value))])]);
    let pieces: Vec<_> = (0..4).map(|id| Partition::new(id, format!("piece {id}"))).collect();
    let mut plan = LoadPlan::new(batch(0).schema(), LoadMode::Merge, pieces.clone());
    plan.keys = vec!["k".to_owned()];
    plan.record = Some(Arc::from("the same"));
    let cx = RunContext::new(etlrs::PerformanceConfig::default());
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let stage = async |session: &dyn LoadSession, piece: &Partition| {
            let batch = batch(piece.id.0);
            let tally = Tally { checksum: Checksum::of_batch(&batch).unwrap(), rows_read: 1 };
            let mut writer = session.writer(&cx, piece, 0).await.unwrap();
            writer.write(batch).await.unwrap();
            writer.seal(tally);
            writer.finish().await.unwrap()
        };
        let session = loader.begin(&cx, plan.clone()).await.unwrap();
        for piece in &pieces {
            stage(&*session, piece).await;
        }
        assert_eq!(session.suspend().await.unwrap(), 4);
        plan.goes_on = true;
        plan.take_over = Some([0, 2, 3].map(PartitionId).to_vec());
        let session = loader.begin(&cx, plan).await.unwrap();
        let mut receipts = session.completed().to_vec();
        let is_staged = |piece: &&Partition| session.completed().iter().any(|receipt| receipt.partition == piece.id);
        let others: Vec<_> = pieces.iter().filter(|piece| !is_staged(piece)).collect();
        assert!(!receipts.is_empty() && !others.is_empty());
        for piece in others {
            receipts.push(stage(&*session, piece).await);
        }
        session.commit(receipts).await.unwrap();
    });
    let connection = rusqlite::Connection::open(folder.path().join("t.db")).unwrap();
    let value: i64 = connection.query_row("SELECT v FROM t", [], |row| row.get(0)).unwrap();
    assert_eq!(value, 3);
}

/// A loader whose run is gone on with by another process, just after it was looked at.
struct Overtaken {
    loader: Arc<dyn Loader>,
    other: Mutex<Option<PipelineBuilder>>,
}

#[async_trait]
impl Loader for Overtaken {
    fn capabilities(&self) -> LoadCapabilities {
        self.loader.capabilities()
    }

    fn identity(&self) -> String {
        self.loader.identity()
    }

    async fn check(&self, cx: &RunContext, plan: &LoadPlan) -> Result<LoadPreview> {
        self.loader.check(cx, plan).await
    }

    async fn begin(&self, cx: &RunContext, plan: LoadPlan) -> Result<Box<dyn LoadSession>> {
        self.loader.begin(cx, plan).await
    }

    async fn interrupted(&self, cx: &RunContext) -> Result<Option<Interrupted>> {
        let left = self.loader.interrupted(cx).await;
        let other = self.other.lock().unwrap().take();
        if let Some(other) = other {
            std::thread::spawn(move || execute(&other).unwrap()).join().unwrap();
        }
        left
    }

    async fn forget(&self, cx: &RunContext, run: RunId) -> Result<Option<Interrupted>> {
        self.loader.forget(cx, run).await
    }
}

#[test]
fn a_run_that_another_process_went_on_with_is_not_loaded_twice() {
    for (index, (name, _)) in targets(Path::new("/nowhere")).into_iter().enumerate() {
        for is_told in [false, true] {
            let folder = tempfile::tempdir().unwrap();
            let (_, loader) = targets(folder.path()).swap_remove(index);
            let mode = if name == "a list of JSON" { LoadMode::Replace } else { LoadMode::Append };
            let source = Source::default();
            let builder = pipeline(&source, &loader, mode);
            stopped(&source, &builder);
            let other = if is_told { builder.clone() } else { builder.clone().acknowledge_later() };
            let late: Arc<dyn Loader> = Arc::new(Overtaken { loader, other: Mutex::new(Some(other)) });
            let done = execute(&pipeline(&source, &late, mode));
            assert_eq!(source.read(), [4, 5], "{name}: by the other");
            match done {
                Ok(report) if !is_told => assert!(report.resumed.is_some_and(|resumed| resumed.published), "{name}"),
                Err(error) if is_told => {
                    assert!(error.to_string().contains("another process went on with the run"), "{name}: {error}");
                }
                other => panic!("{name}, told: {is_told}: {other:?}"),
            }
            assert!(content(folder.path()) == undisturbed(index, &[mode]), "{name}");
        }
    }
}

#[test]
fn a_load_with_other_options_of_its_target_begins_anew() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.csv");
    let source = Source::default();
    let loader = |delimiter: u8| -> Arc<dyn Loader> {
        Arc::new(CsvLoader::new(&path).with_options(CsvWriteOptions::default().with_delimiter(delimiter)))
    };
    stopped(&source, &pipeline(&source, &loader(b','), LoadMode::Create));
    let report = execute(&pipeline(&source, &loader(b';'), LoadMode::Create)).unwrap();
    assert_eq!((report.resumed, source.read().len()), (None, 6));
    assert!(report.notes.join("; ").contains("what is done with the rows is not the same"), "{:?}", report.notes);
}

/// The first is not loaded once more when the second is mended, and the other way round.
#[test]
fn of_two_targets_the_one_that_is_published_counts_as_done_until_both_are() {
    for mode in ["create", "append"] {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        let file = |sql: &str| {
            format!(
                "[source]\nuri = 'a.csv'\n[[target]]\nuri = 'b.csv'\nmode = '{mode}'\n[[target]]\nuri = 'sqlite:c.db#t'\n\
                 mode = '{mode}'\noptions = {{ post_sql = '{sql}' }}\n"
            )
        };
        write(folder, &[("a.csv", b"n\n1\n2\n"), ("p.toml", file("SELECT * FROM nowhere").as_bytes())]);
        let ran = run_line(folder, "run p.toml");
        assert!(ran.code == 1 && ran.stderr.contains("nowhere; that is the option post_sql"), "{ran:?}");
        write(folder, &[("p.toml", file("SELECT 1").as_bytes())]);
        let ran = works(folder, "run p.toml");
        assert_eq!(ran.stdout.matches("had published 2 rows, and nothing was left to do").count(), 1, "{ran:?}");
        assert_eq!(std::fs::read_to_string(folder.join("b.csv")).unwrap(), "n\n1\n2\n");
        assert_eq!(names(folder), ["a.csv", "b.csv", "c.db", "p.toml"]);
        if mode == "append" {
            works(folder, "run p.toml");
            assert_eq!(std::fs::read_to_string(folder.join("b.csv")).unwrap(), "n\n1\n2\n1\n2\n");
        }
    }
}

#[test]
fn a_staged_file_that_was_damaged_is_staged_again() {
    for (index, (name, _)) in targets(Path::new("/nowhere")).into_iter().enumerate() {
        if name == "SQLite" {
            continue;
        }
        let folder = tempfile::tempdir().unwrap();
        let (_, loader) = targets(folder.path()).swap_remove(index);
        let source = Source::default();
        let builder = pipeline(&source, &loader, LoadMode::Create);
        stopped(&source, &builder);
        let staged = names(folder.path()).into_iter().find(|name| name.ends_with(".tmp")).unwrap();
        let staged = folder.path().join(staged);
        // Within the rows of the third piece.
        let (damaged, at) = match staged.is_dir() {
            true => (staged.join(&names(&staged)[2]), 0.5),
            false => (staged, 0.625),
        };
        let mut bytes = std::fs::read(&damaged).unwrap();
        let at = (bytes.len() as f64 * at) as usize;
        bytes[at] ^= 1;
        std::fs::write(&damaged, bytes).unwrap();
        execute(&builder).unwrap();
        let expected: &[u32] = if name.ends_with("directory") { &[2, 4, 5] } else { &[2, 3, 4, 5] };
        assert_eq!(source.read(), expected, "{name}");
        assert!(content(folder.path()) == undisturbed(index, &[LoadMode::Create]), "{name}");
    }
}

/// Rows depend on those of other pieces, so nothing is gone on with; but what was published is known.
#[test]
fn what_was_published_through_deduplicate_is_not_loaded_again() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    std::fs::write(folder.join("s.csv"), "id\n1\n2\n2\n").unwrap();
    let text = "[source]\nuri = \"s.csv\"\n[[transform]]\ntype = \"deduplicate\"\nkeys = [\"id\"]\n
        [[target]]\nuri = \"a.csv\"\nmode = \"append\"\n[[target]]\nuri = \"sqlite:b.db#t\"\nmode = \"append\"\n";
    std::fs::write(folder.join("p.toml"), text).unwrap();
    let run = |kill_at: Option<&str>| {
        let mut command = etlrs(PROGRAM, folder, &["run", "p.toml", "--no-progress"]);
        command.envs(kill_at.map(|point| (KILL_AT, point)));
        Ran::of(&command.output().unwrap())
    };
    let lines = || std::fs::read_to_string(folder.join("a.csv")).unwrap().lines().count();
    // In the second load, when the first one has been published.
    for kill_at in ["run-begun:2", "run-published:2", "run-staged:2"] {
        assert_eq!(run(Some(kill_at)).code, -9, "{kill_at}");
        let before = lines();
        let ran = run(None);
        assert_eq!(ran.code, 0, "{kill_at}: {ran:?}");
        assert_eq!(lines(), before, "{kill_at}: {ran:?}");
    }
    assert_eq!(lines(), 1 + 3 * 2);
    let connection = rusqlite::Connection::open(folder.join("b.db")).unwrap();
    let rows: i64 = connection.query_row("SELECT count(*) FROM t", [], |row| row.get(0)).unwrap();
    assert_eq!(rows, 3 * 2);
}
