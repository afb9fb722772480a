//! What must hold for CSV files.

use std::io::Cursor;
use std::sync::LazyLock;

use etlrs_core::{
    Detail, Extractor, OptionSet, PerformanceConfig, Result, RunContext, ScanRequest, SchemaRef, parse_type,
};
use etlrs_csv::{Compression, CsvExtractor, CsvOptions};

use super::Choices;
use super::table::{Table, assert_same, block_on, file, read};

/// Whatever the number of partitions, the sizes of batches and buffers, and whether it is a file or a stream: a file is the
/// same rows, or the same error in the same place.
pub fn csv_reader(input: &[u8]) {
    let (mut choices, bytes) = Choices::split(input);
    let partitions = choices.of([2, 3, 5, 9, 1, 64]);
    let guess = choices.of([true, false]);
    let batch_size = choices.of([1000, 1, 2, 7]);
    let io_buffer_size = choices.of([64 << 10, 512, 777, 4096]);
    let memory = choices.of([1 << 20, 16 << 10, 64 << 10]);
    let mut pairs = vec![
        ("header", choices.of(["auto", "true", "false"])),
        ("delimiter", choices.of(["auto", ",", ";", "tab", "|", "space", "a", "'"])),
        ("quote", choices.of(["auto", "\"", "none", "'", "a"])),
        ("escape", choices.of(["auto", "none", "\\", "\"", "'"])),
        ("comment", choices.of(["none", "#", ";", "a"])),
        ("skip_lines", choices.of(["auto", "0", "1", "3"])),
        ("encoding", choices.of(["auto", "utf-8", "utf-16le", "utf-16be", "latin-1", "windows-1252"])),
    ];
    let flags = choices.byte();
    for (bit, pair) in
        [("ragged", "pad"), ("infer", "false"), ("decimals", "true"), ("sample", "2"), ("sample", "full")]
            .iter()
            .enumerate()
    {
        if flags >> bit & 1 != 0 {
            pairs.push(*pair);
        }
    }
    let nulls = choices.of([None, Some("NA"), Some(""), Some("-1,x")]);
    pairs.extend(nulls.map(|nulls| ("null_values", nulls)));
    let (dates, timestamps) =
        choices.of([("", ""), ("%d.%m.%Y", ""), ("", "%m/%d/%y %I:%M %p"), ("%e-%b-%Y", "%F %T.%f")]);
    if !dates.is_empty() {
        pairs.push(("date_formats", dates));
    }
    if !timestamps.is_empty() {
        pairs.push(("timestamp_formats", timestamps));
    }
    let mut options = CsvOptions::from_pairs(pairs).unwrap();
    let of_first = choices.of(["", "int8", "uint64", "float32", "decimal(5,2)", "date", "timestamp", "time", "bool"]);

    let path = file("t.csv", bytes);
    let usual = context(1000, 64 << 10, memory);
    if !of_first.is_empty()
        && let Ok((schema, _)) = look(&CsvExtractor::new(&path).with_options(options.clone()), &usual)
    {
        options.types.0 = vec![(schema.field(0).name().clone(), parse_type(of_first).unwrap())];
    }
    let extractor = CsvExtractor::new(&path).with_options(options.clone());
    let whole = read(&extractor, &usual, &ScanRequest::all().partitions(1));
    let unusual = context(batch_size, io_buffer_size, memory);
    let request = ScanRequest::all().partitions(partitions).guess(guess);
    assert_same(&whole, &read(&extractor, &unusual, &request), "cut");
    if options.sample != etlrs_csv::Sample::Full {
        let stream = CsvExtractor::from_reader(&path, Cursor::new(bytes.to_vec())).with_options(options);
        assert_same(&whole, &read(&stream, &unusual, &ScanRequest::all()), "as a stream");
    }
}

/// The dialect that is found is the same each time, and the same again if all of it is given.
pub fn csv_dialect(input: &[u8]) {
    let (mut choices, bytes) = Choices::split(input);
    let name = choices.of(["t.csv", "t.tsv"]);
    let nulls = choices.of([None, Some("NA"), Some("-1,x")]);
    let ragged = choices.of(["fail", "pad"]);
    let infer = choices.of(["true", "false"]);
    let mut pairs = vec![("ragged", ragged), ("infer", infer)];
    pairs.extend(nulls.map(|nulls| ("null_values", nulls)));

    let path = file(name, bytes);
    let cx = context(1000, 64 << 10, 4 << 20);
    let with = |pairs: &[(&str, &str)]| {
        let options = CsvOptions::from_pairs(pairs.iter().copied()).unwrap();
        CsvExtractor::new(&path).with_options(options)
    };
    let found = look(&with(&pairs), &cx);
    let again = look(&with(&pairs), &cx);
    let (Ok((schema, details)), Ok(again)) = (&found, &again) else {
        assert_eq!(found.map_err(|error| error.to_string()), again.map_err(|error| error.to_string()));
        return;
    };
    assert_eq!((schema, details), (&again.0, &again.1));

    let keys: Vec<_> = CsvOptions::specs().into_iter().map(|spec| spec.key).collect();
    let dialect: Vec<(&str, &str)> = details
        .iter()
        .filter(|detail| keys.contains(&detail.item.as_str()))
        .map(|detail| (detail.item.as_str(), detail.value.as_str()))
        .collect();
    let given = with(&[pairs.as_slice(), &dialect].concat());
    let (given_schema, given_details) = look(&given, &cx).unwrap();
    let values = |details: &[Detail]| {
        details.iter().map(|detail| (detail.item.clone(), detail.value.clone())).collect::<Vec<_>>()
    };
    assert_eq!(values(details), values(&given_details));
    assert_eq!(*schema, given_schema);
    let all = ScanRequest::all();
    assert_same(&read(&with(&pairs), &cx, &all), &read(&given, &cx, &all), "with what was found given");
}

/// Gzip: what was packed comes back, and what was cut off or changed is no shorter file.
pub fn csv_gz(input: &[u8]) {
    packed(input, Compression::Gzip(1), "t.csv.gz");
}

/// Zstandard, likewise.
pub fn csv_zst(input: &[u8]) {
    packed(input, Compression::Zstd(1), "t.csv.zst");
}

fn packed(input: &[u8], compression: Compression, name: &str) {
    let (mut choices, bytes) = Choices::split(input);
    let [mode, members, place, further, flip] = [(); 5].map(|()| choices.byte());
    let cx = context(1000, 512, 16 << 20);
    // Types found from few records only, so that damage further on is met by whoever reads.
    let options = CsvOptions::default().with_sample(3);
    let read_packed = |packed: &[u8]| {
        let path = file(name, packed);
        read(&CsvExtractor::new(&path).with_options(options.clone()), &cx, &ScanRequest::all())
    };
    if mode % 4 == 0 {
        let _ = read_packed(bytes);
        return;
    }
    // What looks packed itself is unpacked once if it is plain, and once if it is packed.
    if [b"\x1f\x8b".as_slice(), b"\x28\xb5\x2f\xfd", b"BZh", b"\xfd7zXZ"].iter().any(|start| bytes.starts_with(start)) {
        return;
    }
    let mut compressor = compression.compressor().unwrap();
    let mut packed = Vec::new();
    let mut ends = vec![0];
    for member in bytes.chunks((bytes.len() / (1 + usize::from(members % 4))).max(1)) {
        compressor.append_member(member, &mut packed).unwrap();
        ends.push(packed.len());
    }
    let plain = read_plain(bytes, &options, &cx);
    let place = (usize::from(place) << 8 | usize::from(further)) % (packed.len() + 1);
    match mode % 4 {
        1 if !packed.is_empty() => {
            let unpacked = read_packed(&packed);
            match (&plain, &unpacked) {
                (Err(plain), Err(unpacked)) => assert_eq!(plain.kind(), unpacked.kind(), "{plain} and {unpacked}"),
                _ => assert_same(&plain, &unpacked, "packed"),
            }
        }
        2 if !ends.contains(&place) => {
            let cut = read_packed(&packed[..place]);
            assert!(cut.is_err(), "cut off after {place} of {} bytes, and {} rows", packed.len(), cut.unwrap().rows);
        }
        3 if place < packed.len() => {
            packed[place] ^= 1 << (flip % 8);
            if let Ok(table) = read_packed(&packed) {
                // What is not covered by a checksum says nothing of the text.
                plain.unwrap().assert_same_rows(&table, "with a bit flipped");
            }
        }
        _ => {}
    }
}

/// What a stream of `bytes` is.
fn read_plain(bytes: &[u8], options: &CsvOptions, cx: &RunContext) -> Result<Table> {
    let plain = CsvExtractor::from_reader("t.csv", Cursor::new(bytes.to_vec())).with_options(options.clone());
    read(&plain, cx, &ScanRequest::all())
}

fn context(batch_size: usize, io_buffer_size: usize, memory: usize) -> RunContext {
    // To ask the system for its memory each time would be a tenth of the work.
    static USUAL: LazyLock<PerformanceConfig> = LazyLock::new(|| PerformanceConfig::default().with_max_threads(2));
    let config = PerformanceConfig { batch_size, io_buffer_size, ..USUAL.clone() };
    RunContext::new(config).for_worker(memory)
}

/// Schema and findings.
fn look(extractor: &CsvExtractor, cx: &RunContext) -> Result<(SchemaRef, Vec<Detail>)> {
    let scan = block_on(extractor.scan(cx, &ScanRequest::all()))?;
    Ok((scan.schema(), scan.details().to_vec()))
}
