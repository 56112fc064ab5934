//! What waits in `pg_wal` to be archived, read from `archive_status` alone: the server may be down.
//!
//! PostgreSQL makes `X.ready` when the file X is finished and renames it to `X.done` when it is archived. So the time
//! of its content is when X was finished, and its change time when it was archived. Both are removed together with X,
//! oldest first: all that was finished since the oldest that is left is still there, so rates over that time are
//! exact; what was archived in it is too low at most by what was waiting before and is gone.

use super::facts::{Queue, Rates, Ready};
use crate::error::{Doing, Error, Result};
use crate::pg::segment::WalName;
use jiff::Timestamp;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

/// Rates tell of now, and not of last week.
const LONGEST: Duration = Duration::from_secs(3600);
/// Over less a single segment would decide.
const SHORTEST: Duration = Duration::from_secs(10);

/// A file that PostgreSQL keeps a status of.
struct Status {
    name: WalName,
    finished: Timestamp,
    /// `None`: it waits.
    archived: Option<Timestamp>,
}

/// Looks at the queue of a data directory.
///
/// # Errors
/// When `pg_wal` cannot be read.
pub fn queue(pgdata: &Path, now: Timestamp) -> Result<Queue> {
    let wal = pgdata.join("pg_wal");
    let directory = wal.join("archive_status");
    let doing = || format!("list {}", directory.display());
    let mut found = Vec::new();
    for entry in std::fs::read_dir(&directory).doing(doing)? {
        let entry = entry.doing(doing)?;
        let name = entry.file_name();
        let Some((name, is_ready)) = name.to_str().and_then(parse) else {
            continue;
        };
        let meta = match entry.metadata() {
            // Renamed or removed since it was listed: the next look sees it.
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => continue,
            meta => meta.doing(|| format!("look at {}", entry.path().display()))?,
        };
        let (Some(finished), Some(changed)) =
            (time(meta.mtime(), meta.mtime_nsec()), time(meta.ctime(), meta.ctime_nsec()))
        else {
            continue;
        };
        found.push(Status { name, finished, archived: (!is_ready).then_some(changed) });
    }
    let waiting: Vec<&Status> = found.iter().filter(|status| status.archived.is_none()).collect();
    let oldest = waiting.iter().min_by_key(|status| (status.finished, status.name));
    let mut bytes = 0;
    for status in &waiting {
        match std::fs::metadata(wal.join(status.name.to_string())) {
            Ok(meta) => bytes += meta.len(),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(e) => return Err(Error::io(format!("look at {} in {}", status.name, wal.display()), &e)),
        }
    }
    Ok(Queue {
        ready: waiting.len() as u64,
        bytes,
        oldest: oldest.map(|status| Ready { name: status.name.to_string(), since: status.finished }),
        rates: rates(&found, &wal, now),
    })
}

/// `00000001000000000000002A.ready`: the file, and whether it waits.
fn parse(name: &str) -> Option<(WalName, bool)> {
    let (name, is_ready) = match name.strip_suffix(".ready") {
        Some(name) => (name, true),
        None => (name.strip_suffix(".done")?, false),
    };
    Some((name.parse().ok()?, is_ready))
}

fn time(seconds: i64, nanoseconds: i64) -> Option<Timestamp> {
    Timestamp::new(seconds, i32::try_from(nanoseconds).ok()?).ok()
}

fn rates(found: &[Status], wal: &Path, now: Timestamp) -> Option<Rates> {
    let segments = || found.iter().filter(|status| matches!(status.name, WalName::Segment(_)));
    // All segments have one size; that of one that is still there tells.
    let size = segments().find_map(|status| std::fs::metadata(wal.join(status.name.to_string())).ok())?.len();
    let hour_ago = now.checked_sub(LONGEST).ok()?;
    let begin = segments().map(|status| status.finished).min()?.max(hour_ago);
    let over = Duration::try_from(now.duration_since(begin)).ok().filter(|over| *over >= SHORTEST)?;
    let rate = |count: usize| count as f64 * size as f64 / over.as_secs_f64();
    let written = segments().filter(|status| status.finished > begin).count();
    let archived = segments().filter(|status| status.archived.is_some_and(|at| at > begin)).count();
    Some(Rates { written: rate(written), archived: rate(archived), over })
}
