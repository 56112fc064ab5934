//! Directory of the WAL outside of the data directory, to which `pg_wal` is a link.

use super::empty::names;
use super::options::Options;
use crate::error::{Doing, Error, Kind, Result};
use crate::pg::segment::WalName;
use crate::repo::RESTORING;
use std::ffi::OsStr;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Returns the directory of the WAL: the one of `--waldir`, or in a delta restore the one that
/// `pg_wal` leads to; `None` for a `pg_wal` inside of the data directory.
pub(super) fn wal_directory(options: &Options) -> Result<Option<PathBuf>> {
    if options.waldir.is_some() || !options.delta {
        return Ok(options.waldir.clone());
    }
    let link = options.to.join("pg_wal");
    match std::fs::read_link(&link) {
        // A directory, or nothing.
        Err(e)
            if matches!(
                e.kind(),
                ErrorKind::InvalidInput | ErrorKind::NotFound | ErrorKind::NotADirectory
            ) =>
        {
            Ok(None)
        }
        target => {
            let target = options.to.join(target.doing(|| format!("read the link {}", link.display()))?);
            Ok(Some(std::fs::canonicalize(&target).unwrap_or(target)))
        }
    }
}

/// Refuses a directory that holds anything else than WAL.
pub(super) fn check_content(waldir: &Path) -> Result<()> {
    let is_known = |name: &OsStr| {
        let text = name.to_string_lossy();
        matches!(
            &*text,
            RESTORING | "lost+found" | "archive_status" | "summaries" | "RECOVERYXLOG" | "RECOVERYHISTORY"
        ) || text.starts_with("xlogtemp.")
            || text.parse::<WalName>().is_ok()
    };
    match names(waldir)?.into_iter().find(|name| !is_known(name)) {
        None => Ok(()),
        Some(name) => Err(Error::new(
            Kind::Refused,
            format!("{} is not a directory of WAL: it contains {}", waldir.display(), name.display()),
        )
        .hint("give --waldir a directory that is empty or does not exist")),
    }
}

/// Refuses a directory that is the `pg_wal` of a data directory other than `to`.
pub(super) fn check_unused(waldir: &Path, to: &Path, data_directories: &[PathBuf]) -> Result<()> {
    let place = |path: &Path| path.metadata().ok().map(|meta| (meta.dev(), meta.ino()));
    let (wal, to) = (place(waldir), place(to));
    let is_used = |data: &&PathBuf| place(data) != to && place(&data.join("pg_wal")) == wal;
    match data_directories.iter().find(is_used).filter(|_| wal.is_some()) {
        None => Ok(()),
        Some(data) => Err(Error::new(
            Kind::Refused,
            format!("{} has the WAL of the cluster in {}", waldir.display(), data.display()),
        )
        .hint("give --waldir another directory")),
    }
}
