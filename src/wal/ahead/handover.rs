//! The call's side of fetching ahead: takes a kept segment out of the spool and delivers it.

use super::kept::{Mark, busy_of, hash_of, mark_of};
use super::spool::{Spool, Stamp};
use crate::error::{Doing, Error, Kind, Result};
use crate::fs::durable;
use crate::pg::segment::{SegmentName, WalName};
use crate::pg::wal::{HEADER_SIZE, SegmentHeader};
use crate::repo::Lineage;
use crate::wal::fetch::{Fetch, Part};
use std::io::{Read, Seek};
use std::time::{Duration, SystemTime};

/// How long what is kept counts.
const AGE: Duration = Duration::from_secs(600);

/// How long a call waits for a segment that the worker is fetching and that does not grow.
const STALL: Duration = Duration::from_millis(500);

/// And how often it does so for one that does.
const STALLS: u32 = 10;

/// Delivers a file from the spool. False when it is not there or anything is not as it should be: then it is
/// fetched.
pub fn hand_over(fetch: &Fetch<'_>, spool: &Spool, now: SystemTime) -> bool {
    let (WalName::Segment(name), Some(lineage)) = (fetch.name, fetch.lineage) else {
        return false;
    };
    // To fetch what will be there in a moment would take longer, and from what the worker is fetching with.
    let part = spool.path(&format!("{name}.walfetch"));
    let size = || std::fs::metadata(&part).map_or(0, |meta| meta.len());
    let (mut before, mut stalls) = (size(), 0);
    let grows = || {
        let grown = std::mem::replace(&mut before, size()) < before;
        stalls += 1;
        grown && stalls < STALLS
    };
    if !spool.await_lock(&busy_of(name), grows, STALL) {
        return false;
    }
    let Some(mark) = spool.mark::<Mark>(&mark_of(name), AGE, now) else {
        return false;
    };
    let delivered = take(fetch, spool, name, lineage, &mark).is_ok();
    // The mark goes with the file, or because it does not fit.
    spool.forget(&mark_of(name));
    delivered
}

fn take(fetch: &Fetch<'_>, spool: &Spool, name: SegmentName, lineage: Lineage, mark: &Mark) -> Result<()> {
    let kept = name.to_string();
    let doing = || format!("take {kept} from the spool");
    let damage = |message| Err(Error::new(Kind::Damage, message).doing(doing()));
    let mut file =
        spool.read(&kept).ok_or_else(|| Error::new(Kind::Absent, "it is not there").doing(doing()))?;
    let stamp = Stamp::of(&file.metadata().doing(doing)?);
    if !mark.fits(lineage, fetch.repositories, stamp)? {
        return damage("it is not what was kept");
    }
    let mut header = [0; HEADER_SIZE];
    file.read_exact(&mut header).doing(doing)?;
    SegmentHeader::parse(&header)?.check(name, stamp.size, lineage.system_identifier, lineage.major)?;
    if hash_of(&mut file).doing(doing)? != mark.hash {
        return damage("its content is not what was kept");
    }
    (fetch.still_wanted)()?;
    let path = spool.path(&kept);
    if durable::replace_volatile(&path, fetch.destination).is_ok() {
        return Ok(());
    }
    // The spool is on another file system.
    file.rewind().doing(doing)?;
    let part = Part::create(fetch.destination)?;
    part.copy(&file, stamp.size)?;
    (fetch.still_wanted)()?;
    part.deliver(fetch.destination)?;
    spool.forget(&kept);
    Ok(())
}
