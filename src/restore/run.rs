//! A restore from beginning to end.

use super::delta;
use super::empty::{OVERWRITES, check_empty, clear};
use super::job::RestoreJob;
use super::mapping::device_of;
use super::options::Restored;
use super::preflight::Prepared;
use super::write::{ClusterWriter, UnfinishedCluster};
use crate::error::{Doing, Error, Result};
use crate::fs::durable::{self, FileSystem};
use crate::fs::folder::{self, Folder};
use crate::progress;
use crate::repo::RESTORING;
use crate::repo::lock::Lock;
use crate::runtime::thread;
use crossbeam_channel::{Receiver, RecvTimeoutError, bounded};
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::time::Duration;
use tracing::info_span;

/// Interval at which written data is sent to the disk, so that the sync at the end has little left
/// to do.
const FLUSH_INTERVAL: Duration = Duration::from_millis(200);

impl Prepared<'_> {
    /// Performs the restore.
    ///
    /// # Errors
    ///
    /// Those of the operating system and of the repository. The directory then has no control file,
    /// so no server can start on it.
    pub fn run(self) -> Result<Restored> {
        let Prepared { job, lock, announced, .. } = self;
        let (options, plan) = (job.options, job.plan);
        let doing = || format!("restore backup {} into {}", plan.record.id, options.to.display());
        let target = options.to.display();
        let _span = info_span!("restore", backup = plan.record.id, %target).entered();
        let mut restored = restore(&job, lock).doing(doing)?;
        restored.announced = announced;
        Ok(restored)
    }
}

fn restore(job: &RestoreJob<'_>, lock: Option<Lock>) -> Result<Restored> {
    let lock = create_directories(job, lock)?;
    let file_systems = file_systems(job)?;
    write_markers(job)?;
    if job.options.delta {
        progress::step("removing files that the backup does not have");
        delta::clear(job)?;
    }
    progress::step("restoring");
    let cluster = write(job, &file_systems)?;
    if !job.options.scratch {
        progress::step("syncing");
        file_systems.iter().try_for_each(FileSystem::sync)?;
        job.roots().try_for_each(durable::sync_parent)?;
    }
    // From here on a server can start on the data directory.
    cluster.write_control(&job.ownership)?;
    for path in job.roots() {
        durable::remove_file(&path.join(RESTORING))?;
    }
    drop(lock);
    Ok(cluster.report)
}

/// Empties the directories that an earlier restore left unfinished, creates the others, and locks
/// the data directory.
fn create_directories(job: &RestoreJob<'_>, lock: Option<Lock>) -> Result<Lock> {
    let options = job.options;
    if !options.delta {
        for root in job.roots().filter(|root| root.join(RESTORING).exists()) {
            clear(root)?;
        }
    }
    for path in job.roots() {
        durable::create_dirs(path, 0o700)?;
    }
    match lock {
        Some(lock) => Ok(lock),
        // It did not exist before.
        None => {
            let lock = Lock::wait_for(&options.to, options.wait)?;
            if !options.delta {
                job.roots().try_for_each(check_empty)?;
            }
            Ok(lock)
        }
    }
}

/// Marks every directory as unfinished, before anything else is written.
fn write_markers(job: &RestoreJob<'_>) -> Result<()> {
    let over = if job.options.delta { OVERWRITES } else { "" };
    let text = format!("{}\n{over}\n", job.plan.record.id);
    job.roots().try_for_each(|root| folder::write_replacing(&root.join(RESTORING), text.as_bytes(), 0o600))
}

/// Writes everything except for the control file, while another thread flushes.
fn write(job: &RestoreJob<'_>, file_systems: &[FileSystem]) -> Result<UnfinishedCluster> {
    job.options.progress.set(0, job.plan.record.size);
    let (writing, written) = bounded(0);
    thread::scope(|scope| {
        let flushing = scope.spawn("flush", || flush(job, file_systems, &written))?;
        let cluster = ClusterWriter::new(job).and_then(ClusterWriter::write);
        drop(writing);
        let flushed = flushing.join();
        // A failed flush is the cause of the errors of the writing threads.
        flushed?.and(cluster)
    })
}

/// File systems of the directories; empty for a `scratch` restore, which is not synced.
fn file_systems(job: &RestoreJob<'_>) -> Result<Vec<FileSystem>> {
    let mut found = BTreeMap::new();
    for path in job.roots().filter(|_| !job.options.scratch) {
        if let Entry::Vacant(place) = found.entry(device_of(path)?) {
            let folder = Folder::root(path)?.ok_or_else(|| Error::defect("a directory that is gone"))?;
            place.insert(FileSystem::of(&folder)?);
        }
    }
    Ok(found.into_values().collect())
}

/// Syncs the file systems at intervals while files are being written, until the channel is closed.
fn flush(job: &RestoreJob<'_>, file_systems: &[FileSystem], written: &Receiver<()>) -> Result<()> {
    while written.recv_timeout(FLUSH_INTERVAL) == Err(RecvTimeoutError::Timeout) {
        if let Err(error) = file_systems.iter().try_for_each(FileSystem::sync) {
            job.note_disk_failure();
            return Err(error);
        }
    }
    Ok(())
}
