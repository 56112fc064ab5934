//! The server that a helper works for, as seen from its data directory and its process.

use crate::error::{Error, Kind, Result};
use crate::pg::running::LockFile;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

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
        let meta = std::fs::metadata(pgdata).ok();
        ServerState {
            directory: meta.map(|meta| (meta.dev(), meta.ino())),
            postmaster: postmaster(pgdata),
            signals: (pgdata.join("recovery.signal").exists(), pgdata.join("standby.signal").exists()),
        }
    }
}

/// Whether the server of a data directory has chosen the timeline that it recovers along: its lock
/// file has the status `standby` or `ready` then (`PM_STATUS_…` in `miscadmin.h`).
pub fn has_begun_recovery(pgdata: &Path) -> bool {
    let lock = LockFile::read(pgdata).ok().flatten();
    lock.is_some_and(|lock| matches!(lock.status(), "standby" | "ready"))
}

/// Returns process id and start time of the server, from its `postmaster.pid`; `None` when that
/// cannot be read.
fn postmaster(pgdata: &Path) -> Option<String> {
    let lock = LockFile::read(pgdata).ok()??;
    Some(format!("{} {}", lock.pid()?, lock.started()))
}
