//! Reads the manifests of the backups and produces the tasks of the reading threads.

use super::backup::BackupCheck;
use super::diff::ManifestDiff;
use super::findings::Findings;
use super::packs::{ReadTask, tasks};
use super::state::{Run, Scope, bytes_of};
use crate::codec::hash::LANES;
use crate::error::{Error, Kind, Result};
use crate::pg::segment::WalName;
use crate::repo::ObjectName;
use crate::repo::data::{NamedPacks, named};
use crate::repo::entry::{Entry, FileEntry};
use crate::repo::manifest::{Part, Parts};
use crate::repo::packset::PackSet;
use crate::repo::ranges::stored_ranges;
use crate::repo::record::{ManifestPart, Record};
use crossbeam_channel::Sender;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Sends tasks to the reading threads, each pack once.
struct Producer {
    tasks: Sender<ReadTask>,
    /// Packs whose headers were sent to be checked.
    opened: PackSet,
}

impl Producer {
    fn send(&self, task: ReadTask) {
        // Sending cannot fail: the readers receive until the sender is dropped.
        drop(self.tasks.send(task));
    }

    fn open_pack(&mut self, id: &str, number: u32, key: &Arc<str>) -> Result<()> {
        if !self.opened.contains(id, number) {
            self.opened.insert(key)?;
            self.send(ReadTask::Pack(key.clone()));
        }
        Ok(())
    }
}

impl Run<'_> {
    /// Reads manifests, and sends packs and WAL to be read. Returns the ids of the backups whose
    /// manifests were read to the end.
    pub fn produce(&self, tasks: Sender<ReadTask>) -> Result<BTreeSet<String>> {
        let mut producer = Producer { tasks, opened: PackSet::default() };
        let mut done: BTreeMap<&str, &Record> = BTreeMap::new();
        let mut last = None;
        for record in self.selected() {
            Findings::count(&self.findings.objects, 1 + record.manifest.len() as u64);
            let mut backup = BackupCheck::new(self.archive, record, &self.data, self.findings);
            if !backup.parts() {
                self.produce_named_packs(record, &backup, &mut producer)?;
                continue;
            }
            let parent = record.parent.as_ref().and_then(|parent| done.get(parent.as_str()).copied());
            let mut diff = ManifestDiff::new(self.archive, parent.or(last));
            if self.produce_backup(record, &mut backup, &mut diff, &mut producer)? {
                backup.finish();
                done.insert(&record.id, record);
                last = Some(record);
            } else {
                self.produce_named_packs(record, &backup, &mut producer)?;
            }
            self.check_outage()?;
        }
        let mut wal: Vec<(WalName, u64)> = Vec::new();
        // Each segment that is read is compared with the one before, which is read for that too.
        let mut before = None;
        for (name, size) in self.wal.iter().copied().filter(|(name, _)| self.is_in_scope(*name)) {
            if self.is_wal_due(name) {
                wal.extend(before.take().filter(|(before, _)| self.is_followed_by(*before, name)));
                wal.push((name, size));
            } else {
                before = Some((name, size));
            }
        }
        wal.chunks(LANES).for_each(|files| producer.send(ReadTask::Wal(files.to_vec())));
        Ok(done.into_keys().map(str::to_owned).collect())
    }

    /// Checks the packs that the record of a backup names, where its manifest cannot be read.
    fn produce_named_packs(
        &self,
        record: &Record,
        backup: &BackupCheck<'_>,
        producer: &mut Producer,
    ) -> Result<()> {
        for pack in record.packs.iter().flat_map(|packs| named(packs, &self.data)) {
            match pack {
                NamedPacks::Listed(id, number, _) => {
                    let name = ObjectName::Pack(id.to_owned(), number);
                    producer.open_pack(id, number, &name.to_string().into())?;
                }
                NamedPacks::Missing(id, first, last) => backup.missing_packs(id, first, last),
            }
        }
        Ok(())
    }

    /// Reads the manifest of a backup. Returns whether it could be read to the end.
    fn produce_backup(
        &self,
        record: &Record,
        backup: &mut BackupCheck<'_>,
        diff: &mut ManifestDiff<'_>,
        producer: &mut Producer,
    ) -> Result<bool> {
        let mut stored_parts = record.manifest.iter();
        for (number, part) in (1..).zip(Parts::of(self.archive, record)) {
            let read = part.and_then(|part| backup.part(&part).map(|()| part));
            match (read, stored_parts.next()) {
                (Ok(part), Some(stored)) => {
                    Findings::count(&self.findings.bytes, bytes_of(stored));
                    self.produce_part(record, number, part, diff, producer)?;
                }
                (Err(error), Some(stored)) => {
                    let name = self
                        .unreadable_base(stored)
                        .unwrap_or_else(|| ObjectName::Manifest(record.id.clone(), number));
                    match self.archive.stored_at(&name) {
                        Ok(stored) => {
                            self.findings.error(&name, &error, stored.is_some(), [record.id.as_str()]);
                        }
                        Err(error) => self.findings.unknown(&name, &error),
                    }
                    return Ok(false);
                }
                (Ok(_), None) => {
                    return Err(Error::defect("a manifest has more parts than its record names"));
                }
                // All parts of the record were read, and the manifest is not complete.
                (Err(error), None) => {
                    backup.contradiction(error.to_string());
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    /// Base of a part of a manifest, if the part cannot be read because its base cannot.
    fn unreadable_base(&self, part: &ManifestPart) -> Option<ObjectName> {
        let base = part.base.as_deref()?;
        let (id, number) = base.place()?;
        self.archive.get_base(base).is_err().then_some(ObjectName::Manifest(id, number))
    }

    fn is_followed_by(&self, before: WalName, name: WalName) -> bool {
        let size = self.history.as_ref().map(|history| history.inventory.segment_size());
        match (before, name, size) {
            (WalName::Segment(before), WalName::Segment(name), Some(size)) => before.next(size) == name,
            _ => false,
        }
    }

    pub(super) fn is_in_scope(&self, name: WalName) -> bool {
        let (Scope::Backup(_), WalName::Segment(name) | WalName::Partial(name) | WalName::Backup(name, _)) =
            (&self.options.scope, name)
        else {
            return true;
        };
        self.selected()
            .all(|record| name.number(record.segment_size) >= record.wal.first.number(record.segment_size))
    }

    /// Sends the blocks of one part of a manifest to be read, except the blocks that the earlier
    /// manifest of `diff` has, and the packs that an earlier verification has read.
    fn produce_part(
        &self,
        record: &Record,
        number: u32,
        part: Part,
        diff: &mut ManifestDiff<'_>,
        producer: &mut Producer,
    ) -> Result<()> {
        let mut due = Vec::with_capacity(part.packs.len());
        let keys: Vec<Arc<str>> = part.packs.iter().map(|key| Arc::from(key.as_str())).collect();
        for key in &keys {
            let Some(ObjectName::Pack(id, number)) = ObjectName::parse(key) else {
                return Err(Error::new(Kind::Damage, format!("`{key}` is not the key of a pack")));
            };
            // A missing pack has been reported already.
            let is_due = self.has_pack(&id, number) && self.is_due(&id, number);
            due.push(is_due);
            if is_due {
                producer.open_pack(&id, number, key)?;
            }
        }
        let files: Vec<FileEntry> = part.entries.into_iter().filter_map(Entry::into_any_file).collect();
        let new_blocks = |file| diff.new_blocks(file, &part.packs).into_iter();
        let mut new: Vec<_> = files.iter().map(new_blocks).collect();
        let mut is_complete = true;
        let ranges = stored_ranges(&files, |file, extent, _| {
            let blocks = new.get_mut(file).and_then(Iterator::next);
            is_complete &= blocks.is_some();
            let is_due = due.get(extent.pack as usize) == Some(&true);
            blocks.filter(|_| is_due).into_iter().flatten()
        });
        if !is_complete {
            return Err(Error::defect("the extents of a manifest were compared incompletely"));
        }
        for task in tasks(&record.id, number, &keys, &files, ranges) {
            producer.send(task?);
        }
        Ok(())
    }
}
