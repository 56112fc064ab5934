//! Pushes segments that PostgreSQL has declared ready before it asks for them, several at once, and answers for them
//! later from a mark in the spool.
//!
//! All of it happens within the call of one segment, whose own push runs beside the others: there is no process in
//! the background that could outlive the server, hold its files open, or have to be found again after a crash. The
//! price is that this one call in nine takes as long as the slowest of the nine; the server's archiver asks for
//! them one after the other and would wait for all of them anyway. A worker beside the archiver was not faster: while
//! a backlog is pushed the processors are busy to the last tenth, and the calls between that only look at a mark take
//! two milliseconds each.
//!
//! So what counts is work, not threads: each processor takes several segments and goes through them side by side, which
//! halves the cost of SHA-256, the largest part (`codec/sha256.rs`); what waits for a disk or a store has threads of its own.
//!
//! A mark is evidence of an archived file: it is written after every required repository has said so, for exactly
//! this file (see [`Stamp`]), cluster and set of repositories. PostgreSQL recycles segments by renaming them, and a
//! restore or a copy puts other bytes under an old name: both change the stamp, as does every write, provided that
//! the clock of files had moved on when the file was opened to be pushed ([`TICK`]). Reading sixteen megabytes again
//! would tell no more. A directory is asked again whether it is still the same repository and has the file; to ask a
//! distant store would cost what the mark saves, so there the mark counts alone, for [`AGE`]. A failure of a further
//! segment is nothing that the call fails with: it comes again when PostgreSQL asks for that segment.
//! `archive_status` is only read.

use super::spool::{Spool, SpoolLock, Stamp};
use crate::codec::compress::Compression;
use crate::codec::hash::LANES;
use crate::error::{Error, Kind};
use crate::pg::segment::WalName;
use crate::progress;
use crate::repo::{Lineage, Repository};
use crate::wal::budget::Budget;
use crate::wal::encode::{Encoded, STEP};
use crate::wal::push::{Push, Stored, left_out};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeSet, VecDeque};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::{Duration, Instant, SystemTime};

/// How long a mark counts.
const AGE: Duration = Duration::from_secs(600);

/// The clock of files goes in ticks: a file written to again within the tick of its stamp has the same stamp. What
/// is marked was last written to at least this long before the call that has read it began.
const TICK: Duration = Duration::from_millis(20);

/// How long a failure of the call's own segment waits for the others, which mostly are done by then.
const AFTER_FAILURE: Duration = Duration::from_secs(1);

/// Memory of the further segments together. With the call's own segment of 16 MiB that does not get smaller it
/// leaves room below 64 MiB for everything else.
const MEMORY: u64 = 32 << 20;

/// Segments that are being stored at once.
const STORES: u64 = 16;

/// That a file is archived.
#[derive(Serialize, Deserialize)]
struct Mark {
    lineage: String,
    stamp: Stamp,
    copies: Vec<MarkedCopy>,
}

#[derive(Serialize, Deserialize)]
struct MarkedCopy {
    place: String,
    /// `None`: an optional repository that went without.
    repository_id: Option<String>,
}

impl Mark {
    fn new(lineage: Lineage, repositories: &[Repository], stored: Stored) -> Mark {
        let copies = repositories.iter().zip(stored.copies).map(|(repository, copy)| MarkedCopy {
            place: repository.place(),
            repository_id: copy.map(|copy| copy.repository_id),
        });
        Mark { lineage: lineage.to_string(), stamp: stored.stamp, copies: copies.collect() }
    }

    /// The copy in this repository, which may be that there is none.
    fn of(&self, repository: &Repository) -> Option<&MarkedCopy> {
        let place = repository.place();
        self.copies.iter().find(|copy| copy.place == place)
    }

    /// Whether it speaks of this push, and is still true.
    fn holds(&self, push: &Push<'_>, name: WalName, stamp: Stamp) -> bool {
        self.lineage == push.lineage.to_string()
            && self.stamp == stamp
            && push.repositories.iter().all(|repository| {
                self.of(repository).is_some_and(|copy| match &copy.repository_id {
                    None => !repository.is_required(),
                    Some(id) => is_there(repository, push.lineage, name, id),
                })
            })
    }
}

/// Whether a repository that costs nothing to ask still has a file.
fn is_there(repository: &Repository, lineage: Lineage, name: WalName, id: &str) -> bool {
    repository.is_remote()
        || repository.open(lineage).is_ok_and(|archive| {
            archive.identity().repository_id == id && archive.has_wal(name).is_ok_and(|has| has)
        })
}

/// Whether the file of this push is archived already, so that the call can end at once.
pub fn is_done(push: &Push<'_>, spool: &Spool, now: SystemTime) -> bool {
    let Ok(name) = push.name() else {
        return false;
    };
    let Some(mark) = mark_of(push, name, spool, now) else {
        return false;
    };
    for repository in push.repositories {
        if mark.of(repository).is_some_and(|copy| copy.repository_id.is_none()) {
            let error = Error::new(Kind::Unavailable, format!("it failed when {name} was pushed ahead"));
            progress::warn(&left_out(repository, error));
        }
    }
    // PostgreSQL asks again only when it has not heard the answer, and then the repositories are asked.
    spool.forget(&name.to_string());
    true
}

/// The mark of this push, if there is one that counts.
fn mark_of(push: &Push<'_>, name: WalName, spool: &Spool, now: SystemTime) -> Option<Mark> {
    let mark: Mark = spool.mark(&name.to_string(), AGE, now)?;
    let stamp = Stamp::at(push.path)?;
    mark.holds(push, name, stamp).then_some(mark)
}

fn is_settled(stamp: Stamp, now: SystemTime) -> bool {
    stamp.changed() + TICK <= now
}

/// Further segments on their way.
pub struct Ahead {
    /// Every thread has a sender, and sends nothing.
    done: mpsc::Receiver<()>,
    stop: Arc<AtomicBool>,
    end: Instant,
    _alone: SpoolLock,
}

impl Ahead {
    /// Starts to push up to `count` segments that PostgreSQL will ask for next, if it has asked for this one, and
    /// gives them this long; the call began at `now`. Whatever prevents that is no failure.
    pub fn start(
        push: &Push<'_>,
        spool: Spool,
        count: usize,
        patience: Duration,
        now: SystemTime,
    ) -> Option<Ahead> {
        let own = push.name().ok()?;
        let folder = push.path.parent()?;
        let ready = ready(&folder.join("archive_status"), own, count);
        if ready.is_empty() {
            return None;
        }
        spool.create().ok()?;
        let alone = spool.lock()?;
        spool.forget_all_but(|name| ready.iter().any(|ready| ready.to_string() == name));
        // What is marked still counts: when a segment is refused again and again, its successors do not all get
        // archived before it.
        let left: VecDeque<PathBuf> = ready
            .into_iter()
            .map(|name| (name, folder.join(name.to_string())))
            .filter(|(_, path)| Stamp::at(path).is_some_and(|stamp| is_settled(stamp, now)))
            .filter(|(name, path)| mark_of(&Push { path, ..*push }, *name, &spool, now).is_none())
            .map(|(_, path)| path)
            .collect();
        let (sender, done) = mpsc::channel();
        let end = Instant::now() + patience;
        let processors = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
        // So many at a time that all processors have the same number of turns.
        let each = left.len().div_ceil(processors);
        let together = each.div_ceil(each.div_ceil(LANES).max(1)).max(1);
        let threads = left.len().div_ceil(together).min(processors);
        let work = Arc::new(Work {
            left: Mutex::new(left),
            together,
            spool,
            lineage: push.lineage,
            compression: push.compression,
            repositories: push.repositories.to_vec(),
            memory: Budget::new(MEMORY),
            stores: Budget::new(STORES),
            stop: Arc::default(),
            began: now,
            begin_until: Instant::now() + patience / 2,
            end,
        });
        let stop = Arc::clone(&work.stop);
        for _ in 0..threads {
            let (work, sender) = (Arc::clone(&work), sender.clone());
            // Without a thread there is one less.
            let _ = std::thread::Builder::new().spawn(move || work.run(&sender));
        }
        Some(Ahead { done, stop, end, _alone: alone })
    }

    /// Waits for what is on its way; after a failure nothing more is begun, and the failure is not held back.
    pub fn finish(self, succeeded: bool) {
        let mut patience = self.end.saturating_duration_since(Instant::now());
        if !succeeded {
            self.stop.store(true, Ordering::Relaxed);
            patience = patience.min(AFTER_FAILURE);
        }
        // Ends when the last thread has dropped its sender, or the time is over: then the process ends and they
        // with it, which is what a crash is too.
        let _ = self.done.recv_timeout(patience);
    }
}

/// The next segments that the server has declared ready, in the order in which its archiver takes them. Nothing when
/// it has not declared `own`: then somebody calls by hand. History and backup files are small, and segments that
/// end a timeline rare: they are left to their own calls.
fn ready(archive_status: &Path, own: WalName, count: usize) -> Vec<WalName> {
    let mut ready = BTreeSet::new();
    if !archive_status.join(format!("{own}.ready")).exists() {
        return Vec::new();
    }
    // Whatever lies before a segment was asked for before it.
    let is_behind = |name: WalName| !matches!(own, WalName::Segment(_)) || name > own;
    for entry in std::fs::read_dir(archive_status).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let name = name.to_str().and_then(|name| name.strip_suffix(".ready"));
        if let Some(Ok(name @ WalName::Segment(_))) = name.map(str::parse)
            && is_behind(name)
        {
            ready.insert(name);
            if ready.len() > count {
                ready.pop_last();
            }
        }
    }
    ready.into_iter().collect()
}

/// What the threads share.
struct Work {
    left: Mutex<VecDeque<PathBuf>>,
    /// Segments that a thread encodes side by side.
    together: usize,
    spool: Spool,
    lineage: Lineage,
    compression: Compression,
    repositories: Vec<Repository>,
    memory: Arc<Budget>,
    stores: Arc<Budget>,
    /// Set after a failure: what comes behind would only pile up.
    stop: Arc<AtomicBool>,
    /// When the call began.
    began: SystemTime,
    begin_until: Instant,
    end: Instant,
}

impl Work {
    /// Encodes some segments after others, and has each stored by a thread of its own: that mostly waits.
    fn run(self: Arc<Work>, sender: &mpsc::Sender<()>) {
        while !self.stop.load(Ordering::Relaxed) && Instant::now() < self.begin_until {
            let files = self.open_next();
            if files.is_empty() {
                return;
            }
            if files.len() > 1
                && let Ok(memory) = self.memory.take(STEP * files.len() as u64, self.patience())
            {
                Encoded::encode_together(&files, memory.split(STEP));
            }
            for file in files {
                let Ok(slot) = self.stores.take(1, self.patience()) else {
                    return;
                };
                let (work, sender) = (Arc::clone(&self), sender.clone());
                let store = move || {
                    work.store(file);
                    drop((slot, sender));
                };
                let _ = std::thread::Builder::new().spawn(store);
            }
        }
    }

    fn patience(&self) -> Duration {
        self.end.saturating_duration_since(Instant::now())
    }

    /// The next segments; none when there are no more.
    fn open_next(&self) -> Vec<Encoded> {
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        let count = self.together.min(left.len());
        let paths: Vec<PathBuf> = left.drain(..count).collect();
        drop(left);
        let open = |path: &PathBuf| {
            let file = self.push(path).open();
            // Its own call will say what is wrong.
            if file.is_err() {
                self.stop.store(true, Ordering::Relaxed);
            }
            file.ok().map(|file| file.within(Arc::clone(&self.memory), self.patience()))
        };
        paths.iter().map_while(open).collect()
    }

    fn push<'a>(&'a self, path: &'a Path) -> Push<'a> {
        Push {
            path,
            lineage: self.lineage,
            compression: self.compression,
            repositories: &self.repositories,
            report: progress::debug,
        }
    }

    fn store(&self, file: Encoded) {
        let (name, path) = (file.wal().name, file.wal().path().to_owned());
        match self.push(&path).store(file) {
            // Without a mark its own call compares it with what is stored.
            Ok(stored) if is_settled(stored.stamp, self.began) => {
                let mark = Mark::new(self.lineage, &self.repositories, stored);
                let _ = self.spool.write_mark(&name.to_string(), &mark);
            }
            Ok(_) => {}
            Err(_) => self.stop.store(true, Ordering::Relaxed),
        }
    }
}
