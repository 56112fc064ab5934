//! The manifest of an earlier backup, gone through beside that of a later one: a block that both have, of the same
//! file, at the same place of the same pack and with the same hash, is read for the first of them alone.
//!
//! Both have their files in the same order, so two parts are in memory, however many files there are. Where the
//! earlier one cannot be read to its end nothing is lost but time: what is not found in it is read.

use crate::repo::Archive;
use crate::repo::entry::{Entry, Extent, FileEntry, StoredPath};
use crate::repo::manifest::Parts;
use crate::repo::record::Record;
use std::cmp::Ordering;
use std::ops::Range;

pub struct Beside<'a> {
    parts: Option<Parts<'a>>,
    packs: Vec<String>,
    files: std::vec::IntoIter<FileEntry>,
    /// The first file that has not been passed.
    next: Option<FileEntry>,
}

impl<'a> Beside<'a> {
    /// Without an earlier backup nothing is found.
    pub fn of(archive: &'a Archive, earlier: Option<&'a Record>) -> Beside<'a> {
        Beside {
            parts: earlier.map(|record| Parts::of(archive, record)),
            packs: Vec::new(),
            files: Vec::new().into_iter(),
            next: None,
        }
    }

    /// Which blocks of a file were not there before, extent by extent. Files are asked for in their order.
    pub fn new_blocks(&mut self, file: &FileEntry, packs: &[String]) -> Vec<Vec<Range<usize>>> {
        self.advance_to(&file.path);
        let known = self.next.as_ref().filter(|known| known.path == file.path && known.block == file.block);
        let mut new = Vec::with_capacity(file.at.len());
        for (blocks, extent) in file.extents() {
            new.push(match known {
                Some(known) => differing(file, extent, &blocks, packs, known, &self.packs),
                None => vec![blocks],
            });
        }
        new
    }

    fn advance_to(&mut self, path: &StoredPath) {
        loop {
            match &self.next {
                Some(file) if file.path.order(path) != Ordering::Less => return,
                _ => {}
            }
            self.next = self.files.next();
            if self.next.is_none() && !self.read_on() {
                return;
            }
        }
    }

    fn read_on(&mut self) -> bool {
        let Some(Ok(part)) = self.parts.as_mut().and_then(Iterator::next) else {
            self.parts = None;
            return false;
        };
        self.packs = part.packs;
        self.files = part.entries.into_iter().filter_map(Entry::into_file).collect::<Vec<_>>().into_iter();
        true
    }
}

/// The blocks of an extent that the known file does not have at the same place with the same hash.
fn differing(
    file: &FileEntry,
    extent: &Extent,
    blocks: &Range<usize>,
    packs: &[String],
    known: &FileEntry,
    known_packs: &[String],
) -> Vec<Range<usize>> {
    let pack = packs.get(extent.pack as usize);
    let place = |extent: &Extent, first: usize, block: usize| {
        u64::from(extent.skip) + (block - first) as u64 * u64::from(file.block)
    };
    let mut new: Vec<Range<usize>> = Vec::new();
    let mut add = |block: usize| match new.last_mut() {
        Some(last) if last.end == block => last.end += 1,
        _ => new.push(block..block + 1),
    };
    let mut at = blocks.start;
    for (Range { start: first, end }, other) in known.extents() {
        let common = at.max(first)..blocks.end.min(end);
        if common.start < common.end {
            (at..common.start).for_each(&mut add);
            let is_same_place = pack.is_some()
                && pack == known_packs.get(other.pack as usize)
                && extent.offset == other.offset
                && place(extent, blocks.start, common.start) == place(other, first, common.start);
            for block in common.clone() {
                let one = block..block + 1;
                let is_same = is_same_place
                    && file.hashes.get(block) == known.hashes.get(block)
                    && file.bytes_of(&one) == known.bytes_of(&one);
                if !is_same {
                    add(block);
                }
            }
            at = common.end;
        }
        if end >= blocks.end {
            break;
        }
    }
    (at..blocks.end).for_each(add);
    new
}
