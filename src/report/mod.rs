//! One HTML page about clusters and their repositories, built from values.
//!
//! The page needs nothing but itself: no script, no other file, no request. This room reads no
//! file, no repository and no clock: the caller collects a [`ClusterView`] for each cluster and
//! passes the time. Charts and tables are bounded, so the page stays readable however many backups
//! there are.

mod chart;
mod coverage;
mod history;
mod html;
mod page;
mod sizes;
mod tables;

pub use page::{light, page};

use crate::error::{Error, Result};
use crate::observe::{Health, RepositoryStock, size_text};
use crate::repo::catalog::Gap;
use crate::repo::drills::{Drill, last_of};
use crate::repo::history::WalHistory;
use crate::repo::pin::Pin;
use crate::repo::record::Record;
use crate::repo::window::Window;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;

/// A cluster and the content of each of its repositories, in the order of
/// `health.facts.repositories`.
pub struct ClusterView {
    pub health: Health,
    /// `None`: the repository did not answer; `health` has the reason.
    pub holdings: Vec<Option<Result<Holdings>>>,
}

/// Everything in one repository that the page shows.
pub struct Holdings {
    pub records: Vec<Record>,
    /// Backups whose record cannot be read, and why.
    pub damaged: Vec<(String, Error)>,
    /// Pins in force, by backup.
    pub pins: BTreeMap<String, Pin>,
    /// Oldest first.
    pub drills: Vec<Drill>,
    /// `None`: no WAL was ever stored.
    pub wal: Option<WalHistory>,
    /// Segments that at least one backup misses.
    pub gaps: Vec<Gap>,
    /// The window along the living timeline.
    pub window: Option<Window>,
    /// All windows, by timeline.
    pub windows: Vec<Window>,
    /// Bytes that removing a backup would free, by backup.
    pub exclusive: BTreeMap<String, u64>,
    /// Bytes of all backups, each object counted once.
    pub backup_bytes: u64,
    pub wal_bytes: u64,
}

impl Holdings {
    /// The last drill of a backup.
    fn drill(&self, id: &str) -> Option<&Drill> {
        last_of(&self.drills, id)
    }
}

/// A backup, with the facts about it that its record does not have.
struct Known<'a> {
    record: &'a Record,
    pin: Option<&'a Pin>,
    /// A verification found it damaged.
    is_found_bad: bool,
}

impl Known<'_> {
    /// All backups of a repository by the time at which they ended. The order of their WAL may
    /// differ after a recovery.
    fn all<'a>(holdings: &'a Holdings, stock: &RepositoryStock) -> Vec<Known<'a>> {
        let bad = stock.backups.iter().filter(|backup| backup.is_found_bad);
        let bad: BTreeSet<&str> = bad.map(|backup| backup.id.as_str()).collect();
        let known = |record: &'a Record| Known {
            record,
            pin: holdings.pins.get(&record.id),
            is_found_bad: bad.contains(record.id.as_str()),
        };
        let mut all: Vec<Known<'a>> = holdings.records.iter().map(known).collect();
        all.sort_by_key(|known| known.record.stop_time);
        all
    }

    fn is_good(&self) -> bool {
        self.record.is_complete() && !self.is_found_bad
    }

    fn is_full(&self) -> bool {
        self.record.parent.is_none()
    }

    fn kind(&self) -> &'static str {
        if self.is_full() { "full" } else { "incremental" }
    }

    fn state(&self) -> &'static str {
        match (self.is_found_bad, self.record.is_complete()) {
            (true, _) => "found damaged",
            (false, false) => "bad pages",
            (false, true) => "complete",
        }
    }
}

/// A computed number of bytes as text: `16.00 MiB`.
#[expect(clippy::cast_possible_truncation, reason = "a fraction of a byte is not shown")]
fn bytes_text(bytes: f64) -> String {
    size_text(bytes as u64)
}

/// `1 backup`, `2 backups`.
fn count<N: From<u8> + PartialEq + Display>(number: N, singular: &str) -> String {
    let plural = if number == N::from(1) { "" } else { "s" };
    format!("{number} {singular}{plural}")
}
