//! One WAL file: its bytes, and whether they can be what the name says.

use crate::error::{Error, Kind, Result};
use crate::pg::history::{History, MAX_FILE_SIZE};
use crate::pg::segment::WalName;
use crate::pg::wal::{HEADER_SIZE, SegmentHeader};
use crate::repo::Archive;

/// Reads it to its end. `None`: it is not there.
pub fn check(archive: &Archive, name: WalName) -> Result<Option<()>> {
    let Some(stored) = archive.get_wal(name)? else {
        return Ok(None);
    };
    let size = stored.size();
    match name {
        WalName::Segment(segment) | WalName::Partial(segment) => {
            let mut first = Vec::new();
            stored.read_alone(|piece, _| {
                if first.is_empty() {
                    first.extend_from_slice(piece.get(..HEADER_SIZE).unwrap_or(piece));
                }
                Ok(())
            })?;
            let lineage = archive.lineage();
            SegmentHeader::parse(&first)?.check(segment, size, lineage.system_identifier, lineage.major)?;
        }
        WalName::History(timeline) => {
            let (_, text) = stored.read_all(MAX_FILE_SIZE)?;
            History::parse(timeline, &text)?;
        }
        WalName::Backup(..) => {
            let (_, text) = stored.read_all(MAX_FILE_SIZE)?;
            if !text.starts_with(b"START WAL LOCATION: ") {
                return Err(Error::new(Kind::Damage, "it does not begin as a backup history file"));
            }
        }
    }
    Ok(Some(()))
}
