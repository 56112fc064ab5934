//! A directory as a store. An object is written to `.tmp`, synced, given its name exclusively, and the
//! directory is synced; so there is no moment at which a reader, a crash or another host (over a network
//! file system) finds half of one.

use super::{Body, Bytes, Key, ListedObject, Mode, Object, PAGE, Page, Put, Storage, is_part, random_name};
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

/// Where objects are written before they have a name.
const TEMPORARY: &str = ".tmp";
const FILE_MODE: u32 = 0o640;
const DIR_MODE: u32 = 0o750;

/// Times that a folder is made again which was removed because it was empty.
const NAMING_ATTEMPTS: u32 = 8;

/// Bytes moved at a time when a body is streamed.
const CHUNK: usize = 256 << 10;

/// Objects of this size are written past the page cache, where their memory allows it.
const LARGE: usize = 1 << 20;

/// A directory that holds objects as files.
pub struct Directory {
    root: PathBuf,
    /// The device on which something was found. On another one it is the directory below an unmounted file system,
    /// and that nothing is there says nothing.
    device: OnceLock<u64>,
}

impl Directory {
    /// The store in this directory. Nothing is touched: a directory that is not there is found out by
    /// the first operation.
    pub fn new(root: impl Into<PathBuf>) -> Directory {
        Directory { root: root.into(), device: OnceLock::new() }
    }

    fn device_of_root(&self) -> Result<Option<u64>> {
        match std::fs::metadata(&self.root) {
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
            meta => Ok(Some(meta.doing(|| format!("look at {}", self.root.display()))?.dev())),
        }
    }

    /// Fails when the file system was unmounted since something was found on it.
    fn check_mounted(&self) -> Result<()> {
        match self.device.get() {
            Some(device) if self.device_of_root()? != Some(*device) => Err(Error::new(
                Kind::Unavailable,
                format!("the file system of {} was unmounted meanwhile", self.root.display()),
            )
            .hint("mount it again, and see why it went away")),
            _ => Ok(()),
        }
    }

    /// Looks for something, and sees to it that what is not found could have been.
    fn sure<T>(&self, look: impl FnOnce() -> Result<Option<T>>) -> Result<Option<T>> {
        let device = match self.device.get() {
            Some(_) => None,
            // Before it is looked for, so that what is found was found there.
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

    /// Whether the directory is `place` or lies below it; links are followed as far as it exists.
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

    /// Makes an object durable that somebody else may have named and not yet synced.
    fn settle(&self, path: &Path) -> Result<()> {
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
            // What is that large will not be read soon.
            Bytes::Whole(bytes) if bytes.len() >= LARGE => {
                direct::DirectTarget::open(&temporary.path, false)?.write(bytes, 0)?;
            }
            Bytes::Whole(bytes) => file.write_all(bytes).doing(doing)?,
            Bytes::Stream(mut stream) => {
                let mut chunk = vec![0; CHUNK];
                loop {
                    match stream.read(&mut chunk) {
                        Ok(0) => break,
                        Ok(got) => file.write_all(&chunk[..got]).doing(doing)?,
                        Err(e) if e.kind() == ErrorKind::Interrupted => {}
                        Err(e) => return Err(Error::io("read what is to be stored", &e)),
                    }
                }
            }
        }
        durable::sync_file(&temporary.file, &temporary.path)?;
        Ok(temporary)
    }

    fn give_name(&self, temporary: &Temporary, path: &Path, mode: Mode) -> Result<Published> {
        self.check_mounted()?;
        durable::create_dirs(&self.root, path.parent().unwrap_or(&self.root), DIR_MODE)?;
        match mode {
            Mode::Create => durable::publish(&temporary.path, path),
            Mode::Replace => {
                durable::replace_volatile(&temporary.path, path)?;
                durable::sync_parent(path)?;
                Ok(Published::Now)
            }
        }
    }

    /// Removes a folder that has become empty, and those above it that have. That one comes back after a crash
    /// does no harm, so nothing is synced.
    fn remove_empty(&self, folder: &Path) {
        for folder in folder.ancestors().take_while(|folder| *folder != self.root) {
            if std::fs::remove_dir(folder).is_err() {
                return;
            }
        }
    }

    /// Adds what lies below a folder, which is open. Everything in it is looked at by its name there: along whole
    /// paths the kernel would take most of the time of a listing.
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
                // It may have become empty, and be gone.
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

/// What lies in a folder and has the name of an object, in order; folders end with a slash. What has another name
/// is not ours, and stays unseen.
fn names(folder: &OwnedFd) -> std::io::Result<Vec<(String, bool)>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(folder)? {
        let entry = entry?;
        let Some(mut name) = entry.file_name().to_str().ok().filter(|name| is_part(name)).map(str::to_owned)
        else {
            continue;
        };
        let kind = match entry.file_type() {
            // A file system that does not say.
            FileType::Unknown => match statat(folder, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW) {
                Err(Errno::NOENT) => continue,
                stat => FileType::from_raw_mode(stat?.st_mode),
            },
            kind => kind,
        };
        if kind == FileType::Symlink && leads_to_directory(folder, entry.file_name()) {
            // Followed where it is named, and unseen by those who look for what there is: prune, verify, sync.
            return Err(std::io::Error::other(format!(
                "{name} is a link to a directory, and a repository must have none"
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

fn open_folder(place: impl AsFd, path: impl Arg) -> std::io::Result<Option<OwnedFd>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    match openat(place, path, flags, rustix::fs::Mode::empty()) {
        Err(Errno::NOENT) => Ok(None),
        folder => Ok(Some(folder?)),
    }
}

/// Size and time of what has this name in a folder; `None` when it is gone.
fn look_at(folder: impl AsFd, name: impl Arg) -> std::io::Result<Option<(u64, jiff::Timestamp)>> {
    let stat = match statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => return Ok(None),
        stat => stat?,
    };
    let nanoseconds = i32::try_from(stat.st_mtime_nsec).unwrap_or(0);
    let modified = jiff::Timestamp::new(stat.st_mtime, nanoseconds).unwrap_or_default();
    Ok(Some((u64::try_from(stat.st_size).unwrap_or(0), modified)))
}

impl Storage for Directory {
    fn put(&self, key: &Key, body: &dyn Body, mode: Mode) -> Result<Put> {
        let path = self.path(key);
        if mode == Mode::Create && path.try_exists().doing(|| format!("look at {}", path.display()))? {
            self.settle(&path)?;
            return Ok(Put::Exists);
        }
        let temporary = self.write_temporary(body)?;
        let mut attempt = 1;
        loop {
            match self.give_name(&temporary, &path, mode) {
                // Somebody who removed the last object of a folder removed the folder with it.
                Err(error) if error.kind() == Kind::Absent && attempt < NAMING_ATTEMPTS => attempt += 1,
                Ok(Published::Now) => {
                    temporary.keep();
                    return Ok(Put::Stored);
                }
                Ok(Published::NameIsTaken) => {
                    self.settle(&path)?;
                    return Ok(Put::Exists);
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn get(&self, key: &Key, range: Option<Range<u64>>) -> Result<Option<Object>> {
        let path = self.path(key);
        let opened = self.sure(|| match File::open(&path) {
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
        let found = self.sure(|| look_at(CWD, &path).doing(|| format!("look at {}", path.display())))?;
        Ok(found.map(|(size, modified)| ListedObject { key: key.clone(), size, modified }))
    }

    fn list(&self, folder: &Key, after: Option<&Key>, limit: usize) -> Result<Page> {
        let after = after.map_or("", Key::as_str);
        let path = self.path(folder);
        let listed = self.sure(|| {
            let mut page = Page::default();
            if let Some(opened) = open_folder(CWD, &path).doing(|| format!("list {}", path.display()))? {
                Directory::walk(&opened, &path, folder.as_str(), after, limit.min(PAGE), &mut page)?;
            }
            Ok(Some(page).filter(|page| !page.entries.is_empty()))
        });
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
                // What is gone already may have been removed by somebody who was killed before the sync.
                _ => drop(path.parent().map(|folder| folders.insert(folder.to_owned()))),
            }
        }
        for folder in folders {
            match durable::sync_dir(&folder) {
                Ok(()) => self.remove_empty(&folder),
                // Somebody else removed the folder, which was empty then.
                Err(error) if error.kind() == Kind::Absent => {}
                Err(error) => result = result.and(Err(error)),
            }
        }
        // What is gone already may be where it was, and not to be seen.
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
            let old = entry.metadata().is_ok_and(|meta| {
                let modified = meta.modified().ok().and_then(|time| jiff::Timestamp::try_from(time).ok());
                meta.is_file() && modified.is_some_and(|modified| modified < before)
            });
            // Its writer holds a lock on it for as long as it lives.
            let dead = || File::open(entry.path()).is_ok_and(|file| file.try_lock_exclusive().is_ok());
            if old && dead() {
                durable::remove_file(&entry.path())?;
                removed += 1;
            }
        }
        Ok(removed)
    }

    fn url(&self) -> String {
        format!("file://{}", self.root.display())
    }

    /// Makes the directory itself, with the ones above it. Anything but `init` would fill the disk below an
    /// unmounted repository.
    fn prepare(&self) -> Result<()> {
        durable::create_dirs(Path::new("/"), &self.root, DIR_MODE)
    }
}

/// A file in `.tmp`, locked while it is written, removed unless it was given a name.
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
        // A file system without locks leaves it to the age alone.
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
            // It is unnamed garbage either way; `clean` comes back for it.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}
