//! Creation of files, folders and links, and their names.

use super::{Folder, kind, single};
use crate::error::{Doing, Error, Kind, Result};
use crate::fs::durable::{self, Published};
use crate::runtime;
use rustix::fs::{
    Access, AtFlags, FileType, Gid, Mode, OFlags, RenameFlags, ResolveFlags, Stat, Uid, accessat, chownat,
    fchmod, fchown, fstat, linkat, mkdirat, openat, openat2, renameat, renameat_with, symlinkat, unlinkat,
};
use rustix::io::Errno;
use std::ffi::OsStr;
use std::fs::File;
use std::io::Write;
use std::os::fd::AsFd;
use std::path::Path;

/// Attempts to open a file that other processes create and remove.
const MAX_ATTEMPTS: u32 = 8;

/// Permissions that a new file or folder may have, besides those of the owner.
const GROUP: u32 = 0o070;

/// Owner and modes of new files, whatever the umask is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rights {
    /// User and group; `None` for those of the process.
    pub owner: Option<(u32, u32)>,
    pub file: u32,
    pub folder: u32,
}

impl Rights {
    /// Creates rights from a user and a group (`None` for those of the process) and two modes.
    pub fn new(owner: Option<(u32, u32)>, file: u32, folder: u32) -> Rights {
        Rights { owner, file, folder }
    }

    /// Returns these rights with other modes.
    #[must_use]
    pub fn with_modes(self, file: u32, folder: u32) -> Rights {
        Rights { file, folder, ..self }
    }

    /// Returns the rights of new files below a folder: its owner's, if the process may choose, and
    /// readable for its group if the folder is.
    fn below(root: &Stat, owner: Option<(u32, u32)>) -> Rights {
        if root.st_mode & GROUP == 0 {
            Rights { owner, file: 0o600, folder: 0o700 }
        } else {
            Rights { owner, file: 0o640, folder: 0o750 }
        }
    }

    /// Whether a new file would have the owner of this one.
    pub fn would_own(&self, stat: &Stat) -> bool {
        let user = self.owner.map_or_else(|| rustix::process::geteuid().as_raw(), |(user, _)| user);
        stat.st_uid == user
    }
}

impl Folder {
    /// Returns the rights of new files below this folder, which is the root of all.
    ///
    /// # Errors
    ///
    /// Those of the operating system.
    pub fn rights(&self) -> Result<Rights> {
        Ok(Rights::below(&self.own_stat()?, self.owner_of_new()?))
    }

    /// Returns the user and group of new files in this folder: its own for root, else those of the
    /// process (`None`).
    ///
    /// # Errors
    ///
    /// Those of the operating system.
    pub fn owner_of_new(&self) -> Result<Option<(u32, u32)>> {
        if !rustix::process::geteuid().is_root() {
            return Ok(None);
        }
        let stat = self.own_stat()?;
        Ok(Some((stat.st_uid, stat.st_gid)))
    }

    /// Whether this process may create files in the folder and give them to the folder's owner. A
    /// file system that is mounted read-only is not examined.
    ///
    /// # Errors
    ///
    /// Those of the operating system.
    pub fn can_give(&self) -> Result<bool> {
        let stat = self.own_stat()?;
        let (user, group) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
        let wanted = Access::WRITE_OK | Access::EXEC_OK;
        let tried = accessat(&self.fd, ".", wanted, AtFlags::empty())
            .and_then(|()| fchown(&self.fd, Some(user), Some(group)));
        match tried {
            Err(Errno::PERM | Errno::ACCESS) => Ok(false),
            Err(Errno::ROFS) => Ok(true),
            tried => tried.doing(|| format!("look at {}", self.path.display())).map(|()| true),
        }
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
        let new = format!("{NEW}{}", random_name()?);
        let doing = || format!("create directory {}", self.path.join(name).display());
        mkdirat(&self.fd, &new, Mode::RWXU).doing(doing)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let named = openat(&self.fd, &new, flags, Mode::empty())
            .and_then(|folder| set_rights(&folder, rights.folder, rights))
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

    /// Creates a file that does not exist, for reading and writing.
    ///
    /// # Errors
    ///
    /// Those of the operating system; `Absent` when the folder was removed.
    pub fn create(&self, name: impl AsRef<OsStr>, rights: &Rights) -> Result<File> {
        let name = name.as_ref();
        let doing = || format!("create {}", self.path.join(name).display());
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = openat(&self.fd, name, flags, Mode::RUSR | Mode::WUSR).doing(doing)?;
        if let Err(errno) = set_rights(&fd, rights.file, rights) {
            // The file is empty; if this fails too, it is one of the leftovers.
            let _ = unlinkat(&self.fd, name, AtFlags::empty());
            return Err(errno).doing(doing);
        }
        Ok(File::from(fd))
    }

    /// Opens a file for reading and writing, and creates it unless it exists.
    ///
    /// # Errors
    ///
    /// Those of [`Folder::file_rw`] and [`Folder::create`]; one when other processes create and
    /// remove the file again and again.
    pub fn file_or_create(&self, name: impl AsRef<OsStr>, rights: &Rights) -> Result<File> {
        let name = name.as_ref();
        for _ in 1..MAX_ATTEMPTS {
            if let Some(file) = self.file_rw(Path::new(name))? {
                return Ok(file);
            }
            match self.create(name, rights) {
                Err(_) if self.entry(Path::new(name))?.is_some() => {}
                created => return created,
            }
        }
        self.create(name, rights)
    }

    /// Creates a file at a relative path that does not exist, for reading and writing.
    ///
    /// # Errors
    ///
    /// Those of the operating system, also for a link on the way.
    pub fn create_at(&self, below: &Path, rights: &Rights) -> Result<File> {
        if let Some(name) = single(below) {
            return self.create(name, rights);
        }
        let doing = || format!("create {}", self.path.join(below).display());
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        match openat2(&self.fd, below, flags, Mode::RUSR | Mode::WUSR, resolve) {
            // Before Linux 5.6; filters of containers refuse calls that they do not know.
            Err(Errno::NOSYS | Errno::PERM) => self.at(below, |folder, name| folder.create(name, rights)),
            fd => {
                let file = File::from(fd.doing(doing)?);
                set_rights(&file, rights.file, rights).doing(doing)?;
                Ok(file)
            }
        }
    }

    /// Creates a folder that does not exist, not durably, and opens it.
    ///
    /// # Errors
    ///
    /// Those of the operating system.
    pub fn make_folder(&self, name: impl AsRef<OsStr>, rights: &Rights) -> Result<Folder> {
        let name = name.as_ref();
        let doing = || format!("create directory {}", self.path.join(name).display());
        mkdirat(&self.fd, name, Mode::RWXU).doing(doing)?;
        let folder = self.folder(Path::new(name))?.ok_or_else(|| {
            Error::new(Kind::Absent, "another process has removed it meanwhile").doing(doing())
        })?;
        folder.set_rights(rights)?;
        Ok(folder)
    }

    /// Gives the folder its owner and mode.
    ///
    /// # Errors
    ///
    /// Those of the operating system.
    pub fn set_rights(&self, rights: &Rights) -> Result<()> {
        set_rights(&self.fd, rights.folder, rights)
            .doing(|| format!("set owner and mode of {}", self.path.display()))
    }

    /// Writes a file durably, and replaces the file of that name atomically. A link of that name is
    /// replaced, not followed.
    ///
    /// # Errors
    ///
    /// Those of the operating system. The old file then stays, unless the sync of the directory
    /// failed.
    pub fn put(&self, name: impl AsRef<OsStr>, content: &[u8], rights: &Rights) -> Result<()> {
        let name = name.as_ref();
        let path = self.path.join(name);
        let temporary = format!("{UNFINISHED}{}", random_name()?);
        let file = self.create(&temporary, rights)?;
        let write = || -> Result<()> {
            (&file).write_all(content).doing(|| format!("write {}", path.display()))?;
            durable::sync_file(&file, &path)?;
            replace((self, &temporary), (self, name))
        };
        write().inspect_err(|_| drop(self.remove(&temporary)))
    }

    /// Creates a link that does not exist. It belongs to the owner of `rights`.
    ///
    /// # Errors
    ///
    /// Those of the operating system.
    pub fn make_link(&self, target: &Path, name: impl AsRef<OsStr>, rights: &Rights) -> Result<()> {
        let name = name.as_ref();
        let doing = || format!("create the link {}", self.path.join(name).display());
        symlinkat(target, &self.fd, name).doing(doing)?;
        let Some((user, group)) = rights.owner else {
            return Ok(());
        };
        // Another user may have put a file in its place, which must not change its owner.
        let fd = openat(&self.fd, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty());
        let fd = fd.doing(doing)?;
        if kind(&fstat(&fd).doing(doing)?) != FileType::Symlink {
            let message = "another process has replaced it meanwhile";
            return Err(Error::new(Kind::Refused, message).doing(doing()));
        }
        chownat(&fd, "", Some(Uid::from_raw(user)), Some(Gid::from_raw(group)), AtFlags::EMPTY_PATH)
            .doing(doing)
    }
}

/// Creates the directories of an absolute path that do not exist, durably, and opens the last one.
/// Links in the part that exists are followed.
///
/// # Errors
///
/// Those of [`Folder::make`].
pub fn make_path(path: &Path, rights: &Rights) -> Result<Folder> {
    if let Some(folder) = Folder::root(path)? {
        // It may have been created by a process that was killed before its name was durable.
        if folder.is_empty()? {
            durable::sync_parent(path)?;
        }
        return Ok(folder);
    }
    for parent in path.ancestors().skip(1) {
        if let Some(folder) = Folder::root(parent)? {
            let below = path.strip_prefix(parent).map_err(|_| Error::defect("a path without its parent"))?;
            return folder.make(below, rights);
        }
    }
    Err(Error::defect(format!("{} is not absolute", path.display())))
}

/// Renames the synced file `from` of a folder to the name `to` of another folder, unless that name
/// exists, and syncs the other folder. After [`Published::NameIsTaken`] the temporary file still
/// exists.
///
/// # Errors
///
/// Those of the operating system, and one for a file system that can neither rename without
/// replacing nor link.
pub fn publish(from: (&Folder, impl AsRef<OsStr>), to: (&Folder, impl AsRef<OsStr>)) -> Result<Published> {
    let (from, to) = ((from.0, from.1.as_ref()), (to.0, to.1.as_ref()));
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
pub fn replace(from: (&Folder, impl AsRef<OsStr>), to: (&Folder, impl AsRef<OsStr>)) -> Result<()> {
    let folder = to.0;
    replace_volatile(from, to)?;
    folder.sync()
}

/// Renames like [`replace`], and syncs nothing: for a file that is requested again after a crash, or
/// that the caller syncs.
///
/// # Errors
///
/// Those of the operating system.
pub fn replace_volatile(from: (&Folder, impl AsRef<OsStr>), to: (&Folder, impl AsRef<OsStr>)) -> Result<()> {
    let to_name = to.1.as_ref();
    renameat(from.0, from.1.as_ref(), to.0, to_name)
        .doing(|| format!("rename to {}", to.0.path().join(to_name).display()))
}

/// Beginning of the names of files that [`Folder::put`] has not renamed yet.
pub const UNFINISHED: &str = ".walkeep-tmp-";

/// Beginning of the names of folders that [`Folder::make`] has not renamed yet.
const NEW: &str = ".new-";

/// Opens the directory of a file that need not exist, and returns the name of the file.
///
/// # Errors
///
/// Those of the operating system, `Absent` for a directory that does not exist, and `Refused` for a
/// path that does not end with a name.
pub fn parent_of(path: &Path) -> Result<(Folder, &OsStr)> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let name = path.file_name().ok_or_else(|| {
        Error::new(Kind::Refused, format!("{} does not end with the name of a file", path.display()))
    })?;
    let folder = Folder::root(parent)?
        .ok_or_else(|| Error::new(Kind::Absent, format!("directory {} does not exist", parent.display())))?;
    Ok((folder, name))
}

/// Gives a file or folder its owner and mode.
///
/// # Errors
///
/// Those of the operating system.
pub fn set_rights(file: impl AsFd, mode: u32, rights: &Rights) -> rustix::io::Result<()> {
    if let Some((user, group)) = rights.owner {
        fchown(&file, Some(Uid::from_raw(user)), Some(Gid::from_raw(group)))?;
    }
    fchmod(&file, Mode::from_raw_mode(mode))
}

/// Whether a name is one of a file or folder that was not renamed to its own name: its process was
/// killed.
pub fn is_leftover(name: &OsStr) -> bool {
    let name = name.to_str().and_then(|name| name.strip_prefix(UNFINISHED).or(name.strip_prefix(NEW)));
    name.is_some_and(is_random_name)
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
    runtime::random(&mut random)?;
    Ok(hex::encode(random))
}
