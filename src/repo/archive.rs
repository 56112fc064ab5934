//! The part of a repository that belongs to one cluster under one system identifier and major
//! version: access to its objects by name. An [`Archive`] exists only after the identity of the
//! repository has been checked.
//!
//! What the objects mean is in the other files: `wal`, `record`, `data`, `manifest`, `pin`,
//! `active`, `evidence`, `drills`.

use super::name::ObjectName;
use super::object::{check_header, header, missing};
use super::{Identity, Lineage, Repository, key, parse_json, to_json};
use crate::codec::envelope::{Header, ObjectKind};
use crate::error::{Doing, Error, Kind, Result};
use crate::storage::{Body, ForeignEntry, Key, ListedObject, Mode, Object, PAGE, Page, Put, list_all};
use std::ops::Range;

/// Maximum bytes for which memory is reserved before they have been read.
const MAX_RESERVED: u64 = 16 << 20;

/// The part of a repository with one lineage of a cluster. See the file.
#[derive(Clone)]
pub struct Archive {
    repository: Repository,
    identity: Identity,
    base: Key,
}

impl Repository {
    /// Checks that this is the repository of the cluster, and opens the cluster's part of it.
    ///
    /// # Errors
    ///
    /// [`Kind::Identity`] when the cluster is not registered here.
    pub fn open(&self, lineage: Lineage) -> Result<Archive> {
        let identity = self.identity(lineage).doing(|| format!("open repository {}", self.name()))?;
        match identity {
            Some(identity) => Archive::new(self.clone(), identity),
            None => Err(self.not_registered(lineage)),
        }
    }

    /// Opens the newest lineage of the cluster, for commands without a readable data directory.
    ///
    /// # Errors
    ///
    /// [`Kind::Identity`] when the cluster is not registered here.
    pub fn open_newest(&self) -> Result<Archive> {
        let identity = self.identities().doing(|| format!("open repository {}", self.name()))?.pop();
        let identity = identity.ok_or_else(|| self.without_identity())?;
        Archive::new(self.clone(), identity)
    }
}

impl Archive {
    fn new(repository: Repository, identity: Identity) -> Result<Archive> {
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

    /// Returns the header of an object of this archive, without size and hash.
    pub fn header(&self, kind: ObjectKind, name: impl Into<String>) -> Header {
        header(self.lineage(), kind, name)
    }

    pub(super) fn check_header(&self, header: &Header, kind: ObjectKind, name: &str) -> Result<()> {
        check_header(header, self.lineage(), kind, name)
    }

    pub(super) fn in_repository<T>(&self, what: &str, key: &Key, result: Result<T>) -> Result<T> {
        result.doing(|| format!("{what} {key} in repository {}", self.repository.name()))
    }

    /// The folder of all objects of this archive.
    pub(super) fn base(&self) -> &Key {
        &self.base
    }

    pub(super) fn key_of(&self, name: &ObjectName) -> Result<Key> {
        self.base.join(name)
    }

    /// Returns the name of the object at a full key; `None` when walkeep does not write such a key.
    pub(super) fn name_of(&self, key: &Key) -> Option<ObjectName> {
        ObjectName::parse(key.as_str().strip_prefix(self.base.as_str())?.strip_prefix('/')?)
    }

    /// Stores a new object.
    pub(super) fn put(&self, key: &Key, body: &dyn Body) -> Result<Put> {
        let put = self.repository.store.put(key, body, Mode::Create);
        self.in_repository("store", key, put)
    }

    /// Stores a small JSON object. The last part of its key is the name in its header.
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

    /// Reads a small JSON object; `None` when it does not exist.
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

    /// Returns when an object was stored, by the clock of the store; `None` when it does not exist.
    pub fn stored_at(&self, name: &ObjectName) -> Result<Option<jiff::Timestamp>> {
        Ok(self.head(&self.key_of(name)?)?.map(|listed| listed.modified))
    }

    /// Returns the bytes of an object whose key is relative to this archive; `None` when it does
    /// not exist.
    pub fn size(&self, relative: &str) -> Result<Option<u64>> {
        Ok(self.head(&self.base.join(relative)?)?.map(|listed| listed.size))
    }

    pub(super) fn head(&self, key: &Key) -> Result<Option<ListedObject>> {
        self.in_repository("look for", key, self.repository.store.head(key))
    }

    /// Removes objects, durably. An object that does not exist counts as removed.
    pub fn remove(&self, names: &[ObjectName]) -> Result<()> {
        let keys = names.iter().map(|name| self.key_of(name)).collect::<Result<Vec<_>>>()?;
        for keys in keys.chunks(PAGE) {
            if let Some(first) = keys.first() {
                self.in_repository("remove", first, self.repository.store.delete(keys))?;
            }
        }
        Ok(())
    }

    /// Returns the names of objects at which the store has something else, such as a symbolic link,
    /// and what that is.
    pub fn foreign(&self) -> Result<Vec<(ObjectName, &'static str)>> {
        let found = self.repository.store.foreign(&self.base);
        let found = self.in_repository("list", &self.base, found)?;
        let below = format!("{}/", self.base);
        let named =
            |entry: ForeignEntry| Some((ObjectName::parse(entry.path.strip_prefix(&below)?)?, entry.what));
        Ok(found.into_iter().filter_map(named).collect())
    }

    /// Calls `each` with every object of a folder, except objects whose keys walkeep does not
    /// write.
    pub(super) fn each_named(
        &self,
        folder: &str,
        mut each: impl FnMut(ObjectName, &ListedObject) -> Result<()>,
    ) -> Result<()> {
        let folder = self.base.join(folder)?;
        let listed = list_all(&*self.repository.store, &folder, |listed| match self.name_of(&listed.key) {
            Some(name) => each(name, &listed),
            None => Ok(()),
        });
        self.in_repository("list", &folder, listed)
    }

    pub(super) fn list(&self, folder: &Key, after: Option<&Key>, limit: usize) -> Result<Page> {
        self.in_repository("list", folder, self.repository.store.list(folder, after, limit))
    }

    /// Opens an object, unchecked; `None` when it does not exist.
    pub(super) fn open(&self, key: &Key, range: Option<Range<u64>>) -> Result<Option<Object>> {
        self.repository.store.get(key, range)
    }

    /// Stores a copy of another repository's object under its key. [`Put::Exists`] does not compare
    /// the content.
    pub fn put_object(&self, relative: &str, object: &dyn Body) -> Result<Put> {
        self.put(&self.base.join(relative)?, object)
    }

    /// Opens an object whose key is relative to this archive, unchecked; `None` when it does not
    /// exist.
    pub fn open_object(&self, relative: &str) -> Result<Option<Object>> {
        let key = self.base.join(relative)?;
        self.in_repository("read", &key, self.open(&key, None))
    }

    /// Reads part of an object whose key is relative to this archive, unchecked.
    ///
    /// # Errors
    ///
    /// [`Kind::Damage`] when the object does not exist or is shorter.
    pub fn get_range(&self, relative: &str, range: Range<u64>) -> Result<Vec<u8>> {
        use std::io::Read;
        let key = self.base.join(relative)?;
        let length = range.end.saturating_sub(range.start);
        let read = || {
            let object = self.open(&key, Some(range))?.ok_or_else(missing)?;
            // The object may be shorter than a damaged record states.
            let known = usize::try_from(length.min(MAX_RESERVED)).unwrap_or(0);
            let mut bytes = Vec::with_capacity(known);
            object.take(length).read_to_end(&mut bytes).map_err(|e| Error::io("read", &e))?;
            if bytes.len() as u64 != length {
                return Err(Error::new(Kind::Damage, "it is shorter than expected"));
            }
            Ok(bytes)
        };
        self.in_repository("read", &key, read())
    }
}
