use std::fmt;
use std::sync::Arc;

use arrow_array::RecordBatch;
use arrow_schema::SchemaRef;
use async_trait::async_trait;
use futures_core::Stream;

use crate::{ColumnTest, RecordFormat, Result, RunContext};

/// What flows between the stages: batches, or the one error that ends them.
pub type BatchStream = std::pin::Pin<Box<dyn Stream<Item = Result<RecordBatch>> + Send>>;

/// A source of tabular data: a file, a table, a query.
///
/// Constructing one does no I/O and cannot fail for lack of a file or a server; [`scan`](Extractor::scan) does.
#[async_trait]
pub trait Extractor: Send + Sync {
    /// Looks at the source and fixes what will be read: schema, partitions, fingerprint.
    ///
    /// The implementor reads as little as tells these (a header, a footer, a sample, a catalogue), honours of
    /// `request` what it can and says in [`Scan::pushdown`] what that was. The caller applies the rest.
    ///
    /// May be called more than once; each call looks anew. Called on a thread that may compute and may wait for local
    /// files; waiting for a network must be asynchronous. Dropping the future leaves nothing behind.
    ///
    /// # Errors
    /// `NotFound`, `PermissionDenied`, `InvalidData` and the like, naming the source. A column in
    /// [`ScanRequest::columns`] that does not exist is an `InvalidConfig` error that lists those that do.
    async fn scan(&self, cx: &RunContext, request: &ScanRequest) -> Result<Arc<dyn Scan>>;

    /// What is read by a column that grows, when the user leaves it to the target to keep the position up to which it was: words
    /// that are the same each time the same is read from the same place, without secrets. The scan takes [`ScanRequest::after`] then,
    /// and tells the next position by [`Scan::cursor`]. `None`, which is the default: all is read each time.
    fn cursor(&self) -> Option<String> {
        None
    }

    /// Whether rows are read again that were read before, for such as came late: a load has to merge them. Not, which is the default.
    fn rereads(&self) -> bool {
        false
    }
}

/// One look at a source: what is there, in pieces that can be read in any order and in parallel.
///
/// The partitions taken together hold each row of the source exactly once, whatever their number; only rows that fail
/// [`ScanRequest::filter`] may be missing.
#[async_trait]
pub trait Scan: Send + Sync {
    /// Schema of every batch of every partition, after the projection if that is honoured.
    fn schema(&self) -> SchemaRef;

    /// The pieces, in the order of the source. Their ids count from 0 without gaps.
    fn partitions(&self) -> &[Partition];

    /// Which parts of the request the batches already obey, exactly.
    fn pushdown(&self) -> Pushdown {
        Pushdown::default()
    }

    /// What a user should know before the run: how the schema was found, what was renamed.
    fn notes(&self) -> &[String] {
        &[]
    }

    /// What was found out about how the source is written, for whoever inspects it.
    fn details(&self) -> &[Detail] {
        &[]
    }

    /// The value up to which a column that grows was read, where the user has chosen one: the next scan can go on behind it.
    fn cursor(&self) -> Option<&str> {
        None
    }

    /// The primary key of the table that is read, if its columns are all read: no two rows have the same values in them, and none
    /// is null. A table that is made for the rows gets it too.
    fn primary_key(&self) -> &[String] {
        &[]
    }

    /// Bytes that one reader holds at the least, besides the batch that it has handed over: its buffers.
    /// The engine never runs a reader with less; see [`RunContext::reader_memory`] for what it may use.
    fn min_memory(&self) -> usize {
        0
    }

    /// Partitions that may be read at once at the most; the engine starts no more workers.
    fn max_readers(&self) -> usize {
        usize::MAX
    }

    /// How the raw text of a record is read by itself that is [rejected](RunContext::rejects) in that partition, so that it can be
    /// replayed. `None`, which is the default: nobody can.
    fn record_format(&self, _partition: &Partition) -> Option<RecordFormat> {
        None
    }

    /// The state of the source now. Equal fingerprints mean that reading again gives the same rows.
    ///
    /// The engine asks before the first and after the last read of a run, and refuses to publish when they
    /// differ; the fingerprint is also kept for resuming, so it must not depend on this process.
    async fn fingerprint(&self) -> Result<Fingerprint>;

    /// What decides, beside the state of the source, which rows are read: options, a query. `None`, which is the default: another
    /// process cannot read the same again, so a run that was stopped begins anew. It is written down as a digest only.
    fn identity(&self) -> Option<String> {
        None
    }

    /// What is read of a source that has no [identity](Self::identity), but is still there when another process comes: the table of a
    /// server, the query, options. By this a load is known that was published and died before it could say so, which is not to be
    /// repeated. `None`, which is the default: nothing tells it, as of a pipe. It is written down as a digest only.
    fn subject(&self) -> Option<String> {
        None
    }

    /// The rows of one partition, in order.
    ///
    /// Repeatable: each call gives the same rows from the start, for a retry reads the partition again. Nothing
    /// is read before the first poll. Polling happens on a worker thread of the engine, one that may compute and
    /// may wait for local files; waiting for a network must be asynchronous. A batch holds at most
    /// `cx.config().batch_size` rows and, as far as one row allows, [`RunContext::batch_memory`] bytes.
    /// Dropping the stream stops the read and frees what it holds.
    ///
    /// A record that is no row of the schema is an error, unless [`RunContext::rejects`] has a place for it. Batches
    /// without rows may come then, when that place is full.
    ///
    /// # Errors
    /// The stream ends after its first error. Errors carry the position in the source, and are marked transient
    /// only where a repetition may succeed.
    fn read(&self, cx: &RunContext, partition: &Partition) -> Result<BatchStream>;
}

/// Something that a connector found out about a source: its delimiter, its encoding.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Detail {
    /// What it is about; the option for it, if there is one.
    pub item: String,
    /// What was found.
    pub value: String,
    /// Why, in a few words.
    pub reason: String,
}

impl Detail {
    /// `item` is `value` because of `reason`.
    pub fn new(item: impl Into<String>, value: impl Into<String>, reason: impl Into<String>) -> Self {
        Self { item: item.into(), value: value.into(), reason: reason.into() }
    }
}

/// What the caller wants of a source.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct ScanRequest {
    /// Names of the wanted columns, in the wanted order; `None`: all of them.
    pub columns: Option<Vec<String>>,
    /// Wished number of partitions; a source that cannot be split gives one.
    pub partitions: Option<usize>,
    /// Whether partitions may rest on a guess that costs less than knowing. Reading must then prove or refute it: the
    /// earliest partition that a wrong guess touches fails with [`SplitRefuted`](crate::ErrorKind::SplitRefuted), and the
    /// caller scans again without guesses.
    pub guess: bool,
    /// Tests that each wanted row passes. A source may leave out rows that fail one, when that saves reading them, and need
    /// not look at the tests at all: rows that fail may come, so the caller filters all the same. A row that passes all
    /// tests must come. A source ignores a test of a column that it lacks, which need not be among
    /// [`columns`](Self::columns), and any test that it is not sure to understand as [`ColumnTest`] tells.
    ///
    /// The rows of the source are then those that come: partitions and counts are of them, and the same tests give the same
    /// partitions.
    pub filter: Vec<ColumnTest>,
    /// Columns of the target, with types that can be written to it. A source that has to guess the type of a column takes that
    /// of its namesake where what it knows of the values speaks for it; a source with types of its own need not look.
    pub target: Option<SchemaRef>,
    /// The position behind which a source is read that has a [cursor](Extractor::cursor). `None`: from the start.
    pub after: Option<After>,
    /// On resume: the partitions recorded when the run was planned. The scan must offer just these.
    pub recorded: Option<Vec<Partition>>,
}

/// Where reading by a cursor goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct After {
    /// The last position, as [`Scan::cursor`] told it.
    pub value: String,
    /// Rows of that very position are read again, for more of them may have come: the target knows them by their keys.
    pub inclusive: bool,
}

impl ScanRequest {
    /// Everything that the source has.
    pub fn all() -> Self {
        Self::default()
    }

    /// Only these columns.
    #[must_use]
    pub fn columns(mut self, columns: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.columns = Some(columns.into_iter().map(Into::into).collect());
        self
    }

    /// Split into about `n`.
    #[must_use]
    pub fn partitions(mut self, n: usize) -> Self {
        self.partitions = Some(n);
        self
    }

    /// With partitions that may rest on a guess.
    #[must_use]
    pub fn guess(mut self, guess: bool) -> Self {
        self.guess = guess;
        self
    }

    /// Without rows that fail one of these tests, as far as leaving them out is easy; see [`filter`](Self::filter).
    #[must_use]
    pub fn filter(mut self, tests: impl IntoIterator<Item = ColumnTest>) -> Self {
        self.filter.extend(tests);
        self
    }

    /// With types that the target has, for a source that has to guess; see [`target`](Self::target).
    #[must_use]
    pub fn target(mut self, columns: Option<SchemaRef>) -> Self {
        self.target = columns;
        self
    }

    /// The positions in `schema` of the wanted columns; all of them when none are named.
    ///
    /// # Errors
    /// `InvalidConfig` for a name that `schema` lacks or that is wanted twice.
    pub fn projection(&self, schema: &arrow_schema::Schema) -> Result<Vec<usize>> {
        let Some(columns) = &self.columns else {
            return Ok((0..schema.fields().len()).collect());
        };
        let mut positions = Vec::with_capacity(columns.len());
        for name in columns {
            let position = crate::column_index(schema, name)?;
            if positions.contains(&position) {
                return Err(crate::Error::new(
                    crate::ErrorKind::InvalidConfig,
                    format!("column {name:?} is asked for twice"),
                ));
            }
            positions.push(position);
        }
        Ok(positions)
    }
}

/// Which parts of a [`ScanRequest`] a scan obeys, so that the caller need not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Pushdown {
    /// Batches hold just the wanted columns, in the wanted order.
    pub columns: bool,
}

impl Pushdown {
    /// The projection is honoured.
    pub fn columns() -> Self {
        Self { columns: true }
    }
}

/// Index of a partition within its scan, from 0 in the order of the source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PartitionId(pub u32);

impl PartitionId {
    /// As an index into a slice.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

impl fmt::Display for PartitionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A piece of a source that is read, written, counted and retried by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Partition {
    /// Its place among the partitions of the scan.
    pub id: PartitionId,
    /// What it covers, in words of the connector's own ("bytes 0..1048576"). It is recorded with the plan of a
    /// run, and must be enough to find the piece again on resume.
    pub descriptor: String,
    /// Number of rows, where it is known without reading.
    pub rows: Option<u64>,
    /// Size in bytes at the source, where it is known; progress is shown by it.
    pub bytes: Option<u64>,
    /// The file or the table that it is a piece of, as it may be shown.
    pub source: Option<Arc<str>>,
}

impl Partition {
    /// A partition of unknown size.
    pub fn new(index: usize, descriptor: impl Into<String>) -> Self {
        let id = PartitionId(u32::try_from(index).unwrap_or(u32::MAX));
        Self { id, descriptor: descriptor.into(), rows: None, bytes: None, source: None }
    }

    /// With the file or the table that it is a piece of.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Arc<str>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// With the number of rows.
    #[must_use]
    pub fn with_rows(mut self, rows: u64) -> Self {
        self.rows = Some(rows);
        self
    }

    /// With the size at the source.
    #[must_use]
    pub fn with_bytes(mut self, bytes: u64) -> Self {
        self.bytes = Some(bytes);
        self
    }
}

/// The state of a source, as text that only its connector reads.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Fingerprint(String);

impl Fingerprint {
    /// From the connector's own words.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The words, to be recorded.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}
