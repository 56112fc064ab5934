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
//! A folder in which another user could put or exchange files is not used: its files would become
//! the server's WAL.

use crate::codec::hash::block_hash;
use crate::error::{Doing, Error, Kind, Result};
use crate::fs::folder::{Folder, Rights, random_name, replace_volatile};
use crate::fs::named;
use crate::progress;
use crate::repo::Lineage;
use crate::runtime::thread;
use fs2::FileExt as _;
use rustix::fs::{Stat, fstatvfs};
use serde::{Serialize, de::DeserializeOwned};
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock, mpsc};
use std::time::{Duration, SystemTime};

/// Maximum size of a mark in bytes.
const MAX_MARK_SIZE: u64 = 64 << 10;

/// Name of the lock of the folder, which one process of the server holds at a time.
const LOCK: &str = "lock";

const DIR_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;

/// The part of the spool for one purpose of one server.
#[derive(Clone)]
pub struct Spool(Arc<SpoolPlace>);

struct SpoolPlace {
    root: PathBuf,
    /// Folder of the server and folder of the purpose.
    below: [String; 2],
    /// User to which the folders and files have to belong.
    user: u32,
    rights: Rights,
    /// Empty while the folder does not exist.
    folder: OnceLock<Folder>,
}

/// A lock, held until it is dropped or the process ends.
pub struct SpoolLock {
    _file: File,
}

impl Spool {
    /// Opens the part of the spool below `root` for the server in `pgdata`, if it exists. The name of
    /// the server's folder is derived from path, device and inode of the data directory, so that a
    /// copy of the directory has another folder. The user of the process must own it; for root, the
    /// owner of the data directory.
    ///
    /// # Errors
    ///
    /// Those of the operating system; `Refused` or `Damage` for a folder in which another user can
    /// put files.
    pub fn open(root: &Path, pgdata: &Path, lineage: Lineage, purpose: &str) -> Result<Spool> {
        let missing = || Error::new(Kind::Absent, format!("{} does not exist", pgdata.display()));
        let path = named::real(pgdata)?.ok_or_else(missing)?;
        let stat = named::stat(&path)?.ok_or_else(missing)?;
        let instance =
            [&stat.st_dev.to_le_bytes()[..], &stat.st_ino.to_le_bytes(), path.as_os_str().as_bytes()];
        let hash = hex::encode(&block_hash(&instance.concat())[..8]);
        let process = rustix::process::geteuid();
        let owner = process.is_root().then_some((stat.st_uid, stat.st_gid));
        let place = SpoolPlace {
            root: root.to_owned(),
            below: [format!("{lineage}-{hash}"), purpose.to_owned()],
            user: owner.map_or(process.as_raw(), |(user, _)| user),
            rights: Rights::new(owner, FILE_MODE, DIR_MODE),
            folder: OnceLock::new(),
        };
        if let Some(root) = Folder::root(root)? {
            place.open_in(root, false)?;
        }
        Ok(Spool(Arc::new(place)))
    }

    /// Creates the folder, and the directory of the whole spool if the mode of its parent allows
    /// that.
    ///
    /// # Errors
    ///
    /// Those of [`Spool::open`].
    pub fn create(&self) -> Result<()> {
        if self.0.folder.get().is_some() {
            return Ok(());
        }
        self.0.open_in(self.0.make_root()?, true)
    }

    /// The folder; `None` while it does not exist.
    fn folder(&self) -> Option<&Folder> {
        self.0.folder.get()
    }

    /// The folder.
    ///
    /// # Errors
    ///
    /// `Absent` while it does not exist.
    pub fn opened(&self) -> Result<&Folder> {
        let missing = || Error::new(Kind::Absent, format!("spool {} does not exist", self.0.root.display()));
        self.folder().ok_or_else(missing)
    }

    /// Rights of new files.
    pub fn rights(&self) -> &Rights {
        &self.0.rights
    }

    /// Locks the folder against other processes of this server; `None` when the folder is locked,
    /// or cannot be locked. The lock file is never removed: another process could have locked it
    /// meanwhile.
    pub fn lock(&self) -> Option<SpoolLock> {
        self.lock_as(LOCK)
    }

    /// Takes the lock `name`, which protects a part of the folder's content.
    pub fn lock_as(&self, name: &str) -> Option<SpoolLock> {
        let folder = self.folder()?;
        let file = folder.file_or_create(name, &self.0.rights).ok()?;
        file.try_lock_exclusive().ok()?;
        Some(SpoolLock { _file: file })
    }

    /// Waits until no process holds the lock `name`. Gives up, and returns false, when `is_alive`
    /// returns false; it is called once per `interval`.
    pub fn await_lock(&self, name: &str, mut is_alive: impl FnMut() -> bool, interval: Duration) -> bool {
        let Some((file, _)) = self.open_own(name) else {
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

    /// Opens a file that belongs to the user of the spool, and returns its state too; `None` for any
    /// other entry, and when the file cannot be opened.
    pub fn open_own(&self, name: &str) -> Option<(File, Stat)> {
        let found = self.folder()?.file_with_stat(Path::new(name)).ok()?;
        found.filter(|(_, stat)| stat.st_uid == self.0.user)
    }

    /// Returns the size of a file in bytes; 0 when it does not exist.
    pub fn size_of(&self, name: &str) -> u64 {
        let stat = self.folder().and_then(|folder| folder.stat(Path::new(name)).ok()?);
        stat.and_then(|stat| u64::try_from(stat.st_size).ok()).unwrap_or_default()
    }

    /// Reads a mark; `None` when it does not exist, cannot be parsed, or is older than `max_age`.
    pub fn read_mark<T: DeserializeOwned>(
        &self,
        name: &str,
        max_age: Duration,
        now: SystemTime,
    ) -> Option<T> {
        let (file, _) = self.open_own(name)?;
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

    /// Writes a mark, atomically.
    ///
    /// # Errors
    ///
    /// Those of the operating system.
    pub fn write_mark(&self, name: &str, mark: &impl Serialize) -> Result<()> {
        let doing = || format!("mark {name}");
        let text = serde_json::to_vec(mark).map_err(|e| Error::defect(format!("write JSON: {e}")))?;
        let folder = self.opened()?;
        let temporary = format!("{name}.{}", random_name()?);
        let mut file = folder.create(&temporary, &self.0.rights)?;
        file.write_all(&text).doing(doing)?;
        replace_volatile((folder, &temporary), (folder, name))
    }

    /// Removes a file. A failure does no harm: files are checked before they are used.
    pub fn remove(&self, name: &str) {
        let _ = self.folder().map(|folder| folder.remove(name));
    }

    /// Removes everything but the lock and the entries for which `keep` returns true. The caller must
    /// hold the lock.
    pub fn remove_all_but(&self, keep: impl Fn(&str) -> bool) {
        let Some(folder) = self.folder() else {
            return;
        };
        for (name, _) in folder.names().unwrap_or_default() {
            let is_kept = name.to_str().is_some_and(|name| name == LOCK || keep(name));
            if !is_kept {
                let _ = folder.remove_tree(&name);
            }
        }
    }

    /// Whether the file system of the folder has this many bytes for the user.
    pub fn has_room(&self, bytes: u64) -> bool {
        let room = self.folder().and_then(|folder| fstatvfs(folder).ok());
        room.is_some_and(|room| room.f_bavail.saturating_mul(room.f_frsize) >= bytes)
    }
}

impl SpoolPlace {
    /// Opens the folders below `root` and checks them. Leaves the spool without a folder when one does
    /// not exist and `create` is false.
    fn open_in(&self, root: Folder, create: bool) -> Result<()> {
        root.check_parent(self.user)?;
        let mut folder = root;
        for name in self.below.iter().map(Path::new) {
            folder = match folder.folder(name)? {
                Some(inner) => inner,
                None if create => folder.make(name, &self.rights)?,
                None => return Ok(()),
            };
            folder.check_private(self.user)?;
        }
        let _ = self.folder.set(folder);
        Ok(())
    }

    /// Opens the directory of the whole spool, and creates it and its parents unless they exist.
    fn make_root(&self) -> Result<Folder> {
        for parent in self.root.ancestors() {
            if let Some(folder) = Folder::root(parent)? {
                let below = self.root.strip_prefix(parent).unwrap_or(Path::new(""));
                return folder.make(below, &self.rights);
            }
        }
        Err(Error::new(Kind::Absent, format!("spool {} does not exist", self.root.display())))
    }
}

/// Reports why the spool is not used. A spool that does not exist and cannot be created is what
/// `walkeep check` reports.
pub fn report_unusable(error: Error) {
    let is_foreign = matches!(error.kind(), Kind::Refused | Kind::Damage);
    let error = error.doing("go on without the spool");
    if is_foreign { progress::warn(&error) } else { progress::debug(&error) }
}
