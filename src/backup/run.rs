//! A base backup from beginning to end.
//!
//! One session begins and ends the backup; between, everything is read. Whatever fails, nothing is listed:
//! the record is written last, when packs, manifest and every segment of the WAL are in the repository.

use super::compress::Compressor;
use super::earlier::{Earlier, Queue, check_stored};
use super::failure::{Failure, cancelled};
use super::pack::{self, FinishedFile, Item, Outbox, Packed, Packer};
use super::pages::{BadPages, Surprises};
use super::pipeline::{Help, Pool, Worker};
use super::scan::{Owners, Scan, Sink, Task};
use super::source::{Server, Stopped, check_checkpoint};
use super::summaries::Summaries;
use super::tablespaces::Tablespaces;
use super::throttle::Throttle;
use crate::codec::compress::Compression;
use crate::error::{Doing, Error, Kind, Result};
use crate::pg::control::Control;
use crate::pg::label::Label;
use crate::pg::lsn::Lsn;
use crate::pg::page::PAGE_SIZE;
use crate::pg::segment::{SegmentName, WalName};
use crate::progress::{self, Progress, in_span};
use crate::repo::active::{Announcement, Heartbeat, Operation};
use crate::repo::entry::{Entry, Owner, StoredPath};
use crate::repo::lock::Lock;
use crate::repo::manifest::Use;
use crate::repo::record::{DamagedFile, Record, State, TablespaceSize, WalRange};
use crate::repo::{Archive, Repository};
use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use std::collections::BTreeMap;
use std::num::{NonZeroU64, NonZeroUsize};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tracing::{Span, field::Empty, info_span};

/// Files that are found before they are read: what the progress can know ahead.
const AHEAD: usize = 100_000;

/// How long the first segment may take: longer than a retry of the archiver.
const FIRST_SEGMENT: Duration = Duration::from_secs(90);

pub struct Options {
    /// Bytes of files that were read, of those that were found.
    pub progress: Progress,
    pub pgdata: PathBuf,
    pub jobs: NonZeroUsize,
    /// Bytes of files that are read in a second, at most.
    pub rate: Option<NonZeroU64>,
    pub compression: Compression,
    /// A fast checkpoint instead of a spread one.
    pub fast: bool,
    pub verify_pages: bool,
    /// Store every block anew, also those that earlier backups stored.
    pub full: bool,
    /// Read everything, and compare it with what the WAL summaries promise; so does `full`.
    pub rehash: bool,
    /// Believe the server's WAL summaries, where it writes any.
    pub wal_summaries: bool,
    pub labels: BTreeMap<String, String>,
    /// How long the last WAL may take to be archived.
    pub archive_timeout: Duration,
    /// Directories that are not the cluster's even if they lie inside of it.
    pub foreign: Vec<PathBuf>,
    /// Six random hexadecimal digits.
    pub random: String,
    /// Files that crashed writers left in the repository before this are removed.
    pub garbage_before: jiff::Timestamp,
    /// For how long to wait for another backup of the same data directory.
    pub wait: Duration,
}

/// A backup that is in the repository.
pub struct Taken {
    pub record: Record,
    /// Bytes of files that were read. The WAL summaries promised the rest.
    pub read: u64,
    /// Blocks that are not as the WAL summaries promised, by the numbers of their first pages.
    pub surprises: Vec<DamagedFile>,
}

/// Takes a backup of the server into one repository.
pub fn run(options: &Options, server: &Server, repository: &Repository) -> Result<Taken> {
    let _span = info_span!("backup", id = Empty, repository = repository.name()).entered();
    Run { options, server }.run(repository).doing(|| format!("back up into repository {}", repository.name()))
}

/// What came of reading the cluster.
struct Copied {
    stopped: Stopped,
    tablespaces: Vec<TablespaceSize>,
}

/// What is copied where, and what is known of it before.
struct Plan<'a> {
    archive: &'a Archive,
    announced: &'a Announcement,
    id: &'a str,
    earlier: &'a Earlier,
    bad: &'a BadPages,
    /// Where everything is read, and promises are put to the test.
    surprises: Option<&'a Surprises>,
    read: &'a AtomicU64,
}

struct Run<'a> {
    options: &'a Options,
    server: &'a Server,
}

impl Run<'_> {
    fn step(&self, step: &str) {
        progress::step(step);
    }

    fn run(&self, repository: &Repository) -> Result<Taken> {
        let options = self.options;
        let _lock = Lock::wait_for(&options.pgdata, options.wait).map_err(|error| error.doing("begin"))?;
        self.server.check_runs_on(&options.pgdata)?;
        self.check_settings()?;
        let archive = repository.open(self.server.found.lineage)?;
        // From here on a prune of any host respects what follows.
        let announced = Announcement::begin(&archive, Heartbeat::new(Operation::Backup), &options.random)
            .doing(|| "announce the backup".to_owned())?;
        repository.clean(options.garbage_before)?;
        self.check_history(&archive)?;
        let summarizes = options.wal_summaries && self.server.found.summarizes;
        let mut earlier = match options.full && !summarizes {
            true => Earlier::default(),
            false => Earlier::choose(&archive, &announced)?,
        };
        if options.full {
            earlier.name_nothing();
        }
        let wal_from = self.first_wal(&archive)?;
        announced.update(|notice| notice.wal_from = Some(wal_from))?;

        self.step("waiting for the checkpoint");
        if !options.fast {
            tracing::info!(
                "waiting for the checkpoint, which is spread: this takes minutes, `--checkpoint fast` does not",
            );
        }
        let started = info_span!("checkpoint").in_scope(|| self.server.start("walkeep", options.fast))?;
        check_checkpoint(&options.pgdata, started.lsn)?;
        let id = format!("{}-{}", started.time.strftime("%Y%m%dT%H%M%SZ"), options.random);
        Span::current().record("id", id.as_str());
        announced.update(|notice| notice.backup = Some(id.clone()))?;
        let summaries = match earlier.parent.as_ref().filter(|_| summarizes) {
            Some(parent) => {
                self.step("asking the WAL summaries what changed");
                self.server.summaries(parent, self.server.found.timeline, started.lsn)?
            }
            None => None,
        };
        if summaries.is_some() {
            earlier.forget_unfinished();
        }
        self.step("copying");
        let bad = BadPages::default();
        let read = AtomicU64::new(0);
        // A hint bit may change a page without a word in the WAL, where nothing asks for that word.
        let tests = (options.full || options.rehash) && self.server.found.logs_hints;
        let surprises = tests.then(|| Surprises::new(started.lsn));
        let plan = Plan {
            archive: &archive,
            announced: &announced,
            id: &id,
            earlier: &earlier,
            bad: &bad,
            surprises: surprises.as_ref(),
            read: &read,
        };
        let (packed, Copied { stopped, tablespaces }) = self.copy(&plan, summaries)?;
        let label = Label::parse(&stopped.label)?;
        self.server.check_timeline(label.timeline)?;

        self.step("waiting for the last segment to arrive in the repository");
        let found = &self.server.found;
        // A recovery to the end of the backup stops when it meets the record behind that end (recoveryStopsBefore in
        // xlogrecovery.c). Behind that of a primary there is a switch of segments; behind that of a standby, which may
        // be the end of a segment, it is the first one of the next.
        let last = match found.in_recovery {
            true => SegmentName::containing,
            false => SegmentName::ending_at,
        };
        let wal = WalRange {
            first: SegmentName::containing(label.timeline, label.start, found.segment_size),
            last: last(label.timeline, stopped.lsn, found.segment_size),
        };
        if found.in_recovery && !archive.has_wal(WalName::Segment(wal.last))? {
            match self.server.can_switch() {
                true => drop(self.server.switch_segment()?),
                false => tracing::info!(
                    "waiting until the primary has finished and archived {}: without `primary` it is not asked to",
                    wal.last
                ),
            }
        }
        self.await_wal(&archive, wal)?;
        self.check_history(&archive)?;

        let uses = &packed.manifest.uses;
        check_stored(&archive, &packed.manifest)?;
        let shares = packed.manifest.packs.iter().any(|(storer, _)| storer != id);

        let damaged = bad.into_files(label.start, stopped.lsn);
        let record = Record {
            id,
            state: if damaged.is_empty() { State::Complete } else { State::Damaged },
            start_time: started.time,
            stop_time: stopped.time,
            start_lsn: label.start,
            stop_lsn: stopped.lsn,
            timeline: label.timeline,
            system_identifier: found.lineage.system_identifier,
            pg_version: found.version.clone(),
            size: packed.manifest.totals.bytes,
            stored: uses.iter().map(Use::share).sum::<u64>() + packed.manifest.stored,
            new_bytes: packed.new_bytes,
            files: packed.manifest.totals.files,
            labels: options.labels.clone(),
            parent: earlier.parent.filter(|_| shares).map(|parent| parent.id),
            manifest: packed.manifest.parts,
            packs: Some(packed.manifest.packs),
            segment_size: found.segment_size,
            wal,
            settings: found.settings.clone(),
            tablespaces,
            databases: found.databases.clone(),
            damaged,
        };
        announced.check()?;
        archive.put_record(&record)?;
        Ok(Taken {
            record,
            read: read.into_inner(),
            surprises: surprises.map(Surprises::into_files).unwrap_or_default(),
        })
    }

    fn check_settings(&self) -> Result<()> {
        match self.server.archiving_problems().into_iter().next() {
            Some(problem) => {
                Err(problem.with_kind(Kind::Refused).doing("look at the settings of the server"))
            }
            None => Ok(()),
        }
    }

    /// Where the backup begins at the earliest. Proves before that WAL arrives, where it can.
    fn first_wal(&self, archive: &Archive) -> Result<Lsn> {
        let (server, options) = (self.server, self.options);
        if server.can_switch() {
            self.step("waiting for a first segment to arrive in the repository");
            let probe = server.switch_segment()?;
            let patience = FIRST_SEGMENT.min(options.archive_timeout);
            server.await_segment(&options.pgdata, archive, probe, patience)?;
            if !server.found.in_recovery {
                return Ok(probe.start(server.found.segment_size));
            }
        }
        Ok(Control::read(&options.pgdata)?.redo())
    }

    /// A timeline above 1 is of no use without its history.
    fn check_history(&self, archive: &Archive) -> Result<()> {
        let timeline = self.server.found.timeline;
        if timeline.0 == 1 || archive.has_wal(WalName::History(timeline))? {
            return Ok(());
        }
        let name = WalName::History(timeline);
        Err(Error::new(Kind::Refused, format!("{name} is not in the repository"))
            .hint(format!("in the data directory run `walpush pg_wal/{name}`")))
    }

    /// Waits for every segment of the backup, and reads each to its end.
    fn await_wal(&self, archive: &Archive, wal: WalRange) -> Result<()> {
        let _span = info_span!("await_wal").entered();
        let begun = Instant::now();
        let size = self.server.found.segment_size;
        let mut name = wal.first;
        while name <= wal.last {
            let left = self.options.archive_timeout.saturating_sub(begun.elapsed());
            self.server.await_segment(&self.options.pgdata, archive, name, left)?;
            verify_segment(archive, name)?;
            name = name.next(size);
        }
        Ok(())
    }

    /// Copies everything between the start that has happened and the stop that happens here.
    fn copy(&self, plan: &Plan<'_>, summaries: Option<Summaries>) -> Result<(Packed, Copied)> {
        let _span = info_span!("copy").entered();
        let Plan { archive, announced, id, earlier, bad, surprises, read } = *plan;
        let options = self.options;
        let jobs = options.jobs.get();
        let owners = Owners::default();
        let numbers = AtomicU64::new(0);
        let failure = Failure::default();
        let throttle = Throttle::new(options.rate);
        let check = || match failure.is_set() {
            true => Err(cancelled()),
            false => announced.check().and_then(|()| self.server.check()),
        };
        let found = &self.server.found;
        let verify = options.verify_pages
            && found.settings.data_checksums
            && found.settings.block_size as usize == PAGE_SIZE;

        let (tasks, to_read) = bounded::<(u64, Task)>(AHEAD);
        // One part of the parent's manifest waits while another is gone through.
        let (parts, to_compare) = bounded(0);
        let queue = Arc::new(Queue::new(to_read, to_compare, summaries));
        let (give, take) = bounded(0);
        let (items, to_pack) = bounded(jobs * 2);
        // The packer fills the next pack while this one is being stored, and then waits.
        let (packs, to_store) = bounded(0);
        let (used, spare) = unbounded();
        let pool = Pool::default();
        let worker = |help| -> Result<Worker<'_>> {
            Ok(Worker {
                help,
                compressor: Compressor::new(bad, surprises, options.compression)?,
                outbox: Outbox::new(items.clone()),
                pool: &pool,
                owners: &owners,
                numbers: &numbers,
                progress: &options.progress,
                check: &check,
                throttle: &throttle,
                read,
                verify_pages: verify,
                trusting: !(options.full || options.rehash),
                frame: pool.frame(),
            })
        };
        // One more than are to be busy: one may be waiting for the disk.
        let help = || Some(Help { give: give.clone(), take: take.clone() });
        let workers = (0..=jobs).map(|_| worker(help())).collect::<Result<Vec<_>>>()?;
        let last = worker(None)?;
        drop((give, take));

        // A stage whose successor has failed finds its queue closed. Each thread owns the end that it
        // receives from and notes its failure before that is dropped, so the first one noted is the cause.
        std::thread::scope(|scope| {
            let failure = &failure;
            let storing = scope.spawn(in_span(info_span!("store"), move || {
                failure.note(pack::store(archive, id, &to_store, &used))
            }));
            let packing = scope.spawn(in_span(info_span!("pack"), move || {
                let packer = Packer::new(archive, id, earlier, packs, spare);
                failure.note(packer.and_then(|packer| pack_all(packer, &to_pack)))
            }));
            scope.spawn(in_span(Span::current(), move || failure.note(earlier.read(archive, &parts))));
            let mut working = Vec::new();
            for worker in workers {
                let queue = Arc::clone(&queue);
                working.push(scope.spawn(in_span(Span::current(), move || failure.note(worker.run(&queue)))));
            }
            drop(queue);
            let outbox = Outbox::new(items);
            let walker = Walker {
                outbox,
                tasks,
                numbers: &numbers,
                progress: &options.progress,
                tablespaces: Vec::new(),
            };
            let copied = failure.note(self.walk(walker, &owners, working, last));
            let packed = packing.join().ok().flatten();
            // The last pack is still being stored when the packer is done: its failure has to be known here.
            let stored = storing.join().ok().flatten();
            match (failure.take(), copied, packed, stored) {
                (Some(error), ..) => Err(error),
                (None, Some(copied), Some(packed), Some(())) => Ok((packed, copied)),
                _ => Err(Error::new(Kind::Failed, "a thread of the backup panicked")),
            }
        })
    }

    /// Finds the files for the workers, waits for these, and reads with the `last` one what has to come last.
    fn walk(
        &self,
        mut walker: Walker<'_>,
        owners: &Owners,
        working: Vec<std::thread::ScopedJoinHandle<'_, Option<()>>>,
        mut last: Worker<'_>,
    ) -> Result<Copied> {
        let pgdata = &self.options.pgdata;
        let version = version_directory(pgdata, self.server.found.lineage.major)?;
        let known = Tablespaces::of(self.server, pgdata, &version)?;
        let scan = Scan::new(pgdata, version, &self.options.foreign, owners);
        scan.run(&mut walker)?;
        let tablespaces = std::mem::take(&mut walker.tablespaces);
        drop(walker);
        for worker in working {
            match worker.join() {
                Ok(Some(())) => {}
                Ok(None) => return Err(cancelled()),
                Err(_) => return Err(Error::new(Kind::Failed, "a thread that reads panicked")),
            }
        }
        known.check(self.server)?;
        let stopped = self.finish_copy(&mut last, owners)?;
        last.end()?;
        Ok(Copied { stopped, tablespaces })
    }

    /// The control file last, then the end of the backup and what the server says about it, and the
    /// configuration files that lie elsewhere.
    fn finish_copy(&self, worker: &mut Worker<'_>, owners: &Owners) -> Result<Stopped> {
        let pgdata = &self.options.pgdata;
        self.add_configuration(worker, owners)?;
        let meta = |path: &Path| path.metadata().doing(|| format!("look at {}", path.display()));
        let control_path = pgdata.join("global/pg_control");
        let control = Control::read(pgdata)?;
        let like =
            |path: &str, meta: &std::fs::Metadata| finished(path.as_bytes(), meta, owners.of(meta), false);
        let control_meta = meta(&control_path)?;
        worker.bytes(like("global/pg_control", &control_meta), control.bytes())?;
        let stopped = self.server.stop()?;
        worker.bytes(like("backup_label", &control_meta), &stopped.label)?;
        if !stopped.tablespace_map.is_empty() {
            worker.bytes(like("tablespace_map", &control_meta), &stopped.tablespace_map)?;
        }
        Ok(stopped)
    }

    fn add_configuration(&self, worker: &mut Worker<'_>, owners: &Owners) -> Result<()> {
        let inside = std::fs::canonicalize(&self.options.pgdata)
            .doing(|| format!("look at {}", self.options.pgdata.display()))?;
        let (files, unknown) = self.server.configuration_files();
        let is_outside = |path: &Path| !path.starts_with(&inside) && !path.starts_with(&self.options.pgdata);
        if let Some(unknown) = &unknown
            && is_outside(Path::new(&self.server.found.settings.config_file))
        {
            progress::warn(unknown);
        }
        for file in files {
            let path = Path::new(&file);
            if !is_outside(path) {
                continue;
            }
            let read = std::fs::read(path).and_then(|bytes| Ok((bytes, path.metadata()?)));
            match read {
                Ok((bytes, meta)) => {
                    let like = finished(path.as_os_str().as_bytes(), &meta, owners.of(&meta), true);
                    worker.bytes(like, &bytes)?;
                }
                Err(e) => progress::warn(&Error::io(
                    format!("read the configuration file {file}, which is left out"),
                    &e,
                )),
            }
        }
        Ok(())
    }
}

/// What a worker cannot know of a file that it gets as bytes.
fn finished(path: &[u8], meta: &std::fs::Metadata, owner: Owner, is_config: bool) -> FinishedFile {
    FinishedFile {
        file: 0,
        path: StoredPath(path.to_vec()),
        size: 0,
        mode: meta.mode() & 0o7777,
        owner,
        modified: meta.mtime(),
        crc32c: None,
        block: 0,
        is_config,
    }
}

/// Hands what the walk finds to the workers and the packer.
struct Walker<'a> {
    outbox: Outbox,
    tasks: Sender<(u64, Task)>,
    /// Gives each file a number.
    numbers: &'a AtomicU64,
    progress: &'a Progress,
    tablespaces: Vec<TablespaceSize>,
}

impl Sink for Walker<'_> {
    fn entry(&mut self, entry: Entry) -> Result<()> {
        if let Entry::Tablespace(tablespace) = &entry {
            self.tablespaces.push(TablespaceSize { tablespace: tablespace.clone(), size: 0 });
        }
        // In front of the files that are in it.
        self.outbox.send(Item::Entry(entry))
    }

    fn file(&mut self, task: Task) -> Result<()> {
        self.progress.add_total(task.size);
        // The walk goes through one tablespace after the other.
        if let (true, Some(tablespace)) =
            (task.path.0.starts_with(b"pg_tblspc/"), self.tablespaces.last_mut())
        {
            tablespace.size += task.size;
        }
        let number = self.numbers.fetch_add(1, Ordering::Relaxed);
        self.tasks.send((number, task)).map_err(|_| cancelled())
    }
}

fn pack_all(mut packer: Packer<'_>, items: &Receiver<Vec<Item>>) -> Result<Packed> {
    items.iter().flatten().try_for_each(|item| packer.add(item))?;
    packer.finish()
}

/// Reads an archived segment to its end: the server will not have it for long.
fn verify_segment(archive: &Archive, name: SegmentName) -> Result<()> {
    let doing = || format!("verify {name} in the repository");
    let stored = archive
        .get_wal(WalName::Segment(name))?
        .ok_or_else(|| Error::new(Kind::Hole, "it went away").doing(doing()))?;
    stored.read(|_, _| Ok(())).doing(doing).map(|_| ())
}

/// The directory that a tablespace of this server has in its location: `PG_17_202406281`.
fn version_directory(pgdata: &Path, major: u32) -> Result<String> {
    let control = Control::read(pgdata)?;
    Ok(format!("PG_{major}_{}", control.catalog_version()))
}
