//! Reads files and compresses them, on as many threads as asked for.
//!
//! A large file goes through in pieces of a frame each; small files share a frame. Who has read a frame compresses it, while
//! it is in the cache of its processor, unless another thread has nothing to do: so one large file that is left keeps all
//! of them busy. The checksum of a whole file is taken while it is read, in order. What the WAL summaries promise is not read,
//! and goes to the packer as it is.

use super::compress::Compressor;
use super::earlier::{Job, KnownFile, Queue, Run};
use super::pack::{FinishedFile, Item, KnownBlocks, Outbox};
use super::pages::Pages;
use super::scan::{Owners, Task};
use super::throttle::Throttle;
use crate::codec::compress::FRAME;
use crate::error::{Doing, Error, Result};
use crate::fs::aligned::{ALIGNMENT, Aligned};
use crate::fs::direct::DirectSource;
use crate::progress::Progress;
use crate::repo::entry::StoredPath;
use crc32c::crc32c_append;
use crossbeam_channel::{Receiver, Sender};
use std::fs::File;
use std::io::ErrorKind;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// A file up to this size has blocks of one page; a larger one has larger blocks, so that hashes take
/// less than a thousandth of the data.
const SMALL_FILE: u64 = 1 << 20;
const SMALL_BLOCK: u32 = 8 << 10;
const LARGE_BLOCK: u32 = 16 << 10;

/// Content that is compressed together.
#[derive(Default)]
pub struct Frame {
    /// [`FRAME`] bytes, never more or less: it stays where it is while it is filled.
    buffer: Aligned,
    /// Bytes of content.
    filled: usize,
    pub pieces: Vec<Piece>,
}

impl Frame {
    pub fn content(&self) -> &[u8] {
        self.buffer.bytes(self.filled)
    }

    fn emptied(mut self) -> Frame {
        self.pieces.clear();
        self.filled = 0;
        self
    }
}

/// Frames that were handed on and are done: their memory is used again.
#[derive(Default)]
pub struct Pool(Mutex<Vec<Frame>>);

impl Pool {
    /// A frame with nothing in it.
    pub fn frame(&self) -> Frame {
        let mut frame = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default();
        frame.buffer.slice(FRAME);
        frame
    }

    fn give(&self, frame: Frame) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(frame.emptied());
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

/// A file that is being read.
struct Part<'a> {
    task: &'a Task,
    number: u64,
    source: DirectSource<'a>,
    is_large: bool,
    block: u32,
    pages: Option<Arc<Pages>>,
    known: Option<Arc<KnownFile>>,
}

impl<'a> Part<'a> {
    fn new(
        task: &'a Task,
        file: &'a File,
        number: u64,
        size: u64,
        verify_pages: bool,
        known: Option<Arc<KnownFile>>,
    ) -> Part<'a> {
        let is_large = size > SMALL_FILE;
        let pages = task.first_page.filter(|_| verify_pages);
        let pages = pages
            .map(|first| Arc::new(Pages { source: task.source.clone(), path: task.path.clone(), first }));
        let source = if is_large {
            DirectSource::new(&task.source, file)
        } else {
            DirectSource::small(&task.source, file)
        };
        Part { task, number, source, is_large, block: block_of(size), pages, known }
    }
}

fn block_of(size: u64) -> u32 {
    if size <= SMALL_FILE { SMALL_BLOCK } else { LARGE_BLOCK }
}

/// The way of a frame from a worker that is reading to one that has nothing to read any more.
pub struct Help {
    /// Of a channel without room: a frame goes through only when somebody waits for it.
    pub give: Sender<Frame>,
    pub take: Receiver<Frame>,
}

/// Reads files until there are no more, and then compresses what others read. One of several that share their counters.
pub struct Worker<'a> {
    /// `None` for one that works alone.
    pub help: Option<Help>,
    pub compressor: Compressor<'a>,
    pub outbox: Outbox,
    pub pool: &'a Pool,
    pub owners: &'a Owners,
    /// Gives files that were not found by the walk a number.
    pub numbers: &'a AtomicU64,
    pub progress: &'a Progress,
    /// Asked now and then: fails when the server has ended the backup.
    pub check: &'a (dyn Fn() -> Result<()> + Sync),
    pub throttle: &'a Throttle,
    /// Bytes that were read, as against those that were promised.
    pub read: &'a AtomicU64,
    pub verify_pages: bool,
    /// Whether what the WAL summaries promise is believed.
    pub trusting: bool,
    /// The one that is being filled.
    pub frame: Frame,
}

impl Worker<'_> {
    pub fn run(mut self, queue: &Queue) -> Result<()> {
        while let Some(job) = queue.next() {
            self.file(job)?;
        }
        self.flush()?;
        if let Some(Help { give, take }) = self.help.take() {
            // When the last one that reads has given up its end there are no more.
            drop(give);
            for frame in take {
                self.compressor.frame(&frame, &mut self.outbox)?;
                self.pool.give(frame);
            }
        }
        self.end()
    }

    /// Goes on with an empty frame: the same one, in the same place of the processor's cache, unless it was handed on.
    fn flush(&mut self) -> Result<()> {
        if self.frame.pieces.is_empty() {
            return Ok(());
        }
        let mut frame = std::mem::take(&mut self.frame);
        if let Some(help) = &self.help {
            match help.give.try_send(frame) {
                Ok(()) => {
                    self.frame = self.pool.frame();
                    return Ok(());
                }
                Err(error) => frame = error.into_inner(),
            }
        }
        self.compressor.frame(&frame, &mut self.outbox)?;
        self.frame = frame.emptied();
        Ok(())
    }

    fn file(&mut self, job: Job) -> Result<()> {
        let Job { number, task, known } = job;
        (self.check)()?;
        match known {
            Some(known) if self.trusting && known.is_promised() => self.promised_file(number, task, known),
            known => self.whole_file(number, task, known),
        }
    }

    /// Opens a file that was found; `None` when it is gone since then, which the packer is told.
    fn open(&mut self, number: u64, task: &Task) -> Result<Option<File>> {
        match File::open(&task.source) {
            Ok(file) => Ok(Some(file)),
            Err(e) if e.kind() == ErrorKind::NotFound && may_vanish(&task.path) => {
                self.outbox.add(Item::Gone(number))?;
                Ok(None)
            }
            Err(e) => Err(Error::io(format!("read {}", task.source.display()), &e)),
        }
    }

    fn whole_file(&mut self, number: u64, task: Task, known: Option<Arc<KnownFile>>) -> Result<()> {
        let Some(file) = self.open(number, &task)? else {
            return Ok(());
        };
        // What is appended after this moment is in the WAL.
        let size = file.metadata().doing(|| format!("read {}", task.source.display()))?.len();
        let mut part = Part::new(&task, &file, number, size, self.verify_pages, known);
        let mut crc = 0;
        let mut offset = 0;
        while offset < size {
            let want = (size - offset).min(FRAME as u64) as usize;
            let got = self.read(&mut part, offset, want)?;
            crc = crc32c_append(crc, self.last_read(got));
            offset += got as u64;
            if got < want {
                // Truncated while it was read; the WAL says so too.
                break;
            }
        }
        let block = part.block;
        self.finish(self.found(number, task, offset, Some(crc), block))
    }

    /// Reads what the WAL summaries do not promise, and takes the rest from the parent. The file is as long as it was
    /// when it was found: what happened to it since then is in the WAL.
    fn promised_file(&mut self, number: u64, task: Task, known: Arc<KnownFile>) -> Result<()> {
        let size = task.size;
        let block = block_of(size);
        let in_frame = FRAME / block as usize;
        let blocks = size.div_ceil(u64::from(block)) as usize;
        let mut runs: Vec<(usize, Run)> = Vec::new();
        for first in (0..blocks).step_by(in_frame) {
            let count = in_frame.min(blocks - first);
            let divided = known.divide(block, first, count, |number| known.promises(block, number, size));
            runs.extend(divided.into_iter().map(|run| (first, run)));
        }
        let file = match runs.iter().any(|(_, run)| run.known.is_none()) {
            false => None,
            true => match self.open(number, &task)? {
                Some(file) => Some(file),
                None => return Ok(()),
            },
        };
        let mut part = file
            .as_ref()
            .map(|file| Part::new(&task, file, number, size, self.verify_pages, Some(known.clone())));
        let mut kept = Vec::new();
        let mut offset = 0;
        for (first, Run { blocks, known: place }) in runs {
            let begin = (first + blocks.start) as u64 * u64::from(block);
            let end = ((first + blocks.end) as u64 * u64::from(block)).min(size);
            offset = end;
            match (place, &mut part) {
                (Some((pack, extent)), _) => {
                    let hashes = known.hashes(first + blocks.start..first + blocks.end).to_vec();
                    kept.push(KnownBlocks { file: number, offset: begin, pack, extent, hashes });
                    self.progress.add_done(end - begin);
                }
                (None, Some(part)) => {
                    let want = (end - begin) as usize;
                    let got = self.read(part, begin, want)?;
                    if got < want {
                        offset = begin + got as u64;
                        break;
                    }
                }
                (None, None) => {}
            }
        }
        let is_whole = part.is_none() && size == known.size;
        let crc = known.crc32c.filter(|_| is_whole);
        if !kept.is_empty() {
            self.outbox.add(Item::Known(kept))?;
        }
        self.finish(self.found(number, task, offset, crc, block))
    }

    /// Reads a part of a file, at most a frame, into the frame that is being filled. Fewer bytes come when the file
    /// ends.
    fn read(&mut self, part: &mut Part<'_>, offset: u64, want: usize) -> Result<usize> {
        let doing = || format!("read {}", part.task.source.display());
        // Past the page cache memory has to be aligned.
        let is_aligned = !part.is_large || self.frame.filled.is_multiple_of(ALIGNMENT);
        if self.frame.filled + want > FRAME || !is_aligned {
            self.flush()?;
            (self.check)()?;
        }
        self.throttle.pass(want, self.check)?;
        let skip = self.frame.filled;
        let Some(memory) = self.frame.buffer.slice(FRAME).get_mut(skip..) else {
            return Ok(0);
        };
        let got = part.source.read(memory, want, offset).doing(doing)?;
        if got == 0 {
            return Ok(0);
        }
        self.frame.filled += got;
        self.frame.pieces.push(Piece {
            file: part.number,
            offset,
            skip,
            length: got,
            block: part.block,
            pages: part.pages.clone(),
            known: part.known.clone(),
        });
        self.progress.add_done(got as u64);
        self.read.fetch_add(got as u64, Ordering::Relaxed);
        Ok(got)
    }

    /// The last bytes of the frame.
    fn last_read(&self, length: usize) -> &[u8] {
        let content = self.frame.content();
        content.get(content.len() - length.min(content.len())..).unwrap_or_default()
    }

    fn found(&self, file: u64, task: Task, size: u64, crc32c: Option<u32>, block: u32) -> FinishedFile {
        FinishedFile {
            file,
            path: task.path,
            size,
            mode: task.mode,
            owner: self.owners.named(task.owner),
            modified: task.modified,
            crc32c,
            block,
            is_config: false,
        }
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
            crc32c: Some(crc),
            block: SMALL_BLOCK,
            ..like
        })
    }

    /// Hands on what is left.
    pub fn end(mut self) -> Result<()> {
        self.flush()?;
        self.compressor.end(&mut self.outbox)?;
        self.outbox.flush()
    }

    fn finish(&mut self, finished: FinishedFile) -> Result<()> {
        self.outbox.add(Item::Finished(finished))
    }
}

/// Whether a file may be gone although its name was seen: relations are dropped while a backup runs, the
/// heart of the cluster is not.
fn may_vanish(path: &StoredPath) -> bool {
    !matches!(&path.0[..], b"PG_VERSION" | b"global/pg_filenode.map" | b"global/pg_control")
}
