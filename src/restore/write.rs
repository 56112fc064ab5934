//! Writes what the manifest names, and what a restored cluster needs besides: the settings, the signal, the WAL of
//! the backup, `backup_manifest`. All but the control file.

use super::files::{Target as FileTarget, Writing, create, set_mode};
use super::owner::Ownership;
use super::partial::make_empty;
use super::run::{Restored, Run};
use crate::error::{Doing, Error, Kind, Result};
use crate::fs::durable;
use crate::pg::control::Control;
use crate::pg::label::{TablespaceLink, format_tablespace_map, parse_tablespace_map};
use crate::pg::manifest::{ManifestFile, ManifestWriter};
use crate::pg::segment::{TimelineId, WalName};
use crate::progress;
use crate::repo::entry::{Dir, Entry, FileEntry};
use crate::repo::manifest::{self, Part};
use std::io::{BufWriter, ErrorKind, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, FileExt};
use std::path::{Path, PathBuf};

const CONTROL: &[u8] = b"global/pg_control";
const MAP: &[u8] = b"tablespace_map";

/// Writes what the manifest names, part by part.
pub struct Writer<'a> {
    run: &'a Run<'a>,
    manifest: ManifestWriter<BufWriter<std::fs::File>>,
    /// Directories whose mode would be in the way of writing into them.
    modes: Vec<(PathBuf, u32)>,
    /// Lines for `backup_manifest` of files that are not restored as they were.
    control: Option<FileEntry>,
    map: Option<FileEntry>,
    root: Option<Dir>,
    report: Restored,
}

/// A directory that needs nothing any more but its control file.
pub struct Finished {
    path: PathBuf,
    control: Control,
    file: FileEntry,
    pub report: Restored,
}

impl Finished {
    /// The last file: without it no server starts.
    pub fn write_control(&self, ownership: &Ownership) -> Result<()> {
        durable::write_replacing(&self.path, self.control.bytes(), self.file.mode)?;
        ownership.give(&self.path, &self.file.owner)?;
        set_mode(&self.path, self.file.mode)
    }
}

impl<'a> Writer<'a> {
    pub fn new(run: &'a Run<'a>) -> Result<Writer<'a>> {
        let path = run.options.to.join("backup_manifest");
        let file = BufWriter::new(create(&path)?);
        let record = &run.plan.record;
        let major = run.plan.archive.lineage().major;
        let manifest = ManifestWriter::new(file, major, record.system_identifier)
            .doing(|| format!("write {}", path.display()))?;
        let report = Restored {
            bytes: 0,
            files: 0,
            kept: 0,
            left_out: run.chosen.left_out(&run.plan.record),
            tablespaces: Vec::new(),
            config_left: Vec::new(),
            announced: None,
        };
        Ok(Writer { run, manifest, modes: Vec::new(), control: None, map: None, root: None, report })
    }

    pub fn write(mut self) -> Result<Finished> {
        let plan = self.run.plan;
        manifest::read(&plan.archive, &plan.record, |part| self.part(&part))?;
        let control = self.take_control()?;
        let to = &self.run.options.to;
        let settings = to.join("postgresql.auto.conf");
        self.rewrite(&settings, |old| Ok(self.run.recovery.rewrite(plan, old)))?;
        if let Some(file) = self.map.take() {
            let new = self.rewrite(&to.join("tablespace_map"), |old| self.remap(old))?;
            self.line(&file, new.len() as u64, Some(crc32c::crc32c(&new)))?;
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
        let crc32c = Some(crc32c::crc32c(control.bytes()));
        self.line(&file, control.bytes().len() as u64, crc32c)?;
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

    fn part(&mut self, part: &Part) -> Result<()> {
        let mut targets = Vec::new();
        for entry in &part.entries {
            match entry {
                Entry::Dir(dir) => self.dir(dir)?,
                Entry::Tablespace(_) => {}
                Entry::File(file) if !self.run.is_restored(&file.path.0) => {}
                Entry::File(file) if self.run.chosen.leaves_out(&file.path.0) => {
                    let path = self.run.place(&file.path.0);
                    make_empty(&path, file.size)?;
                    self.run.ownership.give(&path, &file.owner)?;
                    set_mode(&path, file.mode)?;
                    self.line(file, file.size, None)?;
                    self.report.files += 1;
                }
                Entry::File(file) => {
                    let mut path = self.run.place(&file.path.0);
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
                    // These are changed, and listed when they are.
                    let listed = !matches!(&file.path.0[..], CONTROL | MAP);
                    targets.push(FileTarget { path, stored: file, listed });
                }
                Entry::Config(file) => match self.config_place(file)? {
                    Some(path) => targets.push(FileTarget { path, stored: file, listed: false }),
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
            delta: run.options.delta,
            scratch: run.options.scratch,
            progress: &run.options.progress,
            check: &|| run.check(),
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
        let path = self.run.place(&dir.path.0);
        if dir.path.0.is_empty() {
            self.run.ownership.check(&dir.owner)?;
            if let Some(user) = self.run.ownership.keeper(&dir.owner) {
                progress::warn(
                    &Error::new(
                        Kind::Problem,
                        format!(
                            "the cluster belonged to {}, what is restored belongs to {user}",
                            dir.owner.owner
                        ),
                    )
                    .hint("the server has to run as the owner of its files: restore as root or as that user"),
                );
            }
            self.root = Some(dir.clone());
        }
        let is_root = self.run.roots().any(|root| root == path);
        if !is_root {
            match std::fs::DirBuilder::new().mode(0o700).create(&path) {
                Err(e) if self.run.options.delta && e.kind() == ErrorKind::AlreadyExists => {
                    set_mode(&path, 0o700)?;
                }
                created => created.doing(|| format!("create directory {}", path.display()))?,
            }
        }
        self.run.ownership.give(&path, &dir.owner)?;
        self.modes.push((path, dir.mode));
        Ok(())
    }

    /// The configuration keeps its layout: relative to the directory of `postgresql.conf` where it lay there.
    fn config_place(&self, file: &FileEntry) -> Result<Option<PathBuf>> {
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
    fn line(&mut self, file: &FileEntry, size: u64, crc32c: Option<u32>) -> Result<()> {
        let line = ManifestFile { path: &file.path.0, size, modified: file.modified, crc32c };
        self.manifest.file(&line).doing(|| "write backup_manifest".to_owned())
    }

    /// Takes the control file away from under its temporary name. The restored one has no checkpoint, so that a
    /// server finds its start in the backup label or nowhere.
    fn take_control(&mut self) -> Result<(Control, FileEntry)> {
        let missing = || Error::new(Kind::Damage, "the backup has no global/pg_control");
        let file = self.control.take().ok_or_else(missing)?;
        let mut path = self.run.place(CONTROL);
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
    /// into the directories of the old cluster. It was made when the backup began; a tablespace that was dropped after that
    /// and before it was read is not in the backup, and is dropped again by the WAL.
    fn remap(&self, old: &[u8]) -> Result<Vec<u8>> {
        let there = |link: TablespaceLink| {
            let location = self.run.tablespaces.get(&link.oid)?.as_os_str().as_bytes().to_vec();
            Some(TablespaceLink { location, ..link })
        };
        let links: Vec<TablespaceLink> = parse_tablespace_map(old)?.into_iter().filter_map(there).collect();
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
            self.run.check()?;
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
        let file = create(path)?;
        stored
            .read(|piece, offset| {
                file.write_all_at(piece, offset).doing(|| format!("write {}", path.display()))
            })
            .doing(doing)?;
        self.own(path)
    }
}
