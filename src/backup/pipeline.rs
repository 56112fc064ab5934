//! Reads files and compresses them, on several threads.
//!
//! ```text
//!  parent's manifest ──parts──┐
//!                             ▼
//!  scan ───files──────▶ FileQueue ──FileJob──▶ FileReader (jobs + 1 threads)
//!    │                  (merges by path)          │      ▲
//!    │                                            │      └─ frames that another reader hands over when
//!    │                                            │         this one has nothing left to read
//!    └──entries──────────────────┐                │ frames, known blocks, finished files
//!                                ▼                ▼
//!                              Packer (1 thread: packs and manifest, in the order of the scan)
//!                                │    ▲
//!                          packs ▼    │ their memory
//!                              store  (1 thread) ──▶ repository
//! ```
//!
//! Every queue is bounded. A stage whose successor has failed finds its queue closed, and the first
//! error is the one that is reported. Memory is two packs and about a frame for each thread.
//!
//! A large file is read in pieces of a frame each; small files share a frame. The thread that has
//! read a frame compresses it, while the frame is in the cache of the processor. If another thread
//! is idle, that thread gets the frame, so one large file at the end keeps all threads busy. The
//! CRC of a whole file is computed while it is read, in order. Blocks that are unchanged according
//! to the WAL summaries are not read and go to the packer as known blocks.

use super::compress::FrameEncoder;
use super::found::{FoundFile, OwnerNames};
use super::frame::{FramePiece, FramePool, RawFrame};
use super::known::{KnownFile, KnownRun};
use super::pack::{FinishedFile, KnownBlocks, Outbox, PackItem};
use super::queue::{FileJob, FileQueue};
use super::throttle::Throttle;
use crate::codec::compress::FRAME;
use crate::error::{Doing, Error, Kind, Result, part};
use crate::fs::aligned::ALIGNMENT;
use crate::fs::direct::DirectSource;
use crate::progress::Progress;
use crate::repo::entry::StoredPath;
use crc32c::crc32c_append;
use crossbeam_channel::{Receiver, Sender};
use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A file up to this size has blocks of one page. A larger one has larger blocks, so that the
/// hashes take less than a thousandth of the data.
const MAX_SMALL_FILE: u64 = 1 << 20;
const SMALL_BLOCK: u32 = 8 << 10;
const LARGE_BLOCK: u32 = 16 << 10;

/// State that all threads of a backup share.
pub(super) struct ReadState<'a> {
    pub pool: FramePool,
    pub owners: OwnerNames,
    /// Number of the next file; files that the scan does not find get numbers too.
    pub numbers: AtomicU64,
    /// Bytes of files that were read or are known to be unchanged, out of all files found so far.
    pub progress: &'a Progress,
    /// Bytes of files that were read.
    pub read: AtomicU64,
    pub throttle: Throttle,
    /// Called between reads: fails when the backup has to end.
    pub check: &'a (dyn Fn() -> Result<()> + Sync),
    pub verify_pages: bool,
    /// Whether blocks that are unchanged according to the WAL summaries are not read.
    pub trusts_summaries: bool,
}

/// The channel by which a thread that reads hands frames to one that has nothing left to read.
pub(super) struct Handover {
    /// A channel without capacity: a frame is sent only when another thread waits for it.
    pub give: Sender<RawFrame>,
    pub take: Receiver<RawFrame>,
}

/// Reader of one thread: reads files until the queue is empty, and then compresses frames that
/// other threads read.
pub(super) struct FileReader<'a> {
    shared: &'a ReadState<'a>,
    encoder: FrameEncoder<'a>,
    outbox: Outbox,
    /// `None` for a reader that works alone.
    handover: Option<Handover>,
    /// The frame that is being filled.
    frame: RawFrame,
}

/// A file that is being read.
struct SourceFile<'a> {
    found: &'a Arc<FoundFile>,
    number: u64,
    source: DirectSource<'a>,
    is_large: bool,
    block: u32,
    pages: Option<(Arc<FoundFile>, u32)>,
    known: Option<Arc<KnownFile>>,
}

impl<'a> SourceFile<'a> {
    fn new(job: &'a FileJob, file: &'a File, size: u64, verify_pages: bool) -> SourceFile<'a> {
        let FileJob { number, found, known } = job;
        let is_large = size > MAX_SMALL_FILE;
        let source = if is_large { DirectSource::new(file) } else { DirectSource::small(file) };
        let pages = found.first_page.filter(|_| verify_pages).map(|first| (Arc::clone(found), first));
        let (number, known) = (*number, known.clone());
        SourceFile { found, number, source, is_large, block: block_of(size), pages, known }
    }
}

/// Bytes of a block of a file of this size.
fn block_of(size: u64) -> u32 {
    if size <= MAX_SMALL_FILE { SMALL_BLOCK } else { LARGE_BLOCK }
}

/// Number of bytes to read at once, of the bytes that are left.
fn up_to_frame(left: u64) -> usize {
    usize::try_from(left).map_or(FRAME, |left| left.min(FRAME))
}

/// Number of bytes from `begin` to `end`, which lie in one frame.
fn distance(begin: u64, end: u64) -> Result<usize> {
    let bytes = end.checked_sub(begin).and_then(|bytes| usize::try_from(bytes).ok());
    bytes.ok_or_else(|| Error::defect(format!("bytes {begin} to {end} of a file")))
}

impl<'a> FileReader<'a> {
    pub fn new(
        shared: &'a ReadState<'a>,
        encoder: FrameEncoder<'a>,
        outbox: Outbox,
        handover: Option<Handover>,
    ) -> FileReader<'a> {
        FileReader { shared, encoder, outbox, handover, frame: shared.pool.take() }
    }

    /// Reads all files of the queue.
    pub fn run(mut self, queue: &FileQueue) -> Result<()> {
        while let Some(job) = queue.next()? {
            self.file(&job)?;
        }
        self.flush_frame()?;
        if let Some(Handover { give, take }) = self.handover.take() {
            // The channel is closed when the last thread that reads has dropped its sender.
            drop(give);
            for frame in take {
                self.encoder.encode(&frame, &mut self.outbox)?;
                self.shared.pool.put_back(frame);
            }
        }
        self.end()
    }

    /// Hands the frame over or compresses it, and continues with an empty frame. A frame that was
    /// compressed here is emptied and reused, since its memory is in the processor's cache.
    fn flush_frame(&mut self) -> Result<()> {
        if self.frame.pieces.is_empty() {
            return Ok(());
        }
        let mut frame = std::mem::take(&mut self.frame);
        if let Some(handover) = &self.handover {
            match handover.give.try_send(frame) {
                Ok(()) => {
                    self.frame = self.shared.pool.take();
                    return Ok(());
                }
                Err(error) => frame = error.into_inner(),
            }
        }
        self.encoder.encode(&frame, &mut self.outbox)?;
        self.frame = frame.emptied();
        Ok(())
    }

    fn file(&mut self, job: &FileJob) -> Result<()> {
        (self.shared.check)()?;
        match &job.known {
            Some(known) if self.shared.trusts_summaries && known.has_promise() => {
                self.changed_parts(job, known)
            }
            _ => self.whole_file(job),
        }
    }

    /// Opens a file that was found. Returns `None`, and informs the packer, when the file has been
    /// removed since the scan.
    fn open(&mut self, job: &FileJob) -> Result<Option<(File, u64)>> {
        let source = job.found.source()?;
        let opened = source.open()?;
        if opened.is_none() {
            if !may_vanish(&job.found.path) {
                let message = format!("{} does not exist any more", source.path().display());
                return Err(Error::new(Kind::Absent, message));
            }
            self.outbox.add(PackItem::Gone(job.number))?;
        }
        Ok(opened)
    }

    fn whole_file(&mut self, job: &FileJob) -> Result<()> {
        // Bytes that are appended from now on are in the WAL.
        let Some((file, size)) = self.open(job)? else {
            return Ok(());
        };
        let mut open = SourceFile::new(job, &file, size, self.shared.verify_pages);
        let mut crc = 0;
        let mut offset = 0;
        while offset < size {
            let want = up_to_frame(size - offset);
            let got = self.read(&mut open, offset, want)?;
            crc = crc32c_append(crc, self.last_read(got)?);
            offset += got as u64;
            if got < want {
                // The file was truncated while it was read; the truncation is in the WAL.
                break;
            }
        }
        let block = open.block;
        self.finish(job, offset, Some(crc), block)
    }

    /// Reads the blocks that may have changed according to the WAL summaries, and takes all other
    /// blocks from the parent. Stores the file with the size that the scan found: later changes are
    /// in the WAL.
    fn changed_parts(&mut self, job: &FileJob, known: &KnownFile) -> Result<()> {
        let FileJob { number, found, .. } = job;
        let size = found.size;
        let block = block_of(size);
        let runs = divide(known, block, size)?;
        let file = if runs.iter().all(|(_, run)| run.known.is_some()) {
            None
        } else {
            match self.open(job)? {
                Some((file, _)) => Some(file),
                None => return Ok(()),
            }
        };
        let mut open = file.as_ref().map(|file| SourceFile::new(job, file, size, self.shared.verify_pages));
        let mut kept = Vec::new();
        let mut offset = 0;
        for (first, KnownRun { blocks, known: place }) in runs {
            let blocks = first + blocks.start..first + blocks.end;
            let begin = blocks.start as u64 * u64::from(block);
            let end = (blocks.end as u64 * u64::from(block)).min(size);
            offset = end;
            match (place, &mut open) {
                (Some((pack, extent)), _) => {
                    let hashes = known.hashes(blocks)?.to_vec();
                    kept.push(KnownBlocks { file: *number, offset: begin, pack, extent, hashes });
                    self.shared.progress.add_done(end - begin);
                }
                (None, Some(open)) => {
                    let want = distance(begin, end)?;
                    let got = self.read(open, begin, want)?;
                    if got < want {
                        offset = begin + got as u64;
                        break;
                    }
                }
                (None, None) => return Err(Error::defect("changed blocks of a file that is not open")),
            }
        }
        let is_unchanged = open.is_none() && size == known.size;
        let crc = known.crc32c.filter(|_| is_unchanged);
        if !kept.is_empty() {
            self.outbox.add(PackItem::Known(kept))?;
        }
        self.finish(job, offset, crc, block)
    }

    /// Reads bytes of a file, at most a frame, into the frame that is being filled. Returns fewer
    /// bytes at the end of the file.
    fn read(&mut self, open: &mut SourceFile<'_>, offset: u64, want: usize) -> Result<usize> {
        // Reads that bypass the page cache need aligned memory.
        let is_aligned = !open.is_large || self.frame.filled().is_multiple_of(ALIGNMENT);
        if !self.frame.has_room(want) || !is_aligned {
            self.flush_frame()?;
            (self.shared.check)()?;
        }
        self.shared.throttle.pass(want, self.shared.check)?;
        let got = open
            .source
            .read(self.frame.free()?, want, offset)
            .doing(|| format!("read {}", open.found.path.display()))?;
        if got == 0 {
            return Ok(0);
        }
        self.frame.push(FramePiece {
            file: open.number,
            offset,
            skip: 0,
            length: got,
            block: open.block,
            pages: open.pages.clone(),
            known: open.known.clone(),
        });
        self.shared.progress.add_done(got as u64);
        self.shared.read.fetch_add(got as u64, Ordering::Relaxed);
        Ok(got)
    }

    /// The last `length` bytes of the frame.
    fn last_read(&self, length: usize) -> Result<&[u8]> {
        let content = self.frame.content();
        let begin = content.len().checked_sub(length);
        let begin = begin.ok_or_else(|| Error::defect("a read of more bytes than the frame has"))?;
        part(content, begin..content.len())
    }

    /// Adds a file whose bytes are in memory: a file that the server sent, or that must not be read
    /// twice.
    pub fn add_bytes(&mut self, found: FoundFile, bytes: &[u8], is_config: bool) -> Result<()> {
        let number = self.shared.numbers.fetch_add(1, Ordering::Relaxed);
        let mut crc = 0;
        let mut offset = 0;
        for content in bytes.chunks(FRAME) {
            if !self.frame.has_room(content.len()) {
                self.flush_frame()?;
            }
            crc = crc32c_append(crc, content);
            let length = content.len();
            let block = SMALL_BLOCK;
            let piece = FramePiece { file: number, offset, skip: 0, length, block, pages: None, known: None };
            self.frame.append(piece, content)?;
            offset += length as u64;
        }
        self.outbox.add(PackItem::Finished(FinishedFile {
            number,
            owner: self.shared.owners.named(found.owner),
            found: Arc::new(found),
            size: offset,
            crc32c: Some(crc),
            block: SMALL_BLOCK,
            is_config,
        }))
    }

    /// Compresses and sends all blocks and items that wait.
    pub fn end(mut self) -> Result<()> {
        self.flush_frame()?;
        self.encoder.flush(&mut self.outbox)?;
        self.outbox.flush()
    }

    fn finish(&mut self, job: &FileJob, size: u64, crc32c: Option<u32>, block: u32) -> Result<()> {
        let FileJob { number, found, .. } = job;
        self.outbox.add(PackItem::Finished(FinishedFile {
            number: *number,
            owner: self.shared.owners.named(found.owner),
            found: Arc::clone(found),
            size,
            crc32c,
            block,
            is_config: false,
        }))
    }
}

/// Divides a file of this size, frame by frame, into runs of blocks that the WAL summaries promise
/// to be unchanged, and runs to be read. Returns with each run the number of the block from which
/// its blocks are counted.
fn divide(known: &KnownFile, block: u32, size: u64) -> Result<Vec<(usize, KnownRun)>> {
    let blocks = size.div_ceil(u64::from(block));
    let blocks = usize::try_from(blocks).map_err(|_| Error::defect(format!("a file of {blocks} blocks")))?;
    let in_frame = FRAME / block as usize;
    let mut runs: Vec<(usize, KnownRun)> = Vec::new();
    for first in (0..blocks).step_by(in_frame) {
        let count = in_frame.min(blocks - first);
        let divided = known.divide(block, first, count, |number| known.is_promised(block, number, size))?;
        runs.extend(divided.into_iter().map(|run| (first, run)));
    }
    Ok(runs)
}

/// Whether a file may have been removed since the scan. Relations may be dropped while a backup
/// runs; these three files exist as long as the cluster.
fn may_vanish(path: &StoredPath) -> bool {
    !matches!(&path.0[..], b"PG_VERSION" | b"global/pg_filenode.map" | b"global/pg_control")
}
