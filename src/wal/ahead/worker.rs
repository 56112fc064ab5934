//! The worker that fetches ahead, a process of its own.

use super::kept::{ASKED, Asked, Mark, busy_of, hash_of, mark_of};
use super::spool::{Spool, SpoolLock, Stamp};
use crate::error::{Doing, Error, Kind, Result};
use crate::pg::segment::{SegmentName, SegmentSize, WalName};
use crate::repo::{Lineage, Repository};
use crate::wal::fetch::{Fetch, Fetched};
use rustix::fs::{CWD, Mode};
use std::collections::{BTreeSet, VecDeque};
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::sync::mpsc;
use std::time::Duration;

/// Segments whose space has to be free besides the one that is fetched.
const SPARE: u64 = 8;

/// How long the worker waits for the next call.
const IDLE: Duration = Duration::from_secs(60);

/// Segments that are fetched at once: from a distant store most of the time is spent on the way, and from a directory
/// one is enough to be ahead of the server, which replays with one process.
const LANES: usize = 8;
const LANES_NEAR: usize = 2;

/// Keeps segments ready for the calls of one data directory.
pub struct Worker<'a> {
    pub spool: &'a Spool,
    pub lineage: Lineage,
    pub repositories: &'a [Repository],
    /// Segments to keep.
    pub count: usize,
    /// An error means that the server is gone.
    pub still_wanted: &'a (dyn Fn() -> Result<()> + Sync),
}

/// What the worker waits for.
enum News {
    Asked(Asked),
    /// A segment is kept, or why not.
    Fetched(SegmentName, Result<Fetched>),
}

/// What the worker is about.
struct Window {
    size: SegmentSize,
    /// What is to be kept.
    next: Vec<SegmentName>,
    /// What of it is neither kept nor under way.
    missing: VecDeque<SegmentName>,
    under_way: BTreeSet<SegmentName>,
    /// What of it was kept. A call may have taken it, and is about to tell.
    kept: BTreeSet<SegmentName>,
    /// The archive ends before the end of `next`.
    is_tip: bool,
}

impl Worker<'_> {
    /// Works until there is nothing more to do. Ends at once when another one is at work.
    pub fn run(&self, first: Asked) -> Result<()> {
        self.spool.create()?;
        let Some(_alone) = self.spool.lock() else {
            return Ok(());
        };
        self.spool.forget_all_but(|_| false);
        let (sender, news) = mpsc::channel();
        let worked = self.listen(sender.clone()).and_then(|()| self.work(first, &sender, &news));
        self.spool.forget_all_but(|_| false);
        worked
    }

    fn work(&self, first: Asked, sender: &mpsc::Sender<News>, news: &mpsc::Receiver<News>) -> Result<()> {
        let is_distant = self.repositories.iter().any(|repository| repository.is_remote());
        let most = if is_distant { LANES } else { LANES_NEAR };
        // One more with each segment that is there: at the end of the archive only one is looked for in vain.
        let mut lanes = 1;
        let mut window = self.window(first, BTreeSet::new(), BTreeSet::new());
        std::thread::scope(|scope| {
            loop {
                (self.still_wanted)()?;
                let room = window.size.bytes() * (SPARE + lanes as u64);
                while window.under_way.len() < lanes
                    && self.has_room(room)
                    && let Some(name) = window.missing.pop_front()
                {
                    window.under_way.insert(name);
                    let sender = sender.clone();
                    scope.spawn(move || sender.send(News::Fetched(name, self.keep(name))));
                }
                if window.is_tip && window.under_way.is_empty() && window.kept.is_empty() {
                    return Ok(());
                }
                match news.recv_timeout(IDLE) {
                    Ok(News::Asked(asked)) => window = self.window(asked, window.under_way, window.kept),
                    Ok(News::Fetched(name, fetched)) => {
                        lanes =
                            if matches!(fetched, Ok(Fetched::Delivered)) { most.min(lanes + 1) } else { 1 };
                        self.note(name, fetched, &mut window);
                    }
                    Err(_) => return Ok(()),
                }
            }
        })
    }

    /// What is to be done after a segment was delivered. What is kept for nothing goes.
    fn window(
        &self,
        asked: Asked,
        under_way: BTreeSet<SegmentName>,
        mut kept: BTreeSet<SegmentName>,
    ) -> Window {
        let next = asked.next(self.count);
        kept.retain(|name| next.contains(name));
        self.spool.forget_all_but(|name| {
            let begins = |segment: &SegmentName| name.starts_with(&segment.to_string());
            name == ASKED || next.iter().any(begins) || under_way.iter().any(begins)
        });
        let missing = next.iter().filter(|name| !under_way.contains(name) && !kept.contains(name));
        let missing = missing.copied().collect();
        Window { size: asked.size, next, missing, under_way, kept, is_tip: false }
    }

    fn note(&self, name: SegmentName, fetched: Result<Fetched>, window: &mut Window) {
        window.under_way.remove(&name);
        if !window.next.contains(&name) {
            self.spool.forget(&mark_of(name));
            self.spool.forget(&name.to_string());
            return;
        }
        match fetched {
            Ok(Fetched::Delivered) => {
                window.kept.insert(name);
            }
            Ok(Fetched::Absent) => {
                window.is_tip = true;
                window.missing.clear();
            }
            // A call will meet the same, and tell it; what lies behind is of no use before.
            Err(_) => window.missing.clear(),
        }
    }

    /// Passes on what calls tell.
    fn listen(&self, sender: mpsc::Sender<News>) -> Result<()> {
        let path = self.spool.path(ASKED);
        let doing = || format!("listen at {}", path.display());
        rustix::fs::mkfifoat(CWD, &path, Mode::RUSR | Mode::WUSR)
            .map_err(|errno| Error::io(doing(), &errno.into()))?;
        // Open for writing too, so that it never ends.
        let fifo = File::options().read(true).write(true).open(&path).doing(doing)?;
        let listen = move || {
            for line in BufReader::new(fifo).lines().map_while(std::io::Result::ok) {
                if let Ok(asked) = line.parse()
                    && sender.send(News::Asked(asked)).is_err()
                {
                    return;
                }
            }
        };
        std::thread::Builder::new().spawn(listen).map(|_| ()).doing(|| "start a thread".to_owned())
    }

    /// Fetches and verifies a segment as a call would, and marks it.
    fn keep(&self, name: SegmentName) -> Result<Fetched> {
        let Some(_busy) = Busy::begin(self.spool, name) else {
            return Err(Error::new(Kind::Locked, format!("{name} is being fetched")));
        };
        let path = self.spool.path(&name.to_string());
        let fetch = Fetch {
            name: WalName::Segment(name),
            destination: &path,
            lineage: Some(self.lineage),
            repositories: self.repositories,
            still_wanted: self.still_wanted,
        };
        let fetched = fetch.run()?;
        if fetched == Fetched::Delivered {
            let doing = || format!("read {}", path.display());
            let gone = || Error::new(Kind::Absent, "it is gone").doing(doing());
            let mut file = self.spool.read(&name.to_string()).ok_or_else(gone)?;
            let stamp = Stamp::of(&file.metadata().doing(doing)?);
            let hash = hash_of(&mut file).doing(doing)?;
            let mark = Mark::new(self.lineage, self.repositories, stamp, hash)?;
            self.spool.write_mark(&mark_of(name), &mark)?;
        }
        Ok(fetched)
    }

    fn has_room(&self, bytes: u64) -> bool {
        let room = rustix::fs::statvfs(self.spool.path("").as_path());
        room.is_ok_and(|room| room.f_bavail.saturating_mul(room.f_frsize) >= bytes)
    }
}

/// Tells calls that a segment is being fetched.
struct Busy<'a> {
    spool: &'a Spool,
    name: SegmentName,
    _lock: SpoolLock,
}

impl Busy<'_> {
    fn begin(spool: &Spool, name: SegmentName) -> Option<Busy<'_>> {
        Some(Busy { spool, name, _lock: spool.lock_as(&busy_of(name))? })
    }
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.spool.forget(&busy_of(self.name));
    }
}
