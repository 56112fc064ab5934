//! Position that recovery has to reach, computed from the archive: all WAL that the plan replays is
//! read once and checked.

use crate::error::{Error, Kind, Result};
use crate::pg::lsn::Lsn;
use crate::pg::record::{Meaning, Parameters};
use crate::repo::replay::{FoundSeam, ReplayStep};
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
    /// Begin of the last WAL record, or the end of the WAL behind a seam; `None` without records.
    pub last: Option<Lsn>,
    /// Place at which recovery will end early, since the WAL does not continue there.
    pub seam: Option<FoundSeam>,
    /// Highest values that settings have in this WAL; zero without a change.
    pub raised: Parameters,
}

impl Expected {
    /// Whether a server that ended recovery at `reached` is in the range.
    pub fn is_met_by(&self, reached: Lsn) -> bool {
        reached >= self.least && self.most.is_none_or(|most| reached <= most)
    }
}

/// Reads the WAL that the plan replays, until `is_cancelled`.
///
/// # Errors
/// [`Kind::Refused`] when the WAL creates a tablespace: replaying that would write into the
/// directory of the original. [`Kind::Hole`] when a segment is missing. Errors of reading the
/// repository.
pub fn expect(plan: &RestorePlan, is_cancelled: &(dyn Fn() -> bool + Sync)) -> Result<Expected> {
    let record = &plan.record;
    // End of the last transaction at or before a target time, or of the record that is the target.
    let mut before = None;
    let facts =
        plan.replay(is_cancelled, &|_| {}, |found, step| match (&plan.stop.target, &found.meaning, step) {
            (RecoveryTarget::Time(_), Meaning::TransactionEnd(_), ReplayStep::Replay)
            | (RecoveryTarget::Lsn(_), _, ReplayStep::StopAfter) => before = Some(found.end),
            _ => {}
        })?;
    if let Some((oid, location)) = facts.tablespaces.iter().find(|(_, location)| !location.is_empty()) {
        return Err(Error::new(
            Kind::Refused,
            format!(
                "tablespace {oid} was created after backup {}: recovery would write into {}",
                record.id,
                String::from_utf8_lossy(location)
            ),
        )
        .hint("take a new backup: it has the tablespace, and a drill puts it into the scratch directory"));
    }
    // Without any record behind the stop of the backup, recovery ends at the stop.
    let end = facts.end.map_or(record.stop_lsn, |end| end.max(record.stop_lsn));
    let (least, most, lsn) = match (&plan.stop.target, facts.stop) {
        (RecoveryTarget::Time(_) | RecoveryTarget::Lsn(_), Some(stop)) => {
            (before.unwrap_or(record.stop_lsn), Some(stop), stop)
        }
        (RecoveryTarget::Lsn(lsn), None) => (*lsn, None, *lsn),
        // No upper limit: WAL that is archived during the drill is replayed too.
        (RecoveryTarget::Immediate, _) => (record.stop_lsn, Some(end), record.stop_lsn),
        _ => (end, None, end),
    };
    // Behind a seam no record is reached, which recovery has to find out.
    let last = if facts.seam.is_some() { facts.end } else { facts.last.map(|(begin, _)| begin) };
    // Without a change the settings of the control file hold.
    let raised = facts.parameters.unwrap_or_default();
    Ok(Expected { least, most, lsn, last, seam: facts.seam, raised })
}
