//! `walkeep verify`: reads the repositories and reports what is damaged or missing.

use crate::cli::args::VerifyArgs;
use crate::cli::exit::Exit;
use crate::cli::render::{self, Report};
use crate::cli::setup::{self, Context};
use crate::error::{Error, Failures, Result};
use crate::progress;
use crate::repo::survey::{Survey, Want};
use crate::repo::{Archive, Identities, Lineage, Repository};
use crate::verify::{self, LostSpan, Options, Problem, Scope, Unknown};
use serde::Serialize;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fmt::Write;
use std::time::{Duration, Instant};

/// Maximum number of problems in the text; JSON has all.
const MAX_SHOWN: usize = 50;

/// Result for one lineage of a repository.
struct Verified {
    repository: Repository,
    /// `None` for the identities of the repository.
    lineage: Option<Lineage>,
    report: verify::VerifyResult,
    took: Duration,
}

impl Verified {
    fn is_good(&self) -> bool {
        self.report.problems.is_empty() && self.report.unknown.is_empty()
    }
}

struct Verification<'a> {
    args: &'a VerifyArgs,
    quiet: bool,
    done: Vec<Verified>,
    /// The last error that ended the verification of a repository.
    failure: Option<Error>,
}

impl Verification<'_> {
    fn sum(&self, count: fn(&verify::VerifyResult) -> u64) -> u64 {
        self.done.iter().map(|verified| count(&verified.report)).sum()
    }

    /// Returns the exit: damage outweighs objects that could not be read.
    fn exit(&self) -> Exit {
        let is_bad = self.done.iter().any(|verified| !verified.report.problems.is_empty());
        let is_unknown = self.done.iter().any(|verified| !verified.report.unknown.is_empty());
        match &self.failure {
            _ if is_bad => Exit::Problem,
            Some(error) if Exit::of(error) == Exit::Usage => Exit::Usage,
            Some(_) => Exit::Failed,
            None if is_unknown => Exit::Failed,
            None => Exit::Done,
        }
    }
}

impl Report for Verification<'_> {
    fn text(&self) -> String {
        let shown = self.done.iter().filter(|verified| !self.quiet || !verified.is_good());
        let texts: Vec<String> = shown.map(|verified| text(self.args, verified)).collect();
        texts.join("\n")
    }

    fn json(&self) -> impl Serialize {
        let problems = self.done.iter().flat_map(|verified| {
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
        let unknown = self.done.iter().flat_map(|verified| {
            verified.report.unknown.iter().map(|unknown| {
                json!({
                    "repository": verified.repository.name(),
                    "object": unknown.object,
                    "detail": unknown.detail,
                })
            })
        });
        let notes = self.done.iter().flat_map(|verified| {
            verified.report.notes.iter().map(|note| {
                json!({
                    "repository": verified.repository.name(),
                    "object": note.object,
                    "detail": note.detail,
                })
            })
        });
        json!({
            "checked": {
                "backups": self.sum(|report| report.checked.backups),
                "objects": self.sum(|report| report.checked.objects),
                "bytes": self.sum(|report| report.checked.bytes),
                "segments": self.sum(|report| report.checked.segments),
            },
            "trusted_bytes": self.sum(|report| report.trusted),
            "seconds": self.done.iter().map(|verified| verified.took.as_secs_f64()).sum::<f64>(),
            "problems": problems.collect::<Vec<_>>(),
            "unknown": unknown.collect::<Vec<_>>(),
            "notes": notes.collect::<Vec<_>>(),
            "error": self.failure.as_ref().map(ToString::to_string),
        })
    }
}

pub fn run(context: &Context, args: &VerifyArgs) -> Result<Exit> {
    let mut done = Vec::new();
    let mut failures = Failures::new(progress::error);
    for repository in setup::selected_for_reading(context, &args.selection)? {
        if let Err(error) = look(context, args, &repository, &mut done) {
            setup::away(&args.selection, &repository, error, &mut failures);
        }
    }
    context.console.finish();
    let failure = failures.finish().err();
    if let (Some(id), true, None) = (&args.backup, done.is_empty(), &failure) {
        return Err(setup::no_backup(id));
    }
    let verification = Verification { args, quiet: context.console.is_quiet(), done, failure };
    context.print(&verification)?;
    if let Some(error) = &verification.failure {
        progress::error(error);
    }
    Ok(verification.exit())
}

/// Verifies the identities of a repository, and every lineage of the cluster in it.
fn look(
    context: &Context,
    args: &VerifyArgs,
    repository: &Repository,
    done: &mut Vec<Verified>,
) -> Result<()> {
    let own = args.selection.lineage.or_else(|| setup::own_lineage(context));
    let Identities { good: identities, bad: problems } = repository.check_identities(own)?;
    let current = own.or(identities.last().map(|identity| identity.lineage()));
    if !problems.is_empty() {
        let mut report = verify::VerifyResult::default();
        for (lineage, error) in problems {
            let object = format!("identity/{lineage}");
            if verify::is_damage(&error) {
                report.problems.push(Problem::of_identity(object, &error));
            } else {
                report.unknown.push(Unknown { object, detail: error.to_string() });
            }
        }
        done.push(Verified { repository: repository.clone(), lineage: None, report, took: Duration::ZERO });
    } else if let Some(own) = own {
        // Refuses the repository of another cluster too.
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
        let Some(scope) = scope(context, args, &archive, is_current)? else {
            continue;
        };
        let begun = Instant::now();
        let report = verify::verify(&archive, &options(context, args, &archive, scope, is_current)?)?;
        done.push(Verified {
            repository: repository.clone(),
            lineage: Some(lineage),
            report,
            took: begun.elapsed(),
        });
    }
    Ok(())
}

/// Returns what to verify of this lineage, or `None` when it does not have the backup.
fn scope(context: &Context, args: &VerifyArgs, archive: &Archive, is_current: bool) -> Result<Option<Scope>> {
    let Some(wanted) = &args.backup else {
        return Ok(Some(if args.wal { Scope::Wal } else { Scope::All }));
    };
    if wanted == "latest" {
        if !is_current {
            return Ok(None);
        }
        let server = setup::server_timeline(context, archive);
        let survey = Survey::read(archive, Want::default())?;
        let newest = survey.branches(&server, jiff::Timestamp::now()).newest(&survey.records.good);
        return Ok(newest.map(|record| Scope::Backup(record.id.clone())));
    }
    let records = archive.records()?;
    let ids = records.good.iter().map(|record| &record.id);
    let found = ids.chain(records.damaged.iter().map(|(id, _)| id)).find(|id| *id == wanted);
    Ok(found.cloned().map(Scope::Backup))
}

fn options(
    context: &Context,
    args: &VerifyArgs,
    archive: &Archive,
    scope: Scope,
    is_current: bool,
) -> Result<Options> {
    let now = jiff::Timestamp::now();
    // With an interval that begins before the range of times, every earlier read counts.
    let since = || now.checked_sub(args.every).unwrap_or(jiff::Timestamp::MIN);
    Ok(Options {
        progress: context.console.progress(),
        scope,
        quick: args.quick,
        since: args.since_last.then(since),
        now,
        jobs: args.jobs.unwrap_or(context.config.backup.jobs),
        needs_backup: is_current,
        server: setup::server_timeline(context, archive),
        random: setup::random_hex::<6>()?,
    })
}

fn window(lost: &LostSpan) -> Value {
    json!({
        "timeline": lost.timeline,
        "from_lsn": lost.from_lsn,
        "to_lsn": lost.to_lsn,
        "from": lost.from.map(render::time),
        "to": lost.to.map(render::time),
    })
}

fn text(args: &VerifyArgs, verified: &Verified) -> String {
    let Verified { repository, lineage, report, took } = verified;
    let mut text = format!("repository {} at {}", repository.name(), repository.url());
    if let Some(lineage) = lineage {
        let _ = write!(text, " ({lineage})");
    }
    text.push('\n');
    let checked = &report.checked;
    let _ = writeln!(
        text,
        "  {} backups, {} objects, {} segments: {} read in {:.1} s ({})",
        checked.backups,
        checked.objects,
        checked.segments,
        render::size(checked.bytes),
        took.as_secs_f64(),
        render::rate(checked.bytes, *took),
    );
    if report.trusted > 0 {
        let _ = writeln!(text, "  {} were read recently and skipped", render::size(report.trusted));
    }
    for id in &report.bad_pages {
        let _ = writeln!(text, "  note    backup {id} has pages that were already damaged in the cluster");
    }
    for note in report.notes.iter().take(MAX_SHOWN) {
        let _ = writeln!(text, "  note    {}: {}", note.object, note.detail);
    }
    for problem in report.problems.iter().take(MAX_SHOWN) {
        problem_text(&mut text, problem);
    }
    let hints: BTreeSet<&str> = report.problems.iter().take(MAX_SHOWN).map(Problem::hint).collect();
    for hint in hints {
        let _ = writeln!(text, "  hint    {hint}");
    }
    if let Some(more) = report.problems.len().checked_sub(MAX_SHOWN + 1) {
        let _ = writeln!(text, "  … and {} more problems; --json has all", more + 1);
    }
    for unknown in report.unknown.iter().take(MAX_SHOWN) {
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
        (0, unknown) => writeln!(text, "  unknown: {unknown} objects could not be read"),
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
