//! What a restore needs of each file system.

use super::delta;
use super::plan::Plan;
use super::recovery::Recovery;
use super::run::{Options, Run, device_of, existing};
use crate::error::{Error, Kind, Result};

use crate::repo::entry::Entry;
use crate::repo::manifest;
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

/// A file system, and what a restore needs of it.
pub struct Room {
    pub path: PathBuf,
    pub needed: u64,
    pub free: u64,
}

impl Room {
    /// Refuses when there is not enough.
    pub fn check(&self) -> Result<()> {
        let Room { path, needed, free } = self;
        if free >= needed {
            return Ok(());
        }
        let message = format!("{} has {free} bytes free, {needed} are needed", path.display());
        Err(Error::new(Kind::Full, message)
            .hint("make room, choose another directory, or move tablespaces with --tablespace OLD=NEW"))
    }
}

/// What the restore of the plan's backup needs. Writes nothing.
pub fn rooms(options: &Options, plan: &Plan, recovery: &Recovery) -> Result<Vec<Room>> {
    Run::new(options, plan, recovery)?.rooms()
}

impl Run<'_> {
    pub fn rooms(&self) -> Result<Vec<Room>> {
        let record = &self.plan.record;
        let empty = self.empty_bytes()?;
        let left_out = |oid| empty.get(&oid).copied().unwrap_or_default();
        let mut needed: BTreeMap<u64, (u64, &Path)> = BTreeMap::new();
        let mut add = |path, bytes| -> Result<()> {
            let device = device_of(existing(path))?;
            needed.entry(device).or_insert((0, path)).0 += bytes;
            Ok(())
        };
        let mut elsewhere = 0;
        for tablespace in &record.tablespaces {
            if let Some(path) = self.tablespaces.get(&tablespace.tablespace.oid) {
                add(path, tablespace.size - left_out(Some(tablespace.tablespace.oid)).min(tablespace.size))?;
                elsewhere += tablespace.size;
            }
        }
        let segments =
            record.wal.last.number(record.segment_size) + 1 - record.wal.first.number(record.segment_size);
        let wal = segments * record.segment_size.bytes();
        let here = record.size.saturating_sub(elsewhere).saturating_sub(left_out(None));
        add(&self.options.to, here + wal)?;
        needed.into_values().map(|(bytes, path)| self.room(bytes, path)).collect()
    }

    fn room(&self, bytes: u64, path: &Path) -> Result<Room> {
        let needed = match self.options.delta {
            true => {
                let of_device =
                    |root: &&Path| device_of(existing(root)).ok() == device_of(existing(path)).ok();
                bytes.saturating_sub(self.roots().filter(of_device).map(delta::used).sum())
            }
            false => bytes,
        };
        let path = existing(path).to_owned();
        let stat = rustix::fs::statvfs(&path)
            .map_err(|e| Error::io(format!("look at the file system of {}", path.display()), &e.into()))?;
        Ok(Room { needed, free: stat.f_bavail * stat.f_frsize, path })
    }

    /// Bytes of files that become empty, by their tablespace where that has a place of its own.
    fn empty_bytes(&self) -> Result<HashMap<Option<u32>, u64>> {
        let mut empty = HashMap::new();
        if self.chosen.is_all() {
            return Ok(empty);
        }
        manifest::read(&self.plan.archive, &self.plan.record, |part| {
            for entry in &part.entries {
                if let Entry::File(file) = entry
                    && self.chosen.leaves_out(&file.path.0)
                {
                    let path = self.place(&file.path.0);
                    let of = self.tablespaces.iter().find(|(_, place)| path.starts_with(place));
                    *empty.entry(of.map(|(oid, _)| *oid)).or_insert(0) += file.size;
                }
            }
            Ok(())
        })?;
        Ok(empty)
    }
}
