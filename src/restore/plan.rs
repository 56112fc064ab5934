//! The plan of a restore: the backup, the timeline, and the WAL to the target. Writes nothing.

use super::stop::{RecoveryStop, RecoveryTarget, StopSearch, last_included};
use crate::error::{Doing, Error, Kind, Result};
use crate::pg::history::History;
use crate::pg::record::{FoundRecord, Tail};
use crate::pg::segment::{SegmentName, TimelineId};
use crate::progress;
use crate::repo::Archive;
use crate::repo::catalog::{Gap, Inventory, Reach};
use crate::repo::history::WalHistory;
use crate::repo::missing::MissingHistory;
use crate::repo::record::Record;
use crate::repo::replay::{ReplayFacts, Step, Walk};
use crate::repo::survey::{Survey, Want};
use crate::repo::window::Window;

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
    /// `None`: the timeline of the backup for [`RecoveryTarget::Immediate`], the latest otherwise.
    pub timeline: Option<TargetTimeline>,
    pub allow_damaged: bool,
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
    pub timeline: TargetTimeline,
    /// Ancestry of the timeline on which recovery ends.
    pub history: History,
    /// WAL that the target may need, as far as the archive has it.
    pub reach: Reach,
    /// State of the archive when the plan was made.
    survey: Survey,
}

impl RestorePlan {
    /// Chooses the backup. Refuses a target that no backup leads to, with a hint that names
    /// possible choices.
    pub fn make(archive: Archive, request: PlanRequest) -> Result<RestorePlan> {
        let name = archive.repository().name().to_owned();
        let doing = || format!("choose a backup in repository {name}");
        let survey = Survey::read(&archive, Want::default()).doing(doing)?;
        survey.records.damaged.iter().for_each(|(_, error)| progress::warn(error));
        let (Some(wal), [_, ..]) = (&survey.wal, &survey.records.good[..]) else {
            return Err(Error::new(Kind::Refused, "the repository has no backup of this cluster")
                .doing(doing())
                .hint("take one with `walkeep backup`"));
        };
        let timeline = request.timeline.unwrap_or(match request.target {
            RecoveryTarget::Immediate => TargetTimeline::Current,
            _ => TargetTimeline::Latest,
        });
        let inventory = &wal.inventory;
        let chooser = Chooser { archive: &archive, inventory, request: &request, timeline };
        let (record, history) = chooser.choose(&survey.records.good).doing(doing)?;
        let record = record.clone();
        check_histories(&survey, &record, timeline).doing(doing)?;
        let reach = inventory.reach(&record, &history).ok_or_else(|| {
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
        let stop = search.find().doing(doing)?;
        let PlanRequest { target, exclusive, .. } = request;
        Ok(RestorePlan { record, target, exclusive, stop, timeline, history, reach, archive, survey })
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
        mut each: impl FnMut(&FoundRecord, Step),
    ) -> Result<ReplayFacts> {
        let size = self.record.segment_size;
        let last = match self.stop.target {
            RecoveryTarget::Immediate => self.reach.last.number(size).min(self.record.wal.last.number(size)),
            _ => self.reach.last.number(size),
        };
        let names = self.wal()?.inventory.along(&self.history, self.first_segment().number(size)..=last);
        let walk = Walk { archive: &self.archive, segment_size: size, is_cancelled, progress };
        walk.over(names, |found| {
            let step = self.stop.step(found);
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
    request: &'a PlanRequest,
    timeline: TargetTimeline,
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
        if self.request.backup.is_none()
            && matches!(self.request.target, RecoveryTarget::Xid(_) | RecoveryTarget::Name(_))
        {
            return Err(Error::new(
                Kind::Refused,
                "the position of a transaction or restore point is not known before its WAL is replayed",
            )
            .hint(format!("name the backup that ended before it: {}", list())));
        }
        // Reason why the oldest backup, with which the possible targets begin, does not lead to the
        // target.
        let mut reason = Error::defect("no backup to choose from");
        for record in records.iter().rev() {
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
        let timeline = match self.timeline {
            TargetTimeline::Current => record.timeline,
            TargetTimeline::Latest => self.inventory.newest_from(record.timeline),
            TargetTimeline::Number(timeline) => timeline,
        };
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
            .hint(
                "--timeline current follows the backup's own timeline; an older backup may lead to this one",
            ));
        }
        Ok(history)
    }
}

/// The newest backups, for hints.
fn newest(records: &[Record]) -> String {
    let backup =
        |record: &Record| format!("{} (ends at {}, {})", record.id, record.stop_time, record.stop_lsn);
    let newest: Vec<String> = records.iter().rev().take(5).map(backup).collect();
    format!("the newest backups are {}", newest.join(", "))
}
