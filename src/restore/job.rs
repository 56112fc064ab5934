//! State of one restore: its input, and the directories and paths that are derived from it.

use super::mapping::map_tablespaces;
use super::options::Options;
use super::owner::Ownership;
use super::partial::ChosenDatabases;
use super::plan::RestorePlan;
use super::recovery::RecoverySettings;
use super::waldir::wal_directory;
use crate::error::{Error, Kind, Result};
use crate::repo::entry::FileEntry;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

/// A restore that is prepared or running.
pub(super) struct RestoreJob<'a> {
    pub options: &'a Options,
    pub plan: &'a RestorePlan,
    pub recovery: &'a RecoverySettings,
    /// New location of each tablespace that has one, by OID.
    pub tablespaces: BTreeMap<u32, PathBuf>,
    /// Directory of the WAL outside of the data directory, to which `pg_wal` is a link.
    pub waldir: Option<PathBuf>,
    /// Tablespaces that recovery creates in directories that have to exist, by OID.
    pub new_tablespaces: BTreeMap<u32, PathBuf>,
    /// Settings besides those of the recovery, for `postgresql.auto.conf`.
    pub settings: Vec<(&'static str, String)>,
    pub chosen: ChosenDatabases,
    pub ownership: Ownership,
    /// Whether a file system reported that it lost written data.
    disk_failed: AtomicBool,
}

impl<'a> RestoreJob<'a> {
    pub fn new(
        options: &'a Options,
        plan: &'a RestorePlan,
        recovery: &'a RecoverySettings,
    ) -> Result<RestoreJob<'a>> {
        let waldir = wal_directory(options)?;
        let chosen = ChosenDatabases::new(&options.databases, &plan.record)?;
        Ok(RestoreJob {
            options,
            plan,
            recovery,
            tablespaces: map_tablespaces(options, &plan.record, waldir.as_ref())?,
            waldir,
            new_tablespaces: BTreeMap::new(),
            settings: chosen.settings(),
            chosen,
            ownership: Ownership::new(),
            disk_failed: AtomicBool::new(false),
        })
    }

    /// Fails when the restore is cancelled, or when a disk failed.
    pub fn check(&self) -> Result<()> {
        if self.options.cancel.is_cancelled() {
            return Err(
                Error::new(Kind::Failed, "the restore was interrupted").hint("start the restore again")
            );
        }
        if self.disk_failed.load(Ordering::Relaxed) {
            return Err(Error::new(Kind::Failed, "writing to the disk failed"));
        }
        Ok(())
    }

    /// Makes every later [`RestoreJob::check`] fail.
    pub fn note_disk_failure(&self) {
        self.disk_failed.store(true, Ordering::Relaxed);
    }

    /// The directories that are restored into: the data directory, then the locations of
    /// tablespaces, then the directory of the WAL.
    pub fn roots(&self) -> impl Iterator<Item = &Path> {
        let others = self.tablespaces.values().chain(&self.waldir).map(PathBuf::as_path);
        std::iter::once(self.options.to.as_path()).chain(others)
    }

    /// The path of a file or directory of the manifest in the new cluster.
    pub fn place(&self, path: &[u8]) -> PathBuf {
        if let Some(moved) = self.moved(path) {
            return moved;
        }
        if let Some(waldir) = &self.waldir
            && let Some(rest) = path.strip_prefix(b"pg_wal")
        {
            match rest {
                b"" => return waldir.clone(),
                [b'/', rest @ ..] => return waldir.join(OsStr::from_bytes(rest)),
                _ => {}
            }
        }
        match path {
            b"" => self.options.to.clone(),
            _ => self.options.to.join(OsStr::from_bytes(path)),
        }
    }

    /// The new path of a file in a tablespace that has a location; `None` for any other file.
    fn moved(&self, path: &[u8]) -> Option<PathBuf> {
        let (_, location, rest) = self.in_tablespace(path)?;
        Some(if rest.is_empty() { location.clone() } else { location.join(OsStr::from_bytes(rest)) })
    }

    /// OID and new location of the tablespace of a file, and the rest of the path; `None` for a
    /// file of the data directory.
    fn in_tablespace<'p>(&self, path: &'p [u8]) -> Option<(u32, &PathBuf, &'p [u8])> {
        let below = path.strip_prefix(b"pg_tblspc/")?;
        let mut parts = below.splitn(2, |&byte| byte == b'/');
        let oid: u32 = std::str::from_utf8(parts.next()?).ok()?.parse().ok()?;
        let location = self.tablespaces.get(&oid)?;
        Some((oid, location, parts.next().unwrap_or(b"")))
    }

    /// OID of the tablespace of a file of the manifest; `None` for a file of the data directory.
    pub fn tablespace_of(&self, path: &[u8]) -> Option<u32> {
        self.in_tablespace(path).map(|(oid, _, _)| oid)
    }

    /// Returns the new path of a configuration file; `None` when configuration files are not
    /// written. Paths stay relative to the directory of `postgresql.conf`, or to the root.
    pub fn config_place(&self, file: &FileEntry) -> Option<PathBuf> {
        let directory = self.options.config_dir.as_ref()?;
        let path = file.path.as_path();
        let base = Path::new(&self.plan.record.settings.config_file).parent();
        let relative = base.and_then(|base| path.strip_prefix(base).ok());
        Some(directory.join(relative.unwrap_or_else(|| path.strip_prefix("/").unwrap_or(path))))
    }

    /// Whether a file of the manifest is restored: the signal files of the old server are not.
    pub fn is_restored(&self, path: &[u8]) -> bool {
        !matches!(path, b"recovery.signal" | b"standby.signal")
    }
}
