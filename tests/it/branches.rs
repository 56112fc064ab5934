//! The rule that decides which branch of a cluster is alive, on values: WAL, backups, histories,
//! clocks. Names say what an administrator would expect.

use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use walkeep::pg::history::History;
use walkeep::pg::lsn::Lsn;
use walkeep::pg::segment::{SegmentName, SegmentSize, TimelineId, WalName};
use walkeep::repo::branches::{BranchBackup, Branches, Living, ServerTimeline, Why, branches_of};
use walkeep::repo::catalog::Inventory;
use walkeep::repo::history::WalHistory;

const MB: u64 = 1 << 20;
const NOW: i64 = 1_800_000_000;

fn size() -> SegmentSize {
    SegmentSize::try_from(MB).expect("a size")
}

fn at(seconds: i64) -> jiff::Timestamp {
    jiff::Timestamp::from_second(seconds).expect("a time")
}

/// Position in the middle of a segment.
fn within(segment: u64) -> Lsn {
    Lsn(segment * MB + MB / 2)
}

/// A cluster that a test makes up. Times are seconds before now, or behind it if negative.
#[derive(Debug, Default)]
struct Made {
    /// By timeline: segments with the time at which they were stored.
    segments: BTreeMap<u32, BTreeMap<u64, i64>>,
    /// By timeline: ancestry, and the time at which the history was stored.
    histories: BTreeMap<u32, (Vec<(u32, u64)>, i64)>,
    /// Timeline, segment in which it ends, time.
    backups: Vec<(u32, u64, i64)>,
    retired: BTreeSet<TimelineId>,
    server: ServerTimeline,
}

impl Made {
    fn wal(mut self, timeline: u32, numbers: std::ops::RangeInclusive<u64>, ago: i64) -> Made {
        self.segments.entry(timeline).or_default().extend(numbers.map(|number| (number, ago)));
        self
    }

    /// A timeline that left these ancestors in these segments.
    fn fork(mut self, timeline: u32, parents: &[(u32, u64)], ago: i64) -> Made {
        self.histories.insert(timeline, (parents.to_vec(), ago));
        self
    }

    fn backup(mut self, timeline: u32, segment: u64, ago: i64) -> Made {
        self.backups.push((timeline, segment, ago));
        self
    }

    fn retired(mut self, timeline: u32) -> Made {
        self.retired.insert(TimelineId(timeline));
        self
    }

    fn server(mut self, server: ServerTimeline) -> Made {
        self.server = server;
        self
    }

    fn branches(&self) -> Branches {
        let mut inventory = Inventory::new(size());
        for (timeline, segments) in &self.segments {
            for (number, ago) in segments {
                let name = SegmentName::of_number(TimelineId(*timeline), *number, size());
                inventory.add(WalName::Segment(name), at(NOW - ago), 10);
            }
        }
        let mut histories = BTreeMap::new();
        for (timeline, (parents, ago)) in &self.histories {
            let timeline = TimelineId(*timeline);
            inventory.add(WalName::History(timeline), at(NOW - ago), 10);
            let parents = parents.iter().map(|(parent, left)| (TimelineId(*parent), within(*left)));
            histories.insert(timeline, History { timeline, parents: parents.collect() });
        }
        let ids: Vec<String> = (0..self.backups.len()).map(|number| number.to_string()).collect();
        let backups = self.backups.iter().zip(&ids).map(|((timeline, segment, ago), id)| BranchBackup {
            id,
            timeline: TimelineId(*timeline),
            stop_lsn: within(*segment),
            stop_time: at(NOW - ago),
            is_complete: true,
        });
        let backups: Vec<BranchBackup<'_>> = backups.collect();
        let all = branches_of(&WalHistory::new(inventory, histories));
        Branches::judge(all, Some(size()), &backups, &self.retired, &self.server, at(NOW))
    }

    #[track_caller]
    fn lives_on(self, timeline: u32, why: Why) -> Branches {
        let branches = self.branches();
        assert_eq!(*branches.living(), Living::One(TimelineId(timeline), why), "{branches:#?}");
        branches
    }

    #[track_caller]
    fn stays_unclear(self, by_backup: u32, by_wal: u32) -> Branches {
        let branches = self.branches();
        let unclear = Living::Unclear(TimelineId(by_backup), TimelineId(by_wal));
        assert_eq!(*branches.living(), unclear, "{branches:#?}");
        branches
    }
}

/// Timeline 1 with a backup, and an accidental promotion in segment 5 that archived until 900 s ago.
fn accident() -> Made {
    Made::default().wal(1, 1..=5, 1000).backup(1, 2, 2000).fork(2, &[(1, 5)], 950).wal(2, 5..=9, 900).wal(
        1,
        6..=8,
        100,
    )
}

fn dead(branches: &Branches) -> Vec<u32> {
    branches.dead().map(|branch| branch.timeline().0).collect()
}

#[test]
fn a_server_that_went_on_lives_whatever_number_a_dead_branch_has() {
    let branches = accident().backup(1, 7, 200).lives_on(1, Why::NewestBackup);
    assert_eq!(dead(&branches), [2]);
    assert!(branches.is_dead_at(TimelineId(2), within(6)));
    assert!(!branches.is_dead_at(TimelineId(1), within(6)));
    // Without a backup since then its newer WAL says the same.
    accident().lives_on(1, Why::NewestBackup);
    // A backup of the dead branch does not bring it to life.
    let with_its_backup = accident().backup(2, 8, 910).backup(1, 7, 200);
    with_its_backup.lives_on(1, Why::NewestBackup);
}

#[test]
fn a_new_primary_without_a_backup_of_its_own_continues_the_old_one() {
    let failover =
        || Made::default().wal(1, 1..=5, 1000).backup(1, 2, 2000).fork(2, &[(1, 5)], 950).wal(2, 5..=9, 100);
    let branches = failover().lives_on(2, Why::NewestWal);
    assert_eq!(dead(&branches), [0_u32; 0]);
    // The old primary archived further before it died; that part leads nowhere.
    let branches = failover().wal(1, 6..=7, 940).lives_on(2, Why::NewestWal);
    assert!(branches.is_dead_at(TimelineId(1), within(7)));
    assert!(!branches.is_dead(TimelineId(1)));
    // Its data directory is left behind, and decides nothing.
    failover().server(ServerTimeline::Stopped(TimelineId(1))).lives_on(2, Why::NewestWal);
    // So far only the history is archived.
    let fresh = Made::default().wal(1, 1..=5, 1000).backup(1, 2, 2000).fork(2, &[(1, 5)], 10);
    fresh.lives_on(2, Why::NewestWal);
    // What was left in pg_wal of the old primary is archived by hand.
    failover().wal(1, 4..=5, 1).lives_on(2, Why::NewestWal);
}

#[test]
fn a_server_that_runs_decides_against_the_archive() {
    let running = |timeline| ServerTimeline::running(TimelineId(timeline));
    accident().server(running(2)).lives_on(2, Why::Server);
    accident().backup(2, 8, 50).server(running(1)).lives_on(1, Why::Server);
    // Its own timeline is not archived: the last ancestor that is.
    let parents = vec![(TimelineId(1), within(8))];
    let unknown = ServerTimeline::Running(History { timeline: TimelineId(3), parents });
    accident().server(unknown).lives_on(1, Why::Server);
    // Without a known ancestor the archive decides.
    accident().server(running(7)).lives_on(1, Why::NewestBackup);
}

#[test]
fn backup_and_wal_on_different_branches_are_not_guessed_about() {
    // A rollback to before the backup, or a dead branch whose files came late: nobody can tell.
    let rollback =
        || Made::default().wal(1, 1..=9, 1000).backup(1, 8, 1100).fork(2, &[(1, 5)], 500).wal(2, 5..=7, 100);
    let branches = rollback().stays_unclear(1, 2);
    assert_eq!(branches.alive(), None);
    assert_eq!(dead(&branches), [0_u32; 0]);
    // The data directory of the stopped server can.
    let stopped = |timeline| ServerTimeline::Stopped(TimelineId(timeline));
    rollback().server(stopped(2)).lives_on(2, Why::DataDirectory);
    rollback().server(stopped(1)).lives_on(1, Why::DataDirectory);
    // And so can the administrator.
    rollback().retired(1).lives_on(2, Why::NewestWal);
    rollback().retired(2).lives_on(1, Why::NewestBackup);
    rollback().backup(2, 6, 50).lives_on(2, Why::NewestBackup);
}

#[test]
fn clocks_that_were_ahead_do_not_choose_a_branch() {
    let year = 365 * 86_400;
    accident().backup(2, 8, -year).backup(1, 7, 200).lives_on(1, Why::NewestBackup);
    // The only backup there is counts all the same.
    Made::default().wal(1, 1..=5, 100).backup(1, 2, -year).lives_on(1, Why::NewestBackup);
}

#[test]
fn a_retired_timeline_is_hidden_unless_a_higher_one_needs_it() {
    let branches = accident().retired(2).branches();
    assert!(branches.is_hidden(TimelineId(2)));
    assert_eq!(branches.latest_from(TimelineId(1)), TimelineId(1));
    assert_eq!(dead(&branches), [0_u32; 0], "it was dealt with");
    assert_eq!(accident().branches().latest_from(TimelineId(1)), TimelineId(2));
    // PostgreSQL would not find timeline 3 without the history of timeline 2.
    let higher = || accident().fork(3, &[(1, 8)], 50).wal(3, 8..=9, 40);
    let branches = higher().retired(2).lives_on(3, Why::NewestWal);
    assert!(!branches.is_hidden(TimelineId(2)));
    assert_eq!(branches.latest_from(TimelineId(1)), TimelineId(3));
    let branches = higher().retired(2).retired(3).branches();
    assert_eq!(branches.latest_from(TimelineId(1)), TimelineId(1));
}

fn any_made() -> impl Strategy<Value = Made> {
    let fork = (0..10_u64, 1..5_u32, 0..2000_i64);
    let forks = prop::collection::vec(fork, 0..4);
    let wal = prop::collection::vec((1..6_u32, 1..12_u64, 0..2000_i64), 0..20);
    let backups = prop::collection::vec((1..6_u32, 1..12_u64, -2000..2000_i64), 0..6);
    let retired = prop::collection::btree_set(1..6_u32, 0..3);
    let server = (0..3_u32, 1..6_u32);
    (forks, wal, backups, retired, server).prop_map(|(forks, wal, backups, retired, server)| {
        let mut made = Made::default();
        for (index, (left, parent, ago)) in forks.into_iter().enumerate() {
            let timeline = index as u32 + 2;
            let parent = parent.min(timeline - 1);
            let mut parents = made.histories.get(&parent).map_or_else(Vec::new, |(known, _)| known.clone());
            parents.retain(|(_, end)| *end < left);
            parents.push((parent, left));
            made.histories.insert(timeline, (parents, ago));
        }
        for (timeline, number, ago) in wal {
            made.segments.entry(timeline).or_default().insert(number, ago);
        }
        made.backups = backups;
        made.retired = retired.into_iter().map(TimelineId).collect();
        made.server = match server {
            (0, _) => ServerTimeline::Unknown,
            (1, timeline) => ServerTimeline::Stopped(TimelineId(timeline)),
            (_, timeline) => ServerTimeline::running(TimelineId(timeline)),
        };
        made
    })
}

proptest! {
    #[test]
    fn what_lives_is_a_branch_of_the_archive_and_never_dead(made in any_made()) {
        let branches = made.branches();
        let possible = branches.possible();
        prop_assert_eq!(possible.is_empty(), branches.iter().next().is_none());
        for timeline in &possible {
            prop_assert!(branches.get(*timeline).is_some());
            prop_assert!(!branches.is_dead(*timeline));
        }
        for branch in branches.dead() {
            prop_assert!(!possible.contains(&branch.timeline()));
            prop_assert!(branches.is_dead_at(branch.timeline(), within(11)));
        }
        // A retired timeline lives only where the server is on it, or nothing else is left.
        let all_retired = branches.iter().all(|branch| branch.is_retired);
        if !all_retired && let Living::One(timeline, why) = branches.living() && *why != Why::Server {
            prop_assert!(!made.retired.contains(timeline));
        }
    }

    #[test]
    fn to_retire_every_dead_branch_leaves_that_of_the_server_alone(made in any_made()) {
        let before = made.branches();
        let mut after = made;
        after.retired.extend(before.dead().map(|branch| branch.timeline()));
        let after = after.branches();
        if let Living::One(timeline, Why::Server) = before.living() {
            prop_assert_eq!(after.alive(), Some(*timeline));
            prop_assert_eq!(after.dead().count(), 0);
        }
    }
}
