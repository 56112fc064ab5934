//! `walkeep check`: the whole path from the server into every repository and back, tried through the server itself.
//!
//! A check is *ok*, a *warning* or *failed*. A warning is what works and costs something one day, and whatever goes
//! wrong in a repository that is not required. What is ok may come with advice.

mod clock;
mod fetch;
mod newest;
mod settings;
mod spool;

use crate::backup::Server;
use crate::cli::setup::Context;
use crate::cli::{args, exit, output, setup};
use crate::error::{Doing, Error, Result};
use crate::pg::client::{Options, Session, column};
use crate::pg::lsn::Lsn;
use crate::pg::segment::{SegmentName, WalName};
use crate::repo::{Archive, Lineage, Repository};
use serde_json::{Value, json};
use std::path::Path;
use std::time::{Duration, Instant};

/// The bound of every statement.
const SOON: Duration = Duration::from_secs(60);

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Level {
    Ok,
    Warning,
    Failed,
}

impl Level {
    fn as_str(self) -> &'static str {
        match self {
            Level::Ok => "ok",
            Level::Warning => "warning",
            Level::Failed => "failed",
        }
    }

    /// How bad something can be in a repository.
    fn worst_in(repository: &Repository) -> Level {
        if repository.is_required() { Level::Failed } else { Level::Warning }
    }
}

/// What was found out about one thing.
struct Finding {
    level: Level,
    detail: String,
    hint: Option<String>,
}

impl Finding {
    fn ok(detail: impl Into<String>) -> Finding {
        Finding { level: Level::Ok, detail: detail.into(), hint: None }
    }

    /// Nothing is wrong, and it could be better.
    fn advice(detail: impl Into<String>, hint: impl Into<String>) -> Finding {
        Finding { hint: Some(hint.into()), ..Finding::ok(detail) }
    }

    fn warning(detail: impl Into<String>, hint: impl Into<String>) -> Finding {
        Finding { level: Level::Warning, ..Finding::advice(detail, hint) }
    }

    fn failed(detail: impl Into<String>, hint: impl Into<String>) -> Finding {
        Finding { level: Level::Failed, ..Finding::advice(detail, hint) }
    }

    fn at_most(self, level: Level) -> Finding {
        Finding { level: self.level.min(level), ..self }
    }
}

impl From<Error> for Finding {
    fn from(error: Error) -> Finding {
        let hint = error.advice().map(str::to_owned);
        Finding { level: Level::Failed, detail: error.to_string(), hint }
    }
}

impl From<Result<Finding>> for Finding {
    fn from(found: Result<Finding>) -> Finding {
        found.unwrap_or_else(Finding::from)
    }
}

/// What was looked at.
struct Checks<'a> {
    context: &'a Context,
    done: Vec<Value>,
    worst: Level,
    /// The server could not be asked, so nothing is known of it.
    blind: bool,
}

impl Checks<'_> {
    fn note(&mut self, name: &str, finding: impl Into<Finding>) {
        let Finding { level, detail, hint } = finding.into();
        self.worst = self.worst.max(level);
        let word = match level {
            Level::Ok => "ok",
            Level::Warning => "warning",
            Level::Failed => "FAILED",
        };
        let hint_line = hint.as_ref().map(|hint| format!("\n        hint: {hint}")).unwrap_or_default();
        let line = format!("{word:<7} {name}: {detail}{hint_line}");
        match level {
            Level::Ok => self.context.console.say(&line),
            _ => self.context.console.insist(&line),
        }
        self.done.push(json!({
            "name": name, "ok": level < Level::Failed, "result": level.as_str(), "detail": detail, "hint": hint,
        }));
    }

    /// Notes what was tried; the value when it succeeded.
    fn tried<T>(&mut self, name: &str, worst: Level, result: Result<(T, String)>) -> Option<T> {
        match result {
            Ok((value, detail)) => {
                self.note(name, Finding::ok(detail));
                Some(value)
            }
            Err(error) => {
                self.note(name, Finding::from(error).at_most(worst));
                None
            }
        }
    }
}

pub fn run(context: &Context, args: &args::CheckArgs) -> Result<u8> {
    let mut checks = Checks { context, done: Vec::new(), worst: Level::Ok, blind: false };
    look(context, args, &mut checks);
    context.console.finish();
    let is_ok = checks.worst < Level::Failed;
    if context.json {
        output::print_json(&json!({"ok": is_ok, "checks": checks.done}))?;
    }
    Ok(match (is_ok, checks.blind) {
        (true, _) => 0,
        (false, true) => 1,
        (false, false) => exit::PROBLEM,
    })
}

fn look(context: &Context, args: &args::CheckArgs, checks: &mut Checks<'_>) {
    let server = server(context, checks);
    let lineage = match &server {
        Some((server, _)) => Ok(server.found.lineage),
        None => Lineage::of(&context.cluster.pgdata),
    };
    let archives = match lineage {
        Ok(lineage) => repositories(context, lineage, checks),
        Err(error) => {
            checks.note("data directory", error.doing("find out whose repositories to look for"));
            Vec::new()
        }
    };
    let size = server.as_ref().map(|(server, _)| server.found.segment_size);
    checks.note("spool", spool::look(&context.config.wal, size));
    match server {
        Some((server, session)) if !server.can_switch() => {
            replayed(context, &server, &session, &archives, checks);
        }
        Some((server, _)) if server.archiving_problems().is_empty() => {
            archiving(context, args, &server, &archives, checks);
        }
        _ => {}
    }
}

/// The server, its settings and its clock.
fn server(context: &Context, checks: &mut Checks<'_>) -> Option<(Server, Session)> {
    let connected = setup::connection(context).and_then(|info| {
        let server = Server::connect(&info, setup::primary(context)?.as_ref())?;
        Ok((server, Session::connect(&info, &Options::default())?))
    });
    checks.blind = connected.as_ref().is_err_and(|error| error.kind().is_transient());
    let connected = connected.map(|(server, session)| {
        let detail = format!("PostgreSQL {}, with all grants that are needed", server.found.version);
        ((server, session), detail)
    });
    let (server, session) = checks.tried("server", Level::Failed, connected)?;
    let pgdata = &context.cluster.pgdata;
    let is_the_one = server.check_runs_on(pgdata).and_then(|()| readable(pgdata));
    let detail = format!("{} is the server's, and can be read", pgdata.display());
    checks.tried("data directory", Level::Failed, is_the_one.map(|()| ((), detail)));
    let problems = server.archiving_problems();
    if problems.is_empty() && !server.found.in_recovery {
        checks
            .note("settings", Finding::ok(format!("archive_command is `{}`", server.found.archive_command)));
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

/// A backup reads everything; one file that is readable for the owner alone tells.
fn readable(pgdata: &Path) -> Result<()> {
    let path = pgdata.join("global/pg_control");
    std::fs::read(&path)
        .doing(|| format!("read {}", path.display()))
        .map(|_| ())
        .map_err(|error| error.hint("run walkeep as the user that runs the server, usually postgres"))
}

/// The repositories that are there, each with its newest backup.
fn repositories(context: &Context, lineage: Lineage, checks: &mut Checks<'_>) -> Vec<Archive> {
    let mut archives = Vec::new();
    for repository in &context.repositories {
        let worst = Level::worst_in(repository);
        let opened = repository.open(lineage).and_then(|archive| {
            let proved = repository.prove().doing(|| format!("try out repository {}", repository.name()));
            proved.map(|()| archive)
        });
        let opened = opened.map(|archive| {
            let id = &archive.identity().repository_id;
            let detail = format!("{} is this cluster's, id {id}, and never replaces", repository.url());
            (archive.clone(), detail)
        });
        if let Some(archive) = checks.tried(&format!("repository {}", repository.name()), worst, opened) {
            let name = format!("backups in {}", repository.name());
            for finding in newest::look(&archive) {
                checks.note(&name, finding.at_most(worst));
            }
            archives.push(archive);
        }
    }
    archives
}

/// A fresh segment into every repository and back.
fn archiving(
    context: &Context,
    args: &args::CheckArgs,
    server: &Server,
    archives: &[Archive],
    checks: &mut Checks<'_>,
) {
    let pgdata = &context.cluster.pgdata;
    let (begun, at) = (Instant::now(), jiff::Timestamp::now());
    let switched = server.switch_segment().map(|name| (name, format!("{name} was ended for the test")));
    let Some(name) = checks.tried("fresh segment", Level::Failed, switched) else {
        return;
    };
    // Before it is archived the server does not use the file for another segment. A standby may not have all of it.
    let own = if server.found.in_recovery { None } else { fetch::own(pgdata, name) };
    for archive in archives {
        let repository = archive.repository();
        let (title, worst) = (format!("archiving into {}", repository.name()), Level::worst_in(repository));
        // In whole seconds, as people read them.
        let left = args.timeout.saturating_sub(Duration::from_secs(begun.elapsed().as_secs()));
        if let Err(error) = server.await_segment(pgdata, archive, name, left) {
            checks.note(&title, Finding::from(error).at_most(worst));
            continue;
        }
        let (arrived, seconds) = (jiff::Timestamp::now(), begun.elapsed().as_secs_f64());
        let back = fetch::back(context, repository, name, own).map(|how| {
            Finding::ok(format!("{name} arrived after {seconds:.2} s, was fetched back and {how}"))
        });
        checks.note(&title, Finding::from(back).at_most(worst));
        checks.note(
            &format!("clock of {}", repository.name()),
            clock::of_repository(archive, name, at, arrived),
        );
    }
}

/// A standby whose primary cannot be asked for a fresh segment: the last one that it has replayed to its end.
fn replayed(
    context: &Context,
    server: &Server,
    session: &Session,
    archives: &[Archive],
    checks: &mut Checks<'_>,
) {
    let size = server.found.segment_size;
    let asked = session
        .query_one("SELECT pg_last_wal_replay_lsn()::text", &[], Some(SOON))
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
                Finding::warning(
                    format!("{name}, which the standby has replayed, was fetched back and {how}; nothing fresh was tried"),
                    "only the primary can end a segment: run check there, or give `primary = \"host=…\"` beside `connection`",
                )
            }),
            Ok(false) => Ok(Finding::warning(
                format!("{name} is not there, and the standby has replayed it"),
                "the primary archives it: run check there",
            )),
            Err(error) => Err(error),
        };
        let finding = Finding::from(back).at_most(Level::worst_in(repository));
        checks.note(&format!("archiving into {}", repository.name()), finding);
    }
}
