//! What one server's `walpush` and `walfetch` leave on this machine for their next calls: marks of segments that are
//! archived already, and segments that recovery will ask for.
//!
//! Nothing depends on it. All of it may vanish or be damaged at any moment, may be left by another life of the data
//! directory, or cannot be made at all; whatever does not fit exactly counts as not there. A mark is bound to the
//! file that it speaks of by its [`Stamp`], to the cluster, and to the places of the repositories. Nothing here is
//! synced: what a crash of the machine tears does not fit any more.
//!
//! Each data directory has a folder of its own, so servers on one machine share a spool and nothing in it.

use crate::codec::hash::block_hash;
use crate::error::{Doing, Error, Kind, Result};
use crate::fs::{durable, open_plain};
use crate::repo::Lineage;
use fs2::FileExt as _;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::fs::{DirBuilder, File, Metadata};
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::{Duration, SystemTime};

/// No mark comes near.
const LARGEST_MARK: u64 = 64 << 10;

const DIR_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;

/// Tells a file from any other, and from itself after it was written to. Its status change time (`ctime`) cannot be
/// set by anybody, so a copy that got the old times back does not have it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamp {
    dev: u64,
    ino: u64,
    pub size: u64,
    mtime: (i64, i64),
    ctime: (i64, i64),
}

impl Stamp {
    pub fn of(meta: &Metadata) -> Stamp {
        Stamp {
            dev: meta.dev(),
            ino: meta.ino(),
            size: meta.size(),
            mtime: (meta.mtime(), meta.mtime_nsec()),
            ctime: (meta.ctime(), meta.ctime_nsec()),
        }
    }

    /// When the file was last written to or renamed, as far as the ticks of its clock tell.
    pub fn changed(&self) -> SystemTime {
        let (seconds, nanoseconds) = self.ctime;
        let since = Duration::new(seconds.try_into().unwrap_or(0), nanoseconds.try_into().unwrap_or(0));
        SystemTime::UNIX_EPOCH + since
    }

    /// Of the file that has this name; not of one behind a link.
    pub fn at(path: &Path) -> Option<Stamp> {
        let meta = std::fs::symlink_metadata(path).ok().filter(Metadata::is_file)?;
        Some(Stamp::of(&meta))
    }
}

/// The part of the spool for one purpose of one server.
pub struct Spool {
    folder: PathBuf,
}

/// Held until it is dropped, or the process ends.
pub struct SpoolLock(#[allow(dead_code)] File);

impl Spool {
    /// Below `root`, for the server in this data directory, whose owner alone has one: what another user, calling by
    /// hand, made there could not be used by the server. Touches nothing.
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

    /// Makes the folder. The directory of the whole spool is made too, where its parent allows it.
    pub fn create(&self) -> Result<()> {
        let doing = || format!("create {}", self.folder.display());
        DirBuilder::new().recursive(true).mode(DIR_MODE).create(&self.folder).doing(doing)
    }

    /// Keeps a second process of this server out; `None` when one is in, or nothing can be locked here. The file
    /// stays: who would remove it could remove one that is locked.
    pub fn lock(&self) -> Option<SpoolLock> {
        self.lock_as("lock")
    }

    /// The same for something smaller.
    pub fn lock_as(&self, name: &str) -> Option<SpoolLock> {
        let file = self.open(File::options().write(true).create(true).truncate(false), name).ok()?;
        file.try_lock_exclusive().ok()?;
        Some(SpoolLock(file))
    }

    /// Waits until nobody holds this lock, as long as `is_alive` says every so often that something is being done.
    /// False when it gave up.
    pub fn await_lock(&self, name: &str, mut is_alive: impl FnMut() -> bool, every: Duration) -> bool {
        let Some(file) = self.read(name) else {
            return true;
        };
        let (sender, free) = mpsc::channel();
        // It also ends when the process that holds the lock does, and else with this one.
        let wait = move || sender.send(file.lock_exclusive().is_ok());
        if std::thread::Builder::new().spawn(wait).is_err() {
            return false;
        }
        loop {
            match free.recv_timeout(every) {
                Ok(free) => return free,
                Err(mpsc::RecvTimeoutError::Timeout) if is_alive() => {}
                Err(_) => return false,
            }
        }
    }

    fn open(&self, options: &mut std::fs::OpenOptions, name: &str) -> Result<File> {
        let path = self.path(name);
        open_plain(&path, options.mode(FILE_MODE)).doing(|| format!("open {}", path.display()))
    }

    /// A regular file of the spool that this user has made.
    pub fn read(&self, name: &str) -> Option<File> {
        let file = self.open(File::options().read(true), name).ok()?;
        let meta = file.metadata().ok()?;
        (meta.is_file() && meta.uid() == rustix::process::geteuid().as_raw()).then_some(file)
    }

    /// What was marked under this name, if that is not longer ago; none if it cannot be understood.
    pub fn mark<T: DeserializeOwned>(&self, name: &str, age: Duration, now: SystemTime) -> Option<T> {
        let file = self.read(name)?;
        let written = file.metadata().ok()?.modified().ok()?;
        // A clock that was set back makes a mark no younger.
        let passed = now.duration_since(written).unwrap_or_else(|later| later.duration());
        if passed > age {
            return None;
        }
        let mut text = Vec::new();
        file.take(LARGEST_MARK).read_to_end(&mut text).ok()?;
        serde_json::from_slice(&text).ok()
    }

    /// Marks something, in one step. Only for who holds the lock.
    pub fn write_mark(&self, name: &str, mark: &impl Serialize) -> Result<()> {
        use std::io::Write;
        let doing = || format!("mark {name}");
        let text = serde_json::to_vec(mark)
            .map_err(|e| Error::new(Kind::Failed, format!("write JSON: {e}")).doing(doing()))?;
        let temporary = format!("{name}.new");
        let mut file = self.open(File::options().write(true).create(true).truncate(true), &temporary)?;
        file.write_all(&text).doing(doing)?;
        durable::replace_volatile(&self.path(&temporary), &self.path(name))
    }

    /// Forgets something. That it stays is no harm: it is looked at before it is believed.
    pub fn forget(&self, name: &str) {
        let _ = std::fs::remove_file(self.path(name));
    }

    /// Forgets everything but the lock and what is to be kept. Only for who holds the lock.
    pub fn forget_all_but(&self, keep: impl Fn(&str) -> bool) {
        for entry in std::fs::read_dir(&self.folder).into_iter().flatten().flatten() {
            match entry.file_name().to_str() {
                Some(name) if name == "lock" || keep(name) => {}
                _ => {
                    let _ = std::fs::remove_file(entry.path());
                }
            }
        }
    }
}
