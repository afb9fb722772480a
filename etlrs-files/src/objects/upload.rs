use std::collections::VecDeque;
use std::fmt;
use std::io::{self, Write};
use std::time::Duration;

use bytes::Bytes;
use etlrs_core::{CancelToken, Error, ErrorKind, LoadMode, Result};
use futures_util::StreamExt;
use object_store::{MultipartUpload, ObjectMeta, ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload};

use super::request::{Pending, request};
use super::{AT_ONCE, Address};

/// The smallest part that S3 takes, but for the last.
pub(crate) const SMALLEST_PART: usize = 5 << 20;
pub(crate) const LARGEST_PART: usize = 64 << 20;
/// The most parts that S3 takes.
const MOST_PARTS: usize = 10_000;
/// How long giving up an upload may take. What is left of it is invisible, and a rule of the bucket can remove it.
const GIVE_UP: Duration = Duration::from_secs(5);

/// An object that is being uploaded in parts. Nobody sees it before [`complete`](Upload::complete); dropping it gives it up.
pub(crate) struct Upload {
    address: Address,
    cancel: CancelToken,
    part: usize,
    /// Parts that may be under way at once.
    at_once: usize,
    buffer: Vec<u8>,
    upload: Option<Box<dyn MultipartUpload>>,
    under_way: VecDeque<Pending<()>>,
    parts: usize,
    bytes: u64,
    /// Small enough for one request, which can refuse to replace an object.
    is_small: bool,
    finished: bool,
}

impl fmt::Debug for Upload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Upload({}, {} bytes)", self.address.shown().display(), self.bytes)
    }
}

impl Upload {
    /// In parts of `part` bytes, of which `at_once` may be under way while the next is filled. If `whole`, an object of
    /// less than a part is kept until it is complete; otherwise it is uploaded when it is finished.
    pub(crate) fn new(address: Address, part: usize, at_once: usize, whole: bool, cancel: &CancelToken) -> Self {
        Self {
            address,
            cancel: cancel.clone(),
            part: part.clamp(SMALLEST_PART, LARGEST_PART),
            at_once: at_once.max(1),
            buffer: Vec::new(),
            upload: None,
            under_way: VecDeque::new(),
            parts: 0,
            bytes: 0,
            is_small: whole,
            finished: false,
        }
    }

    fn send_part(&mut self) -> Result<()> {
        if self.parts == MOST_PARTS {
            let message = format!("an object can have {MOST_PARTS} parts, and this one would need more");
            return Err(Error::new(ErrorKind::Unsupported, message)
                .hint("write to a directory, or give more memory, which makes larger parts")
                .in_source(self.address.shown().display()));
        }
        self.is_small = false;
        let upload = match &mut self.upload {
            Some(upload) => upload,
            none => {
                let (store, key) = (self.address.store(), self.address.key.clone());
                let begun =
                    request(&self.cancel, self.address.failed("write"), async move { store.put_multipart(&key).await });
                none.insert(begun?.wait()?)
            }
        };
        while self.under_way.len() >= self.at_once {
            self.under_way.pop_front().map_or(Ok(()), Pending::wait)?;
        }
        let part = upload.put_part(PutPayload::from(std::mem::take(&mut self.buffer)));
        self.under_way.push_back(request(&self.cancel, self.address.failed("write"), part)?);
        self.parts += 1;
        Ok(())
    }

    /// Sends what is left, and waits until the store has all of it; gives its size. Nobody sees it yet.
    pub(crate) fn finish(&mut self) -> Result<u64> {
        if self.finished {
            return Ok(self.bytes);
        }
        if !self.is_small && (self.parts == 0 || !self.buffer.is_empty()) {
            self.send_part()?;
        }
        while let Some(part) = self.under_way.pop_front() {
            part.wait()?;
        }
        self.finished = true;
        Ok(self.bytes)
    }

    /// Makes the object visible; in mode create it does not replace one that exists.
    ///
    /// Nothing stops it, for what was sent may be done. If the answer is lost, a look tells whether it was.
    ///
    /// # Errors
    /// `AlreadyExists` for an object that is not to be replaced; others after which the object is as it was, or which say that
    /// this is not known.
    pub(crate) fn complete(mut self, mode: LoadMode) -> Result<()> {
        self.finish()?;
        let new = mode == LoadMode::Create;
        let cancel = CancelToken::new();
        let before = self.address.find(&cancel)?;
        // Completing an upload cannot be made to depend on this, so there is a moment between the look and the completion.
        if new && before.is_some() {
            return Err(self.exists());
        }
        let done = match self.upload.take() {
            None => return self.put(new, &cancel),
            Some(mut upload) => {
                let completed = request(&cancel, self.address.failed("write"), async move {
                    let done = upload.complete().await.map(drop);
                    Ok((upload, done))
                });
                let (upload, done) = completed?.wait()?;
                if done.is_err() {
                    self.upload = Some(upload);
                }
                done.map_err(self.address.failed("write"))
            }
        };
        let Err(error) = done else { return Ok(()) };
        let version = |found: &ObjectMeta| (found.e_tag.clone(), found.version.clone(), found.last_modified);
        match self.address.find(&cancel) {
            Ok(after) if after.as_ref().map(version) == before.as_ref().map(version) => Err(error),
            // A second try found no such upload any more, for the first had completed it.
            Ok(Some(after)) if error.kind() == ErrorKind::NotFound && after.size == self.bytes => Ok(()),
            _ => Err(in_doubt(error)),
        }
    }

    /// Writes an object of less than a part, which one request does.
    fn put(&mut self, new: bool, cancel: &CancelToken) -> Result<()> {
        let text = Bytes::from(std::mem::take(&mut self.buffer));
        let (store, key, payload) = (self.address.store(), self.address.key.clone(), PutPayload::from(text.clone()));
        let mode = if new { PutMode::Create } else { PutMode::Overwrite };
        let put = request(cancel, self.address.failed("write"), async move {
            store.put_opts(&key, payload, PutOptions::from(mode)).await.map(drop)
        });
        let Err(error) = put?.wait() else { return Ok(()) };
        // Then it was refused before anything was done.
        if matches!(error.kind(), ErrorKind::PermissionDenied | ErrorKind::NotFound | ErrorKind::InvalidConfig) {
            return Err(error);
        }
        // What is there may be any object; only one that may be ours is read.
        let is_ours = match self.address.find(cancel) {
            Ok(Some(found)) if found.size == text.len() as u64 => {
                self.address.read(cancel).map(|found| found.is_some_and(|(found, _)| found == text))
            }
            Ok(_) => Ok(false),
            Err(error) => Err(error),
        };
        match is_ours {
            Ok(true) => Ok(()),
            Ok(false) if error.kind() == ErrorKind::AlreadyExists => Err(self.exists()),
            _ => Err(in_doubt(error)),
        }
    }

    fn exists(&self) -> Error {
        Error::new(ErrorKind::AlreadyExists, "the target appeared while the run was going on")
            .hint("use mode replace or append, or another name")
            .in_source(self.address.shown().display())
    }

    /// What completes or gives up the upload, if anything was sent.
    pub(crate) fn into_parts(mut self) -> Option<Box<dyn MultipartUpload>> {
        self.under_way.clear();
        self.upload.take()
    }
}

fn in_doubt(error: Error) -> Error {
    error.hint("whether the object was written is not known: look at it")
}

/// Gives up `uploads`, also when the run was cancelled, but not for longer than a moment.
pub(crate) fn give_up(uploads: Vec<Box<dyn MultipartUpload>>) {
    if uploads.is_empty() {
        return;
    }
    let work = async move {
        let aborts = uploads.into_iter().map(|mut upload| async move { upload.abort().await });
        let aborts: Vec<_> = aborts.collect();
        futures_util::stream::iter(aborts).buffer_unordered(AT_ONCE).collect::<Vec<_>>().await;
        Ok(())
    };
    let failed = |error: object_store::Error| Error::new(ErrorKind::Connection, error.to_string());
    if let Ok(pending) = request(&CancelToken::new(), failed, work) {
        let _ = pending.wait_at_most(GIVE_UP);
    }
}

impl Write for Upload {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.buffer.capacity() == 0 {
            self.buffer.reserve_exact(self.part.min(1 << 20));
        }
        let room = self.part.saturating_sub(self.buffer.len());
        let taken = bytes.get(..room).unwrap_or(bytes);
        // Grown to the size of a part at once when it is more than a small object: by doubling it might take twice that.
        if self.buffer.capacity() < self.buffer.len() + taken.len() {
            self.buffer.reserve_exact(room);
        }
        self.buffer.extend_from_slice(taken);
        self.bytes += taken.len() as u64;
        if self.buffer.len() >= self.part {
            self.send_part().map_err(io::Error::other)?;
        }
        Ok(taken.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        self.under_way.clear();
        give_up(self.upload.take().into_iter().collect());
    }
}
