//! Checks of WAL files: their bytes, and whether the content fits the name.

use crate::codec::envelope::Content;
use crate::error::{Error, Kind, Result};
use crate::pg::history::{History, MAX_FILE_SIZE};
use crate::pg::record::{EdgeScan, Edges, FoundRecord};
use crate::pg::segment::{SegmentName, WalName};
use crate::pg::wal::{HEADER_SIZE, SegmentHeader, WalPageCheck};
use crate::repo::{Archive, StoredWal};

/// Records of a segment that was read; of other files none.
#[derive(Default)]
pub struct ReadRecords {
    /// `None` when the file has no records.
    pub edges: Option<Edges>,
    /// Checkpoints and ends of backups.
    pub landmarks: Vec<FoundRecord>,
    /// Size in bytes.
    pub size: u64,
}

/// Reads each file to its end, several segments at the same time. `None`: the file does not exist.
pub fn check(
    archive: &Archive,
    names: impl IntoIterator<Item = WalName>,
) -> Vec<(WalName, Result<Option<ReadRecords>>)> {
    let mut results = Vec::new();
    let mut segments = Vec::new();
    for name in names {
        match (archive.get_wal(name), name) {
            (Err(error), _) => results.push((name, Err(error))),
            (Ok(None), _) => results.push((name, Ok(None))),
            (Ok(Some(stored)), WalName::Segment(segment) | WalName::Partial(segment)) => {
                segments.push((name, segment, stored));
            }
            (Ok(Some(stored)), _) => {
                results.push((name, check_small(name, stored).map(|()| Some(ReadRecords::default()))));
            }
        }
    }
    results.extend(check_segments(archive, segments));
    results
}

fn check_segments(
    archive: &Archive,
    segments: Vec<(WalName, SegmentName, StoredWal)>,
) -> impl Iterator<Item = (WalName, Result<Option<ReadRecords>>)> {
    let lineage = archive.lineage();
    let mut names = Vec::new();
    let mut contents = Vec::new();
    for (name, segment, stored) in segments {
        let checks = (Vec::new(), WalPageCheck::default(), EdgeScan::default());
        names.push((name, segment, stored.size(), checks));
        contents.push(stored);
    }
    let read = Content::read_together(contents, |at, piece, offset| {
        if let Some((.., (first, pages, scan))) = names.get_mut(at) {
            first.extend(piece.iter().take(HEADER_SIZE.saturating_sub(first.len())));
            pages.piece(offset, piece);
            scan.piece(offset, piece);
        }
        Ok(())
    });
    names.into_iter().zip(read).map(move |((name, segment, size, (first, pages, mut scan)), read)| {
        let check = |_| {
            let header = SegmentHeader::parse(&first)?;
            header.check(segment, size, lineage.system_identifier, lineage.major)?;
            // A partial segment ends with pages of an older one.
            if matches!(name, WalName::Segment(_)) { pages.end() } else { Ok(()) }
        };
        let records = |()| {
            let landmarks = scan.take_landmarks();
            Some(ReadRecords { edges: scan.finish(), landmarks, size })
        };
        (name, read.and_then(check).map(records))
    })
}

fn check_small(name: WalName, stored: StoredWal) -> Result<()> {
    let (_, text) = stored.read_all(MAX_FILE_SIZE)?;
    match name {
        WalName::History(timeline) => History::parse(timeline, &text).map(|_| ()),
        _ if text.starts_with(b"START WAL LOCATION: ") => Ok(()),
        _ => Err(Error::new(Kind::Damage, "the content is not a backup history file")),
    }
}
