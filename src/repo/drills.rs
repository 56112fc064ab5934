//! The results of the last drills, in one object, so that reading them takes one request.
//!
//! They are evidence and not truth, like the notes of verifications. Two drills on different hosts
//! that end at the same moment may overwrite each other; reading the object again after writing
//! makes that rare.

use super::Archive;
use super::name::ObjectName;
use super::process::host;
use crate::codec::envelope::ObjectKind;
use crate::error::{Doing, Error, Kind, Result};
use crate::pg::lsn::Lsn;
use crate::storage::Mode;
use serde::{Deserialize, Serialize};

/// Maximum number of drills that are kept.
const MAX_DRILLS: usize = 200;

/// Maximum number of writes while other drills keep overwriting the object.
const MAX_ATTEMPTS: u32 = 3;

/// The result of a drill.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The backup restores, recovers to the expected position, and all of it can be read.
    Proved,
    /// The backup does not restore, does not recover to that position, or cannot be read.
    Refuted,
    /// The drill failed for another reason, such as a full disk.
    Unknown,
}

impl Outcome {
    pub fn as_str(self) -> &'static str {
        match self {
            Outcome::Proved => "proved",
            Outcome::Refuted => "refuted",
            Outcome::Unknown => "unknown",
        }
    }
}

/// The choice of the backup and of the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Chosen {
    /// Chosen by name, or for a target.
    Named,
    Newest,
    Oldest,
    Pinned,
    /// Chosen for a random moment of the window.
    Moment,
}

/// One check of a drill.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    pub name: String,
    /// `None` when it was not done.
    pub ok: Option<bool>,
    pub detail: String,
}

impl Check {
    /// Returns a check that found nothing wrong.
    pub fn passed(name: &str, detail: impl Into<String>) -> Check {
        Check { name: name.to_owned(), ok: Some(true), detail: detail.into() }
    }

    /// Returns a check that found a problem.
    pub fn failed(name: &str, detail: impl Into<String>) -> Check {
        Check { name: name.to_owned(), ok: Some(false), detail: detail.into() }
    }

    /// Returns a check that was not done; `detail` is the reason.
    pub fn not_done(name: &str, detail: impl Into<String>) -> Check {
        Check { name: name.to_owned(), ok: None, detail: detail.into() }
    }
}

/// One drill.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Drill {
    /// `None` when no backup could be chosen.
    pub backup: Option<String>,
    pub chosen: Chosen,
    /// `end`, `immediate`, an LSN or a time.
    pub target: String,
    pub outcome: Outcome,
    pub host: String,
    pub begun: jiff::Timestamp,
    pub ended: jiff::Timestamp,
    /// Bytes that were restored.
    pub bytes: u64,
    /// Number of segments to replay.
    pub segments: u64,
    pub expected_lsn: Option<Lsn>,
    pub reached_lsn: Option<Lsn>,
    pub restore_seconds: Option<f64>,
    pub recovery_seconds: Option<f64>,
    pub check_seconds: Option<f64>,
    pub checks: Vec<Check>,
}

impl Drill {
    /// Returns a drill that begins now on this host, with nothing found yet.
    pub fn begin(backup: Option<String>, chosen: Chosen, target: String, now: jiff::Timestamp) -> Drill {
        Drill {
            backup,
            chosen,
            target,
            outcome: Outcome::Unknown,
            host: host(),
            begun: now,
            ended: now,
            bytes: 0,
            segments: 0,
            expected_lsn: None,
            reached_lsn: None,
            restore_seconds: None,
            recovery_seconds: None,
            check_seconds: None,
            checks: Vec::new(),
        }
    }

    /// Compares host and times alone: the floating-point seconds may change in JSON.
    fn is(&self, other: &Drill) -> bool {
        (&self.host, self.begun, self.ended) == (&other.host, other.begun, other.ended)
    }
}

/// Returns the last drill of a backup, out of drills that are given oldest first.
pub fn last_of<'a>(drills: &'a [Drill], backup: &str) -> Option<&'a Drill> {
    drills.iter().rev().find(|drill| drill.backup.as_deref() == Some(backup))
}

#[derive(Default, Serialize, Deserialize)]
struct DrillHistory {
    /// Oldest first.
    drills: Vec<Drill>,
}

impl Archive {
    /// Reads the last drills, oldest first.
    pub fn drills(&self) -> Result<Vec<Drill>> {
        let history: Option<DrillHistory> = self.get_small(&ObjectName::Drills, ObjectKind::Drill)?;
        Ok(history.unwrap_or_default().drills)
    }

    /// Adds a drill. A damaged object is replaced.
    ///
    /// # Errors
    ///
    /// [`Kind::Unavailable`] when other drills kept overwriting the object.
    pub fn remember_drill(&self, drill: &Drill) -> Result<()> {
        let doing = || "remember the drill".to_owned();
        for _ in 0..MAX_ATTEMPTS {
            let mut drills = match self.drills() {
                Err(error) if error.kind() == Kind::Damage => Vec::new(),
                drills => drills.doing(doing)?,
            };
            drills.push(drill.clone());
            drills.sort_by_key(|drill| drill.ended);
            let drills = drills.split_off(drills.len().saturating_sub(MAX_DRILLS));
            let _ = self
                .put_small(&ObjectName::Drills, ObjectKind::Drill, &DrillHistory { drills }, Mode::Replace)
                .doing(doing)?;
            if self.drills().doing(doing)?.iter().any(|other| other.is(drill)) {
                return Ok(());
            }
        }
        Err(Error::new(Kind::Unavailable, "the history kept changing while it was written").doing(doing()))
    }
}
