//! The server that a helper works for, as seen from its data directory and its process.

use crate::error::{Error, Kind, Result};
use crate::fs::named;
use crate::pg::client::{Session, SessionOptions, column};
use crate::pg::conninfo::{ConnInfo, Environment};
use crate::pg::control::Control;
use crate::pg::lsn::Lsn;
use crate::pg::running::LockFile;
use crate::pg::segment::TimelineId;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The server that waits for a file. A server that is stopped does not wait for its
/// `restore_command`, and the next start would take a file that appears later for the one that it
/// requested itself.
pub struct Waiting {
    parent: u32,
    postmaster: Option<String>,
}

impl Waiting {
    /// Records the server that started this process, and has the kernel kill this process when that
    /// server's process ends.
    pub fn begin() -> Result<Waiting> {
        let parent = std::os::unix::process::parent_id();
        rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))
            .map_err(|e| Error::io("request a signal for the end of the server", &e.into()))?;
        let waiting = Waiting { parent, postmaster: postmaster(Path::new("")) };
        // The server may have ended before the signal was requested.
        waiting.check()?;
        Ok(waiting)
    }

    /// Fails when the server has stopped, or was started again.
    pub fn check(&self) -> Result<()> {
        if std::os::unix::process::parent_id() == self.parent && postmaster(Path::new("")) == self.postmaster
        {
            return Ok(());
        }
        Err(Error::new(
            Kind::Refused,
            "the server that requested the file has stopped; nothing was delivered",
        ))
    }
}

/// A recovery as observed from outside of the server.
pub struct ObservedRecovery {
    pgdata: PathBuf,
    seen: ServerState,
}

#[derive(PartialEq, Eq)]
struct ServerState {
    directory: Option<(u64, u64)>,
    postmaster: Option<String>,
    /// `recovery.signal` and `standby.signal`: the server removes them when recovery is over.
    signals: (bool, bool),
}

impl ObservedRecovery {
    /// Records the present state of a data directory.
    pub fn of(pgdata: &Path) -> ObservedRecovery {
        ObservedRecovery { pgdata: pgdata.to_owned(), seen: ServerState::now(pgdata) }
    }

    /// Fails when recovery is over: the server was stopped or promoted, or the directory was
    /// replaced.
    pub fn check(&self) -> Result<()> {
        if ServerState::now(&self.pgdata) == self.seen {
            return Ok(());
        }
        Err(Error::new(Kind::Refused, "recovery is over"))
    }
}

impl ServerState {
    fn now(pgdata: &Path) -> ServerState {
        let exists = |name: &str| matches!(named::stat(&pgdata.join(name)), Ok(Some(_)));
        let stat = named::stat(pgdata).ok().flatten();
        ServerState {
            directory: stat.map(|stat| (stat.st_dev, stat.st_ino)),
            postmaster: postmaster(pgdata),
            signals: (exists("recovery.signal"), exists("standby.signal")),
        }
    }
}

/// Maximum time to wait for a server that is asked how far it has replayed.
const QUERY_TIMEOUT: Duration = Duration::from_secs(3);

/// Returns the timeline of a server in recovery, and a position that it has replayed; `None` before
/// it has chosen the timeline to recover along, and outside of recovery. The lock file has the
/// status `standby` or `ready` after the choice (`PM_STATUS_…` in `miscadmin.h`); a server that is
/// `ready` is queried, as one of these roles. Otherwise the position is that of its last writes.
pub fn replayed(pgdata: &Path, users: &[String]) -> Option<(TimelineId, Lsn)> {
    let control = Control::read(pgdata).ok().filter(Control::is_in_archive_recovery)?;
    let lock = LockFile::read(pgdata).ok().flatten()?;
    let answer = match lock.status() {
        "ready" => users.iter().find_map(|user| query_replayed(&lock, user).ok()),
        "standby" => None,
        _ => return None,
    };
    let written = control.redo().max(control.min_recovery_point());
    Some((control.latest_timeline(), answer.map_or(written, |answer| answer.max(written))))
}

fn query_replayed(lock: &LockFile, user: &str) -> Result<Lsn> {
    let (host, port) = (lock.socket_directory(), lock.port());
    let text = format!("host='{host}' port={port} user='{user}' dbname=postgres");
    let environment = Environment { variable: &|_| None, home: std::env::home_dir(), user: None };
    let options = SessionOptions { connect_timeout: QUERY_TIMEOUT, ..SessionOptions::default() };
    let session = Session::connect(&ConnInfo::parse(&text, &environment)?, &options)?;
    let row = session.query_one("SELECT pg_last_wal_replay_lsn()::text", &[], Some(QUERY_TIMEOUT))?;
    column::<String>(&row, 0)?.parse()
}

/// Returns process id and start time of the server, from its `postmaster.pid`; `None` when that
/// cannot be read.
fn postmaster(pgdata: &Path) -> Option<String> {
    let lock = LockFile::read(pgdata).ok()??;
    Some(format!("{} {}", lock.pid()?, lock.started()))
}
