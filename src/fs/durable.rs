//! Renames and syncs by path; those by descriptor are in `folder.rs`. Once a function has returned Ok, what it wrote
//! survives a loss of power, and no existing file is replaced unless the name of the function says
//! so.

#![allow(clippy::disallowed_methods, reason = "this file and folder.rs rename and sync")]

use super::folder::Folder;
use crate::error::{Doing, Error, Result};
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

/// Renames a temporary file to `name`, and replaces the file of that name. Syncs nothing: for a
/// file that is requested again after a crash, or that the caller syncs.
///
/// # Errors
///
/// Those of the operating system.
pub fn replace_volatile(temporary: &Path, name: &Path) -> Result<()> {
    std::fs::rename(temporary, name).doing(|| format!("rename to {}", name.display()))
}

/// Creates a directory and its parents unless they exist, and makes their names durable. An empty
/// directory is treated as new: it may have been created by a process that was killed before its
/// name was durable.
///
/// # Errors
///
/// Those of the operating system, and `Defect` for a path that is not absolute.
pub fn create_dirs(directory: &Path, mode: u32) -> Result<()> {
    if directory == Path::new("/") {
        return Ok(());
    }
    match std::fs::read_dir(directory).map(|mut entries| entries.next().is_some()) {
        Ok(true) => return Ok(()),
        Ok(false) => {}
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
        Err(e) => return Err(Error::io(format!("open directory {}", directory.display()), &e)),
    }
    let parent = directory
        .parent()
        .filter(|parent| parent.is_absolute())
        .ok_or_else(|| Error::defect(format!("{} is not absolute", directory.display())))?;
    create_dirs(parent, mode)?;
    create_dir(directory, mode)?;
    sync_dir(parent)
}

/// Creates a directory unless it exists.
///
/// # Errors
///
/// Those of the operating system.
pub fn create_dir(directory: &Path, mode: u32) -> Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    match std::fs::DirBuilder::new().mode(mode).create(directory) {
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        result => result.doing(|| format!("create directory {}", directory.display())),
    }
}

/// Removes a file durably; a file that does not exist is not an error.
///
/// # Errors
///
/// Those of the operating system.
pub fn remove_file(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Ok(()) => sync_parent(path),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(Error::io(format!("remove {}", path.display()), &e)),
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
