//! Packs and WAL, read on many threads: each frame that a manifest names is decompressed, and every block hashed.

use super::findings::{Findings, Kind as ProblemKind};
use super::wal;
use crate::codec::compress::{Decompressor, FRAME};
use crate::codec::envelope::HEADER_SIZE;
use crate::codec::hash::BlockHash;
use crate::error::{Error, Kind};
use crate::pg::segment::WalName;
use crate::repo::entry::FileEntry;
use crate::repo::ranges::{StoredFrame, StoredRange, WantedBlocks, mismatched_blocks};
use crate::repo::{Archive, ObjectName};
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Something to be read. Holds what it needs of a manifest and not the manifest.
pub enum Task {
    /// Whether an object is the pack that its key promises.
    Pack(Arc<str>),
    /// Its pieces number the blocks that come with it.
    StoredRange(Arc<str>, StoredRange, Vec<Blocks>),
    /// WAL files and their sizes.
    Wal(Vec<(WalName, u64)>),
}

/// Blocks of a file, and what they should be.
pub struct Blocks {
    path: Arc<str>,
    block: u32,
    hashes: Vec<BlockHash>,
    whole: Option<Arc<Whole>>,
}

/// A file all of whose blocks are read: its CRC has to be the one that was taken before it was cut into blocks.
struct Whole {
    /// The part of the manifest that has it, and its backup.
    manifest: ObjectName,
    id: String,
    crc32c: u32,
    /// Pieces that are not read yet.
    left: AtomicUsize,
    /// Of each piece: where it lies in the file, how long it is, its CRC.
    parts: Mutex<Vec<(u64, usize, u32)>>,
}

/// Makes tasks of what has to be read for a part of a manifest.
pub fn tasks(
    id: &str,
    number: u32,
    packs: &[Arc<str>],
    files: &[FileEntry],
    stretches: Vec<StoredRange>,
) -> impl Iterator<Item = Task> {
    let mut read = vec![(0, 0); files.len()];
    for piece in stretches.iter().flat_map(|stretch| &stretch.frames).flat_map(|frame| &frame.pieces) {
        if let Some((pieces, blocks)) = read.get_mut(piece.file) {
            *pieces += 1;
            *blocks += piece.blocks.len();
        }
    }
    let known = |(file, (pieces, blocks)): (&FileEntry, (usize, usize))| {
        let whole = |crc32c| {
            Arc::new(Whole {
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
    let known: Vec<(Arc<str>, Option<Arc<Whole>>)> = files.iter().zip(read).map(known).collect();
    stretches.into_iter().filter_map(move |mut stretch| {
        let mut blocks = Vec::new();
        for piece in stretch.frames.iter_mut().flat_map(|frame| &mut frame.pieces) {
            let (file, (path, whole)) = (files.get(piece.file)?, known.get(piece.file)?);
            piece.file = blocks.len();
            blocks.push(Blocks {
                path: path.clone(),
                block: file.block,
                hashes: file.hashes.get(piece.blocks.clone()).unwrap_or_default().to_vec(),
                whole: whole.clone(),
            });
        }
        let pack = packs.get(stretch.pack as usize)?.clone();
        Some(Task::StoredRange(pack, stretch, blocks))
    })
}

/// Reads what it is told.
pub struct Reader<'a> {
    archive: &'a Archive,
    findings: &'a Findings,
    decompressor: Decompressor,
    content: Vec<u8>,
}

impl<'a> Reader<'a> {
    pub fn new(archive: &'a Archive, findings: &'a Findings) -> Reader<'a> {
        Reader { archive, findings, decompressor: Decompressor::default(), content: Vec::new() }
    }

    pub fn read(&mut self, task: &Task) {
        match task {
            Task::Pack(key) => self.pack(key),
            Task::StoredRange(pack, stretch, blocks) => self.stretch(pack, stretch, blocks),
            Task::Wal(files) => self.wal(files),
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

    /// Notes why a pack, or a stretch of it, cannot be read.
    fn pack_error(&self, key: &str, error: &Error, stretch: Option<&StoredRange>) {
        let Some(name) = ObjectName::parse(key) else {
            return;
        };
        if !matches!(error.kind(), Kind::Damage | Kind::Identity) {
            return self.findings.unknown(&name, error);
        }
        match (self.archive.stored_at(&name), stretch) {
            (Err(error), _) => self.findings.unknown(&name, &error),
            (Ok(None), _) => self.findings.pack(ProblemKind::Missing, &name, "it is missing"),
            (Ok(Some(_)), None) => self.findings.pack(ProblemKind::Damaged, &name, error.to_string()),
            (Ok(Some(_)), Some(stretch)) => {
                for frame in &stretch.frames {
                    self.findings.place(key, frame.offset, 0..usize::MAX, error.to_string());
                }
            }
        }
    }

    fn stretch(&mut self, key: &str, stretch: &StoredRange, blocks: &[Blocks]) {
        let bytes = match self.archive.get_range(key, stretch.begin..stretch.end) {
            Ok(bytes) => bytes,
            Err(error) => return self.pack_error(key, &error, Some(stretch)),
        };
        self.findings.reached();
        for frame in &stretch.frames {
            if let Err((place, error)) = self.frame(stretch, frame, blocks, &bytes) {
                let detail = format!("at byte {}: {error}", frame.offset);
                self.findings.place(key, frame.offset, place, detail);
            }
        }
        Findings::count(&self.findings.bytes, bytes.len() as u64);
    }

    /// When something is wrong, also which bytes of the frame's content are.
    fn frame(
        &mut self,
        stretch: &StoredRange,
        frame: &StoredFrame,
        blocks: &[Blocks],
        bytes: &[u8],
    ) -> std::result::Result<(), (Range<usize>, Error)> {
        let stored = stretch.frame(frame, bytes);
        let unpacked = stored.and_then(|stored| self.decompressor.frame(stored, FRAME, &mut self.content));
        unpacked.map_err(|error| (0..usize::MAX, error))?;
        let mut result: std::result::Result<(), (Range<usize>, Error)> = Ok(());
        for piece in &frame.pieces {
            let Some(blocks) = blocks.get(piece.file) else {
                continue;
            };
            if let Err((place, error)) = self.piece(piece, blocks) {
                // One stretch from the first bad byte to the last one.
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

    fn piece(&self, piece: &WantedBlocks, blocks: &Blocks) -> std::result::Result<(), (Range<usize>, Error)> {
        let all = piece.skip..piece.skip + piece.length;
        let bytes = piece.of(&self.content).map_err(|error| (all, error))?;
        if let Some(bad) = mismatched_blocks(bytes, blocks.block, &blocks.hashes) {
            let at = |block: usize| piece.skip + (block * blocks.block as usize).min(piece.length);
            return Err((at(bad.start)..at(bad.end), piece.damaged(&blocks.path)));
        }
        if let Some(whole) = &blocks.whole {
            let parts = whole.add(piece.offset, bytes);
            if let Some(crc32c) = parts.filter(|crc32c| *crc32c != whole.crc32c) {
                let detail = format!(
                    "{} has CRC-32C {crc32c:08x}, the manifest says {:08x}",
                    blocks.path, whole.crc32c
                );
                let backups = [whole.id.as_str()];
                self.findings.problem(ProblemKind::Inconsistent, &whole.manifest, detail, backups);
            }
        }
        Ok(())
    }

    fn wal(&self, files: &[(WalName, u64)]) {
        for (name, result) in wal::check(self.archive, files.iter().map(|(name, _)| *name)) {
            let object = ObjectName::Wal(name);
            match result {
                Ok(Some(())) => self.findings.reached(),
                Ok(None) => self.findings.problem(ProblemKind::Missing, &object, "it is missing", []),
                Err(error) => match self.archive.stored_at(&object) {
                    Ok(there) => self.findings.error(&object, &error, there.is_some(), []),
                    Err(error) => self.findings.unknown(&object, &error),
                },
            }
            Findings::count(&self.findings.objects, 1);
            if let WalName::Segment(_) = name {
                Findings::count(&self.findings.segments, 1);
            }
        }
        Findings::count(&self.findings.bytes, files.iter().map(|(_, size)| size).sum());
    }
}

impl Whole {
    /// Adds a piece that is right; with the last one the CRC of the whole file. A bad piece never comes, and what
    /// is wrong then is known.
    fn add(&self, offset: u64, bytes: &[u8]) -> Option<u32> {
        let crc32c = crc32c::crc32c(bytes);
        let mut parts = self.parts.lock().unwrap_or_else(PoisonError::into_inner);
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
