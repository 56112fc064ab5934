//! Reading of packs and WAL on several threads: each frame that a manifest names is decompressed,
//! and every block hashed.

use super::findings::{Findings, ProblemKind, WHOLE_FRAME, is_damage};
use super::wal;
use crate::codec::compress::{Decompressor, FRAME};
use crate::codec::envelope::HEADER_SIZE;
use crate::codec::hash::BlockHash;
use crate::error::{Error, Result};
use crate::pg::segment::WalName;
use crate::repo::entry::FileEntry;
use crate::repo::ranges::{StoredFrame, StoredRange, WantedBlocks, mismatched_blocks};
use crate::repo::{Archive, ObjectName};
use parking_lot::Mutex;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Objects to read. Has a copy of the needed entries of a manifest, so the manifest need not stay
/// in memory.
pub enum ReadTask {
    /// Key of a pack whose header has to be checked.
    Pack(Arc<str>),
    /// Key of a pack, frames of it, and the expected blocks; the pieces of the frames number these.
    StoredRange(Arc<str>, StoredRange, Vec<ExpectedBlocks>),
    /// WAL files and their sizes.
    Wal(Vec<(WalName, u64)>),
}

/// Blocks of a file, and their hashes.
pub struct ExpectedBlocks {
    path: Arc<str>,
    block: u32,
    hashes: Vec<BlockHash>,
    whole: Option<Arc<WholeFile>>,
}

/// A file of which all blocks are read. Its CRC has to be the one that the backup computed before
/// it divided the file into blocks.
struct WholeFile {
    /// Part of the manifest that has the file.
    manifest: ObjectName,
    /// Id of the backup.
    id: String,
    crc32c: u32,
    /// Number of pieces that were not read yet.
    left: AtomicUsize,
    /// Offset in the file, length and CRC of each piece.
    parts: Mutex<Vec<(u64, usize, u32)>>,
}

/// Makes tasks of the ranges to read for a part of a manifest.
///
/// # Errors
///
/// An item is a `Defect` when its range names a file or pack that is not one of these.
pub fn tasks(
    id: &str,
    number: u32,
    packs: &[Arc<str>],
    files: &[FileEntry],
    ranges: Vec<StoredRange>,
) -> impl Iterator<Item = Result<ReadTask>> {
    let mut read = vec![(0, 0); files.len()];
    for piece in ranges.iter().flat_map(|range| &range.frames).flat_map(|frame| &frame.pieces) {
        if let Some((pieces, blocks)) = read.get_mut(piece.file) {
            *pieces += 1;
            *blocks += piece.blocks.len();
        }
    }
    let known = |(file, (pieces, blocks)): (&FileEntry, (usize, usize))| {
        let whole = |crc32c| {
            Arc::new(WholeFile {
                manifest: ObjectName::Manifest(id.to_owned(), number),
                id: id.to_owned(),
                crc32c,
                left: AtomicUsize::new(pieces),
                parts: Mutex::default(),
            })
        };
        let is_whole = pieces > 0 && blocks == file.hashes.len();
        let path = if pieces > 0 { Arc::from(file.path.display()) } else { Arc::from("") };
        (path, file.crc32c.filter(|_| is_whole).map(whole))
    };
    let known: Vec<(Arc<str>, Option<Arc<WholeFile>>)> = files.iter().zip(read).map(known).collect();
    let task = move |mut range: StoredRange| {
        let mut blocks = Vec::new();
        for piece in range.frames.iter_mut().flat_map(|frame| &mut frame.pieces) {
            let (file, (path, whole)) = (files.get(piece.file)?, known.get(piece.file)?);
            piece.file = blocks.len();
            blocks.push(ExpectedBlocks {
                path: path.clone(),
                block: file.block,
                hashes: file.hashes.get(piece.blocks.clone())?.to_vec(),
                whole: whole.clone(),
            });
        }
        let pack = packs.get(range.pack as usize)?.clone();
        Some(ReadTask::StoredRange(pack, range, blocks))
    };
    let missing = || Error::defect("blocks to read are not in the manifest");
    ranges.into_iter().map(move |range| task(range).ok_or_else(missing))
}

/// Bytes of a frame's content that are bad, and the error.
type BadContent = (Range<usize>, Error);

/// Reads objects in one thread.
pub struct TaskReader<'a> {
    archive: &'a Archive,
    findings: &'a Findings,
    decompressor: Decompressor,
    content: Vec<u8>,
}

impl<'a> TaskReader<'a> {
    /// Returns a reader that adds to `findings`.
    pub fn new(archive: &'a Archive, findings: &'a Findings) -> TaskReader<'a> {
        TaskReader { archive, findings, decompressor: Decompressor::default(), content: Vec::new() }
    }

    /// Reads and checks the objects of a task.
    pub fn read(&mut self, task: &ReadTask) {
        match task {
            ReadTask::Pack(key) => self.pack(key),
            ReadTask::StoredRange(pack, range, blocks) => self.range(pack, range, blocks),
            ReadTask::Wal(files) => self.wal(files),
        }
    }

    fn pack(&self, key: &str) {
        Findings::count(&self.findings.objects, 1);
        match self.archive.check_pack(key) {
            Ok(()) => self.findings.reached(),
            Err(error) => self.pack_error(key, &error, None),
        }
        Findings::count(&self.findings.bytes, HEADER_SIZE as u64);
    }

    /// Adds the error of reading a pack, or a range of it.
    fn pack_error(&self, key: &str, error: &Error, range: Option<&StoredRange>) {
        let Some(name) = ObjectName::parse(key) else {
            return;
        };
        if !is_damage(error) {
            return self.findings.unknown(&name, error);
        }
        match (self.archive.stored_at(&name), range) {
            (Err(error), _) => self.findings.unknown(&name, &error),
            (Ok(None), _) => self.findings.pack(ProblemKind::Missing, &name, "it is missing"),
            (Ok(Some(_)), None) => self.findings.pack(ProblemKind::Damaged, &name, error.to_string()),
            (Ok(Some(_)), Some(range)) => {
                for frame in &range.frames {
                    self.findings.place(key, frame.offset, WHOLE_FRAME, error.to_string());
                }
            }
        }
    }

    fn range(&mut self, key: &str, range: &StoredRange, blocks: &[ExpectedBlocks]) {
        let bytes = match self.archive.get_range(key, range.begin..range.end) {
            Ok(bytes) => bytes,
            Err(error) => return self.pack_error(key, &error, Some(range)),
        };
        self.findings.reached();
        for frame in &range.frames {
            match self.frame(range, frame, blocks, &bytes) {
                Ok(()) => {}
                Err((place, error)) if is_damage(&error) => {
                    let detail = format!("at byte {}: {error}", frame.offset);
                    self.findings.place(key, frame.offset, place, detail);
                }
                Err((_, error)) => self.pack_error(key, &error, None),
            }
        }
        Findings::count(&self.findings.bytes, bytes.len() as u64);
    }

    /// Checks a frame. The error comes with the range from the first bad byte of the content to the
    /// last.
    fn frame(
        &mut self,
        range: &StoredRange,
        frame: &StoredFrame,
        blocks: &[ExpectedBlocks],
        bytes: &[u8],
    ) -> std::result::Result<(), BadContent> {
        let stored = range.frame(frame, bytes);
        let unpacked = stored.and_then(|stored| self.decompressor.frame(stored, FRAME, &mut self.content));
        unpacked.map_err(|error| (WHOLE_FRAME, error))?;
        let mut result = Ok(());
        for piece in &frame.pieces {
            let expected = blocks
                .get(piece.file)
                .ok_or_else(|| (WHOLE_FRAME, Error::defect("a frame was read without knowing its blocks")))?;
            if let Err((place, error)) = self.piece(piece, expected) {
                result = match result {
                    Ok(()) => Err((place, error)),
                    Err((before, first)) => {
                        Err((before.start.min(place.start)..before.end.max(place.end), first))
                    }
                };
            }
        }
        result
    }

    fn piece(&self, piece: &WantedBlocks, expected: &ExpectedBlocks) -> std::result::Result<(), BadContent> {
        let all = piece.skip..piece.skip + piece.length;
        let bytes = piece.of(&self.content).map_err(|error| (all, error))?;
        if let Some(bad) = mismatched_blocks(bytes, expected.block, &expected.hashes) {
            let at = |block: usize| piece.skip + (block * expected.block as usize).min(piece.length);
            return Err((at(bad.start)..at(bad.end), piece.damaged(&expected.path)));
        }
        if let Some(whole) = &expected.whole {
            let parts = whole.add(piece.offset, bytes);
            if let Some(crc32c) = parts.filter(|crc32c| *crc32c != whole.crc32c) {
                let detail = format!(
                    "{} has CRC-32C {crc32c:08x}, the manifest says {:08x}",
                    expected.path, whole.crc32c
                );
                let backups = [whole.id.as_str()];
                self.findings.problem(ProblemKind::Inconsistent, &whole.manifest, detail, backups);
            }
        }
        Ok(())
    }

    fn wal(&self, files: &[(WalName, u64)]) {
        for (name, result) in wal::check(self.archive, files.iter().map(|(name, _)| *name)) {
            self.findings.wal(self.archive, name, result);
            Findings::count(&self.findings.objects, 1);
            if let WalName::Segment(_) = name {
                Findings::count(&self.findings.segments, 1);
            }
        }
        Findings::count(&self.findings.bytes, files.iter().map(|(_, size)| size).sum());
    }
}

impl WholeFile {
    /// Adds a good piece. Returns the CRC of the whole file when the piece is the last one. A bad
    /// piece is never added, so a file with damage has no CRC here.
    fn add(&self, offset: u64, bytes: &[u8]) -> Option<u32> {
        let crc32c = crc32c::crc32c(bytes);
        let mut parts = self.parts.lock();
        parts.push((offset, bytes.len(), crc32c));
        if self.left.fetch_sub(1, Ordering::Relaxed) > 1 {
            return None;
        }
        parts.sort_unstable();
        let mut parts = parts.drain(..);
        let (_, _, first) = parts.next()?;
        Some(parts.fold(first, |crc, (_, length, next)| crc32c::crc32c_combine(crc, next, length)))
    }
}
