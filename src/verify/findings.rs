//! What was found, gathered from all threads.

use super::cost::Lost;
use crate::error::{Error, Kind as ErrorKind};
use crate::repo::ObjectName;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Bad places that are kept for one pack; with more all of it counts as bad.
const PLACES: usize = 1000;

/// Problems that are kept apart; more are counted.
const MOST: usize = 100_000;

/// Objects in a row that could not be reached before the rest is not tried.
const HOPELESS: u32 = 20;

/// What sort of problem it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// An object is not there.
    Missing,
    /// Its bytes are not what was stored, or of a wrong length.
    Damaged,
    /// Whole objects contradict each other.
    Inconsistent,
    /// WAL is missing between what is there.
    Gap,
    /// There is no complete backup.
    NoBackup,
}

impl Kind {
    /// As reports have it.
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Missing => "missing",
            Kind::Damaged => "damaged",
            Kind::Inconsistent => "inconsistent",
            Kind::Gap => "gap",
            Kind::NoBackup => "no_backup",
        }
    }
}

/// Something that is wrong with an object.
#[derive(Debug, Clone)]
pub struct Problem {
    pub kind: Kind,
    /// Its key, relative to the archive.
    pub object: String,
    pub detail: String,
    /// The backups that cannot be restored, or not as far as they should.
    pub backups: BTreeSet<String>,
    /// What can no longer be restored because of it; `None` when that cannot be told.
    pub window: Option<Vec<Lost>>,
    /// Of a pack: whom it hurts beside those that are named.
    pub(super) hurts: Hurts,
}

/// Who is hurt by what is wrong with a pack.
#[derive(Debug, Clone, Default)]
pub(super) struct Hurts {
    /// Every backup that names it.
    pub all: bool,
    /// Those with a block in one of these places: where a frame begins, and bytes of its content.
    pub places: BTreeSet<(u64, u32, u32)>,
}

impl Problem {
    /// The object that says whose repository it is.
    pub fn of_identity(object: String, error: &Error) -> Problem {
        Problem {
            kind: if error.kind() == ErrorKind::Identity { Kind::Missing } else { Kind::Damaged },
            object,
            detail: error.to_string(),
            backups: BTreeSet::new(),
            window: None,
            hurts: Hurts::default(),
        }
    }

    /// What to do about it.
    pub fn hint(&self) -> &'static str {
        const BACK: &str =
            "move it away and bring it back: `walkeep sync` from a repository that has it, or a copy";
        match (ObjectName::parse(&self.object), self.kind) {
            (_, Kind::NoBackup) => "run `walkeep backup`",
            (Some(ObjectName::Pack(..)), Kind::Missing) => {
                "bring it back: `walkeep sync` from a repository that has it, or a copy; else take a backup now, which stores anew what is lost, and remove the damaged ones: `walkeep prune --remove`"
            }
            (Some(ObjectName::Pack(..)), _) => {
                "move it away and bring it back: `walkeep sync` from a repository that has it, or a copy; else take a backup now with --full, and remove the damaged ones: `walkeep prune --remove`"
            }
            (Some(ObjectName::Record(_)), Kind::Missing) => {
                "bring it back from another repository or a copy; its data stay until you say `walkeep prune --remove`"
            }
            (Some(ObjectName::Record(_) | ObjectName::Manifest(..)), _) => BACK,
            (Some(ObjectName::Wal(_)), Kind::Missing | Kind::Gap) => {
                "push it again from pg_wal of the primary or a standby, or `walkeep sync` from a repository that has it; if it is lost take a backup now"
            }
            (Some(ObjectName::Wal(_)), _) => {
                "move it away and push it again from pg_wal of the primary or a standby, or `walkeep sync` from a repository that has it; if it is lost take a backup now"
            }
            (Some(ObjectName::Pin(_)), _) => "pin the backup again; until then it stays",
            (Some(_), _) => "nothing is lost: it is only a note, and is written anew",
            (None, _) => "bring it back from another repository or a copy",
        }
    }
}

/// Something that could not be looked at.
#[derive(Debug, Clone)]
pub struct Unknown {
    pub object: String,
    pub detail: String,
}

/// How much was looked at.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Checked {
    pub backups: u64,
    pub objects: u64,
    /// Bytes that were read, as they are stored.
    pub bytes: u64,
    pub segments: u64,
}

#[derive(Default)]
pub struct Findings {
    problems: Mutex<BTreeMap<(String, Kind), Problem>>,
    unknown: Mutex<BTreeMap<String, Unknown>>,
    pub objects: AtomicU64,
    pub bytes: AtomicU64,
    pub segments: AtomicU64,
    /// Objects in a row that an outage kept from being read.
    silent: AtomicU32,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Findings {
    pub fn count(counter: &AtomicU64, by: u64) {
        counter.fetch_add(by, Ordering::Relaxed);
    }

    /// A problem with an object as a whole.
    pub fn problem<'b>(
        &self,
        kind: Kind,
        object: &ObjectName,
        detail: impl Into<String>,
        backups: impl IntoIterator<Item = &'b str>,
    ) {
        let backups = backups.into_iter().map(str::to_owned).collect();
        self.add(kind, object.to_string(), detail.into(), backups, Hurts::default());
    }

    /// A pack cannot be used by anybody who names it.
    pub fn pack(&self, kind: Kind, pack: &ObjectName, detail: impl Into<String>) {
        let hurts = Hurts { all: true, ..Hurts::default() };
        self.add(kind, pack.to_string(), detail.into(), BTreeSet::new(), hurts);
    }

    /// Some bytes of the content of a frame that begins at this offset are bad.
    pub fn place(&self, pack: &str, offset: u64, bytes: Range<usize>, detail: String) {
        let narrow = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        let place = (offset, narrow(bytes.start), narrow(bytes.end));
        let hurts = Hurts { all: false, places: [place].into() };
        self.add(Kind::Damaged, pack.to_owned(), detail, BTreeSet::new(), hurts);
    }

    /// What came of reading an object: damage is a problem, anything else could not be told.
    pub fn error<'b>(
        &self,
        object: &ObjectName,
        error: &Error,
        is_there: bool,
        backups: impl IntoIterator<Item = &'b str>,
    ) {
        match error.kind() {
            ErrorKind::Damage | ErrorKind::Identity | ErrorKind::Hole => {
                let kind = if is_there { Kind::Damaged } else { Kind::Missing };
                self.problem(kind, object, error.to_string(), backups);
            }
            _ => self.unknown(object, error),
        }
    }

    pub fn unknown(&self, object: &ObjectName, error: &Error) {
        if error.kind().is_transient() {
            self.silent.fetch_add(1, Ordering::Relaxed);
        }
        let object = object.to_string();
        let unknown = Unknown { object: object.clone(), detail: error.to_string() };
        lock(&self.unknown).entry(object).or_insert(unknown);
    }

    fn add(&self, kind: Kind, object: String, detail: String, backups: BTreeSet<String>, hurts: Hurts) {
        let mut problems = lock(&self.problems);
        if problems.len() >= MOST {
            return;
        }
        let known = problems.entry((object.clone(), kind)).or_insert_with(|| Problem {
            kind,
            object,
            detail,
            backups: BTreeSet::new(),
            window: None,
            hurts: Hurts::default(),
        });
        known.backups.extend(backups);
        known.hurts.places.extend(hurts.places);
        known.hurts.all |= hurts.all || known.hurts.places.len() > PLACES;
        if known.hurts.all {
            known.hurts.places.clear();
        }
    }

    pub fn no_backup(&self) {
        let detail = "there is no complete backup".to_owned();
        self.add(Kind::NoBackup, "backup".to_owned(), detail, BTreeSet::new(), Hurts::default());
    }

    /// Whether there is a problem with this object.
    pub fn is_known(&self, object: &ObjectName) -> bool {
        let first = (object.to_string(), Kind::Missing);
        let next = lock(&self.problems).range(first.clone()..).next().map(|((object, _), _)| object.clone());
        next == Some(first.0)
    }

    /// Whether the repository does not answer any more: then the rest is not tried.
    pub fn is_hopeless(&self) -> bool {
        self.silent.load(Ordering::Relaxed) >= HOPELESS
    }

    /// Something could be read.
    pub fn reached(&self) {
        self.silent.store(0, Ordering::Relaxed);
    }

    /// Everything that was found so far.
    pub fn take(&self) -> (Vec<Problem>, Vec<Unknown>, Checked) {
        let problems = std::mem::take(&mut *lock(&self.problems));
        let unknown = std::mem::take(&mut *lock(&self.unknown));
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let checked = Checked {
            backups: 0,
            objects: load(&self.objects),
            bytes: load(&self.bytes),
            segments: load(&self.segments),
        };
        (problems.into_values().collect(), unknown.into_values().collect(), checked)
    }
}
