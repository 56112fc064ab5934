//! Directories that are restored into from nothing: refuses those that hold files, and empties
//! those of a restore that did not finish.

use crate::error::{Doing, Error, Kind, Result};
use crate::fs::durable;
use crate::repo::RESTORING;
use std::path::Path;

/// Text of the marker in a directory that held a cluster before the restore: it must not be
/// emptied.
pub(super) const OVERWRITES: &str = "over what was there";

/// Refuses a directory that is not empty, unless a restore that did not finish left it.
pub(super) fn check_empty(path: &Path) -> Result<()> {
    let entries = match std::fs::read_dir(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        entries => entries.doing(|| format!("look at {}", path.display()))?,
    };
    let mut names = Vec::new();
    for entry in entries {
        names.push(entry.doing(|| format!("look at {}", path.display()))?.file_name());
    }
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
    if names.iter().any(|name| name == "postmaster.pid") {
        return Err(Error::new(
            Kind::Refused,
            format!("{} is the data directory of a server that is running, or was killed", path.display()),
        )
        .hint("stop the server, and restore into another directory, or over this one with --delta"));
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

/// Removes the files of a restore that did not finish; the marker goes last.
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
