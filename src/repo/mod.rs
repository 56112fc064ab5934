//! What a repository is: keys, identity, records, manifests, inventory. The format is in `FORMAT.md`.
//!
//! A [`Repository`] is a store and a cluster's name in it. Nothing is stored and nothing is called absent
//! before its identity has been read: that gives an [`Archive`], the part of one cluster under one
//! system identifier and major version.

pub mod active;
mod archive;
pub mod catalog;
pub mod data;
pub mod drills;
pub mod entry;
pub mod evidence;
mod hints;
pub mod history;
mod identity;
mod key;
pub mod lock;
pub mod manifest;
mod name;
pub mod pin;
pub mod process;
pub mod ranges;
pub mod record;
pub mod survey;
mod wal;
pub mod window;

pub use crate::storage::{Body, OpenBody, Put};
pub use archive::{Archive, Records, StoredWal, header};
pub use hints::RemoteHints;
pub use identity::{Identities, Identity, Registered};
pub use key::{data as data_key, pack as pack_name};
pub use name::ObjectName;
pub use wal::Wal;

use crate::codec::compress::{Compression, Compressor};
use crate::codec::envelope::{self, Content, Header};
use crate::error::{Doing, Error, Kind, Result};
use crate::storage::{Key, Mode, Object, Storage};
use std::sync::Arc;

/// Objects that are read whole (identity, records) are never larger.
const SMALL: u64 = 16 << 20;

/// Stands in a directory that is being restored, and goes when it is finished. It is no part of a backup.
pub const RESTORING: &str = "walkeep.restoring";

/// Which cluster, and in which life of it: `pg_upgrade` and `initdb` begin a new one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Lineage {
    pub system_identifier: u64,
    pub major: u32,
}

impl Lineage {
    /// Of a data directory, from its files alone: the server may be down.
    pub fn of(pgdata: &std::path::Path) -> Result<Lineage> {
        let major = crate::pg::major_version(pgdata)?;
        let control = crate::pg::control::Control::read(pgdata)?;
        Ok(Lineage { system_identifier: control.system_identifier(), major })
    }
}

impl std::str::FromStr for Lineage {
    type Err = Error;

    fn from_str(text: &str) -> Result<Lineage> {
        let parts = text.split_once('-');
        parts
            .and_then(|(system, major)| {
                Some(Lineage { system_identifier: system.parse().ok()?, major: major.parse().ok()? })
            })
            .ok_or_else(|| {
                Error::new(Kind::Usage, format!("`{text}` is no system identifier with a major version"))
                    .hint("write it as `walkeep list` does: 7312345678901234567-17")
            })
    }
}

impl std::fmt::Display for Lineage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}-{}", self.system_identifier, self.major)
    }
}

/// A cluster's place in a store.
#[derive(Clone)]
pub struct Repository {
    name: String,
    cluster: String,
    required: bool,
    store: Arc<dyn Storage>,
    hints: Option<RemoteHints>,
}

impl Repository {
    /// `name` is what the configuration calls the repository; `cluster` the folder in it. With `required`
    /// nothing counts as archived before this repository has it.
    pub fn new(
        name: impl Into<String>,
        cluster: impl Into<String>,
        required: bool,
        store: Arc<dyn Storage>,
    ) -> Repository {
        Repository { name: name.into(), cluster: cluster.into(), required, store, hints: None }
    }

    /// This repository as a remote one: each request costs a round trip, and `hints` saves some of them.
    #[must_use]
    pub fn with_hints(self, hints: RemoteHints) -> Repository {
        Repository { hints: Some(hints), ..self }
    }

    /// What this machine remembers about a remote store; `None` for a directory.
    pub fn hints(&self) -> Option<&RemoteHints> {
        self.hints.as_ref()
    }

    /// Whether each request to the store is a journey over a network.
    pub fn is_remote(&self) -> bool {
        self.hints.is_some()
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn cluster(&self) -> &str {
        &self.cluster
    }

    pub fn is_required(&self) -> bool {
        self.required
    }

    pub fn url(&self) -> String {
        self.store.url()
    }

    /// Makes the place of the store, and proves that it keeps its promises: the first step of `init`.
    pub fn prepare(&self) -> Result<()> {
        self.store.prepare()?;
        self.prove()
    }

    /// Proves that the store keeps the promises that not every store keeps.
    pub fn prove(&self) -> Result<()> {
        self.store.prove()
    }

    /// Tells this cluster's place in this store from every other, also from one that the configuration calls by the
    /// same names.
    pub fn place(&self) -> String {
        let store = self.hints.as_ref().map_or_else(|| self.url(), |hints| hints.place().to_owned());
        format!("{} in {store}", self.cluster)
    }

    /// Removes what crashed writers left behind before this moment.
    pub fn clean(&self, before: jiff::Timestamp) -> Result<u64> {
        self.store.clean(before)
    }

    /// Reads and checks a small object, whose name has to be that of its key.
    fn read_small(&self, key: &Key, name: &str) -> Result<Option<(Header, Vec<u8>)>> {
        let doing = || format!("read {key} of repository {}", self.name);
        let Some(object) = self.store.get(key, None).doing(doing)? else {
            return Ok(None);
        };
        let (header, content) = Content::open(object)
            .and_then(|content: Content<Object>| content.read_all(SMALL))
            .doing(doing)?;
        if header.name != name {
            return Err(misplaced(&header.name).doing(doing()));
        }
        Ok(Some((header, content)))
    }

    /// Stores a small object so that its content can be read with the naked eye.
    fn put_small(&self, key: &Key, header: Header, content: &[u8], mode: Mode) -> Result<Put> {
        let object = envelope::seal(header, content, &mut Compressor::new(Compression::Stored)?)?;
        self.store.put(key, &object, mode).doing(|| format!("store {key} in repository {}", self.name))
    }
}

fn misplaced(name: &str) -> Error {
    Error::new(Kind::Damage, format!("its header says that it is {name}"))
        .hint("objects were moved or mixed up; bring the right one back from a copy")
}

/// Understands a JSON content of ours.
fn parse_json<T: serde::de::DeserializeOwned>(content: &[u8]) -> Result<T> {
    serde_json::from_slice(content)
        .map_err(|e| Error::new(Kind::Damage, format!("its content cannot be understood: {e}")))
}

fn to_json(value: &impl serde::Serialize) -> Result<Vec<u8>> {
    let mut text =
        serde_json::to_vec_pretty(value).map_err(|e| Error::new(Kind::Failed, format!("write JSON: {e}")))?;
    text.push(b'\n');
    Ok(text)
}
