//! Owners and modes of restored files. Every file gets the owner of the data directory that was
//! backed up, and a mode that PostgreSQL gives to its files: a server cannot use others, and a
//! record or manifest that was forged must not make a program that runs as root.

use crate::error::{Error, Kind, Result};
use crate::fs::folder::Rights;
use crate::repo::entry::{Dir, FileEntry, Owner};
use rustix::fs::Stat;

/// Permissions of the owner and, in a cluster with group access, of the group.
const OWNER_ONLY: u32 = 0o700;
const WITH_GROUP: u32 = 0o750;

/// Permissions without which the owner cannot use a file or a directory.
const LEAST_OF_FILE: u32 = 0o600;
const LEAST_OF_DIRECTORY: u32 = 0o700;

/// Owner and modes of the restored files.
pub(super) struct Ownership {
    /// Owner of the data directory that was backed up.
    recorded: Owner,
    /// Permissions that a file or directory may have.
    allowed: u32,
    /// User and group; `None` where the files belong to the user of this process, since only root
    /// can change owners.
    ids: Option<(u32, u32)>,
}

impl Ownership {
    /// Takes the entry of the data directory.
    ///
    /// # Errors
    ///
    /// For root: `Refused` for an owner that does not exist on this machine, and for root itself.
    pub fn new(data: &Dir) -> Result<Ownership> {
        let allowed = if data.mode & 0o050 == 0o050 { WITH_GROUP } else { OWNER_ONLY };
        let is_root = rustix::process::geteuid().is_root();
        let ids = is_root.then(|| ids(&data.owner)).transpose()?;
        Ok(Ownership { recorded: data.owner.clone(), allowed, ids })
    }

    /// Returns the user that will own the restored files, if it is not the recorded owner. `None`
    /// for root, which can change owners.
    pub fn keeper(&self) -> Option<String> {
        let user = nix::unistd::User::from_uid(nix::unistd::geteuid()).ok().flatten()?.name;
        (self.ids.is_none() && user != self.recorded.owner).then_some(user)
    }

    /// Name of the recorded owner.
    pub fn recorded(&self) -> &str {
        &self.recorded.owner
    }

    /// Ids of the user and the group that the files get.
    pub fn ids(&self) -> (u32, u32) {
        let own = || (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        self.ids.unwrap_or_else(own)
    }

    /// Rights of files and directories that the restore makes itself.
    pub fn own(&self) -> Rights {
        Rights::new(self.ids, self.allowed & 0o640, LEAST_OF_DIRECTORY)
    }

    /// Rights of a file of the backup.
    pub fn file(&self, stored: &FileEntry) -> Rights {
        // PostgreSQL reads a key of root with mode 0640, and none of its own user.
        let allowed = if stored.owner == self.recorded { self.allowed } else { OWNER_ONLY };
        Rights::new(self.ids, stored.mode & allowed | LEAST_OF_FILE, LEAST_OF_DIRECTORY)
    }

    /// Rights of a configuration file from outside of the data directory.
    pub fn config(&self, stored: &FileEntry) -> Rights {
        Rights::new(self.ids, stored.mode & 0o640 | LEAST_OF_FILE, LEAST_OF_DIRECTORY)
    }

    /// Rights of a directory of the backup.
    pub fn directory(&self, mode: u32) -> Rights {
        Rights::new(self.ids, LEAST_OF_FILE, mode & self.allowed | LEAST_OF_DIRECTORY)
    }

    /// Whether root may change a file or directory that exists: it belongs to the user that the
    /// restored files get, so it is not one that this user has put there by a link.
    pub fn may_change(&self, stat: &Stat) -> bool {
        self.ids.is_none_or(|(user, _)| stat.st_uid == user)
    }
}

/// Finds the user and the group on this machine.
fn ids(owner: &Owner) -> Result<(u32, u32)> {
    let missing = |what: &str, name: &str| {
        Error::new(Kind::Refused, format!("{what} {name} does not exist on this machine"))
            .hint("create it, or restore as the user that runs PostgreSQL here")
    };
    let user = nix::unistd::User::from_name(&owner.owner).ok().flatten().map(|user| user.uid.as_raw());
    let group = nix::unistd::Group::from_name(&owner.group).ok().flatten().map(|group| group.gid.as_raw());
    let user = user.or_else(|| owner.owner.parse().ok()).ok_or_else(|| missing("user", &owner.owner))?;
    let group = group.or_else(|| owner.group.parse().ok()).ok_or_else(|| missing("group", &owner.group))?;
    if user == 0 {
        let what = "the data directory of the backup belonged to root, and no server runs as root";
        return Err(Error::new(Kind::Refused, what).hint("restore as the user that runs PostgreSQL here"));
    }
    Ok((user, group))
}
