//! A look at the start of a file: what its records stand in, and what they hold.

use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use etlrs_core::{Error, ErrorKind, Result, RunContext};
use etlrs_files::text::{Encoding, Input, Place, Purpose};

use crate::infer::{Inference, Rules};
use crate::layout::Layout;
use crate::options::{JsonLayout, JsonOptions};
use crate::reader::{Reader, Source};
use crate::syntax;

/// From so many bytes the layout is found.
const WINDOW: usize = 1 << 20;
/// A sample has no more bytes, however many records were asked for.
const LARGEST_SAMPLE: u64 = 64 << 20;

/// What is known of a file.
pub(crate) struct Survey {
    pub(crate) source: Source,
    /// Bytes as they are stored, where that is known.
    pub(crate) stored: Option<u64>,
    pub(crate) sample: Sampled,
    /// Why the layout is what it is.
    pub(crate) reason: &'static str,
}

/// What the first records are.
pub(crate) struct Sampled {
    /// How many there are, with those that are broken.
    pub(crate) records: usize,
    /// Those that are objects, and their number.
    pub(crate) objects: Inference,
    pub(crate) object_count: usize,
    /// The others.
    pub(crate) values: Inference,
    pub(crate) value_count: usize,
    /// What is wrong with the first record that is broken.
    pub(crate) fault: Option<Error>,
}

impl Sampled {
    pub(crate) fn none(rules: Rules) -> Self {
        let (objects, values) = (Inference::of_records(rules), Inference::new(rules));
        Self { records: 0, objects, object_count: 0, values, value_count: 0, fault: None }
    }

    /// Takes what another file has too.
    pub(crate) fn merge(&mut self, other: &mut Self) {
        self.records += other.records;
        self.objects.merge(&other.objects);
        self.object_count += other.object_count;
        self.values.merge(&other.values);
        self.value_count += other.value_count;
        self.fault = self.fault.take().or(other.fault.take());
    }
}

impl Survey {
    /// `None`: the file is empty. Records are looked at unless the columns are `planned`.
    pub(crate) fn of(place: &Place, options: &JsonOptions, planned: bool, cx: &RunContext) -> Result<Option<Self>> {
        let path = place.path();
        Self::look(place, path, options, planned, cx).map_err(|error| error.in_source(path.display()))
    }

    fn look(place: &Place, path: &Path, options: &JsonOptions, planned: bool, cx: &RunContext) -> Result<Option<Self>> {
        let (raw, stored) = place.open(cx.cancel())?;
        let input = Input::of(raw, path, options.encoding, cx)?;
        let size = WINDOW.min(cx.reader_memory());
        let window = window(&input, path, size)?;
        let mark = if Encoding::of_mark(&window) == Some(Encoding::Utf8) { 3 } else { 0 };
        let text = window.get(mark..).unwrap_or_default();
        if text.trim_ascii().is_empty() && window.len() < size {
            return Ok(None);
        }
        let (layout, reason) = match options.layout {
            JsonLayout::Auto => Layout::of(text, window.len() < size, path),
            JsonLayout::Lines => (Layout::Lines, "as the options say"),
            JsonLayout::Array => (Layout::Array, "as the options say"),
            JsonLayout::Values => (Layout::Values, "as the options say"),
        };
        let length = match (&input, stored) {
            (Input::Plain(_), Some(length)) => length,
            _ => u64::MAX,
        };
        let source = Source { path: path.into(), input, layout, start: mark as u64, length };
        let source = Arc::new(source);
        let sample = match planned {
            true => Sampled::none(Rules::of(options)),
            false => sample(&source, options, cx)?,
        };
        let source = Arc::into_inner(source)
            .ok_or_else(|| Error::new(ErrorKind::Internal, "the sample of the file is still being read"))?;
        Ok(Some(Self { source, stored, sample, reason }))
    }
}

fn window(input: &Input, path: &Path, size: usize) -> Result<Vec<u8>> {
    let mut start = Vec::new();
    let (text, _) = input.open(path, Purpose::Look)?;
    text.take(size as u64).read_to_end(&mut start).map_err(|error| etlrs_files::reading(path, error))?;
    Ok(start)
}

/// Looks at the first records.
fn sample(source: &Arc<Source>, options: &JsonOptions, cx: &RunContext) -> Result<Sampled> {
    let is_once = source.input.is_once();
    let (most, most_bytes) = match options.sample.records() {
        Some(most) => (most.max(1), LARGEST_SAMPLE),
        None if is_once => {
            let message = "the sample cannot be all of what can be read only once";
            return Err(Error::new(ErrorKind::InvalidConfig, message).hint("write it to a file first"));
        }
        None => (usize::MAX, u64::MAX),
    };
    // What can be read only once is kept.
    let most_bytes = if is_once { most_bytes.min((cx.memory().limit() / 32) as u64) } else { most_bytes };
    let part = (!source.is_stream()).then_some((source.start, u64::MAX));
    let mut reader = Reader::new(source.clone(), part, 256 << 10, cx.reader_memory(), cx.cancel()).looking();
    let mut sampled = Sampled::none(Rules::of(options));
    while sampled.records < most {
        cx.cancel().check()?;
        let record = match reader.next() {
            Ok(Some(record)) if record.offset - source.start < most_bytes || sampled.records == 0 => record,
            Ok(_) => break,
            // Whoever reads it is told, and may set it aside.
            Err(error) if error.kind() == ErrorKind::InvalidData => {
                let line = error.position().byte.map_or(0, |byte| reader.lines_before(byte));
                sampled.fault.get_or_insert(error.at_line(line + 1));
                break;
            }
            Err(error) => {
                let line = error.position().byte.map(|byte| reader.lines_before(byte) + 1);
                return Err(line.into_iter().fold(error, Error::at_line));
            }
        };
        let text = reader.text(&record);
        // A record that is broken says nothing.
        let start = syntax::space(text, 0);
        let fault = match (std::str::from_utf8(text), syntax::value(text, start, 0)) {
            (Err(error), _) => Some((error.valid_up_to(), "the text is not UTF-8".to_owned())),
            (_, Err(fault)) => Some((fault.at().unwrap_or(text.trim_ascii_end().len()), fault.message())),
            (_, Ok(end)) if syntax::space(text, end) < text.len() => {
                Some((end, "there is something behind the value on its line".to_owned()))
            }
            _ => None,
        };
        match fault {
            None if text.get(start) == Some(&b'{') => {
                let _ = sampled.objects.add(text, start, 0);
                sampled.object_count += 1;
            }
            None => {
                let _ = sampled.values.add(text, start, 0);
                // A null says nothing of what the others are.
                sampled.value_count += usize::from(!text[start..].starts_with(b"null"));
            }
            Some((at, message)) if sampled.fault.is_none() => {
                let byte = record.offset + at as u64;
                let error = Error::new(ErrorKind::InvalidData, message).at_byte(byte);
                sampled.fault = Some(error.at_line(reader.lines_before(byte) + 1));
            }
            Some(_) => {}
        }
        sampled.records += 1;
    }
    Ok(sampled)
}
