//! What links lead to, for directories in which links are expected.

use super::{Folder, describe, descriptor, kind};
use crate::error::{Doing, Result};
use crate::fs::read_as::ReadAs;
use rustix::fs::{FileType, Mode, OFlags, Stat, fstat, openat};
use rustix::io::Errno;
use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::OwnedFd;

/// Entry, or what it leads to if it is a link.
pub enum Followed {
    File(File, Stat),
    Folder(Folder),
    /// Neither a file nor a folder: its type, with its article.
    Other(&'static str),
}

impl Folder {
    /// Opens an entry for reading, and follows it if it is a link. `None` when the entry, or what it
    /// leads to, does not exist.
    ///
    /// # Errors
    ///
    /// Those of the operating system; `Denied` for what `reads` cannot read or reach itself.
    pub fn follow(&self, name: &OsStr, reads: ReadAs) -> Result<Option<Followed>> {
        let path = self.path.join(name);
        let doing = || format!("follow {}", path.display());
        // A device is not opened by this.
        let entry = match openat(&self.fd, name, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()) {
            Err(Errno::NOENT) => return Ok(None),
            entry => entry.doing(doing)?,
        };
        let stat = fstat(&entry).doing(doing)?;
        let kind = kind(&stat);
        if !matches!(kind, FileType::RegularFile | FileType::Directory) {
            return Ok(Some(Followed::Other(describe(kind))));
        }
        let entry = Folder { fd: entry, path: path.clone() };
        reads.check_way(&stat, &entry.real()?)?;
        let fd = rustix::fs::open(descriptor(&entry.fd), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
        let fd: OwnedFd = fd.doing(doing)?;
        Ok(Some(match kind {
            FileType::Directory => Followed::Folder(Folder { fd, path }),
            _ => Followed::File(File::from(fd), stat),
        }))
    }
}
