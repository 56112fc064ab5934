//! The moments that can be restored, and the search for the transactions that bound them.
//!
//! A recovery to a time stops at the first transaction that ended later. So a window ends right
//! before the last transaction in its WAL, which is searched in the last segments; the end of a
//! backup is a moment too. The time at which the store received a segment does not matter, unless
//! no transaction is found.

use super::Archive;
use super::branches::Branches;
use super::catalog::Reach;
use super::history::{Span, WalHistory};
use super::object::is_about_the_object;
use super::record::Record;
use crate::error::{Doing, Error, Kind, Result};
use crate::pg::history::History;
use crate::pg::lsn::Lsn;
use crate::pg::record::{Meaning, RecordScan, Tail};
use crate::pg::segment::{SegmentName, TimelineId, WalName};
use jiff::Timestamp;
use std::collections::BTreeMap;
use std::ops::Range;

/// Maximum number of segments that are searched for the last transaction: an idle server switches
/// segments too.
pub const MAX_SEARCHED: u64 = 16;

/// WAL without a hole behind a backup, with the moments that it restores: all from `from` to `to`,
/// both included.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Window {
    pub timeline: TimelineId,
    pub from_lsn: Lsn,
    /// Position behind the last byte.
    pub to_lsn: Lsn,
    pub from: Timestamp,
    /// Never earlier than `from`.
    pub to: Timestamp,
}

/// All windows of an archive.
#[derive(Debug, Default)]
pub struct Windows {
    /// The last window along the living timeline, including its part on the ancestors of that
    /// timeline; along the timeline of the newest backup when it is not clear which one is alive.
    pub living: Option<Window>,
    /// All windows by timeline and position, each without its part on the ancestors of its
    /// timeline. A timeline on which no transaction ended and no backup was taken has no window.
    pub by_timeline: Vec<Window>,
    /// Segments that had to be read and are damaged. The windows end before them.
    pub damaged: Vec<(SegmentName, Error)>,
}

impl WalHistory {
    /// Returns the windows that these backups open. Reads a bounded number of segments for each.
    pub fn windows(&self, archive: &Archive, branches: &Branches, records: &[&Record]) -> Result<Windows> {
        let mut reader = TailReader::new(archive, self);
        let mut windows = Windows::default();
        for span in self.spans(records) {
            windows.by_timeline.extend(reader.window(&span, records)?);
        }
        let living = branches.possible().into_iter().next();
        let last = living.and_then(|timeline| self.along(timeline, records).pop());
        windows.living = last.map(|span| reader.window(&span, records)).transpose()?.flatten();
        windows.damaged = reader.damaged;
        Ok(windows)
    }

    /// Returns the window along a timeline and its ancestors that holds the end of a backup.
    pub fn window_behind(
        &self,
        archive: &Archive,
        timeline: TimelineId,
        record: &Record,
        records: &[&Record],
    ) -> Result<Option<Window>> {
        let holds = |span: &Span| (span.from..=span.to).contains(&record.stop_lsn);
        match self.along(timeline, records).into_iter().find(holds) {
            Some(span) => TailReader::new(archive, self).window(&span, records),
            None => Ok(None),
        }
    }

    /// Returns the last record that can be reached along a history, and the last transaction, if
    /// they are in the last [`MAX_SEARCHED`] segments.
    ///
    /// # Errors
    ///
    /// When one of these segments is damaged or cannot be read.
    pub fn tail(&self, archive: &Archive, reach: &Reach, history: &History) -> Result<Tail> {
        let size = self.inventory.segment_size();
        let end = reach.last.number(size) + 1;
        let lsns = Lsn((end - reach.segments) * size.bytes())..Lsn(end * size.bytes());
        let mut reader = TailReader::new(archive, self);
        let tail = reader.tail(history, lsns)?;
        match reader.damaged.pop() {
            Some((_, error)) => Err(error),
            None => Ok(tail),
        }
    }

    /// Whether a transaction that began its last record in `lsns` ended after `time`. Reads the
    /// segments in their order up to that transaction, a hole or a seam.
    ///
    /// # Errors
    ///
    /// When one of these segments is damaged or cannot be read.
    pub fn has_later(
        &self,
        archive: &Archive,
        history: &History,
        lsns: Range<Lsn>,
        time: Timestamp,
    ) -> Result<bool> {
        let size = self.inventory.segment_size().bytes();
        let mut scan = RecordScan::default();
        for number in lsns.start.0 / size..lsns.end.0.div_ceil(size) {
            let Some(name) = self.inventory.segment_at(number, history) else {
                break;
            };
            let removed = || Error::new(Kind::Unavailable, format!("{name} was removed while it was needed"));
            let segment = read_segment(archive, name, size)?.ok_or_else(removed)?;
            let mut is_later = false;
            let seam = scan.segment(&segment, |found| {
                let ended = matches!(found.meaning, Meaning::TransactionEnd(ending) if ending.time > time);
                is_later |= ended && lsns.contains(&found.begin);
            });
            if is_later || seam.is_some() {
                return Ok(is_later);
            }
        }
        Ok(false)
    }
}

/// Whether the end of a backup, which is a moment of a window, lies between two positions of a
/// history.
pub fn ends_within(record: &Record, history: &History, from: Lsn, to: Lsn) -> bool {
    (from..=to).contains(&record.stop_lsn) && history.contains(record.timeline, record.stop_lsn)
}

/// Reads the ends of WAL, each segment once.
struct TailReader<'a> {
    archive: &'a Archive,
    wal: &'a WalHistory,
    /// Tails by segment and the position before which they end.
    read: BTreeMap<(SegmentName, Lsn), Tail>,
    damaged: Vec<(SegmentName, Error)>,
}

impl<'a> TailReader<'a> {
    fn new(archive: &'a Archive, wal: &'a WalHistory) -> TailReader<'a> {
        TailReader { archive, wal, read: BTreeMap::new(), damaged: Vec::new() }
    }

    /// Returns the moments of a span; `None` when no transaction ended and no backup was taken in
    /// it.
    fn window(&mut self, span: &Span, records: &[&Record]) -> Result<Option<Window>> {
        let history = self.wal.history(span.timeline);
        let last = self.tail(&history, span.from..span.to)?.last_moment(span.from);
        let ended = records.iter().filter(|record| ends_within(record, &history, span.from, span.to));
        let Some(to) = last.max(ended.map(|record| record.stop_time).max()) else {
            return Ok(None);
        };
        let from = match span.backup.and_then(|index| records.get(index)) {
            Some(record) => record.stop_time,
            None => self.begin_of(&history, span.from)?.unwrap_or(to),
        };
        let Span { timeline, from: from_lsn, to: to_lsn, .. } = *span;
        // The clock of a promoted server may be behind the clock of the server before it.
        Ok(Some(Window { timeline, from_lsn, to_lsn, from: from.min(to), to }))
    }

    /// Returns the earliest time at which a recovery to a time can end on a timeline: the time of
    /// the last transaction before its beginning, else the time at which its history was stored.
    fn begin_of(&mut self, history: &History, begin: Lsn) -> Result<Option<Timestamp>> {
        let last = self.tail(history, Lsn(0)..begin)?.last_transaction.map(|last| last.time);
        Ok(last.or_else(|| self.wal.inventory.begun(history.timeline)))
    }

    /// Searches the segments that hold `lsns` backwards, at most [`MAX_SEARCHED`] of them, until a
    /// transaction or a hole.
    fn tail(&mut self, history: &History, lsns: Range<Lsn>) -> Result<Tail> {
        let inventory = &self.wal.inventory;
        let size = inventory.segment_size().bytes();
        let mut tail = Tail::default();
        let last = lsns.end.0.saturating_sub(1) / size;
        let first = (lsns.start.0 / size).max((last + 1).saturating_sub(MAX_SEARCHED));
        for number in (first..=last).rev() {
            let Some(name) = inventory.segment_at(number, history) else {
                break;
            };
            let found = self.segment(name, lsns.end.min(Lsn((number + 1) * size)))?;
            if tail.last_record.is_none() {
                (tail.last_record, tail.next_record) = (found.last_record, found.next_record);
            }
            tail.last_transaction = found.last_transaction;
            if tail.last_transaction.is_some() {
                break;
            }
        }
        Ok(tail)
    }

    fn segment(&mut self, name: SegmentName, limit: Lsn) -> Result<Tail> {
        if let Some(tail) = self.read.get(&(name, limit)) {
            return Ok(*tail);
        }
        let size = self.wal.inventory.segment_size().bytes();
        let tail = match read_segment(self.archive, name, size) {
            Ok(read) => read.map(|segment| Tail::before(&segment, limit)).unwrap_or_default(),
            Err(error) if is_about_the_object(&error) => {
                self.damaged.push((name, error));
                Tail::default()
            }
            Err(error) => return Err(error),
        };
        self.read.insert((name, limit), tail);
        Ok(tail)
    }
}

/// Returns the content of a segment, or `None` when the archive does not have it.
fn read_segment(archive: &Archive, name: SegmentName, size: u64) -> Result<Option<Vec<u8>>> {
    let read = archive.get_wal(WalName::Segment(name));
    let read = read.and_then(|stored| stored.map(|stored| stored.read_all(size)).transpose());
    let read = read.doing(|| format!("read {name} of {}", archive.repository().name()))?;
    Ok(read.map(|(_, segment)| segment))
}
