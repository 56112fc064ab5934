//! Space that a restore needs in each file system.

use super::contents::{BackupContents, Volume};
use super::create::MAX_DEPTH;
use super::delta;
use super::job::RestoreJob;
use super::target::Target;
use crate::error::{Error, Kind, Result};
use std::collections::BTreeMap;
use std::path::PathBuf;

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
    let mut needed: BTreeMap<u64, (Volume, &Target)> = BTreeMap::new();
    let mut add = |target, more: Volume| -> Result<()> {
        let (volume, _) = needed.entry(Target::device(target)?).or_insert((Volume::default(), target));
        volume.bytes = volume.bytes.saturating_add(more.bytes);
        volume.files = volume.files.saturating_add(more.files);
        Ok(())
    };
    for (tablespace, volume) in &contents.volumes {
        add(tablespace.and_then(|oid| job.tablespaces.get(&oid)).unwrap_or(&job.data), *volume)?;
    }
    job.config.iter().try_for_each(|config| add(config, contents.config_volume))?;
    let (first, last) = (record.wal.first, record.wal.last);
    let files = last.number(record.segment_size).saturating_sub(first.number(record.segment_size));
    let files = files.saturating_add(1);
    let bytes = files.saturating_mul(record.segment_size.bytes());
    add(job.waldir.as_ref().unwrap_or(&job.data), Volume { bytes, files })?;
    needed.into_values().map(|(volume, target)| need_in(job, volume, target)).collect()
}

/// Space that is needed in the file system of a directory. A delta restore reuses the space of the
/// existing files.
fn need_in(job: &RestoreJob<'_>, volume: Volume, target: &Target) -> Result<SpaceNeed> {
    let Volume { bytes, files } = volume;
    let (needed, files) = if job.options.delta {
        let device = target.device()?;
        let mut reused: u64 = 0;
        for root in job.roots() {
            if root.device()? == device {
                let used = root.existing().map_or(0, |folder| delta::used(folder, MAX_DEPTH));
                reused = reused.saturating_add(used);
            }
        }
        // Files that are removed may be larger than the backup; most files are there already.
        (bytes.saturating_sub(reused), 0)
    } else {
        (bytes, files)
    };
    let path = target.nearest().path().to_owned();
    let stat = rustix::fs::fstatvfs(target.nearest())
        .map_err(|e| Error::io(format!("look at the file system of {}", path.display()), &e.into()))?;
    // A file system that creates inodes on demand reports none.
    let free_files = (stat.f_files > 0).then_some(stat.f_favail);
    let free = stat.f_bavail.saturating_mul(stat.f_frsize);
    Ok(SpaceNeed { needed, free, files, free_files, path })
}
