//! Space that a restore needs in each file system.

use super::contents::{BackupContents, Volume};
use super::delta;
use super::job::RestoreJob;
use super::mapping::{device_of, existing};
use crate::error::{Error, Kind, Result};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Space that a restore needs in a file system.
pub struct SpaceNeed {
    /// A directory in the file system.
    pub path: PathBuf,
    /// Bytes that are needed, and bytes that are free.
    pub needed: u64,
    pub free: u64,
    /// Number of new files, and of those that the file system can still hold; `None` when it has no
    /// limit.
    files: u64,
    free_files: Option<u64>,
}

impl SpaceNeed {
    /// Refuses a file system with less free space than is needed.
    pub fn check(&self) -> Result<()> {
        let SpaceNeed { path, needed, free, files, free_files } = self;
        let message = if free < needed {
            format!("{} has {free} bytes free, {needed} are needed", path.display())
        } else if let Some(free_files) = free_files.filter(|free| free < files) {
            format!("{} has room for {free_files} files, {files} are needed", path.display())
        } else {
            return Ok(());
        };
        Err(Error::new(Kind::Full, message)
            .hint("make room, choose another directory, or move tablespaces with --tablespace OLD=NEW"))
    }
}

/// Returns the space that a restore needs, by file system.
pub(super) fn needs(job: &RestoreJob<'_>, contents: &BackupContents) -> Result<Vec<SpaceNeed>> {
    let record = &job.plan.record;
    let mut needed: BTreeMap<u64, (Volume, &Path)> = BTreeMap::new();
    let mut add = |path, more: Volume| -> Result<()> {
        let device = device_of(existing(path))?;
        let (volume, _) = needed.entry(device).or_insert((Volume::default(), path));
        volume.bytes += more.bytes;
        volume.files += more.files;
        Ok(())
    };
    for (tablespace, volume) in &contents.volumes {
        let place = tablespace.and_then(|oid| job.tablespaces.get(&oid)).unwrap_or(&job.options.to);
        add(place, *volume)?;
    }
    let files =
        record.wal.last.number(record.segment_size) + 1 - record.wal.first.number(record.segment_size);
    let waldir = job.waldir.as_ref().unwrap_or(&job.options.to);
    add(waldir, Volume { bytes: files * record.segment_size.bytes(), files })?;
    needed.into_values().map(|(volume, path)| need_in(job, volume, path)).collect()
}

/// Space that is needed in the file system of a path. A delta restore reuses the space of the
/// existing files.
fn need_in(job: &RestoreJob<'_>, volume: Volume, path: &Path) -> Result<SpaceNeed> {
    let Volume { bytes, files } = volume;
    let (needed, files) = if job.options.delta {
        let device = device_of(existing(path))?;
        let mut used = 0;
        for root in job.roots() {
            if device_of(existing(root))? == device {
                used += delta::used(root);
            }
        }
        // Files that are removed may be larger than the backup; most files are there already.
        (bytes.saturating_sub(used), 0)
    } else {
        (bytes, files)
    };
    let path = existing(path).to_owned();
    let stat = rustix::fs::statvfs(&path)
        .map_err(|e| Error::io(format!("look at the file system of {}", path.display()), &e.into()))?;
    // A file system that creates inodes on demand reports none.
    let free_files = (stat.f_files > 0).then_some(stat.f_favail);
    Ok(SpaceNeed { needed, free: stat.f_bavail * stat.f_frsize, files, free_files, path })
}
