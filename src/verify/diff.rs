//! Difference between a manifest and the manifest of an earlier backup. A block is read only once
//! if both manifests have it for the same file, at the same place of the same pack and with the
//! same hash.
//!
//! Both manifests list their files in the same order, so two parts are in memory for any number of
//! files. If the earlier manifest cannot be read to the end, the blocks of its unread parts are
//! read again.

use crate::repo::Archive;
use crate::repo::entry::{Entry, Extent, FileEntry, StoredPath};
use crate::repo::manifest::Parts;
use crate::repo::record::Record;
use std::cmp::Ordering;
use std::ops::Range;

/// Reader of the earlier manifest.
pub struct ManifestDiff<'a> {
    parts: Option<Parts<'a>>,
    packs: Vec<String>,
    files: std::vec::IntoIter<FileEntry>,
    /// First file of the earlier manifest that has not been passed.
    next: Option<FileEntry>,
}

impl<'a> ManifestDiff<'a> {
    /// Compares with the manifest of `earlier`; with `None` every block is new.
    pub fn new(archive: &'a Archive, earlier: Option<&'a Record>) -> ManifestDiff<'a> {
        ManifestDiff {
            parts: earlier.map(|record| Parts::of(archive, record)),
            packs: Vec::new(),
            files: Vec::new().into_iter(),
            next: None,
        }
    }

    /// Returns the blocks of a file that the earlier manifest does not have, extent by extent.
    /// Files have to be given in their order.
    pub fn new_blocks(&mut self, file: &FileEntry, packs: &[String]) -> Vec<Vec<Range<usize>>> {
        self.advance_to(&file.path);
        let known = self.next.as_ref().filter(|known| known.path == file.path && known.block == file.block);
        let extents = file.extents();
        match known {
            Some(known) => extents
                .map(|(blocks, extent)| differing(file, extent, &blocks, packs, known, &self.packs))
                .collect(),
            None => extents.map(|(blocks, _)| vec![blocks]).collect(),
        }
    }

    fn advance_to(&mut self, path: &StoredPath) {
        loop {
            match &self.next {
                Some(file) if file.path.order(path) != Ordering::Less => return,
                _ => {}
            }
            self.next = self.files.next();
            if self.next.is_none() && !self.read_part() {
                return;
            }
        }
    }

    fn read_part(&mut self) -> bool {
        let Some(Ok(part)) = self.parts.as_mut().and_then(Iterator::next) else {
            self.parts = None;
            return false;
        };
        self.packs = part.packs;
        self.files = part.entries.into_iter().filter_map(Entry::into_file).collect::<Vec<_>>().into_iter();
        true
    }
}

/// Returns the blocks of an extent that the known file does not have at the same place with the
/// same hash.
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
    for (other_blocks, other) in known.extents() {
        let common = at.max(other_blocks.start)..blocks.end.min(other_blocks.end);
        if common.start < common.end {
            (at..common.start).for_each(&mut add);
            let is_same_place = pack.is_some()
                && pack == known_packs.get(other.pack as usize)
                && extent.offset == other.offset
                && place(extent, blocks.start, common.start)
                    == place(other, other_blocks.start, common.start);
            for block in common.clone() {
                let one = block..block + 1;
                let is_same = is_same_place
                    && file.hashes.get(block).is_some_and(|hash| known.hashes.get(block) == Some(hash))
                    && file.bytes_of(&one) == known.bytes_of(&one);
                if !is_same {
                    add(block);
                }
            }
            at = common.end;
        }
        if other_blocks.end >= blocks.end {
            break;
        }
    }
    (at..blocks.end).for_each(add);
    new
}
