//! Space that a restore needs in each file system.

use super::delta;
use super::job::RestoreJob;
use super::mapping::{device_of, existing};
use super::options::Options;
use super::plan::RestorePlan;
use super::recovery::RecoverySettings;
use crate::error::{Error, Kind, Result};
use crate::repo::entry::Entry;
use crate::repo::manifest;
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

/// Space that a restore needs in a file system, in bytes.
pub struct SpaceNeed {
    /// A directory in the file system.
    pub path: PathBuf,
    pub needed: u64,
    pub free: u64,
}

impl SpaceNeed {
    /// Refuses a file system with less free space than is needed.
    pub fn check(&self) -> Result<()> {
        let SpaceNeed { path, needed, free } = self;
        if free >= needed {
            return Ok(());
        }
        let message = format!("{} has {free} bytes free, {needed} are needed", path.display());
        Err(Error::new(Kind::Full, message)
            .hint("make room, choose another directory, or move tablespaces with --tablespace OLD=NEW"))
    }
}

/// Returns the space that the restore of the plan's backup needs. Writes nothing.
pub fn space_needed(
    options: &Options,
    plan: &RestorePlan,
    recovery: &RecoverySettings,
) -> Result<Vec<SpaceNeed>> {
    space_of(&RestoreJob::new(options, plan, recovery)?)
}

/// Returns the space that a restore needs, by file system.
pub(super) fn space_of(job: &RestoreJob<'_>) -> Result<Vec<SpaceNeed>> {
    let record = &job.plan.record;
    let empty = empty_bytes(job)?;
    // A tablespace without an entry has no empty files.
    let left_out = |oid| empty.get(&oid).copied().unwrap_or(0);
    let mut needed: BTreeMap<u64, (u64, &Path)> = BTreeMap::new();
    let mut add = |path, bytes| -> Result<()> {
        let device = device_of(existing(path))?;
        needed.entry(device).or_insert((0, path)).0 += bytes;
        Ok(())
    };
    let mut elsewhere = 0;
    for tablespace in &record.tablespaces {
        if let Some(path) = job.tablespaces.get(&tablespace.tablespace.oid) {
            add(path, tablespace.size.saturating_sub(left_out(Some(tablespace.tablespace.oid))))?;
            elsewhere += tablespace.size;
        }
    }
    let segments =
        record.wal.last.number(record.segment_size) + 1 - record.wal.first.number(record.segment_size);
    let wal = segments * record.segment_size.bytes();
    let here = record.size.saturating_sub(elsewhere).saturating_sub(left_out(None));
    add(&job.options.to, here + wal)?;
    needed.into_values().map(|(bytes, path)| space_in(job, bytes, path)).collect()
}

/// Space for `bytes` in the file system of a path. A delta restore reuses the space of the existing
/// files.
fn space_in(job: &RestoreJob<'_>, bytes: u64, path: &Path) -> Result<SpaceNeed> {
    let needed = if job.options.delta {
        let device = device_of(existing(path))?;
        let mut used = 0;
        for root in job.roots() {
            if device_of(existing(root))? == device {
                used += delta::used(root);
            }
        }
        // Files that are removed may be larger than the backup.
        bytes.saturating_sub(used)
    } else {
        bytes
    };
    let path = existing(path).to_owned();
    let stat = rustix::fs::statvfs(&path)
        .map_err(|e| Error::io(format!("look at the file system of {}", path.display()), &e.into()))?;
    Ok(SpaceNeed { needed, free: stat.f_bavail * stat.f_frsize, path })
}

/// Bytes of files that become empty, by the OID of their tablespace; `None` for files in the data
/// directory.
fn empty_bytes(job: &RestoreJob<'_>) -> Result<HashMap<Option<u32>, u64>> {
    let mut empty = HashMap::new();
    if job.chosen.is_all() {
        return Ok(empty);
    }
    manifest::read(&job.plan.archive, &job.plan.record, |part| {
        for entry in &part.entries {
            if let Entry::File(file) = entry
                && job.chosen.leaves_out(&file.path.0)
            {
                let path = job.place(&file.path.0);
                let of = job.tablespaces.iter().find(|(_, place)| path.starts_with(place));
                *empty.entry(of.map(|(oid, _)| *oid)).or_insert(0) += file.size;
            }
        }
        Ok(())
    })?;
    Ok(empty)
}
