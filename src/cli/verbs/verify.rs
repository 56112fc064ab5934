//! `walkeep verify`.

use crate::cli::setup::Context;
use crate::cli::{args, exit, output, render, setup};
use crate::error::{Error, Kind, Result};
use crate::progress;
use crate::repo::{Archive, Identities, Lineage, Repository};
use crate::verify::{self, Lost, Options, Problem, Report, Scope, Unknown};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fmt::Write;
use std::time::Instant;

/// Problems that are shown; the rest is in the JSON document.
const SHOWN: usize = 50;

/// One part of a repository, and what was found out about it.
struct Verified {
    repository: Repository,
    lineage: Option<Lineage>,
    report: Report,
    seconds: f64,
}

impl Verified {
    fn is_good(&self) -> bool {
        self.report.problems.is_empty() && self.report.unknown.is_empty()
    }
}

pub fn run(context: &Context, args: &args::VerifyArgs) -> Result<u8> {
    let mut done = Vec::new();
    let mut failure: Option<Error> = None;
    for repository in setup::chosen(context, &args.selection)? {
        if let Err(error) = look(context, args, &repository, &mut done)
            && let Some(earlier) = failure.replace(error)
        {
            progress::error(&earlier);
        }
    }
    context.console.finish();
    if let (Some(id), true, None) = (&args.backup, done.is_empty(), &failure) {
        return Err(Error::new(Kind::Absent, format!("there is no backup {id}"))
            .hint("`walkeep list` names the backups there are"));
    }
    if context.json {
        output::print_json(&report(&done, failure.as_ref()))?;
    } else {
        // With --quiet only what went wrong.
        let shown = done.iter().filter(|verified| !context.console.is_quiet() || !verified.is_good());
        let texts: Vec<String> = shown.map(|verified| text(args, verified)).collect();
        output::print(&texts.join("\n"))?;
    }
    if let Some(error) = &failure {
        progress::error(error);
    }
    let is_bad = done.iter().any(|verified| !verified.report.problems.is_empty());
    let is_unknown = failure.is_some() || done.iter().any(|verified| !verified.report.unknown.is_empty());
    Ok(match (is_bad, is_unknown, failure) {
        (true, ..) => exit::PROBLEM,
        (false, true, Some(error)) if exit::of(&error) == 2 => 2,
        (false, true, _) => 1,
        (false, false, _) => 0,
    })
}

/// Verifies every life of the cluster in a repository, and who the repository says it is.
fn look(
    context: &Context,
    args: &args::VerifyArgs,
    repository: &Repository,
    done: &mut Vec<Verified>,
) -> Result<()> {
    let own = args.selection.lineage.or_else(|| setup::own_lineage(context));
    let Identities { good: identities, bad: problems } = repository.check_identities(own)?;
    let current = own.or(identities.last().map(|identity| identity.lineage()));
    if !problems.is_empty() {
        let mut report = Report::default();
        for (lineage, error) in problems {
            let object = format!("identity/{lineage}");
            match error.kind() {
                Kind::Damage | Kind::Identity => report.problems.push(Problem::of_identity(object, &error)),
                _ => report.unknown.push(Unknown { object, detail: error.to_string() }),
            }
        }
        done.push(Verified { repository: repository.clone(), lineage: None, report, seconds: 0.0 });
    } else if let Some(own) = own {
        // Also refuses the repository of somebody else.
        repository.open(own)?;
    } else if identities.is_empty() {
        repository.open_newest()?;
    }
    for identity in identities {
        let lineage = identity.lineage();
        if args.selection.lineage.is_some_and(|wanted| wanted != lineage) {
            continue;
        }
        let archive = repository.open(lineage)?;
        let is_current = current == Some(lineage);
        let Some(scope) = scope(args, &archive, is_current)? else {
            continue;
        };
        let begun = Instant::now();
        let report = verify::verify(&archive, &options(context, args, scope, is_current))?;
        done.push(Verified {
            repository: repository.clone(),
            lineage: Some(lineage),
            report,
            seconds: begun.elapsed().as_secs_f64(),
        });
    }
    Ok(())
}

/// What to look at in this life of the cluster; `None`: it does not have the backup.
fn scope(args: &args::VerifyArgs, archive: &Archive, is_current: bool) -> Result<Option<Scope>> {
    let Some(wanted) = &args.backup else {
        return Ok(Some(if args.wal { Scope::Wal } else { Scope::All }));
    };
    let records = archive.records()?;
    let mut ids = records.good.iter().map(|record| &record.id);
    let found = match wanted.as_str() {
        "latest" if is_current => ids.next_back(),
        "latest" => None,
        wanted => ids.chain(records.damaged.iter().map(|(id, _)| id)).find(|id| *id == wanted),
    };
    Ok(found.cloned().map(Scope::Backup))
}

fn options(context: &Context, args: &args::VerifyArgs, scope: Scope, is_current: bool) -> Options {
    let now = jiff::Timestamp::now();
    // A clock that cannot go back so far trusts everything of the past.
    let since = || now.checked_sub(args.every).unwrap_or(jiff::Timestamp::MIN);
    Options {
        progress: context.console.progress(),
        scope,
        quick: args.quick,
        since: args.since_last.then(since),
        now,
        jobs: args.jobs.unwrap_or(context.config.backup.jobs),
        needs_backup: is_current,
    }
}

fn report(done: &[Verified], failure: Option<&Error>) -> Value {
    let sum = |of: fn(&Report) -> u64| done.iter().map(|verified| of(&verified.report)).sum::<u64>();
    let problems = done.iter().flat_map(|verified| {
        verified.report.problems.iter().map(|problem| {
            json!({
                "repository": verified.repository.name(),
                "lineage": verified.lineage.map(|lineage| lineage.to_string()),
                "kind": problem.kind.as_str(),
                "object": problem.object,
                "detail": problem.detail,
                "hint": problem.hint(),
                "backups": problem.backups,
                "window": problem.window.as_ref().map(|lost| lost.iter().map(window).collect::<Vec<_>>()),
            })
        })
    });
    let unknown = done.iter().flat_map(|verified| {
        verified.report.unknown.iter().map(|unknown| {
            json!({
                "repository": verified.repository.name(),
                "object": unknown.object,
                "detail": unknown.detail,
            })
        })
    });
    json!({
        "checked": {
            "backups": sum(|report| report.checked.backups),
            "objects": sum(|report| report.checked.objects),
            "bytes": sum(|report| report.checked.bytes),
            "segments": sum(|report| report.checked.segments),
        },
        "trusted_bytes": sum(|report| report.trusted),
        "seconds": done.iter().map(|verified| verified.seconds).sum::<f64>(),
        "problems": problems.collect::<Vec<_>>(),
        "unknown": unknown.collect::<Vec<_>>(),
        "error": failure.map(ToString::to_string),
    })
}

fn window(lost: &Lost) -> Value {
    json!({
        "timeline": lost.timeline,
        "from_lsn": lost.from_lsn,
        "to_lsn": lost.to_lsn,
        "from": lost.from.map(render::time),
        "to": lost.to.map(render::time),
    })
}

fn text(args: &args::VerifyArgs, verified: &Verified) -> String {
    let Verified { repository, lineage, report, seconds } = verified;
    let mut text = format!("repository {} at {}", repository.name(), repository.url());
    if let Some(lineage) = lineage {
        let _ = write!(text, " ({lineage})");
    }
    text.push('\n');
    let checked = &report.checked;
    let _ = writeln!(
        text,
        "  {} backups, {} objects, {} segments: {} read in {seconds:.1} s ({}/s)",
        checked.backups,
        checked.objects,
        checked.segments,
        render::size(checked.bytes),
        render::size((checked.bytes as f64 / seconds.max(0.001)) as u64),
    );
    if report.trusted > 0 {
        let _ = writeln!(text, "  {} were read not long ago and not again", render::size(report.trusted));
    }
    for id in &report.bad_pages {
        let _ = writeln!(text, "  note    backup {id} has pages that were bad in the cluster already");
    }
    for problem in report.problems.iter().take(SHOWN) {
        problem_text(&mut text, problem);
    }
    let hints: BTreeSet<&str> = report.problems.iter().take(SHOWN).map(Problem::hint).collect();
    for hint in hints {
        let _ = writeln!(text, "  hint    {hint}");
    }
    if let Some(more) = report.problems.len().checked_sub(SHOWN + 1) {
        let _ = writeln!(text, "  … and {} more problems; --json has all", more + 1);
    }
    for unknown in report.unknown.iter().take(SHOWN) {
        let _ = writeln!(text, "  UNKNOWN {}: {}", unknown.object, unknown.detail);
    }
    let _ = match (report.problems.len(), report.unknown.len()) {
        (0, 0) if args.quick => writeln!(text, "  good, as far as presence and size tell"),
        (0, 0) if args.wal => writeln!(text, "  good: the WAL is whole"),
        (0, 0) if args.backup.is_some() => {
            writeln!(text, "  good: the backup restores, and the WAL leads on from it")
        }
        (0, 0) => {
            writeln!(text, "  good: every backup restores, and the WAL leads to the end of the archive")
        }
        (0, unknown) => writeln!(text, "  could not tell: {unknown} objects could not be read"),
        (problems, 0) => writeln!(text, "  BAD: {problems} problems"),
        (problems, unknown) => {
            writeln!(text, "  BAD: {problems} problems, and {unknown} objects could not be read")
        }
    };
    text
}

fn problem_text(text: &mut String, problem: &Problem) {
    let _ = writeln!(text, "  BAD     {}: {}: {}", problem.kind.as_str(), problem.object, problem.detail);
    if !problem.backups.is_empty() {
        let backups: Vec<&str> = problem.backups.iter().map(String::as_str).collect();
        let _ = writeln!(text, "          backups: {}", backups.join(", "));
    }
    for lost in problem.window.iter().flatten() {
        let time = |time: Option<jiff::Timestamp>| time.map_or_else(|| "?".to_owned(), render::time);
        let _ = writeln!(
            text,
            "          lost: timeline {} from {} ({}) to {} ({})",
            lost.timeline,
            time(lost.from),
            lost.from_lsn,
            time(lost.to),
            lost.to_lsn
        );
    }
}
