//! `walkeep restore`: plans a restore, shows the plan, and carries it out.

use super::follow;
use crate::cli::args::{RestoreArgs, WaitArgs};
use crate::cli::exit::Exit;
use crate::cli::moment;
use crate::cli::render::{self, Report};
use crate::cli::restore_command::{self, Scratch};
use crate::cli::setup::{self, Context};
use crate::config::RepositoryUrl;
use crate::error::{Doing, Error, Failures, Kind, Result};
use crate::pg::lsn::Lsn;
use crate::pg::programs::Programs;
use crate::pg::segment::WalName;
use crate::pg::shell::quoted;
use crate::progress::{self, Cancel};
use crate::repo::active::Announcement;
use crate::repo::lock::Lock;
use crate::repo::window::Window;
use crate::repo::{Archive, Identity, Lineage, Repository};
use crate::restore::{
    self, Notes, PlanRequest, Prepared, RecoverySettings, RecoveryTarget, RestorePlan, Restored, SpaceNeed,
};
use jiff::Timestamp;
use serde::Serialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

pub fn run(context: &Context, args: &RestoreArgs) -> Result<Exit> {
    let to = setup::absolute(&args.to)?;
    let pgdata = &context.cluster.pgdata;
    if to != *pgdata && to.starts_with(pgdata) {
        return Err(Error::new(
            Kind::Refused,
            format!("{} lies in the data directory of the cluster", to.display()),
        )
        .hint("restore into a directory of its own"));
    }
    let mut plan = plan(context, args)?;
    if args.standby {
        plan.make_standby()?;
    }
    let recovery = RecoverySettings {
        restore_command: restore_command::build(
            context,
            if plan.needs_retired() { &["--retired"] } else { &[] },
        )?,
        action: args.action,
        standby: args.standby,
        as_primary: args.as_primary,
    };
    let options = options(context, args, to)?;
    // Neither a backup, nor a target, nor a timeline was named.
    let is_default = args.backup.is_none() && args.timeline.is_none() && plan.target == RecoveryTarget::End;
    describe(context, &plan, is_default);
    // Before anything is written: --follow needs the server's programs.
    let find = || {
        Programs::find(
            plan.archive.lineage().major,
            context.config.drill.bin.as_deref(),
            &|program, command| setup::run_as_writer(command, &context.config.path, program),
        )
    };
    let programs = args.follow.then(find).transpose()?;
    let lock = lock(context, plan.archive.repository(), &args.wait)?;
    if args.dry_run {
        // A real run must not be refused because of a dry run.
        drop(lock);
    }
    let prepared = restore::prepare(&options, &plan, &recovery)?;
    context.console.finish();
    try_restore_command(context, &plan, &prepared)?;
    note(context, &prepared.notes);
    if args.dry_run {
        context.print(&DryRun::make(context, &plan, &options, prepared)?)?;
        return Ok(Exit::Done);
    }
    execute(context, args, prepared, programs)
}

fn options(context: &Context, args: &RestoreArgs, to: PathBuf) -> Result<restore::Options> {
    let config_dir = args.config_dir.as_deref().map(setup::absolute).transpose()?;
    if config_dir.as_ref().is_some_and(|directory| directory.starts_with(&to)) {
        return Err(Error::new(Kind::Refused, "--config-dir lies in the new data directory").hint(
            "the old configuration names the old data directory: a server that finds it in the new one would start on the old",
        ));
    }
    Ok(restore::Options {
        progress: context.console.progress(),
        cancel: Cancel::default(),
        to,
        tablespaces: args.tablespace.clone(),
        waldir: args.waldir.as_deref().map(setup::absolute).transpose()?,
        config_dir,
        jobs: args.jobs.unwrap_or(context.config.backup.jobs),
        delta: args.delta,
        databases: args.database.clone(),
        scratch: false,
        quick: args.quick,
        has_other_repositories: context.repositories.len() > 1,
        allow_new_tablespaces: args.allow_new_tablespaces,
        dry_run: args.dry_run,
        original: Some(context.cluster.pgdata.clone()),
        foreign: setup::foreign(context),
        wait: setup::lock_timeout(&args.wait),
        random: setup::random_hex::<6>()?,
    })
}

fn execute(
    context: &Context,
    args: &RestoreArgs,
    prepared: Prepared<'_>,
    programs: Option<Programs>,
) -> Result<Exit> {
    let (options, plan, recovery) = prepared.inputs();
    let to = &options.to;
    let (notes, owner) = (prepared.notes.clone(), prepared.owner);
    let mut restored = prepared.run()?;
    context.console.finish();
    // The lease stays: the recovery that follows needs the WAL.
    let leave = |announced: Announcement| announced.leave().map_err(|error| progress::warn(&error)).is_ok();
    let has_lease = restored.announced.take().is_some_and(leave);
    summarize(context, args, &restored, to);
    if has_lease && !args.follow {
        context.console.say("no prune removes the WAL that recovery needs within a day");
    }
    let mut settings = start_settings(plan, &notes, to, options.config_dir.as_deref());
    settings.extend(args.port.map(|port| format!("port={port}")));
    let mut report = RestoreReport { plan, to, restored: &restored, end: None };
    let Some(programs) = programs else {
        context.console.say(&format!("start it with: {}", start_command(to, &settings)));
        context.print(&report)?;
        return Ok(Exit::Done);
    };
    let left_out = restored.left_out.iter().map(|database| database.oid);
    let left_out = left_out.chain(notes.broken_copies.iter().copied()).collect();
    let server = follow::Server { data: &restored.data, owner, programs: &programs, settings };
    let followed = follow::follow(context, plan, recovery, &left_out, server);
    context.console.finish();
    if let Ok(end) = &followed {
        context.console.say(&end.text);
        report.end = Some(end);
    }
    context.print(&report)?;
    followed.map(|_| Exit::Done)
}

/// Shows what the restored cluster needs and does that the backup does not show.
fn note(context: &Context, notes: &Notes) {
    let say = |line: &str| context.console.say(line);
    for (name, value, before) in &notes.raised {
        say(&format!(
            "{name} is set to {value}, since recovery needs it; the configuration of the backup has {before}"
        ));
    }
    for (oid, location) in &notes.new_tablespaces {
        say(&format!("recovery creates tablespace {oid} in {}", location.display()));
    }
    for oid in &notes.broken_copies {
        say(&format!(
            "database {oid} was created after the backup, out of the files of a database that is left out: it can only be dropped"
        ));
    }
    if let Some(directory) = &notes.lost_wal_directory {
        say(&format!(
            "pg_wal was a link to {directory}; it becomes a directory of the data directory: --waldir DIR puts the WAL elsewhere"
        ));
    }
    for (name, value) in &notes.old_paths {
        let what = format!(
            "the restored configuration sets {name} to {value}, in the data directory of the original"
        );
        progress::warn(&Error::new(Kind::Problem, what).hint("change it before the server is started"));
    }
    for file in &notes.missing {
        let what = format!(
            "{} is {}, which does not exist on this host and is not in the backup: the server may not start",
            file.setting, file.path
        );
        progress::warn(
            &Error::new(Kind::Problem, what)
                .hint("create it, or change the setting in the restored configuration"),
        );
    }
}

/// Shows what was restored and what the restored server will not do.
fn summarize(context: &Context, args: &RestoreArgs, restored: &Restored, to: &Path) {
    let say = |line: &str| context.console.say(line);
    let (bytes, files) = (render::size(restored.bytes), restored.files);
    say(&format!("restored {bytes} in {files} files into {}", to.display()));
    if args.delta {
        say(&format!("{} of it were already in place", render::size(restored.kept)));
    }
    for database in &restored.left_out {
        say(&format!("database {} ({}) was left out: it can only be dropped", database.name, database.oid));
    }
    for (oid, location) in &restored.tablespaces {
        say(&format!("tablespace {oid} is in {}", location.display()));
    }
    for file in &restored.config_left {
        say(&format!("{file} lies outside of the data directory and was not written; use --config-dir"));
    }
    if !restored.left_out.is_empty() && !args.follow {
        let oids: Vec<String> = restored.left_out.iter().map(|database| database.oid.to_string()).collect();
        say(&format!(
            "recovery skips pages that are missing or empty, until it ends (ignore_invalid_pages): look in the server's log for pages of relations of databases other than {}",
            oids.join(", ")
        ));
    }
    if !args.as_primary {
        say("it archives nowhere, runs no logical replication workers and waits for no synchronous standby \
             (postgresql.auto.conf; --as-primary leaves these as they were)");
    }
}

struct RestoreReport<'a> {
    plan: &'a RestorePlan,
    to: &'a Path,
    restored: &'a Restored,
    /// End of recovery; `None` without `--follow`.
    end: Option<&'a follow::RecoveryEnd>,
}

impl Report for RestoreReport<'_> {
    fn json(&self) -> impl Serialize {
        let mut report = json!({
            "backup": self.plan.record.id,
            "to": self.to,
            "bytes": self.restored.bytes,
            "files": self.restored.files,
            "kept": self.restored.kept,
        });
        if let Some(end) = self.end {
            report["reached_lsn"] = json!(end.reached);
            report["expected_lsn"] = json!(end.expected);
        }
        report
    }
}

/// Returns the plan of the first repository for which one can be made.
fn plan(context: &Context, args: &RestoreArgs) -> Result<RestorePlan> {
    let mut failures = Failures::new(progress::warn);
    for repository in setup::selected(context, &args.selection)? {
        match plan_from(context, args, &repository) {
            Ok(plan) => return Ok(plan),
            Err(error) => failures.push(error),
        }
    }
    failures.finish()?;
    Err(Error::defect("no repository is configured"))
}

fn plan_from(context: &Context, args: &RestoreArgs, repository: &Repository) -> Result<RestorePlan> {
    let archive = setup::archive(context, repository, &args.selection)?;
    let lineage = archive.lineage();
    let request = request(context, args, &archive)?;
    RestorePlan::make(archive, request.clone()).map_err(|error| {
        if error.kind() != Kind::Refused || args.selection.lineage.is_some() {
            return error;
        }
        // An upgrade begins a lineage; an older one may lead to the target.
        let others = repository.identities().unwrap_or_else(|_| Vec::new());
        let others = others.iter().rev().map(Identity::lineage).filter(|other| *other != lineage);
        let leads = |other: &Lineage| {
            let archive = repository.open(*other);
            archive.and_then(|archive| RestorePlan::make(archive, request.clone())).is_ok()
        };
        match others.into_iter().find(leads) {
            Some(other) => Error::new(Kind::Refused, error.to_string()).hint(format!(
                "the cluster was upgraded since: backups from before the upgrade lead there, with --lineage {other}"
            )),
            None => error,
        }
    })
}

fn request(context: &Context, args: &RestoreArgs, archive: &Archive) -> Result<PlanRequest> {
    let target = &args.target;
    let target = if let Some(text) = &target.time {
        RecoveryTarget::Time(moment::of_archive(text, archive)?)
    } else if let Some(lsn) = target.lsn {
        RecoveryTarget::Lsn(lsn)
    } else if let Some(xid) = target.xid {
        // PostgreSQL compares 32 bits; what pg_current_xact_id() prints may have an epoch above
        // them.
        RecoveryTarget::Xid(xid & 0xFFFF_FFFF)
    } else if let Some(name) = &target.name {
        RecoveryTarget::Name(name.clone())
    } else if target.immediate {
        RecoveryTarget::Immediate
    } else {
        RecoveryTarget::End
    };
    Ok(PlanRequest {
        backup: args.backup.clone(),
        target,
        exclusive: args.exclusive,
        timeline: args.timeline,
        allow_damaged: args.allow_damaged,
        follows_dead: false,
        server: setup::server_timeline(context, archive),
        now: jiff::Timestamp::now(),
    })
}

/// Locks the cluster's folder in the repository: two restores of one cluster at once are a mistake.
fn lock(context: &Context, repository: &Repository, wait: &WaitArgs) -> Result<Option<Lock>> {
    match &context.config.repository(repository.name())?.url {
        RepositoryUrl::File(root) => {
            let folder = root.join(repository.cluster());
            Lock::wait_for(&folder, setup::lock_timeout(wait)).doing("begin the restore").map(Some)
        }
        RepositoryUrl::S3 { .. } => Ok(None),
    }
}

/// Shows what will be restored, and the timelines that recovery follows.
fn describe(context: &Context, plan: &RestorePlan, is_default: bool) {
    context.console.say(&format!(
        "backup {} of {} ({}), WAL from {} to {} ({} segments), repository {}",
        plan.record.id,
        render::time(plan.record.stop_time),
        render::size(plan.record.size),
        plan.first_segment(),
        plan.reach.last,
        plan.reach.segments,
        plan.archive.repository().name(),
    ));
    let timelines = plan.history.parents.iter().filter(|(timeline, _)| *timeline >= plan.record.timeline);
    let timelines = timelines.map(|(timeline, end)| format!("{timeline} to {end}, then "));
    let timelines: String = timelines.collect();
    context.console.say(&format!("along timeline {timelines}{}", plan.history.timeline));
    if let Some(reason) = plan.stop_reason() {
        context.console.say(&reason);
    }
    let passed_over = plan.passed_over().filter(|_| is_default);
    for warning in plan.departure().into_iter().chain(passed_over) {
        progress::warn(&Error::new(Kind::Problem, warning).hint("`walkeep timelines` shows the branches"));
    }
}

/// Result of `--dry-run`.
struct DryRun<'a> {
    plan: &'a RestorePlan,
    /// Position of the last record of the WAL.
    last: Lsn,
    /// End of the last transaction in the WAL, if there is one.
    last_transaction: Option<Timestamp>,
    window: Option<Window>,
    rooms: Vec<SpaceNeed>,
    notes: Notes,
    /// Estimated duration in seconds; `None` without a drill to compare with.
    estimate: Option<f64>,
}

impl<'a> DryRun<'a> {
    /// Computes and shows what a restore would do.
    fn make(
        context: &Context,
        plan: &'a RestorePlan,
        options: &restore::Options,
        prepared: Prepared<'_>,
    ) -> Result<DryRun<'a>> {
        let tail = plan.tail()?;
        let dry_run = DryRun {
            plan,
            last: tail.last_record.unwrap_or(plan.reach.last.start(plan.record.segment_size)),
            last_transaction: tail.last_transaction.map(|last| last.time),
            window: plan.window()?,
            rooms: prepared.needs,
            notes: prepared.notes,
            estimate: estimate(plan),
        };
        dry_run.lines().iter().for_each(|line| context.console.say(line));
        context.console.say(&format!("nothing was written to {}", options.to.display()));
        Ok(dry_run)
    }

    fn lines(&self) -> Vec<String> {
        let ended = self.last_transaction;
        let ended = ended.map_or_else(String::new, |time| format!(", the last transaction ended at {time}"));
        let (from, last) = (self.plan.record.stop_lsn, self.last);
        let mut lines = vec![format!("the WAL leads without a hole from {from} to {last}{ended}")];
        for room in &self.rooms {
            let (needed, free) = (render::size(room.needed), render::size(room.free));
            lines.push(format!("space: {needed} needed in {}, {free} free there", room.path.display()));
        }
        lines.push(match self.estimate {
            Some(seconds) => format!("about {seconds:.0} s with recovery, by the last drill"),
            None => "the duration is unknown before a `walkeep drill`".to_owned(),
        });
        lines
    }
}

impl Report for DryRun<'_> {
    fn json(&self) -> impl Serialize {
        let DryRun { plan, last, last_transaction, window, rooms, notes, estimate } = self;
        let rooms =
            rooms.iter().map(|room| json!({"path": room.path, "needed": room.needed, "free": room.free}));
        let raised: BTreeMap<&str, u32> =
            notes.raised.iter().map(|(name, value, _)| (*name, *value)).collect();
        let tablespaces = notes.new_tablespaces.iter();
        let tablespaces = tablespaces.map(|(oid, location)| json!({"oid": oid, "location": location}));
        json!({
            "backup": plan.record.id,
            "repository": plan.archive.repository().name(),
            "target": target_json(&plan.target),
            "stop": target_json(&plan.stop.target),
            "timeline": plan.history.timeline,
            "departure": plan.departure(),
            "wal": {
                "first": plan.first_segment(),
                "last": plan.reach.last,
                "segments": plan.reach.segments,
            },
            "gaps": plan.gaps(),
            "bytes": plan.record.size,
            "estimate": estimate,
            "reaches": {"lsn": last, "time": last_transaction.map(render::time)},
            "window": render::moments(window.as_ref()),
            "space": rooms.collect::<Vec<_>>(),
            "raised_settings": raised,
            "new_tablespaces": tablespaces.collect::<Vec<_>>(),
            "lost_wal_directory": notes.lost_wal_directory,
            "missing_files": notes.missing,
            "old_paths": notes.old_paths.iter().cloned().collect::<BTreeMap<String, String>>(),
        })
    }
}

fn target_json(target: &RecoveryTarget) -> Value {
    match target {
        RecoveryTarget::End => json!({"type": "end"}),
        RecoveryTarget::Time(time) => json!({"type": "time", "time": render::time(*time)}),
        RecoveryTarget::Lsn(lsn) => json!({"type": "lsn", "lsn": lsn}),
        RecoveryTarget::Xid(xid) => json!({"type": "xid", "xid": xid}),
        RecoveryTarget::Name(name) => json!({"type": "name", "name": name}),
        RecoveryTarget::Immediate => json!({"type": "immediate"}),
    }
}

/// Returns the estimated duration in seconds by the last complete drill: restore scaled by bytes,
/// recovery by WAL.
fn estimate(plan: &RestorePlan) -> Option<f64> {
    let drills = plan.archive.drills().ok()?;
    drills.iter().rev().find_map(|drill| {
        let of =
            |seconds: Option<f64>, here: u64, there: u64| Some(seconds? * here as f64 / there.max(1) as f64);
        let restore = of(drill.restore_seconds, plan.record.size, drill.bytes)?;
        Some(restore + of(drill.recovery_seconds, plan.reach.segments, drill.segments)?)
    })
}

const DATA_DIRECTORY: &str = "data_directory";

/// Returns the settings with which the restored server has to be started: a configuration from
/// outside of the data directory names the old directory and its files, so these are overridden.
fn start_settings(plan: &RestorePlan, notes: &Notes, to: &Path, config_dir: Option<&Path>) -> Vec<String> {
    let settings = &plan.record.settings;
    let config_file = Path::new(&settings.config_file);
    let Some(name) = config_file.file_name().filter(|_| !config_file.starts_with(&settings.data_directory))
    else {
        // It may name the old data directory all the same, on which the server would start.
        let is_named = notes.old_paths.iter().any(|(name, _)| name == DATA_DIRECTORY);
        return is_named.then(|| format!("{DATA_DIRECTORY}={}", to.display())).into_iter().collect();
    };
    let config_file = config_dir.map_or_else(|| config_file.to_owned(), |directory| directory.join(name));
    vec![
        format!("config_file={}", config_file.display()),
        format!("{DATA_DIRECTORY}={}", to.display()),
        "external_pid_file=".to_owned(),
    ]
}

/// Returns the command that starts the server, as a shell reads it. `pg_ctl` puts the path of the
/// data directory in double quotes for a shell of its own, which expands it, so a path that such a
/// shell would change is given to the server itself.
fn start_command(to: &Path, settings: &[String]) -> String {
    let to = to.to_string_lossy();
    let options: Vec<String> = settings.iter().map(|setting| format!("-c {}", quoted(setting))).collect();
    let options = options.join(" ");
    let space = if options.is_empty() { "" } else { " " };
    if to.contains(['$', '`', '"', '\\', '\n']) {
        return format!("postgres -D {}{space}{options}", quoted(&to));
    }
    let options = if options.is_empty() { options } else { format!("-o {}", quoted(&options)) };
    format!("pg_ctl -D {}{space}{options} start", quoted(&to))
}

/// Runs the restore command once as the user that will run the server, so that an archive that this
/// user cannot read is found before anything is written. Fetches nothing ahead.
fn try_restore_command(context: &Context, plan: &RestorePlan, prepared: &Prepared<'_>) -> Result<()> {
    let command = restore_command::build(context, &["--repository", plan.archive.repository().name()])?;
    let place = Scratch::make(prepared.owner)?;
    // walfetch recognizes the data directory in which it is started by these two.
    place.write("PG_VERSION", format!("{}\n", plan.archive.lineage().major).as_bytes())?;
    place.write("global/pg_control", &prepared.control)?;
    let destination = place.path().join("segment");
    let name = WalName::Segment(plan.first_segment());
    restore_command::call(&command, name, place.path(), &destination).map_err(|error| {
        error
            .doing("the restored server could not read the archive")
            .hint("the user that runs the server has to be able to read the configuration and the repository")
    })
}
