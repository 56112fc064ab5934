//! State of a verification: options, the contents of the archive, and the result.

use super::evidence::Evidence;
use super::findings::{Checked, Findings, Note, Problem, Unknown};
use crate::error::{Error, Kind, Result};
use crate::pg::segment::{SegmentName, TimelineId, WalName};
use crate::progress::Progress;
use crate::repo::Archive;
use crate::repo::active::Explained;
use crate::repo::branches::{Branches, ServerTimeline};
use crate::repo::data::Data;
use crate::repo::evidence::{FoundSeams, KnownGaps};
use crate::repo::history::WalHistory;
use crate::repo::missing::MissingHistory;
use crate::repo::record::{ManifestPart, Record};
use jiff::Timestamp;
use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroUsize;

/// Part of an archive to verify.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    All,
    /// One backup and the WAL from it on.
    Backup(String),
    /// The WAL alone.
    Wal,
}

pub struct Options {
    /// Stored bytes that were read, out of the bytes to read.
    pub progress: Progress,
    pub scope: Scope,
    /// Check presence and size alone.
    pub quick: bool,
    /// Packs and segments that were read at this time or later are not read again; `None`: all are
    /// read.
    pub since: Option<Timestamp>,
    pub now: Timestamp,
    /// Number of reading threads.
    pub jobs: NonZeroUsize,
    /// Whether an archive without a complete backup is a problem.
    pub needs_backup: bool,
    /// Timeline of the cluster's server.
    pub server: ServerTimeline,
    /// Twelve random hexadecimal digits.
    pub random: String,
}

/// Result of a verification.
#[derive(Debug, Default)]
pub struct VerifyResult {
    pub checked: Checked,
    /// Bytes that were not read, since an earlier verification has read them recently.
    pub trusted: u64,
    pub problems: Vec<Problem>,
    /// Objects that could not be checked.
    pub unknown: Vec<Unknown>,
    /// Facts that are not problems.
    pub notes: Vec<Note>,
    /// Ids of backups with pages that were damaged in the cluster already.
    pub bad_pages: Vec<String>,
}

/// A verification in progress.
pub struct Run<'a> {
    pub archive: &'a Archive,
    pub options: &'a Options,
    pub findings: &'a Findings,
    pub records: Vec<Record>,
    /// Ids of the backups in scope.
    pub selected: BTreeSet<String>,
    /// Ids of backups that are kept with their own WAL alone.
    pub standalone: BTreeSet<String>,
    /// Packs and manifests by backup.
    pub data: BTreeMap<String, Data>,
    /// Every WAL file and its size.
    pub wal: Vec<(WalName, u64)>,
    /// Time at which each segment was stored.
    pub stored: BTreeMap<SegmentName, Timestamp>,
    /// Timelines, and which one is alive.
    pub branches: Branches,
    pub missing_histories: Vec<MissingHistory>,
    pub known_gaps: KnownGaps,
    /// `None` when there is neither a backup nor a segment.
    pub history: Option<WalHistory>,
    /// Evidence of earlier verifications.
    pub evidence: Evidence,
    /// Backups whose records may be missing.
    pub explained: Explained,
    /// Seams that earlier verifications have found. `history` has them only where WAL is not read.
    pub known_seams: FoundSeams,
    /// Ids of backups whose manifests were read to the end, so that all objects they name were
    /// checked.
    pub covered: BTreeSet<String>,
}

impl Run<'_> {
    /// Records of the backups in scope.
    pub fn selected(&self) -> impl Iterator<Item = &Record> {
        self.records.iter().filter(|record| self.selected.contains(&record.id))
    }

    /// Ids of the backups that may lead to a timeline.
    pub fn leading_to(&self, timeline: TimelineId) -> impl Iterator<Item = &str> {
        self.records.iter().filter(move |record| record.timeline <= timeline).map(|record| record.id.as_str())
    }

    /// Whether the backup has a manifest part that no record names.
    pub fn has_own_part(&self, id: &str) -> bool {
        let named: BTreeSet<(String, u32)> =
            self.records.iter().flat_map(Record::manifest_objects).filter_map(ManifestPart::place).collect();
        let parts = self.data.get(id).into_iter().flat_map(|data| data.manifests.keys());
        parts.map(|number| (id.to_owned(), *number)).any(|place| !named.contains(&place))
    }

    /// Whether a pack was listed.
    pub fn has_pack(&self, id: &str, number: u32) -> bool {
        self.data.get(id).is_some_and(|data| data.packs.contains_key(&number))
    }

    /// Whether a pack has to be read: no verification has read it recently.
    pub fn is_due(&self, id: &str, number: u32) -> bool {
        self.options.since.is_none_or(|since| !self.evidence.has_pack(id, number, since, self.options.now))
    }

    /// Whether a WAL file has to be read: no verification has read it recently.
    pub fn is_wal_due(&self, name: WalName) -> bool {
        match (self.options.since, name) {
            (Some(since), WalName::Segment(name)) => {
                !self.evidence.has_segment(name, since, self.options.now)
            }
            _ => true,
        }
    }

    /// Fails when the repository has stopped answering.
    pub fn check_outage(&self) -> Result<()> {
        if self.findings.is_outage() {
            return Err(Error::new(
                Kind::Unavailable,
                "the repository stopped answering; the remaining objects were not read",
            ));
        }
        Ok(())
    }
}

/// Number of bytes to read for a part of a manifest: the bytes of the part and of its base.
pub fn bytes_of(part: &ManifestPart) -> u64 {
    part.size + part.base.as_deref().map_or(0, |base| base.size)
}
