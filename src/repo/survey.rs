//! The state of an archive, read in one pass. Retention, observation, verification and the command
//! line begin with it and add the reads that only they need. It judges nothing.
//!
//! Records are read before the objects that they name, as `FORMAT.md` asks. So an object that a
//! record names was stored before the listing; if it is not listed, it was removed since, or is
//! missing.

use super::branches::{BranchBackup, Branches, ServerTimeline, branches_of};
use super::catalog::{Gap, Inventory};
use super::data::Data;
use super::drills::Drill;
use super::evidence::KnownGaps;
use super::history::WalHistory;
use super::object::is_about_the_object;
use super::pin::Pin;
use super::record::Record;
use super::window::Windows;
use super::{Archive, ObjectName, Records};
use crate::error::{Error, Kind, Result};
use crate::pg::segment::{SegmentName, SegmentSize, TimelineId, WalName};
use crate::runtime::thread;
use crate::storage::ListedObject;
use jiff::Timestamp;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// The parts to read besides the records of backups and the names of WAL files.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Want {
    /// The names and sizes of packs and manifests.
    pub data: bool,
    pub pins: bool,
    pub drills: bool,
    /// The notes of verifications about backups.
    pub verified: bool,
}

/// The state of an archive. What was not wanted is empty.
#[derive(Debug)]
pub struct Survey {
    pub records: Records,
    /// The size in the newest record, or of any segment; `None` without either.
    pub segment_size: Option<SegmentSize>,
    /// `None` when there is neither a backup nor a segment.
    pub wal: Option<WalHistory>,
    /// Timelines whose history is damaged, and why. No backup is known to lead to these.
    pub damaged_histories: Vec<(TimelineId, Error)>,
    /// Pins by backup. A pin that cannot be read still pins.
    pub pins: BTreeMap<String, Result<Pin>>,
    /// Oldest first. A damaged history of drills counts as empty: the next drill begins a new one.
    pub drills: Vec<Drill>,
    /// Packs and manifests by backup.
    pub data: BTreeMap<String, Data>,
    /// Backups that a verification has seen; true when it found damage.
    pub verified: BTreeMap<String, bool>,
    /// Gaps that existed when a backup behind them was recorded. A damaged note counts as empty.
    pub known_gaps: KnownGaps,
    /// Timelines that are retired.
    pub retired: BTreeSet<TimelineId>,
}

/// Maximum number of segments behind a gap that may be archived before the segments in it: walpush
/// stores several segments at once, in any order (`push_ahead`).
const MAX_AHEAD: u64 = 64;
/// Number of looks for the segments in such a gap, and the pause between two.
const LOOKS: u32 = 10;
const LOOK_INTERVAL: Duration = Duration::from_millis(200);

/// Looks again for segments that are missing near the end of a timeline: they may be on their way.
fn await_underway(archive: &Archive, inventory: &mut Inventory) -> Result<()> {
    let size = inventory.segment_size();
    let is_near_end = |inventory: &Inventory, gap: &Gap| {
        let last = inventory.runs().get(&gap.timeline).and_then(|runs| runs.last());
        last.is_some_and(|run| run.last.number(size) - gap.last.number(size) <= MAX_AHEAD)
    };
    for look in 0..LOOKS {
        let mut gaps = inventory.gaps();
        gaps.retain(|gap| is_near_end(inventory, gap));
        if gaps.is_empty() {
            return Ok(());
        }
        if look > 0 {
            thread::sleep(LOOK_INTERVAL);
        }
        for gap in gaps {
            let mut name = gap.first;
            while name <= gap.last && has_arrived(archive, name)? {
                name = name.next(size);
            }
            if name > gap.first {
                let last = SegmentName::of_number(gap.timeline, name.number(size) - 1, size);
                *inventory = inventory.filled(&Gap { last, ..gap });
            }
        }
    }
    Ok(())
}

/// Whether a segment that was not listed exists now. Something else in its place is not a segment.
fn has_arrived(archive: &Archive, name: SegmentName) -> Result<bool> {
    match archive.has_wal(WalName::Segment(name)) {
        Err(error) if is_about_the_object(&error) => Ok(false),
        arrived => arrived,
    }
}

impl Survey {
    /// Reads the state of an archive, as far as `want` asks.
    ///
    /// # Errors
    ///
    /// When the repository cannot be read. A damaged object is not an error: the survey has it.
    pub fn read(archive: &Archive, want: Want) -> Result<Survey> {
        Survey::read_each(archive, want, |_, _| {})
    }

    /// Like [`Survey::read`], and calls `each` with every WAL file, in order.
    pub fn read_each(
        archive: &Archive,
        want: Want,
        mut each: impl FnMut(WalName, &ListedObject),
    ) -> Result<Survey> {
        let records = archive.records()?;
        let data = if want.data { archive.data()? } else { BTreeMap::new() };
        let pins = if want.pins { archive.pins()? } else { BTreeMap::new() };
        let verified = if want.verified { archive.remembered()? } else { BTreeMap::new() };
        let drills = match want.drills.then(|| archive.drills()) {
            None => Vec::new(),
            Some(Err(error)) if error.kind() == Kind::Damage => Vec::new(),
            Some(drills) => drills?,
        };
        let mut retired = BTreeSet::new();
        let known_gaps = match want.verified.then(|| archive.memory(&ObjectName::KnownGaps)) {
            None => None,
            Some(Err(error)) if error.kind() == Kind::Damage => None,
            Some(known) => known?,
        };
        let segment_size = match records.good.last() {
            Some(record) => Some(record.segment_size),
            None => archive.any_segment_size()?,
        };
        let mut inventory = segment_size.map(Inventory::new);
        let mut timelines = Vec::new();
        archive.each_wal_and_mark(|name, listed| {
            let name = match name {
                ObjectName::Wal(name) => name,
                ObjectName::Retired(timeline) => {
                    retired.insert(timeline);
                    return Ok(());
                }
                _ => return Ok(()),
            };
            each(name, listed);
            if let WalName::History(timeline) = name {
                timelines.push(timeline);
            }
            if let Some(inventory) = &mut inventory {
                inventory.add(name, listed.modified, listed.size);
            }
            Ok(())
        })?;
        if let Some(inventory) = &mut inventory {
            await_underway(archive, inventory)?;
            for (segment, at) in archive.seams()?.0 {
                inventory.add_seam(segment, at);
            }
        }
        let (histories, damaged_histories) = WalHistory::read_histories(archive, &timelines)?;
        let wal = inventory.map(|inventory| WalHistory::new(inventory, histories));
        Ok(Survey {
            records,
            segment_size,
            wal,
            damaged_histories,
            pins,
            drills,
            data,
            verified,
            // Without the note every gap is a problem.
            known_gaps: known_gaps.unwrap_or_default(),
            retired,
        })
    }

    /// Returns the backups without damaged pages.
    pub fn complete(&self) -> Vec<&Record> {
        self.records.good.iter().filter(|record| record.is_complete()).collect()
    }

    /// Returns the pins that hold at `now`.
    pub fn pins_at(&self, now: Timestamp) -> BTreeMap<&str, Pin> {
        let pins = self.pins.iter().map(|(id, pin)| (id.as_str(), pin.as_ref().unwrap_or(&Pin::UNREADABLE)));
        pins.filter(|(_, pin)| pin.holds(now)).map(|(id, pin)| (id, pin.clone())).collect()
    }

    /// Returns the gaps in the WAL that complete backups lead through. Backups with a standalone
    /// pin do not count, since later WAL is not kept for them.
    pub fn gaps(&self, now: Timestamp) -> Vec<Gap> {
        self.wal.as_ref().map_or_else(Vec::new, |wal| wal.gaps(&self.leading(now)))
    }

    /// Returns the branches of the cluster, judged at `now`.
    pub fn branches(&self, server: &ServerTimeline, now: Timestamp) -> Branches {
        let all = self.wal.as_ref().map_or_else(BTreeMap::new, branches_of);
        let backups: Vec<BranchBackup<'_>> = self.records.good.iter().map(BranchBackup::from).collect();
        Branches::judge(all, self.segment_size, &backups, &self.retired, server, now)
    }

    /// Returns the moments that can be restored. Reads a bounded number of segments for each
    /// window.
    pub fn windows(&self, archive: &Archive, branches: &Branches) -> Result<Windows> {
        match &self.wal {
            Some(wal) => wal.windows(archive, branches, &self.complete()),
            None => Ok(Windows::default()),
        }
    }
}
