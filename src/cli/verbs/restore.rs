//! `walkeep restore`.

use super::follow;
use crate::cli::setup::Context;
use crate::cli::{args, moment, output, render, setup};
use crate::config::Url;
use crate::error::{Doing, Error, Kind, Result};
use crate::pg::programs::Programs;
use crate::pg::segment::WalName;
use crate::progress::{self, Cancel};
use crate::repo::lock::Lock;
use crate::repo::{Archive, Repository};
use crate::restore::{self, Plan, Recovery, Target, Wish};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::Command;

pub fn run(context: &Context, args: &args::RestoreArgs) -> Result<u8> {
    let to = std::path::absolute(&args.to).map_err(|e| Error::io("find the working directory", &e))?;
    if to != context.cluster.pgdata && to.starts_with(&context.cluster.pgdata) {
        return Err(Error::new(
            Kind::Refused,
            format!("{} lies in the data directory of the cluster", to.display()),
        )
        .hint("restore into a directory of its own"));
    }
    let plan = plan(context, args)?;
    if !args.allow_new_tablespaces && to != context.cluster.pgdata {
        refuse_new_tablespaces(&context.cluster.pgdata, &plan)?;
    }
    let recovery = recovery(context, args)?;
    let config_dir = args.config_dir.as_ref().map(std::path::absolute).transpose();
    let config_dir = config_dir.map_err(|e| Error::io("find the working directory", &e))?;
    if config_dir.as_ref().is_some_and(|directory| directory.starts_with(&to)) {
        return Err(Error::new(Kind::Refused, "--config-dir lies in the new data directory").hint(
            "the old configuration names the old data directory: a server that finds it in the new one would start on the old",
        ));
    }
    let options = restore::Options {
        progress: context.console.progress(),
        cancel: Cancel::default(),
        to: to.clone(),
        tablespaces: args.tablespace.clone(),
        config_dir,
        jobs: args.jobs.unwrap_or(context.config.backup.jobs),
        delta: args.delta,
        databases: args.database.clone(),
        scratch: false,
        foreign: setup::foreign(context),
        wait: setup::lock_timeout(&args.wait),
        random: setup::random_hex::<6>()?,
    };
    describe(context, &plan)?;
    if args.dry_run {
        return dry_run(context, &plan, &options, &recovery);
    }
    // Before anything is written: with --follow there have to be programs to start.
    let programs = match args.follow {
        true => Some(Programs::find(plan.archive.lineage().major, context.config.drill.bin.as_deref())?),
        false => None,
    };
    let _alone = lock(context, plan.archive.repository(), &args.wait)?;
    let restored = restore::run(&options, &plan, &recovery)?;
    context.console.finish();
    try_restore_command(&plan, &recovery, &to)?;
    // Recovery, which is still to come, needs the WAL.
    if let Some(announced) = restored.announced
        && let Err(error) = announced.leave()
    {
        progress::warn(&error);
    }
    let say = |line: &str| context.console.say(line);
    say(&format!(
        "restored {} in {} files into {}",
        render::size(restored.bytes),
        restored.files,
        to.display()
    ));
    if args.delta {
        say(&format!("{} of it were in their place already", render::size(restored.kept)));
    }
    for database in &restored.left_out {
        say(&format!("database {} ({}) was left out: it can only be dropped", database.name, database.oid));
    }
    for (oid, location) in &restored.tablespaces {
        say(&format!("tablespace {oid} is in {}", location.display()));
    }
    for file in &restored.config_left {
        say(&format!("{file} lies outside of the data directory and was not written: --config-dir does"));
    }
    let changed = "it archives nowhere, runs no logical replication workers and waits for no synchronous standby \
                   (postgresql.auto.conf; --as-primary leaves these as they were)";
    if !args.as_primary {
        say(changed);
    }
    let start = start_options(&plan, &to, options.config_dir.as_deref());
    let mut report = serde_json::json!({
        "backup": plan.record.id,
        "to": to,
        "bytes": restored.bytes,
        "files": restored.files,
        "kept": restored.kept,
    });
    let Some(programs) = programs else {
        let with = start.map_or_else(String::new, |options| format!(" -o '{options}'"));
        say(&format!("start it with: pg_ctl -D {}{with} start", to.display()));
        if context.json {
            output::print_json(&report)?;
        }
        return Ok(0);
    };
    let followed = follow::follow(context, &plan, &recovery, &to, &programs, start.as_deref());
    context.console.finish();
    if let Ok(end) = &followed {
        report["reached_lsn"] = serde_json::json!(end.reached);
        report["expected_lsn"] = serde_json::json!(end.expected);
        say(&end.words);
    }
    if context.json {
        output::print_json(&report)?;
    }
    followed.map(|_| 0)
}

/// A tablespace that was created after the backup comes back by WAL alone: recovery makes its link to the original
/// directory and writes there. Beside the original on one machine that would be into its files.
fn refuse_new_tablespaces(pgdata: &Path, plan: &Plan) -> Result<()> {
    let record = &plan.record;
    let known = |oid: u32| record.tablespaces.iter().any(|known| known.tablespace.oid == oid);
    let directory = pgdata.join("pg_tblspc");
    let unseen = |e: std::io::Error| {
        Error::io(format!("look for new tablespaces in {}", directory.display()), &e)
            .hint("--allow-new-tablespaces restores without having looked")
    };
    let entries = match std::fs::read_dir(&directory) {
        // Gone, or of a user whose tablespaces this one cannot write to either.
        Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::PermissionDenied) => return Ok(()),
        entries => entries.map_err(unseen)?,
    };
    for entry in entries {
        let entry = entry.map_err(unseen)?;
        let Some(oid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        let location = match std::fs::read_link(entry.path()) {
            // A directory in its place, or dropped meanwhile.
            Err(e) if matches!(e.kind(), ErrorKind::InvalidInput | ErrorKind::NotFound) => continue,
            location => location.map_err(unseen)?,
        };
        if !known(oid) {
            return Err(Error::new(
                Kind::Refused,
                format!(
                    "tablespace {oid} of {} was created after backup {}: recovery would write into {}",
                    pgdata.display(),
                    record.id,
                    location.display()
                ),
            )
            .hint("take a new backup and restore that, or restore on another machine; --allow-new-tablespaces when the target lies before the tablespace was created"));
        }
    }
    Ok(())
}

/// The first repository from which the wish can be fulfilled.
fn plan(context: &Context, args: &args::RestoreArgs) -> Result<Plan> {
    let mut failure: Option<Error> = None;
    for repository in setup::chosen(context, &args.selection)? {
        let plan = setup::archive(context, &repository, &args.selection)
            .and_then(|archive| wish(args, &archive).map(|wish| (archive, wish)))
            .and_then(|(archive, wish)| Plan::make(archive, wish));
        match plan {
            Ok(plan) => return Ok(plan),
            Err(error) => {
                if let Some(earlier) = failure.replace(error) {
                    progress::warn(&earlier);
                }
            }
        }
    }
    Err(failure.unwrap_or_else(|| Error::new(Kind::Config, "there is no repository")))
}

fn wish(args: &args::RestoreArgs, archive: &Archive) -> Result<Wish> {
    let target = &args.target;
    let target = if let Some(text) = &target.time {
        Target::Time(moment::of_archive(text, archive)?)
    } else if let Some(lsn) = target.lsn {
        Target::Lsn(lsn)
    } else if let Some(xid) = target.xid {
        // PostgreSQL compares 32 bits; what pg_current_xact_id() prints may have an epoch above them.
        Target::Xid(xid & 0xFFFF_FFFF)
    } else if let Some(name) = &target.name {
        Target::Name(name.clone())
    } else if target.immediate {
        Target::Immediate
    } else {
        Target::End
    };
    Ok(Wish {
        backup: args.backup.clone(),
        target,
        timeline: args.timeline,
        allow_damaged: args.allow_damaged,
    })
}

/// A `restore_command` for the cluster, with more arguments for `walfetch`.
pub fn command(context: &Context, more: &[&str]) -> Result<String> {
    let absolute = |path: &Path| std::path::absolute(path).doing(|| format!("find {}", path.display()));
    let walfetch = std::env::current_exe()
        .map(|path| path.with_file_name("walfetch"))
        .doing(|| "find walfetch".to_owned())?;
    if !walfetch.is_file() {
        return Err(Error::new(Kind::Config, format!("there is no {}", walfetch.display()))
            .hint("install walpush, walfetch and walkeep in one directory"));
    }
    let config = absolute(&context.config.path)?;
    let word = |path: &Path| {
        path.to_str().map(str::to_owned).ok_or_else(|| {
            Error::new(
                Kind::Config,
                format!("{} is not UTF-8 and cannot stand in restore_command", path.display()),
            )
        })
    };
    let (walfetch, config) = (word(&walfetch)?, word(&config)?);
    let words = [&walfetch, "--config", &config, "--cluster", &context.cluster.name];
    let words: Vec<&str> = words.into_iter().chain(more.iter().copied()).collect();
    Ok(restore::restore_command(&words))
}

fn recovery(context: &Context, args: &args::RestoreArgs) -> Result<Recovery> {
    Ok(Recovery {
        restore_command: command(context, &[])?,
        action: args.action,
        exclusive: args.exclusive,
        standby: args.standby,
        as_primary: args.as_primary,
    })
}

/// Two restores of one cluster at once are a mistake; the lock is the cluster's folder in the repository.
fn lock(context: &Context, repository: &Repository, wait: &args::WaitArgs) -> Result<Option<Lock>> {
    match &context.config.repository(repository.name())?.url {
        Url::File(root) => {
            let folder = root.join(repository.cluster());
            Lock::wait_for(&folder, setup::lock_timeout(wait))
                .doing(|| "begin the restore".to_owned())
                .map(Some)
        }
        Url::S3 { .. } => Ok(None),
    }
}

/// What will be done, and how far it leads.
fn describe(context: &Context, plan: &Plan) -> Result<()> {
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
    Ok(())
}

fn dry_run(context: &Context, plan: &Plan, options: &restore::Options, recovery: &Recovery) -> Result<u8> {
    let say = |line: &str| context.console.say(line);
    let tail = plan.tail()?;
    let window = plan.window()?;
    let last = tail.last_record.unwrap_or(plan.reach.last.start(plan.record.segment_size));
    let ended = tail.last_transaction.map(|last| last.time);
    let text = ended.map_or_else(String::new, |time| format!(", the last transaction ended at {time}"));
    say(&format!("the WAL leads without a hole from {} to {last}{text}", plan.record.stop_lsn));
    let rooms = restore::rooms(options, plan, recovery)?;
    for room in &rooms {
        let (needed, free) = (render::size(room.needed), render::size(room.free));
        say(&format!("space: {needed} needed in {}, {free} free there", room.path.display()));
    }
    let estimate = estimate(plan);
    say(&match estimate {
        Some(seconds) => format!("about {seconds:.0} s with recovery, by the last drill"),
        None => "how long it takes is known after a `walkeep drill`".to_owned(),
    });
    say(&format!("nothing was written to {}", options.to.display()));
    rooms.iter().try_for_each(restore::Room::check)?;
    if context.json {
        let target = match &plan.target {
            Target::End => serde_json::json!({"type": "end"}),
            Target::Time(time) => serde_json::json!({"type": "time", "time": render::time(*time)}),
            Target::Lsn(lsn) => serde_json::json!({"type": "lsn", "lsn": lsn}),
            Target::Xid(xid) => serde_json::json!({"type": "xid", "xid": xid}),
            Target::Name(name) => serde_json::json!({"type": "name", "name": name}),
            Target::Immediate => serde_json::json!({"type": "immediate"}),
        };
        output::print_json(&serde_json::json!({
            "backup": plan.record.id,
            "repository": plan.archive.repository().name(),
            "target": target,
            "timeline": plan.history.timeline,
            "wal": {
                "first": plan.first_segment(),
                "last": plan.reach.last,
                "segments": plan.reach.segments,
            },
            "gaps": plan.gaps(),
            "bytes": plan.record.size,
            "estimate": estimate,
            "reaches": {"lsn": last, "time": ended.map(render::time)},
            "window": render::moments(window.as_ref()),
            "space": rooms.iter().map(|room| serde_json::json!({
                "path": room.path,
                "needed": room.needed,
                "free": room.free,
            })).collect::<Vec<_>>(),
        }))?;
    }
    Ok(0)
}

/// How many seconds it takes, by the last drill that did as much: restore by bytes, recovery by WAL.
fn estimate(plan: &Plan) -> Option<f64> {
    let drills = plan.archive.drills().ok()?;
    drills.iter().rev().find_map(|drill| {
        let of =
            |seconds: Option<f64>, here: u64, there: u64| Some(seconds? * here as f64 / there.max(1) as f64);
        let restore = of(drill.restore_seconds, plan.record.size, drill.bytes)?;
        Some(restore + of(drill.recovery_seconds, plan.reach.segments, drill.segments)?)
    })
}

/// What the restored server has to be told when it is started. A configuration from outside of the data directory names
/// the old one and its files, so these are overridden.
fn start_options(plan: &Plan, to: &Path, config_dir: Option<&Path>) -> Option<String> {
    let settings = &plan.record.settings;
    let config_file = Path::new(&settings.config_file);
    if config_file.starts_with(&settings.data_directory) {
        return None;
    }
    let name = config_file.file_name().unwrap_or_default();
    let config_file = config_dir.map_or_else(|| config_file.to_owned(), |directory| directory.join(name));
    Some(format!(
        "-c config_file={} -c data_directory={} -c external_pid_file=",
        config_file.display(),
        to.display(),
    ))
}

/// Runs the restore command once as the server will: in the new directory, through a shell, as the user that
/// owns it. An archive that cannot be read is found out now and not when the server starts.
fn try_restore_command(plan: &Plan, recovery: &Recovery, to: &Path) -> Result<()> {
    let destination = PathBuf::from("pg_wal/RECOVERYXLOG");
    let tried = call(&recovery.restore_command, WalName::Segment(plan.first_segment()), to, &destination);
    let _ = std::fs::remove_file(to.join(&destination));
    tried.map_err(|error| error.doing("the restored server could not read the archive").hint(
        "the files are restored; the user that runs the server has to be able to read the configuration and the repository before it is started",
    ))
}

/// Runs a `restore_command` as a server does: by the shell, in a directory, as the owner of that.
pub fn call(command: &str, name: WalName, directory: &Path, destination: &Path) -> Result<()> {
    use std::os::unix::fs::MetadataExt;
    use std::os::unix::process::CommandExt;
    let command = fill_in(command, &name.to_string(), destination);
    let owner = directory.metadata().doing(|| format!("look at {}", directory.display()))?;
    let mut shell = Command::new("/bin/sh");
    shell.arg("-c").arg(&command).current_dir(directory);
    if nix::unistd::geteuid().is_root() && owner.uid() != 0 {
        shell.uid(owner.uid()).gid(owner.gid());
    }
    let output = shell.output().doing(|| "try the restore_command".to_owned())?;
    match output.status.success() {
        true => Ok(()),
        false => {
            let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            Err(Error::new(Kind::Failed, format!("`{command}`: {}: {said}", output.status)))
        }
    }
}

/// A `restore_command` as PostgreSQL passes it to the shell.
fn fill_in(command: &str, name: &str, destination: &Path) -> String {
    let mut filled = String::new();
    let mut parts = command.split('%');
    filled.push_str(parts.next().unwrap_or_default());
    let mut doubled = false;
    for part in parts {
        match part.chars().next() {
            _ if doubled => {
                filled.push_str(part);
                doubled = false;
            }
            None => {
                filled.push('%');
                doubled = true;
            }
            Some('f') => filled.push_str(&format!("{name}{}", &part[1..])),
            Some('p') => filled.push_str(&format!("{}{}", destination.display(), &part[1..])),
            Some(_) => filled.push_str(part),
        }
    }
    filled
}
