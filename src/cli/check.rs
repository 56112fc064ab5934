//! `walkeep check`: the whole path from the server into every repository and back.

use super::output::Warnings;
use super::setup::Context;
use super::{args, exit, output, setup};
use crate::backup::Server;
use crate::config;
use crate::error::{Doing, Error, Kind, Result};
use crate::pg::segment::WalName;
use crate::repo::Repository;
use crate::wal::fetch::{Fetch, Fetched};
use rustix::fs::Access;
use serde_json::{Value, json};
use std::path::Path;
use std::time::Instant;

/// One thing that was looked at.
struct Checks<'a> {
    context: &'a Context,
    done: Vec<Value>,
    ok: bool,
    /// The server could not be asked, so nothing is known.
    blind: bool,
}

impl Checks<'_> {
    fn note<T>(&mut self, name: &str, result: Result<(T, String)>) -> Option<T> {
        let (value, detail, hint, ok) = match result {
            Ok((value, detail)) => (Some(value), detail, None, true),
            Err(error) => (None, error.to_string(), error.advice().map(str::to_owned), false),
        };
        self.ok &= ok;
        match &hint {
            _ if ok => self.context.console.say(&format!("ok      {name}: {detail}")),
            None => self.context.console.insist(&format!("FAILED  {name}: {detail}")),
            Some(hint) => {
                self.context.console.insist(&format!("FAILED  {name}: {detail}\n        hint: {hint}"));
            }
        }
        self.done.push(json!({"name": name, "ok": ok, "detail": detail, "hint": hint}));
        value
    }
}

pub fn run(context: &Context, args: &args::Check) -> Result<u8> {
    let mut checks = Checks { context, done: Vec::new(), ok: true, blind: false };
    look(context, args, &mut checks);
    context.console.finish();
    if context.json {
        output::print_json(&json!({"ok": checks.ok, "checks": checks.done}))?;
    }
    Ok(match (checks.ok, checks.blind) {
        (true, _) => 0,
        (false, true) => 1,
        (false, false) => exit::PROBLEM,
    })
}

fn look(context: &Context, args: &args::Check, checks: &mut Checks<'_>) {
    let connected =
        setup::connection(context).and_then(|info| Server::connect(&info, setup::primary(context)?.as_ref()));
    checks.blind = connected.as_ref().is_err_and(|error| error.kind().is_transient());
    let server = checks.note(
        "server",
        connected.map(|server| {
            let detail = format!("PostgreSQL {}, with all grants that are needed", server.found.version);
            (server, detail)
        }),
    );
    let Some(server) = server else {
        return;
    };
    let pgdata = &context.cluster.pgdata;
    checks.note(
        "data directory",
        server
            .check_runs_on(pgdata)
            .and_then(|()| readable(pgdata))
            .map(|()| ((), format!("{} is the server's, and can be read", pgdata.display()))),
    );
    let problems = server.archiving_problems();
    let archives = problems.is_empty();
    if archives {
        checks.note("settings", Ok(((), format!("archive_command is `{}`", server.found.archive_command))));
    }
    for problem in problems {
        checks.note::<()>("settings", Err(problem));
    }
    for repository in &context.repositories {
        let opened = repository.open(server.found.lineage).and_then(|archive| {
            let proved = repository.prove().doing(|| format!("try out repository {}", repository.name()));
            proved.map(|()| archive)
        });
        checks.note(
            &format!("repository {}", repository.name()),
            opened.map(|archive| {
                let id = &archive.identity().repository_id;
                (archive.clone(), format!("{} is this cluster's, id {id}", repository.url()))
            }),
        );
    }
    checks.note("spool", Ok(((), spool(&context.config.wal))));
    if !archives {
        return;
    }
    if !server.can_switch() {
        checks.note(
            "archiving",
            Ok((
                (),
                "the server is a standby and cannot end a segment: run check on the primary, or configure `primary`"
                    .to_owned(),
            )),
        );
        return;
    }
    let begun = Instant::now();
    let Some(name) = checks.note(
        "fresh segment",
        server.switch_segment().map(|name| (name, format!("{name} was ended for the test"))),
    ) else {
        return;
    };
    for repository in &context.repositories {
        let left = args.timeout.saturating_sub(begun.elapsed());
        let arrived = repository
            .open(server.found.lineage)
            .and_then(|archive| server.await_segment(pgdata, &archive, name, left))
            .and_then(|()| compare(&server, pgdata, repository, WalName::Segment(name)));
        let seconds = begun.elapsed().as_secs_f64();
        checks.note(
            &format!("archiving into {}", repository.name()),
            arrived
                .map(|how| ((), format!("{name} arrived, was fetched back and {how}, after {seconds:.2} s"))),
        );
    }
}

/// What the spool is good for. Nothing depends on it, so nothing of it is a failure; nor is it made here, where it
/// could get another owner than the server.
fn spool(wal: &config::Wal) -> String {
    let place = wal.spool.display();
    if wal.push_ahead == 0 && wal.fetch_ahead == 0 {
        return "nothing is pushed or fetched ahead".to_owned();
    }
    let there = wal.spool.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
    let room = rustix::fs::statvfs(there).map(|room| room.f_bavail.saturating_mul(room.f_frsize) >> 20);
    match (rustix::fs::access(there, Access::WRITE_OK | Access::EXEC_OK), room) {
        (Ok(()), Ok(room)) if there == wal.spool => format!("{place} can be written to, {room} MiB are free"),
        (Ok(()), Ok(room)) => format!("{place} will be made when it is needed, {room} MiB are free"),
        (Err(error), _) | (_, Err(error)) => format!(
            "{place} cannot be used, so nothing is pushed or fetched ahead: {}: {}; make it, for the user that runs the server alone",
            there.display(),
            std::io::Error::from(error)
        ),
    }
}

/// A backup reads everything; one file that is readable for the owner alone tells.
fn readable(pgdata: &Path) -> Result<()> {
    let path = pgdata.join("global/pg_control");
    std::fs::read(&path)
        .doing(|| format!("read {}", path.display()))
        .map(|_| ())
        .map_err(|error| error.hint("run walkeep as the user that runs the server, usually postgres"))
}

/// Fetches the segment as recovery would, and compares it with the server's own copy while that is there.
fn compare(server: &Server, pgdata: &Path, repository: &Repository, name: WalName) -> Result<&'static str> {
    let scratch = std::env::temp_dir().join(format!("walkeep-check-{}", setup::random_hex::<8>()?));
    let fetch = Fetch {
        name,
        destination: &scratch,
        lineage: Some(server.found.lineage),
        repositories: std::slice::from_ref(repository),
        still_wanted: &|| Ok(()),
    };
    let fetched = fetch.run(&Warnings("walkeep"));
    let bytes = std::fs::read(&scratch);
    let _ = std::fs::remove_file(&scratch);
    if fetched? == Fetched::Absent {
        return Err(Error::new(Kind::Problem, format!("{name} went away")));
    }
    let bytes = bytes.doing(|| format!("read {}", scratch.display()))?;
    match std::fs::read(pgdata.join("pg_wal").join(name.to_string())) {
        Ok(own) if own == bytes => Ok("is the same as the server's"),
        Ok(_) => Err(Error::new(Kind::Problem, format!("{name} differs from the server's own copy"))),
        // Archived and recycled: the hash in its header was right.
        Err(_) => Ok("has the right hash"),
    }
}
