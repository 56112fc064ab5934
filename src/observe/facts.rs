//! What was seen, without a judgement.

use crate::error::Error;
use crate::pg::segment::SegmentName;
use crate::repo::catalog::Gap;
use crate::repo::window::Window;
use jiff::Timestamp;
use std::time::Duration;

/// Something that was looked for, or why it cannot be known.
pub type Gathered<T> = std::result::Result<T, Trouble>;

/// Why something is not known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    pub why: String,
    pub hint: Option<String>,
}

impl Trouble {
    pub fn new(why: impl Into<String>) -> Trouble {
        Trouble { why: why.into(), hint: None }
    }
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Trouble {
        Trouble { why: error.to_string(), hint: error.advice().map(str::to_owned) }
    }
}

/// Everything that is known of a cluster at one moment.
#[derive(Debug, Clone)]
pub struct Facts {
    pub cluster: String,
    pub now: Timestamp,
    /// Whether the data directory looks as if a server ran on it: it has a `postmaster.pid`.
    pub is_running: bool,
    pub server: Gathered<Server>,
    pub queue: Gathered<Queue>,
    /// The file system of `pg_wal`.
    pub disk: Gathered<Disk>,
    /// In the order of the configuration.
    pub repositories: Vec<Repository>,
}

/// What the server says.
#[derive(Debug, Clone, Default)]
pub struct Server {
    pub version: String,
    pub in_recovery: bool,
    /// None: it may not be asked.
    pub system_identifier: Option<u64>,
    /// That of the data directory.
    pub expected_identifier: Option<u64>,
    /// `archive_mode` is on, and there is something that archives.
    pub archives: bool,
    /// The segment that is being written; none in recovery.
    pub current: Option<SegmentName>,
    pub segment_size: Option<u64>,
    pub archiver: Archiver,
}

/// `pg_stat_archiver`.
#[derive(Debug, Clone, Default)]
pub struct Archiver {
    pub archived: u64,
    pub last_archived: Option<(String, Timestamp)>,
    pub failed: u64,
    pub last_failed: Option<(String, Timestamp)>,
}

impl Archiver {
    /// The last attempt failed: the file, and since when attempts fail as far as is known.
    pub fn failing(&self) -> Option<(&str, Timestamp)> {
        let (name, failed) = self.last_failed.as_ref()?;
        let is_last = self.last_archived.as_ref().is_none_or(|(_, archived)| failed > archived);
        is_last.then_some((name.as_str(), *failed))
    }
}

/// What waits in `pg_wal` to be archived.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Queue {
    pub ready: u64,
    /// Of the files that wait.
    pub bytes: u64,
    pub oldest: Option<Ready>,
    /// Unknown while too little has happened.
    pub rates: Option<Rates>,
}

/// A file that waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ready {
    pub name: String,
    /// When it was ready.
    pub since: Timestamp,
}

/// Bytes in a second, of the last hour or as far back as `pg_wal` shows.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rates {
    pub written: f64,
    pub archived: f64,
    pub over: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Disk {
    pub size: u64,
    pub free: u64,
}

#[derive(Debug, Clone)]
pub struct Repository {
    pub name: String,
    pub url: String,
    pub is_required: bool,
    pub stock: Gathered<Stock>,
}

/// What a repository has of the cluster.
#[derive(Debug, Clone, Default)]
pub struct Stock {
    /// In the order in which they began.
    pub backups: Vec<Backup>,
    /// Backups whose records cannot be read.
    pub unreadable: Vec<String>,
    /// History files that are damaged, and segments at the end of a window.
    pub unreadable_wal: Vec<String>,
    pub gaps: Vec<Gap>,
    /// Along the newest timeline that a backup leads to.
    pub window: Option<Window>,
    /// By timeline.
    pub windows: Vec<Window>,
    /// The last segment of the newest timeline, and when it was stored.
    pub newest: Option<(SegmentName, Timestamp)>,
    /// How many segments there are behind it on the server that are finished; unknown without the server.
    pub behind: Option<u64>,
    /// What the server counts as archived is later than everything here.
    pub lacks_archived: Option<String>,
    pub backup_bytes: u64,
    /// Of backups that are being made or were given up; unknown where old records do not say what they name.
    pub unfinished_bytes: Option<u64>,
    pub wal_bytes: u64,
    /// Bytes in a second that were added in the last week, or since the first thing was stored.
    pub growth: Option<f64>,
    pub drill: Option<Drilled>,
}

#[derive(Debug, Clone)]
pub struct Backup {
    pub id: String,
    pub ended: Timestamp,
    pub size: u64,
    pub stored: u64,
    /// No page of the cluster was damaged.
    pub is_complete: bool,
    /// A verification found it damaged.
    pub is_found_bad: bool,
}

impl Backup {
    pub fn is_good(&self) -> bool {
        self.is_complete && !self.is_found_bad
    }
}

/// The newest drill that could tell, and the newest that proved something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Drilled {
    pub ended: Timestamp,
    pub outcome: String,
    pub is_refuted: bool,
    pub last_proved: Option<Timestamp>,
}

impl Stock {
    /// The newest backup that is worth something.
    pub fn last_good(&self) -> Option<&Backup> {
        self.backups.iter().filter(|backup| backup.is_good()).max_by_key(|backup| backup.ended)
    }
}

impl Facts {
    /// In how many seconds the disk of `pg_wal` is full, at the rates of now; `None` when it does not fill, or that
    /// cannot be known.
    pub fn full_in(&self) -> Option<f64> {
        let (queue, disk) = (self.queue.as_ref().ok()?, self.disk.as_ref().ok()?);
        let rates = queue.rates?;
        let net = rates.written - rates.archived;
        (queue.ready > 0 && net > 0.0).then(|| disk.free as f64 / net)
    }
}
