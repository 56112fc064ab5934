//! Decides whether the entries of a manifest describe a cluster that a restore can write, and may
//! write. Every reader of a whole manifest applies this, so a verification reports what a restore
//! refuses.
//!
//! Relies on the order in which a backup finds entries: files in the order of their paths, and each
//! directory before all files behind it in that order. So only the paths of directories are kept.

use super::Totals;
use crate::error::{Error, Kind, Result};
use crate::repo::RESTORING;
use crate::repo::entry::{Dir, Entry, FileEntry, StoredPath, Tablespace};
use crate::repo::record::Record;
use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};

/// Files at the top of the data directory that belong to the running server, to another backup, or
/// to a restore. No backup has them; `backup_label` and `tablespace_map` come from the server.
pub const LEFT_OUT: [&str; 8] = [
    "postmaster.pid",
    "postmaster.opts",
    "backup_label",
    "tablespace_map",
    "backup_manifest",
    "postgresql.auto.conf.tmp",
    "current_logfiles.tmp",
    RESTORING,
];

/// The control file in a restore that has not ended.
const UNFINISHED_CONTROL: &[u8] = b"global/pg_control.walkeep";

/// Files that a manifest has behind all others, in any order.
const LAST: [&[u8]; 3] = [b"global/pg_control", b"backup_label", b"tablespace_map"];

/// Paths that a restore writes as files, or that the server reads as such.
const NOT_DIRECTORIES: [&[u8]; 4] =
    [b"PG_VERSION", b"postgresql.auto.conf", b"recovery.signal", b"standby.signal"];

/// A file that a restore reads into memory, as it does those of [`LAST`].
const REWRITTEN: &[u8] = b"postgresql.auto.conf";

/// Maximum bytes of such a file.
const MAX_IN_MEMORY: u64 = 16 << 20;

/// Directories without which a restore cannot write, or a server does not start.
const NEEDED_DIRECTORIES: [&[u8]; 4] = [b"", b"global", b"pg_wal", b"pg_tblspc"];

/// Directories in `pg_wal`. The WAL comes from the archive, so nothing else is below `pg_wal`.
const IN_PG_WAL: [&[u8]; 2] = [b"pg_wal/archive_status", b"pg_wal/summaries"];

/// Maximum bytes of the paths of all directories, tablespaces and files from outside of the data
/// directory, with [`PATH_OVERHEAD`] for each.
const MAX_PATHS: usize = 64 << 20;

/// Memory that a path takes besides its own bytes, about.
const PATH_OVERHEAD: usize = 64;

/// Maximum length of a path in bytes (`PATH_MAX`).
const MAX_PATH: usize = 4096;

/// The entries of a manifest so far.
pub(super) struct Accepted {
    major: u32,
    directories: BTreeSet<Vec<u8>>,
    last_file: Option<StoredPath>,
    /// Those of [`LAST`] that were found.
    found_last: BTreeSet<Vec<u8>>,
    has_version: bool,
    tablespaces: BTreeMap<u32, Tablespace>,
    /// Name of this server's directory in each tablespace: `PG_17_202406281`.
    version_directory: Option<Vec<u8>>,
    /// Paths of configuration files from outside of the data directory.
    configs: BTreeSet<Vec<u8>>,
    /// Bytes of all paths that are kept.
    bytes: usize,
    totals: Totals,
}

impl Accepted {
    /// Begins with no entries, of a cluster with this major version.
    pub fn new(major: u32) -> Accepted {
        Accepted {
            major,
            directories: BTreeSet::new(),
            last_file: None,
            found_last: BTreeSet::new(),
            has_version: false,
            tablespaces: BTreeMap::new(),
            version_directory: None,
            configs: BTreeSet::new(),
            bytes: 0,
            totals: Totals::default(),
        }
    }

    /// Adds the next entry.
    ///
    /// # Errors
    ///
    /// `Damage` when a restore cannot write it beside the entries before it, or must not.
    pub fn entry(&mut self, entry: &Entry) -> Result<()> {
        self.totals.count(entry)?;
        match entry {
            Entry::Dir(dir) => self.directory(dir),
            Entry::Tablespace(tablespace) => self.tablespace(tablespace),
            Entry::File(file) => self.file(file),
            Entry::Config(file) => self.config(file),
        }
    }

    fn directory(&mut self, Dir { path, mode, .. }: &Dir) -> Result<()> {
        check_mode(path, *mode)?;
        let name = &path.0[..];
        if !self.is_behind_files(path) {
            return damaged(path, "is not in the order of a manifest, or also a file");
        }
        if is_reserved(name) || LAST.contains(&name) || NOT_DIRECTORIES.contains(&name) {
            return damaged(path, "cannot be a directory of a backup");
        }
        if is_below(name, b"pg_wal") && !IN_PG_WAL.contains(&name) {
            return damaged(path, "is in pg_wal, where a backup has nothing");
        }
        self.check_parent(path)?;
        self.check_tablespace(path, true)?;
        self.keep(name)?;
        if self.directories.insert(name.to_vec()) { Ok(()) } else { damaged(path, "is there twice") }
    }

    fn file(&mut self, FileEntry { path, mode, size, .. }: &FileEntry) -> Result<()> {
        check_mode(path, *mode)?;
        let name = &path.0[..];
        self.check_parent(path)?;
        if *size > MAX_IN_MEMORY && (LAST.contains(&name) || name == REWRITTEN) {
            return damaged(path, "is larger than such a file can be");
        }
        if LAST.contains(&name) {
            if !self.found_last.insert(name.to_vec()) {
                return damaged(path, "is there twice");
            }
            return Ok(());
        }
        if !self.is_behind_files(path) {
            return damaged(path, "is there twice, or not in the order of a manifest");
        }
        if self.directories.contains(name) {
            return damaged(path, "is a file and a directory");
        }
        if is_reserved(name) {
            return damaged(path, "cannot be a file of a backup");
        }
        if is_below(name, b"pg_wal") {
            return damaged(path, "is in pg_wal, where a backup has nothing");
        }
        self.check_tablespace(path, false)?;
        self.has_version |= name == b"PG_VERSION";
        self.last_file = Some(path.clone());
        Ok(())
    }

    fn tablespace(&mut self, tablespace: &Tablespace) -> Result<()> {
        let location = tablespace.location.as_ref().map_or(&b""[..], |location| &location.0);
        let is_path = !location.is_empty() && !location.contains(&0) && location.len() <= MAX_PATH;
        if tablespace.location.is_some() && !is_path {
            let what = format!("tablespace {} has a location that is not a path", tablespace.oid);
            return Err(Error::new(Kind::Damage, what));
        }
        self.keep(location)?;
        match self.tablespaces.insert(tablespace.oid, tablespace.clone()) {
            None => Ok(()),
            Some(_) => Err(Error::new(Kind::Damage, format!("tablespace {} is there twice", tablespace.oid))),
        }
    }

    fn config(&mut self, FileEntry { path, mode, .. }: &FileEntry) -> Result<()> {
        check_mode(path, *mode)?;
        self.keep(&path.0)?;
        if self.configs.insert(path.0.clone()) { Ok(()) } else { damaged(path, "is there twice") }
    }

    /// Whether a path is behind those of all files so far, except for [`LAST`].
    fn is_behind_files(&self, path: &StoredPath) -> bool {
        self.last_file.as_ref().is_none_or(|last| last.order(path) == Ordering::Less)
    }

    fn check_parent(&self, path: &StoredPath) -> Result<()> {
        // The directory of a path without a slash is the data directory, whose path is empty.
        let parent = path.0.rsplitn(2, |&byte| byte == b'/').nth(1).unwrap_or(b"");
        if path.0.is_empty() || self.directories.contains(parent) {
            return Ok(());
        }
        damaged(path, "is in a directory that the manifest does not have")
    }

    /// Checks a path in `pg_tblspc`: the directory of a tablespace that was named before, and in it
    /// nothing but one directory of the server's version.
    fn check_tablespace(&mut self, path: &StoredPath, is_directory: bool) -> Result<()> {
        let Some(below) = path.0.strip_prefix(b"pg_tblspc/") else {
            return Ok(());
        };
        let mut parts = below.splitn(3, |&byte| byte == b'/');
        let oid = parts.next().and_then(|name| {
            let text = std::str::from_utf8(name).ok()?;
            text.parse().ok().filter(|oid: &u32| oid.to_string() == text)
        });
        if !oid.is_some_and(|oid| self.tablespaces.contains_key(&oid)) {
            return damaged(path, "is not in a tablespace of the backup");
        }
        let (version, rest) = (parts.next(), parts.next());
        let Some(version) = version else {
            return if is_directory { Ok(()) } else { damaged(path, "cannot be a file of a backup") };
        };
        let catalog = version.strip_prefix(format!("PG_{}_", self.major).as_bytes());
        let is_version = catalog
            .is_some_and(|digits| (1..=10).contains(&digits.len()) && digits.iter().all(u8::is_ascii_digit))
            && (is_directory || rest.is_some());
        let known = self.version_directory.get_or_insert_with(|| version.to_vec());
        if !is_version || known != version {
            return damaged(path, "is not in the directory that this server has in a tablespace");
        }
        Ok(())
    }

    /// Counts a path that is kept until the end.
    fn keep(&mut self, path: &[u8]) -> Result<()> {
        self.bytes += path.len() + PATH_OVERHEAD;
        if self.bytes <= MAX_PATHS {
            return Ok(());
        }
        let what = format!("its directories take more than {MAX_PATHS} bytes, which no cluster needs");
        Err(Error::new(Kind::Damage, what))
    }

    /// Checks, after the last entry, that nothing is missing, and that the record agrees.
    ///
    /// # Errors
    ///
    /// `Damage`.
    pub fn end(&self, record: &Record, totals: Option<Totals>) -> Result<()> {
        let wrong = |what: String| Err(Error::new(Kind::Damage, what));
        if totals != Some(self.totals) {
            return wrong(format!("the manifest of backup {} is not complete", record.id));
        }
        if let Some(missing) = NEEDED_DIRECTORIES.iter().find(|path| !self.directories.contains(**path)) {
            let name =
                if missing.is_empty() { "data directory".into() } else { String::from_utf8_lossy(missing) };
            return wrong(format!("the manifest has no {name}"));
        }
        let has_locations = self.tablespaces.values().any(|tablespace| tablespace.location.is_some());
        let needed = if has_locations { &LAST[..] } else { &LAST[..2] };
        if let Some(missing) = needed.iter().find(|path| !self.found_last.contains(**path)) {
            return wrong(format!("the manifest has no {}", String::from_utf8_lossy(missing)));
        }
        if !self.has_version {
            return wrong("the manifest has no PG_VERSION".to_owned());
        }
        let Totals { files, bytes, .. } = self.totals;
        if (files, bytes) != (record.files, record.size) {
            return wrong(format!(
                "the record has {} files of {} bytes, the manifest has {files} files of {bytes} bytes",
                record.files, record.size
            ));
        }
        let named: BTreeMap<u32, &Tablespace> =
            record.tablespaces.iter().map(|known| (known.tablespace.oid, &known.tablespace)).collect();
        if !named.into_iter().eq(self.tablespaces.iter().map(|(oid, tablespace)| (*oid, tablespace))) {
            return wrong("the tablespaces of the record differ from those of the manifest".to_owned());
        }
        Ok(())
    }
}

/// Whether a file of a backup must not have this path: a restore writes it, or a server would take
/// it for its own.
fn is_reserved(path: &[u8]) -> bool {
    path == UNFINISHED_CONTROL || LEFT_OUT.iter().any(|name| name.as_bytes() == path)
}

/// Whether a path lies in a directory.
fn is_below(path: &[u8], directory: &[u8]) -> bool {
    path.strip_prefix(directory).is_some_and(|rest| rest.starts_with(b"/"))
}

/// Refuses what is not a mode, and paths that no file system has.
fn check_mode(path: &StoredPath, mode: u32) -> Result<()> {
    if mode > 0o7777 {
        return damaged(path, "has a mode that is not one");
    }
    if path.0.len() > MAX_PATH {
        return damaged(path, "is longer than a path can be");
    }
    Ok(())
}

pub(super) fn damaged<T>(path: &StoredPath, what: &str) -> Result<T> {
    Err(Error::new(Kind::Damage, format!("`{}` {what}", path.display().escape_debug())))
}
