//! Checks of pages while a file is read: whether their checksums are right, and whether a page
//! changed although the WAL summaries promise that it did not. A bad page is read again before it
//! counts, since the server may be writing it.

use super::found::FoundFile;
use super::known::KnownFile;
use crate::codec::hash::BlockHash;
use crate::error::{Doing, Error, Result};
use crate::fs::direct;
use crate::pg::lsn::Lsn;
use crate::pg::page::{PAGE_SIZE, Verdict, claimed_lsn, verify};
use crate::repo::entry::StoredPath;
use crate::repo::record::DamagedFile;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::time::Duration;

/// Number of times that a bad page is read again before it counts.
const MAX_REREADS: u32 = 5;
const REREAD_INTERVAL: Duration = Duration::from_millis(20);

/// Maximum number of pages of one damaged file that a record names.
const MAX_NAMED_PAGES: usize = 1000;

/// The check of the pages of one file.
pub(super) struct PageCheck<'a> {
    pub file: &'a FoundFile,
    /// Number of the file's first page in its relation.
    pub first: u32,
}

impl PageCheck<'_> {
    /// Verifies the whole pages in `content`, which lies at `offset` of the file.
    pub fn verify(&self, content: &[u8], offset: u64, bad: &BadPages) -> Result<()> {
        for (page, in_file) in content.as_chunks().0.iter().zip(page_at(offset)?..) {
            let is_good = verify(page, self.first.wrapping_add(in_file)) == Verdict::Good;
            if !is_good && let Some(lsn) = self.stays_bad(page, in_file)? {
                bad.add(&self.file.path, in_file, lsn);
            }
        }
        Ok(())
    }

    /// Reads a bad page again. Returns the LSN that the page claims; `None` when the page has
    /// changed, is good, or does not exist any more.
    fn stays_bad(&self, page: &[u8; PAGE_SIZE], in_file: u32) -> Result<Option<Lsn>> {
        let source = self.file.source()?;
        let doing = || format!("read page {in_file} of {} again", source.path().display());
        let mut claimed = None;
        for _ in 0..MAX_REREADS {
            let Some((file, _)) = source.open().doing(doing)? else {
                return Ok(None);
            };
            let mut again = [0; PAGE_SIZE];
            let offset = u64::from(in_file) * PAGE_SIZE as u64;
            let got = direct::read_full(&file, &mut again, offset).doing(doing)?;
            if got < PAGE_SIZE || again != *page {
                return Ok(None);
            }
            match verify(&again, self.first.wrapping_add(in_file)) {
                Verdict::Good => return Ok(None),
                Verdict::Bad(lsn) => claimed = Some(lsn),
            }
            std::thread::sleep(REREAD_INTERVAL);
        }
        Ok(claimed)
    }
}

/// Number of the page at an offset of a file.
fn page_at(offset: u64) -> Result<u32> {
    let number = offset / PAGE_SIZE as u64;
    u32::try_from(number).map_err(|_| Error::defect(format!("page {number} of a file")))
}

/// Bad pages by file: the number of each page in its file, and the LSN that it claims.
#[derive(Default)]
pub(super) struct BadPages(Mutex<BTreeMap<String, Vec<(u32, Lsn)>>>);

impl BadPages {
    fn add(&self, path: &StoredPath, page: u32, lsn: Lsn) {
        let mut files = self.0.lock();
        let pages = files.entry(path.display().into_owned()).or_default();
        if pages.len() < MAX_NAMED_PAGES {
            pages.push((page, lsn));
        }
    }

    /// The pages that stay damaged after recovery. A page whose LSN lies between start and end of
    /// the backup was written while it was read: the WAL has a full image of it.
    pub fn into_files(self, start: Lsn, stop: Lsn) -> Vec<DamagedFile> {
        let damaged = |(path, pages): (String, Vec<(u32, Lsn)>)| {
            let lasting = pages.into_iter().filter(|(_, lsn)| *lsn < start || *lsn > stop);
            let mut blocks: Vec<u32> = lasting.map(|(page, _)| page).collect();
            blocks.sort_unstable();
            (!blocks.is_empty()).then_some(DamagedFile { path, blocks })
        };
        self.0.into_inner().into_iter().filter_map(damaged).collect()
    }
}

/// Blocks that differ from the parent although the WAL summaries promise that they do not: they
/// changed without WAL.
pub(super) struct UnloggedChanges {
    pages: BadPages,
    /// Start of the backup. The WAL summaries promise nothing about later changes.
    start: Lsn,
}

impl UnloggedChanges {
    pub fn new(start: Lsn) -> UnloggedChanges {
        UnloggedChanges { pages: BadPages::default(), start }
    }

    /// Compares blocks of `block` bytes with the blocks of the parent. `first` is the number of the
    /// first block in its file.
    pub fn compare(
        &self,
        known: &KnownFile,
        block: u32,
        first: usize,
        content: &[u8],
        hashes: &[BlockHash],
    ) -> Result<()> {
        let offset = |number: usize| number as u64 * u64::from(block);
        let end = offset(first) + content.len() as u64;
        let blocks = content.chunks(block as usize).zip(hashes).zip(first..);
        for ((bytes, hash), number) in blocks {
            if known.has_hash(number, hash) || !known.is_promised(block, number, end) {
                continue;
            }
            // A block shorter than a page has no LSN.
            let newest = bytes.as_chunks().0.iter().map(claimed_lsn).max().unwrap_or(Lsn(0));
            // A change behind the start explains the difference. It is not added, so that it does
            // not use up the number of pages that are named.
            if newest < self.start {
                self.pages.add(&known.path, page_at(offset(number))?, newest);
            }
        }
        Ok(())
    }

    /// The first page of each differing block, by file.
    pub fn into_files(self) -> Vec<DamagedFile> {
        self.pages.into_files(self.start, Lsn(u64::MAX))
    }
}
