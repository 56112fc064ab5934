//! Fetches what recovery is going to ask for while PostgreSQL replays what it has, and hands it over.
//!
//! A worker of its own, one for a data directory, keeps the next segments of the timeline in the spool. It fetches
//! as [`Fetch`] does, so what it keeps was verified, and marks each file with its [`Stamp`] and hash, the cluster,
//! the repositories and the boot of the machine. A file whose mark does not fit exactly (written to since, torn by a
//! crash, from another life of the directory) is not there, and all of it is hashed once more before it is handed
//! over. A call takes what is kept by renaming it, and else fetches by itself: it never takes anything from the worker
//! but whole files, waits for one only while it grows, and never answers "absent" because of it. So the worker may be
//! stopped or killed at any moment.
//!
//! Calls tell the worker what they have delivered through a FIFO. One that has no reader says that there is no
//! worker, and whoever has delivered a segment then starts one. What the worker keeps follows what was delivered
//! last, forwards, backwards and onto another timeline. It ends, and leaves nothing, when the next segment is not
//! archived yet, when nobody has asked for a while, or when its caller says that the server is gone.

use super::fetch::{Fetch, Fetched, Part};
use super::spool::{Spool, SpoolLock, Stamp};
use crate::codec::hash::{BlockHash, hash_all};
use crate::error::{Doing, Error, Kind, Result};
use crate::event::Silent;
use crate::fs::durable;
use crate::pg::segment::{SegmentName, SegmentSize, WalName};
use crate::pg::wal::{HEADER_SIZE, SegmentHeader};
use crate::repo::{Lineage, Repository};
use rustix::fs::{CWD, Mode};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeSet, VecDeque};
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, Write};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;
use std::str::FromStr;
use std::sync::mpsc;
use std::time::{Duration, SystemTime};

/// Bytes that are kept at most; a single segment may have more.
const MOST: u64 = 1 << 30;

/// Segments whose space has to be free besides the one that is fetched.
const SPARE: u64 = 8;

/// How long the worker waits for the next call.
const IDLE: Duration = Duration::from_secs(60);

/// Segments that are fetched at once: from a distant store most of the time is spent on the way, and from a directory
/// one is enough to be ahead of the server, which replays with one process.
const LANES: usize = 8;
const LANES_NEAR: usize = 2;

/// How long what is kept counts.
const AGE: Duration = Duration::from_secs(600);

/// How long a call waits for a segment that the worker is fetching and that does not grow.
const STALL: Duration = Duration::from_millis(500);

/// And how often it does so for one that does.
const STALLS: u32 = 10;

/// Through which calls tell the worker.
const ASKED: &str = "asked";

/// A segment that was delivered.
#[derive(Debug, Clone, Copy)]
pub struct Asked {
    pub name: SegmentName,
    pub size: SegmentSize,
}

impl Asked {
    /// Of what was just delivered, if it is a segment.
    pub fn delivered(name: WalName, destination: &Path) -> Option<Asked> {
        let WalName::Segment(name) = name else {
            return None;
        };
        let size = std::fs::metadata(destination).ok()?.len();
        Some(Asked { name, size: SegmentSize::try_from(size).ok()? })
    }

    /// Tells the worker; false when there is none.
    pub fn tell(self, spool: &Spool) -> bool {
        let flags = (rustix::fs::OFlags::NONBLOCK | rustix::fs::OFlags::NOFOLLOW).bits() as i32;
        let fifo = File::options().write(true).custom_flags(flags).open(spool.path(ASKED));
        let is_fifo = |file: &File| file.metadata().is_ok_and(|meta| meta.file_type().is_fifo());
        let Some(mut fifo) = fifo.ok().filter(is_fifo) else {
            return false;
        };
        // A worker that reads nothing has enough to read.
        let _ = fifo.write_all(format!("{} {}\n", self.name, self.size.bytes()).as_bytes());
        true
    }

    /// The segments behind it, as many as are to be kept.
    fn next(self, count: usize) -> Vec<SegmentName> {
        let count = count.min((MOST / self.size.bytes()).max(1) as usize);
        let begin = self.name.number(self.size);
        (1..=count as u64)
            .map(|distance| SegmentName::of_number(self.name.timeline, begin + distance, self.size))
            .collect()
    }
}

impl FromStr for Asked {
    type Err = Error;

    fn from_str(line: &str) -> Result<Asked> {
        let parts = line.split_once(' ');
        let (name, size) = parts.ok_or_else(|| Error::new(Kind::Damage, "no name and size"))?;
        let size: u64 = size.parse().map_err(|_| Error::new(Kind::Damage, "no size"))?;
        Ok(Asked { name: name.parse()?, size: SegmentSize::try_from(size)? })
    }
}

/// That a kept file is what was fetched and verified.
#[derive(Serialize, Deserialize)]
struct Mark {
    lineage: String,
    /// Where it may come from: a changed configuration begins anew.
    sources: Vec<Source>,
    stamp: Stamp,
    hash: BlockHash,
    /// What was written before the machine went down need not be on the disk.
    boot: String,
}

/// A repository, and which one was at its place, when it costs nothing to ask and answers.
#[derive(Serialize, Deserialize)]
struct Source {
    place: String,
    repository_id: Option<String>,
}

impl Source {
    fn all(repositories: &[Repository], lineage: Lineage) -> Vec<Source> {
        let id = |repository: &Repository| match repository.is_remote() {
            true => None,
            false => Some(repository.open(lineage).ok()?.identity().repository_id.clone()),
        };
        let source =
            |repository: &Repository| Source { place: repository.place(), repository_id: id(repository) };
        repositories.iter().map(source).collect()
    }

    /// A repository that does not answer now may have been the one that it was.
    fn is(&self, now: &Source) -> bool {
        let is_other =
            self.repository_id.as_ref().zip(now.repository_id.as_ref()).is_some_and(|(a, b)| a != b);
        self.place == now.place && !is_other
    }
}

impl Mark {
    fn new(lineage: Lineage, repositories: &[Repository], stamp: Stamp, hash: BlockHash) -> Result<Mark> {
        let sources = Source::all(repositories, lineage);
        Ok(Mark { lineage: lineage.to_string(), sources, stamp, hash, boot: boot()? })
    }

    /// Whether it speaks of this fetch and of the file with this stamp.
    fn fits(&self, lineage: Lineage, repositories: &[Repository], stamp: Stamp) -> Result<bool> {
        let sources = Source::all(repositories, lineage);
        Ok(self.lineage == lineage.to_string()
            && self.stamp == stamp
            && self.sources.len() == sources.len()
            && self.sources.iter().zip(&sources).all(|(then, now)| then.is(now))
            && self.boot == boot()?)
    }
}

/// Tells this run of the machine from every other.
fn boot() -> Result<String> {
    const BOOT: &str = "/proc/sys/kernel/random/boot_id";
    std::fs::read_to_string(BOOT).doing(|| format!("read {BOOT}"))
}

fn mark_of(name: SegmentName) -> String {
    format!("{name}.mark")
}

/// Is locked while the worker is fetching the segment.
fn busy_of(name: SegmentName) -> String {
    format!("{name}.busy")
}

/// Delivers a file from the spool. False when it is not there or anything is not as it should be: then it is
/// fetched.
pub fn hand_over(fetch: &Fetch<'_>, spool: &Spool, now: SystemTime) -> bool {
    let (WalName::Segment(name), Some(lineage)) = (fetch.name, fetch.lineage) else {
        return false;
    };
    // To fetch what will be there in a moment would take longer, and from what the worker is fetching with.
    let part = spool.path(&format!("{name}.walfetch"));
    let size = || std::fs::metadata(&part).map_or(0, |meta| meta.len());
    let (mut before, mut stalls) = (size(), 0);
    let grows = || {
        let grown = std::mem::replace(&mut before, size()) < before;
        stalls += 1;
        grown && stalls < STALLS
    };
    if !spool.await_lock(&busy_of(name), grows, STALL) {
        return false;
    }
    let Some(mark) = spool.mark::<Mark>(&mark_of(name), AGE, now) else {
        return false;
    };
    let delivered = take(fetch, spool, name, lineage, &mark).is_ok();
    // The mark goes with the file, or because it does not fit.
    spool.forget(&mark_of(name));
    delivered
}

fn take(fetch: &Fetch<'_>, spool: &Spool, name: SegmentName, lineage: Lineage, mark: &Mark) -> Result<()> {
    let kept = name.to_string();
    let doing = || format!("take {kept} from the spool");
    let damage = |message| Err(Error::new(Kind::Damage, message).doing(doing()));
    let mut file =
        spool.read(&kept).ok_or_else(|| Error::new(Kind::Absent, "it is not there").doing(doing()))?;
    let stamp = Stamp::of(&file.metadata().doing(doing)?);
    if !mark.fits(lineage, fetch.repositories, stamp)? {
        return damage("it is not what was kept");
    }
    let mut header = [0; HEADER_SIZE];
    file.read_exact(&mut header).doing(doing)?;
    SegmentHeader::parse(&header)?.check(name, stamp.size, lineage.system_identifier, lineage.major)?;
    if hash_of(&mut file).doing(doing)? != mark.hash {
        return damage("its content is not what was kept");
    }
    (fetch.still_wanted)()?;
    let path = spool.path(&kept);
    if durable::replace_volatile(&path, fetch.destination).is_ok() {
        return Ok(());
    }
    // The spool is on another file system.
    file.rewind().doing(doing)?;
    let part = Part::create(fetch.destination)?;
    part.copy(&file, stamp.size)?;
    (fetch.still_wanted)()?;
    part.deliver(fetch.destination)?;
    spool.forget(&kept);
    Ok(())
}

fn hash_of(file: &mut File) -> std::io::Result<BlockHash> {
    file.rewind()?;
    hash_all(file)
}

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
        let fetched = fetch.run(&Silent)?;
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
