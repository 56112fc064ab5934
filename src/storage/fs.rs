//! A directory as a store. An object is written to `.tmp` and synced, then renamed to its name,
//! exclusively, and the directory is synced. So no reader finds part of an object at any moment,
//! not after a crash and not on another host (over a network file system). Does not know what the
//! objects contain.

use super::{
    Body, Key, ListedObject, Mode, Object, OpenBody, PAGE, Page, Put, Storage, is_part, random_name,
};
use crate::error::{Doing, Error, Kind, Result};
use crate::fs::direct;
use crate::fs::durable::{self, Published};
use fs2::FileExt;
use rustix::fs::{AtFlags, CWD, Dir, FileType, OFlags, openat, statat};
use rustix::io::Errno;
use rustix::path::Arg;
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// Folder in which objects are written before they are renamed.
const TEMPORARY: &str = ".tmp";
const FILE_MODE: u32 = 0o640;
const DIR_MODE: u32 = 0o750;

/// Attempts to rename an object into a folder that other processes remove while it is empty.
const MAX_NAMING_ATTEMPTS: u32 = 8;

/// Bytes from which on an object in memory bypasses the page cache, where its alignment allows it.
const MIN_DIRECT_SIZE: usize = 1 << 20;

/// A directory that holds objects as files.
pub struct Directory {
    root: PathBuf,
    /// Device on which an object was found. When the root is on another device later, the file
    /// system was unmounted, and an object that is not found may exist on it.
    device: OnceLock<u64>,
}

impl Directory {
    /// Creates the store of this directory. Accesses nothing: the first operation fails if the
    /// directory does not exist.
    pub fn new(root: impl Into<PathBuf>) -> Directory {
        Directory { root: root.into(), device: OnceLock::new() }
    }

    /// Returns the device of the root; `None` when the root does not exist.
    fn device_of_root(&self) -> Result<Option<u64>> {
        match std::fs::metadata(&self.root) {
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
            meta => Ok(Some(meta.doing(|| format!("look at {}", self.root.display()))?.dev())),
        }
    }

    /// Fails when the file system was unmounted after an object was found on it.
    fn check_mounted(&self) -> Result<()> {
        match self.device.get() {
            Some(device) if self.device_of_root()? != Some(*device) => Err(Error::new(
                Kind::Unavailable,
                format!("the file system of {} was unmounted meanwhile", self.root.display()),
            )
            .hint("mount it again, and find out why it was unmounted")),
            _ => Ok(()),
        }
    }

    /// Calls `look`, and accepts its `None` only while the file system is mounted.
    fn confirm_absent<T>(&self, look: impl FnOnce() -> Result<Option<T>>) -> Result<Option<T>> {
        let device = match self.device.get() {
            Some(_) => None,
            // Read before `look` is called, so that an object that is found is on this device.
            None => self.device_of_root()?,
        };
        let found = look()?;
        match (&found, device) {
            (Some(_), Some(device)) => drop(self.device.get_or_init(|| device)),
            (Some(_), None) => {}
            (None, _) => self.check_mounted()?,
        }
        Ok(found)
    }

    /// Whether the directory is `place` or lies below it. Symbolic links are resolved in the part
    /// of the path that exists.
    pub fn is_inside(&self, place: &Path) -> bool {
        let existing = self.root.ancestors().find_map(|path| {
            let rest = self.root.strip_prefix(path).ok()?;
            Some(std::fs::canonicalize(path).ok()?.join(rest))
        });
        existing.is_some_and(|path| path.starts_with(place))
    }

    fn path(&self, key: &Key) -> PathBuf {
        self.root.join(key.as_str())
    }

    /// Makes an existing object durable: another writer may have renamed it and not yet synced it.
    fn sync_object(&self, path: &Path) -> Result<()> {
        let file = File::open(path).doing(|| format!("open {}", path.display()))?;
        durable::sync_file(&file, path)?;
        durable::sync_parent(path)
    }

    /// Writes a body to a new temporary file and syncs it.
    fn write_temporary(&self, body: &dyn Body) -> Result<Temporary> {
        let directory = self.root.join(TEMPORARY);
        let temporary = Temporary::create(&directory).or_else(|error| match error.kind() {
            Kind::Absent => {
                self.check_mounted()?;
                durable::create_dir(&directory, DIR_MODE)?;
                Temporary::create(&directory)
            }
            _ => Err(error),
        })?;
        let mut file = &temporary.file;
        let doing = || format!("write {}", temporary.path.display());
        match body.open()? {
            // An object of that size is not read again soon, so the page cache is bypassed.
            OpenBody::Whole(bytes) if bytes.len() >= MIN_DIRECT_SIZE => {
                direct::DirectTarget::open(&temporary.path, false)?.write(bytes, 0)?;
            }
            bytes => bytes.for_each(|chunk| file.write_all(chunk).doing(doing))?,
        }
        durable::sync_file(&temporary.file, &temporary.path)?;
        Ok(temporary)
    }

    /// Renames a synced temporary file to the path of its object, durably.
    fn give_name(&self, temporary: &Temporary, path: &Path, mode: Mode) -> Result<Published> {
        self.check_mounted()?;
        let folder = path.parent().ok_or_else(|| Error::defect("the path of an object has no parent"))?;
        durable::create_dirs(&self.root, folder, DIR_MODE)?;
        match mode {
            Mode::Create => durable::publish(&temporary.path, path),
            Mode::Replace => {
                durable::replace_volatile(&temporary.path, path)?;
                durable::sync_parent(path)?;
                Ok(Published::Now)
            }
        }
    }

    /// Removes a folder if it is empty, then each parent that is empty. Nothing is synced: an empty
    /// folder that a crash brings back does no harm.
    fn remove_empty(&self, folder: &Path) {
        for folder in folder.ancestors().take_while(|folder| *folder != self.root) {
            if std::fs::remove_dir(folder).is_err() {
                return;
            }
        }
    }

    /// Adds the objects below `folder`, an open directory, to `page`. Entries are examined relative
    /// to `folder`: resolving whole paths would take most of the time of a listing.
    fn walk(
        folder: &OwnedFd,
        path: &Path,
        key: &str,
        after: &str,
        limit: usize,
        page: &mut Page,
    ) -> Result<()> {
        for (name, is_dir) in names(folder).doing(|| format!("list {}", path.display()))? {
            let full = format!("{key}/{name}");
            let passed =
                if is_dir { full.as_str() < after && !after.starts_with(&full) } else { *full <= *after };
            if passed {
                continue;
            }
            let doing = || format!("look at {}", path.join(&name).display());
            if is_dir {
                // `None` when the folder was removed meanwhile because it became empty.
                if let Some(inner) = open_folder(folder, &name).doing(doing)? {
                    let key = full.trim_end_matches('/');
                    Directory::walk(&inner, &path.join(&name), key, after, limit, page)?;
                }
            } else if page.entries.len() == limit {
                page.more = true;
            } else if let Some((size, modified)) = look_at(folder, &name).doing(doing)? {
                page.entries.push(ListedObject { key: Key(full), size, modified });
            }
            if page.more {
                return Ok(());
            }
        }
        Ok(())
    }
}

/// Returns the names in a folder, in order, each with whether it is a folder; the name of a folder
/// ends with a slash. Entries whose names cannot be part of a key are not objects and are skipped.
fn names(folder: &OwnedFd) -> std::io::Result<Vec<(String, bool)>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(folder)? {
        let entry = entry?;
        let Some(mut name) = entry.file_name().to_str().ok().filter(|name| is_part(name)).map(str::to_owned)
        else {
            continue;
        };
        let kind = match entry.file_type() {
            // Some file systems do not report types.
            FileType::Unknown => match statat(folder, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW) {
                Err(Errno::NOENT) => continue,
                stat => FileType::from_raw_mode(stat?.st_mode),
            },
            kind => kind,
        };
        if kind == FileType::Symlink && leads_to_directory(folder, entry.file_name()) {
            // A get would follow the link, and a listing (prune, verify, sync) would not.
            return Err(std::io::Error::other(format!(
                "{name} is a symbolic link to a directory, which a repository must not contain"
            )));
        }
        let is_dir = kind == FileType::Directory;
        if is_dir {
            name.push('/');
        }
        if is_dir || kind == FileType::RegularFile {
            names.push((name, is_dir));
        }
    }
    names.sort_unstable();
    Ok(names)
}

fn leads_to_directory(folder: &OwnedFd, name: impl Arg) -> bool {
    let target = statat(folder, name, AtFlags::empty());
    target.is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Directory)
}

/// Opens a directory; `None` when it does not exist.
fn open_folder(place: impl AsFd, path: impl Arg) -> std::io::Result<Option<OwnedFd>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    match openat(place, path, flags, rustix::fs::Mode::empty()) {
        Err(Errno::NOENT) => Ok(None),
        folder => Ok(Some(folder?)),
    }
}

/// Returns the size and the modification time of a file in a folder; `None` when the file does not
/// exist.
fn look_at(folder: impl AsFd, name: impl Arg) -> std::io::Result<Option<(u64, jiff::Timestamp)>> {
    let stat = match statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => return Ok(None),
        stat => stat?,
    };
    let nanoseconds = i32::try_from(stat.st_mtime_nsec).ok();
    let modified = nanoseconds.and_then(|nanoseconds| jiff::Timestamp::new(stat.st_mtime, nanoseconds).ok());
    let modified = modified.ok_or_else(|| {
        std::io::Error::other(format!("{} s is not a valid time of modification", stat.st_mtime))
    })?;
    let size = u64::try_from(stat.st_size)
        .map_err(|_| std::io::Error::other(format!("{} is not a valid size of a file", stat.st_size)))?;
    Ok(Some((size, modified)))
}

impl Storage for Directory {
    fn put(&self, key: &Key, body: &dyn Body, mode: Mode) -> Result<Put> {
        let path = self.path(key);
        if mode == Mode::Create && path.try_exists().doing(|| format!("look at {}", path.display()))? {
            self.sync_object(&path)?;
            return Ok(Put::Exists);
        }
        let temporary = self.write_temporary(body)?;
        let mut attempt = 1;
        loop {
            match self.give_name(&temporary, &path, mode) {
                // Another process removed the folder, which was empty.
                Err(error) if error.kind() == Kind::Absent && attempt < MAX_NAMING_ATTEMPTS => attempt += 1,
                Ok(Published::Now) => {
                    temporary.keep();
                    return Ok(Put::Stored);
                }
                Ok(Published::NameIsTaken) => {
                    self.sync_object(&path)?;
                    return Ok(Put::Exists);
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn get(&self, key: &Key, range: Option<Range<u64>>) -> Result<Option<Object>> {
        let path = self.path(key);
        let opened = self.confirm_absent(|| match File::open(&path) {
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
            file => file.doing(|| format!("open {}", path.display())).map(Some),
        });
        let Some(mut file) = opened? else {
            return Ok(None);
        };
        match range {
            None => Ok(Some(Box::new(file))),
            Some(range) => {
                let doing = || format!("read {}", path.display());
                file.seek(SeekFrom::Start(range.start)).doing(doing)?;
                Ok(Some(Box::new(file.take(range.end.saturating_sub(range.start)))))
            }
        }
    }

    fn head(&self, key: &Key) -> Result<Option<ListedObject>> {
        let path = self.path(key);
        let found =
            self.confirm_absent(|| look_at(CWD, &path).doing(|| format!("look at {}", path.display())))?;
        Ok(found.map(|(size, modified)| ListedObject { key: key.clone(), size, modified }))
    }

    fn list(&self, folder: &Key, after: Option<&Key>, limit: usize) -> Result<Page> {
        let after = after.map_or("", Key::as_str);
        let path = self.path(folder);
        let listed = self.confirm_absent(|| {
            let mut page = Page::default();
            if let Some(opened) = open_folder(CWD, &path).doing(|| format!("list {}", path.display()))? {
                Directory::walk(&opened, &path, folder.as_str(), after, limit.min(PAGE), &mut page)?;
            }
            Ok(Some(page).filter(|page| !page.entries.is_empty()))
        });
        // A folder that does not exist has no objects.
        Ok(listed?.unwrap_or_default())
    }

    fn delete(&self, keys: &[Key]) -> Result<()> {
        let mut folders = BTreeSet::new();
        let mut result = Ok(());
        for key in keys {
            let path = self.path(key);
            match std::fs::remove_file(&path) {
                Err(e) if e.kind() != ErrorKind::NotFound => {
                    result = Err(Error::io(format!("remove {}", path.display()), &e));
                    break;
                }
                // A missing object may have been removed by a process that was killed before the
                // sync, so its folder is synced too.
                _ => folders.extend(path.parent().map(Path::to_owned)),
            }
        }
        for folder in folders {
            match durable::sync_dir(&folder) {
                Ok(()) => self.remove_empty(&folder),
                // Another process removed the folder, which was empty.
                Err(error) if error.kind() == Kind::Absent => {}
                Err(error) => result = result.and(Err(error)),
            }
        }
        // A missing object may exist on a file system that was unmounted.
        result.and_then(|()| self.check_mounted())
    }

    fn clean(&self, before: jiff::Timestamp) -> Result<u64> {
        let directory = self.root.join(TEMPORARY);
        let entries = match std::fs::read_dir(&directory) {
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(0),
            entries => entries.doing(|| format!("list {}", directory.display()))?,
        };
        let mut removed = 0;
        for entry in entries.flatten() {
            let is_old = entry.metadata().is_ok_and(|meta| {
                let modified = meta.modified().ok().and_then(|time| jiff::Timestamp::try_from(time).ok());
                meta.is_file() && modified.is_some_and(|modified| modified < before)
            });
            // A writer holds a lock on its file while it runs.
            let is_orphan = || File::open(entry.path()).is_ok_and(|file| file.try_lock_exclusive().is_ok());
            if is_old && is_orphan() {
                durable::remove_file(&entry.path())?;
                removed += 1;
            }
        }
        Ok(removed)
    }

    fn url(&self) -> String {
        format!("file://{}", self.root.display())
    }

    /// Creates the directory and its parents. Any other caller than `init` would fill the disk
    /// below the mount point of an unmounted repository.
    fn prepare(&self) -> Result<()> {
        durable::create_dirs(Path::new("/"), &self.root, DIR_MODE)
    }
}

/// A file in `.tmp`, locked while it is written, removed on drop unless it was renamed.
struct Temporary {
    path: PathBuf,
    file: File,
    named: bool,
}

impl Temporary {
    fn create(directory: &Path) -> Result<Temporary> {
        let path = directory.join(random_name()?);
        let file = File::options()
            .write(true)
            .create_new(true)
            .mode(FILE_MODE)
            .open(&path)
            .doing(|| format!("create {}", path.display()))?;
        // On a file system without locks, `clean` decides by the age alone.
        let _ = file.try_lock_exclusive();
        Ok(Temporary { path, file, named: false })
    }

    fn keep(mut self) {
        self.named = true;
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.named {
            // If this fails, `clean` removes the file later.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}
