//! What lies under `data/`: packs and parts of manifests by backup, and which packs a backup names.

use super::manifest;
use super::name::ObjectName;
use super::record::Record;
use super::{Archive, key};
use crate::error::{Error, Kind, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The packs that a backup names, its own and those of earlier backups. Takes memory by runs of numbers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PackSet(BTreeMap<String, Vec<(u32, u32)>>);

impl PackSet {
    /// Adds a pack by its key, relative to the archive.
    pub fn insert(&mut self, key: &str) -> Result<()> {
        match ObjectName::parse(key) {
            Some(ObjectName::Pack(id, number)) => self.add(&id, number, number),
            _ => {
                return Err(Error::new(
                    Kind::Damage,
                    format!("`{}` is no key of a pack", key.escape_debug()),
                ));
            }
        }
        Ok(())
    }

    pub fn extend(&mut self, other: &PackSet) {
        for (id, runs) in &other.0 {
            runs.iter().for_each(|(first, last)| self.add(id, *first, *last));
        }
    }

    fn add(&mut self, id: &str, first: u32, last: u32) {
        // Numbers come in order, mostly; so the run that they belong to is the last one, mostly.
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

    /// Every pack, by backup and number.
    pub fn iter(&self) -> impl Iterator<Item = (&str, u32)> {
        self.0.iter().flat_map(|(id, runs)| {
            runs.iter()
                .flat_map(move |(first, last)| (*first..=*last).map(move |number| (id.as_str(), number)))
        })
    }

    pub fn len(&self) -> u64 {
        self.0.values().flatten().map(|(first, last)| u64::from(last - first) + 1).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Sorts runs and joins those that touch.
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

/// What one backup stored: number and size of each object.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Data {
    pub manifests: BTreeMap<u32, u64>,
    pub packs: BTreeMap<u32, u64>,
}

impl Data {
    pub fn bytes(&self) -> u64 {
        self.manifests.values().chain(self.packs.values()).sum()
    }
}

/// Bytes of `data/` that would be free if a backup were removed and all others stayed, for each of them. `named`: the
/// packs that each names.
pub fn exclusive(records: &[Record], named: &[PackSet], data: &BTreeMap<String, Data>) -> Vec<u64> {
    fn add<K: Ord>(users: &mut BTreeMap<K, Option<usize>>, object: K, user: usize) {
        let shared = |known: &mut Option<usize>| *known = known.filter(|known| *known == user);
        users.entry(object).and_modify(shared).or_insert(Some(user));
    }
    let mut packs = BTreeMap::new();
    let mut manifests = BTreeMap::new();
    for (index, (record, named)) in records.iter().zip(named).enumerate() {
        named.iter().for_each(|pack| add(&mut packs, pack, index));
        record.manifest_objects().for_each(|part| add(&mut manifests, (part.key.as_str(), part.size), index));
    }
    let size = |(id, number): (&str, u32)| data.get(id)?.packs.get(&number).copied();
    let packs = packs.into_iter().map(|(pack, user)| (size(pack).unwrap_or_default(), user));
    let manifests = manifests.into_iter().map(|((_, size), user)| (size, user));
    let mut free = vec![0; records.len()];
    for (size, user) in packs.chain(manifests) {
        if let Some(free) = user.and_then(|user| free.get_mut(user)) {
            *free += size;
        }
    }
    free
}

/// Bytes that the manifests of backups take, those included by which others are told.
pub fn manifest_bytes<'a>(records: impl IntoIterator<Item = &'a Record>) -> u64 {
    let objects = records.into_iter().flat_map(Record::manifest_objects);
    let sizes: BTreeMap<&str, u64> = objects.map(|part| (part.key.as_str(), part.size)).collect();
    sizes.values().sum()
}

impl Archive {
    /// Everything under `data/` that is ours, by backup.
    pub fn data(&self) -> Result<BTreeMap<String, Data>> {
        let mut found: BTreeMap<String, Data> = BTreeMap::new();
        self.each(key::DATA, |entry| {
            let (id, number, is_pack) = match self.name_of(&entry.key) {
                Some(ObjectName::Pack(id, number)) => (id, number, true),
                Some(ObjectName::Manifest(id, number)) => (id, number, false),
                _ => return Ok(()),
            };
            let data = found.entry(id).or_default();
            let objects = if is_pack { &mut data.packs } else { &mut data.manifests };
            objects.insert(number, entry.size);
            Ok(())
        })?;
        Ok(found)
    }

    /// The backups that stored anything and are later by name than this one, in order, so many at most.
    pub fn data_after(&self, id: Option<&str>, limit: usize) -> Result<Vec<String>> {
        let mut found: Vec<String> = id.map(str::to_owned).into_iter().collect();
        while found.len() <= limit {
            let Some(id) = self.first_data_after(found.last().map(String::as_str))? else {
                break;
            };
            found.push(id);
        }
        found.retain(|found| Some(found.as_str()) != id);
        Ok(found)
    }

    /// The packs that a backup names: from its record, or from the manifest where a record does not say it.
    pub fn packs_of(&self, record: &Record) -> Result<PackSet> {
        if let Some(packs) = &record.packs {
            return Ok(packs.clone());
        }
        let mut packs = PackSet::default();
        manifest::read(self, record, |part| part.packs.iter().try_for_each(|key| packs.insert(key)))?;
        Ok(packs)
    }
}
