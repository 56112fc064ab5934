//! Files past the page cache: what is backed up or restored is not read again soon, so it should not push
//! out what the server needs, and on its way through the cache it costs more than the disk does. Where a file
//! system cannot do it, or a piece does not fit, the ordinary way is taken; both give the same bytes.

use super::aligned::ALIGNMENT;
use super::plain::{open_plain, open_plain_with};
use crate::error::{Doing, Error, Result};
use rustix::fs::{Advice, FallocateFlags, OFlags, fallocate};
use rustix::io::Errno;
use std::fs::{File, OpenOptions};
use std::io::ErrorKind;
use std::num::NonZeroU64;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

/// A file that is read once.
pub struct Source<'a> {
    path: &'a Path,
    file: &'a File,
    past: PastCache,
}

impl<'a> Source<'a> {
    pub fn new(path: &'a Path, file: &'a File) -> Source<'a> {
        Source { path, file, past: PastCache::Unopened }
    }

    /// One that is too small to be worth going past the cache.
    pub fn small(path: &'a Path, file: &'a File) -> Source<'a> {
        Source { path, file, past: PastCache::Never }
    }

    /// Reads so many bytes, or up to the end of the file: out of the page cache what is there, and what is not, past
    /// it where offset and memory are aligned, and there is room for a last part that is rounded up. What comes into
    /// the cache all the same does not stay there.
    pub fn read(&mut self, memory: &mut [u8], size: usize, offset: u64) -> std::io::Result<usize> {
        let open = || reopen(self.path, self.file, File::options().read(true));
        self.past.read(self.file, open, memory, size, offset)
    }
}

/// A file that is there already and is written piece by piece, and may be read before.
pub struct Target<'a> {
    path: &'a Path,
    file: File,
    past: PastCache,
}

impl<'a> Target<'a> {
    /// `cached`: what is written is read at once, so it stays in the page cache.
    pub fn new(path: &'a Path, file: File, cached: bool) -> Target<'a> {
        Target { path, file, past: if cached { PastCache::Never } else { PastCache::Unopened } }
    }

    pub fn open(path: &'a Path, cached: bool) -> Result<Target<'a>> {
        let file = open_plain(path, File::options().read(true).write(true));
        let file = file.doing(|| format!("open {}", path.display()))?;
        Ok(Target::new(path, file, cached))
    }

    /// As [`Source::read`].
    pub fn read(&mut self, memory: &mut [u8], size: usize, offset: u64) -> std::io::Result<usize> {
        let open = || reopen(self.path, &self.file, File::options().read(true).write(true));
        self.past.read(&self.file, open, memory, size, offset)
    }

    /// Writes past the page cache what can go there.
    pub fn write(&mut self, bytes: &[u8], offset: u64) -> Result<()> {
        let doing = || format!("write {}", self.path.display());
        let is_aligned =
            offset.is_multiple_of(ALIGNMENT as u64) && bytes.as_ptr().align_offset(ALIGNMENT) == 0;
        let whole = if is_aligned { bytes.len() / ALIGNMENT * ALIGNMENT } else { 0 };
        let (direct, rest) = bytes.split_at(whole);
        let open = || reopen(self.path, &self.file, File::options().read(true).write(true));
        if !direct.is_empty()
            && let Some(past) = self.past.file(open)
        {
            match past.write_all_at(direct, offset) {
                Ok(()) => return self.file.write_all_at(rest, offset + whole as u64).doing(doing),
                // This file system or disk cannot; what may have been written is written again.
                Err(e) if is_refused(&e) => self.past = PastCache::Never,
                Err(e) => return Err(Error::io(doing(), &e)),
            }
        }
        self.file.write_all_at(bytes, offset).doing(doing)
    }
}

/// The same file, opened once more for the way past the cache.
enum PastCache {
    Unopened,
    Open(File),
    /// That cannot be, or is not wanted.
    Never,
}

impl PastCache {
    fn file(&mut self, open: impl FnOnce() -> Option<File>) -> Option<&File> {
        if let PastCache::Unopened = self {
            *self = open().map_or(PastCache::Never, PastCache::Open);
        }
        match self {
            PastCache::Open(file) => Some(file),
            PastCache::Unopened | PastCache::Never => None,
        }
    }

    fn read(
        &mut self,
        file: &File,
        open: impl FnOnce() -> Option<File>,
        memory: &mut [u8],
        size: usize,
        offset: u64,
    ) -> std::io::Result<usize> {
        let cached = cached(file, size, offset);
        let pages = size.div_ceil(rustix::param::page_size()) as u64;
        let whole = size.next_multiple_of(ALIGNMENT);
        let is_aligned = offset.is_multiple_of(ALIGNMENT as u64)
            && memory.as_ptr().align_offset(ALIGNMENT) == 0
            && memory.len() >= whole;
        if is_aligned
            && cached.is_none_or(|cached| cached < pages)
            && let Some(past) = self.file(open)
        {
            match read_full(past, memory.get_mut(..whole).unwrap_or_default(), offset) {
                Ok(got) => return Ok(got.min(size)),
                // Or not at an end that is not aligned.
                Err(e) if is_refused(&e) => *self = PastCache::Never,
                Err(e) => return Err(e),
            }
        }
        let got = read_full(file, memory.get_mut(..size).unwrap_or_default(), offset)?;
        if cached == Some(0) {
            let length = NonZeroU64::new(size as u64);
            // Advice: nothing is lost when it is not taken.
            let _ = rustix::fs::fadvise(file, offset, length, Advice::DontNeed);
        }
        Ok(got)
    }
}

/// Whether this file system or disk cannot go past the page cache.
fn is_refused(error: &std::io::Error) -> bool {
    error.raw_os_error() == Some(Errno::INVAL.raw_os_error())
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
fn reopen(path: &Path, file: &File, access: &mut OpenOptions) -> Option<File> {
    let direct = open_plain_with(path, access, OFlags::DIRECT).ok()?;
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
