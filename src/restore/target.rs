//! Directories that a restore writes into. Each is opened once, before the checks: what the checks
//! looked at is what is written into, whatever another user puts in its place. Everything below is
//! reached by descriptors and never through a link.

use crate::error::{Error, Result};
use crate::fs::folder::{Folder, Rights, is_leftover};
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// Path of the control file in a data directory.
pub(super) const CONTROL: &[u8] = b"global/pg_control";

/// Maximum size in bytes of a control file, which has 8192.
pub(super) const MAX_CONTROL_SIZE: u64 = 1 << 16;

/// Purpose of a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Role {
    Data,
    /// Location of a tablespace, by its OID.
    Tablespace(u32),
    /// Directory of the WAL outside of the data directory.
    Wal,
    /// Directory of the configuration files from outside of the data directory.
    Config,
}

/// Place of a file or directory in the new cluster.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Place {
    pub role: Role,
    /// Path below the directory of this role; empty for the directory itself.
    pub below: PathBuf,
}

/// Directory that a restore writes into.
pub(super) struct Target {
    pub role: Role,
    pub path: PathBuf,
    /// Whether an option has this path; otherwise it is from the repository or from a link in the
    /// data directory.
    pub is_named: bool,
    /// The longest part of the path that existed, and the rest of the path.
    reached: Folder,
    rest: PathBuf,
    made: OnceLock<Folder>,
}

impl Target {
    /// Opens the directory, or the nearest one above it that exists.
    ///
    /// # Errors
    ///
    /// Those of [`Folder::reach`].
    pub fn open(role: Role, path: &Path, is_named: bool) -> Result<Target> {
        let (reached, rest) = Folder::reach(path)?;
        Ok(Target { role, path: path.to_owned(), is_named, reached, rest, made: OnceLock::new() })
    }

    /// The directory; `None` when it does not exist.
    pub fn existing(&self) -> Option<&Folder> {
        self.made.get().or(self.rest.as_os_str().is_empty().then_some(&self.reached))
    }

    /// The directory, or the nearest one above it that exists.
    pub fn nearest(&self) -> &Folder {
        self.existing().unwrap_or(&self.reached)
    }

    /// The directory, which exists.
    pub fn folder(&self) -> Result<&Folder> {
        self.existing().ok_or_else(|| Error::defect(format!("{} was not created", self.path.display())))
    }

    /// Whether only the last directory of the path does not exist.
    pub fn lacks_one(&self) -> bool {
        self.rest.components().count() == 1
    }

    /// The absolute path without links.
    pub fn real(&self) -> Result<PathBuf> {
        let real = self.reached.real()?;
        // Joining an empty path would add a slash.
        Ok(if self.rest.as_os_str().is_empty() { real } else { real.join(&self.rest) })
    }

    /// Device number of the file system.
    pub fn device(&self) -> Result<u64> {
        Ok(self.nearest().own_stat()?.st_dev)
    }

    /// Device and inode of the directory; `None` when it does not exist.
    pub fn identity(&self) -> Result<Option<(u64, u64)>> {
        let stat = self.existing().map(Folder::own_stat).transpose()?;
        Ok(stat.map(|stat| (stat.st_dev, stat.st_ino)))
    }

    /// Creates the directory, and those above it that do not exist, durably.
    pub fn make(&self, rights: &Rights) -> Result<()> {
        let mut folder = self.nearest().again()?;
        if self.existing().is_none() {
            for name in &self.rest {
                let inner = folder.folder(Path::new(name))?;
                let inner = inner.map_or_else(|| folder.make_folder(name, rights), Ok)?;
                folder.sync()?;
                folder = inner;
            }
            // A second call finds the directory that the first one created.
            let _ = self.made.set(folder);
        }
        Ok(())
    }
}

/// Names of the entries of a directory; none when it does not exist.
pub(super) fn names(target: &Target) -> Result<Vec<OsString>> {
    let names = target.existing().map(Folder::names).transpose()?.unwrap_or_default();
    Ok(names.into_iter().map(|(name, _)| name).collect())
}

/// Whether a name in a target directory counts as nothing: what `mkfs` makes, and what a restore
/// that was killed had not renamed yet.
pub(super) fn is_nothing(name: &OsStr) -> bool {
    name == "lost+found" || is_leftover(name)
}
