//! Changes that recovery makes to a restored cluster and that have to be known before anything is
//! written: settings that the WAL needs, tablespaces that it creates, and whether the target is in
//! it. All WAL that recovery replays is read once.

use super::access::{check_surroundings, check_unlinked, check_unnamed, check_writable};
use super::contents::BackupContents;
use super::job::RestoreJob;
use super::locate::SUBTRANSACTION;
use super::mapping;
use super::stop::RecoveryTarget;
use super::target::{Role, Target, names};
use crate::error::{Doing, Error, Kind, Result};
use crate::fs::named;
use crate::pg::record::{Meaning, Parameters};
use crate::pg::shell::quoted;
use crate::progress;
use crate::repo::replay::{ReplayFacts, ReplayStep, RestorePoint};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// Maximum number of restore points in a hint.
const MAX_POINTS: usize = 10;

/// Defaults of the settings of which replay needs a minimum; those of PostgreSQL 15, which no later
/// version has lowered.
const DEFAULTS: [(&str, u32); 5] = [
    ("max_connections", 100),
    ("max_worker_processes", 8),
    ("max_wal_senders", 10),
    ("max_prepared_transactions", 0),
    ("max_locks_per_transaction", 64),
];

/// `WAL_LEVEL_MINIMAL` of `WalLevel`.
const MINIMAL: u32 = 0;

/// Whether another repository may have a good copy of what could not be read. Recovery takes each
/// segment from any repository.
fn is_about_a_segment(error: &Error) -> bool {
    matches!(error.kind(), Kind::Damage | Kind::Hole | Kind::Unavailable | Kind::Timeout)
}

/// Facts from the WAL.
#[derive(Default)]
pub(super) struct Replayed {
    parameters: Option<Parameters>,
    /// Locations of the tablespaces that are created, by OID.
    tablespaces: BTreeMap<u32, PathBuf>,
    /// Databases that are created as a copy of the files of another one: OID, and OID of the other.
    copies: Vec<(u32, u32)>,
    /// Whether recovery stops before the end of the WAL: later WAL is not replayed.
    is_bounded: bool,
}

impl Replayed {
    /// Reads the WAL that the plan replays. Refuses a target that is not in it, and WAL that does
    /// not continue before the target.
    pub fn read(job: &RestoreJob<'_>) -> Result<Replayed> {
        let (options, plan) = (job.options, job.plan);
        let record = &plan.record;
        progress::step("reading the WAL");
        options.progress.set(0, plan.reach.segments.saturating_mul(record.segment_size.bytes()));
        let mut found = Replayed::default();
        let mut points: Vec<RestorePoint> = Vec::new();
        let mut minimal = None;
        let read = plan.replay(
            &|| options.cancel.is_cancelled(),
            &|bytes| options.progress.add_done(bytes),
            |record_found, step| {
                // A server begins with the redo point of the backup.
                if step == ReplayStep::StopBefore || record_found.begin < record.start_lsn {
                    return;
                }
                match &record_found.meaning {
                    Meaning::Tablespace { oid, location } if !location.is_empty() => {
                        let location = PathBuf::from(OsString::from_vec(location.clone()));
                        found.tablespaces.insert(*oid, location);
                    }
                    Meaning::Database { oid, copied_from: Some(source), .. } => {
                        found.copies.push((*oid, *source));
                    }
                    Meaning::Parameters(parameters) if parameters.wal_level == MINIMAL => {
                        minimal.get_or_insert(record_found.begin);
                    }
                    Meaning::RestorePoint { name, time } => {
                        points.push(RestorePoint { name: name.clone(), end: record_found.end, time: *time });
                    }
                    _ => {}
                }
            },
        );
        let facts = match read {
            Ok(facts) => facts,
            Err(error) if options.has_other_repositories && is_about_a_segment(&error) => {
                progress::warn(
                    &error.doing("another repository may have this WAL; what it changes is not known"),
                );
                return Ok(found);
            }
            Err(error) if is_about_a_segment(&error) => {
                return Err(error.hint(
                    "--quick restores without reading the WAL; recovery then ends before this segment",
                ));
            }
            Err(error) => return Err(error),
        };
        if let Some(begin) = minimal {
            return Err(Error::new(
                Kind::Refused,
                format!("wal_level was set to minimal at {begin}: recovery cannot go further (CheckRequiredParameterValues)"),
            )
            .hint("choose a target before that, such as --immediate, or a newer backup"));
        }
        check_target(job, &facts, &points)?;
        found.parameters = facts.parameters;
        found.is_bounded = facts.stop.is_some() || plan.stop.target == RecoveryTarget::Immediate;
        Ok(found)
    }

    /// Databases that are created from the files of databases that are left out, so that they cannot
    /// be read.
    pub fn broken_copies(&self, job: &RestoreJob<'_>) -> Vec<u32> {
        let left_out = job.chosen.left_out(&job.plan.record);
        let mut broken: Vec<u32> = Vec::new();
        for (oid, source) in &self.copies {
            if left_out.iter().any(|database| database.oid == *source) || broken.contains(source) {
                broken.push(*oid);
            }
        }
        broken
    }

    /// Checks the locations of tablespaces that the WAL creates, and returns the ones that have to
    /// be created first: replay needs the directory (`create_tablespace_directories` in PostgreSQL's
    /// `tablespace.c`), removes this server's directory in it, and follows no mapping.
    pub fn check_tablespaces(
        &self,
        job: &RestoreJob<'_>,
        data_directories: &[PathBuf],
    ) -> Result<BTreeMap<u32, Target>> {
        let mut new = BTreeMap::new();
        for (oid, location) in &self.tablespaces {
            if job.options.allow_new_tablespaces {
                continue;
            }
            let target = check_tablespace(job, *oid, location, data_directories)?;
            if !job.tablespaces.contains_key(oid) {
                new.insert(*oid, target);
            }
        }
        if !self.is_bounded {
            check_original(job)?;
        }
        Ok(new)
    }
}

/// Opens the location of a tablespace that the WAL creates. Refuses one in which recovery would
/// destroy something, and for root one that the owner of the files could not create.
fn check_tablespace(
    job: &RestoreJob<'_>,
    oid: u32,
    location: &Path,
    data_directories: &[PathBuf],
) -> Result<Target> {
    let options = job.options;
    let refused = |reason: &str| {
        Err(Error::new(
            Kind::Refused,
            format!(
                "tablespace {oid} was created after backup {}: recovery would write into {}, {reason}",
                job.plan.record.id,
                location.display()
            ),
        )
        .hint("take a new backup and restore that, restore on another machine, or choose a target before the tablespace was created; --allow-new-tablespaces restores all the same"))
    };
    if job.tablespaces.get(&oid).is_some_and(|place| place.path != location) {
        return refused("whatever --tablespace says");
    }
    let target = mapping::open(Role::Tablespace(oid), location, false)?;
    if check_unlinked(oid, &target, &job.data, data_directories).is_err() {
        return refused("which is a tablespace of another data directory");
    }
    let is_original = options.original.as_ref() == Some(&options.to);
    let has_files = names(&target)?.iter().any(|name| name.to_string_lossy().starts_with("PG_"));
    if !is_original && has_files {
        return refused("which has the files of a tablespace");
    }
    check_writable(&target)?;
    if !location.starts_with(&options.to) {
        check_surroundings(&target, &options.foreign)?;
    }
    if check_unnamed(&target, job.ownership()?).is_err() {
        let path = quoted(&location.to_string_lossy());
        let owner = job.ownership()?.recorded();
        return refused("which root does not create").map_err(|error: Error| {
            error.with_hint(format!("if that is the right place: install -d -m 0700 -o {owner} {path}"))
        });
    }
    Ok(target)
}

/// Refuses a plan when the original has tablespaces that were created after the backup and may be in
/// WAL that is archived later.
pub(super) fn check_original(job: &RestoreJob<'_>) -> Result<()> {
    let options = job.options;
    match &options.original {
        Some(original) if !options.allow_new_tablespaces && *original != options.to => {
            refuse_new_tablespaces(original, job)
        }
        _ => Ok(()),
    }
}

fn refuse_new_tablespaces(original: &Path, job: &RestoreJob<'_>) -> Result<()> {
    let record = &job.plan.record;
    let known = |oid: u32| record.tablespaces.iter().any(|known| known.tablespace.oid == oid);
    let directory = original.join("pg_tblspc");
    let unseen = |error: Error| {
        error
            .doing(format!("look for new tablespaces in {}", directory.display()))
            .hint("--allow-new-tablespaces restores without having looked")
    };
    let entries = match named::list(&directory) {
        // Missing, or owned by a user whose tablespaces this one cannot write to either.
        Ok(None) => return Ok(()),
        Err(error) if error.kind() == Kind::Denied => return Ok(()),
        entries => entries.map_err(unseen)?.unwrap_or_default(),
    };
    for (name, _) in entries {
        let Some(oid) = name.to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        // A directory in its place, or dropped meanwhile.
        let Some(location) = named::link_target(&directory.join(&name)).map_err(unseen)? else {
            continue;
        };
        if !known(oid) {
            return Err(Error::new(
                Kind::Refused,
                format!(
                    "tablespace {oid} of {} was created after backup {}: recovery would write into {}",
                    original.display(),
                    record.id,
                    location.display()
                ),
            )
            .hint("take a new backup and restore that, or restore on another machine; --allow-new-tablespaces when the target lies before the tablespace was created"));
        }
    }
    Ok(())
}

/// Settings that have to be larger than in the restored configuration: names, values, and the
/// present values.
pub(super) fn raised_settings(
    contents: &BackupContents,
    replayed: Option<&Replayed>,
) -> Vec<(&'static str, u32, u32)> {
    let of_wal = replayed.and_then(|replayed| replayed.parameters).map(|found| found.least_settings());
    let of_backup = contents.least_settings;
    let needed = |name: &str| {
        let of = |values: &[(&'static str, u32)]| {
            values.iter().find(|(other, _)| *other == name).map_or(0, |(_, value)| *value)
        };
        of(&of_backup).max(of_wal.as_ref().map_or(0, |values| of(values)))
    };
    let raised = |(name, default): (&'static str, u32)| {
        let text = contents.configuration.get(name);
        // A value in another notation is taken for too small.
        let present = text.map_or(default, |text| text.parse().unwrap_or(0));
        let needed = needed(name);
        (needed > present).then_some((name, needed, present))
    };
    DEFAULTS.into_iter().filter_map(raised).collect()
}

/// Refuses a target at which recovery would not stop.
fn check_target(job: &RestoreJob<'_>, facts: &ReplayFacts, points: &[RestorePoint]) -> Result<()> {
    let (plan, record) = (job.plan, &job.plan.record);
    if let Some(seam) = facts.seam.filter(|_| facts.stop.is_none()) {
        return Err(seam.error()).doing("read the WAL");
    }
    let what = match &plan.stop.target {
        RecoveryTarget::Name(name) => format!("restore point {name:?}"),
        RecoveryTarget::Xid(xid) => format!("the end of transaction {xid}"),
        _ => return Ok(()),
    };
    let reason = match facts.stop {
        Some(stop) if stop >= record.stop_lsn => return Ok(()),
        Some(stop) => {
            format!("{what} is at {stop}, before the end of backup {} ({})", record.id, record.stop_lsn)
        }
        None => {
            let end = facts.end.unwrap_or(record.stop_lsn);
            format!("{what} is not in the WAL from {} to {end}", record.start_lsn)
        }
    };
    let hint = match &plan.stop.target {
        RecoveryTarget::Name(_) => restore_points(points),
        _ => SUBTRANSACTION.to_owned(),
    };
    Err(Error::new(Kind::Refused, reason).hint(format!(
        "{hint}; an older backup may lead there, and later WAL may not be archived yet (select pg_switch_wal() on the primary)"
    )))
}

/// The restore points in the WAL, for a hint.
fn restore_points(points: &[RestorePoint]) -> String {
    let shown = points.iter().rev().filter(|point| point.name != b"walkeep").take(MAX_POINTS);
    let shown: Vec<String> =
        shown.map(|point| format!("{:?} ({})", String::from_utf8_lossy(&point.name), point.time)).collect();
    if shown.is_empty() {
        "there are no restore points".to_owned()
    } else {
        format!("the restore points are {}", shown.join(", "))
    }
}
