//! `walkeep prune`: applies the retention, and reports what is kept and what is removed.

use crate::cli::args::PruneArgs;
use crate::cli::exit::Exit;
use crate::cli::render::{self, Report};
use crate::cli::setup::{self, Context};
use crate::error::{Error, Kind, Result};
use crate::pg::segment::{SegmentName, TimelineId, WalName};
use crate::progress;
use crate::repo::active::Staleness;
use crate::repo::{Archive, ObjectName, Repository};
use crate::retention::{self, Options, Plan, Pruned, Removal};
use serde::Serialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt::Write;

/// Maximum number of objects to name that could not be removed.
const MAX_NAMED: usize = 20;

/// Result for one lineage of a repository.
struct PrunedPart {
    repository: Repository,
    /// `None` when the repository could not be opened.
    archive: Option<Archive>,
    pruned: Result<Pruned>,
}

struct Pruning {
    parts: Vec<PrunedPart>,
    dry_run: bool,
    verbose: bool,
}

impl Report for Pruning {
    fn text(&self) -> String {
        self.parts.iter().map(|part| part.text(self.verbose)).collect()
    }

    fn json(&self) -> impl Serialize {
        let plans = self.parts.iter().filter_map(|part| part.pruned.as_ref().ok()).map(|pruned| &pruned.plan);
        let mut report = plans_json(&plans.collect::<Vec<_>>());
        report["dry_run"] = self.dry_run.into();
        report["repositories"] = self.parts.iter().map(PrunedPart::json).collect();
        report
    }
}

pub fn run(context: &Context, args: &PruneArgs) -> Result<Exit> {
    let mut parts = Vec::new();
    for repository in setup::selected(context, &args.selection)? {
        match archives(context, &repository, args) {
            Ok(archives) => {
                for archive in archives {
                    let pruned = prune(context, &archive, args);
                    parts.push(PrunedPart { repository: repository.clone(), archive: Some(archive), pruned });
                }
            }
            Err(error) if setup::is_dispensable(&args.selection, &repository) => {
                progress::warn(&error.doing(format!("optional repository {}", repository.name())));
            }
            Err(error) => parts.push(PrunedPart { repository, archive: None, pruned: Err(error) }),
        }
    }
    context.console.finish();
    let pruning = Pruning { parts, dry_run: args.dry_run, verbose: context.console.is_verbose() };
    context.print(&pruning)?;
    Ok(pruning.parts.iter().map(PrunedPart::complain).fold(Exit::Done, Exit::worst))
}

/// Applies the retention of a repository after a backup. Does nothing while another prune holds the
/// lock, since that prune applies the retention.
pub fn after_backup(context: &Context, repository: &Repository) -> Result<Exit> {
    let args = PruneArgs::default();
    let archive = setup::archive(context, repository, &args.selection)?;
    match prune(context, &archive, &args) {
        Err(error) if error.kind() == Kind::Locked => {
            context.console.say(&format!("not pruned: {error}"));
            Ok(Exit::Done)
        }
        pruned => {
            let pruned = Ok(pruned?);
            let part = PrunedPart { repository: repository.clone(), archive: Some(archive), pruned };
            for line in part.text(context.console.is_verbose()).lines() {
                context.console.say(line);
            }
            Ok(part.complain())
        }
    }
}

fn prune(context: &Context, archive: &Archive, args: &PruneArgs) -> Result<Pruned> {
    retention::prune(archive, &options(context, archive, args)?)
}

/// Opens the parts of a repository to prune: by default every lineage of the cluster.
fn archives(context: &Context, repository: &Repository, args: &PruneArgs) -> Result<Vec<Archive>> {
    // Refuses the repository of another cluster too.
    let archive = setup::archive(context, repository, &args.selection)?;
    if args.selection.lineage.is_some() || !args.remove.is_empty() {
        return Ok(vec![archive]);
    }
    repository.identities()?.iter().map(|identity| repository.open(identity.lineage())).collect()
}

fn options(context: &Context, archive: &Archive, args: &PruneArgs) -> Result<Options> {
    let config = context.config.repository(archive.repository().name())?;
    let now = jiff::Timestamp::now();
    Ok(Options {
        policy: config.retention.clone(),
        discard: args.remove.iter().cloned().collect(),
        dry_run: args.dry_run,
        now,
        server: setup::server_timeline(context, archive),
        wait: setup::lock_timeout(&args.wait),
        staleness: Staleness::default(),
        random: setup::random_hex::<6>()?,
        garbage_before: setup::garbage_before(now)?,
    })
}

/// Returns plans of several lineages as one JSON object.
fn plans_json(plans: &[&Plan]) -> Value {
    let sum = |of: fn(&Removal) -> u64| plans.iter().map(|plan| of(&plan.remove)).sum::<u64>();
    let kept = plans.iter().flat_map(|plan| &plan.kept).map(|kept| {
        let because: Vec<&str> = kept.because.iter().map(|reason| reason.as_str()).collect();
        json!({"id": kept.id, "because": because, "dead_timeline": kept.dead})
    });
    json!({
        "remove": {
            "backups": plans.iter().flat_map(|plan| &plan.remove.backups).collect::<Vec<_>>(),
            "segments": sum(Removal::segments),
            "objects": sum(Removal::objects),
            "bytes": sum(Removal::bytes),
        },
        "kept": kept.collect::<Vec<_>>(),
    })
}

impl PrunedPart {
    fn json(&self) -> Value {
        let mut value = match &self.pruned {
            Ok(Pruned { plan, left }) => {
                let mut value = plans_json(&[plan]);
                value["in_use"] = json!(plan.in_use);
                value["problems"] = json!(plan.problems);
                value["unclear"] = json!(plan.unclear);
                let left = left.iter().map(|left| {
                    json!({"object": left.name.to_string(), "error": left.why.as_ref().map(Error::to_string)})
                });
                value["left"] = left.collect();
                value
            }
            Err(error) => json!({"error": error.to_string()}),
        };
        value["name"] = self.repository.name().into();
        value["lineage"] = json!(self.archive.as_ref().map(|archive| archive.lineage().to_string()));
        value
    }

    /// Returns the plan as text; empty after a failure. A dry run and the run after it have equal
    /// texts.
    fn text(&self, verbose: bool) -> String {
        let Ok(Pruned { plan: Plan { kept, remove, in_use, unclear, .. }, .. }) = &self.pruned else {
            return String::new();
        };
        let mut text = format!("repository {} at {}", self.repository.name(), self.repository.url());
        if let Some(archive) = &self.archive {
            let _ = write!(text, " ({})", archive.lineage());
        }
        text.push('\n');
        if let Some(unclear) = unclear {
            let _ = writeln!(text, "  {unclear}: the rules count for each; see `walkeep timelines`");
        }
        for kept in kept {
            let because: Vec<&str> = kept.because.iter().map(|reason| reason.as_str()).collect();
            let dead = kept.dead.map_or_else(String::new, |timeline| {
                format!(" (on a branch of timeline {timeline} that nothing extends)")
            });
            let _ = writeln!(text, "  keep    {}  {}{dead}", kept.id, because.join(", "));
        }
        for user in in_use {
            let _ = writeln!(text, "  in use  {user}");
        }
        for id in &remove.backups {
            let _ = writeln!(text, "  remove  {id}");
        }
        for (timeline, (count, first, last)) in segments(remove) {
            let _ = writeln!(
                text,
                "  remove  WAL of timeline {timeline}: {count} segments from {first} to {last}"
            );
        }
        for name in remove.names().filter(|_| verbose) {
            let _ = writeln!(text, "  object  {name}");
        }
        let _ = writeln!(
            text,
            "  {} backups kept, {} removed, with {} segments and {} objects ({})",
            kept.len(),
            remove.backups.len(),
            remove.segments(),
            remove.objects(),
            render::size(remove.bytes()),
        );
        text
    }

    /// Prints what went wrong on standard error, and returns the exit that follows from it.
    fn complain(&self) -> Exit {
        let Pruned { plan, left } = match &self.pruned {
            Ok(pruned) => pruned,
            Err(error) => {
                progress::error(error);
                return Exit::of(error);
            }
        };
        for problem in &plan.problems {
            progress::error(&Error::new(Kind::Problem, problem.as_str()));
        }
        for left in left.iter().take(MAX_NAMED) {
            match &left.why {
                Some(error) => progress::error(error),
                None => {
                    let error = Error::new(Kind::Failed, "not tried after too many failures");
                    progress::error(&error.doing(format!("remove {}", left.name)));
                }
            }
        }
        if !left.is_empty() {
            let message = format!("{} objects could not be removed and still exist", left.len());
            let error = Error::new(Kind::Failed, message)
                .hint("the listed backups are complete; the next prune tries again");
            progress::error(&error);
            return Exit::Failed;
        }
        if plan.problems.is_empty() { Exit::Done } else { Exit::Problem }
    }
}

/// Returns number, first and last of the segments to remove from each timeline.
fn segments(remove: &Removal) -> BTreeMap<TimelineId, (u64, SegmentName, SegmentName)> {
    let mut found: BTreeMap<TimelineId, (u64, SegmentName, SegmentName)> = BTreeMap::new();
    for (name, _) in &remove.wal {
        if let ObjectName::Wal(WalName::Segment(name)) = name {
            let (count, _, last) = found.entry(name.timeline).or_insert((0, *name, *name));
            *count += 1;
            *last = *name;
        }
    }
    found
}
