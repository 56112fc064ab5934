//! `walkeep drill`: proves that a backup restores, and reports how far its recovery got.

use crate::cli::args::DrillArgs;
use crate::cli::contents::Contents;
use crate::cli::exit::Exit;
use crate::cli::render::{self, Report};
use crate::cli::setup::{self, Context};
use crate::cli::{interrupt, moment, output, restore_command};
use crate::drill::{self, DrillRequest, Selection};
use crate::error::{Error, Kind, Result};
use crate::progress;
use crate::repo::Archive;
use crate::repo::branches::ServerTimeline;
use crate::repo::drills::{Check, Drill, Outcome};
use crate::restore::RecoveryTarget;
use serde::Serialize;
use serde_json::json;
use std::path::PathBuf;
use std::time::Duration;

/// Default of `--compare`: maximum time to follow the primary.
const COMPARE_TIMEOUT: Duration = Duration::from_secs(300);

struct DrillReport<'a> {
    drill: &'a Drill,
    repository: &'a str,
    error: Option<&'a Error>,
}

impl Report for DrillReport<'_> {
    fn json(&self) -> impl Serialize {
        let mut report = render::drill(self.drill);
        report["checks"] = json!(self.drill.checks);
        report["repository"] = self.repository.into();
        report["error"] = json!(self.error.map(Error::to_string));
        report
    }
}

pub fn run(context: &Context, args: &DrillArgs) -> Result<Exit> {
    let now = jiff::Timestamp::now();
    // One repository: a drill proves nothing about the content of another one.
    let repository = setup::selected(context, &args.selection)?
        .into_iter()
        .next()
        .ok_or_else(|| Error::defect("no repository is configured"))?;
    let archive = setup::archive(context, &repository, &args.selection)?;
    let server = setup::server_timeline(context, &archive);
    let choice = choice(args, &archive, &server, now)?;
    let options = options(context, args, &archive, server, now)?;
    let run = drill::run(archive.clone(), &choice, &options)?;
    context.console.finish();
    let (drill, error) = (&run.drill, run.error.as_ref());
    if let Err(error) = archive.remember_drill(drill) {
        progress::warn(
            &error
                .doing(format!("repository {}", repository.name()))
                .hint("`list` and estimates do not know of this drill"),
        );
    }
    describe(context, drill, repository.name());
    if let Some(kept) = &run.kept {
        context.console.say(&format!(
            "kept: {}, with the server's log and its configuration in etc; remove the directory when you are done",
            kept.display()
        ));
    }
    if let Some(error) = error {
        progress::error(error);
    }
    context.print(&DrillReport { drill, repository: repository.name(), error })?;
    Ok(match drill.outcome {
        Outcome::Proved => Exit::Done,
        Outcome::Refuted => Exit::Problem,
        Outcome::Unknown => error.map_or(Exit::Failed, Exit::of),
    })
}

fn options(
    context: &Context,
    args: &DrillArgs,
    archive: &Archive,
    server: ServerTimeline,
    now: jiff::Timestamp,
) -> Result<drill::Options> {
    let config = &context.config.drill;
    let directory = scratch_parent(context, args)?;
    let assertions = config
        .assertions
        .iter()
        .filter(|assertion| assertion.cluster.as_ref().is_none_or(|name| *name == context.cluster.name))
        .map(|scoped| scoped.assertion.clone());
    Ok(drill::Options {
        progress: context.console.progress(),
        cancel: interrupt::cancel_on_signal()?,
        directory,
        cluster: context.cluster.name.clone(),
        pgdata: context.cluster.pgdata.clone(),
        bin: config.bin.clone(),
        // A backup that is named may be on a retired timeline.
        restore_command: restore_command::build(
            context,
            &["--repository", archive.repository().name(), "--retired"],
        )?,
        preload: config.preload.clone().unwrap_or_default(),
        users: setup::roles(context),
        databases: databases(context),
        jobs: args.jobs.unwrap_or(config.jobs),
        amcheck: config.amcheck,
        assertions: assertions.collect(),
        compare: args.compare.map(|timeout| primary(context, timeout)).transpose()?,
        keep: args.keep,
        timeout: args.timeout.unwrap_or(config.timeout),
        wait: setup::lock_timeout(&args.wait),
        cleared_variables: std::env::vars_os()
            .filter_map(|(name, _)| name.into_string().ok())
            .filter(|name| name.starts_with("PG"))
            .collect(),
        now,
        server,
        random: setup::random_hex::<6>()?,
    })
}

/// Returns the databases that the configuration names.
fn databases(context: &Context) -> Vec<String> {
    let connected = setup::connection(context).ok().map(|info| info.dbname);
    let asserted = context.config.drill.assertions.iter().map(|scoped| scoped.assertion.database.clone());
    connected.into_iter().chain(asserted).collect()
}

/// Returns the parent of the scratch directory.
fn scratch_parent(context: &Context, args: &DrillArgs) -> Result<PathBuf> {
    let directory = args.directory.as_ref().unwrap_or(&context.config.drill.directory);
    let directory = setup::absolute(directory)?;
    let ours = setup::foreign(context);
    for taken in std::iter::once(&context.cluster.pgdata).chain(&ours) {
        if directory.starts_with(taken) {
            return Err(Error::new(
                Kind::Config,
                format!("{} lies in {}", directory.display(), taken.display()),
            )
            .hint("a drill needs a directory of its own: `directory` in [drill] of the configuration"));
        }
    }
    Ok(directory)
}

/// Returns the server to compare with, and the maximum time to follow it.
fn primary(context: &Context, timeout: Option<Duration>) -> Result<drill::Primary> {
    let cluster = &context.cluster;
    let info = match setup::primary(context)? {
        Some(info) => info,
        None => setup::connection(context)?,
    };
    // An empty connection string stands for the defaults of libpq.
    let conninfo = cluster.primary.as_deref().or(cluster.connection.as_deref()).unwrap_or("").to_owned();
    Ok(drill::Primary { info, conninfo, patience: timeout.unwrap_or(COMPARE_TIMEOUT) })
}

fn choice(
    args: &DrillArgs,
    archive: &Archive,
    server: &ServerTimeline,
    now: jiff::Timestamp,
) -> Result<Selection> {
    let target = match (&args.time, args.lsn) {
        (Some(text), _) => RecoveryTarget::Time(moment::of_archive(text, archive)?),
        (None, Some(lsn)) => RecoveryTarget::Lsn(lsn),
        (None, None) if args.immediate => RecoveryTarget::Immediate,
        (None, None) => RecoveryTarget::End,
    };
    if !args.rotate {
        let pins = archive.pins()?.into_iter();
        let pins = pins.filter_map(|(id, pin)| pin.ok().map(|pin| (id, pin))).collect();
        let wanted = DrillRequest::This { backup: args.backup.clone(), target };
        return Ok(drill::select(wanted, &[], &pins, &[], None));
    }
    let mut contents = Contents::read(archive.clone(), server, now)?;
    // The rotation stays on the way to the living timeline.
    let branches = &contents.branches;
    let damaged = &contents.found_damaged;
    contents.records.retain(|record| {
        !branches.is_dead_at(record.timeline, record.stop_lsn) && !damaged.contains(&record.id)
    });
    let moment = match &contents.window {
        Some(window) => random_moment(window.from, window.to)?,
        None => None,
    };
    Ok(drill::select(DrillRequest::Rotate, &contents.records, &contents.pins, &contents.drills, moment))
}

/// Returns a random time between two others, or `None` when there is none between them.
fn random_moment(from: jiff::Timestamp, to: jiff::Timestamp) -> Result<Option<jiff::Timestamp>> {
    let (from, to) = (from.as_microsecond() + 1, to.as_microsecond());
    let Some(length) = u64::try_from(to - from).ok().filter(|length| *length > 0) else {
        return Ok(None);
    };
    let step = u64::from_le_bytes(setup::random()?) % length;
    let moment = jiff::Timestamp::from_microsecond(from.saturating_add_unsigned(step));
    moment.map(Some).map_err(|e| Error::new(Kind::Failed, format!("choose a time: {e}")))
}

/// Prints the checks and the result on standard error.
fn describe(context: &Context, drill: &Drill, repository: &str) {
    let console = &context.console;
    let is_good = drill.outcome == Outcome::Proved;
    for Check { name, ok, detail } in &drill.checks {
        match ok {
            Some(true) => console.say(&format!("ok      {name}: {detail}")),
            Some(false) => console.insist(&format!("FAILED  {name}: {detail}")),
            None => console.say(&format!("not done {name}: {detail}")),
        }
    }
    let what = drill.backup.as_deref().map_or_else(|| "no backup".to_owned(), |id| format!("backup {id}"));
    let seconds = |name: &str, seconds: Option<f64>| seconds.map(|seconds| format!("{name} {seconds:.1} s"));
    let took: Vec<String> = [
        seconds("restore", drill.restore_seconds),
        seconds("recovery", drill.recovery_seconds),
        seconds("checks", drill.check_seconds),
    ]
    .into_iter()
    .flatten()
    .collect();
    let line = format!(
        "{}: {what} in repository {repository}, target {}{}{}",
        match drill.outcome {
            Outcome::Proved => "proved",
            Outcome::Refuted => "REFUTED",
            Outcome::Unknown => "COULD NOT TELL",
        },
        drill.target,
        drill.reached_lsn.map_or_else(String::new, |lsn| format!(", reached {lsn}")),
        if took.is_empty() { String::new() } else { format!("; {}", took.join(", ")) },
    );
    if is_good {
        output::remember(&line);
        console.say(&line);
    } else {
        console.insist(&line);
    }
}
