//! Who owns what is restored.

use crate::error::{Doing, Error, Kind, Result};
use crate::repo::entry::Owner;
use std::collections::HashMap;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

/// Who owns what is restored.
pub struct Ownership {
    /// Only root can give files away.
    is_root: bool,
    known: Mutex<HashMap<Owner, (u32, u32)>>,
}

impl Ownership {
    pub fn new() -> Ownership {
        Ownership { is_root: nix::unistd::geteuid().is_root(), known: Mutex::default() }
    }

    /// Whether the server's user can own what is restored: root gives it to the recorded owner, anybody else
    /// keeps it.
    pub fn check(&self, owner: &Owner) -> Result<()> {
        self.ids(owner).map(|_| ())
    }

    /// The user who keeps what is restored, when that is not its owner.
    pub fn keeper(&self, owner: &Owner) -> Option<String> {
        let user = nix::unistd::User::from_uid(nix::unistd::geteuid()).ok().flatten()?.name;
        (!self.is_root && user != owner.owner).then_some(user)
    }

    fn ids(&self, owner: &Owner) -> Result<(u32, u32)> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(ids) = known.get(owner) {
            return Ok(*ids);
        }
        let nobody = |what: &str, name: &str| {
            Error::new(Kind::Refused, format!("there is no {what} {name} on this machine"))
                .hint("create it, or restore as the user that runs PostgreSQL here")
        };
        let user = nix::unistd::User::from_name(&owner.owner).ok().flatten().map(|user| user.uid.as_raw());
        let group =
            nix::unistd::Group::from_name(&owner.group).ok().flatten().map(|group| group.gid.as_raw());
        let ids = (
            user.or_else(|| owner.owner.parse().ok()).ok_or_else(|| nobody("user", &owner.owner))?,
            group.or_else(|| owner.group.parse().ok()).ok_or_else(|| nobody("group", &owner.group))?,
        );
        known.insert(owner.clone(), ids);
        Ok(ids)
    }

    /// Gives a file or directory, not what a link leads to, to its owner.
    pub fn give(&self, path: &Path, owner: &Owner) -> Result<()> {
        if !self.is_root {
            return Ok(());
        }
        let (user, group) = self.ids(owner)?;
        std::os::unix::fs::lchown(path, Some(user), Some(group))
            .doing(|| format!("give {} to {}", path.display(), owner.owner))
    }
}

impl std::hash::Hash for Owner {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        (&self.owner, &self.group).hash(state);
    }
}
