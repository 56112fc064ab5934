//! `walpush` and `walfetch` on directory repositories, called as PostgreSQL calls them.

mod access;
mod conflict;
mod damage;
mod durable;
mod fetch;
mod hints;
mod holes;
mod interrupted;
mod outage;
mod push;
mod recovery;
mod server;
mod standby;

use crate::support::*;

/// A system identifier as PostgreSQL 15 makes them.
const SYSTEM: u64 = 7_300_000_000_000_000_001;

/// A timeline history file as a promotion writes it.
const HISTORY: &str = "1\t0/3000000\tno recovery target specified\n";

/// A backup history file as `pg_backup_stop` writes it.
const LABEL: &str = "\
START WAL LOCATION: 0/2000028 (file 000000010000000000000002)
STOP WAL LOCATION: 0/2000100 (file 000000010000000000000002)
CHECKPOINT LOCATION: 0/2000060
BACKUP METHOD: streamed
BACKUP FROM: primary
START TIME: 2024-05-17 10:00:00 UTC
LABEL: by hand
START TIMELINE: 1
STOP TIME: 2024-05-17 10:00:01 UTC
STOP TIMELINE: 1
";

/// A data directory whose server is down, and an archive for it. WAL segments of 1 MB keep the tests short.
struct Site {
    data: DataDir,
    archive: Archive,
    scratch: Scratch,
}

impl Site {
    fn new() -> Site {
        Site::with(15, SYSTEM, 1)
    }

    fn with(major: u16, system_identifier: u64, megabytes: u64) -> Site {
        let scratch = Scratch::new();
        let data = DataDir::create(&scratch, "data", major, system_identifier, megabytes);
        let archive = Archive::of(&data.path);
        Site { data, archive, scratch }
    }

    /// A site whose archive is not the usual one.
    fn build(change: impl FnOnce(repo::Build) -> repo::Build) -> Site {
        let scratch = Scratch::new();
        let data = DataDir::create(&scratch, "data", 15, SYSTEM, 1);
        let archive = change(Archive::build(&data.path)).create();
        Site { data, archive, scratch }
    }

    /// Segment `number` of timeline 1, with a content of its own.
    fn segment(&self, number: u64) -> Segment {
        self.data.segment(number).mark(format!("segment {number}"))
    }

    /// Writes a segment into `pg_wal` and pushes it.
    fn push(&self, segment: &Segment) -> Outcome {
        self.archive.push(self.data.write(segment))
    }

    /// Pushes these segments of timeline 1; returns their names.
    #[track_caller]
    fn pushed(&self, numbers: &[u64]) -> Vec<String> {
        let mut names = Vec::new();
        for number in numbers {
            let segment = self.segment(*number);
            self.push(&segment).ok();
            names.push(segment.name());
        }
        names
    }

    /// A second data directory beside the first.
    fn other(&self, major: u16, system_identifier: u64) -> DataDir {
        DataDir::create(&self.scratch, "other", major, system_identifier, 1)
    }

    /// Makes the data directory look like a server's in this mode: `standby.signal`, `recovery.signal`, `promote`.
    fn touch(&self, name: &str) {
        scratch::write(&self.data.path.join(name), "");
    }

    /// The archive has these bytes for this name, and gives them.
    #[track_caller]
    fn holds(&self, name: &str, bytes: &[u8]) {
        let fetched = self.archive.fetched(name);
        assert!(fetched == bytes, "{name}: other bytes came back than those that were pushed");
    }
}

/// Nothing is left of an attempt, neither in the archive nor among its temporary files.
#[track_caller]
fn assert_no_trace(archive: &Archive, name: &str) {
    assert_eq!(archive.find(name), None);
    assert_eq!(archive.temporaries(), Vec::<std::path::PathBuf>::new());
}
