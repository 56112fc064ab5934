//! Reads files, on as many threads as asked for.
//!
//! A large file goes through in pieces of a frame each, so that one reader keeps every compressor busy;
//! small files share a frame. The checksum of a whole file is the reader's work, since it goes through it in
//! order; all the rest is the compressors'.

use super::earlier::{Job, KnownFile, Queue};
use super::failure::cancelled;
use super::pack::{FinishedFile, Item};
use super::pages::Pages;
use super::scan::Owners;
use crate::codec::compress::FRAME;
use crate::direct::{self, Buffer, Source};
use crate::error::{Doing, Error, Result};
use crate::repo::entry::StoredPath;
use crc32c::crc32c_append;
use crossbeam_channel::Sender;
use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// A file up to this size has blocks of one page; a larger one has larger blocks, so that hashes take
/// less than a two-thousandth of the data.
const SMALL_FILE: u64 = 1 << 20;
const SMALL_BLOCK: u32 = 8 << 10;
const LARGE_BLOCK: u32 = 32 << 10;

/// Content on its way to a compressor, which gives the memory back.
pub struct Frame {
    /// [`FRAME`] bytes, never more or less: it stays where it is while it is filled.
    buffer: Buffer,
    /// Bytes of content.
    filled: usize,
    pub pieces: Vec<Piece>,
}

impl Frame {
    pub fn content(&self) -> &[u8] {
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

    pub fn give(&self, frame: Frame) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(frame.buffer);
    }
}

/// Part of a file in a frame.
pub struct Piece {
    /// The number of the file.
    pub file: u64,
    /// In the file.
    pub offset: u64,
    /// In the frame.
    pub skip: usize,
    pub length: usize,
    pub block: u32,
    pub pages: Option<Arc<Pages>>,
    /// What the parent has of the file.
    pub known: Option<Arc<KnownFile>>,
}

/// Reads files until there are no more. One of several that share their counters.
pub struct Reader<'a> {
    pub frames: Sender<Frame>,
    pub items: Sender<Item>,
    pub pool: &'a Pool,
    pub owners: &'a Owners,
    /// Gives files that were not found by the walk a number.
    pub numbers: &'a AtomicU64,
    pub done: &'a AtomicU64,
    /// Asked now and then: fails when the server has ended the backup.
    pub check: &'a (dyn Fn() -> Result<()> + Sync),
    pub verify_pages: bool,
    /// The one that is being filled.
    pub frame: Frame,
}

impl Reader<'_> {
    pub fn run(mut self, queue: &Queue) -> Result<()> {
        while let Some(job) = queue.next() {
            self.file(job)?;
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

    fn file(&mut self, job: Job) -> Result<()> {
        let Job { number, task, known } = job;
        let doing = || format!("read {}", task.source.display());
        (self.check)()?;
        let file = match File::open(&task.source) {
            Ok(file) => file,
            Err(e) if e.kind() == ErrorKind::NotFound && may_vanish(&task.path) => {
                return self.items.send(Item::Gone(number)).map_err(|_| cancelled());
            }
            Err(e) => return Err(Error::io(doing(), &e)),
        };
        let meta = file.metadata().doing(doing)?;
        // What is appended after this moment is in the WAL.
        let size = meta.len();
        let block = if size <= SMALL_FILE { SMALL_BLOCK } else { LARGE_BLOCK };
        let pages = task
            .first_page
            .filter(|_| self.verify_pages)
            .map(|first| Arc::new(Pages { source: task.source.clone(), path: task.path.clone(), first }));
        let mut crc = 0;
        let mut offset = 0;
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
                known: known.clone(),
            });
            offset += got as u64;
            self.done.fetch_add(got as u64, Ordering::Relaxed);
            if got < want {
                // Truncated while it was read; the WAL says so too.
                break;
            }
        }
        self.finish(FinishedFile {
            file: number,
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
                known: None,
            });
        }
        self.finish(FinishedFile {
            file: number,
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
