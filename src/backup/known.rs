//! A file of an earlier backup, and the division of its blocks into known runs, which that backup
//! stored, and runs to be stored. Does not read files.
//!
//! If the blocks of a frame would be divided into more than [`MAX_RUNS`] runs, all of them are
//! stored anew, so that a restore does not have to collect them from too many places.

use super::summaries::ChangedPages;
use crate::codec::hash::BlockHash;
use crate::error::{Error, Result, part};
use crate::pg::page::PAGE_SIZE;
use crate::repo::entry::{Extent, FileEntry, StoredPath};
use std::ops::Range;
use std::sync::Arc;

/// Maximum number of runs into which the blocks of one frame are divided.
const MAX_RUNS: usize = 16;

/// A file of an earlier backup.
pub struct KnownFile {
    pub path: StoredPath,
    pub size: u64,
    /// CRC-32C of the whole file; `None` when that backup did not read all of it.
    pub crc32c: Option<u32>,
    /// Bytes of a block.
    block: u32,
    hashes: Vec<BlockHash>,
    /// Extents in packs that may be reused: the number of the first block, the key of the pack, the
    /// extent.
    extents: Vec<(usize, Arc<str>, Extent)>,
    promise: Option<Promise>,
}

/// Pages of a file that did not change since an earlier backup, according to the WAL summaries.
pub(super) struct Promise {
    pub changed: Arc<ChangedPages>,
    /// Number of the file's first page in its relation.
    pub first: u64,
}

/// Consecutive blocks of a file, and the extent of an earlier backup that has them.
#[derive(Debug)]
pub struct KnownRun {
    /// Numbers of the blocks, counted from the first block of the division.
    pub blocks: Range<usize>,
    /// Key of the pack, and place in it; `None` for blocks to be stored.
    pub known: Option<(Arc<str>, Extent)>,
}

impl KnownFile {
    /// `packs` has the key of each pack at its number in the extents; `None` for a pack that must
    /// not be reused.
    ///
    /// # Errors
    ///
    /// `Defect` when an extent has a pack that is not in `packs`.
    pub fn new(file: FileEntry, packs: &[Option<Arc<str>>]) -> Result<KnownFile> {
        let mut extents = Vec::with_capacity(file.at.len());
        for (blocks, extent) in file.extents() {
            let pack = packs.get(extent.pack as usize);
            let pack = pack.ok_or_else(|| Error::defect(format!("an extent in pack {}", extent.pack)))?;
            if let Some(pack) = pack {
                extents.push((blocks.start, pack.clone(), *extent));
            }
        }
        Ok(KnownFile {
            path: file.path,
            size: file.size,
            crc32c: file.crc32c,
            block: file.block,
            hashes: file.hashes,
            extents,
            promise: None,
        })
    }

    /// Adds the pages that the WAL summaries promise to be unchanged.
    pub(super) fn with_promise(self, promise: Option<Promise>) -> KnownFile {
        KnownFile { promise, ..self }
    }

    /// Whether the WAL summaries cover the file.
    pub fn has_promise(&self) -> bool {
        self.promise.is_some()
    }

    /// Whether a block has this hash in the earlier backup.
    pub fn has_hash(&self, block: usize, hash: &BlockHash) -> bool {
        self.hashes.get(block) == Some(hash)
    }

    /// Hashes of these blocks in the earlier backup.
    ///
    /// # Errors
    ///
    /// `Defect` when the earlier backup does not have all of these blocks.
    pub fn hashes(&self, blocks: Range<usize>) -> Result<&[BlockHash]> {
        part(&self.hashes, blocks)
    }

    /// Whether the WAL summaries promise that block `number` of `block` bytes is unchanged since
    /// the earlier backup. `size` is the present size of the file.
    pub fn is_promised(&self, block: u32, number: usize, size: u64) -> bool {
        let Some(promise) = &self.promise else {
            return false;
        };
        let begin = number as u64 * u64::from(block);
        let end = |size: u64| (begin + u64::from(block)).min(size);
        let page = |at: u64| promise.first + at.div_ceil(PAGE_SIZE as u64);
        block == self.block
            && begin < self.size
            && end(size) == end(self.size)
            && !promise.changed.touches(page(begin)..page(end(size)))
    }

    /// Divides `count` blocks of `block` bytes into runs that contain each block once, in order.
    /// `first` is the number of the first block in the file. A block belongs to a known run when
    /// `is_same` is true for its number and its pack may be reused.
    ///
    /// # Errors
    ///
    /// `Defect` when an extent has more bytes than a frame can have.
    pub fn divide(
        &self,
        block: u32,
        first: usize,
        count: usize,
        is_same: impl Fn(usize) -> bool,
    ) -> Result<Vec<KnownRun>> {
        let all = || vec![KnownRun { blocks: 0..count, known: None }];
        if block != self.block {
            return Ok(all());
        }
        let mut runs = Vec::new();
        let mut at = 0;
        while at < count {
            let place = self.extent_of(first + at);
            let end = match place {
                Some((begin, _, extent)) => count.min(begin + extent.blocks as usize - first),
                None => at + 1,
            };
            let same = (at..end).take_while(|at| is_same(first + at)).count();
            match place {
                Some((begin, pack, extent)) if same > 0 => {
                    let extent = cut(extent, first + at - begin, same, block)?;
                    runs.push(KnownRun { blocks: at..at + same, known: Some((pack.clone(), extent)) });
                    at += same;
                }
                _ => {
                    match runs.last_mut() {
                        Some(KnownRun { blocks, known: None }) => blocks.end += 1,
                        _ => runs.push(KnownRun { blocks: at..at + 1, known: None }),
                    }
                    at += 1;
                }
            }
        }
        Ok(if runs.len() > MAX_RUNS { all() } else { runs })
    }

    /// Extent that contains a block, with the number of its first block and the key of its pack;
    /// `None` when no pack that may be reused has the block.
    fn extent_of(&self, block: usize) -> Option<(usize, &Arc<str>, &Extent)> {
        let behind = self.extents.partition_point(|(first, ..)| *first <= block);
        let (first, pack, extent) = self.extents.get(behind.checked_sub(1)?)?;
        (block - first < extent.blocks as usize).then_some((*first, pack, extent))
    }
}

/// Part of an extent: `count` blocks behind the first `skipped` ones.
fn cut(extent: &Extent, skipped: usize, count: usize, block: u32) -> Result<Extent> {
    let cut = || {
        let bytes = u32::try_from(skipped).ok()?.checked_mul(block)?;
        let skip = extent.skip.checked_add(bytes)?;
        Some(Extent { skip, blocks: u32::try_from(count).ok()?, ..*extent })
    };
    cut().ok_or_else(|| Error::defect("an extent that is larger than a frame"))
}
