//! The first page of a WAL segment. Source: PostgreSQL's `xlog_internal.h`.

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
