//! End of a verification: checks the WAL for gaps, finds the backups that each problem affects and
//! the cost of the problem, and drops the problems of objects that a prune has removed meanwhile.

use super::cost::Costs;
use super::findings::{Problem, ProblemKind, is_damage};
use super::state::{Run, Scope, VerifyResult};
use crate::error::{Error, Result};
use crate::pg::lsn::Lsn;
use crate::pg::record::{FoundRecord, Meaning};
use crate::pg::segment::{SegmentName, SegmentSize, TimelineId, WalName};
use crate::progress;
use crate::repo::ObjectName;
use crate::repo::catalog::{Gap, Inventory};
use crate::repo::entry::Entry;
use crate::repo::evidence::FoundSeams;
use crate::repo::history::WalHistory;
use crate::repo::holes::{HoleJudge, HoleState};
use crate::repo::manifest::Parts;
use crate::repo::record::{Record, WalRange};
use crate::repo::seams::before;
use std::collections::{BTreeMap, BTreeSet};

/// Bad places of a pack: the offset of a frame, and a range of bytes of its content.
type BadPlaces = BTreeSet<(u64, usize, usize)>;

/// Maximum number of segments at the ends of timelines that are reported as missing.
const MAX_LOST: usize = 1000;

/// Maximum number of problems whose cost is computed: each computation looks at the whole archive.
const MAX_COSTED: usize = 200;

impl Run<'_> {
    /// Ends the verification and returns its result.
    pub fn end(self) -> Result<VerifyResult> {
        self.gaps();
        let seams = self.seams();
        self.foreign_wal();
        self.lost_tails();
        let mut problems = self.findings.take_problems();
        self.attribute(&mut problems);
        if !problems.is_empty() {
            progress::step("looking at the problems again");
            self.drop_pruned(&mut problems)?;
            problems.iter_mut().take(MAX_COSTED).for_each(|problem| self.cost(problem, &seams));
        }
        let unknown = self.findings.take_unknown();
        self.remember(&problems, &seams, !unknown.is_empty());
        let mut checked = self.findings.checked();
        checked.backups = self.selected.len() as u64;
        let bad_pages = self.selected().filter(|record| !record.is_complete());
        let bad_pages = bad_pages.map(|record| record.id.clone()).collect();
        let notes = self.findings.take_notes();
        Ok(VerifyResult { checked, trusted: self.trusted(), problems, unknown, notes, bad_pages })
    }

    /// Number of bytes that were not read again.
    fn trusted(&self) -> u64 {
        let packs = self.data.iter().flat_map(|(id, data)| {
            data.packs.iter().filter(move |(number, _)| !self.is_due(id, **number)).map(|(_, size)| size)
        });
        let wal = self.wal.iter().filter(|(name, _)| !self.is_wal_due(*name)).map(|(_, size)| size);
        packs.chain(wal).sum()
    }

    /// Records of the backups behind which the WAL has to continue.
    fn leading(&self) -> Vec<&Record> {
        let in_scope = |record: &&Record| match self.options.scope {
            Scope::Backup(_) => self.selected.contains(&record.id),
            Scope::All | Scope::Wal => true,
        };
        let leads = |record: &&Record| !self.standalone.contains(&record.id);
        self.records.iter().filter(in_scope).filter(leads).collect()
    }

    fn judge(&self, size: SegmentSize) -> HoleJudge<'_> {
        let is_good =
            |record: &&Record| record.is_complete() && self.evidence.backups.get(&record.id) != Some(&true);
        HoleJudge {
            branches: &self.branches,
            size,
            good: self.leading().into_iter().filter(is_good).collect(),
            leading: self.leading(),
            known: &self.known_gaps,
        }
    }

    /// Compares each segment that was read with the one before, and reports seams like gaps. Returns
    /// all seams, also those that no backup leads through; seams that an earlier verification has
    /// found stay where the segments were not read now.
    fn seams(&self) -> FoundSeams {
        let Some(history) = &self.history else {
            return FoundSeams::default();
        };
        let size = history.inventory.segment_size();
        let read = self.findings.read.lock();
        let edges = |name: &SegmentName| read.get(name).and_then(|records| records.edges.as_ref());
        let mut seams = FoundSeams::default();
        let floor = self.leading().iter().map(|record| record.wal.first.number(size)).min();
        let judge = self.judge(size);
        for (name, records) in read.iter() {
            let number = name.number(size);
            let Some(before) = before(history, *name) else {
                continue;
            };
            let (Some(earlier), Some(own)) = (edges(&before), records.edges.as_ref()) else {
                continue;
            };
            let Some(seam) = earlier.seam_before(own) else {
                continue;
            };
            seams.0.push((*name, seam.at));
            let object = ObjectName::Wal(WalName::Segment(*name));
            if floor.is_none_or(|floor| number <= floor) || self.findings.has_problem(&object) {
                continue;
            }
            let gap = Gap { timeline: name.timeline, first: *name, last: *name, seam: Some(seam.at) };
            let detail = format!("it does not continue {before}: recovery ends at {}", seam.at);
            match judge.judge(gap, None).note() {
                Some(note) => self.findings.note(&object, format!("{detail}; {note}")),
                None => self.findings.problem(ProblemKind::Seam, &object, detail, []),
            }
        }
        let is_kept = |name: &SegmentName| self.stored.contains_key(name) && !read.contains_key(name);
        let known = self.known_seams.0.iter().filter(|(name, _)| is_kept(name)).copied();
        seams.0.extend(known);
        seams.0.sort();
        seams
    }

    /// Reports the backups whose WAL is another server's: it has not the records that the backup
    /// itself has written.
    fn foreign_wal(&self) {
        let read = self.findings.read.lock();
        let labels = self.findings.labels.lock();
        for record in self.selected() {
            let Some(label) = labels.get(&record.id) else {
                continue;
            };
            let size = record.segment_size;
            let at = |lsn| read.get(&SegmentName::containing(record.timeline, lsn, size));
            let missing = |meaning: &str, lsn: Lsn| {
                let WalRange { first, last } = record.wal;
                let object = ObjectName::Record(record.id.clone());
                let detail = format!(
                    "its {meaning}, at {lsn}, is not in the WAL from {first} to {last}, which is another server's"
                );
                self.findings.problem(ProblemKind::Inconsistent, &object, detail, [record.id.as_str()]);
            };
            let range = read.range(record.wal.first..=record.wal.last);
            if let Some((name, records)) = range.into_iter().find(|(_, records)| records.size != size.bytes())
            {
                let object = ObjectName::Record(record.id.clone());
                let detail = format!(
                    "{name} has {} bytes, the segments of the backup have {}: the segment size of the cluster was changed, and the same names mean other WAL",
                    records.size,
                    size.bytes()
                );
                self.findings.problem(ProblemKind::Inconsistent, &object, detail, [record.id.as_str()]);
                continue;
            }
            if let Some(records) = at(label.checkpoint) {
                let is_own = |found: &FoundRecord| {
                    found.begin == label.checkpoint
                        && matches!(found.meaning, Meaning::Checkpoint { redo, .. } if redo == label.start)
                };
                let is_open = records.edges.is_some_and(|edges| edges.opens(label.checkpoint));
                if !is_open && !records.landmarks.iter().any(is_own) {
                    missing("checkpoint", label.checkpoint);
                    continue;
                }
            }
            let stop = record.stop_lsn;
            if label.from_standby {
                continue;
            }
            if let Some(records) = read.get(&SegmentName::ending_at(record.timeline, stop, size)) {
                let is_own = |found: &FoundRecord| {
                    let is_end = |start| start == label.start && found.end == stop;
                    matches!(found.meaning, Meaning::BackupEnd { start } if is_end(start))
                };
                let is_open = records.edges.is_some_and(|edges| edges.may_end_earlier(stop));
                if !is_open && !records.landmarks.iter().any(is_own) {
                    missing("end", stop);
                }
            }
        }
    }

    fn gaps(&self) {
        let Some(history) = &self.history else {
            return;
        };
        let size = history.inventory.segment_size();
        let judge = self.judge(size);
        for gap in history.gaps(&self.leading()) {
            let name = ObjectName::Wal(WalName::Segment(gap.first));
            if self.findings.has_problem(&name) || gap.seam.is_none() && self.was_filled(&gap, size) {
                continue;
            }
            // A later backup has dealt with it, or no server continues the branch. WAL of such a branch
            // that was there once is lost, unless the branch is retired.
            let hole = judge.judge(gap, None);
            let is_lost =
                hole.state == HoleState::Dead && self.existed(&gap) && !self.is_retired(gap.timeline);
            if let Some(note) = hole.note().filter(|_| !is_lost) {
                self.findings.note(&name, format!("it is missing up to {}: {note}", gap.last));
                continue;
            }
            if let Some(at) = gap.seam {
                let detail = format!(
                    "an earlier verification found that it does not continue the WAL before it: recovery ends at {at}"
                );
                self.findings.problem(ProblemKind::Seam, &name, detail, []);
                continue;
            }
            let count = gap.last.number(size) - gap.first.number(size) + 1;
            let detail = match count {
                1 => "it is missing although later ones exist".to_owned(),
                _ => format!("{count} segments are missing, up to {}, although later ones exist", gap.last),
            };
            self.findings.problem(ProblemKind::Gap, &name, detail, []);
        }
    }

    /// Whether an earlier verification has read a segment of a gap.
    fn existed(&self, gap: &Gap) -> bool {
        self.evidence.wal.has_any(gap.first, gap.last)
    }

    fn is_retired(&self, timeline: TimelineId) -> bool {
        self.branches.get(timeline).is_some_and(|branch| branch.is_retired)
    }

    /// Whether the segments of a gap have been stored since the WAL was listed.
    fn was_filled(&self, gap: &Gap, size: SegmentSize) -> bool {
        let numbers = gap.first.number(size)..=gap.last.number(size);
        numbers.map(|number| WalName::Segment(SegmentName::of_number(gap.timeline, number, size))).all(
            |name| {
                self.archive.has_wal(name).unwrap_or_else(|error| {
                    // Damage: something else than a file, which was reported.
                    if !is_damage(&error) {
                        self.findings.unknown(&ObjectName::Wal(name), &error);
                    }
                    false
                })
            },
        )
    }

    /// Checks that the segments at the end of a timeline still exist, if an earlier verification
    /// has read them.
    fn lost_tails(&self) {
        let Some(WalHistory { inventory, .. }) = &self.history else {
            return;
        };
        let size = inventory.segment_size();
        let Some(floor) = self.leading().iter().map(|record| record.wal.first.number(size)).min() else {
            return;
        };
        // Only segments behind the last one of their timeline.
        let behind = self.evidence.wal.runs().flat_map(|(first, last)| {
            let stored = inventory.runs().get(&first.timeline).and_then(|runs| runs.last());
            let behind = stored.map_or(0, |run| run.last.number(size) + 1);
            let numbers = first.number(size).max(floor).max(behind)..=last.number(size);
            numbers.map(move |number| SegmentName::of_number(first.timeline, number, size))
        });
        for name in behind.take(MAX_LOST) {
            let object = ObjectName::Wal(WalName::Segment(name));
            let detail = "it is missing: it existed when it was verified, and no prune removed it";
            if self.is_retired(name.timeline) {
                self.findings.note(&object, format!("{detail}; timeline {} is retired", name.timeline));
            } else {
                self.findings.problem(ProblemKind::Missing, &object, detail, []);
            }
        }
    }

    /// Adds to the problems with packs the backups that need the bad blocks.
    fn attribute(&self, problems: &mut [Problem]) {
        let mut bad: BTreeMap<String, &mut Problem> = problems
            .iter_mut()
            .filter(|problem| problem.impact.all || !problem.impact.places.is_empty())
            .map(|problem| (problem.object.clone(), problem))
            .collect();
        if bad.is_empty() {
            return;
        }
        for record in self.selected() {
            let packs = match self.archive.packs_of(record) {
                Ok(packs) => packs,
                Err(error) => {
                    self.needs_unknown(record, &error);
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
                if problem.impact.all {
                    problem.backups.insert(record.id.clone());
                } else {
                    places.insert(object.clone(), problem.impact.places.clone());
                }
            }
            for object in self.affected_packs(record, places) {
                if let Some(problem) = bad.get_mut(&object) {
                    problem.backups.insert(record.id.clone());
                }
            }
        }
    }

    /// Reports that it is not known whether a backup needs bad blocks. A damaged manifest is a
    /// problem of its own.
    fn needs_unknown(&self, record: &Record, error: &Error) {
        if !is_damage(error) {
            self.findings.unknown(&ObjectName::Record(record.id.clone()), error);
        }
    }

    /// Returns the packs in which a backup has a block at one of these places.
    fn affected_packs(&self, record: &Record, mut places: BTreeMap<String, BadPlaces>) -> BTreeSet<String> {
        let mut affected = BTreeSet::new();
        let mut parts = Parts::of(self.archive, record);
        while !places.is_empty()
            && let Some(part) = parts.next()
        {
            let part = match part {
                Ok(part) => part,
                Err(error) => {
                    self.needs_unknown(record, &error);
                    break;
                }
            };
            for file in part.entries.iter().filter_map(Entry::any_file) {
                for (blocks, extent) in file.extents() {
                    let bytes = file.bytes_of(&blocks);
                    let begin = u64::from(extent.skip);
                    let end = begin + (bytes.end - bytes.start);
                    let is_bad =
                        |(_, from, to): &(u64, usize, usize)| (*from as u64) < end && begin < *to as u64;
                    let Some(pack) = part.packs.get(extent.pack as usize) else {
                        continue;
                    };
                    let frame = (extent.offset, 0, 0)..=(extent.offset, usize::MAX, usize::MAX);
                    if places.get(pack).is_some_and(|places| places.range(frame).any(is_bad)) {
                        places.remove(pack);
                        affected.insert(pack.clone());
                    }
                }
            }
        }
        affected
    }

    /// Drops the problems of objects that a prune has removed since the verification began.
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
        let size = self.history.as_ref().map(|history| history.inventory.segment_size());
        problems.retain_mut(|problem| {
            let had = !problem.backups.is_empty();
            problem.backups.retain(|id| !pruned.contains(id));
            let is_about_pruned = had && problem.backups.is_empty();
            match ObjectName::parse(&problem.object) {
                Some(ObjectName::Record(id)) if problem.kind == ProblemKind::Missing => {
                    remembered.contains_key(&id)
                }
                Some(ObjectName::Wal(
                    WalName::Segment(name) | WalName::Partial(name) | WalName::Backup(name, _),
                )) if problem.kind != ProblemKind::Damaged => {
                    let is_below = size.zip(floor).is_some_and(|(size, floor)| name.number(size) < floor);
                    !(is_about_pruned || is_below && problem.backups.is_empty())
                }
                _ => !is_about_pruned,
            }
        });
        Ok(())
    }

    /// Computes the cost of a problem.
    fn cost(&self, problem: &mut Problem, seams: &FoundSeams) {
        let Some(history) = &self.history else {
            return;
        };
        let costs = Costs { history, records: &self.records, stored: &self.stored };
        match ObjectName::parse(&problem.object) {
            Some(ObjectName::Wal(WalName::Segment(name))) => {
                let (before, after) = self.inventories(&history.inventory, problem.kind, name, seams);
                let (lost, affected) = costs.of_wal(before, after);
                // A backup that is kept with its own WAL alone leads no further.
                let is_own = |id: &String| {
                    let record = self.records.iter().find(|record| record.id == *id);
                    record.is_some_and(|record| record.wal.first <= name && name <= record.wal.last)
                };
                let led = affected.into_iter().filter(|id| !self.standalone.contains(id) || is_own(id));
                problem.backups.extend(led);
                problem.window = Some(lost);
            }
            Some(
                ObjectName::Wal(WalName::Partial(_) | WalName::Backup(..))
                | ObjectName::Pin(_)
                | ObjectName::VerifiedPacks
                | ObjectName::VerifiedWal
                | ObjectName::KnownGaps
                | ObjectName::Seams
                | ObjectName::Verified(_)
                | ObjectName::FoundDamaged(_)
                | ObjectName::Active(_)
                | ObjectName::Drills
                | ObjectName::Retired(_),
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

    /// Returns the WAL without the problem, and with it.
    fn inventories(
        &self,
        now: &Inventory,
        kind: ProblemKind,
        name: SegmentName,
        seams: &FoundSeams,
    ) -> (Inventory, Inventory) {
        if kind == ProblemKind::Seam {
            let mut before = now.clone();
            // A quick verification has the seams of earlier ones.
            let known = before.take_seams();
            let at = seams.0.iter().find(|(seam, _)| *seam == name).map(|(_, at)| *at);
            let at = at.or_else(|| known.get(&name).copied());
            let after = at.map_or_else(|| now.clone(), |at| before.with_seam(name, at));
            return (before, after);
        }
        if kind == ProblemKind::Damaged {
            return (now.clone(), now.without(name));
        }
        let size = now.segment_size();
        let runs = now.runs().get(&name.timeline);
        let next = runs.and_then(|runs| runs.iter().map(|run| run.first).find(|first| *first > name));
        let last =
            next.map_or(name, |next| SegmentName::of_number(name.timeline, next.number(size) - 1, size));
        (now.filled(&Gap { timeline: name.timeline, first: name, last, seam: None }), now.clone())
    }
}
