//! Delivers a kept segment from the spool, for a call of walfetch. Does not know how the worker
//! chooses segments.

use super::kept::{KeptMark, busy_of, hash_of, mark_of};
use super::spool::Spool;
use crate::error::{Doing, Error, Kind, Result};
use crate::pg::segment::{SegmentName, WalName};
use crate::pg::wal::{HEADER_SIZE, SegmentHeader};
use crate::repo::Lineage;
use crate::wal::fetch::Fetch;
use crate::wal::part::PartFile;
use crate::wal::stamp::Stamp;
use std::io::{Read, Seek};
use std::time::{Duration, SystemTime};

/// Maximum age of a mark.
const MAX_AGE: Duration = Duration::from_secs(600);

/// Interval at which a call checks whether a segment that the worker is fetching has grown.
const GROWTH_INTERVAL: Duration = Duration::from_millis(500);

/// Maximum number of these intervals.
const MAX_INTERVALS: u32 = 10;

/// Delivers a file from the spool. Returns false when the file is missing or does not fit its mark:
/// the call then has to fetch it.
#[must_use]
pub fn hand_over(fetch: &Fetch<'_>, spool: &Spool, now: SystemTime) -> bool {
    let (WalName::Segment(name), Some(lineage)) = (fetch.name, fetch.lineage) else {
        return false;
    };
    // A second fetch of a segment that the worker is fetching would take longer, and slow the
    // worker down.
    let part = format!("{name}.walfetch");
    let size = || spool.size_of(&part);
    let (mut before, mut intervals) = (size(), 0);
    let has_grown = || {
        let has_grown = std::mem::replace(&mut before, size()) < before;
        intervals += 1;
        has_grown && intervals < MAX_INTERVALS
    };
    if !spool.await_lock(&busy_of(name), has_grown, GROWTH_INTERVAL) {
        return false;
    }
    let Some(mark) = spool.read_mark::<KeptMark>(&mark_of(name), MAX_AGE, now) else {
        return false;
    };
    let is_delivered = take(fetch, spool, name, lineage, &mark).is_ok();
    // The file was moved, or does not fit its mark.
    spool.remove(&mark_of(name));
    is_delivered
}

/// Checks a kept file against its mark, and moves it to the destination.
fn take(
    fetch: &Fetch<'_>,
    spool: &Spool,
    name: SegmentName,
    lineage: Lineage,
    mark: &KeptMark,
) -> Result<()> {
    let kept = name.to_string();
    let doing = || format!("take {kept} from the spool");
    let damage = |message| Err(Error::new(Kind::Damage, message).doing(doing()));
    let missing = || Error::new(Kind::Absent, "the file does not exist").doing(doing());
    let (mut file, stat) = spool.open_own(&kept).ok_or_else(missing)?;
    let stamp = Stamp::of(&stat)?;
    if !mark.fits(lineage, fetch.repositories, stamp)? {
        return damage("the file does not fit its mark");
    }
    let mut header = [0; HEADER_SIZE];
    file.read_exact(&mut header).doing(doing)?;
    SegmentHeader::parse(&header)?.check(name, stamp.size, lineage.system_identifier, lineage.major)?;
    if hash_of(&mut file).doing(doing)? != mark.hash {
        return damage("the content of the file has another hash than its mark");
    }
    (fetch.still_wanted)()?;
    let destination = fetch.destination.open()?;
    if destination.take(spool.opened()?, &kept, &stat) {
        return Ok(());
    }
    // The spool may be on another file system: the file is copied.
    file.rewind().doing(doing)?;
    let part = PartFile::create(destination)?;
    part.copy(&file, stamp.size)?;
    (fetch.still_wanted)()?;
    part.deliver()?;
    spool.remove(&kept);
    Ok(())
}
