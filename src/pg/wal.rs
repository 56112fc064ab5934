//! The first page of a WAL segment. Source: PostgreSQL's `xlog_internal.h`.

use super::control::array;
use super::segment::{SegmentName, SegmentSize, TimelineId};
use crate::error::{Error, Kind, Result};

/// Bytes of a long page header.
pub const HEADER_SIZE: usize = 40;

/// `XLP_LONG_HEADER`: the first page of each segment has it; other bits vary.
const LONG_HEADER: u16 = 0x0002;

/// The long header at the start of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentHeader {
    /// The major version whose WAL this is.
    pub major: u32,
    /// Not above the timeline of the name; below it in the first segment after a promotion.
    pub timeline: TimelineId,
    pub page_address: u64,
    pub system_identifier: u64,
    pub segment_size: SegmentSize,
    pub block_size: u32,
}

impl SegmentHeader {
    pub fn parse(bytes: &[u8]) -> Result<SegmentHeader> {
        let bad = |what: String| Error::new(Kind::Damage, what);
        if bytes.len() < HEADER_SIZE {
            return Err(bad(format!("{} bytes are too few for a WAL segment", bytes.len())));
        }
        let magic = u16::from_le_bytes(array(bytes, 0));
        let major = match magic {
            0xD110 => 15,
            0xD113 => 16,
            0xD116 => 17,
            0xD118 => 18,
            0 => return Err(bad("the WAL page header is empty".into())),
            _ => return Err(bad(format!("{magic:04X} is no page magic of a supported PostgreSQL"))),
        };
        if u16::from_le_bytes(array(bytes, 2)) & LONG_HEADER == 0 {
            return Err(bad("the first page has no long header".into()));
        }
        Ok(SegmentHeader {
            major,
            timeline: TimelineId(u32::from_le_bytes(array(bytes, 4))),
            page_address: u64::from_le_bytes(array(bytes, 8)),
            system_identifier: u64::from_le_bytes(array(bytes, 24)),
            segment_size: SegmentSize::try_from(u64::from(u32::from_le_bytes(array(bytes, 32))))?,
            block_size: u32::from_le_bytes(array(bytes, 36)),
        })
    }

    /// Whether a file of `size` bytes with this header can be the segment `name` of the cluster.
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
                "the file has {size} bytes, its header says segments of {}",
                self.segment_size.bytes()
            ));
        }
        if !name.is_possible(self.segment_size) {
            return damage(format!("{name} cannot be a segment of {size} bytes"));
        }
        let start = name.start(self.segment_size);
        if self.page_address != start.0 {
            return damage(format!(
                "the header says position {}, the name says {start}",
                super::lsn::Lsn(self.page_address)
            ));
        }
        if self.timeline > name.timeline || self.timeline.0 == 0 {
            return damage(format!("the header says timeline {}, the name {}", self.timeline, name.timeline));
        }
        Ok(())
    }
}
