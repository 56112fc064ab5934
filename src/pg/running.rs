//! Servers that run on a data directory: their lock file, and the processes of this host. Does not
//! connect to a server.
//!
//! Every process of a server works in its data directory (`ChangeToDataDir` in PostgreSQL's
//! `miscinit.c`), so a server is found without its lock file too. A process of another user shows
//! its directory only to root.

use super::control::Control;
use crate::error::{Doing, Error, Kind, Result};
use std::fs::Metadata;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Name of the lock file of a data directory.
pub const LOCK_FILE: &str = "postmaster.pid";

/// Maximum number of processes that an error names.
const MAX_NAMED: usize = 3;

/// Content of a `postmaster.pid`. A server adds lines while it starts, so later lines may be empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LockFile {
    lines: Vec<String>,
}

impl LockFile {
    /// Reads the lock file of a data directory; `None` when it does not exist.
    ///
    /// # Errors
    ///
    /// Those of the operating system.
    pub fn read(pgdata: &Path) -> Result<Option<LockFile>> {
        let path = pgdata.join(LOCK_FILE);
        match std::fs::read(&path) {
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
            text => {
                // The path of the data directory need not be UTF-8.
                let text = text.doing(|| format!("read {}", path.display()))?;
                let text = String::from_utf8_lossy(&text);
                Ok(Some(LockFile { lines: text.lines().map(|line| line.trim().to_owned()).collect() }))
            }
        }
    }

    fn line(&self, number: usize) -> &str {
        self.lines.get(number).map_or("", String::as_str)
    }

    /// Process id of the server.
    pub fn pid(&self) -> Option<u32> {
        // A single-user server has a negative id (`CreateLockFile` in PostgreSQL's miscinit.c).
        self.line(0).trim_start_matches('-').parse().ok()
    }

    /// Time of the start, in seconds since 1970, as the server wrote it.
    pub fn started(&self) -> &str {
        self.line(2)
    }

    pub fn port(&self) -> &str {
        self.line(3)
    }

    /// First directory of its sockets; empty without any.
    pub fn socket_directory(&self) -> &str {
        self.line(4)
    }

    /// State such as `starting`, `standby` or `ready`.
    pub fn status(&self) -> &str {
        self.line(7)
    }
}

/// Refuses a data directory that a server runs on, or on which a server was killed.
///
/// # Errors
///
/// `Refused`, and those of the operating system.
pub fn refuse_running(pgdata: &Path) -> Result<()> {
    let Some(reason) = running_reason(pgdata)? else {
        return Ok(());
    };
    let what =
        format!("{} is the data directory of a server that is running, or was killed", pgdata.display());
    Err(Error::new(Kind::Refused, format!("{what}: {reason}")).hint(
        "stop the server, and restore into another directory, or over this one with --delta; if it was killed, make sure that none of its processes is left and remove postmaster.pid",
    ))
}

/// Returns the reason why a server may run on a data directory; `None` when none does.
///
/// # Errors
///
/// Those of the operating system.
pub fn running_reason(pgdata: &Path) -> Result<Option<String>> {
    if let Some(lock) = LockFile::read(pgdata)? {
        return Ok(Some(match lock.pid() {
            Some(pid) if Path::new(&format!("/proc/{pid}")).exists() => {
                format!("postmaster.pid names process {pid}, which runs")
            }
            Some(pid) => format!("postmaster.pid names process {pid}, which has ended"),
            None => "it has a postmaster.pid".to_owned(),
        }));
    }
    let directory = match pgdata.metadata() {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        meta => meta.doing(|| format!("look at {}", pgdata.display()))?,
    };
    let here: Vec<String> = servers()
        .filter(|server| server.works_in(&directory))
        .map(|server| server.pid)
        .take(MAX_NAMED)
        .collect();
    Ok((!here.is_empty()).then(|| {
        format!("it has no postmaster.pid, but postgres processes work there ({})", here.join(", "))
    }))
}

/// Whether the process in the lock file of a data directory exists and is a server, as far as
/// `/proc` shows it.
pub fn has_postmaster(pgdata: &Path) -> bool {
    let lock = LockFile::read(pgdata).ok().flatten();
    let Some(pid) = lock.and_then(|lock| lock.pid()) else {
        return false;
    };
    if let Ok(name) = std::fs::read_to_string(format!("/proc/{pid}/comm")) {
        return ["postgres", "postmaster"].iter().any(|program| name.contains(program));
    }
    let pid = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw);
    // `/proc` may hide processes of other users.
    pid.is_some_and(|pid| rustix::process::test_kill_process(pid) != Err(rustix::io::Errno::SRCH))
}

/// Returns the data directories of the servers of this host whose directory is visible.
pub fn data_directories() -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = servers().map(|server| server.directory).collect();
    found.sort();
    found.dedup();
    found
}

/// Whether a directory is the data directory of a cluster, whatever its state.
pub fn is_data_directory(path: &Path) -> bool {
    path.join("PG_VERSION").is_file() && Control::path(path).is_file()
}

/// Process of a server.
struct ServerProcess {
    pid: String,
    /// Path of its working directory.
    directory: PathBuf,
}

impl ServerProcess {
    fn works_in(&self, directory: &Metadata) -> bool {
        // The link leads to the directory itself, whatever its path is called by now.
        let cwd = std::fs::metadata(format!("/proc/{}/cwd", self.pid));
        cwd.is_ok_and(|cwd| (cwd.dev(), cwd.ino()) == (directory.dev(), directory.ino()))
    }
}

/// Iterates over the processes of servers whose working directory is visible.
fn servers() -> impl Iterator<Item = ServerProcess> {
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    processes.filter_map(|entry| {
        let pid = entry.file_name().to_str()?.to_owned();
        let name = std::fs::read_to_string(entry.path().join("comm")).ok()?;
        let is_server = pid.bytes().all(|byte| byte.is_ascii_digit()) && name.trim().contains("postgres");
        let directory = is_server.then(|| std::fs::read_link(entry.path().join("cwd")).ok())??;
        Some(ServerProcess { pid, directory })
    })
}
