//! The other operations that are under way in a repository: what they need, and which of them are over.

use crate::error::{Error, Kind, Result};
use crate::pg::lsn::Lsn;
use crate::repo::Archive;
use crate::repo::active::{Announcement, Heartbeat, Life, Operation, Seen, Staleness};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// How often it is looked whether another prune has ended.
const POLL: Duration = Duration::from_millis(500);

/// How long prunes that began at one moment may take to give way to one of them.
const DECISION: Duration = Duration::from_secs(30);

/// Something that a running operation needs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct InUse {
    /// `a backup on db1`.
    pub who: String,
    /// The backup that is being made.
    pub backup: Option<String>,
    /// `None`: it does not say, so everything.
    pub needs: Option<Vec<String>>,
    /// Where the WAL that it needs begins; `None`: with all there is.
    pub wal_from: Option<Lsn>,
}

impl InUse {
    /// Who needs what.
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
        format!("{} needs {backups}{wal}", self.who)
    }

    fn of(seen: &Seen) -> Option<InUse> {
        let everything = InUse { who: seen.describe(), ..InUse::default() };
        let Some(Heartbeat { operation, backup, needs, wal_from, .. }) = seen.notice.clone() else {
            return Some(everything);
        };
        // It brings packs of many backups, whose records come later.
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

/// Looks at the others, and remembers whom it has watched.
pub struct Others<'a> {
    patience: &'a Staleness,
    /// The announcement of the one who looks: its time is the store's. Without one nothing is touched.
    own: Option<&'a Announcement>,
    /// The time in place of the store's, for one who announces nothing.
    now: jiff::Timestamp,
    /// Those who did not move while they were watched.
    still: BTreeMap<String, Seen>,
}

impl<'a> Others<'a> {
    pub fn new(patience: &'a Staleness, own: Option<&'a Announcement>, now: jiff::Timestamp) -> Others<'a> {
        Others { patience, own, now, still: BTreeMap::new() }
    }

    /// What others need, and which backups a prune was removing that is presumed to be over. Takes away the
    /// announcements of those who are over.
    pub fn look(&mut self, archive: &Archive) -> Result<(Vec<InUse>, BTreeSet<String>)> {
        let mut in_use = Vec::new();
        let mut condemned = BTreeSet::new();
        for (seen, life) in self.judge(archive)? {
            if life == Life::Alive {
                in_use.extend(InUse::of(&seen));
                continue;
            }
            let removing = seen.notice.as_ref().map(|notice| &notice.removing[..]).unwrap_or_default();
            if life == Life::Silent && !removing.is_empty() {
                // It may be suspended right before it removes these: so they go before its announcement does.
                condemned.extend(removing.iter().cloned());
            } else if self.own.is_some() {
                archive.bury(&seen, life)?;
            }
        }
        Ok((in_use, condemned))
    }

    /// Takes away the announcements of prunes whose work has been finished.
    pub fn bury_condemning(&self, archive: &Archive) -> Result<()> {
        let condemns = |seen: &&Seen| seen.notice.as_ref().is_some_and(|notice| !notice.removing.is_empty());
        let mut prunes = self.still.values().filter(condemns);
        prunes.try_for_each(|seen| archive.bury(seen, Life::Silent).map(|_| ()))
    }

    fn judge(&mut self, archive: &Archive) -> Result<Vec<(Seen, Life)>> {
        let mut others = archive.announced()?;
        others.retain(|seen| self.own.is_none_or(|own| own.name() != seen.name));
        if others.is_empty() {
            return Ok(Vec::new());
        }
        let now = self.own.map_or(Ok(self.now), Announcement::time)?;
        let mut judged = Vec::new();
        let mut silent = Vec::new();
        for seen in others {
            match seen.life(now, self.patience) {
                Life::Silent
                    if self.still.get(&seen.name).is_some_and(|before| !seen.has_moved_since(before)) =>
                {
                    judged.push((seen, Life::Silent));
                }
                Life::Silent => silent.push(seen),
                life => judged.push((seen, life)),
            }
        }
        let still = archive.watch(&silent, self.patience)?;
        for seen in silent {
            if still.contains(&seen.name) {
                self.still.insert(seen.name.clone(), seen.clone());
                judged.push((seen, Life::Silent));
            } else {
                judged.push((seen, Life::Alive));
            }
        }
        Ok(judged)
    }

    /// Other prunes that live.
    fn prunes(&mut self, archive: &Archive) -> Result<Vec<(String, Heartbeat)>> {
        let judged = self.judge(archive)?.into_iter().filter(|(_, life)| *life == Life::Alive);
        let notices = judged.filter_map(|(seen, _)| Some((seen.name, seen.notice?)));
        Ok(notices.filter(|(_, notice)| notice.operation == Operation::Prune).collect())
    }
}

/// Announces a prune that is the only one, waiting at most this long for others to end.
pub fn alone(archive: &Archive, patience: &Staleness, random: &str, wait: Duration) -> Result<Announcement> {
    let begun = Instant::now();
    loop {
        let own = Announcement::begin(archive, Heartbeat::new(Operation::Prune), random)?;
        let Some(other) = rival(archive, &own, patience)? else {
            own.update(|notice| notice.decided = true)?;
            return Ok(own);
        };
        drop(own);
        if begun.elapsed() >= wait {
            return Err(Error::new(Kind::Locked, format!("another prune runs, on {other}"))
                .hint("wait for it to end, or use --wait; one that crashed on another host counts for about an hour"));
        }
        std::thread::sleep(POLL);
    }
}

/// The host of a prune that goes first: one that has decided, or one that began at the same moment and has the
/// smaller name.
fn rival(archive: &Archive, own: &Announcement, patience: &Staleness) -> Result<Option<String>> {
    let begun = Instant::now();
    let mut others = Others::new(patience, Some(own), jiff::Timestamp::UNIX_EPOCH);
    loop {
        let rivals = others.prunes(archive)?;
        let first = rivals.iter().find(|(name, notice)| notice.decided || name.as_str() < own.name());
        match (first, rivals.first()) {
            (Some((_, notice)), _) => return Ok(Some(notice.host.clone())),
            (None, None) => return Ok(None),
            // These see that they have to give way.
            (None, Some((_, notice))) if begun.elapsed() > DECISION => return Ok(Some(notice.host.clone())),
            (None, Some(_)) => std::thread::sleep(POLL),
        }
    }
}
