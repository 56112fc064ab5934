//! What a problem costs: which backups do not get as far as they should, and which moments can no longer be
//! restored.

use crate::pg::lsn::Lsn;
use crate::pg::segment::{SegmentName, TimelineId};
use crate::repo::catalog::Inventory;
use crate::repo::history::{Span, WalHistory};
use crate::repo::record::Record;
use jiff::Timestamp;
use std::collections::{BTreeMap, BTreeSet};

/// A stretch of a timeline that cannot be restored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lost {
    pub timeline: TimelineId,
    pub from_lsn: Lsn,
    pub to_lsn: Lsn,
    /// As far as the archive knows: ends of backups, and when segments were stored.
    pub from: Option<Timestamp>,
    pub to: Option<Timestamp>,
}

pub struct Costs<'a> {
    pub lines: &'a WalHistory,
    pub records: &'a [Record],
    /// When each segment was stored.
    pub stored: &'a BTreeMap<SegmentName, Timestamp>,
}

impl Costs<'_> {
    fn complete(&self) -> Vec<&Record> {
        self.records.iter().filter(|record| record.is_complete()).collect()
    }

    /// When these backups cannot be restored.
    pub fn of_backups(&self, bad: &BTreeSet<String>) -> Vec<Lost> {
        let all = self.complete();
        let good: Vec<&Record> = all.iter().filter(|record| !bad.contains(&record.id)).copied().collect();
        self.difference(&self.lines.spans(&all), &self.lines.spans(&good))
    }

    /// When the WAL is what it is in the second inventory instead of in the first.
    pub fn of_wal(&self, before: Inventory, after: Inventory) -> (Vec<Lost>, BTreeSet<String>) {
        let (before, after) = (self.lines.with(before), self.lines.with(after));
        let all = self.complete();
        let lost = self.difference(&before.spans(&all), &after.spans(&all));
        let mut affected = BTreeSet::new();
        for timeline in self.lines.timelines() {
            let history = self.lines.history(timeline);
            for record in self.records {
                let reach =
                    |lines: &WalHistory| lines.inventory.reach(record, &history).map(|reach| reach.last);
                if history.contains(record.timeline, record.stop_lsn) && reach(&before) != reach(&after) {
                    affected.insert(record.id.clone());
                }
            }
        }
        (lost, affected)
    }

    fn difference(&self, before: &[Span], after: &[Span]) -> Vec<Lost> {
        let mut lost = Vec::new();
        for span in before {
            let mut from = span.from;
            let mut kept: Vec<&Span> = after.iter().filter(|other| other.timeline == span.timeline).collect();
            kept.sort_by_key(|other| other.from);
            for other in kept {
                if other.from > from && other.from < span.to {
                    lost.push((span.timeline, from, other.from));
                }
                if other.from < span.to {
                    from = from.max(other.to);
                }
            }
            if from < span.to {
                lost.push((span.timeline, from, span.to));
            }
        }
        let describe = |(timeline, from, to)| Lost {
            timeline,
            from_lsn: from,
            to_lsn: to,
            from: self.moment(timeline, from),
            to: self.moment(timeline, to),
        };
        lost.into_iter().map(describe).collect()
    }

    /// When a position was written, as far as is known.
    fn moment(&self, timeline: TimelineId, lsn: Lsn) -> Option<Timestamp> {
        let history = self.lines.history(timeline);
        let ends =
            |record: &&Record| record.stop_lsn == lsn && history.contains(record.timeline, record.stop_lsn);
        if let Some(record) = self.records.iter().find(ends) {
            return Some(record.stop_time);
        }
        let size = self.lines.inventory.segment_size();
        let name = SegmentName::ending_at(history.timeline_at(Lsn(lsn.0.saturating_sub(1))), lsn, size);
        self.stored
            .get(&name)
            .or_else(|| self.stored.range(..name).next_back().map(|(_, stored)| stored))
            .copied()
    }
}
