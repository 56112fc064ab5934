//! The working directory of one drill. All files of the drill lie in it, and it is removed at the
//! end. The drill holds a lock on it, which the kernel releases when the process ends, so a
//! directory without a lock is an orphan.

use super::log::ServerLogFile;
use crate::error::{Doing, Error, Kind, Result};
use crate::progress;
use crate::repo::DRILL_MARKER;
use crate::repo::lock::Lock;
use rustix::process::{Pid, PidfdFlags, Signal};
use std::ffi::OsStr;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// File in a working directory that the user wanted to keep.
const KEEP_MARKER: &str = "walkeep.kept";

/// Time that an orphaned server has to end after each signal.
const STOP_TIMEOUT: Duration = Duration::from_secs(20);

/// Interval at which the state of an orphaned server is checked.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// Path of the server's socket in a working directory.
const SOCKET: &str = "socket/.s.PGSQL.5432";

/// Maximum length of a socket's path: `sun_path` has 108 bytes, the last of which is zero.
const MAX_SOCKET_PATH: usize = 107;

/// Time in which a drill writes the marker after it has locked its directory.
const MARKER_TIMEOUT: Duration = Duration::from_secs(2);

/// Identity of a drilled cluster. Clusters of the same name in two configurations have different
/// ones, and their drills may run at once.
#[derive(Debug, Clone, Copy)]
pub struct DrillIdentity<'a> {
    /// Name of the cluster, which the name of the directory contains.
    pub cluster: &'a str,
    pub system_identifier: u64,
    pub pgdata: &'a Path,
}

impl DrillIdentity<'_> {
    /// Last line of the marker.
    fn line(&self) -> String {
        format!("cluster {} at {}\n", self.system_identifier, self.pgdata.display())
    }
}

/// Working directory of a drill; dropping it removes it.
pub struct Workdir {
    path: PathBuf,
    lock: Option<Lock>,
    kept: bool,
    log: Arc<ServerLogFile>,
}

impl Workdir {
    /// Makes a working directory in `directory`. Its name contains the cluster, so that other
    /// drills of the cluster find it.
    pub fn make(directory: &Path, identity: DrillIdentity<'_>, random: &str) -> Result<Workdir> {
        let path = directory.join(format!("{}{random}", prefix(identity.cluster)));
        if path.join(SOCKET).as_os_str().len() > MAX_SOCKET_PATH {
            let directory = directory.display();
            return Err(Error::new(Kind::Config, format!("the path of a socket in {directory} is too long"))
                .hint(
                    "choose a directory with a shorter path: `directory` in [drill] of the configuration",
                ));
        }
        make_dir(&path)?;
        let lock = Lock::wait_for(&path, Duration::ZERO)?;
        let log = Arc::new(ServerLogFile::new(path.join("server.log")));
        let workdir = Workdir { path, lock: Some(lock), kept: false, log };
        let text = "a drill of walkeep works here; the next one removes this directory\n";
        workdir.write(DRILL_MARKER, &format!("{text}{}", identity.line()))?;
        for name in ["etc", "socket", "tablespaces"] {
            make_dir(&workdir.join(name))?;
        }
        Ok(workdir)
    }

    /// Path of a file in the directory.
    pub fn join(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Path of the directory itself.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Log of the servers that run in the directory.
    pub fn log(&self) -> &Arc<ServerLogFile> {
        &self.log
    }

    /// Writes a file and returns its path.
    pub fn write(&self, name: &str, text: &str) -> Result<PathBuf> {
        let path = self.path.join(name);
        std::fs::write(&path, text).doing(|| format!("write {}", path.display()))?;
        Ok(path)
    }

    /// Changes the owner of everything but the data directory to the user of the server.
    pub fn chown(&self, user: u32, group: u32) -> Result<()> {
        let own = ["", DRILL_MARKER, "etc", "socket", "tablespaces"];
        let files = ["etc/postgresql.conf", "etc/pg_hba.conf", "etc/pg_ident.conf"];
        for name in own.into_iter().chain(files) {
            let path = self.path.join(name);
            std::os::unix::fs::lchown(&path, Some(user), Some(group))
                .doing(|| format!("change the owner of {}", path.display()))?;
        }
        Ok(())
    }

    /// Marks the directory as kept: neither this drill nor a later one removes it.
    pub fn keep(&mut self) -> Result<()> {
        self.write(
            KEEP_MARKER,
            "kept by `walkeep drill --keep`; remove this directory when it is no longer needed\n",
        )?;
        self.kept = true;
        Ok(())
    }

    /// Removes the directory unless it is kept.
    pub fn remove(mut self) -> Result<()> {
        if self.kept {
            return Ok(());
        }
        self.kept = true;
        remove(&self.path)
    }
}

impl Drop for Workdir {
    fn drop(&mut self) {
        if !self.kept {
            // The drill has already failed, and its error is reported; the next drill tries again.
            let _ = remove(&self.path);
        }
        self.lock = None;
    }
}

/// Name of the working directories of a cluster's drills, without the random digits at their end.
fn prefix(cluster: &str) -> String {
    format!("walkeep-drill-{cluster}-")
}

fn make_dir(path: &Path) -> Result<()> {
    std::fs::DirBuilder::new()
        .mode(0o700)
        .create(path)
        .doing(|| format!("create directory {}", path.display()))
}

fn remove(path: &Path) -> Result<()> {
    match std::fs::remove_dir_all(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
        removed => removed.doing(|| format!("remove {}", path.display())),
    }
}

/// Stops the servers and removes the directories that killed drills of clusters of this name left.
///
/// # Errors
/// [`Kind::Locked`] when another drill of this cluster still runs after `patience`.
pub fn sweep(directory: &Path, identity: DrillIdentity<'_>, patience: Duration) -> Result<()> {
    let begun = Instant::now();
    let prefix = prefix(identity.cluster);
    let entries = match std::fs::read_dir(directory) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        entries => entries.doing(|| format!("look at {}", directory.display()))?,
    };
    for entry in entries {
        let entry = entry.doing(|| format!("look at {}", directory.display()))?;
        let name = entry.file_name();
        let random = name.to_str().and_then(|name| name.strip_prefix(&prefix));
        let is_workdir = random
            .is_some_and(|random| !random.is_empty() && random.bytes().all(|byte| byte.is_ascii_hexdigit()));
        if !is_workdir {
            continue;
        }
        let path = entry.path();
        if let Err(error) = clear(&path, identity, patience.saturating_sub(begun.elapsed())) {
            match error.kind() {
                Kind::Locked => {
                    return Err(Error::new(Kind::Locked, "another drill of this cluster runs")
                        .doing(format!("look at {}", path.display()))
                        .hint("wait for it to end, or use --wait"));
                }
                _ => progress::warn(&error.doing("remove what an earlier drill left")),
            }
        }
    }
    Ok(())
}

/// Removes one directory that has the name of a working directory, unless it is kept, or no drill
/// made it, or the drill of another cluster runs in it.
fn clear(path: &Path, identity: DrillIdentity<'_>, patience: Duration) -> Result<()> {
    let meta = path.symlink_metadata().doing(|| format!("look at {}", path.display()))?;
    let own = nix::unistd::geteuid();
    if !meta.is_dir() || !(own.is_root() || meta.uid() == own.as_raw()) {
        return Ok(());
    }
    let keep_marker = path.join(KEEP_MARKER);
    if keep_marker.try_exists().doing(|| format!("look at {}", keep_marker.display()))? {
        return Ok(());
    }
    let lock = match Lock::wait_for(path, Duration::ZERO) {
        Err(error) if error.kind() == Kind::Locked => {
            if is_of_another(path, identity)? {
                return Ok(());
            }
            Lock::wait_for(path, patience)
        }
        lock => lock,
    };
    let _lock = match lock {
        Err(error) if error.kind() == Kind::Absent => return Ok(()),
        lock => lock?,
    };
    let mut entries = match std::fs::read_dir(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        entries => entries.doing(|| format!("look at {}", path.display()))?,
    };
    // A drill that was killed before its first step has left an empty directory.
    if entries.next().is_some() && !path.join(DRILL_MARKER).is_file() {
        return Ok(());
    }
    stop_orphan(path, meta.uid())?;
    remove(path)?;
    tracing::info!("removed {}, which an earlier drill left", path.display());
    Ok(())
}

/// Whether the drill that holds the lock of a directory is one of another cluster. A drill that has
/// not yet written its marker counts as one of the same cluster after [`MARKER_TIMEOUT`].
fn is_of_another(path: &Path, identity: DrillIdentity<'_>) -> Result<bool> {
    let begun = Instant::now();
    let marker = path.join(DRILL_MARKER);
    loop {
        match std::fs::read_to_string(&marker) {
            Ok(text) if text.ends_with('\n') && text.lines().count() > 1 => {
                return Ok(!text.ends_with(&identity.line()));
            }
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                return Err(Error::from_io(format!("read {}", marker.display()), e));
            }
            _ if begun.elapsed() > MARKER_TIMEOUT => return Ok(false),
            _ => std::thread::sleep(POLL_INTERVAL),
        }
    }
}

/// Stops the server of a killed drill: the process that the `postmaster.pid` of the working
/// directory names *and* that runs there as the owner of the directory. Any other process with that
/// id is left alone.
fn stop_orphan(path: &Path, owner: u32) -> Result<()> {
    let data = path.join("data");
    let pid_file = data.join("postmaster.pid");
    let text = match std::fs::read_to_string(&pid_file) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        text => text.doing(|| format!("read {}", pid_file.display()))?,
    };
    let Some(pid) = text.lines().next().and_then(|line| line.trim().parse().ok()).and_then(Pid::from_raw)
    else {
        return Ok(());
    };
    // Open while the process is identified, so that the id cannot be reused for another one
    // meanwhile.
    let Ok(process) = rustix::process::pidfd_open(pid, PidfdFlags::empty()) else {
        return Ok(());
    };
    let runs_here = || {
        let proc = PathBuf::from(format!("/proc/{}", pid.as_raw_nonzero()));
        let cwd = std::fs::read_link(proc.join("cwd")).ok();
        let is_here = cwd.zip(std::fs::canonicalize(&data).ok()).is_some_and(|(cwd, data)| cwd == data);
        let is_owned = proc.metadata().is_ok_and(|meta| meta.uid() == owner);
        let is_postgres = std::fs::read_link(proc.join("exe"))
            .is_ok_and(|exe| exe.file_name().is_some_and(|name| name == OsStr::new("postgres")));
        is_here && is_owned && is_postgres
    };
    for signal in [Signal::QUIT, Signal::KILL] {
        if !runs_here() {
            return Ok(());
        }
        let _ = rustix::process::pidfd_send_signal(&process, signal);
        let sent = Instant::now();
        while runs_here() && sent.elapsed() < STOP_TIMEOUT {
            std::thread::sleep(POLL_INTERVAL);
        }
    }
    if runs_here() {
        let pid = pid.as_raw_nonzero();
        return Err(Error::new(Kind::Failed, format!("its server, process {pid}, does not end")));
    }
    Ok(())
}
