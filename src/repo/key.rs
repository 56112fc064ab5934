//! The keys of objects below the folder of a cluster.

use super::Lineage;
use crate::codec::hash::ContentHash;
use crate::error::Result;
use crate::pg::segment::{TimelineId, WalName};
use crate::storage::Key;

pub fn identities(cluster: &str) -> Result<Key> {
    Key::new(format!("{cluster}/identity"))
}

pub fn identity(cluster: &str, lineage: Lineage) -> Result<Key> {
    Key::new(format!("{cluster}/identity/{lineage}"))
}

/// The folder of all objects of one lineage.
pub fn lineage(cluster: &str, lineage: Lineage) -> Result<Key> {
    Key::new(format!("{cluster}/{lineage}"))
}

/// The key of a WAL file, relative to the folder of the lineage.
pub fn wal(name: WalName) -> String {
    match name {
        WalName::Segment(segment) | WalName::Partial(segment) | WalName::Backup(segment, _) => {
            format!("{}/{:08X}/{name}", wal_of(segment.timeline), segment.log())
        }
        WalName::History(_) => format!("wal/history/{name}"),
    }
}

/// The folder of a timeline's segments.
pub fn wal_of(timeline: TimelineId) -> String {
    format!("wal/{:08X}", timeline.0)
}

/// The key of a WAL file that was moved aside, with the hash of its content. It has no
/// [`super::ObjectName`]: no operation reads or removes it.
pub fn aside(name: WalName, hash: ContentHash) -> String {
    format!("aside/{name}.{hash}")
}

pub const WAL: &str = "wal";
pub const HISTORIES: &str = "wal/history";
pub const BACKUPS: &str = "backup";
pub const DATA: &str = "data";
pub const PINS: &str = "pin";
pub const ACTIVE: &str = "active";
pub const VERIFY: &str = "verify";
pub const FOUND_DAMAGED: &str = "verify/damaged";
pub const VERIFIED: &str = "verify/backup";
pub const DRILLS: &str = "drill/history";
pub const VERIFIED_PACKS: &str = "verify/packs";
pub const VERIFIED_WAL: &str = "verify/wal";
pub const KNOWN_GAPS: &str = "verify/gaps";
pub const SEAMS: &str = "verify/seams";

/// The key of the mark of a retired timeline, beside its history, so that one listing shows both.
pub fn retired(timeline: TimelineId) -> String {
    format!("{HISTORIES}/{:08X}{RETIRED}", timeline.0)
}

/// End of the name of a mark.
pub const RETIRED: &str = ".retired";

/// The key of a backup's record.
pub fn backup(id: &str) -> String {
    format!("backup/{id}")
}

/// The name of a manifest part: in its header, and in its key below `data/`.
pub fn manifest(id: &str, number: u32) -> String {
    format!("{id}/manifest/{number:06}")
}

/// The name of a pack: in its header, and in its key below `data/`.
pub fn pack(id: &str, number: u32) -> String {
    format!("{id}/pack/{number:06}")
}

/// The key of an object below `data/`, from its name; given the id of a backup, the folder of the
/// objects that it stored.
pub fn data(name: &str) -> String {
    format!("data/{name}")
}
