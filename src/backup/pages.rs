//! What pages say of themselves while a file is read: whether their checksums are right, and whether they changed
//! although the WAL summaries promised that they did not. A bad page is read again before it is believed: the server
//! may be writing it.

use super::earlier::KnownFile;
use super::pipeline::Piece;
use crate::codec::hash::BlockHash;
use crate::error::{Doing, Error, Result};
use crate::fs::direct;
use crate::pg::lsn::Lsn;
use crate::pg::page::{PAGE_SIZE, Verdict, claimed_lsn, verify};
use crate::repo::entry::StoredPath;
use crate::repo::record::DamagedFile;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Times that a bad page is read again before it is believed.
const PAGE_ATTEMPTS: u32 = 5;
const BETWEEN_ATTEMPTS: Duration = Duration::from_millis(20);

/// Pages that are named for a damaged file.
const NAMED_PAGES: usize = 1000;

/// A file whose pages are to be verified.
pub struct Pages {
    pub source: PathBuf,
    pub path: StoredPath,
    /// The number of the first page of this file in its relation.
    pub first: u32,
}

impl Pages {
    /// Verifies the whole pages of a piece.
    pub fn verify(&self, content: &[u8], offset: u64, bad: &BadPages) -> Result<()> {
        let before = (offset / PAGE_SIZE as u64) as u32;
        for (index, page) in content.chunks_exact(PAGE_SIZE).enumerate() {
            let in_file = before + index as u32;
            let in_relation = self.first.wrapping_add(in_file);
            if verify(page, in_relation) != Verdict::Good
                && let Some(lsn) = self.stays_bad(page, in_file)?
            {
                bad.add(&self.path, in_file, lsn);
            }
        }
        Ok(())
    }

    /// Reads a bad page again: the server may be writing it at this moment. Gives the LSN that the page
    /// claims when it stays the same and bad.
    fn stays_bad(&self, page: &[u8], in_file: u32) -> Result<Option<Lsn>> {
        let doing = || format!("read page {in_file} of {} again", self.source.display());
        let mut claimed = None;
        for _ in 0..PAGE_ATTEMPTS {
            let file = match File::open(&self.source) {
                Ok(file) => file,
                Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
                Err(e) => return Err(Error::io(doing(), &e)),
            };
            let mut again = vec![0; PAGE_SIZE];
            let got =
                direct::read_full(&file, &mut again, u64::from(in_file) * PAGE_SIZE as u64).doing(doing)?;
            if got < PAGE_SIZE || again != page {
                return Ok(None);
            }
            match verify(&again, self.first.wrapping_add(in_file)) {
                Verdict::Good => return Ok(None),
                Verdict::Bad(lsn) => claimed = Some(lsn),
            }
            std::thread::sleep(BETWEEN_ATTEMPTS);
        }
        Ok(claimed)
    }
}

/// Pages that were bad and stayed bad, by file, each with the LSN that it claims.
#[derive(Default)]
pub struct BadPages(Mutex<BTreeMap<String, Vec<(u32, Lsn)>>>);

impl BadPages {
    fn add(&self, path: &StoredPath, page: u32, lsn: Lsn) {
        let mut files = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let pages = files.entry(path.display().into_owned()).or_default();
        if pages.len() < NAMED_PAGES {
            pages.push((page, lsn));
        }
    }

    /// What remains damaged after recovery. A page whose LSN lies between start and end of the backup was
    /// written while it was read: its WAL, which holds all of it, repairs it.
    pub fn into_files(self, start: Lsn, stop: Lsn) -> Vec<DamagedFile> {
        let files = self.0.into_inner().unwrap_or_else(PoisonError::into_inner);
        let damaged = |(path, pages): (String, Vec<(u32, Lsn)>)| {
            let real = pages.into_iter().filter(|(_, lsn)| *lsn < start || *lsn > stop);
            let mut blocks: Vec<u32> = real.map(|(page, _)| page).collect();
            blocks.sort_unstable();
            (!blocks.is_empty()).then_some(DamagedFile { path, blocks })
        };
        files.into_iter().filter_map(damaged).collect()
    }
}

/// Blocks that differ from what the WAL summaries promised: something changed them without WAL.
pub struct Surprises {
    blocks: BadPages,
    /// Where the backup begins. What changed behind it was not promised to stay.
    start: Lsn,
}

impl Surprises {
    pub fn new(start: Lsn) -> Surprises {
        Surprises { blocks: BadPages::default(), start }
    }

    /// Compares a piece that was read with what the parent has.
    pub fn look(&self, known: &KnownFile, piece: &Piece, content: &[u8], hashes: &[BlockHash]) {
        let first = (piece.offset / u64::from(piece.block)) as usize;
        let end = piece.offset + piece.length as u64;
        let blocks = content.chunks(piece.block as usize).zip(hashes).zip(first..);
        for ((block, hash), number) in blocks {
            let is_other = known.hashes(number..number + 1).first() != Some(hash);
            if !is_other || !known.promises(piece.block, number, end) {
                continue;
            }
            let newest = block.chunks_exact(PAGE_SIZE).map(claimed_lsn).max().unwrap_or(Lsn(0));
            // Explained already; it must not take the place of one that nothing explains.
            if newest >= self.start {
                continue;
            }
            let page = number as u64 * u64::from(piece.block) / PAGE_SIZE as u64;
            self.blocks.add(&known.path, page as u32, newest);
        }
    }

    /// The pages with which blocks begin that nothing explains, by file.
    pub fn into_files(self) -> Vec<DamagedFile> {
        self.blocks.into_files(self.start, Lsn(u64::MAX))
    }
}
