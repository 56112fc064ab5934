//! Creates the files of the cluster, and opens those that exist.

use super::layout::TargetFile;
use super::owner::Ownership;
use crate::error::{Doing, Error, Kind, Result};
use crate::fs::folder::Folder;
use std::fs::File;

impl TargetFile<'_> {
    /// Creates the file, which must not exist: nothing is written through a link, nothing is
    /// replaced.
    pub fn create(&self) -> Result<File> {
        self.folder.create_at(&self.below, &self.rights)
    }

    /// Opens the file for reading and writing; `None` when it does not exist, or is not a file that
    /// may be changed. A file with several names is not: it would be changed under its other names.
    pub fn open(&self, ownership: &Ownership) -> Result<Option<File>> {
        let file = match self.folder.file_rw(&self.below) {
            // A link, a FIFO, or a file whose mode this user can only replace.
            Err(error) if matches!(error.kind(), Kind::Damage | Kind::Denied) => return Ok(None),
            file => file?,
        };
        let Some(file) = file else {
            return Ok(None);
        };
        let doing = || format!("look at {}", self.path.display());
        let stat = rustix::fs::fstat(&file).doing(doing)?;
        let has_one_name = stat.st_nlink == 1;
        Ok((has_one_name && ownership.may_change(&stat)).then_some(file))
    }

    /// Opens the file, which this restore has created or opened before.
    pub fn reopen(&self, ownership: &Ownership) -> Result<File> {
        self.open(ownership)?.ok_or_else(|| {
            let what = format!("{} was removed or replaced by another process", self.path.display());
            Error::new(Kind::Refused, what).hint("find out which one it is, and start the restore again")
        })
    }

    /// Removes the file, or what is in its place. Returns false when nothing is there.
    pub fn remove(&self) -> Result<bool> {
        self.folder.at(&self.below, |folder, name| folder.remove(name))
    }
}

/// Maximum number of directories within each other that a restore looks into. PostgreSQL has five.
pub(super) const MAX_DEPTH: u32 = 32;

/// The error for a directory at a depth of more than [`MAX_DEPTH`].
pub(super) fn is_too_deep(folder: &Folder) -> Error {
    let what = format!("{} lies in more than {MAX_DEPTH} directories", folder.path().display());
    Error::new(Kind::Refused, what).hint("a cluster has no such directory: move it away")
}
