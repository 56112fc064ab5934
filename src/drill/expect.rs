//! Position that recovery has to reach, computed from the archive: all WAL that the plan replays is
//! read once and checked.

use crate::error::{Doing, Error, Kind, Result};
use crate::pg::lsn::Lsn;
use crate::pg::record::{FoundRecord, Meaning, RecordScan};
use crate::pg::segment::{SegmentName, WalName};
use crate::repo::StoredWal;
use crate::restore::{RecoveryTarget, RestorePlan};

/// Range of positions in which recovery has to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expected {
    /// Lowest position.
    pub least: Lsn,
    /// Highest position; `None` when it is not limited.
    pub most: Option<Lsn>,
    /// Position to report.
    pub lsn: Lsn,
    /// Begin of the last WAL record; `None` if there is none.
    pub last: Option<Lsn>,
}

impl Expected {
    /// Whether a server that ended recovery at `reached` is in the range.
    pub fn is_met_by(&self, reached: Lsn) -> bool {
        reached >= self.least && self.most.is_none_or(|most| reached <= most)
    }
}

/// Result of scanning WAL records in their order.
#[derive(Default)]
struct WalScan {
    /// End of the last record.
    end: Option<Lsn>,
    /// Begin of the last record.
    last: Option<Lsn>,
    /// End of the last transaction at or before the target time.
    before: Option<Lsn>,
    /// Position behind which no record may be replayed.
    stop: Option<Lsn>,
    /// Oid and location of the first tablespace that is created outside of the data directory.
    tablespace: Option<(u32, Vec<u8>)>,
}

/// Reads the WAL that the plan replays, until `is_cancelled`.
///
/// # Errors
/// [`Kind::Refused`] when the WAL creates a tablespace: replaying that would write into the
/// directory of the original. [`Kind::Hole`] when a segment is missing. Errors of reading the
/// repository.
pub fn expect(plan: &RestorePlan, is_cancelled: &dyn Fn() -> bool) -> Result<Expected> {
    let record = &plan.record;
    let mut scanned = WalScan::default();
    let mut scan = RecordScan::default();
    let first = plan.first_segment().number(record.segment_size);
    let last = plan.reach.last.number(record.segment_size);
    for number in first..=last {
        if scanned.stop.is_some() || is_cancelled() {
            break;
        }
        if plan.stop.target == RecoveryTarget::Immediate
            && number > record.wal.last.number(record.segment_size)
        {
            break;
        }
        let (name, stored) = open(plan, number)?;
        let doing = || format!("read {name} of repository {}", plan.archive.repository().name());
        let (_, bytes) = stored.read_all(record.segment_size.bytes()).doing(doing)?;
        scan.segment(&bytes, |found| scanned.note(&plan.stop.target, found));
    }
    if let Some((oid, location)) = scanned.tablespace {
        return Err(Error::new(
            Kind::Refused,
            format!(
                "tablespace {oid} was created after backup {}: recovery would write into {}",
                record.id,
                String::from_utf8_lossy(&location)
            ),
        )
        .hint("take a new backup: it has the tablespace, and a drill puts it into the scratch directory"));
    }
    // Without any record behind the stop of the backup, recovery ends at the stop.
    let end = scanned.end.map_or(record.stop_lsn, |end| end.max(record.stop_lsn));
    let (least, most, lsn) = match (&plan.stop.target, scanned.stop) {
        (RecoveryTarget::Time(_) | RecoveryTarget::Lsn(_), Some(stop)) => {
            (scanned.before.unwrap_or(record.stop_lsn), Some(stop), stop)
        }
        (RecoveryTarget::Lsn(lsn), None) => (*lsn, None, *lsn),
        // No upper limit: WAL that is archived during the drill is replayed too.
        (RecoveryTarget::Immediate, _) => (record.stop_lsn, Some(end), record.stop_lsn),
        _ => (end, None, end),
    };
    Ok(Expected { least, most, lsn, last: scanned.last })
}

/// Opens the segment with this number that a server reads along the history: the segment of the
/// newest timeline that had begun by then and has it.
fn open(plan: &RestorePlan, number: u64) -> Result<(WalName, StoredWal)> {
    let size = plan.record.segment_size;
    let begins = std::iter::once(0).chain(plan.history.parents.iter().map(|(_, end)| end.0 / size.bytes()));
    let timelines = plan.history.parents.iter().map(|parent| parent.0).chain([plan.history.timeline]);
    let mut candidates: Vec<_> = timelines.zip(begins).filter(|(_, begin)| *begin <= number).collect();
    candidates.reverse();
    for (timeline, _) in candidates {
        let name = WalName::Segment(SegmentName::of_number(timeline, number, size));
        if let Some(stored) = plan.archive.get_wal(name)? {
            return Ok((name, stored));
        }
    }
    let name = SegmentName::of_number(plan.history.timeline, number, size);
    Err(Error::new(Kind::Hole, format!("segment {name} is missing although later ones exist")))
}

impl WalScan {
    /// Takes one record into account.
    fn note(&mut self, target: &RecoveryTarget, found: FoundRecord) {
        if self.stop.is_some() {
            return;
        }
        match (target, &found.meaning) {
            (RecoveryTarget::Time(time), Meaning::TransactionEnd(ended)) => {
                if ended > time {
                    self.stop = Some(found.begin);
                } else {
                    self.before = Some(found.end);
                }
            }
            // A server stops behind the first record that begins at the target or later.
            (RecoveryTarget::Lsn(lsn), _) if found.begin >= *lsn => {
                self.before = Some(found.end);
                self.stop = Some(found.end);
            }
            _ => {}
        }
        // Records behind the stop are not replayed.
        if let Meaning::Tablespace { oid, location } = found.meaning
            && !location.is_empty()
        {
            self.tablespace.get_or_insert((oid, location));
        }
        (self.last, self.end) = (Some(found.begin), Some(found.end));
    }
}
