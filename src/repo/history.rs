//! The WAL of an archive with the histories of its timelines: the spans that backups lead through,
//! and the gaps.

use super::Archive;
use super::catalog::{Gap, Inventory, Reach};
use super::object::is_about_the_object;
use super::record::Record;
use crate::error::{Error, Result};
use crate::pg::history::History;
use crate::pg::lsn::Lsn;
use crate::pg::segment::{SegmentName, TimelineId};
use std::collections::{BTreeMap, BTreeSet};

/// The known histories, by timeline.
pub type Histories = BTreeMap<TimelineId, History>;

/// The WAL of an archive, and how its timelines descend from each other.
#[derive(Debug, Clone)]
pub struct WalHistory {
    pub inventory: Inventory,
    histories: Histories,
}

/// Timelines whose history is damaged, and why.
pub type DamagedHistories = Vec<(TimelineId, Error)>;

/// WAL without a hole behind a backup: a recovery may end at each of its positions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    pub timeline: TimelineId,
    pub from: Lsn,
    /// Position behind the last byte.
    pub to: Lsn,
    /// Index of the backup at whose end the span begins; `None` when it begins with its timeline.
    pub backup: Option<usize>,
    pub reach: Reach,
}

impl WalHistory {
    pub fn new(inventory: Inventory, histories: Histories) -> WalHistory {
        WalHistory { inventory, histories }
    }

    /// The histories that are known, by timeline; timeline 1 has none.
    pub fn histories(&self) -> &Histories {
        &self.histories
    }

    /// Reads the histories of timelines. The second value has the timelines whose history is
    /// damaged: no backup is known to lead to these.
    pub(super) fn read_histories(
        archive: &Archive,
        timelines: &[TimelineId],
    ) -> Result<(Histories, DamagedHistories)> {
        let mut histories = BTreeMap::new();
        let mut damaged = Vec::new();
        for timeline in timelines {
            match archive.history(*timeline) {
                Ok(history) => histories.extend(history.map(|history| (*timeline, history))),
                Err(error) if is_about_the_object(&error) => {
                    damaged.push((*timeline, error));
                }
                Err(error) => return Err(error),
            }
        }
        Ok((histories, damaged))
    }

    /// Returns these histories with another inventory.
    pub fn with(&self, inventory: Inventory) -> WalHistory {
        WalHistory { inventory, histories: self.histories.clone() }
    }

    /// Returns the timelines that have a segment or a history.
    pub fn timelines(&self) -> BTreeSet<TimelineId> {
        self.inventory.runs().keys().chain(self.histories.keys()).copied().collect()
    }

    /// Returns the history of a timeline; an unknown one has no ancestors.
    pub fn history(&self, timeline: TimelineId) -> History {
        self.histories.get(&timeline).cloned().unwrap_or_else(|| History::root(timeline))
    }

    /// Returns the spans along a timeline and its ancestors: each from the end of a backup to the
    /// end of the WAL or a hole.
    pub fn along(&self, timeline: TimelineId, records: &[&Record]) -> Vec<Span> {
        let history = self.history(timeline);
        let size = self.inventory.segment_size();
        let mut spans: Vec<Span> = Vec::new();
        for (index, record) in records.iter().enumerate() {
            if !history.contains(record.timeline, record.stop_lsn) {
                continue;
            }
            let Some(reach) = self.inventory.reach(record, &history) else {
                continue;
            };
            let to = Lsn(reach.last.start(size).0 + size.bytes());
            if to > record.stop_lsn {
                spans.push(Span { timeline, from: record.stop_lsn, to, backup: Some(index), reach });
            }
        }
        spans.sort_by_key(|span| (span.from, span.to));
        let mut joined: Vec<Span> = Vec::new();
        for span in spans {
            match joined.last_mut() {
                Some(last) if span.from <= last.to => {
                    if span.to > last.to {
                        last.to = span.to;
                        last.reach = span.reach;
                    }
                }
                _ => joined.push(span),
            }
        }
        joined
    }

    /// Returns the spans of all timelines, each without the part that belongs to the ancestors.
    pub fn spans(&self, records: &[&Record]) -> Vec<Span> {
        let mut spans = Vec::new();
        for timeline in self.timelines() {
            let begin = self.history(timeline).parents.last().map_or(Lsn(0), |(_, end)| *end);
            for span in self.along(timeline, records).into_iter().filter(|span| span.to > begin) {
                let is_cut = span.from < begin;
                spans.push(if is_cut { Span { from: begin, backup: None, ..span } } else { span });
            }
        }
        spans
    }

    /// Returns the gaps between segments of a timeline, and between a backup and later WAL of its
    /// history. Segments below the lowest first segment of any backup were pruned and are not
    /// gaps.
    pub fn gaps(&self, records: &[&Record]) -> Vec<Gap> {
        let size = self.inventory.segment_size();
        let floor = records.iter().map(|record| record.wal.first.number(size)).min().unwrap_or(0);
        // A seam before the first segment of any backup does not matter.
        let is_above = |gap: &Gap| gap.first.number(size) >= floor + u64::from(gap.seam.is_some());
        let mut gaps: Vec<Gap> = self.inventory.gaps().into_iter().filter(is_above).collect();
        for timeline in self.timelines() {
            let history = self.history(timeline);
            for record in records {
                if !history.contains(record.timeline, record.stop_lsn) {
                    continue;
                }
                let missing = match self.inventory.reach(record, &history) {
                    Some(reach) => reach.gap,
                    None => Some(Gap {
                        timeline: record.wal.first.timeline,
                        first: record.wal.first,
                        last: record.wal.last,
                        seam: None,
                    }),
                };
                gaps.extend(missing);
            }
        }
        let key = |gap: &Gap| (gap.timeline, gap.first, gap.last);
        gaps.sort_by_key(key);
        gaps.dedup_by_key(|gap| key(gap));
        gaps
    }

    /// Returns the segment that holds a position of a timeline.
    pub fn segment(&self, timeline: TimelineId, lsn: Lsn) -> SegmentName {
        SegmentName::containing(timeline, lsn, self.inventory.segment_size())
    }
}
