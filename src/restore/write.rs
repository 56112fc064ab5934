//! Writes the files of the manifest, and the other files of a restored cluster: the settings, the
//! signal file, the WAL of the backup, `backup_manifest`. The control file is written last, by the
//! caller.

use super::files::FileWriting;
use super::job::RestoreJob;
use super::layout::TargetFile;
use super::options::Restored;
use super::partial::make_empty;
use super::target::{CONTROL, MAX_CONTROL_SIZE, Place};
use crate::error::{Doing, Error, Kind, Result};
use crate::fs::folder::Rights;
use crate::pg::control::Control;
use crate::pg::label::{TablespaceLink, format_tablespace_map, parse_tablespace_map};
use crate::pg::manifest::{ManifestFile, ManifestWriter};
use crate::pg::segment::{TimelineId, WalName};
use crate::repo::entry::{Dir, Entry, FileEntry};
use crate::repo::manifest::{self, Part};
use std::ffi::OsStr;
use std::io::{BufWriter, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

const MAP: &[u8] = b"tablespace_map";

/// Path of the control file in a restore that has not ended.
const UNFINISHED_CONTROL: &str = "global/pg_control.walkeep";

/// Maximum size in bytes of a file that is changed while it is restored.
const MAX_CHANGED: u64 = 64 << 20;

/// Writes a cluster, part by part of the manifest.
pub(super) struct ClusterWriter<'a> {
    job: &'a RestoreJob<'a>,
    manifest: ManifestWriter<BufWriter<std::fs::File>>,
    /// Modes of directories, which are set last: a mode may forbid writing into its directory.
    modes: Vec<(Place, u32)>,
    /// Entries of files that are changed before `backup_manifest` lists them.
    control: Option<FileEntry>,
    map: Option<FileEntry>,
    report: Restored,
}

/// A restored cluster that lacks only its control file.
pub(super) struct UnfinishedCluster {
    control: Control,
    rights: Rights,
    pub report: Restored,
}

impl UnfinishedCluster {
    /// Writes the control file, without which no server starts.
    pub fn write_control(&self, job: &RestoreJob<'_>) -> Result<()> {
        let place = Path::new(OsStr::from_bytes(CONTROL));
        let data = job.data.folder()?;
        data.at(place, |folder, name| folder.put(name, self.control.bytes(), &self.rights))
    }
}

impl<'a> ClusterWriter<'a> {
    pub fn new(job: &'a RestoreJob<'a>) -> Result<ClusterWriter<'a>> {
        let data = job.data.folder()?;
        let file = BufWriter::new(data.create("backup_manifest", &job.ownership()?.own())?);
        let record = &job.plan.record;
        let major = job.plan.archive.lineage().major;
        let manifest = ManifestWriter::new(file, major, record.system_identifier)
            .doing(|| format!("write {}", data.path().join("backup_manifest").display()))?;
        let report = Restored {
            data: data.again()?,
            bytes: 0,
            files: 0,
            kept: 0,
            left_out: job.chosen.left_out(record),
            tablespaces: Vec::new(),
            config_left: Vec::new(),
            announced: None,
        };
        Ok(ClusterWriter { job, manifest, modes: Vec::new(), control: None, map: None, report })
    }

    /// Writes everything except for the control file.
    pub fn write(mut self) -> Result<UnfinishedCluster> {
        let (job, plan) = (self.job, self.job.plan);
        let (data, own) = (job.data.folder()?, job.ownership()?.own());
        if let Some(waldir) = &job.waldir {
            data.make_link(&waldir.path, "pg_wal", &own)?;
        }
        manifest::read(&plan.archive, &plan.record, |part| self.part(&part))?;
        let (control, file) = self.take_control()?;
        self.rewrite("postgresql.auto.conf", |old| Ok(job.recovery.rewrite(plan, &job.settings, old)))?;
        if let Some(file) = self.map.take() {
            let new = self.rewrite("tablespace_map", |old| self.remap(old))?;
            self.line(&file, new.len() as u64, Some(crc32c::crc32c(&new)))?;
        }
        self.link_tablespaces()?;
        job.new_tablespaces.values().try_for_each(|target| target.make(&own))?;
        self.fetch_wal()?;
        data.create(job.recovery.signal(), &own)?;
        for (place, mode) in std::mem::take(&mut self.modes) {
            let root = job.folder(place.role)?;
            let folder = root.folder(&place.below)?.ok_or_else(|| {
                let path = root.path().join(&place.below);
                Error::new(Kind::Absent, format!("another process removed directory {}", path.display()))
            })?;
            folder.set_rights(&job.ownership()?.directory(mode))?;
        }
        let crc32c = Some(crc32c::crc32c(control.bytes()));
        self.line(&file, control.bytes().len() as u64, crc32c)?;
        let record = &plan.record;
        let doing = || format!("write {}", data.path().join("backup_manifest").display());
        let wal = [(record.timeline, record.start_lsn, record.stop_lsn)];
        self.manifest.finish(&wal).and_then(|mut out| out.flush()).doing(doing)?;
        Ok(UnfinishedCluster { control, rights: job.ownership()?.file(&file), report: self.report })
    }

    fn part(&mut self, part: &Part) -> Result<()> {
        let job = self.job;
        let mut targets = Vec::new();
        for entry in &part.entries {
            match entry {
                Entry::Dir(dir) => self.dir(dir)?,
                Entry::Tablespace(_) => {}
                Entry::File(file) if !job.is_restored(&file.path.0) => {}
                Entry::File(file) => {
                    self.report.files += 1;
                    let is_empty = job.chosen.leaves_out(&file.path.0);
                    match &file.path.0[..] {
                        CONTROL => self.control = Some(file.clone()),
                        MAP => self.map = Some(file.clone()),
                        _ => {}
                    }
                    let target = self.target(file)?;
                    if is_empty {
                        make_empty(&target)?;
                        self.line(file, file.size, None)?;
                    } else {
                        self.report.bytes += file.size;
                        targets.push(target);
                    }
                }
                Entry::Config(file) => match job.config_place(file) {
                    Some(place) => targets.push(self.config(file, place)?),
                    None => self.report.config_left.push(file.path.display().into_owned()),
                },
            }
        }
        let writing = FileWriting {
            archive: &job.plan.archive,
            packs: &part.packs,
            targets: &targets,
            ownership: job.ownership()?,
            jobs: job.options.jobs,
            delta: job.options.delta,
            scratch: job.options.scratch,
            progress: &job.options.progress,
            check: &|| job.check(),
        };
        let written = writing.run()?;
        self.report.kept += written.kept;
        for (target, sum) in targets.iter().zip(written.sums) {
            if target.listed {
                self.line(target.stored, target.stored.size, sum)?;
            }
        }
        Ok(())
    }

    /// Returns the file that an entry becomes. The control file gets a temporary name.
    fn target<'f>(&self, file: &'f FileEntry) -> Result<TargetFile<'f>>
    where
        'a: 'f,
    {
        let job = self.job;
        let mut place = job.place(&file.path.0);
        if file.path.0 == CONTROL {
            place.below = PathBuf::from(UNFINISHED_CONTROL);
        }
        let (folder, path) = (job.folder(place.role)?, job.path(&place)?);
        // The control file and the tablespace map are listed after they have been changed.
        let listed = !matches!(&file.path.0[..], CONTROL | MAP);
        let rights = job.ownership()?.file(file);
        Ok(TargetFile { folder, below: place.below, path, rights, stored: file, listed })
    }

    /// Returns the file that a configuration file from outside becomes, and creates its directory.
    fn config<'f>(&self, file: &'f FileEntry, place: Place) -> Result<TargetFile<'f>>
    where
        'a: 'f,
    {
        let (job, ownership) = (self.job, self.job.ownership()?);
        let shared = Rights { folder: 0o750, ..ownership.own() };
        job.config.iter().try_for_each(|config| config.make(&shared))?;
        let (folder, path) = (job.folder(place.role)?, job.path(&place)?);
        if let Some(parent) = place.below.parent() {
            folder.make(parent, &shared)?;
        }
        let rights = ownership.config(file);
        let target = TargetFile { folder, below: place.below, path, rights, stored: file, listed: false };
        if job.resumes_config {
            target.remove()?;
        }
        Ok(target)
    }

    fn dir(&mut self, dir: &Dir) -> Result<()> {
        let job = self.job;
        let place = job.place(&dir.path.0);
        let rights = job.ownership()?.directory(0);
        let root = job.folder(place.role)?;
        if place.below.as_os_str().is_empty() {
            root.set_rights(&rights)?;
        } else {
            root.at(&place.below, |parent, name| {
                match parent.folder(Path::new(name))?.filter(|_| job.options.delta) {
                    Some(existing) => existing.set_rights(&rights),
                    None => parent.make_folder(name, &rights).map(drop),
                }
            })?;
        }
        self.modes.push((place, dir.mode));
        Ok(())
    }

    /// Writes a line of `backup_manifest`.
    fn line(&mut self, file: &FileEntry, size: u64, crc32c: Option<u32>) -> Result<()> {
        let line = ManifestFile { path: &file.path.0, size, modified: file.modified, crc32c };
        self.manifest.file(&line).doing("write backup_manifest")
    }

    /// Reads and removes the control file, which has a temporary name. The restored control file
    /// has no checkpoint, so that a server can start only from the backup label.
    fn take_control(&mut self) -> Result<(Control, FileEntry)> {
        let missing = || Error::new(Kind::Damage, "the backup has no global/pg_control");
        let file = self.control.take().ok_or_else(missing)?;
        let (data, below) = (self.job.data.folder()?, Path::new(UNFINISHED_CONTROL));
        let bytes = data.read(below, MAX_CONTROL_SIZE)?.ok_or_else(missing)?;
        let control = Control::parse(bytes)?;
        data.at(below, |folder, name| {
            folder.remove(name)?;
            folder.sync()
        })?;
        if control.system_identifier() != self.job.plan.record.system_identifier {
            return Err(Error::new(Kind::Damage, "global/pg_control belongs to another cluster"));
        }
        Ok((control.without_checkpoint(), file))
    }

    /// Replaces the content of a small file of the data directory with the result of `change`, and
    /// returns the new content. A missing file counts as empty.
    fn rewrite(&self, name: &str, change: impl Fn(&[u8]) -> Result<Vec<u8>>) -> Result<Vec<u8>> {
        let data = self.job.data.folder()?;
        let old = data.read(Path::new(name), MAX_CHANGED)?.unwrap_or_default();
        let new = change(&old)?;
        data.put(name, &new, &self.job.ownership()?.own())?;
        Ok(new)
    }

    /// Returns the tablespace map with the new locations. Recovery creates the links from it, so
    /// old locations would lead into the directories of the old cluster. A tablespace that was
    /// dropped after the backup began may be in the map and not in the backup: the WAL drops it
    /// again.
    fn remap(&self, old: &[u8]) -> Result<Vec<u8>> {
        let moved = |link: TablespaceLink| {
            let location = self.job.tablespaces.get(&link.oid)?.path.as_os_str().as_bytes().to_vec();
            Some(TablespaceLink { location, ..link })
        };
        let links: Vec<TablespaceLink> = parse_tablespace_map(old)?.into_iter().filter_map(moved).collect();
        Ok(format_tablespace_map(&links))
    }

    fn link_tablespaces(&mut self) -> Result<()> {
        let own = self.job.ownership()?.own();
        let Some(links) = self.job.data.folder()?.folder(Path::new("pg_tblspc"))? else {
            return Err(Error::new(Kind::Damage, "the backup has no directory pg_tblspc"));
        };
        for (oid, target) in &self.job.tablespaces {
            links.make_link(&target.path, oid.to_string(), &own)?;
            self.report.tablespaces.push((*oid, target.path.clone()));
        }
        Ok(())
    }

    /// Writes the WAL that makes the backup consistent into `pg_wal`, where `pg_verifybackup` looks
    /// for it. This also proves that the archive has this WAL. Recovery fetches these files again.
    fn fetch_wal(&self) -> Result<()> {
        let plan = self.job.plan;
        let size = plan.record.segment_size;
        let mut name = plan.record.wal.first;
        while name <= plan.record.wal.last {
            self.job.check()?;
            self.fetch(WalName::Segment(name))?;
            name = name.next(size);
        }
        let timeline = plan.record.timeline;
        if timeline > TimelineId(1) { self.fetch(WalName::History(timeline)) } else { Ok(()) }
    }

    fn fetch(&self, name: WalName) -> Result<()> {
        let doing = || format!("fetch {name}");
        let missing = || Error::new(Kind::Hole, "it is not in the repository").doing(doing());
        let stored = self.job.plan.archive.get_wal(name)?.ok_or_else(missing)?;
        let place = self.job.place(format!("pg_wal/{name}").as_bytes());
        let folder = self.job.folder(place.role)?;
        let file = folder.create_at(&place.below, &self.job.ownership()?.own())?;
        stored
            .read(|piece, offset| {
                let path = folder.path().join(&place.below);
                file.write_all_at(piece, offset).doing(|| format!("write {}", path.display()))
            })
            .doing(doing)?;
        Ok(())
    }
}
