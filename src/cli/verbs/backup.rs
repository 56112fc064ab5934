//! `walkeep backup`.

use super::prune;
use crate::backup::{self, Options, Server, Taken};
use crate::cli::setup::Context;
use crate::cli::{args, exit, output, render, setup};
use crate::codec::compress::Compression;
use crate::config::Checkpoint;
use crate::error::{Error, Kind, Result};
use crate::progress;
use std::time::Instant;

pub fn run(context: &Context, args: &args::BackupArgs) -> Result<u8> {
    // Before there are other threads, which inherit it.
    be_nice(args.nice.unwrap_or(context.config.backup.nice))?;
    let server = Server::connect(&setup::connection(context)?, setup::primary(context)?.as_ref())?;
    let mut reports = Vec::new();
    let mut status = 0;
    let mut failure: Option<Error> = None;
    for repository in &context.repositories {
        let begun = Instant::now();
        match backup::run(&options(context, args)?, &server, repository) {
            Ok(taken) => {
                context.console.finish();
                let seconds = begun.elapsed().as_secs_f64();
                context.console.say(&summary(&taken, repository.name(), seconds));
                let record = &taken.record;
                for (what, files) in [("has bad pages", &record.damaged), (UNPROMISED, &taken.surprises)] {
                    for file in files {
                        status = exit::PROBLEM;
                        tracing::warn!("damaged: {} {what}: {:?}", file.path, file.blocks);
                    }
                }
                let mut report = render::backup(record, None);
                report["duration"] = seconds.into();
                report["repository"] = repository.name().into();
                report["read_bytes"] = taken.read.into();
                report["unpromised"] = serde_json::json!(taken.surprises);
                reports.push(report);
                if args.prune && record.is_complete() {
                    match prune::after_backup(context, repository) {
                        Ok(pruned) => status = status.max(pruned),
                        Err(error) => {
                            progress::error(&error);
                            status = exit::of(&error);
                        }
                    }
                }
            }
            Err(error) if !repository.is_required() && error.kind() != Kind::Locked => {
                context.console.finish();
                let error = error
                    .doing(format!("optional repository {}", repository.name()))
                    .hint("`walkeep sync` brings the backups of another repository there");
                progress::warn(&error);
            }
            Err(error) => {
                context.console.finish();
                if let Some(earlier) = failure.replace(error) {
                    progress::error(&earlier);
                }
            }
        }
    }
    if let Some(error) = failure {
        return Err(error);
    }
    if context.json {
        // One repository, one backup; more are named behind the first.
        let mut reports = reports.into_iter();
        let mut first = reports.next().unwrap_or_default();
        let others: Vec<_> = reports.collect();
        if !others.is_empty() {
            first["others"] = others.into();
        }
        output::print_json(&first)?;
    }
    Ok(status)
}

/// What happened to blocks that the WAL summaries promised to be as they were.
const UNPROMISED: &str = "was changed without WAL, in the blocks that begin with these pages";

/// A backup in one line.
fn summary(taken: &Taken, repository: &str, seconds: f64) -> String {
    let record = &taken.record;
    let since = record.parent.as_ref().map_or_else(String::new, |parent| format!(" since {parent}"));
    format!(
        "backup {} in repository {repository}: {} in {} files, {} read, {} new{since}, {seconds:.1} s",
        record.id,
        render::size(record.size),
        record.files,
        render::size(taken.read),
        render::size(record.new_bytes),
    )
}

fn options(context: &Context, args: &args::BackupArgs) -> Result<Options> {
    let config = &context.config;
    let random = setup::random_hex::<3>()?;
    Ok(Options {
        progress: context.console.progress(),
        pgdata: context.cluster.pgdata.clone(),
        jobs: args.jobs.unwrap_or(config.backup.jobs),
        rate: args.rate.or(config.backup.rate),
        compression: Compression::Zstd(config.backup.level),
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

/// Leaves processor and disk to others: the kernel takes the priority of I/O from this, unless it was set.
fn be_nice(nice: i32) -> Result<()> {
    if nice == 0 {
        return Ok(());
    }
    rustix::process::nice(nice)
        .map(|_| ())
        .map_err(|errno| Error::io(format!("raise the niceness by {nice}"), &errno.into()))
}
