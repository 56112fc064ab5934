//! Timeline history files. Source: PostgreSQL's `timeline.c`.

use super::{lsn::Lsn, segment::TimelineId};
use crate::error::{Error, Kind, Result};

/// Maximum size of a history file in bytes; real files are far smaller.
pub const MAX_FILE_SIZE: u64 = 1 << 20;

/// Maximum number of ancestors of a timeline.
const MAX_PARENTS: usize = 4096;

/// Ancestry of a timeline: the timelines through which its history passes, and the position at
/// which it left each of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct History {
    pub timeline: TimelineId,
    /// Ancestors, oldest first, each with the position at which the next timeline begins.
    pub parents: Vec<(TimelineId, Lsn)>,
}

impl History {
    /// History of a timeline without a file: timeline 1, or one whose ancestors are unknown.
    pub fn root(timeline: TimelineId) -> History {
        History { timeline, parents: Vec::new() }
    }

    /// Parses `<timeline>.history`: lines of `parent LSN reason`, comments and blank lines
    /// (`readTimeLineHistory`).
    ///
    /// # Errors
    ///
    /// `Damage` for a line of another form, timelines out of order, more than 4096 ancestors, and a
    /// file without any.
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
            if parent.0 == 0 || parent >= timeline || parents.last().is_some_and(|last| last.0 >= parent) {
                return Err(damaged(index + 1, "is out of order"));
            }
            if parents.len() == MAX_PARENTS {
                return Err(damaged(index + 1, "is one ancestor too many"));
            }
            parents.push((parent, lsn));
        }
        if parents.is_empty() {
            return Err(Error::new(Kind::Damage, format!("{:08X}.history names no ancestor", timeline.0)));
        }
        Ok(History { timeline, parents })
    }

    /// Returns the content of the history file of an ancestor, from the file of this timeline.
    /// `writeTimeLineHistory` copies the file of the parent, adds an empty line in front, and
    /// appends the line of the parent. `None` when the file does not name the ancestor, or names
    /// none before it.
    pub fn file_of(ancestor: TimelineId, text: &[u8]) -> Option<Vec<u8>> {
        let mut before = Vec::new();
        for line in text.split_inclusive(|byte| *byte == b'\n') {
            let word = line.split(u8::is_ascii_whitespace).find(|word| !word.is_empty());
            if word.and_then(|word| std::str::from_utf8(word).ok()?.parse().ok()) == Some(ancestor.0) {
                if before.ends_with(b"\n\n") {
                    before.pop();
                }
                return History::parse(ancestor, &before).is_ok().then_some(before);
            }
            before.extend_from_slice(line);
        }
        None
    }

    /// Position at which this history leaves `timeline`: `None` for the last timeline, zero for a
    /// timeline that is not part of this history.
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

    /// Timeline of the byte at `lsn`.
    pub fn timeline_at(&self, lsn: Lsn) -> TimelineId {
        self.parents.iter().find(|(_, end)| lsn < *end).map_or(self.timeline, |parent| parent.0)
    }
}
