//! Timeline history files. Source: PostgreSQL's `timeline.c`.

use super::{lsn::Lsn, segment::TimelineId};
use crate::error::{Error, Kind, Result};

/// More than any real history has; a file beyond it is no history file.
pub const MAX_FILE_SIZE: u64 = 1 << 20;

/// The ancestry of a timeline: through which timelines its WAL leads, and where each was left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct History {
    pub timeline: TimelineId,
    /// The ancestors, oldest first, each with the LSN at which the next one begins.
    pub parents: Vec<(TimelineId, Lsn)>,
}

impl History {
    /// The history of a timeline that has no file: timeline 1, or one whose ancestors are not known.
    pub fn root(timeline: TimelineId) -> History {
        History { timeline, parents: Vec::new() }
    }

    /// Reads the text of `<timeline>.history`: lines of `parent LSN reason`, comments and blank lines.
    pub fn parse(timeline: TimelineId, text: &[u8]) -> Result<History> {
        let damaged = |line: usize, what: &str| {
            Error::new(Kind::Damage, format!("line {line} of {:08X}.history {what}", timeline.0))
        };
        let text = String::from_utf8_lossy(text);
        let mut parents: Vec<(TimelineId, Lsn)> = Vec::new();
        for (index, line) in text.lines().enumerate() {
            let mut words = line.split_whitespace();
            let Some(first) = words.next().filter(|word| !word.starts_with('#')) else {
                continue;
            };
            let parent = first.parse().map(TimelineId);
            let parent = parent.map_err(|_| damaged(index + 1, "does not begin with a timeline"))?;
            let lsn = words.next().and_then(|word| word.parse::<Lsn>().ok());
            let lsn = lsn.ok_or_else(|| damaged(index + 1, "has no LSN"))?;
            if parent >= timeline || parents.last().is_some_and(|last| last.0 >= parent) {
                return Err(damaged(index + 1, "is out of order"));
            }
            parents.push((parent, lsn));
        }
        if parents.is_empty() {
            return Err(Error::new(Kind::Damage, format!("{:08X}.history names no ancestor", timeline.0)));
        }
        Ok(History { timeline, parents })
    }

    /// Where this history leaves `timeline`: `None` when it never does, being its last one; zero for
    /// a timeline that it does not lead through.
    pub fn end_of(&self, timeline: TimelineId) -> Option<Lsn> {
        if timeline == self.timeline {
            return None;
        }
        let parent = self.parents.iter().find(|parent| parent.0 == timeline);
        Some(parent.map_or(Lsn(0), |parent| parent.1))
    }

    /// Whether WAL of `timeline` up to `lsn` belongs to this history.
    pub fn contains(&self, timeline: TimelineId, lsn: Lsn) -> bool {
        self.end_of(timeline).is_none_or(|end| lsn <= end)
    }

    /// The timeline that the byte at `lsn` belongs to.
    pub fn timeline_at(&self, lsn: Lsn) -> TimelineId {
        self.parents.iter().find(|(_, end)| lsn < *end).map_or(self.timeline, |parent| parent.0)
    }
}
