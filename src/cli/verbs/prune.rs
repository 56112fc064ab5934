//! `walkeep prune`.

use crate::cli::setup::Context;
use crate::cli::{args, exit, output, render, setup};
use crate::config;
use crate::error::{Error, Kind, Result};
use crate::pg::segment::{SegmentName, TimelineId, WalName};
use crate::progress;
use crate::repo::active::Staleness;
use crate::repo::{Archive, ObjectName, Repository};
use crate::retention::{self, Options, Plan, Policy, Pruned};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt::Write;

/// Objects that are named when they could not be removed.
const NAMED: usize = 20;

pub fn run(context: &Context, args: &args::PruneArgs) -> Result<u8> {
    let mut results = Vec::new();
    for repository in setup::chosen(context, &args.selection)? {
        match archives(context, &repository, args) {
            Ok(archives) => {
                for archive in archives {
                    let pruned = options(context, &archive, args)
                        .and_then(|options| retention::prune(&archive, &options));
                    results.push((repository.clone(), Some(archive), pruned));
                }
            }
            Err(error) => results.push((repository.clone(), None, Err(error))),
        }
    }
    context.console.finish();
    if context.json {
        output::print_json(&report(&results, args.dry_run))?;
    }
    let mut status = 0;
    for (repository, archive, pruned) in &results {
        let this = match pruned {
            Ok(pruned) => {
                if !context.json {
                    output::print(&text(context, repository, archive.as_ref(), pruned))?;
                }
                tell(pruned)
            }
            Err(error) => {
                progress::error(error);
                exit::of(error)
            }
        };
        // What could not be done outweighs what was found, and that outweighs a lock.
        let weight = |status: u8| [0, 4, exit::PROBLEM, 2, 1].iter().position(|other| *other == status);
        if weight(this) > weight(status) {
            status = this;
        }
    }
    Ok(status)
}

/// Applies the retention of a repository after a backup. Another prune does as well.
pub fn after_backup(context: &Context, repository: &Repository) -> Result<u8> {
    let args = args::PruneArgs::default();
    let archive = setup::archive(context, repository, &args.selection)?;
    let options = options(context, &archive, &args)?;
    match retention::prune(&archive, &options) {
        Ok(pruned) => {
            for line in text(context, repository, Some(&archive), &pruned).lines() {
                context.console.say(line);
            }
            Ok(tell(&pruned))
        }
        Err(error) if error.kind() == Kind::Locked => {
            context.console.say(&format!("not pruned: {error}"));
            Ok(0)
        }
        Err(error) => Err(error),
    }
}

/// The parts of a repository to be pruned: of every life of the cluster, each for itself.
fn archives(context: &Context, repository: &Repository, args: &args::PruneArgs) -> Result<Vec<Archive>> {
    // Also refuses the repository of somebody else.
    let archive = setup::archive(context, repository, &args.selection)?;
    if args.selection.lineage.is_some() || !args.remove.is_empty() {
        return Ok(vec![archive]);
    }
    repository.identities()?.iter().map(|identity| repository.open(identity.lineage())).collect()
}

fn options(context: &Context, archive: &Archive, args: &args::PruneArgs) -> Result<Options> {
    let config = context.config.repository(archive.repository().name())?;
    let now = jiff::Timestamp::now();
    Ok(Options {
        policy: policy(&config.retention),
        discard: args.remove.iter().cloned().collect(),
        dry_run: args.dry_run,
        now,
        wait: setup::lock_timeout(&args.wait),
        patience: Staleness::default(),
        random: setup::random_hex::<6>()?,
        garbage_before: setup::garbage_before(now)?,
    })
}

fn policy(retention: &config::Retention) -> Policy {
    let config::Retention { keep_last, keep_within, keep_daily, keep_weekly, keep_monthly, keep_yearly } =
        *retention;
    Policy { keep_last, keep_within, keep_daily, keep_weekly, keep_monthly, keep_yearly }
}

/// What a person has to hear beside the list, and the status that follows.
fn tell(pruned: &Pruned) -> u8 {
    for problem in &pruned.plan.problems {
        progress::error(&Error::new(Kind::Problem, problem.as_str()));
    }
    for left in pruned.left.iter().take(NAMED) {
        match &left.why {
            Some(error) => progress::error(error),
            None => {
                tracing::error!("error: {} was not tried after so many others", left.name)
            }
        }
    }
    match pruned.left.len() {
        0 => {}
        count => {
            let message = format!("{count} objects could not be removed and are still there");
            progress::error(
                &Error::new(Kind::Failed, message)
                    .hint("what is listed is whole; the next prune tries again"),
            );
        }
    }
    match (pruned.left.is_empty(), pruned.plan.problems.is_empty()) {
        (false, _) => 1,
        (true, false) => exit::PROBLEM,
        (true, true) => 0,
    }
}

type Outcome = (Repository, Option<Archive>, Result<Pruned>);

fn report(results: &[Outcome], dry_run: bool) -> Value {
    let done: Vec<&Pruned> = results.iter().filter_map(|(_, _, pruned)| pruned.as_ref().ok()).collect();
    let plans: Vec<&Plan> = done.iter().map(|pruned| &pruned.plan).collect();
    let repositories: Vec<Value> = results
        .iter()
        .map(|(repository, archive, pruned)| {
            let mut value = match pruned {
                Ok(pruned) => parts(&[&pruned.plan]),
                Err(error) => json!({"error": error.to_string()}),
            };
            value["name"] = repository.name().into();
            value["lineage"] = json!(archive.as_ref().map(|archive| archive.lineage().to_string()));
            if let Ok(pruned) = pruned {
                value["in_use"] = json!(pruned.plan.in_use);
                value["problems"] = json!(pruned.plan.problems);
                let left = pruned.left.iter().map(|left| {
                    json!({"object": left.name.to_string(), "error": left.why.as_ref().map(Error::to_string)})
                });
                value["left"] = left.collect();
            }
            value
        })
        .collect();
    let mut report = parts(&plans);
    report["dry_run"] = dry_run.into();
    report["repositories"] = repositories.into();
    report
}

/// Several plans as one.
fn parts(plans: &[&Plan]) -> Value {
    let removals = || plans.iter().map(|plan| &plan.remove);
    let kept = plans.iter().flat_map(|plan| &plan.kept).map(|kept| {
        let because: Vec<&str> = kept.because.iter().map(|reason| reason.as_str()).collect();
        json!({"id": kept.id, "because": because})
    });
    json!({
        "remove": {
            "backups": removals().flat_map(|remove| &remove.backups).collect::<Vec<_>>(),
            "segments": removals().map(retention::Removal::segments).sum::<u64>(),
            "objects": removals().map(retention::Removal::objects).sum::<u64>(),
            "bytes": removals().map(retention::Removal::bytes).sum::<u64>(),
        },
        "kept": kept.collect::<Vec<_>>(),
    })
}

/// The plan: the same words before and after.
fn text(context: &Context, repository: &Repository, archive: Option<&Archive>, pruned: &Pruned) -> String {
    let Plan { kept, remove, .. } = &pruned.plan;
    let mut text = format!("repository {} at {}", repository.name(), repository.url());
    if let Some(archive) = archive {
        let _ = write!(text, " ({})", archive.lineage());
    }
    text.push('\n');
    for kept in kept {
        let because: Vec<&str> = kept.because.iter().map(|reason| reason.as_str()).collect();
        let _ = writeln!(text, "  keep    {}  {}", kept.id, because.join(", "));
    }
    for user in &pruned.plan.in_use {
        let _ = writeln!(text, "  in use  {user}");
    }
    for id in &remove.backups {
        let _ = writeln!(text, "  remove  {id}");
    }
    for (timeline, (count, first, last)) in segments(pruned) {
        let _ =
            writeln!(text, "  remove  WAL of timeline {timeline}: {count} segments from {first} to {last}");
    }
    if context.console.is_verbose() {
        for name in remove.names() {
            let _ = writeln!(text, "  object  {name}");
        }
    }
    let _ = writeln!(
        text,
        "  {} backups kept, {} removed; {} segments, {} objects, {} go",
        kept.len(),
        remove.backups.len(),
        remove.segments(),
        remove.objects(),
        render::size(remove.bytes()),
    );
    text
}

/// How many segments of each timeline go, the first and the last of them.
fn segments(pruned: &Pruned) -> BTreeMap<TimelineId, (u64, SegmentName, SegmentName)> {
    let mut found: BTreeMap<TimelineId, (u64, SegmentName, SegmentName)> = BTreeMap::new();
    for (name, _) in &pruned.plan.remove.wal {
        if let ObjectName::Wal(WalName::Segment(name)) = name {
            let (count, _, last) = found.entry(name.timeline).or_insert((0, *name, *name));
            *count += 1;
            *last = *name;
        }
    }
    found
}
