//! A restore from beginning to end.

use super::delta;
use super::owner::Ownership;
use super::partial::Chosen;
use super::plan::Plan;
use super::recovery::Recovery;
use super::room::Room;
use super::write::Writer;
use crate::error::{Doing, Error, Kind, Result};
use crate::fs::durable::{self, FileSystem};
use crate::progress::{self, Cancel, Progress, in_span};
use crate::repo::RESTORING;
use crate::repo::active::{Announcement, Heartbeat, Operation};
use crate::repo::lock::Lock;
use crate::repo::record::{Database, Record};
use crossbeam_channel::{Receiver, RecvTimeoutError, bounded};
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::ffi::{OsStr, OsString};
use std::num::NonZeroUsize;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tracing::{Span, info_span};

/// How often what was written is sent to the disk, so that the sync at the end has little left to do.
const FLUSH_EVERY: Duration = Duration::from_millis(200);

pub struct Options {
    /// Bytes that were written, of the size of the backup.
    pub progress: Progress,
    pub cancel: Cancel,
    /// The new data directory; absolute.
    pub to: PathBuf,
    /// New places of tablespaces, by OID or old location.
    pub tablespaces: Vec<(OsString, PathBuf)>,
    /// Where configuration files from outside the data directory go.
    pub config_dir: Option<PathBuf>,
    pub jobs: NonZeroUsize,
    /// Over what is there: only blocks that differ are fetched and written, and what does not belong there goes.
    pub delta: bool,
    /// The databases to restore, by names or OIDs; the files of others become empty. None named: all.
    pub databases: Vec<String>,
    /// Nobody keeps what is restored: it is read at once, out of the page cache, and never synced.
    pub scratch: bool,
    /// Directories that are not the cluster's: nothing of them may be taken for a stray.
    pub foreign: Vec<PathBuf>,
    /// For how long to wait for another restore into the same directory.
    pub wait: Duration,
    /// Twelve random hexadecimal digits.
    pub random: String,
}

/// What was done.
pub struct Restored {
    pub bytes: u64,
    pub files: u64,
    /// Bytes that were in their place already.
    pub kept: u64,
    /// Databases that were left out.
    pub left_out: Vec<Database>,
    /// Where each tablespace is now.
    pub tablespaces: Vec<(u32, PathBuf)>,
    /// Configuration files that the backup has and that were not written.
    pub config_left: Vec<String>,
    /// Keeps the backup and its WAL from being pruned until it is dropped, or for its lease when it is left.
    /// `None`: the repository cannot be written.
    pub announced: Option<Announcement>,
}

/// Restores the backup of the plan.
pub fn run(options: &Options, plan: &Plan, recovery: &Recovery) -> Result<Restored> {
    let doing = || format!("restore backup {} into {}", plan.record.id, options.to.display());
    let target = options.to.display();
    let _span = info_span!("restore", backup = plan.record.id, %target).entered();
    let run = Run::new(options, plan, recovery).doing(doing)?;
    let announced = announce(plan, &options.random).doing(doing)?;
    let mut restored = run.run().doing(doing)?;
    restored.announced = announced;
    Ok(restored)
}

/// Sees to it that no prune takes away what is being restored. From a repository that cannot be written it is
/// restored all the same: what is missing is found out.
fn announce(plan: &Plan, random: &str) -> Result<Option<Announcement>> {
    let id = &plan.record.id;
    let notice = Heartbeat {
        needs: vec![id.clone()],
        wal_from: Some(plan.record.start_lsn),
        ..Heartbeat::new(Operation::Restore)
    };
    let announced = match Announcement::begin(&plan.archive, notice, random) {
        Ok(announced) => announced,
        Err(error) => {
            tracing::info!(
                "no prune is kept from removing the backup meanwhile, since the repository cannot be written: {error}"
            );
            return Ok(None);
        }
    };
    if !plan.archive.may_need(id)? {
        return Err(Error::new(Kind::Refused, "a prune is removing this backup, or has removed it")
            .hint("choose another one: `walkeep list` names them"));
    }
    Ok(Some(announced))
}

/// A restore under way.
pub struct Run<'a> {
    pub options: &'a Options,
    pub plan: &'a Plan,
    pub recovery: &'a Recovery,
    /// Where each tablespace with a location goes.
    pub tablespaces: BTreeMap<u32, PathBuf>,
    pub chosen: Chosen,
    pub ownership: Ownership,
    /// Whether a disk did not take what was written before.
    disk_failed: AtomicBool,
}

impl<'a> Run<'a> {
    pub fn new(options: &'a Options, plan: &'a Plan, recovery: &'a Recovery) -> Result<Run<'a>> {
        Ok(Run {
            options,
            plan,
            recovery,
            tablespaces: map_tablespaces(options, &plan.record)?,
            chosen: Chosen::new(&options.databases, &plan.record)?,
            ownership: Ownership::new(),
            disk_failed: AtomicBool::new(false),
        })
    }

    /// Fails when the restore is to end.
    pub fn check(&self) -> Result<()> {
        if self.options.cancel.is_cancelled() {
            return Err(Error::new(Kind::Failed, "it was interrupted").hint("begin it again"));
        }
        match self.disk_failed.load(Ordering::Relaxed) {
            true => Err(Error::new(Kind::Failed, "the disk fails")),
            false => Ok(()),
        }
    }

    fn step(&self, step: &str) {
        progress::step(step);
    }

    /// The directories that are made: the data directory first.
    pub fn roots(&self) -> impl Iterator<Item = &Path> {
        std::iter::once(self.options.to.as_path()).chain(self.tablespaces.values().map(PathBuf::as_path))
    }

    /// Where a path of the manifest goes.
    pub fn place(&self, path: &[u8]) -> PathBuf {
        let moved = path.strip_prefix(b"pg_tblspc/").and_then(|below| {
            let (oid, rest) = match below.iter().position(|&b| b == b'/') {
                Some(slash) => (&below[..slash], &below[slash + 1..]),
                None => (below, &b""[..]),
            };
            let oid: u32 = std::str::from_utf8(oid).ok()?.parse().ok()?;
            let location = self.tablespaces.get(&oid)?;
            Some(if rest.is_empty() { location.clone() } else { location.join(OsStr::from_bytes(rest)) })
        });
        moved.unwrap_or_else(|| match path {
            b"" => self.options.to.clone(),
            _ => self.options.to.join(OsStr::from_bytes(path)),
        })
    }

    /// Whether a file of the manifest is wanted: a restored server must not begin with the signals of the old one.
    pub fn is_restored(&self, path: &[u8]) -> bool {
        !matches!(path, b"recovery.signal" | b"standby.signal")
    }

    fn run(&self) -> Result<Restored> {
        let to = &self.options.to;
        let mut lock = None;
        if to.is_dir() {
            lock = Some(Lock::wait_for(to, self.options.wait)?);
        }
        if self.options.delta {
            delta::check(self)?;
        } else {
            for root in self.roots() {
                check_empty(root)?;
            }
            for root in self.roots().filter(|root| root.join(RESTORING).exists()) {
                clear(root)?;
            }
        }
        self.rooms()?.iter().try_for_each(Room::check)?;
        for path in self.roots() {
            durable::create_dirs(Path::new("/"), path, 0o700)?;
        }
        if lock.is_none() {
            lock = Some(Lock::wait_for(to, self.options.wait)?);
        }
        // Before anything is written.
        let file_systems = self.file_systems()?;
        let over = if self.options.delta { delta::OVER } else { "" };
        for path in self.roots() {
            let text = format!("{}\n{over}\n", self.plan.record.id);
            durable::write_replacing(&path.join(RESTORING), text.as_bytes(), 0o600)?;
        }
        if self.options.delta {
            self.step("removing what the backup does not have");
            delta::clear(self)?;
        }

        self.step("restoring");
        self.options.progress.set(0, self.plan.record.size);
        let (writing, written) = bounded(0);
        let restored = std::thread::scope(|scope| {
            let flushing = scope.spawn(in_span(Span::current(), || self.flush(&file_systems, &written)));
            let restored = Writer::new(self).and_then(Writer::write);
            drop(writing);
            let flushed = flushing.join();
            let flushed =
                flushed.map_err(|_| Error::new(Kind::Failed, "the thread that flushes panicked"))?;
            // What the writers say then only follows from it.
            flushed.and(restored)
        })?;

        if !self.options.scratch {
            self.step("syncing");
            file_systems.iter().try_for_each(FileSystem::sync)?;
            self.roots().try_for_each(durable::sync_parent)?;
        }
        // From here on a server can start on it.
        restored.write_control(&self.ownership)?;
        for path in self.roots() {
            durable::remove_file(&path.join(RESTORING))?;
        }
        drop(lock);
        Ok(restored.report)
    }

    /// Those that the directories lie in; none when nothing is to be synced.
    fn file_systems(&self) -> Result<Vec<FileSystem>> {
        let mut found = BTreeMap::new();
        for path in self.roots().filter(|_| !self.options.scratch) {
            if let Entry::Vacant(place) = found.entry(device_of(path)?) {
                place.insert(FileSystem::of(path)?);
            }
        }
        Ok(found.into_values().collect())
    }

    /// Lets the disk work while the rest is being restored, until the channel is closed.
    fn flush(&self, file_systems: &[FileSystem], written: &Receiver<()>) -> Result<()> {
        while written.recv_timeout(FLUSH_EVERY) == Err(RecvTimeoutError::Timeout) {
            let flushed = file_systems.iter().try_for_each(FileSystem::sync);
            self.disk_failed.store(flushed.is_err(), Ordering::Relaxed);
            flushed?;
        }
        Ok(())
    }
}

/// Decides where each tablespace goes. Refuses mappings of nothing, and places that are in each other.
fn map_tablespaces(options: &Options, record: &Record) -> Result<BTreeMap<u32, PathBuf>> {
    let refused = |what: String| {
        Err(Error::new(Kind::Refused, what).hint("use --tablespace OLD=NEW, once for each tablespace"))
    };
    let mut unused: Vec<&(OsString, PathBuf)> = options.tablespaces.iter().collect();
    let mut map: BTreeMap<u32, PathBuf> = BTreeMap::new();
    for tablespace in &record.tablespaces {
        let Some(old) = &tablespace.tablespace.location else {
            continue;
        };
        let old = PathBuf::from(OsString::from_vec(old.0.clone()));
        let oid = tablespace.tablespace.oid;
        let is_it = |what: &OsStr| what == oid.to_string().as_str() || Path::new(what) == old;
        let mut wanted = options.tablespaces.iter().filter(|(what, _)| is_it(what)).map(|(_, new)| new);
        let new = wanted.next();
        if wanted.any(|other| Some(other) != new) {
            return refused(format!("tablespace {oid} cannot go to two places"));
        }
        unused.retain(|(what, _)| !is_it(what));
        map.insert(oid, new.cloned().unwrap_or(old));
    }
    if let Some((what, _)) = unused.first() {
        return refused(format!("the backup has no tablespace {}", Path::new(what).display()));
    }
    let mut places: Vec<PathBuf> = Vec::new();
    for place in std::iter::once(&options.to).chain(map.values()) {
        if !place.is_absolute() || place.components().any(|part| part == Component::ParentDir) {
            return refused(format!("{} is not a path from the root without `..`", place.display()));
        }
        // What is there already may be reached through links.
        let there = existing(place);
        let real = std::fs::canonicalize(there).doing(|| format!("look at {}", there.display()))?;
        let real = real.join(place.strip_prefix(there).unwrap_or(Path::new("")));
        if let Some(other) = places.iter().find(|other| real.starts_with(other) || other.starts_with(&real)) {
            return refused(format!("{} and {} are in each other", real.display(), other.display()));
        }
        places.push(real);
    }
    Ok(map)
}

/// Refuses a directory that has anything in it, unless a restore that did not finish left it.
fn check_empty(path: &Path) -> Result<()> {
    let entries = match std::fs::read_dir(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        entries => entries.doing(|| format!("look at {}", path.display()))?,
    };
    let mut names = Vec::new();
    for entry in entries {
        names.push(entry.doing(|| format!("look at {}", path.display()))?.file_name());
    }
    if names.iter().any(|name| name == RESTORING) {
        let marker = path.join(RESTORING);
        // What is not known to be a restore's own is not emptied.
        let text = std::fs::read_to_string(&marker).doing(|| format!("read {}", marker.display()))?;
        return match text.contains(delta::OVER) {
            false => Ok(()),
            true => Err(Error::new(
                Kind::Refused,
                format!("a restore over {} has begun and did not finish", path.display()),
            )
            .hint("finish it with --delta, or give an empty directory")),
        };
    }
    if names.iter().any(|name| name == "postmaster.pid") {
        return Err(Error::new(
            Kind::Refused,
            format!("{} is the data directory of a server that runs, or was killed", path.display()),
        )
        .hint("stop the server, and restore into another directory, or over this one with --delta"));
    }
    match names.into_iter().find(|name| name != "lost+found") {
        None => Ok(()),
        Some(name) => Err(Error::new(
            Kind::Refused,
            format!("{} is not empty: there is {}", path.display(), name.display()),
        )
        .hint(
            "give a directory that is empty or not there, or restore over the same cluster with --delta; a tablespace is moved with --tablespace OLD=NEW",
        )),
    }
}

/// Removes what an unfinished restore left; the marker goes last.
fn clear(path: &Path) -> Result<()> {
    let entries = std::fs::read_dir(path).doing(|| format!("look at {}", path.display()))?;
    for entry in entries {
        let entry = entry.doing(|| format!("look at {}", path.display()))?;
        let doing = || format!("remove {}", entry.path().display());
        let name = entry.file_name();
        if name == RESTORING || name == "lost+found" {
            continue;
        }
        match entry.file_type().doing(doing)?.is_dir() {
            true => std::fs::remove_dir_all(entry.path()).doing(doing)?,
            false => std::fs::remove_file(entry.path()).doing(doing)?,
        }
    }
    durable::remove_file(&path.join(RESTORING))
}

/// The path itself, or the nearest directory above it that exists.
pub fn existing(path: &Path) -> &Path {
    path.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"))
}

pub fn device_of(path: &Path) -> Result<u64> {
    Ok(path.metadata().doing(|| format!("look at {}", path.display()))?.dev())
}
