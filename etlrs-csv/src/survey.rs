//! What the start of a file tells: its dialect, the names of its columns, and what their values look like.

use std::path::Path;
use std::sync::Arc;

use etlrs_core::{Error, ErrorKind, Result, RunContext};
use etlrs_files::text::{Encoding, Input, Place};

use crate::detect::{self, Finding, Given, detect};
use crate::format::Spellings;
use crate::infer::Inference;
use crate::options::CsvOptions;
use crate::reader::{Found, Reader, Source};
use crate::records::{Dialect, Field, Step, is_blank};

/// A sample ends here even if it has fewer records than asked for.
const LARGEST_SAMPLE: usize = 64 << 20;
/// Records of a sample whose fields are held together.
const SAMPLED_AT_ONCE: usize = 10_000;

/// A file that has been looked at.
pub(crate) struct Survey {
    pub(crate) source: Source,
    /// Of its columns.
    pub(crate) names: Vec<String>,
    /// What is known of each column.
    pub(crate) columns: Vec<Inference>,
    /// Records looked at.
    pub(crate) sampled: usize,
    pub(crate) findings: Vec<Finding>,
    pub(crate) notes: Vec<String>,
    /// Bytes as they are stored, where that is known.
    pub(crate) stored: Option<u64>,
}

impl Survey {
    /// `before`: the columns of the files before this one. `None`: the file is empty, which one of several may be.
    pub(crate) fn of(
        place: &Place,
        options: &CsvOptions,
        before: Option<&[String]>,
        cx: &RunContext,
    ) -> Result<Option<Self>> {
        let path = place.path();
        let (raw, stored) = place.open(cx.cancel())?;
        let in_source = |error: Error| error.in_source(path.display());
        let input = Input::of(raw, path, options.encoding.given(), cx).map_err(in_source)?;
        let length = match (&input, stored) {
            (Input::Plain(_), Some(length)) => length,
            _ => u64::MAX,
        };
        let (ragged, keeps_bad, dialect) = (options.ragged, cx.rejects().is_some(), Dialect::new(b',', None));
        let longest = if keeps_bad { longest_kept(cx) } else { cx.reader_memory() };
        let (named, data_start, width) = (path.into(), 0, 0);
        let source = Source { path: named, input, dialect, data_start, length, width, ragged, longest, keeps_bad };
        Self::start(source, stored, options, before, cx).map_err(in_source)
    }

    fn start(
        mut source: Source,
        stored: Option<u64>,
        options: &CsvOptions,
        before: Option<&[String]>,
        cx: &RunContext,
    ) -> Result<Option<Self>> {
        let (window, whole) = source.window(0, detect::WINDOW.min(cx.reader_memory()))?;
        refuse_other_formats(&window)?;
        let mark = if Encoding::of_mark(&window) == Some(Encoding::Utf8) { 3 } else { 0 };
        let text = window.get(mark..).unwrap_or_default();
        let without_records = |message| {
            if before.is_some() {
                return Ok(None);
            }
            let error = Error::new(ErrorKind::InvalidData, message);
            let no_header = options.header.given() == Some(false);
            Err(if no_header { error } else { error.hint("a CSV file has at least a header") })
        };
        if text.is_empty() {
            return without_records("the file is empty");
        }
        let (mut findings, mut notes) = (encoding_findings(&source.input), Vec::new());
        let given = Given {
            delimiter: options.delimiter.given().map(|delimiter| delimiter.0),
            quote: options.quote.given().map(|quote| quote.0),
            escape: options.escape.given().map(|escape| escape.0),
            comment: options.comment.0,
            skipped: options.skip_lines.given().is_some(),
            header: options.header.given(),
            nulls: &options.null_values,
            tabs: is_tab_separated(&source.path),
            names: before,
        };
        check(&given)?;
        let spellings = Spellings::new(&options.date_formats, &options.timestamp_formats)?;
        let found = match options.skip_lines.given().unwrap_or(0) {
            0 => detect(text, whole, &given),
            lines => {
                let (skipped, text, whole) = behind_lines(&source, mark, lines, cx.reader_memory())?;
                let mut found = detect(&text, whole, &given);
                (found.skipped, found.skipped_lines) = (skipped, lines);
                for finding in found.findings.iter_mut().filter(|finding| finding.item == "skip_lines") {
                    finding.value = lines.to_string();
                }
                found
            }
        };
        findings.extend(found.findings);
        notes.extend(found.doubt);
        source.dialect = found.dialect;
        // An escape character that is the quote says what is so anyway.
        source.dialect.escape = source.dialect.escape.filter(|_| source.dialect.escape != source.dialect.quote);
        let start = (mark + found.skipped) as u64;
        // A blank line before the header is none. In a column without one it is a null, as it is further on.
        let passes_blank = found.header || found.width > 1;
        let first = first_record(&source, start, found.skipped_lines, passes_blank, cx.reader_memory())?;
        let Some(first) = first else {
            return without_records("the file has nothing but comments and blank lines");
        };
        source.width = first.fields.len();
        let names = if found.header {
            source.data_start = first.next;
            unique_names(first.fields, &mut notes)
        } else {
            source.data_start = first.start;
            (1..=source.width).map(|column| format!("column_{column}")).collect()
        };

        let source = Arc::new(source);
        // Columns whose type is given may be spelled in any of the formats.
        let is_planned = !options.planned.is_empty() && spellings.is_empty();
        let looks = !is_planned && options.infer || (!spellings.is_empty() && !options.types.0.is_empty());
        let mut columns = vec![Inference::with(options.decimals, Arc::new(spellings)); source.width];
        let sampled = if looks { sample(&source, options, cx, &mut columns)? } else { 0 };
        let source = Arc::into_inner(source)
            .ok_or_else(|| Error::new(ErrorKind::Internal, "the sample of the file is still being read"))?;
        Ok(Some(Self { source, names, columns, sampled, findings, notes, stored }))
    }
}

/// The longest record that is taken where longer ones are set aside. It may not depend on what a reader may hold, for that
/// depends on the number of partitions; readers ask for as much (`Scan::min_memory`).
fn longest_kept(cx: &RunContext) -> usize {
    (cx.memory().limit() / 128).clamp(4 << 10, 1 << 30)
}

fn check(given: &Given<'_>) -> Result<()> {
    let (quote, escape) = (given.quote.flatten(), given.escape.flatten());
    // One that is the quote is how quotes within quotes are doubled.
    let escape = escape.filter(|_| escape != quote);
    let bytes: Vec<u8> = [given.delimiter, quote, escape, given.comment].into_iter().flatten().collect();
    let usable = |byte: u8| byte.is_ascii() && byte != b'\n' && byte != b'\r';
    let repeated = bytes.iter().enumerate().any(|(at, byte)| bytes.iter().skip(at + 1).any(|other| other == byte));
    if !repeated && bytes.into_iter().all(usable) {
        return Ok(());
    }
    let message = "delimiter, quote, escape and comment must be different ASCII characters other than line ends";
    Err(Error::new(ErrorKind::InvalidConfig, message))
}

fn is_tab_separated(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_ascii_lowercase();
    crate::TAB_EXTENSIONS.iter().any(|extension| name.ends_with(&format!(".{extension}")))
}

fn encoding_findings(input: &Input) -> Vec<Finding> {
    let Input::Stream { compression, encoding, .. } = input else { return Vec::new() };
    let mut findings = Vec::new();
    let mut add = |item, value: &str, why: &str| {
        findings.push(Finding { item, value: value.to_owned(), why: why.to_owned(), notable: false });
    };
    if compression.name() != "none" {
        add("compression", compression.name(), "by its name or its first bytes");
    }
    if *encoding != Encoding::Utf8 {
        add("encoding", encoding.name(), "by its byte order mark, or given");
    }
    findings
}

fn refuse_other_formats(start: &[u8]) -> Result<()> {
    let (what, hint) = match start {
        [b'P', b'K', 3, 4, ..] => ("a zip archive", "unpack it first"),
        [b'P', b'A', b'R', b'1', ..] => ("a Parquet file", "give it a name that ends in .parquet"),
        _ => return Ok(()),
    };
    Err(Error::new(ErrorKind::Unsupported, format!("the file is {what}, not CSV")).hint(hint))
}

/// The number of bytes that `lines` lines from `mark` on take, and the text behind them.
fn behind_lines(source: &Source, mark: usize, lines: usize, limit: usize) -> Result<(usize, Vec<u8>, bool)> {
    let mut size = detect::WINDOW;
    loop {
        let (window, whole) = source.window(mark as u64, size)?;
        if let Some(end) = memchr::memchr_iter(b'\n', &window).nth(lines - 1) {
            let (text, whole) = source.window((mark + end + 1) as u64, detect::WINDOW)?;
            if !text.is_empty() {
                return Ok((end + 1, text, whole));
            }
        }
        if whole || size >= limit {
            let message = format!("there is nothing behind the first {lines} lines, which are left out");
            return Err(Error::new(ErrorKind::InvalidData, message).hint("set the option skip_lines"));
        }
        size = size.saturating_mul(4);
    }
}

struct FirstRecord {
    fields: Vec<String>,
    start: u64,
    /// Where the next one starts.
    next: u64,
}

/// The first record from `start` on, behind comments and, if they are passed, blank lines. `lines` are before it.
fn first_record(
    source: &Source,
    start: u64,
    lines: usize,
    passes_blank: bool,
    limit: usize,
) -> Result<Option<FirstRecord>> {
    let mut size = 64 << 10;
    let mut at = 0;
    loop {
        let (buffer, whole) = source.window(start, size)?;
        let mut fields = Vec::new();
        let line = |at: usize| (lines + memchr::memchr_iter(b'\n', &buffer[..at]).count() + 1) as u64;
        let step = source.dialect.record(&buffer, at, whole, &mut fields).map_err(|(bad, reason)| {
            Error::new(ErrorKind::InvalidData, reason.message()).at_line(line(at)).at_byte(start + bad as u64)
        })?;
        let step = match step {
            Step::Record(next) if passes_blank && is_blank(&fields) => Step::Comment(next),
            step => step,
        };
        match step {
            Step::Comment(next) if next < buffer.len() => at = next,
            Step::Comment(_) if whole => return Ok(None),
            Step::Record(next) => {
                let next = next.min(buffer.len());
                let text = std::str::from_utf8(&buffer[..next]).map_err(|error| {
                    Error::new(ErrorKind::InvalidData, "the file is not UTF-8")
                        .hint("set the option encoding, to windows-1252 for one")
                        .at_byte(start + error.valid_up_to() as u64)
                })?;
                // Within a field a carriage return means nothing, unless there is no other line end.
                let alone = |field: &Field| !field.is_quoted() && text[field.range()].contains('\r');
                if fields.iter().any(alone) && !buffer.contains(&b'\n') {
                    return Err(Error::new(
                        ErrorKind::Unsupported,
                        "the lines of the file end with a carriage return alone",
                    )
                    .hint("convert the line ends to line feeds first"));
                }
                let fields = fields.iter().map(|field| name(source.dialect, text, *field)).collect();
                return Ok(Some(FirstRecord { fields, start: start + at as u64, next: start + next as u64 }));
            }
            Step::Incomplete | Step::Comment(_) if size >= limit => {
                return Err(Error::new(ErrorKind::InvalidData, "the first record does not end")
                    .at_line(line(at))
                    .at_byte(start + at as u64));
            }
            Step::Incomplete | Step::Comment(_) => size *= 4,
        }
    }
}

fn name(dialect: Dialect, text: &str, field: Field) -> String {
    let text = &text[field.range()];
    if !field.is_escaped() {
        return text.to_owned();
    }
    let mut name = vec![0; text.len()];
    let length = dialect.unescape(text.as_bytes(), field.is_quoted(), &mut name);
    name.truncate(length);
    String::from_utf8_lossy(&name).into_owned()
}

/// Names from a header: empty ones are called by their position, repeated ones get a number.
fn unique_names(header: Vec<String>, notes: &mut Vec<String>) -> Vec<String> {
    let mut names: Vec<String> = Vec::with_capacity(header.len());
    for (index, name) in header.into_iter().enumerate() {
        let base = if name.is_empty() { format!("column_{}", index + 1) } else { name.clone() };
        let mut unique = base.clone();
        let mut number = 2;
        while names.contains(&unique) {
            unique = format!("{base}_{number}");
            number += 1;
        }
        if name.is_empty() {
            notes.push(format!("column {} has no name in the header and is called {unique:?}", index + 1));
        } else if unique != name {
            notes.push(format!("column {} is called {name:?} as one before it, and is renamed {unique:?}", index + 1));
        }
        names.push(unique);
    }
    names
}

/// Looks at the first records; gives their number.
fn sample(source: &Arc<Source>, options: &CsvOptions, cx: &RunContext, columns: &mut [Inference]) -> Result<usize> {
    let largest = match source.input.is_once() {
        // It is kept until it is read.
        true => (cx.memory().limit() / 32).clamp(detect::WINDOW, LARGEST_SAMPLE),
        false => LARGEST_SAMPLE,
    };
    let (most, most_bytes) = match options.sample.records() {
        Some(records) => (records, largest as u64),
        None if source.input.is_once() => {
            let message = "all records are to be sampled of what can be read only once";
            return Err(Error::new(ErrorKind::InvalidConfig, message)
                .hint("give the option sample a number of records, or write it to a file first")
                .in_source(source.path.display()));
        }
        None => (usize::MAX, u64::MAX),
    };
    let limit = if source.keeps_bad { source.longest } else { cx.reader_memory().min(LARGEST_SAMPLE) };
    let reader = Reader::looking(source.clone(), cx.config().io_buffer_size.min(largest), limit);
    let mut reader = reader.keeping_bad(source.keeps_bad);
    let mut fields = Vec::new();
    let (mut sampled, mut bad) = (0, 0);
    while sampled + bad < most && reader.position() - source.data_start < most_bytes {
        cx.cancel().check()?;
        let records = match reader.next((most - sampled - bad).min(SAMPLED_AT_ONCE), &mut fields) {
            Ok(Found::Records(records)) => records,
            // Whoever reads it sets it aside.
            Ok(Found::Bad(_)) => {
                bad += 1;
                continue;
            }
            Ok(Found::End) => break,
            Err(error) => return Err(reader.locate(error, &fields)),
        };
        let bytes = reader.bytes(records);
        for record in fields.chunks(source.width) {
            for (column, field) in columns.iter_mut().zip(record) {
                let value = &bytes[field.range()];
                if !value.is_empty() && !options.null_values.iter().any(|null| null.as_bytes() == value) {
                    column.add(value);
                }
            }
        }
        sampled += records.count;
    }
    Ok(sampled)
}
