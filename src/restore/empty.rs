//! Target directories of a restore that does not reuse files: refuses a directory that has files,
//! and empties a directory that a restore left unfinished.

use crate::error::{Doing, Error, Kind, Result};
use crate::fs::durable;
use crate::repo::RESTORING;
use std::ffi::OsString;
use std::io::ErrorKind;
use std::path::Path;

/// Text of the marker in a directory that held a cluster before the restore. Such a directory must
/// not be emptied.
pub(super) const OVERWRITES: &str = "over what was there";

/// Names of the entries of a directory; none when it does not exist.
pub(super) fn names(directory: &Path) -> Result<Vec<OsString>> {
    let doing = || format!("look at {}", directory.display());
    match std::fs::read_dir(directory) {
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        entries => entries.doing(doing)?.map(|entry| Ok(entry.doing(doing)?.file_name())).collect(),
    }
}

/// Refuses a directory that is not empty, unless a restore that did not finish left it.
pub(super) fn check_empty(path: &Path) -> Result<()> {
    let names = names(path)?;
    if names.iter().any(|name| name == RESTORING) {
        let marker = path.join(RESTORING);
        // Only a directory that was empty before the restore is emptied.
        let text = std::fs::read_to_string(&marker).doing(|| format!("read {}", marker.display()))?;
        if !text.contains(OVERWRITES) {
            return Ok(());
        }
        return Err(Error::new(
            Kind::Refused,
            format!("a restore over {} was started and did not finish", path.display()),
        )
        .hint("finish it with --delta, or give an empty directory"));
    }
    match names.into_iter().find(|name| name != "lost+found") {
        None => Ok(()),
        Some(name) => Err(Error::new(
            Kind::Refused,
            format!("{} is not empty: it contains {}", path.display(), name.display()),
        )
        .hint(
            "give a directory that is empty or does not exist, or restore over the same cluster with --delta; a tablespace is moved with --tablespace OLD=NEW",
        )),
    }
}

/// Removes the files of a restore that did not finish, its marker last.
pub(super) fn clear(path: &Path) -> Result<()> {
    let entries = std::fs::read_dir(path).doing(|| format!("look at {}", path.display()))?;
    for entry in entries {
        let entry = entry.doing(|| format!("look at {}", path.display()))?;
        let doing = || format!("remove {}", entry.path().display());
        let name = entry.file_name();
        if name == RESTORING || name == "lost+found" {
            continue;
        }
        if entry.file_type().doing(doing)?.is_dir() {
            std::fs::remove_dir_all(entry.path()).doing(doing)?;
        } else {
            std::fs::remove_file(entry.path()).doing(doing)?;
        }
    }
    durable::remove_file(&path.join(RESTORING))
}
