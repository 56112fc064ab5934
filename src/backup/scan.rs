//! Which files belong to a backup. The rules are those of PostgreSQL's `basebackup.c`.

use crate::error::{Doing, Error, Kind, Result};
use crate::pg::relation::{Fork, Place, RelationFile, is_temporary_relation};
use crate::progress;
use crate::repo::entry::{Dir, Entry, Owner, StoredPath, Tablespace};
use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::fs::Metadata;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

/// Directories of the data directory that are kept without what is in them.
const EMPTIED: [&str; 7] =
    ["pg_dynshmem", "pg_notify", "pg_serial", "pg_snapshots", "pg_stat_tmp", "pg_subtrans", "pg_replslot"];

/// Files of the data directory itself that belong to the running server or to another backup.
const LEFT_OUT: [&str; 8] = [
    "postmaster.pid",
    "postmaster.opts",
    "backup_label",
    "tablespace_map",
    "backup_manifest",
    "postgresql.auto.conf.tmp",
    "current_logfiles.tmp",
    crate::repo::RESTORING,
];

/// Directories deeper than this are a loop of links.
const DEEPEST: usize = 40;

/// A file to be read.
#[derive(Debug)]
pub struct Task {
    /// Relative to the data directory.
    pub path: StoredPath,
    /// Where to read it.
    pub source: PathBuf,
    /// When it was found, as is all that follows.
    pub size: u64,
    pub mode: u32,
    pub owner: (u32, u32),
    pub modified: i64,
    /// The number of its first page in its relation, for a file whose pages have checksums.
    pub first_page: Option<u32>,
    /// Where WAL finds it, for a file of a relation's main fork.
    pub node: Option<(Place, u32)>,
}

/// Takes what the walk finds.
pub trait Sink {
    fn entry(&mut self, entry: Entry) -> Result<()>;
    fn file(&mut self, task: Task) -> Result<()>;
}

pub struct Scan<'a> {
    pgdata: &'a Path,
    /// Device and inode of directories that are somebody else's: tablespaces inside the data directory, the
    /// spool, repositories.
    foreign: HashSet<(u64, u64)>,
    /// `PG_17_202406281`: a tablespace's location may be shared by two versions.
    version_directory: String,
    owners: &'a Owners,
}

impl<'a> Scan<'a> {
    pub fn new(
        pgdata: &'a Path,
        version_directory: String,
        foreign: &[PathBuf],
        owners: &'a Owners,
    ) -> Scan<'a> {
        let tablespaces = std::fs::read_dir(pgdata.join("pg_tblspc")).into_iter().flatten().flatten();
        let links = tablespaces.map(|link| link.path()).filter(|path| path.is_symlink());
        let foreign = links.chain(foreign.iter().cloned()).filter_map(|path| path.metadata().ok());
        let foreign = foreign.map(|meta| (meta.dev(), meta.ino())).collect();
        Scan { pgdata, foreign, version_directory, owners }
    }

    /// Walks the data directory and its tablespaces. `global/pg_control` is not given: it is read last.
    pub fn run(&self, sink: &mut dyn Sink) -> Result<()> {
        self.directory(sink, self.pgdata, b"", 0)
    }

    /// The entry of a directory; `path` is relative to the data directory, and empty for itself.
    fn enter(&self, sink: &mut dyn Sink, source: &Path, path: &[u8]) -> Result<bool> {
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

    fn directory(&self, sink: &mut dyn Sink, source: &Path, path: &[u8], depth: usize) -> Result<()> {
        if depth > DEEPEST {
            return Err(Error::new(Kind::Refused, format!("{} is nested too deeply", source.display()))
                .hint("is there a link that leads back to a directory above it?"));
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
        let init_forks: HashSet<&OsStr> = unlogged(&names, path);
        for name in &names {
            self.item(sink, source, path, name, &init_forks, depth)?;
        }
        Ok(())
    }

    fn item(
        &self,
        sink: &mut dyn Sink,
        directory: &Path,
        parent: &[u8],
        name: &OsStr,
        unlogged: &HashSet<&OsStr>,
        depth: usize,
    ) -> Result<()> {
        let source = directory.join(name);
        let text = name.to_str().unwrap_or_default();
        let mut path = parent.to_vec();
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(name.as_bytes());
        if text.starts_with("pgsql_tmp") || text.starts_with("pg_internal.init") || text == ".DS_Store" {
            return Ok(());
        }
        if parent.is_empty() && LEFT_OUT.contains(&text) {
            return Ok(());
        }
        if parent == b"pg_tblspc" {
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
            if parent.is_empty() && EMPTIED.contains(&text) {
                return self.enter(sink, &source, &path).map(|_| ());
            }
            if parent.is_empty() && text == "pg_wal" {
                return self.pg_wal(sink, &source);
            }
            return self.directory(sink, &source, &path, depth + 1);
        }
        if !meta.is_file() {
            self.warn(format!("{} is neither a file nor a directory, and is left out", source.display()));
            return Ok(());
        }
        let place = Place::parse(parent);
        let relation = RelationFile::parse(text).filter(|_| place.is_some());
        let is_unlogged = relation.is_some_and(|relation| {
            relation.fork != Fork::Init && unlogged.contains(OsStr::new(relation.node))
        });
        if is_unlogged || (place.is_some() && is_temporary_relation(text)) || path == b"global/pg_control" {
            return Ok(());
        }
        let main = relation.filter(|relation| relation.fork == Fork::Main);
        sink.file(Task {
            path: StoredPath(path),
            source,
            size: meta.len(),
            mode: meta.mode() & 0o7777,
            owner: (meta.uid(), meta.gid()),
            modified: meta.mtime(),
            first_page: relation.and_then(|relation| relation.first_block()),
            node: place.zip(main.and_then(|relation| relation.node.parse().ok())),
        })
    }

    /// What a link leads to. The content becomes part of the backup, and a file or directory when it is restored.
    fn follow(&self, source: &Path) -> Result<Option<Metadata>> {
        match std::fs::metadata(source) {
            Ok(meta) => {
                if !source.ends_with("pg_wal") {
                    self.warn(format!(
                        "{} is a link; what it leads to is backed up in its place",
                        source.display()
                    ));
                }
                Ok(Some(meta))
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                self.warn(format!("{} is a link that leads nowhere, and is left out", source.display()));
                Ok(None)
            }
            Err(e) => Err(Error::io(format!("follow the link {}", source.display()), &e)),
        }
    }

    /// `pg_wal` without the WAL, which comes from the archive.
    fn pg_wal(&self, sink: &mut dyn Sink, source: &Path) -> Result<()> {
        self.enter(sink, source, b"pg_wal")?;
        for name in ["archive_status", "summaries"] {
            let path = source.join(name);
            if is_dir(&path)? {
                self.enter(sink, &path, format!("pg_wal/{name}").as_bytes())?;
            }
        }
        Ok(())
    }

    /// A link in `pg_tblspc`, or the directory of an in-place tablespace.
    fn tablespace(&self, sink: &mut dyn Sink, source: &Path, path: &[u8], name: &str) -> Result<()> {
        let Ok(oid) = name.parse::<u32>() else {
            self.warn(format!("{} is no tablespace, and is left out", source.display()));
            return Ok(());
        };
        let Some(meta) = found(source, std::fs::symlink_metadata(source))? else {
            return Ok(());
        };
        let location = match meta.is_symlink() {
            true => Some(std::fs::read_link(source).doing(|| format!("read the link {}", source.display()))?),
            false => None,
        };
        sink.entry(Entry::Tablespace(Tablespace {
            oid,
            location: location.map(|location| StoredPath(location.as_os_str().as_bytes().to_vec())),
        }))?;
        self.enter(sink, source, path)?;
        let mut below = path.to_vec();
        below.push(b'/');
        below.extend_from_slice(self.version_directory.as_bytes());
        let version = source.join(&self.version_directory);
        if is_dir(&version)? {
            return self.directory(sink, &version, &below, 1);
        }
        // While a tablespace is dropped it has a link for a moment, and nothing behind it.
        if found(source, std::fs::symlink_metadata(source))?.is_some() {
            self.warn(format!(
                "there is no {}, so nothing of tablespace {oid} is backed up",
                version.display()
            ));
        }
        Ok(())
    }

    fn warn(&self, message: String) {
        progress::warn(&Error::new(Kind::Problem, message));
    }
}

/// The file numbers in this directory that have an initialization fork: recovery makes the rest of an
/// unlogged relation anew from it.
fn unlogged<'n>(names: &'n [std::ffi::OsString], path: &[u8]) -> HashSet<&'n OsStr> {
    if Place::parse(path).is_none() {
        return HashSet::new();
    }
    let init = names.iter().filter_map(|name| RelationFile::parse(name.to_str()?));
    init.filter(|relation| relation.fork == Fork::Init).map(|relation| OsStr::new(relation.node)).collect()
}

/// The result, or nothing when what was looked at is gone: relations are dropped while a backup runs.
pub fn found<T>(path: &Path, result: std::io::Result<T>) -> Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::io(format!("look at {}", path.display()), &e)),
    }
}

/// Whether there is a directory: what cannot be looked at is not taken for one that is not there.
fn is_dir(path: &Path) -> Result<bool> {
    Ok(found(path, std::fs::metadata(path))?.is_some_and(|meta| meta.is_dir()))
}

/// Names of users and groups, each looked up once.
#[derive(Default)]
pub struct Owners {
    users: Mutex<HashMap<u32, String>>,
    groups: Mutex<HashMap<u32, String>>,
}

impl Owners {
    pub fn of(&self, meta: &Metadata) -> Owner {
        self.named((meta.uid(), meta.gid()))
    }

    /// User and group by their numbers.
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
    let mut known = known.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    known.entry(id).or_insert_with(|| look_up(id).unwrap_or_else(|| id.to_string())).clone()
}
