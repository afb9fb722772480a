//! Going on with a run that was stopped.
//!
//! Design note. What a run does is written down at its target before data moves ([`Record`]): the state of the source, its
//! partitions, and a digest of all else that decides which rows come out. Partitions whose rows are durable there are not loaded
//! again by the same work on the same source, whoever begins it: there is no state beside that of the target, which could be lost
//! by itself or be of another machine. The alternative, a state file of the program's own, would have to be kept in step with
//! every target, and the moment between the two is just when others lose rows or load them twice.
//!
//! When a run has been published, its mark stays at the target until that was told, so that a run which dies between its commit
//! and its last word is not repeated. That holds too where no other process could read the same pieces again, of a table of a server
//! or through a transform that looks at several of them: then the record has no pieces, and is a mark and nothing else. A server does not
//! tell whether the table changed since; so that is only done where a repetition would do harm, in the modes append and create.

use std::sync::Arc;

use etlrs_core::{
    After, Error, ErrorKind, Fingerprint, Interrupted, Partition, Receipt, Result, RunContext, RunId, Scan, SchemaHash,
    SchemaRef,
};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::pipeline::{Pipeline, Settings, forget_once};

/// What a pipeline does about a run of its own that was stopped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Resume {
    /// Goes on with it if it was the same work on the same source, and begins anew otherwise.
    #[default]
    Auto,
    /// Begins anew, and removes what it had staged.
    Never,
    /// Goes on with this one, or fails.
    Run(RunId),
}

/// What was done before by a run that this one goes on with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Resumed {
    /// Partitions that it had staged.
    pub partitions: usize,
    /// Rows in them.
    pub rows: u64,
    /// It had published them all, and was stopped before it could say so; nothing was left to do.
    pub published: bool,
}

impl Resumed {
    pub(crate) fn of(receipts: &[Receipt], published: bool) -> Self {
        Self { partitions: receipts.len(), rows: receipts.iter().map(|receipt| receipt.rows).sum(), published }
    }
}

/// What is written down of a run, as JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    version: u32,
    /// Digest of what is done with the rows.
    work: String,
    /// The fingerprint of the source, and where it is gone on with.
    source: String,
    /// It is only known by this that the run was published.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    mark_only: bool,
    /// Partitions may rest on a guess.
    guess: bool,
    partitions: Vec<Piece>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Piece {
    descriptor: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    rows: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    bytes: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    source: Option<Arc<str>>,
}

impl Record {
    const VERSION: u32 = 2;

    /// Of a scan whose rows come out as `schema`.
    pub(crate) fn new(
        pipeline: &Pipeline,
        scan: &dyn Scan,
        fingerprint: &Fingerprint,
        after: Option<&After>,
        guess: bool,
        schema: &SchemaRef,
        mark_only: bool,
    ) -> Self {
        let Pipeline { settings, loader, quarantine, .. } = pipeline;
        let identity = scan.identity();
        let mut source = if identity.is_some() { fingerprint.as_str().to_owned() } else { String::new() };
        if let Some(after) = after {
            source = format!("{source} {}", hex(&Sha256::digest(format!("{after:?}"))));
        }
        let kept = if mark_only { &[] } else { scan.partitions() };
        let pieces = kept.iter().map(|partition| Piece {
            descriptor: partition.descriptor.clone(),
            rows: partition.rows,
            bytes: partition.bytes,
            source: partition.source.clone(),
        });
        let work = format!(
            "{} {:?} {:?} {:?} {:?} {:?} {:?} {:?} {:?} {:?} {:?}",
            env!("CARGO_PKG_VERSION"),
            identity.or_else(|| scan.subject()),
            loader.identity(),
            // Without one, a record that is set aside with one ends the run.
            quarantine.as_ref().map(|quarantine| quarantine.identity()),
            settings.identity,
            settings.mode,
            settings.keys,
            settings.request.columns,
            settings.request.filter,
            SchemaHash::of(&scan.schema()),
            SchemaHash::of(schema),
        );
        // A digest, for a filter has values in it.
        Self {
            version: Self::VERSION,
            work: hex(&Sha256::digest(work)),
            source,
            mark_only,
            guess,
            partitions: pieces.collect(),
        }
    }

    pub(crate) fn to_text(&self) -> Result<Arc<str>> {
        let text = serde_json::to_string(self);
        text.map(Arc::from).map_err(|error| Error::new(ErrorKind::Internal, error.to_string()))
    }

    /// What the fingerprint of the source says, if it is that.
    pub(crate) fn mark<T: for<'a> Deserialize<'a>>(&self) -> Option<T> {
        serde_json::from_str(&self.source).ok()
    }

    pub(crate) fn guess(&self) -> bool {
        self.guess
    }

    /// It says nothing of pieces.
    pub(crate) fn is_mark_only(&self) -> bool {
        self.mark_only
    }

    pub(crate) fn partitions(&self) -> Vec<Partition> {
        let partition = |(index, piece): (usize, &Piece)| {
            let mut partition = Partition::new(index, piece.descriptor.clone());
            (partition.rows, partition.bytes, partition.source) = (piece.rows, piece.bytes, piece.source.clone());
            partition
        };
        self.partitions.iter().enumerate().map(partition).collect()
    }

    /// Why what was staged for this record is not what `other` would stage, if it is not.
    pub(crate) fn difference(&self, other: &Self) -> Option<&'static str> {
        if self.work != other.work {
            Some("what is done with the rows is not the same: columns, transforms, mode, options or version")
        } else if self.source != other.source {
            Some("the source has changed since")
        } else if self.partitions != other.partitions {
            Some("the source is no longer cut into the same pieces")
        } else {
            None
        }
    }
}

fn hex(digest: &[u8]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What is left of a run, and what it was to do.
pub(crate) struct Left {
    pub(crate) found: Interrupted,
    pub(crate) record: Record,
}

impl Left {
    /// What there is to go on with at the target, if the pipeline may.
    pub(crate) async fn find(pipeline: &Pipeline, cx: &RunContext) -> Result<Option<Self>> {
        let Settings { resume, .. } = pipeline.settings;
        let none = |reason: &str| match resume {
            Resume::Run(run) => Err(refused(run, reason)),
            _ => Ok(None),
        };
        if resume == Resume::Never {
            return Ok(None);
        }
        if !may_go_on(pipeline) {
            return none("this pipeline keeps nothing to go on with");
        }
        let found = pipeline.loader.interrupted(cx).await?;
        let found = found.filter(|found| !matches!(resume, Resume::Run(run) if found.run != run));
        let Some(found) = found else {
            return none("nothing of it is left at the target: it was completed or removed");
        };
        match serde_json::from_str::<Record>(&found.record) {
            Ok(record) if record.version == Record::VERSION => match record.mark_only && !found.published {
                true => none("its pieces cannot be read again as they were"),
                false => Ok(Some(Self { found, record })),
            },
            _ => none("another version of ETLRS began it"),
        }
    }
}

/// Whether what the pipeline stages is kept if it is stopped.
pub(crate) fn may_go_on(pipeline: &Pipeline) -> bool {
    let Pipeline { transformers, loader, quarantine, settings, .. } = pipeline;
    let is_known = transformers.is_empty() || settings.identity.is_some();
    let keeps_rejected = quarantine.as_ref().is_none_or(|quarantine| quarantine.capabilities().resumable);
    // What is left over of a repair is worth less than to know what is to be repaired then.
    is_known && keeps_rejected && settings.repairing.is_none() && loader.capabilities().resumable
}

/// The error of a run that cannot be gone on with.
pub(crate) fn refused(run: RunId, reason: &str) -> Error {
    Error::new(ErrorKind::SourceChanged, format!("the run {run} cannot go on: {reason}"))
        .hint("run the pipeline again to begin anew")
}

/// Removes the marks of a run that was published; says so if it cannot.
pub(crate) async fn acknowledge(pipeline: &Pipeline, cx: &RunContext) -> Option<String> {
    let error = forget_once(pipeline, cx, cx.run_id()).await.err()?;
    Some(format!("the next run will find this one as just published, and load nothing: {error}"))
}
