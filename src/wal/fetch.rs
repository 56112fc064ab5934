//! Delivers one WAL file from the first repository that has a complete copy. Does not know exit
//! statuses.
//!
//! A fetch has three outcomes: the file is delivered, the file is *proven* absent, or the fetch
//! fails. PostgreSQL takes "absent" for the end of the archive and opens the database, so an
//! outage, damage, a wrong repository or a hole must never be reported as "absent".

use super::part::{Destination, PartFile};
use super::racing::{Race, beside_identity};
use crate::error::{Doing, Error, Failures, Kind, Result};
use crate::pg::history::{History, MAX_FILE_SIZE};
use crate::pg::lsn::Lsn;
use crate::pg::segment::{TimelineId, WalName};
use crate::pg::wal::SegmentHeader;
use crate::progress;
use crate::repo::{Lineage, Repository, StoredWal, Wal};
use std::sync::Arc;
use std::time::Duration;
use tracing::info_span;

/// Maximum number of attempts after a transient error, and for a file that is missing although a
/// later one exists: the archiver may be storing it at this moment.
const MAX_ATTEMPTS: u32 = 3;
/// Pause between two attempts.
const ATTEMPT_INTERVAL: Duration = Duration::from_millis(300);

/// Time without an answer after which the next repository is queried too.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);

/// A WAL file and the repositories that may have it.
pub struct Fetch<'a> {
    pub name: WalName,
    /// File that is replaced atomically, once everything is verified.
    pub destination: Destination<'a>,
    /// Cluster of the file; `None` without a data directory, which selects the newest cluster that
    /// is registered.
    pub lineage: Option<Lineage>,
    pub repositories: &'a [Repository],
    pub retired: RetiredHistories,
    /// Fails when the server does not wait for the file any more; called right before the file is
    /// renamed to `destination`.
    pub still_wanted: &'a dyn Fn() -> Result<()>,
}

/// Returns the timeline of a server in recovery, and a position that it has replayed; `None` when it
/// has not chosen its timeline yet, or does not recover.
pub type ReplayedPosition = Arc<dyn Fn() -> Option<(TimelineId, Lsn)> + Send + Sync>;

/// Answer to a request for the history of a retired timeline.
#[derive(Clone)]
pub enum RetiredHistories {
    /// Delivers the file as any other.
    Deliver,
    /// Reports it as absent, unless a higher timeline that is not retired has a history, which the
    /// server would not find then.
    Hide,
    /// Reports it as `Hide` does, and delivers it when the timeline left the one of the server before
    /// the position that was replayed. The server cannot follow the retired timeline any more
    /// (`rescanLatestTimeLine` in `xlogrecovery.c`); it must not choose its number at a promotion.
    HideBefore(ReplayedPosition),
}

/// Outcome of a fetch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fetched {
    Delivered,
    /// The identity of every repository is proven, and none has this file or a later one.
    Absent,
}

impl Fetch<'_> {
    /// Delivers the file.
    ///
    /// # Errors
    ///
    /// The last failure of a repository, when none delivered the file; earlier failures are
    /// reported. `Hole` when the file is missing although a later one exists. The end of the
    /// archive is not an error but [`Fetched::Absent`].
    pub fn run(&self) -> Result<Fetched> {
        let is_worth_another = |error: &Error| error.kind() == Kind::Hole || error.kind().is_transient();
        let mut attempt = 1;
        loop {
            match self.attempt().doing(|| format!("fetch {}", self.name)) {
                Err(error) if attempt < MAX_ATTEMPTS && is_worth_another(&error) => {
                    std::thread::sleep(ATTEMPT_INTERVAL);
                    attempt += 1;
                }
                result => return result,
            }
        }
    }

    fn attempt(&self) -> Result<Fetched> {
        let mut failures = Failures::new(progress::warn);
        let is_delivered = match self.repositories {
            [] => return Err(Error::new(Kind::Config, "no repository is configured")),
            [only] => {
                self.take(look_up(only, self.lineage, self.name, &self.retired), only.name(), &mut failures)
            }
            _ => self.take_first(&mut failures),
        };
        if is_delivered {
            failures.dismiss();
            return Ok(Fetched::Delivered);
        }
        failures.finish().map(|()| Fetched::Absent)
    }

    /// Queries the repositories in order until one delivers the file. When a repository does not
    /// answer within [`ANSWER_TIMEOUT`], the next one is queried at the same time.
    fn take_first(&self, failures: &mut Failures) -> bool {
        let mut race = Race::new();
        let mut turn = self.repositories.iter().enumerate();
        loop {
            let next = turn.next();
            if let Some((number, repository)) = next {
                let (asked, lineage, name) = (repository.clone(), self.lineage, self.name);
                let retired = self.retired.clone();
                race.start(number, repository, move || look_up(&asked, lineage, name, &retired));
            }
            let patience = if turn.len() > 0 { ANSWER_TIMEOUT } else { Duration::MAX };
            while let Some((_, repository, found)) = race.next(patience) {
                if self.take(found, repository.name(), failures) {
                    return true;
                }
            }
            if next.is_none() && race.running().next().is_none() {
                return false;
            }
        }
    }

    /// Delivers the file if it was found. Returns whether the file is delivered.
    fn take(&self, found: Result<LookUp>, repository: &str, failures: &mut Failures) -> bool {
        let delivered = match found {
            Ok(LookUp::Absent) => return false,
            Ok(LookUp::Found(lineage, stored)) => {
                self.deliver(lineage, *stored).doing(|| format!("read it from repository {repository}"))
            }
            Err(error) => Err(error),
        };
        delivered.map_err(|error| failures.push(error)).is_ok()
    }

    /// Writes the content to a file beside the destination, checks it, and renames the file.
    fn deliver(&self, lineage: Lineage, stored: StoredWal) -> Result<()> {
        let part = PartFile::create(self.destination.open()?)?;
        let (first, size) = part.write(stored)?;
        if let WalName::Segment(name) | WalName::Partial(name) = self.name {
            SegmentHeader::parse(&first)?.check(name, size, lineage.system_identifier, lineage.major)?;
        }
        (self.still_wanted)()?;
        part.deliver()
    }
}

/// Result of looking for a file in one repository.
enum LookUp {
    Found(Lineage, Box<StoredWal>),
    /// The identity of the repository is proven, and it has neither this file nor a later one.
    Absent,
}

/// Looks for a file in one repository.
fn look_up(
    repository: &Repository,
    lineage: Option<Lineage>,
    name: WalName,
    retired: &RetiredHistories,
) -> Result<LookUp> {
    let _span = info_span!("fetch", file = %name, repository = repository.name()).entered();
    let lineage = match lineage {
        Some(lineage) => lineage,
        None => repository.open_newest()?.lineage(),
    };
    let wal = repository.wal(lineage)?;
    let prove = || repository.open(lineage).map(|_| ());
    let found = |stored| Ok(LookUp::Found(lineage, Box::new(stored)));
    // A missing file proves nothing before the identity of the repository is proven, while a file
    // that is found names its cluster. Each request to a remote store costs a round trip, so the
    // file is requested first there.
    if !repository.is_remote() {
        prove()?;
    }
    if let Some(stored) = wal.get(name)? {
        if let WalName::History(timeline) = name
            && is_hidden(&wal, timeline, retired)?
        {
            prove()?;
            return Ok(LookUp::Absent);
        }
        return found(stored);
    }
    let (identity, later) = if repository.is_remote() {
        beside_identity(prove, || later_file(&wal, name, retired))
    } else {
        (Ok(()), later_file(&wal, name, retired))
    };
    identity?;
    match later? {
        None => Ok(LookUp::Absent),
        Some(later) => Err(Error::new(
            Kind::Hole,
            format!("{name} is missing in repository {}, although {later} exists", repository.name()),
        )
        .hint(hole_hint(name))),
    }
}

/// Whether the history of a timeline is reported as absent although the archive has it.
fn is_hidden(wal: &Wal<'_>, timeline: TimelineId, retired: &RetiredHistories) -> Result<bool> {
    if matches!(retired, RetiredHistories::Deliver) {
        return Ok(false);
    }
    let (histories, marks) = wal.histories()?;
    let mut shown = histories.difference(&marks);
    if !marks.contains(&timeline) || shown.any(|other| *other > timeline) {
        return Ok(false);
    }
    let replayed = match retired {
        RetiredHistories::HideBefore(replayed) => replayed(),
        RetiredHistories::Deliver | RetiredHistories::Hide => None,
    };
    let Some((own, reached)) = replayed else {
        return Ok(true);
    };
    let text =
        wal.get(WalName::History(timeline))?.map(|stored| stored.read_all(MAX_FILE_SIZE)).transpose()?;
    let history = text.map(|(_, text)| History::parse(timeline, &text)).transpose()?;
    Ok(history.is_some_and(|history| history.end_of(own).is_some_and(|left| reached <= left)))
}

/// Returns the commands to type for a file that is missing although a later one exists.
fn hole_hint(name: WalName) -> String {
    match name {
        WalName::History(timeline) => format!(
            "recovery cannot pass over it: in the data directory of a server that has it type `walpush pg_wal/{name}`, or make it again with `walkeep timelines --rebuild {timeline}`"
        ),
        _ => "this is not the end of the archive: look for the file in pg_wal of the primary and of its standbys and archive it with walpush, or restore to a moment before it".to_owned(),
    }
}

/// Returns a file of the archive that follows `name`; if one exists, `name` must not be missing. The
/// history of a retired timeline may be.
fn later_file(wal: &Wal<'_>, name: WalName, retired: &RetiredHistories) -> Result<Option<WalName>> {
    match name {
        WalName::Segment(segment) => Ok(wal.later_segment(segment)?.map(WalName::Segment)),
        // Timeline 1 has no history file.
        WalName::History(timeline) if timeline.0 > 1 => {
            let (histories, marks) = wal.histories()?;
            if marks.contains(&timeline) && !matches!(retired, RetiredHistories::Deliver) {
                return Ok(None);
            }
            Ok(histories.into_iter().find(|other| *other > timeline).map(WalName::History))
        }
        _ => Ok(None),
    }
}
