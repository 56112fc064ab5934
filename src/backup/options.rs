//! Input and result of a backup.

use crate::codec::compress::Compression;
use crate::progress::Progress;
use crate::repo::record::{DamagedFile, Record};
use std::collections::BTreeMap;
use std::num::{NonZeroU64, NonZeroUsize};
use std::path::PathBuf;
use std::time::Duration;

pub struct Options {
    /// Bytes of files that were read or are known to be unchanged, out of the bytes that were
    /// found.
    pub progress: Progress,
    pub pgdata: PathBuf,
    pub jobs: NonZeroUsize,
    /// Maximum number of bytes of files that are read per second; `None`: no limit.
    pub rate: Option<NonZeroU64>,
    pub compression: Compression,
    /// Request a fast checkpoint instead of a spread one.
    pub fast: bool,
    pub verify_pages: bool,
    /// Store every block anew, including the blocks that earlier backups stored.
    pub full: bool,
    /// Read all files, and compare them with the promises of the WAL summaries; `full` implies
    /// this.
    pub rehash: bool,
    /// Use the WAL summaries of the server, if it writes any.
    pub wal_summaries: bool,
    pub labels: BTreeMap<String, String>,
    /// Time limit for the last WAL to be archived.
    pub archive_timeout: Duration,
    /// Directories that do not belong to the cluster even if they lie inside of it.
    pub foreign: Vec<PathBuf>,
    /// Six random hexadecimal digits.
    pub random: String,
    /// Temporary files that crashed writers left in the repository before this time are removed.
    pub garbage_before: jiff::Timestamp,
    /// Time to wait for another backup of the same data directory.
    pub wait: Duration,
}

/// A backup that is in the repository.
pub struct Taken {
    pub record: Record,
    /// Bytes of files that were read; the WAL summaries promised that all other bytes are
    /// unchanged.
    pub read: u64,
    /// Blocks that changed although the WAL summaries promise that they did not, by the numbers of
    /// their first pages.
    pub unlogged: Vec<DamagedFile>,
}
