//! The page headers of a WAL segment. Source: PostgreSQL's `xlog_internal.h`.

use super::bytes::{u16_at, u32_at, u64_at};
use super::segment::{SegmentName, SegmentSize, TimelineId};
use super::version::Version;
use crate::error::{Error, Kind, Result};

/// Size of a long page header, in bytes (`SizeOfXLogLongPHD`).
pub const HEADER_SIZE: usize = 40;

/// `XLP_LONG_HEADER`, which the first page of each segment has; other bits vary.
const LONG_HEADER: u16 = 0x0002;

/// Long page header at the start of a segment (`XLogLongPageHeaderData`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentHeader {
    /// Major version of PostgreSQL that wrote the WAL.
    pub major: u32,
    /// Timeline of the page. Never above the timeline in the name of the segment; below it in the
    /// first segment after a promotion.
    pub timeline: TimelineId,
    /// Position of the page in the WAL.
    pub page_address: u64,
    pub system_identifier: u64,
    pub segment_size: SegmentSize,
    /// Size of a WAL page in bytes.
    pub block_size: u32,
}

impl SegmentHeader {
    /// Decodes the header from the first bytes of a segment.
    ///
    /// # Errors
    ///
    /// `Damage` when it is not a header of a supported version.
    pub fn parse(bytes: &[u8]) -> Result<SegmentHeader> {
        let bad = |what: String| Error::new(Kind::Damage, what);
        let short = || bad(format!("{} bytes are too few for a WAL segment", bytes.len()));
        let magic = u16_at(bytes, 0).ok_or_else(short)?;
        if magic == 0 {
            return Err(bad("the WAL page header is empty".into()));
        }
        let Version { major, .. } = Version::of_wal_magic(magic)?;
        if u16_at(bytes, 2).ok_or_else(short)? & LONG_HEADER == 0 {
            return Err(bad("the first page has no long header".into()));
        }
        Ok(SegmentHeader {
            major,
            timeline: TimelineId(u32_at(bytes, 4).ok_or_else(short)?),
            page_address: u64_at(bytes, 8).ok_or_else(short)?,
            system_identifier: u64_at(bytes, 24).ok_or_else(short)?,
            segment_size: SegmentSize::try_from(u64::from(u32_at(bytes, 32).ok_or_else(short)?))?,
            block_size: u32_at(bytes, 36).ok_or_else(short)?,
        })
    }

    /// Checks that a file of `size` bytes with this header can be the segment `name` of the
    /// cluster.
    ///
    /// # Errors
    ///
    /// `Identity` for WAL of another cluster or version, `Damage` for another size, position or
    /// timeline.
    pub fn check(&self, name: SegmentName, size: u64, system_identifier: u64, major: u32) -> Result<()> {
        let damage = |what: String| Err(Error::new(Kind::Damage, what));
        if self.system_identifier != system_identifier {
            return Err(Error::new(
                Kind::Identity,
                format!(
                    "the WAL belongs to the cluster with system identifier {}, not to {system_identifier}",
                    self.system_identifier
                ),
            )
            .hint("another cluster uses this configuration; give each cluster a table and a data directory of its own"));
        }
        if self.major != major {
            return Err(Error::new(
                Kind::Identity,
                format!("the WAL was written by PostgreSQL {}, not by {major}", self.major),
            ));
        }
        if size != self.segment_size.bytes() {
            return damage(format!(
                "the file has {size} bytes, but its header is of segments of {}",
                self.segment_size.bytes()
            ));
        }
        if !name.is_possible(self.segment_size) {
            return damage(format!("{name} cannot be a segment of {size} bytes"));
        }
        let start = name.start(self.segment_size);
        if self.page_address != start.0 {
            return damage(format!(
                "the header is of position {}, the name of {start}",
                super::lsn::Lsn(self.page_address)
            ));
        }
        if self.timeline > name.timeline || self.timeline.0 == 0 {
            return damage(format!(
                "the header is of timeline {}, the name of {}",
                self.timeline, name.timeline
            ));
        }
        Ok(())
    }
}

/// Bytes of a page header up to the end of `xlp_pageaddr`.
const ADDRESSED: usize = 16;

/// Check of all page headers of a complete segment, which is read in pieces. Behind the end of the WAL
/// of a timeline there are pages of another position: the file was reused, or filled up with copies of
/// one page (`XLogFileCopy`). Behind a switch headers are empty (`CopyXLogRecordToWAL` in `xlog.c`).
#[derive(Debug, Default)]
pub struct WalPageCheck {
    /// Magic number and header of the first page; `None` before it.
    first: Option<(u16, SegmentHeader)>,
    /// Offset of the page whose header comes next.
    page: u64,
    /// Bytes of that header so far.
    header: Vec<u8>,
    /// Offset of the first page whose header is wrong.
    wrong: Option<u64>,
}

impl WalPageCheck {
    /// Reads the next piece, which begins at `offset` in the segment. Pieces are read in order.
    pub fn piece(&mut self, offset: u64, piece: &[u8]) {
        while self.wrong.is_none() {
            let wanted = if self.first.is_none() { HEADER_SIZE } else { ADDRESSED };
            let from = (self.page + self.header.len() as u64).checked_sub(offset);
            let rest = from.and_then(|from| piece.get(usize::try_from(from).ok()?..));
            let Some(rest) = rest.filter(|rest| !rest.is_empty()) else {
                return;
            };
            let length = rest.len().min(wanted.saturating_sub(self.header.len()));
            self.header.extend_from_slice(rest.get(..length).unwrap_or(rest));
            if self.header.len() == wanted {
                self.judge();
                self.header.clear();
            }
        }
    }

    fn judge(&mut self) {
        let Some((_, first)) = self.first else {
            let header = SegmentHeader::parse(&self.header).ok();
            let is_size = |size: u32| size.is_power_of_two() && (1 << 10..=1 << 16).contains(&size);
            self.first = u16_at(&self.header, 0).zip(header.filter(|header| is_size(header.block_size)));
            match self.first {
                Some((_, header)) => self.page = u64::from(header.block_size),
                None => self.wrong = Some(0),
            }
            return;
        };
        if !self.can_be_here() {
            self.wrong = Some(self.page);
        }
        self.page += u64::from(first.block_size);
    }

    /// Whether the page whose header was read can be in the segment.
    fn can_be_here(&self) -> bool {
        let is_empty = self.header.iter().all(|byte| *byte == 0);
        let is_page = || {
            let (magic, first) = self.first?;
            let address = u64_at(&self.header, 8)?;
            Some(u16_at(&self.header, 0)? == magic && address.is_multiple_of(u64::from(first.block_size)))
        };
        is_empty || is_page() == Some(true)
    }

    /// Ends the check.
    ///
    /// # Errors
    ///
    /// `Damage` when a page has the header of another one.
    pub fn end(&self) -> Result<()> {
        match self.wrong {
            None => Ok(()),
            Some(at) => {
                let what = format!("the WAL page at offset {at} is not the one that belongs there");
                Err(Error::new(Kind::Damage, what))
            }
        }
    }
}
