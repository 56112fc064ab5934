//! Holes: parts of large files that are all zeros and take no space. A backup stores zeros like any
//! other content, so sparse files are found by the hashes of their blocks.

use super::layout::{blocks_of_region, is_one_region};
use crate::codec::hash::block_hash;
use crate::repo::entry::FileEntry;
use std::ops::Range;

/// Returns the parts of a file that become holes, in order: regions whose blocks are all zeros. A
/// file of one region has none: it would save too little.
pub(super) fn holes(stored: &FileEntry) -> Vec<Range<u64>> {
    let mut holes: Vec<Range<u64>> = Vec::new();
    if is_one_region(stored) {
        return holes;
    }
    let zeros = vec![0; stored.block as usize];
    let zero = block_hash(&zeros);
    let blocks = blocks_of_region(stored);
    for (number, hashes) in stored.hashes.chunks(blocks).enumerate() {
        let bytes = stored.bytes_of(&(number * blocks..number * blocks + hashes.len()));
        // The last block of a file may be short.
        let short = usize::try_from(bytes.end % u64::from(stored.block.max(1))).ok();
        let short = short.filter(|short| *short > 0).and_then(|short| zeros.get(..short)).map(block_hash);
        let (last, others) = match hashes.split_last() {
            Some((last, others)) => (last, others),
            None => continue,
        };
        if others.iter().all(|hash| *hash == zero) && *last == short.unwrap_or(zero) {
            match holes.last_mut().filter(|before| before.end == bytes.start) {
                Some(before) => before.end = bytes.end,
                None => holes.push(bytes),
            }
        }
    }
    holes
}

/// Returns the parts of a file of `size` bytes between its holes.
pub(super) fn between(holes: &[Range<u64>], size: u64) -> Vec<Range<u64>> {
    let begins = std::iter::once(0).chain(holes.iter().map(|hole| hole.end));
    let ends = holes.iter().map(|hole| hole.start).chain([size]);
    begins.zip(ends).filter(|(begin, end)| begin < end).map(|(begin, end)| begin..end).collect()
}

/// Number of bytes of holes.
pub(super) fn bytes(holes: &[Range<u64>]) -> u64 {
    holes.iter().map(|hole| hole.end - hole.start).sum()
}
