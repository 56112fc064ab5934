//! Files past the page cache: what is backed up or restored is not read again soon, so it should not push
//! out what the server needs, and on its way through the cache it costs more than the disk does. Where a file
//! system cannot do it, or a piece does not fit, the ordinary way is taken; both give the same bytes.

use crate::error::{Doing, Error, Result};
use rustix::fs::{Advice, FallocateFlags, OFlags, fallocate};
use rustix::io::Errno;
use std::fs::File;
use std::io::ErrorKind;
use std::num::NonZeroU64;
use std::ops::{Deref, DerefMut};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

/// What memory, offset and length have to be a multiple of: no disk in use asks for more.
pub const ALIGNMENT: usize = 4096;

/// A buffer that begins at a multiple of [`ALIGNMENT`]. Worth keeping: fresh memory costs more than to fill it.
#[derive(Default)]
pub struct Buffer(Vec<u8>);

impl Buffer {
    /// The first `size` bytes, with whatever they held before.
    pub fn slice(&mut self, size: usize) -> &mut [u8] {
        if self.0.len() < size + ALIGNMENT {
            self.0.resize(size + ALIGNMENT, 0);
        }
        // Never more than the alignment itself for bytes.
        let begin = self.begin();
        &mut self.0[begin..begin + size]
    }

    /// The same bytes, to be read: as many of them as there are.
    pub fn bytes(&self, size: usize) -> &[u8] {
        let begin = self.begin().min(self.0.len());
        &self.0[begin..self.0.len().min(begin + size)]
    }

    fn begin(&self) -> usize {
        self.0.as_ptr().align_offset(ALIGNMENT).min(ALIGNMENT)
    }
}

/// Bytes that grow, and begin at a multiple of [`ALIGNMENT`] while there are no more than was foreseen.
#[derive(Default)]
pub struct Aligned {
    bytes: Vec<u8>,
    begin: usize,
}

impl Aligned {
    /// With room for so many bytes. What is not filled takes no memory.
    pub fn with_capacity(size: usize) -> Aligned {
        let mut bytes: Vec<u8> = Vec::with_capacity(size + ALIGNMENT);
        let begin = bytes.as_ptr().align_offset(ALIGNMENT).min(ALIGNMENT);
        bytes.resize(begin, 0);
        Aligned { bytes, begin }
    }

    pub fn extend_from_slice(&mut self, more: &[u8]) {
        self.bytes.extend_from_slice(more);
    }

    /// Forgets the bytes and keeps the memory.
    pub fn clear(&mut self) {
        self.bytes.truncate(self.begin);
    }
}

impl Deref for Aligned {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.bytes.get(self.begin..).unwrap_or_default()
    }
}

impl DerefMut for Aligned {
    fn deref_mut(&mut self) -> &mut [u8] {
        self.bytes.get_mut(self.begin..).unwrap_or_default()
    }
}

/// A file that is read once.
pub struct Source<'a> {
    path: &'a Path,
    file: &'a File,
    /// The same file past the cache; `Some(None)` when that cannot be.
    direct: Option<Option<File>>,
}

impl<'a> Source<'a> {
    pub fn new(path: &'a Path, file: &'a File) -> Source<'a> {
        Source { path, file, direct: None }
    }

    /// One that is too small to be worth going past the cache.
    pub fn small(path: &'a Path, file: &'a File) -> Source<'a> {
        Source { path, file, direct: Some(None) }
    }

    /// Reads so many bytes, or up to the end of the file: out of the page cache what is there, and what is not, past
    /// it where offset and memory are aligned, and there is room for a last part that is rounded up. What comes into
    /// the cache all the same does not stay there.
    pub fn read(&mut self, memory: &mut [u8], size: usize, offset: u64) -> std::io::Result<usize> {
        let cached = cached(self.file, size, offset);
        let pages = size.div_ceil(rustix::param::page_size()) as u64;
        let whole = size.next_multiple_of(ALIGNMENT);
        let is_aligned = offset.is_multiple_of(ALIGNMENT as u64)
            && memory.as_ptr().align_offset(ALIGNMENT) == 0
            && memory.len() >= whole;
        if is_aligned && cached.is_none_or(|cached| cached < pages) {
            let direct = self.direct.get_or_insert_with(|| reopen(self.path, self.file));
            if let Some(file) = direct {
                match read_full(file, memory.get_mut(..whole).unwrap_or_default(), offset) {
                    Ok(got) => return Ok(got.min(size)),
                    // This file system or disk cannot, or not at an end that is not aligned.
                    Err(e) if e.raw_os_error() == Some(Errno::INVAL.raw_os_error()) => *direct = None,
                    Err(e) => return Err(e),
                }
            }
        }
        let got = read_full(self.file, memory.get_mut(..size).unwrap_or_default(), offset)?;
        if cached == Some(0) {
            let length = NonZeroU64::new(size as u64);
            // Advice: nothing is lost when it is not taken.
            let _ = rustix::fs::fadvise(self.file, offset, length, Advice::DontNeed);
        }
        Ok(got)
    }
}

/// How many pages of a part of a file the page cache holds. Asked of the kernel, since a read that must not wait
/// still fills the cache. Kernels before 6.5 do not know.
fn cached(file: &File, size: usize, offset: u64) -> Option<u64> {
    /// `cachestat`: the same number on every architecture.
    const CACHESTAT: libc::c_long = 451;
    let range = [offset, size as u64];
    let mut found = [0_u64; 5];
    // SAFETY: the kernel reads two 64-bit numbers (`struct cachestat_range`) and writes five (`struct cachestat`),
    // both arrays are that long and live until it returns; the descriptor is open as long as `file` is borrowed.
    let answer =
        unsafe { libc::syscall(CACHESTAT, file.as_raw_fd(), range.as_ptr(), found.as_mut_ptr(), 0_u32) };
    (answer == 0).then_some(found[0])
}

/// The file at `path` past the cache, if it is still this one.
fn reopen(path: &Path, file: &File) -> Option<File> {
    let flags = (OFlags::DIRECT | OFlags::NOFOLLOW).bits() as i32;
    let direct = File::options().read(true).custom_flags(flags).open(path).ok()?;
    let (mine, other) = (file.metadata().ok()?, direct.metadata().ok()?);
    ((mine.dev(), mine.ino()) == (other.dev(), other.ino())).then_some(direct)
}

/// Reads until the buffer is full or the file ends.
pub fn read_full(file: &File, buffer: &mut [u8], offset: u64) -> std::io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read_at(&mut buffer[filled..], offset + filled as u64) {
            Ok(0) => break,
            Ok(got) => filled += got,
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(filled)
}

/// Gives a new file its size, with disk space for all of it where the file system can promise that.
pub fn allocate(file: &File, path: &Path, size: u64) -> Result<()> {
    let doing = || format!("allocate {size} bytes for {}", path.display());
    if size == 0 {
        return Ok(());
    }
    match fallocate(file, FallocateFlags::empty(), 0, size) {
        Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => file.set_len(size).doing(doing),
        result => result.map_err(|errno| Error::io(doing(), &errno.into())),
    }
}

/// Writes a part of a file that is there already.
pub fn write(path: &Path, bytes: &[u8], offset: u64) -> Result<()> {
    let doing = || format!("write {}", path.display());
    let is_aligned = offset.is_multiple_of(ALIGNMENT as u64) && bytes.as_ptr().align_offset(ALIGNMENT) == 0;
    let whole = if is_aligned { bytes.len() / ALIGNMENT * ALIGNMENT } else { 0 };
    let (direct, rest) = bytes.split_at(whole);
    let mut written = 0;
    if !direct.is_empty() {
        match open(path, OFlags::DIRECT).and_then(|file| file.write_all_at(direct, offset)) {
            Ok(()) => written = whole,
            // This file system or disk cannot; what may have been written is written again.
            Err(e) if e.raw_os_error() == Some(Errno::INVAL.raw_os_error()) => {}
            Err(e) => return Err(Error::io(doing(), &e)),
        }
    }
    if written == bytes.len() {
        return Ok(());
    }
    let left = if written == 0 { bytes } else { rest };
    open(path, OFlags::empty()).and_then(|file| file.write_all_at(left, offset + written as u64)).doing(doing)
}

fn open(path: &Path, flags: OFlags) -> std::io::Result<File> {
    File::options().write(true).custom_flags((OFlags::NOFOLLOW | flags).bits() as i32).open(path)
}
