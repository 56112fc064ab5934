//! Names of WAL files and the arithmetic of segments. Source: PostgreSQL's `xlog_internal.h` and
//! `pgarch.h`.

use super::lsn::Lsn;
use crate::error::{Error, Kind, Result};
use std::{fmt, str::FromStr};

/// Number of a timeline, from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
pub struct TimelineId(pub u32);

impl fmt::Display for TimelineId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Maximum middle part of a segment's name: no server has written 8 EiB of WAL. Positions in such
/// segments, and behind them, have 64 bits.
const MAX_LOG: u32 = i32::MAX.unsigned_abs();

/// Maximum last part of a segment's name: 4096 segments of 1 MiB share a middle part.
const MAX_SEGMENT: u32 = 0xFFF;

/// Size of a WAL segment in bytes: a power of two from 1 MiB to 1 GiB (`initdb --wal-segsize`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "u64", into = "u64")]
pub struct SegmentSize(u32);

impl SegmentSize {
    pub fn bytes(self) -> u64 {
        u64::from(self.0)
    }

    /// Number of segments that share the second eight digits of their names
    /// (`XLogSegmentsPerXLogId`).
    fn per_log(self) -> u64 {
        (1 << 32) / self.bytes()
    }
}

impl TryFrom<u64> for SegmentSize {
    type Error = Error;

    fn try_from(bytes: u64) -> Result<SegmentSize> {
        match u32::try_from(bytes) {
            Ok(size) if size.is_power_of_two() && (1 << 20..=1 << 30).contains(&size) => {
                Ok(SegmentSize(size))
            }
            _ => Err(Error::new(Kind::Damage, format!("{bytes} bytes is not a size of a WAL segment"))
                .hint("WAL segments are a power of two from 1 MiB to 1 GiB")),
        }
    }
}

impl From<SegmentSize> for u64 {
    fn from(size: SegmentSize) -> u64 {
        size.bytes()
    }
}

/// Name of a complete segment: 24 upper-case hexadecimal digits. Ordered by timeline, then by
/// position.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SegmentName {
    pub timeline: TimelineId,
    log: u32,
    segment: u32,
}

impl SegmentName {
    /// Segment that contains the byte at `lsn`.
    pub fn containing(timeline: TimelineId, lsn: Lsn, size: SegmentSize) -> SegmentName {
        SegmentName::of_number(timeline, lsn.0 / size.bytes(), size)
    }

    /// Last segment that contains a byte before `lsn`: if `lsn` is on a boundary, the segment
    /// before the boundary. (The result of PostgreSQL's `pg_walfile_name` for a boundary changed in
    /// 17.)
    pub fn ending_at(timeline: TimelineId, lsn: Lsn, size: SegmentSize) -> SegmentName {
        SegmentName::containing(timeline, Lsn(lsn.0.saturating_sub(1)), size)
    }

    /// Segment with this number, counted from the start of all WAL.
    pub fn of_number(timeline: TimelineId, number: u64, size: SegmentSize) -> SegmentName {
        #[allow(
            clippy::cast_possible_truncation,
            reason = "at most 2^44 segments of 1 MiB, 4096 in each log"
        )]
        let (log, segment) = ((number / size.per_log()) as u32, (number % size.per_log()) as u32);
        SegmentName { timeline, log, segment }
    }

    /// Position of the segment in all WAL, counted in segments.
    pub fn number(self, size: SegmentSize) -> u64 {
        u64::from(self.log) * size.per_log() + u64::from(self.segment)
    }

    /// Position of the first byte.
    pub fn start(self, size: SegmentSize) -> Lsn {
        Lsn(self.number(size) * size.bytes())
    }

    /// Segment after this one, on the same timeline.
    pub fn next(self, size: SegmentSize) -> SegmentName {
        SegmentName::of_number(self.timeline, self.number(size) + 1, size)
    }

    /// Whether the name is valid for segments of this size (`…000000FF` is not valid with 1 GiB).
    pub fn is_possible(self, size: SegmentSize) -> bool {
        u64::from(self.segment) < size.per_log()
    }

    /// Segment at this position on another timeline.
    pub fn on(self, timeline: TimelineId) -> SegmentName {
        SegmentName { timeline, ..self }
    }

    /// The middle 8 digits of the name: the upper half of the WAL position.
    pub fn log(self) -> u32 {
        self.log
    }
}

impl fmt::Display for SegmentName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08X}{:08X}{:08X}", self.timeline.0, self.log, self.segment)
    }
}

impl FromStr for SegmentName {
    type Err = Error;

    fn from_str(text: &str) -> Result<SegmentName> {
        match text.parse()? {
            WalName::Segment(name) => Ok(name),
            _ => Err(no_wal_name(text)),
        }
    }
}

impl serde::Serialize for SegmentName {
    fn serialize<S: serde::Serializer>(&self, s: S) -> std::result::Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for SegmentName {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> std::result::Result<SegmentName, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(d)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// Name of a file that PostgreSQL passes to `archive_command` or requests from `restore_command`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum WalName {
    Segment(SegmentName),
    /// `….partial`: the last, incomplete segment of a timeline that ended with a promotion.
    Partial(SegmentName),
    /// `….OFFSET.backup`: the backup history file of a base backup.
    Backup(SegmentName, u32),
    /// `TIMELINE.history`.
    History(TimelineId),
}

impl WalName {
    /// Timeline in the name.
    pub fn timeline(self) -> TimelineId {
        match self {
            WalName::Segment(name) | WalName::Partial(name) | WalName::Backup(name, _) => name.timeline,
            WalName::History(timeline) => timeline,
        }
    }
}

impl fmt::Display for WalName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WalName::Segment(name) => name.fmt(f),
            WalName::Partial(name) => write!(f, "{name}.partial"),
            WalName::Backup(name, offset) => write!(f, "{name}.{offset:08X}.backup"),
            WalName::History(timeline) => write!(f, "{:08X}.history", timeline.0),
        }
    }
}

fn no_wal_name(text: &str) -> Error {
    Error::new(Kind::Usage, format!("`{}` is not the name of a WAL file", text.escape_debug())).hint(
        "WAL files are named by 24 upper-case hexadecimal digits, with .partial or .XXXXXXXX.backup behind them, or XXXXXXXX.history",
    )
}

impl FromStr for WalName {
    type Err = Error;

    fn from_str(text: &str) -> Result<WalName> {
        let hex = |s: &str| -> Option<u32> {
            let upper = s.len() == 8 && s.bytes().all(|b| matches!(b, b'0'..=b'9' | b'A'..=b'F'));
            upper.then(|| u32::from_str_radix(s, 16).ok()).flatten()
        };
        let segment = |s: &str| -> Option<SegmentName> {
            Some(SegmentName {
                timeline: TimelineId(hex(s.get(0..8)?)?),
                log: hex(s.get(8..16)?).filter(|log| *log <= MAX_LOG)?,
                segment: hex(s.get(16..)?).filter(|segment| *segment <= MAX_SEGMENT)?,
            })
        };
        let (stem, rest) = match text.split_once('.') {
            Some((stem, rest)) => (stem, Some(rest)),
            None => (text, None),
        };
        let name = match rest {
            None => segment(stem).map(WalName::Segment),
            Some("partial") => segment(stem).map(WalName::Partial),
            Some("history") => hex(stem).map(|timeline| WalName::History(TimelineId(timeline))),
            Some(rest) => rest
                .strip_suffix(".backup")
                .and_then(|offset| Some(WalName::Backup(segment(stem)?, hex(offset)?))),
        };
        name.filter(|name| name.timeline().0 > 0).ok_or_else(|| no_wal_name(text))
    }
}
