//! Problems that the threads of a verification have found, and objects that could not be checked.

use super::cost::LostSpan;
use super::wal::ReadRecords;
use crate::error::{Error, Kind, Result};
use crate::pg::label::Label;
use crate::pg::segment::{SegmentName, WalName};
use crate::repo::{Archive, ObjectName};
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// Maximum number of bad places that are kept for one pack; a pack with more bad places counts as
/// bad as a whole.
const MAX_PLACES: usize = 1000;

/// Maximum number of problems that are kept.
const MAX_PROBLEMS: usize = 100_000;

/// Number of objects in a row that could not be reached, after which the remaining objects are
/// skipped.
const MAX_UNREACHED: u32 = 20;

/// Content of a frame as a whole.
pub const WHOLE_FRAME: Range<usize> = 0..usize::MAX;

/// Whether an error proves damage. After any other error the state of the object is unknown.
pub fn is_damage(error: &Error) -> bool {
    matches!(error.kind(), Kind::Damage | Kind::Identity | Kind::Hole)
}

/// Kind of a problem.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ProblemKind {
    /// An object does not exist.
    Missing,
    /// The bytes of an object are not those that were stored, or their number is wrong.
    Damaged,
    /// Undamaged objects contradict each other.
    Inconsistent,
    /// WAL is missing between segments that exist.
    Gap,
    /// A segment does not continue the one before it.
    Seam,
    /// There is no complete backup.
    NoBackup,
}

impl ProblemKind {
    /// Name of the kind in reports.
    pub fn as_str(self) -> &'static str {
        match self {
            ProblemKind::Missing => "missing",
            ProblemKind::Damaged => "damaged",
            ProblemKind::Inconsistent => "inconsistent",
            ProblemKind::Gap => "gap",
            ProblemKind::Seam => "seam",
            ProblemKind::NoBackup => "no_backup",
        }
    }
}

/// A problem with an object.
#[derive(Debug, Clone)]
pub struct Problem {
    pub kind: ProblemKind,
    /// Key of the object, relative to the archive.
    pub object: String,
    pub detail: String,
    /// Ids of the backups that cannot be restored, or not as far as they should.
    pub backups: BTreeSet<String>,
    /// Moments that can no longer be restored because of it; `None` when they are not known.
    pub window: Option<Vec<LostSpan>>,
    /// Commands to type, where the kind of the problem does not decide them.
    advice: Option<String>,
    /// Further backups that are affected, if the object is a pack.
    pub(super) impact: Impact,
}

/// Backups that are affected by damage to a pack.
#[derive(Debug, Clone, Default)]
pub(super) struct Impact {
    /// Every backup that names the pack.
    pub all: bool,
    /// Backups with a block in one of these places: the offset of a frame, and a range of bytes of
    /// its content.
    pub places: BTreeSet<(u64, usize, usize)>,
}

impl Problem {
    /// Returns a problem with the identity of a repository.
    pub fn of_identity(object: String, error: &Error) -> Problem {
        let kind = if error.kind() == Kind::Identity { ProblemKind::Missing } else { ProblemKind::Damaged };
        Problem::new(kind, object, error.to_string())
    }

    fn new(kind: ProblemKind, object: String, detail: String) -> Problem {
        Problem {
            kind,
            object,
            detail,
            backups: BTreeSet::new(),
            window: None,
            advice: None,
            impact: Impact::default(),
        }
    }

    /// Command to type, or what else to do.
    pub fn hint(&self) -> &str {
        if let Some(advice) = &self.advice {
            return advice;
        }
        const RESTORE_OBJECT: &str =
            "move it away and bring it back: `walkeep sync` from a repository that has it, or a copy";
        match (ObjectName::parse(&self.object), self.kind) {
            (_, ProblemKind::NoBackup) => "run `walkeep backup`",
            (Some(ObjectName::Pack(..)), ProblemKind::Missing) => {
                "bring it back: `walkeep sync` from a repository that has it, or a copy; else take a backup now, which stores the lost blocks again, and remove the damaged ones: `walkeep prune --remove`"
            }
            (Some(ObjectName::Pack(..)), _) => {
                "move it away and bring it back: `walkeep sync` from a repository that has it, or a copy; else take a backup now with --full, and remove the damaged ones: `walkeep prune --remove`"
            }
            (Some(ObjectName::Record(_)), ProblemKind::Missing) => {
                "bring it back from another repository or a copy; its data stay until `walkeep prune --remove`"
            }
            (Some(ObjectName::Record(_) | ObjectName::Manifest(..)), _) => RESTORE_OBJECT,
            (Some(ObjectName::Wal(_)), ProblemKind::Missing) if !self.backups.is_empty() => {
                "push it again from pg_wal of the primary or a standby, or `walkeep sync` from a repository that has it; if it is lost take a backup now, and remove those that need it: `walkeep prune --remove`"
            }
            (Some(ObjectName::Wal(_)), ProblemKind::Seam) => {
                "two servers archived under the same names, or the WAL was changed before it was archived: take a backup now (`walkeep backup`), which does not need this WAL; on the server `walkeep check --wal` lists the files that are not its own"
            }
            (Some(ObjectName::Wal(_)), ProblemKind::Missing | ProblemKind::Gap) => {
                "push it again from pg_wal of the primary or a standby, or `walkeep sync` from a repository that has it; if it is lost take a backup now"
            }
            (Some(ObjectName::Wal(_)), _) => {
                "move it away and push it again from pg_wal of the primary or a standby, or `walkeep sync` from a repository that has it; if it is lost take a backup now"
            }
            (Some(ObjectName::Pin(_)), _) => "pin the backup again; until then the backup is kept",
            (Some(_), _) => "nothing is lost: it is only evidence, and is written again",
            (None, _) => "bring it back from another repository or a copy",
        }
    }
}

/// A fact about an object that is not a problem.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    pub object: String,
    pub detail: String,
}

/// An object that could not be checked.
#[derive(Debug, Clone)]
pub struct Unknown {
    pub object: String,
    pub detail: String,
}

/// Amount of work that was done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Checked {
    pub backups: u64,
    pub objects: u64,
    /// Stored bytes that were read.
    pub bytes: u64,
    pub segments: u64,
}

/// Findings of all threads.
#[derive(Default)]
pub struct Findings {
    problems: Mutex<BTreeMap<(String, ProblemKind), Problem>>,
    unknown: Mutex<BTreeMap<String, Unknown>>,
    notes: Mutex<Vec<Note>>,
    /// Records of the segments that were read.
    pub read: Mutex<BTreeMap<SegmentName, ReadRecords>>,
    /// Labels of the backups whose files were read.
    pub labels: Mutex<BTreeMap<String, Label>>,
    pub objects: AtomicU64,
    pub bytes: AtomicU64,
    pub segments: AtomicU64,
    /// Number of objects in a row that could not be reached.
    unreached: AtomicU32,
}

impl Findings {
    /// Adds to one of the counters.
    pub fn count(counter: &AtomicU64, by: u64) {
        counter.fetch_add(by, Ordering::Relaxed);
    }

    /// Adds a problem with an object as a whole.
    pub fn problem<'b>(
        &self,
        kind: ProblemKind,
        object: &ObjectName,
        detail: impl Into<String>,
        backups: impl IntoIterator<Item = &'b str>,
    ) {
        let backups = backups.into_iter().map(str::to_owned).collect();
        self.add(Problem { backups, ..Problem::new(kind, object.to_string(), detail.into()) });
    }

    /// Adds a problem with an object as a whole, with commands to type.
    pub fn problem_with<'b>(
        &self,
        kind: ProblemKind,
        object: &ObjectName,
        detail: impl Into<String>,
        backups: impl IntoIterator<Item = &'b str>,
        advice: String,
    ) {
        let backups = backups.into_iter().map(str::to_owned).collect();
        let problem = Problem::new(kind, object.to_string(), detail.into());
        self.add(Problem { backups, advice: Some(advice), ..problem });
    }

    /// Adds a fact that is not a problem.
    pub fn note(&self, object: &ObjectName, detail: impl Into<String>) {
        self.notes.lock().push(Note { object: object.to_string(), detail: detail.into() });
    }

    /// Adds a problem with a pack that no backup can use any more.
    pub fn pack(&self, kind: ProblemKind, pack: &ObjectName, detail: impl Into<String>) {
        let impact = Impact { all: true, places: BTreeSet::new() };
        self.add(Problem { impact, ..Problem::new(kind, pack.to_string(), detail.into()) });
    }

    /// Adds damage to some bytes of the content of the frame at this offset of a pack.
    pub fn place(&self, pack: &str, offset: u64, bytes: Range<usize>, detail: String) {
        let impact = Impact { all: false, places: [(offset, bytes.start, bytes.end)].into() };
        self.add(Problem { impact, ..Problem::new(ProblemKind::Damaged, pack.to_owned(), detail) });
    }

    /// Adds the error of reading an object: a problem if it proves damage, else an unknown object.
    pub fn error<'b>(
        &self,
        object: &ObjectName,
        error: &Error,
        exists: bool,
        backups: impl IntoIterator<Item = &'b str>,
    ) {
        if is_damage(error) {
            let kind = if exists { ProblemKind::Damaged } else { ProblemKind::Missing };
            self.problem(kind, object, error.to_string(), backups);
        } else {
            self.unknown(object, error);
        }
    }

    /// Adds the result of reading a WAL file.
    pub fn wal(&self, archive: &Archive, name: WalName, result: Result<Option<ReadRecords>>) {
        let object = ObjectName::Wal(name);
        match result {
            Ok(Some(records)) => {
                self.reached();
                if let WalName::Segment(name) = name {
                    self.read.lock().insert(name, records);
                }
            }
            Ok(None) => self.problem(ProblemKind::Missing, &object, "it is missing", []),
            Err(error) => match archive.stored_at(&object) {
                Ok(stored) => self.error(&object, &error, stored.is_some(), []),
                Err(error) => self.unknown(&object, &error),
            },
        }
    }

    /// Adds an object that could not be checked.
    pub fn unknown(&self, object: &ObjectName, error: &Error) {
        let object = object.to_string();
        let mut unknown = self.unknown.lock();
        // Further parts of an object are not further objects.
        if error.kind().is_transient() && !unknown.contains_key(&object) {
            self.unreached.fetch_add(1, Ordering::Relaxed);
        }
        let new = Unknown { object: object.clone(), detail: error.to_string() };
        unknown.entry(object).or_insert(new);
    }

    fn add(&self, problem: Problem) {
        let mut problems = self.problems.lock();
        if problems.len() >= MAX_PROBLEMS {
            return;
        }
        let Problem { kind, object, detail, backups, impact, advice, .. } = problem;
        let known = problems
            .entry((object.clone(), kind))
            .or_insert_with(|| Problem { advice, ..Problem::new(kind, object, detail) });
        known.backups.extend(backups);
        known.impact.places.extend(impact.places);
        known.impact.all |= impact.all || known.impact.places.len() > MAX_PLACES;
        if known.impact.all {
            known.impact.places.clear();
        }
    }

    /// Adds the problem that there is no complete backup.
    pub fn no_backup(&self) {
        let detail = "there is no complete backup".to_owned();
        self.add(Problem::new(ProblemKind::NoBackup, "backup".to_owned(), detail));
    }

    /// Whether there is a problem with this object.
    pub fn has_problem(&self, object: &ObjectName) -> bool {
        // `Missing` is the lowest kind.
        let first = (object.to_string(), ProblemKind::Missing);
        let problems = self.problems.lock();
        problems.range(first.clone()..).next().is_some_and(|((object, _), _)| *object == first.0)
    }

    /// Whether the repository has stopped answering.
    pub fn is_outage(&self) -> bool {
        self.unreached.load(Ordering::Relaxed) >= MAX_UNREACHED
    }

    /// Resets the number of objects in a row that could not be reached.
    pub fn reached(&self) {
        self.unreached.store(0, Ordering::Relaxed);
    }

    /// Takes the problems that were found so far.
    pub fn take_problems(&self) -> Vec<Problem> {
        std::mem::take(&mut *self.problems.lock()).into_values().collect()
    }

    /// Takes the objects that could not be checked so far.
    pub fn take_unknown(&self) -> Vec<Unknown> {
        std::mem::take(&mut *self.unknown.lock()).into_values().collect()
    }

    /// Takes the notes that were made so far.
    pub fn take_notes(&self) -> Vec<Note> {
        std::mem::take(&mut *self.notes.lock())
    }

    /// Values of the counters; the number of backups is not counted here.
    pub fn checked(&self) -> Checked {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Checked {
            backups: 0,
            objects: load(&self.objects),
            bytes: load(&self.bytes),
            segments: load(&self.segments),
        }
    }
}
