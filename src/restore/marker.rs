//! The marker of a restore that has not finished: a file in each directory that is restored into.
//! The lock of the restore is one of the marker in the data directory, which only its owner and
//! root can open. A lock of the directory itself could be held by every user that may list it.

use super::target::Target;
use crate::error::{Doing, Result};
use crate::fs::durable::{Published, sync_file};
use crate::fs::folder::{Folder, Rights, UNFINISHED, publish, random_name, replace};
use crate::repo::RESTORING;
use crate::repo::lock::Lock;
use rustix::fs::fstat;
use std::io::Write;
use std::path::Path;
use std::time::Duration;

/// Text of the marker in a directory that held a cluster before the restore. Such a directory must
/// not be emptied.
pub(super) const OVERWRITES: &str = "over what was there";

/// Line of a marker that names the directory of the configuration files.
pub(super) fn config_line(path: &Path) -> String {
    format!("with the configuration in {:?}", path.as_os_str())
}

/// Locks the marker of an earlier restore; `None` when there is none.
pub(super) fn lock(target: &Target, wait: Duration) -> Result<Option<Lock>> {
    let Some(folder) = target.existing() else {
        return Ok(None);
    };
    let name = Path::new(RESTORING);
    let path = target.path.join(RESTORING);
    loop {
        let Some(file) = folder.file(name)? else {
            return Ok(None);
        };
        let lock = Lock::of(file, &path, wait)?;
        let locked = fstat(lock.file()).doing(|| format!("look at {}", path.display()))?;
        let named = folder.entry(name)?;
        // A restore that has ended meanwhile has removed it.
        if named.is_some_and(|named| (named.st_dev, named.st_ino) == (locked.st_dev, locked.st_ino)) {
            return Ok(Some(lock));
        }
    }
}

/// Marks a data directory as unfinished, with a marker that is locked before it has its name. `held`
/// is the marker of an earlier restore; without it there must be none. Returns `None` when another
/// restore was faster.
pub(super) fn write(
    folder: &Folder,
    text: &str,
    rights: &Rights,
    held: Option<Lock>,
) -> Result<Option<Lock>> {
    let path = folder.path().join(RESTORING);
    let temporary = format!("{UNFINISHED}{}", random_name()?);
    let lock = Lock::of(folder.create(&temporary, rights)?, &path, Duration::ZERO)?;
    let write = || -> Result<bool> {
        lock.file().write_all(text.as_bytes()).doing(|| format!("write {}", path.display()))?;
        sync_file(lock.file(), &path)?;
        let (from, to) = ((folder, &temporary), (folder, RESTORING));
        if held.is_some() {
            replace(from, to)?;
            return Ok(true);
        }
        Ok(publish(from, to)? == Published::Now)
    };
    let written = write();
    if !matches!(written, Ok(true)) {
        folder.remove(&temporary)?;
    }
    Ok(written?.then_some(lock))
}
