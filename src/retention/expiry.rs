//! Estimate of the time at which the rules stop keeping a backup.

use super::policy::{Policy, Reasons};
use super::stock::{Backup, Stock};
use crate::repo::record::Record;
use jiff::{SignedDuration, Timestamp};

/// Maximum number of future backups that are considered.
const MAX_STEPS: usize = 400;

/// Interval between backups when there is only one.
const USUAL_INTERVAL: SignedDuration = SignedDuration::from_hours(24);

/// Returns about when the rules stop keeping a backup, if backups are taken as often as before.
/// `None` when they keep it for the next [`MAX_STEPS`] backups, or there are no rules.
pub fn expires(policy: &Policy, records: &[Record], id: &str, now: Timestamp) -> Option<Timestamp> {
    if policy.is_empty() {
        return None;
    }
    let complete: Vec<&Record> = records.iter().filter(|record| record.is_complete()).collect();
    let index = complete.iter().position(|record| record.id == id)?;
    let (first, last) = (complete.first()?, complete.last()?);
    let intervals = i32::try_from(complete.len()).ok()? - 1;
    let interval = match intervals {
        0 => USUAL_INTERVAL,
        _ => last.stop_time.duration_since(first.stop_time) / intervals,
    };
    let interval = interval.clamp(SignedDuration::from_mins(1), SignedDuration::from_hours(24 * 366));
    let mut stock = Stock { backups: complete.into_iter().map(Backup::stub).collect(), ..Stock::default() };
    let mut time = now;
    for _ in 0..MAX_STEPS {
        let mut reasons = Reasons::new();
        let all: Vec<usize> = (0..stock.backups.len()).collect();
        policy.apply(&stock, &stock.branches(time), &all, time, &mut reasons);
        if !reasons.contains_key(&index) {
            return Some(time);
        }
        time = time.checked_add(interval).ok()?;
        let mut next = stock.backups.last()?.clone();
        next.stop_time = time;
        next.stop_lsn.0 += 1;
        stock.backups.push(next);
    }
    None
}
