//! Finds the files that belong to a backup, by the rules of PostgreSQL's `basebackup.c`. Does not
//! read them.

use super::found::{FileSource, FoundFile, OwnerNames};
use crate::error::{Error, Kind, Result};
use crate::fs::folder::{Folder, Followed, kind};
use crate::fs::named;
use crate::fs::read_as::ReadAs;
use crate::pg::relation::{Fork, RelationDirectory, RelationFile, is_temporary_relation};
use crate::progress;
use crate::repo::entry::{Dir, Entry, StoredPath, Tablespace};
use crate::repo::manifest::LEFT_OUT;
use rustix::fs::{FileType, Stat};
use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Directories of the data directory whose content is left out.
const EMPTIED: [&str; 7] =
    ["pg_dynshmem", "pg_notify", "pg_serial", "pg_snapshots", "pg_stat_tmp", "pg_subtrans", "pg_replslot"];

/// Maximum depth of directories. A deeper one is assumed to be in a loop of links.
const MAX_DEPTH: usize = 40;

/// Receives what a scan finds, in the order of the manifest.
pub(super) trait ScanSink {
    /// A directory or tablespace; it comes before its content.
    fn entry(&mut self, entry: Entry) -> Result<()>;
    fn file(&mut self, found: FoundFile) -> Result<()>;
}

/// A walk through a data directory and its tablespaces.
pub(super) struct DataScan<'a> {
    pgdata: Arc<Folder>,
    reads: ReadAs,
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
    /// Folder from which files are opened later: the data directory, or the target of a link.
    root: &'a Arc<Folder>,
    /// Path of the directory relative to `root`.
    below: &'a Path,
    folder: &'a Folder,
    /// Path relative to the data directory; empty for the data directory itself.
    path: &'a [u8],
    /// File numbers of unlogged relations in it.
    unlogged: HashSet<&'a OsStr>,
    depth: usize,
}

impl Listed<'_> {
    /// Path of an entry, for messages.
    fn path_of(&self, name: &OsStr) -> PathBuf {
        self.folder.path().join(name)
    }
}

impl<'a> DataScan<'a> {
    /// Creates the walk through a data directory. Reads for its owner.
    ///
    /// # Errors
    ///
    /// Those of the operating system; `Absent` when the directory does not exist.
    pub fn new(
        pgdata: &Path,
        version_directory: String,
        foreign: &[PathBuf],
        owners: &'a OwnerNames,
    ) -> Result<DataScan<'a>> {
        let missing = || Error::new(Kind::Absent, format!("{} does not exist", pgdata.display()));
        let folder = Folder::root(pgdata)?.ok_or_else(missing)?;
        let tablespaces = pgdata.join("pg_tblspc");
        let links = named::list(&tablespaces)?.unwrap_or_default();
        let links = links.into_iter().filter(|(_, kind)| *kind == FileType::Symlink);
        let links = links.map(|(name, _)| tablespaces.join(name));
        let foreign = links.chain(foreign.iter().cloned()).filter_map(|path| named::stat(&path).ok()?);
        let foreign = foreign.map(|stat| (stat.st_dev, stat.st_ino)).collect();
        let reads = ReadAs::owner_of(&folder)?;
        Ok(DataScan { pgdata: Arc::new(folder), reads, foreign, version_directory, owners })
    }

    /// Walks the data directory and its tablespaces. Leaves out `global/pg_control`, which is read
    /// last.
    pub fn run(&self, sink: &mut dyn ScanSink) -> Result<()> {
        self.directory(sink, &self.pgdata, Path::new(""), b"", 0)
    }

    /// Sends the entry of a directory to the sink. `path` is relative to the data directory, and
    /// empty for the data directory itself.
    fn enter(&self, sink: &mut dyn ScanSink, folder: &Folder, path: &[u8]) -> Result<()> {
        let stat = folder.own_stat()?;
        self.reads.check(&stat, folder.path())?;
        sink.entry(Entry::Dir(Dir {
            path: StoredPath(path.to_vec()),
            mode: stat.st_mode & 0o7777,
            owner: self.owners.named((stat.st_uid, stat.st_gid)),
        }))
    }

    /// Walks a directory at a path below `root`. `path` is relative to the data directory.
    fn directory(
        &self,
        sink: &mut dyn ScanSink,
        root: &Arc<Folder>,
        below: &Path,
        path: &[u8],
        depth: usize,
    ) -> Result<()> {
        if depth > MAX_DEPTH {
            let source = root.path().join(below);
            return Err(Error::new(Kind::Refused, format!("{} is nested too deeply", source.display()))
                .hint("look for a link that leads back to a directory above it"));
        }
        // `None` when it was removed meanwhile.
        let Some(folder) = root.folder(below)? else {
            return Ok(());
        };
        self.enter(sink, &folder, path)?;
        let names: Vec<OsString> = folder.names()?.into_iter().map(|(name, _)| name).collect();
        let unlogged = unlogged(&names, path);
        let listed = Listed { root, below, folder: &folder, path, unlogged, depth };
        names.iter().try_for_each(|name| self.item(sink, &listed, name))
    }

    fn item(&self, sink: &mut dyn ScanSink, listed: &Listed<'_>, name: &OsStr) -> Result<()> {
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
            return self.tablespace(sink, listed, &path, name);
        }
        if listed.path.is_empty() && text == "pg_wal" {
            return self.pg_wal(sink, listed, name);
        }
        let Some(stat) = listed.folder.entry(Path::new(name))? else {
            return Ok(());
        };
        match kind(&stat) {
            FileType::Directory => {
                let below = listed.below.join(name);
                self.inner(sink, &stat, listed, (listed.root, &below), &path)
            }
            FileType::RegularFile => {
                let root = Arc::clone(listed.root);
                let source = FileSource::Below { root, below: listed.below.join(name), reads: self.reads };
                self.file(sink, listed, FoundFile::new(StoredPath(path), Some(source), &stat)?, text)
            }
            FileType::Symlink => self.link(sink, listed, name, path),
            _ => self.leave_out(&listed.path_of(name)),
        }
    }

    /// Sends what a link leads to, which is backed up in place of the link.
    fn link(&self, sink: &mut dyn ScanSink, listed: &Listed<'_>, name: &OsStr, path: Vec<u8>) -> Result<()> {
        let source = listed.path_of(name);
        let followed = listed.folder.follow(name, self.reads)?;
        if followed.is_some() {
            self.warn(format!("{} is a link; its target is backed up in its place", source.display()));
        }
        match followed {
            Some(Followed::Folder(folder)) => {
                let (stat, root) = (folder.own_stat()?, Arc::new(folder));
                self.inner(sink, &stat, listed, (&root, Path::new("")), &path)
            }
            Some(Followed::File(file, stat)) => {
                let found =
                    FoundFile::new(StoredPath(path), Some(FileSource::Open { file, path: source }), &stat)?;
                self.file(sink, listed, found, name.to_str().unwrap_or(""))
            }
            Some(Followed::Other(_)) => self.leave_out(&source),
            None => {
                self.warn(format!(
                    "{} is a link whose target does not exist; it is left out",
                    source.display()
                ));
                Ok(())
            }
        }
    }

    /// Walks a directory in a listed directory, unless it is left out, or its content.
    fn inner(
        &self,
        sink: &mut dyn ScanSink,
        stat: &Stat,
        listed: &Listed<'_>,
        (root, below): (&Arc<Folder>, &Path),
        path: &[u8],
    ) -> Result<()> {
        if self.foreign.contains(&(stat.st_dev, stat.st_ino)) {
            return Ok(());
        }
        let is_emptied = listed.path.is_empty() && EMPTIED.iter().any(|name| name.as_bytes() == path);
        if !is_emptied {
            return self.directory(sink, root, below, path, listed.depth + 1);
        }
        match root.folder(below)? {
            Some(folder) => self.enter(sink, &folder, path),
            None => Ok(()),
        }
    }

    fn leave_out(&self, source: &Path) -> Result<()> {
        self.warn(format!("{} is neither a file nor a directory; it is left out", source.display()));
        Ok(())
    }

    /// Opens a folder, or the one to which a link leads; `None` when it does not exist, or is not a
    /// folder.
    fn follow_folder(&self, folder: &Folder, name: &OsStr) -> Result<Option<Folder>> {
        Ok(match folder.follow(name, self.reads)? {
            Some(Followed::Folder(inner)) => Some(inner),
            _ => None,
        })
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

    /// Sends the directories of `pg_wal`, which may be a link, to the sink, without the WAL, which
    /// comes from the archive.
    fn pg_wal(&self, sink: &mut dyn ScanSink, listed: &Listed<'_>, name: &OsStr) -> Result<()> {
        let Some(wal) = self.follow_folder(listed.folder, name)? else {
            return Ok(());
        };
        self.enter(sink, &wal, b"pg_wal")?;
        for name in ["archive_status", "summaries"] {
            if let Some(folder) = self.follow_folder(&wal, OsStr::new(name))? {
                self.enter(sink, &folder, format!("pg_wal/{name}").as_bytes())?;
            }
        }
        Ok(())
    }

    /// Sends a tablespace to the sink: a link in `pg_tblspc`, or the directory of an in-place
    /// tablespace.
    fn tablespace(
        &self,
        sink: &mut dyn ScanSink,
        listed: &Listed<'_>,
        path: &[u8],
        name: &OsStr,
    ) -> Result<()> {
        let source = listed.path_of(name);
        let Some(oid) = name.to_str().and_then(|name| name.parse::<u32>().ok()) else {
            self.warn(format!("{} is not a tablespace; it is left out", source.display()));
            return Ok(());
        };
        if listed.folder.entry(Path::new(name))?.is_none() {
            return Ok(());
        }
        let location = listed.folder.link_target(Path::new(name))?;
        let is_link = location.is_some();
        sink.entry(Entry::Tablespace(Tablespace {
            oid,
            location: location.map(|location| StoredPath(location.as_os_str().as_bytes().to_vec())),
        }))?;
        let folder = self.follow_folder(listed.folder, name)?;
        if let Some(folder) = &folder {
            if is_link {
                self.warn_inside(folder, oid)?;
            }
            self.enter(sink, folder, path)?;
            if let Some(version) = self.follow_folder(folder, OsStr::new(&self.version_directory))? {
                let below = child(path, self.version_directory.as_bytes());
                return self.directory(sink, &Arc::new(version), Path::new(""), &below, 1);
            }
        }
        // A tablespace that is being dropped has a link without a directory for a moment.
        if listed.folder.entry(Path::new(name))?.is_some() {
            self.warn(format!(
                "{} does not exist, so nothing of tablespace {oid} is backed up",
                source.join(&self.version_directory).display()
            ));
        }
        Ok(())
    }

    /// Warns about a tablespace whose link leads into the data directory.
    fn warn_inside(&self, location: &Folder, oid: u32) -> Result<()> {
        let real = location.real()?;
        if real.starts_with(self.pgdata.real()?) {
            self.warn(format!(
                "tablespace {oid} is inside of the data directory ({}): a restore has to put it elsewhere, with --tablespace {oid}=DIR",
                real.display()
            ));
        }
        Ok(())
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
fn unlogged<'n>(names: &'n [OsString], path: &[u8]) -> HashSet<&'n OsStr> {
    if RelationDirectory::parse(path).is_none() {
        return HashSet::new();
    }
    let init = names.iter().filter_map(|name| RelationFile::parse(name.to_str()?));
    init.filter(|relation| relation.fork == Fork::Init).map(|relation| OsStr::new(relation.node)).collect()
}
