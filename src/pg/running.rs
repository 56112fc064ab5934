//! Servers that run on a data directory: their lock file, and the processes of this host. Does not
//! connect to a server.
//!
//! Every process of a server works in its data directory (`ChangeToDataDir` in PostgreSQL's
//! `miscinit.c`), so a server is found without its lock file too. A process of another user shows
//! its directory only to root.

use super::control::Control;
use crate::error::{Error, Kind, Result};
use crate::fs::named;
use rustix::fs::{FileType, Stat};
use std::path::{Path, PathBuf};

/// Name of the lock file of a data directory.
pub const LOCK_FILE: &str = "postmaster.pid";

/// Maximum size in bytes of a lock file, and of a file of the kernel about a process.
const MAX_SIZE: u64 = 64 << 10;

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
        // The path of the data directory need not be UTF-8.
        let text = named::read(&path, MAX_SIZE)?.map(|text| String::from_utf8_lossy(&text).into_owned());
        let lines = |text: String| text.lines().map(|line| line.trim().to_owned()).collect();
        Ok(text.map(|text| LockFile { lines: lines(text) }))
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
            Some(pid) if named::stat(Path::new(&format!("/proc/{pid}")))?.is_some() => {
                format!("postmaster.pid names process {pid}, which runs")
            }
            Some(pid) => format!("postmaster.pid names process {pid}, which has ended"),
            None => "it has a postmaster.pid".to_owned(),
        }));
    }
    let Some(directory) = named::stat(pgdata)? else {
        return Ok(None);
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
    if let Ok(Some(name)) = named::read_text(Path::new(&format!("/proc/{pid}/comm")), MAX_SIZE) {
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
    let is_file = |path: &Path| matches!(named::kind_at(path), Ok(Some(FileType::RegularFile)));
    is_file(&path.join("PG_VERSION")) && is_file(&Control::path(path))
}

/// Process of a server.
struct ServerProcess {
    pid: String,
    /// Path of its working directory.
    directory: PathBuf,
}

impl ServerProcess {
    fn works_in(&self, directory: &Stat) -> bool {
        // The link leads to the directory itself, whatever its path is called by now.
        let cwd = named::stat(Path::new(&format!("/proc/{}/cwd", self.pid))).ok().flatten();
        cwd.is_some_and(|cwd| (cwd.st_dev, cwd.st_ino) == (directory.st_dev, directory.st_ino))
    }
}

/// Iterates over the processes of servers whose working directory is visible.
fn servers() -> impl Iterator<Item = ServerProcess> {
    let processes = named::list(Path::new("/proc")).ok().flatten().unwrap_or_default();
    processes.into_iter().filter_map(|(pid, _)| {
        let pid = pid.into_string().ok().filter(|pid| pid.bytes().all(|byte| byte.is_ascii_digit()))?;
        let process = Path::new("/proc").join(&pid);
        let name = named::read_text(&process.join("comm"), MAX_SIZE).ok()??;
        let is_server = name.trim().contains("postgres");
        let directory = is_server.then(|| named::link_target(&process.join("cwd")).ok())???;
        Some(ServerProcess { pid, directory })
    })
}
