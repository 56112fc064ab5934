//! The last part of a verification: whether the WAL leads through, which backups each problem is about and what it costs,
//! and what has gone away meanwhile because nobody keeps it.

use super::cost::Costs;
use super::findings::{Kind, Problem, Unknown};
use super::run::{Report, Run, Scope};
use crate::error::{Error, Kind as ErrorKind, Result};
use crate::pg::segment::{SegmentName, SegmentSize, WalName};
use crate::progress;
use crate::repo::ObjectName;
use crate::repo::catalog::{Gap, Inventory};
use crate::repo::entry::Entry;
use crate::repo::history::WalHistory;
use crate::repo::manifest::Parts;
use crate::repo::record::Record;
use std::collections::{BTreeMap, BTreeSet};

/// Where frames begin, and bad bytes of their content.
type Places = BTreeSet<(u64, u32, u32)>;

/// Problems whose cost is computed: everything is looked at again for each.
const COSTED: usize = 200;

/// Of a backup that could not be asked what it needs of what is bad. One whose manifest is bad has a problem of its own.
fn not_asked(record: &Record, error: &Error) -> Option<Unknown> {
    let is_known = matches!(error.kind(), ErrorKind::Damage | ErrorKind::Identity);
    let object = ObjectName::Record(record.id.clone()).to_string();
    (!is_known).then(|| Unknown { object, detail: error.to_string() })
}

impl Run<'_> {
    pub fn end(self) -> Result<Report> {
        self.gaps();
        self.lost_tails();
        let (mut problems, mut unknown, mut checked) = self.findings.take();
        self.attribute(&mut problems, &mut unknown);
        if !problems.is_empty() {
            progress::step("looking at the problems again");
            self.drop_pruned(&mut problems)?;
            problems.iter_mut().take(COSTED).for_each(|problem| self.cost(problem));
        }
        self.remember(&problems, !unknown.is_empty());
        checked.backups = self.selected.len() as u64;
        let bad_pages = self.selected().filter(|record| !record.is_complete());
        let bad_pages = bad_pages.map(|record| record.id.clone()).collect();
        Ok(Report { checked, trusted: self.trusted(), problems, unknown, bad_pages })
    }

    /// Bytes of what was not read again.
    fn trusted(&self) -> u64 {
        let packs = self.data.iter().flat_map(|(id, data)| {
            data.packs.iter().filter(move |(number, _)| !self.is_due(id, **number)).map(|(_, size)| size)
        });
        let wal = self.wal.iter().filter(|(name, _)| !self.is_wal_due(*name)).map(|(_, size)| size);
        packs.chain(wal).sum()
    }

    /// The backups from which the WAL has to lead on.
    fn leading(&self) -> Vec<&Record> {
        let in_scope = |record: &&Record| match self.options.scope {
            Scope::Backup(_) => self.selected.contains(&record.id),
            Scope::All | Scope::Wal => true,
        };
        let leads = |record: &&Record| !self.standalone.contains(&record.id);
        self.records.iter().filter(in_scope).filter(leads).collect()
    }

    fn gaps(&self) {
        let Some(lines) = &self.lines else {
            return;
        };
        let size = lines.inventory.segment_size();
        for gap in lines.gaps(&self.leading()) {
            let name = ObjectName::Wal(WalName::Segment(gap.first));
            if self.findings.is_known(&name) || self.has_come(&gap, size) {
                continue;
            }
            let count = gap.last.number(size) - gap.first.number(size) + 1;
            let detail = match count {
                1 => "it is missing, and later ones are there".to_owned(),
                _ => format!("{count} segments are missing, to {}, and later ones are there", gap.last),
            };
            self.findings.problem(Kind::Gap, &name, detail, []);
        }
    }

    /// Whether what was missing when the WAL was listed has been stored since then.
    fn has_come(&self, gap: &Gap, size: SegmentSize) -> bool {
        let numbers = gap.first.number(size)..=gap.last.number(size);
        numbers.map(|number| WalName::Segment(SegmentName::of_number(gap.timeline, number, size))).all(
            |name| {
                self.archive.has_wal(name).unwrap_or_else(|error| {
                    self.findings.unknown(&ObjectName::Wal(name), &error);
                    false
                })
            },
        )
    }

    /// Segments at the end of a timeline that were there when they were verified: nothing else tells.
    fn lost_tails(&self) {
        let Some(WalHistory { inventory, .. }) = &self.lines else {
            return;
        };
        let size = inventory.segment_size();
        let Some(floor) = self.leading().iter().map(|record| record.wal.first.number(size)).min() else {
            return;
        };
        let is_last = |name: &SegmentName| {
            let last = inventory.runs().get(&name.timeline).and_then(|runs| runs.last());
            last.is_none_or(|run| run.last < *name)
        };
        for name in self.memory.segments.keys() {
            if name.number(size) >= floor && !self.stored.contains_key(name) && is_last(name) {
                let object = ObjectName::Wal(WalName::Segment(*name));
                let detail = "it is missing: it was there when it was verified, and nobody pruned it";
                self.findings.problem(Kind::Missing, &object, detail, []);
            }
        }
    }

    /// Finds the backups that need what is bad of packs.
    fn attribute(&self, problems: &mut [Problem], unknown: &mut Vec<Unknown>) {
        let mut bad: BTreeMap<String, &mut Problem> = problems
            .iter_mut()
            .filter(|problem| problem.hurts.all || !problem.hurts.places.is_empty())
            .map(|problem| (problem.object.clone(), problem))
            .collect();
        if bad.is_empty() {
            return;
        }
        for record in self.selected() {
            let packs = match self.archive.packs_of(record) {
                Ok(packs) => packs,
                Err(error) => {
                    unknown.extend(not_asked(record, &error));
                    continue;
                }
            };
            let mut places = BTreeMap::new();
            for (object, problem) in &mut bad {
                let Some(ObjectName::Pack(id, number)) = ObjectName::parse(object) else {
                    continue;
                };
                if !packs.contains(&id, number) || problem.backups.contains(&record.id) {
                    continue;
                }
                match problem.hurts.all {
                    true => drop(problem.backups.insert(record.id.clone())),
                    false => drop(places.insert(object.clone(), problem.hurts.places.clone())),
                }
            }
            for object in self.hurt(record, places, unknown) {
                if let Some(problem) = bad.get_mut(&object) {
                    problem.backups.insert(record.id.clone());
                }
            }
        }
    }

    /// Those of the packs in which a backup has a block at one of these places.
    fn hurt(
        &self,
        record: &Record,
        mut places: BTreeMap<String, Places>,
        unknown: &mut Vec<Unknown>,
    ) -> BTreeSet<String> {
        let mut hurt = BTreeSet::new();
        let mut parts = Parts::of(self.archive, record);
        while !places.is_empty()
            && let Some(part) = parts.next()
        {
            let part = match part {
                Ok(part) => part,
                // What was read until here tells.
                Err(error) => {
                    unknown.extend(not_asked(record, &error));
                    break;
                }
            };
            for file in part.entries.iter().filter_map(Entry::any_file) {
                for (blocks, extent) in file.extents() {
                    let bytes = file.bytes_of(&blocks);
                    let begin = u64::from(extent.skip);
                    let end = begin + (bytes.end - bytes.start);
                    let is_bad = |(offset, from, to): &(u64, u32, u32)| {
                        *offset == extent.offset && u64::from(*from) < end && begin < u64::from(*to)
                    };
                    let Some(pack) = part.packs.get(extent.pack as usize) else {
                        continue;
                    };
                    let from = (extent.offset, 0, 0)..=(extent.offset, u32::MAX, u32::MAX);
                    if places.get(pack).is_some_and(|places| places.range(from).any(is_bad)) {
                        places.remove(pack);
                        hurt.insert(pack.clone());
                    }
                }
            }
        }
        hurt
    }

    /// What is gone because a prune has removed it since this began is no problem.
    fn drop_pruned(&self, problems: &mut Vec<Problem>) -> Result<()> {
        let records = self.archive.records()?;
        let listed: BTreeSet<&String> = records
            .good
            .iter()
            .map(|record| &record.id)
            .chain(records.damaged.iter().map(|(id, _)| id))
            .collect();
        let before: BTreeSet<&String> = self.records.iter().map(|record| &record.id).collect();
        let pruned: BTreeSet<&String> = before.difference(&listed).copied().collect();
        let remembered = self.archive.remembered()?;
        let leading = records.good.iter().filter(|record| !self.standalone.contains(&record.id));
        let floor = leading.map(|record| record.wal.first.number(record.segment_size)).min();
        let size = self.lines.as_ref().map(|lines| lines.inventory.segment_size());
        problems.retain_mut(|problem| {
            let had = !problem.backups.is_empty();
            problem.backups.retain(|id| !pruned.contains(id));
            let is_about_pruned = had && problem.backups.is_empty();
            match ObjectName::parse(&problem.object) {
                Some(ObjectName::Record(id)) if problem.kind == Kind::Missing => remembered.contains_key(&id),
                Some(ObjectName::Wal(
                    WalName::Segment(name) | WalName::Partial(name) | WalName::Backup(name, _),
                )) if problem.kind != Kind::Damaged => {
                    let is_below = size.zip(floor).is_some_and(|(size, floor)| name.number(size) < floor);
                    !(is_about_pruned || is_below && problem.backups.is_empty())
                }
                _ => !is_about_pruned,
            }
        });
        Ok(())
    }

    fn cost(&self, problem: &mut Problem) {
        let Some(lines) = &self.lines else {
            return;
        };
        let costs = Costs { lines, records: &self.records, stored: &self.stored };
        match ObjectName::parse(&problem.object) {
            Some(ObjectName::Wal(WalName::Segment(name))) => {
                let (before, after) = self.inventories(&lines.inventory, problem.kind, name);
                let (lost, affected) = costs.of_wal(before, after);
                // One that is kept with its own WAL alone leads no further anyway.
                let is_own = |id: &String| {
                    let record = self.records.iter().find(|record| record.id == *id);
                    record.is_some_and(|record| record.wal.first <= name && name <= record.wal.last)
                };
                let hurt = affected.into_iter().filter(|id| !self.standalone.contains(id) || is_own(id));
                problem.backups.extend(hurt);
                problem.window = Some(lost);
            }
            Some(ObjectName::Wal(WalName::Partial(_) | WalName::Backup(..)))
            | Some(ObjectName::Pin(_) | ObjectName::VerifiedPacks | ObjectName::VerifiedWal)
            | Some(
                ObjectName::Verified(_)
                | ObjectName::FoundDamaged(_)
                | ObjectName::Active(_)
                | ObjectName::Drills,
            ) => {
                problem.window = Some(Vec::new());
            }
            Some(ObjectName::Record(_) | ObjectName::Manifest(..) | ObjectName::Pack(..)) => {
                let known =
                    problem.backups.iter().any(|id| self.records.iter().any(|record| record.id == *id));
                problem.window = known.then(|| costs.of_backups(&problem.backups));
            }
            Some(ObjectName::Wal(WalName::History(_))) | None => {}
        }
    }

    /// The WAL without the problem, and with it.
    fn inventories(&self, now: &Inventory, kind: Kind, name: SegmentName) -> (Inventory, Inventory) {
        if kind == Kind::Damaged {
            return (now.clone(), now.without(name));
        }
        let size = now.segment_size();
        let runs = now.runs().get(&name.timeline);
        let next = runs.and_then(|runs| runs.iter().map(|run| run.first).find(|first| *first > name));
        let last =
            next.map_or(name, |next| SegmentName::of_number(name.timeline, next.number(size) - 1, size));
        (now.filled(&Gap { timeline: name.timeline, first: name, last }), now.clone())
    }
}
