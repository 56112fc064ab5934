//! The part of a repository that belongs to one cluster under one system identifier and major version.
//! To hold one is to have seen its identity.

use super::manifest::MAX_PART;
use super::name::ObjectName;
use super::record::{ManifestPart, Record};
use super::wal::Wal;
use super::{Identity, Lineage, Repository, SMALL, key, misplaced, parse_json, to_json};
use crate::codec::envelope::{Content, FORMAT, HEADER_SIZE, Header, ObjectKind};
use crate::codec::hash::ContentHash;
use crate::error::{Doing, Error, Kind, Result};
use crate::pg::history::{History, MAX_FILE_SIZE};
use crate::pg::segment::{SegmentSize, TimelineId, WalName};
use crate::storage::{Body, Key, ListedObject, Mode, Object, PAGE, Page, Put, list_all};
use std::collections::BTreeMap;
use std::ops::Range;

/// A WAL file of the archive, opened; see [`Content`] for what may be believed when.
pub type StoredWal = Content<Object>;

/// The backups of an archive.
#[derive(Debug, Default)]
pub struct Records {
    /// In the order of the LSNs at which they began.
    pub good: Vec<Record>,
    /// Why others cannot be read: one that is damaged takes nothing from the rest.
    pub damaged: Vec<(String, Error)>,
    /// What each record takes in the repository.
    pub sizes: BTreeMap<String, u64>,
    /// Backups that were taken for dead before they had a record, and since when that is so.
    pub given_up: Vec<(String, jiff::Timestamp)>,
}

/// What stands at the key of a backup's record.
enum Recorded {
    Record(Box<Record>),
    GivenUp,
}

#[derive(Clone)]
pub struct Archive {
    repository: Repository,
    identity: Identity,
    base: Key,
}

impl Archive {
    pub(super) fn new(repository: Repository, identity: Identity) -> Result<Archive> {
        let base = key::lineage(repository.cluster(), identity.lineage())?;
        Ok(Archive { repository, identity, base })
    }

    pub fn repository(&self) -> &Repository {
        &self.repository
    }

    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    pub fn lineage(&self) -> Lineage {
        self.identity.lineage()
    }

    /// The header of an object of this archive, without size and hash.
    pub fn header(&self, kind: ObjectKind, name: impl Into<String>) -> Header {
        header(self.lineage(), kind, name)
    }

    fn in_repository<T>(&self, what: &str, key: &Key, result: Result<T>) -> Result<T> {
        result.doing(|| format!("{what} {key} in repository {}", self.repository.name()))
    }

    fn put(&self, key: &Key, body: &dyn Body) -> Result<Put> {
        let put = self.repository.store.put(key, body, Mode::Create);
        self.in_repository("store", key, put)
    }

    /// What the object of a full key is; `None` when it is not ours.
    pub(super) fn name_of(&self, key: &Key) -> Option<ObjectName> {
        ObjectName::parse(key.as_str().strip_prefix(self.base.as_str())?.strip_prefix('/')?)
    }

    fn key_of(&self, name: &ObjectName) -> Result<Key> {
        self.base.join(name)
    }

    /// Stores a small JSON object. The last part of its key is its name.
    pub(super) fn put_small(
        &self,
        name: &ObjectName,
        kind: ObjectKind,
        content: &impl serde::Serialize,
        mode: Mode,
    ) -> Result<Put> {
        let key = self.key_of(name)?;
        let header = self.header(kind, key.name());
        self.repository.put_small(&key, header, &to_json(content)?, mode)
    }

    /// Reads a small JSON object.
    pub(super) fn get_small<T: serde::de::DeserializeOwned>(
        &self,
        name: &ObjectName,
        kind: ObjectKind,
    ) -> Result<Option<T>> {
        let key = self.key_of(name)?;
        let Some((header, content)) = self.repository.read_small(&key, key.name())? else {
            return Ok(None);
        };
        let parsed = self.check_header(&header, kind, key.name()).and_then(|()| parse_json(&content));
        self.in_repository("read", &key, parsed).map(Some)
    }

    /// Whether an object is there, and since when by the clock of the store.
    pub fn stored_at(&self, name: &ObjectName) -> Result<Option<jiff::Timestamp>> {
        let key = self.key_of(name)?;
        let entry = self.repository.store.head(&key);
        Ok(self.in_repository("look for", &key, entry)?.map(|entry| entry.modified))
    }

    /// Removes objects, durably. What is not there is removed already.
    pub fn remove(&self, names: &[ObjectName]) -> Result<()> {
        let keys = names.iter().map(|name| self.key_of(name)).collect::<Result<Vec<_>>>()?;
        for keys in keys.chunks(PAGE) {
            let Some(first) = keys.first() else {
                continue;
            };
            let removed = self.repository.store.delete(keys);
            self.in_repository("remove", first, removed)?;
        }
        Ok(())
    }

    /// The names of all objects of a folder that are ours, each with its entry.
    pub(super) fn each_named(
        &self,
        folder: &str,
        mut each: impl FnMut(ObjectName, &ListedObject) -> Result<()>,
    ) -> Result<()> {
        self.each(folder, |entry| match self.name_of(&entry.key) {
            Some(name) => each(name, &entry),
            None => Ok(()),
        })
    }

    /// The first backup behind this one, by name, that stored anything.
    pub(super) fn first_data_after(&self, id: Option<&str>) -> Result<Option<String>> {
        let folder = self.base.join(key::DATA)?;
        // What stands behind everything in the folder of a backup: 0 is the character behind /.
        let mut after = id.map(|id| self.base.join(format!("{}0", key::data(id)))).transpose()?;
        loop {
            let page = self.repository.store.list(&folder, after.as_ref(), 1);
            let page = self.in_repository("list", &folder, page)?;
            let Some(entry) = page.entries.into_iter().next() else {
                return Ok(None);
            };
            if let Some(ObjectName::Pack(id, _) | ObjectName::Manifest(id, _)) = self.name_of(&entry.key) {
                return Ok(Some(id));
            }
            after = Some(entry.key);
        }
    }

    /// Stores a WAL file that is encoded already. [`Put::Exists`] says nothing about the content.
    pub fn put_wal(&self, name: WalName, body: &dyn Body) -> Result<Put> {
        self.wal().put(name, body)
    }

    /// Opens a WAL file; `None` when this repository has no such file. What is opened has the right
    /// name and cluster in its header; the content is still to be checked.
    pub fn get_wal(&self, name: WalName) -> Result<Option<StoredWal>> {
        self.wal().get(name)
    }

    fn wal(&self) -> Wal<'_> {
        Wal::new(&self.repository, self.lineage(), self.base.clone())
    }

    pub fn has_wal(&self, name: WalName) -> Result<bool> {
        let key = self.base.join(key::wal(name))?;
        let entry = self.repository.store.head(&key);
        Ok(self.in_repository("look for", &key, entry)?.is_some())
    }

    /// The timelines that have a history file, in order.
    pub fn histories(&self) -> Result<Vec<TimelineId>> {
        self.wal().histories()
    }

    /// A timeline's history; timeline 1 has none and needs none.
    pub fn history(&self, timeline: TimelineId) -> Result<Option<History>> {
        if timeline.0 == 1 {
            return Ok(Some(History::root(timeline)));
        }
        let Some(content) = self.get_wal(WalName::History(timeline))? else {
            return Ok(None);
        };
        let doing =
            || format!("read {} of repository {}", WalName::History(timeline), self.repository.name());
        let (_, text) = content.read_all(MAX_FILE_SIZE).doing(doing)?;
        History::parse(timeline, &text).map(Some).doing(doing)
    }

    /// Every WAL file below `wal/`, in order.
    pub fn each_wal(&self, mut each: impl FnMut(WalName, &ListedObject) -> Result<()>) -> Result<()> {
        self.each_named(key::WAL, |name, entry| match name {
            ObjectName::Wal(name) => each(name, entry),
            _ => Ok(()),
        })
    }

    /// The size of segments, from the first that is found; `None` when there is none.
    pub fn any_segment_size(&self) -> Result<Option<SegmentSize>> {
        let page = self.list(&self.base.join(key::WAL)?, None, PAGE)?;
        for entry in &page.entries {
            if let Ok(name @ WalName::Segment(_)) = entry.key.name().parse()
                && let Some(stored) = self.get_wal(name)?
            {
                return SegmentSize::try_from(stored.size()).map(Some);
            }
        }
        Ok(None)
    }

    pub(super) fn each(&self, folder: &str, each: impl FnMut(ListedObject) -> Result<()>) -> Result<()> {
        let folder = self.base.join(folder)?;
        let listed = list_all(&*self.repository.store, &folder, each);
        self.in_repository("list", &folder, listed)
    }

    fn list(&self, folder: &Key, after: Option<&Key>, limit: usize) -> Result<Page> {
        let page = self.repository.store.list(folder, after, limit);
        self.in_repository("list", folder, page)
    }

    /// Stores something under `data/`, of a backup in the making.
    pub fn put_data(&self, name: &str, object: &dyn Body) -> Result<()> {
        let key = self.base.join(key::data(name))?;
        match self.put(&key, object)? {
            Put::Stored => Ok(()),
            Put::Exists => Err(Error::new(Kind::Conflict, "another backup has this name"))
                .doing(|| format!("store {key} in repository {}", self.repository.name())),
        }
    }

    /// A WAL file as it is stored, all of it unchecked.
    pub fn get_wal_object(&self, name: WalName, limit: u64) -> Result<Option<Vec<u8>>> {
        use std::io::Read;
        let key = self.base.join(key::wal(name))?;
        let read = || {
            let Some(object) = self.repository.store.get(&key, None)? else {
                return Ok(None);
            };
            let mut bytes = Vec::new();
            object.take(limit + 1).read_to_end(&mut bytes).map_err(|e| Error::io("read", &e))?;
            match bytes.len() as u64 > limit {
                true => Err(Error::new(Kind::Damage, format!("it has more than {limit} bytes"))),
                false => Ok(Some(bytes)),
            }
        };
        self.in_repository("read", &key, read())
    }

    /// Bytes of an object whose key is relative to this archive; `None` when there is no such object.
    pub fn size(&self, relative: &str) -> Result<Option<u64>> {
        let key = self.base.join(relative)?;
        let entry = self.repository.store.head(&key);
        Ok(self.in_repository("look for", &key, entry)?.map(|entry| entry.size))
    }

    /// Stores a copy of another repository's object under its key. [`Put::Exists`] says nothing about the content.
    pub fn put_object(&self, relative: &str, object: &Vec<u8>) -> Result<Put> {
        self.put(&self.base.join(relative)?, object)
    }

    /// Copies a backup's record to where all that it names is already. Gives its bytes.
    pub fn copy_record(&self, to: &Archive, id: &str) -> Result<u64> {
        let relative = key::backup(id);
        let gone = || Error::new(Kind::Unavailable, format!("the record of backup {id} went away"));
        let size = self.size(&relative)?.filter(|size| *size <= SMALL).ok_or_else(gone)?;
        let object = self.get_range(&relative, 0..size)?;
        let header = Header::decode(&object)?;
        self.check_header(&header, ObjectKind::Backup, id)?;
        match to.put_object(&relative, &object)? {
            Put::Stored => Ok(size),
            Put::Exists => Err(Error::new(Kind::Conflict, format!("backup {id} exists there already"))),
        }
    }

    /// What a backup stored: the keys of packs and parts of its manifest, relative to this archive, and the sizes of
    /// the objects.
    pub fn stored_by(&self, id: &str) -> Result<Vec<(String, u64)>> {
        let mut found = Vec::new();
        self.each_named(&key::data(id), |name, entry| {
            if let ObjectName::Pack(..) | ObjectName::Manifest(..) = name {
                found.push((name.to_string(), entry.size));
            }
            Ok(())
        })?;
        Ok(found)
    }

    /// Part of an object whose key is relative to this archive, all of it read.
    pub fn get_range(&self, relative: &str, range: Range<u64>) -> Result<Vec<u8>> {
        use std::io::Read;
        let key = self.base.join(relative)?;
        let length = range.end.saturating_sub(range.start) as usize;
        let read = || {
            let mut object = self.repository.store.get(&key, Some(range))?.ok_or_else(gone)?;
            let mut bytes = vec![0; length];
            object.read_exact(&mut bytes).map_err(|e| match e.kind() {
                std::io::ErrorKind::UnexpectedEof => {
                    Error::new(Kind::Damage, "it is shorter than the manifest says")
                }
                _ => Error::io("read", &e),
            })?;
            Ok(bytes)
        };
        self.in_repository("read", &key, read())
    }

    /// Whether an object below `data/` is the pack that its key promises, in a format that is known.
    pub fn check_pack(&self, relative: &str) -> Result<()> {
        let key = self.base.join(relative)?;
        let header = self.get_range(relative, 0..HEADER_SIZE as u64)?;
        let name = relative.strip_prefix(&key::data("")).unwrap_or(relative);
        let check =
            Header::decode(&header).and_then(|header| self.check_header(&header, ObjectKind::Pack, name));
        self.in_repository("read", &key, check)
    }

    /// A part of a backup's manifest, checked against what the record says of the stored object.
    pub fn get_manifest(&self, part: &ManifestPart, name: &str) -> Result<Vec<u8>> {
        let base = match &part.base {
            Some(base) => Some((&base.key[..], self.get_base(base)?)),
            None => None,
        };
        let object = self.get_range(&part.key, 0..part.size)?;
        let text = match ContentHash::of(&object) == part.sha256 {
            true => self.manifest_text(&object, name, base.as_ref().map(|(key, text)| (*key, &text[..]))),
            false => Err(Error::new(Kind::Damage, "its SHA-256 is not the one in the backup's record")),
        };
        self.in_repository("read", &self.base.join(&part.key)?, text)
    }

    /// A part of an earlier manifest by which others are told.
    pub fn get_base(&self, base: &ManifestPart) -> Result<Vec<u8>> {
        match (base.place(), &base.base) {
            (Some((id, number)), None) => self.get_manifest(base, &key::manifest(&id, number)),
            _ => Err(Error::new(Kind::Damage, format!("`{}` cannot be a base", base.key.escape_debug()))),
        }
    }

    /// A part of the manifest of a backup without a record; `None` when there is no such part.
    pub fn get_unfinished_manifest(&self, id: &str, number: u32) -> Result<Option<Vec<u8>>> {
        let name = key::manifest(id, number);
        let Some(object) = self.get_unrecorded(&key::data(&name))? else {
            return Ok(None);
        };
        let read = || {
            let Some(key) = Header::decode(&object)?.base else {
                return self.manifest_text(&object, &name, None);
            };
            // Whether it is the right one the hash of the text tells.
            let gone = || Error::new(Kind::Damage, format!("its base {} is gone", key.escape_debug()));
            let base = self.get_unrecorded(&key)?.ok_or_else(gone)?;
            let base = self.manifest_text(&base, key.strip_prefix(&key::data("")).unwrap_or(&key), None)?;
            self.manifest_text(&object, &name, Some((&key, &base)))
        };
        self.in_repository("read", &self.base.join(key::data(&name))?, read()).map(Some)
    }

    /// A manifest part as it is stored, of which no record says anything.
    fn get_unrecorded(&self, relative: &str) -> Result<Option<Vec<u8>>> {
        match self.size(relative)?.filter(|size| *size <= MAX_PART) {
            Some(size) => self.get_range(relative, 0..size).map(Some),
            None => Ok(None),
        }
    }

    /// `base`: the key of the object that the text has to be told by, and the text of that.
    fn manifest_text(&self, object: &[u8], name: &str, base: Option<(&str, &[u8])>) -> Result<Vec<u8>> {
        let content = Content::open(object)?;
        self.check_header(&content.header, ObjectKind::Manifest, name)?;
        if content.header.base.as_deref() != base.map(|(key, _)| key) {
            return Err(Error::new(Kind::Damage, "it does not have the base that the record gives it"));
        }
        let (_, text) = match base {
            Some((_, base)) => content.read_patch(base, MAX_PART)?,
            None => content.read_all(MAX_PART)?,
        };
        Ok(text)
    }

    /// The last step of a backup: from here on it is listed.
    pub fn put_record(&self, record: &Record) -> Result<()> {
        let name = ObjectName::Record(record.id.clone());
        if self.put_small(&name, ObjectKind::Backup, record, Mode::Create)? == Put::Stored {
            return Ok(());
        }
        Err(match self.recorded(&self.key_of(&name)?)? {
            Some(Recorded::GivenUp) => Error::new(
                Kind::Refused,
                format!(
                    "backup {} did not show a sign of life for so long that a prune took it for dead",
                    record.id
                ),
            )
            .hint("was this machine suspended, or the repository out of reach? take another backup"),
            _ => Error::new(Kind::Conflict, format!("backup {} exists already", record.id)),
        })
    }

    /// Sees to it that a backup which was taken for dead can never be recorded. False when it is recorded.
    pub fn give_up(&self, id: &str) -> Result<bool> {
        let name = ObjectName::Record(id.to_owned());
        let why = serde_json::json!({"given_up": id});
        if self.put_small(&name, ObjectKind::GivenUp, &why, Mode::Create)? == Put::Stored {
            return Ok(true);
        }
        Ok(matches!(self.recorded(&self.key_of(&name)?)?, Some(Recorded::GivenUp)))
    }

    /// The records of all backups.
    pub fn records(&self) -> Result<Records> {
        let mut records = Records::default();
        self.each_named(key::BACKUPS, |name, entry| {
            let ObjectName::Record(id) = name else {
                return Ok(());
            };
            match self.recorded(&entry.key) {
                // A backup may be pruned between the listing and the reading.
                Ok(None) => {}
                Ok(Some(Recorded::Record(record))) => {
                    records.sizes.insert(id, entry.size);
                    records.good.push(*record);
                }
                Ok(Some(Recorded::GivenUp)) => records.given_up.push((id, entry.modified)),
                Err(error) if is_about_the_object(&error) => records.damaged.push((id, error)),
                Err(error) => return Err(error),
            }
            Ok(())
        })?;
        records.good.sort_by(|a, b| (a.start_lsn, a.timeline, &a.id).cmp(&(b.start_lsn, b.timeline, &b.id)));
        Ok(records)
    }

    /// One backup's record.
    pub fn record(&self, id: &str) -> Result<Option<Record>> {
        let recorded = self.recorded(&self.key_of(&ObjectName::Record(id.to_owned()))?)?;
        Ok(match recorded {
            Some(Recorded::Record(record)) => Some(*record),
            Some(Recorded::GivenUp) | None => None,
        })
    }

    fn recorded(&self, key: &Key) -> Result<Option<Recorded>> {
        let Some((header, content)) = self.repository.read_small(key, key.name())? else {
            return Ok(None);
        };
        let read = || {
            if header.kind == ObjectKind::GivenUp {
                return Ok(Recorded::GivenUp);
            }
            self.check_header(&header, ObjectKind::Backup, key.name())?;
            let record: Box<Record> = parse_json(&content)?;
            match record.id == key.name() {
                true => Ok(Recorded::Record(record)),
                false => Err(misplaced(&record.id)),
            }
        };
        self.in_repository("read", key, read()).map(Some)
    }

    fn check_header(&self, header: &Header, kind: ObjectKind, name: &str) -> Result<()> {
        check_header(header, self.lineage(), kind, name)
    }
}

/// The header of an object of a cluster, without size and hash.
pub fn header(lineage: Lineage, kind: ObjectKind, name: impl Into<String>) -> Header {
    Header {
        walkeep: FORMAT,
        kind,
        name: name.into(),
        system_identifier: lineage.system_identifier,
        pg: lineage.major,
        size: None,
        sha256: None,
        base: None,
        cipher: None,
    }
}

/// Whether an object is the one that its key promises.
pub(super) fn check_header(header: &Header, lineage: Lineage, kind: ObjectKind, name: &str) -> Result<()> {
    if header.kind != kind || header.name != name {
        return Err(misplaced(&header.name));
    }
    if header.system_identifier != lineage.system_identifier || header.pg != lineage.major {
        return Err(Error::new(
            Kind::Identity,
            format!("it belongs to the cluster {}-{}, not to {lineage}", header.system_identifier, header.pg),
        ));
    }
    Ok(())
}

/// Whether an object, and not the way to it, is what is wrong.
fn is_about_the_object(error: &Error) -> bool {
    matches!(error.kind(), Kind::Damage | Kind::Identity)
}

fn gone() -> Error {
    Error::new(Kind::Damage, "it is missing").hint("run `walkeep verify`, and bring it back from a copy")
}
