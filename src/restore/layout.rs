//! What is written at once, and in which order. A file is written in regions as large as a frame. Most lie in one
//! frame; those of which an incremental backup stored some blocks anew lie in that and in a few others. Regions go in
//! the order of their main frames, so packs are read from front to back, each frame is unpacked once, and a file is
//! not cut into more writes because its blocks come from several backups.

use super::files::Target;
use crate::codec::compress::FRAME;
use crate::fs::aligned::ALIGNMENT;
use crate::repo::entry::{Extent, FileEntry as Stored};
use crate::repo::ranges::{GAP, READ, WantedBlocks};
use std::collections::BTreeSet;
use std::ops::Range;

/// Regions that are written together hold no more than this.
pub const WRITTEN: u64 = 64 << 20;

/// And those that are compared together: while a thread repairs what it has compared it reads nothing, and all end
/// with that.
pub const COMPARED: u64 = 16 << 20;

/// A frame in its pack, by the pack's number in the part of the manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    pub pack: u32,
    pub offset: u64,
    pub length: u32,
}

/// Blocks of a file that lie behind each other, from one frame or several.
#[derive(Clone)]
pub struct Region {
    /// The file's place among those that are written.
    pub target: usize,
    /// The frame that most of it lies in.
    pub main: Place,
    /// Whether that is all of the file, which is made when it is written.
    pub is_file: bool,
    /// In their order in the file, without a hole.
    pub parts: Vec<(Place, WantedBlocks)>,
}

impl Place {
    fn of(extent: &Extent) -> Place {
        Place { pack: extent.pack, offset: extent.offset, length: extent.length }
    }
}

impl Region {
    pub fn offset(&self) -> u64 {
        self.parts.first().map_or(0, |(_, piece)| piece.offset)
    }

    pub fn length(&self) -> usize {
        self.parts.iter().map(|(_, piece)| piece.length).sum()
    }

    pub fn blocks(&self) -> Range<usize> {
        let first = self.parts.first().map_or(0, |(_, piece)| piece.blocks.start);
        first..self.parts.last().map_or(first, |(_, piece)| piece.blocks.end)
    }

    /// These of its blocks, to be written into the file that is there.
    pub fn cut(&self, stored: &Stored, wanted: &Range<usize>) -> Region {
        let cut = |(place, piece): &(Place, WantedBlocks)| Some((*place, piece.cut(stored, wanted)?));
        Region { parts: self.parts.iter().filter_map(cut).collect(), is_file: false, ..*self }
    }

    /// Where all of it would begin in the content of its main frame, if what lies there has its place in it.
    pub fn place_in_main(&self) -> Option<usize> {
        let of_main = self.parts.iter().filter(|(place, _)| *place == self.main);
        let mut begins = of_main.map(|(_, piece)| {
            let before = piece.offset.checked_sub(self.offset())?;
            piece.skip.checked_sub(before as usize)
        });
        let begin = begins.next()??;
        let is_aligned = begin.is_multiple_of(ALIGNMENT);
        (is_aligned && begins.all(|other| other == Some(begin))).then_some(begin)
    }

    fn find_main(&mut self) {
        let mut frames: Vec<(Place, usize)> = Vec::new();
        for (place, piece) in &self.parts {
            match frames.iter_mut().find(|(known, _)| known == place) {
                Some((_, bytes)) => *bytes += piece.length,
                None => frames.push((*place, piece.length)),
            }
        }
        // Of several that have as much, the first.
        let main = frames.into_iter().rev().max_by_key(|(_, bytes)| *bytes);
        self.main = main.map_or(self.main, |(place, _)| place);
    }
}

/// Blocks of a region that is whole. A region of a large file begins where a frame of it began when it was read.
fn blocks_of_region(stored: &Stored) -> usize {
    (FRAME / stored.block.max(1) as usize).max(1)
}

/// Whether a file is written in one go; an empty one is not written at all.
pub fn is_one_region(stored: &Stored) -> bool {
    (1..=blocks_of_region(stored)).contains(&stored.hashes.len())
}

/// The regions of all files, in the order of their main frames.
pub fn regions(targets: &[Target<'_>]) -> Vec<Region> {
    let mut regions: Vec<Region> = Vec::new();
    for (number, target) in targets.iter().enumerate() {
        let stored = target.stored;
        let whole = blocks_of_region(stored);
        for (blocks, extent) in stored.extents() {
            let mut begin = blocks.start;
            while begin < blocks.end {
                let end = blocks.end.min((begin / whole + 1) * whole);
                let wanted = WantedBlocks::new(number, stored, extent, blocks.start, begin..end);
                let part = (Place::of(extent), wanted);
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

/// Divides regions into what one thread does at a time: those of frames that are read together, with the others that
/// they need, up to so many bytes of content. What is read of packs for one batch is bounded too: it is in memory.
pub fn batches(regions: &[Region], together: u64) -> Vec<Range<usize>> {
    let mut batches = Vec::new();
    let (mut begin, mut packed, mut content) = (0, 0, 0);
    let mut frames: BTreeSet<Place> = BTreeSet::new();
    let mut last: Option<Place> = None;
    for (number, region) in regions.iter().enumerate() {
        if last.is_some_and(|last| last != region.main) && (packed >= READ || content >= together) {
            batches.push(begin..number);
            (begin, packed, content) = (number, 0, 0);
            frames.clear();
        }
        for (place, piece) in &region.parts {
            content += piece.length as u64;
            if frames.insert(*place) {
                let is_next = last.is_some_and(|last| {
                    (last.pack, last.offset + u64::from(last.length)) == (place.pack, place.offset)
                });
                // What lies between two frames that are wanted may be read too.
                packed += u64::from(place.length) + if is_next { 0 } else { GAP };
            }
        }
        last = Some(region.main);
    }
    if begin < regions.len() {
        batches.push(begin..regions.len());
    }
    batches
}
