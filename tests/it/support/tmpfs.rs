//! A small file system of its own: full when it shall be full, read-only when it shall be. Only
//! root can mount; elsewhere a test that needs it is skipped and says so.

use super::{Scratch, account, skipped};
use std::path::{Path, PathBuf};
use std::process::Command;

/// A mounted tmpfs, owned by the account; unmounted when dropped.
pub struct Tmpfs {
    path: PathBuf,
    _scratch: Scratch,
}

impl Tmpfs {
    /// Mounts one of this size (`20m`). None where that is not possible.
    pub fn mount(size: &str) -> Option<Tmpfs> {
        if !account::account().root {
            skipped("root", "only root can mount a tmpfs");
            return None;
        }
        let scratch = Scratch::new();
        let path = scratch.mkdir("tmpfs");
        let account = account::account();
        let options = format!("size={size},mode=0700,uid={},gid={}", account.uid, account.gid);
        if !mount(&["-t", "tmpfs", "-o", &options, "tmpfs"], &path) {
            skipped("tmpfs", "mounting a tmpfs is not permitted here");
            return None;
        }
        Some(Tmpfs { path, _scratch: scratch })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Takes it away; the directory below it stays.
    #[track_caller]
    pub fn unmount(&self) {
        let status = Command::new("umount").arg("-l").arg(&self.path).status();
        assert!(status.is_ok_and(|status| status.success()), "unmount {}", self.path.display());
    }

    /// Changes it: `ro`, `rw`, `size=64m`.
    #[track_caller]
    pub fn remount(&self, options: &str) {
        assert!(mount(&["-o", &format!("remount,{options}")], &self.path), "remount with {options}");
    }
}

fn mount(arguments: &[&str], path: &Path) -> bool {
    let status = Command::new("mount").args(arguments).arg(path).status();
    status.is_ok_and(|status| status.success())
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        // Lazily: a program that a failed test left behind must not keep the mount point.
        let _ = Command::new("umount").arg("-l").arg(&self.path).status();
    }
}
