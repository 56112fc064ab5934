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

use crate::support::site::SYSTEM;
use crate::support::*;

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

/// Nothing is left of an attempt, neither in the archive nor among its temporary files.
#[track_caller]
fn assert_no_trace(archive: &Archive, name: &str) {
    assert_eq!(archive.find(name), None);
    assert_eq!(archive.temporaries(), Vec::<std::path::PathBuf>::new());
}
