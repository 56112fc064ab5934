//! The walk over the WAL that a recovery replays, segment by segment in the order of a history, and
//! the facts about it that a plan needs before anything is restored. Does not know targets: the
//! caller decides record by record where recovery stops.
//!
//! A second thread reads, decompresses and hashes the segments while this one reads their records;
//! only some pieces of a segment are in memory. The hash of a segment is known after its records:
//! when it is wrong, the walk fails and the caller has to forget what it was called with.

use super::Archive;
use super::catalog::Inventory;
use super::object::StoredWal;
use crate::error::{Doing, Error, Kind, Result};
use crate::pg::history::History;
use crate::pg::lsn::Lsn;
use crate::pg::record::{Ending, FoundRecord, Meaning, Parameters, RecordScan};
use crate::pg::segment::{SegmentName, SegmentSize, WalName};
use crate::pg::wal::SegmentHeader;
use crate::runtime::thread;
use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::sync::mpsc::{SyncSender, sync_channel};

/// Decision about a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReplayStep {
    /// The record is replayed, and recovery goes on.
    Replay,
    /// Recovery ends before the record.
    StopBefore,
    /// Recovery replays the record and ends.
    StopAfter,
}

/// WAL to walk over.
pub struct Walk<'a> {
    pub archive: &'a Archive,
    /// Size of every segment; another size is an error.
    pub segment_size: SegmentSize,
    /// Checked before each segment.
    pub is_cancelled: &'a (dyn Fn() -> bool + Sync),
    /// Called with the number of bytes after each segment.
    pub progress: &'a dyn Fn(u64),
}

/// Restore point that is replayed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RestorePoint {
    pub name: Vec<u8>,
    /// Position behind its record.
    pub end: Lsn,
    pub time: jiff::Timestamp,
}

/// Place at which the WAL does not continue: recovery ends there, as before a missing segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FoundSeam {
    /// Position up to which recovery gets.
    pub at: Lsn,
    /// Segment that does not continue the one before it.
    pub segment: SegmentName,
}

/// Facts about the records that are replayed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[must_use]
pub struct ReplayFacts {
    /// Highest value of each setting of every change; `None` without a change, so that those of the
    /// backup's control file hold.
    pub parameters: Option<Parameters>,
    /// Locations of the tablespaces that are created, by oid; empty for one inside of the data
    /// directory.
    pub tablespaces: BTreeMap<u32, Vec<u8>>,
    /// Tablespaces of the databases that are created, by the database's oid.
    pub databases: BTreeMap<u32, u32>,
    pub restore_points: Vec<RestorePoint>,
    /// Begin and end of the last record.
    pub last: Option<(Lsn, Lsn)>,
    /// Last commit or abort, with the begin of its record.
    pub last_transaction: Option<(Lsn, Ending)>,
    /// Position at which recovery stops by decision: the begin of a record before which it stops, or
    /// the end of one behind which it stops. `None` when the WAL ended first.
    pub stop: Option<Lsn>,
    /// First seam; `None` when the WAL continues to its end.
    pub seam: Option<FoundSeam>,
    /// End of the last record in the archive, also behind a seam: recovery loses what is between.
    pub end: Option<Lsn>,
}

impl ReplayFacts {
    /// Refuses WAL with a seam before the stop.
    ///
    /// # Errors
    ///
    /// `Hole`.
    pub fn without_seam(self) -> Result<ReplayFacts> {
        match self.seam {
            Some(seam) => Err(seam.error()),
            None => Ok(self),
        }
    }

    /// Takes a record and the decision about it.
    fn take(&mut self, found: &FoundRecord, step: ReplayStep) {
        if step != ReplayStep::StopBefore {
            self.note(found);
        }
        self.stop = match step {
            ReplayStep::Replay => None,
            ReplayStep::StopBefore => Some(found.begin),
            ReplayStep::StopAfter => Some(found.end),
        };
    }

    fn note(&mut self, found: &FoundRecord) {
        match &found.meaning {
            Meaning::TransactionEnd(ending) => self.last_transaction = Some((found.begin, *ending)),
            Meaning::Parameters(parameters) => {
                let before = self.parameters.unwrap_or(*parameters);
                self.parameters = Some(before.max(*parameters));
            }
            Meaning::Tablespace { oid, location } => {
                self.tablespaces.insert(*oid, location.clone());
            }
            Meaning::Database { oid, tablespace, .. } => {
                self.databases.insert(*oid, *tablespace);
            }
            Meaning::RestorePoint { name, time } => {
                self.restore_points.push(RestorePoint { name: name.clone(), end: found.end, time: *time });
            }
            _ => {}
        }
        self.last = Some((found.begin, found.end));
        self.end = Some(found.end);
    }
}

impl FoundSeam {
    /// The error for a recovery that would have to go further.
    pub fn error(&self) -> Error {
        Error::new(
            Kind::Hole,
            format!(
                "segment {} does not continue the WAL before it: recovery ends at {}",
                self.segment, self.at
            ),
        )
        .hint("two servers archived into this repository under the same names; `walkeep verify` shows what is affected, and a new backup (`walkeep backup`) does not need this WAL")
    }
}

impl Walk<'_> {
    /// Reads the segments in this order. Calls `each` with every record, which decides where
    /// recovery stops. Records behind the stop or a seam are not a part of the facts, and `each` does
    /// not get them; only [`ReplayFacts::end`] is beyond a seam.
    ///
    /// # Errors
    ///
    /// Those of `names`; `Hole` when a segment is missing, `Damage` and `Identity` for one that is
    /// not what its name says, `Failed` when cancelled, and errors of the repository.
    pub fn over(
        &self,
        names: impl Iterator<Item = Result<SegmentName>> + Send,
        mut each: impl FnMut(&FoundRecord) -> ReplayStep,
    ) -> Result<ReplayFacts> {
        let mut facts = ReplayFacts::default();
        let reader =
            SegmentReader { archive: self.archive, size: self.segment_size, is_cancelled: self.is_cancelled };
        thread::scope(|scope| {
            let (sender, pieces) = sync_channel(PIECES);
            let reader = scope.spawn("wal", move || reader.send_all(names, &sender))?;
            let mut scan = RecordScan::default();
            for piece in &pieces {
                let Piece { name, offset, bytes } = piece?;
                if facts.stop.is_some() && offset == 0 {
                    break; // The segment with the stop was read to its end, so its hash is right.
                }
                let mut take = |found: FoundRecord| {
                    if facts.seam.is_some() {
                        facts.end = Some(found.end);
                    } else if facts.stop.is_none() {
                        facts.take(&found, each(&found));
                    }
                };
                if let Some(seam) = scan.piece(offset, &bytes, &mut take) {
                    facts.seam.get_or_insert(FoundSeam { at: seam.at, segment: name });
                    // What is behind it is a chain of its own.
                    scan = RecordScan::default();
                    let _ = scan.piece(offset, &bytes, |found| facts.end = Some(found.end));
                }
                (self.progress)(bytes.len() as u64);
            }
            drop(pieces);
            reader.join()?;
            Ok(facts)
        })
    }
}

/// Number of pieces of segments that wait for the thread that reads their records.
const PIECES: usize = 8;

/// Part of a segment.
struct Piece {
    name: SegmentName,
    offset: u64,
    bytes: Vec<u8>,
}

/// The second thread of a walk.
struct SegmentReader<'a> {
    archive: &'a Archive,
    size: SegmentSize,
    is_cancelled: &'a (dyn Fn() -> bool + Sync),
}

impl SegmentReader<'_> {
    /// Sends the segments, up to the first error or until nothing is received any more.
    fn send_all(&self, names: impl Iterator<Item = Result<SegmentName>>, sender: &SyncSender<Result<Piece>>) {
        for name in names {
            let sent = match name {
                Ok(_) if (self.is_cancelled)() => {
                    Err(Error::new(Kind::Failed, "reading the WAL was interrupted"))
                }
                Ok(name) => self.send(name, sender),
                Err(error) => Err(error),
            };
            if let Err(error) = sent {
                // Fails when the receiver has left, which is why `send` failed too.
                let _ = sender.send(Err(error));
                return;
            }
        }
    }

    /// Reads a segment, checks that it is the cluster's and has the expected size, and sends it.
    fn send(&self, name: SegmentName, sender: &SyncSender<Result<Piece>>) -> Result<()> {
        let read = || -> Result<()> {
            let missing = || Error::new(Kind::Hole, "the segment is missing although later ones exist");
            let stored = self.archive.get_wal(WalName::Segment(name))?.ok_or_else(missing)?;
            let size = stored.size();
            check_size(size, self.size)?;
            let lineage = self.archive.lineage();
            let each = |_, piece: &[u8], offset| {
                if offset == 0 {
                    let header = SegmentHeader::parse(piece)?;
                    header.check(name, size, lineage.system_identifier, lineage.major)?;
                }
                let piece = Piece { name, offset, bytes: piece.to_vec() };
                sender.send(Ok(piece)).map_err(|_| Error::new(Kind::Failed, "the walk has ended"))
            };
            let read = StoredWal::read_together(vec![stored], each).pop();
            read.unwrap_or_else(|| Err(Error::defect("a segment was not read"))).map(|_| ())
        };
        read().doing(|| format!("read {name} of repository {}", self.archive.repository().name()))
    }
}

/// Checks the size of a stored segment against the size that the cluster's segments have.
///
/// # Errors
///
/// `Damage`.
pub fn check_size(stored: u64, size: SegmentSize) -> Result<()> {
    if stored == size.bytes() {
        return Ok(());
    }
    Err(Error::new(
        Kind::Damage,
        format!("the archived segment has {stored} bytes, and the segments of the cluster have {}", size.bytes()),
    )
    .hint("the segment size was changed (pg_resetwal --wal-segsize), so the same names mean other WAL: archive the cluster under a new name, or into a new repository"))
}

impl Inventory {
    /// Iterates over the segments with these numbers that a server reads along a history.
    ///
    /// A missing segment is an item with [`Kind::Hole`].
    pub fn along(
        &self,
        history: &History,
        numbers: RangeInclusive<u64>,
    ) -> impl Iterator<Item = Result<SegmentName>> {
        numbers.map(|number| {
            self.segment_at(number, history).ok_or_else(|| {
                let start = Lsn(number * self.segment_size().bytes());
                let name = SegmentName::of_number(history.timeline_at(start), number, self.segment_size());
                Error::new(Kind::Hole, format!("segment {name} is missing although later ones exist"))
            })
        })
    }
}
