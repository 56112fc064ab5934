//! The spool: files that `walpush` and `walfetch` of one server leave on this machine for their
//! next calls: marks of segments that are archived already, and segments that recovery will
//! request.
//!
//! No operation depends on the spool. Its files may be removed or damaged at any moment, may come
//! from an earlier cluster in the data directory, and may be impossible to create; a file that does
//! not fit its mark exactly counts as missing. A mark is bound to its file by a
//! [`Stamp`](crate::wal::stamp::Stamp), to the cluster, and to the places of the repositories.
//! Nothing is synced: a file that a crash of the machine tears does not fit its mark any more.
//!
//! Each data directory has its own folder, so servers on one machine share a spool, but no files.

use crate::codec::hash::block_hash;
use crate::error::{Doing, Error, Result};
use crate::fs::{durable, open_plain};
use crate::repo::Lineage;
use crate::runtime::thread;
use fs2::FileExt as _;
use serde::{Serialize, de::DeserializeOwned};
use std::fs::{DirBuilder, File};
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::{Duration, SystemTime};

/// Maximum size of a mark in bytes.
const MAX_MARK_SIZE: u64 = 64 << 10;

/// Name of the lock of the folder, which one process of the server holds at a time.
const LOCK: &str = "lock";

const DIR_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;

/// The part of the spool for one purpose of one server.
#[derive(Clone)]
pub struct Spool {
    folder: PathBuf,
}

/// A lock, held until it is dropped or the process ends.
pub struct SpoolLock {
    _file: File,
}

impl Spool {
    /// Returns the part of the spool below `root` for the server in `pgdata`. The name of its
    /// folder is derived from path, device and inode of the data directory, so that a copy of the
    /// directory has another folder. Creates nothing.
    ///
    /// # Errors
    ///
    /// Those of the operating system about `pgdata`.
    pub fn new(root: &Path, pgdata: &Path, lineage: Lineage, purpose: &str) -> Result<Spool> {
        let doing = || format!("look at {}", pgdata.display());
        let path = std::fs::canonicalize(pgdata).doing(doing)?;
        let meta = std::fs::metadata(&path).doing(doing)?;
        let instance =
            [&meta.dev().to_le_bytes()[..], &meta.ino().to_le_bytes(), path.as_os_str().as_bytes()];
        let hash = hex::encode(&block_hash(&instance.concat())[..8]);
        Ok(Spool { folder: root.join(format!("{lineage}-{hash}")).join(purpose) })
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Creates the folder, and the directory of the whole spool if the mode of its parent allows
    /// that.
    pub fn create(&self) -> Result<()> {
        let doing = || format!("create {}", self.folder.display());
        DirBuilder::new().recursive(true).mode(DIR_MODE).create(&self.folder).doing(doing)
    }

    /// Locks the folder against other processes of this server; `None` when the folder is locked,
    /// or cannot be locked. The lock file is never removed: another process could have locked it
    /// meanwhile.
    pub fn lock(&self) -> Option<SpoolLock> {
        self.lock_as(LOCK)
    }

    /// Takes the lock `name`, which protects a part of the folder's content.
    pub fn lock_as(&self, name: &str) -> Option<SpoolLock> {
        let file = self.open(File::options().write(true).create(true).truncate(false), name).ok()?;
        file.try_lock_exclusive().ok()?;
        Some(SpoolLock { _file: file })
    }

    /// Waits until no process holds the lock `name`. Gives up, and returns false, when `is_alive`
    /// returns false; it is called once per `interval`.
    pub fn await_lock(&self, name: &str, mut is_alive: impl FnMut() -> bool, interval: Duration) -> bool {
        let Some(file) = self.open_own(name) else {
            return true;
        };
        let (sender, free) = mpsc::channel();
        // Detached, since a lock cannot be awaited with a timeout: the thread ends with the process
        // that holds the lock, or with this one.
        let wait = move || sender.send(file.lock_exclusive().is_ok());
        if thread::spawn("await lock", wait).is_err() {
            return false;
        }
        loop {
            match free.recv_timeout(interval) {
                Ok(is_free) => return is_free,
                Err(mpsc::RecvTimeoutError::Timeout) if is_alive() => {}
                Err(_) => return false,
            }
        }
    }

    fn open(&self, options: &mut std::fs::OpenOptions, name: &str) -> Result<File> {
        let path = self.path(name);
        open_plain(&path, options.mode(FILE_MODE)).doing(|| format!("open {}", path.display()))
    }

    /// Opens a regular file that belongs to this user; `None` for any other file, and when the file
    /// cannot be opened.
    pub fn open_own(&self, name: &str) -> Option<File> {
        let file = self.open(File::options().read(true), name).ok()?;
        let meta = file.metadata().ok()?;
        (meta.is_file() && meta.uid() == rustix::process::geteuid().as_raw()).then_some(file)
    }

    /// Reads a mark; `None` when it does not exist, cannot be parsed, or is older than `max_age`.
    pub fn read_mark<T: DeserializeOwned>(
        &self,
        name: &str,
        max_age: Duration,
        now: SystemTime,
    ) -> Option<T> {
        let file = self.open_own(name)?;
        let written = file.metadata().ok()?.modified().ok()?;
        // Absolute difference, so that a mark is not valid for longer when the clock was set back.
        let age = now.duration_since(written).unwrap_or_else(|later| later.duration());
        if age > max_age {
            return None;
        }
        let mut text = Vec::new();
        file.take(MAX_MARK_SIZE).read_to_end(&mut text).ok()?;
        serde_json::from_slice(&text).ok()
    }

    /// Writes a mark, atomically. Two processes that write a mark of the same name at once may lose both:
    /// where that matters the caller must hold the lock.
    pub fn write_mark(&self, name: &str, mark: &impl Serialize) -> Result<()> {
        let doing = || format!("mark {name}");
        let text = serde_json::to_vec(mark).map_err(|e| Error::defect(format!("write JSON: {e}")))?;
        let temporary = format!("{name}.new");
        let mut file = self.open(File::options().write(true).create(true).truncate(true), &temporary)?;
        file.write_all(&text).doing(doing)?;
        durable::replace_volatile(&self.path(&temporary), &self.path(name))
    }

    /// Removes a file. A failure does no harm: files are checked before they are used.
    pub fn remove(&self, name: &str) {
        let _ = std::fs::remove_file(self.path(name));
    }

    /// Removes all files but the lock and those for which `keep` returns true. The caller must hold
    /// the lock.
    pub fn remove_all_but(&self, keep: impl Fn(&str) -> bool) {
        for entry in std::fs::read_dir(&self.folder).into_iter().flatten().flatten() {
            match entry.file_name().to_str() {
                Some(name) if name == LOCK || keep(name) => {}
                _ => {
                    let _ = std::fs::remove_file(entry.path());
                }
            }
        }
    }
}
