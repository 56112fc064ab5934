//! History files that are missing in an archive, and the backups whose recovery suffers from that.
//!
//! A server that recovers requests the histories of all timelines from that of its backup on: first
//! one after the other until one is absent, to find the newest timeline and later a free number
//! (`findNewestTimeLine` in `timeline.c`), then those between the backup and its target
//! (`restoreTimeLineHistoryFiles`). `walfetch` reports a missing history as absent only if no later
//! one exists; otherwise it fails, and recovery ends with an error whatever its target is. Without a
//! later one recovery ends on a timeline before it, although WAL continues.

use super::history::WalHistory;
use super::record::Record;
use super::survey::Survey;
use crate::error::{Error, Kind};
use crate::pg::history::History;
use crate::pg::segment::{TimelineId, WalName};
use serde::Serialize;
use std::collections::BTreeSet;

/// Maximum number of histories between others that are reported as missing: the first of them
/// decides.
const MAX_MISSING: usize = 100;

/// A history file that is not in the archive, although something shows that its timeline exists.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MissingHistory {
    pub timeline: TimelineId,
    /// Archived history with this timeline among its ancestors, from which the file can be made
    /// again.
    pub named_by: Option<TimelineId>,
    /// The lowest later timeline whose history is archived. If there is one, `walfetch` fails.
    pub later: Option<TimelineId>,
    /// Ids of the backups that need it, oldest first.
    pub backups: Vec<String>,
}

impl MissingHistory {
    pub fn name(&self) -> WalName {
        WalName::History(self.timeline)
    }

    /// Whether a recovery fails or ends too early without it.
    pub fn is_needed(&self) -> bool {
        !self.backups.is_empty()
    }

    /// Describes the consequence, without the name of the file.
    pub fn consequence(&self) -> String {
        match (self.is_needed(), self.later) {
            (false, _) => "it is missing, and no backup needs it".to_owned(),
            (true, Some(later)) => format!(
                "it is missing although {} exists: no recovery of a backup on timeline {} or before ends",
                WalName::History(later),
                self.timeline
            ),
            (true, None) => format!(
                "it is missing although timeline {0} has WAL: a recovery of a backup before timeline {0} ends before it",
                self.timeline
            ),
        }
    }

    /// Returns the commands to type.
    pub fn hint(&self) -> String {
        let name = self.name();
        let push = format!(
            "on the server that is or was on timeline {}, or a standby of it, type `walkeep check`, or `walpush pg_wal/{name}` in its data directory; or `walkeep sync` from a repository that has it",
            self.timeline
        );
        match self.named_by {
            Some(_) => {
                format!("{push}; if no server has the file: `walkeep timelines --rebuild {}`", self.timeline)
            }
            None => format!(
                "{push}; if no server has the file: `walkeep timelines --retire {}`, and take a backup",
                self.timeline
            ),
        }
    }

    /// Returns the error for a recovery that needs the file.
    pub fn error(&self) -> Error {
        Error::new(Kind::Refused, format!("{}: {}", self.name(), self.consequence())).hint(self.hint())
    }
}

impl WalHistory {
    /// Returns the histories that are missing, in order of their timelines; `records` are the
    /// backups that may be restored.
    pub fn missing_histories(&self, records: &[Record]) -> Vec<MissingHistory> {
        let known: BTreeSet<TimelineId> = self.inventory.histories.iter().copied().collect();
        let backed_up = || records.iter().map(|record| record.timeline);
        let used: BTreeSet<TimelineId> = self.inventory.runs().keys().copied().chain(backed_up()).collect();
        let named = self.histories().values().flat_map(|history| history.parents.iter().map(|(id, _)| *id));
        // The first history that the oldest backup makes a server request.
        let first = backed_up().min().map_or(1, |first| first.0).saturating_add(1);
        let last = known.last().map_or(0, |last| last.0);
        let mut wanted: BTreeSet<TimelineId> = named.chain(used.iter().copied()).collect();
        let is_missing = |timeline: &TimelineId| timeline.0 > 1 && !known.contains(timeline);
        wanted.extend((first..=last).map(TimelineId).filter(is_missing).take(MAX_MISSING));
        wanted
            .into_iter()
            .filter(is_missing)
            .map(|timeline| {
                let later = known.range(timeline..).next().copied();
                let is_needed_by = |record: &&Record| match later {
                    Some(_) => record.timeline <= timeline,
                    None => record.timeline < timeline && used.contains(&timeline),
                };
                // The file of the timeline can be made again if it had at least one line.
                let names =
                    |history: &&History| history.parents.iter().skip(1).any(|(id, _)| *id == timeline);
                MissingHistory {
                    timeline,
                    named_by: self.histories().values().find(names).map(|history| history.timeline),
                    later,
                    backups: records.iter().filter(is_needed_by).map(|record| record.id.clone()).collect(),
                }
            })
            .collect()
    }
}

impl Survey {
    /// Returns the histories that are missing; see [`WalHistory::missing_histories`].
    pub fn missing_histories(&self) -> Vec<MissingHistory> {
        let mut missing = match &self.wal {
            Some(wal) => wal.missing_histories(&self.records.good),
            None => Vec::new(),
        };
        // `walfetch` reports the history of a retired timeline as absent, and no recovery needs it.
        let retired = missing.iter_mut().filter(|missing| self.retired.contains(&missing.timeline));
        retired.for_each(|missing| missing.backups.clear());
        missing
    }
}
