//! `walkeep check`: tests the whole path of a segment, which the server archives into every
//! repository and `walfetch` fetches back.
//!
//! A result is *ok*, a *warning* or *failed*. A warning works today and costs something later, or
//! is any failure in a repository that is not required. A result that is ok may come with advice.

mod access;
mod clock;
mod fetch;
mod histories;
mod newest;
mod settings;
mod spool;
mod wal;

use crate::backup::BackupServer;
use crate::cli::account::with_command_line;
use crate::cli::args::CheckArgs;
use crate::cli::exit::Exit;
use crate::cli::render::Report;
use crate::cli::setup::{self, Context};
use crate::error::{Doing, Error, Result};
use crate::pg::client::{Session, SessionOptions, column};
use crate::pg::control::Control;
use crate::pg::lsn::Lsn;
use crate::pg::segment::{SegmentName, WalName};
use crate::repo::{Archive, Lineage, Repository};
use serde::Serialize;
use serde_json::{Value, json};
use std::path::Path;
use std::time::{Duration, Instant};

/// Maximum time of each statement.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(60);

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Severity {
    Ok,
    Warning,
    Failed,
}

impl Severity {
    fn as_str(self) -> &'static str {
        match self {
            Severity::Ok => "ok",
            Severity::Warning => "warning",
            Severity::Failed => "failed",
        }
    }

    /// Returns the worst severity that a result about this repository can have.
    fn worst_in(repository: &Repository) -> Severity {
        if repository.is_required() { Severity::Failed } else { Severity::Warning }
    }
}

/// Result of one check.
struct CheckResult {
    level: Severity,
    detail: String,
    hint: Option<String>,
}

impl CheckResult {
    fn ok(detail: impl Into<String>) -> CheckResult {
        CheckResult { level: Severity::Ok, detail: detail.into(), hint: None }
    }

    /// Returns a result that is ok, with advice for an improvement.
    fn advice(detail: impl Into<String>, hint: impl Into<String>) -> CheckResult {
        CheckResult { hint: Some(hint.into()), ..CheckResult::ok(detail) }
    }

    fn warning(detail: impl Into<String>, hint: impl Into<String>) -> CheckResult {
        CheckResult { level: Severity::Warning, ..CheckResult::advice(detail, hint) }
    }

    fn failed(detail: impl Into<String>, hint: impl Into<String>) -> CheckResult {
        CheckResult { level: Severity::Failed, ..CheckResult::advice(detail, hint) }
    }

    fn at_most(self, level: Severity) -> CheckResult {
        CheckResult { level: self.level.min(level), ..self }
    }
}

impl From<Error> for CheckResult {
    fn from(error: Error) -> CheckResult {
        let hint = error.advice().map(str::to_owned).map(with_command_line);
        CheckResult { level: Severity::Failed, detail: error.to_string(), hint }
    }
}

impl From<Result<CheckResult>> for CheckResult {
    fn from(found: Result<CheckResult>) -> CheckResult {
        found.unwrap_or_else(CheckResult::from)
    }
}

/// Results so far, and the worst of them.
struct Checks<'a> {
    context: &'a Context,
    done: Vec<Value>,
    worst: Severity,
    /// Whether the server could not be reached, so that its state is unknown.
    blind: bool,
}

impl Report for Checks<'_> {
    fn json(&self) -> impl Serialize {
        json!({"ok": self.worst < Severity::Failed, "checks": self.done})
    }
}

impl Checks<'_> {
    fn note(&mut self, name: &str, finding: impl Into<CheckResult>) {
        let CheckResult { level, detail, hint } = finding.into();
        self.worst = self.worst.max(level);
        let word = match level {
            Severity::Ok => "ok",
            Severity::Warning => "warning",
            Severity::Failed => "FAILED",
        };
        let hint_line = hint.as_ref().map_or_else(String::new, |hint| format!("\n        hint: {hint}"));
        let line = format!("{word:<7} {name}: {detail}{hint_line}");
        match level {
            Severity::Ok => self.context.console.say(&line),
            _ => self.context.console.insist(&line),
        }
        self.done.push(json!({
            "name": name, "ok": level < Severity::Failed, "result": level.as_str(), "detail": detail, "hint": hint,
        }));
    }

    /// Notes a result, at most as severe as `worst`, and returns the value of a success.
    fn tried<T>(&mut self, name: &str, worst: Severity, result: Result<(T, String)>) -> Option<T> {
        match result {
            Ok((value, detail)) => {
                self.note(name, CheckResult::ok(detail));
                Some(value)
            }
            Err(error) => {
                self.note(name, CheckResult::from(error).at_most(worst));
                None
            }
        }
    }
}

pub fn run(context: &Context, args: &CheckArgs) -> Result<Exit> {
    if args.wal {
        return wal::run(context, args);
    }
    let mut checks = Checks { context, done: Vec::new(), worst: Severity::Ok, blind: false };
    look(context, args, &mut checks);
    context.console.finish();
    context.print(&checks)?;
    Ok(match (checks.worst, checks.blind) {
        (Severity::Ok | Severity::Warning, _) => Exit::Done,
        (Severity::Failed, true) => Exit::Failed,
        (Severity::Failed, false) => Exit::Problem,
    })
}

fn look(context: &Context, args: &CheckArgs, checks: &mut Checks<'_>) {
    let server = server(context, checks);
    let lineage = match &server {
        Some((server, _)) => Ok(server.found.lineage),
        None => Lineage::of(&context.cluster.pgdata),
    };
    let archives = match lineage {
        Ok(lineage) => repositories(context, lineage, checks),
        Err(error) => {
            checks.note("data directory", error.doing("read the identity of the cluster"));
            Vec::new()
        }
    };
    for archive in &archives {
        histories::look(context, server.as_ref().map(|(server, _)| server), archive, checks);
    }
    access::look(context, checks);
    let size = server.as_ref().map(|(server, _)| server.found.segment_size);
    checks.note("spool", spool::look(&context.config.wal, &context.cluster.pgdata, size));
    match server {
        Some((server, session)) if !server.can_switch() => {
            replayed(context, &server, &session, &archives, checks);
        }
        Some((server, _)) if problems(context, &server).is_empty() => {
            archiving(context, args, &server, &archives, checks);
        }
        _ => {}
    }
}

/// Checks the server, its settings and its clock.
fn server(context: &Context, checks: &mut Checks<'_>) -> Option<(BackupServer, Session)> {
    let connected = setup::connection(context).and_then(|info| {
        let server = BackupServer::connect(&info, setup::primary(context)?.as_ref())?;
        Ok((server, Session::connect(&info, &SessionOptions::default())?))
    });
    checks.blind = connected.as_ref().is_err_and(|error| error.kind().is_transient());
    let connected = connected.map(|(server, session)| {
        let detail = format!("PostgreSQL {}, with all grants that are needed", server.found.version);
        ((server, session), detail)
    });
    let (server, session) = checks.tried("server", Severity::Failed, connected)?;
    let pgdata = &context.cluster.pgdata;
    let is_the_one = server.check_runs_on(pgdata).and_then(|()| readable(pgdata));
    let detail = format!("{} is the server's, and can be read", pgdata.display());
    checks.tried("data directory", Severity::Failed, is_the_one.map(|()| ((), detail)));
    let problems = problems(context, &server);
    if problems.is_empty() && !server.found.in_recovery {
        checks.note(
            "settings",
            CheckResult::ok(format!("archive_command is `{}`", server.found.archive_command)),
        );
    }
    for problem in problems {
        checks.note("settings", problem);
    }
    match settings::judge(&session, server.found.in_recovery) {
        Ok(findings) => findings.into_iter().for_each(|finding| checks.note("settings", finding)),
        Err(error) => checks.note("settings", error),
    }
    checks.note("clock of the server", clock::of_server(&session));
    Some((server, session))
}

/// Returns the settings that keep WAL from being archived.
fn problems(context: &Context, server: &BackupServer) -> Vec<Error> {
    let mut problems = server.archiving_problems();
    if problems.is_empty() && !server.found.in_recovery {
        problems.extend(server.archive_program_problem(&context.cluster.pgdata));
    }
    problems
}

/// Checks that a file that only its owner may read can be read: a backup reads every file.
fn readable(pgdata: &Path) -> Result<()> {
    Control::read(pgdata)
        .map(drop)
        .map_err(|error| error.hint("run walkeep as the user that runs the server, usually postgres"))
}

/// Checks each repository and its newest backup, and returns those that can be used.
fn repositories(context: &Context, lineage: Lineage, checks: &mut Checks<'_>) -> Vec<Archive> {
    let mut archives = Vec::new();
    for repository in &context.repositories {
        let worst = Severity::worst_in(repository);
        let opened = repository.open(lineage).and_then(|archive| {
            let proved = repository.prove().doing(|| format!("test repository {}", repository.name()));
            proved.map(|()| archive)
        });
        let opened = opened.map(|archive| {
            let id = &archive.identity().repository_id;
            let detail = format!("{} is this cluster's, id {id}, and never replaces", repository.url());
            (archive.clone(), detail)
        });
        if let Some(archive) = checks.tried(&format!("repository {}", repository.name()), worst, opened) {
            let name = format!("backups in {}", repository.name());
            let server = setup::server_timeline(context, &archive);
            for finding in newest::look(&archive, &server, jiff::Timestamp::now()) {
                checks.note(&name, finding.at_most(worst));
            }
            archives.push(archive);
        }
    }
    archives
}

/// Has the server archive a fresh segment, and fetches it back from every repository.
fn archiving(
    context: &Context,
    args: &CheckArgs,
    server: &BackupServer,
    archives: &[Archive],
    checks: &mut Checks<'_>,
) {
    let pgdata = &context.cluster.pgdata;
    let (begun, at) = (Instant::now(), jiff::Timestamp::now());
    let failures = server.archiver_failures();
    let switched = server.switch_segment().map(|name| (name, format!("{name} was finished for the test")));
    let Some(name) = checks.tried("fresh segment", Severity::Failed, switched) else {
        return;
    };
    // Read now: after it is archived the server may recycle the file. A standby may not have all of
    // it.
    let own = if server.found.in_recovery { None } else { fetch::own(pgdata, name) };
    let mut has_arrived = !archives.is_empty();
    for archive in archives {
        let repository = archive.repository();
        let (title, worst) =
            (format!("archiving into {}", repository.name()), Severity::worst_in(repository));
        // The error names the time limit: whole seconds are easier to read.
        let left = args.timeout.saturating_sub(Duration::from_secs(begun.elapsed().as_secs()));
        if let Err(error) = server.await_segment(pgdata, archive, name, left) {
            checks.note(&title, CheckResult::from(error).at_most(worst));
            has_arrived &= !repository.is_required();
            continue;
        }
        let (arrived, seconds) = (jiff::Timestamp::now(), begun.elapsed().as_secs_f64());
        let back = fetch::back(context, repository, name, own).map(|how| {
            CheckResult::ok(format!("{name} arrived after {seconds:.2} s, was fetched back and {how}"))
        });
        checks.note(&title, CheckResult::from(back).at_most(worst));
        checks.note(
            &format!("clock of {}", repository.name()),
            clock::of_repository(archive, name, at, arrived),
        );
    }
    // `push_ahead` may have stored the segment although the archiver fails at an earlier file.
    if has_arrived {
        let left = args.timeout.saturating_sub(begun.elapsed());
        let counted = failures.and_then(|failures| server.await_counted(pgdata, name, failures, left));
        let detail = format!("the server counts {name} as archived, and no older file waits");
        checks.tried("archiver", Severity::Failed, counted.map(|()| ((), detail)));
    }
}

/// Fetches the last segment that a standby has replayed to its end, when its primary cannot switch
/// to a fresh one.
fn replayed(
    context: &Context,
    server: &BackupServer,
    session: &Session,
    archives: &[Archive],
    checks: &mut Checks<'_>,
) {
    let size = server.found.segment_size;
    let asked = session
        .query_one("SELECT pg_last_wal_replay_lsn()::text", &[], Some(STATEMENT_TIMEOUT))
        .and_then(|row| column::<String>(&row, 0)?.parse::<Lsn>());
    let name = match asked {
        Ok(lsn) if lsn.0 >= 2 * size.bytes() => {
            let number = lsn.0 / size.bytes() - 1;
            SegmentName::of_number(server.found.timeline, number, size)
        }
        Ok(_) => return,
        Err(error) => return checks.note("archiving", error),
    };
    for archive in archives {
        let repository = archive.repository();
        let back = match archive.has_wal(WalName::Segment(name)) {
            Ok(true) => fetch::back(context, repository, name, None).map(|how| {
                CheckResult::warning(
                    format!("{name}, which the standby has replayed, was fetched back and {how}; no fresh segment was tested"),
                    "only the primary can switch to a new segment: run check there, or set `primary = \"host=…\"` beside `connection`",
                )
            }),
            Ok(false) => Ok(CheckResult::warning(
                format!("{name} is missing in the archive, and the standby has replayed it"),
                "the primary archives it: run check there",
            )),
            Err(error) => Err(error),
        };
        let finding = CheckResult::from(back).at_most(Severity::worst_in(repository));
        checks.note(&format!("archiving into {}", repository.name()), finding);
    }
}
