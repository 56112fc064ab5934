//! The plan of a prune: the objects that are kept and removed. `--dry-run` prints it, a prune
//! carries it out. It is made from values alone.

use super::others::InUse;
use super::policy::{Policy, Reason, Reasons, leads_to, ordered};
use super::stock::{Backup, Stock};
use crate::error::{Error, Kind, Result};
use crate::pg::segment::{SegmentName, TimelineId, WalName};
use crate::repo::ObjectName;
use crate::repo::branches::Branches;
use crate::repo::packset::PackSet;
use jiff::{SignedDuration, Timestamp};
use std::collections::{BTreeMap, BTreeSet};

/// Age at which the fence of a stale backup is removed.
const FENCE_LIFETIME: SignedDuration = SignedDuration::from_hours(90 * 24);

/// The backups that are kept and the objects that are removed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// Kept backups, in the order in which they were taken.
    pub kept: Vec<Kept>,
    pub remove: Removal,
    /// Running operations that keep something from being removed.
    pub in_use: Vec<String>,
    /// Problems that an administrator should solve. Everything that they concern is kept.
    pub problems: Vec<String>,
    /// Reason why it is not clear which timeline is alive; the rules count for each that may be.
    pub unclear: Option<String>,
}

/// A kept backup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    pub id: String,
    pub because: Vec<Reason>,
    /// Timeline of the backup, if no timeline that is alive descends from it.
    pub dead: Option<TimelineId>,
}

/// The objects that are removed, with their bytes, in the order of the steps.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Removal {
    pub backups: Vec<String>,
    /// Backups without a record whose data are removed.
    pub unfinished: Vec<String>,
    pub records: Vec<(ObjectName, u64)>,
    /// Manifest parts and packs that no backup needs.
    pub data: Vec<(ObjectName, u64)>,
    /// WAL files, oldest first, of all timelines together.
    pub wal: Vec<(ObjectName, u64)>,
    /// Notes of verifications about backups that are removed. They are removed first, so that no
    /// backup seems to have lost its record.
    pub memories: Vec<ObjectName>,
    /// Pins of backups that do not exist, and old fences.
    pub rest: Vec<ObjectName>,
}

impl Removal {
    pub fn is_empty(&self) -> bool {
        *self == Removal::default()
    }

    fn sized(&self) -> impl Iterator<Item = &(ObjectName, u64)> {
        self.records.iter().chain(&self.data).chain(&self.wal)
    }

    pub fn objects(&self) -> u64 {
        self.names().count() as u64
    }

    pub fn bytes(&self) -> u64 {
        self.sized().map(|(_, size)| size).sum()
    }

    pub fn segments(&self) -> u64 {
        self.wal.iter().filter(|(name, _)| matches!(name, ObjectName::Wal(WalName::Segment(_)))).count()
            as u64
    }

    pub fn names(&self) -> impl Iterator<Item = &ObjectName> {
        self.sized().map(|(name, _)| name).chain(&self.memories).chain(&self.rest)
    }

    /// Returns the backups to announce: no operation may begin to need them.
    pub fn announced(&self) -> Vec<String> {
        self.backups.iter().chain(&self.unfinished).cloned().collect()
    }

    /// Returns true when the other removal contains all of this one.
    pub fn is_part_of(&self, other: &Removal) -> bool {
        let theirs: BTreeSet<&ObjectName> = other.names().collect();
        self.names().all(|name| theirs.contains(name))
    }
}

/// Requests besides the rules.
#[derive(Debug, Clone, Default)]
pub struct Wishes {
    /// Backups to remove, even if a rule keeps them.
    pub discard: BTreeSet<String>,
    /// Backups that could not be removed.
    pub stuck: BTreeSet<String>,
}

impl Wishes {
    fn is_discarded(&self, id: &str) -> bool {
        self.discard.contains(id) && !self.stuck.contains(id)
    }
}

impl Plan {
    /// Decides what is kept and removed.
    ///
    /// # Errors
    ///
    /// [`Kind::Refused`] when a backup to discard is needed, or no complete backup would be left.
    pub fn make(stock: &Stock, policy: &Policy, wishes: &Wishes, now: Timestamp) -> Result<Plan> {
        let branches = stock.branches(now);
        let choice = Choice { stock, branches: &branches, policy, wishes, now };
        let unreadable = stock.unreadable.iter().filter(|id| !wishes.is_discarded(id));
        let mut problems: Vec<String> = unreadable
            .map(|id| {
                format!("the record or manifest of backup {id} cannot be read, so what it needs is unknown: nothing is removed")
            })
            .collect();
        problems.extend(choice.lost().map(|id| {
            format!("backup {id} was listed when it was verified, and its record is gone, so what it needs is unknown: nothing is removed. Restore the record from a copy, or give the backup up with `walkeep prune --remove {id}`")
        }));
        problems.extend(choice.timelines_without_history().map(|timeline| {
            format!("{} is missing or damaged, so the backups that lead to timeline {timeline} are unknown: nothing is removed. Move the damaged file away and push it again from pg_wal of the primary or a standby, or restore it from a copy", WalName::History(*timeline))
        }));
        if !problems.is_empty() {
            let kept = stock.backups.iter().map(|backup| choice.kept(backup, [Reason::NotRemovable]));
            return Ok(Plan { kept: kept.collect(), problems, ..Plan::default() });
        }
        let whole: Vec<usize> = choice.whole(&mut problems);
        let reasons = choice.keep(&whole);
        choice.check_discarded(&reasons, &whole)?;
        let remove = choice.remove(&reasons, &whole);
        let kept = stock.backups.iter().enumerate().filter_map(|(index, backup)| {
            reasons.get(&index).map(|reasons| choice.kept(backup, reasons.iter().copied()))
        });
        let in_use = stock.in_use.iter().map(InUse::describe).collect();
        Ok(Plan { kept: kept.collect(), remove, in_use, problems, unclear: branches.unclear() })
    }
}

/// The values from which the plan is made.
struct Choice<'a> {
    stock: &'a Stock,
    branches: &'a Branches,
    policy: &'a Policy,
    wishes: &'a Wishes,
    now: Timestamp,
}

/// The objects below `data/` that kept backups need.
#[derive(Default)]
struct Live<'a> {
    packs: PackSet,
    manifests: BTreeSet<&'a (String, u32)>,
}

impl Choice<'_> {
    fn kept(&self, backup: &Backup, because: impl IntoIterator<Item = Reason>) -> Kept {
        let dead = self.branches.is_dead_at(backup.timeline, backup.stop_lsn);
        let because = because.into_iter().collect();
        Kept { id: backup.id.clone(), because, dead: dead.then_some(backup.timeline) }
    }

    /// Returns the whole backups: without damaged pages, with all of their objects and WAL, and
    /// without damage that a verification found.
    fn whole(&self, problems: &mut Vec<String>) -> Vec<usize> {
        let mut whole = Vec::new();
        for (index, backup) in self.stock.backups.iter().enumerate() {
            match self.stock.missing(backup) {
                Some(missing) => problems
                    .push(format!("{missing} of backup {} is missing: it counts as damaged", backup.id)),
                None if !backup.is_complete => {}
                None if self.stock.remembered.get(&backup.id) == Some(&true) => {
                    problems.push(format!("a verification found backup {} damaged", backup.id));
                }
                None => whole.push(index),
            }
        }
        whole
    }

    /// Returns the kept backups and the reasons.
    fn keep(&self, whole: &[usize]) -> Reasons {
        let Choice { stock, branches, policy, wishes, now } = self;
        let mut reasons = Reasons::new();
        let goes = |id: &String| {
            wishes.is_discarded(id) || stock.condemned.contains(id) && !wishes.stuck.contains(id)
        };
        let candidates: Vec<usize> = stock
            .backups
            .iter()
            .enumerate()
            .filter(|(_, backup)| !goes(&backup.id))
            .map(|(index, _)| index)
            .collect();
        let whole: Vec<usize> = whole.iter().filter(|index| candidates.contains(index)).copied().collect();
        if policy.is_empty() || !wishes.discard.is_empty() {
            let reason = if policy.is_empty() { Reason::NoRetention } else { Reason::NotNamed };
            reasons.extend(candidates.iter().map(|index| (*index, [reason].into())));
        } else {
            // The rules are applied twice, so that a damaged backup is kept as if it were whole,
            // and does not take the place of a whole one.
            policy.apply(stock, branches, &whole, *now, &mut reasons);
            policy.apply(stock, branches, &candidates, *now, &mut reasons);
        }
        // Without a whole backup only named backups are removed.
        let last_complete = if whole.is_empty() { candidates } else { self.last_complete(&whole) };
        for index in last_complete {
            reasons.entry(index).or_default().insert(Reason::LastComplete);
        }
        for (index, backup) in stock.backups.iter().enumerate() {
            let mut because = |reason| {
                reasons.entry(index).or_default().insert(reason);
            };
            match stock.pins.get(&backup.id) {
                Some(pin) if pin.holds(*now) => {
                    because(if pin.standalone { Reason::PinStandalone } else { Reason::Pin });
                }
                _ => {}
            }
            let is_needed = stock.in_use.iter().any(|user| {
                user.needs.as_ref().is_none_or(|needs| needs.contains(&backup.id))
                    || user.backup.as_ref() == Some(&backup.id)
            });
            if is_needed {
                because(Reason::InUse);
            }
            if wishes.stuck.contains(&backup.id) {
                because(Reason::NotRemovable);
            }
        }
        reasons
    }

    /// Returns the last whole backup that leads to each timeline that may be alive, and the last
    /// that leads to the timeline on which WAL still arrives; without any, the last of all.
    fn last_complete(&self, whole: &[usize]) -> Vec<usize> {
        let mut last = Vec::new();
        for timeline in self.branches.possible() {
            last.extend(ordered(self.stock, whole, timeline).last());
        }
        let arrives = self.branches.newest_wal();
        last.extend(
            arrives.and_then(|timeline| {
                whole.iter().rev().find(|index| leads_to(self.stock, **index, timeline))
            }),
        );
        if last.is_empty() {
            last.extend(whole.last());
        }
        last
    }

    /// Refuses to discard a backup that is needed, and the last whole backup.
    fn check_discarded(&self, reasons: &Reasons, whole: &[usize]) -> Result<()> {
        for (index, backup) in self.stock.backups.iter().enumerate() {
            let Some(reason) = reasons.get(&index).and_then(|reasons| reasons.first()) else {
                continue;
            };
            if self.wishes.is_discarded(&backup.id) {
                let why = match reason {
                    Reason::InUse => "a running operation needs it",
                    _ => "it is pinned; `walkeep unpin` removes the pin",
                };
                return Err(Error::new(Kind::Refused, format!("backup {} stays: {why}", backup.id)));
            }
        }
        let goes =
            |index: &usize| self.stock.backups.get(*index).is_some_and(|b| self.wishes.is_discarded(&b.id));
        if whole.iter().any(goes) && !whole.iter().any(|index| reasons.contains_key(index)) {
            return Err(Error::new(Kind::Refused, "no complete backup would be left")
                .hint("take another backup first"));
        }
        Ok(())
    }

    /// Iterates over backups without a record that a verification has seen: no prune removed the
    /// record, so it is lost.
    fn lost(&self) -> impl Iterator<Item = &String> {
        let known: BTreeSet<&String> = self.stock.backups.iter().map(|backup| &backup.id).collect();
        self.stock.data.keys().filter(move |id| {
            !known.contains(id)
                && self.stock.remembered.contains_key(*id)
                && !self.wishes.discard.contains(*id)
                && !self.stock.condemned.contains(*id)
                && !self.stock.explained.explains(id, self.stock.has_own_part(id))
        })
    }

    /// Iterates over timelines whose unknown history matters: `keep_within` follows histories.
    fn timelines_without_history(&self) -> impl Iterator<Item = &TimelineId> {
        let by_window = self.policy.keep_within.is_some() && self.wishes.discard.is_empty();
        self.stock.unknown_histories.iter().filter(move |_| by_window)
    }

    fn remove(&self, reasons: &Reasons, whole: &[usize]) -> Removal {
        let stock = self.stock;
        let mut remove = Removal::default();
        let mut live = Live::default();
        for (index, backup) in stock.backups.iter().enumerate() {
            if reasons.contains_key(&index) {
                live.packs.extend(&backup.packs);
                live.manifests.extend(backup.manifest.keys());
            } else {
                remove.backups.push(backup.id.clone());
                remove.records.push((ObjectName::Record(backup.id.clone()), backup.record_size));
            }
        }
        for id in stock.unreadable.iter().filter(|id| self.wishes.is_discarded(id)) {
            remove.backups.push(id.clone());
            remove.records.push((ObjectName::Record(id.clone()), 0));
        }
        self.remove_data(&live, reasons, &mut remove);
        self.remove_wal(reasons, whole, &mut remove);
        let stays: BTreeSet<&String> =
            reasons.keys().filter_map(|index| stock.backups.get(*index)).map(|backup| &backup.id).collect();
        for (id, is_damaged) in stock.remembered.iter().filter(|(id, _)| !stays.contains(id)) {
            remove.memories.push(ObjectName::Verified(id.clone()));
            if *is_damaged {
                remove.memories.push(ObjectName::FoundDamaged(id.clone()));
            }
        }
        remove.rest.extend(stock.pins.keys().filter(|id| !stays.contains(id)).cloned().map(ObjectName::Pin));
        let fences =
            stock.fenced.iter().filter(|(_, since)| self.now.duration_since(*since) > FENCE_LIFETIME);
        remove.rest.extend(fences.map(|(id, _)| ObjectName::Record(id.clone())));
        remove
    }

    fn remove_data(&self, live: &Live<'_>, reasons: &Reasons, remove: &mut Removal) {
        let stock = self.stock;
        let making: BTreeSet<&String> = stock.in_use.iter().filter_map(|user| user.backup.as_ref()).collect();
        let needed: BTreeSet<&String> =
            stock.in_use.iter().flat_map(|user| user.needs.iter().flatten()).collect();
        let listed: BTreeSet<&String> = stock.backups.iter().map(|backup| &backup.id).collect();
        let kept: BTreeSet<&String> =
            reasons.keys().filter_map(|i| stock.backups.get(*i)).map(|b| &b.id).collect();
        let unknown = stock.in_use.iter().any(|user| user.needs.is_none());
        if unknown {
            return;
        }
        for (id, data) in &stock.data {
            // A backup is being taken there, or uses the packs of this unfinished one. The packs
            // that a listed backup needs stay anyway.
            if making.contains(id) || (needed.contains(id) && !listed.contains(id)) {
                continue;
            }
            let before = remove.data.len();
            if !kept.contains(id) {
                let parts = data.manifests.iter().map(|(number, size)| ((id.clone(), *number), *size));
                let garbage = parts.filter(|(part, _)| !live.manifests.contains(part));
                let garbage = garbage.map(|((id, number), size)| (ObjectName::Manifest(id, number), size));
                remove.data.extend(garbage);
            }
            let garbage = data.packs.iter().filter(|(number, _)| !live.packs.contains(id, **number));
            remove.data.extend(garbage.map(|(number, size)| (ObjectName::Pack(id.clone(), *number), *size)));
            if !listed.contains(id) && !remove.backups.contains(id) && remove.data.len() > before {
                remove.unfinished.push(id.clone());
            }
        }
    }

    fn remove_wal(&self, reasons: &Reasons, whole: &[usize], remove: &mut Removal) {
        let Some(floor) = self.floor(reasons, whole) else {
            return;
        };
        let Some(size) = self.stock.segment_size else {
            return;
        };
        let standalone: Vec<&Backup> = reasons
            .iter()
            .filter(|(_, reasons)| reasons.contains(&Reason::PinStandalone))
            .filter_map(|(index, _)| self.stock.backups.get(*index))
            .collect();
        let mut old: BTreeMap<(u64, SegmentName), Vec<(ObjectName, u64)>> = BTreeMap::new();
        for (name, bytes) in &self.stock.wal {
            let (WalName::Segment(segment) | WalName::Partial(segment) | WalName::Backup(segment, _)) = *name
            else {
                continue;
            };
            let number = segment.number(size);
            let stays = number >= floor
                || !segment.is_possible(size)
                || standalone.iter().any(|backup| backup.needs(segment));
            if !stays {
                old.entry((number, segment)).or_default().push((ObjectName::Wal(*name), *bytes));
            }
        }
        remove.wal = old.into_values().flatten().collect();
    }

    /// Returns the number of the first segment that stays with all later ones; `None` when all WAL
    /// stays.
    fn floor(&self, reasons: &Reasons, whole: &[usize]) -> Option<u64> {
        let stock = self.stock;
        let size = stock.segment_size?;
        if self.policy.is_empty() && self.wishes.discard.is_empty() {
            return None;
        }
        let mixed = stock.backups.iter().any(|backup| backup.segment_size != size);
        if mixed || !whole.iter().any(|index| reasons.contains_key(index)) {
            return None;
        }
        let only_standalone =
            |reasons: &BTreeSet<Reason>| reasons.iter().all(|reason| *reason == Reason::PinStandalone);
        let kept = reasons.iter().filter(|(_, reasons)| !only_standalone(reasons));
        let mut floor = kept.filter_map(|(index, _)| stock.backups.get(*index)).map(Backup::first).min()?;
        for user in &stock.in_use {
            floor = floor.min(user.wal_from?.0 / size.bytes());
        }
        Some(floor)
    }
}
