//! The buffer that values are appended to.

/// Bytes of which a number, a date or a time needs fewer.
pub const SLOT: usize = 48;
/// Text up to one of these lengths is copied as so many bytes, of which the rest is overwritten: a move or two of registers,
/// where a copy of the right length would be a call.
const SHORT: usize = 32;
const LONGER: usize = 64;

/// A growing buffer with room behind its end, so that appending is a check and a few moves.
#[derive(Debug, Default)]
pub struct Output {
    /// What is behind `length` means nothing.
    bytes: Vec<u8>,
    length: usize,
}

impl Output {
    /// That uses the memory of `buffer`.
    pub fn reusing(buffer: Vec<u8>) -> Self {
        Self { bytes: buffer, length: 0 }
    }

    /// Bytes appended.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether nothing was appended.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Bytes of memory.
    pub fn memory(&self) -> usize {
        self.bytes.capacity()
    }

    /// What was appended.
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }

    /// Forgets what was appended after the first `length` bytes.
    pub fn truncate(&mut self, length: usize) {
        self.length = self.length.min(length);
    }

    /// The buffer, whose first [`len`](Self::len) bytes are what was appended.
    pub fn into_buffer(self) -> Vec<u8> {
        self.bytes
    }

    #[inline(always)]
    fn reserve(&mut self, more: usize) {
        if self.bytes.len() - self.length < more {
            self.grow(more);
        }
    }

    #[cold]
    fn grow(&mut self, more: usize) {
        // Twice the size, so that all growing together costs no more than the last.
        let size = (2 * self.bytes.len()).max(self.length + more).max(4096);
        // What was reserved is used up first.
        let size = if self.bytes.capacity() >= self.length + more { self.bytes.capacity() } else { size };
        self.bytes.resize(size, 0);
    }

    /// Appends a byte.
    #[inline(always)]
    pub fn push(&mut self, byte: u8) {
        self.reserve(1);
        self.bytes[self.length] = byte;
        self.length += 1;
    }

    /// Overwrites the last byte.
    #[inline(always)]
    pub fn replace_last(&mut self, byte: u8) {
        if let Some(last) = self.length.checked_sub(1) {
            self.bytes[last] = byte;
        }
    }

    /// Appends what `write` puts at the start of a slot; it gives the length.
    #[inline(always)]
    pub fn slot(&mut self, write: impl FnOnce(&mut [u8; SLOT]) -> usize) {
        self.reserve(SLOT);
        if let Some(slot) = self.bytes[self.length..].first_chunk_mut() {
            self.length += write(slot).min(SLOT);
        }
    }

    /// Appends bytes.
    #[inline(always)]
    pub fn extend(&mut self, bytes: &[u8]) {
        self.reserve(bytes.len());
        let end = self.length + bytes.len();
        self.bytes[self.length..end].copy_from_slice(bytes);
        self.length = end;
    }

    /// Appends `values[start..end]`.
    #[inline(always)]
    pub fn extend_from(&mut self, values: &[u8], start: usize, end: usize) {
        let length = end - start;
        self.reserve(length.max(LONGER));
        let (from, to) = (&values[start..], &mut self.bytes[self.length..]);
        if let (Some(from), Some(to), true) = (from.first_chunk::<SHORT>(), to.first_chunk_mut(), length <= SHORT) {
            *to = *from;
        } else if let (Some(from), Some(to), true) =
            (from.first_chunk::<LONGER>(), to.first_chunk_mut(), length <= LONGER)
        {
            *to = *from;
        } else {
            to[..length].copy_from_slice(&from[..length]);
        }
        self.length += length;
    }
}
