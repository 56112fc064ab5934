//! The rules of retention: the backups that are kept, and the reasons. Computes with values alone.

use super::stock::Stock;
use crate::pg::history::History;
use crate::pg::segment::TimelineId;
use crate::repo::branches::Branches;
use jiff::{SignedDuration, Timestamp};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Duration without a new WAL file or backup after which a window that is shorter ends at the time
/// of the newest of these, and not now: removing old backups gains nothing then, or the clock is
/// wrong.
const MAX_SILENCE: Duration = Duration::from_secs(31 * 86_400);

/// Rules of retention. Without any rule every backup is kept.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Policy {
    /// Number of newest backups.
    pub keep_last: Option<u32>,
    /// Duration before now of which every moment stays restorable.
    pub keep_within: Option<Duration>,
    /// Number of days whose last backup is kept; days without a backup do not count. Weeks, months
    /// and years likewise.
    pub keep_daily: Option<u32>,
    pub keep_weekly: Option<u32>,
    pub keep_monthly: Option<u32>,
    pub keep_yearly: Option<u32>,
}

/// Reason for which a backup is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// The policy has no rule.
    NoRetention,
    /// Only named backups were to be removed, and this one was not named.
    NotNamed,
    KeepLast,
    KeepWithin,
    KeepDaily,
    KeepWeekly,
    KeepMonthly,
    KeepYearly,
    /// The last complete backup is never removed.
    LastComplete,
    Pin,
    /// Pinned with only its own WAL.
    PinStandalone,
    /// A running operation needs it.
    InUse,
    /// The backup could not be removed.
    NotRemovable,
}

/// The number of the day, week, month or year of a moment.
type Period = fn(Timestamp) -> i64;

impl Reason {
    /// Name of the reason in reports; the reasons of rules are named like their settings.
    pub fn as_str(self) -> &'static str {
        match self {
            Reason::NoRetention => "no_retention",
            Reason::NotNamed => "not_named",
            Reason::KeepLast => "keep_last",
            Reason::KeepWithin => "keep_within",
            Reason::KeepDaily => "keep_daily",
            Reason::KeepWeekly => "keep_weekly",
            Reason::KeepMonthly => "keep_monthly",
            Reason::KeepYearly => "keep_yearly",
            Reason::LastComplete => "last_complete",
            Reason::Pin => "pin",
            Reason::PinStandalone => "pin_standalone",
            Reason::InUse => "in_use",
            Reason::NotRemovable => "not_removable",
        }
    }
}

/// The reasons of the backups that are kept, by index in the stock.
pub type Reasons = BTreeMap<usize, BTreeSet<Reason>>;

impl Policy {
    pub fn is_empty(&self) -> bool {
        *self == Policy::default()
    }

    /// Adds the reasons for which the rules keep backups among `of`, which are indices in the
    /// stock. Rules that count begin with the backups that lead to the living timeline; if it is
    /// not clear which one that is, they count for each that may be alive.
    pub fn apply(
        &self,
        stock: &Stock,
        branches: &Branches,
        of: &[usize],
        now: Timestamp,
        reasons: &mut Reasons,
    ) {
        let cutoff = self.keep_within.and_then(|within| before(window_end(stock, now, within), within));
        if let Some(cutoff) = cutoff {
            for index in within(stock, branches, of, cutoff, now) {
                reasons.entry(index).or_default().insert(Reason::KeepWithin);
            }
        }
        for living in branches.possible() {
            self.count(stock, &ordered(stock, of, living), now, reasons);
        }
    }

    /// Applies the rules that count; `order` ends with the newest backup.
    fn count(&self, stock: &Stock, order: &[usize], now: Timestamp, reasons: &mut Reasons) {
        let mut keep = |index: usize, reason| {
            reasons.entry(index).or_default().insert(reason);
        };
        if let Some(count) = self.keep_last {
            order.iter().rev().take(count as usize).for_each(|index| keep(*index, Reason::KeepLast));
        }
        let calendar: [(Option<u32>, Reason, Period); 4] = [
            (self.keep_daily, Reason::KeepDaily, |time| day(time)),
            // Weeks begin on Monday, and the first of January 1970 was a Thursday.
            (self.keep_weekly, Reason::KeepWeekly, |time| (day(time) + 3).div_euclid(7)),
            (self.keep_monthly, Reason::KeepMonthly, month),
            (self.keep_yearly, Reason::KeepYearly, |time| month(time).div_euclid(12)),
        ];
        for (count, reason, period) in calendar {
            let mut seen = BTreeSet::new();
            for index in order.iter().rev() {
                let time = stock.backups.get(*index).map(|backup| backup.stop_time.min(now));
                let new = time.is_some_and(|time| seen.insert(period(time)));
                if new && seen.len() <= count.unwrap_or(0) as usize {
                    keep(*index, reason);
                }
            }
        }
    }
}

/// Returns backups, which are indices in the stock, so that those that lead to `living` come last,
/// by position.
pub fn ordered(stock: &Stock, of: &[usize], living: TimelineId) -> Vec<usize> {
    let (line, mut order): (Vec<usize>, Vec<usize>) =
        of.iter().partition(|index| leads_to(stock, **index, living));
    order.extend(line);
    order
}

/// Whether a timeline can be reached from a backup.
pub fn leads_to(stock: &Stock, index: usize, timeline: TimelineId) -> bool {
    let history = stock.history(timeline);
    stock.backups.get(index).is_some_and(|backup| history.contains(backup.timeline, backup.stop_lsn))
}

/// Returns the end of the window: now, or the time of the newest WAL or backup after a long
/// silence.
pub fn window_end(stock: &Stock, now: Timestamp, within: Duration) -> Timestamp {
    let stopped = stock.backups.iter().map(|backup| backup.stop_time);
    let last = stopped.chain(stock.stored.values().copied()).max().unwrap_or(now);
    let silence = now.duration_since(last);
    if silence > SignedDuration::try_from(within.max(MAX_SILENCE)).unwrap_or(SignedDuration::MAX) {
        last
    } else {
        now
    }
}

/// Subtracts; `None` when the result is out of range, so that nothing is old enough.
fn before(time: Timestamp, duration: Duration) -> Option<Timestamp> {
    time.checked_sub(SignedDuration::try_from(duration).ok()?).ok()
}

/// Returns days since 1970, in UTC.
fn day(time: Timestamp) -> i64 {
    time.as_second().div_euclid(86_400)
}

/// Returns months since the year 0, in UTC.
fn month(time: Timestamp) -> i64 {
    let date = time.to_zoned(jiff::tz::TimeZone::UTC).date();
    i64::from(date.year()) * 12 + i64::from(date.month()) - 1
}

/// Returns the times by which backups are judged, in the order in which they were taken. A claimed
/// time that is in the future, or before the time of an earlier backup, is replaced by the time of
/// the next backup, or by now.
fn times(claimed: &[Timestamp], now: Timestamp) -> Vec<Timestamp> {
    let mut newest = Timestamp::MIN;
    let mut known: Vec<Option<Timestamp>> = Vec::with_capacity(claimed.len());
    for time in claimed {
        let is_known = newest <= *time && *time <= now;
        if is_known {
            newest = *time;
        }
        known.push(is_known.then_some(*time));
    }
    let mut next = now;
    let mut times: Vec<Timestamp> = Vec::with_capacity(claimed.len());
    for known in known.into_iter().rev() {
        next = known.unwrap_or(next);
        times.push(next);
    }
    times.reverse();
    times
}

/// Returns the backups that make every moment since `cutoff` restorable: along each timeline that
/// was used since then, the last backup before the first one after `cutoff`, and all later ones.
/// They are taken in their order and not by time, so a wrong clock of one backup removes none.
fn within(
    stock: &Stock,
    branches: &Branches,
    of: &[usize],
    cutoff: Timestamp,
    now: Timestamp,
) -> BTreeSet<usize> {
    let backup = |index: &usize| stock.backups.get(*index);
    let timelines: BTreeSet<TimelineId> = stock
        .stored
        .keys()
        .chain(stock.histories.keys())
        .copied()
        .chain(of.iter().filter_map(backup).map(|backup| backup.timeline))
        .collect();
    let living = branches.possible();
    let mut kept = BTreeSet::new();
    for timeline in timelines {
        let history: History = stock.history(timeline);
        let line: Vec<usize> = of
            .iter()
            .filter(|index| backup(index).is_some_and(|b| history.contains(b.timeline, b.stop_lsn)))
            .copied()
            .collect();
        let claimed: Vec<Timestamp> = line.iter().filter_map(backup).map(|backup| backup.stop_time).collect();
        let first_young = times(&claimed, now).iter().position(|time| *time > cutoff);
        let was_used = living.contains(&timeline)
            || first_young.is_some()
            || stock.stored.get(&timeline).is_some_and(|stored| *stored > cutoff);
        if was_used {
            let begin = first_young.unwrap_or(line.len()).saturating_sub(1);
            kept.extend(line.into_iter().skip(begin));
        }
    }
    kept
}
