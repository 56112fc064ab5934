//! Names of WAL files and the arithmetic of segments. Source: PostgreSQL's `xlog_internal.h` and `pgarch.h`.

use super::lsn::Lsn;
use crate::error::{Error, Kind, Result};
use std::{fmt, str::FromStr};

/// Number of a timeline; 1 is the first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
pub struct TimelineId(pub u32);

impl fmt::Display for TimelineId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Size of a WAL segment in bytes: a power of two from 1 MiB to 1 GiB (`initdb --wal-segsize`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "u64", into = "u64")]
pub struct SegmentSize(u32);

impl SegmentSize {
    pub fn bytes(self) -> u64 {
        u64::from(self.0)
    }

    /// Segments that share the second eight digits of their names.
    fn per_log(self) -> u64 {
        (1 << 32) / self.bytes()
    }
}

impl TryFrom<u64> for SegmentSize {
    type Error = Error;

    fn try_from(bytes: u64) -> Result<SegmentSize> {
        if bytes.is_power_of_two() && (1 << 20..=1 << 30).contains(&bytes) {
            Ok(SegmentSize(bytes as u32))
        } else {
            Err(Error::new(Kind::Damage, format!("{bytes} bytes is no size of a WAL segment"))
                .hint("WAL segments are a power of two from 1 MiB to 1 GiB"))
        }
    }
}

impl From<SegmentSize> for u64 {
    fn from(size: SegmentSize) -> u64 {
        size.bytes()
    }
}

/// Name of a complete segment: 24 upper-case hexadecimal digits. Ordered as PostgreSQL names are:
/// by timeline, then by position.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SegmentName {
    pub timeline: TimelineId,
    log: u32,
    segment: u32,
}

impl SegmentName {
    /// The segment in which the byte at `lsn` lies.
    pub fn containing(timeline: TimelineId, lsn: Lsn, size: SegmentSize) -> SegmentName {
        SegmentName::of_number(timeline, lsn.0 / size.bytes(), size)
    }

    /// The last segment that holds a byte before `lsn`: for an end of WAL that lies on a boundary it
    /// is the one before. PostgreSQL's `pg_walfile_name` changed its mind about this in 17.
    pub fn ending_at(timeline: TimelineId, lsn: Lsn, size: SegmentSize) -> SegmentName {
        SegmentName::containing(timeline, Lsn(lsn.0.saturating_sub(1)), size)
    }

    /// The segment with this number, counted from the start of all WAL.
    pub fn of_number(timeline: TimelineId, number: u64, size: SegmentSize) -> SegmentName {
        SegmentName {
            timeline,
            log: (number / size.per_log()) as u32,
            segment: (number % size.per_log()) as u32,
        }
    }

    /// Position of the segment in all WAL, counted in segments.
    pub fn number(self, size: SegmentSize) -> u64 {
        u64::from(self.log) * size.per_log() + u64::from(self.segment)
    }

    /// LSN of the first byte.
    pub fn start(self, size: SegmentSize) -> Lsn {
        Lsn(self.number(size) * size.bytes())
    }

    pub fn next(self, size: SegmentSize) -> SegmentName {
        SegmentName::of_number(self.timeline, self.number(size) + 1, size)
    }

    /// Whether such a name can exist with segments of this size (`…000000FF` cannot with 1 GiB).
    pub fn is_possible(self, size: SegmentSize) -> bool {
        u64::from(self.segment) < size.per_log()
    }

    /// The same position on another timeline.
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

/// Every name that PostgreSQL gives to `archive_command` or asks of `restore_command`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum WalName {
    Segment(SegmentName),
    /// The last, incomplete segment of a timeline that ended by a promotion.
    Partial(SegmentName),
    /// `….OFFSET.backup`: the history of a base backup.
    Backup(SegmentName, u32),
    /// `TIMELINE.history`.
    History(TimelineId),
}

impl WalName {
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
                log: hex(s.get(8..16)?)?,
                segment: hex(s.get(16..)?)?,
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
