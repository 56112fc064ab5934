//! FIFOs, by which processes of one user send messages to each other.

use super::{Folder, Rights, kind, set_rights};
use crate::error::{Doing, Result};
use rustix::fs::{FileType, Mode, OFlags, fcntl_setfl, fstat, mkfifoat, openat};
use rustix::io::Errno;
use std::fs::File;

impl Folder {
    /// Creates a FIFO that does not exist, and opens it for reading and writing: a read never returns
    /// the end of the file.
    ///
    /// # Errors
    ///
    /// Those of the operating system.
    pub fn make_fifo(&self, name: &str, rights: &Rights) -> Result<File> {
        let doing = || format!("create the FIFO {}", self.path.join(name).display());
        mkfifoat(&self.fd, name, Mode::RUSR | Mode::WUSR).doing(doing)?;
        let fifo = self.open_fifo(name, OFlags::RDWR).doing(doing)?;
        set_rights(&fifo, rights.file, rights).doing(doing)?;
        // Reads wait for bytes.
        fcntl_setfl(&fifo, OFlags::empty()).doing(doing)?;
        Ok(fifo)
    }

    /// Opens a FIFO for writing. `None` when it does not exist, no process reads it, or the entry is
    /// not a FIFO.
    pub fn fifo(&self, name: &str) -> Option<File> {
        self.open_fifo(name, OFlags::WRONLY).ok()
    }

    fn open_fifo(&self, name: &str, access: OFlags) -> rustix::io::Result<File> {
        let flags = access | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = openat(&self.fd, name, flags, Mode::empty())?;
        match kind(&fstat(&fd)?) {
            FileType::Fifo => Ok(File::from(fd)),
            _ => Err(Errno::NXIO),
        }
    }
}
