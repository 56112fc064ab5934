//! The record of a backup: the one small object that makes the backup exist. It is written last and
//! never changed.
//!
//! A fence at the key of a record keeps the backup from being recorded. A prune stores it when it
//! considers the backup stale.

use super::entry::Tablespace;
use super::manifest::MAX_PART;
use super::name::ObjectName;
use super::object::{MAX_SMALL, is_about_the_object, misplaced};
use super::packset::PackSet;
use super::{Archive, key, parse_json};
use crate::codec::envelope::{Header, ObjectKind, decimal};
use crate::codec::hash::ContentHash;
use crate::error::{Error, Kind, Result};
use crate::pg::checksums::{ChecksumState, ChecksumStates};
use crate::pg::lsn::Lsn;
use crate::pg::segment::{SegmentName, SegmentSize, TimelineId};
use crate::storage::{Key, Mode, Put};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

/// The record of a backup.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Record {
    pub id: String,
    pub state: State,
    pub start_time: jiff::Timestamp,
    pub stop_time: jiff::Timestamp,
    pub start_lsn: Lsn,
    pub stop_lsn: Lsn,
    /// The timeline of the whole backup, from its start to its end.
    pub timeline: TimelineId,
    #[serde(with = "decimal")]
    pub system_identifier: u64,
    /// The server's `server_version`: `15.18 (Debian 15.18-0+deb12u1)`.
    pub pg_version: String,
    /// Bytes of all files when restored.
    pub size: u64,
    /// Bytes that the backup takes in the repository: its manifest, and its share of each pack.
    pub stored: u64,
    /// Bytes that taking the backup added to the repository.
    pub new_bytes: u64,
    pub files: u64,
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// The backup with which it shares most blocks; `None` when it shares none.
    pub parent: Option<String>,

    /// The parts of the manifest, in order.
    pub manifest: Vec<ManifestPart>,
    /// The packs that the manifest names; `None` in old records, where the manifest has to be read
    /// for them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub packs: Option<PackSet>,
    pub segment_size: SegmentSize,
    pub wal: WalRange,
    pub settings: Settings,
    #[serde(default)]
    pub tablespaces: Vec<TablespaceSize>,
    /// The databases when the backup began.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub databases: Vec<Database>,
    /// Files of the cluster that had pages with wrong checksums.
    #[serde(default)]
    pub damaged: Vec<DamagedFile>,
}

/// The state of the cluster in a backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// No page had a wrong checksum.
    Complete,
    /// Pages of the cluster had wrong checksums; see `damaged`.
    Damaged,
}

/// Maximum bytes of a part of a manifest as it is stored. Text that cannot be compressed grows a
/// little.
const MAX_PART_OBJECT: u64 = MAX_PART + (1 << 20);

/// A part of a manifest, as the record describes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManifestPart {
    /// Key relative to the archive.
    pub key: String,
    /// Bytes of the stored object, with its header.
    pub size: u64,
    /// Hash of the stored object, with its header.
    pub sha256: ContentHash,
    /// The part of an earlier manifest that this part is a delta of. The base has no base itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<Box<ManifestPart>>,
}

impl ManifestPart {
    /// Returns the backup whose manifest has the part, and the number of the part; `None` when the
    /// key does not name a manifest part.
    pub fn place(&self) -> Option<(String, u32)> {
        match ObjectName::parse(&self.key) {
            Some(ObjectName::Manifest(id, number)) => Some((id, number)),
            _ => None,
        }
    }

    /// Checks that this is the part with this number of a backup, and that it and its base can be
    /// read. Returns what is wrong.
    fn check(&self, id: &str, number: u32) -> std::result::Result<(), String> {
        if self.place() != Some((id.to_owned(), number)) {
            return Err(format!("it names `{}` as part {number} of its manifest", self.key.escape_debug()));
        }
        let can_be_base = |base: &ManifestPart| base.place().is_some() && base.base.is_none();
        if let Some(base) = self.base.as_deref().filter(|base| !can_be_base(base)) {
            return Err(format!("it names `{}` as base of its manifest", base.key.escape_debug()));
        }
        let is_large = |part: &ManifestPart| part.size > MAX_PART_OBJECT;
        match [Some(self), self.base.as_deref()].into_iter().flatten().find(|part| is_large(part)) {
            Some(part) => Err(format!("its manifest part {} has {} bytes", part.key, part.size)),
            None => Ok(()),
        }
    }
}

/// The segments from the start of a backup to its end, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct WalRange {
    pub first: SegmentName,
    pub last: SegmentName,
}

impl WalRange {
    /// Returns the segments that make a backup consistent; `lsns` are its start and its end.
    ///
    /// A recovery to the end of the backup stops at the record behind that end
    /// (`recoveryStopsBefore` in `xlogrecovery.c`). Behind the end of a primary's backup there is a
    /// switch of segments. The end of a standby's backup may be the end of a segment; then that
    /// record is the first one of the next segment.
    pub fn of_backup(
        timeline: TimelineId,
        lsns: Range<Lsn>,
        from_standby: bool,
        size: SegmentSize,
    ) -> WalRange {
        let last = if from_standby { SegmentName::containing } else { SegmentName::ending_at };
        WalRange {
            first: SegmentName::containing(timeline, lsns.start, size),
            last: last(timeline, lsns.end, size),
        }
    }
}

/// Settings of the server.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// Its `TimeZone`, in which times without an offset are read.
    pub time_zone: String,
    pub block_size: u32,
    /// Whether data checksums were on at the start and at the end of the backup.
    pub data_checksums: bool,
    /// The states of data checksums; `None` in old records.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checksum_states: Option<ChecksumStates>,
    pub data_directory: String,
    pub config_file: String,
    pub from_standby: bool,
    /// Target of `pg_wal`, if that was a link.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wal_directory: Option<String>,
    /// Files outside of the data directory that settings name and that are not in the backup.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub outside: Vec<OutsideFile>,
}

/// A file or directory outside of the data directory, and the setting that names it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutsideFile {
    pub setting: String,
    pub path: String,
}

impl Settings {
    /// Sets the states of data checksums.
    #[must_use]
    pub fn with_checksums(self, states: ChecksumStates) -> Settings {
        Settings { data_checksums: states.are_on(), checksum_states: Some(states), ..self }
    }

    /// The states of data checksums. Old records are of servers that cannot change them while they
    /// run.
    pub fn checksums(&self) -> ChecksumStates {
        let state = if self.data_checksums { ChecksumState::On } else { ChecksumState::Off };
        self.checksum_states.unwrap_or(ChecksumStates { start: state, end: state })
    }
}

/// A tablespace and its size.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TablespaceSize {
    #[serde(flatten)]
    pub tablespace: Tablespace,
    /// Bytes of its files when the backup began to read it.
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
    /// Numbers of the first thousand bad pages in the file, counted from 0.
    pub blocks: Vec<u32>,
}

impl Record {
    /// Whether its WAL is what makes the backup consistent.
    pub fn has_own_wal(&self) -> bool {
        let lsns = self.start_lsn..self.stop_lsn;
        let from_standby = self.settings.from_standby;
        self.wal == WalRange::of_backup(self.timeline, lsns, from_standby, self.segment_size)
    }

    pub fn is_complete(&self) -> bool {
        self.state == State::Complete
    }

    /// Reads a record and checks what the rest of walkeep relies on.
    fn parse(content: &[u8], id: &str) -> Result<Box<Record>> {
        let record: Box<Record> = parse_json(content)?;
        if record.id != id {
            return Err(misplaced(&record.id));
        }
        record.check().map_err(|what| Error::new(Kind::Damage, what))?;
        Ok(record)
    }

    /// Checks what a restore relies on. Returns what is wrong.
    fn check(&self) -> std::result::Result<(), String> {
        let WalRange { first, last } = self.wal;
        if (first.timeline, last.timeline) != (self.timeline, self.timeline) || last < first {
            return Err(format!(
                "its WAL from {first} to {last} is not a range on timeline {}",
                self.timeline
            ));
        }
        let lsns = self.start_lsn..self.stop_lsn;
        // A record may be older than the rule for standbys; `verify` reports that.
        let of =
            |from_standby| WalRange::of_backup(self.timeline, lsns.clone(), from_standby, self.segment_size);
        if lsns.start > lsns.end || ![false, true].map(of).contains(&self.wal) {
            let (start, stop) = (self.start_lsn, self.stop_lsn);
            return Err(format!("it is from {start} to {stop}, but its WAL is from {first} to {last}"));
        }
        if self.timeline.0 == 0 {
            return Err("it is on timeline 0".to_owned());
        }
        if !self.settings.data_directory.starts_with('/') {
            return Err("its data directory is not an absolute path".to_owned());
        }
        if self.manifest.is_empty() {
            return Err("it has no manifest".to_owned());
        }
        (1..).zip(&self.manifest).try_for_each(|(number, part)| part.check(&self.id, number))?;
        let oids: BTreeSet<u32> = self.tablespaces.iter().map(|known| known.tablespace.oid).collect();
        if oids.len() < self.tablespaces.len() {
            return Err("it has a tablespace twice".to_owned());
        }
        Ok(())
    }

    /// Iterates over the objects needed to read the manifest: each part, then its base. A base may
    /// appear more than once.
    pub fn manifest_objects(&self) -> impl Iterator<Item = &ManifestPart> {
        self.manifest.iter().flat_map(|part| [part].into_iter().chain(part.base.as_deref()))
    }
}

/// The backups of an archive.
#[derive(Debug, Default)]
pub struct Records {
    /// Records in the order of their start LSNs.
    pub good: Vec<Record>,
    /// Ids of backups whose record is damaged, and why. The others are not affected.
    pub damaged: Vec<(String, Error)>,
    /// Bytes of each good record in the repository.
    pub sizes: BTreeMap<String, u64>,
    /// Time at which each good record was stored, by the clock of the store.
    pub stored: BTreeMap<String, jiff::Timestamp>,
    /// Ids of fenced backups, each with the time of the fence.
    pub fenced: Vec<(String, jiff::Timestamp)>,
}

/// The object at the key of a backup's record.
enum Recorded {
    Record(Box<Record>),
    Fence,
}

impl Archive {
    /// Records a backup. It is the last step: from here on the backup is listed.
    ///
    /// # Errors
    ///
    /// [`Kind::Refused`] when the backup was fenced, [`Kind::Conflict`] when it exists.
    pub fn put_record(&self, record: &Record) -> Result<()> {
        let name = ObjectName::Record(record.id.clone());
        if self.put_small(&name, ObjectKind::Backup, record, Mode::Create)? == Put::Stored {
            return Ok(());
        }
        Err(match self.recorded(&self.key_of(&name)?)? {
            Some(Recorded::Fence) => Error::new(
                Kind::Refused,
                format!("backup {} missed its heartbeats and was fenced by a prune", record.id),
            )
            .hint("was this machine suspended, or the repository unreachable? take another backup"),
            _ => Error::new(Kind::Conflict, format!("backup {} exists already", record.id)),
        })
    }

    /// Fences a backup, so that it can never be recorded. Returns false when the backup is
    /// recorded already.
    #[must_use = "a backup that is recorded has to stay"]
    pub fn fence(&self, id: &str) -> Result<bool> {
        let name = ObjectName::Record(id.to_owned());
        let content = serde_json::json!({"given_up": id});
        if self.put_small(&name, ObjectKind::GivenUp, &content, Mode::Create)? == Put::Stored {
            return Ok(true);
        }
        Ok(matches!(self.recorded(&self.key_of(&name)?)?, Some(Recorded::Fence)))
    }

    /// Reads the records of all backups.
    pub fn records(&self) -> Result<Records> {
        let mut records = Records::default();
        self.each_named(key::BACKUPS, |name, listed| {
            let ObjectName::Record(id) = name else {
                return Ok(());
            };
            match self.recorded(&listed.key) {
                // Pruned since it was listed.
                Ok(None) => {}
                Ok(Some(Recorded::Record(record))) => {
                    records.stored.insert(id.clone(), listed.modified);
                    records.sizes.insert(id, listed.size);
                    records.good.push(*record);
                }
                Ok(Some(Recorded::Fence)) => records.fenced.push((id, listed.modified)),
                Err(error) if is_about_the_object(&error) => records.damaged.push((id, error)),
                Err(error) => return Err(error),
            }
            Ok(())
        })?;
        records.good.sort_by(|a, b| (a.start_lsn, a.timeline, &a.id).cmp(&(b.start_lsn, b.timeline, &b.id)));
        Ok(records)
    }

    /// Reads the record of one backup; `None` when it does not exist or the backup is fenced.
    pub fn record(&self, id: &str) -> Result<Option<Record>> {
        let recorded = self.recorded(&self.key_of(&ObjectName::Record(id.to_owned()))?)?;
        Ok(match recorded {
            Some(Recorded::Record(record)) => Some(*record),
            Some(Recorded::Fence) | None => None,
        })
    }

    fn recorded(&self, key: &Key) -> Result<Option<Recorded>> {
        let Some((header, content)) = self.repository().read_small(key, key.name())? else {
            return Ok(None);
        };
        let read = || {
            if header.kind == ObjectKind::GivenUp {
                return Ok(Recorded::Fence);
            }
            self.check_header(&header, ObjectKind::Backup, key.name())?;
            let record = Record::parse(&content, key.name())?;
            if record.system_identifier != self.lineage().system_identifier {
                let what = format!("it belongs to the cluster {}", record.system_identifier);
                return Err(Error::new(Kind::Damage, what));
            }
            Ok(Recorded::Record(record))
        };
        self.in_repository("read", key, read()).map(Some)
    }

    /// Copies a backup's record to an archive that has all objects that the record names. Returns
    /// the number of bytes.
    pub fn copy_record(&self, to: &Archive, id: &str) -> Result<u64> {
        let relative = key::backup(id);
        let gone =
            || Error::new(Kind::Unavailable, format!("the record of backup {id} was removed meanwhile"));
        let size = self.size(&relative)?.filter(|size| *size <= MAX_SMALL).ok_or_else(gone)?;
        let object = self.get_range(&relative, 0..size)?;
        let header = Header::decode(&object)?;
        self.check_header(&header, ObjectKind::Backup, id)?;
        match to.put_object(&relative, &object)? {
            Put::Stored => Ok(size),
            Put::Exists => Err(Error::new(Kind::Conflict, format!("backup {id} exists there already"))),
        }
    }
}
