//! Paths that a user typed, followed name by name: what they lead to is opened once, and stays the
//! same directory from then on.

use super::{Folder, kind, real_path};
use crate::error::{Doing, Error, Kind, Result};
use rustix::fs::{
    Access, AtFlags, FileType, Mode, OFlags, StatxAttributes, StatxFlags, accessat, fstat, openat,
    readlinkat, statx,
};
use rustix::io::Errno;
use std::ffi::{OsStr, OsString};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;
use std::path::{Component, Path, PathBuf};

/// Maximum number of links in a path, as in Linux.
const MAX_LINKS: usize = 40;

/// Name to be followed.
struct PathStep {
    name: OsString,
    /// Whether the name is part of the target of a link.
    is_of_link: bool,
}

/// Walk along a path.
struct Way<'a> {
    path: &'a Path,
    at: OwnedFd,
    /// Names that are left, the next one at the end.
    left: Vec<PathStep>,
    /// Owners of the links that were followed.
    owners: Vec<u32>,
}

const STEP: OFlags = OFlags::PATH.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

impl Folder {
    /// Opens the longest part of an absolute path that exists, and returns the rest of the path.
    /// Links are followed. For root, a link has to belong to root or to the owner of the directory
    /// to which the path leads: otherwise its owner would choose a directory that is not the
    /// owner's own.
    ///
    /// # Errors
    ///
    /// Those of the operating system; `Refused` for a path through a file, for a link that leads
    /// nowhere, and for a link of another user.
    pub fn reach(path: &Path) -> Result<(Folder, PathBuf)> {
        let doing = || format!("look at {}", path.display());
        let at = rustix::fs::open("/", STEP | OFlags::DIRECTORY, Mode::empty()).doing(doing)?;
        let mut way = Way { path, at, left: Vec::new(), owners: Vec::new() };
        way.push(path, false);
        let mut rest = PathBuf::new();
        while let Some(step) = way.left.pop() {
            match way.open(&step.name) {
                Err(Errno::NOENT) if step.is_of_link => return Err(way.leads_nowhere()),
                Err(Errno::NOENT) => {
                    rest.push(step.name);
                    rest.extend(way.left.iter().rev().map(|step| &step.name));
                    break;
                }
                entry => way.enter(entry.doing(doing).map_err(elsewhere)?)?,
            }
        }
        way.check_owners()?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = openat(&way.at, ".", flags, Mode::empty()).doing(doing).map_err(elsewhere)?;
        let depth = rest.components().count();
        let folder = Folder { fd, path: path.ancestors().nth(depth).unwrap_or(path).to_owned() };
        Ok((folder, rest))
    }

    /// Returns the absolute path of the folder, without links.
    ///
    /// # Errors
    ///
    /// Those of the operating system.
    pub fn real(&self) -> Result<PathBuf> {
        real_path(&self.fd).doing(|| format!("look at {}", self.path.display()))
    }

    /// Whether the process may use a folder at a relative path, or this one for an empty path, in
    /// this way.
    ///
    /// # Errors
    ///
    /// Those of the operating system: `EACCES` and `EROFS` when it may not.
    pub fn access(&self, access: Access) -> rustix::io::Result<()> {
        accessat(&self.fd, ".", access, AtFlags::empty())
    }

    /// Whether the folder has the attribute `immutable`.
    pub fn is_immutable(&self) -> bool {
        let attributes = statx(&self.fd, "", AtFlags::EMPTY_PATH, StatxFlags::empty());
        attributes.is_ok_and(|found| found.stx_attributes.contains(StatxAttributes::IMMUTABLE))
    }
}

fn elsewhere(error: Error) -> Error {
    error.hint("choose another directory")
}

impl Way<'_> {
    fn push(&mut self, path: &Path, is_of_link: bool) {
        let name = |part: Component<'_>| match part {
            Component::Normal(name) => Some(name.to_owned()),
            Component::ParentDir => Some(OsStr::new("..").to_owned()),
            _ => None,
        };
        self.left.extend(path.components().rev().filter_map(name).map(|name| PathStep { name, is_of_link }));
    }

    /// Opens the entry of this name. A directory is opened as one, which mounts what is mounted on
    /// demand.
    fn open(&self, name: &OsStr) -> rustix::io::Result<OwnedFd> {
        match openat(&self.at, name, STEP | OFlags::DIRECTORY, Mode::empty()) {
            Err(Errno::NOTDIR | Errno::LOOP) => openat(&self.at, name, STEP, Mode::empty()),
            directory => directory,
        }
    }

    /// Continues at an entry: a directory, or the target of a link.
    fn enter(&mut self, entry: OwnedFd) -> Result<()> {
        let doing = || format!("look at {}", self.path.display());
        let stat = fstat(&entry).doing(doing)?;
        match kind(&stat) {
            FileType::Directory => self.at = entry,
            FileType::Symlink => {
                if self.owners.len() == MAX_LINKS {
                    return Err(Errno::LOOP).doing(doing).map_err(elsewhere);
                }
                self.owners.push(stat.st_uid);
                let target = readlinkat(&entry, "", Vec::new()).doing(doing)?;
                let target = PathBuf::from(OsString::from_vec(target.into_bytes()));
                if target.is_absolute() {
                    self.at = rustix::fs::open("/", STEP | OFlags::DIRECTORY, Mode::empty()).doing(doing)?;
                }
                self.push(&target, true);
            }
            _ => {
                let what = format!("{} is not a directory, or leads through a file", self.path.display());
                return Err(elsewhere(Error::new(Kind::Refused, what)));
            }
        }
        Ok(())
    }

    fn leads_nowhere(&self) -> Error {
        let what = format!("{} is a link that leads nowhere, or leads through one", self.path.display());
        Error::new(Kind::Refused, what).hint("remove the link, or create the directory that it leads to")
    }

    /// Refuses for root a link of a user who does not own the directory to which it leads.
    fn check_owners(&self) -> Result<()> {
        if !rustix::process::geteuid().is_root() {
            return Ok(());
        }
        let stat = fstat(&self.at).doing(|| format!("look at {}", self.path.display()))?;
        match self.owners.iter().find(|owner| **owner != 0 && **owner != stat.st_uid) {
            None => Ok(()),
            Some(owner) => {
                let what = format!(
                    "{} leads through a link of uid {owner} to a directory of uid {}",
                    self.path.display(),
                    stat.st_uid
                );
                Err(Error::new(Kind::Refused, what).hint("give the path without the link"))
            }
        }
    }
}
