//! Files in `pg_wal` that wait to be archived, read from `archive_status` alone: the server may be
//! down.
//!
//! PostgreSQL creates `X.ready` when the file X is finished and renames it to `X.done` when X is
//! archived. So the modification time is the time at which X was finished, and the change time of
//! `X.done` the time at which X was archived. PostgreSQL removes `X.done` together with X, oldest
//! first. So all files that were finished since the oldest remaining one are still there, and the
//! rate of writing since then is exact. The rate of archiving may be too low: files that were
//! finished earlier, archived since then and already removed are not counted.

use super::facts::{ArchiveQueue, Rates, Ready};
use crate::error::{Error, Kind, Result};
use crate::fs::folder::{Folder, size};
use crate::fs::named;
use crate::pg::segment::WalName;
use jiff::Timestamp;
use std::path::Path;
use std::time::Duration;

/// Maximum period of the rates: they describe the present.
const MAX_PERIOD: Duration = Duration::from_secs(3600);
/// Minimum period of the rates: a single segment would dominate a shorter period.
const MIN_PERIOD: Duration = Duration::from_secs(10);

/// A WAL file with a file in `archive_status`.
struct ArchiveStatus {
    name: WalName,
    finished: Timestamp,
    /// `None` while the file waits.
    archived: Option<Timestamp>,
}

/// Reads the queue of a data directory.
///
/// # Errors
/// When `pg_wal` cannot be read.
pub fn queue(pgdata: &Path, now: Timestamp) -> Result<ArchiveQueue> {
    let wal = pgdata.join("pg_wal");
    let found = read_statuses(&wal.join("archive_status"))?;
    let waiting: Vec<&ArchiveStatus> = found.iter().filter(|status| status.archived.is_none()).collect();
    let oldest = waiting.iter().min_by_key(|status| (status.finished, status.name));
    let mut bytes = 0;
    for status in &waiting {
        if let Some(stat) = named::entry(&wal.join(status.name.to_string()))? {
            bytes += size(&stat)?;
        }
    }
    Ok(ArchiveQueue {
        ready: waiting.len() as u64,
        bytes,
        oldest: oldest.map(|status| Ready { name: status.name.to_string(), since: status.finished }),
        rates: rates(&found, &wal, now),
    })
}

fn read_statuses(directory: &Path) -> Result<Vec<ArchiveStatus>> {
    let folder = Folder::root(directory)?.ok_or_else(|| named::missing(directory))?;
    let mut found = Vec::new();
    for (file, _) in folder.entries()? {
        let Some((name, is_ready)) = parse(&file) else {
            continue;
        };
        // `None` when it was renamed or removed since it was listed: the next call finds that.
        let Some(stat) = folder.entry(Path::new(&file))? else {
            continue;
        };
        let times = time(stat.st_mtime, stat.st_mtime_nsec).zip(time(stat.st_ctime, stat.st_ctime_nsec));
        let (finished, changed) = times.ok_or_else(|| {
            let path = directory.join(&file);
            Error::new(Kind::Failed, format!("{} has an impossible time", path.display()))
        })?;
        found.push(ArchiveStatus { name, finished, archived: (!is_ready).then_some(changed) });
    }
    Ok(found)
}

/// Splits `00000001000000000000002A.ready` into the WAL file and whether it waits.
fn parse(name: &str) -> Option<(WalName, bool)> {
    let (name, is_ready) = match name.strip_suffix(".ready") {
        Some(name) => (name, true),
        None => (name.strip_suffix(".done")?, false),
    };
    Some((name.parse().ok()?, is_ready))
}

fn time(seconds: i64, nanoseconds: u64) -> Option<Timestamp> {
    Timestamp::new(seconds, i32::try_from(nanoseconds).ok()?).ok()
}

fn rates(found: &[ArchiveStatus], wal: &Path, now: Timestamp) -> Option<Rates> {
    let segments = || found.iter().filter(|status| matches!(status.name, WalName::Segment(_)));
    // All segments have the same size; it is read from any that still exists.
    let state = |status: &ArchiveStatus| named::entry(&wal.join(status.name.to_string())).ok()?;
    let size = size(&segments().find_map(state)?).ok()?;
    let hour_ago = now.checked_sub(MAX_PERIOD).ok()?;
    let begin = segments().map(|status| status.finished).min()?.max(hour_ago);
    let over = Duration::try_from(now.duration_since(begin)).ok().filter(|over| *over >= MIN_PERIOD)?;
    let rate = |count: usize| count as f64 * size as f64 / over.as_secs_f64();
    let written = segments().filter(|status| status.finished > begin).count();
    let archived = segments().filter(|status| status.archived.is_some_and(|at| at > begin)).count();
    Some(Rates { written: rate(written), archived: rate(archived), over })
}
