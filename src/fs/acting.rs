//! Access to files as another user.

use nix::unistd::{Gid, Uid, setfsgid, setfsuid};

/// Identity with which the kernel checks the file accesses of this thread; dropping it restores the
/// earlier one.
struct Acting {
    user: Uid,
    group: Gid,
}

impl Drop for Acting {
    fn drop(&mut self) {
        setfsuid(self.user);
        setfsgid(self.group);
    }
}

/// Does `work` as another user, in a process of root: the kernel applies the permissions of that user
/// to what this thread opens, and new files belong to the user and the group.
pub fn as_user<T>(user: u32, group: u32, work: impl FnOnce() -> T) -> T {
    let group = setfsgid(group.into());
    let _acting = Acting { user: setfsuid(user.into()), group };
    work()
}
