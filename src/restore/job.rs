//! State of one restore: its input, and the directories and paths that are derived from it.

use super::mapping::{self, check_apart, map_tablespaces};
use super::marker::{OVERWRITES, config_line};
use super::options::Options;
use super::owner::Ownership;
use super::partial::ChosenDatabases;
use super::plan::RestorePlan;
use super::recovery::RecoverySettings;
use super::target::{Place, Role, Target};
use super::waldir::wal_directory;
use crate::error::{Error, Kind, Result};
use crate::fs::folder::Folder;
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
    pub data: Target,
    /// New location of each tablespace that has one, by OID.
    pub tablespaces: BTreeMap<u32, Target>,
    /// Directory of the WAL outside of the data directory, to which `pg_wal` is a link.
    pub waldir: Option<Target>,
    /// Directory of the configuration files from outside of the data directory.
    pub config: Option<Target>,
    /// Whether an earlier restore, which did not finish, wrote into the same `config`.
    pub resumes_config: bool,
    /// Tablespaces that recovery creates in directories that have to exist, by OID.
    pub new_tablespaces: BTreeMap<u32, Target>,
    /// Settings besides those of the recovery, for `postgresql.auto.conf`.
    pub settings: Vec<(&'static str, String)>,
    pub chosen: ChosenDatabases,
    /// Bytes of all files; 0 until the manifest was read.
    pub size: u64,
    /// `None` until the manifest was read.
    pub ownership: Option<Ownership>,
    /// Whether a file system reported that it lost written data.
    disk_failed: AtomicBool,
}

impl<'a> RestoreJob<'a> {
    pub fn new(
        options: &'a Options,
        plan: &'a RestorePlan,
        recovery: &'a RecoverySettings,
    ) -> Result<RestoreJob<'a>> {
        let chosen = ChosenDatabases::new(&options.databases, &plan.record)?;
        let data = mapping::open(Role::Data, &options.to, true)?;
        let config = options.config_dir.as_deref();
        let job = RestoreJob {
            options,
            plan,
            recovery,
            tablespaces: map_tablespaces(options, &plan.record)?,
            waldir: wal_directory(options, &data)?,
            config: config.map(|path| Target::open(Role::Config, path, true)).transpose()?,
            data,
            resumes_config: false,
            new_tablespaces: BTreeMap::new(),
            settings: chosen.settings(),
            chosen,
            size: 0,
            ownership: None,
            disk_failed: AtomicBool::new(false),
        };
        check_apart(job.roots())?;
        Ok(job)
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
    pub fn roots(&self) -> impl Iterator<Item = &Target> {
        std::iter::once(&self.data).chain(self.tablespaces.values()).chain(&self.waldir)
    }

    /// Owner and modes of the restored files.
    pub fn ownership(&self) -> Result<&Ownership> {
        self.ownership.as_ref().ok_or_else(|| Error::defect("the owner of the files is not known"))
    }

    fn target(&self, role: Role) -> Result<&Target> {
        let target = match role {
            Role::Data => Some(&self.data),
            Role::Tablespace(oid) => self.tablespaces.get(&oid),
            Role::Wal => self.waldir.as_ref(),
            Role::Config => self.config.as_ref(),
        };
        target.ok_or_else(|| Error::defect(format!("a file in {role:?}, which is not restored")))
    }

    /// The directory of this role, which exists.
    pub fn folder(&self, role: Role) -> Result<&Folder> {
        self.target(role)?.folder()
    }

    /// The place of a file or directory of the manifest in the new cluster.
    pub fn place(&self, path: &[u8]) -> Place {
        let place =
            |role, below: &[u8]| Place { role, below: Path::new(OsStr::from_bytes(below)).to_owned() };
        if let Some((oid, rest)) = self.in_tablespace(path) {
            return place(Role::Tablespace(oid), rest);
        }
        match (&self.waldir, path.strip_prefix(b"pg_wal")) {
            (Some(_), Some(b"")) => place(Role::Wal, b""),
            (Some(_), Some([b'/', rest @ ..])) => place(Role::Wal, rest),
            _ => place(Role::Data, path),
        }
    }

    /// OID of the tablespace of a file, if it has a location, and the rest of the path; `None` for a
    /// file of the data directory.
    fn in_tablespace<'p>(&self, path: &'p [u8]) -> Option<(u32, &'p [u8])> {
        let below = path.strip_prefix(b"pg_tblspc/")?;
        let mut parts = below.splitn(2, |&byte| byte == b'/');
        let oid = std::str::from_utf8(parts.next()?).ok()?.parse().ok()?;
        self.tablespaces.contains_key(&oid).then(|| (oid, parts.next().unwrap_or(b"")))
    }

    /// OID of the tablespace of a file of the manifest; `None` for a file of the data directory.
    pub fn tablespace_of(&self, path: &[u8]) -> Option<u32> {
        self.in_tablespace(path).map(|(oid, _)| oid)
    }

    /// Returns the place of a configuration file; `None` when configuration files are not written.
    /// Paths stay relative to the directory of `postgresql.conf`, or to the root.
    pub fn config_place(&self, file: &FileEntry) -> Option<Place> {
        self.config.as_ref()?;
        let path = file.path.as_path();
        let base = Path::new(&self.plan.record.settings.config_file).parent();
        let relative = base.and_then(|base| path.strip_prefix(base).ok());
        let below = relative.unwrap_or_else(|| path.strip_prefix("/").unwrap_or(path)).to_owned();
        Some(Place { role: Role::Config, below })
    }

    /// Text of the markers of this restore.
    pub fn marker(&self) -> String {
        let over = if self.options.delta { OVERWRITES } else { "" };
        let config = self.config.as_ref().map(|config| config_line(&config.path)).unwrap_or_default();
        format!("{}\n{over}\n{config}\n", self.plan.record.id)
    }

    /// Absolute path of a place, for messages.
    pub fn path(&self, place: &Place) -> Result<PathBuf> {
        let root = &self.target(place.role)?.path;
        Ok(if place.below.as_os_str().is_empty() { root.clone() } else { root.join(&place.below) })
    }

    /// Whether a file of the manifest is restored: the signal files of the old server are not.
    pub fn is_restored(&self, path: &[u8]) -> bool {
        !matches!(path, b"recovery.signal" | b"standby.signal")
    }
}
