//! Facts about a cluster, without a judgement.

use crate::error::Error;
use crate::pg::segment::{SegmentName, SegmentSize};
use crate::repo::branches::{Branches, ServerTimeline};
use crate::repo::holes::Hole;
use crate::repo::missing::MissingHistory;
use crate::repo::window::Window;
use jiff::Timestamp;
use std::time::Duration;

/// A fact, or the reason why it is not known.
pub type Gathered<T> = std::result::Result<T, Trouble>;

/// Reason why a fact is not known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    pub why: String,
    pub hint: Option<String>,
}

impl Trouble {
    /// A reason without a hint.
    pub fn new(why: impl Into<String>) -> Trouble {
        Trouble { why: why.into(), hint: None }
    }
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Trouble {
        Trouble { why: error.to_string(), hint: error.advice().map(str::to_owned) }
    }
}

/// All facts about a cluster at one moment.
#[derive(Debug, Clone)]
pub struct Facts {
    pub cluster: String,
    pub now: Timestamp,
    /// Whether a server seems to run on the data directory, or was killed.
    pub is_running: bool,
    pub server: Gathered<ObservedServer>,
    /// Timeline of the server, from its answer or its data directory.
    pub timeline: ServerTimeline,
    pub queue: Gathered<ArchiveQueue>,
    /// File system of `pg_wal`.
    pub disk: Gathered<Disk>,
    /// Repositories in the order of the configuration.
    pub repositories: Vec<RepositoryFacts>,
}

/// State of the server, from its answers.
#[derive(Debug, Clone, Default)]
pub struct ObservedServer {
    pub version: String,
    pub in_recovery: bool,
    /// System identifier of the server; `None` when the role may not read it.
    pub system_identifier: Option<u64>,
    /// System identifier of the data directory.
    pub expected_identifier: Option<u64>,
    /// Whether `archive_mode` is on and an `archive_command` or `archive_library` is set.
    pub archives: bool,
    /// Segment that is being written; `None` in recovery.
    pub current: Option<SegmentName>,
    /// Size of a WAL segment; `None` when the server does not show it.
    pub segment_size: Option<SegmentSize>,
    pub archiver: ArchiverStats,
}

/// Counters of `pg_stat_archiver`.
#[derive(Debug, Clone, Default)]
pub struct ArchiverStats {
    pub archived: u64,
    /// Name of a WAL file and time.
    pub last_archived: Option<(String, Timestamp)>,
    pub failed: u64,
    /// Name of a WAL file and time.
    pub last_failed: Option<(String, Timestamp)>,
}

impl ArchiverStats {
    /// File and time of the last attempt, if it failed.
    pub fn failing(&self) -> Option<(&str, Timestamp)> {
        let (name, failed) = self.last_failed.as_ref()?;
        let is_last = self.last_archived.as_ref().is_none_or(|(_, archived)| failed > archived);
        is_last.then_some((name.as_str(), *failed))
    }
}

/// Files in `pg_wal` that wait to be archived.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ArchiveQueue {
    /// Number of files.
    pub ready: u64,
    /// Size of these files.
    pub bytes: u64,
    pub oldest: Option<Ready>,
    /// `None` when too little has happened to compute them.
    pub rates: Option<Rates>,
}

/// A file that waits to be archived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ready {
    pub name: String,
    /// Time at which the server finished it.
    pub since: Timestamp,
}

/// Bytes of WAL per second over the last hour, or over the shorter time that `pg_wal` shows.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rates {
    pub written: f64,
    pub archived: f64,
    /// Duration over which both were measured.
    pub over: Duration,
}

/// Size and free space of a file system, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Disk {
    pub size: u64,
    pub free: u64,
}

/// One repository of the cluster.
#[derive(Debug, Clone)]
pub struct RepositoryFacts {
    pub name: String,
    pub url: String,
    pub is_required: bool,
    pub stock: Gathered<RepositoryStock>,
}

/// Backups and WAL of the cluster in one repository.
#[derive(Debug, Clone, Default)]
pub struct RepositoryStock {
    /// Backups in the order in which they began.
    pub backups: Vec<ObservedBackup>,
    /// Ids of backups whose records cannot be read.
    pub unreadable: Vec<String>,
    /// Names of timeline histories, and of segments at the end of a window, that are damaged.
    pub unreadable_wal: Vec<String>,
    pub gaps: Vec<Hole>,
    /// Histories that are missing and that a backup needs.
    pub missing_histories: Vec<MissingHistory>,
    /// Timelines of the repository; `None`: not read.
    pub branches: Option<Branches>,
    /// The window that `list` shows: along the living timeline.
    pub window: Option<Window>,
    /// All windows, by timeline.
    pub windows: Vec<Window>,
    /// Last segment along the living timeline, and the time at which it was stored.
    pub newest: Option<(SegmentName, Timestamp)>,
    /// Number of finished segments of the server that are not in the repository; `None` when that
    /// is not known, for instance without the server.
    pub behind: Option<u64>,
    /// WAL file that the server counts as archived, if it is newer than everything along the living
    /// timeline in the repository.
    pub lacks_archived: Option<String>,
    /// Bytes of all backups.
    pub backup_bytes: u64,
    /// Bytes of backups that are being taken or did not finish; `None` when an old record does not
    /// name its packs.
    pub unfinished_bytes: Option<u64>,
    /// Bytes of all WAL.
    pub wal_bytes: u64,
    /// Bytes per second that were added in the last week, or since the first object was stored if
    /// that was later; `None` after less than an hour.
    pub growth: Option<f64>,
    pub drill: Option<LastDrill>,
}

/// One backup.
#[derive(Debug, Clone)]
pub struct ObservedBackup {
    pub id: String,
    pub ended: Timestamp,
    /// Time from which its age counts: its end, or the time at which its record was stored if the
    /// end is in the future. `None`: both are in the future.
    pub since: Option<Timestamp>,
    /// Whether it leads to a timeline that is or may be alive.
    pub leads: bool,
    /// Restored size in bytes.
    pub size: u64,
    /// Bytes that its blocks take in the repository.
    pub stored: u64,
    /// Whether no page of the cluster was damaged.
    pub is_complete: bool,
    /// Whether a verification found it damaged.
    pub is_found_bad: bool,
}

impl ObservedBackup {
    /// Whether it is complete and not known to be damaged.
    pub fn is_good(&self) -> bool {
        self.is_complete && !self.is_found_bad
    }

    /// Whether its end was in the future when it was observed.
    pub fn is_of_the_future(&self) -> bool {
        self.since != Some(self.ended)
    }
}

/// The newest drill with an outcome other than unknown, else the newest of all, and the end of the
/// newest drill that proved a backup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LastDrill {
    pub ended: Timestamp,
    pub outcome: String,
    pub is_refuted: bool,
    /// End of the newest drill that proved a backup.
    pub last_proved: Option<Timestamp>,
}

impl RepositoryStock {
    /// The newest good backup that leads to the living timeline and whose age is known, and the time
    /// from which its age counts.
    pub fn last_good(&self) -> Option<(&ObservedBackup, Timestamp)> {
        let good = self.backups.iter().filter(|backup| backup.is_good() && backup.leads);
        good.filter_map(|backup| Some((backup, backup.since?))).max_by_key(|(_, since)| *since)
    }
}

impl Facts {
    /// Seconds until the disk of `pg_wal` is full at the present rates; `None` when it does not
    /// fill, or the rates or the free space are not known.
    pub fn full_in(&self) -> Option<f64> {
        let (queue, disk) = (self.queue.as_ref().ok()?, self.disk.as_ref().ok()?);
        let rates = queue.rates?;
        let net = rates.written - rates.archived;
        (queue.ready > 0 && net > 0.0).then(|| disk.free as f64 / net)
    }
}
