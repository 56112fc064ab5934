//! Syncs of files, folders and file systems. Once a function has returned Ok, what was written
//! survives a loss of power.

use super::folder::Folder;
use crate::error::{Doing, Result};
use rustix::fs;
use rustix::io::Errno;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

/// Result of giving a file its name.
#[must_use]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Published {
    /// The file has its name.
    Now,
    /// Another file had the name.
    NameIsTaken,
}

/// Syncs the content of a file. Never retried after a failure: the kernel may have dropped the
/// pages, and a second call would return Ok.
///
/// # Errors
///
/// Those of the operating system; the content must then be considered lost.
pub fn sync_file(file: &File, path: &Path) -> Result<()> {
    file.sync_all().doing(|| format!("sync {}", path.display()))
}

/// Syncs a directory, that is, the names in it. Some network file systems do not support that
/// (EINVAL, ENOTSUP) and have no alternative, so these two errors are ignored.
///
/// # Errors
///
/// Others of the operating system.
pub fn sync_dir(path: &Path) -> Result<()> {
    let directory = File::open(path).doing(|| format!("sync directory {}", path.display()))?;
    sync_open_dir(directory.as_fd(), path)
}

/// Syncs an open directory like [`sync_dir`].
///
/// # Errors
///
/// Those of [`sync_dir`].
pub fn sync_open_dir(directory: BorrowedFd<'_>, path: &Path) -> Result<()> {
    match fs::fsync(directory) {
        Err(Errno::INVAL | Errno::OPNOTSUPP) => Ok(()),
        result => result.doing(|| format!("sync directory {}", path.display())),
    }
}

/// Open file system. [`FileSystem::sync`] reports all writes that failed since it was opened;
/// earlier failures that were reported to another process are not reported again (`errseq_t` of the
/// kernel).
pub struct FileSystem {
    folder: Folder,
}

impl FileSystem {
    /// Opens the file system of this folder.
    ///
    /// # Errors
    ///
    /// Those of the operating system.
    pub fn of(folder: &Folder) -> Result<FileSystem> {
        folder.again().map(|folder| FileSystem { folder })
    }

    /// Syncs everything that was written to the file system.
    ///
    /// # Errors
    ///
    /// Those of the operating system.
    pub fn sync(&self) -> Result<()> {
        let doing = || format!("sync the file system of {}", self.folder.path().display());
        fs::syncfs(&self.folder).doing(doing)
    }
}

/// Syncs the parent directory of `path`.
///
/// # Errors
///
/// Those of [`sync_dir`].
pub fn sync_parent(path: &Path) -> Result<()> {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => sync_dir(parent),
        _ => sync_dir(Path::new(".")),
    }
}
