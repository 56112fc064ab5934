//! The file that a fetch delivers: written beside its destination, and renamed once it is verified.

use crate::error::{Doing, Error, Kind, Result};
use crate::fs::folder::{Folder, Rights, replace_volatile};
use crate::repo::StoredWal;
use crate::repo::lock::try_lock;
use rustix::fs::{Stat, fstat};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

/// Maximum number of attempts to lock the partial file, which other calls may be renaming.
const MAX_LOCK_ATTEMPTS: u32 = 16;

/// Mode of a delivered file.
const FILE_MODE: u32 = 0o600;

/// Place of a delivered file.
#[derive(Clone, Copy)]
pub enum Destination<'a> {
    /// Path that PostgreSQL or a user names. When root delivers a file, its owner is the owner of
    /// the directory.
    Named(&'a Path),
    /// Name in an open folder.
    Within(&'a Folder, &'a OsStr, &'a Rights),
}

impl Destination<'_> {
    /// Opens the folder.
    ///
    /// # Errors
    ///
    /// Those of the operating system; `Absent` for a directory that does not exist.
    pub(super) fn open(self) -> Result<OpenDestination> {
        let path = match self {
            Destination::Named(path) => path,
            Destination::Within(folder, name, rights) => {
                let folder = folder.again()?;
                return Ok(OpenDestination { folder, name: name.to_owned(), rights: *rights });
            }
        };
        let no_name = || {
            let message = format!("{} does not end with the name of a file", path.display());
            Error::new(Kind::Refused, message)
        };
        let name = path.file_name().ok_or_else(no_name)?.to_owned();
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        let parent = parent.unwrap_or(Path::new("."));
        let missing = || Error::new(Kind::Absent, format!("directory {} does not exist", parent.display()));
        let folder = Folder::root(parent)?.ok_or_else(missing)?;
        let rights = Rights::new(folder.owner_of_new()?, FILE_MODE, FILE_MODE);
        Ok(OpenDestination { folder, name, rights })
    }
}

/// Place of a delivered file, whose folder is open.
pub(super) struct OpenDestination {
    folder: Folder,
    name: OsString,
    rights: Rights,
}

impl OpenDestination {
    /// Moves a file of another folder here. Returns false when that is not possible: the folder is on
    /// another file system, or the file would have another owner here.
    pub fn take(&self, folder: &Folder, name: &str, stat: &Stat) -> bool {
        self.rights.would_own(stat) && replace_volatile((folder, name), (&self.folder, &self.name)).is_ok()
    }
}

/// The incomplete file beside the destination. Its name is fixed, so that a killed call leaves at
/// most one, which the next call reuses; a lock excludes other calls.
pub(super) struct PartFile {
    to: OpenDestination,
    name: OsString,
    file: File,
    delivered: bool,
}

impl PartFile {
    /// Creates the file, or opens the one that a killed call left.
    ///
    /// # Errors
    ///
    /// Those of the operating system; `Locked` when another call writes the file.
    pub fn create(to: OpenDestination) -> Result<PartFile> {
        let mut name = to.name.clone();
        name.push(".walfetch");
        let path = to.folder.path().join(&name);
        let doing = || format!("create {}", path.display());
        // A further attempt is needed only when another call has just finished.
        for _ in 0..MAX_LOCK_ATTEMPTS {
            let file = to.folder.file_or_create(&name, &to.rights)?;
            if !try_lock(&file).doing(|| format!("lock {}", path.display()))? {
                return Err(
                    Error::new(Kind::Locked, "another walfetch is writing the same file").doing(doing())
                );
            }
            let mine = fstat(&file).doing(doing)?;
            // Another call may have renamed the file after it was opened here.
            let there = to.folder.entry(Path::new(&name))?;
            if there.is_none_or(|there| (there.st_dev, there.st_ino) != (mine.st_dev, mine.st_ino)) {
                continue;
            }
            // Another user's file, or one that has a second name.
            if mine.st_nlink > 1 || !to.rights.would_own(&mine) {
                to.folder.remove(&name)?;
                continue;
            }
            // An empty file is not truncated: ext4 writes a truncated file to the disk when it is
            // closed, even if it was empty, and that takes longer than the rest of the call.
            if mine.st_size > 0 {
                file.set_len(0).doing(doing)?;
            }
            return Ok(PartFile { to, name, file, delivered: false });
        }
        Err(Error::new(Kind::Locked, "another walfetch replaced the target repeatedly").doing(doing()))
    }

    fn path(&self) -> PathBuf {
        self.to.folder.path().join(&self.name)
    }

    /// Writes the whole content. Returns its first bytes, those of the header for a segment, and its
    /// size.
    ///
    /// # Errors
    ///
    /// Those of the repository and of the operating system.
    pub fn write(&self, stored: StoredWal) -> Result<(Vec<u8>, u64)> {
        let doing = || format!("write {}", self.path().display());
        stored.read(|piece, offset| self.file.write_all_at(piece, offset).doing(doing))?;
        let mut first = vec![0; crate::pg::wal::HEADER_SIZE];
        let got = self.file.read_at(&mut first, 0).doing(|| format!("read {}", self.path().display()))?;
        first.truncate(got);
        let size = self.file.metadata().doing(|| format!("look at {}", self.path().display()))?.len();
        Ok((first, size))
    }

    /// Copies `from`, which has `size` bytes.
    ///
    /// # Errors
    ///
    /// Those of the operating system; `Damage` for another number of bytes.
    pub fn copy(&self, from: &File, size: u64) -> Result<()> {
        let doing = || format!("write {}", self.path().display());
        let copied = std::io::copy(&mut &*from, &mut &self.file).doing(doing)?;
        if copied != size {
            return Err(Error::new(Kind::Damage, format!("copied {copied} of {size} bytes")).doing(doing()));
        }
        Ok(())
    }

    /// Renames the file to its destination. Nothing is synced: after a crash, PostgreSQL requests the
    /// file again.
    ///
    /// # Errors
    ///
    /// Those of the operating system.
    pub fn deliver(mut self) -> Result<()> {
        replace_volatile((&self.to.folder, &self.name), (&self.to.folder, &self.to.name))?;
        self.delivered = true;
        Ok(())
    }
}

impl Drop for PartFile {
    fn drop(&mut self) {
        if !self.delivered {
            // If this fails, the next call reuses the file.
            let _ = self.to.folder.remove(&self.name);
        }
    }
}
