//! Packs and manifests of earlier backups, from which a backup takes the blocks that did not
//! change. Does not read the files of the cluster.
//!
//! Every backup names all objects that it needs: its own packs, packs of earlier backups, and the
//! parts of earlier manifests that are bases of its own parts. It does not need the record of
//! another backup, and any other backup may be removed: a prune keeps the named objects.
//!
//! The newest backup of the cluster is the *parent*. The hash of a block decides whether it
//! changed, or the WAL summaries of the server do; times and sizes in the file system do not count.
//! The parent's manifest lists its files in the order in which the scan finds them, so the scan and
//! the manifest are merged, and at most two parts of a manifest are in memory.
//!
//! A backup that did not finish (it was killed, or the repository was full) has left packs and the
//! complete parts of its manifest. If it is newer than the parent, the next backup compares its
//! files with these parts first, and the files behind the last of them with the parent. Every file
//! is read again all the same, and the hashes decide.
//!
//! Two limits bound the number of places over which a backup is scattered:
//! * A pack of which the parent needs less than half is not reused: the needed blocks are stored
//!   anew. So a backup keeps, and a restore reads, at most about twice what the backup needs.
//! * The blocks of a frame are divided into a bounded number of runs (see `known.rs`).

use super::queue::KnownPart;
use crate::error::{Error, Kind, Result};
use crate::progress;
use crate::repo::active::Announcement;
use crate::repo::entry::{Entry, FileEntry};
use crate::repo::manifest::{self, Bases, Part, Parts, StoredPack, Use, Written};
use crate::repo::record::Record;
use crate::repo::{Archive, ObjectName, Records};
use crossbeam_channel::Sender;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

/// Maximum number of backups without a record that are considered.
const MAX_UNFINISHED: usize = 100;

/// The earlier backups that a backup is compared with.
#[derive(Default)]
pub(super) struct Earlier {
    /// Record of the newest usable backup; `None` for a first backup.
    pub parent: Option<Record>,
    /// Id of a backup that did not finish.
    unfinished: Option<String>,
    /// Packs that may be reused, by key.
    packs: HashMap<Arc<str>, StoredPack>,
    /// Whether packs and parts of manifests must not be reused.
    forbids_reuse: bool,
    /// Parts of the parent's manifest that were read: candidates for delta bases.
    pub bases: Bases,
}

impl Earlier {
    /// Chooses the newest backup whose manifest is readable and that no verification found damaged,
    /// and a backup that began later and did not finish. A backup of a cluster with bad pages may
    /// be chosen, since content is compared. Announces that the packs of both are needed.
    pub fn choose(archive: &Archive, announced: &Announcement) -> Result<Earlier> {
        let mut earlier = Earlier::default();
        let verified = archive.remembered()?;
        let Records { good, damaged, fenced, .. } = archive.records()?;
        let newest = good.iter().map(|record| record.id.clone()).max();
        earlier.choose_parent(good, &verified, archive, announced)?;
        let left = archive.data_after(newest.as_deref(), MAX_UNFINISHED)?;
        let was_listed = |id: &String| {
            verified.contains_key(id)
                || fenced.iter().any(|(other, _)| other == id)
                || damaged.iter().any(|(other, _)| other == id)
        };
        if let Some(id) = left.into_iter().rfind(|id| !was_listed(id)) {
            earlier.add_unfinished(id, archive, announced)?;
        }
        Ok(earlier)
    }

    fn choose_parent(
        &mut self,
        records: Vec<Record>,
        verified: &BTreeMap<String, bool>,
        archive: &Archive,
        announced: &Announcement,
    ) -> Result<()> {
        for record in records.into_iter().rev() {
            if verified.get(&record.id) == Some(&true) {
                continue;
            }
            announced.update(|notice| notice.needs = vec![record.id.clone()])?;
            if !archive.may_need(&record.id)? {
                continue;
            }
            match self.add_parent(archive, record) {
                Err(error) if error.kind() == Kind::Damage => progress::warn(&error),
                added => return added,
            }
        }
        announced.update(|notice| notice.needs.clear())
    }

    fn add_parent(&mut self, archive: &Archive, record: Record) -> Result<()> {
        let uses = manifest::uses(archive, &record)?;
        let there = sizes(archive, uses.iter().map(|used| used.pack.as_str()))?;
        let is_there = |used: &Use| there.get(&used.pack) == Some(&used.stored.size);
        let missing = uses.iter().filter(|used| !is_there(used)).count();
        if missing > 0 {
            let what = format!("{missing} packs of backup {} are missing or truncated", record.id);
            progress::warn(
                &Error::new(Kind::Damage, what).hint(
                    "their blocks are stored anew; run `walkeep verify` to see which backups are damaged",
                ),
            );
        }
        let is_half_needed = |used: &Use| used.live >= used.stored.content / 2;
        let packs = uses.iter().filter(|used| is_half_needed(used) && is_there(used));
        self.packs = packs.map(|used| (Arc::from(used.pack.as_str()), used.stored)).collect();
        self.parent = Some(record);
        Ok(())
    }

    /// Adds the packs and parts of a backup that ended without a record.
    fn add_unfinished(&mut self, id: String, archive: &Archive, announced: &Announcement) -> Result<()> {
        announced.update(|notice| notice.needs.push(id.clone()))?;
        // The backup may be running on another host, may have finished since it was listed, or may
        // be being removed by a prune.
        let others = archive.announced()?;
        let is_busy = others.iter().any(|seen| seen.is_removing(&id) || seen.may_be_making(&id));
        if !is_busy && archive.record(&id)?.is_none() {
            let packs = unfinished_packs(archive, &id)?;
            if !packs.is_empty() {
                tracing::info!("using {} packs of backup {id}, which did not finish", packs.len());
                self.packs.extend(packs);
                self.unfinished = Some(id);
                return Ok(());
            }
        }
        announced.update(|notice| notice.needs.retain(|other| *other != id))
    }

    /// Forbids the reuse of packs and parts of manifests: everything is stored anew. Files are
    /// still compared with the parent.
    pub fn forbid_reuse(&mut self) {
        self.packs.clear();
        self.unfinished = None;
        self.forbids_reuse = true;
    }

    /// Forgets the backup that did not finish, because the WAL summaries list only the changes
    /// since the parent.
    pub fn forget_unfinished(&mut self) {
        self.unfinished = None;
    }

    /// Size and content of a pack that may be reused; `None` for any other pack.
    pub fn pack(&self, key: &str) -> Option<StoredPack> {
        self.packs.get(key).copied()
    }

    /// Sends the parts of the manifests until the receiver is dropped. A damaged manifest ends
    /// early, and the blocks that its remaining parts describe are stored anew.
    pub fn read(&self, archive: &Archive, parts: &Sender<KnownPart>) -> Result<()> {
        if let Some(id) = &self.unfinished {
            self.send(manifest::unfinished(archive, id), parts)?;
        }
        let Some(record) = &self.parent else {
            return Ok(());
        };
        let read = Parts::of(archive, record).enumerate().map(|(index, part)| {
            if !self.forbids_reuse
                && let (Ok(part), Some(stored)) = (&part, record.manifest.get(index))
            {
                self.bases.add(part, stored);
            }
            part
        });
        self.send(read, parts)
    }

    fn send(&self, read: impl Iterator<Item = Result<Part>>, parts: &Sender<KnownPart>) -> Result<()> {
        for part in read {
            match part.map(|part| parts.send(self.known(part))) {
                Ok(Ok(())) => {}
                // The receiver was dropped.
                Ok(Err(_)) => break,
                Err(error) if error.kind() == Kind::Damage => {
                    progress::warn(&error);
                    break;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn known(&self, part: Part) -> KnownPart {
        let packs = part.packs.iter();
        let packs = packs.map(|key| self.packs.get_key_value(key.as_str()).map(|(key, _)| key.clone()));
        let files: Vec<FileEntry> = part.entries.into_iter().filter_map(Entry::into_file).collect();
        KnownPart { packs: packs.collect(), files: files.into_iter() }
    }
}

/// Packs of a backup that did not finish, with the content that the readable parts of its manifest
/// describe.
fn unfinished_packs(archive: &Archive, id: &str) -> Result<HashMap<Arc<str>, StoredPack>> {
    let there: HashMap<String, u64> = archive.stored_by(id)?.into_iter().collect();
    let mut packs: HashMap<Arc<str>, StoredPack> = HashMap::new();
    // The first part that is not readable ends the manifest.
    for part in manifest::unfinished(archive, id).map_while(Result::ok) {
        for named in part.named() {
            let (key, bytes) = named?;
            if let Some((key, size)) = there.get_key_value(key) {
                let stored = packs.entry(Arc::from(key.as_str()));
                stored.or_insert(StoredPack { size: *size, content: 0 }).content += bytes;
            }
        }
    }
    Ok(packs)
}

/// Fails unless everything that a manifest needs is still in the repository: packs, and bases of
/// its parts.
pub(super) fn check_stored(archive: &Archive, manifest: &Written) -> Result<()> {
    let packs = manifest.uses.iter().map(|used| (used.pack.as_str(), used.stored.size));
    let bases = manifest.parts.iter().filter_map(|part| part.base.as_deref());
    let needed: Vec<(&str, u64)> = packs.chain(bases.map(|base| (base.key.as_str(), base.size))).collect();
    let there = sizes(archive, needed.iter().map(|(key, _)| *key))?;
    match needed.iter().find(|(key, size)| there.get(*key) != Some(size)) {
        None => Ok(()),
        Some((key, _)) => {
            Err(Error::new(Kind::Damage, format!("{key} was removed while the backup was taken"))
                .hint("take the backup again: missing objects are stored anew"))
        }
    }
}

/// Sizes of all objects, by key, in the folders of the backups that stored the objects in `keys`.
fn sizes<'a>(archive: &Archive, keys: impl Iterator<Item = &'a str>) -> Result<HashMap<String, u64>> {
    let storer = |key| match ObjectName::parse(key) {
        Some(ObjectName::Pack(id, _) | ObjectName::Manifest(id, _)) => Some(id),
        _ => None,
    };
    let storers: BTreeSet<String> = keys.filter_map(storer).collect();
    let mut found = HashMap::new();
    for id in storers {
        found.extend(archive.stored_by(&id)?);
    }
    Ok(found)
}
