//! The ranges of packs to read for the blocks of files, in the order of the packs.

use super::Archive;
use super::entry::{Extent, FileEntry};
use crate::codec::compress::{Decompressor, FRAME};
use crate::codec::hash::{BlockHash, block_hash};
use crate::error::{Error, Kind, Result, part};
use std::collections::BTreeMap;
use std::ops::Range;

/// Maximum bytes of a range of several frames.
pub const READ: u64 = 4 << 20;

/// Maximum bytes between two frames of one range: reading these bytes costs less than a request.
pub const GAP: u64 = 128 << 10;

/// Bytes of a pack that are read at once.
pub struct StoredRange {
    /// Number of the pack in the part of the manifest.
    pub pack: u32,
    pub begin: u64,
    pub end: u64,
    pub frames: Vec<StoredFrame>,
}

/// A frame in a pack, and the blocks in it that are wanted.
pub struct StoredFrame {
    /// Position in the pack.
    pub offset: u64,
    pub length: u32,
    pub pieces: Vec<WantedBlocks>,
}

/// Wanted blocks of one file in a frame.
#[derive(Clone)]
pub struct WantedBlocks {
    /// Index of the file among the given files.
    pub file: usize,
    /// Position in the file.
    pub offset: u64,
    /// Position in the content of the frame.
    pub skip: usize,
    pub length: usize,
    /// Numbers of the blocks in the file.
    pub blocks: Range<usize>,
}

/// Returns the ranges to read for files of one part of a manifest. `wanted` gets the index of a
/// file, an extent, and the numbers of its blocks in the file, and returns the wanted ones of these
/// blocks.
pub fn stored_ranges<'f, W: IntoIterator<Item = Range<usize>>>(
    files: impl IntoIterator<Item = &'f FileEntry>,
    mut wanted: impl FnMut(usize, &Extent, Range<usize>) -> W,
) -> Vec<StoredRange> {
    let mut frames: BTreeMap<(u32, u64), (u32, Vec<WantedBlocks>)> = BTreeMap::new();
    for (index, file) in files.into_iter().enumerate() {
        for (blocks, extent) in file.extents() {
            let first = blocks.start;
            for blocks in wanted(index, extent, blocks) {
                let frame = frames.entry((extent.pack, extent.offset)).or_insert((extent.length, Vec::new()));
                frame.1.push(WantedBlocks::new(index, file, extent, first, blocks));
            }
        }
    }
    join(
        frames
            .into_iter()
            .map(|((pack, offset), (length, pieces))| (pack, StoredFrame { offset, length, pieces })),
    )
}

/// Joins frames, given in the order of their packs and positions, into ranges to read.
pub fn join(frames: impl IntoIterator<Item = (u32, StoredFrame)>) -> Vec<StoredRange> {
    let mut ranges: Vec<StoredRange> = Vec::new();
    for (pack, frame) in frames {
        let StoredFrame { offset, length, .. } = frame;
        let end = offset.saturating_add(u64::from(length));
        match ranges.last_mut() {
            Some(last)
                if last.pack == pack
                    && (last.end..=last.end + GAP).contains(&offset)
                    && end - last.begin <= READ =>
            {
                last.end = end;
                last.frames.push(frame);
            }
            _ => ranges.push(StoredRange { pack, begin: offset, end, frames: vec![frame] }),
        }
    }
    ranges
}

impl StoredRange {
    /// Returns the bytes of one of its frames, out of the bytes of the range.
    pub fn frame<'b>(&self, frame: &StoredFrame, bytes: &'b [u8]) -> Result<&'b [u8]> {
        self.bytes(frame.offset, frame.length, bytes)
    }

    /// Returns the bytes of the frame at a position in the pack, out of the bytes of the range.
    pub fn bytes<'b>(&self, offset: u64, length: u32, bytes: &'b [u8]) -> Result<&'b [u8]> {
        let begin = usize::try_from(offset.saturating_sub(self.begin)).unwrap_or(usize::MAX);
        // A frame that is named with two lengths is read with one of them.
        let overlap = || Error::new(Kind::Damage, "two frames of it overlap");
        bytes.get(begin..begin.saturating_add(length as usize)).ok_or_else(overlap)
    }
}

impl WantedBlocks {
    /// The `blocks` of an extent that begins with the block `first` of the file.
    pub fn new(
        index: usize,
        file: &FileEntry,
        extent: &Extent,
        first: usize,
        blocks: Range<usize>,
    ) -> WantedBlocks {
        let bytes = file.bytes_of(&blocks);
        WantedBlocks {
            file: index,
            offset: bytes.start,
            skip: extent.skip as usize + (blocks.start - first) * file.block as usize,
            length: saturating(bytes.end - bytes.start),
            blocks,
        }
    }

    /// Returns the part of these blocks that is in `wanted`; `None` when no block is.
    pub fn cut(&self, file: &FileEntry, wanted: &Range<usize>) -> Option<WantedBlocks> {
        let blocks = self.blocks.start.max(wanted.start)..self.blocks.end.min(wanted.end);
        if blocks.is_empty() {
            return None;
        }
        let bytes = file.bytes_of(&blocks);
        Some(WantedBlocks {
            file: self.file,
            offset: bytes.start,
            skip: self.skip.saturating_add(saturating(bytes.start - self.offset)),
            length: saturating(bytes.end - bytes.start),
            blocks,
        })
    }

    /// Returns the bytes of the blocks, out of the content of the frame.
    pub fn of<'c>(&self, content: &'c [u8]) -> Result<&'c [u8]> {
        content
            .get(self.skip..self.skip.saturating_add(self.length))
            .ok_or_else(|| Error::new(Kind::Damage, "a frame is too short"))
    }

    /// Returns the bytes of the blocks.
    ///
    /// # Errors
    ///
    /// [`Kind::Damage`] when a block does not have the hash that the manifest gives.
    pub fn checked<'c>(&self, file: &FileEntry, content: &'c [u8]) -> Result<&'c [u8]> {
        let bytes = self.of(content)?;
        let expected = part(&file.hashes, self.blocks.clone())?;
        match mismatched_blocks(bytes, file.block, expected) {
            None => Ok(bytes),
            Some(_) => Err(self.damaged(&file.path.display())),
        }
    }

    /// Returns the error for damage in these blocks of a file.
    pub fn damaged(&self, path: &str) -> Error {
        let Range { start, end } = self.blocks;
        Error::new(Kind::Damage, format!("blocks {start} to {} of {path} are damaged", end.saturating_sub(1)))
    }
}

/// Converts a number of bytes in memory. A number above `usize::MAX` saturates: it is larger than
/// any frame, so [`WantedBlocks::of`] fails as damage.
fn saturating(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

/// Returns the range from the first to the last block whose hash is not the expected one; `None`
/// when all blocks match.
pub fn mismatched_blocks(bytes: &[u8], block: u32, expected: &[BlockHash]) -> Option<Range<usize>> {
    let blocks = bytes.chunks(block.max(1) as usize);
    if blocks.len() != expected.len() {
        return Some(0..blocks.len().max(expected.len()));
    }
    let is_wrong = |(block, hash): (&[u8], &BlockHash)| block_hash(block) != *hash;
    let wrong = blocks.zip(expected).enumerate().filter_map(|(at, pair)| is_wrong(pair).then_some(at));
    wrong.fold(None, |found, at| Some(found.map_or(at, |range: Range<usize>| range.start)..at + 1))
}

impl Archive {
    /// Reads a small file, checked block by block. `packs`: the packs of its part of the manifest.
    pub fn read_file(&self, packs: &[String], file: &FileEntry) -> Result<Vec<u8>> {
        let size =
            usize::try_from(file.size).map_err(|_| Error::new(Kind::Damage, "the file is too large"))?;
        let mut content = vec![0; size];
        let mut decompressor = Decompressor::default();
        let mut unpacked = Vec::new();
        for range in stored_ranges([file], |_, _, blocks| Some(blocks)) {
            let pack =
                packs.get(range.pack as usize).ok_or_else(|| Error::defect("a file in an unnamed pack"))?;
            let bytes = self.get_range(pack, range.begin..range.end)?;
            for frame in &range.frames {
                decompressor.frame(range.frame(frame, &bytes)?, FRAME, &mut unpacked)?;
                for piece in &frame.pieces {
                    let outside = || Error::defect("blocks outside of their file");
                    let begin = usize::try_from(piece.offset).map_err(|_| outside())?;
                    let target = content.get_mut(begin..begin + piece.length).ok_or_else(outside)?;
                    target.copy_from_slice(piece.checked(file, &unpacked)?);
                }
            }
        }
        Ok(content)
    }
}
