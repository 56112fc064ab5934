//! Which backup, along which timeline, and whether the WAL leads there.

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

/// Where recovery is to end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// All WAL that the archive has.
    End,
    Time(jiff::Timestamp),
    Lsn(Lsn),
    Xid(u64),
    Name(String),
    /// As soon as the backup is consistent.
    Immediate,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TargetTimeline {
    Latest,
    /// The backup's own.
    Current,
    Number(TimelineId),
}

/// What was asked for.
#[derive(Debug, Clone)]
pub struct Wish {
    /// A backup by its id; `latest` means the newest.
    pub backup: Option<String>,
    pub target: Target,
    /// Default: the backup's own for [`Target::Immediate`], the latest otherwise.
    pub timeline: Option<TargetTimeline>,
    pub allow_damaged: bool,
}

/// What would be done.
pub struct Plan {
    pub archive: Archive,
    pub record: Record,
    pub target: Target,
    pub timeline: TargetTimeline,
    /// The ancestry of the timeline that recovery ends on.
    pub history: History,
    /// The WAL that the target may need, as far as the archive has it.
    pub reach: Reach,
    /// What the archive held when the plan was made.
    survey: Survey,
}

impl Plan {
    /// Chooses the backup. Refuses, and says what is possible instead, when there is none from which the
    /// target can be reached.
    pub fn make(archive: Archive, wish: Wish) -> Result<Plan> {
        let name = archive.repository().name().to_owned();
        let doing = || format!("choose a backup in repository {name}");
        let survey = Survey::read(&archive, Want::default()).doing(doing)?;
        survey.records.damaged.iter().for_each(|(_, error)| progress::warn(error));
        let (Some(WalHistory { inventory, .. }), [_, ..]) = (&survey.wal, &survey.records.good[..]) else {
            return Err(Error::new(Kind::Refused, "it has no backup of this cluster")
                .doing(doing())
                .hint("`walkeep backup` makes one"));
        };
        let timeline = wish.timeline.unwrap_or(match wish.target {
            Target::Immediate => TargetTimeline::Current,
            _ => TargetTimeline::Latest,
        });
        let chooser = Chooser { archive: &archive, inventory, wish: &wish, timeline };
        let (record, history) = chooser.choose(&survey.records.good).doing(doing)?;
        let record = record.clone();
        let reach = inventory.reach(&record, &history).ok_or_else(|| {
            Error::new(
                Kind::Hole,
                format!("{}, the first WAL of backup {}, is missing", record.wal.first, record.id),
            )
            .hint("run `walkeep list` to see what is there, and take another backup")
        })?;
        let plan = Plan { record, target: wish.target, timeline, history, reach, archive, survey };
        plan.check_reach().doing(doing)?;
        Ok(plan)
    }

    /// Refuses a target behind a hole.
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
            .hint("take another backup with `walkeep restore BACKUP`"));
        }
        let beyond = match self.target {
            Target::Lsn(lsn) => lsn > end,
            // Where in the WAL these are is not known before it is replayed.
            Target::End | Target::Time(_) | Target::Xid(_) | Target::Name(_) => self.reach.gap.is_some(),
            Target::Immediate => false,
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
            "--lsn {last} recovers as far as possible; a backup behind the hole leads further (`walkeep list`); perhaps the missing WAL is still in pg_wal of the primary or a standby: push it with walpush"
        )))
    }

    /// Refuses a time behind the last commit: recovery would replay everything, and then fail.
    fn check_time(&self) -> Result<()> {
        let Target::Time(time) = self.target else {
            return Ok(());
        };
        let last = self.tail()?.last_transaction.map(|last| last.time);
        let ended = match last {
            Some(last) if time >= last => {
                format!("lies behind the last transaction in the archive, which ended at {last}")
            }
            None if self.reach.segments <= MAX_SEARCHED => {
                format!(
                    "cannot be told: no transaction ended in the archived WAL since backup {}",
                    self.record.id
                )
            }
            _ => return Ok(()),
        };
        Err(Error::new(Kind::Refused, format!("the target {time} {ended}")).hint(
            "without a target everything is recovered; a later one needs WAL that is not archived yet (select pg_switch_wal() on the primary)",
        ))
    }

    /// Returns the last record and transaction that can be reached; see [`WalHistory::tail`].
    pub fn tail(&self) -> Result<Tail> {
        self.wal()?.tail(&self.archive, &self.reach, &self.history)
    }

    /// Returns the moments that can be restored along the timeline of the plan, from the oldest backup on that leads to
    /// this one without a hole.
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

struct Chooser<'a> {
    archive: &'a Archive,
    inventory: &'a Inventory,
    wish: &'a Wish,
    timeline: TargetTimeline,
}

impl Chooser<'_> {
    fn choose<'r>(&self, records: &'r [Record]) -> Result<(&'r Record, History)> {
        let list = || {
            let ids: Vec<String> = records
                .iter()
                .rev()
                .take(5)
                .map(|record| format!("{} (ends at {}, {})", record.id, record.stop_time, record.stop_lsn))
                .collect();
            format!("the newest backups are {}", ids.join(", "))
        };
        match self.wish.backup.as_deref() {
            Some("latest") | None => {}
            Some(id) => {
                let record = records.iter().find(|record| record.id == id).ok_or_else(|| {
                    Error::new(Kind::Refused, format!("there is no backup {id}")).hint(list())
                })?;
                return self.usable(record).map(|history| (record, history));
            }
        }
        if self.wish.backup.is_none() && matches!(self.wish.target, Target::Xid(_) | Target::Name(_)) {
            return Err(Error::new(
                Kind::Refused,
                "when that transaction or restore point was written is not known before its WAL is replayed",
            )
            .hint(format!("name the backup that ended before it: {}", list())));
        }
        let mut reason = None;
        for record in records.iter().rev() {
            match self.usable(record) {
                Ok(history) => return Ok((record, history)),
                Err(error) if matches!(error.kind(), Kind::Refused | Kind::Problem) => {
                    reason = Some(error);
                }
                Err(error) => return Err(error),
            }
        }
        // The last one asked is the oldest: what is possible begins with it.
        let reason = reason.unwrap_or_else(|| Error::new(Kind::Refused, "there is no backup"));
        let advice = reason.advice().map_or_else(String::new, |advice| format!("{advice}; "));
        Err(Error::new(Kind::Refused, format!("no backup leads to the target; the oldest: {reason}"))
            .hint(format!("{advice}{}", list())))
    }

    /// The history to follow from this backup, or why it cannot be used.
    fn usable(&self, record: &Record) -> Result<History> {
        if !record.is_complete() && !self.wish.allow_damaged {
            return Err(Error::new(
                Kind::Problem,
                format!(
                    "backup {} is marked damaged: {} files had bad pages",
                    record.id,
                    record.damaged.len()
                ),
            )
            .hint("`walkeep show` names them; --allow-damaged restores it all the same"));
        }
        let before = match &self.wish.target {
            Target::Time(time) if *time <= record.stop_time => Some(time.to_string()),
            Target::Lsn(lsn) if *lsn < record.stop_lsn => Some(lsn.to_string()),
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
                Error::new(Kind::Refused, format!("there is no history of timeline {timeline}"))
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
