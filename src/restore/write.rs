//! Writes the files of the manifest, and the other files of a restored cluster: the settings, the
//! signal file, the WAL of the backup, `backup_manifest`. The control file is written last, by the
//! caller.

use super::create::{create, set_mode};
use super::files::FileWriting;
use super::job::RestoreJob;
use super::layout::TargetFile;
use super::options::Restored;
use super::owner::Ownership;
use super::partial::make_empty;
use crate::error::{Doing, Error, Kind, Result};
use crate::fs::{durable, folder};
use crate::pg::control::Control;
use crate::pg::label::{TablespaceLink, format_tablespace_map, parse_tablespace_map};
use crate::pg::manifest::{ManifestFile, ManifestWriter};
use crate::pg::segment::{TimelineId, WalName};
use crate::repo::entry::{Dir, Entry, FileEntry};
use crate::repo::manifest::{self, Part};
use std::io::{BufWriter, ErrorKind, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, FileExt};
use std::path::{Path, PathBuf};

pub(super) const CONTROL: &[u8] = b"global/pg_control";
const MAP: &[u8] = b"tablespace_map";

/// Writes a cluster, part by part of the manifest.
pub(super) struct ClusterWriter<'a> {
    job: &'a RestoreJob<'a>,
    manifest: ManifestWriter<BufWriter<std::fs::File>>,
    /// Modes of directories, which are set last: a mode may forbid writing into its directory.
    modes: Vec<(PathBuf, u32)>,
    /// Entries of files that are changed before `backup_manifest` lists them.
    control: Option<FileEntry>,
    map: Option<FileEntry>,
    /// Entry of the data directory.
    root: Option<Dir>,
    report: Restored,
}

/// A restored cluster that lacks only its control file.
pub(super) struct UnfinishedCluster {
    /// Path of the control file.
    path: PathBuf,
    control: Control,
    file: FileEntry,
    pub report: Restored,
}

impl UnfinishedCluster {
    /// Writes the control file, without which no server starts.
    pub fn write_control(&self, ownership: &Ownership) -> Result<()> {
        folder::write_replacing(&self.path, self.control.bytes(), self.file.mode)?;
        ownership.give(&self.path, &self.file.owner)?;
        set_mode(&self.path, self.file.mode)
    }
}

impl<'a> ClusterWriter<'a> {
    pub fn new(job: &'a RestoreJob<'a>) -> Result<ClusterWriter<'a>> {
        let path = job.options.to.join("backup_manifest");
        let file = BufWriter::new(create(&path)?);
        let record = &job.plan.record;
        let major = job.plan.archive.lineage().major;
        let manifest = ManifestWriter::new(file, major, record.system_identifier)
            .doing(|| format!("write {}", path.display()))?;
        let report = Restored {
            bytes: 0,
            files: 0,
            kept: 0,
            left_out: job.chosen.left_out(record),
            tablespaces: Vec::new(),
            config_left: Vec::new(),
            announced: None,
        };
        Ok(ClusterWriter { job, manifest, modes: Vec::new(), control: None, map: None, root: None, report })
    }

    /// Writes everything except for the control file.
    pub fn write(mut self) -> Result<UnfinishedCluster> {
        let plan = self.job.plan;
        if let Some(waldir) = &self.job.waldir {
            let link = self.job.options.to.join("pg_wal");
            std::os::unix::fs::symlink(waldir, &link).doing(|| format!("link {}", link.display()))?;
        }
        manifest::read(&plan.archive, &plan.record, |part| self.part(&part))?;
        let control = self.take_control()?;
        let to = &self.job.options.to;
        let settings = to.join("postgresql.auto.conf");
        self.rewrite(&settings, |old| Ok(self.job.recovery.rewrite(plan, &self.job.settings, old)))?;
        if let Some(file) = self.map.take() {
            let new = self.rewrite(&to.join("tablespace_map"), |old| self.remap(old))?;
            self.line(&file, new.len() as u64, Some(crc32c::crc32c(&new)))?;
        }
        self.link_tablespaces()?;
        self.create_new_tablespaces()?;
        if self.job.waldir.is_some() {
            self.own(&to.join("pg_wal"))?;
        }
        self.fetch_wal()?;
        let signal = to.join(self.job.recovery.signal());
        create(&signal)?;
        self.own(&signal)?;
        for (path, mode) in std::mem::take(&mut self.modes) {
            set_mode(&path, mode)?;
        }
        let (control, file) = control;
        let crc32c = Some(crc32c::crc32c(control.bytes()));
        self.line(&file, control.bytes().len() as u64, crc32c)?;
        let record = &plan.record;
        let path = to.join("backup_manifest");
        let doing = || format!("write {}", path.display());
        let wal = [(record.timeline, record.start_lsn, record.stop_lsn)];
        self.manifest.finish(&wal).and_then(|mut out| out.flush()).doing(doing)?;
        if let Some(root) = &self.root {
            self.job.ownership.give(&path, &root.owner)?;
        }
        Ok(UnfinishedCluster { path: to.join("global/pg_control"), control, file, report: self.report })
    }

    fn part(&mut self, part: &Part) -> Result<()> {
        let mut targets = Vec::new();
        for entry in &part.entries {
            match entry {
                Entry::Dir(dir) => self.dir(dir)?,
                Entry::Tablespace(_) => {}
                Entry::File(file) if !self.job.is_restored(&file.path.0) => {}
                Entry::File(file) if self.job.chosen.leaves_out(&file.path.0) => {
                    let path = self.job.place(&file.path.0);
                    make_empty(&path, file.size)?;
                    self.job.ownership.give(&path, &file.owner)?;
                    set_mode(&path, file.mode)?;
                    self.line(file, file.size, None)?;
                    self.report.files += 1;
                }
                Entry::File(file) => {
                    let mut path = self.job.place(&file.path.0);
                    match &file.path.0[..] {
                        CONTROL => {
                            path.set_extension("walkeep");
                            self.control = Some(file.clone());
                        }
                        MAP => self.map = Some(file.clone()),
                        _ => {}
                    }
                    self.report.files += 1;
                    self.report.bytes += file.size;
                    // The control file and the tablespace map are listed after they have been
                    // changed.
                    let listed = !matches!(&file.path.0[..], CONTROL | MAP);
                    targets.push(TargetFile { path, stored: file, listed });
                }
                Entry::Config(file) => match self.job.config_place(file) {
                    Some(path) => {
                        if let Some(parent) = path.parent() {
                            durable::create_dirs(parent, 0o750)?;
                        }
                        targets.push(TargetFile { path, stored: file, listed: false });
                    }
                    None => self.report.config_left.push(file.path.display().into_owned()),
                },
            }
        }
        let job = self.job;
        let writing = FileWriting {
            archive: &job.plan.archive,
            packs: &part.packs,
            targets: &targets,
            ownership: &job.ownership,
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

    fn dir(&mut self, dir: &Dir) -> Result<()> {
        let path = self.job.place(&dir.path.0);
        if dir.path.0.is_empty() {
            self.root = Some(dir.clone());
        }
        let is_root = self.job.roots().any(|root| root == path);
        if !is_root {
            match std::fs::DirBuilder::new().mode(0o700).create(&path) {
                Err(e) if self.job.options.delta && e.kind() == ErrorKind::AlreadyExists => {
                    set_mode(&path, 0o700)?;
                }
                created => created.doing(|| format!("create directory {}", path.display()))?,
            }
        }
        self.job.ownership.give(&path, &dir.owner)?;
        self.modes.push((path, dir.mode));
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
        let mut path = self.job.place(CONTROL);
        path.set_extension("walkeep");
        let bytes = std::fs::read(&path).doing(|| format!("read {}", path.display()))?;
        let control = Control::parse(bytes)?;
        durable::remove_file(&path)?;
        if control.system_identifier() != self.job.plan.record.system_identifier {
            return Err(Error::new(Kind::Damage, "global/pg_control belongs to another cluster"));
        }
        Ok((control.without_checkpoint(), file))
    }

    /// Replaces the content of a small file with the result of `change`, and returns the new
    /// content. A missing file counts as empty.
    fn rewrite(&self, path: &Path, change: impl Fn(&[u8]) -> Result<Vec<u8>>) -> Result<Vec<u8>> {
        let old = match std::fs::read(path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Vec::new(),
            old => old.doing(|| format!("read {}", path.display()))?,
        };
        let new = change(&old)?;
        folder::write_replacing(path, &new, 0o600)?;
        self.own(path)?;
        Ok(new)
    }

    fn own(&self, path: &Path) -> Result<()> {
        self.root.as_ref().map_or(Ok(()), |root| self.job.ownership.give(path, &root.owner))
    }

    /// Returns the tablespace map with the new locations. Recovery creates the links from it, so
    /// old locations would lead into the directories of the old cluster. A tablespace that was
    /// dropped after the backup began may be in the map and not in the backup: the WAL drops it
    /// again.
    fn remap(&self, old: &[u8]) -> Result<Vec<u8>> {
        let moved = |link: TablespaceLink| {
            let location = self.job.tablespaces.get(&link.oid)?.as_os_str().as_bytes().to_vec();
            Some(TablespaceLink { location, ..link })
        };
        let links: Vec<TablespaceLink> = parse_tablespace_map(old)?.into_iter().filter_map(moved).collect();
        Ok(format_tablespace_map(&links))
    }

    fn link_tablespaces(&mut self) -> Result<()> {
        for (oid, location) in &self.job.tablespaces {
            let link = self.job.options.to.join("pg_tblspc").join(oid.to_string());
            std::os::unix::fs::symlink(location, &link).doing(|| format!("link {}", link.display()))?;
            self.own(&link)?;
            self.report.tablespaces.push((*oid, location.clone()));
        }
        Ok(())
    }

    /// Creates the directories in which recovery creates tablespaces.
    fn create_new_tablespaces(&self) -> Result<()> {
        for location in self.job.new_tablespaces.values().filter(|location| !location.exists()) {
            durable::create_dirs(location, 0o700)?;
            self.own(location)?;
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
            let path = self.job.options.to.join("pg_wal").join(name.to_string());
            self.fetch(WalName::Segment(name), &path)?;
            name = name.next(size);
        }
        let timeline = plan.record.timeline;
        if timeline > TimelineId(1) {
            let history = WalName::History(timeline);
            self.fetch(history, &self.job.options.to.join("pg_wal").join(history.to_string()))?;
        }
        Ok(())
    }

    fn fetch(&self, name: WalName, path: &Path) -> Result<()> {
        let doing = || format!("fetch {name}");
        let missing = || Error::new(Kind::Hole, "it is not in the repository").doing(doing());
        let stored = self.job.plan.archive.get_wal(name)?.ok_or_else(missing)?;
        let file = create(path)?;
        stored
            .read(|piece, offset| {
                file.write_all_at(piece, offset).doing(|| format!("write {}", path.display()))
            })
            .doing(doing)?;
        self.own(path)
    }
}
