//! Seams among the newest segments, for reports that do not read all WAL. What a verification has
//! found is in its note; this adds what has been archived since, as far as it is cheap.

use super::Archive;
use super::history::WalHistory;
use super::object::{StoredWal, is_about_the_object};
use super::survey::Survey;
use crate::codec::hash::LANES;
use crate::error::{Doing, Result};
use crate::pg::record::{EdgeScan, Edges};
use crate::pg::segment::{SegmentName, WalName};
use std::collections::BTreeMap;

/// Bytes of segments that are read at most, but two segments in any case. Nothing is read from a
/// remote store, where that has a price.
const MAX_READ: u64 = 64 << 20;

impl Survey {
    /// Reads the newest segments that a backup leads through, and adds the seams between them. A
    /// segment that is damaged or vanishes is passed over.
    pub fn look_for_seams(&mut self, archive: &Archive) -> Result<()> {
        let floor = self.records.good.iter().map(|record| record.wal.first).min();
        let (Some(wal), Some(floor)) = (&mut self.wal, floor) else {
            return Ok(());
        };
        if archive.repository().is_remote() {
            return Ok(());
        }
        let size = wal.inventory.segment_size();
        let most = usize::try_from(MAX_READ / size.bytes()).map_or(2, |most| most.max(2));
        let runs = wal.inventory.runs().values().rev().flat_map(|runs| runs.iter().rev());
        let newest = runs.flat_map(|run| {
            let numbers = run.first.number(size)..=run.last.number(size);
            numbers.rev().map(|number| SegmentName::of_number(run.last.timeline, number, size))
        });
        let names: Vec<SegmentName> =
            newest.filter(|name| name.number(size) >= floor.number(size)).take(most).collect();
        let mut edges = BTreeMap::new();
        for names in names.chunks(LANES) {
            edges.extend(read(archive, names)?);
        }
        for (name, own) in &edges {
            let before = before(wal, *name).and_then(|before| edges.get(&before));
            if let Some(seam) = before.and_then(|before| before.seam_before(own)) {
                wal.inventory.add_seam(*name, seam.at);
            }
        }
        Ok(())
    }
}

/// Returns the segment that a server reads before this one; `None` for the first one of a line, and
/// behind a gap.
pub fn before(wal: &WalHistory, name: SegmentName) -> Option<SegmentName> {
    let size = wal.inventory.segment_size();
    let number = name.number(size).checked_sub(1)?;
    let own = SegmentName::of_number(name.timeline, number, size);
    if wal.inventory.has(own) {
        return Some(own);
    }
    let line = wal.history(name.timeline);
    let (_, switch) = line.parents.last()?;
    (switch.0 / size.bytes() == number + 1).then(|| wal.inventory.segment_at(number, &line)).flatten()
}

/// Reads the edges of several segments side by side.
fn read(archive: &Archive, names: &[SegmentName]) -> Result<Vec<(SegmentName, Edges)>> {
    let (mut scans, mut contents) = (Vec::new(), Vec::new());
    for name in names {
        match archive.get_wal(WalName::Segment(*name)) {
            Ok(Some(stored)) => {
                scans.push((*name, EdgeScan::default()));
                contents.push(stored);
            }
            Ok(None) => {}
            Err(error) if is_about_the_object(&error) => {}
            Err(error) => return Err(error),
        }
    }
    let read = StoredWal::read_together(contents, |at, piece, offset| {
        if let Some((_, scan)) = scans.get_mut(at) {
            scan.piece(offset, piece);
        }
        Ok(())
    });
    let mut edges = Vec::new();
    for ((name, scan), read) in scans.into_iter().zip(read) {
        match read {
            Ok(_) => edges.extend(scan.finish().map(|own| (name, own))),
            Err(error) if is_about_the_object(&error) => {}
            Err(error) => return Err(error).doing(|| format!("read {name}")),
        }
    }
    Ok(edges)
}
