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

/// Maximum number of segments that are read from one run; the rest of a longer run is ignored.
const MAX_RUN: u64 = 1 << 24;

/// Times at which packs were read to their end: runs of numbers by backup.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct VerifiedPacks(BTreeMap<String, Vec<(u32, u32, Timestamp)>>);

/// Times at which segments were read to their end: runs without a hole.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct VerifiedWal(Vec<(SegmentName, SegmentName, Timestamp)>);

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
        let runs = self.0.get(id)?;
        runs.iter().find(|(first, last, _)| (*first..=*last).contains(&number)).map(|run| run.2)
    }

    /// Collects packs into runs. They are given in the order of their names.
    pub fn collect<'p>(packs: impl Iterator<Item = (&'p str, u32, Timestamp)>) -> VerifiedPacks {
        let mut runs: BTreeMap<String, Vec<(u32, u32, Timestamp)>> = BTreeMap::new();
        for (id, number, at) in packs {
            let runs = runs.entry(id.to_owned()).or_default();
            match runs.last_mut() {
                Some(run) if run.1 + 1 == number && run.2 == at => run.1 = number,
                _ => runs.push((number, number, at)),
            }
        }
        VerifiedPacks(runs)
    }
}

impl VerifiedWal {
    /// Returns every segment with the time at which it was read.
    pub fn segments(&self, size: SegmentSize) -> BTreeMap<SegmentName, Timestamp> {
        let mut all = BTreeMap::new();
        for (first, last, at) in &self.0 {
            let numbers = first.number(size)..=last.number(size).min(first.number(size) + MAX_RUN);
            all.extend(numbers.map(|number| (SegmentName::of_number(first.timeline, number, size), *at)));
        }
        all
    }

    /// Collects segments into runs.
    pub fn collect(segments: &BTreeMap<SegmentName, Timestamp>, size: SegmentSize) -> VerifiedWal {
        let mut runs: Vec<(SegmentName, SegmentName, Timestamp)> = Vec::new();
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
