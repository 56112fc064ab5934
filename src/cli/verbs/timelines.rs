//! `walkeep timelines`: shows the branches of the cluster, retires one, and makes the missing history
//! of a timeline again.

use crate::cli::args::TimelinesArgs;
use crate::cli::exit::Exit;
use crate::cli::histories;
use crate::cli::render::{self, Report};
use crate::cli::setup::{self, Context};
use crate::error::{Error, Failures, Kind, Result};
use crate::pg::segment::{TimelineId, WalName};
use crate::progress;
use crate::repo::Archive;
use crate::repo::branches::{Branch, Branches, Living};
use crate::repo::survey::{Survey, Want};
use crate::repo::window::Window;
use jiff::Timestamp;
use serde::Serialize;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fmt::Write;

pub fn run(context: &Context, args: &TimelinesArgs) -> Result<Exit> {
    let repositories = setup::selected(context, &args.selection)?;
    let mut failures = Failures::new(progress::error);
    let mut archives = Vec::new();
    for repository in &repositories {
        match setup::archive(context, repository, &args.selection) {
            Ok(archive) => archives.push(archive),
            Err(error) => failures.push(error),
        }
    }
    if let Some(timeline) = args.rebuild.map(TimelineId) {
        failures.finish()?;
        let repositories = histories::rebuild(context, timeline, &archives)?;
        context.print(&Rebuilt { name: WalName::History(timeline), repositories })?;
        return Ok(Exit::Done);
    }
    let now = Timestamp::now();
    let mut all = Vec::new();
    for archive in archives {
        match RepositoryBranches::read(context, archive, now) {
            Ok(branches) => all.push(branches),
            Err(error) => failures.push(error),
        }
    }
    if let Some(timeline) = args.retire.map(TimelineId) {
        return retire(context, timeline, &all, failures, now);
    }
    if let Some(timeline) = args.unretire.map(TimelineId) {
        return unretire(context, timeline, &all, failures);
    }
    context.print(&TimelinesReport { cluster: &context.cluster.name, repositories: all })?;
    failures.finish()?;
    Ok(Exit::Done)
}

/// Marks a timeline as retired in every repository.
fn retire(
    context: &Context,
    timeline: TimelineId,
    all: &[RepositoryBranches],
    mut failures: Failures,
    now: Timestamp,
) -> Result<Exit> {
    all.iter().try_for_each(|repository| repository.check_retirable(timeline))?;
    // A timeline whose history is missing below a later one is requested by every recovery.
    let is_known = |repository: &RepositoryBranches| {
        let mut later = repository.branches.iter().filter(|branch| branch.timeline() > timeline);
        repository.branches.get(timeline).is_some() || later.any(|branch| branch.has_history)
    };
    if !all.is_empty() && !all.iter().any(is_known) {
        return Err(Error::new(Kind::Absent, format!("timeline {timeline} is not in the archive"))
            .hint("`walkeep timelines` shows those that are"));
    }
    let mut done = Vec::new();
    for repository in all {
        match repository.archive.retire(timeline, now) {
            Ok(_) => done.push(repository.name().to_owned()),
            Err(error) => failures.push(error.hint("repeat the command when the repository answers: until then servers may still follow the timeline")),
        }
    }
    let others = all.iter().flat_map(|repository| repository.branches.dead().map(Branch::timeline));
    let others: BTreeSet<TimelineId> = others.filter(|other| *other != timeline).collect();
    for other in others {
        context.console.say(&format!(
            "no server continues timeline {other} either: `walkeep timelines --retire {other}`"
        ));
    }
    context.print(&Retired { timeline, is_retired: true, repositories: done })?;
    failures.finish()?;
    Ok(Exit::Done)
}

/// Removes the mark of a timeline from every repository.
fn unretire(
    context: &Context,
    timeline: TimelineId,
    all: &[RepositoryBranches],
    mut failures: Failures,
) -> Result<Exit> {
    let mut done = Vec::new();
    for repository in all {
        match repository.archive.unretire(timeline) {
            Ok(true) => done.push(repository.name().to_owned()),
            Ok(false) => {}
            Err(error) => failures.push(error.hint("repeat the command when the repository answers")),
        }
    }
    context.print(&Retired { timeline, is_retired: false, repositories: done })?;
    failures.finish()?;
    Ok(Exit::Done)
}

/// The branches in one repository.
struct RepositoryBranches {
    archive: Archive,
    branches: Branches,
    /// All windows, by timeline.
    windows: Vec<Window>,
}

impl RepositoryBranches {
    fn read(context: &Context, archive: Archive, now: Timestamp) -> Result<RepositoryBranches> {
        let server = setup::server_timeline(context, &archive);
        let survey = Survey::read(&archive, Want::default())?;
        let branches = survey.branches(&server, now);
        let windows = survey.windows(&archive, &branches)?.by_timeline;
        Ok(RepositoryBranches { archive, branches, windows })
    }

    fn name(&self) -> &str {
        self.archive.repository().name()
    }

    /// Refuses to retire a timeline that is alive, or that the living one descends from.
    fn check_retirable(&self, timeline: TimelineId) -> Result<()> {
        let Living::One(alive, why) = *self.branches.living() else {
            return Ok(());
        };
        if self.branches.is_dead(timeline) || self.branches.get(timeline).is_none() {
            return Ok(());
        }
        let message = if alive == timeline {
            format!("timeline {timeline} is alive: {}", why.text())
        } else {
            format!("timeline {alive}, which is alive, descends from timeline {timeline}")
        };
        let message = format!("{message} (repository {})", self.name());
        Err(Error::new(Kind::Refused, message)
            .doing(format!("retire timeline {timeline}"))
            .hint("only a branch that no server continues can be retired: `walkeep timelines` shows them"))
    }

    /// Describes what a timeline is.
    fn state(&self, branch: &Branch) -> String {
        let timeline = branch.timeline();
        let retired = if branch.is_retired { ", retired" } else { "" };
        match *self.branches.living() {
            Living::One(alive, why) if alive == timeline => format!("alive: {}{retired}", why.text()),
            Living::Unclear(by_backup, _) if by_backup == timeline => {
                "may be alive: the newest backup leads to it".to_owned()
            }
            Living::Unclear(_, by_wal) if by_wal == timeline => {
                "may be alive: the newest archived WAL is on it".to_owned()
            }
            _ if branch.is_retired => "retired".to_owned(),
            _ if self.branches.is_dead(timeline) => "nothing continues it".to_owned(),
            Living::One(alive, _) => format!("leads to timeline {alive}"),
            Living::None | Living::Unclear(..) => "leads to a timeline that may be alive".to_owned(),
        }
    }

    /// Returns the last moment that can be restored on a timeline.
    fn last_moment(&self, timeline: TimelineId) -> Option<Timestamp> {
        let windows = self.windows.iter().filter(|window| window.timeline == timeline);
        windows.map(|window| window.to).max()
    }

    fn json(&self) -> Value {
        let timelines = self.branches.iter().map(|branch| {
            let timeline = branch.timeline();
            let parent = branch.parent();
            json!({
                "timeline": timeline,
                "parent": parent.map(|(parent, _)| parent),
                "left_at": parent.map(|(_, at)| at),
                "first": branch.segments.map(|(first, _)| first),
                "last": branch.segments.map(|(_, last)| last),
                "stored": branch.stored.map(render::time),
                "last_moment": self.last_moment(timeline).map(render::time),
                "backups": branch.backups,
                "alive": self.branches.alive() == Some(timeline),
                "dead": self.branches.is_dead(timeline),
                "retired": branch.is_retired,
                "state": self.state(branch),
            })
        });
        let why = match self.branches.living() {
            Living::One(_, why) => Some(why.as_str()),
            Living::None | Living::Unclear(..) => None,
        };
        json!({
            "name": self.name(),
            "url": self.archive.repository().url(),
            "alive": self.branches.alive(),
            "why": why,
            "possible": self.branches.possible(),
            "timelines": timelines.collect::<Vec<_>>(),
        })
    }

    fn text(&self) -> String {
        let mut text = format!("repository {} at {}\n", self.name(), self.archive.repository().url());
        if self.branches.iter().next().is_none() {
            text.push_str("  no WAL and no backup\n");
        }
        for branch in self.branches.iter() {
            let timeline = branch.timeline();
            let _ = writeln!(text, "  timeline {timeline}: {}", self.state(branch));
            if let Some((parent, at)) = branch.parent() {
                let _ = writeln!(text, "    left timeline {parent} at {at}");
            }
            let stored =
                branch.stored.map_or_else(String::new, |at| format!(", stored {}", render::time(at)));
            let _ = match branch.segments {
                Some((first, last)) => writeln!(text, "    WAL from {first} to {last}{stored}"),
                None => writeln!(text, "    no WAL{stored}"),
            };
            if let Some(moment) = self.last_moment(timeline) {
                let _ = writeln!(text, "    last moment that can be restored: {}", render::time(moment));
            }
            for id in &branch.backups {
                let _ = writeln!(text, "    backup {id}");
            }
        }
        if let Some(unclear) = self.branches.unclear() {
            let _ = writeln!(text, "  {unclear}");
        }
        text
    }
}

struct TimelinesReport<'a> {
    cluster: &'a str,
    repositories: Vec<RepositoryBranches>,
}

impl Report for TimelinesReport<'_> {
    fn text(&self) -> String {
        self.repositories.iter().map(RepositoryBranches::text).collect::<Vec<_>>().join("\n")
    }

    fn json(&self) -> impl Serialize {
        let repositories: Vec<Value> = self.repositories.iter().map(RepositoryBranches::json).collect();
        json!({"cluster": self.cluster, "repositories": repositories})
    }
}

/// A timeline whose mark was set or removed, and the repositories in which that was done.
struct Retired {
    timeline: TimelineId,
    is_retired: bool,
    repositories: Vec<String>,
}

impl Report for Retired {
    fn text(&self) -> String {
        let Retired { timeline, is_retired, repositories } = self;
        let mut text = String::new();
        for repository in repositories {
            let _ = if *is_retired {
                writeln!(
                    text,
                    "timeline {timeline} is retired in repository {repository}; nothing of it was removed"
                )
            } else {
                writeln!(text, "timeline {timeline} is no longer retired in repository {repository}")
            };
        }
        if repositories.is_empty() && !is_retired {
            let _ = writeln!(text, "timeline {timeline} was not retired");
        }
        text
    }

    fn json(&self) -> impl Serialize {
        let name = if self.is_retired { "retired" } else { "unretired" };
        let mut report = json!({"repositories": self.repositories});
        report[name] = json!(self.timeline);
        report
    }
}

/// A history that was made again, and the repositories that lacked it.
struct Rebuilt {
    name: WalName,
    repositories: Vec<String>,
}

impl Report for Rebuilt {
    fn text(&self) -> String {
        let Rebuilt { name, repositories } = self;
        let mut text = String::new();
        for repository in repositories {
            let _ = writeln!(text, "{name} was made again from a later history, in repository {repository}");
        }
        if repositories.is_empty() {
            let _ = writeln!(text, "{name} is not missing");
        }
        text
    }

    fn json(&self) -> impl Serialize {
        json!({"rebuilt": self.name.to_string(), "repositories": self.repositories})
    }
}
