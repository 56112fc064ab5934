//! A lock that two processes on one host cannot hold at once. It is flock on a directory that is there
//! anyway, so that nothing has to be made or removed, and the kernel lets go of it when its holder dies.

use crate::error::{Doing, Error, Kind, Result};
use fs2::FileExt;
use std::fs::File;
use std::path::Path;
use std::time::{Duration, Instant};

/// Held until it is dropped.
pub struct Lock(#[allow(dead_code)] File);

/// How often a held lock is tried again.
const POLL: Duration = Duration::from_millis(100);

impl Lock {
    /// Takes the lock of a file or directory, waiting at most this long; [`Kind::Locked`] when somebody else
    /// still has it then.
    pub fn wait_for(path: &Path, patience: Duration) -> Result<Lock> {
        let doing = || format!("lock {}", path.display());
        let file = File::open(path).doing(doing)?;
        let begun = Instant::now();
        loop {
            match try_lock(&file).doing(doing)? {
                true => return Ok(Lock(file)),
                false if begun.elapsed() < patience => std::thread::sleep(POLL),
                false => {
                    return Err(Error::new(Kind::Locked, "another run holds the lock")
                        .doing(doing())
                        .hint("wait for it to end, or use --wait"));
                }
            }
        }
    }
}

/// Takes the lock of an open file or directory; false when somebody else holds it.
pub fn try_lock(file: &File) -> std::io::Result<bool> {
    match file.try_lock_exclusive() {
        Ok(()) => Ok(true),
        Err(e) if e.raw_os_error() == fs2::lock_contended_error().raw_os_error() => Ok(false),
        Err(e) => Err(e),
    }
}
