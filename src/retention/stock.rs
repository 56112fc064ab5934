//! The state of a repository on which retention depends.

use super::others::{InUse, OtherOperations, Others};
use crate::error::{Error, Kind, Result};
use crate::pg::history::History;
use crate::pg::lsn::Lsn;
use crate::pg::segment::{SegmentName, SegmentSize, TimelineId, WalName};
use crate::repo::active::Explained;
use crate::repo::branches::{Branch, BranchBackup, Branches, ServerTimeline};
use crate::repo::data::{Data, NamedPacks, named};
use crate::repo::history::WalHistory;
use crate::repo::packset::PackSet;
use crate::repo::pin::Pin;
use crate::repo::record::{ManifestPart, Record, WalRange};
use crate::repo::survey::{Survey, Want};
use crate::repo::{Archive, ObjectName, Records};
use std::collections::{BTreeMap, BTreeSet};

/// A backup that has a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backup {
    pub id: String,
    pub timeline: TimelineId,
    pub start_lsn: Lsn,
    pub stop_lsn: Lsn,
    /// The end of the backup, by the clock of the server.
    pub stop_time: jiff::Timestamp,
    /// True when no page of the cluster was damaged.
    pub is_complete: bool,
    pub wal: WalRange,
    pub segment_size: SegmentSize,
    pub packs: PackSet,
    /// The objects needed to read its manifest, parts and their bases: bytes by backup and number.
    pub manifest: BTreeMap<(String, u32), u64>,
    /// Bytes of the record itself.
    pub record_size: u64,
}

impl Backup {
    /// Returns a backup of which only its place in the order is known.
    pub(super) fn stub(record: &Record) -> Backup {
        Backup {
            id: record.id.clone(),
            timeline: record.timeline,
            start_lsn: record.start_lsn,
            stop_lsn: record.stop_lsn,
            stop_time: record.stop_time,
            is_complete: record.is_complete(),
            wal: record.wal,
            segment_size: record.segment_size,
            packs: PackSet::default(),
            manifest: BTreeMap::new(),
            record_size: 0,
        }
    }
}

/// Everything that a [`super::Plan`] depends on besides the policy.
#[derive(Debug, Clone, Default)]
pub struct Stock {
    /// Listed backups in the order in which they were taken, without regard to clocks: by timeline,
    /// then by LSN.
    pub backups: Vec<Backup>,
    /// Backups whose record or manifest cannot be read.
    pub unreadable: Vec<String>,
    /// Fenced backups, each with the time of the fence.
    pub fenced: Vec<(String, jiff::Timestamp)>,
    /// Packs and manifests by backup.
    pub data: BTreeMap<String, Data>,
    /// Every WAL file and its size.
    pub wal: Vec<(WalName, u64)>,
    /// `None` when the repository has neither a backup nor a segment.
    pub segment_size: Option<SegmentSize>,
    pub histories: BTreeMap<TimelineId, History>,
    /// Timelines whose history is missing or damaged.
    pub unknown_histories: Vec<TimelineId>,
    /// Time at which the last segment of each timeline was stored.
    pub stored: BTreeMap<TimelineId, jiff::Timestamp>,
    /// Time at which the history of each timeline was stored.
    pub begun: BTreeMap<TimelineId, jiff::Timestamp>,
    /// Timelines that are retired.
    pub retired: BTreeSet<TimelineId>,
    /// Timeline of the cluster's server.
    pub server: ServerTimeline,
    pub pins: BTreeMap<String, Pin>,
    pub in_use: Vec<InUse>,
    /// Backups that a stale prune was removing: it may be suspended, and continue with them.
    pub condemned: BTreeSet<String>,
    /// Backups that a verification has seen; true when it found damage.
    pub remembered: BTreeMap<String, bool>,
    /// Backups whose records may be missing.
    pub explained: Explained,
    /// Runs of existing segments by their numbers, both ends included.
    pub segments: BTreeMap<TimelineId, Vec<(u64, u64)>>,
}

impl Stock {
    /// Reads a repository in the order that `FORMAT.md` asks for: `data/`, then announcements, then
    /// records.
    pub fn read(archive: &Archive, others: &mut Others<'_>) -> Result<Stock> {
        let mut stock = Stock { data: archive.data()?, ..Stock::default() };
        stock.take_others(others.look(archive)?);
        let want = Want { pins: true, verified: true, ..Want::default() };
        let survey = Survey::read_each(archive, want, |name, listed| stock.wal.push((name, listed.size)))?;
        let Survey { records, segment_size, wal, damaged_histories, pins, verified, retired, .. } = survey;
        stock.take(archive, records, pins)?;
        stock.segment_size = segment_size;
        stock.remembered = verified;
        stock.retired = retired;
        stock.unknown_histories = damaged_histories.into_iter().map(|(timeline, _)| timeline).collect();
        if let Some(wal) = &wal {
            stock.take_wal(wal);
        }
        stock.look_again(archive)?;
        stock.look_at_notes(archive)?;
        Ok(stock)
    }

    /// Reads announcements, records and pins again, which other operations may have changed.
    pub fn read_changing(&mut self, archive: &Archive, others: &mut Others<'_>) -> Result<()> {
        self.take_others(others.look(archive)?);
        self.take(archive, archive.records()?, archive.pins()?)?;
        self.look_again(archive)
    }

    fn take_others(&mut self, found: OtherOperations) {
        (self.in_use, self.condemned) = (found.in_use, found.condemned);
        self.explained = found.explained;
    }

    /// Returns true when the backup has a record, damaged or not.
    pub fn is_listed(&self, id: &str) -> bool {
        self.unreadable.iter().any(|other| other == id) || self.backups.iter().any(|backup| backup.id == id)
    }

    /// Returns true when the backup has a manifest part that no record names.
    pub fn has_own_part(&self, id: &str) -> bool {
        let parts = self.data.get(id).into_iter().flat_map(|data| data.manifests.keys());
        let mut places = parts.map(|number| (id.to_owned(), *number));
        places.any(|place| !self.backups.iter().any(|backup| backup.manifest.contains_key(&place)))
    }

    /// Looks again for what seems to be missing: a backup may have been recorded after the objects
    /// were listed, and another prune may have removed a backup meanwhile.
    fn look_again(&mut self, archive: &Archive) -> Result<()> {
        let lacking: Vec<Backup> =
            self.backups.iter().filter(|backup| self.missing(backup).is_some()).cloned().collect();
        for backup in lacking {
            if archive.stored_at(&ObjectName::Record(backup.id.clone()))?.is_none() {
                self.backups.retain(|other| other.id != backup.id);
                continue;
            }
            let named = backup
                .manifest
                .keys()
                .map(|(id, _)| id.as_str())
                .chain(backup.packs.runs().map(|(id, _)| id));
            let ids: BTreeSet<&str> = named.collect();
            // Bounded by the listing, whatever the record names.
            for id in ids {
                if id == backup.id || self.data.contains_key(id) {
                    self.add_needed(&backup, archive.stored_by(id)?);
                }
            }
        }
        Ok(())
    }

    /// Adds the objects that a backup needs. Others are not garbage: they may belong to a backup
    /// that began after the announcements were read.
    fn add_needed(&mut self, backup: &Backup, stored: Vec<(String, u64)>) {
        for (key, size) in stored {
            match ObjectName::parse(&key) {
                Some(ObjectName::Pack(id, number)) if backup.packs.contains(&id, number) => {
                    self.data.entry(id).or_default().packs.insert(number, size);
                }
                Some(ObjectName::Manifest(id, number))
                    if backup.manifest.contains_key(&(id.clone(), number)) =>
                {
                    self.data.entry(id).or_default().manifests.insert(number, size);
                }
                _ => {}
            }
        }
    }

    /// Looks again at notes about backups without a record: a verification may have written them
    /// after the announcements were read, and it removes those of a backup that is gone.
    fn look_at_notes(&mut self, archive: &Archive) -> Result<()> {
        if self.remembered.keys().all(|id| self.is_listed(id)) {
            return Ok(());
        }
        self.explained = archive.explained()?;
        let still = archive.remembered()?;
        self.remembered.retain(|id, _| still.contains_key(id));
        Ok(())
    }

    fn take(
        &mut self,
        archive: &Archive,
        records: Records,
        pins: BTreeMap<String, Result<Pin>>,
    ) -> Result<()> {
        let Records { good, damaged, sizes, fenced, .. } = records;
        self.unreadable = damaged.into_iter().map(|(id, _)| id).collect();
        self.fenced = fenced;
        let known: BTreeMap<String, Backup> =
            std::mem::take(&mut self.backups).into_iter().map(|backup| (backup.id.clone(), backup)).collect();
        for record in good {
            if let Some(known) = known.get(&record.id) {
                self.backups.push(known.clone());
                continue;
            }
            let size = sizes.get(&record.id).copied();
            let size = size.ok_or_else(|| Error::defect("a record without its size"))?;
            let backup = archive.packs_of(&record).and_then(|packs| Backup::of(&record, packs, size));
            match backup {
                Ok(backup) => self.backups.push(backup),
                // The needs of the backup are unknown, so nothing may be removed.
                Err(error) if error.kind() == Kind::Damage => self.unreadable.push(record.id),
                Err(error) => return Err(error),
            }
        }
        self.backups.sort_by(|a, b| a.order().cmp(&b.order()));
        self.pins = pins.into_iter().map(|(id, pin)| (id, pin.unwrap_or(Pin::UNREADABLE))).collect();
        Ok(())
    }

    fn take_wal(&mut self, wal: &WalHistory) {
        let size = wal.inventory.segment_size();
        self.histories = wal.histories().clone();
        let histories = wal.inventory.histories.iter();
        self.begun = histories.filter_map(|id| Some((*id, wal.inventory.begun(*id)?))).collect();
        for (timeline, runs) in wal.inventory.runs() {
            let is_known = timeline.0 == 1 || self.histories.contains_key(timeline);
            if !is_known && !self.unknown_histories.contains(timeline) {
                self.unknown_histories.push(*timeline);
            }
            self.stored.extend(runs.last().map(|run| (*timeline, run.stored)));
            let numbers = runs.iter().map(|run| (run.first.number(size), run.last.number(size)));
            self.segments.insert(*timeline, numbers.collect());
        }
    }

    /// Returns the first object that a backup needs and that does not exist.
    pub fn missing(&self, backup: &Backup) -> Option<String> {
        let of = |id: &str| self.data.get(id);
        for ((id, number), size) in &backup.manifest {
            if of(id).and_then(|data| data.manifests.get(number)) != Some(size) {
                return Some(ObjectName::Manifest(id.clone(), *number).to_string());
            }
        }
        let missing = named(&backup.packs, &self.data).find_map(|pack| match pack {
            NamedPacks::Missing(id, first, _) => Some(ObjectName::Pack(id.to_owned(), first).to_string()),
            NamedPacks::Listed(..) => None,
        });
        if missing.is_some() {
            return missing;
        }
        let has_wal = self.has_all(&backup.wal, backup.segment_size);
        (!has_wal).then(|| format!("WAL between {} and {}", backup.wal.first, backup.wal.last))
    }

    /// Returns true when the backup has no damaged page, all of its objects and WAL, and no damage
    /// that a verification found.
    fn is_whole(&self, backup: &Backup) -> bool {
        let is_bad = self.remembered.get(&backup.id) == Some(&true);
        backup.is_complete && !is_bad && self.missing(backup).is_none()
    }

    /// Returns true when all segments of a range exist.
    pub fn has_all(&self, wal: &WalRange, size: SegmentSize) -> bool {
        let (first, last) = (wal.first.number(size), wal.last.number(size));
        let runs = self.segments.get(&wal.first.timeline);
        runs.is_some_and(|runs| runs.iter().any(|run| run.0 <= first && last <= run.1))
    }

    /// Returns the branches of the cluster, judged at `now`.
    pub fn branches(&self, now: jiff::Timestamp) -> Branches {
        let known = self.histories.keys().chain(self.segments.keys()).chain(self.begun.keys());
        let known: BTreeSet<TimelineId> = known.copied().collect();
        let branch = |timeline: TimelineId| {
            let begun = self.begun.get(&timeline);
            let runs = self.segments.get(&timeline).filter(|runs| !runs.is_empty());
            let bounds = runs.and_then(|runs| Some((runs.first()?.0, runs.last()?.1)));
            let bounds = bounds.zip(self.segment_size);
            let name = |number, size| SegmentName::of_number(timeline, number, size);
            let branch = Branch {
                history: self.history(timeline),
                segments: bounds.map(|((first, last), size)| (name(first, size), name(last, size))),
                stored: self.stored.get(&timeline).or(begun).copied(),
                has_history: begun.is_some() || self.histories.contains_key(&timeline),
                backups: Vec::new(),
                is_retired: false,
            };
            (timeline, branch)
        };
        let backups = self.backups.iter().map(|backup| BranchBackup {
            id: &backup.id,
            timeline: backup.timeline,
            stop_lsn: backup.stop_lsn,
            stop_time: backup.stop_time,
            is_complete: self.is_whole(backup),
        });
        let backups: Vec<BranchBackup<'_>> = backups.collect();
        let all = known.into_iter().map(branch).collect();
        Branches::judge(all, self.segment_size, &backups, &self.retired, &self.server, now)
    }

    /// Returns the history of a timeline; an unknown one has no ancestors.
    pub fn history(&self, timeline: TimelineId) -> History {
        self.histories.get(&timeline).cloned().unwrap_or_else(|| History::root(timeline))
    }
}

impl Backup {
    /// Returns the backup of a record.
    ///
    /// # Errors
    ///
    /// [`Kind::Damage`] when the record names a manifest part by a key of another form.
    fn of(record: &Record, packs: PackSet, record_size: u64) -> Result<Backup> {
        let place = |part: &ManifestPart| {
            let what = || format!("`{}` is not the key of a manifest part", part.key.escape_debug());
            part.place().ok_or_else(|| Error::new(Kind::Damage, what()))
        };
        let manifest = record.manifest_objects().map(|part| Ok((place(part)?, part.size)));
        let manifest = manifest.collect::<Result<_>>()?;
        Ok(Backup { packs, manifest, record_size, ..Backup::stub(record) })
    }

    fn order(&self) -> (TimelineId, Lsn, &str) {
        (self.timeline, self.start_lsn, &self.id)
    }

    /// Returns the number of its first segment.
    pub fn first(&self) -> u64 {
        self.wal.first.number(self.segment_size)
    }

    /// Returns true when the backup needs a segment to become consistent.
    pub fn needs(&self, name: SegmentName) -> bool {
        let number = name.number(self.segment_size);
        number >= self.first()
            && number <= self.wal.last.number(self.segment_size)
            && name.timeline <= self.wal.last.timeline
    }
}
