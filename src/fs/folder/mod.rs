//! Folders in which other users may have put files: repositories, spools, data directories.
//! Everything in them is reached by the descriptor of a folder and never through a symbolic link, so
//! that a link, a FIFO or a device leads nowhere and blocks nothing, also when it takes the place of
//! a file while the program looks at it. Does not know what the files mean.

mod fifo;
mod follow;
mod list;
mod make;
mod owner;
mod reach;
mod remove;

pub use follow::Followed;
pub use make::{
    Rights, UNFINISHED, is_leftover, is_random_name, make_path, parent_of, publish, random_name, replace,
    replace_volatile, set_rights,
};

use super::durable;
use super::limited::read_limited;
use crate::error::{Doing, Error, Kind, Result};
use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, ResolveFlags, Stat, fstat, openat, openat2, readlinkat, statat,
};
use rustix::io::Errno;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Component, Path, PathBuf};

/// Open folder.
#[derive(Debug)]
pub struct Folder {
    fd: OwnedFd,
    /// Path for messages.
    path: PathBuf,
}

/// Type of the entry that a state describes.
pub fn kind(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

/// Size of a file in bytes.
///
/// # Errors
///
/// `Failed` for a number that is not a size.
pub fn size(stat: &Stat) -> Result<u64> {
    u64::try_from(stat.st_size)
        .map_err(|_| Error::new(Kind::Failed, format!("{} is not a valid size of a file", stat.st_size)))
}

/// Type of an entry, with its article.
pub fn describe(kind: FileType) -> &'static str {
    match kind {
        FileType::RegularFile => "a file",
        FileType::Directory => "a directory",
        FileType::Symlink => "a symbolic link",
        FileType::Fifo => "a FIFO",
        FileType::Socket => "a socket",
        FileType::CharacterDevice | FileType::BlockDevice => "a device",
        FileType::Unknown => "of an unknown type",
    }
}

/// The error for an entry that is not what it has to be.
fn is_foreign(path: &Path, kind: FileType) -> Error {
    Error::new(Kind::Damage, format!("{} is {}", path.display(), describe(kind)))
        .hint("only files and directories belong there: find out what put it there, and move it away")
}

impl Folder {
    /// Opens a directory that the configuration names; links in its path are followed. `None` when
    /// it does not exist.
    ///
    /// # Errors
    ///
    /// Those of the operating system.
    pub fn root(path: &Path) -> Result<Option<Folder>> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        match rustix::fs::open(path, flags, Mode::empty()) {
            Err(Errno::NOENT) => Ok(None),
            fd => {
                let fd = fd.doing(|| format!("open directory {}", path.display()))?;
                Ok(Some(Folder { fd, path: path.to_owned() }))
            }
        }
    }

    /// Path, for messages.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Opens the folder at a relative path, or this one again for an empty path; `None` when it does
    /// not exist.
    ///
    /// # Errors
    ///
    /// `Damage` for a link, also on the way, and for anything else that is not a folder.
    pub fn folder(&self, below: &Path) -> Result<Option<Folder>> {
        if below.as_os_str().is_empty() {
            return self.again().map(Some);
        }
        let path = self.path.join(below);
        let fd = self.open(below, OFlags::RDONLY | OFlags::DIRECTORY)?;
        Ok(fd.map(|fd| Folder { fd, path }))
    }

    /// Opens the file at a relative path for reading; `None` when it does not exist.
    ///
    /// # Errors
    ///
    /// `Damage` for a link, also on the way, and for anything else that is not a file.
    pub fn file(&self, below: &Path) -> Result<Option<File>> {
        Ok(self.file_with_stat(below)?.map(|(file, _)| file))
    }

    /// Opens a file like [`Folder::file`], and returns its state too.
    ///
    /// # Errors
    ///
    /// Those of [`Folder::file`].
    pub fn file_with_stat(&self, below: &Path) -> Result<Option<(File, Stat)>> {
        self.open_file(below, OFlags::RDONLY)
    }

    /// Opens the file at a relative path for reading and writing; `None` when it does not exist.
    ///
    /// # Errors
    ///
    /// Those of [`Folder::file`].
    pub fn file_rw(&self, below: &Path) -> Result<Option<File>> {
        Ok(self.open_file(below, OFlags::RDWR)?.map(|(file, _)| file))
    }

    fn open_file(&self, below: &Path, access: OFlags) -> Result<Option<(File, Stat)>> {
        let Some(fd) = self.open(below, access)? else {
            return Ok(None);
        };
        let stat = fstat(&fd).doing(|| format!("look at {}", self.path.join(below).display()))?;
        match kind(&stat) {
            FileType::RegularFile => Ok(Some((File::from(fd), stat))),
            other => Err(is_foreign(&self.path.join(below), other)),
        }
    }

    /// Reads the file at a relative path; `None` when it does not exist.
    ///
    /// # Errors
    ///
    /// Those of [`Folder::file`]; `Damage` for a file of more than `limit` bytes.
    pub fn read(&self, below: &Path, limit: u64) -> Result<Option<Vec<u8>>> {
        let file = self.file(below)?;
        file.map(|file| read_limited(&file, &self.path.join(below), limit)).transpose()
    }

    /// Returns the state of a file at a relative path; `None` when it does not exist.
    ///
    /// # Errors
    ///
    /// Those of [`Folder::file`].
    pub fn stat(&self, below: &Path) -> Result<Option<Stat>> {
        match self.entry(below)? {
            Some(stat) if kind(&stat) != FileType::RegularFile => {
                Err(is_foreign(&self.path.join(below), kind(&stat)))
            }
            found => Ok(found),
        }
    }

    /// Returns the state of an entry of any type at a relative path; `None` when it does not exist.
    ///
    /// # Errors
    ///
    /// `Damage` for a link on the way, and for anything else there that is not a folder.
    pub fn entry(&self, below: &Path) -> Result<Option<Stat>> {
        let doing = || format!("look at {}", self.path.join(below).display());
        if let Some(name) = single(below) {
            return match statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW) {
                Err(Errno::NOENT) => Ok(None),
                stat => stat.doing(doing).map(Some),
            };
        }
        let fd = self.open(below, OFlags::PATH)?;
        fd.map(|fd| fstat(&fd).doing(doing)).transpose()
    }

    /// Returns the state of the folder itself.
    ///
    /// # Errors
    ///
    /// Those of the operating system.
    pub fn own_stat(&self) -> Result<Stat> {
        fstat(&self.fd).doing(|| format!("look at {}", self.path.display()))
    }

    /// Returns the target of the link at a relative path; `None` when no link is there.
    ///
    /// # Errors
    ///
    /// Those of [`Folder::entry`].
    pub fn link_target(&self, below: &Path) -> Result<Option<PathBuf>> {
        let Some(fd) = self.open(below, OFlags::PATH)? else {
            return Ok(None);
        };
        match readlinkat(&fd, "", Vec::new()) {
            Err(Errno::INVAL | Errno::NOENT) => Ok(None),
            target => {
                let target = target.doing(|| format!("read the link {}", self.path.join(below).display()))?;
                Ok(Some(PathBuf::from(OsString::from_vec(target.into_bytes()))))
            }
        }
    }

    /// Opens whatever is at a relative path, without following a link and without waiting.
    fn open(&self, below: &Path, flags: OFlags) -> Result<Option<OwnedFd>> {
        // `openat2` accepts no other flags together with `O_PATH`, which waits for nothing.
        let waits = !flags.contains(OFlags::PATH);
        let without = if waits { OFlags::NONBLOCK | OFlags::NOCTTY } else { OFlags::empty() };
        let flags = flags | without | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        let opened = match single(below) {
            Some(name) => openat(&self.fd, name, flags, Mode::empty()),
            None => match openat2(&self.fd, below, flags, Mode::empty(), resolve) {
                // Before Linux 5.6; filters of containers refuse calls that they do not know.
                Err(Errno::NOSYS | Errno::PERM) => self.open_in_steps(below, flags),
                opened => opened,
            },
        };
        match opened {
            Ok(fd) => Ok(Some(fd)),
            Err(Errno::NOENT) => Ok(None),
            // ENXIO for a socket.
            Err(errno @ (Errno::LOOP | Errno::NOTDIR | Errno::NXIO)) => {
                let doing = || format!("open {}", self.path.join(below).display());
                Err(self.foreign_on(below).unwrap_or_else(|| Error::io(doing(), &errno.into())))
            }
            Err(errno) => Err(Error::io(format!("open {}", self.path.join(below).display()), &errno.into())),
        }
    }

    fn open_in_steps(&self, below: &Path, flags: OFlags) -> rustix::io::Result<OwnedFd> {
        let step = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut parts = below.components().peekable();
        let mut inner: Option<OwnedFd> = None;
        while let Some(part) = parts.next() {
            let Component::Normal(name) = part else {
                return Err(Errno::XDEV);
            };
            let place = inner.as_ref().map_or(self.fd.as_fd(), AsFd::as_fd);
            let is_last = parts.peek().is_none();
            inner = Some(openat(place, name, if is_last { flags } else { step }, Mode::empty())?);
        }
        inner.ok_or(Errno::INVAL)
    }

    /// Finds the first entry on the way that is neither a folder nor, at the end, a file.
    fn foreign_on(&self, below: &Path) -> Option<Error> {
        let mut way = PathBuf::new();
        for part in below.components() {
            way.push(part);
            let stat = statat(&self.fd, &way, AtFlags::SYMLINK_NOFOLLOW).ok()?;
            if kind(&stat) != FileType::Directory {
                return Some(is_foreign(&self.path.join(way), kind(&stat)));
            }
        }
        None
    }

    /// Opens the folder again.
    ///
    /// # Errors
    ///
    /// Those of the operating system.
    pub fn again(&self) -> Result<Folder> {
        let fd = self.fd.try_clone().doing(|| format!("open directory {}", self.path.display()))?;
        Ok(Folder { fd, path: self.path.clone() })
    }

    /// Calls `act` with the folder of the last name of a relative path, and with that name.
    ///
    /// # Errors
    ///
    /// Those of [`Folder::folder`] and of `act`; `Absent` when the folder does not exist.
    pub fn at<T>(&self, below: &Path, act: impl FnOnce(&Folder, &OsStr) -> Result<T>) -> Result<T> {
        if let Some(name) = single(below) {
            return act(self, name);
        }
        let (Some(parent), Some(name)) = (below.parent(), below.file_name()) else {
            return Err(Error::defect(format!("{} is not a path below a folder", below.display())));
        };
        match self.folder(parent)? {
            Some(folder) => act(&folder, name),
            None => {
                let path = self.path.join(parent);
                Err(Error::new(Kind::Absent, format!("directory {} does not exist", path.display())))
            }
        }
    }

    /// Opens the folder above this one.
    ///
    /// # Errors
    ///
    /// Those of the operating system.
    pub fn parent(&self) -> Result<Folder> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = openat(&self.fd, "..", flags, Mode::empty());
        let fd = fd.doing(|| format!("open the directory above {}", self.path.display()))?;
        Ok(Folder { fd, path: self.path.parent().unwrap_or(&self.path).to_owned() })
    }

    /// Syncs the names in the folder.
    ///
    /// # Errors
    ///
    /// Those of [`durable::sync_open_dir`].
    pub fn sync(&self) -> Result<()> {
        durable::sync_open_dir(self.fd.as_fd(), &self.path)
    }
}

impl AsFd for Folder {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Path in `/proc` by which this process opens an open file again.
pub(super) fn descriptor(file: impl AsFd) -> String {
    format!("/proc/self/fd/{}", file.as_fd().as_raw_fd())
}

/// Returns the absolute path of an open file or folder, without links.
pub(super) fn real_path(file: impl AsFd) -> rustix::io::Result<PathBuf> {
    let real = rustix::fs::readlink(descriptor(file), Vec::new())?;
    Ok(PathBuf::from(OsString::from_vec(real.into_bytes())))
}

/// The name, if a relative path consists of one.
fn single(below: &Path) -> Option<&OsStr> {
    let mut parts = below.components();
    match (parts.next(), parts.next()) {
        (Some(Component::Normal(name)), None) => Some(name),
        _ => None,
    }
}
