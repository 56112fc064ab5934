//! `walkeep sync`: copies the WAL and the backups of one repository to another one.

use crate::cli::args::SyncArgs;
use crate::cli::exit::Exit;
use crate::cli::render::{self, Report};
use crate::cli::setup::{self, Context};
use crate::error::{Doing, Error, Kind, Result};
use crate::repo::{Archive, Repository};
use crate::sync::{self, Sync};
use serde::Serialize;
use serde_json::json;

/// Result of a copy, by lineage.
struct Synced<'a> {
    from: &'a Repository,
    to: &'a Repository,
    reports: Vec<sync::SyncReport>,
}

impl Synced<'_> {
    fn sum(&self, count: impl Fn(&sync::SyncReport) -> u64) -> u64 {
        self.reports.iter().map(count).sum()
    }

    fn problems(&self) -> impl Iterator<Item = &Error> {
        self.reports.iter().flat_map(|report| &report.problems)
    }

    /// Returns the line for standard error.
    fn summary(&self) -> String {
        let problems = match self.problems().count() {
            0 => String::new(),
            problems => format!("; {problems} problems, nothing was replaced"),
        };
        format!(
            "repository {} now has what {} has: {} WAL files and {} backups were copied, {}{problems}",
            self.to.name(),
            self.from.name(),
            self.sum(|report| report.segments),
            self.sum(|report| report.backups.len() as u64),
            render::size(self.sum(|report| report.bytes)),
        )
    }
}

impl Report for Synced<'_> {
    fn json(&self) -> impl Serialize {
        json!({
            "from": self.from.name(),
            "to": self.to.name(),
            "copied": {
                "segments": self.sum(|report| report.segments),
                "backups": self.reports.iter().flat_map(|report| &report.backups).collect::<Vec<_>>(),
                "objects": self.sum(|report| report.objects),
                "bytes": self.sum(|report| report.bytes),
            },
            "problems": self.problems().map(Error::to_string).collect::<Vec<_>>(),
        })
    }
}

pub fn run(context: &Context, args: &SyncArgs) -> Result<Exit> {
    let (from, to) = (named(context, &args.from)?, named(context, &args.to)?);
    if from.name() == to.name() {
        return Err(Error::new(Kind::Usage, "--from and --to are the same repository")
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
        reports.push(report.doing(|| format!("copy {lineage} from {} to {}", from.name(), to.name()))?);
    }
    let synced = Synced { from, to, reports };
    context.console.say(&synced.summary());
    context.print(&synced)?;
    Ok(if synced.problems().next().is_none() { Exit::Done } else { Exit::Problem })
}

fn named<'c>(context: &'c Context, name: &str) -> Result<&'c Repository> {
    context.config.repository(name)?;
    let found = context.repositories.iter().find(|repository| repository.name() == name);
    found.ok_or_else(|| Error::defect(format!("repository {name} is configured and was not built")))
}

/// Returns every lineage of the cluster in a repository, oldest first.
fn sources(from: &Repository) -> Result<Vec<Archive>> {
    let known = from.identities().doing(|| format!("open repository {}", from.name()))?;
    if known.is_empty() {
        // Fails with the reason why nothing is registered.
        return Ok(vec![from.open_newest()?]);
    }
    known.iter().map(|identity| from.open(identity.lineage())).collect()
}

/// Opens the lineage of `archive` in the other repository, and registers it there if necessary. A
/// repository that has only unrelated lineages belongs to another cluster of the same name and is
/// refused.
fn register(context: &Context, to: &Repository, archive: &Archive) -> Result<Archive> {
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
