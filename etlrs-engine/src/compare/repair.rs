//! Loading again what a comparison found to differ.
//!
//! Design note. A target that merges gets the rows that are missing or changed, by their key. A directory of files gets the pieces
//! that are in none of its files: each piece of the source whose rows have the checksum of those of a file stays as that file, and the
//! other files go as the other pieces come, with one commit. So neither the names of the files nor the run that wrote them
//! matter, and a file counts as good only if all of its rows are there and no others. The alternative, to write the rows that
//! differ into files of their own, would need a way to say which rows of an old file no longer count.
//!
//! With a file go all rows of it that only the target has, be they damage or what somebody else loaded there. So they go only if
//! that was asked for; a row that changed is not one of them where a key tells that it did.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use arrow_array::BooleanArray;
use etlrs_core::{
    BatchStream, BoundTransformer, Checksum, Effect, Error, ErrorKind, Extractor, Fingerprint, LoadMode, Partition,
    PartitionId, Pushdown, RecordFormat, Result, RunContext, Scan, ScanRequest, SchemaRef, Transformer, async_trait,
    column_index, row_hashes,
};

use super::align::{Casts, key_of, kind_of};
use super::{Verification, changed, of_target};
use crate::discard::Discard;
use crate::pipeline::Pipeline;
use crate::report::RunReport;
use crate::transform::FilterTransformer;

/// What a [repair](Pipeline::repair) would do.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Repair {
    /// Merges the rows that are missing or changed; those that only the target has stay.
    Merge,
    /// Loads pieces of the source in place of files of the target.
    ReplaceFiles {
        /// The pieces.
        pieces: Vec<Partition>,
        /// The files, as a scan of the target tells them.
        files: Vec<Arc<str>>,
        /// Other files, which stay.
        kept: usize,
    },
}

/// What becomes of rows that only the target has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Unexpected {
    /// They stay. What cannot be repaired without removing some is not.
    #[default]
    Keep,
    /// They go. A table keeps them all the same, so it is refused if there are any.
    Remove,
}

/// What a comparison knows of both sides, beside what it tells.
#[derive(Clone, Debug)]
pub(super) struct Compared {
    pub(super) rows: These,
    pub(super) source: Pieces,
    /// Why pieces of the source cannot be read again by themselves.
    pub(super) is_one: Option<&'static str>,
    pub(super) target: Pieces,
    /// Columns of the target that were not compared.
    pub(super) not_compared: Vec<String>,
    pub(super) of_target: TargetAsItWas,
}

/// The pieces of one side, with the checksums of their rows.
#[derive(Clone, Debug)]
pub(super) struct Pieces {
    pub(super) fingerprint: Fingerprint,
    pub(super) sums: Vec<(Partition, Checksum)>,
}

/// A target, as it was when it was compared.
#[derive(Clone)]
pub(crate) struct TargetAsItWas {
    pub(super) extractor: Arc<dyn Extractor>,
    pub(super) fingerprint: Fingerprint,
}

impl fmt::Debug for TargetAsItWas {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("TargetAsItWas").field(&self.fingerprint).finish()
    }
}

impl TargetAsItWas {
    /// To be called when no other run can load into it.
    pub(crate) async fn require_unchanged(&self, cx: &RunContext) -> Result<()> {
        let scan = self.extractor.scan(cx, &ScanRequest::all()).await.map_err(of_target)?;
        if scan.fingerprint().await.map_err(of_target)? == self.fingerprint {
            return Ok(());
        }
        Err(of_target(Error::new(ErrorKind::SourceChanged, "it changed since it was compared").hint("compare again")))
    }
}

/// What is put right in a load.
#[derive(Clone, Debug, Default)]
pub(crate) struct Repairing {
    /// Files of the target that go.
    pub(crate) replaces: Vec<Arc<str>>,
    /// The target must be as it was, for files of it stay.
    pub(crate) target: Option<TargetAsItWas>,
}

impl Pipeline {
    /// What [`repair`](Self::repair) would do about what `comparison` found, if rows that only the target has may go. Looks at
    /// nothing.
    ///
    /// # Errors
    /// `Unsupported` if it could do nothing, and why.
    pub fn repair_plan(&self, comparison: &Verification) -> Result<Repair> {
        const ALL: &str = "load all of them, in the mode replace";
        let refused = |what: &str, why: &str| {
            Error::new(ErrorKind::Unsupported, format!("{why}, so single {what} cannot be loaded again")).hint(ALL)
        };
        let capabilities = self.loader.capabilities();
        let Compared { rows, source, target, is_one, not_compared, .. } = &comparison.compared;
        if capabilities.modes.contains(&LoadMode::Merge) {
            if self.extractor.cursor().is_some() && self.settings.mode == LoadMode::Append {
                let why =
                    "the pipeline goes on behind the position that it saved, and would load rows again that come now";
                return Err(refused("rows", why).hint("use the mode merge in it, or load all, in the mode replace"));
            }
            if comparison.keys.is_empty() {
                return Err(refused("rows", "there is no key that tells which rows are the same"));
            }
            if !comparison.is_whole {
                return Err(refused("rows", "more rows differ than could be looked at")
                    .hint(format!("give it more memory, or {ALL}")));
            }
            if !rows.are_unique {
                return Err(refused("rows", "the source has a key twice among the rows that differ"));
            }
            return Ok(Repair::Merge);
        }
        if !capabilities.replaces_files {
            return Err(refused("rows", "this target has no mode merge"));
        }
        if let Some(why) = is_one {
            return Err(refused("pieces", why));
        }
        if !not_compared.is_empty() {
            let why = format!("the target has columns that were not compared ({})", not_compared.join(", "));
            return Err(refused("pieces", &why));
        }
        by_files(&source.sums, &target.sums)
            .ok_or_else(|| refused("pieces", "the target does not tell its files apart"))
    }

    /// Loads those rows once more that `comparison` found missing or changed at the target, by its key, in the mode merge; or those
    /// pieces that are in no file of it, in place of files that are no piece. See [`repair_plan`](Self::repair_plan).
    ///
    /// # Errors
    /// `Unsupported` if there was no key, more differ than could be looked at, or rows are `unexpected` that may not or cannot go;
    /// `SourceChanged` if the source or the target changed since, where pieces are loaded; those of a run.
    pub async fn repair(&self, comparison: &Verification, unexpected: Unexpected) -> Result<RunReport> {
        let plan = self.repair_plan(comparison)?;
        let compared = &comparison.compared;
        let refused = |message: &'static str| Error::new(ErrorKind::Unsupported, message);
        match (&plan, unexpected) {
            (Repair::Merge, Unexpected::Remove) if comparison.unexpected > 0 => {
                return Err(refused("rows that only a table has are not removed by a repair").hint("remove them there"));
            }
            (Repair::ReplaceFiles { files, .. }, Unexpected::Keep) if !files.is_empty() => {
                if comparison.unexpected > 0 {
                    let go = "let them go (--remove-unexpected)";
                    let hint = match comparison.keys.is_empty() {
                        true => format!("name a key (--key), by which rows that changed are told as such, or {go}"),
                        false => go.to_owned(),
                    };
                    let message = "rows that only the target has would go with files that are replaced";
                    return Err(refused(message).hint(hint));
                }
                if !comparison.is_whole {
                    let message = "more rows differ than could be looked at, and of those that only the target has some may go with files that are replaced";
                    return Err(refused(message).hint("give it more memory, or let them go (--remove-unexpected)"));
                }
            }
            _ => {}
        }
        let mut pipeline = self.clone();
        // Of a few pieces, it says nothing.
        pipeline.settings.max_errors = None;
        // What the source rejects was set aside by the load.
        pipeline.quarantine = pipeline.quarantine.map(|_| Arc::new(Discard) as _);
        let note = match plan {
            Repair::Merge => {
                pipeline.settings.mode = LoadMode::Merge;
                pipeline.settings.keys.clone_from(&comparison.keys);
                pipeline.settings.repairing = Some(Repairing::default());
                pipeline.transformers.push(Arc::new(OnlyThese(compared.rows.clone())));
                None
            }
            Repair::ReplaceFiles { pieces, files, kept } => {
                let note = format!("{} of {} files of the target stay as they are", kept, kept + files.len());
                pipeline.settings.mode = LoadMode::Append;
                pipeline.settings.keys.clear();
                let target = Some(compared.of_target.clone());
                pipeline.settings.repairing = Some(Repairing { replaces: files, target });
                pipeline.extractor = Arc::new(OnlyPieces {
                    extractor: self.extractor.clone(),
                    source: compared.source.clone(),
                    wanted: pieces.iter().map(|piece| piece.id).collect(),
                });
                Some(note)
            }
        };
        let mut report = pipeline.execute().await?;
        report.notes.extend(note);
        Ok(report)
    }
}

/// Which pieces of the source are in no file of the target, and which files are no piece. `None` if it is not known what rows
/// are in which file.
fn by_files(source: &[(Partition, Checksum)], target: &[(Partition, Checksum)]) -> Option<Repair> {
    // A file may be read in several pieces, and keeps its place.
    let (mut files, mut places) = (Vec::new(), HashMap::new());
    for (partition, checksum) in target {
        let file = partition.source.as_ref()?;
        let place = *places.entry(file).or_insert_with(|| {
            files.push((file, Checksum::default()));
            files.len() - 1
        });
        files[place].1.merge(checksum);
    }
    // What has no rows has no file.
    let source: Vec<_> = source.iter().filter(|(_, checksum)| checksum.rows() > 0).collect();
    let mut alike: HashMap<Checksum, BTreeSet<usize>> = HashMap::new();
    for (at, (_, checksum)) in files.iter().enumerate() {
        alike.entry(*checksum).or_default().insert(at);
    }
    let mut stays = vec![false; files.len()];
    let mut places: Vec<Option<usize>> = vec![None; source.len()];
    // Of files with the same rows those stay that are in their place, else those behind the piece before, so that the rows keep
    // their order; and then any.
    let in_place = |piece: usize, _: usize| if files.len() == source.len() { piece..piece + 1 } else { 0..0 };
    let in_order = |_: usize, before: usize| before..files.len();
    let anywhere = |_: usize, _: usize| 0..files.len();
    type Where<'a> = &'a dyn Fn(usize, usize) -> Range<usize>;
    for range in [&in_place as Where<'_>, &in_order, &anywhere] {
        let mut before = 0;
        for (at, ((_, checksum), place)) in source.iter().zip(&mut places).enumerate() {
            if place.is_none()
                && let Some(left) = alike.get_mut(checksum)
                && let Some(&file) = left.range(range(at, before)).next()
            {
                left.remove(&file);
                (stays[file], *place) = (true, Some(file));
            }
            before = place.map_or(before, |file| file + 1);
        }
    }
    let pieces = source.iter().zip(places).filter(|(_, place)| place.is_none());
    let pieces = pieces.map(|((piece, _), _)| piece.clone()).collect();
    let kept = stays.iter().filter(|stays| **stays).count();
    let goes = files.iter().zip(stays).filter(|(_, stays)| !stays);
    Some(Repair::ReplaceFiles { pieces, files: goes.map(|((file, _), _)| (*file).clone()).collect(), kept })
}

/// Some pieces of a source, as they were when it was compared.
struct OnlyPieces {
    extractor: Arc<dyn Extractor>,
    source: Pieces,
    wanted: Vec<PartitionId>,
}

#[async_trait]
impl Extractor for OnlyPieces {
    async fn scan(&self, cx: &RunContext, request: &ScanRequest) -> Result<Arc<dyn Scan>> {
        let mut request = request.clone();
        request.recorded = Some(self.source.sums.iter().map(|(partition, _)| partition.clone()).collect());
        let scan = self.extractor.scan(cx, &request).await?;
        if scan.fingerprint().await? != self.source.fingerprint {
            return Err(changed().hint("compare again"));
        }
        let pieces = self.wanted.iter().enumerate().map(|(index, wanted)| {
            let recorded = self.source.sums.get(wanted.index()).map(|(partition, _)| &partition.descriptor);
            let found = scan.partitions().get(wanted.index());
            let found = found.filter(|found| Some(&found.descriptor) == recorded).ok_or_else(changed)?.clone();
            let mut piece = found.clone();
            piece.id = PartitionId(u32::try_from(index).unwrap_or(u32::MAX));
            Ok((piece, found))
        });
        let (partitions, of_scan) = pieces.collect::<Result<Vec<_>>>()?.into_iter().unzip();
        Ok(Arc::new(PiecesScan { scan, partitions, of_scan }))
    }
}

struct PiecesScan {
    scan: Arc<dyn Scan>,
    partitions: Vec<Partition>,
    /// The same, as the scan of the whole has them.
    of_scan: Vec<Partition>,
}

impl PiecesScan {
    fn of_scan(&self, partition: &Partition) -> Result<&Partition> {
        let found = self.of_scan.get(partition.id.index());
        found.ok_or_else(|| Error::new(ErrorKind::Internal, format!("there is no piece {}", partition.id)))
    }
}

#[async_trait]
impl Scan for PiecesScan {
    fn schema(&self) -> SchemaRef {
        self.scan.schema()
    }

    fn partitions(&self) -> &[Partition] {
        &self.partitions
    }

    fn pushdown(&self) -> Pushdown {
        self.scan.pushdown()
    }

    fn min_memory(&self) -> usize {
        self.scan.min_memory()
    }

    fn max_readers(&self) -> usize {
        self.scan.max_readers()
    }

    fn record_format(&self, partition: &Partition) -> Option<RecordFormat> {
        self.scan.record_format(self.of_scan(partition).ok()?)
    }

    async fn fingerprint(&self) -> Result<Fingerprint> {
        self.scan.fingerprint().await
    }

    fn read(&self, cx: &RunContext, partition: &Partition) -> Result<BatchStream> {
        self.scan.read(cx, self.of_scan(partition)?)
    }
}

/// Rows of a source, by the hashes of their keys.
#[derive(Clone, Debug)]
pub(super) struct These {
    /// The columns that were compared, where those of the key are, and how they were cast before they were hashed.
    pub(super) schema: SchemaRef,
    pub(super) keys: Vec<usize>,
    pub(super) casts: Casts,
    pub(super) hashes: Arc<HashSet<u64>>,
    /// None of them is there twice.
    pub(super) are_unique: bool,
}

/// Keeps just some rows.
struct OnlyThese(These);

impl Transformer for OnlyThese {
    fn name(&self) -> &str {
        "repair"
    }

    fn bind(&self, input: &SchemaRef) -> Result<Arc<dyn BoundTransformer>> {
        let These { schema, keys, casts, hashes, .. } = self.0.clone();
        let at = schema.fields().iter().map(|field| column_index(input, field.name())).collect::<Result<Vec<_>>>()?;
        let is_same =
            |key: &usize| kind_of(input.field(at[*key]).data_type()) == kind_of(schema.field(*key).data_type());
        if !keys.iter().all(is_same) {
            let message = "the key is read with another type than it was compared with";
            return Err(Error::new(ErrorKind::SchemaMismatch, message).hint("give its type by the option types"));
        }
        let keep = FilterTransformer::over_batches(move |batch| {
            let found = row_hashes(&key_of(&batch.project(&at)?, &keys, &casts)?)?;
            Ok(found.iter().map(|hash| Some(hashes.contains(hash))).collect::<BooleanArray>())
        });
        keep.bind(input)
    }

    fn effect(&self) -> Effect {
        // So that the source is read with the types with which it was compared.
        Effect::Keeps { tests: Vec::new(), by_type: Vec::new(), reads: Vec::new(), may_fail: true }
    }
}
