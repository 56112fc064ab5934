//! The WAL of an archive as runs of segments without a hole, and how far WAL leads from a backup.
//! Knows names, sizes and times of files, and nothing of their content.

use super::Archive;
use super::record::Record;
use crate::error::Result;
use crate::pg::history::History;
use crate::pg::lsn::Lsn;
use crate::pg::segment::{SegmentName, SegmentSize, TimelineId, WalName};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Consecutive segments of one timeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentRun {
    pub first: SegmentName,
    pub last: SegmentName,
    /// Time at which the last one was stored, by the clock of the store.
    pub stored: jiff::Timestamp,
}

/// Missing segments between others, both ends included; or a seam, at which `first` and `last` are
/// the segment that is there and does not continue the WAL before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gap {
    pub timeline: TimelineId,
    pub first: SegmentName,
    pub last: SegmentName,
    /// Position up to which recovery gets before a seam; `None` when the segments are missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seam: Option<Lsn>,
}

impl Gap {
    /// Position behind the part of the WAL that recovery cannot pass.
    pub fn end(&self, size: SegmentSize) -> Lsn {
        match self.seam {
            Some(_) => self.first.start(size),
            None => Lsn(self.last.start(size).0 + size.bytes()),
        }
    }

    /// Describes the gap.
    pub fn describe(&self) -> String {
        match self.seam {
            Some(at) => format!("{} does not continue the WAL before it, which leads to {at}", self.first),
            None if self.first == self.last => format!("{} is missing", self.first),
            None => format!("{} to {} are missing", self.first, self.last),
        }
    }
}

/// The WAL of an archive. Memory grows with the number of runs, not of segments.
#[derive(Debug, Clone)]
pub struct Inventory {
    size: SegmentSize,
    runs: BTreeMap<TimelineId, Vec<SegmentRun>>,
    pub histories: Vec<TimelineId>,
    /// Time at which the history of each timeline was stored: soon after the timeline began.
    begun: BTreeMap<TimelineId, jiff::Timestamp>,
    /// Bytes of all files, as stored.
    pub bytes: u64,
    /// Segments that do not continue the WAL before them, with the position up to which recovery
    /// gets.
    seams: BTreeMap<SegmentName, Lsn>,
}

/// The end of the WAL behind a backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reach {
    /// The last segment that can be reached.
    pub last: SegmentName,
    /// Number of segments from the first segment of the backup to `last`.
    pub segments: u64,
    /// Time at which the run of `last` was last extended.
    pub stored: jiff::Timestamp,
    /// The segments that are missing behind `last`; `None` when `last` is the end of the archive.
    pub gap: Option<Gap>,
}

impl Inventory {
    pub fn new(size: SegmentSize) -> Inventory {
        let (runs, begun) = (BTreeMap::new(), BTreeMap::new());
        Inventory { size, runs, histories: Vec::new(), begun, bytes: 0, seams: BTreeMap::new() }
    }

    /// Lists the WAL of an archive with segments of this size.
    pub fn read(archive: &Archive, size: SegmentSize) -> Result<Inventory> {
        let mut inventory = Inventory::new(size);
        archive.each_wal(|name, entry| {
            inventory.add(name, entry.modified, entry.size);
            Ok(())
        })?;
        Ok(inventory)
    }

    /// Adds a WAL file. The segments of a timeline are added in order.
    pub fn add(&mut self, name: WalName, stored: jiff::Timestamp, bytes: u64) {
        self.bytes += bytes;
        match name {
            WalName::Segment(name) => {
                let runs = self.runs.entry(name.timeline).or_default();
                match runs.last_mut() {
                    Some(run) if run.last.next(self.size) == name => {
                        run.last = name;
                        run.stored = stored;
                    }
                    _ => runs.push(SegmentRun { first: name, last: name, stored }),
                }
            }
            WalName::History(timeline) => {
                self.histories.push(timeline);
                self.begun.insert(timeline, stored);
            }
            WalName::Partial(_) | WalName::Backup(..) => {}
        }
    }

    /// Adds a seam before a segment that exists; WAL does not lead over it.
    pub fn add_seam(&mut self, segment: SegmentName, at: Lsn) {
        if self.run_with(segment).is_some() {
            self.seams.insert(segment, at);
        }
    }

    /// Returns an inventory with one more seam.
    pub fn with_seam(&self, segment: SegmentName, at: Lsn) -> Inventory {
        let mut other = self.clone();
        other.add_seam(segment, at);
        other
    }

    /// Removes all seams, and returns them.
    pub fn take_seams(&mut self) -> BTreeMap<SegmentName, Lsn> {
        std::mem::take(&mut self.seams)
    }

    /// Returns the seam before a segment as a gap.
    fn seam_gap(&self, segment: SegmentName) -> Option<Gap> {
        let seam = Some(*self.seams.get(&segment)?);
        Some(Gap { timeline: segment.timeline, first: segment, last: segment, seam })
    }

    /// Whether the archive has a segment.
    pub fn has(&self, segment: SegmentName) -> bool {
        self.run_with(segment).is_some()
    }

    /// Returns the runs, by timeline.
    pub fn runs(&self) -> &BTreeMap<TimelineId, Vec<SegmentRun>> {
        &self.runs
    }

    /// Returns an inventory without one segment.
    pub fn without(&self, name: SegmentName) -> Inventory {
        let mut other = self.clone();
        let (size, number) = (self.size, name.number(self.size));
        if let Some(runs) = other.runs.get_mut(&name.timeline)
            && let Some(place) = runs.iter().position(|run| run.first <= name && name <= run.last)
        {
            let run = runs.remove(place);
            if name < run.last {
                runs.insert(place, SegmentRun { first: name.next(size), ..run });
            }
            if run.first < name {
                let last = SegmentName::of_number(name.timeline, number - 1, size);
                runs.insert(place, SegmentRun { last, ..run });
            }
        }
        other
    }

    /// Returns an inventory with the segments of a gap.
    pub fn filled(&self, gap: &Gap) -> Inventory {
        let mut other = self.clone();
        let stored = self.runs.values().flatten().map(|run| run.stored).max();
        // Callers read only the position; without any other segment there is no time to use.
        let stored = stored.unwrap_or(jiff::Timestamp::UNIX_EPOCH);
        let runs = other.runs.entry(gap.timeline).or_default();
        runs.push(SegmentRun { first: gap.first, last: gap.last, stored });
        runs.sort_by_key(|run| run.first);
        let mut joined: Vec<SegmentRun> = Vec::with_capacity(runs.len());
        for run in runs.drain(..) {
            match joined.last_mut() {
                Some(last) if run.first <= last.last.next(self.size) => {
                    last.stored = run.stored;
                    last.last = last.last.max(run.last);
                }
                _ => joined.push(run),
            }
        }
        *runs = joined;
        other
    }

    /// Returns when the history of a timeline was stored; `None` without a history.
    pub fn begun(&self, timeline: TimelineId) -> Option<jiff::Timestamp> {
        self.begun.get(&timeline).copied()
    }

    pub fn segment_size(&self) -> SegmentSize {
        self.size
    }

    /// Returns the first segment of the oldest timeline.
    pub fn first(&self) -> Option<SegmentName> {
        Some(self.runs.values().next()?.first()?.first)
    }

    /// Returns the last segment along a history, whatever is missing before it, and the time at
    /// which it was stored or the segments behind it on its timeline.
    pub fn last_along(&self, history: &History) -> Option<(SegmentName, jiff::Timestamp)> {
        let size = self.size.bytes();
        let end_of =
            |timeline| history.end_of(timeline).map_or(u64::MAX, |end| end.0.saturating_sub(1) / size);
        self.line(history).find_map(|(timeline, _)| {
            let end = end_of(timeline);
            let mut runs = self.runs.get(&timeline)?.iter().rev();
            let run = runs.find(|run| run.first.number(self.size) <= end)?;
            let last = SegmentName::of_number(timeline, run.last.number(self.size).min(end), self.size);
            Some((last, run.stored))
        })
    }

    /// Returns the gaps within timelines.
    pub fn gaps(&self) -> Vec<Gap> {
        let between = |pair: &[SegmentRun]| match pair {
            [before, after] => Some(self.gap(before.last.next(self.size), after.first)),
            _ => None,
        };
        let missing = self.runs.values().flat_map(|runs| runs.windows(2).filter_map(between));
        missing.chain(self.seams.keys().filter_map(|segment| self.seam_gap(*segment))).collect()
    }

    /// The gap from `first` to the segment before `next`.
    fn gap(&self, first: SegmentName, next: SegmentName) -> Gap {
        let last = SegmentName::of_number(first.timeline, next.number(self.size) - 1, self.size);
        Gap { timeline: first.timeline, first, last, seam: None }
    }

    fn run_with(&self, name: SegmentName) -> Option<&SegmentRun> {
        self.runs.get(&name.timeline)?.iter().find(|run| run.first <= name && name <= run.last)
    }

    /// Follows the WAL from the first segment of a backup along a history; `None` when that segment
    /// is missing.
    pub fn reach(&self, record: &Record, history: &History) -> Option<Reach> {
        let mut number = record.wal.first.number(self.size);
        let first = number;
        let mut reached: Option<(SegmentName, jiff::Timestamp)> = None;
        let mut seam = None;
        while let Some(run) = self.run_at(number, history) {
            let name = |number| SegmentName::of_number(run.first.timeline, number, self.size);
            seam = self.seam_gap(name(number)).filter(|_| number > first);
            if seam.is_some() {
                break;
            }
            // The run ends, or another timeline or a seam begins within it.
            let mut end = run.last.number(self.size);
            if number < end
                && let Some((before, _)) = self.seams.range(name(number + 1)..=name(end)).next()
            {
                end = before.number(self.size) - 1;
            }
            let turn = history
                .parents
                .iter()
                .map(|(_, end)| end.0 / self.size.bytes())
                .filter(|turn| *turn > number)
                .min();
            let last = turn.map_or(end, |turn| end.min(turn - 1));
            reached = Some((SegmentName::of_number(run.last.timeline, last, self.size), run.stored));
            number = last + 1;
        }
        let (last, stored) = reached?;
        let behind = self
            .line(history)
            .filter_map(|(timeline, begin)| {
                let runs = self.runs.get(&timeline)?;
                runs.iter().map(|run| run.first.number(self.size)).find(|n| *n > number && *n >= begin)
            })
            .min();
        let missing_on = self.line(history).find(|(_, begin)| *begin <= number).map(|(timeline, _)| timeline);
        let gap = behind.zip(missing_on).map(|(behind, timeline)| {
            let name = |number| SegmentName::of_number(timeline, number, self.size);
            self.gap(name(number), name(behind))
        });
        Some(Reach { last, segments: number - first, stored, gap: seam.or(gap) })
    }

    /// Iterates over the timelines of a history, newest first, each with the number of the segment
    /// in which it begins.
    fn line<'h>(&self, history: &'h History) -> impl Iterator<Item = (TimelineId, u64)> + 'h {
        let size = self.size.bytes();
        let mut begins = vec![0];
        begins.extend(history.parents.iter().map(|(_, end)| end.0 / size));
        let timelines = history.parents.iter().map(|parent| parent.0).chain([history.timeline]);
        let mut line: Vec<_> = timelines.zip(begins).collect();
        line.reverse();
        line.into_iter()
    }

    /// Returns the segment with this number that a server reads along a history; `None` for a hole.
    pub fn segment_at(&self, number: u64, history: &History) -> Option<SegmentName> {
        let run = self.run_at(number, history)?;
        Some(SegmentName::of_number(run.first.timeline, number, self.size))
    }

    /// Returns the run from which a server reads the segment with this number: the run of the
    /// newest timeline that had begun by then. The segment in which that timeline began is read
    /// from its parent when the timeline has neither this segment nor a later one; otherwise a
    /// missing segment is a hole.
    fn run_at(&self, number: u64, history: &History) -> Option<&SegmentRun> {
        for (timeline, begin) in self.line(history).filter(|(_, begin)| *begin <= number) {
            let found = self.run_with(SegmentName::of_number(timeline, number, self.size));
            let last = self.runs.get(&timeline).and_then(|runs| runs.last());
            let is_hole = last.is_some_and(|run| run.last.number(self.size) > number);
            if found.is_some() || is_hole || begin < number {
                return found;
            }
        }
        None
    }
}
