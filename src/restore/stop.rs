//! Recovery targets, and the end of recovery as the server gets it: the target itself, or the last
//! record of the WAL when a server would look for a record behind the target that the archive does
//! not have.
//!
//! A server that reaches the end of the WAL before its target fails ("recovery ended before
//! configured recovery target was reached"). To a position it stops at the first record that begins
//! there or behind it; to a time it stops before the first transaction that ended later, or, with
//! `recovery_target_inclusive = off`, at that time or later (`recoveryStopsBefore` and
//! `recoveryStopsAfter` in PostgreSQL's `xlogrecovery.c`).

use crate::error::{Error, Kind, Result};
use crate::pg::history::History;
use crate::pg::lsn::Lsn;
use crate::pg::record::{FoundRecord, Meaning, Tail};
use crate::repo::Archive;
use crate::repo::catalog::Reach;
use crate::repo::history::WalHistory;
use crate::repo::record::Record;
use crate::repo::replay::ReplayStep;
use crate::repo::window::{MAX_SEARCHED, ends_within};
use jiff::Timestamp;

/// Hint for a target behind the end of the archive.
const LATER_TARGET: &str = "without a target everything is recovered; a later target needs WAL that is not archived yet (select pg_switch_wal() on the primary)";

/// The end of recovery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RecoveryTarget {
    /// The end of the WAL in the archive.
    End,
    Time(jiff::Timestamp),
    Lsn(Lsn),
    Xid(u64),
    Name(String),
    /// The end of the backup, where it is consistent.
    Immediate,
}

/// Recovery target of a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecoveryStop {
    pub target: RecoveryTarget,
    /// Whether recovery stops before the target.
    pub exclusive: bool,
}

impl RecoveryStop {
    /// Decides whether recovery stops at a record (`recoveryStopsBefore` and `recoveryStopsAfter` in
    /// PostgreSQL's `xlogrecovery.c`). Records before the end of the backup decide too: the server
    /// stops there and fails. Does not decide [`RecoveryTarget::Immediate`], whose stop depends on
    /// the backup.
    pub fn step(&self, found: &FoundRecord) -> ReplayStep {
        let stop = if self.exclusive { ReplayStep::StopBefore } else { ReplayStep::StopAfter };
        match (&self.target, &found.meaning) {
            (RecoveryTarget::Lsn(lsn), _) if found.begin >= *lsn => stop,
            (RecoveryTarget::Time(time), Meaning::TransactionEnd(ending))
                if ending.time > *time || (self.exclusive && ending.time == *time) =>
            {
                ReplayStep::StopBefore
            }
            // The server keeps the lower 32 bits.
            (RecoveryTarget::Xid(xid), Meaning::TransactionEnd(ending))
                if xid & u64::from(u32::MAX) == u64::from(ending.xid) =>
            {
                stop
            }
            (RecoveryTarget::Name(target), Meaning::RestorePoint { name, .. })
                if target.as_bytes() == name =>
            {
                ReplayStep::StopAfter
            }
            _ => ReplayStep::Replay,
        }
    }
}

/// Returns the time of the latest transactions that a recovery to `time` includes. PostgreSQL
/// counts microseconds.
///
/// # Errors
///
/// When there is no earlier time.
pub(super) fn last_included(time: Timestamp, exclusive: bool) -> Result<Timestamp> {
    Timestamp::from_microsecond(time.as_microsecond() - i64::from(exclusive))
        .map_err(|e| Error::new(Kind::Refused, format!("the target {time} is out of range: {e}")))
}

/// Search for the stop that a target means.
pub(super) struct StopSearch<'a> {
    pub archive: &'a Archive,
    pub wal: &'a WalHistory,
    /// The chosen backup.
    pub record: &'a Record,
    /// History that recovery follows.
    pub history: &'a History,
    pub reach: Reach,
    /// The good backups of the archive; their ends are moments of the window.
    pub records: Vec<&'a Record>,
    pub target: &'a RecoveryTarget,
    pub exclusive: bool,
}

impl StopSearch<'_> {
    /// Returns the target for the server. Refuses one that the WAL does not lead to.
    pub fn find(&self) -> Result<RecoveryStop> {
        let record = &self.record;
        if self.end() < record.stop_lsn {
            return Err(Error::new(
                Kind::Hole,
                format!(
                    "backup {} needs the WAL to {}, and {} is missing",
                    record.id,
                    record.stop_lsn,
                    self.reach.last.next(record.segment_size)
                ),
            )
            .hint("choose another backup with `walkeep restore BACKUP`"));
        }
        match *self.target {
            RecoveryTarget::Lsn(lsn) => self.stop_at_lsn(lsn),
            RecoveryTarget::Time(time) => self.stop_at_time(time),
            // The position of such a target is not known before the WAL is replayed.
            RecoveryTarget::End | RecoveryTarget::Xid(_) | RecoveryTarget::Name(_)
                if self.reach.gap.is_some() =>
            {
                Err(self.unreachable(&self.tail()?))
            }
            RecoveryTarget::End
            | RecoveryTarget::Xid(_)
            | RecoveryTarget::Name(_)
            | RecoveryTarget::Immediate => Ok(self.unchanged()),
        }
    }

    /// The target itself.
    fn unchanged(&self) -> RecoveryStop {
        RecoveryStop { target: self.target.clone(), exclusive: self.exclusive }
    }

    fn tail(&self) -> Result<Tail> {
        self.wal.tail(self.archive, &self.reach, self.history)
    }

    /// Position behind the last segment.
    fn end(&self) -> Lsn {
        let size = self.record.segment_size;
        Lsn(self.reach.last.start(size).0 + size.bytes())
    }

    fn stop_at_lsn(&self, lsn: Lsn) -> Result<RecoveryStop> {
        // Records begin in the last segment, unless one record fills it.
        if lsn < self.reach.last.start(self.record.segment_size) {
            return Ok(self.unchanged());
        }
        let tail = self.tail()?;
        match tail.last_record.zip(tail.next_record) {
            Some((last, _)) if lsn <= last => Ok(self.unchanged()),
            // All records that begin before the target are there.
            Some((last, next)) if lsn <= next => Ok(self.stop_at_end(last)),
            _ => Err(self.unreachable(&tail)),
        }
    }

    /// Accepts the moments of the window from the end of the backup: the times before the last
    /// transaction, and the ends of backups.
    fn stop_at_time(&self, time: Timestamp) -> Result<RecoveryStop> {
        let tail = self.tail()?;
        let moment = last_included(time, self.exclusive)?;
        let from = self.record.stop_lsn;
        if tail.last_moment(from).is_some_and(|last| moment <= last) {
            return Ok(self.unchanged());
        }
        let mut records = self.records.iter().copied().chain([self.record]);
        let is_end = records
            .any(|record| record.stop_time == moment && ends_within(record, self.history, from, self.end()));
        if is_end {
            let has_later = self.wal.has_later(self.archive, self.history, from..self.end(), moment)?;
            return match tail.last_record {
                _ if has_later => Ok(self.unchanged()),
                Some(last) => Ok(self.stop_at_end(last)),
                None => Err(self.too_late(time, &tail)),
            };
        }
        if self.reach.gap.is_some() {
            return Err(self.unreachable(&tail));
        }
        if tail.last_transaction.is_none() && self.reach.segments > MAX_SEARCHED {
            return Ok(self.unchanged());
        }
        Err(self.too_late(time, &tail))
    }

    /// Stops behind the last record. Records that are archived later are not replayed.
    fn stop_at_end(&self, last: Lsn) -> RecoveryStop {
        let is_behind = last >= self.record.stop_lsn;
        let target = if is_behind { RecoveryTarget::Lsn(last) } else { RecoveryTarget::Immediate };
        RecoveryStop { target, exclusive: false }
    }

    /// Error for a time with no later transaction: recovery would replay everything and then fail.
    fn too_late(&self, time: Timestamp, tail: &Tail) -> Error {
        let refused = |reason: String| Error::new(Kind::Refused, format!("the target {time} {reason}"));
        match tail.last_transaction.map(|last| last.time) {
            Some(last) if time > last => {
                refused(format!("lies behind the last transaction in the archive, which ended at {last}"))
                    .hint(LATER_TARGET)
            }
            Some(last) if time == last && !self.exclusive => refused(
                "is the time of the last transaction in the archive, and recovery stops only before a later one"
                    .to_owned(),
            )
            .hint(format!("{LATER_TARGET}; --exclusive stops before this transaction")),
            _ => refused(format!(
                "cannot be checked: no transaction ended in the archived WAL since backup {}",
                self.record.id
            ))
            .hint(LATER_TARGET),
        }
    }

    /// Error for a target behind the WAL that can be reached.
    fn unreachable(&self, tail: &Tail) -> Error {
        let missing = match self.reach.gap {
            Some(gap) => gap.describe(),
            None => format!("the archive ends with {}", self.reach.last),
        };
        let last = tail.last_record.unwrap_or(self.reach.last.start(self.record.segment_size));
        let ended = tail
            .last_transaction
            .map_or_else(String::new, |last| format!("; the last transaction ended at {}", last.time));
        let message =
            format!("{missing}, so the WAL leads from backup {} only to {last}{ended}", self.record.id);
        match self.reach.gap {
            Some(gap) if gap.seam.is_some() => Error::new(Kind::Hole, message).hint(format!(
                "--lsn {last} recovers as far as possible; a backup behind the seam leads further (`walkeep list`). Two servers archived under the same names: `walkeep check --wal` on the server lists the files that are not its own"
            )),
            Some(_) => Error::new(Kind::Hole, message).hint(format!(
                "--lsn {last} recovers as far as possible; a backup behind the gap leads further (`walkeep list`); perhaps the missing WAL is still in pg_wal of the primary or a standby: push it with walpush"
            )),
            None => Error::new(Kind::Refused, message).hint(LATER_TARGET),
        }
    }
}
