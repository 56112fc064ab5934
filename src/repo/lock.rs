//! A lock that at most one process of a host holds: `flock` on a file or directory that exists
//! anyway, so that nothing has to be created or removed. The kernel releases the lock when the
//! process ends.

use crate::error::{Doing, Error, Kind, Result};
use crate::fs::folder::Folder;
use crate::fs::named;
use crate::runtime::clock::MonotonicTime;
use crate::runtime::thread;
use fs2::FileExt;
use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::Duration;

/// A lock of this process, held until this value is dropped.
#[must_use = "the lock is released when this value is dropped"]
pub struct Lock {
    file: File,
}

/// Interval at which a held lock is tried again.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

impl Lock {
    /// Takes the lock of a file or directory, waiting at most `timeout`.
    ///
    /// # Errors
    ///
    /// [`Kind::Locked`] when another process still holds the lock after `timeout`.
    pub fn wait_for(path: &Path, timeout: Duration) -> Result<Lock> {
        let file = named::open_lock(path)?.ok_or_else(|| named::missing(path))?;
        Lock::of(file, path, timeout)
    }

    /// Takes the lock of a folder, like [`Lock::wait_for`].
    ///
    /// # Errors
    ///
    /// Those of [`Lock::wait_for`].
    pub fn of_folder(folder: &Folder, timeout: Duration) -> Result<Lock> {
        let fd = folder.as_fd().try_clone_to_owned();
        let file = File::from(fd.doing(|| format!("lock {}", folder.path().display()))?);
        Lock::of(file, folder.path(), timeout)
    }

    /// Takes the lock of a file that is open at `path`, like [`Lock::wait_for`].
    ///
    /// # Errors
    ///
    /// Those of [`Lock::wait_for`].
    pub fn of(file: File, path: &Path, timeout: Duration) -> Result<Lock> {
        let doing = || format!("lock {}", path.display());
        let begun = MonotonicTime::now();
        loop {
            if try_lock(&file).doing(doing)? {
                return Ok(Lock { file });
            }
            if begun.elapsed() >= timeout {
                return Err(Error::new(Kind::Locked, "another run holds the lock")
                    .doing(doing())
                    .hint("wait for it to end, or use --wait"));
            }
            thread::sleep(POLL_INTERVAL);
        }
    }

    /// The file that is locked.
    pub fn file(&self) -> &File {
        &self.file
    }
}

/// Takes the lock of an open file or directory. Returns false when another process holds it.
pub fn try_lock(file: &File) -> std::io::Result<bool> {
    match file.try_lock_exclusive() {
        Ok(()) => Ok(true),
        Err(e) if e.raw_os_error() == fs2::lock_contended_error().raw_os_error() => Ok(false),
        Err(e) => Err(e),
    }
}
