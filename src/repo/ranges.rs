//! What has to be read of packs to get at the blocks of files, in the order in which it lies there.

use super::Archive;
use super::entry::{Extent, FileEntry};
use crate::codec::compress::{Decompressor, FRAME};
use crate::codec::hash::{BlockHash, block_hash};
use crate::error::{Error, Kind, Result};
use std::collections::BTreeMap;
use std::ops::Range;

/// Frames that lie behind each other are read at once, up to this.
pub const READ: u64 = 4 << 20;

/// As are those with no more than this between them that is not wanted: cheaper to read than to ask again.
pub const GAP: u64 = 128 << 10;

/// Frames that are read at once.
pub struct StoredRange {
    /// Its number in the part of the manifest.
    pub pack: u32,
    pub begin: u64,
    pub end: u64,
    pub frames: Vec<StoredFrame>,
}

pub struct StoredFrame {
    /// In the pack.
    pub offset: u64,
    pub length: u32,
    pub pieces: Vec<WantedBlocks>,
}

/// Blocks of a frame that belong to one file.
#[derive(Clone)]
pub struct WantedBlocks {
    /// The file's place among those that were given.
    pub file: usize,
    /// In the file.
    pub offset: u64,
    /// In the frame.
    pub skip: usize,
    pub length: usize,
    /// Numbers of the blocks in the file.
    pub blocks: Range<usize>,
}

/// Finds out what to read of files that are in one part of a manifest. Which blocks of an extent are `wanted` is
/// asked with the file's place, the extent, and the numbers of its blocks in the file.
pub fn stored_ranges<'f, W: IntoIterator<Item = Range<usize>>>(
    files: impl IntoIterator<Item = &'f FileEntry>,
    mut wanted: impl FnMut(usize, &Extent, Range<usize>) -> W,
) -> Vec<StoredRange> {
    let mut frames: BTreeMap<(u32, u64), (u32, Vec<WantedBlocks>)> = BTreeMap::new();
    for (index, file) in files.into_iter().enumerate() {
        let mut first = 0;
        for extent in &file.at {
            let behind = first + extent.blocks as usize;
            for blocks in wanted(index, extent, first..behind) {
                let frame = frames.entry((extent.pack, extent.offset)).or_insert((extent.length, Vec::new()));
                frame.1.push(WantedBlocks::new(index, file, extent, first, blocks));
            }
            first = behind;
        }
    }
    join(
        frames
            .into_iter()
            .map(|((pack, offset), (length, pieces))| (pack, StoredFrame { offset, length, pieces })),
    )
}

/// What to read to get at frames, which are given in the order in which they lie in their packs.
pub fn join(frames: impl IntoIterator<Item = (u32, StoredFrame)>) -> Vec<StoredRange> {
    let mut stretches: Vec<StoredRange> = Vec::new();
    for (pack, frame) in frames {
        let StoredFrame { offset, length, .. } = frame;
        let end = offset.saturating_add(u64::from(length));
        match stretches.last_mut() {
            Some(last)
                if last.pack == pack
                    && (last.end..=last.end + GAP).contains(&offset)
                    && end - last.begin <= READ =>
            {
                last.end = end;
                last.frames.push(frame);
            }
            _ => stretches.push(StoredRange { pack, begin: offset, end, frames: vec![frame] }),
        }
    }
    stretches
}

impl StoredRange {
    /// The bytes of one of its frames, in those of all of it.
    pub fn frame<'b>(&self, frame: &StoredFrame, bytes: &'b [u8]) -> &'b [u8] {
        self.bytes(frame.offset, frame.length, bytes)
    }

    /// The same for a frame that lies there in its pack.
    pub fn bytes<'b>(&self, offset: u64, length: u32, bytes: &'b [u8]) -> &'b [u8] {
        let begin = offset.saturating_sub(self.begin) as usize;
        bytes.get(begin..begin + length as usize).unwrap_or_default()
    }
}

impl WantedBlocks {
    /// These `blocks` of an extent, which begins with the block `first` of the file.
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
            length: (bytes.end - bytes.start) as usize,
            blocks,
        }
    }

    /// Those of its blocks that are among the wanted ones.
    pub fn cut(&self, file: &FileEntry, wanted: &Range<usize>) -> Option<WantedBlocks> {
        let blocks = self.blocks.start.max(wanted.start)..self.blocks.end.min(wanted.end);
        if blocks.is_empty() {
            return None;
        }
        let bytes = file.bytes_of(&blocks);
        Some(WantedBlocks {
            file: self.file,
            offset: bytes.start,
            skip: self.skip + (bytes.start - self.offset) as usize,
            length: (bytes.end - bytes.start) as usize,
            blocks,
        })
    }

    /// Its bytes in the content of its frame.
    pub fn of<'c>(&self, content: &'c [u8]) -> Result<&'c [u8]> {
        content
            .get(self.skip..self.skip + self.length)
            .ok_or_else(|| Error::new(Kind::Damage, "a frame is too short"))
    }

    /// The same when every block of them has the hash that the manifest gives it.
    pub fn checked<'c>(&self, file: &FileEntry, content: &'c [u8]) -> Result<&'c [u8]> {
        let bytes = self.of(content)?;
        let expected = file.hashes.get(self.blocks.clone()).unwrap_or_default();
        match wrong(bytes, file.block, expected) {
            None => Ok(bytes),
            Some(_) => Err(self.damaged(&file.path.display())),
        }
    }

    pub fn damaged(&self, path: &str) -> Error {
        let Range { start, end } = self.blocks;
        Error::new(Kind::Damage, format!("blocks {start} to {} of {path} are damaged", end.saturating_sub(1)))
    }
}

/// The numbers of the first and behind the last block that do not have the hashes that they should.
pub fn wrong(bytes: &[u8], block: u32, expected: &[BlockHash]) -> Option<Range<usize>> {
    let blocks = bytes.chunks(block.max(1) as usize);
    if blocks.len() != expected.len() {
        return Some(0..blocks.len().max(expected.len()));
    }
    let is_wrong = |(block, hash): (&[u8], &BlockHash)| block_hash(block) != *hash;
    let wrong = blocks.zip(expected).enumerate().filter_map(|(at, pair)| is_wrong(pair).then_some(at));
    wrong.fold(None, |found, at| Some(found.map_or(at, |range: Range<usize>| range.start)..at + 1))
}

impl Archive {
    /// The content of a small file, checked block by block. `packs` are those of its part of the manifest.
    pub fn read_file(&self, packs: &[String], file: &FileEntry) -> Result<Vec<u8>> {
        let mut content = vec![0; file.size as usize];
        let mut decompressor = Decompressor::default();
        let mut unpacked = Vec::new();
        for stretch in stored_ranges([file], |_, _, blocks| Some(blocks)) {
            let pack = packs.get(stretch.pack as usize).map(String::as_str).unwrap_or_default();
            let bytes = self.get_range(pack, stretch.begin..stretch.end)?;
            for frame in &stretch.frames {
                decompressor.frame(stretch.frame(frame, &bytes), FRAME, &mut unpacked)?;
                for piece in &frame.pieces {
                    let begin = piece.offset as usize;
                    if let Some(place) = content.get_mut(begin..begin + piece.length) {
                        place.copy_from_slice(piece.checked(file, &unpacked)?);
                    }
                }
            }
        }
        Ok(content)
    }
}
