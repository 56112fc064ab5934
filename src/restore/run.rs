//! A restore from beginning to end.

use super::delta;
use super::empty::clear;
use super::job::RestoreJob;
use super::marker;
use super::options::Restored;
use super::preflight::{Prepared, check_content};
use super::target::Target;
use super::write::{ClusterWriter, UnfinishedCluster};
use crate::error::{Doing, Result};
use crate::fs::durable::FileSystem;
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
    let lock = begin(job, lock)?;
    let file_systems = file_systems(job)?;
    if job.options.delta {
        progress::step("removing files that the backup does not have");
        delta::clear(job)?;
    }
    progress::step("restoring");
    let cluster = write(job, &file_systems)?;
    if !job.options.scratch {
        progress::step("syncing");
        file_systems.iter().try_for_each(FileSystem::sync)?;
        job.roots().try_for_each(|root| root.folder()?.parent()?.sync())?;
    }
    // From here on a server can start on the data directory.
    cluster.write_control(job)?;
    // The one in the data directory is the last.
    for folder in job.roots().collect::<Vec<_>>().into_iter().rev().map(Target::folder) {
        let folder = folder?;
        if folder.remove(RESTORING)? {
            folder.sync()?;
        }
    }
    drop(lock);
    Ok(cluster.report)
}

/// Creates the directories, locks the data directory, marks all as unfinished, and empties those
/// that an earlier restore left unfinished. The data directory is marked before anything else is
/// written or removed.
fn begin(job: &RestoreJob<'_>, mut held: Option<Lock>) -> Result<Lock> {
    let options = job.options;
    let rights = job.ownership()?.own();
    job.roots().try_for_each(|root| root.make(&rights))?;
    let text = job.marker();
    let (lock, states) = loop {
        if held.is_none() {
            held = marker::lock(&job.data, options.wait)?;
        }
        let states = check_content(job)?;
        if let Some(lock) = marker::write(job.data.folder()?, &text, &rights, held.take())? {
            break (lock, states);
        }
    };
    for root in job.roots().skip(1) {
        root.folder()?.put(RESTORING, text.as_bytes(), &rights)?;
    }
    for (root, state) in job.roots().zip(states) {
        clear(root, state)?;
    }
    Ok(lock)
}

/// Writes everything except for the control file, while another thread flushes.
fn write(job: &RestoreJob<'_>, file_systems: &[FileSystem]) -> Result<UnfinishedCluster> {
    job.options.progress.set(0, job.size);
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
    for root in job.roots().filter(|_| !job.options.scratch) {
        if let Entry::Vacant(place) = found.entry(root.device()?) {
            place.insert(FileSystem::of(root.folder()?)?);
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
