//! Facts about the content of a backup that the checks before a restore need. The manifest is read
//! as a whole, so one that is damaged is found before anything is written.

use super::conf::{ConfigFiles, Configuration};
use super::frames::FrameReader;
use super::holes;
use super::job::RestoreJob;
use super::layout::{self, Region};
use super::target::{CONTROL, MAX_CONTROL_SIZE, Place};
use crate::error::{Doing, Error, Kind, Result};
use crate::fs::aligned::Aligned;
use crate::pg::control::Control;
use crate::repo::entry::{Dir, Entry, FileEntry};
use crate::repo::manifest;
use crate::runtime::thread;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Space and files that a directory takes.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Volume {
    pub bytes: u64,
    /// Number of files and directories.
    pub files: u64,
}

impl Volume {
    /// Adds a file.
    pub fn add(&mut self, bytes: u64) {
        self.bytes = self.bytes.saturating_add(bytes);
        self.files = self.files.saturating_add(1);
    }
}

/// Maximum size in bytes of a configuration file that is read, and of all together.
const MAX_CONFIG_SIZE: u64 = 1 << 20;
const MAX_CONFIG_SUM: u64 = 32 << 20;

/// Content of a backup.
#[derive(Default)]
pub(super) struct BackupContents {
    /// Volume of each tablespace that has a location, by OID, and of the data directory (`None`).
    pub volumes: BTreeMap<Option<u32>, Volume>,
    /// Entry of the data directory.
    pub data: Option<Dir>,
    /// Configuration of the cluster.
    pub configuration: Configuration,
    /// Settings that replay needs at least, by the control file.
    pub least_settings: [(&'static str, u32); 5],
    /// Content of the control file.
    pub control: Vec<u8>,
    /// New places of the configuration files from outside of the data directory.
    pub config: Vec<Place>,
    /// Volume of these files.
    pub config_volume: Volume,
    /// Bytes of all files.
    pub size: u64,
    /// Keys of all packs.
    packs: BTreeSet<String>,
}

impl BackupContents {
    pub fn read(job: &RestoreJob<'_>) -> Result<BackupContents> {
        let mut found = BackupContents::default();
        let settings = &job.plan.record.settings;
        let data_directory = Path::new(&settings.data_directory);
        let mut control = None;
        let mut files = ConfigFiles::new();
        let mut left = MAX_CONFIG_SUM;
        let mut is_small = |size: u64| {
            let is_small = size <= MAX_CONFIG_SIZE.min(left);
            left -= if is_small { size } else { 0 };
            is_small
        };
        manifest::read(&job.plan.archive, &job.plan.record, |part| {
            for entry in &part.entries {
                match entry {
                    Entry::Dir(dir) => {
                        found.add(job, &dir.path.0, 0);
                        if dir.path.0.is_empty() {
                            found.data = Some(dir.clone());
                        }
                    }
                    Entry::File(file) if job.is_restored(&file.path.0) => {
                        if file.path.0 == *CONTROL {
                            control = Some(control_of(job, &part.packs, file)?);
                        } else if file.path.0.ends_with(b".conf") && is_small(file.size) {
                            let path = data_directory.join(file.path.as_path());
                            files.insert(path, bytes_of(job, &part.packs, file)?);
                        }
                        let bytes = if job.chosen.leaves_out(&file.path.0) {
                            0
                        } else {
                            file.size - holes::bytes(&holes::holes(file))
                        };
                        found.add(job, &file.path.0, bytes);
                        found.size = found.size.saturating_add(file.size);
                    }
                    Entry::Config(file) => {
                        if is_small(file.size) {
                            files.insert(file.path.as_path().to_owned(), bytes_of(job, &part.packs, file)?);
                        }
                        if let Some(place) = job.config_place(file) {
                            found.config_volume.add(file.size);
                            found.config.push(place);
                        }
                    }
                    Entry::File(_) | Entry::Tablespace(_) => {}
                }
            }
            found.packs.extend(part.packs);
            Ok(())
        })?;
        let control =
            control.ok_or_else(|| Error::new(Kind::Damage, "the backup has no global/pg_control"))?;
        let control = Control::parse(control)?;
        if control.system_identifier() != job.plan.record.system_identifier {
            return Err(Error::new(Kind::Damage, "global/pg_control belongs to another cluster"));
        }
        found.least_settings = control.least_settings();
        control.bytes().clone_into(&mut found.control);
        found.configuration = Configuration::read(&files, Path::new(&settings.config_file), data_directory);
        Ok(found)
    }

    fn add(&mut self, job: &RestoreJob<'_>, path: &[u8], bytes: u64) {
        let volume = self.volumes.entry(job.tablespace_of(path)).or_default();
        volume.add(bytes);
    }

    /// Checks that every pack exists and is of this archive.
    pub fn check_packs(&self, job: &RestoreJob<'_>) -> Result<()> {
        let packs: Vec<&String> = self.packs.iter().collect();
        let next = AtomicUsize::new(0);
        let check = |_| {
            while let Some(pack) = packs.get(next.fetch_add(1, Ordering::Relaxed)) {
                job.check()?;
                job.plan.archive.check_pack(pack).map_err(|error| {
                    error.hint("the backup cannot be restored from here: use another backup or repository, and run `walkeep verify`")
                })?;
            }
            Ok(())
        };
        thread::share(job.options.jobs.get().min(packs.len()), "check packs", check)
    }
}

/// Reads the control file of a backup.
fn control_of(job: &RestoreJob<'_>, packs: &[String], file: &FileEntry) -> Result<Vec<u8>> {
    if file.size > MAX_CONTROL_SIZE {
        let what = format!("global/pg_control has {} bytes", file.size);
        return Err(Error::new(Kind::Damage, what));
    }
    bytes_of(job, packs, file)
}

/// Reads a small file of a backup; `packs` are those of its part of the manifest.
fn bytes_of(job: &RestoreJob<'_>, packs: &[String], file: &FileEntry) -> Result<Vec<u8>> {
    let doing = || format!("read {} of the backup", file.path.display());
    let mut regions = layout::regions(std::iter::once(file));
    regions.sort_by_key(Region::offset);
    let mut frames = FrameReader::new(&job.plan.archive, packs);
    frames.read(&regions).doing(doing)?;
    let (mut bytes, mut buffer) = (Vec::new(), Aligned::default());
    for region in &regions {
        bytes.extend_from_slice(frames.bytes(region, file, &mut buffer).doing(doing)?);
    }
    Ok(bytes)
}
