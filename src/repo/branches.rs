//! The branches of a cluster, and the rule that decides which one is alive.
//!
//! A branch is a timeline of the archive. The highest number decides nothing: a server that was
//! promoted by mistake leaves a higher timeline behind. A timeline is alive when
//!
//! 1. the server runs on it;
//! 2. otherwise, when the newest backup and the newest archived WAL lead to it. The newest backup
//!    leads to its own timeline, and to a timeline that left it behind the end of this backup and
//!    has newer WAL: a new primary whose first backup is not taken yet.
//!
//! Where backup and WAL lead to different branches, the data directory of a stopped server decides
//! if it is on one of them; otherwise nothing does, and the result is [`Living::Unclear`]. Timelines
//! that were retired are not candidates. Backups are compared by the time of their end, those of
//! one timeline by position; a time in the future does not count. WAL is compared by the time at
//! which the store received the last segment of a timeline. Knows no content of WAL, only names.

use super::Lineage;
use super::history::WalHistory;
use super::record::Record;
use crate::fs::named;
use crate::pg::control::Control;
use crate::pg::history::{History, MAX_FILE_SIZE};
use crate::pg::lsn::Lsn;
use crate::pg::running::has_postmaster;
use crate::pg::segment::{SegmentName, SegmentSize, TimelineId, WalName};
use jiff::{SignedDuration, Timestamp};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::path::Path;

/// Difference between two clocks up to which a time behind now is not in the future.
pub const MAX_CLOCK_SKEW: SignedDuration = SignedDuration::from_mins(5);

/// Whether a time is so far behind `now` that the clock which showed it was wrong, or `now` is.
pub fn is_in_the_future(time: Timestamp, now: Timestamp) -> bool {
    time.duration_since(now) > MAX_CLOCK_SKEW
}

/// Timeline of the cluster's own server.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum ServerTimeline {
    #[default]
    Unknown,
    /// A server that takes writes is on this timeline. Without ancestors when they are not known.
    Running(History),
    /// The data directory of a server that is stopped or in recovery is on this timeline.
    Stopped(TimelineId),
}

impl ServerTimeline {
    /// Returns the timeline of the server of a data directory, from its files. `Unknown` when they
    /// cannot be read or belong to another cluster.
    pub fn of(pgdata: &Path, lineage: Lineage) -> ServerTimeline {
        let control = Control::read(pgdata).ok();
        let control = control.filter(|control| control.system_identifier() == lineage.system_identifier);
        let Some(control) = control else {
            return ServerTimeline::Unknown;
        };
        let timeline = control.latest_timeline();
        if !control.is_in_production() || !has_postmaster(pgdata) {
            return ServerTimeline::Stopped(timeline);
        }
        let file = pgdata.join("pg_wal").join(WalName::History(timeline).to_string());
        let text = named::read(&file, MAX_FILE_SIZE).ok().flatten();
        let history = text.and_then(|text| History::parse(timeline, &text).ok());
        ServerTimeline::Running(history.unwrap_or_else(|| History::root(timeline)))
    }

    /// Timeline of a server that takes writes, from its own answer.
    pub fn running(timeline: TimelineId) -> ServerTimeline {
        ServerTimeline::Running(History::root(timeline))
    }
}

/// Reason why a timeline is alive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// The server runs on it, or on a timeline that left it and is not archived.
    Server,
    /// The newest backup is on it.
    NewestBackup,
    /// The newest archived WAL is on it, and the newest backup leads to it, or there is no backup.
    NewestWal,
    /// Backup and WAL lead to different timelines, and the data directory is on this one.
    DataDirectory,
}

impl Why {
    /// Name of the reason in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Why::Server => "server",
            Why::NewestBackup => "newest_backup",
            Why::NewestWal => "newest_wal",
            Why::DataDirectory => "data_directory",
        }
    }

    /// Reason as the end of a sentence.
    pub fn text(self) -> &'static str {
        match self {
            Why::Server => "the server is on it",
            Why::NewestBackup => "the newest backup is on it",
            Why::NewestWal => "the newest archived WAL is on it",
            Why::DataDirectory => "the data directory is on it",
        }
    }
}

/// The branch that is alive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Living {
    /// The archive has neither a backup nor WAL.
    None,
    One(TimelineId, Why),
    /// The newest backup leads to the first, the newest WAL is on the second, and neither leads to
    /// the other.
    Unclear(TimelineId, TimelineId),
}

/// A timeline of the archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Branch {
    /// Ancestry; without ancestors also when the history is missing or damaged.
    pub history: History,
    /// First and last segment in the archive.
    pub segments: Option<(SegmentName, SegmentName)>,
    /// Time at which the last segment was stored, or the history if there is no segment.
    pub stored: Option<Timestamp>,
    /// Whether the archive has its history file.
    pub has_history: bool,
    /// Ids of the backups on it, by position.
    pub backups: Vec<String>,
    pub is_retired: bool,
}

impl Branch {
    fn new(history: History) -> Branch {
        let (segments, stored, backups) = (None, None, Vec::new());
        Branch { history, segments, stored, has_history: false, backups, is_retired: false }
    }

    pub fn timeline(&self) -> TimelineId {
        self.history.timeline
    }

    /// The timeline that it left, and the position; `None` for a timeline without ancestors.
    pub fn parent(&self) -> Option<(TimelineId, Lsn)> {
        self.history.parents.last().copied()
    }
}

/// A backup, as far as the choice of a timeline depends on it.
#[derive(Debug, Clone, Copy)]
pub struct BranchBackup<'a> {
    pub id: &'a str,
    pub timeline: TimelineId,
    pub stop_lsn: Lsn,
    pub stop_time: Timestamp,
    pub is_complete: bool,
}

impl<'a> From<&'a Record> for BranchBackup<'a> {
    fn from(record: &'a Record) -> BranchBackup<'a> {
        BranchBackup {
            id: &record.id,
            timeline: record.timeline,
            stop_lsn: record.stop_lsn,
            stop_time: record.stop_time,
            is_complete: record.is_complete(),
        }
    }
}

/// All branches of a cluster in one archive, and which one is alive.
#[derive(Debug, Clone)]
pub struct Branches {
    size: Option<SegmentSize>,
    all: BTreeMap<TimelineId, Branch>,
    living: Living,
    newest_wal: Option<TimelineId>,
}

/// Returns the timelines of an archive, without backups.
pub fn branches_of(wal: &WalHistory) -> BTreeMap<TimelineId, Branch> {
    let branch = |timeline: TimelineId| {
        let mut branch = Branch::new(wal.history(timeline));
        branch.stored = wal.inventory.begun(timeline);
        branch.has_history = branch.stored.is_some();
        if let Some([first, ..]) = wal.inventory.runs().get(&timeline).map(Vec::as_slice)
            && let Some(last) = wal.inventory.runs().get(&timeline).and_then(|runs| runs.last())
        {
            branch.segments = Some((first.first, last.last));
            branch.stored = Some(last.stored);
        }
        (timeline, branch)
    };
    let named = wal.inventory.histories.iter().copied();
    wal.timelines().into_iter().chain(named).map(branch).collect()
}

impl Branches {
    /// Judges the timelines of an archive. `backups` are in any order.
    pub fn judge(
        mut all: BTreeMap<TimelineId, Branch>,
        size: Option<SegmentSize>,
        backups: &[BranchBackup<'_>],
        retired: &BTreeSet<TimelineId>,
        server: &ServerTimeline,
        now: Timestamp,
    ) -> Branches {
        let mut backups = backups.to_vec();
        backups.sort_by_key(|backup| (backup.timeline, backup.stop_lsn));
        for backup in &backups {
            let timeline = backup.timeline;
            let branch = all.entry(timeline).or_insert_with(|| Branch::new(History::root(timeline)));
            branch.backups.push(backup.id.to_owned());
        }
        for timeline in retired {
            if let Some(branch) = all.get_mut(timeline) {
                branch.is_retired = true;
            }
        }
        let mut branches = Branches { size, all, living: Living::None, newest_wal: None };
        let newest_backup = branches.newest_backup(&backups, now);
        branches.newest_wal = branches.newest_tip(branches.candidates().collect());
        branches.living = branches.decide(newest_backup, server);
        branches
    }

    fn decide(&self, newest_backup: Option<BranchBackup<'_>>, server: &ServerTimeline) -> Living {
        if let ServerTimeline::Running(history) = server
            && let Some(timeline) = self.archived_part(history)
        {
            return Living::One(timeline, Why::Server);
        }
        let by_wal = self.newest_wal;
        let Some(backup) = newest_backup else {
            return by_wal.map_or(Living::None, |timeline| Living::One(timeline, Why::NewestWal));
        };
        let leads = |branch: &&Branch| branch.history.contains(backup.timeline, backup.stop_lsn);
        let by_backup = self.newest_tip(self.candidates().filter(leads).collect());
        let by_backup = by_backup.unwrap_or(backup.timeline);
        let why = if by_backup == backup.timeline { Why::NewestBackup } else { Why::NewestWal };
        match by_wal.filter(|by_wal| *by_wal != by_backup) {
            None => Living::One(by_backup, why),
            Some(by_wal) => {
                let is_own = |timeline: &TimelineId| *server == ServerTimeline::Stopped(*timeline);
                match [by_backup, by_wal].into_iter().find(is_own) {
                    Some(own) => Living::One(own, Why::DataDirectory),
                    None => Living::Unclear(by_backup, by_wal),
                }
            }
        }
    }

    /// Returns the timeline of a server if it is archived, else its last ancestor that is.
    fn archived_part(&self, history: &History) -> Option<TimelineId> {
        // A timeline of another server may have the same number.
        let is_another = |known: &Branch| {
            let (theirs, ours) = (&known.history.parents, &history.parents);
            !theirs.is_empty() && !ours.is_empty() && theirs != ours
        };
        let own = self.all.get(&history.timeline).filter(|known| !is_another(known));
        let ancestors = history.parents.iter().rev().map(|parent| parent.0);
        own.map(Branch::timeline)
            .or_else(|| ancestors.into_iter().find(|timeline| self.all.contains_key(timeline)))
    }

    /// The branches that may be alive: those that are not retired, or all when all are.
    fn candidates(&self) -> impl Iterator<Item = &Branch> {
        let are_all_retired = self.all.values().all(|branch| branch.is_retired);
        self.all.values().filter(move |branch| are_all_retired || !branch.is_retired)
    }

    /// Returns the last backup of the timeline whose backups are newest. Damaged backups, and those
    /// with a time in the future, count only when there is no other.
    fn newest_backup<'a>(&self, backups: &[BranchBackup<'a>], now: Timestamp) -> Option<BranchBackup<'a>> {
        let candidates: BTreeSet<TimelineId> = self.candidates().map(Branch::timeline).collect();
        let ours = || backups.iter().filter(|backup| candidates.contains(&backup.timeline));
        let is_true = |backup: &&BranchBackup<'_>| !is_in_the_future(backup.stop_time, now);
        let key = |backup: &&BranchBackup<'_>| (backup.stop_time, backup.timeline);
        let newest = ours().filter(|backup| backup.is_complete).filter(is_true).max_by_key(key);
        let newest = newest.or_else(|| ours().filter(is_true).max_by_key(key));
        let newest = newest.or_else(|| ours().max_by_key(|backup| (backup.is_complete, key(backup))))?;
        let last = ours().filter(|backup| backup.timeline == newest.timeline);
        let mut last = last.filter(|backup| backup.is_complete == newest.is_complete);
        last.next_back().copied()
    }

    /// Returns the timeline with the newest WAL among branches, without those whose WAL ends where
    /// another of them left it.
    fn newest_tip(&self, among: Vec<&Branch>) -> Option<TimelineId> {
        let is_passed = |branch: &Branch| among.iter().any(|other| self.passes(other, branch));
        let tips = among.iter().filter(|branch| branch.stored.is_some() && !is_passed(branch));
        tips.max_by_key(|branch| (branch.stored, branch.timeline())).map(|branch| branch.timeline())
    }

    /// Whether a later timeline left this branch behind or in its last segment, so that all its WAL
    /// may be part of the later one.
    fn passes(&self, later: &Branch, branch: &Branch) -> bool {
        let Some(size) = self.size else {
            return false;
        };
        let left = later.history.parents.iter().find(|parent| parent.0 == branch.timeline());
        // A history without a segment: nothing was archived on the branch.
        let is_before = |left: Lsn| {
            let left = left.0.saturating_sub(1) / size.bytes();
            branch.segments.is_none_or(|(_, last)| last.number(size) <= left)
        };
        left.is_some_and(|(_, left)| is_before(*left))
    }

    pub fn living(&self) -> &Living {
        &self.living
    }

    /// Timeline that is alive; `None` when that is not clear, or the archive is empty.
    pub fn alive(&self) -> Option<TimelineId> {
        match self.living {
            Living::One(timeline, _) => Some(timeline),
            Living::None | Living::Unclear(..) => None,
        }
    }

    /// Timelines that are or may be alive: none, one or two, that of the newest backup first.
    pub fn possible(&self) -> Vec<TimelineId> {
        match self.living {
            Living::None => Vec::new(),
            Living::One(timeline, _) => vec![timeline],
            Living::Unclear(by_backup, by_wal) => vec![by_backup, by_wal],
        }
    }

    /// Timeline on which the newest WAL was stored, whether or not it is alive.
    pub fn newest_wal(&self) -> Option<TimelineId> {
        self.newest_wal
    }

    /// Branches by timeline.
    pub fn iter(&self) -> impl Iterator<Item = &Branch> {
        self.all.values()
    }

    pub fn get(&self, timeline: TimelineId) -> Option<&Branch> {
        self.all.get(&timeline)
    }

    /// History of a timeline; without ancestors when it is not known.
    pub fn history(&self, timeline: TimelineId) -> History {
        self.all.get(&timeline).map_or_else(|| History::root(timeline), |branch| branch.history.clone())
    }

    /// Whether a timeline is another one or an ancestor of it.
    fn leads_to(&self, timeline: TimelineId, other: TimelineId) -> bool {
        self.history(other).end_of(timeline) != Some(Lsn(0))
    }

    /// Whether no timeline that is or may be alive descends from this one. False when the archive
    /// is empty.
    pub fn is_dead(&self, timeline: TimelineId) -> bool {
        let possible = self.possible();
        !possible.is_empty() && !possible.iter().any(|living| self.leads_to(timeline, *living))
    }

    /// Whether the WAL of a timeline at a position belongs to no timeline that is or may be alive:
    /// the timeline is dead, or the living one left it before this position. False when the archive
    /// is empty.
    pub fn is_dead_at(&self, timeline: TimelineId, lsn: Lsn) -> bool {
        let possible = self.possible();
        !possible.is_empty() && !possible.iter().any(|living| self.history(*living).contains(timeline, lsn))
    }

    /// History of the timeline that is alive, or that of the newest backup when it is not clear
    /// which one is; `None` when the archive is empty.
    pub fn living_history(&self) -> Option<History> {
        self.possible().first().map(|timeline| self.history(*timeline))
    }

    /// The timeline on which a branch and the living one last agree, and the position at which they
    /// part; `None` when they have nothing in common.
    pub fn parting(&self, branch: &Branch) -> Option<(TimelineId, Lsn)> {
        let living = self.living_history()?;
        let parents = branch.history.parents.iter();
        let common = parents.filter(|(timeline, _)| living.end_of(*timeline) != Some(Lsn(0)));
        let mut common = common.map(|(timeline, end)| {
            (*timeline, living.end_of(*timeline).map_or(*end, |other| other.min(*end)))
        });
        common.next_back()
    }

    /// Describes a branch: `timeline 2, which left timeline 1 at 0/900D30, has WAL to … (stored …)
    /// and 1 backup`.
    pub fn describe(&self, timeline: TimelineId) -> String {
        let Some(branch) = self.all.get(&timeline) else {
            return format!("timeline {timeline}");
        };
        let left = branch.parent().map(|(parent, at)| format!(", which left timeline {parent} at {at},"));
        let stored = branch.stored.map_or_else(String::new, |stored| format!(" (stored {stored:.0})"));
        let wal = match (branch.segments, branch.has_history) {
            (Some((_, last)), _) => format!("WAL to {last}{stored}"),
            (None, true) => format!("a history{stored} and no WAL"),
            (None, false) => "no WAL".to_owned(),
        };
        let backups = match branch.backups.len() {
            0 => "no backup".to_owned(),
            1 => "1 backup".to_owned(),
            count => format!("{count} backups"),
        };
        format!("timeline {timeline}{} has {wal} and {backups}", left.unwrap_or_default())
    }

    /// Returns the last of these backups, which are ordered by position, that leads to a timeline
    /// that is or may be alive; else the last of all.
    pub fn newest<'r>(&self, records: &'r [Record]) -> Option<&'r Record> {
        let leads = |record: &&Record| !self.is_dead_at(record.timeline, record.stop_lsn);
        records.iter().rev().find(leads).or(records.last())
    }

    /// Explains why it is not clear which timeline is alive; `None` when it is clear.
    pub fn unclear(&self) -> Option<String> {
        let Living::Unclear(by_backup, by_wal) = self.living else {
            return None;
        };
        Some(format!(
            "it is not clear which timeline is alive: the newest backup leads to timeline {by_backup}, and the newest WAL is on timeline {by_wal}"
        ))
    }

    /// Describes where a dead branch left the living timeline, and its end.
    pub fn describe_dead(&self, branch: &Branch) -> String {
        let timeline = branch.timeline();
        let left = match (self.parting(branch), self.alive()) {
            (Some((common, at)), Some(alive)) if common == alive => {
                format!("left timeline {common}, which is alive, at {at}")
            }
            (Some((common, at)), _) => format!("left timeline {common} at {at}"),
            (None, _) => "has no known ancestor".to_owned(),
        };
        let stored = branch.stored.map_or_else(String::new, |stored| format!(", stored {stored:.0}"));
        let ended = branch
            .segments
            .map_or_else(|| format!("has no WAL{stored}"), |(_, last)| format!("ended with {last}{stored}"));
        format!("timeline {timeline} {left} and {ended}: nothing continues it")
    }

    /// Branches that are dead and not retired.
    pub fn dead(&self) -> impl Iterator<Item = &Branch> {
        self.all.values().filter(|branch| !branch.is_retired && self.is_dead(branch.timeline()))
    }

    /// Whether `walfetch` answers that the history of a timeline does not exist: the timeline is
    /// retired, and no higher one that is not retired has a history. A server requests one history
    /// after the other until one is missing (`findNewestTimeLine` in `timeline.c`), so without the
    /// lower ones it would not find the higher one.
    pub fn is_hidden(&self, timeline: TimelineId) -> bool {
        let is_retired = self.all.get(&timeline).is_some_and(|branch| branch.is_retired);
        let mut higher = self.all.range((Bound::Excluded(timeline), Bound::Unbounded));
        is_retired && !higher.any(|(_, branch)| branch.has_history && !branch.is_retired)
    }

    /// Timeline that a server follows with `recovery_target_timeline = 'latest'` when it recovers
    /// from `timeline` (`findNewestTimeLine` in `timeline.c`).
    pub fn latest_from(&self, timeline: TimelineId) -> TimelineId {
        let has_history = |timeline: TimelineId| {
            self.all.get(&timeline).is_some_and(|branch| branch.has_history) && !self.is_hidden(timeline)
        };
        let mut latest = timeline;
        while let Some(next) = latest.0.checked_add(1).map(TimelineId).filter(|next| has_history(*next)) {
            latest = next;
        }
        latest
    }
}
