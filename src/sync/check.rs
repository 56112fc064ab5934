//! Checks of the objects that are copied. Each check holds at most one frame of a pack, or a few
//! pieces of a WAL file, in memory.

use super::source::ContentCheck;
use crate::codec::compress::{Decompressor, FRAME};
use crate::codec::envelope::{Content, ObjectKind};
use crate::error::{Error, Kind, Result, part};
use crate::pg::segment::WalName;
use crate::pg::wal::{HEADER_SIZE, SegmentHeader};
use crate::repo::Lineage;
use crate::repo::entry::FileEntry;
use crate::repo::ranges::StoredFrame;
use crate::runtime::thread::{self, Thread};
use parking_lot::Mutex;
use std::io::{self, Read};
use std::sync::mpsc;

/// Maximum size of a compressed frame in bytes: more than zstd produces from [`FRAME`] bytes that
/// cannot be compressed.
const MAX_FRAME_LENGTH: u32 = 2 << 20;
const _: () = assert!(MAX_FRAME_LENGTH as usize >= 2 * FRAME);

/// Maximum number of chunks of a WAL file that wait for the check.
const QUEUE_CAPACITY: usize = 2;

/// The check of the size of an object alone.
pub struct SizeCheck {
    /// Number of bytes that are missing.
    left: u64,
}

impl SizeCheck {
    pub fn new(size: u64) -> SizeCheck {
        SizeCheck { left: size }
    }
}

impl ContentCheck for SizeCheck {
    fn update(&mut self, bytes: &[u8]) -> Result<()> {
        let left = self.left.checked_sub(bytes.len() as u64);
        self.left = left.ok_or_else(|| Error::new(Kind::Damage, "it is longer than the manifest says"))?;
        Ok(())
    }

    fn finish(&mut self) -> Result<()> {
        if self.left > 0 {
            return Err(Error::new(Kind::Damage, "it is shorter than the manifest says"));
        }
        Ok(())
    }
}

/// The check of a pack: its size, and the hash of every block that the backup needs from it.
pub struct PackCheck<'a> {
    files: &'a [&'a FileEntry],
    /// Frames behind `next`, ordered by position.
    frames: std::vec::IntoIter<&'a StoredFrame>,
    /// First frame that was not checked yet; `None` after the last one.
    next: Option<&'a StoredFrame>,
    size: SizeCheck,
    /// Number of bytes of the pack so far.
    position: u64,
    /// Bytes of `next` so far.
    frame: Vec<u8>,
    decompressor: Decompressor,
    /// Buffer of the content of a frame, which is reused.
    content: Vec<u8>,
}

impl<'a> PackCheck<'a> {
    /// Creates the check of a pack of `size` bytes. `frames` are the frames of the pack that hold
    /// blocks of `files`, ordered by position.
    pub fn new(size: u64, files: &'a [&'a FileEntry], frames: Vec<&'a StoredFrame>) -> PackCheck<'a> {
        let mut frames = frames.into_iter();
        PackCheck {
            files,
            next: frames.next(),
            frames,
            size: SizeCheck::new(size),
            position: 0,
            frame: Vec::new(),
            decompressor: Decompressor::default(),
            content: Vec::new(),
        }
    }

    /// Checks a frame, all of whose bytes are in `self.frame`.
    fn check(&mut self, frame: &StoredFrame) -> Result<()> {
        self.decompressor.frame(&self.frame, FRAME, &mut self.content)?;
        for piece in &frame.pieces {
            let file =
                self.files.get(piece.file).ok_or_else(|| Error::defect("blocks of an unknown file"))?;
            piece.checked(file, &self.content)?;
        }
        Ok(())
    }
}

impl ContentCheck for PackCheck<'_> {
    fn update(&mut self, bytes: &[u8]) -> Result<()> {
        self.size.update(bytes)?;
        let begin = self.position;
        self.position += bytes.len() as u64;
        while let Some(frame) = self.next {
            let wanted = frame.offset.saturating_add(self.frame.len() as u64);
            if wanted >= self.position {
                break;
            }
            if frame.length > MAX_FRAME_LENGTH {
                return Err(Error::new(Kind::Damage, format!("a frame of {} bytes", frame.length)));
            }
            let overlap = || Error::new(Kind::Damage, "two frames of it overlap");
            let from = wanted.checked_sub(begin).ok_or_else(overlap)?;
            let from = usize::try_from(from).map_err(|_| Error::defect("a chunk larger than memory"))?;
            let missing = frame.length as usize - self.frame.len();
            self.frame.extend_from_slice(part(bytes, from..bytes.len().min(from + missing))?);
            if self.frame.len() < frame.length as usize {
                break;
            }
            self.check(frame)?;
            self.frame.clear();
            self.next = self.frames.next();
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<()> {
        if self.next.is_some() {
            return Err(Error::new(Kind::Damage, "it is shorter than the manifest says"));
        }
        self.size.finish()
    }
}

/// The check of a WAL file: the header of the object, the hash of the content, and the header of a
/// segment. The decoder needs a reader, so it runs on its own thread, which receives a copy of each
/// chunk.
pub struct WalCheck {
    /// `None` after the end.
    running: Option<Running>,
}

/// The queue of chunks and the thread that reads them.
type Running = (mpsc::SyncSender<Vec<u8>>, Thread<Result<()>>);

impl WalCheck {
    /// Starts the thread of the check.
    ///
    /// # Errors
    ///
    /// When the thread cannot be started.
    pub fn start(name: WalName, lineage: Lineage) -> Result<WalCheck> {
        let (sender, chunks) = mpsc::sync_channel(QUEUE_CAPACITY);
        let reader = Chunks { chunks, chunk: io::Cursor::default() };
        let thread = thread::spawn("check wal", move || check_wal(reader, name, lineage))?;
        Ok(WalCheck { running: Some((sender, thread)) })
    }
}

impl ContentCheck for WalCheck {
    fn update(&mut self, bytes: &[u8]) -> Result<()> {
        match &self.running {
            Some((sender, _)) if sender.send(bytes.to_vec()).is_ok() => Ok(()),
            // The thread has ended early, which it does only with an error.
            _ => self.finish().and(Err(Error::defect("the check of a WAL file ended early"))),
        }
    }

    fn finish(&mut self) -> Result<()> {
        let finished = self.running.take().map(|(sender, thread)| {
            drop(sender);
            thread.join().flatten()
        });
        finished.unwrap_or_else(|| Err(Error::defect("the check of a WAL file has ended already")))
    }
}

fn check_wal(object: impl Read + Send, name: WalName, lineage: Lineage) -> Result<()> {
    let content = Content::open(object)?;
    if content.header.kind != ObjectKind::Wal || content.header.name != name.to_string() {
        let message = format!("its header names it {}", content.header.name);
        return Err(Error::new(Kind::Damage, message));
    }
    let size = content.size();
    let first = Mutex::new(Vec::new());
    content.read(|piece, offset| {
        if offset == 0 {
            first.lock().extend(piece.iter().take(HEADER_SIZE));
        }
        Ok(())
    })?;
    if let WalName::Segment(segment) | WalName::Partial(segment) = name {
        let header = SegmentHeader::parse(&first.into_inner())?;
        header.check(segment, size, lineage.system_identifier, lineage.major)?;
    }
    Ok(())
}

/// A reader of the chunks that another thread sends.
struct Chunks {
    chunks: mpsc::Receiver<Vec<u8>>,
    chunk: io::Cursor<Vec<u8>>,
}

impl Read for Chunks {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.chunk.read(buffer)?;
        if length > 0 || buffer.is_empty() {
            return Ok(length);
        }
        match self.chunks.recv() {
            Ok(chunk) => self.chunk = io::Cursor::new(chunk),
            Err(mpsc::RecvError) => return Ok(0),
        }
        // A chunk is never empty.
        self.chunk.read(buffer)
    }
}
