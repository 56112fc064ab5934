//! The stamp of a file: detects that a name belongs to another file, or that the file was written
//! to.

use serde::{Deserialize, Serialize};
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

/// Distinguishes a file from every other, and from itself before a write. No program can set the
/// status change time (`ctime`), so a copy that got the old times back has another stamp.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamp {
    dev: u64,
    ino: u64,
    pub size: u64,
    /// Seconds and nanoseconds.
    mtime: (i64, i64),
    ctime: (i64, i64),
}

impl Stamp {
    pub fn of(meta: &Metadata) -> Stamp {
        Stamp {
            dev: meta.dev(),
            ino: meta.ino(),
            size: meta.size(),
            mtime: (meta.mtime(), meta.mtime_nsec()),
            ctime: (meta.ctime(), meta.ctime_nsec()),
        }
    }

    /// Stamp of the regular file at `path`, not of one behind a link; `None` when there is none.
    pub fn at(path: &Path) -> Option<Stamp> {
        let meta = std::fs::symlink_metadata(path).ok().filter(Metadata::is_file)?;
        Some(Stamp::of(&meta))
    }

    /// Whether the file was last written to or renamed at least `age` before `now`; false for times
    /// before 1970, which are those of a broken clock.
    pub fn is_older(&self, age: Duration, now: SystemTime) -> bool {
        let (seconds, nanoseconds) = self.ctime;
        let since_1970 = u64::try_from(seconds).ok().zip(u32::try_from(nanoseconds).ok());
        let changed = since_1970
            .and_then(|(seconds, nanos)| SystemTime::UNIX_EPOCH.checked_add(Duration::new(seconds, nanos)));
        changed.and_then(|changed| changed.checked_add(age)).is_some_and(|settled| settled <= now)
    }
}
