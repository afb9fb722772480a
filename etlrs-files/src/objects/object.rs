use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use etlrs_core::{CancelToken, Result};
use object_store::{GetOptions, GetRange, ObjectMeta, ObjectStore};

use super::Address;
use super::request::{Pending, request};

/// A small read asks for so much, for more small reads nearby come soon: a header, a footer.
const NEARBY: u64 = 64 << 10;

/// An object that is read by ranges. Clones are the same object, in the version that was there when it was opened.
#[derive(Clone, Debug)]
pub(crate) struct Object(Arc<Opened>);

#[derive(Debug)]
struct Opened {
    address: Address,
    length: u64,
    tag: Option<String>,
    cancel: CancelToken,
    /// The last small read.
    nearby: Mutex<(u64, Bytes)>,
}

impl Object {
    pub(crate) fn new(address: Address, found: &ObjectMeta, cancel: &CancelToken) -> Self {
        Self(Arc::new(Opened {
            address,
            length: found.size,
            tag: found.e_tag.clone(),
            cancel: cancel.clone(),
            nearby: Mutex::default(),
        }))
    }

    pub(crate) fn length(&self) -> u64 {
        self.0.length
    }

    /// Asks for the bytes of `range`, which is within the object.
    fn get(&self, range: Range<u64>) -> Result<Pending<Bytes>> {
        let Opened { address, tag, cancel, .. } = &*self.0;
        let (store, key) = (address.store(), address.key.clone());
        let options =
            GetOptions { range: Some(GetRange::Bounded(range)), if_match: tag.clone(), ..GetOptions::default() };
        request(cancel, address.failed("read"), async move { store.get_opts(&key, options).await?.bytes().await })
    }

    /// Bytes from `offset` on, as many as `buffer` holds or as there are.
    pub(crate) fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let left = self.length().saturating_sub(offset);
        let wanted = left.min(buffer.len() as u64);
        if wanted == 0 {
            return Ok(0);
        }
        if wanted >= NEARBY {
            let bytes = self.get(offset..offset + wanted).and_then(Pending::wait).map_err(io::Error::other)?;
            return Ok(copy(&bytes, 0, buffer));
        }
        let mut nearby = self.0.nearby.lock().unwrap_or_else(PoisonError::into_inner);
        let (start, bytes) = &*nearby;
        if offset < *start || offset + wanted > start + bytes.len() as u64 {
            // Near the end, what comes before is wanted next: the footer after its length.
            let start = offset.min(self.length().saturating_sub(NEARBY));
            let end = (start + NEARBY).max(offset + wanted).min(self.length());
            let bytes = self.get(start..end).and_then(Pending::wait).map_err(io::Error::other)?;
            *nearby = (start, bytes);
        }
        Ok(copy(&nearby.1, offset - nearby.0, buffer))
    }

    /// Reads `range` from front to back, in blocks of `block` bytes, of which the next is always under way.
    pub(crate) fn reader(&self, range: Range<u64>, block: usize) -> ObjectReader {
        let end = range.end.min(self.length());
        ObjectReader { object: self.clone(), end, block: block.max(1) as u64, current: (0, Bytes::new()), next: None }
    }
}

fn copy(bytes: &[u8], from: u64, buffer: &mut [u8]) -> usize {
    let bytes = usize::try_from(from).ok().and_then(|from| bytes.get(from..)).unwrap_or_default();
    let length = bytes.len().min(buffer.len());
    buffer[..length].copy_from_slice(&bytes[..length]);
    length
}

/// Reads an object, or a part of one, front to back.
#[derive(Debug)]
pub(crate) struct ObjectReader {
    object: Object,
    end: u64,
    block: u64,
    /// The block that is being read, from this offset on. It is kept until something behind it is read.
    current: (u64, Bytes),
    next: Option<(u64, Pending<Bytes>)>,
}

impl ObjectReader {
    /// Starts to read at `offset`, without waiting.
    pub(crate) fn prefetch(&mut self, offset: u64) -> Result<()> {
        let end = (offset + self.block).min(self.end);
        if self.next.is_none() && offset < end {
            self.next = Some((offset, self.object.get(offset..end)?));
        }
        Ok(())
    }

    /// Gives up the blocks that it holds.
    pub(crate) fn close(&mut self) {
        self.current = (0, Bytes::new());
        self.next = None;
    }

    /// Bytes from `offset` on: some, unless it is the end. Reading on from where the last read ended is what it is made for.
    pub(crate) fn read_at(&mut self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        if offset >= self.end || buffer.is_empty() {
            return Ok(0);
        }
        let (start, bytes) = &self.current;
        if offset < *start || offset >= start + bytes.len() as u64 {
            self.advance(offset).map_err(io::Error::other)?;
        }
        Ok(copy(&self.current.1, offset - self.current.0, buffer))
    }

    fn advance(&mut self, offset: u64) -> Result<()> {
        let within = |start: u64| (start..start.saturating_add(self.block)).contains(&offset);
        if !self.next.as_ref().is_some_and(|(start, _)| within(*start)) {
            self.next = None;
            self.prefetch(offset)?;
        }
        if let Some((start, pending)) = self.next.take() {
            // What was read is given up first, so that two blocks are held and not three.
            self.current = (0, Bytes::new());
            self.current = (start, pending.wait()?);
        }
        self.prefetch(self.current.0 + self.current.1.len() as u64)
    }
}
