//! What a run has staged at a local target, kept beside it so that the run can go on if it is stopped.
//!
//! Design note. One JSON object a line in `.NAME.etlrs-RUN.ledger`: first what the run is, then each partition when its file is
//! complete. Nothing is synced for it, which would cost every run to help the few that die with their machine: a line counts
//! only if it can be read whole and the file that it names has the bytes whose CRC it tells, which is looked at when a run goes on.
//! So a crash of the machine costs partitions, and never makes wrong ones.
//!
//! The ledger stays when the target has been published, as the mark of that, until the engine has told it.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use crc32fast::Hasher;
use etlrs_core::{CancelToken, Checksum, Error, LoadPlan, PartitionId, Receipt, Result, RunId, Tally};
use serde::{Deserialize, Serialize};

/// With what a run is recognised that goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// The [record](LoadPlan::record) of its plan.
    record: Arc<str>,
    /// How files are written.
    form: String,
}

impl Kept {
    /// For `plan`, by a loader with `options`; `None` if nothing is to be kept.
    pub fn of(plan: &LoadPlan, options: &impl std::fmt::Debug) -> Option<Self> {
        let record = plan.record.clone()?;
        // Another version may write in another way.
        Some(Self { record, form: format!("{} {options:?}", env!("CARGO_PKG_VERSION")) })
    }
}

/// A partition that is staged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StagedPart {
    /// Index of the partition.
    pub partition: u32,
    /// Name of its file in a directory; none if it has no rows.
    pub name: Option<String>,
    /// Rows in it.
    pub rows: u64,
    /// Its size.
    pub bytes: u64,
    /// CRC-32 of its bytes.
    crc: u32,
    /// Checksum of the rows.
    checksum: String,
    /// Rows that came out of the source.
    rows_read: u64,
    /// A time was finer than microseconds.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub fine: bool,
}

impl StagedPart {
    /// Of `partition`, as the engine knows it, without a file.
    pub(crate) fn new(partition: PartitionId, tally: Tally) -> Self {
        Self {
            partition: partition.0,
            name: None,
            rows: tally.checksum.rows(),
            bytes: 0,
            crc: 0,
            checksum: tally.checksum.to_string(),
            rows_read: tally.rows_read,
            fine: false,
        }
    }

    /// With its file.
    pub(crate) fn file(mut self, name: String, bytes: u64, crc: u32) -> Self {
        (self.name, self.bytes, self.crc) = (Some(name), bytes, crc);
        self
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
        let same = || -> io::Result<bool> {
            let mut file = File::open(&path)?;
            if file.metadata()?.len() != self.bytes {
                return Ok(false);
            }
            let (mut crc, mut block) = (Hasher::new(), vec![0; 1 << 20]);
            while let read @ 1.. = file.read(&mut block)? {
                cancel.check().map_err(io::Error::other)?;
                crc.update(&block[..read]);
            }
            Ok(crc.finalize() == self.crc)
        };
        let checked = match same() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            done => done.map_err(|error| Error::io("read again", &path, error)),
        };
        cancel.check()?;
        checked
    }
}

/// The first line.
#[derive(Debug, Serialize, Deserialize)]
struct Head {
    ledger: u32,
    run: String,
    record: String,
    form: String,
}

const VERSION: u32 = 1;

/// What a ledger says.
pub(super) struct Found {
    head: Head,
    parts: Vec<StagedPart>,
}

impl Found {
    /// Reads the ledger at `path`; `None` if there is none that can be understood.
    pub(super) fn read(path: &Path) -> Result<Option<Self>> {
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::io("read", path, error)),
        };
        let mut lines = BufReader::new(file).split(b'\n').map_while(std::result::Result::ok);
        let head = lines.next().and_then(|line| serde_json::from_slice::<Head>(&line).ok());
        let Some(head) = head.filter(|head| head.ledger == VERSION) else { return Ok(None) };
        // The last line may be torn, and a part may have been staged again.
        let parts = lines.map_while(|line| serde_json::from_slice::<StagedPart>(&line).ok());
        let parts: BTreeMap<_, _> = parts.map(|part| (part.partition, part)).collect();
        Ok(Some(Self { head, parts: parts.into_values().collect() }))
    }

    pub(super) fn run(&self) -> Option<RunId> {
        self.head.run.parse().ok()
    }

    pub(super) fn record(&self) -> &str {
        &self.head.record
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
    /// Opens the ledger of `run` at `path`. Parts of `directory` that an earlier attempt completed are taken over if they were
    /// kept with the same words; whatever else there is, ledger and files, is removed.
    pub(super) fn open(path: PathBuf, run: RunId, kept: &Kept, directory: &Path, cancel: &CancelToken) -> Result<Self> {
        let found = Found::read(&path)?.filter(|found| found.record() == &*kept.record && found.head.form == kept.form);
        let mut completed = Vec::new();
        let mut receipts = Vec::new();
        for part in found.into_iter().flat_map(|found| found.parts) {
            if let Some(receipt) = part.receipt()
                && part.is_there(directory, cancel)?
            {
                receipts.push(receipt);
                completed.push(part);
            }
        }
        let failed = |error| Error::io("write", &path, error);
        // Written anew under another name, so that a crash in between loses nothing.
        let anew = path.with_extension("ledger~");
        let head =
            Head { ledger: VERSION, run: run.to_string(), record: kept.record.to_string(), form: kept.form.clone() };
        let write = || -> io::Result<File> {
            let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&anew)?;
            let mut text = line(&head)?;
            for part in &completed {
                text.extend(line(part)?);
            }
            file.write_all(&text)?;
            fs::rename(&anew, &path)?;
            Ok(file)
        };
        let file = Mutex::new(write().map_err(failed)?);
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
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let written = line(part).and_then(|line| file.write_all(&line));
        written.map_err(|error| Error::io("write", &self.path, error))
    }

    /// Partitions that there are to go on with.
    pub(super) fn parts(&self) -> usize {
        Found::read(&self.path).ok().flatten().map_or(0, |found| found.parts.len())
    }

    pub(super) fn remove(&self) {
        // What is left is removed by the next run.
        let _ = fs::remove_file(&self.path);
    }
}

/// One write for each line, so that lines of several writers do not mix.
fn line(value: &impl Serialize) -> io::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    Ok(line)
}
