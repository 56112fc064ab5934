//! Reads files, hashes them, verifies their pages and compresses them, on as many threads as asked for.
//!
//! A large file goes through in pieces of a frame each, so that one reader keeps every compressor busy;
//! small files share a frame. The checksum of a whole file is the reader's work, since it goes through it in
//! order; all the rest is the compressors'.

use super::pack::{FinishedFile, Item, PackedPiece, cancelled};
use super::scan::{Owners, Task};
use crate::codec::compress::{Compression, Compressor, FRAME};
use crate::codec::hash::block_hash;
use crate::direct::{self, Buffer, Source};
use crate::error::{Doing, Error, Kind, Result};
use crate::pg::lsn::Lsn;
use crate::pg::page::{PAGE_SIZE, Verdict, verify};
use crate::repo::entry::StoredPath;
use crate::repo::record::DamagedFile;
use crc32c::crc32c_append;
use crossbeam_channel::{Receiver, Sender};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// A file up to this size has blocks of one page; a larger one has larger blocks, so that hashes take
/// less than a two-thousandth of the data.
const SMALL_FILE: u64 = 1 << 20;
const SMALL_BLOCK: u32 = 8 << 10;
const LARGE_BLOCK: u32 = 32 << 10;

/// Times that a bad page is read again before it is believed.
const PAGE_ATTEMPTS: u32 = 5;
const BETWEEN_ATTEMPTS: Duration = Duration::from_millis(20);

/// Pages that are named for a damaged file.
const NAMED_PAGES: usize = 1000;

/// Content on its way to a compressor, which gives the memory back.
pub struct Frame {
    /// [`FRAME`] bytes, never more or less: it stays where it is while it is filled.
    buffer: Buffer,
    /// Bytes of content.
    filled: usize,
    pieces: Vec<Piece>,
}

impl Frame {
    fn content(&self) -> &[u8] {
        self.buffer.bytes(self.filled)
    }
}

/// Memory of frames that are done.
#[derive(Default)]
pub struct Pool(Mutex<Vec<Buffer>>);

impl Pool {
    /// A frame with nothing in it.
    pub fn frame(&self) -> Frame {
        let mut buffer = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default();
        buffer.slice(FRAME);
        Frame { buffer, filled: 0, pieces: Vec::new() }
    }

    fn give(&self, buffer: Buffer) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(buffer);
    }
}

struct Piece {
    file: u64,
    /// In the file.
    offset: u64,
    /// In the frame.
    skip: usize,
    length: usize,
    block: u32,
    pages: Option<Arc<Pages>>,
}

/// A file whose pages are to be verified.
struct Pages {
    source: PathBuf,
    path: StoredPath,
    /// The number of the first page of this file in its relation.
    first: u32,
}

/// Reads files until there are no more. One of several that share their counters.
pub struct Reader<'a> {
    pub frames: Sender<Frame>,
    pub items: Sender<Item>,
    pub pool: &'a Pool,
    pub owners: &'a Owners,
    /// Gives each file a number.
    pub numbers: &'a AtomicU64,
    pub done: &'a AtomicU64,
    /// Asked now and then: fails when the server has ended the backup.
    pub check: &'a (dyn Fn() -> Result<()> + Sync),
    pub verify_pages: bool,
    /// The one that is being filled.
    pub frame: Frame,
}

impl Reader<'_> {
    pub fn run(mut self, tasks: &Receiver<Task>) -> Result<()> {
        for task in tasks {
            self.file(task)?;
        }
        self.flush()
    }

    /// Hands the frame on.
    fn flush(&mut self) -> Result<()> {
        if self.frame.pieces.is_empty() {
            return Ok(());
        }
        self.frames.send(std::mem::replace(&mut self.frame, self.pool.frame())).map_err(|_| cancelled())
    }

    fn file(&mut self, task: Task) -> Result<()> {
        let doing = || format!("read {}", task.source.display());
        (self.check)()?;
        let file = match File::open(&task.source) {
            Ok(file) => file,
            Err(e) if e.kind() == ErrorKind::NotFound && may_vanish(&task.path) => return Ok(()),
            Err(e) => return Err(Error::io(doing(), &e)),
        };
        let meta = file.metadata().doing(doing)?;
        // What is appended after this moment is in the WAL.
        let size = meta.len();
        let block = if size <= SMALL_FILE { SMALL_BLOCK } else { LARGE_BLOCK };
        let number = self.numbers.fetch_add(1, Ordering::Relaxed);
        let pages = task
            .first_page
            .filter(|_| self.verify_pages)
            .map(|first| Arc::new(Pages { source: task.source.clone(), path: task.path.clone(), first }));
        let mut crc = 0;
        let mut offset = 0;
        let mut pieces = 0;
        let mut large = (size > SMALL_FILE).then(|| Source::new(&task.source, &file));
        while offset < size {
            let want = (size - offset).min(FRAME as u64) as usize;
            // A piece of a large file begins its frame: past the page cache memory has to be aligned.
            let room = if large.is_some() { 0 } else { FRAME - want };
            if self.frame.filled > room {
                self.flush()?;
                (self.check)()?;
            }
            let skip = self.frame.filled;
            let got = match &mut large {
                Some(source) => source.read(&mut self.frame.buffer, want, offset),
                None => {
                    direct::read_full(&file, &mut self.frame.buffer.slice(FRAME)[skip..skip + want], offset)
                }
            };
            let got = got.doing(doing)?;
            if got == 0 {
                break;
            }
            self.frame.filled += got;
            crc = crc32c_append(crc, &self.frame.content()[skip..]);
            self.frame.pieces.push(Piece {
                file: number,
                offset,
                skip,
                length: got,
                block,
                pages: pages.clone(),
            });
            pieces += 1;
            offset += got as u64;
            self.done.fetch_add(got as u64, Ordering::Relaxed);
            if got < want {
                // Truncated while it was read; the WAL says so too.
                break;
            }
        }
        self.finish(FinishedFile {
            file: number,
            pieces,
            path: task.path,
            size: offset,
            mode: meta.mode() & 0o7777,
            owner: self.owners.of(&meta),
            modified: meta.mtime(),
            crc32c: crc,
            block,
            is_config: false,
        })
    }

    /// A file whose bytes are in memory: what the server gave, and what must not be read twice.
    pub fn bytes(&mut self, like: FinishedFile, bytes: &[u8]) -> Result<()> {
        let number = self.numbers.fetch_add(1, Ordering::Relaxed);
        let mut crc = 0;
        let mut pieces = 0;
        for (index, part) in bytes.chunks(FRAME).enumerate() {
            if self.frame.filled + part.len() > FRAME {
                self.flush()?;
            }
            crc = crc32c_append(crc, part);
            let skip = self.frame.filled;
            self.frame.filled += part.len();
            self.frame.buffer.slice(FRAME)[skip..self.frame.filled].copy_from_slice(part);
            self.frame.pieces.push(Piece {
                file: number,
                offset: (index * FRAME) as u64,
                skip,
                length: part.len(),
                block: SMALL_BLOCK,
                pages: None,
            });
            pieces += 1;
        }
        self.finish(FinishedFile {
            file: number,
            pieces,
            size: bytes.len() as u64,
            crc32c: crc,
            block: SMALL_BLOCK,
            ..like
        })
    }

    /// Hands the last frame on.
    pub fn end(mut self) -> Result<()> {
        self.flush()
    }

    fn finish(&mut self, finished: FinishedFile) -> Result<()> {
        self.items.send(Item::Finished(finished)).map_err(|_| cancelled())
    }
}

/// Whether a file may be gone although its name was seen: relations are dropped while a backup runs, the
/// heart of the cluster is not.
fn may_vanish(path: &StoredPath) -> bool {
    !matches!(&path.0[..], b"PG_VERSION" | b"global/pg_filenode.map" | b"global/pg_control")
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

/// Compresses frames until there are no more.
pub fn compress(
    frames: &Receiver<Frame>,
    items: &Sender<Item>,
    pool: &Pool,
    compression: Compression,
    bad: &BadPages,
) -> Result<()> {
    let mut compressor = Compressor::new(compression)?;
    // Large enough for any frame, and used again.
    let mut scratch = Vec::new();
    for frame in frames {
        let mut pieces = Vec::with_capacity(frame.pieces.len());
        for piece in &frame.pieces {
            let Some(content) = frame.content().get(piece.skip..piece.skip + piece.length) else {
                return Err(Error::new(Kind::Failed, "a piece reaches behind its frame"));
            };
            if let Some(pages) = &piece.pages {
                pages.verify(content, piece.offset, bad)?;
            }
            pieces.push(PackedPiece {
                file: piece.file,
                offset: piece.offset,
                skip: piece.skip as u32,
                hashes: content.chunks(piece.block as usize).map(block_hash).collect(),
            });
        }
        compressor.frame(frame.content(), &mut scratch)?;
        pool.give(frame.buffer);
        items.send(Item::Frame { bytes: scratch.clone(), pieces }).map_err(|_| cancelled())?;
    }
    Ok(())
}

impl Pages {
    /// Verifies the whole pages of a piece.
    fn verify(&self, content: &[u8], offset: u64, bad: &BadPages) -> Result<()> {
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
