//! Announcements: each operation puts one into the repository and renews it, so that a prune on
//! another host spares what the operation needs.
//!
//! An operation announces itself first and then reads the other announcements. An object is listed
//! as soon as it is stored, so of two operations that announce themselves at one moment at least
//! one sees the other. `FORMAT.md` has the rest of the argument.
//!
//! No clock of another host is trusted. The kernel knows whether a process of this host and this
//! boot still runs. The process of another announcement counts as ended only when two signs agree:
//! its age by the clock of the store, and that it does not change while it is watched.

use super::name::ObjectName;
use super::process::{Process, host};
use super::{Archive, key};
use crate::codec::envelope::ObjectKind;
use crate::error::{Error, Kind, Result};
use crate::pg::lsn::Lsn;
use crate::runtime::clock::MonotonicTime;
use crate::runtime::lock::{Condition, Mutex};
use crate::runtime::thread::{self, Thread};
use crate::storage::{Mode, Put};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

/// Interval at which an operation renews its announcement.
pub const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(15);

/// Maximum time without a renewal; after that the operation fails.
const MAX_SILENCE: Duration = Duration::from_secs(15 * 60);

/// Age below which an announcement is never stale.
const MIN_STALE_AGE: Duration = Duration::from_secs(3600);

// An operation fails long before another host may consider it stale, and an operation that is
// watched renews its announcement meanwhile.
const _: () = assert!(2 * MAX_SILENCE.as_secs() <= MIN_STALE_AGE.as_secs());
const _: () = assert!(4 * HEARTBEAT_INTERVAL.as_secs() <= MAX_SILENCE.as_secs());

/// Limits by which an announcement of another host is stale.
#[derive(Debug, Clone, Copy)]
pub struct Staleness {
    /// Age by the clock of the store below which an announcement is never stale.
    pub fresh: Duration,
    /// Duration for which an older announcement is watched, by a monotonic clock. It is stale when
    /// it does not change meanwhile.
    pub watch: Duration,
    /// Duration for which a finished restore keeps its WAL, since recovery still reads it.
    pub lease: Duration,
}

impl Default for Staleness {
    fn default() -> Staleness {
        let lease = Duration::from_secs(24 * 3600);
        Staleness { fresh: MIN_STALE_AGE, watch: 8 * HEARTBEAT_INTERVAL, lease }
    }
}

/// An operation that announces itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Operation {
    Backup,
    Restore,
    Prune,
    Sync,
    Verify,
}

impl std::fmt::Display for Operation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Operation::Backup => "backup",
            Operation::Restore => "restore",
            Operation::Prune => "prune",
            Operation::Sync => "sync",
            Operation::Verify => "verify",
        })
    }
}

/// The content of an announcement.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heartbeat {
    pub operation: Operation,
    pub host: String,
    /// The process on that host; `None` where the kernel does not show it.
    pub process: Option<Process>,
    /// Number of renewals.
    pub beat: u64,
    /// The backup that is being made: objects with its id are not garbage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backup: Option<String>,
    /// Backups that have to stay, with all packs that they name.
    #[serde(default)]
    pub needs: Vec<String>,
    /// Position from which on WAL has to stay; `None` in the announcement of a backup or restore
    /// means all WAL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wal_from: Option<Lsn>,
    /// Backups that a prune removes now. No operation may begin to need them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub removing: Vec<String>,
    /// Backups about which a verification writes notes now. It announces them before the first note,
    /// and checks after the last one that their records exist.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub noting: Vec<String>,
    /// True for a prune that has checked that no other prune runs.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub decided: bool,
    /// True when a restore has finished and its announcement stays for the lease.
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
            noting: Vec::new(),
            decided: false,
            left: false,
        }
    }
}

/// An announcement as it was found.
#[derive(Debug, Clone)]
pub struct Announced {
    /// The last part of its key.
    pub name: String,
    /// Time of its last write, by the clock of the store.
    pub at: jiff::Timestamp,
    /// `None` when it is damaged: the operation may need everything.
    pub heartbeat: Option<Heartbeat>,
}

/// The state of an announced operation, as far as it is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Liveness {
    Active,
    /// The kernel shows that the process has ended, or the lease has expired.
    Ended,
    /// The announcement is old; only watching it shows whether the operation still runs.
    Suspect,
}

impl Announced {
    /// Returns true when the process is known to have ended, false when it is known to run.
    fn is_over(&self) -> Option<bool> {
        self.heartbeat.as_ref()?.process.as_ref()?.is_over()
    }

    fn has_ended(&self) -> bool {
        self.is_over() == Some(true)
    }

    /// Returns true when the operation may be about to remove this backup: it names the backup in
    /// `removing`, and its process is not known to have ended. A process of another host may just
    /// be suspended.
    pub fn is_removing(&self, id: &str) -> bool {
        let removing = self.heartbeat.as_ref().map(|heartbeat| &heartbeat.removing);
        removing.is_some_and(|removing| removing.iter().any(|other| other == id)) && !self.has_ended()
    }

    /// Returns true when the operation has something to finish about a backup, which a prune does
    /// when the operation has ended.
    pub fn is_about(&self, mut is_meant: impl FnMut(&String) -> bool) -> bool {
        let mut heartbeat = self.heartbeat.iter();
        heartbeat.any(|heartbeat| heartbeat.removing.iter().chain(&heartbeat.noting).any(&mut is_meant))
    }

    /// Returns true when the operation may be making this backup.
    pub fn may_be_making(&self, id: &str) -> bool {
        self.heartbeat.as_ref().is_none_or(|heartbeat| heartbeat.backup.as_deref() == Some(id))
            && !self.has_ended()
    }

    /// Returns the state of the operation. `now`: the store's time of an object that was stored
    /// just now.
    pub fn liveness(&self, now: jiff::Timestamp, staleness: &Staleness) -> Liveness {
        let age = now.duration_since(self.at).unsigned_abs();
        if self.heartbeat.as_ref().is_some_and(|heartbeat| heartbeat.left) {
            return if age < staleness.lease { Liveness::Active } else { Liveness::Ended };
        }
        match self.is_over() {
            Some(true) => Liveness::Ended,
            Some(false) => Liveness::Active,
            None if age < staleness.fresh => Liveness::Active,
            None => Liveness::Suspect,
        }
    }

    /// Returns true when the announcement was renewed since `before` was read.
    pub fn has_moved_since(&self, before: &Announced) -> bool {
        let beat = |announced: &Announced| announced.heartbeat.as_ref().map(|heartbeat| heartbeat.beat);
        self.at != before.at || beat(self) != beat(before)
    }

    /// Returns the operation for messages: `a backup on db1`.
    pub fn describe(&self) -> String {
        match &self.heartbeat {
            Some(heartbeat) => format!("a {} on {}", heartbeat.operation, heartbeat.host),
            None => format!("the unreadable announcement {}", self.name),
        }
    }
}

/// Backups whose records may be missing although notes of verifications name them, by the
/// announcements of running and of killed operations.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Explained {
    /// Backups that prunes remove, or were removing.
    removing: BTreeSet<String>,
    /// Backups about which verifications write notes, or were writing them: a prune may have
    /// removed the backup just before.
    noting: BTreeSet<String>,
}

impl Explained {
    /// Adds what an announcement names.
    pub fn add(&mut self, announced: &Announced) {
        if let Some(heartbeat) = &announced.heartbeat {
            self.removing.extend(heartbeat.removing.iter().cloned());
            self.noting.extend(heartbeat.noting.iter().cloned());
        }
    }

    /// Returns true when the missing record of a backup is not a loss. `has_own_part`: the backup
    /// has a manifest part that no record names, which the prune would have removed.
    pub fn explains(&self, id: &str, has_own_part: bool) -> bool {
        self.removing.contains(id) || self.noting.contains(id) && !has_own_part
    }
}

impl Archive {
    /// Reads what the announcements explain.
    pub fn explained(&self) -> Result<Explained> {
        let mut explained = Explained::default();
        self.announced()?.iter().for_each(|announced| explained.add(announced));
        Ok(explained)
    }

    /// Reads all announcements.
    pub fn announced(&self) -> Result<Vec<Announced>> {
        let mut found = Vec::new();
        self.each_named(key::ACTIVE, |name, listed| {
            let ObjectName::Active(last) = &name else {
                return Ok(());
            };
            let heartbeat = match self.get_small(&name, ObjectKind::Active) {
                Ok(None) => return Ok(()),
                Ok(heartbeat) => heartbeat,
                Err(error) if error.kind() == Kind::Damage => None,
                Err(error) => return Err(error),
            };
            found.push(Announced { name: last.clone(), at: listed.modified, heartbeat });
            Ok(())
        })?;
        Ok(found)
    }

    /// Returns true when an operation that has announced that it needs backup `id` may rely on it:
    /// the backup is listed, and no prune removes it. A prune announces what it removes and then
    /// reads the announcements of the others, so at least one of the two sees the other.
    pub fn may_need(&self, id: &str) -> Result<bool> {
        Ok(!self.announced()?.iter().any(|other| other.is_removing(id)) && self.record(id)?.is_some())
    }

    /// Watches announcements. Returns the names of the ones that did not change meanwhile.
    pub fn watch(&self, suspects: &[Announced], staleness: &Staleness) -> Result<BTreeSet<String>> {
        let begun = MonotonicTime::now();
        let mut still: Vec<&Announced> = suspects.iter().collect();
        while !still.is_empty() && begun.elapsed() < staleness.watch {
            let rest = staleness.watch.saturating_sub(begun.elapsed());
            thread::sleep((staleness.watch / 8).min(rest));
            let now = self.announced()?;
            still.retain(|before| {
                now.iter().any(|after| after.name == before.name && !after.has_moved_since(before))
            });
        }
        Ok(still.into_iter().map(|announced| announced.name.clone()).collect())
    }

    /// Removes the announcement of an operation that has ended or is stale. A backup that may still
    /// run is fenced first, so that it can no longer be recorded. Returns false when the backup was
    /// recorded meanwhile.
    pub fn remove_stale(&self, announced: &Announced, liveness: Liveness) -> Result<bool> {
        let backup = announced.heartbeat.as_ref().and_then(|heartbeat| heartbeat.backup.as_deref());
        let is_fenced = match (liveness, backup) {
            (Liveness::Ended, _) | (_, None) => true,
            (_, Some(id)) => self.fence(id)?,
        };
        self.remove(&[ObjectName::Active(announced.name.clone())])?;
        Ok(is_fenced)
    }
}

/// The announcement of an operation of this process. A thread renews it; dropping this value
/// removes it.
#[must_use = "the operation is announced only while this value exists"]
pub struct Announcement {
    shared: Arc<Shared>,
    /// The last part of its key.
    name: String,
    thread: Option<Thread<()>>,
}

struct Shared {
    archive: Archive,
    object: ObjectName,
    /// Locked while the announcement is written to the repository.
    heartbeat: Mutex<Heartbeat>,
    /// Never locked while the repository is accessed, so that `check` does not wait for it.
    state: Mutex<BeatState>,
    wake: Condition,
}

struct BeatState {
    /// Time of the last renewal.
    renewed: MonotonicTime,
    /// True when another process removed the announcement.
    is_removed: bool,
    is_over: bool,
}

impl Announcement {
    /// Announces an operation, durably. `random` makes the name unique.
    ///
    /// # Errors
    ///
    /// [`Kind::Conflict`] when the name is taken.
    pub fn begin(archive: &Archive, heartbeat: Heartbeat, random: &str) -> Result<Announcement> {
        let name = format!("{}-{random}", heartbeat.operation);
        let object = ObjectName::Active(name.clone());
        if archive.put_small(&object, ObjectKind::Active, &heartbeat, Mode::Create)? == Put::Exists {
            return Err(Error::new(Kind::Conflict, format!("{object} exists already")));
        }
        let shared = Arc::new(Shared {
            archive: archive.clone(),
            object,
            heartbeat: Mutex::new(heartbeat),
            state: Mutex::new(BeatState { renewed: MonotonicTime::now(), is_removed: false, is_over: false }),
            wake: Condition::new(),
        });
        let renewing = Arc::clone(&shared);
        match thread::spawn("heartbeat", move || renewing.renew()) {
            Ok(thread) => Ok(Announcement { shared, name, thread: Some(thread) }),
            Err(error) => {
                archive.remove(std::slice::from_ref(&shared.object))?;
                Err(error)
            }
        }
    }

    /// The name of the announcement in [`Archive::announced`].
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Changes the announcement. The change is visible to every host when this returns.
    pub fn update(&self, change: impl FnOnce(&mut Heartbeat)) -> Result<()> {
        let mut heartbeat = self.shared.heartbeat.lock();
        change(&mut heartbeat);
        self.shared.write(&mut heartbeat)
    }

    /// Returns the time of the store, after a renewal of the announcement.
    pub fn time(&self) -> Result<jiff::Timestamp> {
        self.update(|_| {})?;
        self.shared.archive.stored_at(&self.shared.object)?.ok_or_else(removed)
    }

    /// Checks in the repository that the announcement still exists. Called right before an
    /// irreversible step.
    pub fn confirm(&self) -> Result<()> {
        if self.shared.archive.stored_at(&self.shared.object)?.is_none() {
            self.shared.state.lock().is_removed = true;
        }
        self.check()
    }

    /// Checks, without a request, that the operation is still protected.
    ///
    /// # Errors
    ///
    /// [`Kind::Refused`] when another process removed the announcement, [`Kind::Unavailable`] when
    /// it could not be renewed for 15 minutes.
    pub fn check(&self) -> Result<()> {
        let state = self.shared.state.lock();
        if state.is_removed {
            return Err(removed());
        }
        if state.renewed.elapsed() > MAX_SILENCE {
            let minutes = MAX_SILENCE.as_secs() / 60;
            return Err(Error::new(
                Kind::Unavailable,
                format!("the heartbeat of this operation could not be renewed for {minutes} minutes"),
            ));
        }
        Ok(())
    }

    /// Ends a restore and keeps its announcement for the lease: the backup was read, but recovery
    /// still needs WAL.
    pub fn leave(mut self) -> Result<()> {
        self.stop();
        self.update(|heartbeat| {
            heartbeat.needs.clear();
            heartbeat.left = true;
        })
    }

    /// Ends the heartbeat and keeps the announcement: the operation failed in the middle, and the
    /// next prune finishes its work.
    pub fn abandon(mut self) {
        self.stop();
        // Not written: without heartbeats it counts as ended.
        self.shared.heartbeat.lock().left = true;
    }

    fn stop(&mut self) {
        self.shared.state.lock().is_over = true;
        self.shared.wake.notify_all();
        if let Some(thread) = self.thread.take() {
            // A panic of this thread would change nothing here.
            let _ = thread.join();
        }
    }
}

impl Drop for Announcement {
    fn drop(&mut self) {
        self.stop();
        if !self.shared.heartbeat.lock().left {
            // If this fails, the next prune finds that the process has ended, and removes it.
            let _ = self.shared.archive.remove(std::slice::from_ref(&self.shared.object));
        }
    }
}

impl Shared {
    fn renew(&self) {
        loop {
            let mut state = self.state.lock();
            self.wake.wait_while(&mut state, |state| !state.is_over, HEARTBEAT_INTERVAL);
            if state.is_over || state.is_removed {
                return;
            }
            drop(state);
            let mut heartbeat = self.heartbeat.lock();
            // An outage may pass; if it lasts, `check` fails the operation.
            let _ = self.write(&mut heartbeat);
        }
    }

    fn write(&self, heartbeat: &mut Heartbeat) -> Result<()> {
        let is_removed = self.state.lock().is_removed;
        if is_removed || self.archive.stored_at(&self.object)?.is_none() {
            self.state.lock().is_removed = true;
            return Err(removed());
        }
        heartbeat.beat += 1;
        let _ = self.archive.put_small(&self.object, ObjectKind::Active, heartbeat, Mode::Replace)?;
        self.state.lock().renewed = MonotonicTime::now();
        Ok(())
    }
}

fn removed() -> Error {
    Error::new(Kind::Refused, "the announcement of this operation was removed: a prune considered it stale")
        .hint("was this machine suspended, or the repository unreachable? start again")
}
