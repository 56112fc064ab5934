//! A restore from beginning to end.

use super::files::{Ownership, Target as FileTarget, Writing, create, set_mode};
use super::plan::Plan;
use super::recovery::Recovery;
use crate::codec::hash::ContentHash;
use crate::durable;
use crate::error::{Doing, Error, Kind, Result};
use crate::event::{Event, Observer};
use crate::pg::control::Control;
use crate::pg::label::{TablespaceLink, format_tablespace_map, parse_tablespace_map};
use crate::pg::manifest::{ManifestFile, ManifestWriter};
use crate::pg::segment::{TimelineId, WalName};
use crate::repo::lock::Lock;
use crate::repo::manifest::{self, Dir, Entry, File, Part};
use crate::repo::record::Record;
use std::collections::{BTreeMap, HashMap};
use std::ffi::OsStr;
use std::io::{BufWriter, Write};
use std::num::NonZeroUsize;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// Stands in a directory that is being restored, and goes when it is finished.
const MARKER: &str = "walkeep.restoring";

/// Files of the backed up server that a restored one must not begin with.
const NOT_RESTORED: [&[u8]; 2] = [b"recovery.signal", b"standby.signal"];

const CONTROL: &[u8] = b"global/pg_control";
const MAP: &[u8] = b"tablespace_map";

/// How often what was written is sent to the disk, so that the sync at the end has little left to do.
const FLUSH_EVERY: Duration = Duration::from_millis(200);

pub struct Options {
    /// The new data directory; absolute.
    pub to: PathBuf,
    /// New places of tablespaces, by OID or old location.
    pub tablespaces: Vec<(String, PathBuf)>,
    /// Where configuration files from outside the data directory go.
    pub config_dir: Option<PathBuf>,
    pub jobs: NonZeroUsize,
    /// For how long to wait for another restore into the same directory.
    pub wait: Duration,
}

/// What was done.
#[derive(Debug)]
pub struct Restored {
    pub bytes: u64,
    pub files: u64,
    /// Where each tablespace is now.
    pub tablespaces: Vec<(u32, PathBuf)>,
    /// Configuration files that the backup has and that were not written.
    pub config_left: Vec<String>,
}

/// Restores the backup of the plan.
pub fn run(options: &Options, plan: &Plan, recovery: &Recovery, observer: &dyn Observer) -> Result<Restored> {
    let doing = || format!("restore backup {} into {}", plan.record.id, options.to.display());
    let tablespaces = map_tablespaces(options, &plan.record).doing(doing)?;
    let run = Run {
        options,
        plan,
        recovery,
        observer,
        tablespaces,
        ownership: Ownership::new(),
        done: AtomicU64::new(0),
    };
    run.run().doing(doing)
}

struct Run<'a> {
    options: &'a Options,
    plan: &'a Plan,
    recovery: &'a Recovery,
    observer: &'a dyn Observer,
    /// Where each tablespace with a location goes.
    tablespaces: BTreeMap<u32, PathBuf>,
    ownership: Ownership,
    done: AtomicU64,
}

impl Run<'_> {
    fn step(&self, step: &str) {
        self.observer.event(Event::Step(step));
    }

    /// The directories that are made: the data directory first.
    fn roots(&self) -> impl Iterator<Item = &Path> {
        std::iter::once(self.options.to.as_path()).chain(self.tablespaces.values().map(PathBuf::as_path))
    }

    fn run(&self) -> Result<Restored> {
        let to = &self.options.to;
        let mut lock = None;
        if to.is_dir() {
            lock = Some(Lock::wait_for(to, self.options.wait)?);
        }
        for root in self.roots() {
            check_empty(root)?;
        }
        for root in self.roots().filter(|root| root.join(MARKER).exists()) {
            clear(root)?;
        }
        self.check_space()?;
        for path in self.roots() {
            durable::create_dirs(Path::new("/"), path, 0o700)?;
        }
        if lock.is_none() {
            lock = Some(Lock::wait_for(to, self.options.wait)?);
        }
        for path in self.roots() {
            let marker = path.join(MARKER);
            durable::write_replacing(&marker, format!("{}\n", self.plan.record.id).as_bytes(), 0o600)?;
        }

        self.step("restoring");
        let over = AtomicBool::new(false);
        let restored = std::thread::scope(|scope| {
            scope.spawn(|| self.report(&over));
            scope.spawn(|| self.flush(&over));
            let restored = Writer::new(self).and_then(Writer::write);
            over.store(true, Ordering::Relaxed);
            restored
        })?;

        self.step("syncing");
        let mut synced = Vec::new();
        for path in self.roots() {
            let device = device_of(path)?;
            if !synced.contains(&device) {
                durable::sync_file_system(path)?;
                synced.push(device);
            }
            durable::sync_parent(path)?;
        }
        // From here on a server can start on it.
        restored.write_control(&self.ownership)?;
        for path in self.roots() {
            durable::remove_file(&path.join(MARKER))?;
        }
        drop(lock);
        Ok(restored.report)
    }

    /// Refuses when a file system has not enough room for what goes into it.
    fn check_space(&self) -> Result<()> {
        let record = &self.plan.record;
        let mut needed: HashMap<u64, (u64, &Path)> = HashMap::new();
        let mut add = |path, bytes| -> Result<()> {
            let device = device_of(existing(path))?;
            needed.entry(device).or_insert((0, path)).0 += bytes;
            Ok(())
        };
        let mut elsewhere = 0;
        for tablespace in &record.tablespaces {
            if let Some(path) = self.tablespaces.get(&tablespace.tablespace.oid) {
                add(path, tablespace.size)?;
                elsewhere += tablespace.size;
            }
        }
        let segments =
            record.wal.last.number(record.segment_size) + 1 - record.wal.first.number(record.segment_size);
        let wal = segments * record.segment_size.bytes();
        add(&self.options.to, record.size.saturating_sub(elsewhere) + wal)?;
        for (bytes, path) in needed.into_values() {
            let there = existing(path);
            let stat = rustix::fs::statvfs(there).map_err(|e| {
                Error::io(format!("look at the file system of {}", there.display()), &e.into())
            })?;
            let free = stat.f_bavail * stat.f_frsize;
            if free < bytes {
                return Err(Error::new(
                    Kind::Full,
                    format!("{} has {free} bytes free, {bytes} are needed", there.display()),
                )
                .hint("make room, choose another directory, or move tablespaces with --tablespace OLD=NEW"));
            }
        }
        Ok(())
    }

    fn report(&self, over: &AtomicBool) {
        let total = self.plan.record.size;
        while !over.load(Ordering::Relaxed) {
            let done = self.done.load(Ordering::Relaxed).min(total);
            self.observer.event(Event::Progress { done, total });
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Lets the disk work while the rest is being restored. What fails here fails again at the end.
    fn flush(&self, over: &AtomicBool) {
        while !over.load(Ordering::Relaxed) {
            std::thread::sleep(FLUSH_EVERY);
            for path in self.roots() {
                let _ = durable::sync_file_system(path);
            }
        }
    }
}

/// Writes what the manifest names, part by part.
struct Writer<'a> {
    run: &'a Run<'a>,
    manifest: ManifestWriter<BufWriter<std::fs::File>>,
    /// Directories whose mode would be in the way of writing into them.
    modes: Vec<(PathBuf, u32)>,
    /// Lines for `backup_manifest` of files that are not restored as they were.
    control: Option<File>,
    map: Option<File>,
    root: Option<Dir>,
    report: Restored,
}

/// A directory that needs nothing any more but its control file.
struct Finished {
    path: PathBuf,
    control: Control,
    file: File,
    report: Restored,
}

impl Finished {
    /// The last file: without it no server starts.
    fn write_control(&self, ownership: &Ownership) -> Result<()> {
        durable::write_replacing(&self.path, self.control.bytes(), self.file.mode)?;
        ownership.give(&self.path, &self.file.owner)?;
        set_mode(&self.path, self.file.mode)
    }
}

impl<'a> Writer<'a> {
    fn new(run: &'a Run<'a>) -> Result<Writer<'a>> {
        let path = run.options.to.join("backup_manifest");
        let file = BufWriter::new(create(&path)?);
        let record = &run.plan.record;
        let major = run.plan.archive.lineage().major;
        let manifest = ManifestWriter::new(file, major, record.system_identifier)
            .doing(|| format!("write {}", path.display()))?;
        let report = Restored { bytes: 0, files: 0, tablespaces: Vec::new(), config_left: Vec::new() };
        Ok(Writer { run, manifest, modes: Vec::new(), control: None, map: None, root: None, report })
    }

    fn write(mut self) -> Result<Finished> {
        let plan = self.run.plan;
        manifest::read(&plan.archive, &plan.record, |part| self.part(&part))?;
        let control = self.take_control()?;
        let to = &self.run.options.to;
        let settings = to.join("postgresql.auto.conf");
        self.rewrite(&settings, |old| Ok(self.run.recovery.rewrite(plan, old)))?;
        if let Some(file) = self.map.take() {
            let new = self.rewrite(&to.join("tablespace_map"), |old| self.remap(old))?;
            self.line(&file, new.len() as u64, &ContentHash::of(&new).to_string())?;
        }
        self.link_tablespaces()?;
        self.fetch_wal()?;
        let signal = to.join(self.run.recovery.signal());
        create(&signal)?;
        self.own(&signal)?;
        for (path, mode) in std::mem::take(&mut self.modes) {
            set_mode(&path, mode)?;
        }
        let (control, file) = control;
        let hash = ContentHash::of(control.bytes()).to_string();
        self.line(&file, control.bytes().len() as u64, &hash)?;
        let record = &plan.record;
        let path = to.join("backup_manifest");
        let doing = || format!("write {}", path.display());
        let wal = [(record.timeline, record.start_lsn, record.stop_lsn)];
        self.manifest.finish(&wal).and_then(|mut out| out.flush()).doing(doing)?;
        if let Some(root) = &self.root {
            self.run.ownership.give(&path, &root.owner)?;
        }
        Ok(Finished { path: to.join("global/pg_control"), control, file, report: self.report })
    }

    /// Where a path of the manifest goes.
    fn place(&self, path: &[u8]) -> PathBuf {
        let moved = path.strip_prefix(b"pg_tblspc/").and_then(|below| {
            let (oid, rest) = match below.iter().position(|&b| b == b'/') {
                Some(slash) => (&below[..slash], &below[slash + 1..]),
                None => (below, &b""[..]),
            };
            let oid: u32 = std::str::from_utf8(oid).ok()?.parse().ok()?;
            let location = self.run.tablespaces.get(&oid)?;
            Some(if rest.is_empty() { location.clone() } else { location.join(OsStr::from_bytes(rest)) })
        });
        moved.unwrap_or_else(|| match path {
            b"" => self.run.options.to.clone(),
            _ => self.run.options.to.join(OsStr::from_bytes(path)),
        })
    }

    fn part(&mut self, part: &Part) -> Result<()> {
        let mut targets = Vec::new();
        for entry in &part.entries {
            match entry {
                Entry::Dir(dir) => self.dir(dir)?,
                Entry::Tablespace(_) => {}
                Entry::File(file) if NOT_RESTORED.contains(&&file.path.0[..]) => {}
                Entry::File(file) => {
                    let mut path = self.place(&file.path.0);
                    match &file.path.0[..] {
                        CONTROL => {
                            path.set_extension("walkeep");
                            self.control = Some(file.clone());
                        }
                        MAP => self.map = Some(file.clone()),
                        _ => self.line(file, file.size, &file.sha256.to_string())?,
                    }
                    self.report.files += 1;
                    self.report.bytes += file.size;
                    targets.push(FileTarget { path, stored: file });
                }
                Entry::Config(file) => match self.config_place(file)? {
                    Some(path) => targets.push(FileTarget { path, stored: file }),
                    None => self.report.config_left.push(file.path.display().into_owned()),
                },
            }
        }
        let run = self.run;
        let writing = Writing {
            archive: &run.plan.archive,
            packs: &part.packs,
            targets: &targets,
            ownership: &run.ownership,
            jobs: run.options.jobs,
            done: &run.done,
        };
        writing.run()
    }

    fn dir(&mut self, dir: &Dir) -> Result<()> {
        let path = self.place(&dir.path.0);
        if dir.path.0.is_empty() {
            self.run.ownership.check(&dir.owner)?;
            if let Some(user) = self.run.ownership.keeper(&dir.owner) {
                self.run.observer.event(Event::Warning(
                    &Error::new(
                        Kind::Problem,
                        format!(
                            "the cluster belonged to {}, what is restored belongs to {user}",
                            dir.owner.owner
                        ),
                    )
                    .hint("the server has to run as the owner of its files: restore as root or as that user"),
                ));
            }
            self.root = Some(dir.clone());
        }
        let is_root = self.run.roots().any(|root| root == path);
        if !is_root {
            std::fs::DirBuilder::new()
                .mode(0o700)
                .create(&path)
                .doing(|| format!("create directory {}", path.display()))?;
        }
        self.run.ownership.give(&path, &dir.owner)?;
        self.modes.push((path, dir.mode));
        Ok(())
    }

    /// The configuration keeps its layout: relative to the directory of `postgresql.conf` where it lay there.
    fn config_place(&self, file: &File) -> Result<Option<PathBuf>> {
        let Some(directory) = &self.run.options.config_dir else {
            return Ok(None);
        };
        let path = file.path.as_path();
        let base = Path::new(&self.run.plan.record.settings.config_file).parent();
        let relative = base.and_then(|base| path.strip_prefix(base).ok());
        let relative = relative.unwrap_or_else(|| path.strip_prefix("/").unwrap_or(path));
        let place = directory.join(relative);
        let parent = place.parent().unwrap_or(directory);
        durable::create_dirs(Path::new("/"), parent, 0o750)?;
        Ok(Some(place))
    }

    /// A line of `backup_manifest`.
    fn line(&mut self, file: &File, size: u64, sha256: &str) -> Result<()> {
        let line = ManifestFile { path: &file.path.0, size, modified: file.modified, sha256 };
        self.manifest.file(&line).doing(|| "write backup_manifest".to_owned())
    }

    /// Takes the control file away from under its temporary name. The restored one has no checkpoint, so that a
    /// server finds its start in the backup label or nowhere.
    fn take_control(&mut self) -> Result<(Control, File)> {
        let missing = || Error::new(Kind::Damage, "the backup has no global/pg_control");
        let file = self.control.take().ok_or_else(missing)?;
        let mut path = self.place(CONTROL);
        path.set_extension("walkeep");
        let bytes = std::fs::read(&path).doing(|| format!("read {}", path.display()))?;
        let control = Control::parse(bytes)?;
        durable::remove_file(&path)?;
        if control.system_identifier() != self.run.plan.record.system_identifier {
            return Err(Error::new(Kind::Damage, "global/pg_control is of another cluster"));
        }
        Ok((control.without_checkpoint(), file))
    }

    /// Replaces a small file by what a function makes of it.
    fn rewrite(&self, path: &Path, change: impl Fn(&[u8]) -> Result<Vec<u8>>) -> Result<Vec<u8>> {
        let old = match std::fs::read(path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Vec::new(),
            old => old.doing(|| format!("read {}", path.display()))?,
        };
        let new = change(&old)?;
        durable::write_replacing(path, &new, 0o600)?;
        self.own(path)?;
        Ok(new)
    }

    fn own(&self, path: &Path) -> Result<()> {
        self.root.as_ref().map_or(Ok(()), |root| self.run.ownership.give(path, &root.owner))
    }

    /// The map with the new locations: recovery makes the links from it, so a map with the old ones would lead
    /// into the directories of the old cluster.
    fn remap(&self, old: &[u8]) -> Result<Vec<u8>> {
        let mut links: Vec<TablespaceLink> = parse_tablespace_map(old)?;
        for link in &mut links {
            let location = self.run.tablespaces.get(&link.oid).ok_or_else(|| {
                Error::new(
                    Kind::Damage,
                    format!("tablespace_map names tablespace {}, the record does not", link.oid),
                )
            })?;
            link.location = location.as_os_str().as_bytes().to_vec();
        }
        Ok(format_tablespace_map(&links))
    }

    fn link_tablespaces(&mut self) -> Result<()> {
        for (oid, location) in &self.run.tablespaces {
            let link = self.run.options.to.join("pg_tblspc").join(oid.to_string());
            std::os::unix::fs::symlink(location, &link).doing(|| format!("link {}", link.display()))?;
            self.own(&link)?;
            self.report.tablespaces.push((*oid, location.clone()));
        }
        Ok(())
    }

    /// Puts the WAL that makes the backup consistent into `pg_wal`: `pg_verifybackup` looks for it there, and
    /// it proves that the archive delivers. Recovery asks for the same files again.
    fn fetch_wal(&self) -> Result<()> {
        let plan = self.run.plan;
        let size = plan.record.segment_size;
        let mut name = plan.record.wal.first;
        while name <= plan.record.wal.last {
            let path = self.run.options.to.join("pg_wal").join(name.to_string());
            self.fetch(WalName::Segment(name), &path)?;
            name = name.next(size);
        }
        let timeline = plan.record.timeline;
        if timeline > TimelineId(1) {
            let history = WalName::History(timeline);
            self.fetch(history, &self.run.options.to.join("pg_wal").join(history.to_string()))?;
        }
        Ok(())
    }

    fn fetch(&self, name: WalName, path: &Path) -> Result<()> {
        let doing = || format!("fetch {name}");
        let missing = || Error::new(Kind::Hole, "it is not in the repository").doing(doing());
        let stored = self.run.plan.archive.get_wal(name)?.ok_or_else(missing)?;
        let mut file = create(path)?;
        stored
            .read(|piece| file.write_all(piece).doing(|| format!("write {}", path.display())))
            .doing(doing)?;
        self.own(path)
    }
}

/// Decides where each tablespace goes. Refuses mappings of nothing, and places that are in each other.
fn map_tablespaces(options: &Options, record: &Record) -> Result<BTreeMap<u32, PathBuf>> {
    let mut unused: Vec<&(String, PathBuf)> = options.tablespaces.iter().collect();
    let mut map: BTreeMap<u32, PathBuf> = BTreeMap::new();
    for tablespace in &record.tablespaces {
        let Some(old) = &tablespace.tablespace.location else {
            continue;
        };
        let old = PathBuf::from(std::ffi::OsString::from_vec(old.0.clone()));
        let oid = tablespace.tablespace.oid;
        let is_it = |what: &str| what == oid.to_string() || Path::new(what) == old;
        let new = options.tablespaces.iter().find(|(what, _)| is_it(what)).map(|(_, new)| new.clone());
        unused.retain(|(what, _)| !is_it(what));
        map.insert(oid, new.unwrap_or(old));
    }
    let refused = |what: String| {
        Err(Error::new(Kind::Refused, what).hint("use --tablespace OLD=NEW, once for each tablespace"))
    };
    if let Some((what, _)) = unused.first() {
        return refused(format!("the backup has no tablespace {what}"));
    }
    let places: Vec<&Path> =
        std::iter::once(options.to.as_path()).chain(map.values().map(PathBuf::as_path)).collect();
    for (index, one) in places.iter().enumerate() {
        if !one.is_absolute() {
            return refused(format!("{} is not absolute", one.display()));
        }
        for other in places.iter().skip(index + 1) {
            if one.starts_with(other) || other.starts_with(one) {
                return refused(format!("{} and {} are in each other", one.display(), other.display()));
            }
        }
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
    if names.iter().any(|name| name == MARKER) {
        return Ok(());
    }
    if names.iter().any(|name| name == "postmaster.pid") {
        return Err(Error::new(
            Kind::Refused,
            format!("{} is the data directory of a server that runs, or was killed", path.display()),
        )
        .hint("stop the server, and restore into another directory: nothing is replaced"));
    }
    match names.into_iter().find(|name| name != "lost+found") {
        None => Ok(()),
        Some(name) => Err(Error::new(
            Kind::Refused,
            format!("{} is not empty: there is {}", path.display(), name.display()),
        )
        .hint(
            "give a directory that is empty or not there; a tablespace is moved with --tablespace OLD=NEW",
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
        if name == MARKER || name == "lost+found" {
            continue;
        }
        match entry.file_type().doing(doing)?.is_dir() {
            true => std::fs::remove_dir_all(entry.path()).doing(doing)?,
            false => std::fs::remove_file(entry.path()).doing(doing)?,
        }
    }
    durable::remove_file(&path.join(MARKER))
}

/// The path itself, or the nearest directory above it that exists.
fn existing(path: &Path) -> &Path {
    path.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"))
}

fn device_of(path: &Path) -> Result<u64> {
    Ok(path.metadata().doing(|| format!("look at {}", path.display()))?.dev())
}
