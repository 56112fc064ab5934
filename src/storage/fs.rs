//! A directory as a store. An object is written to `.tmp` and synced, then renamed to its name,
//! exclusively, and the directory is synced. So no reader finds part of an object at any moment,
//! not after a crash and not on another host (over a network file system). Whatever is neither a
//! file nor a folder is an error, and never followed or opened. Does not know what the objects
//! contain.

use super::{
    Body, ForeignEntry, Key, ListedObject, Mode, Object, OpenBody, PAGE, Page, Put, Storage, is_part,
};
use crate::error::{Doing, Error, Kind, Result};
use crate::fs::durable::{self, Published};
use crate::fs::folder::{Folder, Rights, describe, is_random_name, make_path, publish, random_name, replace};
use crate::fs::trail::user_name;
use crate::fs::{direct, folder, named};
use fs2::FileExt;
use rustix::fs::{FileType, Stat};
use std::collections::BTreeMap;
use std::error::Error as _;
use std::fs::File;
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// Folder in which objects are written before they are renamed.
const TEMPORARY: &str = ".tmp";
/// Mode of the root when `init` creates it.
const ROOT_MODE: u32 = 0o750;

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
    /// User and group of the directories that [`Storage::prepare`] creates; `None` for those of the
    /// process.
    new_owner: Option<(u32, u32)>,
}

impl Directory {
    /// Creates the store of this directory. Accesses nothing: the first operation fails if the
    /// directory does not exist.
    pub fn new(root: impl Into<PathBuf>) -> Directory {
        Directory { root: root.into(), device: OnceLock::new(), new_owner: None }
    }

    /// Gives the directories that [`Storage::prepare`] creates to a user and a group.
    #[must_use]
    pub fn with_new_owner(self, owner: Option<(u32, u32)>) -> Directory {
        Directory { new_owner: owner, ..self }
    }

    /// Names the owner of the directory in the error of an access that is not permitted.
    fn explain(&self, error: Error) -> Error {
        let source = error.source().and_then(|source| source.downcast_ref::<std::io::Error>());
        if source.is_none_or(|source| source.kind() != ErrorKind::PermissionDenied) {
            return error;
        }
        let Ok(Some(stat)) = named::stat(&self.root) else {
            return error;
        };
        let own = rustix::process::geteuid().as_raw();
        let (root, owner, user) = (self.root.display(), user_name(stat.st_uid), user_name(own));
        let give = format!("`sudo chown -R {user}: {root}`");
        error.hint(match stat.st_uid {
            owner if owner == own => {
                format!("the path belongs to another user, or has the wrong mode: {give} gives everything there to the owner of the repository")
            }
            0 => format!("{root} belongs to root: {give}, if {user} is the user of the server"),
            _ => format!("{root} belongs to {owner}: `sudo -u {owner} walkeep …`"),
        })
    }

    /// Returns the device of the root; `None` when the root does not exist.
    fn device_of_root(&self) -> Result<Option<u64>> {
        Ok(named::stat(&self.root)?.map(|stat| stat.st_dev))
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
        let found = look().map_err(|error| self.explain(error))?;
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
            Some(named::real(path).ok()??.join(rest))
        });
        existing.is_some_and(|path| path.starts_with(place))
    }

    /// Opens the root; `None` when it does not exist.
    fn root(&self) -> Result<Option<Folder>> {
        Folder::root(&self.root).map_err(|error| self.explain(error))
    }

    /// Opens the root to write below it.
    fn root_for_writing(&self) -> Result<Folder> {
        self.root()?.ok_or_else(|| {
            Error::new(Kind::Absent, format!("directory {} does not exist", self.root.display()))
        })
    }

    /// Makes an existing object durable: another writer may have renamed it and not yet synced it.
    fn sync_object(&self, root: &Folder, key: &Key) -> Result<()> {
        let path = self.root.join(key.as_str());
        let removed = || Error::new(Kind::Unavailable, format!("{} was removed meanwhile", path.display()));
        let file = root.file(Path::new(key.as_str()))?.ok_or_else(removed)?;
        durable::sync_file(&file, &path)?;
        root.folder(folder_of(key)?)?.ok_or_else(removed)?.sync()
    }

    /// Writes a body to a new temporary file and syncs it.
    fn write_temporary(&self, root: &Folder, rights: &Rights, body: &dyn Body) -> Result<Temporary> {
        let create = |folder| Temporary::create(folder, rights);
        let temporary = match root.folder(Path::new(TEMPORARY))?.map(create) {
            Some(Ok(temporary)) => temporary,
            Some(Err(error)) if error.kind() != Kind::Absent => return Err(error),
            _ => {
                self.check_mounted()?;
                create(root.make(Path::new(TEMPORARY), rights)?)?
            }
        };
        let mut file = &temporary.file;
        let path = temporary.path();
        let doing = || format!("write {}", path.display());
        match body.open()? {
            // An object of that size is not read again soon, so the page cache is bypassed.
            OpenBody::Whole(bytes) if bytes.len() >= MIN_DIRECT_SIZE => {
                let file = file.try_clone().doing(doing)?;
                direct::DirectTarget::new(&path, file, false).write(bytes, 0)?;
            }
            bytes => bytes.for_each(|chunk| file.write_all(chunk).doing(doing))?,
        }
        durable::sync_file(&temporary.file, &path)?;
        Ok(temporary)
    }

    /// Renames a synced temporary file to the path of its object, durably.
    fn give_name(
        &self,
        root: &Folder,
        rights: &Rights,
        temporary: &Temporary,
        key: &Key,
        mode: Mode,
    ) -> Result<Published> {
        self.check_mounted()?;
        let folder = root.make(folder_of(key)?, rights)?;
        let (from, to) = ((&temporary.folder, temporary.name.as_str()), (&folder, key.name()));
        match mode {
            Mode::Create => publish(from, to),
            Mode::Replace => replace(from, to).map(|()| Published::Now),
        }
    }

    /// Removes a folder if it is empty, then each parent that is empty. Nothing is synced: an empty
    /// folder that a crash brings back does no harm.
    fn remove_empty(root: &Folder, folder: &Path) {
        for folder in folder.ancestors() {
            let (Some(name), Some(parent)) = (folder.file_name(), folder.parent()) else {
                return;
            };
            let is_removed = match root.folder(parent) {
                Ok(Some(parent)) => parent.remove_empty(name),
                _ => false,
            };
            if !is_removed {
                return;
            }
        }
    }

    /// Removes the files of these names in a folder, durably.
    fn delete_in(folder: &Folder, names: &[&str]) -> Result<()> {
        let removed = names.iter().try_for_each(|name| folder.remove(name).map(drop));
        // A missing object may have been removed by a process that was killed before the sync, so
        // the folder is synced in any case.
        removed.and(folder.sync())
    }

    /// Adds the objects below `folder` to `page`.
    fn walk(folder: &Folder, key: &str, after: &str, limit: usize, page: &mut Page) -> Result<()> {
        for (name, is_dir) in names(folder)? {
            let full = format!("{key}/{name}");
            let passed =
                if is_dir { full.as_str() < after && !after.starts_with(&full) } else { *full <= *after };
            if passed {
                continue;
            }
            if is_dir {
                // `None` when the folder was removed meanwhile because it became empty.
                if let Some(inner) = folder.folder(Path::new(name.trim_end_matches('/')))? {
                    Directory::walk(&inner, full.trim_end_matches('/'), after, limit, page)?;
                }
            } else if page.entries.len() == limit {
                page.more = true;
            } else if let Some(stat) = folder.stat(Path::new(&name))? {
                let (size, modified) = size_and_time(&stat, &folder.path().join(&name))?;
                page.entries.push(ListedObject { key: Key(full), size, modified });
            }
            if page.more {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Adds everything below `folder` that is not a file to `found`.
    fn find_foreign(folder: &Folder, key: &str, found: &mut Vec<ForeignEntry>) -> Result<()> {
        for (name, kind) in folder.entries()?.into_iter().filter(|(_, kind)| *kind != FileType::RegularFile) {
            let path = format!("{key}/{name}");
            if kind == FileType::Directory
                && let Some(inner) = folder.folder(Path::new(&name))?
            {
                Directory::find_foreign(&inner, &path, found)?;
            }
            found.push(ForeignEntry { path, what: describe(kind) });
        }
        Ok(())
    }
}

/// The folder of an object, relative to the root.
fn folder_of(key: &Key) -> Result<&Path> {
    Path::new(key.as_str()).parent().ok_or_else(|| Error::defect("the path of an object has no parent"))
}

/// Returns the names of files and folders in a folder, in the order of keys, each with whether it is
/// a folder; the name of a folder ends with a slash. Entries whose names cannot be part of a key are
/// not objects and are skipped.
///
/// # Errors
///
/// `Damage` for a link to a directory: the objects behind it would be missing.
fn names(folder: &Folder) -> Result<Vec<(String, bool)>> {
    let mut names = Vec::new();
    for (mut name, kind) in folder.entries()?.into_iter().filter(|(name, _)| is_part(name)) {
        match kind {
            FileType::Directory => name.push('/'),
            FileType::RegularFile => {}
            // Fails for a link to a directory, and in a race.
            FileType::Symlink if folder.leads_to_directory(&name) => drop(folder.folder(Path::new(&name))?),
            _ => continue,
        }
        let is_dir = name.ends_with('/');
        names.push((name, is_dir));
    }
    names.sort_unstable();
    Ok(names)
}

/// Size in bytes and time of modification.
fn size_and_time(stat: &Stat, path: &Path) -> Result<(u64, jiff::Timestamp)> {
    let wrong = |what: String| Error::new(Kind::Failed, what).doing(format!("look at {}", path.display()));
    let nanoseconds = i32::try_from(stat.st_mtime_nsec).ok();
    let modified = nanoseconds.and_then(|nanoseconds| jiff::Timestamp::new(stat.st_mtime, nanoseconds).ok());
    let modified =
        modified.ok_or_else(|| wrong(format!("{} s is not a valid time of modification", stat.st_mtime)))?;
    let size = folder::size(stat).doing(|| format!("look at {}", path.display()))?;
    Ok((size, modified))
}

impl Storage for Directory {
    fn put(&self, key: &Key, body: &dyn Body, mode: Mode) -> Result<Put> {
        let root = self.root_for_writing()?;
        if mode == Mode::Create && root.stat(Path::new(key.as_str()))?.is_some() {
            self.sync_object(&root, key)?;
            return Ok(Put::Exists);
        }
        let rights = root.rights()?;
        let temporary = self.write_temporary(&root, &rights, body).map_err(|e| self.explain(e))?;
        let mut attempt = 1;
        loop {
            match self.give_name(&root, &rights, &temporary, key, mode) {
                // Another process removed the folder, which was empty.
                Err(error) if error.kind() == Kind::Absent && attempt < MAX_NAMING_ATTEMPTS => attempt += 1,
                Ok(Published::Now) => {
                    temporary.keep();
                    return Ok(Put::Stored);
                }
                Ok(Published::NameIsTaken) => {
                    self.sync_object(&root, key)?;
                    return Ok(Put::Exists);
                }
                Err(error) => return Err(self.explain(error)),
            }
        }
    }

    fn get(&self, key: &Key, range: Option<Range<u64>>) -> Result<Option<Object>> {
        let below = Path::new(key.as_str());
        let opened = self.confirm_absent(|| match self.root()? {
            Some(root) => root.file(below),
            None => Ok(None),
        });
        let Some(mut file) = opened? else {
            return Ok(None);
        };
        match range {
            None => Ok(Some(Box::new(file))),
            Some(range) => {
                let doing = || format!("read {}", self.root.join(below).display());
                file.seek(SeekFrom::Start(range.start)).doing(doing)?;
                Ok(Some(Box::new(file.take(range.end.saturating_sub(range.start)))))
            }
        }
    }

    fn head(&self, key: &Key) -> Result<Option<ListedObject>> {
        let below = Path::new(key.as_str());
        let found = self.confirm_absent(|| match self.root()? {
            Some(root) => root.stat(below),
            None => Ok(None),
        });
        let Some(stat) = found? else {
            return Ok(None);
        };
        let (size, modified) = size_and_time(&stat, &self.root.join(below))?;
        Ok(Some(ListedObject { key: key.clone(), size, modified }))
    }

    fn list(&self, folder: &Key, after: Option<&Key>, limit: usize) -> Result<Page> {
        let after = after.map_or("", Key::as_str);
        let listed = self.confirm_absent(|| {
            let mut page = Page::default();
            if let Some(root) = self.root()?
                && let Some(opened) = root.folder(Path::new(folder.as_str()))?
            {
                Directory::walk(&opened, folder.as_str(), after, limit.min(PAGE), &mut page)?;
            }
            Ok(Some(page).filter(|page| !page.entries.is_empty()))
        });
        // A folder that does not exist has no objects.
        Ok(listed?.unwrap_or_default())
    }

    fn foreign(&self, folder: &Key) -> Result<Vec<ForeignEntry>> {
        let mut found = Vec::new();
        if let Some(root) = self.root()?
            && let Some(opened) = root.folder(Path::new(folder.as_str()))?
        {
            Directory::find_foreign(&opened, folder.as_str(), &mut found)?;
        }
        Ok(found)
    }

    fn delete(&self, keys: &[Key]) -> Result<()> {
        let mut folders: BTreeMap<&Path, Vec<&str>> = BTreeMap::new();
        for key in keys {
            folders.entry(folder_of(key)?).or_default().push(key.name());
        }
        let mut result = Ok(());
        if let Some(root) = self.root()? {
            for (path, names) in folders {
                // A folder that does not exist was removed when it became empty.
                let Some(folder) = root.folder(path)? else {
                    continue;
                };
                result = result.and(Directory::delete_in(&folder, &names));
                if result.is_err() {
                    break;
                }
                Directory::remove_empty(&root, path);
            }
        }
        // A missing object may exist on a file system that was unmounted.
        result.map_err(|error| self.explain(error)).and_then(|()| self.check_mounted())
    }

    fn clean(&self, before: jiff::Timestamp) -> Result<u64> {
        let Some(folder) = self.root()?.map(|root| root.folder(Path::new(TEMPORARY))).transpose()?.flatten()
        else {
            return Ok(0);
        };
        let mut removed = 0;
        for (name, _) in folder
            .entries()?
            .iter()
            .filter(|(name, kind)| is_random_name(name) && *kind == FileType::RegularFile)
        {
            let below = Path::new(name);
            let Some(stat) = folder.stat(below)? else {
                continue;
            };
            let (_, modified) = size_and_time(&stat, &folder.path().join(below))?;
            // A writer holds a lock on its file while it runs. A file that another user left before
            // it had its rights cannot be opened.
            let is_orphan = || match folder.file(below) {
                Ok(file) => file.is_some_and(|file| file.try_lock_exclusive().is_ok()),
                Err(error) => error.kind() == Kind::Denied,
            };
            if modified < before && is_orphan() && folder.remove(name)? {
                removed += 1;
            }
        }
        if removed > 0 {
            folder.sync()?;
        }
        Ok(removed)
    }

    fn url(&self) -> String {
        format!("file://{}", self.root.display())
    }

    /// Creates the directory and its parents. Any other caller than `init` would fill the disk
    /// below the mount point of an unmounted repository.
    fn prepare(&self) -> Result<()> {
        let rights = Rights::new(self.new_owner, ROOT_MODE, ROOT_MODE);
        make_path(&self.root, &rights).map(drop)
    }
}

/// A file in `.tmp`, locked while it is written, removed on drop unless it was renamed.
struct Temporary {
    folder: Folder,
    name: String,
    file: File,
    named: bool,
}

impl Temporary {
    fn create(folder: Folder, rights: &Rights) -> Result<Temporary> {
        let name = random_name()?;
        let file = folder.create(&name, rights)?;
        // On a file system without locks, `clean` decides by the age alone.
        let _ = file.try_lock_exclusive();
        Ok(Temporary { folder, name, file, named: false })
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join(&self.name)
    }

    fn keep(mut self) {
        self.named = true;
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.named {
            // If this fails, `clean` removes the file later.
            let _ = self.folder.remove(&self.name);
        }
    }
}
