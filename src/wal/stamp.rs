//! The stamp of a file, which detects that a name now belongs to another file, or that the file was
//! written to.

use crate::error::{Error, Kind, Result};
use crate::fs::folder::{kind, size};
use crate::fs::named;
use rustix::fs::{FileType, Stat};
use serde::{Deserialize, Serialize};
use std::path::Path;
use std::time::{Duration, SystemTime};

/// Identity of a file and of its content: another file has another stamp, and so has the same file
/// after a write. No program can set the status change time (`ctime`), so a copy with the
/// modification time of the original has another stamp too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamp {
    dev: u64,
    ino: u64,
    pub size: u64,
    /// Modification time, in seconds and nanoseconds.
    mtime: (i64, i64),
    /// Status change time, in seconds and nanoseconds.
    ctime: (i64, i64),
}

impl Stamp {
    /// Returns the stamp of a file in this state.
    ///
    /// # Errors
    ///
    /// `Failed` for numbers that the operating system never returns.
    pub fn of(stat: &Stat) -> Result<Stamp> {
        let nanoseconds = |value| i64::try_from(value).ok();
        let times = nanoseconds(stat.st_mtime_nsec).zip(nanoseconds(stat.st_ctime_nsec));
        let (mtime_nsec, ctime_nsec) =
            times.ok_or_else(|| Error::new(Kind::Failed, "the times of the file are not valid"))?;
        let size = size(stat)?;
        Ok(Stamp {
            dev: stat.st_dev,
            ino: stat.st_ino,
            size,
            mtime: (stat.st_mtime, mtime_nsec),
            ctime: (stat.st_ctime, ctime_nsec),
        })
    }

    /// Stamp of the regular file at `path`, without following a link; `None` when `path` is not a
    /// regular file or cannot be examined.
    pub fn at(path: &Path) -> Option<Stamp> {
        let stat = named::entry(path).ok()?.filter(|stat| kind(stat) == FileType::RegularFile)?;
        Stamp::of(&stat).ok()
    }

    /// Whether the last write to the file, and its last renaming, happened at least `age` before
    /// `now`; false for a time before 1970, which comes from a wrong clock.
    pub fn is_older(&self, age: Duration, now: SystemTime) -> bool {
        let (seconds, nanoseconds) = self.ctime;
        let since_1970 = u64::try_from(seconds).ok().zip(u32::try_from(nanoseconds).ok());
        let changed = since_1970
            .and_then(|(seconds, nanos)| SystemTime::UNIX_EPOCH.checked_add(Duration::new(seconds, nanos)));
        changed.and_then(|changed| changed.checked_add(age)).is_some_and(|settled| settled <= now)
    }
}
