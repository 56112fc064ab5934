//! The notes of verifications: which objects need not be read again soon, and which objects existed
//! and may be missing now. They are evidence and not truth: without them everything is read, and
//! nothing else changes.

use super::catalog::Gap;
use super::name::ObjectName;
use super::object::is_about_the_object;
use super::{Archive, key};
use crate::codec::envelope::ObjectKind;
use crate::error::Result;
use crate::pg::lsn::Lsn;
use crate::pg::segment::{SegmentName, SegmentSize};
use crate::storage::Mode;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Times at which packs were read to their end: runs of numbers by backup, sorted and apart.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "PackRuns", into = "PackRuns")]
pub struct VerifiedPacks(PackRuns);

type PackRuns = BTreeMap<String, Vec<(u32, u32, Timestamp)>>;

/// Times at which segments were read to their end: runs without a hole, sorted and apart. A run of a
/// damaged note may have billions of segments, so runs are never walked.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "WalRuns", into = "WalRuns")]
pub struct VerifiedWal(WalRuns);

type WalRuns = Vec<(SegmentName, SegmentName, Timestamp)>;

/// Whether runs are ordered and do not overlap.
fn are_apart<N: Ord>(runs: &[(N, N, Timestamp)]) -> bool {
    runs.iter().all(|run| run.0 <= run.1) && runs.windows(2).all(|pair| matches!(pair, [a, b] if a.1 < b.0))
}

/// Returns the time of the run that has a number or segment.
fn time_of<N: Ord>(runs: &[(N, N, Timestamp)], name: &N) -> Option<Timestamp> {
    let behind = runs.partition_point(|run| run.0 <= *name);
    let run = runs.get(behind.checked_sub(1)?)?;
    (*name <= run.1).then_some(run.2)
}

impl From<VerifiedPacks> for PackRuns {
    fn from(packs: VerifiedPacks) -> PackRuns {
        packs.0
    }
}

impl TryFrom<PackRuns> for VerifiedPacks {
    type Error = &'static str;

    fn try_from(all: PackRuns) -> std::result::Result<VerifiedPacks, &'static str> {
        if all.values().all(|runs| are_apart(runs)) { Ok(VerifiedPacks(all)) } else { Err("runs overlap") }
    }
}

impl From<VerifiedWal> for WalRuns {
    fn from(wal: VerifiedWal) -> WalRuns {
        wal.0
    }
}

impl TryFrom<WalRuns> for VerifiedWal {
    type Error = &'static str;

    fn try_from(runs: WalRuns) -> std::result::Result<VerifiedWal, &'static str> {
        let is_line = runs.iter().all(|run| run.0.timeline == run.1.timeline);
        if is_line && are_apart(&runs) { Ok(VerifiedWal(runs)) } else { Err("runs overlap") }
    }
}

/// Seams in the WAL: segments that do not continue the one before, each with the position up to
/// which recovery gets.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct FoundSeams(pub Vec<(SegmentName, Lsn)>);

/// The note about one backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerifiedBackup {
    pub at: Timestamp,
    /// Keys of damaged objects.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<String>,
}

/// Gaps that existed when a good backup behind them was recorded, so that this backup has dealt with
/// them. A gap that appears later is not among them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct KnownGaps(pub Vec<Gap>);

impl KnownGaps {
    /// Whether every segment of a gap was missing then.
    pub fn cover(&self, gap: &Gap) -> bool {
        self.0
            .iter()
            .any(|known| known.timeline == gap.timeline && known.first <= gap.first && gap.last <= known.last)
    }
}

impl VerifiedPacks {
    /// Returns the time at which a pack was read; `None` when it was not read.
    pub fn at(&self, id: &str, number: u32) -> Option<Timestamp> {
        time_of(self.0.get(id)?, &number)
    }

    /// Collects packs into runs. They are given in the order of their names.
    pub fn collect<'p>(packs: impl Iterator<Item = (&'p str, u32, Timestamp)>) -> VerifiedPacks {
        let mut runs = PackRuns::new();
        for (id, number, at) in packs {
            let runs = runs.entry(id.to_owned()).or_default();
            match runs.last_mut() {
                Some(run) if run.1.checked_add(1) == Some(number) && run.2 == at => run.1 = number,
                _ => runs.push((number, number, at)),
            }
        }
        VerifiedPacks(runs)
    }
}

impl VerifiedWal {
    /// Returns the time at which a segment was read; `None` when it was not read.
    pub fn at(&self, name: SegmentName) -> Option<Timestamp> {
        time_of(&self.0, &name)
    }

    /// Iterates over the runs: first and last segment of each.
    pub fn runs(&self) -> impl Iterator<Item = (SegmentName, SegmentName)> {
        self.0.iter().map(|run| (run.0, run.1))
    }

    /// Whether a segment from `first` to `last` was read.
    pub fn has_any(&self, first: SegmentName, last: SegmentName) -> bool {
        let behind = self.0.partition_point(|run| run.1 < first);
        self.0.get(behind).is_some_and(|run| run.0 <= last)
    }

    /// Collects segments into runs.
    pub fn collect(segments: &BTreeMap<SegmentName, Timestamp>, size: SegmentSize) -> VerifiedWal {
        let mut runs = WalRuns::new();
        for (name, at) in segments {
            match runs.last_mut() {
                Some(run) if run.1.next(size) == *name && run.2 == *at => run.1 = *name,
                _ => runs.push((*name, *name, *at)),
            }
        }
        VerifiedWal(runs)
    }
}

impl Archive {
    /// Returns the seams that verifications have found. A damaged note counts as empty: it is only
    /// evidence.
    pub fn seams(&self) -> Result<FoundSeams> {
        match self.memory(&ObjectName::Seams) {
            Err(error) if is_about_the_object(&error) => Ok(FoundSeams::default()),
            seams => Ok(seams?.unwrap_or_default()),
        }
    }

    /// Lists the backups that a verification has seen; true when it found damage.
    pub fn remembered(&self) -> Result<BTreeMap<String, bool>> {
        let mut found = BTreeMap::new();
        self.each_named(key::VERIFY, |name, _| {
            match name {
                ObjectName::FoundDamaged(id) => {
                    found.insert(id, true);
                }
                ObjectName::Verified(id) => {
                    found.entry(id).or_insert(false);
                }
                _ => {}
            }
            Ok(())
        })?;
        Ok(found)
    }

    /// Reads a note; `None` when it does not exist.
    pub fn memory<T: serde::de::DeserializeOwned>(&self, name: &ObjectName) -> Result<Option<T>> {
        self.get_small(name, ObjectKind::Verify)
    }

    /// Writes a note.
    pub fn remember(&self, name: &ObjectName, memory: &impl Serialize) -> Result<()> {
        self.put_small(name, ObjectKind::Verify, memory, Mode::Replace).map(|_| ())
    }
}
