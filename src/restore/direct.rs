//! Writing large files past the page cache: what is restored is not read again soon, and to copy it into the
//! cache first costs more than the disk does. Where a file system cannot do it, or a piece does not fit, the
//! ordinary way is taken; both give the same bytes, and both are synced at the end.

use crate::error::{Doing, Error, Result};
use rustix::fs::{FallocateFlags, OFlags, fallocate};
use rustix::io::Errno;
use std::fs::File;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

/// What memory, offset and length have to be a multiple of: no disk in use asks for more.
const ALIGNMENT: usize = 4096;

/// A buffer that begins at a multiple of [`ALIGNMENT`].
#[derive(Default)]
pub struct Buffer(Vec<u8>);

impl Buffer {
    /// The first `size` bytes, with whatever they held before.
    pub fn slice(&mut self, size: usize) -> &mut [u8] {
        if self.0.len() < size + ALIGNMENT {
            self.0.resize(size + ALIGNMENT, 0);
        }
        // Never more than the alignment itself for bytes.
        let begin = self.0.as_ptr().align_offset(ALIGNMENT).min(ALIGNMENT);
        &mut self.0[begin..begin + size]
    }
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
