//! `walkeep sync`.

use crate::cli::setup::{self, Context};
use crate::cli::{args, exit, output, render};
use crate::error::{Doing, Error, Kind, Result};
use crate::repo::Repository;
use crate::sync::{Report, Sync};

pub fn run(context: &Context, args: &args::SyncArgs) -> Result<u8> {
    let (from, to) = (named(context, &args.from)?, named(context, &args.to)?);
    if from.name() == to.name() {
        return Err(Error::new(Kind::Usage, "a repository cannot be brought up to itself")
            .hint("name two of the configured repositories"));
    }
    let mut reports = Vec::new();
    for archive in sources(from)? {
        let lineage = archive.lineage();
        let sync = Sync {
            from: &archive,
            to: &register(context, to, &archive)?,
            jobs: args.jobs.unwrap_or(context.config.backup.jobs),
            random: setup::random_hex::<6>()?,
            progress: context.console.progress(),
        };
        let report = sync.run();
        context.console.finish();
        reports.push(report.doing(|| format!("bring {lineage} from {} to {}", from.name(), to.name()))?);
    }
    let problems = reports.iter().map(|report| report.problems.len()).sum::<usize>();
    if context.json {
        output::print_json(&json(from, to, &reports))?;
    } else {
        let sum = |each: fn(&Report) -> u64| reports.iter().map(each).sum::<u64>();
        context.console.say(&format!(
            "repository {} now has what {} has: {} WAL files and {} backups were copied, {}{}",
            to.name(),
            from.name(),
            sum(|report| report.segments),
            sum(|report| report.backups.len() as u64),
            render::size(sum(|report| report.bytes)),
            if problems == 0 {
                String::new()
            } else {
                format!("; {problems} problems, nothing was replaced")
            },
        ));
    }
    Ok(if problems == 0 { 0 } else { exit::PROBLEM })
}

fn json(from: &Repository, to: &Repository, reports: &[Report]) -> serde_json::Value {
    let all = |list: fn(&Report) -> Vec<String>| reports.iter().flat_map(list).collect::<Vec<_>>();
    serde_json::json!({
        "from": from.name(),
        "to": to.name(),
        "copied": {
            "segments": reports.iter().map(|report| report.segments).sum::<u64>(),
            "backups": all(|report| report.backups.clone()),
            "objects": reports.iter().map(|report| report.objects).sum::<u64>(),
            "bytes": reports.iter().map(|report| report.bytes).sum::<u64>(),
        },
        "problems": all(|report| report.problems.iter().map(Error::to_string).collect()),
    })
}

fn named<'c>(context: &'c Context, name: &str) -> Result<&'c Repository> {
    context.config.repository(name)?;
    let found = context.repositories.iter().find(|repository| repository.name() == name);
    found.ok_or_else(|| Error::new(Kind::Config, format!("there is no repository {name}")))
}

/// Every life of the cluster that a repository knows, oldest first.
fn sources(from: &Repository) -> Result<Vec<crate::repo::Archive>> {
    let known = from.identities().doing(|| format!("open repository {}", from.name()))?;
    if known.is_empty() {
        // Says why.
        return Ok(vec![from.open_newest()?]);
    }
    known.iter().map(|identity| from.open(identity.lineage())).collect()
}

/// The same life of the cluster in the other repository, registered there if it is not known yet. A repository that
/// knows only other lives belongs to another cluster of this name.
fn register(
    context: &Context,
    to: &Repository,
    archive: &crate::repo::Archive,
) -> Result<crate::repo::Archive> {
    let lineage = archive.lineage();
    let doing = || format!("register the cluster in repository {}", to.name());
    let known = to.identities().or_else(|error| match error.kind() {
        Kind::Absent => Ok(Vec::new()),
        _ => Err(error),
    });
    let known = known.doing(doing)?;
    if known.iter().any(|identity| identity.lineage() == lineage) {
        return to.open(lineage);
    }
    if known.is_empty() {
        to.prepare().doing(doing)?;
    }
    let ancestors = &archive.identity().lineage;
    let is_descendant = known.iter().any(|identity| {
        ancestors
            .iter()
            .any(|old| (old.system_identifier, old.pg) == (identity.system_identifier, identity.pg))
    });
    to.register(lineage, is_descendant, jiff::Timestamp::now(), &setup::random_hex::<16>()?)?;
    context.console.say(&format!(
        "cluster {} ({lineage}) registered in repository {} at {}",
        to.cluster(),
        to.name(),
        to.url()
    ));
    to.open(lineage)
}
