//! Files at paths that the configuration, an argument, PostgreSQL or the kernel names. Links in the
//! path are followed, since the user or the server chose the path. What is found there is checked:
//! it must be a regular file, so that a FIFO or device blocks nothing, and content is bounded.

use super::folder::{Folder, describe, kind, real_path};
use super::limited::read_limited;
use super::read_as::ReadAs;
use crate::error::{Doing, Error, Kind, Result};
use rustix::fs::{FileType, Mode, OFlags, Stat, fstat};
use rustix::io::Errno;
use std::ffi::OsString;
use std::fs::File;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// Opens a file for reading; `None` when it does not exist.
///
/// # Errors
///
/// Those of the operating system; `Failed` for anything that is not a file.
pub fn open(path: &Path) -> Result<Option<File>> {
    Ok(open_with_stat(path)?.map(|(file, _)| file))
}

/// Opens a file like [`open`], and returns its state too.
///
/// # Errors
///
/// Those of [`open`].
pub fn open_with_stat(path: &Path) -> Result<Option<(File, Stat)>> {
    match open_any(path)? {
        Some((_, stat)) if kind(&stat) != FileType::RegularFile => {
            Err(is_no_file(path, describe(kind(&stat))))
        }
        opened => Ok(opened),
    }
}

/// Opens a file or directory for its lock; `None` when it does not exist.
///
/// # Errors
///
/// Those of the operating system; `Failed` for anything else.
pub fn open_lock(path: &Path) -> Result<Option<File>> {
    match open_any(path)? {
        Some((_, stat)) if !matches!(kind(&stat), FileType::RegularFile | FileType::Directory) => {
            Err(is_no_file(path, describe(kind(&stat))))
        }
        opened => Ok(opened.map(|(file, _)| file)),
    }
}

/// Opens what is at a path for reading, without waiting.
fn open_any(path: &Path) -> Result<Option<(File, Stat)>> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    match existing(rustix::fs::open(path, flags, Mode::empty())) {
        // A socket cannot be opened.
        Err(Errno::NXIO) => Err(is_no_file(path, "a socket")),
        Ok(None) => Ok(None),
        Ok(Some(fd)) => {
            let stat = fstat(&fd).doing(|| format!("look at {}", path.display()))?;
            Ok(Some((File::from(fd), stat)))
        }
        Err(errno) => Err(Error::io(format!("open {}", path.display()), &errno.into())),
    }
}

/// Opens a file for appending, and creates it with this mode, less the umask. Also opens a terminal,
/// or a FIFO that a process reads.
///
/// # Errors
///
/// Those of the operating system.
pub fn append(path: &Path, mode: u32) -> std::io::Result<File> {
    let access = OFlags::WRONLY | OFlags::APPEND | OFlags::CREATE;
    // Without NONBLOCK a FIFO that nothing reads would block the program.
    let flags = access | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    Ok(File::from(rustix::fs::open(path, flags, Mode::from_raw_mode(mode))?))
}

/// Returns the error for a path at which nothing is.
pub fn missing(path: &Path) -> Error {
    Error::io(format!("open {}", path.display()), &Errno::NOENT.into())
}

fn is_no_file(path: &Path, what: &str) -> Error {
    Error::new(Kind::Failed, format!("{} is {what}, and must be a file", path.display()))
}

/// Reads a file; `None` when it does not exist.
///
/// # Errors
///
/// Those of [`open`]; `Damage` for a file of more than `limit` bytes.
pub fn read(path: &Path, limit: u64) -> Result<Option<Vec<u8>>> {
    open(path)?.map(|file| read_limited(&file, path, limit)).transpose()
}

/// Reads a file like [`read`], as the content that another user may read too, and returns its state.
///
/// # Errors
///
/// Those of [`read`] and of [`ReadAs::check_way`].
pub fn read_as(path: &Path, limit: u64, reads: ReadAs) -> Result<Option<(Vec<u8>, Stat)>> {
    let Some((file, stat)) = open_with_stat(path)? else {
        return Ok(None);
    };
    let real = real_path(&file).doing(|| format!("look at {}", path.display()))?;
    reads.check_way(&stat, &real)?;
    Ok(Some((read_limited(&file, path, limit)?, stat)))
}

/// Reads a file of text like [`read`].
///
/// # Errors
///
/// Those of [`read`]; `Failed` for content that is not UTF-8.
pub fn read_text(path: &Path, limit: u64) -> Result<Option<String>> {
    let text = |bytes| {
        String::from_utf8(bytes)
            .map_err(|e| Error::new(Kind::Failed, format!("{} is not UTF-8: {e}", path.display())))
    };
    read(path, limit)?.map(text).transpose()
}

/// Returns the state of what is at a path, at the end of all links; `None` when nothing is there.
///
/// # Errors
///
/// Those of the operating system.
pub fn stat(path: &Path) -> Result<Option<Stat>> {
    existing(rustix::fs::stat(path)).doing(|| format!("look at {}", path.display()))
}

/// Returns the state of the entry at a path, which may be a link; `None` when nothing is there.
///
/// # Errors
///
/// Those of the operating system.
pub fn entry(path: &Path) -> Result<Option<Stat>> {
    existing(rustix::fs::lstat(path)).doing(|| format!("look at {}", path.display()))
}

/// Returns the type of what is at a path, at the end of all links; `None` when nothing is there.
///
/// # Errors
///
/// Those of the operating system.
pub fn kind_at(path: &Path) -> Result<Option<FileType>> {
    Ok(stat(path)?.as_ref().map(kind))
}

/// Returns the names in a directory and their types, in order; `None` when it does not exist.
///
/// # Errors
///
/// Those of the operating system.
pub fn list(path: &Path) -> Result<Option<Vec<(OsString, FileType)>>> {
    Folder::root(path)?.map(|folder| folder.names()).transpose()
}

/// Returns the target of a link; `None` when no link is there.
///
/// # Errors
///
/// Those of the operating system.
pub fn link_target(path: &Path) -> Result<Option<PathBuf>> {
    match rustix::fs::readlink(path, Vec::new()) {
        Err(Errno::INVAL) => Ok(None),
        target => {
            let target = existing(target).doing(|| format!("read the link {}", path.display()))?;
            Ok(target.map(|target| PathBuf::from(OsString::from_vec(target.into_bytes()))))
        }
    }
}

/// Returns the absolute path of what is at a path, without links; `None` when nothing is there.
///
/// # Errors
///
/// Those of the operating system.
pub fn real(path: &Path) -> Result<Option<PathBuf>> {
    match std::fs::canonicalize(path) {
        Err(e)
            if matches!(
                e.raw_os_error().map(Errno::from_raw_os_error),
                Some(Errno::NOENT | Errno::NOTDIR)
            ) =>
        {
            Ok(None)
        }
        real => real.doing(|| format!("look at {}", path.display())).map(Some),
    }
}

/// Separates the answer that nothing is at a path.
fn existing<T>(answer: rustix::io::Result<T>) -> rustix::io::Result<Option<T>> {
    match answer {
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
        answer => answer.map(Some),
    }
}
