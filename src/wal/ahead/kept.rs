//! Formats that the calls and the worker of one data directory share: the names in the spool, the
//! mark of a kept segment, and the message about a delivered segment.

use super::spool::Spool;
use crate::codec::hash::{BlockHash, hash_all};
use crate::error::{Error, Kind, Result};
use crate::fs::named;
use crate::pg::segment::{SegmentName, SegmentSize, WalName};
use crate::repo::{Lineage, Repository};
use crate::wal::stamp::Stamp;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{Seek, Write};
use std::path::Path;
use std::str::FromStr;

/// Name of the FIFO on which calls send messages to the worker.
pub(super) const FIFO: &str = "asked";

/// The message of a call that it has delivered a segment.
#[derive(Debug, Clone, Copy)]
pub struct DeliveredSegment {
    pub name: SegmentName,
    pub size: SegmentSize,
}

impl DeliveredSegment {
    /// The message about a file that was delivered to `destination`; `None` when it is not a
    /// segment.
    pub fn new(name: WalName, destination: &Path) -> Option<DeliveredSegment> {
        let WalName::Segment(name) = name else {
            return None;
        };
        let size = u64::try_from(named::entry(destination).ok()??.st_size).ok()?;
        Some(DeliveredSegment { name, size: SegmentSize::try_from(size).ok()? })
    }

    /// Sends the message to the worker. Returns false when no worker is running.
    #[must_use]
    pub fn send(self, spool: &Spool) -> bool {
        let Some(mut fifo) = spool.opened().ok().and_then(|folder| folder.fifo(FIFO)) else {
            return false;
        };
        // A failure is ignored: when the FIFO is full, the worker has enough messages to read.
        let _ = fifo.write_all(format!("{} {}\n", self.name, self.size.bytes()).as_bytes());
        true
    }
}

impl FromStr for DeliveredSegment {
    type Err = Error;

    fn from_str(line: &str) -> Result<DeliveredSegment> {
        let invalid = || Error::new(Kind::Damage, format!("{line:?} is not a message to the worker"));
        let (name, size) = line.split_once(' ').ok_or_else(invalid)?;
        let size: u64 = size.parse().map_err(|_| invalid())?;
        Ok(DeliveredSegment { name: name.parse()?, size: SegmentSize::try_from(size)? })
    }
}

/// Evidence that a kept file is the one that was fetched and verified.
#[derive(Serialize, Deserialize)]
pub(super) struct KeptMark {
    lineage: String,
    /// Repositories from which the file may come: the mark does not fit any more when the
    /// configuration has changed.
    sources: Vec<MarkedRepository>,
    stamp: Stamp,
    pub hash: BlockHash,
    /// Identifier of the boot of the machine: bytes that were written before a crash may not be on
    /// the disk.
    boot: String,
}

/// A repository: its place and, unless it is remote, its identity.
#[derive(Serialize, Deserialize)]
struct MarkedRepository {
    place: String,
    /// `None` for a remote repository, and for one whose identity cannot be read.
    repository_id: Option<String>,
}

impl MarkedRepository {
    fn all(repositories: &[Repository], lineage: Lineage) -> Vec<MarkedRepository> {
        let id = |repository: &Repository| {
            let archive = (!repository.is_remote()).then(|| repository.open(lineage).ok()).flatten();
            archive.map(|archive| archive.identity().repository_id.clone())
        };
        let marked = |repository: &Repository| MarkedRepository {
            place: repository.place(),
            repository_id: id(repository),
        };
        repositories.iter().map(marked).collect()
    }

    /// Whether `now` can be this repository; also true when one of the identities is unknown.
    fn matches(&self, now: &MarkedRepository) -> bool {
        let ids = self.repository_id.as_ref().zip(now.repository_id.as_ref());
        self.place == now.place && ids.is_none_or(|(then, now)| then == now)
    }
}

impl KeptMark {
    pub fn new(
        lineage: Lineage,
        repositories: &[Repository],
        stamp: Stamp,
        hash: BlockHash,
    ) -> Result<KeptMark> {
        let sources = MarkedRepository::all(repositories, lineage);
        Ok(KeptMark { lineage: lineage.to_string(), sources, stamp, hash, boot: boot()? })
    }

    /// Whether the mark belongs to this fetch and to the file with this stamp.
    pub fn fits(&self, lineage: Lineage, repositories: &[Repository], stamp: Stamp) -> Result<bool> {
        let sources = MarkedRepository::all(repositories, lineage);
        Ok(self.lineage == lineage.to_string()
            && self.stamp == stamp
            && self.sources.len() == sources.len()
            && self.sources.iter().zip(&sources).all(|(then, now)| then.matches(now))
            && self.boot == boot()?)
    }
}

/// Identifier of this boot of the machine.
fn boot() -> Result<String> {
    const BOOT: &str = "/proc/sys/kernel/random/boot_id";
    const MAX_BOOT_SIZE: u64 = 1 << 10;
    named::read_text(Path::new(BOOT), MAX_BOOT_SIZE)?
        .ok_or_else(|| Error::new(Kind::Absent, format!("{BOOT} does not exist")))
}

/// Name of the mark of a kept segment.
pub(super) fn mark_of(name: SegmentName) -> String {
    format!("{name}.mark")
}

/// Name of the lock that the worker holds while it fetches a segment.
pub(super) fn busy_of(name: SegmentName) -> String {
    format!("{name}.busy")
}

/// Hashes a whole file.
pub(super) fn hash_of(file: &mut File) -> std::io::Result<BlockHash> {
    file.rewind()?;
    hash_all(file)
}
