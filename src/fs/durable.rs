//! The only renames and syncs of the program. Once a function has returned Ok, what it wrote
//! survives a loss of power, and no existing file is replaced unless the name of the function says
//! so.

#![allow(clippy::disallowed_methods, reason = "the only file that renames and syncs")]

use crate::error::{Doing, Error, Result};
use rustix::fs::{self, AtFlags, CWD, RenameFlags};
use rustix::io::Errno;
use std::fs::File;
use std::path::{Path, PathBuf};

/// Result of [`publish`].
#[must_use]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Published {
    /// The file has its name.
    Now,
    /// Another file had the name.
    NameIsTaken,
}

/// Syncs the content of a file. Never retried after a failure: the kernel may have dropped the
/// pages, and a second call would return Ok.
///
/// # Errors
///
/// Those of the operating system; the content must then be considered lost.
pub fn sync_file(file: &File, path: &Path) -> Result<()> {
    file.sync_all().doing(|| format!("sync {}", path.display()))
}

/// Syncs a directory, that is, the names in it. Some network file systems do not support that
/// (EINVAL, ENOTSUP) and have no alternative, so these two errors are ignored.
///
/// # Errors
///
/// Others of the operating system.
pub fn sync_dir(path: &Path) -> Result<()> {
    let doing = || format!("sync directory {}", path.display());
    let directory = File::open(path).doing(doing)?;
    match fs::fsync(&directory) {
        Err(Errno::INVAL | Errno::OPNOTSUPP) => Ok(()),
        result => result.map_err(std::io::Error::from).doing(doing),
    }
}

/// Renames a synced temporary file to `name`, unless `name` exists, and syncs the directory. After
/// [`Published::NameIsTaken`] the temporary file still exists.
///
/// # Errors
///
/// Those of the operating system, and one for a file system that can neither rename without
/// replacing nor link.
pub fn publish(temporary: &Path, name: &Path) -> Result<Published> {
    let doing = || format!("create {}", name.display());
    let renamed = match fs::renameat_with(CWD, temporary, CWD, name, RenameFlags::NOREPLACE) {
        // The file system does not support the flag. A hard link is exclusive too.
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
            fs::linkat(CWD, temporary, CWD, name, AtFlags::empty()).map(|()| {
                // After a failure, the file only has a second name, among the temporary files.
                let _ = std::fs::remove_file(temporary);
            })
        }
        result => result,
    };
    match renamed {
        Ok(()) => {
            sync_parent(name)?;
            Ok(Published::Now)
        }
        Err(Errno::EXIST) => Ok(Published::NameIsTaken),
        Err(errno @ (Errno::PERM | Errno::MLINK | Errno::OPNOTSUPP | Errno::NOSYS)) => {
            Err(Error::io(doing(), &errno.into())
                .hint("this file system can neither rename without replacing nor make hard links, so it cannot hold a repository"))
        }
        Err(errno) => Err(Error::io(doing(), &errno.into())),
    }
}

/// Renames a temporary file to `name`, and replaces the file of that name. Syncs nothing: for a
/// file that is requested again after a crash, or that the caller syncs.
///
/// # Errors
///
/// Those of the operating system.
pub fn replace_volatile(temporary: &Path, name: &Path) -> Result<()> {
    std::fs::rename(temporary, name).doing(|| format!("rename to {}", name.display()))
}

/// Writes a file durably, and replaces the file of that name atomically. `mode` is the mode of the
/// new file.
///
/// # Errors
///
/// Those of the operating system. The old file then stays, unless the sync of the directory failed.
pub fn write_replacing(name: &Path, content: &[u8], mode: u32) -> Result<()> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let mut temporary = name.as_os_str().to_owned();
    temporary.push(".walkeep-tmp");
    let temporary = Path::new(&temporary);
    let mut file = File::options()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(mode)
        .open(temporary)
        .doing(|| format!("create {}", temporary.display()))?;
    file.write_all(content).doing(|| format!("write {}", temporary.display()))?;
    sync_file(&file, temporary)?;
    replace_volatile(temporary, name)?;
    sync_parent(name)
}

/// Creates a directory and its parents below `root` unless they exist, and makes their names
/// durable. `root` itself must exist. An empty directory is treated as new: it may have been
/// created by a process that was killed before its name was durable.
///
/// # Errors
///
/// Those of the operating system, and `Defect` for a directory that is not below `root`.
pub fn create_dirs(root: &Path, directory: &Path, mode: u32) -> Result<()> {
    if directory == root {
        return Ok(());
    }
    match std::fs::read_dir(directory).map(|mut entries| entries.next().is_some()) {
        Ok(true) => return Ok(()),
        Ok(false) => {}
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
        Err(e) => return Err(Error::io(format!("open directory {}", directory.display()), &e)),
    }
    let parent = directory
        .parent()
        .filter(|parent| parent.starts_with(root))
        .ok_or_else(|| Error::defect(format!("{} is not below {}", directory.display(), root.display())))?;
    create_dirs(root, parent, mode)?;
    create_dir(directory, mode)?;
    sync_dir(parent)
}

/// Creates a directory unless it exists.
///
/// # Errors
///
/// Those of the operating system.
pub fn create_dir(directory: &Path, mode: u32) -> Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    match std::fs::DirBuilder::new().mode(mode).create(directory) {
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        result => result.doing(|| format!("create directory {}", directory.display())),
    }
}

/// Removes a file durably; a file that does not exist is not an error.
///
/// # Errors
///
/// Those of the operating system.
pub fn remove_file(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Ok(()) => sync_parent(path),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(Error::io(format!("remove {}", path.display()), &e)),
    }
}

/// Open file system. [`FileSystem::sync`] reports all writes that failed since it was opened;
/// earlier failures that were reported to another process are not reported again (`errseq_t` of the
/// kernel).
pub struct FileSystem {
    path: PathBuf,
    directory: File,
}

impl FileSystem {
    /// Opens the file system of this directory.
    ///
    /// # Errors
    ///
    /// Those of the operating system.
    pub fn of(path: &Path) -> Result<FileSystem> {
        let directory = File::open(path).doing(|| format!("open {}", path.display()))?;
        Ok(FileSystem { path: path.to_owned(), directory })
    }

    /// Syncs everything that was written to the file system.
    ///
    /// # Errors
    ///
    /// Those of the operating system.
    pub fn sync(&self) -> Result<()> {
        let synced = fs::syncfs(&self.directory).map_err(std::io::Error::from);
        synced.doing(|| format!("sync the file system of {}", self.path.display()))
    }
}

/// Syncs the parent directory of `path`.
///
/// # Errors
///
/// Those of [`sync_dir`].
pub fn sync_parent(path: &Path) -> Result<()> {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => sync_dir(parent),
        _ => sync_dir(Path::new(".")),
    }
}
