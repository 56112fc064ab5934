//! A WAL file as PostgreSQL left it in `pg_wal`, and the object it becomes.
//!
//! A file is read once: one thread reads, another hashes, and whichever has time compresses. Of several files each thread
//! takes some side by side, which is less work in all ([`Encoded::encode_together`]). Files above [`WHOLE`] are read
//! twice instead, so that memory stays bounded: once for the hash, which stands in front, and once while they are stored.

use super::ahead::spool::Stamp;
use super::budget::{Budget, Share};
use crate::codec::compress::{Compression, Compressor};
use crate::codec::envelope::{HEADER_SIZE, Header};
use crate::codec::hash::{ContentHash, Hasher};
use crate::codec::pair::{hash_on_two_threads, hash_side_by_side};
use crate::error::{Doing, Error, Kind, Result};
use crate::fs::aligned::Aligned;
use crate::fs::open_plain;
use crate::pg::history::{History, MAX_FILE_SIZE};
use crate::pg::segment::WalName;
use crate::pg::wal::{HEADER_SIZE as WAL_HEADER_SIZE, SegmentHeader};
use crate::repo::{Body, Lineage, OpenBody};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

/// The largest file that is compressed into memory as a whole, 64 MiB.
const WHOLE: u64 = 64 << 20;

/// What a store may collect of a file that is compressed while it is stored.
const STREAM: u64 = 16 << 20;

/// The space that an object is given at first, of which it touches what it needs. The allocator asks the system for
/// pieces of more than 32 MiB each time, and gives them back; smaller ones it would keep, for each thread.
const RETURNED: usize = 33 << 20;

/// Bytes of content in a frame: so few that what is decompressed is still in the processor's cache when it is
/// hashed and written.
const FRAME: usize = 256 << 10;

/// Pieces that wait for the hash.
const QUEUE: usize = 3;

/// The piece of a file that tells how large the object will be.
const PROBE: usize = 3;

/// What each of several files gets of the memory that they share, at first and whenever it needs more.
pub const STEP: u64 = 2 << 20;

/// A WAL file that may be archived: a regular file whose content can be what its name says.
pub struct WalFile {
    pub name: WalName,
    path: PathBuf,
    file: File,
    size: u64,
    /// Tells another file under the same name.
    stamp: Stamp,
}

impl WalFile {
    /// Opens and checks. Refuses whatever is no regular file, so that nothing can block; a segment whose
    /// header does not agree with its name, its size and the cluster; and history and backup files that
    /// PostgreSQL cannot have written.
    pub fn open(path: &Path, name: WalName, lineage: Lineage) -> Result<WalFile> {
        let doing = || format!("read {}", path.display());
        let file = open_plain(path, File::options().read(true)).map_err(|e| {
            Error::io(doing(), &e).hint("walpush takes the path that PostgreSQL puts in the place of %p")
        })?;
        let meta = file.metadata().doing(doing)?;
        if !meta.is_file() {
            return Err(Error::new(Kind::Refused, "it is no regular file").doing(doing()));
        }
        let wal = WalFile { name, path: path.to_owned(), size: meta.len(), stamp: Stamp::of(&meta), file };
        wal.check(lineage).doing(doing)?;
        Ok(wal)
    }

    fn check(&self, lineage: Lineage) -> Result<()> {
        let name = match self.name {
            WalName::Segment(name) | WalName::Partial(name) => name,
            WalName::History(timeline) => return History::parse(timeline, &self.small()?).map(|_| ()),
            WalName::Backup(..) => {
                return match self.small()?.starts_with(b"START WAL LOCATION: ") {
                    true => Ok(()),
                    false => Err(Error::new(Kind::Damage, "it does not begin as a backup history file")),
                };
            }
        };
        let mut bytes = [0; WAL_HEADER_SIZE];
        let length = bytes.len().min(self.size as usize);
        self.file.read_exact_at(&mut bytes[..length], 0).doing(|| "read the header".to_owned())?;
        let header = SegmentHeader::parse(&bytes[..length])?;
        header.check(name, self.size, lineage.system_identifier, lineage.major)
    }

    /// All of a history or backup file.
    fn small(&self) -> Result<Vec<u8>> {
        if self.size == 0 || self.size > MAX_FILE_SIZE {
            return Err(Error::new(Kind::Damage, format!("{} bytes are no size of such a file", self.size)));
        }
        let mut bytes = vec![0; self.size as usize];
        self.file.read_exact_at(&mut bytes, 0).doing(|| "read".to_owned())?;
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

    /// Replaces `piece` by the one with this number, counted from 0; false behind the end.
    fn read_piece(&self, number: usize, piece: &mut Vec<u8>) -> Result<bool> {
        let offset = number as u64 * FRAME as u64;
        if offset >= self.size {
            return Ok(false);
        }
        piece.resize(FRAME.min((self.size - offset) as usize), 0);
        self.file.read_exact_at(piece, offset).doing(|| format!("read {}", self.path.display()))?;
        Ok(true)
    }

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

    /// Whether these are the bytes at `offset`.
    pub fn has(&self, bytes: &[u8], offset: u64) -> Result<bool> {
        let end = offset + bytes.len() as u64;
        if end > self.size {
            return Ok(false);
        }
        let mut own = vec![0; bytes.len()];
        self.file.read_exact_at(&mut own, offset).doing(|| format!("read {}", self.path.display()))?;
        Ok(own == bytes)
    }

    /// Fails when the name now belongs to another file or the file was written to: PostgreSQL recycles
    /// segments under new names, and what was read may then be half of each.
    fn check_unchanged(&self) -> Result<()> {
        let doing = || format!("read {}", self.path.display());
        let now = std::fs::symlink_metadata(&self.path).doing(doing)?;
        let still = self.file.metadata().doing(doing)?;
        if Stamp::of(&now) == self.stamp && Stamp::of(&still) == self.stamp {
            return Ok(());
        }
        Err(Error::new(Kind::Unavailable, "it changed while it was read").doing(doing()))
    }
}

/// The object that a WAL file becomes; made when the first store asks for it, and then kept for the others.
pub struct Encoded {
    wal: WalFile,
    header: Header,
    compression: Compression,
    whole: OnceLock<(Aligned, Option<Share>)>,
    /// Keeps a second store from encoding beside the first.
    making: Mutex<()>,
    /// What its memory is taken from, and how long it may wait for that.
    budget: Option<(Arc<Budget>, Duration)>,
}

impl Encoded {
    pub fn new(wal: WalFile, header: Header, compression: Compression) -> Encoded {
        Encoded { wal, header, compression, whole: OnceLock::new(), making: Mutex::new(()), budget: None }
    }

    /// The same, one of several that share memory.
    pub fn within(self, budget: Arc<Budget>, patience: Duration) -> Encoded {
        Encoded { budget: Some((budget, patience)), ..self }
    }

    pub fn wal(&self) -> &WalFile {
        &self.wal
    }

    /// Takes so much of the memory that is shared, if any is.
    fn share(&self, bytes: u64) -> Result<Option<Share>> {
        self.budget.as_ref().map(|(budget, patience)| budget.take(bytes, *patience)).transpose()
    }

    fn header(&self, sha256: ContentHash) -> Result<[u8; HEADER_SIZE]> {
        let mut header = self.header.clone();
        header.size = Some(self.wal.size);
        header.sha256 = Some(sha256);
        header.encode()
    }

    fn encode(&self) -> Result<Aligned> {
        let object = Mutex::new(Ordered { object: self.begin(), next: 0, early: BTreeMap::new() });
        let sha256 = self.compress(&object)?;
        let object = object.into_inner().unwrap_or_else(PoisonError::into_inner).object;
        self.end(object, sha256)
    }

    /// An object without its header and its frames.
    fn begin(&self) -> Aligned {
        let mut object = Aligned::with_capacity(if self.wal.size <= FRAME as u64 { 0 } else { RETURNED });
        object.extend_from_slice(&[0; HEADER_SIZE]);
        object
    }

    /// An object that has its frames gets its header.
    fn end(&self, mut object: Aligned, sha256: ContentHash) -> Result<Aligned> {
        self.wal.check_unchanged()?;
        object[..HEADER_SIZE].copy_from_slice(&self.header(sha256)?);
        Ok(object)
    }

    /// Encodes several files side by side, on this thread alone. A file for which that fails, also for want of
    /// memory, is left to the store that asks for it first. `shares` have [`STEP`] bytes each.
    pub fn encode_together(files: &[Encoded], shares: Vec<Share>) {
        let Some(Ok(mut compressor)) = files.first().map(|file| Compressor::new(file.compression)) else {
            return;
        };
        let mut frame = Vec::new();
        let small = files.iter().filter(|file| file.wal.size <= WHOLE).zip(shares);
        hash_side_by_side(
            small.map(|(file, share)| FileLane { file, share, object: file.begin(), pieces: 0 }),
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

    /// Appends the frames, and returns the hash of the content.
    fn compress(&self, object: &Mutex<Ordered>) -> Result<ContentHash> {
        let mut own = Frames::new(self.compression, object)?;
        if self.wal.size <= FRAME as u64 {
            let mut piece = Vec::new();
            self.wal.read_piece(0, &mut piece)?;
            own.add(0, &piece)?;
            return Ok(ContentHash::of(&piece));
        }
        let mut other = Frames::new(self.compression, object)?;
        let mut pieces = 0..;
        hash_on_two_threads(
            QUEUE,
            |piece| pieces.next().map_or(Ok(false), |number| self.wal.read_piece(number, piece)),
            |piece| own.add(piece.number, piece.bytes),
            |piece| other.add(piece.number, piece.bytes),
        )
    }
}

/// One of several files that are encoded side by side.
struct FileLane<'a> {
    file: &'a Encoded,
    share: Share,
    object: Aligned,
    /// Number of pieces that are in the object.
    pieces: usize,
}

impl FileLane<'_> {
    /// Appends the frame of the next piece.
    fn add(&mut self, frame: &[u8]) -> Result<()> {
        self.object.extend_from_slice(frame);
        let mut size = self.object.len() as u64;
        // The size of the whole object at this rate: what will not fit is better given up early.
        if self.pieces == PROBE {
            let read = (self.pieces as u64 + 1) * FRAME as u64;
            size = size.max(size * self.file.wal.size / read);
        }
        self.pieces += 1;
        if self.share.hold(size, STEP) {
            return Ok(());
        }
        Err(Error::new(Kind::Full, "no memory for the object of this file"))
    }

    fn end(mut self, sha256: ContentHash) {
        if let Ok(object) = self.file.end(self.object, sha256) {
            self.share.shrink(object.len() as u64);
            let _ = self.file.whole.set((object, Some(self.share)));
        }
    }
}

/// An object in the making.
struct Ordered {
    object: Aligned,
    /// The frame that comes next.
    next: usize,
    /// Frames that are done before the ones in front of them.
    early: BTreeMap<usize, Vec<u8>>,
}

/// What one thread makes frames with.
struct Frames<'a> {
    compressor: Compressor,
    /// Large enough for any frame, and used again.
    scratch: Vec<u8>,
    ordered: &'a Mutex<Ordered>,
}

impl Frames<'_> {
    fn new(compression: Compression, ordered: &Mutex<Ordered>) -> Result<Frames<'_>> {
        Ok(Frames { compressor: Compressor::new(compression)?, scratch: Vec::new(), ordered })
    }

    fn add(&mut self, number: usize, piece: &[u8]) -> Result<()> {
        self.compressor.frame(piece, &mut self.scratch)?;
        let mut ordered = self.ordered.lock().unwrap_or_else(PoisonError::into_inner);
        let Ordered { object, next, early } = &mut *ordered;
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

impl Body for Encoded {
    fn open(&self) -> Result<OpenBody<'_>> {
        if self.wal.size > WHOLE {
            let share = self.share(STREAM)?;
            let sha256 = self.wal.hash()?;
            self.wal.check_unchanged()?;
            return Ok(OpenBody::Stream(Box::new(Stream {
                wal: &self.wal,
                compressor: Compressor::new(self.compression)?,
                piece: Vec::new(),
                number: 0,
                check: Some((Hasher::default(), sha256)),
                ready: self.header(sha256)?.to_vec(),
                given: 0,
                _share: share,
            })));
        }
        let _alone = self.making.lock();
        if self.whole.get().is_none() {
            let mut share = self.share(self.wal.size)?;
            let object = self.encode()?;
            if let Some(share) = &mut share {
                share.shrink(object.len() as u64);
            }
            let _ = self.whole.set((object, share));
        }
        self.whole
            .get()
            .map(|(object, _)| OpenBody::Whole(object))
            .ok_or_else(|| Error::new(Kind::Failed, "the encoded file is gone"))
    }
}

/// A large file, compressed while it is stored; fails at its end when it was not what was hashed before.
struct Stream<'a> {
    wal: &'a WalFile,
    compressor: Compressor,
    piece: Vec<u8>,
    number: usize,
    check: Option<(Hasher, ContentHash)>,
    ready: Vec<u8>,
    given: usize,
    _share: Option<Share>,
}

impl Stream<'_> {
    fn refill(&mut self) -> Result<()> {
        self.ready.clear();
        self.given = 0;
        if self.wal.read_piece(self.number, &mut self.piece)? {
            self.number += 1;
            if let Some((hasher, _)) = &mut self.check {
                hasher.update(&self.piece);
            }
            self.compressor.frame(&self.piece, &mut self.ready)?;
        } else if let Some((hasher, expected)) = self.check.take() {
            self.wal.check_unchanged()?;
            if hasher.finish() != expected {
                return Err(Error::new(Kind::Unavailable, "it changed while it was read"));
            }
        }
        Ok(())
    }
}

impl Read for Stream<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if self.given == self.ready.len() {
            self.refill().map_err(std::io::Error::other)?;
        }
        let rest = &self.ready[self.given..];
        let length = rest.len().min(buffer.len());
        buffer[..length].copy_from_slice(&rest[..length]);
        self.given += length;
        Ok(length)
    }
}
