//! Regions: the parts of files that are written at once, and their order. Does not read or write
//! files.
//!
//! A region is as large as a frame. Most regions lie in one frame. If an incremental backup stored
//! some blocks of a region anew, the region lies in its main frame and in a few others. Regions are
//! written in the order of their main frames, so packs are read from front to back, each frame is
//! decompressed once, and a file is not written in more pieces because its blocks come from several
//! backups.

use crate::codec::compress::FRAME;
use crate::fs::aligned::ALIGNMENT;
use crate::fs::folder::{Folder, Rights};
use crate::repo::entry::{Extent, FileEntry};
use crate::repo::ranges::{GAP, READ, WantedBlocks};
use std::collections::BTreeSet;
use std::ops::Range;
use std::path::PathBuf;

/// Maximum number of bytes of regions that one thread writes in one batch.
pub(super) const MAX_WRITE_BATCH: u64 = 64 << 20;

/// Maximum number of bytes of regions that one thread compares in one batch. Smaller than
/// [`MAX_WRITE_BATCH`]: a thread compares a batch and then repairs it, and all threads should end
/// their last repairs at about the same time.
pub(super) const MAX_COMPARE_BATCH: u64 = 16 << 20;

/// A file to be written.
pub struct TargetFile<'a> {
    /// Directory that is restored into, and path of the file below it.
    pub folder: &'a Folder,
    pub below: PathBuf,
    /// Absolute path, for messages.
    pub path: PathBuf,
    pub rights: Rights,
    pub stored: &'a FileEntry,
    /// Whether `backup_manifest` lists the file with the content that it has in the backup.
    pub listed: bool,
}

/// Position of a frame in its pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct FramePosition {
    /// Number of the pack in the part of the manifest.
    pub pack: u32,
    pub offset: u64,
    pub length: u32,
}

/// Consecutive blocks of a file, from one frame or several.
#[derive(Clone)]
pub struct Region {
    /// Index of the file among the targets.
    pub target: usize,
    /// The frame that has most of its bytes.
    pub main: FramePosition,
    /// Whether the region is the whole file. If so, writing the region creates the file.
    pub is_file: bool,
    /// Its blocks in order, without a gap; never empty.
    pub parts: Vec<(FramePosition, WantedBlocks)>,
}

impl FramePosition {
    fn of(extent: &Extent) -> FramePosition {
        FramePosition { pack: extent.pack, offset: extent.offset, length: extent.length }
    }
}

impl Region {
    /// Offset in the file. A region has at least one part.
    pub fn offset(&self) -> u64 {
        self.parts.first().map_or(0, |(_, wanted)| wanted.offset)
    }

    pub fn length(&self) -> usize {
        self.parts.iter().map(|(_, wanted)| wanted.length).sum()
    }

    /// Numbers of its blocks in the file.
    pub fn blocks(&self) -> Range<usize> {
        let first = self.parts.first().map_or(0, |(_, wanted)| wanted.blocks.start);
        first..self.parts.last().map_or(first, |(_, wanted)| wanted.blocks.end)
    }

    /// Returns the part of the region that has these blocks, to be written into an existing file.
    pub fn cut(&self, stored: &FileEntry, blocks: &Range<usize>) -> Region {
        let cut =
            |(frame, wanted): &(FramePosition, WantedBlocks)| Some((*frame, wanted.cut(stored, blocks)?));
        Region { parts: self.parts.iter().filter_map(cut).collect(), is_file: false, ..*self }
    }

    /// Returns the offset at which the region would begin in the content of its main frame. `None`
    /// when the region's blocks in that frame do not all have the same distance from the offset as
    /// in the file, or when the offset is not aligned.
    pub fn begin_in_main(&self) -> Option<usize> {
        let of_main = self.parts.iter().filter(|(frame, _)| *frame == self.main);
        let mut begins = of_main.map(|(_, wanted)| {
            let before = wanted.offset.checked_sub(self.offset())?;
            wanted.skip.checked_sub(usize::try_from(before).ok()?)
        });
        let begin = begins.next()??;
        let is_aligned = begin.is_multiple_of(ALIGNMENT);
        (is_aligned && begins.all(|other| other == Some(begin))).then_some(begin)
    }

    fn find_main(&mut self) {
        let mut frames: Vec<(FramePosition, usize)> = Vec::new();
        for (frame, wanted) in &self.parts {
            match frames.iter_mut().find(|(known, _)| known == frame) {
                Some((_, bytes)) => *bytes += wanted.length,
                None => frames.push((*frame, wanted.length)),
            }
        }
        // The first of the frames with the most bytes.
        if let Some((main, _)) = frames.into_iter().rev().max_by_key(|(_, bytes)| *bytes) {
            self.main = main;
        }
    }
}

/// Number of blocks of a full region. A region of a large file begins where a frame began when the
/// file was read.
pub(super) fn blocks_of_region(stored: &FileEntry) -> usize {
    (FRAME / stored.block.max(1) as usize).max(1)
}

/// Whether a file is written in one piece. An empty file is not written at all.
pub(super) fn is_one_region(stored: &FileEntry) -> bool {
    (1..=blocks_of_region(stored)).contains(&stored.hashes.len())
}

/// Returns the regions of all files, in the order of their main frames.
pub fn regions<'a>(files: impl Iterator<Item = &'a FileEntry>) -> Vec<Region> {
    let mut regions: Vec<Region> = Vec::new();
    for (number, stored) in files.enumerate() {
        let whole = blocks_of_region(stored);
        for (blocks, extent) in stored.extents() {
            let mut begin = blocks.start;
            while begin < blocks.end {
                let end = blocks.end.min((begin / whole + 1) * whole);
                let wanted = WantedBlocks::new(number, stored, extent, blocks.start, begin..end);
                let part = (FramePosition::of(extent), wanted);
                match regions.last_mut().filter(|_| !begin.is_multiple_of(whole)) {
                    Some(region) => region.parts.push(part),
                    None => {
                        let is_file = is_one_region(stored);
                        regions.push(Region { target: number, main: part.0, is_file, parts: vec![part] });
                    }
                }
                begin = end;
            }
        }
    }
    regions.iter_mut().for_each(Region::find_main);
    regions.sort_by_key(|region| region.main);
    regions
}

/// Divides regions into batches for one thread: regions whose frames are read together, up to about
/// `max` bytes of content. The bytes of packs that are read for one batch are in memory, so they
/// are bounded too.
pub fn batches(regions: &[Region], max: u64) -> Vec<Range<usize>> {
    let mut batches = Vec::new();
    let (mut begin, mut packed, mut content) = (0, 0, 0);
    let mut frames: BTreeSet<FramePosition> = BTreeSet::new();
    let mut last: Option<FramePosition> = None;
    for (number, region) in regions.iter().enumerate() {
        if last.is_some_and(|last| last != region.main) && (packed >= READ || content >= max) {
            batches.push(begin..number);
            (begin, packed, content) = (number, 0, 0);
            frames.clear();
        }
        for (frame, wanted) in &region.parts {
            content += wanted.length as u64;
            if frames.insert(*frame) {
                let is_next = last.is_some_and(|last| {
                    (last.pack, last.offset + u64::from(last.length)) == (frame.pack, frame.offset)
                });
                // Bytes between two wanted frames may be read too.
                packed += u64::from(frame.length) + if is_next { 0 } else { GAP };
            }
        }
        last = Some(region.main);
    }
    if begin < regions.len() {
        batches.push(begin..regions.len());
    }
    batches
}
