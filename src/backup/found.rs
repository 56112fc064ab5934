//! The files that a scan finds, and the places from which they are read.

use crate::error::{Doing, Error, Result};
use crate::fs::folder::{Folder, size};
use crate::fs::read_as::ReadAs;
use crate::pg::relation::RelationDirectory;
use crate::repo::entry::{Owner, StoredPath};
use parking_lot::Mutex;
use rustix::fs::Stat;
use std::collections::HashMap;
use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;

/// Place of a file, from which it can be opened later.
#[derive(Debug)]
pub(super) enum FileSource {
    /// Path below an open folder, without links.
    Below { root: Arc<Folder>, below: PathBuf, reads: ReadAs },
    /// File to which a link leads.
    Open { file: File, path: PathBuf },
}

impl FileSource {
    /// Path, for messages.
    pub fn path(&self) -> PathBuf {
        match self {
            FileSource::Below { root, below, .. } => root.path().join(below),
            FileSource::Open { path, .. } => path.clone(),
        }
    }

    /// Opens the file, and returns its size in bytes too; `None` when it does not exist any more.
    ///
    /// # Errors
    ///
    /// Those of [`Folder::file`] and [`ReadAs::check`].
    pub fn open(&self) -> Result<Option<(File, u64)>> {
        match self {
            FileSource::Below { root, below, reads } => {
                let Some((file, stat)) = root.file_with_stat(below)? else {
                    return Ok(None);
                };
                reads.check(&stat, &root.path().join(below))?;
                Ok(Some((file, size(&stat)?)))
            }
            FileSource::Open { file, path } => {
                let doing = || format!("read {}", path.display());
                let file = file.try_clone().doing(doing)?;
                let length = file.metadata().doing(doing)?.len();
                Ok(Some((file, length)))
            }
        }
    }
}

/// A file to be read, with its metadata at the time of the scan.
#[derive(Debug)]
pub(super) struct FoundFile {
    /// Path relative to the data directory; absolute for a configuration file outside of it.
    pub path: StoredPath,
    /// `None` for a file whose bytes are in memory.
    pub source: Option<FileSource>,
    pub size: u64,
    /// Permission bits.
    pub mode: u32,
    /// User and group.
    pub owner: (u32, u32),
    /// Seconds since 1970.
    pub modified: i64,
    /// Number of its first page in its relation; `None` for a file whose pages have no checksums.
    pub first_page: Option<u32>,
    /// Directory and file number by which WAL names the relation; `None` unless it is a main fork.
    pub node: Option<(RelationDirectory, u32)>,
}

impl FoundFile {
    /// Creates a file that does not belong to a relation.
    ///
    /// # Errors
    ///
    /// Those of [`size`].
    pub fn new(path: StoredPath, source: Option<FileSource>, stat: &Stat) -> Result<FoundFile> {
        Ok(FoundFile {
            path,
            source,
            size: size(stat)?,
            mode: stat.st_mode & 0o7777,
            owner: (stat.st_uid, stat.st_gid),
            modified: stat.st_mtime,
            first_page: None,
            node: None,
        })
    }

    /// Place from which the file is read.
    ///
    /// # Errors
    ///
    /// `Defect` for a file whose bytes are in memory.
    pub fn source(&self) -> Result<&FileSource> {
        let missing = || Error::defect(format!("{} is read from memory", self.path.display()));
        self.source.as_ref().ok_or_else(missing)
    }
}

/// Names of users and groups; each is looked up once.
#[derive(Default)]
pub(super) struct OwnerNames {
    users: Mutex<HashMap<u32, String>>,
    groups: Mutex<HashMap<u32, String>>,
}

impl OwnerNames {
    /// Names of a user and a group, or their numbers where they have no names.
    pub fn named(&self, (uid, gid): (u32, u32)) -> Owner {
        let user = |uid| nix::unistd::User::from_uid(uid).ok().flatten().map(|user| user.name);
        let group = |gid| nix::unistd::Group::from_gid(gid).ok().flatten().map(|group| group.name);
        Owner {
            owner: remember(&self.users, uid, |id| user(nix::unistd::Uid::from_raw(id))),
            group: remember(&self.groups, gid, |id| group(nix::unistd::Gid::from_raw(id))),
        }
    }
}

fn remember(known: &Mutex<HashMap<u32, String>>, id: u32, look_up: impl Fn(u32) -> Option<String>) -> String {
    known.lock().entry(id).or_insert_with(|| look_up(id).unwrap_or_else(|| id.to_string())).clone()
}
