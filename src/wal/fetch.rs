//! Delivers one WAL file from the first repository that has it whole.
//!
//! There are three answers, and telling them apart is what this program is for: delivered, *proven* absent,
//! and everything else. PostgreSQL takes "absent" for the end of the archive and opens the database; so
//! an outage, damage, a wrong repository or a hole must never look like it.

use crate::error::{Doing, Error, Kind, Result};
use crate::fs::{durable, open_plain};
use crate::pg::segment::WalName;
use crate::pg::wal::SegmentHeader;
use crate::progress::{self, in_span};
use crate::repo::lock::try_lock;
use crate::repo::{Lineage, Repository, StoredWal, Wal};
use std::fs::File;
use std::os::unix::fs::{FileExt as _, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;
use tracing::{Span, info_span};

/// Times that a hole is looked at: the archiver may be storing the missing file at this moment.
const LOOKS: u32 = 3;
const BETWEEN_LOOKS: Duration = Duration::from_millis(300);

/// How long one repository may be silent before the next one is asked too.
const SILENCE: Duration = Duration::from_secs(1);

/// What to fetch, and where to.
pub struct Fetch<'a> {
    pub name: WalName,
    /// Replaced in one step, once everything is verified.
    pub destination: &'a Path,
    /// The cluster; `None` when there is no data directory to ask, then the newest that is registered.
    pub lineage: Option<Lineage>,
    pub repositories: &'a [Repository],
    /// Asked right before the file gets its name: an error means that nobody waits for it any more.
    pub still_wanted: &'a dyn Fn() -> Result<()>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fetched {
    Delivered,
    /// Every repository showed its identity and has no such file, nor anything behind it.
    Absent,
}

impl Fetch<'_> {
    pub fn run(&self) -> Result<Fetched> {
        let mut look = 1;
        loop {
            match self.look().doing(|| format!("fetch {}", self.name)) {
                Err(error) if look < LOOKS && (error.kind() == Kind::Hole || error.kind().is_transient()) => {
                    std::thread::sleep(BETWEEN_LOOKS);
                    look += 1;
                }
                result => return result,
            }
        }
    }

    fn look(&self) -> Result<Fetched> {
        let mut failures = Failures { last: None };
        let delivered = match self.repositories {
            [] => return Err(Error::new(Kind::Config, "there is no repository to fetch from")),
            [only] => self.take(ask(only, self.lineage, self.name), only.name(), &mut failures),
            several => self.take_first(several, &mut failures),
        };
        match failures.last {
            Some(error) if delivered => progress::warn(&error),
            Some(error) => return Err(error),
            None => {}
        }
        Ok(if delivered { Fetched::Delivered } else { Fetched::Absent })
    }

    /// Asks the repositories in turn until one delivers; the next one also when one is silent.
    fn take_first(&self, repositories: &[Repository], failures: &mut Failures) -> bool {
        let (sender, answers) = mpsc::channel();
        let mut turn = repositories.iter();
        let mut waiting = 0;
        loop {
            let next = turn.next();
            if let Some(repository) = next {
                let (sender, repository) = (sender.clone(), repository.clone());
                let (lineage, name) = (self.lineage, self.name);
                // Not waited for: when another one delivers, the process ends.
                std::thread::spawn(move || {
                    let answer = ask(&repository, lineage, name);
                    // Nobody listens any more once another one has delivered.
                    let _ = sender.send((answer, repository));
                });
                waiting += 1;
            }
            let patience = if turn.len() > 0 { SILENCE } else { Duration::MAX };
            while waiting > 0 {
                let Ok((answer, repository)) = answers.recv_timeout(patience) else {
                    break;
                };
                waiting -= 1;
                if self.take(answer, repository.name(), failures) {
                    return true;
                }
            }
            if next.is_none() && waiting == 0 {
                return false;
            }
        }
    }

    /// Whether an answer brought the file, and it is delivered.
    fn take(&self, answer: Result<Answer>, repository: &str, failures: &mut Failures) -> bool {
        let delivered = match answer {
            Ok(Answer::Absent) => return false,
            Ok(Answer::Found(lineage, stored)) => {
                self.deliver(lineage, *stored).doing(|| format!("take it from repository {repository}"))
            }
            Err(error) => Err(error),
        };
        delivered.map_err(|error| failures.add(error)).is_ok()
    }

    /// Writes the content beside the destination, checks everything, and gives it its name.
    fn deliver(&self, lineage: Lineage, stored: StoredWal) -> Result<()> {
        let part = Part::create(self.destination)?;
        let first = part.write(stored)?;
        if let WalName::Segment(name) | WalName::Partial(name) = self.name {
            let size = part.file.metadata().doing(|| format!("look at {}", part.path.display()))?.len();
            SegmentHeader::parse(&first)?.check(name, size, lineage.system_identifier, lineage.major)?;
        }
        (self.still_wanted)()?;
        part.deliver(self.destination)
    }
}

/// What went wrong on the way to an answer.
struct Failures {
    last: Option<Error>,
}

impl Failures {
    fn add(&mut self, error: Error) {
        if let Some(earlier) = self.last.replace(error) {
            progress::warn(&earlier);
        }
    }
}

/// What a repository has.
enum Answer {
    Found(Lineage, Box<StoredWal>),
    /// It has shown its identity, and has neither this file nor any behind it.
    Absent,
}

/// Asks one repository.
fn ask(repository: &Repository, lineage: Option<Lineage>, name: WalName) -> Result<Answer> {
    let _span = info_span!("fetch", file = %name, repository = repository.name()).entered();
    let lineage = match lineage {
        Some(lineage) => lineage,
        None => repository.open_newest()?.lineage(),
    };
    let wal = repository.wal(lineage)?;
    let prove = || repository.open(lineage).map(|_| ());
    let found = |stored| Ok(Answer::Found(lineage, Box::new(stored)));
    // That a file is not found means nothing before the repository has shown its identity; one that is found
    // names its cluster. To a distant store each question is a journey, so there the file itself comes first.
    let (identity, later) = if !repository.is_remote() {
        prove()?;
        if let Some(stored) = wal.get(name)? {
            return found(stored);
        }
        (Ok(()), behind(&wal, name))
    } else {
        if let Some(stored) = wal.get(name)? {
            return found(stored);
        }
        std::thread::scope(|scope| {
            let identity = scope.spawn(in_span(Span::current(), prove));
            let later = behind(&wal, name);
            let panicked = |_| Err(Error::new(Kind::Failed, "looking for the identity panicked"));
            (identity.join().unwrap_or_else(panicked), later)
        })
    };
    identity?;
    match later? {
        None => Ok(Answer::Absent),
        Some(later) => Err(Error::new(
            Kind::Hole,
            format!("{name} is missing in repository {}, although {later} is there", repository.name()),
        )
        .hint("this is not the end of the archive: look for the file in pg_wal of the primary and of its standbys and archive it with walpush, or restore to a moment before it")),
    }
}

/// A file of the archive that can only be there if the missing one should be too.
fn behind(wal: &Wal<'_>, name: WalName) -> Result<Option<WalName>> {
    match name {
        WalName::Segment(segment) => Ok(wal.later_segment(segment)?.map(WalName::Segment)),
        // Timeline 1 never has a history file.
        WalName::History(timeline) if timeline.0 > 1 => {
            let later = wal.histories()?.into_iter().find(|other| *other > timeline);
            Ok(later.map(WalName::History))
        }
        _ => Ok(None),
    }
}

/// The file beside the destination while it is incomplete. Its name is always the same, so that a killed
/// call leaves at most one, which the next call uses again; a lock keeps two calls apart.
pub(super) struct Part {
    path: PathBuf,
    file: File,
    delivered: bool,
}

impl Part {
    pub fn create(destination: &Path) -> Result<Part> {
        let mut path = destination.as_os_str().to_owned();
        path.push(".walfetch");
        let path = PathBuf::from(path);
        let doing = || format!("create {}", path.display());
        // Bounded: each round means that another call has just finished.
        for _ in 0..16 {
            let mut options = File::options();
            options.read(true).write(true).create(true).truncate(false).mode(0o600);
            let file = open_plain(&path, &mut options).doing(doing)?;
            if !try_lock(&file).doing(|| format!("lock {}", path.display()))? {
                return Err(Error::new(Kind::Locked, "another walfetch is writing it").doing(doing()));
            }
            // The other call may have given the file that was just opened its final name.
            let mine = file.metadata().doing(doing)?;
            let is_it = std::fs::symlink_metadata(&path)
                .is_ok_and(|there| (there.dev(), there.ino()) == (mine.dev(), mine.ino()));
            if is_it {
                // Only what a killed call has left: ext4 writes a file to the disk when it is closed after a
                // truncation, even if there was nothing to cut off, and that takes longer than all the rest.
                if mine.len() > 0 {
                    file.set_len(0).doing(doing)?;
                }
                return Ok(Part { path, file, delivered: false });
            }
        }
        Err(Error::new(Kind::Locked, "other calls keep taking it away").doing(doing()))
    }

    /// Writes the whole content. Gives the beginning of it.
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
        match std::io::copy(&mut &*from, &mut &self.file).doing(doing)? == size {
            true => Ok(()),
            false => Err(Error::new(Kind::Damage, "what is copied has another size").doing(doing())),
        }
    }

    /// Gives it its name. Not synced: after a crash PostgreSQL asks for it again.
    pub fn deliver(mut self, destination: &Path) -> Result<()> {
        durable::replace_volatile(&self.path, destination)?;
        self.delivered = true;
        Ok(())
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        if !self.delivered {
            // The next call would use it again; nothing depends on its being gone.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}
