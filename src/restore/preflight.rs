//! All checks of a restore. [`prepare`] makes them and writes nothing; what it returns is what the
//! writing part needs. A dry run ends here, so it refuses what a real run refuses.
//!
//! Nothing that can be found out before the first byte is written may be checked later.

use super::access::{check_entries, check_surroundings, check_unlinked, check_unnamed, check_writable};
use super::contents::BackupContents;
use super::delta;
use super::empty::{Emptiness, check_empty, resumes_config};
use super::job::RestoreJob;
use super::marker;
use super::options::Options;
use super::owner::Ownership;
use super::plan::RestorePlan;
use super::recovery::RecoverySettings;
use super::replayed::{Replayed, check_original, raised_settings};
use super::space::{self, SpaceNeed};
use super::target::Place;
use super::waldir::check_unused;
use crate::error::{Doing, Error, Kind, Result};
use crate::fs::named;
use crate::pg::running::{data_directories, refuse_running};
use crate::progress;
use crate::repo::active::{Announcement, Heartbeat, Operation};
use crate::repo::lock::Lock;
use crate::repo::record::OutsideFile;
use rustix::fs::Stat;
use std::path::{Path, PathBuf};

/// A restore that passed all checks. Nothing has been written.
pub struct Prepared<'a> {
    pub(super) job: RestoreJob<'a>,
    /// Lock of the data directory; `None` when it does not exist yet, or in a dry run.
    pub(super) lock: Option<Lock>,
    /// Announcement that keeps a prune from removing the backup; `None` in a dry run, and when the
    /// repository cannot be written.
    pub(super) announced: Option<Announcement>,
    /// Space that the restore needs, by file system.
    pub needs: Vec<SpaceNeed>,
    pub notes: Notes,
    /// Ids of the user and the group that will own the data directory.
    pub owner: (u32, u32),
    /// Content of the control file of the backup.
    pub control: Vec<u8>,
}

/// Differences between the restored cluster and the original that its administrator has to know.
#[derive(Debug, Clone, Default)]
pub struct Notes {
    /// Settings that are raised, since the WAL needs it: name, new value, and value of the backup.
    pub raised: Vec<(&'static str, u32, u32)>,
    /// Tablespaces that recovery creates, by OID.
    pub new_tablespaces: Vec<(u32, PathBuf)>,
    /// OIDs of databases that recovery makes out of files of databases that are left out.
    pub broken_copies: Vec<u32>,
    /// Files that the configuration names and that are neither in the backup nor on this host.
    pub missing: Vec<OutsideFile>,
    /// Settings of the configuration that name the data directory of the original or something in
    /// it, with their values.
    pub old_paths: Vec<(String, String)>,
    /// Directory that `pg_wal` led to, when it becomes a directory of the data directory.
    pub lost_wal_directory: Option<String>,
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
    let mut job = RestoreJob::new(options, plan, recovery).doing(doing)?;
    let data_directories: Vec<PathBuf> =
        data_directories().into_iter().chain(options.original.clone()).collect();
    let lock = check_directories(&job, &data_directories).doing(doing)?;
    let announced = announce(plan, options).doing(doing)?;
    progress::step("reading the manifest");
    let contents = BackupContents::read(&job).doing(doing)?;
    job.size = contents.size;
    let ownership = check_owners(&contents).doing(doing)?;
    job.roots().try_for_each(|root| check_unnamed(root, &ownership)).doing(doing)?;
    let owner = ownership.ids();
    job.ownership = Some(ownership);
    job.resumes_config = resumes_config(&job).doing(doing)?;
    check_config(&job, &contents).doing(doing)?;
    let needs = space::needs(&job, &contents).doing(doing)?;
    needs.iter().try_for_each(SpaceNeed::check).doing(doing)?;
    contents.check_packs(&job).doing(doing)?;
    // A drill reads the WAL and the settings itself.
    let notes = if options.scratch {
        Notes::default()
    } else {
        check_replay(&mut job, &contents, &data_directories).doing(doing)?
    };
    Ok(Prepared {
        job,
        lock: lock.filter(|_| !options.dry_run),
        announced,
        needs,
        notes,
        owner,
        control: contents.control,
    })
}

/// Reads the WAL that recovery replays, unless that is not wanted, and adds to the job what recovery
/// needs.
fn check_replay(
    job: &mut RestoreJob<'_>,
    contents: &BackupContents,
    data_directories: &[PathBuf],
) -> Result<Notes> {
    let mut notes = Notes::default();
    let replayed = (!job.options.quick).then(|| Replayed::read(job)).transpose()?;
    match &replayed {
        Some(replayed) => {
            job.new_tablespaces = replayed.check_tablespaces(job, data_directories)?;
            notes.broken_copies = replayed.broken_copies(job);
        }
        None => check_original(job)?,
    }
    notes.new_tablespaces =
        job.new_tablespaces.iter().map(|(oid, target)| (*oid, target.path.clone())).collect();
    notes.raised = raised_settings(contents, replayed.as_ref());
    job.settings.extend(notes.raised.iter().map(|(name, value, _)| (*name, value.to_string())));
    let settings = &job.plan.record.settings;
    let is_there = |file: &&OutsideFile| matches!(named::stat(Path::new(&file.path)), Ok(Some(_)));
    notes.missing = settings.outside.iter().filter(|file| !is_there(file)).cloned().collect();
    if Path::new(&settings.data_directory) != job.options.to {
        notes.old_paths = contents.configuration.below(Path::new(&settings.data_directory));
        notes
            .old_paths
            .retain(|(name, _)| job.recovery.settings(job.plan).iter().all(|(set, _)| set != name));
    }
    if job.waldir.is_none() {
        notes.lost_wal_directory = settings.wal_directory.clone();
    }
    Ok(notes)
}

/// Announces the restore, so that no prune removes the backup meanwhile; a dry run only looks. A
/// repository that cannot be written does not prevent the restore: if a prune removes objects
/// meanwhile, the restore fails.
fn announce(plan: &RestorePlan, options: &Options) -> Result<Option<Announcement>> {
    let id = &plan.record.id;
    let unprotected = |error: &Error| {
        tracing::info!(
            "a prune may remove the backup meanwhile, since the repository cannot be written: {error}"
        );
    };
    let begin = || {
        let heartbeat = Heartbeat {
            needs: vec![id.clone()],
            wal_from: Some(plan.record.start_lsn),
            ..Heartbeat::new(Operation::Restore)
        };
        Announcement::begin(&plan.archive, heartbeat, &options.random)
            .map_err(|error| unprotected(&error))
            .ok()
    };
    let announced = if options.dry_run { None } else { begin() };
    match plan.archive.may_need(id) {
        Ok(true) => Ok(announced),
        Ok(false) => Err(Error::new(Kind::Refused, "a prune is removing this backup, or has removed it")
            .hint("choose another backup: `walkeep list` shows them")),
        Err(error) if announced.is_none() => {
            tracing::info!("a prune may be removing the backup: {error}");
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Checks the directories, and locks the data directory if it exists.
fn check_directories(job: &RestoreJob<'_>, data_directories: &[PathBuf]) -> Result<Option<Lock>> {
    let options = job.options;
    job.roots().try_for_each(check_writable)?;
    if !options.scratch {
        job.roots().try_for_each(|root| check_surroundings(root, &options.foreign))?;
    }
    let lock = marker::lock(&job.data, options.wait)?;
    refuse_running(&options.to)?;
    for (oid, place) in &job.tablespaces {
        check_unlinked(*oid, place, &job.data, data_directories)?;
    }
    job.waldir.iter().try_for_each(|waldir| check_unused(waldir, &job.data, data_directories))?;
    if options.delta {
        delta::check(job)?;
    }
    check_content(job)?;
    Ok(lock)
}

/// Checks what the directories contain, and returns their states in order.
pub(super) fn check_content(job: &RestoreJob<'_>) -> Result<Vec<Emptiness>> {
    if job.options.delta {
        delta::check_content(job)?;
        // Nothing in them is removed because of its directory.
        return Ok(job.roots().map(|_| Emptiness::Empty).collect());
    }
    job.roots().map(|root| check_empty(job, root)).collect()
}

/// Refuses owners that do not exist on this machine.
fn check_owners(contents: &BackupContents) -> Result<Ownership> {
    let Some(data) = &contents.data else {
        return Err(Error::new(Kind::Damage, "the backup has no data directory"));
    };
    let ownership = Ownership::new(data)?;
    if let Some(user) = ownership.keeper() {
        progress::warn(
            &Error::new(
                Kind::Problem,
                format!(
                    "the cluster belonged to {}, but the restored files will belong to {user}",
                    ownership.recorded()
                ),
            )
            .hint("the server has to run as the owner of its files: restore as root or as that user"),
        );
    }
    Ok(ownership)
}

/// Refuses places of configuration files that exist or cannot be created.
fn check_config(job: &RestoreJob<'_>, contents: &BackupContents) -> Result<()> {
    let Some(config) = &job.config else {
        return Ok(());
    };
    check_entries(config.nearest())?;
    let Some(folder) = config.existing() else {
        return Ok(());
    };
    for Place { below, .. } in &contents.config {
        let existing = folder.entry(below)?;
        // What an earlier restore wrote is written again.
        let is_own =
            |stat: &Stat| job.resumes_config && job.ownership().is_ok_and(|own| own.may_change(stat));
        if existing.is_some_and(|stat| !job.options.delta && !is_own(&stat)) {
            let what = format!("{} exists already", config.path.join(below).display());
            return Err(Error::new(Kind::Refused, what)
                .hint("give --config-dir a directory that is empty or does not exist"));
        }
        for above in below.ancestors().skip(1) {
            if let Some(above) = folder.folder(above)? {
                check_entries(&above)?;
                break;
            }
        }
    }
    Ok(())
}
