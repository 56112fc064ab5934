//! A data directory whose server is down, its WAL files, and an archive for them: what the tests of
//! `walpush` and `walfetch` stand on.

use super::repo::{self, Archive};
use super::{DataDir, Outcome, Scratch, Segment, scratch};

/// A system identifier as PostgreSQL 15 makes them.
pub const SYSTEM: u64 = 7_300_000_000_000_000_001;

/// A data directory whose server is down, and an archive for it. WAL segments of 1 MB keep the
/// tests short.
pub struct Site {
    pub data: DataDir,
    pub archive: Archive,
    pub scratch: Scratch,
}

impl Site {
    pub fn new() -> Site {
        Site::with(15, SYSTEM, 1)
    }

    pub fn with(major: u16, system_identifier: u64, megabytes: u64) -> Site {
        let scratch = Scratch::new();
        let data = DataDir::create(&scratch, "data", major, system_identifier, megabytes);
        let archive = Archive::of(&data.path);
        Site { data, archive, scratch }
    }

    /// A site whose archive is not the usual one.
    pub fn build(change: impl FnOnce(repo::Build) -> repo::Build) -> Site {
        let site = Site::unregistered(1, change);
        site.archive.init().ok();
        site
    }

    /// The same without `walkeep init`, and with WAL segments of this size.
    pub fn unregistered(megabytes: u64, change: impl FnOnce(repo::Build) -> repo::Build) -> Site {
        let scratch = Scratch::new();
        let data = DataDir::create(&scratch, "data", 15, SYSTEM, megabytes);
        let archive = change(Archive::build(&data.path)).unregistered();
        Site { data, archive, scratch }
    }

    /// Segment `number` of timeline 1, with a content of its own.
    pub fn segment(&self, number: u64) -> Segment {
        self.data.segment(number).mark(format!("segment {number}"))
    }

    /// Writes a segment into `pg_wal` and pushes it.
    pub fn push(&self, segment: &Segment) -> Outcome {
        self.archive.push(self.data.write(segment))
    }

    /// Pushes these segments of timeline 1; returns their names.
    #[track_caller]
    pub fn pushed(&self, numbers: &[u64]) -> Vec<String> {
        let mut names = Vec::new();
        for number in numbers {
            let segment = self.segment(*number);
            self.push(&segment).ok();
            names.push(segment.name());
        }
        names
    }

    /// A second data directory beside the first.
    pub fn other(&self, major: u16, system_identifier: u64) -> DataDir {
        DataDir::create(&self.scratch, "other", major, system_identifier, 1)
    }

    /// Makes the data directory look like a server's in this mode: `standby.signal`,
    /// `recovery.signal`, `promote`.
    pub fn touch(&self, name: &str) {
        scratch::write(&self.data.path.join(name), "");
    }

    /// The archive has these bytes for this name, and gives them.
    #[track_caller]
    pub fn holds(&self, name: &str, bytes: &[u8]) {
        let fetched = self.archive.fetched(name);
        assert!(fetched == bytes, "{name}: other bytes came back than those that were pushed");
    }
}
