//! How far recovery has to come, computed from the archive: all WAL from the backup on is read once, and checked.

use crate::error::{Doing, Error, Kind, Result};
use crate::pg::lsn::Lsn;
use crate::pg::record::{Found, Meaning, Scan};
use crate::pg::segment::{SegmentName, WalName};
use crate::repo::StoredWal;
use crate::restore::{Plan, Target};

/// Where recovery has to end: not before the one, not behind the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expected {
    pub least: Lsn,
    pub most: Option<Lsn>,
    /// The position to show.
    pub lsn: Lsn,
    /// Where the last record begins.
    pub last: Option<Lsn>,
}

impl Expected {
    pub fn is_met_by(&self, reached: Lsn) -> bool {
        reached >= self.least && self.most.is_none_or(|most| reached <= most)
    }
}

/// What is found on the way.
#[derive(Default)]
struct Seen {
    end: Option<Lsn>,
    /// Where the record before it begins.
    last: Option<Lsn>,
    /// Behind the last transaction that ended at the target time or before it.
    before: Option<Lsn>,
    /// Behind which no record may be replayed.
    stop: Option<Lsn>,
    tablespace: Option<(u32, Vec<u8>)>,
}

/// Reads the WAL that the plan leads through, until `is_cancelled`. Refuses WAL that would make a tablespace, since
/// replaying that writes to where the original is.
pub fn expect(plan: &Plan, is_cancelled: &dyn Fn() -> bool) -> Result<Expected> {
    let record = &plan.record;
    let mut seen = Seen::default();
    let mut scan = Scan::default();
    let first = plan.first_segment().number(record.segment_size);
    let last = plan.reach.last.number(record.segment_size);
    for number in first..=last {
        if seen.stop.is_some() || is_cancelled() {
            break;
        }
        if plan.target == Target::Immediate && number > record.wal.last.number(record.segment_size) {
            break;
        }
        let (name, stored) = open(plan, number)?;
        let doing = || format!("read {name} of repository {}", plan.archive.repository().name());
        let (_, bytes) = stored.read_all(record.segment_size.bytes()).doing(doing)?;
        scan.segment(&bytes, |found| seen.note(&plan.target, found));
    }
    if let Some((oid, location)) = seen.tablespace {
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
    let end = seen.end.unwrap_or(record.stop_lsn).max(record.stop_lsn);
    let (least, most, lsn) = match (&plan.target, seen.stop) {
        (Target::Time(_) | Target::Lsn(_), Some(stop)) => {
            (seen.before.unwrap_or(record.stop_lsn), Some(stop), stop)
        }
        (Target::Lsn(lsn), None) => (*lsn, None, *lsn),
        // What the archive gets meanwhile is replayed too.
        (Target::Immediate, _) => (record.stop_lsn, Some(end), record.stop_lsn),
        _ => (end, None, end),
    };
    Ok(Expected { least, most, lsn, last: seen.last })
}

/// The segment with this number that a server reads on its way along the history: of the newest timeline that
/// reaches back so far and has it.
fn open(plan: &Plan, number: u64) -> Result<(WalName, StoredWal)> {
    let size = plan.record.segment_size;
    let begins = std::iter::once(0).chain(plan.history.parents.iter().map(|(_, end)| end.0 / size.bytes()));
    let timelines = plan.history.parents.iter().map(|parent| parent.0).chain([plan.history.timeline]);
    let mut line: Vec<_> = timelines.zip(begins).filter(|(_, begin)| *begin <= number).collect();
    line.reverse();
    for (timeline, _) in line {
        let name = WalName::Segment(SegmentName::of_number(timeline, number, size));
        if let Some(stored) = plan.archive.get_wal(name)? {
            return Ok((name, stored));
        }
    }
    let name = SegmentName::of_number(plan.history.timeline, number, size);
    Err(Error::new(Kind::Hole, format!("{name} is missing, and later ones are there")))
}

impl Seen {
    fn note(&mut self, target: &Target, found: Found) {
        if self.stop.is_some() {
            return;
        }
        match (target, &found.meaning) {
            (Target::Time(time), Meaning::TransactionEnd(ended)) => match ended > time {
                true => self.stop = Some(found.begin),
                false => self.before = Some(found.end),
            },
            // A server stops behind the first record that begins there or later.
            (Target::Lsn(lsn), _) if found.begin >= *lsn => {
                self.before = Some(found.end);
                self.stop = Some(found.end);
            }
            _ => {}
        }
        // A record behind the place to stop is not replayed.
        if let Meaning::Tablespace { oid, location } = found.meaning
            && !location.is_empty()
        {
            self.tablespace.get_or_insert((oid, location));
        }
        (self.last, self.end) = (Some(found.begin), Some(found.end));
    }
}
