//! Records that a run sets aside instead of ending by them.

use std::borrow::Cow;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use arrow_array::builder::{BinaryBuilder, Int64Builder, StringBuilder};
use arrow_array::{ArrayRef, RecordBatch, StringArray};
use arrow_schema::{DataType, Field, Schema, SchemaRef};

use crate::{Error, OptionMap, PartitionId, Position, Result, RunId};

/// A record that a stage could not take, with all that is known of it.
///
/// It holds what the source had, so it goes into the quarantine and nowhere else: [`Debug`](std::fmt::Debug) does not show
/// the raw text, and no message may.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Rejected {
    /// The bytes of the record as the source has them, without the line end behind them; they need not be valid in any
    /// encoding. `None` where there is no such text, as in a database. Of a transformer or a target, the row that it got as a JSON object.
    pub raw: Option<Vec<u8>>,
    /// 0, but for a record that is too long to be held whole: such a record comes in parts that follow one another and are
    /// counted from 0. Its raw text is that of all parts, one behind the other.
    pub part: u32,
    /// The stage that rejected it: [`Rejected::SOURCE`], [`Rejected::TARGET`], or what the stage is called.
    pub stage: Cow<'static, str>,
    /// Where it is; of a later part, where that part begins. Its partition is filled in by the engine.
    pub position: Position,
    /// What was wrong, in the words of the error that would have ended the run. Without values of the record.
    pub reason: String,
    /// What a user has put in the place of the raw text, if that was tried and rejected as well.
    pub fixed: Option<String>,
    /// Transformers that it had been through. Filled in by the place into which it is [put](Rejects::after_transforms), and by the
    /// engine.
    pub transforms: Option<u32>,
    /// How the raw text is read by itself, in words of the engine's, which fills it in.
    pub read_as: Option<Arc<str>>,
}

/// How the raw text of one record is read by itself, apart from the source in which it was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RecordFormat {
    /// The [name](crate::Connector::name) of the connector that reads a file of such records, each on a line of its own.
    pub connector: String,
    /// The options with which it does.
    pub options: OptionMap,
    /// What such a file begins with, without a line end.
    pub header: Option<String>,
    /// The columns that are wanted, in their order.
    pub columns: Vec<String>,
    /// Characters, beside line ends, by which a text that is broken may run on into those behind it, or be no record.
    pub delicate: String,
    /// Line ends within a record mean no more than a space.
    pub line_ends_are_spaces: bool,
}

impl RecordFormat {
    /// Of records that the connector of that name reads.
    pub fn new(connector: impl Into<String>) -> Self {
        Self { connector: connector.into(), ..Self::default() }
    }
}

/// What the rows of a quarantine have in common that one run wrote.
#[derive(Clone, Copy, Debug)]
pub struct RejectedBy<'a> {
    /// The run.
    pub run: RunId,
    /// Where its rows go, without secrets, if that is known.
    pub target: Option<&'a str>,
    /// Of a run that replays a quarantine, what tells that apart: its rows count only when it is completed.
    pub replay: Option<&'a str>,
    /// Transformers that a row has been through when it comes to the target.
    pub transforms: u32,
}

impl Rejected {
    /// The stage of what a source rejects.
    pub const SOURCE: &'static str = "source";

    /// The stage of what a target refuses.
    pub const TARGET: &'static str = "target";

    /// Set aside by a source, instead of failing with `error`, whose place and words it gets.
    pub fn by_source(error: &Error) -> Self {
        Self::by_stage(Self::SOURCE, error)
    }

    /// Set aside by the stage called `stage`, instead of failing with `error`, whose place and words it gets.
    pub fn by_stage(stage: impl Into<Cow<'static, str>>, error: &Error) -> Self {
        let reason = match error.hint_text() {
            Some(hint) => format!("{}; {hint}", error.message()),
            None => error.message().to_owned(),
        };
        Self {
            raw: None,
            part: 0,
            stage: stage.into(),
            position: error.position().clone(),
            reason,
            fixed: None,
            transforms: None,
            read_as: None,
        }
    }

    /// With its raw text.
    #[must_use]
    pub fn with_raw(mut self, raw: impl Into<Vec<u8>>) -> Self {
        self.raw = Some(raw.into());
        self
    }

    /// With how that text is read.
    #[must_use]
    pub fn read_as(mut self, format: impl Into<Arc<str>>) -> Self {
        self.read_as = Some(format.into());
        self
    }

    /// A part of a record behind the first one.
    #[must_use]
    pub fn as_part(mut self, part: u32) -> Self {
        self.part = part;
        self
    }

    /// Bytes that it holds, about.
    pub fn bytes(&self) -> usize {
        let text = |text: &Option<String>| text.as_ref().map_or(0, String::len);
        let raw = self.raw.as_ref().map_or(0, Vec::len);
        let read_as = self.read_as.as_ref().map_or(0, |format| format.len());
        let fixed = text(&self.fixed) + read_as;
        size_of::<Self>() + raw + fixed + self.reason.len() + text(&self.position.source) + text(&self.position.column)
    }

    /// The columns of every quarantine, whatever the source.
    ///
    /// | column | type | |
    /// |---|---|---|
    /// | `run` | text | the run that rejected the record |
    /// | `source` | text | file or table, if it is known |
    /// | `partition` | int64 | from 0; of what a target sifts out at the end, one more than the last |
    /// | `record`, `line` | int64 | of the place of the fault, from 1, where there are such; the header is no record, but a line |
    /// | `byte` | int64 | the same as an offset from 0 |
    /// | `stage` | text | `source`, `target`, or the transformer |
    /// | `column` | text | where one column is at fault |
    /// | `reason` | text | what was wrong |
    /// | `part` | int64 | 0, or which part of a record that is too long to be held whole |
    /// | `raw` | binary | the record as the source has it, which need not be text; of a transformer and of the target the row as JSON |
    /// | `fixed` | text | null; what a user writes here is replayed in the place of `raw` |
    /// | `target` | text | where the record was to go, if that is known |
    /// | `transforms` | int64 | transformers that it had been through |
    /// | `transforms_left` | int64 | those that it had not been through |
    /// | `read_as` | text | how `raw` is read by itself, as JSON; null where it cannot be |
    /// | `replay` | text | null but in rows of a replay that is not completed, whose records are still here as they were |
    pub fn schema() -> SchemaRef {
        let column = |name: &str, data_type, nullable| Field::new(name, data_type, nullable);
        Arc::new(Schema::new(vec![
            column("run", DataType::Utf8, false),
            column("source", DataType::Utf8, true),
            column("partition", DataType::Int64, false),
            column("record", DataType::Int64, true),
            column("line", DataType::Int64, true),
            column("byte", DataType::Int64, true),
            column("stage", DataType::Utf8, false),
            column("column", DataType::Utf8, true),
            column("reason", DataType::Utf8, false),
            column("part", DataType::Int64, false),
            column("raw", DataType::Binary, true),
            column("fixed", DataType::Utf8, true),
            column("target", DataType::Utf8, true),
            column("transforms", DataType::Int64, true),
            column("transforms_left", DataType::Int64, true),
            column("read_as", DataType::Utf8, true),
            column("replay", DataType::Utf8, true),
        ]))
    }

    /// Rows of the quarantine: what was rejected `by` a run in `partition`.
    ///
    /// # Errors
    /// None, but for more bytes than a batch can hold, 2 GiB.
    pub fn batch(by: &RejectedBy<'_>, partition: PartitionId, rejected: &[Self]) -> Result<RecordBatch> {
        let number = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        let texts = |text: &dyn Fn(&Self) -> Option<&str>| -> ArrayRef {
            let mut column = StringBuilder::new();
            rejected.iter().for_each(|record| column.append_option(text(record)));
            Arc::new(column.finish())
        };
        let numbers = |get: &dyn Fn(&Self) -> Option<u64>| -> ArrayRef {
            let mut column = Int64Builder::with_capacity(rejected.len());
            rejected.iter().for_each(|record| column.append_option(get(record).map(number)));
            Arc::new(column.finish())
        };
        let all = |text: Option<&str>| -> ArrayRef {
            Arc::new(std::iter::repeat_n(text, rejected.len()).collect::<StringArray>())
        };
        let mut raw = BinaryBuilder::new();
        rejected.iter().for_each(|record| raw.append_option(record.raw.as_deref()));
        let run = by.run.to_string();
        let columns: Vec<ArrayRef> = vec![
            Arc::new(StringArray::from_iter_values(std::iter::repeat_n(run, rejected.len()))),
            texts(&|record| record.position.source.as_deref()),
            numbers(&|_| Some(partition.0.into())),
            numbers(&|record| record.position.record),
            numbers(&|record| record.position.line),
            numbers(&|record| record.position.byte),
            texts(&|record| Some(&record.stage)),
            texts(&|record| record.position.column.as_deref()),
            texts(&|record| Some(&record.reason)),
            numbers(&|record| Some(record.part.into())),
            Arc::new(raw.finish()),
            texts(&|record| record.fixed.as_deref()),
            all(by.target),
            numbers(&|record| record.transforms.map(u64::from)),
            numbers(&|record| record.transforms.map(|done| by.transforms.saturating_sub(done).into())),
            texts(&|record| record.read_as.as_deref()),
            all(by.replay),
        ];
        Ok(RecordBatch::try_new(Self::schema(), columns)?)
    }
}

impl std::fmt::Display for Rejected {
    /// The place and the reason, as the error would have told them.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        Error::new(crate::ErrorKind::InvalidData, self.reason.clone()).at(self.position.clone()).fmt(f)
    }
}

impl std::fmt::Debug for Rejected {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let raw = self.raw.as_ref().map(|raw| format!("{} bytes", raw.len()));
        f.debug_struct("Rejected")
            .field("raw", &raw)
            .field("part", &self.part)
            .field("stage", &self.stage)
            .field("position", &self.position)
            .field("reason", &self.reason)
            .field("fixed", &self.fixed.as_ref().map(|fixed| format!("{} bytes", fixed.len())))
            .field("transforms", &self.transforms)
            .field("read_as", &self.read_as)
            .finish()
    }
}

/// Where the stages of one attempt at a partition put the records that they reject; see
/// [`RunContext::rejects`](crate::RunContext::rejects). Clones are the same place.
///
/// What is in it is held in memory until the engine takes it, which it does between two polls of a source. So a source that
/// put a record here asks [`is_full`](Self::is_full), and if so gives the batch that it has, even one without rows.
#[derive(Clone, Debug, Default)]
pub struct Rejects {
    shared: Arc<Shared>,
    /// Transformers that whatever is put here has been through.
    transforms: Option<u32>,
}

#[derive(Debug, Default)]
struct Shared {
    records: Mutex<Vec<Rejected>>,
    bytes: AtomicUsize,
    limit: usize,
    of_source: AtomicU64,
}

impl Rejects {
    /// An empty place that is full with `limit` bytes.
    pub fn new(limit: usize) -> Self {
        Self { shared: Arc::new(Shared { limit, ..Shared::default() }), transforms: None }
    }

    /// The same place, for what comes behind so many transformers.
    #[must_use]
    pub fn after_transforms(&self, transforms: u32) -> Self {
        Self { shared: self.shared.clone(), transforms: Some(transforms) }
    }

    /// Sets a record aside.
    pub fn push(&self, mut rejected: Rejected) {
        // A record that comes from the source has been through none, whatever stage had rejected it before.
        let is_of_source = self.transforms.is_none();
        rejected.transforms = rejected.transforms.or(self.transforms);
        let mut records = self.shared.records.lock().unwrap_or_else(PoisonError::into_inner);
        if rejected.part == 0 && is_of_source {
            self.shared.of_source.fetch_add(1, Ordering::Relaxed);
        }
        self.shared.bytes.fetch_add(rejected.bytes(), Ordering::Relaxed);
        records.push(rejected);
    }

    /// Whether it holds as much as it should. Cheap.
    pub fn is_full(&self) -> bool {
        let bytes = self.shared.bytes.load(Ordering::Relaxed);
        bytes > 0 && bytes >= self.shared.limit
    }

    /// Whether there is nothing in it. Cheap.
    pub fn is_empty(&self) -> bool {
        self.shared.bytes.load(Ordering::Relaxed) == 0
    }

    /// Records that a source put here so far, whether or not they were taken: those that never came out of it.
    pub fn of_source(&self) -> u64 {
        self.shared.of_source.load(Ordering::Relaxed)
    }

    /// All that is in it, in the order in which it came; it is empty then.
    pub fn take(&self) -> Vec<Rejected> {
        let mut records = self.shared.records.lock().unwrap_or_else(PoisonError::into_inner);
        self.shared.bytes.store(0, Ordering::Relaxed);
        std::mem::take(&mut *records)
    }
}

#[cfg(test)]
mod tests {
    use arrow_array::cast::AsArray;
    use arrow_array::types::Int64Type;

    use super::*;
    use crate::ErrorKind;

    fn rejected() -> Rejected {
        let error = Error::new(ErrorKind::InvalidData, "the value is no int64")
            .hint("set the option")
            .in_source("a.csv")
            .at_record(2)
            .at_line(3)
            .at_byte(17)
            .at_column("n");
        Rejected::by_source(&error).with_raw(b"x,\xff".as_slice())
    }

    #[test]
    fn a_rejected_record_has_the_place_and_the_words_of_its_error() {
        let run = RunId::generate();
        let goes_on = rejected().as_part(1);
        let lookup = Rejected::by_stage("lookup", &Error::new(ErrorKind::InvalidData, "no such key"));
        let by = RejectedBy { run, target: Some("b.csv"), replay: None, transforms: 2 };
        let lookup = lookup.read_as("{}");
        let batch = Rejected::batch(&by, PartitionId(7), &[rejected(), goes_on, lookup]).unwrap();
        let texts = |name: &str| -> Vec<_> {
            batch.column_by_name(name).unwrap().as_string::<i32>().iter().map(|text| text.map(str::to_owned)).collect()
        };
        let numbers =
            |name: &str| -> Vec<_> { batch.column_by_name(name).unwrap().as_primitive::<Int64Type>().iter().collect() };
        assert_eq!(texts("run"), vec![Some(run.to_string()); 3]);
        assert_eq!(texts("source"), [Some("a.csv".to_owned()), Some("a.csv".to_owned()), None]);
        assert_eq!(texts("stage"), ["source", "source", "lookup"].map(|stage| Some(stage.to_owned())));
        assert_eq!(texts("column")[0].as_deref(), Some("n"));
        assert_eq!(texts("reason")[0].as_deref(), Some("the value is no int64; set the option"));
        assert_eq!(numbers("partition"), [Some(7); 3]);
        assert_eq!(numbers("part"), [Some(0), Some(1), Some(0)]);
        for (name, expected) in [("record", 2), ("line", 3), ("byte", 17)] {
            assert_eq!(numbers(name), [Some(expected), Some(expected), None], "{name}");
        }
        let raw: Vec<_> = batch.column_by_name("raw").unwrap().as_binary::<i32>().iter().collect();
        assert_eq!(raw, [Some(&b"x,\xff"[..]), Some(b"x,\xff"), None]);
        assert_eq!(texts("target"), vec![Some("b.csv".to_owned()); 3]);
        assert_eq!(texts("read_as"), [None, None, Some("{}".to_owned())]);
        assert!(texts("fixed").into_iter().chain(texts("replay")).all(|text| text.is_none()));
    }

    #[test]
    fn it_is_told_of_as_an_error_would_be() {
        let told = rejected().to_string();
        assert_eq!(told, "a.csv, record 2, line 3, byte 17, column \"n\": the value is no int64; set the option");
    }

    #[test]
    fn raw_text_is_in_no_message() {
        let secret = Rejected::by_source(&Error::new(ErrorKind::InvalidData, "bad")).with_raw(b"classified".as_slice());
        let rejects = Rejects::new(10);
        rejects.push(secret.clone());
        let shown = format!("{secret:?} {secret} {rejects:?}");
        let bytes = format!("{:?}", b"classified");
        assert!(!shown.contains("classified") && !shown.contains(&bytes), "{shown}");
    }

    #[test]
    fn what_is_taken_is_gone_and_makes_room() {
        let rejects = Rejects::new(2 * rejected().bytes());
        assert!(rejects.is_empty() && !rejects.is_full());
        rejects.push(rejected());
        assert!(!rejects.is_empty() && !rejects.is_full());
        rejects.clone().push(rejected().as_part(1));
        assert!(rejects.is_full());
        assert_eq!(rejects.take(), [rejected(), rejected().as_part(1)]);
        let lookup = Rejected::by_stage("lookup", &Error::new(ErrorKind::InvalidData, "no such key"));
        rejects.after_transforms(2).push(lookup);
        assert_eq!(rejects.take()[0].transforms, Some(2));
        assert_eq!(rejects.of_source(), 1);
        assert!(rejects.is_empty() && !rejects.is_full() && rejects.take().is_empty());
    }
}
