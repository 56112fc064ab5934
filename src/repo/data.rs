//! The objects below `data/`: packs and parts of manifests, by backup.

use super::name::ObjectName;
use super::packset::PackSet;
use super::record::Record;
use super::{Archive, key};
use crate::codec::envelope::{HEADER_SIZE, Header, ObjectKind};
use crate::error::{Doing, Error, Kind, Result};
use crate::storage::{Body, Put};
use std::collections::BTreeMap;

/// The objects that one backup stored, by number, with the bytes of each.
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

/// Packs that a set names, compared with a listing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NamedPacks<'a> {
    /// Backup, number and size of a pack that is listed.
    Listed(&'a str, u32, u64),
    /// Backup, and first and last number of packs that are not.
    Missing(&'a str, u32, u32),
}

/// Compares the packs of a set with a listing, by backup and number. Bounded by the listing and the
/// runs of the set, whatever numbers these have.
pub fn named<'a>(
    packs: &'a PackSet,
    listed: &'a BTreeMap<String, Data>,
) -> impl Iterator<Item = NamedPacks<'a>> {
    packs.runs().flat_map(move |(id, run)| {
        let mut found = Vec::new();
        let mut next = Some(*run.start());
        for (number, size) in listed.get(id).into_iter().flat_map(|data| data.packs.range(run.clone())) {
            if let Some(first) = next.filter(|first| first < number) {
                found.push(NamedPacks::Missing(id, first, number - 1));
            }
            found.push(NamedPacks::Listed(id, *number, *size));
            next = number.checked_add(1);
        }
        if let Some(first) = next.filter(|first| first <= run.end()) {
            found.push(NamedPacks::Missing(id, first, *run.end()));
        }
        found
    })
}

/// Returns the sizes of the packs of a set that are listed.
pub fn named_bytes(packs: &PackSet, listed: &BTreeMap<String, Data>) -> u64 {
    let size = |pack| match pack {
        NamedPacks::Listed(_, _, size) => size,
        NamedPacks::Missing(..) => 0,
    };
    named(packs, listed).map(size).fold(0, u64::saturating_add)
}

/// Returns for each backup the bytes of `data/` that removing this backup alone would free.
/// `sets`: the packs that each record names, in the order of `records`.
pub fn exclusive(records: &[Record], sets: &[PackSet], data: &BTreeMap<String, Data>) -> Vec<u64> {
    fn add<K: Ord>(users: &mut BTreeMap<K, Option<usize>>, object: K, user: usize) {
        let shared = |known: &mut Option<usize>| *known = known.filter(|known| *known == user);
        users.entry(object).and_modify(shared).or_insert(Some(user));
    }
    let mut packs = BTreeMap::new();
    let mut manifests = BTreeMap::new();
    for (index, (record, set)) in records.iter().zip(sets).enumerate() {
        for pack in named(set, data) {
            // A pack that is missing takes nothing; `verify` reports it.
            if let NamedPacks::Listed(id, number, size) = pack {
                add(&mut packs, (id, number, size), index);
            }
        }
        record.manifest_objects().for_each(|part| add(&mut manifests, (part.key.as_str(), part.size), index));
    }
    let packs = packs.into_iter().map(|((_, _, size), user)| (size, user));
    let manifests = manifests.into_iter().map(|((_, size), user)| (size, user));
    let mut free = vec![0; records.len()];
    for (size, user) in packs.chain(manifests) {
        if let Some(free) = user.and_then(|user| free.get_mut(user)) {
            *free += size;
        }
    }
    free
}

/// Returns the bytes that the manifests of backups take, with the bases of their parts.
pub fn manifest_bytes<'a>(records: impl IntoIterator<Item = &'a Record>) -> u64 {
    let objects = records.into_iter().flat_map(Record::manifest_objects);
    let sizes: BTreeMap<&str, u64> = objects.map(|part| (part.key.as_str(), part.size)).collect();
    sizes.values().sum()
}

impl Archive {
    /// Lists packs and manifest parts by backup.
    pub fn data(&self) -> Result<BTreeMap<String, Data>> {
        let mut found: BTreeMap<String, Data> = BTreeMap::new();
        self.each_named(key::DATA, |name, listed| {
            let (id, number, is_pack) = match name {
                ObjectName::Pack(id, number) => (id, number, true),
                ObjectName::Manifest(id, number) => (id, number, false),
                _ => return Ok(()),
            };
            let data = found.entry(id).or_default();
            let objects = if is_pack { &mut data.packs } else { &mut data.manifests };
            objects.insert(number, listed.size);
            Ok(())
        })?;
        Ok(found)
    }

    /// Returns the ids of the next `limit` backups with objects below `data/`, in the order of ids:
    /// behind `id`, or from the first on without it.
    pub fn data_after(&self, id: Option<&str>, limit: usize) -> Result<Vec<String>> {
        let mut found: Vec<String> = Vec::new();
        while found.len() < limit {
            let Some(next) = self.first_data_after(found.last().map(String::as_str).or(id))? else {
                break;
            };
            found.push(next);
        }
        Ok(found)
    }

    fn first_data_after(&self, id: Option<&str>) -> Result<Option<String>> {
        let folder = self.base().join(key::DATA)?;
        // Behind all objects in the folder of the backup: in ASCII `0` follows `/`.
        let mut after = id.map(|id| self.base().join(format!("{}0", key::data(id)))).transpose()?;
        loop {
            let page = self.list(&folder, after.as_ref(), 1)?;
            let Some(listed) = page.entries.into_iter().next() else {
                return Ok(None);
            };
            if let Some(ObjectName::Pack(id, _) | ObjectName::Manifest(id, _)) = self.name_of(&listed.key) {
                return Ok(Some(id));
            }
            after = Some(listed.key);
        }
    }

    /// Lists the packs and manifest parts that a backup stored: keys relative to this archive, with
    /// sizes in bytes.
    pub fn stored_by(&self, id: &str) -> Result<Vec<(String, u64)>> {
        let mut found = Vec::new();
        self.each_named(&key::data(id), |name, listed| {
            if let ObjectName::Pack(..) | ObjectName::Manifest(..) = name {
                found.push((name.to_string(), listed.size));
            }
            Ok(())
        })?;
        Ok(found)
    }

    /// Stores an object below `data/` for a backup that is being made.
    pub fn put_data(&self, name: &str, object: &dyn Body) -> Result<()> {
        let key = self.base().join(key::data(name))?;
        match self.put(&key, object)? {
            Put::Stored => Ok(()),
            Put::Exists => Err(Error::new(Kind::Conflict, "another backup has this name"))
                .doing(|| format!("store {key} in repository {}", self.repository().name())),
        }
    }

    /// Checks that an object below `data/` is a pack of a known format whose header agrees with its
    /// key.
    pub fn check_pack(&self, relative: &str) -> Result<()> {
        let key = self.base().join(relative)?;
        let header = self.get_range(relative, 0..HEADER_SIZE as u64)?;
        let name = relative.strip_prefix(&key::data("")).unwrap_or(relative);
        let check =
            Header::decode(&header).and_then(|header| self.check_header(&header, ObjectKind::Pack, name));
        self.in_repository("read", &key, check)
    }
}
