//! Facts about a repository, from its survey. The repository is listed once; besides its small
//! objects only the few segments in which the windows end are read.

use super::facts::{LastDrill, ObservedBackup, ObservedServer, RepositoryStock};
use crate::error::Result;
use crate::pg::segment::{SegmentName, WalName};
use crate::repo::Archive;
use crate::repo::branches::{Branches, Living, ServerTimeline, Why, is_in_the_future};
use crate::repo::data::{Data, manifest_bytes, named_bytes};
use crate::repo::drills::{Drill, Outcome};
use crate::repo::missing::MissingHistory;
use crate::repo::packset::PackSet;
use crate::repo::record::Record;
use crate::repo::survey::{Survey, Want};
use jiff::{SignedDuration, Timestamp};
use std::collections::BTreeMap;

/// Period over which growth is measured.
const WEEK: SignedDuration = SignedDuration::from_hours(7 * 24);
/// Minimum period of growth: a single backup would dominate a shorter period.
const HOUR: SignedDuration = SignedDuration::from_hours(1);

/// Reads the facts about a repository. `expires` is [`Expiry`](super::Expiry) for it.
pub(super) fn read(
    archive: &Archive,
    server: &ServerTimeline,
    expires: impl Fn(&[Record], &str) -> Option<Timestamp>,
    now: Timestamp,
) -> Result<RepositoryStock> {
    let mut growth = Growth::new(now);
    let want = Want { data: true, pins: true, drills: true, verified: true };
    let mut survey = Survey::read_each(archive, want, |_, listed| growth.add(listed.modified, listed.size))?;
    survey.look_for_seams(archive)?;
    let branches = survey.branches(server, now);
    let windows = survey.windows(archive, &branches)?;
    let mut gaps = survey.holes(&branches, Some(&windows), now);
    gaps.iter_mut().for_each(|gap| gap.set_end(|id| expires(&survey.records.good, id)));
    let mut missing_histories = survey.missing_histories();
    missing_histories.retain(MissingHistory::is_needed);
    let Survey { records, wal, damaged_histories, drills, data, verified, .. } = survey;
    for record in &records.good {
        growth.add(record.stop_time, record.new_bytes);
    }
    let histories = damaged_histories.into_iter().map(|(timeline, _)| WalName::History(timeline).to_string());
    let segments = windows.damaged.into_iter().map(|(segment, _)| segment.to_string());
    let inventory = wal.as_ref().map(|wal| &wal.inventory);
    let living = branches.living_history();
    let newest = inventory.zip(living).and_then(|(inventory, living)| inventory.last_along(&living));
    let stored: u64 = data.values().map(Data::bytes).sum();
    let is_past = |time: &Timestamp| !is_in_the_future(*time, now);
    let stored_at = &records.stored;
    let backup = |record: Record| ObservedBackup {
        leads: !branches.is_dead_at(record.timeline, record.stop_lsn),
        since: [Some(record.stop_time), stored_at.get(&record.id).copied()]
            .into_iter()
            .flatten()
            .find(is_past),
        is_complete: record.is_complete(),
        is_found_bad: verified.get(&record.id) == Some(&true),
        ended: record.stop_time,
        size: record.size,
        stored: record.stored,
        id: record.id,
    };
    let backup_bytes = stored + records.sizes.values().sum::<u64>();
    let unfinished_bytes = unfinished(&records.good, &data, stored);
    let backups = records.good.into_iter().map(backup).collect();
    Ok(RepositoryStock {
        unreadable: records.damaged.into_iter().map(|(id, _)| id).collect(),
        unreadable_wal: histories.chain(segments).collect(),
        gaps,
        missing_histories,
        branches: Some(branches),
        window: windows.living,
        windows: windows.by_timeline,
        newest,
        backup_bytes,
        unfinished_bytes,
        wal_bytes: inventory.map_or(0, |inventory| inventory.bytes),
        growth: growth.per_second(),
        drill: last_drill(&drills),
        backups,
        ..RepositoryStock::default()
    })
}

/// Bytes of data that no record names; `None` when an old record does not name its packs.
fn unfinished(records: &[Record], data: &BTreeMap<String, Data>, stored: u64) -> Option<u64> {
    let mut named = PackSet::default();
    for record in records {
        named.extend(record.packs.as_ref()?);
    }
    Some(stored.saturating_sub(named_bytes(&named, data) + manifest_bytes(records)))
}

/// Returns the newest drill that proved or refuted a backup, else the newest of all.
fn last_drill(drills: &[Drill]) -> Option<LastDrill> {
    let certain = drills.iter().rev().find(|drill| drill.outcome != Outcome::Unknown);
    let proved = drills.iter().rev().find(|drill| drill.outcome == Outcome::Proved);
    certain.or(drills.last()).map(|drill| LastDrill {
        ended: drill.ended,
        outcome: drill.outcome.as_str().to_owned(),
        is_refuted: drill.outcome == Outcome::Refuted,
        last_proved: proved.map(|drill| drill.ended),
    })
}

/// Bytes that were added during the last week.
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

/// Compares a repository with the server, which was queried before the repository was listed: a
/// file that the server counts as archived has to be in the repository. Only WAL along the timeline
/// of the server is compared.
pub(super) fn compare(stock: &mut RepositoryStock, server: &ObservedServer) {
    let Some(size) = server.segment_size else {
        return;
    };
    // The living timeline is that of the server, or its last ancestor that is archived.
    let is_server = stock
        .branches
        .as_ref()
        .is_some_and(|branches| matches!(branches.living(), Living::None | Living::One(_, Why::Server)));
    let is_ours = |name: SegmentName| {
        let is_own = server.current.is_some_and(|current| current.timeline == name.timeline);
        let is_dead = |branches: &Branches| branches.is_dead_at(name.timeline, name.start(size));
        is_own && is_server || !stock.branches.as_ref().is_some_and(is_dead)
    };
    let newest = stock.newest.map(|(name, _)| name.number(size));
    if let Some(current) = server.current.filter(|current| is_ours(*current)) {
        // Without any segment the number of missing segments is not known.
        stock.behind = newest.map(|newest| current.number(size).saturating_sub(newest + 1));
    }
    let archived = server.archiver.last_archived.as_ref().and_then(|(name, _)| name.parse().ok());
    if let Some(WalName::Segment(archived)) = archived
        && is_ours(archived)
        && newest.is_none_or(|newest| newest < archived.number(size))
    {
        stock.lacks_archived = Some(archived.to_string());
    }
}
