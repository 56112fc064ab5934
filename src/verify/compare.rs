//! What is seen without reading packs and WAL: whether what has to be there is there.

use super::findings::Kind;
use super::run::{Run, Scope};
use crate::codec::envelope::HEADER_SIZE;
use crate::pg::segment::{SegmentName, TimelineId, WalName};
use crate::repo::ObjectName;
use crate::repo::history::WalHistory;
use crate::repo::record::Record;
use std::collections::BTreeSet;

/// Segments of one backup that are looked for: 16 TiB written while it was taken.
const LONGEST: usize = 1 << 20;

impl Run<'_> {
    /// The backups that a timeline may descend from.
    pub fn led_by(&self, timeline: TimelineId) -> impl Iterator<Item = &str> {
        self.records.iter().filter(move |record| record.timeline <= timeline).map(|record| record.id.as_str())
    }

    /// Everything that is seen without reading packs and WAL.
    pub fn compare(&self) {
        if self.options.needs_backup
            && self.options.scope != Scope::Wal
            && !self.records.iter().any(Record::is_complete)
        {
            self.findings.no_backup();
        }
        if self.options.scope == Scope::All {
            for (id, _) in self.memory.backups.iter().filter(|(id, _)| !self.is_listed(id)) {
                self.findings.problem(
                    Kind::Missing,
                    &ObjectName::Record(id.clone()),
                    "the record is gone: the backup was listed when it was verified, and no prune removed it",
                    [id.as_str()],
                );
            }
        }
        self.histories();
        self.own_wal();
        for (name, size) in &self.wal {
            if *size <= HEADER_SIZE as u64 {
                let detail = format!("it has only {size} bytes");
                self.findings.problem(Kind::Damaged, &ObjectName::Wal(*name), detail, []);
            }
        }
    }

    fn is_listed(&self, id: &str) -> bool {
        self.records.iter().any(|record| record.id == id)
            || self.findings.is_known(&ObjectName::Record(id.to_owned()))
    }

    /// Each timeline above the first has its history, and a server finds one after the other from the oldest backup on.
    fn histories(&self) {
        let Some(lines) = &self.lines else {
            return;
        };
        let known: BTreeSet<TimelineId> = lines.inventory.histories.iter().copied().collect();
        let first = self.records.iter().map(|record| record.timeline.0).min().unwrap_or(1);
        let newest = known.last().map_or(first, |newest| newest.0);
        let asked_for = (first + 1..=newest).map(TimelineId);
        let lived = lines.timelines().into_iter().chain(self.records.iter().map(|record| record.timeline));
        let needed: BTreeSet<TimelineId> = lived.chain(asked_for).filter(|timeline| timeline.0 > 1).collect();
        for timeline in needed.difference(&known) {
            let name = ObjectName::Wal(WalName::History(*timeline));
            self.findings.problem(Kind::Missing, &name, "it is missing", self.led_by(*timeline));
        }
    }

    /// The WAL that makes each backup consistent, also of those that need no more.
    fn own_wal(&self) {
        let Some(WalHistory { inventory, .. }) = &self.lines else {
            return;
        };
        let size = inventory.segment_size();
        for record in self.selected() {
            let (first, last) = (record.wal.first, record.wal.last);
            let numbers = first.number(size)..=last.number(size);
            for number in numbers.take(LONGEST) {
                let segment = SegmentName::of_number(record.timeline, number, size);
                if !self.stored.contains_key(&segment) {
                    let name = ObjectName::Wal(WalName::Segment(segment));
                    let detail = format!("it is missing: backup {} is not consistent without it", record.id);
                    self.findings.problem(Kind::Missing, &name, detail, [record.id.as_str()]);
                }
            }
        }
    }
}
