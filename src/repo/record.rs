//! A backup's record: the one small object that makes it exist.

use super::data::PackSet;
use super::entry::Tablespace;
use super::name::ObjectName;
use crate::codec::envelope::decimal;
use crate::codec::hash::ContentHash;
use crate::pg::lsn::Lsn;
use crate::pg::segment::{SegmentName, SegmentSize, TimelineId};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Record {
    pub id: String,
    pub state: State,
    pub start_time: jiff::Timestamp,
    pub stop_time: jiff::Timestamp,
    pub start_lsn: Lsn,
    pub stop_lsn: Lsn,
    /// At the start; a standby's backup may end on a later one.
    pub timeline: TimelineId,
    #[serde(with = "decimal")]
    pub system_identifier: u64,
    /// As the server says it: `15.18 (Debian 15.18-0+deb12u1)`.
    pub pg_version: String,
    /// Bytes when restored.
    pub size: u64,
    /// Bytes that all its blocks take in the repository.
    pub stored: u64,
    /// Bytes that this run wrote.
    pub new_bytes: u64,
    pub files: u64,
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// The backup whose blocks it shares most, when it shares any.
    pub parent: Option<String>,

    /// The parts of the manifest, in order.
    pub manifest: Vec<ManifestPart>,
    /// The packs that the manifest names; where it is not said the manifest has to be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub packs: Option<PackSet>,
    pub segment_size: SegmentSize,
    pub wal: WalRange,
    pub settings: Settings,
    #[serde(default)]
    pub tablespaces: Vec<TablespaceSize>,
    /// Those that there were when the backup began.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub databases: Vec<Database>,
    /// Pages that were bad in the cluster itself.
    #[serde(default)]
    pub damaged: Vec<DamagedFile>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    Complete,
    /// Pages of the cluster had wrong checksums; see `damaged`.
    Damaged,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManifestPart {
    /// Relative to the archive.
    pub key: String,
    /// Of the stored object, its header included.
    pub size: u64,
    /// Of the stored object, its header included.
    pub sha256: ContentHash,
    /// A part of an earlier backup's manifest without whose text this one's cannot be told. It has no base itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<Box<ManifestPart>>,
}

impl ManifestPart {
    /// The backup whose manifest it is part of, and its number there; `None` when its key is none of such a part.
    pub fn place(&self) -> Option<(String, u32)> {
        match ObjectName::parse(&self.key) {
            Some(ObjectName::Manifest(id, number)) => Some((id, number)),
            _ => None,
        }
    }
}

/// The segments from the start of a backup to its end, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct WalRange {
    pub first: SegmentName,
    pub last: SegmentName,
}

/// What the server said of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// Its `TimeZone`: what a time without an offset means.
    pub time_zone: String,
    pub block_size: u32,
    pub data_checksums: bool,
    pub data_directory: String,
    pub config_file: String,
    pub from_standby: bool,
}

/// A tablespace, and how much is in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TablespaceSize {
    #[serde(flatten)]
    pub tablespace: Tablespace,
    /// Bytes of its files when the backup began to read them.
    pub size: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Database {
    pub oid: u32,
    pub name: String,
}

/// A file of the cluster with bad pages.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DamagedFile {
    pub path: String,
    /// Numbers of the pages in the file, counted from 0; the first thousand.
    pub blocks: Vec<u32>,
}

impl Record {
    pub fn is_complete(&self) -> bool {
        self.state == State::Complete
    }

    /// The objects that the manifest is told by: each part, and behind it its base. A base may come more than once.
    pub fn manifest_objects(&self) -> impl Iterator<Item = &ManifestPart> {
        self.manifest.iter().flat_map(|part| [part].into_iter().chain(part.base.as_deref()))
    }
}
