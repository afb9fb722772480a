//! What must hold for JSON files.

use std::io::Cursor;
use std::sync::LazyLock;

use etlrs_core::{
    DatasetSnapshot, ErrorKind, LoadMode, LoadPlan, Loader, OptionSet, Partition, PerformanceConfig, Result,
    RunContext, ScanRequest,
};
use etlrs_json::{JsonExtractor, JsonLoader, JsonOptions};

use super::Choices;
use super::table::{Table, assert_same, block_on, file, read};

/// Whatever the number of partitions, the sizes of batches and buffers, and whether it is read, mapped or a stream: a file is
/// the same rows, or the same error in the same place.
pub fn json_reader(input: &[u8]) {
    let (mut choices, bytes) = Choices::split(input);
    let partitions = choices.of([9, 2, 3, 5, 1, 64]);
    let batch_size = choices.of([1000, 1, 2, 7]);
    let io_buffer_size = choices.of([64 << 10, 512, 777, 4096]);
    let memory = choices.of([1 << 20, 16 << 10, 64 << 10]);
    let name = choices.of(["t.ndjson", "t.json", "t"]);
    let options = options(&mut choices);

    let path = file(name, bytes);
    let usual = context(1000, 64 << 10, memory);
    let extractor = JsonExtractor::new(&path).with_options(options.clone());
    let whole = read(&extractor, &usual, &ScanRequest::all().partitions(1));
    let unusual = context(batch_size, io_buffer_size, memory);
    let request = ScanRequest::all().partitions(partitions);
    assert_same(&whole, &read(&extractor, &unusual, &request), "cut");
    assert_same(&whole, &read(&extractor.with_memory_mapping(true), &unusual, &request), "mapped");
    let stream = JsonExtractor::from_reader(&path, Cursor::new(bytes.to_vec())).with_options(options);
    match (&whole, read(&stream, &unusual, &ScanRequest::all())) {
        // What can be read once cannot be looked at as a whole, so other things are advised.
        (Err(whole), Err(stream)) => {
            let known =
                |error: &etlrs_core::Error| (error.kind(), error.message().to_owned(), error.position().clone());
            assert_eq!(known(whole), known(&stream), "as a stream");
        }
        (whole, stream) => assert_same(whole, &stream, "as a stream"),
    }
}

/// What was read can be written as JSON, and is then read back as it was, or is refused.
pub fn json_writer(input: &[u8]) {
    let (mut choices, bytes) = Choices::split(input);
    let target = choices.of(["out.ndjson", "out.json"]);
    let options = options(&mut choices);
    let cx = context(1000, 64 << 10, 1 << 20);
    let extractor = JsonExtractor::new(file("t.json", bytes)).with_options(options);
    let Ok(table) = read(&extractor, &cx, &ScanRequest::all()) else { return };
    let target = file(target, b"");
    std::fs::remove_file(&target).unwrap();
    match block_on(write(&JsonLoader::new(&target), &table, &cx)) {
        Ok(Some(staged)) => {
            let written = DatasetSnapshot::new(table.schema.clone(), table.batches.clone()).unwrap();
            assert_eq!(staged.total_count(), table.rows as u64);
            assert_eq!(staged.checksum(), written.checksum());
        }
        Ok(None) => {}
        Err(error) => {
            let refused = matches!(error.kind(), ErrorKind::InvalidData | ErrorKind::SchemaMismatch);
            assert!(refused && !target.exists(), "{error:?}");
        }
    }
}

/// Writes a table, and what it is when it is read back before it is published.
async fn write(loader: &JsonLoader, table: &Table, cx: &RunContext) -> Result<Option<DatasetSnapshot>> {
    let partition = Partition::new(0, "");
    let plan = LoadPlan::new(table.schema.clone(), LoadMode::Create, vec![partition.clone()]);
    let mut session = loader.begin(cx, plan).await?;
    let mut writer = session.writer(cx, &partition, 1).await?;
    for batch in &table.batches {
        writer.write(batch.clone()).await?;
    }
    let receipts = vec![writer.finish().await?];
    let staged = match session.read_back(cx, &receipts).await? {
        Some(scan) => Some(DatasetSnapshot::collect(cx, &*scan).await?),
        None => None,
    };
    session.commit(receipts).await?;
    Ok(staged)
}

fn options(choices: &mut Choices<'_>) -> JsonOptions {
    let mut pairs =
        vec![("layout", choices.of(["auto", "lines", "array", "values"])), ("sample", choices.of(["10000", "1", "2"]))];
    let types = ["", "a:text", "a:int8", "a:float32", "a:decimal(5,2)", "a:timestamp", "a:bool", "b:text"];
    pairs.extend(Some(choices.of(types)).filter(|types| !types.is_empty()).map(|types| ("types", types)));
    pairs.extend(choices.of([None, Some("utf-16le"), Some("latin-1")]).map(|encoding| ("encoding", encoding)));
    let flags = choices.byte();
    for (bit, pair) in [("decimals", "true"), ("times", "false"), ("unknown_keys", "ignore")].into_iter().enumerate() {
        if flags >> bit & 1 != 0 {
            pairs.push(pair);
        }
    }
    JsonOptions::from_pairs(pairs).unwrap()
}

fn context(batch_size: usize, io_buffer_size: usize, memory: usize) -> RunContext {
    // To ask the system for its memory each time would be a tenth of the work.
    static USUAL: LazyLock<PerformanceConfig> = LazyLock::new(|| PerformanceConfig::default().with_max_threads(2));
    let config = PerformanceConfig { batch_size, io_buffer_size, ..USUAL.clone() };
    RunContext::new(config).for_worker(memory)
}
