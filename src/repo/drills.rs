//! What drills found: the last of them, in one object, so that it takes one request to read.
//!
//! It is evidence and not truth, as what verifications remember. Two drills of different hosts that end at one
//! moment may write over each other; the second look makes that rare.

use super::Archive;
use super::name::ObjectName;
use crate::codec::envelope::ObjectKind;
use crate::error::{Doing, Error, Kind, Result};
use crate::pg::lsn::Lsn;
use crate::storage::Mode;
use serde::{Deserialize, Serialize};

/// How many are remembered.
const KEPT: usize = 200;

/// How often it is written again when somebody else wrote over it.
const ATTEMPTS: u32 = 3;

/// How a drill ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The backup restores, recovers to where it should, and everything in it can be read.
    Proved,
    /// It does not.
    Refuted,
    /// Something else was in the way.
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

/// Which backup was taken, and to where it was recovered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Chosen {
    /// By its name, or for a target.
    Named,
    Newest,
    Oldest,
    Pinned,
    /// A random moment of the window.
    Moment,
}

/// One thing that a drill looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    pub name: String,
    /// `None`: it was not done.
    pub ok: Option<bool>,
    pub detail: String,
}

/// One drill.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Drill {
    /// `None`: none could be chosen.
    pub backup: Option<String>,
    pub chosen: Chosen,
    /// `end`, `immediate`, an LSN or a time.
    pub target: String,
    pub outcome: Outcome,
    pub host: String,
    pub begun: jiff::Timestamp,
    pub ended: jiff::Timestamp,
    /// What was restored.
    pub bytes: u64,
    /// The WAL that was to be replayed, in segments.
    pub segments: u64,
    pub expected_lsn: Option<Lsn>,
    pub reached_lsn: Option<Lsn>,
    pub restore_seconds: Option<f64>,
    pub recovery_seconds: Option<f64>,
    pub check_seconds: Option<f64>,
    pub checks: Vec<Check>,
}

impl Drill {
    /// Whether it is that one. Its seconds do not come out of JSON to the last bit.
    fn is(&self, other: &Drill) -> bool {
        (&self.host, self.begun, self.ended) == (&other.host, other.begun, other.ended)
    }
}

#[derive(Default, Serialize, Deserialize)]
struct History {
    /// Oldest first.
    drills: Vec<Drill>,
}

impl Archive {
    /// The last drills, oldest first.
    pub fn drills(&self) -> Result<Vec<Drill>> {
        let history: Option<History> = self.get_small(&ObjectName::Drills, ObjectKind::Drill)?;
        Ok(history.unwrap_or_default().drills)
    }

    /// Remembers a drill. A history that cannot be understood is begun anew.
    pub fn remember_drill(&self, drill: &Drill) -> Result<()> {
        let doing = || "remember the drill".to_owned();
        for _ in 0..ATTEMPTS {
            let mut drills = match self.drills() {
                Err(error) if error.kind() == Kind::Damage => Vec::new(),
                drills => drills.doing(doing)?,
            };
            drills.push(drill.clone());
            drills.sort_by_key(|drill| drill.ended);
            let drills = drills.split_off(drills.len().saturating_sub(KEPT));
            let _ = self
                .put_small(&ObjectName::Drills, ObjectKind::Drill, &History { drills }, Mode::Replace)
                .doing(doing)?;
            if self.drills().doing(doing)?.iter().any(|other| other.is(drill)) {
                return Ok(());
            }
        }
        Err(Error::new(Kind::Unavailable, "others write there all the time").doing(doing()))
    }
}
