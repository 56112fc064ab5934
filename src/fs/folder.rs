//! Folders in which other users may have put files: repositories and spools. Everything in them is
//! reached by the descriptor of a folder and never through a symbolic link, so that a link, a FIFO
//! or a device leads nowhere and blocks nothing, also when it takes the place of a file while the
//! program looks at it. Does not know what the files mean.

#![allow(clippy::disallowed_methods, reason = "this file and durable.rs rename and sync")]

use super::durable::{self, Published};
use crate::error::{Doing, Error, Kind, Result};
use rustix::fs::{
    AtFlags, Dir, FileType, Gid, Mode, OFlags, RenameFlags, ResolveFlags, Stat, Uid, fchmod, fchown, fstat,
    linkat, mkdirat, openat, openat2, renameat, renameat_with, statat, unlinkat,
};
use rustix::io::Errno;
use std::ffi::OsStr;
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

/// Permissions that a new file or folder may have, besides those of the owner.
const GROUP: u32 = 0o070;

/// Open folder.
pub struct Folder {
    fd: OwnedFd,
    /// Path for messages.
    path: PathBuf,
}

/// Owner and modes of new files, whatever the umask is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rights {
    /// User and group; `None` for those of the process.
    owner: Option<(u32, u32)>,
    file: u32,
    folder: u32,
}

impl Rights {
    /// Returns the rights of new files below a folder: its owner's, if the process may choose, and
    /// readable for its group if the folder is.
    fn below(root: &Stat) -> Rights {
        let owner = rustix::process::geteuid().is_root().then_some((root.st_uid, root.st_gid));
        if root.st_mode & GROUP == 0 {
            Rights { owner, file: 0o600, folder: 0o700 }
        } else {
            Rights { owner, file: 0o640, folder: 0o750 }
        }
    }

    /// Adds a hint to the error of a write that root was not permitted, as in a directory that is
    /// mounted over the network.
    pub fn explain(&self, error: Error) -> Error {
        match self.owner {
            Some((user, _)) if error.kind() == Kind::Denied => error
                .hint(format!("root may not write here: run it as the owner, `sudo -u '#{user}' walkeep …`")),
            _ => error,
        }
    }
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
        .hint("a repository or spool holds only files and directories: find out what put it there, and move it away")
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

    /// Returns the rights of new files below this folder, which is the root of all.
    ///
    /// # Errors
    ///
    /// Those of the operating system.
    pub fn rights(&self) -> Result<Rights> {
        let stat = fstat(&self.fd).doing(|| format!("look at {}", self.path.display()))?;
        Ok(Rights::below(&stat))
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
        let Some(fd) = self.open(below, OFlags::RDONLY)? else {
            return Ok(None);
        };
        let path = self.path.join(below);
        let stat = fstat(&fd).doing(|| format!("look at {}", path.display()))?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => Ok(Some(File::from(fd))),
            other => Err(is_foreign(&path, other)),
        }
    }

    /// Returns the state of a file at a relative path; `None` when it does not exist.
    ///
    /// # Errors
    ///
    /// As those of [`Folder::file`].
    pub fn stat(&self, below: &Path) -> Result<Option<Stat>> {
        let Some(fd) = self.open(below, OFlags::PATH)? else {
            return Ok(None);
        };
        let path = self.path.join(below);
        let stat = fstat(&fd).doing(|| format!("look at {}", path.display()))?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => Ok(Some(stat)),
            other => Err(is_foreign(&path, other)),
        }
    }

    /// Opens whatever is at a relative path, without following a link and without waiting.
    fn open(&self, below: &Path, flags: OFlags) -> Result<Option<OwnedFd>> {
        // `openat2` accepts no other flags together with `O_PATH`, which waits for nothing.
        let waits = !flags.contains(OFlags::PATH);
        let without = if waits { OFlags::NONBLOCK | OFlags::NOCTTY } else { OFlags::empty() };
        let flags = flags | without | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        let opened = match openat2(&self.fd, below, flags, Mode::empty(), resolve) {
            // Before Linux 5.6; filters of containers refuse calls that they do not know.
            Err(Errno::NOSYS | Errno::PERM) => self.open_in_steps(below, flags),
            opened => opened,
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
            let kind = FileType::from_raw_mode(stat.st_mode);
            if kind != FileType::Directory {
                return Some(is_foreign(&self.path.join(way), kind));
            }
        }
        None
    }

    /// Creates the folders of a relative path that do not exist, durably, and opens the last one. An
    /// empty folder is treated as new: it may have been created by a process that was killed before
    /// its name was durable.
    ///
    /// # Errors
    ///
    /// Those of the operating system, and those of [`Folder::folder`]. `Absent` when another process
    /// removes a folder meanwhile.
    pub fn make(&self, below: &Path, rights: &Rights) -> Result<Folder> {
        let mut inner = self.again()?;
        for part in below.components() {
            inner = inner.make_one(part.as_os_str(), rights)?;
        }
        Ok(inner)
    }

    fn make_one(&self, name: &OsStr, rights: &Rights) -> Result<Folder> {
        let below = Path::new(name);
        if let Some(folder) = self.folder(below)?
            && !folder.is_empty()?
        {
            return Ok(folder);
        }
        self.make_new(name, rights)?;
        let folder = self.folder(below)?.ok_or_else(|| {
            let path = self.path.join(below);
            Error::new(Kind::Absent, format!("another process removed directory {}", path.display()))
        })?;
        self.sync()?;
        Ok(folder)
    }

    /// Creates a folder unless it exists. It has its rights before it has its name: a process that is
    /// killed in between leaves an empty folder under a name that nothing uses, and none that another
    /// user cannot write to.
    fn make_new(&self, name: &OsStr, rights: &Rights) -> Result<()> {
        let new = format!(".new-{}", random_name()?);
        let doing = || format!("create directory {}", self.path.join(name).display());
        mkdirat(&self.fd, &new, Mode::RWXU).doing(doing)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let named = openat(&self.fd, &new, flags, Mode::empty())
            .and_then(|folder| set_rights(folder.as_fd(), rights.folder, rights))
            .and_then(|()| match renameat_with(&self.fd, &new, &self.fd, name, RenameFlags::NOREPLACE) {
                // Without the flag an existing folder is replaced if it is empty.
                Err(Errno::INVAL | Errno::NOSYS) => renameat(&self.fd, &new, &self.fd, name),
                renamed => renamed,
            });
        if named.is_err() {
            let _ = unlinkat(&self.fd, &new, AtFlags::REMOVEDIR);
        }
        match named {
            Err(Errno::EXIST | Errno::NOTEMPTY) => Ok(()),
            named => named.doing(doing),
        }
    }

    fn is_empty(&self) -> Result<bool> {
        let doing = || format!("list {}", self.path.display());
        for entry in Dir::read_from(&self.fd).doing(doing)? {
            let entry = entry.doing(doing)?;
            if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn again(&self) -> Result<Folder> {
        let fd = self.fd.try_clone().doing(|| format!("open directory {}", self.path.display()))?;
        Ok(Folder { fd, path: self.path.clone() })
    }

    /// Creates a file that does not exist, for reading and writing.
    ///
    /// # Errors
    ///
    /// Those of the operating system; `Absent` when the folder was removed.
    pub fn create(&self, name: &str, rights: &Rights) -> Result<File> {
        let doing = || format!("create {}", self.path.join(name).display());
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = openat(&self.fd, name, flags, Mode::RUSR | Mode::WUSR).doing(doing)?;
        if let Err(errno) = set_rights(fd.as_fd(), rights.file, rights) {
            // The file is empty; if this fails too, it is one of the leftovers.
            let _ = unlinkat(&self.fd, name, AtFlags::empty());
            return Err(errno).doing(doing);
        }
        Ok(File::from(fd))
    }

    /// Returns the names in the folder and their types, in order. Names that are not UTF-8 are left
    /// out.
    ///
    /// # Errors
    ///
    /// Those of the operating system.
    pub fn entries(&self) -> Result<Vec<(String, FileType)>> {
        let doing = || format!("list {}", self.path.display());
        let mut entries = Vec::new();
        for entry in Dir::read_from(&self.fd).doing(doing)? {
            let entry = entry.doing(doing)?;
            let Ok(name) = entry.file_name().to_str() else {
                continue;
            };
            if matches!(name, "." | "..") {
                continue;
            }
            let kind = match entry.file_type() {
                // Some file systems do not report types.
                FileType::Unknown => match statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW) {
                    Err(Errno::NOENT) => continue,
                    stat => FileType::from_raw_mode(stat.doing(doing)?.st_mode),
                },
                kind => kind,
            };
            entries.push((name.to_owned(), kind));
        }
        entries.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        Ok(entries)
    }

    /// Whether an entry, which is a link, leads to a directory.
    pub fn leads_to_directory(&self, name: &str) -> bool {
        let target = statat(&self.fd, name, AtFlags::empty());
        target.is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Directory)
    }

    /// Removes a file or link, not durably. Returns false when it does not exist.
    ///
    /// # Errors
    ///
    /// Those of the operating system.
    pub fn remove(&self, name: &str) -> Result<bool> {
        match unlinkat(&self.fd, name, AtFlags::empty()) {
            Err(Errno::NOENT) => Ok(false),
            removed => removed.doing(|| format!("remove {}", self.path.join(name).display())).map(|()| true),
        }
    }

    /// Removes a folder if it is empty. Returns whether it did.
    pub fn remove_empty(&self, name: &OsStr) -> bool {
        unlinkat(&self.fd, name, AtFlags::REMOVEDIR).is_ok()
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

/// Renames the synced file `from` of a folder to the name `to` of another folder, unless that name
/// exists, and syncs the other folder. After [`Published::NameIsTaken`] the temporary file still
/// exists.
///
/// # Errors
///
/// Those of the operating system, and one for a file system that can neither rename without
/// replacing nor link.
pub fn publish(from: (&Folder, &str), to: (&Folder, &str)) -> Result<Published> {
    let doing = || format!("create {}", to.0.path().join(to.1).display());
    let renamed = match renameat_with(from.0, from.1, to.0, to.1, RenameFlags::NOREPLACE) {
        // The file system does not support the flag. A hard link is exclusive too.
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
            linkat(from.0, from.1, to.0, to.1, AtFlags::empty()).map(|()| {
                // After a failure, the file only has a second name, among the temporary files.
                let _ = from.0.remove(from.1);
            })
        }
        result => result,
    };
    match renamed {
        Ok(()) => {
            to.0.sync()?;
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

/// Renames the synced file `from` of a folder to the name `to` of another folder, whose file of that
/// name is replaced, and syncs the other folder.
///
/// # Errors
///
/// Those of the operating system.
pub fn replace(from: (&Folder, &str), to: (&Folder, &str)) -> Result<()> {
    renameat(from.0, from.1, to.0, to.1)
        .doing(|| format!("rename to {}", to.0.path().join(to.1).display()))?;
    to.0.sync()
}

/// Beginning of the names of files that [`write_replacing`] has not renamed yet.
const UNFINISHED: &str = ".walkeep-tmp-";

/// Writes a file durably, and replaces the file of that name atomically. `mode` is the mode of the
/// new file. A link of that name is replaced, not followed.
///
/// # Errors
///
/// Those of the operating system. The old file then stays, unless the sync of the directory failed.
pub fn write_replacing(path: &Path, content: &[u8], mode: u32) -> Result<()> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let name = path.file_name().and_then(OsStr::to_str);
    let name = name.ok_or_else(|| {
        Error::new(Kind::Refused, format!("{} does not end with the name of a file", path.display()))
    })?;
    let folder = Folder::root(parent)?
        .ok_or_else(|| Error::new(Kind::Absent, format!("directory {} does not exist", parent.display())))?;
    let temporary = format!("{UNFINISHED}{}", random_name()?);
    let file = folder.create(&temporary, &Rights { owner: None, file: mode, folder: mode })?;
    let write = || -> Result<()> {
        (&file).write_all(content).doing(|| format!("write {}", path.display()))?;
        durable::sync_file(&file, path)?;
        replace((&folder, &temporary), (&folder, name))
    };
    write().inspect_err(|_| drop(folder.remove(&temporary)))
}

/// Gives a new file its owner and mode.
fn set_rights(file: BorrowedFd<'_>, mode: u32, rights: &Rights) -> rustix::io::Result<()> {
    if let Some((user, group)) = rights.owner {
        fchown(file, Some(Uid::from_raw(user)), Some(Gid::from_raw(group)))?;
    }
    fchmod(file, Mode::from_raw_mode(mode))
}

/// Whether a name may be one of [`random_name`].
pub fn is_random_name(name: &str) -> bool {
    name.len() == 24 && name.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// Returns 24 random hexadecimal digits.
///
/// # Errors
///
/// Those of the operating system.
pub fn random_name() -> Result<String> {
    let mut random = [0; 12];
    getrandom::fill(&mut random).map_err(|e| Error::new(Kind::Failed, format!("read random bytes: {e}")))?;
    Ok(hex::encode(random))
}
