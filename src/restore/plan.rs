//! The plan of a restore: the backup, the timeline, and the WAL to the target. Writes nothing.

use crate::error::{Doing, Error, Kind, Result};
use crate::pg::history::History;
use crate::pg::lsn::Lsn;
use crate::pg::record::Tail;
use crate::pg::segment::{SegmentName, TimelineId};
use crate::progress;
use crate::repo::Archive;
use crate::repo::catalog::{Gap, Inventory, Reach};
use crate::repo::history::WalHistory;
use crate::repo::record::Record;
use crate::repo::survey::{Survey, Want};
use crate::repo::window::{MAX_SEARCHED, Window};

/// The end of recovery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RecoveryTarget {
    /// The end of the WAL in the archive.
    End,
    Time(jiff::Timestamp),
    Lsn(Lsn),
    Xid(u64),
    Name(String),
    /// The end of the backup, where it is consistent.
    Immediate,
}

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
    /// `None`: the timeline of the backup for [`RecoveryTarget::Immediate`], the latest otherwise.
    pub timeline: Option<TargetTimeline>,
    pub allow_damaged: bool,
}

/// A restore that can be performed.
pub struct RestorePlan {
    pub archive: Archive,
    pub record: Record,
    pub target: RecoveryTarget,
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
        let (Some(WalHistory { inventory, .. }), [_, ..]) = (&survey.wal, &survey.records.good[..]) else {
            return Err(Error::new(Kind::Refused, "the repository has no backup of this cluster")
                .doing(doing())
                .hint("take one with `walkeep backup`"));
        };
        let timeline = request.timeline.unwrap_or(match request.target {
            RecoveryTarget::Immediate => TargetTimeline::Current,
            _ => TargetTimeline::Latest,
        });
        let chooser = Chooser { archive: &archive, inventory, request: &request, timeline };
        let (record, history) = chooser.choose(&survey.records.good).doing(doing)?;
        let record = record.clone();
        let reach = inventory.reach(&record, &history).ok_or_else(|| {
            Error::new(
                Kind::Hole,
                format!("{}, the first WAL of backup {}, is missing", record.wal.first, record.id),
            )
            .hint("choose another backup: `walkeep list` shows them")
        })?;
        let plan = RestorePlan { record, target: request.target, timeline, history, reach, archive, survey };
        plan.check_reach().doing(doing)?;
        Ok(plan)
    }

    /// Refuses a target behind a gap of the WAL.
    fn check_reach(&self) -> Result<()> {
        let record = &self.record;
        let size = record.segment_size;
        let end = Lsn(self.reach.last.start(size).0 + size.bytes());
        if end < record.stop_lsn {
            return Err(Error::new(
                Kind::Hole,
                format!(
                    "backup {} needs the WAL to {}, and {} is missing",
                    record.id,
                    record.stop_lsn,
                    self.reach.last.next(size)
                ),
            )
            .hint("choose another backup with `walkeep restore BACKUP`"));
        }
        let beyond = match self.target {
            RecoveryTarget::Lsn(lsn) => lsn > end,
            // The LSN of such a target is not known before the WAL is replayed.
            RecoveryTarget::End
            | RecoveryTarget::Time(_)
            | RecoveryTarget::Xid(_)
            | RecoveryTarget::Name(_) => self.reach.gap.is_some(),
            RecoveryTarget::Immediate => false,
        };
        if !beyond {
            return self.check_time();
        }
        let missing = match self.reach.gap {
            Some(gap) if gap.first == gap.last => format!("{} is missing", gap.first),
            Some(gap) => format!("{} to {} are missing", gap.first, gap.last),
            None => format!("the archive ends with {}", self.reach.last),
        };
        let last = self.tail()?.last_record.unwrap_or(self.reach.last.start(size));
        Err(Error::new(
            Kind::Hole,
            format!("{missing}, so the WAL leads from backup {} only to {last}", record.id),
        )
        .hint(format!(
            "--lsn {last} recovers as far as possible; a backup behind the gap leads further (`walkeep list`); perhaps the missing WAL is still in pg_wal of the primary or a standby: push it with walpush"
        )))
    }

    /// Refuses a time behind the last commit: recovery would replay everything, and then fail.
    fn check_time(&self) -> Result<()> {
        let RecoveryTarget::Time(time) = self.target else {
            return Ok(());
        };
        let last = self.tail()?.last_transaction.map(|last| last.time);
        let ended = match last {
            Some(last) if time >= last => {
                format!("lies behind the last transaction in the archive, which ended at {last}")
            }
            None if self.reach.segments <= MAX_SEARCHED => {
                format!(
                    "cannot be checked: no transaction ended in the archived WAL since backup {}",
                    self.record.id
                )
            }
            _ => return Ok(()),
        };
        Err(Error::new(Kind::Refused, format!("the target {time} {ended}")).hint(
            "without a target everything is recovered; a later target needs WAL that is not archived yet (select pg_switch_wal() on the primary)",
        ))
    }

    /// Returns the last record and transaction that can be reached; see [`WalHistory::tail`].
    pub fn tail(&self) -> Result<Tail> {
        self.wal()?.tail(&self.archive, &self.reach, &self.history)
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
        let before = match &self.request.target {
            RecoveryTarget::Time(time) if *time <= record.stop_time => Some(time.to_string()),
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
