//! Choice of the backup for a restore point or a transaction. Their positions are found by reading
//! WAL, beginning with the newest.

use super::stop::{RecoveryStop, RecoveryTarget};
use crate::error::{Error, Kind, Result};
use crate::pg::history::History;
use crate::progress;
use crate::repo::Archive;
use crate::repo::catalog::Inventory;
use crate::repo::record::Record;
use crate::repo::replay::{ReplayStep, Walk};

/// Maximum number of restore points in a hint.
const MAX_POINTS: usize = 10;

/// Returns the newest backup that ends before the target, and the history to follow from it.
/// `history_from` refuses backups that cannot be restored. Only WAL between the ends of one backup
/// and of the next one is read for each.
pub(super) fn locate<'r>(
    archive: &Archive,
    inventory: &Inventory,
    stop: &RecoveryStop,
    records: &[&'r Record],
    history_from: impl Fn(&Record) -> Result<History>,
) -> Result<(&'r Record, History)> {
    progress::step("looking for the target in the WAL");
    let mut points = Vec::new();
    // Number of the last segment of the backup that was tried before, and its history.
    let mut before: Option<(u64, History)> = None;
    for record in records.iter().copied().rev() {
        let history = match history_from(record) {
            Err(error) if matches!(error.kind(), Kind::Refused | Kind::Problem) => continue,
            history => history?,
        };
        let Some(reach) = inventory.reach(record, &history) else {
            continue;
        };
        let size = record.segment_size;
        let end = reach.last.number(size);
        let end = match &before {
            Some((number, known)) if *known == history => end.min(*number),
            _ => end,
        };
        let walk = Walk { archive, segment_size: size, is_cancelled: &|| false, progress: &|_| {} };
        let names = inventory.along(&history, record.wal.first.number(size)..=end);
        let facts = walk.over(names, |found| {
            if found.begin < record.stop_lsn { ReplayStep::Replay } else { stop.step(found) }
        })?;
        if facts.stop.is_some() {
            return Ok((record, history));
        }
        points.extend(facts.restore_points);
        before = Some((record.wal.last.number(size), history));
    }
    let (what, hint) = match &stop.target {
        RecoveryTarget::Name(name) => {
            points.sort_by_key(|point| std::cmp::Reverse(point.end));
            points.dedup();
            let shown = points.iter().filter(|point| point.name != b"walkeep").take(MAX_POINTS);
            let shown =
                shown.map(|point| format!("{:?} ({})", String::from_utf8_lossy(&point.name), point.time));
            let shown: Vec<String> = shown.collect();
            let list = if shown.is_empty() { "none".to_owned() } else { shown.join(", ") };
            (format!("restore point {name:?} is"), format!("restore points: {list}"))
        }
        target => {
            let RecoveryTarget::Xid(xid) = target else {
                return Err(Error::defect("a search for a target that has a position"));
            };
            (format!("the end of transaction {xid} is"), SUBTRANSACTION.to_owned())
        }
    };
    Err(Error::new(Kind::Refused, format!("{what} not in the archived WAL behind any backup"))
        .hint(format!("{hint}; later WAL may not be archived yet (select pg_switch_wal() on the primary)")))
}

/// Hint for a transaction whose end is not found.
pub(super) const SUBTRANSACTION: &str = "a subtransaction (a savepoint) has an id of its own, at which recovery does not stop: name the transaction around it";
