//! Content of files before its compression: frames, the pieces of files in them, and the pool of
//! their memory. Does not manage threads, and does not compress.

use super::found::FoundFile;
use super::known::KnownFile;
use crate::codec::compress::FRAME;
use crate::error::{Error, Result, part};
use crate::fs::aligned::Aligned;
use parking_lot::Mutex;
use std::sync::Arc;

/// Up to [`FRAME`] bytes of files that are compressed together.
#[derive(Default)]
pub(super) struct RawFrame {
    /// Memory of exactly [`FRAME`] bytes, which is not reallocated while it is filled.
    buffer: Aligned,
    /// Number of bytes of content.
    filled: usize,
    pub pieces: Vec<FramePiece>,
}

/// Consecutive bytes of a file in a frame.
pub(super) struct FramePiece {
    /// Number of the file.
    pub file: u64,
    /// Offset in the file.
    pub offset: u64,
    /// Offset in the frame.
    pub skip: usize,
    pub length: usize,
    /// Bytes of a block.
    pub block: u32,
    /// The file and the number of its first page in its relation; `None` when its pages are not
    /// verified.
    pub pages: Option<(Arc<FoundFile>, u32)>,
    /// The file in an earlier backup; `None` when no earlier backup has it.
    pub known: Option<Arc<KnownFile>>,
}

impl FramePiece {
    /// Number, in the file, of the first block of the piece.
    pub fn first_block(&self) -> Result<usize> {
        let number = self.offset / u64::from(self.block);
        usize::try_from(number).map_err(|_| Error::defect(format!("block {number} of a file")))
    }
}

impl RawFrame {
    pub fn content(&self) -> &[u8] {
        self.buffer.bytes(self.filled)
    }

    pub fn filled(&self) -> usize {
        self.filled
    }

    /// Whether there is room for this number of bytes.
    pub fn has_room(&self, bytes: usize) -> bool {
        self.filled + bytes <= FRAME
    }

    /// Memory behind the content.
    pub fn free(&mut self) -> Result<&mut [u8]> {
        let filled = self.filled;
        let memory = self.buffer.slice(FRAME).get_mut(filled..);
        memory.ok_or_else(|| Error::defect(format!("a frame of {filled} bytes")))
    }

    /// Adds a piece whose bytes the caller has written to the beginning of [`RawFrame::free`]. Sets
    /// the piece's `skip`.
    pub fn push(&mut self, piece: FramePiece) {
        let skip = self.filled;
        self.filled += piece.length;
        self.pieces.push(FramePiece { skip, ..piece });
    }

    /// Adds a piece and copies its bytes. Fails when there is no room for them.
    pub fn append(&mut self, piece: FramePiece, bytes: &[u8]) -> Result<()> {
        let memory = self.free()?.get_mut(..bytes.len());
        memory.ok_or_else(|| Error::defect("a piece that does not fit its frame"))?.copy_from_slice(bytes);
        self.push(piece);
        Ok(())
    }

    /// The bytes of a piece of this frame.
    pub fn bytes_of(&self, piece: &FramePiece) -> Result<&[u8]> {
        part(self.content(), piece.skip..piece.skip + piece.length)
    }

    /// Removes the content and keeps the memory.
    pub fn emptied(mut self) -> RawFrame {
        self.pieces.clear();
        self.filled = 0;
        self
    }
}

/// Empty frames whose memory is reused, shared by the threads of a backup.
#[derive(Default)]
pub(super) struct FramePool(Mutex<Vec<RawFrame>>);

impl FramePool {
    /// Takes an empty frame out of the pool, or makes one.
    pub fn take(&self) -> RawFrame {
        let mut frame = self.0.lock().pop().unwrap_or_default();
        frame.buffer.slice(FRAME);
        frame
    }

    /// Returns a frame to the pool.
    pub fn put_back(&self, frame: RawFrame) {
        self.0.lock().push(frame.emptied());
    }
}
