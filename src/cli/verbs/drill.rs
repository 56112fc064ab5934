//! `walkeep drill`.

use super::restore;
use crate::cli::contents::Contents;
use crate::cli::setup::Context;
use crate::cli::{args, exit, interrupt, moment, output, render, setup};
use crate::drill::{self, Choice, Wanted};
use crate::error::{Error, Kind, Result};
use crate::progress;
use crate::repo::drills::{Check, Drill, Outcome};
use crate::restore::Target;
use serde_json::{Value, json};
use std::time::Duration;

/// For how long the primary is followed.
const COMPARISON: Duration = Duration::from_secs(300);

pub fn run(context: &Context, args: &args::DrillArgs) -> Result<u8> {
    let now = jiff::Timestamp::now();
    // One repository: what another one has proves nothing about it.
    let repository = setup::chosen(context, &args.selection)?
        .into_iter()
        .next()
        .ok_or_else(|| Error::new(Kind::Config, "there is no repository"))?;
    let archive = setup::archive(context, &repository, &args.selection)?;
    let options = options(context, args, repository.name(), now)?;
    let choice = choice(args, &archive, now)?;
    let run = drill::Run::new(archive.clone(), &choice, &options)?;
    context.console.finish();
    let drill = run.drill;
    if let Err(error) = archive.remember_drill(&drill) {
        progress::warn(
            &error
                .doing(format!("repository {}", repository.name()))
                .hint("`list` and estimates do without it"),
        );
    }
    tell(context, &drill, repository.name());
    if let Some(kept) = &run.kept {
        context.console.say(&format!(
            "kept: {}, with the server's log and its configuration in etc; remove the directory when you are done",
            kept.display()
        ));
    }
    if let Some(error) = &run.error {
        progress::error(error);
    }
    if context.json {
        let mut report = report(&drill);
        report["repository"] = repository.name().into();
        report["error"] = json!(run.error.as_ref().map(Error::to_string));
        output::print_json(&report)?;
    }
    Ok(match drill.outcome {
        Outcome::Proved => 0,
        Outcome::Refuted => exit::PROBLEM,
        Outcome::Unknown => run.error.as_ref().map_or(1, |error| exit::of(error).max(1)),
    })
}

fn options(
    context: &Context,
    args: &args::DrillArgs,
    repository: &str,
    now: jiff::Timestamp,
) -> Result<drill::Options> {
    let config = &context.config.drill;
    let directory = args.directory.as_ref().unwrap_or(&config.directory);
    let directory =
        std::path::absolute(directory).map_err(|e| Error::io("find the working directory", &e))?;
    let ours = setup::foreign(context);
    for place in std::iter::once(&context.cluster.pgdata).chain(&ours) {
        if directory.starts_with(place) {
            return Err(Error::new(
                Kind::Config,
                format!("{} lies in {}", directory.display(), place.display()),
            )
            .hint("a drill needs a directory of its own: `directory` in [drill] of the configuration"));
        }
    }
    let assertions = config
        .assertions
        .iter()
        .filter(|assertion| assertion.cluster.as_ref().is_none_or(|name| *name == context.cluster.name))
        .map(|assertion| drill::Assertion {
            name: assertion.name.clone(),
            database: assertion.database.clone(),
            sql: assertion.sql.clone(),
            expected: assertion.expected.clone(),
        });
    Ok(drill::Options {
        progress: context.console.progress(),
        cancel: interrupt::cancel_on_signal()?,
        directory,
        cluster: context.cluster.name.clone(),
        bin: config.bin.clone(),
        restore_command: restore::command(context, &["--repository", repository])?,
        preload: config.preload.clone().unwrap_or_default(),
        users: setup::roles(context),
        jobs: args.jobs.unwrap_or(config.jobs),
        amcheck: config.amcheck,
        assertions: assertions.collect(),
        compare: args.compare.map(|patience| primary(context, patience)).transpose()?,
        keep: args.keep,
        timeout: args.timeout.unwrap_or(config.timeout),
        wait: setup::lock_timeout(&args.wait),
        forgotten: std::env::vars_os()
            .filter_map(|(name, _)| name.into_string().ok())
            .filter(|name| name.starts_with("PG"))
            .collect(),
        now,
        random: setup::random_hex::<6>()?,
    })
}

/// The server to compare with, and for how long to follow it.
fn primary(context: &Context, patience: Option<Duration>) -> Result<drill::Primary> {
    let cluster = &context.cluster;
    let info = match setup::primary(context)? {
        Some(info) => info,
        None => setup::connection(context)?,
    };
    let conninfo = cluster.primary.as_ref().or(cluster.connection.as_ref()).cloned().unwrap_or_default();
    Ok(drill::Primary { info, conninfo, patience: patience.unwrap_or(COMPARISON) })
}

fn choice(args: &args::DrillArgs, archive: &crate::repo::Archive, now: jiff::Timestamp) -> Result<Choice> {
    let target = match (&args.time, args.lsn) {
        (Some(text), _) => Target::Time(moment::of_archive(text, archive)?),
        (None, Some(lsn)) => Target::Lsn(lsn),
        (None, None) if args.immediate => Target::Immediate,
        (None, None) => Target::End,
    };
    if !args.rotate {
        let pins = archive.pins()?.into_iter();
        let pins = pins.filter_map(|(id, pin)| pin.ok().map(|pin| (id, pin))).collect();
        let wanted = Wanted::This { backup: args.backup.clone(), target };
        return Ok(drill::choose(wanted, &[], &pins, &[], None));
    }
    let contents = Contents::read(archive.clone(), now)?;
    let moment = match &contents.window {
        Some(window) => random_moment(window.from, window.to)?,
        None => None,
    };
    Ok(drill::choose(Wanted::Rotate, &contents.records, &contents.pins, &contents.drills, moment))
}

/// A random moment behind the one and before the other.
fn random_moment(from: jiff::Timestamp, to: jiff::Timestamp) -> Result<Option<jiff::Timestamp>> {
    let (from, to) = (from.as_microsecond() + 1, to.as_microsecond());
    let Some(length) = u64::try_from(to - from).ok().filter(|length| *length > 0) else {
        return Ok(None);
    };
    let mut random = [0; 8];
    getrandom::fill(&mut random).map_err(|e| Error::new(Kind::Failed, format!("read random bytes: {e}")))?;
    let step = i64::try_from(u64::from_le_bytes(random) % length).unwrap_or(0);
    let moment = jiff::Timestamp::from_microsecond(from + step);
    moment.map(Some).map_err(|e| Error::new(Kind::Failed, format!("choose a moment: {e}")))
}

fn tell(context: &Context, drill: &Drill, repository: &str) {
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

/// A drill as `drill` reports it.
fn report(drill: &Drill) -> Value {
    let mut report = render::drill(drill);
    report["checks"] = json!(drill.checks);
    report
}
