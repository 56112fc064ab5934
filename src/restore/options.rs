//! Input and result of a restore.

use crate::fs::folder::Folder;
use crate::progress::{Cancel, Progress};
use crate::repo::active::Announcement;
use crate::repo::record::Database;
use std::ffi::OsString;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

pub struct Options {
    /// Bytes that were written or were in place, out of the size of the backup.
    pub progress: Progress,
    pub cancel: Cancel,
    /// Absolute path of the new data directory.
    pub to: PathBuf,
    /// New locations of tablespaces, by OID or old location.
    pub tablespaces: Vec<(OsString, PathBuf)>,
    /// New directory of the WAL, to which `pg_wal` becomes a link; `None`: `pg_wal` is a directory,
    /// or in a delta restore what it was.
    pub waldir: Option<PathBuf>,
    /// Directory for the configuration files from outside the data directory; `None`: they are not
    /// written.
    pub config_dir: Option<PathBuf>,
    pub jobs: NonZeroUsize,
    /// Restore over existing files: only differing blocks are read and written, and files that the
    /// backup does not have are removed.
    pub delta: bool,
    /// Databases to restore, by names or OIDs; an empty list means all. Files of other databases
    /// become sparse.
    pub databases: Vec<String>,
    /// Restore for one use: the files are read at once, out of the page cache, and then removed, so
    /// they are not synced.
    pub scratch: bool,
    /// Do not read the WAL before anything is written.
    pub quick: bool,
    /// Whether recovery may take WAL from other repositories than the one of the plan.
    pub has_other_repositories: bool,
    /// Restore although recovery creates tablespaces in directories that are in use.
    pub allow_new_tablespaces: bool,
    /// Only check: take no lock that outlives the checks.
    pub dry_run: bool,
    /// Directories that do not belong to the cluster: nothing in them may be removed.
    pub foreign: Vec<PathBuf>,
    /// Data directory of the original cluster, if it is of this host.
    pub original: Option<PathBuf>,
    /// Time to wait for another restore into the same directory.
    pub wait: Duration,
    /// Twelve random hexadecimal digits.
    pub random: String,
}

/// Result of a restore.
pub struct Restored {
    /// The data directory.
    pub(crate) data: Folder,
    pub bytes: u64,
    pub files: u64,
    /// Bytes that were in place before the restore.
    pub kept: u64,
    /// Databases that were not restored.
    pub left_out: Vec<Database>,
    /// Location of each tablespace, by OID.
    pub tablespaces: Vec<(u32, PathBuf)>,
    /// Configuration files of the backup that were not written.
    pub config_left: Vec<String>,
    /// Announcement that keeps a prune from removing the backup and its WAL until it is dropped, or
    /// until its lease ends. `None` when the repository cannot be written.
    pub announced: Option<Announcement>,
}
