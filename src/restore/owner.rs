//! Owners of restored files: users and groups by the names that the backup recorded.

use crate::error::{Doing, Error, Kind, Result};
use crate::repo::entry::Owner;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::path::Path;

/// Gives restored files to their owners.
pub(super) struct Ownership {
    /// Only root can change the owner of a file.
    is_root: bool,
    /// User and group ids that were looked up.
    known: Mutex<HashMap<Owner, (u32, u32)>>,
}

impl Ownership {
    pub fn new() -> Ownership {
        Ownership { is_root: nix::unistd::geteuid().is_root(), known: Mutex::default() }
    }

    /// Refuses an owner that does not exist on this machine, if the files are to be given to it.
    pub fn check(&self, owner: &Owner) -> Result<()> {
        if self.is_root { self.ids(owner).map(|_| ()) } else { Ok(()) }
    }

    /// Returns the user that will own the restored files, if it is not the recorded owner. `None`
    /// for root, which can change owners.
    pub fn keeper(&self, owner: &Owner) -> Option<String> {
        let user = nix::unistd::User::from_uid(nix::unistd::geteuid()).ok().flatten()?.name;
        (!self.is_root && user != owner.owner).then_some(user)
    }

    /// Returns the ids of the user and the group that a file gets.
    pub fn owner(&self, owner: &Owner) -> Result<(u32, u32)> {
        if self.is_root {
            self.ids(owner)
        } else {
            Ok((nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw()))
        }
    }

    fn ids(&self, owner: &Owner) -> Result<(u32, u32)> {
        let mut known = self.known.lock();
        if let Some(ids) = known.get(owner) {
            return Ok(*ids);
        }
        let missing = |what: &str, name: &str| {
            Error::new(Kind::Refused, format!("{what} {name} does not exist on this machine"))
                .hint("create it, or restore as the user that runs PostgreSQL here")
        };
        let user = nix::unistd::User::from_name(&owner.owner).ok().flatten().map(|user| user.uid.as_raw());
        let group =
            nix::unistd::Group::from_name(&owner.group).ok().flatten().map(|group| group.gid.as_raw());
        let ids = (
            user.or_else(|| owner.owner.parse().ok()).ok_or_else(|| missing("user", &owner.owner))?,
            group.or_else(|| owner.group.parse().ok()).ok_or_else(|| missing("group", &owner.group))?,
        );
        known.insert(owner.clone(), ids);
        Ok(ids)
    }

    /// Gives a file, directory or link (not its target) to its owner.
    pub fn give(&self, path: &Path, owner: &Owner) -> Result<()> {
        if !self.is_root {
            return Ok(());
        }
        let (user, group) = self.ids(owner)?;
        std::os::unix::fs::lchown(path, Some(user), Some(group))
            .doing(|| format!("give {} to {}", path.display(), owner.owner))
    }
}
