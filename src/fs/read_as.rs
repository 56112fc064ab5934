//! What root reads for another user: only files that this user can read.

use super::folder::{Folder, kind};
use crate::error::{Doing, Error, Kind, Result};
use rustix::fs::{FileType, Stat};
use std::path::Path;

/// The user for whom the process reads. Root reads for the owner of a directory: content that the
/// owner cannot read must not get into places that the owner can read, by links or hard links that
/// the owner made.
#[derive(Debug, Clone, Copy)]
pub struct ReadAs {
    /// User and group; `None` for the process itself, which the kernel checks.
    user: Option<(u32, u32)>,
}

impl ReadAs {
    /// Returns the owner of a folder if the process is root.
    ///
    /// # Errors
    ///
    /// Those of the operating system.
    pub fn owner_of(folder: &Folder) -> Result<ReadAs> {
        Ok(ReadAs { user: folder.owner_of_new()? })
    }

    /// Checks that the user can read a file, or list and search a folder, that is open at `path`.
    ///
    /// # Errors
    ///
    /// `Denied` otherwise.
    pub fn check(self, stat: &Stat, path: &Path) -> Result<()> {
        let is_folder = kind(stat) == FileType::Directory;
        self.check_bits(stat, if is_folder { 0o5 } else { 0o4 }, path)
    }

    /// Checks that the user can reach a path without links, and read what is there.
    ///
    /// # Errors
    ///
    /// `Denied` otherwise; those of the operating system.
    pub fn check_way(self, stat: &Stat, real: &Path) -> Result<()> {
        if self.user.is_none() {
            return Ok(());
        }
        for above in real.ancestors().skip(1) {
            let stat = rustix::fs::stat(above).doing(|| format!("look at {}", above.display()))?;
            self.check_bits(&stat, 0o1, above)?;
        }
        self.check(stat, real)
    }

    fn check_bits(self, stat: &Stat, wanted: u32, path: &Path) -> Result<()> {
        let Some((user, group)) = self.user.filter(|(user, _)| *user != 0) else {
            return Ok(());
        };
        let granted = match (stat.st_uid == user, stat.st_gid == group) {
            (true, _) => stat.st_mode >> 6,
            (false, true) => stat.st_mode >> 3,
            (false, false) => stat.st_mode,
        };
        if granted & wanted == wanted {
            return Ok(());
        }
        let (owner, mode, path) = (stat.st_uid, stat.st_mode & 0o7777, path.display());
        Err(Error::new(
            Kind::Denied,
            format!("{path} belongs to user {owner} and has mode {mode:04o}: user {user}, for whom root reads it, cannot read it"),
        )
        .hint("the server cannot read it either: find out what put it there, or a link to it, and remove that"))
    }
}
