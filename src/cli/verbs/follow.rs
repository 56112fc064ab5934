//! `walkeep restore --follow`: starts the restored server as its user would, follows its recovery, and compares the
//! point that it reached with the one that was asked for. It looks at the server's files, so it needs no role in it;
//! only that recovery pauses has to be asked.

use crate::cli::setup::{self, Context};
use crate::error::{Doing, Error, Kind, Result};
use crate::pg::client::{Options, Session, column};
use crate::pg::conninfo::{ConnInfo, Environment};
use crate::pg::control::Control;
use crate::pg::history::History;
use crate::pg::lsn::Lsn;
use crate::pg::programs::Programs;
use crate::pg::segment::TimelineId;
use crate::progress;
use crate::restore::{Action, Plan, Recovery, Target};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// How often the server is looked at.
const POLL: Duration = Duration::from_millis(200);

/// How long the server may take to show itself.
const START: Duration = Duration::from_secs(10);

/// For each question to a server that pauses.
const ANSWER: Duration = Duration::from_secs(10);

/// How much of the log is shown.
const SHOWN: usize = 8;

/// Where recovery ended.
pub struct End {
    pub reached: Lsn,
    pub expected: Option<Lsn>,
    pub words: String,
}

pub fn follow(
    context: &Context,
    plan: &Plan,
    recovery: &Recovery,
    to: &Path,
    programs: &Programs,
    options: Option<&str>,
) -> Result<End> {
    let expected = expected(plan)?;
    let log = to.join("walkeep.log");
    start(programs, to, &log, options)?;
    context.console.say(&format!("the server was started; its log begins in {}", log.display()));
    let (mut last, mut seen, begun) = (Lsn(0), false, Instant::now());
    let reached = loop {
        std::thread::sleep(POLL);
        let control = Control::read(to)?;
        let at = control.min_recovery_point();
        if at > last {
            last = at;
            progress::step(&format!("recovered to {at}"));
        }
        // A backup's own control file says the same; the signal file goes when recovery ends.
        if control.is_in_production() && !to.join(recovery.signal()).exists() {
            break promoted_at(to, plan)?;
        }
        let server = Postmaster::of(to);
        seen |= server.is_some();
        let Some(server) = server else {
            if !seen && begun.elapsed() < START {
                continue;
            }
            if recovery.action == Action::Shutdown && control.is_shut_down_in_recovery() {
                break at;
            }
            return Err(Error::new(
                Kind::Problem,
                format!("the server ended at {at}, before it reached its target: {}", tail(&log)),
            )
            .hint("repair what the log says and start it again: recovery goes on. Do not remove recovery.signal or backup_label"));
        };
        if recovery.action == Action::Pause
            && server.takes_connections
            && let Some(at) = paused_at(context, &server)?
        {
            break at;
        }
    };
    let asked = match &plan.target {
        Target::End => "the end of the archive".to_owned(),
        Target::Time(time) => time.to_string(),
        Target::Lsn(lsn) => lsn.to_string(),
        Target::Xid(xid) => format!("transaction {xid}"),
        Target::Name(name) => format!("restore point {name}"),
        Target::Immediate => "the end of the backup".to_owned(),
    };
    if let Some(expected) = expected
        && reached < expected
    {
        return Err(Error::new(
            Kind::Problem,
            format!("recovery stopped at {reached}, and {asked} is at {expected} or behind it"),
        )
        .hint("what lies between is not in this server: look at its log before anybody writes to it"));
    }
    Ok(End { reached, expected, words: format!("recovered to {reached}; asked for: {asked}") })
}

/// Before which recovery must not end, by the archive. For the other targets the server fails when it does not find
/// them.
fn expected(plan: &Plan) -> Result<Option<Lsn>> {
    Ok(match plan.target {
        Target::End => plan.tail()?.last_record,
        Target::Lsn(lsn) => Some(lsn),
        Target::Time(_) | Target::Xid(_) | Target::Name(_) | Target::Immediate => Some(plan.record.stop_lsn),
    })
}

/// As the user would: by `pg_ctl`, which leaves the server alone afterwards.
fn start(programs: &Programs, to: &Path, log: &Path, options: Option<&str>) -> Result<()> {
    let doing = || "start the restored server".to_owned();
    let pg_ctl = programs.get("pg_ctl").ok_or_else(|| {
        Error::new(Kind::Absent, "there is no pg_ctl beside the server's programs").doing(doing())
    })?;
    let mut command = Command::new(pg_ctl);
    command.arg("-D").arg(to).arg("-l").arg(log).arg("--no-wait").current_dir(to);
    options.into_iter().for_each(|options| {
        command.arg("-o").arg(options);
    });
    let owner = to.metadata().doing(|| format!("look at {}", to.display()))?;
    if nix::unistd::geteuid().is_root() && owner.uid() != 0 {
        command.uid(owner.uid()).gid(owner.gid());
    }
    let output = command.arg("start").stdin(Stdio::null()).output().doing(doing)?;
    match output.status.success() {
        true => Ok(()),
        false => {
            let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            Err(Error::new(Kind::Failed, format!("{}: {said}", output.status)).doing(doing()))
        }
    }
}

/// The last lines of the log, as one.
fn tail(log: &Path) -> String {
    let text = String::from_utf8_lossy(&std::fs::read(log).unwrap_or_default()).into_owned();
    let lines: Vec<&str> = text.lines().collect();
    lines.get(lines.len().saturating_sub(SHOWN)..).unwrap_or_default().join("; ")
}

/// Where the server left the timeline of the archive: the history of the new one says so.
fn promoted_at(to: &Path, plan: &Plan) -> Result<Lsn> {
    let mut found = None;
    let wal = to.join("pg_wal");
    for entry in std::fs::read_dir(&wal).doing(|| format!("look at {}", wal.display()))?.flatten() {
        let name = entry.file_name();
        let timeline = name.to_str().and_then(|name| name.strip_suffix(".history"));
        let timeline = timeline.and_then(|digits| u32::from_str_radix(digits, 16).ok()).map(TimelineId);
        if let Some(timeline) = timeline.filter(|timeline| *timeline > plan.history.timeline) {
            let text = std::fs::read(entry.path()).doing(|| format!("read {}", entry.path().display()))?;
            found =
                found.max(Some((timeline, History::parse(timeline, &text)?)).map(|(timeline, history)| {
                    (timeline, history.parents.last().map_or(Lsn(0), |(_, end)| *end))
                }));
        }
    }
    found.map(|(_, end)| end).ok_or_else(|| {
        Error::new(Kind::Failed, "the server is open, and does not say where its recovery ended")
    })
}

/// A server that runs, by its `postmaster.pid`.
struct Postmaster {
    port: String,
    socket: String,
    takes_connections: bool,
}

impl Postmaster {
    /// `None` when there is none any more.
    fn of(to: &Path) -> Option<Postmaster> {
        let text = std::fs::read_to_string(to.join("postmaster.pid")).ok()?;
        let lines: Vec<&str> = text.lines().map(str::trim).collect();
        let line = |number: usize| lines.get(number).copied().unwrap_or_default();
        let is_there = line(0).parse::<u32>().is_ok_and(|pid| Path::new(&format!("/proc/{pid}")).exists());
        is_there.then(|| Postmaster {
            port: line(3).to_owned(),
            socket: line(4).to_owned(),
            takes_connections: matches!(line(7), "standby" | "ready"),
        })
    }
}

/// Where recovery pauses, once it does.
fn paused_at(context: &Context, server: &Postmaster) -> Result<Option<Lsn>> {
    let mut failure = None;
    for user in setup::roles(context) {
        let text = format!("host='{}' port={} user='{user}' dbname=postgres", server.socket, server.port);
        let environment = Environment { variable: &|_| None, home: std::env::home_dir(), user: None };
        let asked = ConnInfo::parse(&text, &environment)
            .and_then(|info| Session::connect(&info, &Options::default()))
            .and_then(|session| {
                session.query_one(
                    "SELECT pg_get_wal_replay_pause_state() = 'paused', pg_last_wal_replay_lsn()::text",
                    &[],
                    Some(ANSWER),
                )
            });
        match asked {
            Ok(row) => {
                return match column::<bool>(&row, 0)? {
                    true => column::<String>(&row, 1)?.parse().map(Some),
                    false => Ok(None),
                };
            }
            Err(error) => failure = Some(error),
        }
    }
    let error = failure.unwrap_or_else(|| Error::new(Kind::Denied, "no role is known"));
    Err(error.doing("ask whether recovery pauses").hint(
        "the server runs and goes on; ask it yourself: select pg_get_wal_replay_pause_state(), pg_last_wal_replay_lsn()",
    ))
}
