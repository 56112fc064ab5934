//! Cost of a problem: the backups that do not lead as far as they should, and the moments that can
//! no longer be restored.

use crate::pg::lsn::Lsn;
use crate::pg::segment::{SegmentName, TimelineId};
use crate::repo::catalog::Inventory;
use crate::repo::history::{Span, WalHistory};
use crate::repo::record::Record;
use jiff::Timestamp;
use std::collections::{BTreeMap, BTreeSet};

/// Positions of a timeline that cannot be restored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LostSpan {
    pub timeline: TimelineId,
    pub from_lsn: Lsn,
    pub to_lsn: Lsn,
    /// Time of `from_lsn`, from the ends of backups and the times at which segments were stored;
    /// `None` if it is not known.
    pub from: Option<Timestamp>,
    /// Time of `to_lsn`.
    pub to: Option<Timestamp>,
}

/// The archive from which costs are computed.
pub struct Costs<'a> {
    pub history: &'a WalHistory,
    pub records: &'a [Record],
    /// Time at which each segment was stored.
    pub stored: &'a BTreeMap<SegmentName, Timestamp>,
}

impl Costs<'_> {
    fn complete(&self) -> Vec<&Record> {
        self.records.iter().filter(|record| record.is_complete()).collect()
    }

    /// Cost when these backups cannot be restored.
    pub fn of_backups(&self, bad: &BTreeSet<String>) -> Vec<LostSpan> {
        let all = self.complete();
        let good: Vec<&Record> = all.iter().filter(|record| !bad.contains(&record.id)).copied().collect();
        self.difference(&self.history.spans(&all), &self.history.spans(&good))
    }

    /// Cost when the archive has the WAL of `after` instead of `before`, and the ids of the
    /// affected backups.
    pub fn of_wal(&self, before: Inventory, after: Inventory) -> (Vec<LostSpan>, BTreeSet<String>) {
        let (before, after) = (self.history.with(before), self.history.with(after));
        let all = self.complete();
        let lost = self.difference(&before.spans(&all), &after.spans(&all));
        let mut affected = BTreeSet::new();
        for timeline in self.history.timelines() {
            let history = self.history.history(timeline);
            for record in self.records {
                let reach = |wal: &WalHistory| wal.inventory.reach(record, &history).map(|reach| reach.last);
                if history.contains(record.timeline, record.stop_lsn) && reach(&before) != reach(&after) {
                    affected.insert(record.id.clone());
                }
            }
        }
        (lost, affected)
    }

    /// Positions that are in `before` and not in `after`.
    fn difference(&self, before: &[Span], after: &[Span]) -> Vec<LostSpan> {
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
        let describe = |(timeline, from, to)| LostSpan {
            timeline,
            from_lsn: from,
            to_lsn: to,
            from: self.moment(timeline, from),
            to: self.moment(timeline, to),
        };
        lost.into_iter().map(describe).collect()
    }

    /// Time at which a position was written, if it is known.
    fn moment(&self, timeline: TimelineId, lsn: Lsn) -> Option<Timestamp> {
        let history = self.history.history(timeline);
        let ends =
            |record: &&Record| record.stop_lsn == lsn && history.contains(record.timeline, record.stop_lsn);
        if let Some(record) = self.records.iter().find(ends) {
            return Some(record.stop_time);
        }
        let size = self.history.inventory.segment_size();
        let name = SegmentName::ending_at(history.timeline_at(Lsn(lsn.0.saturating_sub(1))), lsn, size);
        self.stored
            .get(&name)
            .or_else(|| self.stored.range(..name).next_back().map(|(_, stored)| stored))
            .copied()
    }
}
