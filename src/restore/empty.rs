//! Target directories of a restore that does not reuse files: refuses a directory that has files,
//! and empties a directory that a restore left unfinished.

use super::job::RestoreJob;
use super::marker::{OVERWRITES, config_line};
use super::target::{Role, Target, is_nothing, names};
use super::waldir;
use crate::error::{Error, Kind, Result};
use crate::fs::folder::is_leftover;
use crate::repo::RESTORING;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// Maximum size of a marker in bytes.
const MAX_MARKER: u64 = 1 << 16;

/// State of a directory that a restore may write into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Emptiness {
    Empty,
    /// State with files of a restore that did not finish.
    Unfinished,
}

/// Refuses a directory that is not empty, unless a restore that did not finish left it.
pub(super) fn check_empty(job: &RestoreJob<'_>, target: &Target) -> Result<Emptiness> {
    let names = names(target)?;
    if let Some(text) = marker(target)? {
        // Only a directory that was empty before the restore is emptied.
        if !text.contains(OVERWRITES) {
            return Ok(Emptiness::Unfinished);
        }
        return Err(Error::new(
            Kind::Refused,
            format!("a restore over {} was started and did not finish", target.path.display()),
        )
        .hint("finish it with --delta, or give an empty directory"));
    }
    match names.iter().find(|name| !is_nothing(name)) {
        None => Ok(Emptiness::Empty),
        Some(_) if is_of_unfinished(job, target, &names)? => Ok(Emptiness::Unfinished),
        Some(name) => Err(Error::new(
            Kind::Refused,
            format!("{} is not empty: it contains {}", target.path.display(), name.display()),
        )
        .hint(
            "give a directory that is empty or does not exist, or restore over the same cluster with --delta; a tablespace is moved with --tablespace OLD=NEW",
        )),
    }
}

/// Text of the marker of an unfinished restore; `None` when there is none.
fn marker(target: &Target) -> Result<Option<String>> {
    let folder = target.existing();
    let text = folder.map(|folder| folder.read(Path::new(RESTORING), MAX_MARKER)).transpose()?.flatten();
    Ok(text.map(|text| String::from_utf8_lossy(&text).into_owned()))
}

/// Whether the restore that did not finish in the data directory wrote configuration files into the
/// same directory as this one, over none that were there.
pub(super) fn resumes_config(job: &RestoreJob<'_>) -> Result<bool> {
    let Some(config) = &job.config else {
        return Ok(false);
    };
    let line = config_line(&config.path);
    let text = marker(&job.data)?.filter(|text| !text.contains(OVERWRITES));
    Ok(text.is_some_and(|text| text.lines().any(|other| other == line)))
}

/// Whether a directory without a marker belongs to an unfinished data directory, which links to it:
/// the restore ended between the removals of the markers, that of the data directory being the last.
fn is_of_unfinished(job: &RestoreJob<'_>, target: &Target, names: &[OsString]) -> Result<bool> {
    let link = match target.role {
        Role::Tablespace(oid) => PathBuf::from(format!("pg_tblspc/{oid}")),
        Role::Wal => PathBuf::from("pg_wal"),
        Role::Data | Role::Config => return Ok(false),
    };
    let version = format!("PG_{}_", job.plan.archive.lineage().major);
    let is_restored = |name: &OsString| match target.role {
        Role::Tablespace(_) => name.to_string_lossy().starts_with(&version),
        _ => waldir::is_known(name),
    };
    if !names.iter().all(|name| is_nothing(name) || is_restored(name)) {
        return Ok(false);
    }
    let is_unfinished = marker(&job.data)?.is_some_and(|text| !text.contains(OVERWRITES));
    let data = job.data.existing().filter(|_| is_unfinished);
    let leads_to = data.map(|data| data.link_target(&link)).transpose()?.flatten();
    Ok(leads_to.as_ref() == Some(&target.path))
}

/// Removes what a restore that did not finish has left, except for its marker.
pub(super) fn clear(target: &Target, state: Emptiness) -> Result<()> {
    let Some(folder) = target.existing() else {
        return Ok(());
    };
    folder.remove_all(|name| {
        let is_kept = name == RESTORING || name == "lost+found";
        is_kept || state == Emptiness::Empty && !is_leftover(name)
    })
}
