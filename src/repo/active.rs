//! Operations announce themselves in the repository, so that a prune on another host respects them.
//!
//! Who announces first and looks at the others then cannot be missed by somebody who does the same: what was
//! put is at once listed, so of two that announce at one moment at least one sees the other. The rest of the
//! argument is in `FORMAT.md`.
//!
//! Nothing here trusts a clock of another host. A process of this host and this boot is asked of the kernel. Of
//! others there are two signs, which have to agree: the ages of announcements by the one clock of the store, and
//! that nothing moves while somebody watches.

use super::name::ObjectName;
use super::process::{Process, host};
use super::{Archive, key};
use crate::codec::envelope::ObjectKind;
use crate::error::{Error, Kind, Result};
use crate::pg::lsn::Lsn;
use crate::storage::{Mode, Put};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How often an operation shows that it lives.
pub const BEAT: Duration = Duration::from_secs(15);

/// How long an operation goes on without having been able to show it.
const UNHEARD: Duration = Duration::from_secs(15 * 60);

/// When somebody else's announcement counts as left behind.
#[derive(Debug, Clone, Copy)]
pub struct Staleness {
    /// Younger than this by the clock of the store: alive.
    pub fresh: Duration,
    /// An older one is watched for this long, by a clock that only counts on: when it moves it is alive.
    pub watch: Duration,
    /// A restore that is done keeps its WAL for this long: recovery is still to come.
    pub lease: Duration,
}

impl Default for Staleness {
    fn default() -> Staleness {
        Staleness { fresh: Duration::from_secs(3600), watch: 8 * BEAT, lease: Duration::from_secs(24 * 3600) }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Operation {
    Backup,
    Restore,
    Prune,
    Sync,
}

impl std::fmt::Display for Operation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Operation::Backup => "backup",
            Operation::Restore => "restore",
            Operation::Prune => "prune",
            Operation::Sync => "sync",
        })
    }
}

/// What an operation says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heartbeat {
    pub operation: Operation,
    pub host: String,
    /// Who it is on that host, where the kernel says so.
    pub process: Option<Process>,
    /// Counts on for as long as the operation lives.
    pub beat: u64,
    /// The backup that is being made: what lies under its name is no garbage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backup: Option<String>,
    /// Backups that have to stay, with all packs that they name.
    #[serde(default)]
    pub needs: Vec<String>,
    /// WAL from here on has to stay. A backup that does not say it needs all there is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wal_from: Option<Lsn>,
    /// Backups that a prune removes now. Nobody may begin to need them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub removing: Vec<String>,
    /// A prune that has seen that it is alone.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub decided: bool,
    /// The operation is done and leaves this behind.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub left: bool,
}

impl Heartbeat {
    pub fn new(operation: Operation) -> Heartbeat {
        Heartbeat {
            operation,
            host: host(),
            process: Process::this(),
            beat: 0,
            backup: None,
            needs: Vec::new(),
            wal_from: None,
            removing: Vec::new(),
            decided: false,
            left: false,
        }
    }
}

/// Somebody's announcement.
#[derive(Debug, Clone)]
pub struct Seen {
    /// The last part of its key.
    pub name: String,
    /// When it was last written, by the clock of the store.
    pub at: jiff::Timestamp,
    /// `None`: it cannot be read, so it may need everything.
    pub notice: Option<Heartbeat>,
}

/// What can be said of the one who announced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Life {
    Alive,
    /// The kernel says so, or it was meant to end.
    Over,
    /// Nothing was heard for long; it has to be watched.
    Silent,
}

impl Seen {
    /// Whether this may be about to remove a backup. A process of this host that is gone is not; one that its own
    /// host knows nothing of may have been suspended.
    pub fn is_removing(&self, id: &str) -> bool {
        self.notice.as_ref().is_some_and(|notice| {
            notice.removing.iter().any(|other| other == id)
                && notice.process.as_ref().and_then(Process::is_over) != Some(true)
        })
    }

    /// Whether this may be the backup of that name; not when its process is known to be gone.
    pub fn may_be_making(&self, id: &str) -> bool {
        self.notice.as_ref().is_none_or(|notice| {
            notice.backup.as_deref() == Some(id)
                && notice.process.as_ref().and_then(Process::is_over) != Some(true)
        })
    }

    /// `now` is the time at which something was stored just now, by the same clock.
    pub fn life(&self, now: jiff::Timestamp, patience: &Staleness) -> Life {
        let age = now.duration_since(self.at).unsigned_abs();
        let left = self.notice.as_ref().is_some_and(|notice| notice.left);
        if left {
            return if age < patience.lease { Life::Alive } else { Life::Over };
        }
        let process = self.notice.as_ref().and_then(|notice| notice.process.as_ref());
        match process.and_then(Process::is_over) {
            Some(true) => Life::Over,
            Some(false) => Life::Alive,
            None if age < patience.fresh => Life::Alive,
            None => Life::Silent,
        }
    }

    /// Whether it is the same sign of life as that one.
    pub fn has_moved_since(&self, before: &Seen) -> bool {
        self.at != before.at || self.notice.as_ref().map(|n| n.beat) != before.notice.as_ref().map(|n| n.beat)
    }

    /// For messages: `backup on db1 (since …)`.
    pub fn describe(&self) -> String {
        match &self.notice {
            Some(notice) => format!("a {} on {}", notice.operation, notice.host),
            None => format!("what announced itself as {}", self.name),
        }
    }
}

impl Archive {
    /// Everybody's announcements.
    pub fn announced(&self) -> Result<Vec<Seen>> {
        let mut found = Vec::new();
        self.each_named(key::ACTIVE, |name, entry| {
            let ObjectName::Active(last) = &name else {
                return Ok(());
            };
            let notice = match self.get_small(&name, ObjectKind::Active) {
                Ok(None) => return Ok(()),
                Ok(notice) => notice,
                Err(error) if error.kind() == Kind::Damage => None,
                Err(error) => return Err(error),
            };
            found.push(Seen { name: last.clone(), at: entry.modified, notice });
            Ok(())
        })?;
        Ok(found)
    }

    /// Watches announcements of which nothing was heard: the names of those that did not move all the time.
    pub fn watch(&self, silent: &[Seen], patience: &Staleness) -> Result<BTreeSet<String>> {
        let begun = Instant::now();
        let mut still: Vec<&Seen> = silent.iter().collect();
        while !still.is_empty() && begun.elapsed() < patience.watch {
            std::thread::sleep((patience.watch / 8).min(patience.watch.saturating_sub(begun.elapsed())));
            let now = self.announced()?;
            still.retain(|before| {
                now.iter().any(|seen| seen.name == before.name && !seen.has_moved_since(before))
            });
        }
        Ok(still.into_iter().map(|seen| seen.name.clone()).collect())
    }

    /// Takes away the announcement of somebody whose life is over. One who may still live is kept from
    /// recording his backup; false when he has recorded it meanwhile.
    pub fn bury(&self, seen: &Seen, life: Life) -> Result<bool> {
        let backup = seen.notice.as_ref().and_then(|notice| notice.backup.as_deref());
        let fenced = match (life, backup) {
            (Life::Over, _) | (_, None) => true,
            (_, Some(id)) => self.fence(id)?,
        };
        self.remove(&[ObjectName::Active(seen.name.clone())])?;
        Ok(fenced)
    }
}

/// An operation that is announced for as long as this lives.
pub struct Announcement {
    shared: Arc<Shared>,
    beating: Option<JoinHandle<()>>,
}

struct Shared {
    archive: Archive,
    name: ObjectName,
    /// Held while it is written; the state never is, so that nobody waits for the repository to ask for it.
    notice: Mutex<Heartbeat>,
    state: Mutex<State>,
    wake: Condvar,
}

struct State {
    /// When the last sign of life was stored.
    heard: Instant,
    /// Somebody took it for dead.
    buried: bool,
    over: bool,
}

impl Announcement {
    /// Announces, durably. `random` makes the name one of its own.
    pub fn begin(archive: &Archive, notice: Heartbeat, random: &str) -> Result<Announcement> {
        let name = ObjectName::Active(format!("{}-{random}", notice.operation));
        if archive.put_small(&name, ObjectKind::Active, &notice, Mode::Create)? == Put::Exists {
            return Err(Error::new(Kind::Conflict, format!("{name} is there already")));
        }
        let shared = Arc::new(Shared {
            archive: archive.clone(),
            name,
            notice: Mutex::new(notice),
            state: Mutex::new(State { heard: Instant::now(), buried: false, over: false }),
            wake: Condvar::new(),
        });
        let beats = Arc::clone(&shared);
        let beating = std::thread::Builder::new()
            .name("announce".into())
            .spawn(move || beats.beat())
            .map_err(|e| Error::io("start a thread", &e));
        match beating {
            Ok(thread) => Ok(Announcement { shared, beating: Some(thread) }),
            Err(error) => {
                archive.remove(std::slice::from_ref(&shared.name))?;
                Err(error)
            }
        }
    }

    /// Its name among those that [`Archive::announced`] gives.
    pub fn name(&self) -> &str {
        match &self.shared.name {
            ObjectName::Active(name) => name,
            _ => "",
        }
    }

    /// Says something else. Everybody sees it when this has returned.
    pub fn update(&self, change: impl FnOnce(&mut Heartbeat)) -> Result<()> {
        let mut notice = self.shared.notice.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut notice);
        self.shared.write(&mut notice)
    }

    /// The time of the store.
    pub fn time(&self) -> Result<jiff::Timestamp> {
        self.update(|_| {})?;
        self.shared.archive.stored_at(&self.shared.name)?.ok_or_else(taken_for_dead)
    }

    /// Looks whether it is still there: right before something that cannot be taken back.
    pub fn confirm(&self) -> Result<()> {
        if self.shared.archive.stored_at(&self.shared.name)?.is_none() {
            self.shared.state().buried = true;
        }
        self.check()
    }

    /// Fails when somebody took this operation for dead, or when it could not show for long that it lives: then
    /// what it began is no longer protected.
    pub fn check(&self) -> Result<()> {
        let state = self.shared.state();
        if state.buried {
            return Err(taken_for_dead());
        }
        if state.heard.elapsed() > UNHEARD {
            return Err(Error::new(
                Kind::Unavailable,
                format!(
                    "for {} minutes it could not be said in the repository that this operation lives",
                    UNHEARD.as_secs() / 60
                ),
            ));
        }
        Ok(())
    }

    /// Ends, and leaves the announcement for its lease: the backup has been read, its WAL is still to be.
    pub fn leave(mut self) -> Result<()> {
        self.stop();
        self.update(|notice| {
            notice.needs.clear();
            notice.left = true;
        })
    }

    fn stop(&mut self) {
        self.shared.state().over = true;
        self.shared.wake.notify_all();
        if let Some(thread) = self.beating.take() {
            // It does not panic, and if it did there would be nothing to do about it.
            let _ = thread.join();
        }
    }
}

impl Drop for Announcement {
    fn drop(&mut self) {
        self.stop();
        let left = self.shared.notice.lock().unwrap_or_else(PoisonError::into_inner).left;
        if !left {
            // What stays is found to be over by whoever meets it.
            let _ = self.shared.archive.remove(std::slice::from_ref(&self.shared.name));
        }
    }
}

impl Shared {
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn beat(&self) {
        loop {
            let waited = self.wake.wait_timeout_while(self.state(), BEAT, |state| !state.over);
            let state = waited.unwrap_or_else(PoisonError::into_inner).0;
            if state.over || state.buried {
                return;
            }
            drop(state);
            let mut notice = self.notice.lock().unwrap_or_else(PoisonError::into_inner);
            // An outage may pass; `check` ends the operation when it does not.
            let _ = self.write(&mut notice);
        }
    }

    fn write(&self, notice: &mut Heartbeat) -> Result<()> {
        if self.state().buried || self.archive.stored_at(&self.name)?.is_none() {
            self.state().buried = true;
            return Err(taken_for_dead());
        }
        notice.beat += 1;
        let _ = self.archive.put_small(&self.name, ObjectKind::Active, notice, Mode::Replace)?;
        self.state().heard = Instant::now();
        Ok(())
    }
}

fn taken_for_dead() -> Error {
    Error::new(
        Kind::Refused,
        "the announcement of this operation is gone from the repository: a prune took it for dead",
    )
    .hint("was this machine suspended, or the repository out of reach? start again")
}
