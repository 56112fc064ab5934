//! `walkeep backup`: takes a base backup into every repository.

use super::prune;
use crate::backup::{self, BackupServer, Options, Taken};
use crate::cli::args::BackupArgs;
use crate::cli::exit::Exit;
use crate::cli::histories;
use crate::cli::render::{self, Report};
use crate::cli::setup::{self, Context};
use crate::config::Checkpoint;
use crate::error::{Error, Failures, Kind, Result};
use crate::progress;
use crate::repo::survey::{Survey, Want};
use crate::repo::{Lineage, ObjectName, Repository};
use serde::Serialize;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// A backup that was taken, and in which repository.
struct Finished<'a> {
    taken: Taken,
    repository: &'a Repository,
    duration: Duration,
}

impl Finished<'_> {
    fn json(&self) -> Value {
        let mut report = render::backup(&self.taken.record, None);
        report["duration"] = self.duration.as_secs_f64().into();
        report["repository"] = self.repository.name().into();
        report["read_bytes"] = self.taken.read.into();
        report["unpromised"] = json!(self.taken.unlogged);
        report
    }

    /// Returns the line for standard error.
    fn summary(&self) -> String {
        let record = &self.taken.record;
        let since = record.parent.as_ref().map_or_else(String::new, |parent| format!(" since {parent}"));
        format!(
            "backup {} in repository {}: {} in {} files, {} read, {} new{since}, {:.1} s",
            record.id,
            self.repository.name(),
            render::size(record.size),
            record.files,
            render::size(self.taken.read),
            render::size(record.new_bytes),
            self.duration.as_secs_f64(),
        )
    }

    /// Prints the blocks that are damaged or were changed without WAL, and returns the exit that
    /// follows from them.
    fn complain(&self) -> Exit {
        let bad = self.taken.record.damaged.iter().map(|file| (file, "has bad pages"));
        let unpromised = self.taken.unlogged.iter();
        let unpromised = unpromised
            .map(|file| (file, "was changed without WAL, in the blocks that begin with these pages"));
        let mut exit = Exit::Done;
        for (file, what) in bad.chain(unpromised) {
            exit = Exit::Problem;
            tracing::warn!("damaged: {} {what}: {:?}", file.path, file.blocks);
        }
        exit
    }
}

/// Backups of one run: JSON has the first one, and the others below it.
struct BackupReport<'a>(Vec<Finished<'a>>);

impl Report for BackupReport<'_> {
    fn json(&self) -> impl Serialize {
        let mut reports = self.0.iter().map(Finished::json);
        // `null` without a backup.
        reports.next().map(|mut first| {
            let others: Vec<Value> = reports.collect();
            if !others.is_empty() {
                first["others"] = others.into();
            }
            first
        })
    }
}

pub fn run(context: &Context, args: &BackupArgs) -> Result<Exit> {
    // Before other threads exist: they inherit the niceness.
    raise_niceness(args.nice.unwrap_or(context.config.backup.nice))?;
    let server = BackupServer::connect(&setup::connection(context)?, setup::primary(context)?.as_ref())?;
    let mut finished = Vec::new();
    let mut exit = Exit::Done;
    let mut failures = Failures::new(progress::error);
    for repository in &context.repositories {
        let begun = Instant::now();
        let taken = archive_histories(context, &server, repository)
            .and_then(|()| options(context, args))
            .and_then(|options| backup::run(&options, &server, repository));
        context.console.finish();
        match taken {
            Ok(taken) => {
                if let Err(error) = note_gaps(repository, server.found.lineage, &taken.record.id) {
                    progress::debug(&error);
                }
                let backup = Finished { taken, repository, duration: begun.elapsed() };
                context.console.say(&backup.summary());
                exit = exit.worst(backup.complain());
                if args.prune && backup.taken.record.is_complete() {
                    exit = exit.worst(prune::after_backup(context, repository).unwrap_or_else(|error| {
                        progress::error(&error);
                        Exit::of(&error)
                    }));
                }
                finished.push(backup);
            }
            Err(error) if !repository.is_required() && error.kind() != Kind::Locked => {
                let error = error
                    .doing(format!("optional repository {}", repository.name()))
                    .hint("`walkeep sync` copies the backups of another repository there");
                progress::warn(&error);
            }
            Err(error) => failures.push(error),
        }
    }
    failures.finish()?;
    context.print(&BackupReport(finished))?;
    Ok(exit)
}

/// Notes the gaps before a backup that was recorded just now: it has dealt with them.
fn note_gaps(repository: &Repository, lineage: Lineage, id: &str) -> Result<()> {
    let archive = repository.open(lineage)?;
    let want = Want { pins: true, verified: true, ..Want::default() };
    let survey = Survey::read(&archive, want)?;
    let known = survey.gaps_before(id, jiff::Timestamp::now());
    if known != survey.known_gaps {
        archive.remember(&ObjectName::KnownGaps, &known)?;
    }
    Ok(())
}

/// Archives the histories of the server's timelines that the repository does not have. A backup
/// restores only together with the history of its timeline.
fn archive_histories(context: &Context, server: &BackupServer, repository: &Repository) -> Result<()> {
    server.check_runs_on(&context.cluster.pgdata)?;
    if !server.archiving_problems().is_empty() {
        // The backup refuses, and names the problem.
        return Ok(());
    }
    let own = histories::archive(context, server.found.lineage, server.found.timeline, repository)?;
    for name in own.archived {
        let repository = repository.name();
        tracing::warn!("{name} was missing in repository {repository}, and was archived from pg_wal now");
    }
    Ok(())
}

fn options(context: &Context, args: &BackupArgs) -> Result<Options> {
    let config = &context.config;
    let random = setup::random_hex::<3>()?;
    Ok(Options {
        progress: context.console.progress(),
        pgdata: context.cluster.pgdata.clone(),
        jobs: args.jobs.unwrap_or(config.backup.jobs),
        rate: args.rate.or(config.backup.rate),
        compression: config.backup.compression,
        fast: args.checkpoint.unwrap_or(config.backup.checkpoint) == Checkpoint::Fast,
        verify_pages: config.backup.verify_pages,
        full: args.full,
        rehash: args.rehash,
        wal_summaries: config.backup.wal_summaries,
        labels: args.label.iter().cloned().collect(),
        archive_timeout: args.archive_timeout,
        foreign: setup::foreign(context),
        random,
        garbage_before: setup::garbage_before(jiff::Timestamp::now())?,
        wait: setup::lock_timeout(&args.wait),
    })
}

/// Raises the niceness of this process; the kernel derives the priority of I/O from it unless that
/// was set.
fn raise_niceness(nice: i32) -> Result<()> {
    if nice == 0 {
        return Ok(());
    }
    rustix::process::nice(nice)
        .map(|_| ())
        .map_err(|errno| Error::io(format!("raise the niceness by {nice}"), &errno.into()))
}
