//! The plan of a restore: the backup, the timeline, and the WAL to the target. Writes nothing.

use super::locate::locate;
use super::stop::{RecoveryStop, RecoveryTarget, StopSearch, last_included};
use crate::error::{Doing, Error, Kind, Result};
use crate::pg::history::History;
use crate::pg::record::{FoundRecord, Tail};
use crate::pg::segment::{SegmentName, TimelineId};
use crate::progress;
use crate::repo::Archive;
use crate::repo::branches::{Branches, Living, ServerTimeline, is_in_the_future};
use crate::repo::catalog::{Gap, Inventory, Reach};
use crate::repo::history::WalHistory;
use crate::repo::missing::MissingHistory;
use crate::repo::record::Record;
use crate::repo::replay::{ReplayFacts, ReplayStep, Walk};
use crate::repo::survey::{Survey, Want};
use crate::repo::window::Window;
use jiff::Timestamp;
use std::collections::BTreeMap;

/// The timeline that recovery follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TargetTimeline {
    Latest,
    /// The timeline of the backup.
    Current,
    Number(TimelineId),
}

/// Backup and target as the caller wants them.
#[derive(Debug, Clone)]
pub struct PlanRequest {
    /// Id of a backup, or `latest` for the newest; `None`: the newest one from which the target can
    /// be reached.
    pub backup: Option<String>,
    pub target: RecoveryTarget,
    /// Whether recovery stops before the target, for a time, a position or a transaction.
    pub exclusive: bool,
    /// `None`: the timeline of the backup for [`RecoveryTarget::Immediate`], the living one
    /// otherwise.
    pub timeline: Option<TargetTimeline>,
    pub allow_damaged: bool,
    /// Whether a backup that is named and does not lead to the living timeline is followed along
    /// its own.
    pub follows_dead: bool,
    /// Timeline of the cluster's server.
    pub server: ServerTimeline,
    pub now: Timestamp,
}

/// A restore that can be performed.
pub struct RestorePlan {
    pub archive: Archive,
    pub record: Record,
    /// Target as the caller wants it.
    pub target: RecoveryTarget,
    /// Whether the caller wants recovery to stop before the target.
    pub exclusive: bool,
    /// Target as the server gets it.
    pub stop: RecoveryStop,
    /// Timeline as the server gets it.
    pub timeline: TargetTimeline,
    /// Whether the caller named the timeline.
    is_named: bool,
    /// Ancestry of the timeline on which recovery ends.
    pub history: History,
    /// WAL that the target may need, as far as the archive has it.
    pub reach: Reach,
    /// State of the archive when the plan was made.
    survey: Survey,
    branches: Branches,
    now: Timestamp,
}

impl RestorePlan {
    /// Chooses the backup. Refuses a target that no backup leads to, with a hint that names
    /// possible choices.
    pub fn make(archive: Archive, request: PlanRequest) -> Result<RestorePlan> {
        let name = archive.repository().name().to_owned();
        let doing = || format!("choose a backup in repository {name}");
        let want = Want { verified: true, ..Want::default() };
        let survey = Survey::read(&archive, want).doing(doing)?;
        survey.records.damaged.iter().for_each(|(_, error)| progress::warn(error));
        let (Some(wal), [_, ..]) = (&survey.wal, &survey.records.good[..]) else {
            return Err(Error::new(Kind::Refused, "the repository has no backup of this cluster")
                .doing(doing())
                .hint("take one with `walkeep backup`"));
        };
        let branches = survey.branches(&request.server, request.now);
        let verified = &survey.verified;
        let inventory = &wal.inventory;
        let chooser =
            Chooser { archive: &archive, inventory, branches: &branches, request: &request, verified };
        let elsewhere =
            Elsewhere { archive: &archive, survey: &survey, branches: &branches, request: &request };
        let chosen = chooser.choose(&survey.records.good).map_err(|error| elsewhere.explain(error));
        let (record, history) = chosen.doing(doing)?;
        elsewhere.check_moment(&history).doing(doing)?;
        let record = record.clone();
        let timeline = chooser.for_server(&record, &history);
        check_histories(&survey, &record, timeline).doing(doing)?;
        let reach = wal.inventory.reach(&record, &history).ok_or_else(|| {
            Error::new(
                Kind::Hole,
                format!("{}, the first WAL of backup {}, is missing", record.wal.first, record.id),
            )
            .hint("choose another backup: `walkeep list` shows them")
        })?;
        let search = StopSearch {
            archive: &archive,
            wal,
            record: &record,
            history: &history,
            reach,
            records: survey.complete(),
            target: &request.target,
            exclusive: request.exclusive,
        };
        let stop = search.find().map_err(|error| elsewhere.explain(error)).doing(doing)?;
        let is_named = request.timeline.is_some();
        let PlanRequest { target, exclusive, now, .. } = request;
        Ok(RestorePlan {
            record,
            target,
            exclusive,
            stop,
            timeline,
            is_named,
            history,
            reach,
            archive,
            survey,
            branches,
            now,
        })
    }

    /// Makes the restored server a standby. Unless the caller named a timeline, it has to follow
    /// the latest one: it would not follow a promotion otherwise.
    ///
    /// # Errors
    ///
    /// `Refused` when the latest timeline is not the one of the plan.
    pub fn make_standby(&mut self) -> Result<()> {
        if self.is_named {
            return Ok(());
        }
        let latest = self.branches.latest_from(self.record.timeline);
        if latest == self.history.timeline {
            self.timeline = TargetTimeline::Latest;
            return Ok(());
        }
        let message = format!(
            "a standby follows the latest timeline, which is {latest}, and timeline {} is alive",
            self.history.timeline
        );
        Err(Error::new(Kind::Refused, message).hint(format!(
            "if no server continues timeline {latest}: `walkeep timelines --retire {latest}`; --timeline {} makes a standby that follows no promotion",
            self.history.timeline
        )))
    }

    /// Whether the server needs the histories of retired timelines: to follow one, or not to choose
    /// its number for the timeline that it begins itself.
    pub fn needs_retired(&self) -> bool {
        self.timeline != TargetTimeline::Latest && !self.survey.retired.is_empty()
    }

    /// Explains that the plan does not lead to the timeline that is alive; `None` when it does.
    pub fn departure(&self) -> Option<String> {
        let timeline = self.history.timeline;
        let leaves = match self.target {
            RecoveryTarget::Immediate => self.branches.is_dead_at(self.record.timeline, self.record.stop_lsn),
            RecoveryTarget::Lsn(lsn) => self.branches.is_dead_at(self.history.timeline_at(lsn), lsn),
            _ => !self.branches.possible().contains(&timeline),
        };
        let reason = match self.branches.living() {
            Living::One(alive, why) => format!("timeline {alive} is alive: {}", why.text()),
            Living::None | Living::Unclear(..) => self.branches.unclear()?,
        };
        leaves.then(|| format!("this plan follows timeline {timeline}; {reason}"))
    }

    /// Names a newer backup that does not lead to the timeline of the plan, if the backup was not
    /// named.
    pub fn passed_over(&self) -> Option<String> {
        let newer = self.survey.records.good.iter().filter(|record| {
            record.stop_time > self.record.stop_time
                && !is_in_the_future(record.stop_time, self.now)
                && record.is_complete()
                && !self.history.contains(record.timeline, record.stop_lsn)
                && self.branches.get(record.timeline).is_some_and(|branch| !branch.is_retired)
        });
        let newest = newer.max_by_key(|record| record.stop_time)?;
        Some(format!(
            "backup {}, which is newer, is on a branch of timeline {} that does not lead to timeline {}",
            newest.id, newest.timeline, self.history.timeline
        ))
    }

    /// Explains why the server does not get the target itself; `None` when it does.
    pub fn stop_reason(&self) -> Option<String> {
        if self.stop.target == self.target {
            return None;
        }
        let reason = match self.target {
            RecoveryTarget::Lsn(lsn) => format!("begins at {lsn} or behind it"),
            RecoveryTarget::Time(time) if self.exclusive => format!("ended a transaction at {time} or later"),
            RecoveryTarget::Time(time) => format!("ended a transaction after {time}"),
            _ => return None,
        };
        let end = match self.stop.target {
            RecoveryTarget::Lsn(last) => format!("the last of them, which begins at {last}"),
            _ => format!("the end of the backup at {}", self.record.stop_lsn),
        };
        Some(format!("no record that can be reached {reason}: recovery ends with {end}"))
    }

    /// Returns the last record and transaction that can be reached; see [`WalHistory::tail`].
    pub fn tail(&self) -> Result<Tail> {
        self.wal()?.tail(&self.archive, &self.reach, &self.history)
    }

    /// Reads all WAL that the plan replays, from the first segment to the stop or the end of the
    /// archive, and calls `each` with every record and the decision about it. `progress` is called
    /// with the bytes of each segment.
    ///
    /// # Errors
    ///
    /// Those of [`Walk::over`]. A seam is a part of the facts.
    pub fn replay(
        &self,
        is_cancelled: &(dyn Fn() -> bool + Sync),
        progress: &dyn Fn(u64),
        mut each: impl FnMut(&FoundRecord, ReplayStep),
    ) -> Result<ReplayFacts> {
        let size = self.record.segment_size;
        let last = match self.stop.target {
            RecoveryTarget::Immediate => self.reach.last.number(size).min(self.record.wal.last.number(size)),
            _ => self.reach.last.number(size),
        };
        let names = self.wal()?.inventory.along(&self.history, self.first_segment().number(size)..=last);
        let walk = Walk { archive: &self.archive, segment_size: size, is_cancelled, progress };
        walk.over(names, |found| {
            // A server begins with the redo point of the backup.
            let is_replayed = found.begin >= self.record.start_lsn;
            let step = if is_replayed { self.stop.step(found) } else { ReplayStep::Replay };
            each(found, step);
            step
        })
    }

    /// Returns the moments that can be restored along the timeline of the plan. The window begins
    /// with the oldest backup from which the WAL leads to the backup of the plan without a hole.
    pub fn window(&self) -> Result<Option<Window>> {
        let mut records = self.survey.complete();
        if !self.record.is_complete() {
            records.push(&self.record);
        }
        self.wal()?.window_behind(&self.archive, self.history.timeline, &self.record, &records)
    }

    fn wal(&self) -> Result<&WalHistory> {
        self.survey.wal.as_ref().ok_or_else(|| Error::defect("a plan without a survey of the WAL"))
    }

    pub fn first_segment(&self) -> SegmentName {
        self.record.wal.first
    }

    pub fn gaps(&self) -> Vec<Gap> {
        self.reach.gap.into_iter().collect()
    }
}

/// Refuses a recovery that a missing history would end with an error, or too early.
fn check_histories(survey: &Survey, record: &Record, timeline: TargetTimeline) -> Result<()> {
    let is_latest = timeline == TargetTimeline::Latest;
    let needed = |missing: &&MissingHistory| {
        missing.backups.contains(&record.id) && (missing.later.is_some() || is_latest)
    };
    survey.missing_histories().iter().find(needed).map_or(Ok(()), |missing| Err(missing.error()))
}

/// Chooses the backup for a request.
struct Chooser<'a> {
    archive: &'a Archive,
    inventory: &'a Inventory,
    branches: &'a Branches,
    request: &'a PlanRequest,
    /// Backups that a verification has seen; true when it found damage.
    verified: &'a BTreeMap<String, bool>,
}

impl Chooser<'_> {
    /// Returns the backup, and the history to follow from it.
    fn choose<'r>(&self, records: &'r [Record]) -> Result<(&'r Record, History)> {
        let list = || newest(records);
        match self.request.backup.as_deref() {
            Some("latest") | None => {}
            Some(id) => {
                let record = records.iter().find(|record| record.id == id).ok_or_else(|| {
                    Error::new(Kind::Refused, format!("backup {id} does not exist")).hint(list())
                })?;
                return self.history_from(record).map(|history| (record, history));
            }
        }
        // Reason why the oldest backup, with which the possible targets begin, does not lead to the
        // target.
        let mut reason = Error::defect("no backup to choose from");
        if self.request.timeline.is_none()
            && let Some(unclear) = self.branches.unclear()
        {
            return Err(self.unclear(&unclear, &self.branches.possible()));
        }
        // Without a timeline only backups on the way to the living one are candidates.
        let is_candidate = |record: &&Record| {
            self.request.timeline.is_some() || !self.branches.is_dead_at(record.timeline, record.stop_lsn)
        };
        let mut candidates = records.iter().filter(is_candidate).peekable();
        if candidates.peek().is_none() {
            let living = self.branches.alive().unwrap_or(TimelineId(1));
            return Err(self.nothing_leads_to(living));
        }
        if self.request.backup.is_none()
            && matches!(self.request.target, RecoveryTarget::Xid(_) | RecoveryTarget::Name(_))
        {
            let candidates: Vec<&Record> = candidates.collect();
            let history_from = |record: &Record| self.history_from(record);
            let PlanRequest { target, exclusive, .. } = self.request;
            let stop = RecoveryStop { target: target.clone(), exclusive: *exclusive };
            return locate(self.archive, self.inventory, &stop, &candidates, history_from);
        }
        for record in candidates.rev() {
            match self.history_from(record) {
                Ok(history) => return Ok((record, history)),
                Err(error) if matches!(error.kind(), Kind::Refused | Kind::Problem) => reason = error,
                Err(error) => return Err(error),
            }
        }
        let advice = reason.advice().map_or_else(String::new, |advice| format!("{advice}; "));
        Err(Error::new(Kind::Refused, format!("no backup leads to the target; the oldest: {reason}"))
            .hint(format!("{advice}{}", list())))
    }

    /// Refuses a backup that a verification found damaged, and only warns if it is named.
    fn check_verified(&self, record: &Record) -> Result<()> {
        let id = &record.id;
        if self.verified.get(id) != Some(&true) {
            return Ok(());
        }
        let error = Error::new(Kind::Problem, format!("a verification found damage in backup {id}")).hint(format!(
            "`walkeep verify --backup {id}` shows it; to restore the backup all the same, name it: `walkeep restore {id}`"
        ));
        if self.request.backup.as_ref() != Some(id) {
            return Err(error);
        }
        progress::warn(&error);
        Ok(())
    }

    /// Returns the history to follow from this backup. Refuses one from which the target cannot be
    /// reached.
    fn history_from(&self, record: &Record) -> Result<History> {
        if !record.is_complete() && !self.request.allow_damaged {
            return Err(Error::new(
                Kind::Problem,
                format!(
                    "backup {} is marked damaged: {} files had bad pages",
                    record.id,
                    record.damaged.len()
                ),
            )
            .hint("`walkeep show` lists them; --allow-damaged restores the backup all the same"));
        }
        self.check_verified(record)?;
        self.check_order(record)?;
        let timeline = self.timeline_of(record)?;
        let history = if timeline == record.timeline {
            self.archive.history(timeline)?.unwrap_or_else(|| History::root(timeline))
        } else {
            self.archive.history(timeline)?.ok_or_else(|| {
                Error::new(
                    Kind::Refused,
                    format!("the history of timeline {timeline} is not in the repository"),
                )
            })?
        };
        if !history.contains(record.timeline, record.stop_lsn) {
            return Err(Error::new(
                Kind::Refused,
                format!(
                    "timeline {timeline} left timeline {} before backup {} ended",
                    record.timeline, record.id
                ),
            )
            .hint(format!(
                "--timeline {} follows the backup's own timeline; an older backup may lead to timeline {timeline}",
                record.timeline
            )));
        }
        Ok(history)
    }

    /// Refuses a backup that ends behind the target.
    fn check_order(&self, record: &Record) -> Result<()> {
        let PlanRequest { target, exclusive, .. } = self.request;
        let before = match target {
            RecoveryTarget::Time(time) if last_included(*time, *exclusive)? < record.stop_time => {
                Some(if *time < record.stop_time { time.to_string() } else { format!("before {time}") })
            }
            RecoveryTarget::Lsn(lsn) if *lsn < record.stop_lsn => Some(lsn.to_string()),
            _ => None,
        };
        if let Some(target) = before {
            return Err(Error::new(
                Kind::Refused,
                format!(
                    "the target {target} lies before the end of backup {} ({}, {})",
                    record.id, record.stop_time, record.stop_lsn
                ),
            )
            .hint("a backup can be recovered to its end and to what came later; take an older backup or a later target"));
        }
        Ok(())
    }

    /// Returns the timeline to follow from a backup.
    fn timeline_of(&self, record: &Record) -> Result<TimelineId> {
        match (self.request.timeline, &self.request.target) {
            (Some(TargetTimeline::Number(timeline)), _) => return Ok(timeline),
            (Some(TargetTimeline::Latest), _) => return Ok(self.branches.latest_from(record.timeline)),
            (Some(TargetTimeline::Current), _) | (None, RecoveryTarget::Immediate) => {
                return Ok(record.timeline);
            }
            (None, _) => {}
        }
        let leads = |timeline: &TimelineId| {
            self.branches.history(*timeline).contains(record.timeline, record.stop_lsn)
        };
        let possible = self.branches.possible();
        let reached: Vec<TimelineId> = possible.iter().copied().filter(leads).collect();
        match (&reached[..], &possible[..]) {
            ([timeline], _) => Ok(*timeline),
            ([], _) if self.request.follows_dead => Ok(record.timeline),
            // Explained by the caller.
            ([], [timeline]) => Ok(*timeline),
            ([], _) => Ok(record.timeline),
            _ => match self.branches.unclear() {
                Some(unclear) => Err(self.unclear(&unclear, &reached)),
                None => Err(Error::defect("two living timelines, and it is clear which one is alive")),
            },
        }
    }

    /// Returns the timeline as the server gets it: `latest` where that leads to the same timeline,
    /// and no retired timeline is hidden whose number the server would choose at its promotion.
    fn for_server(&self, record: &Record, history: &History) -> TargetTimeline {
        match self.request.timeline {
            Some(named @ (TargetTimeline::Current | TargetTimeline::Number(_))) => return named,
            None if self.request.target == RecoveryTarget::Immediate => return TargetTimeline::Current,
            Some(TargetTimeline::Latest) | None => {}
        }
        let has_hidden = self.branches.iter().any(|branch| self.branches.is_hidden(branch.timeline()));
        if self.branches.latest_from(record.timeline) == history.timeline && !has_hidden {
            TargetTimeline::Latest
        } else {
            TargetTimeline::Number(history.timeline)
        }
    }

    /// Error for a request that does not say which of several branches to follow.
    fn unclear(&self, reason: &str, among: &[TimelineId]) -> Error {
        let branches: Vec<String> = among.iter().map(|timeline| self.branches.describe(*timeline)).collect();
        Error::new(Kind::Refused, format!("{reason}; {}", branches.join("; "))).hint(
            "choose with --timeline NUMBER; `walkeep timelines --retire NUMBER` retires a branch that no server continues",
        )
    }

    /// Error for a living timeline that no backup leads to.
    fn nothing_leads_to(&self, timeline: TimelineId) -> Error {
        let others = self.branches.iter().filter(|branch| !branch.backups.is_empty());
        let others: Vec<String> = others.map(|branch| self.branches.describe(branch.timeline())).collect();
        let why = match self.branches.living() {
            Living::One(_, why) => why.text(),
            Living::None | Living::Unclear(..) => "nothing else is known",
        };
        let message = format!(
            "no backup leads to timeline {timeline}, which is alive ({why}); the backups are elsewhere: {}",
            others.join("; ")
        );
        Error::new(Kind::Refused, message)
            .hint("take a backup with `walkeep backup`, or follow another branch with --timeline NUMBER")
    }
}

/// Looks for a target on other timelines than the one that a plan follows by itself.
struct Elsewhere<'a> {
    archive: &'a Archive,
    survey: &'a Survey,
    branches: &'a Branches,
    request: &'a PlanRequest,
}

impl Elsewhere<'_> {
    /// Adds the other timelines that hold the target to the error of a plan that does not reach it.
    fn explain(&self, error: Error) -> Error {
        let is_about_target = matches!(error.kind(), Kind::Refused | Kind::Hole);
        if !is_about_target || self.request.timeline.is_some() {
            return error;
        }
        let living = self.branches.alive();
        let holders = self.windows().into_iter().filter(|window| Some(window.timeline) != living);
        let holders: Vec<Window> = holders.filter(|window| self.is_in(window)).collect();
        match holders.last() {
            None => error,
            Some(last) => Error::new(error.kind(), format!("{error}; {}", holding(&holders)))
                .hint(format!("--timeline {} follows it", last.timeline)),
        }
    }

    /// Refuses a time at which the server was on a branch that it was taken back from later: it
    /// lies between the position at which a timeline begins and the moment at which it began.
    fn check_moment(&self, history: &History) -> Result<()> {
        let RecoveryTarget::Time(time) = self.request.target else {
            return Ok(());
        };
        let Some(wal) = self.survey.wal.as_ref().filter(|_| self.request.timeline.is_none()) else {
            return Ok(());
        };
        let line: Vec<TimelineId> =
            history.parents.iter().map(|parent| parent.0).chain([history.timeline]).collect();
        let is_late =
            |timeline: &TimelineId| wal.inventory.begun(*timeline).is_some_and(|begun| time < begun);
        if !line.iter().any(is_late) {
            return Ok(());
        }
        let windows = self.windows();
        let is_between = |window: &&Window| {
            line.contains(&window.timeline) && is_late(&window.timeline) && window.from < time
        };
        let Some(later) = windows.iter().find(is_between) else {
            return Ok(());
        };
        let begin = later.from_lsn;
        let holders = windows
            .iter()
            .filter(|window| self.is_in(window) && window.timeline < later.timeline && window.to_lsn > begin);
        let holders: Vec<Window> = holders.cloned().collect();
        let Some(last) = holders.last() else {
            return Ok(());
        };
        let message = format!(
            "at {time} the server was not on the way to timeline {}: {} left it at {begin}, which was before, and began later; {}",
            history.timeline,
            later.timeline,
            holding(&holders)
        );
        Err(Error::new(Kind::Refused, message).hint(format!(
            "--timeline {} restores what the server had at that time; --timeline {} what it had after it was taken back",
            last.timeline, history.timeline
        )))
    }

    fn is_in(&self, window: &Window) -> bool {
        match self.request.target {
            RecoveryTarget::Time(time) => (window.from..=window.to).contains(&time),
            RecoveryTarget::Lsn(lsn) => (window.from_lsn..=window.to_lsn).contains(&lsn),
            _ => false,
        }
    }

    /// All windows; none when they cannot be read, since they only explain an error.
    fn windows(&self) -> Vec<Window> {
        let windows = self.survey.windows(self.archive, self.branches);
        windows.map_or_else(|_| Vec::new(), |windows| windows.by_timeline)
    }
}

/// Names timelines that hold a target.
fn holding(windows: &[Window]) -> String {
    let one = |window: &Window| {
        format!("timeline {} holds it (from {} to {})", window.timeline, window.from, window.to)
    };
    windows.iter().map(one).collect::<Vec<_>>().join(", ")
}

/// The newest backups, for hints.
fn newest(records: &[Record]) -> String {
    let backup =
        |record: &Record| format!("{} (ends at {}, {})", record.id, record.stop_time, record.stop_lsn);
    let newest: Vec<String> = records.iter().rev().take(5).map(backup).collect();
    format!("the newest backups are {}", newest.join(", "))
}
