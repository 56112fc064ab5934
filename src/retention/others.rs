//! Other operations on a repository: the objects that they need, and the operations that have
//! ended.

use crate::error::{Error, Kind, Result};
use crate::pg::lsn::Lsn;
use crate::repo::Archive;
use crate::repo::active::{Announced, Announcement, Explained, Heartbeat, Liveness, Operation, Staleness};
use crate::runtime::clock::MonotonicTime;
use crate::runtime::thread;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Interval at which a prune checks whether another prune has ended.
const POLL_INTERVAL: Duration = Duration::from_millis(500);

/// Duration after which a prune gives up when prunes that began at the same moment do not give way.
const DECISION_TIMEOUT: Duration = Duration::from_secs(30);

/// The needs of a running operation.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct InUse {
    /// The operation and its host: `a backup on db1`.
    pub operation: String,
    /// The backup that is being made.
    pub backup: Option<String>,
    /// Ids of the backups that it needs; `None` when they are unknown, so that it may need all.
    pub needs: Option<Vec<String>>,
    /// Position from which on it needs WAL; `None` when it needs all WAL.
    pub wal_from: Option<Lsn>,
}

impl InUse {
    /// Returns the needs as a sentence for the plan.
    pub fn describe(&self) -> String {
        let wal = match self.wal_from {
            Some(lsn) => format!("WAL from {lsn} on"),
            None => "all WAL".to_owned(),
        };
        match &self.needs {
            None => format!("{} needs everything", self.operation),
            Some(needs) if needs.is_empty() => format!("{} needs {wal}", self.operation),
            Some(needs) => format!("{} needs {} and {wal}", self.operation, needs.join(", ")),
        }
    }

    fn of(announced: &Announced) -> Option<InUse> {
        let everything = InUse { operation: announced.describe(), ..InUse::default() };
        let Some(Heartbeat { operation, backup, needs, wal_from, .. }) = announced.heartbeat.clone() else {
            return Some(everything);
        };
        // A sync copies packs of many backups before their records.
        if operation == Operation::Sync {
            return Some(everything);
        }
        (!matches!(operation, Operation::Prune | Operation::Verify)).then_some(InUse {
            backup,
            needs: Some(needs),
            wal_from,
            ..everything
        })
    }
}

/// Reads the announcements of other operations, and remembers which of them are stale.
pub struct Others<'a> {
    staleness: &'a Staleness,
    /// The announcement of this prune, which gives the time of the store; `None` in a dry run,
    /// which removes nothing.
    own: Option<&'a Announcement>,
    /// The time to use in a dry run.
    now: jiff::Timestamp,
    /// Announcements that did not change while they were watched, by name.
    stale: BTreeMap<String, Announced>,
    /// Announcements of operations that have ended or are stale and left something to remove, by
    /// name: they are removed after that.
    unfinished: BTreeMap<String, (Announced, Liveness)>,
}

/// The other operations on a repository.
#[derive(Debug, Default)]
pub struct OtherOperations {
    pub in_use: Vec<InUse>,
    /// Backups that stale prunes were removing.
    pub condemned: BTreeSet<String>,
    /// Backups whose records may be missing.
    pub explained: Explained,
}

impl<'a> Others<'a> {
    pub fn new(staleness: &'a Staleness, own: Option<&'a Announcement>, now: jiff::Timestamp) -> Others<'a> {
        Others { staleness, own, now, stale: BTreeMap::new(), unfinished: BTreeMap::new() }
    }

    /// Returns the other operations. Removes the announcements of those that have ended or are
    /// stale, except where they name backups of which something may be left.
    pub fn look(&mut self, archive: &Archive) -> Result<OtherOperations> {
        let mut found = OtherOperations::default();
        for (announced, liveness) in self.judge(archive)? {
            found.explained.add(&announced);
            if liveness == Liveness::Active {
                found.in_use.extend(InUse::of(&announced));
                continue;
            }
            if liveness == Liveness::Suspect {
                // The prune may be suspended right before it removes these backups, so they are
                // removed before its announcement.
                let removing = announced.heartbeat.iter().flat_map(|heartbeat| &heartbeat.removing);
                found.condemned.extend(removing.cloned());
            }
            if announced.is_about(|_| true) {
                self.unfinished.insert(announced.name.clone(), (announced, liveness));
            } else if self.own.is_some() {
                // Records are read later, so a backup that was recorded meanwhile is seen then.
                let _ = archive.remove_stale(&announced, liveness)?;
            }
        }
        Ok(found)
    }

    /// Removes the announcements of operations that have ended or are stale and left something,
    /// except those that name a backup in `left`.
    pub fn remove_unfinished(&self, archive: &Archive, left: &BTreeSet<&String>) -> Result<()> {
        for (announced, liveness) in self.unfinished.values() {
            if !announced.is_about(|id| left.contains(id)) {
                // Neither a prune nor a verification takes a backup, so nothing has to be fenced.
                let _ = archive.remove_stale(announced, *liveness)?;
            }
        }
        Ok(())
    }

    /// Returns the announcements of the other operations, each with the state of its operation. A
    /// suspect is watched, and is active when its announcement changes.
    fn judge(&mut self, archive: &Archive) -> Result<Vec<(Announced, Liveness)>> {
        let mut others = archive.announced()?;
        others.retain(|announced| self.own.is_none_or(|own| own.name() != announced.name));
        if others.is_empty() {
            return Ok(Vec::new());
        }
        let now = self.own.map_or(Ok(self.now), Announcement::time)?;
        let mut judged = Vec::new();
        let mut suspects = Vec::new();
        for announced in others {
            let before = self.stale.get(&announced.name);
            let is_stale = before.is_some_and(|before| !announced.has_moved_since(before));
            match announced.liveness(now, self.staleness) {
                Liveness::Suspect if !is_stale => suspects.push(announced),
                liveness => judged.push((announced, liveness)),
            }
        }
        let stale = archive.watch(&suspects, self.staleness)?;
        for announced in suspects {
            if stale.contains(&announced.name) {
                self.stale.insert(announced.name.clone(), announced.clone());
                judged.push((announced, Liveness::Suspect));
            } else {
                judged.push((announced, Liveness::Active));
            }
        }
        Ok(judged)
    }

    /// Returns the names and heartbeats of the other prunes that run.
    fn prunes(&mut self, archive: &Archive) -> Result<Vec<(String, Heartbeat)>> {
        let judged = self.judge(archive)?.into_iter().filter(|(_, liveness)| *liveness == Liveness::Active);
        let heartbeats = judged.filter_map(|(announced, _)| Some((announced.name, announced.heartbeat?)));
        Ok(heartbeats.filter(|(_, heartbeat)| heartbeat.operation == Operation::Prune).collect())
    }
}

/// Announces a prune that runs alone: waits at most `wait` for the end of other prunes.
///
/// # Errors
///
/// [`Kind::Locked`] when another prune still runs after that.
pub fn announce_alone(
    archive: &Archive,
    staleness: &Staleness,
    random: &str,
    wait: Duration,
) -> Result<Announcement> {
    let begun = MonotonicTime::now();
    loop {
        let own = Announcement::begin(archive, Heartbeat::new(Operation::Prune), random)?;
        let Some(other) = rival(archive, &own, staleness)? else {
            own.update(|heartbeat| heartbeat.decided = true)?;
            return Ok(own);
        };
        drop(own);
        if begun.elapsed() >= wait {
            return Err(Error::new(Kind::Locked, format!("another prune runs, on {other}")).hint(
                "wait for it to end, or use --wait; one that crashed on another host counts for about an hour",
            ));
        }
        thread::sleep(POLL_INTERVAL);
    }
}

/// Returns the host of a prune that takes precedence: it has decided, or it began at the same
/// moment and has the smaller name.
fn rival(archive: &Archive, own: &Announcement, staleness: &Staleness) -> Result<Option<String>> {
    let begun = MonotonicTime::now();
    // The time is not used: the announcement gives the time of the store.
    let mut others = Others::new(staleness, Some(own), jiff::Timestamp::UNIX_EPOCH);
    loop {
        let rivals = others.prunes(archive)?;
        let first = rivals.iter().find(|(name, heartbeat)| heartbeat.decided || name.as_str() < own.name());
        match (first, rivals.first()) {
            (Some((_, heartbeat)), _) => return Ok(Some(heartbeat.host.clone())),
            (None, None) => return Ok(None),
            // The others have larger names and give way when they see this prune.
            (None, Some((_, heartbeat))) if begun.elapsed() > DECISION_TIMEOUT => {
                return Ok(Some(heartbeat.host.clone()));
            }
            (None, Some(_)) => thread::sleep(POLL_INTERVAL),
        }
    }
}
