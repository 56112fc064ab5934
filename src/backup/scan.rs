//! Finds the files that belong to a backup, by the rules of PostgreSQL's `basebackup.c`. Does not
//! read them.

use crate::error::{Doing, Error, Kind, Result};
use crate::pg::relation::{Fork, RelationDirectory, RelationFile, is_temporary_relation};
use crate::progress;
use crate::repo::entry::{Dir, Entry, Owner, StoredPath, Tablespace};
use crate::repo::manifest::LEFT_OUT;
use parking_lot::Mutex;
use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::fs::Metadata;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Directories of the data directory whose content is left out.
const EMPTIED: [&str; 7] =
    ["pg_dynshmem", "pg_notify", "pg_serial", "pg_snapshots", "pg_stat_tmp", "pg_subtrans", "pg_replslot"];

/// Maximum depth of directories. A deeper one is assumed to be in a loop of links.
const MAX_DEPTH: usize = 40;

/// A file to be read, with its metadata at the time of the scan.
#[derive(Debug)]
pub(super) struct FoundFile {
    /// Path relative to the data directory; absolute for a configuration file outside of it.
    pub path: StoredPath,
    /// Path to read it from.
    pub source: PathBuf,
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
    /// Makes a file that does not belong to a relation.
    pub fn new(path: StoredPath, source: PathBuf, meta: &Metadata) -> FoundFile {
        FoundFile {
            path,
            source,
            size: meta.len(),
            mode: meta.mode() & 0o7777,
            owner: (meta.uid(), meta.gid()),
            modified: meta.mtime(),
            first_page: None,
            node: None,
        }
    }
}

/// Receives what a scan finds, in the order of the manifest.
pub(super) trait ScanSink {
    /// A directory or tablespace; it comes before its content.
    fn entry(&mut self, entry: Entry) -> Result<()>;
    fn file(&mut self, found: FoundFile) -> Result<()>;
}

/// A walk through a data directory and its tablespaces.
pub(super) struct DataScan<'a> {
    pgdata: &'a Path,
    /// Device and inode of directories that are left out: tablespaces inside the data directory,
    /// the spool, repositories.
    foreign: HashSet<(u64, u64)>,
    /// Directory of this server in each tablespace (`PG_17_202406281`): two versions may share a
    /// location.
    version_directory: String,
    owners: &'a OwnerNames,
}

/// Position of the walk: a directory that is being listed.
struct Listed<'a> {
    source: &'a Path,
    /// Path relative to the data directory; empty for the data directory itself.
    path: &'a [u8],
    /// File numbers of unlogged relations in it.
    unlogged: HashSet<&'a OsStr>,
    depth: usize,
}

impl<'a> DataScan<'a> {
    pub fn new(
        pgdata: &'a Path,
        version_directory: String,
        foreign: &[PathBuf],
        owners: &'a OwnerNames,
    ) -> DataScan<'a> {
        let tablespaces = std::fs::read_dir(pgdata.join("pg_tblspc")).into_iter().flatten().flatten();
        let links = tablespaces.map(|link| link.path()).filter(|path| path.is_symlink());
        let foreign = links.chain(foreign.iter().cloned()).filter_map(|path| path.metadata().ok());
        let foreign = foreign.map(|meta| (meta.dev(), meta.ino())).collect();
        DataScan { pgdata, foreign, version_directory, owners }
    }

    /// Walks the data directory and its tablespaces. Leaves out `global/pg_control`, which is read
    /// last.
    pub fn run(&self, sink: &mut dyn ScanSink) -> Result<()> {
        self.directory(sink, self.pgdata, b"", 0)
    }

    /// Sends the entry of a directory to the sink. `path` is relative to the data directory, and
    /// empty for the data directory itself. Returns false when the directory does not exist any
    /// more.
    fn enter(&self, sink: &mut dyn ScanSink, source: &Path, path: &[u8]) -> Result<bool> {
        let Some(meta) = found(source, std::fs::metadata(source))? else {
            return Ok(false);
        };
        sink.entry(Entry::Dir(Dir {
            path: StoredPath(path.to_vec()),
            mode: meta.mode() & 0o7777,
            owner: self.owners.of(&meta),
        }))?;
        Ok(true)
    }

    fn directory(&self, sink: &mut dyn ScanSink, source: &Path, path: &[u8], depth: usize) -> Result<()> {
        if depth > MAX_DEPTH {
            return Err(Error::new(Kind::Refused, format!("{} is nested too deeply", source.display()))
                .hint("look for a link that leads back to a directory above it"));
        }
        if !self.enter(sink, source, path)? {
            return Ok(());
        }
        let Some(entries) = found(source, std::fs::read_dir(source))? else {
            return Ok(());
        };
        let mut names = Vec::new();
        for entry in entries {
            names.push(entry.doing(|| format!("list {}", source.display()))?.file_name());
        }
        names.sort_unstable();
        let listed = Listed { source, path, unlogged: unlogged(&names, path), depth };
        names.iter().try_for_each(|name| self.item(sink, &listed, name))
    }

    fn item(&self, sink: &mut dyn ScanSink, listed: &Listed<'_>, name: &OsStr) -> Result<()> {
        let source = listed.source.join(name);
        let path = child(listed.path, name.as_bytes());
        // Every name that PostgreSQL gives is UTF-8; any other name matches none of them.
        let text = name.to_str().unwrap_or("");
        if text.starts_with("pgsql_tmp") || text.starts_with("pg_internal.init") || text == ".DS_Store" {
            return Ok(());
        }
        if listed.path.is_empty() && LEFT_OUT.contains(&text) {
            return Ok(());
        }
        if listed.path == b"pg_tblspc" {
            return self.tablespace(sink, &source, &path, text);
        }
        let Some(meta) = found(&source, std::fs::symlink_metadata(&source))? else {
            return Ok(());
        };
        let meta = if meta.is_symlink() {
            match self.follow(&source)? {
                Some(meta) => meta,
                None => return Ok(()),
            }
        } else {
            meta
        };
        if meta.is_dir() {
            if self.foreign.contains(&(meta.dev(), meta.ino())) {
                return Ok(());
            }
            if listed.path.is_empty() && EMPTIED.contains(&text) {
                return self.enter(sink, &source, &path).map(|_| ());
            }
            if listed.path.is_empty() && text == "pg_wal" {
                return self.pg_wal(sink, &source);
            }
            return self.directory(sink, &source, &path, listed.depth + 1);
        }
        if !meta.is_file() {
            self.warn(format!("{} is neither a file nor a directory; it is left out", source.display()));
            return Ok(());
        }
        self.file(sink, listed, FoundFile::new(StoredPath(path), source, &meta), text)
    }

    /// Sends a file to the sink, unless it is temporary, or a fork of an unlogged relation that
    /// recovery rebuilds.
    fn file(&self, sink: &mut dyn ScanSink, listed: &Listed<'_>, found: FoundFile, name: &str) -> Result<()> {
        let place = RelationDirectory::parse(listed.path);
        let relation = RelationFile::parse(name).filter(|_| place.is_some());
        let is_unlogged = relation.is_some_and(|relation| {
            relation.fork != Fork::Init && listed.unlogged.contains(OsStr::new(relation.node))
        });
        let is_temporary = place.is_some() && is_temporary_relation(name);
        if is_unlogged || is_temporary || found.path.0 == b"global/pg_control" {
            return Ok(());
        }
        let main = relation.filter(|relation| relation.fork == Fork::Main);
        sink.file(FoundFile {
            first_page: relation.and_then(|relation| relation.first_block()),
            node: place.zip(main.and_then(|relation| relation.node.parse().ok())),
            ..found
        })
    }

    /// Returns the metadata of the target of a link, which is backed up in place of the link;
    /// `None` when it does not exist.
    fn follow(&self, source: &Path) -> Result<Option<Metadata>> {
        match std::fs::metadata(source) {
            Ok(meta) => {
                if !source.ends_with("pg_wal") {
                    self.warn(format!(
                        "{} is a link; its target is backed up in its place",
                        source.display()
                    ));
                }
                Ok(Some(meta))
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                self.warn(format!(
                    "{} is a link whose target does not exist; it is left out",
                    source.display()
                ));
                Ok(None)
            }
            Err(e) => Err(Error::io(format!("follow the link {}", source.display()), &e)),
        }
    }

    /// Sends the directories of `pg_wal` to the sink, without the WAL, which comes from the
    /// archive.
    fn pg_wal(&self, sink: &mut dyn ScanSink, source: &Path) -> Result<()> {
        self.enter(sink, source, b"pg_wal")?;
        for name in ["archive_status", "summaries"] {
            let path = source.join(name);
            if is_dir(&path)? {
                self.enter(sink, &path, format!("pg_wal/{name}").as_bytes())?;
            }
        }
        Ok(())
    }

    /// Sends a tablespace to the sink: a link in `pg_tblspc`, or the directory of an in-place
    /// tablespace.
    fn tablespace(&self, sink: &mut dyn ScanSink, source: &Path, path: &[u8], name: &str) -> Result<()> {
        let Ok(oid) = name.parse::<u32>() else {
            self.warn(format!("{} is not a tablespace; it is left out", source.display()));
            return Ok(());
        };
        let Some(meta) = found(source, std::fs::symlink_metadata(source))? else {
            return Ok(());
        };
        let location = if meta.is_symlink() {
            Some(std::fs::read_link(source).doing(|| format!("read the link {}", source.display()))?)
        } else {
            None
        };
        self.warn_inside(source, oid);
        sink.entry(Entry::Tablespace(Tablespace {
            oid,
            location: location.map(|location| StoredPath(location.as_os_str().as_bytes().to_vec())),
        }))?;
        self.enter(sink, source, path)?;
        let below = child(path, self.version_directory.as_bytes());
        let version = source.join(&self.version_directory);
        if is_dir(&version)? {
            return self.directory(sink, &version, &below, 1);
        }
        // A tablespace that is being dropped has a link without a directory for a moment.
        if found(source, std::fs::symlink_metadata(source))?.is_some() {
            self.warn(format!(
                "{} does not exist, so nothing of tablespace {oid} is backed up",
                version.display()
            ));
        }
        Ok(())
    }

    /// Warns about a tablespace whose link leads into the data directory.
    fn warn_inside(&self, source: &Path, oid: u32) {
        let is_link = source.is_symlink();
        let real = std::fs::canonicalize(source).ok().zip(std::fs::canonicalize(self.pgdata).ok());
        if let Some((real, _)) = real.filter(|(real, pgdata)| is_link && real.starts_with(pgdata)) {
            self.warn(format!(
                "tablespace {oid} is inside of the data directory ({}): a restore has to put it elsewhere, with --tablespace {oid}=DIR",
                real.display()
            ));
        }
    }

    fn warn(&self, message: String) {
        progress::warn(&Error::new(Kind::Problem, message));
    }
}

/// The path of an entry of a directory.
fn child(directory: &[u8], name: &[u8]) -> Vec<u8> {
    let mut path = directory.to_vec();
    if !path.is_empty() {
        path.push(b'/');
    }
    path.extend_from_slice(name);
    path
}

/// File numbers in this directory that have an initialization fork, from which recovery rebuilds
/// the other forks of an unlogged relation.
fn unlogged<'n>(names: &'n [std::ffi::OsString], path: &[u8]) -> HashSet<&'n OsStr> {
    if RelationDirectory::parse(path).is_none() {
        return HashSet::new();
    }
    let init = names.iter().filter_map(|name| RelationFile::parse(name.to_str()?));
    init.filter(|relation| relation.fork == Fork::Init).map(|relation| OsStr::new(relation.node)).collect()
}

/// Returns `None` when the path does not exist: relations may be dropped while a backup runs.
pub(super) fn found<T>(path: &Path, result: std::io::Result<T>) -> Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::io(format!("look at {}", path.display()), &e)),
    }
}

/// Whether the path is a directory. A path that cannot be looked at is an error.
fn is_dir(path: &Path) -> Result<bool> {
    Ok(found(path, std::fs::metadata(path))?.is_some_and(|meta| meta.is_dir()))
}

/// Names of users and groups; each is looked up once.
#[derive(Default)]
pub(super) struct OwnerNames {
    users: Mutex<HashMap<u32, String>>,
    groups: Mutex<HashMap<u32, String>>,
}

impl OwnerNames {
    pub fn of(&self, meta: &Metadata) -> Owner {
        self.named((meta.uid(), meta.gid()))
    }

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
