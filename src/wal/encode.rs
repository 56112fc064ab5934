//! Encodes a WAL file of `pg_wal` into the object that is stored. Does not know repositories.
//!
//! A file is read once: one thread reads, another hashes, and the one that is idle compresses.
//! Several files are read side by side on one thread, which is less work in total
//! ([`LazyObject::encode_together`]). A file larger than [`MAX_IN_MEMORY`] is read twice, so that
//! memory stays bounded: once for the hash, which is part of the header, and once while the object
//! is stored.

use super::permits::{Permit, Permits};
use super::stamp::Stamp;
use crate::codec::compress::{Compression, Compressor};
use crate::codec::envelope::{HEADER_SIZE, Header, TRAILER_SIZE, trailer};
use crate::codec::hash::{ContentHash, Hasher};
use crate::codec::pair::{hash_on_two_threads, hash_side_by_side};
use crate::error::{Doing, Error, Kind, Result, part};
use crate::fs::aligned::Aligned;
use crate::fs::folder::Folder;
use crate::pg::history::{History, MAX_FILE_SIZE};
use crate::pg::segment::WalName;
use crate::pg::wal::{HEADER_SIZE as WAL_HEADER_SIZE, SegmentHeader};
use crate::repo::{Body, Lineage, OpenBody};
use once_cell::sync::OnceCell;
use parking_lot::Mutex;
use rustix::fs::fstat;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Maximum size in bytes of a file that is compressed into memory as a whole.
const MAX_IN_MEMORY: u64 = 64 << 20;

/// Maximum number of bytes that a store buffers of a larger file, which is compressed while it is
/// stored.
const MAX_STREAM_BUFFER: u64 = 16 << 20;

/// Number of bytes that are allocated for an object at first; pages that are not used take no
/// memory. The allocator takes a block of more than 32 MiB from the system each time and returns
/// it, while it would keep smaller blocks, for each thread.
const INITIAL_CAPACITY: usize = 33 << 20;

/// Number of bytes of content in a frame, small enough that the decompressed bytes are still in the
/// processor's cache when they are hashed and written.
const FRAME_SIZE: usize = 256 << 10;

/// Maximum number of pieces that wait for the hash.
const QUEUE_CAPACITY: usize = 3;

/// Number of the piece after which the size of the whole object is estimated.
const ESTIMATE_AFTER_PIECE: usize = 3;

/// Number of bytes of the shared memory that each of several files takes at first, and whenever it
/// needs more.
pub const MEMORY_STEP: u64 = 2 << 20;

/// A WAL file that may be archived: a regular file whose content agrees with its name.
pub struct WalFile {
    pub name: WalName,
    path: PathBuf,
    folder: Folder,
    file: File,
    size: u64,
    /// Stamp of the open file, by which a change of the file or of its name is detected.
    stamp: Stamp,
}

impl WalFile {
    /// Opens and checks a file.
    ///
    /// # Errors
    ///
    /// `Refused` when the file is not a regular file; `Damage` or `Identity` for a segment whose
    /// header does not agree with its name, its size and the cluster; `Damage` for a history or
    /// backup file that PostgreSQL cannot have written.
    pub fn open(path: &Path, name: WalName, lineage: Lineage) -> Result<WalFile> {
        let doing = || format!("read {}", path.display());
        let hint = "walpush takes the path that PostgreSQL substitutes for %p";
        let missing = || Error::new(Kind::Absent, "the file does not exist").hint(hint);
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        let folder =
            Folder::root(parent.unwrap_or(Path::new("."))).and_then(|folder| folder.ok_or_else(missing));
        let folder = folder.doing(doing)?;
        let (file, stat) = match folder.file_with_stat(file_name(path)) {
            Err(error) if error.kind() == Kind::Damage => Err(error.with_kind(Kind::Refused).with_hint(hint)),
            opened => opened.and_then(|opened| opened.ok_or_else(missing)),
        }
        .doing(doing)?;
        let stamp = Stamp::of(&stat).doing(doing)?;
        let wal = WalFile { name, path: path.to_owned(), folder, size: stamp.size, stamp, file };
        wal.check(lineage).doing(doing)?;
        Ok(wal)
    }

    fn check(&self, lineage: Lineage) -> Result<()> {
        let name = match self.name {
            WalName::Segment(name) | WalName::Partial(name) => name,
            WalName::History(timeline) => return History::parse(timeline, &self.small()?).map(|_| ()),
            WalName::Backup(..) => {
                let is_backup_history = self.small()?.starts_with(b"START WAL LOCATION: ");
                return is_backup_history.then_some(()).ok_or_else(|| {
                    Error::new(Kind::Damage, "not a backup history file: START WAL LOCATION is missing")
                });
            }
        };
        let mut bytes = vec![0; length_up_to(WAL_HEADER_SIZE, self.size)];
        self.file.read_exact_at(&mut bytes, 0).doing("read the header")?;
        let header = SegmentHeader::parse(&bytes)?;
        header.check(name, self.size, lineage.system_identifier, lineage.major)
    }

    /// Reads the whole of a history or backup file.
    fn small(&self) -> Result<Vec<u8>> {
        let length = usize::try_from(self.size).ok().filter(|_| (1..=MAX_FILE_SIZE).contains(&self.size));
        let length = length.ok_or_else(|| {
            Error::new(Kind::Damage, format!("{} bytes is not a valid size for this kind of file", self.size))
        })?;
        let mut bytes = vec![0; length];
        self.file.read_exact_at(&mut bytes, 0).doing("read")?;
        Ok(bytes)
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn size(&self) -> u64 {
        self.size
    }

    pub fn stamp(&self) -> Stamp {
        self.stamp
    }

    /// Replaces the content of `piece` by the piece with this number, counted from 0. Returns false
    /// after the end of the file.
    fn read_piece(&self, number: usize, piece: &mut Vec<u8>) -> Result<bool> {
        let offset = number as u64 * FRAME_SIZE as u64;
        if offset >= self.size {
            return Ok(false);
        }
        piece.resize(length_up_to(FRAME_SIZE, self.size - offset), 0);
        self.file.read_exact_at(piece, offset).doing(|| format!("read {}", self.path.display()))?;
        Ok(true)
    }

    /// Reads the whole file and returns its hash.
    pub fn hash(&self) -> Result<ContentHash> {
        let mut hasher = Hasher::default();
        let mut piece = Vec::new();
        let mut number = 0;
        while self.read_piece(number, &mut piece)? {
            hasher.update(&piece);
            number += 1;
        }
        Ok(hasher.finish())
    }

    /// Whether the file contains `bytes` at `offset`.
    pub fn has(&self, bytes: &[u8], offset: u64) -> Result<bool> {
        let end = offset + bytes.len() as u64;
        if end > self.size {
            return Ok(false);
        }
        let mut own = vec![0; bytes.len()];
        self.file.read_exact_at(&mut own, offset).doing(|| format!("read {}", self.path.display()))?;
        Ok(own == bytes)
    }

    /// Fails when the name now belongs to another file or the file was written to: PostgreSQL
    /// recycles segments under new names, and the bytes that were read may then be a mixture of two
    /// segments.
    fn check_unchanged(&self) -> Result<()> {
        let doing = || format!("read {}", self.path.display());
        let named = self.folder.entry(file_name(&self.path))?;
        let still = fstat(&self.file).doing(doing)?;
        if named.map(|stat| Stamp::of(&stat)).transpose()? == Some(self.stamp)
            && Stamp::of(&still)? == self.stamp
        {
            return Ok(());
        }
        Err(Error::new(Kind::Unavailable, "the file changed while it was read").doing(doing()))
    }
}

fn file_name(path: &Path) -> &Path {
    path.file_name().map_or(path, Path::new)
}

/// Returns `left`, or `limit` if that is smaller.
fn length_up_to(limit: usize, left: u64) -> usize {
    usize::try_from(left).map_or(limit, |left| left.min(limit))
}

/// The encoded object of a WAL file. The first store that opens it as a [`Body`], within its `put`,
/// encodes the file; other stores wait for that and use the same bytes.
pub struct LazyObject {
    wal: WalFile,
    header: Header,
    compression: Compression,
    whole: OnceCell<(Aligned, Option<Permit>)>,
    /// Memory that is shared with other files, and the time limit of a wait for it.
    memory: Option<(Arc<Permits>, Duration)>,
}

impl LazyObject {
    pub fn new(wal: WalFile, header: Header, compression: Compression) -> LazyObject {
        LazyObject { wal, header, compression, whole: OnceCell::new(), memory: None }
    }

    /// Makes the object one of several that share `memory`, for which each waits up to `patience`.
    pub fn within(self, memory: Arc<Permits>, patience: Duration) -> LazyObject {
        LazyObject { memory: Some((memory, patience)), ..self }
    }

    pub fn wal(&self) -> &WalFile {
        &self.wal
    }

    /// Takes `bytes` of the shared memory; `None` when the object does not share memory.
    fn take_memory(&self, bytes: u64) -> Result<Option<Permit>> {
        self.memory.as_ref().map(|(memory, patience)| memory.take(bytes, *patience)).transpose()
    }

    /// Whether the object ends with a trailer; other files are small, and read as a whole.
    fn has_trailer(&self) -> bool {
        matches!(self.wal.name, WalName::Segment(_) | WalName::Partial(_))
    }

    fn header(&self, sha256: ContentHash) -> Header {
        Header { size: Some(self.wal.size), sha256: Some(sha256), ..self.header.clone() }
    }

    fn encode(&self) -> Result<Aligned> {
        let object = Mutex::new(OrderedFrames { object: self.begin(), next: 0, early: BTreeMap::new() });
        let sha256 = self.compress(&object)?;
        self.end(object.into_inner().object, sha256)
    }

    /// Returns an object with room for its header and without frames.
    fn begin(&self) -> Aligned {
        let is_one_piece = self.wal.size <= FRAME_SIZE as u64;
        let mut object = Aligned::with_capacity(if is_one_piece { 0 } else { INITIAL_CAPACITY });
        object.extend_from_slice(&[0; HEADER_SIZE]);
        object
    }

    /// Writes the header of an object that has all its frames.
    fn end(&self, mut object: Aligned, sha256: ContentHash) -> Result<Aligned> {
        self.wal.check_unchanged()?;
        let header = self.header(sha256).encode()?;
        if self.has_trailer() {
            object.extend_from_slice(&trailer((object.len() + TRAILER_SIZE) as u64));
        }
        let place = object
            .get_mut(..HEADER_SIZE)
            .ok_or_else(|| Error::defect("an object without room for a header"))?;
        place.copy_from_slice(&header);
        Ok(object)
    }

    /// Encodes several files side by side, on this thread alone. A file whose encoding fails, also
    /// for lack of memory, is left to the store that opens it first. Each of `permits` is for
    /// [`MEMORY_STEP`] bytes.
    pub fn encode_together(files: &[LazyObject], permits: Vec<Permit>) {
        let Some(Ok(mut compressor)) = files.first().map(|file| Compressor::new(file.compression)) else {
            return;
        };
        let mut frame = Vec::new();
        let small = files.iter().filter(|file| file.wal.size <= MAX_IN_MEMORY).zip(permits);
        hash_side_by_side(
            small.map(|(file, memory)| FileLane { file, memory, object: file.begin(), pieces: 0 }),
            |lane, piece| lane.file.wal.read_piece(lane.pieces, piece),
            |lane, piece| {
                compressor.frame(piece, &mut frame)?;
                lane.add(&frame)
            },
            |lane, sha256| {
                if let Ok(sha256) = sha256 {
                    lane.end(sha256);
                }
            },
        );
    }

    /// Appends the frames of the file to `object`, and returns the hash of the content.
    fn compress(&self, object: &Mutex<OrderedFrames>) -> Result<ContentHash> {
        let mut own = FrameWriter::new(self.compression, object)?;
        if self.wal.size <= FRAME_SIZE as u64 {
            let mut piece = Vec::new();
            self.wal.read_piece(0, &mut piece)?;
            own.add(0, &piece)?;
            return Ok(ContentHash::of(&piece));
        }
        let mut other = FrameWriter::new(self.compression, object)?;
        let mut number = 0;
        hash_on_two_threads(
            QUEUE_CAPACITY,
            |piece| {
                let has_piece = self.wal.read_piece(number, piece)?;
                number += 1;
                Ok(has_piece)
            },
            |piece| own.add(piece.number, piece.bytes),
            |piece| other.add(piece.number, piece.bytes),
        )
    }
}

/// One of several files that are encoded side by side.
struct FileLane<'a> {
    file: &'a LazyObject,
    memory: Permit,
    object: Aligned,
    /// Number of pieces that are in the object.
    pieces: usize,
}

impl FileLane<'_> {
    /// Appends the frame of the next piece.
    fn add(&mut self, frame: &[u8]) -> Result<()> {
        self.object.extend_from_slice(frame);
        let mut size = self.object.len() as u64;
        // Estimates the size of the whole object: one that will not fit is better given up early.
        if self.pieces == ESTIMATE_AFTER_PIECE {
            let read = (self.pieces as u64 + 1) * FRAME_SIZE as u64;
            size = size.max(size * self.file.wal.size / read);
        }
        self.pieces += 1;
        if self.memory.grow(size, MEMORY_STEP) {
            return Ok(());
        }
        Err(Error::new(Kind::Full, "no memory for the object of this file"))
    }

    fn end(mut self, sha256: ContentHash) {
        if let Ok(object) = self.file.end(self.object, sha256) {
            self.memory.shrink(object.len() as u64);
            // The value cannot be set already, since no store has opened the file.
            let _ = self.file.whole.set((object, Some(self.memory)));
        }
    }
}

/// An object to which several threads append frames.
struct OrderedFrames {
    object: Aligned,
    /// Number of the next frame to append.
    next: usize,
    /// Frames that were finished before a frame in front of them, by number.
    early: BTreeMap<usize, Vec<u8>>,
}

/// The compressor of one thread, and the object to which it appends.
struct FrameWriter<'a> {
    compressor: Compressor,
    /// Buffer of a frame, which is reused.
    scratch: Vec<u8>,
    ordered: &'a Mutex<OrderedFrames>,
}

impl FrameWriter<'_> {
    fn new(compression: Compression, ordered: &Mutex<OrderedFrames>) -> Result<FrameWriter<'_>> {
        Ok(FrameWriter { compressor: Compressor::new(compression)?, scratch: Vec::new(), ordered })
    }

    /// Compresses a piece, and appends its frame as soon as all frames in front of it are appended.
    fn add(&mut self, number: usize, piece: &[u8]) -> Result<()> {
        self.compressor.frame(piece, &mut self.scratch)?;
        let mut ordered = self.ordered.lock();
        let OrderedFrames { object, next, early } = &mut *ordered;
        if number != *next {
            early.insert(number, self.scratch.clone());
            return Ok(());
        }
        object.extend_from_slice(&self.scratch);
        *next += 1;
        while let Some(frame) = early.remove(next) {
            object.extend_from_slice(&frame);
            *next += 1;
        }
        Ok(())
    }
}

impl Body for LazyObject {
    fn open(&self) -> Result<OpenBody<'_>> {
        if self.wal.size > MAX_IN_MEMORY {
            let memory = self.take_memory(MAX_STREAM_BUFFER)?;
            let sha256 = self.wal.hash()?;
            self.wal.check_unchanged()?;
            return Ok(OpenBody::Stream(Box::new(EncodingStream {
                wal: &self.wal,
                compressor: Compressor::new(self.compression)?,
                piece: Vec::new(),
                number: 0,
                check: Some((Hasher::default(), sha256)),
                ready: self.header(sha256).encode()?.to_vec(),
                given: 0,
                total: HEADER_SIZE as u64,
                _memory: memory,
            })));
        }
        let whole = self.whole.get_or_try_init(|| {
            let mut memory = self.take_memory(self.wal.size)?;
            let object = self.encode()?;
            if let Some(memory) = &mut memory {
                memory.shrink(object.len() as u64);
            }
            Ok::<_, Error>((object, memory))
        });
        Ok(OpenBody::Whole(&whole?.0))
    }
}

/// A reader that compresses a large file while it is stored. Fails at the end when the bytes differ
/// from those that were hashed before.
struct EncodingStream<'a> {
    wal: &'a WalFile,
    compressor: Compressor,
    piece: Vec<u8>,
    number: usize,
    /// Hash of the bytes so far, and the expected hash; `None` after the end.
    check: Option<(Hasher, ContentHash)>,
    /// Encoded bytes, of which `given` were read.
    ready: Vec<u8>,
    given: usize,
    /// Number of bytes that were encoded, header included.
    total: u64,
    _memory: Option<Permit>,
}

impl EncodingStream<'_> {
    /// Replaces the content of `ready` by the next frame; `ready` is empty at the end.
    fn refill(&mut self) -> Result<()> {
        self.ready.clear();
        self.given = 0;
        if self.wal.read_piece(self.number, &mut self.piece)? {
            self.number += 1;
            if let Some((hasher, _)) = &mut self.check {
                hasher.update(&self.piece);
            }
            self.compressor.frame(&self.piece, &mut self.ready)?;
            self.total += self.ready.len() as u64;
        } else if let Some((hasher, expected)) = self.check.take() {
            self.wal.check_unchanged()?;
            if hasher.finish() != expected {
                return Err(Error::new(Kind::Unavailable, "the file changed while it was read"));
            }
            self.ready.extend_from_slice(&trailer(self.total + TRAILER_SIZE as u64));
        }
        Ok(())
    }
}

impl Read for EncodingStream<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if self.given == self.ready.len() {
            self.refill().map_err(std::io::Error::other)?;
        }
        let rest = part(&self.ready, self.given..self.ready.len());
        let mut rest = rest.map_err(std::io::Error::other)?;
        let length = rest.read(buffer)?;
        self.given += length;
        Ok(length)
    }
}
