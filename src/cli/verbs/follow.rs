//! `walkeep restore --follow`: starts the restored server as its user would, follows its recovery,
//! and compares the position that it reached with the target. Reads the server's files, so it needs
//! no role; only a pause of recovery has to be queried.

use crate::cli::setup::{self, Context};
use crate::error::{Doing, Error, Kind, Result};
use crate::fs::folder::Folder;
use crate::fs::named;
use crate::pg::client::{Session, SessionOptions, column};
use crate::pg::conninfo::{ConnInfo, Environment};
use crate::pg::control::Control;
use crate::pg::history::History;
use crate::pg::lsn::Lsn;
use crate::pg::programs::Programs;
use crate::pg::running::LockFile;
use crate::pg::segment::TimelineId;
use crate::progress;
use crate::restore::{Action, RecoverySettings, RecoveryTarget, RestorePlan};
use std::collections::BTreeSet;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// Interval between looks at the server's files.
const POLL_INTERVAL: Duration = Duration::from_millis(200);

/// Maximum time of a query to a paused server.
const QUERY_TIMEOUT: Duration = Duration::from_secs(10);

/// Number of lines of the server's log to show.
const MAX_LOG_LINES: usize = 8;

/// Name of the server's log in the data directory.
const LOG: &str = "walkeep.log";

/// Maximum size in bytes of the log and of other files of the server that are read.
const MAX_LOG: u64 = 256 << 20;

/// The restored data directory, the user and the group that own it, and the settings with which its
/// server is started.
pub struct Server<'a> {
    pub data: &'a Folder,
    pub owner: (u32, u32),
    pub programs: &'a Programs,
    pub settings: Vec<String>,
}

/// End of a recovery.
pub struct RecoveryEnd {
    pub reached: Lsn,
    /// Position before which recovery must not end.
    pub expected: Option<Lsn>,
    pub text: String,
}

/// Starts the restored server, and waits until its recovery reaches the target. `left_out` are the
/// OIDs of databases without content.
///
/// # Errors
///
/// `Problem` when recovery ended before the target.
pub fn follow(
    context: &Context,
    plan: &RestorePlan,
    recovery: &RecoverySettings,
    left_out: &BTreeSet<u32>,
    mut server: Server<'_>,
) -> Result<RecoveryEnd> {
    let expected = expected(plan)?;
    if !left_out.is_empty() {
        // The log has the pages that recovery skips.
        let settings = ["logging_collector=off", "log_destination=stderr", "log_min_messages=warning"];
        server.settings.extend(settings.map(str::to_owned));
    }
    let mut child = server.start()?;
    let log = server.data.path().join(LOG);
    context.console.say(&format!("the server was started; its log begins in {}", log.display()));
    let reached = await_end(context, plan, recovery, server.data, &mut child)?;
    check_pages(left_out, server.data)?;
    let target = match &plan.target {
        RecoveryTarget::End => "the end of the archive".to_owned(),
        RecoveryTarget::Time(time) => time.to_string(),
        RecoveryTarget::Lsn(lsn) => lsn.to_string(),
        RecoveryTarget::Xid(xid) => format!("transaction {xid}"),
        RecoveryTarget::Name(name) => format!("restore point {name}"),
        RecoveryTarget::Immediate => "the end of the backup".to_owned(),
    };
    if let Some(expected) = expected
        && reached < expected
    {
        return Err(Error::new(
            Kind::Problem,
            format!("recovery stopped at {reached}, and {target} is at {expected} or later"),
        )
        .hint("this server lacks the WAL between them: read its log before anything is written to it"));
    }
    Ok(RecoveryEnd { reached, expected, text: format!("recovered to {reached}; target: {target}") })
}

/// Waits for the end of recovery, and returns its position.
fn await_end(
    context: &Context,
    plan: &RestorePlan,
    recovery: &RecoverySettings,
    data: &Folder,
    child: &mut Child,
) -> Result<Lsn> {
    let to = data.path();
    let mut last = Lsn(0);
    loop {
        std::thread::sleep(POLL_INTERVAL);
        // Before the files are read: what it wrote last is seen then.
        let has_ended = child.try_wait().doing("look at the restored server")?.is_some();
        let control = Control::read(to)?;
        let at = control.min_recovery_point();
        if at > last {
            last = at;
            progress::step(&format!("recovered to {at}"));
        }
        // The control file of a backup has this state too; the signal file is removed at the end of
        // recovery.
        if control.is_in_production() && data.entry(Path::new(recovery.signal()))?.is_none() {
            return promoted_at(data, plan);
        }
        if has_ended {
            if recovery.action == Action::Shutdown && control.is_shut_down_in_recovery() {
                return Ok(at);
            }
            return Err(Error::new(
                Kind::Problem,
                format!("the server ended at {at}, before its target: {}", tail(data)),
            )
            .hint("repair the cause and start it again: recovery continues. Do not remove recovery.signal or backup_label"));
        }
        let Some(server) = LockFile::read(to)? else {
            continue;
        };
        if recovery.action == Action::Pause
            && matches!(server.status(), "standby" | "ready")
            && let Some(at) = paused_at(context, &server)?
        {
            return Ok(at);
        }
    }
}

/// Returns the position before which recovery must not end: the last record of the archive, the
/// target itself, or the end of the backup. An exclusive recovery to a position may end before it,
/// in front of a page header. A server that does not find a target of another kind
/// than the first two fails by itself.
fn expected(plan: &RestorePlan) -> Result<Option<Lsn>> {
    Ok(match plan.stop.target {
        RecoveryTarget::End => plan.tail()?.last_record,
        RecoveryTarget::Lsn(lsn) if !plan.stop.exclusive => Some(lsn),
        RecoveryTarget::Lsn(_)
        | RecoveryTarget::Time(_)
        | RecoveryTarget::Xid(_)
        | RecoveryTarget::Name(_)
        | RecoveryTarget::Immediate => Some(plan.record.stop_lsn),
    })
}

impl Server<'_> {
    /// Starts the server as the owner of the data directory, in a process group of its own, so that
    /// it goes on when this process is interrupted. `pg_ctl` would pass the path of the data
    /// directory through a shell, which expands it.
    fn start(&self) -> Result<Child> {
        let doing = "start the restored server";
        // The shell opens the log, so that the owner of the directory does it, and not root.
        let script = format!("umask 077; exec \"$@\" >>{LOG} 2>&1");
        let mut command = Command::new("/bin/sh");
        command.arg("-c").arg(script).arg("sh").arg(self.programs.postgres());
        command.arg("-D").arg(self.data.path()).current_dir(self.data.path());
        for setting in &self.settings {
            command.arg("-c").arg(setting);
        }
        if rustix::process::geteuid().is_root() {
            command.uid(self.owner.0).gid(self.owner.1);
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
        command.spawn().doing(doing)
    }
}

/// Reads a text of the server in its data directory.
fn read(data: &Folder, below: &Path) -> Result<String> {
    let bytes = data.read(below, MAX_LOG)?.ok_or_else(|| named::missing(&data.path().join(below)))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Refuses a recovery without some databases that skipped pages of a database that was restored.
///
/// # Errors
///
/// `Problem`: the pages are damaged in the backup, or the WAL does not belong to it.
fn check_pages(left_out: &BTreeSet<u32>, data: &Folder) -> Result<()> {
    if left_out.is_empty() {
        return Ok(());
    }
    let text = read(data, Path::new(LOG))?;
    let relations: BTreeSet<&str> = text
        .lines()
        .filter_map(invalid_page)
        .filter(|path| database_of(path).is_none_or(|oid| !left_out.contains(&oid)))
        .collect();
    if relations.is_empty() {
        return Ok(());
    }
    let shown: Vec<&str> = relations.into_iter().take(MAX_LOG_LINES).collect();
    Err(Error::new(
        Kind::Problem,
        format!("recovery met missing or empty pages of relations that were restored: {}", shown.join(", ")),
    )
    .hint("this copy lacks content: run `walkeep verify`, and restore another backup, or without --database"))
}

/// Path of the relation whose missing or empty page a line of the log reports
/// (`report_invalid_page` in PostgreSQL's `xlogutils.c`, which is never translated).
fn invalid_page(line: &str) -> Option<&str> {
    let ends = [" does not exist", " is uninitialized", " did not exist", " was uninitialized"];
    let line = ends.iter().find_map(|end| line.strip_suffix(end))?;
    let (before, path) = line.rsplit_once(" of relation ")?;
    before.contains("page ").then_some(path)
}

/// OID of the database in a path such as `base/5/16390`; `None` for a shared relation.
fn database_of(path: &str) -> Option<u32> {
    let mut parts = path.rsplit('/').skip(1);
    parts.next().and_then(|oid| oid.parse().ok())
}

/// Returns the last lines of the log, joined.
fn tail(data: &Folder) -> String {
    match read(data, Path::new(LOG)) {
        Ok(text) => {
            let skipped = text.lines().count().saturating_sub(MAX_LOG_LINES);
            text.lines().skip(skipped).collect::<Vec<_>>().join("; ")
        }
        Err(error) => format!("its log cannot be read: {error}"),
    }
}

/// Returns the position at which the server left the timeline of the archive, from the history of
/// its new timeline.
fn promoted_at(data: &Folder, plan: &RestorePlan) -> Result<Lsn> {
    let wal = data.path().join("pg_wal");
    let mut found = None;
    // `pg_wal` may be a link.
    for (name, _) in named::list(&wal)?.ok_or_else(|| named::missing(&wal))? {
        let timeline = name.to_str().and_then(|name| name.strip_suffix(".history"));
        let timeline = timeline.and_then(|digits| u32::from_str_radix(digits, 16).ok()).map(TimelineId);
        if let Some(timeline) = timeline.filter(|timeline| *timeline > plan.history.timeline) {
            let path = wal.join(&name);
            let text = named::read(&path, MAX_LOG)?.ok_or_else(|| named::missing(&path))?;
            let history = History::parse(timeline, &text)?;
            let (_, end) = history
                .parents
                .last()
                .ok_or_else(|| Error::new(Kind::Failed, format!("{} has no line", path.display())))?;
            found = found.max(Some((timeline, *end)));
        }
    }
    found.map(|(_, end)| end).ok_or_else(|| {
        Error::new(Kind::Failed, "the server is open, but pg_wal has no history of a new timeline")
    })
}

/// Returns the position at which recovery is paused, or `None` while it is not.
fn paused_at(context: &Context, server: &LockFile) -> Result<Option<Lsn>> {
    let mut failure = None;
    for user in setup::roles(context) {
        let quoted = |text: &str| text.replace('\\', "\\\\").replace('\'', "\\'");
        let (host, port) = (quoted(server.socket_directory()), quoted(server.port()));
        let text = format!("host='{host}' port='{port}' user='{}' dbname=postgres", quoted(&user));
        let environment = Environment { variable: &|_| None, home: std::env::home_dir(), user: None };
        let asked = ConnInfo::parse(&text, &environment)
            .and_then(|info| Session::connect(&info, &SessionOptions::default()))
            .and_then(|session| {
                session.query_one(
                    "SELECT pg_get_wal_replay_pause_state() = 'paused', pg_last_wal_replay_lsn()::text",
                    &[],
                    Some(QUERY_TIMEOUT),
                )
            });
        match asked {
            Ok(row) => {
                let is_paused = column::<bool>(&row, 0)?;
                return is_paused.then(|| column::<String>(&row, 1)?.parse()).transpose();
            }
            Err(error) => failure = Some(error),
        }
    }
    let error = failure.unwrap_or_else(|| Error::new(Kind::Denied, "no role is known that may connect"));
    Err(error.doing("query the pause of recovery").hint(
        "the server keeps running; query it with: select pg_get_wal_replay_pause_state(), pg_last_wal_replay_lsn()",
    ))
}
