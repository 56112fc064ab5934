//! The server that a helper works for, as its data directory shows it.

use crate::error::{Error, Kind, Result};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The server that waits for a file. When it is stopped it does not wait for its `restore_command`; a file
/// that appeared later would be taken for another one by the next start.
pub struct Waiting {
    parent: u32,
    postmaster: Option<String>,
}

impl Waiting {
    pub fn begin() -> Result<Waiting> {
        let parent = std::os::unix::process::parent_id();
        rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))
            .map_err(|e| Error::io("ask to end with the server", &e.into()))?;
        let waiting = Waiting { parent, postmaster: postmaster(Path::new("")) };
        // It may have ended before the line above.
        waiting.check()?;
        Ok(waiting)
    }

    pub fn check(&self) -> Result<()> {
        if std::os::unix::process::parent_id() == self.parent && postmaster(Path::new("")) == self.postmaster
        {
            return Ok(());
        }
        Err(Error::new(Kind::Refused, "the server that asked for it has stopped; nothing was delivered"))
    }
}

/// A recovery as somebody finds it who is not part of it.
pub struct Recovery {
    pgdata: PathBuf,
    seen: Seen,
}

#[derive(PartialEq, Eq)]
struct Seen {
    directory: Option<(u64, u64)>,
    postmaster: Option<String>,
    /// `recovery.signal` and `standby.signal`: the server removes them when recovery is over.
    signals: (bool, bool),
}

impl Recovery {
    pub fn of(pgdata: &Path) -> Recovery {
        Recovery { pgdata: pgdata.to_owned(), seen: Seen::now(pgdata) }
    }

    /// Fails when it is over: the server was stopped or promoted, or the directory is another one.
    pub fn check(&self) -> Result<()> {
        if Seen::now(&self.pgdata) == self.seen {
            return Ok(());
        }
        Err(Error::new(Kind::Refused, "recovery is over"))
    }
}

impl Seen {
    fn now(pgdata: &Path) -> Seen {
        let meta = std::fs::metadata(pgdata).ok();
        Seen {
            directory: meta.map(|meta| (meta.dev(), meta.ino())),
            postmaster: postmaster(pgdata),
            signals: (pgdata.join("recovery.signal").exists(), pgdata.join("standby.signal").exists()),
        }
    }
}

/// The process that `postmaster.pid` names, with the time of its start.
fn postmaster(pgdata: &Path) -> Option<String> {
    let text = std::fs::read_to_string(pgdata.join("postmaster.pid")).ok()?;
    let mut lines = text.lines();
    Some(format!("{} {}", lines.next()?, lines.nth(1).unwrap_or_default()))
}
