//! Pushes segments that PostgreSQL has marked as ready before the archiver calls walpush for them,
//! several at once. The later call for such a segment finds a mark in the spool and ends at once.
//!
//! All pushes happen within the call for one segment, whose own push runs beside the others. So no
//! background process can outlive the server, hold its files open, or have to be found after a
//! crash. The price: one call in nine takes as long as the slowest of nine pushes. The archiver
//! calls for one segment after the other and would wait for all nine anyway. A background worker
//! was not faster: while a backlog is pushed the processors are fully busy, and a call that only
//! finds a mark takes two milliseconds.
//!
//! Since the processors are the limit, each of them takes several segments and reads them side by
//! side, which halves the cost of SHA-256, the most expensive step (`codec/sha256.rs`). Uploads
//! mostly wait for a disk or a store, so each has its own thread.
//!
//! A mark is evidence of an archived file: it is written after every required repository has stored
//! exactly this file (see [`Stamp`]), for this cluster and set of repositories. PostgreSQL recycles
//! segments by renaming them, and a restore or a copy puts other bytes under an old name: both
//! change the stamp, as does every write, provided that the clock of the file system had advanced
//! when the file was opened to be pushed ([`CLOCK_TICK`]). A second read of the whole segment would
//! prove no more. For a repository in a directory, the call also checks that the repository is
//! still the same one and has the file. A request to a remote store would cost as much as the mark
//! saves, so for a remote repository the mark alone suffices, for [`MAX_AGE`]. The failure of a
//! further segment does not fail the call: the failure occurs again when PostgreSQL calls for that
//! segment. `archive_status` is only read.
//!
//! Nothing is stored behind a file that is refused, since an archive with the segments of two
//! servers under consecutive names looks complete and is not. So a segment is stored beside the
//! call's own one only when each file up to it can be archived: it has a correct header, and its name
//! is free in each repository, or taken by the same content as after an interrupted call. One look
//! at the names is enough, and costs no time: the segments are encoded meanwhile. History files are
//! archived alone, and nothing is pushed ahead while an earlier file waits whose push has failed.

use super::spool::{Spool, SpoolLock, report_unusable};
use crate::codec::compress::Compression;
use crate::codec::hash::LANES;
use crate::error::{Error, Kind, Result};
use crate::fs::folder::Folder;
use crate::fs::named;
use crate::pg::segment::{SegmentName, SegmentSize, WalName};
use crate::progress;
use crate::repo::{Lineage, RemoteHints, Repository};
use crate::runtime::thread;
use crate::wal::encode::{LazyObject, MEMORY_STEP};
use crate::wal::permits::Permits;
use crate::wal::push::{Push, StoredWalFile, skipped};
use crate::wal::stamp::Stamp;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeSet, VecDeque};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, mpsc};
use std::time::{Duration, Instant, SystemTime};

/// Maximum age of a mark.
const MAX_AGE: Duration = Duration::from_secs(600);

/// Minimum age of the last write to a file at the beginning of the call that writes a mark for it.
/// The clock of a file system advances in ticks: a second write within the same tick does not
/// change the stamp.
const CLOCK_TICK: Duration = Duration::from_millis(20);

/// Time limit of the wait for the other segments after the call's own segment failed; most of them
/// are done by then.
const WAIT_AFTER_FAILURE: Duration = Duration::from_secs(1);

/// Maximum memory of all further segments in bytes. With the call's own segment of 16 MiB, which
/// may be incompressible, and the rest of the process, the total stays below 64 MiB.
const MAX_MEMORY: u64 = 32 << 20;

/// Name in the spool of the last file whose push failed.
const FAILED: &str = "failed";

/// Maximum number of segments that are stored at once.
const MAX_UPLOADS: u64 = 16;

/// Evidence that a file is archived.
#[derive(Serialize, Deserialize)]
struct PushedMark {
    lineage: String,
    stamp: Stamp,
    copies: Vec<MarkedCopy>,
}

/// The copy in one repository: the place and the identity of the repository.
#[derive(Serialize, Deserialize)]
struct MarkedCopy {
    place: String,
    /// `None` for an optional repository that failed.
    repository_id: Option<String>,
}

impl PushedMark {
    fn new(lineage: Lineage, repositories: &[Repository], stored: StoredWalFile) -> PushedMark {
        let copies = repositories.iter().zip(stored.copies).map(|(repository, copy)| MarkedCopy {
            place: repository.place(),
            repository_id: copy.map(|copy| copy.repository_id),
        });
        PushedMark { lineage: lineage.to_string(), stamp: stored.stamp, copies: copies.collect() }
    }

    /// The entry for this repository.
    fn copy_in(&self, repository: &Repository) -> Option<&MarkedCopy> {
        let place = repository.place();
        self.copies.iter().find(|copy| copy.place == place)
    }

    /// Whether the mark belongs to this push, and the repositories still have the file.
    fn fits(&self, push: &Push<'_>, name: WalName, stamp: Stamp) -> bool {
        self.lineage == push.lineage.to_string()
            && self.stamp == stamp
            && push.repositories.iter().all(|repository| {
                self.copy_in(repository).is_some_and(|copy| match &copy.repository_id {
                    None => !repository.is_required(),
                    Some(id) => still_has(repository, push.lineage, name, id),
                })
            })
    }
}

/// Whether a repository still has a file; assumed of a remote repository.
fn still_has(repository: &Repository, lineage: Lineage, name: WalName, id: &str) -> bool {
    repository.is_remote()
        || repository.open(lineage).is_ok_and(|archive| {
            archive.identity().repository_id == id && archive.has_wal(name).is_ok_and(|has| has)
        })
}

/// Whether an earlier call has archived the file of this push, so that the call can end at once. If
/// so, removes the mark.
#[must_use]
pub fn is_archived(push: &Push<'_>, spool: &Spool, now: SystemTime) -> bool {
    let Ok(name) = push.name() else {
        return false;
    };
    let Some(mark) = mark_of(push, name, spool, now) else {
        return false;
    };
    for repository in push.repositories {
        if mark.copy_in(repository).is_some_and(|copy| copy.repository_id.is_none()) {
            let error = Error::new(Kind::Unavailable, format!("it failed when {name} was pushed ahead"));
            progress::warn(&skipped(repository, error));
        }
    }
    // PostgreSQL calls again only if it did not receive the result; that call then queries the
    // repositories.
    spool.remove(&name.to_string());
    true
}

/// Returns the mark of this push, if it exists and fits.
fn mark_of(push: &Push<'_>, name: WalName, spool: &Spool, now: SystemTime) -> Option<PushedMark> {
    let mark: PushedMark = spool.read_mark(&name.to_string(), MAX_AGE, now)?;
    let stamp = Stamp::at(push.path)?;
    mark.fits(push, name, stamp).then_some(mark)
}

/// The pushes of further segments.
pub struct PushAhead {
    /// Disconnected when the last thread has dropped its sender; nothing is sent.
    done: mpsc::Receiver<()>,
    stop: Arc<AtomicBool>,
    end: Instant,
    _alone: SpoolLock,
}

impl PushAhead {
    /// Starts to push up to `count` segments for which PostgreSQL will call next, with the time
    /// limit `patience`. `now` is the time at which the call began. `None` when no further segment
    /// is ready, when the file of `push` is not a segment or is damaged, when an earlier file has
    /// failed, when PostgreSQL has not called, or when the spool cannot be used.
    pub fn start(
        push: &Push<'_>,
        spool: Spool,
        count: usize,
        patience: Duration,
        now: SystemTime,
    ) -> Option<PushAhead> {
        let WalName::Segment(own) = push.name().ok()? else {
            return None;
        };
        let folder = push.path.parent()?;
        let archive_status = folder.join("archive_status");
        let ready = ready(&archive_status, own, count);
        if ready.is_empty() || has_failed_before(&spool, &archive_status, own, now) {
            return None;
        }
        spool.create().map_err(report_unusable).ok()?;
        let alone = spool.lock()?;
        spool.remove_all_but(|name| name == FAILED || ready.iter().any(|ready| ready.to_string() == name));
        let names: Vec<SegmentName> = [own].into_iter().chain(ready.iter().copied()).collect();
        // Segments with a mark count towards `count`. Otherwise, while one segment is refused
        // repeatedly, all of its successors would be archived before it.
        let left: VecDeque<PathBuf> = ready
            .into_iter()
            .map(|name| (WalName::Segment(name), folder.join(name.to_string())))
            .filter(|(_, path)| Stamp::at(path).is_some_and(|stamp| stamp.is_older(CLOCK_TICK, now)))
            .filter(|(name, path)| mark_of(&Push { path, ..*push }, *name, &spool, now).is_none())
            .map(|(_, path)| path)
            .collect();
        let (sender, done) = mpsc::channel();
        let end = Instant::now() + patience;
        let processors = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
        // Number of segments side by side with which all processors have the same number of rounds.
        let each = left.len().div_ceil(processors);
        let together = each.div_ceil(each.div_ceil(LANES).max(1)).max(1);
        let threads = left.len().div_ceil(together).min(processors);
        let queue = Arc::new(PushQueue {
            left: Mutex::new(left),
            together,
            spool,
            lineage: push.lineage,
            compression: push.compression,
            repositories: push.repositories.to_vec(),
            memory: Permits::new(MAX_MEMORY),
            uploads: Permits::new(MAX_UPLOADS),
            stop: Arc::default(),
            began: now,
            begin_until: Instant::now() + patience / 2,
            end,
            names,
            folder: folder.to_owned(),
            refused: OnceLock::new(),
        });
        let look = Arc::clone(&queue);
        // If the thread cannot be started, the first thread that stores a segment looks.
        let _ = thread::spawn("look ahead", move || {
            look.refused();
        });
        let stop = Arc::clone(&queue.stop);
        for _ in 0..threads {
            let (queue, sender) = (Arc::clone(&queue), sender.clone());
            // Detached: `finish` waits until the deadline at most. If a thread cannot be started,
            // the others do its work.
            let _ = thread::spawn("push ahead", move || queue.run(&sender));
        }
        Some(PushAhead { done, stop, end, _alone: alone })
    }

    /// Waits for the pushes. If the call's own segment failed (`succeeded` is false), no further
    /// push is begun, and the wait is short.
    pub fn finish(self, succeeded: bool) {
        let mut patience = self.end.saturating_duration_since(Instant::now());
        if !succeeded {
            self.stop.store(true, Ordering::Relaxed);
            patience = patience.min(WAIT_AFTER_FAILURE);
        }
        // Returns when the last thread has dropped its sender, or at the deadline. The process then
        // ends, and ends the threads, as a crash would.
        let _ = self.done.recv_timeout(patience);
    }
}

/// Returns the next segments of the timeline that the server has marked as ready, in order. Empty
/// when the server has not marked `own`: then a user called walpush. Empty also while the history of
/// the timeline waits, for which the archiver calls first (`pgarch_readyXlog` in `pgarch.c`). Other
/// files are left to their own calls.
fn ready(archive_status: &Path, own: SegmentName, count: usize) -> Vec<SegmentName> {
    let mut ready = BTreeSet::new();
    let Ok(Some(folder)) = Folder::root(archive_status) else {
        return Vec::new();
    };
    if !matches!(folder.entry(Path::new(&format!("{own}.ready"))), Ok(Some(_))) {
        return Vec::new();
    }
    for (name, _) in folder.entries().unwrap_or_default() {
        match name.strip_suffix(".ready").map(str::parse) {
            Some(Ok(WalName::History(timeline))) if timeline <= own.timeline => return Vec::new(),
            Some(Ok(WalName::Segment(name))) if name > own && name.timeline == own.timeline => {
                ready.insert(name);
                if ready.len() > count {
                    ready.pop_last();
                }
            }
            _ => {}
        }
    }
    ready.into_iter().collect()
}

/// Records that the push of a file failed, so that later calls push nothing ahead while the file
/// waits. Without a usable spool nothing is pushed ahead either.
pub fn note_failure(push: &Push<'_>, spool: &Spool) {
    if let Ok(name) = push.name()
        && spool.create().map_err(report_unusable).is_ok()
    {
        let _ = spool.write_mark(FAILED, &name.to_string());
    }
}

/// Removes the record of a failed push when its file has been archived since.
pub fn note_success(push: &Push<'_>, spool: &Spool, now: SystemTime) {
    let failed = spool.read_mark::<String>(FAILED, Duration::MAX, now);
    if failed.is_some() && failed == push.name().ok().map(|name| name.to_string()) {
        spool.remove(FAILED);
    }
}

/// Whether an earlier file still waits after its push has failed.
fn has_failed_before(spool: &Spool, archive_status: &Path, own: SegmentName, now: SystemTime) -> bool {
    let Some(failed) = spool.read_mark::<String>(FAILED, Duration::MAX, now) else {
        return false;
    };
    let is_earlier = match failed.parse() {
        Ok(WalName::Segment(name) | WalName::Partial(name) | WalName::Backup(name, _)) => name < own,
        Ok(WalName::History(timeline)) => timeline <= own.timeline,
        Err(_) => false,
    };
    is_earlier
        && named::entry(&archive_status.join(format!("{failed}.ready"))).is_ok_and(|found| found.is_some())
}

/// The segments that the threads push, and the limits that the threads share.
struct PushQueue {
    left: Mutex<VecDeque<PathBuf>>,
    /// Number of segments that a thread encodes side by side.
    together: usize,
    spool: Spool,
    lineage: Lineage,
    compression: Compression,
    repositories: Vec<Repository>,
    memory: Arc<Permits>,
    uploads: Arc<Permits>,
    /// Set after a failure: later segments would be archived before the failed one.
    stop: Arc<AtomicBool>,
    /// Time at which the call began.
    began: SystemTime,
    begin_until: Instant,
    end: Instant,
    /// The call's own segment, and the further ones.
    names: Vec<SegmentName>,
    /// Directory of the files.
    folder: PathBuf,
    /// The first of `names` that may be refused; empty before it is known.
    refused: OnceLock<Option<SegmentName>>,
}

impl PushQueue {
    /// Returns the first of the segments that may be refused, by its file or by a repository; `None`
    /// when all can be archived.
    fn refused(&self) -> Option<SegmentName> {
        *self.refused.get_or_init(|| {
            let mut refused = None;
            let mut names = Vec::new();
            for name in &self.names {
                match self.push(&self.folder.join(name.to_string())).open() {
                    Ok(file) => names.push((*name, file)),
                    Err(_) => {
                        refused = Some(*name);
                        break;
                    }
                }
            }
            for repository in &self.repositories {
                let is_down = repository.hints().is_some_and(RemoteHints::is_down);
                if repository.is_required() || !is_down {
                    names.truncate(self.accepted(repository, &names));
                }
            }
            self.names.get(names.len()).copied().or(refused)
        })
    }

    /// Number of files up to the first that a repository may refuse. An optional repository that
    /// fails refuses nothing.
    fn accepted(&self, repository: &Repository, files: &[(SegmentName, LazyObject)]) -> usize {
        let first_refused = || -> Result<Option<SegmentName>> {
            let Some((_, first)) = files.first() else {
                return Ok(None);
            };
            let size = SegmentSize::try_from(first.wal().size())?;
            let names: Vec<SegmentName> = files.iter().map(|(name, _)| *name).collect();
            let wal = repository.wal(self.lineage)?;
            for name in wal.taken(&names, size)? {
                let stored = wal.get(WalName::Segment(name))?;
                let file = files.iter().find(|(other, _)| *other == name).map(|(_, file)| file);
                let (Some(stored), Some(file)) = (stored, file) else {
                    continue;
                };
                if stored.header.sha256 != Some(file.wal().hash()?) {
                    return Ok(Some(name));
                }
            }
            Ok(None)
        };
        match first_refused() {
            Ok(None) => files.len(),
            Ok(Some(refused)) => files.iter().take_while(|(name, _)| *name != refused).count(),
            Err(_) if repository.is_required() => 0,
            Err(_) => files.len(),
        }
    }

    /// Encodes one group of segments after another, and starts a thread to store each segment.
    fn run(self: Arc<PushQueue>, sender: &mpsc::Sender<()>) {
        while !self.stop.load(Ordering::Relaxed) && Instant::now() < self.begin_until {
            let files = self.open_next();
            if files.is_empty() {
                return;
            }
            if files.len() > 1
                && let Ok(memory) = self.memory.take(MEMORY_STEP * files.len() as u64, self.patience())
            {
                LazyObject::encode_together(&files, memory.split(MEMORY_STEP));
            }
            for file in files {
                let Ok(permit) = self.uploads.take(1, self.patience()) else {
                    return;
                };
                let (queue, sender) = (Arc::clone(&self), sender.clone());
                let store = move || {
                    queue.store(file);
                    drop((permit, sender));
                };
                // Detached, like the threads of `start`. If a thread cannot be started, the segment
                // is left to its own call.
                let _ = thread::spawn("store ahead", store);
            }
        }
    }

    fn patience(&self) -> Duration {
        self.end.saturating_duration_since(Instant::now())
    }

    /// Opens the next segments; empty when none are left.
    fn open_next(&self) -> Vec<LazyObject> {
        let mut left = self.left.lock();
        let count = self.together.min(left.len());
        let paths: Vec<PathBuf> = left.drain(..count).collect();
        drop(left);
        let open = |path: &PathBuf| {
            let file = self.push(path).open();
            // The segment's own call will report the failure.
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

    fn store(&self, file: LazyObject) {
        let (name, path) = (file.wal().name, file.wal().path().to_owned());
        let is_behind_refused = self.refused().is_some_and(|refused| name >= WalName::Segment(refused));
        if is_behind_refused || self.stop.load(Ordering::Relaxed) {
            return;
        }
        match self.push(&path).store(file) {
            // A segment without a mark is compared with the stored object by its own call.
            Ok(stored) if stored.stamp.is_older(CLOCK_TICK, self.began) => {
                let mark = PushedMark::new(self.lineage, &self.repositories, stored);
                let _ = self.spool.write_mark(&name.to_string(), &mark);
            }
            Ok(_) => {}
            Err(_) => self.stop.store(true, Ordering::Relaxed),
        }
    }
}
