//! Other operations on a repository: what they need, and which of them have ended.

use crate::error::{Error, Kind, Result};
use crate::pg::lsn::Lsn;
use crate::repo::Archive;
use crate::repo::active::{Announced, Announcement, Heartbeat, Liveness, Operation, Staleness};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// Interval at which a prune looks whether another one has ended.
const POLL_INTERVAL: Duration = Duration::from_millis(500);

/// Duration after which a prune gives up when others that began at the same moment do not give way.
const DECISION_TIMEOUT: Duration = Duration::from_secs(30);

/// The needs of a running operation.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct InUse {
    /// The operation and its host: `a backup on db1`.
    pub operation: String,
    /// The backup that is being made.
    pub backup: Option<String>,
    /// Ids of backups; `None` when they are unknown, so that everything is needed.
    pub needs: Option<Vec<String>>,
    /// Begin of the WAL that it needs; `None` when it needs all WAL.
    pub wal_from: Option<Lsn>,
}

impl InUse {
    /// Returns what is needed as a sentence for the plan.
    pub fn describe(&self) -> String {
        let backups = match &self.needs {
            None => "everything".to_owned(),
            Some(needs) if needs.is_empty() => String::new(),
            Some(needs) => format!("{} and ", needs.join(", ")),
        };
        let wal = match (self.wal_from, &self.needs) {
            (Some(lsn), _) => format!("WAL from {lsn} on"),
            (None, Some(_)) => "all WAL".to_owned(),
            (None, None) => String::new(),
        };
        format!("{} needs {backups}{wal}", self.operation)
    }

    fn of(announced: &Announced) -> Option<InUse> {
        let everything = InUse { operation: announced.describe(), ..InUse::default() };
        let Some(Heartbeat { operation, backup, needs, wal_from, .. }) = announced.heartbeat.clone() else {
            return Some(everything);
        };
        // It copies packs of many backups before their records.
        if operation == Operation::Sync {
            return Some(everything);
        }
        (operation != Operation::Prune).then_some(InUse {
            backup,
            needs: Some(needs),
            wal_from,
            ..everything
        })
    }
}

/// Reads the announcements of other operations, and remembers which ones it has watched.
pub struct Others<'a> {
    staleness: &'a Staleness,
    /// The announcement of this prune, which gives the time of the store. Without it nothing is
    /// removed.
    own: Option<&'a Announcement>,
    /// The time without an own announcement.
    now: jiff::Timestamp,
    /// Announcements that did not change while they were watched, by name.
    stale: BTreeMap<String, Announced>,
}

impl<'a> Others<'a> {
    pub fn new(staleness: &'a Staleness, own: Option<&'a Announcement>, now: jiff::Timestamp) -> Others<'a> {
        Others { staleness, own, now, stale: BTreeMap::new() }
    }

    /// Returns what other operations need, and which backups a stale prune was removing. Removes
    /// the announcements of operations that have ended or are stale.
    pub fn look(&mut self, archive: &Archive) -> Result<(Vec<InUse>, BTreeSet<String>)> {
        let mut in_use = Vec::new();
        let mut condemned = BTreeSet::new();
        for (announced, liveness) in self.judge(archive)? {
            if liveness == Liveness::Active {
                in_use.extend(InUse::of(&announced));
                continue;
            }
            let removing = announced.heartbeat.iter().flat_map(|heartbeat| &heartbeat.removing);
            let removing: Vec<&String> = removing.collect();
            if liveness == Liveness::Suspect && !removing.is_empty() {
                // It may be suspended right before it removes these: so they go before its
                // announcement does.
                condemned.extend(removing.into_iter().cloned());
            } else if self.own.is_some() {
                // A backup that was recorded meanwhile is read with the records.
                let _ = archive.remove_stale(&announced, liveness)?;
            }
        }
        Ok((in_use, condemned))
    }

    /// Removes the announcements of stale prunes whose removals are done.
    pub fn remove_stale_prunes(&self, archive: &Archive) -> Result<()> {
        let is_removing = |announced: &&Announced| {
            announced.heartbeat.as_ref().is_some_and(|heartbeat| !heartbeat.removing.is_empty())
        };
        for announced in self.stale.values().filter(is_removing) {
            // A prune makes no backup, so there is none to fence.
            let _ = archive.remove_stale(announced, Liveness::Suspect)?;
        }
        Ok(())
    }

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

    /// Returns the other prunes that run, by name.
    fn prunes(&mut self, archive: &Archive) -> Result<Vec<(String, Heartbeat)>> {
        let judged = self.judge(archive)?.into_iter().filter(|(_, liveness)| *liveness == Liveness::Active);
        let heartbeats = judged.filter_map(|(announced, _)| Some((announced.name, announced.heartbeat?)));
        Ok(heartbeats.filter(|(_, heartbeat)| heartbeat.operation == Operation::Prune).collect())
    }
}

/// Announces a prune and makes sure that no other one runs, waiting at most this long for others to
/// end.
///
/// # Errors
///
/// [`Kind::Locked`] when another prune still runs then.
pub fn alone(archive: &Archive, staleness: &Staleness, random: &str, wait: Duration) -> Result<Announcement> {
    let begun = Instant::now();
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
        std::thread::sleep(POLL_INTERVAL);
    }
}

/// Returns the host of a prune that goes first: one that has decided, or one that began at the same
/// moment and has the smaller name.
fn rival(archive: &Archive, own: &Announcement, staleness: &Staleness) -> Result<Option<String>> {
    let begun = Instant::now();
    // With an own announcement the time is the store's.
    let mut others = Others::new(staleness, Some(own), jiff::Timestamp::UNIX_EPOCH);
    loop {
        let rivals = others.prunes(archive)?;
        let first = rivals.iter().find(|(name, heartbeat)| heartbeat.decided || name.as_str() < own.name());
        match (first, rivals.first()) {
            (Some((_, heartbeat)), _) => return Ok(Some(heartbeat.host.clone())),
            (None, None) => return Ok(None),
            // These give way when they see this one.
            (None, Some((_, heartbeat))) if begun.elapsed() > DECISION_TIMEOUT => {
                return Ok(Some(heartbeat.host.clone()));
            }
            (None, Some(_)) => std::thread::sleep(POLL_INTERVAL),
        }
    }
}
