//! The gaps of an archive, each with what it means today: open, passed by a later backup, or on a
//! branch that is dead. Only an open one is a problem: no command makes the others smaller.

use super::branches::Branches;
use super::catalog::Gap;
use super::evidence::KnownGaps;
use super::record::Record;
use super::survey::Survey;
use super::window::Windows;
use crate::pg::lsn::Lsn;
use crate::pg::segment::SegmentSize;
use jiff::Timestamp;
use serde::Serialize;

/// Meaning of a gap.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum HoleState {
    /// No good backup that was recorded since lies behind it on its line.
    Open,
    /// A good backup lies behind it on the timeline that is alive: only the moments in between are
    /// lost.
    Passed,
    /// A gap on a branch that no living timeline descends from.
    Dead,
}

/// A gap and its meaning.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Hole {
    #[serde(flatten)]
    pub gap: Gap,
    pub state: HoleState,
    /// Id of the first good backup behind it; `None` unless it is passed.
    pub passed_by: Option<String>,
    /// Id of the last backup before it: the hole ends when this backup and all earlier ones are
    /// removed. `None` without such a backup.
    pub until: Option<String>,
    /// Whether `until` is pinned, so that no rule removes it.
    #[serde(skip)]
    pub is_pinned: bool,
    /// Last moment that can be restored before it; `None` when that is not known.
    pub from: Option<Timestamp>,
    /// First moment that can be restored behind it; `None` unless it is passed.
    pub to: Option<Timestamp>,
    /// Time at which the retention is expected to remove `until`. The caller, who knows the rules,
    /// sets it.
    pub ends: Option<Timestamp>,
}

impl Hole {
    pub fn is_open(&self) -> bool {
        self.state == HoleState::Open
    }

    /// Sets the time at which the retention is expected to end the hole; `expires` returns the time
    /// at which the rules stop keeping a backup.
    pub fn set_end(&mut self, expires: impl FnOnce(&str) -> Option<Timestamp>) {
        let until = self.until.as_deref().filter(|_| self.state == HoleState::Passed && !self.is_pinned);
        self.ends = until.and_then(expires);
    }

    /// Describes what a hole costs that is not open; `None` for an open one.
    pub fn note(&self) -> Option<String> {
        let moment = |time: Timestamp| time.strftime("%Y-%m-%d %H:%M:%S UTC").to_string();
        match self.state {
            HoleState::Open => return None,
            HoleState::Dead => {
                return Some(format!("on timeline {}, which no server continues", self.gap.timeline));
            }
            HoleState::Passed => {}
        }
        let mut note = match (self.from, self.to) {
            (Some(from), Some(to)) => {
                format!("moments from {} to {} cannot be restored", moment(from), moment(to))
            }
            _ => "moments in it cannot be restored".to_owned(),
        };
        if let Some(until) = &self.until {
            note += &format!("; ends when backup {until} is removed");
        }
        if let Some(ends) = self.ends {
            note += &format!(", about {}", ends.strftime("%Y-%m-%d"));
        }
        Some(note)
    }

    /// Returns what to type about a hole that is passed.
    pub fn note_hint(&self) -> String {
        match (&self.until, &self.passed_by) {
            (Some(until), Some(by)) => format!(
                "nothing has to be done: backup {by} and all later ones restore. `walkeep prune --remove {until}`, for it and each backup before it, gives up the moments before the hole"
            ),
            _ => "nothing has to be done".to_owned(),
        }
    }
}

/// The state of an archive by which gaps are judged.
pub struct HoleJudge<'a> {
    pub branches: &'a Branches,
    pub size: SegmentSize,
    /// Backups behind which WAL has to continue, complete and not known to be damaged.
    pub good: Vec<&'a Record>,
    /// All backups behind which WAL has to continue.
    pub leading: Vec<&'a Record>,
    /// Gaps that existed when a backup behind them was recorded. WAL that is lost later is a problem
    /// until the next backup.
    pub known: &'a KnownGaps,
}

impl HoleJudge<'_> {
    /// Judges a gap.
    pub fn judge(&self, gap: Gap, windows: Option<&Windows>) -> Hole {
        let (begin, end) = (gap.first.start(self.size), gap.end(self.size));
        // The gap lies on the line of a backup behind it.
        let leads = |record: &&&Record| {
            let history = self.branches.history(record.timeline);
            history.contains(gap.timeline, begin) && record.wal.first.start(self.size) >= end
        };
        let is_alive = |record: &&&Record| !self.branches.is_dead_at(record.timeline, record.stop_lsn);
        let behind = self.good.iter().filter(leads).filter(is_alive);
        let behind = behind.min_by_key(|record| (record.stop_lsn, record.timeline));
        let state = match behind {
            _ if self.branches.is_dead_at(gap.timeline, begin) => HoleState::Dead,
            Some(_) if self.known.cover(&gap) => HoleState::Passed,
            Some(_) | None => HoleState::Open,
        };
        let passed_by = behind.filter(|_| state == HoleState::Passed);
        let before = self.leading.iter().filter(|record| record.wal.first.start(self.size) <= begin);
        let until = before.max_by_key(|record| record.stop_time);
        let line = passed_by.map(|record| self.branches.history(record.timeline));
        let windows = windows.into_iter().flat_map(|windows| &windows.by_timeline);
        let is_on_line = |timeline| {
            let line = line.as_ref();
            line.is_some_and(|line| line.end_of(timeline) != Some(Lsn(0)))
        };
        let before = windows.filter(|window| is_on_line(window.timeline) && window.to_lsn <= begin);
        Hole {
            gap,
            state,
            passed_by: passed_by.map(|record| record.id.clone()),
            until: until.map(|record| record.id.clone()),
            is_pinned: false,
            from: before.max_by_key(|window| window.to_lsn).map(|window| window.to),
            to: passed_by.map(|record| record.stop_time),
            ends: None,
        }
    }
}

impl Survey {
    /// Returns the gaps in the WAL that complete backups lead through, judged at `now`. See
    /// [`Survey::gaps`]. Without the notes of verifications in the survey, a damaged backup counts as
    /// good.
    pub fn holes(&self, branches: &Branches, windows: Option<&Windows>, now: Timestamp) -> Vec<Hole> {
        let Some(size) = self.segment_size else {
            return Vec::new();
        };
        let leading = self.leading(now);
        let is_good = |record: &&&Record| self.verified.get(&record.id) != Some(&true);
        let good = leading.iter().filter(is_good).copied().collect();
        let judge = HoleJudge { branches, size, good, leading, known: &self.known_gaps };
        let pins = self.pins_at(now);
        let is_pinned =
            |hole: &Hole| hole.until.as_ref().is_some_and(|until| pins.contains_key(until.as_str()));
        let judge = |gap| judge.judge(gap, windows);
        let holes = self.gaps(now).into_iter().map(judge);
        holes.map(|hole| Hole { is_pinned: is_pinned(&hole), ..hole }).collect()
    }

    /// Returns the gaps before a backup that was recorded just now, and those that were known before
    /// and still exist.
    pub fn gaps_before(&self, id: &str, now: Timestamp) -> KnownGaps {
        let Some((size, record)) =
            self.segment_size.zip(self.records.good.iter().find(|record| record.id == id))
        else {
            return self.known_gaps.clone();
        };
        let begin = record.wal.first.start(size);
        let is_passed = |gap: &Gap| gap.last.start(size) < begin || self.known_gaps.cover(gap);
        KnownGaps(self.gaps(now).into_iter().filter(is_passed).collect())
    }

    /// Returns the backups whose WAL has to continue behind them: all complete ones but those with a
    /// standalone pin.
    pub fn leading(&self, now: Timestamp) -> Vec<&Record> {
        let pins = self.pins_at(now);
        let mut leading = self.complete();
        leading.retain(|record| !pins.get(record.id.as_str()).is_some_and(|pin| pin.standalone));
        leading
    }
}
