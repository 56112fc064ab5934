//! The worker, a separate process that keeps the next segments of the timeline in the spool.
//!
//! The worker has its own session, works in `/`, and closes all inherited descriptors: otherwise
//! the server's log and sockets would stay open while it runs. Does not know how it is started and
//! configured.

use super::kept::{DeliveredSegment, FIFO, KeptMark, busy_of, hash_of, mark_of};
use super::spool::{Spool, SpoolLock};
use crate::error::{Doing, Error, Kind, Result};
use crate::fs::named;
use crate::pg::segment::{SegmentName, SegmentSize, WalName};
use crate::progress;
use crate::repo::{Lineage, Repository};
use crate::runtime::thread;
use crate::wal::fetch::{Fetch, Fetched, RetiredHistories};
use crate::wal::part::Destination;
use crate::wal::stamp::Stamp;
use std::collections::{BTreeSet, VecDeque};
use std::ffi::OsStr;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

/// Maximum size of all kept segments in bytes; a single segment may be larger.
const MAX_KEPT_BYTES: u64 = 1 << 30;

/// Number of segments for which the file system must have free space, in addition to the segments
/// that are being fetched.
const MIN_FREE_SEGMENTS: u64 = 8;

/// Time without a message after which the worker ends.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);

/// Maximum number of segments that are fetched at once. A fetch from a remote store mostly waits
/// for round trips; a fetch from a directory is faster than the server, which replays WAL with one
/// process.
const MAX_REMOTE_FETCHES: usize = 8;
const MAX_LOCAL_FETCHES: usize = 2;

/// Interval at which the watcher checks that the worker is still wanted.
const WATCH_INTERVAL: Duration = Duration::from_millis(500);

/// Maximum lifetime of a worker; the next call then starts another one.
const MAX_LIFETIME: Duration = Duration::from_secs(3600);

/// The function that fails when the server does not need the worker any more.
pub type StillWanted = dyn Fn() -> Result<()> + Send + Sync;

/// Leaves the server's session, and closes all descriptors but the standard ones. Must be called at
/// the start of the process, before it opens files of its own.
///
/// # Errors
///
/// When the session cannot be left, or `/proc` cannot be read.
pub fn detach() -> Result<()> {
    rustix::process::setsid().map_err(|e| Error::io("begin a session", &e.into()))?;
    let doing = "list the open descriptors";
    let mut open: Vec<i32> = Vec::new();
    for (name, _) in named::list(Path::new("/proc/self/fd")).doing(doing)?.unwrap_or_default() {
        open.extend(name.to_str().and_then(|name| name.parse::<i32>().ok()));
    }
    // One of these descriptors belonged to the listing, and is already closed.
    for descriptor in open.into_iter().filter(|descriptor| *descriptor > 2) {
        let _ = nix::unistd::close(descriptor);
    }
    Ok(())
}

/// The worker of one data directory, which keeps segments in the spool for its calls.
pub struct FetchWorker<'a> {
    pub spool: &'a Spool,
    pub lineage: Lineage,
    pub repositories: &'a [Repository],
    /// Number of segments to keep.
    pub count: usize,
    pub still_wanted: Arc<StillWanted>,
    /// Ends the process.
    pub exit: fn(),
}

/// An event that the worker waits for.
enum WorkerEvent {
    Delivered(DeliveredSegment),
    Fetched(SegmentName, Result<Fetched>),
}

/// The segments that the worker currently has to keep.
struct KeepWindow {
    size: SegmentSize,
    /// All segments of the window, in order.
    next: Vec<SegmentName>,
    /// Segments that are neither kept nor being fetched.
    missing: VecDeque<SegmentName>,
    /// Segments that are being fetched; some may be outside of the window.
    in_progress: BTreeSet<SegmentName>,
    /// Segments that were kept. A call may have taken one and not yet sent its message.
    kept: BTreeSet<SegmentName>,
    /// Whether the archive ends before the last segment of `next`.
    has_archive_end: bool,
}

impl FetchWorker<'_> {
    /// Keeps segments until the archive ends or no message arrives any more. Returns at once when
    /// another worker is running.
    ///
    /// # Errors
    ///
    /// Those of the spool and of `still_wanted`. A segment that cannot be fetched is not an error.
    pub fn run(&self, first: DeliveredSegment) -> Result<()> {
        rustix::process::chdir("/").map_err(|e| Error::io("leave the data directory", &e.into()))?;
        self.watch()?;
        self.spool.create()?;
        let Some(_alone) = self.spool.lock() else {
            return Ok(());
        };
        self.spool.remove_all_but(|_| false);
        let (sender, events) = mpsc::channel();
        let worked = self.listen(sender.clone()).and_then(|()| self.work(first, &sender, &events));
        self.spool.remove_all_but(|_| false);
        worked
    }

    /// Starts the thread that ends the process when the worker is not wanted any more, even while
    /// the worker waits. The thread is detached: it ends with the process.
    fn watch(&self) -> Result<()> {
        let begun = Instant::now();
        let (spool, still_wanted, exit) = (self.spool.clone(), Arc::clone(&self.still_wanted), self.exit);
        let watch = move || {
            while begun.elapsed() < MAX_LIFETIME && still_wanted().is_ok() {
                std::thread::sleep(WATCH_INTERVAL);
            }
            spool.remove_all_but(|_| false);
            exit();
        };
        thread::spawn("watch", watch).map(|_| ())
    }

    fn work(
        &self,
        first: DeliveredSegment,
        sender: &mpsc::Sender<WorkerEvent>,
        events: &mpsc::Receiver<WorkerEvent>,
    ) -> Result<()> {
        let is_remote = self.repositories.iter().any(Repository::is_remote);
        let most = if is_remote { MAX_REMOTE_FETCHES } else { MAX_LOCAL_FETCHES };
        // Grows by one after each segment that is found and falls back to one, so that few requests
        // are made for missing segments at the end of the archive.
        let mut at_once = 1;
        let mut window = self.window(first, BTreeSet::new(), BTreeSet::new());
        thread::scope(|scope| {
            loop {
                (self.still_wanted)()?;
                let room = window.size.bytes() * (MIN_FREE_SEGMENTS + at_once as u64);
                while window.in_progress.len() < at_once
                    && self.spool.has_room(room)
                    && let Some(name) = window.missing.pop_front()
                {
                    window.in_progress.insert(name);
                    let sender = sender.clone();
                    let fetch = move || drop(sender.send(WorkerEvent::Fetched(name, self.keep(name))));
                    let _ = scope.spawn("fetch", fetch)?;
                }
                if window.has_archive_end && window.in_progress.is_empty() && window.kept.is_empty() {
                    return Ok(());
                }
                match events.recv_timeout(IDLE_TIMEOUT) {
                    Ok(WorkerEvent::Delivered(segment)) => {
                        window = self.window(segment, window.in_progress, window.kept);
                    }
                    Ok(WorkerEvent::Fetched(name, fetched)) => {
                        let is_found = matches!(fetched, Ok(Fetched::Delivered));
                        at_once = if is_found { most.min(at_once + 1) } else { 1 };
                        self.update(&mut window, name, fetched);
                    }
                    Err(_) => return Ok(()),
                }
            }
        })
    }

    /// Returns the window after a segment was delivered. Removes the kept files outside of it.
    fn window(
        &self,
        delivered: DeliveredSegment,
        in_progress: BTreeSet<SegmentName>,
        mut kept: BTreeSet<SegmentName>,
    ) -> KeepWindow {
        let DeliveredSegment { name, size } = delivered;
        let affordable = usize::try_from(MAX_KEPT_BYTES / size.bytes()).unwrap_or(usize::MAX).max(1);
        let begin = name.number(size);
        let segment = |distance| SegmentName::of_number(name.timeline, begin + distance, size);
        let next: Vec<SegmentName> = (1..=self.count.min(affordable) as u64).map(segment).collect();
        kept.retain(|name| next.contains(name));
        self.spool.remove_all_but(|name| {
            let begins = |segment: &SegmentName| name.starts_with(&segment.to_string());
            name == FIFO || next.iter().any(begins) || in_progress.iter().any(begins)
        });
        let missing = next.iter().filter(|name| !in_progress.contains(name) && !kept.contains(name));
        let missing = missing.copied().collect();
        KeepWindow { size, next, missing, in_progress, kept, has_archive_end: false }
    }

    /// Records the result of a fetch in the window.
    fn update(&self, window: &mut KeepWindow, name: SegmentName, fetched: Result<Fetched>) {
        window.in_progress.remove(&name);
        if !window.next.contains(&name) {
            self.spool.remove(&mark_of(name));
            self.spool.remove(&name.to_string());
            return;
        }
        match fetched {
            Ok(Fetched::Delivered) => {
                window.kept.insert(name);
            }
            Ok(Fetched::Absent) => {
                window.has_archive_end = true;
                window.missing.clear();
            }
            // A call will meet the same failure and report it. Later segments are not needed before
            // this one.
            Err(error) => {
                progress::debug(&error);
                window.missing.clear();
            }
        }
    }

    /// Creates the FIFO, and starts the thread that reads it. The thread is detached: it ends with
    /// the process.
    fn listen(&self, sender: mpsc::Sender<WorkerEvent>) -> Result<()> {
        let fifo = self.spool.opened()?.make_fifo(FIFO, self.spool.rights())?;
        let listen = move || {
            for line in BufReader::new(fifo).lines().map_while(std::io::Result::ok) {
                if let Ok(segment) = line.parse()
                    && sender.send(WorkerEvent::Delivered(segment)).is_err()
                {
                    return;
                }
            }
        };
        thread::spawn("listen", listen).map(|_| ())
    }

    /// Fetches and verifies a segment as a call would, and writes its mark.
    fn keep(&self, name: SegmentName) -> Result<Fetched> {
        let Some(_busy) = BusyLock::take(self.spool, name) else {
            return Err(Error::new(Kind::Locked, format!("{name} is being fetched already")));
        };
        let own_name = name.to_string();
        let folder = self.spool.opened()?;
        let fetch = Fetch {
            name: WalName::Segment(name),
            destination: Destination::Within(folder, OsStr::new(&own_name), self.spool.rights()),
            lineage: Some(self.lineage),
            repositories: self.repositories,
            retired: RetiredHistories::Hide,
            still_wanted: &*self.still_wanted,
        };
        let fetched = fetch.run()?;
        if fetched == Fetched::Delivered {
            let doing = || format!("read {}", folder.path().join(&own_name).display());
            let missing = || Error::new(Kind::Absent, "the file does not exist").doing(doing());
            let (mut file, stat) = self.spool.open_own(&own_name).ok_or_else(missing)?;
            let stamp = Stamp::of(&stat)?;
            let hash = hash_of(&mut file).doing(doing)?;
            let mark = KeptMark::new(self.lineage, self.repositories, stamp, hash)?;
            self.spool.write_mark(&mark_of(name), &mark)?;
        }
        Ok(fetched)
    }
}

/// The lock on a segment that is being fetched; calls for the segment wait for it.
struct BusyLock<'a> {
    spool: &'a Spool,
    name: SegmentName,
    _lock: SpoolLock,
}

impl BusyLock<'_> {
    fn take(spool: &Spool, name: SegmentName) -> Option<BusyLock<'_>> {
        Some(BusyLock { spool, name, _lock: spool.lock_as(&busy_of(name))? })
    }
}

impl Drop for BusyLock<'_> {
    fn drop(&mut self) {
        self.spool.remove(&busy_of(self.name));
    }
}
