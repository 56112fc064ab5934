//! What a repository has, by listing it once: neither WAL nor blocks are read.

use super::facts::{Backup, Drilled, Server, Stock, Window};
use crate::error::{Error, Kind, Result};
use crate::pg::segment::{TimelineId, WalName};
use crate::repo::catalog::Inventory;
use crate::repo::data::{Data, PackSet, manifest_bytes};
use crate::repo::drills::Outcome;
use crate::repo::history::{Span, WalHistory};
use crate::repo::pin::Pin;
use crate::repo::record::Record;
use crate::repo::{Archive, Records};
use jiff::{SignedDuration, Timestamp};
use std::collections::BTreeMap;

/// Growth tells of the last days.
const WEEK: SignedDuration = SignedDuration::from_hours(7 * 24);
/// Over less a single backup would decide.
const HOUR: SignedDuration = SignedDuration::from_hours(1);

pub(super) fn read(archive: &Archive, now: Timestamp) -> Result<Stock> {
    let data = archive.data()?;
    let Records { good: records, damaged, sizes, .. } = archive.records()?;
    let found_bad = archive.remembered()?;
    let pins = archive.pins()?.into_iter().map(|(id, pin)| (id, pin.unwrap_or(Pin::UNREADABLE)));
    let pins: BTreeMap<String, Pin> = pins.filter(|(_, pin)| pin.holds(now)).collect();
    let mut growth = Growth::new(now);
    for record in &records {
        growth.add(record.stop_time, record.new_bytes);
    }
    let (lines, bad_histories) = read_wal(archive, &records, &mut growth)?;
    let history = |timeline| WalName::History(timeline).to_string();
    let mut stock = Stock {
        unreadable: damaged.into_iter().map(|(id, _)| id).collect(),
        unreadable_histories: bad_histories.into_iter().map(history).collect(),
        growth: growth.per_second(),
        drill: last_drill(archive)?,
        ..Stock::default()
    };
    if let Some(lines) = &lines {
        see_wal(&mut stock, lines, &records, &pins);
    }
    let stored: u64 = data.values().map(Data::bytes).sum();
    stock.backup_bytes = stored + sizes.values().sum::<u64>();
    stock.unfinished_bytes = unfinished(&records, &data, stored);
    stock.backups = records
        .into_iter()
        .map(|record| Backup {
            is_complete: record.is_complete(),
            is_found_bad: found_bad.get(&record.id) == Some(&true),
            ended: record.stop_time,
            size: record.size,
            stored: record.stored,
            id: record.id,
        })
        .collect();
    Ok(stock)
}

/// And the timelines whose history cannot be read.
fn read_wal(
    archive: &Archive,
    records: &[Record],
    growth: &mut Growth,
) -> Result<(Option<WalHistory>, Vec<TimelineId>)> {
    let size = match records.last() {
        Some(record) => Some(record.segment_size),
        None => archive.any_segment_size()?,
    };
    let Some(size) = size else {
        return Ok((None, Vec::new()));
    };
    let mut inventory = Inventory::new(size);
    archive.each_wal(|name, entry| {
        inventory.add(name, entry.modified, entry.size);
        growth.add(entry.modified, entry.size);
        Ok(())
    })?;
    let (lines, damaged) = WalHistory::read(archive, inventory)?;
    Ok((Some(lines), damaged.into_iter().map(|(timeline, _)| timeline).collect()))
}

fn see_wal(stock: &mut Stock, lines: &WalHistory, records: &[Record], pins: &BTreeMap<String, Pin>) {
    let complete: Vec<&Record> = records.iter().filter(|record| record.is_complete()).collect();
    let is_standalone = |record: &Record| pins.get(&record.id).is_some_and(|pin| pin.standalone);
    let leading: Vec<&Record> = complete.iter().copied().filter(|record| !is_standalone(record)).collect();
    stock.gaps = lines.gaps(&leading);
    stock.windows = lines.spans(&complete).iter().map(|span| window(lines, span, &complete)).collect();
    let last = lines.inventory.runs().values().next_back().and_then(|runs| runs.last());
    stock.newest = last.map(|run| (run.last, run.stored));
    stock.wal_bytes = lines.inventory.bytes;
}

fn window(lines: &WalHistory, span: &Span, records: &[&Record]) -> Window {
    let from = match span.backup.and_then(|index| records.get(index)) {
        Some(record) => record.stop_time,
        None => lines.inventory.begun(span.timeline).unwrap_or(span.reach.stored),
    };
    // A backup is recorded after its WAL was stored, and its end is a moment that can be restored too.
    let to = span.reach.stored.max(from);
    Window { timeline: span.timeline.0, from, to }
}

/// What lies under `data/` and no record names.
fn unfinished(records: &[Record], data: &BTreeMap<String, Data>, stored: u64) -> Option<u64> {
    let mut named = PackSet::default();
    for record in records {
        named.extend(record.packs.as_ref()?);
    }
    let size = |(id, number): (&str, u32)| data.get(id).and_then(|data| data.packs.get(&number)).copied();
    let packs: u64 = named.iter().filter_map(size).sum();
    Some(stored.saturating_sub(packs + manifest_bytes(records)))
}

/// What drills have found. A history that cannot be understood is none: it is evidence, and the next drill begins it
/// anew.
fn last_drill(archive: &Archive) -> Result<Option<Drilled>> {
    let drills = match archive.drills() {
        Err(error) if error.kind() == Kind::Damage => Vec::new(),
        drills => drills?,
    };
    // One that could not tell takes nothing from what the one before it has found.
    let told = drills.iter().rev().find(|drill| drill.outcome != Outcome::Unknown);
    let proved = drills.iter().rev().find(|drill| drill.outcome == Outcome::Proved);
    Ok(told.or(drills.last()).map(|drill| Drilled {
        ended: drill.ended,
        outcome: drill.outcome.as_str().to_owned(),
        is_refuted: drill.outcome == Outcome::Refuted,
        last_proved: proved.map(|drill| drill.ended),
    }))
}

/// What was added lately.
struct Growth {
    now: Timestamp,
    oldest: Option<Timestamp>,
    bytes: u64,
}

impl Growth {
    fn new(now: Timestamp) -> Growth {
        Growth { now, oldest: None, bytes: 0 }
    }

    fn add(&mut self, at: Timestamp, bytes: u64) {
        self.oldest = Some(self.oldest.map_or(at, |oldest| oldest.min(at)));
        if self.now.duration_since(at) <= WEEK {
            self.bytes += bytes;
        }
    }

    fn per_second(&self) -> Option<f64> {
        let over = self.now.duration_since(self.oldest?).min(WEEK);
        (over >= HOUR).then(|| self.bytes as f64 / over.as_secs_f64())
    }
}

/// Compares a repository with the server, which was asked before the repository was listed: what it counted as
/// archived has to be there.
pub(super) fn compare(stock: &mut Stock, server: &Server) {
    let size = server.segment_size.and_then(|size| crate::pg::segment::SegmentSize::try_from(size).ok());
    let newest = stock.newest.map(|(name, _)| name);
    if let (Some(size), Some(current)) = (size, server.current) {
        // Without a segment of its own everything that the server has finished is missing, as far back as it knows.
        let there = newest.filter(|newest| newest.timeline <= current.timeline);
        stock.behind = there.map(|there| current.number(size).saturating_sub(there.number(size) + 1));
    }
    let archived = server.archiver.last_archived.as_ref().and_then(|(name, _)| name.parse().ok());
    if let Some(WalName::Segment(archived)) = archived
        && newest.is_none_or(|newest| newest < archived)
    {
        stock.lacks_archived = Some(archived.to_string());
    }
}

/// A repository that did not answer in time.
pub(super) fn late(seconds: f64) -> Error {
    Error::new(Kind::Timeout, format!("no answer within {seconds} s"))
        .hint("is it reachable? `--timeout` waits longer")
}
