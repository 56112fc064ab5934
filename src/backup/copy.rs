//! Third phase of a backup: starts the threads that read and store the files, waits for them, and
//! stops the backup on the server. `pipeline.rs` describes the stages and the path of a file
//! through them.

use super::compress::FrameEncoder;
use super::failure::{FirstError, cancelled};
use super::found::{FoundFile, OwnerNames};
use super::frame::{FramePool, RawFrame};
use super::options::Options;
use super::pack::{self, OpenPack, Outbox, PackItem, Packed, Packer};
use super::pages::{BadPages, UnloggedChanges};
use super::pipeline::{FileReader, Handover, ReadState};
use super::queue::{FileQueue, KnownPart};
use super::scan::{DataScan, ScanSink};
use super::source::{BackupServer, StopPoint};
use super::start::StartedBackup;
use super::summaries::Summaries;
use super::tablespaces::Tablespaces;
use super::throttle::Throttle;
use crate::error::{Doing, Error, Kind, Result};
use crate::fs::aligned::Aligned;
use crate::fs::folder::Folder;
use crate::fs::named;
use crate::fs::read_as::ReadAs;
use crate::pg::control::Control;
use crate::pg::page::PAGE_SIZE;
use crate::progress;
use crate::repo::entry::{Entry, StoredPath};
use crate::repo::record::TablespaceSize;
use crate::runtime::thread::{self, ScopedThread};
use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tracing::info_span;

/// Maximum size in bytes of a configuration file outside of the data directory.
const MAX_CONFIG_SIZE: u64 = 64 << 20;

/// A backup that the server has stopped, with its packs and manifest in the repository.
pub(super) struct CopiedBackup<'a> {
    pub started: StartedBackup<'a>,
    pub packed: Packed,
    pub stopped: StopPoint,
    pub tablespaces: Vec<TablespaceSize>,
    /// Bytes of files that were read.
    pub read: u64,
    pub bad: BadPages,
    /// Blocks that changed without WAL; `None` when the WAL summaries were not tested.
    pub unlogged: Option<UnloggedChanges>,
}

/// Copies the cluster into the repository, and stops the backup on the server.
pub(super) fn copy(mut started: StartedBackup<'_>) -> Result<CopiedBackup<'_>> {
    let _span = info_span!("copy").entered();
    progress::step("copying");
    let summaries = started.summaries.take();
    let prepared = &started.prepared;
    let (options, server) = (prepared.options, prepared.server);
    let found = &server.found;
    let bad = BadPages::default();
    // Without `wal_log_hints` or data checksums, a hint bit may change a page without WAL. The test
    // of the WAL summaries would report that page, so the test is left out.
    let reads_all = options.full || options.rehash;
    let unlogged = (reads_all && found.logs_hints).then(|| UnloggedChanges::new(started.point.lsn));
    let failure = FirstError::default();
    let check = || {
        if failure.is_set() {
            return Err(cancelled());
        }
        prepared.announced.check()?;
        server.check()
    };
    let shared = ReadState {
        pool: FramePool::default(),
        owners: OwnerNames::default(),
        numbers: AtomicU64::new(0),
        progress: &options.progress,
        read: AtomicU64::new(0),
        throttle: Throttle::new(options.rate),
        check: &check,
        verify_pages: options.verify_pages
            && found.settings.data_checksums
            && found.settings.block_size as usize == PAGE_SIZE,
        trusts_summaries: !reads_all,
    };
    let encoder = || FrameEncoder::new(&bad, unlogged.as_ref(), options.compression);
    let copier = Copier { started: &started, shared: &shared, failure: &failure, encoder: &encoder };
    let (packed, (stopped, tablespaces)) = copier.run(summaries)?;
    let read = shared.read.load(Ordering::Relaxed);
    Ok(CopiedBackup { packed, stopped, tablespaces, read, bad, unlogged, started })
}

type StageChannel<T> = (Sender<T>, Receiver<T>);

/// The channels between the stages.
struct Stages {
    /// Files that the scan found, with their numbers. The capacity is large, so that the total of
    /// the progress is known early.
    found: StageChannel<(u64, FoundFile)>,
    /// Parts of the parent's manifest. No capacity: one part is read while another is merged.
    parts: StageChannel<KnownPart>,
    /// Frames for idle readers. No capacity: a frame is sent only while a reader waits to receive
    /// it.
    frames: StageChannel<RawFrame>,
    /// Batches for the packer. The capacity is two batches for each job.
    items: StageChannel<Vec<PackItem>>,
    /// Full packs. No capacity: the packer fills the next pack while one is stored, and then waits
    /// until that one is stored.
    packs: StageChannel<OpenPack>,
    /// Memory of stored packs, on its way back to the packer. At most two packs have memory.
    spare: StageChannel<Aligned>,
}

impl Stages {
    const FOUND_CAPACITY: usize = 100_000;

    fn new(jobs: usize) -> Stages {
        Stages {
            found: bounded(Stages::FOUND_CAPACITY),
            parts: bounded(0),
            frames: bounded(0),
            items: bounded(2 * jobs),
            packs: bounded(0),
            spare: unbounded(),
        }
    }
}

/// Result of the thread that scans: the end of the backup, and the tablespaces that were found.
type Scanned = (StopPoint, Vec<TablespaceSize>);

/// Runner of the threads of a backup.
struct Copier<'a> {
    started: &'a StartedBackup<'a>,
    shared: &'a ReadState<'a>,
    failure: &'a FirstError,
    encoder: &'a (dyn Fn() -> Result<FrameEncoder<'a>> + 'a),
}

impl<'a> Copier<'a> {
    fn options(&self) -> &'a Options {
        self.started.prepared.options
    }

    fn server(&self) -> &'a BackupServer {
        self.started.prepared.server
    }

    /// Runs all stages. Each thread owns the receiving end of its channel, and notes its error
    /// before that end is dropped. So the first error noted is the cause of the others.
    fn run(&self, summaries: Option<Summaries>) -> Result<(Packed, Scanned)> {
        let (failure, id) = (self.failure, self.started.prepared.id.as_str());
        let (archive, earlier) = (&self.started.prepared.archive, &self.started.prepared.earlier);
        let jobs = self.options().jobs.get();
        let Stages { found, parts, frames, items, packs, spare } = Stages::new(jobs);
        let queue = Arc::new(FileQueue::new(found.1, parts.1, summaries));
        let reader = |handover| {
            let outbox = Outbox::new(items.0.clone());
            Ok(FileReader::new(self.shared, (self.encoder)()?, outbox, handover))
        };
        let handover = || Handover { give: frames.0.clone(), take: frames.1.clone() };
        // One reader more than jobs, because one reader may wait for the disk.
        let readers = (0..=jobs).map(|_| reader(Some(handover()))).collect::<Result<Vec<_>>>()?;
        let last = reader(None)?;
        drop(frames);
        let sink = FoundSink {
            outbox: Outbox::new(items.0),
            files: found.0,
            shared: self.shared,
            tablespaces: Vec::new(),
        };

        thread::scope(|scope| {
            // When a thread cannot be started, the ends of the channels that this closure owns are
            // dropped, which ends the threads before it.
            let store = move || {
                let _span = info_span!("store").entered();
                failure.note(pack::store(archive, id, &packs.1, &spare.0))
            };
            let storing = scope.spawn("store", store)?;
            let pack = move || {
                let _span = info_span!("pack").entered();
                let packer = Packer::new(archive, id, earlier, packs.0, spare.1);
                failure.note(packer.and_then(|packer| packer.run(&items.1)))
            };
            let packing = scope.spawn("pack", pack)?;
            let promise = move || failure.note(earlier.read(archive, &parts.0));
            let promising = scope.spawn("earlier", promise)?;
            let reads = readers.into_iter().map(|reader| {
                let queue = Arc::clone(&queue);
                move || failure.note(reader.run(&queue))
            });
            let reading = scope.spawn_some("read", reads)?;
            drop(queue);
            let scanned = failure.note(self.scan(sink, reading, last));
            let packed = failure.note(packing.join()).flatten();
            // The last pack may not be stored yet when the packer ends.
            let stored = failure.note(storing.join()).flatten();
            let _ = failure.note(promising.join());
            match (failure.take(), scanned, packed, stored) {
                (Some(error), ..) => Err(error),
                (None, Some(scanned), Some(packed), Some(())) => Ok((packed, scanned)),
                _ => Err(Error::defect("a thread of the backup ended without a result")),
            }
        })
    }

    /// Finds the files for the readers, waits until the readers have ended, and stops the backup.
    /// The reader `last` reads the files that have to be read last.
    fn scan(
        &self,
        mut sink: FoundSink<'_>,
        reading: Vec<ScopedThread<'_, Option<()>>>,
        mut last: FileReader<'_>,
    ) -> Result<Scanned> {
        let (options, server) = (self.options(), self.server());
        let version = version_directory(&options.pgdata, server.found.lineage.major)?;
        let known = Tablespaces::read(server, &options.pgdata, &version)?;
        DataScan::new(&options.pgdata, version, &options.foreign, &self.shared.owners)?.run(&mut sink)?;
        let tablespaces = sink.close();
        for reader in reading {
            reader.join()?.ok_or_else(cancelled)?;
        }
        known.check(server)?;
        let stopped = self.stop(&mut last)?;
        last.end()?;
        Ok((stopped, tablespaces))
    }

    /// Adds the configuration files from outside of the data directory and, last of all, the
    /// control file. Then stops the backup, and adds the files that the server sends.
    fn stop(&self, reader: &mut FileReader<'_>) -> Result<StopPoint> {
        self.add_configuration(reader)?;
        let pgdata = &self.options().pgdata;
        let path = Control::path(pgdata);
        let control = Control::read(pgdata)?;
        let stat = named::stat(&path)?
            .ok_or_else(|| Error::new(Kind::Absent, format!("{} does not exist", path.display())))?;
        // The files that the server sends get owner and mode of the control file.
        let like = |name: &str| FoundFile::new(StoredPath(name.into()), None, &stat);
        reader.add_bytes(like("global/pg_control")?, control.bytes(), false)?;
        let stopped = self.server().stop()?;
        reader.add_bytes(like("backup_label")?, &stopped.label, false)?;
        if let Some(map) = &stopped.tablespace_map {
            reader.add_bytes(like("tablespace_map")?, map, false)?;
        }
        Ok(stopped)
    }

    fn add_configuration(&self, reader: &mut FileReader<'_>) -> Result<()> {
        let pgdata = &self.options().pgdata;
        let missing = || Error::new(Kind::Absent, format!("{} does not exist", pgdata.display()));
        let folder = Folder::root(pgdata)?.ok_or_else(missing)?;
        let (inside, reads) = (folder.real()?, ReadAs::owner_of(&folder)?);
        let is_outside = |path: &Path| !path.starts_with(&inside) && !path.starts_with(pgdata);
        let (files, unknown) = self.server().configuration_files();
        if let Some(unknown) = &unknown
            && is_outside(Path::new(&self.server().found.settings.config_file))
        {
            progress::warn(unknown);
        }
        for file in files {
            let path = Path::new(&file);
            if !is_outside(path) {
                continue;
            }
            let left_out = || format!("read the configuration file {file}, which is left out");
            match named::read_as(path, MAX_CONFIG_SIZE, reads).doing(left_out) {
                Ok(Some((bytes, stat))) => {
                    let stored = StoredPath(path.as_os_str().as_bytes().to_vec());
                    reader.add_bytes(FoundFile::new(stored, None, &stat)?, &bytes, true)?;
                }
                // A server without this file starts.
                Ok(None) if self.server().found.hosts_file.as_ref() == Some(&file) => {}
                Ok(None) => {
                    progress::warn(&Error::new(Kind::Absent, "it does not exist").doing(left_out()));
                }
                Err(error) => progress::warn(&error),
            }
        }
        Ok(())
    }
}

/// Passes what the scan finds to the readers and the packer.
struct FoundSink<'a> {
    outbox: Outbox,
    files: Sender<(u64, FoundFile)>,
    shared: &'a ReadState<'a>,
    tablespaces: Vec<TablespaceSize>,
}

impl FoundSink<'_> {
    /// Closes the queue of files, so that the readers end when it is empty. Returns the tablespaces
    /// that were found.
    fn close(self) -> Vec<TablespaceSize> {
        self.tablespaces
    }
}

impl ScanSink for FoundSink<'_> {
    fn entry(&mut self, entry: Entry) -> Result<()> {
        if let Entry::Tablespace(tablespace) = &entry {
            self.tablespaces.push(TablespaceSize { tablespace: tablespace.clone(), size: 0 });
        }
        // Sent at once: a directory has to reach the packer before the files in it.
        self.outbox.send(PackItem::Entry(entry))
    }

    fn file(&mut self, found: FoundFile) -> Result<()> {
        self.shared.progress.add_total(found.size);
        // The scan walks through one tablespace after the other.
        if found.path.0.starts_with(b"pg_tblspc/")
            && let Some(tablespace) = self.tablespaces.last_mut()
        {
            tablespace.size += found.size;
        }
        let number = self.shared.numbers.fetch_add(1, Ordering::Relaxed);
        self.files.send((number, found)).map_err(|_| cancelled())
    }
}

/// Name of the directory of this server in the location of a tablespace: `PG_17_202406281`.
fn version_directory(pgdata: &Path, major: u32) -> Result<String> {
    let control = Control::read(pgdata)?;
    Ok(format!("PG_{major}_{}", control.catalog_version()))
}
