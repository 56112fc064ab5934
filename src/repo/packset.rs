//! A set of packs as runs of numbers. Knows nothing of the content of packs.

use super::name::ObjectName;
use crate::error::{Error, Kind, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::ops::RangeInclusive;

/// A set of packs: the packs that a backup names, its own ones and ones of earlier backups. Memory
/// grows with the number of runs. The JSON is an object of backup ids, each with its runs `[first,
/// last]`, sorted and apart.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Runs", into = "Runs")]
pub struct PackSet(Runs);

type Runs = BTreeMap<String, Vec<(u32, u32)>>;

impl From<PackSet> for Runs {
    fn from(packs: PackSet) -> Runs {
        packs.0
    }
}

impl TryFrom<Runs> for PackSet {
    type Error = String;

    fn try_from(all: Runs) -> std::result::Result<PackSet, String> {
        for (id, runs) in &all {
            let are_ordered = runs.iter().all(|run| run.0 <= run.1);
            let are_apart = runs.windows(2).all(|pair| matches!(pair, [a, b] if a.1 < b.0));
            if !are_ordered || !are_apart {
                return Err(format!("the packs of {} are not sorted runs", id.escape_debug()));
            }
        }
        Ok(PackSet(all))
    }
}

impl PackSet {
    /// Adds a pack by its key, relative to the archive.
    ///
    /// # Errors
    ///
    /// [`Kind::Damage`] when the key is not the key of a pack.
    pub fn insert(&mut self, key: &str) -> Result<()> {
        let Some(ObjectName::Pack(id, number)) = ObjectName::parse(key) else {
            let what = format!("`{}` is not the key of a pack", key.escape_debug());
            return Err(Error::new(Kind::Damage, what));
        };
        self.add(&id, number, number);
        Ok(())
    }

    /// Adds the packs of another set.
    pub fn extend(&mut self, other: &PackSet) {
        for (id, added) in &other.0 {
            let runs = self.0.entry(id.clone()).or_default();
            runs.extend_from_slice(added);
            merge(runs);
        }
    }

    fn add(&mut self, id: &str, first: u32, last: u32) {
        // Numbers usually come in order, so they usually belong to the last run.
        let runs = match self.0.get_mut(id) {
            Some(runs) => runs,
            None => self.0.entry(id.to_owned()).or_default(),
        };
        match runs.last_mut() {
            Some(run) if run.0 <= first && first <= run.1.saturating_add(1) => run.1 = run.1.max(last),
            Some(run) if first < run.0 => {
                runs.push((first, last));
                merge(runs);
            }
            _ => runs.push((first, last)),
        }
    }

    pub fn contains(&self, id: &str, number: u32) -> bool {
        let Some(runs) = self.0.get(id) else {
            return false;
        };
        let behind = runs.partition_point(|run| run.0 <= number);
        behind > 0 && runs.get(behind - 1).is_some_and(|run| number <= run.1)
    }

    /// Iterates over the runs: a backup, its first and its last pack. A run of a damaged record may
    /// have billions of numbers, so they are never walked: see `data::named`.
    pub fn runs(&self) -> impl Iterator<Item = (&str, RangeInclusive<u32>)> {
        self.0.iter().flat_map(|(id, runs)| runs.iter().map(move |run| (id.as_str(), run.0..=run.1)))
    }

    /// Returns the number of packs.
    pub fn len(&self) -> u64 {
        let numbers = |run: &(u32, u32)| u64::from(run.1 - run.0) + 1;
        self.0.values().flatten().map(numbers).fold(0, u64::saturating_add)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Sorts runs and joins adjacent and overlapping ones.
fn merge(runs: &mut Vec<(u32, u32)>) {
    runs.sort_unstable();
    let mut merged: Vec<(u32, u32)> = Vec::with_capacity(runs.len());
    for (first, last) in runs.drain(..) {
        match merged.last_mut() {
            Some(run) if first <= run.1.saturating_add(1) => run.1 = run.1.max(last),
            _ => merged.push((first, last)),
        }
    }
    *runs = merged;
}
