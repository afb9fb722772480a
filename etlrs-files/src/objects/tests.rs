//! Object stores as one in memory; the tests of the whole have a server.

use std::io::{Read, Write};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use async_trait::async_trait;
use etlrs_core::{LoadMode, PerformanceConfig, RunContext, RunId};
use futures_util::stream::BoxStream;
use object_store::memory::InMemory;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, PutMode, PutMultipartOptions, PutOptions,
    PutPayload, PutResult,
};

use super::error::in_short;
use super::*;
use crate::{InputFile, ManifestFile, Parts, Staging, data_files, fingerprint, source_files};

/// A store in memory that can be told to misbehave.
#[derive(Default)]
struct Store {
    objects: InMemory,
    /// Seconds by which listed objects are older than they are.
    age: AtomicU64,
    /// Seconds by which the clock of the store is behind.
    behind: AtomicU64,
    /// Listings of a directory begin with an object of its name, as those of a folder that a console made do.
    lists_marks: AtomicBool,
    /// Replacing an object that is to be a certain version fails, and nothing is done.
    refuses_updates: AtomicBool,
    /// The same, but no answer tells.
    loses_updates: AtomicBool,
    /// Called once an object was replaced, whose answer is then lost; the second try finds another version.
    after_update: Mutex<Option<Box<dyn FnOnce() + Send>>>,
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a store of a test")
    }
}

impl Store {
    fn mark(&self, directory: Option<&Key>) -> Option<ObjectMeta> {
        let location = directory.filter(|_| self.lists_marks.load(Ordering::Relaxed))?.clone();
        let last_modified = std::time::SystemTime::now().into();
        Some(ObjectMeta { location, last_modified, size: 0, e_tag: None, version: None })
    }
}

fn lost<T>() -> object_store::Result<T> {
    Err(object_store::Error::Generic { store: "test", source: "the connection was lost".into() })
}

#[async_trait]
impl ObjectStore for Store {
    async fn put_opts(&self, key: &Key, payload: PutPayload, options: PutOptions) -> object_store::Result<PutResult> {
        if let PutMode::Update(_) = &options.mode {
            if self.loses_updates.load(Ordering::Relaxed) {
                return lost();
            }
            if self.refuses_updates.load(Ordering::Relaxed) {
                return Err(object_store::Error::Precondition { path: key.to_string(), source: "another".into() });
            }
            let after = self.after_update.lock().unwrap().take();
            if let Some(after) = after {
                self.objects.put_opts(key, payload.clone(), options.clone()).await?;
                // It may publish something, and waits for that.
                std::thread::spawn(after).join().unwrap();
            }
        }
        self.objects.put_opts(key, payload, options).await
    }

    async fn put_multipart_opts(
        &self,
        key: &Key,
        options: PutMultipartOptions,
    ) -> object_store::Result<Box<dyn MultipartUpload>> {
        self.objects.put_multipart_opts(key, options).await
    }

    async fn get_opts(&self, key: &Key, options: GetOptions) -> object_store::Result<GetResult> {
        let mut found = self.objects.get_opts(key, options).await?;
        found.meta.last_modified -= Duration::from_secs(self.behind.load(Ordering::Relaxed));
        Ok(found)
    }

    fn delete_stream(
        &self,
        keys: BoxStream<'static, object_store::Result<Key>>,
    ) -> BoxStream<'static, object_store::Result<Key>> {
        self.objects.delete_stream(keys)
    }

    fn list(&self, prefix: Option<&Key>) -> BoxStream<'static, object_store::Result<ObjectMeta>> {
        let marks = futures_util::stream::iter(self.mark(prefix).map(Ok));
        Box::pin(marks.chain(self.objects.list(prefix)))
    }

    async fn list_with_delimiter(&self, prefix: Option<&Key>) -> object_store::Result<ListResult> {
        let mut listed = self.objects.list_with_delimiter(prefix).await?;
        listed.objects.extend(self.mark(prefix));
        for found in &mut listed.objects {
            let seconds = self.age.load(Ordering::Relaxed) + self.behind.load(Ordering::Relaxed);
            found.last_modified -= Duration::from_secs(seconds);
        }
        Ok(listed)
    }

    async fn copy_opts(&self, from: &Key, to: &Key, options: CopyOptions) -> object_store::Result<()> {
        self.objects.copy_opts(from, to, options).await
    }
}

/// A bucket that is there as long as this is.
struct Fixture {
    bucket: Arc<Bucket>,
    store: Arc<Store>,
    cx: RunContext,
}

impl Fixture {
    fn new(name: &str) -> Self {
        let name = format!("s3://{name}");
        let store = Arc::new(Store::default());
        let bucket = Arc::new(Bucket { name: name.clone(), store: store.clone() });
        BUCKETS.lock().unwrap().get_or_insert_default().insert(name, Arc::downgrade(&bucket));
        let memory = PerformanceConfig { max_memory_usage: 64 << 20, ..PerformanceConfig::default() };
        Self { bucket, store, cx: RunContext::new(memory) }
    }

    fn path(&self, key: &str) -> PathBuf {
        PathBuf::from(format!("{}/{key}", self.bucket.name))
    }

    fn address(&self, key: &str) -> Address {
        Address::of(&self.path(key)).unwrap().unwrap()
    }

    fn put(&self, key: &str, text: &[u8]) {
        let (address, text) = (self.address(key), text.to_vec());
        requests(self.cx.cancel(), async move { Ok(address.store().put(&address.key, text.into()).await.unwrap()) })
            .unwrap();
    }

    fn get(&self, key: &str) -> Option<Vec<u8>> {
        self.address(key).read(self.cx.cancel()).unwrap().map(|(text, _)| text)
    }

    fn remove(&self, key: &str) {
        let address = self.address(key);
        let delete =
            async move { address.store().delete(&address.key).await.map_err(|error| address.failed("remove")(error)) };
        requests(self.cx.cancel(), delete).unwrap();
    }

    fn names(&self, directory: &str) -> Vec<String> {
        let found = self.address(directory).list(self.cx.cancel()).unwrap().into_iter();
        found.map(|found| found.path.file_name().unwrap().to_str().unwrap().to_owned()).collect()
    }

    /// Writes one object through a staging area, up to its publication.
    fn staged(&self, key: &str, mode: LoadMode, text: &[u8]) -> Result<Staging> {
        let staging = Staging::file(&self.path(key), mode, &self.cx)?;
        let mut file = staging.create(None)?;
        file.write_all(text).unwrap();
        assert_eq!(staging.finish(None, file)?, text.len() as u64);
        Ok(staging)
    }

    /// A load of one part into a directory, up to its publication.
    fn load(&self, key: &str, mode: LoadMode, run: RunId, text: &str) -> Result<Arc<Staging>> {
        let staging = Arc::new(Staging::directory(&self.path(key), mode, &self.cx)?);
        let old = match mode {
            LoadMode::Append => {
                Manifest::read(&self.path(key), self.cx.cancel())?.map_or(Vec::new(), |found| found.files)
            }
            _ => Vec::new(),
        };
        // As loaders look.
        if staging.target_exists() {
            data_files(&self.path(key), &["csv"], self.cx.cancel())?;
        }
        let parts = Parts::new(staging.clone(), run, "csv", old.into_iter().map(Some).collect())?;
        let partition = etlrs_core::PartitionId(0);
        let mut file = parts.create(partition)?;
        file.write_all(text.as_bytes()).unwrap();
        parts.finish(partition, file, 1)?;
        parts.close(Ok)?;
        Ok(staging)
    }

    /// The texts of a directory, as its readers see them.
    fn texts(&self, key: &str) -> Vec<String> {
        let files = source_files(&self.path(key), &["csv"], self.cx.cancel()).unwrap();
        let text = |file: &PathBuf| {
            let mut text = String::new();
            InputFile::open(file, self.cx.cancel()).unwrap().stream(3).read_to_string(&mut text).unwrap();
            text
        };
        files.iter().map(text).collect()
    }
}

use crate::Manifest;

#[test]
fn urls_name_buckets_and_keys() {
    let fixture = Fixture::new("urls");
    assert!(Address::of(Path::new("dir/a.csv")).unwrap().is_none());
    assert!(Address::of(Path::new("s3:a.csv")).unwrap().is_none());
    assert_eq!(fixture.address("a b/c%41#d.csv").key.as_ref(), "a b/c%41#d.csv");
    assert_eq!(fixture.address("dir/").key.as_ref(), "dir");
    for (url, words) in
        [("s3://", "names no bucket"), ("s3:///key", "names no bucket"), ("s3://b/a/../c", "the name is wrong")]
    {
        let error = Address::of(Path::new(url)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidConfig);
        assert!(error.to_string().contains(words), "{error}");
    }
}

#[test]
fn any_place_is_read_as_it_is() {
    let fixture = Fixture::new("places");
    let text: Vec<u8> = (0..200_000_u32).flat_map(|n| (n as u16).to_le_bytes()).collect();
    fixture.put("a", &text);
    let file = InputFile::open(&fixture.path("a"), fixture.cx.cancel()).unwrap();
    assert_eq!(file.length(), text.len() as u64);
    for (offset, length) in
        [(0, 6), (3, 100), (399_992, 8), (399_000, 1000), (50, 70_000), (390_000, 9_000), (0, 400_000)]
    {
        let mut buffer = vec![0; length];
        file.read_exact_at(&mut buffer, offset as u64).unwrap();
        assert_eq!(buffer, text[offset..offset + length], "{offset} {length}");
    }
    assert_eq!(file.read_at(&mut [0; 5], 400_000).unwrap(), 0);
    let error = file.read_exact_at(&mut [0; 5], 399_998).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::UnexpectedEof);
    for block in [1 << 20, 100_000, 4096, 777] {
        let mut read = Vec::new();
        file.stream(block).read_to_end(&mut read).unwrap();
        assert_eq!(read, text);
        // Forward, with a step back and a leap.
        let mut reader = file.reader(1000..300_000, block);
        for (offset, length) in [(1000, 10), (1010, 5000), (1005, 10), (250_000, 50_000)] {
            let mut buffer = vec![0; length];
            reader.read_exact_at(&mut buffer, offset as u64).unwrap();
            assert_eq!(buffer, text[offset..offset + length], "{offset} {length} by {block}");
        }
        assert_eq!(reader.read_at(&mut [0; 5], 300_000).unwrap(), 0);
    }
}

#[test]
fn an_object_that_is_replaced_while_it_is_read_is_an_error() {
    let fixture = Fixture::new("replaced");
    fixture.put("a", &[b'x'; 200_000]);
    let before = fingerprint(&[fixture.path("a")], fixture.cx.cancel()).unwrap();
    let file = InputFile::open(&fixture.path("a"), fixture.cx.cancel()).unwrap();
    file.read_exact_at(&mut [0; 10], 0).unwrap();
    fixture.put("a", &[b'y'; 200_000]);
    let error = file.read_exact_at(&mut [0; 10], 150_000).unwrap_err();
    let error = crate::reading(&fixture.path("a"), error);
    assert_eq!(error.kind(), ErrorKind::SourceChanged, "{error}");
    assert_ne!(fingerprint(&[fixture.path("a")], fixture.cx.cancel()).unwrap(), before);
}

#[test]
fn an_object_appears_when_it_is_published() {
    let fixture = Fixture::new("objects");
    // Of one request, and of several parts.
    for (key, size) in [("small", 10), ("large", 12 << 20)] {
        let (old, new) = (vec![b'o'; size], vec![b'n'; size]);
        drop(fixture.staged(key, LoadMode::Create, &old).unwrap());
        assert_eq!(fixture.get(key), None);
        fixture.staged(key, LoadMode::Create, &old).unwrap().publish().unwrap();
        assert_eq!(fixture.get(key).as_ref(), Some(&old));
        let error = fixture.staged(key, LoadMode::Create, &new).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AlreadyExists);
        let staging = fixture.staged(key, LoadMode::Replace, &new).unwrap();
        assert_eq!(fixture.get(key), Some(old));
        staging.publish().unwrap();
        assert_eq!(fixture.get(key), Some(new));
    }
}

#[test]
fn create_refuses_an_object_that_appears_meanwhile() {
    let fixture = Fixture::new("appears");
    for (key, size) in [("small", 10), ("large", 12 << 20)] {
        let staging = fixture.staged(key, LoadMode::Create, &vec![b'm'; size]).unwrap();
        fixture.put(key, b"theirs");
        assert_eq!(staging.publish().unwrap_err().kind(), ErrorKind::AlreadyExists);
        assert_eq!(fixture.get(key).unwrap(), b"theirs");
    }
}

#[test]
fn a_directory_is_what_its_manifest_says() {
    let fixture = Fixture::new("directories");
    let load = |mode, text: &str| fixture.load("d", mode, RunId::generate(), text);
    load(LoadMode::Create, "one").unwrap().publish().unwrap();
    assert_eq!(load(LoadMode::Create, "x").unwrap_err().kind(), ErrorKind::AlreadyExists);
    let staging = load(LoadMode::Append, "two").unwrap();
    assert_eq!(fixture.texts("d/"), ["one"]);
    staging.publish().unwrap();
    assert_eq!(fixture.texts("d/"), ["one", "two"]);
    drop(load(LoadMode::Replace, "given up").unwrap());
    assert_eq!(fixture.texts("d"), ["one", "two"]);
    load(LoadMode::Replace, "three").unwrap().publish().unwrap();
    assert_eq!(fixture.texts("d"), ["three"]);
    // What was replaced is gone.
    assert_eq!(fixture.names("d").len(), 2);
    // Something else in it would be lost.
    fixture.put("d/notes.txt", b"");
    let error = data_files(&fixture.path("d"), &["csv"], fixture.cx.cancel()).unwrap_err();
    assert!(error.to_string().contains("notes.txt"), "{error}");
}

#[test]
fn of_two_runs_into_one_directory_one_wins() {
    let fixture = Fixture::new("race");
    for mode in [LoadMode::Create, LoadMode::Append, LoadMode::Replace] {
        let load = |text: &str| fixture.load("d", mode, RunId::generate(), text).unwrap();
        let (first, second) = (load("first"), load("second"));
        second.publish().unwrap();
        let seen = fixture.texts("d");
        assert!(seen.contains(&"second".to_owned()));
        let error = first.publish().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Locked, "{error}");
        // What the loser had uploaded is gone, what the winner wrote is there.
        assert_eq!(fixture.texts("d"), seen);
        assert_eq!(fixture.names("d").len(), seen.len() + 1);
    }
}

#[test]
fn what_a_run_left_that_died_while_it_published_is_no_data_and_no_hindrance() {
    let fixture = Fixture::new("died");
    let load = |mode, text: &str| fixture.load("d", mode, RunId::generate(), text);
    let orphan = || fixture.put(&format!("d/part-{}-00000.csv", RunId::generate()), b"torn");
    // At the first publication there is a manifest of nothing.
    let nothing = Manifest::new("r", Vec::new());
    fixture.put(&format!("d/{}", Manifest::NAME), &nothing.to_json().unwrap());
    orphan();
    load(LoadMode::Create, "one").unwrap().publish().unwrap();
    assert_eq!(fixture.texts("d"), ["one"]);
    orphan();
    load(LoadMode::Append, "two").unwrap().publish().unwrap();
    assert_eq!(fixture.texts("d"), ["one", "two"]);
    load(LoadMode::Replace, "three").unwrap().publish().unwrap();
    assert_eq!(fixture.texts("d"), ["three"]);
    assert_eq!(fixture.names("d").len(), 2);
}

#[test]
fn a_directory_without_a_manifest_is_replaced_as_a_whole() {
    let fixture = Fixture::new("foreign");
    for name in ["a~1.csv", "b [2].csv"] {
        fixture.put(&format!("d/{name}"), b"old");
    }
    assert_eq!(fixture.texts("d"), ["old", "old"]);
    fixture.load("d", LoadMode::Replace, RunId::generate(), "new").unwrap().publish().unwrap();
    assert_eq!(fixture.texts("d"), ["new"]);
    assert_eq!(fixture.names("d").len(), 2);
}

#[test]
fn a_run_that_fails_when_it_publishes_leaves_the_directory_as_it_was() {
    let fixture = Fixture::new("fails");
    let cases = [(LoadMode::Create, 0), (LoadMode::Append, 2), (LoadMode::Replace, 2)];
    for (number, (mode, old)) in cases.into_iter().enumerate() {
        for loses in [false, true] {
            let key = format!("d-{number}-{loses}");
            for file in 0..old {
                fixture.put(&format!("{key}/{file}.csv"), b"old");
            }
            let before = fixture.names(&key);
            let cx = fixture.cx.cancel();
            let staging = Arc::new(Staging::directory(&fixture.path(&key), mode, &fixture.cx).unwrap());
            let listed =
                before.iter().map(|name| crate::listed(&fixture.path(&format!("{key}/{name}")), 1, cx).unwrap());
            let files = if mode == LoadMode::Append { listed.map(Some).collect() } else { Vec::new() };
            let parts = Parts::new(staging.clone(), RunId::generate(), "csv", files).unwrap();
            let mut file = parts.create(etlrs_core::PartitionId(0)).unwrap();
            file.write_all(b"new").unwrap();
            parts.finish(etlrs_core::PartitionId(0), file, 1).unwrap();
            parts.close(Ok).unwrap();
            let failing = if loses { &fixture.store.loses_updates } else { &fixture.store.refuses_updates };
            failing.store(true, Ordering::Relaxed);
            let error = staging.publish().unwrap_err();
            failing.store(false, Ordering::Relaxed);
            assert_eq!(error.kind(), if loses { ErrorKind::Connection } else { ErrorKind::Locked }, "{error}");
            assert_eq!(error.to_string().contains("not known"), loses, "{error}");
            // The new part is there if the manifest may yet come to name it, and no data before.
            let read = |expected: &[&str]| match source_files(&fixture.path(&key), &["csv"], cx) {
                Ok(_) => assert_eq!(fixture.texts(&key), expected, "{mode:?}, {loses}"),
                Err(error) => assert!(expected.is_empty() && error.kind() == ErrorKind::InvalidData, "{error}"),
            };
            read(&vec!["old"; old]);
            assert_eq!(fixture.names(&key).len(), old + 1 + usize::from(loses), "{mode:?}, {loses}");
            // What its usual writer adds is part of it, as before, and what is no data is in the way of replacing it.
            fixture.put(&format!("{key}/new.csv"), b"added");
            read(&[&vec!["old"; old][..], &["added"]].concat());
            fixture.put(&format!("{key}/notes.txt"), b"");
            assert!(data_files(&fixture.path(&key), &["csv"], cx).is_err());
            let error = fixture.load(&key, LoadMode::Create, RunId::generate(), "x").unwrap_err();
            assert_eq!(error.kind(), ErrorKind::AlreadyExists);
            for name in ["new.csv", "notes.txt"] {
                fixture.remove(&format!("{key}/{name}"));
            }
            fixture
                .load(&key, if old == 0 { mode } else { LoadMode::Replace }, RunId::generate(), "last")
                .unwrap()
                .publish()
                .unwrap();
            read(&["last"]);
        }
    }
}

#[test]
fn a_run_whose_files_another_went_on_from_was_published() {
    for mode in [LoadMode::Create, LoadMode::Append, LoadMode::Replace] {
        let fixture = Arc::new(Fixture::new(&format!("goes-on-{mode}")));
        let load = |mode, text: &str| fixture.load("d", mode, RunId::generate(), text).unwrap();
        if mode != LoadMode::Create {
            load(LoadMode::Create, "zero").publish().unwrap();
        }
        let first = load(mode, "first");
        let other = fixture.clone();
        *fixture.store.after_update.lock().unwrap() = Some(Box::new(move || {
            other.load("d", LoadMode::Append, RunId::generate(), "second").unwrap().publish().unwrap();
        }));
        first.publish().unwrap();
        assert!(fixture.store.after_update.lock().unwrap().is_none());
        let zero = if mode == LoadMode::Append { &["zero"][..] } else { &[] };
        assert_eq!(fixture.texts("d"), [zero, &["first", "second"]].concat(), "{mode}");
    }
}

#[test]
fn a_later_run_removes_what_a_dead_one_left_a_day_ago() {
    let fixture = Fixture::new("orphans");
    let load = |mode, text: &str| fixture.load("d", mode, RunId::generate(), text).unwrap().publish().unwrap();
    load(LoadMode::Create, "one");
    let orphan = format!("part-{}-00000.csv", RunId::generate());
    for name in [&orphan, "_SUCCESS"] {
        fixture.put(&format!("d/{name}"), b"torn");
    }
    // A run that is still going on may have written it.
    fixture.store.age.store(23 * 60 * 60, Ordering::Relaxed);
    load(LoadMode::Append, "two");
    assert!(fixture.names("d").contains(&orphan));
    fixture.store.age.store(25 * 60 * 60, Ordering::Relaxed);
    load(LoadMode::Append, "three");
    assert!(!fixture.names("d").contains(&orphan));
    // What is not ours stays, and so does what the manifest names, however old.
    assert!(fixture.names("d").contains(&"_SUCCESS".to_owned()));
    assert_eq!(fixture.texts("d"), ["one", "two", "three"]);
}

#[test]
fn what_a_run_at_work_has_written_is_not_old_by_a_clock_that_is_wrong() {
    let fixture = Fixture::new("clocks");
    fixture.store.behind.store(3 * 24 * 60 * 60, Ordering::Relaxed);
    let load = |text: &str| fixture.load("d", LoadMode::Append, RunId::generate(), text).unwrap();
    load("one").publish().unwrap();
    let part = format!("part-{}-00000.csv", RunId::generate());
    fixture.put(&format!("d/{part}"), b"of another run, which will publish it");
    load("two").publish().unwrap();
    assert!(fixture.names("d").contains(&part));
    fixture.store.age.store(25 * 60 * 60, Ordering::Relaxed);
    load("three").publish().unwrap();
    assert!(!fixture.names("d").contains(&part));
}

#[test]
fn a_cancelled_run_publishes_nothing() {
    let fixture = Fixture::new("cancelled");
    let staging = fixture.load("d", LoadMode::Create, RunId::generate(), "x").unwrap();
    fixture.cx.cancel().cancel();
    assert_eq!(staging.publish().unwrap_err().kind(), ErrorKind::Cancelled);
    let address = fixture.address("d");
    assert!(address.list(&CancelToken::new()).unwrap().is_empty());
}

#[test]
fn a_url_with_credentials_is_refused_and_not_shown() {
    for url in ["s3://key:secret@bucket/a.csv", "az://c/a.csv?sv=1&sig=secret", "s3://b/k?X-Amz-Signature=secret"] {
        let uri = etlrs_core::Uri::from(url);
        for error in [Address::of(Path::new(url)).unwrap_err(), crate::file_of(&uri, "csv").unwrap_err()] {
            assert_eq!(error.kind(), ErrorKind::InvalidConfig);
            assert!(!format!("{error:?}").contains("secret"), "{error:?}");
        }
    }
    crate::file_of(&etlrs_core::Uri::from("s3://b/year=202?/month=1/*.csv"), "csv").unwrap();
}

#[test]
fn an_object_that_marks_a_folder_is_no_part_of_it() {
    let fixture = Fixture::new("marks");
    fixture.store.lists_marks.store(true, Ordering::Relaxed);
    let load = |mode, text: &str| fixture.load("d.csv", mode, RunId::generate(), text).unwrap();
    for (mode, text) in [(LoadMode::Create, "one"), (LoadMode::Replace, "two")] {
        load(mode, text).publish().unwrap();
        assert_eq!(fixture.texts("d.csv/"), [text]);
        assert_eq!(data_files(&fixture.path("d.csv"), &["csv"], fixture.cx.cancel()).unwrap().len(), 1);
    }
    fixture.remove(&format!("d.csv/{}", Manifest::NAME));
    assert_eq!(fixture.texts("d.csv/"), ["two"]);
    assert_eq!(source_files(&fixture.path("d.csv/*"), &["csv"], fixture.cx.cancel()).unwrap().len(), 1);
}

#[test]
fn settings_that_cannot_be_are_refused_and_not_shown() {
    let scheme = |name: &str| if name.starts_with("AZURE") { "az" } else { "s3" };
    let check =
        |name: &str, value: &str| check_settings(scheme(name), |variable| (variable == name).then(|| value.to_owned()));
    for (name, value) in [
        ("AWS_ENDPOINT_URL", "localhost:9000"),
        ("AZURE_STORAGE_ACCOUNT_NAME", "canary\n"),
        ("AWS_ENDPOINT", "nonsense"),
        ("AWS_ENDPOINT_URL_S3", "http://"),
        ("AWS_ENDPOINT_URL", "http://user:canary@127.0.0.1:9000"),
        ("AWS_ENDPOINT_URL", "http://a b"),
        ("AWS_SECRET_ACCESS_KEY", "canary\n"),
        ("AWS_REGION", "eu central"),
    ] {
        let error = check(name, value).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidConfig);
        let shown = format!("{error:?}");
        assert!(shown.contains(name) && !shown.contains("canary"), "{shown}");
    }
    for (name, value) in [
        ("AWS_ENDPOINT_URL", "http://127.0.0.1:9000"),
        ("AWS_ENDPOINT_URL", ""),
        ("AWS_ENDPOINT_URL", "https://minio.example/"),
        ("AWS_ENDPOINT", "http://[::1]:9000"),
        ("AWS_SECRET_ACCESS_KEY", "a/b+c="),
        ("AWS_REGION", "eu-central-1"),
    ] {
        check(name, value).unwrap();
    }
    let error = Address::of(Path::new("s3://B_AD bucket/x.csv")).unwrap_err();
    assert!(error.to_string().contains("no name for a bucket"), "{error}");
}

#[test]
fn only_parts_are_taken_for_what_dead_runs_left() {
    let run = RunId::generate();
    assert!(crate::parts::is_part(&format!("part-{run}-00001.csv")));
    for name in ["part-00000.csv", &format!("part-{run}.csv"), &format!("{run}-00001.csv"), "part-é"] {
        assert!(!crate::parts::is_part(name), "{name}");
    }
}

#[test]
fn patterns_and_directories_are_listed() {
    let fixture = Fixture::new("patterns");
    for key in ["d/a-1.csv", "d/a-2.csv", "d/b-1.csv", "d/.a-3.csv", "d/e/a-4.csv", "d/_x.csv", "d/n.txt"] {
        fixture.put(key, b"x");
    }
    // Marks a folder, which a pattern of files does not mean.
    fixture.put("d/a-9.csv", b"");
    fixture.put("d/a-9.csv/part.csv", b"x");
    let files = |key: &str| {
        let found = source_files(&fixture.path(key), &["csv"], fixture.cx.cancel())?;
        let names = found.iter().map(|path| path.to_str().unwrap().strip_prefix("s3://patterns/").unwrap().to_owned());
        Ok::<_, Error>(names.collect::<Vec<_>>())
    };
    assert_eq!(files("d/a-*.csv").unwrap(), ["d/a-1.csv", "d/a-2.csv"]);
    assert_eq!(files("d/**/a-?.csv").unwrap(), ["d/a-1.csv", "d/a-2.csv", "d/e/a-4.csv"]);
    assert_eq!(files("d/").unwrap(), ["d/a-1.csv", "d/a-2.csv", "d/b-1.csv"]);
    assert_eq!(files("d").unwrap(), files("d/").unwrap());
    assert_eq!(files("d/n.txt").unwrap(), ["d/n.txt"]);
    // One star does not reach into directories.
    assert_eq!(files("d/*4.csv").unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(files("d/z-*.csv").unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(files("nothing").unwrap_err().kind(), ErrorKind::NotFound);
}

#[test]
fn waiting_ends_when_the_run_is_cancelled() {
    let cancel = CancelToken::new();
    let pending = request(&cancel, |error| failed("read", Path::new("s3://b/k"), &error), async move {
        std::future::pending::<object_store::Result<()>>().await
    });
    let pending = pending.unwrap();
    cancel.cancel();
    assert_eq!(pending.wait().unwrap_err().kind(), ErrorKind::Cancelled);
}

#[test]
fn a_manifest_entry_of_an_object_has_its_size() {
    let fixture = Fixture::new("listed");
    fixture.put("d/a.csv", b"12345");
    let entry = crate::listed(&fixture.path("d/a.csv"), 2, fixture.cx.cancel()).unwrap();
    assert_eq!(entry, ManifestFile { name: "a.csv".into(), rows: 2, bytes: 5 });
}

#[test]
fn what_a_server_said_is_told_in_short() {
    for (text, short) in [
        (
            "Error performing GET http://h/b?x=1 in 2.5s, after 4 retries, max_retries: 4, retry_timeout: 30s - Server \
             returned non-2xx status code: 404 Not Found: <?xml version=\"1.0\"?><Error><Code>NoSuchBucket</Code>\
             <Message>It is not there</Message><RequestId>1</RequestId></Error>",
            "GET http://h/b?x=1: Server returned non-2xx status code: 404 Not Found: NoSuchBucket, It is not there",
        ),
        (
            "Error performing HEAD http://h/b in 1ms - HTTP error: connection refused",
            "HEAD http://h/b: HTTP error: connection refused",
        ),
        (
            "Error performing PUT http://h/b in 1ms - Server returned non-2xx status code: 502 Bad Gateway: <!DOCTYPE \
             html><html><head><title> Proxy </title></head><body>…</body></html>",
            "PUT http://h/b: Server returned non-2xx status code: 502 Bad Gateway: a page (Proxy)",
        ),
        ("something else", "something else"),
    ] {
        assert_eq!(in_short(text), short);
    }
}

#[test]
fn plain_http_is_for_this_machine() {
    for (endpoint, loopback) in [
        ("http://localhost:9000", true),
        ("http://127.0.0.1:9000/", true),
        ("http://[::1]:9000", true),
        ("http://127.0.0.1", true),
        ("http://minio.example", false),
        ("http://localhost.example", false),
        ("https://localhost", false),
    ] {
        assert_eq!(is_loopback(endpoint), loopback, "{endpoint}");
    }
}
