//! Names in a folder.

use super::{Folder, kind};
use crate::error::{Doing, Result};
use rustix::fs::{AtFlags, Dir, FileType, statat};
use rustix::io::Errno;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

impl Folder {
    /// Returns the names in the folder and their types, in order.
    ///
    /// # Errors
    ///
    /// Those of the operating system.
    pub fn names(&self) -> Result<Vec<(OsString, FileType)>> {
        let doing = || format!("list {}", self.path.display());
        let mut names = Vec::new();
        for entry in Dir::read_from(&self.fd).doing(doing)? {
            let entry = entry.doing(doing)?;
            let name = entry.file_name().to_bytes();
            if matches!(name, b"." | b"..") {
                continue;
            }
            let kind = match entry.file_type() {
                // Some file systems do not report types.
                FileType::Unknown => match statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW) {
                    Err(Errno::NOENT) => continue,
                    stat => kind(&stat.doing(doing)?),
                },
                kind => kind,
            };
            names.push((OsStr::from_bytes(name).to_owned(), kind));
        }
        names.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        Ok(names)
    }

    /// Returns the names like [`Folder::names`], without those that are not UTF-8.
    ///
    /// # Errors
    ///
    /// Those of the operating system.
    pub fn entries(&self) -> Result<Vec<(String, FileType)>> {
        let text = |(name, kind): (OsString, FileType)| Some((name.into_string().ok()?, kind));
        Ok(self.names()?.into_iter().filter_map(text).collect())
    }

    /// Whether an entry, which is a link, leads to a directory.
    pub fn leads_to_directory(&self, name: &str) -> bool {
        statat(&self.fd, name, AtFlags::empty()).is_ok_and(|stat| kind(&stat) == FileType::Directory)
    }

    /// Whether the folder has no entries.
    ///
    /// # Errors
    ///
    /// Those of the operating system.
    pub fn is_empty(&self) -> Result<bool> {
        let doing = || format!("list {}", self.path.display());
        for entry in Dir::read_from(&self.fd).doing(doing)? {
            let entry = entry.doing(doing)?;
            if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
                return Ok(false);
            }
        }
        Ok(true)
    }
}
