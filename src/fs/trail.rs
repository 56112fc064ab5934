//! The way to a path: every directory and link on it, and so the users that may change what the
//! path leads to.

use super::folder::kind;
use super::named;
use crate::error::{Error, Kind, Result};
use rustix::fs::{FileType, Stat};
use std::fmt;
use std::path::{Component, Path, PathBuf};
use std::sync::OnceLock;

/// Maximum number of links on a way, as in the kernel.
const MAX_LINKS: u32 = 40;

/// Mode bit of a directory in which only the owner of an entry may rename or remove it.
const STICKY: u32 = 0o1000;

/// Entries on the way to a path, from `/` on.
pub struct Trail {
    steps: Vec<(PathBuf, Stat)>,
    is_complete: bool,
}

/// User or users that may change an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PathWriter {
    /// A user other than root.
    User(u32),
    /// The members of a group.
    Group(u32),
    Everyone,
}

impl fmt::Display for PathWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PathWriter::User(id) => write!(f, "user {}", user_name(*id)),
            PathWriter::Group(id) => match nix::unistd::Group::from_gid((*id).into()) {
                Ok(Some(group)) => write!(f, "group {}", group.name),
                _ => write!(f, "group {id}"),
            },
            PathWriter::Everyone => f.write_str("every user"),
        }
    }
}

/// Name of a user, or `#` and the number, which `sudo -u` accepts too.
pub fn user_name(user: u32) -> String {
    match nix::unistd::User::from_uid(user.into()) {
        Ok(Some(found)) => found.name,
        _ => format!("#{user}"),
    }
}

impl Trail {
    /// Follows an absolute path, through links, to its end or to the first entry that does not exist.
    ///
    /// # Errors
    ///
    /// Those of the operating system, and one for too many links.
    pub fn to(path: &Path) -> Result<Trail> {
        let mut steps = Vec::new();
        let (mut at, mut rest, mut links) = (PathBuf::from("/"), path.to_owned(), 0);
        loop {
            let mut parts = rest.components();
            let Some(part) = parts.next() else {
                return Ok(Trail { steps, is_complete: true });
            };
            let after = parts.as_path().to_owned();
            match part {
                Component::RootDir | Component::Prefix(_) => at = PathBuf::from("/"),
                Component::CurDir => {}
                Component::ParentDir => drop(at.pop()),
                Component::Normal(name) => at.push(name),
            }
            let Some(stat) = named::entry(&at)? else {
                return Ok(Trail { steps, is_complete: false });
            };
            let target = if kind(&stat) == FileType::Symlink { named::link_target(&at)? } else { None };
            steps.push((at.clone(), stat));
            rest = after;
            if let Some(target) = target {
                links += 1;
                if links > MAX_LINKS {
                    let message = format!("{} leads through too many links", path.display());
                    return Err(Error::new(Kind::Failed, message));
                }
                at.pop();
                rest = target.join(rest);
            }
        }
    }

    /// Whether something is at the end.
    pub fn is_complete(&self) -> bool {
        self.is_complete
    }

    /// Returns the entries that another user than root may change or replace, and that user. At the
    /// end of the way, the right to create entries in a directory counts too.
    pub fn writers(&self) -> Vec<(&Path, PathWriter)> {
        let mut found = Vec::new();
        for (number, (path, stat)) in self.steps.iter().enumerate() {
            let path = path.as_path();
            if !is_root(stat.st_uid) {
                found.push((path, PathWriter::User(stat.st_uid)));
            }
            let is_end = self.is_complete && number + 1 == self.steps.len();
            let is_protected = kind(stat) == FileType::Directory && stat.st_mode & STICKY != 0 && !is_end;
            // The mode of a link means nothing.
            if is_protected || kind(stat) == FileType::Symlink {
                continue;
            }
            if stat.st_mode & 0o020 != 0 && stat.st_gid != 0 && !is_private(stat.st_gid, stat.st_uid) {
                found.push((path, PathWriter::Group(stat.st_gid)));
            }
            if stat.st_mode & 0o002 != 0 {
                found.push((path, PathWriter::Everyone));
            }
        }
        found
    }

    /// Whether a user with these groups may follow the way, and has the permissions of `wanted` (4
    /// read, 2 write, 1 search) at its end.
    pub fn permits(&self, user: u32, groups: &[u32], wanted: u32) -> bool {
        let last = self.steps.len();
        self.is_complete
            && self.steps.iter().enumerate().all(|(number, (_, stat))| {
                let needed = if number + 1 == last { wanted } else { 1 };
                kind(stat) == FileType::Symlink || granted(stat, user, groups) & needed == needed
            })
    }
}

/// User that the kernel shows in the place of every user without a number in this namespace
/// (`/proc/sys/kernel/overflowuid`).
const UNMAPPED: u32 = 65534;

/// Whether an entry belongs to root. In a user namespace, as of a container without root, it may
/// belong to a user outside of it, whom no process inside can become.
fn is_root(user: u32) -> bool {
    static IS_INSIDE: OnceLock<bool> = OnceLock::new();
    let is_inside = || {
        let map = named::read_text(Path::new("/proc/self/uid_map"), 4096).ok().flatten();
        map.is_some_and(|map| !map.split_whitespace().eq(["0", "0", "4294967295"]))
    };
    user == 0 || user == UNMAPPED && *IS_INSIDE.get_or_init(is_inside)
}

/// Permissions of a user for an entry, without those of access lists.
fn granted(stat: &Stat, user: u32, groups: &[u32]) -> u32 {
    let class = if stat.st_uid == user {
        6
    } else if groups.contains(&stat.st_gid) {
        3
    } else {
        0
    };
    stat.st_mode >> class & 0o7
}

/// Whether a group has no other member than this user.
fn is_private(group: u32, user: u32) -> bool {
    let (Ok(Some(user)), Ok(Some(group))) =
        (nix::unistd::User::from_uid(user.into()), nix::unistd::Group::from_gid(group.into()))
    else {
        return false;
    };
    user.gid == group.gid && group.mem.iter().all(|member| *member == user.name)
}
