//! Memory that direct I/O can read into and write from.

#![allow(clippy::indexing_slicing, reason = "begin is at most the length, and the length is set before")]

use std::ops::{Deref, DerefMut};

/// Required alignment of addresses, offsets and lengths of direct I/O, in bytes; no disk in use
/// requires more.
pub const ALIGNMENT: usize = 4096;

/// Bytes that begin at a multiple of [`ALIGNMENT`], as long as [`Aligned::extend_from_slice`] stays
/// within the capacity. Should be reused: allocating fresh memory takes longer than filling it.
#[derive(Default)]
pub struct Aligned {
    bytes: Vec<u8>,
    begin: usize,
}

impl Aligned {
    /// Creates an empty buffer with a capacity of `size` bytes. Unused capacity takes no memory.
    pub fn with_capacity(size: usize) -> Aligned {
        let mut bytes: Vec<u8> = Vec::with_capacity(size + ALIGNMENT);
        let begin = bytes.as_ptr().align_offset(ALIGNMENT).min(ALIGNMENT);
        bytes.resize(begin, 0);
        Aligned { bytes, begin }
    }

    pub fn extend_from_slice(&mut self, more: &[u8]) {
        self.bytes.extend_from_slice(more);
    }

    /// Removes all bytes and keeps the memory.
    pub fn clear(&mut self) {
        self.bytes.truncate(self.begin);
    }

    /// Returns the first `size` bytes, to be overwritten: their content is unspecified. Grows the
    /// buffer if it has fewer bytes.
    pub fn slice(&mut self, size: usize) -> &mut [u8] {
        if self.begin + size > self.bytes.capacity() {
            // Doubled, so that a size that grows in small steps does not allocate each time.
            *self = Aligned::with_capacity(size.max(2 * self.bytes.len()));
        }
        if self.len() < size {
            self.bytes.resize(self.begin + size, 0);
        }
        &mut self[..size]
    }

    /// Returns the first `size` bytes, or all bytes if the buffer has fewer.
    pub fn bytes(&self, size: usize) -> &[u8] {
        &self[..size.min(self.len())]
    }
}

impl Deref for Aligned {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[self.begin..]
    }
}

impl DerefMut for Aligned {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.begin..]
    }
}
