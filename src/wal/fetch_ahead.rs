//! Fetches what recovery is going to ask for while PostgreSQL replays what it has, and hands it over.
//!
//! A worker of its own, one for a data directory, keeps the next segments of the timeline in the spool. It fetches
//! as [`Fetch`] does, so what it keeps was verified, and marks each file with its [`Stamp`], the cluster, the
//! repositories and the boot of the machine. A file whose mark does not fit exactly (written to since, torn by a
//! crash, from another life of the directory) is not there. A call takes what is kept by renaming it, and else
//! fetches by itself: it never waits for the worker, never takes anything from it but whole files, and never
//! answers "absent" because of it. So the worker may be stopped or killed at any moment.
//!
//! Calls tell the worker what they have delivered through a FIFO. One that has no reader says that there is no
//! worker, and whoever has delivered a segment then starts one. What the worker keeps follows what was delivered
//! last, forwards, backwards and onto another timeline. It ends, and leaves nothing, when the next segment is not
//! archived yet, when nobody has asked for a while, or when its caller says that the server is gone.

use super::fetch::{Fetch, Fetched, Part};
use super::spool::{Spool, Stamp};
use crate::durable;
use crate::error::{Doing, Error, Kind, Result};
use crate::event::Silent;
use crate::pg::segment::{SegmentName, SegmentSize, WalName};
use crate::pg::wal::{HEADER_SIZE, SegmentHeader};
use crate::repo::{Lineage, Repository};
use rustix::fs::{CWD, Mode};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt};
use std::path::Path;
use std::str::FromStr;
use std::sync::mpsc;
use std::time::Duration;

/// Bytes that are kept at most; a single segment may have more.
const MOST: u64 = 1 << 30;

/// Segments whose space has to be free besides the one that is fetched.
const SPARE: u64 = 8;

/// How long the worker waits for the next call.
const IDLE: Duration = Duration::from_secs(60);

/// Segments that are fetched at once from a distant store, where most of the time is spent on the way.
const LANES: usize = 4;

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
#[derive(Serialize, Deserialize, PartialEq, Eq)]
struct Mark {
    lineage: String,
    /// Where it may come from: a changed configuration begins anew.
    places: Vec<String>,
    stamp: Stamp,
    /// What was written before the machine went down need not be on the disk.
    boot: String,
}

impl Mark {
    fn new(lineage: Lineage, repositories: &[Repository], stamp: Stamp) -> Result<Mark> {
        const BOOT: &str = "/proc/sys/kernel/random/boot_id";
        Ok(Mark {
            lineage: lineage.to_string(),
            places: repositories.iter().map(Repository::place).collect(),
            stamp,
            boot: std::fs::read_to_string(BOOT).doing(|| format!("read {BOOT}"))?,
        })
    }
}

fn mark_of(name: SegmentName) -> String {
    format!("{name}.mark")
}

/// Delivers a file from the spool. False when it is not there or anything is not as it should be: then it is
/// fetched.
pub fn hand_over(fetch: &Fetch<'_>, spool: &Spool) -> bool {
    let (WalName::Segment(name), Some(lineage)) = (fetch.name, fetch.lineage) else {
        return false;
    };
    let Some((mark, _)) = spool.mark::<Mark>(&mark_of(name)) else {
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
    let file = spool.read(&kept).ok_or_else(|| Error::new(Kind::Absent, "it is not there").doing(doing()))?;
    let stamp = Stamp::of(&file.metadata().doing(doing)?);
    if *mark != Mark::new(lineage, fetch.repositories, stamp)? {
        return Err(Error::new(Kind::Damage, "it is not what was kept").doing(doing()));
    }
    let mut header = [0; HEADER_SIZE];
    file.read_exact_at(&mut header, 0).doing(doing)?;
    SegmentHeader::parse(&header)?.check(name, stamp.size, lineage.system_identifier, lineage.major)?;
    (fetch.still_wanted)()?;
    let path = spool.path(&kept);
    if durable::replace_volatile(&path, fetch.destination).is_ok() {
        return Ok(());
    }
    // The spool is on another file system.
    let part = Part::create(fetch.destination)?;
    part.copy(&file, stamp.size)?;
    (fetch.still_wanted)()?;
    part.deliver(fetch.destination)?;
    spool.forget(&kept);
    Ok(())
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

/// Why no more is fetched for now.
enum Pause {
    /// All is there, or a call was made.
    Kept,
    /// The next one is not archived.
    Tip,
    /// A call will meet the same, and tell it.
    Failed,
}

impl Worker<'_> {
    /// Works until there is nothing more to do. Ends at once when another one is at work.
    pub fn run(&self, first: Asked) -> Result<()> {
        self.spool.create()?;
        let Some(_alone) = self.spool.lock() else {
            return Ok(());
        };
        self.spool.forget_all_but(|_| false);
        let worked = self.listen().and_then(|asked| self.work(first, &asked));
        self.spool.forget_all_but(|_| false);
        worked
    }

    fn work(&self, first: Asked, asked: &mpsc::Receiver<Asked>) -> Result<()> {
        let mut last = first;
        loop {
            (self.still_wanted)()?;
            let next = last.next(self.count);
            self.spool.forget_all_but(|name| {
                name == ASKED || next.iter().any(|next| *name == next.to_string() || *name == mark_of(*next))
            });
            let mut newer = None;
            let pause = self.fill(&next, last.size, || {
                newer = asked.try_iter().last();
                newer.is_some()
            });
            if newer.is_none() {
                if matches!(pause, Pause::Tip) && !next.iter().any(|name| self.is_kept(*name)) {
                    return Ok(());
                }
                newer = asked.recv_timeout(IDLE).ok();
            }
            match newer {
                Some(asked_now) => last = asked.try_iter().last().unwrap_or(asked_now),
                None => return Ok(()),
            }
        }
    }

    /// What calls tell from now on.
    fn listen(&self) -> Result<mpsc::Receiver<Asked>> {
        let path = self.spool.path(ASKED);
        let doing = || format!("listen at {}", path.display());
        rustix::fs::mkfifoat(CWD, &path, Mode::RUSR | Mode::WUSR)
            .map_err(|errno| Error::io(doing(), &errno.into()))?;
        // Open for writing too, so that it never ends.
        let fifo = File::options().read(true).write(true).open(&path).doing(doing)?;
        let (sender, receiver) = mpsc::channel();
        let listen = move || {
            for line in BufReader::new(fifo).lines().map_while(std::io::Result::ok) {
                if let Ok(asked) = line.parse()
                    && sender.send(asked).is_err()
                {
                    return;
                }
            }
        };
        std::thread::Builder::new().spawn(listen).doing(|| "start a thread".to_owned())?;
        Ok(receiver)
    }

    /// Fetches what is not kept, in order, until something is in the way or `interrupted`.
    fn fill(&self, next: &[SegmentName], size: SegmentSize, mut interrupted: impl FnMut() -> bool) -> Pause {
        let is_distant = self.repositories.iter().any(|repository| repository.notes().is_some());
        let missing: Vec<SegmentName> = next.iter().copied().filter(|name| !self.is_kept(*name)).collect();
        for batch in missing.chunks(if is_distant { LANES } else { 1 }) {
            if interrupted() {
                return Pause::Kept;
            }
            if !self.has_room(size.bytes() * (SPARE + batch.len() as u64)) {
                return Pause::Failed;
            }
            let fetched: Vec<Result<Fetched>> = match batch {
                [only] => vec![self.keep(*only)],
                several => std::thread::scope(|scope| {
                    let threads: Vec<_> =
                        several.iter().map(|name| scope.spawn(move || self.keep(*name))).collect();
                    let panicked = |_| Err(Error::new(Kind::Failed, "a fetch panicked"));
                    threads.into_iter().map(|thread| thread.join().unwrap_or_else(panicked)).collect()
                }),
            };
            for fetched in fetched {
                match fetched {
                    Ok(Fetched::Delivered) => {}
                    Ok(Fetched::Absent) => return Pause::Tip,
                    Err(_) => return Pause::Failed,
                }
            }
        }
        // What has come in meanwhile is not to be overlooked.
        interrupted();
        Pause::Kept
    }

    /// Fetches and verifies a segment as a call would, and marks it.
    fn keep(&self, name: SegmentName) -> Result<Fetched> {
        let path = self.spool.path(&name.to_string());
        let fetch = Fetch {
            name: WalName::Segment(name),
            destination: &path,
            lineage: Some(self.lineage),
            repositories: self.repositories,
            still_wanted: self.still_wanted,
        };
        let fetched = fetch.run(&Silent)?;
        if fetched == Fetched::Delivered
            && let Some(stamp) = Stamp::at(&path)
        {
            let mark = Mark::new(self.lineage, self.repositories, stamp)?;
            self.spool.write_mark(&mark_of(name), &mark)?;
        }
        Ok(fetched)
    }

    fn is_kept(&self, name: SegmentName) -> bool {
        self.spool.path(&mark_of(name)).exists()
    }

    fn has_room(&self, bytes: u64) -> bool {
        let room = rustix::fs::statvfs(self.spool.path("").as_path());
        room.is_ok_and(|room| room.f_bavail.saturating_mul(room.f_frsize) >= bytes)
    }
}
