//! Removal of entries.

use super::Folder;
use crate::error::{Doing, Error, Kind, Result};
use rustix::fs::{AtFlags, FileType, unlinkat};
use rustix::io::Errno;
use std::ffi::OsStr;
use std::path::Path;

/// Folders within each other that [`Folder::remove_tree`] descends into; each takes a descriptor.
const MAX_DEPTH: u32 = 64;

/// Attempts to remove a folder in which another process creates files.
const MAX_ATTEMPTS: u32 = 8;

impl Folder {
    /// Removes a file or link, not durably. Returns false when it does not exist.
    ///
    /// # Errors
    ///
    /// Those of the operating system.
    pub fn remove(&self, name: impl AsRef<OsStr>) -> Result<bool> {
        let name = name.as_ref();
        match unlinkat(&self.fd, name, AtFlags::empty()) {
            Err(Errno::NOENT) => Ok(false),
            removed => removed.doing(|| format!("remove {}", self.path.join(name).display())).map(|()| true),
        }
    }

    /// Removes a folder if it is empty. Returns whether it did.
    pub fn remove_empty(&self, name: impl AsRef<OsStr>) -> bool {
        unlinkat(&self.fd, name.as_ref(), AtFlags::REMOVEDIR).is_ok()
    }

    /// Removes an entry of any type, a folder with everything in it, not durably. Returns false when
    /// it does not exist.
    ///
    /// # Errors
    ///
    /// Those of the operating system; `Refused` for a tree that is too deep, or that another process
    /// keeps filling.
    pub fn remove_tree(&self, name: impl AsRef<OsStr>) -> Result<bool> {
        self.remove_below(name.as_ref(), FileType::Unknown, MAX_DEPTH)
    }

    /// Removes everything in the folder like [`Folder::remove_tree`], except the entries that `keep`
    /// names.
    ///
    /// # Errors
    ///
    /// Those of [`Folder::remove_tree`].
    pub fn remove_all(&self, keep: impl Fn(&OsStr) -> bool) -> Result<()> {
        for (name, kind) in self.names()?.iter().filter(|(name, _)| !keep(name)) {
            self.remove_below(name, *kind, MAX_DEPTH)?;
        }
        Ok(())
    }

    /// Removes an entry of a type that was read before and may have changed.
    fn remove_below(&self, name: &OsStr, kind: FileType, depth: u32) -> Result<bool> {
        let doing = || format!("remove {}", self.path.join(name).display());
        for attempt in 0..MAX_ATTEMPTS {
            if attempt > 0 || kind != FileType::Directory {
                match unlinkat(&self.fd, name, AtFlags::empty()) {
                    // EPERM is the answer of POSIX for a directory; another reason repeats below.
                    Err(Errno::ISDIR | Errno::PERM) => {}
                    Err(Errno::NOENT) => return Ok(false),
                    removed => return removed.doing(doing).map(|()| true),
                }
            }
            match self.folder(Path::new(name)) {
                Ok(None) => return Ok(false),
                Ok(Some(_)) if depth == 0 => {
                    let message = format!("{MAX_DEPTH} directories within each other are not removed");
                    return Err(Error::new(Kind::Refused, message).doing(doing()));
                }
                Ok(Some(inner)) => {
                    for (name, kind) in inner.names()? {
                        inner.remove_below(&name, kind, depth - 1)?;
                    }
                }
                // Another entry has taken its place.
                Err(error) if error.kind() == Kind::Damage && attempt + 1 < MAX_ATTEMPTS => continue,
                Err(error) => return Err(error.doing(doing())),
            }
            match unlinkat(&self.fd, name, AtFlags::REMOVEDIR) {
                Err(Errno::NOENT) => return Ok(false),
                Err(Errno::NOTEMPTY | Errno::EXIST | Errno::NOTDIR) => {}
                removed => return removed.doing(doing).map(|()| true),
            }
        }
        let message = "another process creates files in it while they are removed";
        Err(Error::new(Kind::Refused, message).doing(doing()))
    }
}
