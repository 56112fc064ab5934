//! The objects of a repository and its state as a whole. The format is in `FORMAT.md`.
//!
//! A [`Repository`] is a store and the name of a cluster in it. Opening it checks its identity and
//! gives an [`Archive`], the part of one cluster under one system identifier and major version;
//! before that nothing counts as stored and nothing counts as absent. [`survey::Survey`] reads the
//! state of an archive in one pass.

pub mod active;
mod archive;
mod aside;
pub mod branches;
pub mod catalog;
pub mod data;
pub mod drills;
pub mod entry;
pub mod evidence;
mod hints;
pub mod history;
pub mod holes;
mod identity;
mod key;
pub mod lock;
pub mod manifest;
pub mod missing;
mod name;
mod object;
pub mod packset;
pub mod pin;
pub mod process;
pub mod ranges;
pub mod record;
pub mod replay;
mod retired;
pub mod seams;
pub mod survey;
mod wal;
pub mod window;

pub use crate::storage::{Body, Object, OpenBody, Put};
pub use archive::Archive;
pub use hints::RemoteHints;
pub use identity::{Identities, Identity, Registered};
pub use key::{data as data_key, pack as pack_name};
pub use name::ObjectName;
pub use object::{StoredWal, header};
pub use record::Records;
pub use wal::Wal;

use object::{MAX_SMALL, misplaced};

use crate::codec::compress::{Compression, Compressor};
use crate::codec::envelope::{self, Content, Header};
use crate::error::{Doing, Error, Kind, Result};
use crate::storage::{Key, Mode, Storage};
use std::sync::Arc;

/// Name of the file that marks a directory as being restored. It is removed at the end and never
/// backed up.
pub const RESTORING: &str = "walkeep.restoring";

/// Name of the file that marks the scratch directory of a drill.
pub const DRILL_MARKER: &str = "walkeep.drill";

/// A cluster under one system identifier and major version; `initdb` and `pg_upgrade` each begin a
/// new one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Lineage {
    pub system_identifier: u64,
    pub major: u32,
}

impl Lineage {
    /// Reads the lineage of a data directory from its files; the server may be down.
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
                Error::new(Kind::Usage, format!("`{text}` is not a system identifier with a major version"))
                    .hint("write it as `walkeep list` does: 7312345678901234567-17")
            })
    }
}

impl std::fmt::Display for Lineage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}-{}", self.system_identifier, self.major)
    }
}

/// A store, and the folder of one cluster in it.
#[derive(Clone)]
pub struct Repository {
    name: String,
    cluster: String,
    required: bool,
    store: Arc<dyn Storage>,
    hints: Option<RemoteHints>,
}

impl Repository {
    /// A repository with its name in the configuration and the folder of the cluster in it. WAL
    /// counts as archived only when every `required` repository has it.
    pub fn new(
        name: impl Into<String>,
        cluster: impl Into<String>,
        required: bool,
        store: Arc<dyn Storage>,
    ) -> Repository {
        Repository { name: name.into(), cluster: cluster.into(), required, store, hints: None }
    }

    /// Marks the repository as remote: each request costs a round trip, and `hints` saves some of
    /// them.
    #[must_use]
    pub fn with_hints(self, hints: RemoteHints) -> Repository {
        Repository { hints: Some(hints), ..self }
    }

    /// Returns what this machine remembers about a remote store; `None` for a directory.
    pub fn hints(&self) -> Option<&RemoteHints> {
        self.hints.as_ref()
    }

    /// Whether each request to the store crosses a network.
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

    /// Creates the root of the store and proves its promises: the first step of `init`.
    pub fn prepare(&self) -> Result<()> {
        self.store.prepare()?;
        self.prove()
    }

    /// Proves the promises of [`Storage`] that not every store keeps.
    pub fn prove(&self) -> Result<()> {
        self.store.prove()
    }

    /// Returns a text that is unique for this cluster in this store. It does not depend on the name
    /// of the repository in the configuration.
    pub fn place(&self) -> String {
        let store = self.hints.as_ref().map_or_else(|| self.url(), |hints| hints.place().to_owned());
        format!("{} in {store}", self.cluster)
    }

    /// Removes temporary objects that crashed writers left before this moment. Returns their
    /// number.
    pub fn clean(&self, before: jiff::Timestamp) -> Result<u64> {
        self.store.clean(before)
    }

    /// Reads and checks a small object with `name` in its header; `None` when it does not exist.
    fn read_small(&self, key: &Key, name: &str) -> Result<Option<(Header, Vec<u8>)>> {
        let doing = || format!("read {key} of repository {}", self.name);
        let Some(object) = self.store.get(key, None).doing(doing)? else {
            return Ok(None);
        };
        let (header, content) = Content::open(object)
            .and_then(|content: Content<Object>| content.read_all(MAX_SMALL))
            .doing(doing)?;
        if header.name != name {
            return Err(misplaced(&header.name).doing(doing()));
        }
        Ok(Some((header, content)))
    }

    /// Stores a small object uncompressed, so that people can read it.
    fn put_small(&self, key: &Key, header: Header, content: &[u8], mode: Mode) -> Result<Put> {
        let object = envelope::seal(header, content, &mut Compressor::new(Compression::Stored)?)?;
        self.store.put(key, &object, mode).doing(|| format!("store {key} in repository {}", self.name))
    }
}

/// Decodes the JSON content of an object.
fn parse_json<T: serde::de::DeserializeOwned>(content: &[u8]) -> Result<T> {
    serde_json::from_slice(content)
        .map_err(|e| Error::new(Kind::Damage, format!("its content is not valid: {e}")))
}

/// Encodes the JSON content of an object.
fn to_json(value: &impl serde::Serialize) -> Result<Vec<u8>> {
    let mut text =
        serde_json::to_vec_pretty(value).map_err(|e| Error::new(Kind::Failed, format!("write JSON: {e}")))?;
    text.push(b'\n');
    Ok(text)
}
