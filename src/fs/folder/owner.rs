//! Owner and mode of a folder whose content must come from one user.

use super::Folder;
use crate::error::{Error, Kind, Result};
use rustix::fs::Stat;
use std::path::Path;

/// Permissions of users other than the owner to create, rename and remove entries.
const WRITABLE: u32 = 0o022;

/// Mode of a directory in which only the owner of an entry renames and removes it.
const STICKY: u32 = 0o1000;

impl Folder {
    /// Checks that only `user` and root can create, rename and remove entries of the folder.
    ///
    /// # Errors
    ///
    /// `Refused` otherwise.
    pub fn check_private(&self, user: u32) -> Result<()> {
        let stat = self.own_stat()?;
        let path = quoted(&self.path);
        if stat.st_uid != user {
            return Err(self.is_open(&stat, user).hint(format!("remove it: `sudo rm -r {path}`")));
        }
        if stat.st_mode & WRITABLE != 0 {
            return Err(self.is_open(&stat, user).hint(format!("type `chmod go-w {path}`")));
        }
        Ok(())
    }

    /// Checks that folders of `user` in this folder stay in their places: it belongs to `user` or to
    /// root, and other users cannot write to it, or it is sticky, as `/tmp` is.
    ///
    /// # Errors
    ///
    /// `Refused` otherwise.
    pub fn check_parent(&self, user: u32) -> Result<()> {
        let stat = self.own_stat()?;
        let path = quoted(&self.path);
        if stat.st_uid != user && stat.st_uid != 0 {
            return Err(self.is_open(&stat, user).hint(format!(
                "configure a directory that belongs to that user alone: `sudo install -d -o {user} -m 700 DIRECTORY`"
            )));
        }
        if stat.st_mode & WRITABLE != 0 && stat.st_mode & STICKY == 0 {
            return Err(self.is_open(&stat, user).hint(format!("type `sudo chmod go-w {path}`")));
        }
        Ok(())
    }

    fn is_open(&self, stat: &Stat, user: u32) -> Error {
        let (owner, mode) = (stat.st_uid, stat.st_mode & 0o7777);
        let path = self.path.display();
        Error::new(
            Kind::Refused,
            format!(
                "{path} belongs to user {owner} and has mode {mode:04o}, but user {user} alone must be able to write to it"
            ),
        )
    }
}

/// A path as one word of a shell command.
fn quoted(path: &Path) -> String {
    format!("'{}'", path.display().to_string().replace('\'', r"'\''"))
}
