//! The only renames and syncs of the program: what is written here survives a power cut once the
//! function has returned Ok, and nothing that was there is ever replaced unless the name says so.

#![allow(clippy::disallowed_methods, reason = "the only file that renames and syncs")]

use crate::error::{Doing, Error, Kind, Result};
use rustix::fs::{self, AtFlags, CWD, RenameFlags};
use rustix::io::Errno;
use std::fs::File;
use std::path::{Path, PathBuf};

/// Whether a name was free.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Published {
    Now,
    NameIsTaken,
}

/// Syncs the bytes of a file. Never tried again after a failure: the kernel may have dropped the
/// pages, and a second call would answer Ok.
pub fn sync_file(file: &File, path: &Path) -> Result<()> {
    file.sync_all().doing(|| format!("sync {}", path.display()))
}

/// Syncs a directory: the names in it. Some network file systems cannot do this and say so (EINVAL,
/// ENOTSUP); they have no other way, so that alone is no failure.
pub fn sync_dir(path: &Path) -> Result<()> {
    let doing = || format!("sync directory {}", path.display());
    let directory = File::open(path).doing(doing)?;
    match fs::fsync(&directory) {
        Err(Errno::INVAL | Errno::OPNOTSUPP) => Ok(()),
        result => result.map_err(std::io::Error::from).doing(doing),
    }
}

/// Gives a synced temporary file its name, unless the name is taken, and syncs the directory. On
/// [`Published::NameIsTaken`] the temporary file is still there.
pub fn publish(temporary: &Path, name: &Path) -> Result<Published> {
    let doing = || format!("create {}", name.display());
    let renamed = match fs::renameat_with(CWD, temporary, CWD, name, RenameFlags::NOREPLACE) {
        // The file system does not know the flag. A hard link is as exclusive.
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
            fs::linkat(CWD, temporary, CWD, name, AtFlags::empty()).map(|()| {
                // A second name that stays costs a file in the folder of temporary files, nothing more.
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

/// Gives a temporary file a name, whatever had it before, and syncs neither: for a file that is asked
/// for again after a crash.
pub fn replace_volatile(temporary: &Path, name: &Path) -> Result<()> {
    std::fs::rename(temporary, name).doing(|| format!("rename to {}", name.display()))
}

/// Writes a file that replaces what had its name, in one step, durable.
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

/// Makes sure that a directory and the ones above it exist, from `root` down, and that their names are
/// durable. `root` itself has to be there. A directory that is empty may be one whose maker was killed
/// before it was durable, so it counts as new.
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
    let parent = directory.parent().filter(|parent| parent.starts_with(root)).ok_or_else(|| {
        Error::new(Kind::Failed, format!("{} is not below {}", directory.display(), root.display()))
    })?;
    create_dirs(root, parent, mode)?;
    create_dir(directory, mode)?;
    sync_dir(parent)
}

/// Makes a directory unless it is there.
pub fn create_dir(directory: &Path, mode: u32) -> Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    match std::fs::DirBuilder::new().mode(mode).create(directory) {
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        result => result.doing(|| format!("create directory {}", directory.display())),
    }
}

/// Removes a file and makes that durable; one that is not there is removed already.
pub fn remove_file(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Ok(()) => sync_parent(path),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(Error::io(format!("remove {}", path.display()), &e)),
    }
}

/// A file system whose failures to write are all told by [`FileSystem::sync`], from the moment on that it was opened. What
/// was told to anybody else is not told to one who opens it later (`errseq_t` of the kernel).
pub struct FileSystem {
    path: PathBuf,
    directory: File,
}

impl FileSystem {
    /// The one in which this directory lies.
    pub fn of(path: &Path) -> Result<FileSystem> {
        let directory = File::open(path).doing(|| format!("open {}", path.display()))?;
        Ok(FileSystem { path: path.to_owned(), directory })
    }

    /// Syncs everything that was written to it.
    pub fn sync(&self) -> Result<()> {
        let synced = fs::syncfs(&self.directory).map_err(std::io::Error::from);
        synced.doing(|| format!("sync the file system of {}", self.path.display()))
    }
}

/// Syncs the directory in which `path` has its name.
pub fn sync_parent(path: &Path) -> Result<()> {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => sync_dir(parent),
        _ => sync_dir(Path::new(".")),
    }
}
