//! What one repository has, computed for `list` and `show`.

use crate::error::{Error, Kind, Result};
use crate::pg::history::History;
use crate::pg::segment::TimelineId;
use crate::repo::catalog::{Gap, Inventory, Reach};
use crate::repo::data::{Data, PackSet, exclusive, manifest_bytes};
use crate::repo::drills::Drill;
use crate::repo::history::{Span, WalHistory};
use crate::repo::pin::Pin;
use crate::repo::record::Record;
use crate::repo::{Archive, Records};
use std::collections::BTreeMap;

pub struct Contents {
    pub archive: Archive,
    pub records: Vec<Record>,
    pub damaged: Vec<(String, Error)>,
    /// Timelines whose history cannot be read: nothing is known to lead to these.
    pub bad_histories: Vec<(TimelineId, Error)>,
    pub pins: BTreeMap<String, Pin>,
    pub lines: Option<WalHistory>,
    /// From the oldest moment to the newest without a hole between, along the newest timeline.
    pub window: Option<Window>,
    /// All that can be restored, by timeline.
    pub windows: Vec<Window>,
    pub sizes: Sizes,
    /// Oldest first.
    pub drills: Vec<Drill>,
}

/// Bytes in the repository; together these are all of them but a few small objects.
#[derive(Default)]
pub struct Sizes {
    /// Of each backup, what would be free without it.
    pub exclusive: BTreeMap<String, u64>,
    /// Packs, manifests and records of all backups, each counted once.
    pub backups: u64,
    /// What belongs to no backup: it is being made, or was given up.
    pub unfinished: u64,
    pub wal: u64,
}

/// Any moment of it can be restored.
pub struct Window {
    pub span: Span,
    pub from: jiff::Timestamp,
    pub to: jiff::Timestamp,
}

impl Contents {
    pub fn read(archive: Archive, now: jiff::Timestamp) -> Result<Contents> {
        let Records { good: records, damaged, sizes: record_sizes, .. } = archive.records()?;
        let size = match records.last() {
            Some(record) => Some(record.segment_size),
            None => archive.any_segment_size()?,
        };
        let inventory = size.map(|size| Inventory::read(&archive, size)).transpose()?;
        let (lines, bad_histories) = match inventory {
            Some(inventory) => {
                let (lines, damaged) = WalHistory::read(&archive, inventory)?;
                (Some(lines), damaged)
            }
            None => (None, Vec::new()),
        };
        let pins = archive.pins()?.into_iter().map(|(id, pin)| (id, pin.unwrap_or(Pin::UNREADABLE)));
        let pins = pins.filter(|(_, pin)| pin.holds(now)).collect();
        // What cannot be understood of the past says nothing about what there is.
        let drills = match archive.drills() {
            Err(error) if error.kind() == Kind::Damage => Vec::new(),
            drills => drills?,
        };
        let mut contents = Contents {
            archive,
            drills,
            records,
            damaged,
            bad_histories,
            pins,
            lines,
            window: None,
            windows: Vec::new(),
            sizes: Sizes::default(),
        };
        contents.find_windows()?;
        contents.measure(&record_sizes)?;
        Ok(contents)
    }

    /// The backups that lead further than to their own end.
    fn leading(&self) -> Vec<&Record> {
        let is_leading = |record: &&Record| {
            record.is_complete() && !self.pins.get(&record.id).is_some_and(|pin| pin.standalone)
        };
        self.records.iter().filter(is_leading).collect()
    }

    fn find_windows(&mut self) -> Result<()> {
        let Some(lines) = &self.lines else {
            return Ok(());
        };
        let complete: Vec<&Record> = self.records.iter().filter(|record| record.is_complete()).collect();
        let spans = lines.spans(&complete);
        let newest = lines.timelines().last().copied();
        let last = newest.and_then(|newest| lines.along(newest, &complete).pop());
        let windows =
            spans.into_iter().map(|span| self.window(lines, span, &complete)).collect::<Result<_>>()?;
        let window = last.map(|span| self.window(lines, span, &complete)).transpose()?;
        (self.windows, self.window) = (windows, window);
        Ok(())
    }

    /// Recovery to a time stops at the first transaction that ended later, so there has to be one.
    fn window(&self, lines: &WalHistory, span: Span, records: &[&Record]) -> Result<Window> {
        let tail = span.reach.tail(&self.archive, lines.inventory.segment_size())?.last_transaction_end;
        let last = tail.and_then(|last| last.checked_sub(jiff::SignedDuration::from_micros(1)).ok());
        // A backup's end is a moment too.
        let ended = records.iter().filter(|record| {
            record.stop_lsn <= span.to
                && lines.history(span.timeline).contains(record.timeline, record.stop_lsn)
        });
        let ended = ended.map(|record| record.stop_time).max();
        let to = last.max(ended).unwrap_or(span.reach.stored);
        let from = match span.backup.and_then(|index| records.get(index)) {
            Some(record) => record.stop_time,
            None => lines.inventory.begun(span.timeline).unwrap_or(to),
        };
        Ok(Window { span, from: from.min(to), to })
    }

    fn measure(&mut self, record_sizes: &BTreeMap<String, u64>) -> Result<()> {
        let data = self.archive.data()?;
        let mut named = Vec::with_capacity(self.records.len());
        for record in &self.records {
            // What cannot be read shares nothing that is known of; verify tells.
            named.push(self.archive.packs_of(record).unwrap_or_default());
        }
        let sizes = &mut self.sizes;
        for (record, free) in self.records.iter().zip(exclusive(&self.records, &named, &data)) {
            let record_size = record_sizes.get(&record.id).copied().unwrap_or_default();
            sizes.exclusive.insert(record.id.clone(), free + record_size);
            sizes.backups += record_size;
        }
        sizes.backups += manifest_bytes(&self.records);
        let mut all = PackSet::default();
        named.iter().for_each(|packs| all.extend(packs));
        let of = |(id, number): (&str, u32)| data.get(id).and_then(|data| data.packs.get(&number)).copied();
        sizes.backups += all.iter().filter_map(of).sum::<u64>();
        let stored: u64 = data.values().map(Data::bytes).sum();
        let records: u64 = self.records.iter().filter_map(|record| record_sizes.get(&record.id)).sum();
        sizes.unfinished = stored.saturating_sub(sizes.backups - records);
        sizes.wal = self.lines.as_ref().map_or(0, |lines| lines.inventory.bytes);
        Ok(())
    }

    /// Along the newest timeline that a backup leads to: how far its WAL goes.
    pub fn reach(&self, record: &Record) -> Result<Option<Reach>> {
        let Some(WalHistory { inventory, .. }) = &self.lines else {
            return Ok(None);
        };
        let newest = inventory.newest_from(record.timeline);
        let history = match self.archive.history(newest)? {
            Some(history) if history.contains(record.timeline, record.stop_lsn) => history,
            _ => self.archive.history(record.timeline)?.unwrap_or_else(|| History::root(record.timeline)),
        };
        Ok(inventory.reach(record, &history))
    }

    /// The last drill of a backup.
    pub fn drill(&self, id: &str) -> Option<&Drill> {
        self.drills.iter().rev().find(|drill| drill.backup.as_deref() == Some(id))
    }

    /// WAL that some backup misses.
    pub fn gaps(&self) -> Vec<Gap> {
        self.lines.as_ref().map(|lines| lines.gaps(&self.leading())).unwrap_or_default()
    }

    /// The lives of the cluster before this one.
    pub fn earlier(&self) -> impl Iterator<Item = String> {
        let ancestors = &self.archive.identity().lineage;
        ancestors.iter().map(|ancestor| format!("{}-{}", ancestor.system_identifier, ancestor.pg))
    }
}
