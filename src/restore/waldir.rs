//! Directory of the WAL outside of the data directory, to which `pg_wal` is a link.

use super::access::identity;
use super::mapping;
use super::options::Options;
use super::target::{Role, Target, is_nothing, names};
use crate::error::{Error, Kind, Result};
use crate::fs::named;
use crate::pg::segment::WalName;
use crate::repo::RESTORING;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

/// Opens the directory of the WAL: the one of `--waldir`, or in a delta restore the one that
/// `pg_wal` leads to; `None` for a `pg_wal` inside of the data directory.
pub(super) fn wal_directory(options: &Options, data: &Target) -> Result<Option<Target>> {
    if let Some(waldir) = &options.waldir {
        return mapping::open(Role::Wal, waldir, true).map(Some);
    }
    let Some(data) = data.existing().filter(|_| options.delta) else {
        return Ok(None);
    };
    let Some(link) = data.link_target(Path::new("pg_wal"))? else {
        return Ok(None);
    };
    let link = options.to.join(link);
    let path = named::real(&link)?.unwrap_or(link);
    mapping::open(Role::Wal, &path, false).map(Some)
}

/// Whether a name is one that a server or a restore gives in `pg_wal`.
pub(super) fn is_known(name: &OsStr) -> bool {
    let text = name.to_string_lossy();
    let is_ours =
        matches!(&*text, RESTORING | "archive_status" | "summaries" | "RECOVERYXLOG" | "RECOVERYHISTORY");
    is_ours || is_nothing(name) || text.starts_with("xlogtemp.") || text.parse::<WalName>().is_ok()
}

/// Refuses a directory that holds anything else than WAL.
pub(super) fn check_content(waldir: &Target) -> Result<()> {
    match names(waldir)?.into_iter().find(|name| !is_known(name)) {
        None => Ok(()),
        Some(name) => Err(Error::new(
            Kind::Refused,
            format!("{} is not a directory of WAL: it contains {}", waldir.path.display(), name.display()),
        )
        .hint("give --waldir a directory that is empty or does not exist")),
    }
}

/// Refuses a directory that is the `pg_wal` of a data directory other than `to`.
pub(super) fn check_unused(waldir: &Target, to: &Target, data_directories: &[PathBuf]) -> Result<()> {
    let (wal, to) = (waldir.identity()?, to.identity()?);
    let is_used = |data: &&PathBuf| identity(data) != to && identity(&data.join("pg_wal")) == wal;
    match data_directories.iter().find(is_used).filter(|_| wal.is_some()) {
        None => Ok(()),
        Some(data) => Err(Error::new(
            Kind::Refused,
            format!("{} has the WAL of the cluster in {}", waldir.path.display(), data.display()),
        )
        .hint("give --waldir another directory")),
    }
}
