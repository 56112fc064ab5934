//! Direct I/O: reads and writes that bypass the page cache. Files that are backed up or restored
//! are not read again soon, so they should not evict pages that the server needs, and the copy
//! through the cache takes longer than the disk. If a file system does not support direct I/O, or a
//! piece is not aligned, buffered I/O is used; both transfer the same bytes.

#![allow(clippy::indexing_slicing, reason = "the length of the memory is compared before")]

use super::aligned::ALIGNMENT;
use super::folder::descriptor;
use crate::error::{Doing, Error, Result};
use rustix::fs::{Advice, FallocateFlags, Mode, OFlags, SeekFrom, fallocate};
use rustix::io::Errno;
use std::fs::File;
use std::io::ErrorKind;
use std::num::NonZeroU64;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// File that is read once.
pub struct DirectSource<'a> {
    file: &'a File,
    direct: Direct,
}

impl<'a> DirectSource<'a> {
    /// Creates the source of an open file.
    pub fn new(file: &'a File) -> DirectSource<'a> {
        DirectSource { file, direct: Direct::Unopened }
    }

    /// Creates the source of a file that is too small for direct I/O to be faster.
    pub fn small(file: &'a File) -> DirectSource<'a> {
        DirectSource { file, direct: Direct::Never }
    }

    /// Reads up to `size` bytes into `memory`, fewer only at the end of the file, and returns their
    /// number. Bytes that are all in the page cache are copied from there; others are read directly
    /// if offset and memory are aligned and `memory` has room for `size`, rounded up to the
    /// alignment. Pages that a buffered read brought into the cache are dropped again.
    ///
    /// # Errors
    ///
    /// Those of the operating system.
    pub fn read(&mut self, memory: &mut [u8], size: usize, offset: u64) -> std::io::Result<usize> {
        let open = || reopen(self.file, OFlags::RDONLY);
        self.direct.read(self.file, open, memory, size, offset)
    }
}

/// Existing file that is written in pieces, and may be read before it is written.
pub struct DirectTarget<'a> {
    path: &'a Path,
    file: File,
    direct: Direct,
}

impl<'a> DirectTarget<'a> {
    /// Creates the target of `file`, which is called `path` in messages. `cached` writes through the page
    /// cache, for bytes that are read again at once.
    pub fn new(path: &'a Path, file: File, cached: bool) -> DirectTarget<'a> {
        DirectTarget { path, file, direct: if cached { Direct::Never } else { Direct::Unopened } }
    }

    /// Reads like [`DirectSource::read`].
    ///
    /// # Errors
    ///
    /// Those of the operating system.
    pub fn read(&mut self, memory: &mut [u8], size: usize, offset: u64) -> std::io::Result<usize> {
        let open = || reopen(&self.file, OFlags::RDWR);
        self.direct.read(&self.file, open, memory, size, offset)
    }

    /// Writes `bytes`, directly as far as they are aligned.
    ///
    /// # Errors
    ///
    /// Those of the operating system.
    pub fn write(&mut self, bytes: &[u8], offset: u64) -> Result<()> {
        let doing = || format!("write {}", self.path.display());
        let is_aligned =
            offset.is_multiple_of(ALIGNMENT as u64) && bytes.as_ptr().align_offset(ALIGNMENT) == 0;
        let whole = if is_aligned { bytes.len() / ALIGNMENT * ALIGNMENT } else { 0 };
        let (direct, rest) = bytes.split_at(whole);
        let open = || reopen(&self.file, OFlags::RDWR);
        if !direct.is_empty()
            && let Some(file) = self.direct.file(open)
        {
            match file.write_all_at(direct, offset) {
                Ok(()) => return self.file.write_all_at(rest, offset + whole as u64).doing(doing),
                // The file system or disk does not support it. Bytes that may have been written are
                // written again.
                Err(e) if is_refused(&e) => self.direct = Direct::Never,
                Err(e) => return Err(Error::io(doing(), &e)),
            }
        }
        self.file.write_all_at(bytes, offset).doing(doing)
    }
}

/// Second descriptor of a file, for direct I/O.
enum Direct {
    Unopened,
    Open(File),
    /// Not supported or not wanted.
    Never,
}

impl Direct {
    fn file(&mut self, open: impl FnOnce() -> Option<File>) -> Option<&File> {
        if let Direct::Unopened = self {
            *self = open().map_or(Direct::Never, Direct::Open);
        }
        match self {
            Direct::Open(file) => Some(file),
            Direct::Unopened | Direct::Never => None,
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
        let cached = cached_pages(file, size, offset);
        let pages = size.div_ceil(rustix::param::page_size()) as u64;
        let whole = size.next_multiple_of(ALIGNMENT);
        let is_aligned = offset.is_multiple_of(ALIGNMENT as u64)
            && memory.as_ptr().align_offset(ALIGNMENT) == 0
            && memory.len() >= whole;
        if is_aligned
            && cached.is_none_or(|cached| cached < pages)
            && let Some(direct) = self.file(open)
        {
            match read_full(direct, &mut memory[..whole], offset) {
                Ok(got) => return Ok(got.min(size)),
                // Not supported, or not supported at an unaligned end of the file.
                Err(e) if is_refused(&e) => *self = Direct::Never,
                Err(e) => return Err(e),
            }
        }
        let Some(buffer) = memory.get_mut(..size) else {
            return Err(std::io::Error::new(ErrorKind::InvalidInput, "the buffer is too small"));
        };
        let got = read_full(file, buffer, offset)?;
        if cached == Some(0) {
            let length = NonZeroU64::new(size as u64);
            // Only advice: a failure loses nothing.
            let _ = rustix::fs::fadvise(file, offset, length, Advice::DontNeed);
        }
        Ok(got)
    }
}

/// Whether the file system or disk refused direct I/O (`EINVAL`, open(2)).
fn is_refused(error: &std::io::Error) -> bool {
    error.raw_os_error() == Some(Errno::INVAL.raw_os_error())
}

/// Number of pages of a part of a file that are in the page cache; `None` before Linux 6.5. A
/// non-blocking read (`RWF_NOWAIT`) is no alternative, since it fills the cache.
fn cached_pages(file: &File, size: usize, offset: u64) -> Option<u64> {
    /// Number of `cachestat(2)`, which is the same on every architecture.
    const CACHESTAT: libc::c_long = 451;
    let range = [offset, size as u64];
    let mut found = [0_u64; 5];
    // SAFETY: the kernel reads two 64-bit numbers (`struct cachestat_range`) and writes five
    // (`struct cachestat`), both arrays are that long and live until it returns; the descriptor is
    // open as long as `file` is borrowed.
    #[allow(unsafe_code, reason = "a system call that no crate wraps")]
    let answer =
        unsafe { libc::syscall(CACHESTAT, file.as_raw_fd(), range.as_ptr(), found.as_mut_ptr(), 0_u32) };
    (answer == 0).then_some(found[0])
}

/// Opens an open file once more, for direct I/O; `None` if that is not possible.
fn reopen(file: &File, access: OFlags) -> Option<File> {
    let flags = access | OFlags::DIRECT | OFlags::CLOEXEC;
    rustix::fs::open(descriptor(file), flags, Mode::empty()).ok().map(File::from)
}

/// Reads until the buffer is full or the file ends, and returns the number of bytes.
///
/// # Errors
///
/// Those of the operating system.
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

/// Sets the size of a file, and reserves disk space for some of its parts if the file system
/// supports that. The rest of a new file is a hole.
///
/// # Errors
///
/// `Full` when there is no space; others of the operating system.
pub fn allocate(file: &File, path: &Path, size: u64, parts: &[Range<u64>]) -> Result<()> {
    let doing = || format!("allocate {size} bytes for {}", path.display());
    if parts.iter().all(|part| *part != (0..size)) {
        file.set_len(size).doing(doing)?;
    }
    for part in parts {
        match fallocate(file, FallocateFlags::empty(), part.start, part.end - part.start) {
            Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => return file.set_len(size).doing(doing),
            result => result.map_err(|errno| Error::io(doing(), &errno.into()))?,
        }
    }
    Ok(())
}

/// Makes a part of a file a hole, or writes zeros where the file system does not support that.
/// Returns whether it was a hole already.
///
/// # Errors
///
/// Those of the operating system.
pub fn make_hole(file: &File, path: &Path, part: &Range<u64>) -> Result<bool> {
    let doing = || format!("write zeros into {}", path.display());
    match rustix::fs::seek(file, SeekFrom::Data(part.start)) {
        Err(Errno::NXIO) => return Ok(true),
        Ok(data) if data >= part.end => return Ok(true),
        // A file system without the request shows no holes.
        Ok(_) | Err(_) => {}
    }
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    match fallocate(file, flags, part.start, part.end - part.start) {
        Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => {}
        result => return result.map(|()| false).map_err(|errno| Error::io(doing(), &errno.into())),
    }
    let zeros = vec![0; ALIGNMENT];
    let mut at = part.start;
    while at < part.end {
        let size = usize::try_from(part.end - at).map_or(ALIGNMENT, |rest| rest.min(ALIGNMENT));
        file.write_all_at(zeros.get(..size).unwrap_or(&zeros), at).doing(doing)?;
        at += size as u64;
    }
    Ok(false)
}
