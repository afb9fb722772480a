//! What a run has staged at a local target, kept beside it so that the run can go on if it is stopped.
//!
//! Design note. One JSON object a line in `.NAME.etlrs-RUN.ledger`: first what the run is, then each partition when its file is
//! complete, or its rows are in the one file, where partitions come in their order. Nothing is synced for it, which would cost
//! every run to help the few that die with their machine: a line counts only if it can be read whole and the bytes that it tells
//! of have the CRC that it tells, which is looked at when a run goes on. So a crash of the machine costs partitions, and never
//! makes wrong ones.
//!
//! The ledger stays when the target has been published, as the mark of that, until the engine has told it. So it is synced before
//! the staging gets its place, and says then that it is about to. Whether it got it, that of the one file is known by its
//! temporary name, which the same rename takes away: what is at the target tells nothing, for another program may have written
//! there since. So no one takes that name away before the ledger is gone, or says nothing of a place any more.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use crc32fast::Hasher;
use etlrs_core::{CancelToken, Checksum, Error, LoadPlan, PartitionId, Receipt, Result, RunId, Tally, failpoint};
use serde::{Deserialize, Serialize};

use super::disk::{parent, remove, sync};

/// With what a run is recognised that goes on.
#[derive(Clone, Debug)]
pub(super) struct Kept {
    /// The [record](LoadPlan::record) of its plan.
    record: Arc<str>,
    /// What was at the target, if the one file begins with it.
    behind: String,
    /// Something is there to go on with, as the plan has it.
    pub(super) goes_on: bool,
    /// Of that, only these [partitions](LoadPlan::take_over).
    take_over: Option<Vec<PartitionId>>,
}

impl Kept {
    /// For `plan`; `None` if nothing is to be kept.
    pub(super) fn of(plan: &LoadPlan) -> Option<Self> {
        let (record, take_over) = (plan.record.clone()?, plan.take_over.clone());
        Some(Self { record, behind: String::new(), goes_on: plan.goes_on, take_over })
    }

    /// Behind what is there already.
    pub(super) fn behind(mut self, old: &impl Debug) -> Self {
        self.behind = format!("{old:?}");
        self
    }
}

/// A partition that is staged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StagedPart {
    /// Index of the partition.
    pub partition: u32,
    /// Name of its file in a directory; none if it has no rows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Rows in it.
    pub rows: u64,
    /// Bytes that they take.
    pub bytes: u64,
    /// In the one file: where the partition before ended, where the rows begin, and where they end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    place: Option<[u64; 3]>,
    /// CRC-32 of the bytes of its file; in the one file of those behind the partition before.
    crc: u32,
    /// Checksum of the rows.
    checksum: String,
    /// Rows that came out of the source.
    rows_read: u64,
    /// A time was finer than microseconds.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub fine: bool,
    /// What the format has to know of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub extra: Option<String>,
}

impl StagedPart {
    /// Of `partition`, as the engine knows it, without a file.
    pub(crate) fn new(partition: PartitionId, tally: Tally) -> Self {
        Self {
            partition: partition.0,
            name: None,
            rows: tally.checksum.rows(),
            bytes: 0,
            place: None,
            crc: 0,
            checksum: tally.checksum.to_string(),
            rows_read: tally.rows_read,
            fine: false,
            extra: None,
        }
    }

    pub(crate) fn with_fine(mut self, fine: bool) -> Self {
        self.fine = fine;
        self
    }

    /// With its file in a directory.
    pub(crate) fn in_file(mut self, name: String, bytes: u64, crc: u32) -> Self {
        (self.name, self.bytes, self.crc) = (Some(name), bytes, crc);
        self
    }

    /// In the one file.
    pub(crate) fn in_one_file(mut self, place: [u64; 3], bytes: u64, crc: u32, extra: Option<String>) -> Self {
        (self.place, self.bytes, self.crc, self.extra) = (Some(place), bytes, crc, extra);
        self
    }

    /// Where its rows are in the one file.
    pub fn range(&self) -> std::ops::Range<u64> {
        self.place.map_or(0..0, |[_, from, end]| from..end)
    }

    /// The receipt for it, if the line says what it should.
    fn receipt(&self) -> Option<Receipt> {
        let tally = Tally { checksum: Checksum::restore(self.rows, &self.checksum)?, rows_read: self.rows_read };
        Some(Receipt::new(PartitionId(self.partition), self.rows, self.bytes).kept(tally))
    }

    /// Whether its file within `directory` has just the bytes that it should.
    fn is_there(&self, directory: &Path, cancel: &CancelToken) -> Result<bool> {
        let Some(name) = &self.name else { return Ok(self.rows == 0) };
        if Path::new(name).file_name() != Some(name.as_ref()) {
            return Ok(false);
        }
        let path = directory.join(name);
        match File::open(&path) {
            Ok(file) if file.metadata().is_ok_and(|found| found.len() == self.bytes) => {
                Ok(crc_of(&path, file, self.bytes, cancel)? == Some(self.crc))
            }
            Ok(_) => Ok(false),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(Error::io("read again", &path, error)),
        }
    }
}

/// CRC-32 of the next `length` bytes of `file`; `None` if there are less.
fn crc_of(path: &Path, file: impl Read, length: u64, cancel: &CancelToken) -> Result<Option<u32>> {
    let (mut crc, mut block, mut left) = (Hasher::new(), vec![0; 1 << 20], length);
    let mut file = file.take(length);
    while left > 0 {
        cancel.check()?;
        let read = file.read(&mut block).map_err(|error| Error::io("read again", path, error))?;
        if read == 0 {
            return Ok(None);
        }
        crc.update(block.get(..read).unwrap_or_default());
        left -= read as u64;
    }
    Ok(Some(crc.finalize()))
}

/// Those of `parts`, from the first on, whose bytes are all there in the one file `staged`. What comes before the first is that of
/// the file `old`, to which the load appends.
fn in_one_file(parts: Vec<StagedPart>, staged: &Path, old: &Path, cancel: &CancelToken) -> Result<Vec<StagedPart>> {
    let file = match File::open(staged) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        file => file.map_err(|error| Error::io("read again", staged, error))?,
    };
    let mut file = BufReader::new(file);
    let (mut whole, mut at) = (Vec::new(), 0);
    for (index, part) in parts.into_iter().enumerate() {
        let (Some([start, from, end]), true) = (part.place, u32::try_from(index) == Ok(part.partition)) else { break };
        if index == 0 && start > 0 {
            let begun = File::open(old).ok().map(|old| crc_of(staged, old, start, cancel));
            let begun = begun.transpose()?.flatten();
            if begun.is_none() || crc_of(staged, &mut file, start, cancel)? != begun {
                break;
            }
            at = start;
        }
        let is_behind = start == at && (start..=end).contains(&from);
        if !is_behind || crc_of(staged, &mut file, end - start, cancel)? != Some(part.crc) {
            break;
        }
        at = end;
        whole.push(part);
    }
    Ok(whole)
}

/// The first line.
#[derive(Debug, Serialize, Deserialize)]
struct Head {
    ledger: u32,
    run: String,
    record: String,
    behind: String,
}

const VERSION: u32 = 2;

/// Any other line.
#[derive(Debug, Serialize, Deserialize)]
#[serde(untagged)]
enum Line {
    Part(StagedPart),
    Publishing(Publishing),
}

/// What is staged is about to get its place.
#[derive(Debug, Serialize, Deserialize)]
struct Publishing {
    publishing: bool,
}

/// What a ledger says.
pub(super) struct Found {
    head: Head,
    parts: Vec<StagedPart>,
    /// Whether what is staged was about to get its place.
    pub(super) is_publishing: bool,
}

impl Found {
    /// Reads the ledger at `path`; `None` if there is none that can be understood.
    pub(super) fn read(path: &Path) -> Result<Option<Self>> {
        let file = match File::open(path) {
            Ok(file) => file,
            // One that is another user's is not for this one to go on with.
            Err(error) if [io::ErrorKind::NotFound, io::ErrorKind::PermissionDenied].contains(&error.kind()) => {
                return Ok(None);
            }
            Err(error) => return Err(Error::io("read", path, error)),
        };
        let mut lines = BufReader::new(file).split(b'\n').map_while(std::result::Result::ok);
        let head = lines.next().and_then(|line| serde_json::from_slice::<Head>(&line).ok());
        let Some(head) = head.filter(|head| head.ledger == VERSION) else { return Ok(None) };
        // The last line may be torn, and a part may have been staged again.
        let (mut parts, mut is_publishing) = (BTreeMap::new(), false);
        for line in lines.map_while(|line| serde_json::from_slice::<Line>(&line).ok()) {
            match line {
                Line::Part(part) => _ = parts.insert(part.partition, part),
                Line::Publishing(Publishing { publishing }) => is_publishing = publishing,
            }
        }
        Ok(Some(Self { head, parts: parts.into_values().collect(), is_publishing }))
    }

    pub(super) fn run(&self) -> Option<RunId> {
        self.head.run.parse().ok()
    }

    pub(super) fn record(&self) -> &str {
        &self.head.record
    }

    /// Whether it was kept for the same work.
    pub(super) fn is_of(&self, kept: &Kept) -> bool {
        *self.head.record == *kept.record
    }

    /// Of all parts.
    pub(super) fn receipts(&self) -> Vec<Receipt> {
        self.parts.iter().filter_map(StagedPart::receipt).collect()
    }
}

/// The ledger of a run at work.
#[derive(Debug)]
pub(super) struct Ledger {
    path: PathBuf,
    file: Mutex<File>,
    completed: Vec<StagedPart>,
    receipts: Vec<Receipt>,
}

impl Ledger {
    /// Opens the ledger of `run` at `path`. What an earlier attempt completed at `staged` is taken over if it was kept with the same
    /// words: files of a directory, or rows of the one file that is to take the place of `old`.
    pub(super) fn open(
        path: PathBuf,
        run: RunId,
        kept: &Kept,
        staged: &Path,
        old: Option<&Path>,
        cancel: &CancelToken,
    ) -> Result<Self> {
        let found = Found::read(&path)?;
        let was_publishing = found.as_ref().is_some_and(|found| found.is_publishing);
        let found = found.filter(|found| found.is_of(kept) && found.head.behind == kept.behind);
        let parts: Vec<_> = found.into_iter().flat_map(|found| found.parts).collect();
        let is_taken = |part: &StagedPart| {
            kept.take_over.as_ref().is_none_or(|taken| taken.contains(&PartitionId(part.partition)))
        };
        let parts: Vec<_> = parts.into_iter().filter(|part| is_taken(part) && part.receipt().is_some()).collect();
        let completed = match old {
            Some(old) => in_one_file(parts, staged, old, cancel)?,
            None => {
                let mut whole = Vec::new();
                for part in parts {
                    if part.is_there(staged, cancel)? {
                        whole.push(part);
                    }
                }
                whole
            }
        };
        let receipts = completed.iter().filter_map(StagedPart::receipt).collect();
        let failed = |error| Error::io("write", &path, error);
        // Written anew under another name, so that a crash in between loses nothing.
        let anew = path.with_extension("ledger~");
        let head = Head {
            ledger: VERSION,
            run: run.to_string(),
            record: kept.record.to_string(),
            behind: kept.behind.clone(),
        };
        let write = || -> io::Result<File> {
            remove(&anew)?;
            // Appended to, so that nothing stays behind a line that was cut off.
            let mut file = OpenOptions::new().append(true).create_new(true).mode(0o600).open(&anew)?;
            let mut text = line(&head)?;
            for part in &completed {
                text.extend(line(part)?);
            }
            file.write_all(&text)?;
            failpoint("files-ledger-written");
            if was_publishing {
                file.sync_all()?;
            }
            fs::rename(&anew, &path)?;
            if was_publishing {
                sync(parent(&path))?;
            }
            Ok(file)
        };
        let written = write().inspect_err(|_| {
            // On a disk that is full it would take what little there is.
            _ = fs::remove_file(&anew);
        });
        let file = Mutex::new(written.map_err(failed)?);
        Ok(Self { path, file, completed, receipts })
    }

    /// What an earlier attempt at the run completed.
    pub(super) fn completed(&self) -> &[StagedPart] {
        &self.completed
    }

    /// The receipts of it.
    pub(super) fn receipts(&self) -> &[Receipt] {
        &self.receipts
    }

    pub(super) fn add(&self, part: &StagedPart) -> Result<()> {
        failpoint("files-part-written");
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let written = line(part).and_then(|line| {
            let length = file.metadata()?.len();
            // What comes behind a torn line could not be read.
            file.write_all(&line).inspect_err(|_| _ = file.set_len(length))
        });
        written.map_err(|error| Error::io("write", &self.path, error))
    }

    /// Says, durably, that what is staged is about to get its place.
    pub(super) fn begin_publishing(&self) -> Result<()> {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let written = line(&Publishing { publishing: true }).and_then(|line| file.write_all(&line));
        written
            .and_then(|()| file.sync_all())
            .and_then(|()| sync(parent(&self.path)))
            .map_err(|error| Error::io("write", &self.path, error))
    }

    /// Partitions that there are to go on with.
    pub(super) fn parts(&self) -> usize {
        Found::read(&self.path).ok().flatten().map_or(0, |found| found.parts.len())
    }

    pub(super) fn remove(&self) -> io::Result<()> {
        remove(&self.path)
    }
}

/// One write for each line, so that lines of several writers do not mix.
fn line(value: &impl Serialize) -> io::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    Ok(line)
}
