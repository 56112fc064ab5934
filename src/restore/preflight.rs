//! All checks of a restore. [`prepare`] makes them and writes nothing; what it returns is what the
//! writing part needs. A dry run ends here, so it refuses what a real run refuses.
//!
//! Nothing that can be found out before the first byte is written may be checked later.

use super::access::{check_entries, check_surroundings, check_unlinked, check_writable};
use super::contents::Contents;
use super::delta;
use super::empty::check_empty;
use super::job::RestoreJob;
use super::options::Options;
use super::plan::RestorePlan;
use super::recovery::RecoverySettings;
use super::space::{self, SpaceNeed};
use crate::error::{Doing, Error, Kind, Result};
use crate::pg::running::{data_directories, refuse_running};
use crate::progress;
use crate::repo::lock::Lock;
use std::path::PathBuf;

/// A restore that passed all checks. Nothing has been written.
pub struct Prepared<'a> {
    pub(super) job: RestoreJob<'a>,
    /// Lock of the data directory; `None` when it does not exist yet, or in a dry run.
    pub(super) lock: Option<Lock>,
    /// Space that the restore needs, by file system.
    pub needs: Vec<SpaceNeed>,
}

impl<'a> Prepared<'a> {
    /// Values that the restore was prepared from.
    pub fn inputs(&self) -> (&'a Options, &'a RestorePlan, &'a RecoverySettings) {
        (self.job.options, self.job.plan, self.job.recovery)
    }
}

/// Checks that the restore of the plan's backup can be performed.
///
/// # Errors
///
/// `Refused` for everything that this restore must not do or cannot do.
pub fn prepare<'a>(
    options: &'a Options,
    plan: &'a RestorePlan,
    recovery: &'a RecoverySettings,
) -> Result<Prepared<'a>> {
    let doing = || format!("restore backup {} into {}", plan.record.id, options.to.display());
    let job = RestoreJob::new(options, plan, recovery).doing(doing)?;
    let lock = check_directories(&job).doing(doing)?;
    progress::step("reading the manifest");
    let contents = Contents::read(&job).doing(doing)?;
    check_owners(&job, &contents).doing(doing)?;
    check_config(&job, &contents).doing(doing)?;
    let needs = space::needs(&job, &contents).doing(doing)?;
    needs.iter().try_for_each(SpaceNeed::check).doing(doing)?;
    contents.check_packs(&job).doing(doing)?;
    if !plan.archive.may_need(&plan.record.id).doing(doing)? {
        return Err(being_removed().doing(doing()));
    }
    Ok(Prepared { job, lock: lock.filter(|_| !options.dry_run), needs })
}

/// Error for a backup that a prune removes.
pub(super) fn being_removed() -> Error {
    Error::new(Kind::Refused, "a prune is removing this backup, or has removed it")
        .hint("choose another backup: `walkeep list` shows them")
}

/// Checks the directories, and locks the data directory if it exists.
fn check_directories(job: &RestoreJob<'_>) -> Result<Option<Lock>> {
    let options = job.options;
    job.roots().try_for_each(check_writable)?;
    if !options.scratch {
        job.roots().try_for_each(|root| check_surroundings(root, &options.foreign))?;
    }
    let lock = options.to.is_dir().then(|| Lock::wait_for(&options.to, options.wait)).transpose()?;
    refuse_running(&options.to)?;
    let data_directories: Vec<PathBuf> =
        data_directories().into_iter().chain(options.original.clone()).collect();
    for (oid, place) in &job.tablespaces {
        check_unlinked(*oid, place, &options.to, &data_directories)?;
    }
    if options.delta {
        delta::check(job)?;
    } else {
        job.roots().try_for_each(check_empty)?;
    }
    Ok(lock)
}

/// Refuses owners that do not exist on this machine.
fn check_owners(job: &RestoreJob<'_>, contents: &Contents) -> Result<()> {
    contents.owners.iter().try_for_each(|owner| job.ownership.check(owner))?;
    let Some(owner) = &contents.owner else {
        return Err(Error::new(Kind::Damage, "the backup has no data directory"));
    };
    if let Some(user) = job.ownership.keeper(owner) {
        progress::warn(
            &Error::new(
                Kind::Problem,
                format!(
                    "the cluster belonged to {}, but the restored files will belong to {user}",
                    owner.owner
                ),
            )
            .hint("the server has to run as the owner of its files: restore as root or as that user"),
        );
    }
    Ok(())
}

/// Refuses places of configuration files that exist or cannot be created.
fn check_config(job: &RestoreJob<'_>, contents: &Contents) -> Result<()> {
    for place in &contents.config {
        let is_there = std::fs::symlink_metadata(place).is_ok();
        if is_there && !job.options.delta {
            return Err(Error::new(Kind::Refused, format!("{} exists already", place.display()))
                .hint("give --config-dir a directory that is empty or does not exist"));
        }
        place.parent().map_or(Ok(()), check_entries)?;
    }
    Ok(())
}
