//! Delivers one WAL file from the first repository that has it whole. Knows nothing of exit
//! statuses.
//!
//! There are three outcomes, and their distinction is the purpose of walfetch: delivered, *proven*
//! absent, and everything else. PostgreSQL takes "absent" for the end of the archive and opens the
//! database; so an outage, damage, a wrong repository or a hole must never look like it.

use super::racing::Race;
use crate::error::{Doing, Error, Failures, Kind, Result};
use crate::fs::{durable, open_plain};
use crate::pg::segment::WalName;
use crate::pg::wal::SegmentHeader;
use crate::progress::{self, in_span};
use crate::repo::lock::try_lock;
use crate::repo::{Lineage, Repository, StoredWal, Wal};
use std::fs::File;
use std::os::unix::fs::{FileExt as _, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tracing::{Span, info_span};

/// Attempts at a file that is missing in the middle, which the archiver may be storing at this
/// moment, or that failed by a transient error.
const MAX_ATTEMPTS: u32 = 3;
const ATTEMPT_INTERVAL: Duration = Duration::from_millis(300);

/// Time without an answer after which the next repository is asked too.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);

/// A WAL file and the repositories that may have it.
pub struct Fetch<'a> {
    pub name: WalName,
    /// Path that is replaced in one step, once everything is verified.
    pub destination: &'a Path,
    /// Cluster of the file; `None` without a data directory: then the newest one that is
    /// registered.
    pub lineage: Option<Lineage>,
    pub repositories: &'a [Repository],
    /// Fails when the server does not wait for the file any more; called right before the file gets
    /// its name.
    pub still_wanted: &'a dyn Fn() -> Result<()>,
}

/// Outcome of a fetch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fetched {
    Delivered,
    /// Every repository showed its identity, and has neither this file nor a later one.
    Absent,
}

impl Fetch<'_> {
    /// Delivers the file.
    ///
    /// # Errors
    ///
    /// The last failure of a repository, when none delivered the file; the earlier ones are
    /// reported. `Hole` when the file is missing although a later one exists. Never `Absent` for
    /// the end of the archive: that is an outcome.
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
            [only] => self.take(look_up(only, self.lineage, self.name), only.name(), &mut failures),
            _ => self.take_first(&mut failures),
        };
        if is_delivered {
            failures.dismiss();
            return Ok(Fetched::Delivered);
        }
        failures.finish().map(|()| Fetched::Absent)
    }

    /// Asks the repositories in turn until one delivers, and the next one also when one does not
    /// answer in time.
    fn take_first(&self, failures: &mut Failures) -> bool {
        let mut race = Race::new();
        let mut turn = self.repositories.iter().enumerate();
        loop {
            let next = turn.next();
            if let Some((number, repository)) = next {
                let (asked, lineage, name) = (repository.clone(), self.lineage, self.name);
                race.start(number, repository, move || look_up(&asked, lineage, name));
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

    /// Delivers the file that was found, if it was. Returns whether it is delivered.
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

    /// Writes the content beside the destination, checks everything, and gives it its name.
    fn deliver(&self, lineage: Lineage, stored: StoredWal) -> Result<()> {
        let part = PartFile::create(self.destination)?;
        let first = part.write(stored)?;
        if let WalName::Segment(name) | WalName::Partial(name) = self.name {
            let size = part.file.metadata().doing(|| format!("look at {}", part.path.display()))?.len();
            SegmentHeader::parse(&first)?.check(name, size, lineage.system_identifier, lineage.major)?;
        }
        (self.still_wanted)()?;
        part.deliver(self.destination)
    }
}

/// Result of looking for a file in one repository.
enum LookUp {
    Found(Lineage, Box<StoredWal>),
    /// The repository has shown its identity, and has neither this file nor a later one.
    Absent,
}

/// Looks for a file in one repository.
fn look_up(repository: &Repository, lineage: Option<Lineage>, name: WalName) -> Result<LookUp> {
    let _span = info_span!("fetch", file = %name, repository = repository.name()).entered();
    let lineage = match lineage {
        Some(lineage) => lineage,
        None => repository.open_newest()?.lineage(),
    };
    let wal = repository.wal(lineage)?;
    let prove = || repository.open(lineage).map(|_| ());
    let found = |stored| Ok(LookUp::Found(lineage, Box::new(stored)));
    // A missing file proves nothing before the repository has shown its identity; a file that is
    // found names its cluster. Each request to a remote store costs a round trip, so there the file
    // comes first.
    if !repository.is_remote() {
        prove()?;
    }
    if let Some(stored) = wal.get(name)? {
        return found(stored);
    }
    let (identity, later) = if repository.is_remote() {
        std::thread::scope(|scope| {
            let identity = scope.spawn(in_span(Span::current(), prove));
            let later = later_file(&wal, name);
            let panicked = |_| Err(Error::defect("the thread that reads the identity panicked"));
            (identity.join().unwrap_or_else(panicked), later)
        })
    } else {
        (Ok(()), later_file(&wal, name))
    };
    identity?;
    match later? {
        None => Ok(LookUp::Absent),
        Some(later) => Err(Error::new(
            Kind::Hole,
            format!("{name} is missing in repository {}, although {later} exists", repository.name()),
        )
        .hint("this is not the end of the archive: look for the file in pg_wal of the primary and of its standbys and archive it with walpush, or restore to a moment before it")),
    }
}

/// A file of the archive that follows `name`, so that this one must not be missing.
fn later_file(wal: &Wal<'_>, name: WalName) -> Result<Option<WalName>> {
    match name {
        WalName::Segment(segment) => Ok(wal.later_segment(segment)?.map(WalName::Segment)),
        // Timeline 1 has no history file.
        WalName::History(timeline) if timeline.0 > 1 => {
            let later = wal.histories()?.into_iter().find(|other| *other > timeline);
            Ok(later.map(WalName::History))
        }
        _ => Ok(None),
    }
}

/// The file beside the destination while it is incomplete. Its name is always the same, so that a
/// killed call leaves at most one, which the next call uses again; a lock excludes other calls.
pub(super) struct PartFile {
    path: PathBuf,
    file: File,
    delivered: bool,
}

impl PartFile {
    pub fn create(destination: &Path) -> Result<PartFile> {
        let mut path = destination.as_os_str().to_owned();
        path.push(".walfetch");
        let path = PathBuf::from(path);
        let doing = || format!("create {}", path.display());
        // A further round means that another call has just finished.
        for _ in 0..16 {
            let mut options = File::options();
            options.read(true).write(true).create(true).truncate(false).mode(0o600);
            let file = open_plain(&path, &mut options).doing(doing)?;
            if !try_lock(&file).doing(|| format!("lock {}", path.display()))? {
                return Err(
                    Error::new(Kind::Locked, "another walfetch is writing the same file").doing(doing())
                );
            }
            // The other call may have renamed the file that was just opened.
            let mine = file.metadata().doing(doing)?;
            let is_same = std::fs::symlink_metadata(&path)
                .is_ok_and(|there| (there.dev(), there.ino()) == (mine.dev(), mine.ino()));
            if is_same {
                // Not if it is empty: ext4 writes a file to the disk when it is closed after a
                // truncation, even of nothing, and that takes longer than all the rest.
                if mine.len() > 0 {
                    file.set_len(0).doing(doing)?;
                }
                return Ok(PartFile { path, file, delivered: false });
            }
        }
        Err(Error::new(Kind::Locked, "another walfetch replaced the target repeatedly").doing(doing()))
    }

    /// Writes the whole content. Returns its first bytes, as many as the header of a segment has.
    fn write(&self, stored: StoredWal) -> Result<Vec<u8>> {
        let doing = || format!("write {}", self.path.display());
        stored.read(|piece, offset| self.file.write_all_at(piece, offset).doing(doing))?;
        let mut first = vec![0; crate::pg::wal::HEADER_SIZE];
        let got = self.file.read_at(&mut first, 0).doing(|| format!("read {}", self.path.display()))?;
        first.truncate(got);
        Ok(first)
    }

    /// Copies a file of this size.
    pub fn copy(&self, from: &File, size: u64) -> Result<()> {
        let doing = || format!("write {}", self.path.display());
        let copied = std::io::copy(&mut &*from, &mut &self.file).doing(doing)?;
        if copied != size {
            return Err(Error::new(Kind::Damage, format!("copied {copied} of {size} bytes")).doing(doing()));
        }
        Ok(())
    }

    /// Renames the file to `destination`. Not synced: after a crash PostgreSQL requests it again.
    pub fn deliver(mut self, destination: &Path) -> Result<()> {
        durable::replace_volatile(&self.path, destination)?;
        self.delivered = true;
        Ok(())
    }
}

impl Drop for PartFile {
    fn drop(&mut self) {
        if !self.delivered {
            // If this fails, the next call uses the file again.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}
